"""What becomes of a pause after kill -9 of the real host: before it is on record, while it lasts, and as it ends."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from tests.api.hosting import Hosting, data
from tests.hosting import HostProcess
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


@contextmanager
def killed_at(folder: Path, host: HostProcess, when: str, action: str) -> Iterator[None]:
    """Do something that the host kills itself at: before or after it writes such an entry."""
    (data(folder) / f"kill-{when}").write_text(f'"action": "{action}"')
    with suppress(httpx.TransportError):
        yield
    assert host.process.wait(timeout=20) == -signal.SIGKILL


def test_a_pause_and_what_came_meanwhile_outlive_every_kill(tmp_path: Path, hosting: Hosting) -> None:
    with hosting(crashing=True) as (host, client):
        client.post("/start-purchase-order", json=ORDER).raise_for_status()
        until(lambda: is_stored(client, 3))
        paused = datetime.now(UTC)
        with killed_at(tmp_path, host, "before", "paused"):
            tell(client, "pause", paused, reason="Awaiting review")
    with hosting() as (host, client):  # the run has heard it, and the engine has not
        until(lambda: is_stored(client, 4))
        assert shown(client)["custom_status"]["pause"]["paused"]
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
    with hosting(crashing=True) as (host, client), killed_at(tmp_path, host, "after", "resumed"):
        client.post(f"{INSTANCE}/resume").raise_for_status()
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
