"""Instances: their status, listing and purging them, events, and terminate, suspend, resume, rewind."""

from collections.abc import Callable
from typing import Any

import durabletask.internal.orchestrator_service_pb2 as pb
from starlette.responses import Response

from local_host.management.call import (
    FINISHED,
    RPC_TIMEOUT_SECONDS,
    STATUS_RETRY_SECONDS,
    Call,
    answer_json,
    body_of,
    is_json,
    json_text,
    poll_headers,
    rpc,
    state_of,
    string,
)
from local_host.management.history import history_payload
from local_host.management.query import (
    continuation,
    page,
    query_flag,
    query_page_size,
    query_statuses,
    query_text,
    query_time,
)
from local_host.management.refusal import RequestRefused, refuse
from local_host.management.shapes import STATUS_NAMES, instance_url, status_payload


async def get_status(call: Call, instance_id: str, *, after_wait: bool = False) -> Response:
    """Answer with the status of an instance: 202 while it runs, then 200.

    With ``after_wait`` a failure is never a 500, as with the extension when it has waited for an end.
    """
    state = await state_of(call, instance_id, payloads=True)
    show_input = query_flag(call.query, "showInput", default=True)
    started = state.orchestrationStatus != pb.ORCHESTRATION_STATUS_PENDING
    wanted = started and query_flag(call.query, "showHistory")
    history = await _history(call, instance_id, show_input=show_input) if wanted else None
    body = status_payload(state, show_input=show_input, history=history)
    if state.orchestrationStatus not in FINISHED:
        query = call.request.scope["query_string"].decode("latin-1")
        location = instance_url(call.origin, instance_id) + (f"?{query}" if query else "")
        return answer_json(body, 202, poll_headers(location, STATUS_RETRY_SECONDS))
    as_error = not after_wait and query_flag(call.query, "returnInternalServerErrorOnFailure")
    failed = state.orchestrationStatus == pb.ORCHESTRATION_STATUS_FAILED
    return answer_json(body, 500 if failed and as_error else 200)


async def _history(call: Call, instance_id: str, *, show_input: bool) -> list[dict[str, Any]]:
    request = pb.StreamInstanceHistoryRequest(instanceId=instance_id)
    chunks = call.hub.stub.StreamInstanceHistory(request, timeout=RPC_TIMEOUT_SECONDS)
    events = [event async for chunk in chunks for event in chunk.events]
    show_output = query_flag(call.query, "showHistoryOutput")
    return history_payload(events, show_input=show_input, show_output=show_output)


async def list_all(call: Call) -> Response:
    """Answer with a page of the instances that the query asks for."""
    query = pb.InstanceQuery(
        runtimeStatus=query_statuses(call.query),
        createdTimeFrom=query_time(call.query, "createdTimeFrom"),
        createdTimeTo=query_time(call.query, "createdTimeTo"),
        instanceIdPrefix=string(query_text(call.query, "instanceIdPrefix")),
        maxInstanceCount=query_page_size(call.query),
        continuationToken=string(continuation(call, "instances")),
        # showInput=false hides the input alone; the hub can only leave out input and output together.
        fetchInputsAndOutputs=True,
    )
    found = await rpc(call.hub.stub.QueryInstances, pb.QueryInstancesRequest(query=query))
    show_input = query_flag(call.query, "showInput", default=True)
    items = [status_payload(state, show_input=show_input) for state in found.orchestrationState]
    return page("instances", items, found)


async def purge_one(call: Call, instance_id: str) -> Response:
    """Delete an instance that has finished, or an entity that is idle."""
    if not instance_id.startswith("@"):
        status = (await state_of(call, instance_id)).orchestrationStatus
        if status not in FINISHED:
            # The text alone, as with the extension.
            raise RequestRefused(412, f"The instance is {STATUS_NAMES[status]}; only finished ones can be purged.")
    return _purged(await rpc(call.hub.stub.PurgeInstances, pb.PurgeInstancesRequest(instanceId=instance_id)))


async def purge_matching(call: Call) -> Response:
    """Delete the finished instances that the query names."""
    created_from = query_time(call.query, "createdTimeFrom")
    if created_from is None:
        # The text alone, as with the extension.
        raise RequestRefused(400, "'createdTimeFrom' is required.")
    matching = pb.PurgeInstanceFilter(
        createdTimeFrom=created_from,
        createdTimeTo=query_time(call.query, "createdTimeTo"),
        runtimeStatus=query_statuses(call.query),
    )
    return _purged(await rpc(call.hub.stub.PurgeInstances, pb.PurgeInstancesRequest(purgeInstanceFilter=matching)))


def _purged(purged: pb.PurgeInstancesResponse) -> Response:
    if not purged.deletedInstanceCount:
        raise RequestRefused(404)
    return answer_json({"instancesDeleted": purged.deletedInstanceCount})


async def _require_unfinished(call: Call, instance_id: str) -> None:
    """Refuse with 404 or 410; looked up first, because a hub may take events for finished instances."""
    if (await state_of(call, instance_id)).orchestrationStatus in FINISHED:
        raise RequestRefused(410)


async def raise_event(call: Call, instance_id: str, event_name: str) -> Response:
    """Send an event to an instance that has not finished."""
    await _require_unfinished(call, instance_id)
    if not is_json(call.request):
        refuse(400, "An event must be sent as application/json.")
    text = json_text(call.request, await body_of(call.request))
    event = pb.RaiseEventRequest(instanceId=instance_id, name=event_name, input=string(text))
    await rpc(call.hub.stub.RaiseEvent, event)
    return Response(None, 202)


async def terminate(call: Call, instance_id: str) -> Response:
    """End an instance. The reason becomes its output as it is, not as a JSON string: the extension does the same."""
    reason = string(call.query.get("reason"))
    return await _change(
        call, call.hub.stub.TerminateInstance, pb.TerminateRequest(instanceId=instance_id, output=reason)
    )


async def suspend(call: Call, instance_id: str) -> Response:
    """Suspend an instance."""
    reason = string(call.query.get("reason"))
    return await _change(call, call.hub.stub.SuspendInstance, pb.SuspendRequest(instanceId=instance_id, reason=reason))


async def resume(call: Call, instance_id: str) -> Response:
    """Resume an instance."""
    reason = string(call.query.get("reason"))
    return await _change(call, call.hub.stub.ResumeInstance, pb.ResumeRequest(instanceId=instance_id, reason=reason))


async def _change(call: Call, method: Callable[..., Any], message: Any) -> Response:
    await _require_unfinished(call, message.instanceId)
    await rpc(method, message)
    return Response(None, 202)


async def rewind(call: Call, instance_id: str) -> Response:
    """Run a failed instance again from where it failed."""
    status = (await state_of(call, instance_id)).orchestrationStatus
    if status != pb.ORCHESTRATION_STATUS_FAILED:
        # The text alone, as with the extension.
        raise RequestRefused(412, f"The instance is {STATUS_NAMES[status]}; only failed ones can be rewound.")
    reason = string(call.query.get("reason"))
    await rpc(call.hub.stub.RewindInstance, pb.RewindInstanceRequest(instanceId=instance_id, reason=reason))
    return Response(None, 202)
