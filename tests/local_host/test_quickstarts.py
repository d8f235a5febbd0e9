"""The quickstarts of the Durable Functions documentation, written afresh, and driven as it says, with HTTP alone."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest

from local_host.testing import running_app
from tests.hosting import HostProcess, host_process
from tests.local_host.test_durable import ENDED, seen, started
from tests.polling import until

APPS = Path(__file__).parent / "apps"
MANAGEMENT = "/runtime/webhooks/durabletask"

type Hosts = Callable[[str], tuple[HostProcess, httpx.Client]]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Give the host of an app, and a client of it; each host is started when it is first asked for."""
    running: dict[str, tuple[HostProcess, httpx.Client]] = {}
    with ExitStack() as stack:

        def host_of(app: str) -> tuple[HostProcess, httpx.Client]:
            if app not in running:
                host = stack.enter_context(host_process(tmp_path_factory.mktemp(app), app_dir=APPS / app))
                running[app] = host, stack.enter_context(host.client())
            return running[app]

        yield host_of


def begun(client: httpx.Client, name: str, given: Any) -> dict[str, str]:
    """Start an orchestration as the quickstarts do, and give its URLs."""
    return started(client, name, given, via="orchestrators")


def outcome(client: httpx.Client, name: str, given: Any) -> dict[str, Any]:
    """Run an orchestration to its end, and give its status."""
    status: dict[str, Any] = seen(client, begun(client, name, given), *ENDED)
    return status


# What every client goes by: 202 with the URLs, 202 with a Location while it runs, 200 with the output


def test_the_answer_to_a_start_says_where_to_look(hosts: Hosts) -> None:
    host, client = hosts("function_chaining")
    response = client.post("/api/orchestrators/greetings", json=["Tokyo"])
    urls = response.json()
    assert response.status_code == 202
    assert response.headers["content-type"].startswith("application/json")
    assert response.headers["location"] == urls["statusQueryGetUri"]
    assert response.headers["retry-after"] == "10"
    assert {
        "id",
        "statusQueryGetUri",
        "sendEventPostUri",
        "terminatePostUri",
        "rewindPostUri",
        "purgeHistoryDeleteUri",
        "restartPostUri",
        "suspendPostUri",
        "resumePostUri",
    } <= urls.keys()
    for name, url in urls.items():
        if name != "id":
            assert url.startswith(f"{host.url}{MANAGEMENT}/instances/{urls['id']}")
    assert "raiseEvent/{eventName}" in urls["sendEventPostUri"]
    assert "reason={text}" in urls["terminatePostUri"]


def test_the_id_of_an_instance_is_32_hexadecimal_digits(hosts: Hosts) -> None:
    _, client = hosts("function_chaining")
    assert re.fullmatch("[0-9a-f]{32}", begun(client, "greetings", [])["id"])


def test_while_it_runs_its_status_is_202_with_a_location_and_then_200(hosts: Hosts) -> None:
    _, client = hosts("human_interaction")
    urls = begun(client, "verify", "+1-555-0100")
    running = until(lambda: _when(client.get(urls["statusQueryGetUri"]), "Running"))
    assert running.status_code == 202
    assert urlsplit(running.headers["location"]).path == urlsplit(urls["statusQueryGetUri"]).path
    assert running.json()["output"] is None
    terminated = client.post(urls["terminatePostUri"].replace("{text}", "enough"))
    assert (terminated.status_code, terminated.content) == (202, b"")
    ended = until(lambda: _when(client.get(urls["statusQueryGetUri"]), "Terminated"))
    assert (ended.status_code, ended.json()["output"]) == (200, "enough")
    assert "location" not in ended.headers


def _when(response: httpx.Response, status: str) -> httpx.Response | None:
    return response if response.json()["runtimeStatus"] == status else None


def test_a_status_has_the_documented_fields_and_times(hosts: Hosts) -> None:
    _, client = hosts("function_chaining")
    status = outcome(client, "greetings", ["Tokyo"])
    assert status["name"] == "greetings"
    assert status["input"] == ["Tokyo"]
    assert status["customStatus"] == {"greeted": 1}
    assert status["output"] == ["Hello Tokyo!"]
    assert status["runtimeStatus"] == "Completed"
    for field in ("createdTime", "lastUpdatedTime"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", status[field])
    assert datetime.fromisoformat(status["createdTime"]) <= datetime.fromisoformat(status["lastUpdatedTime"])


def test_an_instance_that_is_not_there_is_404(hosts: Hosts) -> None:
    _, client = hosts("function_chaining")
    response = client.get(f"{MANAGEMENT}/instances/nobody")
    assert response.status_code == 404


# Function chaining


@pytest.mark.parametrize("orchestrator", ["greetings", "greetings_v1"])
def test_a_chain_greets_one_city_after_the_other(hosts: Hosts, orchestrator: str) -> None:
    _, client = hosts("function_chaining")
    status = outcome(client, orchestrator, ["Tokyo", "Seattle", "London"])
    assert status["output"] == ["Hello Tokyo!", "Hello Seattle!", "Hello London!"]


def test_the_history_of_a_chain_has_one_step_after_the_other(hosts: Hosts) -> None:
    _, client = hosts("function_chaining")
    urls = begun(client, "greetings_v1", ["Tokyo", "Seattle", "London"])
    seen(client, urls, "Completed")
    shown = client.get(f"{urls['statusQueryGetUri']}&showHistory=true&showHistoryOutput=true")
    events = shown.json()["historyEvents"]
    assert [(each["EventType"], each.get("FunctionName")) for each in events] == [
        ("ExecutionStarted", "greetings_v1"),
        ("TaskCompleted", "greet"),
        ("TaskCompleted", "greet"),
        ("TaskCompleted", "greet"),
        ("ExecutionCompleted", None),
    ]
    assert [each["Result"] for each in events[1:4]] == ["Hello Tokyo!", "Hello Seattle!", "Hello London!"]
    assert events[4]["OrchestrationStatus"] == "Completed"
    times = [datetime.fromisoformat(each["Timestamp"]) for each in events]
    assert times == sorted(times)


def test_a_result_goes_from_one_link_to_the_next(hosts: Hosts) -> None:
    _, client = hosts("function_chaining")
    assert outcome(client, "chained", 3)["output"] == 12


def test_a_link_that_goes_on_failing_fails_the_chain(hosts: Hosts) -> None:
    host, client = hosts("function_chaining")
    urls = begun(client, "chained", -1)
    status = seen(client, urls, *ENDED)
    assert status["runtimeStatus"] == "Failed"
    assert "-2 is below zero" in str(status["output"])
    assert client.get(urls["statusQueryGetUri"]).status_code == 200
    failing = f"{urls['statusQueryGetUri']}&returnInternalServerErrorOnFailure=true"
    assert client.get(failing).status_code == 500
    assert host.log.read_text().count("ValueError: -2 is below zero") >= 3  # it was tried three times


def test_an_orchestrator_that_is_not_there_fails_with_a_sentence(hosts: Hosts) -> None:
    _, client = hosts("function_chaining")
    status = outcome(client, "nowhere", None)
    assert status["runtimeStatus"] == "Failed"
    assert "nowhere" in str(status["output"])


# Fan-out, fan-in


@pytest.mark.parametrize("orchestrator", ["backup", "backup_v1"])
def test_files_are_copied_at_once_and_their_sizes_added_up(hosts: Hosts, orchestrator: str, tmp_path: Path) -> None:
    host, client = hosts("fan_out_fan_in")
    for number in range(20):
        (tmp_path / f"{orchestrator}-{number}.txt").write_text("x" * number)
    assert outcome(client, orchestrator, str(tmp_path))["output"] == sum(range(20))
    copies = sorted((host.data / "backup").glob(f"{orchestrator}-*.txt"))
    assert len(copies) == 20
    assert sum(file.stat().st_size for file in copies) == sum(range(20))


@pytest.mark.parametrize("orchestrator", ["backup", "backup_v1"])
def test_nothing_to_fan_out_to_is_a_sum_of_nothing(hosts: Hosts, orchestrator: str, tmp_path: Path) -> None:
    _, client = hosts("fan_out_fan_in")
    assert outcome(client, orchestrator, str(tmp_path))["output"] == 0


def test_all_fan_out_before_the_first_comes_in(hosts: Hosts, tmp_path: Path) -> None:
    _, client = hosts("fan_out_fan_in")
    for number in range(5):
        (tmp_path / f"order-{number}.txt").write_text("x")
    urls = begun(client, "backup", str(tmp_path))
    seen(client, urls, "Completed")
    events = client.get(f"{urls['statusQueryGetUri']}&showHistory=true").json()["historyEvents"]
    copies = [each for each in events if each.get("FunctionName") == "copy_file"]
    assert len(copies) == 5
    first = min(datetime.fromisoformat(each["Timestamp"]) for each in copies)
    assert all(datetime.fromisoformat(each["ScheduledTime"]) <= first for each in copies)


# Human interaction


def code_sent_to(data: Path, phone: str) -> int:
    """Wait for the message to a phone, and give the code that stands in it."""
    return int(until(lambda: _text_of(data / "sms" / f"{phone}.txt")))


def _text_of(file: Path) -> str | None:
    return file.read_text() if file.is_file() else None


def answer(client: httpx.Client, urls: dict[str, str], code: int) -> httpx.Response:
    """Answer the challenge, as the documentation does it, by the URL for events."""
    return client.post(urls["sendEventPostUri"].replace("{eventName}", "SmsChallengeResponse"), json=code)


@pytest.mark.parametrize("orchestrator", ["verify", "verify_v1"])
def test_the_right_code_verifies_a_phone(hosts: Hosts, orchestrator: str) -> None:
    host, client = hosts("human_interaction")
    urls = begun(client, orchestrator, phone := uuid4().hex)
    raised = answer(client, urls, code_sent_to(host.data, phone))
    assert (raised.status_code, raised.content) == (202, b"")
    assert seen(client, urls, *ENDED)["output"] is True
    assert answer(client, urls, 1).status_code == 410


@pytest.mark.parametrize("orchestrator", ["verify", "verify_v1"])
def test_there_are_three_tries_and_no_fourth(hosts: Hosts, orchestrator: str) -> None:
    host, client = hosts("human_interaction")
    urls = begun(client, orchestrator, phone := uuid4().hex)
    code = code_sent_to(host.data, phone)
    for _ in range(3):
        assert answer(client, urls, code + 1).status_code == 202
    answer(client, urls, code)
    assert seen(client, urls, *ENDED)["output"] is False


def test_two_wrong_codes_and_a_right_one_verify_a_phone(hosts: Hosts) -> None:
    host, client = hosts("human_interaction")
    urls = begun(client, "verify", phone := uuid4().hex)
    code = code_sent_to(host.data, phone)
    for guess in (code - 1, code + 1, code):
        answer(client, urls, guess)
    assert seen(client, urls, *ENDED)["output"] is True


def test_a_phone_that_cannot_be_fails_the_orchestration(hosts: Hosts) -> None:
    _, client = hosts("human_interaction")
    status = outcome(client, "verify", "")
    assert status["runtimeStatus"] == "Failed"
    assert "A phone number is needed." in str(status["output"])


def test_an_event_for_nobody_is_404_and_one_that_is_no_json_400(hosts: Hosts) -> None:
    _, client = hosts("human_interaction")
    urls = begun(client, "verify", uuid4().hex)
    seen(client, urls, "Running")
    nobody = urls["sendEventPostUri"].replace(urls["id"], "nobody").replace("{eventName}", "x")
    assert client.post(nobody, json=1).status_code == 404
    event = urls["sendEventPostUri"].replace("{eventName}", "SmsChallengeResponse")
    headers = {"content-type": "application/json"}
    assert client.post(event, content="{", headers=headers).status_code == 400
    assert seen(client, urls, "Running")["output"] is None


@pytest.mark.parametrize("orchestrator", ["verify", "verify_v1"])
def test_nobody_answers_for_90_seconds(orchestrator: str, tmp_path: Path) -> None:
    with running_app(APPS / "human_interaction", tmp_path) as app:
        instance = app.start(orchestrator, "555")
        app.settle()
        app.advance(timedelta(seconds=89))
        assert app.state(instance).runtime_status.name == "RUNNING"
        app.advance(timedelta(seconds=1))
        assert app.output(instance) is False


@pytest.mark.parametrize("orchestrator", ["verify", "verify_v1"])
def test_an_answer_cancels_the_timer(orchestrator: str, tmp_path: Path) -> None:
    with running_app(APPS / "human_interaction", tmp_path) as app:
        instance = app.start(orchestrator, "555")
        app.settle()
        app.event(instance, "SmsChallengeResponse", code_sent_to(tmp_path, "555"))
        assert app.output(instance) is True
        ended = app.state(instance).last_updated_at
        app.advance(timedelta(days=1))
        assert app.state(instance).last_updated_at == ended
        assert not [event for event in app.history(instance) if event.HasField("timerFired")]


# Entities

COUNTERS = ["Counter", "NativeCounter", "ClassCounter"]


def entity_url(name: str, key: str, **query: str) -> httpx.URL:
    """The URL of an entity in the management API."""
    return httpx.URL(f"{MANAGEMENT}/entities/{name}/{key}", params=query)


def state_of(client: httpx.Client, name: str, key: str) -> Any:
    """The state of an entity in the management API, None where there is no such entity."""
    response = client.get(entity_url(name, key))
    assert response.status_code in (200, 404)
    return response.json() if response.status_code == 200 else None


@pytest.mark.parametrize("name", COUNTERS)
def test_a_signal_is_taken_with_202_and_shows_in_the_state(hosts: Hosts, name: str) -> None:
    _, client = hosts("entities")
    key = uuid4().hex
    assert client.get(entity_url(name, key)).status_code == 404
    for amount in (2, 3):
        signalled = client.post(entity_url(name, key, op="add"), json=amount)
        assert (signalled.status_code, signalled.content) == (202, b"")
    until(lambda: state_of(client, name, key) == 5)
    assert client.post(entity_url(name, key, op="reset")).status_code == 202
    until(lambda: state_of(client, name, key) == 0 and "zero")


@pytest.mark.parametrize("name", COUNTERS)
@pytest.mark.parametrize("orchestrator", ["count", "count_v1"])
def test_an_orchestration_signals_and_then_calls(hosts: Hosts, name: str, orchestrator: str) -> None:
    _, client = hosts("entities")
    key = uuid4().hex
    for total in (4, 8):
        assert outcome(client, orchestrator, {"entity": name, "key": key, "amount": 4})["output"] == total
    assert state_of(client, name, key) == 8


@pytest.mark.parametrize("name", COUNTERS)
def test_a_client_function_signals_and_reads(hosts: Hosts, name: str) -> None:
    _, client = hosts("entities")
    url = f"/api/counters/{name}/{uuid4().hex}"
    assert client.get(url).json() == {"exists": False, "state": None}
    assert client.put(url, json=7).status_code == 202
    until(lambda: client.get(url).json() == {"exists": True, "state": 7})


@pytest.mark.parametrize("name", COUNTERS)
def test_an_entity_that_removes_itself_is_404_again(hosts: Hosts, name: str) -> None:
    _, client = hosts("entities")
    key = uuid4().hex
    client.post(entity_url(name, key, op="add"), json=1)
    until(lambda: state_of(client, name, key) == 1)
    client.post(entity_url(name, key, op="remove"))
    until(lambda: client.get(entity_url(name, key)).status_code == 404)


def test_entities_are_listed_by_their_name(hosts: Hosts) -> None:
    _, client = hosts("entities")
    keys = {uuid4().hex for _ in range(3)}
    for key in keys:
        client.post(entity_url("NativeCounter", key, op="add"), json=9)
    until(lambda: all(state_of(client, "NativeCounter", key) == 9 for key in keys))
    listed = client.get(f"{MANAGEMENT}/entities/NativeCounter", params={"fetchState": "true", "top": "1000"}).json()
    ours = [each for each in listed if each["entityId"]["key"] in keys]
    assert {each["entityId"]["name"] for each in ours} == {"nativecounter"}
    assert [each["state"] for each in ours] == [9, 9, 9]


def test_a_transfer_between_locked_counters_happens_whole_or_not_at_all(hosts: Hosts) -> None:
    _, client = hosts("entities")
    poor, rich = uuid4().hex, uuid4().hex
    client.post(entity_url("ClassCounter", rich, op="add"), json=10)
    until(lambda: state_of(client, "ClassCounter", rich) == 10)
    there = {"from": rich, "to": poor, "amount": 3}
    back = {"from": poor, "to": rich, "amount": 1}
    runs = [begun(client, "transfer", given) for given in (there, back, there, back, there, back, there)]
    moved = [seen(client, urls, *ENDED)["output"] for urls in runs]
    assert moved[0] is True
    expected = 10 - 3 * sum(moved[::2]) + sum(moved[1::2])
    assert state_of(client, "ClassCounter", rich) == expected
    assert state_of(client, "ClassCounter", poor) == 10 - expected


def test_a_transfer_of_too_much_changes_nothing(hosts: Hosts) -> None:
    _, client = hosts("entities")
    poor = uuid4().hex
    assert outcome(client, "transfer", {"from": uuid4().hex, "to": poor, "amount": 1})["output"] is False
    assert state_of(client, "ClassCounter", poor) is None
