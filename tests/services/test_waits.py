"""Open waits in the store: opened, closed, listed page by page."""

import base64
import json
import logging
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import astuple, dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from contracts.records import RecordBatch, Wait
from services import waits
from services.record_store import MAX_BODY, Change, RecordStore, Row, key_part
from services.record_store_sqlite import SqliteRecordStore
from services.records import put_on_record
from services.waits import BadContinuation, WaitQuery

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)
RUN = "20260301T110000000000Z"
OTHER_RUN = "20260301T110000000001Z"
SEVERAL = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def a_wait(instance_id: str = "one", **changes: Any) -> Wait:
    """A wait for Ann, an hour old, with a day to go."""
    said: dict[str, Any] = {
        "instance_id": instance_id,
        "run": RUN,
        "number": 1,
        "kind": "approval",
        "title": "A desk",
        "people": ("ann@example.org",),
        "since": NOW - timedelta(hours=1),
        "deadline": NOW + timedelta(days=1),
        "actions": ("approve", "reject"),
        "path": "/api/requests/one",
    }
    return Wait(**said | changes)


def opens(store: RecordStore, *opened: Wait) -> None:
    """Put on record that waits are open."""
    put_on_record(store, RecordBatch(opened=opened))


def closes(store: RecordStore, *closed: Wait) -> None:
    """Put on record that waits are closed."""
    put_on_record(store, RecordBatch(closed=closed))


def listed(store: RecordStore, query: WaitQuery | None = None, limit: int = 100, now: datetime = NOW) -> list[Wait]:
    """All pages of a list, put together."""
    found: list[Wait] = []
    continuation: str | None = None
    while True:
        page, continuation = waits.page(store, query or WaitQuery(), limit, continuation, now)
        assert len(page) == limit or (continuation is None and len(page) < limit)
        found += page
        if continuation is None:
            return found


def ids(store: RecordStore, now: datetime = NOW, **query: Any) -> list[str]:
    """The instances of a list."""
    return [wait.instance_id for wait in listed(store, WaitQuery(**query), now=now)]


def index_rows(store: RecordStore, wait: Wait) -> list[tuple[str, Row]]:
    """All rows in all indexes that a wait can stand in, as the module says."""
    scopes = ["open", f"kind:{key_part(wait.kind)}", *(f"person:{key_part(one.casefold())}" for one in wait.people)]
    names = [f"{scope}|{order}" for scope in dict.fromkeys(scopes) for order in ("since", "due")]
    return [(name, row) for name in names for row in store.range(name, "", waits.END, 1000)]


# Opening and closing


def test_an_opened_wait_is_listed_as_it_was_given(store: RecordStore) -> None:
    wait = a_wait(people=("ann@example.org", "Bob@example.org"), deadline=None, actions=())
    opens(store, wait)
    assert listed(store) == [wait]
    assert waits.of_instance(store, "one") == [(wait, True)]
    assert len(index_rows(store, wait)) == 8


def test_a_closed_wait_is_in_no_index_any_more(store: RecordStore) -> None:
    wait = a_wait(people=("ann@example.org", "BOB@example.org", "bob@Example.org"))
    opens(store, wait)
    closes(store, wait)
    assert index_rows(store, wait) == []
    assert listed(store) == listed(store, WaitQuery(person="ann@example.org")) == []
    assert waits.of_instance(store, "one") == [(wait, False)]


def test_closing_one_leaves_the_others(store: RecordStore) -> None:
    mine, *others = [
        a_wait(),
        a_wait(run=OTHER_RUN),
        a_wait(number=2),
        a_wait("one-2"),
        a_wait("on"),
        a_wait(number=1_000_001),
    ]
    opens(store, mine, *others)
    closes(store, mine)
    assert {astuple_of(wait) for wait in listed(store)} == {astuple_of(wait) for wait in others}


def astuple_of(wait: Wait) -> tuple[str, str, int]:
    """What names a wait."""
    return wait.instance_id, wait.run, wait.number


def test_opened_again_and_again_it_is_listed_once(store: RecordStore) -> None:
    wait = a_wait()
    for _ in range(3):
        opens(store, wait)
    opens(store, wait, wait)
    assert listed(store) == [wait]
    assert len(index_rows(store, wait)) == 6


def test_closed_again_and_again_it_stays_closed(store: RecordStore) -> None:
    wait = a_wait()
    opens(store, wait)
    for _ in range(3):
        closes(store, wait)
    assert (listed(store), waits.of_instance(store, "one")) == ([], [(wait, False)])


def test_an_activity_that_comes_late_opens_nothing(store: RecordStore) -> None:
    """The activity that opens is given up by a host that hangs, and runs once more after the one that closes."""
    wait = a_wait()
    closes(store, wait)
    opens(store, wait)
    assert (listed(store), index_rows(store, wait)) == ([], [])


def test_an_activity_that_opens_runs_once_more_after_the_close(store: RecordStore) -> None:
    wait = a_wait()
    opens(store, wait)
    closes(store, wait)
    opens(store, wait)
    assert (listed(store), index_rows(store, wait)) == ([], [])


def test_opened_and_closed_in_one_batch_it_is_closed(store: RecordStore) -> None:
    wait = a_wait()
    for _ in range(2):
        put_on_record(store, RecordBatch(opened=(wait,), closed=(wait,)))
        assert (listed(store), index_rows(store, wait)) == ([], [])


def test_the_next_wait_opens_in_the_batch_that_closes_the_last_one(store: RecordStore) -> None:
    first, second = a_wait(), a_wait(number=2, since=NOW)
    opens(store, first)
    for _ in range(2):
        put_on_record(store, RecordBatch(opened=(second,), closed=(first,)))
        assert listed(store) == [second]


@pytest.mark.parametrize("lost", range(1, 7))
def test_indexes_that_were_not_written_are_written_by_the_next_try(store: RecordStore, lost: int) -> None:
    """Partitions are written one after the other; a crash leaves out the last ones."""
    wait = a_wait()
    store.write(waits.opened(wait)[:-lost])
    opens(store, wait)
    assert listed(store) == [wait]
    assert len(index_rows(store, wait)) == 6


@pytest.mark.parametrize("lost", range(1, 7))
def test_indexes_that_were_not_deleted_are_deleted_by_the_next_try(store: RecordStore, lost: int) -> None:
    wait = a_wait()
    opens(store, wait)
    store.write(waits.closed(wait)[:-lost])
    closes(store, wait)
    assert index_rows(store, wait) == []


def test_a_closed_wait_can_be_opened_on_purpose(store: RecordStore) -> None:
    wait = a_wait()
    opens(store, wait)
    closes(store, wait)
    store.write(waits.reopened(wait))
    assert (listed(store), waits.of_instance(store, "one")) == ([wait], [(wait, True)])
    store.write(waits.reopened(wait))
    assert listed(store) == [wait]
    closes(store, wait)
    assert (listed(store), index_rows(store, wait)) == ([], [])


def test_two_runs_of_one_instance_id_are_two_waits(store: RecordStore) -> None:
    """An instance id can be used again after its run ended; the record of the first may come last."""
    before, after = a_wait(title="before"), a_wait(run=OTHER_RUN, title="after")
    opens(store, after)
    closes(store, before)
    opens(store, before)
    assert listed(store) == [after]
    assert waits.of_instance(store, "one") == [(before, False), (after, True)]


def test_forgetting_an_instance_forgets_its_waits_and_no_others(store: RecordStore) -> None:
    mine = [a_wait(), a_wait(number=2), a_wait(run=OTHER_RUN)]
    others = [a_wait("One"), a_wait("one|x"), a_wait("on")]
    opens(store, *mine, *others)
    closes(store, mine[1])
    for _ in range(2):
        waits.forget(store, "one")
        assert waits.of_instance(store, "one") == []
        assert {wait.instance_id for wait in listed(store)} == {"One", "one|x", "on"}
        assert len(index_rows(store, a_wait())) == 18


def test_all_waits_of_an_instance_are_found_however_many_there_are(sqlite: SqliteRecordStore) -> None:
    """An instance id that is used anew each day has more runs than fit on one page."""
    many = [a_wait(number=number) for number in range(1, 1102)]
    sqlite.write(change for wait in many for change in waits.opened(wait))
    assert waits.of_instance(sqlite, "one") == [(wait, True) for wait in many]
    waits.forget(sqlite, "one")
    assert waits.of_instance(sqlite, "one") == []
    assert listed(sqlite) == []


# People


@pytest.mark.parametrize(
    ("address", "asked_by"),
    [
        ("Ann@Example.org", "ann@example.org"),
        ("ann@example.org", "ANN@EXAMPLE.ORG"),
        ("ann@example.org", "  ann@example.org\t"),
        ("o'hara+tag=1%41@example.org", "O'HARA+tag=1%41@example.org"),
        ("a|b@example.org", "A|b@example.org"),
        ("a/b\\c#d?e@example.org", "a/b\\c#d?e@example.org"),
        ('"quoted"@example.org', '"quoted"@example.org'),
        ("jürgen@müller.example", "JÜRGEN@MÜLLER.example"),
        ("ΣΊΣΥΦΟΣ@παράδειγμα.example", "σίσυφος@παράδειγμα.example"),
        ("李@例え.テスト", "李@例え.テスト"),
        ("🎉@example.org", "🎉@example.org"),
        ("x" * 240 + "@example.org", "X" * 240 + "@example.org"),
        ("é" * 240 + "@example.org", "É" * 240 + "@example.org"),
    ],
)
def test_a_person_is_found_by_their_address(store: RecordStore, address: str, asked_by: str) -> None:
    wait = a_wait(people=(address,))
    opens(store, wait)
    assert listed(store, WaitQuery(person=asked_by)) == [wait]
    closes(store, wait)
    assert listed(store, WaitQuery(person=asked_by)) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a=41@example.org", "aA@example.org"),
        ("a%41@example.org", "aA@example.org"),
        ("a=7Cb@example.org", "a|b@example.org"),
        ("é@example.org", "=C3=A9@example.org"),
        ("x" * 240 + "@example.org", "x" * 241 + "@example.org"),
        ("é" * 200 + "@example.org", "é" * 201 + "@example.org"),
        ("ann@example.org", "ann@example.org|since"),
        ("ann@example.org", "ann@example.or"),
    ],
)
def test_addresses_that_look_alike_are_two_people(store: RecordStore, one: str, other: str) -> None:
    opens(store, a_wait("first", people=(one,)), a_wait("second", people=(other,)))
    assert ids(store, person=one) == ["first"]
    assert ids(store, person=other) == ["second"]


def test_a_person_who_is_asked_twice_sees_the_wait_once(store: RecordStore) -> None:
    wait = a_wait(people=("ann@example.org", "Ann@Example.Org", "ann@example.org"))
    opens(store, wait)
    assert listed(store, WaitQuery(person="ann@example.org")) == [wait]
    closes(store, wait)
    assert index_rows(store, wait) == []


def test_where_nobody_is_asked_by_name_nobody_is_shown_it(store: RecordStore) -> None:
    wait = a_wait(people=())
    opens(store, wait)
    assert (listed(store), ids(store, kind="approval")) == ([wait], ["one"])
    assert ids(store, person="ann@example.org") == []
    closes(store, wait)
    assert index_rows(store, wait) == []


def test_fifty_people_each_see_the_wait(sqlite: SqliteRecordStore) -> None:
    people = tuple(f"person-{number}@example.org" for number in range(50))
    wait = a_wait(people=people)
    opens(sqlite, wait)
    assert all(ids(sqlite, person=person) == ["one"] for person in people)
    assert len(index_rows(sqlite, wait)) == 104
    closes(sqlite, wait)
    assert index_rows(sqlite, wait) == []


@pytest.mark.parametrize("letter", ["x", "é", "李", "🎉"])
def test_the_largest_wait_fits_into_a_row(letter: str) -> None:
    """What is longer is more than a store must take; the run would try for ever."""
    wait = a_wait(
        letter * 100,
        people=tuple(f"{number:03d}{letter * 240}@example.org"[:254] for number in range(50)),
        title=letter * 200,
        kind=letter * 100,
        path="/" + "x" * 1999,
    )
    for change in [*waits.opened(wait), *waits.closed(wait), *waits.reopened(wait)]:
        assert len(change.body) <= MAX_BODY, change.partition
        assert len(change.partition) <= 400
        assert len(change.key) <= 400
        assert (change.partition + change.key).isascii()
        assert not set(change.partition + change.key) & set("/\\#? \t\n%")


# Filters and their order


@dataclass(frozen=True)
class Case:
    """One wait of the table below."""

    name: str
    kind: str
    person: str
    due: timedelta | None
    age: timedelta


CASES = [
    Case("".join(letters), *values)
    for letters, values in zip(
        product("ap", "xy", "olnf", "oy"),
        product(
            ["approval", "purchase_order"],
            ["ann@example.org", "bob@example.org"],
            [timedelta(hours=-1), timedelta(0), None, timedelta(hours=1)],
            [timedelta(days=2), timedelta(hours=2)],
        ),
        strict=True,
    )
]


@pytest.mark.parametrize("kind", [None, "approval", "purchase_order", "other"])
@pytest.mark.parametrize("person", [None, "ann@example.org", "Bob@example.org", "eve@example.org"])
@pytest.mark.parametrize("overdue", [None, True, False])
@pytest.mark.parametrize("older_than", [None, timedelta(days=1), timedelta(days=3)])
def test_every_combination_of_filters(
    filled: SqliteRecordStore, kind: str | None, person: str | None, overdue: bool | None, older_than: timedelta | None
) -> None:
    expected = [
        case
        for case in CASES
        if (kind is None or case.kind == kind)
        and (person is None or case.person == person.lower())
        and (overdue is None or (case.due is not None and case.due <= timedelta(0)) == overdue)
        and (older_than is None or case.age > older_than)
    ]
    expected.sort(key=lambda case: case.name)
    if overdue is None:
        expected.sort(key=lambda case: -case.age)
    else:
        expected.sort(key=lambda case: (case.due is None, case.due or timedelta(0)))
    query = WaitQuery(kind, person, overdue, NOW - older_than if older_than is not None else None)
    for limit in (1, 3, 100):
        assert [wait.instance_id for wait in listed(filled, query, limit)] == [case.name for case in expected]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqliteRecordStore]:
    """A store with a wait of each case."""
    store = SqliteRecordStore(tmp_path_factory.mktemp("filled") / "records.db")
    for case in CASES:
        deadline = NOW + case.due if case.due is not None else None
        opens(store, a_wait(case.name, kind=case.kind, people=(case.person,), since=NOW - case.age, deadline=deadline))
    yield store
    store.close()


def test_the_deadline_that_is_now_has_passed(store: RecordStore) -> None:
    for name, due in {"before": -MILLISECOND, "now": timedelta(0), "after": MILLISECOND}.items():
        opens(store, a_wait(name, deadline=NOW + due))
    for now in (NOW, NOW + timedelta(microseconds=999)):
        assert ids(store, overdue=True, now=now) == ["before", "now"]
        assert ids(store, overdue=False, now=now) == ["after"]


@pytest.mark.parametrize("overdue", [None, True])
@pytest.mark.parametrize("more", [timedelta(0), timedelta(microseconds=999)])
def test_what_began_at_that_very_millisecond_is_not_older(
    store: RecordStore, overdue: bool | None, more: timedelta
) -> None:
    """Times are kept to the millisecond. What is asked for is as exact, in the one list as in the other."""
    for name, since in {"before": -MILLISECOND, "now": timedelta(0), "after": MILLISECOND}.items():
        opens(store, a_wait(name, since=NOW + since, deadline=NOW))
    assert ids(store, older_than=NOW + more, overdue=overdue) == ["before"]


def test_without_a_deadline_it_is_never_overdue_and_comes_last(store: RecordStore) -> None:
    opens(store, a_wait("never", deadline=None), a_wait("far", deadline=NOW + timedelta(days=300_000)))
    assert ids(store, overdue=True, now=NOW + timedelta(days=200_000)) == []
    assert ids(store, overdue=False) == ["far", "never"]


def test_times_of_other_zones_are_the_times_that_they_are(store: RecordStore) -> None:
    east, west = timezone(timedelta(hours=14)), timezone(timedelta(hours=-12))
    second = timedelta(seconds=1)
    opens(
        store,
        a_wait("newest", since=NOW.astimezone(west), deadline=(NOW + 2 * second).astimezone(east)),
        a_wait("oldest", since=(NOW - second).astimezone(east), deadline=(NOW + second).astimezone(west)),
    )
    assert ids(store) == ["oldest", "newest"]
    assert ids(store, overdue=False) == ["oldest", "newest"]
    assert ids(store, older_than=NOW.astimezone(east)) == ["oldest"]
    assert ids(store, overdue=True, now=(NOW + second).astimezone(west)) == ["oldest"]


def test_waits_of_one_millisecond_are_each_listed_once(store: RecordStore) -> None:
    """Microseconds are cut off: the first two are of the same time in the store."""
    micro = timedelta(microseconds=1)
    same = [a_wait("b", since=NOW), a_wait("a", since=NOW + 999 * micro), a_wait("c", since=NOW)]
    same += [a_wait("c", since=NOW, number=2), a_wait("c", since=NOW, run=OTHER_RUN)]
    opens(store, *same)
    for limit in (1, 2, 3, 100):
        assert [astuple_of(wait) for wait in listed(store, limit=limit)] == [
            ("a", RUN, 1),
            ("b", RUN, 1),
            ("c", RUN, 1),
            ("c", RUN, 2),
            ("c", OTHER_RUN, 1),
        ]


def test_the_millisecond_of_the_year_has_the_width_of_all_others(store: RecordStore) -> None:
    """Times are compared as texts."""
    for name, since in {
        "first": NOW.replace(month=1, day=1, hour=0),
        "then": NOW.replace(month=1, day=1, hour=0) + 10 * MILLISECOND,
        "later": NOW.replace(month=1, day=1, hour=0) + timedelta(seconds=1),
        "last": NOW.replace(month=10),
    }.items():
        opens(store, a_wait(name, since=since))
    assert ids(store, now=NOW.replace(month=12)) == ["first", "then", "later", "last"]


@pytest.mark.parametrize("kind", ["approval|since", "purchase order", "Äpfel", "a/b", "x" * 100, "🎉" * 100])
def test_kinds_of_any_name_are_kept_apart(store: RecordStore, kind: str) -> None:
    opens(store, a_wait("mine", kind=kind), a_wait("other", kind="approval"))
    assert ids(store, kind=kind) == ["mine"]
    assert ids(store, kind="approval") == ["other"]
    assert ids(store, kind=f"{kind}x") == ids(store, kind="Approval") == []


def test_an_empty_store_has_one_empty_page(store: RecordStore) -> None:
    for kind, person, overdue in product([None, "approval"], [None, "ann@example.org"], [None, True, False]):
        assert waits.page(store, WaitQuery(kind, person, overdue), 1, None, NOW) == ([], None)


@pytest.mark.parametrize("there", [1, 2, 49, 50, 51, 100])
@pytest.mark.parametrize("overdue", [None, False])
def test_the_last_page_says_that_it_is_the_last(sqlite: SqliteRecordStore, there: int, overdue: bool | None) -> None:
    opens(sqlite, *(a_wait(f"{number:03d}") for number in range(there)))
    first, continuation = waits.page(sqlite, WaitQuery(overdue=overdue), 50, None, NOW)
    assert (len(first), continuation is None) == (min(there, 50), there <= 50)


def test_windows_show_every_open_wait_once(store: RecordStore) -> None:
    opens(store, *(a_wait(f"{number:02d}", kind=f"k{number % 3}", since=NOW) for number in range(10)))
    for limit in (1, 3, 5, 10, 11):
        seen: list[str] = []
        start: str | None = None
        while True:
            found, start = waits.window(store, start, limit)
            seen += [wait.instance_id for wait in found]
            if start is None:
                break
        assert seen == [f"{number:02d}" for number in range(10)]


def test_pages_go_on_from_the_last_wait_that_was_shown(store: RecordStore) -> None:
    """Both that wait and others may be closed by then, and older ones opened."""
    there = {name: a_wait(name, since=NOW + number * MILLISECOND) for number, name in enumerate("abcdefgh")}
    opens(store, *(there[name] for name in "bcdfg"))
    query = WaitQuery(person="ann@example.org")
    first, continuation = waits.page(store, query, 2, None, NOW)
    closes(store, there["b"], there["c"], there["f"])
    opens(store, there["a"], there["e"], there["h"])
    then, continuation = waits.page(store, query, 2, continuation, NOW)
    closes(store, there["e"])
    last, end = waits.page(store, query, 2, continuation, NOW)
    assert [[wait.instance_id for wait in page] for page in (first, then, last)] == [["b", "c"], ["d", "e"], ["g", "h"]]
    assert end is None


@pytest.mark.parametrize("limit", [1, 4, 100])
def test_instances_of_any_name_are_listed_once(store: RecordStore, limit: int) -> None:
    there = [a_wait(name, since=NOW) for name in INSTANCES]
    opens(store, *there)
    expected = sorted(INSTANCES, key=lambda name: f"{key_part(name)}|")
    assert [wait.instance_id for wait in listed(store, limit=limit)] == expected
    closes(store, *there)
    assert (listed(store), index_rows(store, there[0])) == ([], [])


# Against a model

MOMENTS = [
    NOW + offset
    for offset in (
        timedelta(days=-400),
        timedelta(seconds=-1),
        -MILLISECOND,
        timedelta(microseconds=-1),
        timedelta(0),
        timedelta(microseconds=1),
        timedelta(microseconds=999),
        MILLISECOND,
        timedelta(days=1),
    )
]
KINDS = ["approval", "approval|since", "purchase_order", "Äpfel"]
PEOPLE = ["ann@example.org", "Ann@Example.ORG", "bob@example.org", "jürgen@müller.example", "a|b@x", "x" * 250 + "@x"]
INSTANCES = ["a", "a-b", "a|b", "A", "é", "x" * 220 + "1", "x" * 220 + "2", "a b", "a/b"]


def moments() -> st.SearchStrategy[datetime]:
    """Times that are often the same, or almost."""
    return st.sampled_from(MOMENTS)


def some_waits() -> st.SearchStrategy[list[Wait]]:
    """Waits, no two of one name."""
    one = st.builds(
        a_wait,
        st.sampled_from(INSTANCES),
        run=st.sampled_from([RUN, OTHER_RUN]),
        number=st.integers(1, 3),
        kind=st.sampled_from(KINDS),
        people=st.lists(st.sampled_from(PEOPLE), max_size=3).map(tuple),
        since=moments(),
        deadline=st.none() | moments(),
    )
    return st.lists(one, max_size=25, unique_by=astuple_of)


def queries() -> st.SearchStrategy[WaitQuery]:
    """What can be asked for."""
    return st.builds(
        WaitQuery,
        kind=st.none() | st.sampled_from(KINDS),
        person=st.none() | st.sampled_from(PEOPLE),
        overdue=st.none() | st.booleans(),
        older_than=st.none() | moments(),
    )


def kept(moment: datetime) -> datetime:
    """What is kept of a time: its milliseconds."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def fits(wait: Wait, query: WaitQuery, now: datetime) -> bool:
    """Whether a wait is on a list, said in plain words."""
    if query.kind is not None and wait.kind != query.kind:
        return False
    if query.person is not None and query.person.lower() not in [one.lower() for one in wait.people]:
        return False
    if query.older_than is not None and not kept(wait.since) < kept(query.older_than):
        return False
    is_overdue = wait.deadline is not None and kept(wait.deadline) <= now
    return query.overdue is None or query.overdue == is_overdue


def model(there: Sequence[Wait], query: WaitQuery, now: datetime) -> list[Wait]:
    """The list that is expected: sorted by time; what is of one time, by name."""

    def by_time(wait: Wait) -> tuple[datetime, str]:
        moment = wait.since if query.overdue is None else wait.deadline or datetime.max.replace(tzinfo=UTC)
        return kept(moment), f"{key_part(wait.instance_id)}|{wait.run}|{wait.number:06d}"

    return sorted((wait for wait in there if fits(wait, query, now)), key=by_time)


def as_kept(wait: Wait) -> Wait:
    """A wait as it comes back from the store."""
    return Wait.model_validate(wait.plain())


def emptied(store: SqliteRecordStore) -> SqliteRecordStore:
    """The store without what the last example left there."""
    for wait in waits.window(store, None, 1000)[0]:
        waits.forget(store, wait.instance_id)
    for instance_id in INSTANCES:
        waits.forget(store, instance_id)
    return store


@SEVERAL
@given(some_waits(), st.lists(queries(), min_size=1, max_size=6), st.lists(st.integers(1, 7), min_size=1), moments())
def test_all_pages_together_are_the_list_of_the_model(
    sqlite: SqliteRecordStore, there: list[Wait], asked: list[WaitQuery], limits: list[int], now: datetime
) -> None:
    store = emptied(sqlite)
    opens(store, *there)
    for query in asked:
        expected = [as_kept(wait) for wait in model(there, query, now)]
        found: list[Wait] = []
        continuation, turn = None, 0
        while True:
            limit = limits[turn % len(limits)]
            page, continuation = waits.page(store, query, limit, continuation, now)
            assert page == expected[len(found) : len(found) + limit]
            found, turn = found + page, turn + 1
            assert (continuation is None) == (len(found) == len(expected))
            if continuation is None:
                break


@dataclass(frozen=True)
class Step:
    """What happens between two pages: each wait of these numbers is opened or closed; and time passes."""

    opened: tuple[int, ...] = ()
    closed: tuple[int, ...] = ()
    reopened: tuple[int, ...] = ()
    passes: timedelta = timedelta(0)


def steps() -> st.SearchStrategy[list[Step]]:
    """What happens before the first page, after it, after the second, and so on."""
    numbers = st.lists(st.integers(0, 24), max_size=6).map(tuple)
    time = st.sampled_from([timedelta(0), timedelta(0), MILLISECOND, timedelta(days=1)])
    return st.lists(st.builds(Step, numbers, numbers, numbers, time), min_size=1, max_size=12)


@settings(SEVERAL, max_examples=300)
@given(
    st.tuples(some_waits(), st.sets(st.integers(0, 24))),
    queries(),
    steps(),
    st.lists(st.integers(1, 4), min_size=1, max_size=9),
)
@example(  # what is older than all of the page before opens, and what was last on it closes
    ([a_wait("a", since=MOMENTS[0]), *(a_wait(name, since=NOW) for name in ("a-b", "A", "é"))], {1, 2, 3}),
    WaitQuery(),
    [Step(), Step(opened=(0,), closed=(2,)), Step(opened=(2,))],
    [2],
)
def test_pages_are_stable_while_waits_open_and_close_between_them(
    sqlite: SqliteRecordStore,
    waiting: tuple[list[Wait], set[int]],
    query: WaitQuery,
    between: list[Step],
    limits: list[int],
) -> None:
    """What is open from before the first page until after the last is shown once, and nothing is shown twice."""
    store, now = emptied(sqlite), NOW
    there, first = waiting
    open_now = {number for number in first if number < len(there)}
    ever_closed: set[int] = set()
    opens(store, *(there[number] for number in open_now))

    all_the_time = {number for number in open_now if fits(there[number], query, now)}
    ever_open = set(open_now)
    shown: list[tuple[str, str, int]] = []
    continuation, turn = None, 0
    while True:
        step = between[turn] if turn < len(between) else Step()
        if turn:
            now += step.passes
            for number in {number for number in step.opened if number < len(there)}:
                opens(store, there[number])
                # A wait that was closed stays closed, whatever opens it late.
                open_now |= {number} - ever_closed
            for number in {number for number in step.closed if number < len(there)}:
                closes(store, there[number])
                open_now -= {number}
                ever_closed |= {number}
            for number in {number for number in step.reopened if number in ever_closed}:
                store.write(waits.reopened(there[number]))
                open_now |= {number}
                ever_closed -= {number}
            all_the_time &= {number for number in open_now if fits(there[number], query, now)}
            all_the_time -= {number for number in step.closed if number not in open_now}
            ever_open |= open_now
        page, continuation = waits.page(store, query, limits[turn % len(limits)], continuation, now)
        assert [wait for wait in page if not any(same(wait, there[number]) for number in open_now)] == []
        assert [wait for wait in page if not fits(wait, query, now)] == []
        shown += [astuple_of(wait) for wait in page]
        turn += 1
        if continuation is None:
            break

    assert len(shown) == len(set(shown))
    assert {astuple_of(there[number]) for number in all_the_time} <= set(shown)
    assert set(shown) <= {astuple_of(there[number]) for number in ever_open}


def same(one: Wait, other: Wait) -> bool:
    """Whether two are one wait."""
    return astuple_of(one) == astuple_of(other)


# Continuations

LIST = WaitQuery(kind="approval")
OTHER_LISTS = [
    WaitQuery(),
    WaitQuery(kind="Approval"),
    WaitQuery(person="approval"),
    WaitQuery(kind="approval", person="ann@example.org"),
    WaitQuery(kind="approval", overdue=True),
    WaitQuery(kind="approval", overdue=False),
    WaitQuery(kind="approval", older_than=NOW),
    WaitQuery(kind="purchase_order"),
]


def token(value: Any) -> str:
    """A continuation that says anything."""
    return encoded(json.dumps(value).encode())


def encoded(raw: bytes) -> str:
    """Bytes as a continuation carries them."""
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def decoded(continuation: str) -> Any:
    """What a continuation says."""
    return json.loads(base64.urlsafe_b64decode(continuation + "=" * (-len(continuation) % 4)))


def second(store: RecordStore, continuation: str, query: WaitQuery = LIST) -> list[str]:
    """The page that a continuation leads to."""
    return [wait.instance_id for wait in waits.page(store, query, 100, continuation, NOW)[0]]


@pytest.fixture
def continued(sqlite: SqliteRecordStore) -> str:
    """The continuation after the first of three waits."""
    opens(sqlite, *(a_wait(name) for name in "abc"))
    continuation = waits.page(sqlite, LIST, 1, None, NOW)[1]
    assert continuation is not None
    assert second(sqlite, continuation) == ["b", "c"]
    return continuation


@pytest.mark.parametrize("other", OTHER_LISTS, ids=str)
def test_a_continuation_of_one_list_is_none_of_another(
    sqlite: SqliteRecordStore, continued: str, other: WaitQuery
) -> None:
    with pytest.raises(BadContinuation):
        second(sqlite, continued, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [(one, other) for one, other in product([LIST, *OTHER_LISTS], repeat=2) if astuple(one) != astuple(other)],
    ids=str,
)
def test_no_two_lists_have_one_continuation(one: WaitQuery, other: WaitQuery) -> None:
    assert waits._digest(one) != waits._digest(other)


def test_the_same_list_may_be_asked_for_in_other_words(sqlite: SqliteRecordStore) -> None:
    """The address in other case; and an age is counted from a later moment on each page."""
    opens(sqlite, *(a_wait(name) for name in "abc"))
    query = WaitQuery(person="ann@example.org", older_than=NOW)
    continuation = waits.page(sqlite, query, 1, None, NOW)[1]
    assert continuation is not None
    again = replace(query, person=" Ann@Example.org", older_than=NOW + timedelta(seconds=2))
    assert second(sqlite, continuation, again) == ["b", "c"]


def test_a_continuation_stays_good_when_its_wait_is_closed_and_forgotten(
    sqlite: SqliteRecordStore, continued: str
) -> None:
    closes(sqlite, a_wait("a"))
    assert second(sqlite, continued) == ["b", "c"]
    waits.forget(sqlite, "a")
    waits.forget(sqlite, "b")
    assert second(sqlite, continued) == ["c"]


def test_a_cut_continuation_is_refused(sqlite: SqliteRecordStore, continued: str) -> None:
    for length in range(len(continued)):
        with pytest.raises(BadContinuation):
            second(sqlite, continued[:length])


@pytest.mark.parametrize(
    "junk",
    [
        "",
        " ",
        "====",
        "a",
        "%%%%",
        "not base64",
        "ünï",
        "\x00",
        "😀",
        "\ud800",
        encoded(b"\xff\xfe\xff"),
        encoded(b"[]" * 2),
        encoded(b"[" * 100_000),
        encoded(b'{"a":' * 100_000),
        encoded(b"9" * 10_000),
        "A" * 1_000_000,
        token(None),
        token(0),
        token(1.5),
        token(True),
        token("ab"),
        token([]),
        token([1, 2]),
        token([None, None]),
        token({}),
        token({"a": 1, "b": 2}),
        token([[], {}]),
        token([["a"], ["b"]]),
        token(["a", "b", "c"]),
        token([{"a": 1}, "b"]),
    ],
    ids=lambda junk: repr(junk[:20]),
)
def test_junk_is_refused(sqlite: SqliteRecordStore, continued: str, junk: str) -> None:
    with pytest.raises(BadContinuation):
        second(sqlite, junk)


@pytest.mark.parametrize(
    "key",
    [
        None,
        0,
        [],
        {},
        ["a"],
        "",
        " ",
        "x",
        "|||",
        "x" * 401,
        "é",
        "\ud800",
        "2026-03-01T11:00:00.000Z",
        "2026-03-01T11:00:00.000Z|a",
        "2026-03-01T11:00:00.000Z|a|20260301T110000000000Z|",
        "2026-03-01T11:00:00.000Z|a/b|20260301T110000000000Z|000001",
        "2026-03-01T11:00:00.000Z|a' or '1|20260301T110000000000Z|000001",
        "2026-03-01T11:00:00.000Z|a\x00|20260301T110000000000Z|000001",
        "2026-03-01T11:00:00.000Z|a|20260301T110000000000Z|000001\n",
        "\n2026-03-01T11:00:00.000Z|a|20260301T110000000000Z|000001",
        "2026-03-01T11:00:00.000Z|a|20260301T110000000000Z|\u0660\u0660\u0660\u0660\u0660\u0661",
    ],
    ids=repr,
)
def test_a_forged_place_in_the_list_is_refused(sqlite: SqliteRecordStore, continued: str, key: Any) -> None:
    """A store may not take every text for a key, and would fail with an error of its own."""
    with pytest.raises(BadContinuation):
        second(sqlite, token([decoded(continued)[0], key]))


@SEVERAL
@given(st.integers(0, 10_000), st.sampled_from("ABZaz09-_=+/ \x00é") | st.characters())
def test_a_continuation_with_one_character_changed_shows_nothing_that_is_not_on_the_list(
    sqlite: SqliteRecordStore, continued: str, place: int, letter: str
) -> None:
    at = place % len(continued)
    try:
        found = second(sqlite, continued[:at] + letter + continued[at + 1 :])
    except BadContinuation:
        return
    assert found in (["a", "b", "c"], ["b", "c"], ["c"], [])


@SEVERAL
@given(
    st.text()
    | st.binary().map(encoded)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ).map(token)
)
def test_whatever_comes_as_a_continuation_is_refused(sqlite: SqliteRecordStore, continued: str, junk: str) -> None:
    with pytest.raises(BadContinuation):
        second(sqlite, junk)


@settings(SEVERAL, max_examples=30)
@given(some_waits(), queries(), moments())
def test_no_continuation_is_longer_than_one_that_is_taken(
    sqlite: SqliteRecordStore, there: list[Wait], query: WaitQuery, now: datetime
) -> None:
    store = emptied(sqlite)
    opens(store, *there)
    continuation = waits.page(store, query, 1, None, now)[1]
    assert len(continuation or "") < 600


# How much is read


class Counting(SqliteRecordStore):
    """A store that counts the rows that it gives, and the steps of SQLite's machine."""

    rows = 0
    steps = 0

    def range(self, partition: str, start: str, end: str, limit: int) -> list[Row]:
        """Give a range, and count."""
        found = super().range(partition, start, end, limit)
        self.rows += len(found)
        return found

    def counted(self, query: WaitQuery, continuation: str | None) -> tuple[int, int, str | None]:
        """The steps and the rows for a page of 50, and what continues it."""
        self.get("open", "the file")  # the connection is there from here on
        assert self._reader is not None
        self.rows = self.steps = 0
        self._reader.set_progress_handler(self._step, 1)
        found, continuation = waits.page(self, query, 50, continuation, NOW)
        self._reader.set_progress_handler(None, 1)
        assert len(found) == 50
        return self.steps, self.rows, continuation

    def _step(self) -> int:
        self.steps += 1
        return 0


def many(store: SqliteRecordStore, count: int) -> None:
    """Open waits: half of a kind, all on Ann, half overdue."""
    changes: list[Change] = []
    for number in range(count):
        wait = a_wait(
            f"instance-{number:05d}",
            kind=("approval", "purchase_order")[number % 2],
            people=("ann@example.org", f"other-{number % 100}@example.org"),
            since=NOW - timedelta(days=1) + number * MILLISECOND,
            deadline=NOW + timedelta(seconds=number // 2 if number % 4 < 2 else -number - 1),
        )
        changes += waits.opened(wait)
    store.write(changes)


@pytest.fixture(scope="module")
def small_and_large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Counting, Counting]]:
    """A store with a few hundred open waits, and one with 10,000."""
    folder = tmp_path_factory.mktemp("many")
    small, large = Counting(folder / "small.db"), Counting(folder / "large.db")
    many(small, 400)
    many(large, 10_000)
    yield small, large
    small.close()
    large.close()


@pytest.mark.parametrize(
    "query",
    [
        WaitQuery(),
        WaitQuery(kind="approval"),
        WaitQuery(person="ann@example.org"),
        WaitQuery(overdue=True),
        WaitQuery(overdue=False),
        WaitQuery(older_than=NOW - timedelta(hours=1)),
        WaitQuery(kind="purchase_order", overdue=True),
        WaitQuery(person="ann@example.org", overdue=True),
        WaitQuery(kind="approval", older_than=NOW - timedelta(hours=1)),
    ],
    ids=str,
)
def test_a_page_reads_no_more_than_the_page_however_many_wait(
    small_and_large: tuple[Counting, Counting], query: WaitQuery
) -> None:
    small, large = small_and_large
    few, few_rows, few_on = small.counted(query, None)
    steps_of_first, rows, continuation = large.counted(query, None)
    assert (few_rows, rows) == (51, 51)
    assert steps_of_first <= few * 1.1
    for _ in range(20):
        assert continuation is not None
        deep, rows, continuation = large.counted(query, continuation)
        assert rows == 51
        assert deep <= few * 1.1
    assert few_on is not None


GARBAGE = ["", "{", "[]", "null", '{"wait": null, "open": true}', '{"open": []}', "[" * 20000]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_row_that_was_tampered_with_hides_no_other(sqlite: SqliteRecordStore, garbage: str) -> None:
    broken, sound = a_wait("broken"), a_wait("sound")
    sqlite.write([*waits.opened(broken), *waits.opened(sound)])
    for change in waits.opened(broken):
        sqlite.write([Change("put", change.partition, change.key, garbage)])
    assert listed(sqlite) == [sound]
    assert waits.window(sqlite, None, 10) == ([sound], None)
    assert waits.of_instance(sqlite, "broken") == []
    put_on_record(sqlite, RecordBatch(opened=(broken,)))
    assert len(listed(sqlite)) == 2
    put_on_record(sqlite, RecordBatch(closed=(broken,)))
    assert listed(sqlite) == [sound]


def tamper(tmp_path: Path, statement: str, *values: Any) -> None:
    """Change the file of the store behind everybody's back."""
    with closing(sqlite3.connect(tmp_path / "records.db")) as beside, beside:
        beside.execute(statement, values)


def tamper_with_keys(tmp_path: Path, beginning: str, count: int) -> None:
    """Put rows into all indexes whose keys are no UTF-8: what they are read as sorts elsewhere than they do."""
    statement = (
        "INSERT INTO record SELECT partition, CAST(? AS TEXT), '{}' FROM (SELECT DISTINCT partition FROM record)"
    )
    for number in range(count):
        for byte in (b"\x80", b"\xff"):
            tamper(tmp_path, statement, beginning.encode() + byte + b"%d" % number)


BEGINNINGS = [
    "",
    "1",
    "2",
    "2026-03-01T10:59:59",
    "2026-03-01T11:00:00.000Z|b",
    "2026-03-01T11:00:00.000Z|b~",
    "3",
    "9",
]


@pytest.mark.parametrize("beginning", BEGINNINGS)
@pytest.mark.parametrize("count", [1, 4])
def test_keys_that_are_no_text_hide_no_wait_and_every_list_ends(
    sqlite: SqliteRecordStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beginning: str, count: int
) -> None:
    """Whether they fit on one page or not, and whatever comes before them and after them."""
    monkeypatch.setattr(waits, "READ_ON", 2)
    there = [a_wait(name, deadline=None if name in "bd" else NOW + timedelta(days=1)) for name in "abcde"]
    opens(sqlite, *there)
    tamper_with_keys(tmp_path, beginning, count)
    queries = [WaitQuery(), WaitQuery(kind="approval"), WaitQuery(person="ann@example.org", overdue=False)]
    for query in queries:
        order = "acebd" if query.overdue is False else "abcde"
        for limit in (1, 2, 3, 7):
            assert [wait.instance_id for wait in listed(sqlite, query, limit)] == list(order)
    for limit in (1, 2, 3, 100):
        assert windows_of(sqlite, limit) == list("abcde")
    tamper_with_keys_of_instance(tmp_path)
    monkeypatch.setattr(waits, "READ_ON", 1)
    assert waits.of_instance(sqlite, "a") == [(there[0], True)]


def tamper_with_keys_of_instance(tmp_path: Path) -> None:
    """Put a row into the partition of an instance whose key is no UTF-8."""
    tamper(tmp_path, "INSERT INTO record VALUES ('wait:a', CAST(? AS TEXT), '{}')", b"2\xff")


def windows_of(store: RecordStore, limit: int) -> list[str]:
    """The instances that all windows show; fails when there is no end of them."""
    seen: list[str] = []
    start: str | None = None
    for _ in range(200):
        found, following = waits.window(store, start, limit)
        seen += [wait.instance_id for wait in found]
        if following is None:
            return seen
        assert following > (start or "")
        start = following
    raise AssertionError("the windows do not end")


ODD_TIMES = ["2026-03-01T11:00:00", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "1e300", "x", None]


@pytest.mark.parametrize("field", ["since", "deadline"])
@pytest.mark.parametrize("time", ODD_TIMES)
@pytest.mark.parametrize("order", ["since", "due"])
def test_a_row_with_a_time_that_is_none_is_hidden_and_its_body_is_not_logged(
    sqlite: SqliteRecordStore, caplog: pytest.LogCaptureFixture, field: str, time: str | None, order: str
) -> None:
    broken, sound = a_wait("broken", title="A secret desk"), a_wait("sound", since=NOW, deadline=NOW)
    opens(sqlite, broken, sound)
    body = json.dumps(broken.plain() | {field: time})
    if (field, time) == ("deadline", None):
        body = body.replace('"number": 1', '"number": 2')  # to have no deadline is allowed
    for name, row in index_rows(sqlite, broken):
        if name.endswith(order) and "broken" in row.key:
            sqlite.write([Change("put", name, row.key, body)])
    query = WaitQuery() if order == "since" else WaitQuery(overdue=False)
    page, continuation = waits.page(sqlite, query, 10, None, NOW - timedelta(days=2))
    assert ([wait.plain() for wait in page], continuation) == ([sound.plain()], None)
    assert [each.levelno for each in caplog.records] == [logging.ERROR]
    assert "broken" in caplog.text
    assert "secret" not in caplog.text
    assert waits.window(sqlite, None, 10)[0] == ([sound] if order == "since" else [broken, sound])
    # The row of the instance itself likewise.
    [row] = sqlite.range("wait:broken", "", waits.END, 10)
    sqlite.write([Change("put", "wait:broken", row.key, json.dumps({"open": True, "wait": json.loads(body)}))])
    assert waits.of_instance(sqlite, "broken") == []
    assert "secret" not in caplog.text


@pytest.mark.parametrize("changes", [{"number": 2}, {"run": OTHER_RUN}, {"instance_id": "two"}, {"since": NOW}])
def test_a_row_of_another_wait_is_not_listed_under_a_key_that_is_not_its_own(
    sqlite: SqliteRecordStore, caplog: pytest.LogCaptureFixture, changes: dict[str, Any]
) -> None:
    """It would be shown in its place, and in another one too; a page would go on from there."""
    one, sound = a_wait(), a_wait("sound")
    opens(sqlite, one, sound)
    other = a_wait(**changes)
    [change] = [change for change in waits.opened(other) if change.partition == "open|since"]
    [key] = [change.key for change in waits.opened(one) if change.partition == "open|since"]
    sqlite.write([Change("put", "open|since", key, change.body)])  # another's body under this key
    assert listed(sqlite) == [sound]
    [own] = [change for change in waits.opened(one) if change.partition == "open|since"]
    sqlite.write([own, Change("put", "open|since", change.key, own.body)])  # and the right body under another's key
    assert sorted(ids(sqlite)) == ["one", "sound"]
    assert waits.window(sqlite, None, 10)[0] == listed(sqlite)
    assert "A desk" not in caplog.text


def test_a_row_of_another_instance_in_the_partition_of_one_leaves_the_other_alone(store: RecordStore) -> None:
    """Else whoever could add it would have the other one forgotten with this one's purge."""
    mine, other = a_wait("a"), a_wait("b", number=2)
    opens(store, mine, other)
    for copy in (other, a_wait("b")):
        first = waits.opened(copy)[0]
        store.write(
            [Change("put", "wait:a", f"x{first.key}", first.body), Change("put", "wait:a", first.key, first.body)]
        )
    assert waits.of_instance(store, "a") == []
    opens(store, a_wait("a", number=3))
    assert waits.of_instance(store, "a") == [(a_wait("a", number=3), True)]
    waits.forget(store, "a")
    assert waits.of_instance(store, "a") == []
    assert waits.of_instance(store, "b") == [(other, True)]
    assert sorted(ids(store, person="ann@example.org")) == ["a", "b"]
    assert waits.is_listed(store, other)
    assert len([row for _, row in index_rows(store, other) if "|b|" in row.key]) == 6


# Broken off


@pytest.mark.parametrize("written", range(1, 10))
def test_an_opening_with_a_close_in_between_leaves_nothing_that_is_not_looked_through(
    store: RecordStore, written: int
) -> None:
    """Rows are written one after another. A host that hangs in the midst of them is given up, and its run goes on and
    closes the wait; then the host goes on too."""
    wait = a_wait(people=("ann@example.org", "bob@example.org"))
    opening, shutting = waits.opened(wait), waits.closed(wait)
    assert len(opening) == len(shutting) == 9
    for closed_as_far in range(10):
        store.write([Change("delete", each.partition, each.key) for each in opening])
        one_by_one(store, opening[:written])
        assert waits.of_instance(store, "one") == [(wait, True)]  # by which it is found
        one_by_one(store, shutting[:closed_as_far])
        one_by_one(store, opening[written:])
        nothing_is_out_of_sight(store, wait)
        if closed_as_far == 9:
            assert index_rows(store, wait) == [] or waits.window(store, None, 10)[0] == [wait]
            one_by_one(store, shutting)
            assert index_rows(store, wait) == []


def one_by_one(store: RecordStore, changes: Sequence[Change]) -> None:
    """Make each change by itself, as a store does that has no transactions over partitions."""
    for change in changes:
        store.write([change])


@pytest.mark.parametrize("written", range(10))
def test_a_closing_that_is_broken_off_leaves_nothing_that_is_not_looked_through(
    store: RecordStore, written: int
) -> None:
    wait = a_wait(people=("ann@example.org", "bob@example.org"))
    opens(store, wait)
    one_by_one(store, waits.closed(wait)[:written])
    nothing_is_out_of_sight(store, wait)


def nothing_is_out_of_sight(store: RecordStore, wait: Wait) -> None:
    """What stands in an index is found in one of the two places from which it is healed.

    They are the list of all open waits, and the partition of the instance, if it says that the wait is open.
    """
    rows = [name for name, row in index_rows(store, wait)]
    in_sight = waits.window(store, None, 10)[0] == [wait] or waits.of_instance(store, "one") == [(wait, True)]
    assert in_sight or not rows, rows


# Groups


CAUSE, OTHER_CAUSE = "a" * 16, "b" * 16


def test_a_group_is_listed_by_its_cause(store: RecordStore) -> None:
    later = NOW - timedelta(minutes=30)
    opens(store, a_wait("one", group=CAUSE), a_wait("two", group=OTHER_CAUSE), a_wait("three"))
    opens(store, a_wait("four", group=CAUSE, since=later))
    assert ids(store, group=CAUSE) == ["one", "four"]
    assert ids(store, group=OTHER_CAUSE) == ["two"]
    assert ids(store, group="c" * 16) == []
    assert sorted(ids(store)) == ["four", "one", "three", "two"]


def test_a_closed_wait_leaves_its_group_and_a_changed_one_stays(store: RecordStore) -> None:
    first, second = a_wait("one", group=CAUSE), a_wait("two", group=CAUSE)
    opens(store, first, second)
    closes(store, first)
    assert ids(store, group=CAUSE) == ["two"]
    put_on_record(store, RecordBatch(closed=(second,), opened=(second.model_copy(update={"number": 2}),)))
    assert [wait.number for wait in listed(store, WaitQuery(group=CAUSE))] == [2]


def test_a_group_is_narrowed_by_person_and_workflow(store: RecordStore) -> None:
    opens(store, a_wait("one", group=CAUSE), a_wait("two", group=CAUSE, people=("ben@example.org",)))
    opens(store, a_wait("three", group=CAUSE, kind="refund"))
    assert ids(store, group=CAUSE, person="BEN@example.org") == ["two"]
    assert ids(store, group=CAUSE, person="ann@example.org", kind="approval") == ["one"]
    assert ids(store, group=CAUSE, kind="refund") == ["three"]


def test_a_continuation_of_one_group_is_none_of_another(store: RecordStore) -> None:
    opens(store, a_wait("one", group=CAUSE), a_wait("two", group=CAUSE))
    _, continuation = waits.page(store, WaitQuery(group=CAUSE), 1, None, NOW)
    found, _ = waits.page(store, WaitQuery(group=CAUSE), 1, continuation, NOW)
    assert [wait.instance_id for wait in found] == ["two"]
    for query in (WaitQuery(group=OTHER_CAUSE), WaitQuery()):
        with pytest.raises(BadContinuation):
            waits.page(store, query, 1, continuation, NOW)


def test_a_wait_without_a_group_is_written_as_it_was_before_there_were_any() -> None:
    assert "group" not in a_wait().plain()
    assert a_wait(group=CAUSE).plain()["group"] == CAUSE
