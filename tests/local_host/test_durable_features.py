"""What the SDK has built in, and what can be done to an orchestration that runs: on the whole host, with real HTTP."""

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from local_host.testing import AppControl, running_app
from tests.hosting import HostProcess, host_process
from tests.local_host.test_durable import ENDED, seen, started
from tests.polling import until

APPS = Path(__file__).parent / "apps"
MANAGEMENT = "/runtime/webhooks/durabletask"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostProcess]:
    """A host of the app with orchestrations to control."""
    with host_process(tmp_path_factory.mktemp("data"), app_dir=APPS / "programming_model") as host:
        yield host


@pytest.fixture(scope="module")
def client(host: HostProcess) -> Iterator[httpx.Client]:
    """A client of that host."""
    with host.client() as client:
        yield client


def begun(client: httpx.Client, name: str, given: Any = None) -> dict[str, str]:
    """Start an orchestration of the app with orchestrations to control."""
    return started(client, name, given, via="control/start")


def post(client: httpx.Client, urls: dict[str, str], what: str, **texts: str) -> httpx.Response:
    """Call a URL of an instance, with its placeholders filled in."""
    url = urls[what]
    for name, text in texts.items():
        url = url.replace(f"{{{name}}}", text)
    return client.post(url)


def noted(client: httpx.Client, urls: dict[str, str]) -> dict[str, Any]:
    """What the app noted of an instance."""
    told: dict[str, Any] = client.get(f"/api/control/noted/{urls['id']}").json()
    return told


# Replay


def test_steps_that_are_replayed_know_it_and_log_once(client: httpx.Client, host: HostProcess) -> None:
    urls = begun(client, "replayed")
    assert seen(client, urls, *ENDED)["runtimeStatus"] == "Completed"
    assert noted(client, urls)["calls"] == ["step 0", "step 1", "step 2"]
    # Each turn replays all that was before: False, then True False, then True True False, and all of them at the end.
    assert noted(client, urls)["replays"] == [False, True, False, True, True, False, True, True, True]
    log = host.log.read_text()
    for step in range(3):
        assert log.count(f"{urls['id']} comes to step {step}") == 1


# Suspend and resume


def test_a_suspended_instance_keeps_its_events_for_later(client: httpx.Client) -> None:
    urls = begun(client, "waits", "given")
    seen(client, urls, "Running")
    assert post(client, urls, "suspendPostUri", text="lunch").status_code == 202
    assert seen(client, urls, "Suspended")["output"] is None
    for number in (1, 2):
        assert client.post(urls["sendEventPostUri"].replace("{eventName}", "go"), json=number).status_code == 202
    assert client.get(urls["statusQueryGetUri"]).json()["runtimeStatus"] == "Suspended"
    assert post(client, urls, "resumePostUri", text="back").status_code == 202
    assert seen(client, urls, *ENDED)["output"] == ["given", 1, 2]


def test_an_instance_that_has_ended_is_gone_for_suspend_resume_and_terminate(client: httpx.Client) -> None:
    urls = begun(client, "of_a_version")
    seen(client, urls, *ENDED)
    for what in ("suspendPostUri", "resumePostUri", "terminatePostUri"):
        assert post(client, urls, what, text="late").status_code == 410


# Terminate


def test_a_termination_leaves_the_sub_orchestrations_running(client: httpx.Client) -> None:
    """As the documentation of instance management has it: termination does not propagate."""
    child = uuid4().hex
    urls = begun(client, "waits_above", child)
    below = f"{MANAGEMENT}/instances/{child}"
    until(lambda: client.get(below).status_code == 202)
    assert post(client, urls, "terminatePostUri", text="enough").status_code == 202
    assert seen(client, urls, *ENDED)["runtimeStatus"] == "Terminated"
    event = urls["sendEventPostUri"].replace(urls["id"], child).replace("{eventName}", "go")
    for number in (1, 2):
        assert client.post(event, json=number).status_code == 202
    assert seen(client, {"statusQueryGetUri": below}, *ENDED)["output"] == [None, 1, 2]


# Rewind


def test_a_rewound_instance_runs_only_what_failed(client: httpx.Client) -> None:
    urls = begun(client, "falls_ill")
    assert seen(client, urls, *ENDED)["runtimeStatus"] == "Failed"
    before = until(lambda: (calls := noted(client, urls)["calls"]) and len(calls) == 3 and calls)
    assert before == ["ill", "ill", "well"]
    client.post(f"/api/control/heal/{urls['id']}").raise_for_status()
    assert post(client, urls, "rewindPostUri", text="healed").status_code == 202
    shown = seen(client, urls, "Completed")
    assert shown["output"] == ["well", "healed", "healed"]
    assert noted(client, urls)["calls"].count("well") == 1


def test_an_instance_that_is_still_ill_fails_again(client: httpx.Client) -> None:
    urls = begun(client, "falls_ill")
    seen(client, urls, "Failed")
    ill = noted(client, urls)["calls"].count("ill")
    assert post(client, urls, "rewindPostUri", text="try").status_code == 202
    until(lambda: noted(client, urls)["calls"].count("ill") > ill)
    assert seen(client, urls, "Failed")["runtimeStatus"] == "Failed"


@pytest.mark.parametrize("name", ["waits", "of_a_version"])
def test_what_has_not_failed_cannot_be_rewound(client: httpx.Client, name: str) -> None:
    urls = begun(client, name)
    seen(client, urls, "Running" if name == "waits" else "Completed")
    assert post(client, urls, "rewindPostUri", text="why").status_code == 412
    nobody = {"rewindPostUri": urls["rewindPostUri"].replace(urls["id"], "nobody")}
    assert post(client, nobody, "rewindPostUri", text="why").status_code == 404


# Restart


@pytest.mark.parametrize("new_id", [True, False])
def test_a_restart_runs_the_same_input_again(client: httpx.Client, new_id: bool) -> None:
    urls = begun(client, "of_a_version", {"ä": 1})
    first = seen(client, urls, *ENDED)
    again = client.post(f"{urls['restartPostUri']}&restartWithNewInstanceId={str(new_id).lower()}")
    assert again.status_code == 202
    assert again.headers["location"] == again.json()["statusQueryGetUri"]
    assert (again.json()["id"] != urls["id"]) is new_id
    shown = seen(client, again.json(), *ENDED)
    assert (shown["input"], shown["output"]) == (first["input"], [{"ä": 1}, "2.0.0"])


def test_a_restart_of_what_runs_under_its_own_id_is_refused(client: httpx.Client) -> None:
    urls = begun(client, "waits", 1)
    seen(client, urls, "Running")
    assert client.post(f"{urls['restartPostUri']}&restartWithNewInstanceId=false").status_code == 409
    nobody = urls["restartPostUri"].replace(urls["id"], "nobody")
    assert client.post(nobody).status_code == 400


# Continue as new, versions


def test_events_that_came_meanwhile_go_on_with_a_new_one(client: httpx.Client) -> None:
    urls = begun(client, "keeps_events", 0)
    for event in [*range(5), "last"]:
        assert client.post(urls["sendEventPostUri"].replace("{eventName}", "next"), json=event).status_code == 202
    assert seen(client, urls, *ENDED)["output"] == 5


def test_an_instance_knows_its_version(client: httpx.Client) -> None:
    for version in ("1.2.3", "2.0.0"):
        response = client.post("/api/control/start/of_a_version", params={"version": version}, json="x")
        assert seen(client, response.json(), *ENDED)["output"] == ["x", version]
    assert seen(client, begun(client, "of_a_version", "x"), *ENDED)["output"] == ["x", "2.0.0"]


def test_an_instance_of_a_newer_version_waits(client: httpx.Client) -> None:
    """Its host would be one that is newer; the default is to match what is current or older, and to reject the rest."""
    newer = client.post("/api/control/start/of_a_version", params={"version": "2.1.0"}, json="x").json()
    after = begun(client, "of_a_version", "x")
    seen(client, after, *ENDED)
    assert client.get(newer["statusQueryGetUri"]).json()["runtimeStatus"] == "Pending"


# call_http


class Service:
    """A small HTTP service on loopback: it notes what it is asked, and answers from a list."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[tuple[str, str, dict[str, str], str]] = []
        self.answers: list[tuple[int, dict[str, str], str]] = []


@contextmanager
def serving() -> Iterator[Service]:
    """Run a service for as long as the context lasts."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("content-length", 0))
            body = self.rfile.read(length).decode()
            headers = {name.lower(): value for name, value in self.headers.items()}
            served.asked.append((self.command, self.path, headers, body))
            status, more, text = served.answers.pop(0) if len(served.answers) > 1 else served.answers[0]
            self.send_response(status)
            for name, value in {**more, "content-length": str(len(text.encode()))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = answer

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = Service(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A service, which no proxy stands before."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as service:
        yield service


@pytest.fixture
def caller(tmp_path: Path, service: Service) -> Iterator[AppControl]:
    """The app that calls services, on a clock that stands still."""
    with running_app(APPS / "call_http", tmp_path) as app:
        yield app


def test_a_call_carries_method_headers_and_content_both_ways(caller: AppControl, service: Service) -> None:
    service.answers = [(201, {"x-made": "ä".encode().decode("latin-1")}, "grün")]
    given = {"method": "PUT", "url": f"{service.url}/a?b=c", "content": {"ü": 1}, "headers": {"X-One": "1"}}
    output = caller.output(caller.start("calls", given))
    assert (output["status"], output["content"]) == (201, "grün")
    assert "x-made" in {name.lower() for name in output["headers"]}
    ((method, path, headers, body),) = service.asked
    assert (method, path, headers["x-one"], json.loads(body)) == ("PUT", "/a?b=c", "1", {"ü": 1})


@pytest.mark.parametrize(("raw", "body"), [(True, "as it is"), (False, '"as it is"')])
def test_a_text_is_sent_as_json_unless_it_is_raw(caller: AppControl, service: Service, raw: bool, body: str) -> None:
    service.answers = [(200, {}, "")]
    given = {"method": "POST", "url": service.url, "content": "as it is", "raw": raw}
    assert caller.output(caller.start("calls", given))["status"] == 200
    assert service.asked[0][3] == body


@pytest.mark.parametrize("status", [204, 400, 401, 404, 409, 500, 503])
def test_any_status_is_an_answer(caller: AppControl, service: Service, status: int) -> None:
    service.answers = [(status, {"x-why": "so"}, "" if status == 204 else "no")]
    output = caller.output(caller.start("calls", {"url": service.url}))
    assert output["status"] == status
    assert len(service.asked) == 1


def test_a_redirect_is_followed(caller: AppControl, service: Service) -> None:
    service.answers = [(302, {"location": "/there"}, ""), (200, {}, "here")]
    assert caller.output(caller.start("calls", {"url": f"{service.url}/here"}))["content"] == "here"
    assert [path for _, path, _, _ in service.asked] == ["/here", "/there"]


@pytest.mark.parametrize("location", ["/status", "{url}/status"])
def test_a_202_is_asked_again_after_retry_after_and_not_before(
    caller: AppControl, service: Service, location: str
) -> None:
    accepted = (202, {"location": location.format(url=service.url), "retry-after": "30"}, "not yet")
    service.answers = [accepted, accepted, (200, {}, "done")]
    given = {"method": "POST", "url": f"{service.url}/begin", "content": 1, "headers": {"X-One": "1"}}
    instance = caller.start("calls", given)
    caller.settle()
    for asked in (1, 2):
        assert len(service.asked) == asked
        caller.advance(timedelta(seconds=29))
        assert len(service.asked) == asked
        assert caller.state(instance).runtime_status.name == "RUNNING"
        caller.advance(timedelta(seconds=1))
    assert caller.output(instance)["content"] == "done"
    assert [(method, path) for method, path, _, _ in service.asked] == [
        ("POST", "/begin"),
        ("GET", "/status"),
        ("GET", "/status"),
    ]
    assert service.asked[2][2]["x-one"] == "1"


def test_a_202_without_retry_after_is_asked_again_after_a_second(caller: AppControl, service: Service) -> None:
    service.answers = [(202, {"location": "/status"}, ""), (200, {}, "done")]
    instance = caller.start("calls", {"url": service.url})
    caller.settle()
    assert len(service.asked) == 1
    caller.advance(timedelta(seconds=1))
    assert caller.output(instance)["content"] == "done"


def test_a_202_without_a_location_is_the_answer(caller: AppControl, service: Service) -> None:
    service.answers = [(202, {"retry-after": "1"}, "accepted")]
    assert caller.output(caller.start("calls", {"url": service.url}))["status"] == 202


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("http://127.0.0.1:1/", "refused"),
        ("file:///etc/hostname", "absolute http/https URL"),
        ("/relative", "absolute http/https URL"),
    ],
)
def test_a_call_that_cannot_be_made_is_a_failure_that_can_be_caught(
    caller: AppControl, url: str, sentence: str
) -> None:
    output = caller.output(caller.start("calls_and_catches", url))
    assert output.startswith("failed: ")
    assert sentence in output


def test_the_poller_cannot_be_started_from_outside(caller: AppControl, service: Service) -> None:
    service.answers = [(200, {}, "")]
    instance = caller.start("BuiltIn__HttpPollOrchestrator", {"method": "GET", "uri": service.url})
    assert caller.state(instance).runtime_status.name == "FAILED"
    assert not service.asked


def test_polling_goes_on_after_a_crash(tmp_path: Path, service: Service) -> None:
    service.answers = [(202, {"location": "/status", "retry-after": "1"}, "not yet")]
    with host_process(tmp_path, app_dir=APPS / "call_http") as host, host.client() as client:
        start = client.post(f"{MANAGEMENT}/orchestrators/calls/polled", json={"url": service.url})
        assert start.status_code == 202
        until(lambda: len(service.asked) >= 2)
        host.stop(signal.SIGKILL)
    service.answers = [(200, {}, "done")]
    with host_process(tmp_path, app_dir=APPS / "call_http") as host, host.client() as client:
        shown = seen(client, {"statusQueryGetUri": f"{MANAGEMENT}/instances/polled"}, *ENDED)
    assert shown["output"]["content"] == "done"
    assert sum(method == "GET" and path == "/" for method, path, _, _ in service.asked) == 1


# Scheduled tasks


@pytest.fixture(scope="module")
def schedules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a host of the app with schedules."""
    data = tmp_path_factory.mktemp("data")
    with host_process(data, app_dir=APPS / "scheduled_tasks") as host, host.client() as client:
        yield client


def ticks_of(client: httpx.Client, schedule: str) -> int:
    """How often a schedule has started its orchestration so far."""
    instances = client.get(f"{MANAGEMENT}/instances", params={"showInput": "true", "top": "1000"}).json()
    return sum(each["input"] == schedule for each in instances)


def scheduled(client: httpx.Client, **query: str) -> str:
    """Make a schedule, and give its id."""
    schedule = f"s{uuid4().hex}"
    assert client.put(f"/api/schedules/{schedule}", params=query).status_code == 201
    return schedule


def wait_for_ticks(client: httpx.Client, schedule: str, more: int) -> None:
    """Wait until a schedule has ticked some times more."""
    target = ticks_of(client, schedule) + more
    until(lambda: ticks_of(client, schedule) >= target)


def test_a_schedule_ticks_is_paused_resumed_and_deleted(schedules: httpx.Client) -> None:
    clock = scheduled(schedules)  # ticks on while the other one is paused
    schedule = scheduled(schedules)
    wait_for_ticks(schedules, schedule, 2)
    told = schedules.get(f"/api/schedules/{schedule}").json()
    assert (told["status"], told["orchestration_name"]) == ("Active", "ticks")
    assert {clock, schedule} <= set(schedules.get("/api/schedules").json())

    assert schedules.post(f"/api/schedules/{schedule}/pause").status_code == 200
    assert schedules.get(f"/api/schedules/{schedule}").json()["status"] == "Paused"
    before = ticks_of(schedules, schedule)
    wait_for_ticks(schedules, clock, 3)
    assert ticks_of(schedules, schedule) == before

    assert schedules.post(f"/api/schedules/{schedule}/resume").status_code == 200
    wait_for_ticks(schedules, schedule, 1)
    for each in (schedule, clock):
        assert schedules.post(f"/api/schedules/{each}/delete").status_code == 200
        until(lambda each=each: schedules.get(f"/api/schedules/{each}").status_code == 404)  # type: ignore[misc]


def test_a_schedule_of_an_hour_is_not_in_a_hurry(schedules: httpx.Client) -> None:
    schedule = scheduled(schedules, seconds="3600")
    told = schedules.get(f"/api/schedules/{schedule}").json()
    assert told["status"] == "Active"
    assert ticks_of(schedules, schedule) <= 1


@pytest.mark.parametrize("operation", ["pause", "resume"])
def test_what_a_schedule_that_is_not_there_cannot_do(schedules: httpx.Client, operation: str) -> None:
    assert schedules.get("/api/schedules/nobody").status_code == 404
    assert schedules.post(f"/api/schedules/nobody/{operation}").status_code == 409


def test_a_schedule_outlives_a_crash(tmp_path: Path) -> None:
    with host_process(tmp_path, app_dir=APPS / "scheduled_tasks") as host, host.client() as client:
        schedule = scheduled(client)
        wait_for_ticks(client, schedule, 1)
        host.stop(signal.SIGKILL)
    with host_process(tmp_path, app_dir=APPS / "scheduled_tasks") as host, host.client() as client:
        wait_for_ticks(client, schedule, 2)


# History export


def exported(data: Path, job: str) -> dict[str, Any]:
    """The files that a job has written."""
    return {file.name: json.loads(file.read_text()) for file in (data / "exports" / job).rglob("*") if file.is_file()}


@contextmanager
def exporting(data: Path, environment: dict[str, str] | None = None) -> Iterator[httpx.Client]:
    """Host the app that exports, in which five instances have ended and one has not."""
    with host_process(data, app_dir=APPS / "history_export", environment=environment) as host, host.client() as client:
        for number in range(5):
            start = client.post(f"{MANAGEMENT}/orchestrators/works/done-{number}", json=f"grün {number}")
            seen(client, start.json(), "Completed")
        yield client


def job_of(client: httpx.Client, job: str, until_is: Callable[[str], bool] = lambda status: status != "ACTIVE") -> Any:
    """What is told of a job, when its status is as wanted."""

    def look() -> Any:
        told = client.get(f"/api/exports/{job}")
        return told.status_code == 200 and until_is(told.json()["status"]) and told.json()

    return until(look)


def test_histories_are_exported_into_files(tmp_path: Path) -> None:
    with exporting(tmp_path) as client:
        assert client.put("/api/exports/all").status_code == 202
        told = job_of(client, "all")
        assert (told["status"], told["exported"], told["failed"]) == ("COMPLETED", 5, 0)
        files = exported(tmp_path, "all")
        assert len(files) == 5
        texts = [json.dumps(each, ensure_ascii=False) for each in files.values()]
        for number in range(5):
            (text,) = [text for text in texts if f"done-{number}" in text]
            assert "worked on" in text
            assert f"grün {number}" in text.replace("\\u00fc", "ü")
        assert client.delete("/api/exports/all").status_code == 200
        until(lambda: client.get("/api/exports/all").status_code == 404)


def test_a_continuous_export_is_refused_as_on_azure(tmp_path: Path) -> None:
    with exporting(tmp_path) as client:
        client.put("/api/exports/for-ever", params={"mode": "CONTINUOUS"})
        told = job_of(client, "for-ever")
        assert told["status"] == "FAILED"
        assert "not supported on Azure Functions" in told["error"]
        assert not exported(tmp_path, "for-ever")


# Large payloads


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostProcess]:
    """A host of the app with large payloads."""
    with host_process(tmp_path_factory.mktemp("data"), app_dir=APPS / "large_payloads") as host:
        yield host


@pytest.fixture(scope="module")
def large_client(large: HostProcess) -> Iterator[httpx.Client]:
    """A client of that host."""
    with large.client() as client:
        yield client


def held_by_the_hub(host: HostProcess, text: str) -> bool:
    """Whether a text stands anywhere in the files of the hub."""
    files = list(host.data.glob("task-hub.db*"))
    assert files
    return any(text.encode() in file.read_bytes() for file in files)


def test_a_large_payload_goes_everywhere_and_the_hub_does_not_hold_it(
    large: HostProcess, large_client: httpx.Client
) -> None:
    needle = uuid4().hex
    text = f"grün {needle} " * 2000
    urls = started(large_client, "everywhere", text)
    assert large_client.post(f"/api/events/{urls['id']}", json=text).status_code == 202
    shown = seen(large_client, urls, *ENDED)
    assert shown["runtimeStatus"] == "Completed", str(shown)[:500]
    # The host knows references only, as on Azure; the app's clients resolve them.
    assert shown["output"].startswith("payload:v1:")
    assert shown["input"].startswith("payload:v1:")
    assert shown["customStatus"].startswith("payload:v1:")
    state = large_client.get(f"/api/state/{urls['id']}").json()
    assert state["status"] == "COMPLETED"
    assert state["input"] == state["output"] == state["custom status"]["large"] == state["entity"] == text
    assert not held_by_the_hub(large, needle)
    assert held_by_the_hub(large, urls["id"])


def test_a_small_payload_stays_in_the_hub(large: HostProcess, large_client: httpx.Client) -> None:
    needle = uuid4().hex
    urls = started(large_client, "below", needle)
    assert seen(large_client, urls, *ENDED)["output"] == needle
    assert held_by_the_hub(large, needle)


def test_a_large_input_goes_on_with_a_new_one(large_client: httpx.Client) -> None:
    urls = started(large_client, "goes_on", {"left": 3, "text": "ä" * 5000})
    assert seen(large_client, urls, *ENDED)["runtimeStatus"] == "Completed"
    assert large_client.get(f"/api/state/{urls['id']}").json()["output"] == "ä" * 5000


@pytest.mark.parametrize(("size", "ends"), [(998, 998), (999, 999), (1_000_000, 1_000_000), (5_000_000, None)])
def test_a_result_of_an_activity_may_be_of_any_size_that_the_store_takes(
    large_client: httpx.Client, size: int, ends: int | None
) -> None:
    shown = seen(large_client, started(large_client, "grows", size), *ENDED)
    assert shown["runtimeStatus"] == ("Failed" if ends is None else "Completed")
    assert (shown["output"] if ends else None) == ends


def test_the_history_has_references_where_the_payloads_were(large_client: httpx.Client) -> None:
    urls = started(large_client, "grows", 5000)
    seen(large_client, urls, *ENDED)
    shown = large_client.get(f"{urls['statusQueryGetUri']}&showHistory=true&showHistoryOutput=true").json()
    (made,) = [each for each in shown["historyEvents"] if each.get("FunctionName") == "makes"]
    assert made["Result"].startswith("payload:v1:")
