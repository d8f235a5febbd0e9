"""HTTP of executions: pausing, resuming and cancelling any run, and what it is."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import azure.functions as func
from azure.durable_functions import DurableFunctionsClient

from contracts.base import Contract, as_utc_text, path_to
from contracts.execution import CancelBody, PauseBody, ResumeBody
from errors import Conflict, CountersignError, Unprocessable
from services import cancelling, paused, pausing
from services.clock import now
from services.identity import speak_as
from services.record_store import get_record_store
from settings import get_settings
from triggers import (
    approval,
    guarded_call,
    manual_intervention,
    purchase_order,
    refund,
    signup,
    workflow,
    workflow_block,
)
from triggers.callers import must_have
from triggers.pausing import ended, pause, resume, see_whole, was_resumed
from triggers.seeing import OUTSIDE, Seen, plain, see, see_all, show
from triggers.states import ENDED
from triggers.web import answer, any_instance_id_of, decision_id_of, idempotency_key_of, read_body

PATH = "/api/v1/executions/{}"
CANCELLED = "Cancelled over the API."

type Door = Callable[[DurableFunctionsClient, str, dict[str, Any], str], Awaitable[func.HttpResponse]]
"""Does what the data of a resume say, as the workflow's own routes do it; the text is the id of the decision."""

_DOORS: dict[str, Door] = {
    approval.WORKFLOW: approval.resume_approval,
    purchase_order.WORKFLOW: purchase_order.resume_purchase_order,
    guarded_call.WORKFLOW: guarded_call.resume_guarded_call,
    manual_intervention.WORKFLOW: manual_intervention.resume_manual_intervention,
    refund.WORKFLOW: refund.resume_refund,
    signup.WORKFLOW: signup.resume_signup,
    workflow.WORKFLOW: workflow_block.answer_block,
}
_DECIDED = (approval.WORKFLOW, purchase_order.WORKFLOW, workflow.WORKFLOW)
"""The workflows that wait for ``approved``."""


async def pause_execution(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``POST /api/v1/executions/{id}/pause``: 200 with the run, which is paused then.

    409 says what a run is that cannot be paused. With the same ``Idempotency-Key`` again, the answer is the same.
    """
    instance_id = any_instance_id_of(req, "id")
    body = _read(req, PauseBody)
    return answer(plain(await pause(client, instance_id, body, idempotency_key_of(req, None))))


async def resume_execution(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``POST /api/v1/executions/{id}/resume``: 200 with the run, which goes on with ``resume_data``.

    For a run that waits for people the data are their answer, which is taken by the same checks as at the workflow's
    own routes, so that it may need another permission too, such as ``approval:decide``; 200 has the ``result`` then, or
    202 where the run has yet to take it. One that is paused by hand as well goes on first, and without ``approved`` in
    the data nothing is answered. 409 says what a run is that cannot be resumed.
    """
    instance_id = any_instance_id_of(req, "id")
    body = _read(req, ResumeBody)
    key = idempotency_key_of(req, None)
    seen = await see_whole(client, instance_id)
    if was_resumed(seen, body, key):
        return answer(plain(await show(seen)))
    if seen.has_ended:
        raise ended(seen)
    if seen.by_hand is not None:
        return await _end_pause(req, client, seen, body)
    if seen.held is not None:
        sentence = "This run stands still with the one that it is a step of; resume that one."
        raise Conflict(sentence, execution_status="paused", paused_reason=seen.held.reason)
    if seen.is_outside:
        return await _end_suspension(client, seen, body)
    if seen.waits:
        return await _hand_in(req, client, seen, body.resume_data or {})
    status = (await show(seen)).status
    raise Conflict(f"This run is not paused: it is {status}.", execution_status=status)


async def cancel_execution(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``POST /api/v1/executions/{id}/cancel``: 200 with the run, which has ended, with all that it has called.

    202 where it has yet to end; 409 says what a run is that has ended before.
    """
    instance_id = any_instance_id_of(req, "id")
    body = _read(req, CancelBody)
    by, key = speak_as(None).actor, idempotency_key_of(req, None)
    store = get_record_store()
    seen = await see(client, instance_id)
    payload = {"idempotency_key": key} if key is not None else None
    if seen.has_ended:
        if payload is not None and await asyncio.to_thread(cancelling.was_noted, store, seen.state, payload):
            return answer(plain(await show(seen)))
        raise ended(seen)
    noted = await cancelling.note(
        store, seen.state, by=by, at=now(), channel="api", reason=body.reason, payload=payload
    )
    if noted is None and (await cancelling.until_ended(client, seen.state, 1)).runtime_status in ENDED:
        raise ended(await see(client, instance_id))
    last = await cancelling.end(client, store, seen.state, CANCELLED)
    if seen.kept is not None:
        await pausing.over(client, store, seen.kept)
    (after,) = await see_all(client, [last])
    status_url = get_settings().base_url + path_to(PATH, instance_id)
    is_over = last.runtime_status in ENDED
    return answer(plain(await show(after)), 200 if is_over else 202, {} if is_over else {"Location": status_url})


async def get_execution(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``GET /api/v1/executions/{id}``: the run. ``error`` says why one failed, ``phase`` where it stands."""
    seen = await see(client, any_instance_id_of(req, "id"))
    state, progress = seen.state, seen.progress
    more = {
        "phase": progress.phase if progress is not None else None,
        "deadline": as_utc_text(progress.deadline) if progress is not None and progress.deadline is not None else None,
        "last_updated_at": as_utc_text(state.last_updated_at),
        "error": state.failure_details.message if state.failure_details is not None else None,
    }
    return answer({**plain(await show(seen)), **more})


async def _end_pause(
    req: func.HttpRequest, client: DurableFunctionsClient, seen: Seen, body: ResumeBody
) -> func.HttpResponse:
    """End a pause by hand; where the run waits for a decision, and the data are one, it is taken then."""
    data = body.resume_data
    is_decision = seen.waits and seen.run.workflow in _DECIDED and "approved" in (data or {})
    if is_decision:
        must_have("approval:decide")  # before anything is changed
    execution = await resume(client, seen, body, None if is_decision else data, idempotency_key_of(req, None))
    if execution is None:
        now_seen = await see(client, seen.run.instance_id)
        if now_seen.has_ended:
            raise ended(now_seen)
        raise Conflict("Somebody else has resumed this run just now.", execution_status=(await show(now_seen)).status)
    if not is_decision:
        return answer(plain(execution))
    try:
        return await _hand_in(req, client, seen, data or {})
    except CountersignError as error:
        error.detail = f"The pause has ended, but nothing was decided. {error.detail}"
        raise


async def _end_suspension(client: DurableFunctionsClient, seen: Seen, body: ResumeBody) -> func.HttpResponse:
    """Resume a run that was suspended past the app; it knows of no pause, and so of no data."""
    if body.resume_data:
        message = f"this run was not paused in the app ({OUTSIDE.lower()}): it takes no data. Resume it without any"
        raise Unprocessable(
            "The body is not valid: resume_data.", errors=[{"field": "resume_data", "message": message}]
        )
    await client.resume_orchestration(seen.run.instance_id, reason=f"Resumed by {speak_as(None).actor}")
    await asyncio.to_thread(paused.forget, get_record_store(), seen.run.instance_id)
    return answer(plain(await show(await see(client, seen.run.instance_id))))


async def _hand_in(
    req: func.HttpRequest, client: DurableFunctionsClient, seen: Seen, data: dict[str, Any]
) -> func.HttpResponse:
    """Hand the data of a resume to the workflow that waits for them; ``result`` is what its own route would answer."""
    instance_id = seen.run.instance_id
    taken = await _DOORS[seen.run.workflow](client, instance_id, data, decision_id_of(req, None))
    headers = {"Location": taken.headers["Location"]} if "Location" in taken.headers else {}
    execution = plain(await show(await see(client, instance_id)))
    return answer({**execution, "result": json.loads(taken.get_body())}, taken.status_code, headers)


def _read[Body: Contract](req: func.HttpRequest, contract: type[Body]) -> Body:
    """Read a body, which may be left out where nothing has to be said."""
    if req.get_body().strip():
        return read_body(req, contract)
    return read_body(func.HttpRequest(req.method, req.url, body=b"{}"), contract)
