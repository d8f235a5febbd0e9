"""The list of what is paused: by hand and for people, in one order, page by page."""

import base64
import json
import logging
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from contracts.execution import Execution
from contracts.records import Wait
from services import paused, waits
from services.paused import PausedQuery, page
from services.record_store import Change, RecordStore, Row
from services.record_store_sqlite import SqliteRecordStore
from services.record_store_tables import TablesRecordStore
from services.waits import BadContinuation

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
RUN = "20260301T110000000000Z"
ALL = PausedQuery()


def execution(name: str, minutes: float = 0, **said: Any) -> Execution:
    """A run that is paused by hand, so many minutes after noon."""
    since = NOON + timedelta(minutes=minutes)
    given = {"workflow_id": "approval", "workflow": "approval", "paused_reason": "Why", "created_at": NOON} | said
    return Execution.model_validate(
        {"id": name, "execution_id": name, "status": "paused", "path": f"/x/{name}", "paused_at": since} | given
    )


def wait(name: str, minutes: float = 0, **said: Any) -> Wait:
    """A run that waits for people since so many minutes after noon."""
    given = {"run": RUN, "number": 1, "kind": "approval", "title": "Secret", "path": "/x"} | said
    return Wait.model_validate({"instance_id": name, "since": NOON + timedelta(minutes=minutes)} | given)


def put(store: RecordStore, *what: Execution | Wait, number: int = 1) -> None:
    """Pause by hand, or let wait."""
    for each in what:
        store.write(waits.opened(each) if isinstance(each, Wait) else paused.added(store, each, number))


def names(store: RecordStore, limit: int = 100, query: PausedQuery = ALL) -> list[str]:
    """The ids of all that is listed, page by page."""
    found, continuation = [], None
    while True:
        executions, continuation = page(store, query, limit, continuation)
        assert len(executions) <= limit
        found += [each.id for each in executions]
        if continuation is None:
            return found


def test_what_is_paused_by_hand_and_what_waits_are_one_list_oldest_first(store: RecordStore) -> None:
    assert page(store, ALL, 10, None) == ([], None)
    put(store, execution("c", 3), wait("b", 2), execution("a", 1), wait("d", 4))
    assert names(store) == ["a", "b", "c", "d"]
    by_hand, waiting = page(store, ALL, 2, None)[0]
    assert by_hand == execution("a", 1)
    assert (waiting.paused_at, waiting.paused_reason, waiting.workflow_id, waiting.created_at) == (
        *(NOON + timedelta(minutes=2), "Awaiting approval", "approval"),
        datetime(2026, 3, 1, 11, tzinfo=UTC),
    )
    assert "Secret" not in waiting.model_dump_json()


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 100])
def test_pages_of_any_size_give_the_same_also_where_times_are_the_same(sqlite: SqliteRecordStore, limit: int) -> None:
    put(sqlite, *(execution(f"h{n}", n // 4) for n in range(8)), *(wait(f"w{n}", n // 4) for n in range(8)))
    # The same id twice, as it was used again and the first wait was not closed.
    put(sqlite, wait("w0", run="20260301T113000000000Z"))
    found = names(sqlite, limit)
    expected = [[*(f"h{n + i}" for i in range(4)), *(f"w{n + i}" for i in range(4))] for n in (0, 4)]
    assert found == [*expected[0][:5], "w0", *expected[0][5:], *expected[1]]


def test_a_run_that_waits_and_is_paused_by_hand_is_there_once(store: RecordStore) -> None:
    put(store, wait("a", 1), wait("b", 2), execution("a", 3))
    assert names(store) == ["a", "b"]
    assert page(store, ALL, 1, None)[0][0].paused_reason == execution("a", 3).paused_reason
    store.write(paused.removed(store, "a", 1))
    assert names(store) == ["a", "b"]


def test_however_many_wait_and_are_paused_a_page_reads_little_more_than_itself(
    sqlite: SqliteRecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(sqlite, *(wait(f"r{n:03}", n) for n in range(200)))
    put(sqlite, *(execution(f"r{n:03}", 500 + n) for n in range(200)))
    read: list[int] = []
    original = SqliteRecordStore.range

    def counted(store: SqliteRecordStore, partition: str, start: str, end: str, limit: int) -> list[Row]:
        rows = original(store, partition, start, end, limit)
        read.append(len(rows))
        return rows

    monkeypatch.setattr(SqliteRecordStore, "range", counted)
    assert [each.id for each in page(sqlite, ALL, 10, None)[0]] == [f"r{n:03}" for n in range(10)]
    assert sum(read) < 60


def test_what_changes_between_two_pages_hides_nothing_else_and_shows_it_once(sqlite: SqliteRecordStore) -> None:
    put(sqlite, *(execution(f"h{n}", n) for n in range(6)))
    first, continuation = page(sqlite, ALL, 3, None)
    paused.forget(sqlite, "h2")  # the last that was given
    paused.forget(sqlite, "h4")
    put(sqlite, execution("late", 2.5), execution("early", 0.5), wait("w", 9))
    second, end = page(sqlite, ALL, 100, continuation)
    assert [each.id for each in first + second] == ["h0", "h1", "h2", "late", "h3", "h5", "w"]
    assert end is None


def test_only_what_fits_is_listed_and_a_page_of_few_goes_on(
    sqlite: SqliteRecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paused, "MAX_LOOKED_AT", 5)
    declared = {"workflow": "workflow", "workflow_id": "orders"}
    put(sqlite, *(execution(f"h{n}", n) for n in range(20)), execution("o", 11.5, **declared), wait("w", 12.5))
    put(sqlite, wait("g", 13.5, kind="guarded_call"), execution("new", 14.5, created_at=NOON + timedelta(hours=1)))
    found, continuation = page(sqlite, PausedQuery(workflow="orders"), 10, None)
    assert (found, continuation is not None) == ([], True)
    for workflow in ("orders", "workflow"):
        assert names(sqlite, 10, PausedQuery(workflow=workflow)) == ["o"]
    assert names(sqlite, 10, PausedQuery(workflow="guarded_call")) == ["g"]
    assert names(sqlite, 10, PausedQuery(created_from=NOON + timedelta(hours=1))) == ["new"]
    assert names(sqlite, 10, PausedQuery(created_to=NOON)) == ["w", "g"]  # which began before


def test_a_page_reads_no_more_than_it_shows(sqlite: SqliteRecordStore, monkeypatch: pytest.MonkeyPatch) -> None:
    put(sqlite, *(execution(f"h{n}", n) for n in range(30)), *(wait(f"w{n}", n) for n in range(30)))
    read: list[int] = []
    original = SqliteRecordStore.range

    def counted(store: SqliteRecordStore, *where: Any) -> list[Row]:
        rows = original(store, *where)
        read.append(len(rows))
        return rows

    monkeypatch.setattr(SqliteRecordStore, "range", counted)
    assert len(page(sqlite, ALL, 5, None)[0]) == 5
    assert read == [6, 6]


def test_another_pause_takes_the_place_of_the_one_before_and_is_not_taken_away_with_it(store: RecordStore) -> None:
    put(store, execution("a", 1))
    put(store, execution("a", 1))
    put(store, execution("a", 5, paused_reason="Again"), number=2)
    store.write(paused.removed(store, "a", 1))
    assert [each.paused_reason for each in page(store, ALL, 10, None)[0]] == ["Again"]
    assert paused.is_listed(store, "a")
    store.write(paused.removed(store, "a", 2))
    assert names(store) == []
    assert not paused.is_listed(store, "a")
    paused.forget(store, "a")


def test_what_a_crash_leaves_of_a_row_hides_nothing_and_is_taken_away(sqlite: SqliteRecordStore) -> None:
    put(sqlite, wait("a"), execution("a", 1))
    sqlite.write(paused.removed(sqlite, "a")[:1])
    assert names(sqlite) == ["a", "a"]
    [listed], _ = paused.window(sqlite, None, 10)
    sqlite.write(paused.unlisted(sqlite, listed))
    assert names(sqlite) == ["a"]
    put(sqlite, execution("a", 2), number=2)
    sqlite.write(paused.unlisted(sqlite, listed))
    assert paused.is_listed(sqlite, "a")


def test_windows_go_through_all_that_is_paused_by_hand(sqlite: SqliteRecordStore) -> None:
    put(sqlite, wait("w"), *(execution(f"h{n}", n) for n in range(5)))
    first, place = paused.window(sqlite, None, 3)
    rest, end = paused.window(sqlite, place, 3)
    assert [(each.execution.id, each.number) for each in first + rest] == [(f"h{n}", 1) for n in range(5)]
    assert (place is not None, end) == (True, None)


AT_STEP = {"instance_id": "w", "run": "20260301T100000000000Z", "workflow_id": "orders", "step": "s", "next_step": "t"}


@pytest.mark.parametrize(
    ("kind", "at_step", "reason"),
    [
        ("workflow", {**AT_STEP, "reason": "Manager, please: look"}, "Manager, please: look"),
        ("approval", AT_STEP, "Awaiting approval"),
        ("guarded_call", AT_STEP, "Awaiting intervention"),
    ],
)
def test_what_waits_at_a_step_is_shown_as_the_declared_workflow(
    sqlite: SqliteRecordStore, kind: str, at_step: dict[str, Any], reason: str
) -> None:
    put(sqlite, wait("a", kind=kind, title="Secret", at_step=at_step))
    assert "at_step" not in wait("b").plain()  # else those of before would not be what the store has
    [found] = page(sqlite, PausedQuery(workflow="orders"), 10, None)[0]
    assert (found.id, found.execution_id, found.workflow_id, found.workflow) == ("w", "w", "orders", "workflow")
    assert (found.paused_step_id, found.next_step_id, found.paused_reason) == ("s", "t", reason)
    assert (found.paused_at, found.created_at, found.path) == (NOON, NOON - timedelta(hours=2), "/api/v1/executions/w")
    put(sqlite, execution("a", 5))  # what it has called is paused by hand: it is another run
    assert sorted(names(sqlite)) == ["a", "w"]
    put(sqlite, execution("w", 6))
    assert names(sqlite) == ["a", "w"]


def test_whether_runs_are_paused_by_hand_as_well_is_asked_at_once(
    sqlite: SqliteRecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(sqlite, *(wait(f"w{n}", n) for n in range(20)))
    asked: list[int] = []
    original = SqliteRecordStore.get_all

    def counted(store: SqliteRecordStore, partition: str, keys: list[str]) -> list[Row | None]:
        asked.append(len(keys))
        return original(store, partition, keys)

    monkeypatch.setattr(SqliteRecordStore, "get_all", counted)
    assert [each.id for each in page(sqlite, ALL, 4, None)[0]] == ["w0", "w1", "w2", "w3"]
    assert asked == [5]


def test_tables_are_asked_for_many_rows_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(10)

    def get(_: TablesRecordStore, partition: str, key: str) -> Row:
        together.wait(timeout=10)  # no answer before the others are asked too
        return Row(key, partition)

    monkeypatch.setattr(TablesRecordStore, "get", get)
    store = TablesRecordStore("https://example.table.core.windows.net/?sig=x", "records")
    keys = [f"{n}" for n in range(20)]
    assert store.get_all("p", keys) == [Row(key, "p") for key in keys]
    store.close()


BROKEN = ["", "{", "[]", "null", '{"id": 1}', json.dumps(execution("other").plain())]


def test_a_row_that_nobody_wrote_is_left_out_and_hides_nothing(
    sqlite: SqliteRecordStore, caplog: pytest.LogCaptureFixture
) -> None:
    put(sqlite, execution("a", 1), execution("b", 60))
    rows = [f"2026-03-01T12:{n + 10}:00.000Z|x|000001" for n in range(len(BROKEN))]
    sqlite.write(Change("put", paused.SINCE, key, body) for key, body in zip(rows, BROKEN, strict=True))
    sqlite.write([Change("put", paused.SINCE, key, "{}") for key in ("2026", "2026-03-01T12:30:00.000Z|ä|1", "|")])
    with caplog.at_level(logging.ERROR):
        assert names(sqlite) == ["a", "b"]
    assert len(caplog.records) == len(BROKEN) + 3
    for limit in (1, 2):
        assert names(sqlite, limit) == ["a", "b"]


def _token(*parts: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


def test_a_continuation_of_something_else_is_refused(sqlite: SqliteRecordStore) -> None:
    put(sqlite, execution("a"), execution("b"))
    continuation = page(sqlite, ALL, 1, None)[1]
    assert continuation is not None
    digest, key = json.loads(base64.urlsafe_b64decode(continuation + "=="))
    bad = ["x", "ä", "=", "[", _token(digest), _token(digest, 1), _token("0", key), _token(digest, ""), "x" * 5000]
    bad += [_token(digest, f"{key}}}"), _token(digest, key + "\x00"), _token({"a": 1}), "W" * 999]
    for each in bad:
        with pytest.raises(BadContinuation):
            page(sqlite, ALL, 1, each)
    with pytest.raises(BadContinuation):
        page(sqlite, PausedQuery(workflow="approval"), 1, continuation)
    assert [each.id for each in page(sqlite, ALL, 1, continuation)[0]] == ["b"]


@pytest.mark.parametrize("name", ["x" * 1000, "a/b\\c?d#e", "😀" * 250, "a|b", "~", "\x00"])
def test_every_instance_id_is_listed_and_taken_off_again(sqlite: SqliteRecordStore, name: str) -> None:
    put(sqlite, execution(name, paused_reason="😀" * 255, resume_data={"a": "😀" * 1_300}), execution("z"))
    assert sorted(names(sqlite, 1)) == sorted([name, "z"])
    paused.forget(sqlite, name)
    assert names(sqlite) == ["z"]
