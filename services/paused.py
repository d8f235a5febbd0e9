"""The list of what is paused: by hand, and because it waits for people.

    partition        key                                   holds
    paused|since     <paused at>|<instance>|<number>       a run that is paused by hand, an ``Execution``, oldest first
    paused|of        <instance>                            the key of its row in ``paused|since``

What waits for people stands in the open waits (``services.waits``), whose keys begin with a time too: both are read as
one list, in the order of their keys.
"""

import base64
import heapq
import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import batched

from contracts.audit import digest_of
from contracts.base import as_utc_text, path_to
from contracts.execution import Execution
from contracts.records import Wait
from services import waits
from services.record_store import Change, RecordStore, Row, key_after, key_part
from services.waits import END, LONGEST_CONTINUATION, BadContinuation

SINCE, OF = "paused|since", "paused|of"
MAX_LOOKED_AT = 2_000
"""Rows that are looked at for one page at most, as not all fit that are asked for."""
AWAITING = {
    "approval": "Awaiting approval",
    "purchase_order": "Awaiting approval",
    "guarded_call": "Awaiting intervention",
    "manual_intervention": "Awaiting intervention",
    "refund": "Awaiting ready",
    "signup": "Awaiting verification",
}
"""Why a run is paused that waits for people, by its workflow. A declared one says itself why, unless what it has
called waits."""

DECLARED = "workflow"
"""The orchestrator of the declared workflows."""
DECLARED_PATH = "/api/v1/executions/{}"
_PLACE = re.compile(r"[0-9TZ:.-]{24}\|[A-Za-z0-9_.:@=~-]{1,200}(?:\|[0-9TZ]{22})?\|[0-9]{6,10}")

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class PausedQuery:
    """Which runs: of one workflow, created within a time."""

    workflow: str | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None

    def fits(self, execution: Execution) -> bool:
        """Whether a run is one of them."""
        created = execution.created_at
        return (
            (self.workflow is None or self.workflow in (execution.workflow, execution.workflow_id))
            and (self.created_from is None or (created is not None and created >= self.created_from))
            and (self.created_to is None or (created is not None and created < self.created_to))
        )


@dataclass(frozen=True)
class Listed:
    """A run that is paused by hand, as it stands in the list under a key, and which of its pauses that is."""

    execution: Execution
    number: int
    key: str


def added(store: RecordStore, execution: Execution, number: int) -> list[Change]:
    """The changes that put a pause into the list, in place of one of before; the same again changes nothing.

    A run that waits for people keeps the place that it has in the list: so the wait, which is not shown beside the
    pause, stands next to it, and however many are paused, no page has to read past the waits of them all.
    """
    key = _key(execution, number, _waiting_since(store, execution))
    index = store.get(OF, _part(execution.id))
    stale = [Change("delete", SINCE, index.body)] if index is not None and index.body != key else []
    body = json.dumps(execution.plain(), ensure_ascii=False)
    return [*stale, Change("put", SINCE, key, body), Change("put", OF, _part(execution.id), key)]


def removed(store: RecordStore, instance_id: str, number: int | None = None) -> list[Change]:
    """The changes that take a pause out of the list: this one, or whichever is there."""
    index = store.get(OF, _part(instance_id))
    if index is None or (number is not None and not index.body.endswith(f"|{number:06d}")):
        return []
    # The index first: with it alone, what the run waits for would be hidden by a pause that is over.
    return [Change("delete", OF, _part(instance_id)), Change("delete", SINCE, index.body)]


def unlisted(store: RecordStore, listed: Listed) -> list[Change]:
    """The changes that take this very row off the list, also where a crash has left nothing but it."""
    row = Change("delete", SINCE, listed.key)
    return [*removed(store, listed.execution.id, listed.number), row]


def forget(store: RecordStore, instance_id: str) -> None:
    """Take an instance out of the list that has ended."""
    store.write(removed(store, instance_id))


def is_listed(store: RecordStore, instance_id: str) -> bool:
    """Whether a run stands in the list as paused by hand."""
    return store.get(OF, _part(instance_id)) is not None


def by_hand(store: RecordStore, instance_ids: Sequence[str]) -> dict[str, Execution]:
    """Return those of some runs that are paused by hand, as they stand in the list."""
    places = store.get_all(OF, [_part(each) for each in instance_ids])
    rows = store.get_all(SINCE, [place.body for place in places if place is not None])
    listed = [found for row in rows if row is not None and (found := _listed(row)) is not None]
    return {each.execution.id: each.execution for each in listed}


def window(store: RecordStore, start: str | None, limit: int) -> tuple[list[Listed], str | None]:
    """Return pauses by hand from ``start`` on, and where the next window starts, or None at the end."""
    rows = store.range(SINCE, start or "", END, limit)
    found = [listed for row in rows if (listed := _listed(row)) is not None]
    return found, key_after(rows[-1].key) if len(rows) == limit else None


def page(
    store: RecordStore, query: PausedQuery, limit: int, continuation: str | None
) -> tuple[list[Execution], str | None]:
    """Return up to ``limit`` runs that are paused, oldest first, and what continues the list, or None at its end.

    A page can be short where few of many fit. A continuation names the last that was looked at, so that what is paused
    and resumed between two pages neither hides another nor shows it twice. Raises ``BadContinuation``.
    """
    start = "" if continuation is None else _after(continuation, query)
    found: list[Execution] = []
    last = ""
    looked_at = heapq.merge(
        _by_hand(store, start, limit + 1), _waiting(store, start, limit + 1), key=lambda each: each[0]
    )
    for count, (key, execution) in enumerate(looked_at):
        if len(found) == limit or count == MAX_LOOKED_AT:
            return found, _continuation(last, query)
        if execution is not None and query.fits(execution):
            found.append(execution)
        last = key if _PLACE.fullmatch(key) else last  # one that nobody wrote here is no place to go on from
    return found, None


def reason_of(workflow: str, title: str = "Awaiting an answer") -> str:
    """Return why a run is paused that waits for people; the title of the wait says it where the workflow does not."""
    return AWAITING.get(workflow, title)


def of_wait(wait: Wait) -> Execution:
    """Return what the list says of a run that waits for people, or of the declared workflow that it is a step of."""
    at = wait.at_step
    instance_id, run = (at.instance_id, at.run) if at is not None else (wait.instance_id, wait.run)
    return Execution(
        id=instance_id,
        execution_id=instance_id,
        workflow_id=at.workflow_id if at is not None else wait.kind,
        workflow=DECLARED if at is not None else wait.kind,
        status="paused",
        paused_at=wait.since,
        paused_reason=(at.reason if at is not None else None) or reason_of(wait.kind, wait.title),
        paused_step_id=at.step if at is not None else None,
        next_step_id=at.next_step if at is not None else None,
        created_at=datetime.strptime(run, "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC),
        path=path_to(DECLARED_PATH, instance_id) if at is not None else wait.path,
    )


def _by_hand(store: RecordStore, start: str, first: int) -> Iterator[tuple[str, Execution | None]]:
    for row in waits.rows_of(store, SINCE, start, END, first):
        listed = _listed(row)
        yield row.key, listed.execution if listed is not None else None


def _waiting(store: RecordStore, start: str, first: int) -> Iterator[tuple[str, Execution | None]]:
    for some in batched(waits.oldest_first(store, start, first), first, strict=False):
        found = [(key, of_wait(wait) if wait is not None else None) for key, wait in some]
        ids = [execution.id for _, execution in found if execution is not None]
        by_hand = dict(zip(ids, store.get_all(OF, [_part(each) for each in ids]), strict=True))
        for key, execution in found:
            # What is paused by hand as well is shown as that alone.
            is_shown = execution is not None and by_hand[execution.id] is None
            yield key, execution if is_shown else None


def _listed(row: Row) -> Listed | None:
    """What a row says; None, and an error in the log, for one that no writer makes."""
    try:
        execution, number = Execution.model_validate_json(row.body), int(row.key.rpartition("|")[2])
        since = row.key.partition("|")[0]
        if row.key == _key(execution, number, since):
            return Listed(execution, number, row.key)
    except (ValueError, OverflowError, RecursionError):
        pass
    _LOGGER.error("The row %r of what is paused cannot be read.", row.key)
    return None


def _waiting_since(store: RecordStore, execution: Execution) -> str | None:
    since = [as_utc_text(wait.since) for wait, is_open in waits.of_instance(store, execution.id) if is_open]
    return min(since, default=None)


def _key(execution: Execution, number: int, since: str | None) -> str:
    if execution.paused_at is None:
        raise ValueError("this is no pause")
    paused_at = as_utc_text(execution.paused_at)
    return f"{min(since or paused_at, paused_at)}|{_part(execution.id)}|{number:06d}"


def _part(instance_id: str) -> str:
    return key_part(instance_id)


def _continuation(key: str, query: PausedQuery) -> str:
    return base64.urlsafe_b64encode(json.dumps([_digest(query), key]).encode()).decode().rstrip("=")


def _after(continuation: str, query: PausedQuery) -> str:
    if len(continuation) > LONGEST_CONTINUATION:
        raise BadContinuation
    try:
        padded = continuation + "=" * (-len(continuation) % 4)
        digest, key = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, TypeError, RecursionError):
        raise BadContinuation from None
    if digest != _digest(query) or not isinstance(key, str) or not _PLACE.fullmatch(key):
        raise BadContinuation
    return key + " "


def _digest(query: PausedQuery) -> str:
    times = [time and as_utc_text(time) for time in (query.created_from, query.created_to)]
    return digest_of([query.workflow, *times])[:16]
