"""Orchestrators, activities, entities and durable clients through a host process."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest

from local_host.durable import _failure as failure_of
from tests.hosting import HostProcess, host_process
from tests.polling import until

APPS = Path(__file__).parent / "apps"
ENDED = ("Completed", "Failed", "Terminated")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostProcess]:
    """A host with the app of durable functions."""
    with host_process(tmp_path_factory.mktemp("data"), app_dir=APPS / "durable") as host:
        yield host


@pytest.fixture(scope="module")
def client(host: HostProcess) -> Iterator[httpx.Client]:
    """A client of that host."""
    with host.client() as client:
        yield client


def started(client: httpx.Client, name: str, given: Any = None, *, via: str = "start") -> dict[str, str]:
    """Start an orchestration by a durable client, and give the URLs that manage it."""
    response = client.post(f"/api/{via}/{name}", content=json.dumps(given))
    assert response.status_code == 202, response.text
    urls: dict[str, str] = response.json()
    return urls


def seen(client: httpx.Client, urls: dict[str, str], *statuses: str) -> dict[str, Any]:
    """Wait until the orchestration has one of the statuses, and give what is shown of it then."""

    def look() -> dict[str, Any] | None:
        shown: dict[str, Any] = client.get(urls["statusQueryGetUri"]).json()
        return shown if shown["runtimeStatus"] in statuses else None

    return until(look, seconds=10)


def output(client: httpx.Client, name: str, given: Any = None) -> Any:
    """Run an orchestration to its end, which has to be a success, and give its output."""
    shown = seen(client, started(client, name, given), *ENDED)
    assert shown["runtimeStatus"] == "Completed", shown
    return shown["output"]


def failure(client: httpx.Client, name: str, given: Any = None) -> str:
    """Run an orchestration to its end, which has to be a failure, and give its message."""
    shown = seen(client, started(client, name, given), *ENDED)
    assert shown["runtimeStatus"] == "Failed", shown
    return str(shown["output"])


PAYLOADS = [
    None,
    "",
    "grün 🎉 \u0000 \ud7ff",
    '"quoted"',
    "null",
    0,
    -1.5e300,
    True,
    [],
    {},
    {"a": [{"b": [None, {"ä": []}]}], "": ""},
    [[[[[[[[[[1]]]]]]]]]],
]


@pytest.mark.parametrize("orchestrator", ["native", "classic"])
@pytest.mark.parametrize("given", PAYLOADS)
def test_any_json_goes_through_client_orchestrator_and_activity(
    client: httpx.Client, orchestrator: str, given: Any
) -> None:
    assert output(client, orchestrator, given) == given


def test_a_megabyte_goes_through(client: httpx.Client) -> None:
    given = "ä" * 500_000 + "z"
    assert output(client, "native", given) == given
    assert output(client, "call", {"activity": "length", "input": given}) == {"result": 500_001}


def test_names_of_their_own_hold_for_orchestrators_and_activities(client: httpx.Client) -> None:
    assert output(client, "RenamedOrchestrator", 1) == {"no yield": 1}
    assert output(client, "call", {"activity": "RenamedActivity"}) == {"result": ["renamed", None]}
    assert "no orchestrator 'renamed'" in failure(client, "renamed")


@pytest.mark.parametrize(
    ("activity", "more", "result"),
    [
        ("echo", {}, None),
        ("echo", {"input": None}, None),
        ("echo", {"input": "x"}, "x"),
        ("echo_async", {}, None),
        ("echo_async", {"input": ["ä"]}, ["ä"]),
        ("native_activity", {"input": 1}, ["native", 1]),
        ("with_context", {"input": 1}, ["with_context", "36"]),
        ("with_client", {"input": "nobody"}, None),
    ],
)
def test_activities(client: httpx.Client, activity: str, more: dict[str, Any], result: Any) -> None:
    assert output(client, "call", {"activity": activity, **more}) == {"result": result}


@pytest.mark.parametrize("activity", ["fails", "fails_async"])
@pytest.mark.parametrize(
    ("given", "error_type", "message"),
    [
        ("value", "ValueError", "grün 🎉"),
        ("custom", "CustomError", "one"),
        ("key", "KeyError", "'missing'"),
    ],
)
def test_what_an_activity_raises_reaches_the_orchestrator(
    client: httpx.Client, activity: str, given: str, error_type: str, message: str
) -> None:
    failed = output(client, "call", {"activity": activity, "input": given})
    assert failed == {"type": error_type, "message": message}


@pytest.mark.parametrize(
    ("activity", "given", "error_type", "message"),
    [
        ("fails", "empty", "ValueError", ""),
        ("fails", "exit", "SystemExit", "3"),
        ("fails_async", "exit", "SystemExit", "3"),
        ("fails_async", "cancelled", "CancelledError", ""),
    ],
)
def test_whatever_an_activity_raises_is_a_failure(
    client: httpx.Client, activity: str, given: str, error_type: str, message: str
) -> None:
    failed = output(client, "call", {"activity": activity, "input": given})
    assert failed == {"type": error_type, "message": message}


def test_a_result_that_is_no_json_is_a_failure(client: httpx.Client) -> None:
    failed = output(client, "call", {"activity": "gives_what_is_no_json", "input": "x"})
    assert "json serializable" in failed["message"]


def test_an_activity_that_fails_is_logged_with_its_traceback(client: httpx.Client, host: HostProcess) -> None:
    before = host.log.stat().st_size
    output(client, "call", {"activity": "fails", "input": "custom"})
    log = host.log.read_bytes()[before:].decode()
    assert "fails failed (" in log
    assert "    function_app.CustomError: one\n    two" in log


def test_a_retry_policy_is_kept_to(client: httpx.Client) -> None:
    key = uuid4().hex
    given = {"key": key, "succeeds_at": 3}
    assert output(client, "call", {"activity": "fails_at_first", "input": given, "attempts": 3}) == {"result": 3}
    given = {"key": key + "again", "succeeds_at": 3}
    failed = output(client, "call", {"activity": "fails_at_first", "input": given, "attempts": 2})
    assert failed["message"] == "attempt 2"


def test_an_orchestrator_that_raises_fails_with_its_message(client: httpx.Client) -> None:
    assert "no such sum" in failure(client, "raises", "no such sum")
    shown = seen(client, started(client, "raises", ""), *ENDED)
    assert shown["runtimeStatus"] == "Failed"


def test_a_failure_that_nobody_catches_fails_the_orchestration(client: httpx.Client) -> None:
    assert failure(client, "call_uncaught", ["fails", "value"]).endswith("failed: grün 🎉")


@pytest.mark.parametrize("name", ["nowhere", "Native", "echo", "grün"])
def test_an_orchestrator_that_is_not_there_fails_the_orchestration_by_name(client: httpx.Client, name: str) -> None:
    assert f"This app has no orchestrator '{name}'." in failure(client, quote(name))


@pytest.mark.parametrize("name", ["nowhere", "Echo", "native"])
def test_an_activity_that_is_not_there_fails_by_name(client: httpx.Client, name: str) -> None:
    assert output(client, "call", {"activity": name})["message"] == f"This app has no activity '{name}'."
    assert f"This app has no activity '{name}'." in failure(client, "call_uncaught", [name, "x"])


def test_sub_orchestrations(client: httpx.Client) -> None:
    assert output(client, "parent", {"name": "classic", "input": ["ä"]}) == ["ä"]
    assert "no such sum" in output(client, "parent", {"name": "raises", "input": "no such sum"})["message"]
    assert "no orchestrator 'nowhere'" in output(client, "parent", {"name": "nowhere", "input": 1})["message"]


def test_fan_out_and_in(client: httpx.Client) -> None:
    assert output(client, "fan_out", list(range(20))) == 380


def test_a_timer_and_an_event_race(client: httpx.Client) -> None:
    assert output(client, "race", 0.05) == "timeout"
    urls = started(client, "race", 60)
    assert client.post(f"/api/events/{urls['id']}/go", json={"ä": 1}).status_code == 204
    assert seen(client, urls, *ENDED)["output"] == {"event": {"ä": 1}}


def test_continue_as_new_goes_on_with_the_new_input(client: httpx.Client) -> None:
    assert output(client, "countdown", {"left": 3, "seen": []}) == [6, 4, 2, 0]


def test_events_are_kept_until_they_are_waited_for_whatever_their_case(client: httpx.Client) -> None:
    urls = started(client, "gate")
    for name, data in (("TWO", None), ("one", "ä")):
        assert client.post(f"/api/events/{urls['id']}/{name}", content=json.dumps(data)).status_code == 204
    assert seen(client, urls, *ENDED)["output"] == ["ä", None]


# Entities


def counted(client: httpx.Client, entity: str, *operations: tuple[str, Any], key: str = "") -> list[Any]:
    """Call operations of an entity, a new one unless a key is given, and give the results."""
    given = {"entity": entity, "key": key or uuid4().hex, "operations": operations}
    results: list[Any] = output(client, "count", given)
    return results


def test_an_entity_of_one_argument_keeps_its_state(client: httpx.Client) -> None:
    assert counted(client, "counter", ("add", 2), ("add", 3), ("get", None), ("reset", None)) == [2, 5, 5, 0]


def test_an_entity_of_two_arguments_is_found_in_any_case(client: httpx.Client) -> None:
    key = uuid4().hex
    assert counted(client, "NativeCounter", ("add", 2), key=key) == [2]
    assert counted(client, "nativecounter", ("add", 3), key=key) == [5]


def test_an_entity_of_a_class(client: httpx.Client) -> None:
    results = counted(client, "Account", ("deposit", 5), ("withdraw", 2), ("withdraw", 9), ("deposit", 0))
    assert results[:2] == [5, 3]
    assert "there is no 9" in results[2]
    assert results[3] == 3


def test_an_operation_that_raises_leaves_the_state_as_it_was(client: httpx.Client) -> None:
    one, failed, two = counted(client, "counter", ("add", 2), ("fail", None), ("get", None))
    assert (one, two) == (2, 2)
    assert "the counter is broken" in failed


def test_signals_from_an_orchestrator_and_from_a_client_are_taken_in(client: httpx.Client) -> None:
    key = uuid4().hex
    assert client.post(f"/api/entities/counter/{key}/add", json=4).text == "signal"
    assert counted(client, "counter", ("signal:add", 1), key=key) == []
    until(lambda: counted(client, "counter", ("get", None), key=key) == [5] or None, seconds=4)


def test_keys_have_states_of_their_own(client: httpx.Client) -> None:
    keys = [uuid4().hex, uuid4().hex, f"{uuid4().hex} grün/ü"]
    assert [counted(client, "counter", ("add", index), key=key) for index, key in enumerate(keys)] == [[0], [1], [2]]
    assert [counted(client, "counter", ("get", None), key=key) for key in keys] == [[0], [1], [2]]


def test_an_entity_that_is_not_there_fails_the_call_by_name(client: httpx.Client) -> None:
    (failed,) = counted(client, "nowhere", ("add", 1))
    assert "This app has no entity 'nowhere'." in failed


# The client's URLs


@pytest.mark.parametrize("via", ["start", "start-sync"])
def test_a_check_status_response_says_where_to_look(client: httpx.Client, host: HostProcess, via: str) -> None:
    response = client.post(f"/api/{via}/native", json=["ä"])
    urls = response.json()
    assert response.status_code == 202
    assert response.headers["location"] == urls["statusQueryGetUri"]
    assert all(url.startswith(host.url + "/") for name, url in urls.items() if name != "id")
    assert urls["id"] in urls["statusQueryGetUri"]
    assert seen(client, urls, *ENDED)["output"] == ["ä"]


def test_the_urls_of_a_check_status_response_work_when_followed(client: httpx.Client) -> None:
    urls = started(client, "gate")
    seen(client, urls, "Running")

    assert client.post(urls["suspendPostUri"].replace("{text}", "wait")).status_code == 202
    seen(client, urls, "Suspended")
    assert client.post(urls["sendEventPostUri"].replace("{eventName}", "one"), json=1).status_code == 202
    assert client.post(urls["resumePostUri"].replace("{text}", "go")).status_code == 202
    shown = seen(client, urls, "Running")
    assert shown["customStatus"] == {"waits for": ["one", "two"]}
    assert client.post(urls["terminatePostUri"].replace("{text}", "enough%20%C3%A4")).status_code == 202
    assert seen(client, urls, *ENDED)["runtimeStatus"] == "Terminated"

    assert client.post(urls["restartPostUri"]).status_code == 202
    assert client.delete(urls["purgeHistoryDeleteUri"]).status_code == 200
    assert client.get(urls["statusQueryGetUri"]).status_code == 404
    assert client.post(urls["sendEventPostUri"].replace("{eventName}", "one"), json=1).status_code == 404


def test_an_instance_id_that_needs_escapes_can_be_followed_too(client: httpx.Client) -> None:
    instance_id = f"grün & {uuid4().hex}?#%41"
    urls = client.post("/api/start/native", params={"id": instance_id}, content="7").json()
    assert urls["id"] == instance_id
    assert seen(client, urls, *ENDED)["output"] == 7


def test_a_blueprint_is_part_of_the_app(client: httpx.Client) -> None:
    assert client.get("/api/of-blueprint").text == "blueprint"
    assert output(client, "of_blueprint", 1) == ["blueprint", 1]


def test_nothing_of_all_this_was_abandoned(client: httpx.Client, host: HostProcess) -> None:
    output(client, "native", 1)
    assert "abandon" not in host.log.read_text().lower()


class CustomFailure(Exception):
    """An error of an app."""


class Untellable(Exception):
    """An error that cannot even be told."""

    def __str__(self) -> str:
        raise ValueError("no text")


def test_a_failure_is_told_as_the_real_host_tells_it() -> None:
    error = CustomFailure("first line  \nsecond line")
    error.__cause__ = KeyError("inner")
    details = failure_of(error)
    assert (details.errorType, details.errorMessage) == ("CustomFailure", "first line")
    assert not details.HasField("innerFailure")
    assert not details.isNonRetriable
    stack = details.stackTrace.value
    assert "KeyError: 'inner'" in stack
    assert stack.index("KeyError") < stack.index("CustomFailure: first line")
    assert "second line" in stack


@pytest.mark.parametrize(
    ("error", "error_type", "text"),
    [
        (OSError("no such file: \udcff.pdf"), "OSError", "no such file: \\udcff.pdf"),
        (Untellable(), "(unknown)", "The exception cannot be shown as text."),
        (ValueError(), "ValueError", ""),
        (ValueError("a: b"), "ValueError", "a: b"),
    ],
)
def test_any_error_of_a_function_can_be_carried_to_its_orchestration(
    error: Exception, error_type: str, text: str
) -> None:
    details = failure_of(error)
    assert (details.errorType, details.errorMessage) == (error_type, text)
    assert details.SerializeToString()
