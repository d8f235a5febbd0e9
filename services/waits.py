"""Open waits: who waits on whom since when.

A wait stands in the partition of its instance, from when it is opened until its run is purged, and while it is open in
indexes too, each a partition of its own:

    partition               key                                         holds
    wait:<instance>         <run>|<number>                              the wait, with ``open`` or ``closed``
    open|since              <since>|<instance>|<run>|<number>           all open waits, oldest first
    open|due                <deadline>|<instance>|<run>|<number>        all open waits, first due first
    kind:<kind>|since, |due                                             those of one workflow
    person:<who>|since, |due                                            those that one person is asked in
    group:<group>|since, |due                                           those that have one cause

Times are of one width, so that their texts sort as they do. ``person`` is the address in lower case (case-folded). Each
index row holds the whole wait: a page of a list is one range of one partition. What a list asks for besides (the kind
of one person's waits, the age of those that are overdue) is looked at row by row within that range.
"""

import base64
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from contracts.audit import digest_of
from contracts.base import as_utc_text
from contracts.records import Wait
from services.record_store import Change, RecordStore, Row, key_after, key_part

NEVER = "9999-12-31T23:59:59.999Z"
SINCE, DUE = "since", "due"
END = "}"
"""Sorts after all that follows a time in a key."""
READ_ON = 500
"""Rows that are read at a time where the first of them were not enough, as not all fit that are in the range."""
LONGEST_CONTINUATION = 1000

_PLACE = re.compile(r"[0-9TZ:.-]{24}\|[A-Za-z0-9_.:@=~-]{1,200}\|[0-9TZ]{22}\|[0-9]{6,10}")
"""A key in an index: not every text can be one in every store."""

_LOGGER = logging.getLogger(__name__)


class BadContinuation(ValueError):
    """The continuation token is none of this list's."""


@dataclass(frozen=True)
class WaitQuery:
    """Which open waits: of one workflow, on one person, of one group, overdue (or not yet), older than a time.

    Oldest first; with ``overdue`` given, by deadline: longest overdue first, or next due first.
    """

    kind: str | None = None
    person: str | None = None
    overdue: bool | None = None
    older_than: datetime | None = None
    group: str | None = None


def opened(wait: Wait) -> list[Change]:
    """The changes that open a wait. The first is an insert, which fails where the wait was opened or closed before."""
    body = _text(wait.plain())
    main = Change("insert", _partition(wait.instance_id), _key(wait), _text({"open": True, "wait": wait.plain()}))
    return [main, *(Change("put", partition, key, body) for partition, key in _indexes(wait))]


def closed(wait: Wait) -> list[Change]:
    """The changes that close a wait, for good, whether it was opened or not."""
    main = Change("put", _partition(wait.instance_id), _key(wait), _text({"open": False, "wait": wait.plain()}))
    return [main, *(Change("delete", partition, key) for partition, key in _indexes(wait))]


def reopened(wait: Wait) -> list[Change]:
    """The changes that open a wait that was closed."""
    first, *rest = opened(wait)
    return [Change("put", first.partition, first.key, first.body), *rest]


def is_closed(row: Row) -> bool:
    """Whether a row in the partition of an instance is that of a closed wait."""
    wait, is_open = _main(row)
    return wait is not None and not is_open


def of_instance(store: RecordStore, instance_id: str) -> list[tuple[Wait, bool]]:
    """Return the waits of an instance, each with whether it is open."""
    found = [_main(row) for row in rows_of(store, _partition(instance_id), "", END, 1000)]
    return [(wait, is_open) for wait, is_open in found if wait is not None and wait.instance_id == instance_id]


def is_listed(store: RecordStore, wait: Wait) -> bool:
    """Whether an open wait stands in all indexes, as it is."""
    rows = (store.get(partition, key) for partition, key in _indexes(wait))
    return all(row is not None and row.body == _text(wait.plain()) for row in rows)


def forget(store: RecordStore, instance_id: str) -> None:
    """Forget the waits of an instance that is purged, open ones too."""
    for wait, _ in of_instance(store, instance_id):
        _, *indexes = closed(wait)
        store.write([*indexes, Change("delete", _partition(instance_id), _key(wait))])


def window(store: RecordStore, start: str | None, limit: int) -> tuple[list[Wait], str | None]:
    """Return open waits of all workflows from ``start`` on, and where the next window starts, or None at the end."""
    rows = store.range(f"open|{SINCE}", start or "", END, limit)
    found = [wait for row in rows if (wait := _wait(row, SINCE)) is not None]
    return found, key_after(rows[-1].key) if len(rows) == limit else None


def oldest_first(store: RecordStore, start: str, first: int) -> Iterator[tuple[str, Wait | None]]:
    """Give the open waits of all workflows from ``start`` on as they are needed, each with its key; None where a row
    cannot be read."""
    for row in rows_of(store, f"open|{SINCE}", start, END, first):
        yield row.key, _wait(row, SINCE)


def page(
    store: RecordStore, query: WaitQuery, limit: int, continuation: str | None, now: datetime
) -> tuple[list[Wait], str | None]:
    """Return up to ``limit`` open waits, and what continues the list, or None at its end.

    A continuation names the last wait that was given, so that what is opened or closed between two pages neither hides
    another wait nor shows it twice. Raises ``BadContinuation``.
    """
    partition, start, end = _range(query, now)
    if continuation is not None:
        start = max(start, _after(continuation, query))
    found: list[tuple[str, Wait]] = []
    for row in rows_of(store, partition, start, end, limit + 1):
        wait = _wait(row, DUE if partition.endswith(DUE) else SINCE)
        if wait is not None and _fits(wait, query):
            found.append((row.key, wait))
        if len(found) > limit:
            return [wait for _, wait in found[:limit]], _continuation(found[limit - 1][0], query)
    return [wait for _, wait in found], None


def _wait(row: Row, order: str) -> Wait | None:
    """The wait in a row of an index; None, and an error in the log, for a row that no writer makes."""
    try:
        wait = Wait.model_validate_json(row.body)
        if row.key == _index_keys(wait)[order]:
            return wait
    except (ValueError, OverflowError, TypeError):
        pass
    _LOGGER.error("The row %r of the open waits cannot be read.", row.key)
    return None


def _main(row: Row) -> tuple[Wait | None, bool]:
    """The wait in the partition of its instance, and whether it is open; None where the row cannot be read."""
    try:
        document = json.loads(row.body)
        wait = Wait.model_validate(document["wait"])
        _index_keys(wait)  # raises for times that cannot be told, by which no list could show it
        if row.key == _key(wait):
            return wait, document["open"] is True
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        pass
    _LOGGER.error("The wait %r of an instance cannot be read.", row.key)
    return None, False


def rows_of(store: RecordStore, partition: str, start: str, end: str, first: int) -> Iterator[Row]:
    """Give the rows of a range as they are needed: ``first`` of them are read at once."""
    limit = first
    while rows := store.range(partition, start, end, limit):
        yield from rows
        if len(rows) < limit:
            return
        following = key_after(rows[-1].key)
        if following is None:
            return
        start, limit = following, READ_ON


def _range(query: WaitQuery, now: datetime) -> tuple[str, str, str]:
    scope = "open"
    if query.group is not None:
        scope = f"group:{key_part(query.group)}"
    elif query.person is not None:
        scope = f"person:{_person(query.person)}"
    elif query.kind is not None:
        scope = f"kind:{key_part(query.kind)}"
    if query.overdue is None:
        return f"{scope}|{SINCE}", "", as_utc_text(query.older_than) if query.older_than is not None else END
    passed = as_utc_text(now) + END
    return (f"{scope}|{DUE}", "", passed) if query.overdue else (f"{scope}|{DUE}", passed, END)


def _fits(wait: Wait, query: WaitQuery) -> bool:
    of_kind = query.kind is None or wait.kind == query.kind
    if query.group is not None and query.person is not None:
        of_kind = of_kind and _person(query.person) in map(_person, wait.people)
    # As texts, which are to the millisecond, as the keys are.
    return of_kind and (query.older_than is None or as_utc_text(wait.since) < as_utc_text(query.older_than))


def _continuation(key: str, query: WaitQuery) -> str:
    return base64.urlsafe_b64encode(json.dumps([_digest(query), key]).encode()).decode().rstrip("=")


def _after(continuation: str, query: WaitQuery) -> str:
    if len(continuation) > LONGEST_CONTINUATION:
        raise BadContinuation
    try:
        padded = continuation + "=" * (-len(continuation) % 4)
        digest, key = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, TypeError):
        raise BadContinuation from None
    if digest != _digest(query) or not isinstance(key, str) or not _PLACE.fullmatch(key):
        raise BadContinuation
    return key + " "


def _digest(query: WaitQuery) -> str:
    # The moment that ages are counted from moves on from page to page; what is asked for stays the same.
    person = query.person and _person(query.person)
    asked = [query.kind, person, query.overdue, query.older_than is not None]
    return digest_of(asked if query.group is None else [*asked, query.group])[:16]


def _indexes(wait: Wait) -> list[tuple[str, str]]:
    """The rows of a wait in the indexes.

    The last is the one that is looked through for what has to be healed: where partitions are written one after
    another, none of the other rows is there without it for long.
    """
    people = dict.fromkeys(f"person:{_person(each)}" for each in wait.people)
    group = [f"group:{wait.group}"] if wait.group is not None else []
    scopes = [f"kind:{key_part(wait.kind)}", *people, *group, "open"]
    return [(f"{scope}|{order}", key) for scope in scopes for order, key in _index_keys(wait).items()]


def _index_keys(wait: Wait) -> dict[str, str]:
    """The keys of a wait in the indexes, by their order."""
    due = as_utc_text(wait.deadline) if wait.deadline is not None else NEVER
    rest = f"{key_part(wait.instance_id)}|{_key(wait)}"
    return {DUE: f"{due}|{rest}", SINCE: f"{as_utc_text(wait.since)}|{rest}"}


def _partition(instance_id: str) -> str:
    return f"wait:{key_part(instance_id)}"


def _key(wait: Wait) -> str:
    return f"{wait.run}|{wait.number:06d}"


def _person(address: str) -> str:
    return key_part(address.strip().casefold())


def _text(body: dict[str, Any]) -> str:
    return json.dumps(body, ensure_ascii=False)  # escapes would make it six times as long, too long for a row
