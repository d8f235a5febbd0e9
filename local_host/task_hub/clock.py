"""The hub's clock: an argument, so that a test can move a year in a second."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

LONGEST_SLEEP = 1.0
"""Seconds. After this long the clock is read again, since it may have been set while somebody slept."""

SHORTEST_SLEEP = 0.001
"""Seconds. A clock that stands still is not read more often than this."""


class Clock(Protocol):
    """Tells the time in microseconds since 1970 (UTC), and sleeps until a time."""

    def now(self) -> int:
        """The time."""
        ...

    async def sleep_until(self, due: int) -> None:
        """Return when ``due`` has come, or a little before it when the clock should be read again."""
        ...


class SystemClock:
    """The clock of the machine, which may be set forwards and backwards at any moment."""

    def now(self) -> int:
        """The time of the machine."""
        return time.time_ns() // 1000

    async def sleep_until(self, due: int) -> None:
        """Sleep until ``due``, but never for longer than ``LONGEST_SLEEP``."""
        await asyncio.sleep(min(max((due - self.now()) / 1_000_000, SHORTEST_SLEEP), LONGEST_SLEEP))


class ManualClock:
    """A clock that stands still until it is moved. ``set`` it from the loop that the hub runs on."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._now = microseconds(start)
        self._moved = asyncio.Event()

    def now(self) -> int:
        """The time that was set."""
        return self._now

    def set(self, now: int) -> None:
        """Set the time, in microseconds; those who sleep look again."""
        self._now = now
        self._moved.set()
        self._moved = asyncio.Event()

    async def sleep_until(self, due: int) -> None:
        """Sleep until the clock is moved, unless ``due`` has come."""
        if self._now < due:
            await self._moved.wait()


def microseconds(time: datetime) -> int:
    """Microseconds since 1970 of a time; a naive one is UTC."""
    aware = time.replace(tzinfo=UTC) if time.tzinfo is None else time
    return (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
