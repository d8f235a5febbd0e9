"""How long to wait before the next attempt of a call."""

import hashlib

from contracts.guarded_call import Answer, Retry

MAX_RETRY_AFTER = 86_400.0
"""Seconds: whoever wants to be left alone for longer than a day has to be asked about by a person."""
WORTH_IT = ("unreachable", "timeout", "unreadable", "internal")
"""Problems that may go away by themselves."""


def wait_after(retry: Retry, number: int, answer: Answer, seed: str) -> float | None:
    """Return the seconds until the attempt after the ``number``-th of a group, or None where there is none.

    ``seed`` makes the jitter: the same for the same text, so that a replay waits as long.
    """
    if number >= retry.attempts or not _is_worth_it(retry, answer):
        return None
    asked_for = answer.retry_after or 0.0
    if asked_for > MAX_RETRY_AFTER:
        return None
    # Not the whole power at once, which could be more than a float holds.
    wait = retry.first_interval
    for _ in range(number - 1):
        wait = min(wait * retry.factor, retry.max_interval)
    wait = min(wait, retry.max_interval)
    drawn = int.from_bytes(hashlib.sha256(seed.encode(errors="surrogatepass")).digest()[:8]) / 2**64
    return max(wait * (1 + retry.jitter * (2 * drawn - 1)), asked_for)


def _is_worth_it(retry: Retry, answer: Answer) -> bool:
    if answer.problem == "status":
        return not retry.gives_up_on(answer.status or 0)
    return answer.problem in WORTH_IT
