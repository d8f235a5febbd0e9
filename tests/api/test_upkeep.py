"""The timers that keep the records true and purge what has ended, on the app with a clock that the test moves."""

import asyncio
import json
import logging
import re
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from azure.durable_functions import DurableFunctionsClient
from durabletask.client import OrchestrationQuery
from durabletask.internal.orchestrator_service_pb2 import CreateInstanceRequest, TerminateRequest

import services.records
from activities import approval as approval_activities
from activities import purchase_order as purchase_order_activities
from activities import records as records_activity
from contracts.audit import Entry
from contracts.records import RecordBatch, Wait
from local_host.client_binding import client_configuration
from local_host.task_hub.clock import SystemClock
from local_host.testing import AppControl, running_app
from services import clock, record_store_sqlite, trail, waits
from services.record_store import Change, RecordStore, RecordStoreError, close_record_store, get_record_store
from services.verification import Verified
from settings import get_settings
from tests.polling import until
from triggers import purge, reconcile, windows
from triggers.instances import ENDED, page_of
from triggers.verifying import verified, whole

ROOT = Path(__file__).parents[2]
PEOPLE = ["boss@example.com", "deputy@example.com"]
REQUEST = {"requester": "Alice", "item": "Vacation", "timeout_hours": 1000.0, "approvers": PEOPLE}
ITEM = {"order_id": "order123", "cost": 500.0, "product": "Widget", "quantity": 2}
ORDER = {
    "order": ITEM,
    "timeout_seconds": 3600.0 * 1000,
    "approvers": PEOPLE,
}
DECISION = {"is_approved": True, "approver": PEOPLE[0], "comments": "fine"}
type Breaking = Callable[[], AbstractContextManager[None]]

MANAGEMENT = "/runtime/webhooks/durabletask/instances"


class House:
    """The app, its records, and what its timers say when they are run."""

    def __init__(self, control: AppControl, log: pytest.LogCaptureFixture, file: Path) -> None:
        self.control = control
        self._log = log
        self._file = file

    @property
    def store(self) -> RecordStore:
        """The store of the records."""
        return get_record_store()

    def wait(self, name: str, **changes: Any) -> str:
        """Start an approval that waits for a decision."""
        instance = self.control.start("approval", REQUEST | changes, instance_id=name)
        assert self.control.status(instance)["phase"] == "waiting_for_approval"
        return instance

    def decide(self, *names: str) -> None:
        """Decide approvals."""
        for name in names:
            self.control.event(name, "decision", DECISION)
            assert self.control.output(name)["status"] == "Approved"

    def advance(self, **time: float) -> None:
        """Move the clock."""
        self.control.advance(timedelta(**time))

    def manage(self, verb: str, instance: str, method: str = "POST") -> None:
        """Call the management API, and wait for what it does."""
        path = f"{MANAGEMENT}/{instance}" + (f"/{verb}" if verb else "")
        with httpx.Client(base_url=self.control.url, trust_env=False) as client:
            assert client.request(method, path).is_success
        self.control.settle()

    def reconcile(self) -> dict[str, int]:
        """Run the timer now, and give what it counted."""
        return self._run(reconcile.reconcile_records, "Reconciled the records: ")

    def purge(self) -> dict[str, int]:
        """Run the other timer now, and give what it counted."""
        return self._run(purge.purge_instances, "Purged instances: ")

    @property
    def told(self) -> list[tuple[int, str]]:
        """The levels and sentences of the timers' last run."""
        return [
            (each.levelno, each.getMessage())
            for each in self._log.records
            if each.name in (reconcile.__name__, purge.__name__)
        ]

    def open_waits(self, **query: Any) -> list[str]:
        """Give the instances in the list of open waits, in its order, as one page after another shows them."""
        found, continuation = [], None
        while True:
            page, continuation = waits.page(self.store, waits.WaitQuery(**query), 50, continuation, clock.now())
            found += [wait.instance_id for wait in page]
            if continuation is None:
                return found

    def wait_of(self, instance: str) -> Wait:
        """Give the one open wait of an instance."""
        [wait] = [wait for wait, is_open in waits.of_instance(self.store, instance) if is_open]
        return wait

    def entries(self, instance: str) -> list[Entry]:
        """Give the trail of an instance id."""
        return trail.read(self.store, instance).entries

    def verify(self, instance: str) -> Verified:
        """Verify the trail of an instance id."""
        found: Verified = self.call(lambda client: verified(client, self.store, instance))[1]
        return found

    def rows(self, pattern: str = "%") -> list[tuple[str, str, str]]:
        """Give rows of the store, by their partitions."""
        with closing(sqlite3.connect(self._file)) as file:
            return file.execute("SELECT * FROM record WHERE partition LIKE ? ORDER BY 1, 2", (pattern,)).fetchall()

    def sql(self, statement: str, *values: Any) -> None:
        """Change the store behind everybody's back."""
        with closing(sqlite3.connect(self._file)) as file, file:
            file.execute(statement, values)

    def lose(self, instance: str) -> None:
        """Delete all that the store has of the waits of an instance."""
        self.sql("DELETE FROM record WHERE partition = ? OR key LIKE ?", f"wait:{instance}", f"%|{instance}|%")
        assert not waits.of_instance(self.store, instance)

    def call(self, work: Callable[[DurableFunctionsClient], Any]) -> Any:
        """Do something with a client of the kind that the app's functions get, on the loop of the host."""
        hub = self.control.hub
        configuration = client_configuration(hub.address, hub.credential, self.control.url, "countersign")

        async def on_loop() -> Any:
            return await work(DurableFunctionsClient(configuration))

        return self.control._thread.run(on_loop())

    def _run(self, timer: Any, beginning: str) -> dict[str, int]:
        self._log.clear()
        self.call(lambda client: timer(None, client))
        [sentence] = [sentence for _, sentence in self.told if sentence.startswith(beginning)]
        found = re.findall(r"(\d+) (\w+)", sentence.removeprefix(beginning))
        return {outcome: int(count) for count, outcome in found}


@pytest.fixture
def house(data_folder: Path, caplog: pytest.LogCaptureFixture) -> Iterator[House]:
    """The app, which runs its timers only when the test says so."""
    caplog.set_level(logging.INFO)
    with running_app(ROOT, data_folder) as control:
        clock.set_clock(lambda: control.now)
        try:
            yield House(control, caplog, data_folder / "records.db")
        finally:
            clock.set_clock(clock.system_clock)


@pytest.fixture
def retention(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets how long ended instances are kept, in days."""

    def set_to(days: float, **by_workflow: float) -> None:
        monkeypatch.setenv("RETENTION_DAYS", str(days))
        monkeypatch.setenv("RETENTION_DAYS_BY_WORKFLOW", json.dumps(by_workflow))
        get_settings.cache_clear()

    return set_to


def before_records(house: House, name: str, workflow: str = "approval") -> str:
    """Start a run as it was started before there were records: without a version."""
    request = CreateInstanceRequest(instanceId=name, name=workflow)
    request.version.value = ""
    request.input.value = json.dumps(REQUEST if workflow == "approval" else ORDER)
    house.control.client._stub.StartInstance(request)  # the client cannot say so
    assert house.control.status(name)["trail"] is None
    return name


# What is in order


def test_what_is_in_order_is_left_alone_and_told_of_quietly(house: House) -> None:
    house.wait("a")
    house.wait("b")
    house.wait("over")
    house.decide("over")
    house.manage("suspend", "b")
    house.reconcile()  # which lists what was suspended past the app
    before = house.rows()
    assert house.reconcile() == {"unchanged": 5}
    assert house.told == [(logging.INFO, "Reconciled the records: 5 unchanged")]
    assert house.rows() == before


def test_with_nothing_to_look_at_it_says_so(house: House) -> None:
    assert house.reconcile() == {}
    assert house.purge() == {}
    assert [sentence for _, sentence in house.told] == ["Purged instances: nothing to look at"]


@pytest.mark.parametrize("name", ["reconcile_records", "purge_instances"])
def test_the_timers_run_by_their_schedules(
    name: str, data_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.delenv(f"AzureWebJobs.{name}.Disabled")
    monkeypatch.setenv("RETENTION_DAYS", "0")
    with running_app(ROOT, data_folder) as control:
        clock.set_clock(lambda: control.now)
        try:
            house = House(control, caplog, data_folder / "records.db")
            house.wait("gone")
            house.control.client.terminate_orchestration("gone")
            house.advance(minutes=9)
            assert house.told == []
            house.advance(minutes=22)
            told = [sentence for _, sentence in house.told]
        finally:
            clock.set_clock(clock.system_clock)
    if name == "reconcile_records":
        assert told[0] == "Reconciled the records: 1 closed"
        assert told[1:] == ["Reconciled the records: nothing to look at"] * 2
    else:
        assert told == ["Purged instances: 1 purged"]


# Waits whose runs do not wait


@pytest.mark.parametrize("how", ["terminated", "purged", "replaced", "ended"])
def test_a_wait_whose_run_does_not_wait_is_closed_once(house: House, how: str) -> None:
    house.wait("other")
    wait = house.wait("gone")
    if how == "ended":
        house.decide("gone")
        row = f"wait:{wait}"
        assert house.open_waits() == ["other"]
        [(kept, _)] = waits.of_instance(house.store, "gone")
        house.store.write(waits.reopened(kept))
        assert (row, sorted(house.open_waits())) == (row, ["gone", "other"])
    else:
        house.manage("terminate", "gone")
    if how == "purged":
        house.manage("", "gone", "DELETE")
    if how == "replaced":
        house.advance(seconds=1)
        house.wait("gone", approvers=["new@example.com"])
    assert "gone" in house.open_waits(person=PEOPLE[0])
    counts = house.reconcile()
    assert counts["closed"] == 1
    assert house.told[-1][0] == logging.WARNING
    assert "gone" not in house.open_waits(person=PEOPLE[0])
    assert house.open_waits() == (["other", "gone"] if how == "replaced" else ["other"])
    assert "closed" not in house.reconcile()
    assert house.told[-1][0] == logging.INFO


@pytest.fixture(params=["path_to", "ApprovalInput", "send_mail"])
def broken_code(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Breaking:
    """Breaks the code of the approval so that runs in flight fail when they are replayed, at different places.

    Each place leaves another status, all of them from before the last entries: none, one without entries, some.
    """
    breaking = {
        "path_to": ("orchestrators.approval_desk.path_to", lambda *_: "no path"),
        "ApprovalInput": ("orchestrators.approval.ApprovalInput", None),
        "send_mail": ("orchestrators.mailing.send_mail", "another_activity"),
    }

    @contextmanager
    def broken() -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(*breaking[request.param])
            yield

    return broken


def test_a_run_that_failed_while_it_waited_waits_no_longer(
    house: House, broken_code: Breaking, retention: Callable[..., None]
) -> None:
    retention(0)
    house.wait("gone")
    with broken_code():
        house.control.event("gone", "decision", DECISION)
        assert house.control.state("gone").runtime_status.name == "FAILED"
    assert house.open_waits() == ["gone"]
    assert house.reconcile() == {"closed": 1}
    assert house.open_waits() == []
    assert house.verify("gone").verdict == "intact"
    note, *rows = house.rows("trail:gone")
    assert (len(rows), json.loads(note[2])["entry"]["after"]) == (3, "failed")
    for _, key, _ in rows:
        house.sql("DELETE FROM record WHERE partition = 'trail:gone' AND key = ?", key)
        found = house.verify("gone")
        assert (found.verdict, found.first and found.first.number) == ("broken", int(key[-2:]))
        house.sql("INSERT INTO record VALUES (?, ?, ?)", *next(row for row in rows if row[1] == key))
    house.advance(seconds=1)
    assert house.purge() == {"purged": 1}
    notes = [(entry.action, entry.after) for entry in house.entries("gone") if entry.series == "app"]
    assert notes == [("ended", "failed"), ("purged", None)]
    assert house.verify("gone").verdict == "intact"


def test_a_failed_run_that_is_rewound_to_its_wait_gets_it_back(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    before = house.wait_of(house.wait("back"))
    with monkeypatch.context() as patch:
        patch.setattr("orchestrators.approval_desk.path_to", lambda *_: "no path")
        house.control.event("back", "decision", {"malformed": True})
        assert house.control.state("back").runtime_status.name == "FAILED"
        assert house.reconcile() == {"closed": 1}
    house.manage("rewind", "back")
    assert house.control.status("back")["phase"] == "waiting_for_approval"
    assert house.reconcile() == {"reopened": 1}
    assert house.wait_of("back") == before
    assert house.reconcile() == {"unchanged": 2}
    house.decide("back")
    assert house.verify("back").verdict == "intact"


@pytest.mark.parametrize("cost", [1.0, 500.0])
def test_a_run_that_failed_at_its_effect_and_is_rewound_keeps_its_trail(
    house: House, monkeypatch: pytest.MonkeyPatch, cost: float
) -> None:
    """The SDK does not rewind the timers between tries, so that the run fails again; the trail does not mind."""

    def no_desk() -> None:
        raise OSError("no route")

    with monkeypatch.context() as patch:
        patch.setattr(purchase_order_activities, "get_order_desk", no_desk)
        house.control.start("purchase_order", ORDER | {"order": ITEM | {"cost": cost}}, instance_id="again")
        if cost > 1:
            assert house.control.status("again")["phase"] == "waiting_for_approval"
            house.control.event("again", "approval_event", {"approver_name": "Boss", "approved": True})
        house.advance(minutes=3)
        assert house.control.state("again").runtime_status.name == "FAILED"
    before = house.entries("again")
    assert before[-1].action == ("decided" if cost > 1 else "auto_approved")
    house.advance(days=1)
    house.manage("rewind", "again")
    assert house.control.state("again").runtime_status in ENDED
    assert house.entries("again")[: len(before)] == before
    assert house.verify("again").verdict == "intact"
    assert house.reconcile() == {}
    assert house.open_waits() == []


def test_the_list_closes_the_old_wait_when_an_id_is_used_again_at_once(house: House) -> None:
    house.wait("again")
    for _ in range(3):
        house.manage("terminate", "again")
        house.advance(seconds=1)
        house.wait("again")
    assert house.open_waits() == ["again"] * 4
    assert house.reconcile() == {"closed": 3, "unchanged": 2}
    assert house.open_waits() == ["again"]
    assert house.wait_of("again").run == house.control.status("again")["trail"]["run"]


def test_a_run_that_has_not_begun_is_left_to_itself(house: House) -> None:
    house.wait("again")
    house.manage("terminate", "again")
    start = house.control.now + timedelta(hours=2)
    house.control.client.schedule_new_orchestration("approval", input=REQUEST, instance_id="again", start_at=start)
    house.reconcile()
    house.advance(hours=3)
    assert house.control.status("again")["phase"] == "waiting_for_approval"
    house.reconcile()
    assert house.open_waits() == ["again"]
    assert house.reconcile() == {"unchanged": 2}


# Runs that wait without a wait


def test_a_wait_that_the_store_lost_comes_back_whole_with_the_trail(house: House) -> None:
    house.wait("kept")
    before = house.wait_of(house.wait("lost"))
    rows = house.rows("%:%")
    trail_rows = house.rows("trail:lost")
    house.lose("lost")
    house.sql("DELETE FROM record WHERE partition = 'trail:lost'")
    assert house.verify("lost").verdict == "broken"
    assert house.reconcile() == {"opened": 1, "unchanged": 2}
    assert house.told[-1] == (logging.WARNING, "Reconciled the records: 1 opened, 2 unchanged")
    assert house.wait_of("lost") == before
    assert house.open_waits(person="DEPUTY@example.com") == ["kept", "lost"]
    assert house.rows("trail:lost") == trail_rows
    assert house.rows("%:%") == rows
    assert house.verify("lost").verdict == "intact"
    assert house.reconcile() == {"unchanged": 4}
    house.decide("lost")
    assert house.open_waits() == ["kept"]


def test_all_comes_back_when_the_whole_store_is_gone(house: House, data_folder: Path) -> None:
    for name in "abc":
        house.wait(name)
    house.control.start("purchase_order", ORDER, instance_id="order")
    house.control.settle()
    before = house.rows("%:%") + house.rows("open|%")
    close_record_store()
    for file in data_folder.glob("records.db*"):
        file.unlink()
    assert house.reconcile() == {"opened": 4}
    assert house.rows("%:%") + house.rows("open|%") == before
    assert {house.verify(name).verdict for name in ("a", "b", "c", "order")} == {"intact"}


def test_one_entry_that_is_missing_comes_back_too(house: House) -> None:
    house.wait("lost")
    rows = house.rows("trail:lost")
    house.lose("lost")
    house.sql("DELETE FROM record WHERE key = ?", rows[1][1])
    house.reconcile()
    assert house.rows("trail:lost") == rows


def test_an_entry_that_was_tampered_with_stays_as_it_is_with_an_alarm(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.wait("lost")
    house.lose("lost")
    house.sql("UPDATE record SET body = replace(body, 'Alice', 'Malice') WHERE partition = 'trail:lost'")
    rows = house.rows("trail:lost")
    assert house.reconcile() == {"opened": 1}
    assert house.rows("trail:lost") == rows
    [alarm] = [each for each in caplog.records if each.levelno == logging.CRITICAL]
    assert "'lost': its entry 1" in alarm.getMessage()
    assert house.open_waits() == ["lost"]


def test_a_wait_that_is_marked_closed_is_opened_again(house: House) -> None:
    wait = house.wait_of(house.wait("shut"))
    house.store.write(waits.closed(wait))
    assert house.open_waits() == []
    assert house.reconcile() == {"reopened": 1}
    assert house.told[-1][0] == logging.WARNING
    assert house.wait_of("shut") == wait
    assert house.open_waits(person=PEOPLE[1]) == ["shut"]
    assert house.reconcile() == {"unchanged": 2}
    house.decide("shut")
    assert house.open_waits() == []


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM record",
        "UPDATE record SET body = replace(body, 'Vacation', 'A yacht')",
        "UPDATE record SET body = '{}'",
        "UPDATE record SET key = key || 'x'",
    ],
)
def test_each_row_of_a_list_that_is_lost_or_changed_comes_back_once(house: House, damage: str) -> None:
    """A wait that is not on the list of one person is missed by them, however well it stands in the others."""
    house.wait("kept")
    house.wait("lost")
    before = house.rows()
    lists = [row for row in before if "|lost|" in row[1]]
    assert len(lists) == 8
    for partition, key, _ in lists:
        house.sql(f"{damage} WHERE partition = ? AND key = ?", partition, key)
        assert house.rows() != before
        counts = house.reconcile()
        assert (counts["opened"], counts["unchanged"]) == (1, 3 - (partition == "open|since" and "yacht" not in damage))
        assert house.told[-1][0] == logging.WARNING
        house.sql("DELETE FROM record WHERE key LIKE '%x'")
        assert [row for row in house.rows() if row[0] != "cursor"] == [row for row in before if row[0] != "cursor"]
        assert house.reconcile() == {"unchanged": 4}
        assert house.told[-1][0] == logging.INFO


def test_a_wait_that_its_run_closes_while_it_is_opened_again_stays_closed(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.store.write(waits.closed(house.wait_of(house.wait("shut"))))
    write = record_store_sqlite.SqliteRecordStore.write

    def decided_meanwhile(store: Any, changes: Any) -> None:
        changes = list(changes)
        if any(change.do == "put" and change.partition == "wait:shut" for change in changes):
            monkeypatch.setattr(record_store_sqlite.SqliteRecordStore, "write", write)
            house.decide("shut")
        write(store, changes)

    monkeypatch.setattr(record_store_sqlite.SqliteRecordStore, "write", decided_meanwhile)
    assert house.reconcile() == {"unchanged": 1}
    assert house.open_waits() == []
    assert house.verify("shut").verdict == "intact"


def test_a_suspended_run_keeps_its_wait_and_gets_it_back(house: House) -> None:
    house.wait("still")
    house.manage("suspend", "still")
    house.control.event("still", "decision", DECISION)
    assert house.reconcile() == {"unchanged": 1, "listed": 1}
    house.lose("still")
    assert house.reconcile() == {"opened": 1}
    assert house.open_waits() == ["still"]
    house.manage("resume", "still")
    assert house.control.output("still")["status"] == "Approved"
    assert house.open_waits() == []


def test_a_wait_of_a_run_whose_history_cannot_be_read_is_not_made_up(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = house.wait_of(house.wait("lost"))
    house.lose("lost")

    async def unavailable(*_: Any, **__: Any) -> Any:
        raise _unavailable()

    with monkeypatch.context() as patch:
        patch.setattr(DurableFunctionsClient, "get_orchestration_history", unavailable)
        assert house.reconcile() == {"failed": 1}
    assert house.open_waits() == []
    assert house.reconcile() == {"opened": 1}
    assert house.wait_of("lost") == before


def test_a_run_in_the_midst_of_a_turn_is_left_alone(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    began, go_on = threading.Event(), threading.Event()
    put_on_record = services.records.put_on_record

    def slow(store: RecordStore, batch: RecordBatch) -> list[int]:
        began.set()
        assert go_on.wait(20)
        return put_on_record(store, batch)

    monkeypatch.setattr(records_activity, "put_on_record", slow)
    house.control.start("approval", REQUEST, instance_id="opening")
    assert began.wait(20)
    assert house.reconcile() == {"unchanged": 1}
    assert house.open_waits() == []
    go_on.set()
    assert house.control.status("opening")["phase"] == "waiting_for_approval"
    assert house.open_waits() == ["opening"]

    began.clear()
    go_on.clear()
    house.control.event("opening", "decision", DECISION)
    assert began.wait(20)
    assert house.reconcile() == {"unchanged": 2}
    assert house.open_waits() == ["opening"]
    go_on.set()
    assert house.control.output("opening")["status"] == "Approved"
    assert house.open_waits() == []
    assert house.reconcile() == {}


def test_a_wait_is_on_record_and_stays_while_the_mail_is_on_its_way(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go_on = threading.Event(), threading.Event()

    class SlowMailer:
        def send(self, message: Any) -> None:
            began.set()
            assert go_on.wait(20)

    monkeypatch.setattr(approval_activities, "get_mailer", SlowMailer)
    house.control.start("approval", REQUEST, instance_id="asking")
    assert began.wait(20)
    until(lambda: house.open_waits() == ["asking"])
    until(lambda: _status(house, "asking")["trail"]["stored"] == 2)
    assert house.reconcile() == {"unchanged": 2}
    house.lose("asking")
    assert house.reconcile() == {"opened": 1}
    go_on.set()
    assert house.control.status("asking")["phase"] == "waiting_for_approval"
    assert house.open_waits() == ["asking"]


def test_set_aside_events_that_are_not_stored_yet_do_not_hide_a_lost_wait(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.wait("lost")
    monkeypatch.setattr(records_activity, "put_on_record", _no_more)
    for _ in range(2):
        house.control.event("lost", "decision", {"malformed": True})
    assert house.control.status("lost")["trail"]["entries"] > house.control.status("lost")["trail"]["stored"]
    house.lose("lost")
    assert house.reconcile() == {"opened": 1}
    assert house.open_waits() == ["lost"]


def _status(house: House, name: str) -> dict[str, Any]:
    """The custom status, without waiting until all has settled."""
    state = house.control.client.get_orchestration_state(name)
    assert state is not None
    return json.loads(state.serialized_custom_status or "{}")  # type: ignore[no-any-return]


# Runs from before the records


@pytest.mark.parametrize(("workflow", "path"), [("approval", "/api/requests/old"), ("purchase_order", "/status/old")])
def test_a_run_from_before_the_records_gets_a_wait_until_it_ends(house: House, workflow: str, path: str) -> None:
    began = house.control.now
    before_records(house, "old", workflow)
    assert house.open_waits() == []
    house.advance(minutes=5)
    assert house.reconcile() == {"opened": 1}
    wait = house.wait_of("old")
    assert (wait.kind, wait.number, wait.since, wait.path, wait.people) == (workflow, 1, began, path, ())
    assert wait.deadline == began + timedelta(hours=1000)
    assert wait.title == f"{workflow.replace('_', ' ')} old"
    assert house.reconcile() == {"unchanged": 2}
    house.lose("old")
    assert house.reconcile() == {"opened": 1}
    assert house.wait_of("old") == wait

    event = "decision" if workflow == "approval" else "approval_event"
    decision = DECISION if workflow == "approval" else {"approver_name": "Boss", "approved": True}
    house.control.event("old", event, decision)
    assert house.control.output("old")["status"].startswith("Approved")
    assert house.reconcile() == {"closed": 1}
    assert house.open_waits() == []
    assert house.entries("old") == []


def test_a_run_from_before_the_records_that_is_replaced_by_another_loses_its_wait(house: House) -> None:
    before_records(house, "old")
    house.reconcile()
    house.manage("terminate", "old")
    house.advance(hours=1)
    began = house.control.now
    before_records(house, "old")
    assert house.reconcile() == {"closed": 1, "opened": 1}
    assert [wait.since for wait, is_open in waits.of_instance(house.store, "old") if is_open] == [began]
    assert house.reconcile() == {"unchanged": 2}


@pytest.mark.parametrize("name", ["two\nlines", "\x00\u2028 \t", "../../etc/passwd", "x" * 500, "ü 🎉", "a|b|c", "%_"])
def test_old_and_new_runs_of_any_id_are_healed(house: House, name: str) -> None:
    before_records(house, name)
    house.wait("other")
    new = house.wait("new " + name)
    house.sql("DELETE FROM record WHERE partition NOT LIKE 'trail:%'")
    assert house.reconcile() == {"opened": 3}
    assert sorted(house.open_waits()) == sorted([name, new, "other"])
    assert house.wait_of(name).path.startswith("/api/requests/")
    house.control.client.terminate_orchestration(name)
    house.control.settle()
    house.decide(new)
    assert house.reconcile() == {"closed": 1, "unchanged": 2}
    assert house.open_waits() == ["other"]


# Windows


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six at a time at most: two windows of three."""
    monkeypatch.setattr(windows, "WINDOW", 3)
    monkeypatch.setattr(windows, "WINDOWS", 2)


def start_many(house: House, count: int, prefix: str = "w") -> list[str]:
    """Start approvals, a second apart."""
    names = [f"{prefix}{number:02d}" for number in range(count)]
    for name in names:
        house.control.start("approval", REQUEST, instance_id=name)
        house.advance(seconds=1)
    assert house.open_waits() == names
    return names


@pytest.mark.usefixtures("small_windows")
def test_one_run_closes_a_bounded_number_and_the_next_goes_on_from_there(house: House) -> None:
    names = start_many(house, 14)
    for name in names:
        house.control.client.terminate_orchestration(name)
    house.control.settle()
    closed = []
    while house.open_waits():
        before = house.open_waits()
        assert house.reconcile()["closed"] <= 6
        closed.append(len(before) - len(house.open_waits()))
    assert closed == [6, 6, 2]


@pytest.mark.usefixtures("small_windows")
def test_one_run_opens_a_bounded_number_and_the_next_goes_on_from_there(house: House) -> None:
    names = start_many(house, 14)
    house.sql("DELETE FROM record WHERE partition NOT LIKE 'trail:%'")
    assert [house.reconcile()["opened"] for _ in range(3)] == [6, 6, 2]
    assert house.open_waits() == names
    # And then it begins again at the beginning.
    house.lose(names[0])
    assert house.reconcile()["opened"] == 1


@pytest.mark.usefixtures("small_windows")
def test_the_windows_go_on_after_a_restart_of_the_app(house: House) -> None:
    names = start_many(house, 10)
    house.sql("DELETE FROM record WHERE partition NOT LIKE 'trail:%'")
    assert house.reconcile()["opened"] == 6
    close_record_store()
    assert house.reconcile()["opened"] == 4
    assert house.open_waits() == names


@pytest.mark.usefixtures("small_windows")
def test_all_are_seen_in_the_end_while_others_open_and_close(house: House) -> None:
    names = start_many(house, 20)
    dead, lost = names[1::3], names[2::3]
    for name in dead:
        house.control.client.terminate_orchestration(name)
    house.control.settle()
    for name in lost:
        house.lose(name)
    going = names[0::3]
    for number in range(5):  # 20 waits and 13 instances, and 5 that come: none takes more than 5 runs of 6
        house.decide(going.pop(0))
        house.control.start("approval", REQUEST, instance_id=f"new{number}")
        house.advance(seconds=1)
        house.reconcile()
    for _ in range(2):
        house.reconcile()
    assert house.open_waits() == sorted([*going, *lost]) + [f"new{number}" for number in range(5)]
    for _ in range(6):
        assert set(house.reconcile()) == {"unchanged"}


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("beginning", [b"\xff", b"1\xff", b"2\x80", b"2026-01-01T00:00:01.5\xff", b"2\xff"])
def test_rows_whose_keys_are_no_text_do_not_keep_it_from_going_on(house: House, beginning: bytes) -> None:
    names = start_many(house, 5)
    for number in range(20):
        key = beginning + b"%d" % number
        house.sql("INSERT INTO record VALUES ('open|since', CAST(? AS TEXT), '{}')", key)
    assert house.open_waits() == names
    for name in names[1:]:
        house.control.client.terminate_orchestration(name)
    house.control.settle()
    assert sum(house.reconcile().get("closed", 0) for _ in range(3)) == 4
    assert house.open_waits() == names[:1]
    house.lose(names[0])
    assert sum(house.reconcile().get("opened", 0) for _ in range(2)) == 1


def _looked_at(house: House, of: str, stop_after: int | None = None) -> list[str]:
    """Look through all waits or all instances, and give what was seen; be cancelled at the one after so many."""
    seen: list[str] = []

    async def look(_client: DurableFunctionsClient, _store: RecordStore, item: Any) -> str:
        if len(seen) == stop_after:
            raise asyncio.CancelledError
        seen.append(item.instance_id)
        return "seen"

    async def through(client: DurableFunctionsClient) -> None:
        with suppress(asyncio.CancelledError):
            if of == "waits":
                await windows.look_through_waits(client, house.store, look)
            else:
                await windows.look_through_instances(client, house.store, "test", OrchestrationQuery(), look)

    house.call(through)
    return seen


def _unavailable(code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), "away")


@pytest.mark.parametrize("of", ["waits", "instances"])
def test_a_run_that_is_cut_off_is_gone_on_with_from_its_last_whole_window(
    house: House, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    """A host that is stopped in the midst of each run would never come to the later ones otherwise."""
    monkeypatch.setattr(windows, "WINDOW", 3)
    names = start_many(house, 10)
    assert _looked_at(house, of, stop_after=7) == names[:7]
    assert _looked_at(house, of) == names[6:]
    assert _looked_at(house, of) == names


@pytest.mark.parametrize("of", ["waits", "instances"])
def test_a_run_whose_third_window_cannot_be_had_is_gone_on_with_from_there(
    house: House, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    monkeypatch.setattr(windows, "WINDOW", 3)
    names = start_many(house, 10)
    calls: list[Any] = []
    window = waits.window

    async def third_page(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 3:
            raise _unavailable(grpc.StatusCode.INVALID_ARGUMENT)  # the cursor was good before, it is not its fault
        return await page_of(*given)

    def third_window(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 3:
            raise RecordStoreError("away")
        return window(*given)

    monkeypatch.setattr(windows, "page_of", third_page)
    monkeypatch.setattr(waits, "window", third_window)
    with pytest.raises((grpc.RpcError, RecordStoreError)):
        _looked_at(house, of)
    assert _looked_at(house, of) == names[6:]


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize(
    ("code", "kept"), [("UNAVAILABLE", True), ("INVALID_ARGUMENT", False), ("UNKNOWN", False), ("INTERNAL", False)]
)
def test_a_cursor_is_kept_while_the_hub_is_away_and_forgotten_when_it_is_refused(
    house: House, monkeypatch: pytest.MonkeyPatch, code: str, kept: bool
) -> None:
    names = start_many(house, 8)
    assert _looked_at(house, "instances") == names[:6]

    async def refused(*_: Any) -> Any:
        raise _unavailable(grpc.StatusCode[code])

    with monkeypatch.context() as patch:
        patch.setattr(windows, "page_of", refused)
        with pytest.raises(grpc.RpcError):
            _looked_at(house, "instances")
    assert _looked_at(house, "instances") == (names[6:] if kept else names[:6])


@pytest.mark.parametrize("cursor", ["garbage", "WzEsIDJd", "{}"])
def test_a_cursor_of_another_task_hub_is_forgotten(house: House, cursor: str) -> None:
    house.wait("lost")
    house.lose("lost")
    house.store.write([Change("put", "cursor", "reconcile", cursor)])
    with pytest.raises(grpc.RpcError):
        house.reconcile()
    assert house.reconcile() == {"opened": 1}
    assert house.open_waits() == ["lost"]


# What fails


def test_a_write_that_fails_stops_no_other(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        house.wait(name)
        house.manage("terminate", name)
    write = record_store_sqlite.SqliteRecordStore.write

    def refusing(store: Any, changes: Any) -> None:
        changes = list(changes)
        if any(change.do == "delete" and "|b|" in change.key for change in changes):
            raise RecordStoreError("this row cannot be written")
        write(store, changes)

    with monkeypatch.context() as patch:
        patch.setattr(record_store_sqlite.SqliteRecordStore, "write", refusing)
        assert house.reconcile() == {"closed": 2, "failed": 1}
    assert house.open_waits() == ["b"]
    assert house.reconcile() == {"closed": 1}
    assert house.open_waits() == []


@pytest.mark.parametrize("body", ["{", "null", "[]", '{"open": true}', '{"open": true, "wait": {"number": 0}}'])
def test_a_row_of_an_instance_that_cannot_be_read_is_written_anew_and_stops_no_other(house: House, body: str) -> None:
    for name in ("a", "b", "c"):
        house.wait(name)
    house.sql("DELETE FROM record WHERE partition NOT LIKE 'trail:%' AND partition <> 'wait:b'")
    house.sql("UPDATE record SET body = ? WHERE partition = 'wait:b'", body)
    assert house.reconcile() == {"opened": 2, "reopened": 1}
    assert house.open_waits() == ["a", "b", "c"]
    assert house.reconcile() == {"unchanged": 6}


@pytest.mark.parametrize("body", ["{", "null", '{"number": 0}'])
def test_a_row_of_the_list_that_cannot_be_read_is_written_anew_and_stops_no_other(house: House, body: str) -> None:
    names = start_many(house, 3)
    house.sql("UPDATE record SET body = ? WHERE partition = 'open|since' AND key LIKE '%|w01|%'", body)
    house.manage("terminate", names[2])
    assert house.open_waits() == ["w00", "w02"]
    assert house.reconcile() == {"closed": 1, "opened": 1, "unchanged": 2}
    assert house.open_waits() == ["w00", "w01"]
    assert house.reconcile() == {"unchanged": 4}


def test_a_status_that_cannot_be_read_stops_no_other(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.wait("other")
    with monkeypatch.context() as patch:
        patch.setattr("orchestrators.run_record.RunRecord._publish", lambda self, _: self._ctx.set_custom_status("odd"))
        house.control.start("approval", REQUEST, instance_id="odd")
        house.control.settle()
    house.lose("other")
    assert house.reconcile() == {"opened": 1, "unchanged": 2}
    assert sorted(house.open_waits()) == ["odd", "other"]


def test_a_store_that_is_locked_leaves_the_healing_to_the_next_run(
    house: House, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.wait("a")
    house.manage("terminate", "a")
    close_record_store()
    monkeypatch.setattr(record_store_sqlite, "BUSY", 0.05)
    with closing(sqlite3.connect(data_folder / "records.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(RecordStoreError):
            house.call(lambda client: reconcile.reconcile_records(None, client))  # type: ignore[arg-type]
        other.execute("ROLLBACK")
    assert house.reconcile() == {"closed": 1}


def test_a_late_decision_while_the_store_is_locked_is_to_come_again(
    house: House, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.wait("over")
    house.manage("terminate", "over")
    close_record_store()
    monkeypatch.setattr(record_store_sqlite, "BUSY", 0.05)
    body = {"is_approved": True, "approver": "Late"}
    with httpx.Client(base_url=house.control.url, trust_env=False, headers={"Idempotency-Key": "late"}) as client:
        with closing(sqlite3.connect(data_folder / "records.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            answer = client.post("/api/approvals/over", json=body)
            assert (answer.status_code, answer.json()["title"]) == (503, "Records unavailable")
            assert str(data_folder) not in answer.text
            other.execute("ROLLBACK")
        assert [client.post("/api/approvals/over", json=body).status_code for _ in range(2)] == [410, 410]
    assert [entry.action for entry in house.entries("over")] == ["started", "asked", "mailed", "late"]
    assert house.verify("over").verdict == "intact"


# Purging


def gone(house: House, name: str) -> bool:
    """Whether the hub knows an instance no more."""
    return house.control.client.get_orchestration_state(name) is None


def test_what_has_ended_is_purged_after_its_retention_and_its_trail_stays(
    house: House, retention: Callable[..., None]
) -> None:
    retention(10)
    for name in ("done", "waiting"):
        house.wait(name)
    house.advance(days=20)  # it is by its end that an instance is kept
    house.decide("done")
    rows = house.rows("trail:done")
    house.advance(days=9.9)
    assert house.purge() == {"kept": 1}
    house.advance(days=0.2)
    assert house.purge() == {"purged": 1}
    assert (gone(house, "done"), gone(house, "waiting")) == (True, False)
    assert house.rows("wait:done") == []
    assert house.open_waits() == ["waiting"]
    added = [row for row in house.rows("trail:done") if row not in rows]
    assert [row for row in house.rows("trail:done") if row in rows] == rows
    assert [json.loads(body)["entry"]["action"] for _, _, body in added] == ["purged"]
    found = house.verify("done")
    assert found.verdict == "intact"
    assert [(chain.series, chain.anchored_by) for chain in found.chains] == [("run", "purge"), ("app", None)]
    note = house.entries("done")[-1]
    assert (note.at, note.channel, note.actor) == (house.control.now, "timer", None)
    assert house.purge() == {}


def test_an_instance_of_before_the_time_that_ended_late_is_kept(house: House, retention: Callable[..., None]) -> None:
    retention(1)
    house.wait("late")
    house.advance(days=10)
    house.decide("late")
    assert house.purge() == {"kept": 1}


def test_each_workflow_has_its_own_retention(house: House, retention: Callable[..., None]) -> None:
    retention(5, purchase_order=1, something_else=0)
    small = ORDER | {"order": ITEM | {"cost": 1.0}}
    house.control.start("purchase_order", small, instance_id="order")
    house.wait("request")
    house.decide("request")
    assert house.purge() == {}
    house.advance(days=2)
    assert house.purge() == {"kept": 1, "purged": 1}
    assert (gone(house, "order"), gone(house, "request")) == (True, False)
    house.advance(days=4)
    assert house.purge() == {"purged": 1}
    retention(0)
    assert {house.verify(name).verdict for name in ("order", "request")} == {"intact"}


@pytest.mark.parametrize("how", ["terminated", "failed", "completed"])
def test_the_notes_of_end_and_purge_are_there_once_whenever_it_is_killed(
    house: House, retention: Callable[..., None], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    retention(0)
    house.wait("over")
    if how == "terminated":
        house.manage("terminate", "over")
    elif how == "failed":
        with monkeypatch.context() as patch:
            patch.setattr("orchestrators.approval_desk.path_to", lambda *_: "no path")
            house.control.event("over", "decision", DECISION)
            assert house.control.state("over").runtime_status.name == "FAILED"
    else:
        house.decide("over")
    house.advance(seconds=1)

    async def killed(*_: Any) -> None:
        raise OSError("the process is gone")

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(DurableFunctionsClient, "purge_orchestration", killed)
            assert house.purge() == {"failed": 1}
        assert house.verify("over").verdict == "intact"
        house.advance(hours=1)
    for killed_at in ("trail.append", "waits.forget"):
        with monkeypatch.context() as patch:
            patch.setattr(f"services.{killed_at}", _no_more)
            assert house.purge() == {"failed": 1}
    assert house.purge() == {"purged": 1}
    notes = [(entry.action, entry.after) for entry in house.entries("over") if entry.series == "app"]
    assert notes == [("purged", None)] if how == "completed" else [("ended", how), ("purged", None)]
    assert house.verify("over").verdict == "intact"
    assert house.rows("wait:over") == []
    assert house.open_waits() == []
    assert house.reconcile() == {}


def _no_more(*_: Any, **__: Any) -> None:
    raise RecordStoreError("away")


@pytest.mark.parametrize("damage", ["UPDATE record SET body = replace(body, 'Alice', 'Malice')", "DELETE FROM record"])
def test_an_instance_with_a_broken_trail_is_kept_with_an_alarm(
    house: House, retention: Callable[..., None], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    retention(0)
    for name in ("bad", "good"):
        house.wait(name)
        house.decide(name)
    house.advance(seconds=1)
    whole = house.rows("trail:bad")
    house.sql(f"{damage} WHERE partition = 'trail:bad' AND key LIKE '%1'")
    assert house.purge() == {"broken": 1, "purged": 1}
    [alarm] = [each.getMessage() for each in caplog.records if each.levelno == logging.CRITICAL]
    assert "'bad' is broken" in alarm
    assert not gone(house, "bad")
    assert [entry.action for entry in house.entries("bad") if entry.series == "app"] == []
    # When it is what it was again, it goes.
    house.sql("INSERT OR REPLACE INTO record VALUES (?, ?, ?)", *whole[0])
    assert house.purge() == {"purged": 1}


def test_what_was_not_stored_before_a_run_was_ended_is_stored_before_it_is_purged(
    house: House, retention: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    retention(0)
    house.wait("over")
    with monkeypatch.context() as patch:
        patch.setattr(records_activity, "put_on_record", _no_more)
        house.control.event("over", "decision", DECISION)
        assert house.control.status("over")["trail"]["entries"] == 5
        house.manage("terminate", "over")
    assert [entry.action for entry in house.entries("over")] == ["started", "asked", "mailed"]
    assert house.verify("over").verdict == "intact"
    house.advance(seconds=1)
    assert house.purge() == {"purged": 1}
    actions = [entry.action for entry in house.entries("over")]
    assert actions == ["started", "asked", "mailed", "voted", "decided", "ended", "purged"]
    assert house.open_waits() == []
    assert house.verify("over").verdict == "intact"


def test_one_id_used_again_after_its_purge_has_both_runs_in_one_trail(
    house: House, retention: Callable[..., None]
) -> None:
    retention(0)
    runs = []
    for number in range(3):
        house.wait("again")
        runs.append(house.control.status("again")["trail"]["run"])
        if number == 1:
            house.manage("terminate", "again")
        else:
            house.decide("again")
        house.advance(seconds=1)
        if number < 2:
            assert house.purge() == {"purged": 1}
            assert house.verify("again").verdict == "intact"
    found = house.verify("again")
    assert found.verdict == "intact"
    assert [chain.anchored_by for chain in found.chains] == ["purge", "purge", "history", None]
    assert house.purge() == {"purged": 1}
    notes = [(entry.action, entry.run) for entry in house.entries("again") if entry.series == "app"]
    assert notes == [("purged", runs[0]), ("ended", runs[1]), ("purged", runs[1]), ("purged", runs[2])]
    found = house.verify("again")
    assert [(chain.verdict, chain.anchored_by) for chain in found.chains[:3]] == [("intact", "purge")] * 3


def test_a_purge_says_nothing_of_another_run_whose_history_was_taken_before(
    house: House, retention: Callable[..., None]
) -> None:
    """What became of a run that was purged by hand is not known, and nothing vouches for its trail."""
    retention(0)
    house.wait("again")
    house.manage("terminate", "again")
    house.manage("", "again", "DELETE")
    house.advance(seconds=1)
    house.wait("again")
    second = house.control.status("again")["trail"]["run"]
    house.decide("again")
    house.advance(seconds=1)
    assert house.purge() == {"purged": 1}
    notes = [(entry.action, entry.run) for entry in house.entries("again") if entry.series == "app"]
    assert notes == [("purged", second)]
    assert house.verify("again").verdict == "unanchored"


@pytest.mark.parametrize("ends", [False, True])
def test_an_id_that_is_used_again_while_it_is_purged_keeps_its_new_run(
    house: House, retention: Callable[..., None], monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    retention(0)
    house.wait("again")
    house.decide("again")
    house.advance(seconds=1)
    small = ORDER | {"order": ITEM | {"cost": 1.0}}

    async def replaced(client: DurableFunctionsClient, store: RecordStore, instance: str) -> Any:
        if ends:
            await client.schedule_new_orchestration("purchase_order", input=small, instance_id=instance)
            await client.wait_for_orchestration_completion(instance, timeout=20)
        else:
            await client.schedule_new_orchestration("approval", input=REQUEST, instance_id=instance)
        return await whole(client, store, instance)

    monkeypatch.setattr(purge, "whole", replaced)
    assert house.purge() == {"kept": 1}
    assert house.control.status("again")["phase"] == ("auto_approved" if ends else "waiting_for_approval")
    assert house.open_waits() == ([] if ends else ["again"])
    assert not [entry for entry in house.entries("again") if entry.series == "app"]


def test_what_ended_without_a_trail_is_purged_without_one(house: House, retention: Callable[..., None]) -> None:
    retention(0)
    before_records(house, "old")
    house.reconcile()
    house.control.client.terminate_orchestration("old")
    house.control.start("approval", {"nonsense": True}, instance_id="nonsense")
    house.control.settle()
    house.advance(seconds=1)
    assert house.purge() == {"purged": 2}
    assert house.rows("%:%") == []
    assert house.open_waits() == []


def test_entities_and_other_orchestrations_are_none_of_its_business(
    house: House, retention: Callable[..., None]
) -> None:
    retention(0)
    house.control.start("somebody_elses", None, instance_id="other")
    house.wait("mine")
    house.decide("mine")
    state = house.control.client.get_orchestration_state("other")
    assert state is not None
    house.control.client.terminate_orchestration("other")
    house.control.settle()
    house.advance(seconds=1)
    assert house.purge() == {"purged": 1}
    assert not gone(house, "other")


@pytest.mark.usefixtures("small_windows")
def test_purging_goes_on_in_windows(house: House, retention: Callable[..., None]) -> None:
    retention(0)
    names = start_many(house, 15)
    house.decide(*(name for name in names if name != "w03"))
    house.advance(seconds=1)
    purged = []
    while any(not gone(house, name) for name in names if name != "w03"):
        purged.append(house.purge()["purged"])
    assert purged == [6, 6, 2]
    assert not gone(house, "w03")
    assert {house.verify(name).verdict for name in names} == {"intact"}


@pytest.mark.usefixtures("small_windows")
def test_those_that_are_kept_do_not_hold_up_the_others(house: House, retention: Callable[..., None]) -> None:
    retention(5, purchase_order=0)
    names = start_many(house, 13)
    house.decide(*names)
    small = ORDER | {"order": ITEM | {"cost": 1.0}}
    house.control.start("purchase_order", small, instance_id="order")
    house.control.settle()
    house.advance(seconds=1)
    counts = [house.purge() for _ in range(3)]
    assert counts[2].get("purged") == 1
    assert gone(house, "order")
    assert sum(each.get("kept", 0) for each in counts) == 13


# Verifying while runs go on


@pytest.mark.parametrize(
    ("how", "verdict"),
    [("decided", "intact"), ("purged", "intact"), ("deleted", "unanchored"), ("replaced", "unanchored")],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_what_happens_between_the_looks_is_no_fault(
    house: House, monkeypatch: pytest.MonkeyPatch, how: str, verdict: str, when: str
) -> None:
    """Verifying looks at the instance, at its trail, and at the instance again."""
    house.wait("race")
    if how == "purged":
        house.decide("race")
        house.advance(days=100)
    read = trail.read
    calls = []

    def meanwhile() -> None:
        if how == "decided":
            house.decide("race")
        elif how == "purged":
            assert house.purge() == {"purged": 1}
        else:
            house.manage("terminate", "race")
            house.manage("", "race", "DELETE")
        if how == "replaced":
            house.advance(seconds=1)
            house.wait("race")

    def slow(store: RecordStore, instance: str) -> trail.Trail:
        calls.append(instance)
        first = len(calls) == 1
        if first and when == "before":
            meanwhile()
        rows = read(store, instance)
        if first and when == "after":
            meanwhile()
        return rows

    monkeypatch.setattr(trail, "read", slow)
    assert house.verify("race").verdict == verdict


def test_verifying_never_finds_fault_with_runs_that_go_on(data_folder: Path) -> None:
    """With many that go on at once, and some who look at each of them all the time."""
    with running_app(ROOT, data_folder, SystemClock()) as control, httpx.Client(trust_env=False, timeout=30) as client:
        names = [f"race-{number}" for number in range(40)]
        done = threading.Event()
        verdicts: Counter[str] = Counter()
        faults: list[str] = []

        def look() -> None:
            while not done.is_set():
                for name in names:
                    answer = client.get(f"{control.url}/api/audit/{name}/verify")
                    verdict = answer.json()["verdict"] if answer.status_code == 200 else str(answer.status_code)
                    verdicts[verdict] += 1
                    if verdict not in ("intact", "404"):
                        faults.append(answer.text)

        def live(name: str) -> None:
            control.start("approval", REQUEST, instance_id=name)
            for _ in range(3):
                control.event(name, "decision", {"malformed": True})
            control.event(name, "decision", DECISION)
            control.client.wait_for_orchestration_completion(name, timeout=30)

        with ThreadPoolExecutor(10) as pool:
            looking = [pool.submit(look) for _ in range(3)]
            for each in [pool.submit(live, name) for name in names]:
                each.result(timeout=50)
            done.set()
            for each in looking:
                each.result(timeout=50)
        assert not faults, (verdicts, faults)
        assert verdicts["intact"] > len(names)
        for name in names:
            state = control.client.get_orchestration_state(name)
            assert state is not None
            assert state.runtime_status in ENDED


def test_the_end_of_a_run_that_could_not_say_so_itself_is_noted_once(house: House) -> None:
    house.wait("terminated")
    house.wait("gone")
    house.manage("terminate", "terminated")
    house.manage("terminate", "gone")
    house.manage("", "gone", "DELETE")
    house.decide(house.wait("decided"))
    assert house.reconcile() == {"closed": 2}
    house.reconcile()
    for instance, ends in (("terminated", ["terminated"]), ("gone", ["gone"]), ("decided", ["approved"])):
        assert [entry.after for entry in house.entries(instance) if entry.action == "ended"] == ends


def test_the_note_of_an_end_has_the_time_of_the_end_and_not_of_the_look_at_it(house: House) -> None:
    house.wait("terminated")
    house.wait("gone")
    house.advance(minutes=7)
    ended = house.control.now
    house.manage("terminate", "terminated")
    house.manage("terminate", "gone")
    house.manage("", "gone", "DELETE")
    house.advance(hours=5)
    assert house.reconcile() == {"closed": 2}
    [terminated, gone] = [house.entries(name)[-1] for name in ("terminated", "gone")]
    assert (terminated.after, terminated.at) == ("terminated", ended)
    assert (gone.after, gone.at) == ("gone", house.control.now)  # nobody can say when it went


@pytest.mark.parametrize("how", ["terminated", "failed", "gone", "replaced"])
@pytest.mark.parametrize("killed_at", ["before the note", "before the close"])
def test_killed_between_the_note_of_an_end_and_the_close_the_next_run_completes_it(
    house: House, monkeypatch: pytest.MonkeyPatch, how: str, killed_at: str
) -> None:
    """Closed first, nobody would look for the run again, and its end would never be noted."""
    house.wait("over")
    if how == "failed":
        with monkeypatch.context() as patch:
            patch.setattr("orchestrators.approval_desk.path_to", lambda *_: "no path")
            house.control.event("over", "decision", DECISION)
            assert house.control.state("over").runtime_status.name == "FAILED"
    else:
        house.manage("terminate", "over")
    if how in ("gone", "replaced"):
        house.manage("", "over", "DELETE")
    if how == "replaced":
        house.advance(seconds=1)
        house.wait("over")
    for _ in range(2):
        with monkeypatch.context() as patch:
            module, name = (trail, "append") if killed_at == "before the note" else (waits, "closed")
            patch.setattr(module, name, _no_more)
            assert house.reconcile()["failed"] == 1
        notes = [entry for entry in house.entries("over") if entry.series == "app"]
        assert len(notes) == (0 if killed_at == "before the note" else 1)
        assert len(house.open_waits()) == (2 if how == "replaced" else 1)
        house.advance(hours=1)
    assert house.reconcile()["closed"] == 1
    house.reconcile()
    notes = [entry for entry in house.entries("over") if entry.series == "app"]
    assert [(entry.action, entry.after) for entry in notes] == [("ended", "gone" if how == "replaced" else how)]
    assert house.open_waits() == (["over"] if how == "replaced" else [])


FORGED = {"run": "20000101T000000000000Z", "entries": 0, "stored": 0, "head": "0" * 64}


@pytest.mark.parametrize(
    "reason",
    [
        "",
        "not wanted any more",
        "{",
        "null",
        "[]",
        '"text"',
        '{"trail": null}',
        '{"trail": 1}',
        '{"trail": {"run": "x"}}',
        json.dumps({"trail": FORGED}),
        json.dumps({"status": "Approved", "trail": FORGED | {"entries": 99, "stored": 99}}),
    ],
)
def test_a_run_that_was_terminated_for_a_reason_is_reconciled_and_purged_like_any_other(
    house: House, retention: Callable[..., None], reason: str
) -> None:
    """A reason is any text that somebody gave; it stands where the output of a run does."""
    retention(0)
    house.wait("other")
    house.wait("over")
    run = house.control.status("over")["trail"]["run"]
    request = TerminateRequest(instanceId="over")
    request.output.value = reason
    house.control.client._stub.TerminateInstance(request)  # the client makes JSON of it
    house.control.settle()
    assert house.verify("over").verdict == "intact"
    with httpx.Client(base_url=house.control.url, trust_env=False) as client:
        answer = client.get("/api/requests/over")
        assert (answer.status_code, answer.json()["status"]) == (200, "Terminated")
    assert house.reconcile() == {"closed": 1, "unchanged": 2}
    assert house.open_waits() == ["other"]
    assert house.verify("over").verdict == "intact"
    house.advance(seconds=1)
    assert house.purge() == {"purged": 1}
    notes = [(entry.action, entry.after, entry.run) for entry in house.entries("over") if entry.series == "app"]
    assert notes == [("ended", "terminated", run), ("purged", None, run)]
    assert gone(house, "over")
    assert house.verify("over").verdict == "intact"


def test_a_call_whose_run_was_terminated_is_ended_too(house: House) -> None:
    """The management API terminates one run alone; a gate must not stay open for what nobody goes on with."""
    simulate = {"create_refund": {"fails": 9, "status": 422}}
    given = {"data": None, "amount": "5.00", "currency": "EUR", "retry": {"attempts": 1}, "simulate": simulate}
    house.control.start("refund", given, instance_id="over")
    house.control.start("refund", given, instance_id="going-on")
    house.control.settle()
    first, second = sorted(house.open_waits(kind="guarded_call"), key=lambda call: part_of(house, call))
    assert (part_of(house, first), part_of(house, second)) == ("going-on", "over")
    house.manage("terminate", "over")
    assert house.reconcile()["terminated"] == 1
    house.control.settle()
    assert house.control.state(second).runtime_status.name == "TERMINATED"
    assert house.reconcile()["closed"] == 1
    assert house.open_waits(kind="guarded_call") == [first]
    assert house.control.state(first).runtime_status.name == "RUNNING"
    assert house.verify(second).verdict == "intact"


def part_of(house: House, call: str) -> str:
    """The run that a call is a step of."""
    found: str = json.loads(house.control.state(call).serialized_input or "{}")["part_of"]
    return found
