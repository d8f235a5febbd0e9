"""The programming model: apps, blueprints, contexts, clients and outputs in functions of every shape."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from tests.hosting import HostProcess, host_process
from tests.local_host.test_durable import ENDED, seen, started
from tests.polling import until

APPS = Path(__file__).parent / "apps"
APP = APPS / "programming_model"
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostProcess]:
    """A host of the app of several blueprints."""
    with host_process(tmp_path_factory.mktemp("data"), app_dir=APP) as host:
        yield host


@pytest.fixture(scope="module")
def client(host: HostProcess) -> Iterator[httpx.Client]:
    """A client of that host."""
    with host.client() as client:
        yield client


@pytest.fixture(scope="module")
def v1_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostProcess]:
    """A host of the app in the style of 1.x."""
    with host_process(tmp_path_factory.mktemp("data"), app_dir=APPS / "v1_style") as host:
        yield host


@pytest.fixture(scope="module")
def v1(v1_host: HostProcess) -> Iterator[httpx.Client]:
    """A client of that host."""
    with v1_host.client() as client:
        yield client


# Names and routes


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/api/renamed", "nothing"),
        ("/api/renamed/abc", "abc"),
        ("/api/RoutedByItsName", "routed by its name"),
        ("/api/async", "async"),
    ],
)
def test_functions_answer_by_their_routes_and_their_names(client: httpx.Client, path: str, text: str) -> None:
    response = client.get(path)
    assert (response.status_code, response.text) == (200, text)


@pytest.mark.parametrize("path", ["/api/python_name", "/api/ByAnotherName", "/api/unrouted", "/api/renamed/7"])
def test_the_names_that_a_route_replaces_lead_nowhere(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 404


def test_the_banner_names_functions_as_the_app_does(host: HostProcess) -> None:
    banner = host.log.read_text()
    assert re.search(r"ByAnotherName: +\[GET\] \S+/api/renamed/", banner)
    assert "python_name" not in banner


# Functions that this host does not run


@pytest.mark.parametrize(
    ("function", "lacking"),
    [("from_a_queue", "queueTrigger"), ("from_a_blob", "blobTrigger"), ("to_a_queue", "queue")],
)
def test_a_function_that_is_not_run_is_listed_with_the_reason(host: HostProcess, function: str, lacking: str) -> None:
    run, _, not_run = host.log.read_text().partition("Not run:")
    assert function not in run
    assert re.search(rf"\b{function}\b.*\b{lacking}\b", not_run)


def test_an_http_function_that_is_not_run_is_not_called(client: httpx.Client) -> None:
    response = client.get("/api/to-a-queue")
    assert response.status_code != 200
    assert "called" not in response.text


# The context of an invocation


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("context", "sync_context"),
        ("context-async", "async_context"),
        ("context-without-annotation", "context_without_annotation"),
        ("context-named", "NamedContext"),
    ],
)
def test_a_function_is_told_of_its_invocation(client: httpx.Client, path: str, name: str) -> None:
    told = client.get(f"/api/{path}").json()
    assert UUID(told["invocation_id"])
    assert told["function_name"] == name
    assert told["retry_count"] == told["max_retry_count"] == 0
    assert client.get(f"/api/{path}").json()["invocation_id"] != told["invocation_id"]


@pytest.mark.parametrize("path", ["context", "context-async"])
def test_the_storage_of_its_thread_holds_the_id_of_the_invocation(client: httpx.Client, path: str) -> None:
    """Microsoft's library puts it there for the thread that the function runs on (``utils/executor.py``)."""
    told = client.get(f"/api/{path}").json()
    assert told["stored"] == told["invocation_id"]


def test_the_directory_of_a_function_is_that_of_its_file(client: httpx.Client) -> None:
    """Microsoft's library takes it from the file that the function stands in (``Registry.add_indexed_function``)."""
    assert client.get("/api/context").json()["function_directory"] == str(APP / "parts")


@pytest.mark.parametrize("path", ["context", "context-async"])
def test_a_trace_goes_on_in_the_function(client: httpx.Client, path: str) -> None:
    told = client.get(f"/api/{path}", headers={"traceparent": PARENT, "tracestate": "a=1,b=2"}).json()
    # The host may make the function a child of the caller's span; the trace is the same one.
    assert told["trace_parent"].split("-")[1] == PARENT.split("-")[1]
    assert told["trace_state"] == "a=1,b=2"
    assert isinstance(told["attributes"], dict)


def test_a_trace_has_its_old_names_too(client: httpx.Client) -> None:
    """Microsoft's library has them (``bindings/tracecontext.py``), and old apps use them."""
    told = client.get("/api/context", headers={"traceparent": PARENT, "tracestate": "a=1"}).json()
    assert told["old names"] == [told["trace_parent"], told["trace_state"]]


def test_a_thread_of_a_function_can_be_told_whose_it_is(client: httpx.Client) -> None:
    given, stored = client.get("/api/context-of-a-thread").json()
    assert given == stored


def test_an_activity_is_told_of_its_own_invocation(host: HostProcess, client: httpx.Client) -> None:
    start = client.post("/runtime/webhooks/durabletask/orchestrators/activity_context", json=1)
    told = seen(client, start.json(), *ENDED)["output"]
    assert told["function_name"] == "tells_context"
    assert UUID(told["invocation_id"])


def test_the_log_has_a_line_with_the_invocation_id(host: HostProcess, client: httpx.Client) -> None:
    invocation_id = client.get("/api/context-named").json()["invocation_id"]
    assert re.search(rf"NamedContext.*\b{invocation_id[:8]}", host.log.read_text())


# Durable clients


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("client-sync", ["SyncDurableFunctionsClient", "COMPLETED", {"echo": "sync"}]),
        ("client-async", ["DurableFunctionsClient", "COMPLETED", {"echo": "async"}]),
        ("client-text", ["DurableFunctionsClient", "COMPLETED", {"echo": "text"}]),
        ("client-first", {"echo": "with_client_first"}),
    ],
)
def test_a_function_gets_the_client_of_its_kind(client: httpx.Client, path: str, told: Any) -> None:
    assert json.loads(client.get(f"/api/{path}").text) == told


def test_an_activity_asks_for_the_state_of_its_own_orchestration(client: httpx.Client) -> None:
    start = client.post("/runtime/webhooks/durabletask/orchestrators/reads_itself", json=None)
    assert seen(client, start.json(), *ENDED)["output"] == "RUNNING"


# func.Out


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("set", 201, "set True"),
        ("set-async", 202, "set by a coroutine"),
        ("set-text", 200, "grün"),
        ("set-twice", 200, "second"),
    ],
)
def test_a_response_that_is_set_is_sent(client: httpx.Client, path: str, status: int, text: str) -> None:
    response = client.get(f"/api/{path}")
    assert (response.status_code, response.text) == (status, text)
    assert response.headers.get("x-set") == ("yes" if path == "set" else None)


def test_a_response_that_was_never_set_is_204_or_empty(client: httpx.Client) -> None:
    response = client.get("/api/set-nothing")
    assert (response.status_code, response.content) in ((204, b""), (200, b""))


@pytest.mark.parametrize("path", ["set-and-raise", "set-a-number"])
def test_what_goes_wrong_with_an_output_is_500_without_a_secret(client: httpx.Client, path: str) -> None:
    response = client.get(f"/api/{path}")
    assert response.status_code == 500
    for secret in ("swordfish", "must not be sent", "Traceback"):
        assert secret not in response.text


# The 1.x style, on func.FunctionApp


def begun(client: httpx.Client, name: str, given: Any = None) -> dict[str, str]:
    """Start an orchestration of the 1.x app."""
    return started(client, name, given, via="orchestrators")


def test_a_context_of_1x_does_all_it_did(v1: httpx.Client) -> None:
    instance_id = uuid4().hex
    urls = started(v1, f"everything?id={instance_id}", {"ä": 1}, via="orchestrators")
    shown = seen(v1, urls, *ENDED)
    assert shown["runtimeStatus"] == "Completed", shown
    assert shown["customStatus"] == {"steps": 13}
    assert shown["output"] == {
        "input": {"ä": 1},
        "instance": instance_id,
        "activity": "a",
        "retry": 3,
        "sub": {"said": {"of": "sub"}, "parent": instance_id, "id": f"{instance_id}:sub"},
        "sub with retry": shown["output"]["sub with retry"],
        "all": ["x", "y", "z"],
        "any": "any",
        "entity": ["tally", instance_id, "add", 5],
        "uuids differ": True,
        "guid": 36,
        "aware": True,
        "parent": None,
    }
    assert shown["output"]["sub with retry"]["said"] == "again"


def test_a_renamed_loop_goes_on_as_new_until_it_is_told(v1: httpx.Client) -> None:
    urls = begun(v1, "RenamedLoop")
    for rounds, event in enumerate(("more", "more", "enough")):
        # What comes before the orchestration has gone on is lost with the old one, since it does not save its events.
        until(lambda rounds=rounds: v1.get(urls["statusQueryGetUri"]).json()["customStatus"] == rounds)  # type: ignore[misc]
        raised = v1.post(urls["sendEventPostUri"].replace("{eventName}", "more"), json=event)
        assert raised.status_code == 202
    assert seen(v1, urls, *ENDED)["output"] == 2


def test_an_orchestrator_without_a_yield_gives_what_it_returns(v1: httpx.Client) -> None:
    shown = seen(v1, begun(v1, "without_a_yield", [1]), *ENDED)
    assert shown["output"] == {"name": "without_a_yield", "input": [1]}


def test_a_status_of_1x_has_its_history(v1: httpx.Client) -> None:
    urls = begun(v1, "below", "x")
    seen(v1, urls, *ENDED)
    status = v1.get(f"/api/status/{urls['id']}").json()
    assert status["runtimeStatus"] == "Completed"
    assert status["historyEvents"][0]["EventType"] == "ExecutionStarted"
    assert "nobody" not in v1.get("/api/status/nobody").text


def test_lines_that_a_function_logs_are_in_the_log(v1: httpx.Client, v1_host: HostProcess) -> None:
    """On Azure the root logger of the worker takes INFO and above."""
    instance_id = begun(v1, "without_a_yield")["id"]
    assert f"Started orchestration with ID = '{instance_id}'." in v1_host.log.read_text()
