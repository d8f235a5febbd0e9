"""What every step that waits for people publishes in its custom status."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, model_serializer, model_validator

from contracts.audit import RunStamp, TrailHead, digest_of
from contracts.base import Comment, Contract, DecisionId, Timestamp, Who, same_person
from contracts.pause import PauseClock

MAX_WARNINGS = 5
SHOWN_COMMENT = 200
"""How much of a comment the custom status shows: it must stay under 16 KB, whatever the script. The output of
the run holds the whole."""
MAX_STATUS = 8_000
"""Characters of its JSON, in ASCII, that a custom status has: Azure takes 16 KB of UTF-16."""
MAX_VERDICTS = 60
"""The newest verdicts that the custom status shows."""


@lru_cache(maxsize=1000)
def digest_of_person(who: str) -> str:
    """Return the short name under which a person stands in a custom status, which has no room for 50 addresses."""
    return digest_of(same_person(who))[:12]


def digest_of_id(decision_id: str) -> str:
    """Return the short name of a ``decision_id`` in a custom status."""
    return digest_of(decision_id)[:12]


class Asking(Contract):
    """What all have in common that is asked of a run. ``decision_id`` finds its verdict, and makes a repetition be
    seen."""

    decision_id: DecisionId | None = None


def digest_of_said(asked: Asking) -> str:
    """Return the short digest of what is asked, by which a repetition is told from another thing."""
    return digest_of(asked.model_dump(mode="json", exclude={"decision_id", "channel", "link", "sent_by"}))[:8]


class FromLink(Contract):
    """What comes with whatever comes from a link: its run, round, and number of the mail, and whether the code fits."""

    round: Annotated[int, Field(ge=1, le=1_000)]
    serial: Annotated[int, Field(ge=1, le=1_000_000)]
    code: Literal["right", "wrong"] | None = None
    run: RunStamp | None = None


class Decision(Contract):
    """Who decided what, when; and the id that the caller gave the decision, so that it finds its verdict."""

    approved: bool
    by: Who
    comments: Comment | None = None
    at: Timestamp
    decision_id: DecisionId | None = None

    @property
    def outcome(self) -> str:
        """``approved`` or ``rejected``."""
        return "approved" if self.approved else "rejected"

    def shortened(self) -> "Decision":
        """The same decision with its comment cut to what a custom status can hold."""
        if self.comments is None or len(self.comments) <= SHOWN_COMMENT:
            return self
        return self.model_copy(update={"comments": self.comments[: SHOWN_COMMENT - 1] + "…"})


class Verdict(Contract):
    """What a run made of something that was asked of it.

    ``id`` is the digest of the caller's ``decision_id`` and ``said`` that of what was asked, so that an id that comes
    twice with two things is seen; ``code`` is ``taken``, or why it was refused. In JSON it is one short text.
    """

    id: str
    said: str
    code: str

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return dict(zip(cls.model_fields, value.split(), strict=False)) if isinstance(value, str) else value

    @model_serializer
    def _as_text(self) -> str:
        return f"{self.id} {self.said} {self.code}"


class Standing(Contract):
    """Where an approval stands, as the pages behind the links must know.

    ``round`` counts from 1, ``stage`` and ``level`` (of the escalation; 0 before it) from 0. ``shown`` is the SHA-256
    of what this round shows. ``seats`` are those who are asked, by ``digest_of_person``: their vote, or null;
    ``gave_away`` those who handed their vote to somebody else. ``locked`` are the numbers of the mails whose links are
    locked. ``open`` says that everybody may vote. ``mail_failed`` are the last of those whom a mail did not reach.
    """

    round: int
    stage: int = 0
    level: int = 0
    shown: str
    open: bool = False
    seats: dict[str, str | None] = Field(default_factory=dict)
    gave_away: Annotated[tuple[str, ...], Field(strict=False)] = ()
    locked: Annotated[tuple[int, ...], Field(strict=False)] = ()
    mail_failed: Annotated[tuple[str, ...], Field(strict=False)] = ()


class GateAction(Contract):
    """What was done at a gate, by whom and when."""

    action: str
    by: Who
    at: Timestamp


class Gate(Contract):
    """Where a call stands that needs a person, as the pages behind the links must know.

    ``number`` counts the gates of a run from 1, ``shown`` is the SHA-256 of what this one shows, ``fingerprint`` names
    the error. ``actions`` are those that are open now; none when the gate is closed. ``attempts`` were made so far,
    ``retries_left`` how often people may retry. ``escalated`` says that others are asked too by now; ``last`` is what
    was done last at a gate.
    """

    number: int
    shown: str
    fingerprint: str
    actions: Annotated[tuple[str, ...], Field(strict=False)] = ()
    attempts: int
    retries_left: int
    escalated: bool = False
    last: GateAction | None = None


class SignupStanding(Contract):
    """Where a sign-up stands; nothing in it is personal.

    ``generation`` is that of the mails whose links and codes are good, ``generation_out`` the newest of which one has
    gone out. ``mails`` counts all, ``reminders`` those that
    were not asked for; ``next_reminder`` is null when there will be none. ``sent_at`` is when the last mail was asked
    for, and ``mailed`` is false when it did not go out. ``wrong_codes`` counts those of this generation
    from the browser that signed up, and ``wrong_codes_by_name`` those from others.
    ``verified_by`` is the digest of the ``decision_id`` that verified it, and ``vouched`` says that a program did so.
    """

    generation: int = 1
    mails: int = 0
    reminders: int = 0
    next_reminder: Timestamp | None = None
    reminders_stopped: bool = False
    sent_at: Timestamp | None = None
    mailed: bool = True
    resends: int = 0
    changes: int = 0
    generation_out: int = 0
    wrong_codes: int = 0
    wrong_codes_by_name: int = 0
    verified_at: Timestamp | None = None
    verified_by: str | None = None
    vouched: bool = False
    source: str | None = None


class PauseStanding(Contract):
    """What a run knows of its pauses: who paused it last, when and why; whether it still is paused, and how long its
    clock has been frozen in all (``clock`` is what this pause does to it).

    ``number`` is that of its own last pause, 0 where only the runs that called it were paused.
    """

    number: int
    paused: bool
    by: Who
    at: Timestamp
    reason: str | None = None
    clock: PauseClock = "freeze"
    frozen_seconds: float = 0


class Progress(Contract):
    """The custom status of a run that waits for people: what is going on, in words.

    ``phase`` is one word per state of the workflow; ``waiting_for`` names the event that would move it on, and is
    null when nobody is waited for; ``warnings`` are the newest ones, oldest first. ``wait`` is the number of the wait
    that is open in the records, ``trail`` how far the audit trail goes; runs from before the records have neither.
    ``standing`` is an approval's, ``gate`` that of a call that failed, ``data`` the data attributes of a run,
    ``signup`` is where a sign-up stands. ``step`` and ``next_step`` are the steps of a declared workflow, the one that
    it is at and the one that follows. ``pause`` is null for a run that never was paused; ``resume_data`` are all that
    it was resumed with, of which there is no room for much.
    """

    phase: str
    waiting_for: str | None = None
    deadline: Timestamp | None = None
    decision: Decision | None = None
    warnings: Annotated[tuple[str, ...], Field(strict=False)] = ()
    wait: int | None = None
    trail: TrailHead | None = None
    verdicts: Annotated[tuple[Verdict, ...], Field(strict=False)] = ()
    standing: Standing | None = None
    gate: Gate | None = None
    data: dict[str, JsonValue] | None = None
    signup: SignupStanding | None = None
    step: str | None = None
    next_step: str | None = None
    pause: PauseStanding | None = None
    resume_data: dict[str, JsonValue] | None = None

    @property
    def frozen(self) -> timedelta:
        """How long its clock has stood still, by which its deadline was moved."""
        return timedelta(seconds=self.pause.frozen_seconds if self.pause is not None else 0)

    def judged_at(self, now: datetime) -> datetime:
        """Return the time by which its deadline is judged: now, or since when its clock stands still."""
        pause = self.pause
        return pause.at if pause is not None and pause.paused and pause.clock == "freeze" else now

    def fitting(self) -> "Progress":
        """The same with as much of the long texts as a custom status can hold."""
        progress = self
        for shortened in _SHORTER:
            if len(json.dumps(progress.plain())) <= MAX_STATUS:
                break
            progress = progress.model_copy(update=shortened(progress))
        return progress


def _comment_of(progress: Progress, length: int) -> dict[str, Any]:
    decision = progress.decision
    if decision is None or decision.comments is None:
        return {}
    return {"decision": decision.model_copy(update={"comments": decision.comments[:length] or None})}


def _pause_of(progress: Progress, length: int) -> dict[str, Any]:
    pause = progress.pause
    if pause is None:
        return {}
    reason = pause.reason[:length] if pause.reason is not None else ""
    return {"pause": pause.model_copy(update={"reason": reason or None, "by": pause.by[: max(length, 20)]})}


_SHORTER: tuple[Callable[[Progress], dict[str, Any]], ...] = (
    lambda progress: {"warnings": progress.warnings[-2:]},
    lambda _: {"resume_data": None},
    lambda progress: {"standing": progress.standing and progress.standing.model_copy(update={"mail_failed": ()})},
    lambda progress: _comment_of(progress, 50),
    lambda progress: _pause_of(progress, 50),
    lambda progress: {"verdicts": progress.verdicts[-20:]},
    lambda progress: {"warnings": progress.warnings[:0]},
    lambda progress: _comment_of(progress, 0),
    lambda progress: _pause_of(progress, 0),
)
"""What is left out of a custom status that is too long, in this order."""
