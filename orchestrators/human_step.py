"""Waiting for people: the only place where an event races a timer."""

from collections.abc import Callable, Generator
from datetime import datetime
from typing import Any

from durabletask import task
from pydantic import ValidationError

from contracts.base import Contract
from orchestrators.event_payload import EventPayload

MALFORMED = "An event '{event}' was set aside: {reason}."


def event_or_deadline[Event: Contract](
    ctx: task.OrchestrationContext,
    event: str,
    contract: type[Event],
    deadline: datetime,
    on_malformed: Callable[[str], None],
) -> Generator[task.Task[Any], Any, Event | None]:
    """Wait until ``event`` comes with a payload that fits ``contract``, or until ``deadline`` (naive UTC).

    Gives the payload, or None when the deadline came first. A payload that does not fit never ends the wait:
    ``on_malformed`` gets a sentence about it. Whichever of the two loses is cancelled: a wait that is left behind
    would swallow the next event of that name, and a timer that is left behind would fire into a later step.
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
            on_malformed(MALFORMED.format(event=event, reason=error))
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
        where = ".".join(str(part) for part in first["loc"])[:30]
        reason = f"its field '{where}' is wrong" if where else "its payload is wrong"
        raise ValueError(f"{reason} ({first['msg'][:80]})") from None
