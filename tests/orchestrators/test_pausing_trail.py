"""What a pause leaves behind: its record, also while another is under way, and what there is room for in a status."""

import json
import threading
from datetime import UTC, datetime

import pytest

from activities import records as record_activities
from contracts.audit import TrailHead
from contracts.human_step import (
    MAX_STATUS,
    MAX_VERDICTS,
    Decision,
    PauseStanding,
    Progress,
    Standing,
    Verdict,
    digest_of_id,
    digest_of_person,
)
from contracts.pause import MAX_RESUME_DATA
from contracts.records import RecordBatch
from services.record_store import RecordStore, RecordStoreError
from services.records import put_on_record
from tests.orchestrators.engine import Engine
from tests.orchestrators.pausing import APPROVED, Pauses, is_paused, start_approval, start_order
from tests.orchestrators.reading import actions, entries, head, open_waits, size, verdict, waits_of

pytestmark = pytest.mark.usefixtures("tidy")

WIDE = "\U0001f600"
"""Twelve characters of JSON in ASCII."""


class Store:
    """Puts batches on record unless they have an entry that is refused as long as that is so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refused: tuple[str, ...] = ()
        self.done: list[list[str]] = []
        monkeypatch.setattr(record_activities, "put_on_record", self._put)

    def _put(self, store: RecordStore, batch: RecordBatch) -> list[int]:
        told: list[str] = [entry.action for entry in batch.entries]
        if told[-1:] and told[-1] in self.refused:
            raise RecordStoreError("not now")
        self.done.append(told)
        return put_on_record(store, batch)


def no_more_than_there_is(engine: Engine, instance: str) -> None:
    """Hold what is said to be stored against the store, and verify it."""
    assert head(engine, instance).stored <= len(entries(instance))
    assert [entry.number for entry in entries(instance)] == list(range(1, len(entries(instance)) + 1))
    assert verdict(engine, instance) == "intact"


def test_a_pause_is_on_record_though_what_came_before_it_is_not_yet(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance, pauses = start_order(engine)
    store = Store(monkeypatch)
    store.refused = ("decided", "resumed")
    engine.event(instance, "approval_event", APPROVED)
    pauses.pause(natively=False)
    no_more_than_there_is(engine, instance)
    assert store.done[-1] == ["decided", "paused"]
    assert not any(is_open for _, is_open in waits_of(instance))
    assert engine.status(instance)["trail"]["stored"] == len(entries(instance))
    store.refused = ("resumed",)
    engine.advance(seconds=2)
    assert store.done[-1] == ["decided"]
    pauses.resume(natively=False)
    no_more_than_there_is_pending(engine, instance)
    assert engine.status(instance)["decision"] is None
    store.refused = ()
    engine.advance(minutes=1)
    assert engine.output(instance)["status"] == "Approved by Manager"
    assert actions(instance)[-6:] == ["mailed", "decided", "paused", "resumed", "placed", "ended"]
    no_more_than_there_is(engine, instance)


def test_a_pause_that_cannot_be_put_on_record_says_nothing_that_is_not_there(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance, pauses = start_order(engine)
    store = Store(monkeypatch)
    store.refused = ("decided", "paused")
    engine.event(instance, "approval_event", APPROVED)
    pauses.pause(natively=False)
    assert is_paused(engine, instance)
    no_more_than_there_is_pending(engine, instance)
    store.refused = ("paused",)
    engine.advance(seconds=2)
    no_more_than_there_is_pending(engine, instance)
    assert actions(instance)[-1] == "decided"
    pauses.resume(natively=False)
    store.refused = ()
    engine.advance(hours=1)
    assert engine.output(instance)["status"] == "Approved by Manager"
    no_more_than_there_is(engine, instance)


def no_more_than_there_is_pending(engine: Engine, instance: str) -> None:
    """The same while entries are on their way, for which only the history vouches."""
    assert head(engine, instance).stored <= len(entries(instance)) < head(engine, instance).entries
    assert verdict(engine, instance) == "unanchored"


@pytest.mark.parametrize("natively", [True, False])
def test_the_trail_verifies_before_while_and_after(engine: Engine, *, natively: bool) -> None:
    instance, pauses = start_approval(engine, approvers=[{"email": "a@example.com"}])
    no_more_than_there_is(engine, instance)
    for clock in ("freeze", "run"):
        pauses.pause(clock, natively=natively)
        no_more_than_there_is(engine, instance)
        assert entries(instance)[-1].detail == clock
        engine.advance(minutes=1)
        pauses.resume({"n": pauses.number}, clock, natively=natively)
        no_more_than_there_is(engine, instance)
        resumed = entries(instance)[-1]
        assert (resumed.action, resumed.payload_sha256 is not None) == ("resumed", True)
        assert resumed.detail == ("60 seconds later" if clock == "freeze" else None)
    engine.event(instance, "decision", {"approver": "a@example.com", "is_approved": True})
    engine.output(instance)
    no_more_than_there_is(engine, instance)


def test_a_pause_in_the_midst_of_the_first_record_waits_for_its_salt(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(monkeypatch)
    store.refused = ("asked",)
    instance = engine.start("approval", {"requester": "Al", "item": "Leave", "timeout_hours": 1.0})
    pauses = Pauses(engine, instance)
    pauses.pause(natively=False)
    assert is_paused(engine, instance)
    assert entries(instance) == []
    pauses.resume(natively=False)
    pauses.pause(natively=False)
    store.refused = ()
    engine.advance(minutes=1)
    assert is_paused(engine, instance)
    assert actions(instance) == ["started", "asked", "paused", "resumed", "paused"]
    assert all(entry.salt for entry in entries(instance) if entry.comment is not None)
    no_more_than_there_is(engine, instance)
    assert engine.status(instance)["phase"] == "requesting_approval"
    pauses.resume(natively=False)
    engine.phase(instance, "waiting_for_approval")


def test_a_wait_that_a_late_record_opens_again_stays_closed(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    instance, pauses = start_approval(engine, approvers=[{"email": "a@example.com"}])
    store = Store(monkeypatch)
    store.refused = ("changes_requested",)
    vote = {"approver": "a@example.com", "vote": "request_changes", "comments": "Which one?"}
    engine.event(instance, "decision", vote)
    pauses.pause(natively=False)
    engine.advance(seconds=0.5)
    pauses.resume(natively=False)
    assert store.done == [["voted", "changes_requested", kind] for kind in ("paused", "resumed")]
    (wait,) = open_waits(instance)
    store.refused = ()
    engine.advance(minutes=1)
    assert store.done[2] == ["voted", "changes_requested"]
    assert open_waits(instance) == [wait]
    assert engine.phase(instance, "waiting_for_changes")["wait"] == wait.number
    no_more_than_there_is(engine, instance)


def test_data_are_kept_up_to_their_limit_over_all_resumptions(engine: Engine) -> None:
    instance, pauses = start_order(engine)
    half = {"a": "x" * (MAX_RESUME_DATA // 2)}
    for data in (half, {"b": half["a"]}, {"a": 1}):
        pauses.pause()
        pauses.resume(data)
    status = engine.status(instance)
    assert any("were not kept" in warning for warning in status["warnings"])
    assert status["resume_data"] == {"a": 1}
    assert entries(instance)[-3].payload_sha256 is None  # of what was not kept nothing is said
    engine.event(instance, "approval_event", APPROVED)
    assert engine.output(instance)["resume_data"] == {"a": 1}


def test_data_for_which_a_status_has_no_room_are_kept_all_the_same(engine: Engine) -> None:
    instance, pauses = start_order(engine)
    pauses.pause()
    pauses.resume({"a": WIDE * 1_200})
    assert engine.status(instance)["resume_data"] is None
    assert size(engine, instance) <= 16_384
    engine.event(instance, "approval_event", APPROVED)
    assert engine.output(instance)["resume_data"] == {"a": WIDE * 1_200}


def test_the_longest_pause_of_the_longest_approval_has_room_in_a_status() -> None:
    at, who = datetime(2026, 1, 1, tzinfo=UTC), WIDE * 254
    people = [digest_of_person(f"{number}@example.com") for number in range(50)]
    progress = Progress(
        phase="waiting_for_approval",
        waiting_for="decision",
        deadline=at,
        decision=Decision(approved=True, by=who, comments=WIDE * 200, at=at, decision_id="d" * 128),
        warnings=(WIDE * 250,) * 5,
        wait=1_000_000,
        trail=TrailHead(run="20260101T000000000000Z", entries=1_000_000, stored=1_000_000, head="0" * 64),
        verdicts=tuple(
            Verdict(id=digest_of_id(str(n)), said="01234567", code="handed_over") for n in range(MAX_VERDICTS)
        ),
        standing=Standing(
            round=20,
            shown="0" * 64,
            seats=dict.fromkeys(people, "request_changes"),
            gave_away=tuple(people),
            locked=tuple(range(1000, 1020)),
            mail_failed=("a@b.c",) * 3,
        ),
        pause=PauseStanding(number=1_000_000, paused=True, by=who, at=at, reason=WIDE * 255, frozen_seconds=1e9 / 3),
        resume_data={"a": "x" * 10_000},
    )
    shown = progress.fitting().plain()
    assert len(json.dumps(shown)) <= MAX_STATUS
    again = Progress.model_validate(shown)
    assert again.pause is not None
    assert again.pause.model_dump(exclude={"by", "reason"}) == progress.pause.model_dump(exclude={"by", "reason"})  # type: ignore[union-attr]


def test_two_runs_that_are_paused_at_once_store_for_themselves(engine: Engine) -> None:
    runs = [start_order(engine) for _ in range(3)]
    threads = [threading.Thread(target=pauses.pause) for _, pauses in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for instance, pauses in runs:
        assert actions(instance)[-1] == "paused"
        pauses.resume()
        assert verdict(engine, instance) == "intact"
