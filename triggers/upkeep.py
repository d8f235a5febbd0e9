"""Timer triggers that keep the records true, and purge what has ended long ago.

The records are written by activities, at least once and soon, so that there is little to heal: runs that were
terminated or that failed leave their waits open; a store that was restored from a backup lacks what came later.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, timedelta

import azure.functions as func
import grpc
from azure.durable_functions import DurableFunctionsClient
from durabletask.client import OrchestrationQuery, OrchestrationState, OrchestrationStatus

from contracts.audit import TrailHead
from contracts.base import path_to
from contracts.human_step import Progress
from contracts.records import RecordBatch, Wait
from orchestrators.approval import approval
from orchestrators.purchase_order import purchase_order
from services import clock, trail, waits
from services.record_store import Change, RecordStore, get_record_store
from services.records import put_on_record
from services.trail import Kept
from settings import get_settings
from triggers.instances import ENDED, page_of, progress_of, run_of
from triggers.verifying import batches, verified

WORKFLOWS = {approval.__name__: "/api/requests/{}", purchase_order.__name__: "/status/{}"}
"""The workflows, and where in the app people find their instances."""

WINDOW = 100
WINDOWS = 50
"""How many rows or instances are looked at at a time, and how often in one run; the next run goes on from there."""
AT_ONCE = 10

_GOING = [OrchestrationStatus.RUNNING, OrchestrationStatus.SUSPENDED]
_LOGGER = logging.getLogger(__name__)

type Look[Item] = Callable[[DurableFunctionsClient, RecordStore, Item], Awaitable[str]]


async def reconcile_records(timer: func.TimerRequest, client: DurableFunctionsClient) -> None:  # noqa: ARG001
    """Close the waits whose runs no longer wait, and open those that are missing; count what was healed."""
    store = get_record_store()
    counts = await _look_through_waits(client, store)
    query = OrchestrationQuery(runtime_status=_GOING, max_instance_count=WINDOW, fetch_inputs_and_outputs=True)
    counts += await _look_through_instances(client, store, "reconcile", query, _heal_instance)
    healed = counts["closed"] + counts["opened"] + counts["reopened"]
    _LOGGER.log(logging.WARNING if healed else logging.INFO, "Reconciled the records: %s", _told(counts))


async def purge_instances(timer: func.TimerRequest, client: DurableFunctionsClient) -> None:  # noqa: ARG001
    """Purge the instances that ended longer ago than their workflow's retention; their trails stay."""
    shortest = min(_retention(workflow) for workflow in WORKFLOWS)
    query = OrchestrationQuery(
        runtime_status=list(ENDED),
        created_time_to=clock.now() - shortest,
        max_instance_count=WINDOW,
        fetch_inputs_and_outputs=True,
    )
    counts = await _look_through_instances(client, get_record_store(), "purge", query, _purge_when_due)
    _LOGGER.info("Purged instances: %s", _told(counts))


def check_retention() -> None:
    """Raise ``ValueError`` when the retention of a workflow is set that there is not: another one's was meant."""
    unknown = sorted(set(get_settings().retention_days_by_workflow) - set(WORKFLOWS))
    if unknown:
        known = ", ".join(WORKFLOWS)
        raise ValueError(f"RETENTION_DAYS_BY_WORKFLOW names '{unknown[0]}'; the workflows are {known}.")


async def _look_through_waits(client: DurableFunctionsClient, store: RecordStore) -> Counter[str]:
    counts: Counter[str] = Counter()
    start = await asyncio.to_thread(_cursor, store, "waits")
    for _ in range(WINDOWS):
        found, start = await asyncio.to_thread(waits.window, store, start, WINDOW)
        counts += await _each(client, store, found, _heal_wait)
        if start is None:
            break
    await asyncio.to_thread(_keep_cursor, store, "waits", start)
    return counts


async def _look_through_instances(
    client: DurableFunctionsClient,
    store: RecordStore,
    name: str,
    query: OrchestrationQuery,
    look: Look[OrchestrationState],
) -> Counter[str]:
    counts: Counter[str] = Counter()
    continuation = await asyncio.to_thread(_cursor, store, name)
    for _ in range(WINDOWS):
        try:
            found, continuation = await page_of(client, query, continuation)
        except grpc.RpcError:
            # Perhaps it is the cursor that is not understood, which may be from another task hub.
            await asyncio.to_thread(_keep_cursor, store, name, None)
            raise
        counts += await _each(client, store, [each for each in found if each.name in WORKFLOWS], look)
        if continuation is None:
            break
    await asyncio.to_thread(_keep_cursor, store, name, continuation)
    return counts


async def _each[Item](
    client: DurableFunctionsClient, store: RecordStore, items: Sequence[Item], look: Look[Item]
) -> Counter[str]:
    """Look at each item, a few at a time, and count the outcomes. What fails, for whatever reason, stops no other."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(item: Item) -> str:
        async with turns:
            try:
                return await look(client, store, item)
            except Exception:
                _LOGGER.exception("The records of one instance could not be looked at")
                return "failed"

    return Counter(await asyncio.gather(*(one(item) for item in items)))


async def _heal_wait(client: DurableFunctionsClient, store: RecordStore, wait: Wait) -> str:
    """Close a wait whose run does not wait any more, or is gone."""
    state = await client.get_orchestration_state(wait.instance_id)
    progress = _progress(state)
    if state is not None and state.runtime_status not in ENDED:
        if progress is None:
            return "unchanged"
        if run_of(state) == wait.run and (_open_wait(progress) == wait.number or _is_going_on(progress)):
            return "unchanged"
    await asyncio.to_thread(store.write, waits.closed(wait))
    return "closed"


async def _heal_instance(client: DurableFunctionsClient, store: RecordStore, state: OrchestrationState) -> str:
    """Open the wait of a run that waits, where the store has none."""
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
    known = await asyncio.to_thread(waits.of_instance, store, state.instance_id)
    return any(wait.run == run and wait.number == number and is_open for wait, is_open in known)


async def _purge_when_due(client: DurableFunctionsClient, store: RecordStore, state: OrchestrationState) -> str:
    """Purge an instance, when it is time, and its trail is whole; with a note that stands in for its history."""
    ended = state.last_updated_at.replace(tzinfo=UTC)
    if ended > clock.now() - _retention(state.name):
        return "kept"
    rows, found, current = await verified(client, store, state.instance_id)
    if found.verdict != "broken" and any(chain.pending for chain in found.chains):
        # It was ended from outside before its last entries were stored; soon nobody knows them any more.
        for batch in await batches(client, state.instance_id):
            await asyncio.to_thread(put_on_record, store, RecordBatch(entries=batch.entries))
        rows, found, current = await verified(client, store, state.instance_id)
    if current is None or current.runtime_status not in ENDED or current.created_at != state.created_at:
        return "kept"  # another run has its id by now
    if found.verdict == "broken":
        _LOGGER.critical(
            "ALARM: the audit trail of %r is broken; the instance is kept, whose history shows what it was",
            state.instance_id,
        )
        return "broken"
    for chain in found.chains:
        if chain.run is not None and chain.anchored_by == "history":
            await asyncio.to_thread(_note_purge, store, current, chain.run, rows.runs.get(chain.run, []))
        elif chain.run == run_of(current):
            return "kept"  # its history could not be read
    # The waits first: what is left of an instance that is gone, nobody would look for.
    await asyncio.to_thread(waits.forget, store, state.instance_id)
    await client.purge_orchestration(state.instance_id)
    return "purged"


def _note_purge(store: RecordStore, state: OrchestrationState, run: str, kept: Sequence[Kept]) -> None:
    """Note how far the chain of the run goes whose history is purged; what became of others of its id is not known."""
    last = kept[-1].entry if kept else None
    if last is None:
        return
    keys, now = get_settings().audit_keys, clock.now()
    anchor = TrailHead(run=run, entries=len(kept), stored=len(kept), head=last.hash)
    if last.action != "ended":
        after = state.runtime_status.name.lower()
        trail.append(
            store, state.instance_id, keys, action="ended", at=now, run=run, after=after, channel="timer", once=True
        )
    trail.append(
        store, state.instance_id, keys, action="purged", at=now, run=run, anchor=anchor, channel="timer", once=True
    )


def _retention(workflow: str) -> timedelta:
    settings = get_settings()
    return timedelta(days=settings.retention_days_by_workflow.get(workflow, settings.retention_days))


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
        title=_line(f"{state.name.replace('_', ' ')} {state.instance_id}"),
        since=state.created_at.replace(tzinfo=UTC),
        deadline=progress.deadline if progress is not None else None,
        path=path_to(WORKFLOWS[state.name], state.instance_id),
    )


def _line(text: str) -> str:
    """Make one line of any text, such as an instance id can be."""
    return "".join(each if each.isprintable() else "\ufffd" for each in text)[:200].strip()


def _cursor(store: RecordStore, name: str) -> str | None:
    row = store.get("cursor", name)
    return row.body or None if row is not None else None


def _keep_cursor(store: RecordStore, name: str, cursor: str | None) -> None:
    store.write([Change("put", "cursor", name, cursor or "")])


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())) or "nothing to look at"
