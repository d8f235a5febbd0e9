"""The form on the page behind a link: its inputs, what was typed into them, and what that says."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import azure.functions as func
from pydantic import TypeAdapter, ValidationError

from contracts.approval import ApprovalInput, Choice
from contracts.audit import digest_of
from contracts.base import Comment
from contracts.form import Answers, is_flat, wrong_answers
from contracts.people import Person
from contracts.shown import Content
from triggers.link_page import read_fields

LONG_TEXT = 200
"""A field that takes more characters is a textarea."""
CHOICES: dict[str, str] = {
    "approve": "Approve",
    "reject": "Reject",
    "request_changes": "Request changes",
    "abstain": "Abstain",
    "delegate": "Hand over to somebody else",
}

_COMMENT: TypeAdapter[str] = TypeAdapter(Comment)
_ANSWERS: TypeAdapter[dict[str, Any]] = TypeAdapter(Answers)
_NUMBER = re.compile(r"[+-]?[0-9]{1,15}(?:\.[0-9]{1,15})?")
_WHOLE = re.compile(r"[+-]?[0-9]{1,15}")
_CODE = re.compile(r"[0-9]{6}")


@dataclass(frozen=True)
class Input:
    """One input for the request's form. ``id`` names it on the page, where ``name`` could be any text."""

    id: str
    name: str
    kind: Literal["text", "email", "date", "textarea", "checkbox", "select"]
    label: str
    hint: str = ""
    required: bool = False
    number: Literal["integer", "number"] | None = None
    options: tuple[Any, ...] = ()
    default: str = ""
    as_json: bool = False


@dataclass(frozen=True)
class Typed:
    """What stands in the inputs of the page: of a checkbox a text if it is ticked, of a select the option's number."""

    vote: str = ""
    to: str = ""
    comments: str = ""
    code: str = ""
    view: str = ""
    answers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Said:
    """What a form says: a choice, or ``delegate`` and to whom."""

    vote: Choice | Literal["delegate"]
    comments: str | None
    to: Person | None
    answers: dict[str, Any] | None
    code: str

    def id_of(self, view: str) -> str:
        """The id of this decision: pressing twice is one, and so is not saying something else on the same page."""
        to = self.to.plain() if self.to is not None else None
        return digest_of([view, self.vote, self.comments, to, self.answers, self.code])


def inputs_of(form: dict[str, Any] | None) -> tuple[Input, ...]:
    """Return the inputs for a request's form: one for each field of a flat one, else one for JSON."""
    if form is None:
        return ()
    if not is_flat(form):
        names = ", ".join(form.get("properties", {}))
        hint = f"JSON: an object with {names}." if names else "JSON: an object."
        return (
            Input("answer-json", "", "textarea", "Answers", hint, required=bool(form.get("required")), as_json=True),
        )
    needed = form.get("required", [])
    return tuple(
        _input(f"answer-{number}", name, schema, name in needed)
        for number, (name, schema) in enumerate(form["properties"].items())
    )


def untouched(inputs: tuple[Input, ...]) -> Typed:
    """Return what stands in the inputs before anybody typed."""
    return Typed(answers={each.id: each.default for each in inputs})


def read_typed(req: func.HttpRequest, inputs: tuple[Input, ...]) -> Typed:
    """Return what was typed. Raises ``NotAForm``, ``PayloadTooLarge``, or ``BadRequest`` for what no page sends."""
    fields = read_fields(req)
    answers = {each.id: fields.get(each.id, "") for each in inputs}
    known = {name: fields.get(name, "") for name in ("vote", "to", "comments", "code", "view")}
    return Typed(**known, answers=answers)


def said(typed: Typed, asked: ApprovalInput, content: Content, inputs: tuple[Input, ...]) -> Said | dict[str, str]:
    """Return what was said, or what is wrong with it, by the id of the input."""
    wrong: dict[str, str] = {}
    vote = typed.vote if typed.vote in CHOICES else None
    if vote is None:
        wrong["vote"] = "choose one"
    to = _person(typed.to, wrong) if vote == "delegate" else None
    answers: dict[str, Any] | None = None
    if vote == "approve" and content.form is not None:
        answers = _answers(typed, content.form, inputs, wrong)
    comments = _comments(typed.comments, wrong)
    if not comments and "comments" not in wrong and _needs_comment(vote, asked):
        wrong["comments"] = "it is needed for this choice"
    code = "".join(typed.code.split())
    if asked.second_factor == "mail_code" and not _CODE.fullmatch(code):
        wrong["code"] = "type the six digits"
    if wrong or vote is None:
        return wrong
    return Said(vote, comments, to, answers, code)  # type: ignore[arg-type]  # it is one of CHOICES


def _needs_comment(vote: str | None, asked: ApprovalInput) -> bool:
    return vote == "request_changes" or vote in asked.require_comment_on


def _input(id_: str, name: str, schema: dict[str, Any], required: bool) -> Input:
    kind = schema.get("type")
    label, hint = str(schema.get("title") or name), str(schema.get("description") or "")
    default = schema.get("default")
    if isinstance(options := schema.get("enum"), list) and options:
        chosen = next((str(number) for number, each in enumerate(options) if _same(each, default)), "")
        return Input(id_, name, "select", label, hint, required, options=tuple(options), default=chosen)
    if kind == "boolean":
        return Input(id_, name, "checkbox", label, hint, required, default="on" if default is True else "")
    typed = "" if default is None else str(default)
    if kind in ("integer", "number"):
        return Input(id_, name, "text", label, hint, required, number=kind, default=typed)
    shape = schema.get("format")
    if shape in ("date", "email"):
        return Input(id_, name, shape, label, hint, required, default=typed)
    is_long = isinstance(longest := schema.get("maxLength"), int | float) and longest > LONG_TEXT
    return Input(id_, name, "textarea" if is_long or "\n" in typed else "text", label, hint, required, default=typed)


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


def _person(typed: str, wrong: dict[str, str]) -> Person | None:
    try:
        return Person(email=typed)
    except ValidationError:
        wrong["to"] = "type one mail address"
        return None


def _comments(typed: str, wrong: dict[str, str]) -> str | None:
    try:
        return _COMMENT.validate_python(typed) or None
    except ValidationError:
        wrong["comments"] = "up to 4,000 characters are taken"
        return None


def _answers(typed: Typed, form: dict[str, Any], inputs: tuple[Input, ...], wrong: dict[str, str]) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for each in inputs:
        try:
            answers |= _answer(each, typed.answers[each.id])
        except ValueError as error:
            wrong[each.id] = str(error)
    if wrong.keys() & {each.id for each in inputs}:
        return answers
    try:
        answers = _ANSWERS.validate_python(answers)
        found = wrong_answers(form, answers)
    except (ValidationError, RecursionError):
        found = {"": "it is too long, or cannot be read"}
    ids = {each.name: each.id for each in inputs if not each.as_json}
    whole = inputs[0].id if inputs[0].as_json else "answers"
    for name, message in found.items():
        known = ids.get(name)
        told = message if known is not None or not name else f"{name}: {message}"
        wrong.setdefault(known or whole, told)
    return answers


def _answer(each: Input, typed: str) -> dict[str, Any]:
    """Return the answer in one input, or nothing where it was left empty. Raises ``ValueError`` with a message."""
    if each.as_json:
        return _object(typed)
    if each.kind == "checkbox":
        return {each.name: bool(typed)}
    text = typed.strip()
    if not text:
        return {}
    if each.kind == "select":
        if not (text.isascii() and text.isdecimal() and len(text) < 6 and int(text) < len(each.options)):
            raise ValueError("choose one of the list")
        return {each.name: each.options[int(text)]}
    return {each.name: _number(each.number, text) if each.number is not None else text}


def _number(kind: Literal["integer", "number"], text: str) -> int | float:
    if kind == "integer" and not _WHOLE.fullmatch(text):
        raise ValueError("type a whole number, such as 12")
    if not _NUMBER.fullmatch(text):
        raise ValueError("type a number, such as 12.5")
    return float(text) if "." in text else int(text)


def _object(typed: str) -> dict[str, Any]:
    if not typed.strip():
        return {}
    try:
        found = json.loads(typed, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        return found
    raise ValueError("it is no JSON object")


def _no_constant(name: str) -> Any:
    raise ValueError(name)
