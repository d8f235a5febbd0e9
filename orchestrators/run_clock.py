"""The clock of a run: it stands still while the run is paused, unless the pause says that it runs on."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, cast

from durabletask import task


class RunClock:
    """Tells the time of a run, which is behind the real one by as long as it was frozen.

    Workflows reckon their deadlines and reminders by it, and what shows a time to people, or gives it to the task hub,
    converts it: so all of them move when a pause is over, and no workflow has to know. All times are naive UTC.

    ``on_pause`` are called when the run is paused; ``on_resume`` gets the data that it is resumed with, before it goes
    on. ``children`` are the runs that this one has called, by their ids.
    """

    def __init__(self, ctx: task.OrchestrationContext) -> None:
        self._ctx = ctx
        self.frozen = timedelta()
        self.on_pause: list[Callable[[], None]] = []
        self.on_resume: Callable[[dict[str, Any]], None] | None = None
        self._children: dict[str, task.Task[Any]] = {}

    @property
    def now(self) -> datetime:
        """The time of the run."""
        return self._ctx.current_utc_datetime - self.frozen

    def real(self, moment: datetime) -> datetime:
        """Return the real time of a time of the run."""
        return moment + self.frozen

    def of_run(self, moment: datetime) -> datetime:
        """Return the time of the run at a real time, from the last pause on."""
        return moment - self.frozen

    @property
    def children(self) -> list[str]:
        """The ids of the runs that were called and have not ended."""
        return [child for child, called in self._children.items() if not called.is_complete]

    def call_sub_orchestrator(self, orchestrator: str, *, input: Any, instance_id: str) -> task.Task[Any]:
        """Call another run, of the same version, that is paused with this one."""
        # Without a version it would keep no records.
        called: task.Task[Any] = self._ctx.call_sub_orchestrator(
            orchestrator, input=input, instance_id=instance_id, version=self._ctx.version
        )
        self._children[instance_id] = called
        return called


def run_clock(ctx: task.OrchestrationContext) -> RunClock:
    """Return the clock of the run that ``ctx`` is of; there is one."""
    return cast("RunClock", vars(ctx).setdefault("_run_clock", RunClock(ctx)))
