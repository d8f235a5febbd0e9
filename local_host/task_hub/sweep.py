"""Emptying the log of the hub's file, so that what was deleted stands in no file any more."""

import logging
import sqlite3
from time import monotonic

WITHIN = 1.0
"""Seconds for which what was deleted may stand in the log still: until then, more may be deleted."""

_LOGGER = logging.getLogger("local_host.task_hub")


class Sweeper:
    """Brings the log into the file and cuts it off, a little after something was deleted; on the writer's thread.

    It has a connection of its own, which waits for nobody: while somebody reads what was there before, the log cannot
    be cut off, and it is tried again. The first time is at the start, since a crash may have come before it.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA busy_timeout = 0")
        self._connection = connection
        self._due: float | None = monotonic()

    def note(self) -> None:
        """Hear that something was deleted."""
        if self._due is None:
            self._due = monotonic() + WITHIN

    @property
    def rest(self) -> float | None:
        """Seconds until there is something to do; None when there is nothing."""
        return max(0.0, self._due - monotonic()) if self._due is not None else None

    def sweep(self) -> None:
        """Empty the log, if something was deleted since the last time."""
        if self._due is None:
            return
        try:
            is_left = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        except sqlite3.Error as error:
            _LOGGER.warning("The log of the task hub's file could not be emptied, which is tried again: %s", error)
            is_left = True
        self._due = monotonic() + WITHIN if is_left else None
