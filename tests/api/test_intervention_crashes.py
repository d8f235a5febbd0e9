"""What becomes of a guarded call after kill -9 of the real host at any step."""

import signal
from email import message_from_bytes
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.hosting import Hosting, data
from tests.failing_server import FailingServer, Reply, failing_server
from tests.polling import until

ANN = "ann@example.com"
GATE = "waiting_for_intervention"
ID = "pay"


def start(client: httpx.Client, server: FailingServer) -> None:
    """Start a call of the server, which is tried twice."""
    call = {"kind": "http", "url": server.url("/pay"), "body": {"amount": 5}}
    retry = {"attempts": 2, "first_interval": 0.01}
    given = {"name": "pay", "call": call, "retry": retry, "assigned_to": [ANN], "editable": True}
    assert client.post("/api/interventions", json={**given, "intervention_id": ID}).status_code == 202


def shown(client: httpx.Client, phase: str) -> dict[str, Any]:
    """What is shown of it once it is in a phase."""

    def look() -> dict[str, Any] | None:
        told: dict[str, Any] = client.get(f"/api/interventions/{ID}").raise_for_status().json()
        return told if told["phase"] == phase and not told["warnings"] else None

    return until(look, seconds=30)


def edit(client: httpx.Client) -> httpx.Response:
    """Edit the body; the same each time."""
    said = {"by": ANN, "reason": "Six", "body": {"amount": 6}}
    return client.post(f"/api/interventions/{ID}/edit", json=said, headers={"Idempotency-Key": "the-edit"})


def mails(folder: Path) -> list[str]:
    """The ids of the mails that went out."""
    found = (message_from_bytes(file.read_bytes()) for file in (data(folder) / "outbox").glob("*.eml"))
    return [str(mail["Message-ID"]) for mail in found]


def settings(server: FailingServer) -> dict[str, str]:
    """What lets the app call the server."""
    return {"CALL_HOSTS": server.host}


def told(client: httpx.Client) -> list[str]:
    """What happened, but for the mails."""
    history = shown(client, "succeeded")["history"]
    return [each["action"] for each in history if each["action"] != "mailed"]


EDITED = ["started", "call_failed", "call_failed", "asked", "edited", "called", "ended"]


def test_a_gate_is_open_after_the_host_was_killed(hosting: Hosting, tmp_path: Path) -> None:
    with failing_server() as server:
        server.answers("/pay", [Reply(503), Reply(503), Reply(200, b'{"id": 7}')])
        with hosting(**settings(server)) as (host, client):
            start(client, server)
            before = shown(client, GATE)
            until(lambda: mails(tmp_path))
            host.stop(signal.SIGKILL)
        with hosting(**settings(server)) as (_, client):
            assert shown(client, GATE)["gate"] == before["gate"]
            listed = client.get("/api/interventions").json()["interventions"]
            assert [each["intervention_id"] for each in listed] == [ID]
            assert edit(client).status_code == 200
            assert shown(client, "succeeded")["output"]["result"] == {"id": 7}
            assert told(client) == EDITED
        assert len(server.requests) == 3
    assert len(mails(tmp_path)) == 1


@pytest.mark.parametrize(
    ("when", "write"),
    [
        ("after", '"started"'),
        ("before", "attempt|000001"),
        ("after", "attempt|000002"),
        ("before", '"asked"'),
        ("after", '"asked"'),
        ("before", '"edited"'),
        ("after", '"edited"'),
        ("before", '"called"'),
    ],
)
def test_nothing_is_lost_or_done_twice_over_a_kill_at_any_write(
    hosting: Hosting, tmp_path: Path, when: str, write: str
) -> None:
    with failing_server() as server:
        server.answers("/pay", [Reply(503), Reply(503), Reply(200, b'{"id": 7}')])
        data(tmp_path).mkdir(parents=True)
        (data(tmp_path) / f"kill-{when}").write_text(write)
        with hosting(crashing=True, **settings(server)) as (host, client):
            try:
                start(client, server)
                shown(client, GATE)
                edit(client)
                shown(client, "succeeded")
            except httpx.TransportError:
                pass
            assert host.process.wait(timeout=20) == -signal.SIGKILL
        with hosting(**settings(server)) as (_, client):
            if client.get(f"/api/interventions/{ID}").status_code == 404:
                start(client, server)
            if write in ('"edited"', '"called"'):
                assert until(lambda: edit(client).status_code == 200 or None)
            else:
                shown(client, GATE)
                assert edit(client).status_code == 200
            result = shown(client, "succeeded")
            assert result["output"]["result"] == {"id": 7}
            assert told(client) == EDITED
            assert client.get(f"/api/audit/{ID}/verify").json()["verdict"] == "intact"
            assert client.get("/api/waits").json()["waits"] == []
        keys = [request.headers["Idempotency-Key"] for request in server.requests]
        assert len(server.requests) in (3, 4), "an attempt whose end nobody heard of is made again, with its key"
        assert len(dict.fromkeys(keys)) == 2
        bodies = dict.fromkeys(zip(keys, (request.body for request in server.requests), strict=True))
        assert len(bodies) == 2
    assert len(mails(tmp_path)) == 1
