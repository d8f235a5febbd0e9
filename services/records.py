"""Putting on record what a run says: entries of its trail, and its waits, in one write."""

import logging

from contracts.records import RecordBatch
from services import documents, shown, trail, waits
from services.record_store import Change, RecordStore, RowTaken

_LOGGER = logging.getLogger(__name__)


def put_on_record(store: RecordStore, batch: RecordBatch) -> list[int]:
    """Store the entries of a batch, and open and close its waits; give the numbers of the entries that were refused.

    The same batch again changes nothing. An entry whose place in the store is taken by another one is refused, with an
    alarm in the log: the trail was tampered with. A wait that was closed is not opened again. Raises
    ``RecordStoreError``.
    """
    groups = [[shown.stored(each)] for each in batch.shown]
    groups += [[documents.stored(each)] for each in batch.documents]
    groups += [[trail.stored(entry)] for entry in batch.entries]
    groups += [waits.opened(wait) for wait in batch.opened]
    groups += [waits.closed(wait) for wait in batch.closed]
    refused: list[int] = []
    while True:
        try:
            store.write(change for group in groups for change in group)
        except RowTaken as taken:
            index = next(i for i, (first, *_) in enumerate(groups) if _is(first, taken))
            groups[index] = _without_insert(store, groups[index])
            if not groups[index]:
                del groups[index]
            refused += [entry.number for entry in batch.entries if trail.is_refused(store, entry, taken)]
        else:
            break
    for number in refused:
        _LOGGER.critical(
            "ALARM: somebody has changed the audit trail of %r: its entry %d is not the one that the run wrote",
            batch.entries[0].instance_id,
            number,
        )
    return refused


def _is(change: Change, taken: RowTaken) -> bool:
    return change.do == "insert" and (change.partition, change.key) == (taken.partition, taken.key)


def _without_insert(store: RecordStore, group: list[Change]) -> list[Change]:
    """What is left to do of a group whose first row is there: the indexes of a wait, which a closed one is not in."""
    first, *rest = group
    row = store.get(first.partition, first.key) if rest else None
    if row is not None and not waits.is_closed(row):
        return rest
    return [Change("delete", each.partition, each.key) for each in rest]
