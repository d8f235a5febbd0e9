"""HTTP of executions: pausing, resuming and cancelling any run, and what it is."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import batched
from typing import Any

import azure.functions as func
from azure.durable_functions import DurableFunctionsClient
from durabletask.client import OrchestrationStatus

from contracts.base import Contract, as_utc_text, path_to
from contracts.execution import CancelBody, PauseBody, ResumeBody
from contracts.human_step import digest_of_id
from contracts.workflow import WorkflowOutcome
from errors import Conflict, CountersignError, Unprocessable
from services import cancelling, documents, paused, pausing
from services.clock import now
from services.identity import speak_as
from services.record_store import get_record_store
from services.states import ENDED, value_of
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
from triggers.callers import must_have, speaker, unclear
from triggers.decide import not_yet
from triggers.pausing import ended, is_left_to_decide, pause, resume, see_whole, was_resumed
from triggers.seeing import AT_ONCE, OUTSIDE, Seen, plain, see, see_all, show, step_of
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
MAX_CALLED, MAX_ASKED = 1_000, 50
"""How many runs a declared workflow may have called, and how many of them, the newest, are asked whether they know of a
decision."""


async def pause_execution(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``POST /api/v1/executions/{id}/pause``: 200 with the run, which is paused then.

    Who says that it ends by itself needs the permission for that end, ``execution:cancel`` or ``execution:resume``.
    409 says what a run is that cannot be paused. With the same ``Idempotency-Key`` again, the answer is the same.
    """
    instance_id = any_instance_id_of(req, "id")
    body = _read(req, PauseBody)
    _must_have_for_its_end(body)
    return answer(plain(await pause(client, instance_id, body, idempotency_key_of(req, None))))


async def resume_execution(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``POST /api/v1/executions/{id}/resume``: 200 with the run, which goes on with ``resume_data``.

    For a run that waits for people the data are their answer, which is taken by the same checks as at the workflow's
    own routes, so that it may need another permission too, such as ``approval:decide``; 200 has the ``result`` then, or
    202 where the run has yet to take it. One that is paused by hand as well goes on first, and without ``approved`` in
    the data nothing is answered. A declared workflow takes an answer for what it has called, too. With ``step_id`` the
    answer is for that step alone. The same ``Idempotency-Key`` again gives the same answer, also when the run has gone
    on. 409 says what a run is that cannot be resumed.
    """
    instance_id = any_instance_id_of(req, "id")
    body = _read(req, ResumeBody)
    key = idempotency_key_of(req, None)
    seen = await see_whole(client, instance_id)
    decided = await _decided_by(client, seen, key) if key is not None else None
    if decided is not None:
        return await _hand_in(req, client, seen, decided, body)
    if was_resumed(seen, body, key):
        if seen.waiting is not None and _is_decision(seen, body) and is_left_to_decide(seen):
            return await _hand_in(req, client, seen, seen.waiting, body)
        return answer(plain(await show(seen)))
    if seen.has_ended:
        raise ended(seen)
    if body.step_id is not None:
        _check_step(seen, body)
    if seen.by_hand is not None:
        return await _end_pause(req, client, seen, body)
    if seen.held is not None:
        sentence = "This run stands still with the one that it is a step of; resume that one."
        raise Conflict(sentence, execution_status="paused", paused_reason=seen.held.reason)
    if seen.is_outside:
        return await _end_suspension(client, seen, body)
    if seen.waiting is not None:
        return await _hand_in(req, client, seen, seen.waiting, body)
    status = (await show(seen)).status
    raise Conflict(f"This run is not paused: it is {status}.", execution_status=status)


async def cancel_execution(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``POST /api/v1/executions/{id}/cancel``: 200 with the run, which has ended, with all that it has called.

    202 where it has yet to end; 409 says what a run is that has ended before, or by itself meanwhile.
    """
    instance_id = any_instance_id_of(req, "id")
    body = _read(req, CancelBody)
    by, key = speak_as(None).actor, idempotency_key_of(req, None)
    store = get_record_store()
    seen = await see(client, instance_id)
    payload = {"idempotency_key": key} if key is not None else None
    if seen.has_ended:
        is_cancelled = seen.state.runtime_status is OrchestrationStatus.TERMINATED
        may_be_this = is_cancelled and payload is not None
        if may_be_this and await asyncio.to_thread(cancelling.was_noted, store, seen.state, payload):
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
    if after.has_ended and last.runtime_status is not OrchestrationStatus.TERMINATED:
        raise ended(after)  # by itself, before it was told to
    status_url = get_settings().base_url + path_to(PATH, instance_id)
    is_over = last.runtime_status in ENDED
    return answer(plain(await show(after)), 200 if is_over else 202, {} if is_over else {"Location": status_url})


async def get_execution(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``GET /api/v1/executions/{id}``: the run. ``error`` says why one failed, ``phase`` where it stands.

    ``output`` is what came of a declared workflow, which is shown nowhere else: its ``status``, ``output`` and
    ``data``, or null before that.
    """
    seen = await see(client, any_instance_id_of(req, "id"))
    state, progress = seen.state, seen.progress
    more: dict[str, Any] = {
        "phase": progress.phase if progress is not None else None,
        "deadline": as_utc_text(progress.deadline) if progress is not None and progress.deadline is not None else None,
        "last_updated_at": as_utc_text(state.last_updated_at),
        "error": state.failure_details.message if state.failure_details is not None else None,
    }
    if seen.run.workflow == workflow.WORKFLOW:
        more["output"] = _outcome(seen)
    return answer({**plain(await show(seen)), **more})


def _outcome(seen: Seen) -> dict[str, Any] | None:
    """What a run gave that has completed; else its output may be what somebody gave who terminated it."""
    if seen.state.runtime_status is not OrchestrationStatus.COMPLETED:
        return None
    try:
        outcome = WorkflowOutcome.model_validate(value_of(seen.state.serialized_output))
    except ValueError:
        return None
    return outcome.model_dump(mode="json", include=dict.fromkeys(("status", "output", "data"), True))


def _must_have_for_its_end(body: PauseBody) -> None:
    """Raise ``NotPermitted`` for who may pause a run, and not do what they say is done by the end of the pause."""
    by_setting = get_settings().on_max_pause if body.max_pause is not None else None
    match body.on_max_pause or by_setting:
        case "cancel":
            must_have("execution:cancel")
        case "resume":
            must_have("execution:resume")


def _is_decision(seen: Seen, body: ResumeBody) -> bool:
    """Whether the data of a resume decide on what a run waits for; else they are merged into its own."""
    return seen.waiting is not None and seen.waiting.run.workflow in _DECIDED and "approved" in (body.resume_data or {})


def _check_step(seen: Seen, body: ResumeBody) -> None:
    """Raise ``Conflict`` where a run is not at the step that it is resumed at."""
    at = [step_of(seen.progress)]
    if seen.by_hand is not None and not _is_decision(seen, body):
        at.append(seen.by_hand.pause.step)
    if body.step_id not in at:
        sentence = "This run is not at that step; look again where it is, and what it asks."
        raise Conflict(sentence, code="other_step", step=at[0])


async def _decided_by(client: DurableFunctionsClient, seen: Seen, decision_id: str) -> Seen | None:
    """Return the run that has a verdict on this: this one, or one that a declared workflow has called."""
    if _has_verdict(seen, decision_id):
        return seen
    if seen.run.workflow != workflow.WORKFLOW or seen.run.stamp is None:
        return None
    called = await asyncio.to_thread(
        documents.read_all, get_record_store(), seen.run.instance_id, seen.run.stamp, "child", MAX_CALLED
    )
    newest = [str(each.body["id"]) for each in reversed(called[-MAX_ASKED:]) if isinstance(each.body, dict)]
    for some in batched(newest, AT_ONCE, strict=False):
        states = await asyncio.gather(*map(client.get_orchestration_state, some))
        children = await see_all(client, [state for state in states if state is not None])
        if (found := next((child for child in children if _has_verdict(child, decision_id)), None)) is not None:
            return found
    return None


def _has_verdict(seen: Seen, decision_id: str) -> bool:
    progress, short = seen.progress, digest_of_id(decision_id)
    if progress is None:
        return False
    is_decided = progress.decision is not None and progress.decision.decision_id == decision_id
    is_verified = progress.signup is not None and progress.signup.verified_by == short
    return is_decided or is_verified or any(verdict.id == short for verdict in progress.verdicts)


async def _end_pause(
    req: func.HttpRequest, client: DurableFunctionsClient, seen: Seen, body: ResumeBody
) -> func.HttpResponse:
    """End a pause by hand; where the run waits for a decision, and the data are one, it is taken then."""
    data, is_decision = body.resume_data, _is_decision(seen, body)
    _check_before_it_ends(seen, data or {}, is_decision=is_decision)
    execution = await resume(client, seen, body, None if is_decision else data, idempotency_key_of(req, None))
    if execution is None:
        now_seen = await see(client, seen.run.instance_id)
        if now_seen.has_ended:
            raise ended(now_seen)
        raise Conflict("Somebody else has resumed this run just now.", execution_status=(await show(now_seen)).status)
    if not is_decision or seen.waiting is None:
        return answer(plain(execution))
    await pausing.until_it_goes_on(client, seen.waiting.run.instance_id)
    try:
        return await _hand_in(req, client, seen, seen.waiting, body)
    except CountersignError as error:
        error.detail = f"The pause has ended, but nothing was decided. {error.detail}"
        raise


def _check_before_it_ends(seen: Seen, data: dict[str, Any], *, is_decision: bool) -> None:
    """Raise what can be said of the data of a resume before anything is changed."""
    if is_decision:
        must_have("approval:decide")
        named = data.get("approver")
        speaker(named if isinstance(named, str) else None)
    answers_step = is_decision and seen.waits and seen.run.workflow == workflow.WORKFLOW
    if is_decision and not answers_step and not isinstance(data["approved"], bool):
        raise unclear("The data of the resume are not valid.", "approved", "true or false")
    if seen.run.workflow == workflow.WORKFLOW and seen.progress is not None and data:
        workflow_block.check_resumed(seen.state, seen.progress, data, answers=answers_step)


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
    req: func.HttpRequest, client: DurableFunctionsClient, seen: Seen, waiting: Seen, body: ResumeBody
) -> func.HttpResponse:
    """Hand the data of a resume to the run that waits for them; ``result`` is what its own route would answer."""
    door = _DOORS[waiting.run.workflow]
    if waiting is seen and seen.run.workflow == workflow.WORKFLOW:
        door = partial(workflow_block.answer_block, step=body.step_id)
    name = waiting.run.instance_id
    taken = await door(client, name, body.resume_data or {}, decision_id_of(req, None))
    result = json.loads(taken.get_body())
    if taken.status_code == 202:
        result["message"] = await not_yet(client, name)
    headers = {"Location": taken.headers["Location"]} if "Location" in taken.headers else {}
    execution = plain(await show(await see(client, seen.run.instance_id)))
    return answer({**execution, "result": result}, taken.status_code, headers)


def _read[Body: Contract](req: func.HttpRequest, contract: type[Body]) -> Body:
    """Read a body, which may be left out where nothing has to be said."""
    if req.get_body().strip():
        return read_body(req, contract)
    return read_body(func.HttpRequest(req.method, req.url, body=b"{}"), contract)
