"""Starting and restarting instances, and waiting for them to end."""

import asyncio
import uuid

import durabletask.internal.orchestrator_service_pb2 as pb
from starlette.responses import Response

from local_host.management.call import (
    FINISHED,
    START_RETRY_SECONDS,
    Call,
    answer_json,
    body_of,
    decoded,
    json_text,
    poll_headers,
    rpc,
    state_of,
    string,
    trace_context,
)
from local_host.management.instances import get_status
from local_host.management.names import check_instance_id, known_function
from local_host.management.query import query_flag, query_seconds, query_text
from local_host.management.refusal import RequestRefused, refuse
from local_host.management.shapes import check_status_payload, required_query, shown_field

_SHORTEST_POLL_SECONDS = 0.05
_LONGEST_POLL_SECONDS = 1.0


async def start(call: Call, function_name: str, instance_id: str | None) -> Response:
    """Start an instance, of a new id if none is given; wait for its end if the query says so."""
    name = known_function(call.hub.orchestrator_names, function_name, "orchestrator")
    instance_id = uuid.uuid4().hex if instance_id is None else instance_id
    check_instance_id(instance_id)
    wait = _wait_seconds(call)
    started = await rpc(
        call.hub.stub.StartInstance,
        pb.CreateInstanceRequest(
            instanceId=instance_id,
            name=name,
            input=string(await _input(call)),
            version=string(query_text(call.query, "version")),
            orchestrationIdReusePolicy=pb.OrchestrationIdReusePolicy(replaceableStatus=call.hub.overridable),
            parentTraceContext=trace_context(call.request),
        ),
    )
    return await _started(call, started.instanceId, wait)


async def _input(call: Call) -> str | None:
    body = await body_of(call.request)
    blank = not decoded(call.request, body, "replace").strip()
    return None if blank else json_text(call.request, body)


async def restart(call: Call, instance_id: str) -> Response:
    """Start an instance anew with its own input, under a new id unless the query says otherwise."""
    wait = _wait_seconds(call)
    try:
        state = await state_of(call, instance_id, payloads=True)
    except RequestRefused:
        # The extension's status for this operation, where the others have 404.
        refuse(400, "The id does not match a valid orchestration instance.")
    new_id = query_flag(call.query, "restartWithNewInstanceId", default=True)
    if state.orchestrationStatus in FINISHED:
        request = pb.RestartInstanceRequest(instanceId=instance_id, restartWithNewInstanceId=new_id)
        restarted = await rpc(call.hub.stub.RestartInstance, request)
    elif new_id or state.orchestrationStatus in call.hub.overridable:
        # The hub restarts finished instances alone; the extension starts a twin of a running one.
        restarted = await rpc(
            call.hub.stub.StartInstance,
            pb.CreateInstanceRequest(
                instanceId=uuid.uuid4().hex if new_id else instance_id,
                name=state.name,
                input=state.input if state.HasField("input") else None,
                version=state.version if state.HasField("version") else None,
                orchestrationIdReusePolicy=pb.OrchestrationIdReusePolicy(replaceableStatus=call.hub.overridable),
            ),
        )
    else:
        refuse(409, "The instance has not finished, so its id is in use.")
    return await _started(call, restarted.instanceId, wait)


def _wait_seconds(call: Call) -> tuple[float, float] | None:
    """Return timeout and polling interval; ``None``, not to wait, unless both are given."""
    timeout = query_seconds(call.query, "timeout")
    interval = query_seconds(call.query, "pollingInterval")
    if timeout is None or interval is None:
        return None
    if interval > timeout:
        refuse(400, "'pollingInterval' cannot exceed 'timeout'.")
    # Polled more often than asked for, so that a client that has gone is noticed.
    return timeout, min(max(interval, _SHORTEST_POLL_SECONDS), _LONGEST_POLL_SECONDS)


async def _started(call: Call, instance_id: str, wait: tuple[float, float] | None) -> Response:
    if wait is not None and (state := await _wait(call, instance_id, *wait)) is not None:
        if state.orchestrationStatus == pb.ORCHESTRATION_STATUS_COMPLETED:
            return answer_json(shown_field(state, "output"))
        return await get_status(call, instance_id, after_wait=True)
    body = check_status_payload(call.origin, required_query(call.hub.task_hub, call.hub.code), instance_id)
    return answer_json(body, 202, poll_headers(body["statusQueryGetUri"], START_RETRY_SECONDS))


async def _wait(call: Call, instance_id: str, limit: float, interval: float) -> pb.OrchestrationState | None:
    """Poll until the instance has finished; ``None`` at the time limit or when the client has gone.

    Polled, because a wait on the hub would hold one of its few threads for as long as it lasts.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit
    while True:
        state = await state_of(call, instance_id, payloads=True)
        if state.orchestrationStatus in FINISHED:
            return state
        remaining = deadline - loop.time()
        if remaining <= 0 or await call.request.is_disconnected():
            return None
        await asyncio.sleep(min(interval, remaining))
