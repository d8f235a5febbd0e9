"""The log: one handler for what the host and the app log, as lines for people or as JSON for machines.

Every line has a *category*, as on Azure, and ``logging.logLevel`` of ``host.json`` says which level each category is
shown from:

- what is logged within an invocation, by whichever logger: ``Function.<name>.User``;
- what the host says of an invocation (the logger ``local_host.function``): ``Function.<name>``;
- the host's other loggers: ``Host.General`` and ``Host.<Module>``, its task hub's: ``DurableTask.Core``;
- the Durable Functions SDK's: ``DurableTask.Python``; any other logger outside an invocation:
  ``Host.Other.<logger>``. These two are shown from Warning, unless a rule of ``host.json`` names them.
"""

import asyncio
import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import TextIO, override
from weakref import WeakValueDictionary

from local_host.errors import HostError

FUNCTION_LOGGER = "local_host.function"
"""The logger for what the host says of an invocation, to be used within it."""

_SDK = ("durabletask", "azure.durable_functions")
_LEVELS = {"Trace": 5, "Debug": 10, "Information": 20, "Warning": 30, "Error": 40, "Critical": 50, "None": sys.maxsize}
_QUIET = ("Host.Other.", "DurableTask.Python")
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_COLOURS = {10: "2", 20: "32", 30: "33", 40: "31", 50: "1;31"}  # of the terminal, by level
_LEVELS_DOWN = [("Critical", 50), ("Error", 40), ("Warning", 30), ("Information", 20), ("Debug", 10), ("Trace", 0)]
_FORMATTER = logging.Formatter()
_encode = json.JSONEncoder().encode


_known: WeakValueDictionary[str, "Invocation"] = WeakValueDictionary()


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Invocation:
    """One call of a function. It is known by its id for as long as somebody holds it."""

    function_name: str
    id: str

    def __post_init__(self) -> None:
        _known[self.id] = self


type _Form = Callable[[logging.LogRecord, str, Invocation | None], str]

invocation: ContextVar[Invocation | None] = ContextVar("invocation", default=None)
"""The invocation that the running code belongs to."""

thread_local_storage = threading.local()
"""What functions get as ``context.thread_local_storage``. A thread that the app made itself tells which invocation it
works for by setting ``invocation_id`` in it, as on Azure."""


def configure(levels: Mapping[str, str], *, as_json: bool, stream: TextIO | None = None) -> None:
    """Set up logging for this process: lines go to ``stream`` (standard error), as text or as one JSON object each.

    ``levels`` is ``logging.logLevel`` of ``host.json``. It can be called again, with what has become known. As in
    Azure's Python worker, Debug lines of the app are made only where ``PYTHON_ENABLE_DEBUG_LOGGING`` is set, in the
    environment at the time of the call. Raises ``HostError`` for a level that does not exist.
    """
    shown = _ShownFrom(levels)
    stream = stream or sys.stderr
    text_line = _coloured_line if _wants_colour(stream) else _text_line
    handler = _Handler(stream, shown, _json_line if as_json else text_line)
    root, host = logging.getLogger(), logging.getLogger("local_host")
    for logger in (root, host):
        for old in [each for each in logger.handlers if isinstance(each, _Handler)]:
            logger.removeHandler(old)
        logger.addHandler(handler)
    host.propagate = False  # a handler that the app adds to the root shows the app's lines twice, but not the host's
    host.setLevel(shown.lowest)
    root.setLevel(logging.DEBUG if _is_true("PYTHON_ENABLE_DEBUG_LOGGING") else logging.INFO)
    # Each by itself: the SDK looks at a logger's own level before it puts details together.
    for name in (*_SDK, "azure.durable_functions.client", "azure.durable_functions.worker"):
        logging.getLogger(name).setLevel(shown["DurableTask.Python"])
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


class _ShownFrom(dict[str, int]):
    """The level that each category is shown from.

    Of the rules that a category begins with, in any case, the longest counts, as in .NET (LoggerRuleSelector).
    """

    def __init__(self, levels: Mapping[str, str]) -> None:
        super().__init__()
        self._rules = {"": logging.INFO}
        for category, level in levels.items():
            rule = category.lower()
            self._rules["" if rule == "default" else rule] = _level(category, level)
        self.lowest = min(self._rules.values())

    def __missing__(self, category: str) -> int:
        rule = max((each for each in self._rules if category.lower().startswith(each)), key=len)
        level = self._rules[rule]
        if category.startswith(_QUIET) and rule in ("", "host"):
            level = max(level, logging.WARNING)
        self[category] = level
        return level


class _Handler(logging.StreamHandler[TextIO]):
    """Writes the lines that are to be shown."""

    def __init__(self, stream: TextIO, shown_from: _ShownFrom, form: _Form) -> None:
        super().__init__(stream)
        self._shown_from = shown_from
        self._form = form

    @override
    def emit(self, record: logging.LogRecord) -> None:
        current = invocation.get() or _invocation_of_thread()
        category = _category(record.name, current.function_name if current else None)
        if record.levelno < self._shown_from[category]:
            return
        line = self._form(record, category, current)
        with suppress(OSError, ValueError):  # nobody reads it any more, and there is nowhere else to say so
            self.stream.write(line)
            self.stream.flush()


def _invocation_of_thread() -> Invocation | None:
    """What a thread of the app says that it works for; the thread of an event loop works for many."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _known.get(str(getattr(thread_local_storage, "invocation_id", "")))
    return None


@lru_cache(maxsize=4096)
def _category(logger: str, function: str | None) -> str:
    if logger == FUNCTION_LOGGER:
        return f"Function.{function}" if function else "Function"
    if logger.startswith(_SDK):
        return "DurableTask.Python"
    module = logger.removeprefix("local_host").strip(".")
    if logger == "local_host" or logger.startswith("local_host."):
        return "DurableTask.Core" if module.startswith("task_hub") else f"Host.{module.title() or 'General'}"
    return f"Function.{function}.User" if function else f"Host.Other.{logger}"


def _text_line(record: logging.LogRecord, category: str, current: Invocation | None, colour: str = "") -> str:
    level = f"{record.levelname:<8}"
    if colour:
        level = f"\x1b[{colour}m{level}\x1b[0m"
    whose = f"{category} [{current.id[:8]}]" if current else category
    line = f"{_local(int(record.created))}.{int(record.msecs):03d} {level} {_escaped(f'{whose} {_message(record)}')}\n"
    details = _exception(record)
    return line + "".join(f"    {_escaped(each)}\n" for each in details.split("\n")) if details else line


def _coloured_line(record: logging.LogRecord, category: str, current: Invocation | None) -> str:
    return _text_line(record, category, current, _COLOURS.get(record.levelno, "0"))


def _json_line(record: logging.LogRecord, category: str, current: Invocation | None) -> str:
    fields = {
        "time": f"{_utc(int(record.created))}.{int(record.msecs):03d}Z",
        "level": next(name for name, number in _LEVELS_DOWN if record.levelno >= number),
        "category": category,
        "message": _message(record),
    }
    if current:
        fields |= {"function": current.function_name, "invocationId": current.id}
    if details := _exception(record):
        fields["exception"] = details
    return _encode(fields) + "\n"


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001  # the app's mistake must not cost it the line, nor the invocation
        what = record.msg if isinstance(record.msg, str) else type(record.msg).__name__
        return f"{what} (cannot be put together with its arguments)"


def _exception(record: logging.LogRecord) -> str:
    raised = record.exc_info
    details = _FORMATTER.formatException(raised) if raised and raised[0] else record.exc_text or ""
    return "\n".join(filter(None, (details, record.stack_info)))


def _escaped(text: str) -> str:
    """Return ``text`` with nothing in it that could begin a line, or that a terminal would obey."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


@lru_cache(maxsize=2)
def _local(second: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))


@lru_cache(maxsize=2)
def _utc(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def _level(category: str, level: object) -> int:
    found = _LEVELS.get(level.capitalize()) if isinstance(level, str) else None
    if found is None:
        raise HostError(
            f"host.json: '{level}' in logging.logLevel, for '{category}', is no level. "
            f"Choose one of {', '.join(_LEVELS)}."
        )
    return found


def _wants_colour(stream: TextIO) -> bool:
    """Whether to colour: see no-color.org and force-color.org; the former wins, as it does in Python itself."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()


def _is_true(variable: str) -> bool:
    return os.environ.get(variable, "").strip().lower() in ("1", "true", "t", "yes", "y")
