"""Route templates as ASP.NET Core has them, as far as Azure Functions uses them.

Source: Microsoft, "Routing in ASP.NET Core", route templates, constraints and precedence.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from urllib.parse import unquote
from uuid import UUID

from local_host.errors import HostError

type Check = Callable[[str], bool]

_PLACE = re.compile(
    r"\{(?P<catch>\*{0,2})(?P<name>[^:=?{}*]+)(?P<rules>(?::(?:\{\{|\}\}|[^{}])*?)?)"
    r"(?:=(?P<default>[^{}?]*))?(?P<optional>\?)?\}"
)
_RULE = re.compile(r":(?P<name>[a-z]+)(?:\((?P<argument>(?:[^()]|\([^()]*\))*)\))?", re.IGNORECASE)

LITERAL, CONSTRAINED, PLAIN, CATCH_ALL = 1, 2, 4, 5
"""The ranks of a segment: a lower one is tried first."""


@dataclass(frozen=True)
class Segment:
    """One segment of a template: its pattern, the checks of its parameters, and its rank."""

    pattern: re.Pattern[str]
    checks: tuple[tuple[str, Check], ...]
    rank: int
    optional: bool = False
    catch_all: str | None = None
    default: tuple[str, str] | None = None


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
        """
        parts = [_decode(part) for part in raw_path.strip("/").split("/")] if raw_path.strip("/") else []
        found: dict[str, str] = {}
        for index, segment in enumerate(self.segments):
            if segment.catch_all is not None:
                found[segment.catch_all] = "/".join(parts[index:])
                return found
            if index >= len(parts):
                if segment.default is not None:
                    found[segment.default[0]] = segment.default[1]
                elif not segment.optional:
                    return None
                continue
            matched = segment.pattern.fullmatch(parts[index])
            if matched is None or not all(check(matched[name]) for name, check in segment.checks):
                return None
            found.update(matched.groupdict())
        return found if len(parts) <= len(self.segments) else None


def compile_template(text: str) -> Template:
    """Compile a route template. Raises ``HostError`` for one that is malformed or has an unknown constraint."""
    parts = [part for part in text.strip("/").split("/") if part]
    return Template(text=text, segments=tuple(_segment(part, text) for part in parts))


def order_by_precedence(templates: Iterable[Template]) -> list[Template]:
    """Return the templates in the order in which they are to be tried."""
    return sorted(templates, key=lambda template: template.precedence)


def _segment(part: str, template: str) -> Segment:
    places = list(_PLACE.finditer(part))
    if re.search(r"[{}]", _PLACE.sub("", part)):
        raise HostError(f"The route template '{template}' is malformed at '{part}'.")
    pattern, end, checks = "", 0, []
    for place in places:
        name = place["name"]
        pattern += re.escape(part[end : place.start()]) + f"(?P<{_group(name, template)}>.+?)"
        end = place.end()
        checks += [(name, check) for check in _checks(place["rules"], template)]
    pattern += re.escape(part[end:])
    only = places[0] if len(places) == 1 and places[0][0] == part else None
    return Segment(
        pattern=re.compile(pattern, re.IGNORECASE | re.DOTALL),
        checks=tuple(checks),
        rank=_rank(places, only, constrained=bool(checks)),
        optional=only is not None and bool(only["optional"]),
        catch_all=only["name"] if only is not None and only["catch"] else None,
        default=(only["name"], only["default"]) if only is not None and only["default"] is not None else None,
    )


def _rank(places: list[re.Match[str]], only: re.Match[str] | None, *, constrained: bool) -> int:
    if not places:
        return LITERAL
    if only is not None and only["catch"]:
        return CATCH_ALL
    return CONSTRAINED if constrained or only is None else PLAIN


def _group(name: str, template: str) -> str:
    if not name.isidentifier():
        raise HostError(f"The route template '{template}' has a parameter that is no name: '{name}'.")
    return name


def _decode(part: str) -> str:
    return "%2F".join(unquote(piece) for piece in re.split("%2[Ff]", part))


def _checks(rules: str, template: str) -> list[Check]:
    checks, end = [], 0
    for rule in _RULE.finditer(rules):
        if rule.start() != end:
            break
        end = rule.end()
        make = _CONSTRAINTS.get(rule["name"].lower())
        if make is None:
            raise HostError(f"The route template '{template}' has an unknown constraint '{rule['name']}'.")
        try:
            checks.append(make(rule["argument"]))
        except (ValueError, TypeError, AttributeError, re.error):
            raise HostError(f"The route template '{template}' has a malformed constraint '{rule[0]}'.") from None
    if end != len(rules):
        raise HostError(f"The route template '{template}' has a malformed constraint '{rules[end:]}'.")
    return checks


def _parses(parse: Callable[[str], object]) -> Callable[[str | None], Check]:
    def check(value: str) -> bool:
        try:
            parse(value)
        except ValueError:
            return False
        return True

    return lambda _argument: check


def _whole(bits: int) -> Callable[[str | None], Check]:
    def check(value: str) -> bool:
        whole = re.fullmatch(r"[+-]?[0-9]{1,20}", value) is not None
        return whole and -(2 ** (bits - 1)) <= int(value) < 2 ** (bits - 1)

    return lambda _argument: check


def _matches(pattern: str) -> Callable[[str | None], Check]:
    return lambda _argument: lambda value: re.fullmatch(pattern, value) is not None


def _length(argument: str | None) -> Check:
    bounds = [int(bound) for bound in (argument or "").split(",")]
    return lambda value: bounds[0] <= len(value) <= bounds[-1]


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
    pattern = re.compile((argument or "").replace("{{", "{").replace("}}", "}"), re.IGNORECASE)
    return lambda value: pattern.search(value) is not None


_CONSTRAINTS: dict[str, Callable[[str | None], Check]] = {
    "int": _whole(32),
    "long": _whole(64),
    "bool": _matches("(?i:true|false)"),
    "alpha": _matches("[A-Za-z]*"),
    "guid": _parses(UUID),
    "datetime": _parses(datetime.fromisoformat),
    "decimal": _matches(r"[+-]?[0-9,]*\.?[0-9]+"),
    "double": _parses(float),
    "float": _parses(float),
    "length": _length,
    "minlength": _min_length,
    "maxlength": _max_length,
    "min": _at_least,
    "max": _at_most,
    "range": _range,
    "regex": _regex,
    "required": lambda _argument: bool,
}
