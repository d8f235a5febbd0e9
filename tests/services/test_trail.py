"""The trail in the store: appended to by many at once, read page by page, erased."""

import hashlib
import hmac
import json
import re
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from contracts.audit import GENESIS, Entry, TrailHead, chained, digest_of
from contracts.records import RecordBatch
from services import trail
from services.record_store import MAX_BODY, Change, RecordStore, RecordStoreError, Row, RowTaken
from services.record_store_sqlite import SqliteRecordStore
from services.records import put_on_record
from services.verification import verify

RUN = "20260131T235959123456Z"
OTHER_RUN = "20260201T000000000000Z"
AT = datetime(2026, 1, 31, 23, 59, 59, 123000, tzinfo=UTC)
SALT = "0123456789abcdef0123456789abcdef"
KEY = "a key of sixteen or more"


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


def test_there_is_no_trail(store: RecordStore) -> None:
    assert trail.read(store, "one") == trail.Trail()
    assert trail.read(store, "one").entries == []


def test_a_trail_is_told_from_those_with_similar_names(store: RecordStore) -> None:
    names = ["one", "One", "one:", "one|", "on", "one-", "one=", "one%7C", "öne"]
    for name in names:
        assert add(store, name, detail=name)
    for name in names:
        assert [entry.detail for entry in trail.read(store, name).entries] == [name]


def test_a_trail_of_more_than_one_page_is_read_whole_and_in_order(
    store: RecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trail, "PAGE", 7)
    for count in (6, 7, 8, 14, 15):
        name = f"of-{count}"
        written = run_entries(count, instance_id=name)
        store.write([trail.stored(entry) for entry in written])
        late = [add(store, name), add(store, name)]
        read = trail.read(store, name)
        assert [kept.entry for kept in read.runs[RUN]] == written
        assert [kept.entry for kept in read.app] == late
        assert list(read.runs) == [RUN]


def test_no_row_hides_between_two_pages(store: RecordStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trail, "PAGE", 2)
    store.write([trail.stored(entry) for entry in run_entries(4)])
    strays = [f"run|{RUN}|0000000002{tail}" for tail in ("0", "abc", "|", "~")]
    store.write([Change("insert", "trail:one", key, "no JSON") for key in strays])
    assert {kept.key for kept in trail.read(store, "one").runs[RUN]} == bodies(store).keys()


def test_a_trail_of_thousands_is_read_whole(store: RecordStore) -> None:
    written = run_entries(trail.PAGE + 1)
    store.write([trail.stored(entry) for entry in written])
    assert trail.read(store, "one").entries == written


class Patient(SqliteRecordStore):
    """A store that is not asked for ever."""

    asked = 0

    def range(self, partition: str, start: str, end: str, limit: int) -> list[Row]:
        """Answer a number of times that is enough for every trail here."""
        self.asked += 1
        assert self.asked < 50, "the same rows are read for ever"
        return super().range(partition, start, end, limit)


@pytest.mark.parametrize("page", [1, 2, 3])
@pytest.mark.parametrize(
    "key",
    [b"app|\x80", b"app|\xff", b"app|0000000001\xff", b"run|\xff|0000000001", b"\xff", b"a\xc3", b"z\xed\xa0\x80"],
)
def test_keys_that_are_no_text_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: int, key: bytes
) -> None:
    monkeypatch.setattr(trail, "PAGE", page)
    written = run_entries(3)
    live = TrailHead(run=RUN, entries=3, stored=3, head=written[-1].hash)
    insert = "INSERT INTO record VALUES ('trail:one', CAST(? AS TEXT), 'no JSON')"
    with closing(Patient(tmp_path / "records.db")) as store:
        store.write([trail.stored(entry) for entry in written])
        add(store)
        with closing(sqlite3.connect(tmp_path / "records.db")) as file, file:
            for tail in (b"", b"\x80", b"\xff"):
                file.execute(insert, (key + tail,))
        read = trail.read(store, "one")
    is_shown = key != b"\xff"  # which comes after all that is read
    for head in (live, None):
        assert (verify(read, "one", head, {}, []).first is not None) == is_shown


def test_the_runs_of_an_instance_id_are_told_apart(store: RecordStore) -> None:
    first, second = run_entries(3), run_entries(2, run=OTHER_RUN)
    store.write([trail.stored(entry) for entry in first + second])
    read = trail.read(store, "one")
    assert {run: [kept.entry for kept in rows] for run, rows in read.runs.items()} == {RUN: first, OTHER_RUN: second}


def test_entries_are_in_the_order_of_time_over_all_chains(store: RecordStore) -> None:
    written = run_entries(3)
    store.write([trail.stored(entry) for entry in written])
    late = add(store, at=AT + timedelta(seconds=2, milliseconds=1))
    assert trail.read(store, "one").entries == [*written[:2], late, written[2]]


def test_a_chain_is_shown_in_its_own_order_where_a_clock_was_set_back(store: RecordStore) -> None:
    for seconds in (10, 5, 7, 20):
        add(store, at=AT + timedelta(seconds=seconds))
    store.write([trail.stored(entry) for entry in run_entries(6, at=AT + timedelta(seconds=15))])
    entries = trail.read(store, "one").entries
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
def test_a_row_that_is_no_entry_is_kept_as_one_that_cannot_be_read(store: RecordStore, body: str) -> None:
    add(store)
    store.write([Change("insert", "trail:one", "app|0000000002", body)])
    store.write([Change("insert", "trail:one", f"run|{RUN}|0000000001", body)])
    read = trail.read(store, "one")
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
        {"erasure": "x"},
        {"erasure": [1]},
        {"erasure": ["\ud800"]},
    ],
)
def test_an_entry_that_cannot_be_shown_cannot_be_read(store: RecordStore, change: dict[str, Any]) -> None:
    entry = add(store)
    assert entry is not None
    body = json.dumps({"entry": entry.plain() | change})
    store.write([Change("put", "trail:one", "app|0000000001", body)])
    assert trail.read(store, "one").app == [trail.Kept("app|0000000001", None)]


@pytest.mark.parametrize(("seal", "read"), [(None, None), ("x", "x"), (5, ""), ([], ""), ({}, ""), ("é", "é")])
def test_a_seal_that_is_no_text_is_none_of_ours(store: RecordStore, seal: Any, read: str | None) -> None:
    entry = add(store)
    assert entry is not None
    store.write([Change("put", "trail:one", "app|0000000001", json.dumps({"entry": entry.plain(), "seal": seal}))])
    assert trail.read(store, "one").app == [trail.Kept("app|0000000001", entry, read)]


# Appending


def test_what_is_appended_is_a_chain_of_its_own(store: RecordStore) -> None:
    store.write([trail.stored(entry) for entry in run_entries(2)])
    anchor = TrailHead(run=RUN, entries=2, stored=2, head="a" * 64)
    first = add(store, actor="Bob", detail="approved", comment=" Sorry! ", payload={"x": 1})
    second = add(store, action="ended", anchor=anchor, run=OTHER_RUN)
    assert first is not None
    assert second is not None
    assert (first.number, first.previous, second.number, second.previous) == (1, GENESIS, 2, first.hash)
    assert (first.series, first.actor, first.detail, first.comment) == ("app", "Bob", "approved", "Sorry!")
    assert first.payload_sha256 == digest_of({"x": 1}, first.salt)
    assert (second.anchor, second.run, second.at) == (anchor, OTHER_RUN, AT)
    assert [kept.entry for kept in trail.read(store, "one").app] == [first, second]
    assert sorted(bodies(store))[:2] == ["app|0000000001", "app|0000000002"]
    assert is_whole(store)


def test_each_entry_has_a_salt_of_its_own(store: RecordStore) -> None:
    entries = [add(store, comment="Sorry!") for _ in range(3)]
    salts = {entry.salt for entry in entries if entry is not None and entry.salt is not None}
    assert len(salts) == 3
    assert all(re.fullmatch("[0-9a-f]{32}", salt) for salt in salts)


def test_once_is_once_for_each_action_run_and_payload(store: RecordStore) -> None:
    assert add(store, payload={"id": 1}, once=True)
    assert add(store, payload={"id": 1}, once=True) is None
    assert add(store, payload={"id": 2}, once=True)
    assert add(store, payload={"id": 1}, once=True, run=OTHER_RUN)
    assert add(store, payload={"id": 1}, once=True, action="ended")
    assert add(store, "two", payload={"id": 1}, once=True)
    assert add(store, payload={"id": 2}, once=True) is None
    assert add(store, payload={"id": 1})
    assert len(bodies(store)) == 5


def test_once_without_a_payload_is_once_for_each_action_and_run(store: RecordStore) -> None:
    assert add(store, action="purged", once=True)
    assert add(store, action="purged", once=True) is None
    assert add(store, action="ended", once=True)
    assert add(store, action="purged", once=True, run=OTHER_RUN)
    assert len(bodies(store)) == 3


def forged(store: RecordStore, **said: Any) -> Entry:
    """Add an entry to the app's chain without its key."""
    entry = add(store, **said)
    assert entry is not None
    return entry


ANCHOR = TrailHead(run=RUN, entries=2, stored=2, head="a" * 64)


@pytest.mark.parametrize("keys", [(), (KEY,)])
@pytest.mark.parametrize("other", [None, {"entries": 3}, {"stored": 1}, {"head": "b" * 64}, {"run": OTHER_RUN}])
def test_once_is_once_for_each_anchor(store: RecordStore, keys: tuple[str, ...], other: dict[str, Any] | None) -> None:
    another = ANCHOR.model_copy(update=other) if other is not None else None
    assert add(store, action="purged", once=True, anchor=another, keys=keys)
    assert add(store, action="purged", once=True, anchor=ANCHOR, keys=keys)
    assert add(store, action="purged", once=True, anchor=ANCHOR, keys=keys) is None
    assert add(store, action="purged", once=True, anchor=another, keys=keys) is None
    assert len(bodies(store)) == 2


@pytest.mark.parametrize("seal", [None, "0" * 64, "of another key", 5])
def test_a_note_without_our_seal_is_not_ours_and_does_not_count(store: RecordStore, seal: Any) -> None:
    note = forged(store, action="purged", anchor=ANCHOR)
    if seal is not None:
        seal = trail.seal_of(note, "a key of somebody else") if seal == "of another key" else seal
        store.write([Change("put", "trail:one", trail.app_key(1), json.dumps({"entry": note.plain(), "seal": seal}))])
    assert add(store, action="purged", once=True, anchor=ANCHOR, keys=(KEY,), limit=1)
    assert add(store, action="purged", once=True, anchor=ANCHOR, keys=(KEY,)) is None
    assert add(store, action="purged", keys=(KEY,), limit=1) is None
    assert len(bodies(store)) == 2


def test_a_note_under_a_key_of_before_is_ours(store: RecordStore) -> None:
    old = "an older key of sixteen"
    assert add(store, action="purged", once=True, anchor=ANCHOR, keys=(old,))
    assert add(store, action="purged", once=True, anchor=ANCHOR, keys=(KEY, old)) is None
    assert add(store, action="purged", once=True, anchor=ANCHOR, keys=(KEY,))


@pytest.mark.parametrize("keys", [(), (KEY,)])
def test_a_note_that_was_edited_does_not_count(store: RecordStore, keys: tuple[str, ...]) -> None:
    note = add(store, action="purged", run=OTHER_RUN, anchor=ANCHOR, keys=keys)
    assert note is not None
    document = json.loads(bodies(store)[trail.app_key(1)])
    document["entry"]["run"] = RUN  # the hash, and so the seal, are those of the other run's note
    store.write([Change("put", "trail:one", trail.app_key(1), json.dumps(document))])
    assert add(store, action="purged", once=True, limit=1, anchor=ANCHOR, keys=keys)


def test_the_limit_is_of_each_action_and_run(store: RecordStore) -> None:
    assert [add(store, limit=2) is not None for _ in range(4)] == [True, True, False, False]
    assert add(store, limit=2, run=OTHER_RUN)
    assert add(store, limit=2, action="erased")
    assert add(store, limit=2, payload={"id": 1}, once=True) is None
    assert add(store, limit=3)
    assert add(store, limit=0, action="ended") is None
    assert len(bodies(store)) == 5


def test_fifty_at_once_are_all_there_in_one_chain(store: RecordStore) -> None:
    with ThreadPoolExecutor(50) as threads:
        given = list(threads.map(lambda number: add(store, detail=str(number)), range(50)))
    kept = [each.entry for each in trail.read(store, "one").app]
    assert [entry.number for entry in kept if entry is not None] == list(range(1, 51))
    assert {entry.detail for entry in kept if entry is not None} == set(map(str, range(50)))
    assert sorted((entry for entry in given if entry is not None), key=lambda entry: entry.number) == kept
    assert is_whole(store)


def test_fifty_at_once_with_a_limit_are_no_more(store: RecordStore) -> None:
    with ThreadPoolExecutor(50) as threads:
        given = list(threads.map(lambda number: add(store, payload=number % 20, once=True, limit=10), range(50)))
    assert sum(entry is not None for entry in given) == 10
    assert len(bodies(store)) == 10
    assert is_whole(store)


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
def test_after_a_last_entry_that_is_broken_none_is_added(store: RecordStore, body: str) -> None:
    add(store)
    add(store)
    store.write([Change("put", "trail:one", "app|0000000002", body)])
    before = bodies(store)
    with pytest.raises(RecordStoreError, match="'one' is broken: its entry 2 cannot be read"):
        add(store, comment="Sorry!")
    assert bodies(store) == before


def test_an_entry_in_the_midst_that_is_broken_does_not_keep_others_from_being_added(store: RecordStore) -> None:
    for _ in range(3):
        add(store)
    store.write([Change("put", "trail:one", "app|0000000002", "no JSON")])
    entry = add(store)
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


def test_the_seal_is_an_hmac_of_the_hash_with_the_first_key(store: RecordStore) -> None:
    entry = add(store, keys=(KEY, "an older key of sixteen"))
    assert entry is not None
    seal = json.loads(bodies(store)["app|0000000001"])["seal"]
    assert seal == hmac.new(KEY.encode(), entry.hash.encode(), hashlib.sha256).hexdigest()
    assert KEY not in bodies(store)["app|0000000001"]


def test_without_a_key_there_is_no_seal(store: RecordStore) -> None:
    add(store)
    assert "seal" not in json.loads(bodies(store)["app|0000000001"])


def test_what_a_run_stores_bears_no_seal() -> None:
    (entry,) = run_entries(1)
    change = trail.stored(entry)
    assert (change.do, change.partition, change.key) == ("insert", "trail:one", f"run|{RUN}|0000000001")
    document = json.loads(change.body)
    assert list(document) == ["entry"]
    assert Entry.model_validate(document["entry"]) == entry


def test_a_place_is_taken_for_good(store: RecordStore) -> None:
    one, other = run_entries(1), run_entries(1, detail="x")
    store.write([trail.stored(one[0])])
    with pytest.raises(RowTaken):
        store.write([trail.stored(other[0])])
    assert trail.read(store, "one").entries == one


@pytest.mark.parametrize(
    "said",
    [
        {"comment": "\x01" * 4000, "actor": "🎉" * 100},
        {"comment": "🎉" * 4000, "actor": "🎉" * 100},
        {"detail": "\x01" * 2000, "actor": "🎉" * 100},
    ],
)
def test_the_longest_entry_that_the_app_makes_fits_into_a_row(store: RecordStore, said: dict[str, Any]) -> None:
    name = ":" * 100
    longest = add(store, name, (KEY,), **said)
    assert longest is not None
    assert trail.read(store, name).entries == [longest]
    (row,) = store.range(f"trail:{name}", "", "~", 10)
    assert len(row.body.encode("utf-16-le")) // 2 <= MAX_BODY


# Erasing


def erase(store: RecordStore, instance_id: str = "one") -> int:
    """Erase all comments of a trail."""
    return trail.erase_comments(store, instance_id, trail.comments(trail.read(store, instance_id)))


def with_comments(store: RecordStore) -> list[Entry]:
    """A trail of two runs and the app, in which some entries have comments."""
    entries = run_entries(3, comment="My knee hurts") + run_entries(2, run=OTHER_RUN, comment="It still does")
    entries += [chained(entries[2], salt=None, instance_id="one", series="run", run=RUN, at=AT, action="ended")]
    put_on_record(store, RecordBatch(entries=tuple(entries)))
    add(store, comment="Too late, my knee", keys=(KEY,), payload={"comments": "Too late, my knee"})
    add(store, keys=(KEY,))
    return entries


def test_erasing_takes_comments_and_salts_out_of_all_rows_and_nothing_else(store: RecordStore) -> None:
    with_comments(store)
    before = bodies(store)
    assert erase(store) == 6
    after = bodies(store)
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


def test_after_erasing_the_chains_verify(store: RecordStore) -> None:
    entries = with_comments(store)
    keys = trail.comments(trail.read(store, "one"))
    note = add(store, action="erased", keys=(KEY,), erasure=keys)
    assert note is not None
    assert note.erasure == tuple(keys)
    assert trail.erase_comments(store, "one", keys) == 6
    live = TrailHead(run=RUN, entries=4, stored=4, head=entries[-1].hash)
    found = verify(trail.read(store, "one"), "one", live, {}, [KEY])
    assert (found.first, found.erased, found.sealed) == (None, 6, True)


def test_nobody_can_check_a_guess_at_a_comment_that_was_erased(store: RecordStore) -> None:
    with_comments(store)
    salt = SALT
    erase(store)
    first = trail.read(store, "one").runs[RUN][0].entry
    assert first is not None
    assert first.comment_sha256 == digest_of("My knee hurts", salt)
    rows = "".join(bodies(store).values())
    for guess in (digest_of("My knee hurts"), hashlib.sha256(b"My knee hurts").hexdigest()):
        assert guess not in rows


def test_erasing_again_finds_nothing_and_writes_nothing(store: RecordStore) -> None:
    with_comments(store)
    keys = trail.comments(trail.read(store, "one"))
    trail.erase_comments(store, "one", keys)
    before = bodies(store)
    assert trail.comments(trail.read(store, "one")) == []
    assert trail.erase_comments(store, "one", keys) == 0
    assert trail.erase_comments(store, "none", keys) == 0
    assert bodies(store) == before
    assert bodies(store, "none") == {}


def test_only_the_rows_that_are_named_are_erased(store: RecordStore) -> None:
    with_comments(store)
    before = bodies(store)
    named = [trail.run_key(RUN, 2), trail.app_key(1)]
    assert trail.erase_comments(store, "one", [*named, trail.run_key(RUN, 9), trail.app_key(2), "zzz"]) == 2
    after = bodies(store)
    assert after.keys() == before.keys()
    assert [key for key in before if after[key] != before[key]] == sorted(named)
    assert trail.erase_comments(store, "one", []) == 0
    assert bodies(store) == after


def test_the_rows_with_comments_are_those_of_all_runs_and_of_the_app(store: RecordStore) -> None:
    with_comments(store)
    named = trail.comments(trail.read(store, "one"))
    assert sorted(named) == sorted(key for key, body in bodies(store).items() if '"comment":' in body)
    assert len(set(named)) == len(named) == 6


def test_erasing_many_is_erasing_all(store: RecordStore) -> None:
    store.write([trail.stored(entry) for entry in run_entries(120, comment="My knee hurts")])
    assert erase(store) == 120
    assert "knee" not in "".join(bodies(store).values())


def test_erasing_leaves_other_trails_alone(store: RecordStore) -> None:
    with_comments(store)
    add(store, "two", comment="My knee hurts")
    before = bodies(store, "two")
    erase(store)
    assert bodies(store, "two") == before


def test_a_row_that_cannot_be_read_does_not_keep_others_from_being_erased(store: RecordStore) -> None:
    with_comments(store)
    store.write([Change("put", "trail:one", f"run|{RUN}|0000000002", "no JSON")])
    assert erase(store) == 5
    assert bodies(store)[f"run|{RUN}|0000000002"] == "no JSON"


def test_the_activity_that_comes_again_does_not_bring_an_erased_comment_back(
    store: RecordStore, caplog: pytest.LogCaptureFixture
) -> None:
    entries = with_comments(store)
    erase(store)
    before = bodies(store)
    assert put_on_record(store, RecordBatch(entries=tuple(entries))) == []
    assert bodies(store) == before
    assert not caplog.records


def in_files(folder: Path, text: str) -> list[str]:
    """The files of the records in which a text stands, in whatever corner."""
    files = sorted(folder.glob("records.db*"))
    assert files[0].name == "records.db"
    return [file.name for file in files if text.encode() in file.read_bytes()]


def test_what_was_erased_is_in_no_file_while_others_read_and_write(sqlite: SqliteRecordStore, tmp_path: Path) -> None:
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            trail.read(sqlite, "one")

    def write() -> None:
        while not done.is_set():
            add(sqlite, "two", detail="x" * 2000)

    with_comments(sqlite)
    assert in_files(tmp_path, "knee")
    with ThreadPoolExecutor(4) as threads:
        others = [threads.submit(work) for work in (read, read, write)]
        try:
            assert erase(sqlite) == 6
            assert in_files(tmp_path, "knee") == []
        finally:
            done.set()
        for other in others:
            other.result()
    trail.read(sqlite, "one")
    assert "records.db-wal" in [file.name for file in tmp_path.iterdir()], "the store is still in use"
    assert in_files(tmp_path, "knee") == []


@pytest.mark.parametrize("change", [{"comment": "No!"}, {"salt": "f" * 32}, {"salt": None}, {"actor": "Mallory"}])
@pytest.mark.parametrize("series", ["run", "app"])
def test_a_comment_that_was_tampered_with_is_evidence_and_stays(
    store: RecordStore, change: dict[str, Any], series: str
) -> None:
    with_comments(store)
    key = trail.run_key(RUN, 2) if series == "run" else trail.app_key(1)
    document = json.loads(bodies(store)[key])
    body = json.dumps(document | {"entry": document["entry"] | change})
    store.write([Change("put", "trail:one", key, body)])
    named = trail.comments(trail.read(store, "one"))
    assert key not in named
    assert len(named) == 5
    assert trail.erase_comments(store, "one", [*named, key]) == 5
    assert bodies(store)[key] == body
    assert not is_whole(store)


def test_nothing_of_what_was_erased_is_left_in_a_corner_of_a_page(sqlite: SqliteRecordStore, tmp_path: Path) -> None:
    last: dict[str, Entry] = {}
    for step in range(150):
        name = f"i{step * 7 % 12}"
        comment = f"{name}-knee-" * (1, 5, 20, 60, 250)[step * step % 5]
        said: dict[str, Any] = {"instance_id": name, "series": "run", "run": RUN, "at": AT, "action": "decided"}
        last[name] = chained(last.get(name), salt=SALT, comment=comment, **said)
        sqlite.write([trail.stored(last[name])])
    left = []
    for name in last:
        assert erase(sqlite, name)
        left += in_files(tmp_path, f"{name}-knee-")
    assert left == []


def test_keys_that_no_writer_makes_hide_no_entry_however_many_they_are(
    sqlite: SqliteRecordStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trail, "PAGE", 3)
    add(sqlite)
    with closing(sqlite3.connect(tmp_path / "records.db")) as beside, beside:
        for number in range(5):
            beside.execute("INSERT INTO record VALUES ('trail:one', CAST(? AS TEXT), 'x')", (b"\x01\xff%d" % number,))
    assert [kept.entry is not None for kept in trail.read(sqlite, "one").app] == [True]
