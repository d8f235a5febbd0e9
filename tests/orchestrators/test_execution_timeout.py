"""Runs that take longer than they may, on a real engine."""

import json
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from activities import approval as approval_activities
from activities import purchase_order as purchase_order_activities
from activities import records as record_activities
from contracts.records import RecordBatch
from orchestrators.approval import BEGIN_ANEW_AFTER
from services import callback
from services.mail import Mailer, get_mailer
from services.order_desk import get_order_desk
from services.record_store import RecordStore, RecordStoreError
from tests.orchestrators.engine import Engine
from tests.orchestrators.goldens import CONFIRMATIONS
from tests.orchestrators.reading import actions, answered, entries, open_waits, verdict

ANN, BEN, ALICE = "ann@example.com", "ben@example.com", "alice@example.com"
TOOK_TOO_LONG = "The run took longer than its execution timeout allows."
PHASE = "execution_timed_out"
HOUR = 3600.0


def approval(timeout: float | None = HOUR, **more: Any) -> dict[str, Any]:
    """A durable input of a request that would wait for a day."""
    return {
        "requester": "Alice",
        "requester_email": ALICE,
        "item": "A desk",
        "timeout_hours": 24.0,
        "approvers": [ANN],
        "execution_timeout": timeout,
        **more,
    }


def order(timeout: float | None = HOUR, seconds: float = 24 * HOUR, cost: float = 500) -> dict[str, Any]:
    """A durable input of an order that would wait for a day."""
    item = {"order_id": "order123", "cost": cost, "product": "Widget", "quantity": 2}
    return {"order": item, "timeout_seconds": seconds, "execution_timeout": timeout}


def vote(who: str, said: str = "approve", **more: Any) -> dict[str, Any]:
    """The payload of a vote."""
    return {"approver": who, "vote": said, **more}


def mails(data_folder: Path) -> list[EmailMessage]:
    """All mails, in the order of their numbers."""
    found: list[EmailMessage] = [
        message_from_bytes(file.read_bytes(), policy=policy.default) for file in (data_folder / "outbox").glob("*.eml")
    ]
    return sorted(found, key=lambda mail: int(mail["Message-ID"].split("@")[0].rsplit(".", 1)[1]))


def orders(data_folder: Path, kind: str) -> list[str]:
    """The ids of the instances whose orders were placed, or cancelled."""
    return sorted(file.stem.rpartition(".")[0] for file in (data_folder / "orders" / kind).glob("*.json"))


def too_long(engine: Engine, instance: str) -> dict[str, Any]:
    """The custom status of a run that took too long, and left nothing behind."""
    state = engine.end(instance)
    assert state.runtime_status.name == "FAILED"
    assert state.failure_details is not None
    assert state.failure_details.message == TOOK_TOO_LONG
    assert open_waits(instance) == []
    assert actions(instance).count("timed_out") >= 1
    assert actions(instance)[-1] == "ended"
    assert verdict(engine, instance) == "intact"
    status: dict[str, Any] = json.loads(state.serialized_custom_status or "{}")
    assert (status["phase"], status["waiting_for"], status["decision"]) == (PHASE, None, None)
    return status


# The approval


def test_a_request_that_takes_too_long_fails_and_everybody_is_told(engine: Engine, data_folder: Path) -> None:
    instance = engine.start("approval", approval())
    began = engine.phase(instance, "waiting_for_approval")["deadline"]
    engine.advance(seconds=HOUR - 1)
    engine.phase(instance, "waiting_for_approval")
    engine.advance(seconds=1)
    status = too_long(engine, instance)
    assert status["deadline"] < began
    told = mails(data_folder)
    assert [mail["To"] for mail in told] == [ANN, ANN, ALICE]
    assert [mail["Subject"] for mail in told[1:]] == ["Timeout: A desk"] * 2
    assert actions(instance) == ["started", "asked", "mailed", "timed_out", "mailed", "ended"]
    [noted] = [entry for entry in entries(instance) if entry.action == "timed_out"]
    assert (noted.detail, noted.channel, noted.after, noted.actor) == ("execution timeout", "timer", PHASE, None)


@pytest.mark.parametrize("on_timeout", ["fail", "approve", "none"])
def test_what_the_request_says_of_time_is_of_its_deadline_alone(engine: Engine, on_timeout: str) -> None:
    more: dict[str, Any] = {"on_timeout": on_timeout} if on_timeout != "none" else {}
    instance = engine.start("approval", approval(**more))
    engine.advance(seconds=HOUR)
    too_long(engine, instance)


def test_the_deadline_comes_first_where_it_is_the_earlier_one(engine: Engine) -> None:
    instance = engine.start("approval", approval(timeout_hours=0.5))
    engine.advance(seconds=HOUR)
    assert engine.output(instance)["status"] == "Timeout"


def test_where_both_times_are_one_it_is_the_execution_that_timed_out(engine: Engine) -> None:
    instance = engine.start("approval", approval(timeout_hours=1.0, on_timeout="approve"))
    engine.advance(seconds=HOUR)
    too_long(engine, instance)


def test_a_vote_at_the_last_moment_counts_and_one_after_it_does_not(engine: Engine) -> None:
    in_time, late = (engine.start("approval", approval()) for _ in range(2))
    engine.advance(seconds=HOUR - 0.001)
    engine.event(in_time, "decision", vote(ANN))
    assert engine.output(in_time)["status"] == "Approved"
    engine.advance(seconds=0.001)
    too_long(engine, late)


def test_it_holds_through_escalation_and_reminders(engine: Engine, data_folder: Path) -> None:
    instance = engine.start(
        "approval",
        approval(
            HOUR,
            timeout_hours=0.5,
            on_timeout="escalate",
            escalation=[{"approvers": [BEN], "timeout_hours": 10.0}],
            reminders={"every": 0.2, "max": 100},
        ),
    )
    engine.advance(seconds=HOUR)
    too_long(engine, instance)
    assert [entry.people for entry in entries(instance) if entry.action == "escalated"] == [(BEN,)]
    assert actions(instance).count("reminded") == 4
    assert {str(mail["To"]) for mail in mails(data_folder)[-2:]} == {BEN, ALICE}


def test_it_holds_through_changes_and_rounds(engine: Engine) -> None:
    changing, asked_again = (engine.start("approval", approval()) for _ in range(2))
    for instance in (changing, asked_again):
        engine.state(instance)
        engine.event(instance, "decision", vote(ANN, "request_changes", comments="Which one?"))
        engine.phase(instance, "waiting_for_changes")
    engine.advance(seconds=HOUR / 2)
    engine.event(asked_again, "revise", {"by": "Alice", "item": "A smaller one"})
    engine.phase(asked_again, "waiting_for_approval")
    engine.event(asked_again, "extend", {"by": "Alice", "extend_by": 100.0})
    engine.advance(seconds=HOUR / 2)
    for instance in (changing, asked_again):
        too_long(engine, instance)
    assert {entry.round for entry in entries(asked_again) if entry.action == "timed_out"} == {2}


def test_it_counts_from_when_the_first_history_began(engine: Engine) -> None:
    instance = engine.start("approval", approval(requester_email=None))
    for number in range(BEGIN_ANEW_AFTER + 5):
        engine.advance(seconds=60)
        engine.event(instance, "extend", {"by": "Bob", "extend_by": 1.0, "decision_id": f"e{number}"})
        engine.state(instance)
    assert "carried" in json.loads(engine.state(instance).serialized_input or "{}")
    assert json.loads(engine.state(instance).serialized_input or "{}")["carried"] is not None
    engine.advance(seconds=HOUR - 60 * (BEGIN_ANEW_AFTER + 5) - 1)
    engine.phase(instance, "waiting_for_approval")
    engine.advance(seconds=1)
    too_long(engine, instance)


def test_once_it_is_decided_mails_and_callbacks_go_to_their_end(
    engine: Engine, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Away:
        def send(self, message: EmailMessage) -> None:
            raise OSError("the mail server is away")

    instance = engine.start("approval", approval(100, callback_url="https://example.com/hook"))
    engine.state(instance)

    def refusing(_url: str, _id: str, _body: bytes) -> int:
        raise OSError("nobody is there")

    with monkeypatch.context() as patch:
        patch.setattr(approval_activities, "get_mailer", Away)
        patch.setattr(callback, "post", refusing)
        engine.event(instance, "decision", vote(ANN))
        engine.advance(hours=2)
        assert engine.status(instance)["phase"] == "approved"
    with monkeypatch.context() as patch:
        patch.setattr(callback, "post", lambda *_: 200)
        engine.advance(hours=5)
    assert engine.output(instance)["status"] == "Approved"
    assert actions(instance)[-4:] == ["decided", "called_back", "mail_failed", "ended"]


def test_the_callback_hears_that_it_timed_out(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    posted: list[dict[str, Any]] = []

    def post(_url: str, _id: str, body: bytes) -> int:
        posted.append(json.loads(body))
        return 200

    monkeypatch.setattr(callback, "post", post)
    instance = engine.start("approval", approval(callback_url="https://example.com/hook"))
    engine.advance(seconds=HOUR)
    too_long(engine, instance)
    assert [each["type"] for each in posted] == ["approval.timeout"]


def test_a_mail_that_is_on_its_way_when_time_is_up_is_waited_for(
    engine: Engine, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    class Slow:
        def __init__(self) -> None:
            self.mailer: Mailer = get_mailer()

        def send(self, message: EmailMessage) -> None:
            tried.append(str(message["Subject"]))
            if len(tried) < 4:
                raise OSError("not yet")
            self.mailer.send(message)

    monkeypatch.setattr(approval_activities, "get_mailer", Slow)
    instance = engine.start("approval", approval(3))
    engine.advance(minutes=5)
    too_long(engine, instance)
    assert sorted(str(mail["To"]) for mail in mails(data_folder)) == [ALICE, ANN, ANN]
    assert actions(instance).count("mailed") == 2


def test_what_is_asked_after_the_end_gets_no_verdict(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    class Away:
        def send(self, message: EmailMessage) -> None:
            raise OSError("the mail server is away")

    instance = engine.start("approval", approval())
    engine.state(instance)
    monkeypatch.setattr(approval_activities, "get_mailer", Away)
    engine.advance(seconds=HOUR)
    assert engine.status(instance)["phase"] == PHASE
    assert engine.state(instance).runtime_status.name == "RUNNING"
    engine.event(instance, "decision", vote(ANN, decision_id="late"))
    assert answered(engine, instance, "late") is None
    engine.advance(minutes=5)
    too_long(engine, instance)
    assert "voted" not in actions(instance)


def test_records_that_cannot_be_reached_hold_it_up_and_it_ends_all_the_same(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_store: RecordStore, _batch: RecordBatch) -> list[int]:
        raise RecordStoreError("the store is away")

    instance = engine.start("approval", approval())
    engine.state(instance)
    with monkeypatch.context() as patch:
        patch.setattr(record_activities, "put_on_record", away)
        engine.advance(hours=1.5)
        assert engine.state(instance).runtime_status.name == "RUNNING"
    engine.advance(hours=1)
    too_long(engine, instance)


# The purchase order


def test_an_order_that_takes_too_long_is_cancelled_and_fails(engine: Engine, data_folder: Path) -> None:
    instance = engine.start("purchase_order", order())
    engine.advance(seconds=HOUR - 1)
    engine.phase(instance, "waiting_for_approval")
    engine.advance(seconds=1)
    too_long(engine, instance)
    assert (orders(data_folder, "cancelled"), orders(data_folder, "placed")) == ([instance], [])
    assert actions(instance) == ["started", "asked", "mailed", "timed_out", "cancelled", "ended"]


def test_an_order_whose_time_to_decide_is_up_first_is_cancelled_as_ever(engine: Engine, data_folder: Path) -> None:
    instance = engine.start("purchase_order", order(HOUR, HOUR - 1))
    engine.advance(seconds=HOUR)
    assert engine.output(instance)["status"] == "Cancelled due to timeout"
    assert orders(data_folder, "cancelled") == [instance]


def test_an_order_that_needs_nobody_does_not_wait_for_its_timeout(engine: Engine) -> None:
    instance = engine.start("purchase_order", order(0.001, cost=1))
    assert engine.output(instance)["status"] == "Auto-Approved"
    assert "timerCreated" not in engine.kinds(instance)


def test_a_decision_on_an_order_that_came_in_time_is_carried_out_however_long_that_takes(
    engine: Engine, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Away:
        def place(self, _reference: str, _order: Any) -> None:
            raise OSError("the desk is away")

    instance = engine.start("purchase_order", order(100))
    engine.advance(seconds=95)
    with monkeypatch.context() as patch:
        patch.setattr(purchase_order_activities, "get_order_desk", Away)
        engine.event(instance, "approval_event", {"approver_name": "Boss", "approved": True})
        engine.advance(seconds=20)
        assert engine.status(instance)["phase"] == "placing_order"
    engine.advance(minutes=2)
    assert engine.output(instance)["status"] == "Approved by Boss"
    assert (orders(data_folder, "placed"), orders(data_folder, "cancelled")) == ([instance], [])


def test_an_order_desk_that_is_away_when_time_is_up_hears_of_it_later(
    engine: Engine, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    class Flaky:
        def cancel(self, reference: str, given: Any) -> None:
            tried.append(reference)
            if len(tried) < 3:
                raise OSError("the desk is away")
            get_order_desk().cancel(reference, given)

    monkeypatch.setattr(purchase_order_activities, "get_order_desk", Flaky)
    instance = engine.start("purchase_order", order())
    engine.advance(seconds=HOUR)
    engine.event(instance, "approval_event", {"approver_name": "Boss", "approved": True})
    engine.advance(minutes=2)
    too_long(engine, instance)
    assert (len(tried), len(set(tried))) == (3, 1)
    assert (orders(data_folder, "placed"), orders(data_folder, "cancelled")) == ([], [instance])


# Without one


@pytest.mark.parametrize("workflow", ["approval", "purchase_order"])
def test_without_an_execution_timeout_a_run_does_what_it_did(engine: Engine, workflow: str) -> None:
    given = approval(None) if workflow == "approval" else order(None)
    left_out = {name: value for name, value in given.items() if name != "execution_timeout"}
    kinds = []
    for each in (given, left_out, given | {"execution_timeout": 30 * 24 * HOUR}):
        instance = engine.start(workflow, each)
        engine.advance(hours=25)
        assert engine.output(instance)["status"] in ("Timeout", "Cancelled due to timeout")
        kinds.append([kind for kind in engine.kinds(instance) if kind in CONFIRMATIONS])
    assert kinds[0] == kinds[1] == kinds[2]
