"""Starting, finding and describing the instances of one workflow."""

from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from azure.durable_functions import DurableFunctionsClient
from durabletask.client import (
    OrchestrationQuery,
    OrchestrationState,
    OrchestrationStatus,
    parse_orchestration_state,
)
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.internal.client_helpers import build_query_instances_req
from google.protobuf.wrappers_pb2 import StringValue

from contracts.base import as_utc_text
from errors import NotFound
from services.states import ENDED, head_of, progress_of, run_of, value_of
from triggers.starting import start

__all__ = ["ENDED", "describe", "find", "head_of", "page_of", "progress_of", "run_of", "start"]


@dataclass
class NotBegun(OrchestrationState):
    """The state of a run that begins at a time to come."""

    starts_at: datetime | None = None


async def find(client: DurableFunctionsClient, workflow: str, instance_id: str) -> OrchestrationState:
    """Return the state of an instance of ``workflow``. Raises ``NotFound``, also for another workflow's instance."""
    state = await client.get_orchestration_state(instance_id)
    if state is None or state.name != workflow:
        raise NotFound(f"There is no {workflow.replace('_', ' ')} with the id '{instance_id}'.")
    return await _with_its_start(client, state) if state.runtime_status is OrchestrationStatus.PENDING else state


async def _with_its_start(client: DurableFunctionsClient, state: OrchestrationState) -> OrchestrationState:
    """Return the state with the time at which the run begins, where the task hub tells; the client leaves it out."""
    response = await client._get_stub().GetInstance(pb.GetInstanceRequest(instanceId=state.instance_id))
    found = response.orchestrationState
    if not found.HasField("scheduledStartTimestamp"):
        return state
    known = {field.name: getattr(state, field.name) for field in fields(state)}
    return NotBegun(**known, starts_at=found.scheduledStartTimestamp.ToDatetime(tzinfo=UTC))


def describe(state: OrchestrationState) -> dict[str, Any]:
    """Return what every workflow shows of an instance.

    ``status`` is the outcome in the words of the workflow, or ``Pending``, ``Failed``, ``Terminated``; ``error`` says
    why a run failed. ``starts_at`` is there for a run that begins at a time to come, where that is known.
    """
    output = value_of(state.serialized_output)
    completed = state.runtime_status is OrchestrationStatus.COMPLETED
    outcome = output.get("status") if completed and isinstance(output, dict) else None
    ended = state.runtime_status in ENDED
    return {
        "status": outcome or (state.runtime_status.name.capitalize() if ended else "Pending"),
        "runtime_status": state.runtime_status.name,
        "created_at": as_utc_text(state.created_at),
        "last_updated_at": as_utc_text(state.last_updated_at),
        "input": value_of(state.serialized_input),
        "custom_status": value_of(state.serialized_custom_status),
        "output": output,
        "error": state.failure_details.message if state.failure_details is not None else None,
        **({"starts_at": as_utc_text(state.starts_at)} if isinstance(state, NotBegun) and state.starts_at else {}),
    }


async def page_of(
    client: DurableFunctionsClient, query: OrchestrationQuery, continuation: str | None
) -> tuple[list[OrchestrationState], str | None]:
    """Return one page of the instances that fit, and what continues the list, or None at its end.

    The client's own ``get_all_orchestration_states`` reads all pages into memory, however many there are; the request
    for one is made here as it is made there.
    """
    token = StringValue(value=continuation) if continuation else None
    response = await client._get_stub().QueryInstances(build_query_instances_req(query, token))
    following = response.continuationToken.value
    states = [parse_orchestration_state(each) for each in response.orchestrationState]
    return states, following if following not in ("", "0", continuation) else None
