"""How often something may be done in a time: a durable entity for each thing that is limited."""

from typing import Any

from durabletask.entities import EntityContext

from contracts.rate_limit import MAX_REFUSED, RateEntry, RateForget, RateState, RateTake


def rate_limit(ctx: EntityContext, request: dict[str, Any]) -> dict[str, Any] | None:
    """Keep what was taken of a rate, and forget it in time.

    ``take``, with a ``RateTake``, gives a ``RateAnswer``. Who can only signal finds it in the state, a ``RateState``,
    which has room for the takes of one window and the newest refusals. ``forget``, with a ``RateForget``, is the
    entity's own: the last thing forgotten deletes the state. There is no clock here but the callers'. Raises
    ``ValueError`` for anything else, which changes nothing.
    """
    match ctx.operation:
        case "take":
            return _take(ctx, RateTake.model_validate(request))
        case "forget":
            _forget(ctx, RateForget.model_validate(request))
            return None
        case _:
            raise ValueError("a rate limit has the operations take and forget")


def _take(ctx: EntityContext, asked: RateTake) -> dict[str, Any]:
    before = RateState.read(ctx.get_state())
    refusal = before.answer(asked)
    entries = before.within(asked)
    entry = next((each for each in entries if each.id == asked.id), None)
    if entry is None:
        entry = RateEntry(id=asked.id, at=asked.moment, retry_after=None if refusal is None else refusal.retry_after)
        entries.append(entry)
    forget_at = before.forget_at
    # A forget that is overdue is lost; one that is far ahead was asked for by a clock that was wrong.
    if forget_at is None or not asked.moment < forget_at <= asked.moment + 2 * asked.window:
        forget_at = _ask_to_forget(ctx, entries, asked.window)
    _keep(ctx, entries, forget_at)
    return entry.answer.plain()


def _forget(ctx: EntityContext, asked: RateForget) -> None:
    before = RateState.read(ctx.get_state())
    # It may come late: what is newer than the time that it was asked for is not looked at.
    entries = [entry for entry in before.entries if entry.at > asked.at - asked.window]
    forget_at = before.forget_at
    if forget_at == asked.at and entries:
        forget_at = _ask_to_forget(ctx, entries, asked.window)
    _keep(ctx, entries, forget_at)


def _ask_to_forget(ctx: EntityContext, entries: list[RateEntry], window: int) -> int:
    """Signal ``forget`` for the time when all of this is old. There is one under way at a time, not one for each."""
    forget = RateForget(at=max(entry.at for entry in entries) + window, window=window)
    ctx.signal_entity(ctx.entity_id, "forget", forget.plain(), signal_time=forget.due)
    return forget.at


def _keep(ctx: EntityContext, entries: list[RateEntry], forget_at: int | None) -> None:
    refused = [entry.id for entry in entries if entry.retry_after is not None]
    dropped = refused[:-MAX_REFUSED]
    kept = [entry for entry in entries if entry.id not in dropped]
    ctx.set_state(RateState(entries=kept, forget_at=forget_at).plain() if kept else None)
