"""What a sign-up can be started with, what can be asked of it, and what it carries over."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from contracts.audit import GENESIS
from contracts.base import Contract, same_person
from contracts.carried import RecordState
from contracts.human_step import Asking, Progress, SignupStanding, Verdict, digest_of_said
from contracts.signup import (
    ChangeEmailEvent,
    EmailAddress,
    QuietHours,
    ResendEvent,
    SignupForm,
    SignupInput,
    SignupRules,
    SignupState,
    StopRemindersEvent,
    SubmitSignup,
    VerifyEvent,
    VerifySignup,
    signup_id,
)

RUN = "20260101T000000000000Z"
KEY = "0123456789abcdef" * 2
LINK = {"run": RUN, "generation": 1}
ADDRESS: TypeAdapter[str] = TypeAdapter(EmailAddress)


def submitted(**said: str) -> SubmitSignup:
    """A sign-up as its parameters come over HTTP."""
    return SubmitSignup.model_validate_strings({"username": "alice", "email": "alice@example.com"} | said)


@pytest.mark.parametrize("name", ["a", "Alice-1_b.c:d", "x" * 64, " alice "])
def test_a_user_name_is_up_to_64_letters_digits_and_signs(name: str) -> None:
    assert submitted(username=name).username == name.strip()


@pytest.mark.parametrize(
    "name", ["", " ", "x" * 65, "a b", "a@b", "a/b", "a%20b", "älice", "a\x00", "signup-a", "SIGNUP-a", "signup-"]
)
def test_what_is_no_user_name_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        submitted(username=name)


def test_the_id_of_a_sign_up_is_the_user_name_without_its_case() -> None:
    assert signup_id("Alice") == signup_id("aLICE") == signup_id("signup-alice") == signup_id("SIGNUP-Alice")
    assert signup_id("alice") == "signup-alice"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("alice@example.com", "alice@example.com"),
        (" Alice@EXAMPLE.com ", "Alice@example.com"),
        ("o'hara+tag@sub.example.com", "o'hara+tag@sub.example.com"),
        ("jörg@müller.example.com", "jörg@müller.example.com"),
        ("用户@例子.广告", "用户@例子.广告"),
        ("a@xn--mller-kva.example.com", "a@müller.example.com"),
        ("e\u0301@example.com", "\u00e9@example.com"),
        ("a@" + "\uff45xample.com", "a@example.com"),
    ],
)
def test_an_address_is_kept_as_it_is_compared(given: str, kept: str) -> None:
    assert submitted(email=given).email == kept
    assert SignupForm(username="a", email=kept).email == kept
    assert same_person(given) == same_person(kept)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "secret",
        "secret@",
        "@example.com",
        "secret@localhost",
        "secret@example",
        "secret@example.invalid",
        "secret@host.local",
        "secret@[127.0.0.1]",
        "secret..secret@example.com",
        ".secret@example.com",
        "secret@-example.com",
        "secret@exa_mple.com",
        "secret secret@example.com",
        "secret@example.com\r\nBcc: secret@example.com",
        '"secret"@example.com',
        "Secret <secret@example.com>",
        "secret@example.com,secret@example.org",
        "secret\u200b@example.com",
        "secret\u202e@example.com",
        "=?utf-8?q?secret?=@example.com",
        "secret" * 50 + "@example.com",
        "secret@" + "example." * 40 + "com",
    ],
)
def test_what_no_mail_can_go_to_is_refused_without_being_repeated(address: str) -> None:
    with pytest.raises(ValidationError) as refused:
        ADDRESS.validate_python(address)
    said = [each["msg"] for each in refused.value.errors(include_input=False, include_context=False)]
    assert said
    assert "secret" not in repr(said)


@pytest.mark.parametrize(
    "said",
    [
        {"firstname": "x" * 101},
        {"lastname": "a\nb"},
        {"lastname": ""},
        {"timezone": "Europe/../etc"},
        {"timezone": "x" * 65},
        {"session": "0" * 64},
        {"source": "api"},
        {"executionTimeout": "-1"},
    ],
    ids=repr,
)
def test_a_parameter_that_is_wrong_or_unknown_is_refused(said: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        submitted(**said)


@pytest.mark.parametrize("source", ["", " ", "x" * 101, "a\nb", "a\u2028b"])
def test_a_source_is_one_short_line(source: str) -> None:
    with pytest.raises(ValidationError):
        VerifySignup.model_validate_strings({"username": "alice", "source": source})


def test_without_a_source_a_verification_comes_from_the_api() -> None:
    assert VerifySignup.model_validate_strings({"username": "alice"}).source == "api"


@pytest.mark.parametrize(
    "said",
    [
        {"start": "24:00", "end": "08:00"},
        {"start": "9:00", "end": "08:00"},
        {"start": "09:60", "end": "08:00"},
        {"start": "21:00"},
        {"start": "21:00\n", "end": "08:00"},
        {"start": "21:00", "end": "08:00", "zone": ""},
    ],
    ids=repr,
)
def test_quiet_hours_are_times_of_the_clock(said: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        QuietHours.model_validate({"zone": "Europe/Berlin"} | said)


@pytest.mark.parametrize(
    "said",
    [
        {"remind_hours": 0},
        {"remind_hours": 8761},
        {"max_reminders": -1},
        {"max_reminders": 101},
        {"expires_hours": 0},
        {"expires_hours": float("inf")},
        {"resend_seconds": -1},
        {"mails_per_day": 0},
    ],
    ids=repr,
)
def test_rules_have_bounds(said: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SignupRules.model_validate(said)


GOOD: list[tuple[type[Asking], dict[str, Any]]] = [
    (VerifyEvent, {"source": "api"}),
    (VerifyEvent, {"source": "email", "link": LINK, "channel": "link", "decision_id": "d1"}),
    (VerifyEvent, {"source": "email", "link": LINK | {"code": "wrong"}, "channel": "page"}),
    (ResendEvent, {"channel": "page"}),
    (ChangeEmailEvent, {"email": "b@example.com", "address_key": KEY}),
    (StopRemindersEvent, {"channel": "link"}),
    (StopRemindersEvent, {"changes": 0, "channel": "link"}),
]
WRONG: list[tuple[type[Asking], Any]] = [
    (VerifyEvent, {}),
    (VerifyEvent, {"source": 1}),
    (VerifyEvent, {"source": "a\nb"}),
    (VerifyEvent, {"source": "api", "link": {"run": RUN, "generation": 0}}),
    (VerifyEvent, {"source": "api", "link": {"run": "x", "generation": 1}}),
    (VerifyEvent, {"source": "api", "link": LINK | {"code": "123456"}}),
    (VerifyEvent, {"source": "api", "link": LINK | {"vouched": True}}),
    (VerifyEvent, {"source": "api", "channel": "timer"}),
    (ResendEvent, {"channel": "api"}),
    (ResendEvent, {"email": "b@example.com"}),
    (ChangeEmailEvent, {"email": "b@example.com"}),
    (ChangeEmailEvent, {"email": "b", "address_key": KEY}),
    (ChangeEmailEvent, {"email": "b@example.com", "address_key": KEY.upper()}),
    (ChangeEmailEvent, {"email": "b@example.com", "address_key": "b@example.com"}),
    (StopRemindersEvent, {"channel": "page"}),
    (StopRemindersEvent, {"changes": -1}),
    (StopRemindersEvent, {"changes": "all"}),
    (StopRemindersEvent, None),
]


@pytest.mark.parametrize(("contract", "said"), GOOD, ids=repr)
def test_what_is_asked_comes_back_as_it_went(contract: type[Asking], said: dict[str, Any]) -> None:
    event = contract.model_validate(said)
    assert contract.model_validate(event.plain()) == event


@pytest.mark.parametrize(("contract", "said"), WRONG, ids=repr)
def test_what_is_malformed_is_refused(contract: type[Asking], said: Any) -> None:
    with pytest.raises(ValidationError):
        contract.model_validate(said)


def test_a_repetition_is_the_same_whatever_door_it_comes_by() -> None:
    said = {"source": "email", "link": LINK, "channel": "link", "decision_id": "d1"}
    first, again = VerifyEvent.model_validate(said), VerifyEvent(source="email", decision_id="d2")
    assert digest_of_said(first) == digest_of_said(again)
    assert digest_of_said(first) != digest_of_said(VerifyEvent(source="sms"))


def test_what_is_carried_over_comes_back_to_the_microsecond() -> None:
    at = datetime(2026, 1, 1, 12, 0, 0, 123456)  # noqa: DTZ001  # as the clock of an orchestrator
    moment = datetime(2026, 1, 1, 11, tzinfo=UTC)
    standing = SignupStanding(generation=2, mails=3, sent_at=moment, wrong_codes=5, verified_at=moment, source="api")
    state = SignupState(
        record=RecordState(run=RUN, progress=Progress(phase="waiting_for_verification", signup=standing)),
        standing=standing,
        deadline=at,
        ends_at=at,
        verdicts={"d1": Verdict(id="a" * 12, said="b" * 8, code="taken")},
        refusals={"x": 2},
    )
    form = SignupForm(username="alice", email="用户@例子.广告", firstname="Al")
    given = SignupInput(form=form, address_key=KEY, session=GENESIS, carried=state, execution_timeout=60)
    assert SignupInput.model_validate(given.plain()) == given
    assert given.plain()["carried"]["deadline"] == "2026-01-01T12:00:00.123456"


@pytest.mark.parametrize("contract", [SignupStanding, QuietHours, SignupRules, SignupState, VerifyEvent])
def test_no_field_outside_of_the_form_is_for_an_address_or_a_name(contract: type[Contract]) -> None:
    assert not {"email", "firstname", "lastname", "address", "name"} & set(contract.model_fields)
