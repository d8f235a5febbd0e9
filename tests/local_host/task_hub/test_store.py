"""The hub's file: commits of many commands, what one of them spoils, and which files are taken at all."""

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from local_host.task_hub import TaskHub, TaskHubError, store
from local_host.task_hub.hub import FILE_NAME
from local_host.task_hub.instances import NewInstance, start
from local_host.task_hub.schema import MIGRATIONS
from local_host.task_hub.store import Command, Effects, Refused, Store, StoreError, Transaction
from tests.hosting import host_process, start_process

APPS = Path(__file__).parents[1] / "apps"


class Block:
    """A command that keeps the writer busy until it is released; what is handed over meanwhile is one batch."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.released = threading.Event()

    def __call__(self, _tx: Transaction) -> None:
        self.entered.set()
        assert self.released.wait(20)


class Opened:
    """A store with a table ``t (n)``, and the effects of its commits in their order, as far as they have any."""

    def __init__(self, file: Path) -> None:
        self.commits: list[Effects] = []
        self.store = Store(file, synchronous="NORMAL", now=lambda: 42, on_commit=self._on_commit)

    def _on_commit(self, effects: Effects) -> None:
        if effects.changed:
            self.commits.append(effects)

    async def batch(self, *commands: Command[Any]) -> list[Any]:
        """Run commands in one batch, and give the answer or the exception of each."""
        block = Block()
        blocked = asyncio.ensure_future(self.store.execute(block))
        assert await asyncio.to_thread(block.entered.wait, 20)
        answers = [asyncio.ensure_future(self.store.execute(each)) for each in commands]
        await asyncio.sleep(0)
        block.released.set()
        await blocked
        return await asyncio.gather(*answers, return_exceptions=True)

    @property
    def numbers(self) -> list[int]:
        """What is committed."""
        return [n for (n,) in self.store.reader.execute("SELECT n FROM t ORDER BY rowid")]


@asynccontextmanager
async def opened(file: Path) -> AsyncIterator[Opened]:
    it = Opened(file)
    await it.store.execute(lambda tx: tx.run("CREATE TABLE IF NOT EXISTS t (n INTEGER UNIQUE)"))
    try:
        yield it
    finally:
        await it.store.close()


def insert(n: int) -> Command[int]:
    def command(tx: Transaction) -> int:
        tx.run("INSERT INTO t VALUES (?)", n)
        tx.effects.changed.add(str(n))
        return n

    return command


def insert_and_raise(n: int, error: Exception) -> Command[int]:
    def command(tx: Transaction) -> int:
        insert(n)(tx)
        raise error

    return command


def refuse(_tx: Transaction) -> int:
    raise Refused("NOT_FOUND", "no")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / FILE_NAME


# Commits


def test_many_commands_are_one_commit(file: Path) -> None:
    async def scenario() -> None:
        async with opened(file) as it:
            assert await it.batch(*(insert(n) for n in range(100))) == list(range(100))
            (effects,) = it.commits
            assert effects.changed == {str(n) for n in range(100)}

    asyncio.run(scenario())


def test_commands_of_a_commit_see_each_other_and_nobody_else_sees_them_before_it(file: Path) -> None:
    async def scenario() -> None:
        async with opened(file) as it:
            seen: list[list[int]] = []

            def look(tx: Transaction) -> list[int]:
                with closing(sqlite3.connect(file)) as other:
                    seen.append([n for (n,) in other.execute("SELECT n FROM t")])
                return [n for (n,) in tx.all("SELECT n FROM t")]

            assert await it.batch(insert(1), insert(2), look) == [1, 2, [1, 2]]
            assert seen == [[]]

    asyncio.run(scenario())


def test_no_commit_is_larger_than_the_limit(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LARGEST_COMMIT", 10)

    async def scenario() -> None:
        async with opened(file) as it:
            await it.batch(*(insert(n) for n in range(25)))
            assert [len(each.changed) for each in it.commits] == [10, 10, 5]

    asyncio.run(scenario())


def test_a_command_that_refuses_does_not_concern_the_others_of_its_commit(file: Path) -> None:
    async def scenario() -> None:
        async with opened(file) as it:
            one, refusal, two = await it.batch(insert(1), refuse, insert(2))
            assert (one, two) == (1, 2)
            assert isinstance(refusal, Refused)
            assert refusal.code == "NOT_FOUND"
            assert len(it.commits) == 1
            assert it.numbers == [1, 2]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("spoiler", "expected"),
    [
        (insert_and_raise(9, RuntimeError("bug")), RuntimeError),
        (lambda tx: tx.run("INSERT INTO t VALUES (9), (9)"), StoreError),
        (lambda tx: tx.run("NO SQL AT ALL"), StoreError),
    ],
    ids=["a bug", "a constraint", "a syntax error"],
)
def test_a_command_that_spoils_the_commit_is_the_only_one_to_fail(
    file: Path, spoiler: Command[Any], expected: type[Exception]
) -> None:
    async def scenario() -> None:
        async with opened(file) as it:
            *before, failed, after = await it.batch(insert(1), refuse, spoiler, insert(2))
            assert before[0] == 1
            assert isinstance(before[1], Refused)
            assert after == 2
            assert isinstance(failed, expected)
            assert it.numbers == [1, 2]
            assert [each.changed for each in it.commits] == [{"1"}, {"2"}]
            assert await it.store.execute(insert(3)) == 3  # the writer is well

    asyncio.run(scenario())


def test_an_answer_comes_only_after_the_commit(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transaction, at_commit = Store._transaction, Block()

    @contextmanager
    def held(opened: Store, effects: Effects) -> Iterator[Transaction]:
        with transaction(opened, effects) as tx:
            yield tx
            at_commit(tx)

    async def scenario() -> None:
        async with opened(file) as it:
            monkeypatch.setattr(Store, "_transaction", held)
            answer = asyncio.ensure_future(it.store.execute(insert(1)))
            assert await asyncio.to_thread(at_commit.entered.wait, 20)
            done, _ = await asyncio.wait([answer], timeout=0.1)
            assert not done
            assert it.numbers == []
            assert it.commits == []
            at_commit.released.set()
            await answer
            assert it.numbers == [1]

    asyncio.run(scenario())


def test_effects_are_told_before_the_answer_is_given(file: Path) -> None:
    async def scenario() -> None:
        async with opened(file) as it:
            answer = asyncio.ensure_future(it.store.execute(insert(1)))
            told: list[int] = []
            answer.add_done_callback(lambda _: told.append(len(it.commits)))
            await answer
            await asyncio.sleep(0)
            assert told == [1]

    asyncio.run(scenario())


def test_what_a_caller_asked_for_is_done_also_when_he_has_gone_away(file: Path) -> None:
    async def scenario() -> None:
        async with opened(file) as it:
            block = Block()
            blocked = asyncio.ensure_future(it.store.execute(block))
            assert await asyncio.to_thread(block.entered.wait, 20)
            gone = asyncio.ensure_future(it.store.execute(insert(1)))
            gone_too = asyncio.ensure_future(it.store.execute(refuse))
            stays = asyncio.ensure_future(it.store.execute(insert(2)))
            await asyncio.sleep(0)
            gone.cancel()
            gone_too.cancel()
            block.released.set()
            await blocked
            assert await stays == 2
            assert gone.cancelled()
            assert gone_too.cancelled()
            assert it.numbers == [1, 2]
            assert it.store.idle

    asyncio.run(scenario())


def test_closing_commits_and_answers_what_was_handed_over(file: Path) -> None:
    async def scenario() -> None:
        it = Opened(file)
        await it.store.execute(lambda tx: tx.run("CREATE TABLE t (n INTEGER UNIQUE)"))
        answers = [asyncio.ensure_future(it.store.execute(insert(n))) for n in range(2000)]
        await asyncio.sleep(0)
        await it.store.close()
        assert [each.result() for each in answers] == list(range(2000))
        async with opened(file) as again:
            assert again.numbers == list(range(2000))

    asyncio.run(scenario())


def test_a_store_that_is_closed_refuses_instead_of_hanging(file: Path) -> None:
    async def scenario() -> None:
        it = Opened(file)
        block = Block()
        blocked = asyncio.ensure_future(it.store.execute(block))
        assert await asyncio.to_thread(block.entered.wait, 20)
        closing_ = asyncio.ensure_future(it.store.close())
        await asyncio.sleep(0)
        with pytest.raises(StoreError, match="stopped"):
            await asyncio.wait_for(it.store.execute(refuse), 5)
        block.released.set()
        await asyncio.gather(blocked, closing_)
        with pytest.raises(StoreError, match="stopped"):
            await asyncio.wait_for(it.store.execute(refuse), 5)

    asyncio.run(scenario())


def test_another_program_that_writes_is_waited_for_once_for_all_commands(file: Path) -> None:
    async def scenario() -> None:
        async with opened(file) as it:
            await it.store.execute(lambda tx: tx.run("PRAGMA busy_timeout = 300"))
            with closing(sqlite3.connect(file, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                started = monotonic()
                answers = [asyncio.ensure_future(it.store.execute(insert(n))) for n in range(50)]
                failed = await asyncio.gather(*answers, return_exceptions=True)
                took = monotonic() - started
                other.execute("ROLLBACK")
            assert all(isinstance(each, StoreError) and "locked" in str(each) for each in failed)
            assert took < 5  # 50 times 0.3 s would be 15 s
            assert it.numbers == []
            assert await it.store.execute(insert(1)) == 1

    asyncio.run(scenario())


# Schema


def version_of(file: Path) -> int:
    with closing(sqlite3.connect(file)) as connection:
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        return version


def refusal(file: Path) -> str:
    """Open a file that is refused, and give the sentence."""

    async def attempt() -> None:
        Store(file, synchronous="NORMAL", now=lambda: 0, on_commit=lambda _: None)

    with pytest.raises(StoreError) as refused:
        asyncio.run(attempt())
    return str(refused.value)


def made(file: Path) -> Path:
    """Make a file with one instance, as a hub does it."""

    async def make() -> None:
        hub = TaskHub(file.parent)
        await hub.start()
        await hub.execute(_starting("one"))
        await hub.stop()

    asyncio.run(make())
    return file


def test_a_file_is_brought_forward_and_keeps_what_is_in_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(file)
    before = version_of(file)
    more = (*MIGRATIONS, "ALTER TABLE instances ADD COLUMN colour TEXT NOT NULL DEFAULT 'red'", "SELECT 1")
    monkeypatch.setattr(store, "MIGRATIONS", more)

    async def look() -> list[Any]:
        async with opened(file) as it:
            return it.store.reader.execute("SELECT instance_id, colour FROM instances").fetchall()

    assert asyncio.run(look()) == [("one", "red")]
    assert version_of(file) == before + 2
    assert asyncio.run(look()) == [("one", "red")]  # and it is not done twice


def test_a_migration_that_fails_leaves_the_file_as_it_was(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(file)
    before = version_of(file)
    with monkeypatch.context() as patched:
        patched.setattr(store, "MIGRATIONS", (*MIGRATIONS, "CREATE TABLE half (a); DROP TABLE no_such_table"))
        assert "no such table" in refusal(file)
    assert version_of(file) == before
    with closing(sqlite3.connect(file)) as connection:
        assert not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'half'").fetchall()
    made_again = TaskHub(file.parent)
    asyncio.run(_start_and_stop(made_again))


async def _start_and_stop(hub: TaskHub) -> None:
    await hub.start()
    await hub.stop()


def test_a_file_of_a_newer_version_is_refused_and_left_alone(file: Path) -> None:
    made(file)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = file.read_bytes()
    said = refusal(file)
    assert "newer version" in said
    assert "99" in said
    assert str(file) in said
    assert file.read_bytes() == before


def test_a_file_of_another_program_is_refused_and_left_alone(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE cookies (a)")
    before = file.read_bytes()
    assert "belongs to another program" in refusal(file)
    assert file.read_bytes() == before
    assert not file.with_name(f"{FILE_NAME}-wal").exists()


def test_what_is_no_database_is_refused_and_left_alone(file: Path) -> None:
    file.write_bytes(b"no database at all" * 1000)
    before = file.read_bytes()
    assert "not a database" in refusal(file)
    assert file.read_bytes() == before


def test_a_file_that_was_refused_is_not_held(file: Path) -> None:
    file.write_bytes(b"no database at all" * 1000)
    refusal(file)
    file.unlink()
    made(file)


def test_a_folder_that_cannot_be_used_is_refused_with_a_sentence(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    with pytest.raises(TaskHubError, match="cannot be used"):
        asyncio.run(_start_and_stop(TaskHub(in_the_way / "data")))
    with pytest.raises(TaskHubError, match="cannot be used"):
        asyncio.run(_start_and_stop(TaskHub(in_the_way)))


# One host


def test_a_second_hub_in_the_same_process_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        first = TaskHub(tmp_path)
        await first.start()
        for _ in range(3):  # a refusal does not take the lock from the first
            with pytest.raises(TaskHubError, match="Another host uses"):
                await TaskHub(tmp_path).start()
        await first.stop()
        await _start_and_stop(TaskHub(tmp_path))

    asyncio.run(scenario())


def test_a_second_host_is_refused_and_the_lock_ends_with_the_process_however_it_ends(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with host_process(data, app_dir=APPS / "durable") as first:
        second = start_process(
            "--app-dir", str(APPS / "durable"), "--data", str(data), output=subprocess.PIPE, more=None
        )
        try:
            said, _ = second.communicate(timeout=20)
        finally:
            second.kill()
            second.wait()
        assert second.returncode == 1
        assert b"Another host uses" in said
        assert len(said.splitlines()) == 1
        with pytest.raises(TaskHubError, match="Another host uses"):
            asyncio.run(_start_and_stop(TaskHub(data)))
        with first.client() as client:
            assert client.get("/api/of-blueprint").status_code == 200
        assert first.stop(signal.SIGKILL) == -signal.SIGKILL
        asyncio.run(_start_and_stop(TaskHub(data)))


def test_a_second_connection_that_comes_and_goes_takes_nothing_from_the_hub(tmp_path: Path) -> None:
    """A program that looks into the file must not make the hub write into a log that is gone."""

    async def scenario() -> None:
        hub = TaskHub(tmp_path)
        await hub.start()
        query = "SELECT count(*) FROM instances"
        looks = f"import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('{query}').fetchone())"
        for n in range(3):
            await hub.execute(_starting(f"i{n}"))
            seen = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-c", looks, str(tmp_path / FILE_NAME)],
                capture_output=True,
                check=True,
            )
            assert seen.stdout == f"({n + 1},)\n".encode()
            assert (tmp_path / f"{FILE_NAME}-wal").exists()
        await hub.stop()
        await hub.start()
        assert hub.reader.execute(query).fetchone() == (3,)
        await hub.stop()

    asyncio.run(scenario())


# What lies about


def test_only_the_owner_may_read_the_folder_and_its_files(tmp_path: Path) -> None:
    async def scenario() -> dict[str, int]:
        hub = TaskHub(tmp_path / "deep" / "data")
        await hub.start()
        await hub.execute(_starting("one"))
        folder = tmp_path / "deep" / "data"
        modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in (folder, *folder.iterdir())}
        await hub.stop()
        return modes

    before = os.umask(0o022)
    try:
        modes = asyncio.run(scenario())
    finally:
        os.umask(before)
    assert modes.pop("data") == 0o700
    assert {FILE_NAME, f"{FILE_NAME}-wal", f"{FILE_NAME}-shm", f"{FILE_NAME}.lock"} <= set(modes)
    assert set(modes.values()) == {0o600}


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_an_ephemeral_host_leaves_nothing_behind_however_it_ends(tmp_path: Path, how: signal.Signals) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    folders = [each for each in (Path("/dev/shm"), temporary) if each.is_dir()]

    def lying_about() -> set[Path]:
        return {each for folder in folders for each in folder.glob("task-hub-*")}

    before = lying_about()
    with host_process(
        tmp_path / "data", "--ephemeral", app_dir=APPS / "durable", environment={"TMPDIR": str(temporary)}
    ) as host:
        with host.client() as client:
            client.post("/api/start/gate").raise_for_status()
        host.stop(how)
    # Other tests' hubs come and go meanwhile; ours would stay.
    give_up = monotonic() + 10
    while (left := lying_about() - before) and monotonic() < give_up:
        pass
    assert not left
    assert {each.name for each in (tmp_path / "data").iterdir()} == {"host.log"}


def test_an_ephemeral_hub_works_without_files_as_others_do(tmp_path: Path) -> None:
    async def scenario() -> None:
        hub = TaskHub(None)
        await hub.start()
        for n in range(3000):
            await hub.execute(_starting(f"i{n}", "x" * 2000))  # more than a checkpoint's worth
        assert hub.reader.execute("SELECT count(*), sum(length(input)) FROM instances").fetchone() == (3000, 6_000_000)
        assert hub.reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        with hub._store.shared_reader() as reader:
            assert reader.execute("SELECT count(*) FROM instances").fetchone() == (3000,)
        await hub.stop()

    asyncio.run(scenario())


# Many at once


def test_callers_of_many_threads_get_each_their_own_answer(tmp_path: Path) -> None:
    async def scenario() -> list[list[str]]:
        hub = TaskHub(tmp_path)
        await hub.start()
        loop = asyncio.get_running_loop()

        def caller(name: int) -> list[str]:
            return [
                asyncio.run_coroutine_threadsafe(hub.execute(_starting(f"{name}-{n}")), loop).result(30)
                for n in range(50)
            ]

        with ThreadPoolExecutor(8) as pool:
            answers = await asyncio.gather(*(loop.run_in_executor(pool, caller, name) for name in range(8)))
        await hub.stop()
        return answers

    assert asyncio.run(scenario()) == [[f"{name}-{n}" for n in range(50)] for name in range(8)]


def _starting(instance_id: str, given: str | None = None) -> Command[str]:
    return lambda tx: start(tx, NewInstance(instance_id, "name", input=given), frozenset())
