"""Verifying the trail of an instance against what the instance itself shows."""

import asyncio
import logging
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

import grpc
from azure.durable_functions import DurableFunctionsClient
from durabletask.client import OrchestrationState, OrchestrationStatus
from durabletask.history import HistoryEvent, TaskCompletedEvent, TaskScheduledEvent
from pydantic import ValidationError

from activities.records import record
from contracts.audit import Channel, Entry, TrailHead
from contracts.records import RecordBatch
from services import clock, trail
from services.record_store import RecordStore
from services.records import put_on_record
from services.states import head_of
from services.trail import Kept, Trail
from services.verification import Verified, verify
from settings import get_settings

LOOKS = 10
"""How often a trail is read anew because another run has the id meanwhile, or none."""
PAUSE = 0.05

_LOGGER = logging.getLogger(__name__)


async def verified(
    client: DurableFunctionsClient, store: RecordStore, instance_id: str
) -> tuple[Trail, Verified, OrchestrationState | None]:
    """Read and verify the trail of an instance id, which may have been purged; give the instance too.

    Raises ``RecordStoreError``.
    """
    keys = get_settings().audit_keys
    state = await client.get_orchestration_state(instance_id)
    for _ in range(LOOKS):
        live = head_of(state)
        rows = await asyncio.to_thread(trail.read, store, instance_id)
        state = await client.get_orchestration_state(instance_id)
        head = head_of(state)
        if head == live:
            break
        if head is not None and live is not None and head.run == live.run:
            # It went on meanwhile: what was stored before must be there, and no more than was made until after.
            live = head.model_copy(update={"stored": live.stored})
            break
        await asyncio.sleep(PAUSE)
    found = verify(rows, instance_id, live, {}, keys)
    failed = state is not None and state.runtime_status is OrchestrationStatus.FAILED
    if state is not None and (failed or found.verdict != "intact"):
        # The history knows every entry: it vouches for what is there while more is on its way, and the first that was
        # changed can be named even where all hashes after it were made anew. It is long, so that it is read only now.
        entries, stored = await _known(client, instance_id)
        if failed and entries:
            # A replay that fails, at a change of the code say, leaves the status of where it had come to.
            last = entries[-1]
            live = TrailHead(run=last.run, entries=last.number, stored=stored, head=last.hash)
        known = {entry.number: entry.hash for entry in entries if live is not None and entry.run == live.run}
        found = verify(rows, instance_id, live, known, keys)
    return rows, found, state


async def whole(
    client: DurableFunctionsClient, store: RecordStore, instance_id: str
) -> tuple[Trail, Verified, OrchestrationState | None]:
    """Do as ``verified`` does, and store what the history has and the store lacks yet.

    A run that was ended from outside never stores its last entries by itself. Raises ``RecordStoreError``, and
    ``grpc.RpcError`` when the history cannot be read.
    """
    found = await verified(client, store, instance_id)
    if found[1].verdict == "broken" or not any(chain.pending for chain in found[1].chains):
        return found
    for batch in await batches(client, instance_id):
        await asyncio.to_thread(put_on_record, store, RecordBatch(entries=batch.entries))
    return await verified(client, store, instance_id)


async def _known(client: DurableFunctionsClient, instance_id: str) -> tuple[list[Entry], int]:
    """Return the entries that a run has put on record, and how many of them it knew to be in the store."""
    try:
        history = await client.get_orchestration_history(instance_id)
    except grpc.RpcError:
        _LOGGER.warning("The history of %r cannot be read.", instance_id)
        return [], 0
    done = {event.task_scheduled_id for event in history if isinstance(event, TaskCompletedEvent)}
    entries: dict[int, Entry] = {}
    stored = 0
    for task, batch in _batches(instance_id, history):
        entries |= {entry.number: entry for entry in batch.entries}
        if task in done:
            stored = max(stored, *(entry.number for entry in batch.entries), 0)
    return [entries[number] for number in sorted(entries)], stored


async def batches(client: DurableFunctionsClient, instance_id: str) -> list[RecordBatch]:
    """Return all that a run has put on record, as its history has it. Raises ``grpc.RpcError``."""
    return batches_in(instance_id, await client.get_orchestration_history(instance_id))


def batches_in(instance_id: str, history: Iterable[HistoryEvent]) -> list[RecordBatch]:
    """Return all that a run has put on record, from its history."""
    return [batch for _, batch in _batches(instance_id, history)]


def _batches(instance_id: str, history: Iterable[HistoryEvent]) -> Iterator[tuple[int, RecordBatch]]:
    """The batches of a history, each with the number of the task that it was given to."""
    for event in history:
        if isinstance(event, TaskScheduledEvent) and event.name == record.__name__ and event.input:
            try:
                yield event.event_id, RecordBatch.model_validate_json(event.input)
            except ValidationError:
                _LOGGER.warning("A record in the history of %r cannot be read.", instance_id)


def note_end(store: RecordStore, instance_id: str, run: str, how: str, at: datetime) -> None:
    """Note in the trail how and when a run ended that could not do so itself: it was terminated, say.

    Raises ``RecordStoreError``.
    """
    rows = trail.read(store, instance_id).runs.get(run, [])
    if not rows or (rows[-1].entry is not None and rows[-1].entry.action == "ended"):
        return
    keys = get_settings().audit_keys
    trail.append(store, instance_id, keys, action="ended", at=at, run=run, after=how, channel="timer", once=True)


def note_purge(
    store: RecordStore,
    state: OrchestrationState,
    run: str,
    kept: Sequence[Kept],
    *,
    channel: Channel = "timer",
    actor: str | None = None,
    detail: str | None = None,
) -> None:
    """Note how far the chain of the run goes whose history is purged; what became of others of its id is not known.

    Raises ``RecordStoreError``.
    """
    last = kept[-1].entry if kept else None
    if last is None:
        return
    ended = state.last_updated_at.replace(tzinfo=UTC)
    note_end(store, state.instance_id, run, state.runtime_status.name.lower(), ended)
    anchor = TrailHead(run=run, entries=len(kept), stored=len(kept), head=last.hash)
    trail.append(
        store,
        state.instance_id,
        get_settings().audit_keys,
        action="purged",
        at=clock.now(),
        run=run,
        anchor=anchor,
        channel=channel,
        actor=actor,
        detail=detail,
        once=True,
    )
