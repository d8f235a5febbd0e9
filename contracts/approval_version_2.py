"""Approvals that were started by version 2 of the app or before: one person decides, yes or no.

What they put on record is hashed, so that none of this changes while such a run may be in flight.
"""

from typing import Annotated, Literal

from pydantic import Field

from contracts.base import MAX_PEOPLE, Address, Comment, Contract, DecisionId, HoursNumber, Line, Name, Timestamp
from contracts.outcome import Outcome


class ApprovalInput(Contract):
    """The durable input: what is asked, by whom, for how long, and who is asked."""

    requester: Name
    item: Line
    timeout_hours: HoursNumber
    approvers: Annotated[tuple[Address, ...], Field(strict=False, max_length=MAX_PEOPLE)] = ()


class DecisionEvent(Contract):
    """The payload of the event ``decision``. ``channel`` is the door of the app that it came in by; null for others."""

    is_approved: bool
    approver: Name
    comments: Comment | None = None
    decision_id: DecisionId | None = None
    channel: Literal["api", "link"] | None = None


class ApprovalOutcome(Outcome):
    """The output of the run. ``status`` is ``Approved``, ``Rejected`` or ``Timeout``."""

    status: Literal["Approved", "Rejected", "Timeout"]
    requester: Name
    item: Line
    approver: Name | None = None
    comments: Comment | None = None
    decided_at: Timestamp | None = None
