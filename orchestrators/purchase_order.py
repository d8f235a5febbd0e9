"""Purchase order: approved at once below 1,000, else by a person within a time."""

from collections.abc import Generator
from datetime import datetime, timedelta
from typing import Any

from durabletask import task

from activities.purchase_order import cancel_order, place_order
from contracts.base import path_to
from contracts.human_step import Decision
from contracts.mail import ApprovalMail
from contracts.purchase_order import (
    ApprovalEvent,
    OrderEffect,
    PurchaseOrder,
    PurchaseOrderInput,
    PurchaseOrderOutcome,
)
from orchestrators.human_step import EXECUTION_TIMED_OUT, ExecutionTimedOut, ask, end_of, event_or_deadline
from orchestrators.retries import EFFECT
from orchestrators.run_clock import run_clock
from orchestrators.run_record import RunRecord

APPROVAL_EVENT = "approval_event"
APPROVAL_LIMIT = 1000
"""From this total on a person is asked. A change concerns instances in flight: the replay tests will say so."""


def purchase_order(
    ctx: task.OrchestrationContext, request: dict[str, Any]
) -> Generator[task.Task[Any], Any, dict[str, Any]]:
    """Approve a purchase order and place it, or cancel it.

    Takes a ``PurchaseOrderInput``, gives a ``PurchaseOrderOutcome``; waits for ``approval_event`` with an
    ``ApprovalEvent``. Fails when the order cannot be placed or cancelled after all retries, and, with the order
    cancelled, when nobody decides within its execution timeout.
    """
    asked = PurchaseOrderInput.model_validate(request)
    order = asked.order
    record = RunRecord(ctx)
    ends_at = end_of(ctx, asked.execution_timeout)

    if order.total < APPROVAL_LIMIT:
        record.enter("placing_order")
        record.note("started", after="placing_order", actor=asked.started_by, channel="api", payload=request)
        record.note("auto_approved")
        yield from record.store()
        yield _effect(ctx, record, place_order, order)
        record.note("placed", after="auto_approved")
        record.note("ended")
        yield from record.store()
        record.enter("auto_approved")
        return record.outcome(PurchaseOrderOutcome(status="Auto-Approved", order_id=order.order_id))

    deadline = run_clock(ctx).now + timedelta(seconds=asked.timeout_seconds)
    record.enter("requesting_approval", waiting_for=APPROVAL_EVENT, deadline=deadline)
    record.note("started", after="requesting_approval", actor=asked.started_by, channel="api", payload=request)
    yield from ask(
        ctx,
        record,
        _approval_mail(ctx.instance_id, record.run, asked),
        kind="purchase_order",
        title=f"{order.quantity} of {order.product}, {order.total:,.2f} in all"[:200],
        event=APPROVAL_EVENT,
        deadline=deadline,
        path=path_to("/status/{}", ctx.instance_id),
    )

    try:
        event = yield from event_or_deadline(
            ctx, APPROVAL_EVENT, ApprovalEvent, deadline, record.set_aside, ends_at=ends_at
        )
    except ExecutionTimedOut:
        yield from _cancel(ctx, record, order, ends_at, phase=EXECUTION_TIMED_OUT, detail="execution timeout")
        raise
    if event is None:
        yield from _cancel(ctx, record, order, deadline, phase="timed_out")
        return record.outcome(PurchaseOrderOutcome(status="Cancelled due to timeout", order_id=order.order_id))

    record.close_wait()
    decision = Decision(
        approved=event.approved,
        by=event.approver_name,
        comments=event.comments,
        at=ctx.current_utc_datetime,
        decision_id=event.decision_id,
    )
    phase = "placing_order" if decision.approved else "cancelling_order"
    record.note(
        "decided",
        after=phase,
        actor=event.sent_by or decision.by,
        on_behalf_of=decision.by if event.sent_by is not None else None,
        channel=event.channel or "event",
        comment=decision.comments,
        payload=event.model_dump(mode="json", exclude={"sent_by": True}),  # which events of before do not have
    )
    yield from record.store()
    record.enter(phase, decision=decision)
    yield _effect(ctx, record, place_order if decision.approved else cancel_order, order)
    record.note("placed" if decision.approved else "cancelled", after=decision.outcome)
    record.note("ended")
    yield from record.store()
    record.enter(decision.outcome)
    return record.outcome(
        PurchaseOrderOutcome(
            status=f"{decision.outcome.capitalize()} by {decision.by}",
            order_id=order.order_id,
            approver_name=decision.by,
            comments=decision.comments,
            decided_at=decision.at,
        )
    )


def _cancel(
    ctx: task.OrchestrationContext,
    record: RunRecord,
    order: PurchaseOrder,
    deadline: datetime | None,
    *,
    phase: str,
    detail: str | None = None,
) -> Generator[task.Task[Any], Any]:
    """Cancel an order that nobody decided on in time, and end in ``phase``."""
    record.close_wait()
    record.note("timed_out", after="cancelling_order", channel="timer", detail=detail)
    yield from record.store()
    record.enter("cancelling_order", deadline=deadline)
    yield _effect(ctx, record, cancel_order, order)
    record.note("cancelled", after=phase)
    record.note("ended")
    yield from record.store()
    record.enter(phase, deadline=deadline)


def _effect(
    ctx: task.OrchestrationContext, record: RunRecord, activity: task.Activity[Any, Any], order: PurchaseOrder
) -> task.Task[Any]:
    effect = OrderEffect(instance_id=ctx.instance_id, run=record.run, order=order).plain()
    if record.resume_data is None:
        del effect["resume_data"]
    else:
        effect["resume_data"] = record.resume_data
    return ctx.call_activity(activity, input=effect, retry_policy=EFFECT)


def _approval_mail(instance_id: str, run: str, asked: PurchaseOrderInput) -> ApprovalMail:
    order = asked.order
    return ApprovalMail(
        instance_id=instance_id,
        run=run,
        number=1,
        to=asked.approvers,
        subject=f"Please approve purchase order {order.order_id}",
        text=f"{order.quantity} of {order.product} at {order.cost:,.2f} each, {order.total:,.2f} in all.",
        decide_path=f"/signal-approval/{instance_id}",
        decide_body='{"approver_name": "your name", "approved": true}',
    )
