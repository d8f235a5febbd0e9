"""The management API against a real in-memory task hub and a real worker, over gRPC on loopback."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
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
import pytest
from durabletask.entities import DurableEntity
from durabletask.task import ActivityContext, OrchestrationContext
from durabletask.testing import InMemoryOrchestrationBackend
from durabletask.worker import TaskHubGrpcWorker
from google.protobuf import timestamp_pb2, wrappers_pb2
from starlette.applications import Starlette

from local_host.management import MAX_BODY_BYTES, management_routes
from local_host.management_shapes import history_payload

pytestmark = pytest.mark.anyio

PREFIX = "/runtime/webhooks/durabletask"
ORIGIN = "http://localhost:7071"
HUB = "TestHub"
QUERY = f"taskHub={HUB}&connection=Storage"
SECOND = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,7})?Z")
JSON = {"Content-Type": "application/json"}
OPERATIONS = ["terminate", "suspend", "resume", "rewind", "restart"]

# The generated gRPC module and the worker's start and stop carry no types.
_add_servicer: Any = pb_grpc.add_TaskHubSidecarServiceServicer_to_server
_new_stub: Any = pb_grpc.TaskHubSidecarServiceStub
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
    _add_servicer(backend, server)
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
        stub = _new_stub(channel)
        settings = {"task_hub": HUB, "orchestrator_names": NAMES, "entity_names": ["counter"]} | options
        app = Starlette(routes=management_routes(stub, **settings))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
            yield Api(app, client, stub)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    with serving(InMemoryOrchestrationBackend()) as address, working(address):
        yield address


@pytest.fixture
async def api(hub: str, anyio_backend: str) -> AsyncIterator[Api]:
    """A hub with a worker, shared by the tests of this module."""
    async with connected(hub) as api:
        yield api


@pytest.fixture(scope="module")
def settled() -> Iterator[str]:
    """The address of a hub with three instances: "done" completed, "dead" failed, "open" runs."""
    with serving(InMemoryOrchestrationBackend()) as address, working(address):
        with grpc.insecure_channel(address) as channel:
            stub = _new_stub(channel)
            for name, instance_id in (("echo", "done"), ("broken", "dead"), ("gate", "open")):
                stub.StartInstance(pb.CreateInstanceRequest(instanceId=instance_id, name=name))
                stub.WaitForInstanceStart(pb.GetInstanceRequest(instanceId=instance_id), timeout=5)
        yield address


@pytest.fixture
async def idle(anyio_backend: str) -> AsyncIterator[Api]:
    """An empty hub without a worker: what is started stays pending."""
    with serving(InMemoryOrchestrationBackend()) as address:
        async with connected(address) as api:
            yield api


@pytest.fixture
async def fresh(anyio_backend: str) -> AsyncIterator[Api]:
    """An empty hub with a worker of its own."""
    with serving(InMemoryOrchestrationBackend()) as address, working(address):
        async with connected(address) as api:
            yield api


def check_status(instance_id: str, origin: str = ORIGIN) -> dict[str, str]:
    instance = f"{origin}{PREFIX}/instances/{quote(instance_id, safe='')}"
    return {
        "id": instance_id,
        "statusQueryGetUri": f"{instance}?{QUERY}",
        "sendEventPostUri": f"{instance}/raiseEvent/{{eventName}}?{QUERY}",
        "terminatePostUri": f"{instance}/terminate?reason={{text}}&{QUERY}",
        "rewindPostUri": f"{instance}/rewind?reason={{text}}&{QUERY}",
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


# --- start -----------------------------------------------------------------------------------------------


async def test_start_answers_with_the_management_urls(api: Api) -> None:
    answer = await api.call("POST", "/orchestrators/echo/start-1", content='{"a": 1}')
    assert answer.status_code == 202
    assert answer.headers["location"] == f"{ORIGIN}{PREFIX}/instances/start-1?{QUERY}"
    assert answer.headers["retry-after"] == "10"
    assert answer.json() == check_status("start-1")
    assert (await api.wait("start-1")).input.value == '{"a": 1}'


async def test_start_without_an_id_makes_one(api: Api) -> None:
    first, second = [(await api.call("POST", "/orchestrators/echo")).json()["id"] for _ in range(2)]
    assert re.fullmatch("[0-9a-f]{32}", first)
    assert first != second
    state = await api.wait(first)
    assert state.orchestrationStatus == pb.ORCHESTRATION_STATUS_COMPLETED


async def test_urls_take_the_host_of_the_request_and_ignore_forwarded_headers(idle: Api) -> None:
    headers = {"Host": "[::1]:9", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"}
    answer = await idle.call("POST", "/orchestrators/echo/h", headers=headers)
    assert answer.json() == check_status("h", "http://[::1]:9")


@pytest.mark.parametrize("instance_id", ["a:b.c-d_e", "пример", "100% sure", "a+b", "日本:1", "x" * 100])
async def test_ids_are_percent_decoded_and_their_urls_lead_back(idle: Api, instance_id: str) -> None:
    answer = await idle.call("POST", f"/orchestrators/echo/{quote(instance_id, safe='')}")
    assert answer.status_code == 202
    assert answer.json() == check_status(instance_id)
    status = await idle.client.get(answer.json()["statusQueryGetUri"])
    assert status.status_code == 202
    assert status.json()["instanceId"] == instance_id
    assert status.headers["location"] == answer.json()["statusQueryGetUri"]


@pytest.mark.parametrize(
    ("instance_id", "words"),
    [
        ("x" * 101, "100 characters"),
        ("a/b", "cannot hold"),
        ("/", "cannot hold"),
        ("a\\b", "cannot hold"),
        ("a#b", "cannot hold"),
        ("a?b", "cannot hold"),
        ("a\x00b", "cannot hold"),
        ("a\nb", "cannot hold"),
        ("a\x7f", "cannot hold"),
        ("a\u0085", "cannot hold"),
        ("@counter@x", "'@'"),
    ],
)
async def test_start_refuses_bad_ids(idle: Api, instance_id: str, words: str) -> None:
    told(await idle.call("POST", f"/orchestrators/echo/{quote(instance_id, safe='')}"), 400, words)
    assert (await idle.call("GET", "/instances")).json() == []


async def test_a_path_that_is_not_utf8_is_refused(idle: Api) -> None:
    told(await idle.call("GET", "/instances/%ff%fe"), 400, "percent-encoded UTF-8")


async def test_start_of_an_unknown_function_lists_the_known_ones(idle: Api) -> None:
    answer = await idle.call("POST", "/orchestrators/nope")
    told(answer, 400, "'nope'")
    assert all(f"'{name}'" in answer.json()["Message"] for name in NAMES)


async def test_start_when_no_function_is_known(hub: str) -> None:
    async with connected(hub, orchestrator_names=[]) as api:
        told(await api.call("POST", "/orchestrators/echo"), 400, "none")


async def test_function_names_are_matched_in_any_case(idle: Api) -> None:
    assert (await idle.call("POST", "/orchestrators/ECHO/case")).status_code == 202
    assert (await idle.call("GET", "/instances/case")).json()["name"] == "echo"


async def test_start_refuses_an_id_in_use_and_takes_over_a_finished_one(api: Api) -> None:
    used = await api.running("gate")
    told(await api.call("POST", f"/orchestrators/gate/{used}"), 409, "already")
    done = await api.finished("echo", "first")
    assert (await api.call("POST", f"/orchestrators/echo/{done}", content='"second"')).status_code == 202
    assert (await api.wait(done)).output.value == '"second"'


@pytest.mark.parametrize(
    "content",
    [b"{", b"nope", b"{'a': 1}", b"NaN", b"-Infinity", b"1e999", b"\xff", b"[" * 200_000, b'{"a":1} x'],
)
async def test_start_refuses_what_is_not_json(idle: Api, content: bytes) -> None:
    told(await idle.call("POST", "/orchestrators/echo", content=content), 400, "not valid JSON")
    assert (await idle.call("GET", "/instances")).json() == []


async def test_start_passes_the_json_text_on_unchanged(api: Api) -> None:
    text = '{ "b" : 1.0,\n"a":"\\u00e9é" }'
    answer = await api.call("POST", "/orchestrators/echo/verbatim", content=text.encode())
    assert answer.status_code == 202
    assert (await api.wait("verbatim")).input.value == text


@pytest.mark.parametrize("path", ["/orchestrators/echo", "/instances/{id}/raiseEvent/go", "/entities/counter/k"])
async def test_a_body_over_the_limit_is_refused_while_it_is_read(idle: Api, path: str) -> None:
    await idle.start("gate", instance_id="big")
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 1
            yield b"1" * (MAX_BODY_BYTES // 4)

    told(await idle.call("POST", path.format(id="big"), content=endless(), headers=JSON), 413, "exceeds")
    assert sent == 5


async def test_a_body_of_exactly_the_limit_is_taken(idle: Api) -> None:
    content = b'"' + b"x" * (MAX_BODY_BYTES - 2) + b'"'
    assert (await idle.call("POST", "/orchestrators/echo", content=content)).status_code == 202
    assert (await idle.call("POST", "/orchestrators/echo", content=content + b" ")).status_code == 413


async def test_start_passes_the_version_on() -> None:
    backend = InMemoryOrchestrationBackend()
    with serving(backend) as address:
        async with connected(address) as api:
            await api.call("POST", "/orchestrators/echo/versioned?version=2.1")
            await api.call("POST", "/orchestrators/echo/plain")
    assert (backend._instances["versioned"].version, backend._instances["plain"].version) == ("2.1", None)


async def test_start_can_wait_for_the_output(api: Api) -> None:
    answer = await api.call("POST", "/orchestrators/calling?timeout=5&pollingInterval=0.05", content="21")
    assert (answer.status_code, answer.json()) == (200, 42)


async def test_start_that_waits_for_a_failure_answers_with_the_status(api: Api) -> None:
    query = "timeout=5&pollingInterval=0.05&returnInternalServerErrorOnFailure=true"
    answer = await api.call("POST", f"/orchestrators/broken?{query}")
    assert answer.status_code == 200
    assert answer.json()["runtimeStatus"] == "Failed"


async def test_start_that_waits_in_vain_answers_with_the_urls(api: Api) -> None:
    answer = await api.call("POST", "/orchestrators/gate/slow?timeout=0.2&pollingInterval=0.1")
    assert (answer.status_code, answer.json()) == (202, check_status("slow"))


@pytest.mark.parametrize("query", ["timeout=5", "pollingInterval=5", "timeout=&pollingInterval=1"])
async def test_start_waits_only_with_both_times(idle: Api, query: str) -> None:
    async with asyncio.timeout(2):
        assert (await idle.call("POST", f"/orchestrators/echo?{query}")).status_code == 202


@pytest.mark.parametrize(
    "query",
    [
        "timeout=1&pollingInterval=2",
        "timeout=x&pollingInterval=1",
        "timeout=-1&pollingInterval=-2",
        "timeout=nan&pollingInterval=nan",
        "timeout=inf&pollingInterval=1",
    ],
)
async def test_start_refuses_bad_times_before_it_starts_anything(idle: Api, query: str) -> None:
    answer = await idle.call("POST", f"/orchestrators/echo?{query}")
    assert (answer.status_code, list(answer.json())) == (400, ["Message"])
    assert (await idle.call("GET", "/instances")).json() == []


# --- status ----------------------------------------------------------------------------------------------


async def test_status_of_a_pending_instance(idle: Api) -> None:
    await idle.start("echo", {"a": 1}, "p")
    answer = await idle.call("GET", "/instances/p?code=k&showHistory=true")
    assert answer.status_code == 202
    assert answer.headers["location"] == f"{ORIGIN}{PREFIX}/instances/p?code=k&showHistory=true"
    assert answer.headers["retry-after"] == "10"
    assert without_times(answer.json()) == {
        "name": "echo",
        "instanceId": "p",
        "runtimeStatus": "Pending",
        "input": {"a": 1},
        "customStatus": None,
        "output": None,
    }


async def test_status_of_a_running_instance_shows_its_custom_status(api: Api) -> None:
    instance_id = await api.running("gate")
    answer = await api.call("GET", f"/instances/{instance_id}")
    assert answer.status_code == 202
    assert without_times(answer.json()) == {
        "name": "gate",
        "instanceId": instance_id,
        "runtimeStatus": "Running",
        "input": None,
        "customStatus": {"stage": "waiting"},
        "output": None,
    }


async def test_a_custom_status_that_was_never_set_is_null(api: Api) -> None:
    instance_id = await api.running("plain_gate")
    assert (await api.call("GET", f"/instances/{instance_id}")).json()["customStatus"] is None


async def test_status_of_a_completed_instance(api: Api) -> None:
    instance_id = await api.finished("echo", ["x", None, 1.5, "\ud800"])
    answer = await api.call("GET", f"/instances/{instance_id}")
    assert answer.status_code == 200
    assert "location" not in answer.headers
    assert "retry-after" not in answer.headers
    assert without_times(answer.json()) == {
        "name": "echo",
        "instanceId": instance_id,
        "runtimeStatus": "Completed",
        "input": ["x", None, 1.5, "\ud800"],
        "customStatus": None,
        "output": ["x", None, 1.5, "\ud800"],
    }


async def test_a_payload_that_is_not_json_is_shown_as_text(api: Api) -> None:
    instance_id = await api.finished("not_a_number")
    assert (await api.call("GET", f"/instances/{instance_id}")).json()["output"] == "NaN"


@pytest.mark.parametrize("depth", [500, 5_000, 50_000])
async def test_a_deeply_nested_payload_does_not_break_the_status(idle: Api, depth: int) -> None:
    text = "[" * depth + "]" * depth
    await idle.stub.StartInstance(
        pb.CreateInstanceRequest(instanceId="deep", name="echo", input=wrappers_pb2.StringValue(value=text))
    )
    answer = await idle.call("GET", "/instances/deep")
    assert answer.status_code == 202
    shown = re.search(r'"input": "?(\[*)', answer.text)
    assert shown is not None
    assert len(shown[1]) == depth


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 200),
        ("?returnInternalServerErrorOnFailure=true", 500),
        ("?RETURNINTERNALSERVERERRORONFAILURE=True", 500),
        ("?returnInternalServerErrorOnFailure=false", 200),
        ("?returnInternalServerErrorOnFailure=maybe", 200),
    ],
)
async def test_status_of_a_failed_instance(api: Api, query: str, status: int) -> None:
    instance_id = await api.finished("broken", 7)
    answer = await api.call("GET", f"/instances/{instance_id}{query}")
    assert answer.status_code == status
    assert without_times(answer.json()) == {
        "name": "broken",
        "instanceId": instance_id,
        "runtimeStatus": "Failed",
        "input": 7,
        "customStatus": None,
        "output": "builtins.ValueError: the reactor is cold",
    }


async def test_only_a_failure_becomes_an_internal_server_error(api: Api) -> None:
    instance_id = await api.finished("echo")
    query = "returnInternalServerErrorOnFailure=true"
    assert (await api.call("GET", f"/instances/{instance_id}?{query}")).status_code == 200


async def test_status_without_the_input_keeps_the_output(api: Api) -> None:
    instance_id = await api.finished("echo", "secret")
    status = (await api.call("GET", f"/instances/{instance_id}?showInput=FALSE")).json()
    assert (status["input"], status["output"]) == (None, "secret")


@pytest.mark.parametrize("instance_id", ["nobody", "a%2Fb", "%00", "@counter@x", "x" * 5000, "%D0%BF"])
async def test_unknown_instances_are_not_found(idle: Api, instance_id: str) -> None:
    bare(await idle.call("GET", f"/instances/{instance_id}"), 404)
    bare(await idle.call("DELETE", f"/instances/{instance_id}"), 404)
    bare(await idle.call("POST", f"/instances/{instance_id}/raiseEvent/go", json=1), 404)
    for operation in OPERATIONS:
        bare(await idle.call("POST", f"/instances/{instance_id}/{operation}"), 404)


# --- history ---------------------------------------------------------------------------------------------


def split_times(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for event in events:
        for name in ("Timestamp", "ScheduledTime"):
            assert name not in event or INSTANT.fullmatch(event[name])
    return [{n: v for n, v in event.items() if n not in ("Timestamp", "ScheduledTime")} for event in events]


async def test_history_is_left_out_unless_asked_for(api: Api) -> None:
    instance_id = await api.finished("echo")
    assert "historyEvents" not in (await api.call("GET", f"/instances/{instance_id}")).json()


async def test_history_of_an_activity_call_with_output(api: Api) -> None:
    instance_id = await api.finished("calling", 4)
    status = await api.call("GET", f"/instances/{instance_id}?showHistory=true&showHistoryOutput=true")
    assert split_times(status.json()["historyEvents"]) == [
        {"EventType": "ExecutionStarted", "FunctionName": "calling", "Input": "4"},
        {"EventType": "TaskCompleted", "Result": 8, "FunctionName": "double", "Input": "4"},
        {"EventType": "ExecutionCompleted", "OrchestrationStatus": "Completed", "Result": 8},
    ]
    assert set(status.json()["historyEvents"][1]) >= {"Timestamp", "ScheduledTime"}


async def test_history_without_input_and_output(api: Api) -> None:
    instance_id = await api.finished("calling", 4)
    status = await api.call("GET", f"/instances/{instance_id}?showHistory=true&showInput=false")
    assert split_times(status.json()["historyEvents"]) == [
        {"EventType": "ExecutionStarted", "FunctionName": "calling"},
        {"EventType": "TaskCompleted", "FunctionName": "double"},
        {"EventType": "ExecutionCompleted", "OrchestrationStatus": "Completed"},
    ]


async def test_history_of_a_failure_holds_no_stack_trace(api: Api) -> None:
    instance_id = await api.finished("flaky", uuid4().hex)
    answer = await api.call("GET", f"/instances/{instance_id}?showHistory=true&showHistoryOutput=true")
    _, failed, completed = split_times(answer.json()["historyEvents"])
    assert failed["EventType"] == "TaskFailed"
    assert failed["FunctionName"] == "second_time_lucky"
    assert failed["FailureDetails"] == {
        "ErrorType": "builtins.RuntimeError",
        "ErrorMessage": "not yet",
        "InnerFailure": None,
        "IsNonRetriable": False,
    }
    assert completed["OrchestrationStatus"] == "Failed"
    assert completed["Result"] is None
    assert "Traceback" not in answer.text
    assert ".py" not in answer.text


def test_history_marks_an_absent_result_and_hides_bookkeeping() -> None:
    events = [
        pb.HistoryEvent(orchestratorStarted=pb.OrchestratorStartedEvent()),
        pb.HistoryEvent(
            timestamp=timestamp_pb2.Timestamp(seconds=1, nanos=120_000_000),
            taskCompleted=pb.TaskCompletedEvent(taskScheduledId=404),
        ),
        pb.HistoryEvent(
            eventId=3,
            timerFired=pb.TimerFiredEvent(timerId=1, fireAt=timestamp_pb2.Timestamp(nanos=1234567)),
        ),
        pb.HistoryEvent(eventId=4, subOrchestrationInstanceCreated=pb.SubOrchestrationInstanceCreatedEvent()),
        pb.HistoryEvent(orchestratorCompleted=pb.OrchestratorCompletedEvent()),
    ]
    epoch = "1970-01-01T00:00:00Z"
    assert history_payload(events, show_input=True, show_output=True) == [
        {"EventType": "TaskCompleted", "Timestamp": "1970-01-01T00:00:01.12Z", "Result": None},
        {"EventType": "TimerFired", "Timestamp": epoch, "FireAt": "1970-01-01T00:00:00.0012345Z"},
        {"EventType": "SubOrchestrationInstanceCreated", "Timestamp": epoch},
    ]


# --- list ------------------------------------------------------------------------------------------------


async def test_list_of_an_empty_hub(idle: Api) -> None:
    for path in ("/instances", "/instances/"):
        answer = await idle.call("GET", path)
        assert (answer.status_code, answer.json()) == (200, [])
        assert "x-ms-continuation-token" not in answer.headers


async def test_list_shows_every_instance_in_full(api: Api) -> None:
    prefix = f"list-{uuid4().hex}-"
    await api.finished("echo", "in", f"{prefix}1")
    await api.running("gate", None, f"{prefix}2")
    answer = await api.call("GET", f"/instances?instanceIdPrefix={prefix}")
    assert answer.status_code == 200
    assert [without_times(status) for status in answer.json()] == [
        {
            "name": "echo",
            "instanceId": f"{prefix}1",
            "runtimeStatus": "Completed",
            "input": "in",
            "customStatus": None,
            "output": "in",
        },
        {
            "name": "gate",
            "instanceId": f"{prefix}2",
            "runtimeStatus": "Running",
            "input": None,
            "customStatus": {"stage": "waiting"},
            "output": None,
        },
    ]
    hidden = (await api.call("GET", f"/instances?instanceIdPrefix={prefix}1&showInput=false")).json()
    assert [(status["input"], status["output"]) for status in hidden] == [(None, "in")]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("runtimeStatus=Completed", ["done"]),
        ("runtimeStatus=COMPLETED, failed", ["done", "dead"]),
        ("runtimeStatus=running&runtimeStatus=Failed", ["dead", "open"]),
        ("runtimeStatus=", ["done", "dead", "open"]),
        ("runtimeStatus=Canceled", []),
        ("createdTimeFrom=2999-01-01", []),
        ("createdTimeTo=2000-01-01T00:00:00Z", []),
        (
            "createdTimeFrom=1-01-01T00:00:00.000000Z&createdTimeTo=2999-01-01T00:00:00%2B02:00",
            ["done", "dead", "open"],
        ),
        ("createdTimeFrom=&createdTimeTo=&top=", ["done", "dead", "open"]),
        ("INSTANCEIDPREFIX=d", ["done", "dead"]),
        ("instanceIdPrefix=zzz", []),
    ],
)
async def test_list_filters(settled: str, query: str, found: list[str]) -> None:
    async with connected(settled) as api:
        answer = await api.call("GET", f"/instances?{query}")
    assert [status["instanceId"] for status in answer.json()] == found


async def test_list_goes_on_from_page_to_page(idle: Api) -> None:
    for number in range(5):
        await idle.start("echo", instance_id=f"page-{number}")
    pages: list[list[str]] = []
    headers: dict[str, str] = {}
    while True:
        answer = await idle.call("GET", "/instances?top=2", headers=headers)
        pages.append([status["instanceId"] for status in answer.json()])
        if "x-ms-continuation-token" not in answer.headers:
            break
        headers = {"x-ms-continuation-token": answer.headers["x-ms-continuation-token"]}
    assert pages == [["page-0", "page-1"], ["page-2", "page-3"], ["page-4"]]


async def test_a_page_has_a_hundred_instances_by_default(idle: Api) -> None:
    for number in range(101):
        await idle.start("echo", instance_id=f"n-{number}")
    answer = await idle.call("GET", "/instances")
    assert len(answer.json()) == 100
    assert "x-ms-continuation-token" in answer.headers


async def test_an_empty_continuation_token_asks_for_the_first_page(idle: Api) -> None:
    await idle.start("echo", instance_id="only")
    answer = await idle.call("GET", "/instances", headers={"x-ms-continuation-token": ""})
    assert [status["instanceId"] for status in answer.json()] == ["only"]


def wrapped(value: Any) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


@pytest.mark.parametrize(
    "token",
    [
        "1",
        "!!!!",
        "é",
        base64.b64encode(b"2").decode(),
        base64.b64encode(b"\xff\xff").decode(),
        base64.b64encode(b"[" * 100_000).decode(),
        wrapped(["instances", "1"]) + "!",
        wrapped(["entities", "1"]),
        wrapped(["instances", 1]),
        wrapped(["instances"]),
        wrapped({"instances": "1"}),
    ],
)
async def test_a_bad_continuation_token_is_refused(idle: Api, token: str) -> None:
    headers = {"x-ms-continuation-token": token.encode("latin-1").decode("latin-1")}
    answer = await idle.call("GET", "/instances", headers=httpx.Headers(headers, encoding="latin-1"))
    told(answer, 400, "continuation token")


BAD_FILTERS = [
    ("runtimeStatus=Complete", "Complete"),
    ("runtimeStatus=Completed,1", "1"),
    ("createdTimeFrom=yesterday", "createdTimeFrom"),
    ("createdTimeFrom=2024-13-01", "createdTimeFrom"),
    ("createdTimeFrom=2024-01-01T00:00:00+00:00", "createdTimeFrom"),
    ("createdTimeFrom=0000-01-01", "createdTimeFrom"),
    ("createdTimeFrom=0001-01-01T00:00:00%2B14:00", "createdTimeFrom"),
    ("createdTimeFrom=2024-01-01&createdTimeFrom=2024-01-02", "createdTimeFrom"),
    ("createdTimeFrom=2024-01-01&createdTimeTo=x", "createdTimeTo"),
]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        *BAD_FILTERS,
        *((f"top={top}", "top") for top in ("0", "-1", "x", "1.5", "1e3", "2147483648", "\uff19", "9" * 5000)),
    ],
)
async def test_list_refuses_what_it_cannot_parse(idle: Api, query: str, words: str) -> None:
    told(await idle.call("GET", f"/instances?{query}"), 400, words)


async def test_the_largest_page_size_is_taken(idle: Api) -> None:
    assert (await idle.call("GET", "/instances?top=2147483647")).status_code == 200


# --- purge -----------------------------------------------------------------------------------------------


async def test_purge_one_instance_once(api: Api) -> None:
    instance_id = await api.finished("echo")
    answer = await api.call("DELETE", f"/instances/{instance_id}")
    assert (answer.status_code, answer.json()) == (200, {"instancesDeleted": 1})
    bare(await api.call("DELETE", f"/instances/{instance_id}"), 404)
    bare(await api.call("GET", f"/instances/{instance_id}"), 404)


async def test_purge_of_an_unfinished_instance_is_refused(api: Api) -> None:
    instance_id = await api.running("gate")
    told(await api.call("DELETE", f"/instances/{instance_id}"), 412, "Running")
    assert (await api.call("GET", f"/instances/{instance_id}")).status_code == 202


async def test_purge_by_filters_takes_finished_instances_alone(fresh: Api) -> None:
    for name in ("echo", "echo", "broken"):
        await fresh.finished(name)
    open_id = await fresh.running("gate")
    failed = await fresh.call("DELETE", "/instances?createdTimeFrom=2000-01-01&runtimeStatus=failed")
    assert (failed.status_code, failed.json()) == (200, {"instancesDeleted": 1})
    bare(await fresh.call("DELETE", "/instances?createdTimeFrom=2000-01-01&createdTimeTo=2001-01-01"), 404)
    bare(await fresh.call("DELETE", "/instances?createdTimeFrom=2000-01-01&runtimeStatus=Running"), 404)
    rest = await fresh.call("DELETE", "/instances/?createdTimeFrom=2000-01-01")
    assert rest.json() == {"instancesDeleted": 2}
    bare(await fresh.call("DELETE", "/instances?createdTimeFrom=2000-01-01"), 404)
    left = (await fresh.call("GET", "/instances")).json()
    assert [status["instanceId"] for status in left] == [open_id]


@pytest.mark.parametrize("query", ["", "createdTimeFrom=", "createdTimeTo=2024-01-01", "runtimeStatus=Failed"])
async def test_purge_by_filters_needs_a_start_time(idle: Api, query: str) -> None:
    told(await idle.call("DELETE", f"/instances?{query}"), 400, "createdTimeFrom")


@pytest.mark.parametrize(("query", "words"), [*BAD_FILTERS, ("createdTimeFrom=2024-01-01&runtimeStatus=x", "x")])
async def test_purge_deletes_nothing_on_a_bad_filter(api: Api, query: str, words: str) -> None:
    instance_id = await api.finished("echo")
    query = query if "createdTimeFrom" in query else f"createdTimeFrom=2000-01-01&{query}"
    told(await api.call("DELETE", f"/instances?{query}"), 400, words)
    assert (await api.call("GET", f"/instances/{instance_id}")).status_code == 200


# --- raise event -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "got"),
    [("", None), ("null", None), ("[1, {}]", [1, {}]), ('"é"', "é"), ("0", 0), (" false ", False)],
)
async def test_an_event_reaches_the_orchestrator(api: Api, content: str, got: Any) -> None:
    instance_id = await api.running("gate")
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    path = f"/instances/{instance_id}/RaiseEvent/go"
    bare(await api.call("POST", path, content=content.encode(), headers=headers), 202)
    assert json.loads((await api.wait(instance_id)).output.value) == {"got": got}


async def test_an_event_is_passed_on_as_it_was_written(idle: Api) -> None:
    with serving(recorder := RecordingBackend()) as address:
        async with connected(address) as api:
            await api.start("gate", instance_id="as-is")
            content = ' { "a" : 1.0 ,\n"b":"\\u00e9"}\n'
            bare(
                await api.call("POST", "/instances/as-is/raiseEvent/a%2Fb%20%D0%B6", content=content, headers=JSON),
                202,
            )
    assert [(event.name, event.input.value) for event in recorder.events] == [("a/b ж", content)]


class RecordingBackend(InMemoryOrchestrationBackend):
    """The real backend, which also remembers the events it was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[pb.RaiseEventRequest] = []

    def RaiseEvent(self, request: pb.RaiseEventRequest, context: Any) -> pb.RaiseEventResponse:
        self.events.append(request)
        return super().RaiseEvent(request, context)


@pytest.mark.parametrize(
    "media_type", [None, "", "text/plain", "application/jsonx", "application/x-www-form-urlencoded"]
)
async def test_an_event_must_be_json_by_its_content_type(idle: Api, media_type: str | None) -> None:
    await idle.start("gate", instance_id="typed")
    headers = {} if media_type is None else {"Content-Type": media_type}
    told(
        await idle.call("POST", "/instances/typed/raiseEvent/go", content="1", headers=headers),
        400,
        "application/json",
    )


@pytest.mark.parametrize("content", [b"{", b"go", b"NaN", b"\xff\xfe", b"\xef\xbb\xbf1", b"[" * 200_000, b"1" * 10_000])
async def test_an_event_must_be_json(idle: Api, content: bytes) -> None:
    await idle.start("gate", instance_id="bad")
    told(
        await idle.call("POST", "/instances/bad/raiseEvent/go", content=content, headers=JSON),
        400,
        "not valid JSON",
    )


@pytest.mark.parametrize("function", ["echo", "broken"])
async def test_a_finished_instance_takes_no_event(api: Api, function: str) -> None:
    instance_id = await api.finished(function)
    bare(await api.call("POST", f"/instances/{instance_id}/raiseEvent/go", json=1), 410)
    bare(await api.call("POST", f"/instances/{instance_id}/raiseEvent/go", content="not looked at"), 410)


# --- terminate, suspend, resume --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "output"),
    [("", None), ("?reason=", None), ("?reason=not%20wanted%3B%20%C3%A9", "not wanted; é"), ("?REASON=7", 7)],
)
async def test_terminate_keeps_the_reason_as_output(api: Api, query: str, output: Any) -> None:
    instance_id = await api.running("gate")
    bare(await api.call("POST", f"/instances/{instance_id}/Terminate{query}"), 202)
    await api.wait(instance_id)
    answer = await api.call("GET", f"/instances/{instance_id}?returnInternalServerErrorOnFailure=true")
    assert answer.status_code == 200
    assert (answer.json()["runtimeStatus"], answer.json()["output"]) == ("Terminated", output)
    bare(await api.call("POST", f"/instances/{instance_id}/terminate{query}"), 410)


async def test_suspend_and_resume(api: Api) -> None:
    instance_id = await api.running("gate")
    path = f"/instances/{instance_id}"
    bare(await api.call("POST", f"{path}/suspend?reason=lunch"), 202)
    answer = await api.until(path, lambda got: got.json()["runtimeStatus"] == "Suspended")
    assert answer.status_code == 202
    assert answer.headers["retry-after"] == "10"
    bare(await api.call("POST", f"{path}/suspend"), 202)
    bare(await api.call("POST", f"{path}/raiseEvent/go", json="held"), 202)
    assert (await api.call("GET", path)).json()["runtimeStatus"] == "Suspended"
    bare(await api.call("POST", f"{path}/resume?reason=back"), 202)
    await api.wait(instance_id)
    status = (await api.call("GET", f"{path}?showHistory=true")).json()
    assert status["output"] == {"got": "held"}
    reasons = [(event["EventType"], event.get("Reason")) for event in status["historyEvents"]]
    assert ("ExecutionSuspended", "lunch") in reasons
    assert ("ExecutionResumed", "back") in reasons


async def test_a_suspended_instance_can_be_terminated(api: Api) -> None:
    instance_id = await api.running("gate")
    path = f"/instances/{instance_id}"
    await api.call("POST", f"{path}/suspend")
    await api.until(path, lambda got: got.json()["runtimeStatus"] == "Suspended")
    bare(await api.call("POST", f"{path}/terminate?reason=enough"), 202)
    await api.until(path, lambda got: got.json()["runtimeStatus"] == "Terminated")


async def test_resume_of_a_running_instance_is_accepted(api: Api) -> None:
    instance_id = await api.running("gate")
    bare(await api.call("POST", f"/instances/{instance_id}/resume"), 202)


@pytest.mark.parametrize("operation", ["terminate", "suspend", "resume"])
@pytest.mark.parametrize("function", ["echo", "broken"])
async def test_a_finished_instance_is_gone_for(api: Api, operation: str, function: str) -> None:
    instance_id = await api.finished(function)
    before = (await api.call("GET", f"/instances/{instance_id}")).json()
    bare(await api.call("POST", f"/instances/{instance_id}/{operation}?reason=late"), 410)
    assert (await api.call("GET", f"/instances/{instance_id}")).json() == before


# --- rewind, restart -------------------------------------------------------------------------------------


async def test_rewind_runs_a_failed_instance_again(api: Api) -> None:
    instance_id = await api.finished("flaky", uuid4().hex)
    path = f"/instances/{instance_id}"
    assert (await api.call("GET", path)).json()["runtimeStatus"] == "Failed"
    bare(await api.call("POST", f"{path}/rewind?reason=fixed"), 202)
    answer = await api.until(path, lambda got: got.json()["runtimeStatus"] == "Completed")
    assert answer.json()["output"] == "lucky"


async def test_rewind_is_for_failed_instances_alone(api: Api) -> None:
    done, running = await api.finished("echo"), await api.running("gate")
    told(await api.call("POST", f"/instances/{done}/rewind"), 412, "Completed")
    told(await api.call("POST", f"/instances/{running}/rewind"), 412, "Running")


@pytest.mark.parametrize("query", ["", "?restartWithNewInstanceId=true", "?restartWithNewInstanceId=x"])
async def test_restart_under_a_new_id(api: Api, query: str) -> None:
    instance_id = await api.finished("echo", {"n": 1})
    answer = await api.call("POST", f"/instances/{instance_id}/restart{query}")
    new_id = answer.json()["id"]
    assert answer.status_code == 202
    assert new_id != instance_id
    assert answer.json() == check_status(new_id)
    assert answer.headers["location"] == answer.json()["statusQueryGetUri"]
    assert answer.headers["retry-after"] == "10"
    assert json.loads((await api.wait(new_id)).output.value) == {"n": 1}


async def test_restart_under_the_same_id(api: Api) -> None:
    instance_id = await api.finished("calling", 2)
    query = "restartWithNewInstanceId=false&timeout=5&pollingInterval=0.05"
    answer = await api.call("POST", f"/instances/{instance_id}/restart?{query}")
    assert (answer.status_code, answer.json()) == (200, 4)


async def test_restart_of_a_running_instance_starts_a_twin_but_never_takes_its_id(api: Api) -> None:
    instance_id = await api.running("gate", "seed")
    told(
        await api.call("POST", f"/instances/{instance_id}/restart?restartWithNewInstanceId=false"),
        409,
        "in use",
    )
    answer = await api.call("POST", f"/instances/{instance_id}/restart")
    assert answer.status_code == 202
    twin = (await api.call("GET", f"/instances/{answer.json()['id']}")).json()
    assert (twin["name"], twin["input"]) == ("gate", "seed")
    assert (await api.call("GET", f"/instances/{instance_id}")).json()["runtimeStatus"] == "Running"


async def test_restart_refuses_bad_times_before_it_starts_anything(fresh: Api) -> None:
    instance_id = await fresh.finished("echo")
    answer = await fresh.call("POST", f"/instances/{instance_id}/restart?timeout=1&pollingInterval=9")
    told(answer, 400, "pollingInterval")
    assert len((await fresh.call("GET", "/instances")).json()) == 1


# --- entities --------------------------------------------------------------------------------------------


async def test_an_entity_is_signalled_read_and_listed(api: Api) -> None:
    key = f"k:{uuid4().hex}é"
    path = f"/entities/Counter/{quote(key)}"
    bare(await api.call("GET", path), 404)
    bare(await api.call("POST", f"{path}?op=add", content='{"n": 1}', headers=JSON), 202)
    answer = await api.until(path, lambda got: got.status_code == 200)
    assert answer.json() == {"last": {"n": 1}}
    listed = [
        entity
        for entity in (await api.call("GET", "/entities/COUNTER?fetchState=true")).json()
        if entity["entityId"]["key"] == key
    ]
    assert INSTANT.fullmatch(listed[0].pop("lastOperationTime"))
    assert listed == [{"entityId": {"name": "counter", "key": key}, "state": {"last": {"n": 1}}}]
    bare(await api.call("DELETE", path), 202)
    await api.until(path, lambda got: got.status_code == 404)
    keys = [entity["entityId"]["key"] for entity in (await api.call("GET", "/entities")).json()]
    assert key not in keys


async def test_a_signal_that_is_not_json_is_a_string(api: Api) -> None:
    path = f"/entities/counter/{uuid4().hex}"
    bare(
        await api.call("POST", f"{path}?op=add", content="{plain", headers={"Content-Type": "text/plain"}),
        202,
    )
    assert (await api.until(path, lambda got: got.status_code == 200)).json() == {"last": "{plain"}


async def test_entities_are_listed_page_by_page_without_state(fresh: Api) -> None:
    for key in "abc":
        await fresh.call("POST", f"/entities/counter/{key}?op=add", json=1)
        await fresh.until(f"/entities/counter/{key}", lambda got: got.status_code == 200)
    first = await fresh.call("GET", "/entities/counter?top=2")
    assert [(entity["entityId"]["key"], entity["state"]) for entity in first.json()] == [
        ("a", None),
        ("b", None),
    ]
    token = {"x-ms-continuation-token": first.headers["x-ms-continuation-token"]}
    second = await fresh.call("GET", "/entities/counter?top=2", headers=token)
    assert [entity["entityId"]["key"] for entity in second.json()] == ["c"]
    assert "x-ms-continuation-token" not in second.headers
    told(await fresh.call("GET", "/instances", headers=token), 400, "continuation token")
    assert (await fresh.call("GET", "/entities/counter?lastOperationTimeFrom=2999-01-01")).json() == []
    assert (await fresh.call("GET", "/entities/counter?lastOperationTimeTo=2000-01-01")).json() == []
    assert (await fresh.call("GET", "/entities/count")).json() == []


@pytest.mark.parametrize(
    ("method", "path", "words"),
    [
        ("POST", "/entities/nope/k?op=add", "'nope'"),
        ("DELETE", "/entities/nope/k", "Known entity functions: 'counter'"),
        ("POST", "/entities/counter", "key"),
        ("POST", "/entities/counter/a%40b", "key"),
        ("POST", "/entities/counter/a%2Fb", "key"),
        ("POST", "/entities/counter/a%00b", "key"),
        ("GET", "/entities/a%40b/k", "name"),
        ("GET", "/entities?top=0", "top"),
        ("GET", "/entities?lastOperationTimeFrom=x", "lastOperationTimeFrom"),
        ("GET", "/entities?lastOperationTimeTo=x", "lastOperationTimeTo"),
    ],
)
async def test_entities_refuse(idle: Api, method: str, path: str, words: str) -> None:
    told(await idle.call(method, path), 400, words)
    assert (await idle.stub.QueryEntities(pb.QueryEntitiesRequest())).entities == []


async def test_a_signal_with_broken_json_is_refused(idle: Api) -> None:
    told(await idle.call("POST", "/entities/counter/k", content="{", headers=JSON), 400, "not valid JSON")


async def test_an_entity_with_operations_under_way_is_listed() -> None:
    backend = InMemoryOrchestrationBackend()
    with serving(backend) as address:
        async with connected(address) as api:
            bare(await api.call("POST", "/entities/counter/busy?op=add"), 202)
            backend._entities["@counter@busy"].serialized_state = "{}"
            listed = (await api.call("GET", "/entities")).json()
    assert [entity["entityId"] for entity in listed] == [{"name": "counter", "key": "busy"}]


async def test_an_entity_that_is_only_signalled_does_not_exist_yet(idle: Api) -> None:
    bare(await idle.call("POST", "/entities/counter/k?op=add"), 202)
    bare(await idle.call("GET", "/entities/counter/k"), 404)
    assert (await idle.call("GET", "/entities")).json() == []


# --- paths, methods, hubs --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("GET", "/"),
        ("GET", "/nope"),
        ("POST", "/instances"),
        ("PUT", "/instances/x"),
        ("POST", "/instances/x"),
        ("HEAD", "/instances/x"),
        ("OPTIONS", "/instances"),
        ("GET", "/instances/x/terminate"),
        ("POST", "/instances/x/explode"),
        ("POST", "/instances/x/raiseEvent"),
        ("GET", "/instances/x/raiseEvent/go"),
        ("POST", "/instances/x/raiseEvent/go/on"),
        ("POST", "/orchestrators"),
        ("GET", "/orchestrators/echo"),
        ("DELETE", "/orchestrators/echo/x"),
        ("POST", "/orchestrators/echo/x/y"),
        ("POST", "/entities"),
        ("PUT", "/entities/counter/k"),
        ("GET", "/entities/counter/k/more"),
        ("POST", "/instances//terminate"),
    ],
)
async def test_unknown_paths_and_methods_are_not_found(idle: Api, method: str, path: str) -> None:
    bare(await idle.call(method, path), 404)


async def test_a_method_that_nobody_knows_is_not_allowed(idle: Api) -> None:
    assert (await idle.call("BREW", "/instances")).status_code == 405


@pytest.mark.parametrize("path", ["/INSTANCES/x", "/instances/x/"])
async def test_fixed_path_parts_are_matched_in_any_case(idle: Api, path: str) -> None:
    await idle.start("echo", instance_id="x")
    assert (await idle.call("GET", path)).json()["instanceId"] == "x"


@pytest.mark.parametrize("query", [QUERY, f"TASKHUB={HUB.upper()}&code=abc", "taskHub=", "connection=Other&x=%ff"])
async def test_our_own_hub_may_be_named_and_other_parameters_are_ignored(idle: Api, query: str) -> None:
    await idle.start("echo", instance_id="x")
    answer = await idle.call("GET", f"/instances/x?{query}")
    assert answer.status_code == 202
    assert answer.headers["location"] == f"{ORIGIN}{PREFIX}/instances/x?{query}"


async def test_a_query_that_is_not_utf8_does_not_break_the_location(idle: Api) -> None:
    await idle.start("echo", instance_id="x")
    # Past the HTTP client, which would percent-encode the query.
    scope = {
        "type": "http",
        "method": "GET",
        "scheme": "http",
        "path": f"{PREFIX}/instances/x",
        "query_string": b"a=\xff",
        "headers": [(b"host", b"localhost:7071")],
    }
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    await idle.app(scope, receive, send)
    assert sent[0]["status"] == 202
    location = dict(sent[0]["headers"])[b"location"]
    assert location == f"{ORIGIN}{PREFIX}/instances/x?a=".encode() + b"\xff"


@pytest.mark.parametrize("hub_name", ["Other", f"{HUB}x", f"{HUB}&taskHub=Other"])
async def test_another_hub_is_not_found(idle: Api, hub_name: str) -> None:
    await idle.start("echo", instance_id="x")
    told(await idle.call("GET", f"/instances/x?taskHub={hub_name}"), 404, "task hub")
    told(await idle.call("POST", f"/orchestrators/echo/y?taskHub={hub_name}"), 404, "task hub")
    bare(await idle.call("GET", "/instances/y"), 404)


# --- a hub that fails ------------------------------------------------------------------------------------

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


async def test_a_hub_out_of_reach_is_unavailable(caplog: pytest.LogCaptureFixture) -> None:
    with serving(InMemoryOrchestrationBackend()) as address:
        pass
    async with connected(address) as api:
        for method, path in EVERY_CALL:
            answer = await api.call(method, path)
            assert (answer.status_code, answer.json()) == (
                503,
                {"Message": "The task hub cannot be reached."},
            )
    assert "StatusCode.UNAVAILABLE" in caplog.text


async def test_any_other_failure_is_logged_in_full_and_told_to_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # The generated base class answers every method with UNIMPLEMENTED.
    with caplog.at_level(logging.ERROR), serving(pb_grpc.TaskHubSidecarServiceServicer()) as address:
        async with connected(address) as api:
            for method, path in EVERY_CALL:
                answer = await api.call(method, path)
                assert answer.status_code == 500
                assert answer.json() == {"Message": "The request could not be processed."}
    records = [record for record in caplog.records if record.name == "local_host.management"]
    assert len(records) == len(EVERY_CALL)
    assert all(record.exc_info for record in records)


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
