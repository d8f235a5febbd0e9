"""Holding the list of what is paused against the instances."""

import asyncio

from azure.durable_functions import DurableFunctionsClient
from durabletask.client import OrchestrationState

from errors import NotFound
from services import paused, pausing
from services.paused import Listed
from services.record_store import RecordStore
from services.states import is_paused
from triggers.pausing import finish
from triggers.seeing import Seen, see, see_all, show

OUTSIDE_NUMBER = 0
"""The number, in the list, of a pause that is none of the app's."""


async def heal_paused(client: DurableFunctionsClient, store: RecordStore, listed: Listed) -> str:
    """Take a run off the list that is not paused any more: it has ended, or is gone, or somebody crashed."""
    instance_id = listed.execution.id
    try:
        seen = await see(client, instance_id)
    except NotFound:
        await pausing.forget(client, instance_id)
    else:
        if _number(seen) == listed.number:
            return "unchanged"
        await finish(client, seen)
        if seen.has_ended and seen.kept is not None and seen.kept.is_paused:
            await pausing.over(client, store, seen.kept)
    await asyncio.to_thread(lambda: store.write(paused.unlisted(store, listed)))
    return "unlisted"


async def list_suspended(client: DurableFunctionsClient, store: RecordStore, state: OrchestrationState) -> bool:
    """Put a run on the list that is suspended, and stands not there, also when that was done past the app."""
    if await asyncio.to_thread(paused.is_listed, store, state.instance_id):
        return False
    (seen,) = await see_all(client, [state])
    number = _number(seen)
    if number is None:
        return False
    execution = await show(seen)
    await asyncio.to_thread(lambda: store.write(paused.added(store, execution, number)))
    # It may have been resumed between the look at it and the write; who does so later takes it off again.
    if _number(await see(client, state.instance_id)) == number:
        return True
    await asyncio.to_thread(lambda: store.write(paused.removed(store, state.instance_id, number)))
    return False


async def finish_unlisted(client: DurableFunctionsClient, store: RecordStore, state: OrchestrationState) -> bool:
    """Have a run go on that stands still for a pause that has ended, and is not in the list, which is held first."""
    if not is_paused(state) or await asyncio.to_thread(paused.is_listed, store, state.instance_id):
        return False
    (seen,) = await see_all(client, [state])
    return await finish(client, seen)


def _number(seen: Seen) -> int | None:
    """The number of the pause that a run is in, None when it is in none that is listed."""
    if seen.by_hand is not None:
        return seen.by_hand.number
    return OUTSIDE_NUMBER if seen.is_outside else None
