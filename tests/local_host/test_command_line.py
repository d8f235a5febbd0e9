"""``python -m local_host start`` as a user runs it: what it says, how it ends, and what it refuses."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic, sleep
from urllib.parse import urlsplit

import pytest

from tests.hosting import HostProcess, host_process, start_process
from tests.polling import until

APPS = Path(__file__).parent / "apps"
HEAD = """
import os, threading, time
from pathlib import Path
import azure.functions as func

app = func.FunctionApp()
"""
ENVIRONMENT = """
@app.route("environment/{name}")
def environment(req: func.HttpRequest) -> str:
    return os.environ.get(req.route_params["name"], "not set")
"""
BLOCKING = """
@app.route("block/{seconds}")
def block(req: func.HttpRequest) -> str:
    Path("{marks}", "entered").touch()
    time.sleep(float(req.route_params["seconds"]))
    return "finished"
"""
SLOW_TO_IMPORT = """
Path("{marks}", "importing").touch()
while not Path("{marks}", "go-on").exists():
    time.sleep(0.01)
"""


def app_of(folder: Path, source: str) -> Path:
    """Write an app into a folder of its own."""
    app = folder / "app"
    app.mkdir()
    (app / "function_app.py").write_text(HEAD + source.replace("{marks}", str(folder)))
    return app


def ended(*arguments: str | Path) -> tuple[int, str]:
    """Run a command line that ends by itself, and give its status and all that it said."""
    process = start_process(*map(str, arguments), output=subprocess.PIPE)
    try:
        said, _ = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    return process.returncode, said.decode()


def refused(*arguments: str | Path) -> str:
    """Run a command line that the host refuses, and give the one sentence that it says."""
    status, said = ended(*arguments)
    assert status == 1, said
    (sentence,) = said.splitlines()
    assert sentence.startswith("local_host: ")
    return sentence


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostProcess]:
    """A host with the app of durable functions."""
    data = tmp_path_factory.mktemp("parent") / "data"
    with host_process(data, "--trusted-host", "box.example", app_dir=APPS / "durable") as host:
        yield host


def test_the_banner_names_every_route_with_its_methods_and_every_other_function(host: HostProcess) -> None:
    lines = [line.strip() for line in host.log.read_text().splitlines()]
    assert f"start_async: [POST] {host.url}/api/start/{{name}}" in lines
    assert f"raise_event: [POST] {host.url}/api/events/{{id}}/{{name}}" in lines
    assert f"http_of_blueprint: [any method] {host.url}/api/of-blueprint" in lines
    assert {"native: orchestrationTrigger", "echo: activityTrigger", "counter: entityTrigger"} <= set(lines)


def test_the_banner_says_where_the_data_and_the_app_are(host: HostProcess) -> None:
    lines = host.log.read_text().splitlines()
    assert f"Data:     {host.data}" in lines
    assert f"App:      {APPS / 'durable'}" in lines


def test_a_trusted_host_is_taken_and_no_other(host: HostProcess) -> None:
    with host.client() as client:
        assert client.get("/api/of-blueprint", headers={"Host": "box.example"}).status_code == 200
        assert client.get("/api/of-blueprint", headers={"Host": "x.box.example"}).status_code == 400


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux to see the sockets of a process")
def test_only_loopback_is_listened_on(host: HostProcess) -> None:
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    sockets = {str(file.readlink()) for file in Path(f"/proc/{host.process.pid}/fd").iterdir()}
    listening = [fields[1] for fields in lines if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets]
    assert len(listening) == 2  # HTTP and the task hub
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert {address.partition(":")[0] for address in listening} <= loopback


# How it ends


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_quickly_quietly_and_with_status_0(tmp_path: Path, how: signal.Signals) -> None:
    with host_process(tmp_path / "data", app_dir=APPS / "durable") as host, host.client() as client:
        client.post("/api/start/gate").raise_for_status()  # it waits for an event that nobody sends
        client.post("/api/start/native", json=1).raise_for_status()  # the client keeps its connection open
        started = monotonic()
        assert host.stop(how) == 0
        assert monotonic() - started < 5
        log = host.log.read_text()
    assert [word for word in ("Traceback", "WARNING", "ERROR", "Exception") if word in log] == []


def test_a_request_that_is_under_way_is_answered_before_it_stops(tmp_path: Path) -> None:
    app = app_of(tmp_path, BLOCKING)
    with (
        host_process(tmp_path / "data", app_dir=app) as host,
        host.client() as client,
        ThreadPoolExecutor(1) as pool,
    ):
        answer = pool.submit(client.get, "/api/block/0.5")
        until((tmp_path / "entered").exists)
        assert host.stop() == 0
        assert answer.result(5).text == "finished"
        assert "Traceback" not in host.log.read_text()


def test_a_second_signal_ends_it_at_once_whatever_a_function_does(tmp_path: Path) -> None:
    app = app_of(tmp_path, BLOCKING)
    with (
        host_process(tmp_path / "data", app_dir=app) as host,
        socket.create_connection((urlsplit(host.url).hostname, urlsplit(host.url).port)) as connection,
    ):
        connection.sendall(b"GET /api/block/600 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until((tmp_path / "entered").exists)
        host.process.send_signal(signal.SIGINT)
        until(lambda: "Stopping" in host.log.read_text())
        started = monotonic()
        assert host.stop(signal.SIGTERM) == 1
        assert monotonic() - started < 3
        assert "Traceback" not in host.log.read_text()


@pytest.mark.parametrize("seconds", [0.05, 0.1, 0.15, 0.2, 0.3, 0.4])
def test_ctrl_c_while_the_host_is_imported_ends_it_without_a_traceback(tmp_path: Path, seconds: float) -> None:
    app = app_of(tmp_path, SLOW_TO_IMPORT)
    process = start_process("--app-dir", str(app), "--data", str(tmp_path / "data"), output=subprocess.PIPE)
    try:
        sleep(seconds)  # wherever it is by then
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=10)
    finally:
        process.kill()
        process.wait()
    # Python itself, before it comes to the host, ends by the signal, or says where it was in its own start.
    assert process.returncode in (130, -signal.SIGINT, 1)
    assert b"local_host" not in said


def test_ctrl_c_while_the_app_is_imported_ends_it_without_a_traceback(tmp_path: Path) -> None:
    app = app_of(tmp_path, SLOW_TO_IMPORT)
    process = start_process("--app-dir", str(app), "--data", str(tmp_path / "data"), output=subprocess.PIPE)
    try:
        until((tmp_path / "importing").exists)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=10)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert said == b""


# What it refuses


def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        sentence = refused("--app-dir", APPS / "prefixed", "--data", tmp_path / "data", "--port", port)
    assert sentence == f"local_host: Port {port} is in use. Choose another one with --port."
    assert not (tmp_path / "data").exists()


def test_a_port_is_in_use_from_the_moment_that_another_host_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    app = app_of(tmp_path, SLOW_TO_IMPORT)
    data = str(tmp_path / "data")
    one = start_process("--app-dir", str(app), "--data", data, "--port", port, output=subprocess.PIPE)
    try:
        until((tmp_path / "importing").exists)
        assert "is in use" in refused("--app-dir", APPS / "prefixed", "--data", data, "--port", port)
    finally:
        one.kill()
        one.communicate()


@pytest.mark.parametrize("make", [False, True])
def test_a_folder_without_an_app_is_refused(tmp_path: Path, make: bool) -> None:
    folder = tmp_path / "nowhere"
    if make:
        folder.mkdir()
    sentence = refused("--app-dir", folder, "--data", tmp_path / "data")
    assert f"There is no function_app.py in {folder}." in sentence
    assert "--app-dir" in sentence


def test_an_address_that_others_reach_needs_keys(tmp_path: Path) -> None:
    arguments = ("--app-dir", APPS / "prefixed", "--data", tmp_path / "data")
    for address in ("0.0.0.0", "::"):
        assert "Ask for keys with --keys." in refused(*arguments, "--host", address)
    assert ended(*arguments, "--host", "here")[0] == 2


def test_settings_that_are_broken_are_refused(tmp_path: Path) -> None:
    app = app_of(tmp_path, "")
    (app / "local.settings.json").write_text("{")
    assert "local.settings.json is not JSON" in refused("--app-dir", app, "--data", tmp_path / "data")


def test_a_data_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        assert str(folder) in refused("--app-dir", APPS / "prefixed", "--data", folder)


def test_an_app_that_raises_on_import_ends_it_with_the_traceback(tmp_path: Path) -> None:
    app = app_of(tmp_path, 'raise RuntimeError("no connection string")\n')
    status, said = ended("--app-dir", app, "--data", tmp_path / "data")
    assert status == 1
    assert str(app / "function_app.py") in said
    assert said.endswith("RuntimeError: no connection string\n")
    assert said.count('File "') == 1  # what the host does to import it helps nobody


def test_an_app_that_exits_on_import_is_told_from_a_stop(tmp_path: Path) -> None:
    sentence = refused("--app-dir", app_of(tmp_path, "raise SystemExit(0)\n"), "--data", tmp_path / "data")
    assert "ended the process when it was imported: sys.exit(0)" in sentence


@pytest.mark.parametrize("source", ["raise RuntimeError('no\\nthing')\n", "app = None\n"])
def test_machines_read_why_it_does_not_start(tmp_path: Path, source: str) -> None:
    status, said = ended("--app-dir", app_of(tmp_path, source), "--data", tmp_path / "data", "--json-logs")
    (line,) = said.splitlines()
    assert (status, json.loads(line)["level"]) == (1, "Critical")


@pytest.mark.parametrize("name", ["https://my.site", "my.site:443", "my.site/", "", "a b"])
def test_a_name_that_no_request_can_come_by_is_a_usage_error(name: str) -> None:
    status, said = ended("--trusted-host", name)
    assert status == 2
    assert "is no name of a host" in said


@pytest.mark.parametrize("port", ["x", "-1", "65536", "70.5", "", "1e3", "²", "9" * 5000])
def test_a_port_that_is_no_port_is_a_usage_error(port: str) -> None:
    status, said = ended(f"--port={port}")
    assert status == 2
    assert "a port is a number from 0 to 65535" in said
    assert "Traceback" not in said


def test_an_unknown_option_is_a_usage_error() -> None:
    status, said = ended("--colour", "red")
    assert status == 2
    assert said.startswith("usage: ")


# What it gives the app


def test_two_hosts_run_side_by_side_each_with_its_own_data_and_address(tmp_path: Path) -> None:
    app = app_of(tmp_path, ENVIRONMENT)
    (app / "local.settings.json").write_text(
        '{"Values": {"FROM_FILE": "file", "FROM_BOTH": "file", "AZURE_FUNCTIONS_ENVIRONMENT": "Staging"}}'
    )
    one_data, two_data = tmp_path / "one" / "data", tmp_path / "two"
    real = {"FROM_BOTH": "real"}
    with (
        host_process(one_data, app_dir=app, environment=real) as one,
        host_process(two_data, app_dir=app, environment=real) as two,
    ):
        for host, data in ((one, one_data), (two, two_data)):
            names = ["LOCAL_HOST_DATA", "WEBSITE_HOSTNAME", "FROM_FILE", "FROM_BOTH", "AZURE_FUNCTIONS_ENVIRONMENT"]
            with host.client() as client:
                found = [client.get(f"/api/environment/{name}").text for name in names]
            assert found == [str(data), host.url.removeprefix("http://"), "file", "real", "Staging"]


def test_the_data_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    data = tmp_path / "new" / "data"
    with (tmp_path / "log").open("wb") as log:
        process = start_process("--app-dir", str(APPS / "prefixed"), "--data", str(data), output=log)
        try:
            until(lambda: "Serving:" in (tmp_path / "log").read_text())
            assert oct(data.stat().st_mode & 0o777) == "0o700"
        finally:
            process.terminate()
            assert process.wait(timeout=20) == 0


def test_a_relative_data_folder_reaches_the_app_as_an_absolute_one(tmp_path: Path) -> None:
    app = app_of(tmp_path, ENVIRONMENT)
    relative = Path(os.path.relpath(tmp_path / "data"))
    with host_process(relative, app_dir=app) as host, host.client() as client:
        assert client.get("/api/environment/LOCAL_HOST_DATA").text == str(tmp_path / "data")


# What it does not run


NOT_RUN = """
@app.queue_trigger(arg_name="message", queue_name="q", connection="C")
def on_message(message: func.QueueMessage) -> None: ...

@app.route("x/{id:integer}")
def malformed(req: func.HttpRequest) -> str: return ""

@app.route("admin/x")
def reserved(req: func.HttpRequest) -> str: return ""

@app.route("elsewhere")
@app.durable_client_input(client_name="client", task_hub="Other")
def elsewhere(req: func.HttpRequest, client: str) -> str: return ""

@app.timer_trigger(arg_name="timer", schedule="every day")
def never(timer: func.TimerRequest) -> None: ...

@app.timer_trigger(arg_name="timer", schedule="0 0 3 * * *")
def nightly(timer: func.TimerRequest) -> None: ...
"""


def test_what_cannot_run_is_named_with_the_reason_and_the_others_work(tmp_path: Path) -> None:
    with (
        host_process(tmp_path / "data", app_dir=app_of(tmp_path, ENVIRONMENT + NOT_RUN)) as host,
        host.client() as client,
    ):
        lines = [line.strip() for line in host.log.read_text().splitlines()]
        assert client.get("/api/environment/NOTHING").text == "not set"
        assert client.get("/api/x/1").status_code == 404
        described = {each["name"]: each.get("errors") for each in client.get("/admin/functions").json()}
    not_run = dict(line.split(": ", 1) for line in lines[lines.index("Not run:") + 2 : lines.index("Not run:") + 7])
    assert not_run["on_message"] == "this host has no queueTrigger"
    assert "unknown constraint 'integer'" in not_run["malformed"]
    assert "'admin/x' begins like one of the host's own" in not_run["reserved"]
    assert "'every day'" in not_run["never"]
    assert not_run["elsewhere"] == "its durable client is for the task hub 'Other', and this host has 'TestHubName'"
    assert any(line.startswith("nightly: timerTrigger 0 0 3 * * *") for line in lines)
    assert described == {"environment": None, "nightly": None, **{name: [why] for name, why in not_run.items()}}


def test_bindings_that_do_not_fit_end_it_with_a_sentence(tmp_path: Path) -> None:
    app = app_of(tmp_path, '@app.route("x")\ndef f(req: func.HttpRequest, other: str) -> str: return ""\n')
    sentence = refused("--app-dir", app, "--data", tmp_path / "data")
    assert sentence == "local_host: The function 'f' cannot be loaded: its parameter 'other' has no binding."
