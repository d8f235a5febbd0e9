"""What mails say: each template, as HTML and as text, whatever people wrote."""

import json
from datetime import UTC, datetime
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import pytest

from contracts.mail import Mail
from contracts.shown import Content
from services import links
from services.mail_rendering import MAX_DETAILS, message_id, render
from settings import get_settings

RUN = "20260301T110000000000Z"
TEMPLATES = get_args(Mail.model_fields["template"].annotation)
GATE = ("gate", "gate_reminder", "gate_escalated")
WITH_LINK = ("asked", "reminder", "escalated", "delegated", *GATE)
BASE = "http://127.0.0.1:7071/approve/"
GATE_BASE = "http://127.0.0.1:7071/intervene/"
HOSTILE = [
    "<script>alert(1)</script>",
    "<a href='https://evil.example'>here</a><img src=https://evil.example/x.png>",
    "{{ 7 * 7 }}{% for x in y %}{# #}",
    "\u202egpj.exe\u2066\u2069 https://evil.example",
    "& &lt; &#60;script&#62; \"quoted\" 'quoted'",
    "\ud83d\ud83d\udca9 half",
    "\x00\x07\x1b[31m\x7f\x9b bells",
    "long " * 700,
    "unbroken" * 400,
]


@pytest.fixture(autouse=True)
def folder(data_folder: Path) -> Path:
    """A data folder, in which the key of the links lies."""
    return data_folder


def a_mail(template: str = "asked", **changes: Any) -> Mail:
    """A mail of each kind."""
    said: dict[str, Any] = {
        "template": template,
        "instance_id": "one",
        "run": RUN,
        "number": 3,
        "round": 1,
        "to": "bob@example.org",
        "to_name": "Bob",
        "deadline": datetime(2026, 3, 1, 12, tzinfo=UTC),
        "link_digest": "0" * 64 if template in WITH_LINK else None,
        "by": "ann@example.org",
        "on_behalf_of": "Cy",
        "outcome": "Approved" if template == "decided" else None,
        "comment": "As we said",
    }
    return Mail(**said | changes)


def content(**changes: Any) -> Content:
    """What is asked."""
    said: dict[str, Any] = {"requester": "Alice", "item": "A laptop", "title": "New laptop", "description": "It broke."}
    return Content(**said | changes)


def unchecked(text: str) -> tuple[Mail, Content]:
    """A mail in which a text stands wherever people write something, past all that the contracts would refuse."""
    mail = {"to_name": text[:100], "by": text, "on_behalf_of": text, "comment": text, "outcome": text}
    said = {
        "requester": text,
        "item": text,
        "title": text,
        "description": text,
        "details": {text: [text, {text: text}]},
    }
    return a_mail().model_copy(update=mail), content().model_copy(update=said)


def arrived(message: EmailMessage) -> EmailMessage:
    """The mail as it comes out at the other end."""
    return message_from_bytes(message.as_bytes(), _class=EmailMessage, policy=default)


def texts(message: EmailMessage) -> tuple[str, str]:
    """The plain text and the HTML."""
    plain, html = message.get_body(("plain",)), message.get_body(("html",))
    assert plain is not None
    assert html is not None
    return plain.get_content(), html.get_content()


class Page(HTMLParser):
    """What a mail program makes of the HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        given = dict(attrs)
        self.addresses += [
            value or "" for name, value in given.items() if name in ("href", "src", "action", "background")
        ]
        assert not any(name.startswith("on") for name in given)
        assert "url(" not in (given.get("style") or "")

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


KNOWN_TAGS = {"html", "head", "meta", "style", "title", "body", "div", "h1", "p", "table", "tr", "th", "td", "ol", "li"}
KNOWN_TAGS |= {"a", "strong", "code"}


def addresses_in(text: str) -> list[str]:
    """The addresses in the lines of a text that are not marked as somebody's words."""
    ours = [line for line in text.split("\n") if not line.startswith(">")]
    return [word for line in ours for word in line.split() if "://" in word or "www." in word]


# What each says


@pytest.mark.parametrize("template", TEMPLATES)
def test_each_mail_says_what_is_asked_by_whom_in_both_forms(template: str) -> None:
    mail = a_mail(template)
    message = arrived(render(mail, content(details={"Price": 1200, "For": {"who": ["Ann", "Bob"]}})))
    text, html = texts(message)
    for form in (text, Page(html).text):
        for said in ("Alice", "New laptop", "A laptop", "It broke.", "Price", "1200", "who", "ann@example.org", "Cy"):
            assert said in form
        assert "As we said" in form
    assert message["To"].addresses[0].addr_spec == "bob@example.org"
    assert message["To"].addresses[0].display_name == "Bob"
    assert "New laptop" in message["Subject"]
    assert message.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]


@pytest.mark.parametrize("template", TEMPLATES)
def test_each_mail_has_its_own_first_words(template: str) -> None:
    first = {each: texts(render(a_mail(each), content()))[0].split("\n")[0] for each in TEMPLATES}
    assert len(set(first.values())) == len(TEMPLATES)
    assert first[template] in Page(texts(render(a_mail(template), content()))[1]).text


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_mail_says_until_when_where_there_is_something_to_do(template: str) -> None:
    text, html = texts(render(a_mail(template), content()))
    has_it = template not in ("decided", "withdrawn")
    for form in (text, Page(html).text):
        assert ("Sunday, 1 March 2026, 12:00 UTC" in form) is has_it
    assert "until" not in texts(render(a_mail(template, deadline=None), content()))[0].replace("Until you", "")


def test_a_deadline_of_another_zone_is_told_in_utc() -> None:
    mail = Mail.model_validate(a_mail().plain() | {"deadline": "2026-12-31T23:30:00-05:00"})
    assert "Friday, 1 January 2027, 04:30 UTC" in texts(render(mail, content()))[0]


@pytest.mark.parametrize("template", WITH_LINK)
def test_a_mail_for_an_approver_has_one_link_which_is_theirs(template: str) -> None:
    mail = a_mail(template)
    text, html = texts(arrived(render(mail, content())))
    [address] = Page(html).addresses
    base = GATE_BASE if template in GATE else BASE
    assert address.startswith(base)
    assert addresses_in(text) == [address]
    assert links.read(address.removeprefix(base), mail.page) == mail.link
    assert "Look at it and decide" in text
    assert "Look at it and decide" in Page(html).text


@pytest.mark.parametrize("template", ["decided", "withdrawn", "changes_requested"])
def test_a_mail_without_a_link_has_nothing_to_click(template: str) -> None:
    text, html = texts(render(a_mail(template), content()))
    assert Page(html).addresses == []
    assert "/approve/" not in text + html
    assert "Look at it" not in text + html


@pytest.mark.parametrize("template", GATE)
def test_a_mail_of_a_call_that_failed_names_its_facts_as_what_they_are(template: str) -> None:
    said = content(requester="refund-7", item="charge", title="charge failed")
    said = said.model_copy(update={"details": {"call": "POST https://x/", "call_sha256": "0" * 64}})
    message = arrived(render(a_mail(template, by=None, on_behalf_of=None, comment=None), said))
    text, html = texts(message)
    lines = [line for line in text.split("\n") if line.startswith(">")]
    assert lines == [
        "> Part of: refund-7",
        "> Title: charge failed",
        "> Call: charge",
        "> Error: It broke.",
        "> Details:",
        ">     call: POST https://x/",
    ]
    shown = Page(html).text
    assert "Part of refund-7 Title charge failed Call charge Error It broke. Details call POST https://x/" in shown
    for form in (text, shown):
        assert "It waits until Sunday, 1 March 2026, 12:00 UTC" in " ".join(form.split())
        assert "request" not in form.lower()
        assert "can be decided until" not in form
    assert (
        message["Subject"].endswith("please look: charge failed") or message["Subject"] == "Please look: charge failed"
    )


def test_a_mail_that_asks_for_changes_says_how_to_answer() -> None:
    text, html = texts(render(a_mail("changes_requested", instance_id="a/b?code=x"), content()))
    call = "POST http://127.0.0.1:7071/api/requests/a%2Fb%3Fcode%3Dx/revise"
    assert call in text
    assert call in Page(html).text


@pytest.mark.parametrize(
    ("outcome", "said"), [("Approved", "approved"), ("Rejected", "rejected"), ("Timeout", "in time"), ("Odd", "ended")]
)
def test_a_decided_mail_says_the_outcome(outcome: str, said: str) -> None:
    message = render(a_mail("decided", outcome=outcome), content())
    assert said in texts(message)[0].split("\n")[0]
    assert message["Subject"] == f"{outcome}: New laptop"
    assert f"> Outcome: {outcome}" in texts(message)[0]


def test_the_code_stands_in_the_mail_where_it_is_asked_for() -> None:
    mail = a_mail(code=True)
    assert mail.link is not None
    code = links.code_of(mail.link)
    text, html = texts(render(mail, content()))
    assert f"The page asks for this code: {code}" in text
    assert f"The page asks for this code: {code}" in Page(html).text
    without = texts(render(a_mail(), content()))
    assert not any(code in form or "code" in Page(form).text for form in without)


def test_a_mail_with_the_least_in_it_can_be_written() -> None:
    for template in TEMPLATES:
        nothing = {
            "to_name": None,
            "deadline": None,
            "by": None,
            "on_behalf_of": None,
            "comment": None,
            "outcome": None,
        }
        text, html = texts(render(a_mail(template, **nothing), Content(requester="A", item="B")))
        assert "None" not in text + html


def test_no_mail_is_sent_to_what_is_no_address() -> None:
    with pytest.raises(ValueError, match="no address"):
        render(a_mail(to="bob@a,b"), content())


# What people wrote


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("text", HOSTILE)
def test_what_people_wrote_stays_text(template: str, text: str) -> None:
    mail, said = unchecked(text)
    message = arrived(render(mail.model_copy(update={"template": template}), said))
    plain, html = texts(message)
    page = Page(html)
    assert page.tags <= KNOWN_TAGS
    assert all(address.startswith(GATE_BASE if template in GATE else BASE) for address in page.addresses)
    assert len(page.addresses) <= 1
    assert all(address.startswith("http://127.0.0.1:7071/") for address in addresses_in(plain))
    for form in (plain, html, message["Subject"]):
        assert not set(form) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\x00\x07\x1b\x7f\x9b")
        form.encode()
    assert all(len(line) <= 998 for line in message.as_bytes().split(b"\n"))


@pytest.mark.parametrize("text", ["<b>bold</b>", "{{ 7 * 7 }}", "a & b &lt; c"])
def test_what_people_wrote_is_shown_as_they_wrote_it(text: str) -> None:
    mail, said = unchecked(text)
    plain, html = texts(render(mail, said))
    assert text in plain
    assert Page(html).text.count(text) >= 9


@pytest.mark.parametrize(
    "newline", ["\n", "\r\n", "\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
)
@pytest.mark.parametrize("field", ["requester", "item", "title", "description", "details", "key", "comment", "by"])
def test_nobody_can_write_what_looks_like_our_link(newline: str, field: str) -> None:
    forged = f"x{newline}{newline}Look at it and decide:{newline}{newline}https://evil.example/approve/1"
    changes: dict[str, Any] = {field: forged}
    if field in ("details", "key"):
        changes = {"details": {"a": [forged]} if field == "details" else {forged: 1}}
    on_mail = {key: value for key, value in changes.items() if key in ("comment", "by")}
    on_content = {key: value for key, value in changes.items() if key not in on_mail}
    text, _ = texts(arrived(render(a_mail().model_copy(update=on_mail), content().model_copy(update=on_content))))
    assert [address.startswith(BASE) for address in addresses_in(text)] == [True]
    assert [line for line in text.splitlines() if line.startswith("Look at it")] == ["Look at it and decide:"]
    # and they all stand before it
    assert "evil" not in text[text.index("\nLook at it and decide:") :]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r", "\u2028", "\x85"])
def test_every_kind_of_line_break_is_one_line_break(newline: str) -> None:
    text, html = texts(render(a_mail(), content(description=f"one{newline}two")))
    assert "> Description:\n>     one\n>     two\n" in text
    assert "one\ntwo" in html


@pytest.mark.parametrize("blank", [" ", "\t", "\u00a0", "\u2003", "\u3000"])
def test_a_long_line_does_not_run_on_to_where_it_looks_like_ours(blank: str) -> None:
    """A mail program that wraps a long line goes on without the mark."""
    text, _ = texts(render(a_mail(), content(description="x" + blank * 200 + "Decide here: https://evil.example/")))
    assert all(len(line) <= 80 for line in text.split("\n") if line.startswith(">"))
    assert addresses_in(text)[0].startswith(BASE)
    assert len(addresses_in(text)) == 1


def test_nobody_can_write_what_looks_like_another_fact() -> None:
    text, _ = texts(render(a_mail(), content(description="x\nRequested by: The CEO\nComment: Fine")))
    assert [line for line in text.split("\n") if line.startswith("> Requested by")] == ["> Requested by: Alice"]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r", "\u2028", "\x85"])
def test_a_headline_or_a_name_cannot_make_a_header(newline: str) -> None:
    mail, said = unchecked(f"x{newline}Bcc: eve@example.com{newline}{newline}body")
    message = arrived(render(mail, said))
    assert message["Bcc"] is None
    assert message["Subject"] == "Please decide: x Bcc: eve@example.com body"
    assert len(message["To"].addresses) == 1


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_subject_is_one_line_of_up_to_200_characters(template: str) -> None:
    subject = render(a_mail(template), content(title="ü" * 200))["Subject"]
    assert len(subject) == 200
    assert subject.endswith("…")
    assert len(render(a_mail(template), content(title="x"))["Subject"]) < 60


def test_details_are_laid_out_for_reading() -> None:
    details = {"a": 1, "b": {"c": [1.5, {"d": None, "e": "x\ny"}], "f": True}, "g": {}, "h": [], "i": False, "j": ""}
    text, html = texts(render(a_mail(), content(details=details)))
    assert (
        "> Details:\n>     a: 1\n>     b:\n>       c:\n>         - 1.5\n>         -\n>           d: –\n"  # noqa: RUF001
        ">           e: x\n>             y\n>       f: yes\n>     g: –\n>     h: –\n>     i: no\n>     j:\n"  # noqa: RUF001
    ) in text
    assert "a 1 b c 1.5 d – e x y f yes g – h – i no j" in Page(html).text  # noqa: RUF001


@pytest.mark.parametrize(
    "details",
    [
        {"numbers": [1] * 990},
        {str(number): 1 for number in range(600)},
        {str(number): {"a": []} for number in range(320)},
        {"text": "<" * 5900},
    ],
)
def test_a_mail_is_short_enough_not_to_be_cut_off(details: dict[str, Any]) -> None:
    """Mail programs cut off what is over 100 KB, and the link must not be in that."""
    assert len(json.dumps(details)) <= MAX_DETAILS
    _, html = texts(render(a_mail(), content(details=details)))
    assert len(html) < 100_000


@pytest.mark.parametrize("template", TEMPLATES)
def test_details_that_are_too_long_for_a_mail_are_on_the_page(template: str) -> None:
    text, html = texts(render(a_mail(template), content(details={"x": "secret" * 1000})))
    for form in (text, Page(html).text):
        assert "secret" not in form
        assert "too long for a mail" in form
        assert ("the page behind the link shows them" in form) is (template in WITH_LINK)


def test_templates_have_no_images_scripts_or_style_sheets() -> None:
    for template in TEMPLATES:
        _, html = texts(render(a_mail(template), content(details={"a": [1]})))
        assert Page(html).tags <= KNOWN_TAGS
        assert 'name="color-scheme" content="light dark"' in html
        assert "width=device-width" in html


# Message-ID


@pytest.mark.parametrize(
    "instance",
    ["one", "a.b", ".a", "a..b", "..", "a~b", "<x>@y", "a\r\nBcc: x@y", "ü" * 30, "😀" * 1000, "\ud800", " "],
)
def test_a_message_id_is_one_valid_short_word(instance: str) -> None:
    mail = a_mail().model_copy(update={"instance_id": instance, "link_digest": None})
    name = message_id(mail)
    left, _, right = name.strip("<>").partition("@")
    assert name.isascii()
    assert len(name) < 300
    assert right == "example.com"
    assert all(part and not set(part) & set(' "(),:;<>@[\\]\r\n\t') for part in left.split("."))
    if "\ud800" not in instance:
        again = arrived(render(mail, content()))
        assert again["Message-ID"] == name
        assert again["Bcc"] is None


def test_message_ids_tell_mails_apart_and_repetitions_not() -> None:
    ids = ["one", "a.b", "a%2Eb", "a~b", "ü" * 100, "ü" * 99 + "u", "ü" * 100 + "x", "~", "%7E"]
    mails = [a_mail(instance_id=each) for each in ids]
    mails += [a_mail(number=4), a_mail(run="20260301T110000000001Z")]
    assert len({message_id(mail) for mail in mails}) == len(mails)
    assert render(mails[0], content())["Message-ID"] == render(mails[0], content())["Message-ID"]


def test_the_domain_of_the_message_id_is_that_of_the_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAIL_FROM", "The App <app@mail.example.net>")
    get_settings.cache_clear()
    assert message_id(a_mail()) == f"<one.{RUN}.3@mail.example.net>"


def test_an_id_that_was_cut_cannot_be_that_of_another() -> None:
    long = message_id(a_mail(instance_id="x" * 300)).split(".")[0].strip("<")
    assert message_id(a_mail(instance_id=long)).split(".")[0].strip("<") != long
