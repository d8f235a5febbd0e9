"""What changed between two JSON values (a placeholder until the real module is written over it)."""

from typing import Any, Literal


def diff_of(old: Any, new: Any) -> list[tuple[Literal["same", "old", "new"], str]]:
    """Return the lines of both."""
    return [("old", repr(old)), ("new", repr(new))]
