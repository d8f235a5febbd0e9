"""A guarded call: what is called, how it is tried again, what people may do when it has failed, and what comes out."""

import re
from collections.abc import Set
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, AliasChoices, Field, JsonValue, StringConstraints, model_validator

from contracts.at_step import AtStep
from contracts.base import (
    MAX_PEOPLE,
    YEAR_IN_HOURS,
    Comment,
    Contract,
    DecisionId,
    Hours,
    InstanceId,
    Line,
    PlainAddress,
    Seconds,
    Who,
    same_person,
)
from contracts.form import Form, json_text
from contracts.human_step import Asking, FromLink
from contracts.outcome import Outcome
from contracts.people import Every, Person, Reminders
from contracts.start import Keyed

MAX_JSON = 16_000
"""Characters (of UTF-16) of the JSON of a body, or of a substitute result: it stands in one row of the record store."""
MAX_ERROR = 4_000
"""Characters of an error that are kept: 4 KB of ASCII."""
MAX_ATTEMPTS = 20
MAX_OPERATOR_RETRIES = 20
RETRIED = (408, 425, 429)
"""Statuses below 500 that say that the same call may work later; they are tried again unless they are named."""


def _short(value: JsonValue) -> JsonValue:
    text = json_text(value)
    if len(text.encode("utf-16-le")) > 2 * MAX_JSON:
        raise ValueError(f"it has more than {MAX_JSON:,} characters of JSON")
    return value


ShortJson = Annotated[JsonValue, AfterValidator(_short)]


class SimulatedCall(Contract):
    """A call of nobody, for demonstrations: the first ``fails`` attempts fail with ``status``, and a body that does not
    fit ``accepts`` is refused with 422. Else it gives ``result``, or the body where there is none."""

    kind: Literal["simulated"]
    fails: Annotated[int, Field(ge=0, le=1_000)] = 0
    status: Annotated[int, Field(ge=400, le=599)] = 503
    accepts: Form | None = None
    result: ShortJson = None
    body: ShortJson = None


HeaderName = Annotated[str, StringConstraints(max_length=100, pattern=r"\A[A-Za-z0-9!#$%&'*+.^_`|~-]+\z")]
HeaderValue = Annotated[
    str, StringConstraints(max_length=4_000, pattern=r"\A[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?\z")
]
OURS = (
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "upgrade",
    "te",
    "trailer",
    "expect",
    "idempotency-key",
)
"""Headers that the app sets itself, or that nobody may set."""


def _headers(headers: dict[str, str]) -> dict[str, str]:
    names = [name.lower() for name in headers]
    if len(names) > len(dict.fromkeys(names)):
        raise ValueError("a header is named twice")
    refused = [name for name in names if name in OURS or name.startswith("proxy-")]
    if refused:
        raise ValueError(f"the header {refused[0]} cannot be set")
    return headers


class HttpCall(Contract):
    """A call over HTTP. ``body`` is sent as JSON; without one, nothing is. ``timeout``, of the whole, is in seconds.

    The host has to be named in the setting CALL_HOSTS. Values of headers are never shown, but stand in the history of
    the run.
    """

    kind: Literal["http"]
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "POST"
    url: Annotated[str, Field(max_length=2_000, pattern=r"\Ahttps?://[!-~]+\z")]
    headers: Annotated[dict[HeaderName, HeaderValue], Field(max_length=30), AfterValidator(_headers)] = Field(
        default_factory=dict
    )
    body: ShortJson = None
    timeout: Annotated[Seconds, Field(ge=0.1, le=120)] = 30.0

    @model_validator(mode="after")
    def _has_no_body_where_none_is(self) -> Self:
        if self.method == "GET" and self.body is not None:
            raise ValueError("a GET has no body")
        return self


Call = Annotated[SimulatedCall | HttpCall, Field(discriminator="kind")]


class Retry(Contract):
    """How often a call is tried by itself, and how patiently. Intervals are in seconds.

    The wait after the n-th attempt is ``first_interval * factor ** (n - 1)``, up to ``max_interval``, and up to
    ``jitter`` of it more or less. Statuses in ``give_up_on`` are not tried again: codes, or classes as in ``4xx``, to
    which 408, 425 and 429 do not belong.
    """

    attempts: Annotated[int, Field(ge=1, le=MAX_ATTEMPTS)] = 4
    first_interval: Annotated[Seconds, Field(ge=0.01, le=86_400)] = 2.0
    factor: Annotated[float, Field(ge=1, le=10)] = 2.0
    max_interval: Annotated[Seconds, Field(ge=0.01, le=86_400)] = 60.0
    jitter: Annotated[float, Field(ge=0, le=0.9)] = 0.1
    give_up_on: Annotated[
        tuple[Annotated[int, Field(ge=300, le=599)] | Literal["3xx", "4xx", "5xx"], ...],
        Field(strict=False, max_length=50),
    ] = ("3xx", "4xx")

    def gives_up_on(self, status: int) -> bool:
        """Whether a call that was answered with this status is not worth another attempt."""
        return status in self.give_up_on or (status not in RETRIED and f"{status // 100}xx" in self.give_up_on)


class GuardedCall(Contract):
    """A call that waits for a person when it has failed, instead of failing the run.

    ``schema`` is what an edited body has to fit. People may always retry, ``max_operator_retries`` times (an edit is
    one), and let it fail. ``deadline`` is how long they have, in hours, or ISO 8601 text; then it fails, is skipped
    with ``substitute``, or ``escalate_to`` are asked too, for as long again, and then it fails. Until then they are
    reminded, every day unless ``reminders`` say otherwise; null for never.
    """

    name: Line
    call: Call
    retry: Retry = Retry()
    body_schema: Annotated[Form | None, Field(validation_alias=AliasChoices("schema", "body_schema"))] = None
    skippable: bool = False
    substitute: ShortJson = None
    editable: bool = False
    max_operator_retries: Annotated[int, Field(ge=0, le=MAX_OPERATOR_RETRIES)] = 5
    assigned_to: Annotated[tuple[Person, ...], Field(strict=False, max_length=MAX_PEOPLE)] = ()
    deadline: Hours = 72.0
    on_deadline: Literal["fail", "skip", "escalate"] = "fail"
    escalate_to: Annotated[tuple[Person, ...], Field(strict=False, max_length=MAX_PEOPLE)] = ()
    reminders: Reminders | None = Every(every=24.0)

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if (self.on_deadline == "escalate") != bool(self.escalate_to):
            raise ValueError("escalate_to and on_deadline 'escalate' need each other")
        if self.on_deadline == "skip" and not self.skippable:
            raise ValueError("on_deadline 'skip' needs skippable")
        if self.substitute is not None and self.on_deadline != "skip":
            raise ValueError("substitute is for on_deadline 'skip'")
        if self.editable and isinstance(self.call, HttpCall) and self.call.method == "GET":
            raise ValueError("a GET has no body that could be edited")
        if self.body_schema is not None and not self.editable:
            raise ValueError("schema is for calls that are editable")
        if self.on_deadline == "escalate" and 2 * self.deadline > YEAR_IN_HOURS:
            raise ValueError("the deadline and that of the escalation are more than 365 days")
        people = [same_person(each.email) for each in (*self.assigned_to, *self.escalate_to)]
        if len(people) > len(dict.fromkeys(people)):
            raise ValueError("a person is named twice")
        if len(people) + (not self.assigned_to) > MAX_PEOPLE:  # with the mailbox
            raise ValueError(f"more than {MAX_PEOPLE} people are named")
        return self


class GuardedCallInput(GuardedCall, Keyed):
    """The durable input: the call, who is mailed when it names nobody, the key that it was started with, and
    ``part_of``, the run it is a step of; ``at_step`` says which one, where that is a declared workflow."""

    mailbox: PlainAddress | None = None
    part_of: Annotated[str, Field(max_length=1_000)] | None = None
    at_step: AtStep | None = None


class StartIntervention(GuardedCall):
    """The body of ``POST /api/interventions``: one guarded call, as a run of its own. ``idempotency_key`` (or the
    header ``Idempotency-Key``) makes a repetition give the run that is there."""

    intervention_id: InstanceId | None = None
    idempotency_key: DecisionId | None = None


class Attempt(Contract):
    """One attempt: the durable input of ``call_api``. ``number`` counts all attempts of a run from 1; ``key`` goes out
    as the ``Idempotency-Key``."""

    call: Call
    number: Annotated[int, Field(ge=1)]
    key: DecisionId


Problem = Literal[
    "unreachable", "tls", "timeout", "status", "redirected", "not_allowed", "too_large", "unreadable", "internal"
]
"""How a call fails: it cannot be reached; it is not who it says; no whole answer in time; an answer that says so; one
that leads elsewhere; an address that the settings do not allow; an answer that is too long, or that broke off; an
attempt that could not be made."""


Fingerprint = Annotated[str, Field(pattern=r"\A[0-9a-f]{16}\z")]


class Answer(Contract):
    """What came of an attempt: the durable output of ``call_api``.

    ``problem`` is null when it worked; then ``result`` is the JSON of the answer, or its text. Else ``message`` says
    what went wrong, without secrets, and ``fingerprint`` is the same for errors that are alike. ``retry_after`` is in
    seconds.
    """

    problem: Problem | None = None
    status: int | None = None
    message: Annotated[str, Field(max_length=MAX_ERROR)] = ""
    fingerprint: Fingerprint | None = None
    retry_after: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    result: JsonValue = None


class GateCommand(Asking):
    """What all have in common that people do at a gate. ``gate`` and ``fingerprint`` say which failure it is meant for,
    where that matters."""

    by: Who
    reason: Annotated[Comment, StringConstraints(min_length=1)]
    gate: Annotated[int, Field(ge=1, le=1_000)] | None = None
    fingerprint: Fingerprint | None = None


class RetryCommand(GateCommand):
    """The body of ``POST /api/interventions/{intervention_id}/retry``: the same call once more."""


class EditCommand(GateCommand):
    """The body of ``POST /api/interventions/{intervention_id}/edit``: the call once more, with another body."""

    body: ShortJson


class SkipCommand(GateCommand):
    """The body of ``POST /api/interventions/{intervention_id}/skip``: the run goes on with this result instead."""

    result: ShortJson = None


class FailCommand(GateCommand):
    """The body of ``POST /api/interventions/{intervention_id}/fail``: the call fails for good."""


Door = Literal["api", "link"]

# In the events, ``sent_by`` is who sent it on behalf of ``by``; null where that person did.


class RetryEvent(RetryCommand):
    """The payload of the event ``retry``."""

    action: Literal["retry"] = "retry"
    channel: Door | None = None
    link: FromLink | None = None
    sent_by: Who | None = None


class EditEvent(GateCommand):
    """The payload of the event ``edit``. A body that is left out is null, as events come without what is null."""

    body: ShortJson = None
    action: Literal["edit"] = "edit"
    channel: Door | None = None
    link: FromLink | None = None
    sent_by: Who | None = None


class SkipEvent(SkipCommand):
    """The payload of the event ``skip``."""

    action: Literal["skip"] = "skip"
    channel: Door | None = None
    link: FromLink | None = None
    sent_by: Who | None = None


class FailEvent(FailCommand):
    """The payload of the event ``fail``."""

    action: Literal["fail"] = "fail"
    channel: Door | None = None
    link: FromLink | None = None
    sent_by: Who | None = None


# The action is in what is asked, so that one id with two actions is seen.
type GateEvent = RetryEvent | EditEvent | SkipEvent | FailEvent

Refusal = Literal[
    "not_assigned",
    "not_allowed",
    "no_more_retries",
    "not_waiting",
    "old_gate",
    "body_wrong",
    "unchanged",
]
"""Why a run refuses what is asked of it; ``triggers.guarded_call`` says it in words."""


class ResolveInterventions(Contract):
    """The body of ``POST /api/interventions/resolve``: the same action for all that wait on one error.

    ``body`` is for ``edit``, ``result`` for ``skip``. With ``decision_id`` (or the header ``Idempotency-Key``) a
    repetition is seen as one.
    """

    fingerprint: Fingerprint
    action: Literal["retry", "edit", "skip", "fail"]
    by: Who
    reason: Annotated[Comment, StringConstraints(min_length=1)]
    body: ShortJson = None
    result: ShortJson = None
    decision_id: DecisionId | None = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        _check_action(self.action, self.model_fields_set)
        return self


class ResumeGuardedCall(Contract):
    """The data with which a run is resumed that waits for a person: what is done at its gate. ``body`` is for ``edit``,
    ``result`` for ``skip``."""

    action: Literal["retry", "edit", "skip", "fail"]
    by: Who
    reason: Annotated[Comment, StringConstraints(min_length=1)]
    body: ShortJson = None
    result: ShortJson = None
    gate: Annotated[int, Field(ge=1, le=1_000)] | None = None
    fingerprint: Fingerprint | None = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        _check_action(self.action, self.model_fields_set)
        return self


def _check_action(action: str, given: Set[str]) -> None:
    if ("body" in given) != (action == "edit"):
        raise ValueError("action 'edit' and body need each other")
    if "result" in given and action != "skip":
        raise ValueError("result is for action 'skip'")


class GuardedCallOutcome(Outcome):
    """The output of a run that did not fail.

    ``result`` is what the call gave, or what was put in its place. ``by`` and ``reason`` are of who acted last, if
    anybody had to; a run that was skipped by time has neither.
    """

    status: Literal["Succeeded", "Skipped"]
    result: JsonValue = None
    attempts: int
    operator_retries: int
    by: Who | None = None
    reason: Comment | None = None


_SHOWN_HEADERS = ("accept", "accept-language", "content-type", "user-agent", "x-request-id", "x-correlation-id")
_VALUE = re.compile(r"([?&][^=&#?]*=)[^&#]*|#.*")
SHOWN_HEADER = 200
"""Characters of the value of a header that are shown."""
MASK = "***"


def masked(call: SimulatedCall | HttpCall) -> dict[str, JsonValue]:
    """Return a call as it may be shown: without the values of headers, and of parameters in the address."""
    if isinstance(call, SimulatedCall):
        return call.model_dump(mode="json", exclude={"accepts", "result"})
    return call.plain() | {
        "url": _VALUE.sub(lambda found: f"{found[1] or '#'}{MASK}", call.url),
        "headers": {
            name: value[:SHOWN_HEADER] if name.lower() in _SHOWN_HEADERS else MASK
            for name, value in call.headers.items()
        },
    }
