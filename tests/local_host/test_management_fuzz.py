"""The management API of a real host, over HTTP, asked for whatever hypothesis thinks of."""

import json
import logging
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from durabletask.internal import orchestrator_service_pb2 as pb
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from local_host.testing import AppControl, running_app

APP = Path(__file__).parent / "apps" / "durable"
PREFIX = "/runtime/webhooks/durabletask"
ODD_IDS = ["plain", "a/b", "a b", "a+b", "%41", ".", "..", "ж🎉", "\x00", "a\nb", "?#", "x" * 1000, '"', "{eventName}"]
ODD_KEYS = ["k", "a/b", "a@b", "@", "$", "\x00", "ж", ".."]
SENT_AT_ONCE = 64 * 1024
"""Bytes of a body from which on the host may answer and close while a client still sends: it then sees a reset."""
GIVES_AWAY = re.compile(r'Traceback|File "|\.py\b|site-packages|local_host|\b\w+(Error|Exception)\b')


class Errors(logging.Handler):
    """Collects what is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(self.format(record))


@dataclass(frozen=True)
class Target:
    """A host with odd instances and entities, and what it logs as an error."""

    app: AppControl
    errors: Errors

    def ask(self, method: str, target: str, headers: list[tuple[bytes, bytes]], body: bytes) -> tuple[Any, bytes]:
        """Send a request that is well-formed HTTP, and give the answer."""
        address = urlsplit(self.app.url)
        fixed = [(b"Host", address.netloc.encode()), (b"Connection", b"close")]
        fixed += [(b"Content-Length", str(len(body)).encode())] if body else []
        lines = [name + b": " + value for name, value in fixed + headers]
        with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
            head = b"\r\n".join([f"{method} {target} HTTP/1.1".encode(), *lines, b"", b""])
            connection.sendall(head + body)
            with HTTPResponse(connection, method=method) as response:
                response.begin()
                return response, response.read()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """The host, with instances that run, have ended and have failed under odd ids, and entities with odd keys."""
    errors = Errors()
    loggers = [
        logging.getLogger(name) for name in ("local_host.management", "local_host.task_hub", "uvicorn", "asyncio")
    ]
    for logger in loggers:
        logger.addHandler(errors)
    with running_app(APP, tmp_path_factory.mktemp("data")) as app:
        for number, odd in enumerate(ODD_IDS):
            app.start(("gate", "native", "raises")[number % 3], ["\ud800", 1.5, None, odd], odd)
        for depth in range(9_990, 10_002, 2):
            _start_raw(app, f"deep-{depth}", "[" * depth + "]" * depth)
        _start_raw(app, "no-json", "{")
        _start_raw(app, "huge", "1" * 10_000)
        for key in ODD_KEYS:
            signal = pb.SignalEntityRequest(instanceId=f"@counter@{key}", name="reset", requestId=key)
            app.client._stub.SignalEntity(signal)
        app.settle()
        yield Target(app, errors)
    for logger in loggers:
        logger.removeHandler(errors)


def _start_raw(app: AppControl, instance_id: str, text: str) -> None:
    request = pb.CreateInstanceRequest(instanceId=instance_id, name="gate")
    request.input.value = text
    app.client._stub.StartInstance(request)


def encoded(text: str) -> str:
    return quote(text.encode(errors="surrogatepass"), safe="")


anything = st.text(max_size=20) | st.text(min_size=200, max_size=300)
raw_pieces = st.sampled_from(["%", "%zz", "%ff%fe", "%00", "%ED%A0%80", "%2F", "%252F", "+", "%u0041", ".", "..", ""])
segments = (
    st.sampled_from([encoded(name) for name in (*ODD_IDS, *ODD_KEYS, "@counter@k", "deep-9998", "new")])
    | raw_pieces
    | anything.map(encoded)
)
functions = st.sampled_from(["native", "GATE", "raises", "call"])
entities = st.sampled_from(["counter", "Account", "nope"])
parts = {"{id}": segments, "{event}": st.just("one") | segments, "{function}": functions, "{entity}": entities}

times = st.sampled_from(
    [
        "2000-01-01",
        "1-01-01T00:00:00Z",
        "9999-12-31T23:59:59.9999999Z",
        "0001-01-01T00:00:00+14:00",
        "2024-W01-1",
        "now",
    ]
)
seconds = st.sampled_from(["0", "0.01", "0.05", "-1", "nan", "inf", "1e400", "x", "", "0x1", "1_0e-3"])
flags = st.sampled_from(["true", "FALSE", " True ", "1", "", "true,true"])
numbers = st.integers().map(str) | st.sampled_from(["9" * 5000, "1e3", "0", "-0", "2147483647", "2147483648"])
statuses = st.sampled_from(["Running", "Completed,Failed", "completed", "Canceled, Terminated", "1", ","])
values: dict[str, st.SearchStrategy[str]] = {
    **dict.fromkeys(("showInput", "showHistory", "showHistoryOutput", "returnInternalServerErrorOnFailure"), flags),
    **dict.fromkeys(("fetchState", "restartWithNewInstanceId"), flags),
    **dict.fromkeys(("createdTimeFrom", "createdTimeTo", "lastOperationTimeFrom", "lastOperationTimeTo"), times),
    **dict.fromkeys(("timeout", "pollingInterval"), seconds),
    "top": numbers,
    "runtimeStatus": statuses,
    **dict.fromkeys(("instanceIdPrefix", "reason", "op", "taskHub", "version", "connection", "code"), st.just("")),
}
LIST = ("createdTimeFrom", "createdTimeTo", "runtimeStatus", "instanceIdPrefix", "top", "showInput")
STATUS = ("showInput", "showHistory", "showHistoryOutput", "returnInternalServerErrorOnFailure")
ENTITIES = ("lastOperationTimeFrom", "lastOperationTimeTo", "fetchState", "top")
WAIT = ("timeout", "pollingInterval", "version", "returnInternalServerErrorOnFailure")
ROUTES: list[tuple[str, str, tuple[str, ...]]] = [
    ("GET", "instances", LIST),
    ("GET", "instances/{id}", STATUS),
    ("DELETE", "instances/{id}", ()),
    ("DELETE", "instances", LIST),
    *(("POST", f"instances/{{id}}/{name}", ("reason",)) for name in ("terminate", "suspend", "RESUME", "rewind")),
    ("POST", "instances/{id}/restart", ("restartWithNewInstanceId", *WAIT)),
    ("POST", "instances/{id}/raiseEvent/{event}", ()),
    ("POST", "orchestrators/{function}", WAIT),
    ("POST", "orchestrators/{function}/{id}", WAIT),
    ("GET", "entities", ENTITIES),
    ("GET", "entities/{entity}", ENTITIES),
    ("GET", "entities/{entity}/{id}", ()),
    ("POST", "entities/{entity}/{id}", ("op",)),
    ("DELETE", "entities/{entity}/{id}", ()),
]


@st.composite
def targets(draw: st.DrawFn) -> tuple[str, str]:
    """A method, and a path with its query: mostly of a route, with what it reads."""
    method, template, names = draw(st.sampled_from(ROUTES))
    path = "/".join([draw(parts[part]) if part in parts else part for part in template.split("/")])
    if draw(st.integers(0, 4)) == 0:
        method = draw(st.sampled_from(["GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS"]))
    if draw(st.integers(0, 4)) == 0:
        path, names = "/".join(draw(st.lists(segments, max_size=6))), tuple(values)
    query = draw(st.lists(parameters(names or ("taskHub",)), max_size=4))
    return method, f"{PREFIX}/{path}{'?' if query else ''}{'&'.join(query)}"


@st.composite
def parameters(draw: st.DrawFn, names: tuple[str, ...]) -> str:
    """One parameter of a query."""
    name = draw(st.sampled_from(names))
    # A long wait would only be waited for.
    value = draw(values[name] if values[name] is seconds else values[name] | anything)
    plain = f"{draw(st.sampled_from([name, name.upper()]))}={encoded(value)}"
    return draw(st.sampled_from([plain] * 8) | raw_pieces | anything.map(encoded))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=15,
).map(lambda value: json.dumps(value).encode())
# Pieces and how often each comes, since hypothesis prints what fails.
bodies: st.SearchStrategy[list[tuple[bytes, int]]] = st.one_of(
    st.just(list[tuple[bytes, int]]()),
    (json_values | st.binary(max_size=50)).map(lambda body: [(body, 1)]),
    st.integers(1, 20_000).map(lambda depth: [(b"[", depth), (b"]", depth)]),
    st.sampled_from([b'"\\ud800"', b'"\xed\xa0\x80"', b"\xef\xbb\xbf", b"NaN", b"1e999", b" ", b'"\x00"']).map(
        lambda body: [(body, 1)]
    ),
    st.sampled_from([[(b"1", 5000)], [(b'"', 1), (b"x", 1024 * 1024), (b'"', 1)]]),
)

header_bytes = st.binary(max_size=30).map(lambda raw: re.sub(rb"[\x00-\x1f\x7f]", b"", raw))
content_types = st.sampled_from(
    [
        b"application/json",
        b"APPLICATION/JSON; charset=utf-16",
        b"text/plain; charset=rot13",
        b"application/json;charset",
    ]
)
tokens = st.sampled_from([b"MQ==", b"WyJpbnN0YW5jZXMiLCAiMSJd", b"WyJpbnN0YW5jZXMiLCAiXHVkODAwIl0=", b"W1tbW1tb"])
headers = st.lists(
    st.one_of(
        st.tuples(st.just(b"Content-Type"), content_types | header_bytes),
        st.tuples(st.just(b"x-ms-continuation-token"), tokens | header_bytes),
        st.tuples(
            st.sampled_from([b"traceparent", b"tracestate", b"Sec-Fetch-Site", b"X-Forwarded-Host"]), header_bytes
        ),
    ),
    max_size=3,
) | st.just([(b"Content-Type", b"application/json")])


@settings(max_examples=250, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(targets(), headers, bodies)
@example(("GET", f"{PREFIX}/instances/deep-9998"), [], [])
@example(("GET", f"{PREFIX}/instances?top=2147483647"), [], [])
@example(("GET", f"{PREFIX}/instances?top=2147483648"), [], [])
@example(("GET", f"{PREFIX}/instances/plain?showHistory=true&showHistoryOutput=true"), [], [])
@example(("GET", f"{PREFIX}/instances"), [(b"x-ms-continuation-token", b"WyJpbnN0YW5jZXMiLCAiXHVkODAwIl0=")], [])
def test_whatever_is_asked_is_answered_and_gives_nothing_away(
    target: Target, asked: tuple[str, str], headers: list[tuple[bytes, bytes]], body: list[tuple[bytes, int]]
) -> None:
    method, path = asked
    whole = b"".join(piece * times for piece, times in body)
    try:
        response, answer = target.ask(method, path, headers, whole)
    except ConnectionError:
        assert len(whole) > SENT_AT_ONCE
    else:
        check(method, path, response, answer)
    assert target.errors.seen == []

    started, _ = target.ask("POST", f"{PREFIX}/orchestrators/native/still-there", [], b"1")
    assert started.status in (202, 409)
    status, shown = target.ask("GET", f"{PREFIX}/instances/still-there", [], b"")
    assert status.status in (200, 202)
    assert json.loads(shown)["input"] == 1


def check(method: str, path: str, response: Any, answer: bytes) -> None:
    """Check what holds of every answer."""
    if response.status == 500:
        assert "RETURNINTERNALSERVERERRORONFAILURE=" in path.upper()
        assert json.loads(answer)["runtimeStatus"] == "Failed"
    else:
        assert response.status < 500
    if method == "HEAD":
        assert answer == b""
    if answer:
        assert response.headers["content-type"] == "application/json; charset=utf-8"
        json.loads(answer.decode("ascii"), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    if 400 <= response.status < 500:
        assert not GIVES_AWAY.search(answer.decode())
