"""Pausing and resuming a run: what is asked of the entity ``pause``, from the request to its verdict."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from uuid import uuid4

from azure.durable_functions import DurableFunctionsClient
from durabletask.client import OrchestrationStatus

from contracts.audit import digest_of
from contracts.base import Contract, as_utc_text
from contracts.execution import Execution, PauseBody, ResumeBody
from contracts.pause import MAX_RESUME_DATA, ResumeData
from contracts.pause_state import Answered, Pause, PauseAsk, PauseState, ResumeAsk
from errors import Conflict, HubUnavailable, Unprocessable
from services import pausing
from services.clock import now
from services.identity import speak_as
from services.record_store import get_record_store
from settings import get_settings
from triggers.seeing import OUTSIDE, Seen, see, show, step_of

PATIENCE = 5.0
"""Seconds that the entity has to decide."""
LEFT_UNDONE_AFTER = timedelta(seconds=5)
ROUNDS = 10
"""How often it is asked anew, because others come first and are done again at once."""


@dataclass(frozen=True)
class Asking:
    """What is asked, by whom; ``key`` is the ``Idempotency-Key``, with which a repetition gets the same answer."""

    by: str
    said: str
    token: str
    key: str | None

    @classmethod
    def of(cls, body: Contract, what: str, key: str | None) -> "Asking":
        """What the caller asks with this body."""
        by = speak_as(None).actor
        return cls(by, digest_of([what, by, body.plain()])[:16], key or uuid4().hex, key)


async def pause(client: DurableFunctionsClient, instance_id: str, body: PauseBody, key: str | None) -> Execution:
    """Pause a run, and give it as it is then.

    Raises ``NotFound``, ``Conflict`` with what the run is that cannot be paused, ``Unprocessable`` when the key came
    before with something else, and ``HubUnavailable``.
    """
    asking = Asking.of(body, "pause", key)
    for _ in range(ROUNDS):
        seen = await see_whole(client, instance_id)
        before = _answered(seen.kept, asking)
        if before is not None and seen.kept is not None:
            return seen.kept.execution("paused", before.pause)
        _refuse_to_pause(seen)
        asked = PauseAsk(token=asking.token, said=asking.said, run=seen.run, pause=_pause(seen, body, asking.by))
        decided = await _ask(client, instance_id, "pause", asked, partial(_has_come_to, seen.pauses + 1))
        if decided.answer(asking.token) is not None:
            if not await pausing.apply(client, get_record_store(), decided):
                continue  # it has ended just now; what it has come to is said the next time round
            return decided.execution("paused", asked.pause)
    raise _busy()


async def resume(
    client: DurableFunctionsClient, seen: Seen, body: ResumeBody, data: ResumeData | None, key: str | None
) -> Execution | None:
    """End a pause by hand, with data for the run, and give the run as it is then; None where it is paused by hand not
    any more.

    ``body`` is all that was asked. Raises ``Conflict`` for a run that is being cancelled; else as ``pause`` does.
    """
    asking = Asking.of(body, "resume", key)
    decided = seen.by_hand
    if decided is None:
        return None
    if decided.is_ending:
        raise Conflict("This run was paused for too long, and is being cancelled.", execution_status="paused")
    check_data(decided, data)
    number = decided.number
    asked = ResumeAsk(token=asking.token, said=asking.said, number=number, at=now(), by=asking.by, data=data)
    latest = await _ask(client, seen.run.instance_id, "resume", asked, partial(_is_over, number))
    if latest.answer(asking.token) is None:
        return None
    await pausing.apply(client, get_record_store(), latest)
    return await show(_going_on(seen, latest))


def _going_on(seen: Seen, resumed: PauseState) -> Seen:
    """What a run is as soon as it is resumed, without asking: by now it may be something else again."""
    status = OrchestrationStatus.PENDING if seen.progress is None else OrchestrationStatus.RUNNING
    state = replace(seen.state, runtime_status=status)
    return replace(seen, state=state, kept=resumed.model_copy(update={"applied": True}))


def was_resumed(seen: Seen, body: ResumeBody, key: str | None) -> bool:
    """Whether this very request has ended a pause before. Raises ``Unprocessable`` when it came with something else."""
    return key is not None and _answered(seen.kept, Asking.of(body, "resume", key)) is not None


def is_left_to_decide(seen: Seen) -> bool:
    """Whether the last pause of a run ended without data for it: those that came with that are a decision."""
    kept = seen.kept
    return kept is not None and not kept.is_paused and kept.resumed is not None and kept.resumed.data is None


def check_data(decided: PauseState, data: ResumeData | None) -> None:
    """Raise ``Unprocessable`` where a run would have more data than it can keep."""
    merged = (decided.data or {}) | (data or {})
    if len(json.dumps(merged)) > MAX_RESUME_DATA:
        message = f"with what it was resumed with before there are more than {MAX_RESUME_DATA:,} characters of JSON"
        raise Unprocessable(
            "The body is not valid: resume_data.", errors=[{"field": "resume_data", "message": message}]
        )


async def see_whole(client: DurableFunctionsClient, instance_id: str) -> Seen:
    """Return what a run is; what was decided of it and left undone is done before. Raises ``NotFound``."""
    seen = await see(client, instance_id)
    # One that seems to be suspended past the app was perhaps paused in it, in between.
    return await see(client, instance_id) if await finish(client, seen) or seen.is_outside else seen


async def finish(client: DurableFunctionsClient, seen: Seen) -> bool:
    """Apply what was decided of a run and left undone, also what a late pause has undone; false where there is none."""
    kept = seen.kept
    if kept is None or not _is_left_undone(seen, kept):
        return False
    if await pausing.apply(client, get_record_store(), kept) and not kept.is_paused:
        await pausing.until_it_goes_on(client, seen.run.instance_id)
    return True


def _is_left_undone(seen: Seen, kept: PauseState) -> bool:
    """Whether whoever asked for something is gone; else they are about to apply it. Done twice, it does no harm."""
    decided_at = kept.pause.at if kept.is_paused or kept.resumed is None else kept.resumed.at
    is_undone = not kept.applied or seen.is_behind
    return is_undone and not seen.has_ended and now() - decided_at > LEFT_UNDONE_AFTER


def _answered(kept: PauseState | None, asking: Asking) -> Answered | None:
    before = kept.answer(asking.token) if kept is not None else None
    if before is not None and before.said != asking.said:
        raise Unprocessable("This Idempotency-Key came before with something else. Use a new one for each.")
    return before


def _refuse_to_pause(seen: Seen) -> None:
    """Raise ``Conflict`` for a run that cannot be paused, with what it is."""
    if seen.has_ended:
        raise ended(seen)
    if seen.by_hand is not None:
        paused = seen.by_hand.pause
        raise _paused(paused.by, as_utc_text(paused.at), paused.reason)
    if seen.held is not None:
        sentence = "This run stands still with the one that it is a step of."
        raise Conflict(sentence, execution_status="paused", paused_reason=seen.held.reason)
    if seen.is_outside:
        raise Conflict(f"This run is paused: {OUTSIDE.lower()}.", execution_status="paused", paused_reason=OUTSIDE)


def ended(seen: Seen) -> Conflict:
    """Return the error for a run that has ended."""
    words = {"COMPLETED": "completed", "FAILED": "failed", "TERMINATED": "cancelled"}
    status, at = words[seen.state.runtime_status.name], as_utc_text(seen.state.last_updated_at)
    what = {"completed": "has completed", "failed": "has failed", "cancelled": "was cancelled"}[status]
    return Conflict(f"This run {what} at {at}.", execution_status=status, ended_at=at)


def _paused(by: str, at: str, reason: str) -> Conflict:
    sentence = f"{by} paused this run at {at}: {reason}"
    return Conflict(sentence, execution_status="paused", paused_by=by, paused_at=at, paused_reason=reason)


def _pause(seen: Seen, body: PauseBody, by: str) -> Pause:
    settings, at = get_settings(), now()
    longest = timedelta(hours=body.max_pause) if body.max_pause else timedelta(days=settings.max_pause_days)
    return Pause(
        number=seen.pauses + 1,
        at=at,
        by=by,
        reason=body.reason,
        clock=body.clock,
        until=at + longest,
        on_max=body.on_max_pause or settings.on_max_pause,
        step=step_of(seen.progress),
        next_step=seen.progress.next_step if seen.progress is not None else None,
    )


def _has_come_to(number: int, state: PauseState) -> bool:
    return state.number >= number


def _is_over(number: int, state: PauseState) -> bool:
    return state.number != number or not state.is_paused or state.is_ending


async def _ask(
    client: DurableFunctionsClient,
    instance_id: str,
    operation: str,
    asked: Contract,
    is_decided: Callable[[PauseState], bool],
    *,
    patience: float = PATIENCE,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> PauseState:
    """Ask the entity, and give its state when it has decided on this, or on what somebody else asked before."""
    await pausing.ask(client, instance_id, operation, asked)
    give_up, wait = clock() + patience, pausing.FIRST_LOOK
    while (state := await pausing.look(client, instance_id)) is None or not is_decided(state):
        if clock() >= give_up:
            raise HubUnavailable("The task hub does not answer. Try again in a moment.")
        await sleep(wait)
        wait = min(wait * pausing.SLOWING, pausing.LONGEST_BETWEEN_LOOKS)
    return state


def _busy() -> Conflict:
    return Conflict("Others pause and resume this run all the time. Try again in a moment.")
