"""What comes out of an approval, from how it ended and what people said."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from contracts.approval import ApprovalInput, ApprovalOutcome, CastVote
from contracts.human_step import Decision

AUTOMATIC = "(automatic)"
"""Who has decided when nobody did: the time was up, and the request says that this approves it."""

type Ending = Literal["approved", "rejected", "changes", "timed_out", "withdrawn"]


def outcome_of(
    asked: ApprovalInput,
    ending: Ending,
    votes: Sequence[CastVote],
    deciding: CastVote | None,
    *,
    is_changing: bool,
    at: datetime,
    **said: Any,
) -> tuple[Decision | None, ApprovalOutcome]:
    """Return the decision, if there is one, and the output of the run.

    ``deciding`` is the vote that decided it, with its whole comment; ``at`` is naive UTC; ``said`` are other fields of
    the outcome. While changes are outstanding, time approves nothing.
    """
    by_time = {"approve": "Approved", "fail": "Failed"}.get(asked.on_timeout, "Timeout")
    if is_changing and by_time == "Approved":
        by_time = "Timeout"
    statuses: dict[str, Any] = {"approved": "Approved", "rejected": "Rejected", "withdrawn": "Withdrawn"}
    outcome = ApprovalOutcome(
        status=statuses.get(ending, by_time), requester=asked.requester, votes=tuple(votes), **said
    )
    if ending == "withdrawn" or outcome.status in ("Timeout", "Failed"):
        return None, outcome
    by, comments = (deciding.by, deciding.comments) if deciding is not None else (AUTOMATIC, None)
    approved = outcome.status == "Approved"
    decision = Decision(approved=approved, by=by, comments=comments, at=at.replace(tzinfo=UTC))
    update = {"approver": deciding and deciding.by, "comments": comments, "decided_at": decision.at}
    return decision, outcome.model_copy(update=update)


def deciding_vote(ending: Ending, votes: Sequence[CastVote], last: CastVote | None) -> CastVote | None:
    """Return the newest vote that says what came out, or None: who abstained last has decided nothing."""
    said = {"approved": "approve", "rejected": "reject"}.get(ending)
    if last is not None and last.vote == said:
        return last
    return max((vote for vote in votes if vote.vote == said), key=lambda vote: vote.at, default=None)
