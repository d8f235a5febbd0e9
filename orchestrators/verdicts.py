"""What a run says to what is asked of it: one verdict for each ``decision_id``, published when it is on record."""

from typing import Any

from contracts.human_step import Asking, Verdict, digest_of_id, digest_of_person, digest_of_said
from orchestrators.run_record import RunRecord

MAX_REFUSALS_EACH, MAX_REFUSALS = 5, 200
"""How many refusals the trail names of one person, and of one run."""


class Verdicts:
    """Keeps the verdicts of a run, and counts what was refused.

    ``known`` and ``refusals`` are all that it knows, to be carried over to a new history.
    """

    def __init__(self, record: RunRecord) -> None:
        self._record = record
        self.known: dict[str, Verdict] = {}
        self.refusals: dict[str, int] = {}
        self._to_publish: list[Verdict] = []

    @property
    def is_published(self) -> bool:
        """Whether all of them are published."""
        return not self._to_publish

    def is_known(self, asked: Asking) -> bool:
        """Whether an event came before under its ``decision_id``; then its verdict stands, and is shown again."""
        verdict = self.known.get(asked.decision_id or "")
        if verdict is not None and verdict not in self._to_publish:
            self._record.answer(verdict)
        return verdict is not None

    def answer(self, asked: Asking, code: str = "taken") -> None:
        """Keep a verdict, to be published when what it says is on record."""
        if asked.decision_id is not None:
            verdict = Verdict(id=digest_of_id(asked.decision_id), said=digest_of_said(asked), code=code)
            self.known[asked.decision_id] = verdict
            self._to_publish.append(verdict)

    def note_refusal(self, who: str | None, channel: Any, refusal: str, **said: Any) -> None:
        """Note that something was refused, unless that was noted often enough."""
        name = digest_of_person(who or "")
        self.refusals[name] = self.refusals.get(name, 0) + 1
        if self.refusals[name] <= MAX_REFUSALS_EACH and sum(self.refusals.values()) <= MAX_REFUSALS:
            self._record.note("refused", actor=who, channel=channel or "event", detail=refusal, **said)

    def publish(self) -> None:
        """Publish what was kept; all of it has to be on record."""
        to_publish, self._to_publish = self._to_publish, []
        for verdict in to_publish:
            self._record.answer(verdict)
