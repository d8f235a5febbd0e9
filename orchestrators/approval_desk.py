"""What an approval says to the world: records, mails, verdicts, and where it stands."""

from collections.abc import Generator
from datetime import timedelta
from typing import Any, Literal

from durabletask import task

from contracts.approval import (
    ApprovalInput,
    Command,
    DelegateEvent,
    ExtendEvent,
    Refusal,
    RemindEvent,
    ReviseEvent,
    VoteEvent,
    WithdrawEvent,
)
from contracts.base import path_to
from contracts.carried import DeskState
from contracts.human_step import FromLink, Standing, digest_of_person
from contracts.people import Person
from contracts.shown import Content, Shown
from orchestrators.ballot import Ballot, Seat
from orchestrators.human_step import Finished, Inbox
from orchestrators.mailing import Mailing
from orchestrators.run_clock import run_clock
from orchestrators.run_record import RunRecord
from orchestrators.verdicts import Verdicts

DECISION = "decision"
EVENTS: dict[str, type[Command]] = {
    DECISION: VoteEvent,
    "delegate": DelegateEvent,
    "withdraw": WithdrawEvent,
    "extend": ExtendEvent,
    "revise": ReviseEvent,
    "remind": RemindEvent,
}
API = "(API)"
"""Who asks for something and does not say who it is."""
MAX_CARRIED = 200
"""How many verdicts are known of those that came before the history began anew."""
MAX_WRONG_CODES = 5
SHOWN = {"gave_away": 50, "locked": 20, "mail_failed": 3}
"""How many of these the custom status has room for, the newest ones."""

type Turn[Result] = Generator[task.Task[Any], Any, Result]
type MailTemplate = Literal["asked", "reminder", "escalated", "delegated", "decided", "withdrawn", "changes_requested"]


def doer_of(event: WithdrawEvent | ExtendEvent | ReviseEvent | RemindEvent) -> dict[str, str]:
    """Return who gave a command, and on whose behalf, as the trail says it."""
    by = event.by or API
    return {"actor": event.sent_by, "on_behalf_of": by} if event.sent_by is not None else {"actor": by}


class Desk:
    """All that goes out from one run, and comes in.

    ``note``, ``mail`` and ``answer`` gather; ``store`` puts on record what was noted, and only then sends the mails and
    publishes the verdicts. ``deadline`` is the one of the open wait (in the run's time), ``shown`` what is asked.
    """

    def __init__(self, ctx: task.OrchestrationContext, asked: ApprovalInput) -> None:
        self._ctx = ctx
        self._asked = asked
        self.record = RunRecord(ctx)
        self.inbox = Inbox(ctx, EVENTS, self.record.set_aside, in_order=True)
        self.deadline = run_clock(ctx).now + timedelta(hours=asked.timeout_hours)
        self.show(asked.content, 0)
        self._mailing = Mailing(ctx, self.record, self.inbox, still="the decision can still be made")
        self._wrong_codes: dict[int, int] = {}
        self.verdicts = Verdicts(self.record)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way: all is on record, sent, answered, and read."""
        return (
            self.inbox.is_empty and self.record.is_stored and not self._mailing.has_more and self.verdicts.is_published
        )

    @property
    def has_mail(self) -> bool:
        """Whether mails are to be sent, or on their way."""
        return self._mailing.has_more or self.inbox.watched > 0

    def carried(self) -> DeskState:
        """Return what it knows, for ``restore``."""
        return DeskState(
            record=self.record.carried(),
            deadline=self.deadline,
            round=self.shown.round,
            content=self.shown.content,
            mails=self._mailing.count,
            mail_failed=tuple(self._mailing.failed),
            refusals=self.verdicts.refusals,
            wrong_codes={str(serial): wrong for serial, wrong in self._wrong_codes.items()},
            verdicts=dict(list(self.verdicts.known.items())[-MAX_CARRIED:]),
        )

    def restore(self, known: DeskState) -> None:
        """Take what was known before the history began anew."""
        self.record.restore(known.record)
        self.deadline = known.deadline
        self.show(known.content, known.round)
        self._mailing.count, self._mailing.failed = known.mails, list(known.mail_failed)
        self.verdicts.refusals, self.verdicts.known = dict(known.refusals), dict(known.verdicts)
        self._wrong_codes = {int(serial): wrong for serial, wrong in known.wrong_codes.items()}

    # What is asked

    def show(self, content: Content, round_number: int) -> None:
        """Take what is asked in a round."""
        self.shown = Shown(instance_id=self._ctx.instance_id, run=self.record.run, round=round_number, content=content)
        self._digest = self.shown.digest

    def stand(self, ballot: Ballot | None, *, stage: int = 0, level: int = 0) -> None:
        """Say where it stands."""
        seats = ballot.seats if ballot is not None else []
        gave = [digest_of_person(person.email) for seat in seats for person in seat.before]
        locked = [serial for serial, wrong in self._wrong_codes.items() if wrong >= MAX_WRONG_CODES]
        self.record.stand(
            Standing(
                round=self.shown.round,
                stage=stage,
                level=level,
                shown=self._digest,
                open=ballot is not None and ballot.is_open,
                seats={digest_of_person(seat.holder.email): seat.vote.vote if seat.vote else None for seat in seats},
                gave_away=tuple(gave[-SHOWN["gave_away"] :]),
                locked=tuple(locked[-SHOWN["locked"] :]),
                mail_failed=tuple(self._mailing.failed[-SHOWN["mail_failed"] :]),
            )
        )

    def open_wait(self, people: tuple[str, ...], actions: tuple[str, ...]) -> None:
        """Say who is waited for from now on, and what they can do."""
        self.record.open_wait(
            kind="approval",
            title=self.shown.content.headline,
            people=people,
            deadline=self.deadline,
            actions=actions,
            path=path_to("/api/requests/{}", self._ctx.instance_id),
            at_step=self._asked.at_step,
        )

    # The record

    def note(self, action: Any, **said: Any) -> None:
        """Note what happened, with the round that it happened in."""
        self.record.note(action, round_number=self.shown.round or None, **said)

    def store(self) -> Turn[None]:
        """Put on record what was noted; only then send mails and publish verdicts."""
        self._mailing.note()
        yield from self.record.store()
        self._mailing.send()
        self.verdicts.publish()

    # Mails

    def mail(self, template: MailTemplate, to: Person, *, link: bool = False, **said: Any) -> None:
        """Send a mail, once what it is about is on record, and without standing still for it."""
        self._mailing.write(
            template,
            to,
            self.shown.round,
            self.deadline,
            link_digest=self._digest if link else None,
            code=link and self._asked.second_factor == "mail_code",
            **said,
        )

    def mail_seat(self, template: MailTemplate, seat: Seat, comment: str | None = None) -> None:
        """Send somebody who is asked a mail with a link."""
        by = seat.before[-1].shown if template == "delegated" else None
        self.mail(template, seat.holder, link=True, by=by, on_behalf_of=seat.on_behalf_of, comment=comment)

    def delivered(self, finished: Finished) -> None:
        """Keep what became of a mail, to be noted with the next that is put on record."""
        self._mailing.delivered(finished)

    def note_deliveries(self) -> None:
        """Note what became of the mails that have come to an end."""
        self._mailing.note()

    # Verdicts

    def refuse(self, asked: Any, refusal: Refusal) -> Turn[None]:
        """Refuse what was asked, and put that on record."""
        self.verdicts.answer(asked, refusal)
        self.note_refusal(asked, refusal)
        yield from self.store()

    def note_refusal(self, asked: Any, refusal: Refusal) -> None:
        """Note that something was refused, unless that was noted often enough."""
        who = getattr(asked, "approver", None) or getattr(asked, "by", None)
        sender = getattr(asked, "sent_by", None)
        said = {"on_behalf_of": who} if sender is not None else {}
        self.verdicts.note_refusal(sender or who, asked.channel, refusal, round_number=self.shown.round or None, **said)

    def why_not_by(self, link: FromLink | None) -> Refusal | None:
        """Return why a link may not do anything, or None; a wrong code counts against it."""
        if link is None:
            return None
        is_of_other = link.run not in (None, self.record.run)
        if is_of_other or link.round != self.shown.round or link.serial > self._mailing.count:
            return "old_round"
        if self._wrong_codes.get(link.serial, 0) >= MAX_WRONG_CODES:
            return "locked"
        if self._asked.second_factor == "mail_code" and link.code != "right":
            self._wrong_codes[link.serial] = self._wrong_codes.get(link.serial, 0) + 1
            return "wrong_code"
        return None
