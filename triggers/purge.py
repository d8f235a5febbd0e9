"""A timer trigger that purges what ended long ago. The audit trails stay."""

import asyncio
import logging
from datetime import UTC, timedelta

import azure.functions as func
from azure.durable_functions import DurableFunctionsClient
from durabletask.client import OrchestrationQuery, OrchestrationState

from services import clock, documents, shown, waits
from services.record_store import RecordStore, get_record_store
from settings import get_settings
from triggers.instances import ENDED, run_of
from triggers.verifying import note_purge, whole
from triggers.windows import WORKFLOWS, look_through_instances, told

_LOGGER = logging.getLogger(__name__)


async def purge_instances(timer: func.TimerRequest, client: DurableFunctionsClient) -> None:  # noqa: ARG001
    """Purge the instances that ended longer ago than their workflow's retention; their trails stay."""
    shortest = min(_retention(workflow) for workflow in WORKFLOWS)
    query = OrchestrationQuery(
        runtime_status=list(ENDED),
        created_time_to=clock.now() - shortest,
    )
    counts = await look_through_instances(client, get_record_store(), "purge", query, _purge_when_due)
    _LOGGER.info("Purged instances: %s", told(counts))


def check_retention() -> None:
    """Raise ``ValueError`` when the retention of a workflow is set that there is not: another one's was meant."""
    unknown = sorted(set(get_settings().retention_days_by_workflow) - set(WORKFLOWS))
    if unknown:
        known = ", ".join(WORKFLOWS)
        raise ValueError(f"RETENTION_DAYS_BY_WORKFLOW names '{unknown[0]}'; the workflows are {known}.")


async def _purge_when_due(client: DurableFunctionsClient, store: RecordStore, state: OrchestrationState) -> str:
    """Purge an instance, when it is time, and its trail is whole; with a note that stands in for its history."""
    ended = state.last_updated_at.replace(tzinfo=UTC)
    if ended > clock.now() - _retention(state.name):
        return "kept"
    rows, found, current = await whole(client, store, state.instance_id)
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
            await asyncio.to_thread(note_purge, store, current, chain.run, rows.runs.get(chain.run, []))
        elif chain.run == run_of(current):
            return "kept"  # its history could not be read
    # The waits first: what is left of an instance that is gone, nobody would look for.
    await asyncio.to_thread(waits.forget, store, state.instance_id)
    await asyncio.to_thread(shown.forget, store, state.instance_id)
    await asyncio.to_thread(documents.forget, store, state.instance_id)
    await client.purge_orchestration(state.instance_id)
    return "purged"


def _retention(workflow: str) -> timedelta:
    settings = get_settings()
    return timedelta(days=settings.retention_days_by_workflow.get(workflow, settings.retention_days))
