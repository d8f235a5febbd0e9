"""The definitions of workflows, each in versions that never change.

    partition               key                         holds
    workflows               <name>                      nothing: the names there are
    workflow:<name>         <999999 - version>|00       who stored the version and when, its name and description
    workflow:<name>         <999999 - version>|<part>   the JSON of the definition, in parts that fit a row

Versions count from 1; by their keys the newest stands first.
"""

import json
import logging
import re
from dataclasses import dataclass
from datetime import datetime
from itertools import batched
from typing import Any

from pydantic import JsonValue

from contracts.audit import digest_of
from contracts.base import Comment, Contract, Timestamp, Who
from contracts.workflow import MAX_VERSION, Definition, StoredDefinition, Version, WorkflowName
from errors import Unavailable
from services.record_store import Change, RecordStore, Row, RowTaken, key_after, key_part

NAMES = "workflows"
END = "}"
PART = 15_000
"""Characters of a part: a row holds 30,000 of UTF-16."""
MAX_PARTS = 20
MAX_TURNS = 100
"""How often a version is tried, when others store theirs at the same time."""

_LOGGER = logging.getLogger(__name__)


class Head(Contract):
    """What is known of a version without reading all of it. ``digest`` is that of the definition."""

    name: WorkflowName
    version: Version
    description: Comment | None = None
    created_at: Timestamp
    created_by: Who | None = None
    digest: str


@dataclass(frozen=True)
class Put:
    """What came of storing a definition; one that is the same as the newest is not stored again."""

    version: int
    is_new: bool


def put(store: RecordStore, definition: Definition, given: dict[str, JsonValue], by: str | None, at: datetime) -> Put:
    """Store a definition as the next version, unless it is the same as the newest one.

    ``given`` is the definition as it was sent. Of many at the same time, each gets a version of its own. After one that
    cannot be read comes the next one all the same. Raises ``RecordStoreError``, ``Unavailable`` when others come first
    again and again, and ``ValueError`` when there are as many versions as there can be.
    """
    digest = digest_of(given)
    for _ in range(MAX_TURNS):
        row = _newest(store, definition.name)
        newest = _head(row.body) if row is not None else None
        if newest is not None and newest.digest == digest:
            return Put(newest.version, is_new=False)
        version = _version_of(row) + 1 if row is not None else 1
        if version > MAX_VERSION:
            raise ValueError(f"a workflow has up to {MAX_VERSION:,} versions")
        told = Head(
            name=definition.name,
            version=version,
            description=definition.description,
            created_at=at,
            created_by=by,
            digest=digest,
        )
        try:
            # The name first: a version without its name would never be listed.
            store.write([Change("put", NAMES, key_part(definition.name)), *_rows(told, given)])
        except RowTaken:
            continue  # somebody else's came first
        return Put(version, is_new=True)
    _LOGGER.error("No version of the workflow %r could be stored.", definition.name)
    raise Unavailable("The workflow could not be stored: other versions came first each time. Try again in a moment.")


def head(store: RecordStore, name: str, version: int | None = None) -> Head | None:
    """Return what is known of a version, or of the newest one; None where there is none."""
    row = _newest(store, name) if version is None else store.get(_partition(name), _key(version, 0))
    return _head(row.body) if row is not None else None


def read(store: RecordStore, name: str, version: int | None = None) -> StoredDefinition | None:
    """Return a version, or the newest one; None where there is none, or it was changed into what cannot be read."""
    found = head(store, name, version)
    if found is None:
        return None
    start = _key(found.version, 1)
    parts = [row.body for row in store.range(_partition(name), start, _key(found.version, END), MAX_PARTS)]
    try:
        definition: dict[str, Any] = json.loads("".join(parts))
    except ValueError:
        definition = {}
    if digest_of(definition) != found.digest:
        _LOGGER.error("Version %d of the workflow %r is not what was stored.", found.version, name)
        return None
    return StoredDefinition(
        version=found.version, definition=definition, created_at=found.created_at, created_by=found.created_by
    )


def page(store: RecordStore, limit: int, after: str | None) -> tuple[list[Head], str | None]:
    """Return the newest versions of up to ``limit`` workflows, in the order of their names, and the name after which
    the list goes on, or None at its end."""
    start = key_after(key_part(after)) if after is not None else ""
    rows = store.range(NAMES, start or "", END, limit + 1)
    names = [row.key for row in rows[:limit]]  # a name is such that its key is the same
    found = [told for name in names if (told := head(store, name)) is not None]
    return found, names[-1] if len(rows) > limit else None


def _rows(told: Head, given: dict[str, JsonValue]) -> list[Change]:
    text = json.dumps(given, ensure_ascii=False)
    parts = ["".join(part) for part in batched(text, PART, strict=False)]
    bodies = [json.dumps(told.plain(), ensure_ascii=False), *parts]
    partition = _partition(told.name)
    return [Change("insert", partition, _key(told.version, number), body) for number, body in enumerate(bodies)]


def _newest(store: RecordStore, name: str) -> Row | None:
    return next(iter(store.range(_partition(name), "0", ":", 1)), None)  # keys begin with digits


def _version_of(row: Row) -> int:
    """Return the version that a row is of by its key, whatever its body is."""
    found = re.match(r"[0-9]{6}(?=\|)", row.key)
    if found is None:
        _LOGGER.error("The row %r is none of a version of a workflow.", row.key)
        raise Unavailable("The workflow cannot be stored: there is something among its versions that is none.")
    return MAX_VERSION - int(found[0])


def _head(body: str) -> Head | None:
    try:
        return Head.model_validate_json(body)
    except ValueError:
        _LOGGER.error("The row of a version of a workflow cannot be read.")  # noqa: TRY400  # it says nothing more
        return None


def _key(version: int, part: int | str) -> str:
    return f"{MAX_VERSION - version:06d}|{part:02d}" if isinstance(part, int) else f"{MAX_VERSION - version:06d}|{part}"


def _partition(name: str) -> str:
    return f"workflow:{key_part(name)}"
