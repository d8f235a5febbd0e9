"""Executions: what is asked of any run over the API, and what it shows."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from contracts.base import Comment, Contract, Hours, Name, Timestamp
from contracts.pause import PauseClock, Reason, ResumeData

OnMaxPause = Literal["resume", "cancel", "escalate"]
"""What happens to a run that has been paused for too long."""
LEAST_MAX_PAUSE = 1 / 60
"""Hours that the longest time of a pause has at least."""
Status = Literal["running", "paused", "pending", "completed", "failed", "cancelled"]


def _a_minute(value: float) -> float:
    if value < LEAST_MAX_PAUSE:
        raise ValueError("a pause may take a minute at least: PT1M")
    return value


class PauseBody(Contract):
    """The body of ``POST /api/v1/executions/{id}/pause``. ``max_pause`` is a duration; a number is of hours."""

    reason: Reason
    clock: PauseClock = "freeze"
    max_pause: Annotated[Hours, AfterValidator(_a_minute)] | None = None
    on_max_pause: OnMaxPause | None = None


class ResumeBody(Contract):
    """The body of ``POST /api/v1/executions/{id}/resume``. ``step_id`` is the step that the caller has seen it at."""

    resume_data: ResumeData | None = None
    step_id: Name | None = None


class CancelBody(Contract):
    """The body of ``POST /api/v1/executions/{id}/cancel``."""

    reason: Annotated[Comment, StringConstraints(max_length=255)] | None = None


def _with_zone(value: datetime) -> datetime:
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value


Moment = Annotated[Timestamp, AfterValidator(_with_zone)]
"""A time; one without a zone, as the task hub gives, is UTC."""
Continuation = Annotated[str, StringConstraints(max_length=4000)]


def _as_written(value: Any) -> Any:
    """Refuse a number, which would be seconds since 1970, and put back the ``+`` that an address writes as a blank."""
    if not isinstance(value, str):
        return value
    if not re.match(r"\d{4}-\d\d-\d\d", value):
        raise ValueError("a time is ISO 8601 text such as 2030-01-31T09:00:00Z")
    return re.sub(r"(T[0-9:.]+) (\d\d:?\d\d)\Z", r"\1+\2", value)


def _tellable(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("this time cannot be told in UTC") from None


Queried = Annotated[Moment, BeforeValidator(_as_written), AfterValidator(_tellable)]
"""A time in an address; without a zone it is UTC."""


class PausedQuery(Contract):
    """The parameters of ``GET /api/v1/executions/paused``."""

    limit: Annotated[int, Field(ge=1, le=100)] = 50
    continuation: Continuation | None = None


class ExecutionsQuery(PausedQuery):
    """The parameters of ``GET /api/v1/executions``. ``from`` and ``to`` are of when a run was created."""

    status: Status | None = None
    workflow: Name | None = None
    created_from: Annotated[Queried | None, Field(alias="from")] = None
    created_to: Annotated[Queried | None, Field(alias="to")] = None


class Execution(Contract):
    """A run, as the API shows it.

    ``id`` and ``execution_id`` are the instance id, ``workflow_id`` is the workflow that it is a run of; a declared one
    has its own name, and ``workflow`` that of the orchestrator. What begins with ``paused_``, ``clock`` and what is
    about ``max_pause`` is of the pause under way, or null. ``resume_data`` is all that it was resumed with, merged.
    ``path`` is where in the app people find it.
    """

    id: str
    workflow_id: str
    execution_id: str
    status: Status
    paused_at: Timestamp | None = None
    paused_reason: str | None = None
    paused_step_id: str | None = None
    next_step_id: str | None = None
    resume_data: dict[str, Any] | None = None
    resume_count: int = 0
    last_resumed_at: Timestamp | None = None
    paused_by: str | None = None
    pause_count: int = 0
    clock: PauseClock | None = None
    max_pause_at: Timestamp | None = None
    on_max_pause: OnMaxPause | None = None
    resumed_by: str | None = None
    workflow: str
    created_at: Moment | None = None
    path: str
