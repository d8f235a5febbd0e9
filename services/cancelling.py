"""Ending a run for good: who did it is put on record, the run ends with all that it has called, and waits no more."""

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import grpc
from azure.durable_functions import DurableFunctionsClient
from durabletask.client import OrchestrationState, OrchestrationStatus
from durabletask.history import SubOrchestrationInstanceCreatedEvent

from contracts.audit import Channel, Entry, digest_of
from services import paused, signup_erasure, trail, waits
from services.record_store import RecordStore
from services.states import ENDED, progress_of, run_of
from settings import get_settings

PATIENCE = 10.0
"""Seconds that a run may take to end when it is told to; here it takes none, on Azure a turn of its own."""
LONGEST_BETWEEN_LOOKS = 0.2
SIGNUP = "signup"

_GONE = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION)


async def note(
    store: RecordStore,
    state: OrchestrationState,
    *,
    by: str,
    at: datetime,
    channel: Channel,
    reason: str | None = None,
    payload: Any = None,
) -> Entry | None:
    """Put on record that a run is to be cancelled, and by whom; None where that stands there by now.

    What became of it is for its end to say, as it may end by itself before it is told to.
    Of several at once one is the first. Raises ``RecordStoreError``.
    """
    return await asyncio.to_thread(
        trail.append,
        store,
        state.instance_id,
        get_settings().audit_keys,
        action="cancelled",
        at=at,
        run=run_of(state),
        actor=by,
        channel=channel,
        comment=reason,
        payload=payload,
        once=True,
    )


def was_noted(store: RecordStore, state: OrchestrationState, payload: Any) -> bool:
    """Whether it stands on record that a run was cancelled by this very request."""
    run = run_of(state)
    entries = [kept.entry for kept in trail.read(store, state.instance_id).app if kept.entry is not None]
    noted = [entry for entry in entries if (entry.action, entry.run) == ("cancelled", run)]
    return any(entry.payload_sha256 == digest_of(payload, entry.salt) for entry in noted)


async def end(
    client: DurableFunctionsClient, store: RecordStore, state: OrchestrationState, why: str
) -> OrchestrationState:
    """End a run, and what it has called; give what it is then, which is ended unless that takes long.

    Its waits are closed, and it is not in the list of what is paused. Done again, it changes nothing. Raises
    ``RecordStoreError``.
    """
    await _terminate(client, state.instance_id, why)
    ended = await until_ended(client, state, PATIENCE)
    await asyncio.to_thread(_clear_away, store, ended)
    await asyncio.to_thread(paused.forget, store, state.instance_id)
    for child in await _children(client, state.instance_id):
        await end(client, store, child, why)  # not every host ends them with their parent
    return ended


async def until_ended(client: DurableFunctionsClient, state: OrchestrationState, patience: float) -> OrchestrationState:
    """Wait until a run has ended, for so many seconds; give what it is then, as far as it is there."""
    give_up, wait = time.monotonic() + patience, 0.001
    while True:
        current = await client.get_orchestration_state(state.instance_id)
        if current is None or current.created_at != state.created_at:
            return state  # another run has its id by now, or none
        if current.runtime_status in ENDED or time.monotonic() >= give_up:
            return current
        await asyncio.sleep(wait)
        wait = min(wait * 2, LONGEST_BETWEEN_LOOKS)


async def _terminate(client: DurableFunctionsClient, instance_id: str, why: str) -> None:
    try:
        await client.terminate_orchestration(instance_id, output=why, recursive=True)
    except grpc.RpcError as error:
        if error.code() not in _GONE:
            raise  # else it has ended by itself


def _clear_away(store: RecordStore, state: OrchestrationState) -> None:
    """Close the waits of a run that was ended, and erase what is personal of a sign-up that nobody verified."""
    if state.runtime_status is not OrchestrationStatus.TERMINATED:
        return  # what ended by itself has done so
    run = run_of(state)
    for wait, is_open in waits.of_instance(store, state.instance_id):
        if is_open and wait.run == run:
            store.write(waits.closed(wait))
    if state.name == SIGNUP and not _is_verified(state):
        signup_erasure.erase(store, state.instance_id, run)


def _is_verified(state: OrchestrationState) -> bool:
    try:
        progress = progress_of(state)
    except ValueError:
        return False
    return progress is not None and progress.signup is not None and progress.signup.verified_at is not None


async def _children(client: DurableFunctionsClient, instance_id: str) -> Sequence[OrchestrationState]:
    try:
        history = await client.get_orchestration_history(instance_id)
    except grpc.RpcError:
        return []  # it cannot be read; the timers find what is left behind
    called = [each.instance_id for each in history if isinstance(each, SubOrchestrationInstanceCreatedEvent)]
    states = [await client.get_orchestration_state(each) for each in called]
    return [state for state in states if state is not None and _may_be_ours(state)]


def _may_be_ours(state: OrchestrationState) -> bool:
    return state.runtime_status not in ENDED or state.runtime_status is OrchestrationStatus.TERMINATED
