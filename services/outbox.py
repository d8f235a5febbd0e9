"""The outbox: the folder of mails of ``MAIL=folder``, to be looked at."""

import hashlib
import heapq
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email import message_from_string
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from urllib.parse import unquote

from services import files
from services.clock import now
from services.mail_rendering import message_id_of
from settings import get_settings

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class OutboxMail:
    """A mail in the outbox. ``id`` names it in addresses; ``raw`` is the file."""

    id: str
    to: str
    subject: str
    date: datetime
    message_id: str
    text: str
    html: str | None
    raw: bytes


def is_shown() -> bool:
    """Whether there is an outbox to be looked at: never on Azure, and only where mail goes to the folder."""
    settings = get_settings()
    return settings.mail == "folder" and not settings.is_on_azure


def page(limit: int = 100) -> list[OutboxMail]:
    """Return the newest mails, newest first. What cannot be read is left out."""
    newest = heapq.nlargest(limit, ((entry.stat().st_mtime_ns, entry.name, entry.path) for entry in _entries()))
    return [mail for _, _, path in newest if (mail := _mail(Path(path))) is not None]


def read(mail_id: str) -> OutboxMail | None:
    """Return one mail, or None."""
    found = next((entry.path for entry in _entries() if _id(entry.name) == mail_id), None)
    return _mail(Path(found)) if found is not None else None


def erase(instance_id: str, run: str) -> int:
    """Remove all mails of a run from the outbox, whatever ``MAIL_FROM`` was then, and return how many there were.

    Nothing happens where mail does not go to the folder. Raises ``OSError`` when a file cannot be removed.
    """
    if not is_shown():
        return 0
    before_number = message_id_of(instance_id, run, 1).strip("<>").rpartition("@")[0].removesuffix("1")
    names = re.compile(re.escape(before_number) + "[0-9]+@")
    return sum([_removed(Path(entry.path)) for entry in list(_entries()) if names.match(_message_id(entry))])


def sweep() -> int:
    """Remove what is left of mails that a crash interrupted, a day later, and return how much there was."""
    return files.sweep(_folder(), now() - timedelta(days=1)) if is_shown() else 0


def _message_id(entry: os.DirEntry[str]) -> str:
    """The Message-ID that a file is named by; where its name was cut, which a tilde says, it stands in the file."""
    if "~" not in entry.name:
        return unquote(entry.name.removesuffix(".eml"))
    mail = _mail(Path(entry.path))
    return mail.message_id.strip("<>") if mail is not None else ""


def _removed(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def _folder() -> Path:
    return get_settings().local_host_data / "outbox"


def _entries() -> Iterator[os.DirEntry[str]]:
    if not is_shown():
        return
    try:
        with os.scandir(_folder()) as entries:
            yield from (each for each in entries if each.name.endswith(".eml") and each.is_file(follow_symlinks=False))
    except FileNotFoundError:
        return  # nothing was sent yet


def _id(name: str) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:32]


def _mail(path: Path) -> OutboxMail | None:
    try:
        raw = path.read_bytes()
        # As UTF-8, not as bytes: the addresses in it may be other than ASCII.
        message = message_from_string(raw.decode(errors="replace"), _class=EmailMessage, policy=default)
        said = message["Date"].datetime if message["Date"] is not None else None
        date = said or datetime.fromtimestamp(path.stat().st_mtime, UTC)
        return OutboxMail(
            id=_id(path.name),
            to=str(message["To"] or ""),
            subject=str(message["Subject"] or ""),
            date=date if date.tzinfo is not None else date.replace(tzinfo=UTC),
            message_id=str(message["Message-ID"] or ""),
            text=_body(message, "plain") or "",
            html=_body(message, "html"),
            raw=raw,
        )
    except Exception:  # whatever the parser makes of a file that is no mail
        _LOGGER.warning("The file %s in the outbox cannot be read.", path.name, exc_info=True)
        return None


def _body(message: EmailMessage, kind: str) -> str | None:
    part = message.get_body((kind,))
    content = part.get_content() if part is not None else None
    return content if isinstance(content, str) else None
