"""A shortcut for the SDK's durable clients: calls to the task hub in this process, without gRPC.

The clients that functions get are the SDK's own, with another stub, whose calls go to the hub's service as they are. A
call over gRPC costs as much as all the rest of a small request. Where the SDK is not as it is known here, or an app
makes a client of its own, gRPC is there for it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from functools import cache
from typing import Any

import grpc.aio
from durabletask.internal import orchestrator_service_pb2 as pb

from local_host.task_hub import TaskHub, TaskHubError, queries
from local_host.task_hub.service import Service, status_of


def _rpc_error(error: Exception) -> grpc.RpcError:
    """What the SDK's clients, sync and async, expect of a call that failed."""
    code, details = status_of(error)
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


class AsyncDirectStub:
    """The calls of ``TaskHubSidecarService``, for coroutines on the hub's event loop."""

    def __init__(self, hub: TaskHub) -> None:
        self._service = Service(hub)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._service, name)

        async def call(request: Any, timeout: float | None = None) -> Any:  # noqa: ASYNC109  # as the SDK calls it
            try:
                if timeout is None:
                    return await method(request, None)
                return await asyncio.wait_for(method(request, None), timeout)
            except Exception as error:  # noqa: BLE001  # whatever it is, it becomes a status
                raise _rpc_error(error) from None

        return call

    async def StreamInstanceHistory(
        self,
        request: pb.StreamInstanceHistoryRequest,
        timeout: float | None = None,  # noqa: ARG002, ASYNC109  # nothing is waited for
    ) -> AsyncIterator[pb.HistoryChunk]:
        """Read a history."""
        try:
            async for chunk in self._service.StreamInstanceHistory(request, None):
                yield chunk
        except Exception as error:  # noqa: BLE001  # whatever it is, it becomes a status
            raise _rpc_error(error) from None


class DirectStub:
    """The same for the threads of sync functions."""

    def __init__(self, hub: TaskHub) -> None:
        self._hub = hub
        self._calls = AsyncDirectStub(hub)
        self._loop = asyncio.get_running_loop()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self._calls, name)
        return lambda request, timeout=None: self._on_loop(call(request, timeout))

    def GetInstance(self, request: pb.GetInstanceRequest, timeout: float | None = None) -> pb.GetInstanceResponse:  # noqa: ARG002
        """Read an instance on the calling thread: the most frequent of all calls needs nobody else."""
        try:
            with self._hub.shared_reader() as reader:
                state = queries.state(reader, request.instanceId, payloads=request.getInputsAndOutputs)
        except TaskHubError as error:
            raise _rpc_error(error) from None
        return pb.GetInstanceResponse(exists=state is not None, orchestrationState=state)

    def StreamInstanceHistory(self, request: pb.StreamInstanceHistoryRequest) -> Iterator[pb.HistoryChunk]:
        """Read a history, whole."""

        async def collect() -> list[pb.HistoryChunk]:
            return [chunk async for chunk in self._calls.StreamInstanceHistory(request)]

        yield from self._on_loop(collect())

    def _on_loop(self, work: Any) -> Any:
        if _running_loop() is self._loop:
            work.close()
            raise RuntimeError("A sync durable client would block the host here; use the async one in coroutines.")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def install(configuration: str, hub: TaskHub) -> Callable[[], None]:
    """Make the clients of a binding configuration call the hub directly; gives what undoes it.

    Does nothing where the SDK is not installed, or is not as it is known here.
    """
    try:
        from azure.durable_functions import client as sdk
        from azure.durable_functions.internal import azurefunctions_grpc_interceptor as interceptor

        # Each async client asks for the version of its package, which is read from the disk each time.
        interceptor.version = cache(interceptor.version)  # type: ignore[attr-defined]  # not in its __all__
        clients, ordinary = sdk._sync_client_cache, sdk.DurableFunctionsClient._get_stub
        sync_client = sdk.SyncDurableFunctionsClient(configuration)
    except (ImportError, AttributeError):
        return lambda: None
    sync_client._stub = DirectStub(hub)
    clients[configuration] = sync_client
    async_stub: Any = AsyncDirectStub(hub)
    loop = asyncio.get_running_loop()

    def get_stub(client: sdk.DurableFunctionsClient) -> Any:
        # On another loop, such as that of asyncio.run() in a sync function, gRPC it is.
        if client._stub is None and client.taskHubName == hub.credential and _running_loop() is loop:
            client._stub = async_stub
        return ordinary(client)

    sdk.DurableFunctionsClient._get_stub = get_stub  # type: ignore[method-assign, assignment]

    def undo() -> None:
        clients.pop(configuration, None)
        sync_client.close()
        sdk.DurableFunctionsClient._get_stub = ordinary  # type: ignore[method-assign]

    return undo
