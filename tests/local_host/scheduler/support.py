"""A scheduler's engine on a loop of its own, a scheduler that keeps what it is told, and a net that can be cut."""

import asyncio
import json
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from azure.core.credentials import AccessToken
from durabletask.client import OrchestrationState, TaskHubGrpcClient
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.internal import orchestrator_service_pb2_grpc as stubs
from google.protobuf import empty_pb2

from local_host.app_loader import App, load_app
from local_host.client_binding import client_configuration
from local_host.durable import DurableFunctions
from local_host.host_json import HostSettings
from local_host.invocation import Invoker
from local_host.scheduler.connection import Connection, parse_connection
from local_host.scheduler.engine import SchedulerEngine, scheduler_engine
from local_host.task_hub.dispatch import ACTIVITY, ENTITY, TURN
from local_host.task_hub.hub import MESSAGE_LIMITS
from local_host.testing import HubControl, HubThread

APP = Path(__file__).parent / "app"
SLOTS = {TURN: 4, ACTIVITY: 3, ENTITY: 2}


def connection_to(hub: HubControl, address: str | None = None) -> Connection:
    """The connection to an embedded hub that plays the scheduler."""
    return parse_connection(
        f"Endpoint=http://{address or hub.hub.address};TaskHub={hub.hub.credential};Authentication=None", "unused"
    )


@dataclass
class EngineControl:
    """An engine that runs, with the app that it runs."""

    thread: HubThread
    engine: SchedulerEngine
    app: App
    functions: DurableFunctions
    invoker: Invoker
    module: Any

    @property
    def metadata(self) -> list[tuple[str, str]]:
        """What opens the proxy."""
        return [("taskhub", self.engine.credential)]

    def work(self) -> None:
        """Begin to work."""

        async def begin() -> None:
            self.engine.work(self.functions, SLOTS)

        self.thread.run(begin())

    def drain_aside(self) -> Any:
        """Begin to drain, and give what becomes done with it."""
        return asyncio.run_coroutine_threadsafe(self.engine.drain(), self.thread.loop)

    @contextmanager
    def client(self) -> Iterator[TaskHubGrpcClient]:
        """A client of the proxy."""
        client = TaskHubGrpcClient(host_address=self.engine.address, metadata=self.metadata)
        try:
            yield client
        finally:
            client.close()

    @contextmanager
    def channel(self) -> Iterator[Any]:
        """A bare channel to the proxy."""
        with grpc.insecure_channel(self.engine.address, options=MESSAGE_LIMITS) as channel:
            yield channel

    @contextmanager
    def stub(self) -> Iterator[Any]:
        """A bare stub of the proxy; its calls need ``metadata``."""
        with self.channel() as channel:
            yield stubs.TaskHubSidecarServiceStub(channel)  # type: ignore[no-untyped-call]


@contextmanager
def running_engine(
    connection: Connection, *, work: bool = True, settings: HostSettings | None = None
) -> Iterator[EngineControl]:
    """Run an engine with the functions of the test app."""
    loaded = load_app(APP)
    thread = HubThread()
    context = scheduler_engine(connection, settings or loaded.settings)

    async def leave() -> None:
        await context.__aexit__(None, None, None)

    try:
        engine = thread.run(context.__aenter__())
        try:
            configuration = client_configuration(engine.address, engine.credential, "http://127.0.0.1:1", "hub")
            invoker = Invoker(configuration)
            functions = DurableFunctions(loaded.functions, invoker, loaded.settings)
            control = EngineControl(thread, engine, loaded, functions, invoker, sys.modules["function_app"])
            if work:
                control.work()
            yield control
        finally:
            thread.run(leave())
            invoker.close()
    finally:
        thread.close()


class Credential:
    """A credential whose tokens are told by the test; it may fail, or take its time."""

    def __init__(self, give: Callable[[int], AccessToken]) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.closed = False
        self._give = give

    def get_token(self, *scopes: str, **_options: Any) -> AccessToken:
        """Give the next token."""
        self.asked.append(scopes)
        return self._give(len(self.asked))

    def close(self) -> None:
        """Note that nobody needs it any more."""
        self.closed = True


@dataclass
class FakeScheduler(stubs.TaskHubSidecarServiceServicer):
    """A scheduler that hands out what a test gives it, and keeps what it is told."""

    calls: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    requests: list[Any] = field(default_factory=list)
    items: "queue.Queue[pb.WorkItem | None]" = field(default_factory=queue.Queue)
    completed: "queue.Queue[Any]" = field(default_factory=queue.Queue)
    abandoned: "queue.Queue[str]" = field(default_factory=queue.Queue)
    history: list[pb.HistoryEvent] = field(default_factory=list)
    fail: Callable[[str, Any, Any], None] = lambda method, request, context: None
    time_remaining: float | None = None
    gone: threading.Event = field(default_factory=threading.Event)
    address: str = ""

    def named(self, name: str) -> list[dict[str, str]]:
        """The metadata of each call of a name."""
        return [metadata for method, metadata in self.calls if method == name]

    def _hear(self, name: str, request: Any, context: Any) -> None:
        self.calls.append((name, dict(context.invocation_metadata())))
        self.requests.append(request)
        self.fail(name, request, context)

    def Hello(self, request: Any, context: Any) -> Any:
        self._hear("Hello", request, context)
        return empty_pb2.Empty()

    def StartInstance(self, request: Any, context: Any) -> Any:
        self._hear("StartInstance", request, context)
        self.time_remaining = context.time_remaining()
        return pb.CreateInstanceResponse(instanceId=request.instanceId)

    def WaitForInstanceCompletion(self, request: Any, context: Any) -> Any:
        self._hear("WaitForInstanceCompletion", request, context)
        context.add_callback(self.gone.set)
        self.gone.wait(30)
        return pb.GetInstanceResponse()

    def GetInstance(self, request: Any, context: Any) -> Any:
        self._hear("GetInstance", request, context)
        state = pb.OrchestrationState(input={"value": "y" * int(request.instanceId or 0)})
        return pb.GetInstanceResponse(exists=True, orchestrationState=state)

    def StreamInstanceHistory(self, request: Any, context: Any) -> Iterator[Any]:
        self._hear("StreamInstanceHistory", request, context)
        context.add_callback(self.gone.set)
        for event in self.history:
            yield pb.HistoryChunk(events=[event])
        self.fail("StreamInstanceHistory.end", request, context)

    def GetWorkItems(self, request: Any, context: Any) -> Iterator[Any]:
        self._hear("GetWorkItems", request, context)
        context.add_callback(lambda: self.items.put(None))
        while (item := self.items.get()) is not None:
            yield item

    def CompleteOrchestratorTask(self, request: Any, context: Any) -> Any:
        return self._complete("CompleteOrchestratorTask", request, context)

    def CompleteActivityTask(self, request: Any, context: Any) -> Any:
        return self._complete("CompleteActivityTask", request, context)

    def CompleteEntityTask(self, request: Any, context: Any) -> Any:
        return self._complete("CompleteEntityTask", request, context)

    def _complete(self, name: str, request: Any, context: Any) -> Any:
        self._hear(name, request, context)
        self.completed.put(request)
        return pb.CompleteTaskResponse()

    def AbandonTaskOrchestratorWorkItem(self, request: Any, context: Any) -> Any:
        self.abandoned.put(request.completionToken)
        return pb.AbandonOrchestrationTaskResponse()

    def AbandonTaskActivityWorkItem(self, request: Any, context: Any) -> Any:
        self.abandoned.put(request.completionToken)
        return pb.AbandonActivityTaskResponse()

    def AbandonTaskEntityWorkItem(self, request: Any, context: Any) -> Any:
        self.abandoned.put(request.completionToken)
        return pb.AbandonEntityTaskResponse()


@contextmanager
def running_fake(
    fake: FakeScheduler | None = None, port: int = 0, options: list[tuple[str, int]] = MESSAGE_LIMITS
) -> Iterator[FakeScheduler]:
    """Serve a fake scheduler on loopback."""
    fake = fake or FakeScheduler()
    pool = ThreadPoolExecutor(16)
    server = grpc.server(pool, options=options)
    stubs.add_TaskHubSidecarServiceServicer_to_server(fake, server)  # type: ignore[no-untyped-call]
    fake.address = f"127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port}')}"
    server.start()
    try:
        yield fake
    finally:
        fake.gone.set()
        fake.items.put(None)
        server.stop(None).wait()
        pool.shutdown()


class Net:
    """A net between a worker and a hub: it can be cut, and mended on the same port."""

    def __init__(self, target: str) -> None:
        self._target = target.split(":")
        self._thread = HubThread()
        self._links: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._port = 0
        self.mend()

    @property
    def address(self) -> str:
        """Where the hub is to be found."""
        return f"127.0.0.1:{self._port}"

    def mend(self) -> None:
        """Let everything through."""

        async def listen() -> None:
            self._server = await asyncio.start_server(self._link, "127.0.0.1", self._port)
            self._port = self._server.sockets[0].getsockname()[1]

        self._thread.run(listen())

    def cut(self) -> None:
        """Break what is connected, and let nobody connect."""

        async def end() -> None:
            assert self._server is not None
            self._server.close()
            for link in list(self._links):
                link.transport.abort()

        self._thread.run(end())

    def close(self) -> None:
        """End it for good."""
        self.cut()

        async def ended() -> None:
            while self._links:  # noqa: ASYNC110  # an event for each link would be more than this is worth
                await asyncio.sleep(0.01)

        self._thread.run(ended())
        self._thread.close()

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server = self._server
        assert server is not None
        far_reader, far_writer = await asyncio.open_connection(self._target[0], int(self._target[1]))
        self._links |= {writer, far_writer}
        try:
            if not server.is_serving():  # it was cut meanwhile
                writer.transport.abort()
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        finally:
            self._links -= {writer, far_writer}


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


def ended(hub: HubControl, instance_id: str) -> OrchestrationState:
    """Wait for the end of an orchestration."""
    state = hub.client.wait_for_orchestration_completion(instance_id, timeout=30)
    assert state is not None
    return state


def output(hub: HubControl, name: str, given: Any = None) -> Any:
    """Run an orchestration to its end, which has to be a success."""
    state = ended(hub, hub.start(name, given))
    assert state.failure_details is None, state.failure_details
    return json.loads(state.serialized_output or "null")
