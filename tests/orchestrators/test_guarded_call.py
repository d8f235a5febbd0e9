"""Every path of the guarded call, on a real engine."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from contracts.guarded_call import MAX_ATTEMPTS, Answer, Retry
from contracts.human_step import digest_of_id
from local_host.task_hub.clock import SystemClock
from orchestrators.backoff import MAX_RETRY_AFTER, wait_after
from services import documents, waits
from services.mail import FolderMailer
from services.record_store import get_record_store
from services.waits import WaitQuery
from settings import get_settings
from tests.failing_server import drip, failing_server
from tests.orchestrators.engine import Engine, running_engine
from tests.orchestrators.reading import actions, answered, entries, open_waits

WAITING = "waiting_for_intervention"
ANN, BEN = "ann@example.com", "ben@example.com"
FORM = {"type": "object", "properties": {"currency": {"enum": ["EUR", "USD"]}}, "required": ["currency"]}


def call(**more: Any) -> dict[str, Any]:
    """A durable input: a simulated call that fails for ever, and is tried once, unless told otherwise."""
    simulated = {"kind": "simulated", "fails": 1000, "body": {"amount": 5}}
    given = {"name": "charge", "retry": {"attempts": 1}, "assigned_to": [ANN], "skippable": True, "editable": True}
    given["reminders"] = None  # of each that is left open, whenever a test moves the clock
    return {**given, **more, "call": simulated | more.get("call", {})}


def failed(engine: Engine, **more: Any) -> str:
    """Start a run that gets to its gate."""
    instance = engine.start("guarded_call", call(**more))
    engine.phase(instance, WAITING)
    return instance


def act(engine: Engine, instance: str, event: str, **said: Any) -> None:
    """Do something at the gate, as Ann unless told otherwise."""
    engine.event(instance, event, {"by": ANN, "reason": "I know why", **said})


def kept(engine: Engine, instance: str, what: str) -> list[Any]:
    """The documents of a run that are something."""
    run = engine.status(instance)["trail"]["run"]
    return [each.body for each in documents.read_all(get_record_store(), instance, run, what, 1000)]


def keys(engine: Engine, instance: str) -> list[str]:
    """The idempotency keys that went out, in order."""
    inputs = [each.taskScheduled for each in engine.history(instance) if each.HasField("taskScheduled")]
    return [json.loads(each.input.value)["key"] for each in inputs if each.name == "call_api"]


# Without people


def test_a_call_that_works_asks_nobody(engine: Engine) -> None:
    instance = engine.start("guarded_call", call(call={"fails": 0, "result": {"id": 7}}))
    output = engine.output(instance)
    assert (output["status"], output["result"], output["attempts"]) == ("Succeeded", {"id": 7}, 1)
    assert (output["operator_retries"], output["by"]) == (0, None)
    assert actions(instance) == ["started", "called", "ended"]
    assert engine.status(instance)["phase"] == "succeeded"


def test_a_call_that_fails_is_tried_again_by_itself_and_ever_later(engine: Engine) -> None:
    retry = {"attempts": 4, "first_interval": 10, "factor": 3, "max_interval": 50, "jitter": 0}
    instance = engine.start("guarded_call", call(call={"fails": 3}, retry=retry))
    for seconds, attempts in ((9, 1), (1, 2), (29, 2), (1, 3), (49, 3)):
        engine.advance(seconds=seconds)
        assert len(keys(engine, instance)) == attempts
    engine.advance(seconds=1)
    assert engine.output(instance)["attempts"] == 4
    assert actions(instance) == ["started", "call_failed", "call_failed", "call_failed", "called", "ended"]
    assert len(dict.fromkeys(keys(engine, instance))) == 1
    assert [each["number"] for each in kept(engine, instance, "attempt")] == [1, 2, 3]


def test_while_it_is_tried_again_by_itself_nobody_can_do_anything(engine: Engine) -> None:
    instance = engine.start("guarded_call", call(call={"fails": 1}, retry={"attempts": 2, "first_interval": 60}))
    engine.phase(instance, "waiting_to_retry")
    act(engine, instance, "skip", decision_id="d1")
    assert answered(engine, instance, "d1") == "not_waiting"
    engine.advance(seconds=70)
    assert engine.output(instance)["status"] == "Succeeded"


def test_a_status_that_is_not_worth_it_opens_the_gate_at_once(engine: Engine) -> None:
    instance = engine.start("guarded_call", call(call={"status": 404}, retry={"attempts": 5}))
    assert engine.phase(instance, WAITING)["gate"]["attempts"] == 1


# The gate


def test_the_gate_says_what_can_be_done_and_asks_by_mail(engine: Engine) -> None:
    instance = failed(engine)
    gate = engine.status(instance)["gate"]
    assert gate["actions"] == ["retry", "edit", "skip", "fail"]
    assert (gate["number"], gate["attempts"], gate["retries_left"], gate["last"]) == (1, 1, 5, None)
    (wait,) = open_waits(instance)
    assert (wait.kind, wait.people, wait.group) == ("guarded_call", (ANN,), gate["fingerprint"])
    assert wait.path == f"/api/interventions/{instance}"
    assert actions(instance) == ["started", "call_failed", "asked", "mailed"]


def test_a_retry_makes_the_same_call_with_the_same_key(engine: Engine) -> None:
    instance = failed(engine, call={"fails": 1})
    act(engine, instance, "retry", decision_id="d1")
    output = engine.output(instance)
    assert (output["status"], output["operator_retries"], output["by"]) == ("Succeeded", 1, ANN)
    assert output["reason"] == "I know why"
    assert len(dict.fromkeys(keys(engine, instance))) == 1
    assert answered(engine, instance, "d1") == "taken"
    assert open_waits(instance) == []


def test_an_edit_makes_another_call_with_another_key(engine: Engine) -> None:
    instance = failed(engine, call={"fails": 1, "accepts": FORM}, schema=FORM)
    act(engine, instance, "edit", body={"currency": "EUR"})
    output = engine.output(instance)
    assert (output["status"], output["result"]) == ("Succeeded", {"currency": "EUR"})
    first, second = keys(engine, instance)
    assert first != second
    assert [each["body"] for each in kept(engine, instance, "call")] == [{"amount": 5}, {"currency": "EUR"}]
    (done,) = kept(engine, instance, "action")
    assert (done["action"], done["by"], done["version"]) == ("edit", ANN, 2)


def test_a_skip_puts_a_result_in_its_place(engine: Engine) -> None:
    instance = failed(engine)
    act(engine, instance, "skip", result={"id": "by hand"})
    output = engine.output(instance)
    assert (output["status"], output["result"], output["by"]) == ("Skipped", {"id": "by hand"}, ANN)
    assert engine.status(instance)["phase"] == "skipped"


def test_whoever_lets_it_fail_is_named_with_the_reason(engine: Engine) -> None:
    instance = failed(engine)
    act(engine, instance, "fail", decision_id="d1")
    state = engine.end(instance)
    assert state.runtime_status.name == "FAILED"
    assert state.failure_details is not None
    assert f"{ANN} let it fail: I know why" in state.failure_details.message
    assert answered(engine, instance, "d1") == "taken"
    assert engine.status(instance)["gate"]["actions"] == []
    assert actions(instance)[-2:] == ["failed", "ended"]


@pytest.mark.parametrize(
    ("more", "event", "said", "code"),
    [
        ({"skippable": False}, "skip", {}, "not_allowed"),
        ({"editable": False}, "edit", {"body": {}}, "not_allowed"),
        ({"max_operator_retries": 0}, "retry", {}, "no_more_retries"),
        ({"max_operator_retries": 0}, "edit", {"body": {}}, "no_more_retries"),
        ({"max_operator_retries": 0, "editable": False}, "edit", {"body": {}}, "not_allowed"),
        ({}, "retry", {"by": BEN}, "not_assigned"),
        ({}, "fail", {"by": BEN}, "not_assigned"),
        ({}, "retry", {"gate": 2}, "old_gate"),
        ({}, "retry", {"link": {"round": 2, "serial": 1}}, "old_gate"),
        ({}, "retry", {"link": {"round": 1, "serial": 9}}, "old_gate"),
        ({}, "edit", {"body": {"amount": 5}}, "unchanged"),
        ({"schema": FORM}, "edit", {"body": {"currency": "XXX"}}, "body_wrong"),
        ({"schema": FORM}, "edit", {"body": ["currency"]}, "body_wrong"),
    ],
)
def test_what_cannot_be_done_is_refused_and_the_gate_stays(
    engine: Engine, more: dict[str, Any], event: str, said: dict[str, Any], code: str
) -> None:
    instance = failed(engine, **more)
    act(engine, instance, event, decision_id="d1", **said)
    assert answered(engine, instance, "d1") == code
    assert engine.phase(instance, WAITING)["wait"] is not None
    refused = entries(instance)[-1]
    assert (refused.action, refused.detail, refused.actor) == ("refused", code, said.get("by", ANN))
    assert len(keys(engine, instance)) == 1


@pytest.mark.parametrize("said", [{"by": ""}, {"reason": ""}, {"reason": " "}, {"reason": None}, {"more": 1}])
def test_what_is_malformed_is_set_aside(engine: Engine, said: dict[str, Any]) -> None:
    instance = failed(engine)
    act(engine, instance, "retry", **said)
    status = engine.phase(instance, WAITING)
    assert status["warnings"][0].startswith("An event 'retry' was set aside")
    act(engine, instance, "skip")
    assert engine.output(instance)["status"] == "Skipped"


def test_true_is_not_one_when_a_body_is_compared(engine: Engine) -> None:
    instance = failed(engine, call={"body": {"count": 1}})
    act(engine, instance, "edit", body={"count": True}, decision_id="d1")
    assert answered(engine, instance, "d1") == "taken"


def test_an_edit_to_nothing_comes_as_an_event_without_a_body(engine: Engine) -> None:
    instance = failed(engine)
    act(engine, instance, "edit", decision_id="d1")
    assert answered(engine, instance, "d1") == "taken"
    assert kept(engine, instance, "call")[-1]["body"] is None


def test_the_cap_on_retries_holds(engine: Engine) -> None:
    instance = failed(engine, max_operator_retries=2)
    act(engine, instance, "retry")
    assert engine.status(instance)["gate"]["retries_left"] == 1
    act(engine, instance, "edit", body={"amount": 6})
    gate = engine.status(instance)["gate"]
    assert (gate["number"], gate["retries_left"], gate["actions"]) == (3, 0, ["skip", "fail"])
    act(engine, instance, "retry", decision_id="d3")
    assert answered(engine, instance, "d3") == "no_more_retries"
    assert len(keys(engine, instance)) == 3


def test_two_at_the_same_gate_are_one_action(engine: Engine) -> None:
    instance = failed(engine, assigned_to=[ANN, BEN])
    act(engine, instance, "retry", gate=1, decision_id="d1")
    act(engine, instance, "retry", by=BEN, gate=1, decision_id="d2")
    assert answered(engine, instance, "d2") in ("not_waiting", "old_gate"), "as it comes before the next gate or after"
    assert engine.status(instance)["gate"]["last"]["by"] == ANN
    assert len(keys(engine, instance)) == 2


def test_the_same_decision_twice_is_one(engine: Engine) -> None:
    instance = failed(engine)
    for _ in range(3):
        act(engine, instance, "retry", decision_id="d1")
    assert len(keys(engine, instance)) == 2
    assert engine.status(instance)["gate"]["number"] == 2
    assert answered(engine, instance, "d1") == "taken"


def test_an_early_action_is_refused_since_nothing_has_failed(engine: Engine) -> None:
    instance = engine.start("guarded_call", call(call={"fails": 1}, retry={"attempts": 2, "first_interval": 60}))
    act(engine, instance, "skip", result="x")
    engine.advance(seconds=100)
    assert engine.output(instance)["status"] == "Succeeded"


def test_without_names_anybody_may_act_and_the_mailbox_is_asked(engine: Engine) -> None:
    instance = failed(engine, assigned_to=[], mailbox="ops@example.com")
    assert open_waits(instance)[0].people == ("ops@example.com",)
    act(engine, instance, "skip", by="Zoe")
    assert engine.output(instance)["by"] == "Zoe"


def test_a_person_is_known_by_name_and_in_any_case(engine: Engine) -> None:
    instance = failed(engine, assigned_to=[{"email": ANN, "name": "Ann Lee"}])
    act(engine, instance, "retry", by="ANN LEE", decision_id="d1")
    assert answered(engine, instance, "d1") == "taken"
    act(engine, instance, "skip", by="ANN@example.com")
    assert engine.output(instance)["status"] == "Skipped"


# Time


def test_nobody_acts_in_time_and_it_fails(engine: Engine) -> None:
    instance = failed(engine, deadline=2)
    engine.advance(hours=2)
    state = engine.end(instance)
    assert state.failure_details is not None
    assert "Nobody acted until" in state.failure_details.message
    assert actions(instance)[-2:] == ["timed_out", "ended"]
    assert open_waits(instance) == []


def test_nobody_acts_in_time_and_it_is_skipped_with_the_substitute(engine: Engine) -> None:
    instance = failed(engine, deadline=2, on_deadline="skip", substitute={"id": 0})
    engine.advance(hours=2)
    output = engine.output(instance)
    assert (output["status"], output["result"], output["by"]) == ("Skipped", {"id": 0}, None)
    assert engine.status(instance)["gate"]["actions"] == []


def test_nobody_acts_in_time_and_others_are_asked_too(engine: Engine) -> None:
    instance = failed(engine, deadline=2, on_deadline="escalate", escalate_to=[BEN])
    act(engine, instance, "skip", by=BEN, decision_id="early")
    assert answered(engine, instance, "early") == "not_assigned"
    engine.advance(hours=2)
    (wait,) = open_waits(instance)
    assert wait.people == (ANN, BEN)
    assert engine.status(instance)["gate"]["escalated"]
    assert entries(instance)[-1].people == (BEN,)
    act(engine, instance, "retry", by=BEN, decision_id="d1")
    assert answered(engine, instance, "d1") == "taken"
    assert not engine.status(instance)["gate"]["escalated"]
    assert open_waits(instance)[0].people == (ANN,), "the next gate begins with those who are assigned"
    engine.advance(hours=4)
    assert engine.end(instance).runtime_status.name == "FAILED"


def test_reminders_go_out_until_somebody_acts(engine: Engine) -> None:
    instance = failed(engine, reminders={"every": 1, "max": 2}, deadline=10)
    engine.advance(hours=5)
    assert actions(instance).count("reminded") == 2
    act(engine, instance, "retry")
    engine.advance(hours=1)
    assert actions(instance).count("reminded") == 3, "a new gate has reminders of its own"


@pytest.mark.parametrize("phase", [WAITING, "waiting_to_retry"])
def test_a_run_that_takes_too_long_fails_wherever_it_is(engine: Engine, phase: str) -> None:
    retry = {"attempts": 2, "first_interval": 7200, "max_interval": 7200} if phase != WAITING else {"attempts": 1}
    instance = engine.start("guarded_call", call(retry=retry, execution_timeout=3600.0))
    engine.phase(instance, phase)
    engine.advance(seconds=3599)
    engine.phase(instance, phase)
    engine.advance(seconds=1)
    state = engine.end(instance)
    assert state.failure_details is not None
    assert "execution timeout" in state.failure_details.message
    status = engine.status(instance)
    assert (status["phase"], status["wait"]) == ("execution_timed_out", None)
    assert phase != WAITING or status["gate"]["actions"] == []
    assert open_waits(instance) == []
    assert actions(instance)[-2:] == ["timed_out", "ended"]


def test_a_call_under_way_when_the_time_is_up_is_waited_for(data_folder: Path) -> None:
    """By the clock of the machine: one that the test moves waits until no call is under way."""
    with failing_server() as server, calling(server.host), running_engine(data_folder, SystemClock()) as engine:
        server.answers("/", [drip(b'{"id": 7}', pause=0.4)])  # more than three seconds in all
        given = {"name": "pay", "call": {"kind": "http", "url": server.url("/")}, "execution_timeout": 2.0}
        instance = engine.client.schedule_new_orchestration("guarded_call", input=given)
        state = engine.client.wait_for_orchestration_completion(instance, timeout=20)
    assert state is not None
    assert state.runtime_status.name == "COMPLETED"


def test_no_call_is_begun_when_the_time_is_up(engine: Engine) -> None:
    instance = failed(engine, execution_timeout=3600.0, retry={"attempts": 1})
    engine.client.suspend_orchestration(instance)
    act(engine, instance, "retry")
    engine.advance(hours=2)
    engine.client.resume_orchestration(instance)
    assert engine.end(instance).runtime_status.name == "FAILED"
    assert engine.status(instance)["phase"] == "execution_timed_out"
    assert len(keys(engine, instance)) == 1


@pytest.mark.parametrize("reminded", [2, 0])
def test_people_are_reminded_every_day_unless_they_are_not_to_be(engine: Engine, reminded: int) -> None:
    given = call()
    if reminded:
        del given["reminders"]
    instance = engine.start("guarded_call", given)
    engine.phase(instance, WAITING)
    engine.advance(hours=71)
    assert actions(instance).count("reminded") == reminded


def test_reminders_have_an_end_over_the_whole_run(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrators.gate.MAX_MAILS", 5)
    instance = failed(engine, reminders={"every": 1, "max": 366}, deadline=100)
    engine.advance(hours=50)
    assert actions(instance).count("reminded") == 4
    assert engine.phase(instance, WAITING)


# On record


def test_what_became_of_mails_is_noted_with_the_next_thing_though_one_is_still_tried(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = FolderMailer.send

    def fail_for_one(mailer: FolderMailer, message: EmailMessage) -> None:
        if message["To"] == "p0@example.com":
            raise OSError("nobody there")
        send(mailer, message)

    monkeypatch.setattr(FolderMailer, "send", fail_for_one)
    people = [f"p{each}@example.com" for each in range(30)]
    instance = failed(engine, assigned_to=people)
    act(engine, instance, "retry", by=people[0])
    assert engine.phase(instance, WAITING)["gate"]["number"] == 2
    engine.advance(minutes=5)
    named = [entry.people or () for entry in entries(instance) if entry.action == "mailed"]
    assert [len(each) for each in named] == [29, 29]
    not_reached = [entry.people or () for entry in entries(instance) if entry.action == "mail_failed"]
    assert [person for each in not_reached for person in each] == [people[0]] * 2


@pytest.mark.parametrize("levels", [60, 255])
def test_a_body_that_is_nested_too_deep_is_set_aside(engine: Engine, levels: int) -> None:
    instance = failed(engine)
    act(engine, instance, "edit", body=json.loads("[" * levels + "]" * levels))
    assert "set aside" in engine.phase(instance, WAITING)["warnings"][0]


def test_an_action_for_another_error_is_refused(engine: Engine) -> None:
    instance = failed(engine)
    act(engine, instance, "retry", fingerprint="f" * 16, decision_id="d1")
    assert answered(engine, instance, "d1") == "old_gate"
    fingerprint = engine.status(instance)["gate"]["fingerprint"]
    act(engine, instance, "retry", fingerprint=fingerprint, decision_id="d2")
    assert answered(engine, instance, "d2") == "taken"


@contextmanager
def calling(host: str) -> Iterator[None]:
    """Let the app call a host."""
    os.environ["CALL_HOSTS"] = host
    get_settings.cache_clear()
    try:
        yield
    finally:
        del os.environ["CALL_HOSTS"]
        get_settings.cache_clear()


def test_calls_that_fail_alike_wait_in_one_group(engine: Engine) -> None:
    some = [failed(engine), failed(engine)]
    other = failed(engine, call={"status": 500})
    group = engine.status(some[0])["gate"]["fingerprint"]
    found, _ = waits.page(get_record_store(), WaitQuery(group=group), 50, None, open_waits(other)[0].since)
    assert sorted(wait.instance_id for wait in found) == sorted(some)


def test_headers_are_in_nothing_that_is_kept(engine: Engine) -> None:
    http = {"kind": "http", "url": "http://127.0.0.1:9/", "headers": {"Authorization": "Bearer sesame-sesame"}}
    given = call()
    given["call"] = http
    instance = engine.start("guarded_call", given)
    engine.phase(instance, WAITING)
    act(engine, instance, "edit", body={"x": 1})
    engine.phase(instance, WAITING)
    store = get_record_store()
    for partition in ("document", "shown", "wait", "trail"):
        rows = store.range(f"{partition}:{instance}", "", "}", 1000)
        assert rows or partition == "trail"
        assert not [row for row in rows if "sesame" in row.body]
    assert "sesame" not in str(engine.status(instance))


def test_a_long_error_and_a_long_body_still_open_a_gate(engine: Engine) -> None:
    body = {"text": '"\\' * 3_900, "more": {"deep": [[[[[[[["x"]]]]]]]]}}
    instance = failed(engine, call={"body": body}, name="n" * 200, part_of="p" * 1000)
    assert kept(engine, instance, "call")[0]["body"] == body


def test_the_largest_numbers_of_attempts_are_no_burden(engine: Engine) -> None:
    retry = {"attempts": MAX_ATTEMPTS, "first_interval": 0.01, "max_interval": 0.01}
    instance = engine.start("guarded_call", call(retry=retry, max_operator_retries=1))
    for gate in (1, 2):
        engine.advance(seconds=10)
        assert engine.phase(instance, WAITING)["gate"]["number"] == gate
        if gate < 2:
            act(engine, instance, "retry")
    assert len(kept(engine, instance, "attempt")) == 2 * MAX_ATTEMPTS


# The waits between attempts


def failing(problem: Any = "status", status: int | None = 503, after: float | None = None) -> Answer:
    """An answer of a call that failed."""
    return Answer(problem=problem, status=status, retry_after=after, fingerprint="0" * 16)


@pytest.mark.parametrize(
    ("answer", "is_tried"),
    [
        (failing(), True),
        (failing(status=500), True),
        (failing(status=429), True),
        (failing(status=408), True),
        (failing(status=425), True),
        (failing(status=400), False),
        (failing(status=422), False),
        (failing(status=302), False),
        (failing("unreachable", None), True),
        (failing("timeout", None), True),
        (failing("unreadable", 200), True),
        (failing("internal", None), True),
        (failing("tls", None), False),
        (failing("redirected", 302), False),
        (failing("not_allowed", None), False),
        (failing("too_large", 200), False),
        (failing(after=MAX_RETRY_AFTER), True),
        (failing(after=MAX_RETRY_AFTER + 1), False),
    ],
)
def test_only_what_may_go_away_by_itself_is_tried_again(answer: Answer, *, is_tried: bool) -> None:
    assert (wait_after(Retry(), 1, answer, "seed") is not None) == is_tried


def test_named_statuses_are_given_up_on_and_classes_left_out_are_not() -> None:
    retry = Retry(give_up_on=(503, 429))
    assert wait_after(retry, 1, failing(status=503), "") is None
    assert wait_after(retry, 1, failing(status=429), "") is None
    assert wait_after(retry, 1, failing(status=400), "") is not None


def test_the_last_attempt_is_the_last() -> None:
    assert wait_after(Retry(attempts=3), 2, failing(), "") is not None
    assert wait_after(Retry(attempts=3), 3, failing(), "") is None


def test_retry_after_is_honoured_where_it_is_longer() -> None:
    retry = Retry(first_interval=10, jitter=0)
    assert wait_after(retry, 1, failing(after=30), "") == 30
    assert wait_after(retry, 1, failing(after=3), "") == 10


def test_jitter_is_the_same_for_the_same_seed_and_within_its_bounds() -> None:
    retry = Retry(first_interval=10, jitter=0.5)
    drawn = [wait_after(retry, 1, failing(), f"{number}") for number in range(200)]
    assert drawn == [wait_after(retry, 1, failing(), f"{number}") for number in range(200)]
    found = [each for each in drawn if each is not None]
    assert len(found) == 200
    assert 5 <= min(found) < 6
    assert 14 < max(found) <= 15


def test_waits_grow_up_to_their_cap_whatever_the_factor() -> None:
    retry = Retry(attempts=MAX_ATTEMPTS, first_interval=1, factor=10, max_interval=86_400, jitter=0)
    assert [wait_after(retry, number, failing(), "") for number in (1, 2, 3, 5, 6, 19)] == [
        1,
        10,
        100,
        10_000,
        86_400,
        86_400,
    ]


def test_a_verdict_is_known_by_its_short_name(engine: Engine) -> None:
    instance = failed(engine)
    act(engine, instance, "retry", decision_id="a-long-id-of-somebody")
    assert engine.status(instance)["verdicts"][0].split()[0] == digest_of_id("a-long-id-of-somebody")
