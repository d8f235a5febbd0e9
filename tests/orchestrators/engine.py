"""A real engine for orchestrators: durabletask's backend, worker and client, on a free loopback port."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from durabletask.client import OrchestrationState, TaskHubGrpcClient
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.internal import orchestrator_service_pb2_grpc as stubs
from durabletask.worker import TaskHubGrpcWorker

from activities.approval import send_approval_request
from activities.purchase_order import cancel_order, place_order
from local_host.hub import InMemoryTaskHub
from orchestrators.approval import approval
from orchestrators.event_payload import EventConverter
from orchestrators.purchase_order import purchase_order
from tests.polling import until

# durabletask's types cannot infer the output of a generator that is given as an orchestrator.
ORCHESTRATORS: tuple[Any, ...] = (purchase_order, approval)
ACTIVITIES = (send_approval_request, place_order, cancel_order)


@dataclass
class Engine:
    """The engine, and the few things that tests do with it."""

    client: TaskHubGrpcClient
    stub: Any

    def start(self, orchestrator: Any, given: Any, instance_id: str | None = None) -> str:
        """Start an instance and give its id."""
        return self.client.schedule_new_orchestration(orchestrator, input=given, instance_id=instance_id)

    def event(self, instance_id: str, name: str, payload: Any) -> None:
        """Raise an event as the management API does, with a payload of JSON."""
        self.client.raise_orchestration_event(instance_id, name, data=payload)

    def raw_event(self, instance_id: str, name: str, text: str) -> None:
        """Raise an event with any text for a payload, as a client of another language could."""
        request = pb.RaiseEventRequest(instanceId=instance_id, name=name)
        request.input.value = text
        self.stub.RaiseEvent(request)

    def state(self, instance_id: str) -> OrchestrationState:
        """Give the state of an instance."""
        state = self.client.get_orchestration_state(instance_id)
        assert state is not None
        return state

    def status(self, instance_id: str) -> dict[str, Any]:
        """Give the custom status of an instance, empty before there is one."""
        text = self.state(instance_id).serialized_custom_status
        status: dict[str, Any] = json.loads(text) if text else {}
        return status

    def phase(self, instance_id: str, phase: str) -> dict[str, Any]:
        """Wait until the instance is in a phase, and give its custom status."""
        return until(lambda: status if (status := self.status(instance_id)).get("phase") == phase else None)

    def end(self, instance_id: str) -> OrchestrationState:
        """Wait until the instance has ended, and give its state."""
        state = self.client.wait_for_orchestration_completion(instance_id, timeout=20)
        assert state is not None
        return state

    def output(self, instance_id: str) -> dict[str, Any]:
        """Wait until the instance has completed, and give its output."""
        state = self.end(instance_id)
        assert state.runtime_status.name == "COMPLETED", state.failure_details
        output: dict[str, Any] = json.loads(state.serialized_output or "null")
        return output

    def history(self, instance_id: str) -> list[pb.HistoryEvent]:
        """Give the history of an instance."""
        chunks = self.stub.StreamInstanceHistory(pb.StreamInstanceHistoryRequest(instanceId=instance_id))
        return [event for chunk in chunks for event in chunk.events]

    def kinds(self, instance_id: str) -> list[str]:
        """Give the kinds of the events in the history of an instance."""
        return [str(event.WhichOneof("eventType")) for event in self.history(instance_id)]


@contextmanager
def running_hub() -> Iterator[str]:
    """Run a task hub, and give its address."""
    hub = InMemoryTaskHub()
    hub.start()
    try:
        yield hub.address
    finally:
        hub.stop()


@contextmanager
def running_worker(address: str, orchestrators: Sequence[Any], activities: Sequence[Any] = ()) -> Iterator[None]:
    """Run a worker with these functions."""
    worker = TaskHubGrpcWorker(host_address=address, data_converter=EventConverter())
    for orchestrator in orchestrators:
        worker.add_orchestrator(orchestrator)
    for activity in activities:
        worker.add_activity(activity)
    worker.start()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        worker.stop()  # type: ignore[no-untyped-call]


@contextmanager
def running_engine() -> Iterator[Engine]:
    """Run an engine with the app's orchestrators and activities."""
    with (
        running_hub() as address,
        running_worker(address, ORCHESTRATORS, ACTIVITIES),
        TaskHubGrpcClient(host_address=address) as client,
        grpc.insecure_channel(address) as channel,
    ):
        yield Engine(client, stubs.TaskHubSidecarServiceStub(channel))  # type: ignore[no-untyped-call]
