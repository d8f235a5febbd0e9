"""The approval over HTTP, as a client sees it."""

from typing import Any

import httpx
import pytest

from tests.hosting import HostProcess
from tests.polling import until

REQUEST = {"requester": "Alice", "item": "Vacation Request", "timeout_hours": 1}
DECISION = {"is_approved": True, "approver": "Manager", "comments": "Approved!"}


def created(client: httpx.Client, **changes: Any) -> dict[str, Any]:
    """Create a request, and give the answer."""
    response = client.post("/api/requests", json=REQUEST | changes)
    assert response.status_code == 202, response.text
    body: dict[str, Any] = response.json()
    return body


def shown(client: httpx.Client, request_id: str) -> dict[str, Any]:
    """What GET /api/requests/{id} shows."""
    body: dict[str, Any] = client.get(f"/api/requests/{request_id}").raise_for_status().json()
    return body


def test_the_approval_url_takes_the_decision(client: httpx.Client, host: HostProcess) -> None:
    request = created(client)
    assert request["approval_url"] == f"{host.url}/api/approvals/{request['request_id']}"
    assert shown(client, request["request_id"])["status"] == "Pending"
    answer = client.post(request["approval_url"], json=DECISION)
    assert answer.status_code == 200
    assert (answer.json()["outcome"], answer.json()["decided_by"]) == ("approved", "Manager")
    body = until(lambda: body if (body := client.get(request["status_url"]).json())["output"] else None)
    assert body["status"] == "Approved"
    assert (body["output"]["approver"], body["output"]["comments"]) == ("Manager", "Approved!")


def test_rejected(client: httpx.Client) -> None:
    request = created(client)
    body = DECISION | {"is_approved": False, "comments": None}
    assert client.post(request["approval_url"], json=body).json()["outcome"] == "rejected"
    assert until(lambda: (out := shown(client, request["request_id"]))["output"] and out)["status"] == "Rejected"


def test_a_fraction_of_an_hour_is_a_timeout_too(client: httpx.Client) -> None:
    request = created(client, timeout_hours=0.0001)
    body = until(lambda: (out := shown(client, request["request_id"]))["output"] and out)
    assert body["status"] == "Timeout"
    late = client.post(request["approval_url"], json=DECISION)
    assert late.status_code == 410
    assert late.json()["type"] == "urn:countersign:problem:too-late"


def test_a_second_decision_is_409(client: httpx.Client) -> None:
    request = created(client)
    client.post(request["approval_url"], json=DECISION)
    second = client.post(request["approval_url"], json=DECISION | {"approver": "Other"})
    assert second.status_code == 409
    assert second.json()["decided_by"] == "Manager"


def test_the_caller_may_name_the_request(client: httpx.Client) -> None:
    name = "vacation:alice_2026.11"
    assert created(client, request_id=name)["request_id"] == name
    assert client.post("/api/requests", json=REQUEST | {"request_id": name}).status_code == 409


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"timeout_hours": 0}, "timeout_hours"),
        ({"timeout_hours": -1}, "timeout_hours"),
        ({"timeout_hours": 8761}, "timeout_hours"),
        ({"timeout_hours": "1"}, "timeout_hours"),
        ({"requester": ""}, "requester"),
        ({"item": None}, "item"),
        ({"approver": "x"}, "approver"),
    ],
)
def test_a_bad_field_of_a_request_is_named(client: httpx.Client, change: dict[str, Any], field: str) -> None:
    response = client.post("/api/requests", json=REQUEST | change)
    assert (response.status_code, response.json()["errors"][0]["field"]) == (422, field)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"is_approved": "true"}, "is_approved"),
        ({"is_approved": 1}, "is_approved"),
        ({"is_approved": None}, "(body)"),
        ({"vote": "approve"}, "(body)"),
        ({"vote": "yes"}, "vote"),
        ({"approver": ""}, "approver"),
        ({"comments": "x" * 4001}, "comments"),
        ({"comment": "x"}, "comment"),
    ],
)
def test_a_bad_field_of_a_decision_is_named_and_decides_nothing(
    client: httpx.Client, change: dict[str, Any], field: str
) -> None:
    request = created(client)
    response = client.post(request["approval_url"], json=DECISION | change)
    assert (response.status_code, response.json()["errors"][0]["field"]) == (422, field)
    assert shown(client, request["request_id"])["status"] == "Pending"


def test_text_of_any_script_comes_back_as_it_was(client: httpx.Client) -> None:
    request = created(client, requester="Ålice 李", item="Urlaub 🎉 <script>alert(1)</script>")
    client.post(request["approval_url"], json=DECISION | {"approver": "محمد", "comments": "líne\none 🎉"})
    body = until(lambda: (out := shown(client, request["request_id"]))["output"] and out)
    assert body["output"]["approver"] == "محمد"
    assert body["output"]["comments"] == "líne\none 🎉"
    assert body["input"]["item"] == "Urlaub 🎉 <script>alert(1)</script>"


def test_a_run_that_was_started_with_nonsense_is_shown_as_failed(client: httpx.Client) -> None:
    start = client.post("/runtime/webhooks/durabletask/orchestrators/approval/nonsense", json={"x": 1})
    assert start.status_code == 202
    body = until(lambda: out if (out := shown(client, "nonsense"))["runtime_status"] == "FAILED" else None)
    assert body["status"] == "Failed"
    assert "ApprovalInput" in body["error"]
    assert "Traceback" not in str(body)
    assert client.post("/api/approvals/nonsense", json=DECISION).status_code == 410


def test_half_a_surrogate_pair_is_shown_as_the_escape_that_it_came_as(client: httpx.Client) -> None:
    given = rb'{"requester": "Alice", "item": "x\ud800", "timeout_hours": 1}'
    client.post("/runtime/webhooks/durabletask/orchestrators/approval/surrogate", content=given)
    response = client.get("/api/requests/surrogate")
    assert response.status_code == 200
    assert rb'"item": "x\ud800"' in response.content
