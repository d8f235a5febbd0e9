"""The host as a process, from its start to its end: what it says, whom it lets in, and that it loses nothing."""

import json
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic

import httpx
import pytest

from tests.hosting import host_process, start_process
from tests.polling import until

APPS = Path(__file__).parent / "apps"
APP = """
import asyncio, logging, os, time
from pathlib import Path
import azure.durable_functions as df
import azure.functions as func

app = df.DFApp()
data = Path(os.environ["LOCAL_HOST_DATA"])


@app.route("start", auth_level=func.AuthLevel.FUNCTION)
@app.durable_client_input(client_name="client")
async def start(req: func.HttpRequest, client: df.DurableFunctionsClient) -> func.HttpResponse:
    instance = await client.schedule_new_orchestration("parent", instance_id=req.params.get("id"))
    return client.create_check_status_response(req, instance)


@app.route("open", auth_level=func.AuthLevel.ANONYMOUS)
def is_open(req: func.HttpRequest) -> str:
    logging.info("said by the app")
    return "open"


@app.route("for-admins", auth_level=func.AuthLevel.ADMIN)
def for_admins(req: func.HttpRequest) -> str:
    return "admin"


@app.route("stuck", auth_level=func.AuthLevel.ANONYMOUS)
def stuck(req: func.HttpRequest) -> str:
    (data / "stuck").touch()
    time.sleep(600)
    return "never"


@app.route("stuck-elsewhere", auth_level=func.AuthLevel.ANONYMOUS)
async def stuck_elsewhere(req: func.HttpRequest) -> str:
    (data / "stuck").touch()
    await asyncio.to_thread(time.sleep, 600)
    return "never"


@app.orchestration_trigger(context_name="context")
def parent(context, given):
    return (yield context.call_activity("work", input=context.instance_id))


@app.activity_trigger(input_name="given")
def work(given: str) -> str:
    attempt = len(list(data.glob("attempt-*"))) + 1
    (data / f"attempt-{attempt}").touch()
    if given.startswith("hangs") and attempt == 1:
        time.sleep(600)
    return f"attempt {attempt}"
"""


TICKING = """

@app.timer_trigger(arg_name="timer", schedule="* * * * * *")
def ticks(timer: func.TimerRequest) -> None:
    pass
"""
UNUSUAL = """

class Unusual(BaseException):
    pass


@app.activity_trigger(input_name="given")
def unusual(given: str) -> str:
    raise Unusual("odd thing")


@app.orchestration_trigger(context_name="context")
def calls_unusual(context, given):
    return (yield context.call_activity("unusual", input="x"))
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """The app in a folder of its own."""
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "function_app.py").write_text(APP)
    return folder


def test_what_runs_gets_a_grace_and_then_is_cut_off_and_done_again(tmp_path: Path, app: Path) -> None:
    data = tmp_path / "data"
    with host_process(data, "--grace", "0.5", app_dir=app) as host:
        with host.client() as client:
            client.get("/api/start?id=hangs-1").raise_for_status()
            until((data / "attempt-1").exists)
        began = monotonic()
        assert host.stop(signal.SIGTERM) == 0
        assert monotonic() - began < 15
        log = host.log.read_text()
    assert "Cut off, since the grace of 0.5 s is over: work. What the task hub has handed out is done again." in log
    assert "Traceback" not in log
    with host_process(data, app_dir=app) as host, host.client() as client:
        status = until(lambda: _ended(client, "hangs-1"))
    assert status["output"] == "attempt 2"


@pytest.mark.parametrize("route", ["stuck", "stuck-elsewhere"])
def test_a_request_that_is_stuck_does_not_keep_the_host(tmp_path: Path, app: Path, route: str) -> None:
    with host_process(tmp_path / "data", "--grace", "0.5", app_dir=app) as host, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(httpx.get, f"{host.url}/api/{route}", timeout=30, trust_env=False)
        until((tmp_path / "data" / "stuck").exists)
        began = monotonic()
        assert host.stop() == 0
        assert monotonic() - began < 15
        assert "Traceback" not in host.log.read_text()
        assert waiting.result(30).status_code == 503


def test_the_grace_is_one_for_all(tmp_path: Path, app: Path) -> None:
    with host_process(tmp_path / "data", "--grace", "5", app_dir=app) as host, ThreadPoolExecutor(1) as pool:
        with host.client() as client:
            client.get("/api/start?id=hangs-3").raise_for_status()
            until((tmp_path / "data" / "attempt-1").exists)
        waiting = pool.submit(httpx.get, f"{host.url}/api/stuck", timeout=30, trust_env=False)
        until((tmp_path / "data" / "stuck").exists)
        began = monotonic()
        assert host.stop(signal.SIGTERM) == 0
        assert 5 <= monotonic() - began < 9  # not once for the request, and once for the activity
        waiting.result(30)


def test_no_timer_function_begins_when_the_host_stops(tmp_path: Path, app: Path) -> None:
    with (app / "function_app.py").open("a") as file:
        file.write(TICKING)
    with host_process(tmp_path / "data", "--grace", "4", app_dir=app) as host, ThreadPoolExecutor(1) as pool:
        log = until(lambda: text if "ticks succeeded" in (text := host.log.read_text()) else None)
        waiting = pool.submit(httpx.get, f"{host.url}/api/stuck", timeout=30, trust_env=False)
        until((tmp_path / "data" / "stuck").exists)
        assert host.stop() == 0
        waiting.result(30)
        after = host.log.read_text().partition("Stopping when what runs has ended")[2]
    assert log
    assert after.count("ticks succeeded") <= 1  # one may have begun before


def test_what_libraries_raise_past_exception_is_a_failure_too(tmp_path: Path, app: Path) -> None:
    with (app / "function_app.py").open("a") as file:
        file.write(UNUSUAL)
    with host_process(tmp_path / "data", app_dir=app) as host, host.client() as client:
        client.post("/runtime/webhooks/durabletask/orchestrators/calls_unusual/odd", json=1).raise_for_status()
        path = "/runtime/webhooks/durabletask/instances/odd"
        status = until(lambda: found if (found := client.get(path).json())["runtimeStatus"] == "Failed" else None)
    assert "odd thing" in status["output"]


BUSY = """

@app.route("busy", auth_level=func.AuthLevel.ANONYMOUS)
async def busy(req: func.HttpRequest) -> str:
    (data / "busy").touch()
    while True:
        pass
"""


def test_a_coroutine_that_keeps_the_loop_does_not_keep_the_second_signal(tmp_path: Path, app: Path) -> None:
    with (app / "function_app.py").open("a") as file:
        file.write(BUSY)
    with host_process(tmp_path / "data", app_dir=app) as host, ThreadPoolExecutor(1) as pool:
        pool.submit(httpx.get, f"{host.url}/api/busy", timeout=30, trust_env=False)
        until((tmp_path / "data" / "busy").exists)
        host.process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            host.process.wait(0.3)
        assert host.stop(signal.SIGINT) == 1


def test_a_coroutine_that_keeps_the_loop_ends_the_host_after_function_timeout(tmp_path: Path, app: Path) -> None:
    with (app / "function_app.py").open("a") as file:
        file.write(BUSY)
    (app / "host.json").write_text(json.dumps({"functionTimeout": "00:00:01"}))
    with host_process(tmp_path / "data", app_dir=app) as host, ThreadPoolExecutor(1) as pool:
        pool.submit(httpx.get, f"{host.url}/api/busy", timeout=30, trust_env=False)
        assert host.process.wait(20) == 1
        assert "The event loop was kept for 1 s (functionTimeout), by one of busy" in host.log.read_text()


def test_without_a_grace_it_stops_at_once(tmp_path: Path, app: Path) -> None:
    data = tmp_path / "data"
    with host_process(data, "--grace", "0", app_dir=app) as host:
        with host.client() as client:
            client.get("/api/start?id=hangs-2").raise_for_status()
            until((data / "attempt-1").exists)
        assert host.stop(signal.SIGTERM) == 0


@pytest.mark.parametrize("grace", ["-1", "x", "nan", "inf", "3601"])
def test_a_grace_that_cannot_be_is_a_usage_error(grace: str) -> None:
    process = start_process(f"--grace={grace}", output=subprocess.PIPE)
    said, _ = process.communicate(timeout=20)
    assert process.returncode == 2
    assert b"the grace is a number of seconds" in said


# Keys


def test_with_keys_each_level_asks_for_its_key_and_the_links_work(tmp_path: Path, app: Path) -> None:
    with host_process(tmp_path / "data", "--keys", app_dir=app) as host, host.client() as client:
        file = tmp_path / "data" / "keys.json"
        keys = json.loads(file.read_text())
        function, master = keys["functionKeys"]["default"], keys["masterKey"]
        assert client.get("/api/open").text == "open"
        assert client.get("/api/start").status_code == 401
        assert client.get("/api/for-admins", headers={"x-functions-key": function}).status_code == 401
        assert client.get("/api/for-admins", params={"code": master}).text == "admin"
        started = client.get("/api/start", params={"code": function})
        assert started.status_code == 202
        links = started.json()
        done = until(lambda: _completed(httpx.get(links["statusQueryGetUri"], trust_env=False)))
        assert done["output"] == "attempt 1"
        without = links["statusQueryGetUri"].partition("&code=")[0]
        assert httpx.get(without, trust_env=False).status_code == 401
        management = (
            f"/runtime/webhooks/durabletask/orchestrators/parent?code={keys['systemKeys']['durabletask_extension']}"
        )
        again = client.post(management).json()
        assert httpx.get(again["statusQueryGetUri"], trust_env=False).status_code in (200, 202)
        assert client.get("/admin/host/status").status_code == 401
        log = host.log.read_text()
    assert f"Access:   this machine only, by the keys in {file}" in log
    assert not any(key in log for key in (function, master, keys["systemKeys"]["durabletask_extension"]))
    assert oct(file.stat().st_mode & 0o777) == "0o600"


def test_without_keys_it_says_who_may_call(tmp_path: Path, app: Path) -> None:
    with host_process(tmp_path / "data", app_dir=app) as host:
        assert "Access:   this machine only, without keys" in host.log.read_text()
        assert not (tmp_path / "data" / "keys.json").exists()


# The log


def test_each_invocation_is_a_line(tmp_path: Path, app: Path) -> None:
    with host_process(tmp_path / "data", app_dir=app) as host, host.client() as client:
        client.get("/api/open").raise_for_status()
        lines = until(lambda: [line for line in host.log.read_text().splitlines() if "is_open" in line][1:])
        said = next(line for line in lines if "said by the app" in line)
        done = next(line for line in lines if "is_open succeeded (" in line)
    assert "Function.is_open.User [" in said
    assert said.split("[")[1][:8] == done.split("[")[1][:8]


def test_machines_get_json_only(tmp_path: Path, app: Path) -> None:
    with host_process(tmp_path / "data", "--json-logs", app_dir=app) as host, host.client() as client:
        client.get("/api/open").raise_for_status()
        client.get("/api/start?id=one").raise_for_status()
        until(lambda: _ended(client, "one"))
        assert host.stop() == 0
        text = host.log.read_text()
    lines = [json.loads(line) for line in text.partition("Serving:")[2].splitlines()[2:]]
    functions = {line["function"] for line in lines if line["category"].startswith("Function.")}
    assert functions == {"is_open", "start", "parent", "work"}
    assert {"time", "level", "category", "message"} <= lines[0].keys()


def test_levels_of_host_json_are_kept_to(tmp_path: Path, app: Path) -> None:
    levels = {"default": "Information", "Function": "Error", "Function.is_open.User": "Information"}
    (app / "host.json").write_text(json.dumps({"logging": {"logLevel": levels}}))
    with host_process(tmp_path / "data", app_dir=app) as host, host.client() as client:
        client.get("/api/open").raise_for_status()
        log = until(lambda: text if "said by the app" in (text := host.log.read_text()) else None)
        assert "is_open succeeded" not in log


def test_a_level_that_does_not_exist_is_refused(tmp_path: Path, app: Path) -> None:
    (app / "host.json").write_text(json.dumps({"logging": {"logLevel": {"default": "Loud"}}}))
    process = start_process("--app-dir", str(app), "--data", str(tmp_path / "data"), output=subprocess.PIPE)
    said, _ = process.communicate(timeout=20)
    assert process.returncode == 1
    assert b"'Loud'" in said
    assert b"Traceback" not in said


def _ended(client: httpx.Client, instance_id: str) -> dict[str, object] | None:
    return _completed(client.get(f"/runtime/webhooks/durabletask/instances/{instance_id}"))


def _completed(response: httpx.Response) -> dict[str, object] | None:
    status: dict[str, object] = response.json()
    return status if status["runtimeStatus"] == "Completed" else None


def test_a_write_with_the_origin_of_another_site_is_refused_where_the_browser_says_no_more(
    tmp_path: Path, app: Path
) -> None:
    """Over plain http, browsers send Sec-Fetch-Site to loopback only, not to a name that is trusted."""
    with host_process(tmp_path / "data", "--trusted-host", "box.lan", app_dir=app) as host, host.client() as client:
        path = "/runtime/webhooks/durabletask/orchestrators/parent"
        for origin, status in (
            ("http://evil.example", 403),
            ("null", 403),
            ("http://box.lan.evil.example", 403),
            ("http://box.lan", 202),
            ("http://BOX.lan", 202),
        ):
            headers = {"Host": "box.lan", "Origin": origin, "Content-Type": "text/plain"}
            assert client.post(path, headers=headers, content=b"{}").status_code == status, origin
            assert client.get("/admin/host/status", headers=headers).status_code == 200
        assert "Access:   this machine, and who comes by box.lan, without keys" in host.log.read_text()


def test_another_address_of_loopback_is_answered_by_its_own_name(tmp_path: Path, app: Path) -> None:
    with host_process(tmp_path / "data", "--host", "127.0.0.2", app_dir=app) as host:
        assert host.url.startswith("http://127.0.0.2:")
        assert httpx.get(f"{host.url}/api/open", trust_env=False).text == "open"
        started = httpx.get(f"{host.url}/api/start?id=there", trust_env=False).json()
        assert httpx.get(started["statusQueryGetUri"], trust_env=False).status_code in (200, 202)
