"""What becomes of each workflow's times while it is paused: all move, or none does."""

import asyncio
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from threading import Event
from typing import Any
from zoneinfo import ZoneInfo

import pytest

import services.clock
from activities import signup as signup_activities
from errors import TooLate
from services import links, outbox
from services.mail_rendering import in_words
from services.quiet_hours import first_outside
from tests.orchestrators.engine import Engine
from tests.orchestrators.pausing import (
    GATE,
    Pauses,
    children,
    deadline,
    is_paused,
    order,
    start_approval,
    start_call,
    start_order,
    start_refund,
)
from tests.orchestrators.reading import actions, open_waits, verdict, waits_of
from tests.orchestrators.signing_up import (
    BERLIN,
    WAITING,
    begun,
    follow,
    given,
    kinds,
    link_in,
    mails,
    standing,
    type_code,
)
from tests.polling import until
from triggers import ask_run, guarded_call, refund, signup_link
from triggers.signup import look

pytestmark = pytest.mark.usefixtures("tidy")

OLD_REQUEST = {"requester": "Alice", "item": "Vacation", "timeout_hours": 1.0, "approvers": ["boss@example.com"]}


def old(workflow: str, given: dict[str, Any]) -> Callable[[Engine], tuple[str, Pauses]]:
    """Start what was started by version 2 of the app."""

    def start(engine: Engine) -> tuple[str, Pauses]:
        instance = engine.client.schedule_new_orchestration(workflow, input=given, version="2")
        return instance, Pauses(engine, instance)

    return start


def start_intervention(engine: Engine) -> tuple[str, Pauses]:
    """Start a manual intervention that takes an hour at most."""
    instance = engine.start("manual_intervention", {"execution_timeout": 3600.0})
    return instance, Pauses(engine, instance)


def start_signup(engine: Engine) -> tuple[str, Pauses]:
    """Start a sign-up that expires in an hour."""
    instance = begun(engine, given(expires_hours=1))
    return instance, Pauses(engine, instance)


WAITS: dict[str, tuple[Callable[[Engine], tuple[str, Pauses]], str]] = {
    "purchase_order": (start_order, "timed_out"),
    "purchase_order of before": (old("purchase_order", order()), "timed_out"),
    "approval": (start_approval, "timed_out"),
    "approval of before": (old("approval", OLD_REQUEST), "timed_out"),
    "guarded_call": (lambda engine: start_call(engine, deadline=1.0), "failed"),
    "manual_intervention": (start_intervention, "execution_timed_out"),
    "refund": (lambda engine: start_refund(engine, ready_hours=1.0), "expired"),
    "signup": (start_signup, "expired"),
}
"""Runs that wait for an hour, and the phase in which they end when nobody comes."""


@pytest.mark.parametrize("wait", WAITS)
def test_a_wait_that_is_frozen_ends_later_by_as_long(engine: Engine, wait: str) -> None:
    start, ended = WAITS[wait]
    instance, pauses = start(engine)
    engine.state(instance)
    before, phase = deadline(engine, instance), engine.status(instance)["phase"]
    engine.advance(minutes=20)
    pauses.pause()
    engine.advance(days=8)
    pauses.resume({"a": 1})
    assert engine.phase(instance, phase)["deadline"] is not None
    assert deadline(engine, instance) == before + timedelta(days=8)
    (open_wait,) = open_waits(instance)
    assert open_wait.deadline == before + timedelta(days=8)
    engine.advance(minutes=39)
    engine.phase(instance, phase)
    engine.advance(minutes=2)
    engine.end(instance)
    assert engine.status(instance)["phase"] == ended
    assert verdict(engine, instance) == "intact"


@pytest.mark.parametrize("wait", WAITS)
def test_a_wait_that_runs_on_is_over_when_its_run_goes_on(engine: Engine, wait: str) -> None:
    start, ended = WAITS[wait]
    instance, pauses = start(engine)
    engine.state(instance)
    before = deadline(engine, instance)
    pauses.pause("run")
    engine.advance(hours=2)
    assert is_paused(engine, instance)
    pauses.resume(clock="run")
    engine.end(instance)
    assert engine.status(instance)["phase"] == ended
    assert waits_of(instance)[-1][0].deadline == before
    assert engine.status(instance)["pause"]["frozen_seconds"] == 0


@pytest.mark.parametrize("workflow", ["purchase_order", "purchase_order of before", "approval of before"])
def test_what_came_after_the_time_was_up_counts_no_more(engine: Engine, workflow: str) -> None:
    instance, pauses = WAITS[workflow][0](engine)
    engine.state(instance)
    pauses.pause("run", natively=False)
    engine.advance(hours=2)
    engine.event(instance, "approval_event", {"approver_name": "Boss", "approved": True})
    engine.event(instance, "decision", {"approver": "Boss", "is_approved": True})
    pauses.resume(clock="run", natively=False)
    engine.output(instance)
    assert engine.status(instance)["phase"] == "timed_out"


def test_a_time_that_was_up_is_so_after_a_moment_of_frost(engine: Engine) -> None:
    instance, pauses = start_order(engine)
    pauses.pause("run")
    engine.advance(hours=2)
    pauses.tell("pause", 1, source="caller")
    engine.event(instance, "approval_event", {"approver_name": "Boss", "approved": True})
    pauses.tell("resume", 1, clock="run")
    engine.advance(minutes=1)
    pauses.tell("resume", 1, source="caller")
    engine.client.resume_orchestration(instance)
    engine.output(instance)
    assert engine.status(instance)["phase"] == "timed_out"


# Reminders


def reminded(instance: str) -> int:
    """How often people were reminded."""
    return actions(instance).count("reminded")


REMINDING = {"reminders": {"every": 6.0, "max": 50}}


@pytest.mark.parametrize("workflow", ["approval", "guarded_call"])
def test_reminders_that_are_frozen_come_later_by_as_long(engine: Engine, workflow: str) -> None:
    people = [{"email": "a@example.com"}]
    if workflow == "approval":
        instance, pauses = start_approval(engine, approvers=people, timeout_hours=24.0, **REMINDING)
    else:
        instance, pauses = start_call(engine, assigned_to=people, deadline=24.0, **REMINDING)
    engine.advance(hours=7)
    assert reminded(instance) == 1
    pauses.pause()
    engine.advance(days=30)
    pauses.resume()
    assert reminded(instance) == 1
    engine.advance(hours=4, minutes=59)
    assert reminded(instance) == 1
    engine.advance(minutes=2)
    assert reminded(instance) == 2
    texts = [mail.text for mail in outbox.page(10_000) if instance in mail.message_id]
    assert len([text for text in texts if in_words(deadline(engine, instance)) in text]) == 1
    engine.advance(hours=11)
    assert reminded(instance) == 3


@pytest.mark.parametrize("workflow", ["approval", "guarded_call"])
def test_reminders_that_were_missed_are_made_up_for_by_one(engine: Engine, workflow: str) -> None:
    people = [{"email": "a@example.com"}]
    if workflow == "approval":
        instance, pauses = start_approval(engine, approvers=people, timeout_hours=24.0 * 60, **REMINDING)
    else:
        instance, pauses = start_call(engine, assigned_to=people, deadline=24.0 * 30, **REMINDING)
    pauses.pause("run")
    engine.advance(days=5)
    assert reminded(instance) == 0
    pauses.resume(clock="run")
    assert reminded(instance) == 1
    engine.advance(hours=5)
    assert reminded(instance) == 1
    engine.advance(hours=1)
    assert reminded(instance) == 2


def test_what_begins_after_a_pause_has_its_times_from_then(engine: Engine) -> None:
    stages = [{"approvers": [{"email": f"{name}@example.com"}]} for name in "ab"]
    level = {"approvers": [{"email": "c@example.com"}], "timeout_hours": 3.0}
    asked = {"policy": stages, "on_timeout": "escalate", "escalation": [level], "reminders": [6.0]}
    instance, pauses = start_approval(engine, timeout_hours=12.0, **asked)
    pauses.pause()
    engine.advance(days=3)
    pauses.resume()
    engine.advance(hours=1)
    engine.event(instance, "decision", {"approver": "a@example.com", "vote": "approve"})
    engine.state(instance)
    engine.advance(hours=5, minutes=59)
    assert reminded(instance) == 0
    engine.advance(minutes=1)
    assert reminded(instance) == 1
    engine.advance(hours=5)
    assert actions(instance).count("escalated") == 1
    assert deadline(engine, instance) == engine.now + timedelta(hours=3)
    engine.event(instance, "extend", {"by": "Alice", "extend_by": 1.0})
    assert deadline(engine, instance) == engine.now + timedelta(hours=4)
    engine.advance(hours=4)
    assert engine.output(instance)["status"] == "Timeout"


@pytest.mark.parametrize("clock", ["freeze", "run"])
def test_a_gate_escalates_by_the_clock_of_its_run(engine: Engine, clock: str) -> None:
    others = [{"email": "other@example.com"}]
    instance, pauses = start_call(engine, deadline=2.0, on_deadline="escalate", escalate_to=others, reminders=None)
    before = deadline(engine, instance)
    pauses.pause(clock)
    engine.advance(hours=3)
    assert not engine.status(instance)["gate"]["escalated"]
    pauses.resume(clock=clock)
    assert engine.status(instance)["gate"]["escalated"] == (clock == "run")
    if clock == "freeze":
        engine.advance(hours=2)
    assert engine.phase(instance, GATE)["gate"]["escalated"]
    assert deadline(engine, instance) == before + timedelta(hours=3 if clock == "run" else 5)
    (wait,) = open_waits(instance)
    assert wait.deadline == deadline(engine, instance)


@pytest.mark.parametrize("clock", ["freeze", "run"])
def test_a_call_is_tried_again_by_the_clock_of_its_run(engine: Engine, clock: str) -> None:
    retry = {"attempts": 3, "first_interval": 3600, "max_interval": 3600, "jitter": 0}
    call = {"kind": "simulated", "fails": 2, "status": 500, "body": {}}
    instance = engine.start("guarded_call", {"name": "charge", "call": call, "retry": retry})
    pauses, before = Pauses(engine, instance), engine.phase(instance, "waiting_to_retry")["deadline"]
    pauses.pause(clock)
    engine.advance(hours=5)
    pauses.resume(clock=clock)
    if clock == "freeze":
        assert engine.phase(instance, "waiting_to_retry")["deadline"] > before
        engine.advance(minutes=59)
        assert actions(instance).count("call_failed") == 1
        engine.advance(minutes=1)
    assert actions(instance).count("call_failed") == 2
    assert deadline(engine, instance) == engine.now + timedelta(hours=1)
    engine.advance(hours=1)
    assert engine.output(instance)["attempts"] == 3


@pytest.mark.parametrize("paused", ["both", "call"])
def test_a_call_has_all_the_time_that_its_run_has_left(engine: Engine, paused: str) -> None:
    parent, pauses = start_refund(engine, "create_refund", execution_timeout=7200.0)
    (child,) = children(engine, parent)
    if paused == "call":
        pauses = Pauses(engine, child)
    pauses.pause()
    engine.advance(hours=5)
    pauses.resume()
    assert engine.phase(child, GATE)["gate"]["actions"]
    engine.advance(hours=2)
    assert engine.end(child).runtime_status.name == "FAILED"
    assert engine.end(parent).runtime_status.name == "FAILED"
    assert {engine.status(each)["phase"] for each in (parent, child)} == {"execution_timed_out"}


def test_a_call_that_is_made_after_a_pause_has_what_is_left_of_the_time_of_its_run(engine: Engine) -> None:
    parent, pauses = start_refund(engine, execution_timeout=3600.0 * 48)
    engine.advance(hours=2)
    pauses.pause()
    engine.advance(days=5)
    pauses.resume()
    engine.event(parent, "Ready", None)
    assert engine.output(parent)["status"] == "Refunded"
    given = json.loads(engine.state(children(engine, parent)[-1]).serialized_input or "")
    assert (given["name"], given["execution_timeout"]) == ("process_refund", 3600 * 46)


# Sign-up


def test_reminders_heed_the_quiet_hours_after_a_pause(engine: Engine) -> None:
    instance = begun(engine, given(quiet=BERLIN))
    pauses, planned = Pauses(engine, instance), next_reminder(engine, instance)
    in_the_night = planned.astimezone(ZoneInfo("Europe/Berlin")).replace(hour=23, minute=0) + timedelta(days=1)
    pauses.pause()
    engine.advance(seconds=(in_the_night - planned).total_seconds())
    pauses.resume()
    assert next_reminder(engine, instance) == in_the_night
    engine.advance(seconds=(in_the_night - engine.now).total_seconds() + 60)
    assert kinds(instance) == ["verify"]
    planned_again = next_reminder(engine, instance)
    assert planned_again.astimezone(ZoneInfo("Europe/Berlin")).strftime("%H:%M") == "08:00"
    engine.advance(seconds=(planned_again - engine.now).total_seconds())
    assert kinds(instance) == ["verify", "reminder"]


def next_reminder(engine: Engine, instance: str) -> datetime:
    """When the next reminder is due."""
    return datetime.fromisoformat(standing(engine, instance)["next_reminder"])


def test_a_pause_while_a_reminder_is_planned_moves_it_too(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    began, go_on = Event(), Event()

    def slowly(*said: Any) -> datetime:
        began.set()
        assert go_on.wait(30)
        return first_outside(*said)

    monkeypatch.setattr(signup_activities, "first_outside", slowly)
    asked = given()
    instance = engine.start("signup", asked, f"signup-{asked['form']['username']}")
    until(began.is_set)
    pauses, planned = Pauses(engine, instance), engine.now + timedelta(days=1)
    pauses.tell("pause", 1)
    go_on.set()
    engine.advance(days=3)
    pauses.tell("resume", 1)
    assert kinds(instance) == ["verify"]
    assert next_reminder(engine, instance) == planned + timedelta(days=3)
    engine.advance(days=1)
    assert kinds(instance) == ["verify", "reminder"]
    assert next_reminder(engine, instance) == engine.now + timedelta(days=1)


def test_missed_reminders_of_a_sign_up_are_made_up_for_by_one(engine: Engine) -> None:
    instance = begun(engine, given(expires_hours=1000))
    pauses = Pauses(engine, instance)
    pauses.pause("run")
    engine.advance(days=10)
    pauses.resume(clock="run")
    assert kinds(instance) == ["verify", "reminder"]
    engine.advance(hours=23)
    assert kinds(instance) == ["verify", "reminder"]


@pytest.mark.parametrize("again", [False, True])
def test_codes_of_before_a_pause_are_right_after_it(engine: Engine, *, again: bool) -> None:
    instance = begun(engine, given(expires_hours=48))
    pauses, (first,) = Pauses(engine, instance), mails(instance)
    pauses.pause()
    engine.advance(days=5, seconds=1.2345)
    pauses.resume()
    mail = first
    if again:
        engine.advance(hours=25)
        mail = mails(instance)[-1]
        assert in_words(deadline(engine, instance)) in mail.text
    assert link_in(mail).code == link_in(first).code
    type_code(engine, instance, link_in(mail).code)
    engine.end(instance)
    assert actions(instance)[-3:] == ["account_created", "mailed", "ended"]


@pytest.mark.parametrize(
    ("clock", "is_over", "status"),
    [("freeze", False, None), ("freeze", True, None), ("run", False, 410), ("run", True, 404)],
)
def test_a_link_of_before_a_pause_is_good_as_long_as_its_run_waits(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, clock: str, *, is_over: bool, status: int | None
) -> None:
    instance = begun(engine, given(expires_hours=48))
    pauses, claims = Pauses(engine, instance), link_in(mails(instance)[0]).claims
    monkeypatch.setattr(signup_link, "now", lambda: engine.now)
    pauses.pause(clock)
    engine.advance(days=5)
    if is_over:
        pauses.resume(clock=clock)

    class Client:
        async def get_orchestration_state(self, name: str) -> Any:
            return engine.state(name)

    signup = asyncio.run(look(Client(), instance))  # type: ignore[arg-type]
    refusal = signup_link._why_not(signup, claims)
    assert (refusal is None) == (status is None)
    if clock == "freeze":
        follow(engine, instance, mails(instance)[0])
        if not is_over:
            assert engine.phase(instance, WAITING)["pause"]["paused"]
            pauses.resume()
        engine.end(instance)
        assert "account_created" in actions(instance)


def test_a_link_to_vote_is_good_after_a_pause_that_was_longer_than_its_time(engine: Engine) -> None:
    instance, pauses = start_approval(engine, approvers=[{"email": "a@example.com"}])
    pauses.pause()
    engine.advance(days=9)
    pauses.resume()
    (mail,) = [each for each in outbox.page(10_000) if instance in each.message_id]
    token = next(word for word in mail.text.split() if "/approve/" in word).rpartition("/")[2]
    claims = links.read(token)
    link = {"run": claims.run, "round": claims.round, "serial": claims.serial}
    engine.event(instance, "decision", {"approver": "a@example.com", "is_approved": True, "link": link})
    assert engine.output(instance)["status"] == "Approved"


# What the app says of a run that is suspended


@pytest.mark.parametrize("clock", ["freeze", "run"])
@pytest.mark.parametrize("timeout", ["wait", "execution"])
@pytest.mark.parametrize("workflow", ["guarded_call", "refund"])
def test_what_is_asked_of_a_suspended_run_is_in_vain_only_where_its_time_runs_on(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, workflow: str, clock: str, timeout: str
) -> None:
    hours, left = (1.0, None) if timeout == "wait" else (100.0, 3600.0)
    if workflow == "guarded_call":
        rules, (instance, pauses) = guarded_call.RULES, start_call(engine, deadline=hours, execution_timeout=left)
    else:
        rules, (instance, pauses) = refund.READY_RULES, start_refund(engine, ready_hours=hours, execution_timeout=left)
    for module in (ask_run, services.clock):
        monkeypatch.setattr(module, "now", lambda: engine.now)
    engine.state(instance)
    engine.advance(minutes=30)
    pauses.pause(clock)
    engine.advance(hours=5)
    if clock == "freeze":
        ask_run._refuse_in_vain(rules, engine.state(instance))
        pauses.resume()
        engine.client.suspend_orchestration(instance)
        engine.advance(minutes=29)
        ask_run._refuse_in_vain(rules, engine.state(instance))
        engine.advance(minutes=2)
    with pytest.raises(TooLate, match=r"time to|execution timeout"):
        ask_run._refuse_in_vain(rules, engine.state(instance))
