"""What mails say: one template per mail, as HTML and as plain text, in ``mail_templates``."""

import hashlib
import json
import re
import textwrap
import unicodedata
from datetime import UTC, datetime
from email.message import EmailMessage
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from pydantic import JsonValue

from contracts.base import path_to
from contracts.mail import Mail
from contracts.shown import Content
from contracts.signup import SignupMail
from services import links
from services.mail import address_of, new_message, sender
from settings import get_settings

MAX_SUBJECT = 200
MAX_ID = 200
MAX_DETAILS = 6_000
"""Characters of the JSON of details that a mail shows: mail programs cut off what is over 100 KB."""
WIDTH = 76

_SUBJECTS = {
    "asked": "Please decide: {}",
    "reminder": "Reminder, please decide: {}",
    "escalated": "Escalated to you, please decide: {}",
    "delegated": "Handed to you, please decide: {}",
    "decided": "{outcome}: {}",
    "withdrawn": "Withdrawn: {}",
    "changes_requested": "Changes are asked for: {}",
    "gate": "Please look: {}",
    "gate_reminder": "Reminder, please look: {}",
    "gate_escalated": "Escalated to you, please look: {}",
}
_BY = {
    "asked": "Asked by",
    "reminder": "Reminded by",
    "escalated": "Escalated by",
    "delegated": "Handed on by",
    "decided": "Decided by",
    "withdrawn": "Withdrawn by",
    "changes_requested": "Asked for by",
}
_AT_A_GATE = {"Requested by": "Part of", "Item": "Call", "Description": "Error"}
"""What the facts are called in the mails of a call that has failed."""
_OUTCOMES = {
    "Approved": "This request was approved.",
    "Rejected": "This request was rejected.",
    "Timeout": "This request was not decided in time.",
    "Withdrawn": "This request was withdrawn.",
}
_WRAPPED: Any = {"break_long_words": False, "break_on_hyphens": False, "subsequent_indent": "    "}
_TURNING = re.compile("[\u202a-\u202e\u2066-\u2069]")
"""Characters that make text be shown in another order than it is in."""


def render(mail: Mail, content: Content) -> EmailMessage:
    """Return a mail about what ``content`` says. Rendered again, it has the same ``Message-ID`` and code.

    Raises ``ValueError`` when no mail can be sent to its address.
    """
    link = mail.link
    said: dict[str, Any] = {
        "content": content,
        "subject": _subject(mail, content),
        "facts": _facts(mail, content),
        "outcome": _OUTCOMES.get(mail.outcome or "", "This request has ended."),
        "deadline": in_words(mail.deadline) if mail.deadline is not None else None,
        "link": links.url_of(link, mail.page) if link is not None else None,
        "code": links.code_of(link) if link is not None and mail.code else None,
        "revise": get_settings().base_url + path_to("/api/requests/{}/revise", mail.instance_id),
    }
    message = new_message()
    message["Message-ID"] = message_id(mail)
    # Without what has to be quoted: header classes lose the quotes of a long name, and then it looks like addresses.
    name = " ".join(re.sub(r"[^\w' -]+", " ", _one_line(mail.to_name or "")).split())
    message["To"] = address_of(mail.to, name or None)
    message["Subject"] = said["subject"]
    fill_in(message, mail.template, said)
    return message


def fill_in(message: EmailMessage, template: str, said: dict[str, Any]) -> None:
    """Write what a mail says, as plain text and as HTML."""
    templates = _templates()
    message.set_content(templates.get_template(f"{template}.txt").render(said))
    message.add_alternative(templates.get_template(f"{template}.html").render(said), subtype="html")


def message_id(mail: Mail | SignupMail) -> str:
    """Return what names a mail: the same for the same instance, run and number, and for no others."""
    return message_id_of(mail.instance_id, mail.run, mail.number)


def message_id_of(instance_id: str, run: str, number: int) -> str:
    """Return what names the mail of this number of a run."""
    # Dots would have to stand alone between other letters; a tilde marks an id that was cut.
    instance = quote(instance_id, safe="", errors="surrogatepass").replace(".", "%2E").replace("~", "%7E")
    if len(instance) > MAX_ID:
        digest = hashlib.sha256(instance_id.encode(errors="surrogatepass")).hexdigest()[:32]
        instance = f"{instance[: MAX_ID - 33]}~{digest}"
    return f"<{instance}.{run}.{number}@{sender().domain}>"


@lru_cache(maxsize=1)
def _templates() -> Environment:
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "mail_templates"),
        autoescape=select_autoescape(["html"], default=True, disabled_extensions=["txt"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"line": _one_line, "quoted": _quoted, "scalar": _scalar}
    return made


def _clean(text: str) -> str:
    """Return text without what is no text: halves of characters, control characters, and those that turn it round.

    Every kind of line break becomes one line feed, and every kind of blank a space.
    """
    lines = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace").splitlines()
    joined = re.sub(r"[^\S\n]", " ", _TURNING.sub("", "\n".join(lines)))
    joined = re.sub(r"\n(?: *\n){2,}", "\n\n", joined)  # a thousand of them would push the link out of sight
    return "".join(each for each in joined if each == "\n" or unicodedata.category(each) != "Cc")


def _one_line(text: str) -> str:
    # Without the beginning of an encoded word (RFC 2047), which header classes would decode into other text.
    return " ".join(_clean(text).replace("=?", "= ?").split())


def _quoted(fact: tuple[str, JsonValue]) -> str:
    """Mark each line of what somebody wrote, so that none can look like the app's own, nor like another fact.

    Long ones are wrapped here: a mail program would go on without the mark.
    """
    label, value = fact
    text = _outline(value) if isinstance(value, dict | list) else _scalar(value)
    if isinstance(value, dict | list) or "\n" in text:
        lines = [f"{label}:", *(f"    {line}" for line in text.split("\n"))]
    else:
        lines = [f"{label}: {text}"]
    wrapped = [part for line in lines for part in textwrap.wrap(line, WIDTH, **_WRAPPED) or [""]]
    return "\n".join(f"> {line}".rstrip() for line in wrapped)


def _scalar(value: Any) -> str:
    """One value of the details, for people."""
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value in (None, {}, []) else json.dumps(value)  # noqa: RUF001  # a dash: there is nothing


def _outline(value: Any, level: int = 0) -> str:
    """The details as text: a line for each value, what is in it indented below its name."""
    indent = "  " * level
    pairs = [(f"{_one_line(key)}:", part) for key, part in value.items()] if isinstance(value, dict) else []
    pairs += [("-", part) for part in value] if isinstance(value, list) else []
    lines = []
    for name, part in pairs:
        if isinstance(part, dict | list) and part:
            lines += [f"{indent}{name}", _outline(part, level + 1)]
        else:
            lines.append(f"{indent}{name} " + _scalar(part).replace("\n", f"\n{indent}  "))
    return "\n".join(lines)


def _facts(mail: Mail, content: Content) -> list[tuple[str, JsonValue]]:
    """What stands in the table of every mail: names, and what people wrote."""
    details: JsonValue = content.details
    if mail.page == "intervene":  # what the link is bound to is nothing to read
        details = {name: part for name, part in (content.details or {}).items() if name != "call_sha256"}
    if len(json.dumps(details, ensure_ascii=False)) > MAX_DETAILS:
        details = "too long for a mail" + ("; the page behind the link shows them" if mail.link is not None else "")
    said: list[tuple[str, JsonValue]] = [
        ("Requested by", content.requester),
        ("Title", content.title),
        ("Item", content.item),
        ("Description", content.description),
        ("Details", details),
        ("Outcome", mail.outcome),
        (_BY.get(mail.template, "By"), mail.by),
        ("On behalf of", mail.on_behalf_of),
        ("Comment", mail.comment),
    ]
    labels = _AT_A_GATE if mail.page == "intervene" else {}
    return [(labels.get(label, label), text) for label, text in said if text]


def _subject(mail: Mail, content: Content) -> str:
    outcome = _one_line(mail.outcome or "Decided")
    subject = _SUBJECTS[mail.template].format(_one_line(content.headline), outcome=outcome)
    return subject if len(subject) <= MAX_SUBJECT else subject[: MAX_SUBJECT - 1] + "…"


def in_words(time: datetime) -> str:
    """Return a time for people, in UTC."""
    at = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    return f"{at:%A}, {at.day} {at:%B %Y, %H:%M} UTC"
