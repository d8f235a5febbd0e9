"""Ends the host's process by SIGKILL at a named step, for the tests of what survives that.

``KILL_AT`` names it: ``turn:before:2`` is the second turn's outcome, just before its commit. The moments are ``before``
and ``after`` the commit (whoever asked has no answer yet), and ``answered``.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from local_host.task_hub import activities, entities, instances, store, timers, turns

STEPS: dict[str, tuple[ModuleType, str]] = {
    "start": (instances, "start"),
    "event": (instances, "raise_event"),
    "terminate": (instances, "terminate"),
    "turn": (turns, "complete"),
    "continue": (turns, "_continue_as_new"),
    "activity": (activities, "complete"),
    "entity": (entities, "complete"),
    "timer": (timers, "fire"),
}

GRACE = 0.15
"""Seconds in which an answer that is given too early gets to the one who asked."""


def arm() -> None:
    """Prepare the end that the environment asks for."""
    step, moment, number = os.environ["KILL_AT"].split(":")
    point = _Point(moment, int(number))
    module, name = STEPS[step]
    setattr(module, name, point.watched(getattr(module, name)))
    point.install()


class _Point:
    def __init__(self, moment: str, number: int) -> None:
        self._moment = moment
        self._left = number
        self._reached = False

    def watched(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def watched(tx: store.Transaction, *arguments: Any, **more: Any) -> Any:
            changes = tx.db.total_changes
            result = real(tx, *arguments, **more)
            if tx.db.total_changes > changes:
                self._left -= 1
                self._reached = self._reached or self._left == 0
            return result

        return watched

    def install(self) -> None:
        transaction, post = store.Store._transaction, store.Store._post

        @contextmanager
        def watched_transaction(opened: store.Store, effects: store.Effects) -> Iterator[store.Transaction]:
            with transaction(opened, effects) as tx:
                yield tx
                self._end("before")

        def watched_post(opened: store.Store, *arguments: Any) -> None:
            self._end("after")
            post(opened, *arguments)
            self._end("answered")

        setattr(store.Store, transaction.__name__, watched_transaction)
        setattr(store.Store, post.__name__, watched_post)

    def _end(self, moment: str) -> None:
        if self._reached and self._moment == moment:
            time.sleep(GRACE)
            os.kill(os.getpid(), signal.SIGKILL)
