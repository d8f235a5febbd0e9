"""Refund: four calls to an API, two of them side by side, and a wait of a day for who says that it is ready."""

from collections.abc import Generator
from datetime import datetime, timedelta
from typing import Any

from durabletask import task

from contracts.base import as_utc_text, path_to
from contracts.guarded_call import GuardedCallOutcome
from contracts.human_step import Asking, digest_of_id
from contracts.manual_intervention import EXECUTE_RPC
from contracts.refund import (
    READY_CHANNEL,
    CallName,
    ReadyByRpc,
    ReadyEvent,
    RefundInput,
    RefundOutcome,
    SwapEvent,
    fitting,
)
from orchestrators.human_step import ExecutionTimedOut, Finished, Inbox, end_of, out_of_time
from orchestrators.refund_calls import STEPS, UNDOING, Calls, guarded
from orchestrators.run_clock import run_clock
from orchestrators.run_record import RunRecord
from orchestrators.verdicts import Verdicts

READY, SWAP = READY_CHANNEL, "swap"
EVENTS: dict[str, type[Asking]] = {READY: ReadyEvent, SWAP: SwapEvent, EXECUTE_RPC: ReadyByRpc}
DATA = "SomeData"
"""The name of the data attribute. ``Ready`` stands beside it once that came: when."""
CREATING, WAITING, PROCESSING, EXPIRING = "creating", "waiting_for_ready", "processing", "expiring"
COMPENSATING, REFUNDED, EXPIRED, FAILED = "compensating", "refunded", "expired", "failed"
PATH = "/api/refunds/{}"
MAX_SWAPS = 500
"""How often the data of one run are swapped: each turn goes through all of its history."""

type Turn[Result] = Generator[task.Task[Any], Any, Result]


def refund(ctx: task.OrchestrationContext, request: dict[str, Any]) -> Turn[dict[str, Any]]:
    """Create a refund, tell people, and process it when it is ready in time; else say that it has expired.

    Takes a ``RefundInput``, gives a ``RefundOutcome``; takes the events of ``EVENTS`` at any time. What was
    done is undone, newest first, when a call was failed for good; then the run fails.

    An execution timeout is an option of the start. There is none unless one is given: one of an hour would end each
    run before its day has passed.
    """
    return (yield from _Refund(ctx, RefundInput.model_validate(request)).run(request))


def _doer_of(event: ReadyEvent | SwapEvent) -> dict[str, Any]:
    """Return who says something, and on whose behalf, as the trail says it."""
    by = event.by if isinstance(event, ReadyEvent) else None
    return {"actor": event.sent_by or by, "on_behalf_of": by if event.sent_by is not None else None}


class RefundFailed(Exception):
    """A call was failed for good; what was done is undone as far as it could be."""


class _Refund:
    """One run: what it waits for all the time, what it has done, and how that is undone."""

    def __init__(self, ctx: task.OrchestrationContext, asked: RefundInput) -> None:
        self._ctx = ctx
        self._asked = asked
        self._clock = run_clock(ctx)
        self._record = RunRecord(ctx)
        self._verdicts = Verdicts(self._record)
        self._ends_at = end_of(ctx, asked.execution_timeout)
        self._inbox = Inbox(ctx, EVENTS, self._record.set_aside, in_order=True, listens_on=True)
        self._calls = Calls(ctx, self._record, self._inbox)
        self._phase = CREATING
        self._data = asked.data
        self._refund: Any = None
        self._ready_at: str | None = None
        self._deadline: datetime | None = None
        self._is_waiting = self._is_out_of_time = False
        self._swaps = 0

    def run(self, request: dict[str, Any]) -> Turn[dict[str, Any]]:
        """Do it, or undo it."""
        for name in STEPS:
            self._given(name)  # a call that cannot be made ends the run before anything is done
        self._say()
        started_by = self._asked.started_by
        self._record.note("started", after=self._phase, actor=started_by, channel="api", payload=request)
        self._calls.add("create_refund")
        yield from self._store()
        while self._is_waiting or self._inbox.watched:
            yield from self._take_next()
        if self._calls.failed or self._is_out_of_time:
            yield from self._undo()
            yield from self._fail()
        self._inbox.close()
        self._phase = REFUNDED if self._ready_at is not None else EXPIRED
        self._record.note("ended", after=self._phase)
        yield from self._store()
        status: Any = self._phase.capitalize()
        return self._record.outcome(RefundOutcome(status=status, data=self._data, refund=self._refund))

    def _take_next(self) -> Turn[None]:
        """Wait for the next thing, and do what follows."""
        until = self._deadline if self._is_waiting else None
        is_last = self._ends_at is not None and (until is None or self._ends_at <= until)
        arrived = yield from self._inbox.next(self._ends_at if is_last else until)
        if arrived is None and is_last:
            self._run_out_of_time()
            yield from self._store()
        elif arrived is None:
            yield from self._expire()
        elif isinstance(arrived, Finished):
            yield from self._called(arrived)
        elif isinstance(arrived, ReadyEvent):
            yield from self._ready(arrived)
        elif isinstance(arrived, SwapEvent):
            yield from self._swap(arrived)

    # What is asked

    def _ready(self, event: ReadyEvent) -> Turn[None]:
        if self._verdicts.is_known(event):
            return
        is_early = self._deadline is None and self._is_going
        if self._ready_at is not None or not (is_early or self._is_waiting):
            yield from self._refuse(event, "duplicate" if self._ready_at is not None else "too_late")
            return
        self._ready_at = as_utc_text(self._ctx.current_utc_datetime)
        self._verdicts.answer(event)
        if self._is_waiting:
            self._stop_waiting()
            self._process()
        channel = event.channel or "event"
        said: dict[str, Any] = {"after": self._phase, "channel": channel, "detail": READY, "comment": event.comments}
        self._record.note("received", **_doer_of(event), **said)
        yield from self._store()

    def _swap(self, event: SwapEvent) -> Turn[None]:
        """Put other data in place of the old, which are kept for who asked; both or neither is done."""
        if self._verdicts.is_known(event):
            return
        if self._swaps >= MAX_SWAPS:
            yield from self._refuse(event, "too_often")
            return
        self._swaps += 1
        if event.decision_id is not None:
            self._record.keep(f"reply|{digest_of_id(event.decision_id)}", {"old_data": self._data})
        self._data = event.data
        self._verdicts.answer(event)
        payload = {"data": event.data}
        self._record.note("swapped", actor=event.sent_by, channel=event.channel or "event", payload=payload)
        yield from self._store()

    def _refuse(self, event: ReadyEvent | SwapEvent, refusal: str) -> Turn[None]:
        self._verdicts.answer(event, refusal)
        doer = _doer_of(event)
        who = doer.pop("actor")
        self._verdicts.note_refusal(who, event.channel, refusal, **doer)
        yield from self._store()

    # What is done

    def _called(self, finished: Finished) -> Turn[None]:
        """Do what follows on a call."""
        name: CallName = finished.what
        if finished.succeeded:
            outcome = GuardedCallOutcome.model_validate(finished.result)
            skipped = outcome.status == "Skipped"
            self._calls.ended(name, "skipped" if skipped else "succeeded")
            if name in UNDOING:
                self._record.note("compensated", detail=name)
            else:
                self._follow(name, outcome)
                said: Any = {"action": "skipped", "actor": outcome.by} if skipped else {"action": "called"}
                self._record.note(after=self._phase, detail=name, **said)
        else:
            self._calls.ended(name, "failed")
            self._record.note("compensation_failed" if name in UNDOING else "call_failed", detail=name)
            self._stop_waiting()
            if self._is_over_time:
                self._run_out_of_time()
        yield from self._store()

    def _follow(self, name: CallName, outcome: GuardedCallOutcome) -> None:
        if name != "create_refund":
            return
        self._refund = fitting(outcome.result)
        if not self._is_going:
            return
        self._calls.add("notify_created")
        if self._ready_at is not None:
            self._process()
        else:
            self._wait()

    def _process(self) -> None:
        self._phase = PROCESSING
        self._calls.add("process_refund")

    def _wait(self) -> None:
        self._phase, self._is_waiting = WAITING, True
        self._deadline = self._clock.now + timedelta(hours=self._asked.ready_hours)
        self._record.open_wait(
            kind="refund",
            title=self._asked.title,
            people=(),
            deadline=self._deadline,
            actions=("ready",),
            path=path_to(PATH, self._ctx.instance_id),
        )

    def _expire(self) -> Turn[None]:
        self._stop_waiting()
        self._phase = EXPIRING
        self._record.note("timed_out", after=EXPIRING, channel="timer")
        self._calls.add("notify_expired")
        yield from self._store()

    def _stop_waiting(self) -> None:
        self._is_waiting = False
        self._record.close_wait()

    # What is undone

    def _undo(self) -> Turn[None]:
        """Undo what was done, newest first. That has all the time that it takes."""
        self._ends_at = None
        while self._calls.to_undo:
            self._phase = COMPENSATING
            self._calls.add(self._calls.to_undo.pop())
            yield from self._store()
            while self._inbox.watched:
                yield from self._take_next()

    def _fail(self) -> Turn[None]:
        self._inbox.close()
        if self._is_out_of_time:
            yield from out_of_time(self._record)
            raise ExecutionTimedOut
        self._phase = FAILED
        self._record.note("ended", after=FAILED)
        yield from self._store()
        raise RefundFailed(self._calls.why)

    def _run_out_of_time(self) -> None:
        """Wait for nothing but what is under way, which ends at this time too."""
        self._is_out_of_time = True
        self._ends_at = None
        self._stop_waiting()

    # What is put on record, and said of it

    def _store(self) -> Turn[None]:
        """Put on record what was noted; only then make calls, and say where it stands."""
        yield from self._record.store()
        self._say()
        self._verdicts.publish()
        self._calls.begin(self._given)

    def _say(self) -> None:
        """Say in the custom status where it stands."""
        attributes = {DATA: self._data} | ({READY: self._ready_at} if self._ready_at is not None else {})
        self._record.data(attributes)
        self._record.enter(
            self._phase,
            waiting_for=READY if self._is_waiting else None,
            deadline=self._deadline if self._phase in (WAITING, EXPIRING, EXPIRED) else None,
        )

    def _given(self, name: CallName) -> dict[str, Any]:
        left: float | None = None
        if self._ends_at is not None:
            left = max((self._ends_at - self._clock.now).total_seconds(), 0.001)
        refund_id = self._ctx.instance_id
        given = guarded(
            self._asked,
            refund_id,
            name,
            data=self._data,
            refund=self._refund,
            resume_data=self._record.resume_data,
            seconds_left=left,
        )
        return given.plain()

    @property
    def _is_going(self) -> bool:
        """Whether nothing has ended it before its time."""
        return not self._calls.failed and not self._is_out_of_time

    @property
    def _is_over_time(self) -> bool:
        return self._ends_at is not None and self._clock.now >= self._ends_at
