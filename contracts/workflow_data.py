"""The data of a declared workflow: dotted paths into them, and the references to them in texts.

All of it is plain and total: no code, no patterns of others, nothing that is looked at twice.
"""

import json
import re
from collections.abc import Iterator
from typing import Annotated, Any
from urllib.parse import quote

from pydantic import AfterValidator, JsonValue

from contracts.form import json_text

MAX_DATA = 64_000
"""Characters (of UTF-16) of the JSON of the data of a run, of a definition, and of what one step makes of the data."""
MAX_PARTS = 20
MAX_PATH = 300
STEPS, EXECUTION = "steps", "execution"
RESERVED = (STEPS, EXECUTION)
"""Names that nobody gives: the results of steps, and what the run is."""
KINDS: dict[type, str] = {bool: "boolean", int: "number", float: "number", str: "text", list: "list", dict: "object"}

_PART = re.compile(r"[^\s.{}\x00-\x1f\x7f]{1,100}")
_REFERENCE = re.compile(r"\{\{([^{}]*)\}\}")


class DataError(ValueError):
    """The data are not what a step needs; the text says what is wrong, without the step."""


def kind_of(value: JsonValue) -> str:
    """Return what a JSON value is, in a word. A boolean is no number."""
    return KINDS.get(type(value), "null")


def check_path(path: str) -> str:
    """Return a dotted path. Raises ``ValueError`` for what is none."""
    parts = path.split(".")
    if len(path) > MAX_PATH or len(parts) > MAX_PARTS or not all(_PART.fullmatch(part) for part in parts):
        raise ValueError(
            f"a path is names with dots between them, as in order.amount: up to {MAX_PARTS}, without blanks or braces"
        )
    return path


def _target(path: str) -> str:
    first = check_path(path).partition(".")[0]
    if first in RESERVED:
        raise ValueError(f"'{first}' cannot be set: it is what the run itself says")
    return path


DataPath = Annotated[str, AfterValidator(check_path)]
TargetPath = Annotated[str, AfterValidator(_target)]
"""A path at which a value is put."""

_MISSING: Any = object()


def _found(data: JsonValue, path: str) -> Any:
    value: Any = data
    for part in path.split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and re.fullmatch(r"[0-9]{1,6}", part) and int(part) < len(value):
            value = value[int(part)]
        else:
            return _MISSING
    return value


def has(data: dict[str, JsonValue], path: str) -> bool:
    """Whether a path leads to a value; null is one."""
    return _found(data, path) is not _MISSING


def look_up(data: dict[str, JsonValue], path: str) -> JsonValue:
    """Return the value at a path; a number in it is a place in a list. Raises ``DataError`` where there is none."""
    value: JsonValue = _found(data, path)
    if value is _MISSING:
        raise DataError(f"there is no '{path}' in the data")
    return value


def put(data: dict[str, JsonValue], path: str, value: JsonValue) -> dict[str, JsonValue]:
    """Return the data with a value at a path; objects on the way are made. Raises ``DataError`` where something else is
    in the way. The data that were given stay as they are."""
    name, _, rest = path.partition(".")
    if not rest:
        return {**data, name: value}
    inner = data.get(name, {})
    if not isinstance(inner, dict):
        raise DataError(f"'{name}' is no object but a {kind_of(inner)}, so that nothing can be put into it")
    return {**data, name: put(inner, rest, value)}


def check_data(data: JsonValue) -> None:
    """Raise ``DataError`` for data that are too long, nested too deep, or cannot be kept as JSON."""
    try:
        text = json_text(data)
    except ValueError as error:
        raise DataError(str(error)) from None
    if len(text.encode("utf-16-le")) > 2 * MAX_DATA:
        raise DataError(f"the data have more than {MAX_DATA:,} characters of JSON")


# References


def references_in(value: JsonValue) -> Iterator[str]:
    """Give the paths of all ``{{references}}`` in the texts of a value. Raises ``ValueError`` for one that is none."""
    if isinstance(value, str):
        for path in _REFERENCE.findall(value):
            yield check_path(path.strip())
        if "{{" in _REFERENCE.sub("", value):
            raise ValueError("'{{' begins a reference, as in {{order.id}}, and '}}' ends it")
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from references_in(part)


def has_references(value: JsonValue) -> bool:
    """Whether a value says something that only the data of a run can tell."""
    if isinstance(value, dict | list):
        return any(has_references(part) for part in (value.values() if isinstance(value, dict) else value))
    return isinstance(value, str) and "{{" in value


def resolve(value: Any, data: dict[str, JsonValue], *, in_address: bool = False) -> Any:
    """Return a value with the data in place of the references in its texts; names of objects stay as they are.

    A text that is one reference becomes the value with its type; in a longer text, what is no text is shown as JSON.
    What is put in is not looked at again. ``in_address`` quotes it, so that it stays the part of an address that it is
    meant for. Raises ``DataError`` for a reference that leads nowhere, and when it becomes too long.
    """
    return _Resolving(data, in_address=in_address).resolve(value)


def text_of(value: JsonValue) -> str:
    """Return a value as text: JSON, where it is none."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


class _Resolving:
    def __init__(self, data: dict[str, JsonValue], *, in_address: bool) -> None:
        self._data = data
        self._in_address = in_address
        self._left = MAX_DATA

    def resolve(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: self.resolve(part) for name, part in value.items()}
        if isinstance(value, list | tuple):
            return [self.resolve(part) for part in value]
        if not isinstance(value, str) or "{{" not in value:
            return value
        whole = _REFERENCE.fullmatch(value)
        if whole is not None:
            found = self._look_up(whole)
            self._text(found)  # for its length
            return found
        return _REFERENCE.sub(self._put_in, value)

    def _put_in(self, reference: re.Match[str]) -> str:
        text = self._text(self._look_up(reference))
        if self._in_address and text in (".", ".."):
            raise DataError(f"'{reference[1].strip()}' is dots alone, which lead elsewhere in an address")
        return quote(text, safe="", errors="replace") if self._in_address else text

    def _look_up(self, reference: re.Match[str]) -> JsonValue:
        return look_up(self._data, reference[1].strip())

    def _text(self, value: JsonValue) -> str:
        text = text_of(value)
        self._left -= len(text)
        if self._left < 0:
            raise DataError(f"with the data put in it has more than {MAX_DATA:,} characters")
        return text
