"""A timer trigger that holds the open waits, and the list of what is paused, against the instances.

Waits are written by activities, at least once and soon, so that there is little to heal: runs that were terminated or
that failed leave their waits open, and sign-ups that were terminated what is personal; a store that was restored from a
backup lacks what came later.
"""

import asyncio
import logging
from datetime import UTC

import azure.functions as func
from azure.durable_functions import DurableFunctionsClient
from durabletask.client import OrchestrationQuery, OrchestrationState, OrchestrationStatus

from contracts.base import one_line, path_to
from contracts.human_step import Progress
from contracts.records import RecordBatch, Wait
from orchestrators.approval import approval
from orchestrators.guarded_call import guarded_call
from orchestrators.signup import signup
from services import clock, documents, outbox, paused, shown, signup_erasure, waits
from services.record_store import RecordStore, get_record_store
from services.records import put_on_record
from services.states import value_of
from triggers.instances import ENDED, progress_of, run_of
from triggers.listing import finish_unlisted, heal_paused, list_suspended
from triggers.verifying import batches, note_end
from triggers.windows import WORKFLOWS, look_through_instances, look_through_rows, look_through_waits, told

_HEALED = ("closed", "opened", "reopened", "terminated", "listed", "unlisted", "finished")
_GOING = [OrchestrationStatus.RUNNING, OrchestrationStatus.SUSPENDED]
_LOGGER = logging.getLogger(__name__)


async def reconcile_records(timer: func.TimerRequest, client: DurableFunctionsClient) -> None:  # noqa: ARG001
    """Close the waits whose runs no longer wait, and open those that are missing; count what was healed.

    In the same way what is no longer paused is taken off its list, and what is paused is put on it.
    """
    store = get_record_store()
    counts = await look_through_waits(client, store, _heal_wait)
    counts += await look_through_rows(client, store, "paused", paused.window, heal_paused)
    query = OrchestrationQuery(runtime_status=_GOING)
    counts += await look_through_instances(client, store, "reconcile", query, _heal_instance)
    healed = sum(count for outcome, count in counts.items() if outcome in _HEALED)
    _LOGGER.log(logging.WARNING if healed else logging.INFO, "Reconciled the records: %s", told(counts))


async def _heal_wait(client: DurableFunctionsClient, store: RecordStore, wait: Wait) -> str:
    """Close a wait whose run does not wait any more, or is gone, and note its end if it could not do so itself."""
    state = await client.get_orchestration_state(wait.instance_id)
    if state is not None and await _is_left_behind(client, state):
        await client.terminate_orchestration(wait.instance_id, output="The run that it was a step of has ended.")
        return "terminated"  # what it leaves open is closed the next time
    progress = _progress(state)
    if state is not None and state.runtime_status not in ENDED:
        if progress is None:
            return "unchanged"
        if run_of(state) == wait.run and (_open_wait(progress) == wait.number or _is_going_on(progress)):
            return "unchanged"
    if wait.kind == signup.__name__:
        await asyncio.to_thread(_erase_signup, store, wait, state)
    if state is None or run_of(state) != wait.run:
        await asyncio.to_thread(note_end, store, wait.instance_id, wait.run, "gone", clock.now())
        if state is None:
            await asyncio.to_thread(shown.forget, store, wait.instance_id)
            await asyncio.to_thread(documents.forget, store, wait.instance_id)
    elif state.runtime_status in ENDED:
        how, at = state.runtime_status.name.lower(), state.last_updated_at.replace(tzinfo=UTC)
        await asyncio.to_thread(note_end, store, wait.instance_id, wait.run, how, at)
    await asyncio.to_thread(store.write, waits.closed(wait))
    return "closed"


def _erase_signup(store: RecordStore, wait: Wait, state: OrchestrationState | None) -> None:
    """Erase what is personal of a sign-up that nobody verified and somebody terminated: it could not do so itself.

    Where the run is gone, or its id was used again, its mails are all that is left. One that failed may be rewound.
    """
    progress = _progress(state)
    is_verified = progress is not None and progress.signup is not None and progress.signup.verified_at is not None
    if state is None or run_of(state) != wait.run:
        outbox.erase(wait.instance_id, wait.run)
    elif state.runtime_status is OrchestrationStatus.TERMINATED and not is_verified:
        signup_erasure.erase(store, wait.instance_id, wait.run)


async def _is_left_behind(client: DurableFunctionsClient, state: OrchestrationState) -> bool:
    """Whether a call or an approval waits as a step of a run that has ended: somebody terminated that one alone."""
    given = value_of(state.serialized_input)
    is_called = state.name in (guarded_call.__name__, approval.__name__) and isinstance(given, dict)
    part_of = given.get("part_of") or (given.get("at_step") or {}).get("instance_id") if is_called else None
    if not isinstance(part_of, str) or state.runtime_status in ENDED:
        return False
    parent = await client.get_orchestration_state(part_of)
    return parent is not None and parent.runtime_status in ENDED


async def _heal_instance(client: DurableFunctionsClient, store: RecordStore, state: OrchestrationState) -> str:
    """List a run that is paused, have one go on whose pause has ended, and open the wait of one that waits, where the
    store has none."""
    if state.runtime_status is OrchestrationStatus.SUSPENDED and await list_suspended(client, store, state):
        return "listed"
    if await finish_unlisted(client, store, state):
        return "finished"
    return await _open_missing(client, store, state)


async def _open_missing(client: DurableFunctionsClient, store: RecordStore, state: OrchestrationState) -> str:
    if await _is_in_order(store, state):
        return "unchanged"
    # The run may have gone on between the look at it and the look at the store.
    again = await client.get_orchestration_state(state.instance_id)
    if again is None or again.runtime_status in ENDED or await _is_in_order(store, again):
        return "unchanged"
    recorded = await batches(client, state.instance_id)
    if not recorded:
        recorded = [RecordBatch(opened=(_wait_from_status(again),))]
    opening = next((batch for batch in recorded for wait in batch.opened if _is_open(again, wait)), None)
    if opening is not None and _is_on_its_way(opening, again):
        return "unchanged"
    for batch in recorded:
        await asyncio.to_thread(put_on_record, store, batch)
    if await _is_in_order(store, again):
        return "opened"
    for wait in (wait for batch in recorded for wait in batch.opened if _is_open(again, wait)):
        await asyncio.to_thread(store.write, waits.reopened(wait))
        # The run may have closed it just before; whether it does so later is seen in its status now.
        latest = await client.get_orchestration_state(state.instance_id)
        if latest is None or latest.runtime_status in ENDED or not _is_open(latest, wait):
            await asyncio.to_thread(store.write, waits.closed(wait))
            return "unchanged"
    return "reopened"


async def _is_in_order(store: RecordStore, state: OrchestrationState) -> bool:
    progress = _progress(state)
    number = _open_wait(progress)
    if progress is None or number is None:
        return True
    run = run_of(state)
    return await asyncio.to_thread(_is_open_and_listed, store, state.instance_id, run, number)


def _is_open_and_listed(store: RecordStore, instance_id: str, run: str, number: int) -> bool:
    return any(
        is_open and (wait.run, wait.number) == (run, number) and waits.is_listed(store, wait)
        for wait, is_open in waits.of_instance(store, instance_id)
    )


def _open_wait(progress: Progress | None) -> int | None:
    """The number of the wait that a run has open. One from before the records waits while it waits for an event."""
    if progress is None:
        return None
    if progress.trail is None:
        return 1 if progress.waiting_for is not None else None
    return progress.wait


def _is_open(state: OrchestrationState, wait: Wait) -> bool:
    return run_of(state) == wait.run and _open_wait(_progress(state)) == wait.number


def _is_going_on(progress: Progress) -> bool:
    """Whether a run that does not wait has something on its way to the store, such as that it waits no longer."""
    return progress.wait is None and progress.trail is not None and progress.trail.stored < progress.trail.entries


def _is_on_its_way(opening: RecordBatch, state: OrchestrationState) -> bool:
    """Whether the run has not heard yet that the batch which opens its wait is in the store."""
    progress = _progress(state)
    if progress is None or progress.trail is None or not opening.entries:
        return False
    return opening.entries[-1].number > progress.trail.stored


def _progress(state: OrchestrationState | None) -> Progress | None:
    try:
        return progress_of(state) if state is not None else None
    except ValueError:
        return None


def _wait_from_status(state: OrchestrationState) -> Wait:
    """What can be said of the wait of a run that has nothing on record."""
    progress = _progress(state)
    return Wait(
        instance_id=state.instance_id,
        run=run_of(state),
        number=_open_wait(progress) or 1,
        kind=state.name,
        title=one_line(f"{state.name.replace('_', ' ')} {state.instance_id}"),
        since=state.created_at.replace(tzinfo=UTC),
        deadline=progress.deadline if progress is not None else None,
        path=path_to(WORKFLOWS[state.name], state.instance_id),
    )
