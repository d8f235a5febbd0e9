"""What every step that waits for people publishes in its custom status."""

from typing import Annotated

from pydantic import Field

from contracts.audit import TrailHead
from contracts.base import Comment, Contract, DecisionId, Name, Timestamp

MAX_WARNINGS = 5
SHOWN_COMMENT = 200
"""How much of a comment the custom status shows: it must stay under 16 KB, whatever the script. The output of
the run holds the whole."""


class Decision(Contract):
    """Who decided what, when; and the id that the caller gave the decision, so that it finds its verdict."""

    approved: bool
    by: Name
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


class Progress(Contract):
    """The custom status of a run that waits for people: what is going on, in words.

    ``phase`` is one word per state of the workflow; ``waiting_for`` names the event that would move it on, and is
    null when nobody is waited for; ``warnings`` are the newest ones, oldest first. ``wait`` is the number of the wait
    that is open in the records, ``trail`` how far the audit trail goes; runs from before the records have neither.
    """

    phase: str
    waiting_for: str | None = None
    deadline: Timestamp | None = None
    decision: Decision | None = None
    warnings: Annotated[tuple[str, ...], Field(strict=False)] = ()
    wait: int | None = None
    trail: TrailHead | None = None
