"""The server with raw sockets: limits, slow clients, odd and malformed HTTP, pipelining, and the listener."""

import asyncio
import json
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
import uvloop
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import Receive, Scope, Send

from local_host.errors import HostError
from local_host.protocol import Limits, Protocol
from local_host.server import listen
from tests.local_host.serving import SECONDS, Served, everything, served
from tests.polling import until


class Echo:
    """An ASGI app that shows what it was given.

    ``/held`` waits until it is let go, ``/late`` does so before it reads its body, and ``/deaf`` reads none.
    """

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.left: list[str] = []
        self.release: asyncio.Event | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        if scope["path"] == "/deaf":
            await PlainTextResponse("not read", 401)(scope, receive, send)
            return
        if scope["path"] == "/large":
            await PlainTextResponse("x" * 50_000_000)(scope, receive, send)
            return
        if scope["path"] == "/late":
            await self.hold()
        try:
            body = await request.body()
        except ClientDisconnect:
            self.left.append(scope["path"])
            return
        self.seen.append(scope["path"])
        if scope["path"] == "/held":
            await self.hold()
        shown = {
            "path": scope["path"],
            "method": scope["method"],
            "body": body.decode("latin-1"),
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]],
        }
        await JSONResponse(shown)(scope, receive, send)

    async def hold(self) -> None:
        self.release = asyncio.Event()
        await self.release.wait()

    def let_go(self, server: Served) -> None:
        assert self.release is not None
        release, self.release = self.release, None
        server.loop.call_soon_threadsafe(release.set)


class Impatient(Protocol):
    """A protocol that waits for nobody."""

    limits = Limits(seconds=0.5, body_rate=100)


@pytest.fixture(scope="module")
def echo() -> Echo:
    return Echo()


LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
"""The host's loop, and that of tests."""


@pytest.fixture(scope="module", params=LOOPS)
def server(echo: Echo, request: pytest.FixtureRequest) -> Iterator[Served]:
    """A server with the host's own limits."""
    with served(echo, new_loop=LOOPS[request.param]) as running:
        yield running


@pytest.fixture(scope="module", params=LOOPS)
def impatient(echo: Echo, request: pytest.FixtureRequest) -> Iterator[Served]:
    """A server that gives clients a fifth of a second."""
    with served(echo, Impatient, LOOPS[request.param]) as running:
        yield running


def answers(found: bytes) -> list[tuple[int, str]]:
    """Take a stream of answers apart into statuses and bodies, each with its length."""
    parts = []
    while found:
        head, _, rest = found.partition(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        parts.append((int(head.split(b" ", 2)[1]), rest[:length].decode("latin-1")))
        found = rest[length:]
    return parts


def statuses(found: bytes) -> list[int]:
    return [status for status, _ in answers(found)]


def get(path: str, *headers: str, close: bool = False) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", *headers, *(["Connection: close"] if close else [])]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def post(path: str, body: bytes, *headers: str, close: bool = False) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", *headers, *(["Connection: close"] if close else [])]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


# Limits


def test_a_head_just_below_the_limits_is_taken(server: Served) -> None:
    many = [f"X-{number}: v" for number in range(197)]
    assert statuses(server.raw(get("/many", *many, close=True))) == [200]
    assert statuses(server.raw(get("/long", "X-Long: " + "v" * 65_000, close=True))) == [200]


@pytest.mark.parametrize(
    "head",
    [
        get("/x", *[f"X-{number}: v" for number in range(200)]),
        get("/x", "X-Long: " + "v" * 65_536),
        get("/x", *[f"X-{number}: {'v' * 1000}" for number in range(66)]),
        get("/" + "v" * 65_537),
        b"GET /" + b"v" * 400_000,
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"v" * 400_000,
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"v" * 400_000,
        b"\r\n" * 200_000,
    ],
    ids=["many", "long", "sum", "target", "endless target", "endless value", "endless name", "endless blank lines"],
)
def test_a_head_over_the_limits_is_431(server: Served, echo: Echo, head: bytes) -> None:
    before = list(echo.seen)
    with server.connect() as connection:
        with suppress(ConnectionResetError, BrokenPipeError):  # it may be refused before all of it is sent
            connection.sendall(head)
        found = everything(connection)
    assert found == b"" or statuses(found) == [431]
    assert echo.seen == before


def test_the_answer_to_a_head_that_is_too_large_says_so(server: Served) -> None:
    assert answers(server.raw(get("/x", *["X: v"] * 200))) == [(431, "The head of the request is too large.")]


@pytest.mark.parametrize("rest", [b"0\r\nX: " + b"v" * 400_000, b"1;" + b"v" * 400_000], ids=["trailer", "extension"])
def test_what_is_in_a_body_and_no_body_has_a_limit_too(server: Served, echo: Echo, rest: bytes) -> None:
    before = len(echo.left)
    with server.connect() as connection:
        connection.sendall(post("/endless", b"3\r\nabc\r\n", "Transfer-Encoding: chunked"))
        with suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(rest)
        everything(connection)
    until(lambda: "/endless" in echo.left[before:])


def test_a_large_body_is_no_large_head(server: Served) -> None:
    body = b"v" * 3_000_000
    found = server.raw(post("/large-body", body, f"Content-Length: {len(body)}", close=True))
    assert json.loads(answers(found)[0][1])["body"] == body.decode()


# Slow clients


@pytest.mark.parametrize(
    ("packet", "status"),
    [
        (b"", []),
        (b"\r\n", []),
        (b"GET / HT", [408]),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX-", [408]),
        (get("/first") + b"GET /sec", [200, 408]),
        (post("/slow-body", b"x", "Content-Length: 100"), []),
        (post("/deaf", b"x", "Content-Length: 100"), [401]),
        (post("/slow-body", b"5\r\nab", "Transfer-Encoding: chunked"), []),
    ],
)
def test_a_client_that_stops_in_the_middle_is_not_waited_for(
    impatient: Served, packet: bytes, status: list[int]
) -> None:
    assert statuses(impatient.raw(packet)) == status


def test_a_client_that_trickles_is_not_waited_for(impatient: Served, echo: Echo) -> None:
    before = len(echo.left)
    with impatient.connect() as connection:
        connection.sendall(post("/trickle", b"", "Content-Length: 1000"))
        connection.settimeout(0.02)

        def closed() -> bool:
            try:
                connection.sendall(b"x")
                return connection.recv(1) == b""
            except TimeoutError:
                return False
            except (ConnectionResetError, BrokenPipeError):
                return True

        until(closed)
    until(lambda: "/trickle" in echo.left[before:])
    assert "/trickle" not in echo.seen


def test_who_waits_for_an_answer_may_take_time_for_the_next_request(impatient: Served, echo: Echo) -> None:
    with impatient.connect() as connection:
        connection.sendall(get("/held") + b"GET /next HTTP/1.1\r\n")
        until(lambda: echo.release)
        connection.settimeout(1.5)  # three times what the server waits for
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(SECONDS)
        echo.let_go(impatient)
        connection.sendall(b"Host: localhost\r\nConnection: close\r\n\r\n")
        assert statuses(everything(connection)) == [200, 200]


def test_a_body_that_the_app_is_slow_to_read_is_not_the_clients_fault(impatient: Served, echo: Echo) -> None:
    with impatient.connect() as connection:
        connection.sendall(post("/late", b"x" * 200_000, "Content-Length: 200000", close=True))
        until(lambda: echo.release)
        connection.settimeout(1.5)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(SECONDS)
        echo.let_go(impatient)
        assert statuses(everything(connection)) == [200]


def test_a_body_that_comes_fast_enough_in_pieces_is_taken(impatient: Served) -> None:
    with impatient.connect() as connection:
        connection.sendall(post("/pieces", b"", "Content-Length: 100000", close=True))
        for _ in range(100):
            connection.sendall(b"v" * 1000)
        assert statuses(everything(connection)) == [200]


@pytest.mark.parametrize("loop", LOOPS)
def test_a_client_that_never_reads_its_answer_is_let_go(echo: Echo, loop: str) -> None:
    with served(echo, new_loop=LOOPS[loop]) as running:
        running.server.config.timeout_keep_alive = 0
        with running.connect() as connection:
            connection.sendall(get("/large"))
            until(lambda: running.server.server_state.total_requests)  # it may be let go before anybody looks
            until(lambda: not running.server.server_state.connections)


# Malformed and odd HTTP


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\nHost: localhost\n\n",
        b"GET / HTTP/1.1\rHost: localhost\r\r",
        b"GET /\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"G\xc3\x84T / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"CONNECT localhost:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://elsewhere/x HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http:///x HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        get("/a b"),
        get("/x", "Host : localhost"),
        get("/x", "X: a\r\n folded"),
        get("/x", "X: a\x00b"),
        post("/x", b"abcd", "Content-Length: 3", "Content-Length: 4"),
        post("/x", b"abc", "Content-Length: -3"),
        post("/x", b"abc", "Content-Length: 3x"),
        post("/x", b"abc", "Content-Length: " + "9" * 30),
        post("/x", b"0\r\n\r\n", "Content-Length: 3", "Transfer-Encoding: chunked"),
        post("/x", b"0\r\n\r\n", "Transfer-Encoding: chunked", "Content-Length: 3"),
        post("/x", b"0\r\n\r\n", "Transfer-Encoding: xchunked"),
        post("/x", b"0\r\n\r\n", "Transfer-Encoding: chunked, gzip"),
        post("/x", b"zz\r\nabc\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
        post("/x", b"f" * 20 + b"\r\nabc\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
        post("/x", b"3\nabc\n0\n\n", "Transfer-Encoding: chunked"),
        post("/x", b"3\r\nabcd\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
        post("/x", b"-3\r\nabc\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
    ],
)
def test_what_is_malformed_is_400_once_and_reaches_no_app(server: Served, echo: Echo, request_bytes: bytes) -> None:
    before = list(echo.seen)
    assert answers(server.raw(request_bytes)) == [(400, "The request is malformed.")]
    assert echo.seen == before


@pytest.mark.parametrize(
    ("request_bytes", "path"),
    [
        (b"GET http://localhost/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", "/x"),
        (b"GET HTTP://LocalHost HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", "/"),
        (b"GET http://localhost?a=http://b/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", "/"),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", "*"),
        (b"\r\n\r\nGET /blank HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", "/blank"),
        (b"GET /old HTTP/1.0\r\n\r\n", "/old"),
    ],
)
def test_what_is_odd_and_right_is_taken(server: Served, request_bytes: bytes, path: str) -> None:
    ((status, body),) = answers(server.raw(request_bytes))
    assert (status, json.loads(body)["path"]) == (200, path)


def test_trailers_are_no_headers(server: Served) -> None:
    body = b"3;a=b\r\nabc\r\n0\r\nHost: evil\r\nX-Functions-Key: stolen\r\n\r\n"
    ((_, shown),) = answers(server.raw(post("/x", body, "Transfer-Encoding: chunked", close=True)))
    assert json.loads(shown)["body"] == "abc"
    assert [name for name, _ in json.loads(shown)["headers"]] == ["host", "transfer-encoding", "connection"]


@pytest.mark.parametrize("upgrade", ["websocket", "h2c"])
@pytest.mark.parametrize(
    ("framing", "body", "seen"),
    [
        ([], b"", ""),
        (["Content-Length: 3"], b"abc", "abc"),
        (["Transfer-Encoding: chunked"], b"3\r\nabc\r\n0\r\n\r\n", "abc"),
    ],
)
def test_an_upgrade_is_not_done_and_nothing_is_lost(
    server: Served, upgrade: str, framing: list[str], body: bytes, seen: str
) -> None:
    """Java's client asks for HTTP/2 this way with its first request."""
    head = post("/first", b"", *framing, "Connection: Upgrade", f"Upgrade: {upgrade}")
    whole = head + body + get("/second", close=True)
    for packets in ([whole], [head, body + get("/second", close=True)], [bytes([byte]) for byte in whole]):
        first, second = answers(server.raw(*packets))
        assert (first[0], json.loads(first[1])["body"]) == (200, seen)
        assert (second[0], json.loads(second[1])["path"]) == (200, "/second")


# Pipelining


def test_requests_in_one_packet_are_answered_in_order(server: Served) -> None:
    requests = [post(f"/{number}", b"x" * number, f"Content-Length: {number}") for number in range(50)]
    found = answers(server.raw(b"".join(requests) + get("/last", close=True)))
    assert [json.loads(body)["path"] for _, body in found] == [*(f"/{number}" for number in range(50)), "/last"]
    assert [len(json.loads(body)["body"]) for _, body in found] == [*range(50), 0]


@pytest.mark.parametrize(
    ("second", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (get("/x", *["X: v"] * 200), 431),
        (post("/x", b"zz\r\n", "Transfer-Encoding: chunked"), 400),
        (post("/x", b"", "Transfer-Encoding: chunked", "Content-Length: 1"), 400),
    ],
)
def test_what_is_malformed_does_not_overtake_what_came_before(
    server: Served, echo: Echo, second: bytes, status: int
) -> None:
    with server.connect() as connection:
        connection.sendall(get("/before") + get("/held") + second + get("/never"))
        until(lambda: echo.release)
        echo.let_go(server)
        found = answers(everything(connection))
    assert [each for each, _ in found] == [200, 200, status]
    assert "/never" not in echo.seen


def test_after_what_is_malformed_nothing_more_is_kept(echo: Echo) -> None:
    with served(echo) as running, running.connect() as connection:
        connection.sendall(get("/held") + b"nonsense\r\n")
        protocol: Any = until(lambda: next(iter(running.server.server_state.connections), None))
        until(lambda: echo.release and protocol.pipeline)
        for _ in range(3):
            running.loop.call_soon_threadsafe(protocol.data_received, b"more nonsense\r\n")
        echo.let_go(running)
        assert statuses(everything(connection)) == [200, 400]
        assert not protocol.pipeline


def test_after_connection_close_nothing_more_is_answered(server: Served, echo: Echo) -> None:
    found = server.raw(get("/one-and-no-more", close=True) + get("/too-late"))
    assert statuses(found) == [200]
    assert "/too-late" not in echo.seen


def test_a_body_that_is_longer_than_declared_is_no_part_of_it(server: Served) -> None:
    first, second = answers(server.raw(post("/x", b"abcdef", "Content-Length: 3")))
    assert json.loads(first[1])["body"] == "abc"
    assert second[0] == 400


def test_a_body_that_is_shorter_than_declared_reaches_no_app(server: Served, echo: Echo) -> None:
    before = len(echo.left)
    with server.connect() as connection:
        connection.sendall(post("/short", b"abc", "Content-Length: 10"))
        connection.shutdown(socket.SHUT_WR)
        assert everything(connection) == b""
    until(lambda: "/short" in echo.left[before:])
    assert "/short" not in echo.seen


def test_a_connection_goes_on_after_a_body_that_nobody_read(server: Served) -> None:
    body = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
    found = server.raw(post("/deaf", body, f"Content-Length: {len(body)}"), get("/next", close=True))
    (first, _), (second, shown) = answers(found)
    assert (first, second, json.loads(shown)["path"]) == (401, 200, "/next")


def test_after_a_refusal_without_the_body_that_was_announced_the_connection_is_closed(server: Served) -> None:
    found = server.raw(post("/deaf", b"", "Content-Length: 100", "Expect: 100-continue"))
    assert statuses(found) == [401]


def test_a_client_that_waits_for_100_gets_it(server: Served) -> None:
    with server.connect() as connection:
        connection.sendall(post("/x", b"", "Content-Length: 3", "Expect: 100-continue", close=True))
        until(lambda: connection.recv(100, socket.MSG_PEEK).startswith(b"HTTP/1.1 100 Continue\r\n\r\n"))
        connection.sendall(b"abc")
        assert everything(connection).split(b"\r\n\r\n", 1)[1].startswith(b"HTTP/1.1 200")


def test_idle_connections_are_closed_when_the_server_stops(echo: Echo) -> None:
    with served(echo) as running:
        client = running.client()
        assert client.get("/x").status_code == 200
        connection = running.connect()
    assert everything(connection) == b""
    connection.close()
    with pytest.raises(httpx.ConnectError):
        client.get("/x")
    client.close()


# The listener


def test_a_port_that_is_in_use_is_refused_with_what_to_do() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with (
            pytest.raises(HostError, match=f"Port {port} is in use. Choose another one with --port."),
            listen("127.0.0.1", port),
        ):
            pass


@pytest.mark.parametrize("address", ["localhost", "", "127.0.0.1:80", "256.0.0.1"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(HostError, match="is no IP address to listen on"), listen(address, 0):
        pass


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(HostError, match=r"192\.0\.2\.1 is no address of this machine"), listen("192.0.2.1", 0):
        pass


def test_a_port_that_is_not_allowed_is_told_from_one_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(HostError, match=r"may not listen on port 80\. Choose one from 1024"), listen("127.0.0.1", 80):
        pass


def test_the_listener_says_that_it_is_tcp() -> None:
    """Else asyncio lets small answers wait for others."""
    with listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_a_listener_is_inherited() -> None:
    with listen("127.0.0.1", 0) as parent:
        descriptor = os.dup(parent.fileno())
        os.set_inheritable(descriptor, True)
        with listen("127.0.0.1", 1, descriptor) as child:
            assert child.getsockname() == parent.getsockname()
            assert child.proto == socket.IPPROTO_TCP
            assert not child.get_inheritable()
            with socket.create_connection(child.getsockname()):
                child.accept()[0].close()


def test_what_is_inherited_and_no_listener_is_refused_and_left_open() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as deaf, socket.socket(socket.AF_UNIX) as local:
        for each in (deaf, local):
            with pytest.raises(HostError, match="does not listen for TCP"), listen("127.0.0.1", 0, each.fileno()):
                pass
            assert os.fstat(each.fileno())
    with pytest.raises(HostError, match="There is no socket 9999"), listen("127.0.0.1", 0, 9999):
        pass
