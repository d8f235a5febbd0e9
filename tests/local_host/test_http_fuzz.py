"""The HTTP layer of a real host, sent whatever bytes hypothesis thinks of, in whatever pieces."""

import logging
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from local_host.testing import AppControl, running_app

APP = Path(__file__).parent / "apps" / "durable"
MANAGEMENT = b"/runtime/webhooks/durabletask"
STATUS_LINE = re.compile(rb"HTTP/1\.1 (\d{3}) ")
QUIET_SECONDS = 0.03
GIVE_UP_SECONDS = 30


@pytest.fixture(scope="module")
def next_client(app: AppControl) -> Iterator[httpx.Client]:
    """A client that connects anew for each request."""
    limits = httpx.Limits(max_keepalive_connections=0)
    with httpx.Client(base_url=app.url, limits=limits, trust_env=False, timeout=GIVE_UP_SECONDS) as client:
        yield client


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppControl]:
    """A host whose functions answer what they are asked; only those of other names are asked here."""
    with running_app(APP, tmp_path_factory.mktemp("data")) as app:
        yield app


# Stand for long texts, since hypothesis prints what fails.
LONG = {b"<long>": b"a" * 70_000, b"<longer>": b"a" * 1_100_000, b"<headers>": b"A: b\r\n" * 20_000}
long = st.sampled_from([*LONG])
methods = st.sampled_from(
    [b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"CONNECT", b"TRACE", b"get", b"BREW", b"PRI", b""]
)
targets = (
    st.sampled_from(
        [
            b"/",
            b"/api/of-blueprint",
            b"/api/of-blueprint?a=%ff&b",
            b"/api/nope",
            b"/admin/host/status",
            MANAGEMENT + b"/instances",
            MANAGEMENT + b"/instances/x",
            MANAGEMENT + b"/entities/counter/k?op=add",
            MANAGEMENT + b"/orchestrators/native?\xff",
            MANAGEMENT + b"/instances/\xff\xfe",
            b"http://localhost/api/of-blueprint",
            b"http://[::1/",
            b"localhost:80",
            b"*",
            b"//",
            b"/%",
            b"/\x00",
            b"",
        ]
    )
    | st.binary(max_size=20)
    | long.map(lambda text: b"/" + text)
)
versions = st.sampled_from(
    [b"HTTP/1.1"] * 20 + [b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/9.9", b"HTTP/", b"http/1.1", b""]
)
spaces = st.sampled_from([b" "] * 40 + [b"  ", b"\t", b""])
line_ends = st.sampled_from([b"\r\n"] * 60 + [b"\n", b"\r", b"\r\r\n", b"\x00"])
request_lines = st.tuples(methods, spaces, targets, spaces, versions, line_ends).map(b"".join)

header_lines = (
    st.sampled_from(
        [
            b"Host: localhost",
            b"Host: 127.0.0.1",
            b"Host: evil.example",
            b"Host:",
            b"Content-Length: 5",
            b"Content-Length: 0",
            b"Content-Length: -1",
            b"Content-Length: 5, 5",
            b"Content-Length: +5",
            b"Content-Length: 99999999999999999999",
            b"Content-Length: 1048577",
            b"Transfer-Encoding: chunked",
            b"Transfer-Encoding: chunked, chunked",
            b"Transfer-Encoding: gzip",
            b"Transfer-Encoding : chunked",
            b"Connection: close",
            b"Connection: keep-alive",
            b"Connection: Upgrade",
            b"Upgrade: websocket",
            b"Upgrade: h2c",
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            b"Sec-WebSocket-Version: 13",
            b"Expect: 100-continue",
            b"Expect: nonsense",
            b"Content-Type: application/json; charset=\xff",
            b"Content-Type: multipart/form-data; boundary=",
            b"X-Forwarded-Proto: \xff, javascript",
            b"X-Forwarded-Host: ,",
            b"Origin: null",
            b" folded",
            b"no colon",
            b": no name",
            b"A\x00: b",
            b"A: \x00",
        ]
    )
    | st.binary(max_size=20)
    | long.map(lambda text: b"Cookie: " + text)
)
heads = st.tuples(
    request_lines,
    st.lists(st.tuples(header_lines, line_ends).map(b"".join), max_size=5).map(b"".join),
    st.sampled_from([b"Host: localhost\r\n"] * 3 + [b""]),
    line_ends,
).map(b"".join)
bodies = (
    st.sampled_from(
        [
            b"",
            b"12345",
            b"5\r\n12345\r\n0\r\n\r\n",
            b"5;name=value\r\n12345\r\n0\r\nTrailer: x\r\n\r\n",
            b"5\r\n1234567\r\n",
            b"-1\r\n",
            b"zz\r\n",
            b"FFFFFFFFFFFFFFFFF\r\n",
            b"0\r\n\r\n" * 3,
        ]
    )
    | st.binary(max_size=20)
    | long
)
sound = st.sampled_from(
    [
        b"GET /api/of-blueprint HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST " + MANAGEMENT + b"/orchestrators/native HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n1",
        b"POST " + MANAGEMENT + b"/orchestrators/native HTTP/1.1\r\nHost: localhost\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n1\r\n1\r\n0\r\n\r\n",
        b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ]
)
streams = st.lists(sound | st.tuples(heads, bodies).map(b"".join), min_size=1, max_size=5).map(b"".join) | st.binary(
    max_size=100
)
cuts = st.lists(st.integers(0, 400), max_size=4).map(lambda cuts: sorted(set(cuts)))


@settings(max_examples=150, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(streams, cuts)
@example(b"GET /api/of-blueprint HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50, [])
@example(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"<headers>\r\n", [])
@example(b"GET / HTTP/1.1\r\n" * 2, [1])
@example(b"".join(each + b" / HTTP/1.1\r\nHost: localhost\r\n\r\n" for each in (b"PUT", b"OPTIONS", b"TRACE")), [])
def test_whatever_is_sent_is_answered_or_the_connection_is_closed(
    app: AppControl, next_client: httpx.Client, caplog: pytest.LogCaptureFixture, stream: bytes, cuts: list[int]
) -> None:
    caplog.clear()
    for short, text in LONG.items():
        stream = stream.replace(short, text)
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    answer = exchange(app.url, [piece for piece in pieces if piece])

    assert not [status for status in STATUS_LINE.findall(answer) if status >= b"500"], answer[:1000]
    assert not re.search(rb'Traceback|File "|site-packages|\w+(Error|Exception)\b', answer), answer[:1000]
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert errors == []
    assert next_client.get("/api/of-blueprint").text == "blueprint"


def exchange(url: str, pieces: list[bytes]) -> bytes:
    """Send pieces, see what is answered, send no more, and give all that was answered until the host closes."""
    address = urlsplit(url)
    answer = b""
    with socket.create_connection((address.hostname, address.port), timeout=GIVE_UP_SECONDS) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for piece in pieces:
                connection.sendall(piece)
            connection.settimeout(QUIET_SECONDS)
            while more := received(connection):
                answer += more
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(GIVE_UP_SECONDS)
            while more := connection.recv(65536):
                answer += more
        except TimeoutError:
            pytest.fail(f"the host neither answers nor closes; so far: {answer[:1000]!r}")
        except OSError:
            pass  # the host has had enough and has closed
    return answer


def received(connection: socket.socket) -> bytes:
    """Give what is there, or comes within a moment."""
    try:
        return connection.recv(65536)
    except TimeoutError:
        return b""


@settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(sound, min_size=1, max_size=6), cuts)
def test_sound_requests_in_any_pieces_are_answered_each(
    app: AppControl, requests: list[bytes], cuts: list[int]
) -> None:
    *others, last = requests
    stream = b"".join([*others, last.replace(b"Host:", b"Connection: close\r\nHost:")])
    address = urlsplit(app.url)
    with socket.create_connection((address.hostname, address.port), timeout=GIVE_UP_SECONDS) as connection:
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            connection.sendall(stream[start:end])
        with connection.makefile("rb") as answer:
            statuses = STATUS_LINE.findall(answer.read())
    wanted = [b"202" if request.startswith(b"POST") else b"200" for request in requests]
    assert statuses == wanted
