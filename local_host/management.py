"""The Durable Functions HTTP management API, served over a ``TaskHubSidecarService``.

These are the webhooks that ``create_check_status_response`` points to. Paths, status codes and bodies are
those of the Durable Functions extension (Azure/azure-functions-durable-extension, ``HttpApiHandler.cs``):
a bare 202, 404 or 410 has no body, and an error with a text is ``{"Message": ...}``. The extension drops
filters that it cannot parse; here they are answered with 400, so that a typing error deletes nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

import durabletask.internal.orchestrator_service_pb2 as pb
import grpc
from google.protobuf import wrappers_pb2
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from local_host import management_shapes as shapes
from local_host.management_shapes import RequestRefused, refuse

MAX_BODY_BYTES = 1024 * 1024
RETRY_AFTER_SECONDS = 10
CONTINUATION_HEADER = "x-ms-continuation-token"

_log = logging.getLogger(__name__)
_RPC_TIMEOUT_SECONDS = 30.0
_SHORTEST_POLL_SECONDS = 0.05
_DEFAULT_PAGE_SIZE = 100
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]
_FINISHED = (
    pb.ORCHESTRATION_STATUS_COMPLETED,
    pb.ORCHESTRATION_STATUS_FAILED,
    pb.ORCHESTRATION_STATUS_CANCELED,
    pb.ORCHESTRATION_STATUS_TERMINATED,
)


@dataclass(frozen=True)
class _Call:
    """One request: the hub that it goes to, and its query with lower-case names and repeats comma joined."""

    request: Request
    # The generated stub is untyped, and its methods only exist on instances.
    stub: Any
    task_hub: str
    orchestrator_names: Collection[str]
    entity_names: Collection[str]
    query: dict[str, str]

    @property
    def origin(self) -> str:
        # base_url, unlike url, does not choke on a query string that is not UTF-8.
        base = self.request.base_url
        return f"{base.scheme}://{base.netloc}"


class _PrefixRoute(Route):
    """A route for its path and all below it, also where a decoded path holds line breaks.

    Starlette's own ``{rest:path}`` stops at those.
    """

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] == "http" and f"{scope['path']}/".startswith(f"{self.path}/"):
            return Match.FULL, {"endpoint": self.endpoint, "path_params": {}}
        return Match.NONE, {}


def management_routes(
    stub: Any,
    *,
    task_hub: str,
    orchestrator_names: Collection[str],
    entity_names: Collection[str] = (),
) -> list[BaseRoute]:
    """Return the routes below ``/runtime/webhooks/durabletask`` for one task hub.

    ``stub`` is a ``TaskHubSidecarServiceStub`` over a ``grpc.aio`` channel of the loop that serves the
    requests. The name collections are read at each request, so they may be filled later. URLs in answers
    begin with the request's own scheme and ``Host``; ``X-Forwarded-*`` is not read here. No request raises:
    what fails unforeseen is logged in full and answered with a 500 that tells nothing.
    """

    async def endpoint(request: Request) -> Response:
        query: dict[str, str] = {}
        for name, value in request.query_params.multi_items():
            query[name.lower()] = f"{query[name.lower()]},{value}" if name.lower() in query else value
        call = _Call(request, stub, task_hub, orchestrator_names, entity_names, query)
        return await _answer(call)

    return [_PrefixRoute(shapes.MANAGEMENT_PREFIX, endpoint, methods=_METHODS)]


async def _answer(call: _Call) -> Response:
    request = call.request
    try:
        _refuse_cross_site(request)
        hub = shapes.query_text(call.query, "taskHub")
        if hub is not None and hub.lower() != call.task_hub.lower():
            refuse(404, f"There is no task hub named '{hub}' here.")
        return await _dispatch(call, _path_segments(request))
    except RequestRefused as refusal:
        if refusal.body is None:
            return Response(None, refusal.status)
        return _json(refusal.body, refusal.status)
    except ClientDisconnect:
        return Response(None, 400)
    except grpc.aio.AioRpcError as error:
        return _rpc_failure(request, error)
    except Exception:  # noqa: BLE001 - the last line of defence: no traceback may reach a client
        _log.exception("%s %r failed", request.method, request.scope["path"])
        return _json({"Message": "The request could not be processed."}, 500)


def _refuse_cross_site(request: Request) -> None:
    # A page of another site can make a browser POST here without asking first; the browser says so (Fetch Metadata).
    site = request.headers.get("sec-fetch-site", "none")
    if request.method not in ("GET", "HEAD", "OPTIONS") and site not in ("none", "same-origin"):
        refuse(403, "This request came from a page of another site.")


def _rpc_failure(request: Request, error: grpc.aio.AioRpcError) -> Response:
    status, message = {
        grpc.StatusCode.NOT_FOUND: (404, "There is no such instance."),
        grpc.StatusCode.ALREADY_EXISTS: (409, "An instance with this id is already there."),
        grpc.StatusCode.FAILED_PRECONDITION: (410, "The instance is not in a state that allows this."),
        grpc.StatusCode.UNAVAILABLE: (503, "The task hub cannot be reached."),
    }.get(error.code(), (500, "The request could not be processed."))
    if status >= 500:
        _log.error("%s %r failed", request.method, request.scope["path"], exc_info=error)
    return _json({"Message": message}, status)


def _raw_path(request: Request) -> str:
    # The server's raw_path is optional in ASGI.
    raw: bytes | None = request.scope.get("raw_path")
    return quote(request.scope["path"]) if raw is None else raw.decode("latin-1")


def _path_segments(request: Request) -> list[str]:
    # Split before decoding: "%2F" inside an id must not become a separator.
    try:
        segments = [unquote(part, errors="strict") for part in _raw_path(request).split("/")]
    except UnicodeDecodeError:
        refuse(400, "The path is not percent-encoded UTF-8.")
    depth = shapes.MANAGEMENT_PREFIX.count("/") + 1
    segments = segments[depth:]
    while segments and not segments[-1]:
        segments.pop()
    return segments


async def _dispatch(call: _Call, segments: list[str]) -> Response:  # noqa: PLR0911, PLR0912 - a row a route
    # Fixed path parts are matched in any case, as the extension's route templates are.
    fixed = [segment.lower() for segment in segments[:1]] + segments[1:]
    match (call.request.method, *fixed):
        case ("GET", "instances"):
            return await _list_instances(call)
        case ("DELETE", "instances"):
            return await _purge_matching(call)
        case ("GET", "instances", instance_id):
            return await _get_status(call, instance_id)
        case ("DELETE", "instances", instance_id):
            return await _purge_one(call, instance_id)
        case ("POST", "instances", instance_id, operation) if operation.lower() in _OPERATIONS:
            return await _OPERATIONS[operation.lower()](call, instance_id)
        case ("POST", "instances", instance_id, operation, event) if operation.lower() == "raiseevent":
            return await _raise_event(call, instance_id, event)
        case ("POST", "orchestrators", function_name):
            return await _start(call, function_name, uuid.uuid4().hex)
        case ("POST", "orchestrators", function_name, instance_id):
            return await _start(call, function_name, instance_id)
        case ("GET", "entities"):
            return await _list_entities(call, "")
        case ("GET", "entities", name):
            return await _list_entities(call, name)
        case ("GET", "entities", name, key):
            return await _get_entity(call, name, key)
        case ("POST" | "DELETE", "entities", name):
            return await _signal_entity(call, name, "")
        case ("POST" | "DELETE", "entities", name, key):
            return await _signal_entity(call, name, key)
        case _:
            raise RequestRefused(404)


async def _rpc(method: Callable[..., Any], message: Any) -> Any:
    return await method(message, timeout=_RPC_TIMEOUT_SECONDS)


def _string(text: str | None) -> wrappers_pb2.StringValue | None:
    return None if text is None else wrappers_pb2.StringValue(value=text)


def _json(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    # ASCII only, because a payload may hold lone surrogates, which UTF-8 cannot carry.
    return Response(json.dumps(body, allow_nan=False), status, headers, media_type="application/json")


def _poll_headers(location: str) -> dict[str, str]:
    return {"Location": location, "Retry-After": str(RETRY_AFTER_SECONDS)}


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > MAX_BODY_BYTES:
            refuse(413, f"The request body exceeds {MAX_BODY_BYTES} bytes.")
        body += chunk
    return bytes(body)


def _json_text(body: bytes) -> str | None:
    """Return the body's JSON text unchanged, ``None`` for a blank body; 400 for anything else."""
    try:
        text = body.decode("utf-8")
        if not text.strip():
            return None
        shapes.parse_json(text)
    except ValueError:
        refuse(400, "The request body is not valid JSON.")
    return text


def _is_json(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


async def _state(call: _Call, instance_id: str, *, payloads: bool = False) -> pb.OrchestrationState:
    """Return the state of an instance; 404 without a body when there is none."""
    found = await _rpc(
        call.stub.GetInstance, pb.GetInstanceRequest(instanceId=instance_id, getInputsAndOutputs=payloads)
    )
    if not found.exists:
        raise RequestRefused(404)
    state: pb.OrchestrationState = found.orchestrationState
    return state


async def _require_unfinished(call: _Call, instance_id: str) -> None:
    """Refuse with 404 or 410; looked up first, because a hub may take events for finished instances."""
    if (await _state(call, instance_id)).orchestrationStatus in _FINISHED:
        raise RequestRefused(410)


async def _history(call: _Call, instance_id: str, *, show_input: bool) -> list[dict[str, Any]]:
    request = pb.StreamInstanceHistoryRequest(instanceId=instance_id)
    chunks = call.stub.StreamInstanceHistory(request, timeout=_RPC_TIMEOUT_SECONDS)
    events = [event async for chunk in chunks for event in chunk.events]
    show_output = shapes.query_flag(call.query, "showHistoryOutput")
    return shapes.history_payload(events, show_input=show_input, show_output=show_output)


async def _get_status(call: _Call, instance_id: str, *, after_wait: bool = False) -> Response:
    state = await _state(call, instance_id, payloads=True)
    show_input = shapes.query_flag(call.query, "showInput", default=True)
    started = state.orchestrationStatus != pb.ORCHESTRATION_STATUS_PENDING
    wanted = started and shapes.query_flag(call.query, "showHistory")
    history = await _history(call, instance_id, show_input=show_input) if wanted else None
    body = shapes.status_payload(state, show_input=show_input, history=history)
    if state.orchestrationStatus not in _FINISHED:
        query = call.request.scope["query_string"].decode("latin-1")
        location = call.origin + _raw_path(call.request) + (f"?{query}" if query else "")
        return _json(body, 202, _poll_headers(location))
    as_error = not after_wait and shapes.query_flag(call.query, "returnInternalServerErrorOnFailure")
    failed = state.orchestrationStatus == pb.ORCHESTRATION_STATUS_FAILED
    return _json(body, 500 if failed and as_error else 200)


def _hub_token(call: _Call, kind: str) -> wrappers_pb2.StringValue | None:
    header = call.request.headers.get(CONTINUATION_HEADER, "").strip()
    return _string(shapes.decode_continuation(kind, header)) if header else None


def _page(kind: str, items: list[dict[str, Any]], found: Any) -> Response:
    token = found.continuationToken.value
    headers = {CONTINUATION_HEADER: shapes.encode_continuation(kind, token)} if token else None
    return _json(items, 200, headers)


async def _list_instances(call: _Call) -> Response:
    query = pb.InstanceQuery(
        runtimeStatus=shapes.query_statuses(call.query),
        createdTimeFrom=shapes.query_time(call.query, "createdTimeFrom"),
        createdTimeTo=shapes.query_time(call.query, "createdTimeTo"),
        instanceIdPrefix=_string(shapes.query_text(call.query, "instanceIdPrefix")),
        maxInstanceCount=shapes.query_page_size(call.query) or _DEFAULT_PAGE_SIZE,
        continuationToken=_hub_token(call, "instances"),
        # showInput=false hides the input alone; the hub can only leave out input and output together.
        fetchInputsAndOutputs=True,
    )
    found = await _rpc(call.stub.QueryInstances, pb.QueryInstancesRequest(query=query))
    show_input = shapes.query_flag(call.query, "showInput", default=True)
    items = [shapes.status_payload(state, show_input=show_input) for state in found.orchestrationState]
    return _page("instances", items, found)


async def _purge_one(call: _Call, instance_id: str) -> Response:
    status = (await _state(call, instance_id)).orchestrationStatus
    if status not in _FINISHED:
        refuse(412, f"The instance is {shapes.STATUS_NAMES[status]}; only finished instances can be purged.")
    purged = await _rpc(call.stub.PurgeInstances, pb.PurgeInstancesRequest(instanceId=instance_id))
    return _purged(purged)


async def _purge_matching(call: _Call) -> Response:
    created_from = shapes.query_time(call.query, "createdTimeFrom")
    if created_from is None:
        refuse(400, "'createdTimeFrom' is required.")
    matching = pb.PurgeInstanceFilter(
        createdTimeFrom=created_from,
        createdTimeTo=shapes.query_time(call.query, "createdTimeTo"),
        runtimeStatus=shapes.query_statuses(call.query),
    )
    purged = await _rpc(call.stub.PurgeInstances, pb.PurgeInstancesRequest(purgeInstanceFilter=matching))
    return _purged(purged)


def _purged(purged: pb.PurgeInstancesResponse) -> Response:
    if not purged.deletedInstanceCount:
        raise RequestRefused(404)
    return _json({"instancesDeleted": purged.deletedInstanceCount})


async def _raise_event(call: _Call, instance_id: str, event_name: str) -> Response:
    await _require_unfinished(call, instance_id)
    if not _is_json(call.request):
        refuse(400, "An event must be sent as application/json.")
    text = _json_text(await _read_body(call.request))
    event = pb.RaiseEventRequest(instanceId=instance_id, name=event_name, input=_string(text or "null"))
    await _rpc(call.stub.RaiseEvent, event)
    return Response(None, 202)


async def _terminate(call: _Call, instance_id: str) -> Response:
    await _require_unfinished(call, instance_id)
    # The reason becomes the output as it is, not as a JSON string: the extension does the same.
    reason = _string(call.query.get("reason"))
    await _rpc(call.stub.TerminateInstance, pb.TerminateRequest(instanceId=instance_id, output=reason))
    return Response(None, 202)


async def _suspend(call: _Call, instance_id: str) -> Response:
    await _require_unfinished(call, instance_id)
    reason = _string(call.query.get("reason"))
    await _rpc(call.stub.SuspendInstance, pb.SuspendRequest(instanceId=instance_id, reason=reason))
    return Response(None, 202)


async def _resume(call: _Call, instance_id: str) -> Response:
    await _require_unfinished(call, instance_id)
    reason = _string(call.query.get("reason"))
    await _rpc(call.stub.ResumeInstance, pb.ResumeRequest(instanceId=instance_id, reason=reason))
    return Response(None, 202)


async def _rewind(call: _Call, instance_id: str) -> Response:
    status = (await _state(call, instance_id)).orchestrationStatus
    if status != pb.ORCHESTRATION_STATUS_FAILED:
        refuse(412, f"The instance is {shapes.STATUS_NAMES[status]}; only failed instances can be rewound.")
    reason = _string(call.query.get("reason"))
    await _rpc(call.stub.RewindInstance, pb.RewindInstanceRequest(instanceId=instance_id, reason=reason))
    return Response(None, 202)


async def _restart(call: _Call, instance_id: str) -> Response:
    wait = _wait_seconds(call)
    state = await _state(call, instance_id, payloads=True)
    new_id = shapes.query_flag(call.query, "restartWithNewInstanceId", default=True)
    if state.orchestrationStatus in _FINISHED:
        request = pb.RestartInstanceRequest(instanceId=instance_id, restartWithNewInstanceId=new_id)
        restarted = await _rpc(call.stub.RestartInstance, request)
    elif new_id:
        # The hub restarts finished instances alone; the extension starts a twin of a running one.
        restarted = await _rpc(
            call.stub.StartInstance,
            pb.CreateInstanceRequest(
                instanceId=uuid.uuid4().hex,
                name=state.name,
                input=state.input if state.HasField("input") else None,
                version=state.version if state.HasField("version") else None,
            ),
        )
    else:
        refuse(409, "The instance has not finished, so its id is in use.")
    return await _started(call, restarted.instanceId, wait)


_OPERATIONS: dict[str, Callable[[_Call, str], Awaitable[Response]]] = {
    "terminate": _terminate,
    "suspend": _suspend,
    "resume": _resume,
    "rewind": _rewind,
    "restart": _restart,
}


async def _start(call: _Call, function_name: str, instance_id: str) -> Response:
    name = shapes.known_function(call.orchestrator_names, function_name, "orchestrator")
    shapes.check_instance_id(instance_id)
    wait = _wait_seconds(call)
    started = await _rpc(
        call.stub.StartInstance,
        pb.CreateInstanceRequest(
            instanceId=instance_id,
            name=name,
            input=_string(_json_text(await _read_body(call.request))),
            version=_string(shapes.query_text(call.query, "version")),
            # The extension's default: the id of a finished instance may be taken again.
            orchestrationIdReusePolicy=pb.OrchestrationIdReusePolicy(replaceableStatus=_FINISHED),
        ),
    )
    return await _started(call, started.instanceId, wait)


def _wait_seconds(call: _Call) -> tuple[float, float] | None:
    """Return timeout and polling interval; ``None``, not to wait, unless both are given."""
    timeout = shapes.query_seconds(call.query, "timeout")
    interval = shapes.query_seconds(call.query, "pollingInterval")
    if timeout is None or interval is None:
        return None
    if interval > timeout:
        refuse(400, "'pollingInterval' cannot exceed 'timeout'.")
    return timeout, max(interval, _SHORTEST_POLL_SECONDS)


async def _started(call: _Call, instance_id: str, wait: tuple[float, float] | None) -> Response:
    if wait is not None and (state := await _wait(call, instance_id, *wait)) is not None:
        if state.orchestrationStatus == pb.ORCHESTRATION_STATUS_COMPLETED:
            return _json(shapes.shown_payload(state.output.value))
        return await _get_status(call, instance_id, after_wait=True)
    body = shapes.check_status_payload(call.origin, call.task_hub, instance_id)
    return _json(body, 202, _poll_headers(body["statusQueryGetUri"]))


async def _wait(call: _Call, instance_id: str, limit: float, interval: float) -> pb.OrchestrationState | None:
    """Poll until the instance has finished; ``None`` at the time limit or when the client has gone.

    Polled, because a wait on the hub would hold one of its few threads for as long as it lasts.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit
    while True:
        state = await _state(call, instance_id, payloads=True)
        if state.orchestrationStatus in _FINISHED:
            return state
        remaining = deadline - loop.time()
        if remaining <= 0 or await call.request.is_disconnected():
            return None
        await asyncio.sleep(min(interval, remaining))


async def _list_entities(call: _Call, name: str) -> Response:
    query = pb.EntityQuery(
        instanceIdStartsWith=_string(f"@{name.lower()}@" if name else "@"),
        lastModifiedFrom=shapes.query_time(call.query, "lastOperationTimeFrom"),
        lastModifiedTo=shapes.query_time(call.query, "lastOperationTimeTo"),
        pageSize=wrappers_pb2.Int32Value(value=shapes.query_page_size(call.query) or _DEFAULT_PAGE_SIZE),
        continuationToken=_hub_token(call, "entities"),
        # An entity with operations under way is "transient" to the hub, one without state does not exist.
        includeTransient=True,
        includeState=True,
    )
    found = await _rpc(call.stub.QueryEntities, pb.QueryEntitiesRequest(query=query))
    fetch_state = shapes.query_flag(call.query, "fetchState")
    existing = [entity for entity in found.entities if entity.HasField("serializedState")]
    items = [shapes.entity_payload(entity, fetch_state=fetch_state) for entity in existing]
    return _page("entities", items, found)


async def _get_entity(call: _Call, name: str, key: str) -> Response:
    instance_id = shapes.entity_instance_id(name, key)
    found = await _rpc(call.stub.GetEntity, pb.GetEntityRequest(instanceId=instance_id, includeState=True))
    if not found.exists or not found.entity.HasField("serializedState"):
        raise RequestRefused(404)
    return _json(shapes.shown_payload(found.entity.serializedState.value))


async def _signal_entity(call: _Call, name: str, key: str) -> Response:
    instance_id = shapes.entity_instance_id(name, key)
    shapes.known_function(call.entity_names, name, "entity")
    body = await _read_body(call.request)
    if not body:
        text = None
    elif _is_json(call.request):
        text = _json_text(body)
    else:
        text = json.dumps(body.decode("utf-8", errors="replace"))
    deleting = call.request.method == "DELETE"
    signal = pb.SignalEntityRequest(
        instanceId=instance_id,
        name="delete" if deleting else call.query.get("op", ""),
        input=_string(text),
        requestId=uuid.uuid4().hex,
    )
    await _rpc(call.stub.SignalEntity, signal)
    return Response(None, 202)
