"""Snapshots: what is read from elsewhere and kept for a while, so that nobody can make the app read it all the time."""

import asyncio
from collections.abc import Callable
from time import monotonic


class Snapshot[Value]:
    """What ``read`` gives, which is called on a thread, by one at a time, and again no sooner than ``rest`` seconds
    after it failed.
    """

    def __init__(self, read: Callable[[], Value], *, rest: float) -> None:
        self._read = read
        self._rest = rest
        self._value: tuple[float, Value] | None = None
        self._failure: tuple[float, Exception] | None = None
        self._reading: asyncio.Task[None] | None = None

    async def get(self, max_age: float, *, keep: float = 0) -> Value:
        """Return the value, which was read ``max_age`` seconds ago at most, or ``keep`` where it cannot be read now.

        Raises what ``read`` raises.
        """
        if self._value is not None and self._is_younger(self._value[0], max_age):
            return self._value[1]
        if self._failure is None or not self._is_younger(self._failure[0], self._rest):
            if self._reading is None or self._reading.done():
                self._reading = asyncio.ensure_future(asyncio.to_thread(self._try))
            await asyncio.shield(self._reading)  # others wait for it too
        if self._value is not None and (self._failure is None or self._is_younger(self._value[0], keep)):
            return self._value[1]
        assert self._failure is not None
        raise self._failure[1].with_traceback(None)  # raised again and again, it would grow

    def _is_younger(self, moment: float, age: float) -> bool:
        return monotonic() - moment < age

    def _try(self) -> None:
        began = monotonic()
        try:
            self._value = (began, self._read())
        except Exception as error:  # noqa: BLE001  # for those who wait, each of whom is told
            self._failure = (monotonic(), error)
        else:
            self._failure = None
