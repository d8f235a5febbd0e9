"""Deleting what has ended: instances with their histories, and entities that hold nothing."""

from durabletask.internal import orchestrator_service_pb2 as pb

from local_host.task_hub.instances import delete
from local_host.task_hub.records import ENDED, OPERATION, moment
from local_host.task_hub.store import Transaction

WINDOW = 200
"""Instances that one commit deletes."""

_ENDED = ", ".join(map(str, sorted(ENDED)))
_IDLE = (
    "locked_by IS NULL AND NOT EXISTS (SELECT 1 FROM operations WHERE entity = entities.id)"
    f" AND NOT EXISTS (SELECT 1 FROM timers WHERE target = entities.id AND kind = {OPERATION})"
)


def purge_instances(tx: Transaction, instance_ids: list[str], *, recursive: bool) -> int:
    """Delete instances that have ended, with what is below them if ``recursive``; gives how many."""
    deleted = 0
    for instance_id in instance_ids:
        found = tx.one(f"SELECT id FROM instances WHERE instance_id = ? AND status IN ({_ENDED})", instance_id)
        if found is not None:
            deleted += _purge(tx, found[0], recursive=recursive)
    return deleted


def purge_entity(tx: Transaction, entity_id: str) -> int:
    """Delete an entity with its state, unless it is locked or has something to do; gives how many."""
    tx.effects.erased = True
    return tx.run(f"DELETE FROM entities WHERE entity_id = ? AND {_IDLE}", entity_id)


def purge_window(tx: Transaction, wanted: pb.PurgeInstanceFilter, *, recursive: bool) -> tuple[int, bool]:
    """Delete a window of the instances that a filter names; gives how many, and whether those were all."""
    where, parameters = [f"status IN ({_ENDED})"], list[int]()
    if wanted.runtimeStatus:
        where.append(f"status IN ({', '.join('?' * len(wanted.runtimeStatus))})")
        parameters += list(wanted.runtimeStatus)
    for comparison, time in ((">=", moment(wanted, "createdTimeFrom")), ("<", moment(wanted, "createdTimeTo"))):
        if time is not None:
            where.append(f"created_at {comparison} ?")
            parameters.append(time)
    rows = tx.all(f"SELECT id FROM instances WHERE {' AND '.join(where)} ORDER BY id LIMIT ?", *parameters, WINDOW)
    deleted = sum(_purge(tx, row, recursive=recursive) for (row,) in rows)
    if deleted:
        tx.db.execute("PRAGMA incremental_vacuum(1000)").fetchall()
    return deleted, len(rows) < WINDOW


def clean_entities(tx: Transaction, *, remove_empty: bool, release_locks: bool) -> tuple[int, int]:
    """Delete entities that hold nothing, and end locks whose holders are gone; gives how many of each."""
    released = 0
    if release_locks:
        orphaned = tx.all(
            "UPDATE entities SET locked_by = NULL, lock_section = NULL WHERE locked_by IS NOT NULL AND NOT EXISTS"
            f" (SELECT 1 FROM instances WHERE id = locked_by AND status NOT IN ({_ENDED})) RETURNING id"
        )
        released = len(orphaned)
        tx.effects.entities.update((row, None) for (row,) in orphaned)
    removed = 0
    if remove_empty:
        removed = tx.run(f"DELETE FROM entities WHERE state IS NULL AND {_IDLE}")
    return removed, released


def _purge(tx: Transaction, row: int, *, recursive: bool) -> int:
    rows = [row]
    if recursive:
        tree = tx.all(
            "WITH RECURSIVE tree (id) AS (SELECT ? UNION SELECT child.id FROM instances AS child"
            f" JOIN tree ON child.parent_id = tree.id WHERE child.status IN ({_ENDED})) SELECT id FROM tree",
            row,
        )
        rows = [each for (each,) in tree]
    deleted = 0
    for each in rows:
        instance = tx.one("SELECT instance_id FROM instances WHERE id = ?", each)
        if instance is not None:
            delete(tx, each)
            tx.effects.changed.add(instance[0])
            deleted += 1
    return deleted


def wipe(tx: Transaction) -> None:
    """Delete everything."""
    for table in ("history", "messages", "activities", "timers", "operations", "entities"):
        tx.run(f"DELETE FROM {table}")  # names of our own
    gone = tx.all("DELETE FROM instances RETURNING instance_id")
    tx.effects.erased = True
    tx.effects.changed.update(instance_id for (instance_id,) in gone)
