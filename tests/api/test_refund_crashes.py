"""What becomes of a refund, and of its calls, after kill -9 of the real host."""

import json
import signal
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.hosting import Hosting, data
from tests.failing_server import FailingServer, Reply, failing_server, hang
from tests.polling import until

ID = "back"
OK = Reply(200, b'{"ok": true}')
CREATED = Reply(201, b'{"id": "R-77"}')
CREATE, NOTIFY, PROCESS = "/refunds", f"/refunds/{ID}/notifications", f"/refunds/{ID}/process"
CANCEL, REVERSE = f"/refunds/{ID}/cancellation", f"/refunds/{ID}/reversal"
REFUNDED = [CREATE, NOTIFY, PROCESS]


def answering(server: FailingServer, **replies: list[Reply]) -> dict[str, str]:
    """Let the refund API answer, each call well but for what is named; gives the settings of the app."""
    server.answers(CREATE, replies.pop("create", [CREATED]))
    for path in ("notifications", "process", "cancellation", "reversal"):
        server.answers(f"/refunds/{ID}/{path}", replies.pop(path, [OK]))
    assert not replies
    return {"REFUND_API": server.url(), "CALL_HOSTS": server.host}


def start(client: httpx.Client) -> None:
    """Start it; the same each time."""
    given = {"refund_id": ID, "amount": "12.50", "currency": "EUR", "data": "first", "retry": {"attempts": 1}}
    response = client.post("/api/refunds", json=given, headers={"Idempotency-Key": "the-start"})
    assert response.status_code == 202, response.text


def ready(client: httpx.Client) -> str:
    """Say that it is ready; the same each time. Gives the verdict."""
    response = client.post(f"/api/refunds/{ID}/ready", json={"by": "Rita"}, headers={"Idempotency-Key": "the-ready"})
    assert response.status_code in (200, 202), response.text
    verdict: str = response.json()["verdict"]
    return verdict


def swap(client: httpx.Client) -> str:
    """Swap the data; the same each time."""
    path = f"/microservice/swap?workflowId={ID}&data=second"
    return client.post(path, headers={"Idempotency-Key": "the-swap"}).raise_for_status().text


def shown(client: httpx.Client) -> dict[str, Any]:
    """What is shown of it."""
    body: dict[str, Any] = client.get(f"/api/refunds/{ID}").raise_for_status().json()
    return body


def in_phase(client: httpx.Client, phase: str) -> dict[str, Any]:
    """What is shown once it is in a phase."""
    return until(lambda: told if (told := shown(client))["phase"] == phase else None, seconds=30)


def ended(client: httpx.Client) -> dict[str, Any]:
    """What is shown at the end, when nothing is left to be done and its trail and those of its calls are whole."""
    told = until(lambda: told if (told := shown(client))["status"] != "Pending" else None, seconds=30)
    assert client.get("/api/waits").json()["waits"] == []
    for instance in (ID, *(each["call_id"] for each in told["calls"])):
        assert client.get(f"/api/audit/{instance}/verify").json()["verdict"] == "intact"
    return told


def fail(client: httpx.Client, name: str) -> None:
    """Let a call fail for good that waits for people."""

    def look() -> str | None:
        calls = [each for each in shown(client)["calls"] if each["name"] == name]
        return calls[0]["call_id"] if calls and calls[0].get("phase") == "waiting_for_intervention" else None

    said = {"by": "Olga", "reason": "as they asked"}
    client.post(f"/api/interventions/{until(look, seconds=30)}/fail", json=said).raise_for_status()


def called(server: FailingServer) -> list[str]:
    """The paths that were called, each once, in order; each call has to have had one key, and one body."""
    sent = dict.fromkeys((each.path, each.headers["Idempotency-Key"], each.body) for each in list(server.requests))
    paths = [path for path, _, _ in sent]
    assert len(paths) == len(dict.fromkeys(paths)), sent
    assert len(dict.fromkeys(key for _, key, _ in sent)) == len(paths), sent
    return paths


def test_it_waits_on_after_the_host_was_killed(hosting: Hosting) -> None:
    with failing_server() as server:
        settings = answering(server)
        with hosting(**settings) as (host, client):
            start(client)
            in_phase(client, "waiting_for_ready")
            assert swap(client) == "oldData: first"
            until(lambda: [each["state"] for each in shown(client)["calls"]] == ["succeeded"] * 2)
            before = shown(client)
            host.stop(signal.SIGKILL)
        with hosting(**settings) as (_, client):
            now = shown(client)
            assert [now[each] for each in ("phase", "deadline", "data", "history")] == [
                before[each] for each in ("phase", "deadline", "data", "history")
            ]
            assert [each["instance_id"] for each in client.get("/api/waits").json()["waits"]] == [ID]
            assert swap(client) == "oldData: first"
            ready(client)
            over = ended(client)
        assert (over["status"], over["data"]) == ("Refunded", "second")
        assert called(server) == REFUNDED
        assert len(server.requests) == 3
        assert json.loads(server.requests[-1].body)["data"] == "second"


@pytest.mark.parametrize("hanging", ["create", "notifications", "process"])
def test_a_call_that_was_under_way_is_made_again_with_its_key(hosting: Hosting, hanging: str) -> None:
    with failing_server() as server:
        settings = answering(server, **{hanging: [hang(), CREATED if hanging == "create" else OK]})
        with hosting(**settings) as (host, client):
            start(client)
            if hanging != "create":
                in_phase(client, "waiting_for_ready")
                ready(client)
            path = CREATE if hanging == "create" else f"/refunds/{ID}/{hanging}"
            until(lambda: path in called(server))
            assert [each["state"] for each in shown(client)["calls"]].count("under_way") >= 1
            host.stop(signal.SIGKILL)
        with hosting(**settings) as (_, client):
            if hanging == "create":
                in_phase(client, "waiting_for_ready")
            assert ready(client) in ("accepted", "pending")
            over = ended(client)
        assert over["status"] == "Refunded"
        assert [each["state"] for each in over["calls"]] == ["succeeded"] * 3
        assert sorted(called(server)) == sorted(REFUNDED)
        assert [each.path for each in server.requests].count(path) == 2


def test_what_is_undone_goes_on_being_undone_once(hosting: Hosting) -> None:
    with failing_server() as server:
        settings = answering(server, notifications=[Reply(400)], reversal=[hang(), OK])
        with hosting(**settings) as (host, client):
            start(client)
            in_phase(client, "waiting_for_ready")
            ready(client)
            until(lambda: "succeeded" in [e["state"] for e in shown(client)["calls"] if e["name"] == "process_refund"])
            fail(client, "notify_created")
            until(lambda: REVERSE in called(server))
            host.stop(signal.SIGKILL)
        with hosting(**settings) as (_, client):
            over = ended(client)
        done = "What was done was undone by reverse_refund, cancel_refund."
        assert (over["status"], over["error"]) == ("Failed", f"notify_created failed for good. {done}")
        assert called(server)[-2:] == [REVERSE, CANCEL]
        assert [each.path for each in server.requests].count(REVERSE) == 2


WRITES = ['"started"', '"waiting_for_ready"', '"swapped"', '"received"', '"call|000003"', '"ended"', '"refunded"']


@pytest.mark.parametrize(("when", "write"), list(zip(cycle(["after", "before"]), WRITES, strict=False)))
def test_nothing_is_lost_or_done_twice_over_a_kill_at_any_write(
    hosting: Hosting, tmp_path: Path, when: str, write: str
) -> None:
    with failing_server() as server:
        settings = answering(server)
        data(tmp_path).mkdir(parents=True)
        (data(tmp_path) / f"kill-{when}").write_text(write)
        with hosting(crashing=True, **settings) as (host, client):
            try:
                start(client)
                in_phase(client, "waiting_for_ready")
                swap(client)
                ready(client)
                ended(client)
            except httpx.TransportError:
                pass
            assert host.process.wait(timeout=20) == -signal.SIGKILL
        with hosting(**settings) as (_, client):
            start(client)
            until(lambda: shown(client)["phase"] not in (None, "started", "creating") or None, seconds=30)
            if shown(client)["data"] == "first":
                assert until(lambda: text if (text := swap(client)) != "pending" else None) == "oldData: first"
            ready(client)
            over = ended(client)
        assert (over["status"], over["data"]) == ("Refunded", "second")
        assert [each["state"] for each in over["calls"]] == ["succeeded"] * 3
        told = [each["action"] for each in over["history"]]
        assert sorted(told) == sorted(["started", "called", "called", "swapped", "received", "called", "ended"])
        assert sorted(called(server)) == sorted(REFUNDED)
        assert len(server.requests) <= 4, "at most the one that was under way is made again"
