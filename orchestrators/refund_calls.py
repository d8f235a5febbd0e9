"""The calls of a refund: which there are, what they say, and what undoes them."""

from dataclasses import dataclass
from typing import Any

from contracts.base import path_to
from contracts.guarded_call import GuardedCallInput, HttpCall, SimulatedCall
from contracts.refund import CallName, RefundInput


@dataclass(frozen=True)
class Step:
    """A call: its path in the refund API, the word for it when it is done, and what undoes it."""

    path: str
    done: str
    skippable: bool = False
    undone_by: CallName | None = None


STEPS: dict[CallName, Step] = {
    "create_refund": Step("/refunds", "created", undone_by="cancel_refund"),
    "notify_created": Step("/refunds/{}/notifications", "notified", skippable=True),
    "process_refund": Step("/refunds/{}/process", "processed", undone_by="reverse_refund"),
    "notify_expired": Step("/refunds/{}/expiry", "notified", skippable=True),
    "cancel_refund": Step("/refunds/{}/cancellation", "cancelled"),
    "reverse_refund": Step("/refunds/{}/reversal", "reversed"),
}
SAID = dict.fromkeys(("amount", "currency", "customer", "reason"), True)
"""What each call says of the refund, beside its data."""
UNDOING = tuple(step.undone_by for step in STEPS.values() if step.undone_by is not None)


def guarded(
    asked: RefundInput, refund_id: str, name: CallName, *, data: Any, refund: Any, seconds_left: float | None
) -> GuardedCallInput:
    """Return the input of a guarded call.

    ``data`` is the data attribute as it is now, ``refund`` what API 1 gave, ``seconds_left`` the time that the run has.
    """
    step = STEPS[name]
    said = asked.model_dump(mode="json", include=SAID, exclude_none=True)
    body = {"refund_id": refund_id, "data": data, **said}
    if refund is not None:
        body["refund"] = refund
    return GuardedCallInput(
        name=name,
        call=_simulated(asked, refund_id, name, body)
        if asked.api is None
        else HttpCall(kind="http", url=asked.api + path_to(step.path, refund_id), body=body),
        retry=asked.retry,
        skippable=step.skippable,
        editable=True,
        assigned_to=asked.assigned_to,
        mailbox=asked.mailbox,
        part_of=refund_id,
        execution_timeout=seconds_left,
    )


def _simulated(asked: RefundInput, refund_id: str, name: CallName, body: dict[str, Any]) -> SimulatedCall:
    simulated = asked.simulate.get(name)
    fails = simulated.plain() if simulated is not None else {}
    return SimulatedCall(
        kind="simulated", body=body, result={"refund_id": refund_id, "status": STEPS[name].done}, **fails
    )
