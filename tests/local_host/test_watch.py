"""``--watch``: what restarts the host, and that nobody is turned away nor left behind meanwhile."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import httpx
import pytest
from watchfiles import Change

from local_host import watch
from local_host.errors import HostError
from tests.hosting import ROOT, host_process
from tests.polling import until

PARENT = """
import sys
from pathlib import Path
from local_host import logs
from local_host.watch import watch

folder, data, child, grace = sys.argv[1:]
logs.configure({}, as_json=False)
command = [sys.executable, "-X", "dev", child]
sys.exit(watch([folder, grace], Path(folder), Path(data), 0, command=command, grace=float(grace)))
"""

# It runs the app, then answers each request with the app's answer; a signal lets it finish what it is at.
CHILD = """
import http.server, os, signal, sys, threading
from pathlib import Path
from local_host.server import listen
from local_host.watch import hold

folder, grace, _, listener, _, lifeline = sys.argv[1:]
signals = []
told = threading.Event()

def note(number, frame):
    print("signal", signal.Signals(number).name, flush=True)
    signals.append(number)
    told.set()

for each in (signal.SIGINT, signal.SIGTERM):
    signal.signal(each, note)
hold(int(lifeline), float(grace))
listening = listen("127.0.0.1", 0, int(listener))
adopted = listening.__enter__()
app = {"descriptors": (listener, lifeline)}
exec(compile(Path(folder, "function_app.py").read_text(), "function_app.py", "exec"), app)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(app["ANSWER"].encode())

    def log_message(self, *_):
        pass

server = http.server.HTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
server.socket.close()
server.socket = adopted
threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
print("serving", os.getpid(), adopted.getsockname()[1], flush=True)
while not signals or app.get("STUBBORN"):
    told.wait()
server.shutdown()
print("stopped", os.getpid(), flush=True)
sys.exit(5 if signals[0] == signal.SIGINT else 0)
"""


@dataclass
class Watched:
    """A parent that watches a folder, and the child that serves it."""

    parent: subprocess.Popen[bytes]
    folder: Path
    log: Path

    def text(self) -> str:
        """Give all that was printed."""
        return self.log.read_text(errors="replace")

    def served(self) -> list[tuple[int, int]]:
        """Give the process id and the port of each child that has served."""
        return [(int(pid), int(port)) for pid, port in re.findall(r"^serving (\d+) (\d+)$", self.text(), re.MULTILINE)]

    def pid(self, count: int) -> int:
        """Wait for the child number ``count`` to serve, and give its process id."""
        until(lambda: len(self.served()) >= count or self.parent.poll() is not None, seconds=30)
        return self.served()[count - 1][0]

    def answer(self) -> str:
        """Ask the child; waits for as long as none is there."""
        return httpx.get(f"http://127.0.0.1:{self.served()[0][1]}/", timeout=30, trust_env=False).text

    def write(self, app: str, name: str = "function_app.py") -> None:
        """Save a file of the app."""
        save(self.folder / name, app)

    def says(self, words: str, times: int = 1) -> None:
        """Wait for words to be printed so many times."""
        until(lambda: self.text().count(words) >= times, seconds=30)

    def changes(self) -> list[str]:
        """Give what was said to have changed, restart by restart."""
        return re.findall(r"Host\.Watch (.*) changed: restarting$", self.text(), re.MULTILINE)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Callable[..., Watched]]:
    """Start a parent on a folder with an app; what it and its children leave behind is ended after the test."""
    started: list[Watched] = []
    (tmp_path / "child.py").write_text(CHILD)
    (tmp_path / "app" / "data").mkdir(parents=True)

    def start(app: str = "ANSWER = 'one'", grace: float = 20, *, serves: bool = True) -> Watched:
        folder, log = tmp_path / "app", tmp_path / "log"
        (folder / "function_app.py").write_text(app)
        with log.open("wb") as output:
            parent = subprocess.Popen(
                [sys.executable, "-c", PARENT, folder, folder / "data", tmp_path / "child.py", str(grace)],
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            )
        started.append(Watched(parent, folder, log))
        if serves:
            started[0].pid(1)
        return started[0]

    yield start
    for each in started:
        each.parent.kill()
        each.parent.wait()
        for pid, _ in each.served():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def save(file: Path, text: str) -> None:
    """Save a file as careful editors do it, under another name first: it is one change."""
    draft = file.with_name(f".{file.name}.draft")
    draft.write_text(text)
    draft.rename(file)


def is_refused(port: int) -> bool:
    """Tell whether nobody listens on a port any more."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


# Restarts


def test_a_changed_file_is_named_and_replaces_the_host_on_the_same_port(watched: Callable[..., Watched]) -> None:
    host = watched()
    assert host.answer() == "one"
    host.write("ANSWER = 'two'")
    host.pid(2)
    assert host.answer() == "two"
    (first, port), (second, same_port) = host.served()
    assert first != second
    assert port == same_port
    assert host.changes() == ["function_app.py"]
    order = re.findall("^(serving|signal SIGTERM|stopped)", host.text(), re.MULTILINE)
    assert order == ["serving", "signal SIGTERM", "stopped", "serving"]


def test_no_request_is_lost_over_restarts(watched: Callable[..., Watched]) -> None:
    host, end = watched(), threading.Event()
    answers: list[str] = []

    def ask() -> None:
        while not end.is_set():
            answers.append(host.answer())

    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask) for _ in range(2)]
        try:
            until(lambda: "one" in answers)
            for name in ("two", "three"):
                host.write(f"import time; time.sleep(0.3); ANSWER = '{name}'")
                until(lambda name=name: name in answers or any(each.done() for each in asking))  # type: ignore[misc]
        finally:
            end.set()
        for each in asking:
            each.result()  # raises what a request that was refused raised
    assert set(answers) == {"one", "two", "three"}


def test_what_is_not_the_apps_restarts_nothing(watched: Callable[..., Watched]) -> None:
    host = watched()
    for name in (".venv/x.py", "__pycache__/x.py", "node_modules/x.py", "data/x.py", "notes.txt", "x.py~", ".#x.py"):
        (host.folder / name).parent.mkdir(exist_ok=True)
        (host.folder / name).write_text("changed")
    host.write("ANSWER = 'two'")
    host.pid(2)
    assert host.changes() == ["function_app.py"]


@pytest.mark.parametrize("how", ["moved in", "moved away"])
def test_a_folder_of_modules_that_is_moved_restarts(watched: Callable[..., Watched], how: str) -> None:
    host = watched()
    outside, inside = host.folder.parent / "package", host.folder / "package"
    outside.mkdir()
    (outside / "module.py").touch()
    outside.rename(inside)
    host.pid(2)
    if how == "moved away":
        inside.rename(host.folder / "renamed")
        host.pid(3)


def test_files_that_host_json_names_restart(watched: Callable[..., Watched]) -> None:
    host = watched()
    host.write(json.dumps({"watchFiles": ["prompt.txt"]}), "host.json")
    host.pid(2)
    host.write("Hello", "prompt.txt")
    host.pid(3)
    assert host.changes() == ["host.json", "prompt.txt"]


def test_an_app_that_fails_is_waited_for_and_so_are_the_requests(watched: Callable[..., Watched]) -> None:
    host = watched()
    host.write("ANSWER = ")
    host.says("The host has ended (status 1); a changed file starts it again")
    assert "SyntaxError" in host.text()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(host.answer)
        host.write("ANSWER =   ")
        host.says("The host has ended (status 1)", times=2)
        assert not answer.done()
        host.write("ANSWER = 'fixed'")
        assert answer.result(30) == "fixed"


def test_an_app_that_fails_at_first_is_waited_for(watched: Callable[..., Watched]) -> None:
    host = watched("raise SystemExit(3)", serves=False)
    host.says("The host has ended (status 3)")
    host.write("ANSWER = 'fixed'")
    host.pid(1)
    assert host.answer() == "fixed"


def test_a_host_that_is_killed_is_started_again_by_a_change_only(watched: Callable[..., Watched]) -> None:
    host = watched()
    os.kill(host.pid(1), signal.SIGKILL)
    host.says("The host has ended (status 137); a changed file starts it again")
    assert len(host.served()) == 1
    host.write("ANSWER = 'two'")
    host.pid(2)
    assert host.answer() == "two"


def test_a_host_that_does_not_stop_is_killed_after_the_grace(watched: Callable[..., Watched]) -> None:
    host = watched("ANSWER = 'one'; STUBBORN = True", grace=0.3)
    host.write("ANSWER = 'two'")
    host.pid(2)
    assert host.answer() == "two"
    assert "The host has not stopped within 0.3 s, and is killed" in host.text()
    assert "stopped" not in re.findall(r"^\w+", host.text(), re.MULTILINE)


# The end


@pytest.mark.parametrize(("how", "status"), [(signal.SIGINT, 5), (signal.SIGTERM, 0)])
def test_a_signal_to_the_whole_group_stops_the_host_once_and_gives_its_status(
    watched: Callable[..., Watched], how: signal.Signals, status: int
) -> None:
    host = watched()
    os.killpg(host.parent.pid, how)  # as Ctrl-C in a terminal does it
    assert host.parent.wait(20) == status
    assert re.findall("^(signal .*|stopped)", host.text(), re.MULTILINE) == [f"signal {how.name}", "stopped"]
    assert is_refused(host.served()[0][1])
    assert "Traceback" not in host.text()


def test_a_second_signal_kills_at_once(watched: Callable[..., Watched]) -> None:
    host = watched("ANSWER = 'one'; STUBBORN = True", grace=1000)
    host.parent.send_signal(signal.SIGINT)
    host.says("signal SIGINT")
    assert host.parent.poll() is None
    host.parent.send_signal(signal.SIGTERM)
    assert host.parent.wait(20) == 137
    assert is_refused(host.served()[0][1])


def test_a_signal_while_no_host_runs_gives_the_status_of_the_last(watched: Callable[..., Watched]) -> None:
    host = watched("raise SystemExit(3)", serves=False)
    host.says("The host has ended (status 3)")
    host.parent.send_signal(signal.SIGINT)
    assert host.parent.wait(20) == 3


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_parent_that_is_killed_takes_the_host_with_it(watched: Callable[..., Watched], stubborn: bool) -> None:
    host = watched(f"ANSWER = 'one'; STUBBORN = {stubborn}", grace=1)
    port = host.served()[0][1]
    host.parent.kill()
    host.parent.wait()
    until(lambda: is_refused(port), seconds=20)
    assert ("stopped" in re.findall(r"^\w+", host.text(), re.MULTILINE)) is not stubborn


def test_processes_of_the_app_get_neither_descriptor(watched: Callable[..., Watched]) -> None:
    host = watched(
        "import subprocess, sys\n"
        "code = 'import os, sys; print([os.path.exists(f\"/dev/fd/{each}\") for each in sys.argv[1:]])'\n"
        "run = [sys.executable, '-c', code, '0', *descriptors]\n"
        "ANSWER = subprocess.run(run, close_fds=False, capture_output=True, text=True).stdout\n"
    )
    assert host.answer() == "[True, False, False]\n"


def test_the_real_host_is_watched_from_the_command_line(tmp_path: Path) -> None:
    app = tmp_path / "app"
    app.mkdir()
    text = (
        "import azure.functions as func\n"
        "app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)\n"
        "@app.route(route='hello')\n"
        "def hello(req: func.HttpRequest) -> str:\n"
        "    return 'one'\n"
    )
    (app / "function_app.py").write_text(text)
    with host_process(app / ".data", "--watch", app_dir=app) as host, host.client() as client:
        assert client.get("/api/hello").text == "one"
        save(app / "function_app.py", text.replace("one'", "one"))
        until(lambda: "The host has ended (status 1)" in host.log.read_text(), seconds=30)
        save(app / "function_app.py", text.replace("one", "two"))
        assert client.get("/api/hello").text == "two"
        assert host.stop() == 0
        log = host.log.read_text()
    assert log.count("Serving:  ") == log.count(f"Serving:  {host.url} ") == 2
    assert log.count("SyntaxError") == log.count("Traceback") == 1
    assert log.count("Host.Watch function_app.py changed: restarting") == 2


# What cannot be


def start_watching(folder: Path, port: int) -> int:
    """Watch with a child that must not be started."""
    return watch.watch([], folder, folder, port, command=["/nonexistent"])


def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(HostError, match=f"^Port {port} is in use. Choose another one with --port.$"):
            start_watching(tmp_path, port)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(HostError, match=r"^There is no folder .*nowhere\. Name the folder"):
        start_watching(tmp_path / "nowhere", 0)
    assert signal.getsignal(signal.SIGTERM) is before


# The order of events


class Script:
    """Children that sleep until they are told to stop, and the events that the supervisor gets."""

    def __init__(self, *events: Any) -> None:
        self.events: SimpleQueue[Any] = SimpleQueue()
        self.started: list[subprocess.Popen[bytes]] = []
        self._first = events

    def start(self) -> subprocess.Popen[bytes]:
        """Start a child; the first one's events are there before it can end, the second one gets a signal."""
        assert all(child.poll() is not None for child in self.started), "two hosts at once"
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        for event in (signal.SIGTERM,) if self.started else self._first:
            self.events.put(event)
        self.started.append(child)
        threading.Thread(target=lambda: self.events.put(watch._ended(child)), daemon=True).start()
        return child

    def run(self) -> int:
        """Run to the end, which leaves no child."""
        status = watch._supervise(self.start, self.events, 20)
        assert all(child.poll() is not None for child in self.started)
        return status


def changed(*files: str) -> frozenset[str]:
    """Make the event of files that have changed."""
    return frozenset(files)


def test_changes_while_the_host_stops_are_the_same_restart() -> None:
    script = Script(changed("a.py"), changed("b.py"), changed("c.py"))
    assert script.run() == 128 + signal.SIGTERM
    assert len(script.started) == 2


def test_a_signal_while_the_host_restarts_is_the_end() -> None:
    script = Script(changed("a.py"), signal.SIGINT)
    assert script.run() == 128 + signal.SIGTERM
    assert len(script.started) == 1


def test_two_signals_while_the_host_restarts_kill_it() -> None:
    script = Script(changed("a.py"), signal.SIGINT, changed("b.py"), signal.SIGINT)
    assert script.run() in (128 + signal.SIGTERM, 128 + signal.SIGKILL)  # whichever comes to it first
    assert len(script.started) == 1


def test_a_watcher_that_fails_ends_the_host() -> None:
    script = Script(OSError("no more"))
    with pytest.raises(HostError, match="cannot be watched any more: no more"):
        script.run()
    assert script.started[0].poll() is not None


def test_what_changes_right_after_the_watching_has_begun_is_seen(tmp_path: Path) -> None:
    events: SimpleQueue[Any] = SimpleQueue()
    with watch._changes(tmp_path, tmp_path / "data", events):
        (tmp_path / "x.py").touch()
        assert events.get(timeout=20) == changed("x.py")


# Which files count


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("function_app.py", True),
        ("deep/er/module.py", True),
        ("host.json", True),
        ("local.settings.json", True),
        ("deep/host.json", False),
        ("other.json", False),
        ("named.txt", True),
        ("deep/named.txt", True),
        ("templates/mail.html", True),
        ("deep/templates/mail.html", False),
        ("data/x.py", False),
        ("data", False),
        ("database/x.py", True),
        ("module.pyc", False),
        ("module.py~", False),
        (".module.py.swp", False),
        (".#module.py", False),
        ("4913", False),
        (".venv/lib/x.py", False),
        ("env/lib/python3.13/site-packages/x.py", False),
        (".git/x.py", False),
        ("__pycache__/x.py", False),
        ("node_modules/x/x.py", False),
        (".hidden.py", False),
        (".templates/mail.html", False),
        ("", False),
    ],
)
def test_which_files_are_the_apps(tmp_path: Path, name: str, counts: bool) -> None:
    named = json.dumps({"watchFiles": ["named.txt"], "watchDirectories": ["templates"]})
    (tmp_path / "host.json").write_text(f"// as .NET reads it\n{named}")
    assert watch._is_of_app(Change.modified, tmp_path / name, tmp_path, tmp_path / "data") is counts


@pytest.mark.parametrize("data", ["", "..", "../elsewhere"])
def test_a_data_folder_that_is_not_below_the_apps_hides_nothing(tmp_path: Path, data: str) -> None:
    assert watch._is_of_app(Change.modified, tmp_path / "x.py", tmp_path, (tmp_path / data).resolve())


@pytest.mark.parametrize("host_json", ["{", "[]", "null", '{"watchFiles": 5}', '{"watchFiles": null}', "\udcff"])
def test_a_host_json_that_makes_no_sense_names_nothing(tmp_path: Path, host_json: str) -> None:
    (tmp_path / "host.json").write_text(host_json, errors="surrogateescape")
    assert not watch._is_of_app(Change.modified, tmp_path / "x.txt", tmp_path, tmp_path / "data")


def test_many_files_are_named_in_part() -> None:
    assert watch._list(changed("b.py", "a.py")) == "a.py, b.py"
    assert watch._list(changed("e.py", "d.py", "c.py", "b.py", "a.py")) == "a.py, b.py, c.py and 2 more"
