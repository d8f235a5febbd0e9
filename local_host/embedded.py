"""The embedded engine: a task hub in this process, whose work the app's functions do without gRPC between them."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from local_host.direct_client import AsyncDirectStub
from local_host.durable import DurableFunctions
from local_host.engine import Engine
from local_host.errors import HostError
from local_host.host_json import HostSettings
from local_host.task_hub import TaskHub, TaskHubError
from local_host.task_hub.clock import Clock
from local_host.worker import InProcessWorker


class EmbeddedEngine:
    """A task hub, and the worker in this process that does its work; see ``Engine``."""

    def __init__(self, hub: TaskHub, description: str) -> None:
        self.hub: TaskHub | None = hub
        self._hub = hub
        self.address = hub.address
        self.credential = hub.credential
        self.stub = AsyncDirectStub(hub)
        self.description = description
        self._worker: InProcessWorker | None = None

    def work(self, functions: DurableFunctions, slots: Mapping[str, int]) -> None:
        """Begin to run what is due."""
        self._worker = InProcessWorker(self._hub, functions, slots)
        self._hub.connect(self._worker)

    async def drain(self) -> None:
        """Take nothing more, and wait for what runs; let nobody wait for what does not run any more."""
        self._hub.release_waiting()
        if self._worker is not None:
            await self._worker.drain()


@asynccontextmanager
async def embedded_engine(data: Path | None, settings: HostSettings, clock: Clock | None) -> AsyncIterator[Engine]:
    """Run a task hub in a folder, or one that is forgotten. Raises ``HostError`` when its file cannot be opened."""
    hub = TaskHub(
        data,
        name=settings.hub_name,
        clock=clock,
        default_version=settings.version or None,
        replaceable=frozenset(settings.replaceable),
    )
    try:
        await hub.start()
    except TaskHubError as error:
        raise HostError(str(error)) from None
    try:
        yield EmbeddedEngine(hub, f"the embedded task hub '{settings.hub_name}'{'' if data else ', kept nowhere'}")
    finally:
        await hub.stop()
