"""How long a run has to hear that it is paused, before it is suspended."""

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any, cast

import pytest
from azure.durable_functions import DurableFunctionsClient
from durabletask.client import OrchestrationState, OrchestrationStatus

from services import pausing


class Hub:
    """A hub in which a run is something else each time that it is looked at, and stays what it was last."""

    def __init__(self, *seen: tuple[OrchestrationStatus, Any] | None) -> None:
        self._seen = list(seen)
        self.looks = 0

    async def get_orchestration_state(self, name: str) -> OrchestrationState | None:
        """What it is now."""
        found = self._seen[min(self.looks, len(self._seen) - 1)]
        self.looks += 1
        if found is None:
            return None
        state = OrchestrationState.__new__(OrchestrationState)
        for field, value in (("instance_id", name), ("runtime_status", found[0])):
            object.__setattr__(state, field, value)
        object.__setattr__(state, "serialized_custom_status", json.dumps(found[1]) if found[1] is not None else None)
        return state


def running(
    number: int | None, *, stored: int | None = 1, entries: int = 1, paused: bool = True
) -> tuple[OrchestrationStatus, Any]:
    """A run that says that it is paused for the so manieth time, and how much of its trail is stored."""
    status: dict[str, Any] = {"phase": "calling"}
    if number is not None:
        at = "2026-03-01T12:00:00Z"
        status["pause"] = {"number": number, "paused": paused, "by": "Ann", "at": at}
    if stored is not None:
        status["trail"] = {"run": "20260301T110000000000Z", "entries": entries, "stored": stored, "head": "0" * 64}
    return OrchestrationStatus.RUNNING, status


def looks(
    until: Callable[[DurableFunctionsClient, Callable[[float], Any]], Any],
    *seen: tuple[OrchestrationStatus, Any] | None,
) -> tuple[int, float]:
    """How often a run was looked at, and for how many seconds."""
    hub, slept = Hub(*seen), [0.0]

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(0)

    asyncio.run(until(cast("DurableFunctionsClient", hub), sleep))
    return hub.looks, sum(slept)


def _until_heard(client: DurableFunctionsClient, sleep: Callable[[float], Any]) -> Any:
    return pausing._until_heard(client, "a", 2, sleep)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ([running(2)], 1),
        ([running(None), running(1), running(2)], 3),
        ([running(2, stored=1, entries=2), running(2, stored=1, entries=3), running(2, stored=3, entries=3)], 3),
        ([running(2, stored=None)], 1),  # it was begun before there were records
        ([(OrchestrationStatus.PENDING, None)], 1),
        ([running(1), (OrchestrationStatus.COMPLETED, None)], 2),
        ([running(1), (OrchestrationStatus.SUSPENDED, running(1)[1])], 2),
        ([running(1), None], 2),
    ],
)
def test_a_run_is_waited_for_until_its_pause_is_on_record(
    seen: list[Any], expected: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert looks(_until_heard, *seen)[0] == expected
    assert caplog.records == []


@pytest.mark.parametrize("seen", [running(1), running(2, stored=1, entries=2), (OrchestrationStatus.RUNNING, "x")])
def test_a_run_that_takes_too_long_is_not_waited_for(seen: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        _, seconds = looks(_until_heard, seen)
    assert pausing.PATIENCE <= seconds < pausing.PATIENCE + 0.1
    assert len(caplog.records) == 1
