"""Commands on instances from outside their own turns: start, event, suspend, resume, terminate, rewind, restart."""

import json
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

from durabletask.internal import orchestrator_service_pb2 as pb

from local_host.task_hub.records import (
    ENDED,
    FAILED,
    PENDING,
    RUNNING,
    START,
    SUSPENDED,
    TERMINATED,
    TIMER,
    event,
    failure,
)
from local_host.task_hub.store import Refused, Transaction


@dataclass(frozen=True)
class NewInstance:
    """What an instance is started with. ``parent`` is row, execution and task id of the one that waits for it."""

    instance_id: str
    name: str
    version: str | None = None
    input: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    scheduled_at: int | None = None
    parent: tuple[int, str, int] | None = None
    parent_info: pb.ParentInstanceInfo | None = None
    trace: pb.TraceContext | None = None
    execution_id: str = ""


def start(tx: Transaction, new: NewInstance, replaceable: frozenset[int]) -> str:
    """Start an instance and give its id.

    Where the id is taken, an instance with a ``replaceable`` status gives way (one that runs is ended first). Raises
    ``Refused`` otherwise, and for an id that only an entity can have.
    """
    if new.instance_id.startswith("@"):
        raise Refused("INVALID_ARGUMENT", "An instance id must not begin with '@': such ids are those of entities.")
    existing = tx.one("SELECT id, status FROM instances WHERE instance_id = ?", new.instance_id)
    if existing is not None:
        row, status = existing
        if status not in replaceable:
            word = pb.OrchestrationStatus.Name(status).removeprefix("ORCHESTRATION_STATUS_").lower()
            raise Refused("ALREADY_EXISTS", f"An instance with the id '{new.instance_id}' exists; it is {word}.")
        if status not in ENDED:
            end(tx, row, TERMINATED, None, failure("Replaced", "The instance was replaced by a new one."))
        delete(tx, row)
    _insert(tx, new)
    return new.instance_id


def raise_event(tx: Transaction, instance_id: str, name: str, payload: str | None) -> None:
    """Give an instance an event. Raises ``Refused`` when there is none, or when it has ended."""
    row, status = find(tx, instance_id)
    if status in ENDED:
        raise Refused("FAILED_PRECONDITION", f"The instance '{instance_id}' has ended and takes no event.")
    raised = event(tx.now)
    raised.eventRaised.name = name
    if payload is not None:
        raised.eventRaised.input.value = payload
    send(tx, row, raised, of_execution=False)


def suspend(tx: Transaction, instance_id: str, reason: str | None) -> None:
    """Suspend an instance: it takes no turn until it is resumed. Does nothing when it is suspended or has ended."""
    row, status = find(tx, instance_id)
    if status in ENDED or status == SUSPENDED:
        return
    suspended = event(tx.now)
    suspended.executionSuspended.SetInParent()
    if reason is not None:
        suspended.executionSuspended.input.value = reason
    send(tx, row, suspended, of_execution=False)
    tx.run("UPDATE instances SET status = ?, updated_at = max(updated_at, ?) WHERE id = ?", SUSPENDED, tx.now, row)
    tx.effects.changed.add(instance_id)


def resume(tx: Transaction, instance_id: str, reason: str | None) -> None:
    """Resume a suspended instance; what came in the meantime is taken in its order. Does nothing to another one."""
    row, status = find(tx, instance_id)
    if status != SUSPENDED:
        return
    resumed = event(tx.now)
    resumed.executionResumed.SetInParent()
    if reason is not None:
        resumed.executionResumed.input.value = reason
    send(tx, row, resumed, of_execution=False)
    chunks = tx.one("SELECT chunks FROM instances WHERE id = ?", row)[0]
    status = RUNNING if chunks else PENDING
    tx.run("UPDATE instances SET status = ?, updated_at = max(updated_at, ?) WHERE id = ?", status, tx.now, row)
    tx.effects.changed.add(instance_id)


def terminate(tx: Transaction, instance_id: str, output: str | None, *, recursive: bool) -> bool:
    """End an instance at once, with its sub-orchestrations if ``recursive``; gives whether there was one to end.

    It ends without a turn: an orchestrator that is broken, or that no worker knows, can be ended too.
    """
    found = tx.one("SELECT id, status FROM instances WHERE instance_id = ?", instance_id)
    if found is None or found[1] in ENDED:
        return False
    rows = _descendants(tx, found[0]) if recursive else [found[0]]
    for row in rows:
        end(
            tx, row, TERMINATED, output, failure("Terminated", "The orchestration was terminated."), recursive=recursive
        )
    return True


def end(
    tx: Transaction,
    row: int,
    status: pb.OrchestrationStatus,
    output: str | None,
    details: pb.TaskFailureDetails,
    *,
    recursive: bool = False,
) -> None:
    """End an instance from outside: what it waits for is dropped, and who waits for it is told."""
    terminated = event(tx.now)
    terminated.executionTerminated.recurse = recursive
    completed = event(tx.now)
    completed.executionCompleted.orchestrationStatus = status
    if output is not None:
        terminated.executionTerminated.input.value = output
        completed.executionCompleted.result.value = output
    chunks, start_events = tx.one("SELECT chunks, start_events FROM instances WHERE id = ?", row)
    begun = [] if chunks else list(pb.OrchestratorRequest.FromString(start_events).newEvents)
    append_history(tx, row, [*begun, terminated, completed])
    tx.run(
        "UPDATE instances SET turn = turn + 1, status = ?, output = ?, updated_at = max(updated_at, ?),"
        " completed_at = ? WHERE id = ?",
        status,
        output,
        tx.now,
        tx.now,
        row,
    )
    finish(tx, row, status, output, details)


def finish(tx: Transaction, row: int, status: int, output: str | None, details: pb.TaskFailureDetails | None) -> None:
    """Clear away what an instance that has ended leaves behind, and tell its parent and those who wait for it.

    Activities that it has asked for run all the same, unless it was ended from outside; nobody hears of their outcome.
    """
    if status == TERMINATED:
        tx.run("DELETE FROM activities WHERE instance = ?", row)
    drop_timers(tx, row)
    tx.run("DELETE FROM messages WHERE instance = ?", row)
    for (entity,) in tx.all("SELECT id FROM entities WHERE locked_by = ?", row):
        tx.run("UPDATE entities SET locked_by = NULL, lock_section = NULL WHERE id = ?", entity)
        tx.effects.entities[entity] = None
    instance_id, parent, execution_id, task_id = tx.one(
        "SELECT instance_id, parent_id, parent_execution_id, parent_task_id FROM instances WHERE id = ?", row
    )
    tx.effects.changed.add(instance_id)
    if parent is None:
        return
    waiting = tx.one("SELECT execution_id, status FROM instances WHERE id = ?", parent)
    if waiting is not None and waiting[0] == execution_id and waiting[1] not in ENDED:
        tell_parent(tx, parent, task_id, status=status, output=output, details=details)


def tell_parent(
    tx: Transaction,
    parent: int,
    task_id: int,
    *,
    status: int,
    output: str | None,
    details: pb.TaskFailureDetails | None,
) -> None:
    """Give the outcome of a sub-orchestration to the instance that waits for it."""
    told = event(tx.now)
    if status == pb.ORCHESTRATION_STATUS_COMPLETED:
        told.subOrchestrationInstanceCompleted.taskScheduledId = task_id
        if output is not None:
            told.subOrchestrationInstanceCompleted.result.value = output
    else:
        told.subOrchestrationInstanceFailed.taskScheduledId = task_id
        told.subOrchestrationInstanceFailed.failureDetails.CopyFrom(
            details or failure("Failed", "The sub-orchestration failed.")
        )
    send(tx, parent, told, of_execution=True)


def rewind(tx: Transaction, instance_id: str, reason: str | None) -> None:
    """Take a failed instance back to before its failure: its next turn gives the history to go on with.

    Raises ``Refused`` when there is none, or when it has not failed.
    """
    row, status = find(tx, instance_id)
    if status != FAILED:
        raise Refused("FAILED_PRECONDITION", f"The instance '{instance_id}' has not failed, and only that is rewound.")
    rewound = event(tx.now)
    rewound.executionRewound.SetInParent()
    if reason is not None:
        rewound.executionRewound.reason.value = reason
    tx.run(
        "UPDATE instances SET turn = turn + 1, status = ?, output = NULL, failure = NULL, completed_at = NULL,"
        " updated_at = max(updated_at, ?) WHERE id = ?",
        RUNNING,
        tx.now,
        row,
    )
    send(tx, row, rewound, of_execution=True)
    tx.effects.changed.add(instance_id)


def restart(tx: Transaction, instance_id: str, *, new_id: bool) -> str:
    """Start an ended instance again with its input, under its own id or a new one; gives the id.

    Raises ``Refused`` when there is none, or when it has not ended.
    """
    row, status = find(tx, instance_id)
    if status not in ENDED:
        raise Refused("FAILED_PRECONDITION", f"The instance '{instance_id}' has not ended; terminate it first.")
    name, version, given, tags, start_events = tx.one(
        "SELECT name, version, input, tags, start_events FROM instances WHERE id = ?", row
    )
    begun = pb.OrchestratorRequest.FromString(start_events).newEvents[0].executionStarted
    # Under its own id it stays the child of its parent, which may be rewound and wait for it then.
    parent = begun.parentInstance if begun.HasField("parentInstance") and not new_id else None
    if not new_id:
        delete(tx, row)
    restarted = uuid4().hex if new_id else instance_id
    _insert(tx, NewInstance(restarted, name, version, given, json.loads(tags) if tags else {}, parent_info=parent))
    return restarted


def find(tx: Transaction, instance_id: str) -> tuple[int, int]:
    """Give row and status of an instance. Raises ``Refused`` when there is none."""
    found: tuple[int, int] | None = tx.one("SELECT id, status FROM instances WHERE instance_id = ?", instance_id)
    if found is None:
        raise Refused("NOT_FOUND", f"There is no instance with the id '{instance_id}'.")
    return found


def send(tx: Transaction, row: int, message: pb.HistoryEvent, *, of_execution: bool) -> None:
    """Give an instance an event for its next turn."""
    tx.run(
        "INSERT INTO messages (instance, of_execution, event) VALUES (?, ?, ?)",
        row,
        of_execution,
        message.SerializeToString(),
    )
    tx.effects.turns[row] = None


def append_history(tx: Transaction, row: int, events: list[pb.HistoryEvent]) -> None:
    """Add a chunk to the history of an instance."""
    chunk = tx.one("UPDATE instances SET chunks = chunks + 1 WHERE id = ? RETURNING chunks", row)[0]
    past = pb.OrchestratorRequest(pastEvents=events).SerializeToString()
    tx.run("INSERT INTO history (instance, chunk, past_events) VALUES (?, ?, ?)", row, chunk, past)


def drop_pending(tx: Transaction, row: int) -> None:
    """Drop the activities and timers of an instance: nobody waits for them any more."""
    tx.run("DELETE FROM activities WHERE instance = ?", row)
    drop_timers(tx, row)


def drop_timers(tx: Transaction, row: int) -> None:
    """Drop the timers of an instance."""
    tx.run("DELETE FROM timers WHERE target = ? AND kind IN (?, ?)", row, TIMER, START)


def delete(tx: Transaction, row: int) -> None:
    """Delete all that there is of an instance."""
    drop_pending(tx, row)
    tx.run("DELETE FROM history WHERE instance = ?", row)
    tx.run("DELETE FROM messages WHERE instance = ?", row)
    tx.run("DELETE FROM instances WHERE id = ?", row)
    tx.effects.erased = True


def started_event(tx: Transaction, new: NewInstance) -> pb.HistoryEvent:
    """The event that begins an execution."""
    started = event(tx.now)
    body = started.executionStarted
    body.name = new.name
    body.orchestrationInstance.instanceId = new.instance_id
    body.orchestrationInstance.executionId.value = new.execution_id
    if new.version is not None:
        body.version.value = new.version
    if new.input is not None:
        body.input.value = new.input
    if new.scheduled_at is not None:
        body.scheduledStartTimestamp.FromMicroseconds(new.scheduled_at)
    if new.parent_info is not None:
        body.parentInstance.CopyFrom(new.parent_info)
    if new.trace is not None:
        body.parentTraceContext.CopyFrom(new.trace)
    body.tags.update(new.tags)
    return started


def _insert(tx: Transaction, new: NewInstance) -> None:
    if not new.execution_id:
        new = replace(new, execution_id=uuid4().hex)
    parent: tuple[Any, ...] = new.parent or (None, None, None)
    start_events = pb.OrchestratorRequest(newEvents=[started_event(tx, new)]).SerializeToString()
    row = tx.one(
        "INSERT INTO instances (instance_id, execution_id, name, version, status, created_at, updated_at, scheduled_at,"
        " parent_id, parent_execution_id, parent_task_id, tags, start_events, input)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
        new.instance_id,
        new.execution_id,
        new.name,
        new.version,
        PENDING,
        tx.now,
        tx.now,
        new.scheduled_at,
        *parent,
        json.dumps(new.tags) if new.tags else None,
        start_events,
        new.input,
    )[0]
    tx.effects.changed.add(new.instance_id)
    if new.scheduled_at is not None and new.scheduled_at > tx.now:
        tx.run("INSERT INTO timers (due, kind, target) VALUES (?, ?, ?)", new.scheduled_at, START, row)
        tx.effects.timer(new.scheduled_at)
    else:
        tx.effects.turns[row] = None


def _descendants(tx: Transaction, row: int) -> list[int]:
    """The instance and the sub-orchestrations below it that have not ended, children first."""
    rows = tx.all(
        "WITH RECURSIVE tree (id) AS (SELECT ? UNION SELECT child.id FROM instances AS child"
        " JOIN tree ON child.parent_id = tree.id) SELECT tree.id FROM tree JOIN instances ON instances.id = tree.id"
        f" WHERE status NOT IN ({', '.join(map(str, ENDED))}) ORDER BY tree.id DESC",
        row,
    )
    return [each for (each,) in rows]
