"""Every path of the refund, on a real engine."""

import json
from datetime import timedelta
from typing import Any

import pytest
from durabletask.client import OrchestrationStatus

from activities import records as record_activities
from contracts.base import as_utc_text
from contracts.human_step import digest_of_id
from contracts.records import RecordBatch
from contracts.refund import MAX_DATA
from orchestrators import refund as orchestrator
from services import documents
from services.record_store import RecordStore, RecordStoreError, get_record_store
from tests.orchestrators.engine import Engine
from tests.orchestrators.goldens import actions_of, turns
from tests.orchestrators.reading import actions, answered, entries, head, open_waits, size, verdict, waits_of
from tests.orchestrators.test_goldens import run

CREATE, NOTIFY, PROCESS = "create_refund", "notify_created", "process_refund"
EXPIRE, CANCEL, REVERSE = "notify_expired", "cancel_refund", "reverse_refund"
GATE = "waiting_for_intervention"
OPERATOR = {"by": "Olga", "reason": "as they asked"}
FOREVER = {"fails": 1000, "status": 500}
ONCE = {"fails": 1, "status": 500}


def refund(*failing: str, how: dict[str, Any] = FOREVER, **more: Any) -> dict[str, Any]:
    """A durable input; calls that fail open their gate after one attempt."""
    given: dict[str, Any] = {
        "amount": "12.50",
        "currency": "EUR",
        "customer": "Carl",
        "data": "first",
        "mailbox": "operators@example.com",
        "retry": {"attempts": 1},
        "simulate": dict.fromkeys(failing, how),
    }
    return given | more


def made(engine: Engine, instance: str) -> dict[str, dict[str, Any]]:
    """The calls of a run by their names, in the order in which they were begun."""
    run = head(engine, instance).run
    kept = documents.read_all(get_record_store(), instance, run, "call", 100)
    calls: list[Any] = [each.body for each in kept]
    return {each["name"]: each for each in calls}


def states(engine: Engine, instance: str) -> dict[str, str]:
    """How the calls of a run went."""
    return {name: each["state"] for name, each in made(engine, instance).items()}


def call_id(engine: Engine, instance: str, name: str) -> str:
    """The id of one guarded call."""
    found: str = made(engine, instance)[name]["call_id"]
    return found


def at_gate(engine: Engine, instance: str, name: str) -> str:
    """The id of a guarded call, which has to wait for people."""
    found = call_id(engine, instance, name)
    engine.phase(found, GATE)
    return found


def act(engine: Engine, instance: str, name: str, action: str, **more: Any) -> None:
    """Do something at the gate of a call."""
    gate = at_gate(engine, instance, name)
    engine.event(gate, action, OPERATOR | more)
    engine.state(gate)


def given_to(engine: Engine, instance: str, name: str) -> dict[str, Any]:
    """What a guarded call was started with."""
    given: dict[str, Any] = json.loads(engine.state(call_id(engine, instance, name)).serialized_input or "{}")
    return given


def body_of(engine: Engine, instance: str, name: str) -> dict[str, Any]:
    """The body that a call was made with."""
    body: dict[str, Any] = given_to(engine, instance, name)["call"]["body"]
    return body


def waiting(engine: Engine, given: dict[str, Any] | None = None) -> str:
    """A run that waits until it is ready."""
    instance = engine.start("refund", given or refund())
    engine.phase(instance, "waiting_for_ready")
    return instance


def failed(engine: Engine, instance: str) -> str:
    """Why a run failed, in words."""
    state = engine.end(instance)
    assert state.runtime_status is OrchestrationStatus.FAILED, state
    assert state.failure_details is not None
    assert not open_waits(instance)
    return state.failure_details.message


def ready(engine: Engine, instance: str, decision_id: str | None = None, **more: Any) -> None:
    """Say that it is ready."""
    engine.event(instance, "Ready", {"decision_id": decision_id, **more} if decision_id else None)


# In time, and too late


def test_a_refund_that_is_ready_in_time_is_processed(engine: Engine) -> None:
    instance = waiting(engine)
    assert states(engine, instance) == {CREATE: "succeeded", NOTIFY: "succeeded"}
    engine.advance(hours=23)
    ready(engine, instance, "r1", by="Rita", comments="goods are back", channel="api")
    output = engine.output(instance)
    assert (output["status"], output["data"]) == ("Refunded", "first")
    assert output["refund"] == {"refund_id": instance, "status": "created"}
    assert states(engine, instance) == dict.fromkeys((CREATE, NOTIFY, PROCESS), "succeeded")
    assert engine.phase(instance, "refunded")["waiting_for"] is None
    assert [(each.action, each.detail, each.after) for each in entries(instance)] == [
        ("started", None, "creating"),
        ("called", CREATE, "waiting_for_ready"),
        ("called", NOTIFY, "waiting_for_ready"),
        ("received", "Ready", "processing"),
        ("called", PROCESS, "processing"),
        ("ended", None, "refunded"),
    ]
    received = entries(instance)[3]
    assert (received.actor, received.channel, received.comment) == ("Rita", "api", "goods are back")
    assert verdict(engine, instance) == "intact"


def test_each_call_gets_what_the_refund_is_and_what_the_first_one_gave(engine: Engine) -> None:
    instance = waiting(engine, refund(reason="broken", assigned_to=["olga@example.com"]))
    ready(engine, instance)
    engine.output(instance)
    start = {"refund_id": instance, "data": "first", "amount": "12.50", "currency": "EUR", "customer": "Carl"}
    start["reason"] = "broken"
    created = {"refund_id": instance, "status": "created"}
    assert body_of(engine, instance, CREATE) == start
    for name in (NOTIFY, PROCESS):
        assert body_of(engine, instance, name) == {**start, "refund": created}
        given = given_to(engine, instance, name)
        assert given["skippable"] is (name == NOTIFY)
        assert (given["editable"], given["part_of"], given["execution_timeout"]) == (True, instance, None)
        assert given["assigned_to"] == [{"email": "olga@example.com", "name": None}]
        assert given["mailbox"] == "operators@example.com"
        assert given["retry"]["attempts"] == 1


def test_the_wait_is_on_record_while_it_lasts(engine: Engine) -> None:
    instance = waiting(engine)
    status = engine.status(instance)
    (wait,) = open_waits(instance)
    assert (wait.kind, wait.title, wait.people, wait.actions, wait.path) == (
        "refund",
        "Refund of 12.50 EUR to Carl",
        (),
        ("ready",),
        f"/api/refunds/{instance}",
    )
    assert wait.deadline is not None
    assert (status["waiting_for"], status["wait"]) == ("Ready", 1)
    assert status["deadline"] == as_utc_text(wait.deadline)
    ready(engine, instance)
    engine.output(instance)
    assert [is_open for _, is_open in waits_of(instance)] == [False]
    assert engine.status(instance)["wait"] is None


def test_a_refund_that_is_not_ready_within_a_day_expires(engine: Engine) -> None:
    instance = waiting(engine)
    engine.advance(hours=23, minutes=59, seconds=59.999)
    engine.phase(instance, "waiting_for_ready")
    engine.advance(seconds=0.001)
    assert engine.output(instance)["status"] == "Expired"
    assert states(engine, instance) == dict.fromkeys((CREATE, NOTIFY, EXPIRE), "succeeded")
    assert actions(instance) == ["started", "called", "called", "timed_out", "called", "ended"]
    assert engine.phase(instance, "expired")["deadline"] is not None
    assert not open_waits(instance)


def test_another_time_than_a_day_can_be_given(engine: Engine) -> None:
    instance = waiting(engine, refund(ready_hours=0.5))
    engine.advance(minutes=30)
    assert engine.output(instance)["status"] == "Expired"


def test_ready_before_the_refund_is_created_counts(engine: Engine) -> None:
    instance = engine.start("refund", refund(CREATE, how=ONCE))
    at_gate(engine, instance, CREATE)
    ready(engine, instance, "early")
    assert engine.phase(instance, "creating")["data"]["Ready"] is not None
    assert answered(engine, instance, "early") == "taken"
    act(engine, instance, CREATE, "retry")
    assert engine.output(instance)["status"] == "Refunded"
    assert list(states(engine, instance)) == [CREATE, NOTIFY, PROCESS]
    assert not waits_of(instance)


def test_ready_that_comes_with_the_start_counts(engine: Engine) -> None:
    engine.client.schedule_new_orchestration("refund", input=refund(), instance_id="ready-at-once")
    ready(engine, "ready-at-once")
    assert engine.output("ready-at-once")["status"] == "Refunded"


def test_the_day_begins_when_the_refund_is_created(engine: Engine) -> None:
    instance = engine.start("refund", refund(CREATE, how=ONCE))
    at_gate(engine, instance, CREATE)
    engine.advance(hours=10)
    act(engine, instance, CREATE, "retry")
    engine.phase(instance, "waiting_for_ready")
    engine.advance(hours=23)
    engine.phase(instance, "waiting_for_ready")
    engine.advance(hours=1)
    assert engine.output(instance)["status"] == "Expired"


@pytest.mark.parametrize(("first", "status"), [("Ready", "Refunded"), ("the time", "Expired")])
def test_at_the_very_moment_what_came_first_counts(engine: Engine, first: str, status: str) -> None:
    instance = waiting(engine)
    engine.client.suspend_orchestration(instance)  # so that both are there before the first is taken
    engine.state(instance)
    if first == "Ready":
        ready(engine, instance, "r1")
    engine.advance(hours=24)
    if first != "Ready":
        ready(engine, instance, "r1")
    engine.client.resume_orchestration(instance)
    assert engine.output(instance)["status"] == status
    assert answered(engine, instance, "r1") == ("taken" if first == "Ready" else "too_late")


def test_ready_after_the_time_is_refused_and_changes_nothing(engine: Engine) -> None:
    instance = waiting(engine, refund(EXPIRE, how=ONCE))
    engine.advance(hours=24)
    at_gate(engine, instance, EXPIRE)
    ready(engine, instance, "late")
    engine.phase(instance, "expiring")
    assert answered(engine, instance, "late") == "too_late"
    assert "Ready" not in engine.status(instance)["data"]
    act(engine, instance, EXPIRE, "retry")
    assert engine.output(instance)["status"] == "Expired"
    assert PROCESS not in states(engine, instance)


def test_of_two_readys_the_first_counts_and_the_second_is_a_duplicate(engine: Engine) -> None:
    instance = waiting(engine, refund(PROCESS, how=ONCE))
    ready(engine, instance, "r1")
    at = engine.phase(instance, "processing")["data"]["Ready"]
    engine.advance(minutes=1)
    ready(engine, instance, "r2")
    ready(engine, instance, "r1")
    ready(engine, instance)
    assert [answered(engine, instance, each) for each in ("r1", "r2")] == ["taken", "duplicate"]
    assert engine.status(instance)["data"]["Ready"] == at
    act(engine, instance, PROCESS, "retry")
    engine.output(instance)
    assert actions(instance).count("received") == 1
    assert list(states(engine, instance)) == [CREATE, NOTIFY, PROCESS]


def test_of_two_early_readys_the_first_counts_too(engine: Engine) -> None:
    instance = engine.start("refund", refund(CREATE, how=ONCE))
    at_gate(engine, instance, CREATE)
    ready(engine, instance, "r1")
    at = engine.status(instance)["data"]["Ready"]
    engine.advance(minutes=1)
    ready(engine, instance, "r2")
    assert engine.phase(instance, "creating")["data"]["Ready"] == at
    assert [answered(engine, instance, each) for each in ("r1", "r2")] == ["taken", "duplicate"]


def _store_away(store: RecordStore, batch: RecordBatch) -> list[int]:
    raise RecordStoreError("away")


@pytest.mark.parametrize(("first", "status"), [("Ready", "Refunded"), ("the time", "Expired")])
def test_what_came_first_counts_though_the_store_was_away(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, first: str, status: str
) -> None:
    instance = waiting(engine)
    engine.advance(hours=23)
    with monkeypatch.context() as patch:
        patch.setattr(record_activities, "put_on_record", _store_away)
        swap(engine, instance, "second")  # the run stands still until that is on record
        engine.state(instance)
        if first == "Ready":
            ready(engine, instance, "r1")
        engine.advance(hours=2)
        ready(engine, instance, "r2")
    engine.advance(hours=1)
    assert engine.output(instance)["status"] == status
    assert answered(engine, instance, "r2") == ("duplicate" if first == "Ready" else "too_late")


def test_swaps_and_ready_are_taken_in_their_order_though_the_store_was_away(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = waiting(engine)
    with monkeypatch.context() as patch:
        patch.setattr(record_activities, "put_on_record", _store_away)
        for data in ("second", "third", "fourth"):
            swap(engine, instance, data)
        ready(engine, instance)
        swap(engine, instance, "fifth")
        engine.state(instance)
    engine.advance(minutes=10)
    assert engine.output(instance)["data"] == "fifth"
    assert body_of(engine, instance, PROCESS)["data"] == "fourth"


def test_a_flood_of_readys_is_not_put_on_record(engine: Engine) -> None:
    instance = waiting(engine, refund(PROCESS, how=ONCE))
    for _ in range(30):
        ready(engine, instance)
    engine.phase(instance, "processing")
    assert 1 <= actions(instance).count("refused") <= 10


ANYTHING: list[Any] = [
    None,
    True,
    42,
    "go",
    [],
    {},
    {"by": 3},
    {"by": ""},
    {"decision_id": "with space"},
    {"link": {}},
    {"comments": "x" * 4001},
    {"encoding": "json", "data": "null"},
    {"__class__": "Settings", "__module__": "settings", "__data__": "{}"},
]


@pytest.mark.parametrize("payload", ANYTHING, ids=lambda payload: repr(payload)[:40])
def test_ready_counts_whatever_comes_with_it(engine: Engine, payload: Any) -> None:
    instance = waiting(engine)
    engine.raw_event(instance, "Ready", json.dumps(payload))
    assert engine.output(instance)["status"] == "Refunded"
    assert not engine.status(instance)["warnings"]


@pytest.mark.parametrize("text", ["not json", "[" * 100_000, "\x00"], ids=lambda text: text[:8])
def test_ready_with_what_is_no_json_never_fails_the_run(engine: Engine, text: str) -> None:
    instance = waiting(engine)
    engine.raw_event(instance, "Ready", text)
    assert len(engine.phase(instance, "waiting_for_ready")["warnings"]) == 1
    ready(engine, instance)
    assert engine.output(instance)["status"] == "Refunded"


RPC = "__IwfSystem_ExecuteRpc"


def published(*channels: str, value: Any = None) -> dict[str, Any]:
    """The payload of a remote call that publishes on channels."""
    return {"InterStateChannelPublishing": [{"channelName": each, "value": value} for each in channels]}


ENCODED = {"encoding": "json", "data": '{"by": "Rita"}'}


@pytest.mark.parametrize(
    ("payload", "by"),
    [
        (published("Ready"), None),
        (published("Ready", "Ready"), None),
        (published("Ready", value={"by": "Rita"}), "Rita"),
        (published("Ready", value=ENCODED), "Rita"),
        (published("Ready", value={"by": 3}), None),
        ({"encoding": "json", "data": json.dumps(published("Ready", value={"by": "Rita"}))}, "Rita"),
    ],
    ids=repr,
)
def test_ready_counts_as_a_message_of_a_remote_call_too(engine: Engine, payload: Any, by: str | None) -> None:
    instance = waiting(engine)
    engine.event(instance, RPC, payload)
    assert engine.output(instance)["status"] == "Refunded"
    assert not engine.status(instance)["warnings"]
    (received,) = [each for each in entries(instance) if each.action == "received"]
    assert (received.actor, received.channel, received.detail) == (by, "event", "Ready")


@pytest.mark.parametrize(
    "payload",
    [
        None,
        "Ready",
        [],
        {},
        published(),
        published("ready"),
        published("signal_channel_command_retry"),
        published("Ready", "another"),
        published("Ready", value={"encoding": "json", "data": "not json"}),
        published("Ready", value="x" * 4_000),
        {"InterStateChannelPublishing": [{"channelName": "Ready"}] * 101},
        {**published("Ready"), "more": 1},
    ],
    ids=lambda payload: repr(payload)[:60],
)
def test_a_remote_call_that_is_malformed_or_for_another_channel_is_set_aside(engine: Engine, payload: Any) -> None:
    instance = waiting(engine)
    engine.event(instance, RPC, payload)
    (warning,) = engine.phase(instance, "waiting_for_ready")["warnings"]
    assert warning.startswith(f"An event '{RPC}' was set aside: ")
    assert actions(instance)[-1] == "set_aside"
    ready(engine, instance)
    assert engine.output(instance)["status"] == "Refunded"


@pytest.mark.parametrize("first", ["Ready", RPC])
def test_of_a_ready_and_a_remote_call_the_first_counts(engine: Engine, first: str) -> None:
    instance = waiting(engine, refund(PROCESS, how=ONCE))
    for name in (first, "Ready" if first == RPC else RPC):
        engine.event(instance, name, published("Ready") if name == RPC else None)
    engine.phase(instance, "processing")
    assert (actions(instance).count("received"), actions(instance).count("refused")) == (1, 1)


# The data


def swap(engine: Engine, instance: str, data: Any, decision_id: str | None = None) -> None:
    """Swap the data."""
    engine.event(instance, "swap", {"data": data, "decision_id": decision_id})


def reply(engine: Engine, instance: str, decision_id: str) -> Any:
    """What was kept for who swapped the data."""
    name = f"reply|{digest_of_id(decision_id)}"
    found = documents.read(get_record_store(), instance, head(engine, instance).run, name)
    return found.body if found is not None else None


def test_a_swap_changes_what_later_calls_get(engine: Engine) -> None:
    instance = engine.start("refund", refund(CREATE, PROCESS, how=ONCE))
    at_gate(engine, instance, CREATE)
    swap(engine, instance, {"second": 2}, "s1")
    assert engine.phase(instance, "creating")["data"] == {"SomeData": {"second": 2}}
    act(engine, instance, CREATE, "retry")
    engine.phase(instance, "waiting_for_ready")
    swap(engine, instance, ["third"], "s2")
    ready(engine, instance)
    at_gate(engine, instance, PROCESS)
    swap(engine, instance, None, "s3")
    act(engine, instance, PROCESS, "retry")
    output = engine.output(instance)
    assert output["data"] is None
    got = [body_of(engine, instance, name)["data"] for name in (CREATE, NOTIFY, PROCESS)]
    assert got == ["first", {"second": 2}, ["third"]]
    assert [reply(engine, instance, each) for each in ("s1", "s2", "s3")] == [
        {"old_data": "first"},
        {"old_data": {"second": 2}},
        {"old_data": ["third"]},
    ]
    assert [answered(engine, instance, each) for each in ("s1", "s2", "s3")] == ["taken"] * 3
    assert actions(instance).count("swapped") == 3


def test_a_swap_that_comes_twice_is_made_once(engine: Engine) -> None:
    instance = waiting(engine)
    swap(engine, instance, "second", "s1")
    swap(engine, instance, "second", "s1")
    assert engine.status(instance)["data"] == {"SomeData": "second"}
    assert reply(engine, instance, "s1") == {"old_data": "first"}
    assert actions(instance).count("swapped") == 1


def test_many_swaps_at_once_form_one_chain(engine: Engine) -> None:
    instance = waiting(engine)
    engine.client.suspend_orchestration(instance)
    for number in range(20):
        swap(engine, instance, number, f"s{number}")
    engine.client.resume_orchestration(instance)
    assert engine.status(instance)["data"] == {"SomeData": 19}
    old = [reply(engine, instance, f"s{number}")["old_data"] for number in range(20)]
    assert old == ["first", *range(19)]


MALFORMED: list[Any] = [
    None,
    "text",
    [],
    {},
    {"dat": 1},
    {"data": 1, "extra": 2},
    {"data": 1, "decision_id": "with space"},
    {"data": "x" * (MAX_DATA - 1)},
    {"data": "\ud800"},
    {"data": json.loads("[" * 51 + "]" * 51)},
]


@pytest.mark.parametrize("payload", MALFORMED, ids=lambda payload: repr(payload)[:40])
def test_a_malformed_swap_is_set_aside(engine: Engine, payload: Any) -> None:
    instance = waiting(engine)
    engine.raw_event(instance, "swap", json.dumps(payload))
    status = engine.phase(instance, "waiting_for_ready")
    assert status["data"] == {"SomeData": "first"}
    assert len(status["warnings"]) == 1
    assert actions(instance)[-1] == "set_aside"


@pytest.mark.parametrize("text", ["\U0001f600" * (MAX_DATA // 2 - 1)], ids=lambda t: t[0])
def test_the_status_stays_under_its_limit_with_the_longest_data(engine: Engine, text: str) -> None:
    instance = waiting(engine)
    engine.client.suspend_orchestration(instance)
    for number in range(70):
        swap(engine, instance, text, f"s{number}")
    engine.event(instance, "swap", {"wrong": 1})
    engine.client.resume_orchestration(instance)
    assert engine.status(instance)["data"] == {"SomeData": text}
    assert size(engine, instance) <= 16_000
    assert answered(engine, instance, "s69") == "taken"


def test_data_are_not_swapped_without_end(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orchestrator, "MAX_SWAPS", 2)
    instance = waiting(engine)
    for number in range(3):
        swap(engine, instance, number, f"s{number}")
    assert engine.status(instance)["data"] == {"SomeData": 1}
    assert [answered(engine, instance, f"s{number}") for number in range(3)] == ["taken", "taken", "too_often"]


# Calls that fail


def to_gate(engine: Engine, name: str, how: dict[str, Any] = ONCE, **more: Any) -> str:
    """A run in which the call of this name waits for people."""
    instance = engine.start("refund", refund(name, how=how, **more))
    engine.state(instance)
    if name == PROCESS:
        ready(engine, instance)
    if name == EXPIRE:
        engine.advance(hours=24)
    at_gate(engine, instance, name)
    return instance


@pytest.mark.parametrize("name", [CREATE, NOTIFY, PROCESS, EXPIRE])
def test_a_call_that_fails_is_tried_again_by_a_person(engine: Engine, name: str) -> None:
    instance = to_gate(engine, name)
    act(engine, instance, name, "retry")
    if name in (CREATE, NOTIFY):
        engine.phase(instance, "waiting_for_ready")
        ready(engine, instance)
    assert engine.output(instance)["status"] == ("Expired" if name == EXPIRE else "Refunded")
    assert "call_failed" not in actions(instance)
    assert dict.fromkeys(states(engine, instance).values()) == {"succeeded": None}


def test_a_call_that_fails_is_tried_again_by_itself_first(engine: Engine) -> None:
    instance = engine.start("refund", refund(CREATE, how={"fails": 3, "status": 503}, retry={"attempts": 4}))
    engine.advance(minutes=1)
    engine.phase(instance, "waiting_for_ready")
    assert not open_waits(call_id(engine, instance, CREATE))


@pytest.mark.parametrize("name", [NOTIFY, EXPIRE])
def test_a_notification_can_be_skipped(engine: Engine, name: str) -> None:
    instance = to_gate(engine, name, FOREVER)
    act(engine, instance, name, "skip", result={"told": "by phone"})
    if name == NOTIFY:
        ready(engine, instance)
    assert engine.output(instance)["status"] == ("Expired" if name == EXPIRE else "Refunded")
    assert states(engine, instance)[name] == "skipped"
    (skipped,) = [each for each in entries(instance) if each.action == "skipped"]
    assert (skipped.actor, skipped.detail) == ("Olga", name)


@pytest.mark.parametrize("name", [CREATE, PROCESS])
def test_what_moves_money_cannot_be_skipped(engine: Engine, name: str) -> None:
    instance = to_gate(engine, name, FOREVER)
    act(engine, instance, name, "skip", decision_id="s1")
    gate = at_gate(engine, instance, name)
    assert answered(engine, gate, "s1") == "not_allowed"


def test_a_refund_that_cannot_be_created_fails_and_nothing_is_undone(engine: Engine) -> None:
    instance = to_gate(engine, CREATE, FOREVER)
    act(engine, instance, CREATE, "fail")
    assert failed(engine, instance) == "create_refund failed for good. Nothing was undone."
    assert states(engine, instance) == {CREATE: "failed"}
    assert actions(instance) == ["started", "call_failed", "ended"]
    assert engine.phase(instance, "failed")["data"] == {"SomeData": "first"}
    assert verdict(engine, instance) == "intact"


@pytest.mark.parametrize("name", [NOTIFY, PROCESS, EXPIRE])
def test_a_call_that_is_failed_later_cancels_the_refund(engine: Engine, name: str) -> None:
    instance = to_gate(engine, name, FOREVER)
    act(engine, instance, name, "fail")
    assert failed(engine, instance) == f"{name} failed for good. What was done was undone by cancel_refund."
    assert (states(engine, instance)[name], states(engine, instance)[CANCEL]) == ("failed", "succeeded")
    assert REVERSE not in states(engine, instance)
    assert actions(instance)[-3:] == ["call_failed", "compensated", "ended"]
    assert engine.phase(instance, "failed")["deadline"] is None
    assert verdict(engine, instance) == "intact"


def test_a_call_that_nobody_looks_after_fails_in_the_end(engine: Engine) -> None:
    instance = to_gate(engine, PROCESS, FOREVER)
    engine.advance(hours=72)
    assert failed(engine, instance) == f"{PROCESS} failed for good. What was done was undone by cancel_refund."


def test_what_was_done_is_undone_newest_first(engine: Engine) -> None:
    instance = waiting(engine, refund(NOTIFY))
    ready(engine, instance)
    engine.phase(instance, "processing")
    assert states(engine, instance)[PROCESS] == "succeeded"
    swap(engine, instance, "second")
    act(engine, instance, NOTIFY, "fail")
    undone = f"{NOTIFY} failed for good. What was done was undone by reverse_refund, cancel_refund."
    assert failed(engine, instance) == undone
    told = [(each.action, each.detail) for each in entries(instance)][-3:]
    assert told == [("compensated", REVERSE), ("compensated", CANCEL), ("ended", None)]
    assert list(states(engine, instance)) == [CREATE, NOTIFY, PROCESS, REVERSE, CANCEL]
    for name in (REVERSE, CANCEL):
        body = body_of(engine, instance, name)
        assert (body["data"], body["refund"]) == ("second", {"refund_id": instance, "status": "created"})


def test_one_is_undone_after_the_other(engine: Engine) -> None:
    instance = waiting(engine, refund(NOTIFY, REVERSE))
    ready(engine, instance)
    act(engine, instance, NOTIFY, "fail")
    engine.phase(instance, "compensating")
    at_gate(engine, instance, REVERSE)
    engine.advance(hours=1)
    assert CANCEL not in states(engine, instance)


def test_the_wait_is_given_up_when_the_other_branch_fails(engine: Engine) -> None:
    instance = waiting(engine, refund(NOTIFY, CANCEL, how=FOREVER))
    act(engine, instance, NOTIFY, "fail")
    status = engine.phase(instance, "compensating")
    assert (status["waiting_for"], status["wait"]) == (None, None)
    assert not open_waits(instance)
    ready(engine, instance, "late")
    swap(engine, instance, "second", "s1")
    engine.advance(hours=25)
    assert engine.phase(instance, "compensating")["data"] == {"SomeData": "second"}
    assert answered(engine, instance, "late") == "too_late"
    assert answered(engine, instance, "s1") == "taken"
    assert list(states(engine, instance)) == [CREATE, NOTIFY, CANCEL]


def test_a_branch_that_is_under_way_is_waited_for_before_anything_is_undone(engine: Engine) -> None:
    instance = waiting(engine, refund(NOTIFY, PROCESS, how=ONCE))
    ready(engine, instance)
    act(engine, instance, NOTIFY, "fail")
    engine.phase(instance, "processing")
    assert CANCEL not in states(engine, instance)
    act(engine, instance, PROCESS, "retry")
    message = f"{NOTIFY} failed for good. What was done was undone by reverse_refund, cancel_refund."
    assert failed(engine, instance) == message


@pytest.mark.parametrize("first", [NOTIFY, PROCESS])
def test_when_both_branches_fail_it_is_cancelled_once(engine: Engine, first: str) -> None:
    instance = waiting(engine, refund(NOTIFY, PROCESS))
    ready(engine, instance)
    second = NOTIFY if first == PROCESS else PROCESS
    act(engine, instance, first, "fail")
    engine.phase(instance, "processing")
    act(engine, instance, second, "fail")
    message = f"{first} and {second} failed for good. What was done was undone by cancel_refund."
    assert failed(engine, instance) == message
    assert actions(instance).count("compensated") == 1


def test_what_undoes_it_waits_for_a_person_too(engine: Engine) -> None:
    instance = waiting(engine, refund(NOTIFY, CANCEL, how=ONCE))
    act(engine, instance, NOTIFY, "fail")
    engine.phase(instance, "compensating")
    act(engine, instance, CANCEL, "retry")
    assert failed(engine, instance) == f"{NOTIFY} failed for good. What was done was undone by cancel_refund."


def test_when_one_cannot_be_undone_the_others_are(engine: Engine) -> None:
    instance = waiting(engine, refund(NOTIFY, REVERSE))
    ready(engine, instance)
    act(engine, instance, NOTIFY, "fail")
    act(engine, instance, REVERSE, "fail")
    assert failed(engine, instance) == (
        f"{NOTIFY} failed for good. What was done was undone by cancel_refund. This failed for good too: {REVERSE}."
    )
    told = [(each.action, each.detail) for each in entries(instance)][-3:]
    assert told == [("compensation_failed", REVERSE), ("compensated", CANCEL), ("ended", None)]
    assert states(engine, instance)[REVERSE] == "failed"


def test_a_guarded_call_that_is_terminated_has_failed(engine: Engine) -> None:
    instance = to_gate(engine, PROCESS, FOREVER)
    engine.client.terminate_orchestration(call_id(engine, instance, PROCESS), output="stop")
    assert failed(engine, instance) == f"{PROCESS} failed for good. What was done was undone by cancel_refund."


def test_who_is_asked_about_a_call_is_reminded_every_day(engine: Engine) -> None:
    instance = to_gate(engine, PROCESS, FOREVER)
    gate = at_gate(engine, instance, PROCESS)
    for days in range(3):
        assert actions(gate).count("reminded") == days
        engine.advance(hours=23.9)
        assert actions(gate).count("reminded") == days
        engine.advance(hours=0.1)
    assert actions(gate)[-3:] == ["mailed", "timed_out", "ended"]
    assert actions(gate).count("reminded") == 2


def test_the_calls_have_the_version_of_the_run_and_records_of_their_own(engine: Engine) -> None:
    given = refund(CREATE, how=ONCE)
    instance = engine.client.schedule_new_orchestration("refund", input=given, version="2")
    gate = at_gate(engine, instance, CREATE)
    (started,) = [each.executionStarted for each in engine.history(gate) if each.HasField("executionStarted")]
    assert started.version.value == "2"
    act(engine, instance, CREATE, "retry")
    assert actions(gate) == ["started", "call_failed", "asked", "mailed", "retried", "called", "ended"]
    assert verdict(engine, gate) == "intact"


# The execution timeout

AN_HOUR: dict[str, Any] = {"execution_timeout": 3600.0}


def test_a_run_that_takes_too_long_undoes_what_was_done(engine: Engine) -> None:
    instance = waiting(engine, refund(**AN_HOUR))
    engine.advance(minutes=59, seconds=59.999)
    engine.phase(instance, "waiting_for_ready")
    engine.advance(seconds=0.001)
    assert "execution timeout" in failed(engine, instance)
    engine.phase(instance, "execution_timed_out")
    assert states(engine, instance) == {CREATE: "succeeded", NOTIFY: "succeeded", CANCEL: "succeeded"}
    assert actions(instance) == ["started", "called", "called", "compensated", "timed_out", "ended"]
    assert verdict(engine, instance) == "intact"


@pytest.mark.parametrize(
    ("name", "undone"),
    [(CREATE, []), (NOTIFY, [CANCEL]), (PROCESS, [CANCEL]), (EXPIRE, [CANCEL])],
)
def test_a_call_that_is_under_way_ends_with_the_run(engine: Engine, name: str, undone: list[str]) -> None:
    more: dict[str, Any] = {"ready_hours": 0.5} if name == EXPIRE else {}
    instance = engine.start("refund", refund(name, **AN_HOUR, **more))
    engine.state(instance)
    if name == PROCESS:
        ready(engine, instance)
    engine.advance(minutes=30)
    gate = at_gate(engine, instance, name)
    left = json.loads(engine.state(gate).serialized_input or "")["execution_timeout"]
    assert left == (1800 if name == EXPIRE else 3600)
    engine.advance(minutes=30)
    assert "execution timeout" in failed(engine, instance)
    assert engine.end(gate).runtime_status is OrchestrationStatus.FAILED
    assert engine.status(gate)["phase"] == "execution_timed_out"
    assert states(engine, instance)[name] == "failed"
    assert [name for name in states(engine, instance) if name in (CANCEL, REVERSE)] == undone
    engine.phase(instance, "execution_timed_out")


@pytest.mark.parametrize("name", [CREATE, NOTIFY, PROCESS])
def test_a_clock_that_is_behind_at_the_end_of_the_run_does_not_let_it_expire(engine: Engine, name: str) -> None:
    """The clocks of two hosts differ: one has set the timer, the other one is told that it has fired."""
    instance = to_gate(engine, name, FOREVER, **AN_HOUR)
    engine.advance(hours=1)
    failed(engine, instance)
    past = turns(engine.history(instance))
    fired = next(turn for turn in past if any(event.HasField("timerFired") for event in turn.new))
    (began,) = [event for event in fired.new if event.HasField("orchestratorStarted")]
    began.timestamp.FromDatetime(began.timestamp.ToDatetime() - timedelta(milliseconds=5))
    response = run("refund", fired)
    assert actions_of(response)[0] == fired.actions
    assert "timed_out" not in str(response)


def test_a_call_that_was_ended_by_the_time_is_not_what_failed(engine: Engine) -> None:
    instance = to_gate(engine, PROCESS, FOREVER, **AN_HOUR)
    engine.client.suspend_orchestration(instance)
    engine.client.terminate_orchestration(call_id(engine, instance, PROCESS), output="stop")
    engine.advance(hours=1)
    engine.client.resume_orchestration(instance)
    assert "execution timeout" in failed(engine, instance)
    assert states(engine, instance)[CANCEL] == "succeeded"


def test_a_run_that_is_out_of_time_waits_for_a_call_that_goes_on(engine: Engine) -> None:
    instance = to_gate(engine, PROCESS, FOREVER, **AN_HOUR)
    gate = call_id(engine, instance, PROCESS)
    engine.client.suspend_orchestration(gate)
    engine.advance(hours=2)
    assert engine.state(instance).runtime_status is OrchestrationStatus.RUNNING
    assert engine.kinds(instance).count("timerFired") == 1
    assert CANCEL not in states(engine, instance)
    engine.client.resume_orchestration(gate)
    assert "execution timeout" in failed(engine, instance)


def test_what_undoes_it_has_all_the_time_that_it_takes(engine: Engine) -> None:
    instance = waiting(engine, refund(CANCEL, how=ONCE, **AN_HOUR))
    engine.advance(hours=1)
    engine.phase(instance, "compensating")
    assert given_to(engine, instance, CANCEL)["execution_timeout"] is None
    ready(engine, instance, "late")
    swap(engine, instance, "second", "s1")
    engine.advance(hours=5)
    assert answered(engine, instance, "late") == "too_late"
    assert answered(engine, instance, "s1") == "taken"
    act(engine, instance, CANCEL, "retry")
    assert "execution timeout" in failed(engine, instance)


def test_what_comes_when_the_time_has_passed_is_answered_too(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    instance = waiting(engine, refund(CANCEL, how=ONCE, **AN_HOUR))
    with monkeypatch.context() as patch:
        patch.setattr(record_activities, "put_on_record", _store_away)
        swap(engine, instance, "second", "s1")
        engine.advance(hours=1)
        swap(engine, instance, "third", "s2")
        ready(engine, instance, "late")
        engine.state(instance)
    engine.advance(hours=1)
    assert engine.phase(instance, "compensating")["data"] == {"SomeData": "third"}
    assert [answered(engine, instance, each) for each in ("s1", "s2", "late")] == ["taken", "taken", "too_late"]
    assert body_of(engine, instance, CANCEL)["data"] == "second"
    act(engine, instance, CANCEL, "retry")
    assert "execution timeout" in failed(engine, instance)


def test_a_run_that_is_undone_already_does_not_run_out_of_time(engine: Engine) -> None:
    instance = waiting(engine, refund(NOTIFY, CANCEL, how=ONCE, **AN_HOUR))
    act(engine, instance, NOTIFY, "fail")
    at_gate(engine, instance, CANCEL)
    engine.advance(hours=2)
    act(engine, instance, CANCEL, "retry")
    assert failed(engine, instance) == f"{NOTIFY} failed for good. What was done was undone by cancel_refund."


def test_what_was_processed_by_then_is_reversed(engine: Engine) -> None:
    instance = waiting(engine, refund(NOTIFY, **AN_HOUR))
    ready(engine, instance)
    engine.advance(hours=1)
    failed(engine, instance)
    assert [name for name in states(engine, instance) if name in (CANCEL, REVERSE)] == [REVERSE, CANCEL]


def test_a_run_that_ends_in_time_is_not_timed_out(engine: Engine) -> None:
    instance = waiting(engine, refund(**AN_HOUR))
    engine.advance(minutes=59)
    ready(engine, instance)
    assert engine.output(instance)["status"] == "Refunded"
    engine.advance(hours=2)
    assert engine.output(instance)["status"] == "Refunded"


# Other ends


def test_a_terminated_run_ends_as_it_is(engine: Engine) -> None:
    instance = waiting(engine)
    engine.client.terminate_orchestration(instance, output="stop")
    assert engine.end(instance).runtime_status is OrchestrationStatus.TERMINATED
    assert list(states(engine, instance)) == [CREATE, NOTIFY]


@pytest.mark.parametrize(
    "given",
    [
        None,
        {"amount": 0},
        {"amount": "12.501"},
        {"currency": "eur"},
        {"data": "x" * MAX_DATA},
        {"simulate": {"pay": ONCE}},
        {"ready_hours": 0},
        {"assigned_to": ["a@example.com", "A@example.com"]},
        {"api": "ftp://example.com"},
        {"api": "https://example.com/"},
    ],
    ids=repr,
)
def test_an_input_that_is_no_refund_fails_the_run_and_calls_nobody(engine: Engine, given: Any) -> None:
    message = failed(engine, engine.start("refund", given))
    assert "RefundInput" in message


def test_a_run_whose_calls_cannot_be_made_fails_before_the_first(engine: Engine) -> None:
    """The address of the first call has no id in it, those of the others would be too long."""
    instance = engine.start("refund", refund(api="https://example.com"), instance_id="\u4e2d" * 300)
    assert "HttpCall" in failed(engine, instance)
    assert engine.kinds(instance).count("subOrchestrationInstanceCreated") == 0


def test_nothing_but_an_id_is_needed(engine: Engine) -> None:
    instance = engine.start("refund", {})
    engine.phase(instance, "waiting_for_ready")
    assert [wait.title for wait in open_waits(instance)] == ["Refund"]
    assert body_of(engine, instance, CREATE) == {"refund_id": instance, "data": None}
