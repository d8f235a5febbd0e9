"""HTTP triggers through a host process: what a function is given, and what a client is answered."""

import asyncio
import base64
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.requests import Request

from local_host.app_loader import load_app
from local_host.http_trigger import HttpTriggers, endpoints_of, read_body
from local_host.invocation import Invoker
from tests.hosting import HostProcess, host_process
from tests.polling import until

APPS = Path(__file__).parent / "apps"
SECRET = "swordfish"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostProcess]:
    """A host with the app of odd HTTP functions."""
    with host_process(tmp_path_factory.mktemp("data"), app_dir=APPS / "web") as host:
        yield host


@pytest.fixture(scope="module")
def client(host: HostProcess) -> Iterator[httpx.Client]:
    """A client of that host."""
    with host.client() as client:
        yield client


def shown(response: httpx.Response) -> dict[str, Any]:
    """What the function says that it was given."""
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def raw(host: HostProcess, request: bytes) -> bytes:
    """Send bytes as they are, and give all that is answered."""
    address = urlsplit(host.url)
    with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
        connection.sendall(request)
        with connection.makefile("rb") as answer:
            return answer.read()


# Routes


def test_without_a_route_the_name_of_the_function_is_the_route(client: httpx.Client) -> None:
    assert shown(client.get("/api/unrouted"))["function"] == "unrouted"
    assert shown(client.get("/api/RENAMEDFUNCTION"))["function"] == "renamed"
    assert client.get("/api/renamed").status_code == 404


def test_the_root_and_admin_are_the_hosts_own(client: httpx.Client) -> None:
    assert "The app is running" in client.get("/").text
    assert client.get("/admin/host/status").json()["state"] == "Running"
    assert "RenamedFunction" in [each["name"] for each in client.get("/admin/functions").json()]


@pytest.mark.parametrize("path", ["/unrouted", "/api", "/api/", "/api/nothing", "/apiunrouted", "/api/unrouted/x"])
def test_another_path_is_404(client: httpx.Client, path: str) -> None:
    response = client.get(path)
    assert (response.status_code, response.text) == (404, "Not Found")


@pytest.mark.parametrize(
    ("method", "path", "function"),
    [
        ("GET", "things/7", "get_thing"),
        ("PUT", "things/7", "put_thing"),
        ("DELETE", "things/7", "delete_thing"),
        ("POST", "things/7", "named_thing"),
        ("GET", "things/seven", "named_thing"),
    ],
)
def test_functions_share_a_route_by_method_and_constraint(
    client: httpx.Client, method: str, path: str, function: str
) -> None:
    assert shown(client.request(method, f"/api/{path}"))["function"] == function


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "PURGE"])
def test_a_function_without_methods_takes_every_method(client: httpx.Client, method: str) -> None:
    assert shown(client.request(method, "/api/echo/x"))["method"] == method


def test_a_method_that_no_function_takes_is_404(client: httpx.Client) -> None:
    assert client.post("/api/RenamedFunction").status_code == 404


def test_head_has_the_headers_of_get_and_no_body(client: httpx.Client) -> None:
    head = client.head("/api/things/7")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == "application/json"
    assert int(head.headers["content-length"]) > 0
    assert client.head("/api/RenamedFunction").status_code == 404


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/Service/v1/hello", "Hello nobody"),
        ("/service/V1/hello/World/", "Hello World"),
        ("/Service/v1/slashed", "slashed"),
        ("/Service/v1/root", "root"),
    ],
)
def test_routes_lie_under_the_prefix_of_host_json(prefixed: httpx.Client, path: str, text: str) -> None:
    assert prefixed.get(path).text == text


def test_with_a_prefix_of_its_own_there_is_nothing_under_api(prefixed: httpx.Client) -> None:
    assert prefixed.get("/Service/v1").status_code == 404
    assert prefixed.get("/api/hello").status_code == 404
    assert prefixed.get("/hello").status_code == 404


@pytest.fixture(scope="module")
def prefixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a host with an app whose host.json has a prefix."""
    with (
        host_process(tmp_path_factory.mktemp("data"), app_dir=APPS / "prefixed") as host,
        host.client() as client,
    ):
        yield client


def test_an_asgi_app_takes_every_path_and_method(tmp_path: Path) -> None:
    with host_process(tmp_path / "data", app_dir=APPS / "asgi") as host, host.client() as client:
        response = client.post("/shown/a%20b/c?x=%201", content="grün")
        assert (response.status_code, response.json()["body"]) == (201, "grün")
        assert response.json()["query"] == "x=%201"
        assert client.delete("/shown/a").status_code == 405
        assert client.get("/elsewhere").status_code == 404


# What the function is given


def test_the_url_is_the_one_that_was_called(client: httpx.Client, host: HostProcess) -> None:
    target = "/api/echo/a%20b%3Fc/%2F%C3%A4?x=1%202&y=%26&z=%C3%A4"
    assert shown(client.get(target))["url"] == host.url + target
    assert shown(client.get("/api/echo"))["url"] == f"{host.url}/api/echo"


def test_the_url_has_the_name_that_the_host_was_called_by(client: httpx.Client, host: HostProcess) -> None:
    name = f"localhost:{urlsplit(host.url).port}"
    assert shown(client.get("/api/echo", headers={"Host": name}))["url"] == f"http://{name}/api/echo"


def test_a_raw_byte_in_the_query_is_no_server_error(host: HostProcess) -> None:
    answer = raw(host, b"GET /api/echo?q=\xff HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert answer.split(b" ", 2)[1] in (b"200", b"400")


@pytest.mark.parametrize(
    ("query", "params"),
    [
        ("", {}),
        ("?", {}),
        ("?a=1&b=2", {"a": "1", "b": "2"}),
        ("?a=1&a=2&a=", {"a": "1,2,"}),
        ("?a", {"a": ""}),
        ("?a=&=b", {"a": "", "": "b"}),
        ("?a=1+2%2B3%20%26", {"a": "1 2+3 &"}),
        ("?%C3%A4=%F0%9F%8E%89", {"ä": "🎉"}),
        ("?a=b=c;d", {"a": "b=c;d"}),
        ("?A=1&a=2", {"A": "1", "a": "2"}),
    ],
)
def test_params(client: httpx.Client, query: str, params: dict[str, str]) -> None:
    assert shown(client.get(f"/api/echo{query}"))["params"] == params


@pytest.mark.parametrize(
    ("path", "params"),
    [
        ("echo", {}),
        ("echo/a/b", {"rest": "a/b"}),
        ("echo/%2e%2e/%2Fetc", {"rest": "../%2Fetc"}),
        ("echo/%C3%A4+%20", {"rest": "ä+ "}),
        ("things/007", {"id": "007"}),
    ],
)
def test_route_params(client: httpx.Client, path: str, params: dict[str, str]) -> None:
    assert shown(client.get(f"/api/{path}"))["route_params"] == params


def test_headers_are_joined_where_repeated_and_latin_1_comes_through(client: httpx.Client) -> None:
    headers = [(b"X-Many", b"1"), (b"x-many", b"2"), (b"X-Empty", b""), (b"X-City", "Köln".encode("latin-1"))]
    given = shown(client.get("/api/echo", headers=headers))["headers"]
    assert (given["x-many"], given["x-empty"], given["x-city"]) == ("1,2", "", "Köln")


@pytest.mark.parametrize("body", [b"", b"x", bytes(range(256)) * 1000, "grün 🎉".encode(), b"\r\n\r\n"])
def test_a_body_comes_as_it_was_sent(client: httpx.Client, body: bytes) -> None:
    assert base64.b64decode(shown(client.post("/api/echo", content=body))["body"]) == body


def test_a_chunked_body_comes_whole(client: httpx.Client) -> None:
    body = shown(client.post("/api/echo", content=iter([b"one,", b"", b"two"])))["body"]
    assert base64.b64decode(body) == b"one,two"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"a": ["\xc3\xa4", null, 1.5]}', "got {'a': ['ä', None, 1.5]}"),
        (b"null", "got None"),
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'"\xff"', "not JSON"),
    ],
)
def test_get_json(client: httpx.Client, body: bytes, text: str) -> None:
    assert client.post("/api/json", content=body).text == text


def test_a_form_with_a_file(client: httpx.Client) -> None:
    given = client.post("/api/form", data={"name": "grün"}, files={"file": ("a.bin", b"\x00")}).json()
    assert given == {"form": {"name": "grün"}, "files": {"file": "a.bin"}}


def test_the_trigger_parameter_has_the_name_that_the_function_gave_it(client: httpx.Client) -> None:
    assert client.get("/api/other-name").text == "GET"


@pytest.mark.parametrize(("path", "name"), [("context", "with_context"), ("context-async", "with_context_async")])
def test_a_context_tells_a_function_of_its_invocation(client: httpx.Client, path: str, name: str) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    one = client.get(f"/api/{path}", headers={"traceparent": parent}).json()
    two = client.get(f"/api/{path}").json()
    assert one["function_name"] == name
    assert one["function_directory"] == str(APPS / "web")
    assert (one["trace_parent"], two["trace_parent"]) == (parent, "")
    assert one["invocation_id"] != two["invocation_id"]


@pytest.mark.parametrize(("path", "second"), [("seen", "nobody"), ("seen-async", "nobody,second")])
def test_a_context_variable_does_not_leak_into_the_next_request(client: httpx.Client, path: str, second: str) -> None:
    for _ in range(8):  # more than there are threads that might be used again
        client.get(f"/api/{path}/first")
    assert client.get(f"/api/{path}/second").text == second


# What the client is answered


@pytest.mark.parametrize(
    ("kind", "status", "content_type", "body"),
    [
        ("plain", 200, "text/plain; charset=utf-8", "grün".encode()),
        ("latin", 200, "text/plain; charset=latin-1", "grün".encode("latin-1")),
        ("typed", 200, "application/xml; charset=utf-8", b"<a/>"),
        ("text", 200, "text/plain; charset=utf-8", "grün".encode()),
        ("teapot", 418, "image/png", b"\x00\xff"),
        ("enum", 201, "text/plain; charset=utf-8", b"made"),
        ("status-599", 599, "text/plain; charset=utf-8", b"odd"),
        ("none", 204, None, b""),
    ],
)
def test_a_response(client: httpx.Client, kind: str, status: int, content_type: str | None, body: bytes) -> None:
    response = client.get(f"/api/out/{kind}")
    assert (response.status_code, response.headers.get("content-type"), response.content) == (
        status,
        content_type,
        body,
    )


def test_a_header_is_passed_on_and_a_wrong_length_is_not(client: httpx.Client) -> None:
    response = client.get("/api/out/teapot")
    assert response.headers["x-one"] == "1"
    assert response.headers.get_list("content-length") == ["2"]


def test_each_cookie_has_a_header_of_its_own(client: httpx.Client) -> None:
    one, two = client.get("/api/out/cookies").headers.get_list("set-cookie")
    assert set(one.split("; ")) == {"a=1", "Path=/", "HttpOnly", "SameSite=Strict"}
    assert set(two.split("; ")) == {"b=2", "Max-Age=60", "Secure"}


@pytest.mark.parametrize(("kind", "status"), [("bodied-204", 204), ("bodied-304", 304)])
def test_a_body_that_a_status_forbids_is_not_sent(host: HostProcess, kind: str, status: int) -> None:
    again = b"GET /api/out/enum HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = raw(host, f"GET /api/out/{kind} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() + again)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"must not be sent" not in answer
    assert answer.endswith(b"made")


@pytest.mark.parametrize(
    "kind",
    [
        "number",
        "bytes",
        "list",
        "tuple",
        "status-99",
        "status-101",
        "status-1000",
        "status-text",
        "header-name",
        "header-value",
    ],
)
def test_what_is_no_response_is_500_and_says_so(client: httpx.Client, kind: str) -> None:
    response = client.get(f"/api/out/{kind}")
    assert response.status_code == 500
    assert response.text == "What the function 'out' returned is no HTTP response."
    assert "x-evil" not in response.headers


@pytest.mark.parametrize(
    ("path", "logged"),
    [
        ("raise/value", f"ValueError: the password is {SECRET}"),
        ("raise/empty", "RuntimeError"),
        ("raise/stop-iteration", "StopIteration"),
        ("raise/not-implemented", f"NotImplementedError: the password is {SECRET}"),
        ("raise/exit", f"SystemExit: the password is {SECRET}"),
        ("raise/interrupt", "KeyboardInterrupt"),
        ("out/unknown", "KeyError: 'unknown'"),
        ("raise-async/lookup", f"LookupError: the password is {SECRET}"),
        ("raise-async/exit", f"SystemExit: the password is {SECRET}"),
        ("raise-async/cancelled", "asyncio.exceptions.CancelledError"),
    ],
)
def test_an_exception_is_500_and_only_the_log_knows_why(
    client: httpx.Client, host: HostProcess, path: str, logged: str
) -> None:
    before = host.log.stat().st_size
    response = client.get(f"/api/{path}")
    assert response.status_code == 500
    assert SECRET not in response.text
    assert "Traceback" not in response.text
    assert "The function '" in response.text
    invocation = response.text.rpartition("(")[2].removesuffix(").")
    log = host.log.read_bytes()[before:].decode()
    assert invocation[:8] in log
    assert "Traceback" in log
    assert "function_app.py" in log
    assert re.search(rf"^ *{re.escape(logged)}", log, re.MULTILINE)
    assert client.get("/api/out/enum").status_code == 201


# The host as a server


def test_a_sync_function_that_blocks_does_not_block_others(client: httpx.Client, host: HostProcess) -> None:
    with ThreadPoolExecutor(4) as pool, host.client() as other:
        blocked = [pool.submit(other.get, "/api/block") for _ in range(4)]
        assert shown(client.get("/api/unrouted"))["function"] == "unrouted"
        assert client.get("/api/out/enum").status_code == 201
        assert not any(each.done() for each in blocked)
        assert client.get("/api/release").text == "done"
        assert {each.result(5).text for each in blocked} == {"released"}


@pytest.mark.parametrize(
    "name", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "evil@localhost", "0.0.0.0", ""]
)
def test_a_forged_host_header_is_400(client: httpx.Client, name: str) -> None:
    assert client.get("/api/unrouted", headers={"Host": name}).status_code == 400
    assert client.post("/runtime/webhooks/durabletask/orchestrators/x", headers={"Host": name}).status_code == 400


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST:1", "127.0.0.1:99999"])
def test_a_name_of_loopback_is_taken_whatever_its_port(client: httpx.Client, name: str) -> None:
    assert client.get("/api/unrouted", headers={"Host": name}).status_code == 200


def test_a_request_without_a_host_header_is_400(host: HostProcess) -> None:
    assert b" 400 " in raw(host, b"GET /api/unrouted HTTP/1.0\r\n\r\n").split(b"\r\n")[0]


def test_a_client_that_goes_away_in_the_middle_of_a_body_is_no_error(host: HostProcess, client: httpx.Client) -> None:
    before = host.log.stat().st_size
    address = urlsplit(host.url)
    with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
        connection.sendall(b"POST /api/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf")
    shown(client.post("/api/echo"))
    until(lambda: b"echo succeeded" in host.log.read_bytes()[before:])
    log = host.log.read_bytes()[before:]
    assert b"Traceback" not in log
    assert log.count(b"echo succeeded") == 1


def body_of(*chunks: bytes, declared: str | None = None) -> Request:
    """A request that streams the chunks, with or without a declared length."""
    headers = [] if declared is None else [(b"content-length", declared.encode())]
    messages: Iterator[dict[str, Any]] = iter(
        {"type": "http.request", "body": chunk, "more_body": index < len(chunks) - 1}
        for index, chunk in enumerate(chunks)
    )

    async def receive() -> dict[str, Any]:
        return next(messages)

    return Request({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("chunks", "declared", "found"),
    [
        ([b""], None, b""),
        ([b"1234", b"567", b"8"], None, b"12345678"),
        ([b"1234", b"567", b"8"], "8", b"12345678"),
        ([b"1234", b"56789"], None, None),
        ([b"1234", b"56789"], "4", None),
        ([b""], "9", None),
        ([b"1"], "1" * 5000, None),
        ([b"1"], "-1", b"1"),
        ([b"1"], "nonsense", b"1"),
        ([b"1"], "²", b"1"),
    ],
)
async def test_a_body_over_the_limit_is_not_read(
    chunks: list[bytes], declared: str | None, found: bytes | None
) -> None:
    assert await read_body(body_of(*chunks, declared=declared), limit=8) == found


@pytest.mark.anyio
async def test_bodies_have_a_limit_in_their_sum_and_room_comes_back() -> None:
    app = load_app(APPS / "web")
    endpoints = endpoints_of(app.functions, "api")
    triggers = HttpTriggers(endpoints, Invoker("{}"), max_held=10)
    unfinished = asyncio.Event()

    async def send(*chunks: bytes, then: asyncio.Event | None = None) -> int:
        messages = [{"type": "http.request", "body": each, "more_body": True} for each in chunks]
        statuses: list[int] = []

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop(0)
            if then is not None:
                await then.wait()
            return {"type": "http.request", "body": b"", "more_body": False}

        async def answer(message: Any) -> None:
            statuses.extend([message["status"]] if message["type"] == "http.response.start" else [])

        path = "/api/echo/x"
        headers = [(b"host", b"localhost")]
        scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "headers": headers}
        await triggers(scope | {"query_string": b"", "scheme": "http"}, receive, answer)
        return statuses[0]

    first = asyncio.ensure_future(send(b"1234", b"5678", then=unfinished))
    await asyncio.sleep(0)
    while triggers._held < 8:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    assert await send(b"12") == 200
    assert await send(b"12", b"3") == 503
    unfinished.set()
    assert await first == 200
    assert await send(b"1234567890") == 200
    assert await send(b"1234567890", b"1") == 503
    assert triggers._held == 0


@pytest.fixture
def anyio_backend() -> str:
    """Run async tests on asyncio, as the host runs."""
    return "asyncio"
