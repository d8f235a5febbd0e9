"""Telling a run that it is paused, or that it goes on: itself, the task hub, and the list of what is paused.

The entity ``pause`` decides, and what it decided is applied here. All of it can be done twice: whoever finds that it
was not applied does it again, and whoever did it looks whether something else was decided meanwhile.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import grpc
from azure.durable_functions import DurableFunctionsClient
from durabletask.client import OrchestrationState, OrchestrationStatus
from durabletask.entities import EntityInstanceId

from contracts.base import Contract
from contracts.human_step import Progress
from contracts.pause import PAUSING, PauseEvent
from contracts.pause_state import PAUSE, Numbered, PauseState, pause_key
from services import paused
from services.record_store import RecordStore
from services.states import is_paused

FIRST_LOOK = 0.001
LONGEST_BETWEEN_LOOKS = 0.05
SLOWING = 1.5
"""Seconds between two looks, and how much longer each wait is than the one before."""
PATIENCE = 1.0
"""Seconds that a run has to hear that it is paused, and put that on record, before it is suspended: it cannot do so
afterwards. Nor must it have begun anything in the same turn: not every engine keeps that apart from the suspension."""

_GONE = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION)
_LOGGER = logging.getLogger(__name__)


async def look(client: DurableFunctionsClient, instance_id: str) -> PauseState | None:
    """Return what the entity keeps of an instance, or None when it was never paused."""
    found = await client.get_entity(_entity(instance_id))
    return None if found is None else PauseState.read(found.get_typed_state())


async def ask(client: DurableFunctionsClient, instance_id: str, operation: str, asked: Contract) -> None:
    """Signal the entity of an instance."""
    await client.signal_entity(_entity(instance_id), operation, asked.plain())


async def apply(client: DurableFunctionsClient, store: RecordStore, decided: PauseState) -> bool:
    """Make a run, the task hub and the records be as it was decided; false where the run has ended.

    Raises ``RecordStoreError``, and ``grpc.RpcError`` when the hub does not answer.
    """
    while True:
        instance_id = decided.run.instance_id
        try:
            await (_pause if decided.is_paused else _resume)(client, store, decided)
        except grpc.RpcError as error:
            if error.code() not in _GONE:
                raise
            await over(client, store, decided)
            return False
        told = Numbered(number=decided.number, paused=decided.is_paused)
        # Somebody else may have come in between, and be done already: then what was done here undid it.
        latest, _ = await asyncio.gather(look(client, instance_id), ask(client, instance_id, "applied", told))
        if latest is None or (latest.number, latest.is_paused) == (decided.number, decided.is_paused):
            return True
        decided = latest


async def over(client: DurableFunctionsClient, store: RecordStore, decided: PauseState) -> None:
    """Say that a run has ended, which then is not paused any more."""
    instance_id = decided.run.instance_id
    await asyncio.to_thread(_unlist, store, decided)
    await ask(client, instance_id, "over", Numbered(number=decided.number))


async def forget(client: DurableFunctionsClient, instance_id: str) -> None:
    """Have the entity keep nothing more of an instance that is purged."""
    kept = await look(client, instance_id)
    if kept is not None:
        await ask(client, instance_id, "forget", Numbered(number=kept.number))


async def _pause(client: DurableFunctionsClient, store: RecordStore, decided: PauseState) -> None:
    instance_id, pause = decided.run.instance_id, decided.pause
    event = PauseEvent(
        action="pause",
        source=instance_id,
        number=decided.number,
        at=pause.at,
        by=pause.by,
        reason=pause.reason,
        clock=pause.clock,
    )

    async def suspend() -> None:
        await client.raise_orchestration_event(instance_id, PAUSING, data=event.plain())
        await _until_heard(client, instance_id, decided.number)
        await client.suspend_orchestration(instance_id, reason=pause.reason)

    await _both(suspend(), asyncio.to_thread(_list, store, decided))


async def _resume(client: DurableFunctionsClient, store: RecordStore, decided: PauseState) -> None:
    instance_id, resumed = decided.run.instance_id, decided.resumed
    if resumed is None:  # it has ended
        return
    event = PauseEvent(
        action="resume",
        source=instance_id,
        number=decided.number,
        at=resumed.at,
        by=resumed.by,
        clock=decided.pause.clock,
        data=resumed.data,
        channel=resumed.channel,
    )

    async def go_on() -> None:
        await client.raise_orchestration_event(instance_id, PAUSING, data=event.plain())
        await client.resume_orchestration(instance_id, reason=f"Resumed by {resumed.by}")

    await _both(go_on(), asyncio.to_thread(_unlist, store, decided))


async def _both(*work: Coroutine[Any, Any, None]) -> None:
    """Do two things at once, and wait for both, also when one fails: nothing goes on behind the back of the caller."""
    for outcome in await asyncio.gather(*work, return_exceptions=True):
        if outcome is not None:
            raise outcome


def _list(store: RecordStore, decided: PauseState) -> None:
    store.write(paused.added(store, decided.execution("paused", decided.pause), decided.number))


def _unlist(store: RecordStore, decided: PauseState) -> None:
    store.write(paused.removed(store, decided.run.instance_id, decided.number))


async def _until_heard(
    client: DurableFunctionsClient,
    instance_id: str,
    number: int,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Wait until a run says that it is paused, and has that on record, unless it cannot: it has not begun, is
    suspended, or takes too long."""

    def is_so(state: OrchestrationState) -> bool:
        return state.runtime_status is not OrchestrationStatus.RUNNING or _has_heard(state, number)

    if not await _until(client, instance_id, is_so, sleep):
        _LOGGER.warning("The run %r was suspended before it had on record that it is paused.", instance_id)


async def until_it_goes_on(client: DurableFunctionsClient, instance_id: str) -> None:
    """Wait until a run that was resumed says that it is not paused any more, unless that takes too long."""
    await _until(client, instance_id, lambda state: not is_paused(state))


async def _until(
    client: DurableFunctionsClient,
    instance_id: str,
    is_so: Callable[[OrchestrationState], bool],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> bool:
    """Look at a run until something is so, or it is gone; false where that takes too long."""
    waited, wait = 0.0, FIRST_LOOK
    while waited < PATIENCE:
        state = await client.get_orchestration_state(instance_id)
        if state is None or is_so(state):
            return True
        await sleep(wait)
        waited, wait = waited + wait, min(wait * SLOWING, LONGEST_BETWEEN_LOOKS)
    return False


def _has_heard(state: OrchestrationState, number: int) -> bool:
    try:
        progress = Progress.model_validate_json(state.serialized_custom_status or "")
    except ValueError:
        return False
    is_on_record = progress.trail is None or progress.trail.stored >= progress.trail.entries
    return progress.pause is not None and progress.pause.number >= number and is_on_record


def _entity(instance_id: str) -> EntityInstanceId:
    return EntityInstanceId(PAUSE, pause_key(instance_id))
