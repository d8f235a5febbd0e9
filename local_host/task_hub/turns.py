"""Turns: loading what an orchestrator gets, and applying what it answers, in one transaction."""

import sqlite3
from collections.abc import Callable
from uuid import uuid4

from durabletask.internal import orchestrator_service_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from local_host.task_hub import entities
from local_host.task_hub.instances import (
    NewInstance,
    append_history,
    drop_pending,
    finish,
    rewind,
    send,
    start,
    started_event,
    tell_parent,
    terminate,
)
from local_host.task_hub.records import (
    CONTINUED_AS_NEW,
    ENDED,
    FAILED,
    PENDING,
    RUNNING,
    START,
    SUSPENDED,
    TIMER,
    Turn,
    event,
    failure,
)
from local_host.task_hub.store import Refused, Transaction

LARGEST_TURN = 2000
"""Messages that one turn gets at most."""


def load(db: sqlite3.Connection, row: int, now: int) -> Turn | None:
    """Load the turn that an instance is due to take; None when it has none to take now."""
    found = db.execute(
        "SELECT instance_id, name, version, status, turn, chunks, start_events, scheduled_at, execution_id, trace,"
        " updated_at FROM instances WHERE id = ?",
        (row,),
    ).fetchone()
    if found is None:
        return None
    instance_id, name, version, status, number, chunks, start_events, scheduled_at, execution_id, trace, updated = found
    if status in ENDED or status == SUSPENDED:
        return None
    # What says that it may not start yet is its timer, not the clock: that may be set back after the timer fired.
    if scheduled_at is not None and not chunks and _awaits_its_start(db, row):
        return None
    messages = db.execute(
        "SELECT id, event FROM messages WHERE instance = ? ORDER BY id LIMIT ?", (row, LARGEST_TURN)
    ).fetchall()
    if chunks and not messages:
        return None
    # A clock that was set back does not take an orchestration back in time.
    started = event(max(now, updated))
    started.orchestratorStarted.SetInParent()
    new = [started]
    if not chunks:
        new += pb.OrchestratorRequest.FromString(start_events).newEvents
    more = len(messages) == LARGEST_TURN
    events = [pb.HistoryEvent.FromString(blob) for _, blob in messages if blob]
    if events and events[0].HasField("executionRewound"):
        # It has to come alone: it asks for another history, on which everything else then is to go on.
        messages, events, more = messages[:1], events[:1], True
    new += events
    past = db.execute("SELECT past_events FROM history WHERE instance = ? ORDER BY chunk", (row,)).fetchall()
    return Turn(
        instance=row,
        instance_id=instance_id,
        name=name,
        version=version,
        number=number,
        chunks=chunks,
        past=b"".join(blob for (blob,) in past),
        new=new,
        last_message=messages[-1][0] if messages else 0,
        more=more,
        execution_id=execution_id,
        trace=trace,
    )


def _awaits_its_start(db: sqlite3.Connection, row: int) -> bool:
    found = db.execute("SELECT 1 FROM timers WHERE target = ? AND kind = ?", (row, START)).fetchone()
    return found is not None


def complete(tx: Transaction, turn: Turn, response: pb.OrchestratorResponse) -> bool:
    """Take the answer to a turn; False, and nothing changed, when the instance has moved on without it."""
    found = tx.one("SELECT turn, status FROM instances WHERE id = ?", turn.instance)
    if found is None or found[0] != turn.number or found[1] in ENDED:
        return False
    for action in response.actions:
        if action.HasField("rewindOrchestration"):
            _replace_history(tx, turn, action.rewindOrchestration)
            return True
    tx.run("DELETE FROM messages WHERE instance = ? AND id <= ?", turn.instance, turn.last_message)
    confirmed, completion = _apply_actions(tx, turn, response)
    suspended = found[1] == SUSPENDED
    if completion is not None and completion.orchestrationStatus == CONTINUED_AS_NEW:
        _continue_as_new(tx, turn, completion, response, suspended=suspended)
    else:
        _finish_turn(tx, turn, response, confirmed, completion, suspended=suspended)
    for action in response.actions:
        if action.HasField("terminateOrchestration"):  # last, since it may be meant for this very instance
            _terminate(tx, action.terminateOrchestration)
    return True


def _finish_turn(
    tx: Transaction,
    turn: Turn,
    response: pb.OrchestratorResponse,
    confirmed: list[pb.HistoryEvent],
    completion: pb.CompleteOrchestrationAction | None,
    *,
    suspended: bool,
) -> None:
    bookend = event(tx.now)
    bookend.orchestratorCompleted.SetInParent()
    events = [*turn.new, *confirmed, bookend]
    status = SUSPENDED if suspended else RUNNING
    output = failed = ended_at = None
    details = None
    if completion is not None:
        status, ended_at = completion.orchestrationStatus, tx.now
        output = completion.result.value if completion.HasField("result") else None
        if completion.HasField("failureDetails"):
            details = completion.failureDetails
            failed = details.SerializeToString()
        events.append(_completed(tx, completion))
    past = pb.OrchestratorRequest(pastEvents=events).SerializeToString()
    tx.run("INSERT INTO history (instance, chunk, past_events) VALUES (?, ?, ?)", turn.instance, turn.chunks + 1, past)
    tx.run(
        "UPDATE instances SET turn = turn + 1, chunks = ?, status = ?, custom_status = ?, output = ?, failure = ?,"
        " trace = ?, updated_at = max(updated_at, ?), completed_at = ? WHERE id = ?",
        turn.chunks + 1,
        status,
        response.customStatus.value if response.HasField("customStatus") else None,
        output,
        failed,
        _trace(response),
        tx.now,
        ended_at,
        turn.instance,
    )
    if ended_at is not None:
        finish(tx, turn.instance, status, output, details)
    elif not turn.chunks:
        tx.effects.changed.add(turn.instance_id)
    if turn.more:
        tx.effects.turns[turn.instance] = None


def _completed(tx: Transaction, completion: pb.CompleteOrchestrationAction) -> pb.HistoryEvent:
    ended = event(tx.now)
    ended.executionCompleted.orchestrationStatus = completion.orchestrationStatus
    if completion.HasField("result"):
        ended.executionCompleted.result.CopyFrom(completion.result)
    if completion.HasField("failureDetails"):
        ended.executionCompleted.failureDetails.CopyFrom(completion.failureDetails)
    return ended


def _trace(response: pb.OrchestratorResponse) -> bytes | None:
    if not response.HasField("orchestrationTraceContext"):
        return None
    return response.orchestrationTraceContext.SerializeToString() or None


def _continue_as_new(
    tx: Transaction,
    turn: Turn,
    completion: pb.CompleteOrchestrationAction,
    response: pb.OrchestratorResponse,
    *,
    suspended: bool,
) -> None:
    """Begin a new execution: the history, and all answers to the old one, go; events that nobody took stay."""
    drop_pending(tx, turn.instance)
    tx.run("DELETE FROM history WHERE instance = ?", turn.instance)
    tx.run("DELETE FROM messages WHERE instance = ? AND of_execution", turn.instance)
    tx.effects.erased = True
    given = completion.result.value if completion.HasField("result") else None
    version = completion.newVersion.value if completion.HasField("newVersion") else turn.version
    before = next(each.executionStarted for each in _begin(turn) if each.HasField("executionStarted"))
    new = NewInstance(
        turn.instance_id,
        turn.name,
        version,
        given,
        dict(before.tags),
        parent_info=before.parentInstance if before.HasField("parentInstance") else None,
        trace=before.parentTraceContext if before.HasField("parentTraceContext") else None,
        execution_id=uuid4().hex,
    )
    events = [started_event(tx, new), *completion.carryoverEvents]
    tx.run(
        "UPDATE instances SET turn = turn + 1, chunks = 0, status = ?, execution_id = ?, version = ?, input = ?,"
        " custom_status = ?, trace = NULL, scheduled_at = NULL, start_events = ?,"
        " updated_at = max(updated_at, ?) WHERE id = ?",
        SUSPENDED if suspended else PENDING,
        new.execution_id,
        version,
        given,
        response.customStatus.value if response.HasField("customStatus") else None,
        pb.OrchestratorRequest(newEvents=events).SerializeToString(),
        tx.now,
        turn.instance,
    )
    tx.effects.turns[turn.instance] = None


def _begin(turn: Turn) -> list[pb.HistoryEvent]:
    """All events that the turn got, the past first."""
    return [*pb.OrchestratorRequest.FromString(turn.past).pastEvents, *turn.new]


def _replace_history(tx: Transaction, turn: Turn, action: pb.RewindOrchestrationAction) -> None:
    """Go on with the history that a rewind gave: what it waits for is asked for again, failed children are rewound."""
    history = list(action.newHistory)
    tx.run("DELETE FROM history WHERE instance = ?", turn.instance)
    tx.run("DELETE FROM messages WHERE instance = ? AND id <= ?", turn.instance, turn.last_message)
    tx.run(
        "UPDATE instances SET turn = turn + 1, updated_at = max(updated_at, ?), chunks = 0 WHERE id = ?",
        tx.now,
        turn.instance,
    )
    bookend = event(tx.now)
    bookend.orchestratorCompleted.SetInParent()
    append_history(tx, turn.instance, [*history, bookend])
    # A message without an event wakes the instance, also after a crash.
    tx.run("INSERT INTO messages (instance, of_execution, event) VALUES (?, 1, x'')", turn.instance)
    tx.effects.turns[turn.instance] = None
    reason = next((e.executionRewound.reason.value for e in reversed(history) if e.HasField("executionRewound")), None)
    children, tasks, timers = (
        {getattr(getattr(e, kind), number) for e in history if e.HasField(kind)}
        for kind, number in (
            ("subOrchestrationInstanceCompleted", "taskScheduledId"),
            ("taskCompleted", "taskScheduledId"),
            ("timerFired", "timerId"),
        )
    )
    for each in history:
        if each.HasField("subOrchestrationInstanceCreated") and each.eventId not in children:
            _rewind_child(tx, turn, each, reason)
        elif each.HasField("taskScheduled") and each.eventId not in tasks:
            _ask_again(tx, turn, each)
        elif each.HasField("timerCreated") and each.eventId not in timers:
            _arm(tx, turn, each.eventId, each.timerCreated.fireAt)


def _ask_again(tx: Transaction, turn: Turn, scheduled: pb.HistoryEvent) -> None:
    """Schedule an activity whose outcome came after the failure, when nobody heard it; unless it still runs."""
    running = tx.one("SELECT 1 FROM activities WHERE instance = ? AND task_id = ?", turn.instance, scheduled.eventId)
    if running is None:
        _insert_activity(tx, turn, scheduled.eventId, scheduled.taskScheduled)


def _rewind_child(tx: Transaction, turn: Turn, created: pb.HistoryEvent, reason: str | None) -> None:
    child = created.subOrchestrationInstanceCreated
    found = tx.one("SELECT id, status, output, start_events FROM instances WHERE instance_id = ?", child.instanceId)
    if found is None:
        start(tx, _child(turn, created.eventId, child), ENDED)
        return
    row, status, output, start_events = found
    begun = pb.OrchestratorRequest.FromString(start_events).newEvents[0].executionStarted
    if begun.parentInstance.orchestrationInstance.instanceId != turn.instance_id:
        # It was there before, which is why the child could not be started then, and cannot be now.
        taken = Refused("ALREADY_EXISTS", f"An instance with the id '{child.instanceId}' exists.")
        _refuse_child(tx, turn, created.eventId, taken)
        return
    # One that was restarted on its own is a child again.
    tx.run(
        "UPDATE instances SET parent_id = ?, parent_execution_id = ?, parent_task_id = ?"
        " WHERE id = ? AND parent_id IS NULL",
        turn.instance,
        turn.execution_id,
        created.eventId,
        row,
    )
    if status == FAILED:
        rewind(tx, child.instanceId, reason)
    elif status in ENDED:
        # It ended while nobody listened.
        details = failure("Terminated", "The orchestration was terminated.")
        tell_parent(tx, turn.instance, created.eventId, status=status, output=output, details=details)


def _child(
    turn: Turn, task_id: int, asked: pb.CreateSubOrchestrationAction | pb.SubOrchestrationInstanceCreatedEvent
) -> NewInstance:
    info = pb.ParentInstanceInfo(taskScheduledId=task_id)
    info.name.value = turn.name
    info.orchestrationInstance.instanceId = turn.instance_id
    info.orchestrationInstance.executionId.value = turn.execution_id
    if turn.version is not None:
        info.version.value = turn.version
    return NewInstance(
        asked.instanceId,
        asked.name,
        asked.version.value if asked.HasField("version") else None,
        asked.input.value if asked.HasField("input") else None,
        dict(asked.tags),
        parent=(turn.instance, turn.execution_id, task_id),
        parent_info=info,
        trace=asked.parentTraceContext if asked.HasField("parentTraceContext") else None,
    )


def _apply_actions(
    tx: Transaction, turn: Turn, response: pb.OrchestratorResponse
) -> tuple[list[pb.HistoryEvent], pb.CompleteOrchestrationAction | None]:
    """Do what the orchestrator asked for; gives the events that confirm it, and the completion if there is one."""
    confirmed: list[pb.HistoryEvent] = []
    completion = None
    for action in response.actions:
        kind = str(action.WhichOneof("orchestratorActionType"))
        if kind == "completeOrchestration":
            completion = action.completeOrchestration
        elif kind != "terminateOrchestration":
            confirmation = event(tx.now, action.id)
            _ACTIONS[kind](tx, turn, action, confirmation)
            confirmed.append(confirmation)
    return confirmed, completion


def _schedule_task(tx: Transaction, turn: Turn, action: pb.OrchestratorAction, confirmation: pb.HistoryEvent) -> None:
    asked = action.scheduleTask
    scheduled = confirmation.taskScheduled
    scheduled.name = asked.name
    for name in ("version", "input", "parentTraceContext"):
        if asked.HasField(name):
            getattr(scheduled, name).CopyFrom(getattr(asked, name))
    scheduled.tags.update(asked.tags)
    _insert_activity(tx, turn, action.id, scheduled)


def _insert_activity(tx: Transaction, turn: Turn, task_id: int, scheduled: pb.TaskScheduledEvent) -> None:
    request = pb.ActivityRequest(name=scheduled.name, taskId=task_id)
    request.orchestrationInstance.instanceId = turn.instance_id
    request.orchestrationInstance.executionId.value = turn.execution_id
    for name in ("version", "input", "parentTraceContext"):
        if scheduled.HasField(name):
            getattr(request, name).CopyFrom(getattr(scheduled, name))
    request.tags.update(scheduled.tags)
    row = tx.one(
        "INSERT INTO activities (instance, task_id, name, version, request) VALUES (?, ?, ?, ?, ?) RETURNING id",
        turn.instance,
        task_id,
        scheduled.name,
        scheduled.version.value if scheduled.HasField("version") else None,
        request.SerializeToString(),
    )[0]
    tx.effects.activities.append(row)


def _create_timer(tx: Transaction, turn: Turn, action: pb.OrchestratorAction, confirmation: pb.HistoryEvent) -> None:
    confirmation.timerCreated.fireAt.CopyFrom(action.createTimer.fireAt)
    _arm(tx, turn, action.id, action.createTimer.fireAt)


def _arm(tx: Transaction, turn: Turn, timer_id: int, fire_at: Timestamp) -> None:
    due = fire_at.ToMicroseconds()
    fired = event(due)
    fired.timerFired.timerId = timer_id
    fired.timerFired.fireAt.CopyFrom(fire_at)
    if due <= tx.now:
        send(tx, turn.instance, fired, of_execution=True)
        return
    tx.run(
        "INSERT INTO timers (due, kind, target, event) VALUES (?, ?, ?, ?)",
        due,
        TIMER,
        turn.instance,
        fired.SerializeToString(),
    )
    tx.effects.timer(due)


def _create_child(tx: Transaction, turn: Turn, action: pb.OrchestratorAction, confirmation: pb.HistoryEvent) -> None:
    asked = action.createSubOrchestration
    created = confirmation.subOrchestrationInstanceCreated
    created.instanceId, created.name = asked.instanceId, asked.name
    for name in ("version", "input", "parentTraceContext"):
        if asked.HasField(name):
            getattr(created, name).CopyFrom(getattr(asked, name))
    created.tags.update(asked.tags)
    try:
        start(tx, _child(turn, action.id, asked), ENDED)
    except Refused as refusal:
        _refuse_child(tx, turn, action.id, refusal)


def _refuse_child(tx: Transaction, turn: Turn, task_id: int, refusal: Refused) -> None:
    """Tell an orchestration that its sub-orchestration could not be started."""
    failed = event(tx.now)
    failed.subOrchestrationInstanceFailed.taskScheduledId = task_id
    failed.subOrchestrationInstanceFailed.failureDetails.CopyFrom(
        failure("OrchestrationAlreadyExists" if refusal.code == "ALREADY_EXISTS" else "InvalidId", str(refusal))
    )
    send(tx, turn.instance, failed, of_execution=True)


def _send_event(tx: Transaction, _turn: Turn, action: pb.OrchestratorAction, confirmation: pb.HistoryEvent) -> None:
    asked = action.sendEvent
    sent = confirmation.eventSent
    sent.instanceId, sent.name = asked.instance.instanceId, asked.name
    raised = event(tx.now)
    raised.eventRaised.name = asked.name
    if asked.HasField("data"):
        sent.input.CopyFrom(asked.data)
        raised.eventRaised.input.CopyFrom(asked.data)
    target = tx.one("SELECT id, status FROM instances WHERE instance_id = ?", asked.instance.instanceId)
    if target is not None and target[1] not in ENDED:
        send(tx, target[0], raised, of_execution=False)


def _terminate(tx: Transaction, asked: pb.TerminateOrchestrationAction) -> None:
    reason = asked.reason.value if asked.HasField("reason") else None
    terminate(tx, asked.instanceId, reason, recursive=asked.recurse)


def _send_entity_message(
    tx: Transaction, turn: Turn, action: pb.OrchestratorAction, confirmation: pb.HistoryEvent
) -> None:
    entities.send_from_instance(tx, turn, action.sendEntityMessage, confirmation)


_ACTIONS: dict[str, Callable[[Transaction, Turn, pb.OrchestratorAction, pb.HistoryEvent], None]] = {
    "scheduleTask": _schedule_task,
    "createTimer": _create_timer,
    "createSubOrchestration": _create_child,
    "sendEvent": _send_event,
    "sendEntityMessage": _send_entity_message,
}
