"""Dispatch: each thing to one worker at a time, again when the worker is gone, and to nobody else's cost."""

import asyncio
import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.internal import orchestrator_service_pb2_grpc as stubs

from local_host.task_hub import TaskHub, dispatch, entities, queries
from local_host.task_hub.store import Command, StoreError
from tests.hosting import ROOT, host_process
from tests.local_host.task_hub.fakes import (
    Hands,
    Runner,
    activity,
    completed,
    count,
    history,
    kinds,
    raise_event,
    result,
    running,
    start,
    terminate,
    turn,
    until,
)
from tests.polling import until as wait_until

APPS = Path(__file__).parents[1] / "apps"


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> float:
    """A pause after errors that a test can wait for."""
    monkeypatch.setattr(dispatch, "PAUSE_AFTER_ERROR", 0.1)
    return 0.1


@contextmanager
def failing(hub: TaskHub, monkeypatch: pytest.MonkeyPatch, error: Exception) -> Iterator[list[Command[Any]]]:
    """Let every command fail; gives those that did."""
    failed: list[Command[Any]] = []

    async def refuse(command: Command[Any]) -> Any:
        failed.append(command)
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(hub._store, "execute", refuse)
        yield failed


# One at a time


@pytest.mark.parametrize("seed", range(3))
def test_an_instance_takes_one_turn_at_a_time_and_every_event_once_in_order(seed: int) -> None:
    events, names = 40, [f"i{n}" for n in range(6)]
    under_way: dict[str, int] = dict.fromkeys(names, 0)
    most: dict[str, int] = dict.fromkeys(names, 0)
    chance = random.Random(seed)

    class Watching(Runner):
        async def _run(self, item: dispatch.Item) -> None:
            name = item.work.instance_id  # type: ignore[union-attr]
            under_way[name] += 1
            most[name] = max(most[name], under_way[name])
            await asyncio.sleep(chance.random() / 300)
            under_way[name] -= 1
            await self._hub.dispatcher.complete(item, self.outcome(item))

    def decide(seen: list[pb.HistoryEvent]) -> pb.OrchestratorResponse:
        raised = [each.eventRaised.input.value for each in seen if each.HasField("eventRaised")]
        return turn(completed(json.dumps(raised))) if len(raised) == events else turn()

    async def scenario() -> None:
        async with running() as hub:
            workers = [Watching(hub, decide, turns=3) for _ in range(4)]
            for each in workers:
                hub.connect(each)
            for name in names:
                await hub.execute(start(name))
            for n in range(events):
                for name in names:
                    await hub.execute(raise_event(name, payload=str(n)))
                    await asyncio.sleep(chance.random() / 1000)
            await hub.quiet()
            outputs = hub.reader.execute("SELECT output FROM instances").fetchall()
            assert outputs == [(json.dumps([str(n) for n in range(events)]),)] * len(names)
            assert set(most.values()) == {1}
            assert sum(bool(each.items) for each in workers) > 1
            assert sum(len(each.items) for each in workers) > len(names)

    asyncio.run(scenario())


def test_slots_are_never_exceeded_and_all_used() -> None:
    async def scenario() -> None:
        async with running() as hub:
            one, two = Hands(activities=2), Hands(activities=3)
            hub.connect(one)
            await hub.execute(start("a"))
            await hub.dispatcher.complete(await one.item(0), turn(*(activity(f"n{n}") for n in range(9))))
            await one.item(2)
            assert one.names == ["a", "n0", "n1"]
            hub.connect(two)
            await two.item(2)
            assert two.names == ["n2", "n3", "n4"]
            await hub.dispatcher.complete(one.items[1], result())
            await one.item(4)
            assert (sorted(one.names[3:]), len(two.items)) == (["a", "n5"], 3)
            hub.dispatcher.abandon(two.items[0].token, dispatch.ACTIVITY)
            await two.item(3)
            assert two.names[3:] == ["n6"]  # what was given back waits its turn

    asyncio.run(scenario())


def test_a_busy_instance_does_not_starve_the_others() -> None:
    async def scenario() -> None:
        async with running() as hub:
            worker = Hands(turns=1)
            hub.connect(worker)
            await hub.execute(start("busy"))
            await worker.item(0)
            for n in range(5):
                await hub.execute(start(f"quiet{n}"))
            for number in range(8):
                await hub.execute(raise_event("busy"))
                await hub.dispatcher.complete(await worker.item(number), turn())
            assert worker.names[1:6] == [f"quiet{n}" for n in range(5)]

    asyncio.run(scenario())


# Late, double, and by others


def test_a_completion_counts_once() -> None:
    async def scenario() -> None:
        async with running() as hub:
            worker = Hands()
            hub.connect(worker)
            await hub.execute(start("a"))
            first = await worker.item(0)
            both = [hub.dispatcher.complete(first, turn(activity("n"))) for _ in range(2)]
            await asyncio.gather(*both)
            await hub.dispatcher.complete(first, turn(activity("other")))
            assert hub.dispatcher.item(first.token, dispatch.TURN) is None
            second = await worker.item(1)
            await asyncio.gather(*(hub.dispatcher.complete(second, result("x")) for _ in range(3)))
            third = await worker.item(2)
            await hub.dispatcher.complete(third, turn(completed()))
            assert kinds(history(hub, "a")).count("taskScheduled") == 1
            assert kinds(history(hub, "a")).count("taskCompleted") == 1
            assert worker.names == ["a", "n", "a"]

    asyncio.run(scenario())


def test_what_a_worker_had_is_handed_out_again_when_it_is_gone_and_its_own_answer_changes_nothing() -> None:
    async def scenario() -> None:
        async with running() as hub:
            lost, other = Hands(), Hands()
            hub.connect(lost)
            await hub.execute(start("a"))
            await hub.dispatcher.complete(await lost.item(0), turn(activity("n")))
            await hub.execute(start("b"))
            await lost.item(2)
            hub.dispatcher.disconnect(lost)
            hub.connect(other)
            await other.item(1)
            assert sorted(other.names) == ["b", "n"]
            for each in lost.items[1:]:
                await hub.dispatcher.complete(each, result("late") if each.kind == dispatch.ACTIVITY else turn())
            assert (count(hub, "activities"), count(hub, "messages")) == (1, 0)
            for each in list(other.items):
                await hub.dispatcher.complete(each, result("right") if each.kind == dispatch.ACTIVITY else turn())
            await hub.dispatcher.complete(await other.item(2), turn(completed()))
            answers = [each.taskCompleted.result.value for each in history(hub, "a") if each.HasField("taskCompleted")]
            assert answers == ["right"]
            assert len(lost.items) == 3

    asyncio.run(scenario())


def test_an_answer_for_an_instance_that_has_ended_or_was_replaced_meanwhile_changes_nothing() -> None:
    async def scenario() -> None:
        async with running() as hub:
            worker = Hands()
            hub.connect(worker)
            await hub.execute(start("a"))
            first = await worker.item(0)
            await hub.execute(terminate("a"))
            before = history(hub, "a")
            await hub.dispatcher.complete(first, turn(activity("n"), completed("late")))
            await hub.quiet()
            assert history(hub, "a") == before
            assert count(hub, "activities") == 0
            assert len(worker.items) == 1

    asyncio.run(scenario())


def test_an_outcome_is_taken_to_its_end_also_when_the_worker_goes_away_while_it_is_stored() -> None:
    async def scenario() -> None:
        async with running() as hub:
            worker = Hands(turns=1, activities=1)
            hub.connect(worker)
            await hub.execute(start("a"))
            first = await worker.item(0)
            # As grpc does it with the handler of a call whose caller is gone.
            call = asyncio.ensure_future(hub.dispatcher.complete(first, turn(activity("n"))))
            await asyncio.sleep(0)
            call.cancel()
            second = await worker.item(1)
            assert second.kind == dispatch.ACTIVITY
            call = asyncio.ensure_future(hub.dispatcher.complete(second, result("x")))
            await asyncio.sleep(0)
            call.cancel()
            third = await worker.item(2)  # the instance goes on, and the slot is free
            await hub.dispatcher.complete(third, turn(completed()))
            await hub.quiet()
            assert hub.reader.execute("SELECT status FROM instances").fetchone() == (pb.ORCHESTRATION_STATUS_COMPLETED,)

    asyncio.run(scenario())


# What cannot be stored or read


def test_an_outcome_that_cannot_be_stored_is_kept_and_its_work_is_not_done_again(
    soon: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with running() as hub:
            worker = Hands(activities=1)
            hub.connect(worker)
            await hub.execute(start("a"))
            await hub.dispatcher.complete(await worker.item(0), turn(activity("n"), activity("m")))
            mail = await worker.item(1)
            with failing(hub, monkeypatch, StoreError("the disk is full")) as failed:
                with pytest.raises(StoreError, match="the disk is full"):
                    await hub.dispatcher.complete(mail, result("sent"))
                await worker.item(2)  # the slot is free for others
                await asyncio.sleep(soon * 4.5)
                assert 3 <= len(failed) <= 6
            await until(lambda: len(worker.items) > 3)
            assert worker.names == ["a", "n", "m", "a"]
            next_turn = worker.items[3].work
            assert [each.taskCompleted.result.value for each in next_turn.new[1:]] == ["sent"]  # type: ignore[union-attr]

    asyncio.run(scenario())


def test_an_answer_to_a_turn_that_the_hub_cannot_take_fails_the_instance_once() -> None:
    async def scenario() -> None:
        async with running() as hub:
            worker = Hands()
            hub.connect(worker)
            await hub.execute(start("a"))
            await hub.dispatcher.complete(await worker.item(0), turn(pb.OrchestratorAction()))
            await hub.quiet()
            state = queries.state(hub.reader, "a", payloads=True)
            assert state is not None
            assert state.orchestrationStatus == pb.ORCHESTRATION_STATUS_FAILED
            assert state.failureDetails.errorType == "OutcomeNotTaken"
            assert worker.names == ["a"]

    asyncio.run(scenario())


def test_what_a_worker_could_not_run_is_handed_out_again_after_a_pause(soon: float) -> None:
    async def scenario() -> None:
        async with running() as hub:
            worker = Hands(turns=1)
            hub.connect(worker)
            await hub.execute(start("a"))
            began = time.monotonic()
            hub.dispatcher.put_off(await worker.item(0))
            hub.dispatcher.put_off(worker.items[0])  # twice changes nothing
            again = await worker.item(1)
            assert time.monotonic() - began > soon * 0.9
            await hub.dispatcher.complete(again, turn(completed()))
            assert kinds(history(hub, "a")).count("executionStarted") == 1

    asyncio.run(scenario())


def test_nobody_waits_for_an_instance_on_a_hub_that_is_about_to_stop() -> None:
    async def scenario() -> None:
        async with running() as hub:
            waiting = asyncio.ensure_future(hub.until("nobody", lambda _status: True))
            await asyncio.sleep(0)
            hub.release_waiting()
            with pytest.raises(StoreError, match="about to stop"):
                await waiting

    asyncio.run(scenario())


def test_an_instance_that_cannot_be_read_is_tried_again_and_does_not_hold_up_the_others(soon: float) -> None:
    async def scenario() -> None:
        async with running() as hub:
            await hub.execute(start("a"))
            await hub.execute(start("b"))
            await hub.execute(raise_event("a"))
            await hub.execute(lambda tx: tx.run("UPDATE messages SET event = x'ffff'"))
            worker = Hands()
            hub.connect(worker)
            await worker.item(0)
            await asyncio.sleep(soon * 2)
            assert worker.names == ["b"]
            await hub.execute(lambda tx: tx.run("UPDATE messages SET event = x''"))
            await worker.item(1)
            assert worker.names == ["b", "a"]

    asyncio.run(scenario())


def test_an_instance_that_cannot_be_read_is_not_tried_in_a_hot_loop(
    soon: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = 0

    def broken(*_: Any) -> None:
        nonlocal attempts
        attempts += 1
        raise sqlite3.DatabaseError("database disk image is malformed")

    async def scenario() -> None:
        async with running() as hub:
            hub.connect(Hands())
            monkeypatch.setattr("local_host.task_hub.turns.load", broken)
            await hub.execute(start("a"))
            for _ in range(20):
                await hub.execute(raise_event("a"))
            await asyncio.sleep(soon * 3.5)
            assert 2 <= attempts <= 5

    asyncio.run(scenario())


def test_a_lock_that_could_not_be_given_is_given_later(soon: float, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with running() as hub:
            worker = Hands()
            hub.connect(worker)
            await hub.execute(start("a"))
            first = await worker.item(0)
            asked = pb.OrchestratorAction(id=1)
            request = asked.sendEntityMessage.entityLockRequested
            request.criticalSectionId = "section"
            request.lockSet.append("@counter@one")

            def broken(*_: Any) -> None:
                raise sqlite3.OperationalError("database or disk is full")

            with monkeypatch.context() as patched:
                patched.setattr(entities, "lock", broken)
                await hub.dispatcher.complete(first, turn(asked))
                await asyncio.sleep(soon * 2)
                assert len(worker.items) == 1
            granted = (await worker.item(1)).work
            assert kinds(granted.new[1:]) == ["entityLockGranted"]  # type: ignore[union-attr]

    asyncio.run(scenario())


# Filters and parking


def test_what_no_worker_takes_waits_for_one_that_does_and_the_rest_goes_on() -> None:
    async def scenario() -> None:
        async with running() as hub:
            reds = Hands(only=["red"])
            hub.connect(reds)
            await hub.execute(start("1", "blue"))
            await hub.execute(start("2", "red"))
            await reds.item(0)
            assert reds.names == ["2"]
            hub.connect(Hands(only=["green"]))
            await hub.execute(raise_event("1"))  # it is looked at again, and waits again
            await hub.dispatcher.complete(reds.items[0], turn(completed()))
            await hub.quiet()
            assert reds.names == ["2"]
            blues = Hands(only=["blue"])
            hub.connect(blues)
            blue = (await blues.item(0)).work
            assert kinds(blue.new) == ["orchestratorStarted", "executionStarted", "eventRaised"]  # type: ignore[union-attr]

    asyncio.run(scenario())


def test_what_only_a_full_worker_takes_goes_to_it_when_it_has_room() -> None:
    async def scenario() -> None:
        async with running() as hub:
            reds, blues = Hands(turns=1, only=["red"]), Hands(only=["blue"])
            hub.connect(reds)
            hub.connect(blues)
            for n in range(4):
                await hub.execute(start(f"r{n}", "red"))
                await hub.execute(start(f"b{n}", "blue"))
            await blues.item(3)
            assert (reds.names, blues.names) == (["r0"], ["b0", "b1", "b2", "b3"])
            for number in range(4):
                await hub.dispatcher.complete(await reds.item(number), turn(completed()))
            assert reds.names == ["r0", "r1", "r2", "r3"]

    asyncio.run(scenario())


def test_without_a_worker_nothing_happens_and_that_is_quiet() -> None:
    async def scenario() -> None:
        async with running() as hub:
            await hub.execute(start("a"))
            await asyncio.wait_for(hub.quiet(), 5)
            worker = Hands()
            hub.connect(worker)
            assert not hub.idle
            item = await worker.item(0)
            assert not hub.idle
            await hub.dispatcher.complete(item, turn())
            await asyncio.wait_for(hub.quiet(), 5)

    asyncio.run(scenario())


# Restarts and workers of other processes


def test_what_was_under_way_at_a_stop_is_handed_out_after_the_start(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as hub:
            worker = Hands()
            hub.connect(worker)
            for name in ("a", "b", "c"):
                await hub.execute(start(name))
            await hub.dispatcher.complete(await worker.item(0), turn(activity("n")))
            await hub.dispatcher.complete(await worker.item(1), turn())
            await hub.execute(raise_event("b"))
            await worker.item(4)
            late = worker.items[2]
        assert worker.closed
        async with running(tmp_path) as hub:
            again = Hands()
            hub.connect(again)
            await again.item(2)
            assert sorted(again.names) == ["b", "c", "n"]
            await hub.dispatcher.complete(late, turn(completed("late")))  # a token of before is good for nothing
            assert hub.reader.execute("SELECT output FROM instances WHERE output NOT NULL").fetchall() == []

    asyncio.run(scenario())


def test_a_stream_that_is_cut_gives_its_work_back() -> None:
    async def scenario() -> None:
        async with running() as hub, grpc.aio.insecure_channel(hub.address) as channel:
            stub = stubs.TaskHubSidecarServiceStub(channel)  # type: ignore[no-untyped-call]
            stream = stub.GetWorkItems(pb.GetWorkItemsRequest(), metadata=hub.metadata)
            await hub.execute(start("a"))
            lost = await stream.read()
            stream.cancel()
            other = Hands()
            hub.connect(other)
            await other.item(0)
            late = turn(completed("late"))
            late.completionToken = lost.completionToken
            await stub.CompleteOrchestratorTask(late, metadata=hub.metadata)
            assert hub.reader.execute("SELECT output FROM instances").fetchone() == (None,)
            await hub.dispatcher.complete(other.items[0], turn(completed("right")))
            assert hub.reader.execute("SELECT output FROM instances").fetchone() == ("right",)

    asyncio.run(scenario())


WORKER = """
import sys, time
from pathlib import Path
from durabletask.worker import TaskHubGrpcWorker

address, credential, effects, hang = sys.argv[1:]

def effect(context, given):
    with open(effects, "a") as file:
        file.write(f"{hang} {given}\\n")
    while hang == "yes":
        time.sleep(1)
    return given

def caller(context, given):
    return (yield context.call_activity(effect, input=given))

worker = TaskHubGrpcWorker(host_address=address, metadata=[("taskhub", credential)])
worker.add_activity(effect)
worker.add_orchestrator(caller)
worker.start()
time.sleep(60)
"""


def test_what_a_worker_process_had_when_it_was_killed_is_done_by_the_next(tmp_path: Path) -> None:
    effects = tmp_path / "effects"
    effects.touch()

    @contextmanager
    def worker(hub: TaskHub, hang: str) -> Iterator[subprocess.Popen[bytes]]:
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, hub.address, hub.credential, str(effects), hang], cwd=ROOT
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    async def scenario() -> None:
        async with running() as hub:
            with worker(hub, "yes") as killed:
                await hub.execute(start("a", "caller", '"x"'))
                await until(lambda: effects.read_text() == "yes x\n", 20)
                killed.send_signal(signal.SIGKILL)
            with worker(hub, "no"):
                await asyncio.wait_for(hub.until("a", lambda status: status == pb.ORCHESTRATION_STATUS_COMPLETED), 20)
            assert effects.read_text() == "yes x\nno x\n"
            assert kinds(history(hub, "a")).count("taskCompleted") == 1

    asyncio.run(scenario())


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux to see what a process uses")
def test_a_host_that_has_nothing_to_do_does_nothing(tmp_path: Path) -> None:
    def used(pid: int) -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    with host_process(tmp_path, app_dir=APPS / "durable") as host, host.client() as client:
        urls = client.post("/api/start/gate").raise_for_status().json()
        client.post("/api/start/race", json=3600).raise_for_status()
        wait_until(lambda: client.get(urls["statusQueryGetUri"]).json()["runtimeStatus"] == "Running")
        time.sleep(0.5)
        before = used(host.process.pid)
        time.sleep(2)
        assert used(host.process.pid) - before < 0.2
