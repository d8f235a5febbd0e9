"""Keeps a run's custom status."""

from datetime import datetime
from typing import Any

from durabletask import task

from contracts.human_step import MAX_WARNINGS, Decision, Progress


class ProgressKeeper:
    """Publishes every change of a run's ``Progress`` as its custom status."""

    def __init__(self, ctx: task.OrchestrationContext) -> None:
        self._ctx = ctx
        self._progress: Progress | None = None

    def enter(
        self,
        phase: str,
        *,
        waiting_for: str | None = None,
        deadline: datetime | None = None,
        decision: Decision | None = None,
    ) -> None:
        """Enter ``phase``. Warnings stay, and so does a decision once there is one."""
        before = self._progress
        if decision is None and before is not None:
            decision = before.decision
        self._publish(
            Progress(
                phase=phase,
                waiting_for=waiting_for,
                deadline=deadline,
                decision=decision.shortened() if decision is not None else None,
                warnings=before.warnings if before is not None else (),
            )
        )

    def warn(self, warning: str) -> None:
        """Add a warning; the oldest one makes room."""
        before = self._progress or Progress(phase="started")
        warnings = (*before.warnings, warning)[-MAX_WARNINGS:]
        self._publish(before.model_copy(update={"warnings": warnings}))

    def _publish(self, progress: Progress) -> None:
        self._progress = progress
        status: dict[str, Any] = progress.plain()
        self._ctx.set_custom_status(status)
