"""The manual intervention over HTTP: as it was written down, and by each door into a run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.hosting import HostProcess, host_process
from tests.polling import until
from triggers.manual_intervention import RULES

MANAGEMENT = "/runtime/webhooks/durabletask/instances"
START = "/design-pattern/intervention/start"
STATUS = "/design-pattern/intervention/status"
COMMAND = "internal_channel_command"
RETRY = "signal_channel_command_retry"
SKIP = "signal_channel_command_skip"
RPC = "__IwfSystem_ExecuteRpc"
JSON = {"Content-Type": "application/json"}

type Door = Callable[[httpx.Client, str, str, Any], httpx.Response]


def encoded(value: Any) -> dict[str, Any]:
    """A value as the engines' clients encode it."""
    return {"encoding": "json", "data": json.dumps(value)}


def raw(client: httpx.Client, workflow_id: str, event: str, payload: Any = None) -> httpx.Response:
    """Raise an event by the management API."""
    body = json.dumps(payload)
    response = client.post(f"{MANAGEMENT}/{workflow_id}/raiseEvent/{event}", content=body, headers=JSON)
    assert response.status_code == 202, response.text
    return response


def by_channel(client: httpx.Client, workflow_id: str, channel: str, value: Any = None) -> httpx.Response:
    """The management API: the event is named like the channel."""
    return raw(client, workflow_id, channel, value)


def by_signal(
    client: httpx.Client, workflow_id: str, channel: str, value: Any = None, key: str | None = None, **more: Any
) -> httpx.Response:
    """The endpoint for a signal."""
    body = {"workflowId": workflow_id, "signalChannelName": channel} | more
    if value is not None:
        body["signalValue"] = encoded(value)
    return client.post("/api/v1/workflow/signal", json=body, headers={"Idempotency-Key": key} if key else {})


def by_publishing(client: httpx.Client, workflow_id: str, channel: str, value: Any = None) -> httpx.Response:
    """The endpoint for messages."""
    return publish(client, workflow_id, [(channel, value)])


def by_rpc_event(client: httpx.Client, workflow_id: str, channel: str, value: Any = None) -> httpx.Response:
    """The management API: the event of a remote call."""
    return raw(client, workflow_id, RPC, call(channel, value))


def by_rpc_signal(client: httpx.Client, workflow_id: str, channel: str, value: Any = None) -> httpx.Response:
    """The endpoint for a signal, with a remote call for its value."""
    return by_signal(client, workflow_id, RPC, call(channel, value))


DOORS = [by_channel, by_signal, by_publishing, by_rpc_event, by_rpc_signal]
doors = pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)


def call(channel: str, value: Any) -> dict[str, Any]:
    """The payload of a remote call."""
    return {"InterStateChannelPublishing": [{"channelName": channel, "value": encoded(value)}]}


def publish(
    client: httpx.Client, workflow_id: str, messages: list[tuple[str, Any]], key: str | None = None
) -> httpx.Response:
    """Send messages that come as one."""
    sent = [{"channelName": channel, "value": encoded(value)} for channel, value in messages]
    body = {"workflowId": workflow_id, "messages": sent}
    headers = {"Idempotency-Key": key} if key else {}
    return client.post("/api/v1/workflow/publishToInternalChannel", json=body, headers=headers)


def started(client: httpx.Client, workflow_id: str | None = None, **options: Any) -> str:
    """Start a run, and give its id when it waits."""
    workflow_id = workflow_id or f"intervention-{uuid4()}"
    response = client.get(START, params={"workflowId": workflow_id, **options})
    assert (response.status_code, response.text) == (200, workflow_id)
    reached(client, workflow_id, "get_data")
    return workflow_id


def shown(client: httpx.Client, workflow_id: str) -> dict[str, Any]:
    """What the status shows."""
    response = client.get(f"{STATUS}/{workflow_id}")
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def reached(client: httpx.Client, workflow_id: str, phase: str, number_of_retries: int | None = None) -> dict[str, Any]:
    """Wait until the run is in a state, and give what is shown then."""

    def look() -> dict[str, Any] | None:
        body = shown(client, workflow_id)
        counted = number_of_retries is None or body["number_of_retries"] == number_of_retries
        return body if body["phase"] == phase and counted else None

    return until(look)


def ended(client: httpx.Client, workflow_id: str) -> dict[str, Any]:
    """What is shown at the end."""
    return until(lambda: body if (body := shown(client, workflow_id))["runtime_status"] == "COMPLETED" else None)


def failed(client: httpx.Client, **options: Any) -> str:
    """A run whose call has failed."""
    workflow_id = started(client, **options)
    told(by_signal(client, workflow_id, COMMAND, "failed"))
    return workflow_id


def told(response: httpx.Response, verdict: str = "accepted") -> None:
    """Assert what a run made of messages, where the door tells."""
    if response.request.url.path.startswith(MANAGEMENT):
        return
    assert (response.status_code, response.json().get("verdict")) == (200, verdict), response.text


def refused(response: httpx.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """Assert that something was refused, and give the problem."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem.get("code") == code
    return problem


def verified(client: httpx.Client, workflow_id: str) -> str:
    """The verdict on the trail."""
    verdict: str = client.get(f"/api/audit/{workflow_id}/verify").raise_for_status().json()["verdict"]
    return verdict


# As it was written down


@doors
def test_a_call_fails_is_retried_and_succeeds(client: httpx.Client, door: Door) -> None:
    workflow_id = started(client)
    told(door(client, workflow_id, COMMAND, "failed"))
    assert reached(client, workflow_id, "error")["number_of_retries"] == 0
    told(door(client, workflow_id, RETRY, None))
    reached(client, workflow_id, "get_data")
    told(door(client, workflow_id, COMMAND, "anything else"))
    body = ended(client, workflow_id)
    assert (body["output"], body["status"], body["number_of_retries"]) == (1, "Completed", 1)
    assert verified(client, workflow_id) == "intact"


@doors
def test_a_call_fails_and_is_skipped(client: httpx.Client, door: Door) -> None:
    workflow_id = started(client)
    told(door(client, workflow_id, COMMAND, "failed"))
    reached(client, workflow_id, "error")
    told(door(client, workflow_id, SKIP, None))
    assert ended(client, workflow_id)["output"] == 0
    assert verified(client, workflow_id) == "intact"


def test_the_payload_as_it_was_written_down_is_taken_as_it_stands(client: httpx.Client) -> None:
    workflow_id = started(client)
    payload = """
      {
        "InterStateChannelPublishing": [
          {"channelName": "internal_channel_command", "value": {"encoding": "json", "data": "\\"failed\\""}}
        ]
      }
    """
    path = f"{MANAGEMENT}/{workflow_id}/raiseEvent/__IwfSystem_ExecuteRpc"
    assert client.post(path, content=payload, headers=JSON).status_code == 202
    reached(client, workflow_id, "error")
    body = {"workflowId": workflow_id, "signalChannelName": "signal_channel_command_skip"}
    told(client.post("/api/v1/workflow/signal", json=body))
    assert ended(client, workflow_id)["output"] == 0


# Starting


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_start_answers_with_the_id_as_text(client: httpx.Client, method: str) -> None:
    workflow_id = f"intervention-{uuid4()}"
    response = client.request(method, START, params={"workflowId": workflow_id})
    assert (response.status_code, response.text) == (200, workflow_id)
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.headers["cache-control"] == "no-store"


def test_a_start_without_an_id_makes_one(client: httpx.Client) -> None:
    one, another = (client.get(START).text for _ in range(2))
    assert one != another
    assert reached(client, one, "get_data")["workflowId"] == one


def test_an_id_that_is_in_use_is_refused(client: httpx.Client) -> None:
    workflow_id = started(client)
    assert refused(client.get(START, params={"workflowId": workflow_id}), 409)["instance_id"] == workflow_id
    assert shown(client, workflow_id)["phase"] == "get_data"


@pytest.mark.parametrize("workflow_id", ["intervention-ä", "a b", "x" * 101, "a/b", "🙂"])
def test_an_id_that_cannot_be_is_refused(client: httpx.Client, workflow_id: str) -> None:
    assert "workflowId" in refused(client.get(START, params={"workflowId": workflow_id}), 400)["detail"]
    refused(by_signal(client, workflow_id, RETRY), 422)
    refused(by_publishing(client, workflow_id, RETRY), 422)
    assert client.get(f"{STATUS}/{workflow_id}").status_code in (400, 404)


@pytest.mark.parametrize("params", [{"workflowID": "a"}, {"executionTimeout": "long"}, {"idReusePolicy": "ANY"}])
def test_a_parameter_that_cannot_be_is_refused(client: httpx.Client, params: dict[str, str]) -> None:
    assert next(iter(params)) in refused(client.get(START, params=params), 400)["detail"]


@pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "cross-site"}, {"Sec-Purpose": "prefetch"}], ids=repr)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_other_site_and_no_prefetch_starts_a_run(client: httpx.Client, method: str, headers: dict[str, str]) -> None:
    workflow_id = f"intervention-{uuid4()}"
    refused(client.request(method, START, params={"workflowId": workflow_id}, headers=headers), 403)
    assert client.get(f"{STATUS}/{workflow_id}").status_code == 404


def test_no_other_site_sends_a_message(client: httpx.Client) -> None:
    workflow_id = started(client)
    for path in ("signal", "publishToInternalChannel"):
        headers = {"Sec-Fetch-Site": "cross-site"}
        refused(client.post(f"/api/v1/workflow/{path}", json={"workflowId": workflow_id}, headers=headers), 403)


def test_head_starts_nothing(client: httpx.Client) -> None:
    workflow_id = f"intervention-{uuid4()}"
    client.head(START, params={"workflowId": workflow_id})
    assert client.get(f"{STATUS}/{workflow_id}").status_code == 404


def test_an_execution_timeout_ends_the_run(client: httpx.Client) -> None:
    workflow_id = f"intervention-{uuid4()}"
    client.get(START, params={"workflowId": workflow_id, "executionTimeout": "1"}).raise_for_status()
    body = until(lambda: found if (found := shown(client, workflow_id))["runtime_status"] == "FAILED" else None)
    assert (body["phase"], body["waiting_for"], body["actions"]) == ("execution_timed_out", None, [])
    assert "execution timeout" in body["error"]
    assert refused(by_signal(client, workflow_id, COMMAND, "failed"), 410)["phase"] == "execution_timed_out"
    assert verified(client, workflow_id) == "intact"


def test_a_run_that_has_ended_may_be_started_again_and_counts_anew(client: httpx.Client) -> None:
    workflow_id = failed(client)
    told(publish(client, workflow_id, [(RETRY, None), (COMMAND, "failed"), (SKIP, None)]))
    assert ended(client, workflow_id)["output"] == 1
    started(client, workflow_id)
    assert reached(client, workflow_id, "get_data")["number_of_retries"] == 0


# What is shown


def test_the_status_says_what_can_be_sent_now(client: httpx.Client) -> None:
    workflow_id = started(client)
    body = shown(client, workflow_id)
    assert body["workflowId"] == workflow_id
    assert (body["phase"], body["waiting_for"], body["actions"]) == ("get_data", COMMAND, [COMMAND])
    assert body["status"] == "Pending"
    told(by_signal(client, workflow_id, COMMAND, "failed"))
    body = shown(client, workflow_id)
    assert (body["phase"], body["actions"]) == ("error", [RETRY, SKIP])
    told(by_signal(client, workflow_id, SKIP))
    body = ended(client, workflow_id)
    assert (body["phase"], body["waiting_for"], body["actions"]) == ("final", None, [])


def test_what_was_terminated_takes_nothing_any_more(client: httpx.Client) -> None:
    workflow_id = failed(client)
    assert client.post(f"{MANAGEMENT}/{workflow_id}/terminate").status_code == 202
    body = until(lambda: found if (found := shown(client, workflow_id))["status"] == "Terminated" else None)
    assert (body["waiting_for"], body["actions"]) == (None, [])
    refused(by_signal(client, workflow_id, RETRY), 410)


def test_an_unknown_run_and_another_workflows_are_not_found(client: httpx.Client) -> None:
    refused(client.get(f"{STATUS}/no-such-run"), 404)
    request = client.post("/api/requests", json={"requester": "Alice", "item": "A desk", "timeout_hours": 1}).json()
    refused(client.get(f"{STATUS}/{request['request_id']}"), 404)


def test_the_wait_is_listed_with_where_to_look(client: httpx.Client) -> None:
    workflow_id = failed(client)
    response = client.get("/api/waits", params={"kind": "manual_intervention", "limit": 100}).raise_for_status()
    (wait,) = [each for each in response.json()["waits"] if each["instance_id"] == workflow_id]
    assert wait["actions"] == [RETRY, SKIP]
    assert wait["url"].endswith(f"{STATUS}/{workflow_id}")


def test_the_trail_tells_the_story_without_the_values(client: httpx.Client) -> None:
    workflow_id = started(client)
    told(by_signal(client, workflow_id, COMMAND, "hush"))
    ended(client, workflow_id)
    text = client.get(f"/api/audit/{workflow_id}").raise_for_status().text
    assert '"received"' in text
    assert COMMAND in text
    assert "hush" not in text


# Verdicts


def test_a_retry_past_the_last_is_a_conflict() -> None:
    error, sentence = RULES.refusals["no_more_retries"]  # the run says so: see the tests of the orchestrator
    assert (error.status, sentence[-1]) == (409, ".")


def test_what_comes_after_the_end_is_too_late_and_noted(client: httpx.Client) -> None:
    workflow_id = started(client)
    told(by_signal(client, workflow_id, COMMAND, "fetched"))
    ended(client, workflow_id)
    for response in (by_signal(client, workflow_id, SKIP), by_publishing(client, workflow_id, COMMAND, "hush")):
        assert refused(response, 410)["phase"] == "final"
    text = client.get(f"/api/audit/{workflow_id}").raise_for_status().text
    assert text.count('"late"') == 2
    assert "hush" not in text
    assert verified(client, workflow_id) == "intact"


def test_a_run_that_stands_still_is_not_said_to_have_taken_anything(tmp_path: Path) -> None:
    with host_process(tmp_path, environment={"DECISION_WAIT_SECONDS": "0.2"}) as host, host.client() as client:
        workflow_id = started(client)
        assert client.post(f"{MANAGEMENT}/{workflow_id}/suspend").status_code == 202
        response = by_signal(client, workflow_id, COMMAND, "failed", key="k")
        assert (response.status_code, response.json()["verdict"]) == (202, "pending")
        assert response.headers["location"].endswith(f"{STATUS}/{workflow_id}")
        assert shown(client, workflow_id)["phase"] == "get_data"
        assert client.post(f"{MANAGEMENT}/{workflow_id}/resume").status_code == 202
        reached(client, workflow_id, "error")
        told(by_signal(client, workflow_id, COMMAND, "failed", key="k"))  # known: it was taken, once
        assert shown(client, workflow_id)["phase"] == "error"


def test_a_run_goes_on_after_the_host_was_killed(tmp_path: Path) -> None:
    with host_process(tmp_path) as host, host.client() as client:
        workflow_id = failed(client)
        told(publish(client, workflow_id, [(COMMAND, "failed"), (COMMAND, "fetched")]))
        host.process.kill()
        host.process.wait()
    with host_process(tmp_path) as host, host.client() as client:
        assert shown(client, workflow_id)["phase"] == "error"
        told(by_signal(client, workflow_id, RETRY))
        reached(client, workflow_id, "error", number_of_retries=1)
        told(by_signal(client, workflow_id, RETRY))
        assert ended(client, workflow_id)["output"] == 2
        assert verified(client, workflow_id) == "intact"


def test_malformed_events_of_the_management_api_do_no_harm(client: httpx.Client, host: HostProcess) -> None:
    workflow_id = started(client)
    for event, payload in [
        (RPC, {"InterStateChannelPublishing": [{"channelName": "other"}]}),
        (COMMAND, {"encoding": "json", "data": "failed"}),
        (RETRY, "x" * 4000),
    ]:
        raw(client, workflow_id, event, payload)
        sentence = f"An event '{event}' was set aside"
        until(lambda: any(sentence in each for each in shown(client, workflow_id)["custom_status"]["warnings"]))  # noqa: B023
    assert shown(client, workflow_id)["phase"] == "get_data"
