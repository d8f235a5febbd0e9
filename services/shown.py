"""What the people who are asked were shown: the content of each round of a run, as it was.

    partition               key                    holds
    shown:<instance>        <run>|<round>          a ``Shown``

It stands there before the first mail goes out, and goes when the instance is purged; its SHA-256 stays in the trail.
"""

import json

from contracts.audit import RunStamp
from contracts.shown import Shown
from services.record_store import Change, RecordStore, key_after, key_part

END = "}"


def stored(shown: Shown) -> Change:
    """The change that stores it; the same again changes nothing."""
    body = json.dumps(shown.plain(), ensure_ascii=False)
    return Change("put", _partition(shown.instance_id), _key(shown.run, shown.round), body)


def read(store: RecordStore, instance_id: str, run: RunStamp, round_number: int) -> Shown | None:
    """Return what a round of a run shows, or None where that is not there, or was changed into what cannot be read."""
    row = store.get(_partition(instance_id), _key(run, round_number))
    if row is None:
        return None
    try:
        return Shown.model_validate_json(row.body)
    except ValueError:
        return None


def forget(store: RecordStore, instance_id: str) -> None:
    """Forget all rounds of all runs of an instance that is purged."""
    start: str | None = ""
    while start is not None and (rows := store.range(_partition(instance_id), start, END, 100)):
        store.write([Change("delete", _partition(instance_id), row.key) for row in rows])
        start = key_after(rows[-1].key)


def _partition(instance_id: str) -> str:
    return f"shown:{key_part(instance_id)}"


def _key(run: RunStamp, round_number: int) -> str:
    return f"{run}|{round_number:06d}"
