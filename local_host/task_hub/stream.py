"""A worker at the other end of a gRPC stream."""

import asyncio
from collections.abc import AsyncIterator, Iterable

from durabletask.internal import orchestrator_service_pb2 as pb

from local_host.task_hub.dispatch import ACTIVITY, ENTITY, TURN, Item
from local_host.task_hub.records import ActivityTask, Turn

PING_AFTER = 30.0
"""Seconds without an item after which a worker is told that the hub lives; it would look for another one else."""

UNLIMITED = 100
"""Things of one kind that a worker gets at once when it does not say how many it takes."""

type _Filter = dict[str, frozenset[str]] | None


class StreamWorker:
    """Takes what its filters let through, and passes it on as messages of the stream."""

    def __init__(self, request: pb.GetWorkItemsRequest) -> None:
        self.slots = {
            TURN: request.maxConcurrentOrchestrationWorkItems or UNLIMITED,
            ACTIVITY: request.maxConcurrentActivityWorkItems or UNLIMITED,
            ENTITY: request.maxConcurrentEntityWorkItems or UNLIMITED,
        }
        self._filters: dict[str, _Filter] = {TURN: None, ACTIVITY: None, ENTITY: None}
        if request.HasField("workItemFilters"):
            filters = request.workItemFilters
            self._filters = {
                TURN: _accepted((each.name, each.versions) for each in filters.orchestrations),
                ACTIVITY: _accepted((each.name, each.versions) for each in filters.activities),
                ENTITY: _accepted((each.name.lower(), ()) for each in filters.entities),
            }
        self._handed: asyncio.Queue[Item | None] = asyncio.Queue()

    def accepts(self, kind: str, name: str, version: str | None) -> bool:
        """Whether the filters let it through: no filters let all through, no versions any version."""
        accepted = self._filters[kind]
        if accepted is None:
            return True
        versions = accepted.get(name)
        return versions is not None and (not versions or (version or "") in versions)

    def hand(self, item: Item) -> None:
        """Take an item for the stream."""
        self._handed.put_nowait(item)

    def close(self) -> None:
        """End the stream."""
        self._handed.put_nowait(None)

    async def messages(self) -> AsyncIterator[pb.WorkItem]:
        """Give each item as a message, until the stream is to end; and a sign of life when there are none."""
        while True:
            try:
                async with asyncio.timeout(PING_AFTER):
                    item = await self._handed.get()
            except TimeoutError:
                yield pb.WorkItem(healthPing=pb.HealthPing())
                continue
            if item is None:
                return
            yield _message(item)


def _accepted(filters: Iterable[tuple[str, Iterable[str]]]) -> dict[str, frozenset[str]]:
    accepted: dict[str, frozenset[str]] = {}
    for name, versions in filters:
        before = accepted.get(name, frozenset())
        accepted[name] = before | frozenset(versions)
    return accepted


def _message(item: Item) -> pb.WorkItem:
    message = pb.WorkItem(completionToken=item.token)
    if isinstance(item.work, Turn):
        message.orchestratorRequest.ParseFromString(item.work.encoded())
    elif isinstance(item.work, ActivityTask):
        message.activityRequest.CopyFrom(item.work.request)
    else:
        message.entityRequestV2.CopyFrom(item.work.request())
    return message
