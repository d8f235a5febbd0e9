"""HTTP on one connection, with limits to what a client may send and how slowly.

The limits in time are those of Kestrel, which the real host runs on (Microsoft, "Configure options for the ASP.NET Core
Kestrel web server": request headers timeout, minimum request body data rate); those in size are ours.
"""

import asyncio
import re
from dataclasses import dataclass

import httptools
from starlette.responses import PlainTextResponse
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

_ABSOLUTE = re.compile(rb"([a-z][a-z0-9+.-]*)://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Limits:
    """What a client may send: bytes of request line and headers, and how many headers.

    A head that is not there within ``seconds`` ends the connection, and so does a body that brings less than
    ``body_rate`` bytes a second for as long.
    """

    head: int = 64 * 1024
    headers: int = 200
    seconds: float = 30
    body_rate: int = 240


class Protocol(HttpToolsProtocol):
    """uvicorn's fast protocol, with limits, and with answers that keep their order whatever a client sends.

    What uvicorn leaves open: it bounds neither headers nor the time that they take; it answers what is malformed
    before the requests that came before it; after an ``Upgrade`` that it does not do, it drops the body and goes deaf;
    and it takes trailers for headers.
    """

    limits = Limits()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._part = "idle"  # "head" or "body" within a request
        self._head_size = 0
        self._unused = 0  # bytes since there was last a step forward: the whole head, or some of the body
        self._received = 0  # bytes since the timer was set
        self._unread = 0
        self._replaying = False
        self._refused = False
        self._status = 400
        self._timer: asyncio.TimerHandle | None = None
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watching()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._unset_keepalive_if_required()
        self._unused += len(data)
        self._received += len(data)
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self._refuse(
                "The request is malformed." if self._status == 400 else "The head of the request is too large."
            )
        if self._unused > self.limits.head and not self._refused:
            self._status = 431
            self._refuse("The head of the request is too large.")
        self._watch()

    def _parse(self, data: bytes) -> None:
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                # To the parser, the rest is of another protocol. We stay with HTTP, as a server may: a new parser is
                # told what there is to tell of the body that follows.
                data = self._head_of_body() + data[upgrade.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                self._replaying = True
            else:
                return

    def _head_of_body(self) -> bytes:
        framing = (b"content-length", b"transfer-encoding")
        return b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(
            b"%b: %b\r\n" % header for header in self.headers if header[0] in framing
        )

    # What the parser tells

    def on_message_begin(self) -> None:
        if not self._replaying:
            self._part, self._head_size, self._unused = "head", 0, 0
            super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self._replaying:
            super().on_url(url)
            self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._part == "head" and not self._replaying:  # else it is a trailer
            super().on_header(name, value)
            self._count(len(name) + len(value) + len(": \r\n"))

    def on_headers_complete(self) -> None:
        if not self._replaying:
            self._unused = 0
            if self.parser.get_http_version() not in ("1.0", "1.1"):
                raise ValueError("another version of HTTP")
            self._take_apart_absolute_target()
            super().on_headers_complete()
            self._part = "body"
        self._replaying = False

    def on_body(self, body: bytes) -> None:
        self._unused = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():  # else there is more to come
            self._part, self._unused = "idle", 0
            super().on_message_complete()

    def on_response_complete(self) -> None:
        if self._part == "body" and self.expect_100_continue and self.cycle.response_complete:
            self.transport.close()  # the client may have kept its body, and the next request would be taken for it
        super().on_response_complete()

    def _count(self, size: int) -> None:
        self._head_size += size
        if self._head_size > self.limits.head or len(self.headers) > self.limits.headers:
            self._status = 431
            raise ValueError("too large")

    def _take_apart_absolute_target(self) -> None:
        found = _ABSOLUTE.fullmatch(self.url)
        if found is not None:
            host = next((value for name, value in self.headers if name == b"host"), b"")
            if found[1].lower() not in (b"http", b"https") or found[2].lower() != host.lower():
                raise ValueError("the target is of another host")
            self.url = found[3] if found[3].startswith(b"/") else b"/" + found[3]

    # What goes wrong

    def _refuse(self, text: str) -> None:
        """Answer what cannot be taken when all that came before it is answered, and close the connection."""
        self._refused = True
        answer = PlainTextResponse(text, self._status)
        if self._part != "body":
            self._enqueue(answer)
        elif self.cycle.response_started:
            self.transport.close()
        elif self.pipeline and self.pipeline[0][0] is self.cycle:
            self.cycle.keep_alive = False
            self.pipeline[0] = (self.cycle, answer)  # type: ignore[assignment]
        else:
            # The app waits for the rest of the body, and is told that the client has gone.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            self._enqueue(answer, at_once=True)

    def _enqueue(self, answer: PlainTextResponse, *, at_once: bool = False) -> None:
        before, app = self.cycle, answer
        self.cycle = RequestResponseCycle(
            scope={"type": "http", "method": "GET"},  # type: ignore[typeddict-item]  # all that the answer looks at
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=False,
            on_response=self.on_response_complete,
        )
        if at_once or before is None or before.response_complete:
            self._start_asgi_task(self.cycle, app)  # type: ignore[arg-type]
        else:
            self.pipeline.appendleft((self.cycle, app))  # type: ignore[arg-type]

    # What takes too long

    def _watch(self) -> None:
        waits = self.timeout_keep_alive_task is not None or self._is_answering
        if self.transport.is_closing() or self._refused or (self._part == "idle" and waits):
            self._stop_watching()
        elif self._timer is None:
            self._received = 0
            self._timer = self.loop.call_later(self.limits.seconds, self._look)

    def _stop_watching(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _look(self) -> None:
        self._timer = None
        if self._part == "body":
            slow = self._received < self.limits.body_rate * self.limits.seconds and not self.flow.read_paused
        else:
            slow = not self._is_answering  # as long as it waits for an answer, it may take its time for what is next
        if not slow:
            self._watch()
        elif self._part == "head":
            self._status = 408
            self._refuse("The request took too long to come.")
        else:
            self.transport.close()

    def timeout_keep_alive_handler(self) -> None:
        unread = self.transport.get_write_buffer_size()
        if unread == 0:
            super().timeout_keep_alive_handler()
        elif unread == self._unread:
            self.transport.abort()  # closing would wait for it to be read
        else:
            self._unread = unread
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
