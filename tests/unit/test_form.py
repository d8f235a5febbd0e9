"""Forms: which JSON Schemas can be one, what answers fit, and which are shown as inputs."""

import time
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from contracts.form import MAX_ANSWERS, MAX_FORM, MAX_LEVELS, Answers, Form, check_form, is_flat, wrong_answers

FORM: TypeAdapter[dict[str, Any]] = TypeAdapter(Form)
ANSWERS: TypeAdapter[dict[str, Any]] = TypeAdapter(Answers)


def form(**fields: Any) -> dict[str, Any]:
    """A form with these fields."""
    return {"type": "object", "properties": fields}


def refused(schema: Any) -> str:
    """Why a schema is refused; it has to be."""
    with pytest.raises(ValidationError) as caught:
        FORM.validate_python(schema)
    return str(caught.value.errors()[0]["msg"])


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        form(a={"type": "string", "format": "date", "maxLength": 10}),
        form(a={"enum": ["x", "y"]}, b={"type": "integer", "minimum": 1, "exclusiveMaximum": 9}),
        form(a={"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 3}),
        form(**{"$ref": {"type": "string"}, "pattern": {"type": "string"}, "properties": {"type": "string"}}),
        form(a={"const": {"$ref": "x"}, "default": {"pattern": "("}, "examples": [{"$id": 1}]}),
        form(a={"type": ["string", "null"]}, b=True),
        {"type": "object", "additionalProperties": False},
    ],
)
def test_a_form_is_a_json_schema_of_an_object(schema: Any) -> None:
    check_form(schema)
    assert FORM.validate_python(schema) == schema


@pytest.mark.parametrize(
    "schema", [{}, {"type": "string"}, {"type": ["object"]}, {"properties": {}}, {"type": "array", "items": {}}]
)
def test_a_form_is_of_type_object(schema: Any) -> None:
    assert "type 'object'" in refused(schema)


@pytest.mark.parametrize(
    ("schema", "where"),
    [
        ({"type": "object", "required": "a"}, "required"),
        (form(a={"type": "strange"}), "properties/a"),
        (form(a={"minLength": -1}), "properties/a/minLength"),
        ({"type": "object", "properties": []}, "properties"),
    ],
)
def test_what_is_no_json_schema_is_refused_and_says_where(schema: Any, where: str) -> None:
    with pytest.raises(ValueError, match="it is no JSON Schema") as caught:
        check_form(schema)
    assert f"(at {where}" in str(caught.value)


# What refers elsewhere, or can be made to take minutes over a few letters.
REFUSED = {
    "$ref": "#",
    "$dynamicRef": "#",
    "$recursiveRef": "#",
    "$schema": "http://x.y/z",
    "$id": "http://x.y/z",
    "$defs": {},
    "definitions": {},
    "pattern": "(a+)+$",
    "patternProperties": {"(a+)+$": {}},
    "uniqueItems": True,
    "contains": {},
    "anyOf": [{}],
    "allOf": [{}],
    "oneOf": [{}],
    "not": {},
    "if": {},
    "dependentSchemas": {},
    "unevaluatedProperties": False,
    "propertyNames": {},
    "contentSchema": {},
}
PLACES: list[Any] = [
    lambda bad: {"type": "object", **bad},
    lambda bad: form(a=bad),
    lambda bad: form(a={"type": "array", "items": bad}),
    lambda bad: {"type": "object", "additionalProperties": bad},
    lambda bad: form(properties={"properties": {"a": bad}}),
    lambda bad: form(**{"const": bad, "enum": bad, "default": bad, "type": bad}),
]


@pytest.mark.parametrize("keyword", REFUSED)
@pytest.mark.parametrize("place", PLACES)
def test_keywords_that_fetch_or_never_end_are_refused_wherever_they_stand(keyword: str, place: Any) -> None:
    assert f"'{keyword}'" in refused(place({keyword: REFUSED[keyword]}))


@pytest.mark.parametrize("schema", [form(a=7), form(a=None), form(a=["x"]), {"type": "object", "items": "x"}])
def test_each_schema_in_a_form_is_an_object(schema: Any) -> None:
    assert "is an object" in refused(schema)


def test_a_form_is_small_and_shallow() -> None:
    assert f"{MAX_FORM:,}" in refused(form(a={"type": "string", "title": "x" * MAX_FORM}))
    deep: Any = {"type": "string"}
    for _ in range(MAX_LEVELS - 1):
        deep = {"type": "array", "items": deep}
    FORM.validate_python(form(a=deep))
    assert "nested" in refused(form(a={"items": deep}))
    for _ in range(500):
        deep = {"items": deep}
    assert refused(form(a=deep))


def test_answers_are_small() -> None:
    ANSWERS.validate_python({"a": "x" * (MAX_ANSWERS - 20)})
    with pytest.raises(ValidationError, match=f"{MAX_ANSWERS:,}"):
        ANSWERS.validate_python({"a": "x" * MAX_ANSWERS})


SOME = form(
    number={"type": "integer", "minimum": 1},
    day={"type": "string", "format": "date"},
    mail={"type": "string", "format": "email"},
    list={"type": "array", "items": {"type": "object", "required": ["x"]}},
) | {"required": ["number", "day"], "additionalProperties": False}
GOOD = {"number": 1, "day": "2026-02-28"}


@pytest.mark.parametrize(
    ("answers", "fields"),
    [
        (GOOD, []),
        (GOOD | {"mail": "a@b", "list": [{"x": 1}]}, []),
        ({}, ["number", "day"]),
        (GOOD | {"number": "1"}, ["number"]),
        (GOOD | {"number": True}, ["number"]),
        (GOOD | {"number": 0.5}, ["number"]),
        (GOOD | {"number": None}, ["number"]),
        (GOOD | {"day": "2026-02-30"}, ["day"]),
        (GOOD | {"day": "yesterday"}, ["day"]),
        (GOOD | {"mail": "nobody"}, ["mail"]),
        (GOOD | {"list": [{"x": 1}, {}]}, ["list.1.x"]),
        (GOOD | {"other": 1}, [""]),
        ({"number": 0}, ["number", "day"]),
    ],
)
def test_what_is_wrong_with_answers_is_told_by_field(answers: Any, fields: list[str]) -> None:
    wrong = wrong_answers(SOME, answers)
    assert sorted(wrong) == sorted(fields)
    assert all(0 < len(message) <= 200 for message in wrong.values())


def test_a_number_of_any_size_is_judged() -> None:
    schema = form(a={"type": "number", "multipleOf": 0.01})
    assert "too large" in wrong_answers(schema, {"a": 10**400})[""]


def test_only_so_much_is_told() -> None:
    many = form(**{f"f{number}": {"type": "string"} for number in range(60)})
    assert len(wrong_answers(many, {f"f{number}": 1 for number in range(60)})) == 20
    needed = many | {"required": [f"f{number}" for number in range(60)]}
    assert len(wrong_answers(needed, {})) <= 60


def test_the_largest_form_and_answers_are_checked_in_no_time() -> None:
    fields = {f"f{number}": {"type": ["string", "null"], "maxLength": 3} for number in range(100)}
    began = time.monotonic()
    wrong_answers(FORM.validate_python(form(**fields)), {f"f{number}": "x" * 20 for number in range(100)})
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("schema", "flat"),
    [
        (form(a={"type": "string"}, b={"type": "boolean"}, c={"type": "number"}, d={"type": "integer"}), True),
        (form(a={"enum": ["x", 1]}), True),
        (form(a={"type": "string"}) | {"title": "T", "required": ["a"], "additionalProperties": False}, True),
        ({"type": "object"}, False),
        (form(), False),
        (form(a={}), False),
        (form(a=True), False),
        (form(a={"type": "array"}), False),
        (form(a={"type": "object"}), False),
        (form(a={"type": ["string", "null"]}), False),
        (form(a={"type": "null"}), False),
        (form(a={"enum": [None]}), False),
        (form(a={"enum": [["x"]]}), False),
        (form(a={"type": "string"}) | {"anyOf": []}, False),
        (form(a={"type": "string"}) | {"if": {}}, False),
        (form(a={"type": "string", "enum": [{"x": 1}]}), False),
    ],
)
def test_what_is_flat(schema: Any, flat: bool) -> None:
    assert is_flat(schema) is flat
