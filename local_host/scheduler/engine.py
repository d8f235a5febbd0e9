"""The engine: a scheduler's task hub, with a worker for its work and a proxy for the app's clients."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
from durabletask.internal import orchestrator_service_pb2_grpc as stubs

from local_host.durable import DurableFunctions
from local_host.host_json import HostSettings
from local_host.scheduler.clients import streams_with_hub
from local_host.scheduler.connection import Connection
from local_host.scheduler.proxy import Proxy, upstream
from local_host.scheduler.tokens import Tokens
from local_host.scheduler.worker import SchedulerWorker
from local_host.task_hub import TaskHub
from local_host.task_hub.hub import MESSAGE_LIMITS
from local_host.task_hub.service import Gate


@dataclass
class SchedulerEngine:
    """A task hub of a Durable Task Scheduler; see ``local_host.engine.Engine``."""

    address: str
    credential: str
    stub: Any
    description: str
    connection: Connection
    tokens: Tokens | None = field(repr=False)
    worker: SchedulerWorker | None = None
    hub: TaskHub | None = None

    def work(self, functions: DurableFunctions, slots: Mapping[str, int]) -> None:
        """Begin to run the work of the hub by the app's functions."""
        self.worker = SchedulerWorker(self.connection, self.tokens, functions, slots, asyncio.get_running_loop())
        self.worker.start()  # type: ignore[no-untyped-call]

    async def drain(self) -> None:
        """Take nothing more, and wait for what runs. What runs when this is cancelled is handed out again."""
        if self.worker is not None:
            await self.worker.drain()

    async def end(self) -> None:
        """End the worker, whatever it does."""
        if self.worker is not None:
            await self.worker.end()


@asynccontextmanager
async def scheduler_engine(connection: Connection, settings: HostSettings) -> AsyncIterator[SchedulerEngine]:
    """Connect to a scheduler for as long as the context lasts; ``settings`` say how instances are started.

    The scheduler need not be there: until it is, and whenever it is gone, calls fail with ``UNAVAILABLE``, and the
    worker tries to connect, each time after a longer while, up to half a minute.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(streams_with_hub())
        tokens = None
        if connection.credential is not None:
            tokens = Tokens(connection.credential, connection.audience)
            stack.push_async_callback(asyncio.to_thread, tokens.close)
        channel = upstream(connection, tokens, settings)
        stack.push_async_callback(channel.close)
        credential = secrets.token_urlsafe(32)
        server = grpc.aio.server(interceptors=[Gate(credential)], options=MESSAGE_LIMITS)
        server.add_generic_rpc_handlers((Proxy(channel),))
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        stack.push_async_callback(server.stop, 0.5)
        engine = SchedulerEngine(
            address,
            credential,
            stubs.TaskHubSidecarServiceStub(channel),  # type: ignore[no-untyped-call]
            f"the Durable Task Scheduler at {connection.endpoint}, task hub '{connection.hub}'",
            connection,
            tokens,
        )
        stack.push_async_callback(engine.end)
        yield engine
