"""The audit trail: what happened in a run, who did it, and the SHA-256 chain that shows every later change.

An entry's hash covers all its fields but ``hash`` itself, ``comment``, and the ``salt`` of an entry with a comment. A
comment is in the hash by its own salted hash, so that it can be erased, and the salt with it, while the chain still
verifies, and cannot be guessed from what is left. The form that is hashed never changes: trails are kept for ever.

There are two chains. A *run* writes its own: the orchestrator computes it, so that its history vouches for it. What
happens to an instance from outside (a vote that came too late, a purge, an erasure) the *app* adds to a second one.
"""

import hashlib
import json
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints

from contracts.base import MAX_PEOPLE, Comment, Contract, Timestamp

GENESIS = "0" * 64
"""The ``previous`` of a chain's first entry."""

Action = Literal[
    "started",
    "asked",
    "mailed",
    "mail_failed",
    "set_aside",
    "auto_approved",
    "voted",
    "reminded",
    "escalated",
    "delegated",
    "changes_requested",
    "revised",
    "extended",
    "withdrawn",
    "refused",
    "decided",
    "called_back",
    "callback_failed",
    "timed_out",
    "late",
    "placed",
    "cancelled",
    "called",
    "call_failed",
    "retried",
    "edited",
    "skipped",
    "failed",
    "received",
    "swapped",
    "compensated",
    "compensation_failed",
    "verified",
    "resent",
    "address_changed",
    "reminders_stopped",
    "paused",
    "resumed",
    "passed",
    "answered",
    "account_created",
    "account_refused",
    "expired",
    "ended",
    "erased",
    "purged",
]
"""What can happen."""

Channel = Literal["api", "link", "page", "event", "timer"]
"""How it came in: over the API of the app, a link in a mail, a page that is open to all, a raw event, or a timer."""

Digest = Annotated[str, StringConstraints(pattern=r"\A[0-9a-f]{64}\z")]
RunStamp = Annotated[str, StringConstraints(pattern=r"\A[0-9]{8}T[0-9]{12}Z\z")]
"""When a run began, to the microsecond: what tells the runs of one instance id apart."""

Detail = Annotated[str, StringConstraints(max_length=2000, pattern=r"\A[^\x00]*\z")]


def _in_utc(value: datetime) -> datetime:
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value


class TrailHead(Contract):
    """How far a run's chain goes: ``entries`` were made, ``head`` is the hash of the last, and the first ``stored``
    of them are known to be in the store."""

    run: RunStamp
    entries: Annotated[int, Field(ge=0)]
    stored: Annotated[int, Field(ge=0)]
    head: Digest


class Entry(Contract):
    """One thing that happened.

    ``before`` and ``after`` are phases of the run. ``actor`` is null for what the run does by itself. ``anchor`` is in
    entries of the app: what it found the run's chain to be. ``people`` are those whom it concerns: who was asked,
    reminded, or handed a vote to; ``round`` is that of an approval. ``erasure`` is in the note of one: the keys of the
    rows whose comments were taken out.
    """

    instance_id: str
    series: Literal["run", "app"]
    run: RunStamp
    number: Annotated[int, Field(ge=1)]
    at: Annotated[Timestamp, AfterValidator(_in_utc)]
    action: Action
    actor: Annotated[str, StringConstraints(max_length=254)] | None = None
    on_behalf_of: Annotated[str, StringConstraints(max_length=254)] | None = None
    channel: Channel | None = None
    before: str | None = None
    after: str | None = None
    detail: Detail | None = None
    round: int | None = None
    people: (
        Annotated[
            tuple[Annotated[str, StringConstraints(max_length=254)], ...], Field(strict=False, max_length=MAX_PEOPLE)
        ]
        | None
    ) = None
    comment: Comment | None = None
    salt: str | None = None
    comment_sha256: Digest | None = None
    payload_sha256: Digest | None = None
    anchor: TrailHead | None = None
    erasure: Annotated[tuple[str, ...], Field(strict=False)] | None = None
    previous: Digest
    hash: Digest

    def erased(self) -> "Entry":
        """The same entry without its comment, and without what the comment could be guessed by."""
        return self.model_copy(update={"comment": None, "salt": None})

    @property
    def is_sound(self) -> bool:
        """Whether the entry's own hashes are those of what it says."""
        if self.comment is not None and digest_of(self.comment, self.salt) != self.comment_sha256:
            return False
        if self.comment is None and self.comment_sha256 is not None and self.salt is not None:
            return False  # who erases a comment takes the salt out with it
        return self.hash == _hash_of(self)


def chained(
    previous: Entry | TrailHead | None,
    *,
    salt: str | None,
    comment: str | None = None,
    payload: Any = None,
    at: datetime,
    **said: Any,
) -> Entry:
    """Return the entry that follows ``previous`` in its chain, or the first one.

    ``salt`` makes the hashes of ``comment`` and ``payload`` (any JSON value) unguessable; ``said`` are the other fields
    of an ``Entry``.
    """
    number, head = 1, GENESIS
    if isinstance(previous, Entry):
        number, head = previous.number + 1, previous.hash
    elif previous is not None:
        number, head = previous.entries + 1, previous.head
    draft = Entry(
        **said,
        number=number,
        at=at.replace(microsecond=at.microsecond // 1000 * 1000),  # as much of it as is kept, and so hashed
        comment=comment,
        salt=salt if comment is not None or payload is not None else None,
        payload_sha256=digest_of(payload, salt) if payload is not None else None,
        previous=head,
        hash=GENESIS,
    )
    if draft.comment is not None:  # as the contract has stripped it
        draft = draft.model_copy(update={"comment_sha256": digest_of(draft.comment, salt)})
    return draft.model_copy(update={"hash": _hash_of(draft)})


def digest_of(value: Any, salt: str | None = None) -> str:
    """Return the SHA-256, in hex, of a JSON value's canonical form after ``salt``.

    Canonical: keys sorted, no blanks, ASCII only.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(f"{salt or ''}{text}".encode()).hexdigest()


def _hash_of(entry: Entry) -> str:
    # What is null is left out, so that a field that comes later changes no hash of before.
    left_out = {"hash": True, "comment": True, "salt": entry.comment_sha256 is not None}
    return digest_of(entry.model_dump(mode="json", exclude_none=True, exclude=left_out))
