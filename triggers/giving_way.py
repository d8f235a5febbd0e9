"""Making way for another run of an id that is in use: its history goes then, and what it alone knows is kept before."""

import asyncio
import logging
import time
from collections.abc import Sequence
from functools import partial

import grpc
from azure.durable_functions import DurableFunctionsClient
from durabletask.client import OrchestrationState, OrchestrationStatus
from durabletask.history import HistoryEvent, SubOrchestrationInstanceCreatedEvent

from contracts.records import RecordBatch
from errors import Conflict, Unavailable
from services import paused, waits
from services.record_store import RecordStore, get_record_store
from services.states import ENDED, run_of
from triggers.callers import sender
from triggers.verifying import batches_in, note_purge, verified, whole

REASON = "Another run took the id."
PATIENCE = 10.0
"""Seconds that a run may take to end when it is told to; here it takes none, on Azure a turn of its own."""
LONGEST_PAUSE = 0.2

_LOGGER = logging.getLogger(__name__)


async def give_way(client: DurableFunctionsClient, state: OrchestrationState) -> bool:
    """End a run, if it goes on, with its sub-orchestrations, and put on record what its history knows of it.

    What it still had to put on record is stored, its waits are closed, and the trail gets its end, with a note that
    stands in for the history, as a purge leaves one. Gives whether this is the run that has the id to the end. Raises
    ``Conflict`` when the trail of the run is broken, since its history shows what it was; ``Unavailable`` when it does
    not end in time; ``RecordStoreError``.
    """
    store = get_record_store()
    if state.runtime_status not in ENDED:
        _, found, _ = await verified(client, store, state.instance_id)
        _check(found.verdict, state)
        await _terminate(client, state.instance_id)
        ended = await _end_of(client, state)
        if ended is None:
            return False
        state = ended
    try:
        rows, found, current = await whole(client, store, state.instance_id)
    except grpc.RpcError:  # the history cannot be read
        rows, found, current = await verified(client, store, state.instance_id)
    if current is None or current.created_at != state.created_at:
        return False
    _check(found.verdict, state)
    for chain in found.chains:
        if chain.run is not None and chain.anchored_by == "history":
            kept = rows.runs.get(chain.run, [])
            note = partial(note_purge, channel="api", detail=REASON, actor=sender())
            await asyncio.to_thread(note, store, current, chain.run, kept)
    history = await _history(client, state.instance_id)
    if current.runtime_status is not OrchestrationStatus.COMPLETED:
        await asyncio.to_thread(_close_waits, store, current, batches_in(state.instance_id, history))
    await asyncio.to_thread(paused.forget, store, state.instance_id)
    await _children_give_way(client, history)
    return True


def _check(verdict: str, state: OrchestrationState) -> None:
    if verdict == "broken":
        _LOGGER.critical(
            "ALARM: the audit trail of %r is broken; the instance is kept, whose history shows what it was",
            state.instance_id,
        )
        raise Conflict(
            f"The id '{state.instance_id}' cannot be used again: the audit trail of its run was changed, and the run "
            "is kept, since it shows what the trail was. Choose another id.",
            instance_id=state.instance_id,
        )


async def _terminate(client: DurableFunctionsClient, instance_id: str) -> None:
    try:
        await client.terminate_orchestration(instance_id, output=REASON, recursive=True)
    except grpc.RpcError as error:
        if error.code() not in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION):
            raise  # else it has ended by itself


async def _end_of(client: DurableFunctionsClient, state: OrchestrationState) -> OrchestrationState | None:
    """Wait until a run has ended; None when there is another one by then, or none."""
    give_up, pause = time.monotonic() + PATIENCE, 0.001
    while True:
        current = await client.get_orchestration_state(state.instance_id)
        if current is None or current.created_at != state.created_at:
            return None
        if current.runtime_status in ENDED:
            return current
        if time.monotonic() >= give_up:
            raise Unavailable("The run that has this id was told to end, and has yet to do so. Try again in a moment.")
        await asyncio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)


async def _history(client: DurableFunctionsClient, instance_id: str) -> Sequence[HistoryEvent]:
    try:
        return await client.get_orchestration_history(instance_id)
    except grpc.RpcError:
        _LOGGER.warning("The history of %r cannot be read; what it did not put on record is lost.", instance_id)
        return []


def _close_waits(store: RecordStore, state: OrchestrationState, recorded: Sequence[RecordBatch]) -> None:
    """Close all waits of a run, also those that an activity of it may be about to open."""
    run = run_of(state)
    there = [wait for wait, is_open in waits.of_instance(store, state.instance_id) if is_open]
    opened = [wait for batch in recorded for wait in batch.opened]
    for wait in {each.number: each for each in (*opened, *there) if each.run == run}.values():
        store.write(waits.closed(wait))


async def _children_give_way(client: DurableFunctionsClient, history: Sequence[HistoryEvent]) -> None:
    """Do the same for the sub-orchestrations: those of the next run will have their ids, and not every host ends
    them with their parent."""
    for event in history:
        if isinstance(event, SubOrchestrationInstanceCreatedEvent):
            child = await client.get_orchestration_state(event.instance_id)
            if child is not None:
                await give_way(client, child)
