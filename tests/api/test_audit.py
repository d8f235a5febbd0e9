"""The audit trail over HTTP: what stands in it, in which forms, that tampering is found, and that comments can go."""

import csv
import io
import json
import re
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, unquote
from uuid import uuid4

import httpx
import pytest

from activities import records as records_activity
from contracts.audit import GENESIS, Entry, TrailHead, chained, digest_of
from local_host.testing import AppControl, running_app
from services import clock, trail
from services.record_store import RecordStoreError, key_part
from settings import get_settings
from tests.hosting import ROOT, HostProcess, host_process
from tests.polling import until

REQUEST = {"requester": "Alice", "item": "Vacation Request", "timeout_hours": 1}
DECISION = {"is_approved": True, "approver": "Manager", "comments": "Approved!"}
ORDER = {"order_id": "order123", "cost": 500, "product": "Widget", "quantity": 2}
ASKED = "approvals@example.com"
MANAGEMENT = "/runtime/webhooks/durabletask/instances"
COLUMNS = list(Entry.model_fields)


# Running workflows


def approval(client: httpx.Client, **changes: Any) -> str:
    """Start an approval, and wait until it waits (or has ended)."""
    response = client.post("/api/requests", json=REQUEST | changes)
    assert response.status_code == 202, response.text
    request_id: str = response.json()["request_id"]
    until(lambda: is_quiet(client, f"/api/requests/{request_id}"))
    return request_id


def order(client: httpx.Client, **changes: Any) -> str:
    """Start an order, and wait until it waits (or has ended)."""
    response = client.post("/start-purchase-order", json=ORDER | changes)
    assert response.status_code == 202, response.text
    instance: str = response.json()["instance_id"]
    until(lambda: is_quiet(client, f"/status/{instance}"))
    return instance


def shown(client: httpx.Client, path: str) -> dict[str, Any]:
    """What a GET of an instance shows."""
    body: dict[str, Any] = client.get(path).raise_for_status().json()
    return body


def is_quiet(client: httpx.Client, path: str) -> bool:
    """Whether a run has ended, or waits, and all that it has said is on record."""
    body = shown(client, path)
    status = body["custom_status"]
    if body["output"] or not status:
        return bool(body["output"])
    is_stored: bool = status["trail"]["stored"] == status["trail"]["entries"] >= 3  # the mail was sent too
    return is_stored and status["phase"] == "waiting_for_approval"


def ended(client: httpx.Client, path: str) -> dict[str, Any]:
    """Wait for the end, and give what is shown then."""
    return until(lambda: body if (body := shown(client, path))["output"] else None)


def decide(client: httpx.Client, request_id: str, key: str | None = None, **changes: Any) -> httpx.Response:
    """Decide on an approval."""
    headers = {"Idempotency-Key": key} if key is not None else {}
    return client.post(f"/api/approvals/{request_id}", json=DECISION | changes, headers=headers)


def decided(client: httpx.Client, **changes: Any) -> str:
    """An approval that was decided and has ended."""
    request_id = approval(client)
    assert decide(client, request_id, **changes).status_code == 200
    ended(client, f"/api/requests/{request_id}")
    return request_id


def timed_out(client: httpx.Client, hours: float = 0.00002) -> str:
    """An approval whose time was up: six entries, though its first mail may have been sent later."""
    request_id = approval(client, timeout_hours=hours)
    assert ended(client, f"/api/requests/{request_id}")["status"] == "Timeout"
    return request_id


def raise_event(client: httpx.Client, instance: str, event: str, payload: Any) -> None:
    """Raise a raw event."""
    body = payload if isinstance(payload, str) else json.dumps(payload)
    headers = {"Content-Type": "application/json"}
    response = client.post(f"{MANAGEMENT}/{instance}/raiseEvent/{event}", content=body, headers=headers)
    assert response.status_code == 202, response.text


def terminate(client: httpx.Client, request_id: str, output: str) -> None:
    """Terminate an approval from outside, with any text for its output."""
    response = client.post(f"{MANAGEMENT}/{request_id}/terminate", params={"reason": output})
    assert response.status_code == 202, response.text
    until(lambda: shown(client, f"/api/requests/{request_id}")["runtime_status"] == "TERMINATED")


# Looking at trails


def audit_of(instance: str) -> str:
    """The path of a trail, whatever the id is."""
    return f"/api/audit/{quote(instance, safe='')}"


def audit(client: httpx.Client, instance: str) -> list[dict[str, Any]]:
    """The entries of a trail, without what is null."""
    body = client.get(audit_of(instance)).raise_for_status().json()
    assert list(body) == ["instance_id", "entries"]
    assert body["instance_id"] == instance
    return [{name: value for name, value in entry.items() if value is not None} for entry in body["entries"]]


def story(client: httpx.Client, instance: str) -> list[tuple[Any, ...]]:
    """What the entries of a trail say: action, actor, channel, before, after, detail, comment."""
    told = ("action", "actor", "channel", "before", "after", "detail", "comment")
    return [tuple(entry.get(name) for name in told) for entry in audit(client, instance)]


def verdict(client: httpx.Client, instance: str) -> dict[str, Any]:
    """What verifying says."""
    response = client.get(f"{audit_of(instance)}/verify")
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    assert body["valid"] == (body["verdict"] == "intact")
    return body


def is_intact(client: httpx.Client, instance: str, entries: int) -> dict[str, Any]:
    """Assert that a trail is whole, and its run vouched for by its history."""
    found = verdict(client, instance)
    assert (found["verdict"], found["first"], found["purged"]) == ("intact", None, False), found
    (chain,) = [chain for chain in found["chains"] if chain["series"] == "run"]
    assert (chain["verdict"], chain["anchored_by"], chain["entries"]) == ("intact", "history", entries)
    return found


# What is told of a run


ASKING: list[tuple[Any, ...]] = [
    ("started", "Alice", "api", None, "requesting_approval", None, None),
    ("asked", None, None, "requesting_approval", "waiting_for_approval", None, None),
    ("mailed", None, None, "waiting_for_approval", "waiting_for_approval", "asked", None),
]
"""What an approval says until it waits, and its mail was sent."""

ACTIONS = ["started", "asked", "mailed", "voted", "decided", "mailed", "ended"]
"""What is told of an approval that one vote has decided."""

ORDERING: list[tuple[Any, ...]] = [
    ("started", "developer", "api", None, "requesting_approval", None, None),
    ("asked", None, None, "requesting_approval", "requesting_approval", ASKED, None),
    ("mailed", None, None, "requesting_approval", "waiting_for_approval", None, None),
]
"""What an order says until it waits."""


@pytest.mark.parametrize(("approved", "outcome"), [(True, "approved"), (False, "rejected")])
@pytest.mark.parametrize("comment", ["Fine!", None, "", "líne\none 🎉\x01\u2028."])
def test_an_approval_that_was_decided(client: httpx.Client, approved: bool, outcome: str, comment: str | None) -> None:
    request_id = decided(client, is_approved=approved, approver="Ålice 李", comments=comment)
    assert story(client, request_id) == [
        *ASKING,
        ("voted", "Ålice 李", "api", *["waiting_for_approval"] * 2, "approve" if approved else "reject", comment),
        ("decided", "Ålice 李", "api", "waiting_for_approval", outcome, None, None),
        ("mailed", None, None, outcome, outcome, "decided", None),
        ("ended", None, None, outcome, outcome, None, None),
    ]
    people = [entry.get("people") for entry in audit(client, request_id)]
    assert people == [None, *[[ASKED]] * 2, *[None] * 2, [ASKED], None]
    assert [entry.get("round") for entry in audit(client, request_id)] == [None, *[1] * 6]
    is_intact(client, request_id, 7)


def test_an_approval_whose_time_was_up(client: httpx.Client) -> None:
    request_id = timed_out(client, hours=0.0005)
    assert story(client, request_id) == [
        *ASKING,
        ("timed_out", None, "timer", "waiting_for_approval", "timed_out", "reject", None),
        ("mailed", None, None, "timed_out", "timed_out", "decided", None),
        ("ended", None, None, "timed_out", "timed_out", None, None),
    ]
    is_intact(client, request_id, 6)


@pytest.mark.parametrize(
    ("approved", "phase", "effect", "outcome"),
    [(True, "placing_order", "placed", "approved"), (False, "cancelling_order", "cancelled", "rejected")],
)
def test_an_order_that_was_decided(client: httpx.Client, approved: bool, phase: str, effect: str, outcome: str) -> None:
    instance = order(client)
    body = {"approver_name": "ManagerX", "approved": approved, "comments": "Fine!"}
    assert client.post(f"/signal-approval/{instance}", json=body).status_code == 200
    ended(client, f"/status/{instance}")
    assert story(client, instance) == [
        *ORDERING,
        ("decided", "ManagerX", "api", "waiting_for_approval", phase, None, "Fine!"),
        (effect, None, None, phase, outcome, None, None),
        ("ended", None, None, outcome, outcome, None, None),
    ]
    is_intact(client, instance, 6)


def test_an_order_whose_time_was_up(client: httpx.Client) -> None:
    instance = order(client, timeout_seconds=0.05)
    ended(client, f"/status/{instance}")
    assert story(client, instance) == [
        *ORDERING,
        ("timed_out", None, "timer", "waiting_for_approval", "cancelling_order", None, None),
        ("cancelled", None, None, "cancelling_order", "timed_out", None, None),
        ("ended", None, None, "timed_out", "timed_out", None, None),
    ]
    is_intact(client, instance, 6)


def test_an_order_that_nobody_has_to_approve(client: httpx.Client) -> None:
    instance = order(client, cost=1)
    ended(client, f"/status/{instance}")
    assert story(client, instance) == [
        ("started", "developer", "api", None, "placing_order", None, None),
        ("auto_approved", None, None, "placing_order", "placing_order", None, None),
        ("placed", None, None, "placing_order", "auto_approved", None, None),
        ("ended", None, None, "auto_approved", "auto_approved", None, None),
    ]
    is_intact(client, instance, 4)


def test_entries_are_numbered_linked_and_dated(client: httpx.Client) -> None:
    request_id = decided(client, key="the-key")
    entries = [Entry.model_validate(entry) for entry in audit(client, request_id)]
    assert [entry.number for entry in entries] == [1, 2, 3, 4, 5, 6, 7]
    assert [entry.previous for entry in entries] == [GENESIS, *(entry.hash for entry in entries[:-1])]
    assert all(entry.is_sound for entry in entries)
    assert {(entry.instance_id, entry.series) for entry in entries} == {(request_id, "run")}
    assert [entry.at for entry in entries] == sorted(entry.at for entry in entries)
    assert len({entry.run for entry in entries}) == 1
    body = shown(client, f"/api/requests/{request_id}")
    durable = client.get(f"{MANAGEMENT}/{request_id}").json()["input"]  # all of it, also what the API does not show
    assert entries[0].payload_sha256 == digest_of(durable)
    assert durable.items() >= body["input"].items()
    assert entries[3].at == datetime.fromisoformat(body["output"]["decided_at"])
    assert entries[3].salt is not None
    payload = DECISION | {"decision_id": "the-key", "channel": "api"}
    assert entries[3].payload_sha256 == digest_of(payload, entries[3].salt)


def test_a_raw_event_is_told_from_the_api(client: httpx.Client) -> None:
    request_id = approval(client)
    raise_event(client, request_id, "decision", DECISION)
    ended(client, f"/api/requests/{request_id}")
    assert story(client, request_id)[3:5] == [
        ("voted", "Manager", "event", "waiting_for_approval", "waiting_for_approval", "approve", "Approved!"),
        ("decided", "Manager", "event", "waiting_for_approval", "approved", None, None),
    ]
    instance = order(client)
    raise_event(client, instance, "approval_event", {"approver_name": "ManagerX", "approved": True})
    ended(client, f"/status/{instance}")
    assert story(client, instance)[3][:3] == ("decided", "ManagerX", "event")


MALFORMED = [
    "null",
    "5",
    {"is_approved": "yes", "approver": "My knee hurts"},
    {"is_approved": True, "approver": "Manager", "comments": "My knee\u0000 hurts"},
    {"is_approved": True, "approver": "Manager", "My knee hurts" * 100: 1},
    {"is_approved": True, "approver": "Manager", "x\u0000y": 1},
    {"is_approved": True, "approver": "Manager", "x\ny\u2028": 1},
    {"is_approved": True, "approver": "Manager", "\ud800": 1},
    {"is_approved": True, "approver": "\ud800"},
    {"is_approved": True, "approver": "Manager", "🎉" * 100: 1},
]


@pytest.mark.parametrize("payload", MALFORMED, ids=range(len(MALFORMED)))
def test_an_event_that_is_set_aside_is_told_and_the_run_goes_on(client: httpx.Client, payload: Any) -> None:
    request_id = approval(client)
    path = f"/api/requests/{request_id}"
    raise_event(client, request_id, "decision", payload)
    seen = until(lambda: body if (body := shown(client, path))["custom_status"]["warnings"] or body["error"] else None)
    assert seen["error"] is None
    until(lambda: is_quiet(client, path))
    is_intact(client, request_id, 4)
    assert decide(client, request_id).status_code == 200
    ended(client, path)
    (aside,) = [entry for entry in audit(client, request_id) if entry["action"] == "set_aside"]
    assert (aside["number"], aside["channel"], aside["after"]) == (4, "event", "waiting_for_approval")
    assert aside["detail"] in seen["custom_status"]["warnings"]
    assert "hurts" not in aside["detail"] or "knee" in next(iter(set(payload) - set(DECISION)), "")
    is_intact(client, request_id, 8)


def test_no_flood_of_events_makes_a_trail_grow_without_end(client: httpx.Client) -> None:
    request_id = approval(client)
    for _ in range(25):
        raise_event(client, request_id, "decision", {"is_approved": "yes"})
    assert decide(client, request_id).status_code == 200
    ended(client, f"/api/requests/{request_id}")
    assert [entry["action"] for entry in audit(client, request_id)].count("set_aside") == 20
    is_intact(client, request_id, 27)


def test_while_it_waits_there_is_what_has_happened_so_far(client: httpx.Client) -> None:
    request_id = approval(client)
    assert story(client, request_id) == ASKING
    found = is_intact(client, request_id, 3)
    assert (found["chains"][0]["pending"], found["erased"], found["sealed"]) == (0, 0, None)


def test_the_head_is_in_the_status_and_in_the_output(client: httpx.Client) -> None:
    request_id = approval(client)
    path = f"/api/requests/{request_id}"
    last = until(lambda: entries[-1] if len(entries := audit(client, request_id)) == 3 else None)
    waiting = until(lambda: head if (head := shown(client, path)["custom_status"]["trail"])["stored"] == 3 else None)
    assert waiting == {"run": last["run"], "entries": 3, "stored": 3, "head": last["hash"]}
    decide(client, request_id)
    body = ended(client, path)
    last = audit(client, request_id)[-1]
    head = {"run": last["run"], "entries": 7, "stored": 7, "head": last["hash"]}
    assert body["output"]["trail"] == body["custom_status"]["trail"] == head


def test_who_verifies_while_runs_go_on_accuses_nobody(client: httpx.Client, host: HostProcess) -> None:
    names = [f"moving-{uuid4()}" for _ in range(8)]

    def live(name: str) -> None:
        with host.client() as own:
            own.post("/api/requests", json=REQUEST | {"request_id": name}).raise_for_status()
            raise_event(own, name, "decision", {"is_approved": "yes"})
            assert decide(own, name).status_code in (200, 202)
            ended(own, f"/api/requests/{name}")

    def look(name: str) -> list[str]:
        seen: list[str] = []
        with host.client() as own:
            while not seen or not shown(own, f"/api/requests/{name}")["output"]:
                response = own.get(f"/api/audit/{name}/verify")
                seen.append(response.json()["verdict"] if response.status_code == 200 else "intact")
        return seen

    with ThreadPoolExecutor(16) as threads:
        alive = [threads.submit(live, name) for name in names]
        for name in names:
            until(lambda name=name: client.get(f"/api/requests/{name}").status_code == 200)  # type: ignore[misc]
        found = list(threads.map(look, names))
        for each in alive:
            each.result()
    assert {verdict for seen in found for verdict in seen} == {"intact"}
    for name in names:
        is_intact(client, name, 8)


# Late decisions


def test_a_late_decision_is_refused_and_told(client: httpx.Client) -> None:
    request_id = timed_out(client)
    late = decide(client, request_id, approver="Bob", is_approved=False, comments="Sorry, my knee")
    assert late.status_code == 410
    assert story(client, request_id)[6:] == [("late", "Bob", "api", None, None, "reject", "Sorry, my knee")]
    entry = audit(client, request_id)[6]
    assert (entry["series"], entry["number"]) == ("app", 1)
    assert entry["run"] == audit(client, request_id)[0]["run"]
    is_intact(client, request_id, 6)


def test_the_same_late_decision_twice_is_told_once(client: httpx.Client) -> None:
    request_id = timed_out(client)
    assert [decide(client, request_id, "key-1").status_code for _ in range(3)] == [410] * 3
    assert decide(client, request_id, "key-2").status_code == 410
    assert [entry[0] for entry in story(client, request_id)[6:]] == ["late", "late"]
    in_body = {"approver_name": "Bob", "approved": True, "decision_id": "key-1"}
    instance = order(client, timeout_seconds=0.05)
    ended(client, f"/status/{instance}")
    assert [client.post(f"/signal-approval/{instance}", json=in_body).status_code for _ in range(2)] == [410] * 2
    assert [entry[:3] for entry in story(client, instance)[6:]] == [("late", "Bob", "api")]


def test_late_decisions_at_once_are_all_told_in_one_chain(client: httpx.Client, host: HostProcess) -> None:
    request_id = timed_out(client)

    def late(number: int) -> int:
        with host.client() as own:
            return decide(own, request_id, f"key-{number % 10}", approver=f"P{number % 10}").status_code

    with ThreadPoolExecutor(10) as threads:
        assert list(threads.map(late, range(20))) == [410] * 20
    entries = audit(client, request_id)[6:]
    assert sorted(entry["actor"] for entry in entries) == sorted(f"P{number}" for number in range(10))
    assert [entry["number"] for entry in entries] == list(range(1, 11))
    is_intact(client, request_id, 6)


def test_a_decision_after_another_is_a_conflict_and_not_told(client: httpx.Client) -> None:
    request_id = decided(client)
    assert decide(client, request_id, approver="Bob").status_code == 409
    assert len(audit(client, request_id)) == 7


# Forms


@pytest.fixture(scope="module")
def colourful(session_client: httpx.Client) -> str:
    """An instance whose trail has all that is hard to write down."""
    request_id = timed_out(session_client)
    texts = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", 'a "quote", a\nline\r\nand; more', "🎉\u2028\x01.", "'=1")
    for text in texts:
        name = re.sub(r"[\x00-\x1f\u2028]", "", text)
        assert decide(session_client, request_id, approver=name, comments=text).status_code == 410
    assert decide(session_client, request_id, comments=None).status_code == 410
    return request_id


def test_json_lines_hold_the_same_entries(client: httpx.Client, colourful: str) -> None:
    response = client.get(f"/api/audit/{colourful}?format=jsonl")
    assert response.headers["content-type"] == "application/jsonl"
    assert response.headers["content-disposition"] == f'attachment; filename="audit-{colourful}.jsonl"'
    assert (response.headers["cache-control"], response.headers["x-content-type-options"]) == ("no-store", "nosniff")
    lines = response.content.decode().split("\n")
    assert lines.pop() == ""
    entries = client.get(f"/api/audit/{colourful}?format=json").json()["entries"]
    assert [json.loads(line) for line in lines] == entries
    assert len(entries) == 16


def test_csv_holds_the_same_entries_and_no_formula(client: httpx.Client, colourful: str) -> None:
    response = client.get(f"/api/audit/{colourful}?format=csv")
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert response.headers["content-disposition"] == f'attachment; filename="audit-{colourful}.csv"'
    assert (response.headers["cache-control"], response.headers["x-content-type-options"]) == ("no-store", "nosniff")
    header, *rows = csv.reader(io.StringIO(response.content.decode(), newline=""))
    assert header == COLUMNS
    entries = client.get(f"/api/audit/{colourful}").json()["entries"]
    assert len(rows) == len(entries) == 16
    harmless = 0
    for row, entry in zip(rows, entries, strict=True):
        for column, cell in zip(COLUMNS, row, strict=True):
            value = entry[column]
            text = "" if value is None else value if isinstance(value, str) else json.dumps(value)
            assert not cell.startswith(("=", "+", "-", "@", "\t", "\r")), cell
            if text.startswith(("=", "+", "-", "@", "\t", "\r")):
                harmless += 1
                assert cell == f"'{text}"
            else:
                assert cell == text
    assert harmless == 12  # six comments, and the names of six who made them


def test_an_instance_whose_name_looks_like_a_formula_is_none(client: httpx.Client) -> None:
    request_id = approval(client, request_id=f"-{uuid4()}")
    response = client.get(f"/api/audit/{request_id}?format=csv")
    rows = list(csv.DictReader(io.StringIO(response.text, newline="")))
    assert {row["instance_id"] for row in rows} == {f"'{request_id}"}


def test_the_anchor_of_a_note_is_in_one_cell(client: httpx.Client, host: HostProcess) -> None:
    request_id = decided(client)
    edit(host, request_id, 7, anchor={"run": "20260131T235959123456Z", "entries": 1, "stored": 1, "head": GENESIS})
    response = client.get(f"/api/audit/{request_id}?format=csv")
    row = list(csv.DictReader(io.StringIO(response.text, newline="")))[6]
    assert TrailHead.model_validate_json(row["anchor"]).entries == 1


@pytest.mark.parametrize("query", ["format=xml", "format=JSON", "format=json&x=1", "formt=csv", "format=csv%00"])
def test_a_parameter_that_is_wrong_is_400(client: httpx.Client, colourful: str, query: str) -> None:
    response = client.get(f"/api/audit/{colourful}?{query}")
    assert response.status_code == 400
    assert response.json()["type"] == "urn:countersign:problem:bad-request"


def test_an_empty_parameter_and_the_key_of_the_function_are_none(client: httpx.Client, colourful: str) -> None:
    assert (
        client.get(f"/api/audit/{colourful}?format=&code=secret").headers["content-type"].startswith("application/json")
    )


@pytest.mark.parametrize("path", ["", "/verify"])
def test_there_is_no_trail(client: httpx.Client, path: str) -> None:
    for name in ("nobody", "no%20body", "x" * 101, "x" * 1000, "%F0%9F%8E%89" * 1000):
        response = client.get(f"/api/audit/{name}{path}")
        assert (response.status_code, response.json()["type"][-9:]) == (404, "not-found")
    for name in ("x" * 1001, "%F0%9F%8E%89" * 1001):
        response = client.get(f"/api/audit/{name}{path}")
        assert (response.status_code, response.json()["type"][-11:]) == (400, "bad-request")


def test_looking_changes_nothing(client: httpx.Client, host: HostProcess) -> None:
    request_id = decided(client)
    before = rows_of(host, request_id)
    for path in ("", "?format=csv", "/verify"):
        client.get(f"/api/audit/{request_id}{path}").raise_for_status()
    assert rows_of(host, request_id) == before
    for path in ("", "/verify"):
        assert client.post(f"/api/audit/{request_id}{path}", json={}).status_code in (404, 405)
    assert client.get(f"/api/audit/{request_id}/erase").status_code in (404, 405)
    assert rows_of(host, request_id) == before


# Tampering beside the running host


class Place(Protocol):
    """Whatever has a data folder."""

    @property
    def data(self) -> Path:
        """The folder."""
        ...


def run_sql(host: Place, statement: str, *values: Any) -> list[Any]:
    """Change the host's records behind its back."""
    with closing(sqlite3.connect(host.data / "records.db", timeout=20)) as file, file:
        return file.execute(statement, values).fetchall()


def rows_of(host: Place, instance: str) -> dict[str, str]:
    """The rows of a trail."""
    return dict(
        run_sql(host, "SELECT key, body FROM record WHERE partition = ? ORDER BY key", f"trail:{key_part(instance)}")
    )


def put(host: Place, instance: str, key: str, body: str) -> None:
    """Put a row there."""
    run_sql(host, "INSERT OR REPLACE INTO record VALUES (?, ?, ?)", f"trail:{key_part(instance)}", key, body)


def delete(host: Place, instance: str, key: str) -> None:
    """Take a row away."""
    run_sql(host, "DELETE FROM record WHERE partition = ? AND key = ?", f"trail:{key_part(instance)}", key)


def key_at(host: Place, instance: str, number: int, series: str = "run") -> str:
    """The key of an entry."""
    return next(key for key in rows_of(host, instance) if key.startswith(series) and key.endswith(f"|{number:010d}"))


def rehashed(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry with its hash made anew."""
    left_out = {"hash", "comment"} | ({"salt"} if entry.get("comment_sha256") else set())
    said = {name: value for name, value in entry.items() if name not in left_out and value is not None}
    return entry | {"hash": digest_of(said)}


def edit(host: Place, instance: str, number: int, *, after: int | None = None, **changes: Any) -> None:
    """Edit an entry; with ``after``, make all hashes anew up to that one."""
    previous: str | None = None
    for each in range(number, (after or number) + 1):
        key = key_at(host, instance, each)
        document = json.loads(rows_of(host, instance)[key])
        entry = document["entry"] | (changes if each == number else {})
        if after is not None:
            entry = rehashed(entry if previous is None else entry | {"previous": previous})
            previous = entry["hash"]
        put(host, instance, key, json.dumps(document | {"entry": entry}))


def is_broken(client: httpx.Client, instance: str, number: int, series: str = "run") -> None:
    """Assert that verifying names an entry."""
    found = verdict(client, instance)
    assert found["verdict"] == "broken", found
    assert (found["first"]["series"], found["first"]["number"]) == (series, number), found


@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_edit_is_named_while_it_waits(client: httpx.Client, host: HostProcess, number: int) -> None:
    request_id = approval(client)
    is_intact(client, request_id, 3)
    edit(host, request_id, number, actor="Mallory")
    is_broken(client, request_id, number)
    edit(host, request_id, number, after=3, actor="Mallory")
    is_broken(client, request_id, number)


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6, 7])
def test_tampering_is_named_after_the_end(client: httpx.Client, host: HostProcess, number: int) -> None:
    request_id = decided(client)
    whole = rows_of(host, request_id)
    key = key_at(host, request_id, number)

    def restore() -> None:
        for name in rows_of(host, request_id).keys() - whole.keys():
            delete(host, request_id, name)
        for name, body in whole.items():
            put(host, request_id, name, body)
        is_intact(client, request_id, 7)

    edit(host, request_id, number, at="2020-01-01T00:00:00.000Z")
    is_broken(client, request_id, number)
    edit(host, request_id, number, after=number, at="2020-01-01T00:00:00.000Z")
    is_broken(client, request_id, number)
    restore()
    edit(host, request_id, number, after=7, at="2020-01-01T00:00:00.000Z")
    is_broken(client, request_id, number)
    restore()
    delete(host, request_id, key)
    is_broken(client, request_id, number)
    restore()
    for other in range(number, 8):
        delete(host, request_id, key_at(host, request_id, other))
    is_broken(client, request_id, number)
    restore()
    for body in (
        "no JSON",
        "{}",
        "[" * 50_000,
        json.dumps({"entry": json.loads(whole[key])["entry"] | {"actor": "\ud800"}}),
    ):
        put(host, request_id, key, body)
        is_broken(client, request_id, number)
        assert client.get(f"/api/audit/{request_id}").status_code == 200
        assert client.get(f"/api/audit/{request_id}?format=csv").status_code == 200
    restore()
    for other in range(number + 1, 8):
        put(host, request_id, key, whole[key_at(host, request_id, other)])
        put(host, request_id, key_at(host, request_id, other), whole[key])
        is_broken(client, request_id, number)
        restore()


def test_rows_that_were_added_are_found(client: httpx.Client, host: HostProcess) -> None:
    request_id = decided(client)
    whole = rows_of(host, request_id)
    last = key_at(host, request_id, 7)
    for key in ("zzz", f"{last[:-10]}abc", f"{last}1", "run|20200101T000000000000Z|0000000002"):
        put(host, request_id, key, whole[last])
        assert verdict(client, request_id)["verdict"] == "broken"
        delete(host, request_id, key)
    put(host, request_id, f"{last[:-10]}{8:010d}", whole[last])
    is_broken(client, request_id, 8)


def test_the_trail_of_an_instance_that_lost_all_its_rows_is_broken_and_not_unknown(
    client: httpx.Client, host: HostProcess
) -> None:
    request_id = decided(client)
    for key in rows_of(host, request_id):
        delete(host, request_id, key)
    assert client.get(f"/api/audit/{request_id}").status_code == 404
    is_broken(client, request_id, 1)


def test_a_comment_that_was_taken_out_quietly_is_named(client: httpx.Client, host: HostProcess) -> None:
    request_id = decided(client)
    edit(host, request_id, 4, comment=None, salt=None)
    is_broken(client, request_id, 4)
    late = timed_out(client)
    decide(client, late)
    key = key_at(host, late, 1, "app")
    document = json.loads(rows_of(host, late)[key])
    document["entry"] |= {"comment": None, "salt": None}
    put(host, late, key, json.dumps(document))
    is_broken(client, late, 1, "app")


def test_after_the_last_entry_of_the_app_was_broken_a_late_decision_says_so(
    client: httpx.Client, host: HostProcess
) -> None:
    request_id = timed_out(client)
    decide(client, request_id)
    put(host, request_id, key_at(host, request_id, 1, "app"), "no JSON")
    assert decide(client, request_id).status_code == 503
    is_broken(client, request_id, 1, "app")


def test_a_run_whose_place_was_taken_raises_an_alarm(client: httpx.Client, host: HostProcess) -> None:
    request_id = approval(client)
    run = audit(client, request_id)[0]["run"]
    put(host, request_id, f"run|{run}|{4:010d}", "Mallory was here")
    assert decide(client, request_id, comments="My knee hurts").status_code == 200
    body = ended(client, f"/api/requests/{request_id}")
    assert "audit trail in the store is not the run's own" in body["custom_status"]["warnings"][-1]
    is_broken(client, request_id, 4)
    log = host.log.read_text()
    (alarm,) = [line for line in log.splitlines() if "ALARM" in line and request_id in line]
    assert "its entry 4 is not the one that the run wrote" in alarm
    assert "knee" not in log


# An instance that is gone


def test_an_instance_that_was_deleted_without_a_note_is_vouched_for_by_nothing(
    client: httpx.Client, host: HostProcess
) -> None:
    request_id = decided(client)
    assert client.delete(f"{MANAGEMENT}/{request_id}").status_code == 200
    found = verdict(client, request_id)
    assert (found["verdict"], found["valid"], found["purged"], found["first"]) == ("unanchored", False, True, None)
    assert len(audit(client, request_id)) == 7
    edit(host, request_id, 2, detail="Mallory was here")
    is_broken(client, request_id, 2)


@pytest.mark.parametrize(
    "output",
    [
        "Nobody needs it any more",
        "null",
        "5",
        "[1]",
        "{}",
        '{"trail": null}',
        '{"trail": 5}',
        '{"trail": {}}',
        json.dumps({"trail": {"run": "20200101T000000000000Z", "entries": 0, "stored": 0, "head": GENESIS}}),
        json.dumps({"trail": {"run": "20200101T000000000000Z", "entries": 10**9, "stored": 10**9, "head": GENESIS}}),
        json.dumps({"status": "Approved"}),
    ],
)
def test_nobody_who_terminates_a_run_speaks_for_it(client: httpx.Client, output: str) -> None:
    request_id = approval(client)
    run = audit(client, request_id)[0]["run"]
    terminate(client, request_id, output)
    is_intact(client, request_id, 3)
    body = shown(client, f"/api/requests/{request_id}")
    assert (body["status"], body["runtime_status"]) == ("Terminated", "TERMINATED")
    assert decide(client, request_id).status_code == 410
    (late,) = [entry for entry in audit(client, request_id) if entry["series"] == "app"]
    assert (late["action"], late["run"]) == ("late", run)
    is_intact(client, request_id, 3)


def test_a_tail_is_not_cut_by_who_gives_the_output_of_a_run(client: httpx.Client, host: HostProcess) -> None:
    request_id = approval(client)
    second = audit(client, request_id)[1]
    head = {"run": second["run"], "entries": 2, "stored": 2, "head": second["hash"]}
    terminate(client, request_id, json.dumps({"status": "Approved", "trail": head}))
    assert shown(client, f"/api/requests/{request_id}")["output"]["trail"] == head
    is_intact(client, request_id, 3)
    delete(host, request_id, key_at(host, request_id, 3))
    is_broken(client, request_id, 3)


@pytest.mark.parametrize("entries", [8, 10**9])
def test_a_purge_that_vouches_for_more_than_there_is_names_the_first_that_is_missing(
    client: httpx.Client, host: HostProcess, entries: int
) -> None:
    request_id = decided(client)
    run = audit(client, request_id)[0]["run"]
    assert client.delete(f"{MANAGEMENT}/{request_id}").status_code == 200
    forge(host, request_id, action="purged", run=run, anchor=forged_head(run, entries))
    is_broken(client, request_id, 8)


# Ids that this app does not give

ODD_IDS = ["a b", "é", "}", "🎉", "a'b", 'a"b;c=d', "~", "=7D", "%41", "a+b", "-=1+1", "a,b", "{}|", "é" * 100, "İ"]


@pytest.mark.parametrize("instance", ODD_IDS, ids=range(len(ODD_IDS)))
def test_an_instance_with_an_odd_id_has_a_trail_like_any_other(
    client: httpx.Client, host: HostProcess, instance: str
) -> None:
    path = f"{MANAGEMENT}/{quote(instance, safe='')}"
    started = client.post(
        f"{MANAGEMENT[:-9]}orchestrators/approval/{quote(instance, safe='')}", json=REQUEST | {"mailbox": ASKED}
    )
    assert started.status_code == 202, started.text
    until(lambda: ((client.get(path).json()["customStatus"] or {}).get("trail") or {}).get("stored") == 3)
    response = client.post(f"{path}/raiseEvent/decision", json=DECISION | {"comments": "My knee hurts"})
    assert response.status_code == 202, response.text
    until(lambda: client.get(path).json()["runtimeStatus"] == "Completed")

    assert [entry[0] for entry in story(client, instance)] == ACTIONS
    is_intact(client, instance, 7)
    for form in ("jsonl", "csv"):
        response = client.get(f"{audit_of(instance)}?format={form}")
        found = re.fullmatch(r'attachment; filename="audit-([\w.~%-]+)"', response.headers["content-disposition"], re.A)
        assert found is not None
        assert unquote(found[1]) == f"{instance}.{form}"
        assert response.text.count("My knee hurts") == 1
    key = key_at(host, instance, 2)
    whole = rows_of(host, instance)[key]
    edit(host, instance, 2, detail="Mallory was here")
    is_broken(client, instance, 2)
    put(host, instance, key, whole)
    assert erase(client, instance) == {"instance_id": instance, "erased": 1, "still_in_history": True}
    assert is_intact(client, instance, 7)["erased"] == 1
    assert "knee" not in "".join(rows_of(host, instance).values())


# Erasing


def erase(client: httpx.Client, instance: str, **more: Any) -> dict[str, Any]:
    """Erase comments."""
    response = client.post(f"{audit_of(instance)}/erase", json={"by": "Dora"} | more)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def test_erasing_takes_the_comments_out_and_the_trail_stays_whole(client: httpx.Client, host: HostProcess) -> None:
    request_id = decided(client, comments="My knee hurts")
    before = audit(client, request_id)
    answer = erase(client, request_id, reason="Asked by the person")
    assert answer == {"instance_id": request_id, "erased": 1, "still_in_history": True}
    assert is_intact(client, request_id, 7)["erased"] == 1
    *entries, note = audit(client, request_id)
    assert (note["action"], note["actor"], note["channel"]) == ("erased", "Dora", "api")
    assert (note["detail"], note["series"], note["run"]) == ("Asked by the person", "app", entries[0]["run"])
    text = "".join(rows_of(host, request_id).values())
    assert "knee" not in text
    assert before[3]["salt"] not in text
    assert entries[3] == {name: value for name, value in before[3].items() if name not in ("comment", "salt")}
    assert entries[3]["comment_sha256"] == digest_of("My knee hurts", before[3]["salt"])
    for form in ("json", "jsonl", "csv"):
        assert "knee" not in client.get(f"/api/audit/{request_id}?format={form}").text


def test_erasing_twice_is_erasing_once(client: httpx.Client, host: HostProcess) -> None:
    request_id = decided(client)
    assert erase(client, request_id)["erased"] == 1
    before = rows_of(host, request_id)
    assert erase(client, request_id)["erased"] == 0
    assert rows_of(host, request_id) == before


def test_where_nobody_said_a_thing_nothing_is_erased_and_nothing_noted(client: httpx.Client) -> None:
    request_id = decided(client, comments=None)
    assert erase(client, request_id)["erased"] == 0
    assert len(audit(client, request_id)) == 7


def test_late_comments_are_erased_too_and_new_ones_can_come(client: httpx.Client, host: HostProcess) -> None:
    request_id = timed_out(client)
    for number in range(3):
        decide(client, request_id, comments=f"My knee {number}")
    assert erase(client, request_id)["erased"] == 3
    assert "knee" not in "".join(rows_of(host, request_id).values())
    is_intact(client, request_id, 6)
    decide(client, request_id, comments="It still hurts")
    assert erase(client, request_id)["erased"] == 1
    assert [entry["action"] for entry in audit(client, request_id)[6:]] == ["late"] * 3 + ["erased", "late", "erased"]
    assert is_intact(client, request_id, 6)["erased"] == 4


def test_a_comment_is_erased_of_an_instance_that_is_gone(client: httpx.Client) -> None:
    request_id = decided(client)
    client.delete(f"{MANAGEMENT}/{request_id}")
    assert erase(client, request_id) == {"instance_id": request_id, "erased": 1, "still_in_history": False}
    found = verdict(client, request_id)
    assert (found["verdict"], found["erased"]) == ("unanchored", 1)


def test_the_note_of_an_erasure_names_the_rows(client: httpx.Client) -> None:
    request_id = timed_out(client)
    for number in (1, 2):
        decide(client, request_id, comments=f"My knee {number}")
    erase(client, request_id)
    note = audit(client, request_id)[-1]
    assert note["erasure"] == [trail.app_key(1), trail.app_key(2)]
    request_id = decided(client)
    erase(client, request_id)
    note = audit(client, request_id)[-1]
    assert note["erasure"] == [trail.run_key(note["run"], 4)]
    row = list(csv.DictReader(io.StringIO(client.get(f"/api/audit/{request_id}?format=csv").text, newline="")))[-1]
    assert json.loads(row["erasure"]) == note["erasure"]


@pytest.mark.parametrize("length", [1, 4000])
def test_after_an_erasure_no_file_of_the_records_holds_the_comment(
    client: httpx.Client, host: HostProcess, length: int
) -> None:
    request_id = timed_out(client)
    secret = f"knee-{uuid4().hex}"
    decide(client, request_id, comments=(secret * length)[:4000] if length > 1 else secret)
    assert in_files(host, secret)
    assert erase(client, request_id)["erased"] == 1
    assert is_intact(client, request_id, 6)["erased"] == 1
    other = decided(client)
    assert in_files(host, other)
    assert in_files(host, secret) == []


def in_files(host: Place, text: str) -> list[str]:
    """The files of the records in which a text stands, in whatever corner."""
    files = sorted(host.data.glob("records.db*"))
    assert files[0].name == "records.db"
    return [file.name for file in files if text.encode() in file.read_bytes()]


@pytest.mark.parametrize("change", [{"comment": "No!"}, {"salt": "f" * 32}, {"actor": "Mallory"}, {"hash": "1" * 64}])
def test_an_erasure_does_not_take_evidence_away(
    client: httpx.Client, host: HostProcess, change: dict[str, str]
) -> None:
    request_id = timed_out(client)
    for number in (1, 2, 3):
        decide(client, request_id, comments=f"My knee {number}")
    key = key_at(host, request_id, 2, "app")
    document = json.loads(rows_of(host, request_id)[key])
    put(host, request_id, key, json.dumps({"entry": document["entry"] | change}))
    is_broken(client, request_id, 2, "app")
    tampered = rows_of(host, request_id)[key]
    assert erase(client, request_id)["erased"] == 2
    assert rows_of(host, request_id)[key] == tampered
    is_broken(client, request_id, 2, "app")
    assert audit(client, request_id)[-1]["erasure"] == [trail.app_key(1), trail.app_key(3)]
    rows = rows_of(host, request_id)
    assert erase(client, request_id)["erased"] == 0
    assert rows_of(host, request_id) == rows


def test_an_edited_comment_of_a_run_stays_as_it_is(client: httpx.Client, host: HostProcess) -> None:
    request_id = decided(client)
    edit(host, request_id, 4, comment="No!")
    before = rows_of(host, request_id)
    assert erase(client, request_id)["erased"] == 0
    assert rows_of(host, request_id) == before
    is_broken(client, request_id, 4)


@pytest.mark.parametrize("which", ["host", "sealing"])
def test_a_comment_that_went_without_a_note_is_found_beside_an_erasure(
    request: pytest.FixtureRequest, which: str
) -> None:
    host: HostProcess = request.getfixturevalue(which)
    with host.client() as client:
        request_id = timed_out(client)
        decide(client, request_id, comments="My knee hurts")
        assert erase(client, request_id)["erased"] == 1
        decide(client, request_id, comments="It still does")
        assert is_intact(client, request_id, 6)["erased"] == 1
        key = key_at(host, request_id, 3, "app")
        document = json.loads(rows_of(host, request_id)[key])
        del document["entry"]["comment"], document["entry"]["salt"]
        put(host, request_id, key, json.dumps(document))
        is_broken(client, request_id, 3, "app")
        assert erase(client, request_id)["erased"] == 0
        is_broken(client, request_id, 3, "app")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("{}", 200),  # it is the caller's
        ('{"by": ""}', 422),
        ('{"by": null}', 422),
        ('{"by": 5}', 422),
        ('{"by": "Dora\\n"}', 200),  # blanks around a name are none of it
        ('{"by": "Do\\nra"}', 422),
        ('{"by": "Dora", "reason": 5}', 422),
        ('{"by": "Dora", "because": "x"}', 422),
        ('{"by": "Dora", "reason": "a\\u0000"}', 422),
        ('{"reason": "x"}', 200),
        ("[]", 422),
        ("", 400),
        ("by=Dora", 400),
        ('{"by": "\\ud800"}', 400),
    ],
)
def test_who_erases_is_said_in_one_line(client: httpx.Client, host: HostProcess, body: str, status: int) -> None:
    request_id = decided(client)
    before = rows_of(host, request_id)
    response = client.post(f"/api/audit/{request_id}/erase", content=body)
    assert response.status_code == status
    assert (rows_of(host, request_id) == before) == (status != 200)


def test_a_long_reason_is_cut_to_what_fits(client: httpx.Client) -> None:
    request_id = decided(client)
    erase(client, request_id, reason="x" * 4000)
    assert audit(client, request_id)[-1]["detail"] == "x" * 2000
    response = client.post(f"/api/audit/{request_id}/erase", json={"by": "Dora", "reason": "x" * 4001})
    assert response.status_code == 422


@pytest.mark.parametrize("site", ["cross-site", "same-site", "CROSS-SITE", "x"])
def test_no_page_of_another_site_can_erase(client: httpx.Client, host: HostProcess, site: str) -> None:
    request_id = decided(client)
    before = rows_of(host, request_id)
    path = f"/api/audit/{request_id}/erase"
    response = client.post(path, json={"by": "Dora"}, headers={"Sec-Fetch-Site": site})
    assert response.status_code == 403
    assert rows_of(host, request_id) == before
    assert client.post(path, json={"by": "Dora"}, headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200


def test_there_is_nothing_to_erase(client: httpx.Client) -> None:
    for name, status in (("nobody", 404), ("no%20body", 404), ("x" * 1000, 404), ("x" * 1001, 400)):
        assert client.post(f"/api/audit/{name}/erase", json={"by": "Dora"}).status_code == status


# Seals


KEY = "a key of sixteen or more"


@pytest.fixture(scope="module")
def sealing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostProcess]:
    """A host that seals what it adds to trails, and keeps no instance that has ended."""
    settings = {"AUDIT_KEY": f"{KEY},and the one of before", "RETENTION_DAYS": "0"}
    with host_process(tmp_path_factory.mktemp("sealing"), environment=settings) as host:
        yield host


def test_what_the_app_adds_is_sealed_and_vouches_for_what_was_purged(sealing: HostProcess) -> None:
    with sealing.client() as client:
        request_id = timed_out(client)
        decide(client, request_id, comments="My knee hurts")
        assert is_intact(client, request_id, 6)["sealed"] is True
        assert client.post("/admin/functions/purge_instances", json={}).status_code == 202
        found = until(lambda: each if (each := verdict(client, request_id))["purged"] else None)
        assert (found["verdict"], found["sealed"]) == ("intact", True)
        assert [(chain["series"], chain["anchored_by"]) for chain in found["chains"]] == [
            ("run", "purge"),
            ("app", None),
        ]
        assert erase(client, request_id) == {"instance_id": request_id, "erased": 1, "still_in_history": False}
        assert verdict(client, request_id)["verdict"] == "intact"

        key = key_at(sealing, request_id, 2, "app")
        note = rows_of(sealing, request_id)[key]
        assert json.loads(note)["entry"]["action"] == "purged"
        document = json.loads(note)
        put(sealing, request_id, key, json.dumps({"entry": document["entry"]}))
        found = verdict(client, request_id)
        assert (found["verdict"], found["sealed"], found["first"]) == ("unanchored", False, None)
        put(sealing, request_id, key, json.dumps(document | {"seal": "0" * 64}))
        is_broken(client, request_id, 2, "app")
        put(sealing, request_id, key, note)
        delete(sealing, request_id, key_at(sealing, request_id, 6))
        is_broken(client, request_id, 6)
        for path in (f"/api/audit/{request_id}", f"/api/audit/{request_id}/verify"):
            assert KEY not in client.get(path).text
        assert KEY not in sealing.log.read_text()


# Forged notes


def forged_head(run: str, entries: int, head: str = "1" * 64) -> TrailHead:
    """A head that somebody made up."""
    return TrailHead(run=run, entries=entries, stored=entries, head=head)


def forge(host: Place, instance: str, **said: Any) -> Entry:
    """Add a note to the app's chain, as who can write to the store can."""
    bodies = [body for key, body in rows_of(host, instance).items() if key.startswith("app|")]
    last = Entry.model_validate(json.loads(bodies[-1])["entry"]) if bodies else None
    whole: dict[str, Any] = {"salt": None, "at": datetime(2026, 1, 1, tzinfo=UTC), "series": "app"}
    note = chained(last, **whole | {"instance_id": instance} | said)
    put(host, instance, trail.key_of(note), trail.stored(note).body)
    return note


# With a clock that stands still


@dataclass(frozen=True)
class Still:
    """The app in this process, on a clock that the test moves; no retry comes before it does."""

    control: AppControl
    client: httpx.Client
    data: Path

    def wait(self) -> str:
        """Start an approval that waits."""
        instance = self.control.start("approval", REQUEST | {"timeout_hours": 1000.0, "mailbox": ASKED})
        assert self.control.status(instance)["trail"]["stored"] == 3
        return instance

    def decide(self, instance: str, comments: str | None = None) -> None:
        """Decide on it."""
        self.control.event(instance, "decision", {"is_approved": True, "approver": "Boss", "comments": comments})
        self.control.settle()

    def purge(self, instance: str) -> None:
        """Purge what has ended."""
        self.control.advance(timedelta(hours=7))
        assert self.client.post("/admin/functions/purge_instances", json={}).status_code == 202
        until(lambda: self.control.client.get_orchestration_state(instance) is None)


@pytest.fixture
def still(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Still]:
    """The app, whose timers run only when the test says so."""
    monkeypatch.delenv("AzureWebJobs.purge_instances.Disabled")
    monkeypatch.setenv("RETENTION_DAYS", "0.25")
    get_settings.cache_clear()
    with running_app(ROOT, data_folder) as control, httpx.Client(base_url=control.url, trust_env=False) as client:
        clock.set_clock(lambda: control.now)
        try:
            yield Still(control, client, data_folder)
        finally:
            clock.set_clock(clock.system_clock)


@pytest.fixture
def keyed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Sets the key that seals, if the test asks for one."""
    if request.param:
        monkeypatch.setenv("AUDIT_KEY", KEY)
        get_settings.cache_clear()
    return bool(request.param)


def _away(*_: Any) -> None:
    raise RecordStoreError("away")


@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_edit_is_named_while_an_entry_is_on_its_way(
    still: Still, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    instance = still.wait()
    monkeypatch.setattr(records_activity, "put_on_record", _away)
    still.control.event(instance, "decision", {"is_approved": "yes"})
    assert still.control.status(instance)["trail"]["entries"] == 4
    assert is_intact(still.client, instance, 3)["chains"][0]["pending"] == 1
    edit(still, instance, number, after=3, detail="Mallory was here")
    is_broken(still.client, instance, number)


@pytest.mark.parametrize("keyed", [False, True], indirect=True)
def test_a_comment_that_was_on_its_way_when_it_was_erased_does_not_come_back(
    still: Still, monkeypatch: pytest.MonkeyPatch, keyed: bool
) -> None:
    instance = still.wait()
    with monkeypatch.context() as patch:
        patch.setattr(records_activity, "put_on_record", _away)
        still.decide(instance, "My knee hurts")
        assert still.control.status(instance)["trail"]["stored"] == 3
        assert still.client.post(f"{MANAGEMENT}/{instance}/terminate").status_code == 202
        still.control.settle()
    assert is_intact(still.client, instance, 3)["chains"][0]["pending"] == 2
    assert erase(still.client, instance)["erased"] == 1
    assert is_intact(still.client, instance, 5)["erased"] == 1
    still.purge(instance)
    assert "knee" not in "".join(rows_of(still, instance).values())
    assert in_files(still, "My knee") == []
    actions = [entry["action"] for entry in audit(still.client, instance)]
    assert actions == ["started", "asked", "mailed", "voted", "decided", "erased", "ended", "purged"]
    found = verdict(still.client, instance)
    assert (found["verdict"], found["erased"], found["purged"]) == ("intact", 1, True)


def test_a_comment_that_was_erased_on_its_way_is_not_brought_by_the_retry(
    still: Still, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    instance = still.wait()
    with monkeypatch.context() as patch:
        patch.setattr(records_activity, "put_on_record", _away)
        still.decide(instance, "My knee hurts")
        assert erase(still.client, instance)["erased"] == 1
    still.control.advance(timedelta(hours=2))
    assert still.control.output(instance)["trail"]["stored"] == 7
    assert "knee" not in "".join(rows_of(still, instance).values())
    assert is_intact(still.client, instance, 7)["erased"] == 1
    assert "ALARM" not in caplog.text


@pytest.mark.parametrize(
    ("keyed", "anchor"),
    [(False, "other"), (False, "none"), (True, "other"), (True, "none"), (True, "same"), (True, "with a seal")],
    indirect=["keyed"],
)
def test_a_forged_purge_does_not_keep_the_real_one_from_being_noted(still: Still, keyed: bool, anchor: str) -> None:
    instance = still.wait()
    still.decide(instance)
    last = audit(still.client, instance)[-1]
    run = last["run"]
    true = forged_head(run, 7, last["hash"])
    given = {"none": None, "other": forged_head(run, 3, audit(still.client, instance)[2]["hash"])}.get(anchor, true)
    note = forge(still, instance, action="purged", run=run, anchor=given, channel="timer")
    if anchor == "with a seal":  # of another key: the trail is broken, and the instance stays
        body = trail.stored(note, ["a key of somebody else"]).body
        put(still, instance, trail.key_of(note), body)
        is_broken(still.client, instance, 1, "app")
        return
    is_intact(still.client, instance, 7)
    still.purge(instance)
    notes = [entry for entry in audit(still.client, instance) if entry["series"] == "app"]
    assert [entry["action"] for entry in notes] == ["purged", "purged"]
    assert notes[1]["anchor"] == true.plain()
    found = verdict(still.client, instance)
    assert (found["verdict"], found["sealed"]) == ("intact", False if keyed else None)
    assert found["chains"][0]["anchored_by"] == "purge"
    for number in (4, 5, 6, 7):
        delete(still, instance, trail.run_key(run, number))
    is_broken(still.client, instance, 4)
