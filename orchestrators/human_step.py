"""Waiting for people: the only place where an event races a timer."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast, override

from durabletask import task

from activities.approval import send_approval_request
from contracts.base import Contract
from contracts.mail import ApprovalMail
from orchestrators.event_payload import EventPayload, validated
from orchestrators.retries import EFFECT
from orchestrators.run_clock import run_clock
from orchestrators.run_record import RunRecord

EXECUTION_TIMED_OUT = "execution_timed_out"
"""The phase of a run that took too long."""
MALFORMED = "An event '{event}' was set aside: {reason}."

type OnMalformed = Callable[[str], Generator[task.Task[Any], Any]]


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
    record.note("asked", detail=", ".join(mail.to)[:2000] or None)
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
    on_malformed: OnMalformed,
    *,
    ends_at: datetime | None = None,
) -> Generator[task.Task[Any], Any, Event | None]:
    """Wait until ``event`` comes with a payload that fits ``contract``, or until ``deadline`` (in the run's time).

    Gives the payload, or None when the deadline came first. A payload that does not fit never ends the wait:
    ``on_malformed`` gets a sentence about it, and is gone through.
    """
    # Runs of before went by the order of this list, and their histories do.
    inbox = Inbox(ctx, {event: contract}, on_malformed, in_order=ctx.version not in (None, "", "2"), ends_at=ends_at)
    arrived = yield from inbox.next(deadline)
    inbox.close()
    assert not isinstance(arrived, Finished)
    return cast("Event | None", arrived)


@dataclass(frozen=True)
class Finished:
    """An activity that was watched has ended; ``what`` is what it was watched as, ``result`` what it gave."""

    what: Any
    succeeded: bool
    result: Any = None


class ExecutionTimedOut(Exception):
    """The run took longer than its execution timeout; what it waited for is cancelled."""

    def __init__(self) -> None:
        super().__init__("The run took longer than its execution timeout allows.")


def end_of(ctx: task.OrchestrationContext, execution_timeout: float | None) -> datetime | None:
    """Return when a run that begins now has taken too long (in its time), from its timeout in seconds."""
    return run_clock(ctx).now + timedelta(seconds=execution_timeout) if execution_timeout is not None else None


def out_of_time(record: RunRecord) -> Generator[task.Task[Any], Any]:
    """Put on record that the run took too long, and waits for nobody any more; the caller fails it then."""
    record.close_wait()
    record.note("timed_out", after=EXECUTION_TIMED_OUT, channel="timer", detail="execution timeout")
    record.note("ended")
    yield from record.store()
    record.enter(EXECUTION_TIMED_OUT)


class _Noted(task.WhenAnyTask[Any]):
    """Calls ``note`` with a task when it completes, whatever the run stands still for at that time."""

    def __init__(self, awaited: task.Task[Any], note: Callable[[task.Task[Any]], None]) -> None:
        self._note = note  # before it completes, which it may have done
        super().__init__([awaited])

    @override
    def on_child_completed(self, task: task.Task[Any]) -> None:
        self._note(task)
        super().on_child_completed(task)


class Inbox:
    """All that a run waits for at once: events, the end of activities that it does not stand still for, and a time.

    It is the one place where an event races a timer. What came first is given first, also of what came while the run
    stood still for something else (``in_order``). Whatever loses stays in the race, or is cancelled by ``close``: a
    wait that is left behind would swallow the next event of that name, and a timer would fire into a later step.
    Times are those of the run's clock, so that all of them move when a pause froze it. ``ends_at`` is when the run has
    taken too long, whatever it waits for. While a run stands still, the order is kept of the first event of each name;
    with ``listens_on``, of all events, from when the inbox is made; else from when the run is paused.
    """

    def __init__(
        self,
        ctx: task.OrchestrationContext,
        contracts: Mapping[str, type[Contract]],
        on_malformed: OnMalformed,
        *,
        in_order: bool,
        ends_at: datetime | None = None,
        listens_on: bool = False,
    ) -> None:
        self.ends_at = ends_at
        self._ctx = ctx
        self._clock = run_clock(ctx)
        self._contracts = contracts
        self._on_malformed = on_malformed
        self._in_order = in_order
        self._came: list[task.Task[Any]] = []
        self._listens_on = listens_on
        self._events: list[tuple[str, task.CancellableTask[EventPayload]]] = []
        self._watched: list[tuple[task.Task[Any], Any]] = []
        self._timer: task.CancellableTask[None] | None = None
        self._until: datetime | None = None
        self._is_open = listens_on
        self._clock.on_pause.append(self._keep_order)
        if listens_on:
            for event in contracts:
                self._listen(event)

    @property
    def watched(self) -> int:
        """How many activities have not ended."""
        return len(self._watched)

    @property
    def under_way(self) -> list[Any]:
        """What these activities are watched as."""
        return [what for _, what in self._watched]

    @property
    def is_empty(self) -> bool:
        """Whether nothing has come that was not given by ``next``, and nothing is watched."""
        return not self._watched and not any(waiting.is_complete for _, waiting in self._events)

    def watch(self, activity: task.Task[Any], what: Any) -> None:
        """Let ``next`` tell when an activity has ended."""
        self._watched.append((activity, what))
        self._note_when_it_comes(activity)

    def next(self, until: datetime | None) -> Generator[task.Task[Any], Any, Contract | Finished | None]:
        """Wait for the next thing: the payload of an event, an activity that ended, or None when it is ``until``.

        Without ``until``, what is watched has to end by itself.

        A payload that does not fit its contract is no such thing: ``on_malformed`` gets a sentence about it. Raises
        ``ExecutionTimedOut`` when the run has taken too long, with nothing left to wait for but what is watched.
        """
        is_last = self.ends_at is not None and (until is None or self.ends_at <= until)
        due = self.ends_at if is_last else until
        self._is_open = True
        while True:
            # In the order in which the actions of a recorded history stand: the timer comes first.
            timer = self._timer_at(due)
            for event in self._contracts:
                self._listen(event)
            racing = [*(waiting for _, waiting in self._events), *(each for each, _ in self._watched)]
            race = dict.fromkeys([*racing, *([timer] if timer else [])])
            winner = next((each for each in self._came if each in race), None)
            if winner is None or not self._in_order:
                winner = yield task.when_any(list(race))
            race |= dict.fromkeys(waiting for _, waiting in self._events)  # with those that began meanwhile
            self._came[:] = [each for each in self._came if each is not winner and each in race]
            if winner is timer:
                self._timer = None
                if self._until != self._real(due) and due is not None and self._clock.now < due:
                    continue  # the clock stood still meanwhile
                if is_last:
                    self.close()
                    raise ExecutionTimedOut
                return None
            for index, (activity, what) in enumerate(self._watched):
                if activity is winner:
                    del self._watched[index]
                    return Finished(what, not activity.is_failed, None if activity.is_failed else activity.get_result())
            index, event = next((at, name) for at, (name, each) in enumerate(self._events) if each is winner)
            payload = self._events.pop(index)[1].get_result() or EventPayload()  # without a payload nothing is decoded
            try:
                return validated(payload, self._contracts[event])
            except ValueError as error:
                yield from self._on_malformed(MALFORMED.format(event=event, reason=error))

    def close(self) -> None:
        """Cancel the timer, and all waits for events."""
        self._is_open = False
        waits, self._events = self._events, []  # else one that is cancelled would be waited for again
        for _, waiting in waits:
            waiting.cancel()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _listen(self, event: str) -> None:
        """Wait for an event as often as that takes."""
        while True:
            waits = [waiting for name, waiting in self._events if name == event]
            # Two: the SDK forgets a wait that begins while the last one of its name completes.
            if sum(not each.is_complete for each in waits) >= 2 if self._listens_on else waits:
                return
            waiting = self._ctx.wait_for_external_event(event, data_type=EventPayload)
            self._note_when_it_comes(waiting)
            self._events.append((event, waiting))

    def _keep_order(self) -> None:
        """Keep the order of all that comes: much may, until the run goes on that is paused."""
        self._in_order = self._listens_on = True
        for event in self._contracts if self._is_open else ():
            self._listen(event)

    def _note(self, came: task.Task[Any]) -> None:
        self._came.append(came)
        event = next((name for name, waiting in self._events if waiting is came), None)
        if event is not None and self._listens_on:
            self._listen(event)

    def _note_when_it_comes(self, awaited: task.Task[Any]) -> None:
        _Noted(awaited, self._note)

    def _real(self, until: datetime | None) -> datetime | None:
        return self._clock.real(until) if until is not None else None

    def _timer_at(self, moment: datetime | None) -> task.Task[None] | None:
        until = self._real(moment)
        if self._timer is not None and self._until != until:
            self._timer.cancel()
            self._timer = None
        if self._timer is None and until is not None:
            self._timer, self._until = self._ctx.create_timer(until), until
            self._note_when_it_comes(self._timer)
        return self._timer
