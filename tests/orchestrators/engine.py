"""The app on the local host, in process, with a clock that the test moves."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from durabletask.client import OrchestrationState
from durabletask.worker import TaskHubGrpcWorker

from local_host.task_hub.clock import Clock
from local_host.testing import AppControl, HubControl, running_app, running_hub
from orchestrators.event_payload import EventConverter
from tests.polling import until

ROOT = Path(__file__).parents[2]


class Engine:
    """The hub of a running app, and the few things more that the orchestrators' tests do with it."""

    def __init__(self, control: AppControl) -> None:
        self._control = control
        self.client = control.client
        self.start = control.start
        self.event = control.event
        self.raw_event = control.raw_event
        self.state = control.state
        self.status = control.status
        self.output = control.output
        self.history = control.history

    @property
    def now(self) -> datetime:
        """The time of the clock."""
        return self._control.now

    def advance(self, **time: float) -> None:
        """Move the clock, as in ``advance(hours=3)``."""
        self._control.advance(timedelta(**time))

    def phase(self, instance_id: str, phase: str) -> dict[str, Any]:
        """Give the custom status of an instance, which has to be in a phase by now."""
        status = self.status(instance_id)
        assert status.get("phase") == phase, status
        return status

    def end(self, instance_id: str) -> OrchestrationState:
        """Give the state of an instance, which has to have ended by now."""
        state = self.state(instance_id)
        assert state.runtime_status.name in ("COMPLETED", "FAILED", "TERMINATED"), state
        return state

    def kinds(self, instance_id: str) -> list[str]:
        """Give the kinds of the events in the history of an instance."""
        return [str(event.WhichOneof("eventType")) for event in self.history(instance_id)]


@contextmanager
def running_engine(data: Path, clock: Clock | None = None, *, ephemeral: bool = True) -> Iterator[Engine]:
    """Run the app; one that is not ephemeral goes on with the instances of who had the folder and the clock before."""
    with running_app(ROOT, data, clock, ephemeral=ephemeral) as control:
        yield Engine(control)


@contextmanager
def running_worker(control: HubControl, orchestrators: Sequence[Any]) -> Iterator[None]:
    """Run durabletask's own worker on a hub."""
    hub = control.hub
    worker = TaskHubGrpcWorker(host_address=hub.address, metadata=list(hub.metadata), data_converter=EventConverter())
    for orchestrator in orchestrators:
        worker.add_orchestrator(orchestrator)
    worker.start()  # type: ignore[no-untyped-call]
    try:
        until(lambda: hub.has_workers)  # a hub without workers is quiet, whatever waits for one
        yield
    finally:
        worker.stop()  # type: ignore[no-untyped-call]


__all__ = ["Engine", "HubControl", "running_engine", "running_hub", "running_worker"]
