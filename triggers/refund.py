"""HTTP of the refund (API orchestration)."""

import asyncio
import json
import logging
from typing import Any, Literal
from uuid import NAMESPACE_URL, uuid5

import azure.functions as func
from azure.durable_functions import DurableFunctionsClient
from durabletask.client import OrchestrationState

from contracts.base import as_utc_text, path_to
from contracts.human_step import Progress, digest_of_id
from contracts.refund import (
    ReadyCommand,
    ReadyEvent,
    RefundInput,
    ResumeRefund,
    SignalMicroservice,
    StartMicroservice,
    StartRefund,
    SwapEvent,
    SwapMicroservice,
)
from contracts.start import StartOptions
from errors import AlreadyStarted, BadRequest, Conflict, CountersignError, RecordsUnavailable, TooLate, Unprocessable
from orchestrators.human_step import EXECUTION_TIMED_OUT
from orchestrators.refund import (
    COMPENSATING,
    DATA,
    EXPIRED,
    EXPIRING,
    FAILED,
    PATH,
    READY,
    REFUNDED,
    SWAP,
    WAITING,
    refund,
)
from services import clock, documents, trail
from services.record_store import RecordStoreError, get_record_store
from settings import get_settings
from triggers.ask_run import Asked, Rules, ask_run
from triggers.callers import Speaker, read_data, sender, speaker, starter, unclear
from triggers.instances import ENDED, describe, find, progress_of, run_of, start
from triggers.starting import is_same_start, keyed
from triggers.story import history_of
from triggers.web import (
    answer,
    answer_text,
    decision_id_of,
    idempotency_key_of,
    instance_id_of,
    read_body,
    read_query,
    refuse_to_be_embedded,
)

WORKFLOW = refund.__name__
SOME_DATA = "some input data, could be any object rather than a string"
"""What a run has that was started without a word on its data."""
API = "(API)"
"""Who asks for something and does not say who it is."""
MAX_CALLS = 10

ENDED_PHASES = {
    REFUNDED: "The refund was processed.",
    EXPIRED: "The refund has expired.",
    FAILED: "The refund has failed.",
    EXECUTION_TIMED_OUT: "The run took longer than its execution timeout allows.",
}
TOO_LATE = "The refund does not wait for that any more."
REFUSALS: dict[str, tuple[type[CountersignError], str]] = {
    "duplicate": (Conflict, "Ready came before."),
    "too_late": (TooLate, TOO_LATE),
    "too_often": (Conflict, "The data of this refund were swapped too often."),
}
type Signalled = Literal["accepted", "duplicate", "pending"]

_LOGGER = logging.getLogger(__name__)


async def start_microservice(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``GET`` or ``POST /microservice/start``: the text ``success``, also when it was started before."""
    refuse_to_be_embedded(req)
    asked = read_query(req, StartMicroservice)
    try:
        await start(client, WORKFLOW, asked.workflow_id, _given({"data": SOME_DATA}), asked)
    except AlreadyStarted as error:
        if error.members.get("workflow") != WORKFLOW:
            raise
    return answer_text("success")


async def signal_microservice(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``GET`` or ``POST /microservice/signal``: the text ``done``, or ``duplicate``."""
    refuse_to_be_embedded(req)
    asked = read_query(req, SignalMicroservice)
    signalled = await signal_ready(client, asked.workflow_id, decision_id_of(req, None))
    return answer_text("done" if signalled == "accepted" else signalled, 202 if signalled == "pending" else 200)


async def swap_microservice(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``GET`` or ``POST /microservice/swap``: puts other data in place of the old, and gives those as text."""
    refuse_to_be_embedded(req)
    asked = read_query(req, SwapMicroservice)
    if "data" not in req.params:
        raise BadRequest("The parameter 'data' is missing.")
    refund_id, decision_id = asked.workflow_id, decision_id_of(req, None)
    by = sender()
    event = SwapEvent(data=asked.data, decision_id=decision_id, channel="api", sent_by=by)
    progress = await _ask(client, SWAP_RULES, refund_id, Asked(SWAP, event, by or API, SWAP))
    if progress is None:
        return answer_text("pending", 202)
    run = run_of(await find(client, WORKFLOW, refund_id))
    old = await asyncio.to_thread(_old_data, refund_id, run, decision_id)
    return answer_text(f"oldData: {old if isinstance(old, str) else json.dumps(old, ensure_ascii=False)}")


async def start_refund(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``POST /api/refunds``: 202 with ``refund_id`` and ``status_url``.

    With an ``Idempotency-Key`` that came before, with the same body, it gives the refund that is there. One with a key
    replaces none unless it says so.
    """
    options = read_query(req, StartOptions)
    body = read_body(req, StartRefund)
    key = idempotency_key_of(req, body.idempotency_key)
    asked = body.model_dump(mode="json", exclude={"refund_id", "ready_within"}) | {"idempotency_key": key}
    given = _given(asked, body.ready_within)
    if given.api is not None and body.simulate:
        errors = [{"field": "simulate", "message": "the refund API is not simulated here"}]
        raise Unprocessable("The body is not valid: simulate.", errors=errors)
    refund_id = body.refund_id or (f"{WORKFLOW}-{uuid5(NAMESPACE_URL, key)}" if key else None)
    refund_id = await start(
        client,
        WORKFLOW,
        refund_id,
        given,
        keyed(options, key),
        is_repetition=lambda there: is_same_start(there, WORKFLOW, given, ("api", "mailbox")),
    )
    status_url = _status_url(refund_id)
    return answer({"refund_id": refund_id, "status_url": status_url}, 202, {"Location": status_url})


async def get_refund(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``GET /api/refunds/{refund_id}``: what is to be paid back, what is going on, what happened, and the outcome.

    ``calls`` and ``history`` are null while the records cannot be reached.
    """
    refund_id = instance_id_of(req, "refund_id")
    state = await find(client, WORKFLOW, refund_id)
    described = describe(state)
    del described["input"], described["custom_status"]
    progress = progress_of(state)
    attributes = (progress.data if progress is not None else None) or {}
    told = {
        "refund_id": refund_id,
        **described,
        **_about(state),
        "phase": progress.phase if progress is not None else None,
        "ready_at": attributes.get(READY),
        "deadline": as_utc_text(progress.deadline) if progress is not None and progress.deadline is not None else None,
        "warnings": list(progress.warnings) if progress is not None else [],
        "ready_url": f"{_status_url(refund_id)}/ready",
    }
    if DATA in attributes:
        told["data"] = attributes[DATA]
    try:
        recorded = await asyncio.to_thread(_recorded, state)
    except RecordStoreError:
        _LOGGER.exception("The history of a refund could not be read")
        return answer({**told, "calls": None, "history": None})
    calls = [await _with_phase(client, each) for each in recorded.pop("calls")]
    return answer({**told, "calls": calls, **recorded})


async def make_refund_ready(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``POST /api/refunds/{refund_id}/ready``: 200 with the verdict, 202 when there is none yet."""
    refund_id = instance_id_of(req, "refund_id")
    body = read_body(req, ReadyCommand) if req.get_body() else ReadyCommand()
    return await _make_ready(client, refund_id, body, decision_id_of(req, body.decision_id))


async def resume_refund(
    client: DurableFunctionsClient, instance_id: str, data: dict[str, Any], decision_id: str
) -> func.HttpResponse:
    """Say by the data of a resume that a refund is ready, as ``make_refund_ready`` does."""
    if "action" not in data:
        raise unclear("This refund waits to be ready: say that with 'action', which is 'ready'.", "action", "'ready'")
    given = read_data(data, ResumeRefund)
    return await _make_ready(client, instance_id, ReadyCommand(by=given.by, comments=given.comments), decision_id)


async def _make_ready(
    client: DurableFunctionsClient, refund_id: str, body: ReadyCommand, decision_id: str
) -> func.HttpResponse:
    verdict = await signal_ready(client, refund_id, decision_id, by=speaker(body.by), comments=body.comments)
    status_url = _status_url(refund_id)
    told = {"refund_id": refund_id, "verdict": verdict, "decision_id": decision_id, "status_url": status_url}
    if verdict == "pending":
        return answer(told, 202, {"Location": status_url})
    return answer(told)


async def signal_ready(
    client: DurableFunctionsClient,
    refund_id: str,
    decision_id: str,
    *,
    by: Speaker | None = None,
    comments: str | None = None,
) -> Signalled:
    """Say that a refund is ready, and give what the run made of it; ``pending`` when it did not come to it yet.

    Without ``by``, it is a message of the caller, who need not be the same when it is repeated. Raises ``NotFound``,
    ``TooLate``, or ``Unprocessable`` when the id came before with something else.
    """
    state = await find(client, WORKFLOW, refund_id)
    if _came_before(state, decision_id):
        return "duplicate"
    who, sent_by = (by.who, by.sent_by) if by is not None else (None, sender())
    event = ReadyEvent(by=who, comments=comments, decision_id=decision_id, channel="api", sent_by=sent_by)
    asked = Asked(READY, event, who or sent_by or API, READY, comments)
    try:
        progress = await _ask(client, READY_RULES, refund_id, asked)
    except Conflict:
        return "duplicate"
    except TooLate:
        if _came_before(await find(client, WORKFLOW, refund_id), decision_id):  # it ended while this was asked
            return "duplicate"
        raise
    return "accepted" if progress is not None else "pending"


def _old_data(refund_id: str, run: str, decision_id: str) -> Any:
    """What a swap took the place of. Raises ``RecordsUnavailable``."""
    try:
        reply = documents.read(get_record_store(), refund_id, run, f"reply|{digest_of_id(decision_id)}")
    except RecordStoreError:
        _LOGGER.exception("The old data of a swap could not be read")
        reply = None
    if reply is None or not isinstance(reply.body, dict) or "old_data" not in reply.body:
        raise RecordsUnavailable("The swap was made, but the old data cannot be read from the records.")
    return reply.body["old_data"]


def _came_before(state: OrchestrationState, decision_id: str) -> bool:
    """Whether a run is ready, and not by this very signal, as far as can be told."""
    progress = progress_of(state)
    if progress is None or READY not in (progress.data or {}):
        return False
    return all(verdict.id != digest_of_id(decision_id) for verdict in progress.verdicts)


def _in_vain(state: OrchestrationState) -> str | None:
    """Why a suspended run will not count ``Ready`` when it goes on: it will see first that the time was up."""
    progress = progress_of(state)
    if progress is None or progress.phase != WAITING or progress.deadline is None:
        return None
    if progress.deadline > progress.judged_at(clock.now()):
        return None
    return f"The time to get ready was up at {as_utc_text(progress.deadline)}."


async def _ask(client: DurableFunctionsClient, rules: Rules, refund_id: str, asked: Asked) -> Progress | None:
    return await ask_run(client, rules, refund_id, asked, patience=get_settings().decision_wait_seconds)


def _given(asked: dict[str, Any], ready_within: float | None = None) -> RefundInput:
    """Make the durable input, with what the settings say."""
    settings = get_settings()
    more = {
        "ready_hours": ready_within or settings.refund_ready_hours,
        "api": str(settings.refund_api).rstrip("/") if settings.refund_api is not None else None,
        "mailbox": settings.interventions_to,
        "started_by": starter(),
    }
    return RefundInput.model_validate(asked | more)


def _about(state: OrchestrationState) -> dict[str, Any]:
    """What a run was started with."""
    try:
        given = RefundInput.model_validate_json(state.serialized_input or "")
    except ValueError:  # the run has failed for that
        return {}
    shown = {"amount", "currency", "customer", "reason", "data", "assigned_to"}
    return given.model_dump(mode="json", include=shown)


def _recorded(state: OrchestrationState) -> dict[str, Any]:
    store, run = get_record_store(), run_of(state)
    calls = documents.read_all(store, state.instance_id, run, "call", MAX_CALLS)
    entries = [entry for entry in trail.read(store, state.instance_id).entries if entry.run == run]
    return {"calls": [each.body for each in calls if isinstance(each.body, dict)], "history": history_of(entries)}


async def _with_phase(client: DurableFunctionsClient, call: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a call; with its phase while it is under way, which says whether it waits for people."""
    path = path_to("/api/interventions/{}", str(call.get("call_id")))
    told = {**call, "status_url": get_settings().base_url + path}
    if call.get("state") != "under_way":
        return told
    state = await client.get_orchestration_state(str(call.get("call_id")))
    progress = progress_of(state) if state is not None and state.runtime_status not in ENDED else None
    return {**told, "phase": progress.phase if progress is not None else None}


def _status_url(refund_id: str) -> str:
    return get_settings().base_url + path_to(PATH, refund_id)


READY_RULES = Rules(
    WORKFLOW,
    REFUSALS,
    {**ENDED_PHASES, EXPIRING: "The time to get ready was up.", COMPENSATING: "The refund is undone just now."},
    _in_vain,
)
SWAP_RULES = Rules(WORKFLOW, REFUSALS, ENDED_PHASES)
