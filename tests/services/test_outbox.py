"""The outbox: the newest mails of the folder, and one by its id."""

import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from services import outbox
from services.clock import now
from services.mail import address_of, get_mailer, new_message
from services.mail_rendering import message_id_of
from settings import get_settings


@pytest.fixture
def configure(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets settings, by their names in lower case."""

    def sets(**values: Any) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name.upper(), str(value))
        get_settings.cache_clear()

    return sets


def sent(number: int = 1, to: str = "bob@example.org", *, html: bool = True) -> None:
    """Send a mail into the folder, so many seconds after the epoch."""
    message = new_message()
    message["Message-ID"] = f"<{number}@example.com>"
    message["To"] = address_of(to, "Bob")
    message["Subject"] = f"Número {number}"
    message.set_content("Grüße <b>")
    if html:
        message.add_alternative("<p>Grüße &lt;b&gt;</p>", subtype="html")
    get_mailer().send(message)
    file = get_settings().local_host_data / "outbox" / f"{number}@example.com.eml"
    os.utime(file, (number, number))


def test_a_mail_is_shown_as_it_was_sent(data_folder: Path) -> None:
    sent()
    [mail] = outbox.page()
    assert (mail.to, mail.subject, mail.message_id) == ("Bob <bob@example.org>", "Número 1", "<1@example.com>")
    assert (mail.text, mail.html) == ("Grüße <b>\n", "<p>Grüße &lt;b&gt;</p>\n")
    assert abs((mail.date - datetime.now(UTC)).total_seconds()) < 60
    assert mail.raw == (data_folder / "outbox" / "1@example.com.eml").read_bytes()
    assert mail.id.isalnum()
    assert outbox.read(mail.id) == mail


def test_a_mail_of_text_alone_has_no_html(data_folder: Path) -> None:
    sent(html=False)
    [mail] = outbox.page()
    assert (mail.text, mail.html) == ("Grüße <b>\n", None)


def test_an_address_beyond_ascii_is_shown_as_it_is(data_folder: Path) -> None:
    sent(to="jörg@exämple.org")
    assert outbox.page()[0].to == "Bob <jörg@exämple.org>"


def test_the_newest_come_first_up_to_the_limit(data_folder: Path) -> None:
    for number in (3, 1, 4, 2, 5):
        sent(number)
    assert [mail.message_id for mail in outbox.page(3)] == ["<5@example.com>", "<4@example.com>", "<3@example.com>"]
    assert len(outbox.page()) == 5
    assert outbox.page(0) == []


def test_an_outbox_without_mails_is_empty(data_folder: Path) -> None:
    assert (outbox.page(), outbox.read("x")) == ([], None)
    (data_folder / "outbox").mkdir()
    assert (outbox.page(), outbox.read("x")) == ([], None)


@pytest.mark.parametrize(
    "mail_id",
    ["", ".", "..", "../secret", "../secret.eml", "1@example.com", "1@example.com.eml", "/etc/passwd", "\0", "é"],
)
def test_an_id_is_never_a_path(data_folder: Path, mail_id: str) -> None:
    sent()
    (data_folder / "secret.eml").write_text("Subject: secret\n\n")
    assert outbox.read(mail_id) is None


def test_what_is_no_mail_file_of_the_folder_is_left_out(data_folder: Path) -> None:
    sent()
    folder = data_folder / "outbox"
    (data_folder / "secret.txt").write_text("Subject: secret\n\n")
    (folder / "link.eml").symlink_to(data_folder / "secret.txt")
    (folder / "folder.eml").mkdir()
    (folder / ".new-x").write_text("half of a m")
    (folder / "notes.txt").write_text("Subject: notes\n\n")
    assert [mail.message_id for mail in outbox.page()] == ["<1@example.com>"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\x00",
        b"no header at all",
        b"Date: never\nSubject: =?utf-8?q?=ff?=\n\n\xff",
        b"Content-Type: multipart/alternative; boundary=x\n\n--x\n",
        b"Content-Type: text/plain; charset=nonsense\n\nx",
        b"Content-Type: text/html\nContent-Transfer-Encoding: base64\n\n!!!",
        b"Date: Sun, 01 Mar 2026 12:00:00 -0000\n\n",
        b"Content-Type: image/png\n\nx",
        b"To: <<>>, @\nMessage-ID: <\nSubject: \r\n\r\n",
    ],
)
def test_a_file_that_is_no_mail_hides_no_other(data_folder: Path, content: bytes) -> None:
    sent(2)
    file = data_folder / "outbox" / "broken.eml"
    file.write_bytes(content)
    os.utime(file, (3, 3))
    assert outbox.page()[-1].message_id == "<2@example.com>"
    for mail in outbox.page():
        assert outbox.read(mail.id) == mail
        assert mail.date.tzinfo is not None
        f"{mail.to}{mail.subject}{mail.text}{mail.html}".encode()


def test_a_file_that_cannot_be_read_is_logged_and_left_out(
    data_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sent(1)
    sent(2)
    real = Path.read_bytes

    def broken(path: Path) -> bytes:
        if path.name.startswith("2@"):
            raise PermissionError("no")
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", broken)
    with caplog.at_level(logging.WARNING):
        assert [mail.message_id for mail in outbox.page()] == ["<1@example.com>"]
    assert "2@example.com.eml in the outbox cannot be read" in caplog.text


def test_of_many_mails_only_those_of_the_page_are_parsed(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent(1)
    for number in range(10_000):
        (data_folder / "outbox" / f"many-{number}.eml").hardlink_to(data_folder / "outbox" / "1@example.com.eml")
    read: list[str] = []
    real = Path.read_bytes

    def counted(path: Path) -> bytes:
        read.append(path.name)
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    page = outbox.page(20)
    assert len(page) == len(read) == 20
    read.clear()
    assert outbox.read(page[7].id) == page[7]
    assert len(read) == 1


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ({}, True),
        ({"website_instance_id": "x"}, False),
        ({"mail": "smtp"}, False),
        ({"mail": "acs"}, False),
        ({"mail": "smtp", "website_instance_id": "x"}, False),
    ],
)
def test_it_is_shown_only_where_mail_goes_to_the_folder_and_never_on_azure(
    configure: Callable[..., None], values: dict[str, str], shown: bool
) -> None:
    sent()
    [mail] = outbox.page()
    configure(**values)
    assert outbox.is_shown() is shown
    assert outbox.page() == ([mail] if shown else [])
    assert outbox.read(mail.id) == (mail if shown else None)


# Erasing


RUN, LATER_RUN = "20260301T110000000000Z", "20260301T110000000001Z"
LONGEST = "signup-" + "." * 64
"""The names of its files are cut, since each dot takes five letters there."""


def sent_by(instance_id: str, *numbers: int, run: str = RUN) -> None:
    """Send mails of a run into the folder."""
    for number in numbers:
        message = new_message()
        message["Message-ID"] = message_id_of(instance_id, run, number)
        message["To"] = address_of("bob@example.org")
        get_mailer().send(message)


def left() -> list[str]:
    """The names of the mails in the folder."""
    return sorted(mail.message_id for mail in outbox.page())


@pytest.mark.parametrize("instance_id", ["signup-ann", "a.b", ":", "x" * 300, "ü~/..", "*", "a[n]n", "%41", LONGEST])
def test_all_mails_of_a_run_are_erased_whatever_the_sender_was_when_they_went_out(
    data_folder: Path, configure: Callable[..., None], instance_id: str
) -> None:
    sent_by(instance_id, 1, 2, 11)
    configure(mail_from=f"Us <us@{'long.' * 30}example>")
    sent_by(instance_id, 3)
    configure(mail_from="us@two.example")
    sent_by(instance_id, 4)
    assert outbox.erase(instance_id, RUN) == 5
    assert list((data_folder / "outbox").iterdir()) == []
    assert outbox.erase(instance_id, RUN) == 0


def test_the_mails_of_other_runs_and_instances_are_kept(data_folder: Path) -> None:
    sent_by("signup-ann", 1, 2)
    sent_by("signup-ann", 1, run=LATER_RUN)
    for other in ("signup-anne", "signup-an", "signup-ann.b", "signup-ANN", "nup-ann", "sign%75p-ann", LONGEST[:-1]):
        sent_by(other, 1)
    sent_by(LONGEST, 1, run=LATER_RUN)
    before = left()
    assert outbox.erase("signup-ann", RUN) == 2
    assert left() == sorted(set(before) - {message_id_of("signup-ann", RUN, number) for number in (1, 2)})
    before = left()
    assert outbox.erase(LONGEST, RUN) == 0
    assert left() == before
    assert outbox.erase(LONGEST, LATER_RUN) == 1
    assert outbox.erase(LONGEST[:-1], RUN) == 1


def test_what_has_a_cut_name_and_is_no_mail_is_kept(data_folder: Path) -> None:
    sent_by(LONGEST, 1)
    [file] = (data_folder / "outbox").iterdir()
    file.write_bytes(b"no mail")
    assert outbox.erase(LONGEST, RUN) == 0
    assert file.exists()


def test_what_a_crash_left_of_a_mail_goes_after_a_day_and_nothing_else_does(data_folder: Path) -> None:
    folder = data_folder / "outbox"
    folder.mkdir(exist_ok=True)
    yesterday = (now() - timedelta(days=1, seconds=5)).timestamp()
    for name, age in (
        (".new-old", yesterday),
        (".new-young", yesterday + 60),
        ("old.eml", yesterday),
        (".new", yesterday),
    ):
        (folder / name).write_bytes(b"To: ann@example.com")
        os.utime(folder / name, (age, age))
    assert outbox.sweep() == 1
    assert sorted(each.name for each in folder.iterdir()) == [".new", ".new-young", "old.eml"]
    assert outbox.sweep() == 0


def test_without_an_outbox_nothing_is_swept(data_folder: Path, configure: Callable[..., None]) -> None:
    assert outbox.sweep() == 0
    (data_folder / "outbox").mkdir()
    (data_folder / "outbox" / ".new-old").write_bytes(b"")
    os.utime(data_folder / "outbox" / ".new-old", (0, 0))
    configure(mail="smtp")
    assert outbox.sweep() == 0


def test_without_an_outbox_nothing_is_erased(data_folder: Path, configure: Callable[..., None]) -> None:
    assert outbox.erase("signup-ann", RUN) == 0
    sent_by("signup-ann", 1)
    for elsewhere in ({"mail": "smtp"}, {"mail": "folder", "website_instance_id": "one"}):
        configure(**elsewhere)
        assert outbox.erase("signup-ann", RUN) == 0
    assert len(list((data_folder / "outbox").iterdir())) == 1


@pytest.mark.parametrize(
    "instance_id",
    ["", ".", "..", "../secret", "/etc/passwd", "secret.eml", "x\0y", "*", ".*", "?", "[a-z]*", "%2E%2E%2Fsecret", "~"],
)
@pytest.mark.parametrize("run", [RUN, "", "*", ".*"])
def test_nothing_else_can_be_erased(data_folder: Path, instance_id: str, run: str) -> None:
    sent()
    sent_by("signup-ann", 1)
    sent_by(LONGEST, 1)
    name = f"signup-ann.{RUN}.1@example.com.eml"
    others = ["secret.eml", name, "outbox/secret.txt", "outbox/.eml.new", "outbox/.1@example.com.eml", "outbox/.new-1"]
    for other in others:
        (data_folder / other).write_text("kept")
    before = sorted(data_folder.rglob("*"))
    assert outbox.erase(instance_id, run) == 0
    assert sorted(data_folder.rglob("*")) == before


def test_what_is_no_mail_file_of_the_outbox_itself_is_not_erased(data_folder: Path) -> None:
    sent_by("signup-ann", 1)
    folder = data_folder / "outbox"
    (data_folder / "kept.eml").write_text("kept")
    (folder / f"signup-ann.{RUN}.2@example.com.eml").symlink_to(data_folder / "kept.eml")
    (folder / f"signup-ann.{RUN}.3@example.com.eml").mkdir()
    (folder / f"signup-ann.{RUN}.4@example.com.eml.kept").write_text("kept")
    (folder / f"signup-ann.{RUN}.x@example.com.eml").write_text("kept")
    (folder / f"signup-ann.{RUN}.@example.com.eml").write_text("kept")
    (folder / f"x.signup-ann.{RUN}.1@example.com.eml").write_text("kept")
    (folder / "deeper").mkdir()
    (folder / "deeper" / f"signup-ann.{RUN}.1@example.com.eml").write_text("kept")
    (data_folder / "elsewhere").mkdir()
    (data_folder / "elsewhere" / f"signup-ann.{RUN}.1@example.com.eml").write_text("kept")
    (folder / "linked").symlink_to(data_folder / "elsewhere")
    before = set(data_folder.rglob("*"))
    assert outbox.erase("signup-ann", RUN) == 1
    assert before - set(data_folder.rglob("*")) == {folder / f"signup-ann.{RUN}.1@example.com.eml"}


def test_a_mail_that_somebody_else_removes_at_the_same_moment_is_no_error(
    data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent_by("signup-ann", 1, 2)
    real = Path.unlink

    def gone(path: Path, **given: Any) -> None:
        if ".1@" in path.name:
            real(path)
        real(path, **given)

    monkeypatch.setattr(Path, "unlink", gone)
    assert outbox.erase("signup-ann", RUN) == 1
    assert left() == []


def test_a_mail_that_cannot_be_erased_is_an_error(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent_by("signup-ann", 1)

    def refused(_: Path) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(OSError, match="read-only"):
        outbox.erase("signup-ann", RUN)
