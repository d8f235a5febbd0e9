"""Pausing any workflow at any point: what holds, what is kept, and what becomes of its times, on a real engine."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.orchestrators.engine import Engine
from tests.orchestrators.pausing import APPROVED, deadline, start_order
from tests.orchestrators.reading import actions, entries, open_waits, waits_of


@pytest.mark.parametrize("natively", [True, False])
def test_a_paused_run_takes_nothing_until_it_is_resumed(engine: Engine, *, natively: bool) -> None:
    instance, pauses = start_order(engine)
    pauses.pause(natively=natively)
    engine.event(instance, "approval_event", APPROVED)
    status = engine.phase(instance, "waiting_for_approval")
    assert status["pause"] == status["pause"] | {
        "number": 1,
        "paused": True,
        "by": "alice",
        "reason": "Awaiting review",
    }
    assert status["decision"] is None
    pauses.resume(natively=natively)
    assert engine.output(instance)["status"] == "Approved by Manager"
    assert engine.status(instance)["pause"]["paused"] is False


@pytest.mark.parametrize("natively", [True, False])
def test_the_trail_has_the_pause_while_it_lasts_and_the_resumption(engine: Engine, *, natively: bool) -> None:
    instance, pauses = start_order(engine)
    pauses.pause(natively=natively)
    last = entries(instance)[-1]
    assert (last.action, last.actor, last.comment) == ("paused", "alice", "Awaiting review")
    pauses.resume({"reviewed_by": "bob"}, natively=natively)
    assert actions(instance)[-2:] == ["paused", "resumed"]
    status = engine.status(instance)
    assert status["trail"]["stored"] == status["trail"]["entries"]
    assert status["resume_data"] == {"reviewed_by": "bob"}


def test_frozen_times_move_by_the_length_of_the_pause(engine: Engine) -> None:
    instance, pauses = start_order(engine)
    before = deadline(engine, instance)
    engine.advance(minutes=30)
    pauses.pause()
    engine.advance(days=2)
    assert engine.phase(instance, "waiting_for_approval")["deadline"] is not None
    pauses.resume()
    assert deadline(engine, instance) == before + timedelta(days=2)
    engine.advance(minutes=29)
    engine.phase(instance, "waiting_for_approval")
    engine.advance(minutes=2)
    assert engine.output(instance)["status"] == "Cancelled due to timeout"


def test_times_that_run_on_are_up_when_it_is_resumed(engine: Engine) -> None:
    instance, pauses = start_order(engine)
    pauses.pause("run")
    engine.advance(hours=2)
    engine.event(instance, "approval_event", APPROVED)
    engine.phase(instance, "waiting_for_approval")
    pauses.resume(clock="run")
    assert engine.output(instance)["status"] == "Cancelled due to timeout"


@pytest.mark.parametrize("clock", ["freeze", "run"])
def test_what_came_before_the_time_was_up_is_taken_first(engine: Engine, clock: str) -> None:
    instance, pauses = start_order(engine)
    pauses.pause(clock)
    engine.event(instance, "approval_event", APPROVED)
    engine.advance(hours=2)
    pauses.resume(clock=clock)
    assert engine.output(instance)["status"] == "Approved by Manager"


def test_several_pauses_add_up(engine: Engine) -> None:
    instance, pauses = start_order(engine)
    before = deadline(engine, instance)
    for clock in ("freeze", "run", "freeze"):
        pauses.pause(clock)
        engine.advance(minutes=10)
        pauses.resume(clock=clock)
        pauses.tell("resume", pauses.number)
    assert deadline(engine, instance) == before + timedelta(minutes=20)
    assert engine.status(instance)["pause"]["frozen_seconds"] == 1200
    assert engine.status(instance)["pause"]["number"] == 3


def test_data_of_several_resumptions_are_merged(engine: Engine) -> None:
    instance, pauses = start_order(engine)
    for data in ({"a": 1, "b": {"x": 1}}, {"b": 2}, None):
        pauses.pause()
        pauses.resume(data)
    assert engine.status(instance)["resume_data"] == {"a": 1, "b": 2}


def test_a_pause_that_is_told_twice_is_one(engine: Engine) -> None:
    instance, pauses = start_order(engine)
    pauses.pause()
    pauses.tell("pause", 1)
    engine.advance(minutes=1)
    pauses.resume()
    pauses.tell("pause", 1)
    pauses.tell("resume", 1)
    engine.event(instance, "approval_event", APPROVED)
    assert engine.output(instance)["status"] == "Approved by Manager"
    assert actions(instance).count("paused") == actions(instance).count("resumed") == 1


def test_the_resumption_of_another_pause_ends_none(engine: Engine) -> None:
    instance, pauses = start_order(engine)
    pauses.pause(natively=False)
    pauses.tell("resume", 2)
    pauses.tell("resume", 1, source="another")
    engine.event(instance, "approval_event", APPROVED)
    assert engine.status(instance)["decision"] is None
    pauses.resume(natively=False)
    assert engine.output(instance)["status"] == "Approved by Manager"


@pytest.mark.parametrize(
    "payload",
    [
        None,
        "text",
        {"action": "stop"},
        {"action": "pause", "source": "x", "number": 0, "at": "2026-01-01T00:00:00Z", "by": "a"},
        {"action": "resume", "source": "x", "number": 1, "at": "2026-01-01T00:00:00Z", "by": "a", "data": []},
        {
            "action": "resume",
            "source": "x",
            "number": 1,
            "at": "2026-01-01T00:00:00Z",
            "by": "a",
            "data": {"a": "x" * 16_000},
        },
    ],
)
def test_what_is_no_such_event_is_set_aside(engine: Engine, payload: Any) -> None:
    instance, _ = start_order(engine)
    engine.event(instance, "pausing", payload)
    assert "'pausing' was set aside" in engine.status(instance)["warnings"][-1]
    engine.event(instance, "approval_event", APPROVED)
    assert engine.output(instance)["status"] == "Approved by Manager"


def test_an_engine_that_is_suspended_by_others_holds_it_too(engine: Engine) -> None:
    instance, _ = start_order(engine)
    engine.client.suspend_orchestration(instance)
    engine.event(instance, "approval_event", APPROVED)
    engine.phase(instance, "waiting_for_approval")
    engine.client.resume_orchestration(instance)
    assert engine.output(instance)["status"] == "Approved by Manager"
    assert engine.status(instance)["pause"] is None


def test_the_execution_timeout_stands_still_too(engine: Engine) -> None:
    instance, pauses = start_order(engine, execution_timeout=600)
    pauses.pause()
    engine.advance(days=1)
    pauses.resume()
    engine.advance(minutes=9)
    engine.phase(instance, "waiting_for_approval")
    engine.advance(minutes=2)
    assert engine.end(instance).runtime_status.name == "FAILED"


def test_an_open_wait_says_the_new_deadline(engine: Engine) -> None:
    instance, pauses = start_order(engine)
    (before,) = open_waits(instance)
    pauses.pause()
    engine.advance(hours=5)
    pauses.resume()
    (after,) = open_waits(instance)
    assert before.deadline is not None
    assert after.deadline == before.deadline + timedelta(hours=5)
    assert after.since == before.since
    assert engine.status(instance)["wait"] == after.number
    engine.event(instance, "approval_event", APPROVED)
    engine.output(instance)
    assert [is_open for _, is_open in waits_of(instance)] == [False, False]


def test_what_it_is_resumed_with_goes_on_to_what_follows_and_into_the_output(engine: Engine, data_folder: Path) -> None:
    instance, pauses = start_order(engine)
    pauses.pause()
    engine.event(instance, "approval_event", APPROVED)
    pauses.resume({"reviewed_by": "bob"})
    assert engine.output(instance)["resume_data"] == {"reviewed_by": "bob"}
    (placed,) = (data_folder / "orders" / "placed").glob("*.json")
    assert json.loads(placed.read_text())["resume_data"] == {"reviewed_by": "bob"}


def test_a_run_that_was_never_paused_says_nothing_of_it(engine: Engine, data_folder: Path) -> None:
    instance, _ = start_order(engine)
    engine.event(instance, "approval_event", APPROVED)
    assert "resume_data" not in engine.output(instance)
    (placed,) = (data_folder / "orders" / "placed").glob("*.json")
    assert "resume_data" not in json.loads(placed.read_text())
