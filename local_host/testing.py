"""An app, hosted in the process of a test, with a clock that the test moves.

with running_app(Path("."), data=tmp_path) as app:
    instance = app.start("approval", {"requester": "Alice", ...})
    app.advance(timedelta(days=3))
    assert app.state(instance).runtime_status.name == "COMPLETED"
"""

import asyncio
import json
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from durabletask.client import OrchestrationState, TaskHubGrpcClient
from durabletask.internal import orchestrator_service_pb2 as pb

from local_host.host import Options, RunningHost, hosted
from local_host.task_hub import ManualClock, TaskHub, queries
from local_host.task_hub.clock import Clock

TIMEOUT = 60
"""Seconds that a test waits for the host at most."""


class HubThread:
    """An event loop on a thread of its own, for what a test runs in its process."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="test-host", daemon=True)
        self._thread.start()

    def run[T](self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop, and give its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(TIMEOUT)

    def close(self) -> None:
        """End the loop and its thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(TIMEOUT)
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


class HubControl:
    """A task hub in this process, and what tests do with it."""

    def __init__(self, thread: HubThread, hub: TaskHub) -> None:
        self._thread = thread
        self.hub = hub
        self.client = TaskHubGrpcClient(host_address=hub.address, metadata=list(hub.metadata))

    @property
    def now(self) -> datetime:
        """The time of the hub's clock."""
        return datetime.fromtimestamp(self.hub.clock.now() / 1_000_000, UTC)

    def start(self, orchestrator: str, given: Any = None, instance_id: str | None = None) -> str:
        """Start an instance, and give its id."""
        return self.client.schedule_new_orchestration(orchestrator, input=given, instance_id=instance_id)

    def event(self, instance_id: str, name: str, payload: Any = None) -> None:
        """Raise an event with a payload of JSON."""
        self.client.raise_orchestration_event(instance_id, name, data=payload)

    def raw_event(self, instance_id: str, name: str, text: str) -> None:
        """Raise an event with any text for a payload, as a client of another language could."""
        request = pb.RaiseEventRequest(instanceId=instance_id, name=name)
        request.input.value = text
        self.client._stub.RaiseEvent(request)  # the client always encodes

    def settle(self) -> None:
        """Wait until nothing happens any more unless somebody calls, or the clock moves."""
        self._thread.run(self.hub.quiet())

    def advance(self, time: timedelta) -> None:
        """Move the clock, from timer to timer, each with all its consequences."""
        target = self.hub.clock.now() + time // timedelta(microseconds=1)
        self._thread.run(self.hub.advance_to(target))

    def state(self, instance_id: str) -> OrchestrationState:
        """Give the state of an instance when everything has settled."""
        self.settle()
        state = self.client.get_orchestration_state(instance_id)
        assert state is not None, f"there is no instance {instance_id}"
        return state

    def status(self, instance_id: str) -> dict[str, Any]:
        """Give the custom status of an instance when everything has settled; empty when there is none."""
        text = self.state(instance_id).serialized_custom_status
        status: dict[str, Any] = json.loads(text) if text else {}
        return status

    def output(self, instance_id: str) -> Any:
        """Give the output of an instance that has completed when everything has settled."""
        state = self.state(instance_id)
        assert state.runtime_status.name == "COMPLETED", (state.runtime_status, state.failure_details)
        return json.loads(state.serialized_output or "null")

    def history(self, instance_id: str) -> list[pb.HistoryEvent]:
        """Give the history of an instance when everything has settled."""
        self.settle()

        async def read() -> list[pb.HistoryEvent]:
            return [event for chunk in queries.history(self.hub.reader, instance_id) for event in chunk.events]

        return self._thread.run(read())

    def close(self) -> None:
        """Close the client."""
        self.client.close()


class AppControl(HubControl):
    """An app in this process; ``url`` is where its HTTP triggers are."""

    def __init__(self, thread: HubThread, running: RunningHost) -> None:
        assert running.engine.hub is not None
        super().__init__(thread, running.engine.hub)
        self.url = running.url


@contextmanager
def running_hub(folder: Path | None = None, clock: Clock | None = None) -> Iterator[HubControl]:
    """Run a task hub without workers, in memory unless a folder is given; with a clock that stands still."""
    thread = HubThread()
    hub = TaskHub(folder, clock=clock if clock is not None else ManualClock())
    try:
        thread.run(hub.start())
        control = HubControl(thread, hub)
        try:
            yield control
        finally:
            control.close()
            thread.run(hub.stop())
    finally:
        thread.close()


@contextmanager
def running_app(
    app_dir: Path, data: Path, clock: Clock | None = None, *, ephemeral: bool = True
) -> Iterator[AppControl]:
    """Host an app on a free port, with a clock that stands still unless another one is given."""
    thread = HubThread()
    context = hosted(Options(app_dir, data, port=0, ephemeral=ephemeral), clock if clock is not None else ManualClock())
    try:
        running = thread.run(context.__aenter__())
        control = AppControl(thread, running)
        try:
            yield control
        finally:
            control.close()
            thread.run(_leave(context))
    finally:
        thread.close()


async def _leave(context: Any) -> None:
    await context.__aexit__(None, None, None)
