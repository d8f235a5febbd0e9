"""Who may call which route: the table, and that the app keeps to it."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import azure.functions as func
import httpx
import pytest

from local_host.app_loader import load_app
from services.identity import PERMISSIONS, Permission
from settings import get_settings
from tests.hosting import ROOT, HostProcess, host_process
from tests.tokens import AUDIENCE, BAD, Issuer, bad_tokens, issuer
from triggers.pages import answers_pages
from triggers.web import answers_errors

OPEN = None
"""For everybody: behind the links in mails, for people who want to sign up, and the style of pages."""
READ: Permission = "execution:read"
START: Permission = "execution:start"
RESUME: Permission = "execution:resume"
DECIDE: Permission = "approval:decide"

TABLE: dict[str, Permission | None] = {
    "POST /start-purchase-order": START,
    "POST /signal-approval/{instance_id}": DECIDE,
    "GET /status/{instance_id}": READ,
    "POST /api/requests": START,
    "GET /api/requests/{request_id}": READ,
    "POST /api/requests/{request_id}/delegate": DECIDE,
    "POST /api/requests/{request_id}/withdraw": START,
    "POST /api/requests/{request_id}/extend": START,
    "POST /api/requests/{request_id}/revise": START,
    "POST /api/requests/{request_id}/remind": START,
    "POST /api/approvals/{request_id}": DECIDE,
    "POST /api/interventions": START,
    "GET /api/interventions": READ,
    "POST /api/interventions/resolve": RESUME,
    "GET /api/interventions/{intervention_id}": READ,
    "POST /api/interventions/{intervention_id}/retry": RESUME,
    "POST /api/interventions/{intervention_id}/edit": RESUME,
    "POST /api/interventions/{intervention_id}/skip": RESUME,
    "POST /api/interventions/{intervention_id}/fail": RESUME,
    "GET /design-pattern/intervention/start": START,
    "POST /design-pattern/intervention/start": START,
    "GET /design-pattern/intervention/status/{workflow_id}": READ,
    "POST /api/v1/workflow/signal": RESUME,
    "POST /api/v1/workflow/publishToInternalChannel": RESUME,
    "POST /api/v1/workflows": "workflow:write",
    "GET /api/v1/workflows": READ,
    "GET /api/v1/workflows/{name}": READ,
    "POST /api/v1/workflows/{name}/executions": START,
    "GET /api/v1/executions": READ,
    "GET /api/v1/executions/paused": READ,
    "GET /api/v1/executions/{id}": READ,
    "POST /api/v1/executions/{id}/pause": "execution:pause",
    "POST /api/v1/executions/{id}/resume": RESUME,
    "POST /api/v1/executions/{id}/cancel": "execution:cancel",
    "GET /microservice/start": START,
    "POST /microservice/start": START,
    "GET /microservice/signal": RESUME,
    "POST /microservice/signal": RESUME,
    "GET /microservice/swap": RESUME,
    "POST /microservice/swap": RESUME,
    "POST /api/refunds": START,
    "GET /api/refunds/{refund_id}": READ,
    "POST /api/refunds/{refund_id}/ready": RESUME,
    "GET /signup/submit": START,
    "POST /signup/submit": START,
    "GET /signup/verify": RESUME,
    "POST /signup/verify": RESUME,
    "GET /signup/describe": READ,
    "GET /api/signups/{username}": READ,
    "GET /api/waits": READ,
    "GET /api/audit/{instance_id}": "audit:read",
    "GET /api/audit/{instance_id}/verify": "audit:read",
    "POST /api/audit/{instance_id}/erase": "audit:erase",
    "GET /outbox": "approval:admin",
    "HEAD /outbox": "approval:admin",
    "GET /outbox/{mail_id}": "approval:admin",
    "HEAD /outbox/{mail_id}": "approval:admin",
    "GET /approve/{token}": OPEN,
    "HEAD /approve/{token}": OPEN,
    "POST /approve/{token}": OPEN,
    "GET /intervene/{token}": OPEN,
    "HEAD /intervene/{token}": OPEN,
    "POST /intervene/{token}": OPEN,
    "GET /signup": OPEN,
    "HEAD /signup": OPEN,
    "POST /signup": OPEN,
    "GET /signup/confirm": OPEN,
    "HEAD /signup/confirm": OPEN,
    "POST /signup/confirm": OPEN,
    "POST /signup/resend": OPEN,
    "POST /signup/change-email": OPEN,
    "GET /signup/stop": OPEN,
    "HEAD /signup/stop": OPEN,
    "POST /signup/stop": OPEN,
    "GET /static/{file}": OPEN,
    "HEAD /static/{file}": OPEN,
}
GUARDED = [route for route, permission in TABLE.items() if permission is not None]
PAGES = [route for route in GUARDED if "/outbox" in route]
IMPLIED_BY = {"execution:pause": "execution:cancel", "execution:resume": "execution:cancel"}


def test_every_route_of_the_app_stands_in_the_table() -> None:
    functions = [each for each in load_app(ROOT).functions if each.route]
    assert {f"{method} /{each.route}" for each in functions for method in each.methods} == set(TABLE)


def test_every_permission_is_one_that_the_app_knows() -> None:
    assert {each for each in TABLE.values() if each is not None} <= PERMISSIONS


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostProcess]:
    """The app, which asks for keys, and waits for no verdict."""
    environment = {"AUTH": "keys", "DECISION_WAIT_SECONDS": "0"}
    with host_process(tmp_path_factory.mktemp("data"), environment=environment) as host:
        yield host


@pytest.fixture(scope="module")
def keys(host: HostProcess) -> dict[str, str]:
    """A key for each permission alone, and for all but that."""
    made: dict[str, str] = {}
    for permission in sorted({each for each in TABLE.values() if each is not None}):
        others = PERMISSIONS - {permission, IMPLIED_BY.get(permission, permission)}
        # All before the first request: the app knows a new key half a second later at most.
        made[permission] = host.key("alice", permission)
        made[f"all but {permission}"] = host.key("bob", *sorted(others))
    return made


@pytest.fixture(scope="module")
def client(host: HostProcess) -> Iterator[httpx.Client]:
    """An HTTP client of the app."""
    with host.client() as client:
        yield client


def call(client: httpx.Client, route: str, key: str | None = None) -> httpx.Response:
    """Call a route for something that is not there, with a body that is none."""
    method, path = route.split(" ")
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return client.request(method, re.sub(r"\{\w+\}", "not-there", path), headers=headers, content=b"{" * 10)


@pytest.mark.parametrize("route", GUARDED)
def test_a_route_is_for_those_alone_who_have_its_permission(
    client: httpx.Client, keys: dict[str, str], route: str
) -> None:
    permission = TABLE[route]
    without = call(client, route)
    assert without.status_code == 401
    assert without.headers["WWW-Authenticate"].startswith("Basic " if route in PAGES else "Bearer ")
    other = call(client, route, keys[f"all but {permission}"])
    assert other.status_code == 403
    assert f'error="insufficient_scope", scope="{permission}"' in other.headers["WWW-Authenticate"]
    for refused in (without, other):
        assert refused.headers["Content-Type"].startswith("text/html" if route in PAGES else "application/problem+json")
        assert "not-there" not in refused.text
    if not route.startswith("HEAD"):
        assert str(permission) in other.text
    assert call(client, route, keys[str(permission)]).status_code not in (401, 403, 500)


@pytest.mark.parametrize("route", [route for route, permission in TABLE.items() if permission is None])
def test_what_is_open_is_open_whatever_is_sent(client: httpx.Client, route: str) -> None:
    for key in (None, "no key"):
        answer = call(client, route, key)
        assert "WWW-Authenticate" not in answer.headers
        assert answer.status_code != 403


def test_who_may_cancel_may_pause_and_resume(client: httpx.Client, keys: dict[str, str]) -> None:
    key = keys["execution:cancel"]
    for route in ("POST /api/v1/executions/{id}/pause", "POST /api/v1/executions/{id}/resume"):
        assert call(client, route, key).status_code in (400, 404)
    assert call(client, "GET /api/waits", key).status_code == 403


def test_who_calls_is_asked_before_anything_else_is_looked_at(client: httpx.Client, keys: dict[str, str]) -> None:
    headers = {"Authorization": f"Bearer {keys[START]}"}
    body = {"order_id": "1", "product": "x", "cost": 1.0, "quantity": 1, "instance_id": "it-is-there"}
    client.post("/start-purchase-order", headers=headers, json=body).raise_for_status()
    there = [client.get("/status/it-is-there", headers=each) for each in ({}, headers)]
    not_there = [client.get("/status/it-is-not-there", headers=each) for each in ({}, headers)]
    assert [each.status_code for each in there] == [401, 403]
    assert [each.content for each in there] == [each.content for each in not_there]
    for content in (b"x" * 300_000, b""):
        for given, status in (({}, 401), (headers, 403)):
            answer = client.post(
                "/api/approvals/a b", headers=given | {"Sec-Fetch-Site": "cross-site"}, content=content
            )
            assert answer.status_code == status


def test_two_headers_are_none_and_neither_is_one_that_only_the_platform_may_send(
    client: httpx.Client, keys: dict[str, str]
) -> None:
    given = f"Bearer {keys[READ]}"
    both = [("Authorization", given), ("Authorization", given)]
    first = [("Authorization", "Bearer x"), ("Authorization", given)]
    principal = [("X-MS-CLIENT-PRINCIPAL", "e30="), ("X-MS-CLIENT-PRINCIPAL-NAME", "root"), ("X-Functions-Key", given)]
    for headers in (both, first, principal):
        assert client.get("/api/waits", headers=headers).status_code == 401
    assert client.get("/api/waits", params={"code": keys[READ]}).status_code == 401
    assert client.get("/api/waits", headers=[("AUTHORIZATION", given.replace("Bearer", "bEARER"))]).status_code == 200


@pytest.fixture(scope="module")
def ours() -> Iterator[Issuer]:
    """An issuer of tokens."""
    with issuer() as made:
        yield made


@pytest.fixture
def entra(ours: Issuer, data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Issuer:
    """An issuer whose tokens count."""
    for name, value in (("AUTH", "entra"), ("AUTH_ISSUER", ours.url), ("AUTH_AUDIENCE", AUDIENCE)):
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    return ours


def answers(token: str, *, permission: Permission = READ) -> list[func.HttpResponse]:
    """What programs and people are answered who bring a token."""
    calls: list[str] = []

    async def trigger(req: func.HttpRequest, client: Any) -> func.HttpResponse:
        calls.append(req.method)
        return func.HttpResponse(status_code=200)

    async def call() -> list[func.HttpResponse]:
        headers = {"Authorization": f"Bearer {token}"}
        requests = [func.HttpRequest(method, "/", headers=headers, body=b"") for method in ("GET", "POST")]
        wrapped = [answers_errors(trigger, permission), answers_pages(trigger, permission)]
        return [await each(request, None) for each in wrapped for request in requests]

    found = asyncio.run(call())
    assert len(calls) == sum(each.status_code == 200 for each in found)
    return found


def test_a_good_token_opens_what_its_roles_are_for(entra: Issuer) -> None:
    assert {each.status_code for each in answers(entra.token())} == {200}
    assert {each.status_code for each in answers(entra.token(), permission="execution:start")} == {403}
    assert {each.status_code for each in answers(entra.token(roles=None))} == {403}


@pytest.mark.parametrize("what", BAD)
def test_a_token_that_is_no_good_opens_nothing(entra: Issuer, what: str) -> None:
    token = bad_tokens(entra)[what]
    for answer in answers(token):
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="countersign", error="invalid_token"'
        assert token[-20:].encode() not in answer.get_body()
    assert json.loads(answers(token)[0].get_body())["type"] == "urn:countersign:problem:unauthorized"
