"""HTTP of the audit trail: reading it, verifying it, erasing comments."""

import asyncio
import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import batched
from typing import Any, Literal
from urllib.parse import quote

import azure.functions as func
from azure.durable_functions import DurableFunctionsClient

from contracts.audit import Entry
from contracts.base import Comment, Contract, Who
from errors import NotFound
from services import clock, trail
from services.identity import Said, speak_as
from services.record_store import RecordStore, get_record_store
from services.trail import Trail
from settings import get_settings
from triggers.verifying import verified, whole
from triggers.web import answer, any_instance_id_of, read_body, read_query

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula."""
NOTED_AT_ONCE = 200
"""How many rows one note of an erasure names."""


class AuditQuery(Contract):
    """The parameters of ``GET /api/audit/{instance_id}``."""

    format: Literal["json", "jsonl", "csv"] = "json"


class Erasure(Contract):
    """The body of ``POST /api/audit/{instance_id}/erase``: who erases, and perhaps why."""

    by: Who
    reason: Comment | None = None


async def get_audit(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:  # noqa: ARG001
    """``GET /api/audit/{instance_id}``: all entries, as JSON, JSON lines, or CSV. 404 when there is none."""
    instance_id = any_instance_id_of(req, "instance_id")
    asked = read_query(req, AuditQuery)
    entries = (await _read(get_record_store(), instance_id)).entries
    if asked.format == "json":
        return answer({"instance_id": instance_id, "entries": [entry.plain() for entry in entries]})
    if asked.format == "jsonl":
        lines = "".join(json.dumps(entry.plain(), ensure_ascii=False) + "\n" for entry in entries)
        return _file(lines, "application/jsonl", f"{instance_id}.jsonl")
    return _file(_csv(entries), "text/csv", f"{instance_id}.csv")


async def verify_audit(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``GET /api/audit/{instance_id}/verify``: the verdict, and the first entry that is not what it was.

    404 when there is no trail, and never was one as far as the instance knows.
    """
    instance_id = any_instance_id_of(req, "instance_id")
    _, found, state = await verified(client, get_record_store(), instance_id)
    if not found.chains:
        raise _no_trail(instance_id)
    return answer(
        {
            "instance_id": instance_id,
            "valid": found.verdict == "intact",
            **asdict(found),
            "purged": state is None,
        }
    )


async def erase_audit(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``POST /api/audit/{instance_id}/erase``: takes the comments out of the trail; it still verifies.

    The erasure is noted in the trail first. ``still_in_history`` says that the instance has not been purged yet, whose
    history holds the comments as long. So does what is kept of its pauses, which is shown with the run: their reasons,
    and what it was resumed with.
    """
    instance_id = any_instance_id_of(req, "instance_id")
    body = read_body(req, Erasure, said_by="by")
    said = speak_as(body.by)
    store = get_record_store()
    # With what is on its way: the store would else take a comment in that was to be erased.
    rows, _, state = await whole(client, store, instance_id)
    if not rows.app and not rows.runs:
        raise _no_trail(instance_id)
    erased = await asyncio.to_thread(_erase, store, instance_id, rows, said, body.reason)
    return answer({"instance_id": instance_id, "erased": erased, "still_in_history": state is not None})


def _erase(store: RecordStore, instance_id: str, rows: Trail, said: Said, reason: str | None) -> int:
    erased = 0
    for keys in batched(trail.comments(rows), NOTED_AT_ONCE, strict=False):
        trail.append(
            store,
            instance_id,
            get_settings().audit_keys,
            action="erased",
            at=clock.now(),
            run=max(entry.run for entry in rows.entries),
            actor=said.actor,
            on_behalf_of=said.on_behalf_of,
            channel="api",
            detail=reason and reason[:2000],
            erasure=keys,
        )
        erased += trail.erase_comments(store, instance_id, keys)
    return erased


async def _read(store: RecordStore, instance_id: str) -> Trail:
    rows = await asyncio.to_thread(trail.read, store, instance_id)
    if not rows.app and not rows.runs:
        raise _no_trail(instance_id)
    return rows


def _no_trail(instance_id: str) -> NotFound:
    return NotFound(f"There is no audit trail of '{instance_id}'.")


def _file(text: str, mimetype: str, name: str) -> func.HttpResponse:
    disposition = f'attachment; filename="audit-{quote(name, safe="-_.")}"'
    return func.HttpResponse(
        text,
        mimetype=mimetype,
        charset="utf-8",
        headers={"Cache-Control": "no-store", "Content-Disposition": disposition, "X-Content-Type-Options": "nosniff"},
    )


def _csv(entries: Sequence[Entry]) -> str:
    text = io.StringIO()
    columns = list(Entry.model_fields)
    writer = csv.writer(text)
    writer.writerow(columns)
    for entry in entries:
        plain = entry.plain()
        writer.writerow([_cell(plain[column]) for column in columns])
    return text.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value)
    return f"'{text}" if text.startswith(FORMULA) else text
