"""The service as a whole: who is let in, what is said to those who are not, and calls that make no sense."""

import base64
import json
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import durabletask.internal.orchestrator_service_pb2 as pb
import durabletask.internal.orchestrator_service_pb2_grpc as stubs
import grpc
import pytest
from google.protobuf import empty_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.wrappers_pb2 import StringValue

from local_host.task_hub import stream
from local_host.testing import HubControl, running_hub
from tests.local_host.task_hub.support import PATIENCE, hand_worker, refused, stub_of

STREAMS = ("GetWorkItems", "StreamInstanceHistory")

REQUESTS: dict[str, Any] = {
    "Hello": empty_pb2.Empty(),
    "StartInstance": pb.CreateInstanceRequest(name="any", instanceId="guest"),
    "GetInstance": pb.GetInstanceRequest(instanceId="guest"),
    "RewindInstance": pb.RewindInstanceRequest(instanceId="guest"),
    "RestartInstance": pb.RestartInstanceRequest(instanceId="guest"),
    "WaitForInstanceStart": pb.GetInstanceRequest(instanceId="guest"),
    "WaitForInstanceCompletion": pb.GetInstanceRequest(instanceId="guest"),
    "RaiseEvent": pb.RaiseEventRequest(instanceId="guest", name="any"),
    "TerminateInstance": pb.TerminateRequest(instanceId="guest"),
    "SuspendInstance": pb.SuspendRequest(instanceId="guest"),
    "ResumeInstance": pb.ResumeRequest(instanceId="guest"),
    "QueryInstances": pb.QueryInstancesRequest(),
    "ListInstanceIds": pb.ListInstanceIdsRequest(),
    "PurgeInstances": pb.PurgeInstancesRequest(instanceId="guest"),
    "GetWorkItems": pb.GetWorkItemsRequest(),
    "CompleteActivityTask": pb.ActivityResponse(),
    "CompleteOrchestratorTask": pb.OrchestratorResponse(),
    "CompleteEntityTask": pb.EntityBatchResult(),
    "StreamInstanceHistory": pb.StreamInstanceHistoryRequest(instanceId="guest"),
    "CreateTaskHub": pb.CreateTaskHubRequest(recreateIfExists=True),
    "DeleteTaskHub": pb.DeleteTaskHubRequest(),
    "SignalEntity": pb.SignalEntityRequest(instanceId="@guest@1", name="any"),
    "GetEntity": pb.GetEntityRequest(instanceId="@guest@1"),
    "QueryEntities": pb.QueryEntitiesRequest(),
    "CleanEntityStorage": pb.CleanEntityStorageRequest(),
    "AbandonTaskActivityWorkItem": pb.AbandonActivityTaskRequest(),
    "AbandonTaskOrchestratorWorkItem": pb.AbandonOrchestrationTaskRequest(),
    "AbandonTaskEntityWorkItem": pb.AbandonEntityTaskRequest(),
    "SkipGracefulOrchestrationTerminations": pb.SkipGracefulOrchestrationTerminationsRequest(),
}


@pytest.fixture(scope="module")
def hub() -> Iterator[HubControl]:
    """A hub without a worker."""
    with running_hub() as hub:
        yield hub


def _call(stub: Any, name: str) -> Any:
    answer = getattr(stub, name)(REQUESTS[name], timeout=PATIENCE)
    return list(answer) if name in STREAMS else answer


def test_the_requests_below_are_all_that_the_service_has() -> None:
    service: Any = stubs.TaskHubSidecarServiceServicer
    assert {name for name in vars(service) if name[0] != "_"} == set(REQUESTS)


@pytest.mark.parametrize("name", REQUESTS)
def test_a_call_without_the_credential_is_refused(hub: HubControl, name: str) -> None:
    with stub_of(hub, metadata=[]) as stub, refused(grpc.StatusCode.UNAUTHENTICATED):
        _call(stub, name)


@pytest.mark.parametrize("name", REQUESTS)
def test_a_call_with_a_wrong_credential_is_refused(hub: HubControl, name: str) -> None:
    wrong = hub.hub.credential[:-1] + ("A" if hub.hub.credential[-1] != "A" else "B")
    with stub_of(hub, metadata=[("taskhub", wrong)]) as stub, refused(grpc.StatusCode.UNAUTHENTICATED):
        _call(stub, name)


@pytest.mark.parametrize(
    "metadata",
    [[("taskhub", "")], [("taskhub", "default")], [("authorization", "Bearer x")], [("taskhub-bin", b"\xff\x00")]],
    ids=["empty", "name only", "another header", "binary"],
)
def test_other_metadata_is_no_credential(hub: HubControl, metadata: list[tuple[str, Any]]) -> None:
    with stub_of(hub, metadata=[]) as stub, refused(grpc.StatusCode.UNAUTHENTICATED):
        stub.Hello(empty_pb2.Empty(), metadata=metadata)


def test_nothing_that_strangers_asked_for_has_happened(hub: HubControl) -> None:
    hub.start("any", instance_id="resident")
    for metadata in ([], [("taskhub", "default")]):
        with stub_of(hub, metadata=metadata) as stub:
            for name in ("StartInstance", "CreateTaskHub", "DeleteTaskHub", "SignalEntity"):
                with pytest.raises(grpc.RpcError):
                    _call(stub, name)
    assert [each.instance_id for each in hub.client.get_all_orchestration_states()] == ["resident"]
    assert hub.client.get_all_entities() == []


def test_the_credential_opens_the_hub(hub: HubControl) -> None:
    with stub_of(hub) as stub:
        assert stub.Hello(empty_pb2.Empty()) == empty_pb2.Empty()


def test_every_hub_has_a_credential_of_its_own(hub: HubControl) -> None:
    with running_hub() as other:
        assert other.hub.credential != hub.hub.credential
        with stub_of(other, metadata=hub.hub.metadata) as stub, refused(grpc.StatusCode.UNAUTHENTICATED):
            stub.Hello(empty_pb2.Empty())


def test_an_unknown_method_is_told_to_be_unknown(hub: HubControl) -> None:
    with grpc.insecure_channel(hub.hub.address) as channel:
        call: Any = channel.unary_unary("/TaskHubSidecarService/Mystery")
        with refused(grpc.StatusCode.UNIMPLEMENTED):
            call(b"", metadata=hub.hub.metadata)


def test_the_hub_listens_on_loopback_only(hub: HubControl) -> None:
    host, port = hub.hub.address.rsplit(":", 1)
    assert host == "127.0.0.1"
    with socket.create_connection((host, int(port)), timeout=PATIENCE):
        pass
    for other in ("127.0.0.2", "::1"):
        with pytest.raises(OSError, match=r".+"), socket.create_connection((other, int(port)), timeout=PATIENCE):
            pass


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("RaiseEvent", grpc.StatusCode.NOT_FOUND),
        ("SuspendInstance", grpc.StatusCode.NOT_FOUND),
        ("ResumeInstance", grpc.StatusCode.NOT_FOUND),
        ("RewindInstance", grpc.StatusCode.NOT_FOUND),
        ("RestartInstance", grpc.StatusCode.NOT_FOUND),
        ("StreamInstanceHistory", grpc.StatusCode.NOT_FOUND),
    ],
)
def test_an_instance_that_is_not_there_is_told(hub: HubControl, name: str, code: grpc.StatusCode) -> None:
    with stub_of(hub) as stub, refused(code):
        _call(stub, name)


@pytest.mark.parametrize(
    "request_",
    [
        pb.CreateInstanceRequest(name=""),
        pb.CreateInstanceRequest(name="any", instanceId="@counter@1"),
        pb.CreateInstanceRequest(name="any", instanceId="@"),
        pb.CreateInstanceRequest(name="any", instanceId="x" * 1001),
        pb.CreateInstanceRequest(name="any", scheduledStartTimestamp=Timestamp(seconds=2**62)),
        pb.CreateInstanceRequest(name="any", scheduledStartTimestamp=Timestamp(nanos=-5)),
    ],
    ids=["no name", "id of an entity", "at", "long id", "time beyond time", "odd nanos"],
)
def test_an_instance_that_cannot_be_is_not_started(hub: HubControl, request_: pb.CreateInstanceRequest) -> None:
    before = len(hub.client.get_all_orchestration_states())
    with stub_of(hub) as stub, refused(grpc.StatusCode.INVALID_ARGUMENT):
        stub.StartInstance(request_)
    assert len(hub.client.get_all_orchestration_states()) == before


@pytest.mark.parametrize("entity_id", ["", "counter", "@counter", "counter@1", "@@", "@@1", "@counter@"])
def test_a_signal_to_what_is_no_entity_is_refused(hub: HubControl, entity_id: str) -> None:
    with stub_of(hub) as stub, refused(grpc.StatusCode.INVALID_ARGUMENT):
        stub.SignalEntity(pb.SignalEntityRequest(instanceId=entity_id, name="add"))


def test_an_event_without_a_name_is_refused(hub: HubControl) -> None:
    instance = hub.start("any")
    with stub_of(hub) as stub, refused(grpc.StatusCode.INVALID_ARGUMENT):
        stub.RaiseEvent(pb.RaiseEventRequest(instanceId=instance))


def _token(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


TOKENS = [
    "abc",
    "é",
    "0",
    _token("x"),
    _token([]),
    _token([1, 2, 3]),
    _token([None]),
    _token([1.5]),
    _token([True]),
    _token([2**63]),
    _token([[1], [2]]),
    _token([1, "\ud800"]),
    _token(["\ud800"]),
    base64.urlsafe_b64encode(b"[" * 100_000).decode(),
    base64.urlsafe_b64encode(b"\xff\xfe").decode(),
    base64.urlsafe_b64encode(b'{"id": 1}').decode(),
]


@pytest.mark.parametrize("token", TOKENS, ids=range(len(TOKENS)))
def test_a_token_that_the_hub_did_not_give_is_refused(hub: HubControl, token: str) -> None:
    given = StringValue(value=token)
    with stub_of(hub) as stub:
        with refused(grpc.StatusCode.INVALID_ARGUMENT):
            stub.QueryInstances(pb.QueryInstancesRequest(query=pb.InstanceQuery(continuationToken=given)))
        with refused(grpc.StatusCode.INVALID_ARGUMENT):
            stub.ListInstanceIds(pb.ListInstanceIdsRequest(lastInstanceKey=given))
        with refused(grpc.StatusCode.INVALID_ARGUMENT):
            stub.QueryEntities(pb.QueryEntitiesRequest(query=pb.EntityQuery(continuationToken=given)))


BEYOND = Timestamp(seconds=-(2**62))


@pytest.mark.parametrize(
    ("name", "request_"),
    [
        ("QueryInstances", pb.QueryInstancesRequest(query=pb.InstanceQuery(createdTimeFrom=BEYOND))),
        ("QueryInstances", pb.QueryInstancesRequest(query=pb.InstanceQuery(createdTimeTo=BEYOND))),
        ("ListInstanceIds", pb.ListInstanceIdsRequest(completedTimeFrom=BEYOND)),
        ("ListInstanceIds", pb.ListInstanceIdsRequest(completedTimeTo=BEYOND)),
        ("QueryEntities", pb.QueryEntitiesRequest(query=pb.EntityQuery(lastModifiedFrom=BEYOND))),
        ("QueryEntities", pb.QueryEntitiesRequest(query=pb.EntityQuery(lastModifiedTo=BEYOND))),
        ("PurgeInstances", pb.PurgeInstancesRequest(purgeInstanceFilter=pb.PurgeInstanceFilter(createdTimeTo=BEYOND))),
        ("SignalEntity", pb.SignalEntityRequest(instanceId="@a@b", name="add", scheduledTime=BEYOND)),
    ],
)
def test_a_time_that_is_none_is_refused(hub: HubControl, name: str, request_: Any) -> None:
    with stub_of(hub) as stub, refused(grpc.StatusCode.INVALID_ARGUMENT):
        getattr(stub, name)(request_)


def test_the_first_and_the_last_of_times_are_times(hub: HubControl) -> None:
    first, last = Timestamp(), Timestamp()
    first.FromDatetime(datetime.min.replace(tzinfo=UTC))
    last.FromDatetime(datetime.max.replace(tzinfo=UTC))
    hub.start("any")
    with stub_of(hub) as stub:
        found = stub.QueryInstances(
            pb.QueryInstancesRequest(query=pb.InstanceQuery(createdTimeFrom=first, createdTimeTo=last))
        )
    assert found.orchestrationState


@pytest.mark.parametrize("seconds", [0, -5, 2**55])
def test_a_purge_may_take_any_time(hub: HubControl, seconds: int) -> None:
    instance = hub.start("any")
    hub.client.terminate_orchestration(instance)
    wanted = pb.PurgeInstanceFilter()
    wanted.timeout.seconds = seconds
    with stub_of(hub) as stub:
        answer = stub.PurgeInstances(pb.PurgeInstancesRequest(purgeInstanceFilter=wanted))
    assert answer.isComplete.value
    assert hub.client.get_orchestration_state(instance) is None


def test_a_worker_without_work_hears_that_the_hub_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PING_AFTER", 0.05)
    with running_hub() as hub, hand_worker(hub) as worker:
        assert worker.take().HasField("healthPing")
        assert worker.take().HasField("healthPing")
        instance = hub.start("any")
        while (item := worker.take()).HasField("healthPing"):
            pass
        assert item.orchestratorRequest.instanceId == instance


def test_a_worker_hears_of_the_hub_well_before_it_gives_it_up() -> None:
    given_up_after = timedelta(seconds=120)  # durabletask's own worker, unless it is told otherwise
    assert timedelta(seconds=stream.PING_AFTER) * 2 <= given_up_after


def test_a_payload_of_a_megabyte_and_more_comes_in_and_out(hub: HubControl) -> None:
    payload = "ü" * 600_000
    instance = hub.start("any", payload)
    state = hub.client.get_orchestration_state(instance)
    assert state is not None
    assert json.loads(state.serialized_input or "") == payload


@pytest.mark.parametrize(
    "instance_id", ["ü-Ω-漢字-🎉", "with space", "a/b?c#d%20", "'; DROP TABLE instances; --", "x" * 1000, "%_*", " "]
)
def test_an_id_may_have_any_characters(hub: HubControl, instance_id: str) -> None:
    assert hub.start("any", instance_id=instance_id) == instance_id
    state = hub.client.get_orchestration_state(instance_id)
    assert state is not None
    assert state.instance_id == instance_id
    hub.client.terminate_orchestration(instance_id)
    assert hub.client.purge_orchestration(instance_id).deleted_instance_count == 1
    assert hub.client.get_orchestration_state(instance_id) is None
