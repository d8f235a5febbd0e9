"""The host: engine, functions, timers and HTTP server of one app."""

import asyncio
import ipaddress
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.types import ASGIApp

from local_host.admin import Admin
from local_host.app_loader import App, load_app, load_environment
from local_host.client_binding import client_configuration
from local_host.direct_client import install as install_direct_client
from local_host.durable import DurableFunctions
from local_host.embedded import embedded_engine
from local_host.engine import Engine
from local_host.errors import HostError
from local_host.functions import DURABLE_CLIENT, DURABLE_TRIGGERS, Function, NotRun
from local_host.host_json import HostSettings, host_settings
from local_host.http_trigger import Endpoint, HttpTriggers, body_limit, endpoints_of
from local_host.invocation import Invoker
from local_host.keys import Keys, load_keys
from local_host.management import management_routes
from local_host.routing import compile_template
from local_host.server import Server, listen, server_config
from local_host.task_hub.clock import Clock, SystemClock
from local_host.timer_trigger import TimerTriggers
from local_host.web import WebFront, cors_of, names_of, reserved

DATA_VARIABLE = "LOCAL_HOST_DATA"
"""The environment variable that tells the app where to keep what it writes locally."""

LOOPBACK = "127.0.0.1"

_LOGGER = logging.getLogger("local_host")


@dataclass(frozen=True)
class Options:
    """What the user chose: the app's folder, the data folder, the IP address and the port (0 takes a free one).

    ``trusted_hosts`` are names that the host may be called by besides those of loopback; ``ephemeral`` forgets the
    instances when the host stops; ``keys`` asks each request for the key of its ``authLevel``; ``grace`` is how many
    seconds functions that run have to end when the host stops. ``scheduler`` is the connection string of a Durable Task
    Scheduler to work for, which the environment may give too where ``scheduler_from_environment`` says so; ``listener``
    is the descriptor of a socket that a parent process listens on.
    """

    app_dir: Path
    data: Path
    port: int = 7071
    address: str = LOOPBACK
    trusted_hosts: tuple[str, ...] = ()
    ephemeral: bool = False
    keys: bool = False
    grace: float = 10.0
    scheduler: str | None = None
    scheduler_from_environment: bool = False
    listener: int | None = None

    @property
    def is_private(self) -> bool:
        """Whether only this machine can reach the host."""
        return ipaddress.ip_address(self.address).is_loopback


@dataclass
class RunningHost:
    """A host that serves an app, for ``grace`` seconds more when it is to stop; ``deadline`` is when they are over."""

    url: str
    app: App
    endpoints: list[Endpoint]
    timers: TimerTriggers
    admin: Admin
    engine: Engine
    invoker: Invoker
    server: Server
    serving: asyncio.Task[None]
    grace: float
    deadline: float | None = None

    def stop(self) -> float:
        """Take no new requests, begin no timer function, and let what runs end; gives the deadline.

        Orchestrations go on until the requests are answered, which may wait for them.
        """
        if self.deadline is None:
            self.deadline = asyncio.get_running_loop().time() + self.grace
            self.server.should_exit = True
            self.timers.retire()
        return self.deadline


@asynccontextmanager
async def hosted(
    options: Options,
    clock: Clock | None = None,
    configure_log: Callable[[Mapping[str, str]], None] = lambda _levels: None,
) -> AsyncIterator[RunningHost]:
    """Host an app for as long as the context lasts. A clock other than the machine's is for tests.

    ``configure_log`` is called with the levels of ``host.json`` before the app is imported. Raises ``HostError`` when
    the host cannot start, and whatever the app's own code raises when it is imported.
    """
    environment = dict(os.environ)  # what local.settings.json says of schedulers is meant for the real host
    async with AsyncExitStack() as stack:
        if not options.keys and not options.is_private:
            raise HostError(f"At {options.address} others could call the app. Ask for keys with --keys.")
        listener = stack.enter_context(listen(options.address, options.port, options.listener))
        address = _called(options.address, listener.getsockname()[1])
        document = _prepare_environment(options, address)
        settings = host_settings(options.app_dir / "host.json", os.environ)
        configure_log(settings.log_levels)
        for warning in settings.warnings:
            _LOGGER.warning(warning)
        keys = load_keys(options.data) if options.keys else None
        app = _runnable(load_app(options.app_dir, settings))

        connection = options.scheduler
        if connection is None and options.scheduler_from_environment:
            connection = environment.get(settings.scheduler_variable)
        engine = await stack.enter_async_context(_engine(options, settings, connection, clock))
        configuration = _configure_clients(engine, settings, f"http://{address}", keys)
        if engine.hub is not None:
            stack.callback(install_direct_client(configuration, engine.hub))
        invoker = Invoker(configuration, settings.function_timeout)
        stack.callback(invoker.close)
        hub_clock = engine.hub.clock if engine.hub is not None else SystemClock()
        timers = TimerTriggers(app.functions, invoker.invoke, options.data / "timers", hub_clock)
        app = _without(app, timers.not_run)
        functions = DurableFunctions(app.functions, invoker, settings)
        endpoints = endpoints_of(app.functions, settings.route_prefix)
        admin = Admin(app, timers.run_now, keys)
        front = WebFront(
            HttpTriggers(endpoints, invoker, keys, body_limit(os.environ)),
            _management(engine, settings, functions, keys),
            admin,
            names_of((*options.trusted_hosts, address.rpartition(":")[0]), any_name=not options.is_private),
            keys=keys,
            cors=cors_of(document),
        )
        server = Server(server_config(front, options.grace))

        engine.work(functions, settings.slots)
        if engine.hub is not None:
            engine.hub.attend(timers)
        timers.start()
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        running = RunningHost(
            f"http://{address}", app, endpoints, timers, admin, engine, invoker, server, serving, options.grace
        )
        try:
            yield running
        finally:
            await _wind_down(running)


async def _wind_down(running: RunningHost) -> None:
    """Let what runs end, as far as it does until the deadline, and a second for what is cut off then."""
    with suppress(TimeoutError):
        async with asyncio.timeout_at(running.stop() + 1):
            await running.serving
            await running.timers.stop()
            await running.admin.drain()
            await running.engine.drain()
    left = running.invoker.running
    if left:
        durable = {each.name for each in running.app.functions if each.trigger_type in DURABLE_TRIGGERS}
        again = " What the task hub has handed out is done again." if durable & set(left) else ""
        _LOGGER.warning("Cut off, since the grace of %g s is over: %s.%s", running.grace, ", ".join(left), again)


def _configure_clients(engine: Engine, settings: HostSettings, base_url: str, keys: Keys | None) -> str:
    return client_configuration(
        engine.address,
        engine.credential,
        base_url,
        settings.hub_name,
        use_forwarded_host=settings.use_forwarded_host,
        code=keys.durable if keys is not None else None,
    )


def _management(engine: Engine, settings: HostSettings, functions: DurableFunctions, keys: Keys | None) -> ASGIApp:
    return Starlette(
        routes=management_routes(
            engine.stub,
            task_hub=settings.hub_name,
            orchestrator_names=functions.orchestrator_names,
            entity_names=functions.entity_names,
            overridable=settings.replaceable,
            use_forwarded_host=settings.use_forwarded_host,
            code=keys.durable if keys is not None else None,
        )
    )


def _engine(
    options: Options, settings: HostSettings, connection: str | None, clock: Clock | None
) -> AbstractAsyncContextManager[Engine]:
    if connection is not None:
        # Azure's libraries take 20 MB and a while to import, which is for those only who use them.
        from local_host.scheduler.connection import parse_connection
        from local_host.scheduler.engine import scheduler_engine

        return scheduler_engine(parse_connection(connection, settings.hub_name), settings)
    return embedded_engine(None if options.ephemeral else options.data, settings, clock)


def _called(address: str, port: int) -> str:
    """The authority of the host's own URLs."""
    parsed = ipaddress.ip_address(address)
    if parsed.is_unspecified:
        return f"{LOOPBACK}:{port}"
    return f"[{address}]:{port}" if parsed.version == 6 else f"{address}:{port}"


def _prepare_environment(options: Options, address: str) -> dict[str, Any]:
    """Tell the app what Azure and the official tools tell it, and where its data folder is.

    Gives ``local.settings.json``.
    """
    try:
        options.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise HostError(f"The data folder {options.data} cannot be made: {error.strerror}.") from None
    os.environ[DATA_VARIABLE] = str(options.data.resolve())
    os.environ["WEBSITE_HOSTNAME"] = address
    document = load_environment(options.app_dir)
    os.environ.setdefault("AZURE_FUNCTIONS_ENVIRONMENT", "Development")
    os.environ.setdefault("FUNCTIONS_WORKER_RUNTIME", "python")
    return document


def _runnable(app: App) -> App:
    """Leave out the functions whose routes or clients cannot be, as the real host does, which runs the others."""
    reasons = {each.name: _why_not(each, app.settings.hub_name) for each in app.functions}
    return _without(app, {name: reason for name, reason in reasons.items() if reason is not None})


def _why_not(function: Function, hub_name: str) -> str | None:
    for binding in function.bindings:
        hub = binding.get("taskHub") if binding["type"] == DURABLE_CLIENT else None
        if hub and hub.lower() != hub_name.lower():
            return f"its durable client is for the task hub '{hub}', and this host has '{hub_name}'"
    if function.route is None:
        return None
    if reserved(function.route):
        return f"its route '{function.route}' begins like one of the host's own"
    try:
        compile_template(function.route)
    except HostError as error:
        return str(error)
    return None


def _without(app: App, reasons: Mapping[str, str]) -> App:
    """Move functions to those that are not run."""
    return replace(
        app,
        functions=tuple(each for each in app.functions if each.name not in reasons),
        not_run=(
            *app.not_run,
            *(
                NotRun(each.name, each.trigger_type, reasons[each.name])
                for each in app.functions
                if each.name in reasons
            ),
        ),
    )
