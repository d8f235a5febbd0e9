"""What was changed between two JSON values, line by line."""

import json
import random
import time
from typing import Any

import pytest

from contracts.guarded_call import MAX_JSON
from triggers.diff import MAX_COMPARED, MAX_PRETTY, diff_of, pretty


def nested(levels: int) -> Any:
    """A list in a list in a list."""
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def values() -> list[Any]:
    """Values of all kinds, some of them nearly the same."""
    drawn = random.Random(7)
    numbers = [drawn.randrange(5) for _ in range(150)]
    return [
        None,
        "",
        "two\nlines",
        True,
        1,
        1.0,
        [],
        {},
        [1, 2, 3],
        [1, 2, 3, 4],
        {"b": 1, "a": [True, None, {"c": "d"}]},
        {"b": 1, "a": [True, None, {"c": "e"}], "z": ""},
        numbers,
        [*numbers[:70], 9, *numbers[80:]],
        list(range(MAX_COMPARED)),
        nested(190),
        [nested(190)] * 30,
    ]


def applied(lines: list[tuple[Any, str]], left_out: str) -> str:
    """One side of a diff."""
    return "\n".join(line for kind, line in lines if kind != left_out)


@pytest.mark.parametrize("number", range(17))
def test_the_lines_that_stayed_and_went_are_the_old_value_and_those_that_stayed_and_came_the_new_one(
    number: int,
) -> None:
    old = values()[number]
    for new in values():
        lines = diff_of(old, new)
        if json.dumps(old, sort_keys=True) == json.dumps(new, sort_keys=True):
            assert lines == []
            continue
        assert {kind for kind, _ in lines} & {"old", "new"}
        if any(line.startswith("…") for _, line in lines):
            continue
        assert json.loads(applied(lines, "new")) == old
        assert json.loads(applied(lines, "old")) == new


def test_a_change_is_shown_with_what_stands_around_it_and_keys_are_sorted() -> None:
    old: Any = {"c": 3, "a": 1, "b": [1, 2]}
    new: Any = {"b": [1, 5], "a": 1, "d": None}
    assert diff_of(old, new) == [
        ("same", "{"),
        ("same", '  "a": 1,'),
        ("same", '  "b": ['),
        ("same", "    1,"),
        ("old", "    2"),
        ("new", "    5"),
        ("same", "  ],"),
        ("old", '  "c": 3'),
        ("new", '  "d": null'),
        ("same", "}"),
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [(1, True), (1, 1.0), (0, False), ("1", 1), ({"a": 1}, {"a": True}), (None, "null"), ([], {}), (0.0, -0.0)],
)
def test_what_python_takes_for_the_same_is_not(old: Any, new: Any) -> None:
    assert {kind for kind, _ in diff_of(old, new)} == {"old", "new"} | (
        {"same"} if isinstance(old, dict) and old else set()
    )


@pytest.mark.parametrize(
    ("shown", "letter"),
    [
        (r"\u202e", "\u202e"),
        (r"\u200b", "\u200b"),
        (r"\u00a0", "\u00a0"),
        (r"\u2028", "\u2028"),
        (r"\u0085", "\u0085"),
        (r"\u007f", "\x7f"),
        (r"\n", "\n"),
        (r"\r", "\r"),
        (r"\udb40\udc41", "\U000e0041"),
        ("é", "é"),
        ("\N{GRINNING FACE}", "\N{GRINNING FACE}"),
    ],
)
def test_what_cannot_be_seen_is_escaped_and_still_the_same(shown: str, letter: str) -> None:
    text = pretty({"a": f"x{letter}y"})
    assert f'"x{shown}y"' in text
    assert len(text.splitlines()) == 3
    assert json.loads(text) == {"a": f"x{letter}y"}
    if letter not in shown:
        assert ("new", f'"x{shown}y"') in diff_of("xy", f"x{letter}y")


def test_of_a_long_run_of_lines_that_stayed_the_middle_is_left_out() -> None:
    old: list[Any] = list(range(1000, 1100))
    new: list[Any] = [*old[:50], "new", *old[51:90], *old[91:]]
    lines = diff_of(old, new)
    assert lines == [
        ("same", "… 48 lines that are the same"),
        *(("same", f"  {number},") for number in (1047, 1048, 1049)),
        ("old", "  1050,"),
        ("new", '  "new",'),
        *(("same", f"  {number},") for number in (1051, 1052, 1053)),
        ("same", "… 33 lines that are the same"),
        *(("same", f"  {number},") for number in (1087, 1088, 1089)),
        ("old", "  1090,"),
        *(("same", f"  {number},") for number in (1091, 1092, 1093)),
        ("same", "… 7 lines that are the same"),
    ]


def test_no_line_is_left_out_alone() -> None:
    lines = diff_of([1, 2, 3, 4, 5], [1, 2, 3, 9, 5])
    assert [line for _, line in lines] == ["[", "  1,", "  2,", "  3,", "  4,", "  9,", "  5", "]"]


def test_too_much_to_be_compared_is_shown_as_old_and_new() -> None:
    old: list[Any] = list(range(MAX_COMPARED))
    new: list[Any] = [each for each in old if each % 2]
    lines = diff_of([-1, *old, -2], [-1, *new, -2])
    kinds = [kind for kind, _ in lines]
    assert list(dict.fromkeys(kinds)) == ["same", "old", "new"]
    assert kinds.count("same") == 2 + 3  # the brackets, and what stands at both ends
    assert kinds == ["same"] * 2 + ["old"] * kinds.count("old") + ["new"] * kinds.count("new") + ["same"] * 3


def test_what_is_nested_deeply_is_one_line() -> None:
    assert len(pretty(nested(100)).split("\n")) == 201
    wide = [nested(190)] * (MAX_JSON // 400)
    assert len(pretty(wide).split("\n")) == 1
    assert len(pretty(wide)) <= MAX_JSON
    assert diff_of(wide, 1) == [("old", pretty(wide)), ("new", "1")]


@pytest.mark.parametrize("kind", ["same", "random", "turned", "periodic"])
def test_the_worst_values_take_no_time(kind: str) -> None:
    size = MAX_COMPARED // 2 - 2
    drawn = random.Random(1)
    both: dict[str, tuple[list[Any], list[Any]]] = {
        "same": ([1] * 5000, [2, *[1] * 4998, 3]),
        "random": ([drawn.randrange(9) for _ in range(size)], [drawn.randrange(9) for _ in range(size)]),
        "turned": (list(range(size)), list(range(size))[::-1]),
        "periodic": ([each % 2 for each in range(size)], [each // 2 % 2 for each in range(size)]),
    }
    old, new = both[kind]
    began = time.perf_counter()
    lines = diff_of(old, new)
    assert time.perf_counter() - began < 5
    assert len(lines) < 11_000
    assert len(pretty(old)) <= MAX_PRETTY
