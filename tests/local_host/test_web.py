"""The web front: names of the host, where a request goes, keys, CORS, forwarded schemes, writes by other sites."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from local_host.admin import Admin
from local_host.app_loader import App, load_app
from local_host.errors import HostError
from local_host.http_trigger import HttpTriggers, body_limit, endpoints_of
from local_host.invocation import Invoker
from local_host.keys import Keys
from local_host.web import Cors, WebFront, cors_of, names_of, reserved
from tests.local_host.serving import Served, everything, served

APPS = Path(__file__).parent / "apps"
KEYS = Keys("the-master", {"default": "the-function"}, {"durabletask_extension": "the-durable"})
MANAGEMENT = "/runtime/webhooks/durabletask"
PAGE = "http://page.example"


async def management(scope: Scope, receive: Receive, send: Send) -> None:
    """Show what came through to the management API."""
    names = [name.decode() for name, _ in scope["headers"]]
    await JSONResponse({"managed": scope["path"], "scheme": scope["scheme"], "headers": names})(scope, receive, send)


@contextmanager
def front(app: App, *, trusted: tuple[str, ...] = (), any_name: bool = False, **options: Any) -> Iterator[httpx.Client]:
    """Serve an app behind the web front, and give a client of it."""
    with serving(app, trusted=trusted, any_name=any_name, **options) as running, running.client() as client:
        yield client


@contextmanager
def serving(app: App, *, trusted: tuple[str, ...] = (), any_name: bool = False, **options: Any) -> Iterator[Served]:
    invoker = Invoker("{}")

    async def run(name: str) -> None:
        raise AssertionError(name)

    keys = options.get("keys")
    triggers = HttpTriggers(endpoints_of(app.functions, app.settings.route_prefix), invoker, keys, max_body=1000)
    names = names_of(trusted, any_name=any_name)
    try:
        with served(WebFront(triggers, management, Admin(app, run, keys), names, **options)) as running:
            yield running
    finally:
        invoker.close()


@pytest.fixture(scope="module")
def app() -> App:
    return load_app(APPS / "keyed")


@pytest.fixture(scope="module")
def plain(app: App) -> Iterator[httpx.Client]:
    """A client of a host without keys and without CORS."""
    with front(app, trusted=("Proxied.Example",)) as client:
        yield client


@pytest.fixture(scope="module")
def keyed(app: App) -> Iterator[httpx.Client]:
    """A client of a host with keys."""
    with front(app, keys=KEYS) as client:
        yield client


# Names


@pytest.mark.parametrize(
    "name", ["localhost", "LOCALHOST:1", "127.0.0.1:99999", "[::1]:7071", "proxied.example", "PROXIED.example:443"]
)
def test_a_name_of_the_host_is_taken_whatever_its_port(plain: httpx.Client, name: str) -> None:
    assert plain.get("/api/open", headers={"Host": name}).text == "open"


@pytest.mark.parametrize(
    "name",
    [
        "evil.example",
        "localhost.evil.example",
        "localhost.",
        "evil@localhost",
        "localhost:x",
        "localhost:",
        "localhost,evil",
        "localhost/x",
        "0.0.0.0",
        "[::1",
        "sub.proxied.example",
        "",
        "lo\xe4cal",
    ],
)
@pytest.mark.parametrize("path", ["/", "/api/open", "/admin/host/ping", f"{MANAGEMENT}/instances"])
def test_another_name_is_400(plain: httpx.Client, name: str, path: str) -> None:
    response = plain.get(path, headers=[(b"Host", name.encode("latin-1"))])
    assert (response.status_code, response.text) == (
        400,
        "This host does not answer to that name. Start it with --trusted-host NAME to have it do so.",
    )


def test_a_host_that_listens_beyond_loopback_takes_any_name_but_no_nonsense(app: App) -> None:
    with front(app, keys=KEYS, any_name=True) as client:
        assert client.get("/api/open", headers={"Host": "my-machine.lan:7071"}).text == "open"
        assert client.get("/api/open", headers={"Host": "[fe80::1]:7071"}).text == "open"
        for name in ("evil@localhost", "a b", "", "a/b", "a\\b", "a?b"):
            assert client.get("/api/open", headers={"Host": name}).status_code == 400


@pytest.mark.parametrize(
    "hosts", [b"", b"Host: localhost\r\nHost: localhost\r\n", b"Host: localhost\r\nHost: evil\r\n"]
)
def test_there_is_exactly_one_host_header(app: App, hosts: bytes) -> None:
    with serving(app, any_name=True) as running:
        answer = running.raw(b"GET /api/open HTTP/1.1\r\n" + hosts + b"Connection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")


# Where a request goes


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/open", 200),
        ("/admin/host/ping", 200),
        ("/ADMIN/Host/Ping", 200),
        ("/%61dmin/host/ping", 200),
        ("/admin", 404),
        ("/admin/", 404),
        ("/admin/nothing", 404),
        ("/runtime", 404),
        ("/runtime/webhooks", 404),
        ("/runtime/webhooks/other/x", 404),
        (f"{MANAGEMENT}x", 404),
        (MANAGEMENT, 200),
        (f"{MANAGEMENT}/instances", 200),
        ("/RUNTIME/webhooks/DurableTask/instances", 200),
        ("/administration", 404),
    ],
)
def test_where_a_path_leads(plain: httpx.Client, path: str, status: int) -> None:
    response = plain.get(path)
    assert response.status_code == status
    assert ("managed" in response.text) is ("runtime" in path.lower() and status == 200)


def test_a_catch_all_at_the_root_gets_what_is_not_the_hosts_own() -> None:
    with front(load_app(APPS / "rooted")) as client:
        assert client.get("/").text == "took the root"
        assert client.get("/a/b").text == "took a/b"
        assert client.get("/administration").text == "took administration"
        for path in ("/admin/a", "/runtime/a", "/ADMIN", "/Runtime", "/%61dmin/a", "/runtime%2Fa"):
            response = client.get(path)
            assert (response.status_code, response.content) == (404, b"")
        assert client.get("/admin/host/ping").content == b""


def test_the_page_at_the_root_says_that_the_app_runs(plain: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    page = plain.get("/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "The app is running" in page.text
    monkeypatch.setenv("AzureWebJobsDisableHomepage", "True")
    assert (plain.get("/").status_code, plain.get("/").content) == (204, b"")
    monkeypatch.setenv("AzureWebJobsDisableHomepage", "false")
    assert plain.get("/").status_code == 200


def test_an_asterisk_is_no_path() -> None:
    with serving(load_app(APPS / "rooted")) as running:
        answer = running.raw(b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize(
    "route", ["admin", "Admin/x", "/admin/{id}", "administration", "runtime", "RunTime/x", "runtimes"]
)
def test_routes_that_the_real_host_refuses(route: str) -> None:
    assert reserved(route)


@pytest.mark.parametrize("route", ["", "/", "api/admin", "{admin}", "{*rest}", "my-admin", "run", "adm/in"])
def test_routes_that_the_real_host_takes(route: str) -> None:
    assert not reserved(route)


# Keys


@pytest.mark.parametrize(
    ("path", "opening"),
    [
        ("/", {"the-master", "the-function", "the-durable", "wrong", None}),
        ("/admin/host/ping", {"the-master", "the-function", "the-durable", "wrong", None}),
        ("/api/open", {"the-master", "the-function", "the-durable", "wrong", None}),
        ("/api/keyed", {"the-master", "the-function"}),
        ("/api/master/7", {"the-master"}),
        ("/admin/host/status", {"the-master"}),
        ("/admin/functions", {"the-master"}),
        ("/admin/functions/keyed", {"the-master"}),
        ("/admin/functions/nothing", {"the-master"}),
        ("/admin/functions/keyed/status", {"the-master"}),
        (f"{MANAGEMENT}/instances", {"the-master", "the-durable"}),
        ("/RUNTIME/webhooks/%64urabletask", {"the-master", "the-durable"}),
    ],
)
def test_each_path_asks_for_its_key(keyed: httpx.Client, path: str, opening: set[str | None]) -> None:
    for key in ("the-master", "the-function", "the-durable", "wrong", None):
        by_header = keyed.get(path, headers={"X-Functions-Key": key} if key else {})
        by_query = keyed.get(path, params={"code": key} if key else {})
        for response in (by_header, by_query):
            assert (response.status_code != 401) is (key in opening)
            assert response.status_code != 401 or response.content == b""


def test_a_post_to_admin_asks_for_the_master_key(keyed: httpx.Client) -> None:
    assert keyed.post("/admin/functions/yearly", json={}).status_code == 401
    assert keyed.post("/admin/functions/yearly", json={}, params={"code": "the-function"}).status_code == 401


def test_without_the_key_the_body_is_not_read(app: App) -> None:
    head = "POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\r\n"
    with serving(app, keys=KEYS) as running:
        assert running.raw(head.format("/api/keyed", 500).encode()).startswith(b"HTTP/1.1 401 ")
        assert running.raw(head.format("/api/keyed?code=the-function", 1001).encode()).startswith(b"HTTP/1.1 413 ")


def test_a_body_may_have_as_many_bytes_as_the_limit(plain: httpx.Client) -> None:
    assert plain.post("/api/keyed", content=b"x" * 1000).text == "1000 bytes"
    assert plain.post("/api/keyed", content=b"x" * 1001).status_code == 413
    assert plain.post("/api/keyed", content=iter([b"x" * 600, b"x" * 600])).status_code == 413


def test_the_limit_of_a_body_is_an_app_setting() -> None:
    assert body_limit({}) == 104857600
    assert body_limit({"FUNCTIONS_REQUEST_BODY_SIZE_LIMIT": "5"}) == 5
    for text in ("", "-1", "1 MB", "²", "1e6", "9" * 19):
        with pytest.raises(HostError, match="FUNCTIONS_REQUEST_BODY_SIZE_LIMIT must be a number of bytes"):
            body_limit({"FUNCTIONS_REQUEST_BODY_SIZE_LIMIT": text})


# What comes through a proxy


@pytest.mark.parametrize(
    ("name", "proto", "scheme"),
    [
        ("proxied.example", "https", "https"),
        ("proxied.example:8443", "HTTPS", "https"),
        ("proxied.example", "https, http", "https"),
        ("proxied.example", "http", "http"),
        ("proxied.example", "javascript", "http"),
        ("proxied.example", "", "http"),
        ("proxied.example", "https://evil/", "http"),
        ("localhost", "https", "http"),
        ("127.0.0.1", "https", "http"),
    ],
)
def test_the_scheme_is_that_of_a_proxy_of_the_users(plain: httpx.Client, name: str, proto: str, scheme: str) -> None:
    headers = {"Host": name, "X-Forwarded-Proto": proto, "X-Forwarded-Host": "evil.example"}
    given = plain.get("/api/shown?a=1", headers=headers).json()
    assert given["url"] == f"{scheme}://{name}/api/shown?a=1"
    assert given["headers"]["x-forwarded-proto"] == proto
    assert given["headers"]["x-forwarded-host"] == "evil.example"
    assert plain.get(MANAGEMENT, headers=headers).json()["scheme"] == scheme


def test_any_name_is_not_a_name_of_a_proxy(app: App) -> None:
    with front(app, keys=KEYS, any_name=True, trusted=("proxied.example",)) as client:
        for name, scheme in (("other.example", "http"), ("proxied.example", "https")):
            given = client.get("/api/shown", headers={"Host": name, "X-Forwarded-Proto": "https"}).json()
            assert given["url"] == f"{scheme}://{name}/api/shown"


@pytest.mark.parametrize(
    ("sent", "before"),
    [
        ([], ""),
        (["203.0.113.7"], "203.0.113.7, "),
        (["203.0.113.7, 127.0.0.1:80"], "203.0.113.7, 127.0.0.1:80, "),
        (["203.0.113.7", "203.0.113.8"], "203.0.113.7, 203.0.113.8, "),
        ([""], ", "),
    ],
)
def test_the_address_of_the_peer_is_the_last_of_those_it_was_forwarded_for(
    app: App, sent: list[str], before: str
) -> None:
    """Nothing believes what a client on loopback, or by the name of a proxy, writes there itself."""
    headers = "".join(
        f"{name}: {value}\r\n" for name, value in zip(("X-Forwarded-For", "x-forwarded-for"), sent, strict=False)
    )
    with serving(app, trusted=("proxied.example",)) as running:
        for name in ("localhost", "proxied.example"):
            with running.connect() as connection:
                port = connection.getsockname()[1]
                head = f"GET /api/shown HTTP/1.1\r\nHost: {name}\r\n{headers}Connection: close\r\n\r\n"
                connection.sendall(head.encode())
                given = json.loads(everything(connection).partition(b"\r\n\r\n")[2])["headers"]
            assert given["x-forwarded-for"] == f"{before}127.0.0.1:{port}"
            assert given["host"] == name


@pytest.mark.parametrize(
    ("peer", "shown"),
    [(("::1", 50), "[::1]:50"), (("fe80::1%eth0", 50), "[fe80::1%eth0]:50"), (None, "unknown"), (("", 0), "unknown")],
)
def test_a_peer_of_any_kind_is_named(app: App, peer: tuple[str, int] | None, shown: str) -> None:
    async def ask() -> httpx.Response:
        triggers = HttpTriggers(endpoints_of(app.functions, ""), invoker)
        whole = WebFront(triggers, management, management, names_of(()))
        transport = httpx.ASGITransport(whole)
        transport.client = peer  # type: ignore[assignment]  # there is none on a socket of Unix
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get("/shown", headers={"X-Forwarded-For": "203.0.113.7"})

    invoker = Invoker("{}")
    try:
        assert asyncio.run(ask()).json()["headers"]["x-forwarded-for"] == f"203.0.113.7, {shown}"
    finally:
        invoker.close()


# Pages of other sites


@pytest.mark.parametrize("site", ["cross-site", "same-site", "nonsense"])
def test_another_site_may_not_write_to_admin(plain: httpx.Client, site: str) -> None:
    headers = {"Sec-Fetch-Site": site, "Origin": PAGE}
    assert plain.post("/admin/functions/letters", json={}, headers=headers).status_code == 403
    assert plain.get("/admin/functions", headers=headers).status_code == 200
    assert "access-control-allow-origin" not in plain.get("/admin/functions", headers=headers).headers


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_who_is_no_other_site_may_write_to_admin(plain: httpx.Client, site: str) -> None:
    assert plain.post("/admin/functions/letters", json={}, headers={"Sec-Fetch-Site": site}).status_code == 404


def preflight(client: httpx.Client, path: str, origin: str = PAGE) -> httpx.Response:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": "content-type, x-functions-key",
    }
    return client.options(path, headers=headers)


def readable(response: httpx.Response) -> str | None:
    origin: str | None = response.headers.get("access-control-allow-origin")
    return origin


def writes(client: httpx.Client, path: str, origin: str = PAGE) -> int:
    headers = {"Origin": origin, "Sec-Fetch-Site": "cross-site", "X-Functions-Key": "the-master"}
    response = client.post(path, json={}, headers=headers)
    if path.startswith(MANAGEMENT) and response.status_code == 200:
        # The management API looks at this by itself.
        return 403 if "sec-fetch-site" in response.json()["headers"] else 200
    return response.status_code


OWN = ["/admin/functions", f"{MANAGEMENT}/instances"]


def test_without_cors_nothing_is_opened(plain: httpx.Client) -> None:
    for path in ("/", "/api/open", *OWN):
        assert readable(plain.get(path, headers={"Origin": PAGE})) is None
        assert readable(preflight(plain, path)) is None
    assert writes(plain, "/admin/functions/letters") == writes(plain, f"{MANAGEMENT}/instances") == 403


def test_an_asterisk_opens_the_functions_alone(app: App) -> None:
    with front(app, cors=Cors(frozenset({"*"}))) as client:
        for path in ("/", "/api/open", "/api/nothing"):
            assert readable(client.get(path, headers={"Origin": PAGE})) == "*"
            assert preflight(client, path).status_code == 200
            assert readable(preflight(client, path)) == "*"
        for path in OWN:
            assert readable(client.get(path, headers={"Origin": PAGE})) is None
            assert readable(preflight(client, path)) is None
        assert writes(client, "/admin/functions/letters") == writes(client, f"{MANAGEMENT}/instances") == 403


def test_with_keys_an_asterisk_opens_all_to_those_who_have_one(app: App) -> None:
    with front(app, cors=Cors(frozenset({"*"})), keys=KEYS) as client:
        for path in OWN:
            refused = client.get(path, headers={"Origin": PAGE})
            assert (refused.status_code, readable(refused)) == (401, "*")
            assert readable(client.get(path, headers={"Origin": PAGE, "X-Functions-Key": "the-master"})) == "*"
            assert preflight(client, path).status_code == 200
        assert writes(client, "/admin/functions/letters") == 404
        assert writes(client, f"{MANAGEMENT}/instances") == 200


def test_a_listed_origin_opens_all_and_another_nothing(app: App) -> None:
    with front(app, cors=Cors(frozenset({PAGE, "https://other.example:8443"}), credentials=True)) as client:
        for path in ("/api/open", *OWN):
            response = client.get(path, headers={"Origin": PAGE})
            assert readable(response) == PAGE
            assert response.headers["access-control-allow-credentials"] == "true"
            assert "Origin" in response.headers["vary"]
            allowed = preflight(client, path)
            assert (allowed.status_code, readable(allowed)) == (200, PAGE)
            assert "PUT" in allowed.headers["access-control-allow-methods"]
            assert "x-functions-key" in allowed.headers["access-control-allow-headers"]
            for origin in (
                "http://evil.example",
                "null",
                PAGE + ":81",
                "https://other.example",
                PAGE + ".evil.example",
            ):
                assert readable(client.get(path, headers={"Origin": origin})) is None
                assert readable(preflight(client, path, origin)) is None
        assert writes(client, "/admin/functions/letters") == 404
        assert writes(client, f"{MANAGEMENT}/instances") == 200
        for origin in ("http://evil.example", "null", ""):
            assert writes(client, "/admin/functions/letters", origin) == 403
            assert writes(client, f"{MANAGEMENT}/instances", origin) == 403


def test_an_options_request_that_is_no_preflight_reaches_the_function(app: App) -> None:
    with front(app, cors=Cors(frozenset({PAGE}))) as client:
        response = client.options("/api/open", headers={"Origin": PAGE})
        assert (response.text, readable(response)) == ("open", PAGE)


@pytest.mark.parametrize(
    ("host", "cors"),
    [
        ({}, None),
        (None, None),
        ({"CORS": ""}, None),
        ({"CORS": " , "}, None),
        ({"CORSCredentials": True}, None),
        ({"LocalHttpPort": 7071, "CORS": "*"}, Cors(frozenset({"*"}))),
        ({"CORS": "*", "CORSCredentials": False}, Cors(frozenset({"*"}))),
        (
            {"CORS": "http://A.example , https://b.example:8443/,"},
            Cors(frozenset({"http://a.example", "https://b.example:8443"})),
        ),
        (
            {"CORS": "http://[::1]:3000", "CORSCredentials": True},
            Cors(frozenset({"http://[::1]:3000"}), credentials=True),
        ),
        ({"CORS": "http://a", "CORSCredentials": "True"}, Cors(frozenset({"http://a"}), credentials=True)),
        ({"CORS": "http://a,*"}, Cors(frozenset({"http://a", "*"}))),
    ],
)
def test_cors_of_local_settings(host: object, cors: Cors | None) -> None:
    assert cors_of({"Host": host}) == cors


def test_no_host_section_is_no_cors() -> None:
    assert cors_of({}) is None


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ({"CORS": "*", "CORSCredentials": True}, "cannot be '\\*' where 'Host.CORSCredentials' is true"),
        ({"CORS": "http://a,*", "CORSCredentials": "true"}, "cannot be '\\*'"),
        ({"CORS": ["http://a"]}, "'Host.CORS' must be a text"),
        ({"CORS": 7}, "'Host.CORS' must be a text"),
        ("*", "'Host.CORS' must be a text"),
        ({"CORS": "localhost:3000"}, "'localhost:3000' in 'Host.CORS' is no origin"),
        ({"CORS": "http://a/path"}, "is no origin"),
        ({"CORS": "http://*.example"}, "is no origin"),
        ({"CORS": "null"}, "is no origin"),
        ({"CORS": "http://a", "CORSCredentials": "yes"}, "'Host.CORSCredentials' must be true or false"),
        ({"CORS": "http://a", "CORSCredentials": 1}, "'Host.CORSCredentials' must be true or false"),
    ],
)
def test_cors_that_cannot_be(host: object, why: str) -> None:
    with pytest.raises(HostError, match=why):
        cors_of({"Host": host})
