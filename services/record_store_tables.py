"""The record store in Azure Table Storage."""

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal
from urllib.parse import urlsplit

from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.core.pipeline import PipelineResponse
from azure.core.pipeline.transport import RequestsTransport
from azure.data.tables import TableClient, TableErrorCode, UpdateMode
from requests import Session
from requests.adapters import HTTPAdapter

from services.record_store import Change, RecordStoreError, Row, RowTaken
from settings import Settings

CONNECT_SECONDS = 3.0
READ_SECONDS = 5.0
CALL_SECONDS = 12.0
"""When a call is given up, with all its retries; what is under way by then may take one read more."""
RETRIES = 2
CONNECTIONS = 64
"""How many threads keep a connection; each one more opens one for each call."""
AT_ONCE = 10
"""How many calls one thread has under way at a time, where it needs many rows."""

PART = 16_000
"""Characters of a body in one property, which holds 32,768 units of UTF-16; a character takes up to two."""
MAX_OPERATIONS = 100
MAX_TRANSACTION = 3_000_000
"""Bytes of bodies in one transaction. The service takes 4 MiB, in which each operation has a head of its own."""
PAGE = 1000
"""Rows that the service gives at most in one answer."""

_RANGE = "PartitionKey eq @partition and RowKey ge @start and RowKey lt @end"
_MISSING = (TableErrorCode.RESOURCE_NOT_FOUND, TableErrorCode.ENTITY_NOT_FOUND)
_EXISTS = (TableErrorCode.ENTITY_ALREADY_EXISTS, TableErrorCode.RESOURCE_ALREADY_EXISTS)
_EXPECTED = (*_MISSING, *_EXISTS, TableErrorCode.TABLE_NOT_FOUND, TableErrorCode.TABLE_ALREADY_EXISTS)

# At INFO it logs the address of every request, in which keys stand, and in those the addresses of people.
logging.getLogger("azure.core.pipeline.policies.http_logging_policy").setLevel(logging.WARNING)

type Operation = tuple[Literal["insert", "put", "delete"], Change]
"""What is done, and the change that says of which row, and with which body."""


class TablesRecordStore:
    """A ``RecordStore`` in one table: partition and key are those of an entity, whose property ``body`` is the body.

    A body that is too long for one property goes on in ``body2``, and so on. The changes of a partition are one
    transaction as long as the service takes them in one, which is up to 100 rows or 3 MB; what is beyond comes in a
    second one after it. The table is made by the first write that misses it, and reads as empty until then.

    Many threads may use it. Inserts are not sent again when their answer is lost: the caller may have to find that a
    row that is taken is its own.
    """

    def __init__(self, connection: str, table: str) -> None:
        """``connection`` is a connection string, the address of a table service, or the name of a storage account.

        Raises ``ValueError`` when it is none of them; its text holds nothing of it.
        """
        # The session is made here, because the one of the SDK is made by the first call, which may be two at once. It
        # would also keep ten connections only, and warn of each one more.
        self._session = Session()
        adapter = HTTPAdapter(pool_connections=2, pool_maxsize=CONNECTIONS)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)
        self._table = _client(connection, table, self._session)
        self._name = f"The table '{table}' of {urlsplit(self._table.url).netloc}"

    @classmethod
    def of(cls, settings: Settings) -> "TablesRecordStore":
        """The store that the settings name. Raises ``RecordStoreError`` when they name none."""
        secret = settings.records_connection
        connection = secret.get_secret_value().strip(" \t\r\n;") if secret is not None else ""
        if not connection:
            raise RecordStoreError(
                "RECORDS=tables needs a storage account: set RECORDS_CONNECTION (or AzureWebJobsStorage) to a "
                "connection string, or to the https address of a table service."
            )
        try:
            return cls(connection, settings.records_table)
        except ValueError as error:
            problem = f"RECORDS_CONNECTION (or AzureWebJobsStorage) cannot be used: {error}."
        raise RecordStoreError(problem)

    def scrub(self) -> None:
        """Do nothing: the service keeps no older versions of an entity."""

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        self._session.close()

    def write(self, changes: Iterable[Change]) -> None:
        """Make the changes, those of a partition in one transaction."""
        partitions: dict[str, list[Change]] = {}
        for change in changes:
            partitions.setdefault(change.partition, []).append(change)
        for group in partitions.values():
            operations, absent = _folded(group)
            for change in absent:
                if self.get(change.partition, change.key) is not None:
                    raise RowTaken(change.partition, change.key)
            for transaction in _transactions(operations):
                self._make(transaction)

    def get(self, partition: str, key: str) -> Row | None:
        """Return a row, or None."""
        try:
            return self._asked(lambda: _row(self._table.get_entity(partition, key)))
        except _Refused as refused:
            if refused.code in (*_MISSING, TableErrorCode.TABLE_NOT_FOUND):
                return None
            raise self._error(refused.code) from None

    def get_all(self, partition: str, keys: Sequence[str]) -> list[Row | None]:
        """Return rows, each or None. A filter for keys that are far apart would look through all between them."""
        with ThreadPoolExecutor(AT_ONCE) as threads:
            return list(threads.map(lambda key: self.get(partition, key), keys))

    def range(self, partition: str, start: str, end: str, limit: int) -> list[Row]:
        """Return the first rows of a range of keys."""
        parameters = {"partition": partition, "start": start, "end": end}
        rows: list[Row] = []
        continuation: Any = None
        while len(rows) < limit:
            # An answer may be short, or empty, where the service stopped looking. The next one asks for the rest only.
            asked = min(limit - len(rows), PAGE)
            found = self._table.query_entities(_RANGE, parameters=parameters, results_per_page=asked)
            pages: Any = found.by_page(continuation)
            try:
                rows += self._asked(lambda pages=pages: [_row(entity) for entity in next(pages)])  # type: ignore[misc]
            except _Refused as refused:
                if refused.code in (*_MISSING, TableErrorCode.TABLE_NOT_FOUND):
                    return []
                raise self._error(refused.code) from None
            continuation = pages.continuation_token
            if continuation is None:
                break
        return rows

    def _make(self, operations: list[Operation]) -> None:
        """Make the operations on one partition, all or none."""
        table_made = False
        while operations:
            try:
                self._asked(lambda now=operations: self._send(now))  # type: ignore[misc]
            except _Refused as refused:
                do, change = operations[refused.index]
                if refused.code == TableErrorCode.TABLE_NOT_FOUND and not table_made:
                    self._make_table()
                    table_made = True
                elif refused.code in _EXISTS and do == "insert":
                    raise RowTaken(change.partition, change.key) from None
                elif refused.code in _MISSING and do == "delete":
                    # One that is not there fails the whole transaction: again without it, as if it had been deleted
                    # a moment before.
                    operations = [each for i, each in enumerate(operations) if i != refused.index]
                else:
                    raise self._error(refused.code) from None
            else:
                return

    def _send(self, operations: list[Operation]) -> None:
        (do, change), *more = operations
        if more:
            self._table.submit_transaction(_OPERATIONS[do](_entity(change)) for do, change in operations)
        elif do == "insert":
            self._table.create_entity(_entity(change))
        elif do == "put":
            self._table.upsert_entity(_entity(change), mode=UpdateMode.REPLACE)
        else:
            self._table.delete_entity(change.partition, change.key)

    def _make_table(self) -> None:
        try:
            self._asked(self._table.create_table)
        except _Refused as refused:
            if refused.code != TableErrorCode.TABLE_ALREADY_EXISTS:
                raise self._error(refused.code) from None

    def _asked[T](self, call: Callable[[], T]) -> T:
        """Call the service. Raises ``_Refused`` for an answer that the caller may have expected."""
        try:
            return call()
        except (AzureError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            # All but the first are what the SDK makes of an answer that is not the service's: that of a proxy, say.
            code, index = _code(error), getattr(error, "index", 0)
            refused = _Refused(code, index) if code in _EXPECTED else None
            failure = self._error(_problem(error, code))
        # Here, not there: the error of the SDK holds addresses, and those may hold keys of rows, or a signature.
        raise refused if refused is not None else failure

    def _error(self, problem: str) -> RecordStoreError:
        return RecordStoreError(f"{self._name} cannot be used: {problem}.")


class _Refused(Exception):
    """The service refused an operation, with the code; in a transaction, that with the index."""

    def __init__(self, code: str, index: int) -> None:
        super().__init__(code)
        self.code = code
        self.index = index


_OPERATIONS: dict[str, Callable[[dict[str, str]], Any]] = {
    "insert": lambda entity: ("create", entity),
    "put": lambda entity: ("upsert", entity, {"mode": UpdateMode.REPLACE}),
    "delete": lambda entity: ("delete", entity),
}


def _client(connection: str, table: str, session: Session) -> TableClient:
    options: dict[str, Any] = {
        "transport": RequestsTransport(
            session=session,
            session_owner=False,
            connection_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
        ),
        "timeout": CALL_SECONDS,
        "retry_total": RETRIES,
        "retry_backoff_factor": 0.2,
        "raw_response_hook": _without_retry_after,
    }
    if connection.isascii() and connection.isalnum():
        connection = f"https://{connection}.table.core.windows.net"
    if not connection.lower().startswith(("https://", "http://")):
        try:
            return TableClient.from_connection_string(connection, table, **options)
        except (ValueError, KeyError):
            pass  # its text may hold what it could not read
        raise ValueError("it is no connection string with a key or a signature, and no address")
    if "sig=" in urlsplit(connection).query:  # a shared access signature
        return TableClient(connection, table, **options)
    if not connection.lower().startswith("https://"):
        raise ValueError("an identity is shown over https only; for http it has to be a connection string")
    from azure.identity import DefaultAzureCredential  # imported where it is used: it takes long

    return TableClient(connection, table, credential=DefaultAzureCredential(), **options)


def _without_retry_after(response: PipelineResponse[Any, Any]) -> None:
    """Take away how long a busy service wants us to wait, which the SDK would do, however long it is."""
    response.http_response.headers.pop("Retry-After", None)


def _folded(changes: list[Change]) -> tuple[list[Operation], list[Change]]:
    """Return one operation for each row, which does what its changes do in turn; a transaction takes no more than one.

    Second, rows that must not be there and with which nothing is done: they are inserted and deleted again.
    """
    folded: dict[str, tuple[Any, Change]] = {}
    for change in changes:
        before = folded[change.key][0] if change.key in folded else None
        if change.do == "insert" and before in ("insert", "put"):
            raise RowTaken(change.partition, change.key)
        folded[change.key] = _FOLDS.get((before, change.do), change.do), change
    operations = [(do, change) for do, change in folded.values() if do != "absent"]
    return operations, [change for do, change in folded.values() if do == "absent"]


_FOLDS: dict[tuple[str | None, str], str] = {
    ("insert", "put"): "insert",
    ("insert", "delete"): "absent",
    ("absent", "put"): "insert",
    ("absent", "delete"): "absent",
    ("delete", "insert"): "put",
}
"""What two changes of one row come to, where it is not just the second."""

_REASONS = re.compile(r"\[Errno -?\d+\] [\w ]+|certificate verify failed|timed out")
"""What may be repeated of a network error's text, which also has the address of the request."""


def _transactions(operations: list[Operation]) -> Iterator[list[Operation]]:
    transaction: list[Operation] = []
    size = 0
    for do, change in operations:
        added = len(json.dumps(change.body))
        if len(transaction) == MAX_OPERATIONS or (transaction and size + added > MAX_TRANSACTION):
            yield transaction
            transaction, size = [], 0
        transaction.append((do, change))
        size += added
    yield transaction


def _entity(change: Change) -> dict[str, str]:
    entity = {"PartitionKey": change.partition, "RowKey": change.key, "body": change.body[:PART]}
    for number, start in enumerate(range(PART, len(change.body), PART), 2):
        entity[f"body{number}"] = change.body[start : start + PART]
    return entity


def _row(entity: Any) -> Row:
    body, number = entity["body"], 2
    while (part := entity.get(f"body{number}")) is not None:
        body += part
        number += 1
    return Row(entity["RowKey"], body)


def _code(error: Exception) -> str:
    """Return the code that the service gave, or nothing."""
    code = getattr(error, "error_code", None)
    if code is None and isinstance(error, HttpResponseError) and error.response is not None:
        try:
            code = json.loads(error.response.text())["odata.error"]["code"]  # inserts give their error as it came
        except (ValueError, TypeError, KeyError, AzureError):
            return ""
    return str(getattr(code, "value", code) or "")


def _problem(error: Exception, code: str) -> str:
    """Say what is wrong in words that hold nothing of the request."""
    status = getattr(error, "status_code", None)
    if status is not None and status >= 400:
        return f"it answered {status} {code}".rstrip()
    if isinstance(error, ClientAuthenticationError):
        return f"the app could not show who it is ({type(error).__name__})"
    if isinstance(error, ServiceRequestError | ServiceResponseError | OSError):
        known = _REASONS.search(str(error))
        return f"it cannot be reached ({known[0] if known else type(error).__name__})"
    return f"it does not answer as a table service does ({type(error).__name__})"
