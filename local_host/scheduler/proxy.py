"""The way from this host to the scheduler: its channel, and a proxy on loopback for the app's clients."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, override

import grpc
import grpc.aio
from durabletask.azuremanaged.internal.durabletask_grpc_interceptor import DTSAsyncDefaultClientInterceptorImpl
from durabletask.internal import orchestrator_service_pb2 as pb
from google.protobuf.message import DecodeError

from local_host.host_json import HostSettings
from local_host.scheduler.connection import Connection
from local_host.scheduler.tokens import AsyncTokens, Tokens
from local_host.task_hub.hub import MESSAGE_LIMITS
from local_host.task_hub.store import Refused

NOT_FOR_CLIENTS = ("GetWorkItems", "Complete", "AbandonTask", "CreateTaskHub", "DeleteTaskHub", "SkipGraceful")
"""What the names of the calls begin with that take work, say what became of it, or are for the hub as a whole."""

_SERVICE = pb.DESCRIPTOR.services_by_name["TaskHubSidecarService"]
_START = f"/{_SERVICE.full_name}/StartInstance"


def channel_options(connection: Connection) -> list[tuple[str, Any]]:
    """The limits of messages, a scheduler that is back found soon, and no HTTP proxy on the way to this machine."""
    direct = [("grpc.enable_http_proxy", 0)] if connection.is_local else []
    return [*MESSAGE_LIMITS, ("grpc.max_reconnect_backoff_ms", 5000), *direct]


def upstream(connection: Connection, tokens: Tokens | None, settings: HostSettings) -> grpc.aio.Channel:
    """Open a channel to the scheduler whose calls carry the name of the task hub and, where there is one, a token.

    Instances are started as ``host.json`` says where the caller does not.
    """
    metadata: Any = DTSAsyncDefaultClientInterceptorImpl(
        AsyncTokens(tokens) if tokens is not None else None,  # type: ignore[arg-type]  # all that is called of it
        connection.hub,
        resource_id=connection.audience,
    )
    interceptors = [_Starts(settings), _UnaryMetadata(metadata), _StreamMetadata(metadata)]
    options = channel_options(connection)
    if not connection.secure:
        return grpc.aio.insecure_channel(connection.target, options, interceptors=interceptors)
    return grpc.aio.secure_channel(
        connection.target, grpc.ssl_channel_credentials(), options, interceptors=interceptors
    )


class _Starts(grpc.aio.UnaryUnaryClientInterceptor):
    """Gives a start the version and the states of an instance that it may replace, as the host on Azure does.

    Source: ``StartInstance`` of the Durable Functions extension's ``TaskHubGrpcServer.cs``.
    """

    def __init__(self, settings: HostSettings) -> None:
        self._version = settings.version
        self._replaceable = settings.replaceable

    @override
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        if client_call_details.method in (_START, _START.encode()):
            request = self._completed(request)
        return await continuation(client_call_details, request)

    def _completed(self, request: pb.CreateInstanceRequest | bytes) -> pb.CreateInstanceRequest | bytes:
        """Fill in what is missing, in a message of the host's own stub or the bytes that a client sent."""
        try:
            start = pb.CreateInstanceRequest.FromString(request) if isinstance(request, bytes) else request
        except DecodeError:
            return request  # the scheduler will say so
        if self._version and not start.HasField("version"):
            start.version.value = self._version
        if not start.HasField("orchestrationIdReusePolicy"):
            start.orchestrationIdReusePolicy.replaceableStatus.extend(self._replaceable)
        return start.SerializeToString() if isinstance(request, bytes) else start


class _UnaryMetadata(grpc.aio.UnaryUnaryClientInterceptor):
    """Metadata for calls with one answer. gRPC takes an interceptor of several kinds for this kind only."""

    def __init__(self, metadata: Any) -> None:
        self._metadata = metadata

    @override
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._metadata.intercept_unary_unary(continuation, client_call_details, request)


class _StreamMetadata(grpc.aio.UnaryStreamClientInterceptor):
    """Metadata for calls with a stream of answers."""

    def __init__(self, metadata: Any) -> None:
        self._metadata = metadata

    @override
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._metadata.intercept_unary_stream(continuation, client_call_details, request)


class Proxy(grpc.GenericRpcHandler):
    """Passes the calls of clients on, byte for byte, with their deadlines and how they end, and nothing else of them.

    Whoever calls has been let in by the ``Gate`` before, which also turns ``Refused`` into a status.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._handlers = {
            f"/{_SERVICE.full_name}/{method.name}": _handler(method, channel) for method in _SERVICE.methods
        }

    @override
    def service(self, handler_call_details: Any) -> Any:
        return self._handlers.get(handler_call_details.method)


def _handler(method: Any, channel: grpc.aio.Channel) -> Any:
    path = f"/{_SERVICE.full_name}/{method.name}"
    if method.name.startswith(NOT_FOR_CLIENTS):
        return grpc.unary_unary_rpc_method_handler(_refuse)
    if method.server_streaming:
        return grpc.unary_stream_rpc_method_handler(_streaming(channel.unary_stream(path)))
    return grpc.unary_unary_rpc_method_handler(_unary(channel.unary_unary(path)))


async def _refuse(_request: bytes, _context: Any) -> bytes:
    raise Refused("PERMISSION_DENIED", "This call is not for the clients of an app.")


def _unary(upstream_call: Any) -> Callable[[bytes, Any], Awaitable[bytes]]:
    async def forward(request: bytes, context: Any) -> bytes:
        try:
            answer: bytes = await upstream_call(request, timeout=context.time_remaining())
        except grpc.aio.AioRpcError as error:
            raise _refused(error) from None
        return answer

    return forward


def _streaming(upstream_call: Any) -> Callable[[bytes, Any], AsyncIterator[bytes]]:
    async def forward(request: bytes, context: Any) -> AsyncIterator[bytes]:
        call = upstream_call(request, timeout=context.time_remaining())
        try:
            async for each in call:
                yield each
        except grpc.aio.AioRpcError as error:
            raise _refused(error) from None
        finally:
            call.cancel()

    return forward


def _refused(error: grpc.aio.AioRpcError) -> Refused:
    return Refused(error.code().name, error.details() or "")
