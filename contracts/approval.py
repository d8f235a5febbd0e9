"""Approval: what is asked, who is asked and by which rules, what people do about it, and what comes out."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, Literal, Self, override

from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    model_serializer,
    model_validator,
)

from contracts.at_step import AtStep
from contracts.audit import RunStamp
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
    Timestamp,
    Who,
    same_person,
)
from contracts.form import Answers
from contracts.human_step import Asking, FromLink
from contracts.outcome import Outcome
from contracts.people import Person, Reminders
from contracts.shown import Content, Details
from contracts.start import Keyed

MAX_STAGES = 10
MAX_LEVELS = 5
MAX_ROUNDS = 20
MAX_HANDOVERS = 3
"""How often one vote is handed on."""

Choice = Literal["approve", "reject", "request_changes", "abstain"]
"""What a person can say to a request."""

Door = Literal["api", "link"]


def _end_of_day(value: Any) -> Any:
    return f"{value}T23:59:59.999Z" if isinstance(value, str) and len(value) == len("2026-12-24") else value


def _in_utc(value: datetime) -> datetime:
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:
        raise ValueError("this time cannot be told in UTC") from None


class StandIn(Contract):
    """A standing delegation: ``to`` votes instead from a date or time on (``from``, in JSON), up to ``until``, that day
    included; either may be left open."""

    to: Person
    since: Annotated[
        Annotated[Timestamp, AfterValidator(_in_utc)] | None, Field(validation_alias=AliasChoices("from", "since"))
    ] = None
    until: Annotated[Annotated[Timestamp, AfterValidator(_in_utc)] | None, BeforeValidator(_end_of_day)] = None

    @model_validator(mode="after")
    def _ends_after_it_begins(self) -> Self:
        if self.since is not None and self.until is not None and self.until < self.since:
            raise ValueError("a standing delegation ends after it begins")
        return self


class Approver(Person):
    """Somebody who is asked, and who stands in for them while they are away."""

    delegate: StandIn | None = None


class Quorum(Contract):
    """So many approvals are enough."""

    quorum: Annotated[int, Field(ge=1, le=MAX_PEOPLE)]


_NAME_AND_ADDRESS = re.compile(r"(?:([^<>]*)<([^\s<>@,;]+@[^\s<>@,;]+)>|([^\s<>@,;]+@[^\s<>@,;]+))")

_ADDRESS: TypeAdapter[str] = TypeAdapter(PlainAddress)


@lru_cache(maxsize=1000)
def _name_and_address(text: str) -> tuple[str | None, str | None]:
    found = _NAME_AND_ADDRESS.fullmatch(text)
    if found is None:
        return None, None
    try:
        return found[1] or None, _ADDRESS.validate_python(found[2] or found[3])
    except ValidationError:
        return found[1] or None, None


type GroupPolicy = Literal["any", "all", "sequential"] | Quorum
Approvers = Annotated[tuple[Approver, ...], Field(strict=False, max_length=MAX_PEOPLE)]


class Group(Contract):
    """People who are asked together, and when they have approved.

    ``any``: one is enough, and the first decides either way. ``all``: everybody, but for those who abstain.
    ``sequential``: the same, one after another. ``{"quorum": n}``: n of them. ``reject_after`` rejections end it (one,
    for ``any``); so does, at once, whatever makes approval impossible.
    """

    approvers: Annotated[Approvers, Field(min_length=1)]
    policy: GroupPolicy = "any"
    reject_after: Annotated[int, Field(ge=1, le=MAX_PEOPLE)] | None = None

    @model_validator(mode="after")
    def _can_be_reached(self) -> Self:
        addresses = [same_person(each.email) for each in self.approvers]
        if len(addresses) > len(dict.fromkeys(addresses)):
            raise ValueError("an approver is named twice")
        if isinstance(self.policy, Quorum) and self.policy.quorum > len(addresses):
            raise ValueError(f"the quorum of {self.policy.quorum} is more than the approvers, who are {len(addresses)}")
        return self


class Level(Group):
    """A level of the escalation: who is asked when the time is up, and how long they have."""

    timeout_hours: Hours


class ApprovalRequest(Content):
    """What is asked, of whom, by which rules, and for how long.

    Only ``requester``, ``item`` and ``timeout_hours`` are needed: then one approval by anybody but the requester is
    enough, and when the time is up it ends with ``Timeout``. ``policy`` is a group's, or a list of groups that are
    asked one after another, and then ``approvers`` stand in these. Durations are numbers of hours, or ISO 8601 text.
    """

    timeout_hours: Hours
    requester_email: PlainAddress | None = None
    approvers: Approvers = ()
    policy: GroupPolicy | Annotated[tuple[Group, ...], Field(strict=False, min_length=1, max_length=MAX_STAGES)] = "any"
    reject_after: Annotated[int, Field(ge=1, le=MAX_PEOPLE)] | None = None
    allow_self_approval: bool = False
    require_comment_on: Annotated[tuple[Literal["approve", "reject"], ...], Field(strict=False, max_length=2)] = ()
    reminders: Reminders | None = None
    escalation: Annotated[tuple[Level, ...], Field(strict=False, max_length=MAX_LEVELS)] = ()
    on_timeout: Literal["reject", "approve", "escalate", "fail"] = "reject"
    callback_url: Annotated[str, Field(max_length=2000, pattern=r"\Ahttps?://[^\s\x00-\x1f\x7f]+\z")] | None = None
    second_factor: Literal["mail_code"] | None = None

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        staged = isinstance(self.policy, tuple)
        if staged and self.approvers:
            raise ValueError("with a list of groups in policy, approvers are named in the groups")
        if staged and self.reject_after is not None:
            raise ValueError("with a list of groups in policy, reject_after is named in the groups")
        if not staged and not self.approvers and (self.policy != "any" or self.reject_after is not None):
            raise ValueError("this policy needs approvers")
        if (self.on_timeout == "escalate") != bool(self.escalation):
            raise ValueError("escalation and on_timeout 'escalate' need each other")
        groups = [*self.stages, *self.escalation]
        if sum(len(group.approvers) for group in groups) > MAX_PEOPLE:
            raise ValueError(f"more than {MAX_PEOPLE} approvers are named")
        if self.timeout_hours + sum(level.timeout_hours for level in self.escalation) > YEAR_IN_HOURS:
            raise ValueError("timeout_hours and those of the escalation are more than 365 days")
        if not self.allow_self_approval:
            for group in groups:
                self._without_requester(group)
        return self

    def _without_requester(self, group: Group) -> None:
        for person in group.approvers:
            by_name = person.name is not None and same_person(person.name) == same_person(self.requester)
            if by_name and not self.is_requester(person.email) and self.requester_address is None:
                raise ValueError(
                    "an approver has the name of the requester: give requester_email to tell them apart, "
                    "or set allow_self_approval"
                )
        others = sum(not self.is_own(person.email) for person in group.approvers)
        needed = group.policy.quorum if isinstance(group.policy, Quorum) else 1
        if others < needed:
            raise ValueError(
                "without the requester, whose own vote does not count, too few approvers are left; "
                "name others, or set allow_self_approval"
            )

    @property
    def stages(self) -> tuple[Group, ...]:
        """The groups, one after another; none when nobody is named, and anybody may decide."""
        if isinstance(self.policy, tuple):
            return self.policy
        if not self.approvers:
            return ()
        return (Group(approvers=self.approvers, policy=self.policy, reject_after=self.reject_after),)

    @property
    def requester_address(self) -> str | None:
        """Where the requester gets mail, if that is known: ``requester`` may be an address, or end with one."""
        return self.requester_email or self._requester_parts[1]

    def is_requester(self, who: str) -> bool:
        """Whether a name or an address is the requester's."""
        own = (self.requester, self.requester_email, *self._requester_parts)
        return same_person(who) in [same_person(each) for each in own if each]

    def is_own(self, who: str) -> bool:
        """Whether a request is this person's own, on which they do not decide unless it says so."""
        return self.is_requester(who)

    @property
    def _requester_parts(self) -> tuple[str | None, str | None]:
        return _name_and_address(self.requester)

    def people(self) -> Iterator[Approver]:
        """Everybody who is named, in the order in which they would be asked."""
        for group in (*self.stages, *self.escalation):
            yield from group.approvers


class ApprovalInput(Keyed, ApprovalRequest):
    """The durable input: the request, who is mailed when it names nobody, and the key that it was started with.

    ``at_step`` is the step of a declared workflow that it is made for, if it is. ``carried`` is what a long run knew
    when it began its history anew: a ``contracts.carried.ApprovalState``.
    """

    mailbox: PlainAddress | None = None
    at_step: AtStep | None = None
    carried: dict[str, JsonValue] | None = None

    @property
    def is_for_another(self) -> bool:
        """Whether somebody started it for the requester."""
        return self.started_by is not None and not self.is_requester(self.started_by)

    @override
    def is_own(self, who: str) -> bool:
        """Whether it is this person's own: the requester's, or also theirs who started it for the requester."""
        started = self.started_by is not None and same_person(who) == same_person(self.started_by)
        return started or self.is_requester(who)


class StartApproval(ApprovalRequest):
    """The body of ``POST /api/requests``. ``request_id`` names the run; ``idempotency_key`` (or the header
    ``Idempotency-Key``) makes a repetition give the run that is there."""

    request_id: InstanceId | None = None
    idempotency_key: DecisionId | None = None


class Command(Asking):
    """What all have in common that is asked of an approval. In the events, ``channel`` is the door of the app that it
    came in by; null for others."""

    comments: Comment | None = None


class Vote(Command):
    """The body of ``POST /api/approvals/{request_id}``: ``is_approved``, or ``vote`` with more to choose from."""

    approver: Who
    is_approved: bool | None = None
    vote: Choice | None = None
    answers: Answers | None = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if (self.is_approved is None) == (self.vote is None):
            raise ValueError("give is_approved or vote, one of them")
        if self.answers is not None and self.choice != "approve":
            raise ValueError("answers belong to an approval")
        return self

    @property
    def choice(self) -> Choice:
        """What is said, whichever way."""
        if self.vote is not None:
            return self.vote
        return "approve" if self.is_approved else "reject"


class Delegation(Command):
    """The body of ``POST /api/requests/{request_id}/delegate``: the vote of ``approver`` is handed to ``to``. ``by`` is
    who does it, where that is somebody else, as an administrator."""

    approver: Who
    to: Person
    by: Who | None = None


class Withdrawal(Command):
    """The body of ``POST /api/requests/{request_id}/withdraw``, by the requester."""

    by: Who


class Extension(Command):
    """The body of ``POST /api/requests/{request_id}/extend``: the requester moves the deadline on by a duration."""

    by: Who
    extend_by: Hours


class Revision(Command):
    """The body of ``POST /api/requests/{request_id}/revise``: the requester answers to the changes that were asked
    for. What is left out stays as it was."""

    by: Who
    item: Line | None = None
    title: Line | None = None
    description: Comment | None = None
    details: Details | None = None


class Reminder(Command):
    """The body of ``POST /api/requests/{request_id}/remind``: sends the links again, to all who have yet to vote, or
    to one ``approver``."""

    by: Who | None = None
    approver: Who | None = None


class ResumeApproval(Contract):
    """The data with which a run is resumed that waits for a decision: a vote, which has to be said outright."""

    approved: bool
    approver: Who
    comments: Comment | None = None
    answers: Answers | None = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if self.answers is not None and not self.approved:
            raise ValueError("answers belong to an approval")
        return self


# In the events, ``sent_by`` is who sent it on behalf of the person who is named; null where that person did.


class VoteEvent(Vote):
    """The payload of the event ``decision``."""

    channel: Door | None = None
    sent_by: Who | None = None
    link: FromLink | None = None


class DelegateEvent(Delegation):
    """The payload of the event ``delegate``."""

    channel: Door | None = None
    link: FromLink | None = None


class WithdrawEvent(Withdrawal):
    """The payload of the event ``withdraw``."""

    channel: Door | None = None
    sent_by: Who | None = None


class ExtendEvent(Extension):
    """The payload of the event ``extend``."""

    channel: Door | None = None
    sent_by: Who | None = None


class ReviseEvent(Revision):
    """The payload of the event ``revise``."""

    channel: Door | None = None
    sent_by: Who | None = None


class RemindEvent(Reminder):
    """The payload of the event ``remind``."""

    channel: Door | None = None
    sent_by: Who | None = None


type ApprovalEvent = VoteEvent | DelegateEvent | WithdrawEvent | ExtendEvent | ReviseEvent | RemindEvent

Refusal = Literal[
    "own_request",
    "not_asked",
    "not_yet",
    "handed_over",
    "not_requester",
    "old_round",
    "locked",
    "wrong_code",
    "comment_needed",
    "answers_wrong",
    "already_asked",
    "to_requester",
    "in_a_circle",
    "handed_on_too_often",
    "already_voted",
    "not_waiting",
    "too_often",
    "too_long",
]
"""Why a run refuses what is asked of it; ``triggers.approval`` says it in words."""


class CastVote(Contract):
    """A vote as it counted at the end: by whom, for whom it was, and what was said with it.

    ``sent_by`` is an administrator who sent it on behalf of ``by``; in JSON it is there for such a vote alone.
    """

    by: Who
    on_behalf_of: Who | None = None
    vote: Choice
    comments: Comment | None = None
    answers: Answers | None = None
    at: Timestamp
    channel: Literal["api", "link", "event"]
    sent_by: Who | None = None

    @property
    def doer(self) -> dict[str, str | None]:
        """Who did it for whom, as the trail says it."""
        if self.sent_by is not None:
            return {"actor": self.sent_by, "on_behalf_of": self.by}
        return {"actor": self.by, "on_behalf_of": self.on_behalf_of}

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        said: dict[str, Any] = handler(self)
        if self.sent_by is None:  # in the outcomes of runs of before there is no such thing
            del said["sent_by"]
        return said


class ApprovalOutcome(Outcome):
    """The output of the run.

    ``approver``, ``comments`` and ``decided_at`` are those of the vote that decided it; all are null when none did.
    ``votes`` are those of the last round, by all who were asked in it, with the beginning of each comment; the trail
    has the whole. ``rounds`` is how many rounds there were.
    """

    status: Literal["Approved", "Rejected", "Timeout", "Withdrawn", "Failed"]
    requester: Who
    item: Line
    approver: Who | None = None
    comments: Comment | None = None
    decided_at: Timestamp | None = None
    rounds: int = 1
    votes: Annotated[tuple[CastVote, ...], Field(strict=False)] = ()


class Callback(Contract):
    """What is posted to the ``callback_url`` of a request when it has ended: the durable input of ``post_outcome``."""

    url: str
    instance_id: str
    run: RunStamp
    outcome: ApprovalOutcome
    at: Timestamp
