"""Values of settings as .NET reads them: time spans, and app settings named in a text."""

import re
from collections.abc import Mapping

_SETTING = re.compile("%([^%]+)%")
_SPAN = re.compile(r"-?(?:(?P<days>\d{1,8})\.)?(?P<parts>\d{1,8}(?::\d{1,8}){1,3})(?:\.(?P<fraction>\d{1,7}))?", re.A)
_MOST = {"days": 10_675_199, "hours": 23, "minutes": 59, "seconds": 59}


def expand(text: str, environment: Mapping[str, str]) -> str:
    """Put app settings in the place of ``%NAME%``; names are compared as .NET's configuration compares them.

    Raises ``ValueError`` for one that there is not, or that is empty, and for a single ``%``.
    """
    if "%" not in text:
        return text
    settings = {name.replace("__", ":").upper(): value for name, value in environment.items()}

    def value(name: re.Match[str]) -> str:
        found = settings.get(name[1].replace("__", ":").upper())
        if not found:
            raise ValueError(f"there is no setting '{name[1]}'")
        return found

    if "%" in _SETTING.sub("", text):
        raise ValueError("a '%' in it has no other '%' to go with")
    return _SETTING.sub(value, text)


def is_time_span(text: str) -> bool:
    """Whether a text has the form of a .NET time span, whatever its numbers."""
    return _SPAN.fullmatch(_with_hours(text)) is not None


def time_span(text: str) -> int:
    """Read a .NET time span as microseconds; a negative one is negative.

    ``hh:mm``, ``hh:mm:ss`` and ``d.hh:mm:ss``, with a fraction; a number alone is days, and so is the first of
    three from 24 on: ``24:00:00`` is 24 days. Raises ``ValueError``.
    """
    found = _SPAN.fullmatch(_with_hours(text))
    if found is None:
        raise ValueError("it is no time span (hh:mm:ss or d.hh:mm:ss)")
    parts = [int(part) for part in found["parts"].split(":")]
    days, fraction = int(found["days"] or 0), found["fraction"]
    if not found["days"] and (len(parts) == 4 or (len(parts) == 3 and not fraction and parts[0] > 23)):
        days = parts.pop(0)
    if len(parts) == 4 or (fraction and len(parts) < 3):
        raise ValueError("it has parts that a time span has not")
    for (name, most), part in zip(_MOST.items(), [days, *parts], strict=False):
        if part > most:
            raise ValueError(f"it has {part} {name}, where {most} are the most")
    hours, minutes, seconds = [*parts, 0][:3]
    span = (((days * 24 + hours) * 60 + minutes) * 60 + seconds) * 1_000_000
    span += int((fraction or "").ljust(7, "0")) // 10
    return -span if text.startswith("-") else span


def _with_hours(text: str) -> str:
    return f"{text}.00:00" if re.fullmatch(r"-?\d{1,8}", text, re.A) else text
