"""The contracts: what they take, what they refuse, and that they stay plain and small."""

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from azure.functions._durable_functions import df_dumps
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from contracts.approval import ApprovalRequest, StandIn, Vote, VoteEvent
from contracts.base import Comment, Hours, InstanceId, Line, as_utc_text
from contracts.human_step import MAX_WARNINGS, Decision, Progress, digest_of_person, digest_of_said
from contracts.people import Person
from contracts.purchase_order import PurchaseOrder
from contracts.shown import MAX_CONTENT, MAX_DEPTH
from orchestrators.human_step import MALFORMED

AT = datetime(2026, 1, 31, 23, 59, 59, 123456, tzinfo=UTC)
HOURS: TypeAdapter[float] = TypeAdapter(Hours)


@pytest.mark.parametrize("name", ["a", "A-b_c.d:e", "9" * 100])
def test_instance_ids(name: str) -> None:
    assert TypeAdapter(InstanceId).validate_python(name) == name


@pytest.mark.parametrize("name", ["", "a" * 101, "a b", "a/b", "ä", "a\n", "\na", "@a", "a#", "a?", "a\\b", "a%41"])
def test_what_is_no_instance_id(name: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(InstanceId).validate_python(name)


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "\x00", "a\x1bb", "\x7f", "a\u2028b", "", "   ", "x" * 201])
def test_what_is_no_line(text: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Line).validate_python(text)


def test_a_comment_may_have_lines_but_no_nul() -> None:
    assert TypeAdapter(Comment).validate_python(" a\nb ") == "a\nb"
    with pytest.raises(ValidationError):
        TypeAdapter(Comment).validate_python("a\x00")


def test_a_total_is_exact() -> None:
    order = {"order_id": "1", "product": "W"}
    assert PurchaseOrder(**order, cost=0.1, quantity=10_000).total == Decimal(1000)
    assert PurchaseOrder(**order, cost=33.33, quantity=30).total == Decimal("999.90")
    assert PurchaseOrder(**order, cost=1e-7, quantity=3).total == Decimal("3e-7")


@pytest.mark.parametrize(
    ("time", "text"),
    [
        (AT, "2026-01-31T23:59:59.123Z"),
        (AT.replace(tzinfo=None), "2026-01-31T23:59:59.123Z"),
        (AT.astimezone(timezone(timedelta(hours=5, minutes=30))), "2026-01-31T23:59:59.123Z"),
    ],
)
def test_times_are_told_in_utc(time: datetime, text: str) -> None:
    assert as_utc_text(time) == text


def test_a_contract_travels_as_plain_json_and_comes_back() -> None:
    decision = Decision(approved=True, by="Ä", comments=None, at=AT, decision_id="x")
    plain = decision.plain()
    assert json.loads(df_dumps(plain)) == plain
    assert Decision.model_validate(plain) == decision.model_copy(update={"at": AT.replace(microsecond=123000)})


def test_the_codec_refuses_a_contract_so_that_no_class_name_gets_into_a_history() -> None:
    with pytest.raises(TypeError):
        df_dumps(Decision(approved=True, by="X", at=AT))


def test_errors_do_not_repeat_the_input() -> None:
    with pytest.raises(ValidationError) as caught:
        Decision.model_validate({"approved": "secret", "by": "secret\n", "at": "secret", "secret": 1})
    assert "secret" not in str(caught.value).replace("\nsecret\n", "")


text = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1)


@given(
    by=text.map(lambda each: (each * 100)[:100]).filter(str.strip),
    comments=text.map(lambda each: (each * 4000)[:4000]),
    decision_id=st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=128, max_size=128),
)
def test_a_custom_status_stays_under_16_kb_whatever_the_script(by: str, comments: str, decision_id: str) -> None:
    longest = MALFORMED.format(
        event="e" * 30, reason="its field '" + "\U0001f389" * 30 + "' is wrong (" + "m" * 80 + ")"
    )
    decision = Decision(approved=True, by=by, comments=comments, at=AT, decision_id=decision_id)
    progress = Progress(
        phase="waiting_for_approval",
        waiting_for="approval_event",
        deadline=AT,
        decision=decision.shortened(),
        warnings=(longest,) * MAX_WARNINGS,
    )
    assert len(df_dumps(progress.plain()).encode("utf-16-le")) < 16 * 1024


def test_a_short_comment_is_not_cut() -> None:
    decision = Decision(approved=True, by="X", comments="x" * 200, at=AT)
    assert decision.shortened() is decision
    cut: Any = Decision(approved=True, by="X", comments="x" * 201, at=AT).shortened().comments
    assert (len(cut), cut[-1]) == (200, "…")


# Durations


@pytest.mark.parametrize(
    ("given", "hours"),
    [
        (1, 1.0),
        (0.25, 0.25),
        (8760, 8760.0),
        ("P1D", 24.0),
        ("P365D", 8760.0),
        ("P1W", 168.0),
        ("P1W2DT3H", 219.0),
        ("PT4H30M", 4.5),
        ("PT90M", 1.5),
        ("PT36S", 0.01),
        ("PT1.8S", 0.0005),
        ("PT8760H", 8760.0),
        ("PT31536000S", 8760.0),
    ],
)
def test_a_duration_is_hours_or_iso_8601(given: Any, hours: float) -> None:
    found = HOURS.validate_python(given)
    assert found == pytest.approx(hours)
    assert isinstance(found, float)


@pytest.mark.parametrize(
    "given",
    [
        None, True, False, [], {}, b"P1D", 0, -1, 0.0, 8760.01, float("nan"), float("inf"), -float("inf"), 10**400,
        "", " ", "1", "24", "24h", "P", "PT", "P1", "P1DT", "PT1", "P1Y", "P1M", "P1Y2D", "p1d", "P1d", "-P1D", "P-1D",
        "+P1D", " P1D", "P1D ", "P1D\n", "P1DP1D", "PT1H1H", "PT1M1H", "P1H", "PT1D", "P1.5D", "PT1.5H", "PT1,5S",
        "P0D", "PT0S", "P366D", "PT8760H1S", "P9999999999D", "P\u0661D", "PT1.S", "P1D/P2D", "2026-01-01",
    ],
    ids=lambda each: repr(each)[:20],
)  # fmt: skip
def test_what_is_no_duration(given: Any) -> None:
    with pytest.raises(ValidationError):
        HOURS.validate_python(given)


# Requests


SHORT: dict[str, Any] = {"requester": "Alice", "item": "Vacation", "timeout_hours": 1}


def approval_request(**said: Any) -> ApprovalRequest:
    """A request."""
    return ApprovalRequest.model_validate(SHORT | said)


def why_not(**said: Any) -> str:
    """Why a request is refused; it has to be."""
    with pytest.raises(ValidationError) as caught:
        approval_request(**said)
    return "; ".join(str(error["msg"]) for error in caught.value.errors())


def test_the_short_form_lets_anybody_decide_and_times_out_closed() -> None:
    request = approval_request()
    assert (request.stages, request.on_timeout, request.allow_self_approval) == ((), "reject", False)


def test_a_person_is_an_address_or_an_address_with_a_name() -> None:
    request = approval_request(approvers=["ann@x.y", {"email": " ben@x.y ", "name": " Ben "}])
    assert [person.shown for person in request.approvers] == ["ann@x.y", "Ben <ben@x.y>"]
    assert Person.model_validate("ann@x.y") == Person(email="ann@x.y")
    refused: list[Any] = [
        "ann",
        "@",
        "a@b@c",
        "a b@c",
        "a@b\n@c",
        "",
        None,
        1,
        [],
        {"name": "x"},
        {"email": "a@b", "x": 1},
    ]
    for wrong in refused:
        with pytest.raises(ValidationError):
            Person.model_validate(wrong)


@pytest.mark.parametrize(
    ("since", "until", "begins", "ends"),
    [
        (None, None, None, None),
        ("2026-12-24", "2026-12-24", "2026-12-24T00:00:00.000Z", "2026-12-24T23:59:59.999Z"),
        ("2026-12-24T08:00:00+02:00", None, "2026-12-24T06:00:00.000Z", None),
        ("2026-12-24T08:00:00", "2026-12-25T08:00:00", "2026-12-24T08:00:00.000Z", "2026-12-25T08:00:00.000Z"),
    ],
)
def test_standing_delegations_have_days_or_times_and_travel(
    since: str | None, until: str | None, begins: str | None, ends: str | None
) -> None:
    found = StandIn.model_validate({"to": "ann@x.y", "from": since, "until": until})
    assert [each and as_utc_text(each) for each in (found.since, found.until)] == [begins, ends]
    assert StandIn.model_validate(found.plain()) == found


@pytest.mark.parametrize(
    "given",
    [
        {"from": "2026-12-24", "until": "2026-12-23"},
        {"from": "2026-12-24T08:00:00Z", "until": "2026-12-24T08:00:00+01:00"},
        {"from": "tomorrow"},
        {"until": "2026-02-30"},
        {"until": "xxxxxxxxxx"},
        {"from": []},
    ],
)
def test_what_is_no_standing_delegation(given: Any) -> None:
    with pytest.raises(ValidationError):
        StandIn.model_validate({"to": "ann@x.y", **given})


A, B, C = "a@x.y", "b@x.y", "c@x.y"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"policy": "all"}, "needs approvers"),
        ({"policy": {"quorum": 1}}, "needs approvers"),
        ({"reject_after": 1}, "needs approvers"),
        ({"approvers": [A, B], "policy": {"quorum": 3}}, "more than the approvers"),
        ({"approvers": [A], "policy": {"quorum": 0}}, "greater than or equal"),
        ({"approvers": [A, A.upper()]}, "named twice"),
        ({"approvers": [A], "policy": [{"approvers": [B]}]}, "named in the groups"),
        ({"policy": [{"approvers": [B]}], "reject_after": 1}, "named in the groups"),
        ({"policy": []}, ""),
        ({"policy": [{"approvers": []}]}, ""),
        ({"policy": [{"approvers": [A]}] * 11}, ""),
        ({"approvers": [f"{n}@x.y" for n in range(51)]}, ""),
        ({"policy": [{"approvers": [f"{n}@x.y" for n in range(26)]}] * 2}, "more than 50"),
        ({"on_timeout": "escalate"}, "need each other"),
        ({"escalation": [{"approvers": [A], "timeout_hours": 1}]}, "need each other"),
        ({"on_timeout": "escalate", "escalation": [{"approvers": [A], "timeout_hours": 8760}]}, "365 days"),
        ({"on_timeout": "escalate", "escalation": [{"approvers": [], "timeout_hours": 1}]}, ""),
        ({"on_timeout": "escalate", "escalation": [{"approvers": [A]}]}, ""),
        ({"requester": A.upper(), "approvers": [A]}, "too few approvers"),
        ({"requester_email": A, "approvers": [A, B], "policy": {"quorum": 2}}, "too few approvers"),
        (
            {
                "requester_email": A,
                "on_timeout": "escalate",
                "escalation": [{"approvers": [A], "timeout_hours": 1}],
            },
            "too few approvers",
        ),
        ({"approvers": [{"email": A, "name": " aLICE "}]}, "requester_email"),
        ({"on_timeout": "ignore"}, ""),
        ({"require_comment_on": ["abstain"]}, ""),
        ({"reminders": []}, ""),
        ({"reminders": [0]}, ""),
        ({"reminders": 0}, ""),
        ({"reminders": {"every": 1, "max": 367}}, ""),
        ({"reminders": {"every": 1, "max": 0}}, ""),
        ({"reminders": list(range(1, 368))}, ""),
        ({"reminders": {"max": 1}}, ""),
        ({"callback_url": "ftp://x.y"}, ""),
        ({"callback_url": "javascript:alert(1)"}, ""),
        ({"callback_url": "https://x.y/\n"}, ""),
        ({"second_factor": "sms"}, ""),
        ({"allow_self_approval": "no"}, ""),
        ({"timeout_hours": "P366D"}, ""),
        ({"details": [1]}, ""),
        ({"unknown": 1}, ""),
    ],
)
def test_requests_that_make_no_sense_are_refused(said: dict[str, Any], reason: str) -> None:
    assert reason in why_not(**said)


@pytest.mark.parametrize(
    "said",
    [
        {"requester_email": A, "approvers": [A, B]},
        {"requester_email": A, "approvers": [A], "allow_self_approval": True},
        {"requester": A, "approvers": [{"email": B, "name": A}]},
        {"requester_email": A, "approvers": [{"email": B, "name": "Alice"}]},
        {"policy": [{"approvers": [A], "policy": "all"}, {"approvers": [A], "reject_after": 2}]},
        {"reminders": 24},
        {"reminders": "P1D"},
        {"reminders": [1, "P1D", 0.5]},
        {"reminders": {"every": "P1D", "max": 366}},
        {"on_timeout": "escalate", "timeout_hours": 8000, "escalation": [{"approvers": [A], "timeout_hours": 760}]},
        {"approvers": [f"{n}@x.y" for n in range(50)], "policy": {"quorum": 50}},
    ],
)
def test_requests_that_make_sense_travel_as_plain_json(said: dict[str, Any]) -> None:
    request = approval_request(**said)
    plain = json.loads(df_dumps(request.plain()))
    assert ApprovalRequest.model_validate(plain) == request


@pytest.mark.parametrize(
    ("requester", "email", "address"),
    [("Alice", None, None), (A, None, A), ("Alice", A, A), (B, A, A), ("@alice", None, None), ("alice@", None, None)],
)
def test_the_requester_may_be_an_address(requester: str, email: str | None, address: str | None) -> None:
    assert approval_request(requester=requester, requester_email=email).requester_address == address


def test_what_is_shown_fits_a_row_of_the_store() -> None:
    assert MAX_CONTENT == 28_000
    approval_request(details={"text": "x" * 27_000})
    for details in ({"text": "x" * 28_000}, {"text": "🎉" * 14_000}, {"text": '"' * 14_000}):
        assert "28,000" in why_not(details=details)
    assert "28,000" in why_not(details={"text": "x" * 20_500}, form={"type": "object", "title": "x" * 7_900})
    assert "4000" in why_not(description="x" * 4001)


def test_details_are_nested_so_deep_only() -> None:
    deep: Any = "x"
    for _ in range(MAX_DEPTH):
        deep = {"a": [deep]} if not isinstance(deep, dict) else {"a": deep}
    approval_request(details={"a": {"b": {"c": {"d": {"e": {}}}}}})
    assert "nested" in why_not(details={"a": {"b": {"c": {"d": {"e": {"f": {"g": {}}}}}}}})
    many: Any = []
    for _ in range(200):
        many = [many]
    assert "nested" in why_not(details={"a": many})


@pytest.mark.parametrize(
    ("said", "choice"),
    [
        ({"is_approved": True}, "approve"),
        ({"is_approved": False}, "reject"),
        ({"vote": "abstain"}, "abstain"),
        ({"vote": "request_changes"}, "request_changes"),
        ({"vote": "approve", "answers": {}}, "approve"),
        ({}, None),
        ({"is_approved": True, "vote": "approve"}, None),
        ({"is_approved": "yes"}, None),
        ({"is_approved": 1}, None),
        ({"vote": "Approve"}, None),
        ({"vote": "reject", "answers": {}}, None),
    ],
)
def test_a_vote_says_one_thing(said: dict[str, Any], choice: str | None) -> None:
    if choice is not None:
        assert Vote.model_validate({"approver": "x", **said}).choice == choice
        return
    with pytest.raises(ValidationError):
        Vote.model_validate({"approver": "x", **said})


def test_what_is_said_is_told_apart_but_not_by_the_door_it_came_by() -> None:
    first = VoteEvent(approver="x", vote="approve", decision_id="1", channel="api")
    same = VoteEvent(approver="x", vote="approve", decision_id="2", channel="link")
    other = VoteEvent(approver="x", vote="reject", decision_id="1", channel="api")
    assert digest_of_said(first) == digest_of_said(same) != digest_of_said(other)
    assert digest_of_person(" ANN@x.y ") == digest_of_person("ann@X.Y") != digest_of_person("ben@x.y")
