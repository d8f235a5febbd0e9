"""A task hub that fails, or changes under a request."""

import logging
from typing import Any

import durabletask.internal.orchestrator_service_pb2 as pb
import grpc
import pytest
from durabletask.testing import InMemoryOrchestrationBackend

from tests.local_host.management.support import OPERATIONS, bare, connected, serving, told

pytestmark = pytest.mark.anyio


EVERY_CALL = [
    ("GET", "/instances/x"),
    ("GET", "/instances"),
    ("DELETE", "/instances/x"),
    ("DELETE", "/instances?createdTimeFrom=2000-01-01"),
    ("POST", "/instances/x/raiseEvent/go"),
    *(("POST", f"/instances/x/{operation}") for operation in OPERATIONS),
    ("POST", "/orchestrators/echo"),
    ("GET", "/entities/counter/k"),
    ("GET", "/entities"),
    ("POST", "/entities/counter/k"),
]


SECRET = "AccessKey=hunter2"


class FailingBackend:
    """An engine that fails every call with a status, whose details hold what nobody may see."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    def __getattr__(self, _name: str) -> Any:
        def fail(_request: Any, context: Any) -> None:
            context.abort(self._code, SECRET)

        return fail


async def test_a_hub_out_of_reach_is_unavailable(caplog: pytest.LogCaptureFixture) -> None:
    with serving(InMemoryOrchestrationBackend()) as address:
        pass
    async with connected(address) as api:
        for method, path in EVERY_CALL:
            told(await api.call(method, path), 503, "The task hub cannot be reached.")
    assert "UNAVAILABLE" in caplog.text


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, 400, "does not take"),
        (grpc.StatusCode.NOT_FOUND, 404, "no such instance"),
        (grpc.StatusCode.ALREADY_EXISTS, 409, "already"),
        (grpc.StatusCode.INTERNAL, 500, "could not be processed"),
        (grpc.StatusCode.UNKNOWN, 500, "could not be processed"),
        (grpc.StatusCode.UNIMPLEMENTED, 501, "cannot do this"),
        (grpc.StatusCode.UNAUTHENTICATED, 502, "credentials"),
        (grpc.StatusCode.PERMISSION_DENIED, 502, "roles"),
        (grpc.StatusCode.ABORTED, 503, "try again"),
        (grpc.StatusCode.CANCELLED, 503, "try again"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 503, "too much"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 504, "in time"),
    ],
)
async def test_each_failure_is_told_apart_without_the_words_of_the_hub(
    caplog: pytest.LogCaptureFixture, code: grpc.StatusCode, status: int, words: str
) -> None:
    with caplog.at_level(logging.DEBUG), serving(FailingBackend(code)) as address:
        async with connected(address) as api:
            for method, path in EVERY_CALL:
                answer = await api.call(method, path)
                told(answer, status, words)
                assert SECRET not in answer.text
    records = [record for record in caplog.records if record.name == "local_host.management"]
    assert len(records) == (len(EVERY_CALL) if status >= 500 else 0)
    assert all(code.name in record.getMessage() and not record.exc_info for record in records)
    assert SECRET not in "".join(map(str, records))


class PartialBackend(InMemoryOrchestrationBackend):
    """The real backend, which cannot rewind nor tell a history."""

    def RewindInstance(self, request: pb.RewindInstanceRequest, context: Any) -> Any:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, SECRET)

    def StreamInstanceHistory(self, request: pb.StreamInstanceHistoryRequest, context: Any) -> Any:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, SECRET)


async def test_what_a_hub_cannot_do_is_not_implemented_while_the_rest_works() -> None:
    backend = PartialBackend()
    with serving(backend) as address:
        async with connected(address) as api:
            await api.start("gate", instance_id="x")
            backend._instances["x"].status = pb.ORCHESTRATION_STATUS_FAILED
            told(await api.call("POST", "/instances/x/rewind"), 501, "cannot do this")
            told(await api.call("GET", "/instances/x?showHistory=true"), 501, "cannot do this")
            assert (await api.call("GET", "/instances/x")).status_code == 200


class RacingBackend(InMemoryOrchestrationBackend):
    """The real backend, in which instances change between a look at them and what follows."""

    def RaiseEvent(self, request: pb.RaiseEventRequest, context: Any) -> pb.RaiseEventResponse:
        self._instances.clear()
        return super().RaiseEvent(request, context)

    def PurgeInstances(self, request: pb.PurgeInstancesRequest, context: Any) -> pb.PurgeInstancesResponse:
        self._instances.clear()
        return super().PurgeInstances(request, context)

    def RewindInstance(self, request: pb.RewindInstanceRequest, context: Any) -> pb.RewindInstanceResponse:
        self._instances[request.instanceId].status = pb.ORCHESTRATION_STATUS_RUNNING
        return super().RewindInstance(request, context)


async def test_an_instance_that_changes_under_the_request() -> None:
    backend = RacingBackend()
    with serving(backend) as address:
        async with connected(address) as api:
            await api.start("gate", instance_id="x")
            told(await api.call("POST", "/instances/x/raiseEvent/go", json=1), 404, "no such instance")
            await api.start("gate", instance_id="x")
            backend._instances["x"].status = pb.ORCHESTRATION_STATUS_FAILED
            told(await api.call("POST", "/instances/x/rewind"), 410, "state")
            backend._instances["x"].status = pb.ORCHESTRATION_STATUS_FAILED
            bare(await api.call("DELETE", "/instances/x"), 404)


async def test_an_unforeseen_error_is_logged_and_told_to_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async with connected("127.0.0.1:1", orchestrator_names=None) as api:
        answer = await api.call("POST", "/orchestrators/echo")
    assert (answer.status_code, answer.json()) == (500, {"Message": "The request could not be processed."})
    assert "TypeError" in caplog.text
