"""What a run is, as the API of executions shows it: running, pending, ended; or paused, and by what."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC
from itertools import batched
from typing import Any

from azure.durable_functions import DurableFunctionsClient
from durabletask.client import OrchestrationState, OrchestrationStatus

from contracts.base import as_utc_text, path_to
from contracts.execution import Execution, Status
from contracts.human_step import PauseStanding, Progress
from contracts.pause_state import PauseState, Run
from contracts.records import Wait
from errors import NotFound
from services import paused, pausing, waits
from services.record_store import get_record_store
from services.states import ENDED, head_of, progress_of, value_of
from settings import get_settings
from triggers.windows import WORKFLOWS

OUTSIDE = "Suspended outside of the app"
"""Why a run is paused that somebody has suspended in a dashboard, or over the management API."""

AT_ONCE = 25
"""Of how many runs the task hub is asked at a time."""
_BEFORE = ("resume_data", "resume_count", "last_resumed_at", "resumed_by", "pause_count")
"""What a run says of the pauses that it had."""

_STATUSES: dict[OrchestrationStatus, Status] = {
    OrchestrationStatus.COMPLETED: "completed",
    OrchestrationStatus.FAILED: "failed",
    OrchestrationStatus.TERMINATED: "cancelled",
    OrchestrationStatus.PENDING: "pending",
}


@dataclass(frozen=True)
class Seen:
    """A run, and what the entity ``pause`` keeps: of this run, and how many pauses the instance id had.

    ``progress`` is what the run says of itself, None before it said anything that can be understood. ``child`` is what
    a declared workflow has called at its step, where that waits for people.
    """

    state: OrchestrationState
    run: Run
    progress: Progress | None
    kept: PauseState | None
    pauses: int
    child: "Seen | None" = None

    @property
    def has_ended(self) -> bool:
        """Whether the run has come to its end."""
        return self.state.runtime_status in ENDED

    @property
    def by_hand(self) -> PauseState | None:
        """The pause by hand that is under way, if there is one."""
        return self.kept if self.kept is not None and self.kept.is_paused and not self.has_ended else None

    @property
    def is_outside(self) -> bool:
        """Whether it was suspended past the app, in which nobody has paused it."""
        is_suspended = self.state.runtime_status is OrchestrationStatus.SUSPENDED
        is_ours = self.kept is not None and (self.kept.is_paused or not self.kept.applied)
        return is_suspended and not is_ours and not self.is_behind

    @property
    def is_behind(self) -> bool:
        """Whether it stands still for a pause that has ended: who decided on it told the run of it too late."""
        return self._is_own_pause and self.kept is not None and not self.kept.is_paused and not self.has_ended

    @property
    def _is_own_pause(self) -> bool:
        """Whether the pause that it says it is in is its own; else that of the run that has called it."""
        standing = self.progress.pause if self.progress is not None else None
        if standing is None or not standing.paused or self.kept is None:
            return False
        own = self.kept.number, as_utc_text(self.kept.pause.at)
        return (standing.number, as_utc_text(standing.at)) == own

    @property
    def held(self) -> PauseStanding | None:
        """The pause of the run that has called this one, if it stands still with that."""
        standing = self.progress.pause if self.progress is not None and not self.has_ended else None
        if standing is None or not standing.paused:
            return None
        return None if self._is_own_pause else standing

    @property
    def waits(self) -> bool:
        """Whether it waits for people itself."""
        return not self.has_ended and self.progress is not None and self.progress.wait is not None

    @property
    def waiting(self) -> "Seen | None":
        """The run that waits for people: it, or what it has called; None where nobody is waited for."""
        return self if self.waits else self.child


async def see(client: DurableFunctionsClient, instance_id: str) -> Seen:
    """Return what a run is now. Raises ``NotFound`` when there is none, or none of a workflow of the app."""
    # The entity first: what it decided is applied to the run afterwards.
    kept = await pausing.look(client, instance_id)
    state = await client.get_orchestration_state(instance_id)
    if state is None or state.name not in WORKFLOWS:
        raise NotFound(f"There is no execution with the id '{instance_id}'.")
    return await _with_child(client, _seen(state, kept))


async def see_all(client: DurableFunctionsClient, states: Sequence[OrchestrationState]) -> list[Seen]:
    """Return what runs are whose states are known; the entity is asked of those alone that may have been paused."""

    async def one(state: OrchestrationState) -> Seen:
        progress = _progress(state)
        was_paused = progress is not None and progress.pause is not None
        if was_paused or state.runtime_status is OrchestrationStatus.SUSPENDED:
            return await _with_child(client, _seen(state, await pausing.look(client, state.instance_id)))
        return await _with_child(client, _seen(state, None))

    return await asyncio.gather(*(one(state) for state in states))


async def with_pauses_before(client: DurableFunctionsClient, listed: Sequence[Execution]) -> list[Execution]:
    """Return a page of the list of what is paused, in which those that wait for people say where they stand, and what
    they were resumed with before: of that their waits know nothing."""

    async def one(execution: Execution) -> Execution:
        if execution.paused_by is not None:
            return execution
        kept, state = await asyncio.gather(
            pausing.look(client, execution.id), client.get_orchestration_state(execution.id)
        )
        progress = _progress(state) if state is not None else None
        if state is None or progress is None or not _is_of(execution, progress):
            return execution  # it is gone, or its id stands for another run
        before = _seen(state, kept).kept if kept is not None and state.name in WORKFLOWS else None
        said = {each: getattr(before.execution("paused", None), each) for each in _BEFORE} if before else {}
        return execution.model_copy(update={**said, **_where(progress)})

    found: list[Execution] = []
    for some in batched(listed, AT_ONCE, strict=False):
        found += await asyncio.gather(*map(one, some))
    return found


async def show(seen: Seen) -> Execution:
    """Return a run as the API shows it."""
    is_needed = seen.waiting is not None and seen.by_hand is None
    wait = await asyncio.to_thread(_open_wait, seen.waiting) if is_needed and seen.waiting is not None else None
    return _shown(seen, wait)


def plain(execution: Execution) -> dict[str, Any]:
    """Return the JSON object of a run, with the address where people find it."""
    shown = execution.plain()
    path = shown.pop("path")
    return {**shown, "url": get_settings().base_url + path}


def _seen(state: OrchestrationState, kept: PauseState | None) -> Seen:
    head = head_of(state)
    run = Run(
        instance_id=state.instance_id,
        created_at=state.created_at.replace(tzinfo=UTC),
        stamp=head.run if head is not None else None,
        workflow=state.name,
        workflow_id=_workflow_id(state),
        path=path_to(WORKFLOWS[state.name], state.instance_id),
    )
    is_this_run = kept is not None and kept.is_of(run)
    return Seen(state, run, _progress(state), kept if is_this_run else None, kept.number if kept is not None else 0)


async def _with_child(client: DurableFunctionsClient, seen: Seen) -> Seen:
    """Return a run with what it has called at its step, if that waits for people."""
    called = (seen.progress.data or {}).get("child") if seen.progress is not None else None
    if seen.run.workflow != paused.DECLARED or seen.has_ended or not isinstance(called, str):
        return seen
    state = await client.get_orchestration_state(called)
    child = _seen(state, None) if state is not None and state.name in WORKFLOWS else None
    return replace(seen, child=child) if child is not None and child.waits else seen


def _workflow_id(state: OrchestrationState) -> str:
    """The name of the workflow; a declared one has its own, which stands in the input of its runs."""
    given = value_of(state.serialized_input) if state.name == paused.DECLARED else None
    name = given.get("workflow") if isinstance(given, dict) else None
    return name if isinstance(name, str) else state.name


def _progress(state: OrchestrationState) -> Progress | None:
    try:
        return progress_of(state)
    except ValueError:
        return None


def _shown(seen: Seen, wait: Wait | None) -> Execution:
    by_hand = seen.by_hand
    said = {} if by_hand is not None else _other_pause(seen, wait)
    status: Status = _STATUSES.get(seen.state.runtime_status, "running")
    if by_hand is not None or said:
        status = "paused"
    if seen.kept is not None:
        pause = by_hand.pause if by_hand is not None else None
        return seen.kept.execution(status, pause).model_copy(update=said)
    run = seen.run
    return Execution(
        id=run.instance_id,
        execution_id=run.instance_id,
        workflow_id=run.workflow_id,
        workflow=run.workflow,
        status=status,
        created_at=run.created_at,
        path=run.path,
    ).model_copy(update=said)


def _other_pause(seen: Seen, wait: Wait | None) -> dict[str, Any]:
    """Why a run is paused that nobody has paused by hand; empty when it is not."""
    if seen.has_ended:
        return {}
    at = _where(seen.progress)
    if seen.is_outside:
        return {**at, "paused_at": seen.state.last_updated_at.replace(tzinfo=UTC), "paused_reason": OUTSIDE}
    if seen.held is not None:
        return {**at, "paused_at": seen.held.at, "paused_reason": seen.held.reason, "paused_by": seen.held.by}
    if seen.waiting is None:
        return {}
    if wait is not None:
        return {**at, "paused_at": wait.since, "paused_reason": paused.of_wait(wait).paused_reason}
    return {**at, "paused_reason": paused.reason_of(seen.waiting.run.workflow)}


def _is_of(execution: Execution, progress: Progress) -> bool:
    """Whether a run is the one that is listed, which its wait knows by when it began."""
    created = execution.created_at
    return progress.trail is not None and created is not None and f"{created:%Y%m%dT%H%M%S%f}Z" == progress.trail.run


def _where(progress: Progress | None) -> dict[str, Any]:
    return {"paused_step_id": step_of(progress), "next_step_id": progress and progress.next_step}


def step_of(progress: Progress | None) -> str | None:
    """Where a run stands: its step, or what it calls that in one word."""
    return None if progress is None else progress.step or progress.phase


def _open_wait(seen: Seen) -> Wait | None:
    assert seen.progress is not None
    for wait, _ in waits.of_instance(get_record_store(), seen.run.instance_id):
        if wait.run == seen.run.stamp and wait.number == seen.progress.wait:
            return wait
    return None
