"""Who pauses and resumes a run: a durable entity for each instance, which takes one after the other."""

import hashlib
import json
from datetime import datetime, timedelta
from typing import Any

from durabletask.entities import EntityContext

from contracts.pause import MAX_RESUME_DATA
from contracts.pause_state import (
    LONGEST_BETWEEN_LOOKS,
    LONGEST_HOP,
    MAX_ANSWERS,
    NOT_APPLIED_AFTER,
    PAUSE_DUE,
    TOLD_EVERY,
    WARNED_AFTER,
    Answered,
    Look,
    Numbered,
    PauseAsk,
    PauseDue,
    PauseState,
    ResumeAsk,
    Resumed,
)


def pause(ctx: EntityContext, request: dict[str, Any]) -> dict[str, Any] | None:
    """Keep the pauses of an instance: who, when, why, how often; and see to it that none is for ever.

    ``pause`` with a ``PauseAsk`` and ``resume`` with a ``ResumeAsk`` give whether they were ``taken``. Who can only
    signal finds it in the state, a ``PauseState``: there the number has changed, or the run is not paused any more.
    What is decided here, others have to apply to the run, and then say ``applied``; ``over`` says that the run has
    ended, ``forget`` that it was purged, ``again`` that people were told of a pause that is too long. ``check`` and
    ``wake`` are the entity's own. There is no clock here but those of the others. Raises ``ValueError`` for anything
    else, which changes nothing.
    """
    before = PauseState.read(ctx.get_state())
    match ctx.operation:
        case "pause":
            return _pause(ctx, before, PauseAsk.model_validate(request))
        case "resume":
            return _resume(ctx, before, ResumeAsk.model_validate(request))
        case "applied" | "over" | "again" | "forget":
            _told(ctx, before, Numbered.model_validate(request))
        case "check" | "wake":
            _look(ctx, before, Look.model_validate(request))
        case _:
            raise ValueError("a pause has the operations pause, resume, applied, over, again, forget, check and wake")
    return None


def _pause(ctx: EntityContext, before: PauseState | None, asked: PauseAsk) -> dict[str, Any]:
    same = before if before is not None and before.is_of(asked.run) else None
    number = before.number + 1 if before is not None else 1
    if asked.pause.number != number or (same is not None and same.is_paused):
        return {"taken": False}
    pause = asked.pause
    answers = (*(same.answers if same is not None else ()), _answered(asked, number, pause))
    state = PauseState(
        run=asked.run,
        number=number,
        is_paused=True,
        pause=pause,
        count=same.count + 1 if same is not None else 1,
        resumes=same.resumes if same is not None else 0,
        resumed=same.resumed if same is not None else None,
        data=same.data if same is not None else None,
        answers=answers[-MAX_ANSWERS:],
    )
    warned = pause.at + WARNED_AFTER
    _check_later(ctx, state, pause.at, NOT_APPLIED_AFTER.total_seconds())
    _keep(ctx, _waking(ctx, state, pause.at, warned if warned < pause.until else pause.until))
    return {"taken": True}


def _resume(ctx: EntityContext, before: PauseState | None, asked: ResumeAsk) -> dict[str, Any]:
    if before is None or before.number != asked.number or not before.is_paused:
        return {"taken": False}
    data = before.data if asked.data is None else (before.data or {}) | asked.data
    if (before.is_ending and asked.channel != "timer") or len(json.dumps(data)) > MAX_RESUME_DATA:
        return {"taken": False}
    answers = (*before.answers, _answered(asked, asked.number))
    said = {
        "is_paused": False,
        "resumes": before.resumes + 1,
        "resumed": Resumed(at=asked.at, by=asked.by, channel=asked.channel, data=asked.data),
        "data": data,
        "answers": answers[-MAX_ANSWERS:],
        **_DONE,
        "applied": False,
    }
    state = before.model_copy(update=said)
    _check_later(ctx, state, asked.at, NOT_APPLIED_AFTER.total_seconds())
    _keep(ctx, state)
    return {"taken": True}


_DONE = {"applied": True, "overdue": False, "due": None, "wake_at": None}
"""What a pause has that is not under way any more."""


def _told(ctx: EntityContext, before: PauseState | None, told: Numbered) -> None:
    """Hear what others did. What is about another pause than the last one came too late."""
    if before is None or before.number != told.number:
        return
    if ctx.operation == "forget":
        ctx.set_state(None)
    elif ctx.operation == "over":
        _keep(ctx, before.model_copy(update={"is_paused": False, **_DONE}))
    elif ctx.operation == "applied" and before.is_paused == told.paused:
        _keep(ctx, before.model_copy(update={"applied": True}))
    elif ctx.operation == "again" and before.is_paused and told.at is not None:
        _keep(ctx, _waking(ctx, before, told.at, told.at + TOLD_EVERY))


def _look(ctx: EntityContext, before: PauseState | None, look: Look) -> None:
    """See what a pause needs by now. It may be later than the time that this was to come at."""
    if before is None or before.number != look.number:
        return
    if ctx.operation == "check":
        is_ended_by_timer = before.overdue and before.pause.on_max != "escalate"
        if before.is_paused == look.paused and (is_ended_by_timer or not before.applied):
            _begin(ctx, before, before.pause.on_max if is_ended_by_timer else "apply", look.at)
            _check_later(ctx, before, look.at, look.wait_seconds)
    elif before.due is not None and before.wake_at == look.at:
        _keep(ctx, _woken(ctx, before, before.due, look.at))


def _woken(ctx: EntityContext, state: PauseState, due: datetime, at: datetime) -> PauseState:
    if at < due:
        return _waking(ctx, state, at, due)
    state = state.model_copy(update={"mails": state.mails + 1, "due": None, "wake_at": None})
    if at < state.pause.until:
        _begin(ctx, state, "warn", at)
        return _waking(ctx, state, at, state.pause.until)
    _begin(ctx, state, state.pause.on_max, at)
    if state.pause.on_max != "escalate":  # who is told of it, says when to tell it again
        _check_later(ctx, state, at, NOT_APPLIED_AFTER.total_seconds())
    return state.model_copy(update={"overdue": True})


def _waking(ctx: EntityContext, state: PauseState, now: datetime, due: datetime) -> PauseState:
    """Wake at a time, perhaps by way of others; there is one such signal under way that counts."""
    at = min(due, now + LONGEST_HOP)
    _signal(ctx, "wake", Look(number=state.number, at=at))
    return state.model_copy(update={"due": due, "wake_at": at})


def _check_later(ctx: EntityContext, state: PauseState, now: datetime, wait_seconds: float) -> None:
    at = now + timedelta(seconds=wait_seconds)
    following = min(wait_seconds * 2, LONGEST_BETWEEN_LOOKS.total_seconds())
    _signal(ctx, "check", Look(number=state.number, at=at, paused=state.is_paused, wait_seconds=following))


def _signal(ctx: EntityContext, operation: str, look: Look) -> None:
    ctx.signal_entity(ctx.entity_id, operation, look.plain(), signal_time=look.at)


def _begin(ctx: EntityContext, state: PauseState, what: Any, at: datetime) -> None:
    """Have something done by an orchestration, which can use the task hub. Its id is its own in any retry."""
    due = PauseDue(instance_id=state.run.instance_id, number=state.number, what=what, serial=state.mails)
    digest = hashlib.sha256(ctx.entity_id.key.encode()).hexdigest()[:24]
    name = f"pause-due-{digest}-{state.number}-{what}-{at:%Y%m%dT%H%M%S%f}"
    ctx.schedule_new_orchestration(PAUSE_DUE, input=due.plain(), instance_id=name)


def _answered(asked: PauseAsk | ResumeAsk, number: int, pause: Any = None) -> Answered:
    return Answered(token=asked.token, said=asked.said, number=number, pause=pause)


def _keep(ctx: EntityContext, state: PauseState) -> None:
    ctx.set_state(state.plain())
