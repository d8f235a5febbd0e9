"""Pausing at each moment of a run: before it begins, while something is under way, in and around what it has called."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from durabletask.client import OrchestrationState

from contracts.records import Wait
from services.mail import FolderMailer
from services.order_desk import FolderOrderDesk
from services.record_store import get_record_store
from tests.orchestrators.engine import Engine
from tests.orchestrators.pausing import (
    APPROVED,
    GATE,
    Pauses,
    children,
    deadline,
    is_paused,
    order,
    start_approval,
    start_order,
    start_refund,
)
from tests.orchestrators.reading import actions, answered, entries, open_waits, verdict, waits_of
from tests.orchestrators.signing_up import begun, change, follow, given, mails, vouch
from tests.polling import until
from triggers.reconcile import _heal_wait

pytestmark = pytest.mark.usefixtures("tidy")

ONCE = {"fails": 1, "status": 500}
OPERATOR = {"by": "Olga", "reason": "as they asked"}


@contextmanager
def held(monkeypatch: pytest.MonkeyPatch, service: Any, effect: str) -> Iterator[threading.Event]:
    """Let an effect wait, once it has begun, until the event that is given is set; it is set at the end anyway."""
    began, go_on, do = threading.Event(), threading.Event(), getattr(service, effect)

    def wait_then_do(*given: Any) -> Any:
        began.set()
        assert go_on.wait(30)
        return do(*given)

    monkeypatch.setattr(service, effect, wait_then_do)
    go_on.began = began  # type: ignore[attr-defined]
    try:
        yield go_on
    finally:
        go_on.set()


def state_now(engine: Engine, instance: str) -> OrchestrationState:
    """The state while something is under way."""
    state = engine.client.get_orchestration_state(instance)
    assert state is not None
    return state


@pytest.mark.parametrize("natively", [True, False])
def test_an_effect_that_is_under_way_comes_to_its_end_and_nothing_follows_it(
    engine: Engine, data_folder: Path, monkeypatch: pytest.MonkeyPatch, *, natively: bool
) -> None:
    with held(monkeypatch, FolderOrderDesk, "place") as go_on:
        instance = engine.start("purchase_order", order(cost=1))
        pauses = Pauses(engine, instance)
        until(go_on.began.is_set)  # type: ignore[attr-defined]
        pauses.number = 1
        pauses.tell("pause", 1)
        until(lambda: '"paused":true' in (state_now(engine, instance).serialized_custom_status or "").replace(" ", ""))
        if natively:
            engine.client.suspend_orchestration(instance)
    engine.advance(days=1)
    assert len(list((data_folder / "orders" / "placed").glob("*.json"))) == 1
    assert engine.phase(instance, "placing_order")["pause"]["paused"]
    assert actions(instance) == ["started", "auto_approved", "paused"]
    assert verdict(engine, instance) == "intact"
    pauses.resume(natively=natively)
    assert engine.output(instance)["status"] == "Auto-Approved"
    assert actions(instance) == ["started", "auto_approved", "paused", "resumed", "placed", "ended"]
    assert verdict(engine, instance) == "intact"


def test_a_mail_that_is_under_way_goes_out_and_the_time_to_answer_it_stands_still(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held(monkeypatch, FolderMailer, "send") as go_on:
        instance = engine.start("purchase_order", order(approvers=["a@example.com"]))
        until(go_on.began.is_set)  # type: ignore[attr-defined]
        pauses, before = Pauses(engine, instance), engine.now
        pauses.tell("pause", 1)
        pauses.number = 1
    engine.state(instance)
    assert actions(instance) == ["started", "asked", "paused"]
    engine.advance(days=1)
    pauses.resume(natively=False)
    engine.phase(instance, "waiting_for_approval")
    assert actions(instance) == ["started", "asked", "paused", "resumed", "mailed"]
    assert deadline(engine, instance) == before + timedelta(days=1, hours=1)
    engine.event(instance, "approval_event", APPROVED)
    assert engine.output(instance)["status"] == "Approved by Manager"


def test_a_mail_that_nobody_stands_still_for_is_noted_when_the_run_goes_on(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held(monkeypatch, FolderMailer, "send") as go_on:
        instance = engine.start(
            "approval",
            {"requester": "Al", "item": "Leave", "timeout_hours": 1.0, "approvers": [{"email": "a@example.com"}]},
        )
        until(go_on.began.is_set)  # type: ignore[attr-defined]
        pauses = Pauses(engine, instance)
        pauses.tell("pause", 1)
        pauses.number = 1
    engine.state(instance)
    assert actions(instance) == ["started", "asked", "paused"]
    pauses.resume(natively=False)
    assert actions(instance) == ["started", "asked", "paused", "resumed", "mailed"]


@pytest.mark.parametrize("clock", ["freeze", "run"])
@pytest.mark.parametrize("natively", [True, False])
def test_a_run_that_is_paused_before_it_begins_has_all_of_its_time(
    engine: Engine, clock: str, *, natively: bool
) -> None:
    start = engine.now + timedelta(hours=1)
    instance = engine.client.schedule_new_orchestration("purchase_order", input=order(), start_at=start)
    pauses = Pauses(engine, instance)
    pauses.pause(clock, natively=natively)
    engine.advance(hours=1, minutes=30)
    held_since = start
    if natively:
        assert engine.state(instance).runtime_status.name == "SUSPENDED"
        assert engine.state(instance).serialized_custom_status is None
        held_since = engine.now
    pauses.resume(clock=clock, natively=natively)
    engine.phase(instance, "waiting_for_approval")
    assert actions(instance) == ["started", "asked", "paused", "resumed", "mailed"]
    moved = engine.now - held_since if clock == "freeze" else timedelta()
    assert engine.status(instance)["pause"]["frozen_seconds"] == moved.total_seconds()
    assert deadline(engine, instance) == held_since + moved + timedelta(hours=1)
    engine.event(instance, "approval_event", APPROVED)
    assert engine.output(instance)["status"] == "Approved by Manager"


def test_a_pause_in_the_moment_of_the_start_is_on_record_with_a_reason_that_cannot_be_guessed(engine: Engine) -> None:
    instance = engine.client.schedule_new_orchestration(
        "purchase_order", input=order(), start_at=engine.now + timedelta(hours=1)
    )
    pauses = Pauses(engine, instance)
    pauses.tell("pause", 1)
    pauses.tell("resume", 1)
    pauses.tell("pause", 2)
    pauses.number = 2
    engine.advance(hours=1)
    assert is_paused(engine, instance)
    assert actions(instance) == ["started", "asked", "paused", "resumed", "paused"]
    for entry in entries(instance)[2::2]:
        assert entry.comment == "Awaiting review"
        assert entry.salt is not None
    assert verdict(engine, instance) == "intact"
    pauses.resume()
    engine.phase(instance, "waiting_for_approval")


def test_events_that_came_with_the_start_are_taken_after_the_pause(engine: Engine) -> None:
    for natively in (True, False):
        instance = engine.client.schedule_new_orchestration(
            "purchase_order", input=order(), start_at=engine.now + timedelta(hours=1)
        )
        pauses = Pauses(engine, instance)
        engine.event(instance, "approval_event", APPROVED)
        pauses.pause(natively=natively)
        engine.advance(hours=1)
        assert "decided" not in actions(instance)
        pauses.resume(natively=natively)
        assert engine.output(instance)["status"] == "Approved by Manager"


def test_suspended_by_hand_first_and_paused_then_it_is_held_until_both_are_over(engine: Engine) -> None:
    instance, pauses = start_order(engine)
    engine.client.suspend_orchestration(instance)
    pauses.tell("pause", 1)
    engine.event(instance, "approval_event", APPROVED)
    engine.state(instance)
    engine.client.resume_orchestration(instance)
    assert engine.phase(instance, "waiting_for_approval")["decision"] is None
    assert is_paused(engine, instance)
    pauses.tell("resume", 1)
    assert engine.output(instance)["status"] == "Approved by Manager"


def test_an_engine_that_is_resumed_by_hand_does_not_end_the_pause(engine: Engine) -> None:
    instance, pauses = start_order(engine)
    before = deadline(engine, instance)
    pauses.pause()
    engine.advance(hours=2)
    engine.client.resume_orchestration(instance)
    assert engine.phase(instance, "waiting_for_approval")["pause"]["paused"]
    engine.event(instance, "approval_event", APPROVED)
    engine.advance(hours=2)
    assert engine.phase(instance, "waiting_for_approval")["decision"] is None
    pauses.tell("resume", 1)
    assert engine.output(instance)["status"] == "Approved by Manager"
    assert engine.status(instance)["pause"]["frozen_seconds"] == 4 * 3600
    assert waits_of(instance)[-1][0].deadline == before + timedelta(hours=4)


def test_a_paused_run_waits_as_the_records_say_until_it_is_terminated(engine: Engine) -> None:
    class Client:
        async def get_orchestration_state(self, name: str) -> OrchestrationState:
            return engine.state(name)

    def healed(wait: Wait) -> str:
        return asyncio.run(_heal_wait(Client(), get_record_store(), wait))  # type: ignore[arg-type]

    for natively in (True, False):
        instance, pauses = start_order(engine)
        pauses.pause(natively=natively)
        engine.advance(hours=3)
        (wait,) = open_waits(instance)
        assert healed(wait) == "unchanged"
        engine.client.terminate_orchestration(instance, output="cancelled")
        assert engine.end(instance).runtime_status.name == "TERMINATED"
        assert verdict(engine, instance) == "intact"
        assert healed(wait) == "closed"
        assert open_waits(instance) == []
        assert actions(instance)[-2:] == ["paused", "ended"]
        assert verdict(engine, instance) == "intact"


# What a run has called


def test_a_call_that_is_paused_alone_stands_still_and_its_caller_waits_for_it(engine: Engine) -> None:
    parent, _ = start_refund(engine, "create_refund", simulated=ONCE, execution_timeout=3600.0 * 24 * 5)
    (child,) = children(engine, parent)
    before = deadline(engine, child)
    pauses = Pauses(engine, child)
    pauses.pause()
    engine.advance(days=3)
    engine.event(child, "retry", OPERATOR)
    assert engine.phase(child, GATE)["gate"]["attempts"] == 1
    assert engine.status(parent)["pause"] is None
    assert actions(child)[-2:] == ["mailed", "paused"]  # nobody was reminded
    pauses.resume()
    assert actions(child)[-3:] == ["retried", "called", "ended"]
    assert waits_of(child)[-1][0].deadline == before + timedelta(days=3)
    assert engine.phase(parent, "waiting_for_ready")["pause"] is None


@pytest.mark.parametrize("natively", [True, False])
def test_what_a_run_has_called_stands_still_with_it(engine: Engine, *, natively: bool) -> None:
    parent, pauses = start_refund(engine, "create_refund", simulated=ONCE)
    (child,) = children(engine, parent)
    before = deadline(engine, child)
    pauses.pause(natively=natively)
    assert is_paused(engine, child)
    assert engine.status(child)["pause"]["number"] == 0  # of its own it has had none
    engine.event(child, "retry", OPERATOR)
    engine.advance(days=10)
    assert engine.phase(child, GATE)["gate"]["attempts"] == 1
    assert actions(child)[-2:] == ["mailed", "paused"]
    pauses.resume({"secret": 1}, natively=natively)
    assert engine.phase(parent, "waiting_for_ready")["resume_data"] == {"secret": 1}
    assert deadline(engine, parent) == engine.now + timedelta(days=1)
    assert engine.status(child)["resume_data"] is None
    assert actions(child)[-4:] == ["resumed", "retried", "called", "ended"]
    assert waits_of(child)[-1][0].deadline == before + timedelta(days=10)
    assert [verdict(engine, each) for each in (parent, child)] == ["intact", "intact"]


@pytest.mark.parametrize("first", ["parent", "child"])
def test_a_run_and_what_it_has_called_are_paused_for_themselves(engine: Engine, first: str) -> None:
    parent, pauses = start_refund(engine, "create_refund", simulated=ONCE)
    (child,) = children(engine, parent)
    before, own = deadline(engine, child), Pauses(engine, child)
    pauses.pause()
    engine.advance(hours=1)
    own.pause()
    engine.event(child, "retry", OPERATOR)
    engine.advance(hours=1)
    one, other = (pauses, own) if first == "parent" else (own, pauses)
    one.resume()
    assert is_paused(engine, child)
    assert is_paused(engine, parent) == (first == "child")
    engine.advance(hours=1)
    other.resume()
    engine.phase(parent, "waiting_for_ready")
    assert not is_paused(engine, child)
    assert waits_of(child)[-1][0].deadline == before + timedelta(hours=3)
    frozen = 3 if first == "child" else 2
    assert engine.status(parent)["pause"]["frozen_seconds"] == frozen * 3600
    assert [verdict(engine, each) for each in (parent, child)] == ["intact", "intact"]


@pytest.mark.parametrize("paused", ["first", "last"])
def test_a_call_that_ends_in_the_moment_of_the_pause_is_not_lost(engine: Engine, paused: str) -> None:
    parent, pauses = start_refund(engine, "create_refund", simulated=ONCE)
    (child,) = children(engine, parent)
    engine.client.suspend_orchestration(parent)
    if paused == "first":
        pauses.tell("pause", 1)
    engine.event(child, "retry", OPERATOR)
    engine.end(child)
    if paused == "last":
        pauses.tell("pause", 1)
    engine.client.resume_orchestration(parent)
    assert is_paused(engine, parent)
    assert engine.status(parent)["phase"] == "creating"
    assert len(children(engine, parent)) == 1
    pauses.tell("resume", 1)
    engine.phase(parent, "waiting_for_ready")
    assert len(children(engine, parent)) == 2


# Histories that begin anew


def refuse(engine: Engine, instance: str, number: int) -> None:
    """Let somebody vote who is not asked, which the run refuses, with one more thing that came."""
    vote = {"is_approved": True, "approver": f"stranger{number}@example.com", "decision_id": f"s{number}"}
    engine.event(instance, "decision", vote)


@pytest.mark.parametrize("before", [29, 30, 31])
def test_a_pause_around_the_moment_in_which_a_history_begins_anew(engine: Engine, before: int) -> None:
    instance, pauses = start_approval(engine, approvers=[{"email": "a@example.com"}])
    engine.client.suspend_orchestration(instance)
    for number in range(before):
        refuse(engine, instance, number)
    pauses.tell("pause", 1)
    for number in range(before, 33):
        refuse(engine, instance, number)
    engine.event(instance, "decision", {"is_approved": True, "approver": "a@example.com", "decision_id": "right"})
    engine.client.resume_orchestration(instance)
    assert is_paused(engine, instance)
    assert actions(instance).count("refused") <= before
    assert answered(engine, instance, "right") is None
    pauses.tell("resume", 1)
    assert engine.output(instance)["status"] == "Approved"
    told = [(entry.action, entry.actor) for entry in entries(instance) if entry.action in ("refused", "voted")]
    strangers = [("refused", f"stranger{number}@example.com") for number in range(33)]
    assert told == [*strangers, ("voted", "a@example.com")]
    assert actions(instance).count("paused") == actions(instance).count("resumed") == 1
    assert verdict(engine, instance) == "intact"


def test_a_history_that_begins_anew_knows_of_the_pauses_of_before(engine: Engine) -> None:
    instance, pauses = start_approval(engine, approvers=[{"email": "a@example.com"}], execution_timeout=7200.0)
    before = deadline(engine, instance)
    pauses.pause()
    engine.advance(days=2)
    pauses.resume({"a": 1})
    frozen = engine.status(instance)["pause"]
    for number in range(32):
        refuse(engine, instance, number)
        engine.state(instance)
    assert engine.kinds(instance).count("eventRaised") < 32  # else nothing began anew
    status = engine.phase(instance, "waiting_for_approval")
    assert (status["pause"], status["resume_data"]) == (frozen, {"a": 1})
    assert deadline(engine, instance) == before + timedelta(days=2)
    pauses.tell("pause", 1)
    assert not is_paused(engine, instance)
    pauses.pause()
    engine.advance(days=1)
    pauses.resume({"b": 2})
    assert deadline(engine, instance) == before + timedelta(days=3)
    assert engine.status(instance)["resume_data"] == {"a": 1, "b": 2}
    (wait,) = open_waits(instance)
    assert wait.deadline == before + timedelta(days=3)
    engine.advance(minutes=59)
    engine.phase(instance, "waiting_for_approval")
    engine.advance(minutes=2)
    assert engine.output(instance)["status"] == "Timeout"
    assert verdict(engine, instance) == "intact"


def test_a_change_of_address_keeps_the_pauses_and_its_mails_are_good(engine: Engine) -> None:
    instance = begun(engine, given(expires_hours=48))
    before, pauses = deadline(engine, instance), Pauses(engine, instance)
    pauses.pause()
    change(engine, instance, "other@example.com")
    engine.advance(days=5)
    assert "address_changed" not in actions(instance)
    pauses.resume({"a": 1})
    status = engine.phase(instance, "waiting_for_verification")
    assert (status["pause"]["frozen_seconds"], status["resume_data"]) == (5 * 86_400, {"a": 1})
    assert deadline(engine, instance) == before + timedelta(days=5)
    assert "address_changed" in actions(instance)
    pauses.tell("pause", 1)
    assert not is_paused(engine, instance)
    engine.advance(hours=47)
    engine.phase(instance, "waiting_for_verification")
    follow(engine, instance, mails(instance)[-1])
    engine.end(instance)
    assert actions(instance)[-3:] == ["account_created", "mailed", "ended"]
    assert verdict(engine, instance) == "intact"


def test_paused_while_an_account_is_made(engine: Engine) -> None:
    instance = begun(engine)
    pauses = Pauses(engine, instance)
    engine.client.suspend_orchestration(instance)
    vouch(engine, instance)
    pauses.tell("pause", 1)
    engine.client.resume_orchestration(instance)
    assert is_paused(engine, instance)
    pauses.tell("resume", 1)
    engine.end(instance)
    assert actions(instance)[-3:] == ["account_created", "mailed", "ended"]
