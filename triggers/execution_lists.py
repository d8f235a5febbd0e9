"""HTTP of the lists of executions: what is paused, and all runs."""

import asyncio
import base64
import json

import azure.functions as func
import grpc
from azure.durable_functions import DurableFunctionsClient
from durabletask.client import OrchestrationQuery, OrchestrationStatus

from contracts.audit import digest_of
from contracts.execution import Execution, ExecutionsQuery, PausedQuery, Status
from errors import BadRequest
from services import paused
from services.record_store import get_record_store
from services.waits import BadContinuation
from triggers.instances import page_of
from triggers.seeing import plain, see_all, show, with_pauses_before
from triggers.web import answer, read_query
from triggers.windows import WORKFLOWS

LOOKS = 20
"""How often the task hub is asked for one page of a list at most, as not all fit that it gives."""

_RUNTIME: dict[Status, list[OrchestrationStatus]] = {
    "running": [OrchestrationStatus.RUNNING],
    "pending": [OrchestrationStatus.PENDING],
    "completed": [OrchestrationStatus.COMPLETED],
    "failed": [OrchestrationStatus.FAILED],
    "cancelled": [OrchestrationStatus.TERMINATED],
}


async def list_paused(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``GET /api/v1/executions/paused``: a page of ``executions``, oldest first, their ``count``, and what continues
    the list, which is null on the last page."""
    asked = read_query(req, PausedQuery)
    return await _answer_paused(client, paused.PausedQuery(), asked.limit, asked.continuation)


async def list_executions(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``GET /api/v1/executions``: a page of ``executions``, their ``count``, and what continues the list.

    They are in the order of the task hub; those with the status ``paused`` are by when they were paused, oldest first.
    A page can have few, or none, and still a ``continuation``.
    """
    asked = read_query(req, ExecutionsQuery)
    if asked.status == "paused":
        wanted = paused.PausedQuery(asked.workflow, asked.created_from, asked.created_to)
        return await _answer_paused(client, wanted, asked.limit, asked.continuation)
    found: list[Execution] = []
    place = _place(asked)
    for _ in range(LOOKS):
        query = OrchestrationQuery(
            created_time_from=asked.created_from,
            created_time_to=asked.created_to,
            runtime_status=_RUNTIME[asked.status] if asked.status is not None else None,
            max_instance_count=asked.limit - len(found),
            fetch_inputs_and_outputs=True,
        )
        try:
            states, place = await page_of(client, query, place)
        except grpc.RpcError as error:
            if asked.continuation is not None and error.code() == grpc.StatusCode.INVALID_ARGUMENT:
                raise _bad_continuation() from None
            raise
        seen = await see_all(client, [state for state in states if state.name in WORKFLOWS])
        found += [each for each in await asyncio.gather(*map(show, seen)) if _fits(each, asked)]
        if place is None or len(found) >= asked.limit:
            break
    return _answer_list(found, _continuation(asked, place) if place is not None else None)


async def _answer_paused(
    client: DurableFunctionsClient, query: paused.PausedQuery, limit: int, continuation: str | None
) -> func.HttpResponse:
    try:
        found, following = await asyncio.to_thread(paused.page, get_record_store(), query, limit, continuation)
    except BadContinuation:
        raise _bad_continuation() from None
    return _answer_list(await with_pauses_before(client, found), following)


def _answer_list(found: list[Execution], continuation: str | None) -> func.HttpResponse:
    return answer({"executions": [plain(each) for each in found], "count": len(found), "continuation": continuation})


def _fits(execution: Execution, asked: ExecutionsQuery) -> bool:
    is_status = asked.status is None or execution.status == asked.status
    return is_status and asked.workflow in (None, execution.workflow, execution.workflow_id)


def _continuation(asked: ExecutionsQuery, place: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([_digest(asked), place]).encode()).decode().rstrip("=")


def _place(asked: ExecutionsQuery) -> str | None:
    """Where the task hub goes on with a list. Raises ``BadRequest`` for what continues another one."""
    if asked.continuation is None:
        return None
    try:
        padded = asked.continuation + "=" * (-len(asked.continuation) % 4)
        digest, place = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, TypeError, RecursionError):
        raise _bad_continuation() from None
    if digest != _digest(asked) or not isinstance(place, str):
        raise _bad_continuation()
    return place


def _digest(asked: ExecutionsQuery) -> str:
    return digest_of(asked.model_dump(mode="json", exclude={"limit", "continuation"}))[:16]


def _bad_continuation() -> BadRequest:
    return BadRequest("The parameter 'continuation' is not from a page of this list. Start again without it.")
