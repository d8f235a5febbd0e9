"""What was deleted stands in no file any more, soon, while the hub goes on; and nobody waits for that."""

import asyncio
import json
import logging
import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from time import monotonic
from typing import Any

import durabletask.internal.orchestrator_service_pb2 as pb
import pytest

from local_host.task_hub import ManualClock, TaskHub, entities, purge, store, sweep
from local_host.task_hub.hub import FILE_NAME
from local_host.task_hub.instances import NewInstance, append_history, raise_event, restart, start, terminate
from local_host.task_hub.records import ENDED, event
from local_host.task_hub.store import Command, Transaction
from local_host.testing import running_hub
from tests.local_host.task_hub.support import complete, hand_worker, until

SECRET = b"ann.secret@example.org"
NOTHING = "nothing personal"


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """As SQLite is made in most places: by itself it leaves in the file what is deleted."""
    connect: Callable[..., sqlite3.Connection] = sqlite3.connect

    def connected(*given: Any, **named: Any) -> sqlite3.Connection:
        connection = connect(*given, **named)
        connection.execute("PRAGMA secure_delete = OFF")
        return connection

    monkeypatch.setattr(sqlite3, "connect", connected)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log is emptied sooner than it is otherwise."""
    monkeypatch.setattr(sweep, "WITHIN", 0.03)


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[TaskHub]:
    """Run a hub."""
    hub = TaskHub(folder, clock=ManualClock())
    await hub.start()
    try:
        yield hub
    finally:
        await hub.stop()


def starting(instance_id: str, given: bytes = SECRET) -> Command[None]:
    """Start an instance, with a history."""

    def command(tx: Transaction) -> None:
        start(tx, NewInstance(instance_id, "name", input=given.decode()), frozenset(ENDED))
        happened = event(tx.now)
        happened.eventRaised.input.value = given.decode()
        append_history(tx, tx.one("SELECT max(id) FROM instances")[0], [happened])
        raise_event(tx, instance_id, "one", given.decode())

    return command


def ended(instance_id: str) -> Command[bool]:
    """End an instance."""
    return lambda tx: terminate(tx, instance_id, SECRET.decode(), recursive=False)


def purged(*instance_ids: str) -> Command[int]:
    """Purge instances."""
    return lambda tx: purge.purge_instances(tx, list(instance_ids), recursive=False)


def is_secret_in(folder: Path) -> list[str]:
    """The files in which the secret stands."""
    return [file.name for file in folder.iterdir() if SECRET in file.read_bytes()]


async def swept(hub: TaskHub) -> None:
    """Wait until it was tried once to empty the log, from now on."""
    sweeper, tried = hub._store._sweeper, threading.Event()
    sweep = sweeper.sweep

    def once() -> None:
        sweep()
        tried.set()

    sweeper.sweep = once  # type: ignore[method-assign]
    assert await asyncio.to_thread(tried.wait, 10)
    sweeper.sweep = sweep  # type: ignore[method-assign]


async def forgotten(folder: Path) -> None:
    """Wait until the secret stands in no file."""
    give_up = monotonic() + 10
    while found := is_secret_in(folder):
        assert monotonic() < give_up, found
        await asyncio.sleep(0.005)


def window(tx: Transaction) -> tuple[int, bool]:
    """Purge by a filter."""
    return purge.purge_window(tx, pb.PurgeInstanceFilter(), recursive=False)


@pytest.mark.parametrize(
    "deleting",
    [
        purged("one"),
        window,
        starting("one", b"another"),
        purge.wipe,
    ],
    ids=["by its id", "by a filter", "by another with its id", "with all others"],
)
@pytest.mark.parametrize("size", [1, 300])
def test_what_is_deleted_stands_in_no_file_while_the_hub_goes_on(
    tmp_path: Path, deleting: Command[Any], size: int
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as hub:
            for number in range(30):
                await hub.execute(starting(f"before-{number}", b"other"))
            await hub.execute(starting("one", SECRET * size))
            await hub.execute(starting("after", b"other"))
            await hub.execute(ended("one"))
            assert is_secret_in(tmp_path)
            await hub.execute(deleting)
            await forgotten(tmp_path)
            assert hub.reader.execute("SELECT count(*) FROM instances WHERE input LIKE '%secret%'").fetchone() == (0,)

    asyncio.run(scenario())


def test_an_entity_that_is_deleted_stands_in_no_file(tmp_path: Path) -> None:
    signal = pb.SignalEntityRequest(instanceId="@counter@one", name="add")
    signal.input.value = SECRET.decode()

    def done(tx: Transaction) -> None:
        tx.run("UPDATE entities SET state = ?", SECRET.decode())
        tx.run("DELETE FROM operations")

    async def scenario() -> None:
        async with running(tmp_path) as hub:
            await hub.execute(lambda tx: entities.signal(tx, signal))
            await hub.execute(done)
            assert is_secret_in(tmp_path)
            assert await hub.execute(lambda tx: purge.purge_entity(tx, "@counter@one")) == 1
            await forgotten(tmp_path)

    asyncio.run(scenario())


def test_what_an_execution_knew_that_was_continued_as_new_stands_in_no_file(tmp_path: Path) -> None:
    with running_hub(tmp_path) as hub, hand_worker(hub) as worker:
        hub.start("name", SECRET.decode(), "one")
        worker.turn(worker.take())
        hub.event("one", "wake")
        item = worker.take()
        assert SECRET.decode() in str(item)
        assert is_secret_in(tmp_path)
        worker.turn(item, complete(NOTHING, pb.ORCHESTRATION_STATUS_CONTINUED_AS_NEW))
        until(lambda: not is_secret_in(tmp_path))
        state = hub.client.get_orchestration_state("one")
        assert state is not None
        assert json.loads(state.serialized_input or "") == NOTHING


def test_what_was_restarted_is_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as hub:
            await hub.execute(starting("one"))
            await hub.execute(ended("one"))
            await hub.execute(lambda tx: restart(tx, "one", new_id=False))
            await hub.execute(starting("two", b"other"))
            assert hub.reader.execute("SELECT input FROM instances").fetchall() == [(SECRET.decode(),), ("other",)]

    asyncio.run(scenario())


# Who reads and writes meanwhile


def test_while_somebody_reads_nobody_waits_and_afterwards_it_is_done(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as hub:
            for number in range(20):
                await hub.execute(starting(f"{number}"))
                await hub.execute(ended(f"{number}"))
            with hub.shared_reader() as reader:
                rows = reader.execute("SELECT input FROM instances")
                assert SECRET.decode() in rows.fetchone()[0]
                for number in range(20):
                    await hub.execute(purged(f"{number}"))
                await swept(hub)
                waits = hub._store._sweeper._connection.execute("PRAGMA busy_timeout").fetchone()
                assert waits == (0,)  # else a checkpoint waits for who reads, and all others for that
                assert is_secret_in(tmp_path)
                assert len(rows.fetchall()) == 19
            await forgotten(tmp_path)

    asyncio.run(scenario())
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


def test_while_another_program_writes_or_reads_the_log_stays_and_afterwards_it_is_done(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as hub:
            await hub.execute(starting("one"))
            await hub.execute(ended("one"))
            reads, writes = (sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None) for _ in range(2))
            with closing(reads), closing(writes):
                reads.execute("BEGIN")
                reads.execute("SELECT count(*) FROM instances").fetchone()
                await hub.execute(purged("one"))
                await swept(hub)
                assert is_secret_in(tmp_path)
                writes.execute("BEGIN IMMEDIATE")
                reads.execute("ROLLBACK")
                await swept(hub)
                assert is_secret_in(tmp_path)
                writes.execute("ROLLBACK")
                await forgotten(tmp_path)

    asyncio.run(scenario())
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


def test_it_is_done_also_while_commands_come_without_a_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LARGEST_COMMIT", 1)
    monkeypatch.setattr(sweep, "WITHIN", 0.0)
    comes, goes_on = threading.Event(), threading.Event()

    def next_one(_: Transaction) -> None:
        comes.set()
        assert goes_on.wait(10)

    async def scenario() -> None:
        async with running(tmp_path) as hub:
            await hub.execute(starting("one"))
            await hub.execute(ended("one"))
            assert is_secret_in(tmp_path)
            commands = [asyncio.ensure_future(hub.execute(each)) for each in (purged("one"), next_one, next_one)]
            assert await asyncio.to_thread(comes.wait, 10)
            assert not is_secret_in(tmp_path)
            goes_on.set()
            await asyncio.gather(*commands)

    asyncio.run(scenario())


def test_a_log_that_cannot_be_emptied_is_told_of_and_stops_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as hub:
            await hub.execute(starting("one"))
            await hub.execute(ended("one"))
            sweeper = hub._store._sweeper
            kept = sweeper._connection
            with closing(sqlite3.connect(tmp_path / FILE_NAME, check_same_thread=False)) as unusable:
                sweeper._connection = unusable
            await hub.execute(purged("one"))
            while not caplog.records:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            await hub.execute(starting("two", b"other"))
            sweeper._connection = kept
            await forgotten(tmp_path)

    asyncio.run(scenario())
    assert "could not be emptied" in caplog.text
    assert SECRET.decode() not in caplog.text


# When the hub ends before it is done


def test_it_is_done_before_the_file_is_closed_also_when_another_program_keeps_it_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By itself SQLite empties the log when the last one closes the file."""
    monkeypatch.setattr(sweep, "WITHIN", 1000.0)

    async def scenario(other: sqlite3.Connection) -> None:
        async with running(tmp_path) as hub:
            await hub.execute(starting("one"))
            await hub.execute(ended("one"))
            assert other.execute("SELECT count(*) FROM instances").fetchall() == [(1,)]
            await hub.execute(purged("one"))
        assert not is_secret_in(tmp_path)

    (tmp_path / FILE_NAME).touch()
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as other:
        asyncio.run(scenario(other))


def test_after_a_crash_it_is_done_at_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "first", tmp_path / "second"

    async def crashed() -> None:
        async with running(first) as hub:
            await hub.execute(starting("one"))
            await hub.execute(ended("one"))
            await hub.execute(purged("one"))
            shutil.copytree(first, second)

    async def again() -> None:
        async with running(second) as hub:
            await forgotten(second)
            assert hub.reader.execute("SELECT count(*) FROM instances").fetchone() == (0,)

    with monkeypatch.context() as patch:
        patch.setattr(sweep, "WITHIN", 1000.0)
        asyncio.run(crashed())
    assert is_secret_in(second)
    asyncio.run(again())
