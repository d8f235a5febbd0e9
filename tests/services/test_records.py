"""Putting on record what a run says: the same twice is once, and what was tampered with raises an alarm."""

import itertools
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from contracts.audit import Entry, chained
from contracts.records import RecordBatch, Wait
from services import trail, waits
from services.record_store import Change, RecordStore, RecordStoreError
from services.record_store_sqlite import SqliteRecordStore
from services.records import put_on_record
from services.waits import WaitQuery

RUN = "20260131T235959123456Z"
OTHER_RUN = "20260201T000000000000Z"
AT = datetime(2026, 1, 31, 23, 59, 59, 123000, tzinfo=UTC)
SALT = "0123456789abcdef0123456789abcdef"
SECRETS = ("My knee hurts", SALT, "Mallory was here")


def run_entries(count: int, instance_id: str = "one", run: str = RUN, **said: Any) -> list[Entry]:
    """The chain of a run."""
    entries: list[Entry] = []
    for number in range(1, count + 1):
        whole: dict[str, Any] = {"salt": SALT, "at": AT + timedelta(seconds=number), "action": "decided"}
        whole |= {"instance_id": instance_id, "series": "run", "run": run, "comment": "My knee hurts"} | said
        entries.append(chained(entries[-1] if entries else None, **whole))
    return entries


def wait_of(number: int = 1, instance_id: str = "one", run: str = RUN) -> Wait:
    """A wait."""
    return Wait(
        instance_id=instance_id,
        run=run,
        number=number,
        kind="approval",
        title="Vacation",
        people=("ann@example.com", "bob@example.com"),
        since=AT,
        deadline=AT + timedelta(hours=1),
        actions=("approve", "reject"),
        path="/api/requests/one",
    )


def batch(
    entries: list[Entry] | None = None, opened: list[Wait] | None = None, closed: list[Wait] | None = None
) -> RecordBatch:
    """A batch."""
    return RecordBatch(entries=tuple(entries or ()), opened=tuple(opened or ()), closed=tuple(closed or ()))


def kept(store: RecordStore, instance_id: str = "one") -> list[Entry]:
    """The entries in the store."""
    return trail.read(store, instance_id).entries


def erase(store: RecordStore) -> int:
    """Erase all comments of the trail."""
    return trail.erase_comments(store, "one", trail.comments(trail.read(store, "one")))


QUERIES = [
    WaitQuery(),
    WaitQuery(kind="approval"),
    WaitQuery(person="ann@example.com"),
    WaitQuery(person="bob@example.com"),
]


def open_in_lists(store: RecordStore) -> int:
    """How many waits are open: in all lists, which agree, and among the waits of the instance."""
    now = AT + timedelta(hours=2)
    lists = [*QUERIES, *(WaitQuery(kind=query.kind, person=query.person, overdue=True) for query in QUERIES)]
    counts = {len(waits.page(store, query, 100, None, now)[0]) for query in lists}
    counts.add(sum(is_open for _, is_open in waits.of_instance(store, "one")))
    assert len(counts) == 1, "the lists do not agree"
    return counts.pop()


def everything(store: RecordStore) -> dict[tuple[str, str], str]:
    """All rows that a batch can write."""
    partitions = ["trail:one", "wait:one"]
    for scope in ("open", "kind:approval", "person:ann@example.com", "person:bob@example.com"):
        partitions += [f"{scope}|since", f"{scope}|due"]
    return {(name, row.key): row.body for name in partitions for row in store.range(name, "", "~", 1000)}


def alarms(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The alarms in the log, which tell no secret."""
    for record in caplog.records:
        assert not [secret for secret in SECRETS if secret in record.getMessage() + str(record.exc_info)]
    return [record.getMessage() for record in caplog.records if record.levelno == logging.CRITICAL]


def test_nothing_is_nothing(store: RecordStore) -> None:
    assert put_on_record(store, batch()) == []
    assert everything(store) == {}


def test_a_batch_is_stored_whole(store: RecordStore, caplog: pytest.LogCaptureFixture) -> None:
    entries = run_entries(3)
    assert put_on_record(store, batch(entries, [wait_of()])) == []
    assert kept(store) == entries
    assert open_in_lists(store) == 1
    assert put_on_record(store, batch(closed=[wait_of()])) == []
    assert open_in_lists(store) == 0
    assert not alarms(caplog)


def test_the_same_batch_again_changes_nothing(store: RecordStore, caplog: pytest.LogCaptureFixture) -> None:
    whole = batch(run_entries(3), [wait_of(2)], [wait_of(1)])
    put_on_record(store, whole)
    before = everything(store)
    for _ in range(2):
        assert put_on_record(store, whole) == []
        assert everything(store) == before
    assert not alarms(caplog)


@pytest.mark.parametrize("there", [[], [1], [2], [3], [1, 2], [1, 3], [2, 3], [1, 2, 3]])
@pytest.mark.parametrize("waits_there", [False, True])
def test_what_a_crash_left_undone_is_made_up_for(
    store: RecordStore, there: list[int], waits_there: bool, caplog: pytest.LogCaptureFixture
) -> None:
    entries = run_entries(3)
    store.write([trail.stored(entries[number - 1]) for number in there])
    if waits_there:
        store.write(waits.opened(wait_of(2))[:1])  # its partition was changed; those of the indexes were not
    whole = batch(entries, [wait_of(2)], [wait_of(1)])
    assert put_on_record(store, whole) == []
    assert kept(store) == entries
    assert open_in_lists(store) == 1
    assert not alarms(caplog)


@pytest.mark.parametrize("taken", [[1], [2], [3], [1, 3], [1, 2, 3]])
def test_an_entry_whose_place_is_taken_is_refused_and_the_others_are_stored(
    store: RecordStore, taken: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    entries, others = run_entries(3), run_entries(3, actor="Mallory was here")
    store.write([trail.stored(others[number - 1]) for number in taken])
    assert put_on_record(store, batch(entries, [wait_of()])) == taken
    stored = {entry.number: entry for entry in kept(store)}
    assert stored == {entry.number: others[entry.number - 1] if entry.number in taken else entry for entry in entries}
    assert open_in_lists(store) == 1
    assert len(alarms(caplog)) == len(taken)
    for number, alarm in zip(taken, alarms(caplog), strict=True):
        assert "ALARM" in alarm
        assert "'one'" in alarm
        assert f"entry {number} " in alarm


def test_an_alarm_comes_again_as_long_as_the_entry_is_there(
    store: RecordStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.write([trail.stored(run_entries(1, actor="Mallory was here")[0])])
    for count in (1, 2):
        assert put_on_record(store, batch(run_entries(1))) == [1]
        assert len(alarms(caplog)) == count


@pytest.mark.parametrize(
    "edit",
    [
        {"actor": "Mallory was here"},
        {"comment": "Mallory was here"},
        {"salt": "1" * 32},
        {"hash": "1" * 64},
        {"previous": "1" * 64},
    ],
)
def test_an_entry_that_was_edited_is_not_taken_for_the_one_that_is_stored(
    store: RecordStore, edit: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    (entry,) = run_entries(1)
    change = trail.stored(entry)
    edited = json.dumps({"entry": json.loads(change.body)["entry"] | edit})
    store.write([Change("put", change.partition, change.key, edited)])
    assert put_on_record(store, batch([entry])) == [1]
    assert len(alarms(caplog)) == 1
    row = store.get(change.partition, change.key)
    assert row is not None
    assert row.body == edited, "no row is ever replaced"


@pytest.mark.parametrize("body", ["", "no JSON", "{}", "null", '{"entry": {}}', "[" * 20_000])
def test_a_place_taken_by_what_cannot_be_read_is_taken(
    store: RecordStore, body: str, caplog: pytest.LogCaptureFixture
) -> None:
    entries = run_entries(2)
    store.write([Change("put", "trail:one", trail.key_of(entries[0]), body)])
    assert put_on_record(store, batch(entries)) == [1]
    assert len(alarms(caplog)) == 1
    assert kept(store) == entries[1:]


def test_other_runs_and_other_instances_take_no_place(store: RecordStore, caplog: pytest.LogCaptureFixture) -> None:
    for entries in (run_entries(2), run_entries(2, run=OTHER_RUN), run_entries(2, "two"), run_entries(2, "one.")):
        assert put_on_record(store, batch(entries)) == []
        assert put_on_record(store, batch(entries)) == []
    assert len(kept(store)) == 4
    assert not alarms(caplog)


def test_an_erased_comment_is_not_brought_back(store: RecordStore, caplog: pytest.LogCaptureFixture) -> None:
    whole = batch(run_entries(3), [wait_of()])
    put_on_record(store, whole)
    assert erase(store) == 3
    assert put_on_record(store, whole) == []
    assert [(entry.comment, entry.salt) for entry in kept(store)] == [(None, None)] * 3
    assert "knee" not in "".join(everything(store).values())
    assert not alarms(caplog)


def test_a_comment_that_comes_after_the_erasure_is_erased_by_the_next(store: RecordStore) -> None:
    entries = run_entries(3)
    put_on_record(store, batch(entries[:2]))
    assert erase(store) == 2
    put_on_record(store, batch(entries))
    assert [entry.comment for entry in kept(store)] == [None, None, "My knee hurts"]
    assert erase(store) == 1


OPEN, CLOSE, BOTH = "open", "close", "open and close"


def of_kind(kind: str) -> RecordBatch:
    """A batch that opens or closes the wait."""
    return batch(opened=[wait_of()] if kind != CLOSE else [], closed=[wait_of()] if kind != OPEN else [])


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_a_wait_that_was_closed_stays_closed_in_whatever_order_batches_come(
    sqlite: SqliteRecordStore, length: int
) -> None:
    for order in itertools.product([OPEN, CLOSE, BOTH], repeat=length):
        for kind in order:
            put_on_record(sqlite, of_kind(kind))
        assert open_in_lists(sqlite) == (1 if set(order) == {OPEN} else 0), order
        waits.forget(sqlite, "one")


@pytest.mark.parametrize("order", list(itertools.product([OPEN, CLOSE], repeat=3)), ids="-".join)
def test_a_wait_that_was_closed_is_not_opened_again(store: RecordStore, order: tuple[str, ...]) -> None:
    for kind in order:
        put_on_record(store, of_kind(kind))
    assert open_in_lists(store) == (1 if set(order) == {OPEN} else 0)


def test_a_wait_is_closed_while_the_next_is_opened(store: RecordStore) -> None:
    put_on_record(store, batch(opened=[wait_of(1)]))
    for _ in range(2):
        put_on_record(store, batch(opened=[wait_of(2)], closed=[wait_of(1)]))
        assert [(wait.number, is_open) for wait, is_open in waits.of_instance(store, "one")] == [(1, False), (2, True)]
        put_on_record(store, batch(opened=[wait_of(1)]))
    assert open_in_lists(store) == 1


def test_fifty_who_store_the_same_batch_at_once_store_it_once(
    store: RecordStore, caplog: pytest.LogCaptureFixture
) -> None:
    entries = run_entries(3)
    whole = batch(entries, [wait_of(2)], [wait_of(1)])
    with ThreadPoolExecutor(50) as threads:
        assert list(threads.map(lambda _: put_on_record(store, whole), range(50))) == [[]] * 50
    assert kept(store) == entries
    assert open_in_lists(store) == 1
    assert not alarms(caplog)


def test_fifty_instances_at_once_are_all_on_record(store: RecordStore) -> None:
    names = [f"i{number}" for number in range(50)]
    with ThreadPoolExecutor(50) as threads:
        list(threads.map(lambda name: put_on_record(store, batch(run_entries(3, name), [wait_of(1, name)])), names))
    assert all(kept(store, name) == run_entries(3, name) for name in names)
    found, _ = waits.page(store, WaitQuery(), 100, None, AT)
    assert sorted(wait.instance_id for wait in found) == sorted(names)


def test_fifty_forgers_at_once_leave_one_entry_and_an_alarm_for_each_other(
    store: RecordStore, caplog: pytest.LogCaptureFixture
) -> None:
    forged = [run_entries(1, detail=str(number)) for number in range(50)]
    with ThreadPoolExecutor(50) as threads:
        refused = list(threads.map(lambda entries: put_on_record(store, batch(entries)), forged))
    assert sorted(refused) == [[]] + [[1]] * 49
    assert [kept(store)] == [forged[refused.index([])]]
    assert len(alarms(caplog)) == 49


def test_a_store_that_cannot_be_used_says_so_and_tells_no_secret(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "records.db").mkdir()
    broken = SqliteRecordStore(tmp_path / "records.db")
    with pytest.raises(RecordStoreError) as caught:
        put_on_record(broken, batch(run_entries(1)))
    assert not [secret for secret in SECRETS if secret in str(caught.value)]
    assert not alarms(caplog)
