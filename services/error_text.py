"""What is said of a failed call: printable, without its secrets; and by which errors that are alike are known."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import unquote

from contracts.guarded_call import MASK, MAX_ERROR, HttpCall, SimulatedCall, masked

MIN_SECRET = 6
"""Characters. What is shorter is no secret, and occurs by chance."""
LONG = 16
"""Characters from which on a parameter in an address may be a secret, whatever it is called."""
LOOKED_AT = 48_000
"""Characters of a text that are looked through: far more than are shown, as secrets become short."""
MOST_SECRETS = 500
"""Secrets, in all their forms, that are looked for. Where a call has more, nothing is shown."""
MOST_ESCAPED = 5
"""How often a secret may have been escaped, one way after the other, to be found."""
ALIKE = 500
"""Characters of a message by which errors are told apart."""

_PARTS = re.compile(r"""[\s,;:"'=]+""")
_PARAMETERS = re.compile(r"(?=[?&#]([^=&#]*)=([^&#]*))")  # also those of an address in a parameter
_TELLING = re.compile(r"(?i)key|token|secret|sig|pass|pwd|code|auth|jwt|session|cred|sid")

# Each of these takes its text in one go: what is looked through was written by somebody else.
_ESCAPE = re.compile(
    r"\\+(?:u([0-9a-f]{4})|x([0-9a-f]{2})|(.))?|%([0-9a-f]{2})|(&(?:#[0-9]{1,9}|#x[0-9a-f]{1,8}|[a-z]{2,8});)",
    re.IGNORECASE | re.ASCII | re.DOTALL,
)
_HALF_ESCAPE = re.compile(r"(?:\\+(?:u[0-9a-f]{0,3}|x[0-9a-f]?)?|%[0-9a-f]?|&[#0-9a-z]{0,10})\Z")
_LINEAR = 30_000  # characters from which on str.find takes no time that grows with what is looked for

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


class _Layer(NamedTuple):
    """A text after some of its escapes were undone. ``starts`` says where each character stood, and where all ended."""

    text: str
    starts: list[int]


def shown(text: str, secrets: list[str], *, is_whole: bool = True) -> str:
    """Return a text as an error is shown: printable, with ``MASK`` for secrets, and cut to ``MAX_ERROR`` characters.

    Secrets are found in any case, and however they were escaped: for JSON, HTML, addresses, or several of these. Where
    a text is not whole, so is half a secret at its end.
    """
    clean = printable(text[:LOOKED_AT])
    is_cut = not is_whole or len(text) > LOOKED_AT
    if secrets:
        if is_cut:
            clean = _without_half_an_escape(clean)
        forms = list(dict.fromkeys(_forms(secrets[:MOST_SECRETS])))
        if len(secrets) > MOST_SECRETS or len(forms) > MOST_SECRETS:
            return MASK
        layers = list(_layers(clean))
        spans = _spans(layers, forms)
        if is_cut:
            spans += [(at, len(clean)) for layer in layers for at in _halves(layer, forms)]
        clean = _without(clean, spans)
    clean = clean.strip()
    return clean if len(clean) <= MAX_ERROR else clean[: MAX_ERROR - 1] + "…"


def _forms(secrets: list[str]) -> Iterator[str]:
    """Secrets as they are looked for: with what looks like an escape in them, and without."""
    for secret in secrets:
        written = [secret] if secret.isascii() and secret.isprintable() else [secret, json.dumps(secret)[1:-1]]
        yield from (layer.text for each in written for layer in _layers(each) if len(layer.text) >= MIN_SECRET)


def _layers(text: str) -> Iterator[_Layer]:
    """A text as it is, and after each time that its escapes were undone."""
    layer = _Layer(text, list(range(len(text) + 1)))
    yield _simple(layer)
    for _ in range(MOST_ESCAPED):
        if (undone := _undone(layer)) is None:
            return
        layer = undone
        yield _simple(layer)


def _undone(layer: _Layer) -> _Layer | None:
    """The text with its escapes undone once; None where there are none."""
    text, starts = layer
    parts: list[str] = []
    at: list[int] = []
    done = 0
    for found in _ESCAPE.finditer(text):
        four, two, any_other, percent, entity = found.groups()
        code = four or two or percent
        meant = chr(int(code, 16)) if code else html.unescape(entity) if entity else any_other or ""
        if len(meant) > 1:  # that is no entity
            continue
        parts += (text[done : found.start()], meant)
        at += starts[done : found.start()]
        at += [starts[found.start()]] * len(meant)
        done = found.end()
    return _Layer("".join([*parts, text[done:]]), at + starts[done:]) if done else None


def _simple(layer: _Layer) -> _Layer:
    """The text in lower case, without what cannot be seen; a plus is a space, as in forms."""
    text = re.sub(r"[\s+]", " ", layer.text)
    if text.isascii() and text.isprintable():
        return _Layer(text.lower(), layer.starts)
    seen = [at for at, each in enumerate(text) if each.isprintable() or "\ud800" <= each <= "\udfff"]
    starts = [layer.starts[at] for at in seen]
    return _Layer("".join(text[at].lower()[0] for at in seen), [*starts, layer.starts[-1]])


def _spans(layers: list[_Layer], forms: list[str]) -> list[tuple[int, int]]:
    """Where secrets begin and end."""
    text = "\n".join(layer.text for layer in layers).ljust(_LINEAR, "\n")  # no form has a line break
    starts = [at for layer in layers for at in layer.starts]
    spans: list[tuple[int, int]] = []
    for form in forms:
        at = text.find(form)
        while at >= 0:
            end = at + len(form)
            spans.append((starts[at], starts[end]))
            at = text.find(form, end)
    return spans


def _without_half_an_escape(text: str) -> str:
    return text[:-20] + _HALF_ESCAPE.sub("", text[-20:])


def _halves(layer: _Layer, forms: list[str]) -> Iterator[int]:
    """Where the beginnings of secrets begin that the text ends with."""
    text = _without_half_an_escape(layer.text)
    for form in forms:
        at = text.find(form[:MIN_SECRET], max(len(text) - len(form), 0))
        while at >= 0 and not form.startswith(text[at:]):
            at = text.find(form[:MIN_SECRET], at + 1)
        if at >= 0:
            yield layer.starts[at]


def _without(text: str, spans: list[tuple[int, int]]) -> str:
    """The text with ``MASK`` in place of each span, or of several that touch."""
    parts: list[str] = []
    done = -1
    for start, end in sorted(spans):
        if start > done:
            parts += (text[max(done, 0) : start], MASK)
        done = max(done, end)
    return "".join([*parts, text[max(done, 0) :]])


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
