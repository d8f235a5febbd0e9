"""What is on record after kill -9 of the real host at any step, and while the store cannot be reached."""

import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.hosting import WHO, Hosting, data
from tests.polling import until

REQUEST = {"requester": "Alice", "item": "Vacation", "timeout_hours": 1, "request_id": "req"}
ORDER = {"order_id": "o1", "cost": 500, "product": "Widget", "quantity": 2, "instance_id": "ord"}
MANAGEMENT = "/runtime/webhooks/durabletask/instances"

STARTS = {"req": ("/api/requests", REQUEST), "ord": ("/start-purchase-order", ORDER)}
DECISIONS = {
    "req": ("/api/approvals/req", {"is_approved": True, "approver": "Boss", "comments": "fine"}),
    "ord": ("/signal-approval/ord", {"approver_name": "Boss", "approved": True, "comments": "fine"}),
}
STATUS = {"req": "/api/requests/req", "ord": "/status/ord"}
ACTIONS = {
    "req": ["started", "asked", "voted", "decided", "ended"],
    "ord": ["started", "asked", "decided", "placed", "ended"],
}
"""What is told of each, but for the mails, which an approval does not stand still for."""
MAILS = {"req": 2, "ord": 1}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the store's lock, so that nothing is written to it."""
    with closing(sqlite3.connect(data(folder) / "records.db", isolation_level=None, timeout=20)) as other:
        other.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            other.execute("ROLLBACK")


def start(client: httpx.Client, name: str) -> None:
    """Start an instance."""
    path, body = STARTS[name]
    assert client.post(path, json=body).status_code == 202


def decide(client: httpx.Client, name: str) -> httpx.Response:
    """Decide; the same decision each time."""
    path, body = DECISIONS[name]
    return client.post(path, json=body, headers={"Idempotency-Key": "the-decision"})


def shown(client: httpx.Client, name: str) -> dict[str, Any]:
    """What the app shows of an instance."""
    body: dict[str, Any] = client.get(STATUS.get(name, f"/api/requests/{name}")).raise_for_status().json()
    return body


def waiting(client: httpx.Client, name: str) -> None:
    """Wait until it waits, and all that it says until then is on record."""
    until(lambda: ((shown(client, name)["custom_status"] or {}).get("trail") or {}).get("stored") == 3)


def output(client: httpx.Client, name: str) -> dict[str, Any]:
    """Wait for the end, and give the output."""
    found: dict[str, Any] = until(lambda: shown(client, name)["output"], seconds=30)
    return found


def open_waits(client: httpx.Client, **query: str) -> list[str]:
    """The instances in the list of open waits."""
    answer = client.get("/api/waits", params=query).raise_for_status()
    return [wait["instance_id"] for wait in answer.json()["waits"]]


def entries(client: httpx.Client, name: str) -> list[dict[str, Any]]:
    """The audit trail."""
    found: list[dict[str, Any]] = client.get(f"/api/audit/{name}").raise_for_status().json()["entries"]
    return found


def told(found: list[dict[str, Any]]) -> list[str]:
    """What the entries of a trail tell, but for the mails."""
    return [entry["action"] for entry in found if entry["action"] != "mailed"]


def verified(client: httpx.Client, name: str) -> dict[str, Any]:
    """What verifying it gives."""
    body: dict[str, Any] = client.get(f"/api/audit/{name}/verify").raise_for_status().json()
    return body


def rows(folder: Path) -> list[tuple[str, str, str]]:
    """All rows of the store but the timers' cursors."""
    with closing(sqlite3.connect(data(folder) / "records.db")) as file:
        return file.execute("SELECT * FROM record WHERE partition <> 'cursor' ORDER BY 1, 2").fetchall()


def all_is_there_once(client: httpx.Client, folder: Path, name: str) -> None:
    """Wait for the end of an instance that was decided, and look that nothing is missing and nothing is there twice."""
    assert output(client, name)["status"].startswith("Approved")
    found = entries(client, name)
    assert told(found) == ACTIONS[name]
    assert [entry["action"] for entry in found].count("mailed") == MAILS[name]
    assert [entry["number"] for entry in found] == list(range(1, len(found) + 1))
    decided = next(entry for entry in found if entry["action"] in ("voted", "decided"))
    assert (decided["actor"], decided["comment"], decided["channel"]) == ("Boss", "fine", "api")
    result = verified(client, name)
    assert (result["valid"], result["verdict"], result["chains"][0]["pending"]) == (True, "intact", 0)
    assert open_waits(client) == []
    assert [partition for partition, _, _ in rows(folder)].count(f"wait:{name}") == 1
    assert [partition for partition, _, _ in rows(folder) if "|" in partition] == []
    assert len(list((data(folder) / "outbox").glob("*.eml"))) == MAILS[name]
    if name == "ord":
        assert len(list((data(folder) / "orders" / "placed").glob("*.json"))) == 1
    assert "ALARM" not in (data(folder) / "host.log").read_text()


@pytest.mark.parametrize("name", ["req", "ord"])
def test_killed_after_the_event_was_taken_and_before_its_record(tmp_path: Path, hosting: Hosting, name: str) -> None:
    with hosting() as (host, client):
        start(client, name)
        waiting(client, name)
        before = rows(tmp_path)
        with locked(tmp_path):
            assert decide(client, name).status_code == 202
            trail = until(lambda: (t := shown(client, name)["custom_status"]["trail"])["entries"] > 3 and t)
            assert trail["stored"] == 3
            assert shown(client, name)["custom_status"]["decision"] is None  # nothing counts that is not on record
            host.stop(signal.SIGKILL)
    assert rows(tmp_path) == before
    with hosting(DECISION_WAIT_SECONDS="20") as (_, client):
        answer = decide(client, name)
        assert (answer.status_code, answer.json()["decided_by"]) == (200, "Boss")
        all_is_there_once(client, tmp_path, name)


def test_killed_before_anything_was_on_record(tmp_path: Path, hosting: Hosting) -> None:
    with hosting() as (_, client):
        assert open_waits(client) == []  # the file is there now
    with hosting() as (host, client), locked(tmp_path):
        start(client, "req")
        until(lambda: shown(client, "req")["custom_status"])
        assert decide(client, "req").status_code == 202
        host.stop(signal.SIGKILL)
    assert rows(tmp_path) == []
    with hosting() as (_, client):
        all_is_there_once(client, tmp_path, "req")


def run_until_killed(folder: Path, hosting: Hosting, when: str, text: str, act: Callable[[httpx.Client], Any]) -> None:
    """Run the app, do something, and wait until it kills itself at a write with this text."""
    data(folder).mkdir(exist_ok=True)
    (data(folder) / f"kill-{when}").write_text(text)
    with hosting(crashing=True, RETENTION_DAYS="0") as (host, client):
        with suppress(httpx.TransportError):  # it may go while it answers
            act(client)
        assert host.process.wait(timeout=20) == -signal.SIGKILL


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_each_write_of_its_life(tmp_path: Path, hosting: Hosting, when: str) -> None:
    """After a write, the store has what the hub has not; before it, the hub has what the store has not."""
    steps: dict[str, Callable[[httpx.Client], Any]] = {
        "started": lambda client: start(client, "ord"),
        "mailed": lambda client: None,
        "decided": lambda client: decide(client, "ord"),
        "placed": lambda client: None,
    }
    for action, act in steps.items():
        run_until_killed(tmp_path, hosting, when, f'"action": "{action}"', act)
        if action == "decided":
            assert not (data(tmp_path) / "orders").exists()
    with hosting(crashing=True, DECISION_WAIT_SECONDS="20") as (_, client):
        all_is_there_once(client, tmp_path, "ord")
        assert decide(client, "ord").status_code == 200


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_as_an_event_is_set_aside_it_is_on_record_once_while_the_run_waits(
    tmp_path: Path, hosting: Hosting, when: str
) -> None:
    with hosting() as (_, client):
        start(client, "req")
        waiting(client, "req")
        [wait] = [row for row in rows(tmp_path) if row[0] == "wait:req"]

    def odd(client: httpx.Client) -> None:
        client.post(f"{MANAGEMENT}/req/raiseEvent/decision", json={"odd": True}).raise_for_status()

    run_until_killed(tmp_path, hosting, when, '"action": "set_aside"', odd)
    with hosting(DECISION_WAIT_SECONDS="20") as (_, client):
        until(lambda: shown(client, "req")["custom_status"]["trail"]["stored"] == 4)
        assert [entry["action"] for entry in entries(client, "req")] == ["started", "asked", "mailed", "set_aside"]
        assert verified(client, "req")["verdict"] == "intact"
        assert open_waits(client) == ["req"]
        assert wait in rows(tmp_path)
        assert decide(client, "req").status_code == 200
        output(client, "req")
        assert told(entries(client, "req")) == ["started", "asked", "set_aside", "voted", "decided", "ended"]
        assert verified(client, "req")["verdict"] == "intact"
        assert open_waits(client) == []


def test_killed_at_each_write_of_its_purge(tmp_path: Path, hosting: Hosting) -> None:
    with hosting(crashing=True) as (_, client):
        start(client, "req")
        waiting(client, "req")
        client.post(f"{MANAGEMENT}/req/terminate").raise_for_status()
        until(lambda: shown(client, "req")["runtime_status"] == "TERMINATED")
    for action in ("ended", "purged"):
        for when in ("before", "after"):
            run_until_killed(tmp_path, hosting, when, f'"action": "{action}"', purge)
    with hosting(RETENTION_DAYS="0") as (_, client):
        assert shown(client, "req")["runtime_status"] == "TERMINATED"
        purge(client)
        until(lambda: verified(client, "req")["purged"])
        actions = [entry["action"] for entry in entries(client, "req")]
        assert actions == ["started", "asked", "mailed", "ended", "purged"]
        assert verified(client, "req")["valid"]
        assert open_waits(client) == []
        assert not [partition for partition, _, _ in rows(tmp_path) if partition.startswith("wait:")]


def purge(client: httpx.Client) -> None:
    """Run the timer that purges."""
    run_timer(client, "purge_instances")


def run_timer(client: httpx.Client, name: str) -> None:
    """Run a timer function now."""
    assert client.post(f"/admin/functions/{name}", json={}).status_code == 202


def test_a_request_shows_up_is_decided_and_its_trail_verifies_over_kill_restart_and_purge(
    tmp_path: Path, hosting: Hosting
) -> None:
    with hosting(DECISION_WAIT_SECONDS="20") as (host, client):
        start(client, "req")
        assert until(lambda: open_waits(client, person=WHO.upper())) == ["req"]
        assert open_waits(client, person="somebody@example.com") == []
        waiting(client, "req")
        assert decide(client, "req").status_code == 200
        output(client, "req")
        assert open_waits(client, person=WHO) == []
        before = entries(client, "req")
        assert verified(client, "req")["valid"]
        host.stop(signal.SIGKILL)
    with hosting(RETENTION_DAYS="0") as (_, client):
        all_is_there_once(client, tmp_path, "req")
        assert entries(client, "req") == before
        run_timer(client, "purge_instances")
        found = until(lambda: (body := verified(client, "req"))["purged"] and body)
        assert (found["valid"], found["chains"][0]["anchored_by"]) == (True, "purge")
        assert client.get("/api/requests/req").status_code == 404
        assert entries(client, "req")[:-1] == before
        assert entries(client, "req")[-1]["action"] == "purged"
        assert open_waits(client) == []


def test_while_the_store_is_locked_runs_wait_and_go_on_afterwards(tmp_path: Path, hosting: Hosting) -> None:
    with hosting() as (_, client):
        start(client, "ord")
        waiting(client, "ord")
        with locked(tmp_path):
            start(client, "req")
            assert decide(client, "req").status_code == 202
            assert decide(client, "ord").status_code == 202
            assert open_waits(client) == ["ord"]  # who reads does not wait for who writes
            assert verified(client, "ord")["verdict"] == "intact"
            assert client.get("/api/audit/req").status_code == 404
            assert not (data(tmp_path) / "orders").exists()
        for name in ("req", "ord"):
            assert output(client, name)["status"].startswith("Approved")
            assert told(entries(client, name)) == ACTIONS[name]
            assert verified(client, name)["valid"]
        assert open_waits(client) == []


@pytest.mark.parametrize("obstacle", ["a folder", "no database"])
def test_while_the_store_cannot_be_opened_its_pages_say_503_and_nothing_is_lost(
    tmp_path: Path, hosting: Hosting, obstacle: str
) -> None:
    file = data(tmp_path) / "records.db"
    data(tmp_path).mkdir()
    if obstacle == "a folder":
        file.mkdir()
    else:
        file.write_bytes(b"This is no database. " * 1000)
    with hosting() as (_, client):
        start(client, "req")
        assert decide(client, "req").status_code == 202
        for path in ("/api/waits", "/api/audit/req", "/api/audit/req/verify"):
            answer = client.get(path)
            assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
            assert answer.json()["type"] == "urn:countersign:problem:records-unavailable"
            for inner in (str(tmp_path), "records.db", "Traceback", "sqlite", ".py"):
                assert inner not in answer.text
        erase = client.post("/api/audit/req/erase", json={"by": "Alice"})
        assert erase.status_code == 503
        run_timer(client, "reconcile_records")
        assert shown(client, "req")["runtime_status"] == "RUNNING"
        assert not (data(tmp_path) / "outbox").exists() or shown(client, "req")["output"] is None
        shutil.rmtree(file) if obstacle == "a folder" else file.unlink()
        all_is_there_once(client, tmp_path, "req")


def test_reconciling_after_kill_and_restart_finds_nothing_to_heal(tmp_path: Path, hosting: Hosting) -> None:
    with hosting() as (host, client):
        for name in ("req", "ord"):
            start(client, name)
            waiting(client, name)
        host.stop(signal.SIGKILL)
    with hosting() as (host, client):
        run_timer(client, "reconcile_records")
        told = until(lambda: [line for line in host.log.read_text().splitlines() if "Reconciled the records" in line])
        assert "4 unchanged" in told[0]
        assert sorted(open_waits(client, person=WHO)) == ["ord", "req"]


def test_the_timer_heals_a_store_that_came_from_a_backup(tmp_path: Path, hosting: Hosting) -> None:
    """The folder's records are those of a moment ago; the hub's file is as it is."""
    with hosting() as (_, client):
        start(client, "req")
        waiting(client, "req")
    backup = tmp_path / "backup.db"
    with closing(sqlite3.connect(data(tmp_path) / "records.db")) as file, closing(sqlite3.connect(backup)) as copy:
        file.backup(copy)
    with hosting(DECISION_WAIT_SECONDS="20") as (_, client):
        assert decide(client, "req").status_code == 200
        output(client, "req")
        start(client, "ord")
        waiting(client, "ord")
    for each in data(tmp_path).glob("records.db*"):
        each.unlink()
    shutil.copy(backup, data(tmp_path) / "records.db")
    with hosting() as (_, client):
        assert open_waits(client) == ["req"]
        assert verified(client, "req")["verdict"] == "broken"  # its end is missing, which somebody may have cut off
        run_timer(client, "reconcile_records")
        until(lambda: open_waits(client) == ["ord"])
        assert verified(client, "ord")["valid"]
        assert decide(client, "ord").status_code in (200, 202)
        assert until(lambda: shown(client, "ord")["output"])["status"] == "Approved by Boss"
        assert verified(client, "ord")["valid"]


def test_verifying_while_decisions_go_on_finds_no_fault(tmp_path: Path, hosting: Hosting) -> None:
    names = [f"r{number}" for number in range(30)]
    with hosting(DECISION_WAIT_SECONDS="20") as (_, client):
        for name in names:
            assert client.post("/api/requests", json=REQUEST | {"request_id": name}).status_code == 202
        seen: list[str] = []
        give_up = time.monotonic() + 30
        for name in names:
            client.post(f"{MANAGEMENT}/{name}/raiseEvent/decision", json={"is_approved": True, "approver": "Boss"})
            while time.monotonic() < give_up:
                answer = client.get(f"/api/audit/{name}/verify")
                seen.append(answer.json().get("verdict", "404"))
                if shown(client, name)["output"]:
                    break
        assert set(seen) == {"intact"}
        assert [verified(client, name)["valid"] for name in names] == [True] * len(names)
