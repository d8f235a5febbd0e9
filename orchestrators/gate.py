"""The gate of a guarded call: who is asked, what is open to them, and what they are mailed."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from durabletask import task

from contracts.audit import digest_of
from contracts.base import one_line, path_to, same_person
from contracts.guarded_call import (
    Answer,
    GateEvent,
    GuardedCallInput,
    HttpCall,
    Refusal,
    SimulatedCall,
    masked,
)
from contracts.human_step import Gate, GateAction
from contracts.people import Person
from contracts.shown import Content, Shown
from orchestrators.human_step import Inbox
from orchestrators.mailing import Mailing
from orchestrators.run_clock import run_clock
from orchestrators.run_record import RunRecord

WAITING = "waiting_for_intervention"
MAX_MAILS = 1_000
"""Of one run; then nobody is reminded any more, since each turn goes through all of its history."""
SHOWN_BODY = 3_000
"""Characters of a body that a mail shows; the page has the whole."""

type Template = Literal["gate", "gate_reminder", "gate_escalated"]


class Gatekeeper:
    """Opens and closes the gates of one run, and asks people.

    What it says is gathered in the record and in ``mailing``; ``show`` says in the custom status where it stands, once
    all is on record. ``deadline`` is that of the open gate (in the run's time).
    """

    def __init__(
        self, ctx: task.OrchestrationContext, asked: GuardedCallInput, record: RunRecord, inbox: Inbox
    ) -> None:
        self._ctx = ctx
        self._asked = asked
        self._record = record
        self._clock = run_clock(ctx)
        self.deadline = self._clock.now
        self.number = self.retries = 0
        self.is_escalated = False
        self._opened = self.deadline
        self._gate: Gate | None = None
        self._reminders = 0
        self.mailing = Mailing(ctx, record, inbox, still="the call still waits")

    # Opening and closing

    def open(self, call: SimulatedCall | HttpCall, answer: Answer, attempts: int) -> None:
        """Ask people about a call that has failed."""
        self.number += 1
        self.is_escalated, self._reminders, self._opened = False, 0, self._clock.now
        self.deadline = self._clock.now + timedelta(hours=self._asked.deadline)
        shown = Shown(
            instance_id=self._ctx.instance_id,
            run=self._record.run,
            round=self.number,
            content=self._content(call, answer, attempts),
        )
        self._record.show(shown)
        last = self._gate.last if self._gate is not None else None
        self._gate = Gate(
            number=self.number,
            shown=shown.digest,
            fingerprint=answer.fingerprint or "",
            actions=self._actions,
            attempts=attempts,
            retries_left=self._asked.max_operator_retries - self.retries,
            last=last,
        )
        addresses = tuple(person.email for person in self._people)
        self._record.open_wait(
            kind="guarded_call",
            title=shown.content.headline,
            people=addresses,
            deadline=self.deadline,
            actions=self._actions,
            path=path_to("/api/interventions/{}", self._ctx.instance_id),
            group=answer.fingerprint,
            at_step=self._asked.at_step,
        )
        self._record.note("asked", after=WAITING, people=addresses, detail=f"gate {self.number}")
        self._mail("gate", self._people)

    def close(self, action: str | None, by: str | None) -> None:
        """Let nobody act any more: somebody did, or the time is up."""
        assert self._gate is not None
        if action in ("retry", "edit"):
            self.retries += 1
        last = self._gate.last
        if action is not None and by is not None:
            last = GateAction(action=action, by=by, at=self._now.replace(tzinfo=UTC))
        left = self._asked.max_operator_retries - self.retries
        self._gate = self._gate.model_copy(update={"actions": (), "last": last, "retries_left": left})
        self._record.close_wait()

    @property
    def is_open(self) -> bool:
        """Whether people can act."""
        return self._gate is not None and bool(self._gate.actions)

    def show(self) -> None:
        """Say in the custom status where it stands; all of it has to be on record."""
        assert self._gate is not None
        self._record.gate(self._gate)
        if self._gate.actions:
            self._record.enter(WAITING, waiting_for=", ".join(self._gate.actions), deadline=self.deadline)

    def escalate(self) -> None:
        """Ask others too, and give all as long again."""
        self._record.note("timed_out", channel="timer", detail="escalate")
        self.is_escalated, self._reminders, self._opened = True, 0, self._clock.now
        self.deadline = self._clock.now + timedelta(hours=self._asked.deadline)
        addresses = tuple(person.email for person in self._people)
        self._record.note("escalated", people=tuple(person.email for person in self._asked.escalate_to))
        self._record.change_wait(addresses)
        self._record.extend_wait(self.deadline)
        assert self._gate is not None
        self._gate = self._gate.model_copy(update={"escalated": True})
        self._mail("gate_escalated", self._asked.escalate_to)

    # Who may do what

    def why_not(self, event: GateEvent, action: str) -> Refusal | None:
        """Return why an event is refused as it stands, or None."""
        assert self._gate is not None
        link = event.link
        if link is not None and link.run not in (None, self._record.run):
            return "old_gate"
        if link is not None and (link.round != self.number or link.serial > self.mailing.count):
            return "old_gate"
        if event.gate not in (None, self.number) or event.fingerprint not in (None, self._gate.fingerprint):
            return "old_gate"
        if self._asked.assigned_to and not self._is_assigned(event.by):
            return "not_assigned"
        if action in self._gate.actions:
            return None
        is_allowed = action == "retry" or (action == "edit" and self._asked.editable)
        return "no_more_retries" if is_allowed else "not_allowed"

    def _is_assigned(self, who: str) -> bool:
        known = [each for person in self._people for each in (person.email, person.name) if each]
        return same_person(who) in [same_person(each) for each in known]

    @property
    def _actions(self) -> tuple[str, ...]:
        is_left = self.retries < self._asked.max_operator_retries
        open_now = {
            "retry": is_left,
            "edit": is_left and self._asked.editable,
            "skip": self._asked.skippable,
            "fail": True,
        }
        return tuple(action for action, is_open in open_now.items() if is_open)

    @property
    def _people(self) -> tuple[Person, ...]:
        mailbox = (Person(email=self._asked.mailbox),) if self._asked.mailbox is not None else ()
        escalated = self._asked.escalate_to if self.is_escalated else ()
        return (*(self._asked.assigned_to or mailbox), *escalated)

    # Mails

    @property
    def next_time(self) -> datetime:
        """When something is due: a reminder, or the deadline."""
        return min(self.deadline, self._next_reminder or self.deadline)

    def remind(self) -> None:
        """Send the links again. Reminders that were missed while nothing ran are made up for by one."""
        while self._next_reminder is not None and self._next_reminder <= self._clock.now:
            self._reminders += 1
        self._record.note("reminded", channel="timer", people=tuple(person.email for person in self._people))
        self._mail("gate_reminder", self._people)

    @property
    def _next_reminder(self) -> datetime | None:
        reminders = self._asked.reminders
        if reminders is None or self.mailing.count >= MAX_MAILS:
            return None
        hours = reminders.hours_to_next(self._reminders)
        return self._opened + timedelta(hours=hours) if hours is not None else None

    def _mail(self, template: Template, people: tuple[Person, ...]) -> None:
        assert self._gate is not None
        for person in people:
            self.mailing.write(template, person, self.number, self.deadline, link_digest=self._gate.shown)

    def _content(self, call: SimulatedCall | HttpCall, answer: Answer, attempts: int) -> Content:
        """What people are shown of a call that has failed; the page has the whole."""
        shown = masked(call)
        whole = digest_of(shown)
        body = shown.pop("body", None)
        details: dict[str, Any] = {"call": f"{shown['method']} {shown['url']}"} if isinstance(call, HttpCall) else {}
        if body is not None:
            details["body"] = json.dumps(body, ensure_ascii=False, indent=2)[:SHOWN_BODY]
        details |= {"attempts": attempts, "status": answer.status, "fingerprint": answer.fingerprint}
        details["call_sha256"] = whole
        return Content(
            requester=one_line(self._asked.part_of or self._ctx.instance_id),
            item=self._asked.name,
            title=f"{self._asked.name[:190]} failed",
            description=answer.message or None,
            details=details,
        )

    @property
    def _now(self) -> datetime:
        return self._ctx.current_utc_datetime
