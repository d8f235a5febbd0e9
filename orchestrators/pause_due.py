"""What a pause needs by a time. The entity ``pause`` starts it, since only a run has activities."""

from collections.abc import Generator
from datetime import UTC
from typing import Any

from durabletask import task
from durabletask.entities import EntityInstanceId

from activities.pause import apply_pause, cancel_paused, send_pause_mail
from contracts.pause_state import PAUSE, TIMER, Numbered, PauseDue, ResumeAsk, pause_key
from orchestrators.retries import EFFECT


def pause_due(ctx: task.OrchestrationContext, request: dict[str, Any]) -> Generator[task.Task[Any], Any, Any]:
    """Apply what was decided, warn, or do what a pause is to end with that is too long. Takes a ``PauseDue``, gives
    whether it was ``done``.

    What fails for good is tried again by another of these, when the entity looks the next time.
    """
    due = PauseDue.model_validate(request)
    entity = EntityInstanceId(PAUSE, pause_key(due.instance_id))
    now = ctx.current_utc_datetime.replace(tzinfo=UTC)
    effect = {"warn": send_pause_mail, "escalate": send_pause_mail, "cancel": cancel_paused}.get(due.what, apply_pause)
    if due.what == "resume":
        asked = ResumeAsk(token=f"timer-{due.number}", number=due.number, at=now, by=TIMER, channel="timer")
        yield ctx.call_entity(entity, "resume", asked.plain())
    elif due.what == "escalate":
        # By the time that it is, not by that when it was to be: after a standstill there is one mail, not one a day.
        ctx.signal_entity(entity, "again", Numbered(number=due.number, at=now).plain())
    return (yield ctx.call_activity(effect.__name__, input=due.plain(), retry_policy=EFFECT))
