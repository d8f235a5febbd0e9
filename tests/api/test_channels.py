"""The endpoints that send messages on channels: what they take, and what they answer."""

import json
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.api.test_manual_intervention import (
    COMMAND,
    RETRY,
    RPC,
    SKIP,
    STATUS,
    by_publishing,
    by_signal,
    call,
    encoded,
    ended,
    failed,
    publish,
    reached,
    refused,
    shown,
    started,
    told,
)
from tests.api.test_requests import at_once
from tests.hosting import HostProcess
from tests.polling import until

SIGNAL, PUBLISH = "/api/v1/workflow/signal", "/api/v1/workflow/publishToInternalChannel"


def bodies(workflow_id: str, channel: str = COMMAND) -> dict[str, dict[str, Any]]:
    """A good body for each endpoint."""
    return {
        SIGNAL: {"workflowId": workflow_id, "signalChannelName": channel},
        PUBLISH: {"workflowId": workflow_id, "messages": [{"channelName": channel}]},
    }


# What is taken


def test_the_answer_says_what_the_run_made_of_it_and_where_to_look(client: httpx.Client) -> None:
    workflow_id = started(client)
    response = by_signal(client, workflow_id, COMMAND, "failed")
    body = response.json()
    assert (body["workflowId"], body["verdict"]) == (workflow_id, "accepted")
    assert body["status_url"].endswith(f"{STATUS}/{workflow_id}")
    assert shown(client, workflow_id)["phase"] == "error"  # by the time of the answer


@pytest.mark.parametrize(
    "value",
    ["failed", encoded("failed"), {"encoding": "BuiltinJacksonJson", "data": '"failed"'}],
    ids=["plain", "json", "BuiltinJacksonJson"],
)
@pytest.mark.parametrize("path", [SIGNAL, PUBLISH])
def test_a_value_may_be_encoded_or_not(client: httpx.Client, path: str, value: Any) -> None:
    workflow_id = started(client)
    body = bodies(workflow_id)[path]
    body |= {"signalValue": value} if path == SIGNAL else {"messages": [{"channelName": COMMAND, "value": value}]}
    told(client.post(path, json=body))
    assert shown(client, workflow_id)["phase"] == "error"


@pytest.mark.parametrize(
    "value", [None, encoded(None), {"encoding": "json", "data": None}, {"encoding": None, "data": None}]
)
def test_a_message_may_come_without_a_value(client: httpx.Client, value: Any) -> None:
    workflow_id = started(client)
    told(client.post(SIGNAL, json=bodies(workflow_id)[SIGNAL] | {"signalValue": value}))
    assert ended(client, workflow_id)["output"] == 0


def test_several_messages_are_taken_as_one(client: httpx.Client) -> None:
    workflow_id = started(client)
    told(publish(client, workflow_id, [(COMMAND, "failed"), (RETRY, None), (COMMAND, "failed"), (SKIP, None)]))
    assert ended(client, workflow_id)["output"] == 1


def test_a_remote_call_is_a_signal_too_encoded_or_not(client: httpx.Client) -> None:
    workflow_id = started(client)
    told(by_signal(client, workflow_id, RPC, call(COMMAND, "failed")))
    told(client.post(SIGNAL, json=bodies(workflow_id, RPC)[SIGNAL] | {"signalValue": call(RETRY, None)}))
    assert shown(client, workflow_id)["phase"] == "get_data"


def test_a_run_may_be_named_and_another_one_is_not_found(client: httpx.Client) -> None:
    workflow_id = started(client)
    stamp = shown(client, workflow_id)["custom_status"]["trail"]["run"]
    refused(by_signal(client, workflow_id, COMMAND, "failed", workflowRunId="20000101T000000000000Z"), 404)
    assert shown(client, workflow_id)["phase"] == "get_data"
    told(by_signal(client, workflow_id, COMMAND, "failed", workflowRunId=""))
    told(by_signal(client, workflow_id, RETRY, workflowRunId=stamp))
    told(by_signal(client, workflow_id, COMMAND, "failed", workflowRunId=workflow_id))
    assert shown(client, workflow_id)["phase"] == "error"


# Twice, early, and too many


def test_a_signal_that_waits_already_is_a_duplicate(client: httpx.Client) -> None:
    workflow_id = started(client)
    told(by_signal(client, workflow_id, RETRY))
    told(by_signal(client, workflow_id, RETRY), "duplicate")
    told(by_publishing(client, workflow_id, RETRY), "duplicate")
    told(publish(client, workflow_id, [(RETRY, None), (SKIP, None)]))  # one of the two is new
    told(by_signal(client, workflow_id, COMMAND, "failed"))
    assert shown(client, workflow_id)["phase"] == "get_data"
    told(by_signal(client, workflow_id, COMMAND, "failed"))
    assert ended(client, workflow_id)["output"] == 1


def test_what_comes_twice_under_one_key_counts_once(client: httpx.Client) -> None:
    workflow_id = started(client)
    for _ in range(3):
        told(by_signal(client, workflow_id, COMMAND, "failed", key="one"))
    told(publish(client, workflow_id, [(COMMAND, "failed")], key="one"))  # by another door, the same
    refused(by_signal(client, workflow_id, COMMAND, "other", key="one"), 422)
    refused(by_signal(client, workflow_id, SKIP, key="one"), 422)
    told(by_signal(client, workflow_id, RETRY, key="two"))
    assert shown(client, workflow_id)["phase"] == "get_data"
    told(by_signal(client, workflow_id, COMMAND, "fetched", key="three"))
    told(by_signal(client, workflow_id, COMMAND, "fetched", key="three"))  # also after the end
    assert ended(client, workflow_id)["output"] == 1


def test_a_verdict_against_it_stands_when_it_comes_again(client: httpx.Client) -> None:
    workflow_id = failed(client)
    told(publish(client, workflow_id, [(COMMAND, "failed")] * 100))
    for _ in range(2):
        response = by_signal(client, workflow_id, COMMAND, "x", key="too-many")
        assert "channel" in refused(response, 409, "too_many")["detail"]
    told(by_signal(client, workflow_id, RETRY))
    refused(by_signal(client, workflow_id, COMMAND, "x", key="too-many"), 409, "too_many")
    told(by_signal(client, workflow_id, COMMAND, "x", key="another"))


@pytest.mark.parametrize("key", ["with space", "", "ä".encode(), "x" * 129])
def test_a_key_that_cannot_be_is_refused(client: httpx.Client, key: Any) -> None:
    workflow_id = started(client)
    response = client.post(SIGNAL, json=bodies(workflow_id)[SIGNAL], headers={"Idempotency-Key": key})
    refused(response, 400)
    assert shown(client, workflow_id)["phase"] == "get_data"


# At the same moment


def test_of_messages_at_the_same_moment_none_is_lost(client: httpx.Client, host: HostProcess) -> None:
    workflow_id = started(client)
    responses = at_once(host, 16, lambda own, number: by_signal(own, workflow_id, COMMAND, "failed", key=f"k{number}"))
    for response in responses:
        told(response)
    for number in range(1, 16):
        told(by_signal(client, workflow_id, RETRY))
        reached(client, workflow_id, "error", number_of_retries=number)
    told(by_signal(client, workflow_id, RETRY))
    assert shown(client, workflow_id)["phase"] == "get_data"  # the next is yet to come


def test_each_sender_finds_its_messages_in_order(client: httpx.Client, host: HostProcess) -> None:
    workflow_id = failed(client)  # so that all of them wait

    def send(own: httpx.Client, sender: int) -> list[str]:
        values = [f"from-{sender}-{number}" for number in range(3)]
        for value in values:
            told(by_signal(own, workflow_id, COMMAND, value))
        return values

    sent = at_once(host, 7, send)
    history = client.get(
        f"/runtime/webhooks/durabletask/instances/{workflow_id}",
        params={"showHistory": "true", "showHistoryOutput": "true"},
    ).json()
    text = json.dumps(history["historyEvents"])
    for values in sent:
        places = [text.index(value) for value in values]
        assert places == sorted(places)
    entries = client.get(f"/api/audit/{workflow_id}").raise_for_status().json()["entries"]
    assert sum(entry["action"] == "received" for entry in entries) == 22
    refused(publish(client, workflow_id, [(COMMAND, "x")] * 80), 409, "too_many")
    told(publish(client, workflow_id, [(COMMAND, "x")] * 79))


def test_of_a_retry_many_times_at_the_same_moment_one_counts_and_one_may_wait(
    client: httpx.Client, host: HostProcess
) -> None:
    workflow_id = failed(client)
    responses = at_once(host, 20, lambda own, _: by_signal(own, workflow_id, RETRY))
    verdicts = [response.json()["verdict"] for response in responses]
    assert verdicts.count("accepted") == 2  # one for this failure, one for the next
    assert verdicts.count("duplicate") == 18


def test_of_a_retry_and_a_skip_at_the_same_moment_each_is_told_the_truth(
    client: httpx.Client, host: HostProcess
) -> None:
    for _ in range(5):
        workflow_id = failed(client)
        responses = at_once(host, 2, lambda own, number: by_signal(own, workflow_id, (RETRY, SKIP)[number]))  # noqa: B023
        retried, skipped = responses
        told(skipped)
        if retried.status_code == 410:
            assert ended(client, workflow_id)["output"] == 0
        else:
            told(retried)
            assert shown(client, workflow_id)["phase"] == "get_data"  # the skip waits for the next failure


# What is refused


@pytest.mark.parametrize("path", [SIGNAL, PUBLISH])
def test_an_unknown_id_and_another_workflows_are_not_found(client: httpx.Client, path: str) -> None:
    refused(client.post(path, json=bodies(f"no-{uuid4()}")[path]), 404)
    request = client.post("/api/requests", json={"requester": "Alice", "item": "A desk", "timeout_hours": 1}).json()
    refused(client.post(path, json=bodies(request["request_id"])[path]), 404)


@pytest.mark.parametrize("path", [SIGNAL, PUBLISH])
@pytest.mark.parametrize("channel", ["other", "Ready", "publish", "INTERNAL_CHANNEL_COMMAND", f"{COMMAND} x", "ä"])
def test_an_unknown_channel_is_named_with_those_that_there_are(client: httpx.Client, path: str, channel: str) -> None:
    workflow_id = started(client)
    problem = refused(client.post(path, json=bodies(workflow_id, channel)[path]), 422)
    assert channel in problem["detail"]
    assert COMMAND in problem["detail"]


def test_one_unknown_channel_refuses_all_messages(client: httpx.Client) -> None:
    workflow_id = started(client)
    problem = refused(publish(client, workflow_id, [(COMMAND, "failed"), ("other", None)]), 422)
    assert problem["errors"][0]["field"] == "messages.1.channelName"
    assert shown(client, workflow_id)["phase"] == "get_data"


SIGNAL_CHANGES: list[dict[str, Any]] = [
    {"workflowId": None},
    {"workflowId": 5},
    {"workflowRunId": 5},
    {"signalChannelName": None},
    {"signalChannelName": ""},
    {"signalChannelName": "two\nlines"},
    {"signalValue": {"encoding": "json", "data": "failed"}},
    {"signalValue": {"encoding": "protobuf", "data": "CgZmYWlsZWQ="}},
    {"signalValue": {"encoding": "json", "data": {"a": 1}}},
    {"signalValue": {"encoding": {}, "data": "1"}},
    {"signalValue": "x" * 4001},
    {"signalValue": encoded("x" * 4001)},
    {"signalName": RETRY},
    {"signalChannelName": RPC},
    {"signalChannelName": RPC, "signalValue": {"InterStateChannelPublishing": []}},
    {"signalChannelName": RPC, "signalValue": encoded({"InterStateChannelPublishing": [{"value": 1}]})},
    {"signalChannelName": RPC, "signalValue": call("other", None)},
]
PUBLISH_CHANGES: list[dict[str, Any]] = [
    {"messages": None},
    {"messages": []},
    {"messages": {}},
    {"messages": [None]},
    {"messages": [{}]},
    {"messages": [{"channelName": COMMAND, "value": "x" * 4001}]},
    {"messages": [{"channelName": COMMAND}, {"channelName": COMMAND, "value": {"encoding": "json", "data": "{"}}]},
    {"messages": [{"channelName": COMMAND, "more": 1}]},
    {"messages": [{"channelName": COMMAND}] * 101},
    {"message": {"channelName": COMMAND}},
]


@pytest.mark.parametrize(
    ("path", "changes"),
    [(SIGNAL, each) for each in SIGNAL_CHANGES] + [(PUBLISH, each) for each in PUBLISH_CHANGES],
    ids=lambda each: repr(each)[:70],
)
def test_a_body_that_does_not_fit_is_refused_and_does_nothing(
    client: httpx.Client, shared_run: str, path: str, changes: dict[str, Any]
) -> None:
    refused(client.post(path, json=bodies(shared_run)[path] | changes), 422)
    body = shown(client, shared_run)
    assert (body["phase"], body["custom_status"]["trail"]["entries"]) == ("get_data", 1)


@pytest.fixture(scope="module")
def shared_run(session_client: httpx.Client) -> str:
    """A run that is sent nothing that it could take."""
    return started(session_client)


@pytest.mark.parametrize("path", [SIGNAL, PUBLISH])
@pytest.mark.parametrize("text", ["", "{", "failed", "[" * 100_000])
def test_a_body_that_is_not_json_is_refused(client: httpx.Client, path: str, text: str) -> None:
    assert client.post(path, content=text).status_code in (400, 422)


@pytest.mark.parametrize("path", [SIGNAL, PUBLISH])
def test_a_body_that_is_too_long_is_refused(client: httpx.Client, path: str) -> None:
    refused(client.post(path, content=b" " * 300_000), 413)


@pytest.mark.parametrize("path", [SIGNAL, PUBLISH])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_only_a_post_sends_messages(client: httpx.Client, path: str, method: str) -> None:
    assert client.request(method, path).status_code in (404, 405)


# Refunds


def refund(client: httpx.Client) -> str:
    """A refund that waits until it is ready."""
    workflow_id = f"refund-{uuid4()}"
    assert client.get("/microservice/start", params={"workflowId": workflow_id}).status_code == 200
    return workflow_id


@pytest.mark.parametrize("door", [by_signal, by_publishing], ids=lambda door: door.__name__)
def test_a_refund_is_made_ready_by_its_signal(client: httpx.Client, door: Any) -> None:
    workflow_id = refund(client)
    response = door(client, workflow_id, "Ready")
    told(response)
    assert response.json()["status_url"].endswith(f"/api/refunds/{workflow_id}")
    path = f"/api/refunds/{workflow_id}"
    until(lambda: client.get(path).json()["runtime_status"] == "COMPLETED")


def test_a_refund_takes_a_remote_call_with_its_signal_too(client: httpx.Client) -> None:
    told(by_signal(client, refund(client), RPC, call("Ready", None)))


def test_a_refund_knows_no_other_channel_and_no_value(client: httpx.Client) -> None:
    workflow_id = refund(client)
    assert "Ready" in refused(by_signal(client, workflow_id, COMMAND), 422)["detail"]
    refused(by_signal(client, workflow_id, "Ready", "a value"), 422)
