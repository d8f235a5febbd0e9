"""Hosts that start warm: one process has imported what hosts import, and each host is a fork of it.

Importing takes a host a second, which the tests would spend some three hundred times. A fork has run nothing of the app
yet: it has memory, threads, files and an environment of its own, and dies by itself. The process that forks is one of
this module, without threads, not that of the tests.
"""

import atexit
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import IO, NoReturn

PACKAGES = ("contracts", "services", "activities", "entities", "orchestrators", "triggers")
"""Of the app; to import them does nothing, as opposed to ``function_app``, which every host runs itself."""
CAN_FORK = sys.platform == "linux"
"""Elsewhere the system's own libraries may not be used after a fork."""


class Forked:
    """A forked process, with as much of ``subprocess.Popen`` as the tests use."""

    def __init__(self, pid: int, status: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._status = status

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while the process runs."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end. Raises ``subprocess.TimeoutExpired``."""
        status = self._ended(timeout)
        if status is None:
            raise subprocess.TimeoutExpired("local_host", timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            self.returncode = int(self._status.recv(16))
            self._status.close()
        return self.returncode


def environment_of_host() -> dict[str, str]:
    """What a host needs of the environment of the tests."""
    return {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}


def fork_host(arguments: Sequence[str], environment: Mapping[str, str], output: IO[bytes] | int) -> Forked:
    """Start ``python -m local_host`` with these arguments, and no other environment, in a fork."""
    mine, theirs = socket.socketpair()
    with theirs:
        request = json.dumps([list(arguments), dict(environment)]).encode()
        fds = [theirs.fileno(), output if isinstance(output, int) else output.fileno()]
        socket.send_fds(_forker(), [len(request).to_bytes(4) + request], fds)
    return Forked(int.from_bytes(_exactly(mine, 4)), mine)


@cache
def _forker() -> socket.socket:
    """The way to the process that forks, which ends with this one."""
    mine, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.warm", str(theirs.fileno())],
            cwd=Path(__file__).parents[1],
            env=environment_of_host(),
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    def end() -> None:
        mine.close()
        process.wait()

    atexit.register(end)
    return mine


def _exactly(connection: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        chunk = connection.recv(count - len(found))
        if not chunk:
            raise EOFError("the process that forks has ended")
        found += chunk
    return found


def _serve(control: socket.socket) -> None:
    """Fork a host for each request, and tell how each ends, until nobody can ask any more."""
    running: dict[int, tuple[int, socket.socket]] = {}  # by the descriptor that tells that it has ended
    while True:
        for ready in select.select([control.fileno(), *running], [], [])[0]:
            if ready in running:
                pid, status = running.pop(ready)
                os.close(ready)
                with status, suppress(BrokenPipeError):
                    status.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
                continue
            length, fds, _, _ = socket.recv_fds(control, 4, 2)
            if not length:
                for pid, _ in running.values():
                    os.kill(pid, signal.SIGKILL)
                return
            arguments, environment = json.loads(_exactly(control, int.from_bytes(length)))
            pid = os.fork()
            if not pid:
                _be_host(arguments, environment, fds[1])
            os.close(fds[1])
            status = socket.socket(fileno=fds[0])
            status.send(pid.to_bytes(4))
            running[os.pidfd_open(pid)] = pid, status


def _be_host(arguments: list[str], environment: dict[str, str], output: int) -> NoReturn:
    """Be what ``python -m local_host`` would be, and end."""
    for stream in (1, 2):
        os.dup2(output, stream)
    os.closerange(3, 1024)  # it never has more
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["local_host", *arguments]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    runpy.run_module("local_host", run_name="__main__", alter_sys=True)
    sys.exit()


def _import_all() -> None:
    import_module("local_host.command_line")
    for package in PACKAGES:
        for module in iter_modules(import_module(package).__path__, f"{package}."):
            import_module(module.name)
    assert threading.active_count() == 1, "a fork has the thread that forks, and no other"


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests, which end this process
    _import_all()
    gc.freeze()
    _serve(socket.socket(fileno=int(sys.argv[1])))
