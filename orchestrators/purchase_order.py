"""Purchase order: approved at once below 1,000, else by a person within a time."""

from collections.abc import Generator
from datetime import timedelta
from typing import Any

from durabletask import task

from activities.approval import send_approval_request
from activities.purchase_order import cancel_order, place_order
from contracts.human_step import Decision
from contracts.mail import ApprovalMail
from contracts.purchase_order import (
    ApprovalEvent,
    OrderEffect,
    PurchaseOrder,
    PurchaseOrderInput,
    PurchaseOrderOutcome,
)
from orchestrators.human_step import event_or_deadline
from orchestrators.progress import ProgressKeeper
from orchestrators.retries import EFFECT

APPROVAL_EVENT = "approval_event"
APPROVAL_LIMIT = 1000
"""From this total on a person is asked. A change concerns instances in flight: the replay tests will say so."""


def purchase_order(
    ctx: task.OrchestrationContext, request: dict[str, Any]
) -> Generator[task.Task[Any], Any, dict[str, Any]]:
    """Approve a purchase order and place it, or cancel it.

    Takes a ``PurchaseOrderInput``, gives a ``PurchaseOrderOutcome``; waits for ``approval_event`` with an
    ``ApprovalEvent``. Fails when the order cannot be placed or cancelled after all retries.
    """
    asked = PurchaseOrderInput.model_validate(request)
    order = asked.order
    progress = ProgressKeeper(ctx)

    if order.total < APPROVAL_LIMIT:
        progress.enter("placing_order")
        yield _effect(ctx, place_order, order)
        progress.enter("auto_approved")
        return PurchaseOrderOutcome(status="Auto-Approved", order_id=order.order_id).plain()

    deadline = ctx.current_utc_datetime + timedelta(seconds=asked.timeout_seconds)
    progress.enter("requesting_approval", waiting_for=APPROVAL_EVENT, deadline=deadline)
    try:
        mail = _approval_mail(ctx.instance_id, order)
        yield ctx.call_activity(send_approval_request, input=mail.plain(), retry_policy=EFFECT)
    except task.TaskFailedError:
        progress.warn("The mail that asks for approval could not be sent; the order can still be decided.")
    progress.enter("waiting_for_approval", waiting_for=APPROVAL_EVENT, deadline=deadline)

    event = yield from event_or_deadline(ctx, APPROVAL_EVENT, ApprovalEvent, deadline, progress.warn)
    if event is None:
        progress.enter("cancelling_order", deadline=deadline)
        yield _effect(ctx, cancel_order, order)
        progress.enter("timed_out", deadline=deadline)
        return PurchaseOrderOutcome(status="Cancelled due to timeout", order_id=order.order_id).plain()

    decision = Decision(
        approved=event.approved,
        by=event.approver_name,
        comments=event.comments,
        at=ctx.current_utc_datetime,
        decision_id=event.decision_id,
    )
    progress.enter("placing_order" if decision.approved else "cancelling_order", decision=decision)
    yield _effect(ctx, place_order if decision.approved else cancel_order, order)
    progress.enter(decision.outcome)
    return PurchaseOrderOutcome(
        status=f"{decision.outcome.capitalize()} by {decision.by}",
        order_id=order.order_id,
        approver_name=decision.by,
        comments=decision.comments,
        decided_at=decision.at,
    ).plain()


def _effect(ctx: task.OrchestrationContext, activity: task.Activity[Any, Any], order: PurchaseOrder) -> task.Task[Any]:
    effect = OrderEffect(instance_id=ctx.instance_id, order=order)
    return ctx.call_activity(activity, input=effect.plain(), retry_policy=EFFECT)


def _approval_mail(instance_id: str, order: PurchaseOrder) -> ApprovalMail:
    return ApprovalMail(
        instance_id=instance_id,
        number=1,
        subject=f"Please approve purchase order {order.order_id}",
        text=f"{order.quantity} of {order.product} at {order.cost:,.2f} each, {order.total:,.2f} in all.",
        decide_path=f"/signal-approval/{instance_id}",
        decide_body='{"approver_name": "your name", "approved": true}',
    )
