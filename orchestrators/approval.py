"""Approval: people approve what somebody asked for, reject it, or ask for changes, by the rules of the request."""

from collections.abc import Generator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import batched
from typing import Any, Literal

from durabletask import task

from activities.approval import check_answers, post_outcome, send_mail
from contracts.approval import (
    MAX_ROUNDS,
    ApprovalEvent,
    ApprovalInput,
    ApprovalOutcome,
    Callback,
    CastVote,
    Command,
    DelegateEvent,
    Every,
    ExtendEvent,
    FromLink,
    Group,
    Person,
    Refusal,
    RemindEvent,
    ReviseEvent,
    VoteEvent,
    WithdrawEvent,
    digest_of_said,
)
from contracts.base import MAX_PEOPLE, YEAR_IN_HOURS, as_utc_text, path_to, same_person
from contracts.carried import ApprovalState
from contracts.human_step import Decision, Standing, Verdict, digest_of_id, digest_of_person
from contracts.mail import Mail
from contracts.shown import Content, Shown
from orchestrators.approval_version_2 import approval_version_2
from orchestrators.ballot import Ballot, Seat
from orchestrators.human_step import Finished, Inbox
from orchestrators.retries import CALLBACK, EFFECT
from orchestrators.run_record import RunRecord

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
"""Who asks for a reminder and does not say who it is."""
AUTOMATIC = "(automatic)"
"""Who has approved when the time was up, where the request says that this approves it."""
REVISED = dict.fromkeys(("item", "title", "description", "details"), True)
"""The fields that a requester can change."""
BEGIN_ANEW_AFTER = 30
"""After so many things that came, a run that waits begins a new history: each turn goes through all of it."""
KEPT_COMMENT = 1000
"""How much of a comment stands in the output, but for the one that decided: the trail has the whole of each."""
MAX_REFUSALS_EACH, MAX_REFUSALS = 5, 200
"""How many refusals the trail names of one person, and of one run."""
MAX_CARRIED = 200
"""How many verdicts are known of those that came before that."""
MAX_WRONG_CODES = 5
MAX_ASIDE = 50
"""How often one run is extended, and how often its links are sent again on demand."""
SHOWN = {"gave_away": 50, "locked": 20, "mail_failed": 3}
"""How many of these the custom status has room for, the newest ones."""

type Turn[Result] = Generator[task.Task[Any], Any, Result]
type Ending = Literal["approved", "rejected", "changes", "timed_out", "withdrawn"]
type MailTemplate = Literal["asked", "reminder", "escalated", "delegated", "decided", "withdrawn", "changes_requested"]


def approval(ctx: task.OrchestrationContext, request: dict[str, Any]) -> Turn[dict[str, Any]]:
    """Ask for an approval and wait until it is decided, withdrawn, or the time is up.

    Takes an ``ApprovalInput``, gives an ``ApprovalOutcome``; waits for the events of ``EVENTS``. Fails when the time is
    up and the request says that it then fails.
    """
    if ctx.version in (None, "", "2") and "carried" not in request:
        return (yield from approval_version_2(ctx, request))
    run = _Approval(ctx, ApprovalInput.model_validate(request))
    try:
        return (yield from run.run(request))
    except _BeginAnew:
        ctx.continue_as_new(run.carried(), save_events=True)
        return {}


class NobodyDecided(Exception):
    """The time was up, and the request says that it then fails."""


class _BeginAnew(Exception):
    """The history of the run is long, and nothing is under way: the same run goes on with a new one."""


class _Approval:
    """One run: rounds, in which groups of people are asked, until it ends."""

    def __init__(self, ctx: task.OrchestrationContext, asked: ApprovalInput) -> None:
        self._ctx = ctx
        self._asked = asked
        self._record = RunRecord(ctx)
        self._inbox = Inbox(ctx, EVENTS, self._record.set_aside, in_order=True)
        self._began = ctx.current_utc_datetime
        self._latest = self._began + timedelta(hours=YEAR_IN_HOURS)
        self._deadline = self._began + timedelta(hours=asked.timeout_hours)
        self._show(asked.content, 0)
        self._stage = self._level = 0
        self._ballot: Ballot | None = None
        self._is_changing = self._is_resumed = False
        self._turn_began = self._began
        self._reminders = 0
        self._last: CastVote | None = None
        self._last_comments: str | None = None
        self._votes: list[CastVote] = []
        self._why_withdrawn: str | None = None
        self._mails = self._asides = 0
        self._to_send: list[Mail] = []
        self._sent: list[tuple[Mail, bool]] = []
        self._mail_failed: list[str] = []
        self._refusals: dict[str, int] = {}
        self._wrong_codes: dict[int, int] = {}
        self._verdicts: dict[str, Verdict] = {}
        self._to_answer: list[Verdict] = []
        self._arrivals = 0

    def run(self, request: dict[str, Any]) -> Turn[dict[str, Any]]:
        """Go through the rounds, to the end."""
        if self._asked.carried is not None:
            self._restore(ApprovalState.model_validate(self._asked.carried))
            yield from self._store()
            return (yield from self._go_on())
        self._record.enter("requesting_approval", waiting_for=DECISION, deadline=self._deadline)
        self._stand()
        actor = self._asked.requester
        self._record.note("started", after="requesting_approval", actor=actor, channel="api", payload=request)
        return (yield from self._go_on())

    def _go_on(self) -> Turn[dict[str, Any]]:
        while True:
            if not self._is_changing:
                ending = yield from self._round()
                if ending != "changes":
                    break
            early = yield from self._changes()
            if early is not None:
                ending = early
                break
        return (yield from self._end(ending))

    # What is carried over to a new history

    def carried(self) -> dict[str, Any]:
        """Return the input with all that the run knows."""
        assert self._ballot is not None
        state = ApprovalState(
            record=self._record.carried(),
            began=self._began,
            deadline=self._deadline,
            turn_began=self._turn_began,
            round=self._shown.round,
            stage=self._stage,
            level=self._level,
            content=self._shown.content,
            is_changing=self._is_changing,
            ballot=self._ballot.carried(),
            votes=tuple(self._votes),
            last=self._last,
            reminders=self._reminders,
            mails=self._mails,
            asides=self._asides,
            mail_failed=tuple(self._mail_failed),
            refusals=self._refusals,
            wrong_codes={str(serial): wrong for serial, wrong in self._wrong_codes.items()},
            verdicts=dict(list(self._verdicts.items())[-MAX_CARRIED:]),
        )
        return self._asked.model_copy(update={"carried": state.plain()}).plain()

    def _restore(self, known: ApprovalState) -> None:
        self._record.restore(known.record)
        self._began, self._latest = known.began, known.began + timedelta(hours=YEAR_IN_HOURS)
        self._deadline, self._turn_began = known.deadline, known.turn_began
        self._show(known.content, known.round)
        self._stage, self._level, self._is_changing = known.stage, known.level, known.is_changing
        self._ballot = Ballot(self._asked, self._group, self._now)
        self._ballot.restore(known.ballot)
        self._last, self._reminders, self._mails = known.last, known.reminders, known.mails
        self._asides, self._mail_failed = known.asides, list(known.mail_failed)
        self._wrong_codes = {int(serial): wrong for serial, wrong in known.wrong_codes.items()}
        self._verdicts, self._votes, self._refusals = dict(known.verdicts), list(known.votes), dict(known.refusals)
        self._is_resumed = True

    def _next(self, until: datetime) -> Turn[Any]:
        """Wait for the next thing; with a new history, when the one of today is long."""
        is_idle = self._inbox.is_empty and self._record.is_stored and not self._to_send and not self._to_answer
        if self._arrivals >= BEGIN_ANEW_AFTER and is_idle:
            self._inbox.close()
            raise _BeginAnew
        self._arrivals += 1
        return (yield from self._inbox.next(until))

    # Asking

    def _round(self) -> Turn[Ending]:
        """Ask the groups, one after another; when the time is up, the levels of the escalation."""
        if not self._is_resumed:
            self._show(self._shown.content, self._shown.round + 1)
            self._record.show(self._shown)
            self._stage = self._level = 0
            self._votes = []
        while True:
            ending = yield from self._ask()
            if ending == "approved" and not self._level and self._stage + 1 < len(self._asked.stages):
                self._votes += self._ballot.votes if self._ballot is not None else ()
                self._stage += 1
            elif ending == "timed_out" and self._level < len(self._asked.escalation):
                self._votes += self._ballot.votes if self._ballot is not None else ()
                self._note("timed_out", channel="timer")
                hours = self._asked.escalation[self._level].timeout_hours
                self._level += 1
                self._deadline = min(self._now + timedelta(hours=hours), self._latest)
            else:
                return ending

    @property
    def _group(self) -> Group | None:
        """Who is asked at this stage, or level; None for anybody."""
        if self._level:
            return self._asked.escalation[self._level - 1]
        return self._asked.stages[self._stage] if self._asked.stages else None

    def _ask(self) -> Turn[Ending]:
        """Ask one group, until it has decided or something else ends it."""
        if not self._is_resumed:
            yield from self._begin_asking()
        self._is_resumed = False
        assert self._ballot is not None
        ballot = self._ballot
        while True:
            until = min(self._deadline, self._next_reminder or self._deadline)
            arrived = yield from self._next(until)
            ending: Ending | None = None
            if arrived is None and until == self._deadline:
                self._record.close_wait()
                return "timed_out"
            if arrived is None:
                self._remind(self._waited_for)
                yield from self._store()
            elif isinstance(arrived, Finished):
                yield from self._delivered(arrived)
            elif not self._is_known(arrived):
                ending = yield from self._take(arrived, ballot)
            if ending is not None:
                self._record.close_wait()
                return ending

    def _begin_asking(self) -> Turn[None]:
        self._ballot, self._is_changing = Ballot(self._asked, self._group, self._now), False
        self._note_stand_ins(self._ballot)
        people = tuple(person.email for person in self._waited_for)
        self._open_wait(people, ("approve", "reject", "request_changes", "abstain"))
        everybody = tuple(seat.holder.email for seat in self._ballot.seats) or people
        action: Literal["escalated", "asked"] = "escalated" if self._level else "asked"
        where = f"level {self._level}" if self._level else f"stage {self._stage + 1}" if self._stage else None
        self._note(action, after="waiting_for_approval", people=everybody, detail=where)
        self._begin_turn(action)
        yield from self._store()
        self._record.enter("waiting_for_approval", waiting_for=DECISION, deadline=self._deadline)

    def _take(self, asked: Any, ballot: Ballot) -> Turn[Ending | None]:
        """Do what an event asks for, or refuse it; give how that ends the asking, or None."""
        match asked:
            case VoteEvent():
                return (yield from self._vote(asked, ballot))
            case DelegateEvent():
                yield from self._delegate(asked, ballot)
            case RemindEvent():
                yield from self._remind_again(asked, ballot)
            case WithdrawEvent() | ExtendEvent():
                return (yield from self._by_requester(asked))
            case _:
                yield from self._refuse(asked, "not_waiting")
        return None

    def _vote(self, event: VoteEvent, ballot: Ballot) -> Turn[Ending | None]:
        refusal = self._why_not_by(event.link) or ballot.may_vote(event.approver) or self._why_not(event, ballot)
        if refusal is None and event.choice == "approve" and self._shown.content.form is not None:
            given = {"form": self._shown.content.form, "answers": event.answers or {}}
            try:
                checked = yield self._ctx.call_activity(check_answers, input=given)
            except task.TaskFailedError:
                refusal = "answers_wrong"
            else:
                refusal = "answers_wrong" if checked["wrong"] else None
        if refusal is not None:
            yield from self._refuse(event, refusal)
            return None
        seat, before = ballot.seat_of(event.approver), self._waited_for
        self._last = vote = CastVote(
            by=seat.holder.email if seat is not None else event.approver,
            on_behalf_of=seat.on_behalf_of if seat is not None else None,
            vote=event.choice,
            comments=event.comments and event.comments[:KEPT_COMMENT],
            answers=event.answers,
            at=self._now.replace(tzinfo=UTC),
            channel=event.channel or "event",
        )
        ballot.cast(vote)
        self._last_comments = event.comments
        self._note(
            "voted",
            actor=vote.by,
            on_behalf_of=vote.on_behalf_of,
            channel=vote.channel,
            detail=vote.vote,
            comment=vote.comments,
            payload=event.model_dump(mode="json", exclude_none=True),
        )
        self._take_note(event)
        ending: Ending | None = "changes" if vote.vote == "request_changes" else ballot.result
        if ending is None:
            self._change_wait()
            if self._waited_for[:1] not in ((), before[:1]) and ballot.is_sequential:
                self._begin_turn("asked")
            yield from self._store()
        return ending

    def _delegate(self, event: DelegateEvent, ballot: Ballot) -> Turn[None]:
        refusal = self._why_not_by(event.link) or ballot.may_hand_over(event.approver, event.to)
        if event.by is not None and self._asked.is_requester(event.by) and not self._asked.allow_self_approval:
            refusal = "own_request"
        if refusal is not None:
            yield from self._refuse(event, refusal)
            return
        seat = ballot.hand_over(event.approver, event.to)
        self._note(
            "delegated",
            actor=event.by or seat.before[-1].email,
            on_behalf_of=seat.before[-1].email if event.by else None,
            people=(event.to.email,),
            channel=event.channel or "event",
            comment=event.comments,
        )
        self._take_note(event)
        self._change_wait()
        if seat in ballot.waited_for:
            self._mail_seat("delegated", seat, comment=event.comments)
        yield from self._store()

    def _by_requester(self, event: WithdrawEvent | ExtendEvent) -> Turn[Ending | None]:
        """Withdraw the request, or move its deadline on."""
        if not self._asked.is_requester(event.by):
            yield from self._refuse(event, "not_requester")
            return None
        channel = event.channel or "event"
        if isinstance(event, WithdrawEvent):
            self._note("withdrawn", after="withdrawn", actor=event.by, channel=channel, comment=event.comments)
            self._take_note(event)
            self._why_withdrawn = event.comments
            return "withdrawn"
        deadline = self._deadline + timedelta(hours=event.extend_by)
        later = sum(level.timeout_hours for level in self._asked.escalation[self._level :])
        too_long = deadline + timedelta(hours=later) > self._latest
        if too_long or self._asides >= MAX_ASIDE:
            yield from self._refuse(event, "too_long" if too_long else "too_often")
            return None
        self._asides += 1
        self._deadline = deadline
        until = as_utc_text(deadline)
        self._note("extended", actor=event.by, channel=channel, detail=until, comment=event.comments)
        self._take_note(event)
        self._record.extend_wait(deadline)
        yield from self._store()
        self._record.extend(deadline)
        return None

    # Changes

    def _changes(self) -> Turn[Literal["timed_out", "withdrawn"] | None]:
        """Wait for the requester to answer to the changes that were asked for; None when they did."""
        if not self._is_resumed:
            yield from self._ask_for_changes()
        self._is_resumed = False
        while True:
            arrived = yield from self._next(self._deadline)
            if arrived is None:
                self._record.close_wait()
                return "timed_out"
            if isinstance(arrived, Finished):
                yield from self._delivered(arrived)
            elif self._is_known(arrived):
                continue
            elif isinstance(arrived, WithdrawEvent | ExtendEvent):
                if (yield from self._by_requester(arrived)) == "withdrawn":
                    self._record.close_wait()
                    return "withdrawn"
            elif isinstance(arrived, RemindEvent):
                yield from self._remind_requester(arrived)
            elif isinstance(arrived, ReviseEvent):
                if (refusal := self._revise(arrived)) is None:
                    self._is_changing = False
                    self._record.close_wait()
                    return None
                yield from self._refuse(arrived, refusal)
            else:
                yield from self._refuse(arrived, "not_waiting")

    def _ask_for_changes(self) -> Turn[None]:
        assert self._last is not None
        address = self._asked.requester_address
        self._is_changing = True
        self._open_wait((address,) if address is not None else (), ("revise", "withdraw"))
        self._note("changes_requested", after="waiting_for_changes", actor=self._last.by)
        self._mail_changes()
        yield from self._store()
        self._record.enter("waiting_for_changes", waiting_for="revise", deadline=self._deadline)

    def _mail_changes(self) -> None:
        address = self._asked.requester_address
        if address is not None and self._last is not None:
            self._mail("changes_requested", Person(email=address), by=self._last.by, comment=self._last.comments)

    def _remind_requester(self, event: RemindEvent) -> Turn[None]:
        address = self._asked.requester_address
        if address is None or self._asides >= MAX_ASIDE:
            yield from self._refuse(event, "not_asked" if address is None else "too_often")
            return
        self._asides += 1
        self._note("reminded", actor=event.by or API, channel=event.channel or "event", people=(address,))
        self._mail_changes()
        self._take_note(event)
        yield from self._store()

    def _revise(self, event: ReviseEvent) -> Refusal | None:
        """Take what the requester changed, or give why not."""
        if not self._asked.is_requester(event.by):
            return "not_requester"
        changes = event.model_dump(mode="json", exclude_none=True, include=REVISED)
        before = self._shown.content
        try:
            content = before.model_validate(before.model_dump(mode="json") | changes)
        except ValueError:
            return "too_long"
        self._show(content, self._shown.round)
        self._note(
            "revised",
            after="requesting_approval",
            actor=event.by,
            channel=event.channel or "event",
            comment=event.comments,
            payload=event.model_dump(mode="json", exclude_none=True),
        )
        self._take_note(event)
        return None

    # The end

    def _end(self, ending: Ending) -> Turn[dict[str, Any]]:
        """Say what came out: on record, in the status, to those who want to know it, and as the output."""
        decision, outcome = self._outcome(ending)
        phase = {"Timeout": "timed_out"}.get(outcome.status, outcome.status.lower())
        if ending == "timed_out":
            self._note("timed_out", after=phase, channel="timer", detail=self._asked.on_timeout)
        elif decision is not None:
            vote = self._deciding_vote(ending)
            who = {"actor": vote.by, "on_behalf_of": vote.on_behalf_of, "channel": vote.channel} if vote else {}
            self._note("decided", after=phase, **who)
        self._mail_outcome(outcome)
        if self._to_send or self._inbox.watched or self._asked.callback_url is not None:
            yield from self._store()
            self._record.enter(phase, deadline=self._deadline, decision=decision)
            self._call_back(outcome)
        while self._inbox.watched:
            arrived = yield from self._inbox.next(None)
            if isinstance(arrived, Finished):
                yield from self._delivered(arrived, store=False)
            elif arrived is not None:
                self._note_refusal(arrived, "not_waiting")  # without a verdict: what came out is the answer to all
        self._inbox.close()
        self._note_deliveries()
        self._note("ended")
        yield from self._store()
        self._record.enter(phase, deadline=self._deadline, decision=decision)
        if outcome.status == "Failed":
            raise NobodyDecided("Nobody decided in time, and the request says that it then fails.")
        return self._record.outcome(outcome)

    def _call_back(self, outcome: ApprovalOutcome) -> None:
        if self._asked.callback_url is None:
            return
        callback = Callback(
            url=self._asked.callback_url,
            instance_id=self._ctx.instance_id,
            run=self._record.run,
            outcome=outcome,
            at=self._now.replace(tzinfo=UTC),
        )
        posting = self._ctx.call_activity(post_outcome, input=callback.plain(), retry_policy=CALLBACK)
        self._inbox.watch(posting, "callback")

    def _outcome(self, ending: Ending) -> tuple[Decision | None, ApprovalOutcome]:
        statuses: dict[str, Any] = {"approved": "Approved", "rejected": "Rejected", "withdrawn": "Withdrawn"}
        on_timeout = {"approve": "Approved", "fail": "Failed"}.get(self._asked.on_timeout, "Timeout")
        if self._is_changing and on_timeout == "Approved":  # the changes that were asked for were never made
            on_timeout = "Timeout"
        outcome = ApprovalOutcome(
            status=statuses.get(ending, on_timeout),
            requester=self._asked.requester,
            item=self._shown.content.item,
            rounds=self._shown.round,
            votes=(*self._votes, *(self._ballot.votes if self._ballot is not None else ())),
        )
        if ending == "timed_out" and on_timeout == "Approved":
            at = self._now.replace(tzinfo=UTC)
            decision = Decision(approved=True, by=AUTOMATIC, at=at)
            return decision, outcome.model_copy(update={"decided_at": at})
        if ending not in ("approved", "rejected"):
            return None, outcome
        vote = self._deciding_vote(ending)
        by, comments = (vote.by, vote.comments) if vote is not None else (AUTOMATIC, None)
        if vote is not None and vote is self._last:
            comments = self._last_comments
        decision = Decision(approved=ending == "approved", by=by, comments=comments, at=self._now.replace(tzinfo=UTC))
        said = {"approver": vote and vote.by, "comments": comments, "decided_at": decision.at}
        return decision, outcome.model_copy(update=said)

    def _deciding_vote(self, ending: Ending) -> CastVote | None:
        """The newest vote that says what came out: who abstained last has decided nothing."""
        said = "approve" if ending == "approved" else "reject"
        votes = [vote for vote in self._ballot.votes if vote.vote == said] if self._ballot is not None else []
        if self._last is not None and self._last.vote == said:
            return self._last
        return max(votes, key=lambda vote: vote.at, default=None)

    def _mail_outcome(self, outcome: ApprovalOutcome) -> None:
        """Tell the requester and who has yet to vote; that it was withdrawn, all who were asked."""
        withdrawn = outcome.status == "Withdrawn"
        people = [*self._waited_for]
        if withdrawn and self._ballot is not None:
            people = [seat.holder for seat in self._ballot.seats] or [*self._mailbox]
        address = self._asked.requester_address
        if address is not None and not withdrawn:
            people.append(Person(email=address))
        for person in people:
            self._mail(
                "withdrawn" if withdrawn else "decided",
                person,
                by=self._asked.requester if withdrawn else outcome.approver,
                outcome=outcome.status,
                comment=self._why_withdrawn if withdrawn else outcome.comments,
            )

    # Mails

    def _begin_turn(self, template: MailTemplate) -> None:
        """Ask those whose turn it is, and count their reminders from now on."""
        self._turn_began, self._reminders = self._now, 0
        ballot = self._ballot
        assert ballot is not None
        if ballot.is_open:
            for person in self._waited_for:
                self._mail(template, person, link=True)
        for seat in ballot.waited_for:
            self._mail_seat("delegated" if seat.before and template == "asked" else template, seat)

    def _mail_seat(self, template: MailTemplate, seat: Seat, comment: str | None = None) -> None:
        by = seat.before[-1].shown if template == "delegated" else None
        self._mail(template, seat.holder, link=True, by=by, on_behalf_of=seat.on_behalf_of, comment=comment)

    def _mail(self, template: MailTemplate, to: Person, *, link: bool = False, **said: Any) -> None:
        """Send a mail, once what it is about is on record, and without standing still for it."""
        self._mails += 1
        mail = Mail(
            template=template,
            instance_id=self._ctx.instance_id,
            run=self._record.run,
            number=self._mails,
            round=self._shown.round,
            to=to.email,
            to_name=to.name,
            deadline=self._deadline.replace(tzinfo=UTC),
            link_digest=self._digest if link else None,
            code=link and self._asked.second_factor == "mail_code",
            **said,
        )
        self._to_send.append(mail)

    def _delivered(self, finished: Finished, *, store: bool = True) -> Turn[None]:
        """Note what became of mails, when all are on their way no more, and of the callback."""
        if finished.what == "callback":
            self._note("called_back" if finished.succeeded else "callback_failed")
            if not finished.succeeded:
                self._record.warn("The outcome could not be posted to the callback_url.")
            return
        self._sent.append((finished.what, finished.succeeded))
        address = finished.what.to
        self._mail_failed = [each for each in self._mail_failed if each != address]
        if not finished.succeeded:
            self._mail_failed.append(address)
            self._record.warn(f"A mail to {address} could not be sent; the decision can still be made."[:250])
        self._stand()
        if store and not self._inbox.watched:
            yield from self._store()

    def _note_deliveries(self) -> None:
        sent, self._sent = self._sent, []
        kinds = dict.fromkeys((mail.round, mail.template, succeeded) for mail, succeeded in sent)
        for kind in kinds:
            number, template, succeeded = kind
            action: Literal["mailed", "mail_failed"] = "mailed" if succeeded else "mail_failed"
            people = [mail.to for mail, done in sent if (mail.round, mail.template, done) == kind]
            for some in batched(people, MAX_PEOPLE, strict=False):
                self._record.note(action, people=some, detail=template, round_number=number)

    @property
    def _next_reminder(self) -> datetime | None:
        reminders = self._asked.reminders
        if reminders is None:
            return None
        if isinstance(reminders, Every):
            hours = reminders.every * (self._reminders + 1) if self._reminders < reminders.max else None
        else:
            hours = next(iter(sorted(reminders.at)[self._reminders :]), None)
        return self._turn_began + timedelta(hours=hours) if hours is not None else None

    def _remind(self, people: Sequence[Person], by: str | None = None, channel: Any = "timer") -> None:
        """Send the links again. Reminders that were missed while nothing ran are made up for by one."""
        while by is None and self._next_reminder is not None and self._next_reminder <= self._now:
            self._reminders += 1
        if not people:
            return
        addresses = tuple(person.email for person in people)
        self._note("reminded", actor=by, channel=channel, people=addresses)
        for person in people:
            seat = self._ballot.seat_of(person.email) if self._ballot is not None else None
            if seat is not None:
                self._mail_seat("reminder", seat)
            else:
                self._mail("reminder", person, link=True)

    def _remind_again(self, event: RemindEvent, ballot: Ballot) -> Turn[None]:
        people = self._waited_for
        refusal: Refusal | None = None if people else "not_asked"
        if event.approver is not None:
            who = same_person(event.approver)
            people = tuple(person for person in people if same_person(person.email) == who)
            seat = ballot.seat_of(event.approver)
            if not people:
                refusal = "not_asked" if seat is None else "already_voted" if seat.vote is not None else "not_yet"
        if refusal is not None or self._asides >= MAX_ASIDE:
            yield from self._refuse(event, refusal or "too_often")
            return
        self._asides += 1
        self._remind(people, by=event.by or API, channel=event.channel or "event")
        self._take_note(event)
        yield from self._store()

    # What is said to whom

    def _why_not_by(self, link: FromLink | None) -> Refusal | None:
        """Return why a link may not do this, or None."""
        if link is None:
            return None
        if link.round != self._shown.round or link.serial > self._mails:
            return "old_round"
        if self._wrong_codes.get(link.serial, 0) >= MAX_WRONG_CODES:
            return "locked"
        if self._asked.second_factor == "mail_code" and link.code != "right":
            self._wrong_codes[link.serial] = self._wrong_codes.get(link.serial, 0) + 1
            return "wrong_code"
        return None

    def _why_not(self, event: VoteEvent, ballot: Ballot) -> Refusal | None:
        """Return what is wrong with a vote itself, or None."""
        if event.choice == "abstain" and ballot.is_open and len(ballot.anybody) >= MAX_PEOPLE:
            return "too_often"  # where anybody may vote, abstentions decide nothing
        if event.answers is not None and self._shown.content.form is None:
            return "answers_wrong"
        needed = event.choice == "request_changes" or event.choice in self._asked.require_comment_on
        if needed and not event.comments:
            return "comment_needed"
        if event.choice == "request_changes" and self._shown.round >= MAX_ROUNDS:
            return "too_often"
        return None

    def _is_known(self, asked: Any) -> bool:
        """Whether an event came before under its ``decision_id``; then its verdict stands, and is shown again."""
        verdict = self._verdicts.get(asked.decision_id or "")
        if verdict is not None and verdict not in self._to_answer:
            self._record.answer(verdict)
        return verdict is not None

    def _take_note(self, asked: ApprovalEvent, code: str = "taken") -> None:
        """Keep a verdict, to be published when what it says is on record."""
        if asked.decision_id is not None:
            verdict = Verdict(id=digest_of_id(asked.decision_id), said=digest_of_said(asked), code=code)
            self._verdicts[asked.decision_id] = verdict
            self._to_answer.append(verdict)

    def _refuse(self, asked: Any, refusal: Refusal) -> Turn[None]:
        """Refuse what was asked, and put that on record."""
        self._take_note(asked, refusal)
        self._note_refusal(asked, refusal)
        yield from self._store()

    def _note_refusal(self, asked: Any, refusal: Refusal) -> None:
        who = getattr(asked, "approver", None) or getattr(asked, "by", None)
        name = digest_of_person(who or "")
        self._refusals[name] = self._refusals.get(name, 0) + 1
        if self._refusals[name] <= MAX_REFUSALS_EACH and sum(self._refusals.values()) <= MAX_REFUSALS:
            self._note("refused", actor=who, channel=asked.channel or "event", detail=refusal)

    def _store(self) -> Turn[None]:
        """Put on record what was noted; only then send mails, and publish verdicts and where it stands."""
        self._note_deliveries()
        yield from self._record.store()
        to_send, self._to_send = self._to_send, []
        for mail in to_send:
            given = mail.model_dump(mode="json", exclude_none=True)
            sending = self._ctx.call_activity(send_mail, input=given, retry_policy=EFFECT)
            self._inbox.watch(sending, mail)
        to_answer, self._to_answer = self._to_answer, []
        for verdict in to_answer:
            self._record.answer(verdict)
        self._stand()

    def _stand(self) -> None:
        ballot = self._ballot
        seats = ballot.seats if ballot is not None else []
        gave = [digest_of_person(person.email) for seat in seats for person in seat.before]
        locked = [serial for serial, wrong in self._wrong_codes.items() if wrong >= MAX_WRONG_CODES]
        self._record.stand(
            Standing(
                round=self._shown.round,
                stage=self._stage,
                level=self._level,
                shown=self._digest,
                open=ballot is not None and ballot.is_open,
                seats={digest_of_person(seat.holder.email): seat.vote.vote if seat.vote else None for seat in seats},
                gave_away=tuple(gave[-SHOWN["gave_away"] :]),
                locked=tuple(locked[-SHOWN["locked"] :]),
                mail_failed=tuple(self._mail_failed[-SHOWN["mail_failed"] :]),
            )
        )

    def _show(self, content: Content, round_number: int) -> None:
        run = self._record.run
        self._shown = Shown(instance_id=self._ctx.instance_id, run=run, round=round_number, content=content)
        self._digest = self._shown.digest

    def _note(self, action: Any, **said: Any) -> None:
        self._record.note(action, round_number=self._shown.round or None, **said)

    def _note_stand_ins(self, ballot: Ballot) -> None:
        for seat in ballot.stood_in:
            self._note(
                "delegated", on_behalf_of=seat.on_behalf_of, people=(seat.holder.email,), detail="standing delegation"
            )
        for person, refusal in ballot.kept:
            self._note("set_aside", actor=person.email, detail=f"standing delegation: {refusal}")

    def _open_wait(self, people: tuple[str, ...], actions: tuple[str, ...]) -> None:
        self._record.open_wait(
            kind="approval",
            title=self._shown.content.headline,
            people=people,
            deadline=self._deadline,
            actions=actions,
            path=path_to("/api/requests/{}", self._ctx.instance_id),
        )

    def _change_wait(self) -> None:
        self._record.change_wait(tuple(person.email for person in self._waited_for))

    @property
    def _waited_for(self) -> tuple[Person, ...]:
        """Who is waited for; where anybody may vote, whoever is mailed."""
        if self._ballot is None or self._is_changing:
            return ()
        if self._ballot.is_open:
            return self._mailbox
        return tuple(seat.holder for seat in self._ballot.waited_for)

    @property
    def _mailbox(self) -> tuple[Person, ...]:
        return (Person(email=self._asked.mailbox),) if self._asked.mailbox is not None else ()

    @property
    def _now(self) -> datetime:
        return self._ctx.current_utc_datetime
