"""How a group of people decides: who has a seat, what they voted, to whom they handed it, and what follows from that.

Nothing here waits or writes: the same calls in the same order give the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from contracts.approval import MAX_HANDOVERS, ApprovalRequest, Approver, CastVote, Group, Quorum, Refusal, StandIn
from contracts.base import same_person
from contracts.carried import BallotState, SeatState
from contracts.people import Person

MAX_VOTES = 20
"""How often one person votes in one ballot: each change is kept."""


@dataclass
class Seat:
    """One vote: who has it now, and who had it before, the one who was named first."""

    holder: Person
    before: tuple[Person, ...] = ()
    vote: CastVote | None = None

    def is_held_by(self, who: str) -> bool:
        """Whether it is this person's now."""
        return same_person(self.holder.email) == same_person(who)

    def was_held_by(self, who: str) -> bool:
        """Whether this person handed it on."""
        return any(same_person(person.email) == same_person(who) for person in self.before)

    @property
    def on_behalf_of(self) -> str | None:
        """Who was named, where that is not the holder."""
        return self.before[0].email if self.before else None


class Ballot:
    """What a group has said so far. Without a group anybody may vote, but for the requester."""

    def __init__(self, request: ApprovalRequest, group: Group | None, at: datetime) -> None:
        """Open it at a time (naive UTC, as an orchestrator's clock gives it), by which stand-ins are chosen.

        ``stood_in`` and ``kept`` then say what became of the standing delegations: applied, or not, and why.
        """
        self._request = request
        self._group = group
        self._cast: dict[str, int] = {}
        self.anybody: dict[str, CastVote] = {}
        self.stood_in: list[Seat] = []
        self.kept: list[tuple[Approver, Refusal]] = []
        self.seats = [Seat(person) for person in self._named()]
        away = {same_person(each.email): each for each in request.people() if each.delegate is not None}
        for seat in self.seats if away else ():
            self._let_stand_in(seat, away, at)

    def carried(self) -> BallotState:
        """Return all that it knows, for ``restore``."""
        seats = tuple(SeatState(holder=seat.holder, before=seat.before, vote=seat.vote) for seat in self.seats)
        return BallotState(seats=seats, anybody=self.anybody, cast=self._cast)

    def restore(self, known: BallotState) -> None:
        """Take what a ballot of the same group knew."""
        self.seats = [Seat(seat.holder, seat.before, seat.vote) for seat in known.seats]
        self.anybody, self._cast = dict(known.anybody), dict(known.cast)

    @property
    def is_open(self) -> bool:
        """Whether anybody may vote."""
        return self._group is None

    @property
    def votes(self) -> list[CastVote]:
        """The votes as they stand, in the order of the seats, or in that in which people first voted."""
        return [*self.anybody.values(), *(seat.vote for seat in self.seats if seat.vote is not None)]

    @property
    def waited_for(self) -> list[Seat]:
        """The seats that are asked and have not voted; one at a time where it goes in sequence."""
        missing = [seat for seat in self.seats if seat.vote is None]
        return missing[:1] if self.is_sequential else missing

    @property
    def result(self) -> Literal["approved", "rejected"] | None:
        """What is decided, or None as long as nothing is."""
        said = [vote.vote for vote in self.votes]
        approvals, rejections = said.count("approve"), said.count("reject")
        if self._group is None:
            return "approved" if approvals else "rejected" if rejections else None
        missing, policy = len(self.seats) - len(said), self._group.policy
        everybody = policy in ("all", "sequential")
        if isinstance(policy, Quorum):
            needed = policy.quorum
        else:
            needed = max(1, len(self.seats) - said.count("abstain")) if everybody else 1
        limit = self._group.reject_after or (1 if policy == "any" else None)
        if approvals >= needed:
            return "approved"
        if (limit is not None and rejections >= limit) or approvals + missing < needed:
            return "rejected"
        return None

    def seat_of(self, who: str) -> Seat | None:
        """The seat that a person has, or None."""
        return next((seat for seat in self.seats if seat.is_held_by(who)), None)

    def may_vote(self, who: str) -> Refusal | None:
        """Return why a person cannot vote, or None. Every vote passes here, whichever way it came."""
        if not self._request.allow_self_approval and self._request.is_own(who):
            return "own_request"
        if self._cast.get(same_person(who), 0) >= MAX_VOTES:
            return "too_often"
        if self._group is None:
            return None
        seat = self.seat_of(who)
        if seat is None:
            return self._why_no_seat(who)
        first = next(iter(self.waited_for), seat)
        if self.is_sequential and self.seats.index(seat) > self.seats.index(first):
            return "not_yet"
        return None

    def cast(self, vote: CastVote) -> None:
        """Take a vote of somebody who may vote; it replaces the one that they cast before."""
        who = same_person(vote.by)
        self._cast[who] = self._cast.get(who, 0) + 1
        seat = self.seat_of(vote.by)
        if seat is not None:
            seat.vote = vote
        else:
            self.anybody[who] = vote

    def may_hand_over(self, who: str, to: Person) -> Refusal | None:
        """Return why a person cannot hand their vote to somebody, or None."""
        seat = self.seat_of(who)
        if seat is None:
            return self._why_no_seat(who)
        if seat.vote is not None:
            return "already_voted"
        return self._why_not_to(seat, to)

    def hand_over(self, who: str, to: Person) -> Seat:
        """Hand a vote to somebody, which is allowed; give the seat."""
        seat = self.seat_of(who)
        assert seat is not None
        seat.before, seat.holder = (*seat.before, seat.holder), to
        return seat

    @property
    def is_sequential(self) -> bool:
        """Whether people are asked one after another."""
        return self._group is not None and self._group.policy == "sequential"

    def _named(self) -> Iterator[Approver]:
        for person in self._group.approvers if self._group is not None else ():
            if self._request.allow_self_approval or not self._request.is_own(person.email):
                yield person

    def _let_stand_in(self, seat: Seat, away: dict[str, Approver], at: datetime) -> None:
        while True:
            known = away.get(same_person(seat.holder.email))
            if known is None or known.delegate is None or not _is_now(known.delegate, at):
                break
            refusal = self._why_not_to(seat, known.delegate.to)
            if refusal is not None:
                self.kept.append((known, refusal))
                break
            seat.before, seat.holder = (*seat.before, seat.holder), known.delegate.to
        if seat.before:
            self.stood_in.append(seat)

    def _why_no_seat(self, who: str) -> Refusal:
        return "handed_over" if any(seat.was_held_by(who) for seat in self.seats) else "not_asked"

    def _why_not_to(self, seat: Seat, to: Person) -> Refusal | None:
        same_name = to.name is not None and same_person(to.name) == same_person(self._request.requester)
        if self._request.is_own(to.email) or (same_name and self._request.requester_address is None):
            return "to_requester"
        if seat.is_held_by(to.email) or seat.was_held_by(to.email):
            return "in_a_circle"
        if len(seat.before) >= MAX_HANDOVERS:
            return "handed_on_too_often"
        return "already_asked" if self.seat_of(to.email) is not None else None


def _is_now(delegate: StandIn, at: datetime) -> bool:
    moment = at.replace(tzinfo=UTC)
    after = delegate.since is None or delegate.since <= moment
    return after and (delegate.until is None or moment <= delegate.until)
