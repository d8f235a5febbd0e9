"""The entity ``pause``, the judge of who pauses and resumes a run: what it is asked, what it answers and keeps."""

import hashlib
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote

from pydantic import Field, StringConstraints, ValidationError

from contracts.audit import Channel, RunStamp
from contracts.base import Contract, Who, as_utc_text
from contracts.execution import Execution, Moment, OnMaxPause, Status
from contracts.pause import PauseClock, Reason, ResumeData

PAUSE: Final = "pause"
"""The name of the entity. Its keys are ``pause_key`` of the ids of instances."""
PAUSE_DUE: Final = "pause_due"
"""The orchestration that does what a pause needs by a time; the entity starts it."""

LONGEST_HOP = timedelta(days=3)
"""How far ahead the entity wakes itself at most: not every engine keeps a message for longer."""
NOT_APPLIED_AFTER = timedelta(minutes=1)
"""When the entity looks whether what it decided has been applied, and has it applied if not."""
LONGEST_BETWEEN_LOOKS = timedelta(hours=1)
WARNED_AFTER = timedelta(hours=24)
TOLD_EVERY = timedelta(hours=24)
MAX_ANSWERS = 10
"""How many of the newest answers a repetition of a request finds."""
LONGEST_KEY = 200
TIMER = "(timer)"
"""Who resumes and cancels when a pause has been too long."""


class Run(Contract):
    """Which run an instance id stands for: when it was created, and the stamp of the run as far as it is known.

    ``workflow`` is its orchestrator, ``workflow_id`` and ``path`` are as in ``Execution``.
    """

    instance_id: str
    created_at: Moment
    stamp: RunStamp | None = None
    workflow: str
    workflow_id: str
    path: str

    def is_same(self, other: "Run", since: datetime) -> bool:
        """Whether the id still stands for this run, as it did at a time; else it was used for another one since.

        A run whose history begins anew keeps its stamp, and not everywhere when it was created.
        """
        if self.stamp is not None and other.stamp is not None:
            return self.stamp == other.stamp
        return as_utc_text(self.created_at) == as_utc_text(other.created_at) or other.created_at <= since


class Pause(Contract):
    """A pause of a run. ``until`` is when it has been too long, ``step`` and ``next_step`` are where the run stood."""

    number: Annotated[int, Field(ge=1)]
    at: Moment
    by: Who
    reason: Reason
    clock: PauseClock = "freeze"
    until: Moment
    on_max: OnMaxPause
    step: str | None = None
    next_step: str | None = None


Token = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class PauseAsk(Contract):
    """The input of ``pause``: ``pause`` is taken if it is the one after the last that the entity knows of.

    ``token`` finds the answer, ``said`` is the digest of what was asked under it.
    """

    token: Token
    said: str
    run: Run
    pause: Pause


class ResumeAsk(Contract):
    """The input of ``resume``: the pause with this number ends, if it is under way."""

    token: Token
    said: str = ""
    number: Annotated[int, Field(ge=1)]
    at: Moment
    by: Who
    data: ResumeData | None = None
    channel: Channel = "api"


class Numbered(Contract):
    """The input of ``applied``, ``over``, ``again`` and ``forget``: the pause that it is about.

    ``paused`` says whether it is its beginning or its end that was applied, ``at`` when people were told of it again.
    """

    number: int
    paused: bool = True
    at: Moment | None = None


class Look(Contract):
    """The input of ``check`` and ``wake``, which the entity sends to itself: when it was to come.

    ``check`` looks whether pausing (or resuming) has been applied, and waits longer each time.
    """

    number: int
    at: Moment
    paused: bool = True
    wait_seconds: float = NOT_APPLIED_AFTER.total_seconds()


class PauseDue(Contract):
    """The input of ``pause_due``: what is to be done of which pause. ``serial`` counts its mails."""

    instance_id: str
    number: int
    what: Literal["apply", "warn", "resume", "cancel", "escalate"]
    serial: int = 0


class Resumed(Contract):
    """The last end of a pause by a resume. ``data`` are those of this one."""

    at: Moment
    by: Who
    channel: Channel
    data: ResumeData | None = None


class Answered(Contract):
    """Something that was asked and taken: the pause, or the number of the one that was ended."""

    token: str
    said: str
    number: int
    pause: Pause | None = None


class PauseState(Contract):
    """The state of the entity ``pause``: the last pause of an instance, and what became of it.

    ``number`` counts the pauses of the instance id, ``count`` and ``resumes`` those of the run. ``applied`` says that
    the hub, the run and the records have what was decided; ``overdue`` that the pause was too long, and ends.
    ``wake_at`` is when the entity next wakes itself, ``due`` for what; ``mails`` counts those that were sent.
    """

    run: Run
    number: int
    is_paused: bool
    pause: Pause
    count: int = 1
    resumes: int = 0
    resumed: Resumed | None = None
    data: dict[str, Any] | None = None
    applied: bool = False
    overdue: bool = False
    mails: int = 0
    due: Moment | None = None
    wake_at: Moment | None = None
    answers: Annotated[tuple[Answered, ...], Field(strict=False)] = ()

    @property
    def is_ending(self) -> bool:
        """Whether the run is being cancelled, as it was paused for too long; then it is not resumed any more."""
        return self.is_paused and self.overdue and self.pause.on_max == "cancel"

    @classmethod
    def read(cls, state: Any) -> "PauseState | None":
        """Return what the state of an entity holds; None if there is none, or it is of another version."""
        try:
            return cls.model_validate(state) if state else None
        except ValidationError:
            return None

    def answer(self, token: str) -> Answered | None:
        """Return what was answered to this token, if it is among the newest."""
        return next((each for each in self.answers if each.token == token), None)

    def is_of(self, run: Run) -> bool:
        """Whether the instance id still stands for the run that was paused."""
        return self.run.is_same(run, self.pause.at)

    def execution(self, status: Status, pause: Pause | None) -> Execution:
        """Return the run as the API shows it, with the pause that is under way."""
        said: dict[str, Any] = {}
        if pause is not None:
            said |= {"paused_at": pause.at, "paused_reason": pause.reason, "paused_by": pause.by, "clock": pause.clock}
            said |= {"paused_step_id": pause.step, "next_step_id": pause.next_step}
            said |= {"max_pause_at": pause.until, "on_max_pause": pause.on_max}
        if self.resumed is not None:
            said |= {"last_resumed_at": self.resumed.at, "resumed_by": self.resumed.by}
        return Execution(
            id=self.run.instance_id,
            execution_id=self.run.instance_id,
            workflow_id=self.run.workflow_id,
            workflow=self.run.workflow,
            status=status,
            resume_data=self.data,
            resume_count=self.resumes,
            pause_count=self.count,
            created_at=self.run.created_at,
            path=self.run.path,
            **said,
        )


def pause_key(instance_id: str) -> str:
    """Return the key of the entity ``pause`` for an instance: its id, as far as that can be a key; else a digest."""
    key = quote(instance_id, safe=":", errors="surrogatepass").replace("~", "%7E")
    if len(key) > LONGEST_KEY:
        digest = hashlib.sha256(instance_id.encode(errors="surrogatepass")).hexdigest()[:32]
        key = f"{key[: LONGEST_KEY - 33]}~{digest}"
    return key
