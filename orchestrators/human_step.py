"""Waiting for people: the only place where an event races a timer."""

from collections.abc import Callable, Generator
from datetime import datetime
from typing import Any

from durabletask import task
from pydantic import ValidationError

from activities.approval import send_approval_request
from contracts.base import Contract
from contracts.mail import ApprovalMail
from orchestrators.event_payload import EventPayload
from orchestrators.retries import EFFECT
from orchestrators.run_record import RunRecord

MALFORMED = "An event '{event}' was set aside: {reason}."


def ask(
    ctx: task.OrchestrationContext,
    record: RunRecord,
    mail: ApprovalMail,
    *,
    kind: str,
    title: str,
    event: str,
    deadline: datetime,
    path: str,
) -> Generator[task.Task[Any], Any]:
    """Put on record who is waited for, then ask them by mail. When it cannot be sent, the run waits all the same."""
    record.open_wait(
        kind=kind, title=title, people=mail.to, deadline=deadline, actions=("approve", "reject"), path=path
    )
    yield from record.store()
    try:
        yield ctx.call_activity(send_approval_request, input=mail.plain(), retry_policy=EFFECT)
    except task.TaskFailedError:
        record.warn("The mail that asks for approval could not be sent; the decision can still be made.")
        record.note("mail_failed", after="waiting_for_approval")
    else:
        record.note("mailed", after="waiting_for_approval")
    yield from record.store()
    record.enter("waiting_for_approval", waiting_for=event, deadline=deadline)


def event_or_deadline[Event: Contract](
    ctx: task.OrchestrationContext,
    event: str,
    contract: type[Event],
    deadline: datetime,
    on_malformed: Callable[[str], Generator[task.Task[Any], Any]],
) -> Generator[task.Task[Any], Any, Event | None]:
    """Wait until ``event`` comes with a payload that fits ``contract``, or until ``deadline`` (naive UTC).

    Gives the payload, or None when the deadline came first. A payload that does not fit never ends the wait:
    ``on_malformed`` gets a sentence about it, and is gone through. Whichever of the two loses is cancelled: a wait that
    is left behind would swallow the next event of that name, and a timer would fire into a later step.
    """
    timer = ctx.create_timer(deadline)
    while True:
        waiting = ctx.wait_for_external_event(event, data_type=EventPayload)
        winner = yield task.when_any([waiting, timer])
        if winner is timer:
            waiting.cancel()
            return None
        payload = waiting.get_result() or EventPayload()  # an event without a payload is not decoded
        try:
            accepted = _validated(payload, contract)
        except ValueError as error:
            yield from on_malformed(MALFORMED.format(event=event, reason=error))
            continue
        timer.cancel()
        return accepted


def _validated[Event: Contract](payload: EventPayload, contract: type[Event]) -> Event:
    if payload.malformed is not None:
        raise ValueError(payload.malformed)
    try:
        return contract.model_validate(payload.value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = "".join(c if c.isprintable() else "?" for c in ".".join(str(part) for part in first["loc"])[:30])
        reason = f"its field '{where}' is wrong" if where else "its payload is wrong"
        raise ValueError(f"{reason} ({first['msg'][:80]})") from None
