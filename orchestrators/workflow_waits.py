"""The steps of a declared workflow that wait: for people, for another system, for a time."""

from datetime import datetime, timedelta
from typing import Any

from durabletask import task
from pydantic import JsonValue, TypeAdapter, ValidationError

from activities.approval import check_answers
from contracts.base import MAX_PEOPLE, Comment, Contract, PlainAddress, as_utc_text, same_person
from contracts.workflow import BlockAnswer, ReceivedEvent
from contracts.workflow_data import RESERVED, DataError
from contracts.workflow_steps import ANSWER, BlockAction, DelayAction, WaitEventAction
from orchestrators.human_step import Finished
from orchestrators.retries import EFFECT
from orchestrators.workflow_desk import RUNNING, Desk, Turn, at_text, channel_of, doer, may_answer, shortened
from orchestrators.workflow_steps import Passed, read_as

BLOCKED, WAITING, DELAYED = "waiting_for_answer", "waiting_for_event", "delayed"
SPOKEN = ("approved", "approver", "comments")
"""What an answer that approves or rejects says, and is not merged into the data."""
_COMMENT: TypeAdapter[str] = TypeAdapter(Comment)


class _Approvers(Contract):
    approvers: tuple[PlainAddress, ...]


def block(desk: Desk, action: BlockAction) -> Turn[Passed]:
    """Wait until somebody answers who may; or until the time is up."""
    reason = shortened(desk.text(action.reason))
    people = read_as(_Approvers, {"approvers": tuple(desk.resolve(action.approvers))}).approvers
    deadline = desk.now + timedelta(hours=action.timeout_hours)
    desk.open_wait(reason, people, deadline, ("approve", "reject") if action.approval else ("resume",))
    desk.record.note("asked", after=BLOCKED, people=people[:MAX_PEOPLE], detail=f"{desk.step}: {reason}")
    yield from desk.store()
    desk.say(BLOCKED, waiting_for=ANSWER, deadline=deadline, reason=reason, approval=action.approval)
    while True:
        arrived = yield from desk.next(deadline)
        if arrived is None:
            return _timed_out(desk, deadline, "nobody answered")
        if isinstance(arrived, BlockAnswer):
            refusal = yield from _why_not(desk, action, arrived, people)
            if refusal is None:
                return (yield from _answered(desk, action, arrived))
            yield from desk.refuse(arrived, refusal)
        elif not isinstance(arrived, Finished):
            yield from desk.set_by(arrived)


def _why_not(desk: Desk, action: BlockAction, event: BlockAnswer, people: tuple[str, ...]) -> Turn[str | None]:
    """Return why an answer is refused, or None."""
    if desk.is_for_another(event.link):
        return "other_step"
    if not may_answer(event, people):
        return "not_asked"
    started_by = same_person(desk.asked.started_by or "")
    sayers = (same_person(event.by), same_person(event.sent_by or event.by))
    if not action.allow_self_approval and started_by in sayers:
        return "own_request"
    if action.approval and not isinstance(event.data.get("approved"), bool):
        return "approval_needed"
    if action.approval and not _is_comment(event.data.get("comments")):
        return "data_wrong"
    data = merged_of(event.data, is_approval=action.approval)
    return (yield from _wrong(desk, action.answer_schema, data, _result(desk, action, event)))


def _wrong(
    desk: Desk, schema: dict[str, Any] | None, data: dict[str, JsonValue], result: JsonValue
) -> Turn[str | None]:
    """Return what is wrong with data that are to be merged, with what is kept of the step besides, or None."""
    if any(name in RESERVED for name in data):
        return "reserved"
    try:
        desk.with_result({**desk.data, **data}, result)
    except DataError:
        return "too_long"
    if schema is None:
        return None
    given = {"form": schema, "answers": data}
    try:
        checked = yield desk.ctx.call_activity(check_answers, input=given, retry_policy=EFFECT)
    except task.TaskFailedError:
        return "data_wrong"
    return "data_wrong" if checked["wrong"] else None


def merged_of(data: dict[str, JsonValue], *, is_approval: bool) -> dict[str, JsonValue]:
    """Return what of an answer is merged into the data of the run."""
    return {name: value for name, value in data.items() if not is_approval or name not in SPOKEN}


def _is_comment(comment: JsonValue) -> bool:
    try:
        _COMMENT.validate_python(comment, strict=True)
    except ValidationError:
        return comment is None
    return True


def _answered(desk: Desk, action: BlockAction, event: BlockAnswer) -> Turn[Passed]:
    """Take an answer: put it on record, merge what came with it, and say so."""
    approved = event.data["approved"] if action.approval else None
    comments = event.data.get("comments") if action.approval else None
    desk.merge(merged_of(event.data, is_approval=action.approval))
    desk.answer_was(event, None if approved is None else bool(approved))
    said = "answered" if approved is None else "approved" if approved else "rejected"
    desk.record.close_wait()
    desk.record.note(
        "answered" if approved is None else "decided",
        after=RUNNING,
        **doer(event),
        channel=channel_of(event),
        detail=f"{desk.step}: {said}",
        comment=str(comments) if comments else None,
        payload=event.model_dump(mode="json", exclude_none=True),
    )
    desk.verdicts.answer(event)
    yield from desk.store()
    return Passed("on_rejected" if approved is False else "next", _result(desk, action, event), said)


def _result(desk: Desk, action: BlockAction, event: BlockAnswer) -> JsonValue:
    """What is kept of an answer."""
    result: dict[str, JsonValue] = {"by": event.by, "at": as_utc_text(desk.ctx.current_utc_datetime)}
    if event.sent_by is not None:
        result["sent_by"] = event.sent_by
    if action.approval:
        result |= {"approved": event.data["approved"], "comments": event.data.get("comments")}
    return result


def _timed_out(desk: Desk, deadline: datetime, why: str) -> Passed:
    desk.record.close_wait()
    desk.record.note("timed_out", after=RUNNING, channel="timer", detail=desk.step)
    at = at_text(desk.clock.real(deadline))
    return Passed("on_timeout", {"timed_out": at}, "timed_out", f"{why} until {at}")


def wait_event(desk: Desk, action: WaitEventAction) -> Turn[Passed]:
    """Wait until an event comes, of those that came before the oldest first; or until the time is up."""
    deadline = desk.now + timedelta(hours=action.timeout_hours)
    while (early := desk.came_early(action.name)) is not None:
        if (yield from _is_taken(desk, action, early)):
            return (yield from _received(desk, action, early))
    desk.open_wait(f"Awaiting the event '{action.name}'", (), deadline, ("resume",))
    desk.record.note("asked", after=WAITING, detail=f"{desk.step}: the event '{action.name}'")
    yield from desk.store()
    desk.say(WAITING, waiting_for=action.name, deadline=deadline, reason=f"Awaiting the event '{action.name}'")
    while True:
        arrived = yield from desk.next(deadline)
        if arrived is None:
            return _timed_out(desk, deadline, f"the event '{action.name}' did not come")
        if isinstance(arrived, BlockAnswer):
            refusal = "other_step" if desk.is_for_another(arrived.link) else None
            refusal = refusal or (yield from _wrong_payload(desk, action, arrived.data))
            if refusal is None:
                return (yield from _received(desk, action, arrived.data, arrived))
            yield from desk.refuse(arrived, refusal)
        elif isinstance(arrived, ReceivedEvent) and arrived.event == action.name:
            if (yield from _is_taken(desk, action, arrived.data)):
                return (yield from _received(desk, action, arrived.data))
        elif isinstance(arrived, ReceivedEvent):
            yield from desk.set_by(arrived)


def _is_taken(desk: Desk, action: WaitEventAction, data: dict[str, JsonValue]) -> Turn[bool]:
    """Whether the payload of an event is good; one that is not is set aside."""
    wrong = yield from _wrong_payload(desk, action, data)
    if wrong is not None:
        yield from desk.record.set_aside(f"An event '{action.name}' was set aside: its payload is wrong ({wrong}).")
    return wrong is None


def _wrong_payload(desk: Desk, action: WaitEventAction, data: dict[str, JsonValue]) -> Turn[str | None]:
    return (yield from _wrong(desk, action.payload_schema, data, _payload(desk, data)))


def _payload(desk: Desk, data: dict[str, JsonValue]) -> JsonValue:
    return {"at": as_utc_text(desk.ctx.current_utc_datetime), "data": data}


def _received(
    desk: Desk, action: WaitEventAction, data: dict[str, JsonValue], by: BlockAnswer | None = None
) -> Turn[Passed]:
    desk.merge(data)
    desk.record.close_wait()
    who: dict[str, Any] = {"channel": "event"}
    if by is not None:
        desk.answer_was(by, None)
        desk.verdicts.answer(by)
        who = {**doer(by), "channel": channel_of(by)}
    desk.record.note("received", after=RUNNING, detail=f"{desk.step}: {action.name}", payload=data, **who)
    yield from desk.store()
    return Passed("next", _payload(desk, data), "received")


def delay(desk: Desk, action: DelayAction) -> Turn[Passed]:
    """Wait for so long."""
    until = desk.now + timedelta(hours=action.duration)
    yield from desk.store()
    desk.say(DELAYED, deadline=until)
    while (yield from desk.idle(until)) is not None:
        pass
    return Passed("next")
