"""The purchase order over HTTP, as a client sees it."""

from concurrent.futures import ThreadPoolExecutor
from email import message_from_bytes, policy
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.hosting import HostProcess
from tests.polling import until

ORDER = {"order_id": "order123", "cost": 500, "product": "Widget", "quantity": 2}
MANAGEMENT = "/runtime/webhooks/durabletask/instances"


def started(client: httpx.Client, **changes: Any) -> str:
    """Start an order and give its instance id."""
    response = client.post("/start-purchase-order", json=ORDER | changes)
    assert response.status_code == 202, response.text
    instance_id: str = response.json()["instance_id"]
    return instance_id


def waiting(client: httpx.Client, **changes: Any) -> str:
    """Start an order, and wait until it waits for a decision."""
    instance = started(client, **changes)
    until(lambda: phase(client, instance) == "waiting_for_approval")
    return instance


def shown(client: httpx.Client, instance: str) -> dict[str, Any]:
    """What GET /status shows."""
    response = client.get(f"/status/{instance}")
    assert response.status_code == 200
    body: dict[str, Any] = response.json()
    return body


def phase(client: httpx.Client, instance: str) -> str | None:
    """The phase in the custom status."""
    status = shown(client, instance)["custom_status"]
    return status["phase"] if status else None


def ended(client: httpx.Client, instance: str) -> dict[str, Any]:
    """Wait for the end, and give what is shown then."""
    return until(lambda: body if (body := shown(client, instance))["output"] else None)


def decide(client: httpx.Client, instance: str, approved: bool = True, **more: Any) -> httpx.Response:
    """Decide, as in the seed's second call."""
    headers = more.pop("headers", {})
    body = {"approver_name": "ManagerX", "approved": approved} | more
    return client.post(f"/signal-approval/{instance}", json=body, headers=headers)


def test_start_says_where_to_go_on(client: httpx.Client, host: HostProcess) -> None:
    response = client.post("/start-purchase-order", json=ORDER)
    assert response.status_code == 202
    body = response.json()
    assert set(body) == {"instance_id", "message"}
    assert body["instance_id"].startswith("purchase_order-")
    assert f"/signal-approval/{body['instance_id']}" in body["message"]
    assert response.headers["location"] == f"{host.url}/status/{body['instance_id']}"
    assert response.headers["cache-control"] == "no-store"


def test_a_small_order_is_approved_without_asking(client: httpx.Client) -> None:
    instance = started(client, cost=499.99)
    body = ended(client, instance)
    assert (body["status"], body["runtime_status"]) == ("Auto-Approved", "COMPLETED")
    answer = decide(client, instance)
    assert answer.status_code == 409
    assert "automatically" in answer.json()["detail"]


def test_approved_is_answered_with_the_verdict_and_the_order_is_placed(client: httpx.Client, host: HostProcess) -> None:
    instance = waiting(client)
    answer = decide(client, instance, comments="go")
    assert answer.status_code == 200
    verdict = answer.json()
    assert verdict["message"] == f"The event 'approval_event' was raised for instance '{instance}'."
    assert (verdict["outcome"], verdict["decided_by"]) == ("approved", "ManagerX")
    body = ended(client, instance)
    assert body["status"] == "Approved by ManagerX"
    assert body["output"]["comments"] == "go"
    assert body["output"]["decided_at"] == verdict["decided_at"]
    assert len(list((host.data / "orders" / "placed").glob(f"{instance}.*.json"))) == 1


def test_rejected_cancels_the_order(client: httpx.Client, host: HostProcess) -> None:
    instance = waiting(client)
    assert decide(client, instance, approved=False).json()["outcome"] == "rejected"
    assert ended(client, instance)["status"] == "Rejected by ManagerX"
    assert len(list((host.data / "orders" / "cancelled").glob(f"{instance}.*.json"))) == 1


def test_without_a_decision_it_is_cancelled_and_a_late_one_is_gone(client: httpx.Client) -> None:
    instance = started(client, timeout_seconds=0.3)
    assert ended(client, instance)["status"] == "Cancelled due to timeout"
    answer = decide(client, instance)
    assert answer.status_code == 410
    assert "The time to decide was up at" in answer.json()["detail"]


def test_the_mail_says_how_to_decide(client: httpx.Client, host: HostProcess) -> None:
    instance = waiting(client)
    [file] = (host.data / "outbox").glob(f"{instance}.*.1@countersign.invalid.eml")
    mail = message_from_bytes(file.read_bytes(), policy=policy.default)
    assert mail["To"] == "approvals@example.com"
    body = mail.get_content()
    assert f"{host.url}/signal-approval/{instance}" in body
    assert "1,000.00 in all" in body
    assert oct(file.stat().st_mode & 0o777) == "0o600"


def test_a_second_decision_is_told_who_decided_and_when(client: httpx.Client) -> None:
    instance = waiting(client)
    first = decide(client, instance).json()
    second = decide(client, instance, approved=False, approver_name="ManagerY")
    assert second.status_code == 409
    assert second.headers["content-type"] == "application/problem+json"
    problem = second.json()
    assert problem["type"] == "urn:countersign:problem:already-decided"
    assert problem["decided_by"] == "ManagerX"
    assert problem["decided_at"] == first["decided_at"]
    assert problem["outcome"] == "approved"
    assert ended(client, instance)["status"] == "Approved by ManagerX"


def test_the_same_decision_again_gets_the_same_verdict(client: httpx.Client) -> None:
    instance = waiting(client)
    key = {"Idempotency-Key": "key-1"}
    first = decide(client, instance, comments="x" * 1000, headers=key)
    assert first.status_code == 200
    assert first.json()["decision_id"] == "key-1"
    ended(client, instance)
    again = decide(client, instance, comments="x" * 1000, headers=key)
    assert (again.status_code, again.json()) == (200, first.json())
    other = decide(client, instance, approved=False, headers=key)
    assert other.status_code == 422
    assert "Idempotency-Key" in other.json()["detail"]


@pytest.mark.parametrize("key", ["", "two words", "x" * 129, "tab\there"])
def test_a_malformed_idempotency_key_is_refused(client: httpx.Client, key: str) -> None:
    instance = waiting(client)
    assert decide(client, instance, headers={"Idempotency-Key": key}).status_code == 400


def test_of_many_at_once_one_decides_and_all_others_are_told(client: httpx.Client) -> None:
    instance = waiting(client)
    with ThreadPoolExecutor(20) as pool:
        names = [f"Manager {number}" for number in range(20)]
        answers = list(pool.map(lambda name: decide(client, instance, approver_name=name), names))
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [200] + [409] * 19
    winner = next(answer.json()["decided_by"] for answer in answers if answer.status_code == 200)
    assert {answer.json()["decided_by"] for answer in answers} == {winner}
    assert ended(client, instance)["status"] == f"Approved by {winner}"


def test_the_same_key_at_the_same_moment_is_one_decision(client: httpx.Client) -> None:
    instance = waiting(client)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: decide(client, instance, headers={"Idempotency-Key": "k"}), range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1


def test_a_decision_before_the_run_waits_counts(client: httpx.Client) -> None:
    instance = started(client)
    assert decide(client, instance).status_code == 200


def test_a_suspended_run_takes_the_decision_when_it_is_resumed(client: httpx.Client) -> None:
    instance = waiting(client)
    assert client.post(f"{MANAGEMENT}/{instance}/suspend").status_code == 202
    until(lambda: shown(client, instance)["runtime_status"] == "SUSPENDED")
    answer = decide(client, instance)
    assert answer.status_code == 202
    assert answer.headers["location"].endswith(f"/status/{instance}")
    assert client.post(f"{MANAGEMENT}/{instance}/resume").status_code == 202
    assert ended(client, instance)["status"] == "Approved by ManagerX"


def test_a_terminated_run_takes_no_decision(client: httpx.Client) -> None:
    instance = waiting(client)
    client.post(f"{MANAGEMENT}/{instance}/terminate?reason=stop")
    until(lambda: shown(client, instance)["runtime_status"] == "TERMINATED")
    answer = decide(client, instance)
    assert answer.status_code == 410
    assert "terminated" in answer.json()["detail"]
    assert shown(client, instance)["status"] == "Terminated"


@pytest.mark.parametrize(
    ("payload", "field"),
    [({"approved": True}, "approver_name"), ("yes", "payload"), ({"approver_name": "A", "approved": "x"}, "approved")],
)
def test_the_management_api_decides_too_and_a_malformed_event_is_set_aside(
    client: httpx.Client, payload: Any, field: str
) -> None:
    instance = waiting(client)
    event = f"{MANAGEMENT}/{instance}/raiseEvent/approval_event"
    assert client.post(event, json=payload).status_code == 202
    warnings = until(lambda: shown(client, instance)["custom_status"]["warnings"])
    assert field in warnings[0]
    assert client.post(event, json={"approver_name": "Operator", "approved": True}).status_code == 202
    assert ended(client, instance)["status"] == "Approved by Operator"
    refused = decide(client, instance)
    assert (refused.status_code, refused.json()["decided_by"]) == (409, "Operator")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"cost": -1}, "cost"),
        ({"cost": "500"}, "cost"),
        ({"cost": True}, "cost"),
        ({"cost": 1e10}, "cost"),
        ({"cost": None}, "cost"),
        ({"quantity": 0}, "quantity"),
        ({"quantity": -2}, "quantity"),
        ({"quantity": 1.5}, "quantity"),
        ({"quantity": 10**30}, "quantity"),
        ({"order_id": ""}, "order_id"),
        ({"order_id": " "}, "order_id"),
        ({"order_id": 7}, "order_id"),
        ({"order_id": "x" * 101}, "order_id"),
        ({"product": "two\nlines"}, "product"),
        ({"surprise": 1}, "surprise"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"timeout_seconds": 366 * 86400}, "timeout_seconds"),
        ({"instance_id": "a b"}, "instance_id"),
        ({"instance_id": "../x"}, "instance_id"),
        ({"instance_id": "x" * 101}, "instance_id"),
        ({"instance_id": ""}, "instance_id"),
    ],
)
def test_a_bad_field_is_named(client: httpx.Client, change: dict[str, Any], field: str) -> None:
    response = client.post("/start-purchase-order", json=ORDER | change)
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert [error["field"] for error in problem["errors"]] == [field]
    assert field in problem["detail"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400"])
def test_numbers_that_are_none_are_refused(client: httpx.Client, number: str) -> None:
    body = f'{{"order_id": "1", "cost": {number}, "product": "W", "quantity": 1}}'
    response = client.post("/start-purchase-order", content=body)
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "cost"


def test_all_bad_fields_are_named_at_once(client: httpx.Client) -> None:
    errors = client.post("/start-purchase-order", json={"cost": -1, "x": 1}).json()["errors"]
    assert {error["field"] for error in errors} == {"order_id", "cost", "product", "quantity", "x"}
    assert all(error["message"] for error in errors)


@pytest.mark.parametrize("body", [b"", b"{", b"not json", b"\xff\xfe", b'{"a": 1}}', b"[" * 10_000])
def test_what_is_not_json_is_400(client: httpx.Client, body: bytes) -> None:
    response = client.post("/start-purchase-order", content=body)
    assert response.status_code == 400
    assert "not JSON" in response.json()["detail"]


@pytest.mark.parametrize("body", [b"1", b"[]", b"null", b'"x"'])
def test_json_that_is_no_object_is_422(client: httpx.Client, body: bytes) -> None:
    assert client.post("/start-purchase-order", content=body).status_code == 422


@pytest.mark.parametrize("path", ["/start-purchase-order", "/signal-approval/x", "/api/requests", "/api/approvals/x"])
def test_a_body_over_the_limit_is_413(client: httpx.Client, path: str) -> None:
    response = client.post(path, content=b" " * (256 * 1024 + 1))
    assert response.status_code == 413
    assert client.post(path, content=b" " * (256 * 1024)).status_code == 400


def test_a_content_type_is_not_needed(client: httpx.Client) -> None:
    content = b'{"order_id": "order123", "cost": 500, "product": "Widget", "quantity": 2}'
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert client.post("/start-purchase-order", content=content, headers=headers).status_code == 202


def test_an_id_that_is_taken_is_409(client: httpx.Client) -> None:
    name = f"order-{uuid4()}"
    assert started(client, instance_id=name) == name
    response = client.post("/start-purchase-order", json=ORDER | {"instance_id": name})
    assert response.status_code == 409
    assert response.json()["instance_id"] == name


def test_of_many_starts_with_one_id_one_wins(client: httpx.Client) -> None:
    body = ORDER | {"instance_id": f"order-{uuid4()}"}
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: client.post("/start-purchase-order", json=body), range(20)))
    assert sorted(answer.status_code for answer in answers) == [202] + [409] * 19


@pytest.mark.parametrize("name", ["nobody", "purchase_order-1", "a:b.c_d-e"])
def test_an_unknown_id_is_404(client: httpx.Client, name: str) -> None:
    assert client.get(f"/status/{name}").status_code == 404
    response = decide(client, name)
    assert response.status_code == 404
    assert name in response.json()["detail"]


@pytest.mark.parametrize("name", ["a%20b", "%2e%2e%2fx", "x" * 101, "%00", "%F0%9F%8E%89", "@e@k"])
def test_an_id_that_cannot_be_is_400(client: httpx.Client, name: str) -> None:
    assert client.get(f"/status/{name}").status_code == 400
    assert decide(client, name).status_code == 400


def test_another_workflows_instance_is_not_found(client: httpx.Client) -> None:
    request = {"requester": "Alice", "item": "Vacation", "timeout_hours": 1}
    other = client.post("/api/requests", json=request).json()["request_id"]
    assert client.get(f"/status/{other}").status_code == 404
    assert decide(client, other).status_code == 404


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_page_of_another_site_can_neither_start_nor_decide(client: httpx.Client, site: str) -> None:
    instance = waiting(client)
    headers = {"Sec-Fetch-Site": site, "Content-Type": "text/plain"}
    assert client.post("/start-purchase-order", json=ORDER, headers=headers).status_code == 403
    assert decide(client, instance, headers=headers).status_code == 403
    assert phase(client, instance) == "waiting_for_approval"
    assert client.post(f"{MANAGEMENT}/{instance}/terminate", headers=headers).status_code == 403
    assert client.get(f"/status/{instance}", headers=headers).status_code == 200


def test_a_forged_host_is_refused(client: httpx.Client) -> None:
    response = client.post("/start-purchase-order", json=ORDER, headers={"Host": "evil.example"})
    assert response.status_code == 400


def test_forwarded_headers_do_not_change_links(client: httpx.Client, host: HostProcess) -> None:
    headers = {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https", "Forwarded": "host=evil.example"}
    response = client.post("/start-purchase-order", json=ORDER, headers=headers)
    assert response.headers["location"].startswith(host.url)


@pytest.mark.parametrize(("method", "path"), [("GET", "/start-purchase-order"), ("DELETE", "/status/x"), ("GET", "/x")])
def test_other_methods_and_paths_are_not_found(client: httpx.Client, method: str, path: str) -> None:
    assert client.request(method, path).status_code == 404
