"""What a run keeps that is too long for its custom status, such as each attempt of a call that failed.

    partition               key                    holds
    document:<instance>     <run>|<name>           a ``Document``

It goes when the instance is purged.
"""

import json

from contracts.audit import RunStamp
from contracts.records import Document
from services.record_store import Change, RecordStore, key_after, key_part

END = "}"


def stored(document: Document) -> Change:
    """The change that stores it; the same again changes nothing."""
    body = json.dumps(document.plain(), ensure_ascii=False)
    return Change("put", _partition(document.instance_id), f"{document.run}|{document.name}", body)


def read(store: RecordStore, instance_id: str, run: RunStamp, name: str) -> Document | None:
    """Return a document, or None where it is not there, or was changed into what cannot be read."""
    row = store.get(_partition(instance_id), f"{run}|{name}")
    return _document(row.body) if row is not None else None


def read_all(store: RecordStore, instance_id: str, run: RunStamp, what: str, limit: int) -> list[Document]:
    """Return the documents of a run that are ``what``, up to ``limit``, in the order of their names."""
    start = f"{run}|{what}|"
    rows = store.range(_partition(instance_id), start, start + END, limit)
    return [found for row in rows if (found := _document(row.body)) is not None]


def forget(store: RecordStore, instance_id: str) -> None:
    """Forget all documents of all runs of an instance that is purged."""
    start: str | None = ""
    while start is not None and (rows := store.range(_partition(instance_id), start, END, 100)):
        store.write([Change("delete", _partition(instance_id), row.key) for row in rows])
        start = key_after(rows[-1].key)


def _document(body: str) -> Document | None:
    try:
        return Document.model_validate_json(body)
    except ValueError:
        return None


def _partition(instance_id: str) -> str:
    return f"document:{key_part(instance_id)}"
