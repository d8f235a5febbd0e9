"""The record store in one SQLite file."""

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from services.record_store import Change, RecordStoreError, Row, RowTaken

BUSY = 5.0
"""Seconds that a write waits for another process to let go of the file."""

_TABLE = """record (
    partition TEXT NOT NULL,
    key TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (partition, key)
) STRICT, WITHOUT ROWID"""
_PUT = "INSERT INTO record VALUES (?, ?, ?) ON CONFLICT (partition, key) DO UPDATE SET body = excluded.body"
_RANGE = "SELECT key, body FROM record WHERE partition = ? AND key >= ? AND key < ? ORDER BY key LIMIT ?"


class SqliteRecordStore:
    """A ``RecordStore`` in a file that only its owner can read.

    Each write is one transaction, over partitions too, and on the disk when it returns. Readers do not wait for
    writers. The file is opened by the first call, and again after an error.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._writing = threading.Lock()
        self._reading = threading.Lock()
        self._opening = threading.Lock()  # SQLite does not wait for another that makes the journal
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None

    def write(self, changes: Iterable[Change]) -> None:
        """Make the changes, all or none."""
        with self._writing, self._errors():
            if self._writer is None:
                self._writer = self._opened()
            try:
                _make_all(self._writer, changes)
            except sqlite3.Error:
                self._writer.close()
                self._writer = None
                raise

    def get(self, partition: str, key: str) -> Row | None:
        """Return a row, or None."""
        rows = self._read("SELECT key, body FROM record WHERE partition = ? AND key = ?", partition, key)
        return rows[0] if rows else None

    def get_all(self, partition: str, keys: Sequence[str]) -> list[Row | None]:
        """Return rows, each or None."""
        return [self.get(partition, key) for key in keys]

    def range(self, partition: str, start: str, end: str, limit: int) -> list[Row]:
        """Return the first rows of a range of keys."""
        return self._read(_RANGE, partition, start, end, limit)

    def scrub(self) -> None:
        """Write the file anew and empty its journal: pages keep remains of rows that were moved, even from others.

        It takes time with the size of the file, in which nobody else writes.
        """
        with self._writing, self._errors():
            if self._writer is None:
                self._writer = self._opened()
            self._writer.execute("VACUUM")
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        with self._writing, self._reading:
            for connection in (self._reader, self._writer):
                if connection is not None:
                    connection.close()
            self._reader = self._writer = None

    def _read(self, statement: str, *values: str | int) -> list[Row]:
        with self._reading, self._errors():
            if self._reader is None:
                self._reader = self._opened()
            try:
                return [Row(key, body) for key, body in self._reader.execute(statement, values)]
            except sqlite3.Error:
                self._reader.close()
                self._reader = None
                raise

    def _opened(self) -> sqlite3.Connection:
        with self._opening:
            return self._open()

    def _open(self) -> sqlite3.Connection:
        self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file.touch(mode=0o600)
        connection = sqlite3.connect(self._file, timeout=BUSY, isolation_level=None, check_same_thread=False)
        connection.text_factory = _text
        try:
            connection.execute("PRAGMA secure_delete = ON")  # what was erased is not left in free pages
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"CREATE TABLE IF NOT EXISTS {_TABLE}")
            _check_schema(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise RecordStoreError(f"The records in {self._file} cannot be used: {error}.") from error


def _check_schema(connection: sqlite3.Connection) -> None:
    """Refuse a file in which a write may do something else than it says, as a trigger can make it do."""
    found = connection.execute("SELECT sql FROM sqlite_master WHERE name NOT GLOB 'sqlite_stat[1-4]'").fetchall()
    if found != [(f"CREATE TABLE {_TABLE}",)]:
        raise sqlite3.DatabaseError("it has other tables, indexes or triggers than the app makes")


def _text(stored: bytes) -> str:
    """Read a text whatever its bytes are: a row that was tampered with must not hide the others."""
    return stored.decode(errors="replace")


def _make_all(writer: sqlite3.Connection, changes: Iterable[Change]) -> None:
    writer.execute("BEGIN IMMEDIATE")
    try:
        for change in changes:
            _make(writer, change)
        writer.execute("COMMIT")
    finally:
        if writer.in_transaction:
            writer.execute("ROLLBACK")


def _make(writer: sqlite3.Connection, change: Change) -> None:
    if change.do == "delete":
        writer.execute("DELETE FROM record WHERE partition = ? AND key = ?", (change.partition, change.key))
    elif change.do == "put":
        writer.execute(_PUT, (change.partition, change.key, change.body))
    else:
        try:
            writer.execute("INSERT INTO record VALUES (?, ?, ?)", (change.partition, change.key, change.body))
        except sqlite3.IntegrityError:
            raise RowTaken(change.partition, change.key) from None
