"""Calls to outside APIs: one attempt against a real server that does whatever it likes."""

import gzip
import json
import logging
import socket
import ssl
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from contracts.guarded_call import MAX_ERROR, Answer, Attempt, HttpCall, SimulatedCall
from services import clock, http_exchange
from services.api_call import MAX_LEVELS, MAX_REDIRECTS, check_call, make
from services.http_exchange import MAX_ANSWER, MAX_EARLY
from settings import get_settings
from tests import failing_server as failing
from tests.failing_server import FailingServer, Reply, failing_server, nobody_there
from tests.polling import until

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY = "8d5cf3a4-key~1"


@pytest.fixture
def allow(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Names the hosts that may be called."""

    def sets(hosts: str) -> None:
        monkeypatch.setenv("CALL_HOSTS", hosts)
        get_settings.cache_clear()

    return sets


@pytest.fixture
def server(allow: Callable[[str], None]) -> Iterator[FailingServer]:
    """A server that may be called."""
    with failing_server() as serving:
        allow(serving.host)
        yield serving


def attempt(url: str, **said: Any) -> Answer:
    """Make one attempt, with a GET unless something else is said."""
    return made({"kind": "http", "method": "GET", "url": url} | said)


def made(call: dict[str, Any], number: int = 1) -> Answer:
    """Make one attempt, and see that what comes of it can travel."""
    answer = make(Attempt.model_validate({"call": {"kind": "simulated", **call}, "number": number, "key": KEY}))
    plain = json.dumps(answer.plain(), ensure_ascii=False, allow_nan=False).encode()
    assert Answer.model_validate(json.loads(plain)) == answer
    assert (answer.problem is None) == (answer.message == "") == (answer.fingerprint is None)
    return answer


def answer_to(server: FailingServer, *replies: Reply, **said: Any) -> Answer:
    """Make one attempt that is answered so."""
    server.answers("/", replies)
    return attempt(server.url("/"), **said)


def problem_of(answer: Answer) -> tuple[str | None, int | None]:
    """What is asked of most answers."""
    return answer.problem, answer.status


# What goes out


def test_a_call_goes_out_as_it_was_asked_for(server: FailingServer) -> None:
    server.answers("/pay", [Reply(201, b'{"id": 7}')])
    body = {"amount": 5, "to": "Jörg"}
    answer = attempt(server.url("/pay?a=1&b=%20c"), method="POST", body=body, headers={"X-Tenant": "t 1"})
    assert (answer.problem, answer.status, answer.result) == (None, 201, {"id": 7})
    [got] = server.requests
    assert (got.method, got.path, json.loads(got.body)) == ("POST", "/pay?a=1&b=%20c", body)
    assert sorted(got.headers.items()) == [
        ("Accept", "application/json"),
        ("Accept-Encoding", "identity"),
        ("Content-Length", str(len(got.body))),
        ("Content-Type", "application/json"),
        ("Host", server.host),
        ("Idempotency-Key", KEY),
        ("User-Agent", "Countersign"),
        ("X-Tenant", "t 1"),
    ]


def test_the_headers_of_a_call_come_before_ours_in_any_case(server: FailingServer) -> None:
    headers = {"content-TYPE": "application/merge-patch+json", "user-agent": "Me", "ACCEPT": "text/plain"}
    answer_to(server, Reply(204), method="PATCH", body=[1], headers=headers)
    [got] = server.requests
    for name, value in headers.items():
        assert got.headers.get_all(name) == [value]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_without_a_body_none_is_sent(server: FailingServer, method: str) -> None:
    assert answer_to(server, Reply(204), method=method).problem is None
    [got] = server.requests
    assert (got.method, got.body, got.headers["Content-Type"]) == (method, b"", None)
    assert got.headers.get("Content-Length", "0") == "0"


@pytest.mark.parametrize("body", [0, False, "", [], {}])
def test_a_body_that_is_empty_is_one(server: FailingServer, body: Any) -> None:
    answer_to(server, Reply(204), method="PUT", body=body)
    assert json.loads(server.requests[0].body) == body


def test_an_address_is_sent_as_http_takes_it(server: FailingServer) -> None:
    server.answers("/a%7B%22%7Db%2Fc", [Reply(204)])
    assert attempt(server.url('/a{"}b%2Fc?q=<x>|y#token=1')).problem is None
    assert server.requests[0].path == "/a%7B%22%7Db%2Fc?q=%3Cx%3E%7Cy"
    assert answer_to(server, Reply(204)).problem is None
    server.answers("/", [Reply(204)])
    assert attempt(server.url("")).problem is None
    assert attempt(server.url("?a=1")).problem is None
    assert [got.path for got in server.requests[2:]] == ["/", "/?a=1"]


def test_proxies_and_passwords_of_the_machine_are_not_used(
    server: FailingServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password hush\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with failing_server() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url())
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        assert answer_to(server, Reply(204)).problem is None
        assert proxy.requests == []
    assert server.requests[0].headers["Authorization"] is None


def test_cookies_are_not_kept(server: FailingServer) -> None:
    answer_to(server, Reply(204, headers={"Set-Cookie": "a=1"}))
    answer_to(server, Reply(204))
    assert server.requests[1].headers["Cookie"] is None


@pytest.mark.parametrize("reply", [failing.hang(), failing.drip(pause=10), failing.drip_head(pause=10)])
def test_the_server_of_these_tests_closes_at_once_and_leaves_no_thread(
    allow: Callable[[str], None], reply: Reply
) -> None:
    before = set(threading.enumerate())
    with failing_server() as server, socket.create_connection(server.host.split(":")) as idle:  # type: ignore[arg-type]
        idle.sendall(b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nhalf")
        allow(server.host)
        answer = answer_to(server, reply, timeout=0.2)
        began = time.monotonic()
    assert time.monotonic() - began < 2
    assert answer.problem == "timeout"
    assert set(threading.enumerate()) <= before


# What comes back


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("kind", "body", "result"),
    [
        ("application/json", b'{"a": [1, 2.5, null, "\xc3\xa4"]}', {"a": [1, 2.5, None, "ä"]}),
        ("application/json; charset=utf-8", b"\xef\xbb\xbf[]", []),
        ("Application/Problem+JSON", b"1", 1),
        ("text/json", b'"x"', "x"),
        ("application/json", b"null", None),
        ("application/json", b"", None),
        ("application/json", b'"\\ud83d\\ude00"', "😀"),
        ("application/json", b'{"\\ud83d": "a\\udc00b\\ud83d"}', {"\ufffd": "a\ufffdb\ufffd"}),
        ("application/json", b'"\xed\xa0\xbd"', "\ufffd"),
        ("application/json", str(10**4000).encode(), 10**4000),
        ("application/json", b"[" * MAX_LEVELS + b"]" * MAX_LEVELS, ...),
        ("text/plain", b'{"a": 1}', '{"a": 1}'),
        ("text/html; charset=iso-8859-1", b"J\xf6rg", "Jörg"),
        ("text/plain; charset=UTF-16", "Jörg".encode("utf-16"), "Jörg"),
        ("text/plain", b"J\xf6rg\x00\x1b[0m\r\n\tx", "J\ufffdrg[0m\r\n\tx"),
        ("text/plain; charset=zlib", b"x", "x"),
        ("text/plain; charset=utf-7", b"+2D0-", "+2D0-"),
        ("text/plain; charset*=x'y'%ff", b"x", "x"),
        ("nonsense", b"x", "x"),
        ("application/octet-stream", b"\xff", "\ufffd"),
    ],
)
def test_answers_that_work(server: FailingServer, kind: str, body: bytes, result: Any) -> None:
    answer = answer_to(server, Reply(200, body, {"Content-Type": kind}))
    assert problem_of(answer) == (None, 200)
    assert result is ... or answer.result == result


@pytest.mark.parametrize("status", [200, 201, 202, 204, 206, 299])
def test_any_status_of_success_is_one(server: FailingServer, status: int) -> None:
    answer = answer_to(server, Reply(status))
    assert (answer.problem, answer.status, answer.result) == (None, status, None)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b'{"a": 1',
        b"{'a': 1}",
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"1e999",
        b'"\xff"',
        b"1" * 5000,
        b"[" * (MAX_LEVELS + 1) + b"]" * (MAX_LEVELS + 1),
        b"[" * 30_000 + b"]" * 30_000,
        b'{"a":' * 10_000,
        b'{"a": 1} {"b": 2}',
    ],
)
def test_json_that_is_none_is_unreadable(server: FailingServer, body: bytes) -> None:
    answer = answer_to(server, Reply(200, body, JSON))
    assert problem_of(answer) == ("unreadable", 200)
    assert answer.message == f"{server.host} answers with what is no JSON."


@pytest.mark.parametrize(
    "reply",
    [
        failing.half_a_body(),
        failing.broken_chunk(),
        Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\nhalf"),
        Reply(raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n1"),
        Reply(raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"),
        Reply(raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-4\r\nhalf\r\n"),
        Reply(200, gzip.compress(b"half")[:-5], {"Content-Encoding": "gzip", "Content-Type": "text/plain"}),
        Reply(200, gzip.compress(b"one") + b"two", {"Content-Encoding": "gzip", "Content-Type": "text/plain"}),
        Reply(200, b"no gzip", {"Content-Encoding": "gzip", "Content-Type": "text/plain"}),
    ],
)
def test_half_an_answer_is_unreadable(server: FailingServer, reply: Reply) -> None:
    answer = answer_to(server, reply)
    assert problem_of(answer) == ("unreadable", 200)
    assert answer.message == f"The answer of {server.host} broke off."


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip"])
def test_an_encoding_that_was_not_asked_for_is_unreadable(server: FailingServer, encoding: str) -> None:
    answer = answer_to(server, Reply(200, b"x", {"Content-Encoding": encoding}))
    assert problem_of(answer) == ("unreadable", 200)
    assert answer.message == f"The answer of {server.host} has an encoding that was not asked for."


@pytest.mark.parametrize("encoding", ["gzip", "X-GZIP", "deflate"])
def test_what_is_packed_is_unpacked(server: FailingServer, encoding: str) -> None:
    packed = (zlib if encoding == "deflate" else gzip).compress(b'{"a": 1}')
    assert answer_to(server, Reply(200, packed, {"Content-Encoding": encoding, **JSON})).result == {"a": 1}
    assert answer_to(server, Reply(200, b"", {"Content-Encoding": encoding, **JSON})).result is None


@pytest.mark.parametrize("reply", [failing.no_http(), Reply(raw=b"HTTP/1.1 abc\r\n\r\n"), Reply(raw=b"x" * 70_000)])
def test_what_is_no_http_is_unreadable(server: FailingServer, reply: Reply) -> None:
    answer = answer_to(server, reply)
    assert problem_of(answer) == ("unreadable", None)
    assert answer.message == f"{server.host} gave an answer that is no HTTP."


@pytest.mark.parametrize("status", [200, 500])
def test_of_an_answer_with_a_head_that_is_wrong_only_the_status_is_known(server: FailingServer, status: int) -> None:
    raw = f"HTTP/1.1 {status} X\r\nno header\r\nContent-Length: 9\r\n\r\nhalf"
    answer = answer_to(server, Reply(raw=raw.encode()))
    assert problem_of(answer) == ("unreadable" if status == 200 else "status", status)
    assert "half" not in answer.message


@pytest.mark.parametrize(
    "reply",
    [
        failing.dropped(),
        Reply(raw=b"HTTP/1.1 200"),
        Reply(raw=b"HTTP/1.1 200 OK\r\n"),
        Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 1"),
        Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n"),
    ],
)
def test_a_connection_that_is_closed_without_an_answer_is_unreadable(server: FailingServer, reply: Reply) -> None:
    assert problem_of(answer_to(server, reply)) == ("unreadable", None)


def test_nobody_there_is_unreachable(allow: Callable[[str], None]) -> None:
    with nobody_there() as host:
        allow(host)
        answer = attempt(f"http://{host}/x?token=hush-hush")
    assert problem_of(answer) == ("unreachable", None)
    assert answer.message == f"{host} cannot be reached: Connection refused."


@pytest.mark.parametrize("host", ["nobody.invalid", "a..b", "x" * 64 + ".example.com"])
def test_a_name_that_is_not_known_is_unreachable(allow: Callable[[str], None], host: str) -> None:
    allow(host)
    answer = attempt(f"https://{host}/x?token=hush-hush", timeout=20)
    assert problem_of(answer) == ("unreachable", None)
    assert answer.message.startswith(f"{host} cannot be reached: ")
    assert "hush" not in answer.message


@pytest.fixture
def own_certificate(tmp_path: Path) -> ssl.SSLContext:
    """TLS for 127.0.0.1 with a certificate that nobody knows."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    today = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, today - timedelta(1), today + timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    form = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "key").write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    (tmp_path / "certificate").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate", tmp_path / "key")
    return context


def test_a_certificate_that_is_not_trusted_gets_nothing(
    allow: Callable[[str], None], own_certificate: ssl.SSLContext
) -> None:
    with failing_server(own_certificate) as server:
        allow(server.host)
        answer = answer_to(server, Reply(200))
        assert problem_of(answer) == ("tls", None)
        assert answer.message == f"{server.host} cannot be trusted: self-signed certificate."
        assert server.requests == []


def test_over_tls_all_is_as_without(
    allow: Callable[[str], None], own_certificate: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(http_exchange, "DEFAULT_CA_BUNDLE_PATH", tmp_path / "certificate")
    http_exchange._tls.cache_clear()
    try:
        with failing_server(own_certificate) as server:
            allow(f"{server.host},{server.host.replace('127.0.0.1', 'localhost')}")
            assert answer_to(server, Reply(200, b"1"), method="POST", body={"a": 1}).result == 1
            assert server.requests[0].headers["Host"] == server.host
            assert answer_to(server, failing.half_a_body()).problem == "unreadable"
            assert answer_to(server, failing.dropped()).problem == "unreadable"
            for slow in (failing.hang(), failing.drip(), failing.drip_head()):
                assert answer_to(server, slow, timeout=0.4).problem == "timeout"
            answer = attempt(server.url().replace("127.0.0.1", "localhost"))
            assert problem_of(answer) == ("tls", None)
            assert "Hostname mismatch" in answer.message
    finally:
        http_exchange._tls.cache_clear()


def test_a_server_without_tls_gets_nothing_over_https(server: FailingServer) -> None:
    answer = attempt(server.url("/x?token=hush-hush").replace("http:", "https:"))
    assert problem_of(answer) == ("tls", None)
    assert server.requests == []


# Time and size


@pytest.mark.parametrize(
    "reply",
    [
        failing.hang(),
        failing.drip(),
        failing.drip_head(),
        Reply(pause=0.02, raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * 5000),
        Reply(pause=0.02, raw=b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n" + b"x" * 5000),
        Reply(pause=0.02, raw=b"HTTP/1.1 100 Continue\r\n\r\n" * 500),
    ],
    ids=["hangs", "drips", "drips its head", "drips a chunk", "drips without a length", "goes on with 100"],
)
def test_an_answer_that_takes_too_long_is_cut_off(server: FailingServer, reply: Reply) -> None:
    began = time.monotonic()
    answer = answer_to(server, reply, timeout=0.4)
    assert 0.3 < time.monotonic() - began < 5
    assert answer.problem == "timeout"
    assert answer.message == f"{server.host} gave no whole answer in 0.4 seconds."
    assert not [each for each in threading.enumerate() if each.name == "deadline"]


def test_a_handshake_that_takes_too_long_is_cut_off(allow: Callable[[str], None]) -> None:
    """Nothing is said to a client that waits for TLS."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        host = f"127.0.0.1:{listening.getsockname()[1]}"
        allow(host)
        answer = attempt(f"https://{host}/", timeout=0.3)
    assert problem_of(answer) == ("timeout", None)


def test_redirects_and_what_they_lead_to_have_one_time_together(server: FailingServer) -> None:
    began = time.monotonic()
    slow = Reply(raw=b"HTTP/1.1 302 F\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", pause=0.005)
    answer = answer_to(server, slow, timeout=0.5)
    assert time.monotonic() - began < 3
    assert answer.problem == "timeout"


def test_a_large_answer_is_taken_up_to_the_limit(server: FailingServer) -> None:
    assert answer_to(server, failing.big(MAX_ANSWER)).result == "x" * (MAX_ANSWER - 2)
    answer = answer_to(server, failing.big(MAX_ANSWER + 1))
    assert problem_of(answer) == ("too_large", 200)
    assert answer.message == f"The answer of {server.host} has more than 64,000 bytes."


@pytest.mark.parametrize("reply", [Reply(raw=failing.big().wire()), failing.gzip_bomb()], ids=["big", "bomb"])
def test_a_huge_answer_is_neither_read_nor_kept(server: FailingServer, reply: Reply) -> None:
    server.answers("/", [reply])
    tracemalloc.start()
    try:
        answer = attempt(server.url())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert problem_of(answer) == ("too_large", 200)
    assert peak < 1_500_000


def test_a_huge_answer_is_not_read_to_its_end(server: FailingServer) -> None:
    answer_to(server, failing.big())
    assert until(lambda: server.broken_off) == 1


def test_the_body_of_a_redirect_is_not_read(server: FailingServer) -> None:
    whole = Reply(302, b"x" * 1000, {"Location": "/"})
    dripping = replace(whole, pause=0.1, drips_from=len(whole.wire()) - 1000)
    assert answer_to(server, dripping, Reply(204), timeout=5).problem is None
    assert until(lambda: server.broken_off) == 1


# Statuses


@pytest.mark.parametrize("status", [101, 300, 304, 400, 404, 409, 418, 422, 429, 500, 503, 599, 999])
def test_any_other_status_is_a_problem(server: FailingServer, status: int) -> None:
    answer = answer_to(server, Reply(status))
    assert problem_of(answer) == ("status", status)
    assert answer.message == f"{server.host} answers {status}."


EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nContent-Length: 9\r\nRetry-After: 7\r\n\r\n"


@pytest.mark.parametrize(
    "early", [EARLY, b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 102 P\r\n\r\n" + EARLY, EARLY * MAX_EARLY]
)
def test_answers_that_come_before_the_one_that_counts_are_passed_over(server: FailingServer, early: bytes) -> None:
    answer = answer_to(server, Reply(raw=early + Reply(201, b'{"id": 7}').wire()))
    assert (answer.problem, answer.status, answer.result) == (None, 201, {"id": 7})
    answer = answer_to(server, Reply(raw=early + Reply(503).wire()))
    assert (answer.problem, answer.status, answer.retry_after) == ("status", 503, None)


@pytest.mark.parametrize("early", [EARLY, b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_answers_that_do_not_count_are_passed_over_only_so_often(server: FailingServer, early: bytes) -> None:
    answer = answer_to(server, Reply(raw=early * (MAX_EARLY + 1) + Reply(200).wire()))
    assert problem_of(answer) == ("unreadable", None)
    assert answer.message == f"{server.host} gave an answer that is no HTTP."


@pytest.mark.parametrize("early", [EARLY, EARLY[:-2], EARLY[:20]])
def test_an_answer_that_does_not_count_is_none(server: FailingServer, early: bytes) -> None:
    assert problem_of(answer_to(server, Reply(raw=early))) == ("unreadable", None)


def test_half_a_secret_where_an_answer_ends_too_soon_is_masked(server: FailingServer) -> None:
    headers = {"Authorization": 'Bearer s3cr3t/"t&ken"-and-more'}
    for reply in (
        Reply(401, b'{"got": "s3cr3t\\/\\"t&k', {"Content-Length": "1000"}),
        Reply(401, b'{"got": "' + b"\0" * (MAX_ANSWER - 17) + b's3cr3t/"t&ken"', {"Content-Length": "90000"}),
    ):
        answer = answer_to(server, reply, headers=headers)
        assert answer.message == f'{server.host} answers 401: {{"got": "***'
    answer = answer_to(server, Reply(401, b"no s3cr3t"), headers=headers)
    assert answer.message.endswith("no s3cr3t")


def test_a_status_comes_with_the_first_part_of_the_body(server: FailingServer) -> None:
    answer = answer_to(server, Reply(422, '{"error": "zu groß"}\r\n\x00\x1b[1m\u202e'.encode()))
    assert answer.message == f'{server.host} answers 422: {{"error": "zu groß"}} \n[1m'
    assert problem_of(answer_to(server, failing.big(status=500))) == ("status", 500)
    answer = answer_to(server, failing.big(status=500))
    assert len(answer.message) == MAX_ERROR
    assert answer.message.endswith("xx…")
    answer = answer_to(server, Reply(500, b"\xff\xfe {", {"Content-Type": "application/json"}))
    assert answer.message == f"{server.host} answers 500: \ufffd\ufffd {{"


@pytest.mark.parametrize("reply", [failing.half_a_body(503), failing.drip(status=503)])
def test_a_status_is_known_even_where_its_body_is_not(server: FailingServer, reply: Reply) -> None:
    answer = answer_to(server, reply, timeout=1.5)
    assert problem_of(answer) == ("status", 503)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("7", 7),
        ("0", 0),
        ("999999999", 999_999_999),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90),
        (format_datetime(NOW), 0),
        ("Sun, 01 Mar 2026 12:00:05 -0000", 5),
        ("Sun, 01 Mar 2026 14:00:05 +0200", 5),
        (format_datetime(NOW - timedelta(seconds=1), usegmt=True), None),
        ("-1", None),
        ("1.5", None),
        ("+1", None),
        ("\u0667", None),
        ("9" * 10, None),
        ("1e3", None),
        ("NaN", None),
        ("soon", None),
        ("Sun, 99 Mar 2026 12:00:00 GMT", None),
        ("Sun, 01 Mar 99999 12:00:00 GMT", None),
        ("Sun, 01 Mar 2026 12:00:00 +9999999", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(server: FailingServer, said: str, seconds: float | None) -> None:
    clock.set_clock(lambda: NOW)
    try:
        head = f"HTTP/1.1 429 Slow\r\nRetry-After: {said}\r\nContent-Length: 0\r\n\r\n"
        answer = answer_to(server, Reply(raw=head.encode()))
    finally:
        clock.set_clock(clock.system_clock)
    assert problem_of(answer) == ("status", 429)
    assert answer.retry_after == seconds


def test_retry_after_counts_for_any_answer_that_failed(server: FailingServer) -> None:
    after = {"Retry-After": "3"}
    for reply in (
        Reply(503, headers=after),
        Reply(200, b"{", {**JSON, **after}),
        Reply(200, b"x" * (MAX_ANSWER + 1), after),
        Reply(302, headers={"Location": "https://other.example.com/", **after}),
    ):
        assert answer_to(server, reply).retry_after == 3
    assert answer_to(server, Reply(200, headers=after)).retry_after is None
    assert answer_to(server, Reply(503)).retry_after is None


# Redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_get_is_redirected_on_the_same_host(server: FailingServer, status: int) -> None:
    server.answers("/b", [Reply(200, b"1")])
    for to in ("/b?x=1", server.url("/b?x=1"), "b?x=1", f"//{server.host}/b?x=1#there"):
        answer = answer_to(server, failing.redirect(to, status), headers={"X-Tenant": "t"})
        assert (answer.problem, answer.result) == (None, 1)
        got = server.requests[-1]
        assert (got.path, got.headers["X-Tenant"], got.headers["Idempotency-Key"]) == ("/b?x=1", "t", KEY)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_what_is_no_get_is_redirected_where_it_stays_what_it_is(
    server: FailingServer, method: str, status: int
) -> None:
    server.answers("/b", [Reply(200, b"1")])
    answer = answer_to(server, failing.redirect("/b", status), method=method, body={"a": 1})
    if status in (307, 308):
        assert answer.result == 1
        assert [(got.method, got.body) for got in server.requests] == [(method, b'{"a": 1}')] * 2
    else:
        assert problem_of(answer) == ("redirected", status)
        assert answer.message.startswith(f"{server.host} answers {status}, which is not followed")
        assert len(server.requests) == 1


def test_redirects_are_followed_only_so_often(server: FailingServer) -> None:
    steps = [failing.redirect("/")] * MAX_REDIRECTS
    assert answer_to(server, *steps, Reply(204)).problem is None
    assert len(server.requests) == 1 + MAX_REDIRECTS
    answer = answer_to(server, failing.redirect("/"))
    assert problem_of(answer) == ("redirected", 302)
    assert answer.message == f"{server.host} redirects more than 3 times."
    assert len(server.requests) == 2 * (1 + MAX_REDIRECTS)


def test_a_redirect_away_is_not_followed_even_where_that_may_be_called(
    server: FailingServer, allow: Callable[[str], None]
) -> None:
    with failing_server() as other:
        allow(f"{server.host},{other.host}")
        answer = answer_to(server, failing.redirect(other.url("/secret-path?token=1"), 307))
        assert other.requests == []
    assert problem_of(answer) == ("redirected", 307)
    assert answer.message == f"{server.host} answers 307, and leads to http://{other.host}, which is not followed."


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("https://{host}/", "leads to https://{host}"),
        ("http://localhost:{port}/", "leads to http://localhost"),
        ("http://127.0.0.1/", "leads to http://127.0.0.1,"),
        ("//169.254.169.254/latest", "leads to http://169.254.169.254,"),
        ("http://me:hush-hush@{host}/", "without an address"),
        ("http://{host}\\@evil.example.com/", "without an address"),
        ("http://[::1/", "without an address"),
        ("file:///etc/passwd", "without an address"),
        ("javascript:alert(1)", "without an address"),
        ("/täst", "without an address"),
        ("", "without an address"),
    ],
)
def test_a_redirect_to_elsewhere_is_not_followed(server: FailingServer, to: str, said: str) -> None:
    at = {"host": server.host, "port": server.host.partition(":")[2]}
    answer = answer_to(server, failing.redirect(to.format(**at)))
    assert problem_of(answer) == ("redirected", 302)
    assert said.format(**at) in answer.message
    assert "hush" not in answer.message
    assert len(server.requests) == 1


def test_a_redirect_without_an_address_is_not_followed(server: FailingServer) -> None:
    assert problem_of(answer_to(server, Reply(302))) == ("redirected", 302)


# Secrets


SECRETS = {
    "Authorization": 'Bearer s3cr3t/"t&ken"',
    "X-Api-Key": "k3y-for-all",
    "Cookie": "theme=dark-mode; session=c00kie==",
}
SHOWN = {"Accept-Language": "de-DE,de", "X-Request-Id": "request-17"}


@pytest.mark.parametrize("status", [200, 400, 503])
def test_no_secret_is_in_a_message_or_a_log(
    server: FailingServer, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    caplog.set_level(logging.DEBUG)
    said = {
        "headers": SECRETS | SHOWN,
        "plain": [*SECRETS.values(), 's3cr3t/"t&ken"', "c00kie==", "q%C3%BCery-secret", "qüery-secret", "de-DE,de"],
    }
    body = json.dumps(said, ensure_ascii=False) + " s3cr3t/&quot;t&amp;ken&quot; s3cr3t%2F%22t%26ken%22 K3Y-FOR-ALL"
    server.answers("/", [Reply(status, body.encode())])
    answer = attempt(server.url("/?a=shown&api_key=q%C3%BCery-secret&b=2"), headers=SECRETS | SHOWN)
    assert problem_of(answer) == ("unreadable" if status == 200 else "status", status)
    assert server.requests[0].headers["X-Api-Key"] == "k3y-for-all"
    told = (answer.message + caplog.text).lower()
    for part in ("s3cr3t", "t&ken", "k3y-for-all", "dark-mode", "c00kie", "ery-secret"):
        assert part not in told
    if status != 200:
        assert answer.message.count("***") >= 10
        assert "de-DE,de" in answer.message
        assert "request-17" in answer.message


def test_what_goes_wrong_on_the_way_says_no_secret_and_no_path(
    allow: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with failing_server() as server, nobody_there() as nobody:
        allow(f"{server.host},{nobody},other.example.com")
        server.answers("/pa-th", [failing.no_http(), failing.dropped(), failing.hang()])
        answers = [
            attempt(f"{url}/pa-th?token=hush-hush", headers={"X-Key": "hush-hush"}, timeout=0.3)
            for url in (*[server.url("")] * 3, f"http://{nobody}", f"https://{server.host}", "https://evil.example.com")
        ]
    problems = ["unreadable", "unreadable", "timeout", "unreachable", "tls", "not_allowed"]
    assert [answer.problem for answer in answers] == problems
    for told in (*(answer.message for answer in answers), caplog.text):
        assert "hush" not in told
        assert "pa-th" not in told


# What may be called


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://evil.example.com/", "CALL_HOSTS does not name it"),
        ("https://api.example.com:8443/", "CALL_HOSTS does not name it"),
        ("https://api.example.com.evil.example/", "CALL_HOSTS does not name it"),
        ("http://api.example.com/", "https"),
        ("https://me:hush@api.example.com/", "user name"),
        ("https://api.example.com@evil.example.com/", "user name"),
        ("https://api.example.com\\@evil.example.com/", "user name"),
        ("https://api.example.com:99999/", "https://host/path"),
        ("https:///api.example.com", "https://host/path"),
    ],
)
def test_what_may_not_be_called(allow: Callable[[str], None], url: str, said: str) -> None:
    allow("api.example.com, localhost")
    call = {"kind": "http", "method": "GET", "url": url}
    with pytest.raises(ValueError, match=said) as caught:
        check_call(HttpCall.model_validate(call))
    answer = made(call)
    assert problem_of(answer) == ("not_allowed", None)
    assert said in answer.message
    assert "hush" not in answer.message + str(caught.value)


def test_a_host_that_is_allowed_no_longer_is_not_called(server: FailingServer, allow: Callable[[str], None]) -> None:
    server.answers("/", [Reply(204)])
    assert attempt(server.url()).problem is None
    allow("")
    assert problem_of(attempt(server.url())) == ("not_allowed", None)
    assert len(server.requests) == 1


def test_the_setting_for_callbacks_is_another_one(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLBACK_HOSTS", "api.example.com")
    get_settings.cache_clear()
    with pytest.raises(ValueError, match="CALL_HOSTS"):
        check_call(HttpCall(kind="http", url="https://api.example.com/"))
    monkeypatch.setenv("CALL_HOSTS", "api.example.com")
    get_settings.cache_clear()
    check_call(HttpCall(kind="http", url="https://API.example.com/x"))


# Simulated calls


ACCEPTS = {
    "type": "object",
    "properties": {"amount": {"type": "integer", "maximum": 9}, "to": {"type": "string"}},
    "required": ["amount", "to"],
}


def test_a_simulated_call_fails_so_often_and_then_works() -> None:
    call = {"fails": 2, "status": 500, "result": {"ok": True}}
    for number in (1, 2):
        answer = made(call, number)
        assert problem_of(answer) == ("status", 500)
        assert answer.message == "The simulated API answers 500."
    for number in (3, 4):
        answer = made(call, number)
        assert (answer.problem, answer.status, answer.result) == (None, 200, {"ok": True})


@pytest.mark.parametrize("body", [None, 0, False, "x", {"a": 1}])
def test_a_simulated_call_gives_back_its_body_where_it_has_no_result(body: Any) -> None:
    assert made({"body": body}).result == body


@pytest.mark.parametrize("result", [0, False, "", [], {}])
def test_a_simulated_result_that_is_empty_is_one(result: Any) -> None:
    assert made({"body": {"a": 1}, "result": result}).result == result


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"amount": 10, "to": "x"}, "amount: 10 is greater than the maximum of 9"),
        ({"amount": 1}, "to: it is needed"),
        ({}, "amount: it is needed; to: it is needed"),
        (None, "the body is no object"),
        ([], "the body is no object"),
        ("x", "the body is no object"),
    ],
)
def test_a_simulated_call_refuses_what_it_does_not_accept(body: Any, said: str) -> None:
    answer = made({"accepts": ACCEPTS, "body": body, "result": 1})
    assert problem_of(answer) == ("status", 422)
    assert answer.message == f"The simulated API answers 422: {said}"
    assert made({"accepts": ACCEPTS, "body": {"amount": 9, "to": "x"}, "result": 1}).result == 1


def test_a_simulated_call_fails_before_it_looks_at_the_body() -> None:
    assert made({"accepts": ACCEPTS, "fails": 1}).status == 503
    assert made({"accepts": ACCEPTS, "fails": 1}, 2).status == 422


def test_what_a_simulated_call_accepts_has_to_be_a_schema() -> None:
    check_call(SimulatedCall.model_validate({"kind": "simulated", "accepts": ACCEPTS}))
    wrong = {"type": "object", "properties": {"a": {"type": "text"}}}
    with pytest.raises(ValueError, match="no JSON Schema"):
        check_call(SimulatedCall.model_validate({"kind": "simulated", "accepts": wrong}))
    assert problem_of(made({"accepts": wrong, "body": {}})) == ("not_allowed", None)


def test_errors_of_a_simulated_call_that_are_alike_have_one_fingerprint(allow: Callable[[str], None]) -> None:
    assert made({"fails": 1}).fingerprint == made({"fails": 5, "body": 1}).fingerprint
    assert made({"fails": 1}).fingerprint != made({"fails": 1, "status": 500}).fingerprint
    tens = [made({"accepts": ACCEPTS, "body": {"amount": amount, "to": "x"}}).fingerprint for amount in (10, 11)]
    assert tens[0] == tens[1] != made({"accepts": ACCEPTS, "body": {"amount": 1}}).fingerprint


def test_errors_that_are_alike_have_one_fingerprint(server: FailingServer) -> None:
    first = answer_to(server, Reply(404, b'{"error": "order 17 not found"}'))
    second = answer_to(server, Reply(404, b'{"error": "order 18 not found"}'), method="POST", body=1)
    assert first.fingerprint == second.fingerprint
    others = [
        answer_to(server, Reply(409, b'{"error": "order 17 not found"}')),
        answer_to(server, Reply(404, b'{"error": "customer 17 not found"}')),
        answer_to(server, failing.redirect("/", 302)),
        answer_to(server, failing.no_http()),
        answer_to(server, failing.half_a_body()),
        attempt(server.url().replace("http:", "https:")),
    ]
    assert len({first.fingerprint, *(each.fingerprint for each in others)}) == 1 + len(others)


def test_the_same_error_of_two_hosts_has_two_fingerprints(server: FailingServer, allow: Callable[[str], None]) -> None:
    with failing_server() as other:
        allow(f"{server.host},{other.host}")
        assert answer_to(server, Reply(503)).fingerprint != answer_to(other, Reply(503)).fingerprint
