"""Waiting for what happens by itself, without sleeping for a fixed time."""

import time
from collections.abc import Callable


def until[T](look: Callable[[], T | None], *, seconds: float = 15) -> T:
    """Call ``look`` until it gives something true, and give that. Raises ``AssertionError`` after ``seconds``."""
    give_up = time.monotonic() + seconds
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > give_up:
            raise AssertionError(f"not within {seconds} s; last seen: {seen!r}")
        time.sleep(0.01)
