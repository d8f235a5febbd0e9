"""HTTP of the approval (human interaction)."""

import azure.functions as func
from azure.durable_functions import DurableFunctionsClient

from contracts.approval import ApprovalDecision, ApprovalInput, DecisionEvent, StartApproval
from orchestrators.approval import DECISION, approval
from settings import get_settings
from triggers.decide import AskedDecision, answer_decision, decide
from triggers.instances import describe, find, start
from triggers.web import answer, decision_id_of, instance_id_of, read_body

WORKFLOW = approval.__name__


async def start_approval(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``POST /api/requests``: 202 with ``request_id``, ``approval_url`` and ``status_url``."""
    body = read_body(req, StartApproval)
    asked = ApprovalInput(
        requester=body.requester,
        item=body.item,
        timeout_hours=body.timeout_hours,
        approvers=(get_settings().approval_requests_to,),
    )
    request_id = await start(client, WORKFLOW, body.request_id, asked)
    links = {"approval_url": _approval_url(request_id), "status_url": _status_url(request_id)}
    return answer({"request_id": request_id, **links}, 202, {"Location": links["status_url"]})


async def decide_approval(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``POST /api/approvals/{request_id}``: 200 with the verdict, 202 when there is none yet."""
    request_id = instance_id_of(req, "request_id")
    body = read_body(req, ApprovalDecision)
    decision_id = decision_id_of(req, body.decision_id)
    asked = AskedDecision(
        approved=body.is_approved,
        by=body.approver,
        comments=body.comments,
        decision_id=decision_id,
        event=DECISION,
        payload=DecisionEvent.model_validate(body.plain() | {"decision_id": decision_id, "channel": "api"}),
    )
    verdict = await decide(client, WORKFLOW, request_id, asked, patience=get_settings().decision_wait_seconds)
    message = f"The decision on request '{request_id}' was taken."
    return answer_decision(verdict, request_id, _status_url(request_id), message)


async def get_approval(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``GET /api/requests/{request_id}``: the request, what is going on, and the outcome."""
    request_id = instance_id_of(req, "request_id")
    shown = describe(await find(client, WORKFLOW, request_id))
    return answer({"request_id": request_id, "approval_url": _approval_url(request_id), **shown})


def _approval_url(request_id: str) -> str:
    return f"{get_settings().base_url}/api/approvals/{request_id}"


def _status_url(request_id: str) -> str:
    return f"{get_settings().base_url}/api/requests/{request_id}"
