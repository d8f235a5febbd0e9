"""Every path of the purchase order, on a real engine."""

import json
from pathlib import Path
from typing import Any

import grpc
import pytest
from durabletask.client import OrchestrationStatus

from activities import approval as approval_activities
from activities import purchase_order as purchase_order_activities
from services.order_desk import get_order_desk
from tests.orchestrators.engine import Engine

EVENT = "approval_event"


def order(cost: float = 500, quantity: int = 2, timeout_seconds: float = 60) -> dict[str, Any]:
    """A durable input; a total of 1,000 unless told otherwise."""
    item = {"order_id": "order123", "cost": cost, "product": "Widget", "quantity": quantity}
    return {"order": item, "timeout_seconds": timeout_seconds}


def placed(data_folder: Path) -> list[str]:
    """The ids of the instances whose orders were placed."""
    return sorted(file.stem.rpartition(".")[0] for file in (data_folder / "orders" / "placed").glob("*.json"))


def cancelled(data_folder: Path) -> list[str]:
    """The ids of the instances whose orders were cancelled."""
    return sorted(file.stem.rpartition(".")[0] for file in (data_folder / "orders" / "cancelled").glob("*.json"))


@pytest.mark.parametrize(("cost", "quantity"), [(999.99, 1), (0, 1), (33.33, 30), (0.001, 999_999)])
def test_below_the_limit_it_is_approved_and_placed_without_asking(
    engine: Engine, data_folder: Path, cost: float, quantity: int
) -> None:
    instance = engine.start("purchase_order", order(cost, quantity))
    assert engine.output(instance)["status"] == "Auto-Approved"
    assert placed(data_folder) == [instance]
    assert not (data_folder / "outbox").exists()
    assert engine.status(instance)["phase"] == "auto_approved"
    assert "timerCreated" not in engine.kinds(instance)


@pytest.mark.parametrize(("cost", "quantity"), [(500, 2), (1000, 1), (0.1, 10_000), (100.1, 10), (1e9, 1_000_000)])
def test_from_the_limit_on_a_person_is_asked(engine: Engine, data_folder: Path, cost: float, quantity: int) -> None:
    instance = engine.start("purchase_order", order(cost, quantity))
    status = engine.phase(instance, "waiting_for_approval")
    assert status["waiting_for"] == EVENT
    assert status["deadline"].endswith("Z")
    assert status["decision"] is None
    mails = list((data_folder / "outbox").glob("*.eml"))
    assert len(mails) == 1
    assert f"/signal-approval/{instance}" in mails[0].read_text()
    assert placed(data_folder) == []


def test_an_approved_order_is_placed_and_says_by_whom(engine: Engine, data_folder: Path) -> None:
    instance = engine.start("purchase_order", order())
    engine.phase(instance, "waiting_for_approval")
    engine.event(instance, EVENT, {"approver_name": "ManagerX", "approved": True, "comments": "fine"})
    output = engine.output(instance)
    assert output["status"] == "Approved by ManagerX"
    assert output["order_id"] == "order123"
    assert output["comments"] == "fine"
    assert placed(data_folder) == [instance]
    assert cancelled(data_folder) == []
    decision = engine.status(instance)["decision"]
    assert (decision["by"], decision["approved"], decision["decision_id"]) == ("ManagerX", True, None)
    assert decision["at"] == output["decided_at"]


def test_a_rejected_order_is_cancelled(engine: Engine, data_folder: Path) -> None:
    instance = engine.start("purchase_order", order())
    engine.event(instance, EVENT, {"approver_name": "ManagerY", "approved": False})
    assert engine.output(instance)["status"] == "Rejected by ManagerY"
    assert cancelled(data_folder) == [instance]
    assert placed(data_folder) == []


def test_when_nobody_decides_in_time_it_is_cancelled(engine: Engine, data_folder: Path) -> None:
    instance = engine.start("purchase_order", order(timeout_seconds=86400))
    engine.advance(hours=23.9)
    engine.phase(instance, "waiting_for_approval")
    engine.advance(hours=0.1)
    output = engine.output(instance)
    assert output["status"] == "Cancelled due to timeout"
    assert output["order_id"] == "order123"
    assert instance in cancelled(data_folder)  # beside others that waited on the same clock
    status = engine.status(instance)
    assert (status["phase"], status["decision"]) == ("timed_out", None)


def test_a_decision_that_comes_before_the_run_waits_for_it_counts(engine: Engine, data_folder: Path) -> None:
    engine.client.schedule_new_orchestration("purchase_order", input=order(), instance_id="early")
    engine.event("early", EVENT, {"approver_name": "Early", "approved": True})
    assert engine.output("early")["status"] == "Approved by Early"
    assert placed(data_folder) == ["early"]


def test_of_two_decisions_the_first_counts(engine: Engine, data_folder: Path) -> None:
    instance = engine.start("purchase_order", order())
    engine.client.suspend_orchestration(instance)  # so that both are there before the first is taken
    engine.event(instance, EVENT, {"approver_name": "First", "approved": False})
    engine.event(instance, EVENT, {"approver_name": "Second", "approved": True})
    engine.client.resume_orchestration(instance)
    assert engine.output(instance)["status"] == "Rejected by First"
    assert placed(data_folder) == []


def test_a_decision_after_the_timeout_changes_nothing(engine: Engine, data_folder: Path) -> None:
    instance = engine.start("purchase_order", order(timeout_seconds=30))
    engine.advance(seconds=30)
    before = engine.output(instance)
    with pytest.raises(grpc.RpcError, match="has ended"):
        engine.event(instance, EVENT, {"approver_name": "Late", "approved": True})
    assert engine.output(instance) == before
    assert placed(data_folder) == []


MALFORMED: list[Any] = [
    None,
    True,
    42,
    "approved",
    [],
    {},
    {"approved": True},
    {"approver_name": "X"},
    {"approver_name": "X", "approved": "true"},
    {"approver_name": "X", "approved": 1},
    {"approver_name": "", "approved": True},
    {"approver_name": "two\nlines", "approved": True},
    {"approver_name": "X" * 101, "approved": True},
    {"approver_name": ["X"], "approved": True},
    {"approver_name": "X", "approved": True, "extra": 1},
    {"approver_name": "X", "approved": True, "comments": "x" * 4001},
    {"approver_name": "X", "approved": True, "decision_id": "with space"},
    {"approver_name": "\ud800", "approved": True},
    {"__class__": "Settings", "__module__": "settings", "__data__": "{}"},
]


@pytest.mark.parametrize("payload", MALFORMED, ids=lambda payload: repr(payload)[:40])
def test_a_malformed_decision_is_set_aside_with_a_warning(engine: Engine, data_folder: Path, payload: Any) -> None:
    instance = engine.start("purchase_order", order())
    engine.phase(instance, "waiting_for_approval")
    engine.raw_event(instance, EVENT, json.dumps(payload))
    engine.event(instance, EVENT, {"approver_name": "Good", "approved": True})
    assert engine.output(instance)["status"] == "Approved by Good"
    warnings = engine.status(instance)["warnings"]
    assert len(warnings) == 1
    assert EVENT in warnings[0]


@pytest.mark.parametrize("text", ["not json", "{", "[" * 100_000, "9" * 10_000, "\x00"], ids=lambda text: text[:8])
@pytest.mark.parametrize("when", ["early", "waiting"])
def test_a_payload_that_is_not_json_never_fails_the_run(engine: Engine, text: str, when: str) -> None:
    instance = engine.start("purchase_order", order())
    if when == "waiting":
        engine.phase(instance, "waiting_for_approval")
    engine.raw_event(instance, EVENT, text)
    engine.event(instance, EVENT, {"approver_name": "Good", "approved": True})
    assert engine.output(instance)["status"] == "Approved by Good"
    assert len(engine.status(instance)["warnings"]) == 1


def test_only_the_newest_warnings_are_kept(engine: Engine) -> None:
    instance = engine.start("purchase_order", order())
    for _ in range(50):
        engine.event(instance, EVENT, {"wrong": "x" * 1000})
    engine.event(instance, EVENT, {"approver_name": "Good", "approved": True})
    engine.output(instance)
    assert len(engine.status(instance)["warnings"]) == 5


def test_a_malformed_decision_does_not_prolong_the_wait(engine: Engine) -> None:
    instance = engine.start("purchase_order", order(timeout_seconds=30))
    engine.advance(seconds=20)
    engine.event(instance, EVENT, {"wrong": 1})
    engine.advance(seconds=10)
    assert engine.output(instance)["status"] == "Cancelled due to timeout"


def test_an_event_of_another_name_decides_nothing(engine: Engine) -> None:
    instance = engine.start("purchase_order", order(timeout_seconds=30))
    engine.event(instance, "approval", {"approver_name": "X", "approved": True})
    engine.advance(seconds=30)
    assert engine.output(instance)["status"] == "Cancelled due to timeout"


def test_a_decision_while_suspended_is_taken_after_the_resume(engine: Engine) -> None:
    instance = engine.start("purchase_order", order(timeout_seconds=60))
    engine.phase(instance, "waiting_for_approval")
    engine.client.suspend_orchestration(instance)
    engine.event(instance, EVENT, {"approver_name": "Patient", "approved": True})
    engine.advance(minutes=5)
    assert engine.status(instance)["decision"] is None
    engine.client.resume_orchestration(instance)
    assert engine.output(instance)["status"] == "Approved by Patient"


def test_a_terminated_run_ends_without_an_effect(engine: Engine, data_folder: Path) -> None:
    instance = engine.start("purchase_order", order())
    engine.phase(instance, "waiting_for_approval")
    engine.client.terminate_orchestration(instance, output="stop")
    assert engine.end(instance).runtime_status is OrchestrationStatus.TERMINATED
    assert placed(data_folder) == cancelled(data_folder) == []


@pytest.mark.parametrize(
    "given", [None, {}, {"order": {}}, order(cost=float("nan")), order(cost=-1), order(quantity=0)], ids=repr
)
def test_an_input_that_is_no_order_fails_the_run_and_asks_nobody(engine: Engine, data_folder: Path, given: Any) -> None:
    state = engine.end(engine.start("purchase_order", given))
    assert state.runtime_status is OrchestrationStatus.FAILED
    assert state.failure_details is not None
    assert "PurchaseOrderInput" in state.failure_details.message
    assert "order123" not in state.failure_details.message
    assert not any(data_folder.iterdir())


class Broken:
    """A service that fails as many times as it is told."""

    def __init__(self, failures: int, then: Any = None) -> None:
        self.calls = 0
        self._failures = failures
        self._then = then

    def __getattr__(self, name: str) -> Any:
        def method(*arguments: Any) -> None:
            self.calls += 1
            if self.calls <= self._failures:
                raise OSError("the disk is full")
            if self._then is not None:
                getattr(self._then, name)(*arguments)

        return method


def test_an_order_desk_that_fails_twice_is_tried_a_third_time(
    engine: Engine, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Broken(2, get_order_desk())
    monkeypatch.setattr(purchase_order_activities, "get_order_desk", lambda: desk)
    instance = engine.start("purchase_order", order(cost=1))
    engine.advance(minutes=2)
    assert engine.output(instance)["status"] == "Auto-Approved"
    assert desk.calls == 3
    assert placed(data_folder) == [instance]


def test_an_order_that_cannot_be_placed_fails_the_run_with_the_reason(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purchase_order_activities, "get_order_desk", lambda: Broken(99))
    instance = engine.start("purchase_order", order(cost=1))
    engine.advance(minutes=2)
    state = engine.end(instance)
    assert state.runtime_status is OrchestrationStatus.FAILED
    assert state.failure_details is not None
    assert "the disk is full" in state.failure_details.message


def test_a_mail_that_cannot_be_sent_leaves_the_order_open_with_a_warning(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approval_activities, "get_mailer", lambda: Broken(99))
    instance = engine.start("purchase_order", order(timeout_seconds=3600))
    engine.advance(minutes=2)
    status = engine.phase(instance, "waiting_for_approval")
    assert "could not be sent" in status["warnings"][0]
    engine.event(instance, EVENT, {"approver_name": "X", "approved": True})
    assert engine.output(instance)["status"] == "Approved by X"
