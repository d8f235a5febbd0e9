"""Posting outcomes: signed as the specification says, to allowed hosts only, whatever the receiver does."""

import base64
import hashlib
import hmac
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from services import clock
from services.callback import check_callback, check_callback_key, post
from settings import get_settings
from tests import failing_server as failing
from tests.failing_server import Reply, failing_server

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
OLD, NEW = b"the older key, 24 bytes.", b"the newer key, which has more than 24 bytes"
BODY = '{"outcome": "Approved", "by": "Jörg"}'.encode()


@pytest.fixture(autouse=True)
def at_noon() -> Iterator[None]:
    """The clock stands at ``NOW``."""
    clock.set_clock(lambda: NOW)
    yield
    clock.set_clock(clock.system_clock)


@pytest.fixture
def configure(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the hosts that are allowed, and the keys."""

    def sets(hosts: str = "", key: str | None = base64.b64encode(OLD).decode()) -> None:
        monkeypatch.setenv("CALLBACK_HOSTS", hosts)
        if key is not None:
            monkeypatch.setenv("CALLBACK_KEY", key)
        get_settings.cache_clear()

    return sets


class Receiver:
    """What came to a receiver, and what it answers."""

    def __init__(self, status: int = 200, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.status, self.headers, self.body = status, headers or {}, body
        self.posts: list[tuple[str, Message, bytes]] = []
        self.hang: Event | None = None
        self.broken_off = Event()

    def verifies(self, key: bytes, number: int = 0) -> bool:
        """Whether one of the signatures of a post is right, worked out as a receiver would."""
        _, headers, body = self.posts[number]
        mac = hmac.new(key, digestmod=hashlib.sha256)
        mac.update(f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode())
        mac.update(body)
        expected = "v1," + base64.standard_b64encode(mac.digest()).decode("ascii")
        return expected in headers["webhook-signature"].split(" ")

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Listen on loopback; gives host and port."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.posts.append((self.path, self.headers, body))
                if receiver.hang is not None:
                    receiver.hang.wait(30)
                    return
                self.send_response(receiver.status)
                for name, value in receiver.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                try:
                    self.wfile.write(receiver.body)
                except OSError:
                    receiver.broken_off.set()

            do_GET = do_POST

            def log_message(self, *_: Any) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            if self.hang is not None:
                self.hang.set()
            server.shutdown()
            thread.join()
            server.server_close()


def test_a_post_is_signed_over_id_time_and_body(configure: Callable[..., None]) -> None:
    receiver = Receiver()
    with receiver.serving() as host:
        configure(host)
        assert post(f"http://{host}/done?token=1", "msg_1", BODY) == 200
    [(path, headers, body)] = receiver.posts
    assert (path, body, headers["Content-Type"]) == ("/done?token=1", BODY, "application/json")
    assert (headers["webhook-id"], headers["webhook-timestamp"]) == ("msg_1", str(int(NOW.timestamp())))
    assert headers["webhook-signature"].count("v1,") == 1
    assert receiver.verifies(OLD)
    assert not receiver.verifies(NEW)


def test_the_signature_is_that_of_the_specification(configure: Callable[..., None]) -> None:
    """The example of the reference implementation."""
    clock.set_clock(lambda: datetime.fromtimestamp(1614265330, UTC))
    receiver = Receiver()
    with receiver.serving() as host:
        configure(host, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
        post(f"http://{host}/", "msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}')
    assert receiver.posts[0][1]["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_while_keys_are_rotated_both_verify(configure: Callable[..., None]) -> None:
    keys = [base64.b64encode(NEW).decode(), " whsec_" + base64.b64encode(OLD).decode()]
    receiver = Receiver()
    with receiver.serving() as host:
        configure(host, ",".join(keys))
        post(f"http://{host}/", "msg_1", BODY)
    assert receiver.verifies(OLD)
    assert receiver.verifies(NEW)
    assert len(receiver.posts[0][1]["webhook-signature"].split(" ")) == 2


def test_posted_again_it_has_the_same_id_and_a_new_time(configure: Callable[..., None]) -> None:
    receiver = Receiver()
    with receiver.serving() as host:
        configure(host)
        post(f"http://{host}/", "msg_1", BODY)
        clock.set_clock(lambda: datetime(2026, 3, 1, 13, tzinfo=UTC))
        post(f"http://{host}/", "msg_1", BODY)
    first, second = (headers for _, headers, _ in receiver.posts)
    assert first["webhook-id"] == second["webhook-id"]
    assert int(second["webhook-timestamp"]) - int(first["webhook-timestamp"]) == 3600
    assert receiver.verifies(OLD, 1)


@pytest.mark.parametrize("status", [204, 400, 404, 429, 500, 503])
def test_any_answer_is_given_as_its_status(configure: Callable[..., None], status: int) -> None:
    with Receiver(status).serving() as host:
        configure(host)
        assert post(f"http://{host}/", "msg_1", BODY) == status


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(configure: Callable[..., None], status: int) -> None:
    inside = Receiver()
    with inside.serving() as other, Receiver(status, {"Location": f"http://{other}/inside"}).serving() as host:
        configure(f"{host},{other}")
        assert post(f"http://{host}/", "msg_1", BODY) == status
    assert inside.posts == []


def test_the_body_of_a_redirect_is_not_read_either(configure: Callable[..., None]) -> None:
    receiver = Receiver(302, {"Location": "/", "Content-Length": str(10**12)}, b"x" * 20_000_000)
    with receiver.serving() as host:
        configure(host)
        assert post(f"http://{host}/", "msg_1", BODY) == 302
        assert receiver.broken_off.wait(20)
    assert len(receiver.posts) == 1


def test_a_huge_answer_is_not_read(configure: Callable[..., None]) -> None:
    receiver = Receiver(200, {"Content-Length": str(10**12)}, b"x" * 20_000_000)
    with receiver.serving() as host:
        configure(host)
        assert post(f"http://{host}/", "msg_1", BODY) == 200
        assert receiver.broken_off.wait(20)


def test_a_receiver_that_hangs_is_given_up_and_its_address_is_not_repeated(configure: Callable[..., None]) -> None:
    receiver = Receiver()
    receiver.hang = Event()
    began = time.monotonic()
    with receiver.serving() as host:
        configure(host)
        with pytest.raises(OSError, match=r"to 127\.0\.0\.1: it did not answer in 0\.2 seconds") as caught:
            post(f"http://{host}/done?token=hush", "msg_1", BODY, seconds=0.2)
    assert time.monotonic() - began < 8
    assert "hush" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "reply",
    [failing.drip_head(), Reply(raw=b"HTTP/1.1 103 Early\r\n\r\n" * 20, pause=0.05)],
    ids=["head", "early answers"],
)
def test_a_receiver_that_drips_is_given_up_after_its_time_in_all(configure: Callable[..., None], reply: Reply) -> None:
    with failing_server() as server:
        configure(server.host)
        server.answers("/done", [reply])
        began = time.monotonic()
        with pytest.raises(OSError, match=r"to 127\.0\.0\.1: it did not answer in 0\.4 seconds$") as caught:
            post(server.url("/done?token=hush"), "msg_1", BODY, seconds=0.4)
        assert 0.3 < time.monotonic() - began < 8
    assert "hush" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("status", [200, 302, 503])
def test_the_body_of_an_answer_is_not_waited_for(configure: Callable[..., None], status: int) -> None:
    with failing_server() as server:
        configure(server.host)
        server.answers("/", [failing.drip(pause=5, status=status)])
        began = time.monotonic()
        assert post(server.url(), "msg_1", BODY, seconds=30) == status
        assert time.monotonic() - began < 4


@pytest.mark.parametrize("reply", [failing.dropped(), failing.no_http(), Reply(raw=b"HTTP/1.1 200 OK\r\nhalf")])
def test_an_answer_that_is_none_is_an_error(configure: Callable[..., None], reply: Reply) -> None:
    with failing_server() as server:
        configure(server.host)
        server.answers("/done", [reply])
        with pytest.raises(OSError, match=r"to 127\.0\.0\.1: it gave no answer that can be read$") as caught:
            post(server.url("/done?token=hush"), "msg_1", BODY)
    assert caught.value.__context__ is None


def test_a_receiver_that_is_not_there_is_an_error_that_does_not_repeat_its_address(
    configure: Callable[..., None],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        host = f"127.0.0.1:{taken.getsockname()[1]}"
    configure(host)
    with pytest.raises(OSError, match=r"to 127\.0\.0\.1: it cannot be reached$") as caught:
        post(f"http://{host}/done?token=hush", "msg_1", BODY)
    assert "hush" not in str(caught.value)
    assert caught.value.__context__ is None


def test_a_receiver_without_tls_gets_nothing_over_https(configure: Callable[..., None]) -> None:
    receiver = Receiver()
    with receiver.serving() as host:
        configure(host)
        with pytest.raises(OSError, match=r"certificate is not trusted|cannot be reached"):
            post(f"https://{host}/", "msg_1", BODY)
    assert receiver.posts == []


def test_proxies_and_passwords_of_the_machine_are_not_used(
    configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password hush\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    receiver, proxy = Receiver(), Receiver()
    with receiver.serving() as host, proxy.serving() as other:
        monkeypatch.setenv("http_proxy", f"http://{other}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        configure(host)
        post(f"http://{host}/", "msg_1", BODY)
    assert (len(receiver.posts), proxy.posts) == (1, [])
    assert receiver.posts[0][1]["Authorization"] is None


def test_what_is_not_allowed_any_more_is_not_posted(configure: Callable[..., None]) -> None:
    receiver = Receiver()
    with receiver.serving() as host:
        configure("")
        with pytest.raises(ValueError, match="CALLBACK_HOSTS"):
            post(f"http://{host}/", "msg_1", BODY)
    assert receiver.posts == []


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.com/x",
        "https://hooks.example.com",
        "https://hooks.example.com?x=@evil.example.com",
        "HTTPS://Hooks.Example.COM:443/x",
        "https://other.example.com:8443/x",
        "http://localhost/x",
        "http://127.0.0.1:8080/x",
        "http://[::1]:9000/x",
    ],
)
def test_allowed_addresses(configure: Callable[..., None], url: str) -> None:
    configure(" hooks.example.com, Other.example.com:8443,localhost ,127.0.0.1:8080,[::1]:9000,")
    check_callback(url)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://evil.example.com/", "CALLBACK_HOSTS"),
        ("https://sub.hooks.example.com/", "CALLBACK_HOSTS"),
        ("https://hooks.example.com.evil.example/", "CALLBACK_HOSTS"),
        ("https://hooks.example.com./", "CALLBACK_HOSTS"),
        ("https://hooks.example.com:8443/", "CALLBACK_HOSTS"),
        ("https://hooks.example.com:80/", "CALLBACK_HOSTS"),
        ("https://169.254.169.254/", "CALLBACK_HOSTS"),
        ("https://localhost:8443/", "CALLBACK_HOSTS"),
        ("http://hooks.example.com/", "https"),
        ("http://localhost.evil.example/", "https"),
        ("http://127.0.0.1.evil.example/", "https"),
        ("https://me@hooks.example.com/", "user name"),
        ("https://me:hush@hooks.example.com/", "user name"),
        ("https://hooks.example.com\\@evil.example.com/", "user name"),
        ("https://hooks.example.com\\.evil.example.com/", "user name"),
        ("https://hooks.example.com/\n", "https://host/path"),
        ("https://hooks.exämple.com/", "ASCII"),
        ("https:///hooks.example.com/", "https://host/path"),
        ("https:hooks.example.com", "https://host/path"),
        ("ftp://hooks.example.com/", "https://host/path"),
        ("file:///etc/passwd", "https://host/path"),
        ("https://hooks.example.com:x/", "https://host/path"),
        ("", "https://host/path"),
    ],
)
def test_addresses_that_are_not_allowed(configure: Callable[..., None], url: str, said: str) -> None:
    configure("hooks.example.com,localhost")
    with pytest.raises(ValueError, match=said) as caught:
        check_callback(url)
    assert "hush" not in str(caught.value)


def test_an_empty_list_of_hosts_allows_none(configure: Callable[..., None]) -> None:
    configure(" , ")
    with pytest.raises(ValueError, match="CALLBACK_HOSTS does not name it"):
        check_callback("https://hooks.example.com/")


def test_without_a_key_nothing_is_posted(configure: Callable[..., None]) -> None:
    configure("hooks.example.com", None)
    with pytest.raises(ValueError, match="CALLBACK_KEY"):
        check_callback("https://hooks.example.com/")
    check_callback_key()


@pytest.mark.parametrize(
    "key",
    [
        "",
        "whsec_",
        "hush, not base64!",
        base64.b64encode(OLD).decode() + "!",
        base64.urlsafe_b64encode(b"\xff" * 32).decode(),
        base64.b64encode(b"x" * 23).decode(),
        base64.b64encode(b"x" * 65).decode(),
        base64.b64encode(OLD).decode() + ",",
        base64.b64encode(OLD).decode() + ",hush",
        base64.b64encode(OLD + b"x").decode().rstrip("="),
        "schlüssel" * 4,
    ],
)
def test_a_key_that_cannot_be_one_is_refused_and_not_repeated(configure: Callable[..., None], key: str) -> None:
    configure("hooks.example.com", key)
    for check in (check_callback_key, lambda: check_callback("https://hooks.example.com/")):
        with pytest.raises(ValueError, match="CALLBACK_KEY has to be 24 to 64 bytes in base64") as caught:
            check()
        assert "hush" not in str(caught.value)
        assert caught.value.__suppress_context__


@pytest.mark.parametrize("length", [24, 64])
def test_keys_of_any_allowed_length_are_taken(configure: Callable[..., None], length: int) -> None:
    configure("hooks.example.com", "whsec_" + base64.b64encode(b"x" * length).decode())
    check_callback_key()
    check_callback("https://hooks.example.com/")
