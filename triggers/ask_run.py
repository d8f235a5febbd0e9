"""Something that is asked of a run, from the request to its verdict."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from azure.durable_functions import DurableFunctionsClient
from durabletask.client import OrchestrationState, OrchestrationStatus

from contracts.base import as_utc_text
from contracts.human_step import Asking, Progress, digest_of_id, digest_of_said
from errors import AlreadyDecided, CountersignError, TooLate, Unprocessable
from orchestrators.approval_outcome import AUTOMATIC
from services.clock import now
from services.states import value_of
from triggers.decide import Late, StandsStill, hand_over, note_late, stands_still
from triggers.instances import ENDED, find, progress_of, run_of


@dataclass(frozen=True)
class Rules:
    """How a workflow answers: its name, why it refuses, in words, and the phases in which it is over.

    A run in such a phase may still have something to send. ``in_vain`` says why what is asked of a suspended run will
    not count when it goes on, or None.
    """

    workflow: str
    refusals: Mapping[str, tuple[type[CountersignError], str]]
    ended_phases: Mapping[str, str]
    in_vain: Callable[[OrchestrationState], str | None] = lambda _: None


@dataclass(frozen=True)
class Asked:
    """What is asked: the event, its payload with a ``decision_id`` that finds the verdict.

    ``by`` and ``said`` are who asks what, and ``comment`` why, for the note that is made when it comes too late.
    """

    event: str
    payload: Asking
    by: str
    said: str
    comment: str | None = None
    channel: Literal["api", "link", "page"] = "api"


async def ask_run(
    client: DurableFunctionsClient,
    rules: Rules,
    instance_id: str,
    asked: Asked,
    *,
    patience: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Progress | None:
    """Raise the event and wait for the run's verdict on it.

    Gives what the run then says of itself, also to whoever repeats the ``decision_id``; or None when the run did not
    come to it within ``patience`` seconds, or, as it is paused, at once. Raises ``NotFound``, ``AlreadyDecided``,
    ``TooLate``, one of the refusals of the workflow with the member ``code``, or ``Unprocessable`` when the id came
    before with something else.
    """

    is_first = True

    async def look() -> Progress | StandsStill | None:
        nonlocal is_first
        state = await find(client, rules.workflow, instance_id)
        try:
            verdict = _verdict(rules, state, asked.payload)
            if verdict is None and is_first:
                _refuse_in_vain(rules, state)
        except (TooLate, AlreadyDecided) as error:
            # A vote that the time decided instead of is late too; one that somebody else's came before is not.
            if "code" not in error.members and error.members.get("decided_by") in (None, AUTOMATIC):
                sent_by = getattr(asked.payload, "sent_by", None)
                late = Late(asked.by, asked.said, asked.comment, asked.channel, _payload(asked), sent_by)
                await asyncio.to_thread(note_late, state, late)
            raise
        is_first = False
        return verdict or stands_still(state)

    return await hand_over(
        client, instance_id, asked.event, _payload(asked), look, patience=patience, clock=clock, sleep=sleep
    )


def is_over(rules: Rules, state: OrchestrationState) -> bool:
    """Whether a run has come to its end, though it may have its last mails to send."""
    progress = progress_of(state)
    decided = progress is not None and (progress.decision is not None or progress.phase in rules.ended_phases)
    return decided or state.runtime_status in ENDED


def _refuse_in_vain(rules: Rules, state: OrchestrationState) -> None:
    """Raise ``TooLate`` for a run that is suspended, and whose time will be up when it goes on."""
    if state.runtime_status is not OrchestrationStatus.SUSPENDED:
        return
    why = rules.in_vain(state)
    if why is not None:
        raise TooLate(f"The run is suspended. {why}")
    given = value_of(state.serialized_input)
    timeout = given.get("execution_timeout") if isinstance(given, dict) else None
    if not isinstance(timeout, int | float):
        return
    began = datetime.strptime(run_of(state), "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC)
    progress = progress_of(state) or Progress(phase="")
    if began + timedelta(seconds=timeout) + progress.frozen <= progress.judged_at(now()):
        raise TooLate("The run is suspended, and has taken longer than its execution timeout allows.")


def _payload(asked: Asked) -> dict[str, object]:
    # Without nulls, so that what an earlier version knows of is understood by its runs too.
    return asked.payload.model_dump(mode="json", exclude_none=True)


def _verdict(rules: Rules, state: OrchestrationState, asked: Asking) -> Progress | None:
    progress = progress_of(state)
    if progress is not None:
        for verdict in progress.verdicts:
            if verdict.id == digest_of_id(asked.decision_id or ""):
                if verdict.said != digest_of_said(asked):
                    raise Unprocessable("This Idempotency-Key came before with something else. Use a new one for each.")
                if verdict.code == "taken":
                    return progress
                error, sentence = rules.refusals[verdict.code]
                raise error(sentence, code=verdict.code)
        if progress.decision is not None:
            taken = progress.decision
            raise AlreadyDecided(
                f"{taken.by} {taken.outcome} this at {as_utc_text(taken.at)}.",
                decided_by=taken.by,
                decided_at=as_utc_text(taken.at),
                outcome=taken.outcome,
            )
        if progress.phase in rules.ended_phases:
            at = (
                as_utc_text(progress.deadline)
                if progress.deadline is not None and progress.phase != "withdrawn"
                else None
            )
            sentence = rules.ended_phases[progress.phase]
            raise TooLate(f"{sentence[:-1]} at {at}." if at else sentence, phase=progress.phase)
    if state.runtime_status in ENDED:
        ended = as_utc_text(state.last_updated_at)
        raise TooLate(f"The run ended without a decision: {state.runtime_status.name.lower()}.", ended_at=ended)
    return None
