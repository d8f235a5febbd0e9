"""The audit trail in the store: appended to, and read.

    partition               key                                    holds
    trail:<instance>        app|<number>                           what the app added from outside: one chain
    trail:<instance>        run|<run>|<number>                     what each run of that instance id said: a chain each

No row is ever replaced or deleted, with one exception: erasing takes comments out. With ``AUDIT_KEY`` the app seals its
own entries with an HMAC, so that who can write to the store still cannot make one up. The one that notes a purge says
how far the run's chain went, and thereby stands in for the history that is gone. ``services.verification`` verifies.
"""

import hashlib
import hmac
import json
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import accumulate
from typing import Any

from pydantic import ValidationError

from contracts.audit import Action, Channel, Entry, TrailHead, chained, digest_of
from services.record_store import Change, RecordStore, RecordStoreError, Row, RowTaken, key_after, key_part

PAGE = 1000
END = "}"
"""Sorts after all keys."""


@dataclass(frozen=True)
class Kept:
    """A row of a trail: where it stands, and the entry, or None where the row cannot be read as one."""

    key: str
    entry: Entry | None
    seal: str | None = None


@dataclass
class Trail:
    """All rows of the trail of one instance id."""

    app: list[Kept] = field(default_factory=list)
    runs: dict[str, list[Kept]] = field(default_factory=dict)

    @property
    def entries(self) -> list[Entry]:
        """All entries that can be read, in the order of time; within a chain, in its own."""
        timed: list[tuple[datetime, Entry]] = []
        for rows in (*self.runs.values(), self.app):
            chain = [kept.entry for kept in rows if kept.entry is not None]
            # Two machines tell the time of one chain: an entry can be of a time before that of the one it follows.
            timed += zip(accumulate((entry.at for entry in chain), max), chain, strict=True)
        return [entry for _, entry in sorted(timed, key=lambda each: each[0])]


def stored(entry: Entry, keys: Sequence[str] = ()) -> Change:
    """The change that stores an entry; ``keys`` seal it."""
    seal = seal_of(entry, keys[0]) if keys else None
    return Change("insert", _partition(entry.instance_id), key_of(entry), _body(entry, seal))


def is_refused(store: RecordStore, entry: Entry, taken: RowTaken) -> bool:
    """Whether the taken row is this entry's place, and holds another one."""
    if (taken.partition, taken.key) != (_partition(entry.instance_id), key_of(entry)):
        return False
    row = store.get(taken.partition, taken.key)
    there = _kept(row).entry if row is not None else None
    return there is None or there.hash != entry.hash or not there.is_sound


def read(store: RecordStore, instance_id: str) -> Trail:
    """Read the trail of an instance id; empty when there is none."""
    trail, start = Trail(), ""
    while rows := store.range(_partition(instance_id), start, END, PAGE):
        for row in rows:
            series, _, rest = row.key.partition("|")
            chain = trail.app if series == "app" else trail.runs.setdefault(rest.partition("|")[0], [])
            chain.append(_kept(row))
        if len(rows) < PAGE:
            break
        following = key_after(rows[-1].key)
        if following is None:
            break
        start = following
    return trail


def append(
    store: RecordStore,
    instance_id: str,
    keys: Sequence[str],
    *,
    action: Action,
    at: datetime,
    run: str,
    anchor: TrailHead | None = None,
    once: bool = False,
    limit: int | None = None,
    channel: Channel | None = None,
    **said: Any,
) -> Entry | None:
    """Add an entry of the app to the trail of an instance id, and give it.

    ``said`` are further fields of ``Entry``, or ``payload``. None is added, and None given, when ``once`` is set and
    the app has noted this action of this run with this payload and anchor before, or when there are ``limit`` of this
    action. A note that may be somebody else's does not count.
    Raises ``RecordStoreError``, also when the place after the last entry is taken by what cannot be read.
    """
    tried = 0
    while True:
        trail = read(store, instance_id)
        before = [kept.entry for kept in trail.app if kept.entry is not None]
        ours = [kept.entry for kept in trail.app if kept.entry is not None and is_sealed(kept, keys)]
        same = [entry for entry in ours if entry.is_sound and (entry.action, entry.run) == (action, run)]
        if (limit is not None and len(same) >= limit) or (once and _is_noted(same, said.get("payload"), anchor)):
            return None
        entry = chained(
            before[-1] if before else None,
            salt=secrets.token_hex(16),
            instance_id=instance_id,
            series="app",
            run=run,
            at=at,
            action=action,
            channel=channel,
            anchor=anchor,
            **said,
        )
        if entry.number <= tried:  # nobody else came first: the chain has not grown since
            raise RecordStoreError(f"The trail of '{instance_id}' is broken: its entry {tried} cannot be read.")
        tried = entry.number
        try:
            store.write([stored(entry, keys)])
        except RowTaken:
            continue
        return entry


def comments(trail: Trail) -> list[str]:
    """Return the keys of the rows that hold a comment. One that was tampered with is evidence, and is left as it is."""
    rows = [*(kept for rows in trail.runs.values() for kept in rows), *trail.app]
    return [kept.key for kept in rows if kept.entry and kept.entry.comment is not None and kept.entry.is_sound]


def erase_comments(store: RecordStore, instance_id: str, keys: Collection[str]) -> int:
    """Take the comments out of these rows of the trail of an instance id; their hashes stay. Gives how many there were.

    The erasure has to be noted before, with these keys: a comment that is gone without a note accuses somebody.
    """
    partition = _partition(instance_id)
    erased = 0
    for key in keys:
        row = store.get(partition, key)
        kept = _kept(row) if row is not None else Kept(key, None)
        if kept.entry is not None and kept.entry.comment is not None and kept.entry.is_sound:
            store.write([Change("put", partition, key, _body(kept.entry.erased(), kept.seal))])
            erased += 1
    store.scrub()
    return erased


def is_sealed(kept: Kept, keys: Sequence[str]) -> bool:
    """Whether a row bears a seal that one of the keys makes; without keys none has to."""
    if kept.entry is None or not keys:
        return kept.entry is not None
    return any(hmac.compare_digest((kept.seal or "").encode(), seal_of(kept.entry, key).encode()) for key in keys)


def _is_noted(same: Sequence[Entry], payload: Any, anchor: TrailHead | None) -> bool:
    return any(
        (payload is None or entry.payload_sha256 == digest_of(payload, entry.salt)) and entry.anchor == anchor
        for entry in same
    )


def seal_of(entry: Entry, key: str) -> str:
    """Return the app's seal on an entry: the HMAC-SHA256 of its hash."""
    return hmac.new(key.encode(), entry.hash.encode(), hashlib.sha256).hexdigest()


def _body(entry: Entry, seal: str | None) -> str:
    sealed = {"seal": seal} if seal else {}
    return json.dumps({"entry": entry.model_dump(mode="json", exclude_none=True), **sealed}, ensure_ascii=False)


def _kept(row: Row) -> Kept:
    try:
        document = json.loads(row.body)
        entry, seal = Entry.model_validate(document["entry"]), document.get("seal")
        _body(entry, seal).encode()  # a row can hold what JSON can, and no writer: half a surrogate, a time before all
    except (ValueError, ValidationError, TypeError, KeyError, AttributeError, RecursionError):
        return Kept(row.key, None)
    return Kept(row.key, entry, seal if seal is None or isinstance(seal, str) else "")


def _partition(instance_id: str) -> str:
    return f"trail:{key_part(instance_id)}"


def app_key(number: int) -> str:
    """The key of an entry of the app."""
    return f"app|{number:010d}"


def run_key(run: str, number: int) -> str:
    """The key of an entry of a run."""
    return f"run|{run}|{number:010d}"


def key_of(entry: Entry) -> str:
    """The key of an entry."""
    return app_key(entry.number) if entry.series == "app" else run_key(entry.run, entry.number)
