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

from contracts.base import Comment, InstanceId, Line, as_utc_text
from contracts.human_step import MAX_WARNINGS, Decision, Progress
from contracts.purchase_order import PurchaseOrder
from orchestrators.human_step import MALFORMED

AT = datetime(2026, 1, 31, 23, 59, 59, 123456, tzinfo=UTC)


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
