"""The list of what is purged before its time: runs are put on it, read in windows, and taken off it."""

import logging

import pytest

from services import purge_list
from services.record_store import Change, RecordStore

RUN, LATER_RUN = "20260301T110000000000Z", "20260301T110000000001Z"


def listed(store: RecordStore, limit: int = 100) -> list[tuple[str, str]]:
    """All that is on the list, read in windows."""
    found: list[tuple[str, str]] = []
    start: str | None = None
    while True:
        window, start = purge_list.window(store, start, limit)
        assert len(window) <= limit
        found += [(each.instance_id, each.run) for each in window]
        if start is None:
            return found


def test_an_empty_list_is_empty(store: RecordStore) -> None:
    assert purge_list.window(store, None, 10) == ([], None)
    store.write([purge_list.removed("one", RUN)])
    assert listed(store) == []


def test_a_run_is_put_on_the_list_once_and_taken_off(store: RecordStore) -> None:
    for _ in range(2):
        store.write([purge_list.added("one", RUN)])
    store.write([purge_list.added("two", RUN)])
    assert listed(store) == [("one", RUN), ("two", RUN)]
    for _ in range(2):
        store.write([purge_list.removed("one", RUN)])
    assert listed(store) == [("two", RUN)]


def test_runs_of_one_instance_are_told_apart(store: RecordStore) -> None:
    store.write([purge_list.added("one", RUN), purge_list.added("one", LATER_RUN)])
    store.write([purge_list.removed("one", RUN)])
    assert listed(store) == [("one", LATER_RUN)]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
def test_windows_show_all_once_in_order(store: RecordStore, limit: int) -> None:
    names = [f"signup-user{number:02d}" for number in range(7)]
    store.write([purge_list.added(name, RUN) for name in reversed(names)])
    assert [name for name, _ in listed(store, limit)] == names


def test_what_comes_and_goes_between_two_windows_hides_no_other(store: RecordStore) -> None:
    store.write([purge_list.added(name, RUN) for name in ("b", "c", "d", "e")])
    first, start = purge_list.window(store, None, 2)
    store.write([purge_list.removed("b", RUN), purge_list.removed("d", RUN), purge_list.added("a", RUN)])
    rest, start = purge_list.window(store, start, 2)
    assert ([each.instance_id for each in first], [each.instance_id for each in rest]) == (["b", "c"], ["e"])
    assert start is None


@pytest.mark.parametrize("name", ["signup-a.b:c", "a/b#?\\", "\U0001f600" * 300, "~", "x" * 1000, "a|b", "zzz", "~~"])
def test_any_instance_can_be_on_the_list(store: RecordStore, name: str) -> None:
    store.write([purge_list.added(name, RUN)])
    assert listed(store) == [(name, RUN)]
    store.write([purge_list.removed(name, RUN)])
    assert listed(store) == []


@pytest.mark.parametrize("body", ["", "{", "null", "[]", '{"instance_id": "other", "run": "20260301T110000000000Z"}'])
def test_a_row_that_cannot_be_read_is_passed_over_and_told_of(
    store: RecordStore, body: str, caplog: pytest.LogCaptureFixture
) -> None:
    change = purge_list.added("bad", RUN)
    store.write([purge_list.added("a", RUN), purge_list.added("z", RUN)])
    store.write([Change("put", change.partition, change.key, body)])
    with caplog.at_level(logging.ERROR):
        assert [name for name, _ in listed(store, 1)] == ["a", "z"]
    assert "'bad|" in caplog.text
