"""A decision, from the request to the verdict of the run that it concerns."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

import azure.functions as func
import grpc
from azure.durable_functions import DurableFunctionsClient
from durabletask.client import OrchestrationState

from contracts.base import Contract, as_utc_text
from contracts.human_step import Decision, Progress
from errors import AlreadyDecided, CountersignError, NotFound, TooLate, Unprocessable
from services import trail
from services.clock import now
from services.record_store import get_record_store
from services.states import is_paused
from settings import get_settings
from triggers.instances import ENDED, find, progress_of, run_of
from triggers.web import answer

FIRST_POLL = 0.001
LONGEST_POLL = 0.05
SLOWING = 2
"""Seconds between two looks at the run: each pause is longer than the one before, up to the longest."""
MAX_LATE = 100
"""How many late decisions on one run are noted; more are refused all the same."""


@dataclass(frozen=True)
class StandsStill:
    """What is seen of a run that takes nothing before it goes on."""


def stands_still(state: OrchestrationState) -> StandsStill | None:
    """Return that a run is paused, if it is."""
    return StandsStill() if is_paused(state) else None


@dataclass(frozen=True)
class AskedDecision:
    """What a client asks to be decided, and the event that carries it to the run.

    ``decision_id`` finds the verdict on it: the run publishes the decision that it took under that id. ``sent_by`` is
    who sent it on behalf of ``by``.
    """

    approved: bool
    by: str
    comments: str | None
    decision_id: str
    event: str
    payload: Contract
    sent_by: str | None = None

    def is_in(self, taken: Decision) -> bool:
        """Whether the run took this very decision."""
        comments = Decision(approved=self.approved, by=self.by, comments=self.comments, at=taken.at).shortened()
        return (taken.approved, taken.by, taken.comments) == (self.approved, self.by, comments.comments)


@dataclass(frozen=True)
class Late:
    """What came too late, for the audit trail: who said what, by which door, and who sent it, if that is known."""

    by: str
    said: str
    comment: str | None
    channel: Literal["api", "link", "page"]
    payload: dict[str, Any]
    sent_by: str | None = None


async def decide(
    client: DurableFunctionsClient,
    workflow: str,
    instance_id: str,
    asked: AskedDecision,
    *,
    patience: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Decision | None:
    """Raise the event and wait for the run's verdict on it.

    Gives the decision as the run took it, also to whoever repeats the ``decision_id``; or None when the run did not
    come to it within ``patience`` seconds, or, as it is paused, at once. Raises ``NotFound``, ``AlreadyDecided``,
    ``TooLate``, or ``Unprocessable`` when the id came before with another decision.
    """

    # Without nulls, so that what an earlier version knows of is understood by its runs too.
    payload = asked.payload.model_dump(mode="json", exclude_none=True)

    async def look() -> Decision | StandsStill | None:
        state = await find(client, workflow, instance_id)
        try:
            return _verdict(state, asked) or stands_still(state)
        except TooLate:
            said = "approved" if asked.approved else "rejected"
            late = Late(asked.by, said, asked.comments, "api", payload, asked.sent_by)
            await asyncio.to_thread(note_late, state, late)
            raise

    return await hand_over(client, instance_id, asked.event, payload, look, patience=patience, clock=clock, sleep=sleep)


async def hand_over[Verdict](
    client: DurableFunctionsClient,
    instance_id: str,
    event: str,
    payload: dict[str, Any],
    look: Callable[[], Awaitable[Verdict | StandsStill | None]],
    *,
    patience: float,
    clock: Callable[[], float],
    sleep: Callable[[float], Awaitable[None]],
) -> Verdict | None:
    """Raise an event, unless there is a verdict on it by now, and ``look`` for the verdict for ``patience`` seconds.

    ``look`` gives ``StandsStill`` where there will be none before the run goes on; then nothing is waited for.
    """
    verdict = await look()
    if isinstance(verdict, StandsStill):
        verdict = None
    if verdict is not None:
        return verdict
    await _raise(client, instance_id, event, payload)

    give_up, pause = clock() + patience, FIRST_POLL
    while True:
        verdict = await look()
        if isinstance(verdict, StandsStill):
            return None
        if verdict is not None or clock() >= give_up:
            return verdict
        await sleep(pause)
        pause = min(pause * SLOWING, LONGEST_POLL)


async def not_yet(client: DurableFunctionsClient, instance_id: str) -> str:
    """Say that something was handed over that a run has yet to take; and since when, and why, it is paused, if it
    is."""
    state = await client.get_orchestration_state(instance_id)
    if state is None or not is_paused(state):
        return "This was handed over; the run has yet to take it."
    sentence = "This was handed over. The run is paused, and takes it when it goes on."
    progress = progress_of(state)
    pause = progress.pause if progress is not None else None
    if pause is None or not pause.paused:
        return sentence
    why = f": {pause.reason}" if pause.reason else "."
    return f"{sentence} {pause.by} paused it at {as_utc_text(pause.at)}{why}"


async def answer_decision(
    client: DurableFunctionsClient, verdict: Decision | None, instance_id: str, status_url: str, message: str
) -> func.HttpResponse:
    """Answer 200 with the verdict, or 202 with the address that will show it."""
    if verdict is None:
        body = {"instance_id": instance_id, "message": await not_yet(client, instance_id)}
        return answer({**body, "status_url": status_url}, 202, {"Location": status_url})
    return answer(
        {
            "instance_id": instance_id,
            "message": message,
            "outcome": verdict.outcome,
            "decided_by": verdict.by,
            "decided_at": as_utc_text(verdict.at),
            "decision_id": verdict.decision_id,
            "status_url": status_url,
        }
    )


def note_late(state: OrchestrationState, late: Late) -> None:
    """Put a decision on record that came too late, before that is said."""
    trail.append(
        get_record_store(),
        state.instance_id,
        get_settings().audit_keys,
        action="late",
        at=now(),
        run=run_of(state),
        actor=late.sent_by or late.by,
        on_behalf_of=late.by if late.sent_by not in (None, late.by) else None,
        channel=late.channel,
        detail=late.said,
        comment=late.comment,
        payload=late.payload,
        once=True,
        limit=MAX_LATE,
    )


async def _raise(client: DurableFunctionsClient, instance_id: str, event: str, payload: dict[str, Any]) -> None:
    try:
        await client.raise_orchestration_event(instance_id, event, data=payload)
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.NOT_FOUND:
            raise NotFound(f"The instance '{instance_id}' is gone.") from None
        if error.code() != grpc.StatusCode.FAILED_PRECONDITION:
            raise
        # The run ended between the look and the event: the next look says how.


def _verdict(state: OrchestrationState, asked: AskedDecision) -> Decision | None:
    """Return the run's decision when it is the asked one, None while it is open; raise when it is another."""
    progress = progress_of(state)
    taken = progress.decision if progress is not None else None
    if taken is None:
        if state.runtime_status in ENDED:
            raise _ended_without(state, progress)
        return None
    if taken.decision_id != asked.decision_id:
        raise AlreadyDecided(
            f"{taken.by} {taken.outcome} this at {as_utc_text(taken.at)}.",
            decided_by=taken.by,
            decided_at=as_utc_text(taken.at),
            outcome=taken.outcome,
        )
    if not asked.is_in(taken):
        raise Unprocessable("This Idempotency-Key came before with another decision. Use a new one for each.")
    return taken


def _ended_without(state: OrchestrationState, progress: Progress | None) -> CountersignError:
    ended = as_utc_text(state.last_updated_at)
    phase = progress.phase if progress is not None else ""
    if phase == "auto_approved":
        return AlreadyDecided(
            f"This was approved automatically at {ended}.",
            decided_by="(automatic)",
            decided_at=ended,
            outcome="approved",
        )
    if phase == "timed_out" and progress is not None and progress.deadline is not None:
        return TooLate(f"The time to decide was up at {as_utc_text(progress.deadline)}.", ended_at=ended)
    return TooLate(f"The run ended without a decision: {state.runtime_status.name.lower()}.", ended_at=ended)
