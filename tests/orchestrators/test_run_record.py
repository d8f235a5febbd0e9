"""What runs say of themselves: every entry and every wait, on every path, on a real engine."""

import json
import logging
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from durabletask.client import OrchestrationStatus
from durabletask.internal.orchestrator_service_pb2 import CreateInstanceRequest

import services.records
from activities import approval as approval_activities
from activities import purchase_order as purchase_order_activities
from activities import records as record_activities
from contracts.audit import GENESIS, TrailHead, digest_of
from contracts.records import RecordBatch
from orchestrators.run_record import MAX_SET_ASIDE
from services.record_store import RecordStore, RecordStoreError, get_record_store
from tests.orchestrators.engine import Engine
from tests.orchestrators.reading import actions, entries, head, said, verdict, waits_of

PEOPLE = ["boss@example.com", "deputy@example.com"]
REQUEST = {"requester": "Alice", "item": "Vacation", "timeout_hours": 1.0, "approvers": PEOPLE}
BOSS, DEPUTY = PEOPLE
DECISION = {"is_approved": True, "approver": BOSS, "comments": "as you like", "channel": "link", "decision_id": "d1"}
APPROVAL = {"approver_name": "Boss", "approved": True, "comments": "go", "channel": "api", "decision_id": "d1"}


def order(cost: float = 500) -> dict[str, Any]:
    """A durable input; a total of 1,000 unless told otherwise."""
    item = {"order_id": "o1", "cost": cost, "product": "Widget", "quantity": 2}
    return {"order": item, "timeout_seconds": 3600.0, "approvers": PEOPLE}


WAITING = "waiting_for_approval"
ACTIONS = ("approve", "reject", "request_changes", "abstain")
STARTED = ("started", "Alice", "api", None, "requesting_approval")
ASKED = ("asked", None, None, "requesting_approval", WAITING)
MAILED = ("mailed", None, None, WAITING, WAITING)
ASKED_BEFORE_3 = ("asked", None, None, "requesting_approval", "requesting_approval")
MAILED_BEFORE_3 = ("mailed", None, None, "requesting_approval", WAITING)
ORDER_STARTED = ("started", None, "api", None, "requesting_approval")

APPROVALS: dict[str, tuple[dict[str, Any] | None, list[Any]]] = {
    "approved": (
        DECISION,
        [
            ("voted", BOSS, "link", WAITING, WAITING),
            ("decided", BOSS, "link", WAITING, "approved"),
            ("mailed", None, None, "approved", "approved"),
            ("ended", None, None, "approved", "approved"),
        ],
    ),
    "rejected": (
        DECISION | {"is_approved": False, "channel": "api"},
        [
            ("voted", BOSS, "api", WAITING, WAITING),
            ("decided", BOSS, "api", WAITING, "rejected"),
            ("mailed", None, None, "rejected", "rejected"),
            ("ended", None, None, "rejected", "rejected"),
        ],
    ),
    "by a raw event": (
        {"is_approved": True, "approver": "Deputy@Example.com"},
        [
            ("voted", DEPUTY, "event", WAITING, WAITING),
            ("decided", DEPUTY, "event", WAITING, "approved"),
            ("mailed", None, None, "approved", "approved"),
            ("ended", None, None, "approved", "approved"),
        ],
    ),
    "timed out": (
        None,
        [
            ("timed_out", None, "timer", WAITING, "timed_out"),
            ("mailed", None, None, "timed_out", "timed_out"),
            ("ended", None, None, "timed_out", "timed_out"),
        ],
    ),
}
APPROVALS_BEFORE_3: dict[str, tuple[dict[str, Any] | None, list[Any]]] = {
    "approved": (
        DECISION,
        [("decided", BOSS, "link", WAITING, "approved"), ("ended", None, None, "approved", "approved")],
    ),
    "rejected": (
        DECISION | {"is_approved": False, "channel": "api"},
        [("decided", BOSS, "api", WAITING, "rejected"), ("ended", None, None, "rejected", "rejected")],
    ),
    "by a raw event": (
        {"is_approved": True, "approver": "Operator"},
        [("decided", "Operator", "event", WAITING, "approved"), ("ended", None, None, "approved", "approved")],
    ),
    "timed out": (
        None,
        [("timed_out", None, "timer", WAITING, "timed_out"), ("ended", None, None, "timed_out", "timed_out")],
    ),
}
PLACING, CANCELLING = "placing_order", "cancelling_order"
ORDERS: dict[str, tuple[dict[str, Any] | None, list[Any]]] = {
    "approved": (
        APPROVAL,
        [
            ("decided", "Boss", "api", WAITING, PLACING),
            ("placed", None, None, PLACING, "approved"),
            ("ended", None, None, "approved", "approved"),
        ],
    ),
    "rejected": (
        APPROVAL | {"approved": False},
        [
            ("decided", "Boss", "api", WAITING, CANCELLING),
            ("cancelled", None, None, CANCELLING, "rejected"),
            ("ended", None, None, "rejected", "rejected"),
        ],
    ),
    "timed out": (
        None,
        [
            ("timed_out", None, "timer", WAITING, CANCELLING),
            ("cancelled", None, None, CANCELLING, "timed_out"),
            ("ended", None, None, "timed_out", "timed_out"),
        ],
    ),
}
PATHS = [
    *(pytest.param("approval", "3", *each, id=f"approval {name}") for name, each in APPROVALS.items()),
    *(
        pytest.param("approval", "2", *each, id=f"approval of version 2 {name}")
        for name, each in APPROVALS_BEFORE_3.items()
    ),
    *(pytest.param("purchase_order", "3", *each, id=f"purchase order {name}") for name, each in ORDERS.items()),
]


@pytest.mark.parametrize(("workflow", "version", "decision", "ending"), PATHS)
def test_every_path_says_what_happened_and_who_is_waited_for(
    engine: Engine, workflow: str, version: str, decision: dict[str, Any] | None, ending: list[Any]
) -> None:
    is_approval = workflow == "approval"
    is_new = is_approval and version == "3"
    given = REQUEST if is_approval else order()
    instance = engine.client.schedule_new_orchestration(workflow, input=given, version=version)
    status = engine.phase(instance, WAITING)
    asked = [ASKED, MAILED] if is_new else [ASKED_BEFORE_3, MAILED_BEFORE_3]
    beginning = [STARTED if is_approval else ORDER_STARTED, *asked]
    assert said(instance) == beginning
    entry = entries(instance)[1]
    assert entry.people == tuple(PEOPLE) if is_new else entry.detail == "boss@example.com, deputy@example.com"
    assert entry.round == (1 if is_new else None)

    [(wait, is_open)] = waits_of(instance)
    assert is_open
    assert (status["wait"], wait.number, wait.run) == (1, 1, status["trail"]["run"])
    assert (wait.kind, wait.people, wait.actions) == (workflow, tuple(PEOPLE), ACTIONS if is_new else ACTIONS[:2])
    assert wait.title == ("Vacation" if is_approval else "2 of Widget, 1,000.00 in all")
    assert wait.path == (f"/api/requests/{instance}" if is_approval else f"/status/{instance}")
    assert wait.deadline == wait.since + timedelta(hours=1)

    if decision is None:
        engine.advance(hours=1)
    else:
        engine.event(instance, "decision" if is_approval else "approval_event", decision)
    output = engine.output(instance)
    assert said(instance) == beginning + ending
    assert waits_of(instance) == [(wait, False)]
    status = engine.status(instance)
    assert (status["wait"], status["waiting_for"]) == (None, None)
    assert verdict(engine, instance) == "intact"

    # The output has the head too, which stays when the custom status is not shown.
    found = entries(instance)
    assert output["trail"] == status["trail"]
    assert output["trail"] == {
        "run": found[0].run,
        "entries": len(found),
        "stored": len(found),
        "head": found[-1].hash,
    }
    assert [each.previous for each in found] == [GENESIS, *(each.hash for each in found[:-1])]
    assert [each.number for each in found] == list(range(1, len(found) + 1))
    assert {(each.instance_id, each.series, each.run) for each in found} == {(instance, "run", found[0].run)}


def test_a_small_order_waits_for_nobody(engine: Engine) -> None:
    instance = engine.start("purchase_order", order(1))
    output = engine.output(instance)
    assert said(instance) == [
        ("started", None, "api", None, PLACING),
        ("auto_approved", None, None, PLACING, PLACING),
        ("placed", None, None, PLACING, "auto_approved"),
        ("ended", None, None, "auto_approved", "auto_approved"),
    ]
    assert waits_of(instance) == []
    assert output["trail"]["entries"] == 4
    assert verdict(engine, instance) == "intact"


def test_what_was_sent_is_there_as_a_hash_and_the_comment_as_text_and_hash(engine: Engine) -> None:
    instance = engine.start("approval", REQUEST)
    engine.phase(instance, WAITING)
    engine.event(instance, "decision", DECISION)
    engine.output(instance)
    voted = entries(instance)[3]
    assert voted.salt is not None
    assert voted.payload_sha256 == digest_of(DECISION, voted.salt)
    assert (voted.comment, voted.comment_sha256) == ("as you like", digest_of("as you like", voted.salt))
    text = json.dumps([entry.plain() for entry in entries(instance)])
    assert "d1" not in [entry.detail for entry in entries(instance)]
    assert text.count("as you like") == 1


def test_two_runs_salt_the_same_comment_differently(engine: Engine) -> None:
    salts = set()
    for _ in range(2):
        instance = engine.start("approval", REQUEST)
        engine.phase(instance, WAITING)
        engine.event(instance, "decision", DECISION)
        engine.output(instance)
        salts.add(entries(instance)[3].salt)
    assert len(salts) == 2
    assert None not in salts


def test_nobody_named_is_a_wait_for_nobody_by_name(engine: Engine) -> None:
    instance = engine.start("approval", REQUEST | {"approvers": []})
    engine.phase(instance, WAITING)
    assert waits_of(instance)[0][0].people == ()
    assert entries(instance)[1].people == ()
    assert actions(instance) == ["started", "asked"]


def test_of_a_flood_of_malformed_events_a_few_are_noted_and_the_run_goes_on(engine: Engine) -> None:
    instance = engine.start("approval", REQUEST)
    engine.phase(instance, WAITING)
    for number in range(200):
        engine.raw_event(instance, "decision", "{" if number % 2 else json.dumps({"number": number}))
    status = engine.phase(instance, WAITING)
    assert len(status["warnings"]) == 5
    assert [entry.action for entry in entries(instance)] == ["started", "asked", "mailed", *["set_aside"] * 20]
    assert (status["trail"]["entries"], status["trail"]["stored"]) == (23, 23)
    assert engine.kinds(instance).count("taskScheduled") == 1 + 2 + 1 + 20  # the flood goes on, and nothing is written
    assert waits_of(instance)[0][1]
    engine.event(instance, "decision", DECISION)
    assert engine.output(instance)["status"] == "Approved"
    found = entries(instance)
    aside = [entry for entry in found if entry.action == "set_aside"]
    assert len(aside) == MAX_SET_ASIDE == 20
    assert [entry.action for entry in found] == [
        "started", "asked", "mailed", *["set_aside"] * 20, "voted", "decided", "mailed", "ended",
    ]  # fmt: skip
    assert {entry.channel for entry in aside} == {"event"}
    assert "was set aside" in (aside[0].detail or "")
    assert found[23].before == WAITING
    assert verdict(engine, instance) == "intact"


@pytest.mark.parametrize("workflow", ["approval", "purchase_order"])
def test_a_malformed_event_is_on_record_at_once_while_the_run_waits_on(engine: Engine, workflow: str) -> None:
    """Whoever tries out what a run takes is seen before it ends, and although it may never end by itself."""
    is_approval = workflow == "approval"
    event = "decision" if is_approval else "approval_event"
    instance = engine.start(workflow, REQUEST if is_approval else order())
    engine.phase(instance, WAITING)
    for count in (1, 2, 3):
        engine.event(instance, event, {"odd": count})
        status = engine.phase(instance, WAITING)
        found = entries(instance)
        assert [entry.action for entry in found] == ["started", "asked", "mailed", *["set_aside"] * count]
        assert (found[-1].before, found[-1].after, found[-1].channel) == (WAITING, WAITING, "event")
        assert status["trail"]["head"] == found[-1].hash
        assert (status["trail"]["entries"], status["trail"]["stored"]) == (3 + count, 3 + count)
        assert (status["waiting_for"], status["wait"], len(status["warnings"])) == (event, 1, count)
        assert verdict(engine, instance) == "intact"
    engine.advance(hours=1)
    assert engine.output(instance)["trail"]["entries"] == len(entries(instance))
    assert verdict(engine, instance) == "intact"


def test_an_event_that_comes_while_another_is_put_on_record_is_taken_afterwards(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(store: RecordStore, batch: RecordBatch) -> list[int]:
        raise RecordStoreError("away")

    instance = engine.start("approval", REQUEST)
    engine.phase(instance, WAITING)
    with monkeypatch.context() as patch:
        patch.setattr(record_activities, "put_on_record", away)
        engine.event(instance, "decision", {"odd": True})
        engine.event(instance, "decision", {"odd": True})
        engine.event(instance, "decision", DECISION)
        assert engine.phase(instance, WAITING)["trail"]["entries"] == 4
    engine.advance(minutes=30)
    assert engine.output(instance)["status"] == "Approved"
    assert actions(instance) == [
        "started", "asked", "mailed", "set_aside", "set_aside", "voted", "decided", "mailed", "ended",
    ]  # fmt: skip
    assert verdict(engine, instance) == "intact"


@pytest.mark.parametrize("workflow", ["approval", "purchase_order"])
def test_the_head_of_the_status_is_never_behind_the_store(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, workflow: str
) -> None:
    """An entry in the store that the run does not own to yet would pass for one that somebody put there."""
    behind: list[Any] = []
    batches: list[RecordBatch] = []
    put_on_record = services.records.put_on_record

    def looking(store: RecordStore, batch: RecordBatch) -> list[int]:
        refused = put_on_record(store, batch)
        state = engine.client.get_orchestration_state(instance)
        said = TrailHead.model_validate(json.loads((state and state.serialized_custom_status) or "{}")["trail"])
        batches.append(batch)
        if (said.entries, said.head) != (batch.entries[-1].number, batch.entries[-1].hash):
            behind.append((said, batch))
        return refused

    instance = f"ahead-{workflow}"
    monkeypatch.setattr(record_activities, "put_on_record", looking)
    is_approval = workflow == "approval"
    engine.start(workflow, REQUEST if is_approval else order(), instance_id=instance)
    for event in ({"odd": True}, {"odd": True}, DECISION if is_approval else APPROVAL):
        engine.event(instance, "decision" if is_approval else "approval_event", event)
    engine.output(instance)
    assert len(batches) >= 5
    assert not behind


def test_an_early_decision_is_noted_after_who_was_asked(engine: Engine) -> None:
    engine.client.schedule_new_orchestration("approval", input=REQUEST, instance_id="early-record")
    engine.event("early-record", "decision", DECISION)
    engine.output("early-record")
    # Who was asked is on record before anybody can vote; their mails, and the one with the outcome, come afterwards.
    assert actions("early-record")[:4] == ["started", "asked", "voted", "decided"]
    assert set(actions("early-record")[4:-1]) == {"mailed"}
    assert actions("early-record")[-1] == "ended"
    assert not waits_of("early-record")[0][1]


# The store


def tamper(data_folder: Path, statement: str, *values: str) -> None:
    """Change the store behind everybody's back."""
    with closing(sqlite3.connect(data_folder / "records.db")) as file, file:
        file.execute(statement, values)


def test_a_place_that_somebody_took_is_refused_with_an_alarm_and_the_run_goes_on(
    engine: Engine, data_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    instance = engine.start("approval", REQUEST)
    run = engine.phase(instance, WAITING)["trail"]["run"]
    third = entries(instance)[2]
    forged = third.model_copy(update={"number": 4, "actor": "Mallory"})
    body = json.dumps({"entry": forged.plain()})
    key = f"run|{run}|{4:010d}"
    tamper(data_folder, "INSERT INTO record VALUES (?, ?, ?)", f"trail:{instance}", key, body)
    engine.event(instance, "decision", DECISION)
    assert engine.output(instance)["status"] == "Approved"
    status = engine.status(instance)
    assert "not the run's own any more" in status["warnings"][-1]
    assert status["decision"]["by"] == BOSS
    assert entries(instance)[3].actor == "Mallory"
    assert not waits_of(instance)[0][1]
    alarms = [each.getMessage() for each in caplog.records if each.levelno == logging.CRITICAL]
    assert len(alarms) == 1
    assert "its entry 4" in alarms[0]
    assert verdict(engine, instance) == "broken"


def test_a_row_that_is_no_entry_is_refused_too(engine: Engine, data_folder: Path) -> None:
    instance = engine.start("approval", REQUEST)
    run = engine.phase(instance, WAITING)["trail"]["run"]
    for number in (4, 5):
        key = f"run|{run}|{number:010d}"
        tamper(data_folder, "INSERT INTO record VALUES (?, ?, ?)", f"trail:{instance}", key, "rubbish")
    engine.event(instance, "decision", DECISION)
    assert engine.output(instance)["status"] == "Approved"
    assert len(engine.status(instance)["warnings"]) == 1
    assert verdict(engine, instance) == "broken"


def test_the_record_activity_again_changes_nothing(engine: Engine, data_folder: Path) -> None:
    instance = engine.start("purchase_order", order())
    engine.phase(instance, WAITING)
    engine.event(instance, "approval_event", APPROVAL)
    engine.output(instance)

    def rows() -> list[Any]:
        with closing(sqlite3.connect(data_folder / "records.db")) as file:
            return file.execute("SELECT * FROM record ORDER BY 1, 2").fetchall()

    before = rows()
    batches = [
        RecordBatch.model_validate_json(event.taskScheduled.input.value)
        for event in engine.history(instance)
        if event.HasField("taskScheduled") and event.taskScheduled.name == "record"
    ]
    assert len(batches) == 4
    for batch in [*batches, *reversed(batches)]:
        assert services.records.put_on_record(get_record_store(), batch) == []
    assert rows() == before


def test_while_the_store_is_away_the_run_waits_and_then_goes_on(
    engine: Engine, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def away(store: RecordStore, batch: RecordBatch) -> list[int]:
        tried.append(batch)
        raise RecordStoreError("away")

    with monkeypatch.context() as patch:
        patch.setattr(record_activities, "put_on_record", away)
        instance = engine.start("purchase_order", order(1))
        engine.advance(hours=2)
        status = engine.status(instance)
        assert (status["phase"], status["trail"]["stored"], status["trail"]["entries"]) == (PLACING, 0, 2)
        assert engine.state(instance).runtime_status is OrchestrationStatus.RUNNING
        assert sum(batch.entries[0].instance_id == instance for batch in tried) >= 12  # in the end every half hour
    engine.advance(minutes=30)
    assert engine.output(instance)["status"] == "Auto-Approved"
    assert [entry.number for entry in entries(instance)] == [1, 2, 3, 4]
    assert verdict(engine, instance) == "intact"


def test_a_decision_that_is_not_on_record_takes_no_effect_and_shows_no_verdict(
    engine: Engine, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(store: RecordStore, batch: RecordBatch) -> list[int]:
        raise RecordStoreError("away")

    instance = engine.start("purchase_order", order())
    engine.phase(instance, WAITING)
    with monkeypatch.context() as patch:
        patch.setattr(record_activities, "put_on_record", away)
        engine.event(instance, "approval_event", APPROVAL)
        engine.advance(minutes=20)
        assert engine.status(instance)["decision"] is None
        assert not list(data_folder.glob(f"orders/*/{instance}.*json"))
        assert waits_of(instance)[0][1]
    engine.advance(minutes=30)
    assert engine.output(instance)["status"] == "Approved by Boss"
    assert verdict(engine, instance) == "intact"


def test_a_deadline_that_passes_while_the_store_is_away_ends_the_wait_afterwards(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(store: RecordStore, batch: RecordBatch) -> list[int]:
        raise RecordStoreError("away")

    with monkeypatch.context() as patch:
        patch.setattr(record_activities, "put_on_record", away)
        instance = engine.start("approval", REQUEST)
        engine.advance(hours=2)
    engine.advance(minutes=30)
    assert engine.output(instance)["status"] == "Timeout"
    assert actions(instance) == ["started", "asked", "timed_out", "mailed", "mailed", "ended"]
    assert [entry.detail for entry in entries(instance)][3:5] == ["asked", "decided"]
    assert not waits_of(instance)[0][1]


# Ids


IDS = ["../../etc/passwd", "two\nlines", "\x00", "ü" * 300, "🎉", "a|b|c", "%_'\"", "run|x", " ", "x" * 600]


@pytest.mark.parametrize("name", IDS, ids=lambda name: repr(name)[:20])
def test_an_instance_id_of_any_text_has_its_records(engine: Engine, name: str) -> None:
    instance = engine.start("approval", REQUEST, instance_id=name)
    engine.phase(instance, WAITING)
    assert waits_of(name)[0][0].instance_id == name
    engine.event(instance, "decision", DECISION)
    assert engine.output(instance)["status"] == "Approved"
    assert [entry.instance_id for entry in entries(name)] == [name] * 7
    assert not waits_of(name)[0][1]
    assert verdict(engine, name) == "intact"


# What fails


class Broken:
    """A mailer, and an order desk, that never work."""

    def send(self, *_: Any) -> None:
        raise OSError("no route")

    def place(self, *_: Any) -> None:
        raise OSError("no route")


def test_a_mail_that_cannot_be_sent_is_noted_while_the_wait_is_open_all_along(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approval_activities, "get_mailer", Broken)
    instance = engine.start("approval", REQUEST)
    for _ in range(6):
        assert waits_of(instance) == [] or waits_of(instance)[0][1]
        assert engine.status(instance)["wait"] == 1
        engine.advance(seconds=20)
    engine.phase(instance, WAITING)
    assert [each[0] for each in said(instance)] == ["started", "asked", "mail_failed"]
    assert waits_of(instance)[0][1]
    engine.event(instance, "decision", DECISION)
    assert engine.phase(instance, "approved")["decision"]["by"] == BOSS  # although that cannot be mailed either
    assert not waits_of(instance)[0][1]
    engine.advance(minutes=2)
    assert engine.output(instance)["status"] == "Approved"
    assert actions(instance)[3:] == ["voted", "decided", "mail_failed", "ended"]
    assert verdict(engine, instance) == "intact"


def test_a_run_whose_effect_fails_for_good_has_closed_its_wait_and_said_what_was_decided(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purchase_order_activities, "get_order_desk", Broken)
    engine.start("purchase_order", order(), instance_id="fails")
    engine.phase("fails", WAITING)
    engine.event("fails", "approval_event", APPROVAL)
    engine.advance(minutes=3)
    assert engine.end("fails").runtime_status is OrchestrationStatus.FAILED
    assert [each[0] for each in said("fails")] == ["started", "asked", "mailed", "decided"]
    assert not waits_of("fails")[0][1]
    assert head(engine, "fails").entries == head(engine, "fails").stored == 4
    assert verdict(engine, "fails") == "intact"


def test_a_run_without_a_version_puts_nothing_on_record(engine: Engine) -> None:
    request = CreateInstanceRequest(instanceId="versionless", name="approval")
    request.version.value = ""
    request.input.value = json.dumps(REQUEST)
    engine.client._stub.StartInstance(request)  # the client cannot say so
    status = engine.phase("versionless", WAITING)
    assert (status["wait"], status["trail"]) == (None, None)
    engine.event("versionless", "decision", DECISION | {"is_approved": False})
    output = engine.output("versionless")
    assert (output["status"], "trail" in output) == ("Rejected", False)
    assert (entries("versionless"), waits_of("versionless")) == ([], [])
    activities = [
        event.taskScheduled.name for event in engine.history("versionless") if event.HasField("taskScheduled")
    ]
    assert activities == ["send_approval_request"]
