"""What becomes of a pause after kill -9 of the real host: before it is on record, while it lasts, and as it ends."""

import signal
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from tests.api.hosting import Hosting, data
from tests.polling import until

ORDER = {"order_id": "o1", "cost": 500, "product": "Widget", "quantity": 2, "instance_id": "ord"}
INSTANCE = "/runtime/webhooks/durabletask/instances/ord"
APPROVAL = {"approver_name": "Boss", "approved": True}


def tell(client: httpx.Client, action: str, at: datetime, **said: Any) -> None:
    """Raise the event that pauses the run, or ends its pause."""
    moment = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    event = {"action": action, "source": "ord", "number": 1, "at": moment, "by": "Alice"} | said
    client.post(f"{INSTANCE}/raiseEvent/pausing", json=event).raise_for_status()


def shown(client: httpx.Client) -> dict[str, Any]:
    """What the app shows of the run."""
    body: dict[str, Any] = client.get("/status/ord").raise_for_status().json()
    return body


def is_stored(client: httpx.Client, entries: int) -> bool:
    """Whether so many entries are on record, as the run knows."""
    status = shown(client)["custom_status"] or {}
    return bool(status.get("trail")) and (status["trail"]["stored"], status["trail"]["entries"]) == (entries, entries)


def verified(client: httpx.Client) -> str:
    """What verifying the trail gives."""
    verdict: str = client.get("/api/audit/ord/verify").raise_for_status().json()["verdict"]
    return verdict


def killed_at(folder: Path, hosting: Hosting, when: str, action: str, *posts: tuple[str, Any]) -> None:
    """Run the app, and wait until it kills itself before or after the write of an entry of the trail."""
    (data(folder) / f"kill-{when}").write_text(f'"action": "{action}"')
    with hosting(crashing=True) as (host, client):
        with suppress(httpx.TransportError):
            for path, body in posts:
                client.post(path, json=body).raise_for_status()
        assert host.process.wait(timeout=20) == -signal.SIGKILL


def test_a_pause_and_what_came_meanwhile_outlive_every_kill(tmp_path: Path, hosting: Hosting) -> None:
    with hosting() as (_, client):
        client.post("/start-purchase-order", json=ORDER).raise_for_status()
        until(lambda: is_stored(client, 3))
    paused = datetime.now(UTC)
    event = {"action": "pause", "source": "ord", "number": 1, "at": paused.isoformat(), "by": "Alice", "reason": "wait"}
    killed_at(tmp_path, hosting, "before", "paused", (f"{INSTANCE}/raiseEvent/pausing", event))
    with hosting() as (host, client):  # the run has heard it, and the engine has not
        until(lambda: is_stored(client, 4))
        assert shown(client)["custom_status"]["pause"]["paused"]
        host.stop(signal.SIGKILL)
    with hosting() as (host, client):
        client.post(f"{INSTANCE}/suspend").raise_for_status()
        client.post(f"{INSTANCE}/raiseEvent/approval_event", json=APPROVAL).raise_for_status()
        host.stop(signal.SIGKILL)
    with hosting() as (host, client):
        told = shown(client)
        assert (told["runtime_status"], told["custom_status"]["decision"]) == ("SUSPENDED", None)
        assert verified(client) == "intact"
        resumed = datetime.now(UTC)
        tell(client, "resume", resumed, data={"reviewed_by": "Bob"})
        host.stop(signal.SIGKILL)  # the engine has yet to resume it
    killed_at(tmp_path, hosting, "after", "resumed", (f"{INSTANCE}/resume", None))
    with hosting() as (_, client):
        output = until(lambda: shown(client)["output"], seconds=30)
        assert (output["status"], output["resume_data"]) == ("Approved by Boss", {"reviewed_by": "Bob"})
        moved = shown(client)["custom_status"]["pause"]["frozen_seconds"]
        assert abs(moved - (resumed - paused).total_seconds()) < 0.002
        entries = client.get("/api/audit/ord").json()["entries"]
        actions = ["started", "asked", "mailed", "paused", "resumed", "decided", "placed", "ended"]
        assert [entry["action"] for entry in entries] == actions
        assert verified(client) == "intact"
        assert client.get("/api/waits").json()["waits"] == []
    assert len(list((data(tmp_path) / "orders" / "placed").glob("*.json"))) == 1
