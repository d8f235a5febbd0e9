"""The time, for all that is no orchestrator."""

from collections.abc import Callable
from datetime import UTC, datetime

type Clock = Callable[[], datetime]


def system_clock() -> datetime:
    """The time of this machine, in UTC."""
    return datetime.now(UTC)


_clock: Clock = system_clock


def now() -> datetime:
    """The time, in UTC, of the clock that is set."""
    return _clock()


def set_clock(clock: Clock) -> None:
    """Take another clock, as tests do that move the time."""
    global _clock  # noqa: PLW0603  # there is one time
    _clock = clock
