"""What is said of a failed call: printable, without its secrets; and by which errors that are alike are known."""

import base64
import hashlib
import json
import re
from typing import Any
from urllib.parse import unquote

from contracts.guarded_call import MASK, MAX_ERROR, HttpCall, SimulatedCall, masked

MIN_SECRET = 6
"""Characters. What is shorter is no secret, and occurs by chance."""
LONG = 16
"""Characters from which on a parameter in an address may be a secret, whatever it is called."""
LOOKED_AT = 48_000
"""Characters of a text that are looked through: far more than are shown, as secrets become short."""
LONGEST_ESCAPE = 10
"""Characters that may stand for one."""
ALIKE = 500
"""Characters of a message by which errors are told apart."""

_PARTS = re.compile(r"""[\s,;:"'=]+""")
_PARAMETERS = re.compile(r"(?=[?&#]([^=&#]*)=([^&#]*))")  # also those of an address in a parameter
_TELLING = re.compile(r"(?i)key|token|secret|sig|pass|pwd|code|auth|jwt|session|cred|sid")

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
    """Return what must not be said of a call: what is in headers that are not shown, and in telling parameters."""
    if not isinstance(call, HttpCall):
        return []
    hidden: list[str] = []
    shown_headers: Any = masked(call)["headers"]
    for name, value in call.headers.items():
        if shown_headers[name] == MASK:
            # Whole, and each part: without the word Bearer, the value of each cookie, of each attribute.
            hidden += [value, value.partition(" ")[2], *_PARTS.split(value), *_decoded(value)]
    for name, value in _PARAMETERS.findall(call.url):
        if _TELLING.search(unquote(name)) or len(value) >= LONG:
            hidden += [value, unquote(value)]
    return list(dict.fromkeys(each for each in map(str.strip, hidden) if len(each) >= MIN_SECRET))


def _decoded(value: str) -> list[str]:
    """What stands in a header of basic authentication."""
    kind, _, encoded = value.partition(" ")
    if kind.lower() != "basic":
        return []
    try:
        pair = base64.b64decode(encoded.strip()).decode()
    except ValueError:
        return []
    return [pair, pair.partition(":")[2]]


def _in_any_form(secret: str) -> str:
    """A pattern of a secret, whatever was escaped in it: for JSON, HTML, addresses, or twice."""
    return "".join(each if each.isalnum() else _escaped(each) for each in secret)


def _escaped(letter: str) -> str:
    code = ord(letter)
    ways = (
        rf"\\*{re.escape(letter)}",
        rf"\\+(?:u00|x){code:02x}",
        rf"%(?:25)*{code:02x}",
        rf"&(?:amp;)?#0*{code};",
        rf"&(?:amp;)?#x0*{code:x};",
        r"&(?:amp;)?[a-z]{2,6};",
    )
    return f"(?:{'|'.join(ways)}{'|[+]' if letter == ' ' else ''})"


def shown(text: str, secrets: list[str]) -> str:
    """Return a text as an error is shown: printable, with ``MASK`` for secrets, and cut to ``MAX_ERROR`` characters."""
    clean = printable(text[:LOOKED_AT])
    if secrets:
        longest_first = sorted(dict.fromkeys(secrets), key=len, reverse=True)
        clean = re.sub("|".join(map(_in_any_form, longest_first)), MASK, clean, flags=re.IGNORECASE)
        if len(text) > LOOKED_AT:  # there may be half of one at its end
            clean = clean[: -LONGEST_ESCAPE * len(longest_first[0])]
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
