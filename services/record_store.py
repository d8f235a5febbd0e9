"""The store of the records: rows in partitions, read by ranges of their keys.

Both implementations know nothing of waits and trails. What stands in which partition under which key is decided in
``services.waits`` and ``services.trail``, so that it is the same in SQLite and in Azure Table Storage.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol
from urllib.parse import quote

from settings import get_settings

MAX_KEY = 200
MAX_BODY = 30_000
"""Characters of a row's body: a text of Azure Table Storage holds 64 KiB of UTF-16."""


class RecordStoreError(Exception):
    """The store cannot be reached, or does not take what it is given. Trying again later is right."""


class RowTaken(Exception):
    """A row that was to be inserted is there already; nothing of its partition was changed."""

    def __init__(self, partition: str, key: str) -> None:
        super().__init__(f"{partition} {key}")
        self.partition = partition
        self.key = key


@dataclass(frozen=True)
class Change:
    """One change of one row: ``insert`` (it must not be there), ``put`` (insert or replace), ``delete`` (if it is
    there). ``body`` is a text of up to ``MAX_BODY`` characters, usually JSON."""

    do: Literal["insert", "put", "delete"]
    partition: str
    key: str
    body: str = ""


@dataclass(frozen=True)
class Row:
    """A row of a partition."""

    key: str
    body: str


class RecordStore(Protocol):
    """Rows with a body of text, ordered by their keys within a partition, by code point.

    Partitions and keys are ASCII, up to 400 characters, without ``/ \\ # ?`` and control characters. All methods raise
    ``RecordStoreError`` when the store cannot be reached.
    """

    def write(self, changes: Iterable[Change]) -> None:
        """Make changes: those of one partition all or none, partitions in the order in which each comes first.

        Raises ``RowTaken``; partitions before that of the taken row may be changed by then, so that the caller
        makes them again, which must do no harm.
        """
        ...

    def get(self, partition: str, key: str) -> Row | None:
        """Return a row, or None."""
        ...

    def get_all(self, partition: str, keys: Sequence[str]) -> list[Row | None]:
        """Return rows that do not stand side by side, each or None, as fast as the store can."""
        ...

    def range(self, partition: str, start: str, end: str, limit: int) -> list[Row]:
        """Return up to ``limit`` rows with ``start <= key < end``, in the order of their keys, reading no more."""
        ...

    def scrub(self) -> None:
        """Leave nothing behind of what was replaced or deleted, as far as it is in the store's hands."""
        ...

    def close(self) -> None:
        """Let go of files and connections; the next call takes them again."""
        ...


def key_part(text: str) -> str:
    """Return a part of a key for any text: percent-encoded with ``=`` for ``%``, which keys cannot hold everywhere.

    A long text is cut, with its hash at the end. No two texts have the same part.
    """
    # Not ``~``, which quote() leaves: a text could look like a longer one that was cut.
    encoded = quote(text, safe="-_.:@", errors="surrogatepass").replace("%", "=").replace("~", "=7E")
    if len(encoded) > MAX_KEY:
        digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]
        encoded = f"{encoded[: MAX_KEY - 33]}~{digest}"
    return encoded


def key_after(key: str) -> str | None:
    """Return the least key of a writer's that is greater, or None.

    A key that is not ASCII is no writer's. In SQLite it may be no UTF-8 either, and is not what it is read as: reading
    on from there could give it again and again, or leave others out. All keys of writers that begin as it does come
    before it.
    """
    sound, *other = re.split(r"[^\x00-\x7e]", key, maxsplit=1)
    if not other:
        return key + " "
    return sound[:-1] + chr(ord(sound[-1]) + 1) if sound else None


@lru_cache(maxsize=1)
def get_record_store() -> RecordStore:
    """The record store that the settings ask for, once per process."""
    settings = get_settings()
    if settings.records == "tables":
        from services.record_store_tables import TablesRecordStore  # imported where it is used: it takes long

        return TablesRecordStore.of(settings)
    from services.record_store_sqlite import SqliteRecordStore

    return SqliteRecordStore(settings.local_host_data / "records.db")


def close_record_store() -> None:
    """Close the record store, if there is one, and forget it: the next call reads the settings anew."""
    if get_record_store.cache_info().currsize:
        get_record_store().close()
    get_record_store.cache_clear()
