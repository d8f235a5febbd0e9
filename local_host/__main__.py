"""The command line: ``python -m local_host start``."""

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import uvloop

from local_host.errors import HostError
from local_host.host import Options, RunningHost, hosted

_LOGGER = logging.getLogger("local_host")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit status.

    It is 0 after a stop, 1 when the host could not start, and 130 when it was interrupted while it started.
    """
    parsed = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("local_host").setLevel(logging.INFO)
    options = Options(parsed.app_dir, parsed.data, parsed.port, tuple(parsed.trusted_host), parsed.ephemeral)
    signal.signal(signal.SIGINT, _interrupt)
    try:
        uvloop.run(_run(options))
    except KeyboardInterrupt:
        return 130
    except HostError as error:
        print(f"local_host: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


async def _run(options: Options) -> None:
    async with hosted(options) as running:
        loop = asyncio.get_running_loop()
        for name in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(name, _stop, running)
        print(banner(running, options), flush=True)  # noqa: T201
        await running.serving


def _stop(running: RunningHost) -> None:
    if running.server.should_exit:
        os._exit(1)  # no thread can be ended from outside, and one that blocks would keep the process
    _LOGGER.info("Stopping when what runs has ended; a second signal stops at once")
    running.stop()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    # With Python's own handler, asyncio would wait for the app's import to end before it gives way to Ctrl-C.
    raise KeyboardInterrupt


def banner(running: RunningHost, options: Options) -> str:
    """Return what the host says of itself when it has started: routes, other functions, and where the data lies."""
    lines = ["", "Functions:", ""]
    for endpoint in sorted(running.endpoints, key=lambda each: each.function.name):
        methods = ",".join(endpoint.function.methods) or "any method"
        lines.append(f"  {endpoint.function.name}: [{methods}] {running.url}/{endpoint.template.text.lstrip('/')}")
    others = sorted((each.name, each.trigger_type) for each in running.app.functions if each.route is None)
    lines += ["", *(f"  {name}: {kind}" for name, kind in others)]
    lines += ["", f"Data:     {options.data.resolve()}", f"App:      {running.app.folder}"]
    lines += [f"Serving:  {running.url} (Ctrl-C stops it)", ""]
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m local_host", description="Hosts an Azure Functions Python v2 app.")
    start = parser.add_subparsers(dest="command", required=True).add_parser("start", help="host an app")
    start.add_argument("--app-dir", type=Path, default=Path(), help="the folder with function_app.py")
    start.add_argument("--port", type=_port, default=7071, help="the HTTP port; 0 takes a free one")
    start.add_argument("--data", type=Path, default=Path(".data"), help="the folder for all that is written")
    start.add_argument("--ephemeral", action="store_true", help="forget the instances when the host stops")
    start.add_argument(
        "--trusted-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name that the host may be called by besides localhost, for a port that is forwarded here",
    )
    return parser


def _port(text: str) -> int:
    port = int(text) if text.isdecimal() and len(text) <= 5 else -1
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"a port is a number from 0 to 65535, not '{text}'")
    return port


if __name__ == "__main__":
    sys.exit(main())
