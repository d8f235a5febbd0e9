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
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from local_host.task_hub.schema import MIGRATIONS
from local_host.task_hub.sweep import Sweeper

APPLICATION_ID = 0x43544831
LARGEST_COMMIT = 512
"""Commands that are committed together at most, so that the first does not wait for ever."""

FILE_ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""What SQLite raises for a file that it cannot read or write; the latter where a damaged page should hold text."""

_LOGGER = logging.getLogger("local_host.task_hub")


class StoreError(Exception):
    """The file cannot be opened, read or written; the message is for people."""


@dataclass
class Effects:
    """What commands did that somebody in memory has to hear of, after the commit.

    ``turns``, ``activities`` and ``entities`` are the row ids of what became ready to run; ``changed`` the instance ids
    whose status changed; ``earliest`` the due time of the earliest new timer. ``erased`` says that something was
    deleted that is to be left nowhere.
    """

    turns: dict[int, None] = field(default_factory=dict)
    activities: list[int] = field(default_factory=list)
    entities: dict[int, None] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    earliest: int | None = None
    erased: bool = False

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
        self._reading = threading.Lock()
        self._commands: queue.SimpleQueue[tuple[Command[Any], asyncio.Future[Any]] | None] = queue.SimpleQueue()
        self._closed = False
        with told(file), ExitStack() as opened:
            opened.enter_context(_lock(file))
            self._writer = opened.enter_context(_connect(file))
            _refuse_foreign(self._writer, file)
            _configure(self._writer, synchronous)
            _migrate(self._writer)
            self.reader, self._shared_reader = (opened.enter_context(_connect(file)) for _ in range(2))
            for reader in (self.reader, self._shared_reader):
                _configure(reader, synchronous)
                reader.execute("PRAGMA query_only = 1")
            sweeping = opened.enter_context(_connect(file))
            _configure(sweeping, synchronous)
            self._sweeper = Sweeper(sweeping)
            self._opened = opened.pop_all()
        self._thread = threading.Thread(target=self._write, name="task-hub-writer", daemon=True)
        self._thread.start()

    async def execute[T](self, command: Command[T]) -> T:
        """Run a command and give its result once it is committed.

        What the command raises is raised here; it must not have written anything then. Raises ``StoreError`` when the
        commit fails, or when the file is being closed: then nothing was written.
        """
        if self._closed:
            raise StoreError("The task hub has stopped.")
        answer: asyncio.Future[T] = self._loop.create_future()
        self._under_way += 1
        self._commands.put((command, answer))
        return await answer

    @contextmanager
    def shared_reader(self) -> Iterator[sqlite3.Connection]:
        """A reader for other threads, one at a time. Raises ``StoreError`` for what SQLite finds, or once closed."""
        with self._reading:
            if self._closed:
                raise StoreError("The task hub has stopped.")
            try:
                yield self._shared_reader
            except sqlite3.Error as error:
                raise StoreError(f"The task hub's file could not be read: {error}.") from None

    @property
    def idle(self) -> bool:
        """Whether every command has been answered."""
        return not self._under_way

    async def close(self) -> None:
        """Commit what was handed over, answer it, and close the file."""
        self._closed = True
        self._commands.put(None)
        await asyncio.to_thread(self._thread.join)
        with self._reading:
            self._opened.close()

    def _write(self) -> None:
        while True:
            rest = self._sweeper.rest
            if rest == 0:
                self._sweeper.sweep()
            try:
                batch = [self._commands.get(timeout=rest)]
            except queue.Empty:
                continue
            while batch[-1] is not None and len(batch) < LARGEST_COMMIT:
                try:
                    batch.append(self._commands.get_nowait())
                except queue.Empty:
                    break
            commands = [each for each in batch if each is not None]
            if commands:
                self._commit(commands)
            if batch[-1] is None:
                self._sweeper.sweep()
                return

    def _commit(self, commands: list[tuple[Command[Any], asyncio.Future[Any]]]) -> None:
        """Run commands in one transaction; when one of them spoils it, run each in one of its own."""
        effects = Effects()
        outcomes: list[tuple[asyncio.Future[Any], Any, BaseException | None]] = []
        try:
            self._writer.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:  # no fault of one of the commands: each would wait for another program again
            self._post(effects, [(answer, None, _explained(error)) for _, answer in commands])
            return
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
        if effects.erased:
            self._sweeper.note()
        self._post(effects, outcomes)

    @contextmanager
    def _transaction(self, effects: Effects) -> Iterator[Transaction]:
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
    if not isinstance(error, FILE_ERRORS):
        _LOGGER.error("A command of the task hub failed", exc_info=error)
        return error
    return StoreError(f"The task hub's file could not be written: {error}.")


@contextmanager
def told(file: Path) -> Iterator[None]:
    """Say what is wrong with a file that cannot be opened."""
    try:
        yield
    except FILE_ERRORS as error:
        raise StoreError(
            f"The task hub's file {file} cannot be opened: {error}. If it is damaged, restore it from a copy, or move "
            "it away to begin with an empty one."
        ) from None


@contextmanager
def _connect(file: Path) -> Iterator[sqlite3.Connection]:
    """Open a connection. Its statements are not wrapped in transactions; that is the writer's work."""
    file.touch(mode=0o600)  # SQLite gives the files beside it the same mode
    with closing(
        sqlite3.connect(file, isolation_level=None, check_same_thread=False, cached_statements=256)
    ) as connection:
        yield connection


def _configure(connection: sqlite3.Connection, synchronous: str) -> None:
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA secure_delete = ON")  # what was deleted is not left in free pages
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute("PRAGMA busy_timeout = 5000")
    connection.execute("PRAGMA temp_store = MEMORY")


@contextmanager
def _lock(file: Path) -> Iterator[None]:
    """Hold the file for this process: the lock of an SQLite file beside it, which ends with the process."""
    beside = file.with_name(file.name + ".lock")
    beside.touch(mode=0o600)
    with closing(sqlite3.connect(beside, isolation_level=None, timeout=0, check_same_thread=False)) as lock:
        try:
            lock.execute("PRAGMA journal_mode = DELETE")
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            raise StoreError(f"Another host uses {file}. Stop that one, or choose another data folder.") from None
        yield


def _refuse_foreign(connection: sqlite3.Connection, file: Path) -> None:
    """Leave alone what another program wrote, or a newer version of this one. Raises ``StoreError`` for it."""
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


def _migrate(connection: sqlite3.Connection) -> None:
    """Bring the file to today's schema, each step wholly or not at all."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    for number in range(version, len(MIGRATIONS)):
        connection.executescript(
            f"BEGIN IMMEDIATE; {MIGRATIONS[number]}; PRAGMA application_id = {APPLICATION_ID};"
            f"PRAGMA user_version = {number + 1}; COMMIT;"
        )
