"""Activities: loading one that is due, and taking its outcome."""

import sqlite3

from durabletask.internal import orchestrator_service_pb2 as pb

from local_host.task_hub.instances import send
from local_host.task_hub.records import ENDED, ActivityTask, event
from local_host.task_hub.store import Transaction


def load(db: sqlite3.Connection, row: int) -> ActivityTask | None:
    """Load an activity; None when nobody waits for it any more."""
    found = db.execute("SELECT request FROM activities WHERE id = ?", (row,)).fetchone()
    return ActivityTask(row, pb.ActivityRequest.FromString(found[0])) if found is not None else None


def complete(tx: Transaction, task: ActivityTask, response: pb.ActivityResponse) -> bool:
    """Give the outcome to the orchestration, unless it has ended; False, and nothing changed, when it was dropped."""
    gone = tx.one("DELETE FROM activities WHERE id = ? RETURNING instance", task.row)
    if gone is None:
        return False
    if tx.one("SELECT status FROM instances WHERE id = ?", gone[0])[0] in ENDED:
        return True
    outcome = event(tx.now)
    if response.HasField("failureDetails"):
        outcome.taskFailed.taskScheduledId = task.request.taskId
        outcome.taskFailed.failureDetails.CopyFrom(response.failureDetails)
    else:
        outcome.taskCompleted.taskScheduledId = task.request.taskId
        if response.HasField("result"):
            outcome.taskCompleted.result.CopyFrom(response.result)
    send(tx, gone[0], outcome, of_execution=True)
    return True
