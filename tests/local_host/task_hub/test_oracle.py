"""The same orchestrations on durabletask's backend for tests and on the hub: outputs, statuses and histories agree.

Where the hub means to differ, ``DIFFERENCES`` says why.
"""

import json
from collections.abc import Callable, Generator, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import durabletask.internal.orchestrator_service_pb2_grpc as stubs
import grpc
import pytest
from durabletask import task
from durabletask.client import TaskHubGrpcClient
from durabletask.entities import DurableEntity, EntityInstanceId
from durabletask.testing import InMemoryOrchestrationBackend

from local_host.task_hub import SystemClock
from local_host.testing import running_hub
from tests.local_host.task_hub.support import PATIENCE, run_worker, until

type Steps = Generator[task.Task[Any], Any, Any]
type Context = task.OrchestrationContext

_runs: dict[str, int] = {}


class Counter(DurableEntity):
    def add(self, amount: int) -> int:
        value = int(self.get_state(int, 0)) + amount
        self.set_state(value)
        return value

    def fail(self) -> None:
        raise ValueError("cannot")


def double(_ctx: task.ActivityContext, number: int) -> int:
    return number * 2


def fails(_ctx: task.ActivityContext, what: str) -> None:
    raise RuntimeError(f"no {what}")


def second_time(ctx: task.ActivityContext, _: Any) -> str:
    key = ctx.orchestration_id
    _runs[key] = _runs.get(key, 0) + 1
    if _runs[key] == 1:
        raise RuntimeError("not yet")
    return "lucky"


def echo(_ctx: Context, given: Any) -> Any:
    return given


def nothing(_ctx: Context, _: Any) -> None:
    return None


def raises(_ctx: Context, _: Any) -> Any:
    raise ValueError("straight away")


def chain(ctx: Context, given: int) -> Steps:
    for _ in range(3):
        given = yield ctx.call_activity(double, input=given)
    return given


def catches(ctx: Context, _: Any) -> Steps:
    try:
        yield ctx.call_activity(fails, input="way")
    except task.TaskFailedError as error:
        return [error.details.error_type, error.details.message]


def fails_through(ctx: Context, _: Any) -> Steps:
    yield ctx.call_activity(fails, input="way")


def retries(ctx: Context, _: Any) -> Steps:
    policy = task.RetryPolicy(first_retry_interval=timedelta(milliseconds=50), max_number_of_attempts=3)
    return (yield ctx.call_activity(second_time, retry_policy=policy))


def one_timer(ctx: Context, _: Any) -> Steps:
    yield ctx.create_timer(timedelta(milliseconds=50))
    return "fired"


def one_event(ctx: Context, _: Any) -> Steps:
    ctx.set_custom_status("waiting")
    got = yield ctx.wait_for_external_event("go")
    ctx.set_custom_status(None)
    return got


def two_events(ctx: Context, _: Any) -> Steps:
    first = yield ctx.wait_for_external_event("a")
    second = yield ctx.wait_for_external_event("b")
    return [first, second]


def child(ctx: Context, given: Any) -> Steps:
    if given == "fail":
        raise ValueError("the child")
    return (yield ctx.call_activity(double, input=given))


def parent(ctx: Context, given: Any) -> Steps:
    return (yield ctx.call_sub_orchestrator(child, input=given))


def parent_catches(ctx: Context, _: Any) -> Steps:
    try:
        yield ctx.call_sub_orchestrator(child, input="fail")
    except task.TaskFailedError as error:
        return error.details.message


def renews(ctx: Context, left: int) -> Steps:
    yield ctx.call_activity(double, input=left)
    if left:
        ctx.continue_as_new(left - 1)
        return None
    return "renewed"


def renews_with_events(ctx: Context, given: list[Any]) -> Steps:
    got = [*given, (yield ctx.wait_for_external_event("go"))]
    if len(got) < 3:
        ctx.continue_as_new(got, save_events=True)
        return None
    return got


def counts(ctx: Context, _: Any) -> Steps:
    counter = EntityInstanceId("counter", ctx.instance_id)
    ctx.signal_entity(counter, "add", 5)
    first = yield ctx.call_entity(counter, "add", 1)
    try:
        yield ctx.call_entity(counter, "fail")
    except task.TaskFailedError as error:
        return [first, "cannot" in str(error), (yield ctx.call_entity(counter, "add", 1))]


def locks(ctx: Context, _: Any) -> Steps:
    counters = [EntityInstanceId("counter", f"{ctx.instance_id}{key}") for key in "ba"]
    with (yield ctx.lock_entities(counters)):
        first = yield ctx.call_entity(counters[0], "add", 1)
        second = yield ctx.call_entity(counters[1], "add", 2)
    return [first, second]


def tells(ctx: Context, target: str) -> Any:
    ctx.send_event(target, "go", data="told")
    return "told"


def unknown_activity(ctx: Context, _: Any) -> Steps:
    yield ctx.call_activity("nobody knows it")


ORCHESTRATORS = [
    echo, nothing, raises, chain, catches, fails_through, retries, one_timer, one_event, two_events, child, parent,
    parent_catches, renews, renews_with_events, counts, locks, tells, unknown_activity,
]  # fmt: skip


@dataclass(frozen=True)
class Backend:
    """A backend with durabletask's worker on it."""

    client: TaskHubGrpcClient

    def ends(self, instance: str) -> dict[str, Any]:
        """Wait for the end of an instance, and give what can be seen of it."""
        state = self.client.wait_for_orchestration_completion(instance, timeout=PATIENCE)
        assert state is not None
        failure = state.failure_details
        return {
            "status": state.runtime_status.name,
            "output": json.loads(state.serialized_output or "null"),
            "custom status": json.loads(state.serialized_custom_status or "null"),
            "failure": (failure.error_type, failure.message) if failure is not None else None,
            "history": [type(each).__name__ for each in self.client.get_orchestration_history(instance)],
        }


@contextmanager
def _oracle() -> Iterator[Backend]:
    backend = InMemoryOrchestrationBackend()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=10))
    add: Any = stubs.add_TaskHubSidecarServiceServicer_to_server
    add(backend, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    worker: Any = run_worker(address, orchestrators=ORCHESTRATORS, activities=ACTIVITIES, entities=[Counter])
    client = TaskHubGrpcClient(host_address=address)
    try:
        yield Backend(client)
    finally:
        client.close()
        worker.stop()
        backend.stop()
        server.stop(0).wait()


ACTIVITIES = [double, fails, second_time]


@pytest.fixture(scope="module")
def oracle() -> Iterator[Backend]:
    """Durabletask's backend for tests."""
    with _oracle() as backend:
        yield backend


@pytest.fixture(scope="module")
def ours() -> Iterator[Backend]:
    """The hub, on the clock of the machine, as the other one is."""
    with running_hub(clock=SystemClock()) as hub:
        worker: Any = run_worker(
            hub.hub.address, hub.hub.metadata, orchestrators=ORCHESTRATORS, activities=ACTIVITIES, entities=[Counter]
        )
        try:
            yield Backend(hub.client)
        finally:
            worker.stop()


def _simply(name: str, given: Any = None) -> Callable[[Backend], dict[str, Any]]:
    def run(backend: Backend) -> dict[str, Any]:
        instance = f"{name} {given}"  # messages of failures have it
        return backend.ends(backend.client.schedule_new_orchestration(name, input=given, instance_id=instance))

    return run


def _running(backend: Backend, name: str, given: Any = None) -> str:
    """Start an instance, and wait until its first turn is over."""
    instance = backend.client.schedule_new_orchestration(name, input=given)
    until(lambda: any(type(e).__name__ == "OrchestratorCompletedEvent" for e in _history(backend, instance)))
    return instance


def _history(backend: Backend, instance: str) -> list[Any]:
    return backend.client.get_orchestration_history(instance)


def _event(backend: Backend) -> dict[str, Any]:
    instance = _running(backend, "one_event")
    backend.client.raise_orchestration_event(instance, "GO", data={"ü": 1})
    return backend.ends(instance)


def _events_out_of_order(backend: Backend) -> dict[str, Any]:
    instance = _running(backend, "two_events")
    for number, name in enumerate("ba"):
        before = len(_history(backend, instance))
        backend.client.raise_orchestration_event(instance, name, data=number)
        until(lambda before=before: len(_history(backend, instance)) > before)  # type: ignore[misc]
    return backend.ends(instance)


def _many_events(backend: Backend) -> dict[str, Any]:
    instance = _running(backend, "renews_with_events", [])
    for number in range(3):
        backend.client.raise_orchestration_event(instance, "go", data=number)
    seen = backend.ends(instance)
    del seen["history"]  # as many turns as it takes
    return seen


def _sent_event(backend: Backend) -> dict[str, Any]:
    instance = _running(backend, "one_event")
    teller = backend.ends(backend.client.schedule_new_orchestration("tells", input=instance))
    return {"teller": teller, "told": backend.ends(instance)}


def _terminated(backend: Backend) -> dict[str, Any]:
    instance = _running(backend, "one_event")
    backend.client.terminate_orchestration(instance, output="over", recursive=False)
    return backend.ends(instance)


def _rewound(backend: Backend) -> dict[str, Any]:
    instance = backend.client.schedule_new_orchestration("rewindable")
    backend.ends(instance)
    backend.client.rewind_orchestration(instance, reason="again")
    until(lambda: (s := backend.client.get_orchestration_state(instance)) and s.runtime_status.name == "COMPLETED")
    return backend.ends(instance)


def _retried(backend: Backend) -> dict[str, Any]:
    return backend.ends(backend.client.schedule_new_orchestration("retries"))


def _restarted(backend: Backend) -> dict[str, Any]:
    first = backend.client.schedule_new_orchestration("chain", input=1)
    backend.ends(first)
    return backend.ends(backend.client.restart_orchestration(first, restart_with_new_instance_id=True))


def _suspended(backend: Backend) -> dict[str, Any]:
    instance = _running(backend, "one_event")
    backend.client.suspend_orchestration(instance)
    until(lambda: (s := backend.client.get_orchestration_state(instance)) and s.runtime_status.name == "SUSPENDED")
    backend.client.raise_orchestration_event(instance, "go", data=1)
    backend.client.resume_orchestration(instance)
    seen = backend.ends(instance)
    del seen["history"]  # the hub gives a suspended instance no turn: all comes with the resumption
    return seen


def rewindable(ctx: Context, _: Any) -> Steps:
    yield ctx.call_activity(double, input=1)
    return (yield ctx.call_activity(second_time))


ORCHESTRATORS.append(rewindable)

SCENARIOS: dict[str, Callable[[Backend], dict[str, Any]]] = {
    "echo": _simply("echo", {"ü": [1, None, "🎉"]}),
    "no input": _simply("echo"),
    "no output": _simply("nothing", 1),
    "failure": _simply("raises"),
    "chain": _simply("chain", 1),
    "caught failure": _simply("catches"),
    "uncaught failure": _simply("fails_through"),
    "retries": _retried,
    "timer": _simply("one_timer"),
    "child": _simply("parent", 2),
    "caught failure of a child": _simply("parent_catches"),
    "failure of a child": _simply("parent", "fail"),
    "continue as new": _simply("renews", 3),
    "entity": _simply("counts"),
    "locks": _simply("locks"),
    "unknown orchestrator": _simply("nobody knows it"),
    "unknown activity": _simply("unknown_activity"),
    "event": _event,
    "events out of order": _events_out_of_order,
    "many events": _many_events,
    "sent event": _sent_event,
    "termination": _terminated,
    "rewind": _rewound,
    "restart": _restarted,
    "suspension": _suspended,
}

DIFFERENCES: dict[str, tuple[str, Callable[[dict[str, Any], dict[str, Any]], None]]] = {}


def _differs(name: str, reason: str) -> Callable[[Callable[[dict[str, Any], dict[str, Any]], None]], None]:
    def note(check: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
        DIFFERENCES[name] = (reason, check)

    return note


@_differs("termination", "the hub ends an instance at once and without a turn, so that one without a worker ends too")
def _(theirs: dict[str, Any], mine: dict[str, Any]) -> None:
    bookends = ("OrchestratorStartedEvent", "OrchestratorCompletedEvent")
    assert [e for e in theirs.pop("history") if e not in bookends] == [
        e for e in mine.pop("history") if e not in bookends
    ]
    assert theirs.pop("custom status") == mine.pop("custom status") == "waiting"


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_hub_does_as_the_oracle_does(oracle: Backend, ours: Backend, name: str) -> None:
    theirs, mine = SCENARIOS[name](oracle), SCENARIOS[name](ours)
    if name in DIFFERENCES:
        reason, check = DIFFERENCES[name]
        assert theirs != mine, f"the two agree by now, though {reason}"
        check(theirs, mine)
    assert mine == theirs


def test_every_known_difference_is_one_of_a_scenario() -> None:
    assert set(DIFFERENCES) <= set(SCENARIOS)
