"""Something that is asked of an approval that runs, from the request to the verdict of the run."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from azure.durable_functions import DurableFunctionsClient
from durabletask.client import OrchestrationState

from contracts.approval import Command, Refusal, digest_of_said
from contracts.base import as_utc_text
from contracts.human_step import Progress, digest_of_id
from errors import AlreadyDecided, Conflict, CountersignError, Forbidden, TooLate, Unprocessable
from orchestrators.approval import approval
from orchestrators.approval_outcome import AUTOMATIC
from triggers.decide import Late, hand_over, note_late
from triggers.instances import ENDED, find, progress_of

ENDED_PHASES = {
    "timed_out": "The time to decide was up.",
    "withdrawn": "The requester has withdrawn this.",
    "failed": "The time to decide was up, and the run failed, as the request says.",
}
"""The phases of a run that has ended without a decision, though it may have its last mails to send."""

REFUSALS: dict[Refusal, tuple[type[CountersignError], str]] = {
    "own_request": (Forbidden, "Nobody decides on what they asked for themselves."),
    "not_asked": (Forbidden, "This person is not asked, or is no longer."),
    "not_yet": (Forbidden, "It is not this person's turn yet: the approvers are asked one after another."),
    "handed_over": (Forbidden, "This person has handed the vote to somebody else."),
    "not_requester": (Forbidden, "Only who asked for it can do that: 'by' is the requester, as in the request."),
    "old_round": (TooLate, "This link is of an earlier round; a newer mail has the link for this one."),
    "locked": (Forbidden, "This link is locked: a wrong code was typed too often. Ask for a new mail."),
    "wrong_code": (Forbidden, "The code is not the one in the mail."),
    "comment_needed": (Unprocessable, "This needs a comment that says why."),
    "answers_wrong": (Unprocessable, "The answers do not fit the form of the request."),
    "already_asked": (Conflict, "This person is asked already, and has one vote."),
    "to_requester": (Conflict, "A vote cannot be handed to the requester."),
    "in_a_circle": (Conflict, "This person has handed this very vote on; it cannot come back."),
    "handed_on_too_often": (Conflict, "This vote was handed on three times, and stays where it is."),
    "already_voted": (Conflict, "This person has voted; a vote that was cast is changed, not handed on."),
    "not_waiting": (Conflict, "The request does not wait for that now."),
    "too_often": (Conflict, "That was done too often on this request."),
    "too_long": (Unprocessable, "That is too long: 365 days from the start, and so much text as a request may have."),
}


@dataclass(frozen=True)
class Asked:
    """What is asked: the event, its payload with a ``decision_id`` that finds the verdict.

    ``by`` and ``said`` are who asks what, for the note that is made when it comes too late.
    """

    event: str
    payload: Command
    by: str
    said: str
    channel: Literal["api", "link"] = "api"


async def ask_run(
    client: DurableFunctionsClient,
    instance_id: str,
    asked: Asked,
    *,
    patience: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Progress | None:
    """Raise the event and wait for the run's verdict on it.

    Gives what the run then says of itself, also to whoever repeats the ``decision_id``; or None when the run did not
    come to it within ``patience`` seconds. Raises ``NotFound``, ``AlreadyDecided``, ``TooLate``, one of ``REFUSALS``
    with the member ``code``, or ``Unprocessable`` when the id came before with something else.
    """

    async def look() -> Progress | None:
        state = await find(client, approval.__name__, instance_id)
        try:
            return _verdict(state, asked.payload)
        except (TooLate, AlreadyDecided) as error:
            # A vote that the time decided instead of is late too; one that somebody else's came before is not.
            if "code" not in error.members and error.members.get("decided_by") in (None, AUTOMATIC):
                late = Late(asked.by, asked.said, asked.payload.comments, asked.channel, _payload(asked))
                await asyncio.to_thread(note_late, state, late)
            raise

    return await hand_over(
        client, instance_id, asked.event, _payload(asked), look, patience=patience, clock=clock, sleep=sleep
    )


def is_over(state: OrchestrationState) -> bool:
    """Whether a run has come to its end, though it may have its last mails to send."""
    progress = progress_of(state)
    decided = progress is not None and (progress.decision is not None or progress.phase in ENDED_PHASES)
    return decided or state.runtime_status in ENDED


def _payload(asked: Asked) -> dict[str, object]:
    # Without nulls, so that what an earlier version knows of is understood by its runs too.
    return asked.payload.model_dump(mode="json", exclude_none=True)


def _verdict(state: OrchestrationState, asked: Command) -> Progress | None:
    progress = progress_of(state)
    if progress is not None:
        for verdict in progress.verdicts:
            if verdict.id == digest_of_id(asked.decision_id or ""):
                if verdict.said != digest_of_said(asked):
                    raise Unprocessable("This Idempotency-Key came before with something else. Use a new one for each.")
                if verdict.code == "taken":
                    return progress
                error, sentence = REFUSALS[verdict.code]  # type: ignore[index]  # a run of ours says one of them
                raise error(sentence, code=verdict.code)
        if progress.decision is not None:
            taken = progress.decision
            raise AlreadyDecided(
                f"{taken.by} {taken.outcome} this at {as_utc_text(taken.at)}.",
                decided_by=taken.by,
                decided_at=as_utc_text(taken.at),
                outcome=taken.outcome,
            )
        if progress.phase in ENDED_PHASES:
            at = (
                as_utc_text(progress.deadline)
                if progress.deadline is not None and progress.phase != "withdrawn"
                else None
            )
            sentence = ENDED_PHASES[progress.phase]
            raise TooLate(f"{sentence[:-1]} at {at}." if at else sentence, phase=progress.phase)
    if state.runtime_status in ENDED:
        ended = as_utc_text(state.last_updated_at)
        raise TooLate(f"The run ended without a decision: {state.runtime_status.name.lower()}.", ended_at=ended)
    return None
