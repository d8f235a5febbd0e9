"""A real HTTP server on loopback that fails in every way.

    with failing_server() as server:
        server.answers("/pay", [Reply(503), Reply(429, headers={"Retry-After": "7"}), Reply(200, body=b'{"ok": true}')])
        ...                         # call server.url("/pay"), having named server.host in CALL_HOSTS
        server.requests             # all that came, in order: each has method, path (with its query), headers, body

A path is answered with its replies in their order, and the last one again and again; one that has none, with 404. The
method does not matter, and neither does the query. ``answers`` may be called again at any time: it begins anew. Each
answer closes its connection.

``Reply(status, body, headers)`` gets a Content-Length and, with a body, a Content-Type of JSON, unless ``headers`` say
otherwise. These go wrong: ``hang()`` (no answer until the server closes), ``half_a_body()``, ``broken_chunk()``,
``no_http()``, ``dropped()`` (closed without a word), ``redirect(to)``, ``big(size)``, ``gzip_bomb(size)``, ``drip()``
(the body byte by byte), ``drip_head()``. ``nobody_there()`` gives an address that refuses connections.

``server.broken_off`` counts the answers that the caller did not read to their end. Closing takes no time, whatever is
under way, and leaves no thread.
"""

import gzip
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import Any, NamedTuple

SECONDS = 30.0
"""How long a request may take to come in. Then something is wrong with the test."""


class Got(NamedTuple):
    """A request that came. ``path`` has its query; ``headers`` are found in any case."""

    method: str
    path: str
    headers: Message
    body: bytes


@dataclass(frozen=True)
class Reply:
    """An answer. ``raw`` goes out as it is, in place of all else. Between the bytes of a dripping one are ``pause``
    seconds, from the byte at ``drips_from`` on; a hanging one never comes."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    hangs: bool = False
    pause: float = 0
    drips_from: int = 0

    def wire(self) -> bytes:
        """The answer, byte for byte."""
        if self.raw is not None:
            return self.raw
        named = [name.lower() for name in self.headers]
        lines = [f"{name}: {value}" for name, value in self.headers.items()]
        if "content-length" not in named and "transfer-encoding" not in named and self.status not in (204, 304):
            lines.append(f"Content-Length: {len(self.body)}")
        if "content-type" not in named and self.body:
            lines.append("Content-Type: application/json")
        head = "\r\n".join([f"HTTP/1.1 {self.status} Whatever", *lines, "Connection: close", "", ""])
        return head.encode("latin-1") + self.body


def hang() -> Reply:
    """No answer until the server closes."""
    return Reply(hangs=True)


def half_a_body(status: int = 200) -> Reply:
    """A body that ends before it should."""
    return Reply(status, b'{"half": ', {"Content-Length": "1000", "Content-Type": "application/json"})


def broken_chunk() -> Reply:
    """A chunk that ends before it should."""
    return Reply(
        200, b'9\r\n{"half": \r\n40\r\n1', {"Transfer-Encoding": "chunked", "Content-Type": "application/json"}
    )


def no_http() -> Reply:
    """An answer of some other protocol."""
    return Reply(raw=b"220 mail.example.com ESMTP ready\r\n")


def dropped() -> Reply:
    """A connection that is closed without an answer."""
    return Reply(raw=b"")


def redirect(to: str, status: int = 302) -> Reply:
    """A redirect to an address or a path."""
    return Reply(status, headers={"Location": to})


def big(size: int = 10_000_000, status: int = 200) -> Reply:
    """A JSON text of so many bytes."""
    return Reply(status, b'"' + b"x" * (size - 2) + b'"')


def gzip_bomb(size: int = 100_000_000) -> Reply:
    """A small body that is a JSON text of so many bytes when it is decoded."""
    packed = gzip.compress(b'"' + b"x" * (size - 2) + b'"', 9)
    return Reply(200, packed, {"Content-Encoding": "gzip", "Content-Type": "application/json"})


def drip(body: bytes = b'"' + b"x" * 1000 + b'"', pause: float = 0.05, status: int = 200) -> Reply:
    """A body that comes byte by byte."""
    reply = Reply(status, body, pause=pause)
    return Reply(status, body, pause=pause, drips_from=len(reply.wire()) - len(body))


def drip_head(pause: float = 0.05) -> Reply:
    """An answer whose head comes byte by byte."""
    return Reply(200, b"{}", {"X-Long": "x" * 1000}, pause=pause)


class FailingServer:
    """What ``failing_server`` gives: what it is to answer, and what came to it."""

    def __init__(self, port: int, scheme: str) -> None:
        self.host = f"127.0.0.1:{port}"
        self.requests: list[Got] = []
        self.broken_off = 0
        self._scheme = scheme
        self._replies: dict[str, list[Reply]] = {}
        self._lock = Lock()
        self._closing = Event()

    def url(self, path: str = "/") -> str:
        """The address of a path."""
        return f"{self._scheme}://{self.host}{path}"

    def answers(self, path: str, replies: Sequence[Reply]) -> None:
        """Answer a path with these, in this order, and then with the last one again and again."""
        with self._lock:
            self._replies[path] = list(replies)

    def _next(self, got: Got) -> Reply:
        with self._lock:
            self.requests.append(got)
            replies = self._replies.get(got.path.partition("?")[0], [Reply(404, b'{"error": "no such path"}')])
            return replies.pop(0) if len(replies) > 1 else replies[0]

    def _write(self, connection: socket.socket, reply: Reply) -> None:
        if reply.hangs:
            self._closing.wait()
            return
        wire = reply.wire()
        try:
            if not reply.pause:
                connection.sendall(wire)
                return
            connection.sendall(wire[: reply.drips_from])
            for byte in wire[reply.drips_from :]:
                if self._closing.wait(reply.pause):
                    return
                connection.sendall(bytes([byte]))
        except OSError:
            with self._lock:
                self.broken_off += 1

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        handler.close_connection = True
        self._write(handler.connection, self._next(Got(handler.command, handler.path, handler.headers, body)))


class _Server(ThreadingHTTPServer):
    """Knows its connections, so that it can end them. It joins its threads when it is closed."""

    daemon_threads = False
    request_queue_size = 100

    def __init__(self, handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.tls = tls
        self.open: list[socket.socket] = []

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32_768)  # so that what is not read is not sent
        connection.settimeout(SECONDS)
        if self.tls is not None:
            connection = self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        self.open.append(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self.open.remove(request)
        super().shutdown_request(request)

    def cut(self) -> None:
        for connection in list(self.open):
            with suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Callers that go away, or do not trust it, are nothing to speak of."""


@contextmanager
def failing_server(tls: ssl.SSLContext | None = None) -> Iterator[FailingServer]:
    """Serve on loopback, over HTTPS where ``tls`` is given, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def handle_one_request(self) -> None:
            self.raw_requestline = self.rfile.readline(65_537)
            if self.raw_requestline and self.parse_request():
                known._serve(self)
            self.close_connection = True

        def log_message(self, *_: object) -> None: ...

    server = _Server(Handler, tls)
    known = FailingServer(server.server_port, "https" if tls else "http")
    thread = Thread(target=server.serve_forever, args=(0.01,), name="failing server")
    thread.start()
    try:
        yield known
    finally:
        known._closing.set()
        server.shutdown()
        thread.join()
        server.cut()
        server.server_close()


@contextmanager
def nobody_there() -> Iterator[str]:
    """An address, as host:port, that refuses connections; nobody else gets it meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"
