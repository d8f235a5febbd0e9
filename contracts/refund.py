"""Refund: what starts it, what moves it on, what comes out."""

import re
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    JsonValue,
    ModelWrapValidatorHandler,
    StringConstraints,
    ValidationError,
    model_validator,
)

from contracts.base import (
    MAX_PEOPLE,
    Comment,
    Contract,
    DecisionId,
    Hours,
    InstanceId,
    PlainAddress,
    Who,
    same_person,
)
from contracts.form import json_text
from contracts.guarded_call import Retry
from contracts.human_step import Asking
from contracts.manual_intervention import RemoteCall, decoded
from contracts.outcome import Outcome
from contracts.people import Person
from contracts.start import Keyed, StartOptions

MAX_DATA = 1_000
"""Characters of the JSON of the data attribute, those outside the basic plane counting as two: it stands in the custom
status, which must stay under 16 KB whatever the script."""
MAX_RESULT = 8_000
"""Characters of the JSON of what API 1 gave that later calls get: a body has up to 16,000."""
MAX_AMOUNT = 1_000_000_000
READY_CHANNEL = "Ready"
"""The event, and the channel of messages, by which a refund is said to be ready."""

CallName = Literal[
    "create_refund", "notify_created", "process_refund", "notify_expired", "cancel_refund", "reverse_refund"
]
"""APIs 1 to 4, and what undoes the first and the third."""


def _amount(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("an amount is a number, or a text such as 12.50")  # noqa: TRY004
    text = value if isinstance(value, str) else repr(value)
    if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,2})?", text):
        raise ValueError("an amount is more than 0, with up to two digits behind the point")
    amount = Decimal(text)
    if not 0 < amount <= MAX_AMOUNT:
        raise ValueError(f"an amount is more than 0, and {MAX_AMOUNT:,} at most")
    return f"{amount:.2f}"


def _data(value: JsonValue) -> JsonValue:
    if len(json_text(value).encode("utf-16-le")) > 2 * MAX_DATA:
        raise ValueError(f"it has more than {MAX_DATA:,} characters of JSON")
    return value


def _text(value: str) -> str:
    _data(value)
    return value


Amount = Annotated[str, BeforeValidator(_amount)]
"""A decimal number; kept, and sent, as text with two digits behind the point."""
Currency = Annotated[str, StringConstraints(pattern=r"\A[A-Z]{3}\z"), Field(description="a code of ISO 4217: EUR")]
Reason = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500, pattern=r"\A[^\x00]*\z")]
Data = Annotated[JsonValue, AfterValidator(_data)]


class Simulated(Contract):
    """How a simulated call goes: the first ``fails`` attempts fail with ``status``."""

    fails: Annotated[int, Field(ge=0, le=1_000)] = 0
    status: Annotated[int, Field(ge=400, le=599)] = 503


class _Refund(Contract):
    """What a request and the durable input have in common."""

    customer: Who | None = None
    reason: Reason | None = None
    data: Data = None
    assigned_to: Annotated[tuple[Person, ...], Field(strict=False, max_length=MAX_PEOPLE)] = ()
    retry: Retry = Retry()
    simulate: dict[CallName, Simulated] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _names_each_once(self) -> Self:
        people = [same_person(each.email) for each in self.assigned_to]
        if len(people) > len(dict.fromkeys(people)):
            raise ValueError("a person is named twice")
        return self


class StartRefund(_Refund):
    """The body of ``POST /api/refunds``.

    ``ready_within`` is how long it waits until it is ready, in hours, or ISO 8601 text. ``assigned_to`` are asked when
    a call fails, and ``retry`` is how it is tried again before. ``simulate`` says how calls go where the refund API is
    simulated.
    """

    refund_id: InstanceId | None = None
    amount: Amount
    currency: Currency
    ready_within: Hours | None = None
    idempotency_key: DecisionId | None = None


class RefundInput(_Refund, Keyed):
    """The durable input. ``api`` is the address of the refund API, without a slash at its end; without one, it is
    simulated. ``mailbox`` is asked when a call fails and nobody is named."""

    amount: Amount | None = None
    currency: Currency | None = None
    ready_hours: Hours = 24.0
    api: Annotated[str, Field(max_length=1_500, pattern=r"\Ahttps?://[^\s@?#]*[^\s@?#/]\z")] | None = None
    mailbox: PlainAddress | None = None

    @property
    def title(self) -> str:
        """What is to be paid back, to whom, in one line."""
        what = f"Refund of {self.amount} {self.currency or ''}".strip() if self.amount is not None else "Refund"
        return (f"{what} to {self.customer}" if self.customer is not None else what)[:200]


class ReadyCommand(Asking):
    """The body of ``POST /api/refunds/{refund_id}/ready``."""

    by: Who | None = None
    comments: Comment | None = None


class ResumeRefund(Contract):
    """The data with which a refund is resumed that waits to be ready."""

    action: Literal["ready"]
    by: Who | None = None
    comments: Comment | None = None


class ReadyEvent(ReadyCommand):
    """The payload of ``Ready``. Any other payload, or none, counts as one that says nothing. ``sent_by`` is who sent it
    on behalf of ``by``; null where they did so themselves."""

    channel: Literal["api"] | None = None
    sent_by: Who | None = None

    @model_validator(mode="wrap")
    @classmethod
    def _whatever_it_is(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(value)
        except ValidationError:
            return handler({})


class ReadyByRpc(ReadyEvent):
    """The payload of ``EXECUTE_RPC``: messages on the channel ``Ready``, the first of which counts; on no other."""

    @model_validator(mode="wrap")
    @classmethod
    def _whatever_it_is(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        messages = RemoteCall.model_validate(decoded(value)).messages
        if any(each.channel_name != READY_CHANNEL for each in messages):
            raise ValueError(f"it has a channel other than {READY_CHANNEL}")
        return handler(ReadyEvent.model_validate(messages[0].value).plain())


class SwapEvent(Asking):
    """The payload of ``swap``: the new value of the data attribute, and who sent it, where that is known."""

    data: Data
    channel: Literal["api"] | None = None
    sent_by: Who | None = None


class MadeCall(Contract):
    """A call of a run, kept among its documents: ``call_id`` is the guarded call."""

    name: CallName
    call_id: str
    state: Literal["under_way", "succeeded", "skipped", "failed"] = "under_way"


class RefundOutcome(Outcome):
    """The output of a run that did not fail. ``data`` is the data attribute at the end, ``refund`` what API 1 gave."""

    status: Literal["Refunded", "Expired"]
    data: JsonValue = None
    refund: JsonValue = None


def fitting(result: JsonValue) -> JsonValue:
    """Return what API 1 gave if it can be handed on in the body of another call, else None."""
    try:
        return result if len(json_text(result)) <= MAX_RESULT else None
    except ValueError:
        return None


class StartMicroservice(StartOptions):
    """The parameters in the address of ``/microservice/start``."""

    workflow_id: Annotated[InstanceId, Field(alias="workflowId")]


class SignalMicroservice(Contract):
    """The parameters in the address of ``/microservice/signal``."""

    workflow_id: Annotated[InstanceId, Field(alias="workflowId")]


class SwapMicroservice(SignalMicroservice):
    """The parameters in the address of ``/microservice/swap``: the new data, a text, which may be empty."""

    data: Annotated[str, AfterValidator(_text)] = ""
