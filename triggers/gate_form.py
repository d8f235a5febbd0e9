"""The form on the page of a call that has failed: what was typed into it, and what that says."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus

import azure.functions as func
from pydantic import JsonValue, TypeAdapter, ValidationError

from contracts.audit import digest_of
from contracts.base import Comment
from contracts.form import wrong_answers
from contracts.guarded_call import GuardedCallInput, ShortJson
from triggers.diff import pretty
from triggers.link_page import read_fields

CHOICES: dict[str, str] = {
    "retry": "Try again",
    "edit": "Change the body and try again",
    "skip": "Go on without it, with this result instead",
    "fail": "Let it fail",
}
SEND, BACK = "send", "back"
"""What the buttons below a change that is shown say."""
MAX_ENCODED = 192_000
"""Bytes of a body in a form: with a reason of the longest kind it stays below what a form may have."""
MAX_WRONG = 5

_REASON: TypeAdapter[str] = TypeAdapter(Comment)
_JSON: TypeAdapter[JsonValue] = TypeAdapter(ShortJson)


@dataclass(frozen=True)
class Typed:
    """What stands in the inputs of the page. ``step`` is of the page that shows a change: to send it, or to go back."""

    action: str = ""
    body: str = ""
    result: str = ""
    reason: str = ""
    view: str = ""
    step: str = ""


@dataclass(frozen=True)
class Said:
    """What a form says. ``given`` is the ``body`` of an edit, or the ``result`` of a skip, and empty else."""

    action: str
    reason: str
    given: dict[str, JsonValue]

    def id_of(self, view: str) -> str:
        """The id of this: pressing twice is one, and so is not saying something else on the same page."""
        return digest_of([view, self.action, self.reason, self.given])


def untouched(body: JsonValue, substitute: JsonValue) -> Typed:
    """Return what stands in the inputs before anybody typed."""
    return Typed(body=_typed(body), result=_typed(substitute) if substitute is not None else "")


def read_typed(req: func.HttpRequest) -> Typed:
    """Return what was typed. Raises ``NotAForm``, ``PayloadTooLarge``, or ``BadRequest`` for what no page sends."""
    fields = read_fields(req)
    return Typed(**{name: fields.get(name, "") for name in Typed.__dataclass_fields__})


def said(typed: Typed, asked: GuardedCallInput, body: JsonValue) -> Said | dict[str, str]:
    """Return what was said, or what is wrong with it, by the id of the input. ``body`` is the one that was sent.

    Whether the call allows it, and whether it still waits, is for the run to say.
    """
    wrong: dict[str, str] = {}
    if typed.action not in CHOICES:
        wrong["action"] = "choose one"
    given: dict[str, JsonValue] = {}
    if typed.action == "edit":
        given = {"body": _body(typed.body, asked.body_schema, body, wrong)}
    if typed.action == "skip":
        given = {"result": _json("result", typed.result or "null", wrong)}
    reason = _reason(typed.reason, wrong)
    return wrong or Said(typed.action, reason, given)


def _typed(value: JsonValue) -> str:
    text = pretty(value)
    if len(quote_plus(text.replace("\n", "\r\n"))) <= MAX_ENCODED:
        return text
    return _JSON.dump_json(value).decode()


def _reason(typed: str, wrong: dict[str, str]) -> str:
    try:
        reason = _REASON.validate_python(typed)
    except ValidationError:
        wrong["reason"] = "up to 4,000 characters are taken"
        return ""
    if not reason:
        wrong["reason"] = "say why"
    return reason


def _body(typed: str, schema: dict[str, Any] | None, before: JsonValue, wrong: dict[str, str]) -> JsonValue:
    body = _json("body", typed, wrong)
    if "body" in wrong:
        return None
    if digest_of(body) == digest_of(before):
        wrong["body"] = "it is what it was; to send it once more, choose to try again"
    elif schema is not None:
        try:
            found = wrong_answers(schema, body)  # type: ignore[arg-type]  # a schema has an opinion on any JSON
        except (ValueError, RecursionError):  # the run was started past the API
            found = {}
        if found:
            wrong["body"] = "; ".join(f"{name}: {why}" if name else why for name, why in [*found.items()][:MAX_WRONG])
    return body


def _json(name: str, typed: str, wrong: dict[str, str]) -> JsonValue:
    try:
        return _JSON.validate_json(typed)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)[0]
    why = found.get("ctx", {}).get("error", "it cannot be read")
    wrong[name] = f"this is no JSON: {why}" if found["type"] == "json_invalid" else str(why)
    return None
