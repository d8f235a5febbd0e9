"""Approval (human interaction): what is asked, what is decided, what comes out."""

from typing import Literal

from contracts.base import Comment, Contract, DecisionId, Hours, InstanceId, Line, Name, Timestamp


class ApprovalRequest(Contract):
    """What is asked, by whom, and for how long; the durable input of the orchestrator."""

    requester: Name
    item: Line
    timeout_hours: Hours


class StartApproval(ApprovalRequest):
    """The body of ``POST /api/requests``. ``request_id`` names the run."""

    request_id: InstanceId | None = None


class ApprovalDecision(Contract):
    """The payload of the event ``decision``, and the body of ``POST /api/approvals/{request_id}``."""

    is_approved: bool
    approver: Name
    comments: Comment | None = None
    decision_id: DecisionId | None = None


class ApprovalOutcome(Contract):
    """The output of the run. ``status`` is ``Approved``, ``Rejected`` or ``Timeout``."""

    status: Literal["Approved", "Rejected", "Timeout"]
    requester: Name
    item: Line
    approver: Name | None = None
    comments: Comment | None = None
    decided_at: Timestamp | None = None
