"""Sending mail: into a folder, by SMTP, or by Azure Communication Services."""

import logging
import re
import smtplib
import ssl
import time
import uuid
from contextlib import suppress
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import EmailPolicy
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from services.clock import now
from services.files import write_once
from settings import Settings, get_settings

SMTP_SECONDS = 20.0
"""How long a mail server may take for each answer."""
ACS_SECONDS = 60.0
"""How long Azure Communication Services may take from taking a mail to having sent it."""
ACS_POLL_SECONDS = 2.0
ACS_VERSION = "2025-09-01"

_POLICY = EmailPolicy(cte_type="7bit")  # not every mail server takes 8 bits
_SENDER = re.compile(r"(?:(?P<name>[^<>]*?)\s*<)?(?P<local>[^\s@<>]+)@(?P<domain>[^\s@<>]+)(?(name)>)", re.ASCII)
_DOMAIN = re.compile(r"[\w-]+(?:\.[\w-]+)*")
_LOGGER = logging.getLogger(__name__)


_PROBLEMS: tuple[tuple[type[Exception], str], ...] = (
    (smtplib.SMTPAuthenticationError, "refused the login: set SMTP_USERNAME and SMTP_PASSWORD right"),
    (smtplib.SMTPRecipientsRefused, "refused the recipient: see that the address is right"),
    (smtplib.SMTPSenderRefused, "refused the sender: set MAIL_FROM to one that it takes"),
    (smtplib.SMTPConnectError, "takes no mail now"),
    (smtplib.SMTPResponseException, "did not take the mail"),
    (
        smtplib.SMTPNotSupportedError,
        "lacks what is needed: STARTTLS, a login, or addresses in letters other than ASCII",
    ),
    (smtplib.SMTPServerDisconnected, "ended the connection, or took too long to answer"),
    (ssl.SSLCertVerificationError, "has a certificate that is not trusted here"),
    (ssl.SSLError, "does not speak TLS as it should: see that SMTP_SECURITY suits SMTP_PORT"),
    (TimeoutError, "took too long to answer"),
    (UnicodeError, "cannot be sent this: its name, and who logs in, have to be ASCII"),
    (OSError, "cannot be reached: see that SMTP_HOST and SMTP_PORT are right"),
)
"""What an error means, first match first; smtplib's are ``OSError``."""


class Mailer(Protocol):
    """Hands mails over for delivery."""

    def send(self, message: EmailMessage) -> None:
        """Send one mail, from the sender in the settings.

        Its ``Message-ID`` names it: sent twice, it should arrive once. Raises ``OSError``, whose text says what to do,
        and holds no password.
        """
        ...


def new_message() -> EmailMessage:
    """An empty mail."""
    return EmailMessage(policy=_POLICY)


def address_of(email: str, name: str | None = None) -> Address:
    """Return an address for a header. Raises ``ValueError`` where no mail can go to it, without repeating it."""
    local, _, domain = email.rpartition("@")
    if not local or "@" in local or not _DOMAIN.fullmatch(domain):
        raise ValueError("this is no address that mail can be sent to")
    return Address(name or "", local, domain)


def sender() -> Address:
    """The sender of all mails. Raises ``ValueError`` when the settings name none that can be."""
    text = get_settings().mail_from
    found = _SENDER.fullmatch(text.strip())
    if found is None or not (found["local"] + found["domain"]).isascii() or not _DOMAIN.fullmatch(found["domain"]):
        raise ValueError(
            "MAIL_FROM has to be an address in ASCII letters, perhaps with a name before it: Name <name@example.com>"
        )
    return Address((found["name"] or "").strip().strip('"'), found["local"], found["domain"])


class FolderMailer:
    """Keeps every mail as an ``.eml`` file in a folder, where any mail program can open it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def send(self, message: EmailMessage) -> None:
        """Write the mail; the file is named by its ``Message-ID``, so that a repetition changes nothing."""
        _complete(message)
        in_ascii = all(each.addr_spec.isascii() for each in message["To"].addresses)
        content = message.as_bytes(policy=_POLICY if in_ascii else _POLICY.clone(utf8=True))
        write_once(self._folder, message["Message-ID"].strip("<>"), ".eml", content)


class SmtpMailer:
    """Hands mails to a mail server, over a connection that is private unless the settings say otherwise."""

    def __init__(self, settings: Settings, seconds: float = SMTP_SECONDS) -> None:
        self._settings = settings
        self._seconds = seconds

    def send(self, message: EmailMessage) -> None:
        """Send the mail in a connection of its own."""
        _check_smtp(self._settings)
        _complete(message)
        recipients = [each.addr_spec for each in message["To"].addresses]
        try:
            refused = self._sent(message, recipients)
        except (OSError, UnicodeError) as error:
            # Without what came before it: what the server answers to a login is not for a history.
            raise OSError(self._in_words(error)) from None
        if refused:
            _LOGGER.error("%d of %d people did not get the mail %s.", len(refused), len(recipients), _name_of(message))

    def _sent(self, message: EmailMessage, recipients: list[str]) -> dict[str, Any]:
        server = self._connected()
        try:
            refused = server.send_message(message, sender().addr_spec, recipients)
            with suppress(OSError):  # the mail is sent; it would be sent again
                server.quit()
        finally:
            server.close()
        return refused

    def _connected(self) -> smtplib.SMTP:
        settings = self._settings
        # Not the name of this machine, which may take long to find out, and is nobody's business.
        given: dict[str, Any] = {"local_hostname": sender().domain, "timeout": self._seconds}
        host = settings.smtp_host or ""
        if settings.smtp_security == "tls":
            return self._logged_in(
                smtplib.SMTP_SSL(host, settings.smtp_port, context=ssl.create_default_context(), **given)
            )
        server = smtplib.SMTP(host, settings.smtp_port, **given)
        if settings.smtp_security == "none":
            return server
        try:
            server.starttls(context=ssl.create_default_context())
        except BaseException:
            server.close()
            raise
        return self._logged_in(server)

    def _logged_in(self, server: smtplib.SMTP) -> smtplib.SMTP:
        settings = self._settings
        try:
            if settings.smtp_username is not None:
                password = settings.smtp_password.get_secret_value() if settings.smtp_password is not None else ""
                server.login(settings.smtp_username, password)
        except BaseException:
            server.close()
            raise
        return server

    def _in_words(self, error: Exception) -> str:
        name = f"The mail server {self._settings.smtp_host}:{self._settings.smtp_port}"
        problem = next((text for kind, text in _PROBLEMS if isinstance(error, kind)), "cannot be reached")
        code = getattr(error, "smtp_code", None)
        if isinstance(error, smtplib.SMTPRecipientsRefused):
            code = next((code for code, _ in error.recipients.values()), None)
        facts = [str(code)] if code is not None else []
        if isinstance(error, ssl.SSLCertVerificationError):
            facts = [error.verify_message]
        elif isinstance(error, OSError) and error.strerror:
            facts = [error.strerror]
        return f"{name} {problem}" + (f" ({', '.join(facts)})" if facts else "")


class AcsMailer:
    """Hands mails to Azure Communication Services, as operations whose ids come from the ``Message-ID``.

    The service knows operations and mails by their ids, so that one that is sent again is not a second mail.
    """

    def __init__(
        self, connection: str, seconds: float = ACS_SECONDS, poll_seconds: float = ACS_POLL_SECONDS, **options: Any
    ) -> None:
        """``connection`` is a connection string or an https address; ``options`` are those of the client."""
        self._connection = connection
        self._seconds = seconds
        self._poll_seconds = poll_seconds
        self._options = options

    def send(self, message: EmailMessage) -> None:
        """Send the mail, and wait until the service says that it went out."""
        from azure.core.exceptions import AzureError, HttpResponseError  # imported where it is used: it takes long

        _check_acs(self._connection)
        _complete(message)
        operation = str(uuid.uuid5(uuid.NAMESPACE_URL, f"mid:{message['Message-ID']}"))
        try:
            self._sent(_as_acs(message), operation)
        except HttpResponseError as error:
            code = error.error.code if error.error is not None else error.reason
            problem = f"it answered {error.status_code} {code or ''}".strip()
            if error.status_code in (401, 403):
                problem += "; set ACS_CONNECTION right, or give the identity of the app access"
        except AzureError as error:
            problem = f"it cannot be reached ({type(error).__name__}): see that ACS_CONNECTION is right"
        else:
            return
        # Without what came before it, which may hold the request.
        raise OSError(f"Azure Communication Services did not take the mail: {problem}")

    def _sent(self, body: dict[str, Any], operation: str) -> None:
        from azure.core.exceptions import HttpResponseError
        from azure.core.rest import HttpRequest

        with _acs_client(self._connection, self._options) as client:
            refusal = None
            try:
                client.begin_send(body, operation_id=operation, polling=False)
            except HttpResponseError as error:
                if error.status_code not in (400, 409):
                    raise
                refusal = error  # perhaps because the mail was sent before: what became of it?
            path = f"/emails/operations/{operation}?api-version={ACS_VERSION}"
            until = time.monotonic() + self._seconds
            while True:
                answer = client.send_request(HttpRequest("GET", path))
                if refusal is not None and answer.status_code == 404:
                    raise refusal
                answer.raise_for_status()
                status = answer.json().get("status")
                if status == "Succeeded":
                    return
                if status not in ("NotStarted", "Running"):
                    code = (answer.json().get("error") or {}).get("code", "no reason given")
                    raise OSError(f"Azure Communication Services did not send the mail: {status}, {code}")
                if time.monotonic() + self._poll_seconds > until:
                    raise OSError(f"Azure Communication Services has not sent the mail in {self._seconds:g} seconds")
                time.sleep(self._poll_seconds)


def get_mailer() -> Mailer:
    """The mailer that the settings ask for."""
    settings = get_settings()
    if settings.mail == "smtp":
        return SmtpMailer(settings)
    if settings.mail == "acs":
        return AcsMailer(_secret_connection(settings))
    return FolderMailer(settings.local_host_data / "outbox")


def check_mail() -> None:
    """Raise ``ValueError``, with a sentence that names the setting, where no mail could be sent with the settings."""
    settings = get_settings()
    sender()
    if settings.mail == "folder" and settings.is_on_azure:
        raise ValueError("MAIL=folder is for local use: on Azure set MAIL to smtp or acs")
    if settings.mail == "smtp":
        _check_smtp(settings)
    if settings.mail == "acs":
        _check_acs(_secret_connection(settings))


def _check_smtp(settings: Settings) -> None:
    if not settings.smtp_host:
        raise ValueError("MAIL=smtp needs SMTP_HOST, the name of the mail server")
    password = settings.smtp_password.get_secret_value() if settings.smtp_password is not None else ""
    if settings.smtp_username is None:
        if password:
            raise ValueError("SMTP_PASSWORD is set without SMTP_USERNAME")
        return
    if settings.smtp_security == "none":
        raise ValueError(
            "SMTP_USERNAME is set and SMTP_SECURITY is none: a password is not sent over a connection that is not "
            "private; set SMTP_SECURITY to starttls or tls"
        )
    if not password:
        raise ValueError("SMTP_USERNAME is set without SMTP_PASSWORD")
    if not (settings.smtp_username + password).isascii():
        raise ValueError("SMTP_USERNAME and SMTP_PASSWORD have to be ASCII: a login with other letters is not sent")


def _secret_connection(settings: Settings) -> str:
    return settings.acs_connection.get_secret_value().strip() if settings.acs_connection is not None else ""


def _check_acs(connection: str) -> None:
    fields = dict(part.partition("=")[::2] for part in connection.split(";"))
    known = {key.strip().lower(): value.strip() for key, value in fields.items()}
    endpoint = known.get("endpoint") if known.get("accesskey") else connection
    parts = urlsplit(endpoint or "")
    if parts.scheme != "https" or not parts.hostname or "@" in parts.netloc:
        raise ValueError(
            "MAIL=acs needs ACS_CONNECTION: a connection string (endpoint=https://...;accesskey=...), or the https "
            "address of the resource, which is then used with the identity of the app"
        )


def _acs_client(connection: str, options: dict[str, Any]) -> Any:
    from azure.communication.email import EmailClient  # imported where it is used: it takes long

    given = {"api_version": ACS_VERSION, "retry_total": 2, "connection_timeout": 10, "read_timeout": 20} | options
    if connection.startswith("https://"):
        return EmailClient(connection, _identity(), **given)
    return EmailClient.from_connection_string(connection, **given)


@lru_cache(maxsize=1)
def _identity() -> Any:
    from azure.identity import DefaultAzureCredential  # imported where it is used: it takes long

    return DefaultAzureCredential()


def _as_acs(message: EmailMessage) -> dict[str, Any]:
    html, text = message.get_body(("html",)), message.get_body(("plain",))
    content = {"subject": str(message["Subject"]), "plainText": text.get_content() if text is not None else ""}
    if html is not None:
        content["html"] = html.get_content()
    to = [
        {"address": each.addr_spec} | ({"displayName": each.display_name} if each.display_name else {})
        for each in message["To"].addresses
    ]
    return {
        "senderAddress": sender().addr_spec,
        "recipients": {"to": to},
        "content": content,
        "headers": {
            "Message-ID": str(message["Message-ID"]),
            "Auto-Submitted": "auto-generated",
            # Without it, a mail with the same Message-ID is given another one, and sent a second time. See
            # https://learn.microsoft.com/azure/communication-services/concepts/email/email-headers
            "x-ms-acsemail-validate-message-id": "true",
            **{name: str(message[name]) for name in ("List-Unsubscribe", "List-Unsubscribe-Post") if message[name]},
        },
        "userEngagementTrackingDisabled": True,  # it would put its own links in place of ours
    }


def _complete(message: EmailMessage) -> None:
    """Put in what all mails have."""
    given: dict[str, Any] = {"From": sender(), "Date": now(), "Auto-Submitted": "auto-generated"}
    for name, value in given.items():
        del message[name]
        message[name] = value


def _name_of(message: EmailMessage) -> str:
    return str(message["Message-ID"])
