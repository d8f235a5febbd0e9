"""Entities: their operations in order, their locks, and what a batch of operations brought about."""

import sqlite3
from uuid import uuid4

from durabletask.internal import orchestrator_service_pb2 as pb
from google.protobuf.wrappers_pb2 import StringValue

from local_host.task_hub.instances import NewInstance, send, start
from local_host.task_hub.records import ENDED, OPERATION, EntityBatch, Turn, event, moment
from local_host.task_hub.store import Refused, Transaction

LARGEST_BATCH = 500
"""Operations that an entity gets at once at most."""


def signal(tx: Transaction, request: pb.SignalEntityRequest) -> None:
    """Give an entity an operation that nobody waits for, now or at its scheduled time."""
    operation = _signal(
        tx, request.instanceId, request.name, request.input if request.HasField("input") else None, request.requestId
    )
    _enqueue(tx, request.instanceId, operation, due=moment(request, "scheduledTime"))


def send_from_instance(
    tx: Transaction, turn: Turn, message: pb.SendEntityMessageAction, confirmation: pb.HistoryEvent
) -> None:
    """Send what an orchestrator sends to an entity: a signal, a call, a request for locks, the end of a lock."""
    kind = str(message.WhichOneof("EntityMessageType"))
    body = getattr(message, kind)
    getattr(confirmation, kind).CopyFrom(body)
    operation = event(tx.now)
    getattr(operation, kind).CopyFrom(body)
    if kind == "entityOperationCalled":
        operation.entityOperationCalled.parentExecutionId.value = turn.execution_id
    if kind == "entityUnlockSent":
        _unlock(tx, body.targetInstanceId.value, body.criticalSectionId, turn.instance)
    elif kind == "entityLockRequested":
        if body.lockSet:
            _enqueue(tx, body.lockSet[body.position], operation, sender=turn.instance)
    else:
        due = body.scheduledTime.ToMicroseconds() if body.HasField("scheduledTime") else None
        _enqueue(tx, body.targetInstanceId.value, operation, sender=turn.instance, due=due)


def deliver(tx: Transaction, entity: int, sender: int | None, operation: bytes) -> None:
    """Put an operation at the end of an entity's queue."""
    tx.run("INSERT INTO operations (entity, sender, event) VALUES (?, ?, ?)", entity, sender, operation)
    tx.effects.entities[entity] = None


def load(db: sqlite3.Connection, row: int) -> EntityBatch | None:
    """Load the operations that an entity is due to do; None when there are none, or when a lock is due first.

    While an instance holds its lock, only that instance's operations are due.
    """
    found = db.execute("SELECT entity_id, turn, state, locked_by FROM entities WHERE id = ?", (row,)).fetchone()
    if found is None:
        return None
    entity_id, number, state, locked_by = found
    rows: list[int] = []
    operations: list[pb.HistoryEvent] = []
    lock_is_next = False
    for operation, blob in _due(db, row, locked_by):
        parsed = pb.HistoryEvent.FromString(blob)
        if parsed.HasField("entityLockRequested"):
            lock_is_next = True
            break
        rows.append(operation)
        operations.append(parsed)
    if not rows:
        return None
    return EntityBatch(row, entity_id, number, state, rows, operations, more=lock_is_next or len(rows) == LARGEST_BATCH)


def lock_is_due(db: sqlite3.Connection, row: int) -> bool:
    """Whether the next thing that an entity does is to be locked."""
    found = db.execute("SELECT locked_by FROM entities WHERE id = ?", (row,)).fetchone()
    if found is None or found[0] is not None:
        return False
    first = db.execute("SELECT event FROM operations WHERE entity = ? ORDER BY id LIMIT 1", (row,)).fetchone()
    return first is not None and pb.HistoryEvent.FromString(first[0]).HasField("entityLockRequested")


def lock(tx: Transaction, row: int) -> None:
    """Give the lock of an entity to the instance whose request is next, and pass its request on to the next entity.

    The last one of the set tells the instance. A request of an instance that has ended is dropped.
    """
    if not lock_is_due(tx.db, row):
        return
    operation, sender, blob = tx.one(
        "SELECT id, sender, event FROM operations WHERE entity = ? ORDER BY id LIMIT 1", row
    )
    tx.run("DELETE FROM operations WHERE id = ?", operation)
    tx.effects.entities[row] = None
    holder = tx.one("SELECT status FROM instances WHERE id = ?", sender)
    if holder is None or holder[0] in ENDED:
        return
    request = pb.HistoryEvent.FromString(blob).entityLockRequested
    tx.run("UPDATE entities SET locked_by = ?, lock_section = ? WHERE id = ?", sender, request.criticalSectionId, row)
    if request.position + 1 < len(request.lockSet):
        onward = event(tx.now)
        onward.entityLockRequested.CopyFrom(request)
        onward.entityLockRequested.position += 1
        _enqueue(tx, request.lockSet[request.position + 1], onward, sender=sender)
    else:
        granted = event(tx.now)
        granted.entityLockGranted.criticalSectionId = request.criticalSectionId
        send(tx, sender, granted, of_execution=True)


def complete(tx: Transaction, batch: EntityBatch, result: pb.EntityBatchResult) -> bool:
    """Take the outcome of a batch; False, and nothing changed, when it was taken before.

    Operations without a result stay in the queue.
    """
    found = tx.one("SELECT turn FROM entities WHERE id = ?", batch.entity)
    if found is None or found[0] != batch.number:
        return False
    results = list(result.results)
    if result.HasField("failureDetails"):
        failed = pb.OperationResult(failure=pb.OperationResultFailure(failureDetails=result.failureDetails))
        results += [failed] * (len(batch.rows) - len(results))
    state = result.entityState.value if result.HasField("entityState") and result.entityState.value else None
    tx.run("UPDATE entities SET turn = turn + 1, state = ?, updated_at = ? WHERE id = ?", state, tx.now, batch.entity)
    for row, operation, outcome in zip(batch.rows, batch.operations, results, strict=False):
        tx.run("DELETE FROM operations WHERE id = ?", row)
        if operation.HasField("entityOperationCalled"):
            _answer(tx, operation.entityOperationCalled, outcome)
    for action in result.actions:
        _act(tx, action)
    if batch.more or len(results) < len(batch.rows):
        tx.effects.entities[batch.entity] = None
    return True


def _answer(tx: Transaction, called: pb.EntityOperationCalledEvent, outcome: pb.OperationResult) -> None:
    caller = tx.one(
        "SELECT id, status FROM instances WHERE instance_id = ? AND execution_id = ?",
        called.parentInstanceId.value,
        called.parentExecutionId.value,
    )
    if caller is None or caller[1] in ENDED:
        return
    told = event(tx.now)
    if outcome.HasField("failure"):
        told.entityOperationFailed.requestId = called.requestId
        told.entityOperationFailed.failureDetails.CopyFrom(outcome.failure.failureDetails)
    else:
        told.entityOperationCompleted.requestId = called.requestId
        if outcome.success.HasField("result"):
            told.entityOperationCompleted.output.CopyFrom(outcome.success.result)
    send(tx, caller[0], told, of_execution=True)


def _act(tx: Transaction, action: pb.OperationAction) -> None:
    """Do what an operation asked for: signal another entity, or start an orchestration."""
    if action.HasField("sendSignal"):
        asked = action.sendSignal
        operation = _signal(
            tx, asked.instanceId, asked.name, asked.input if asked.HasField("input") else None, uuid4().hex
        )
        due = asked.scheduledTime.ToMicroseconds() if asked.HasField("scheduledTime") else None
        _enqueue(tx, asked.instanceId, operation, due=due)
    elif action.HasField("startNewOrchestration"):
        start_ = action.startNewOrchestration
        new = NewInstance(
            start_.instanceId or uuid4().hex,
            start_.name,
            start_.version.value if start_.HasField("version") else None,
            start_.input.value if start_.HasField("input") else None,
            scheduled_at=start_.scheduledTime.ToMicroseconds() if start_.HasField("scheduledTime") else None,
            trace=start_.parentTraceContext if start_.HasField("parentTraceContext") else None,
        )
        try:
            start(tx, new, ENDED)
        except Refused:
            return  # It runs already; an entity has nobody to tell.


def _signal(tx: Transaction, entity_id: str, name: str, given: StringValue | None, request_id: str) -> pb.HistoryEvent:
    operation = event(tx.now)
    body = operation.entityOperationSignaled
    body.requestId, body.operation = request_id, name
    body.targetInstanceId.value = entity_id
    if given is not None:
        body.input.CopyFrom(given)
    return operation


def _enqueue(
    tx: Transaction, entity_id: str, operation: pb.HistoryEvent, *, sender: int | None = None, due: int | None = None
) -> None:
    """Give an entity, which comes to be by this, an operation, now or at a time."""
    found = tx.one("SELECT id FROM entities WHERE entity_id = ?", entity_id)
    if found is None:
        found = tx.one("INSERT INTO entities (entity_id, updated_at) VALUES (?, ?) RETURNING id", entity_id, tx.now)
    if due is not None and due > tx.now:
        tx.run(
            "INSERT INTO timers (due, kind, target, sender, event) VALUES (?, ?, ?, ?, ?)",
            due,
            OPERATION,
            found[0],
            sender,
            operation.SerializeToString(),
        )
        tx.effects.timer(due)
    else:
        deliver(tx, found[0], sender, operation.SerializeToString())


def _unlock(tx: Transaction, entity_id: str, section: str, holder: int) -> None:
    """End a lock, or take the request for it back when it was not given yet."""
    found = tx.one("SELECT id, lock_section FROM entities WHERE entity_id = ?", entity_id)
    if found is None:
        return
    row, held = found
    if held == section:
        tx.run("UPDATE entities SET locked_by = NULL, lock_section = NULL WHERE id = ?", row)
        tx.effects.entities[row] = None
        return
    for operation, blob in tx.all("SELECT id, event FROM operations WHERE entity = ? AND sender = ?", row, holder):
        if pb.HistoryEvent.FromString(blob).entityLockRequested.criticalSectionId == section:
            tx.run("DELETE FROM operations WHERE id = ?", operation)
            tx.effects.entities[row] = None


def _due(db: sqlite3.Connection, row: int, locked_by: int | None) -> list[tuple[int, bytes]]:
    held, parameters = ("", (row,)) if locked_by is None else (" AND sender = ?", (row, locked_by))
    return db.execute(
        f"SELECT id, event FROM operations WHERE entity = ?{held} ORDER BY id LIMIT {LARGEST_BATCH}", parameters
    ).fetchall()
