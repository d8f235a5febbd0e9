"""What comes in while a run is paused is taken in the order in which it came, whatever it is: a model says which."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from durabletask import task
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from contracts.base import Contract
from orchestrators.human_step import Inbox
from orchestrators.pausable import MAX_SOURCES, pausable
from orchestrators.run_clock import run_clock
from orchestrators.run_record import RunRecord
from tests.orchestrators.engine import HubControl, running_hub, running_worker

EVERY = 10
"""Minutes of the run's time between two ticks."""


class Said(Contract):
    """What comes in."""

    what: str


def _listening(ctx: task.OrchestrationContext, given: dict[str, Any]) -> Generator[task.Task[Any], Any]:
    """Say what comes, and when ten minutes have passed; after each it stands still, as a run does that stores it."""
    got: list[str] = []
    record, clock = RunRecord(ctx), run_clock(ctx)
    clock.on_resume = lambda data: got.append(f"data {data['n']}")

    def say(_: str) -> Generator[task.Task[Any], Any]:
        got.append("malformed")
        yield from ()

    names = dict.fromkeys(("a", "b", "c"), Said)
    inbox = Inbox(ctx, names, say, in_order=given["in_order"], listens_on=given["listens_on"])
    until = clock.now + timedelta(minutes=EVERY)
    while True:
        arrived = yield from inbox.next(until)
        if arrived is None:
            assert clock.now >= until
            until += timedelta(minutes=EVERY)
        got.append(arrived.what if isinstance(arrived, Said) else "tick")
        record.data({"got": list(got)})
        yield ctx.create_timer(ctx.current_utc_datetime)


listening = pausable(_listening)


@pytest.fixture(scope="module")
def hub() -> Iterator[HubControl]:
    """A hub with durabletask's own worker, which runs the orchestrator above."""
    with running_hub() as hub, running_worker(hub, [listening]):
        yield hub


@dataclass
class Model:
    """What the run has to say it got: ``queue`` is what came while it is paused."""

    now: int = 0
    frozen: int = 0
    tick: int | None = EVERY
    paused: tuple[str, int] | None = None
    pauses: int = 0
    queue: list[str] = field(default_factory=list)
    got: list[str] = field(default_factory=list)

    def come(self, what: str) -> None:
        """Take something, or keep it."""
        if self.paused is not None:
            self.queue.append(what)
            return
        self.got.append(what)
        if what == "tick":
            assert self.tick is not None
            self.tick += EVERY

    def pass_time(self, minutes: int) -> None:
        """Let time pass, with its ticks; one that is due while the run is paused comes once."""
        end = self.now + minutes
        while not (self.paused is not None and (self.paused[0] == "freeze" or "tick" in self.queue)):
            assert self.tick is not None
            if self.tick + self.frozen > end:
                break
            self.now = max(self.now, self.tick + self.frozen)
            self.come("tick")
        self.now = end

    def resume(self) -> None:
        """Go on, with all that came."""
        assert self.paused is not None
        clock, since = self.paused
        self.paused = None
        if clock == "freeze":
            self.frozen += self.now - since
        queue, self.queue = self.queue, []
        for each in queue:
            self.come(each)
        self.pass_time(0)


class Run:
    """A run beside its model."""

    def __init__(self, hub: HubControl, **given: bool) -> None:
        self._hub, self._model = hub, Model()
        self._instance = hub.start("_listening", given)
        hub.settle()

    def come(self, name: str, what: str) -> None:
        """Raise an event."""
        self._hub.event(self._instance, name, {"what": what})
        self._model.come(what)

    def pass_time(self, minutes: int) -> None:
        """Move the clock."""
        self._hub.advance(timedelta(minutes=minutes))
        self._model.pass_time(minutes)

    def pause(self, clock: str, *, natively: bool) -> None:
        """Pause it, unless it is."""
        model = self._model
        if model.paused is not None:
            return
        model.pauses += 1
        model.paused = (clock, model.now)
        self._tell("pause", clock)
        self._hub.settle()
        if natively:
            self._hub.client.suspend_orchestration(self._instance)

    def resume(self, *, data: bool) -> None:
        """Resume it, if it is paused."""
        model = self._model
        if model.paused is None:
            return
        self._tell("resume", model.paused[0], **({"data": {"n": model.pauses}} if data else {}))
        self._hub.client.resume_orchestration(self._instance)
        if data:
            model.got.append(f"data {model.pauses}")
        model.resume()

    def check(self) -> None:
        """Hold what the run says against the model."""
        status = self._hub.status(self._instance)
        assert self._hub.state(self._instance).runtime_status.name in ("RUNNING", "SUSPENDED")
        shown = (status.get("data") or {}).get("got", [])
        assert shown == self._model.got[: len(shown)]
        missing = self._model.got[len(shown) :]
        assert all(each.startswith("data ") for each in missing)  # which is said with the next thing that comes

    def end(self) -> None:
        """Leave no timers behind."""
        self._hub.client.terminate_orchestration(self._instance)

    def _tell(self, action: str, clock: str, **said: Any) -> None:
        at = self._hub.now.isoformat().replace("+00:00", "Z")
        event = {"action": action, "source": self._instance, "number": self._model.pauses, "at": at, "by": "alice"}
        self._hub.event(self._instance, "pausing", event | {"clock": clock} | said)


STEPS = st.one_of(
    st.tuples(st.just("come"), st.lists(st.sampled_from("aaabc"), min_size=1, max_size=6)),
    st.tuples(st.just("pass"), st.sampled_from([3, 7, 12, 25])),
    st.tuples(st.just("pause"), st.sampled_from(["freeze", "run"]), st.booleans()),
    st.tuples(st.just("resume"), st.booleans()),
)


@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),  # an example that fails is short as it is
    suppress_health_check=list(HealthCheck),
)
@given(
    steps=st.lists(STEPS, min_size=6, max_size=14),
    in_order=st.booleans(),
    listens_on=st.booleans(),
)
def test_what_came_is_taken_as_it_came(hub: HubControl, steps: list[Any], *, in_order: bool, listens_on: bool) -> None:
    run = Run(hub, in_order=in_order, listens_on=listens_on)
    came = 0
    for kind, *said in steps:
        match kind:
            case "come":
                for name in said[0]:
                    came += 1
                    run.come(name, f"{name}{came}")
                    if run._model.paused is None:
                        hub.settle()
            case "pass":
                run.pass_time(said[0])
            case "pause":
                run.pause(said[0], natively=said[1])
            case "resume":
                run.resume(data=said[0])
        run.check()
    run.resume(data=False)
    run.check()
    run.end()


def test_a_burst_of_one_name_and_another_in_its_midst(hub: HubControl) -> None:
    for natively in (True, False):
        run = Run(hub, in_order=True, listens_on=False)
        run.pause("freeze", natively=natively)
        for number in range(40):
            run.come("b" if number == 20 else "a", str(number))
        run.resume(data=True)
        run.check()
        run.end()


def test_sources_that_are_made_up_do_not_keep_known_ones_away(hub: HubControl) -> None:
    instance = hub.start("_listening", {"in_order": True, "listens_on": True})
    event = {"at": "2026-01-01T00:00:00Z", "by": "alice", "clock": "run", "number": 1}
    for number in range(MAX_SOURCES + 5):
        for action in ("pause", "resume"):
            hub.event(instance, "pausing", event | {"action": action, "source": f"s{number}"})
    assert hub.status(instance)["pause"]["paused"] is False
    hub.event(instance, "pausing", event | {"action": "pause", "source": "s3", "number": 2})
    assert hub.status(instance)["pause"]["paused"] is True
    hub.event(instance, "pausing", event | {"action": "resume", "source": "s3", "number": 2})
    hub.event(instance, "pausing", event | {"action": "pause", "source": "another"})
    assert hub.status(instance)["pause"]["paused"] is False
    hub.client.terminate_orchestration(instance)


@pytest.mark.parametrize(
    "at", ["2026-01-01T00:00:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59Z", "0001-01-01"]
)
def test_no_time_of_a_pause_can_fail_a_run(hub: HubControl, at: str) -> None:
    instance = hub.start("_listening", {"in_order": True, "listens_on": True})
    event = {"source": "x", "number": 1, "by": "alice"}
    for action, when in (("pause", at), ("resume", at), ("resume", "2026-01-01T00:00:00Z")):
        hub.event(instance, "pausing", event | {"action": action, "at": when})
        hub.settle()
    hub.event(instance, "a", {"what": "here"})
    assert hub.status(instance)["data"]["got"] == ["here"]
    pause = hub.status(instance)["pause"]
    assert pause is None or pause["frozen_seconds"] == 0
    hub.client.terminate_orchestration(instance)
