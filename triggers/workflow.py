"""HTTP of declared workflows: storing them, reading them, running them."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Annotated, Any
from uuid import NAMESPACE_URL, uuid5

import azure.functions as func
from azure.durable_functions import DurableFunctionsClient
from pydantic import Field, JsonValue, TypeAdapter, ValidationError

from contracts.base import Contract, as_utc_text, path_to
from contracts.form import check_form, wrong_answers
from contracts.guarded_call import Call, HttpCall
from contracts.start import StartOptions
from contracts.workflow import Definition, StartExecution, StoredDefinition, Version, WorkflowInput, WorkflowName
from contracts.workflow_checks import Problem, read_definition
from contracts.workflow_data import RESERVED, has_references
from contracts.workflow_steps import ActionStep, ApproveAction, BlockAction, CallAction, WaitEventAction
from errors import BadRequest, Conflict, NotFound, PayloadTooLarge, Unprocessable
from orchestrators.workflow import workflow
from orchestrators.workflow_desk import PATH
from services import clock, workflow_definitions
from services.api_call import check_call
from services.callback import check_callback
from services.record_store import get_record_store
from settings import get_settings
from triggers.callers import must_have, starter
from triggers.instances import start
from triggers.starting import is_same_start, keyed
from triggers.web import MAX_BODY, answer, idempotency_key_of, read_body, read_query
from triggers.windows import WORKFLOWS

WORKFLOW = workflow.__name__
WORKFLOW_PATH = "/api/v1/workflows/{}"
FROM_ELSEWHERE = ("version", "definition", "approvals_to", "interventions_to", "carried")
"""Fields of the input that no body says."""

_NAME: TypeAdapter[str] = TypeAdapter(WorkflowName)
_CALL: TypeAdapter[Any] = TypeAdapter(Call)


class ListQuery(Contract):
    """The parameters of ``GET /api/v1/workflows``. ``continuation`` is what the page before gave."""

    limit: Annotated[int, Field(ge=1, le=100)] = 50
    continuation: WorkflowName | None = None


class VersionQuery(Contract):
    """The parameters of ``GET /api/v1/workflows/{name}``."""

    version: Version | None = None


async def store_workflow(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:  # noqa: ARG001
    """``POST /api/v1/workflows``: 201 with the version, or 200 where the newest one is the same.

    Where its approvals can do without others, it takes the permission ``approval:admin`` too.
    """
    given = _read_json(req)
    definition, problems = await asyncio.to_thread(_checked, given)  # a large one takes a while
    if definition is None or problems:
        errors = [{"field": field, "message": message} for field, message in problems]
        names = ", ".join(dict.fromkeys(field[:60] for field, _ in problems[:10]))
        raise Unprocessable(f"The definition is not valid: {names}.", errors=errors)
    if _does_without_others(definition):
        must_have("approval:admin")  # as a request of its own does
    try:
        put = await asyncio.to_thread(
            workflow_definitions.put, get_record_store(), definition, given, starter(), clock.now()
        )
    except ValueError as error:
        raise Conflict(f"This cannot be stored: {error}.") from None
    url = f"{get_settings().base_url}{path_to(WORKFLOW_PATH, definition.name)}"
    where = f"{url}?version={put.version}"
    told = {"name": definition.name, "version": put.version, "url": where, "executions_url": f"{url}/executions"}
    return answer(told, 201 if put.is_new else 200, {"Location": where})


async def list_workflows(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:  # noqa: ARG001
    """``GET /api/v1/workflows``: a page of ``workflows`` in the order of their names, each in its newest version."""
    asked = read_query(req, ListQuery)
    found, continuation = await asyncio.to_thread(
        workflow_definitions.page, get_record_store(), asked.limit, asked.continuation
    )
    base = get_settings().base_url
    listed = [
        {**each.model_dump(mode="json", exclude={"digest"}), "url": base + path_to(WORKFLOW_PATH, each.name)}
        for each in found
    ]
    return answer({"workflows": listed, "count": len(listed), "continuation": continuation})


async def get_workflow(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:  # noqa: ARG001
    """``GET /api/v1/workflows/{name}``: a definition as it was sent, with its version."""
    name = _name_of(req)
    found = await _stored(name, read_query(req, VersionQuery).version)
    told = {"version": found.version, "created_at": as_utc_text(found.created_at), "created_by": found.created_by}
    return answer({**found.definition, **told})


async def start_execution(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``POST /api/v1/workflows/{name}/executions``: 202 with ``execution_id`` and ``status_url``.

    With an ``Idempotency-Key`` that came before, with the same body, it gives the run that is there.
    """
    name = _name_of(req)
    options = read_query(req, StartOptions)
    body = read_body(req, StartExecution)
    key = idempotency_key_of(req, body.idempotency_key)
    found = await _stored(name, body.version)
    _check_input(found, body.input)
    settings = get_settings()
    given = WorkflowInput(
        workflow=name,
        version=found.version,
        asked_version=body.version,
        definition=found.definition,
        input=body.input,
        approvals_to=settings.approval_requests_to,
        interventions_to=settings.interventions_to,
        started_by=starter(),
        idempotency_key=key,
    )
    execution_id = await start(
        client,
        WORKFLOW,
        body.execution_id or (f"{WORKFLOW}-{uuid5(NAMESPACE_URL, key)}" if key else None),
        given,
        keyed(options, key),
        is_repetition=lambda there: is_same_start(there, WORKFLOW, given, FROM_ELSEWHERE),
    )
    status_url = settings.base_url + path_to(PATH, execution_id)
    ids = {"id": execution_id, "execution_id": execution_id, "workflow_id": name}
    return answer({**ids, "version": found.version, "status_url": status_url}, 202, {"Location": status_url})


def _read_json(req: func.HttpRequest) -> dict[str, JsonValue]:
    body = req.get_body()
    if len(body) > MAX_BODY:
        raise PayloadTooLarge(f"The body has {len(body):,} bytes; at most {MAX_BODY:,} are taken.")
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequest("The body is not JSON.") from None
    if not isinstance(given, dict):
        raise Unprocessable("The body is not valid: it is no object.")
    return given


def _name_of(req: func.HttpRequest) -> str:
    try:
        return _NAME.validate_python(req.route_params.get("name", ""))
    except ValidationError:
        raise BadRequest(
            "The name in the address has 1 to 60 letters, digits and any of - _ . : and nothing else."
        ) from None


async def _stored(name: str, version: int | None) -> StoredDefinition:
    found = await asyncio.to_thread(workflow_definitions.read, get_record_store(), name, version)
    if found is None:
        what = f"no version {version} of the workflow" if version is not None else "no workflow"
        raise NotFound(f"There is {what} '{name}'.")
    return found


def _check_input(found: StoredDefinition, given: dict[str, JsonValue]) -> None:
    """Raise ``Unprocessable`` for an input that does not fit its schema, or has a name that is not for inputs."""
    try:
        definition = Definition.model_validate(found.definition)
    except ValidationError:
        raise Unprocessable(
            "This definition was stored by another version of the app, and is not valid here. Store it again."
        ) from None
    wrong = {name: "this name is for what the run itself says" for name in RESERVED if name in given}
    if definition.input_schema is not None:
        wrong = wrong_answers(definition.input_schema, given) | wrong
    if wrong:
        errors = [{"field": f"input.{name}".rstrip("."), "message": message} for name, message in wrong.items()]
        raise Unprocessable("The input does not fit the workflow.", errors=errors)


def _checked(given: Any) -> tuple[Definition | None, list[Problem]]:
    definition, problems = read_definition(given)
    return definition, [*problems, *(_not_allowed(definition) if definition is not None else ())]


def _does_without_others(definition: Definition) -> bool:
    """Whether an approval of it may be given by who asks for it, or by time alone."""
    actions = [step.action for step in definition.steps if isinstance(step, ActionStep)]
    requests = [action.request for action in actions if isinstance(action, ApproveAction)]
    return any(bool(each.get("allow_self_approval")) or each.get("on_timeout") == "approve" for each in requests)


def _not_allowed(definition: Definition) -> Iterator[Problem]:
    """Give what a contract cannot check: names, schemas, and addresses that the settings do not allow."""
    if definition.name in WORKFLOWS:
        yield "name", "the app itself has a workflow of this name; choose another one"
    yield from _problem("input_schema", "", check_form, definition.input_schema)
    for index, step in enumerate(definition.steps):
        if not isinstance(step, ActionStep):
            continue
        where, prefix, action = f"steps.{index}.action", f"step '{step.id}': ", step.action
        if isinstance(action, BlockAction):
            yield from _problem(f"{where}.schema", prefix, check_form, action.answer_schema)
        elif isinstance(action, WaitEventAction):
            yield from _problem(f"{where}.schema", prefix, check_form, action.payload_schema)
        elif isinstance(action, ApproveAction):
            yield from _problem(f"{where}.request.form", prefix, check_form, action.request.get("form"))
            yield from _problem(
                f"{where}.request.callback_url", prefix, check_callback, action.request.get("callback_url")
            )
        elif isinstance(action, CallAction):
            yield from _problem(f"{where}.request.schema", prefix, check_form, action.request.get("schema"))
            yield from _problem(f"{where}.request.call", prefix, _check_call, action.request.get("call"))


def _check_call(given: Any) -> None:
    if isinstance(given, dict) and given.get("kind") == "http":
        if not has_references(given.get("url")):  # else the run finds out
            check_call(HttpCall(kind="http", method="GET", url=given["url"]))
    else:
        check_call(_CALL.validate_python(given))


def _problem(field: str, prefix: str, look: Callable[[Any], None], value: Any) -> Iterator[Problem]:
    if value is None or (not isinstance(value, dict) and has_references(value)):
        return
    try:
        look(value)
    except ValidationError:
        return  # the contract has said so
    except ValueError as error:
        yield field, f"{prefix}{error}"
