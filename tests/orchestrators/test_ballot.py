"""The rules of a ballot: tables of votes and what they make, and a small model that agrees in whatever order."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.approval import MAX_HANDOVERS, ApprovalRequest, CastVote, Choice, Group
from contracts.people import Person
from orchestrators.ballot import MAX_VOTES, Ballot

AT = datetime(2026, 6, 15, 12)  # noqa: DTZ001  # as an orchestrator's clock gives it
A, B, C, D, E, F = (f"{letter}@example.com" for letter in "abcdef")
REQUESTER = "r@example.com"
CHOICES: dict[str, Choice] = {"+": "approve", "-": "reject", "0": "abstain"}
WORDS = {"+": "approved", "-": "rejected", ".": None}


def asked(**said: Any) -> ApprovalRequest:
    """A request."""
    given = {"requester": "R", "requester_email": REQUESTER, "item": "x", "timeout_hours": 1} | said
    return ApprovalRequest.model_validate(given)


def opened(policy: Any = "any", people: Any = (A, B, C), reject_after: int | None = None, **said: Any) -> Ballot:
    """The ballot of a request with one group."""
    request = asked(approvers=list(people), policy=policy, reject_after=reject_after, **said)
    return Ballot(request, request.stages[0], AT)


def cast_by(ballot: Ballot, who: str, choice: Choice) -> str | None:
    """Vote as the orchestrator does: only who may; give the refusal."""
    refusal = ballot.may_vote(who)
    if refusal is None:
        ballot.cast(CastVote(by=who, vote=choice, at=AT.replace(tzinfo=UTC), channel="event"))
    return refusal


def hand(ballot: Ballot, who: str, to: str) -> str | None:
    """Hand over as the orchestrator does; give the refusal."""
    refusal = ballot.may_hand_over(who, Person(email=to))
    if refusal is None:
        ballot.hand_over(who, Person(email=to))
    return refusal


# A vote is a letter and what they say; after it, what has come of it: . for nothing yet.
TABLE: list[tuple[Any, int | None, str]] = [
    ("any", None, "a+ +"),
    ("any", None, "b- -"),
    ("any", None, "a0 . b0 . c+ +"),
    ("any", None, "a0 . b0 . c- -"),
    ("any", None, "a0 . b0 . c0 -"),
    ("any", 1, "c- -"),
    ("any", 2, "a- . b+ +"),
    ("any", 2, "a- . b- -"),
    ("any", 2, "a- . a0 . b- . c+ +"),
    ("any", 3, "a- . b0 . c- -"),
    ("any", 50, "a- . b- . c- -"),
    ("all", None, "a+ . b+ . c+ +"),
    ("all", None, "c+ . a+ . b- -"),
    ("all", None, "a- -"),
    ("all", 3, "a- -"),
    ("all", None, "a0 . b+ . c+ +"),
    ("all", None, "b+ . c+ . a0 +"),
    ("all", None, "a0 . b0 . c+ +"),
    ("all", None, "a0 . b0 . c0 -"),
    ("all", None, "a0 . b0 . c- -"),
    ("all", None, "a+ . a0 . a+ . b+ . b0 . c+ +"),
    ("sequential", None, "a+ . b+ . c+ +"),
    ("sequential", None, "a0 . b+ . c0 +"),
    ("sequential", None, "a+ . b- -"),
    ("sequential", None, "a+ . a0 . b0 . c+ +"),
    ("sequential", None, "a0 . b0 . c0 -"),
    ({"quorum": 1}, None, "a- . b- . c+ +"),
    ({"quorum": 1}, None, "a- . b- . c- -"),
    ({"quorum": 1}, 1, "a- -"),
    ({"quorum": 2}, None, "a+ . b+ +"),
    ({"quorum": 2}, None, "a- . b+ . c+ +"),
    ({"quorum": 2}, None, "a- . b- -"),
    ({"quorum": 2}, None, "a0 . b0 -"),
    ({"quorum": 2}, None, "a- . b+ . a+ +"),
    ({"quorum": 2}, None, "a+ . a- . b+ . a0 . c+ +"),
    ({"quorum": 2}, 1, "a+ . b- -"),
    ({"quorum": 3}, None, "a+ . b+ . c+ +"),
    ({"quorum": 3}, None, "a0 -"),
]


@pytest.mark.parametrize(("policy", "reject_after", "story"), TABLE)
def test_a_policy_makes_this_of_these_votes(policy: Any, reject_after: int | None, story: str) -> None:
    ballot = opened(policy, reject_after=reject_after)
    words = story.split()
    for said, result in zip(words[::2], words[1::2], strict=True):
        assert ballot.result is None
        assert cast_by(ballot, f"{said[0]}@example.com", CHOICES[said[1]]) is None
        assert ballot.result == WORDS[result], said


@pytest.mark.parametrize(
    ("story", "result"), [("a+", "+"), ("a-", "-"), ("a0", "."), ("a0 b0 c0", "."), ("a0 b-", "-"), ("a0 a+", "+")]
)
def test_where_anybody_may_vote_the_first_who_says_yes_or_no_decides(story: str, result: str) -> None:
    ballot = Ballot(asked(), None, AT)
    assert ballot.is_open
    for said in story.split():
        assert cast_by(ballot, said[0], CHOICES[said[1]]) is None
    assert ballot.result == WORDS[result]
    assert ballot.waited_for == []
    assert hand(ballot, "a", B) == "not_asked"


@pytest.mark.parametrize("who", ["R", " r ", REQUESTER, REQUESTER.upper(), f" {REQUESTER}\t"])
def test_the_requester_has_no_vote_where_anybody_has_and_none_where_they_are_named(who: str) -> None:
    assert Ballot(asked(), None, AT).may_vote(who) == "own_request"
    named = opened("all", (A, REQUESTER.title(), B))
    assert [seat.holder.email for seat in named.seats] == [A, B]
    assert named.may_vote(who) == "own_request"
    cast_by(named, A, "approve")
    cast_by(named, B, "approve")
    assert named.result == "approved"  # without them


def test_the_requester_votes_where_the_request_says_so() -> None:
    ballot = opened("all", (A, REQUESTER), allow_self_approval=True)
    results = []
    for who in (A, REQUESTER.upper()):
        assert cast_by(ballot, who, "approve") is None
        results.append(ballot.result)
    assert results == [None, "approved"]
    assert cast_by(Ballot(asked(allow_self_approval=True), None, AT), "R", "approve") is None


def test_addresses_are_one_person_in_any_case() -> None:
    ballot = opened("all", ("Straße@example.com", B))
    assert cast_by(ballot, "STRASSE@EXAMPLE.COM", "approve") is None
    assert cast_by(ballot, "straße@example.com", "abstain") is None
    assert [vote.vote for vote in ballot.votes] == ["abstain"]


def test_in_a_sequence_nobody_votes_before_their_turn_and_who_voted_may_change_it() -> None:
    ballot = opened("sequential")
    assert cast_by(ballot, B, "approve") == "not_yet"
    assert [seat.holder.email for seat in ballot.waited_for] == [A]
    assert cast_by(ballot, A, "approve") is None
    assert cast_by(ballot, C, "approve") == "not_yet"
    assert cast_by(ballot, A, "abstain") is None
    assert [seat.holder.email for seat in ballot.waited_for] == [B]
    assert cast_by(ballot, D, "approve") == "not_asked"


def test_one_person_votes_only_so_often() -> None:
    for ballot in (opened("all"), Ballot(asked(), None, AT)):
        for _ in range(MAX_VOTES):
            assert cast_by(ballot, A, "abstain") is None
        assert cast_by(ballot, A.upper(), "approve") == "too_often"
        assert cast_by(ballot, B, "abstain") is None


# Handing over


def test_a_vote_goes_through_three_hands_and_counts_for_who_was_named() -> None:
    ballot = opened("all", (A,))
    for who, to in ((A, B), (B, C), (C, D)):
        assert hand(ballot, who, to) is None
    assert hand(ballot, D, E) == "handed_on_too_often"
    assert len(ballot.seats[0].before) == MAX_HANDOVERS
    for before in (A, B, C):
        assert cast_by(ballot, before, "approve") == "handed_over"
        assert hand(ballot, before, F) == "handed_over"
    assert cast_by(ballot, D, "approve") is None
    assert (ballot.result, ballot.seats[0].on_behalf_of) == ("approved", A)


@pytest.mark.parametrize("to", [A, B, A.upper(), C, C.title()])
def test_a_vote_never_comes_back(to: str) -> None:
    ballot = opened("all", (A,))
    for who, heir in ((A, B), (B, C)):
        assert hand(ballot, who, heir) is None
    assert hand(ballot, C, to) == "in_a_circle"


def test_nobody_gets_a_second_vote_nor_the_requester_one() -> None:
    ballot = opened("all")
    assert hand(ballot, A, B.upper()) == "already_asked"
    assert hand(ballot, A, D) is None
    assert hand(ballot, B, D) == "already_asked"
    for requester in (REQUESTER, REQUESTER.upper()):
        assert hand(ballot, B, requester) == "to_requester"
    assert hand(ballot, B, A) is None  # who gave hers away may get another's
    assert cast_by(ballot, A, "approve") is None


def test_the_requester_gets_no_vote_by_a_name_where_the_address_is_not_known() -> None:
    request = ApprovalRequest.model_validate({"requester": "Alice", "item": "x", "timeout_hours": 1, "approvers": [A]})
    ballot = Ballot(request, request.stages[0], AT)
    assert ballot.may_hand_over(A, Person(email=B, name=" ALICE ")) == "to_requester"
    assert ballot.may_hand_over(A, Person(email=B, name="Bob")) is None
    other = asked(approvers=[A], requester="Alice")
    assert Ballot(other, other.stages[0], AT).may_hand_over(A, Person(email=B, name="Alice")) is None


def test_a_vote_that_was_cast_is_not_handed_over() -> None:
    ballot = opened("all")
    cast_by(ballot, A, "abstain")
    assert hand(ballot, A, D) == "already_voted"


# Standing in


def away(to: str | dict[str, Any], since: str | None = None, until: str | None = None) -> Any:
    """A standing delegation."""
    return {"to": to, "from": since, "until": until}


@pytest.mark.parametrize(
    ("since", "until", "applies"),
    [
        (None, None, True),
        ("2026-06-15", None, True),
        ("2026-06-16", None, False),
        ("2026-06-15T12:00:00Z", None, True),
        ("2026-06-15T12:00:01Z", None, False),
        ("2026-06-15T14:00:00+02:00", None, True),
        ("2026-06-15T13:00:00-02:00", None, False),
        (None, "2026-06-15", True),
        (None, "2026-06-14", False),
        (None, "2026-06-15T11:59:59Z", False),
        (None, "2026-06-15T12:00:00Z", True),
        ("2026-06-15", "2026-06-15", True),
        ("2026-06-01", "2026-06-10", False),
    ],
)
def test_somebody_stands_in_on_the_days_that_are_named(since: str | None, until: str | None, applies: bool) -> None:
    ballot = opened("all", ({"email": A, "delegate": away(D, since, until)}, B))
    assert [seat.holder.email for seat in ballot.seats] == [D if applies else A, B]
    assert len(ballot.stood_in) == applies
    assert ballot.kept == []


@pytest.mark.parametrize(
    ("people", "holders", "kept"),
    [
        # A chain leads through people who are named in other places of the request.
        ([(A, D)], [D], []),
        ([(A, REQUESTER)], [A], ["to_requester"]),
        ([(A, A)], [A], ["in_a_circle"]),
        ([(A, B), (B, None)], [A, B], ["already_asked"]),
        ([(A, B), (B, C)], [A, C], ["already_asked"]),
        ([(A, B), (B, A)], [A, B], ["already_asked", "already_asked"]),
        ([(A, D), (B, D)], [D, B], ["already_asked"]),
    ],
)
def test_standing_delegations_never_lead_to_two_votes_or_to_the_requester(
    people: list[tuple[str, str | None]], holders: list[str], kept: list[str]
) -> None:
    approvers = [{"email": who, "delegate": away(to) if to else None} for who, to in people]
    ballot = opened("all", approvers)
    assert [seat.holder.email for seat in ballot.seats] == holders
    assert [refusal for _, refusal in ballot.kept] == kept


@pytest.mark.parametrize(
    ("later", "holder", "kept"),
    [
        ([(B, C)], C, []),
        ([(B, C), (C, D)], D, []),
        ([(B, C), (C, D), (D, E)], D, ["handed_on_too_often"]),
        ([(B, A)], B, ["in_a_circle"]),
        ([(B, C), (C, B)], C, ["in_a_circle"]),
        ([(B, REQUESTER)], B, ["to_requester"]),
    ],
)
def test_chains_of_standing_delegations_end(later: list[tuple[str, str]], holder: str, kept: list[str]) -> None:
    groups = [{"approvers": [{"email": who, "delegate": away(to)}]} for who, to in [(A, B), *later]]
    request = asked(policy=groups)
    ballot = Ballot(request, request.stages[0], AT)
    assert [seat.holder.email for seat in ballot.seats] == [holder]
    assert [refusal for _, refusal in ballot.kept] == kept
    assert ballot.seats[0].on_behalf_of == A


def test_who_stands_in_can_hand_on_what_is_left_of_three_hands() -> None:
    ballot = opened("all", ({"email": A, "delegate": away(B)},))
    assert hand(ballot, B, A) == "in_a_circle"
    assert hand(ballot, B, C) is None
    assert hand(ballot, C, D) is None
    assert hand(ballot, D, E) == "handed_on_too_often"


# The model: seats are lists of the hands that they went through, votes a dict.


class Model:
    """What a ballot has to do, said once more and otherwise."""

    def __init__(self, policy: Any, people: list[str], limit: int | None, selfish: bool) -> None:
        self.policy, self.limit, self.selfish = policy, limit, selfish
        self.hands = [[who] for who in people if selfish or who != REQUESTER]
        self.votes: dict[int, str] = {}

    def refused(self, who: str) -> tuple[str | None, int]:
        """Why somebody has no vote, or which one they have."""
        for number, hands in enumerate(self.hands):
            if hands[-1] == who:
                return None, number
        return ("handed_over" if any(who in hands for hands in self.hands) else "not_asked"), -1

    def vote(self, who: str, choice: str) -> str | None:
        """Cast a vote."""
        if who in (REQUESTER, "r") and not self.selfish:
            return "own_request"
        refusal, seat = self.refused(who)
        if refusal is None and self.policy == "sequential" and any(n not in self.votes for n in range(seat)):
            refusal = "not_yet"
        if refusal is None:
            self.votes[seat] = choice
        return refusal

    def hand(self, who: str, to: str) -> str | None:
        """Hand a vote over."""
        refusal, seat = self.refused(who)
        checks: list[tuple[Callable[[], bool], str]] = [
            (lambda: seat in self.votes, "already_voted"),
            (lambda: to == REQUESTER, "to_requester"),
            (lambda: to in self.hands[seat], "in_a_circle"),
            (lambda: len(self.hands[seat]) == 4, "handed_on_too_often"),
            (lambda: any(hands[-1] == to for hands in self.hands), "already_asked"),
        ]
        if refusal is None:
            refusal = next((word for is_so, word in checks if is_so()), None)
        if refusal is None:
            self.hands[seat].append(to)
        return refusal

    def result(self) -> str | None:
        """What has come of it: looks at every way in which those who are missing could vote."""
        yes, no = ([*self.votes.values()].count(word) for word in ("approve", "reject"))
        abstained, missing = len(self.votes) - yes - no, len(self.hands) - len(self.votes)

        def approved(yes: int, abstained: int) -> bool:
            if self.policy in ("all", "sequential"):
                return yes > 0 and yes + abstained == len(self.hands)
            return yes >= (self.policy["quorum"] if isinstance(self.policy, dict) else 1)

        if approved(yes, abstained):
            return "approved"
        if no >= (self.limit or (1 if self.policy == "any" else 99)):
            return "rejected"
        return None if approved(yes + missing, abstained) else "rejected"


PEOPLE = [A, B, C, D, E, REQUESTER]
who = st.sampled_from([*PEOPLE, "r", F])
steps = st.lists(
    st.tuples(st.just("vote"), who, st.sampled_from(["approve", "reject", "abstain", "abstain"]), st.booleans())
    | st.tuples(st.just("hand"), who, st.sampled_from([*PEOPLE, F]), st.booleans()),
    max_size=25,
)


@settings(max_examples=400, deadline=None)
@given(
    policy=st.sampled_from(["any", "all", "sequential", {"quorum": 1}, {"quorum": 2}, {"quorum": 3}]),
    people=st.permutations(PEOPLE).map(lambda each: each[:4]),
    limit=st.none() | st.integers(1, 4),
    selfish=st.booleans(),
    steps=steps,
)
def test_any_order_of_votes_and_delegations_makes_what_the_model_makes(
    policy: Any, people: list[str], limit: int | None, selfish: bool, steps: list[tuple[str, str, str, bool]]
) -> None:
    request = asked(approvers=people, policy=policy, reject_after=limit, allow_self_approval=selfish)
    ballot, model = Ballot(request, request.stages[0], AT), Model(policy, people, limit, selfish)
    for kind, name, what, loud in steps:
        who = name.upper() if loud else name
        if kind == "vote":
            assert cast_by(ballot, who, cast("Choice", what)) == model.vote(name, what)
        else:
            assert hand(ballot, who, what.title() if loud else what) == model.hand(name, what)
        assert ballot.result == model.result()
        assert [seat.holder.email.lower() for seat in ballot.seats] == [hands[-1] for hands in model.hands]
        assert [vote.vote for vote in ballot.votes] == [model.votes[seat] for seat in sorted(model.votes)]
        if ballot.result is not None:
            break


def test_a_group_is_asked_together_once() -> None:
    with pytest.raises(ValueError, match="named twice"):
        Group.model_validate({"approvers": [A, A.upper()]})
