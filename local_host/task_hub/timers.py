"""Timers: rows that fire when they are due, and the one task that waits for the earliest."""

import asyncio
import logging

from local_host.task_hub import entities
from local_host.task_hub.clock import Clock
from local_host.task_hub.records import OPERATION, TIMER
from local_host.task_hub.store import Store, Transaction

MOST_AT_ONCE = 500
"""Timers that one commit fires."""

PAUSE_AFTER_ERROR = 1.0
"""Seconds."""

_LOGGER = logging.getLogger("local_host.task_hub")


def fire(tx: Transaction) -> int | None:
    """Fire the timers that are due, in the order of their times; gives when the next one is due."""
    due = tx.all(
        "SELECT id, kind, target, sender, event FROM timers WHERE due <= ? ORDER BY due, id LIMIT ?",
        tx.now,
        MOST_AT_ONCE,
    )
    for _, kind, target, sender, event in due:
        if kind == OPERATION:
            entities.deliver(tx, target, sender, event)
            continue
        if kind == TIMER:
            tx.run("INSERT INTO messages (instance, of_execution, event) VALUES (?, 1, ?)", target, event)
        tx.effects.turns[target] = None
    tx.db.executemany("DELETE FROM timers WHERE id = ?", [(each[0],) for each in due])
    next_due: int | None = tx.one("SELECT min(due) FROM timers")[0]
    return next_due


class TimerLoop:
    """Sleeps until the earliest timer is due, and fires it. ``note`` tells it of new ones."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self.earliest: int | None = store.reader.execute("SELECT min(due) FROM timers").fetchone()[0]
        self._noted = asyncio.Event()

    def note(self, due: int | None) -> None:
        """Hear of a new timer."""
        if due is not None and (self.earliest is None or due < self.earliest):
            self.earliest = due
            self._noted.set()

    def is_due(self) -> bool:
        """Whether a timer is due that has not fired."""
        return self.earliest is not None and self.earliest <= self._clock.now()

    async def run(self) -> None:
        """Fire timers until cancelled."""
        while True:
            if self.earliest is None:
                await self._noted.wait()
            elif self.is_due():
                await self._fire()
                continue
            else:
                await self._sleep(self.earliest)
            self._noted.clear()

    async def _sleep(self, due: int) -> None:
        """Sleep until ``due``, or until an earlier timer is noted."""
        waiting = [
            asyncio.ensure_future(self._clock.sleep_until(due)),
            asyncio.ensure_future(self._noted.wait()),
        ]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()

    async def _fire(self) -> None:
        before, self.earliest = self.earliest, None
        try:
            self.note(await self._store.execute(fire))
        except Exception as error:  # noqa: BLE001  # whatever it is, without this task no timer would ever fire again
            _LOGGER.error("Timers could not fire, and will be tried again: %s", error)  # noqa: TRY400
            self.earliest = before
            await asyncio.sleep(PAUSE_AFTER_ERROR)
