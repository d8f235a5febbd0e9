"""What a run says of itself: its custom status, who it waits for, and its audit trail."""

import json
from collections.abc import Generator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from durabletask import task

from activities.records import record
from contracts.at_step import AtStep
from contracts.audit import GENESIS, Action, Channel, Entry, TrailHead, chained
from contracts.carried import RecordState
from contracts.human_step import (
    MAX_VERDICTS,
    MAX_WARNINGS,
    Decision,
    Gate,
    PauseStanding,
    Progress,
    SignupStanding,
    Standing,
    Verdict,
)
from contracts.outcome import Outcome
from contracts.pause import MAX_RESUME_DATA, PauseEvent
from contracts.records import Document, RecordBatch, Recorded, Wait
from contracts.shown import Shown
from orchestrators.retries import RECORD
from orchestrators.run_clock import run_clock

MAX_SET_ASIDE = 20
"""How many events that were set aside the trail names; a flood of them must not make the run grow."""


_KEPT_AS = "_run_record"


@dataclass(frozen=True)
class Storing:
    """An activity that puts a batch on record; ``entries`` are in the trail when it has."""

    task: task.Task[Any]
    batch: RecordBatch
    entries: int


def _both(first: RecordBatch, second: RecordBatch) -> RecordBatch:
    return RecordBatch(**{name: getattr(first, name) + getattr(second, name) for name in RecordBatch.model_fields})


def record_of(ctx: task.OrchestrationContext) -> "RunRecord":
    """Return the record of the run that ``ctx`` is of, which the workflow has made as its first thing."""
    return cast("RunRecord", vars(ctx)[_KEPT_AS])


class RunRecord:
    """Keeps the custom status of a run, its waits, and its audit trail.

    ``note`` and ``open_wait`` and ``close_wait`` gather; ``yield from store()`` puts what they gathered on record.
    Deadlines are in the run's time, and shown in the real one: they move when a pause froze the clock of the run.
    ``pauses`` are the numbers of the last pause that each instance told it of. A run that was started before there were
    records (it has no version) keeps its custom status only, so that its history replays.
    """

    def __init__(self, ctx: task.OrchestrationContext) -> None:
        self._ctx = ctx
        vars(ctx)[_KEPT_AS] = self
        self._clock = run_clock(ctx)
        self._recorded = bool(ctx.version)
        self._progress = Progress(phase="started")
        self.run = f"{ctx.current_utc_datetime:%Y%m%dT%H%M%S%f}Z"
        self._last: Entry | None = None
        self._stored = 0
        self._salt: str | None = None
        self._wait: Wait | None = None
        self._waits = 0
        self._set_aside = 0
        self._shown: list[Shown] = []
        self._documents: list[Document] = []
        self._entries: list[Entry] = []
        self._opened: list[Wait] = []
        self._closed: list[Wait] = []
        self._storing: list[Storing] = []
        self._deadline: datetime | None = None
        self._wait_deadline: datetime | None = None
        self.pauses: dict[str, int] = {}
        self.resume_data: dict[str, Any] | None = None

    @property
    def is_stored(self) -> bool:
        """Whether all that was gathered is on record."""
        return not self._storing and not self._has_gathered

    @property
    def _has_gathered(self) -> bool:
        return bool(self._shown or self._documents or self._entries or self._opened or self._closed)

    def carried(self) -> RecordState:
        """Return what a run knows whose history begins anew; all of it has to be on record."""
        return RecordState(
            run=self.run,
            progress=self._progress,
            last=self._last,
            salt=self._salt,
            wait=self._wait,
            waits=self._waits,
            set_aside=self._set_aside,
            frozen=self._clock.frozen.total_seconds(),
            pauses=self.pauses,
            resume_data=self.resume_data,
        )

    def restore(self, known: RecordState) -> None:
        """Take what the run knew before its history began anew.

        The open wait and the last entry are put on record once more, so that this history vouches for them.
        """
        self._recorded, self.run = True, known.run
        self._last, self._stored, self._salt = known.last, known.last.number if known.last else 0, known.salt
        self._wait, self._waits, self._set_aside = known.wait, known.waits, known.set_aside
        self._clock.frozen = timedelta(seconds=known.frozen)
        self.pauses, self.resume_data = dict(known.pauses), known.resume_data
        self._deadline = self._of_run(known.progress.deadline)
        self._wait_deadline = self._of_run(known.wait.deadline) if known.wait is not None else None
        self._entries = [known.last] if known.last is not None else []
        self._opened = [known.wait] if known.wait is not None else []
        self._publish(known.progress)

    def enter(
        self,
        phase: str,
        *,
        waiting_for: str | None = None,
        deadline: datetime | None = None,
        decision: Decision | None = None,
    ) -> None:
        """Enter ``phase``. Warnings stay, and so does a decision once there is one."""
        before = self._progress
        taken = decision.shortened() if decision is not None else before.decision
        self._deadline = deadline
        said = {"phase": phase, "waiting_for": waiting_for, "deadline": self._real(deadline), "decision": taken}
        self._publish(before.model_copy(update=said))

    def extend(self, deadline: datetime) -> None:
        """Say that it waits until another time; all else stays."""
        self._deadline = deadline
        self._publish(self._progress.model_copy(update={"deadline": self._real(deadline)}))

    def warn(self, warning: str) -> None:
        """Add a warning to the custom status; the oldest one makes room."""
        warnings = (*self._progress.warnings, warning)[-MAX_WARNINGS:]
        self._publish(self._progress.model_copy(update={"warnings": warnings}))

    def stand(self, standing: Standing) -> None:
        """Say where an approval stands."""
        self._publish(self._progress.model_copy(update={"standing": standing}))

    def gate(self, gate: Gate) -> None:
        """Say where a call stands that needs a person."""
        self._publish(self._progress.model_copy(update={"gate": gate}))

    def signup(self, standing: SignupStanding) -> None:
        """Say where a sign-up stands."""
        self._publish(self._progress.model_copy(update={"signup": standing}))

    def data(self, data: dict[str, Any]) -> None:
        """Say what the data attributes are."""
        self._publish(self._progress.model_copy(update={"data": data}))

    def at_step(self, step: str, following: str | None) -> None:
        """Say at which step of a declared workflow it is, and which one follows."""
        self._publish(self._progress.model_copy(update={"step": step, "next_step": following}))

    def paused(self, event: PauseEvent) -> Generator[task.Task[Any], Any]:
        """Say that the run is paused, and put that on record, without standing still for it."""
        self._stand_still(event, paused=True, reason=event.reason)
        if self._recorded and self._salt is None:
            yield from self.store()  # else the reason could be guessed by its hash
        self.note("paused", actor=event.by, channel=event.channel, detail=event.clock, comment=event.reason)
        self._begin_to_store()

    def resumed(self, event: PauseEvent, moved: timedelta, *, still: PauseEvent | None) -> dict[str, Any] | None:
        """Say that the run goes on, and that all deadlines have moved; give the data that it goes on with.

        ``still`` is what it is paused by besides.
        """
        last = still or event
        self._stand_still(last, paused=still is not None, reason=last.reason)
        data = self._kept(event.data)
        self.note(
            "resumed",
            actor=event.by,
            channel=event.channel,
            detail=f"{moved.total_seconds():.0f} seconds later" if moved else None,
            payload=data,
        )
        if data is not None:
            self.resume_data = (self.resume_data or {}) | data
        progress, signup = self._progress, self._progress.signup
        if signup is not None and signup.next_reminder is not None:
            signup = signup.model_copy(update={"next_reminder": signup.next_reminder + moved})
        said = {"deadline": self._real(self._deadline), "signup": signup, "resume_data": self.resume_data}
        self._publish(progress.model_copy(update=said))
        if moved and self._wait is not None and self._wait_deadline is not None:
            self.extend_wait(self._wait_deadline)
        return data

    def _stand_still(self, event: PauseEvent, *, paused: bool, reason: str | None) -> None:
        standing = PauseStanding(
            number=self.pauses.get(self._ctx.instance_id, 0),
            paused=paused,
            by=event.by,
            at=event.at,
            reason=reason,
            clock=event.clock,
            frozen_seconds=self._clock.frozen.total_seconds(),
        )
        self._publish(self._progress.model_copy(update={"pause": standing}))

    def _kept(self, data: dict[str, Any] | None) -> dict[str, Any] | None:
        """Return the data of a resume, unless with them there were more than a run keeps."""
        if data is not None and len(json.dumps((self.resume_data or {}) | data)) > MAX_RESUME_DATA:
            self.warn("The data of a resume were not kept: with those of before they are too long.")
            return None
        return data

    def answer(self, verdict: Verdict) -> None:
        """Say what was made of something that was asked; the oldest verdict makes room."""
        verdicts = (*self._progress.verdicts, verdict)[-MAX_VERDICTS:]
        self._publish(self._progress.model_copy(update={"verdicts": verdicts}))

    def set_aside(self, warning: str) -> Generator[task.Task[Any], Any]:
        """Warn of an event that was set aside, and put it on record."""
        if self.may_note_more():
            self.note("set_aside", channel="event", detail=warning)
        self.warn(warning)
        yield from self.store()

    def may_note_more(self) -> bool:
        """Count what was set aside or refused; false when there was so much of it that the trail takes no more."""
        self._set_aside += 1
        return self._set_aside <= MAX_SET_ASIDE

    def note(
        self,
        action: Action,
        *,
        after: str | None = None,
        actor: str | None = None,
        on_behalf_of: str | None = None,
        people: tuple[str, ...] | None = None,
        round_number: int | None = None,
        channel: Channel | None = None,
        detail: str | None = None,
        comment: str | None = None,
        payload: Any = None,
    ) -> None:
        """Add an entry to the trail. ``after`` is the phase that it leads to; without one, the phase stays."""
        if not self._recorded:
            return
        before = self._last.after if self._last is not None else None
        self._last = chained(
            self._last,
            salt=self._salt,
            comment=comment,
            payload=payload,
            instance_id=self._ctx.instance_id,
            series="run",
            run=self.run,
            at=self._now,
            action=action,
            actor=actor,
            on_behalf_of=on_behalf_of,
            people=people,
            round=round_number,
            channel=channel,
            before=before,
            after=after or before,
            detail=detail,
        )
        self._entries.append(self._last)

    def open_wait(
        self,
        *,
        kind: str,
        title: str,
        people: tuple[str, ...],
        deadline: datetime,
        actions: tuple[str, ...],
        path: str,
        group: str | None = None,
        at_step: AtStep | None = None,
    ) -> None:
        """Say who is waited for from now on."""
        if not self._recorded:
            return
        self._waits += 1
        self._wait_deadline = deadline
        self._wait = Wait(
            instance_id=self._ctx.instance_id,
            run=self.run,
            number=self._waits,
            kind=kind,
            title=title,
            people=people,
            since=self._now,
            deadline=self._clock.real(deadline).replace(tzinfo=UTC),
            actions=actions,
            path=path,
            group=group,
            at_step=at_step,
        )
        self._opened.append(self._wait)

    def change_wait(self, people: tuple[str, ...]) -> None:
        """Say that others are waited for from now on; since when is as it was."""
        if self._wait is not None and self._wait.people != people:
            self._replace_wait(people=people)

    def extend_wait(self, deadline: datetime) -> None:
        """Say that people are waited for until another time."""
        if self._wait is not None:
            self._wait_deadline = deadline
            self._replace_wait(deadline=self._clock.real(deadline).replace(tzinfo=UTC))

    def _replace_wait(self, **said: Any) -> None:
        assert self._wait is not None
        self._waits += 1
        self._closed.append(self._wait)
        self._wait = self._wait.model_copy(update={"number": self._waits, **said})
        self._opened.append(self._wait)

    def show(self, shown: Shown) -> None:
        """Keep what people are shown."""
        if self._recorded:
            self._shown.append(shown)

    def keep(self, name: str, body: Any) -> None:
        """Keep something under a name, as long as the instance is kept."""
        if self._recorded:
            self._documents.append(Document(instance_id=self._ctx.instance_id, run=self.run, name=name, body=body))

    def close_wait(self) -> None:
        """Say that nobody is waited for any more."""
        if self._wait is not None:
            self._closed.append(self._wait)
            self._wait = None

    def store(self) -> Generator[task.Task[Any], Any]:
        """Put on record what was gathered, and go on only then: nothing takes effect that is not on record."""
        self._begin_to_store()
        while self._storing:
            yield self._storing[0].task
            self.hear()

    @property
    def storing(self) -> list[task.Task[Any]]:
        """The activities under way that put something on record: more than one where a run was paused meanwhile."""
        return [each.task for each in self._storing if not each.task.is_complete]

    def hear(self) -> None:
        """Keep what is on record by now."""
        done = [each for each in self._storing if each.task.is_complete and not each.task.is_failed]
        self._storing = [each for each in self._storing if each not in done]
        for each in done:
            self._has_stored(each.task.get_result(), each.entries)

    def _begin_to_store(self) -> None:
        if not self._has_gathered:
            return
        batch = RecordBatch(
            shown=tuple(self._shown),
            documents=tuple(self._documents),
            entries=tuple(self._entries),
            opened=tuple(self._opened),
            closed=tuple(self._closed),
        )
        self._shown, self._documents, self._entries, self._opened, self._closed = [], [], [], [], []
        if self._storing:
            # One that is tried again is overtaken by the next, which therefore holds all that it holds.
            batch = _both(self._storing[-1].batch, batch)
        self._publish(self._progress)
        storing: task.Task[Any] = self._ctx.call_activity(record, input=batch.plain(), retry_policy=RECORD)
        self._storing.append(Storing(storing, batch, self._last.number if self._last is not None else 0))

    def _has_stored(self, answer: Any, entries: int) -> None:
        recorded = Recorded.model_validate(answer)
        self._salt = recorded.salt
        self._stored = max(self._stored, entries)
        if recorded.refused:
            self.warn("The audit trail in the store is not the run's own any more; verify it.")
        else:
            self._publish(self._progress)

    def outcome(self, outcome: Outcome) -> dict[str, Any]:
        """Return the run's output, with the head of its trail and the data it was resumed with, if there are any."""
        said = outcome.model_copy(update={"trail": self._head, "resume_data": self.resume_data}).plain()
        if self._head is None:
            del said["trail"]
        return said

    def _real(self, deadline: datetime | None) -> datetime | None:
        return self._clock.real(deadline) if deadline is not None else None

    def _of_run(self, deadline: datetime | None) -> datetime | None:
        return self._clock.of_run(deadline.replace(tzinfo=None)) if deadline is not None else None

    @property
    def _now(self) -> datetime:
        return self._ctx.current_utc_datetime.replace(tzinfo=UTC)

    @property
    def _head(self) -> TrailHead | None:
        if not self._recorded:
            return None
        number, head = (self._last.number, self._last.hash) if self._last is not None else (0, GENESIS)
        return TrailHead(run=self.run, entries=number, stored=self._stored, head=head)

    def _publish(self, progress: Progress) -> None:
        wait = self._wait.number if self._wait is not None else None
        self._progress = progress.model_copy(update={"wait": wait, "trail": self._head})
        status: dict[str, Any] = self._progress.fitting().plain()
        self._ctx.set_custom_status(status)
