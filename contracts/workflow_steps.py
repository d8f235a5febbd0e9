"""The steps of a declared workflow: conditions, and actions of nine kinds."""

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    JsonValue,
    StringConstraints,
    Tag,
    TypeAdapter,
    ValidationError,
)

from contracts.base import MAX_PEOPLE, Contract, Hours, PlainAddress
from contracts.form import Form
from contracts.pause import PAUSING
from contracts.pause import Reason as PauseReason
from contracts.workflow_condition import BoundedCondition
from contracts.workflow_data import TargetPath, references_in

ANSWER = "answer"
"""The event that answers a step that waits for people."""
MAX_MAIL = 8_000
MAX_VALUES = 100
A_SECOND, A_MINUTE = 1 / 3600, 1 / 60
"""In hours: the least that a step waits, and the least of an approval, which mails people; so that no loop runs hot."""

Wait = Annotated[Hours, Field(ge=A_SECOND)]
_ADDRESS: TypeAdapter[str] = TypeAdapter(PlainAddress)
_OURS = ("failed", "terminated", "pending", "running", "paused")


def _with_references(value: Any) -> Any:
    for _ in references_in(value):
        pass
    return value


def _address(value: str) -> str:
    if any(True for _ in references_in(value)):
        return value
    try:
        return _ADDRESS.validate_python(value)
    except ValidationError as error:
        raise ValueError(error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")) from None


def _many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _not_ours(status: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9 _-]{0,49}", status):
        raise ValueError("a status has 1 to 50 letters, digits, blanks, - and _, and begins with a letter")
    if status.lower() in _OURS:
        raise ValueError(f"'{status}' is what the app says of runs itself")
    return status


def _step_id(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", text):
        raise ValueError("the id of a step has 1 to 100 letters, digits, - and _")
    return text


def _event(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", name):
        raise ValueError("the name of an event has 1 to 100 letters, digits, and - _ .")
    if name.lower() in (ANSWER, PAUSING) or name.startswith("_"):
        raise ValueError(f"'{name}' is an event of the app itself")
    return name


StepId = Annotated[str, AfterValidator(_step_id)]
EventName = Annotated[str, AfterValidator(_event)]
Reason = Annotated[PauseReason, AfterValidator(_with_references)]
Text = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_MAIL, pattern=r"\A[^\x00]*\z"),
    AfterValidator(_with_references),
]
Subject = Annotated[Text, StringConstraints(max_length=200, pattern=r"\A[^\x00-\x1f\x7f\u2028\u2029]*\z")]
Templates = Annotated[JsonValue, AfterValidator(_with_references)]
Body = Annotated[dict[str, JsonValue], AfterValidator(_with_references)]
ToAddress = Annotated[str, AfterValidator(_address)]
"""A mail address, or a text with a reference that becomes one."""
Addresses = Annotated[tuple[ToAddress, ...], Field(strict=False, max_length=MAX_PEOPLE)]
Status = Annotated[str, AfterValidator(_not_ours)]


class BlockAction(Contract):
    """Waits for people. ``approvers`` are who may answer; without any, everybody may, but for who started the run
    where ``allow_self_approval`` is false.

    With ``approval`` the answer has to say ``approved``; else it is any object, as the callback of another system.
    ``schema`` is what the data have to fit that come with the answer.
    """

    type: Literal["block"]
    reason: Reason
    approvers: Addresses = ()
    timeout_hours: Wait = 168.0
    approval: bool = True
    allow_self_approval: bool = True
    answer_schema: Annotated[Form | None, Field(alias="schema")] = None


class ApproveAction(Contract):
    """Has an approval made, as a run of its own. ``request`` is the body of ``POST /api/requests``."""

    type: Literal["approve"]
    request: Body


class CallAction(Contract):
    """Makes a guarded call, as a run of its own. ``request`` is the body of ``POST /api/interventions``."""

    type: Literal["call"]
    request: Body


class EmailAction(Contract):
    """Sends one mail, in plain words."""

    type: Literal["email"]
    to: Annotated[Addresses, Field(min_length=1), BeforeValidator(_many)]
    subject: Subject
    text: Text


class WaitEventAction(Contract):
    """Waits for an event of another system; its payload, an object, is merged into the data."""

    type: Literal["wait_event"]
    name: EventName
    timeout_hours: Wait = 168.0
    payload_schema: Annotated[Form | None, Field(alias="schema")] = None


class DelayAction(Contract):
    """Waits for so long: a number of hours, or ISO 8601 text; a second at least."""

    type: Literal["delay"]
    duration: Wait


class SetAction(Contract):
    """Puts values into the data, each at a dotted path, in their order; a later one sees the earlier ones."""

    type: Literal["set"]
    values: Annotated[dict[TargetPath, Templates], Field(min_length=1, max_length=MAX_VALUES)]


class CompleteAction(Contract):
    """Ends the run, with a status of its own and, perhaps, an output in place of all of the data."""

    type: Literal["complete"]
    status: Status = "Completed"
    output: Templates = None


class FailAction(Contract):
    """Fails the run."""

    type: Literal["fail"]
    reason: Text


ACTIONS = ("block", "approve", "call", "email", "wait_event", "delay", "set", "complete", "fail")
WAITS = ("block", "approve", "wait_event", "delay")
"""What a loop needs one of: steps at which time passes."""


def _tag(value: Any) -> str | None:
    given = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return f"<{given}>" if isinstance(given, str) and re.fullmatch(r"[a-z_]{1,20}", given) else None


Action = Annotated[
    Annotated[BlockAction, Tag("<block>")]
    | Annotated[ApproveAction, Tag("<approve>")]
    | Annotated[CallAction, Tag("<call>")]
    | Annotated[EmailAction, Tag("<email>")]
    | Annotated[WaitEventAction, Tag("<wait_event>")]
    | Annotated[DelayAction, Tag("<delay>")]
    | Annotated[SetAction, Tag("<set>")]
    | Annotated[CompleteAction, Tag("<complete>")]
    | Annotated[FailAction, Tag("<fail>")],
    Discriminator(
        _tag,
        custom_error_type="action",
        custom_error_message=f"an action is an object whose type is one of {', '.join(ACTIONS)}",
    ),
]


class ConditionStep(Contract):
    """Goes on at one step or another."""

    id: StepId
    type: Literal["condition"]
    condition: BoundedCondition
    on_true: StepId
    on_false: StepId


class ActionStep(Contract):
    """Does something, and goes on at ``next``; without one, the run ends.

    ``on_rejected``, ``on_timeout`` and ``on_failed`` are where it goes on in these cases. Without them, a run ends as
    ``Rejected``, and fails.
    """

    id: StepId
    type: Literal["action"]
    action: Action
    next: StepId | None = None
    on_rejected: StepId | None = None
    on_timeout: StepId | None = None
    on_failed: StepId | None = None


Way = Literal["next", "on_rejected", "on_timeout", "on_failed"]
WAYS: dict[str, tuple[Way, ...]] = {
    "block": ("next", "on_rejected", "on_timeout"),
    "approve": ("next", "on_rejected", "on_timeout", "on_failed"),
    "call": ("next", "on_failed"),
    "email": ("next", "on_failed"),
    "wait_event": ("next", "on_timeout"),
    "delay": ("next",),
    "set": ("next",),
    "complete": (),
    "fail": (),
}
"""Where each action can lead to."""


def _step_tag(value: Any) -> str | None:
    given = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return {"condition": "<condition>", "action": "<action>"}.get(given) if isinstance(given, str) else None


Step = Annotated[
    Annotated[ConditionStep, Tag("<condition>")] | Annotated[ActionStep, Tag("<action>")],
    Discriminator(
        _step_tag,
        custom_error_type="step",
        custom_error_message="a step is an object whose type is condition or action",
    ),
]
