"""Starting, finding and describing the instances of one workflow."""

import json
from typing import Any
from uuid import uuid4

import grpc
from azure.durable_functions import DurableFunctionsClient
from durabletask.client import (
    OrchestrationQuery,
    OrchestrationState,
    OrchestrationStatus,
    parse_orchestration_state,
)
from durabletask.internal.client_helpers import build_query_instances_req
from google.protobuf.wrappers_pb2 import StringValue

from contracts.audit import TrailHead
from contracts.base import Contract, as_utc_text
from contracts.human_step import Progress
from errors import AlreadyStarted, NotFound

ENDED = (OrchestrationStatus.COMPLETED, OrchestrationStatus.FAILED, OrchestrationStatus.TERMINATED)


async def start(client: DurableFunctionsClient, workflow: str, given_id: str | None, contract: Contract) -> str:
    """Start ``workflow`` and return its instance id: the given one, or ``<workflow>-<uuid4>``.

    Raises ``AlreadyStarted`` when an instance has the given id.
    """
    instance_id = given_id or f"{workflow}-{uuid4()}"
    taken = AlreadyStarted(f"The id '{instance_id}' is in use. Choose another one.", instance_id=instance_id)
    if given_id is not None and await client.get_orchestration_state(instance_id, fetch_payloads=False) is not None:
        raise taken
    try:
        return await client.schedule_new_orchestration(workflow, input=contract.plain(), instance_id=instance_id)
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.ALREADY_EXISTS:
            raise taken from None
        raise


async def find(client: DurableFunctionsClient, workflow: str, instance_id: str) -> OrchestrationState:
    """Return the state of an instance of ``workflow``. Raises ``NotFound``, also for another workflow's instance."""
    state = await client.get_orchestration_state(instance_id)
    if state is None or state.name != workflow:
        raise NotFound(f"There is no {workflow.replace('_', ' ')} with the id '{instance_id}'.")
    return state


def progress_of(state: OrchestrationState) -> Progress | None:
    """Return what the run says of itself, or None before it said anything."""
    if not state.serialized_custom_status:
        return None
    return Progress.model_validate_json(state.serialized_custom_status)


def head_of(state: OrchestrationState | None) -> TrailHead | None:
    """Return how far an instance says that its trail goes; None when it says nothing."""
    if state is None:
        return None
    try:
        if state.runtime_status is OrchestrationStatus.COMPLETED:  # else it is what somebody gave who terminated it
            output = _json(state.serialized_output)
            if isinstance(output, dict) and output.get("trail") is not None:
                return TrailHead.model_validate(output["trail"])
        progress = progress_of(state)
    except ValueError:
        return None
    return progress.trail if progress is not None else None


def run_of(state: OrchestrationState) -> str:
    """Return the stamp of an instance's run, by which the records know it; made up for one from before the records."""
    head = head_of(state)
    return head.run if head is not None else f"{state.created_at:%Y%m%dT%H%M%S%f}Z"


def describe(state: OrchestrationState) -> dict[str, Any]:
    """Return what every workflow shows of an instance.

    ``status`` is the outcome in the words of the workflow, or ``Pending``, ``Failed``, ``Terminated``; ``error`` says
    why a run failed.
    """
    output = _json(state.serialized_output)
    completed = state.runtime_status is OrchestrationStatus.COMPLETED
    outcome = output.get("status") if completed and isinstance(output, dict) else None
    ended = state.runtime_status in ENDED
    return {
        "status": outcome or (state.runtime_status.name.capitalize() if ended else "Pending"),
        "runtime_status": state.runtime_status.name,
        "created_at": as_utc_text(state.created_at),
        "last_updated_at": as_utc_text(state.last_updated_at),
        "input": _json(state.serialized_input),
        "custom_status": _json(state.serialized_custom_status),
        "output": output,
        "error": state.failure_details.message if state.failure_details is not None else None,
    }


def _json(payload: str | None) -> Any:
    # What was given to a termination is text, not JSON, where the management API or a dashboard gave it.
    try:
        return json.loads(payload) if payload else None
    except ValueError:
        return payload


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
