"""Any order of requests, clocks, workers and crashes gives what a simple model says.

An instance collects the numbers that it is sent, each by an activity, until it is told to close or its timer fires. A
crash is what ``kill -9`` leaves: the file as it is between two commits, and nothing of what was not acknowledged.
"""

import asyncio
import json
import shutil
import tempfile
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from local_host.task_hub import ManualClock, TaskHub, instances
from local_host.task_hub.dispatch import Item
from local_host.task_hub.hub import FILE_NAME
from local_host.task_hub.store import Command, Refused
from local_host.testing import HubThread
from tests.local_host.task_hub import fakes

MINUTE = 60_000_000
NAMES = ("a", "b", "c")


def collect(seen: list[pb.HistoryEvent]) -> pb.OrchestratorResponse:
    """The orchestrator."""
    scheduled: list[pb.OrchestratorAction] = []
    known: set[int] = set()
    results: list[int] = []
    closed = False
    for each in seen:
        match each.WhichOneof("eventType"):
            case "executionStarted":
                due = int(each.executionStarted.input.value)
                scheduled.append(fakes.timer(due, task_id=1))
            case "timerCreated" | "taskScheduled":
                known.add(each.eventId)
            case "timerFired":
                closed = True
            case "eventRaised" if each.eventRaised.name == "close":
                closed = True
            case "eventRaised" if not closed:
                scheduled.append(fakes.activity("number", each.eventRaised.input.value, task_id=len(scheduled) + 1))
            case "taskCompleted":
                results.append(int(each.taskCompleted.result.value))
    actions = [each for each in scheduled if each.id not in known]
    if closed and len(results) == len(scheduled) - 1:
        actions.append(fakes.completed(json.dumps(sorted(results))))
    return fakes.turn(*actions)


@dataclass
class Expected:
    """What the model knows of an instance. ``inputs`` have been accepted, and not been taken yet."""

    due: int
    inputs: list[int | None] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    timer_fired: bool = False
    suspended: bool = False
    status: str = "RUNNING"

    def take(self) -> None:
        """Take the inputs, as a worker lets it."""
        while self.inputs and not self.suspended and self.status == "RUNNING":
            number = self.inputs.pop(0)
            if number is None:
                self.status = "COMPLETED"
            else:
                self.numbers.append(number)

    def tick(self, now: int) -> None:
        """Let the timer fire when it is due."""
        if self.status == "RUNNING" and not self.timer_fired and self.due <= now:
            self.timer_fired = True
            self.inputs.append(None)


class HubMachine(RuleBasedStateMachine):
    """A hub, and the model of it."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = HubThread()
        self.clock = ManualClock()
        self.folder = Path(tempfile.mkdtemp(prefix="hub-of-a-test-"))
        self.expected: dict[str, Expected] = {}
        self.attempts = 0
        self.ids = 0
        self.worker: fakes.Hands | None = None
        self.lost: list[Item] = []

    # What the machine does with the hub

    def run[T](self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.thread.loop).result(10)

    async def _open(self) -> None:
        self.hub = TaskHub(self.folder, clock=self.clock, synchronous="OFF")
        await self.hub.start()

    @initialize()
    def begin(self) -> None:
        self.run(self._open())
        self.connect()
        self.start(minutes=30)

    def teardown(self) -> None:
        try:
            if self.hub is not None:
                self.finish()
                self.run(self.hub.stop())
        finally:
            self.thread.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    def finish(self) -> None:
        """Let everything come to its end."""
        self.connect()
        for name, each in self.expected.items():
            if each.suspended:
                self.command(lambda tx, name=name: instances.resume(tx, name, None))  # type: ignore[misc]
                each.suspended = False
        self.advance(10_000)
        self.check()
        assert all(each.status != "RUNNING" for each in self.expected.values())
        for table in ("timers", "messages", "activities"):
            assert fakes.count(self.hub, table) == 0, table

    def command(self, command: Command[Any]) -> Any:
        async def run() -> Any:
            try:
                return await self.hub.execute(command)
            except Refused as refusal:
                return refusal

        done = self.run(run())
        self.settle()
        return done

    def settle(self) -> None:
        """Let the hub come to rest, and the model take what it has."""
        if isinstance(self.worker, fakes.Runner):
            self.run(self.hub.quiet())
            for each in self.expected.values():
                each.tick(self.clock.now())
                each.take()
        else:

            async def rest() -> None:
                while self.hub._timers.is_due() or not self.hub._store.idle:  # noqa: ASYNC110
                    await asyncio.sleep(0.0005)
                await asyncio.sleep(0)

            self.run(rest())
            for each in self.expected.values():
                each.tick(self.clock.now())

    # Rules

    @precondition(lambda self: isinstance(self.worker, fakes.Runner))
    @rule(minutes=st.integers(10, 60))
    def start(self, minutes: int) -> None:
        """Start an instance, and have its first turn taken: only that sets its timer, from which the model counts."""
        if len([each for each in self.expected.values() if each.status == "RUNNING"]) >= len(NAMES):
            return
        self.ids += 1
        name = f"i{self.ids}"
        due = self.clock.now() + minutes * MINUTE
        self.expected[name] = Expected(due)
        assert self.command(fakes.start(name, given=str(due))) == name
        assert isinstance(self.command(fakes.start(name, given=str(due))), Refused)

    @precondition(lambda self: self.expected)
    @rule(data=st.data(), dice=st.integers(1, 6))
    def event(self, data: st.DataObject, dice: int) -> None:
        self.send(data.draw(st.sampled_from(sorted(self.expected))), close=dice == 6)

    def send(self, name: str, *, close: bool) -> None:
        self.attempts += 1
        each, number = self.expected[name], self.attempts
        accepted = each.status == "RUNNING"
        if accepted:
            each.inputs.append(None if close else number)
        done = self.command(fakes.raise_event(name, "close" if close else "number", str(number)))
        assert isinstance(done, Refused) != accepted

    @precondition(lambda self: self.expected)
    @rule(data=st.data(), resume=st.booleans())
    def suspend_or_resume(self, data: st.DataObject, resume: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.expected)))
        change = instances.resume if resume else instances.suspend
        if self.expected[name].status == "RUNNING":
            self.expected[name].suspended = not resume
        self.command(lambda tx: change(tx, name, None))

    @precondition(lambda self: len(self.expected) > 2)
    @rule(data=st.data())
    def terminate(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.expected)))
        running = self.expected[name].status == "RUNNING"
        assert self.command(fakes.terminate(name)) == running
        if running:
            self.expected[name].status = "TERMINATED"

    @rule(minutes=st.integers(0, 20))
    def advance(self, minutes: int) -> None:
        for _ in range(minutes):  # timers of different minutes come in the order of their times
            self.run(self._set(self.clock.now() + MINUTE))
            self.settle()
            if all(each.status != "RUNNING" for each in self.expected.values()):
                break

    async def _set(self, now: int) -> None:
        self.clock.set(now)

    @rule()
    def connect(self) -> None:
        """A worker that does its work."""

        async def connect() -> None:
            self._drop()
            self.worker = fakes.Runner(self.hub, collect)
            self.hub.connect(self.worker)

        if not isinstance(self.worker, fakes.Runner):
            self.run(connect())
            self.settle()

    @rule(events=st.integers(1, 3))
    def connect_one_that_hangs(self, events: int) -> None:
        """It takes what comes, and does nothing."""

        async def connect() -> None:
            self._drop()
            self.worker = fakes.Hands()
            self.hub.connect(self.worker)
            await asyncio.sleep(0)

        self.run(connect())
        for name in [name for name, each in self.expected.items() if each.status == "RUNNING"][:events]:
            self.send(name, close=False)

    @rule()
    def lose_the_worker(self) -> None:
        async def lose() -> None:
            self._drop()

        self.run(lose())

    def _drop(self) -> None:
        if self.worker is not None:
            self.hub.dispatcher.disconnect(self.worker)
            if not isinstance(self.worker, fakes.Runner):
                self.lost = self.worker.items
        self.worker = None

    @rule()
    def a_lost_worker_answers_after_all(self) -> None:
        async def answer() -> None:
            for each in self.lost:
                await self.hub.dispatcher.complete(each, fakes.outcome(each, collect))

        self.run(answer())
        self.settle()

    @precondition(lambda self: isinstance(self.worker, fakes.Hands) and not isinstance(self.worker, fakes.Runner))
    @rule(number=st.integers(1, 3))
    def one_that_hangs_does_a_few_things(self, number: int) -> None:
        """What it takes of an instance the model takes later, which is the same as long as the instance goes on."""
        worker = self.worker
        assert worker is not None
        for item in worker.items[-number:]:
            done = fakes.outcome(item, collect)
            self.run(self.hub.dispatcher.complete(item, done))
            if any(each.HasField("completeOrchestration") for each in getattr(done, "actions", ())):
                self.connect()
                break
        self.settle()

    @rule()
    def restart(self) -> None:
        self.run(self.hub.stop())
        self._reopened()

    @rule(data=st.data(), behind=st.integers(0, 3))
    def crash(self, data: st.DataObject, behind: int) -> None:
        """The process ends while commands are under way that nobody will ever hear of."""
        entered, released = threading.Event(), threading.Event()

        def last_words(tx: Any) -> None:
            if self.expected:
                instances.terminate(tx, sorted(self.expected)[0], None, recursive=False)
            entered.set()
            assert released.wait(20)

        async def hand_over() -> list[asyncio.Future[Any]]:
            commands: list[Command[Any]] = [last_words]
            commands += [fakes.raise_event(name, "close") for name in sorted(self.expected)[:behind]]
            return [asyncio.ensure_future(self.hub.execute(each)) for each in commands]

        async def give_up(waiting: list[asyncio.Future[Any]]) -> None:
            await asyncio.gather(*waiting, return_exceptions=True)
            await self.hub.stop()

        waiting = self.run(hand_over())
        assert entered.wait(20)
        left = Path(tempfile.mkdtemp(prefix="hub-of-a-test-"))
        for name in (FILE_NAME, f"{FILE_NAME}-wal"):
            if (self.folder / name).exists():
                shutil.copyfile(self.folder / name, left / name)
        released.set()
        self.run(give_up(waiting))
        shutil.rmtree(self.folder)
        self.folder = left
        self._reopened()

    def _reopened(self) -> None:
        self.worker, self.lost = None, []
        self.run(self._open())
        self.connect()

    # What holds

    @invariant()
    def check(self) -> None:
        if not isinstance(self.worker, fakes.Runner):
            return
        look: Callable[[str], Any] = lambda name: self.hub.reader.execute(  # noqa: E731
            "SELECT status, output FROM instances WHERE instance_id = ?", (name,)
        ).fetchone()
        for name, each in self.expected.items():
            status, output = look(name)
            shown = pb.OrchestrationStatus.Name(status).removeprefix("ORCHESTRATION_STATUS_")
            suspended = each.suspended and each.status == "RUNNING"
            assert shown == ("SUSPENDED" if suspended else each.status), name
            if each.status == "COMPLETED":
                assert json.loads(output) == each.numbers, name


HubMachine.TestCase.settings = settings(
    max_examples=70,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
    phases=[Phase.generate],  # to make a failure small would take longer than a test may
)
TestAnyOrder = HubMachine.TestCase
