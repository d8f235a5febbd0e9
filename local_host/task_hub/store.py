"""The hub's SQLite file: one writer that commits many commands together, and one reader.

A command is a function that gets a ``Transaction`` and does all its reading and writing there. Commands of one commit
see each other's changes; nobody else sees anything, and no command is answered, before the commit.
"""

import asyncio
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from local_host.task_hub.schema import MIGRATIONS

APPLICATION_ID = 0x43544831
LARGEST_COMMIT = 512
"""Commands that are committed together at most, so that the first does not wait for ever."""

_LOGGER = logging.getLogger("local_host.task_hub")


class StoreError(Exception):
    """The file cannot be opened, read or written; the message is for people."""


@dataclass
class Effects:
    """What commands did that somebody in memory has to hear of, after the commit.

    ``turns``, ``activities`` and ``entities`` are the row ids of what became ready to run; ``changed`` the instance ids
    whose status changed; ``earliest`` the due time of the earliest new timer.
    """

    turns: dict[int, None] = field(default_factory=dict)
    activities: list[int] = field(default_factory=list)
    entities: dict[int, None] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    earliest: int | None = None

    def timer(self, due: int) -> None:
        """Note a new timer."""
        self.earliest = due if self.earliest is None else min(self.earliest, due)


@dataclass
class Transaction:
    """What a command works with: the open transaction, the time, and a note of its effects."""

    db: sqlite3.Connection
    now: int
    effects: Effects

    def one(self, sql: str, *parameters: Any) -> Any:
        """Run a statement and give its first row, or None."""
        return self.db.execute(sql, parameters).fetchone()

    def all(self, sql: str, *parameters: Any) -> list[Any]:
        """Run a statement and give all its rows."""
        return self.db.execute(sql, parameters).fetchall()

    def run(self, sql: str, *parameters: Any) -> int:
        """Run a statement and give the number of rows that it changed."""
        return self.db.execute(sql, parameters).rowcount


type Command[T] = Callable[[Transaction], T]


class Store:
    """An open file. ``execute`` commands on it; read through ``reader``, from the thread that opened it.

    ``on_commit`` gets the effects of each commit, on the event loop, before the commands are answered.
    """

    def __init__(
        self, file: Path, *, synchronous: str, now: Callable[[], int], on_commit: Callable[[Effects], None]
    ) -> None:
        """Open the file. Raises ``StoreError``."""
        self._now = now
        self._on_commit = on_commit
        self._loop = asyncio.get_running_loop()
        self._under_way = 0
        self._commands: queue.SimpleQueue[tuple[Command[Any], asyncio.Future[Any]] | None] = queue.SimpleQueue()
        with _told(file):
            self._lock = _lock(file)
            self._writer = _open(file, synchronous)
            _migrate(self._writer, file)
            self.reader = _open(file, synchronous)
            self.reader.execute("PRAGMA query_only = 1")
        self._thread = threading.Thread(target=self._write, name="task-hub-writer", daemon=True)
        self._thread.start()

    async def execute[T](self, command: Command[T]) -> T:
        """Run a command and give its result once it is committed.

        What the command raises is raised here; it must not have written anything then. Raises ``StoreError`` when the
        commit fails: then nothing was written.
        """
        answer: asyncio.Future[T] = self._loop.create_future()
        self._under_way += 1
        self._commands.put((command, answer))
        return await answer

    @property
    def idle(self) -> bool:
        """Whether every command has been answered."""
        return not self._under_way

    def close(self) -> None:
        """Commit what was handed over, and close the file."""
        self._commands.put(None)
        self._thread.join()
        self.reader.close()
        self._writer.close()
        self._lock.close()

    def _write(self) -> None:
        while True:
            batch = [self._commands.get()]
            while batch[-1] is not None and len(batch) < LARGEST_COMMIT:
                try:
                    batch.append(self._commands.get_nowait())
                except queue.Empty:
                    break
            commands = [each for each in batch if each is not None]
            if commands:
                self._commit(commands)
            if batch[-1] is None:
                return

    def _commit(self, commands: list[tuple[Command[Any], asyncio.Future[Any]]]) -> None:
        """Run commands in one transaction; when one of them spoils it, run each in one of its own."""
        effects = Effects()
        outcomes: list[tuple[asyncio.Future[Any], Any, BaseException | None]] = []
        try:
            with self._transaction(effects) as transaction:
                for command, answer in commands:
                    outcomes.append((answer, *_attempt(command, transaction)))
        except Exception as error:  # noqa: BLE001  # whatever it is, it is the answer to the command
            if len(commands) > 1:
                for each in commands:
                    self._commit([each])
                return
            effects, outcomes = Effects(), [(commands[0][1], None, _explained(error))]
        self._post(effects, outcomes)

    @contextmanager
    def _transaction(self, effects: Effects) -> Iterator[Transaction]:
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            yield Transaction(self._writer, self._now(), effects)
            self._writer.execute("COMMIT")
        except BaseException:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise

    def _post(self, effects: Effects, outcomes: list[tuple[asyncio.Future[Any], Any, BaseException | None]]) -> None:
        def deliver() -> None:
            self._on_commit(effects)
            self._under_way -= len(outcomes)
            for answer, result, error in outcomes:
                if answer.done():  # whoever asked has gone away
                    continue
                if error is not None:
                    answer.set_exception(error)
                else:
                    answer.set_result(result)

        self._loop.call_soon_threadsafe(deliver)


class Refused(Exception):  # it is no fault of the hub
    """A command found that it may not do what it was asked for, before it wrote anything.

    ``code`` is the name of the gRPC status that says so.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def _attempt(command: Command[Any], transaction: Transaction) -> tuple[Any, BaseException | None]:
    """Run a command of a batch; what it refuses does not concern the others."""
    try:
        return command(transaction), None
    except Refused as refusal:
        return None, refusal


def _explained(error: Exception) -> Exception:
    if not isinstance(error, sqlite3.Error):
        _LOGGER.error("A command of the task hub failed", exc_info=error)
        return error
    return StoreError(f"The task hub's file could not be written: {error}.")


@contextmanager
def _told(file: Path) -> Iterator[None]:
    """Say what is wrong with a file that cannot be opened."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(
            f"The task hub's file {file} cannot be opened: {error}. If it is damaged, restore it from a copy, or move "
            "it away to begin with an empty one."
        ) from None


def _open(file: Path, synchronous: str) -> sqlite3.Connection:
    """Open a connection. Its statements are not wrapped in transactions; that is the writer's work."""
    file.touch(mode=0o600)  # SQLite gives the files beside it the same mode
    connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False, cached_statements=256)
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute("PRAGMA busy_timeout = 5000")
    connection.execute("PRAGMA temp_store = MEMORY")
    return connection


def _lock(file: Path) -> sqlite3.Connection:
    """Hold the file for this process: the lock of an SQLite file beside it, which ends with the process."""
    beside = file.with_name(file.name + ".lock")
    lock = sqlite3.connect(beside, isolation_level=None, timeout=0, check_same_thread=False)
    try:
        lock.execute("PRAGMA journal_mode = DELETE")
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        lock.close()
        if "locked" not in str(error):
            raise
        raise StoreError(f"Another host uses {file}. Stop that one, or choose another data folder.") from None
    return lock


def _migrate(connection: sqlite3.Connection, file: Path) -> None:
    """Bring the file to today's schema. Raises ``StoreError`` for a newer one, or one of another program."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    owner = connection.execute("PRAGMA application_id").fetchone()[0]
    empty = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
    if owner != APPLICATION_ID and not empty:
        raise StoreError(f"{file} belongs to another program. Choose another data folder.")
    if version > len(MIGRATIONS):
        raise StoreError(
            f"{file} was written by a newer version of the host (schema {version}; this one knows {len(MIGRATIONS)}). "
            "Run that version, or choose another data folder."
        )
    for number in range(version, len(MIGRATIONS)):
        connection.executescript(
            f"BEGIN IMMEDIATE; {MIGRATIONS[number]}; PRAGMA application_id = {APPLICATION_ID};"
            f"PRAGMA user_version = {number + 1}; COMMIT;"
        )
