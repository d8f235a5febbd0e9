"""The one helper that waits: what it leaves behind when the wait is over, which must be nothing."""

from collections.abc import Generator, Iterator
from datetime import timedelta
from typing import Any

import pytest
from durabletask import task
from durabletask.client import OrchestrationStatus

from contracts.base import Contract
from orchestrators.human_step import Inbox, event_or_deadline
from tests.orchestrators.engine import HubControl, running_hub, running_worker


class Answer(Contract):
    """What the test waits for."""

    text: str


def _two_waits(ctx: task.OrchestrationContext, seconds: list[float]) -> Generator[task.Task[Any], Any, list[str]]:
    """Wait twice for the same event, with a deadline each."""
    said: list[str] = []

    def say(what: str) -> Generator[task.Task[Any], Any]:
        said.append(what)
        yield from ()

    for each in seconds:
        deadline = ctx.current_utc_datetime + timedelta(seconds=each)
        answer = yield from event_or_deadline(ctx, "answer", Answer, deadline, say)
        said.append(answer.text if answer is not None else "(deadline)")
    return said


def _three_waits_then_a_timer(ctx: task.OrchestrationContext, _: None) -> Generator[task.Task[Any], Any, list[str]]:
    """Answered at once each time, then a timer of its own that no other timer may end."""
    said = yield from _two_waits(ctx, [20, 20, 20])
    began = ctx.current_utc_datetime
    yield ctx.create_timer(timedelta(seconds=60))
    said.append("early" if ctx.current_utc_datetime - began < timedelta(seconds=60) else "on time")
    return said


def _listening(ctx: task.OrchestrationContext, _: None) -> Generator[task.Task[Any], Any, list[str]]:
    """Stands still for a minute, and then takes six events of two names."""
    said: list[str] = []

    def say(what: str) -> Generator[task.Task[Any], Any]:
        said.append(what)
        yield from ()

    inbox = Inbox(ctx, {"one": Answer, "other": Answer}, say, in_order=True, listens_on=True)
    yield ctx.create_timer(timedelta(seconds=60))
    while len(said) < 6:
        arrived = yield from inbox.next(None)
        said.append(arrived.text if isinstance(arrived, Answer) else "?")
    inbox.close()
    return said


# durabletask's types cannot infer the output of a generator that is given as an orchestrator.
two_waits: Any = _two_waits
three_waits_then_a_timer: Any = _three_waits_then_a_timer
listening: Any = _listening


@pytest.fixture(scope="module")
def hub() -> Iterator[HubControl]:
    """A hub with durabletask's own worker, which runs the orchestrators above."""
    with running_hub() as hub, running_worker(hub, [two_waits, three_waits_then_a_timer, listening]):
        yield hub


def test_a_wait_that_timed_out_does_not_swallow_the_next_event(hub: HubControl) -> None:
    instance = hub.start("_two_waits", [20, 3000])
    hub.advance(timedelta(seconds=20))
    hub.event(instance, "answer", {"text": "second"})
    assert hub.output(instance) == ["(deadline)", "second"]


def test_events_in_a_row_are_taken_one_by_one_in_their_order(hub: HubControl) -> None:
    instance = hub.start("_two_waits", [30, 30])
    for text in ("first", "second"):
        hub.event(instance, "answer", {"text": text})
    assert hub.output(instance) == ["first", "second"]


def test_timers_of_answered_waits_do_not_fire_into_later_steps(hub: HubControl) -> None:
    instance = hub.start("_three_waits_then_a_timer")
    for text in "abc":
        hub.event(instance, "answer", {"text": text})
    hub.advance(timedelta(seconds=59))
    assert hub.state(instance).runtime_status is OrchestrationStatus.RUNNING
    hub.advance(timedelta(seconds=1))
    assert hub.output(instance) == ["a", "b", "c", "on time"]


def test_events_that_are_there_before_the_first_turn_leave_no_timer_in_the_hub() -> None:
    with running_hub() as hub:
        instance = hub.start("_two_waits", [3000, 3000])
        for text in "ab":
            hub.event(instance, "answer", {"text": text})
        with running_worker(hub, [two_waits]):
            hub.client.wait_for_orchestration_completion(instance, timeout=20)
            assert hub.output(instance) == ["a", "b"]
        assert not any(event.HasField("timerCreated") for event in hub.history(instance))


@pytest.mark.parametrize("names", [("one", "one", "other", "one", "other", "one"), ("other",) * 5 + ("one",)])
@pytest.mark.parametrize("still", [True, False])
def test_events_of_several_names_are_taken_as_they_came(
    hub: HubControl, names: tuple[str, ...], *, still: bool
) -> None:
    instance = hub.start("_listening")
    if not still:
        hub.advance(timedelta(seconds=60))
    for number, name in enumerate(names):
        hub.event(instance, name, {"text": f"{number}"})
    if still:
        hub.advance(timedelta(seconds=60))
    assert hub.output(instance) == ["0", "1", "2", "3", "4", "5"]


@pytest.mark.parametrize("seconds", [0, -5])
def test_a_deadline_that_has_passed_ends_the_wait(hub: HubControl, seconds: float) -> None:
    assert hub.output(hub.start("_two_waits", [seconds, seconds])) == ["(deadline)", "(deadline)"]


def test_malformed_events_do_not_end_the_wait_and_are_told_of_each(hub: HubControl) -> None:
    instance = hub.start("_two_waits", [30])
    for payload in ({}, {"text": 1}, None, {"text": "good"}):
        hub.event(instance, "answer", payload)
    said = hub.output(instance)
    assert said[-1] == "good"
    assert [sentence.startswith("An event 'answer' was set aside: its") for sentence in said[:-1]] == [True] * 3
