"""Approval: a person approves or rejects what somebody asked for, or the time is up."""

from collections.abc import Generator
from datetime import timedelta
from typing import Any

from durabletask import task

from activities.approval import send_approval_request
from contracts.approval import ApprovalDecision, ApprovalOutcome, ApprovalRequest
from contracts.human_step import Decision
from contracts.mail import ApprovalMail
from orchestrators.human_step import event_or_deadline
from orchestrators.progress import ProgressKeeper
from orchestrators.retries import EFFECT

DECISION = "decision"


def approval(ctx: task.OrchestrationContext, request: dict[str, Any]) -> Generator[task.Task[Any], Any, dict[str, Any]]:
    """Ask for an approval and wait for the decision.

    Takes an ``ApprovalRequest``, gives an ``ApprovalOutcome``; waits for ``decision`` with an ``ApprovalDecision``.
    """
    asked = ApprovalRequest.model_validate(request)
    progress = ProgressKeeper(ctx)
    deadline = ctx.current_utc_datetime + timedelta(hours=asked.timeout_hours)

    progress.enter("requesting_approval", waiting_for=DECISION, deadline=deadline)
    try:
        mail = _approval_mail(ctx.instance_id, asked)
        yield ctx.call_activity(send_approval_request, input=mail.plain(), retry_policy=EFFECT)
    except task.TaskFailedError:
        progress.warn("The mail that asks for approval could not be sent; the request can still be decided.")
    progress.enter("waiting_for_approval", waiting_for=DECISION, deadline=deadline)

    event = yield from event_or_deadline(ctx, DECISION, ApprovalDecision, deadline, progress.warn)
    if event is None:
        progress.enter("timed_out", deadline=deadline)
        return ApprovalOutcome(status="Timeout", requester=asked.requester, item=asked.item).plain()

    decision = Decision(
        approved=event.is_approved,
        by=event.approver,
        comments=event.comments,
        at=ctx.current_utc_datetime,
        decision_id=event.decision_id,
    )
    progress.enter(decision.outcome, decision=decision)
    return ApprovalOutcome(
        status="Approved" if decision.approved else "Rejected",
        requester=asked.requester,
        item=asked.item,
        approver=decision.by,
        comments=decision.comments,
        decided_at=decision.at,
    ).plain()


def _approval_mail(instance_id: str, asked: ApprovalRequest) -> ApprovalMail:
    return ApprovalMail(
        instance_id=instance_id,
        number=1,
        subject=f"Please approve: {asked.item}"[:200],
        text=f"{asked.requester} asks for your approval of: {asked.item}",
        decide_path=f"/api/approvals/{instance_id}",
        decide_body='{"is_approved": true, "approver": "your name", "comments": "why"}',
    )
