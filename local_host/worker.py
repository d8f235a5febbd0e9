"""The worker inside the host: the app's functions run what the task hub hands out."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping

from durabletask.internal import helpers
from durabletask.internal import orchestrator_service_pb2 as pb

from local_host.durable import DurableFunctions, NotNow
from local_host.task_hub import TaskHub
from local_host.task_hub.dispatch import TURN, Item
from local_host.task_hub.records import ActivityTask, Turn

_LOGGER = logging.getLogger("local_host")


class InProcessWorker:
    """Runs every turn, activity and entity batch of a hub by the functions of an app, on the hub's event loop."""

    def __init__(self, hub: TaskHub, functions: DurableFunctions, slots: Mapping[str, int]) -> None:
        self.slots = dict(slots)
        self._hub = hub
        self._functions = functions
        self._running: set[asyncio.Task[None]] = set()

    def accepts(self, kind: str, name: str, version: str | None) -> bool:
        """Whatever has a version that is run here: what the app does not have fails with a sentence that says so."""
        return kind != TURN or not self._functions.rejects(name, version)

    def hand(self, item: Item) -> None:
        """Run an item."""
        task = asyncio.get_running_loop().create_task(self._run(item))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def close(self) -> None:
        """Nothing more comes; what runs goes on."""

    async def drain(self) -> None:
        """Take nothing more, and wait for what runs."""
        self._hub.dispatcher.retire(self)
        while self._running:
            await asyncio.wait(self._running)

    async def _run(self, item: Item) -> None:
        try:
            outcome = await self._outcome(item)
        except NotNow:
            self._hub.dispatcher.put_off(item)
            return
        except Exception:
            _LOGGER.exception("A %s could not be run, and will be tried again", item.kind)
            self._hub.dispatcher.put_off(item)
            return
        # What cannot be stored or taken is in the log, and the hub tries again.
        with contextlib.suppress(Exception):
            await self._hub.dispatcher.complete(item, outcome)

    async def _outcome(self, item: Item) -> pb.OrchestratorResponse | pb.ActivityResponse | pb.EntityBatchResult:
        work = item.work
        if isinstance(work, Turn):
            return await self._functions.run_orchestrator(work.name, work.instance_id, work.encoded(), work.version)
        if isinstance(work, ActivityTask):
            return await self._functions.run_activity(work.request)
        request, _ = helpers.convert_to_entity_batch_request(work.request())
        return await self._functions.run_entity(request)
