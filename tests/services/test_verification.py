"""Verifying a trail: tampering is found wherever it is, and what nobody touched is never accused."""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.audit import GENESIS, Entry, TrailHead, chained, digest_of
from services import trail
from services.record_store import Row
from services.trail import Trail
from services.verification import Verified, verify

RUN = "20260131T235959123456Z"
OTHER_RUN = "20260201T000000000000Z"
EARLIER_RUN = "20250101T000000000000Z"
AT = datetime(2026, 1, 31, 23, 59, 59, 123000, tzinfo=UTC)
SALT = "0123456789abcdef0123456789abcdef"
KEY, OLD_KEY = "a key of sixteen or more", "the one of before, too"
LENGTHS = range(1, 9)

type Rows = dict[str, Any]
"""The rows of a trail by their keys, each as the document that it holds, or as any text."""


# Writing trails


def run_entries(count: int, *, run: str = RUN, instance_id: str = "one", **said: Any) -> list[Entry]:
    """The chain of a run, in which every second entry has a comment."""
    entries: list[Entry] = []
    for number in range(1, count + 1):
        whole: dict[str, Any] = {
            "salt": SALT,
            "at": AT + timedelta(seconds=number),
            "action": "decided",
            "actor": f"Person {number}",
            "channel": "api",
            "before": "waiting",
            "after": "approved",
            "comment": f"Comment {number}" if number % 2 else None,
            "payload": {"number": number} if number % 3 else None,
            "instance_id": instance_id,
            "series": "run",
            "run": run,
        }
        entries.append(chained(entries[-1] if entries else None, **whole | said))
    return entries


def app_entries(count: int, instance_id: str = "one") -> list[Entry]:
    """A chain of the app: late decisions."""
    return run_entries(count, instance_id=instance_id, series="app", action="late")


def purged(entries: Sequence[Entry], previous: Entry | None = None) -> Entry:
    """The note that stands in for the history of a run that was purged."""
    last = entries[-1]
    anchor = TrailHead(run=last.run, entries=len(entries), stored=len(entries), head=last.hash)
    return chained(
        previous,
        salt=None,
        at=AT + timedelta(days=90),
        action="purged",
        instance_id=last.instance_id,
        series="app",
        run=last.run,
        anchor=anchor,
        channel="timer",
    )


def erased_note(*named: Entry, previous: Entry | None = None) -> Entry:
    """The note of an erasure, which names the rows of entries."""
    said: dict[str, Any] = {"at": AT, "action": "erased", "actor": "Dora", "instance_id": "one", "run": RUN}
    keys = tuple(trail.key_of(entry) for entry in named)
    return chained(previous, salt=None, series="app", erasure=keys or None, **said)


def head(entries: Sequence[Entry], stored: int | None = None) -> TrailHead:
    """The head that the instance shows."""
    number = len(entries)
    return TrailHead(
        run=entries[-1].run, entries=number, stored=number if stored is None else stored, head=entries[-1].hash
    )


def hashes(entries: Sequence[Entry]) -> dict[int, str]:
    """What the history vouches for."""
    return {entry.number: entry.hash for entry in entries}


def rows_of(*chains: Sequence[Entry], keys: Sequence[str] = ()) -> Rows:
    """The rows of chains, as the app stores them."""
    changes = [trail.stored(entry, keys if entry.series == "app" else ()) for chain in chains for entry in chain]
    return {change.key: json.loads(change.body) for change in changes}


class InMemory:
    """The rows of one trail, some of which no store could hold."""

    def __init__(self, rows: Mapping[str, str]) -> None:
        self.rows = rows

    def range(self, partition: str, start: str, end: str, limit: int) -> list[Row]:
        """Return the first rows of a range of keys."""
        return [Row(key, self.rows[key]) for key in sorted(self.rows) if start <= key < end][:limit]


def read_any(rows: Mapping[str, str]) -> Trail:
    """Read rows as a trail."""
    return trail.read(InMemory(rows), "one")  # type: ignore[arg-type]  # as much of a store as is asked for


def read(rows: Rows) -> Trail:
    """Read rows as a trail."""
    return read_any({key: body if isinstance(body, str) else json.dumps(body) for key, body in rows.items()})


# Tampering with them


def entry_at(rows: Rows, key: str) -> dict[str, Any]:
    """The entry in a row, to be edited."""
    entry: dict[str, Any] = rows[key]["entry"]
    return entry


def rehash(entry: dict[str, Any]) -> None:
    """Make the hash of an entry anew, as who knows the code can."""
    if entry.get("comment") is not None and entry.get("comment_sha256") is not None:
        entry["comment_sha256"] = digest_of(entry["comment"], entry.get("salt"))
    left_out = {"hash", "comment"} | ({"salt"} if entry.get("comment_sha256") else set())
    entry["hash"] = digest_of(
        {name: value for name, value in entry.items() if name not in left_out and value is not None}
    )


def relink(rows: Rows, keys: Sequence[str], start: int = 0) -> None:
    """Make links and hashes anew from an index on."""
    for index in range(start, len(keys)):
        entry = entry_at(rows, keys[index])
        entry["previous"] = entry_at(rows, keys[index - 1])["hash"] if index else GENESIS
        rehash(entry)


def in_series(series: str, count: int, run: str = RUN) -> list[str]:
    """The keys of a chain."""
    numbers = range(1, count + 1)
    return [trail.app_key(number) if series == "app" else trail.run_key(run, number) for number in numbers]


OTHER_VALUES: dict[str, Any] = {
    "instance_id": "two",
    "series": None,  # the other one
    "run": OTHER_RUN,
    "number": 77,
    "at": "2026-01-01T00:00:00.000Z",
    "action": "timed_out",
    "actor": "Mallory",
    "on_behalf_of": "Mallory",
    "channel": "link",
    "before": "elsewhere",
    "after": "rejected",
    "detail": "Mallory was here",
    "round": 7,
    "people": ["mallory@example.com"],
    "comment": "Mallory was here",
    "salt": "f" * 32,
    "comment_sha256": "1" * 64,
    "payload_sha256": "1" * 64,
    "anchor": {"run": RUN, "entries": 1, "stored": 1, "head": "1" * 64},
    "erasure": ["app|0000000001"],
    "previous": "1" * 64,
    "hash": "1" * 64,
}
IDENTITY = ("instance_id", "series", "number")


def test_every_field_is_edited_here() -> None:
    assert set(OTHER_VALUES) == set(Entry.model_fields)


class Case:
    """A trail with one chain of ``count`` entries, and what vouches for it."""

    def __init__(self, count: int, anchored_by: str, keys: Sequence[str] = ()) -> None:
        self.anchored_by = anchored_by
        self.audit_keys = keys
        self.series = "app" if anchored_by == "app" else "run"
        self.entries = app_entries(count) if self.series == "app" else run_entries(count)
        notes = [purged(self.entries)] if anchored_by == "purge" else []
        self.rows = rows_of(self.entries, notes, keys=keys)
        self.keys = in_series(self.series, count)
        self.live = head(self.entries) if anchored_by.startswith("history") else None
        self.known = hashes(self.entries) if anchored_by == "history known" else {}

    @property
    def is_exact(self) -> bool:
        """Whether each entry is vouched for, so that it can be named however much was made anew."""
        return self.anchored_by == "history known" or (self.series == "app" and bool(self.audit_keys))

    def verify(self, rows: Rows) -> Verified:
        """Verify other rows against what vouches for these."""
        return verify(read(rows), "one", self.live, self.known, self.audit_keys)

    def finds(self, rows: Rows, *numbers: int) -> None:
        """Assert that a fault is found in this chain, at one of ``numbers`` if any are given."""
        assert rows != self.rows, "nothing was tampered with"
        found = self.verify(rows)
        assert found.verdict == "broken", found
        assert found.first is not None
        assert (found.first.series, found.first.run) == (self.series, RUN if self.series == "run" else None), found
        assert not numbers or found.first.number in numbers, (found.first, numbers)
        assert [chain.verdict for chain in found.chains if chain.series == self.series] == ["broken"]

    def vouches_not(self, rows: Rows) -> None:
        """Assert that no fault is found where none can be, and that nothing is said to vouch for the chain."""
        assert rows != self.rows, "nothing was tampered with"
        found = self.verify(rows)
        assert found.first is None, found
        for chain in found.chains:
            assert (chain.verdict, chain.anchored_by) == ("unanchored", None)


def case(count: int, anchored_by: str) -> Case:
    """A trail by the name of what vouches for it."""
    if anchored_by == "app sealed":
        return Case(count, "app", [KEY])
    return Case(count, anchored_by)


ANCHORS = ["history", "history known", "purge", "app", "app sealed"]
every_chain = pytest.mark.parametrize("anchored_by", ANCHORS)


def every_length(test: Callable[..., None]) -> Callable[..., None]:
    """Give a test each length as its ``count``: hundreds of cases are too many for a line each."""

    @wraps(test)
    def with_each(**given: Any) -> None:
        for count in LENGTHS:
            test(count=count, **given)

    signature = inspect.signature(test)
    others = [parameter for name, parameter in signature.parameters.items() if name != "count"]
    with_each.__signature__ = signature.replace(parameters=others)  # type: ignore[attr-defined]
    return with_each


@every_chain
@every_length
def test_what_nobody_touched_is_whole(count: int, anchored_by: str) -> None:
    whole = case(count, anchored_by)
    found = whole.verify(whole.rows)
    assert (found.verdict, found.first, found.erased) == ("intact", None, 0)
    ends = {"app": ("unanchored", None), "purge": ("intact", "purge")}.get(whole.anchored_by, ("intact", "history"))
    (chain,) = [chain for chain in found.chains if chain.series == whole.series]
    assert (chain.verdict, chain.anchored_by, chain.entries, chain.pending) == (*ends, count, 0)
    assert found.sealed is (True if whole.audit_keys else None)


@every_chain
@every_length
def test_an_edit_is_named_exactly_where_no_hash_was_made_anew(count: int, anchored_by: str) -> None:
    whole = case(count, anchored_by)
    for number, key in enumerate(whole.keys, 1):
        for field, value in OTHER_VALUES.items():
            rows = deepcopy(whole.rows)
            entry_at(rows, key)[field] = value or ("run" if whole.series == "app" else "app")
            whole.finds(rows, number)


@every_chain
@every_length
def test_an_edit_is_named_where_its_own_hash_was_made_anew(count: int, anchored_by: str) -> None:
    whole = case(count, anchored_by)
    for number, key in enumerate(whole.keys, 1):
        for field, value in OTHER_VALUES.items():
            rows = deepcopy(whole.rows)
            entry_at(rows, key)[field] = value or ("run" if whole.series == "app" else "app")
            rehash(entry_at(rows, key))
            if rows == whole.rows:
                continue
            is_misplaced = field in (*IDENTITY, "previous") or (whole.series == "run" and field == "run")
            is_unsound = field in ("comment", "comment_sha256") and "comment" not in entry_at(whole.rows, key)
            if whole.anchored_by != "app" or whole.audit_keys or is_misplaced or is_unsound:
                whole.finds(rows, number)
            elif number < count:
                # Nothing vouches for either of the two that do not fit together: the second is named.
                whole.finds(rows, number + 1)
            else:
                whole.vouches_not(rows)


@every_chain
@every_length
def test_an_edit_is_found_where_all_hashes_after_it_were_made_anew(count: int, anchored_by: str) -> None:
    whole = case(count, anchored_by)
    for number, key in enumerate(whole.keys, 1):
        for field in (
            "at",
            "action",
            "actor",
            "comment",
            "salt",
            "detail",
            "payload_sha256",
            "anchor",
            "erasure",
            "after",
        ):
            rows = deepcopy(whole.rows)
            if field in ("comment", "salt") and "comment" not in entry_at(rows, key):
                continue
            entry_at(rows, key)[field] = OTHER_VALUES[field]
            relink(rows, whole.keys, number - 1)
            if whole.is_exact:
                whole.finds(rows, number)
            elif whole.series == "run":
                whole.finds(rows, count)  # the last is what is vouched for
            else:
                whole.vouches_not(rows)


@every_chain
@every_length
def test_a_removed_entry_is_named(count: int, anchored_by: str) -> None:
    whole = case(count, anchored_by)
    for number, key in enumerate(whole.keys, 1):
        rows = deepcopy(whole.rows)
        del rows[key]
        if number < count or whole.series == "run":
            whole.finds(rows, number)
        else:
            whole.vouches_not(rows)


@every_chain
@every_length
def test_a_removed_entry_is_found_where_the_gap_was_closed(count: int, anchored_by: str) -> None:
    whole = case(count, anchored_by)
    for number in range(1, count):
        rows = deepcopy(whole.rows)
        for index in range(number, count):
            rows[whole.keys[index - 1]] = rows[whole.keys[index]]
            entry_at(rows, whole.keys[index - 1])["number"] = index
        del rows[whole.keys[-1]]
        relink(rows, whole.keys[:-1], number - 1)
        if whole.is_exact:
            whole.finds(rows, number)
        elif whole.series == "run":
            whole.finds(rows, count)
        else:
            whole.vouches_not(rows)


@every_chain
@every_length
def test_a_tail_that_was_cut_is_named_by_its_first(count: int, anchored_by: str) -> None:
    whole = case(count, anchored_by)
    for cut in range(1, count + 1):
        rows = {key: body for key, body in whole.rows.items() if key not in whole.keys[count - cut :]}
        if whole.series == "run":
            whole.finds(rows, count - cut + 1)
        else:
            whole.vouches_not(rows)


@every_chain
@every_length
@pytest.mark.parametrize("made_anew", ["nothing", "numbers", "numbers and hashes", "all after"])
def test_two_that_were_swapped_are_named_by_the_first(count: int, anchored_by: str, made_anew: str) -> None:
    whole = case(count, anchored_by)
    for one in range(1, count + 1):
        for other in range(one + 1, count + 1):
            rows = deepcopy(whole.rows)
            first, second = whole.keys[one - 1], whole.keys[other - 1]
            rows[first], rows[second] = rows[second], rows[first]
            if made_anew != "nothing":
                entry_at(rows, first)["number"], entry_at(rows, second)["number"] = one, other
            if made_anew == "numbers and hashes":
                rehash(entry_at(rows, first))
                rehash(entry_at(rows, second))
            if made_anew != "all after":
                whole.finds(rows, one)
                continue
            relink(rows, whole.keys, one - 1)
            if whole.is_exact:
                whole.finds(rows, one)
            elif whole.series == "run":
                whole.finds(rows, count)
            else:
                whole.vouches_not(rows)


@every_chain
@every_length
@pytest.mark.parametrize("seal", [None, "0" * 64])
def test_an_entry_that_was_put_in_is_found(count: int, anchored_by: str, seal: str | None) -> None:
    whole = case(count, anchored_by)
    keys = in_series(whole.series, count + 1)
    for number in range(1, count + 2):
        rows = deepcopy(whole.rows)
        for index in range(count, number - 1, -1):
            rows[keys[index]] = rows[keys[index - 1]]
            entry_at(rows, keys[index])["number"] = index + 1
        forged = deepcopy(entry_at(whole.rows, keys[0]))
        rows[keys[number - 1]] = {"entry": forged | {"number": number, "detail": "forged"}}
        if seal is not None:
            rows[keys[number - 1]]["seal"] = seal
        relink(rows, keys, number - 1)
        if whole.series == "run":
            named = number if whole.is_exact or number == count + 1 else count
            whole.finds(rows, named)
        elif whole.audit_keys and seal is not None:
            whole.finds(rows, number)
        elif whole.audit_keys and number <= count:
            whole.finds(rows, number + 1)  # one without a seal may be from before there was a key
        else:
            whole.vouches_not(rows)
            assert whole.verify(rows).sealed is (False if whole.audit_keys else None)


@every_chain
@every_length
def test_an_entry_from_elsewhere_is_named(count: int, anchored_by: str) -> None:
    whole = case(count, anchored_by)
    elsewhere = {
        "another instance": run_entries(count, instance_id="two", series=whole.series),
        "the other series": run_entries(count, series="run" if whole.series == "app" else "app"),
    }
    if whole.series == "run":
        elsewhere["another run"] = run_entries(count, run=OTHER_RUN)
    for chain in elsewhere.values():
        for number, key in enumerate(whole.keys, 1):
            rows = deepcopy(whole.rows)
            rows[key]["entry"] = json.loads(trail.stored(chain[number - 1]).body)["entry"]
            whole.finds(rows, number)


@every_chain
@every_length
def test_a_row_that_was_moved_leaves_a_gap_that_is_named(count: int, anchored_by: str) -> None:
    whole = case(count, anchored_by)
    for number, key in enumerate(whole.keys, 1):
        for place in (count + 1, count + 2, 9_999_999_999):
            rows = deepcopy(whole.rows)
            rows[in_series(whole.series, 1)[0][:-10] + f"{place:010d}"] = rows.pop(key)
            whole.finds(rows, number)


@every_chain
@every_length
@pytest.mark.parametrize("body", ["", "no JSON", "{}", "null", '{"entry": {}}', "[" * 50_000])
def test_a_row_that_cannot_be_read_is_named(count: int, anchored_by: str, body: str) -> None:
    whole = case(count, anchored_by)
    for number, key in enumerate(whole.keys, 1):
        whole.finds(whole.rows | {key: body}, number)


@every_chain
@pytest.mark.parametrize(
    "tail",
    [
        "abc",
        "",
        "0000000000",
        "1",
        "4",
        "00000000001",
        "00000000004",
        "000000000\u00b2",
        "+000000001",
        "\u0660" * 9 + "\u0664",
        "0000000001|x",
    ],
)
def test_a_row_with_an_odd_key_is_found(anchored_by: str, tail: str) -> None:
    whole = case(3, anchored_by)
    start = whole.keys[0][:-10]
    for body in ("no JSON", whole.rows[whole.keys[0]]):
        rows = whole.rows | {start + tail: body}
        whole.finds(rows, 3)
        found = whole.verify(rows)
        assert found.first is not None
        assert f"a row that is none of the chain was added: '{start + tail}'" in found.first.problem


@every_chain
@pytest.mark.parametrize("key", ["", "zzz", "run", "run|", "run|x", "run||0000000001", "RUN|x|0000000001"])
def test_a_row_of_no_chain_is_found_and_named(anchored_by: str, key: str) -> None:
    whole = case(3, anchored_by)
    for body in ("no JSON", whole.rows[whole.keys[0]]):
        found = whole.verify(whole.rows | {key: body})
        assert found.verdict == "broken"
        assert found.first is not None


@pytest.mark.parametrize("key", ["", "zzz"])
def test_a_row_of_no_chain_does_not_hide_the_entry_that_was_edited(key: str) -> None:
    whole = case(3, "history")
    rows = deepcopy(whole.rows) | {key: "no JSON"}
    entry_at(rows, whole.keys[1])["actor"] = "Mallory"
    found = whole.verify(rows)
    assert found.first is not None
    assert (found.first.run, found.first.number) == (RUN, 2)


@pytest.mark.parametrize("place", [4, 5, 1000, 9_999_999_999])
@pytest.mark.parametrize("anchored_by", ["history", "history known", "purge"])
def test_a_row_after_the_end_is_named(anchored_by: str, place: int) -> None:
    whole = case(3, anchored_by)
    forged = run_entries(place)[-1] if place < 10 else run_entries(1)[0].model_copy(update={"number": place})
    for body in ("no JSON", {"entry": forged.plain()}):
        whole.finds(whole.rows | {trail.run_key(RUN, place): body}, place)


@every_chain
@every_length
def test_a_comment_that_was_taken_out_quietly_is_named(count: int, anchored_by: str) -> None:
    whole = case(count, anchored_by)
    for number, key in enumerate(whole.keys, 1):
        if "comment" in entry_at(whole.rows, key):
            rows = deepcopy(whole.rows)
            del entry_at(rows, key)["comment"], entry_at(rows, key)["salt"]
            whole.finds(rows, number)


@pytest.mark.parametrize("changed", [{"comment": "No!"}, {"salt": "f" * 32}, {"salt": None}, {"comment": None}])
@every_chain
def test_a_comment_or_a_salt_that_was_changed_alone_is_named(anchored_by: str, changed: dict[str, Any]) -> None:
    whole = case(5, anchored_by)
    for number in (1, 3, 5):
        rows = deepcopy(whole.rows)
        entry_at(rows, whole.keys[number - 1]).update(changed)
        whole.finds(rows, number)


# Entries on their way


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_entries_on_their_way_accuse_nobody(count: int) -> None:
    entries = run_entries(count)
    for stored in range(count + 1):
        for there in (stored, count):
            found = verify(read(rows_of(entries[:there])), "one", head(entries, stored), hashes(entries[:stored]), [])
            assert (found.verdict, found.first) == ("intact", None)
            (chain,) = found.chains
            assert (chain.pending, chain.entries, chain.anchored_by) == (count - there, there, "history")


@pytest.mark.parametrize("count", [2, 5, 8])
def test_below_what_was_stored_nothing_is_on_its_way(count: int) -> None:
    entries = run_entries(count)
    for stored in range(1, count + 1):
        for there in range(stored):
            found = verify(read(rows_of(entries[:there])), "one", head(entries, stored), {}, [])
            assert found.first is not None
            assert (found.verdict, found.first.number) == ("broken", there + 1)
            assert [chain.pending for chain in found.chains] == [0], "what was removed is not on its way"
            assert "removed" in found.first.problem


def test_while_entries_are_on_their_way_the_head_vouches_for_none_of_those_that_are_there() -> None:
    entries = run_entries(4)
    rows = rows_of(entries[:3])
    entry_at(rows, trail.run_key(RUN, 2))["actor"] = "Mallory"
    relink(rows, in_series("run", 3), 1)
    tampered = read(rows)
    found = verify(tampered, "one", head(entries, 3), {}, [])
    assert (found.verdict, found.chains[0].anchored_by, found.chains[0].pending) == ("unanchored", None, 1)
    known = verify(tampered, "one", head(entries, 3), hashes(entries[:3]), [])
    assert known.first is not None
    assert (known.verdict, known.first.number) == ("broken", 2)


def test_a_forged_entry_in_the_place_of_one_on_its_way_is_not_vouched_for() -> None:
    entries = run_entries(5)
    forged = chained(entries[2], salt=SALT, at=AT, action="ended", instance_id="one", series="run", run=RUN)
    found = verify(read(rows_of(entries[:3], [forged])), "one", head(entries, 3), hashes(entries[:3]), [])
    assert found.verdict == "unanchored"
    found = verify(read(rows_of(entries[:3], [forged])), "one", head(entries[:4], 3), hashes(entries[:3]), [])
    assert found.first is not None
    assert (found.verdict, found.first.number) == ("broken", 4)


def test_a_gap_before_one_that_arrived_is_no_delay() -> None:
    entries = run_entries(5)
    rows = rows_of(entries[:3], [entries[4]])
    found = verify(read(rows), "one", head(entries, 3), {}, [])
    assert found.first is not None
    assert (found.first.number, found.first.problem) == (4, "it was removed")


def test_all_rows_of_a_run_that_is_there_were_removed() -> None:
    found = verify(read({}), "one", head(run_entries(3)), {}, [])
    assert found.first is not None
    assert (found.verdict, found.first.number, found.first.run) == ("broken", 1, RUN)


def test_there_is_nothing_to_verify() -> None:
    for live in (None, TrailHead(run=RUN, entries=0, stored=0, head=GENESIS)):
        found = verify(read({}), "one", live, {}, [])
        assert (found.verdict, found.chains) == ("intact", [])


# Several runs, and what vouches for them


def test_nothing_vouches_for_a_run_that_is_gone_without_a_note() -> None:
    found = verify(read(rows_of(run_entries(3))), "one", None, {}, [])
    assert (found.verdict, found.first) == ("unanchored", None)
    assert (found.chains[0].verdict, found.chains[0].anchored_by) == ("unanchored", None)


def test_each_run_is_vouched_for_by_its_own() -> None:
    first, second, third = run_entries(3, run=EARLIER_RUN), run_entries(2), run_entries(4, run=OTHER_RUN)
    note = purged(first)
    rows = rows_of(first, second, third, [note])
    found = verify(read(rows), "one", head(third), hashes(third), [])
    assert [(chain.run, chain.verdict, chain.anchored_by) for chain in found.chains] == [
        (EARLIER_RUN, "intact", "purge"),
        (RUN, "unanchored", None),
        (OTHER_RUN, "intact", "history"),
        (None, "unanchored", None),
    ]
    assert found.verdict == "unanchored"
    both = rows_of(first, second, third, [note, purged(second, note)])
    assert verify(read(both), "one", head(third), hashes(third), []).verdict == "intact"


def test_the_run_that_was_tampered_with_is_named_and_the_others_are_not() -> None:
    chains = {run: run_entries(3, run=run) for run in (EARLIER_RUN, RUN, OTHER_RUN)}
    first = purged(chains[EARLIER_RUN])
    notes = [first, purged(chains[RUN], first)]
    live = head(chains[OTHER_RUN])
    for run in chains:
        for number in (1, 2, 3):
            rows = rows_of(*chains.values(), notes)
            entry_at(rows, trail.run_key(run, number))["actor"] = "Mallory"
            found = verify(read(rows), "one", live, {}, [])
            assert found.first is not None
            assert (found.first.run, found.first.number) == (run, number)
            assert [chain.run for chain in found.chains if chain.verdict == "broken"] == [run]


def test_of_several_that_were_tampered_with_the_first_is_named() -> None:
    chains = [run_entries(3), run_entries(3, run=OTHER_RUN), app_entries(3)]
    rows = rows_of(*chains)
    for key in [*in_series("run", 3)[1:], *in_series("run", 3, OTHER_RUN), *in_series("app", 3)]:
        entry_at(rows, key)["actor"] = "Mallory"
    found = verify(read(rows), "one", None, {}, [])
    assert found.first is not None
    assert (found.first.run, found.first.number) == (RUN, 2)
    assert [chain.verdict for chain in found.chains] == ["broken"] * 3


def test_the_whole_run_that_a_purge_vouches_for_was_removed() -> None:
    entries = run_entries(3)
    found = verify(read(rows_of([purged(entries)])), "one", None, {}, [])
    assert found.first is not None
    assert (found.first.run, found.first.number, found.first.problem) == (RUN, 1, "it was removed")


def test_a_purge_that_was_noted_before_the_instance_was_gone_accuses_nobody() -> None:
    entries = run_entries(3)
    found = verify(read(rows_of(entries, [purged(entries)])), "one", head(entries), {}, [])
    assert (found.verdict, found.chains[0].anchored_by) == ("intact", "history")


# Seals


@pytest.mark.parametrize("keys", [[KEY], [KEY, OLD_KEY], [OLD_KEY, KEY]])
def test_a_seal_of_each_key_counts(keys: list[str]) -> None:
    entries = run_entries(3)
    found = verify(read(rows_of(entries, [purged(entries)], keys=[KEY])), "one", None, {}, keys)
    assert (found.verdict, found.sealed) == ("intact", True)


def test_keys_take_turns_within_a_chain() -> None:
    entries = app_entries(4)
    rows = rows_of(entries[:2], keys=[OLD_KEY]) | rows_of(entries[2:], keys=[KEY, OLD_KEY])
    found = verify(read(rows), "one", None, {}, [KEY, OLD_KEY])
    assert (found.first, found.sealed) == (None, True)
    found = verify(read(rows), "one", None, {}, [KEY])
    assert found.first is not None
    assert (found.verdict, found.first.number, found.first.problem) == ("broken", 1, "its seal is not the app's")


@pytest.mark.parametrize("seal", ["0" * 64, "", "é", 5, [], trail.seal_of(app_entries(1)[0], OLD_KEY)])
def test_a_seal_that_is_not_ours_is_named(seal: Any) -> None:
    for number in (1, 2, 3):
        rows = rows_of(app_entries(3), keys=[KEY])
        rows[trail.app_key(number)]["seal"] = seal
        found = verify(read(rows), "one", None, {}, [KEY])
        assert found.first is not None
        assert (found.verdict, found.first.series, found.first.number) == ("broken", "app", number)
        assert "seal" in found.first.problem


def test_a_seal_is_for_one_entry_and_no_other() -> None:
    rows = rows_of(app_entries(3), keys=[KEY])
    rows[trail.app_key(2)]["seal"] = rows[trail.app_key(1)]["seal"]
    found = verify(read(rows), "one", None, {}, [KEY])
    assert found.first is not None
    assert found.first.number == 2


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_seal_that_was_taken_off_shows(number: int) -> None:
    rows = rows_of(app_entries(3), keys=[KEY])
    del rows[trail.app_key(number)]["seal"]
    found = verify(read(rows), "one", None, {}, [KEY])
    assert (found.first, found.sealed) == (None, False)  # from before there was a key, as far as one can know


def test_without_a_key_no_seal_is_looked_at() -> None:
    rows = rows_of(app_entries(2), keys=[KEY])
    rows[trail.app_key(2)]["seal"] = "0" * 64
    found = verify(read(rows), "one", None, {}, [])
    assert (found.first, found.sealed) == (None, None)


@pytest.mark.parametrize("seal", [None, "0" * 64, "", "of another key"])
def test_a_purge_without_a_seal_of_ours_vouches_for_nothing(seal: str | None) -> None:
    real = run_entries(3)
    forged = run_entries(3, actor="Mallory")
    note = purged(forged)
    rows = rows_of(forged, [note])
    if seal is not None:
        rows[trail.app_key(1)]["seal"] = trail.seal_of(note, OLD_KEY) if seal == "of another key" else seal
    found = verify(read(rows), "one", None, {}, [KEY])
    assert found.verdict == ("unanchored" if seal is None else "broken")
    assert (found.chains[0].verdict, found.chains[0].anchored_by) == ("unanchored", None)
    assert found.sealed is (seal is not None)
    assert verify(read(rows_of(real, [purged(real)], keys=[KEY])), "one", None, {}, [KEY]).verdict == "intact"


@pytest.mark.parametrize("keys", [[], [KEY]])
def test_a_purge_whose_anchor_was_edited_vouches_for_nothing(keys: list[str]) -> None:
    forged = run_entries(3, actor="Mallory")
    rows = rows_of(forged, [purged(run_entries(3))], keys=keys)
    entry_at(rows, trail.app_key(1))["anchor"]["head"] = forged[-1].hash
    found = verify(read(rows), "one", None, {}, keys)
    assert found.first is not None
    assert (found.first.series, found.first.number) == ("app", 1)
    assert [(chain.verdict, chain.anchored_by) for chain in found.chains] == [("unanchored", None), ("broken", None)]


def test_the_sealed_note_of_another_instance_vouches_for_nothing_here() -> None:
    theirs = run_entries(3, instance_id="two")
    rows = rows_of(run_entries(3, actor="Mallory"), [purged(theirs)], keys=[KEY])
    found = verify(read(rows), "one", None, {}, [KEY])
    assert found.verdict == "broken"


# Erasures


def erase(rows: Rows) -> Rows:
    """Take all comments out."""
    rows = deepcopy(rows)
    for body in rows.values():
        if "comment" in body["entry"]:
            del body["entry"]["comment"], body["entry"]["salt"]
    return rows


def test_an_erasure_that_is_noted_is_none_to_accuse() -> None:
    entries = run_entries(5)
    rows = erase(rows_of(entries)) | rows_of([erased_note(*entries[::2])])
    found = verify(read(rows), "one", head(entries), {}, [])
    assert (found.verdict, found.erased) == ("intact", 3)


@pytest.mark.parametrize("keys", [[], [KEY]])
def test_an_erasure_is_noted_for_one_run(keys: list[str]) -> None:
    entries, others = run_entries(3), run_entries(3, run=OTHER_RUN)
    rows = erase(rows_of(entries, others)) | rows_of([erased_note(*others)], keys=keys)
    found = verify(read(rows), "one", head(entries), {}, keys)
    assert found.first is not None
    assert (found.first.run, found.first.number, found.erased) == (RUN, 1, 4)
    assert "comment was taken out" in found.first.problem


@pytest.mark.parametrize("keys", [[], [KEY]])
@pytest.mark.parametrize("quiet", [1, 3, 5])
def test_a_comment_that_no_erasure_names_is_found_beside_those_that_one_does(keys: list[str], quiet: int) -> None:
    entries = run_entries(5)
    first, *more = [entry for entry in entries[::2] if entry.number != quiet]
    one = erased_note(first)
    notes = [one, erased_note(*more, previous=one)]
    rows = erase(rows_of(entries)) | rows_of(notes, keys=keys)
    found = verify(read(rows), "one", head(entries), hashes(entries), keys)
    assert found.first is not None
    assert (found.verdict, found.first.run, found.first.number, found.erased) == ("broken", RUN, quiet, 3)
    assert "no erasure is noted" in found.first.problem


@pytest.mark.parametrize("keys", [[], [KEY]])
def test_an_erasure_from_before_does_not_cover_a_comment_that_came_later(keys: list[str]) -> None:
    entries, late = run_entries(3), app_entries(1)
    note = erased_note(*entries, previous=late[-1])
    more = chained(note, salt=SALT, at=AT, action="late", comment="Me too", instance_id="one", series="app", run=RUN)
    rows = erase(rows_of(entries)) | rows_of(late, [note], keys=keys) | erase(rows_of([more], keys=keys))
    found = verify(read(rows), "one", head(entries), {}, keys)
    assert found.first is not None
    assert (found.first.series, found.first.number, found.erased) == ("app", 3, 3)


@pytest.mark.parametrize("named", [None, []])
def test_an_erasure_that_names_no_rows_covers_none(named: list[str] | None) -> None:
    entries = run_entries(3)
    rows = erase(rows_of(entries)) | rows_of([erased_note()])
    entry_at(rows, trail.app_key(1))["erasure"] = named
    rehash(entry_at(rows, trail.app_key(1)))
    found = verify(read(rows), "one", head(entries), {}, [])
    assert found.first is not None
    assert (found.first.series, found.first.number) == ("run", 1)


def test_a_comment_of_the_apps_own_is_erased_with_a_note_too() -> None:
    entries = app_entries(3)
    note = erased_note(*entries, previous=entries[-1])
    found = verify(read(erase(rows_of(entries, [note]))), "one", None, {}, [])
    assert (found.first, found.erased) == (None, 2)
    wrong = erased_note(*run_entries(3), previous=entries[-1])
    found = verify(read(erase(rows_of(entries, [wrong]))), "one", None, {}, [])
    assert found.first is not None
    assert (found.first.series, found.first.run, found.first.number) == ("app", None, 1)


def test_a_note_of_an_erasure_without_a_seal_accuses_nobody_and_vouches_for_nothing() -> None:
    entries = run_entries(3)
    note = erased_note(*entries)
    rows = erase(rows_of(entries)) | rows_of([note])
    found = verify(read(rows), "one", head(entries), hashes(entries), [KEY])
    assert (found.verdict, found.first, found.sealed) == ("unanchored", None, False)
    rows = erase(rows_of(entries)) | rows_of([note], keys=[KEY])
    found = verify(read(rows), "one", head(entries), hashes(entries), [KEY])
    assert (found.verdict, found.sealed) == ("intact", True)


def test_a_note_of_an_erasure_that_was_edited_covers_nothing() -> None:
    entries = run_entries(3)
    rows = erase(rows_of(entries)) | rows_of([erased_note(entries[2])], keys=[KEY])
    entry_at(rows, trail.app_key(1))["erasure"].append(trail.key_of(entries[0]))
    for keys in ([], [KEY]):
        found = verify(read(rows), "one", head(entries), {}, keys)
        assert found.first is not None
        assert (found.first.series, found.first.number) == ("run", 1)
        assert [chain.verdict for chain in found.chains] == ["broken", "broken"]


# Heads that say more than there is


@pytest.mark.parametrize("many", [10**9, 10**30])
@pytest.mark.parametrize("there", [0, 3])
def test_a_head_of_a_thousand_million_entries_is_told_from_what_is_there(many: int, there: int) -> None:
    forged = TrailHead(run=RUN, entries=many, stored=many, head="1" * 64)
    note = chained(None, salt=None, at=AT, action="purged", instance_id="one", series="app", run=RUN, anchor=forged)
    entries = run_entries(there)
    for live, notes in ((forged, []), (None, [note]), (forged, [note])):
        found = verify(read(rows_of(entries, notes)), "one", live, {}, [])
        assert found.first is not None
        assert (found.first.run, found.first.number, found.first.problem) == (RUN, there + 1, "it was removed")


# Whatever the rows hold

TEXT = st.text(max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=10,
)
KEYS = st.one_of(
    st.sampled_from([*in_series("run", 4), *in_series("app", 4), "zzz", "run", "app", "app|abc", f"run|{RUN}|abc"]),
    st.text(max_size=20),
)
EDITS = st.dictionaries(
    st.sampled_from([*Entry.model_fields, "more"]), JSON | st.sampled_from(["\ud800", GENESIS]), max_size=4
)
REAL = [*run_entries(4), *app_entries(2), purged(run_entries(4), app_entries(2)[-1]), erased_note(*run_entries(4))]
BODIES = st.one_of(
    TEXT,
    JSON.map(json.dumps),
    st.tuples(st.sampled_from(REAL), EDITS, JSON).map(
        lambda drawn: json.dumps({"entry": drawn[0].plain() | drawn[1], "seal": drawn[2]})
    ),
)
HEADS = st.builds(
    TrailHead,
    run=st.sampled_from([RUN, OTHER_RUN]),
    entries=st.integers(0, 6),
    stored=st.integers(0, 6),
    head=st.sampled_from([GENESIS, *(entry.hash for entry in REAL)]),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(rows=st.dictionaries(KEYS, BODIES, max_size=6), live=st.none() | HEADS, keys=st.sampled_from([[], [KEY]]))
def test_verifying_never_fails_whatever_the_rows_hold(
    rows: dict[str, str], live: TrailHead | None, keys: list[str]
) -> None:
    found = verify(read_any(rows), "one", live, {1: GENESIS}, keys)
    assert (found.verdict == "broken") == (found.first is not None)
    assert (found.verdict == "broken") == any(chain.verdict == "broken" for chain in found.chains)
    json.dumps([chain.run for chain in found.chains])


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(key=KEYS, body=BODIES, anchored_by=st.sampled_from(ANCHORS))
def test_no_row_can_be_changed_unseen(key: str, body: str, anchored_by: str) -> None:
    whole = case(3, anchored_by)
    if not "" <= key < trail.END:
        return  # nobody is shown a row there
    rows = {name: json.dumps(document) for name, document in whole.rows.items()}
    before, after = read_any(rows), read_any(rows | {key: body})
    found = verify(after, "one", whole.live, whole.known, whole.audit_keys)
    shown = [kept.entry for chain in (*before.runs.values(), before.app) for kept in chain]
    if [kept.entry for chain in (*after.runs.values(), after.app) for kept in chain] == shown:
        return
    assert found.verdict != "intact" or all(
        chain.verdict == "intact" for chain in found.chains if chain.series == "run"
    )
    if key.startswith("run"):
        assert found.verdict != "intact"


# Nobody who is innocent

COMMENTS = st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20)


@st.composite
def histories(draw: st.DrawFn) -> tuple[dict[str, str], TrailHead | None, dict[int, str], list[str], bool]:
    """Rows as the app writes them over the life of an instance id; its head, its history, the app's keys, and whether
    something vouches for every run."""
    keys = draw(st.sampled_from([[], [KEY], [KEY, OLD_KEY]]))
    rows: dict[str, str] = {}
    notes: list[Entry] = []
    live: TrailHead | None = None
    known: dict[int, str] = {}
    anchored = True

    def put(entry: Entry, *, erased: bool = False) -> None:
        change = trail.stored(entry, keys if entry.series == "app" else ())
        document = json.loads(change.body)
        if erased:
            document["entry"].pop("comment", None)
            if entry.comment_sha256 is not None:
                document["entry"].pop("salt", None)
        rows[change.key] = json.dumps(document)

    def note(**said: Any) -> None:
        whole: dict[str, Any] = {"instance_id": "one", "series": "app", "at": AT, "salt": SALT}
        notes.append(chained(notes[-1] if notes else None, **whole | said))

    erased_rows: set[str] = set()
    runs = draw(st.lists(st.sampled_from([EARLIER_RUN, RUN, OTHER_RUN]), unique=True, max_size=3))
    for place, run in enumerate(sorted(runs), 1):
        entries: list[Entry] = []
        for _ in range(draw(st.integers(1, 8))):
            whole: dict[str, Any] = {"instance_id": "one", "series": "run", "run": run, "at": AT, "action": "decided"}
            salt = draw(st.sampled_from([None, SALT]))
            payload = draw(st.none() | st.integers())
            entries.append(
                chained(entries[-1] if entries else None, salt=salt, comment=draw(COMMENTS), payload=payload, **whole)
            )
        for _ in range(draw(st.integers(0, 2))):
            note(action="late", run=run, comment=draw(COMMENTS), payload=draw(st.none() | st.integers()))
        if draw(st.booleans()):
            named = [trail.key_of(entry) for entry in (*entries, *notes) if entry.comment and draw(st.booleans())]
            erased_rows.update(named)
            note(action="erased", run=run, actor="Dora", erasure=named)
        there = len(entries)
        if place == len(runs) and draw(st.booleans()):
            stored = draw(st.integers(0, len(entries)))
            there = draw(st.sampled_from([stored, len(entries)]))
            live, known = head(entries, stored), hashes(entries[: max(stored, there)])
        elif draw(st.booleans()):
            last = entries[-1]
            anchor = TrailHead(run=run, entries=len(entries), stored=len(entries), head=last.hash)
            note(action="ended", run=run, after="terminated")
            note(action="purged", run=run, anchor=anchor)
        else:
            anchored = False
        for entry in entries[:there]:
            put(entry, erased=trail.key_of(entry) in erased_rows and draw(st.booleans()))
    for entry in notes:
        put(entry, erased=trail.key_of(entry) in erased_rows and draw(st.booleans()))
    return rows, live, known, keys, anchored


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(histories())
def test_a_trail_that_nobody_touched_is_never_accused(
    history: tuple[dict[str, str], TrailHead | None, dict[int, str], list[str], bool],
) -> None:
    rows, live, known, keys, anchored = history
    found = verify(read_any(rows), "one", live, known, keys)
    assert found.first is None, found
    assert found.verdict == ("intact" if anchored else "unanchored")
    assert found.sealed is (True if keys else None)
    # Without the history less is vouched for, but nobody is accused.
    assert verify(read_any(rows), "one", live, {}, keys).first is None
