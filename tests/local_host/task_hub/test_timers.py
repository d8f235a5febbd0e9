"""Timers: in their order, at their time whatever the clock does, and no more than rows until then."""

import asyncio
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from durabletask.internal import orchestrator_service_pb2 as pb

from local_host.task_hub import SystemClock, TaskHub, clock, timers
from local_host.task_hub.instances import NewInstance
from local_host.task_hub.instances import start as start_instance
from local_host.task_hub.records import OPERATION, START, TIMER
from local_host.task_hub.store import Transaction
from tests.hosting import ROOT
from tests.local_host.task_hub.fakes import (
    Hands,
    Runner,
    activity,
    completed,
    count,
    history,
    kinds,
    raise_event,
    running,
    start,
    terminate,
    timer,
    turn,
    until,
)

SECOND = 1_000_000
HOUR = 3600 * SECOND
YEAR = 365 * 24 * HOUR


class SetClock(SystemClock):
    """The machine's clock, which somebody sets."""

    def __init__(self) -> None:
        self.offset = 0
        self.stands_at: int | None = None
        self.reads = 0

    def now(self) -> int:
        self.reads += 1
        return self.stands_at if self.stands_at is not None else super().now() + self.offset


async def waiting(hub: TaskHub, *due: int, name: str = "a", worker: Hands | None = None) -> Hands:
    """Start an instance that waits for timers, on a worker of its own unless one is given."""
    if worker is None:
        worker = Hands()
        hub.connect(worker)
    number = len(worker.items)
    await hub.execute(start(name))
    await hub.dispatcher.complete(await worker.item(number), turn(*(timer(each) for each in due)))
    return worker


def fired(item: Any) -> list[int]:
    """The ids of the timers that a turn hears of."""
    return [each.timerFired.timerId for each in item.work.new if each.HasField("timerFired")]


# Order


@pytest.mark.parametrize("seed", range(3))
def test_timers_fire_in_the_order_of_their_times_and_then_of_their_creation(seed: int) -> None:
    chance = random.Random(seed)

    async def scenario() -> None:
        async with running() as hub:
            due = [hub.clock.now() + chance.randrange(1, 40) * SECOND for _ in range(200)]
            worker = await waiting(hub, *due)
            hub.clock.set(hub.clock.now() + HOUR)  # type: ignore[attr-defined]
            expected = sorted(range(1, 201), key=lambda number: (due[number - 1], number))
            assert fired(await worker.item(1)) == expected

    asyncio.run(scenario())


def test_a_timer_whose_time_has_passed_already_fires_at_once() -> None:
    async def scenario() -> None:
        async with running() as hub:
            worker = await waiting(hub, hub.clock.now(), hub.clock.now() - YEAR, 0, hub.clock.now() + 1)
            assert fired(await worker.item(1)) == [1, 2, 3]
            assert count(hub, "timers") == 1

    asyncio.run(scenario())


def test_one_tick_before_its_time_a_timer_does_not_fire() -> None:
    async def scenario() -> None:
        async with running() as hub:
            due = hub.clock.now() + HOUR
            worker = await waiting(hub, due)
            hub.clock.set(due - 1)  # type: ignore[attr-defined]
            await hub.quiet()
            assert len(worker.items) == 1
            hub.clock.set(due)  # type: ignore[attr-defined]
            assert fired(await worker.item(1)) == [1]

    asyncio.run(scenario())


def test_an_earlier_timer_that_comes_later_is_not_missed() -> None:
    async def scenario() -> None:
        async with running(clock=SystemClock()) as hub:
            worker = await waiting(hub, hub.clock.now() + HOUR)
            await waiting(hub, hub.clock.now() + SECOND // 10, name="b", worker=worker)
            assert fired(await worker.item(2)) == [1]
            assert worker.names == ["a", "b", "b"]

    asyncio.run(scenario())


def test_thousands_that_are_due_at_once_all_fire_once() -> None:
    number = timers.MOST_AT_ONCE * 6 + 1

    async def scenario() -> None:
        async with running() as hub:
            due = hub.clock.now() + HOUR

            def decide(seen: list[pb.HistoryEvent]) -> pb.OrchestratorResponse:
                return turn(completed(str(kinds(seen).count("timerFired")))) if fires(seen) else turn(timer(due))

            def fires(seen: list[pb.HistoryEvent]) -> bool:
                return any(each.HasField("timerFired") for each in seen)

            hub.connect(Runner(hub, decide))
            await asyncio.gather(*(hub.execute(start(f"i{n}")) for n in range(number)))
            await hub.quiet()
            assert count(hub, "timers") == number
            await hub.advance_to(due)
            assert count(hub, "timers") == 0
            outputs = hub.reader.execute("SELECT output, count(*) FROM instances GROUP BY 1").fetchall()
            assert outputs == [("1", number)]

    asyncio.run(scenario())


# Cancelled


@pytest.mark.parametrize("how", ["terminated", "completed", "continued", "replaced"])
def test_a_timer_is_gone_with_its_execution(how: str) -> None:
    async def scenario() -> None:
        async with running() as hub:
            worker = await waiting(hub, hub.clock.now() + HOUR)
            match how:
                case "terminated":
                    await hub.execute(terminate("a"))
                case "replaced":
                    new, every = NewInstance("a", "any"), frozenset(range(8))
                    await hub.execute(lambda tx: start_instance(tx, new, every))
                case _:
                    await hub.execute(raise_event("a"))
                    end = completed()
                    if how == "continued":
                        end.completeOrchestration.orchestrationStatus = pb.ORCHESTRATION_STATUS_CONTINUED_AS_NEW
                    await hub.dispatcher.complete(await worker.item(1), turn(end))
            assert count(hub, "timers") == 0
            before = len(worker.items)
            hub.clock.set(hub.clock.now() + YEAR)  # type: ignore[attr-defined]
            await asyncio.sleep(0.02)
            assert all(not fired(each) for each in worker.items[before:])
            assert count(hub, "messages") == 0

    asyncio.run(scenario())


def test_a_timer_of_a_suspended_instance_is_taken_when_it_is_resumed() -> None:
    from local_host.task_hub.instances import resume, suspend  # beside the names of the fakes

    async def scenario() -> None:
        async with running() as hub:
            worker = await waiting(hub, hub.clock.now() + HOUR)
            await hub.execute(lambda tx: suspend(tx, "a", None))
            await hub.advance_to(hub.clock.now() + YEAR)
            assert (len(worker.items), count(hub, "timers")) == (1, 0)
            await hub.execute(lambda tx: resume(tx, "a", None))
            assert fired(await worker.item(1)) == [1]

    asyncio.run(scenario())


# Clocks


def test_a_clock_that_is_set_forward_makes_timers_due_within_about_a_second() -> None:
    async def scenario() -> None:
        machine = SetClock()
        async with running(clock=machine) as hub:
            worker = await waiting(hub, machine.now() + YEAR // 2)
            await asyncio.sleep(0.05)
            machine.offset = YEAR
            began = time.monotonic()
            assert fired(await worker.item(1)) == [1]
            assert time.monotonic() - began < clock.LONGEST_SLEEP + 2

    asyncio.run(scenario())


def test_a_clock_that_is_set_back_makes_timers_wait_for_their_time_and_others_do_not() -> None:
    async def scenario() -> None:
        machine = SetClock()
        async with running(clock=machine) as hub:
            worker = await waiting(hub, machine.now() + SECOND // 5)
            machine.offset = -HOUR
            await waiting(hub, machine.now() + SECOND // 10, name="b", worker=worker)
            assert fired(await worker.item(2)) == [1]
            await asyncio.sleep(0.5)
            assert worker.names == ["a", "b", "b"]
            machine.offset = 0
            assert fired(await worker.item(3)) == [1]
            assert worker.names[3:] == ["a"]

    asyncio.run(scenario())


def test_a_clock_that_stands_still_just_before_a_timer_is_not_read_in_a_hot_loop() -> None:
    async def scenario() -> None:
        machine = SetClock()
        async with running(clock=machine) as hub:
            machine.stands_at = SystemClock().now()
            worker = await waiting(hub, machine.stands_at + 1)
            machine.reads = 0
            await asyncio.sleep(0.3)
            assert machine.reads < 1500
            await hub.execute(raise_event("a"))
            assert not fired(await worker.item(1))
            machine.stands_at += 1
            await hub.dispatcher.complete(worker.items[1], turn())
            assert fired(await worker.item(2)) == [1]

    asyncio.run(scenario())


def test_timers_fire_soon_after_their_time() -> None:
    async def scenario() -> list[float]:
        async with running(clock=SystemClock()) as hub:
            late: list[float] = []
            now = hub.clock.now()
            due = [now + n * SECOND // 20 for n in range(4, 14)]
            worker = await waiting(hub, *due)
            for number in range(1, 11):
                item = await worker.item(number)
                late += [(hub.clock.now() - due[timer_id - 1]) / SECOND for timer_id in fired(item)]
                await hub.dispatcher.complete(item, turn())
            return late

    late = asyncio.run(scenario())
    assert len(late) == 10
    assert min(late) >= 0
    assert max(late) < 1


# Rows


def test_timers_are_there_after_a_restart_and_what_came_due_meanwhile_fires_then(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as hub:
            began = hub.clock.now()
            await waiting(hub, began + 3 * HOUR, began + HOUR, began + 2 * HOUR)
        later = clock.ManualClock()
        later.set(began + 2 * HOUR)
        async with running(tmp_path, later) as hub:
            worker = Hands()
            hub.connect(worker)
            assert fired(await worker.item(0)) == [2, 3]
            await hub.dispatcher.complete(worker.items[0], turn())
            later.set(began + 3 * HOUR)
            assert fired(await worker.item(1)) == [1]
            await hub.dispatcher.complete(worker.items[1], turn(completed()))
            assert kinds(history(hub, "a")).count("timerFired") == 3

    asyncio.run(scenario())


@pytest.mark.parametrize("error", ["of the file", "of another kind"])
def test_timers_that_could_not_be_fired_are_tried_again_after_a_pause(
    monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    monkeypatch.setattr(timers, "PAUSE_AFTER_ERROR", 0.1)
    attempts = 0
    real = timers.fire

    def broken(tx: Transaction) -> int | None:
        nonlocal attempts
        attempts += 1
        real(tx)
        if error == "of another kind":
            raise ValueError(error)
        tx.run("INSERT INTO timers (id, due, kind, target) SELECT 1, 0, 0, 0 UNION ALL SELECT 1, 0, 0, 0")
        return None

    async def scenario() -> None:
        async with running() as hub:
            worker = await waiting(hub, hub.clock.now() + HOUR)
            monkeypatch.setattr(timers, "fire", broken)
            hub.clock.set(hub.clock.now() + HOUR)  # type: ignore[attr-defined]
            await asyncio.sleep(0.35)
            assert 2 <= attempts <= 5
            assert (count(hub, "timers"), count(hub, "messages"), len(worker.items)) == (1, 0, 1)
            monkeypatch.setattr(timers, "fire", real)
            assert fired(await worker.item(1)) == [1]

    asyncio.run(scenario())


def test_each_kind_of_timer_does_what_it_is_for() -> None:
    async def scenario() -> None:
        async with running() as hub:
            due = hub.clock.now() + HOUR
            await waiting(hub, due)
            new = NewInstance("later", "any", scheduled_at=due)
            await hub.execute(lambda tx: start_instance(tx, new, frozenset()))
            signal = pb.OrchestratorAction(id=1)
            body = signal.sendEntityMessage.entityOperationSignaled
            body.operation, body.targetInstanceId.value = "add", "@counter@one"
            body.scheduledTime.FromMicroseconds(due)
            worker = Hands()
            hub.connect(worker)
            await hub.execute(start("sender"))
            await until(lambda: any(each.row == 3 for each in hub.dispatcher._items.values()))
            item = next(each for each in hub.dispatcher._items.values() if each.row == 3)
            await hub.dispatcher.complete(item, turn(signal, activity("n")))
            rows = hub.reader.execute("SELECT kind FROM timers ORDER BY kind").fetchall()
            assert rows == [(TIMER,), (START,), (OPERATION,)]
            hub.clock.set(due)  # type: ignore[attr-defined]
            everything = {"a", "later", "@counter@one"}
            await until(lambda: everything <= {_target(each) for each in hub.dispatcher._items.values()})
            assert count(hub, "timers") == 0

    asyncio.run(scenario())


def _target(item: Any) -> str:
    return str(getattr(item.work, "instance_id", None) or getattr(item.work, "entity_id", ""))


MANY = """
import asyncio, sys, threading
from pathlib import Path
from local_host.task_hub import TaskHub
from local_host.task_hub.instances import NewInstance, start

def memory():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])

async def main(number):
    hub = TaskHub(None)
    await hub.start()
    due = hub.clock.now() + 10**12
    for n in range(100):
        await hub.execute(lambda tx: start(tx, NewInstance(f"warm{n}", "any"), frozenset()))
    before, threads = memory(), threading.active_count()
    for first in range(0, number, 1000):
        def command(tx):
            for n in range(first, first + 1000):
                start(tx, NewInstance(f"i{n}", "any", scheduled_at=due + n), frozenset())
        await hub.execute(command)
    print(memory() - before, threading.active_count() - threads)
    assert hub.reader.execute("SELECT count(*) FROM timers").fetchone() == (number,)
    await hub.stop()

asyncio.run(main(int(sys.argv[1])))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux to see what a process uses")
def test_timers_are_rows_that_cost_neither_threads_nor_memory() -> None:
    ran = subprocess.run([sys.executable, "-c", MANY, "10000"], cwd=ROOT, capture_output=True, check=True, timeout=50)
    kilobytes, threads = map(int, ran.stdout.split())
    assert threads == 0
    assert kilobytes < 30_000


def test_timers_take_neither_a_thread_nor_a_task_each() -> None:
    async def scenario() -> None:
        async with running(clock=SystemClock()) as hub:
            before = threading.active_count(), len(asyncio.all_tasks())
            await waiting(hub, *(hub.clock.now() + HOUR + n for n in range(500)))
            await asyncio.sleep(0.02)
            assert threading.active_count() == before[0]
            assert len(asyncio.all_tasks()) <= before[1] + 2

    asyncio.run(scenario())


def test_a_scheduled_start_is_not_lost_when_the_clock_is_set_back_after_its_time() -> None:
    async def scenario() -> None:
        async with running() as hub:
            clock: Any = hub.clock
            due = clock.now() + HOUR
            new = NewInstance("later", "a", scheduled_at=due)
            await hub.execute(lambda tx: start_instance(tx, new, frozenset()))
            early = Hands()
            hub.connect(early)
            await hub.quiet()
            assert early.items == []
            hub.dispatcher.disconnect(early)
            clock.set(due)
            await hub.quiet()
            clock.set(due - HOUR // 2)
            worker = Hands()
            hub.connect(worker)
            item: Any = await worker.item(0)
            assert item.work.instance_id == "later"

    asyncio.run(scenario())
