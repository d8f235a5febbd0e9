"""The command line: ``python -m local_host start``."""

import argparse
import asyncio
import ipaddress
import itertools
import logging
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

import uvloop

from local_host import logs, watch
from local_host.errors import HostError
from local_host.host import LOOPBACK, Options, RunningHost, hosted

WATCH_GRACE = 15.0
"""Seconds beyond its own grace that a host which is watched has to end in."""

_LOGGER = logging.getLogger("local_host")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit status.

    It is 0 after a stop, 1 when the host could not start, and 130 when it was interrupted while it started.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    parsed = _parser().parse_args(given)
    logs.configure({}, as_json=parsed.json_logs)
    try:
        if parsed.watch:
            rest = [each for each in given[1:] if each != "--watch"]
            grace = parsed.grace + WATCH_GRACE
            return watch.watch(rest, parsed.app_dir, parsed.data, parsed.port, parsed.host, grace=grace)
        signal.signal(signal.SIGINT, _interrupt)
        return _run(parsed)
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001  # the app's own, for which the host can only tell it
        _tell(error, parsed)
        return 1


def _tell(error: Exception, parsed: argparse.Namespace) -> None:
    """Say why the host does not run: in a sentence, or by the traceback of the app's own code."""
    trace = error.__traceback__
    while trace is not None and not trace.tb_frame.f_code.co_filename.startswith(f"{parsed.app_dir.resolve()}{os.sep}"):
        trace = trace.tb_next
    raised = (type(error), error, trace if trace is not None else error.__traceback__)
    if parsed.json_logs:
        is_told = isinstance(error, HostError)
        _LOGGER.critical("%s", error if is_told else "The app failed", exc_info=None if is_told else raised)
    elif isinstance(error, HostError):
        print(f"local_host: {error}", file=sys.stderr)  # noqa: T201
    else:
        traceback.print_exception(*raised)


def _run(parsed: argparse.Namespace) -> int:
    if parsed.lifeline is not None:
        watch.hold(parsed.lifeline, parsed.grace + WATCH_GRACE)
    options = Options(
        app_dir=parsed.app_dir,
        data=parsed.data,
        port=parsed.port,
        address=parsed.host,
        trusted_hosts=tuple(parsed.trusted_host),
        ephemeral=parsed.ephemeral,
        keys=parsed.keys,
        grace=parsed.grace,
        scheduler=parsed.scheduler,
        scheduler_from_environment=True,
        listener=parsed.listener,
    )
    return uvloop.run(_serve(options, as_json=parsed.json_logs))


async def _serve(options: Options, *, as_json: bool) -> NoReturn:
    async with hosted(options, configure_log=lambda levels: logs.configure(levels, as_json=as_json)) as running:
        _stop_by_signals(running)
        _guard_loop(running)
        print(banner(running, options), flush=True)  # noqa: T201
        await running.serving
    _end(0)  # here, since Python would wait for every thread, and one that is stuck cannot be ended


def _stop_by_signals(running: RunningHost) -> None:
    """Stop at the first signal, and at once at the second; that one works even while a coroutine keeps the loop."""
    loop, signals = asyncio.get_running_loop(), itertools.count(1)

    def handle(_number: int, _frame: FrameType | None) -> None:
        if next(signals) > 1:
            _end(1)
        loop.call_soon_threadsafe(_stop, running)

    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, handle)


def _guard_loop(running: RunningHost) -> None:
    """End the process when a coroutine has kept the loop for longer than ``functionTimeout``.

    Azure's host would start its worker anew. Nothing else can be done to a coroutine that does not wait for anything.
    """
    timeout = running.app.settings.function_timeout
    if timeout is None:
        return
    loop = asyncio.get_running_loop()

    def watch_loop() -> None:
        while True:
            came_round = threading.Event()
            loop.call_soon_threadsafe(came_round.set)
            if not came_round.wait(timeout):
                names = ", ".join(running.invoker.running)
                _LOGGER.critical("The event loop was kept for %g s (functionTimeout), by one of %s", timeout, names)
                _end(1)
            time.sleep(1)

    threading.Thread(target=watch_loop, name="loop-guard", daemon=True).start()


def _stop(running: RunningHost) -> None:
    _LOGGER.info("Stopping when what runs has ended; a second signal stops at once")
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # what is cut off is told by the host
    running.stop()


def _end(status: int) -> NoReturn:
    """End the process without waiting for its threads."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, RuntimeError, ValueError):  # it is gone, or a signal came while it was written to
            stream.flush()
    os._exit(status)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    # With Python's own handler, asyncio would wait for the app's import to end before it gives way to Ctrl-C.
    raise KeyboardInterrupt


def banner(running: RunningHost, options: Options) -> str:
    """Return what the host says of itself when it has started: its functions, its engine, and who may call."""
    lines = ["", "Functions:", "" if running.app.functions else "  (none)"]
    for endpoint in sorted(running.endpoints, key=lambda each: each.function.name):
        methods = ",".join(endpoint.function.methods) or "any method"
        lines.append(f"  {endpoint.function.name}: [{methods}] {running.url}/{endpoint.template.text.lstrip('/')}")
    schedules = running.timers.schedules
    others = sorted((each.name, each.trigger_type) for each in running.app.functions if each.route is None)
    lines += [""] if running.endpoints and others else []
    lines += [f"  {name}: {kind}{f' {schedules[name]}' if name in schedules else ''}" for name, kind in others]
    if running.app.not_run:
        lines += ["", "Not run:", ""]
        lines += [f"  {each.name}: {each.reason}" for each in sorted(running.app.not_run, key=lambda each: each.name)]
    keys = f"by the keys in {options.data.resolve() / 'keys.json'}" if options.keys else "without keys"
    reach = "this machine only" if options.is_private else f"all who reach {options.address}"
    if options.is_private and options.trusted_hosts:
        reach = f"this machine, and who comes by {' or '.join(options.trusted_hosts)}"
    lines += ["", f"Engine:   {running.engine.description}", f"Access:   {reach}, {keys}"]
    lines += [f"Data:     {options.data.resolve()}", f"App:      {running.app.folder}"]
    lines += [f"Serving:  {running.url} (Ctrl-C stops it)", ""]
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m local_host", description="Hosts an Azure Functions Python v2 app.")
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("start", help="host an app", allow_abbrev=False)
    start.add_argument("--app-dir", type=Path, default=Path(), help="the folder with function_app.py")
    start.add_argument("--port", type=_port, default=7071, help="the HTTP port; 0 takes a free one")
    start.add_argument("--data", type=Path, default=Path(".data"), help="the folder for all that is written")
    start.add_argument("--ephemeral", action="store_true", help="forget the instances when the host stops")
    start.add_argument("--keys", action="store_true", help="ask for the key of each function's authLevel")
    start.add_argument(
        "--host",
        type=_address,
        default=LOOPBACK,
        metavar="ADDRESS",
        help="the IP address to listen on; other than loopback's, such as 0.0.0.0, it needs --keys",
    )
    start.add_argument(
        "--trusted-host",
        action="append",
        type=_name,
        default=[],
        metavar="NAME",
        help="a name that the host may be called by besides localhost, for a port that is forwarded here",
    )
    start.add_argument(
        "--scheduler",
        metavar="CONNECTION",
        help="work for a Durable Task Scheduler: 'Endpoint=...;TaskHub=...;Authentication=...'",
    )
    start.add_argument(
        "--grace", type=_seconds, default=10.0, help="seconds that functions have to end when the host stops"
    )
    start.add_argument("--watch", action="store_true", help="start anew when a file of the app has changed")
    start.add_argument("--json-logs", action="store_true", help="log a JSON object a line")
    start.add_argument("--listener", type=int, help=argparse.SUPPRESS)  # of the process that watches the files
    start.add_argument("--lifeline", type=int, help=argparse.SUPPRESS)
    return parser


def _port(text: str) -> int:
    port = int(text) if text.isdecimal() and len(text) <= 5 else -1
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"a port is a number from 0 to 65535, not '{text}'")
    return port


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(LOOPBACK if text == "localhost" else text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is no IP address") from None


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]+\]", text):
        raise argparse.ArgumentTypeError(f"'{text}' is no name of a host; leave out scheme, port and path")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"the grace is a number of seconds from 0 to 3600, not '{text}'")
    return seconds
