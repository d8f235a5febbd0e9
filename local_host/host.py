"""The host: task hub, worker, functions and HTTP server of one app."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import override

import grpc.aio
import uvicorn
from durabletask.internal import orchestrator_service_pb2_grpc as stubs
from durabletask.internal.grpc_interceptor import DefaultAsyncClientInterceptorImpl
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from local_host.app_loader import App, load_app, load_environment
from local_host.client_binding import client_configuration
from local_host.direct_client import install as install_direct_client
from local_host.durable import DurableFunctions
from local_host.errors import HostError
from local_host.http_trigger import Endpoint, HttpTriggers, endpoints_of
from local_host.invocation import Invoker
from local_host.management import management_routes
from local_host.management_shapes import MANAGEMENT_PREFIX
from local_host.task_hub import TaskHub, TaskHubError
from local_host.task_hub.clock import Clock
from local_host.task_hub.hub import MESSAGE_LIMITS
from local_host.worker import InProcessWorker

DATA_VARIABLE = "LOCAL_HOST_DATA"
"""The environment variable that tells the app where to keep what it writes locally."""

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Options:
    """What the user chose: the app's folder, the data folder, and the port (0 takes a free one).

    ``trusted_hosts`` are names that the host may be called by besides those of loopback; ``ephemeral`` forgets the
    instances when the host stops.
    """

    app_dir: Path
    data: Path
    port: int = 7071
    trusted_hosts: tuple[str, ...] = ()
    ephemeral: bool = False


class Server(uvicorn.Server):
    """uvicorn's server, except that whoever runs the host handles the signals."""

    @override
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass(frozen=True)
class RunningHost:
    """A host that serves an app from its task hub."""

    url: str
    app: App
    endpoints: list[Endpoint]
    hub: TaskHub
    server: Server
    serving: asyncio.Task[None]

    def stop(self) -> None:
        """Ask the server to stop: requests that are under way are answered, new ones are not taken."""
        self.server.should_exit = True


@asynccontextmanager
async def hosted(options: Options, clock: Clock | None = None) -> AsyncIterator[RunningHost]:
    """Host an app for as long as the context lasts. A clock other than the machine's is for tests.

    Raises ``HostError`` when the host cannot start, and whatever the app's own code raises when it is imported.
    """
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(_listen(options.port))
        address = f"{LOOPBACK}:{listener.getsockname()[1]}"
        _prepare_environment(options, address)
        app = load_app(options.app_dir)
        endpoints = endpoints_of(app.functions, app.route_prefix)

        hub = await _start_hub(options, app, clock)
        stack.push_async_callback(hub.stop)
        configuration = client_configuration(hub, f"http://{address}", app.hub_name)
        stack.callback(install_direct_client(configuration, hub))
        invoker = Invoker(app.folder, configuration)
        stack.push_async_callback(asyncio.to_thread, invoker.close)  # signals are still handled while it waits
        functions = DurableFunctions(app.functions, invoker)
        worker = InProcessWorker(hub, functions)
        hub.connect(worker)
        stack.push_async_callback(worker.drain)
        stack.callback(hub.release_waiting)
        channel = await stack.enter_async_context(_channel(hub))

        management = management_routes(
            stubs.TaskHubSidecarServiceStub(channel),  # type: ignore[no-untyped-call]
            task_hub=app.hub_name,
            orchestrator_names=functions.orchestrator_names,
            entity_names=functions.entity_names,
        )
        web_app = _web_app(management, HttpTriggers(endpoints, invoker), options.trusted_hosts)
        server = Server(_server_config(web_app))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        stack.push_async_callback(_finish, server, serving)
        yield RunningHost(f"http://{address}", app, endpoints, hub, server, serving)


async def _start_hub(options: Options, app: App, clock: Clock | None) -> TaskHub:
    hub = TaskHub(None if options.ephemeral else options.data, name=app.hub_name, clock=clock)
    try:
        await hub.start()
    except TaskHubError as error:
        raise HostError(str(error)) from None
    return hub


def _channel(hub: TaskHub) -> grpc.aio.Channel:
    """A channel to the hub that shows its credential with each call."""
    interceptors = [DefaultAsyncClientInterceptorImpl(list(hub.metadata))]
    return grpc.aio.insecure_channel(hub.address, options=MESSAGE_LIMITS, interceptors=interceptors)


def _prepare_environment(options: Options, address: str) -> None:
    """Tell the app what Azure and the official tools tell it, and where its data folder is."""
    try:
        options.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise HostError(f"The data folder {options.data} cannot be made: {error.strerror}.") from None
    os.environ[DATA_VARIABLE] = str(options.data.resolve())
    os.environ["WEBSITE_HOSTNAME"] = address
    os.environ.setdefault("AZURE_FUNCTIONS_ENVIRONMENT", "Development")
    os.environ.setdefault("FUNCTIONS_WORKER_RUNTIME", "python")
    load_environment(options.app_dir)


def _web_app(management: list[BaseRoute], triggers: HttpTriggers, trusted_hosts: tuple[str, ...]) -> ASGIApp:
    """The management API below its prefix, the functions everywhere else, to those who call the host by its names.

    A page could call this host by a name of its own that resolves to loopback; such names are refused.
    """
    managing: ASGIApp = Starlette(routes=management)
    trusted = {LOOPBACK, "localhost", *trusted_hosts}

    async def web_app(scope: Scope, receive: Receive, send: Send) -> None:
        host = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1")
        if host.partition(":")[0].lower() not in trusted:
            await PlainTextResponse("Invalid host header", 400)(scope, receive, send)
        elif f"{scope['path']}/".startswith(f"{MANAGEMENT_PREFIX}/"):
            await managing(scope, receive, send)
        else:
            await triggers(scope, receive, send)

    return web_app


def _server_config(web_app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        web_app,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=10,
    )


async def _finish(server: Server, serving: asyncio.Task[None]) -> None:
    server.should_exit = True
    await serving


@contextmanager
def _listen(port: int) -> Iterator[socket.socket]:
    # The protocol is named, since asyncio sends small answers at once only where it sees that it is TCP.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
            # From here on no other host can take the port, and what comes before the server is ready waits for it.
            listener.listen()
        except OSError:
            raise HostError(f"Port {port} is in use. Choose another one with --port.") from None
        yield listener
