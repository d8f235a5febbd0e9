"""Sending mail: into the folder, to real mail servers, and to a stand-in for Azure Communication Services."""

import asyncio
import base64
import json
import logging
import resource
import signal
import socket
import ssl
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.message import EmailMessage, Message
from email.policy import default
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from azure.core.pipeline.transport import RequestsTransport
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from services import clock
from services.mail import AcsMailer, FolderMailer, SmtpMailer, address_of, check_mail, get_mailer, new_message
from settings import get_settings

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PASSWORD = "correct horse"
KEY = base64.b64encode(b"the key of the service").decode()
CONNECTION = f"endpoint=https://mail.example.com/;accesskey={KEY}"


@pytest.fixture(autouse=True)
def at_noon() -> Iterator[None]:
    """The clock stands at ``NOW``."""
    clock.set_clock(lambda: NOW)
    yield
    clock.set_clock(clock.system_clock)


@pytest.fixture
def configure(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets settings, by their names in lower case."""

    def sets(**values: Any) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name.upper(), str(value))
        get_settings.cache_clear()

    return sets


def a_mail(to: str = "bob@example.org", subject: str = "Please decide", text: str = "It is yours.") -> EmailMessage:
    """A mail to one person."""
    message = new_message()
    message["Message-ID"] = "<one.1@example.com>"
    message["To"] = address_of(to, "Bob, the Builder")
    message["Subject"] = subject
    message.set_content(text)
    message.add_alternative(f"<p>{text}</p>", subtype="html")
    return message


# Mail servers


class Inbox:
    """What a mail server got: the envelopes, and what logged in."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self.encrypted: list[bool] = []
        self.logins: list[tuple[bytes, bytes]] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.envelopes.append(envelope)
        assert server.transport is not None
        self.encrypted.append(server.transport.get_extra_info("sslcontext") is not None)
        return "250 taken"

    def authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: LoginPassword
    ) -> AuthResult:
        self.logins.append((data.login, data.password))
        return AuthResult(success=data.password == PASSWORD.encode(), handled=False)

    @property
    def mails(self) -> list[EmailMessage]:
        contents = [envelope.content for envelope in self.envelopes]
        assert all(isinstance(content, bytes) for content in contents)
        return [message_from_bytes(content, _class=EmailMessage, policy=default) for content in contents]  # type: ignore[arg-type]


class Refusing(Inbox):
    """Refuses some recipients."""

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("nobody"):
            return f"550 {PASSWORD} no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"


class Busy(Inbox):
    """Takes no mail for now."""

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        return "451 try again later"


class Dropping(Inbox):
    """Ends the connection in the middle of the mail."""

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        assert isinstance(server.transport, asyncio.WriteTransport)
        server.transport.abort()
        return "250 OK"


class Rude(Inbox):
    """Takes the mail, and ends the connection without a goodbye."""

    async def handle_QUIT(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        assert isinstance(server.transport, asyncio.WriteTransport)
        server.transport.abort()
        return "221 Bye"


@contextmanager
def serving(inbox: Inbox, *, tls: ssl.SSLContext | None = None, **options: Any) -> Iterator[int]:
    """A mail server on loopback; gives its port."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever)
    thread.start()

    def within[T](what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, loop).result(10)

    def protocol() -> SMTP:
        return SMTP(inbox, loop=loop, authenticator=inbox.authenticate, **options)

    async def end(server: asyncio.Server) -> None:
        server.close()
        server.close_clients()
        await server.wait_closed()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    server = within(loop.create_server(protocol, "127.0.0.1", 0, ssl=tls))
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        within(end(server))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``ca.pem`` and ``server.pem``, which is good for 127.0.0.1."""
    folder = tmp_path_factory.mktemp("certificates")
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test CA")])

    def certificate(name: str, public: ec.EllipticCurvePublicKey, *, ca: bool) -> x509.CertificateBuilder:
        real_now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(ca_name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(real_now - timedelta(days=1))
            .not_valid_after(real_now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
            .add_extension(
                x509.KeyUsage(not ca, False, False, False, False, ca, False, False, False),
                critical=True,
            )
        )

    root = certificate("Test CA", ca_key.public_key(), ca=True).sign(ca_key, hashes.SHA256())
    names = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
    leaf = certificate("server", key.public_key(), ca=False).add_extension(names, critical=False)
    (folder / "ca.pem").write_bytes(root.public_bytes(serialization.Encoding.PEM))
    (folder / "server.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + leaf.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    )
    return folder


@pytest.fixture
def server_tls(certificates: Path) -> ssl.SSLContext:
    """What a mail server with a certificate needs."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "server.pem")
    return context


@pytest.fixture
def smtp(configure: Callable[..., None], certificates: Path) -> Callable[..., SmtpMailer]:
    """Makes a mailer for a port; the certificate of the mail server is trusted."""

    def makes(port: int, seconds: float = 10, **values: Any) -> SmtpMailer:
        given = {"ssl_cert_file": certificates / "ca.pem", "mail_from": "The App <app@example.com>"}
        configure(**given | {"mail": "smtp", "smtp_host": "127.0.0.1", "smtp_port": port} | values)
        return SmtpMailer(get_settings(), seconds)

    return makes


def test_a_mail_arrives_without_encryption_where_that_is_asked_for(smtp: Callable[..., SmtpMailer]) -> None:
    inbox = Inbox()
    with serving(inbox) as port:
        smtp(port, smtp_security="none").send(a_mail(text="Grüße"))
    [envelope], [mail] = inbox.envelopes, inbox.mails
    assert (envelope.mail_from, envelope.rcpt_tos) == ("app@example.com", ["bob@example.org"])
    assert str(mail["From"]) == "The App <app@example.com>"
    assert str(mail["To"]) == '"Bob, the Builder" <bob@example.org>'
    assert mail["Date"].datetime == NOW
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["Message-ID"] == "<one.1@example.com>"
    assert mail.get_body(("plain",)).get_content() == "Grüße\n"  # type: ignore[union-attr]
    assert mail.get_body(("html",)).get_content() == "<p>Grüße</p>\n"  # type: ignore[union-attr]
    assert isinstance(envelope.content, bytes)
    assert envelope.content.isascii()
    assert inbox.encrypted == [False]


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_mail_arrives_encrypted_after_a_login(
    smtp: Callable[..., SmtpMailer], server_tls: ssl.SSLContext, security: str
) -> None:
    inbox = Inbox()
    how: dict[str, Any] = {"tls": server_tls} if security == "tls" else {"tls_context": server_tls}
    with serving(inbox, **how, auth_require_tls=security != "tls") as port:
        smtp(port, smtp_security=security, smtp_username="app", smtp_password=PASSWORD).send(a_mail())
    assert inbox.logins == [(b"app", PASSWORD.encode())]
    assert inbox.encrypted == [True]
    assert len(inbox.mails) == 1


def test_a_mail_arrives_encrypted_without_a_login(smtp: Callable[..., SmtpMailer], server_tls: ssl.SSLContext) -> None:
    inbox = Inbox()
    with serving(inbox, tls_context=server_tls, require_starttls=True) as port:
        smtp(port).send(a_mail())
    assert (inbox.encrypted, inbox.logins) == ([True], [])


def test_a_mail_that_is_sent_twice_has_one_message_id(smtp: Callable[..., SmtpMailer]) -> None:
    inbox = Inbox()
    with serving(inbox) as port:
        mailer = smtp(port, smtp_security="none")
        message = a_mail()
        mailer.send(message)
        mailer.send(message)
    assert [mail["Message-ID"] for mail in inbox.mails] == ["<one.1@example.com>"] * 2
    assert [mail.get_all("From") for mail in inbox.mails] == [["The App <app@example.com>"]] * 2


def test_a_server_without_starttls_gets_no_mail(smtp: Callable[..., SmtpMailer]) -> None:
    inbox = Inbox()
    with serving(inbox, auth_require_tls=False) as port, pytest.raises(OSError, match="lacks what is needed: STARTTLS"):
        smtp(port, smtp_username="app", smtp_password=PASSWORD).send(a_mail())
    assert (inbox.envelopes, inbox.logins) == ([], [])


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_certificate_that_is_not_trusted_gets_no_mail(
    smtp: Callable[..., SmtpMailer], server_tls: ssl.SSLContext, tmp_path: Path, security: str
) -> None:
    inbox = Inbox()
    (tmp_path / "none.pem").write_text("")
    how: dict[str, Any] = {"tls": server_tls} if security == "tls" else {"tls_context": server_tls}
    with serving(inbox, **how) as port, pytest.raises(OSError, match="not trusted here"):
        smtp(port, smtp_security=security, ssl_cert_file=tmp_path / "none.pem").send(a_mail())
    assert inbox.envelopes == []


def test_tls_to_a_server_that_does_not_speak_it_is_an_error_in_words(smtp: Callable[..., SmtpMailer]) -> None:
    with serving(Inbox()) as port, pytest.raises(OSError, match="SMTP_SECURITY suits SMTP_PORT"):
        smtp(port, smtp_security="tls").send(a_mail())


def test_a_wrong_password_is_an_error_that_does_not_repeat_it(
    smtp: Callable[..., SmtpMailer], server_tls: ssl.SSLContext
) -> None:
    inbox = Inbox()
    with serving(inbox, tls_context=server_tls) as port, pytest.raises(OSError, match="SMTP_PASSWORD right") as caught:
        smtp(port, smtp_username="app", smtp_password="not the secret").send(a_mail())
    assert "not the secret" not in str(caught.value)
    assert "535" in str(caught.value)
    assert caught.value.__suppress_context__
    assert inbox.envelopes == []


def test_a_refused_recipient_is_an_error_without_what_the_server_said(smtp: Callable[..., SmtpMailer]) -> None:
    inbox = Refusing()
    with serving(inbox) as port, pytest.raises(OSError, match=r"refused the recipient.*550") as caught:
        smtp(port, smtp_security="none").send(a_mail("nobody@example.org"))
    assert PASSWORD not in str(caught.value)
    assert "nobody" not in str(caught.value)
    assert inbox.envelopes == []


def test_one_refused_recipient_of_several_is_logged_and_the_others_get_it_once(
    smtp: Callable[..., SmtpMailer], caplog: pytest.LogCaptureFixture
) -> None:
    inbox = Refusing()
    message = a_mail()
    del message["To"]
    message["To"] = "bob@example.org, nobody@example.org"
    with serving(inbox) as port, caplog.at_level(logging.ERROR):
        smtp(port, smtp_security="none").send(message)
    assert [envelope.rcpt_tos for envelope in inbox.envelopes] == [["bob@example.org"]]
    assert "1 of 2 people did not get the mail <one.1@example.com>" in caplog.text
    assert "nobody" not in caplog.text


@pytest.mark.parametrize(
    ("inbox", "said"), [(Busy(), "did not take the mail .451"), (Dropping(), "ended the connection")]
)
def test_a_server_that_does_not_take_it_is_an_error(smtp: Callable[..., SmtpMailer], inbox: Inbox, said: str) -> None:
    with serving(inbox) as port, pytest.raises(OSError, match=said):
        smtp(port, smtp_security="none").send(a_mail())


def test_what_comes_after_the_mail_was_taken_is_no_error(smtp: Callable[..., SmtpMailer]) -> None:
    """It would be sent a second time."""
    inbox = Rude()
    with serving(inbox) as port:
        smtp(port, smtp_security="none").send(a_mail())
    assert len(inbox.envelopes) == 1


@pytest.mark.parametrize("security", ["starttls", "tls", "none"])
def test_a_server_that_hangs_is_given_up(smtp: Callable[..., SmtpMailer], security: str) -> None:
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(OSError, match="too long to answer"):
        smtp(silent.getsockname()[1], seconds=0.2, smtp_security=security).send(a_mail())
    assert time.monotonic() - began < 8


def test_a_server_that_is_not_there_is_an_error_that_names_it(smtp: Callable[..., SmtpMailer]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(OSError, match=f"127.0.0.1:{port} cannot be reached: see that SMTP_HOST"):
        smtp(port).send(a_mail())


def test_an_address_beyond_ascii_goes_to_a_server_that_takes_it(smtp: Callable[..., SmtpMailer]) -> None:
    inbox = Inbox()
    with serving(inbox, enable_SMTPUTF8=True) as port:
        smtp(port, smtp_security="none").send(a_mail("jörg@exämple.org"))
    assert inbox.envelopes[0].rcpt_tos == ["jörg@exämple.org"]


def test_an_address_beyond_ascii_is_an_error_with_other_servers(smtp: Callable[..., SmtpMailer]) -> None:
    inbox = Inbox()
    with serving(inbox) as port, pytest.raises(OSError, match="letters other than ASCII"):
        smtp(port, smtp_security="none").send(a_mail("jörg@example.org"))
    assert inbox.envelopes == []


def test_a_password_is_never_sent_without_encryption(smtp: Callable[..., SmtpMailer]) -> None:
    inbox = Inbox()
    with serving(inbox, auth_require_tls=False) as port, pytest.raises(ValueError, match="SMTP_SECURITY is none"):
        smtp(port, smtp_security="none", smtp_username="app", smtp_password=PASSWORD).send(a_mail())
    assert (inbox.logins, inbox.envelopes) == ([], [])


# What is written in a mail


@pytest.mark.parametrize("text", ["two\nBcc: eve@example.com", "two\r\nBcc: eve@example.com", "two\rBcc: eve"])
def test_a_subject_or_a_name_cannot_make_a_header(text: str) -> None:
    with pytest.raises(ValueError, match=r"linefeed|carriage return|CR|newline"):
        a_mail(subject=text)
    with pytest.raises(ValueError):
        address_of("bob@example.org", text)


@pytest.mark.parametrize(
    "address",
    [
        "bob",
        "@example.org",
        "bob@",
        "bob@a,eve@b",
        "bob@a>b",
        "bob@a b",
        "bob@a,b",
        "bob@[127.0.0.1]",
        "bob@a..b",
        "b@a\n",
    ],
)
def test_an_address_that_could_be_two_is_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(ValueError, match="no address that mail can be sent to") as caught:
        address_of(address)
    assert address not in str(caught.value)


@pytest.mark.parametrize("local", ["a,b", 'a"b', "a>b", "(x)", "a;b", "a\\b", "o'hara+tag"])
def test_a_strange_address_is_one_recipient(smtp: Callable[..., SmtpMailer], local: str) -> None:
    message = a_mail(f"{local}@example.org")
    again = message_from_bytes(message.as_bytes(), _class=EmailMessage, policy=default)
    assert [(one.username, one.domain) for one in again["To"].addresses] == [(local, "example.org")]
    inbox = Inbox()
    with serving(inbox) as port:
        smtp(port, smtp_security="none").send(message)
    assert len(inbox.envelopes[0].rcpt_tos) == 1


# The folder


def test_a_mail_that_is_sent_twice_is_one_file(data_folder: Path) -> None:
    for _ in range(2):
        get_mailer().send(a_mail())
    [file] = (data_folder / "outbox").iterdir()
    assert file.name == "one.1@example.com.eml"
    mail = message_from_bytes(file.read_bytes(), _class=EmailMessage, policy=default)
    assert str(mail["From"]) == "Countersign <countersign@example.com>"
    assert mail["Date"].datetime == NOW


@pytest.mark.parametrize("to", ["jörg@example.org", "jörg@exämple.org", "bob@exämple.org"])
def test_an_address_beyond_ascii_is_written_as_it_is(data_folder: Path, to: str) -> None:
    get_mailer().send(a_mail(to))
    [file] = (data_folder / "outbox").iterdir()
    assert f"<{to}>" in file.read_text()


def test_a_folder_that_cannot_be_written_is_an_error_and_leaves_nothing(data_folder: Path) -> None:
    (data_folder / "outbox").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="outbox"):
        get_mailer().send(a_mail())


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    message = a_mail()
    message.replace_header("Message-ID", f"<{'x' * 180}@example.com>")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            FolderMailer(tmp_path / "outbox").send(message)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert list((tmp_path / "outbox").iterdir()) == []


# Settings


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"website_instance_id": "x"}, "MAIL=folder"),
        ({"mail": "smtp"}, "SMTP_HOST"),
        ({"mail": "smtp", "smtp_host": ""}, "SMTP_HOST"),
        ({"mail": "smtp", "smtp_host": "h", "smtp_username": "u"}, "SMTP_PASSWORD"),
        ({"mail": "smtp", "smtp_host": "h", "smtp_password": "hush"}, "SMTP_USERNAME"),
        (
            {"mail": "smtp", "smtp_host": "h", "smtp_username": "u", "smtp_password": "hush", "smtp_security": "none"},
            "SMTP_SECURITY",
        ),
        ({"mail": "smtp", "smtp_host": "h", "smtp_username": "u", "smtp_password": "hüsh"}, "ASCII"),
        ({"mail": "acs"}, "ACS_CONNECTION"),
        ({"mail": "acs", "acs_connection": "hush"}, "ACS_CONNECTION"),
        ({"mail": "acs", "acs_connection": "http://mail.example.com/hush"}, "https"),
        ({"mail": "acs", "acs_connection": "https://user:hush@mail.example.com"}, "ACS_CONNECTION"),
        ({"mail": "acs", "acs_connection": "endpoint=http://x.example.com/;accesskey=hush"}, "https"),
        ({"mail": "acs", "acs_connection": "endpoint=https://x.example.com/"}, "ACS_CONNECTION"),
        ({"mail_from": "App <app@exämple.com>"}, "MAIL_FROM"),
        ({"mail_from": "App <app@example.com"}, "MAIL_FROM"),
        ({"mail_from": "app@example.com>"}, "MAIL_FROM"),
        ({"mail_from": "a@b, c@d"}, "MAIL_FROM"),
    ],
)
def test_settings_that_cannot_work_are_named(
    configure: Callable[..., None], values: dict[str, str], named: str
) -> None:
    configure(**values)
    with pytest.raises(ValueError, match=named) as caught:
        check_mail()
    assert "hush" not in str(caught.value)
    assert "hüsh" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({}, FolderMailer),
        ({"mail": "smtp", "smtp_host": "h", "smtp_security": "none", "website_instance_id": "x"}, SmtpMailer),
        ({"mail": "smtp", "smtp_host": "h", "smtp_username": "u", "smtp_password": "p"}, SmtpMailer),
        ({"mail": "acs", "acs_connection": CONNECTION, "website_instance_id": "x"}, AcsMailer),
        ({"mail": "acs", "acs_connection": "https://mail.example.com"}, AcsMailer),
        ({"mail_from": "Bär, Inc. <app@example.com>"}, FolderMailer),
        ({"mail_from": '"Quoted, Inc." <app@example.com>'}, FolderMailer),
        ({"mail_from": "app@example.com"}, FolderMailer),
    ],
)
def test_settings_that_work_choose_the_mailer(
    configure: Callable[..., None], values: dict[str, str], kind: type[object]
) -> None:
    configure(**values)
    check_mail()
    assert isinstance(get_mailer(), kind)


# Azure Communication Services


@dataclass
class Asked:
    """A request that came to the service."""

    method: str
    path: str
    headers: Message
    body: bytes


class Service:
    """A stand-in for the service on loopback, which gives the answers that it is told to: a status and a body each."""

    def __init__(self, *answers: tuple[int, Any]) -> None:
        self.answers = list(answers)
        self.asked: list[Asked] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"] or 0))
                service.asked.append(Asked(self.command, self.path, self.headers, body))
                status, said = service.answers.pop(0)
                content = json.dumps(said).encode()
                self.send_response(status, "because")
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET

            def log_message(self, *_: object) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)

    @contextmanager
    def __call__(self, seconds: float = 60, **options: Any) -> Iterator[AcsMailer]:
        """A mailer that talks to it."""
        thread = Thread(target=self.server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield AcsMailer(CONNECTION, seconds, 0, transport=ToLoopback(self.server.server_port), **options)
        finally:
            self.server.shutdown()
            thread.join()
            self.server.server_close()


class ToLoopback(RequestsTransport):  # type: ignore[misc]
    """Sends what is for the service to a port of loopback."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port

    def send(self, request: Any, **kwargs: Any) -> Any:
        request.url = request.url.replace("https://mail.example.com/", f"http://127.0.0.1:{self._port}/")
        return super().send(request, **kwargs)


ACCEPTED = (202, {"id": "x", "status": "Running"})
RUNNING = (200, {"status": "Running"})
SUCCEEDED = (200, {"status": "Succeeded"})


def operation_of(message: EmailMessage) -> str:
    """The id of the operation that a mail is sent as."""
    service = Service(ACCEPTED, SUCCEEDED)
    with service() as mailer:
        mailer.send(message)
    return str(service.asked[0].headers["Operation-Id"])


def test_the_service_gets_the_mail_as_it_is(data_folder: Path) -> None:
    service = Service(ACCEPTED, RUNNING, RUNNING, SUCCEEDED)
    with service() as mailer:
        mailer.send(a_mail(text="Grüße"))
    sent, *polled = service.asked
    assert (sent.method, sent.path) == ("POST", "/emails:send?api-version=2025-09-01")
    path = f"/emails/operations/{sent.headers['Operation-Id']}?api-version=2025-09-01"
    assert [(asked.method, asked.path) for asked in polled] == [("GET", path)] * 3
    assert all(asked.headers["Authorization"].startswith("HMAC-SHA256 ") for asked in service.asked)
    assert json.loads(sent.body) == {
        "senderAddress": "countersign@example.com",
        "recipients": {"to": [{"address": "bob@example.org", "displayName": "Bob, the Builder"}]},
        "content": {"subject": "Please decide", "plainText": "Grüße\n", "html": "<p>Grüße</p>\n"},
        "headers": {
            "Message-ID": "<one.1@example.com>",
            "Auto-Submitted": "auto-generated",
            "x-ms-acsemail-validate-message-id": "true",
        },
        "userEngagementTrackingDisabled": True,
    }


def test_the_service_gets_how_to_unsubscribe_where_the_mail_says_it(data_folder: Path) -> None:
    mail = a_mail()
    mail["List-Unsubscribe"] = "<http://127.0.0.1:7071/signup/stop?token=abc>"
    mail["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    service = Service(ACCEPTED, SUCCEEDED)
    with service() as mailer:
        mailer.send(mail)
    headers = json.loads(service.asked[0].body)["headers"]
    assert headers["List-Unsubscribe"] == "<http://127.0.0.1:7071/signup/stop?token=abc>"
    assert headers["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"


def test_the_operation_is_named_by_the_message_id(data_folder: Path) -> None:
    other = a_mail()
    other.replace_header("Message-ID", "<one.2@example.com>")
    assert operation_of(a_mail()) == operation_of(a_mail(subject="Otherwise")) != operation_of(other)


@pytest.mark.parametrize("status", [400, 409])
def test_a_mail_that_the_service_has_already_is_taken_for_sent(data_folder: Path, status: int) -> None:
    service = Service((status, {}), RUNNING, SUCCEEDED)
    with service() as mailer:
        mailer.send(a_mail())
    assert [asked.method for asked in service.asked] == ["POST", "GET", "GET"]


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([(400, {"error": {"code": "BadAddress", "message": "hush"}}), (404, {})], "400 BadAddress"),
        ([(401, {"error": {"code": "Denied", "message": "hush"}})], "401 Denied; set ACS_CONNECTION right"),
        ([(403, {})], "403 because; set ACS_CONNECTION"),
        ([(404, {})], "404"),
        ([ACCEPTED, (200, {"status": "Failed", "error": {"code": "Blocked", "message": "hush"}})], "Failed, Blocked"),
        ([ACCEPTED, (200, {"status": "Canceled"})], "Canceled, no reason"),
        ([ACCEPTED, (200, {})], "None, no reason"),
        ([ACCEPTED, (404, {})], "404"),
        ([(409, {}), (200, {"status": "Failed"})], "did not send the mail: Failed"),
        ([(500, {"error": {"code": "Oops", "message": "hush"}})], "500 Oops"),
    ],
)
def test_what_the_service_does_not_send_is_an_error_in_words(
    data_folder: Path, answers: list[tuple[int, Any]], said: str
) -> None:
    service = Service(*answers)
    with service(retry_total=0) as mailer, pytest.raises(OSError, match=said) as caught:
        mailer.send(a_mail())
    assert "hush" not in str(caught.value)
    assert KEY not in str(caught.value)
    assert caught.value.__context__ is None
    assert service.answers == []


def test_a_service_that_takes_too_long_is_an_error(data_folder: Path) -> None:
    service = Service(ACCEPTED, RUNNING)
    with service(seconds=-1) as mailer, pytest.raises(OSError, match="has not sent the mail in"):
        mailer.send(a_mail())


def test_a_service_that_is_not_there_is_an_error_in_words(data_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    mailer = AcsMailer(CONNECTION, transport=ToLoopback(port), retry_total=0)
    with pytest.raises(OSError, match=r"cannot be reached .ServiceRequestError.: see that ACS_CONNECTION"):
        mailer.send(a_mail())


def test_a_service_that_is_busy_for_a_moment_is_asked_again_for_the_same(data_folder: Path) -> None:
    service = Service((503, {}), ACCEPTED, SUCCEEDED)
    with service(retry_backoff_factor=0) as mailer:
        mailer.send(a_mail())
    first, second, _ = service.asked
    assert first.headers["Operation-Id"] == second.headers["Operation-Id"]
