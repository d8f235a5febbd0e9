"""Sign-up: a mail that verifies an address, reminders up to a limit, and an end."""

from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from typing import Any

from durabletask import task
from durabletask.entities import EntityInstanceId

from activities.signup import create_account, erase_signup, plan_reminder, send_signup_mail
from contracts.base import path_to, same_person
from contracts.human_step import Asking, SignupStanding, digest_of_id
from contracts.rate_limit import RATE_LIMIT, RateTake
from contracts.signup import (
    ChangeEmailEvent,
    CreatedAccount,
    ErasedSignup,
    FromSignupMail,
    NewAccount,
    PlannedReminder,
    ReminderPlan,
    ResendEvent,
    SentSignupMail,
    SignupInput,
    SignupMail,
    SignupOutcome,
    SignupState,
    SignupTemplate,
    StopRemindersEvent,
    VerifyEvent,
)
from orchestrators.human_step import ExecutionTimedOut, Finished, Inbox, end_of, out_of_time
from orchestrators.retries import EFFECT, RECORD
from orchestrators.run_clock import run_clock
from orchestrators.run_record import RunRecord
from orchestrators.verdicts import Verdicts

VERIFY, RESEND, CHANGE_EMAIL, STOP_REMINDERS = "verify", "resend", "change_email", "stop_reminders"
EVENTS: dict[str, type[Asking]] = {
    VERIFY: VerifyEvent,
    RESEND: ResendEvent,
    CHANGE_EMAIL: ChangeEmailEvent,
    STOP_REMINDERS: StopRemindersEvent,
}
WAITING, CREATING = "waiting_for_verification", "creating_account"
DONE, ADDRESS_TAKEN, EXPIRED, FAILED = "done", "address_taken", "expired", "failed"
PATH = "/api/signups/{}"
MAX_WRONG_CODES = 5
"""Of one generation of mails; then its code is locked, and only its link is good."""
MAX_GUESSES = 20
"""How many codes are looked at in a day for one address, over all sign-ups."""
MAX_RESENDS, MAX_CHANGES = 5, 3
"""How often another mail is sent on demand, and how often the address is changed."""
A_DAY = 86_400.0
LATE = timedelta(minutes=5)
"""A reminder that comes so much later than it was due is planned again."""
MAX_CARRIED = 100
"""How many verdicts are carried over to a new history."""

type Turn[Result] = Generator[task.Task[Any], Any, Result]


def signup(ctx: task.OrchestrationContext, request: dict[str, Any]) -> Turn[dict[str, Any]]:
    """Have a mail address verified, remind of it, and create the account; or expire, and erase what is personal.

    Takes a ``SignupInput``, gives a ``SignupOutcome``; waits for the events of ``EVENTS``. When the address is changed
    it continues as new, so that the input has the new one and nothing has the old one. An execution timeout ends it
    while it waits; it fails then, and when the account could not be created in a month.
    """
    run = _Signup(ctx, SignupInput.model_validate(request))
    outcome = yield from run.run(request)
    if outcome is None:
        ctx.continue_as_new(run.carried(), save_events=True)
        return {}
    return outcome


class AccountFailed(Exception):
    """The account could not be created."""


class _Signup:
    """One run: the mails that it sends, what is asked of it meanwhile, and how it ends."""

    def __init__(self, ctx: task.OrchestrationContext, asked: SignupInput) -> None:
        self._ctx = ctx
        self._asked = asked
        self._clock = run_clock(ctx)
        self._record = RunRecord(ctx)
        self._verdicts = Verdicts(self._record)
        self._inbox = Inbox(
            ctx,
            EVENTS,
            self._record.set_aside,
            in_order=True,
            ends_at=end_of(ctx, asked.execution_timeout),
            listens_on=True,
        )
        self._phase = WAITING
        self._standing = SignupStanding()
        self._deadline = self._clock.now + timedelta(hours=asked.rules.expires_hours)
        self._next_reminder: datetime | None = None
        self._planned_at = timedelta()
        self._is_known = self._has_moved = False

    def run(self, request: dict[str, Any]) -> Turn[dict[str, Any] | None]:
        """Go through it, to the end; give None when the address was changed, and nothing else is under way."""
        if self._asked.carried is not None:
            self._restore(self._asked.carried)
        else:
            self._say()
            by, channel = self._asked.started_by, self._asked.channel
            self._record.note("started", after=WAITING, actor=by, channel=channel, payload=request)
            self._record.open_wait(
                kind="signup",
                title=f"Sign-up of {self._asked.form.username}",
                people=(),
                deadline=self._deadline,
                actions=("verify",),
                path=path_to(PATH, self._ctx.instance_id),
            )
        yield from self._store()
        if self._phase == WAITING:
            yield from self._mail("signup_verify")
        else:
            self._create_account()
        while self._phase == WAITING or self._has_moved or self._inbox.watched:
            if self._has_moved and self._inbox.is_empty:
                return None
            yield from self._take_next()
        self._inbox.close()
        self._record.note("ended", after=self._phase)
        yield from self._store()
        status: Any = self._phase
        return self._record.outcome(SignupOutcome(status=status, source=self._standing.source))

    def _take_next(self) -> Turn[None]:
        """Wait for the next thing, and do what follows."""
        until = min(self._deadline, self._next_reminder or self._deadline) if self._phase == WAITING else None
        try:
            arrived = yield from self._inbox.next(until)
        except ExecutionTimedOut:
            yield from self._erase()
            yield from out_of_time(self._record)
            raise
        if arrived is None:
            yield from self._expire() if self._clock.now >= self._deadline else self._remind()
        elif isinstance(arrived, Finished):
            yield from self._finished(arrived)
        elif isinstance(arrived, Asking) and not self._verdicts.is_known(arrived):
            yield from self._answer(arrived)

    # What is asked

    def _answer(self, event: Asking) -> Turn[None]:
        channel: Any = getattr(event, "channel", None) or "event"
        refusal = self._why_not(event)
        code = event.link if isinstance(event, VerifyEvent) and event.link is not None and event.link.code else None
        if code is not None and refusal in (None, "wrong_code"):
            is_counted = yield from self._take(f"code.{self._asked.address_key}", MAX_GUESSES, unknown=False)
            refusal = refusal if is_counted else "guessed_out"
        self._verdicts.answer(event, refusal or "taken")
        if refusal is not None:
            if code is not None and refusal == "wrong_code":
                self._count_wrong(code)
            self._verdicts.note_refusal(getattr(event, "sent_by", None), channel, refusal)
            yield from self._store()
        elif isinstance(event, VerifyEvent):
            yield from self._verify(event, channel)
        elif isinstance(event, ResendEvent):
            yield from self._resend(channel)
        elif isinstance(event, ChangeEmailEvent):
            yield from self._change_email(event, channel)
        else:
            yield from self._stop_reminders(channel)

    def _why_not(self, event: Asking) -> str | None:
        """Return why something is refused, or None."""
        if self._phase != WAITING:
            return "already_verified" if self._standing.verified_at is not None else "too_late"
        if isinstance(event, VerifyEvent):
            return self._why_not_verified(event)
        if isinstance(event, ResendEvent):
            is_too_often = self._standing.resends >= MAX_RESENDS
            return "too_often" if is_too_often else "too_soon" if self._has_just_sent or self._has_moved else None
        if isinstance(event, ChangeEmailEvent):
            is_same = same_person(event.email) == same_person(self._asked.form.email)
            is_same = is_same and event.address_key == self._asked.address_key
            return "same_address" if is_same else "too_often" if self._standing.changes >= MAX_CHANGES else None
        if isinstance(event, StopRemindersEvent) and event.changes not in (None, self._standing.changes):
            return "old_link"  # who had the old address does not decide on what the new one gets
        return None

    @property
    def _has_just_sent(self) -> bool:
        sent_at, rests = self._standing.sent_at, timedelta(seconds=self._asked.rules.resend_seconds)
        return sent_at is not None and self._now < sent_at.replace(tzinfo=None) + rests

    def _why_not_verified(self, event: VerifyEvent) -> str | None:
        link = event.link
        if link is None:  # who raises it vouches for the address
            return None
        if link.run != self._record.run or link.generation != self._standing.generation:
            return "old_link"
        if link.code is None:
            return None
        if (self._standing.wrong_codes_by_name if link.by_name else self._standing.wrong_codes) >= MAX_WRONG_CODES:
            return "locked"
        # A code that is in nobody's mailbox can only be guessed.
        is_right = link.code == "right" and self._standing.generation_out == link.generation
        return None if is_right else "wrong_code"

    def _count_wrong(self, link: FromSignupMail) -> None:
        """Count a wrong code. A stranger's are counted apart, so that they lock nobody out of the own browser."""
        if link.by_name:
            self._stand(wrong_codes_by_name=self._standing.wrong_codes_by_name + 1)
        else:
            self._stand(wrong_codes=self._standing.wrong_codes + 1)

    def _verify(self, event: VerifyEvent, channel: Any) -> Turn[None]:
        self._phase, self._next_reminder = CREATING, None
        self._inbox.ends_at = None
        self._stand(
            verified_at=self._now.replace(tzinfo=UTC),
            verified_by=digest_of_id(event.decision_id) if event.decision_id is not None else None,
            source=event.source,
            vouched=event.link is None,
        )
        self._record.close_wait()
        self._record.note("verified", after=CREATING, actor=event.sent_by, channel=channel, detail=event.source)
        yield from self._store()
        if not self._has_moved:
            self._create_account()

    def _change_email(self, event: ChangeEmailEvent, channel: Any) -> Turn[None]:
        form = self._asked.form.model_copy(update={"email": event.email})
        self._asked = self._asked.model_copy(update={"form": form, "address_key": event.address_key})
        self._begin_generation(changes=self._standing.changes + 1, reminders_stopped=False)
        self._has_moved = True
        self._record.note("address_changed", channel=channel)
        yield from self._store()

    def _stop_reminders(self, channel: Any) -> Turn[None]:
        if not self._standing.reminders_stopped:
            self._next_reminder = None
            self._stand(reminders_stopped=True)
            self._record.note("reminders_stopped", channel=channel)
        yield from self._store()

    def _resend(self, channel: Any) -> Turn[None]:
        """Send another mail, with another link and code; the old ones are good as long as it may not go out."""
        resends = self._standing.resends + 1
        if not (yield from self._may_mail()):
            self._stand(resends=resends)
            yield from self._not_mailed("signup_verify")
            return
        self._begin_generation(resends=resends)
        self._record.note("resent", channel=channel)
        yield from self._store()
        self._send("signup_verify")

    def _begin_generation(self, **said: Any) -> None:
        """Make the links and codes of the mails dead that went out."""
        self._next_reminder = None
        self._stand(
            generation=self._standing.generation + 1,
            wrong_codes=0,
            wrong_codes_by_name=0,
            sent_at=self._now.replace(tzinfo=UTC),
            **said,
        )

    # Mails

    def _remind(self) -> Turn[None]:
        """Send the link again. Reminders that were missed while nothing ran are made up for by one."""
        if self._is_due(LATE) or self._planned_at != self._clock.frozen:
            yield from self._plan(timedelta())  # it may be in the middle of the night by now
            if not self._is_due(timedelta()):
                return
        self._next_reminder = None
        self._stand(reminders=self._standing.reminders + 1)
        self._record.note("reminded", channel="timer")
        yield from self._store()
        yield from self._mail("signup_reminder")

    def _is_due(self, since: timedelta) -> bool:
        """Whether a reminder has been due for so long, or longer."""
        return self._next_reminder is not None and self._clock.now - self._next_reminder >= since

    def _mail(self, template: SignupTemplate) -> Turn[None]:
        """Send a mail to somebody who has not confirmed, unless too many go there."""
        # Apart, so that reminders of sign-ups that others began keep nobody's first mail away.
        key = "remind." if template == "signup_reminder" else ""
        if (yield from self._may_mail(key)):
            self._send(template)
        else:
            yield from self._not_mailed(template)
            yield from self._plan()

    def _send(self, template: SignupTemplate) -> None:
        """Send a mail, without standing still for it."""
        self._stand(mails=self._standing.mails + 1, sent_at=self._now.replace(tzinfo=UTC))
        mail = SignupMail(
            template=template,
            instance_id=self._ctx.instance_id,
            run=self._record.run,
            number=self._standing.mails,
            form=self._asked.form,
            generation=self._standing.generation,
            deadline=self._clock.real(self._deadline).replace(tzinfo=UTC),
            until=self._deadline.replace(tzinfo=UTC),
        )
        self._say()
        self._inbox.watch(self._ctx.call_activity(send_signup_mail, input=mail.plain(), retry_policy=EFFECT), mail)

    def _not_mailed(self, template: SignupTemplate) -> Turn[None]:
        self._stand(mailed=False, sent_at=self._now.replace(tzinfo=UTC))
        self._record.note("mail_failed", detail=f"{template}: too many mails go to this address")
        yield from self._store()

    def _may_mail(self, key: str = "") -> Turn[bool]:
        limit = self._asked.rules.mails_per_day
        return (yield from self._take(key + self._asked.address_key, limit, unknown=True))

    def _take(self, key: str, limit: int, *, unknown: bool) -> Turn[bool]:
        """Take one of so many in a day; give ``unknown`` where the count fails, which ends no run."""
        at = self._now.replace(tzinfo=UTC)
        taken = RateTake(id=str(self._ctx.new_uuid()), at=at, limit=limit, seconds=A_DAY)
        try:
            answer = yield self._ctx.call_entity(EntityInstanceId(RATE_LIMIT, key), "take", taken.plain())
        except task.TaskFailedError:
            self._record.warn("The mails and codes of this address could not be counted.")
            return unknown
        return bool(answer["taken"])

    def _finished(self, finished: Finished) -> Turn[None]:
        """Go on after an effect that ended."""
        if not isinstance(finished.what, SignupMail):
            yield from self._created(finished)
            return
        mail = finished.what
        self._stand(mailed=finished.succeeded)
        if finished.succeeded:
            self._is_known = SentSignupMail.model_validate(finished.result).known
            if not self._is_known:
                self._stand(generation_out=max(mail.generation, self._standing.generation_out))
            self._record.note("mailed", detail=mail.template + (", known" if self._is_known else ""))
        else:
            self._record.warn("A mail could not be sent.")
            self._record.note("mail_failed", detail=mail.template)
        yield from self._store()
        yield from self._plan()

    def _plan(self, wait: timedelta | None = None) -> Turn[None]:
        """Find out when the next reminder is due. The rules of time zones change, so that this is in the history."""
        is_over = self._phase != WAITING or self._has_moved or self._is_known or self._standing.reminders_stopped
        if is_over or self._inbox.watched or self._standing.reminders >= self._asked.rules.max_reminders:
            return
        after = self._now + (wait if wait is not None else timedelta(hours=self._asked.rules.remind_hours))
        plan = ReminderPlan(after=after.replace(tzinfo=UTC), quiet=self._asked.rules.quiet)
        due, self._planned_at = after, self._clock.frozen
        try:
            planned = yield self._ctx.call_activity(plan_reminder, input=plan.plain(), retry_policy=EFFECT)
            due = PlannedReminder.model_validate(planned).at.replace(tzinfo=None)
        except task.TaskFailedError:
            self._record.warn("The quiet hours could not be told, so that reminders do not heed them.")
        due -= self._planned_at  # as it was then: a pause may have come in between
        self._next_reminder = due if due < self._deadline else None
        self._say()

    # The end

    def _create_account(self, policy: Any = EFFECT) -> None:
        verified_at, source = self._standing.verified_at, self._standing.source
        assert verified_at is not None
        assert source is not None
        account = NewAccount(
            instance_id=self._ctx.instance_id,
            run=self._record.run,
            form=self._asked.form,
            verified_at=verified_at,
            source=source,
            vouched=self._standing.vouched,
        )
        creating = self._ctx.call_activity(create_account, input=account.plain(), retry_policy=policy)
        self._inbox.watch(creating, policy)

    def _created(self, finished: Finished) -> Turn[None]:
        """Welcome the user, or try again, patiently: what was verified is not lost."""
        if not finished.succeeded and finished.what is EFFECT:
            self._record.warn("The account could not be created yet. It is tried again for a month.")
            self._create_account(RECORD)
            return
        if not finished.succeeded:
            self._phase = FAILED
            self._inbox.close()
            self._record.note("ended", after=FAILED)
            yield from self._store()
            raise AccountFailed("The account could not be created.")
        created = CreatedAccount.model_validate(finished.result).created
        self._phase = DONE if created else ADDRESS_TAKEN
        self._record.note("account_created" if created else "account_refused", after=self._phase)
        yield from self._store()
        self._send("signup_welcome" if created else "signup_known")

    def _expire(self) -> Turn[None]:
        self._phase, self._next_reminder, self._has_moved = EXPIRED, None, False
        self._record.close_wait()
        self._record.note("expired", after=EXPIRED, channel="timer")
        yield from self._store()
        yield from self._erase()

    def _erase(self) -> Turn[None]:
        """Erase what is personal: the mails that were kept, and, with the history, the input."""
        self._inbox.ends_at = None
        while self._inbox.watched:  # a mail that is under way would be kept when all others are gone
            yield from self._inbox.next(None)
        self._inbox.close()
        erased = ErasedSignup(instance_id=self._ctx.instance_id, run=self._record.run)
        yield self._ctx.call_activity(erase_signup, input=erased.plain(), retry_policy=RECORD)

    # What is put on record, said of it, and carried over

    def carried(self) -> dict[str, Any]:
        """Return the input with the new address, and all that the run knows."""
        known = list(self._verdicts.known.items())[-MAX_CARRIED:]
        state = SignupState(
            record=self._record.carried(),
            standing=self._standing,
            deadline=self._deadline,
            ends_at=self._inbox.ends_at,
            verdicts=dict(known),
            refusals=self._verdicts.refusals,
        )
        return self._asked.model_copy(update={"carried": state}).plain()

    def _restore(self, known: SignupState) -> None:
        self._record.restore(known.record)
        self._standing, self._deadline = known.standing, known.deadline
        self._inbox.ends_at = known.ends_at
        self._verdicts.known, self._verdicts.refusals = dict(known.verdicts), dict(known.refusals)
        self._phase = CREATING if known.standing.verified_at is not None else WAITING

    def _store(self) -> Turn[None]:
        """Put on record what was noted; only then say where it stands."""
        yield from self._record.store()
        self._say()
        self._verdicts.publish()

    def _stand(self, **said: Any) -> None:
        self._standing = self._standing.model_copy(update=said)

    def _say(self) -> None:
        """Say in the custom status where it stands."""
        due = self._next_reminder
        self._stand(next_reminder=self._clock.real(due).replace(tzinfo=UTC) if due is not None else None)
        self._record.signup(self._standing)
        is_waiting = self._phase == WAITING
        self._record.enter(self._phase, waiting_for=VERIFY if is_waiting else None, deadline=self._deadline)

    @property
    def _now(self) -> datetime:
        return self._ctx.current_utc_datetime
