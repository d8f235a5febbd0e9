"""The mails of a sign-up: what each says and to whom, and that it says nothing that a stranger typed."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import EmailPolicy, default
from pathlib import Path
from typing import Any, get_args
from urllib.parse import parse_qs, urlsplit

import pytest

from contracts.signup import SignupClaims, SignupMail, SignupTemplate, same_address
from services import links, outbox
from services.mail import FolderMailer, get_mailer
from services.mail_rendering import message_id_of
from services.signup_mail import render
from settings import get_settings
from tests.services.test_mail import Inbox, serving
from tests.services.test_mail_rendering import HOSTILE, KNOWN_TAGS, Page, addresses_in, texts

RUN = "20260301T110000000000Z"
DEADLINE = datetime(2026, 3, 8, 11, 0, 0, 123000, tzinfo=UTC)
TEMPLATES: tuple[SignupTemplate, ...] = get_args(SignupTemplate)
ASKING: tuple[SignupTemplate, ...] = ("signup_verify", "signup_reminder")
BASE = "http://127.0.0.1:7071/signup/"
URL_IN_A_NAME = "Win: https://evil.example/"


@pytest.fixture(autouse=True)
def folder(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder, in which the key of the links lies; and the address of the app, whatever host ran before."""
    monkeypatch.setenv("PUBLIC_URL", "http://127.0.0.1:7071")
    get_settings.cache_clear()
    return data_folder


def a_mail(template: str = "signup_verify", email: str = "ann@example.org", **changes: Any) -> SignupMail:
    """A mail of each kind, to who has typed an address into both names."""
    form = {"username": "Ann", "email": email, "firstname": URL_IN_A_NAME, "lastname": "Lee"}
    said: dict[str, Any] = {
        "template": template,
        "instance_id": "signup-ann",
        "run": RUN,
        "number": 3,
        "form": form | changes.pop("form", {}),
        "generation": 2,
        "deadline": DEADLINE,
    }
    return SignupMail.model_validate(said | changes)


def arrived(message: EmailMessage) -> EmailMessage:
    """The mail as it comes out at the other end."""
    return message_from_bytes(message.as_bytes(), _class=EmailMessage, policy=default)


def claims_of(email: str = "ann@example.org") -> SignupClaims:
    """What the links have to say."""
    return SignupClaims(
        instance_id="signup-ann",
        run=RUN,
        generation=2,
        address=links.pseudonym("address", same_address(email)),
        until=DEADLINE,
    )


def token_in(address: str) -> str:
    """The token of a link."""
    [token] = parse_qs(urlsplit(address).query)["token"]
    return token


# What each says


@pytest.mark.parametrize("template", ASKING)
def test_a_mail_that_asks_says_who_signs_up_until_when_and_what_to_do(template: str) -> None:
    message = arrived(render(a_mail(template)))
    text, html = texts(message)
    code = links.code_of(claims_of())
    for form in (text, Page(html).text):
        assert 'under the user name "Ann"' in form.replace("&#34;", '"')
        assert f"Or open {BASE}confirm and type this code: {code}" in form
        assert "good until Sunday, 8 March 2026, 11:00 UTC" in form
        assert "If that was not you, do nothing." in form
        assert "Confirm the address" in form
    assert message["To"].addresses[0].addr_spec == "ann@example.org"
    assert message["To"].addresses[0].display_name == ""


@pytest.mark.parametrize("template", ASKING)
def test_the_link_and_the_code_are_bound_to_the_run_the_generation_and_the_address(template: str) -> None:
    text, html = texts(arrived(render(a_mail(template))))
    [address] = [each for each in Page(html).addresses if "/confirm?" in each]
    assert address in addresses_in(text)
    assert address.startswith(f"{BASE}confirm?token=")
    claims = links.read_signup(token_in(address), "confirm")
    assert claims == claims_of()
    assert links.is_code(claims, links.code_of(claims_of()))
    assert "ann@" not in address
    with pytest.raises(links.BadLink):
        links.read_signup(token_in(address), "stop")


def address_said_to(email: str) -> str:
    """The pseudonym of the address in the link of the mail that goes there."""
    [link] = [each for each in Page(texts(render(a_mail(email=email)))[1]).addresses if "/confirm?" in each]
    return links.read_signup(token_in(link), "confirm").address


@pytest.mark.parametrize(
    ("email", "same"),
    [
        ("ann@example.org", "ANN@Example.ORG"),
        ("jo\u0308rg@exämple.org", "J\u00d6RG@xn--exmple-cua.org"),
        ("ann@faß.example", "ann@xn--fa-hia.example"),
    ],
)
def test_an_address_is_one_in_whatever_way_it_is_written(email: str, same: str) -> None:
    assert address_said_to(email) == address_said_to(same) == links.pseudonym("address", same_address(email))


@pytest.mark.parametrize(
    ("email", "other"),
    [
        ("ann@faß.example", "ann@fass.example"),
        ("\uff41nn@example.org", "ann@example.org"),
        ("fuß@example.org", "fuss@example.org"),
        ("ann+1@example.org", "ann@example.org"),
    ],
)
def test_addresses_that_mail_goes_from_to_two_mailboxes_are_two(email: str, other: str) -> None:
    assert address_said_to(email) != address_said_to(other)


def test_a_reminder_has_the_link_and_the_code_of_its_generation_and_no_other_has() -> None:
    first, reminder = a_mail(number=1), a_mail("signup_reminder", number=2)
    newer = a_mail(generation=3)
    pages = [Page(texts(render(mail))[1]).text for mail in (first, reminder, newer)]
    codes = [page.partition("type this code: ")[2][:6] for page in pages]
    assert codes[0] == codes[1] != codes[2]
    assert all(len(code) == 6 and code.isdigit() for code in codes)


def test_a_reminder_can_be_stopped_from_the_mail_and_by_the_mail_program() -> None:
    message = arrived(render(a_mail("signup_reminder")))
    text, html = texts(message)
    [stop] = [each for each in Page(html).addresses if "/stop?" in each]
    assert stop in addresses_in(text)
    assert links.read_signup(token_in(stop), "stop") == claims_of()
    assert message["List-Unsubscribe"] == f"<{stop}>"
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    for template in set(TEMPLATES) - {"signup_reminder"}:
        other = render(a_mail(template))
        assert other["List-Unsubscribe"] is None
        assert other["List-Unsubscribe-Post"] is None
        assert not any("/stop?" in form for form in texts(other))


def test_the_header_to_unsubscribe_is_one_line_that_no_mail_program_has_to_decode() -> None:
    """Made encoded words of, it would be no link any more."""
    message = render(a_mail("signup_reminder", instance_id="signup-" + "x" * 64))
    for content in (message.as_bytes(), message.as_bytes(policy=EmailPolicy(utf8=True))):
        [line] = [each for each in content.split(b"\n") if each.startswith(b"List-Unsubscribe:")]
        assert line.startswith(b"List-Unsubscribe: <http://127.0.0.1:7071/signup/stop?token=")
        assert line.endswith(b">")
        assert len(line) < 900


def test_the_mail_of_a_known_address_has_nothing_to_click_and_nothing_that_was_typed() -> None:
    mail = a_mail("signup_known", form={"username": "mallory"})
    text, html = texts(arrived(render(mail, "Bob")))
    assert Page(html).addresses == []
    for form in (text, Page(html).text):
        assert 'It has an account already, under the user name "Bob".' in form
        assert "There is nothing for you to do." in form
        assert "mallory" not in form
        assert not re.search(r"\d{6}", form)
        assert "://" not in form
    text, html = texts(render(mail))
    for form in (text, Page(html).text):
        assert "It has an account already." in form
        assert "None" not in form


@pytest.mark.parametrize(
    ("names", "greeting"),
    [
        ({"firstname": "Ann", "lastname": "Lee"}, "Welcome, Ann Lee."),
        ({"firstname": "Ann", "lastname": None}, "Welcome, Ann."),
        ({"firstname": None, "lastname": "Lee"}, "Welcome, Lee."),
        ({"firstname": None, "lastname": None}, "Welcome. "),
    ],
)
def test_the_welcome_greets_who_has_an_account_now(names: dict[str, Any], greeting: str) -> None:
    text, html = texts(arrived(render(a_mail("signup_welcome", form=names))))
    for form in (text, Page(html).text):
        assert f'{greeting.strip()} Your account has the user name "Ann".' in form
    assert Page(html).addresses == []


def test_each_mail_has_its_own_subject_and_first_words_without_a_word_of_the_user() -> None:
    mails = [render(a_mail(template), "Bob") for template in TEMPLATES]
    subjects = {str(mail["Subject"]) for mail in mails}
    assert len(subjects) == len({texts(mail)[0].split("\n")[0] for mail in mails}) == len(TEMPLATES)
    assert "Please confirm your address" in subjects
    assert not any(word in subject for subject in subjects for word in ("Ann", "Bob", "Lee", "evil"))


# What people typed


@pytest.mark.parametrize("template", [*ASKING, "signup_known"])
def test_a_mail_to_who_has_confirmed_nothing_repeats_no_name(template: str) -> None:
    content = render(a_mail(template), "Bob").as_bytes()
    message = message_from_bytes(content, _class=EmailMessage, policy=default)
    for form in (content.decode(), *texts(message)):
        assert "evil" not in form
        assert "Lee" not in form


@pytest.mark.parametrize("text", [*HOSTILE, "Ann\r\nBcc: eve@example.com\r\n\r\nClick: https://evil.example"])
def test_a_name_in_the_welcome_stays_text_in_one_line(text: str) -> None:
    mail = a_mail("signup_welcome")
    form = mail.form.model_copy(update={"firstname": text, "lastname": text})  # past what the contracts would refuse
    message = arrived(render(mail.model_copy(update={"form": form})))
    plain, html = texts(message)
    assert Page(html).tags <= KNOWN_TAGS
    assert Page(html).addresses == []
    assert plain.split("\n")[0].endswith('Your account has the user name "Ann".')
    assert plain.strip().count("\n") == 0
    assert message["Bcc"] is None
    for part in (plain, html):
        assert not set(part) & set("\u202a\u202e\u2066\u2069\x00\x07\x1b\x7f\x9b")


def with_the_name(template: str, username: str) -> tuple[str, str]:
    """Text and HTML of a mail with a user name."""
    return texts(arrived(render(a_mail(template, form={"username": username, "firstname": None}), username)))


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_user_name_that_looks_like_an_address_is_no_link_in_the_html_of_any_mail(template: str) -> None:
    _, html = with_the_name(template, "tel:1.www.evil.example")
    assert '"tel<span>:</span>1<span>.</span>www<span>.</span>evil<span>.</span>example"' in html
    assert Page(html).tags <= KNOWN_TAGS | {"span"}
    assert '"tel:1.www.evil.example"' in Page(html).text.replace(" ", "")


@pytest.mark.parametrize("template", [*ASKING, "signup_known"])
@pytest.mark.parametrize(
    ("username", "shown"),
    [
        ("www.evil.example", "www . evil . example"),
        ("locked:call.0800", "locked : call . 0800"),
        ("tel:1", "tel : 1"),
        ("..", ".  ."),
        (".:", ".  :"),
    ],
)
def test_a_user_name_that_looks_like_an_address_is_no_link_in_the_text_for_who_has_confirmed_nothing(
    template: str, username: str, shown: str
) -> None:
    text, _ = with_the_name(template, username)
    assert f'under the user name "{shown}" (without the blanks)' in text
    assert username not in text


@pytest.mark.parametrize("template", [*ASKING, "signup_known"])
def test_a_user_name_that_looks_like_none_stands_in_the_text_as_it_is(template: str) -> None:
    text, _ = with_the_name(template, "Ann_Lee-1")
    assert 'under the user name "Ann_Lee-1".' in text


def test_the_welcome_says_the_user_name_as_it_is_typed() -> None:
    text, _ = with_the_name("signup_welcome", "ann.lee:1")
    assert 'the user name "ann.lee:1".' in text


# Message-ID


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_mail_that_is_rendered_again_has_the_same_name(template: str) -> None:
    mail = a_mail(template)
    assert render(mail)["Message-ID"] == render(mail)["Message-ID"] == message_id_of("signup-ann", RUN, 3)
    others = [
        a_mail(template, number=4),
        a_mail(template, instance_id="signup-bob"),
        a_mail(template, run=RUN[:-2] + "1Z"),
    ]
    assert len({render(each)["Message-ID"] for each in [mail, *others]}) == 4


# Where it goes


def test_no_mail_goes_to_what_is_no_address_and_the_error_does_not_repeat_it() -> None:
    form = a_mail().form.model_copy(update={"email": "ann@a,b"})
    with pytest.raises(ValueError, match="no address") as caught:
        render(a_mail().model_copy(update={"form": form}))
    assert "a,b" not in str(caught.value)


@pytest.mark.parametrize(
    ("email", "to"),
    [
        ("jörg@exämple.org", "jörg@exämple.org"),
        ("用户@例え.jp", "用户@例え.jp"),
        ("jörg@example.org", "jörg@example.org"),
        ("bob@exämple.org", "bob@xn--exmple-cua.org"),
        ("bob+tag@faß.de", "bob+tag@xn--fa-hia.de"),
    ],
)
@pytest.mark.parametrize("template", TEMPLATES)
def test_internationalised_addresses_work_with_the_folder(folder: Path, template: str, email: str, to: str) -> None:
    FolderMailer(folder / "outbox").send(render(a_mail(template, email), "Bob"))
    [mail] = outbox.page()
    assert mail.to == to
    assert mail.message_id == message_id_of("signup-ann", RUN, 3)
    assert mail.html is not None
    if template in ASKING:
        [link, *_] = Page(mail.html).addresses
        assert links.read_signup(token_in(link), "confirm") == claims_of(email)


@pytest.fixture
def to_server(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, EmailMessage], None]:
    """Sends mails to the mail server on a port."""

    def send(port: int, message: EmailMessage) -> None:
        given = {"MAIL": "smtp", "SMTP_HOST": "127.0.0.1", "SMTP_PORT": str(port), "SMTP_SECURITY": "none"}
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        get_settings.cache_clear()
        get_mailer().send(message)

    return send


@pytest.mark.parametrize(
    ("email", "recipient", "utf8"),
    [
        ("ann@example.org", "ann@example.org", False),
        ("bob@exämple.org", "bob@xn--exmple-cua.org", False),  # no extension is needed for it
        ("jörg@exämple.org", "jörg@exämple.org", True),
    ],
)
def test_internationalised_addresses_work_with_a_mail_server(
    to_server: Callable[[int, EmailMessage], None], email: str, recipient: str, utf8: bool
) -> None:
    inbox = Inbox()
    with serving(inbox, enable_SMTPUTF8=utf8) as port:
        to_server(port, render(a_mail("signup_reminder", email)))
    [envelope], [mail] = inbox.envelopes, inbox.mails
    assert envelope.rcpt_tos == [recipient]
    [stop] = [each for each in Page(texts(mail)[1]).addresses if "/stop?" in each]
    assert mail["List-Unsubscribe"] == f"<{stop}>"
    assert isinstance(envelope.content, bytes)
    assert f"List-Unsubscribe: <{stop}>\r\n".encode() in envelope.content


def test_a_mail_server_that_does_not_take_such_an_address_is_an_error_that_does_not_repeat_it(
    to_server: Callable[[int, EmailMessage], None],
) -> None:
    with serving(Inbox()) as port, pytest.raises(OSError, match="other than ASCII") as caught:
        to_server(port, render(a_mail(email="jörg@exämple.org")))
    assert "jörg" not in str(caught.value)
