"""How a run is started: whether its id may be used again, when it begins, and how long it may take."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from contracts.base import Contract, DecisionId, Seconds, Timestamp, Who

IdReusePolicy = Literal[
    "ALLOW_IF_NO_RUNNING", "ALLOW_IF_PREVIOUS_EXITS_ABNORMALLY", "DISALLOW_REUSE", "ALLOW_TERMINATE_IF_RUNNING"
]
"""Whether an id that is in use may be used again: unless the run that has it is going on; only if that one failed or
was terminated; never; always, by ending that one first."""


def _as_written(value: Any) -> Any:
    """Refuse a number, which could be meant as a delay, and put back the ``+`` that an address writes as a blank."""
    if isinstance(value, str):
        if not re.match(r"\d{4}-\d\d-\d\d", value):
            raise ValueError("a time is ISO 8601 text such as 2030-01-31T09:00:00Z")
        return re.sub(r"(T[0-9:.]+) (\d\d:?\d\d)\Z", r"\1+\2", value)
    return value


def _in_utc(value: datetime) -> datetime:
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:
        raise ValueError("this time cannot be told in UTC") from None


class StartOptions(Contract):
    """The parameters in the address of every call that starts a run.

    ``executionTimeout`` is in seconds, or ISO 8601 text; a run that takes longer, from when it begins, fails.
    ``startAt`` is a time; without a zone it is UTC.
    """

    id_reuse_policy: Annotated[IdReusePolicy | None, Field(alias="idReusePolicy")] = None
    start_at: Annotated[
        Annotated[Timestamp, BeforeValidator(_as_written), AfterValidator(_in_utc)] | None, Field(alias="startAt")
    ] = None
    execution_timeout: Annotated[Seconds | None, Field(alias="executionTimeout")] = None


class Limited(Contract):
    """What the durable inputs of all workflows have: after so many seconds the run has taken too long, and who started
    it, by the name that the API knows them by; null where nobody was asked who they are."""

    execution_timeout: Seconds | None = None
    started_by: Who | None = None


class Keyed(Limited):
    """A durable input of a start that can be repeated: the ``Idempotency-Key`` that it came with."""

    idempotency_key: DecisionId | None = None
