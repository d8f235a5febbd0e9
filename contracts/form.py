"""Forms: a JSON Schema for what an approver fills in, and the answers to it."""

import json
from typing import Annotated, Any

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import SchemaError
from pydantic import AfterValidator, JsonValue

MAX_FORM = 8_000
MAX_ANSWERS = 4_000
"""Characters of JSON."""
KEYWORDS = (
    "type",
    "title",
    "description",
    "examples",
    "default",
    "const",
    "enum",
    "format",
    "properties",
    "required",
    "additionalProperties",
    "minProperties",
    "maxProperties",
    "items",
    "minItems",
    "maxItems",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
)
"""What a form can have of JSON Schema. The rest is left out since it can be made to take minutes over a few letters
(patterns, uniqueItems, combinations), or refers elsewhere."""
INNER = ("items", "additionalProperties")
MAX_LEVELS = 6
MAX_NESTED = 50
"""How deep a JSON value of somebody's is nested: readers give up at about 200, and it stands inside of more."""
SCALARS = ("string", "number", "integer", "boolean")


def check_text(text: str) -> None:
    """Raise ``ValueError`` for half a surrogate pair, which JSON can hold, and no store or mail."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("it has half a surrogate pair in it, which is no character") from None


def json_text(value: JsonValue) -> str:
    """Return a JSON value as text. Raises ``ValueError`` for what cannot be kept, or is nested too deep."""
    if _levels(value) > MAX_NESTED:
        raise ValueError(f"it is nested more than {MAX_NESTED} deep")
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    check_text(text)
    return text


def _levels(value: JsonValue) -> int:
    if not isinstance(value, dict | list):
        return 0
    return 1 + max(map(_levels, value.values() if isinstance(value, dict) else value), default=0)


def check_form(schema: dict[str, Any]) -> None:
    """Raise ``ValueError`` for what is no JSON Schema. Not for orchestrators: a newer library may judge otherwise."""
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        where = "/".join(str(part) for part in error.absolute_path)[:60]
        raise ValueError(f"it is no JSON Schema: {error.message[:100]}" + (f" (at {where})" if where else "")) from None


def _form(schema: dict[str, Any]) -> dict[str, Any]:
    if len(json.dumps(schema, ensure_ascii=False, allow_nan=False)) > MAX_FORM:
        raise ValueError(f"a form has up to {MAX_FORM:,} characters of JSON")
    found = _refused(schema, 0)
    if found is not None:
        raise ValueError(found)
    if schema.get("type") != "object":
        raise ValueError("a form is a JSON Schema of type 'object'")
    return schema


def _refused(part: JsonValue, level: int) -> str | None:
    """Return what a schema has that a form cannot have, or None."""
    if level > MAX_LEVELS:
        return f"a form is nested up to {MAX_LEVELS} deep"
    if not isinstance(part, dict):
        return None if isinstance(part, bool) else "each schema in a form is an object"
    for key in part:
        if key not in KEYWORDS:
            return f"a form cannot have the keyword '{key[:40]}'; there are {', '.join(KEYWORDS)}"
    fields = part.get("properties", {})
    inner = [*(fields.values() if isinstance(fields, dict) else ()), *(part[key] for key in INNER if key in part)]
    return next((found for each in inner if (found := _refused(each, level + 1))), None)


def _answers(answers: dict[str, Any]) -> dict[str, Any]:
    text = json.dumps(answers, ensure_ascii=False, allow_nan=False)
    check_text(text)
    if len(text) > MAX_ANSWERS:
        raise ValueError(f"answers have up to {MAX_ANSWERS:,} characters of JSON")
    return answers


Form = Annotated[dict[str, JsonValue], AfterValidator(_form)]
Answers = Annotated[dict[str, JsonValue], AfterValidator(_answers)]


def wrong_answers(form: dict[str, Any], answers: dict[str, Any]) -> dict[str, str]:
    """Return what is wrong with answers, by the name of the field (empty for the whole); nothing when they fit.

    Raises ``ValueError`` where the form is no JSON Schema. Not for orchestrators: a newer library may judge otherwise.
    """
    checker = FormatChecker(formats=("date", "email", "time", "ipv4", "ipv6"))
    found: dict[str, str] = {}
    check_form(form)
    try:
        for error in Draft202012Validator(form, format_checker=checker).iter_errors(answers):
            if error.validator == "required":
                missing = [name for name in error.validator_value if name not in error.instance]
                for name in missing:
                    found.setdefault(".".join(map(str, (*error.absolute_path, name))), "it is needed")
            else:
                found.setdefault(".".join(map(str, error.absolute_path)), error.message[:200])
            if len(found) >= 20:
                break
    except (OverflowError, ValueError):
        found.setdefault("", "a number in it is too large, or too small, to be held against the form")
    return found


def is_flat(form: dict[str, Any]) -> bool:
    """Whether every field is one text, number, yes or no, or choice: then it is shown as inputs."""
    fields = form.get("properties", {})
    simple = ("type", "properties", "required", "title", "description", "additionalProperties")
    return (
        bool(fields)
        and all(key in simple for key in form)
        and all(
            isinstance(field, dict) and (_is_choice(field) if "enum" in field else field.get("type") in SCALARS)
            for field in fields.values()
        )
    )


def _is_choice(field: dict[str, Any]) -> bool:
    options = field.get("enum")
    return isinstance(options, list) and bool(options) and all(isinstance(each, str | int | float) for each in options)
