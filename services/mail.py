"""Sending mail."""

from email.message import EmailMessage
from pathlib import Path
from typing import Protocol

from services.files import write_once
from settings import get_settings


class Mailer(Protocol):
    """Hands mails over for delivery."""

    def send(self, message: EmailMessage) -> None:
        """Send one mail. Its ``Message-ID`` names it: sent twice, it should arrive once. Raises ``OSError``."""
        ...


class FolderMailer:
    """Keeps every mail as an ``.eml`` file in a folder, where any mail program can open it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def send(self, message: EmailMessage) -> None:
        """Write the mail; the file is named by its ``Message-ID``, so that a repetition changes nothing."""
        write_once(self._folder, message["Message-ID"].strip("<>"), ".eml", message.as_bytes())


def get_mailer() -> Mailer:
    """The mailer that the settings ask for."""
    return FolderMailer(get_settings().local_host_data / "outbox")
