"""The story of an approval, as its audit trail tells it."""

from collections.abc import Sequence
from typing import Any

from contracts.audit import Entry
from contracts.base import as_utc_text

KINDS = {
    "asked": "asked",
    "escalated": "escalations",
    "voted": "votes",
    "delegated": "delegations",
    "reminded": "reminders",
    "mailed": "mails",
    "mail_failed": "mail_failed",
}
"""What is listed in a round, by the action that it is noted as."""


def history_of(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Return what happened, in order; each with ``at`` and ``action``, and what else there is to say of it."""
    return [_told(entry) for entry in entries]


def rounds_of(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Return the rounds, in order, each with its votes and what else ``KINDS`` names."""
    rounds: dict[int, dict[str, Any]] = {}
    for entry in entries:
        if entry.round is None or entry.action not in KINDS:
            continue
        told = rounds.setdefault(entry.round, {"round": entry.round, **{kind: [] for kind in KINDS.values()}})
        said = _told(entry)
        del said["action"]
        if entry.action == "voted":
            said = {"by": said.pop("actor"), "vote": said.pop("detail"), **said}
        told[KINDS[entry.action]].append(said)
    return [rounds[number] for number in sorted(rounds)]


def _told(entry: Entry) -> dict[str, Any]:
    said = {
        "at": as_utc_text(entry.at),
        "action": entry.action,
        "actor": entry.actor,
        "on_behalf_of": entry.on_behalf_of,
        "people": list(entry.people) if entry.people is not None else None,
        "channel": entry.channel,
        "detail": entry.detail,
        "comment": entry.comment,
    }
    return {name: value for name, value in said.items() if value is not None}
