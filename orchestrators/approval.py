"""Approval: people approve what somebody asked for, reject it, or ask for changes, by the rules of the request."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from durabletask import task

from activities.approval import check_answers, post_outcome
from contracts.approval import (
    MAX_ROUNDS,
    ApprovalInput,
    ApprovalOutcome,
    Callback,
    CastVote,
    DelegateEvent,
    ExtendEvent,
    Group,
    Refusal,
    RemindEvent,
    ReviseEvent,
    VoteEvent,
    WithdrawEvent,
)
from contracts.base import MAX_PEOPLE, YEAR_IN_HOURS, as_utc_text, same_person
from contracts.carried import ApprovalState
from contracts.human_step import Asking, Decision
from contracts.people import Every, Person
from orchestrators.approval_desk import DECISION, Desk, MailTemplate, Turn, doer_of
from orchestrators.approval_outcome import Ending, deciding_vote, outcome_of
from orchestrators.approval_version_2 import approval_version_2
from orchestrators.ballot import Ballot
from orchestrators.human_step import EXECUTION_TIMED_OUT, ExecutionTimedOut, Finished
from orchestrators.retries import CALLBACK
from orchestrators.run_clock import run_clock

REVISED = dict.fromkeys(("item", "title", "description", "details"), True)
"""The fields that a requester can change."""
BEGIN_ANEW_AFTER = 30
"""After so many things that came, a run that waits begins a new history: each turn goes through all of it."""
KEPT_COMMENT = 1000
"""How much of a comment stands in the output, but for the one that decided: the trail has the whole of each."""
MAX_ASIDE = 50
"""How often one run is extended, and how often its links are sent again on demand."""


def approval(ctx: task.OrchestrationContext, request: dict[str, Any]) -> Turn[dict[str, Any]]:
    """Ask for an approval and wait until it is decided, withdrawn, or the time is up.

    Takes an ``ApprovalInput``, gives an ``ApprovalOutcome``; waits for the events of ``EVENTS``. Fails when the time is
    up and the request says that it then fails, and when it takes longer than its execution timeout.
    """
    if ctx.version in (None, "", "2") and "carried" not in request:
        return (yield from approval_version_2(ctx, request))
    run = _Approval(ctx, ApprovalInput.model_validate(request))
    try:
        return (yield from run.run(request))
    except _BeginAnew:
        ctx.continue_as_new(run.carried(), save_events=True)
        return {}
    except ExecutionTimedOut:
        yield from run.out_of_time()
        raise


class NobodyDecided(Exception):
    """The time was up, and the request says that it then fails."""


class _BeginAnew(Exception):
    """The history of the run is long, and nothing is under way: the same run goes on with a new one."""


class _Approval:
    """One run: rounds, in which groups of people are asked, until it ends."""

    def __init__(self, ctx: task.OrchestrationContext, asked: ApprovalInput) -> None:
        self._ctx = ctx
        self._asked = asked
        self._desk = Desk(ctx, asked)
        self._clock = run_clock(ctx)
        self._began = self._clock.now
        self._stage = self._level = 0
        self._ballot: Ballot | None = None
        self._is_changing = self._is_resumed = False
        self._turn_began = self._began
        self._reminders = self._asides = self._arrivals = 0
        self._last: CastVote | None = None
        self._votes: list[CastVote] = []
        self._why_withdrawn: str | None = None
        self._desk.inbox.ends_at = self._ends_at

    def run(self, request: dict[str, Any]) -> Turn[dict[str, Any]]:
        """Go through the rounds, to the end."""
        if self._asked.carried is not None:
            self._restore(ApprovalState.model_validate(self._asked.carried))
            yield from self._store()
            return (yield from self._go_on())
        self._desk.record.enter("requesting_approval", waiting_for=DECISION, deadline=self._desk.deadline)
        self._stand()
        self._desk.record.note(
            "started",
            after="requesting_approval",
            actor=self._asked.started_by or self._asked.requester,
            on_behalf_of=self._asked.requester if self._asked.is_for_another else None,
            channel="api",
            payload=request,
        )
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
            desk=self._desk.carried(),
            began=self._began,
            turn_began=self._turn_began,
            stage=self._stage,
            level=self._level,
            is_changing=self._is_changing,
            ballot=self._ballot.carried(),
            votes=tuple(self._votes),
            last=self._last,
            reminders=self._reminders,
            asides=self._asides,
        )
        return self._asked.model_copy(update={"carried": state.plain()}).plain()

    def _restore(self, known: ApprovalState) -> None:
        self._desk.restore(known.desk)
        self._began, self._turn_began = known.began, known.turn_began
        self._stage, self._level, self._is_changing = known.stage, known.level, known.is_changing
        self._ballot = Ballot(self._asked, self._group, self._now)
        self._ballot.restore(known.ballot)
        self._last, self._votes = known.last, list(known.votes)
        self._reminders, self._asides = known.reminders, known.asides
        self._is_resumed = True
        self._desk.inbox.ends_at = self._ends_at

    def _next(self, until: datetime) -> Turn[Any]:
        """Wait for the next thing; with a new history, when the one of today is long."""
        if self._arrivals >= BEGIN_ANEW_AFTER and self._desk.is_idle:
            self._desk.inbox.close()
            raise _BeginAnew
        self._arrivals += 1
        return (yield from self._desk.inbox.next(until))

    # Asking

    def _round(self) -> Turn[Ending]:
        """Ask the groups, one after another; when the time is up, the levels of the escalation."""
        if not self._is_resumed:
            self._desk.show(self._desk.shown.content, self._desk.shown.round + 1)
            self._desk.record.show(self._desk.shown)
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
                self._desk.deadline = min(self._clock.now + timedelta(hours=hours), self._last_moment)
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
            until = min(self._desk.deadline, self._next_reminder or self._desk.deadline)
            arrived = yield from self._next(until)
            ending: Ending | None = None
            if arrived is None and until == self._desk.deadline:
                self._desk.record.close_wait()
                return "timed_out"
            if arrived is None:
                self._remind(self._waited_for)
                yield from self._store()
            elif isinstance(arrived, Finished):
                yield from self._delivered(arrived)
            elif not self._desk.verdicts.is_known(arrived):
                ending = yield from self._take(arrived, ballot)
            if ending is not None:
                self._desk.record.close_wait()
                return ending

    def _begin_asking(self) -> Turn[None]:
        self._ballot, self._is_changing = Ballot(self._asked, self._group, self._now), False
        self._note_stand_ins(self._ballot)
        people = tuple(person.email for person in self._waited_for)
        self._desk.open_wait(people, ("approve", "reject", "request_changes", "abstain"))
        everybody = tuple(seat.holder.email for seat in self._ballot.seats) or people
        action: Literal["escalated", "asked"] = "escalated" if self._level else "asked"
        where = f"level {self._level}" if self._level else f"stage {self._stage + 1}" if self._stage else None
        self._note(action, after="waiting_for_approval", people=everybody, detail=where)
        self._begin_turn(action)
        yield from self._store()
        self._desk.record.enter("waiting_for_approval", waiting_for=DECISION, deadline=self._desk.deadline)

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
        refusal = self._desk.why_not_by(event.link) or self._why_not_sent_by(event.sent_by)
        refusal = refusal or ballot.may_vote(event.approver) or self._why_not(event, ballot)
        if refusal is None and event.choice == "approve" and self._desk.shown.content.form is not None:
            given = {"form": self._desk.shown.content.form, "answers": event.answers or {}}
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
            comments=event.comments,
            answers=event.answers,
            at=self._now.replace(tzinfo=UTC),
            channel=event.channel or "event",
            sent_by=event.sent_by,
        )
        ballot.cast(vote.model_copy(update={"comments": vote.comments and vote.comments[:KEPT_COMMENT]}))
        self._note(
            "voted",
            **vote.doer,
            channel=vote.channel,
            detail=vote.vote,
            comment=event.comments,
            payload=event.model_dump(mode="json", exclude_none=True),
        )
        self._desk.verdicts.answer(event)
        ending: Ending | None = "changes" if vote.vote == "request_changes" else ballot.result
        if ending is None:
            self._change_wait()
            if self._waited_for[:1] not in ((), before[:1]) and ballot.is_sequential:
                self._begin_turn("asked")
            yield from self._store()
        return ending

    def _delegate(self, event: DelegateEvent, ballot: Ballot) -> Turn[None]:
        refusal = self._desk.why_not_by(event.link) or ballot.may_hand_over(event.approver, event.to)
        if event.by is not None and self._asked.is_own(event.by) and not self._asked.allow_self_approval:
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
        self._desk.verdicts.answer(event)
        self._change_wait()
        if seat in ballot.waited_for:
            self._desk.mail_seat("delegated", seat, comment=event.comments)
        yield from self._store()

    def _by_requester(self, event: WithdrawEvent | ExtendEvent) -> Turn[Ending | None]:
        """Withdraw the request, or move its deadline on."""
        if not self._asked.is_own(event.by):
            yield from self._refuse(event, "not_requester")
            return None
        channel = event.channel or "event"
        if isinstance(event, WithdrawEvent):
            self._note("withdrawn", after="withdrawn", **doer_of(event), channel=channel, comment=event.comments)
            self._desk.verdicts.answer(event)
            self._why_withdrawn = event.comments
            return "withdrawn"
        deadline = self._desk.deadline + timedelta(hours=event.extend_by)
        later = sum(level.timeout_hours for level in self._asked.escalation[self._level :])
        too_long = deadline + timedelta(hours=later) > self._last_moment
        if too_long or self._asides >= MAX_ASIDE:
            yield from self._refuse(event, "too_long" if too_long else "too_often")
            return None
        self._asides += 1
        self._desk.deadline = deadline
        until = as_utc_text(self._clock.real(deadline))
        self._note("extended", **doer_of(event), channel=channel, detail=until, comment=event.comments)
        self._desk.verdicts.answer(event)
        self._desk.record.extend_wait(deadline)
        yield from self._store()
        self._desk.record.extend(deadline)
        return None

    # Changes

    def _changes(self) -> Turn[Literal["timed_out", "withdrawn"] | None]:
        """Wait for the requester to answer to the changes that were asked for; None when they did."""
        if not self._is_resumed:
            yield from self._ask_for_changes()
        self._is_resumed = False
        while True:
            arrived = yield from self._next(self._desk.deadline)
            if arrived is None:
                self._desk.record.close_wait()
                return "timed_out"
            if isinstance(arrived, Finished):
                yield from self._delivered(arrived)
            elif self._desk.verdicts.is_known(arrived):
                continue
            elif isinstance(arrived, WithdrawEvent | ExtendEvent):
                if (yield from self._by_requester(arrived)) == "withdrawn":
                    self._desk.record.close_wait()
                    return "withdrawn"
            elif isinstance(arrived, RemindEvent):
                yield from self._remind_requester(arrived)
            elif isinstance(arrived, ReviseEvent):
                if (refusal := self._revise(arrived)) is None:
                    self._is_changing = False
                    self._desk.record.close_wait()
                    return None
                yield from self._refuse(arrived, refusal)
            else:
                yield from self._refuse(arrived, "not_waiting")

    def _ask_for_changes(self) -> Turn[None]:
        assert self._last is not None
        address = self._asked.requester_address
        self._is_changing = True
        self._desk.open_wait((address,) if address is not None else (), ("revise", "withdraw"))
        doer = self._last.doer if self._last.sent_by is not None else {"actor": self._last.by}
        self._note("changes_requested", after="waiting_for_changes", **doer)
        self._mail_changes()
        yield from self._store()
        self._desk.record.enter("waiting_for_changes", waiting_for="revise", deadline=self._desk.deadline)

    def _mail_changes(self) -> None:
        address = self._asked.requester_address
        if address is not None and self._last is not None:
            self._desk.mail(
                "changes_requested",
                Person(email=address),
                by=self._last.by,
                comment=self._last.comments,
            )

    def _remind_requester(self, event: RemindEvent) -> Turn[None]:
        address = self._asked.requester_address
        if address is None or self._asides >= MAX_ASIDE:
            yield from self._refuse(event, "not_asked" if address is None else "too_often")
            return
        self._asides += 1
        self._note("reminded", **doer_of(event), channel=event.channel or "event", people=(address,))
        self._mail_changes()
        self._desk.verdicts.answer(event)
        yield from self._store()

    def _revise(self, event: ReviseEvent) -> Refusal | None:
        """Take what the requester changed, or give why not."""
        if not self._asked.is_own(event.by):
            return "not_requester"
        changes = event.model_dump(mode="json", exclude_none=True, include=REVISED)
        before = self._desk.shown.content
        try:
            content = before.model_validate(before.model_dump(mode="json") | changes)
        except ValueError:
            return "too_long"
        self._desk.show(content, self._desk.shown.round)
        self._note(
            "revised",
            after="requesting_approval",
            **doer_of(event),
            channel=event.channel or "event",
            comment=event.comments,
            payload=event.model_dump(mode="json", exclude_none=True),
        )
        self._desk.verdicts.answer(event)
        return None

    # The end

    def _end(self, ending: Ending) -> Turn[dict[str, Any]]:
        """Say what came out: on record, in the status, to those who want to know it, and as the output."""
        vote = deciding_vote(ending, self._all_votes, self._last)
        decision, outcome = outcome_of(
            self._asked,
            ending,
            self._all_votes,
            vote,
            is_changing=self._is_changing,
            at=self._now,
            item=self._desk.shown.content.item,
            rounds=self._desk.shown.round,
        )
        phase = {"Timeout": "timed_out"}.get(outcome.status, outcome.status.lower())
        if ending == "timed_out":
            self._note("timed_out", after=phase, channel="timer", detail=self._asked.on_timeout)
        elif decision is not None:
            self._note("decided", after=phase, **({**vote.doer, "channel": vote.channel} if vote else {}))
        yield from self._tell(outcome, phase, self._desk.deadline, decision)
        if outcome.status == "Failed":
            raise NobodyDecided("Nobody decided in time, and the request says that it then fails.")
        return self._desk.record.outcome(outcome)

    def out_of_time(self) -> Turn[None]:
        """Do as at the other ends, for a run that took too long, whatever its request says of time; it fails then."""
        assert self._ends_at is not None
        self._desk.record.close_wait()
        self._note("timed_out", after=EXECUTION_TIMED_OUT, channel="timer", detail="execution timeout")
        outcome = ApprovalOutcome(
            status="Timeout",
            requester=self._asked.requester,
            item=self._desk.shown.content.item,
            rounds=self._desk.shown.round,
            votes=tuple(self._all_votes),
        )
        yield from self._tell(outcome, EXECUTION_TIMED_OUT, self._ends_at)

    def _tell(
        self, outcome: ApprovalOutcome, phase: str, deadline: datetime, decision: Decision | None = None
    ) -> Turn[None]:
        """Tell everybody what came out, however long that takes, and leave nothing behind."""
        self._desk.inbox.ends_at = None
        self._mail_outcome(outcome)
        if self._desk.has_mail or self._asked.callback_url is not None:
            yield from self._store()
            self._desk.record.enter(phase, deadline=deadline, decision=decision)
            self._call_back(outcome)
        while self._desk.inbox.watched:
            arrived = yield from self._desk.inbox.next(None)
            if isinstance(arrived, Finished):
                self._finished(arrived)
            elif isinstance(arrived, Asking) and not self._desk.verdicts.is_known(arrived):
                self._desk.note_refusal(arrived, "not_waiting")  # without a verdict: what came out is the answer to all
        self._desk.inbox.close()
        self._desk.note_deliveries()
        self._note("ended")
        yield from self._store()
        self._desk.record.enter(phase, deadline=deadline, decision=decision)

    def _call_back(self, outcome: ApprovalOutcome) -> None:
        if self._asked.callback_url is None:
            return
        callback = Callback(
            url=self._asked.callback_url,
            instance_id=self._ctx.instance_id,
            run=self._desk.record.run,
            outcome=outcome.model_copy(update={"resume_data": self._desk.record.resume_data}),
            at=self._now.replace(tzinfo=UTC),
        )
        posting = self._ctx.call_activity(post_outcome, input=callback.plain(), retry_policy=CALLBACK)
        self._desk.inbox.watch(posting, "callback")

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
            self._desk.mail(
                "withdrawn" if withdrawn else "decided",
                person,
                by=self._asked.requester if withdrawn else outcome.approver,
                outcome=outcome.status,
                comment=self._why_withdrawn if withdrawn else outcome.comments,
            )

    # Mails

    def _begin_turn(self, template: MailTemplate) -> None:
        """Ask those whose turn it is, and count their reminders from now on."""
        self._turn_began, self._reminders = self._clock.now, 0
        ballot = self._ballot
        assert ballot is not None
        if ballot.is_open:
            for person in self._waited_for:
                self._desk.mail(template, person, link=True)
        for seat in ballot.waited_for:
            self._desk.mail_seat("delegated" if seat.before and template == "asked" else template, seat)

    def _delivered(self, finished: Finished) -> Turn[None]:
        """Note what became of mails, when all of them have come to an end."""
        self._desk.delivered(finished)
        self._stand()
        if not self._desk.inbox.watched:
            yield from self._store()

    def _finished(self, finished: Finished) -> None:
        """Keep what became of a mail, or of the callback."""
        if finished.what != "callback":
            self._desk.delivered(finished)
            return
        self._note("called_back" if finished.succeeded else "callback_failed")
        if not finished.succeeded:
            self._desk.record.warn("The outcome could not be posted to the callback_url.")

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

    def _remind(self, people: Sequence[Person], by: RemindEvent | None = None) -> None:
        """Send the links again. Reminders that were missed while nothing ran are made up for by one."""
        while by is None and self._next_reminder is not None and self._next_reminder <= self._clock.now:
            self._reminders += 1
        if not people:
            return
        addresses = tuple(person.email for person in people)
        said: dict[str, Any] = {"channel": "timer"}
        if by is not None:
            said = {**doer_of(by), "channel": by.channel or "event"}
        self._note("reminded", people=addresses, **said)
        for person in people:
            seat = self._ballot.seat_of(person.email) if self._ballot is not None else None
            if seat is not None:
                self._desk.mail_seat("reminder", seat)
            else:
                self._desk.mail("reminder", person, link=True)

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
        self._remind(people, by=event)
        self._desk.verdicts.answer(event)
        yield from self._store()

    # Who, and what

    def _why_not_sent_by(self, sender: str | None) -> Refusal | None:
        """Return why somebody may not vote on behalf of others, or None: it is their own request."""
        own = sender is not None and self._asked.is_own(sender)
        return "own_request" if own and not self._asked.allow_self_approval else None

    def _why_not(self, event: VoteEvent, ballot: Ballot) -> Refusal | None:
        """Return what is wrong with a vote itself, or None."""
        if event.choice == "abstain" and ballot.is_open and len(ballot.anybody) >= MAX_PEOPLE:
            return "too_often"  # where anybody may vote, abstentions decide nothing
        if event.answers is not None and self._desk.shown.content.form is None:
            return "answers_wrong"
        needed = event.choice == "request_changes" or event.choice in self._asked.require_comment_on
        if needed and not event.comments:
            return "comment_needed"
        if event.choice == "request_changes" and self._desk.shown.round >= MAX_ROUNDS:
            return "too_often"
        return None

    def _store(self) -> Turn[None]:
        yield from self._desk.store()
        self._stand()

    def _refuse(self, asked: Any, refusal: Refusal) -> Turn[None]:
        yield from self._desk.refuse(asked, refusal)
        self._stand()

    def _stand(self) -> None:
        self._desk.stand(self._ballot, stage=self._stage, level=self._level)

    def _note(self, action: Any, **said: Any) -> None:
        self._desk.note(action, **said)

    def _note_stand_ins(self, ballot: Ballot) -> None:
        for seat in ballot.stood_in:
            self._note(
                "delegated", on_behalf_of=seat.on_behalf_of, people=(seat.holder.email,), detail="standing delegation"
            )
        for person, refusal in ballot.kept:
            self._note("set_aside", actor=person.email, detail=f"standing delegation: {refusal}")

    def _change_wait(self) -> None:
        self._desk.record.change_wait(tuple(person.email for person in self._waited_for))

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
    def _all_votes(self) -> list[CastVote]:
        return [*self._votes, *(self._ballot.votes if self._ballot is not None else ())]

    @property
    def _ends_at(self) -> datetime | None:
        """When it has taken too long, counted from when its first history began."""
        seconds = self._asked.execution_timeout
        return self._began + timedelta(seconds=seconds) if seconds is not None else None

    @property
    def _last_moment(self) -> datetime:
        """A year after it began nothing is waited for any more."""
        return self._began + timedelta(hours=YEAR_IN_HOURS)

    @property
    def _now(self) -> datetime:
        return self._ctx.current_utc_datetime
