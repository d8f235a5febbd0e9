"""The mails of a run: sent when what they are about is on record, without standing still for them."""

from datetime import UTC, datetime
from itertools import batched
from typing import Any

from durabletask import task

from activities.approval import send_mail
from contracts.base import MAX_PEOPLE
from contracts.mail import Mail
from contracts.people import Person
from orchestrators.human_step import Finished, Inbox
from orchestrators.retries import EFFECT
from orchestrators.run_clock import run_clock
from orchestrators.run_record import RunRecord


class Mailing:
    """Numbers mails, sends them, and notes what became of each.

    ``count`` is how many there were; ``failed`` are the addresses whose last mail did not arrive, the newest one last.
    Both are all that it knows while no mail is on its way.
    """

    def __init__(self, ctx: task.OrchestrationContext, record: RunRecord, inbox: Inbox, *, still: str) -> None:
        self._ctx = ctx
        self._record = record
        self._inbox = inbox
        self._still = still
        self.count = 0
        self.failed: list[str] = []
        self._to_send: list[Mail] = []
        self._sent: list[tuple[Mail, bool]] = []

    @property
    def has_more(self) -> bool:
        """Whether there are mails that are to be sent."""
        return bool(self._to_send)

    @property
    def is_under_way(self) -> bool:
        """Whether mails were sent, and have not come to an end."""
        return any(isinstance(each, Mail) for each in self._inbox.under_way)

    def write(self, template: Any, to: Person, round_number: int, deadline: datetime, **said: Any) -> None:
        """Write a mail, to be sent later. ``deadline`` is in the run's time, ``said`` has other fields."""
        self.count += 1
        mail = Mail(
            template=template,
            instance_id=self._ctx.instance_id,
            run=self._record.run,
            number=self.count,
            round=round_number,
            to=to.email,
            to_name=to.name,
            deadline=run_clock(self._ctx).real(deadline).replace(tzinfo=UTC),
            **said,
        )
        self._to_send.append(mail)

    def send(self) -> None:
        """Send what was written; what it is about has to be on record."""
        to_send, self._to_send = self._to_send, []
        for mail in to_send:
            given = mail.model_dump(mode="json", exclude_none=True)
            self._inbox.watch(self._ctx.call_activity(send_mail, input=given, retry_policy=EFFECT), mail)

    def delivered(self, finished: Finished) -> None:
        """Keep what became of a mail, to be noted with the next that is put on record."""
        mail: Mail = finished.what
        self._sent.append((mail, finished.succeeded))
        self.failed = [each for each in self.failed if each != mail.to]
        if not finished.succeeded:
            self.failed.append(mail.to)
            self._record.warn(f"A mail to {mail.to} could not be sent; {self._still}."[:250])

    def note(self) -> None:
        """Note what became of the mails that have come to an end."""
        sent, self._sent = self._sent, []
        for kind in dict.fromkeys((mail.round, mail.template, succeeded) for mail, succeeded in sent):
            number, template, succeeded = kind
            people = [mail.to for mail, done in sent if (mail.round, mail.template, done) == kind]
            for some in batched(people, MAX_PEOPLE, strict=False):
                action: Any = "mailed" if succeeded else "mail_failed"
                self._record.note(action, people=some, detail=template, round_number=number)
