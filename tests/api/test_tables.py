"""The app with its records in Azure Table Storage, from a request to its purge."""

from pathlib import Path

from tests.azurite import Azurite, azurite
from tests.hosting import host_process
from tests.polling import until

__all__ = ["azurite"]

REQUEST = {"requester": "Alice", "item": "A desk", "timeout_hours": 1, "request_id": "desk"}


def test_a_request_is_waited_for_decided_purged_and_verified(azurite: Azurite, tmp_path: Path) -> None:
    settings = {"RECORDS": "tables", "RECORDS_CONNECTION": azurite.connection, "RECORDS_TABLE": "wholeapp"}
    retention = {"RETENTION_DAYS": "0", "AUDIT_KEY": "a key of more than 16"}
    with host_process(tmp_path, environment=settings | retention) as host, host.client() as client:
        client.post("/api/requests", json=REQUEST).raise_for_status()
        [wait] = until(lambda: client.get("/api/waits?person=Approvals@example.com").json()["waits"])
        assert (wait["instance_id"], wait["kind"], wait["title"]) == ("desk", "approval", "A desk")
        client.post("/api/approvals/desk", json={"is_approved": True, "approver": "Boss"}).raise_for_status()
        assert client.get("/api/waits").json()["waits"] == []
        until(lambda: client.get("/api/requests/desk").json()["runtime_status"] == "COMPLETED")
        [chain] = client.get("/api/audit/desk/verify").json()["chains"]
        assert (chain["verdict"], chain["anchored_by"], chain["entries"]) == ("intact", "history", 7)
        client.post("/admin/functions/purge_instances", json={}).raise_for_status()
        until(lambda: client.get("/api/requests/desk").status_code == 404)
        found = client.get("/api/audit/desk/verify").json()
        assert (found["valid"], found["purged"], found["sealed"]) == (True, True, True)
        assert not (tmp_path / "records.db").exists()
