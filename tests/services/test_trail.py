"""The trail in the store: appended to by many at once, read page by page, erased."""

import hashlib
import hmac
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from contracts.audit import GENESIS, Entry, TrailHead, chained, digest_of
from contracts.records import RecordBatch
from services import trail
from services.record_store import MAX_BODY, Change, RecordStore, RecordStoreError, RowTaken
from services.record_store_sqlite import SqliteRecordStore
from services.record_store_tables import TablesRecordStore
from services.records import put_on_record
from services.verification import verify

RUN = "20260131T235959123456Z"
OTHER_RUN = "20260201T000000000000Z"
AT = datetime(2026, 1, 31, 23, 59, 59, 123000, tzinfo=UTC)
RUNS = [RUN, OTHER_RUN]
SALT = "0123456789abcdef0123456789abcdef"
KEY = "a key of sixteen or more"


@pytest.fixture(params=["sqlite", "tables"])
def records(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RecordStore]:
    """A store without rows."""
    made: RecordStore
    if request.param == "sqlite":
        made = SqliteRecordStore(tmp_path / "records.db")
    else:
        made = TablesRecordStore(request.getfixturevalue("azurite").connection, f"t{uuid4().hex}")
    yield made
    made.close()


def add(store: RecordStore, instance_id: str = "one", keys: tuple[str, ...] = (), **said: Any) -> Entry | None:
    """Append an entry of the app."""
    whole: dict[str, Any] = {"action": "late", "at": AT, "run": RUN, "channel": "api"}
    return trail.append(store, instance_id, keys, **whole | said)


def run_entries(count: int, *, run: str = RUN, instance_id: str = "one", **said: Any) -> list[Entry]:
    """The chain of a run."""
    entries: list[Entry] = []
    for number in range(1, count + 1):
        whole: dict[str, Any] = {"salt": SALT, "at": AT + timedelta(seconds=number), "action": "decided"}
        whole |= {"instance_id": instance_id, "series": "run", "run": run} | said
        entries.append(chained(entries[-1] if entries else None, **whole))
    return entries


def bodies(store: RecordStore, instance_id: str = "one") -> dict[str, str]:
    """All rows of a trail."""
    return {row.key: row.body for row in store.range(f"trail:{instance_id}", "", "~", 10_000)}


def is_whole(store: RecordStore, instance_id: str = "one", keys: tuple[str, ...] = ()) -> bool:
    """Whether nothing is found broken in the trail."""
    return verify(trail.read(store, instance_id), instance_id, None, {}, keys).first is None


# Reading


def test_there_is_no_trail(records: RecordStore) -> None:
    assert trail.read(records, "one") == trail.Trail()
    assert trail.read(records, "one").entries == []


def test_a_trail_is_told_from_those_with_similar_names(records: RecordStore) -> None:
    names = ["one", "One", "one:", "one|", "on", "one-", "one=", "one%7C", "öne"]
    for name in names:
        assert add(records, name, detail=name)
    for name in names:
        assert [entry.detail for entry in trail.read(records, name).entries] == [name]


def test_a_trail_of_more_than_one_page_is_read_whole_and_in_order(
    records: RecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trail, "PAGE", 7)
    for count in (6, 7, 8, 14, 15):
        name = f"of-{count}"
        written = run_entries(count, instance_id=name)
        records.write([trail.stored(entry) for entry in written])
        late = [add(records, name), add(records, name)]
        read = trail.read(records, name)
        assert [kept.entry for kept in read.runs[RUN]] == written
        assert [kept.entry for kept in read.app] == late
        assert list(read.runs) == [RUN]


def test_no_row_hides_between_two_pages(records: RecordStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trail, "PAGE", 2)
    records.write([trail.stored(entry) for entry in run_entries(4)])
    strays = [f"run|{RUN}|0000000002{tail}" for tail in ("0", "abc", "|", "~")]
    records.write([Change("insert", "trail:one", key, "no JSON") for key in strays])
    assert {kept.key for kept in trail.read(records, "one").runs[RUN]} == bodies(records).keys()


def test_a_trail_of_thousands_is_read_whole(records: RecordStore) -> None:
    written = run_entries(trail.PAGE + 1)
    records.write([trail.stored(entry) for entry in written])
    assert trail.read(records, "one").entries == written


def test_the_runs_of_an_instance_id_are_told_apart(records: RecordStore) -> None:
    first, second = run_entries(3), run_entries(2, run=OTHER_RUN)
    records.write([trail.stored(entry) for entry in first + second])
    read = trail.read(records, "one")
    assert {run: [kept.entry for kept in rows] for run, rows in read.runs.items()} == {RUN: first, OTHER_RUN: second}


def test_entries_are_in_the_order_of_time_over_all_chains(records: RecordStore) -> None:
    written = run_entries(3)
    records.write([trail.stored(entry) for entry in written])
    late = add(records, at=AT + timedelta(seconds=2, milliseconds=1))
    assert trail.read(records, "one").entries == [*written[:2], late, written[2]]


def test_a_chain_is_shown_in_its_own_order_where_a_clock_was_set_back(records: RecordStore) -> None:
    for seconds in (10, 5, 7, 20):
        add(records, at=AT + timedelta(seconds=seconds))
    records.write([trail.stored(entry) for entry in run_entries(6, at=AT + timedelta(seconds=15))])
    entries = trail.read(records, "one").entries
    assert [entry.number for entry in entries if entry.series == "app"] == [1, 2, 3, 4]
    assert [entry.series for entry in entries] == ["app"] * 3 + ["run"] * 6 + ["app"]


GARBAGE = [
    "",
    "no JSON",
    "null",
    "5",
    "[]",
    "{}",
    '"x"',
    '{"entry": null}',
    '{"entry": {}}',
    '{"entry": []}',
    '[{"entry": {}}]',
    "[" * 30_000,
    '{"entry": ' * 3000,
    "9" * 5000,
    "NaN",
    '{"entry": {"instance_id": "\\ud800"}}',
]


@pytest.mark.parametrize("body", GARBAGE, ids=range(len(GARBAGE)))
def test_a_row_that_is_no_entry_is_kept_as_one_that_cannot_be_read(records: RecordStore, body: str) -> None:
    add(records)
    records.write([Change("insert", "trail:one", "app|0000000002", body)])
    records.write([Change("insert", "trail:one", f"run|{RUN}|0000000001", body)])
    read = trail.read(records, "one")
    assert read.app[1] == trail.Kept("app|0000000002", None)
    assert read.runs == {RUN: [trail.Kept(f"run|{RUN}|0000000001", None)]}
    assert [entry.number for entry in read.entries] == [1]


@pytest.mark.parametrize(
    "change",
    [
        {"at": "0001-01-01T00:00:00+14:00"},
        {"at": "9999-12-31T23:59:59-14:00"},
        {"before": "\ud800"},
        {"after": "\udfff"},
        {"instance_id": "\ud800"},
        {"salt": "\ud800"},
        {"comment": "\ud800"},
        {"at": None},
        {"at": "soon"},
        {"number": "1"},
        {"number": -1},
        {"hash": "x"},
        {"extra": 1},
        {"anchor": {"run": RUN}},
    ],
)
def test_an_entry_that_cannot_be_shown_cannot_be_read(records: RecordStore, change: dict[str, Any]) -> None:
    entry = add(records)
    assert entry is not None
    body = json.dumps({"entry": entry.plain() | change})
    records.write([Change("put", "trail:one", "app|0000000001", body)])
    assert trail.read(records, "one").app == [trail.Kept("app|0000000001", None)]


@pytest.mark.parametrize(("seal", "read"), [(None, None), ("x", "x"), (5, ""), ([], ""), ({}, ""), ("é", "é")])
def test_a_seal_that_is_no_text_is_none_of_ours(records: RecordStore, seal: Any, read: str | None) -> None:
    entry = add(records)
    assert entry is not None
    records.write([Change("put", "trail:one", "app|0000000001", json.dumps({"entry": entry.plain(), "seal": seal}))])
    assert trail.read(records, "one").app == [trail.Kept("app|0000000001", entry, read)]


# Appending


def test_what_is_appended_is_a_chain_of_its_own(records: RecordStore) -> None:
    records.write([trail.stored(entry) for entry in run_entries(2)])
    anchor = TrailHead(run=RUN, entries=2, stored=2, head="a" * 64)
    first = add(records, actor="Bob", detail="approved", comment=" Sorry! ", payload={"x": 1})
    second = add(records, action="ended", anchor=anchor, run=OTHER_RUN)
    assert first is not None
    assert second is not None
    assert (first.number, first.previous, second.number, second.previous) == (1, GENESIS, 2, first.hash)
    assert (first.series, first.actor, first.detail, first.comment) == ("app", "Bob", "approved", "Sorry!")
    assert first.payload_sha256 == digest_of({"x": 1}, first.salt)
    assert (second.anchor, second.run, second.at) == (anchor, OTHER_RUN, AT)
    assert [kept.entry for kept in trail.read(records, "one").app] == [first, second]
    assert sorted(bodies(records))[:2] == ["app|0000000001", "app|0000000002"]
    assert is_whole(records)


def test_each_entry_has_a_salt_of_its_own(records: RecordStore) -> None:
    entries = [add(records, comment="Sorry!") for _ in range(3)]
    salts = {entry.salt for entry in entries if entry is not None and entry.salt is not None}
    assert len(salts) == 3
    assert all(re.fullmatch("[0-9a-f]{32}", salt) for salt in salts)


def test_once_is_once_for_each_action_run_and_payload(records: RecordStore) -> None:
    assert add(records, payload={"id": 1}, once=True)
    assert add(records, payload={"id": 1}, once=True) is None
    assert add(records, payload={"id": 2}, once=True)
    assert add(records, payload={"id": 1}, once=True, run=OTHER_RUN)
    assert add(records, payload={"id": 1}, once=True, action="ended")
    assert add(records, "two", payload={"id": 1}, once=True)
    assert add(records, payload={"id": 2}, once=True) is None
    assert add(records, payload={"id": 1})
    assert len(bodies(records)) == 5


def test_once_without_a_payload_is_once_for_each_action_and_run(records: RecordStore) -> None:
    assert add(records, action="purged", once=True)
    assert add(records, action="purged", once=True) is None
    assert add(records, action="ended", once=True)
    assert add(records, action="purged", once=True, run=OTHER_RUN)
    assert len(bodies(records)) == 3


def test_the_limit_is_of_each_action_and_run(records: RecordStore) -> None:
    assert [add(records, limit=2) is not None for _ in range(4)] == [True, True, False, False]
    assert add(records, limit=2, run=OTHER_RUN)
    assert add(records, limit=2, action="erased")
    assert add(records, limit=2, payload={"id": 1}, once=True) is None
    assert add(records, limit=3)
    assert add(records, limit=0, action="ended") is None
    assert len(bodies(records)) == 5


def test_fifty_at_once_are_all_there_in_one_chain(records: RecordStore) -> None:
    with ThreadPoolExecutor(50) as threads:
        given = list(threads.map(lambda number: add(records, detail=str(number)), range(50)))
    kept = [each.entry for each in trail.read(records, "one").app]
    assert [entry.number for entry in kept if entry is not None] == list(range(1, 51))
    assert {entry.detail for entry in kept if entry is not None} == set(map(str, range(50)))
    assert sorted((entry for entry in given if entry is not None), key=lambda entry: entry.number) == kept
    assert is_whole(records)


def test_fifty_at_once_with_a_limit_are_no_more(records: RecordStore) -> None:
    with ThreadPoolExecutor(50) as threads:
        given = list(threads.map(lambda number: add(records, payload=number % 20, once=True, limit=10), range(50)))
    assert sum(entry is not None for entry in given) == 10
    assert len(bodies(records)) == 10
    assert is_whole(records)


class AlwaysLate(SqliteRecordStore):
    """A store in which somebody else always comes first."""

    def __init__(self, file: Path, times: int) -> None:
        super().__init__(file)
        self.times = times

    def write(self, changes: Any) -> None:
        """Let another one come first."""
        if self.times:
            self.times -= 1
            super().write([trail.stored(self._next())])
        super().write(changes)

    def _next(self) -> Entry:
        app = trail.read(self, "one").app
        last = app[-1].entry if app else None
        return chained(last, salt=SALT, at=AT, action="late", instance_id="one", series="app", run=RUN)


def test_who_always_comes_second_gets_a_turn_in_the_end(tmp_path: Path) -> None:
    store = AlwaysLate(tmp_path / "records.db", 100)
    entry = add(store)
    assert entry is not None
    assert entry.number == 101
    assert is_whole(store)
    store.close()


@pytest.mark.parametrize("body", ["no JSON", "{}", '{"entry": {}}'])
def test_after_a_last_entry_that_is_broken_none_is_added(records: RecordStore, body: str) -> None:
    add(records)
    add(records)
    records.write([Change("put", "trail:one", "app|0000000002", body)])
    before = bodies(records)
    with pytest.raises(RecordStoreError, match="'one' is broken: its entry 2 cannot be read"):
        add(records, comment="Sorry!")
    assert bodies(records) == before


def test_an_entry_in_the_midst_that_is_broken_does_not_keep_others_from_being_added(records: RecordStore) -> None:
    for _ in range(3):
        add(records)
    records.write([Change("put", "trail:one", "app|0000000002", "no JSON")])
    entry = add(records)
    assert entry is not None
    assert entry.number == 4


def test_a_store_that_cannot_be_used_says_so(tmp_path: Path) -> None:
    (tmp_path / "records.db").write_bytes(b"this is no database, and long enough to be seen as none" * 100)
    store = SqliteRecordStore(tmp_path / "records.db")
    with pytest.raises(RecordStoreError):
        add(store)
    with pytest.raises(RecordStoreError):
        trail.read(store, "one")
    store.close()


def test_the_seal_is_an_hmac_of_the_hash_with_the_first_key(records: RecordStore) -> None:
    entry = add(records, keys=(KEY, "an older key of sixteen"))
    assert entry is not None
    seal = json.loads(bodies(records)["app|0000000001"])["seal"]
    assert seal == hmac.new(KEY.encode(), entry.hash.encode(), hashlib.sha256).hexdigest()
    assert KEY not in bodies(records)["app|0000000001"]


def test_without_a_key_there_is_no_seal(records: RecordStore) -> None:
    add(records)
    assert "seal" not in json.loads(bodies(records)["app|0000000001"])


def test_what_a_run_stores_bears_no_seal() -> None:
    (entry,) = run_entries(1)
    change = trail.stored(entry)
    assert (change.do, change.partition, change.key) == ("insert", "trail:one", f"run|{RUN}|0000000001")
    document = json.loads(change.body)
    assert list(document) == ["entry"]
    assert Entry.model_validate(document["entry"]) == entry


def test_a_place_is_taken_for_good(records: RecordStore) -> None:
    one, other = run_entries(1), run_entries(1, detail="x")
    records.write([trail.stored(one[0])])
    with pytest.raises(RowTaken):
        records.write([trail.stored(other[0])])
    assert trail.read(records, "one").entries == one


@pytest.mark.parametrize(
    "said",
    [
        {"comment": "\x01" * 4000, "actor": "🎉" * 100},
        {"comment": "🎉" * 4000, "actor": "🎉" * 100},
        {"detail": "\x01" * 2000, "actor": "🎉" * 100},
    ],
)
def test_the_longest_entry_that_the_app_makes_fits_into_a_row(records: RecordStore, said: dict[str, Any]) -> None:
    name = ":" * 100
    longest = add(records, name, (KEY,), **said)
    assert longest is not None
    assert trail.read(records, name).entries == [longest]
    (row,) = records.range(f"trail:{name}", "", "~", 10)
    assert len(row.body.encode("utf-16-le")) // 2 <= MAX_BODY


# Erasing


def with_comments(store: RecordStore) -> list[Entry]:
    """A trail of two runs and the app, in which some entries have comments."""
    entries = run_entries(3, comment="My knee hurts") + run_entries(2, run=OTHER_RUN, comment="It still does")
    entries += [chained(entries[2], salt=None, instance_id="one", series="run", run=RUN, at=AT, action="ended")]
    put_on_record(store, RecordBatch(entries=tuple(entries)))
    add(store, comment="Too late, my knee", keys=(KEY,), payload={"comments": "Too late, my knee"})
    add(store, keys=(KEY,))
    return entries


def test_erasing_takes_comments_and_salts_out_of_all_rows_and_nothing_else(records: RecordStore) -> None:
    with_comments(records)
    before = bodies(records)
    assert trail.erase_comments(records, "one", RUNS) == 6
    after = bodies(records)
    assert list(after) == list(before)
    text = "".join(after.values())
    assert not re.search("knee|hurts|does", text)
    assert SALT not in text
    for key, body in before.items():
        was, now = json.loads(body), json.loads(after[key])
        assert now.get("seal") == was.get("seal")
        if "comment" in was["entry"]:
            del was["entry"]["comment"], was["entry"]["salt"]
            assert now["entry"] == was["entry"]
        else:
            assert after[key] == body


def test_after_erasing_the_chains_verify(records: RecordStore) -> None:
    entries = with_comments(records)
    for run in (RUN, OTHER_RUN):
        add(records, action="erased", run=run, keys=(KEY,))
    trail.erase_comments(records, "one", RUNS)
    live = TrailHead(run=RUN, entries=4, stored=4, head=entries[-1].hash)
    found = verify(trail.read(records, "one"), "one", live, {}, [KEY])
    assert (found.first, found.erased, found.sealed) == (None, 6, True)


def test_nobody_can_check_a_guess_at_a_comment_that_was_erased(records: RecordStore) -> None:
    with_comments(records)
    salt = SALT
    trail.erase_comments(records, "one", RUNS)
    first = trail.read(records, "one").runs[RUN][0].entry
    assert first is not None
    assert first.comment_sha256 == digest_of("My knee hurts", salt)
    rows = "".join(bodies(records).values())
    for guess in (digest_of("My knee hurts"), hashlib.sha256(b"My knee hurts").hexdigest()):
        assert guess not in rows


def test_erasing_again_finds_nothing_and_writes_nothing(records: RecordStore) -> None:
    with_comments(records)
    trail.erase_comments(records, "one", RUNS)
    before = bodies(records)
    assert trail.erase_comments(records, "one", RUNS) == 0
    assert trail.erase_comments(records, "none", RUNS) == 0
    assert bodies(records) == before


def test_only_the_runs_that_are_named_are_erased(records: RecordStore) -> None:
    with_comments(records)
    assert trail.erase_comments(records, "one", [OTHER_RUN]) == 2
    assert [entry.run for entry in trail.read(records, "one").entries if entry.comment is not None] == [RUN] * 4
    assert trail.erase_comments(records, "one", []) == 0


def test_erasing_many_is_erasing_all(records: RecordStore) -> None:
    records.write([trail.stored(entry) for entry in run_entries(120, comment="My knee hurts")])
    assert trail.erase_comments(records, "one", RUNS) == 120
    assert "knee" not in "".join(bodies(records).values())


def test_erasing_leaves_other_trails_alone(records: RecordStore) -> None:
    with_comments(records)
    add(records, "two", comment="My knee hurts")
    before = bodies(records, "two")
    trail.erase_comments(records, "one", RUNS)
    assert bodies(records, "two") == before


def test_a_row_that_cannot_be_read_does_not_keep_others_from_being_erased(records: RecordStore) -> None:
    with_comments(records)
    records.write([Change("put", "trail:one", f"run|{RUN}|0000000002", "no JSON")])
    assert trail.erase_comments(records, "one", RUNS) == 5
    assert bodies(records)[f"run|{RUN}|0000000002"] == "no JSON"


def test_the_activity_that_comes_again_does_not_bring_an_erased_comment_back(
    records: RecordStore, caplog: pytest.LogCaptureFixture
) -> None:
    entries = with_comments(records)
    trail.erase_comments(records, "one", RUNS)
    before = bodies(records)
    assert put_on_record(records, RecordBatch(entries=tuple(entries))) == []
    assert bodies(records) == before
    assert not caplog.records
