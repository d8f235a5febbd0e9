"""Approval (human interaction): what is asked, what is decided, what comes out."""

from typing import Annotated, Literal

from pydantic import Field

from contracts.audit import TrailHead
from contracts.base import Address, Comment, Contract, DecisionId, Hours, InstanceId, Line, Name, Timestamp
from contracts.records import MAX_PEOPLE


class ApprovalRequest(Contract):
    """What is asked, by whom, and for how long."""

    requester: Name
    item: Line
    timeout_hours: Hours


class ApprovalInput(ApprovalRequest):
    """The durable input of the orchestrator: the request, and who is asked."""

    approvers: Annotated[tuple[Address, ...], Field(strict=False, max_length=MAX_PEOPLE)] = ()


class StartApproval(ApprovalRequest):
    """The body of ``POST /api/requests``. ``request_id`` names the run."""

    request_id: InstanceId | None = None


class ApprovalDecision(Contract):
    """The body of ``POST /api/approvals/{request_id}``."""

    is_approved: bool
    approver: Name
    comments: Comment | None = None
    decision_id: DecisionId | None = None


class DecisionEvent(ApprovalDecision):
    """The payload of the event ``decision``. ``channel`` is the door of the app that it came in by; null for others."""

    channel: Literal["api", "link"] | None = None


class ApprovalOutcome(Contract):
    """The output of the run. ``status`` is ``Approved``, ``Rejected`` or ``Timeout``."""

    status: Literal["Approved", "Rejected", "Timeout"]
    requester: Name
    item: Line
    approver: Name | None = None
    comments: Comment | None = None
    decided_at: Timestamp | None = None
    trail: TrailHead | None = None
