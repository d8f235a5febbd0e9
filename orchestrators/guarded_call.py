"""Guarded call: a call to an outside API that waits for a person when it has failed, instead of failing the run."""

from collections.abc import Generator
from datetime import datetime, timedelta
from typing import Any

from durabletask import task

from activities.approval import check_answers
from activities.guarded_call import call_api
from contracts.audit import digest_of
from contracts.base import as_utc_text
from contracts.guarded_call import (
    Answer,
    Attempt,
    EditEvent,
    FailEvent,
    GateEvent,
    GuardedCallInput,
    GuardedCallOutcome,
    Refusal,
    RetryEvent,
    SkipEvent,
    masked,
)
from contracts.human_step import Asking
from orchestrators.backoff import wait_after
from orchestrators.gate import Gatekeeper
from orchestrators.human_step import ExecutionTimedOut, Finished, Inbox, end_of, out_of_time
from orchestrators.retries import EFFECT
from orchestrators.run_clock import run_clock
from orchestrators.run_record import RunRecord
from orchestrators.verdicts import Verdicts

EVENTS: dict[str, type[GateEvent]] = {"retry": RetryEvent, "edit": EditEvent, "skip": SkipEvent, "fail": FailEvent}
ACTIONS: dict[type[Asking], str] = {contract: name for name, contract in EVENTS.items()}
DONE: dict[str, Any] = {"retry": "retried", "edit": "edited", "skip": "skipped", "fail": "failed"}
"""What is noted of each."""
CALL = "call"
"""The attempt, among what is watched; the rest are mails."""

type Turn[Result] = Generator[task.Task[Any], Any, Result]


def guarded_call(ctx: task.OrchestrationContext, request: dict[str, Any]) -> Turn[dict[str, Any]]:
    """Call an outside API until it works, by itself at first, and then as people say.

    Takes a ``GuardedCallInput``, gives a ``GuardedCallOutcome``; waits for the events of ``EVENTS``. Fails when people
    let it fail, when nobody acts in time, and when the execution timeout has passed.
    """
    run = _GuardedCall(ctx, GuardedCallInput.model_validate(request))
    try:
        return (yield from run.run())
    except ExecutionTimedOut:
        yield from run.end_out_of_time()
        raise


class CallFailed(Exception):
    """The call has failed for good: somebody said so, or nobody acted in time."""


class _GuardedCall:
    """One run: groups of attempts, with a gate after each that fails."""

    def __init__(self, ctx: task.OrchestrationContext, asked: GuardedCallInput) -> None:
        self._ctx = ctx
        self._asked = asked
        self._clock = run_clock(ctx)
        self.record = RunRecord(ctx)
        self._verdicts = Verdicts(self.record)
        self._ends_at = end_of(ctx, asked.execution_timeout)
        self._inbox = Inbox(ctx, EVENTS, self.record.set_aside, in_order=True, ends_at=self._ends_at, listens_on=True)
        self._gate = Gatekeeper(ctx, asked, self.record, self._inbox)
        self._mailing = self._gate.mailing
        self._call = asked.call
        self._key = ctx.new_uuid()
        self._versions = self._attempts = self._actions = 0
        self._acted: GateEvent | None = None

    def run(self) -> Turn[dict[str, Any]]:
        """Try, and ask people, until it works or is ended."""
        self.record.enter("calling")
        shown = self._asked.model_copy(update={"call": self._asked.call.model_copy(update={"body": None})})
        self.record.note(
            "started",
            after="calling",
            actor=self._asked.started_by,
            channel="api" if self._asked.part_of is None else None,
            detail=self._asked.name,
            # Without what runs of before do not have.
            payload=shown.model_dump(mode="json", exclude={"started_by": True, "at_step": True}),
        )
        self._keep_call()
        yield from self.record.store()
        while True:
            answer = yield from self._try()
            if answer.problem is None:
                self.record.note("called", after="succeeded", detail=self._asked.name)
                self.record.note("ended")
                return (yield from self._end("Succeeded", answer.result))
            yield from self._ask(answer)
            event = yield from self._wait_at_gate()
            if event is None:
                return (yield from self._end_by_time())
            if isinstance(event, SkipEvent):
                return (yield from self._end("Skipped", event.result))
            if isinstance(event, FailEvent):
                self._inbox.close()
                raise CallFailed(f"{event.by} let it fail: {event.reason}")

    # Trying

    def _try(self) -> Turn[Answer]:
        """Make a group of attempts; give the answer that worked, or the last one."""
        retry = self._asked.retry
        for number in range(1, retry.attempts + 1):
            if self._ends_at is not None and self._ends_at <= self._clock.now:
                raise ExecutionTimedOut
            self._attempts += 1
            attempt = Attempt(call=self._call, number=self._attempts, key=self._key)
            self._inbox.watch(self._ctx.call_activity(call_api, input=attempt.plain()), CALL)
            answer = yield from self._answer()
            if answer.problem is None:
                return answer
            self._note_failure(answer)
            wait = wait_after(retry, number, answer, f"{self.record.run} {self._ctx.instance_id} {self._attempts}")
            if wait is None:
                return answer
            again = self._clock.now + timedelta(seconds=wait)
            yield from self._store()
            self.record.enter("waiting_to_retry", deadline=again)
            while (yield from self._next(again)) is not None:
                pass
            self.record.enter("calling")
        return answer

    def _answer(self) -> Turn[Answer]:
        """Wait for the answer, also past the end of the run: what the call did must not be left in the dark."""
        self._inbox.ends_at = None
        while True:
            finished = yield from self._next(None)
            if finished is not None and finished.what == CALL:
                break
        self._inbox.ends_at = self._ends_at
        if finished.succeeded:
            return Answer.model_validate(finished.result)
        message = "The attempt could not be made; the log of the app has the details."
        return Answer(problem="internal", message=message, fingerprint=digest_of("internal")[:16])

    def _next(self, until: datetime | None) -> Turn[Finished | None]:
        """Wait for something to end, or for a time, while nobody is asked; refuse what people say meanwhile."""
        while True:
            arrived = yield from self._inbox.next(until)
            if arrived is None:
                return None
            if isinstance(arrived, Finished):
                if arrived.what != CALL:
                    yield from self._delivered(arrived)
                return arrived
            yield from self._refuse(arrived, "not_waiting")

    def _note_failure(self, answer: Answer) -> None:
        said = answer.model_dump(mode="json", exclude={"result": True})
        body = {"number": self._attempts, "at": as_utc_text(self._now), **said}
        self.record.keep(f"attempt|{self._attempts:06d}", body)
        what = f"{answer.problem} {answer.status or ''}".strip()
        self.record.note("call_failed", detail=f"attempt {self._attempts}: {what}")

    # Asking people

    def _ask(self, answer: Answer) -> Turn[None]:
        self._gate.open(self._call, answer, self._attempts)
        yield from self._store()
        self._gate.show()

    def _wait_at_gate(self) -> Turn[GateEvent | None]:
        """Wait until somebody acts, and do it; None when nobody did in time."""
        while True:
            until = self._gate.next_time
            arrived = yield from self._inbox.next(until)
            if isinstance(arrived, Finished):
                yield from self._delivered(arrived)
            elif isinstance(arrived, RetryEvent | EditEvent | SkipEvent | FailEvent):
                if self._verdicts.is_known(arrived):
                    continue
                refusal = yield from self._why_not(arrived)
                if refusal is None:
                    yield from self._act(arrived)
                    return arrived
                yield from self._refuse(arrived, refusal)
            elif until < self._gate.deadline:
                self._gate.remind()
                yield from self._store()
            elif self._asked.on_deadline == "escalate" and not self._gate.is_escalated:
                self._gate.escalate()
                yield from self._store()
                self._gate.show()
            else:
                return None

    def _why_not(self, event: GateEvent) -> Turn[Refusal | None]:
        refusal = self._gate.why_not(event, ACTIONS[type(event)])
        if refusal is not None or not isinstance(event, EditEvent):
            return refusal
        if digest_of(event.body) == digest_of(self._call.body):
            return "unchanged"
        if self._asked.body_schema is None:
            return None
        if not isinstance(event.body, dict):
            return "body_wrong"
        given = {"form": self._asked.body_schema, "answers": event.body}
        try:
            checked = yield self._ctx.call_activity(check_answers, input=given, retry_policy=EFFECT)
        except task.TaskFailedError:
            return "body_wrong"
        return "body_wrong" if checked["wrong"] else None

    def _act(self, event: GateEvent) -> Turn[None]:
        """Do what somebody said: put it on record, close the gate, and say so."""
        action = ACTIONS[type(event)]
        self._acted = event
        self._actions += 1
        said = {"gate": self._gate.number, "action": action, "by": event.by, "reason": event.reason}
        if event.sent_by is not None:
            said["sent_by"] = event.sent_by
        at, channel = as_utc_text(self._now), event.channel or "event"
        if isinstance(event, EditEvent):
            self._call = self._call.model_copy(update={"body": event.body})
            self._key = self._ctx.new_uuid()
            self._keep_call()
            said["version"] = self._versions
        self.record.keep(f"action|{self._actions:06d}", {**said, "at": at, "channel": channel})
        after = {"skip": "skipped", "fail": "failed"}.get(action, "calling")
        self.record.note(
            DONE[action],
            after=after,
            actor=event.sent_by or event.by,
            on_behalf_of=event.by if event.sent_by is not None else None,
            channel=channel,
            comment=event.reason,
            payload=event.model_dump(mode="json", exclude_none=True),
        )
        if action in ("skip", "fail"):
            self.record.note("ended")
        self._verdicts.answer(event)
        self._gate.close(action, event.by)
        yield from self._store()
        self.record.enter(after)
        self._gate.show()

    # The end

    def _end(self, status: Any, result: Any) -> Turn[dict[str, Any]]:
        self._inbox.close()
        yield from self._store()
        self.record.enter(status.lower())
        outcome = GuardedCallOutcome(
            status=status,
            result=result,
            attempts=self._attempts,
            operator_retries=self._gate.retries,
            by=self._acted.by if self._acted is not None else None,
            reason=self._acted.reason if self._acted is not None else None,
        )
        return self.record.outcome(outcome)

    def end_out_of_time(self) -> Turn[None]:
        """End a run that has taken too long, whatever it was at."""
        self._inbox.close()
        was_open = self._gate.is_open
        if was_open:
            self._gate.close(None, None)
        yield from out_of_time(self.record)
        if was_open:
            self._gate.show()

    def _end_by_time(self) -> Turn[dict[str, Any]]:
        """Skip the call, or fail it, since nobody acted in time."""
        self._acted = None
        is_skipped = self._asked.on_deadline == "skip"
        phase = "skipped" if is_skipped else "failed"
        self._gate.close(None, None)
        self.record.note("timed_out", after=phase, channel="timer", detail=self._asked.on_deadline)
        self.record.note("ended")
        if is_skipped:
            ended = yield from self._end("Skipped", self._asked.substitute)
            self._gate.show()
            return ended
        self._inbox.close()
        yield from self._store()
        self.record.enter(phase)
        self._gate.show()
        raise CallFailed(f"Nobody acted until {as_utc_text(self._clock.real(self._gate.deadline))}.")

    # Saying so

    def _keep_call(self) -> None:
        self._versions += 1
        self.record.keep(f"call|{self._versions:06d}", masked(self._call))

    def _refuse(self, event: Any, refusal: Refusal) -> Turn[None]:
        if self._verdicts.is_known(event):
            return
        self._verdicts.answer(event, refusal)
        on_behalf_of = event.by if event.sent_by is not None else None
        who = event.sent_by or event.by
        self._verdicts.note_refusal(who, event.channel, refusal, on_behalf_of=on_behalf_of)
        yield from self._store()

    def _delivered(self, finished: Finished) -> Turn[None]:
        """Note what became of mails, when all of them have come to an end."""
        self._mailing.delivered(finished)
        if not self._mailing.is_under_way:
            yield from self._store()

    def _store(self) -> Turn[None]:
        """Put on record what was noted; only then send mails and publish verdicts."""
        self._mailing.note()
        yield from self.record.store()
        self._mailing.send()
        self._verdicts.publish()

    @property
    def _now(self) -> datetime:
        return self._ctx.current_utc_datetime
