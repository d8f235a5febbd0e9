"""Route templates as ASP.NET Core has them, as far as Azure Functions uses them.

Source: Microsoft, "Routing in ASP.NET Core", route templates, constraints and precedence.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import pairwise
from urllib.parse import unquote

from local_host.errors import HostError

type Check = Callable[[str], bool]

_PLACE = re.compile(r"\{(?!\{)((?:\{\{|\}\}|[^{}])*)\}")
_INSIDE = re.compile(
    r"(?P<catch>\*{0,2})(?P<name>[^:=?*{}]+)(?P<rules>(?::[^:=?(]+(?:\(.*?\)(?=[:=?]|$))?)*)"
    r"(?:=(?P<default>[^?]*))?(?P<optional>\?)?"
)
_RULE = re.compile(r":(?P<name>[^:=?(]+)(?:\((?P<argument>.*?)\)(?=:|$))?")

LITERAL, CONSTRAINED, PLAIN, CONSTRAINED_CATCH_ALL, CATCH_ALL = 1, 2, 3, 4, 5
"""The ranks of a segment: a lower one is tried first. A segment of several parts ranks as a constrained one."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a template, and what a value of it has to pass."""

    name: str
    checks: tuple[Check, ...]
    default: str | None
    optional: bool
    catch_all: bool


@dataclass(frozen=True)
class Segment:
    """One segment of a template: parameters with literals between them, where literals are in lower case."""

    parts: tuple[str | Parameter, ...]

    @property
    def sole(self) -> Parameter | None:
        """The parameter when it is all that the segment has."""
        return self.parts[0] if len(self.parts) == 1 and isinstance(self.parts[0], Parameter) else None

    @property
    def rank(self) -> int:
        """What the segment is ordered by."""
        if len(self.parts) > 1:
            return CONSTRAINED
        if self.sole is None:
            return LITERAL
        if self.sole.catch_all:
            return CONSTRAINED_CATCH_ALL if self.sole.checks else CATCH_ALL
        return CONSTRAINED if self.sole.checks else PLAIN

    def match(self, value: str) -> dict[str, str] | None:
        """Return the parameters that a decoded segment of a path gives, else None."""
        found = _match_parts(self.parts, value)
        last = self.parts[-1]
        if found is None and len(self.parts) > 1 and isinstance(last, Parameter) and last.optional:
            return None if value.endswith(".") else _match_parts(self.parts[:-2], value)
        return found


@dataclass(frozen=True)
class Template:
    """A compiled route template."""

    text: str
    segments: tuple[Segment, ...]

    @property
    def precedence(self) -> tuple[int, ...]:
        """What templates are ordered by: where two match a path, the lower one takes it."""
        return tuple(segment.rank for segment in self.segments)

    def match(self, raw_path: str) -> dict[str, str] | None:
        """Return the parameters when the percent-encoded path matches, else None.

        Literals match without regard to case. An encoded slash stays encoded, so that it cannot make a segment.
        What is optional and not there, or a catch-all of nothing, has no entry.
        """
        parts = raw_path.strip("/").split("/") if raw_path.strip("/") else []
        if len(parts) > len(self.segments) and not self._ends_in_catch_all:
            return None  # before the parts are decoded, each of which takes time, for every template
        values = [_decode(part) for part in parts]
        found: dict[str, str] = {}
        for index, segment in enumerate(self.segments):
            matched = self._match_segment(segment, values[index:])
            if matched is None:
                return None
            found |= matched
        return found if self._passes(found) else None

    @property
    def _ends_in_catch_all(self) -> bool:
        last = self.segments[-1].sole if self.segments else None
        return last is not None and last.catch_all

    def _match_segment(self, segment: Segment, values: list[str]) -> dict[str, str] | None:
        sole = segment.sole
        catch_all = sole is not None and sole.catch_all
        value = "/".join(values) if catch_all else "".join(values[:1])
        if values and not (catch_all and not value):
            return {sole.name: value} if sole is not None and catch_all else segment.match(value)
        if sole is None:
            return None
        if sole.default is not None:
            return {sole.name: sole.default}
        return {} if sole.optional or (catch_all and not sole.checks) else None

    def _passes(self, found: dict[str, str]) -> bool:
        parameters = (part for segment in self.segments for part in segment.parts if isinstance(part, Parameter))
        return all(check(found[each.name]) for each in parameters if each.name in found for check in each.checks)


def compile_template(text: str) -> Template:
    """Compile a route template. Raises ``HostError`` for one that is malformed or has an unknown constraint."""
    segments = tuple(Segment(_parts(part, text)) for part in text.strip("/").split("/") if part)
    if any(segment.sole is not None and segment.sole.catch_all for segment in segments[:-1]):
        raise HostError(f"The route template '{text}' has a catch-all that is not its last segment.")
    names = [part.name.lower() for segment in segments for part in segment.parts if isinstance(part, Parameter)]
    if len(set(names)) < len(names):
        raise HostError(f"The route template '{text}' has two parameters of one name.")
    return Template(text, segments)


def _parts(segment: str, template: str) -> tuple[str | Parameter, ...]:
    """Take a segment of a template apart, and refuse what ASP.NET Core refuses."""
    parts: list[str | Parameter] = []
    for index, piece in enumerate(_PLACE.split(segment)):  # literals and the insides of braces by turns
        if index % 2:
            parts.append(_parameter(piece, template))
        elif re.search(r"[{}?]", piece):
            raise HostError(f"The route template '{template}' is malformed at '{segment}'.")
        elif piece:
            parts.append(_lower(piece))
    adjacent = any(isinstance(one, Parameter) and isinstance(two, Parameter) for one, two in pairwise(parts))
    if adjacent or (len(parts) > 1 and any(_needs_its_own_segment(parts, index) for index in range(len(parts)))):
        raise HostError(f"The route template '{template}' is malformed at '{segment}'.")
    return tuple(parts)


def _needs_its_own_segment(parts: list[str | Parameter], index: int) -> bool:
    """Whether a part cannot stand with others: a catch-all, or an optional one that is not an extension at the end."""
    part = parts[index]
    return isinstance(part, Parameter) and (part.catch_all or (part.optional and parts[index - 1 :] != [".", part]))


def _parameter(inside: str, template: str) -> Parameter:
    place = _INSIDE.fullmatch(inside)
    if place is None or (place["optional"] and (place["catch"] or place["default"] is not None)):
        raise HostError(f"The route template '{template}' has a malformed parameter '{{{inside}}}'.")
    checks = tuple(_checks(place["rules"], template))
    return Parameter(place["name"], checks, place["default"], bool(place["optional"]), bool(place["catch"]))


def _match_parts(parts: tuple[str | Parameter, ...], value: str) -> dict[str, str] | None:
    """Match a segment from its right end, each parameter as short as can be and none empty, never going back.

    That is how ASP.NET Core does it ("complex segments"), and it takes no more time than the segment is long.
    """
    found: dict[str, str] = {}
    lower, end, pending = _lower(value), len(value), ""
    for part in reversed(parts):
        if isinstance(part, Parameter):
            pending = part.name
            continue
        # Something has to be left for the parameter behind the literal; the last literal has to be at the very end.
        start = lower.rfind(part, 0, end - 1 if pending else end)
        if start < 0 or (not pending and start + len(part) != end):
            return None
        if pending:
            found[pending] = value[start + len(part) : end]
        end, pending = start, ""
    if pending and end:
        found[pending] = value[:end]
        return found
    return None if pending or end else found


def _lower(text: str) -> str:
    """Lower the case of each character that stays one character, so that indices hold for both texts."""
    return "".join(low if len(low := character.lower()) == 1 else character for character in text)


def _decode(part: str) -> str:
    return "%2F".join(unquote(piece) for piece in re.split("%2[Ff]", part))


def _checks(rules: str, template: str) -> Iterator[Check]:
    for rule in _RULE.finditer(rules):
        make = _CONSTRAINTS.get(rule["name"].lower())
        if make is None:
            raise HostError(f"The route template '{template}' has an unknown constraint '{rule['name']}'.")
        try:
            yield make(rule["argument"])
        except (ValueError, OverflowError, re.error):
            raise HostError(f"The route template '{template}' has a malformed constraint '{rule[0]}'.") from None


def _whole(bits: int) -> Callable[[str | None], Check]:
    def check(value: str) -> bool:
        whole = re.fullmatch(r"[+-]?[0-9]{1,20}", value) is not None
        return whole and -(2 ** (bits - 1)) <= int(value) < 2 ** (bits - 1)

    return lambda _argument: check


def _matches(pattern: str) -> Callable[[str | None], Check]:
    return lambda _argument: lambda value: re.fullmatch(pattern, value) is not None


def _is_datetime(value: str) -> bool:
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return re.fullmatch(r"[0-9]{4}-[01][0-9]-[0-3][0-9] [01]?[0-9]:[0-5][0-9](?i:am|pm)", value) is not None
    return True


def _length(argument: str | None) -> Check:
    least, _, most = (argument or "").partition(",")
    bounds = int(least), int(most or least)
    return lambda value: bounds[0] <= len(value) <= bounds[1]


def _range(argument: str | None) -> Check:
    low, high = (int(bound) for bound in (argument or "").split(","))
    return partial(_between, low, high)


def _at_least(argument: str | None) -> Check:
    return partial(_between, int(argument or ""), None)


def _at_most(argument: str | None) -> Check:
    return partial(_between, None, int(argument or ""))


def _between(low: int | None, high: int | None, value: str) -> bool:
    if re.fullmatch(r"[+-]?[0-9]{1,19}", value) is None:
        return False
    return (low is None or int(value) >= low) and (high is None or int(value) <= high)


def _min_length(argument: str | None) -> Check:
    least = int(argument or "")
    return lambda value: len(value) >= least


def _max_length(argument: str | None) -> Check:
    most = int(argument or "")
    return lambda value: len(value) <= most


def _regex(argument: str | None) -> Check:
    if argument is None:
        raise ValueError("no pattern")
    pattern = re.compile(argument.replace("{{", "{").replace("}}", "}"), re.IGNORECASE)
    return lambda value: pattern.search(value) is not None


# No two repetitions next to each other can take the same character, so that no value takes long to refuse.
_DECIMAL = r"[+-]?(?:[0-9][0-9,]*(?:\.[0-9]*)?|\.[0-9]+)"
_DOUBLE = rf"{_DECIMAL}(?:[eE][+-]?[0-9]+)?|[+-]?(?i:nan|infinity)"
_GUID = r"[0-9a-fA-F]{32}|(?P<open>[{(])?[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}(?(open)[)}])"

_CONSTRAINTS: dict[str, Callable[[str | None], Check]] = {
    "int": _whole(32),
    "long": _whole(64),
    "bool": _matches("(?i:true|false)"),
    "alpha": _matches("[A-Za-z]*"),
    "guid": _matches(_GUID),
    "datetime": lambda _argument: _is_datetime,
    "decimal": _matches(_DECIMAL),
    "double": _matches(_DOUBLE),
    "float": _matches(_DOUBLE),
    "length": _length,
    "minlength": _min_length,
    "maxlength": _max_length,
    "min": _at_least,
    "max": _at_most,
    "range": _range,
    "regex": _regex,
    "required": lambda _argument: bool,
}
