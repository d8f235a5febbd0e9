"""The contract of a guarded call: what is taken, what is refused, and what of a call may be shown."""

import json
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from contracts.base import MAX_PEOPLE
from contracts.guarded_call import (
    MAX_ERROR,
    MAX_JSON,
    Answer,
    Call,
    EditCommand,
    EditEvent,
    FailCommand,
    GuardedCall,
    GuardedCallInput,
    HttpCall,
    ResolveInterventions,
    Retry,
    RetryCommand,
    SimulatedCall,
    SkipCommand,
    StartIntervention,
    masked,
)
from contracts.records import Document
from services.record_store import MAX_BODY

CALL: TypeAdapter[SimulatedCall | HttpCall] = TypeAdapter(Call)
URL = "https://api.example.com/pay"
HTTP = {"kind": "http", "url": URL}
GUARDED = {"name": "Pay", "call": HTTP}
FORM = {"type": "object", "properties": {"amount": {"type": "integer"}}}
ANN, BOB = {"email": "ann@example.com"}, {"email": "bob@example.com"}


def guarded(**said: Any) -> GuardedCall:
    """A guarded call."""
    return GuardedCall.model_validate(GUARDED | said)


def http(**said: Any) -> HttpCall:
    """A call over HTTP."""
    return HttpCall.model_validate(HTTP | said)


# Calls


def test_a_call_has_its_defaults() -> None:
    call = http()
    assert (call.method, call.headers, call.body, call.timeout) == ("POST", {}, None, 30.0)
    assert CALL.validate_python({"kind": "simulated"}) == SimulatedCall(kind="simulated")
    assert CALL.validate_python(call.plain()) == call


@pytest.mark.parametrize(
    "call", [{}, {"url": URL}, {"kind": "ftp", "url": URL}, {"kind": "simulated", "url": URL}, HTTP | {"fails": 1}]
)
def test_a_call_is_of_one_kind(call: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CALL.validate_python(call)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://api.example.com/",
        "//api.example.com/",
        "api.example.com",
        "https://",
        "https://api.example.com/a b",
        "https://api.example.com/\n",
        "https://api.exämple.com/",
        "HTTPS://api.example.com/",
        "https://api.example.com/" + "x" * 2000,
    ],
)
def test_addresses_that_cannot_be(url: str) -> None:
    with pytest.raises(ValidationError):
        http(url=url)


@pytest.mark.parametrize("name", ["X-Api-Key", "x", "!#$%&'*+.^_`|~-9", "x" * 100, "Authorization", "Cookie"])
def test_names_of_headers(name: str) -> None:
    assert http(headers={name: "v"}).headers == {name: "v"}


@pytest.mark.parametrize("name", ["", "x" * 101, "a b", "a:", "a\n", "ä", "a\x00", "(a)"])
def test_what_is_no_name_of_a_header(name: str) -> None:
    with pytest.raises(ValidationError):
        http(headers={name: "v"})


@pytest.mark.parametrize("value", ["v", "a b", "!~", "x" * 4000])
def test_values_of_headers(value: str) -> None:
    assert http(headers={"a": value}).headers == {"a": value}


@pytest.mark.parametrize("value", ["", " ", " a", "a ", "a\r\nX-Evil: 1", "a\n", "a\tb", "ä", "x" * 4001, 1])
def test_what_is_no_value_of_a_header(value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        http(headers={"a": value})
    assert "Evil" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "Host",
        "HOST",
        "content-length",
        "Transfer-Encoding",
        "Connection",
        "upgrade",
        "TE",
        "Trailer",
        "Expect",
        "Idempotency-Key",
        "idempotency-key",
        "Proxy-Authorization",
        "proxy-connection",
    ],
)
def test_headers_that_nobody_may_set(name: str) -> None:
    with pytest.raises(ValidationError, match=f"the header {name.lower()} cannot be set"):
        http(headers={name: "v"})


def test_a_header_is_named_once_and_there_are_not_too_many() -> None:
    with pytest.raises(ValidationError, match="a header is named twice"):
        http(headers={"X-Key": "a", "x-KEY": "b"})
    many = {f"x{number}": "v" for number in range(30)}
    assert http(headers=many).headers == many
    with pytest.raises(ValidationError):
        http(headers=many | {"y": "v"})


def test_a_get_has_no_body() -> None:
    with pytest.raises(ValidationError, match="a GET has no body"):
        http(method="GET", body={})
    assert http(method="DELETE", body={}).body == {}


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "CONNECT", "TRACE", "get", "POST "])
def test_methods_that_cannot_be(method: str) -> None:
    with pytest.raises(ValidationError):
        http(method=method)


@pytest.mark.parametrize(("said", "seconds"), [(0.1, 0.1), (120, 120), ("PT30S", 30), ("PT2M", 120), ("5.5", 5.5)])
def test_timeouts(said: Any, seconds: float) -> None:
    assert http(timeout=said).timeout == seconds


@pytest.mark.parametrize("said", [0, 0.09, 120.1, -1, "P1D", "", None, True, float("inf"), float("nan")])
def test_timeouts_that_cannot_be(said: Any) -> None:
    with pytest.raises(ValidationError):
        http(timeout=said)


def test_bodies_have_a_bound() -> None:
    longest = "x" * (MAX_JSON - 2)
    for taken in (longest, "ä" * (MAX_JSON - 2), None, {"a": [1, None, {"b": 2.5}]}):
        assert http(body=taken).body == taken
    for refused in (longest + "x", {"a": longest}, "\ud800", {"\udc00": 1}, float("nan"), [float("inf")]):
        with pytest.raises(ValidationError):
            http(body=refused)


@pytest.mark.parametrize(
    "said",
    [
        {"fails": -1},
        {"fails": 1001},
        {"status": 399},
        {"status": 600},
        {"accepts": {"type": "string"}},
        {"result": "\ud800"},
    ],
)
def test_what_cannot_be_simulated(said: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CALL.validate_python({"kind": "simulated"} | said)


# Retries


@pytest.mark.parametrize(
    ("give_up_on", "gives_up", "goes_on"),
    [
        (None, [300, 304, 400, 404, 422], [408, 425, 429, 500, 503]),
        ([], [], [300, 404, 500]),
        (["4xx"], [400, 499], [302, 408, 425, 429, 500]),
        (["4xx", 429, 503], [400, 429, 503], [408, 502]),
        (["5xx"], [500, 599], [404, 499]),
        ([408], [408], [404, 429]),
    ],
)
def test_statuses_that_are_given_up_on(give_up_on: list[Any] | None, gives_up: list[int], goes_on: list[int]) -> None:
    retry = Retry.model_validate({} if give_up_on is None else {"give_up_on": give_up_on})
    assert [status for status in gives_up if not retry.gives_up_on(status)] == []
    assert [status for status in goes_on if retry.gives_up_on(status)] == []


@pytest.mark.parametrize(
    "said",
    [
        {"attempts": 0},
        {"attempts": 21},
        {"attempts": 1.5},
        {"first_interval": 0},
        {"first_interval": 86_401},
        {"max_interval": 0},
        {"factor": 0.9},
        {"factor": 10.1},
        {"factor": float("nan")},
        {"jitter": -0.1},
        {"jitter": 0.91},
        {"give_up_on": ["2xx"]},
        {"give_up_on": [200]},
        {"give_up_on": [600]},
        {"give_up_on": ["404"]},
        {"give_up_on": [404] * 51},
        {"retries": 1},
    ],
)
def test_retries_that_cannot_be(said: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Retry.model_validate(said)


# What people may do


def test_a_guarded_call_has_its_defaults() -> None:
    call = guarded()
    assert (call.skippable, call.editable, call.max_operator_retries, call.deadline) == (False, False, 5, 72)
    assert (call.on_deadline, call.assigned_to, call.escalate_to, call.body_schema) == ("fail", (), (), None)


@pytest.mark.parametrize("name", ["schema", "body_schema"])
def test_the_schema_has_a_name_for_people_and_one_that_it_travels_by(name: str) -> None:
    call = guarded(editable=True, **{name: FORM})
    assert call.body_schema == FORM == call.plain()["body_schema"]
    with pytest.raises(ValidationError):
        guarded(editable=True, schema=FORM, body_schema=FORM)


def test_a_guarded_call_comes_back_from_a_history() -> None:
    said = {
        "editable": True,
        "schema": FORM,
        "assigned_to": [ANN],
        "skippable": True,
        "on_deadline": "skip",
        "substitute": 1,
    }
    call = GuardedCallInput.model_validate(GUARDED | said | {"mailbox": "ops@example.com", "execution_timeout": "PT1H"})
    assert GuardedCallInput.model_validate(json.loads(json.dumps(call.plain()))) == call
    assert call.execution_timeout == 3600


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"on_deadline": "escalate"}, "need each other"),
        ({"escalate_to": [ANN]}, "need each other"),
        ({"on_deadline": "skip"}, "needs skippable"),
        ({"skippable": True, "substitute": 1}, "is for on_deadline 'skip'"),
        ({"schema": FORM}, "is for calls that are editable"),
        ({"on_deadline": "escalate", "escalate_to": [ANN], "deadline": "P183D"}, "more than 365 days"),
        ({"assigned_to": [ANN, BOB, {"email": "ANN@example.com"}]}, "named twice"),
        (
            {"assigned_to": [ANN], "on_deadline": "escalate", "escalate_to": [BOB, {"email": "Ann@Example.com"}]},
            "twice",
        ),
        ({"assigned_to": [{"email": f"p{number}@example.com"} for number in range(51)]}, "at most 50"),
        (
            {
                "assigned_to": [{"email": f"p{number}@example.com"} for number in range(50)],
                "on_deadline": "escalate",
                "escalate_to": [ANN],
            },
            "more than 50 people",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(said: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        guarded(**said)


@pytest.mark.parametrize(
    "said",
    [
        {"name": ""},
        {"name": "a\nb"},
        {"max_operator_retries": -1},
        {"max_operator_retries": 21},
        {"deadline": 0},
        {"deadline": "P366D"},
        {"on_deadline": "retry"},
        {"assigned_to": ["ann"]},
        {"assigned_to": "ann@example.com"},
        {"assigned_to": [{"email": "ann@example.com\nBcc: x@example.com"}]},
        {"schema": {"type": "object", "pattern": "(a+)+"}, "editable": True},
        {"body_schema": FORM, "editable": True, "x": 1},
        {"extra": 1},
    ],
)
def test_guarded_calls_that_cannot_be(said: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        guarded(**said)


@pytest.mark.parametrize("name", ["a/b", "", "x" * 101, "a b"])
def test_an_intervention_has_an_id_as_all_have(name: str) -> None:
    assert StartIntervention.model_validate(GUARDED | {"intervention_id": "pay-7"}).intervention_id == "pay-7"
    with pytest.raises(ValidationError):
        StartIntervention.model_validate(GUARDED | {"intervention_id": name})


def test_nobody_starts_a_call_as_part_of_a_run_or_with_a_mailbox() -> None:
    for inner in ({"part_of": "x"}, {"mailbox": "a@example.com"}, {"execution_timeout": 1}):
        with pytest.raises(ValidationError):
            StartIntervention.model_validate(GUARDED | inner)


# Commands


@pytest.mark.parametrize("command", [RetryCommand, SkipCommand, FailCommand])
def test_each_command_has_a_name_and_a_reason(command: type[RetryCommand]) -> None:
    said = {"by": "Ann", "reason": "It is up again", "decision_id": "d1"}
    assert command.model_validate(said).by == "Ann"
    for without in (
        {"by": ""},
        {"by": "  "},
        {"by": "a\nb"},
        {"reason": ""},
        {"reason": "   "},
        {"reason": "x" * 4001},
        {"gate": 0},
        {"channel": "link"},
        {"link": {"v": 1}},
    ):
        with pytest.raises(ValidationError):
            command.model_validate(said | without)
    for name in ("by", "reason"):
        with pytest.raises(ValidationError):
            command.model_validate({key: value for key, value in said.items() if key != name})


def test_an_edit_has_a_body_which_may_be_null() -> None:
    said = {"by": "Ann", "reason": "Typo", "decision_id": "d1"}
    assert EditCommand.model_validate(said | {"body": None}).body is None
    with pytest.raises(ValidationError):
        EditCommand.model_validate(said)
    with pytest.raises(ValidationError):
        EditCommand.model_validate(said | {"body": "x" * MAX_JSON})
    assert EditEvent.model_validate(said | {"body": 1, "channel": "api"}).channel == "api"


RESOLVE = {"fingerprint": "0123456789abcdef", "by": "Ann", "reason": "It is up again"}


@pytest.mark.parametrize(
    "said",
    [
        {"action": "retry"},
        {"action": "fail"},
        {"action": "edit", "body": None},
        {"action": "edit", "body": {"a": 1}},
        {"action": "skip"},
        {"action": "skip", "result": None},
        {"action": "skip", "result": 1},
    ],
)
def test_all_that_wait_on_one_error_are_resolved(said: dict[str, Any]) -> None:
    assert ResolveInterventions.model_validate(RESOLVE | said).action == said["action"]


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"action": "edit"},
        {"action": "retry", "body": None},
        {"action": "skip", "body": 1},
        {"action": "retry", "result": None},
        {"action": "edit", "body": 1, "result": 1},
        {"action": "resolve"},
        {"action": "retry", "fingerprint": "0123456789ABCDEF"},
        {"action": "retry", "fingerprint": "0123456789abcde"},
        {"action": "retry", "fingerprint": "0123456789abcdef\n"},
        {"action": "retry", "reason": ""},
        {"action": "retry", "gate": 1},
    ],
)
def test_what_resolves_nothing(said: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ResolveInterventions.model_validate(RESOLVE | said)


# Answers


@pytest.mark.parametrize(
    "said",
    [
        {"problem": "broken"},
        {"message": "x" * (MAX_ERROR + 1)},
        {"fingerprint": "x" * 16},
        {"retry_after": -1},
        {"retry_after": float("inf")},
        {"retry_after": float("nan")},
    ],
)
def test_answers_that_cannot_be(said: dict[str, Any]) -> None:
    assert Answer.model_validate({"message": "x" * MAX_ERROR, "retry_after": 0}).problem is None
    with pytest.raises(ValidationError):
        Answer.model_validate(said)


# What may be shown


def test_values_of_headers_are_not_shown_unless_they_are_known_to_be_harmless() -> None:
    secret = {"Authorization": "Bearer hush", "X-Api-Key": "hush", "Cookie": "hush", "X-Whatever": "hush"}
    harmless = {"ACCEPT": "a/b", "Accept-Language": "de", "content-type": "a/b", "User-Agent": "u", "X-Request-ID": "r"}
    call = http(headers=secret | harmless, body={"a": 1})
    shown = masked(call)
    assert shown["headers"] == dict.fromkeys(secret, "***") | harmless
    assert "hush" not in json.dumps(shown)
    assert {**shown, "headers": None} == {**call.plain(), "headers": None}
    assert call.headers["X-Api-Key"] == "hush"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://h/p", "https://h/p"),
        ("https://h/p?a=1&b=2", "https://h/p?a=***&b=***"),
        ("https://h/p?api_key=hush&b=2", "https://h/p?api_key=***&b=***"),
        ("https://h/p?token=hush=hush?hush/hush#f", "https://h/p?token=***#***"),
        ("https://h/p#access_token=hush&b=hush", "https://h/p#***"),
        ("https://h/p?token=", "https://h/p?token=***"),
        ("https://h/p?sig=hush&code=hush&password=hush&client_secret=hush&auth=hush", None),
        ("https://h/token/p", "https://h/token/p"),
    ],
)
def test_the_values_of_parameters_are_not_shown(url: str, shown: str | None) -> None:
    said = masked(http(url=url))["url"]
    assert isinstance(said, str)
    assert "hush" not in said
    assert shown is None or said == shown


def test_a_simulated_call_is_shown_without_what_it_is_made_of() -> None:
    call = SimulatedCall(kind="simulated", fails=1, body={"a": 1}, result={"b": 2})
    assert masked(call) == {"kind": "simulated", "fails": 1, "status": 503, "body": {"a": 1}}


def test_a_call_of_the_largest_kind_fits_a_row_of_the_store() -> None:
    body = "\U0001f600" * (MAX_JSON // 2 - 1)
    shown_names = ("Accept", "Accept-Language", "Content-Type", "User-Agent", "X-Request-Id", "X-Correlation-Id")
    headers = dict.fromkeys(shown_names, "x" * 4_000) | {f"{'h' * 97}{each:03}": "x" for each in range(24)}
    call = http(url="https://h/" + "x" * 1_990, body=body, headers=headers)
    document = Document(instance_id="i" * 1_000, run="20260301T110000000000Z", name="call|000001", body=masked(call))
    assert len(json.dumps(document.plain(), ensure_ascii=False).encode("utf-16-le")) <= 2 * MAX_BODY


@pytest.mark.parametrize("half", [MAX_JSON // 2 - 1, MAX_JSON // 2])
def test_a_body_is_counted_as_the_store_counts_it(half: int) -> None:
    given = {"kind": "simulated", "body": "\U0001f600" * half}
    assert fits(given) == (half < MAX_JSON // 2)


@pytest.mark.parametrize(("levels", "fit"), [(50, True), (51, False), (250, False)])
def test_a_body_is_nested_only_so_deep(levels: int, *, fit: bool) -> None:
    assert fits({"kind": "simulated", "body": json.loads("[" * levels + "]" * levels)}) == fit


def fits(given: dict[str, Any]) -> bool:
    """Whether a call can be one."""
    try:
        CALL.validate_python(given)
    except ValueError:
        return False
    return True


def test_no_more_people_are_asked_than_one_wait_can_name() -> None:
    some = [f"p{each}@example.com" for each in range(MAX_PEOPLE)]
    given = {"name": "x", "call": {"kind": "simulated"}, "on_deadline": "escalate"}
    GuardedCall.model_validate({**given, "assigned_to": some[:1], "escalate_to": some[1:]})
    for wrong in ({"escalate_to": some}, {"assigned_to": ["q@example.com"], "escalate_to": some}):
        with pytest.raises(ValueError, match="people are named"):
            GuardedCall.model_validate({**given, **wrong})
