"""The messages on channels, as they come from outside."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from contracts.base import Contract
from contracts.human_step import digest_of_said
from contracts.manual_intervention import (
    COMMAND,
    EXECUTE_RPC,
    MAX_MESSAGES,
    RETRY,
    EncodedObject,
    Message,
    OnCommand,
    OnExecuteRpc,
    OnSkip,
    Publication,
    PublishRequest,
    SignalRequest,
    decoded,
)

ENCODED: dict[str, Any] = {"encoding": "json", "data": '"failed"'}


def rpc(*messages: Any, key: str = "InterStateChannelPublishing") -> dict[str, Any]:
    """The payload of a remote call."""
    return {key: list(messages)}


def signal(**changes: Any) -> SignalRequest:
    """A signal as it is read from a body."""
    body = {"workflowId": "intervention-1", "signalChannelName": COMMAND} | changes
    return SignalRequest.model_validate_json(json.dumps(body))


@pytest.mark.parametrize("encoding", ["json", "JSON", "BuiltinJacksonJson", "builtinGolangJson", "", None])
def test_an_encoded_object_is_decoded_whatever_wrote_its_json(encoding: str | None) -> None:
    assert decoded({"encoding": encoding, "data": '"failed"'}) == "failed"


@pytest.mark.parametrize(
    ("data", "value"), [(None, None), ("null", None), ("[1]", [1]), (' {"a": 1} ', {"a": 1}), ('"\\u00e4"', "ä")]
)
def test_the_data_of_an_encoded_object_is_any_json(data: str | None, value: Any) -> None:
    assert decoded({"encoding": "json", "data": data}) == value


@pytest.mark.parametrize("data", ["failed", "", "{", "\x00", "31x", 5, ["failed"], "[" * 100_000])
def test_an_encoded_object_whose_data_is_not_json_is_refused(data: Any) -> None:
    with pytest.raises(ValueError):
        decoded({"encoding": "json", "data": data})


@pytest.mark.parametrize("encoding", [5, {}, "x" * 101])
def test_an_encoded_object_with_an_odd_encoding_is_refused(encoding: Any) -> None:
    with pytest.raises(ValidationError):
        decoded({"encoding": encoding, "data": "1"})


@pytest.mark.parametrize(
    "value", ["failed", None, [], {}, {"data": "1"}, {"encoding": "json"}, ENCODED | {"more": 1}, [ENCODED], 1.5]
)
def test_what_has_other_keys_is_a_value_like_any_other(value: Any) -> None:
    assert decoded(value) == value


def test_an_encoded_object_is_decoded_once_only() -> None:
    twice = {"encoding": "json", "data": json.dumps(ENCODED)}
    assert OnCommand.model_validate(twice).messages[0].value == ENCODED
    assert signal(signalValue=twice).messages[0].value == ENCODED
    message = {"channelName": COMMAND, "value": twice}
    assert OnExecuteRpc.model_validate(rpc(message)).messages[0].value == ENCODED
    assert Publication(messages=(Message(channel=COMMAND, value=ENCODED),)).messages[0].value == ENCODED


def test_a_value_has_4000_characters_of_json_at_most_at_each_door() -> None:
    fits, too_long = "ä" * 3998, "ä" * 3999
    assert OnCommand.model_validate(fits).messages[0].value == fits
    assert OnCommand.model_validate({"encoding": "json", "data": json.dumps(fits)}).messages[0].value == fits
    assert signal(signalValue=fits).messages[0].value == fits
    refused: list[tuple[type[Contract], Any]] = [
        (OnCommand, too_long),
        (OnSkip, too_long),
        (OnCommand, {"encoding": "json", "data": json.dumps(too_long)}),
        (OnExecuteRpc, rpc({"channelName": COMMAND, "value": too_long})),
        (Publication, {"messages": [{"channel": COMMAND, "value": too_long}]}),
        (PublishRequest, {"workflowId": "a", "messages": [{"channelName": COMMAND, "value": too_long}]}),
        (SignalRequest, {"workflowId": "a", "signalChannelName": COMMAND, "signalValue": too_long}),
    ]
    for contract, payload in refused:
        with pytest.raises(ValidationError, match="4,000 characters"):
            contract.model_validate(payload)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [float("-inf")]}, 10**4200])
def test_a_number_that_json_does_not_have_is_no_value(value: Any) -> None:
    with pytest.raises(ValidationError):
        OnCommand.model_validate(value)


def test_a_value_that_is_nested_without_end_is_refused_and_fails_nothing() -> None:
    value: Any = "failed"
    for _ in range(20_000):
        value = [value]
    with pytest.raises(ValidationError):
        OnCommand.model_validate(value)


def test_half_a_surrogate_pair_is_a_value_that_can_be_hashed() -> None:
    event = OnCommand.model_validate("\ud800")
    assert digest_of_said(event) == digest_of_said(Publication.model_validate(event.plain() | {"channel": "api"}))


def test_nulls_in_a_value_come_through_to_the_run() -> None:
    asked = Publication(messages=(Message(channel=COMMAND, value={"a": None}),), decision_id="d", channel="api")
    sent = asked.model_dump(mode="json", exclude_none=True)  # as it is raised
    assert Publication.model_validate(sent) == asked


@pytest.mark.parametrize("key", ["InterStateChannelPublishing", "interStateChannelPublishing"])
def test_a_remote_call_holds_messages_for_several_channels(key: str) -> None:
    event = OnExecuteRpc.model_validate(
        rpc({"channelName": COMMAND, "value": ENCODED}, {"channelName": RETRY}, key=key)
    )
    assert event.messages == (Message(channel=COMMAND, value="failed"), Message(channel=RETRY))
    assert (event.decision_id, event.channel) == (None, None)


@pytest.mark.parametrize(
    "payload",
    [
        None,
        "failed",
        [],
        {},
        rpc(),
        rpc(5),
        rpc({}),
        rpc({"value": ENCODED}),
        rpc({"channelName": 5}),
        rpc({"channelName": "other"}),
        rpc({"channelName": COMMAND, "more": 1}),
        rpc({"channelName": COMMAND, "value": {"encoding": "json", "data": "failed"}}),
        rpc({"channelName": COMMAND}) | {"StateDecision": {}},
        rpc({"channelName": COMMAND}) | rpc({"channelName": COMMAND}, key="interStateChannelPublishing"),
        rpc(*[{"channelName": COMMAND}] * (MAX_MESSAGES + 1)),
        {"InterStateChannelPublishing": {"channelName": COMMAND}},
        {"encoding": "json", "data": "5"},
    ],
    ids=lambda payload: repr(payload)[:60],
)
def test_a_remote_call_that_does_not_fit_is_refused_as_event_and_as_signal(payload: Any) -> None:
    with pytest.raises(ValidationError):
        OnExecuteRpc.model_validate(payload)
    if "other" not in repr(payload):  # which channels there are is known when the workflow is
        with pytest.raises(ValidationError):
            signal(signalChannelName=EXECUTE_RPC, signalValue=payload)


def test_a_remote_call_is_read_as_a_signal_too_encoded_or_not() -> None:
    call = rpc({"channelName": COMMAND, "value": ENCODED}, {"channelName": "Ready"})
    for value in (call, {"encoding": "json", "data": json.dumps(call)}):
        messages = signal(signalChannelName=EXECUTE_RPC, signalValue=value).messages
        assert [(each.channel_name, each.value) for each in messages] == [(COMMAND, "failed"), ("Ready", None)]


@pytest.mark.parametrize("given", [None, "", "intervention-1"])
def test_a_signal_may_name_a_run_and_need_not(given: str | None) -> None:
    assert signal(workflowRunId=given).workflow_run_id == given


@pytest.mark.parametrize(
    "changes",
    [
        {"workflowId": ""},
        {"workflowId": "intervention-ä"},
        {"workflowId": "x" * 101},
        {"workflowId": 5},
        {"workflowRunId": "x" * 101},
        {"signalChannelName": ""},
        {"signalChannelName": "two\nlines"},
        {"signalChannelName": None},
        {"signalName": "x"},
        {"signalValue": {"encoding": "json", "data": "failed"}},
    ],
    ids=repr,
)
def test_a_signal_that_does_not_fit_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        signal(**changes)


def test_what_is_refused_is_not_repeated_in_the_message() -> None:
    with pytest.raises(ValidationError) as refused:
        EncodedObject.model_validate({"encoding": "json", "data": ["hush"]})
    assert "hush" not in str(refused.value)
