"""HTTP of the purchase order."""

from typing import Any

import azure.functions as func
from azure.durable_functions import DurableFunctionsClient

from contracts.purchase_order import (
    MAX_APPROVER,
    ApprovalEvent,
    OrderDecision,
    PurchaseOrder,
    PurchaseOrderInput,
    ResumePurchaseOrder,
    StartPurchaseOrder,
)
from contracts.start import StartOptions
from orchestrators.purchase_order import APPROVAL_EVENT, purchase_order
from settings import get_settings
from triggers.callers import must_have, read_data, speaker, starter, unclear
from triggers.decide import AskedDecision, answer_decision, decide
from triggers.instances import describe, find, start
from triggers.web import answer, decision_id_of, instance_id_of, read_body, read_query

WORKFLOW = purchase_order.__name__
UNSAID = "This order waits for a decision, and an empty resume never means yes: say 'approved', true or false."


async def start_purchase_order(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``POST /start-purchase-order``: 202 with ``instance_id`` and ``message``."""
    options = read_query(req, StartOptions)
    body = read_body(req, StartPurchaseOrder)
    settings = get_settings()
    timeout = body.timeout_seconds or settings.purchase_order_timeout_hours * 3600
    order = PurchaseOrder.model_validate(body.model_dump(include=set(PurchaseOrder.model_fields)))
    approvers = (settings.approval_requests_to,)
    given = PurchaseOrderInput(order=order, timeout_seconds=timeout, approvers=approvers, started_by=starter())
    instance_id = await start(client, WORKFLOW, body.instance_id, given, options)
    message = (
        f"Purchase order {body.order_id} was started. If it needs an approval, POST the decision to "
        f"/signal-approval/{instance_id}."
    )
    return answer({"instance_id": instance_id, "message": message}, 202, {"Location": _status_url(instance_id)})


async def decide_purchase_order(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``POST /signal-approval/{instance_id}``: 200 with the verdict, 202 when there is none yet."""
    instance_id = instance_id_of(req, "instance_id")
    body = read_body(req, OrderDecision, said_by="approver_name")
    return await _decide(client, instance_id, body, decision_id_of(req, body.decision_id))


async def resume_purchase_order(
    client: DurableFunctionsClient, instance_id: str, data: dict[str, Any], decision_id: str
) -> func.HttpResponse:
    """Decide on an order by the data of a resume, as ``decide_purchase_order`` does."""
    must_have("approval:decide")
    if "approved" not in data:
        raise unclear(UNSAID, "approved", "true or false")
    given = read_data(data, ResumePurchaseOrder, said_by="approver")
    body = OrderDecision(approver_name=given.approver, approved=given.approved, comments=given.comments)
    return await _decide(client, instance_id, body, decision_id)


async def _decide(
    client: DurableFunctionsClient, instance_id: str, body: OrderDecision, decision_id: str
) -> func.HttpResponse:
    by = speaker(body.approver_name)
    name = by.who[:MAX_APPROVER].strip()
    said = {"approver_name": name, "sent_by": by.sent_by, "decision_id": decision_id, "channel": "api"}
    asked = AskedDecision(
        approved=body.approved,
        by=name,
        comments=body.comments,
        decision_id=decision_id,
        event=APPROVAL_EVENT,
        payload=ApprovalEvent.model_validate(body.plain() | said),
        sent_by=by.sent_by,
    )
    verdict = await decide(client, WORKFLOW, instance_id, asked, patience=get_settings().decision_wait_seconds)
    message = f"The event '{APPROVAL_EVENT}' was raised for instance '{instance_id}'."
    return await answer_decision(client, verdict, instance_id, _status_url(instance_id), message)


async def get_purchase_order(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``GET /status/{instance_id}``: the order, what is going on, and the outcome."""
    instance_id = instance_id_of(req, "instance_id")
    return answer({"instance_id": instance_id, **describe(await find(client, WORKFLOW, instance_id))})


def _status_url(instance_id: str) -> str:
    return f"{get_settings().base_url}/status/{instance_id}"
