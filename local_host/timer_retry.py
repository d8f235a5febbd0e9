"""Retry policies of timer functions; times are microseconds."""

import itertools
import random
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from local_host.errors import HostError

_SECOND = 1_000_000
_LONGEST_DELAY = 2_147_483_647 * _SECOND


@dataclass(frozen=True)
class Retry:
    """How often a function is tried again, -1 for ever, and how long after a failure: a growing time, in microseconds.

    The times are those of ``RandomizedExponentialBackoffStrategy`` of azure-webjobs-sdk.
    """

    most: int = 0
    least_delay: int = 0
    longest_delay: int = 0

    def delays(self) -> Iterator[int]:
        """Give the time to wait after each failure but the last."""
        return map(self._delay, range(self.most) if self.most >= 0 else itertools.count())

    def _delay(self, count: int) -> int:
        growth = random.uniform(0.8, 1.2) * 2 ** min(count - 1, 40) if count else 0  # noqa: S311
        return min(int(self.least_delay * (1 + growth)), self.longest_delay)


def retry_of(policy: Mapping[str, Any]) -> Retry:
    """Read a retry policy as Microsoft's Python worker reads it. Raises ``HostError``."""
    if not policy:
        return Retry()
    strategy, count = policy.get("strategy"), str(policy.get("max_retry_count"))
    if not re.fullmatch(r"-1|[0-9]{1,9}", count):
        raise HostError(f"the max_retry_count of its retry policy is '{count}', which is neither a number nor -1")
    if strategy == "fixed_delay":
        delay = _interval(policy, "delay_interval")
        return Retry(int(count), delay, delay)
    if strategy != "exponential_backoff":
        raise HostError(f"the strategy of its retry policy is '{strategy}', not fixed_delay or exponential_backoff")
    least = _interval(policy, "minimum_interval", 0)
    longest = _interval(policy, "maximum_interval", _LONGEST_DELAY)
    if least > longest:
        raise HostError("the minimum_interval of its retry policy is longer than the maximum_interval")
    return Retry(int(count), least, longest)


def _interval(policy: Mapping[str, Any], name: str, default: int | None = None) -> int:
    text = str(policy.get(name, ""))
    if not text and default is not None:
        return default
    try:
        parsed = time.strptime(text, "%H:%M:%S")
    except ValueError:
        raise HostError(f"the {name} of its retry policy is '{text}', not hh:mm:ss below 24 hours") from None
    return (parsed.tm_hour * 3600 + parsed.tm_min * 60 + parsed.tm_sec) * _SECOND
