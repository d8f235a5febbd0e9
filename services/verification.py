"""Verifying an audit trail: whether its entries are those that were written, and all of them, in their order. Pure.

A chain shows by itself that an entry in its midst was changed, as long as the entries after it were not made anew.
What vouches for its end, and so for all of it, lies elsewhere: in the history of the instance while there is one, then
in the note of its purge.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from contracts.audit import GENESIS, Entry, TrailHead
from services.trail import Kept, Trail, app_key, is_sealed, run_key

Verdict = Literal["intact", "broken", "unanchored"]


@dataclass(frozen=True)
class Fault:
    """The first entry of a chain that is not what it was."""

    series: Literal["run", "app"]
    run: str | None
    number: int
    problem: str


@dataclass(frozen=True)
class Chain:
    """What was found of one chain.

    ``anchored_by`` says what vouches for its end; ``pending`` entries were made and may be on their way to the store.
    """

    series: Literal["run", "app"]
    run: str | None
    entries: int
    verdict: Verdict
    anchored_by: Literal["history", "purge"] | None
    pending: int = 0


@dataclass(frozen=True)
class Verified:
    """What was found of a trail.

    ``sealed`` says whether every entry of the app bears a seal; null where there is no key to make or check one.
    ``erased`` counts the comments that were erased.
    """

    verdict: Verdict
    first: Fault | None
    chains: list[Chain]
    erased: int
    sealed: bool | None


@dataclass(frozen=True)
class Bounds:
    """What is known of a chain from elsewhere: hashes by number; how many entries there must be, and may be."""

    heads: dict[int, str] = field(default_factory=dict)
    least: int = 0
    most: int | None = None
    anchored_by: Literal["history", "purge"] | None = None
    made: int = 0


def verify(
    trail: Trail, instance_id: str, live: TrailHead | None, known: Mapping[int, str], keys: Sequence[str]
) -> Verified:
    """Verify the trail of an instance id.

    ``live`` is the head that the instance shows, None when there is no instance; ``known`` are hashes that its history
    vouches for, by number. The first fault is named: of the runs in their order, then of the app. ``unanchored`` is a
    chain that is sound in itself, but nothing vouches for its end; the app's always is, and so does not count in the
    verdict on the whole.
    """
    sound = [(kept, kept.entry) for kept in trail.app if kept.entry is not None and kept.entry.is_sound]
    notes = [entry for _, entry in sound]
    sealed = [entry for kept, entry in sound if is_sealed(kept, keys)]
    purges = {note.run: note.anchor for note in sealed if note.action == "purged" and note.anchor is not None}
    erasures = {key for note in notes for key in note.erasure or ()}
    # A note without a seal may be from before there was a key: it accuses nobody, and vouches for nothing.
    sealed_erasures = {key for note in sealed for key in note.erasure or ()}
    alive = {live.run} if live is not None and live.entries else set()

    chains: list[Chain] = []
    faults: list[Fault] = []
    for run in sorted({*trail.runs, *alive, *purges}, key=lambda run: (not run, run)):
        rows = trail.runs.get(run, [])
        bounds = _bounds(live if run in alive else None, purges.get(run), known)
        fault = _first_fault(rows, instance_id, run, bounds) or _quietly_erased(rows, run, erasures)
        faults += [fault] if fault is not None else []
        # While entries are on their way, the head vouches for none of those that are there; the history may.
        vouched = (not rows or len(rows) in bounds.heads) and not _quietly_erased(rows, run, sealed_erasures)
        anchored_by = bounds.anchored_by if vouched else None
        verdict: Verdict = "broken" if fault else ("intact" if anchored_by else "unanchored")
        pending = max(0, bounds.made - len(rows)) if fault is None else 0
        chains.append(Chain("run", run, len(rows), verdict, anchored_by, pending))
    if trail.app:
        found = (
            _first_fault(trail.app, instance_id, None, Bounds()),
            _forged(trail.app, keys),
            _quietly_erased(trail.app, None, erasures),
        )
        fault = min((each for each in found if each is not None), key=lambda each: each.number, default=None)
        faults += [fault] if fault is not None else []
        chains.append(Chain("app", None, len(trail.app), "broken" if fault else "unanchored", None))

    unanchored = any(chain.verdict == "unanchored" for chain in chains if chain.series == "run")
    return Verified(
        verdict="broken" if faults else ("unanchored" if unanchored else "intact"),
        first=faults[0] if faults else None,
        chains=chains,
        erased=sum(_is_erased(entry) for entry in trail.entries),
        sealed=all(kept.seal is not None for kept in trail.app) if keys else None,
    )


def _bounds(live: TrailHead | None, purge: TrailHead | None, known: Mapping[int, str]) -> Bounds:
    if live is not None:
        heads = {**known, live.entries: live.head}
        return Bounds(heads, least=live.stored, most=live.entries, anchored_by="history", made=live.entries)
    if purge is not None:
        return Bounds({purge.entries: purge.head}, least=purge.entries, most=purge.entries, anchored_by="purge")
    return Bounds()


def _first_fault(rows: Sequence[Kept], instance_id: str, run: str | None, bounds: Bounds) -> Fault | None:
    """Find the first entry of a chain that was edited, removed, or put elsewhere; ``run`` is None for the app's.

    Where two neighbours do not fit together, the first is named if the chain leads from the second to a hash that is
    vouched for; else the second.
    """
    at = {kept.key: kept.entry for kept in rows}
    series: Literal["run", "app"] = "app" if run is None else "run"
    own = _own_numbers(at, run)
    if bounds.most is None:
        count = max(bounds.least, len(own))
    else:
        count = max(bounds.least, *(number for number in own if number <= bounds.most), 0)
    # Up to the first gap, which is a fault anyway: what a head says of itself may be any number.
    upto = range(1, min(count, len(own) + 1) + 1)
    keys = {number: app_key(number) if run is None else run_key(run, number) for number in upto}
    entries = {number: at.get(key) for number, key in keys.items()}
    vouched = _vouched(entries, bounds.heads)
    previous: Entry | None = None
    for number, entry in entries.items():
        if entry is None:
            return Fault(series, run, number, "it cannot be read" if keys[number] in at else "it was removed")
        problem = _problem(entry, instance_id, run, number, bounds)
        if problem is not None:
            return Fault(series, run, number, problem)
        if entry.previous != (previous.hash if previous is not None else GENESIS):
            guilty = number - 1 if previous is not None and number in vouched else number
            return Fault(series, run, guilty, "it was edited, or put here from elsewhere")
        previous = entry
    added = min((number for number in own if number > count), default=None)
    if added is not None:
        return Fault(series, run, added, "it was added; nothing vouches for it")
    strangers = sorted(set(at) - set(keys.values()))
    if strangers:
        return Fault(series, run, count, f"after it, a row that is none of the chain was added: '{strangers[0][:80]}'")
    return None


def _problem(entry: Entry, instance_id: str, run: str | None, number: int, bounds: Bounds) -> str | None:
    series = "app" if run is None else "run"
    its_run = entry.run if run is None else run
    if (entry.instance_id, entry.series, entry.number, entry.run) != (instance_id, series, number, its_run):
        return "another entry was put in its place"
    if not entry.is_sound or entry.hash != bounds.heads.get(number, entry.hash):
        return "it was edited"
    return None


def _own_numbers(keys: Iterable[str], run: str | None) -> set[int]:
    """The numbers of a chain's places, ten digits each, among the keys of rows."""
    start = app_key(0)[:-10] if run is None else run_key(run, 0)[:-10]
    tails = (key.removeprefix(start) for key in keys if key.startswith(start))
    return {int(tail) for tail in tails if len(tail) == 10 and tail.isascii() and tail.isdigit()} - {0}


def _vouched(entries: Mapping[int, Entry | None], heads: Mapping[int, str]) -> set[int]:
    """The numbers of the entries from which the chain leads, link by link, to a hash that is vouched for."""
    vouched: set[int] = set()
    wanted: str | None = None
    for number in sorted(entries, reverse=True):
        entry = entries[number]
        sound = entry is not None and entry.is_sound and entry.hash in (wanted, heads.get(number))
        wanted = entry.previous if entry is not None and sound else None
        if sound:
            vouched.add(number)
    return vouched


def _is_erased(entry: Entry) -> bool:
    return entry.comment is None and entry.comment_sha256 is not None


def _quietly_erased(rows: Sequence[Kept], run: str | None, erasures: set[str]) -> Fault | None:
    erased = ((kept.key, kept.entry) for kept in rows if kept.entry is not None and _is_erased(kept.entry))
    first = next((entry for key, entry in erased if key not in erasures), None)
    if first is None:
        return None
    return Fault(first.series, run, first.number, "its comment was taken out, and no erasure is noted")


def _forged(rows: Sequence[Kept], keys: Sequence[str]) -> Fault | None:
    for kept in rows:
        number = next(iter(_own_numbers([kept.key], None)), None)
        if number is not None and kept.seal is not None and kept.entry is not None and not is_sealed(kept, keys):
            return Fault("app", None, number, "its seal is not the app's")
    return None
