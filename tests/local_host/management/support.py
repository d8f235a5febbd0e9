"""The management API over another engine: durabletask's in-memory one and a worker, by gRPC on loopback."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent import futures
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import durabletask.internal.orchestrator_service_pb2 as pb
import durabletask.internal.orchestrator_service_pb2_grpc as pb_grpc
import grpc
import httpx
from durabletask.entities import DurableEntity
from durabletask.task import ActivityContext, OrchestrationContext
from durabletask.testing import InMemoryOrchestrationBackend
from durabletask.worker import TaskHubGrpcWorker
from starlette.applications import Starlette

from local_host.management import management_routes

PREFIX = "/runtime/webhooks/durabletask"
ORIGIN = "http://localhost:7071"
HUB = "TestHub"
QUERY = f"taskHub={HUB}&connection=Storage"
SECOND = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,7})?Z")
JSON = {"Content-Type": "application/json"}
OPERATIONS = ["terminate", "suspend", "resume", "rewind", "restart"]

BAD_FILTERS = [
    ("runtimeStatus=Complete", "Complete"),
    ("runtimeStatus=completed", "completed"),
    ("runtimeStatus=Completed,1", "1"),
    ("createdTimeFrom=yesterday", "createdTimeFrom"),
    ("createdTimeFrom=2024-13-01", "createdTimeFrom"),
    ("createdTimeFrom=2024-01-01T00:00:00+00:00", "createdTimeFrom"),
    ("createdTimeFrom=0000-01-01", "createdTimeFrom"),
    ("createdTimeFrom=0001-01-01T00:00:00%2B14:00", "createdTimeFrom"),
    ("createdTimeFrom=2024-01-01&createdTimeFrom=2024-01-02", "createdTimeFrom"),
    ("createdTimeFrom=2024-01-01&createdTimeTo=x", "createdTimeTo"),
]

# The generated gRPC module and the worker's start and stop carry no types.
add_servicer: Any = pb_grpc.add_TaskHubSidecarServiceServicer_to_server
new_stub: Any = pb_grpc.TaskHubSidecarServiceStub
_flaky_runs: dict[str, int] = {}


def echo(_context: OrchestrationContext, payload: Any) -> Any:
    return payload


def gate(context: OrchestrationContext, _payload: Any) -> Any:
    context.set_custom_status({"stage": "waiting"})
    value = yield context.wait_for_external_event("go")
    return {"got": value}


def plain_gate(context: OrchestrationContext, _payload: Any) -> Any:
    yield context.wait_for_external_event("go")


def broken(_context: OrchestrationContext, _payload: Any) -> Any:
    raise ValueError("the reactor is cold")


def not_a_number(_context: OrchestrationContext, _payload: Any) -> Any:
    return float("nan")


def calling(context: OrchestrationContext, payload: Any) -> Any:
    return (yield context.call_activity(double, input=payload))


def flaky(context: OrchestrationContext, payload: Any) -> Any:
    return (yield context.call_activity(second_time_lucky, input=payload))


def double(_context: ActivityContext, payload: int) -> int:
    return payload * 2


def second_time_lucky(_context: ActivityContext, payload: str) -> str:
    _flaky_runs[payload] = _flaky_runs.get(payload, 0) + 1
    if _flaky_runs[payload] == 1:
        raise RuntimeError("not yet")
    return "lucky"


class Counter(DurableEntity):
    def add(self, amount: Any) -> None:
        self.set_state({"last": amount})


ORCHESTRATORS = [echo, gate, plain_gate, broken, not_a_number, calling, flaky]
NAMES = [function.__name__ for function in ORCHESTRATORS]


@dataclass(frozen=True)
class Api:
    app: Starlette
    client: httpx.AsyncClient
    stub: Any

    async def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        return await self.client.request(method, PREFIX + path, **options)

    async def start(self, name: str, payload: Any = None, instance_id: str = "") -> str:
        instance_id = instance_id or uuid4().hex
        answer = await self.call(
            "POST", f"/orchestrators/{name}/{quote(instance_id, safe='')}", content=json.dumps(payload)
        )
        assert answer.status_code == 202, answer.text
        return instance_id

    async def running(self, name: str, payload: Any = None, instance_id: str = "") -> str:
        instance_id = await self.start(name, payload, instance_id)
        await self.stub.WaitForInstanceStart(pb.GetInstanceRequest(instanceId=instance_id), timeout=5)
        return instance_id

    async def wait(self, instance_id: str) -> pb.OrchestrationState:
        found = await self.stub.WaitForInstanceCompletion(
            pb.GetInstanceRequest(instanceId=instance_id, getInputsAndOutputs=True), timeout=5
        )
        state: pb.OrchestrationState = found.orchestrationState
        return state

    async def finished(self, name: str, payload: Any = None, instance_id: str = "") -> str:
        instance_id = await self.start(name, payload, instance_id)
        await self.wait(instance_id)
        return instance_id

    async def until(self, path: str, holds: Callable[[httpx.Response], bool]) -> httpx.Response:
        async with asyncio.timeout(5):
            while True:
                answer = await self.call("GET", path)
                if holds(answer):
                    return answer
                await asyncio.sleep(0.02)


@contextmanager
def serving(backend: Any) -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=10))
    add_servicer(backend, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        if isinstance(backend, InMemoryOrchestrationBackend):
            backend.stop()
        server.stop(0).wait()


@contextmanager
def working(address: str) -> Iterator[None]:
    worker: Any = TaskHubGrpcWorker(host_address=address)
    for orchestrator in ORCHESTRATORS:
        worker.add_orchestrator(orchestrator)
    worker.add_activity(double)
    worker.add_activity(second_time_lucky)
    worker.add_entity(Counter)
    worker.start()
    try:
        yield
    finally:
        worker.stop()


@asynccontextmanager
async def connected(address: str, **options: Any) -> AsyncIterator[Api]:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = new_stub(channel)
        settings = {"task_hub": HUB, "orchestrator_names": NAMES, "entity_names": ["counter"]} | options
        app = Starlette(routes=management_routes(stub, **settings))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
            yield Api(app, client, stub)


def check_status(instance_id: str, origin: str = ORIGIN) -> dict[str, str]:
    instance = f"{origin}{PREFIX}/instances/{quote(instance_id, safe='')}"
    return {
        "id": instance_id,
        "statusQueryGetUri": f"{instance}?{QUERY}",
        "sendEventPostUri": f"{instance}/raiseEvent/{{eventName}}?{QUERY}",
        "terminatePostUri": f"{instance}/terminate?reason={{text}}&{QUERY}",
        "purgeHistoryDeleteUri": f"{instance}?{QUERY}",
        "restartPostUri": f"{instance}/restart?{QUERY}",
        "suspendPostUri": f"{instance}/suspend?reason={{text}}&{QUERY}",
        "resumePostUri": f"{instance}/resume?reason={{text}}&{QUERY}",
    }


def without_times(status: dict[str, Any]) -> dict[str, Any]:
    assert SECOND.fullmatch(status["createdTime"])
    assert SECOND.fullmatch(status["lastUpdatedTime"])
    return {name: value for name, value in status.items() if name not in ("createdTime", "lastUpdatedTime")}


def bare(answer: httpx.Response, status: int) -> None:
    assert (answer.status_code, answer.content) == (status, b"")


def told(answer: httpx.Response, status: int, words: str) -> None:
    body = answer.json()
    assert answer.status_code == status, answer.text
    assert list(body) == ["Message"]
    assert words in body["Message"]


def told_alone(answer: httpx.Response, status: int, words: str) -> None:
    assert answer.status_code == status, answer.text
    assert isinstance(answer.json(), str)
    assert words in answer.json()
