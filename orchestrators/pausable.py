"""Pausing: any run stands still when it is told to, at any point, and goes on with what it is given."""

from collections.abc import Callable, Generator
from datetime import datetime, timedelta
from functools import wraps
from typing import Any

from durabletask import task

from contracts.pause import PAUSING, PauseEvent
from orchestrators.event_payload import EventPayload, validated
from orchestrators.run_clock import run_clock
from orchestrators.run_record import RunRecord, record_of

MAX_SOURCES = 20
"""How many instances may have paused a run: itself, and those that it was called by."""

type Turn[Result] = Generator[task.Task[Any], Any, Result]
type Workflow[Result] = Callable[[task.OrchestrationContext, dict[str, Any]], Turn[Result]]


def pausable[Result](workflow: Workflow[Result]) -> Workflow[Result]:
    """Make an orchestrator heed the event ``pausing``, a ``PauseEvent``, wherever it stands.

    While it is paused it does not go on, whatever comes; what came is taken in its order afterwards. When it is
    resumed, it is first given its data, the clock of the run is set (``run_clock``), and that is put on record. The
    runs that it has called and that have not ended are paused with it. It goes by events alone, so that it is the same
    on every engine; suspending the instance besides makes the engine, too, say so. A run that is never paused has no
    other history than without this.
    """

    @wraps(workflow)
    def running(ctx: task.OrchestrationContext, request: dict[str, Any]) -> Turn[Result]:
        return (yield from _Pauses(ctx).drive(workflow(ctx, request)))

    return running


class _Pauses:
    """Goes through a workflow step by step, and stands still in between while it is paused."""

    def __init__(self, ctx: task.OrchestrationContext) -> None:
        self._ctx = ctx
        self._clock = run_clock(ctx)
        self._holds: dict[str, PauseEvent] = {}
        self._frozen_since: datetime | None = None
        self._went_on = ctx.current_utc_datetime
        self._told = self._listen()

    def drive[Result](self, workflow: Turn[Result]) -> Turn[Result]:
        """Go through it, to the end."""
        awaited: task.Task[Any] | None = None
        while True:
            self._went_on = self._ctx.current_utc_datetime
            try:
                if awaited is None:
                    awaited = next(workflow)
                elif awaited.is_failed:
                    awaited = workflow.throw(awaited.get_exception())
                else:
                    awaited = workflow.send(awaited.get_result())
            except StopIteration as ended:
                result: Result = ended.value
                return result
            yield from self._wait_for(awaited)

    def _wait_for(self, awaited: task.Task[Any]) -> Turn[None]:
        """Wait until something is done and the run is not paused."""
        while True:
            if self._told.is_complete:
                payload, self._told = self._told.get_result(), self._listen()
                yield from self._take(payload or EventPayload())
            elif awaited.is_complete and not self._holds:
                return
            else:
                yield task.when_any([*([] if awaited.is_complete else [awaited]), self._told, *self._storing])
                if self._holds:
                    record_of(self._ctx).hear()

    @property
    def _storing(self) -> list[task.Task[Any]]:
        """What puts the pause on record: nobody else waits for that."""
        return record_of(self._ctx).storing if self._holds else []

    def _listen(self) -> task.CancellableTask[EventPayload]:
        return self._ctx.wait_for_external_event(PAUSING, data_type=EventPayload)

    def _take(self, payload: EventPayload) -> Turn[None]:
        record = record_of(self._ctx)
        try:
            event = validated(payload, PauseEvent)
        except ValueError as error:
            record.warn(f"An event '{PAUSING}' was set aside: {error}.")
            return
        if event.action == "pause":
            yield from self._pause(record, event)
        else:
            yield from self._resume(record, event)

    def _pause(self, record: RunRecord, event: PauseEvent) -> Turn[None]:
        is_made_up = event.source not in record.pauses and len(record.pauses) >= MAX_SOURCES
        if is_made_up or event.number <= record.pauses.get(event.source, 0):
            return  # or it came before
        record.pauses[event.source] = event.number
        self._holds[event.source] = event
        if self._frozen_since is None and event.clock == "freeze":
            self._frozen_since = self._moment(event)
        for listen in self._clock.on_pause:
            listen()
        self._tell_children(event)
        yield from record.paused(event)

    def _resume(self, record: RunRecord, event: PauseEvent) -> Turn[None]:
        hold = self._holds.get(event.source)
        if hold is None or hold.number != event.number:
            return
        del self._holds[event.source]
        self._tell_children(event)
        moved = timedelta()
        if self._frozen_since is not None and not any(each.clock == "freeze" for each in self._holds.values()):
            moved = max(self._moment(event) - self._frozen_since, timedelta())
            moved -= moved % timedelta(milliseconds=1)  # which is as much of a time as is shown
            self._frozen_since = None
            self._clock.frozen += moved
        data = record.resumed(event, moved, still=next(iter(self._holds.values()), None))
        if data is not None and self._clock.on_resume is not None:
            self._clock.on_resume(data)
        yield from record.store()

    def _moment(self, event: PauseEvent) -> datetime:
        """When a pause began or ended for the run: not before it did what it did last, and not to come."""
        at = event.at.replace(tzinfo=None)
        return min(max(at, self._went_on), self._ctx.current_utc_datetime)

    def _tell_children(self, event: PauseEvent) -> None:
        """What the run has called stands still with it; the data are for the run alone."""
        for child in self._clock.children:
            self._ctx.send_event(child, PAUSING, data=event.model_copy(update={"data": None}).plain())
