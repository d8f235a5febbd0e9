"""Refunds over HTTP: the calls that others wrote down, plain REST, and a real server that fails."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from local_host.testing import AppControl, running_app
from services import clock, documents
from services.record_store import Change, RecordStoreError, close_record_store, get_record_store
from settings import get_settings
from tests.failing_server import FailingServer, Reply, failing_server
from tests.hosting import ROOT, HostProcess, host_process
from tests.polling import until

MANAGEMENT = "/runtime/webhooks/durabletask"
SOME_DATA = "some input data, could be any object rather than a string"
REFUND: dict[str, Any] = {"amount": "12.50", "currency": "EUR"}
OPERATOR = {"by": "Olga", "reason": "as they asked"}
FOREVER = {"fails": 1000, "status": 500}
MANY = 50


def new_id() -> str:
    """An id that nobody has."""
    return f"refund-{uuid4().hex[:12]}"


def started(client: httpx.Client, **changes: Any) -> str:
    """Start a refund, and give its id when it waits until it is ready."""
    response = client.post("/api/refunds", json=REFUND | changes)
    assert response.status_code == 202, response.text
    refund_id: str = response.json()["refund_id"]
    in_phase(client, refund_id, "waiting_for_ready")
    return refund_id


def shown(client: httpx.Client, refund_id: str) -> dict[str, Any]:
    """What GET /api/refunds/{id} shows."""
    body: dict[str, Any] = client.get(f"/api/refunds/{refund_id}").raise_for_status().json()
    return body


def in_phase(client: httpx.Client, refund_id: str, phase: str) -> dict[str, Any]:
    """What is shown when a refund has come to a phase."""
    return until(lambda: body if (body := shown(client, refund_id))["phase"] == phase else None)


def ended(client: httpx.Client, refund_id: str) -> dict[str, Any]:
    """What is shown at the end."""
    return until(lambda: body if (body := shown(client, refund_id))["status"] != "Pending" else None)


def at_gate(client: httpx.Client, refund_id: str, name: str) -> str:
    """The id of a guarded call that waits for people."""

    def look() -> str | None:
        found = [each for each in shown(client, refund_id)["calls"] if each["name"] == name]
        return found[0]["call_id"] if found and found[0].get("phase") == "waiting_for_intervention" else None

    return until(look)


def act(client: httpx.Client, refund_id: str, name: str, action: str, **more: Any) -> None:
    """Do something at the gate of a call."""
    gate = at_gate(client, refund_id, name)
    response = client.post(f"/api/interventions/{gate}/{action}", json=OPERATOR | more)
    assert response.status_code == 200, response.text


def ready(client: httpx.Client, refund_id: str, body: Any = None, key: str | None = None) -> httpx.Response:
    """Say that it is ready."""
    headers = {"Idempotency-Key": key} if key is not None else {}
    return client.post(f"/api/refunds/{refund_id}/ready", json={} if body is None else body, headers=headers)


def told(response: httpx.Response, status: int = 200) -> str:
    """The verdict in an answer, or its text."""
    assert response.status_code == status, response.text
    if response.headers["content-type"].startswith("text/plain"):
        return response.text
    verdict: str = response.json()["verdict"]
    return verdict


def refused(response: httpx.Response, status: int) -> str:
    """Assert that something was refused, and give the words."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    detail: str = response.json()["detail"]
    assert detail.endswith(".")
    return detail


# Plain REST


def test_a_refund_is_started_made_ready_and_shown(client: httpx.Client) -> None:
    response = client.post("/api/refunds", json={**REFUND, "customer": "carl@example.com", "data": {"order": 7}})
    assert response.status_code == 202
    refund_id = response.json()["refund_id"]
    assert response.headers["location"] == response.json()["status_url"]
    assert response.json()["status_url"].endswith(f"/api/refunds/{refund_id}")
    waiting = in_phase(client, refund_id, "waiting_for_ready")
    assert (waiting["amount"], waiting["currency"], waiting["data"]) == ("12.50", "EUR", {"order": 7})
    assert (waiting["status"], waiting["ready_at"], waiting["customer"]) == ("Pending", None, "carl@example.com")
    begun, until_then = (datetime.fromisoformat(waiting[each]) for each in ("created_at", "deadline"))
    assert timedelta(hours=24) <= until_then - begun < timedelta(hours=24, minutes=1)
    until(lambda: [each["state"] for each in shown(client, refund_id)["calls"]] == ["succeeded"] * 2)
    response = ready(client, refund_id, {"by": "Rita", "comments": "goods are back"})
    assert told(response) == "accepted"
    over = ended(client, refund_id)
    assert (over["status"], over["phase"], over["output"]["status"]) == ("Refunded", "refunded", "Refunded")
    assert over["ready_at"] is not None
    assert [(each["name"], each["state"]) for each in over["calls"]] == [
        ("create_refund", "succeeded"),
        ("notify_created", "succeeded"),
        ("process_refund", "succeeded"),
    ]
    assert [each["action"] for each in over["history"]] == [
        "started",
        "called",
        "called",
        "received",
        "called",
        "ended",
    ]
    assert over["history"][3]["comment"] == "goods are back"
    for call in over["calls"]:
        assert client.get(call["status_url"]).json()["status"] == "Succeeded"


def test_the_wait_is_listed_until_it_is_ready(client: httpx.Client) -> None:
    refund_id = started(client, customer="Carl")

    def listed() -> list[dict[str, Any]]:
        waits: list[dict[str, Any]] = client.get("/api/waits?kind=refund&limit=100").json()["waits"]
        return [each for each in waits if each["instance_id"] == refund_id]

    (wait,) = listed()
    assert wait["title"] == "Refund of 12.50 EUR to Carl"
    ready(client, refund_id)
    ended(client, refund_id)
    assert listed() == []


@pytest.mark.parametrize("before", ["while it is processed", "when it is over"])
def test_a_second_ready_is_a_duplicate(client: httpx.Client, before: str) -> None:
    refund_id = started(client, simulate={"process_refund": FOREVER}, retry={"attempts": 1})
    assert told(ready(client, refund_id, key="k1")) == "accepted"
    if before == "when it is over":
        act(client, refund_id, "process_refund", "fail")
        ended(client, refund_id)
    else:
        at_gate(client, refund_id, "process_refund")
    assert told(ready(client, refund_id, key="k2")) == "duplicate"
    assert told(ready(client, refund_id, key="k1")) == "accepted"
    assert told(client.get(f"/microservice/signal?workflowId={refund_id}")) == "duplicate"
    assert "late" not in [each["action"] for each in shown(client, refund_id)["history"]]


def test_the_same_key_with_something_else_is_refused(client: httpx.Client) -> None:
    refund_id = started(client)
    assert told(ready(client, refund_id, {"by": "Rita"}, key="k1")) == "accepted"
    ended(client, refund_id)
    refused(ready(client, refund_id, {"by": "Someone else"}, key="k1"), 422)


def test_ready_is_too_late_when_the_time_is_up(client: httpx.Client) -> None:
    response = client.post(
        "/api/refunds",
        json={**REFUND, "ready_within": 0.00001, "simulate": {"notify_expired": FOREVER}, "retry": {"attempts": 1}},
    )
    refund_id = response.json()["refund_id"]
    at_gate(client, refund_id, "notify_expired")
    deadline = shown(client, refund_id)["deadline"]
    assert refused(ready(client, refund_id), 410) == f"The time to get ready was up at {deadline}."
    act(client, refund_id, "notify_expired", "skip")
    assert ended(client, refund_id)["status"] == "Expired"
    refused(ready(client, refund_id), 410)
    refused(client.get(f"/microservice/signal?workflowId={refund_id}"), 410)


def test_ready_is_too_late_while_the_refund_is_undone(client: httpx.Client) -> None:
    simulate = dict.fromkeys(("notify_created", "cancel_refund"), FOREVER)
    refund_id = started(client, simulate=simulate, retry={"attempts": 1})
    act(client, refund_id, "notify_created", "fail")
    at_gate(client, refund_id, "cancel_refund")
    refused(ready(client, refund_id), 410)
    act(client, refund_id, "cancel_refund", "fail")
    over = ended(client, refund_id)
    assert (over["status"], over["phase"], over["output"]) == ("Failed", "failed", None)
    assert (
        over["error"] == "notify_created failed for good. Nothing was undone. This failed for good too: cancel_refund."
    )
    refused(ready(client, refund_id), 410)
    refused(client.get("/microservice/swap", params={"workflowId": refund_id, "data": "x"}), 410)


def test_an_early_ready_counts(client: httpx.Client) -> None:
    refund_id = new_id()
    body = {**REFUND, "refund_id": refund_id, "simulate": {"create_refund": FOREVER}, "retry": {"attempts": 1}}
    client.post("/api/refunds", json={**body, "simulate": {"create_refund": {"fails": 1}}}).raise_for_status()
    at_gate(client, refund_id, "create_refund")
    assert told(ready(client, refund_id)) == "accepted"
    act(client, refund_id, "create_refund", "retry")
    assert ended(client, refund_id)["status"] == "Refunded"


def suspend(client: httpx.Client, refund_id: str) -> None:
    """Suspend a run."""
    client.post(f"{MANAGEMENT}/instances/{refund_id}/suspend?reason=test").raise_for_status()
    until(lambda: shown(client, refund_id)["runtime_status"] == "SUSPENDED")


def resume(client: httpx.Client, refund_id: str) -> None:
    """Let a run go on."""
    client.post(f"{MANAGEMENT}/instances/{refund_id}/resume?reason=test").raise_for_status()


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a host that does not wait long for verdicts."""
    settings = {"DECISION_WAIT_SECONDS": "0.2"}
    with host_process(tmp_path_factory.mktemp("hasty"), environment=settings) as host, host.client() as client:
        yield client


def test_a_suspended_run_takes_it_when_it_goes_on(hasty: httpx.Client) -> None:
    refund_id = started(hasty)
    suspend(hasty, refund_id)
    swapped = hasty.post(f"/microservice/swap?workflowId={refund_id}&data=new")
    assert told(swapped, 202) == "pending"
    first = ready(hasty, refund_id, key="k1")
    assert told(first, 202) == "pending"
    assert first.headers["location"].endswith(f"/api/refunds/{refund_id}")
    assert told(hasty.post(f"/microservice/signal?workflowId={refund_id}"), 202) == "pending"
    resume(hasty, refund_id)
    over = ended(hasty, refund_id)
    assert (over["status"], over["data"]) == ("Refunded", "new")
    assert told(ready(hasty, refund_id, key="k1")) == "accepted"


def test_a_suspended_run_whose_time_is_up_takes_none(hasty: httpx.Client) -> None:
    refund_id = started(hasty, ready_within="PT1S")
    suspend(hasty, refund_id)
    deadline = datetime.fromisoformat(shown(hasty, refund_id)["deadline"])
    until(lambda: datetime.now(UTC) > deadline)
    assert refused(ready(hasty, refund_id), 410).startswith("The run is suspended. The time to get ready was up at ")
    assert told(hasty.get(f"/microservice/swap?workflowId={refund_id}&data=x"), 202) == "pending"
    resume(hasty, refund_id)
    assert ended(hasty, refund_id)["status"] == "Expired"


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[AppControl, httpx.Client]]:
    """The app in this process, with a clock that the test moves, and a client."""
    data = tmp_path_factory.mktemp("moved")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_HOST_DATA", str(data))
        patch.setenv("DECISION_WAIT_SECONDS", "0.2")
        get_settings.cache_clear()
        close_record_store()
        with running_app(ROOT, data) as control, httpx.Client(base_url=control.url, trust_env=False) as client:
            clock.set_clock(lambda: control.now)
            try:
                yield control, client
            finally:
                clock.set_clock(clock.system_clock)
    get_settings.cache_clear()
    close_record_store()


def test_a_suspended_run_that_has_taken_too_long_takes_nothing(moved: tuple[AppControl, httpx.Client]) -> None:
    control, client = moved
    refund_id = started_in(moved, query="?executionTimeout=1")
    suspend(client, refund_id)
    control.advance(timedelta(seconds=0.9))
    assert told(ready(client, refund_id, key="in-time"), 202) == "pending"
    control.advance(timedelta(seconds=0.1))
    before = len(control.history(refund_id))
    assert "execution timeout" in refused(ready(client, refund_id, key="late"), 410)
    assert "execution timeout" in refused(client.get(f"/microservice/signal?workflowId={refund_id}"), 410)
    assert "execution timeout" in refused(client.get(f"/microservice/swap?workflowId={refund_id}&data=x"), 410)
    assert len(control.history(refund_id)) == before
    late = [each for each in shown(client, refund_id)["history"] if each["action"] == "late"]
    assert len(late) == 3


def started_in(moved: tuple[AppControl, httpx.Client], query: str = "", **changes: Any) -> str:
    """Start a refund in the app of this process, and give its id when it waits until it is ready."""
    control, client = moved
    response = client.post(f"/api/refunds{query}", json=REFUND | changes)
    assert response.status_code == 202, response.text
    control.settle()
    refund_id: str = response.json()["refund_id"]
    assert shown(client, refund_id)["phase"] == "waiting_for_ready"
    return refund_id


@pytest.mark.parametrize("body", [b"null", b"{}", b'"go"', b'{"decision_id": 7}'])
def test_ready_counts_as_a_raw_event_too(client: httpx.Client, body: bytes) -> None:
    refund_id = started(client)
    headers = {"Content-Type": "application/json"}
    raised = client.post(f"{MANAGEMENT}/instances/{refund_id}/raiseEvent/Ready", content=body, headers=headers)
    assert raised.status_code == 202, raised.text
    over = ended(client, refund_id)
    (received,) = [each for each in over["history"] if each["action"] == "received"]
    assert (over["status"], received["channel"]) == ("Refunded", "event")
    assert told(ready(client, refund_id)) == "duplicate"


@pytest.mark.parametrize("channel", ["Ready", "Steady"])
def test_ready_counts_as_a_message_of_a_raw_remote_call_too(client: httpx.Client, channel: str) -> None:
    refund_id = started(client)
    path = f"{MANAGEMENT}/instances/{refund_id}/raiseEvent/__IwfSystem_ExecuteRpc"
    body = {"InterStateChannelPublishing": [{"channelName": channel, "value": None}]}
    assert client.post(path, json=body).status_code == 202
    if channel == "Ready":
        assert ended(client, refund_id)["status"] == "Refunded"
    else:
        until(lambda: shown(client, refund_id)["warnings"])
        assert shown(client, refund_id)["phase"] == "waiting_for_ready"


# Ids


@pytest.fixture(scope="module")
def other_ids(session_client: httpx.Client) -> list[str]:
    """Ids of nothing, and of other workflows."""
    request = {"requester": "Alice", "item": "A desk", "timeout_hours": 1}
    approval = session_client.post("/api/requests", json=request).json()["request_id"]
    order = {"order_id": "o", "cost": 1000.0, "product": "W", "quantity": 5}
    purchase = session_client.post("/start-purchase-order", json=order).json()["instance_id"]
    return ["nobody-has-this", approval, purchase]


def test_what_is_no_refund_is_not_found(client: httpx.Client, other_ids: list[str]) -> None:
    for each in other_ids:
        refused(client.get(f"/api/refunds/{each}"), 404)
        refused(ready(client, each), 404)
        refused(client.get(f"/microservice/signal?workflowId={each}"), 404)
        refused(client.get(f"/microservice/swap?workflowId={each}&data=x"), 404)


def test_the_id_of_another_workflow_is_no_success(client: httpx.Client, other_ids: list[str]) -> None:
    refused(client.get(f"/microservice/start?workflowId={other_ids[1]}"), 409)
    refused(client.post("/api/refunds", json={**REFUND, "refund_id": other_ids[1]}), 409)


@pytest.mark.parametrize("path", ["start", "signal", "swap"])
@pytest.mark.parametrize("query", ["", "?workflowId=", "?workflowId=a%20b", f"?workflowId={'x' * 101}"])
def test_without_a_good_id_nothing_is_done(client: httpx.Client, path: str, query: str) -> None:
    more = f"{'&' if query else '?'}data=x" if path == "swap" else ""
    assert "workflow" in refused(client.get(f"/microservice/{path}{query}{more}"), 400)


@pytest.mark.parametrize("path", ["%20", "x" * 101, "a%2Fb"])
def test_an_id_that_cannot_be_is_refused(client: httpx.Client, path: str) -> None:
    refused(client.get(f"/api/refunds/{path}"), 400)
    refused(client.post(f"/api/refunds/{path}/ready", json={}), 400)


# The calls that others wrote down


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_microservice_is_started_signalled_and_swapped(client: httpx.Client, method: str) -> None:
    refund_id = new_id()

    def call(path: str, **params: str) -> str:
        return told(client.request(method, f"/microservice/{path}", params={"workflowId": refund_id, **params}))

    assert call("start") == "success"
    assert call("start") == "success"
    in_phase(client, refund_id, "waiting_for_ready")
    assert call("swap", data="neue Daten: 100 % & mehr") == f"oldData: {SOME_DATA}"
    assert call("swap", data="") == "oldData: neue Daten: 100 % & mehr"
    assert call("swap", data="end") == "oldData: "
    assert call("signal") == "done"
    over = ended(client, refund_id)
    assert (over["status"], over["data"], over["amount"]) == ("Refunded", "end", None)
    assert call("signal") == "duplicate"
    refused(client.request(method, "/microservice/swap", params={"workflowId": refund_id, "data": "x"}), 410)


def test_data_that_are_no_text_are_answered_as_json(client: httpx.Client) -> None:
    refund_id = started(client, data={"größe": [1, None]})
    response = client.get(f"/microservice/swap?workflowId={refund_id}&data=x")
    assert told(response) == 'oldData: {"größe": [1, null]}'
    refund_id = started(client)
    assert told(client.get(f"/microservice/swap?workflowId={refund_id}&data=x")) == "oldData: null"


def test_a_swap_with_the_same_key_is_made_once(client: httpx.Client) -> None:
    refund_id = started(client, data="first")
    path, key = f"/microservice/swap?workflowId={refund_id}", {"Idempotency-Key": "k1"}
    assert told(client.post(f"{path}&data=second", headers=key)) == "oldData: first"
    assert told(client.post(f"{path}&data=second", headers=key)) == "oldData: first"
    refused(client.post(f"{path}&data=third", headers=key), 422)
    assert shown(client, refund_id)["data"] == "second"


def _unreachable(*_: Any) -> None:
    raise RecordStoreError("away")


@pytest.mark.parametrize("what", ["gone", "malformed", "of another form", "out of reach"])
def test_a_swap_whose_old_data_cannot_be_read_says_that_it_was_made(
    moved: tuple[AppControl, httpx.Client], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    _, client = moved
    refund_id = started_in(moved, data="first")

    def swap() -> httpx.Response:
        return client.post(f"/microservice/swap?workflowId={refund_id}&data=new", headers={"Idempotency-Key": "k1"})

    assert told(swap()) == "oldData: first"
    if what == "gone":
        documents.forget(get_record_store(), refund_id)
    elif what == "out of reach":
        monkeypatch.setattr(documents, "read", _unreachable)
    else:
        (row,) = get_record_store().range(f"document:{refund_id}", "", "~", 100)[-1:]
        assert "|reply|" in row.key
        body = "{" if what == "malformed" else row.body.replace("old_data", "new_data")
        get_record_store().write([Change("put", f"document:{refund_id}", row.key, body)])
    response = swap()
    assert refused(response, 503) == "The swap was made, but the old data cannot be read from the records."
    assert response.json()["title"] == "Records unavailable"
    assert shown(client, refund_id)["data"] == "new"


def test_a_swap_without_data_or_with_too_many_is_refused(client: httpx.Client) -> None:
    refund_id = started(client, data="first")
    path = f"/microservice/swap?workflowId={refund_id}"
    refused(client.get(path), 400)
    refused(client.get(f"{path}&data={'x' * 999}"), 400)
    refused(client.get(f"{path}&dat=x&data=x"), 400)
    assert shown(client, refund_id)["data"] == "first"
    assert told(client.get(f"{path}&data={'x' * 998}")) == "oldData: first"


@pytest.mark.parametrize("path", ["start", "signal", "swap"])
@pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "cross-site"}, {"Sec-Purpose": "prefetch"}], ids=str)
def test_a_get_that_changes_something_cannot_be_embedded(
    client: httpx.Client, path: str, headers: dict[str, str]
) -> None:
    refund_id = started(client, data="first") if path != "start" else new_id()
    params = {"workflowId": refund_id} | ({"data": "x"} if path == "swap" else {})
    response = client.get(f"/microservice/{path}", params=params, headers=headers)
    refused(response, 403)
    if path == "start":
        refused(client.get(f"/api/refunds/{refund_id}"), 404)
    else:
        state = shown(client, refund_id)
        assert (state["data"], state["ready_at"]) == ("first", None)


# Many at once


def test_many_swaps_at_once_form_one_chain(client: httpx.Client) -> None:
    refund_id = started(client, data="start")

    def swap(number: int) -> str:
        return told(client.get(f"/microservice/swap?workflowId={refund_id}&data=d{number}"))

    with ThreadPoolExecutor(MANY) as pool:
        old = [text.removeprefix("oldData: ") for text in pool.map(swap, range(MANY))]
    last = shown(client, refund_id)["data"]
    assert sorted([*old, last]) == sorted(["start", *(f"d{number}" for number in range(MANY))])
    follows = {before: f"d{number}" for number, before in enumerate(old)}
    chain = ["start"]
    while chain[-1] in follows:
        chain.append(follows[chain[-1]])
    assert (len(chain), chain[-1]) == (MANY + 1, last)


def test_of_many_readys_at_once_one_is_accepted(client: httpx.Client) -> None:
    refund_id = started(client)
    with ThreadPoolExecutor(MANY) as pool:
        found = list(pool.map(lambda _: told(ready(client, refund_id)), range(MANY)))
    assert sorted(found) == ["accepted", *["duplicate"] * (MANY - 1)]
    over = ended(client, refund_id)
    assert [each["name"] for each in over["calls"]] == ["create_refund", "notify_created", "process_refund"]


# Starts


def test_the_same_key_starts_one_refund(client: httpx.Client) -> None:
    key = {"Idempotency-Key": uuid4().hex}
    first, second = (client.post("/api/refunds", json=REFUND, headers=key) for _ in range(2))
    assert first.status_code == second.status_code == 202
    assert first.json() == second.json()
    refused(client.post("/api/refunds", json=REFUND | {"amount": "12.51"}, headers=key), 422)
    other = client.post("/api/refunds", json=REFUND, headers={"Idempotency-Key": uuid4().hex})
    assert other.json()["refund_id"] != first.json()["refund_id"]


def test_a_key_that_comes_late_does_not_start_its_refund_again(client: httpx.Client) -> None:
    refund_id = new_id()

    def post(key: str, **policy: str) -> httpx.Response:
        body = REFUND | {"refund_id": refund_id, "data": key}
        return client.post("/api/refunds", json=body, params=policy, headers={"Idempotency-Key": key})

    def end() -> None:
        in_phase(client, refund_id, "waiting_for_ready")
        ready(client, refund_id)
        ended(client, refund_id)

    assert post("k1").status_code == 202
    end()
    assert post("k1").status_code == 202
    assert shown(client, refund_id)["status"] == "Refunded"
    refused(post("k2"), 409)
    assert post("k2", idReusePolicy="ALLOW_IF_NO_RUNNING").status_code == 202
    end()
    refused(post("k1"), 409)
    over = shown(client, refund_id)
    assert (over["status"], over["data"]) == ("Refunded", "k2")


def test_an_id_that_is_in_use_is_refused_by_the_policy(client: httpx.Client) -> None:
    refund_id = started(client, refund_id=new_id())
    body = REFUND | {"refund_id": refund_id}
    refused(client.post("/api/refunds", json=body), 409)
    ready(client, refund_id)
    ended(client, refund_id)
    refused(client.post("/api/refunds?idReusePolicy=DISALLOW_REUSE", json=body), 409)
    assert client.post("/api/refunds", json=body).status_code == 202
    in_phase(client, refund_id, "waiting_for_ready")
    assert told(ready(client, refund_id)) == "accepted"


def test_a_run_that_takes_too_long_fails(client: httpx.Client) -> None:
    refund_id = new_id()
    assert told(client.get(f"/microservice/start?workflowId={refund_id}&executionTimeout=1")) == "success"
    over = ended(client, refund_id)
    assert (over["status"], over["phase"]) == ("Failed", "execution_timed_out")
    assert [each["name"] for each in over["calls"]][-1] == "cancel_refund"
    refused(client.get(f"/microservice/signal?workflowId={refund_id}"), 410)


def test_ready_before_the_run_begins_is_taken_when_it_does(hasty: httpx.Client) -> None:
    begins = (datetime.now(UTC) + timedelta(seconds=2)).isoformat()
    response = hasty.post("/api/refunds", params={"startAt": begins}, json=REFUND)
    assert response.status_code == 202, response.text
    refund_id = response.json()["refund_id"]
    assert told(ready(hasty, refund_id), 202) == "pending"
    assert ended(hasty, refund_id)["status"] == "Refunded"


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"amount": None}, "amount"),
    ({"amount": 0}, "amount"),
    ({"amount": -1}, "amount"),
    ({"amount": "-1"}, "amount"),
    ({"amount": 12.345}, "amount"),
    ({"amount": "12.345"}, "amount"),
    ({"amount": 1_000_000_001}, "amount"),
    ({"amount": "1e3"}, "amount"),
    ({"amount": "1,5"}, "amount"),
    ({"amount": "\u0661"}, "amount"),
    ({"amount": True}, "amount"),
    ({"amount": {}}, "amount"),
    ({"currency": None}, "currency"),
    ({"currency": "eur"}, "currency"),
    ({"currency": "EURO"}, "currency"),
    ({"currency": "EU\n"}, "currency"),
    ({"refund_id": "a b"}, "refund_id"),
    ({"customer": "two\nlines"}, "customer"),
    ({"reason": "x" * 501}, "reason"),
    ({"data": "x" * 999}, "data"),
    ({"data": json.loads("[" * 51 + "]" * 51)}, "data"),
    ({"ready_within": 0}, "ready_within"),
    ({"ready_within": "P1Y"}, "ready_within"),
    ({"assigned_to": ["nobody"]}, "assigned_to.0.email"),
    ({"assigned_to": ["a@example.com", "A@Example.com"]}, "(body)"),
    ({"retry": {"attempts": 0}}, "retry.attempts"),
    ({"simulate": {"pay": {}}}, "simulate.pay.[key]"),
    ({"simulate": {"create_refund": {"fails": -1}}}, "simulate.create_refund.fails"),
    ({"api": "https://example.com"}, "api"),
    ({"mailbox": "x@example.com"}, "mailbox"),
]


@pytest.mark.parametrize(("change", "field"), WRONG, ids=lambda each: repr(each)[:40])
def test_a_body_that_is_wrong_says_where(client: httpx.Client, change: dict[str, Any], field: str) -> None:
    response = client.post("/api/refunds", json=REFUND | change)
    refused(response, 422)
    assert field in [each["field"] for each in response.json()["errors"]], response.text


@pytest.mark.parametrize(("body", "status"), [(b"", 400), (b"{", 400), (b"[]", 422), (b"x" * 300_000, 413)])
def test_a_body_that_cannot_be_read_is_refused(client: httpx.Client, body: bytes, status: int) -> None:
    refused(client.post("/api/refunds", content=body), status)


@pytest.mark.parametrize("body", [{"by": ""}, {"by": 1}, {"extra": 1}, {"comments": "x" * 4001}, {"channel": "link"}])
def test_a_ready_that_is_wrong_is_refused(client: httpx.Client, body: dict[str, Any]) -> None:
    refund_id = started(client)
    refused(ready(client, refund_id, body), 422)
    assert shown(client, refund_id)["ready_at"] is None


def test_ready_needs_no_body(client: httpx.Client) -> None:
    refund_id = started(client)
    assert told(client.post(f"/api/refunds/{refund_id}/ready")) == "accepted"


# A real API


@pytest.fixture(scope="module")
def server() -> Iterator[FailingServer]:
    """The refund API."""
    with failing_server() as server:
        yield server


@pytest.fixture(scope="module")
def real(server: FailingServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostProcess]:
    """A host whose refunds go to that API."""
    settings = {
        "REFUND_API": server.url("/v1/"),
        "CALL_HOSTS": server.host,
        "REFUND_READY_HOURS": "48",
        "DECISION_WAIT_SECONDS": "5",
    }
    with host_process(tmp_path_factory.mktemp("real"), environment=settings) as host:
        yield host


@pytest.fixture
def api(real: HostProcess) -> Iterator[httpx.Client]:
    """A client of that host."""
    with real.client() as client:
        yield client


OK = Reply(200, b'{"ok": true}')
CREATED = Reply(201, b'{"id": "R-77", "amount": 12.30}')


def answering(server: FailingServer, **replies: list[Reply]) -> str:
    """Let the API answer about a new refund, and give its id. All works but what is named."""
    refund_id = new_id()
    server.answers("/v1/refunds", replies.pop("create", [CREATED]))
    for path in ("notifications", "process", "expiry", "cancellation", "reversal"):
        server.answers(f"/v1/refunds/{refund_id}/{path}", replies.pop(path, [OK]))
    assert not replies
    return refund_id


def got(server: FailingServer, refund_id: str) -> list[tuple[str, str, dict[str, Any]]]:
    """What came about a refund, in order: the last part of the path, the idempotency key, the body."""
    requests = [(each, json.loads(each.body)) for each in server.requests]
    return [
        (each.path.rpartition("/")[2], each.headers["Idempotency-Key"], body)
        for each, body in requests
        if body["refund_id"] == refund_id and each.method == "POST"
    ]


def paths(server: FailingServer, refund_id: str) -> list[str]:
    """The last parts of the paths, in order."""
    return [path for path, _, _ in got(server, refund_id)]


@pytest.mark.parametrize(
    ("sent", "amount"), [("12.3", "12.30"), ("0.1", "0.10"), ('"100"', "100.00"), ("999999999.99", "999999999.99")]
)
def test_the_api_is_called_with_the_amount_as_text(
    api: httpx.Client, server: FailingServer, sent: str, amount: str
) -> None:
    refund_id = answering(server)
    body = f'{{"refund_id": "{refund_id}", "amount": {sent}, "currency": "EUR", "data": {{"n": 1.5}}}}'
    api.post("/api/refunds", content=body).raise_for_status()
    in_phase(api, refund_id, "waiting_for_ready")
    until(lambda: len(paths(server, refund_id)) == 2)
    assert told(ready(api, refund_id)) == "accepted"
    assert ended(api, refund_id)["output"]["refund"] == {"id": "R-77", "amount": 12.3}
    calls = got(server, refund_id)
    assert [path for path, _, _ in calls] == ["refunds", "notifications", "process"]
    start = {"refund_id": refund_id, "amount": amount, "currency": "EUR", "data": {"n": 1.5}}
    assert calls[0][2] == start
    assert calls[1][2] == calls[2][2] == {**start, "refund": {"id": "R-77", "amount": 12.3}}
    assert len({key for _, key, _ in calls}) == 3


def test_the_time_to_get_ready_is_a_setting(api: httpx.Client, server: FailingServer) -> None:
    refund_id = answering(server)
    started(api, refund_id=refund_id)
    deadline = datetime.fromisoformat(shown(api, refund_id)["deadline"])
    assert timedelta(hours=47) < deadline - datetime.now(UTC) <= timedelta(hours=48)


def test_a_call_is_tried_again_with_the_same_key(api: httpx.Client, server: FailingServer) -> None:
    refund_id = answering(server, create=[Reply(503), Reply(429, headers={"Retry-After": "0"}), CREATED])
    started(api, refund_id=refund_id, retry={"first_interval": 0.01})
    until(lambda: len(paths(server, refund_id)) == 4)
    keys = [key for path, key, _ in got(server, refund_id) if path == "refunds"]
    assert len(keys) == 3
    assert len(set(keys)) == 1


def test_a_refused_call_is_edited_and_tried_again_with_a_new_key(api: httpx.Client, server: FailingServer) -> None:
    refund_id = answering(server, process=[Reply(422, b'{"error": "no IBAN"}'), OK])
    started(api, refund_id=refund_id)
    ready(api, refund_id)
    at_gate(api, refund_id, "process_refund")
    (first,) = [each for each in got(server, refund_id) if each[0] == "process"]
    act(api, refund_id, "process_refund", "edit", body={**first[2], "iban": "DE00"})
    assert ended(api, refund_id)["status"] == "Refunded"
    again = got(server, refund_id)[-1]
    assert again[2] == {**first[2], "iban": "DE00"}
    assert again[1] != first[1]


def test_what_was_done_is_undone_at_the_api_newest_first(api: httpx.Client, server: FailingServer) -> None:
    refund_id = answering(server, notifications=[Reply(400)])
    started(api, refund_id=refund_id)
    ready(api, refund_id)
    in_phase(api, refund_id, "processing")
    until(lambda: "process" in paths(server, refund_id))
    act(api, refund_id, "notify_created", "fail")
    over = ended(api, refund_id)
    assert over["error"] == "notify_created failed for good. What was done was undone by reverse_refund, cancel_refund."
    assert paths(server, refund_id)[-2:] == ["reversal", "cancellation"]


def test_an_expired_refund_is_told_so(api: httpx.Client, server: FailingServer) -> None:
    refund_id = answering(server)
    response = api.post("/api/refunds", json=REFUND | {"refund_id": refund_id, "ready_within": 0.0001})
    assert response.status_code == 202
    assert ended(api, refund_id)["status"] == "Expired"
    assert sorted(paths(server, refund_id)) == ["expiry", "notifications", "refunds"]


def test_an_answer_that_is_too_long_to_hand_on_is_left_out(api: httpx.Client, server: FailingServer) -> None:
    refund_id = answering(server, create=[Reply(201, json.dumps({"x": "y" * 20_000}).encode())])
    started(api, refund_id=refund_id)
    ready(api, refund_id)
    assert ended(api, refund_id)["status"] == "Refunded"
    assert all("refund" not in body for _, _, body in got(server, refund_id))


def test_the_start_of_others_has_no_amount(api: httpx.Client, server: FailingServer) -> None:
    refund_id = answering(server)
    assert told(api.get(f"/microservice/start?workflowId={refund_id}")) == "success"
    in_phase(api, refund_id, "waiting_for_ready")
    assert got(server, refund_id)[0][2] == {"refund_id": refund_id, "data": SOME_DATA}


def test_a_real_api_is_not_simulated(api: httpx.Client) -> None:
    response = api.post("/api/refunds", json=REFUND | {"simulate": {"create_refund": {"fails": 1}}})
    refused(response, 422)
    assert response.json()["errors"][0]["field"] == "simulate"
