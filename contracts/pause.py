"""Pausing: what a run is told when it is paused, and when it goes on."""

import json
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, JsonValue, StringConstraints

from contracts.audit import Channel
from contracts.base import Contract, Timestamp, Who
from contracts.form import json_text

PAUSING = "pausing"
"""The event that tells a run to stand still, or to go on."""
MAX_REASON = 255
MAX_RESUME_DATA = 16_000
"""Characters of its JSON that the data of a resume have at most; so have all of them together in one run."""

PauseClock = Literal["freeze", "run"]
"""What becomes of the times of a run while it is paused: all move by the length of the pause, or none does."""


def _can_be_kept(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    json_text(value)  # it stands in a status, in the records, and in what activities get
    if len(json.dumps(value)) > MAX_RESUME_DATA:
        raise ValueError(f"the data of a resume have at most {MAX_RESUME_DATA:,} characters of JSON")
    return value


Reason = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_REASON, pattern=r"\A[^\x00]*\z"),
    Field(description="why, in up to 255 characters"),
]
ResumeData = Annotated[dict[Annotated[str, StringConstraints(max_length=100)], JsonValue], AfterValidator(_can_be_kept)]


def _in_utc(value: datetime) -> datetime:
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:
        raise ValueError("no clock tells this time") from None


class PauseEvent(Contract):
    """The event ``pausing``: a pause of a run begins, or ends.

    ``source`` is the instance that was paused, which may be the one that this run was called by; ``number`` counts the
    pauses of that instance from 1. What comes twice is known by both. ``at`` is when the pause began or ended, and
    ``clock`` says, in both, what becomes of the run's times. ``data`` are handed to the run that goes on.
    """

    action: Literal["pause", "resume"]
    source: Annotated[str, StringConstraints(min_length=1, max_length=1000)]
    number: Annotated[int, Field(ge=1, le=1_000_000)]
    at: Annotated[Timestamp, AfterValidator(_in_utc)]
    by: Who
    reason: Reason | None = None
    clock: PauseClock = "freeze"
    data: ResumeData | None = None
    channel: Channel = "api"
