"""Dispatch: what is ready to run goes to a worker that takes it, each thing to one worker at a time.

What is ready is known in memory by row ids only; a restart finds it again in the file. What a worker has is known in
memory too: a worker that is gone, and a restart, make it ready again.
"""

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import uuid4

from durabletask.internal import orchestrator_service_pb2 as pb

from local_host.task_hub import activities, entities, turns
from local_host.task_hub.clock import Clock
from local_host.task_hub.records import FAILED, PENDING, ActivityTask, EntityBatch, Turn, failure
from local_host.task_hub.store import Command, Effects, Store, StoreError

TURN, ACTIVITY, ENTITY = "turn", "activity", "entity"

type Work = Turn | ActivityTask | EntityBatch
type Outcome = pb.OrchestratorResponse | pb.ActivityResponse | pb.EntityBatchResult

PAUSE_AFTER_ERROR = 1.0
"""Seconds before what could not be read or stored is tried again."""

_LOGGER = logging.getLogger("local_host.task_hub")


class Worker(Protocol):
    """Somebody who runs work. ``slots`` are how many things of each kind it takes at once."""

    slots: dict[str, int]

    def accepts(self, kind: str, name: str, version: str | None) -> bool:
        """Whether it runs work of this kind, name and version."""
        ...

    def hand(self, item: "Item") -> None:
        """Take an item, to complete it or to abandon it later."""
        ...

    def close(self) -> None:
        """Hear that there will be no more."""
        ...


@dataclass
class Item:
    """A thing that a worker has. Its token is good for one completion, for as long as the worker has it."""

    kind: str
    row: int
    work: Work
    worker: Worker
    token: str = field(default_factory=lambda: uuid4().hex)


@dataclass
class _Queue:
    """What of one kind is ready, what runs, and what became ready again while it ran."""

    ready: dict[int, None] = field(default_factory=dict)
    running: set[int] = field(default_factory=set)
    again: set[int] = field(default_factory=set)
    parked: dict[int, None] = field(default_factory=dict)

    def add(self, row: int) -> None:
        if row in self.running:
            self.again.add(row)
        else:
            self.parked.pop(row, None)
            self.ready[row] = None

    def unpark(self) -> None:
        self.ready.update(self.parked)
        self.parked.clear()

    def end(self, row: int, *, again: bool) -> None:
        self.running.discard(row)
        if again or row in self.again:
            self.again.discard(row)
            self.ready[row] = None


class Dispatcher:
    """Hands out work. All its methods run on the event loop."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._queues = {TURN: _Queue(), ACTIVITY: _Queue(), ENTITY: _Queue()}
        self._workers: dict[Worker, dict[str, int]] = {}
        self._items: dict[str, Item] = {}
        self._pumping = False
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._side_tasks: set[asyncio.Task[None]] = set()

    def recover(self) -> None:
        """Find what is ready in the file."""
        found = {
            TURN: "SELECT DISTINCT instance FROM messages UNION SELECT id FROM instances WHERE status = ? ORDER BY 1",
            ACTIVITY: "SELECT id FROM activities WHERE ? ORDER BY id",
            ENTITY: "SELECT DISTINCT entity FROM operations WHERE ? ORDER BY 1",
        }
        for kind, sql in found.items():
            rows = self._store.reader.execute(sql, (PENDING,))
            self._queues[kind].ready.update((row, None) for (row,) in rows)
        self._wake()

    def on_effects(self, effects: Effects) -> None:
        """Hear what a commit made ready."""
        for kind, rows in (
            (TURN, effects.turns),
            (ACTIVITY, effects.activities),
            (ENTITY, effects.entities),
        ):
            for row in rows:
                self._queues[kind].add(row)
        if effects.turns or effects.activities or effects.entities:
            self._wake()

    def connect(self, worker: Worker) -> None:
        """Begin to hand work to a worker."""
        self._workers[worker] = {TURN: 0, ACTIVITY: 0, ENTITY: 0}
        for queue in self._queues.values():
            queue.unpark()
        self._wake()

    def disconnect(self, worker: Worker) -> None:
        """Take back what a worker had, for others to run."""
        self._workers.pop(worker, None)
        for item in [each for each in self._items.values() if each.worker is worker]:
            self._release(item, again=True)
        self._wake()

    def retire(self, worker: Worker) -> None:
        """Hand nothing more to a worker; what it has it may still complete."""
        self._workers.pop(worker, None)

    def close(self) -> None:
        """Hand out nothing more."""
        self._closed = True
        for worker in list(self._workers):
            worker.close()
        self._workers.clear()

    def item(self, token: str, kind: str) -> Item | None:
        """Find the item that a token is good for."""
        item = self._items.get(token)
        return item if item is not None and item.kind == kind else None

    def abandon(self, token: str, kind: str) -> None:
        """Take an item back from its worker; an unknown token does nothing."""
        item = self.item(token, kind)
        if item is not None:
            self._release(item, again=True)
            self._wake()

    def put_off(self, item: Item) -> None:
        """Take an item back from its worker, and hand it out again after a while."""
        if self._items.pop(item.token, None) is not None:
            self._free(item)
            self._later(item.kind, item.row)
            self._wake()

    async def complete(self, item: Item, response: Outcome) -> None:
        """Take the outcome of an item; once only, and only from the worker that has it.

        Raises ``StoreError`` when it could not be stored: the hub keeps it then, and tries again after a while.
        """
        if self._items.pop(item.token, None) is not None:
            # It is taken to its end also when the worker that brought it goes away meanwhile.
            await asyncio.shield(self._aside(self._take(item, _command(item.work, response))))

    async def _take(self, item: Item, command: Command[bool]) -> None:
        try:
            await self._apply(item, command)
        finally:
            self._free(item)
            self._wake()

    async def _apply(self, item: Item, command: Command[bool], *, last: bool = False) -> None:
        try:
            done = await self._store.execute(command)
        except StoreError as error:
            _LOGGER.error("The outcome of a %s could not be stored, and will be tried again: %s", item.kind, error)  # noqa: TRY400
            self._loop.call_later(PAUSE_AFTER_ERROR, self._apply_again, item, command)
            raise
        except Exception as error:
            _LOGGER.error("The outcome of a %s cannot be taken: %s", item.kind, error)  # noqa: TRY400
            failed = None if last else _failed(item.work, error)
            if failed is None:
                self._later(item.kind, item.row)
                raise
            # It would be the same each time: what cannot be taken is a failure.
            await self._apply(item, _command(item.work, failed), last=True)
            return
        # What moved on without this answer is looked at again: it may have been replaced while it ran.
        self._end(item.kind, item.row, again=not done and item.kind != ACTIVITY)

    def _apply_again(self, item: Item, command: Command[bool]) -> None:
        if not self._closed:
            self._aside(self._apply(item, command))

    @property
    def has_workers(self) -> bool:
        """Whether somebody is there to take work."""
        return bool(self._workers)

    @property
    def idle(self) -> bool:
        """Whether nothing runs, and nothing is ready that a worker would take."""
        return (
            not self._items
            and not self._side_tasks
            and not any((queue.ready and self._workers) or queue.running for queue in self._queues.values())
        )

    def _release(self, item: Item, *, again: bool) -> None:
        self._items.pop(item.token, None)
        self._free(item)
        self._queues[item.kind].end(item.row, again=again)

    def _free(self, item: Item) -> None:
        used = self._workers.get(item.worker)
        if used is not None:
            used[item.kind] -= 1
            queue = self._queues[item.kind]
            if queue.parked and used[item.kind] == item.worker.slots[item.kind] - 1:
                queue.unpark()

    def _end(self, kind: str, row: int, *, again: bool) -> None:
        self._queues[kind].end(row, again=again)
        self._wake()

    def _later(self, kind: str, row: int) -> None:
        """Look at something again after a while, and not before."""
        self._queues[kind].running.add(row)
        self._loop.call_later(PAUSE_AFTER_ERROR, lambda: self._end(kind, row, again=True))

    def _wake(self) -> None:
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Hand out all that is ready, as far as there are workers with room."""
        self._pumping = False
        for kind, queue in self._queues.items():
            free = [worker for worker, used in self._workers.items() if used[kind] < worker.slots[kind]]
            while queue.ready and free:
                row = next(iter(queue.ready))
                del queue.ready[row]
                self._hand_out(kind, row, free)

    def _hand_out(self, kind: str, row: int, free: list[Worker]) -> None:
        try:
            work = self._load(kind, row)
        except Exception as error:  # noqa: BLE001  # a damaged page; others must not wait for it
            _LOGGER.error("A %s could not be read, and will be tried again: %s", kind, error)  # noqa: TRY400
            self._later(kind, row)
            return
        if work is None:
            return
        worker = next((each for each in free if each.accepts(kind, work.name, work.version)), None)
        if worker is None:
            # Until a worker comes, or one that takes it has room again.
            self._queues[kind].parked[row] = None
            return
        item = Item(kind, row, work, worker)
        self._items[item.token] = item
        self._queues[kind].running.add(row)
        used = self._workers[worker]
        used[kind] += 1
        if used[kind] >= worker.slots[kind]:
            free.remove(worker)
        worker.hand(item)

    def _load(self, kind: str, row: int) -> Work | None:
        reader = self._store.reader
        if kind == TURN:
            return turns.load(reader, row, self._clock.now())
        if kind == ACTIVITY:
            return activities.load(reader, row)
        if entities.lock_is_due(reader, row):
            self._aside(self._lock(row))
            return None
        return entities.load(reader, row)

    async def _lock(self, row: int) -> None:
        try:
            await self._store.execute(lambda tx: entities.lock(tx, row))
        except Exception as error:
            _LOGGER.error("A lock could not be given, and will be tried again: %s", error)  # noqa: TRY400
            self._later(ENTITY, row)
            raise

    def _aside(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something whoever waits for it; what it raises it has logged."""
        task = self._loop.create_task(work)
        self._side_tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._side_tasks.discard(task)
        if not task.cancelled():
            task.exception()


def _command(work: Work, response: Outcome) -> Command[bool]:
    """The command that takes the outcome of some work."""
    if isinstance(work, Turn):
        assert isinstance(response, pb.OrchestratorResponse)
        return lambda tx: turns.complete(tx, work, response)
    if isinstance(work, ActivityTask):
        assert isinstance(response, pb.ActivityResponse)
        return lambda tx: activities.complete(tx, work, response)
    assert isinstance(response, pb.EntityBatchResult)
    return lambda tx: entities.complete(tx, work, response)


def _failed(work: Work, error: Exception) -> Outcome | None:
    """The outcome that stands for one that cannot be taken; None for entities, whose state it would not know."""
    details = failure("OutcomeNotTaken", f"The task hub cannot take the answer of the worker: {error}")
    if isinstance(work, Turn):
        response = pb.OrchestratorResponse(instanceId=work.instance_id)
        completion = response.actions.add(id=-1).completeOrchestration
        completion.orchestrationStatus = FAILED
        completion.failureDetails.CopyFrom(details)
        return response
    if isinstance(work, ActivityTask):
        return pb.ActivityResponse(failureDetails=details)
    return None
