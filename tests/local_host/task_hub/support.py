"""What the tests of the task hub share: hubs with durabletask's worker, and a worker that tests lead by the hand."""

import json
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import durabletask.internal.orchestrator_service_pb2 as pb
import durabletask.internal.orchestrator_service_pb2_grpc as stubs
import grpc
import pytest
from durabletask.client import OrchestrationStatus
from durabletask.internal.grpc_interceptor import DefaultClientInterceptorImpl
from durabletask.internal.shared import get_grpc_channel
from durabletask.worker import ConcurrencyOptions, TaskHubGrpcWorker
from google.protobuf.wrappers_pb2 import StringValue

from local_host.testing import HubControl, running_hub

PATIENCE = 10.0
"""Seconds after which something that should happen counts as not happening."""

MOMENT = 0.15
"""Seconds in which something that should not happen would have happened."""

# The generated module carries no types.
_new_stub: Any = stubs.TaskHubSidecarServiceStub


def run_worker(
    address: str,
    metadata: Iterable[tuple[str, str]] = (),
    *,
    orchestrators: Iterable[Any] = (),
    activities: Iterable[Any] = (),
    entities: Iterable[Any] = (),
    prepare: Callable[[TaskHubGrpcWorker], None] | None = None,
    concurrency: ConcurrencyOptions | None = None,
) -> TaskHubGrpcWorker:
    """Start durabletask's own worker; stop it when done."""
    worker = TaskHubGrpcWorker(host_address=address, metadata=list(metadata) or None, concurrency_options=concurrency)
    for each in orchestrators:
        worker.add_orchestrator(each)
    for each in activities:
        worker.add_activity(each)
    for each in entities:
        worker.add_entity(each)
    if prepare is not None:
        prepare(worker)
    worker.start()  # type: ignore[no-untyped-call]
    return worker


def until(happens: Callable[[], Any]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE
    while not happens():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.001)


@contextmanager
def hub_with_worker(**worker: Any) -> Iterator[HubControl]:
    """Run a hub, and durabletask's own worker on it."""
    with running_hub() as hub:
        running = run_worker(hub.hub.address, hub.hub.metadata, **worker)
        until(lambda: hub.hub.dispatcher._workers)
        try:
            yield hub
        finally:
            running.stop()  # type: ignore[no-untyped-call]


@contextmanager
def stub_of(hub: HubControl, metadata: Iterable[tuple[str, str]] | None = None) -> Iterator[Any]:
    """Give a stub of the hub's service; with the hub's own credential unless other metadata is given."""
    given = list(hub.hub.metadata if metadata is None else metadata)
    interceptors = [DefaultClientInterceptorImpl(given)] if given else None
    channel = get_grpc_channel(hub.hub.address, interceptors=interceptors)
    try:
        yield _new_stub(channel)
    finally:
        channel.close()


class HandWorker:
    """A worker that takes work when the test says so, and answers what the test says."""

    def __init__(self, hub: HubControl, request: pb.GetWorkItemsRequest | None = None) -> None:
        self._channel = get_grpc_channel(
            hub.hub.address, interceptors=[DefaultClientInterceptorImpl(list(hub.hub.metadata))]
        )
        self.stub: Any = _new_stub(self._channel)
        self._stream = self.stub.GetWorkItems(request if request is not None else pb.GetWorkItemsRequest())
        self._items: queue.Queue[pb.WorkItem] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with suppress(grpc.RpcError):
            for item in self._stream:
                self._items.put(item)

    def take(self) -> pb.WorkItem:
        """Wait for the next item."""
        return self._items.get(timeout=PATIENCE)

    def gets_nothing(self) -> bool:
        """Whether nothing comes for a moment."""
        try:
            self._items.get(timeout=MOMENT)
        except queue.Empty:
            return True
        return False

    def turn(self, item: pb.WorkItem, *actions: pb.OrchestratorAction, custom_status: str | None = None) -> None:
        """Answer a turn with actions."""
        response = pb.OrchestratorResponse(
            instanceId=item.orchestratorRequest.instanceId, actions=actions, completionToken=item.completionToken
        )
        if custom_status is not None:
            response.customStatus.value = custom_status
        self.stub.CompleteOrchestratorTask(response)

    def activity(self, item: pb.WorkItem, result: Any = None) -> None:
        """Answer an activity with a result."""
        self.stub.CompleteActivityTask(
            pb.ActivityResponse(
                instanceId=item.activityRequest.orchestrationInstance.instanceId,
                taskId=item.activityRequest.taskId,
                result=StringValue(value=json.dumps(result)),
                completionToken=item.completionToken,
            )
        )

    def entity(self, item: pb.WorkItem, state: str | None, *results: Any) -> None:
        """Answer the operations of an entity with results."""
        answer = pb.EntityBatchResult(completionToken=item.completionToken)
        if state is not None:
            answer.entityState.value = state
        for each in results:
            answer.results.add().success.result.value = json.dumps(each)
        self.stub.CompleteEntityTask(answer)

    def close(self) -> None:
        """Disconnect, whatever it has."""
        self._stream.cancel()
        self._reader.join(PATIENCE)
        self._channel.close()


@contextmanager
def hand_worker(hub: HubControl, request: pb.GetWorkItemsRequest | None = None) -> Iterator[HandWorker]:
    """Run a worker that the test leads by the hand."""
    worker = HandWorker(hub, request)
    try:
        yield worker
    finally:
        worker.close()


# Actions of orchestrators


def complete(result: Any = None, status: int = pb.ORCHESTRATION_STATUS_COMPLETED) -> pb.OrchestratorAction:
    """The orchestrator is done."""
    action = pb.OrchestratorAction(id=1000)
    action.completeOrchestration.orchestrationStatus = status  # type: ignore[assignment]
    action.completeOrchestration.result.value = json.dumps(result)
    return action


def schedule(number: int, name: str, given: Any = None, version: str | None = None) -> pb.OrchestratorAction:
    """The orchestrator calls an activity."""
    action = pb.OrchestratorAction(id=number)
    action.scheduleTask.name = name
    action.scheduleTask.input.value = json.dumps(given)
    if version is not None:
        action.scheduleTask.version.value = version
    return action


# Statuses


def status(hub: HubControl, instance_id: str) -> str:
    """Give the name of the status of an instance as it is, without waiting for anything."""
    state = hub.client.get_orchestration_state(instance_id)
    return "missing" if state is None else state.runtime_status.name


def ends(hub: HubControl, instance_id: str) -> Any:
    """Wait for the end of an instance, and give its state."""
    state = hub.client.wait_for_orchestration_completion(instance_id, timeout=PATIENCE)
    assert state is not None
    return state


def kinds(hub: HubControl, instance_id: str) -> list[str]:
    """Give the kinds of the events in the history of an instance."""
    return [str(event.WhichOneof("eventType")) for event in hub.history(instance_id)]


def kinds_now(hub: HubControl, instance_id: str) -> list[str]:
    """Give the kinds of the events in the history of an instance as it is, without waiting for anything."""
    with stub_of(hub) as stub:
        chunks = list(stub.StreamInstanceHistory(pb.StreamInstanceHistoryRequest(instanceId=instance_id)))
    return [str(event.WhichOneof("eventType")) for chunk in chunks for event in chunk.events]


@contextmanager
def refused(code: grpc.StatusCode) -> Iterator[pytest.ExceptionInfo[grpc.RpcError]]:
    """Expect a call to be refused with a status, in words that give nothing away."""
    with pytest.raises(grpc.RpcError) as caught:
        yield caught
    error: Any = caught.value
    assert error.code() is code, (error.code(), error.details())
    tells_nothing(error.details())


def tells_nothing(text: str) -> None:
    """Check that a message has no traceback, no path and no SQL."""
    for sign in ("Traceback", 'File "', ".py", "/", "sqlite", "SELECT", "INSERT", "UPDATE ", "DELETE ", "Error:"):
        assert sign not in text, text


def set_clock_back(hub: HubControl, time: timedelta) -> None:
    """Set the hub's clock back, as somebody may do to the clock of a machine."""
    clock: Any = hub.hub.clock
    target = clock.now() - time // timedelta(microseconds=1)

    async def move() -> None:
        clock.set(target)

    hub._thread.run(move())


def move_clock(hub: HubControl, time: timedelta) -> None:
    """Set the hub's clock forward without waiting for what that brings about."""
    set_clock_back(hub, -time)


COMPLETED = OrchestrationStatus.COMPLETED
FAILED = OrchestrationStatus.FAILED
TERMINATED = OrchestrationStatus.TERMINATED
RUNNING = OrchestrationStatus.RUNNING
PENDING = OrchestrationStatus.PENDING
SUSPENDED = OrchestrationStatus.SUSPENDED
