"""The definitions of workflows in the record store: versions, many at once, and the list of names."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from contracts.workflow_checks import read_definition
from errors import Unavailable
from services import workflow_definitions as definitions
from services.record_store import Change, RecordStore, RowTaken

NOW = datetime(2026, 1, 1, tzinfo=UTC)
END = {"id": "end", "type": "action", "action": {"type": "complete"}}


def put(store: RecordStore, description: str, name: str = "orders", **more: Any) -> definitions.Put:
    """Store a version of a workflow, which the description makes different from others."""
    given = {"name": name, "description": description, "steps": [END], **more}
    definition, problems = read_definition(given)
    assert definition is not None
    assert problems == []
    return definitions.put(store, definition, given, "Ann", NOW)


def test_a_version_stays_as_it_was_stored(store: RecordStore) -> None:
    assert definitions.read(store, "orders") is None
    assert [put(store, each) for each in ("one", "one", "two", "one")] == [
        definitions.Put(1, is_new=True),
        definitions.Put(1, is_new=False),
        definitions.Put(2, is_new=True),
        definitions.Put(3, is_new=True),
    ]
    found = [definitions.read(store, "orders", version) for version in (1, 2, 3, None, 4)]
    assert [each and (each.version, each.definition["description"]) for each in found] == [
        (1, "one"),
        (2, "two"),
        (3, "one"),
        (3, "one"),
        None,
    ]
    assert found[0] is not None
    assert (found[0].created_by, found[0].created_at) == ("Ann", NOW)
    assert definitions.read(store, "order") is None
    assert definitions.read(store, "orders.x") is None


def test_of_many_at_once_each_gets_a_version_of_its_own(store: RecordStore) -> None:
    with ThreadPoolExecutor(6) as threads:
        puts = list(threads.map(lambda each: put(store, f"version of {each}"), range(12)))
    assert sorted(each.version for each in puts) == list(range(1, 13))
    assert all(each.is_new for each in puts)
    for number, each in enumerate(puts):
        found = definitions.read(store, "orders", each.version)
        assert found is not None
        assert found.definition["description"] == f"version of {number}"
    assert [each.name for each in definitions.page(store, 10, None)[0]] == ["orders"]


def test_of_the_same_many_times_at_once_there_is_one_version(store: RecordStore) -> None:
    with ThreadPoolExecutor(6) as threads:
        puts = list(threads.map(lambda _: put(store, "the same"), range(12)))
    assert [each.version for each in puts] == [1] * 12
    assert sum(each.is_new for each in puts) == 1


def test_a_long_definition_stands_in_several_rows(store: RecordStore) -> None:
    text = {"type": "set", "values": {"x": "🦊" * 500}}
    steps = [{"id": f"s{n}", "type": "action", "action": text, "next": f"s{n + 1}"} for n in range(50)]
    put(store, "long", steps=[*steps, {**END, "id": "s50"}])
    found = definitions.read(store, "orders", 1)
    assert found is not None
    kept: Any = found.definition["steps"]
    assert (len(kept), kept[49]["action"]) == (51, text)
    assert len(store.range("workflow:orders", "", "}", 99)) > 2


@pytest.mark.parametrize("part", ["999998|00", "999998|01"])
def test_a_version_that_was_tampered_with_is_none(
    sqlite: RecordStore, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    put(sqlite, "x")
    row = sqlite.get("workflow:orders", part)
    assert row is not None
    body = row.body[:-9] if part.endswith("00") else row.body.replace("complete", "delay")
    sqlite.write([Change("put", "workflow:orders", part, body)])
    assert definitions.read(sqlite, "orders") is None
    assert len(caplog.records) == 1


def test_the_list_has_each_name_once_in_its_order_and_goes_on_where_it_ended(store: RecordStore) -> None:
    names = ["B", "a", "a-1", "a.b", "a:b", "a_b", "b"]
    for name in reversed(names):
        put(store, "old", name)
        put(store, "new", name)
    found: list[definitions.Head] = []
    after: str | None = None
    while True:
        page, after = definitions.page(store, 3, after)
        found += page
        if after is None:
            break
        put(store, "in between", "A")
    assert [each.name for each in found] == names
    assert {(each.version, each.description) for each in found} == {(2, "new")}
    assert definitions.page(store, 3, "zzz") == ([], None)


def test_a_name_whose_version_was_never_stored_is_not_listed(store: RecordStore) -> None:
    store.write([Change("put", definitions.NAMES, "lost")])
    put(store, "x", "present")
    assert [each.name for each in definitions.page(store, 10, None)[0]] == ["present"]


def test_time_and_person_are_no_part_of_what_is_compared(store: RecordStore) -> None:
    put(store, "one")
    given: Any = {"steps": [END], "description": "one", "name": "orders"}
    definition, _ = read_definition(given)
    assert definition is not None
    again = definitions.put(store, definition, given, "Ben", NOW + timedelta(days=1))
    assert again == definitions.Put(1, is_new=False)


@pytest.mark.parametrize("body", ["", "{}", '{"name": "orders", "version": 2, "of_a_later_version_of_the_app": 1}'])
def test_after_a_version_that_cannot_be_read_comes_the_next_one(store: RecordStore, body: str) -> None:
    put(store, "one")
    put(store, "two")
    store.write([Change("put", "workflow:orders", "999997|00", body)])
    assert put(store, "two") == definitions.Put(3, is_new=True)
    assert put(store, "two") == definitions.Put(3, is_new=False)
    first, last = definitions.read(store, "orders", 1), definitions.read(store, "orders")
    assert first is not None
    assert last is not None
    assert (first.definition["description"], last.version, last.definition["description"]) == ("one", 3, "two")


def test_a_version_whose_first_row_is_lost_is_not_written_over(store: RecordStore) -> None:
    put(store, "one")
    store.write([Change("delete", "workflow:orders", "999998|00")])
    assert put(store, "two") == definitions.Put(2, is_new=True)


def test_where_others_come_first_each_time_it_gives_up(sqlite: RecordStore, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = 0

    def taken(_changes: Any) -> None:
        nonlocal turns
        turns += 1
        assert turns <= definitions.MAX_TURNS
        raise RowTaken("workflow:orders", "999998|00")

    monkeypatch.setattr(sqlite, "write", taken)
    with pytest.raises(Unavailable, match="came first"):
        put(sqlite, "one")
    assert turns == definitions.MAX_TURNS


def test_a_row_that_is_none_of_a_version_is_told(sqlite: RecordStore) -> None:
    sqlite.write([Change("insert", "workflow:orders", "000-wrong")])
    with pytest.raises(Unavailable, match="among its versions"):
        put(sqlite, "one")
