"""HTTP of the guarded calls that have failed: interventions."""

import asyncio
import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal
from uuid import NAMESPACE_URL, uuid5

import azure.functions as func
from azure.durable_functions import DurableFunctionsClient
from durabletask.client import OrchestrationState
from pydantic import Field, StringConstraints

from contracts.audit import Entry
from contracts.base import Contract, as_utc_text, path_to
from contracts.form import check_form, wrong_answers
from contracts.guarded_call import (
    EditCommand,
    FailCommand,
    GateCommand,
    GateEvent,
    GuardedCallInput,
    ResolveInterventions,
    ResumeGuardedCall,
    RetryCommand,
    SkipCommand,
    StartIntervention,
    masked,
)
from contracts.human_step import Progress
from contracts.records import Wait
from contracts.start import StartOptions
from errors import BadRequest, Conflict, CountersignError, Forbidden, TooLate, Unprocessable
from orchestrators.guarded_call import EVENTS, guarded_call
from orchestrators.human_step import EXECUTION_TIMED_OUT
from services import clock, documents, trail, waits
from services.api_call import check_call
from services.record_store import RecordStoreError, get_record_store
from services.waits import LONGEST_CONTINUATION, BadContinuation, WaitQuery
from settings import get_settings
from triggers.ask_run import Asked, Rules, ask_run
from triggers.callers import Speaker, read_data, speaker, starter, unclear
from triggers.decide import not_yet
from triggers.diff import diff_of
from triggers.instances import ENDED, describe, find, progress_of, run_of, start
from triggers.starting import is_same_start, keyed
from triggers.story import history_of
from triggers.web import answer, check, decision_id_of, idempotency_key_of, instance_id_of, read_body, read_query

WORKFLOW = guarded_call.__name__
ENDED_PHASES = {
    "succeeded": "The call has succeeded by now.",
    "skipped": "The call was skipped.",
    "failed": "The call has failed for good.",
    EXECUTION_TIMED_OUT: "The run took longer than its execution timeout allows.",
}
REFUSALS: dict[str, tuple[type[CountersignError], str]] = {
    "not_assigned": (Forbidden, "This person is not asked: the call is assigned to others."),
    "not_allowed": (Conflict, "This call does not allow that; 'actions' says what it allows."),
    "no_more_retries": (Conflict, "This call was tried again as often as it may be; 'actions' says what is left."),
    "not_waiting": (Conflict, "The call does not wait for anybody just now."),
    "old_gate": (TooLate, "This is of an earlier failure of the call; a newer mail has the link for this one."),
    "body_wrong": (Unprocessable, "The body does not fit the schema of the call."),
    "unchanged": (Conflict, "The body is what it was: to send it once more, use retry."),
}
COMMANDS: dict[str, tuple[type[GateCommand], str]] = {
    "retry": (RetryCommand, "The call is tried again."),
    "edit": (EditCommand, "The call is tried again, with the new body."),
    "skip": (SkipCommand, "The call was skipped."),
    "fail": (FailCommand, "The call has failed for good."),
}
"""What people can have done with a call, and what they are told then."""

MAX_ATTEMPTS_SHOWN = 50
"""The newest ones; all are counted."""
MAX_DOCUMENTS = 1_000
MAX_RESOLVED = 500
"""How many are resolved in one call; ``more`` says that there are others."""
AT_ONCE = 10
SECONDS_IN_ALL = 60.0
"""How long runs are asked in one call: a function may take five minutes, and each run DECISION_WAIT_SECONDS."""

_LOGGER = logging.getLogger(__name__)


class InterventionsQuery(Contract):
    """The parameters of ``GET /api/interventions``."""

    status: Literal["waiting"] = "waiting"
    fingerprint: Annotated[str, StringConstraints(pattern=r"\A[0-9a-f]{16}\z")] | None = None
    person: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=254)] | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 50
    continuation: Annotated[str, StringConstraints(max_length=LONGEST_CONTINUATION)] | None = None


async def start_intervention(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``POST /api/interventions``: 202 with ``intervention_id`` and ``status_url``.

    With an ``Idempotency-Key`` that came before, with the same body, it gives the run that is there.
    """
    options = read_query(req, StartOptions)
    body = read_body(req, StartIntervention)
    check(check_call, "call", body.call)
    check(check_form, "schema", body.body_schema)
    mailbox = None if body.assigned_to else get_settings().interventions_to
    key = idempotency_key_of(req, body.idempotency_key)
    asked = body.model_dump(mode="json", exclude={"intervention_id"})
    more = {"mailbox": mailbox, "idempotency_key": key, "started_by": starter()}
    given = GuardedCallInput.model_validate(asked | more)
    intervention_id = await start(
        client,
        WORKFLOW,
        body.intervention_id or (f"{WORKFLOW}-{uuid5(NAMESPACE_URL, key)}" if key else None),
        given,
        keyed(options, key),
        is_repetition=lambda there: is_same_start(there, WORKFLOW, given, ("mailbox",)),
    )
    status_url = _status_url(intervention_id)
    return answer({"intervention_id": intervention_id, "status_url": status_url}, 202, {"Location": status_url})


async def list_interventions(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:  # noqa: ARG001
    """``GET /api/interventions``: a page of the calls that wait for a person, oldest first, and what continues it."""
    asked = read_query(req, InterventionsQuery)
    query = WaitQuery(kind=WORKFLOW, person=asked.person, group=asked.fingerprint)
    try:
        found, continuation = await asyncio.to_thread(
            waits.page, get_record_store(), query, asked.limit, asked.continuation, clock.now()
        )
    except BadContinuation:
        raise BadRequest("The parameter 'continuation' is not from a page of this list.") from None
    return answer({"interventions": [_listed(wait) for wait in found], "continuation": continuation})


async def get_intervention(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``GET /api/interventions/{intervention_id}``: the call, its attempts and errors, what can be done, the story.

    ``attempts``, ``done`` and ``history`` are null while the records cannot be reached.
    """
    intervention_id = instance_id_of(req, "intervention_id")
    state = await find(client, WORKFLOW, intervention_id)
    shown = describe(state)
    shown.pop("input")
    shown.pop("custom_status")
    progress = progress_of(state)
    gate = progress.gate if progress is not None else None
    if gate is not None and state.runtime_status in ENDED:  # it may have been terminated
        gate = gate.model_copy(update={"actions": ()})
    told = {
        "intervention_id": intervention_id,
        **shown,
        **_about(state),
        "phase": progress.phase if progress is not None else None,
        "deadline": as_utc_text(progress.deadline) if progress is not None and progress.deadline is not None else None,
        "gate": gate.plain() if gate is not None else None,
        "actions": list(gate.actions) if gate is not None else [],
        "warnings": list(progress.warnings) if progress is not None else [],
    }
    try:
        recorded = await asyncio.to_thread(_recorded, state)
    except RecordStoreError:
        _LOGGER.exception("The history of a call could not be read")
        recorded = {"attempts": None, "done": None, "history": None}
    return answer({**told, **recorded})


async def retry_intervention(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``POST /api/interventions/{intervention_id}/retry``: tries the call again as it is."""
    return await _act(req, client, "retry")


async def edit_intervention(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``POST /api/interventions/{intervention_id}/edit``: tries the call again with another body."""
    return await _act(req, client, "edit")


async def skip_intervention(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``POST /api/interventions/{intervention_id}/skip``: goes on without the call, with a result in its place."""
    return await _act(req, client, "skip")


async def fail_intervention(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``POST /api/interventions/{intervention_id}/fail``: lets the call fail for good."""
    return await _act(req, client, "fail")


async def resume_guarded_call(
    client: DurableFunctionsClient, instance_id: str, data: dict[str, Any], decision_id: str
) -> func.HttpResponse:
    """Do something with a call that has failed, by the data of a resume, as the routes of the actions do."""
    if data.get("action") not in list(COMMANDS):  # it may be anything, also what no key can be
        progress = progress_of(await find(client, WORKFLOW, instance_id))
        actions = list(progress.gate.actions) if progress is not None and progress.gate is not None else []
        open_now = f"open now: {', '.join(actions)}" if actions else "none is open now"
        sentence = f"This call goes on when somebody says what is to be done with it: say 'action' ({open_now})."
        raise unclear(sentence, "action", f"one of {', '.join(COMMANDS)}", actions=actions)
    given = read_data(data, ResumeGuardedCall, said_by="by")
    said = given.model_dump(mode="json", exclude={"action"}, exclude_unset=True)
    command = COMMANDS[given.action][0].model_validate(said)
    return await _do(client, instance_id, given.action, command, decision_id)


async def resolve_interventions(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``POST /api/interventions/resolve``: does the same with all calls that wait on one error; a result for each."""
    body = read_body(req, ResolveInterventions, said_by="by")
    by = speaker(body.by)
    decision_id = decision_id_of(req, body.decision_id)
    query = WaitQuery(kind=WORKFLOW, group=body.fingerprint)
    found = await asyncio.to_thread(_all_of, query, MAX_RESOLVED + 1)
    given = {"body", "result"} & body.model_fields_set
    said = body.model_dump(mode="json", include={"reason", "fingerprint"} | given) | _said_by(by, decision_id)
    event = EVENTS[body.action].model_validate(said)
    turns = asyncio.Semaphore(AT_ONCE)
    give_up = time.monotonic() + SECONDS_IN_ALL

    async def one(intervention_id: str) -> dict[str, Any]:
        async with turns:
            if time.monotonic() >= give_up:
                return {"intervention_id": intervention_id, "outcome": "not_asked", "status": 202}
            try:
                progress = await _ask(client, intervention_id, body.action, event)
            except CountersignError as error:
                refused = {"status": error.status, "detail": error.detail, **error.members}
                return {"intervention_id": intervention_id, "outcome": "refused", **refused}
            except Exception:
                _LOGGER.exception("One of several interventions could not be resolved")
                return {"intervention_id": intervention_id, "outcome": "unknown", "status": 500}
            taken = (
                {"outcome": "taken", "status": 200} if progress is not None else {"outcome": "pending", "status": 202}
            )
            return {"intervention_id": intervention_id, **taken}

    ids = list(dict.fromkeys(wait.instance_id for wait in found[:MAX_RESOLVED]))
    results = await asyncio.gather(*(one(each) for each in ids))
    taken = sum(result["outcome"] == "taken" for result in results)
    more = len(found) > MAX_RESOLVED or any(result["outcome"] == "not_asked" for result in results)
    return answer({"resolved": taken, "results": list(results), "more": more, "decision_id": decision_id})


async def _act(req: func.HttpRequest, client: DurableFunctionsClient, action: str) -> func.HttpResponse:
    intervention_id = instance_id_of(req, "intervention_id")
    body = read_body(req, COMMANDS[action][0], said_by="by")
    return await _do(client, intervention_id, action, body, decision_id_of(req, body.decision_id))


async def _do(
    client: DurableFunctionsClient, intervention_id: str, action: str, body: GateCommand, decision_id: str
) -> func.HttpResponse:
    by = speaker(body.by)
    state = await find(client, WORKFLOW, intervention_id)
    if isinstance(body, EditCommand):
        _check_body(body, state)
    # As it was sent: a result of null is not a result that was left out.
    event = EVENTS[action].model_validate(body.plain() | _said_by(by, decision_id))
    progress = await _ask(client, intervention_id, action, event)
    status_url = _status_url(intervention_id)
    told = {"intervention_id": intervention_id, "action": action, "decision_id": decision_id, "status_url": status_url}
    if progress is None:
        message = await not_yet(client, intervention_id)
        return answer({**told, "message": message}, 202, {"Location": status_url})
    return answer({**told, "message": COMMANDS[action][1], "phase": progress.phase})


def _said_by(by: Speaker, decision_id: str) -> dict[str, str | None]:
    """The fields of an event that say who does it, and by which door it came."""
    return {"by": by.who, "sent_by": by.sent_by, "decision_id": decision_id, "channel": "api"}


async def _ask(client: DurableFunctionsClient, intervention_id: str, action: str, event: GateEvent) -> Progress | None:
    asked = Asked(action, event, event.by, action, event.reason)
    try:
        return await ask_run(client, RULES, intervention_id, asked, patience=get_settings().decision_wait_seconds)
    except CountersignError as error:
        if error.members.get("code") in ("not_waiting", "not_allowed", "no_more_retries"):
            progress = progress_of(await find(client, WORKFLOW, intervention_id))
            gate = progress.gate if progress is not None else None
            error.members["actions"] = list(gate.actions) if gate is not None else []
            error.members["last"] = gate.last.plain() if gate is not None and gate.last is not None else None
        raise


def _check_body(command: EditCommand, state: OrchestrationState) -> None:
    """Say what is wrong with an edited body, where that can be told; the run is the judge."""
    given = _given(state)
    if given is None or given.body_schema is None:
        return
    try:
        wrong = (
            wrong_answers(given.body_schema, command.body)
            if isinstance(command.body, dict)
            else {"": "it is no JSON object"}
        )
    except ValueError:  # it was started past the API
        return
    if wrong:
        errors = [{"field": f"body.{name}".rstrip("."), "message": message} for name, message in wrong.items()]
        raise Unprocessable("The body does not fit the schema of the call.", errors=errors, code="body_wrong")


def _in_vain(state: OrchestrationState) -> str | None:
    """Say why nothing that is asked of a suspended run will count when it goes on: its gate is past its deadline."""
    progress, given = progress_of(state), _given(state)
    if progress is None or progress.gate is None or given is None or progress.deadline is None:
        return None
    goes_on = given.on_deadline == "escalate" and not progress.gate.escalated
    if not progress.gate.actions or goes_on or progress.deadline > progress.judged_at(clock.now()):
        return None
    return f"The time to act was up at {as_utc_text(progress.deadline)}."


def _given(state: OrchestrationState) -> GuardedCallInput | None:
    try:
        return GuardedCallInput.model_validate_json(state.serialized_input or "")
    except ValueError:  # the run has failed for that
        return None


def _about(state: OrchestrationState) -> dict[str, Any]:
    """What a call was started with, without secrets."""
    given = _given(state)
    if given is None:
        return {}
    left_out = {"call", "body_schema", "mailbox", "idempotency_key", "execution_timeout", "started_by", "at_step"}
    shown = given.model_dump(mode="json", exclude=left_out)
    return {**shown, "call": masked(given.call), "schema": given.body_schema}


def _recorded(state: OrchestrationState) -> dict[str, Any]:
    store, run = get_record_store(), run_of(state)
    read = partial(documents.read_all, store, state.instance_id, run, limit=MAX_DOCUMENTS)
    attempts = [document.body for document in read(what="attempt")]
    calls = [document.body for document in read(what="call")]
    done = [document.body for document in read(what="action")]
    told: dict[str, Any] = {"attempts": attempts[-MAX_ATTEMPTS_SHOWN:], "failed_attempts": len(attempts)}
    if calls:
        told["call"] = calls[-1]
    told["done"] = [_with_diff(each, calls) for each in done if isinstance(each, dict)]
    entries = trail.read(store, state.instance_id).entries
    return {**told, "history": history_of(_of_run(entries, run))}


def _with_diff(done: dict[str, Any], calls: Sequence[Any]) -> dict[str, Any]:
    """What somebody did; an edit with what it changed, a line each that begins with a blank, - or +."""
    version = done.get("version")
    if not isinstance(version, int) or not 2 <= version <= len(calls):
        return done
    marks = {"same": " ", "old": "-", "new": "+"}
    changed = diff_of(calls[version - 2].get("body"), calls[version - 1].get("body"))
    return {**done, "diff": [f"{marks[kind]} {line}" for kind, line in changed]}


def _of_run(entries: Sequence[Entry], run: str) -> list[Entry]:
    return [entry for entry in entries if entry.run == run]


def _all_of(query: WaitQuery, limit: int) -> list[Wait]:
    """Return the open waits that fit, oldest first, up to a limit."""
    found: list[Wait] = []
    continuation: str | None = None
    while len(found) < limit:
        some, continuation = waits.page(get_record_store(), query, 100, continuation, clock.now())
        found += some
        if continuation is None:
            break
    return found[:limit]


def _listed(wait: Wait) -> dict[str, Any]:
    return {
        "intervention_id": wait.instance_id,
        "title": wait.title,
        "fingerprint": wait.group,
        "assigned_to": list(wait.people),
        "actions": list(wait.actions),
        "since": as_utc_text(wait.since),
        "deadline": as_utc_text(wait.deadline) if wait.deadline is not None else None,
        "url": get_settings().base_url + wait.path,
    }


def _status_url(intervention_id: str) -> str:
    return get_settings().base_url + path_to("/api/interventions/{}", intervention_id)


RULES = Rules(WORKFLOW, REFUSALS, ENDED_PHASES, _in_vain)
