"""The runs that are purged as soon as they have ended, without waiting for their retention.

partition     key                    holds
purge         <instance>|<run>       a ``Listed``
"""

import json
import logging

from contracts.audit import RunStamp
from contracts.base import Contract
from services.record_store import Change, RecordStore, Row, key_after, key_part

PARTITION = "purge"
END = "}"

_LOGGER = logging.getLogger(__name__)


class Listed(Contract):
    """A run on the list."""

    instance_id: str
    run: RunStamp


def added(instance_id: str, run: RunStamp) -> Change:
    """The change that puts a run on the list; the same again changes nothing."""
    listed = Listed(instance_id=instance_id, run=run)
    return Change("put", PARTITION, _key(listed), json.dumps(listed.plain(), ensure_ascii=False))


def removed(instance_id: str, run: RunStamp) -> Change:
    """The change that takes a run off the list, if it is there."""
    return Change("delete", PARTITION, _key(Listed(instance_id=instance_id, run=run)))


def window(store: RecordStore, start: str | None, limit: int) -> tuple[list[Listed], str | None]:
    """Return runs of the list from ``start`` on, and where the next window starts, or None at the end."""
    rows = store.range(PARTITION, start or "", END, limit)
    found = [listed for row in rows if (listed := _listed(row)) is not None]
    return found, key_after(rows[-1].key) if len(rows) == limit else None


def _listed(row: Row) -> Listed | None:
    """What a row says; None, and an error in the log, for one that no writer makes."""
    try:
        listed = Listed.model_validate_json(row.body)
        if row.key == _key(listed):
            return listed
    except ValueError:
        pass
    _LOGGER.error("The row %r of the list of what is to be purged cannot be read.", row.key)
    return None


def _key(listed: Listed) -> str:
    return f"{key_part(listed.instance_id)}|{listed.run}"
