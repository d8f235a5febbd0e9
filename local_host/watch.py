"""``--watch``: the host runs as a child process, which a changed file of the app replaces by a new one.

The listening socket is the parent's, so requests that come while the host restarts wait for the new one. The child is
told two descriptors: the socket's as ``--listener``, and as ``--lifeline`` a pipe's, closed when the parent is gone.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType

import watchfiles

from local_host.errors import HostError
from local_host.host_json import read_json
from local_host.server import listen

HOST = (sys.executable, "-m", "local_host", "start")
"""The command that runs the host."""

GRACE = 30.0
"""How many seconds a host gets to stop in before it is killed."""

_LOGGER = logging.getLogger("local_host.watch")
_SETTINGS = ("host.json", "local.settings.json")
_READY_MS = 100
_NOT_THE_APPS = {"__pycache__", "node_modules", "site-packages", "venv"}

type _Process = subprocess.Popen[bytes]
type _Event = frozenset[str] | signal.Signals | _Process | Exception
"""Files that have changed, a signal to this process, a host that has ended, or the failure of the watching itself."""


def watch(
    arguments: Sequence[str],
    folder: Path,
    data: Path,
    port: int,
    address: str = "127.0.0.1",
    *,
    command: Sequence[str] = HOST,
    grace: float = GRACE,
) -> int:
    """Run the host with ``arguments`` until a signal stops it, anew whenever a file of the app in ``folder`` changes.

    Such files are Python files, ``host.json``, ``local.settings.json``, and those that ``watchFiles`` and
    ``watchDirectories`` of ``host.json`` name; what lies in hidden folders, in those of installed packages, or in
    ``data`` is none of them. ``port`` 0 takes a free one, and stays the same over restarts. Returns the exit status of
    the last host, 128 and the number of the signal where one killed it. To be called on the main thread. Raises
    ``HostError`` when the port cannot be had or the folder cannot be watched.
    """
    with ExitStack() as stack:
        events: SimpleQueue[_Event] = SimpleQueue()
        listener = stack.enter_context(listen(address, port))
        lifeline = stack.enter_context(_lifeline())
        stack.enter_context(_signals(events))
        stack.enter_context(_changes(folder.resolve(), data.resolve(), events))
        descriptors = (listener.fileno(), lifeline)
        options = ("--listener", str(descriptors[0]), "--lifeline", str(descriptors[1]))

        def start() -> _Process:
            # A group of its own, since Ctrl-C goes to the whole group of the terminal, and is passed on from here.
            child = subprocess.Popen(  # noqa: S603  # the command is our own
                [*command, *arguments, *options], stdin=subprocess.DEVNULL, pass_fds=descriptors, process_group=0
            )
            threading.Thread(target=lambda: events.put(_ended(child)), daemon=True).start()
            return child

        return _supervise(start, events, grace)


def hold(lifeline: int, grace: float = GRACE) -> None:
    """Hold on to the parent, in the child: when it is gone, however it went, this process gets SIGTERM.

    If that does not end it within ``grace`` seconds, it is killed. ``lifeline`` is the descriptor of the parent's pipe.
    """
    os.set_inheritable(lifeline, False)  # the app may start processes of its own

    def follow() -> None:
        os.read(lifeline, 1)  # nothing is ever written: it returns when the other end is closed
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace)
        os._exit(1)

    threading.Thread(target=follow, name="lifeline", daemon=True).start()


def _supervise(start: Callable[[], _Process], events: SimpleQueue[_Event], grace: float) -> int:
    child, runs = start(), True
    try:
        while True:
            match events.get():
                case signal.Signals() as how:
                    if runs:
                        child.send_signal(how)
                        _wait(child, events, grace, stopping=True)
                    return _status(child)
                case frozenset() as files:
                    _LOGGER.info("%s changed: restarting", _list(files))
                    if runs:
                        child.terminate()
                        if _wait(child, events, grace, stopping=False):
                            return _status(child)
                    child, runs = start(), True
                case Exception() as error:
                    raise HostError(f"The app's folder cannot be watched any more: {error}") from None
                case _:
                    runs = False
                    _LOGGER.warning("The host has ended (status %d); a changed file starts it again", _status(child))
    finally:
        _kill(child)


def _wait(child: _Process, events: SimpleQueue[_Event], grace: float, *, stopping: bool) -> bool:
    """Wait for a child that was told to stop; tells whether a signal says that no other is to follow.

    A second signal kills it, and so does the end of the grace. Files that change meanwhile will be read by the next.
    """
    deadline = time.monotonic() + grace
    while True:
        try:
            event = events.get(timeout=max(0.0, deadline - time.monotonic()) if child.poll() is None else None)
        except Empty:
            _LOGGER.warning("The host has not stopped within %g s, and is killed", grace)
            _kill(child)
            continue
        if event is child:
            return stopping
        if isinstance(event, Exception):
            raise HostError(f"The app's folder cannot be watched any more: {event}") from None
        if isinstance(event, signal.Signals):
            if stopping:
                _kill(child)
            stopping = True


def _ended(child: _Process) -> _Process:
    child.wait()
    return child


def _kill(child: _Process) -> None:
    child.kill()
    child.wait()


def _status(child: _Process) -> int:
    code = child.wait()
    return code if code >= 0 else 128 - code


def _list(files: frozenset[str]) -> str:
    first, more = sorted(files)[:3], len(files) - 3
    return ", ".join(first) + (f" and {more} more" if more > 0 else "")


@contextmanager
def _lifeline() -> Iterator[int]:
    """A pipe that nothing is written to; its other end closes with this process, even when that is killed."""
    theirs, ours = os.pipe()
    try:
        yield theirs
    finally:
        os.close(ours)
        os.close(theirs)


@contextmanager
def _signals(events: SimpleQueue[_Event]) -> Iterator[None]:
    def note(number: int, _frame: FrameType | None) -> None:
        events.put(signal.Signals(number))

    before = {each: signal.signal(each, note) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextmanager
def _changes(folder: Path, data: Path, events: SimpleQueue[_Event]) -> Iterator[None]:
    """Report the files of the app that change, those that change at once together."""
    if not folder.is_dir():
        raise HostError(f"There is no folder {folder}. Name the folder of the app with --app-dir.")
    stop = threading.Event()
    watching = watchfiles.watch(
        folder,
        watch_filter=lambda change, path: _is_of_app(change, Path(path), folder, data),
        stop_event=stop,
        rust_timeout=_READY_MS,
        yield_on_timeout=True,
        ignore_permission_denied=True,
    )
    try:
        next(watching)  # comes back when it watches: what changes from here on is seen
    except OSError as error:
        raise HostError(f"The app's folder {folder} cannot be watched: {error}") from None

    def report() -> None:
        try:
            for changes in watching:
                if changes:
                    events.put(frozenset(str(Path(path).relative_to(folder)) for _, path in changes))
        except Exception as error:  # noqa: BLE001  # whatever it is, the main thread is to hear of it
            events.put(error)

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _is_of_app(change: watchfiles.Change, file: Path, folder: Path, data: Path) -> bool:
    parts = file.relative_to(folder).parts
    if not parts or any(part.startswith(".") or part in _NOT_THE_APPS for part in parts):
        return False
    if folder in data.parents and data in (file, *file.parents):
        return False
    if file.suffix == ".py" or parts in [(name,) for name in _SETTINGS]:
        return True
    if change is watchfiles.Change.added and file.is_dir():  # of a folder that is moved, nothing else is told
        return any(file.rglob("*.py"))
    return _is_named(parts, folder / "host.json")


def _is_named(parts: tuple[str, ...], host_json: Path) -> bool:
    """Whether ``watchFiles`` or ``watchDirectories`` of ``host.json`` name a file, or the folder that it lies in."""
    try:
        document = read_json(host_json)
        return parts[-1] in document.get("watchFiles", ()) or parts[0] in document.get("watchDirectories", ())
    except (HostError, TypeError):
        return False  # the host itself will say what is wrong with it
