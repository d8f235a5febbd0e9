"""Manual intervention: a call that fails waits until a person has it retried or skipped.

What the call answers is played by a message: the text ``failed`` is a failure, anything else a success.
"""

from collections.abc import Generator, Mapping
from typing import Any

from durabletask import task
from pydantic import JsonValue

from contracts.base import YEAR_IN_HOURS, path_to
from contracts.manual_intervention import (
    COMMAND,
    EXECUTE_RPC,
    MAX_MESSAGES,
    RETRY,
    SKIP,
    ChannelName,
    ManualInterventionInput,
    Message,
    OnCommand,
    OnExecuteRpc,
    OnRetry,
    OnSkip,
    Publication,
)
from orchestrators.human_step import ExecutionTimedOut, Inbox, end_of, out_of_time
from orchestrators.run_record import RunRecord
from orchestrators.verdicts import Verdicts

PUBLISH = "publish"
EVENTS: Mapping[str, type[Publication]] = {
    PUBLISH: Publication,
    COMMAND: OnCommand,
    RETRY: OnRetry,
    SKIP: OnSkip,
    EXECUTE_RPC: OnExecuteRpc,
}
FAILED = "failed"
MAX_RETRIES = 100
"""How often the call is retried; then it can only be skipped."""
NUMBER_OF_RETRIES = "number_of_retries"
OR = " or "
"""What stands between the channels where the run waits for one of several."""
TITLES = {"get_data": "A call waits for its data", "error": "A call failed; it waits to be retried or skipped"}

type Turn[Result] = Generator[task.Task[Any], Any, Result]


def manual_intervention(ctx: task.OrchestrationContext, request: dict[str, Any]) -> Turn[int]:
    """Make a call until it succeeds, or is skipped, and give the number of retries.

    Takes a ``ManualInterventionInput``; waits for the events of ``EVENTS``. Fails when that takes longer than the
    execution timeout, which is a year where none is given.
    """
    run = _Intervention(ctx, ManualInterventionInput.model_validate(request))
    try:
        return (yield from run.run(request))
    except ExecutionTimedOut:
        yield from out_of_time(run.record)
        raise


class _Intervention:
    """One run, and what has come on its channels and was not taken yet."""

    def __init__(self, ctx: task.OrchestrationContext, asked: ManualInterventionInput) -> None:
        self._ctx = ctx
        self.record = RunRecord(ctx)
        self._ends_at = end_of(ctx, asked.execution_timeout or YEAR_IN_HOURS * 3600)
        self._inbox = Inbox(ctx, EVENTS, self.record.set_aside, in_order=True, ends_at=self._ends_at, listens_on=True)
        self._waiting: dict[ChannelName, list[JsonValue]] = {COMMAND: [], RETRY: [], SKIP: []}
        self._retries = self._retries_begun = 0
        self._started_by = asked.started_by
        self._verdicts = Verdicts(self.record)

    def run(self, request: dict[str, Any]) -> Turn[int]:
        """Go from state to state, to the end."""
        self._enter("init")
        self.record.note("started", after="get_data", actor=self._started_by, channel="api", payload=request)
        while True:
            _, answer = yield from self._take("get_data", (COMMAND,))
            self._retries = self._retries_begun  # a retry counts when the call is made
            if answer != FAILED:
                break
            self.record.note("call_failed", after="error")
            # Where both wait the retry goes first: the skip can wait for the next failure, and not the other way round.
            channels = (RETRY, SKIP) if self._retries_begun < MAX_RETRIES else (SKIP,)
            channel, _ = yield from self._take("error", channels)
            if channel == SKIP:
                self.record.note("skipped", after="final")
                break
            self._retries_begun += 1
            self.record.note("retried", after="get_data")
        self._inbox.close()
        self.record.note("ended", after="final")
        yield from self._store()
        self._enter("final")
        return self._retries

    def _take(self, phase: str, channels: tuple[ChannelName, ...]) -> Turn[tuple[ChannelName, JsonValue]]:
        """Be in a state until there is a message on one of its channels, and take that."""
        if not any(self._waiting[channel] for channel in channels):
            self._open_wait(phase, channels)
            yield from self._store()
            self._enter(phase, channels)
        while not any(self._waiting[channel] for channel in channels):
            arrived = yield from self._inbox.next(None)
            assert isinstance(arrived, Publication)
            self._receive(arrived)
            if not any(self._waiting[channel] for channel in channels):
                yield from self._store()
        self.record.close_wait()
        channel = next(channel for channel in channels if self._waiting[channel])
        return channel, self._waiting[channel].pop(0)

    def _receive(self, event: Publication) -> None:
        """Keep the messages of an event for their turn, or refuse them all; what came before is known."""
        if self._verdicts.is_known(event):
            return
        code = self._keep(event)
        self._verdicts.answer(event, code)
        if code not in ("taken", "duplicate"):
            self._verdicts.note_refusal(event.sent_by, event.channel, code)

    def _keep(self, event: Publication) -> str:
        """Keep what has an effect; give the code of the verdict."""
        kept: list[Message] = []
        for message in event.messages:
            waiting = len(self._waiting[message.channel]) + sum(each.channel == message.channel for each in kept)
            if message.channel == COMMAND and waiting >= MAX_MESSAGES:
                return "too_many"
            if message.channel == RETRY and self._retries_begun >= MAX_RETRIES:
                return "no_more_retries"
            if message.channel == COMMAND or not waiting:
                kept.append(message)
        for message in kept:
            self._waiting[message.channel].append(message.value)
            self.record.note(
                "received",
                actor=event.sent_by,
                channel=event.channel or "event",
                detail=message.channel,
                payload=message.value,
            )
        return "taken" if kept else "duplicate"

    def _open_wait(self, phase: str, channels: tuple[ChannelName, ...]) -> None:
        assert self._ends_at is not None
        self.record.open_wait(
            kind=manual_intervention.__name__,
            title=TITLES[phase],
            people=(),
            deadline=self._ends_at,
            actions=channels,
            path=path_to("/design-pattern/intervention/status/{}", self._ctx.instance_id),
        )

    def _store(self) -> Turn[None]:
        """Put on record what was noted, and only then publish the verdicts."""
        yield from self.record.store()
        self._verdicts.publish()

    def _enter(self, phase: str, channels: tuple[ChannelName, ...] = ()) -> None:
        self.record.data({NUMBER_OF_RETRIES: self._retries})
        deadline = self._ends_at if channels else None
        self.record.enter(phase, waiting_for=OR.join(channels) or None, deadline=deadline)
