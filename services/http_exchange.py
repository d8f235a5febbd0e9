"""One request over HTTP and its answer, within a time for the whole and up to a size.

By the standard library's client, of which each step can be cut: ``requests`` reads a redirect's body to its end, waits
for as long as a byte comes now and then, and logs addresses. Proxies and passwords of the machine are not used.
"""

import io
import socket
import ssl
import time
import zlib
from collections.abc import Mapping
from contextlib import closing, suppress
from email.message import Message
from functools import cache
from http.client import HTTPConnection, HTTPException, HTTPResponse, IncompleteRead, parse_headers
from threading import Event, Thread
from typing import Any, NamedTuple, Self
from urllib.parse import quote, urlsplit

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from contracts.guarded_call import Problem
from services.addresses import Address

MAX_ANSWER = 64_000
"""Bytes of the body of an answer, after it was decoded."""
MAX_EARLY = 20
"""Answers that come before the one that counts, as 103 Early Hints does."""
REDIRECTS = (301, 302, 303, 307, 308)

_CHUNK = 8_192
_SAFE = "!#$%&'()*+,/:;=?@[]~"  # what stays as it is in an address


class NoAnswer(Exception):
    """There is no whole answer: the problem, and what to say of it, without the address."""

    def __init__(self, problem: Problem, said: str) -> None:
        super().__init__(said)
        self.problem = problem


class Received(NamedTuple):
    """An answer. ``flaw`` says why its body is not whole; the body of a redirect is not read."""

    status: int
    headers: Message
    body: bytes
    flaw: NoAnswer | None


class Deadline:
    """A time after which all connections are cut, whatever the other side is doing.

    Looking up the name of a host takes the time that it takes; and where it has several addresses, as many times may
    pass until none of them is found to answer.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.is_over = False
        self._at = time.monotonic() + seconds
        self._held: list[socket.socket] = []
        self._done = Event()
        self._watch = Thread(target=self._cut, name="deadline", daemon=True)

    def __enter__(self) -> Self:
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._watch.join()
        for each in self._held:
            each.close()

    def left(self) -> float:
        """Seconds; never nothing, since that would mean without end."""
        return max(self._at - time.monotonic(), 0.01)

    def hold(self, connection: socket.socket) -> None:
        """Cut this one too. A handle of our own: its number cannot come to stand for something else meanwhile."""
        self._held.append(connection.dup())

    def _cut(self) -> None:
        while not self._done.wait(self.left()):
            self.is_over = True
            for each in self._held:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)


class _Lines(io.BufferedReader):
    """Each line that is read has to have its end: else half a head would pass for a whole one."""

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        if not line.endswith(b"\n") and len(line) != size:
            raise IncompleteRead(line)
        return line


class _Answer(HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **more: Any) -> None:
        super().__init__(sock, *args, **more)
        self.fp = _Lines(self.fp.detach())

    def _read_status(self) -> tuple[str, int, str]:
        # The library passes over 100 alone, and over any number of them.
        for _ in range(MAX_EARLY + 1):
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if status == 101 or not 100 <= status < 200:
                return version, status, reason
            parse_headers(self.fp)
        raise HTTPException("no answer that counts")


def exchange(
    address: Address,
    method: str,
    url: str,
    headers: Mapping[str, str],
    *,
    body: bytes | None,
    deadline: Deadline,
    only_head: bool = False,
) -> Received:
    """Send a request, whose headers are ASCII, and return what came of it. Raises ``NoAnswer`` when nothing did.

    With ``only_head`` the body of the answer is not read.
    """
    with closing(_connected(address, deadline)) as connection:
        try:
            connection.request(method, _target(url), body, {"Host": address.named, **headers})
            answer = connection.getresponse()
        except (OSError, HTTPException) as error:
            raise _no_answer(address, deadline, error) from None
        with answer:
            is_read = not only_head and answer.status not in REDIRECTS
            received, flaw = _read(answer, address, deadline) if is_read else (b"", None)
            return Received(answer.status, answer.headers, received, flaw)


def _connected(address: Address, deadline: Deadline) -> HTTPConnection:
    connection = HTTPConnection(address.host.strip("[]"), address.port, timeout=deadline.left())
    connection.response_class = _Answer
    try:
        connection.connect()
        deadline.hold(connection.sock)
        if address.scheme == "https":
            connection.sock = _tls().wrap_socket(connection.sock, server_hostname=address.host.strip("[]"))
    except (OSError, UnicodeError) as error:
        connection.close()
        raise _not_connected(address, deadline, error) from None
    return connection


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=DEFAULT_CA_BUNDLE_PATH)


def _not_connected(address: Address, deadline: Deadline, error: OSError | UnicodeError) -> NoAnswer:
    if deadline.is_over or isinstance(error, TimeoutError):
        return _too_late(address, deadline)
    if isinstance(error, ssl.SSLCertVerificationError):
        return NoAnswer("tls", f"{address.named} cannot be trusted: {error.verify_message}.")
    if isinstance(error, ssl.SSLError):
        return NoAnswer("tls", f"{address.named} does not speak TLS as it should: {error.reason or 'it broke off'}.")
    why = error.strerror if isinstance(error, OSError) else "its name cannot be looked up"
    return NoAnswer("unreachable", f"{address.named} cannot be reached: {why or 'no connection'}.")


def _no_answer(address: Address, deadline: Deadline, error: OSError | HTTPException) -> NoAnswer:
    if deadline.is_over or isinstance(error, TimeoutError):
        return _too_late(address, deadline)
    is_gone = isinstance(error, OSError | IncompleteRead)
    said = "closed the connection without an answer" if is_gone else "gave an answer that is no HTTP"
    return NoAnswer("unreadable", f"{address.named} {said}.")


def _too_late(address: Address, deadline: Deadline) -> NoAnswer:
    return NoAnswer("timeout", f"{address.named} gave no whole answer in {deadline.seconds:g} seconds.")


def _target(url: str) -> str:
    parts = urlsplit(url)
    return quote(parts.path or "/", safe=_SAFE) + (f"?{quote(parts.query, safe=_SAFE)}" if parts.query else "")


def _read(answer: HTTPResponse, address: Address, deadline: Deadline) -> tuple[bytes, NoAnswer | None]:
    """Return what there is of the body, and why that is not all of it."""
    if answer.headers.defects:
        return b"", NoAnswer("unreadable", f"{address.named} gave an answer that is no HTTP.")
    broken = NoAnswer("unreadable", f"The answer of {address.named} broke off.")
    encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip", "deflate"):
        return b"", NoAnswer("unreadable", f"The answer of {address.named} has an encoding that was not asked for.")
    unpacked = zlib.decompressobj(wbits=47) if encoding != "identity" else None  # 47: gzip or zlib, by its head
    body, came = bytearray(), 0
    try:
        while len(body) <= MAX_ANSWER and not (unpacked and unpacked.eof) and (chunk := answer.read1(_CHUNK)):
            came += len(chunk)
            body += unpacked.decompress(chunk, MAX_ANSWER + 1 - len(body)) if unpacked else chunk
    except (OSError, HTTPException, zlib.error) as error:
        is_late = deadline.is_over or isinstance(error, TimeoutError)
        return bytes(body), _too_late(address, deadline) if is_late else broken
    if len(body) > MAX_ANSWER:
        too_large = f"The answer of {address.named} has more than {MAX_ANSWER:,} bytes."
        return bytes(body[:MAX_ANSWER]), NoAnswer("too_large", too_large)
    if deadline.is_over:
        return bytes(body), _too_late(address, deadline)
    is_whole = not answer.length and (not unpacked or came == 0 or (unpacked.eof and not unpacked.unused_data))
    return bytes(body), None if is_whole else broken
