"""A task hub on the loop of a test, and workers that do what the test says."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb

from local_host.task_hub import ManualClock, TaskHub, instances, queries
from local_host.task_hub.clock import Clock
from local_host.task_hub.dispatch import ACTIVITY, ENTITY, TURN, Item
from local_host.task_hub.records import ActivityTask, EntityBatch, Turn
from local_host.task_hub.store import Command


@asynccontextmanager
async def running(folder: Path | None = None, clock: Clock | None = None) -> AsyncIterator[TaskHub]:
    """Run a hub, with a clock that stands still unless another one is given."""
    hub = TaskHub(folder, clock=clock if clock is not None else ManualClock(), synchronous="NORMAL")
    await hub.start()
    try:
        yield hub
    finally:
        await hub.stop()


class Hands:
    """A worker that holds what it is handed; ``items`` is all that it was ever handed."""

    def __init__(
        self, *, turns: int = 100, activities: int = 100, entities: int = 100, only: Iterable[str] | None = None
    ) -> None:
        self.slots = {TURN: turns, ACTIVITY: activities, ENTITY: entities}
        self.items: list[Item] = []
        self.closed = False
        self._only = None if only is None else frozenset(only)
        self._came = asyncio.Event()

    def accepts(self, _kind: str, name: str, _version: str | None) -> bool:
        """Whether it is one of the names that it takes."""
        return self._only is None or name in self._only

    def hand(self, item: Item) -> None:
        """Take an item."""
        self.items.append(item)
        self._came.set()

    def close(self) -> None:
        """Hear that nothing more comes."""
        self.closed = True

    async def item(self, number: int) -> Item:
        """Wait for the item of that number, from 0."""
        async with asyncio.timeout(10):
            while len(self.items) <= number:
                self._came.clear()
                await self._came.wait()
        return self.items[number]

    @property
    def names(self) -> list[str]:
        """The ids of the instances and entities of all turns and batches, and the names of all activities."""
        return [_name(each) for each in self.items]


class Runner(Hands):
    """A worker that answers each turn by ``decide``, which gets all events, each activity with its input, and
    entities with a count of their operations."""

    def __init__(
        self,
        hub: TaskHub,
        decide: Callable[[list[pb.HistoryEvent]], pb.OrchestratorResponse],
        *,
        turns: int = 100,
        activities: int = 100,
    ) -> None:
        super().__init__(turns=turns, activities=activities)
        self._hub = hub
        self._decide = decide
        self._tasks: set[asyncio.Task[None]] = set()

    def hand(self, item: Item) -> None:
        """Run an item."""
        super().hand(item)
        task = asyncio.get_running_loop().create_task(self._run(item))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, item: Item) -> None:
        await self._hub.dispatcher.complete(item, self.outcome(item))

    def outcome(self, item: Item) -> Any:
        """What comes of an item."""
        return outcome(item, self._decide)


def outcome(item: Item, decide: Callable[[list[pb.HistoryEvent]], pb.OrchestratorResponse]) -> Any:
    """What comes of an item; see ``Runner``."""
    work = item.work
    if isinstance(work, Turn):
        return decide([*pb.OrchestratorRequest.FromString(work.past).pastEvents, *work.new])
    if isinstance(work, ActivityTask):
        return result(work.request.input.value)
    done = int(work.state or "0") + len(work.rows)
    batch = pb.EntityBatchResult(results=[pb.OperationResult() for _ in work.rows])
    batch.entityState.value = str(done)
    return batch


def _name(item: Item) -> str:
    work = item.work
    if isinstance(work, Turn):
        return work.instance_id
    return work.entity_id if isinstance(work, EntityBatch) else work.name


# Commands


def start(instance_id: str, name: str = "any", given: str | None = None) -> Command[str]:
    """Start an instance."""
    return lambda tx: instances.start(tx, instances.NewInstance(instance_id, name, input=given), frozenset())


def raise_event(instance_id: str, name: str = "event", payload: str | None = None) -> Command[None]:
    """Raise an event."""
    return lambda tx: instances.raise_event(tx, instance_id, name, payload)


def terminate(instance_id: str) -> Command[bool]:
    """End an instance."""
    return lambda tx: instances.terminate(tx, instance_id, None, recursive=False)


# Outcomes


def turn(*actions: pb.OrchestratorAction) -> pb.OrchestratorResponse:
    """The answer to a turn; actions get their numbers as ids, from 1."""
    response = pb.OrchestratorResponse(actions=actions)
    for number, each in enumerate(response.actions, start=1):
        each.id = each.id or number
    return response


def activity(name: str, given: str = "", task_id: int = 0) -> pb.OrchestratorAction:
    """The action that schedules an activity."""
    action = pb.OrchestratorAction(id=task_id, scheduleTask=pb.ScheduleTaskAction(name=name))
    action.scheduleTask.input.value = given
    return action


def timer(due: int, task_id: int = 0) -> pb.OrchestratorAction:
    """The action that creates a timer; ``due`` in microseconds."""
    action = pb.OrchestratorAction(id=task_id)
    action.createTimer.fireAt.FromMicroseconds(due)
    return action


def completed(given: str = "") -> pb.OrchestratorAction:
    """The action that ends an orchestration."""
    action = pb.OrchestratorAction(id=10_000)
    action.completeOrchestration.orchestrationStatus = pb.ORCHESTRATION_STATUS_COMPLETED
    action.completeOrchestration.result.value = given
    return action


def result(given: str = "") -> pb.ActivityResponse:
    """The outcome of an activity."""
    response = pb.ActivityResponse()
    response.result.value = given
    return response


# What there is


def history(hub: TaskHub, instance_id: str) -> list[pb.HistoryEvent]:
    """The history of an instance."""
    return [event for chunk in queries.history(hub.reader, instance_id) for event in chunk.events]


def kinds(events: Iterable[pb.HistoryEvent]) -> list[str]:
    """The kinds of events."""
    return [str(each.WhichOneof("eventType")) for each in events]


def count(hub: TaskHub, table: str) -> int:
    """The number of rows of a table."""
    rows: int = hub.reader.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    return rows


async def until(look: Callable[[], Any], seconds: float = 10) -> None:
    """Wait until ``look`` gives something true."""
    async with asyncio.timeout(seconds):
        while not look():  # noqa: ASYNC110  # it is for what has no event
            await asyncio.sleep(0.002)
