"""A timer trigger that purges what ended long ago, or is on the list of what goes at once. The audit trails stay."""

import asyncio
import logging
from datetime import UTC, timedelta

import azure.functions as func
import grpc
from azure.durable_functions import DurableFunctionsClient
from durabletask.client import OrchestrationQuery, OrchestrationState

from services import clock, documents, outbox, paused, pausing, purge_list, shown, waits
from services.purge_list import Listed
from services.record_store import RecordStore, get_record_store
from settings import get_settings
from triggers.instances import ENDED, head_of, run_of
from triggers.verifying import note_purge, whole
from triggers.windows import UPKEEP, WORKFLOWS, look_through_instances, look_through_rows, told

_LOGGER = logging.getLogger(__name__)


async def purge_instances(timer: func.TimerRequest, client: DurableFunctionsClient) -> None:  # noqa: ARG001
    """Purge the instances that ended longer ago than their workflow's retention, or are on the list; their trails stay.

    Entities that hold nothing any more are cleared away too, and what a crash left of mails in the outbox.
    """
    store = get_record_store()
    counts = await look_through_rows(client, store, "purge_list", purge_list.window, _purge_listed)
    shortest = min(_retention(workflow) for workflow in WORKFLOWS)
    query = OrchestrationQuery(
        runtime_status=list(ENDED),
        created_time_to=clock.now() - shortest,
    )
    names = (*WORKFLOWS, *UPKEEP)
    counts += await look_through_instances(client, store, "purge", query, _purge_when_due, names=names)
    _LOGGER.info("Purged instances: %s", told(counts))
    await asyncio.to_thread(outbox.sweep)
    try:
        await client.clean_entity_storage(remove_empty_entities=True, release_orphaned_locks=False)
    except grpc.RpcError as error:
        _LOGGER.warning("The task hub does not clear away empty entities: %s", error.code())


def check_retention() -> None:
    """Raise ``ValueError`` when the retention of a workflow is set that there is not: another one's was meant."""
    unknown = sorted(set(get_settings().retention_days_by_workflow) - set(WORKFLOWS))
    if unknown:
        known = ", ".join(WORKFLOWS)
        raise ValueError(f"RETENTION_DAYS_BY_WORKFLOW names '{unknown[0]}'; the workflows are {known}.")


async def _purge_when_due(client: DurableFunctionsClient, store: RecordStore, state: OrchestrationState) -> str:
    """Purge an instance when it is time."""
    if state.name in UPKEEP:  # what it did stands in the trail of the run that it did it for
        await client.purge_orchestration(state.instance_id)
        return "purged"
    ended = state.last_updated_at.replace(tzinfo=UTC)
    return "kept" if ended > clock.now() - _retention(state.name) else await _purge(client, store, state)


async def _purge_listed(client: DurableFunctionsClient, store: RecordStore, listed: Listed) -> str:
    """Purge a run that is on the list, when it has ended, and take it off the list when it is gone."""
    state = await client.get_orchestration_state(listed.instance_id)
    head = head_of(state)
    if state is None or (head is not None and head.run != listed.run):  # another run has its id by now
        outcome = "gone"
    else:
        outcome = await _purge(client, store, state) if head is not None else "kept"
    if outcome in ("gone", "purged"):
        await asyncio.to_thread(store.write, [purge_list.removed(listed.instance_id, listed.run)])
    return outcome


async def _purge(client: DurableFunctionsClient, store: RecordStore, state: OrchestrationState) -> str:
    """Purge an instance when it has ended, and its trail is whole; with a note that stands in for its history."""
    rows, found, current = await whole(client, store, state.instance_id)
    if current is None or current.runtime_status not in ENDED or current.created_at != state.created_at:
        return "kept"  # it goes on, or another run has its id by now
    if found.verdict == "broken":
        _LOGGER.critical(
            "ALARM: the audit trail of %r is broken; the instance is kept, whose history shows what it was",
            state.instance_id,
        )
        return "broken"
    for chain in found.chains:
        if chain.run is not None and chain.anchored_by == "history":
            await asyncio.to_thread(note_purge, store, current, chain.run, rows.runs.get(chain.run, []))
        elif chain.run == run_of(current):
            return "kept"  # its history could not be read
    # The waits first: what is left of an instance that is gone, nobody would look for.
    await asyncio.to_thread(waits.forget, store, state.instance_id)
    await asyncio.to_thread(shown.forget, store, state.instance_id)
    await asyncio.to_thread(documents.forget, store, state.instance_id)
    await asyncio.to_thread(paused.forget, store, state.instance_id)
    await pausing.forget(client, state.instance_id)
    await client.purge_orchestration(state.instance_id)
    return "purged"


def _retention(workflow: str) -> timedelta:
    settings = get_settings()
    return timedelta(days=settings.retention_days_by_workflow.get(workflow, settings.retention_days))
