"""A rate limit: what is asked of the entity that keeps it, what it answers, and what it remembers."""

from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Annotated, Any, Final

from pydantic import Field, StringConstraints, ValidationError

from contracts.base import Contract, Timestamp

RATE_LIMIT: Final = "rate_limit"
"""The name of the entity. Its keys are what is limited."""
MAX_REFUSED = 100
"""How many of those that were refused are remembered, the newest."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)

Milliseconds = Annotated[int, Field(description="since 1970, or of a duration; whole ones, so that sums are exact")]


class RateTake(Contract):
    """The input of the operation ``take`` of the entity ``rate_limit``: one more, at a time, if the rate allows it.

    ``limit`` are those in any ``seconds``, which are the same for a key each time: what is older is forgotten. ``id``
    makes a repetition known, and finds the answer.
    """

    id: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    at: Timestamp
    limit: Annotated[int, Field(ge=1, le=1_000)]
    seconds: Annotated[float, Field(gt=0, le=7 * 86_400)]

    @property
    def moment(self) -> Milliseconds:
        """When; a time without a zone is UTC."""
        return ((self.at if self.at.tzinfo else self.at.replace(tzinfo=UTC)) - _EPOCH) // _MILLISECOND

    @property
    def window(self) -> Milliseconds:
        """How long it counts."""
        return ceil(self.seconds * 1000)


class RateForget(Contract):
    """The input of the operation ``forget``: what is older than ``window`` at a time is forgotten."""

    at: Milliseconds
    window: Milliseconds

    @property
    def due(self) -> datetime:
        """The time as such."""
        return _EPOCH + self.at * _MILLISECOND


class RateAnswer(Contract):
    """What ``take`` gives: whether it was taken; if not, after how many seconds one may be."""

    taken: bool
    retry_after: float = 0.0


class RateEntry(Contract):
    """What was asked for: taken, or refused if there is a ``retry_after``."""

    id: str
    at: Milliseconds
    retry_after: float | None = None

    @property
    def answer(self) -> RateAnswer:
        """The answer to it, whenever it is asked for again."""
        return RateAnswer(taken=self.retry_after is None, retry_after=self.retry_after or 0.0)


class RateState(Contract):
    """The state of a ``rate_limit``: what was asked for, in its order, and when ``forget`` comes that is under way.

    The times are those of several clocks, so that they may go backwards. What is further than a window from a ``take``,
    on either side, does not count: a clock was wrong, and nobody is locked out for that.
    """

    entries: list[RateEntry] = Field(default_factory=list)
    forget_at: Milliseconds | None = None

    @classmethod
    def read(cls, state: Any) -> "RateState":
        """Return what the state of an entity holds: nothing if there is none, or it is of another version."""
        try:
            return cls.model_validate(state or {})
        except ValidationError:
            return cls()

    def within(self, asked: RateTake) -> list[RateEntry]:
        """The entries that count when one more is asked for."""
        return [entry for entry in self.entries if abs(asked.moment - entry.at) < asked.window]

    def answer(self, asked: RateTake) -> RateAnswer | None:
        """Return what the answer was, or has to be because so many are taken; None where one more can be taken."""
        entries = self.within(asked)
        known = next((entry.answer for entry in entries if entry.id == asked.id), None)
        taken = sorted(entry.at for entry in entries if entry.retry_after is None)
        if known is not None or len(taken) < asked.limit:
            return known
        wait = taken[-asked.limit] + asked.window - asked.moment
        return RateAnswer(taken=False, retry_after=min(wait, asked.window) / 1000)
