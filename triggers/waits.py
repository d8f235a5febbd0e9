"""HTTP of the open waits: who waits on whom since when."""

import asyncio
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import azure.functions as func
from azure.durable_functions import DurableFunctionsClient
from pydantic import AwareDatetime, Field, StringConstraints, WrapValidator
from pydantic_core import PydanticCustomError

from contracts.base import Contract, Name
from contracts.records import Wait
from errors import BadRequest
from services import clock, paused, waits
from services.record_store import get_record_store
from services.waits import LONGEST_CONTINUATION, BadContinuation, WaitQuery
from settings import get_settings
from triggers.web import answer, read_query

LONGEST_AGE = timedelta(days=3650)

_ISO_8601 = re.compile(r"P|\d{4}-")


def _age_or_time(given: str, read: Callable[[str], timedelta | datetime]) -> timedelta | datetime:
    if _ISO_8601.match(given):  # a bare number would be seconds since 1970, and no wait is older
        try:
            found = read(given)
            return found if isinstance(found, timedelta) else found.astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    raise PydanticCustomError(
        "age_or_time",
        "Give a duration of up to 3650 days, as P7D or PT12H, or a time with its zone, as 2026-01-31T12:00:00Z",
    )


Age = Annotated[timedelta, Field(strict=False, gt=timedelta(0), le=LONGEST_AGE)]
Time = Annotated[AwareDatetime, Field(strict=False)]
AgeOrTime = Annotated[Age | Time, WrapValidator(_age_or_time)]


class WaitsQuery(Contract):
    """The parameters of ``GET /api/waits``. ``older_than`` is a time, or a duration until now (ISO 8601)."""

    kind: Name | None = None
    person: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=254)] | None = None
    overdue: bool | None = None
    older_than: AgeOrTime | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 50
    continuation: Annotated[str, StringConstraints(max_length=LONGEST_CONTINUATION)] | None = None


async def list_waits(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:  # noqa: ARG001
    """``GET /api/waits``: a page of ``waits``, oldest first, and what continues the list.

    With ``overdue`` they are in the order of their deadlines. ``continuation`` is null on the last page. What is paused
    with its clock frozen is not overdue, whatever its deadline says: a page of those that are may be shorter for it.
    """
    asked = read_query(req, WaitsQuery)
    now = clock.now()
    older_than = now - asked.older_than if isinstance(asked.older_than, timedelta) else asked.older_than
    query = WaitQuery(asked.kind, asked.person, asked.overdue, older_than)
    try:
        found, continuation = await asyncio.to_thread(
            waits.page, get_record_store(), query, asked.limit, asked.continuation, now
        )
    except BadContinuation:
        raise BadRequest(
            "The parameter 'continuation' is not from a page of this list. Start again without it."
        ) from None
    held = await asyncio.to_thread(_held, found)
    frozen = [each for each in found if held.get(_holder(each)) == "freeze"]
    shown = [_shown(wait, now, held) for wait in found if not (asked.overdue and wait in frozen)]
    return answer({"waits": shown, "continuation": continuation})


def _held(found: Sequence[Wait]) -> dict[str, str | None]:
    """The runs that are paused by hand among those that wait, each with what its clock does meanwhile."""
    ids = list(dict.fromkeys(_holder(each) for each in found))
    return {name: each.clock for name, each in paused.by_hand(get_record_store(), ids).items()}


def _holder(wait: Wait) -> str:
    """The run whose pause holds what waits: itself, or the declared workflow that it is a step of."""
    return wait.at_step.instance_id if wait.at_step is not None else wait.instance_id


def _shown(wait: Wait, now: datetime, held: dict[str, str | None]) -> dict[str, Any]:
    shown = wait.plain()
    del shown["path"], shown["run"]
    is_frozen = held.get(_holder(wait)) == "freeze"  # its deadline moves when it goes on
    return {
        **shown,
        "overdue": wait.deadline is not None and wait.deadline <= now and not is_frozen,
        "paused": _holder(wait) in held,
        "waiting_seconds": max(0, int((now - wait.since).total_seconds())),
        "url": f"{get_settings().base_url}{wait.path}",
    }
