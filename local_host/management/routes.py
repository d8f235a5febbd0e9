"""Which path and method does what, and what a client is told when the task hub fails."""

import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Any, override
from urllib.parse import quote, unquote

import durabletask.internal.orchestrator_service_pb2 as pb
import grpc
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from local_host.management import entities, instances, start
from local_host.management.call import FINISHED, Call, Managed, answer_json
from local_host.management.query import query_text
from local_host.management.refusal import RequestRefused, refuse
from local_host.management.shapes import MANAGEMENT_PREFIX

_log = logging.getLogger("local_host.management")
_FAILURES = {
    grpc.StatusCode.NOT_FOUND: (404, "There is no such instance."),
    grpc.StatusCode.ALREADY_EXISTS: (409, "An instance with this id is already there."),
    grpc.StatusCode.FAILED_PRECONDITION: (410, "The instance is not in a state that allows this."),
    grpc.StatusCode.INVALID_ARGUMENT: (400, "The task hub does not take an id, a name, a time or a token of this."),
    grpc.StatusCode.OUT_OF_RANGE: (400, "The task hub does not take a time or a number of this."),
    grpc.StatusCode.UNIMPLEMENTED: (501, "The task hub cannot do this."),
    grpc.StatusCode.UNAUTHENTICATED: (502, "The task hub does not let this host in: check the host's credentials."),
    grpc.StatusCode.PERMISSION_DENIED: (
        502,
        "The task hub does not allow this: check the roles of the host's identity.",
    ),
    grpc.StatusCode.UNAVAILABLE: (503, "The task hub cannot be reached."),
    grpc.StatusCode.ABORTED: (503, "The task hub gave this up; try again."),
    grpc.StatusCode.CANCELLED: (503, "The task hub gave this up; try again."),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (503, "This is too much for the task hub: try later, or ask for less at once."),
    grpc.StatusCode.DEADLINE_EXCEEDED: (504, "The task hub did not answer in time; what was asked for may yet happen."),
}
_OPERATIONS: dict[str, Callable[[Call, str], Awaitable[Response]]] = {
    "terminate": instances.terminate,
    "suspend": instances.suspend,
    "resume": instances.resume,
    "rewind": instances.rewind,
    "restart": start.restart,
}


class _ManagementRoute(BaseRoute):
    """A route for the prefix and all below it, in any case, for every method.

    Starlette's own ``{rest:path}`` stops at line breaks, which a decoded path may hold.
    """

    def __init__(self, hub: Managed) -> None:
        self._hub = hub

    @override
    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        below = scope["type"] == "http" and f"{scope['path']}/".lower().startswith(f"{MANAGEMENT_PREFIX}/")
        return (Match.FULL if below else Match.NONE), {}

    @override
    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        query: dict[str, str] = {}
        for name, value in request.query_params.multi_items():
            query[name.lower()] = f"{query[name.lower()]},{value}" if name.lower() in query else value
        response = await _answer(Call(request, self._hub, query))
        await response(scope, receive, send)


def management_routes(
    stub: Any,
    *,
    task_hub: str,
    orchestrator_names: Collection[str],
    entity_names: Collection[str] = (),
    overridable: Collection[pb.OrchestrationStatus] = FINISHED,
    use_forwarded_host: bool = False,
    code: str | None = None,
) -> list[BaseRoute]:
    """Return the routes below ``/runtime/webhooks/durabletask`` for one task hub.

    ``stub`` is a ``TaskHubSidecarServiceStub`` over a ``grpc.aio`` channel of the loop that serves the
    requests. The name collections are read at each request, so they may be filled later. ``overridable`` are
    the statuses of instances whose ids a new instance may take (``overridableExistingInstanceStates``). URLs in answers
    begin with the request's own scheme and ``Host``, or with ``X-Forwarded-Proto`` and ``X-Forwarded-Host`` if
    ``use_forwarded_host`` (``httpSettings.useForwardedHost``) and both are there, and carry ``code`` if there is one;
    whether a request has the key is not asked here. No request raises: what fails unforeseen is logged in full and
    answered with a 500 that tells nothing.
    """
    hub = Managed(stub, task_hub, orchestrator_names, entity_names, overridable, use_forwarded_host, code)
    return [_ManagementRoute(hub)]


async def _answer(call: Call) -> Response:
    request = call.request
    try:
        hub = query_text(call.query, "taskHub")
        if hub is not None and hub.lower() != call.hub.task_hub.lower():
            refuse(404, f"There is no task hub named '{hub}' here.")
        return await _dispatch(call, _path_segments(request))
    except RequestRefused as refusal:
        if refusal.body is None:
            return Response(None, refusal.status)
        return answer_json(refusal.body, refusal.status)
    except ClientDisconnect:
        return Response(None, 400)
    except grpc.aio.AioRpcError as error:
        return _rpc_failure(request, error)
    except Exception:  # noqa: BLE001 - the last line of defence: no traceback may reach a client
        _log.exception("%s %r failed", request.method, request.scope["path"])
        return answer_json({"Message": "The request could not be processed."}, 500)


def _rpc_failure(request: Request, error: grpc.aio.AioRpcError) -> Response:
    # The details are another service's words: they may hold what neither the client nor the log should see.
    status, message = _FAILURES.get(error.code(), (500, "The request could not be processed."))
    if status >= 500:
        _log.error("%s %r failed: the task hub answered %s", request.method, request.scope["path"], error.code().name)
    return answer_json({"Message": message}, status)


def _path_segments(request: Request) -> list[str]:
    # Split before decoding: "%2F" inside an id must not become a separator. The server's raw_path is optional in ASGI.
    raw: bytes | None = request.scope.get("raw_path")
    path = quote(request.scope["path"]) if raw is None else raw.decode("latin-1")
    below = path.split("/", MANAGEMENT_PREFIX.count("/") + 1)[MANAGEMENT_PREFIX.count("/") + 1 :]
    try:
        return [unquote(part, errors="strict") for part in "".join(below).strip("/").split("/")]
    except UnicodeDecodeError:
        refuse(400, "The path is not percent-encoded UTF-8.")


async def _dispatch(call: Call, segments: list[str]) -> Response:  # noqa: PLR0911, PLR0912 - a row a route
    # Fixed path parts are matched in any case, as the extension's route templates are.
    controller, *rest = segments
    match (call.request.method, controller.lower(), *rest):
        case ("GET", "instances"):
            return await instances.list_all(call)
        case ("DELETE", "instances"):
            return await instances.purge_matching(call)
        case ("GET", "instances", instance_id):
            return await instances.get_status(call, instance_id)
        case ("DELETE", "instances", instance_id):
            return await instances.purge_one(call, instance_id)
        case ("POST", "instances", instance_id, operation) if operation.lower() in _OPERATIONS:
            return await _OPERATIONS[operation.lower()](call, instance_id)
        case ("POST", "instances", instance_id, operation, event) if operation.lower() == "raiseevent":
            return await instances.raise_event(call, instance_id, event)
        case ("POST", "orchestrators", function_name):
            return await start.start(call, function_name, None)
        case ("POST", "orchestrators", function_name, instance_id):
            return await start.start(call, function_name, instance_id)
        case ("GET", "entities"):
            return await entities.list_all(call, "")
        case ("GET", "entities", name):
            return await entities.list_all(call, name)
        case ("GET", "entities", name, key):
            return await entities.get(call, name, key)
        case ("POST" | "DELETE", "entities"):
            return await entities.signal(call, "", "")
        case ("POST" | "DELETE", "entities", name):
            return await entities.signal(call, name, "")
        case ("POST" | "DELETE", "entities", name, key):
            return await entities.signal(call, name, key)
        case _:
            raise RequestRefused(404)
