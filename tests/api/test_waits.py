"""The list of open waits over HTTP, as a client sees it."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest

from local_host.testing import AppControl, running_app
from services import clock, waits
from services.record_store import Change
from services.record_store_sqlite import SqliteRecordStore
from tests.api.executions import hosting
from tests.hosting import HostProcess, host_process
from tests.polling import until

ROOT = Path(__file__).parents[2]
BOSS = "The.Boss@Example.org"
MANAGEMENT = "/runtime/webhooks/durabletask"
ORDER = {"order_id": "order123", "cost": 500, "product": "Widget", "quantity": 2}
REQUEST = {"requester": "Alice", "item": "Vacation", "timeout_hours": 1}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostProcess]:
    """The host with the app, where an address in mixed case is asked."""
    settings = {"DECISION_WAIT_SECONDS": "5", "APPROVAL_REQUESTS_TO": BOSS}
    with host_process(tmp_path_factory.mktemp("data"), environment=settings) as host:
        yield host


@pytest.fixture(scope="module")
def module_client(host: HostProcess) -> Iterator[httpx.Client]:
    """A client for the whole module."""
    with host.client() as client:
        yield client


@pytest.fixture
def client(module_client: httpx.Client) -> httpx.Client:
    """An HTTP client of that host."""
    return module_client


@pytest.fixture
def store(host: HostProcess) -> Iterator[SqliteRecordStore]:
    """The store of that host, opened beside it."""
    store = SqliteRecordStore(host.data / "records.db")
    yield store
    store.close()


@pytest.fixture
def person() -> str:
    """Somebody whom no other test asks."""
    return f"{uuid4().hex}@example.org"


def listed(client: httpx.Client, **parameters: Any) -> list[dict[str, Any]]:
    """All pages of a list, put together."""
    found: list[dict[str, Any]] = []
    while True:
        page = client.get("/api/waits", params=parameters).raise_for_status().json()
        assert set(page) == {"waits", "continuation"}
        found += page["waits"]
        if page["continuation"] is None:
            return found
        parameters["continuation"] = page["continuation"]


def ids(client: httpx.Client, **parameters: Any) -> list[str]:
    """The instances of a list."""
    return [wait["instance_id"] for wait in listed(client, **parameters)]


def refused(client: httpx.Client, parameter: str, value: str) -> str:
    """Ask with a parameter that is wrong, and give the sentence that refuses it."""
    return refused_by_address(client, f"/api/waits?{parameter}={quote(value)}")


def refused_by_address(client: httpx.Client, address: str) -> str:
    """Ask by an address that is wrong, and give the sentence that refuses it."""
    response = client.get(address)
    assert response.status_code == 400, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["cache-control"] == "no-store"
    detail: str = response.json()["detail"]
    return detail


def asks(client: httpx.Client, *people: str, workflow: str = "approval", **changes: Any) -> dict[str, Any]:
    """Start a run that asks these people, and give its wait when it is listed."""
    instance_id = str(uuid4())
    body: dict[str, Any] = REQUEST | changes
    if workflow == "purchase_order":
        body = {"order": ORDER, "timeout_seconds": 3600} | changes
    start = client.post(
        f"{MANAGEMENT}/orchestrators/{workflow}/{instance_id}", json={**body, "approvers": list(people)}
    )
    assert start.status_code == 202, start.text
    return wait_of(client, instance_id, **({"person": people[0]} if people else {}))


def wait_of(client: httpx.Client, instance_id: str, **parameters: Any) -> dict[str, Any]:
    """The wait of an instance, when it is listed."""

    def look() -> dict[str, Any] | None:
        return next((wait for wait in listed(client, **parameters) if wait["instance_id"] == instance_id), None)

    return until(look)


def a_request(client: httpx.Client, **changes: Any) -> dict[str, Any]:
    """Create a request for approval, and give the answer."""
    answer: dict[str, Any] = client.post("/api/requests", json=REQUEST | changes).raise_for_status().json()
    return answer


def an_order(client: httpx.Client, **changes: Any) -> str:
    """Start a purchase order, and give its id."""
    answer = client.post("/start-purchase-order", json=ORDER | changes).raise_for_status().json()
    instance_id: str = answer["instance_id"]
    return instance_id


def decided(client: httpx.Client, instance_id: str, approved: bool = True, approver: str = "Manager") -> None:
    """Decide a request, and hear the verdict."""
    body = {"is_approved": approved, "approver": approver}
    assert client.post(f"/api/approvals/{instance_id}", json=body).status_code == 200


# What is shown


def test_an_approval_is_listed_for_who_is_asked_until_it_is_decided(client: httpx.Client, host: HostProcess) -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    request = a_request(client, item="Two weeks off", timeout_hours=2)
    wait = wait_of(client, request["request_id"], person=BOSS)
    after = datetime.now(UTC)

    since, deadline = datetime.fromisoformat(wait.pop("since")), datetime.fromisoformat(wait.pop("deadline"))
    assert before <= since <= after
    assert deadline - since == timedelta(hours=2)
    assert 0 <= wait.pop("waiting_seconds") <= (after - since).total_seconds()
    assert wait == {
        "instance_id": request["request_id"],
        "number": 1,
        "kind": "approval",
        "title": "Two weeks off",
        "people": [BOSS],
        "actions": ["approve", "reject", "request_changes", "abstain"],
        "overdue": False,
        "paused": False,
        "url": f"{host.url}/api/requests/{request['request_id']}",
    }
    shown = client.get(wait["url"]).raise_for_status().json()
    assert (shown["request_id"], shown["status"]) == (request["request_id"], "Pending")

    decided(client, request["request_id"])
    assert request["request_id"] not in ids(client, person=BOSS) + ids(client)


def test_a_purchase_order_is_listed_for_who_is_asked_until_it_is_decided(
    client: httpx.Client, host: HostProcess
) -> None:
    order = an_order(client, cost=1234.5, quantity=3, product="Chair", timeout_seconds=60)
    wait = wait_of(client, order, person=BOSS)
    assert (wait["kind"], wait["title"]) == ("purchase_order", "3 of Chair, 3,703.50 in all")
    assert (wait["people"], wait["actions"]) == ([BOSS], ["approve", "reject"])
    assert wait["url"] == f"{host.url}/status/{order}"
    assert client.get(wait["url"]).raise_for_status().json()["instance_id"] == order
    since, deadline = datetime.fromisoformat(wait["since"]), datetime.fromisoformat(wait["deadline"])
    assert deadline - since == timedelta(seconds=60)

    answer = client.post(f"/signal-approval/{order}", json={"approver_name": "Manager", "approved": True})
    assert answer.status_code == 200
    assert order not in ids(client, person=BOSS) + ids(client)


def test_what_is_rejected_is_gone(client: httpx.Client) -> None:
    request, order = a_request(client)["request_id"], an_order(client)
    wait_of(client, request)
    wait_of(client, order)
    decided(client, request, approved=False)
    client.post(f"/signal-approval/{order}", json={"approver_name": "Manager", "approved": False})
    assert not {request, order} & set(ids(client) + ids(client, person=BOSS))


def test_what_timed_out_is_gone(client: httpx.Client, store: SqliteRecordStore) -> None:
    request, order = a_request(client, timeout_hours=0.0001)["request_id"], an_order(client, timeout_seconds=0.3)
    until(lambda: client.get(f"/api/requests/{request}").json()["output"])
    until(lambda: client.get(f"/status/{order}").json()["output"])
    assert not {request, order} & set(ids(client) + ids(client, person=BOSS))
    for instance_id in (request, order):
        assert [is_open for _, is_open in waits.of_instance(store, instance_id)] == [False]


def test_what_the_management_api_decides_is_gone(client: httpx.Client, person: str) -> None:
    wait = asks(client, person, workflow="purchase_order")
    event = f"{MANAGEMENT}/instances/{wait['instance_id']}/raiseEvent/approval_event"
    assert client.post(event, json={"approver_name": "A", "approved": "x"}).status_code == 202
    shown = f"/status/{wait['instance_id']}"
    until(lambda: client.get(shown).json()["custom_status"]["warnings"])
    assert ids(client, person=person) == [wait["instance_id"]]
    client.post(event, json={"approver_name": "A", "approved": True})
    until(lambda: client.get(shown).json()["output"])
    assert ids(client, person=person) == []


def test_an_order_that_is_approved_at_once_never_waits_for_anybody(
    client: httpx.Client, store: SqliteRecordStore
) -> None:
    order, other = an_order(client, cost=499.99), an_order(client)
    until(lambda: client.get(f"/status/{order}").json()["output"])
    wait_of(client, other)
    assert order not in ids(client)
    assert waits.of_instance(store, order) == []  # not a closed one either
    assert [is_open for _, is_open in waits.of_instance(store, other)] == [True]


def test_all_who_are_asked_see_it_and_nobody_else(client: httpx.Client, person: str) -> None:
    others = [f"{number}-{person}" for number in range(49)]
    wait = asks(client, person, *others)
    assert wait["people"] == [person, *others]
    assert all(ids(client, person=other) == [wait["instance_id"]] for other in others)
    assert ids(client, person=f"49-{person}") == []
    decided(client, wait["instance_id"], approver=others[7])
    assert not any(ids(client, person=other) for other in others)


def test_where_nobody_is_asked_by_name_it_is_listed_all_the_same(client: httpx.Client) -> None:
    wait = asks(client)
    assert wait["people"] == []
    assert wait["instance_id"] in ids(client, kind="approval")


def test_text_of_any_kind_is_text(client: httpx.Client, person: str) -> None:
    title = "</script><script>alert(\"1\")</script> & 'x' \\u0022 \\ 🎉 \u202egnp.exe ﷽"
    people = [person, "b&`@{}.example", "jürgen.李@müller.example", "🎉@example.org"]
    assert asks(client, *people, item=title)["title"] == title
    for each in people:
        response = client.get("/api/waits", params={"person": each})
        assert response.headers["content-type"] == "application/json"
        [found] = [wait for wait in json.loads(response.content.decode())["waits"] if person in wait["people"]]
        assert (found["title"], found["people"]) == (title, people)


def test_what_is_unknown_is_named_as_text(client: httpx.Client) -> None:
    script = "<script>alert(1)</script>"
    assert script in refused_by_address(client, f"/api/waits?{quote(script)}=1")


# Filters


@pytest.mark.parametrize("asked_by", [str.upper, str.lower, str.title, lambda address: f"  {address} "])
def test_the_case_of_an_address_does_not_matter(client: httpx.Client, person: str, asked_by: Any) -> None:
    wait = asks(client, person.title(), person, workflow="purchase_order")  # an approval names nobody twice
    assert ids(client, person=asked_by(person)) == [wait["instance_id"]]


def test_a_plus_in_an_address_is_one_when_it_is_encoded(client: httpx.Client, person: str) -> None:
    wait = asks(client, f"tag+{person}")
    assert ids(client, person=f"tag+{person}") == [wait["instance_id"]]
    assert client.get(f"/api/waits?person=tag+{person}").json()["waits"] == []


def test_filters_go_together(client: httpx.Client, person: str) -> None:
    approval = asks(client, person)["instance_id"]
    order = asks(client, person, workflow="purchase_order")["instance_id"]
    assert ids(client, person=person) == [approval, order]
    assert ids(client, person=person, kind="approval") == [approval]
    assert ids(client, person=person, kind="purchase_order") == [order]
    assert ids(client, person=person, kind="order") == []
    assert {approval, order} & set(ids(client, kind="approval")) == {approval}
    assert ids(client, person=person, kind="purchase_order", overdue="false", older_than="PT0.001S") == [order]
    assert ids(client, person=person, kind="purchase_order", overdue="true") == []


@pytest.fixture
def moved(data_folder: Path) -> Iterator[AppControl]:
    """The app in this process, with a clock that the test moves."""
    with running_app(ROOT, data_folder) as control:
        clock.set_clock(lambda: control.now)
        try:
            yield control
        finally:
            clock.set_clock(clock.system_clock)


@pytest.fixture
def client_of_moved(moved: AppControl) -> Iterator[httpx.Client]:
    """A client of the app whose clock the test moves."""
    with httpx.Client(base_url=moved.url, trust_env=False, timeout=20) as client:
        yield client


def test_overdue_is_what_waits_on_after_its_deadline(
    moved: AppControl, client_of_moved: httpx.Client, person: str
) -> None:
    """A suspended run does not see that its time is up."""
    client = client_of_moved
    wait = asks(client, person, timeout_hours=2)
    later = asks(client, person, timeout_hours=3)
    instance = f"{MANAGEMENT}/instances/{wait['instance_id']}"
    assert client.post(f"{instance}/suspend").status_code == 202
    moved.advance(timedelta(hours=2, milliseconds=-1))
    assert ids(client, person=person, overdue="true") == []
    moved.advance(timedelta(milliseconds=1))
    assert ids(client, person=person, overdue="true") == [wait["instance_id"]]
    assert ids(client, person=person, overdue="false") == [later["instance_id"]]
    assert {one["instance_id"]: one["overdue"] for one in listed(client, person=person)} == {
        wait["instance_id"]: True,
        later["instance_id"]: False,
    }
    assert client.post(f"{instance}/resume").status_code == 202
    until(lambda: ids(client, person=person) == [later["instance_id"]])
    assert ids(client, person=person, overdue="true") == []


@pytest.mark.parametrize("overdue", ["maybe", "2", "overdue", "tru", "null", "-1"])
def test_overdue_is_true_or_false(client: httpx.Client, overdue: str) -> None:
    assert "'overdue'" in refused(client, "overdue", overdue)


def test_older_than_a_duration(client: httpx.Client, person: str) -> None:
    wait = asks(client, person)
    for age in ("P1D", "PT1H", "P3650D", "P1Y", "P1W", "P1DT12H30M"):
        assert ids(client, person=person, older_than=age) == []
    until(lambda: ids(client, person=person, older_than="PT1S"))
    assert datetime.now(UTC) >= datetime.fromisoformat(wait["since"]) + timedelta(seconds=1)
    [again] = listed(client, person=person, older_than="PT1S")
    assert again["waiting_seconds"] >= 1


def test_older_than_a_time(client: httpx.Client, person: str) -> None:
    wait = asks(client, person)
    since = datetime.fromisoformat(wait["since"])
    zones = ["+00:00", "+05:30", "-11:00"]
    for zone in zones:
        there = datetime.fromisoformat(f"2000-01-01T00:00:00{zone}").tzinfo
        at, next_one = since.astimezone(there), (since + timedelta(milliseconds=1)).astimezone(there)
        assert ids(client, person=person, older_than=at.isoformat()) == []
        assert ids(client, person=person, older_than=next_one.isoformat()) == [wait["instance_id"]]
    assert ids(client, person=person, older_than=wait["since"]) == []
    assert ids(client, person=person, older_than="9999-12-31T23:59:59.999999Z") == [wait["instance_id"]]
    assert ids(client, person=person, older_than="0001-01-01T00:00:00Z") == []


@pytest.mark.parametrize(
    "value",
    [
        "2026-01-01T00:00:00",
        "2026-01-01",
        "2026-01-01T00:00:00 02:00",  # a plus that is not encoded
        "2026-02-30T00:00:00Z",
        "2026-01-01T24:00:01Z",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "99999-01-01T00:00:00Z",
        "P0D",
        "PT0S",
        "-P1D",
        "P-1D",
        "P",
        "PT",
        "P3651D",
        "P99999999999999999999D",
        "PT1e400S",
        "1h",
        "00:05:00",
        "0",
        "5",
        "-5",
        "3600",
        "1.5",
        "1e400",
        "nan",
        "yesterday",
        "\u0665",  # a five
        "x" * 5000,
    ],
)
def test_an_age_that_is_none_is_refused(client: httpx.Client, value: str) -> None:
    detail = refused(client, "older_than", value)
    assert "'older_than'" in detail
    assert "duration" in detail
    assert "time with its zone" in detail


@pytest.mark.parametrize(
    "limit", ["0", "101", "-1", "1.5", "ten", "1e1", "1,000", "9" * 30, "9" * 5000, "0x10", "null", "NaN", "٣"]
)
def test_a_limit_that_is_none_is_refused(client: httpx.Client, limit: str) -> None:
    assert "'limit'" in refused(client, "limit", limit)


@pytest.mark.parametrize("limit", [1, 50, 100])
def test_a_limit_that_is_one_is_kept(client: httpx.Client, limit: int) -> None:
    assert len(client.get("/api/waits", params={"limit": limit}).raise_for_status().json()["waits"]) <= limit


@pytest.mark.parametrize("name", ["older-than", "Kind", "people", "overdue ", "page", "older_then", "run"])
def test_a_misspelt_parameter_is_named(client: httpx.Client, name: str) -> None:
    detail = refused_by_address(client, f"/api/waits?{quote(name)}=x")
    assert f"'{name}'" in detail
    assert all(known in detail for known in ("kind", "person", "overdue", "older_than", "limit", "continuation"))


def test_empty_parameters_are_left_out(client: httpx.Client, person: str) -> None:
    wait = asks(client, person)
    address = f"/api/waits?person={person}&kind=&overdue=&older_than=&limit=&continuation=&whatever="
    assert [one["instance_id"] for one in client.get(address).json()["waits"]] == [wait["instance_id"]]


@pytest.mark.parametrize("parameter", ["person", "kind", "limit", "overdue", "older_than"])
def test_blanks_are_not_left_out(client: httpx.Client, parameter: str) -> None:
    """As the filter that they were meant to be, they would be none, and show the waits of all people."""
    assert f"'{parameter}'" in refused(client, parameter, "  ")


@pytest.mark.parametrize(("parameter", "most"), [("person", 254), ("kind", 100)])
def test_names_that_are_too_long_are_refused(client: httpx.Client, parameter: str, most: int) -> None:
    assert f"'{parameter}'" in refused(client, parameter, "x" * (most + 1))
    assert listed(client, **{parameter: "x" * most}) == []


@pytest.mark.parametrize(
    "value", ["%ED%A0%80", "%FF", "%00", "%2F%5C%23%3F", "%27%20or%201=1--", "%F0%9F%8E%89", "|since"]
)
@pytest.mark.parametrize("parameter", ["person", "kind", "continuation"])
def test_any_text_is_answered(client: httpx.Client, parameter: str, value: str) -> None:
    response = client.get(f"/api/waits?{parameter}={value}")
    assert response.status_code == 400 or response.json() == {"waits": [], "continuation": None}


def test_the_function_key_is_no_filter(client: httpx.Client, person: str) -> None:
    wait = asks(client, person)
    assert ids(client, person=person, code="a-key", clientId="default") == [wait["instance_id"]]


# Pages


def test_page_by_page(client: httpx.Client, person: str) -> None:
    runs = [asks(client, person, workflow=("approval", "purchase_order")[number % 2]) for number in range(5)]
    expected = [wait["instance_id"] for wait in sorted(runs, key=lambda wait: (wait["since"], wait["instance_id"]))]
    for limit in (1, 2, 4, 5, 100):
        assert ids(client, person=person, limit=limit) == expected
        assert ids(client, person=person, limit=limit, overdue="false", older_than="PT0.001S") == [
            wait["instance_id"] for wait in sorted(runs, key=lambda wait: (wait["deadline"], wait["instance_id"]))
        ]


def test_what_opens_and_closes_between_two_pages_moves_no_other(client: httpx.Client, person: str) -> None:
    runs = [asks(client, person)["instance_id"] for _ in range(4)]
    parameters: dict[str, Any] = {"person": person, "limit": 2}
    first = client.get("/api/waits", params=parameters).json()
    assert [wait["instance_id"] for wait in first["waits"]] == runs[:2]
    decided(client, runs[0], approver=person)
    decided(client, runs[1], approver=person)
    last = asks(client, person)["instance_id"]
    assert ids(client, **parameters, continuation=first["continuation"]) == [*runs[2:], last]


def test_a_continuation_is_of_one_list(client: httpx.Client, person: str) -> None:
    for _ in range(2):
        asks(client, person)
    asked = {"person": person, "limit": "1"}
    continuation = client.get("/api/waits", params=asked).json()["continuation"]
    others = [
        {"limit": "1"},
        {"person": f"x{person}"},
        *({**asked, name: value} for name, value in {"kind": "approval", "overdue": "false"}.items()),
        {**asked, "older_than": "PT0.001S"},
        {"kind": person},
    ]
    for other in others:
        response = client.get("/api/waits", params={**other, "continuation": continuation})
        assert response.status_code == 400, other
        assert "'continuation'" in response.json()["detail"]
    # How many are on a page may change, and the case of the address.
    again = {"person": person.upper(), "limit": "7", "continuation": continuation}
    assert len(client.get("/api/waits", params=again).json()["waits"]) == 1


@pytest.mark.parametrize(
    "continuation", ["x", "null", "W10", "WzEsMl0", "%%", "../..", "🎉", "x" * 1000, "x" * 1001, "W" * 10_000]
)
def test_a_continuation_that_is_none_is_refused(client: httpx.Client, continuation: str) -> None:
    assert "'continuation'" in refused(client, "continuation", continuation)


# Other ways


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_the_list_can_only_be_read(client: httpx.Client, method: str) -> None:
    assert client.request(method, "/api/waits").status_code in (404, 405)


@pytest.mark.parametrize("path", ["/api/waits/x", "/api/wait", "/waits"])
def test_there_is_one_address(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 404


def test_no_cache_keeps_the_list(client: httpx.Client) -> None:
    for address in ("/api/waits", "/api/waits?person=x@example.org"):
        response = client.get(address)
        assert (response.status_code, response.headers["cache-control"]) == (200, "no-store")


# Rows that somebody else wrote


ODD = {
    "no JSON": "{",
    "nothing": "",
    "deep": "[" * 20_000,
    "no zone": {"deadline": "2026-01-01T00:00:00"},
    "a time before all time": {"deadline": "0001-01-01T00:00:00+23:59"},
    "a time after all time": {"deadline": "9999-12-31T23:59:59-23:59"},
    "a beginning before all time": {"since": "0001-01-01T00:00:00+23:59"},
    "a beginning without a zone": {"since": "2026-01-01T00:00:00"},
    "another instance": {"instance_id": "somebody-elses"},
    "another wait": {"number": 7},
    "a path elsewhere": {"path": "https://example.org/\n"},
    "a field too many": {"admin": True},
}


@pytest.mark.parametrize("odd", ODD)
def test_a_row_that_no_writer_makes_is_hidden_and_the_others_are_shown(
    client: httpx.Client, host: HostProcess, store: SqliteRecordStore, person: str, odd: str
) -> None:
    secret = f"Secret of {person}"
    first, broken, last = asks(client, person), asks(client, person, item=secret), asks(client, person)
    sound = [first["instance_id"], last["instance_id"]]
    for order in ("since", "due"):
        partition = f"person:{person}|{order}"
        [row] = [row for row in store.range(partition, "", waits.END, 9) if broken["instance_id"] in row.key]
        changes = ODD[odd]
        body = changes if isinstance(changes, str) else json.dumps(json.loads(row.body) | changes)
        store.write([Change("put", partition, row.key, body)])
        # And the right body where no writer puts it.
        store.write([Change("put", partition, f"{row.key}9", row.body), Change("put", partition, "2", row.body)])
    for parameters in ({}, {"overdue": "false"}, {"limit": "1"}, {"overdue": "false", "limit": "2"}):
        assert ids(client, person=person, **parameters) == sound
    assert broken["instance_id"] in host.log.read_text()
    assert secret not in host.log.read_text()


def test_keys_that_are_no_text_hide_no_others(client: httpx.Client, host: HostProcess, person: str) -> None:
    runs = [asks(client, person)["instance_id"] for _ in range(3)]
    with closing(sqlite3.connect(host.data / "records.db")) as file, file:
        for order, beginning, number in product(("since", "due"), (b"\xff", b"1\xff", b"2\x80", b"2\xff"), range(20)):
            row = (f"person:{person}|{order}", beginning + b"%d" % number)
            file.execute("INSERT INTO record VALUES (?, CAST(? AS TEXT), '{}')", row)
    for limit in (1, 2, 10, 100):
        assert ids(client, person=person, limit=limit) == runs
        assert ids(client, person=person, limit=limit, overdue="false") == runs
        assert ids(client, person=person, limit=limit, overdue="true") == []


def test_what_is_paused_with_its_times_frozen_is_not_overdue(tmp_path: Path) -> None:
    with hosting(tmp_path) as api:
        frozen, running, other = (api.waiting(timeout_hours=2) for _ in range(3))
        api.pause(frozen)
        api.pause(running, clock="run")
        api.advance(hours=5)

        def told(**asked: str) -> dict[str, tuple[bool, bool]]:
            found = api.http.get("/api/waits", params=asked).raise_for_status().json()["waits"]
            return {each["instance_id"]: (each["overdue"], each["paused"]) for each in found}

        assert told() == {frozen: (False, True), running: (True, True)}
        assert told(overdue="true") == {running: (True, True)}
        api.resume(frozen)
        api.control.settle()
        assert told()[frozen] == (False, False)
        assert other not in told()
