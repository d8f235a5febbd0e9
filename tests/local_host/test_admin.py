"""The host's own pages below ``/admin``: shapes, statuses, and running a timer function now."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from local_host.admin import MAX_RUNS, Admin
from local_host.app_loader import App, load_app
from tests.local_host.serving import Served, served
from tests.polling import until

APPS = Path(__file__).parent / "apps"


class Runs:
    """What was run, and whether it may end."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.ended = 0
        self.may_end = threading.Event()
        self.may_end.set()

    async def __call__(self, name: str) -> None:
        self.names.append(name)
        await asyncio.to_thread(self.may_end.wait, 20)
        self.ended += 1
        if len(self.names) == 1:
            raise RuntimeError("swordfish")


@pytest.fixture(scope="module")
def app() -> App:
    return load_app(APPS / "keyed")


@pytest.fixture
def runs() -> Runs:
    return Runs()


@pytest.fixture
def admin(app: App, runs: Runs) -> Admin:
    return Admin(app, runs)


@pytest.fixture
def host(admin: Admin, runs: Runs) -> Iterator[Served]:
    """A server of nothing else."""
    with served(admin) as running:
        yield running
        runs.may_end.set()
        asyncio.run_coroutine_threadsafe(admin.drain(), running.loop).result(10)


@pytest.fixture
def client(host: Served) -> Iterator[httpx.Client]:
    with host.client() as client:
        yield client


def test_the_status_of_the_host(client: httpx.Client) -> None:
    response = client.get("/admin/host/status")
    assert response.headers["content-type"] == "application/json"
    status = response.json()
    uptime = status.pop("processUptime")
    assert status == {
        "id": "keyed",
        "state": "Running",
        "version": "4.0.0.0",
        "versionDetails": "4.0.0 (local_host)",
    }
    assert isinstance(uptime, int)
    until(lambda: client.get("/admin/host/status").json()["processUptime"] > uptime)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_ping_is_answered_with_nothing(client: httpx.Client, method: str) -> None:
    response = client.request(method, "/admin/host/ping")
    assert (response.status_code, response.content, response.headers["cache-control"]) == (200, b"", "no-store")


def test_a_function_as_the_real_host_describes_it(client: httpx.Client, host: Served) -> None:
    for path in ("/admin/functions/mastered", "/Admin/Functions/MASTERED/"):
        assert client.get(path).json() == {
            "name": "mastered",
            "script_root_path_href": None,
            "script_href": None,
            "config_href": None,
            "test_data_href": None,
            "href": f"{host.url}/admin/functions/mastered",
            "invoke_url_template": f"{host.url}/api/master/{{id:int}}",
            "language": "python",
            "config": {
                "name": "mastered",
                "entryPoint": "mastered",
                "scriptFile": "function_app.py",
                "language": "python",
                "functionDirectory": str(APPS / "keyed"),
                "bindings": [
                    {
                        "direction": "IN",
                        "type": "httpTrigger",
                        "name": "req",
                        "methods": ["GET"],
                        "authLevel": "ADMIN",
                        "route": "Master/{id:int}",
                    },
                    {"direction": "OUT", "type": "http", "name": "$return"},
                ],
            },
            "files": None,
            "test_data": None,
            "isDisabled": False,
            "isDirect": False,
            "isProxy": False,
        }


def test_the_list_has_every_function_and_why_one_is_not_run(client: httpx.Client) -> None:
    functions = {each["name"]: each for each in client.get("/admin/functions").json()}
    assert set(functions) == {"opened", "keyed", "mastered", "shown", "yearly", "letters"}
    assert functions["yearly"]["invoke_url_template"] is None
    assert functions["letters"]["errors"] == ["this host has no queueTrigger"]
    assert functions["letters"]["config"]["bindings"] == [{"type": "queueTrigger"}]
    assert [name for name, each in functions.items() if "errors" in each] == ["letters"]


def test_the_status_of_a_function_is_its_errors(client: httpx.Client) -> None:
    assert client.get("/admin/functions/keyed/status").json() == {}
    assert client.get("/admin/functions/Letters/Status").json() == {"errors": ["this host has no queueTrigger"]}


def test_the_addresses_are_those_that_the_host_was_called_by(client: httpx.Client) -> None:
    described = client.get("/admin/functions/opened", headers={"Host": "localhost:1"}).json()
    assert described["href"] == "http://localhost:1/admin/functions/opened"
    assert described["invoke_url_template"] == "http://localhost:1/api/open"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/admin", 404),
        ("GET", "/admin/host", 404),
        ("GET", "/admin/functions/nothing", 404),
        ("GET", "/admin/functions/nothing/status", 404),
        ("GET", "/admin/functions/keyed/more", 404),
        ("GET", "/admin/functions/keyed/status/more", 404),
        ("GET", "/admin/host/keys", 404),
        ("POST", "/admin/host/restart", 404),
        ("GET", "/admin/vfs/function_app.py", 404),
        ("GET", "/admin/functions/..%2F..%2Fetc", 404),
        ("GET", "/admin/functions/%0A%00%FF", 404),
        ("POST", "/admin/functions", 405),
        ("DELETE", "/admin/functions/keyed", 405),
        ("PUT", "/admin/functions/keyed", 405),
        ("HEAD", "/admin/host/status", 405),
        ("POST", "/admin/functions/keyed/status", 405),
        ("DELETE", "/admin/host/ping", 405),
    ],
)
def test_what_there_is_not(client: httpx.Client, method: str, path: str, status: int) -> None:
    assert client.request(method, path).status_code == status


# Running a function now


def test_a_timer_function_is_run_and_not_waited_for(client: httpx.Client, runs: Runs) -> None:
    runs.may_end.clear()
    response = client.post("/admin/functions/YEARLY", json={"input": "ignored"})
    assert (response.status_code, response.content) == (202, b"")
    until(lambda: runs.names == ["yearly"])
    assert runs.ended == 0
    runs.may_end.set()
    until(lambda: runs.ended)


def test_a_run_that_fails_is_logged_and_the_next_one_runs(
    client: httpx.Client, runs: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    assert client.post("/admin/functions/yearly", json={}).status_code == 202
    until(lambda: "yearly failed" in caplog.text)
    assert client.post("/admin/functions/yearly", json={}).status_code == 202
    until(lambda: runs.ended == 2)
    assert caplog.text.count("failed") == 1


@pytest.mark.parametrize(("name", "status"), [("keyed", 202), ("letters", 404), ("nothing", 404)])
def test_what_is_no_timer_function_is_not_run(
    client: httpx.Client, runs: Runs, caplog: pytest.LogCaptureFixture, name: str, status: int
) -> None:
    assert client.post(f"/admin/functions/{name}", json={}).status_code == status
    assert runs.names == []
    assert ("keyed was not run" in caplog.text) is (status == 202)


@pytest.mark.parametrize(
    ("body", "media_type", "status"),
    [
        (b"{}", None, 415),
        (b"{}", "text/plain", 415),
        (b"{}", "application/x-www-form-urlencoded", 415),
        (b"{}", "application/json; charset=utf-8", 202),
        (b"{}", "Application/JSON", 202),
        (b"", "application/json", 400),
        (b"[]", "application/json", 400),
        (b"null", "application/json", 400),
        (b"{", "application/json", 400),
        (b"\xff", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'{"input": "' + b"x" * 1024 * 1024 + b'"}', "application/json", 413),
    ],
)
def test_running_asks_for_a_json_object(
    client: httpx.Client, runs: Runs, body: bytes, media_type: str | None, status: int
) -> None:
    headers = {} if media_type is None else {"Content-Type": media_type}
    assert client.post("/admin/functions/yearly", content=body, headers=headers).status_code == status
    if status == 202:
        until(lambda: runs.names == ["yearly"])
    assert bool(runs.names) is (status == 202)


def test_no_more_are_started_than_can_be_kept(client: httpx.Client, runs: Runs) -> None:
    runs.may_end.clear()
    found = [client.post("/admin/functions/yearly", json={}).status_code for _ in range(MAX_RUNS + 2)]
    assert found == [202] * MAX_RUNS + [429] * 2
    runs.may_end.set()
    until(lambda: runs.ended == MAX_RUNS)
    assert client.post("/admin/functions/yearly", json={}).status_code == 202


def test_draining_waits_for_what_was_started(client: httpx.Client, runs: Runs, admin: Admin, host: Served) -> None:
    runs.may_end.clear()
    client.post("/admin/functions/yearly", json={})
    until(lambda: runs.names)
    drained = asyncio.run_coroutine_threadsafe(admin.drain(), host.loop)
    assert not drained.done()
    runs.may_end.set()
    drained.result(10)
    assert runs.ended == 1
