"""What a long run carries over when it begins its history anew: all that it knows."""

from datetime import datetime
from typing import Annotated

from pydantic import Field, JsonValue

from contracts.approval import CastVote
from contracts.audit import Entry, RunStamp
from contracts.base import Contract
from contracts.human_step import Progress, Verdict
from contracts.people import Person
from contracts.records import Wait
from contracts.shown import Content

Moment = Annotated[datetime, Field(strict=False)]
"""A time of an orchestrator's clock: UTC without a zone, to the microsecond."""


class RecordState(Contract):
    """What ``orchestrators.run_record.RunRecord`` knows; all of it is on record.

    ``frozen`` is how long the clock of the run stood still, in seconds; ``pauses`` the number of the last pause that
    each instance told it of. Times in other parts of what is carried are those of the run's clock.
    """

    run: RunStamp
    progress: Progress
    last: Entry | None = None
    salt: str | None = None
    wait: Wait | None = None
    waits: int = 0
    set_aside: int = 0
    frozen: float = 0
    pauses: dict[str, int] = Field(default_factory=dict)
    resume_data: dict[str, JsonValue] | None = None


class SeatState(Contract):
    """A seat of ``orchestrators.ballot.Ballot``."""

    holder: Person
    before: Annotated[tuple[Person, ...], Field(strict=False)] = ()
    vote: CastVote | None = None


class BallotState(Contract):
    """What a ballot knows: its seats, the votes of those who have none, and how often each person voted."""

    seats: Annotated[tuple[SeatState, ...], Field(strict=False)] = ()
    anybody: dict[str, CastVote] = Field(default_factory=dict)
    cast: dict[str, int] = Field(default_factory=dict)


class DeskState(Contract):
    """What ``orchestrators.approval_desk.Desk`` knows."""

    record: RecordState
    deadline: Moment
    round: int
    content: Content
    mails: int
    mail_failed: Annotated[tuple[str, ...], Field(strict=False)] = ()
    refusals: dict[str, int] = Field(default_factory=dict)
    wrong_codes: dict[str, int] = Field(default_factory=dict)
    verdicts: dict[str, Verdict] = Field(default_factory=dict)


class ApprovalState(Contract):
    """What an approval knows while it waits for people."""

    desk: DeskState
    began: Moment
    turn_began: Moment
    stage: int
    level: int
    is_changing: bool
    ballot: BallotState
    votes: Annotated[tuple[CastVote, ...], Field(strict=False)] = ()
    last: CastVote | None = None
    reminders: int
    asides: int
