"""What was changed between two JSON values, line by line, for people."""

import json
import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import Literal

from pydantic import JsonValue

MAX_PRETTY = 60_000
"""Characters of a value that is laid out in lines: what is nested deeply would be mostly blanks."""
MAX_COMPARED = 600
"""How many lines are held against each other; of more, the old ones are shown before the new ones."""
CONTEXT = 3
"""How many lines are shown around a change."""

type DiffLine = tuple[Literal["same", "old", "new"], str]


def pretty(value: JsonValue) -> str:
    """Return a value as JSON in lines, with its keys sorted, or in one line where that would be too long.

    What cannot be seen is escaped, so that two values that differ look different.
    """
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, indent=2)
    if len(text) > MAX_PRETTY:
        text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return re.sub(r"[^ -~\n]", lambda found: _visible(found[0]), text)


def diff_of(old: JsonValue, new: JsonValue) -> list[DiffLine]:
    """Return the lines of both values: what stayed, what went, and what came; nothing when they are the same.

    Of a long run of lines that stayed only those around the changes are told, and how many are left out.
    """
    before, after = pretty(old).split("\n"), pretty(new).split("\n")
    return list(_folded(list(_lines(before, after)))) if before != after else []


def _visible(letter: str) -> str:
    return letter if letter.isprintable() else json.dumps(letter)[1:-1]


def _lines(before: Sequence[str], after: Sequence[str]) -> Iterator[DiffLine]:
    shortest = min(len(before), len(after))
    start = next((at for at in range(shortest) if before[at] != after[at]), shortest)
    end = next((at for at in range(shortest - start) if before[-1 - at] != after[-1 - at]), shortest - start)
    stop, other_stop = len(before) - end, len(after) - end
    yield from (("same", line) for line in before[:start])
    yield from _changed(before[start:stop], after[start:other_stop])
    yield from (("same", line) for line in before[stop:])


def _changed(before: Sequence[str], after: Sequence[str]) -> Iterator[DiffLine]:
    done = other_done = 0
    is_short = len(before) + len(after) <= MAX_COMPARED
    same = SequenceMatcher(None, before, after, autojunk=False).get_matching_blocks() if is_short else []
    for start, other_start, length in [*same, (len(before), len(after), 0)]:
        yield from (("old", line) for line in before[done:start])
        yield from (("new", line) for line in after[other_done:other_start])
        yield from (("same", line) for line in before[start : start + length])
        done, other_done = start + length, other_start + length


def _folded(lines: Sequence[DiffLine]) -> Iterator[DiffLine]:
    changes = [at for at, (kind, _) in enumerate(lines) if kind != "same"]
    done = 0
    for at in changes:
        yield from _unchanged(lines[done:at], is_first=done == 0)
        yield lines[at]
        done = at + 1
    yield from _unchanged(lines[done:], is_last=True)


def _unchanged(lines: Sequence[DiffLine], *, is_first: bool = False, is_last: bool = False) -> Iterator[DiffLine]:
    """Give what stands between two changes, without its middle where that is long."""
    head, tail = 0 if is_first else CONTEXT, 0 if is_last else CONTEXT
    left_out = len(lines) - head - tail
    if left_out < 2:
        yield from lines
        return
    yield from lines[:head]
    yield "same", f"… {left_out:,} lines that are the same"
    yield from lines[len(lines) - tail :]
