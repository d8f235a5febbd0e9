"""The record store: what both implementations do, and what each does in its own way.

``TestRecordStore`` holds all tests that need Azurite, so that one worker starts one.
"""

import itertools
import os
import re
import socket
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from services import record_store_sqlite, record_store_tables
from services.record_store import (
    MAX_BODY,
    MAX_KEY,
    Change,
    RecordStore,
    RecordStoreError,
    Row,
    RowTaken,
    key_part,
)
from services.record_store_sqlite import SqliteRecordStore
from services.record_store_tables import TablesRecordStore
from settings import Settings
from tests.azurite import ACCOUNT, KEY, MISSING, Azurite

ROOT = Path(__file__).parents[2]
END = "}"
WRITERS = 50
SECRET = "bm90LWEta2V5"
LONE_HIGH, LONE_LOW = "\ud83d", "\ude00"

IDS = {
    "plain": "order-123",
    "empty": "",
    "blank": " ",
    "blanks at its ends": "  a  b  ",
    "dots": "..",
    "quotes": "O'Brien \"''\"",
    "percent": "100%25%",
    "slashes": "a/b\\c#d?e",
    "looks encoded": "=2F%2F",
    "tilde": "a~b",
    "separators": "a|b}c",
    "controls": "\x00\r\n\t\x7f\x85",
    "emojis": "🎉👩‍👩‍👧" * 3,
    "other scripts": "Łódź 東京 שלום",
    "a line end of its own": "a\u2028b",
    "half an emoji": LONE_HIGH,
    "as long as it goes": "x" * MAX_KEY,
    "too long": "x" * (MAX_KEY + 1),
    "very long": "😀/" * 5000,
    "an address": "Ada.Lovelace+tag@example.com",
}

BODIES = {
    "empty": "",
    "as long as it goes": "x" * MAX_BODY,
    "as long as it goes, of emojis": "😀" * MAX_BODY,
    "as long as it goes, of all kinds": ("aé東😀" * MAX_BODY)[:MAX_BODY],
    "up to the end of a property": "😀" * record_store_tables.PART,
    "one over the end of a property": "x" * (record_store_tables.PART + 1),
    "JSON": '{"a": "\\u00e9\\n", "b": [1, null]}',
    "line ends and boundaries": "\r\n\r\n--changeset_1--\r\nHTTP/1.1 404 Not Found\r\nPOST /$batch HTTP/1.1\r\n\r\n",
    "controls and quotes": "\x00\x1f '\"\\%27%00 \u2028\ufeff",
    "looks like a time": "2026-01-01T00:00:00Z",
}


def insert(partition: str, key: str, body: str = "new") -> Change:
    return Change("insert", partition, key, body)


def put(partition: str, key: str, body: str = "new") -> Change:
    return Change("put", partition, key, body)


def delete(partition: str, key: str) -> Change:
    return Change("delete", partition, key)


def rows(store: RecordStore, partition: str) -> dict[str, str]:
    """All rows of a partition."""
    return {row.key: row.body for row in store.range(partition, "", END, 1000)}


def expected(before: dict[tuple[str, str], str], changes: Iterable[Change]) -> dict[tuple[str, str], str] | None:
    """The rows that there are after a write, or None when it meets a row that is taken: what a store does, in short."""
    after = dict(before)
    for change in changes:
        place = change.partition, change.key
        if change.do == "delete":
            after.pop(place, None)
        elif change.do == "insert" and place in after:
            return None
        else:
            after[place] = change.body
    return after


def at_once(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """What calls give, or raise, that are all made at the same moment."""
    together = threading.Barrier(len(calls))

    def made(call: Callable[[], Any]) -> Any:
        together.wait(timeout=30)
        try:
            return call()
        except (RowTaken, RecordStoreError) as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(made, calls))


def all_said(error: BaseException | None) -> str:
    """The texts of an error and of all that it came from, which a log may show with it."""
    texts = []
    while error is not None:
        texts.append(f"{error} {error.args}")
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


@dataclass
class Place:
    """Where a store keeps its rows: opens any number of stores on it."""

    make: Callable[[], RecordStore]
    opened: list[RecordStore]

    def open(self) -> RecordStore:
        """Another store on the same rows."""
        self.opened.append(self.make())
        return self.opened[-1]

    def close(self) -> None:
        """Close all stores."""
        for store in self.opened:
            store.close()


@pytest.fixture(params=["sqlite", "tables"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A new place without rows."""
    if request.param == "sqlite":
        made = Place(lambda: SqliteRecordStore(tmp_path / "data" / "records.db"), [])
    else:
        connection = request.getfixturevalue("azurite").connection
        table = f"t{uuid4().hex}"
        made = Place(lambda: TablesRecordStore(connection, table), [])
    yield made
    made.close()


@pytest.fixture
def store(place: Place) -> RecordStore:
    """A store without rows."""
    return place.open()


@pytest.fixture
def tables(azurite: Azurite) -> Iterator[TablesRecordStore]:
    """A store in a table that is not there yet."""
    made = TablesRecordStore(azurite.connection, f"t{uuid4().hex}")
    yield made
    made.close()


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[SqliteRecordStore]:
    """A store in a file that is not there yet."""
    made = SqliteRecordStore(tmp_path / "data" / "records.db")
    yield made
    made.close()


@dataclass
class Fallible:
    """A store, and what takes away and gives back what it stands on."""

    store: RecordStore
    take_away: Callable[[], None]
    give_back: Callable[[], None]


@pytest.fixture(params=["sqlite", "tables"])
def fallible(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fallible]:
    """A store that was used, and closed."""
    if request.param == "sqlite":
        folder = tmp_path / "data"
        aside = tmp_path / "aside"

        def take_away() -> None:
            kept.close()
            folder.rename(aside)
            folder.write_text("not a folder")  # rather than without the right to write, which root always has

        def give_back() -> None:
            folder.unlink()
            aside.rename(folder)

        kept: RecordStore = SqliteRecordStore(folder / "records.db")
        yield Fallible(kept, take_away, give_back)
    else:
        service = request.getfixturevalue("own_azurite")
        kept = TablesRecordStore(service.connection, "records")
        yield Fallible(kept, service.stop, service.start)
    kept.close()


class TestRecordStore:
    """What both do, and what the tables do in their own way."""

    # Rows, one by one.

    def test_what_was_never_written_reads_as_empty(self, store: RecordStore) -> None:
        assert store.get("p", "a") is None
        assert store.range("p", "", END, 10) == []
        store.write([delete("p", "a")])
        store.write([delete("p", "a"), delete("p", "b")])
        store.write([])
        assert store.range("p", "", END, 10) == []

    def test_insert_put_and_delete(self, store: RecordStore) -> None:
        store.write([insert("p", "a", "1")])
        assert store.get("p", "a") == Row("a", "1")
        assert store.get("p", "A") is None
        assert store.get("q", "a") is None
        store.write([put("p", "a", "2")])
        store.write([put("p", "b", "3")])
        assert rows(store, "p") == {"a": "2", "b": "3"}
        store.write([delete("p", "a")])
        assert store.get("p", "a") is None
        assert rows(store, "p") == {"b": "3"}
        store.write([insert("p", "a", "4")])
        assert rows(store, "p") == {"a": "4", "b": "3"}

    def test_rows_that_are_asked_for_at_once(self, store: RecordStore) -> None:
        assert store.get_all("p", ["a", "b"]) == [None, None]
        store.write([put("p", f"{n}", f"{n}") for n in range(30)])
        keys = [f"{n}" for n in reversed(range(40))]
        assert [row and row.body for row in store.get_all("p", keys)] == [None] * 10 + keys[10:]
        assert store.get_all("p", []) == []

    def test_a_write_over_several_partitions(self, store: RecordStore) -> None:
        store.write([put("p", "old", "1"), put("q", "old", "1")])
        store.write(
            change
            for change in [
                insert("p", "a", "p1"),
                insert("q", "a", "q1"),
                delete("p", "old"),
                put("r", "a", "r1"),
                put("q", "old", "2"),
                put("p", "b", "p2"),
            ]
        )
        assert rows(store, "p") == {"a": "p1", "b": "p2"}
        assert rows(store, "q") == {"a": "q1", "old": "2"}
        assert rows(store, "r") == {"a": "r1"}

    def test_a_write_that_breaks_off_changes_nothing_and_blocks_nobody(self, store: RecordStore) -> None:
        def changes() -> Iterator[Change]:
            yield put("p", "a")
            yield put("q", "a")
            raise LookupError

        with pytest.raises(LookupError):
            store.write(changes())
        assert rows(store, "p") == rows(store, "q") == {}
        store.write([put("p", "a")])
        assert rows(store, "p") == {"a": "new"}

    @pytest.mark.parametrize("text", IDS.values(), ids=IDS.keys())
    def test_keys_of_any_text(self, store: RecordStore, text: str) -> None:
        partition, key = f"person:{key_part(text)}|since", f"2026-01-01|{key_part(text)}|000001"
        store.write([insert(partition, key, "1")])
        with pytest.raises(RowTaken) as taken:
            store.write([insert(partition, key, "2")])
        assert (taken.value.partition, taken.value.key) == (partition, key)
        store.write([put(partition, key, "3"), insert(partition, key + "x", "4"), delete(partition, key + "y")])
        with pytest.raises(RowTaken) as taken:
            store.write([put(partition, key, "5"), insert(partition, key + "x", "5")])
        assert (taken.value.partition, taken.value.key) == (partition, key + "x")
        assert store.get(partition, key) == Row(key, "3")
        assert store.range(partition, key, key + " ", 10) == [Row(key, "3")]
        assert store.range(partition, key + " ", END, 10) == [Row(key + "x", "4")]
        store.write([delete(partition, key)])
        store.write([delete(partition, key + "x"), put(partition, key + "z", "6")])
        assert rows(store, partition) == {key + "z": "6"}

    @pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
    def test_bodies_of_any_text(self, store: RecordStore, body: str) -> None:
        store.write([insert("p", "inserted", body)])
        store.write([put("p", "put", body)])
        store.write([insert("p", "inserted in a batch", body), put("p", "put in a batch", body)])
        assert store.get("p", "put") == Row("put", body)
        assert rows(store, "p") == dict.fromkeys(
            ["inserted", "put", "inserted in a batch", "put in a batch"],
            body,
        )

    def test_a_shorter_body_leaves_nothing_of_the_longer_one(self, store: RecordStore) -> None:
        store.write([put("p", "a", "x" * MAX_BODY), put("p", "b", "x" * MAX_BODY)])
        store.write([put("p", "a", "short")])
        store.write([put("p", "b", "short"), put("p", "c", "short")])
        assert rows(store, "p") == dict.fromkeys("abc", "short")

    # Ranges.

    def test_a_range_is_in_the_order_of_code_points(self, store: RecordStore) -> None:
        keys = ["!", "(a)", "-", "0", "09", "1", "10", "2", ":", "=2F", "@", "A", "A ", "A b", "A-", "A.", "AB"]
        keys += ["Aa", "Z", "_", "a", "aB", "ab", "a|", "b", "z", "|", "}", "~"]
        assert keys == sorted(keys)
        store.write([put("p", key, key) for key in reversed(keys)])
        assert [row.key for row in store.range("p", "", "\x7e\x7e", 100)] == keys

    def test_a_range_has_its_start_and_not_its_end(self, store: RecordStore) -> None:
        store.write([put("p", key) for key in "abcde"] + [put("p2", "c"), put("P", "c"), put("p|", "c")])

        def found(start: str, end: str, limit: int = 10) -> str:
            return "".join(row.key for row in store.range("p", start, end, limit))

        assert found("", END) == "abcde"
        assert found("b", "d") == "bc"
        assert found("b ", "d ") == "cd"
        assert found("bb", "bc") == ""
        assert found("c", "c") == ""
        assert found("d", "b") == ""
        assert found("f", END) == ""
        assert found("", "a") == ""
        assert found("b", "e", 1) == "b"
        assert found("b", "e", 2) == "bc"
        assert found("b", "e", 3) == "bcd"
        assert found("b", "e", 0) == ""

    @pytest.mark.parametrize("limit", [1, 7, 50])
    def test_pages_give_each_row_once(self, store: RecordStore, limit: int) -> None:
        keys = [f"{number:03d}" for number in range(100)]
        store.write([put("p", key, key * 5) for key in keys])
        seen, start = [], ""
        while page := store.range("p", start, END, limit):
            assert len(page) <= limit
            seen += page
            start = page[-1].key + " "
        assert seen == [Row(key, key * 5) for key in keys]

    def test_more_than_a_transaction_or_an_answer_takes(self, store: RecordStore) -> None:
        keys = [f"{number:04d}" for number in range(1250)]
        store.write([insert("p", key, key) for key in keys])
        assert [row.key for row in store.range("p", "", END, 1100)] == keys[:1100]
        assert [row.key for row in store.range("p", "", END, 5000)] == keys
        store.write([delete("p", key) for key in keys[:1249]])
        assert rows(store, "p") == {"1249": "1249"}

    def test_more_bytes_than_a_transaction_takes(self, store: RecordStore) -> None:
        store.write([put("p", f"{number:02d}", "😀" * MAX_BODY) for number in range(12)])  # over 4 MiB as it is sent
        assert rows(store, "p") == {f"{number:02d}": "😀" * MAX_BODY for number in range(12)}

    # Rows that are taken.

    def test_a_taken_row_stays_as_it_is(self, store: RecordStore) -> None:
        store.write([insert("p", "a", "first")])
        with pytest.raises(RowTaken) as taken:
            store.write([insert("p", "a", "second")])
        assert (taken.value.partition, taken.value.key) == ("p", "a")
        assert rows(store, "p") == {"a": "first"}

    @pytest.mark.parametrize("at", [0, 3, 6])
    def test_a_taken_row_in_a_batch_is_named_and_its_partition_unchanged(self, store: RecordStore, at: int) -> None:
        store.write([put("p", "taken", "1"), put("p", "old", "1"), put("p", "gone", "1")])
        changes = [insert("p", "i"), put("p", "old", "2"), delete("p", "gone"), put("p", "new"), insert("p", "j")]
        changes += [delete("p", "never there")]
        changes.insert(at, insert("p", "taken", "2"))
        with pytest.raises(RowTaken) as taken:
            store.write(changes)
        assert (taken.value.partition, taken.value.key) == ("p", "taken")
        assert rows(store, "p") == {"taken": "1", "old": "1", "gone": "1"}

    def test_of_several_taken_rows_the_first_is_named(self, store: RecordStore) -> None:
        store.write([put("p", "x"), put("p", "y"), put("q", "z")])
        with pytest.raises(RowTaken) as taken:
            store.write([put("p", "a"), insert("p", "y"), insert("q", "z"), insert("p", "x")])
        assert (taken.value.partition, taken.value.key) == ("p", "y")

    @pytest.mark.parametrize(("first", "last"), [("a", "z"), ("z", "a")])
    def test_partitions_come_in_order(self, store: RecordStore, first: str, last: str) -> None:
        store.write([insert("m", "taken", "1")])
        changes = [put(first, "a"), insert("m", "b"), put(last, "a"), insert(first, "b"), insert("m", "taken", "2")]
        with pytest.raises(RowTaken) as taken:
            store.write(changes)
        assert (taken.value.partition, taken.value.key) == ("m", "taken")
        assert rows(store, "m") == {"taken": "1"}
        assert rows(store, last) == {}
        assert rows(store, first) in ({}, {"a": "new", "b": "new"})  # all of it, or none
        store.write([change for change in changes if change.key != "taken" and change.partition != first])
        assert rows(store, "m") == {"taken": "1", "b": "new"}
        assert rows(store, last) == {"a": "new"}

    def test_deletes_of_what_is_not_there_fail_nothing(self, store: RecordStore) -> None:
        store.write([put("p", "a"), put("p", "b")])
        store.write(
            [delete("p", "x"), put("p", "c"), delete("p", "a"), delete("p", "y"), insert("p", "d"), delete("p", "z")]
        )
        assert rows(store, "p") == dict.fromkeys("bcd", "new")
        store.write([delete("p", "a"), delete("p", "b")])
        assert rows(store, "p") == dict.fromkeys("cd", "new")

    def test_the_same_write_again_does_no_harm(self, store: RecordStore) -> None:
        store.write([put("p", "gone"), put("q", "gone")])
        changes = [put("p", "a", "1"), delete("p", "gone"), put("q", "a", "1"), put("q", "b", "1"), delete("q", "gone")]
        for _ in range(3):
            store.write(changes)
            assert rows(store, "p") == {"a": "1"}
            assert rows(store, "q") == {"a": "1", "b": "1"}

    def test_changes_of_one_row_are_made_one_after_another(self, store: RecordStore) -> None:
        kinds: tuple[Literal["insert", "put", "delete"], ...] = ("insert", "put", "delete")
        sequences = [each for length in (2, 3) for each in itertools.product(kinds, repeat=length)]
        for number, (sequence, there) in enumerate(itertools.product(sequences, (False, True))):
            partition = f"p{number}"
            if there:
                store.write([put(partition, "a", "before")])
            before = {(partition, key): body for key, body in rows(store, partition).items()}
            changes = [Change(do, partition, "a", str(turn)) for turn, do in enumerate(sequence)]
            changes.append(put(partition, "b"))
            after = expected(before, changes)
            said = f"{sequence} on a row that is {'there' if there else 'not there'}"
            if after is None:
                with pytest.raises(RowTaken) as taken:
                    store.write(changes)
                assert (taken.value.partition, taken.value.key) == (partition, "a"), said
            else:
                store.write(changes)
            now = {(partition, key): body for key, body in rows(store, partition).items()}
            assert now == (before if after is None else after), said

    @settings(
        max_examples=25,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(
        writes=st.lists(
            st.lists(
                st.builds(
                    Change,
                    st.sampled_from(["insert", "put", "delete"]),
                    st.sampled_from(["p", "q"]),
                    st.sampled_from(["a", "b", "c"]),
                    st.text(st.characters(codec="utf-8"), max_size=5),
                ),
                max_size=5,
            ),
            max_size=5,
        )
    )
    def test_any_writes(self, store: RecordStore, writes: list[list[Change]]) -> None:
        run = uuid4().hex
        kept: dict[tuple[str, str], str] = {}
        for write in writes:
            changes = [Change(each.do, f"{each.partition}{run}", each.key, each.body) for each in write]
            # One partition at a time, so that the two implementations do the same when a row is taken.
            for _, group in itertools.groupby(sorted(changes, key=lambda each: each.partition), lambda e: e.partition):
                made = list(group)
                after = expected(kept, made)
                with pytest.raises(RowTaken) if after is None else nullcontext():
                    store.write(made)
                kept = kept if after is None else after
        for partition in ("p", "q"):
            there = {key: body for (where, key), body in kept.items() if where == f"{partition}{run}"}
            assert rows(store, f"{partition}{run}") == there

    # Many at once.

    @pytest.mark.parametrize("alone", [True, False], ids=["single", "in a batch"])
    @pytest.mark.parametrize("shared", [True, False], ids=["one store", "a store each"])
    def test_of_many_inserts_of_one_place_one_wins(self, place: Place, alone: bool, shared: bool) -> None:
        one = place.open()
        stores = [one if shared else place.open() for _ in range(WRITERS)]

        def write(number: int) -> Callable[[], None]:
            changes = [insert("p", "place", str(number))]
            if not alone:
                changes = [put("p", f"of {number}", ""), *changes, insert("p", f"by {number}", "")]
            return lambda: stores[number].write(changes)

        answers = at_once([write(number) for number in range(WRITERS)])
        assert Counter(type(each) for each in answers) == {type(None): 1, RowTaken: WRITERS - 1}
        assert {(each.partition, each.key) for each in answers if each is not None} == {("p", "place")}
        winner = str(answers.index(None))
        others = {} if alone else {f"of {winner}": "", f"by {winner}": ""}
        assert rows(one, "p") == {"place": winner} | others

    def test_of_many_writes_of_different_places_all_are_made(self, place: Place) -> None:
        one = place.open()
        stores = [one if number % 5 else place.open() for number in range(WRITERS)]

        def write(number: int) -> Callable[[], None]:
            def write() -> None:
                stores[number].write([insert("p", f"i{number}"), put("p", f"p{number}"), delete("p", "x")])
                stores[number].write([put("q", f"p{number}")])
                assert stores[number].get("q", f"p{number}") is not None
                assert len(stores[number].range("p", f"i{number}", f"i{number} ", 10)) == 1
                stores[number].write([insert(f"own {number}", "a"), insert("r", f"i{number}"), put("r", "all")])

            return write

        assert at_once([write(number) for number in range(WRITERS)]) == [None] * WRITERS
        each = [str(number) for number in range(WRITERS)]
        assert rows(one, "p").keys() == {f"{kind}{number}" for kind in "ip" for number in each}
        assert rows(one, "q").keys() == {f"p{number}" for number in each}
        assert rows(one, "r").keys() == {"all"} | {f"i{number}" for number in each}
        assert all(rows(one, f"own {number}") == {"a": "new"} for number in each)

    # Gone, and back.

    def test_a_store_that_cannot_be_reached_says_so_and_works_again_when_it_is_back(self, fallible: Fallible) -> None:
        store = fallible.store
        store.write([put("p", "a")])
        fallible.take_away()
        calls: list[Callable[[], Any]] = [
            lambda: store.get("person:ada@example.com", "a"),
            lambda: store.range("person:ada@example.com", "", END, 10),
            lambda: store.write([insert("p", "b")]),
            lambda: store.write([put("person:ada@example.com", "c")]),
            lambda: store.write([put("person:ada@example.com", "c"), put("person:ada@example.com", "d")]),
            lambda: store.write([delete("p", "a")]),
        ]
        for call in calls:
            with pytest.raises(RecordStoreError) as failed:
                call()
            assert re.fullmatch(r"The [^\n]+ cannot be used: [^\n]+\.", str(failed.value))
            assert not re.search(rf"{re.escape(KEY)}|AccountKey|ada", all_said(failed.value))
        fallible.give_back()
        store.write([put("p", "b"), delete("p", "never there")])
        store.write([insert("q", "b")])
        assert rows(store, "p") in ({"a": "new", "b": "new"}, {"b": "new"})  # the emulator forgets
        assert rows(store, "q") == {"b": "new"}

    def test_what_was_written_is_there_after_a_restart(self, place: Place) -> None:
        store = place.open()
        store.close()  # never used
        store.write([insert("p", "a", "1")])
        assert store.get("p", "a") is not None
        store.close()
        store.close()
        assert store.get("p", "a") == Row("a", "1")
        store.write([put("p", "b", "2")])
        store.close()
        other = place.open()
        assert rows(other, "p") == {"a": "1", "b": "2"}
        with pytest.raises(RowTaken):
            other.write([insert("p", "a")])

    # The tables in their own way.

    def test_the_tables_read_no_more_than_a_page(self, tables: TablesRecordStore) -> None:
        keys = [f"{number:05d}" for number in range(2_000)]  # as good as any: what is counted is what is sent
        tables.write([insert("p", key, key) for key in keys])
        answered: list[tuple[str, int]] = []

        def count(response: Any, *_: Any, **__: Any) -> None:
            asked = parse_qs(urlsplit(response.url).query)["$top"][0]
            answered.append((asked, len(response.json()["value"])))

        tables._session.hooks["response"].append(count)
        assert [row.key for row in tables.range("p", "00500", END, 50)] == keys[500:550]
        assert answered == [("50", 50)]
        answered.clear()
        assert len(tables.range("p", "", END, 1001)) == 1001
        assert answered == [("1000", 1000), ("1", 1)]  # the service refuses to be asked for more than 1,000

    @pytest.mark.filterwarnings("ignore:Testing an element's truth value:DeprecationWarning")  # the SDK does
    def test_a_wrong_key_is_said_but_not_shown(self, azurite: Azurite) -> None:
        with closing(TablesRecordStore(azurite.connection.replace(KEY, SECRET), "records")) as store:
            calls: list[Callable[[], Any]] = [
                lambda: store.get("p", "a"),
                lambda: store.range("p", "", END, 1),
                lambda: store.write([insert("p", "a")]),
                lambda: store.write([put("p", "a"), put("p", "b")]),
            ]
            for call in calls:
                with pytest.raises(RecordStoreError, match="it answered 403") as failed:
                    call()
                assert SECRET not in all_said(failed.value)

    def test_reading_makes_no_table(self, tables: TablesRecordStore) -> None:
        assert tables.get("p", "a") is None
        assert tables.range("p", "", END, 10) == []
        tables.write([delete("p", "a")])
        with pytest.raises(Exception, match="TableNotFound"):
            next(tables._table.list_entities())

    def test_the_log_shows_no_keys(self, tables: TablesRecordStore, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO")
        tables.write([insert("person:ada@example.com", "a"), insert("person:ada@example.com", "b")])
        tables.range("person:ada@example.com", "", END, 1)
        tables.get("person:ada@example.com", "a")
        assert "ada" not in caplog.text


# SQLite in its own way.


def test_the_file_is_only_for_its_owner(sqlite: SqliteRecordStore, tmp_path: Path) -> None:
    sqlite.write([put("p", "a")])
    sqlite.get("p", "a")
    files = sorted(file.name for file in (tmp_path / "data").iterdir())
    assert files == ["records.db", "records.db-shm", "records.db-wal"]
    assert {oct(file.stat().st_mode & 0o777) for file in (tmp_path / "data").iterdir()} == {"0o600"}
    assert oct((tmp_path / "data").stat().st_mode & 0o777) == "0o700"


def test_reads_go_by_the_primary_key(sqlite: SqliteRecordStore, tmp_path: Path) -> None:
    sqlite.write([put("p", "a")])
    with closing(sqlite3.connect(tmp_path / "data" / "records.db")) as file:
        plan = file.execute(f"EXPLAIN QUERY PLAN {record_store_sqlite._RANGE}", ("p", "", END, 50)).fetchall()
    assert [step[3] for step in plan] == ["SEARCH record USING PRIMARY KEY (partition=? AND key>? AND key<?)"]


def test_sqlite_reads_no_more_than_a_page(sqlite: SqliteRecordStore) -> None:
    sqlite.write([insert(partition, f"{number:05d}") for partition in "opq" for number in range(10_000)])
    assert sqlite.get("p", "00000") is not None
    assert sqlite._reader is not None
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    sqlite._reader.set_progress_handler(step, 1)
    assert len(sqlite.range("p", "05000", END, 50)) == 50
    for_a_page, steps = steps, 0
    assert 50 < for_a_page < 50 * 10
    assert sqlite.get("p", "09999") is not None
    assert steps < 50


def test_a_locked_file_fails_writes_until_it_is_let_go(
    sqlite: SqliteRecordStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_store_sqlite, "BUSY", 0.05)
    sqlite.write([put("p", "a", "1")])
    with closing(sqlite3.connect(tmp_path / "data" / "records.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(RecordStoreError, match="locked"):
            sqlite.write([put("p", "a", "2")])
        assert sqlite.get("p", "a") == Row("a", "1")  # readers do not wait
        other.execute("ROLLBACK")
    sqlite.write([put("p", "a", "2")])
    assert sqlite.get("p", "a") == Row("a", "2")


@pytest.mark.parametrize("reading", [True, False], ids=["reading", "writing"])
def test_after_an_error_the_file_is_opened_again(sqlite: SqliteRecordStore, tmp_path: Path, reading: bool) -> None:
    def call() -> None:
        if reading:
            sqlite.get("p", "a")
        else:
            sqlite.write([put("p", "a", "2")])

    sqlite.write([put("p", "a", "1")])
    assert sqlite.get("p", "a") is not None
    with closing(sqlite3.connect(tmp_path / "data" / "records.db")) as other:
        other.execute("DROP TABLE record")
    with pytest.raises(RecordStoreError, match="no such table"):
        call()
    call()  # opening makes the table
    assert sqlite.get("p", "a") == (None if reading else Row("a", "2"))


def test_a_file_that_is_none_of_ours_is_refused(sqlite: SqliteRecordStore, tmp_path: Path) -> None:
    file = tmp_path / "data" / "records.db"
    file.parent.mkdir()
    file.write_text("not a database" * 1000)
    for _ in range(2):
        with pytest.raises(RecordStoreError, match="not a database"):
            sqlite.get("p", "a")
        with pytest.raises(RecordStoreError, match="not a database"):
            sqlite.write([put("p", "a")])
    file.unlink()
    sqlite.write([put("p", "a")])
    assert sqlite.get("p", "a") is not None


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER keeps BEFORE DELETE ON record BEGIN SELECT RAISE(IGNORE); END",
        "CREATE TRIGGER copies AFTER INSERT ON record BEGIN INSERT INTO other VALUES (new.body); END",
        "CREATE INDEX bodies ON record (body)",
        "CREATE UNIQUE INDEX bodies ON record (body)",
        "CREATE VIEW seen AS SELECT * FROM record",
        "CREATE TABLE other (body TEXT)",
        "ALTER TABLE record ADD COLUMN more TEXT",
        "ALTER TABLE record RENAME COLUMN body TO text",
        "ALTER TABLE record RENAME TO records",
    ],
)
@pytest.mark.parametrize("reading", [True, False], ids=["reading", "writing"])
def test_a_file_in_which_a_write_may_do_something_else_is_refused(
    sqlite: SqliteRecordStore, tmp_path: Path, statement: str, reading: bool
) -> None:
    sqlite.write([put("p", "a", "1")])
    sqlite.close()
    alter(tmp_path, statement)

    def call() -> None:
        if reading:
            sqlite.get("p", "a")
        else:
            sqlite.write([put("p", "a", "2")])

    for _ in range(2):
        with pytest.raises(RecordStoreError, match="other tables, indexes or triggers"):
            call()


@pytest.mark.parametrize(
    "table",
    [
        "record (partition TEXT NOT NULL, key TEXT NOT NULL, body TEXT NOT NULL)",
        "record (partition TEXT NOT NULL, key TEXT NOT NULL, body TEXT NOT NULL) STRICT",
        "record (partition TEXT, key TEXT, body TEXT, PRIMARY KEY (partition, key))",
        "record (partition TEXT NOT NULL, key TEXT NOT NULL COLLATE NOCASE, body TEXT NOT NULL,"
        " PRIMARY KEY (partition, key)) STRICT, WITHOUT ROWID",
        "record (partition TEXT NOT NULL, key TEXT NOT NULL, body TEXT NOT NULL,"
        " PRIMARY KEY (partition, key) ON CONFLICT REPLACE) STRICT, WITHOUT ROWID",
    ],
    ids=["no key", "strict, no key", "not strict", "no case", "inserts replace"],
)
def test_a_table_that_keeps_places_otherwise_is_refused(sqlite: SqliteRecordStore, tmp_path: Path, table: str) -> None:
    """Without its key it takes an insert into a place that is taken: the trail would not be append-only."""
    (tmp_path / "data").mkdir()
    alter(tmp_path, f"CREATE TABLE {table}")
    with pytest.raises(RecordStoreError, match="other tables, indexes or triggers"):
        sqlite.write([insert("p", "a")])
    with pytest.raises(RecordStoreError, match="other tables, indexes or triggers"):
        sqlite.get("p", "a")


def test_a_file_that_was_made_here_is_opened_again_whatever_was_done_with_it(
    sqlite: SqliteRecordStore, tmp_path: Path
) -> None:
    for statement in (
        "VACUUM",
        "PRAGMA wal_checkpoint(TRUNCATE)",
        "PRAGMA journal_mode = DELETE",
        "REINDEX",
        "CREATE TRIGGER keeps BEFORE DELETE ON record BEGIN SELECT RAISE(IGNORE); END",
    ):
        sqlite.write([put("p", "a", statement)])
        sqlite.close()
        alter(tmp_path, statement)
        if "TRIGGER" in statement:
            alter(tmp_path, "DROP TRIGGER keeps")
        assert sqlite.get("p", "a") == Row("a", statement)
        sqlite.write([put("p", "b")])
    other = SqliteRecordStore(tmp_path / "data" / "records.db")
    assert other.get("p", "b") == Row("b", "new")
    other.close()


def alter(tmp_path: Path, statement: str) -> None:
    """Do something to the file with other software."""
    with closing(sqlite3.connect(tmp_path / "data" / "records.db", isolation_level=None)) as beside:
        beside.execute(statement)


# What the tables are told, and what they meet.


@pytest.mark.parametrize(
    ("connection", "address"),
    [
        ("UseDevelopmentStorage=true", f"http://127.0.0.1:10002/{ACCOUNT}"),
        ("UseDevelopmentStorage=true;", f"http://127.0.0.1:10002/{ACCOUNT}"),
        (
            f"AccountName=shop;AccountKey={SECRET};EndpointSuffix=core.windows.net",
            "https://shop.table.core.windows.net",
        ),
        (
            f"DefaultEndpointsProtocol=https;AccountName=shop;AccountKey={SECRET};EndpointSuffix=core.chinacloudapi.cn\n",
            "https://shop.table.core.chinacloudapi.cn",
        ),
        (
            f"TableEndpoint=https://shop.table.core.windows.net;SharedAccessSignature=sv=1&sig={SECRET}",
            "https://shop.table.core.windows.net",
        ),
        ("https://shop.table.core.windows.net/", "https://shop.table.core.windows.net"),
        ("HTTPS://shop.table.core.windows.net", "https://shop.table.core.windows.net"),
        (f"https://shop.table.core.windows.net/?sv=1&sig={SECRET}", "https://shop.table.core.windows.net"),
        ("shop", "https://shop.table.core.windows.net"),
    ],
)
def test_what_names_a_storage_account(connection: str, address: str) -> None:
    store = TablesRecordStore.of(Settings.model_validate({"RECORDS_CONNECTION": SecretStr(connection)}))
    assert store._table.url.partition("?")[0].lower() == address.lower()
    assert SECRET not in store._name
    store.close()


@pytest.mark.parametrize(
    "name", ["AzureWebJobsStorage", "AzureWebJobsStorage__tableServiceUri", "AzureWebJobsStorage__accountName"]
)
def test_the_storage_account_of_the_app_serves_too(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv("RECORDS_CONNECTION", raising=False)
    monkeypatch.setenv(name, "https://shop.table.core.windows.net" if name.endswith("Uri") else "shop")
    store = TablesRecordStore.of(Settings())
    assert store._table.url == "https://shop.table.core.windows.net"
    store.close()


@pytest.mark.parametrize(
    "connection",
    [
        None,
        "",
        " ; ",
        f"not a connection string {SECRET}",
        f"AccountName=shop;AccountKey={SECRET}x;AccountKey=;",
        f"AccountKey={SECRET}",
        f"AccountName={SECRET}",
        f"BlobEndpoint=https://shop.blob.core.windows.net;SharedAccessSignature=sig={SECRET}",
        f"http://shop.table.core.windows.net/{SECRET}",
        f"http://127.0.0.1:10002/{ACCOUNT}",
        "https://",
        "ftp://shop.table.core.windows.net",
    ],
)
def test_what_names_no_storage_account_is_said_but_not_shown(connection: str | None) -> None:
    secret = None if connection is None else SecretStr(connection)
    with pytest.raises(RecordStoreError, match="RECORDS_CONNECTION") as failed:
        TablesRecordStore.of(Settings.model_validate({"RECORDS_CONNECTION": secret})).close()
    assert SECRET not in all_said(failed.value)


class Answers(ThreadingHTTPServer):
    """A service that answers every request alike, and says how many there were."""

    daemon_threads = True

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.asked = 0
        super().__init__(("127.0.0.1", 0), _Answer)

    @property
    def connection(self) -> str:
        """A connection string with a signature, which stands in each address."""
        address = f"http://127.0.0.1:{self.server_address[1]}/shop"
        return f"TableEndpoint={address};SharedAccessSignature=sv=1&sig={SECRET}"


class _Answer(BaseHTTPRequestHandler):
    server: Answers

    def handle(self) -> None:
        self.server.asked += 1
        while self.rfile.readline().strip():
            pass
        with suppress(OSError):
            self.wfile.write(self.server.answer)


def head(status: str, body: str, *lines: str) -> bytes:
    """A whole HTTP answer."""
    return "\r\n".join(
        [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *lines, "", body]
    ).encode()


ANSWERS = {
    "nothing": b"",
    "a busy service's": head("503 Busy", "", "Retry-After: 600"),
    "a web page": head("200 OK", "<html>Log in</html>", "Content-Type: text/html"),
    "other JSON": head("200 OK", "[1]", "Content-Type: application/json"),
    "rows that are none of ours": head(
        "200 OK", '{"value": [{"PartitionKey": "p", "RowKey": "a"}]}', "Content-Type: application/json"
    ),
    "broken JSON": head("200 OK", '{"value": [', "Content-Type: application/json"),
    "one that is cut": head("200 OK", "{}", "Content-Type: application/json").replace(b"Length: 2", b"Length: 200"),
    "a refusal without a reason": head("409 Conflict", ""),
    "a refusal of another kind": head(
        "409 Conflict", '{"odata.error": {"code": "TableBeingDeleted"}}', "Content-Type: application/json"
    ),
    "a redirection": head("302 Found", "", "Location: http://127.0.0.1:1/"),
    "no HTTP": b"220 mail.example.com ESMTP\r\n",
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
def test_an_answer_that_is_none_of_a_table_service(answer: bytes) -> None:
    with Answers(answer) as service:
        serving = threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        try:
            with closing(TablesRecordStore(service.connection, "records")) as store:
                calls: list[Callable[[], Any]] = [
                    lambda: store.get("person:ada", "a"),
                    lambda: store.range("person:ada", "", END, 10),
                    lambda: store.write([insert("person:ada", "a"), insert("person:ada", "b")]),
                ]
                for call in calls:
                    before = service.asked
                    with pytest.raises(RecordStoreError, match=r"\AThe table 'records' of 127.0.0.1:\d+ ") as failed:
                        call()
                    assert 1 <= service.asked - before <= 1 + record_store_tables.RETRIES
                    assert not re.search(f"{SECRET}|ada", all_said(failed.value))
        finally:
            service.shutdown()
            serving.join()


def test_a_service_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_store_tables, "READ_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/shop"
        connection = f"TableEndpoint={address};AccountName=shop;AccountKey={SECRET}"
        with closing(TablesRecordStore(connection, "records")) as store:
            with pytest.raises(RecordStoreError, match="timed out"):
                store.get("p", "a")
            with pytest.raises(RecordStoreError, match="timed out"):
                store.write([insert("p", "a")])


def test_a_service_that_is_not_there_is_named_without_the_signature_and_the_row() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/shop"
        signed = f"TableEndpoint={address};SharedAccessSignature=sv=1&sig={SECRET}"
        with closing(TablesRecordStore(signed, "records")) as store:
            calls: list[Callable[[], Any]] = [
                lambda: store.get("person:ada", "a"),
                lambda: store.range("person:ada", "", END, 1),
                lambda: store.write([put("person:ada", "a")]),
            ]
            for call in calls:
                with pytest.raises(RecordStoreError, match="Connection refused") as failed:
                    call()
                assert not re.search(f"{SECRET}|ada", all_said(failed.value))


def test_sdk_of_azure_is_not_loaded_for_sqlite() -> None:
    code = (
        "import sys; from services.record_store import get_record_store; get_record_store();"
        "print([name for name in sys.modules if name.startswith(('azure.data', 'azure.identity', 'azure.core'))])"
    )
    environment = {**os.environ, "RECORDS": "sqlite"}
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=True)
    assert shown.stdout.strip() == b"[]"


def test_without_azurite_the_tests_are_skipped_and_the_summary_says_so() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "tests.azurite", "-p", "no:cacheprovider"]
    command += [__file__, "-k", "reads_as_empty"]
    environment = {**os.environ, "PATH": "/nowhere"}
    shown = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stdout
    assert f"1 test was skipped: {MISSING}" in shown.stdout


# Parts of keys.

TEXTS = st.one_of(
    st.text(),
    st.text(st.characters(exclude_categories=[])),
    st.text("~=%/ a", max_size=8),
    st.sampled_from(list(IDS.values())),
    st.text("aé😀~", min_size=MAX_KEY // 2, max_size=MAX_KEY * 2),
)


@given(TEXTS)
@example("")
@example("~" * 100)
def test_a_part_of_a_key_has_nothing_that_keys_cannot_hold(text: str) -> None:
    part = key_part(text)
    assert re.fullmatch(r"[A-Za-z0-9_.:@=~-]*", part)
    assert len(part) <= MAX_KEY


@given(TEXTS, TEXTS)
@example(LONE_HIGH + LONE_LOW, "😀")
@example("x" * MAX_KEY, "x" * (MAX_KEY + 1))
@example("a/", "a=2F")
@example("a", "A")
def test_different_texts_have_different_parts(one: str, other: str) -> None:
    assert (key_part(one) == key_part(other)) == (one == other)


@given(TEXTS)
@example("x" * (MAX_KEY + 1))
@example("😀" * MAX_KEY)
def test_no_text_passes_for_another_by_looking_like_its_part(text: str) -> None:
    part = key_part(text)
    assert key_part(part) != part or part == text


@given(st.text("ab", min_size=MAX_KEY, max_size=MAX_KEY), st.text(min_size=1), st.text(min_size=1))
def test_long_texts_with_one_beginning_have_different_parts(beginning: str, one: str, other: str) -> None:
    assert (key_part(beginning + one) == key_part(beginning + other)) == (one == other)


def test_text_that_is_no_utf_8_hides_no_other_row(tmp_path: Path) -> None:
    store = SqliteRecordStore(tmp_path / "records.db")
    store.write([Change("put", "p", "a", "one"), Change("put", "p", "b", "two")])
    with closing(sqlite3.connect(tmp_path / "records.db")) as beside, beside:
        beside.execute("UPDATE record SET body = CAST(x'ff6f' AS TEXT) WHERE key = 'a'")
    assert [row.body for row in store.range("p", "", "z", 10)] == ["\N{REPLACEMENT CHARACTER}o", "two"]
    store.close()


def test_what_was_replaced_is_not_left_in_the_file(tmp_path: Path) -> None:
    store = SqliteRecordStore(tmp_path / "records.db")
    store.write([Change("put", "p", "a", "personal" * 1000), Change("put", "p", "b", "x")])
    store.write([Change("put", "p", "a", "erased")])
    store.close()
    assert b"personal" not in (tmp_path / "records.db").read_bytes()


def test_a_reader_and_a_writer_who_open_the_file_at_once_both_do(tmp_path: Path) -> None:
    for number in range(100):
        store = SqliteRecordStore(tmp_path / f"{number}.db")
        together = threading.Barrier(2)

        def read(store: SqliteRecordStore = store, together: threading.Barrier = together) -> list[Row]:
            together.wait()
            return store.range("p", "", "z", 10)

        with ThreadPoolExecutor(1) as other:
            reading = other.submit(read)
            together.wait()
            store.write([Change("put", "p", "a", "one")])
            assert len(reading.result()) <= 1
        store.close()
