"""Approvals that were started by version 2 of the app or before: a person approves or rejects, or the time is up."""

from collections.abc import Generator
from datetime import timedelta
from typing import Any

from durabletask import task

from contracts.approval_version_2 import ApprovalInput, ApprovalOutcome, DecisionEvent
from contracts.base import path_to
from contracts.human_step import Decision
from contracts.mail import ApprovalMail
from orchestrators.human_step import ask, event_or_deadline
from orchestrators.run_record import RunRecord

DECISION = "decision"


def approval_version_2(
    ctx: task.OrchestrationContext, request: dict[str, Any]
) -> Generator[task.Task[Any], Any, dict[str, Any]]:
    """Ask for an approval and wait for the decision.

    Takes an ``ApprovalInput``, gives an ``ApprovalOutcome``; waits for ``decision`` with a ``DecisionEvent``.
    """
    asked = ApprovalInput.model_validate(request)
    record = RunRecord(ctx)
    deadline = ctx.current_utc_datetime + timedelta(hours=asked.timeout_hours)

    record.enter("requesting_approval", waiting_for=DECISION, deadline=deadline)
    record.note("started", after="requesting_approval", actor=asked.requester, channel="api", payload=request)
    yield from ask(
        ctx,
        record,
        _approval_mail(ctx.instance_id, asked),
        kind="approval",
        title=asked.item,
        event=DECISION,
        deadline=deadline,
        path=path_to("/api/requests/{}", ctx.instance_id),
    )

    event = yield from event_or_deadline(ctx, DECISION, DecisionEvent, deadline, record.set_aside)
    record.close_wait()
    if event is None:
        record.note("timed_out", after="timed_out", channel="timer")
        record.note("ended")
        yield from record.store()
        record.enter("timed_out", deadline=deadline)
        return record.outcome(ApprovalOutcome(status="Timeout", requester=asked.requester, item=asked.item))

    decision = Decision(
        approved=event.is_approved,
        by=event.approver,
        comments=event.comments,
        at=ctx.current_utc_datetime,
        decision_id=event.decision_id,
    )
    record.note(
        "decided",
        after=decision.outcome,
        actor=decision.by,
        channel=event.channel or "event",
        comment=decision.comments,
        payload=event.plain(),
    )
    record.note("ended")
    yield from record.store()
    record.enter(decision.outcome, decision=decision)
    return record.outcome(
        ApprovalOutcome(
            status="Approved" if decision.approved else "Rejected",
            requester=asked.requester,
            item=asked.item,
            approver=decision.by,
            comments=decision.comments,
            decided_at=decision.at,
        )
    )


def _approval_mail(instance_id: str, asked: ApprovalInput) -> ApprovalMail:
    return ApprovalMail(
        instance_id=instance_id,
        number=1,
        to=asked.approvers,
        subject=f"Please approve: {asked.item}"[:200],
        text=f"{asked.requester} asks for your approval of: {asked.item}",
        decide_path=f"/api/approvals/{instance_id}",
        decide_body='{"is_approved": true, "approver": "your name", "comments": "why"}',
    )
