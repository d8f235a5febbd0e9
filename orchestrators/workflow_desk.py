"""What a run of a declared workflow knows, says of itself, and takes in, whatever step it is at."""

from collections.abc import Generator
from datetime import UTC, datetime
from typing import Any

from durabletask import task
from pydantic import JsonValue

from contracts.at_step import AtStep
from contracts.audit import Channel
from contracts.base import Contract, as_utc_text, one_line, path_to, same_person
from contracts.pause import MAX_REASON
from contracts.workflow import BlockAnswer, Definition, FromBlock, ReceivedEvent, WorkflowInput, WorkflowState, received
from contracts.workflow_data import EXECUTION, RESERVED, STEPS, DataError, check_data, put, resolve, text_of
from contracts.workflow_steps import ANSWER, StepId
from orchestrators.human_step import Finished, Inbox, end_of
from orchestrators.run_clock import run_clock
from orchestrators.run_record import RunRecord
from orchestrators.verdicts import Verdicts

PATH = "/api/v1/executions/{}"
RUNNING = "running"
MAX_EARLY = 20
"""How many events are kept that came before a step waited for them."""
MAX_CARRIED = 200
"""How many verdicts are known of those that came before the history began anew."""
SHOWN_WHO = 100
"""How much of a name the custom status shows beside all the rest."""

type Turn[Result] = Generator[task.Task[Any], Any, Result]


class Desk:
    """The data of a run, its record and its inbox.

    ``step`` is the one that it is at, ``following`` the next one, if that is said, and ``visit`` counts the steps that
    were gone to; ``data`` is what it knows.
    """

    def __init__(self, ctx: task.OrchestrationContext, asked: WorkflowInput, definition: Definition) -> None:
        self.ctx = ctx
        self.asked = asked
        self.record = RunRecord(ctx)
        self.clock = run_clock(ctx)
        self.clock.on_resume = self._merge_resumed
        self.verdicts = Verdicts(self.record)
        events: dict[str, type[Contract]] = {ANSWER: BlockAnswer}
        events |= {event: received(event) for event in definition.events}
        self.ends_at = end_of(ctx, asked.execution_timeout)
        self.inbox = Inbox(ctx, events, self.record.set_aside, in_order=True, ends_at=self.ends_at, listens_on=True)
        self.step: StepId = definition.steps[0].id
        self.following: StepId | None = None
        self.visit = self.mails = self.arrivals = 0
        self.data: dict[str, JsonValue] = dict(asked.input)
        self._children = 0
        self._early: dict[str, list[dict[str, JsonValue]]] = {}
        self._answered: dict[str, JsonValue] | None = None

    # What is carried over to a new history

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way: all is on record, answered, and read."""
        return self.inbox.is_empty and self.record.is_stored and self.verdicts.is_published

    def carried(self) -> WorkflowState:
        """Return what it knows, for ``restore``."""
        return WorkflowState(
            record=self.record.carried(),
            at=self.step,
            visits=self.visit,
            data=self.data,
            early=self._early,
            mails=self.mails,
            children=self._children,
            answered=self._answered,
            ends_at=self.ends_at,
            verdicts=dict(list(self.verdicts.known.items())[-MAX_CARRIED:]),
            refusals=self.verdicts.refusals,
        )

    def restore(self, known: WorkflowState) -> None:
        """Take what was known before the history began anew."""
        self.record.restore(known.record)
        self.step, self.visit, self.data = known.at, known.visits, known.data
        self._early = {event: list(payloads) for event, payloads in known.early.items()}
        self.mails, self._children, self._answered = known.mails, known.children, known.answered
        self.ends_at = self.inbox.ends_at = known.ends_at
        self.verdicts.known, self.verdicts.refusals = dict(known.verdicts), dict(known.refusals)

    # The data

    def resolve(self, value: Any) -> Any:
        """Return a value with the data in place of the references in it. Raises ``DataError``."""
        return resolve(value, self.view)

    def text(self, template: str) -> str:
        """The same of a text, which stays one. Raises ``DataError``."""
        return text_of(self.resolve(template))

    def address(self, template: Any) -> Any:
        """The same of an address, in which the data stay the parts that they are meant for. Raises ``DataError``."""
        return resolve(template, self.view, in_address=True)

    @property
    def view(self) -> dict[str, JsonValue]:
        """The data, with what the run itself is."""
        execution: JsonValue = {
            "id": self.ctx.instance_id,
            "workflow": self.asked.workflow,
            "version": self.asked.version,
        }
        return {**self.data, EXECUTION: execution}

    def merge(self, data: dict[str, JsonValue]) -> None:
        """Merge data into those of the run, at the top; a later one replaces an earlier one. Raises ``DataError``."""
        taken = next((name for name in RESERVED if name in data), None)
        if taken is not None:
            raise DataError(f"'{taken}' cannot be given: it is what the run itself says")
        merged = {**self.data, **data}
        check_data(merged)
        self.data = merged

    def keep(self, result: JsonValue) -> None:
        """Keep what came of the step, if something did. Raises ``DataError`` when the data are too long."""
        self.data = self.with_result(self.data, result)

    def with_result(self, data: dict[str, JsonValue], result: JsonValue) -> dict[str, JsonValue]:
        """Return data with what came of the step. Raises ``DataError`` when they are too long."""
        kept = put(data, f"{STEPS}.{self.step}", result) if result is not None else data
        check_data(kept)
        return kept

    def _merge_resumed(self, data: dict[str, Any]) -> None:
        """Merge what a paused run is resumed with; it must not fail for that."""
        try:
            self.merge(data)
        except DataError as error:
            self.record.warn(f"The data of a resume were not merged: {error}.")

    # What it says of itself

    def say(
        self, phase: str, *, waiting_for: str | None = None, deadline: datetime | None = None, **said: JsonValue
    ) -> None:
        """Say in the custom status where it stands; ``said`` is more of it."""
        answered: dict[str, JsonValue] = {"answered": self._answered} if self._answered is not None else {}
        self.record.data({"visit": self.visit, **answered, **said})
        self.record.enter(phase, waiting_for=waiting_for, deadline=deadline)

    def store(self) -> Turn[None]:
        """Put on record what was noted; only then publish verdicts."""
        yield from self.record.store()
        self.verdicts.publish()

    def open_wait(self, reason: str, people: tuple[str, ...], deadline: datetime, actions: tuple[str, ...]) -> None:
        """Say who is waited for from now on, and why."""
        self.record.open_wait(
            kind="workflow",
            title=one_line(f"{self.asked.workflow}, {self.step}: {reason}"),
            people=people,
            deadline=deadline,
            actions=actions,
            path=path_to(PATH, self.ctx.instance_id),
            at_step=self.at_step(reason),
        )

    def at_step(self, reason: str | None = None) -> AtStep:
        """Return where it is, for the waits of this run, and of those that it calls."""
        return AtStep(
            instance_id=self.ctx.instance_id,
            run=self.record.run,
            workflow_id=self.asked.workflow,
            step=self.step,
            next_step=self.following,
            reason=reason,
        )

    def answer_was(self, event: BlockAnswer, approved: bool | None) -> None:
        """Keep who answered, for those who come later."""
        at = as_utc_text(self.ctx.current_utc_datetime)
        self._answered = {"step": self.step, "by": event.by[:SHOWN_WHO], "at": at, "approved": approved}

    def new_child(self, workflow: str, kind: str) -> str:
        """Return the id of a run that is called, and keep it for who looks at this one."""
        self._children += 1
        child = f"{kind}-{self.ctx.new_uuid()}"
        body: JsonValue = {"step": self.step, "workflow": workflow, "id": child}
        self.record.keep(f"child|{self._children:06d}", body)
        return child

    # What comes in

    def next(self, until: datetime | None) -> Turn[Finished | BlockAnswer | ReceivedEvent | None]:
        """Wait for the next thing, of which the step has to make something; a repeated answer is none."""
        while True:
            arrived: Any = yield from self.inbox.next(until)
            self.arrivals += arrived is not None
            if isinstance(arrived, BlockAnswer) and self.verdicts.is_known(arrived):
                continue
            return arrived  # type: ignore[no-any-return]

    def idle(self, until: datetime | None) -> Turn[Finished | None]:
        """Wait for something to end, or for a time, while nobody is asked."""
        while True:
            arrived = yield from self.next(until)
            if arrived is None or isinstance(arrived, Finished):
                return arrived
            yield from self.set_by(arrived)

    def finish(self, begun: task.Task[Any]) -> Turn[Finished]:
        """Wait for something to end, also past the end of the run: what it did must not be left in the dark."""
        self.inbox.watch(begun, self.step)
        self.inbox.ends_at = None
        finished = yield from self.idle(None)
        self.inbox.ends_at = self.ends_at
        assert finished is not None
        return finished

    def set_by(self, arrived: BlockAnswer | ReceivedEvent) -> Turn[None]:
        """Keep an event that no step waits for yet, and refuse an answer that nobody asked for."""
        if isinstance(arrived, BlockAnswer):
            yield from self.refuse(arrived, "not_waiting")
        elif sum(map(len, self._early.values())) >= MAX_EARLY:
            yield from self.record.set_aside(f"An event '{arrived.event}' was set aside: too many came too early.")
        else:
            self._early.setdefault(arrived.event, []).append(arrived.data)

    def came_early(self, event: str) -> dict[str, JsonValue] | None:
        """Take the payload of an event that came before it was waited for, oldest first."""
        payloads = self._early.get(event)
        return payloads.pop(0) if payloads else None

    def refuse(self, event: BlockAnswer, refusal: str) -> Turn[None]:
        """Refuse an answer, and put that on record."""
        self.verdicts.answer(event, refusal)
        self.verdicts.note_refusal(event.sent_by or event.by, event.channel, refusal)
        yield from self.store()

    def is_for_another(self, link: FromBlock | None) -> bool:
        """Whether an answer is meant for another wait than the one of today."""
        return link is not None and (link.step, link.visit) != (self.step, self.visit)

    @property
    def now(self) -> datetime:
        """The time of the run."""
        return self.clock.now

    @property
    def is_over_time(self) -> bool:
        """Whether the run has taken too long."""
        return self.ends_at is not None and self.ends_at <= self.now

    @property
    def seconds_left(self) -> float | None:
        """How long the run may still take; null for as long as it wants."""
        return max((self.ends_at - self.now).total_seconds(), 0.001) if self.ends_at is not None else None


def may_answer(event: BlockAnswer, people: tuple[str, ...]) -> bool:
    """Whether somebody is asked; where nobody is named, everybody is."""
    return not people or same_person(event.by) in [same_person(each) for each in people]


def shown(text: str) -> str:
    """Return text without the one character that no record takes."""
    return text.replace("\x00", "\ufffd")


def shortened(reason: str) -> str:
    """Return a reason as one may be: not too long, and not empty."""
    reason = shown(reason) or "-"
    return reason if len(reason) <= MAX_REASON else reason[: MAX_REASON - 1] + "…"


def doer(event: BlockAnswer) -> dict[str, Any]:
    """Who answered for whom, as the trail says it."""
    return {"actor": event.sent_by or event.by, "on_behalf_of": event.by if event.sent_by is not None else None}


def channel_of(event: BlockAnswer) -> Channel:
    """The door that an answer came in by."""
    return event.channel or "event"


def at_text(moment: datetime) -> str:
    """Return a time in the words of the data."""
    return as_utc_text(moment.replace(tzinfo=UTC))
