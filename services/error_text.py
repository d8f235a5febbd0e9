"""What is said of a failed call: printable, without its secrets; and by which errors that are alike are known."""

import hashlib
import html
import json
import re
from typing import Any
from urllib.parse import quote, unquote

from contracts.guarded_call import MASK, MAX_ERROR, HttpCall, SimulatedCall, masked

MIN_SECRET = 6
"""Characters. What is shorter is no secret, and occurs by chance."""
ALIKE = 500
"""Characters of a message by which errors are told apart."""

_JSON_QUOTES = re.compile(r'(?<=[{\[,:])\s*"|"(?=\s*[}\],:])')
_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}\.?"
_VARIABLE = (
    (r"\b(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]{0,6},? )?\d{1,2}[ -]" + _MONTH + r",?[ -]\d{4}\b", "<date>"),
    (r"\b" + _MONTH + r" \d{1,2},? \d{4}\b", "<date>"),
    (r"\b\d{4}-\d\d-\d\d(?:t\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:z|[+-]\d\d:?\d\d)?)?(?!\d)", "<date>"),
    (r"\b\d{1,2}:\d\d(?::\d\d(?:[.,]\d+)?)?(?: ?(?:[ap]m|z|gmt|utc|[+-]\d\d:?\d\d))?\b", "<time>"),
    (r"[^\s@<>()\"'`,;:=\[\]{}\\]{1,64}@[^\s@<>()\"'`,;:=\[\]{}\\]+", "<mail>"),
    (r'\\?"[^"\\]*\\?"|“[^”]*”|`[^`]*`|(?<!\w)\'[^\']*\'(?!\w)', "<text>"),
    (r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "<id>"),
    (r"\b(?:0x[0-9a-f]+|[0-9a-f]{8,})\b", "<id>"),
    (r"\b\w*\d(?:[\w.,]*\w)?", "<id>"),
    (r"\s+", " "),
)
_VARIABLES = tuple((re.compile(pattern), instead) for pattern, instead in _VARIABLE)


def printable(text: str) -> str:
    """Return a text without control and invisible characters; lines are kept."""
    return "".join(each for each in re.sub(r"[^\S\n]", " ", text) if each.isprintable() or each == "\n")


def secrets_of(call: SimulatedCall | HttpCall) -> list[str]:
    """Return what ``masked`` hides of a call, in all the ways in which an answer may repeat it; the longest first."""
    if not isinstance(call, HttpCall):
        return []
    shown: dict[str, Any] = masked(call)
    hidden = [value for name, value in call.headers.items() if shown["headers"][name] == MASK != value]
    hidden += [rest for value in hidden if (rest := value.partition(" ")[2].strip())]  # without Bearer, or Basic
    for name, value in call.headers.items():
        if name.lower() == "cookie":
            hidden += [each.partition("=")[2].strip() for each in value.split(";")]
    for part, shown_part in zip(re.split("[&#]", call.url), re.split("[&#]", shown["url"]), strict=True):
        if part != shown_part:
            value = part[len(shown_part) - len(MASK) :]
            hidden += [value, unquote(value)]
    forms = (
        form
        for each in hidden
        if len(each) >= MIN_SECRET
        for form in (each, json.dumps(each)[1:-1], html.escape(each), quote(each), quote(each, safe=""))
    )
    return sorted(dict.fromkeys(map(printable, forms)), key=len, reverse=True)


def shown(text: str, secrets: list[str]) -> str:
    """Return a text as an error is shown: printable, with ``MASK`` for secrets, and cut to ``MAX_ERROR`` characters."""
    # Far more than is shown, so that no half of a secret is; but not all, since there may be many to look for.
    clean = printable(text[: 5 * MAX_ERROR])
    if secrets:
        clean = re.sub("|".join(map(re.escape, secrets)), MASK, clean, flags=re.IGNORECASE)
    clean = clean.strip()
    return clean if len(clean) <= MAX_ERROR else clean[: MAX_ERROR - 1] + "…"


def fingerprint(kind: str, host: str, status: int | None, message: str) -> str:
    """Return 16 hex digits that are the same for errors that differ in numbers, ids, dates, addresses and quotations.

    What is in quotation marks in JSON is not a quotation.
    """
    told = json.dumps([kind, host, status, _without_variables(message)[:ALIKE]])
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _without_variables(message: str) -> str:
    text = message.lower()
    if re.search(r'[{\[]\s*"', text):
        text = _JSON_QUOTES.sub(" ", text)
    for pattern, instead in _VARIABLES:
        text = pattern.sub(instead, text)
    return text
