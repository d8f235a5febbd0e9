"""HTTP of the approval (human interaction)."""

import asyncio
import logging
from typing import Any, Literal
from uuid import NAMESPACE_URL, uuid5

import azure.functions as func
from azure.durable_functions import DurableFunctionsClient
from durabletask.client import OrchestrationState
from pydantic import ValidationError

from contracts import approval_version_2
from contracts.approval import (
    ApprovalInput,
    Command,
    DelegateEvent,
    Delegation,
    ExtendEvent,
    Extension,
    Reminder,
    RemindEvent,
    ResumeApproval,
    ReviseEvent,
    Revision,
    StartApproval,
    Vote,
    VoteEvent,
    Withdrawal,
    WithdrawEvent,
)
from contracts.audit import Entry
from contracts.base import as_utc_text, path_to
from contracts.form import check_form, wrong_answers
from contracts.human_step import Progress
from contracts.start import StartOptions
from errors import Conflict, CountersignError, Forbidden, TooLate, Unprocessable
from orchestrators.approval import approval
from orchestrators.approval_desk import DECISION
from services import trail
from services.callback import check_callback
from services.identity import speak_as
from services.record_store import RecordStoreError, get_record_store
from settings import get_settings
from triggers.ask_run import Asked, Rules, ask_run, is_over
from triggers.callers import must_have, read_data, speaker, starter, unclear
from triggers.decide import AskedDecision, answer_decision, decide, not_yet
from triggers.instances import ENDED, describe, find, progress_of, run_of, start
from triggers.starting import is_same_start, keyed
from triggers.story import history_of, rounds_of
from triggers.web import answer, check, decision_id_of, idempotency_key_of, instance_id_of, read_body, read_query

WORKFLOW = approval.__name__

ENDED_PHASES = {
    "timed_out": "The time to decide was up.",
    "withdrawn": "The requester has withdrawn this.",
    "failed": "The time to decide was up, and the run failed, as the request says.",
    "execution_timed_out": "The run took too long, and was ended.",
}
"""The phases of a run that has ended without a decision, though it may have its last mails to send."""

REFUSALS: dict[str, tuple[type[CountersignError], str]] = {
    "own_request": (Forbidden, "Nobody decides on what they asked for themselves."),
    "not_asked": (Forbidden, "This person is not asked, or is no longer."),
    "not_yet": (Forbidden, "It is not this person's turn yet: the approvers are asked one after another."),
    "handed_over": (Forbidden, "This person has handed the vote to somebody else."),
    "not_requester": (Forbidden, "Only who asked for it can do that: 'by' is the requester, as in the request."),
    "old_round": (TooLate, "This link is of an earlier round; a newer mail has the link for this one."),
    "locked": (Forbidden, "This link is locked: a wrong code was typed too often. Ask for a new mail."),
    "wrong_code": (Forbidden, "The code is not the one in the mail."),
    "comment_needed": (Unprocessable, "This needs a comment that says why."),
    "answers_wrong": (Unprocessable, "The answers do not fit the form of the request."),
    "already_asked": (Conflict, "This person is asked already, and has one vote."),
    "to_requester": (Conflict, "A vote cannot be handed to the requester."),
    "in_a_circle": (Conflict, "This person has handed this very vote on; it cannot come back."),
    "handed_on_too_often": (Conflict, "This vote was handed on three times, and stays where it is."),
    "already_voted": (Conflict, "This person has voted; a vote that was cast is changed, not handed on."),
    "not_waiting": (Conflict, "The request does not wait for that now."),
    "too_often": (Conflict, "That was done too often on this request."),
    "too_long": (Unprocessable, "That is too long: 365 days from the start, and so much text as a request may have."),
}
RULES = Rules(WORKFLOW, REFUSALS, ENDED_PHASES)
EARLIER = "This request was started by an earlier version of the app"
UNSAID = "This request waits for a decision, and an empty resume never means yes: say 'approved', true or false."

_LOGGER = logging.getLogger(__name__)


async def start_approval(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``POST /api/requests``: 202 with ``request_id``, ``approval_url`` and ``status_url``.

    With an ``Idempotency-Key`` that came before, with the same body, it gives the request that is there. One with a key
    replaces none unless it says so.
    """
    options = read_query(req, StartOptions)
    body = read_body(req, StartApproval, said_by="requester")
    if body.allow_self_approval or body.on_timeout == "approve":
        must_have("approval:admin")  # else who may only start runs could do without those who decide
    key = idempotency_key_of(req, body.idempotency_key)
    check(check_form, "form", body.form)
    check(check_callback, "callback_url", body.callback_url)
    given = _given(body, key)
    request_id = body.request_id or (f"{WORKFLOW}-{uuid5(NAMESPACE_URL, key)}" if key else None)
    request_id = await start(
        client,
        WORKFLOW,
        request_id,
        given,
        keyed(options, key),
        is_repetition=lambda there: is_same_start(there, WORKFLOW, given, ("mailbox", "carried")),
    )
    links = {"approval_url": _approval_url(request_id), "status_url": _status_url(request_id)}
    return answer({"request_id": request_id, **links}, 202, {"Location": links["status_url"]})


async def decide_approval(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``POST /api/approvals/{request_id}``: 200 with the verdict, 202 when there is none yet."""
    request_id = instance_id_of(req, "request_id")
    body = read_body(req, Vote, said_by="approver")
    return await _decide(client, request_id, body, decision_id_of(req, body.decision_id))


async def resume_approval(
    client: DurableFunctionsClient, instance_id: str, data: dict[str, Any], decision_id: str
) -> func.HttpResponse:
    """Decide on a request by the data of a resume, as ``decide_approval`` does."""
    must_have("approval:decide")
    if "approved" not in data:
        raise unclear(UNSAID, "approved", "true or false")
    given = read_data(data, ResumeApproval, said_by="approver")
    said = given.model_dump(exclude={"approved"})
    return await _decide(client, instance_id, Vote(is_approved=given.approved, **said), decision_id)


async def _decide(client: DurableFunctionsClient, request_id: str, body: Vote, decision_id: str) -> func.HttpResponse:
    by = speaker(body.approver)
    state = await find(client, WORKFLOW, request_id)
    message = f"The decision on request '{request_id}' was taken."
    if _is_version_2(state):
        if by.sent_by is not None:
            raise Unprocessable(f"{EARLIER}, whose trail cannot show that somebody else decides on behalf of a person.")
        asked = _decision(body, by.who, decision_id)
        verdict = await decide(client, WORKFLOW, request_id, asked, patience=get_settings().decision_wait_seconds)
        return await answer_decision(client, verdict, request_id, _status_url(request_id), message)
    _check_answers(body, state)
    said = {"approver": by.who, "sent_by": by.sent_by, "decision_id": decision_id, "channel": "api"}
    event = VoteEvent.model_validate(body.plain() | said)
    progress = await _ask(client, request_id, Asked(DECISION, event, by.who, body.choice, body.comments))
    return await _answer(client, progress, request_id, decision_id, message, vote=body.choice)


async def get_approval(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``GET /api/requests/{request_id}``: the request, what is going on, what happened, and the outcome.

    ``history`` is all that happened, in order, and ``rounds`` the same by rounds; both are null while the records
    cannot be reached.
    """
    request_id = instance_id_of(req, "request_id")
    state = await find(client, WORKFLOW, request_id)
    shown = {"request_id": request_id, "approval_url": _approval_url(request_id), **describe(state)}
    if isinstance(shown["input"], dict):
        shown["input"].pop("carried", None)
    progress = progress_of(state)
    if progress is not None and state.runtime_status not in ENDED:
        shown["status"] = _STATUSES.get(progress.phase, shown["status"])  # it may have its last mails to send
    try:
        entries = await asyncio.to_thread(_entries, state)
    except RecordStoreError:
        _LOGGER.exception("The history of a request could not be read")
        return answer({**shown, "rounds": None, "history": None})
    return answer({**shown, "rounds": rounds_of(entries), "history": history_of(entries)})


async def delegate_approval(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``POST /api/requests/{request_id}/delegate``: hands a vote to somebody else."""
    return await _command(
        req, client, Delegation, event="delegate", payload=DelegateEvent, message="The vote was handed over."
    )


async def withdraw_approval(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``POST /api/requests/{request_id}/withdraw``: ends it, by the requester."""
    return await _command(
        req, client, Withdrawal, event="withdraw", payload=WithdrawEvent, message="The request was withdrawn."
    )


async def extend_approval(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``POST /api/requests/{request_id}/extend``: moves the deadline on, by the requester."""
    return await _command(
        req, client, Extension, event="extend", payload=ExtendEvent, message="The deadline was moved on."
    )


async def revise_approval(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``POST /api/requests/{request_id}/revise``: the requester answers to the changes that were asked for."""
    return await _command(
        req,
        client,
        Revision,
        event="revise",
        payload=ReviseEvent,
        message="The request was revised; a new round begins.",
    )


async def remind_approval(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``POST /api/requests/{request_id}/remind``: sends the links again."""
    return await _command(
        req, client, Reminder, event="remind", payload=RemindEvent, message="The mails are on their way."
    )


_STATUSES = {
    "approved": "Approved",
    "rejected": "Rejected",
    "timed_out": "Timeout",
    "withdrawn": "Withdrawn",
    "failed": "Failed",
    "execution_timed_out": "Failed",
}


async def _command(
    req: func.HttpRequest,
    client: DurableFunctionsClient,
    contract: type[Command],
    *,
    event: Literal["delegate", "withdraw", "extend", "revise", "remind"],
    payload: type[Command],
    message: str,
) -> func.HttpResponse:
    request_id = instance_id_of(req, "request_id")
    body = read_body(req, contract, said_by="approver" if contract is Delegation else "by")
    decision_id = decision_id_of(req, body.decision_id)
    by, said = _handed_over(body) if isinstance(body, Delegation) else _said_by(body)
    if _is_version_2(await find(client, WORKFLOW, request_id)):
        raise Unprocessable(f"{EARLIER}, which cannot do that.")
    asked = payload.model_validate(body.plain() | said | {"decision_id": decision_id, "channel": "api"})
    progress = await _ask(client, request_id, Asked(event, asked, by, event, body.comments))
    return await _answer(client, progress, request_id, decision_id, message)


def _said_by(body: Command) -> tuple[str, dict[str, str | None]]:
    """Return who gives a command, and the fields of the event that say so."""
    by = speaker(getattr(body, "by", None))
    return by.who, {"by": by.who, "sent_by": by.sent_by}


def _handed_over(body: Delegation) -> tuple[str, dict[str, str | None]]:
    """Return who hands a vote over, and the fields of the event that say whose it is, and who else did it."""
    holder = speak_as(body.approver)
    doer = speak_as(body.by) if body.by is not None else holder
    if doer.on_behalf_of is not None and body.by is not None:
        raise Forbidden("Here 'by' is who hands the vote over: leave it out, or name yourself.")
    by = doer.actor if holder.on_behalf_of is not None or doer.actor != holder.actor else None
    return doer.actor, {"approver": holder.on_behalf_of or holder.actor, "by": by}


async def _ask(client: DurableFunctionsClient, request_id: str, asked: Asked) -> Progress | None:
    return await ask_run(client, RULES, request_id, asked, patience=get_settings().decision_wait_seconds)


async def _answer(
    client: DurableFunctionsClient,
    progress: Progress | None,
    request_id: str,
    decision_id: str,
    message: str,
    **said: str,
) -> func.HttpResponse:
    """Answer 200 with what came of it, or 202 with the address that will show it."""
    status_url = _status_url(request_id)
    if progress is None:
        body = {"instance_id": request_id, "message": await not_yet(client, request_id)}
        return answer({**body, "status_url": status_url}, 202, {"Location": status_url})
    taken = progress.decision
    ended = progress.phase if progress.phase in ENDED_PHASES else None
    return answer(
        {
            "instance_id": request_id,
            "message": message,
            **said,
            "outcome": taken.outcome if taken is not None else ended or "pending",
            "decided_by": taken.by if taken is not None else None,
            "decided_at": as_utc_text(taken.at) if taken is not None else None,
            "phase": progress.phase,
            "deadline": as_utc_text(progress.deadline) if progress.deadline is not None else None,
            "decision_id": decision_id,
            "status_url": status_url,
        }
    )


def _check_answers(body: Vote, state: OrchestrationState) -> None:
    """Say which answers are wrong, where that can be told; the run is the judge."""
    if body.choice != "approve" or is_over(RULES, state):
        return
    try:
        form = ApprovalInput.model_validate_json(state.serialized_input or "").form
    except ValueError:  # the run has failed for that
        return
    if form is None:
        if body.answers:
            raise Unprocessable("This request has no form, so that it takes no answers.")
        return
    try:
        wrong = wrong_answers(form, body.answers or {})
    except ValueError:  # it was started past the API
        return
    if wrong:
        fields = [{"field": f"answers.{name}".rstrip("."), "message": message} for name, message in wrong.items()]
        raise Unprocessable("The answers do not fit the form of the request.", errors=fields, code="answers_wrong")


def _is_version_2(state: OrchestrationState) -> bool:
    """Whether a run was started by an earlier version of the app, and keeps to its rules."""
    progress = progress_of(state)
    return progress is not None and progress.standing is None


def _decision(body: Vote, by: str, decision_id: str) -> AskedDecision:
    """What is asked of a run of an earlier version, which knows yes and no."""
    if body.choice not in ("approve", "reject"):
        raise Unprocessable(f"{EARLIER}: approve or reject it.")
    event = approval_version_2.DecisionEvent(
        is_approved=body.choice == "approve",
        approver=by[:100],
        comments=body.comments,
        decision_id=decision_id,
        channel="api",
    )
    return AskedDecision(
        approved=event.is_approved,
        by=event.approver,
        comments=event.comments,
        decision_id=decision_id,
        event=DECISION,
        payload=event,
    )


def _given(body: StartApproval, key: str | None) -> ApprovalInput:
    """Make the durable input. Raises ``Unprocessable`` where who starts it would have to approve it."""
    more = {
        "mailbox": None if body.stages else get_settings().approval_requests_to,
        "idempotency_key": key,
        "started_by": starter(body.requester),
    }
    try:
        return ApprovalInput.model_validate(body.model_dump(mode="json", exclude={"request_id"}) | more)
    except ValidationError as error:
        if error.errors()[0]["loc"]:  # what the body does not say
            raise
    message = (
        "without the requester, and you who start it for them, too few approvers are left; name others, or set "
        "allow_self_approval"
    )
    raise Unprocessable("The body is not valid: approvers.", errors=[{"field": "approvers", "message": message}])


def _entries(state: OrchestrationState) -> list[Entry]:
    run = run_of(state)
    return [entry for entry in trail.read(get_record_store(), state.instance_id).entries if entry.run == run]


def _approval_url(request_id: str) -> str:
    return get_settings().base_url + path_to("/api/approvals/{}", request_id)


def _status_url(request_id: str) -> str:
    return get_settings().base_url + path_to("/api/requests/{}", request_id)
