"""The one helper that waits: what it leaves behind when the wait is over, which must be nothing."""

from collections.abc import Generator, Iterator
from datetime import timedelta
from typing import Any

import pytest
from durabletask import task
from durabletask.client import TaskHubGrpcClient
from durabletask.history import TimerCreatedEvent

from contracts.base import Contract
from orchestrators.human_step import event_or_deadline
from tests.orchestrators.engine import running_hub, running_worker


class Answer(Contract):
    """What the test waits for."""

    text: str


def _two_waits(ctx: task.OrchestrationContext, seconds: list[float]) -> Generator[task.Task[Any], Any, list[str]]:
    """Wait twice for the same event, with a deadline each."""
    said: list[str] = []
    for each in seconds:
        deadline = ctx.current_utc_datetime + timedelta(seconds=each)
        answer = yield from event_or_deadline(ctx, "answer", Answer, deadline, said.append)
        said.append(answer.text if answer is not None else "(deadline)")
    return said


def _three_waits_then_a_timer(ctx: task.OrchestrationContext, _: None) -> Generator[task.Task[Any], Any, list[str]]:
    """Answered at once each time, then a timer of its own that no other timer may end."""
    said = yield from _two_waits(ctx, [0.2, 0.2, 0.2])
    began = ctx.current_utc_datetime
    yield ctx.create_timer(timedelta(seconds=0.6))
    said.append("early" if ctx.current_utc_datetime - began < timedelta(seconds=0.55) else "on time")
    return said


# durabletask's types cannot infer the output of a generator that is given as an orchestrator.
two_waits: Any = _two_waits
three_waits_then_a_timer: Any = _three_waits_then_a_timer


@pytest.fixture(scope="module")
def client() -> Iterator[TaskHubGrpcClient]:
    """A client of an engine that runs the two orchestrators above."""
    with (
        running_hub() as address,
        running_worker(address, [two_waits, three_waits_then_a_timer]),
        TaskHubGrpcClient(host_address=address) as client,
    ):
        yield client


def outcome(client: TaskHubGrpcClient, instance_id: str) -> list[str]:
    """What the orchestrator returned."""
    state = client.wait_for_orchestration_completion(instance_id, timeout=20)
    assert state is not None
    assert state.runtime_status.name == "COMPLETED", state.failure_details
    said: list[str] = state.get_output()
    return said


def test_a_wait_that_timed_out_does_not_swallow_the_next_event(client: TaskHubGrpcClient) -> None:
    instance = client.schedule_new_orchestration(two_waits, input=[0.2, 30])
    client.wait_for_orchestration_start(instance, timeout=10)
    with pytest.raises(TimeoutError):
        client.wait_for_orchestration_completion(instance, timeout=0.6)
    client.raise_orchestration_event(instance, "answer", data={"text": "second"})
    assert outcome(client, instance) == ["(deadline)", "second"]


def test_events_in_a_row_are_taken_one_by_one_in_their_order(client: TaskHubGrpcClient) -> None:
    instance = client.schedule_new_orchestration(two_waits, input=[30, 30])
    for text in ("first", "second", "third"):
        client.raise_orchestration_event(instance, "answer", data={"text": text})
    assert outcome(client, instance) == ["first", "second"]


def test_timers_of_answered_waits_do_not_fire_into_later_steps(client: TaskHubGrpcClient) -> None:
    instance = client.schedule_new_orchestration(three_waits_then_a_timer)
    for text in "abc":
        client.raise_orchestration_event(instance, "answer", data={"text": text})
    assert outcome(client, instance) == ["a", "b", "c", "on time"]


def test_events_that_are_there_before_the_first_turn_leave_no_timer_in_the_hub() -> None:
    with running_hub() as address, TaskHubGrpcClient(host_address=address) as client:
        instance = client.schedule_new_orchestration("_two_waits", input=[3000, 3000])
        for text in "ab":
            client.raise_orchestration_event(instance, "answer", data={"text": text})
        with running_worker(address, [two_waits]):
            assert outcome(client, instance) == ["a", "b"]
        assert not any(isinstance(event, TimerCreatedEvent) for event in client.get_orchestration_history(instance))


@pytest.mark.parametrize("seconds", [0, -5])
def test_a_deadline_that_has_passed_ends_the_wait_unless_the_event_is_there(
    client: TaskHubGrpcClient, seconds: float
) -> None:
    instance = client.schedule_new_orchestration(two_waits, input=[seconds, seconds])
    assert outcome(client, instance) == ["(deadline)", "(deadline)"]


def test_malformed_events_do_not_end_the_wait_and_are_told_of_each(client: TaskHubGrpcClient) -> None:
    instance = client.schedule_new_orchestration(two_waits, input=[30])
    for payload in ({}, {"text": 1}, None, {"text": "good"}):
        client.raise_orchestration_event(instance, "answer", data=payload)
    said = outcome(client, instance)
    assert said[-1] == "good"
    assert [sentence.startswith("An event 'answer' was set aside: its") for sentence in said[:-1]] == [True] * 3
