"""How a run is started: whether its id may be used again, by which policy, and when it begins."""

import json
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from azure.durable_functions import DurableFunctionsClient

from contracts.base import as_utc_text
from contracts.purchase_order import PurchaseOrder, PurchaseOrderInput
from errors import AlreadyStarted
from local_host.testing import AppControl, running_app
from services import clock, trail, waits
from services.record_store import Change, RecordStoreError, close_record_store, get_record_store
from settings import get_settings
from tests.api.starting import NoTurns, many
from tests.hosting import HostProcess, host_process
from tests.polling import until
from triggers import giving_way, starting

ROOT = Path(__file__).parents[2]
BOB = "bob@example.com"
ORDER: dict[str, Any] = {"order_id": "first", "cost": 500, "product": "Widget", "quantity": 2, "timeout_seconds": 1e6}
REQUEST: dict[str, Any] = {"requester": "Alice", "item": "A desk", "timeout_hours": 100, "approvers": [BOB]}
POLICIES = [
    None,
    "ALLOW_IF_NO_RUNNING",
    "ALLOW_IF_PREVIOUS_EXITS_ABNORMALLY",
    "DISALLOW_REUSE",
    "ALLOW_TERMINATE_IF_RUNNING",
]
ENDS_FIRST = "ALLOW_TERMINATE_IF_RUNNING"
GOING = ("pending", "running", "suspended")
ABNORMAL = ("failed", "terminated")


@dataclass
class House:
    """The app in this process, on a clock that the test moves."""

    control: AppControl
    client: httpx.Client
    data: Path

    def start(self, kind: str, name: str, key: str | None = None, /, **options: Any) -> httpx.Response:
        """Start a run; ``options`` are parameters of the address, and ``body`` changes of the body."""
        path, body, field, _ = KINDS[kind]
        headers = {"Idempotency-Key": key} if key is not None else {}
        given = body | {field: name} | options.pop("body", {})
        return self.client.post(path, json=given, params=options, headers=headers)

    def shown(self, kind: str, name: str) -> dict[str, Any]:
        """What GET shows when everything has settled."""
        self.control.settle()
        body: dict[str, Any] = self.client.get(KINDS[kind][3].format(name)).raise_for_status().json()
        return body

    def advance(self, **time: float) -> None:
        """Move the clock."""
        self.control.advance(timedelta(**time))

    def bring(self, kind: str, name: str, state: str) -> None:
        """Have a run in a state, and some time later."""
        assert self.start(kind, name, **OPTIONS.get(state, {})).status_code == 202
        if state == "suspended":
            self.control.settle()
            self.control.client.suspend_orchestration(name)
        elif state == "completed":
            self.control.settle()
            self.decide(kind, name)
        elif state == "failed":
            self.advance(seconds=10)
        elif state == "terminated":
            self.control.settle()
            self.control.client.terminate_orchestration(name)
        self.advance(seconds=1)
        assert self.shown(kind, name)["runtime_status"] == state.upper()

    def decide(self, kind: str, name: str) -> httpx.Response:
        """Approve."""
        if kind == "order":
            return self.client.post(f"/signal-approval/{name}", json={"approver_name": "Boss", "approved": True})
        return self.client.post(f"/api/approvals/{name}", json={"approver": BOB, "vote": "approve"})

    def open_waits(self, name: str) -> list[str]:
        """The runs of an instance that wait for somebody, as the records have it."""
        self.control.settle()
        return [wait.run for wait, is_open in waits.of_instance(get_record_store(), name) if is_open]

    def runs(self, name: str) -> dict[str, list[str]]:
        """What is told of each run of an instance id, also by the app."""
        self.control.settle()
        told: dict[str, list[str]] = {}
        for entry in trail.read(get_record_store(), name).entries:
            told.setdefault(entry.run, []).append(entry.action)
        return told

    def verify(self, name: str) -> dict[str, Any]:
        """What is found of the trail."""
        self.control.settle()
        body: dict[str, Any] = self.client.get(f"/api/audit/{name}/verify").raise_for_status().json()
        return body

    def row(self, partition: str, key: str) -> str:
        """A row of the records."""
        row = get_record_store().get(partition, key)
        assert row is not None
        return row.body

    def mails(self, name: str) -> list[str]:
        """The mails of an instance, oldest first, as plain text without line ends that are soft."""
        self.control.settle()
        files = sorted((self.data / "outbox").glob(f"{name}.*.eml"), key=lambda file: file.stat().st_mtime_ns)
        return [file.read_text().replace("=\n", "") for file in files]


KINDS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "order": ("/start-purchase-order", ORDER, "instance_id", "/status/{}"),
    "request": ("/api/requests", REQUEST, "request_id", "/api/requests/{}"),
}
OPTIONS: dict[str, dict[str, Any]] = {"pending": {"startAt": "2999-01-01T00:00:00Z"}, "failed": {"executionTimeout": 5}}


@pytest.fixture(scope="module")
def shared_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One app for all tests of the module: ids do not meet."""
    data = tmp_path_factory.mktemp("house")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_HOST_DATA", str(data))
        patch.setenv("DECISION_WAIT_SECONDS", "0.5")
        get_settings.cache_clear()
        close_record_store()
        with running_app(ROOT, data) as control, httpx.Client(base_url=control.url, trust_env=False) as client:
            clock.set_clock(lambda: control.now)
            OPTIONS["pending"] = {"startAt": as_utc_text(control.now + timedelta(days=300))}
            try:
                yield House(control, client, data)
            finally:
                clock.set_clock(clock.system_clock)
    get_settings.cache_clear()
    close_record_store()


@pytest.fixture
def house(shared_house: House) -> House:
    """The app; later than for the test before."""
    shared_house.advance(seconds=1)
    return shared_house


@pytest.fixture
def name() -> str:
    """An id."""
    return f"it-{uuid4()}"


def may_start(policy: str | None, there: str) -> bool:
    """Whether a policy lets an id be used again."""
    if there == "none" or policy == ENDS_FIRST:
        return True
    if policy in (None, "ALLOW_IF_NO_RUNNING"):
        return there not in GOING
    return policy == "ALLOW_IF_PREVIOUS_EXITS_ABNORMALLY" and there in ABNORMAL


# The policies


@pytest.mark.parametrize("there", ["none", *GOING, "completed", *ABNORMAL])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", ["order", "request"])
def test_what_a_policy_makes_of_the_run_that_has_the_id(
    house: House, name: str, kind: str, policy: str | None, there: str
) -> None:
    if there != "none":
        house.bring(kind, name, there)
        before = house.shown(kind, name)
    again = {"order_id": "second"} if kind == "order" else {"item": "Another desk"}
    answer = house.start(kind, name, body=again, **({"idReusePolicy": policy} if policy else {}))
    if may_start(policy, there):
        assert answer.status_code == 202, answer.text
        shown = house.shown(kind, name)
        assert shown["runtime_status"] == "RUNNING"
        assert again.items() <= (shown["input"]["order"] if kind == "order" else shown["input"]).items()
        run = shown["custom_status"]["trail"]["run"]
        assert house.open_waits(name) == [run]
        assert house.verify(name)["verdict"] == "intact"
        assert not house.runs(name).keys() - {run} or house.runs(name)[run] == ["started", "asked", "mailed"]
        return
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:countersign:problem:already-started")
    told = answer.json()
    assert (told["instance_id"], told["workflow"]) == (name, "purchase_order" if kind == "order" else "approval")
    assert (told["runtime_status"], told["created_at"]) == (there.upper(), before["created_at"])
    assert told["created_at"] in told["detail"]
    assert "Choose another id, or " in told["detail"]
    assert house.shown(kind, name) == before


@pytest.mark.parametrize("there", GOING)
def test_a_run_that_is_ended_for_another_leaves_nothing_open(house: House, name: str, there: str) -> None:
    house.bring("request", name, there)
    old = house.shown("request", name)
    assert house.start("request", name, idReusePolicy=ENDS_FIRST).status_code == 202
    new = house.shown("request", name)["custom_status"]["trail"]["run"]
    assert house.open_waits(name) == [new]
    if there != "pending":
        gone = old["custom_status"]["trail"]["run"]
        assert house.runs(name)[gone] == ["started", "asked", "mailed", "ended", "purged"]
    assert house.verify(name)["verdict"] == "intact"
    listed = house.client.get("/api/waits", params={"person": BOB, "limit": 100}).json()["waits"]
    assert [each["instance_id"] for each in listed].count(name) == 1


def test_a_hundred_days_after_it_the_note_of_a_run_that_is_gone_still_vouches_for_it(house: House, name: str) -> None:
    for _ in range(3):
        assert house.start("order", name, idReusePolicy=ENDS_FIRST).status_code == 202
        house.advance(seconds=1)
    house.decide("order", name)
    house.advance(days=100)
    told = house.verify(name)
    assert told["verdict"] == "intact"
    assert sorted(chain["anchored_by"] or "" for chain in told["chains"]) == ["", "history", "purge", "purge"]


def test_a_run_whose_trail_was_changed_is_kept(house: House, name: str) -> None:
    house.bring("order", name, "running")
    run = house.open_waits(name)[0]
    edited = house.row(f"trail:{name}", f"run|{run}|0000000002").replace('"asked"', '"mailed"')
    get_record_store().write([Change("put", f"trail:{name}", f"run|{run}|0000000002", edited)])
    assert house.verify(name)["verdict"] == "broken"
    answer = house.start("order", name, idReusePolicy=ENDS_FIRST)
    assert (answer.status_code, answer.json()["instance_id"]) == (409, name)
    assert house.shown("order", name)["runtime_status"] == "RUNNING"


def test_the_wait_of_a_run_that_came_first_meanwhile_stays_open(
    house: House, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.bring("order", name, "failed")
    real = giving_way._history

    async def after_another(client: DurableFunctionsClient, instance_id: str) -> Any:
        history = await real(client, instance_id)
        given = order_input().plain()
        await client.schedule_new_orchestration("purchase_order", input=given, instance_id=instance_id)
        await house.control.hub.quiet()
        return history

    monkeypatch.setattr(giving_way, "_history", after_another)
    assert house.start("order", name).status_code == 409
    assert house.open_waits(name) == [house.shown("order", name)["custom_status"]["trail"]["run"]]


def test_without_the_records_no_run_is_ended(house: House, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: Any) -> Any:
        raise RecordStoreError("away")

    house.bring("order", name, "running")
    with monkeypatch.context() as patch:
        patch.setattr(giving_way, "verified", away)
        answer = house.start("order", name, idReusePolicy=ENDS_FIRST)
    assert (answer.status_code, answer.json()["title"]) == (503, "Records unavailable")
    assert house.shown("order", name)["runtime_status"] == "RUNNING"


def test_a_run_of_another_workflow_is_not_ended(house: House, name: str) -> None:
    house.bring("order", name, "running")
    answer = house.start("request", name, idReusePolicy=ENDS_FIRST)
    assert (answer.status_code, answer.json()["workflow"]) == (409, "purchase_order")
    assert "ALLOW_TERMINATE" not in answer.json()["detail"]
    assert house.shown("order", name)["runtime_status"] == "RUNNING"
    assert house.decide("order", name).status_code == 200
    house.advance(seconds=1)
    assert house.start("request", name).status_code == 202


def test_the_second_order_of_an_id_is_mailed_and_placed_like_the_first(house: House, name: str) -> None:
    for number in (1, 2):
        assert house.start("order", name).status_code == 202
        assert len(house.mails(name)) == number
        assert house.decide("order", name).status_code == 200
        house.advance(seconds=1)
        assert len(list((house.data / "orders" / "placed").glob(f"{name}.*.json"))) == number


def test_the_link_of_a_run_that_was_replaced_does_nothing_to_the_next(house: House, name: str) -> None:
    house.bring("request", name, "running")
    [old_link] = links(house, name)
    with httpx.Client(trust_env=False) as browser:
        page = browser.get(old_link)
        view = re.search(r'name="view" value="([^"]+)"', page.text)
        assert view is not None
        house.advance(seconds=1)
        assert house.start("request", name, idReusePolicy=ENDS_FIRST).status_code == 202
        sent = browser.post(old_link, data={"view": view[1], "vote": "approve"})
        assert (browser.get(old_link).status_code, sent.status_code) == (410, 410)
        [_, link] = links(house, name)
        assert browser.get(link).status_code == 200
    assert house.shown("request", name)["status"] == "Pending"
    assert house.shown("request", name)["custom_status"]["standing"]["seats"] != {}
    assert "voted" not in house.runs(name)[house.open_waits(name)[0]]


def test_events_for_a_run_that_was_replaced_do_nothing_to_the_next(house: House, name: str) -> None:
    house.bring("request", name, "suspended")
    house.control.event(name, "decision", {"approver": BOB, "vote": "approve", "decision_id": "early"})
    assert house.start("request", name, idReusePolicy=ENDS_FIRST).status_code == 202
    assert house.shown("request", name)["custom_status"]["phase"] == "waiting_for_approval"


def links(house: House, name: str) -> list[str]:
    """The links in the mails of an instance."""
    found = [re.search(r"http\S+/approve/\S+", mail) for mail in house.mails(name)]
    return [match[0] for match in found if match is not None]


# Many at the same moment


def at_once(host: HostProcess, calls: int, path: str, body: dict[str, Any], **params: str) -> list[httpx.Response]:
    """Start the same many times at the same moment."""

    def one(_: int) -> httpx.Response:
        with host.client() as own:
            return own.post(path, json=body, params=params)

    with ThreadPoolExecutor(calls) as threads:
        return list(threads.map(one, range(calls)))


@pytest.mark.parametrize("kind", ["order", "request"])
@pytest.mark.parametrize("policy", POLICIES[:-1])
def test_of_fifty_starts_of_one_id_one_wins(
    host: HostProcess, client: httpx.Client, name: str, policy: str | None, kind: str
) -> None:
    path, body, field, where = KINDS[kind]
    params = {"idReusePolicy": policy} if policy else {}
    answers = at_once(host, 50, path, body | {field: name}, **params)
    assert sorted(answer.status_code for answer in answers) == [202] + [409] * 49
    assert {answer.json()["instance_id"] for answer in answers if answer.status_code == 409} == {name}
    assert client.get(where.format(name)).json()["runtime_status"] in ("PENDING", "RUNNING")


@pytest.mark.parametrize(("policy", "wins"), [("ALLOW_IF_PREVIOUS_EXITS_ABNORMALLY", 1), ("DISALLOW_REUSE", 0)])
def test_of_fifty_starts_of_an_id_that_was_terminated_as_many_win_as_may(
    host: HostProcess, client: httpx.Client, name: str, policy: str, wins: int
) -> None:
    body = ORDER | {"instance_id": name}
    client.post("/start-purchase-order", json=body)
    client.post(f"/runtime/webhooks/durabletask/instances/{name}/terminate")
    until(lambda: client.get(f"/status/{name}").json()["runtime_status"] == "TERMINATED")
    answers = at_once(host, 50, "/start-purchase-order", body, idReusePolicy=policy)
    assert sorted(answer.status_code for answer in answers) == [202] * wins + [409] * (50 - wins)


def test_fifty_starts_that_end_one_another_leave_one_run(host: HostProcess, client: httpx.Client, name: str) -> None:
    answers = at_once(host, 50, "/api/requests", REQUEST | {"request_id": name}, idReusePolicy=ENDS_FIRST)
    assert {answer.status_code for answer in answers} == {202}
    status = until(
        lambda: (
            (s := client.get(f"/api/requests/{name}").json()["custom_status"])
            and s["phase"] == "waiting_for_approval"
            and s
        )
    )
    listed = client.get("/api/waits", params={"person": BOB, "limit": 100}).json()["waits"]
    assert [each["instance_id"] for each in listed].count(name) == 1
    told = until(lambda: (v := client.get(f"/api/audit/{name}/verify").json())["verdict"] == "intact" and v)
    runs = [chain["run"] for chain in told["chains"] if chain["run"]]
    assert status["trail"]["run"] == runs[-1]
    assert client.post(f"/api/approvals/{name}", json={"approver": BOB, "vote": "approve"}).status_code == 200


def order_input() -> PurchaseOrderInput:
    """The durable input of an order."""
    order = {each: ORDER[each] for each in PurchaseOrder.model_fields}
    return PurchaseOrderInput.model_validate({"order": order, "timeout_seconds": 1e6})


@pytest.mark.parametrize("there", ["none", "terminated"])
@pytest.mark.parametrize("policy", [None, "ALLOW_IF_PREVIOUS_EXITS_ABNORMALLY"])
def test_starts_of_many_processes_are_told_apart_by_the_task_hub(
    house: House, name: str, monkeypatch: pytest.MonkeyPatch, policy: str | None, there: str
) -> None:
    if there != "none":
        house.bring("order", name, there)
    monkeypatch.setattr(starting, "_turns", NoTurns())
    found = many(house.control, "purchase_order", order_input(), name, policy, calls=50)
    assert [each for each in found if isinstance(each, str)] == [name]
    refused = [each for each in found if isinstance(each, AlreadyStarted)]
    assert len(refused) == 49
    assert {each.members["runtime_status"] for each in refused} <= {"PENDING", "RUNNING"}


# Idempotency keys


def test_a_key_that_came_before_gives_the_request_that_is_there_whatever_the_policy(house: House, name: str) -> None:
    assert house.start("request", name, "a-key").status_code == 202
    before = house.shown("request", name)["custom_status"]["trail"]["run"]
    for ended in (False, True):
        for policy in POLICIES:
            house.advance(seconds=1)
            answer = house.start("request", name, "a-key", **({"idReusePolicy": policy} if policy else {}))
            assert (answer.status_code, answer.json()["request_id"]) == (202, name)
            assert house.shown("request", name)["custom_status"]["trail"]["run"] == before
            other = house.start("request", name, "a-key", body={"item": "Else"}, idReusePolicy=ENDS_FIRST)
            assert other.status_code == 422
        if not ended:
            house.decide("request", name)


@pytest.mark.parametrize("in_body", [False, True])
def test_a_start_with_a_key_replaces_only_where_it_says_so(house: House, name: str, in_body: bool) -> None:
    house.bring("request", name, "completed")

    def keyed(key: str, **options: Any) -> int:
        if in_body:
            return house.start("request", name, body={"idempotency_key": key}, **options).status_code
        return house.start("request", name, key, **options).status_code

    assert keyed("new") == 409
    assert keyed("new", idReusePolicy="ALLOW_IF_NO_RUNNING") == 202
    assert house.shown("request", name)["status"] == "Pending"
    assert keyed("newer", idReusePolicy="ALLOW_IF_NO_RUNNING") == 409


def test_a_key_alone_is_one_request_for_ever(house: House) -> None:
    key = f"key-{uuid4()}"
    first = house.client.post("/api/requests", json=REQUEST, headers={"Idempotency-Key": key}).json()["request_id"]
    house.control.settle()
    house.decide("request", first)
    house.advance(seconds=1)
    again = house.client.post("/api/requests", json=REQUEST, headers={"Idempotency-Key": key})
    assert (again.status_code, again.json()["request_id"]) == (202, first)
    assert house.shown("request", first)["status"] == "Approved"


# When it begins


@pytest.mark.parametrize("kind", ["order", "request"])
def test_a_start_in_the_future_is_pending_until_then_and_shows_when(house: House, name: str, kind: str) -> None:
    begins = house.control.now + timedelta(days=2)
    assert house.start(kind, name, startAt=begins.isoformat()).status_code == 202
    shown = house.shown(kind, name)
    assert (shown["status"], shown["runtime_status"], shown["custom_status"]) == ("Pending", "PENDING", None)
    assert shown["starts_at"] == as_utc_text(begins)
    house.advance(days=1.9)
    assert house.shown(kind, name)["runtime_status"] == "PENDING"
    house.advance(days=0.2)
    shown = house.shown(kind, name)
    assert shown["custom_status"]["phase"] == "waiting_for_approval"
    assert "starts_at" not in shown
    deadline = datetime.fromisoformat(shown["custom_status"]["deadline"])
    assert deadline > begins + timedelta(hours=99)


@pytest.mark.parametrize("kind", ["order", "request"])
def test_a_decision_that_comes_before_the_run_begins_counts_when_it_does(house: House, name: str, kind: str) -> None:
    house.start(kind, name, startAt=as_utc_text(house.control.now + timedelta(hours=1)))
    answer = house.decide(kind, name)
    assert answer.status_code == 202
    assert house.shown(kind, name)["runtime_status"] == "PENDING"
    house.advance(hours=1)
    assert house.shown(kind, name)["status"].startswith("Approved")


@pytest.mark.parametrize("ago", [0, 1, 86_400 * 365 * 50])
def test_a_start_in_the_past_is_at_once(house: House, name: str, ago: int) -> None:
    assert (
        house.start("order", name, startAt=as_utc_text(house.control.now - timedelta(seconds=ago))).status_code == 202
    )
    assert house.shown("order", name)["custom_status"]["phase"] == "waiting_for_approval"


def test_the_offset_of_a_start_may_have_lost_its_plus(house: House, name: str) -> None:
    begins = (house.control.now + timedelta(hours=5)).replace(microsecond=0)
    text = (begins + timedelta(hours=2)).strftime("%Y-%m-%dT%H:%M:%S+02:00")
    path, body, field, where = KINDS["order"]
    assert house.client.post(f"{path}?startAt={text}", json=body | {field: name}).status_code == 202
    assert house.client.get(where.format(name)).json()["starts_at"] == as_utc_text(begins)


def test_a_year_ahead_is_as_far_as_it_goes(house: House, name: str) -> None:
    year = timedelta(days=365)
    too_far = house.start("order", name, startAt=as_utc_text(house.control.now + year + timedelta(seconds=1)))
    assert (too_far.status_code, "startAt" in too_far.json()["detail"]) == (400, True)
    assert house.client.get(f"/status/{name}").status_code == 404
    assert house.start("order", name, startAt=as_utc_text(house.control.now + year)).status_code == 202


def test_a_start_in_the_future_outlives_a_host_that_is_killed(tmp_path: Path, name: str) -> None:
    body = ORDER | {"instance_id": name}
    with host_process(tmp_path) as host, host.client() as client:
        begins = datetime.now(UTC) + timedelta(seconds=4)
        assert (
            client.post("/start-purchase-order", json=body, params={"startAt": begins.isoformat()}).status_code == 202
        )
        host.stop(signal.SIGKILL)
    with host_process(tmp_path) as host, host.client() as client:
        until(
            lambda: (client.get(f"/status/{name}").json()["custom_status"] or {}).get("phase") == "waiting_for_approval"
        )
        assert datetime.now(UTC) >= begins
        [entry] = [each for each in client.get(f"/api/audit/{name}").json()["entries"] if each["action"] == "started"]
        assert datetime.fromisoformat(entry["at"]) >= begins.replace(microsecond=begins.microsecond // 1000 * 1000)


# How long it may take


@pytest.mark.parametrize("kind", ["order", "request"])
@pytest.mark.parametrize("timeout", ["90", "PT1M30S", "90.0"])
def test_a_run_that_takes_too_long_fails_and_says_so(house: House, name: str, kind: str, timeout: str) -> None:
    assert house.start(kind, name, executionTimeout=timeout).status_code == 202
    house.advance(seconds=89)
    assert house.shown(kind, name)["runtime_status"] == "RUNNING"
    house.advance(seconds=1)
    shown = house.shown(kind, name)
    assert (shown["status"], shown["runtime_status"]) == ("Failed", "FAILED")
    assert shown["custom_status"]["phase"] == "execution_timed_out"
    assert shown["error"] == "The run took longer than its execution timeout allows."
    assert house.open_waits(name) == []
    assert house.verify(name)["verdict"] == "intact"
    late = house.decide(kind, name)
    assert (late.status_code, late.headers["content-type"]) == (410, "application/problem+json")
    if kind == "order":
        assert len(list((house.data / "orders" / "cancelled").glob(f"{name}.*.json"))) == 1
    else:
        assert "took too long" in late.json()["detail"]
        [link] = links(house, name)[:1]
        assert house.client.get(link).status_code == 410


def test_the_time_of_a_run_that_starts_later_counts_from_then(house: House, name: str) -> None:
    start_at = as_utc_text(house.control.now + timedelta(hours=2))
    assert house.start("order", name, executionTimeout=60, startAt=start_at).status_code == 202
    house.advance(hours=2, seconds=59)
    assert house.shown("order", name)["runtime_status"] == "RUNNING"
    house.advance(seconds=1)
    assert house.shown("order", name)["runtime_status"] == "FAILED"


# What cannot be read


@pytest.mark.parametrize("kind", ["order", "request"])
@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("idReusePolicy", "ALLOW"),
        ("idReusePolicy", "allow_if_no_running"),
        ("startAt", "tomorrow"),
        ("startAt", "3600"),
        ("startAt", "2030-13-01T00:00:00Z"),
        ("startAt", "0001-01-01T00:00:00+14:00"),
        ("startAt", "9999-12-31T23:59:59-12:00"),
        ("startAt", "9999-12-31T23:59:59Z"),
        ("executionTimeout", "0"),
        ("executionTimeout", "-1"),
        ("executionTimeout", "nan"),
        ("executionTimeout", "P1M"),
        ("executionTimeout", "31536001"),
        ("executionTimeout", "9" * 5000),
        ("executionTimeout", "true"),
    ],
)
def test_a_parameter_that_cannot_be_is_named_and_nothing_starts(
    house: House, name: str, kind: str, parameter: str, value: str
) -> None:
    answer = house.start(kind, name, **{parameter: value})
    assert answer.status_code == 400, answer.text
    assert answer.json()["detail"].startswith(f"The parameter '{parameter}' is wrong: ")
    assert len(answer.text) < 1000
    assert house.client.get(KINDS[kind][3].format(name)).status_code == 404


@pytest.mark.parametrize("parameter", ["id_reuse_policy", "execution_timeout", "start_at", "idreusepolicy", "timeout"])
def test_a_parameter_that_there_is_not_is_told_those_that_there_are(house: House, name: str, parameter: str) -> None:
    answer = house.start("order", name, **{parameter: "1"})
    assert answer.status_code == 400
    known = "there are idReusePolicy, startAt, executionTimeout."
    assert answer.json()["detail"] == f"There is no parameter '{parameter}' here; {known}"


def test_empty_parameters_and_a_function_key_count_for_nothing(house: House, name: str) -> None:
    options = {"idReusePolicy": "", "startAt": "", "executionTimeout": "", "code": "a-key"}
    assert house.start("order", name, **options).status_code == 202


def test_what_belongs_in_the_address_is_no_field_of_the_body(house: House, name: str) -> None:
    for field in ("idReusePolicy", "execution_timeout", "executionTimeout", "startAt"):
        answer = house.start("order", name, body={field: "3600"})
        assert (answer.status_code, json.loads(answer.text)["errors"][0]["field"]) == (422, field)
