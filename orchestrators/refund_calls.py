"""The calls of a refund: which there are, what they say, and what undoes them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from durabletask import task

from contracts.base import path_to
from contracts.guarded_call import GuardedCallInput, HttpCall, SimulatedCall
from contracts.refund import CallName, MadeCall, RefundInput
from orchestrators.guarded_call import guarded_call
from orchestrators.human_step import Inbox
from orchestrators.run_clock import run_clock
from orchestrators.run_record import RunRecord


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


class Calls:
    """The calls of one run: made once they are on record, kept for who looks at it, and undone newest first.

    ``to_undo`` are the calls that undo what was done, the newest last; ``failed`` those that were failed for good.
    """

    def __init__(self, ctx: task.OrchestrationContext, record: RunRecord, inbox: Inbox) -> None:
        self.to_undo: list[CallName] = []
        self.failed: list[CallName] = []
        self._ctx = ctx
        self._record = record
        self._inbox = inbox
        self._made: list[MadeCall] = []
        self._to_begin: list[MadeCall] = []

    def add(self, name: CallName) -> None:
        """Put a call on record that is to be made."""
        self._made.append(MadeCall(name=name, call_id=f"call-{self._ctx.new_uuid()}"))
        self._to_begin.append(self._made[-1])
        self._keep(name, "under_way")

    def begin(self, given: Callable[[CallName], dict[str, Any]]) -> None:
        """Make the calls that were added, without standing still for them; all of it has to be on record."""
        to_begin, self._to_begin = self._to_begin, []
        for call in to_begin:
            begun = run_clock(self._ctx).call_sub_orchestrator(
                guarded_call.__name__, input=given(call.name), instance_id=call.call_id
            )
            self._inbox.watch(begun, call.name)

    def ended(self, name: CallName, state: Any) -> None:
        """Keep how a call went."""
        self._keep(name, state)
        undone_by = STEPS[name].undone_by
        if state == "failed":
            self.failed.append(name)
        elif undone_by is not None:
            self.to_undo.append(undone_by)

    @property
    def why(self) -> str:
        """What was failed, and what was undone, in words."""
        failed = [name for name in self.failed if name not in UNDOING]
        left = [name for name in self.failed if name in UNDOING]
        undone = [call.name for call in self._made if call.name in UNDOING and call.name not in left]
        said = [f"{' and '.join(failed)} failed for good."]
        said.append(f"What was done was undone by {', '.join(undone)}." if undone else "Nothing was undone.")
        if left:
            said.append(f"This failed for good too: {', '.join(left)}.")
        return " ".join(said)

    def _keep(self, name: CallName, state: Any) -> None:
        number = next(index for index, call in enumerate(self._made) if call.name == name)
        self._made[number] = self._made[number].model_copy(update={"state": state})
        self._record.keep(f"call|{number + 1:06d}", self._made[number].plain())


def guarded(
    asked: RefundInput,
    refund_id: str,
    name: CallName,
    *,
    data: Any,
    refund: Any,
    resume_data: Any,
    seconds_left: float | None,
) -> GuardedCallInput:
    """Return the input of a guarded call.

    ``data`` is the data attribute as it is now, ``refund`` what API 1 gave, ``resume_data`` what it was resumed with,
    ``seconds_left`` the time that it has.
    """
    step = STEPS[name]
    said = asked.model_dump(mode="json", include=SAID, exclude_none=True)
    body = {"refund_id": refund_id, "data": data, **said}
    if refund is not None:
        body["refund"] = refund
    if resume_data is not None:
        body["resume_data"] = resume_data
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
