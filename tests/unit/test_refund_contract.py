"""What a refund can be, and what its data can hold."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from contracts.refund import MAX_DATA, MAX_RESULT, ReadyByRpc, ReadyEvent, RefundInput, StartRefund, SwapEvent, fitting

DEEP = "[" * 50 + "]" * 50


def started(**said: Any) -> StartRefund:
    """A refund as it comes over HTTP."""
    return StartRefund.model_validate_json(json.dumps({"amount": 1, "currency": "EUR"} | said))


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("12.3", '"12.30"'),
        ("12", '"12.00"'),
        ("0.1", '"0.10"'),
        ("0.01", '"0.01"'),
        ("1e9", '"1000000000.00"'),
        ("1000000000", '"1000000000.00"'),
        ("999999999.99", '"999999999.99"'),
        ('"0.01"', '"0.01"'),
        ('"007.5"', '"7.50"'),
        ("1.10", '"1.10"'),
    ],
)
def test_an_amount_is_kept_as_text_with_two_digits(given: str, kept: str) -> None:
    asked = StartRefund.model_validate_json(f'{{"amount": {given}, "currency": "EUR"}}')
    assert json.dumps(asked.plain()["amount"]) == kept
    assert RefundInput.model_validate({"amount": asked.amount, "currency": "EUR"}).amount == asked.amount


@pytest.mark.parametrize(
    "given",
    [
        "0",
        "0.00",
        '"0"',
        "-1",
        "1.001",
        "0.30000000000000004",
        "1000000000.01",
        "1e10",
        "1e400",
        "NaN",
        '"NaN"',
        '"1e3"',
        '" 1"',
        '"1\\n"',
        '"1_0"',
        '"1."',
        '".5"',
        '"+1"',
        '"\\u0661"',
        '""',
        "null",
        "true",
        "[1]",
        "9" * 5000,
    ],
    ids=lambda given: given[:12],
)
def test_what_is_no_amount_is_refused(given: str) -> None:
    with pytest.raises(ValidationError):
        StartRefund.model_validate_json(f'{{"amount": {given}, "currency": "EUR"}}')


@pytest.mark.parametrize("given", ["eur", "EU", "EURO", "E\u00dcR", "EUR ", "", None, 978])
def test_what_is_no_currency_is_refused(given: Any) -> None:
    with pytest.raises(ValidationError):
        started(currency=given)


@pytest.mark.parametrize(
    "data",
    [
        None,
        0,
        "",
        {"a": [1, None]},
        "x" * (MAX_DATA - 2),
        "\u4e2d" * (MAX_DATA - 2),
        "\U0001f600" * (MAX_DATA // 2 - 1),
        json.loads(DEEP),
    ],
    ids=lambda data: repr(data)[:20],
)
def test_data_are_any_json_up_to_a_length(data: Any) -> None:
    assert started(data=data).data == data
    assert SwapEvent.model_validate({"data": data}).data == data
    status = {"phase": "waiting_for_ready", "data": {"SomeData": data}}
    assert len(json.dumps(status)) < 6_200


@pytest.mark.parametrize(
    "data",
    [
        "x" * (MAX_DATA - 1),
        "\U0001f600" * (MAX_DATA // 2),
        "\x01" * 167,
        "\ud800",
        float("nan"),
        float("inf"),
        json.loads(f"[{DEEP}]"),
        pytest.param(10**4301, id="huge"),
    ],
    ids=lambda data: type(data).__name__,
)
def test_data_that_are_too_long_or_too_deep_or_no_json_are_refused(data: Any) -> None:
    with pytest.raises(ValidationError):
        SwapEvent.model_validate({"data": data})


def test_a_swap_says_what_the_new_data_are() -> None:
    with pytest.raises(ValidationError):
        SwapEvent.model_validate({"decision_id": "s1"})


def test_a_person_is_named_once() -> None:
    with pytest.raises(ValidationError, match="named twice"):
        started(assigned_to=["a@example.com", {"email": "A@EXAMPLE.COM", "name": "Ann"}])


@pytest.mark.parametrize("payload", [None, 1, "x", [], {"by": 1}, {"decision_id": " "}, {"channel": "link", "by": "A"}])
def test_a_ready_that_is_not_understood_says_nothing(payload: Any) -> None:
    assert ReadyEvent.model_validate(payload) == ReadyEvent()


def test_a_ready_that_is_understood_says_all_of_it() -> None:
    said = {"decision_id": "d1", "by": "Rita", "comments": "fine", "channel": "api", "sent_by": "Ada"}
    assert ReadyEvent.model_validate(said).plain() == said


def test_a_remote_call_says_what_its_first_message_says() -> None:
    messages = [{"channelName": "Ready", "value": {"by": each, "decision_id": "d1"}} for each in ("Rita", "Rob")]
    event = ReadyByRpc.model_validate({"InterStateChannelPublishing": messages})
    assert event == ReadyByRpc.model_construct(by="Rita", decision_id="d1")


@pytest.mark.parametrize("channel", ["ready", "Ready2", "swap", "internal_channel_command"])
def test_a_remote_call_for_another_channel_is_no_ready(channel: str) -> None:
    messages = [{"channelName": "Ready"}, {"channelName": channel}]
    with pytest.raises(ValidationError, match="a channel other than Ready"):
        ReadyByRpc.model_validate({"InterStateChannelPublishing": messages})


@pytest.mark.parametrize("result", [None, 1, "text", {"id": "R-1"}, ["x" * (MAX_RESULT - 4)], json.loads(DEEP)])
def test_what_the_first_call_gave_is_handed_on(result: Any) -> None:
    assert fitting(result) == result


@pytest.mark.parametrize("result", ["x" * (MAX_RESULT - 1), "\ud800", float("nan"), json.loads(f"[{DEEP}]")], ids=type)
def test_what_could_not_be_sent_is_not_handed_on(result: Any) -> None:
    assert fitting(result) is None


def test_a_number_that_cannot_be_written_is_not_handed_on() -> None:
    assert fitting(10**4301) is None


@pytest.mark.parametrize(
    ("said", "title"),
    [
        ({}, "Refund"),
        ({"amount": "1", "currency": "EUR"}, "Refund of 1.00 EUR"),
        ({"amount": "1", "currency": "EUR", "customer": "Carl"}, "Refund of 1.00 EUR to Carl"),
        ({"customer": "C" * 254}, ("Refund to " + "C" * 254)[:200]),
    ],
)
def test_a_title_says_what_goes_to_whom_in_one_line(said: dict[str, Any], title: str) -> None:
    assert RefundInput.model_validate(said).title == title


@pytest.mark.parametrize(
    "api",
    [
        "ftp://example.com",
        "https://example.com/",
        "https://exa mple.com",
        "https://example.com/x\n",
        "example.com",
        "",
        "https://a:b@example.com",
        "https://example.com/?a=b",
        "https://example.com#a",
    ],
)
def test_what_is_no_address_of_an_api_is_refused(api: str) -> None:
    with pytest.raises(ValidationError):
        RefundInput.model_validate({"api": api})
