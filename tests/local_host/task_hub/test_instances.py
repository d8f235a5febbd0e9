"""Instances from outside: starting, waiting, events, suspending, terminating, restarting them."""

import json
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import durabletask.internal.orchestrator_service_pb2 as pb
import grpc
import pytest
from durabletask import task
from durabletask.client import OrchestrationStatus

from local_host.task_hub import turns
from local_host.testing import HubControl, running_hub
from tests.local_host.task_hub.support import (
    COMPLETED,
    FAILED,
    MOMENT,
    PATIENCE,
    PENDING,
    RUNNING,
    SUSPENDED,
    TERMINATED,
    complete,
    ends,
    hand_worker,
    hub_with_worker,
    kinds,
    refused,
    schedule,
    status,
    stub_of,
    until,
)

type Steps = Generator[task.Task[Any], Any, Any]

_held = threading.Event()
_runs: list[str] = []


def echo(_ctx: task.OrchestrationContext, given: Any) -> Any:
    return given


def versioned(ctx: task.OrchestrationContext, _: Any) -> Any:
    return ctx.version


def broken(_ctx: task.OrchestrationContext, _: Any) -> Any:
    raise ValueError("no luck")


def collect(ctx: task.OrchestrationContext, count: int) -> Steps:
    """Collect so many events of the name 'item'."""
    got = []
    for _ in range(count):
        got.append((yield ctx.wait_for_external_event("item")))
        ctx.set_custom_status(len(got))
    return got


def timer_and_events(ctx: task.OrchestrationContext, seconds: float) -> Steps:
    yield ctx.create_timer(timedelta(seconds=seconds))
    woke = ctx.current_utc_datetime.isoformat()
    return [woke, (yield ctx.wait_for_external_event("item"))]


def parent_of_sleepers(ctx: task.OrchestrationContext, levels: int) -> Steps:
    """Wait for an event, below as many parents."""
    if levels:
        return (
            yield ctx.call_sub_orchestrator(parent_of_sleepers, input=levels - 1, instance_id=f"{ctx.instance_id}.x")
        )
    return (yield ctx.wait_for_external_event("item"))


def catching_parent(ctx: task.OrchestrationContext, _: Any) -> Steps:
    try:
        return (yield ctx.call_sub_orchestrator("collect", input=1, instance_id=f"{ctx.instance_id}.x"))
    except task.TaskFailedError as error:
        return f"caught {error.details.error_type}"


def held_activity(ctx: task.ActivityContext, _: Any) -> str:
    _runs.append(ctx.orchestration_id)
    assert _held.wait(PATIENCE)
    return "late"


def calls_held(ctx: task.OrchestrationContext, _: Any) -> Steps:
    return (yield ctx.call_activity(held_activity))


def again_when_told(ctx: task.OrchestrationContext, count: int) -> Steps:
    """Continue as new for each event, and keep those that came too early."""
    yield ctx.wait_for_external_event("item")
    if count == 0:
        return "done"
    ctx.continue_as_new(count - 1, save_events=True)
    return None


@pytest.fixture(scope="module")
def hub() -> Iterator[HubControl]:
    """A hub with durabletask's own worker."""
    orchestrators = [
        echo, versioned, broken, collect, timer_and_events, parent_of_sleepers, catching_parent, calls_held,
        again_when_told,
    ]  # fmt: skip
    with hub_with_worker(orchestrators=orchestrators, activities=[held_activity]) as hub:
        yield hub


@pytest.fixture
def quiet() -> Iterator[HubControl]:
    """A hub without a worker, for one test."""
    with running_hub() as hub:
        yield hub


def _started(hub: HubControl, name: str, given: Any = None, instance_id: str | None = None) -> str:
    instance = hub.start(name, given, instance_id)
    hub.settle()
    return instance


def _until_it_runs(instance: str) -> None:
    """Wait until the activity that is held has begun."""
    until(lambda: instance in _runs)


def _policy(*statuses: OrchestrationStatus) -> pb.OrchestrationIdReusePolicy:
    policy = pb.OrchestrationIdReusePolicy()
    policy.replaceableStatus.extend([each.value for each in statuses])
    return policy


# Starting


def test_an_instance_without_an_id_gets_one(hub: HubControl) -> None:
    with stub_of(hub) as stub:
        first = stub.StartInstance(pb.CreateInstanceRequest(name="echo")).instanceId
        second = stub.StartInstance(pb.CreateInstanceRequest(name="echo")).instanceId
    assert len({first, second, ""}) == 3


def test_what_is_given_at_the_start_is_there_to_see(quiet: HubControl) -> None:
    instance = quiet.client.schedule_new_orchestration(
        "any", input={"ü": 1}, instance_id="one", tags={"team": "Käse", "x": ""}, version="1.2"
    )
    with stub_of(quiet) as stub:
        found = stub.GetInstance(pb.GetInstanceRequest(instanceId=instance, getInputsAndOutputs=True))
        bare = stub.GetInstance(pb.GetInstanceRequest(instanceId=instance))
    state = found.orchestrationState
    assert (state.instanceId, state.name, state.version.value) == ("one", "any", "1.2")
    assert dict(state.tags) == {"team": "Käse", "x": ""}
    assert json.loads(state.input.value) == {"ü": 1}
    assert state.orchestrationStatus == pb.ORCHESTRATION_STATUS_PENDING
    assert state.createdTimestamp.ToDatetime(UTC) == quiet.now
    assert state.executionId.value
    assert not state.HasField("completedTimestamp")
    assert not bare.orchestrationState.HasField("input")


@pytest.mark.parametrize("end", [COMPLETED, FAILED, TERMINATED, RUNNING, SUSPENDED])
def test_an_id_that_is_taken_is_refused_unless_its_status_may_be_replaced(
    hub: HubControl, end: OrchestrationStatus
) -> None:
    name = {COMPLETED: "echo", FAILED: "broken"}.get(end, "collect")
    instance = _started(hub, name, 1)
    if end is TERMINATED:
        hub.client.terminate_orchestration(instance)
    if end is SUSPENDED:
        hub.client.suspend_orchestration(instance)
    assert hub.state(instance).runtime_status is end
    others = {COMPLETED, FAILED, TERMINATED, RUNNING, SUSPENDED, PENDING} - {end}
    for policy in (None, _policy(), _policy(*others)):
        with refused(grpc.StatusCode.ALREADY_EXISTS):
            hub.client.schedule_new_orchestration("echo", instance_id=instance, reuse_id_policy=policy)
        assert hub.state(instance).runtime_status is end
    hub.client.schedule_new_orchestration("echo", input="new", instance_id=instance, reuse_id_policy=_policy(end))
    assert hub.output(instance) == "new"
    assert kinds(hub, instance).count("executionStarted") == 1


def test_a_pending_instance_may_be_replaced(quiet: HubControl) -> None:
    quiet.start("first", instance_id="one")
    quiet.client.schedule_new_orchestration("second", instance_id="one", reuse_id_policy=_policy(PENDING))
    with hand_worker(quiet) as worker:
        started = worker.take().orchestratorRequest.newEvents[1].executionStarted
        assert started.name == "second"
        assert worker.gets_nothing()


def test_an_instance_that_replaced_one_hears_nothing_of_what_that_one_waited_for(hub: HubControl) -> None:
    _held.clear()
    _runs.clear()
    instance = hub.start("calls_held")
    _until_it_runs(instance)
    hub.client.schedule_new_orchestration(
        "collect", input=2, instance_id=instance, reuse_id_policy=_policy(RUNNING, PENDING)
    )
    hub.event(instance, "item", 1)
    _held.set()
    hub.settle()
    assert status(hub, instance) == "RUNNING"
    assert "taskCompleted" not in kinds(hub, instance)
    hub.event(instance, "item", 2)
    assert hub.output(instance) == [1, 2]


def test_of_fifty_who_start_one_id_at_once_one_wins(hub: HubControl) -> None:
    def start(number: int) -> int | None:
        try:
            hub.client.schedule_new_orchestration("echo", input=number, instance_id="contested")
        except grpc.RpcError as error:
            told: Any = error
            assert told.code() is grpc.StatusCode.ALREADY_EXISTS
            return None
        return number

    with ThreadPoolExecutor(50) as pool:
        winners = [each for each in pool.map(start, range(50)) if each is not None]
    assert len(winners) == 1
    assert hub.output("contested") == winners[0]


def test_a_start_in_the_future_waits_for_its_time(hub: HubControl) -> None:
    at = hub.now + timedelta(hours=2)
    instance = hub.client.schedule_new_orchestration("echo", input=1, start_at=at)
    hub.advance(timedelta(hours=1, minutes=59, seconds=59))
    state = hub.state(instance)
    assert state.runtime_status is PENDING
    hub.advance(timedelta(seconds=1))
    assert hub.output(instance) == 1
    started = next(e.executionStarted for e in hub.history(instance) if e.HasField("executionStarted"))
    assert started.scheduledStartTimestamp.ToDatetime(UTC) == at


def test_a_start_in_the_past_is_a_start_now(hub: HubControl) -> None:
    instance = hub.client.schedule_new_orchestration("echo", input=1, start_at=hub.now - timedelta(days=400))
    assert hub.output(instance) == 1


def test_a_start_in_the_future_may_be_terminated_before(hub: HubControl) -> None:
    instance = hub.client.schedule_new_orchestration("echo", start_at=hub.now + timedelta(hours=1))
    hub.client.terminate_orchestration(instance)
    hub.advance(timedelta(hours=2))
    assert hub.state(instance).runtime_status is TERMINATED
    assert "orchestratorCompleted" not in kinds(hub, instance)


def test_a_start_in_the_future_may_be_replaced_by_one_now(hub: HubControl) -> None:
    instance = hub.client.schedule_new_orchestration("echo", input="late", start_at=hub.now + timedelta(hours=1))
    hub.client.schedule_new_orchestration("collect", input=1, instance_id=instance, reuse_id_policy=_policy(PENDING))
    hub.advance(timedelta(hours=2))
    assert hub.state(instance).runtime_status is RUNNING
    hub.event(instance, "item", "now")
    assert hub.output(instance) == ["now"]


def test_events_to_a_start_in_the_future_wait_with_it(hub: HubControl) -> None:
    instance = hub.client.schedule_new_orchestration("collect", input=2, start_at=hub.now + timedelta(hours=1))
    hub.event(instance, "item", "early")
    hub.advance(timedelta(minutes=59))
    assert hub.state(instance).runtime_status is PENDING
    hub.event(instance, "item", "later")
    hub.advance(timedelta(minutes=1))
    assert hub.output(instance) == ["early", "later"]


def test_an_orchestrator_knows_its_version(hub: HubControl) -> None:
    assert hub.output(hub.client.schedule_new_orchestration("versioned", version="7.1")) == "7.1"
    assert hub.output(hub.start("versioned")) is None


# Waiting


def test_a_wait_may_begin_before_the_instance_is_there(hub: HubControl) -> None:
    with ThreadPoolExecutor(2) as pool:
        completion = pool.submit(ends, hub, "awaited")
        start = pool.submit(hub.client.wait_for_orchestration_start, "awaited", timeout=PATIENCE)
        time.sleep(MOMENT)
        assert not completion.done()
        assert not start.done()
        hub.start("echo", 1, "awaited")
        assert completion.result(PATIENCE).runtime_status is COMPLETED
        assert start.result(PATIENCE) is not None


def test_a_wait_ends_at_its_deadline(hub: HubControl) -> None:
    instance = _started(hub, "collect", 1)
    for awaited in (instance, "never"):
        with pytest.raises(TimeoutError):
            hub.client.wait_for_orchestration_completion(awaited, timeout=0.05)
    with pytest.raises(TimeoutError):
        hub.client.wait_for_orchestration_start("never", timeout=0.05)
    assert hub.client.wait_for_orchestration_start(instance, timeout=PATIENCE) is not None


def test_waits_that_have_ended_leave_nothing_behind(hub: HubControl) -> None:
    with pytest.raises(TimeoutError):
        hub.client.wait_for_orchestration_completion("never again", timeout=0.05)
    until(lambda: "never again" not in hub.hub._waiting)


def test_all_who_wait_for_an_instance_hear_of_its_end(hub: HubControl) -> None:
    instance = _started(hub, "collect", 1)
    with ThreadPoolExecutor(40) as pool:
        waits = [pool.submit(ends, hub, instance) for _ in range(40)]
        time.sleep(MOMENT)
        assert not any(each.done() for each in waits)
        hub.event(instance, "item", "x")
        assert {each.result(PATIENCE).serialized_output for each in waits} == {'["x"]'}


def test_who_waits_for_an_instance_hears_that_it_was_deleted(quiet: HubControl) -> None:
    quiet.start("any", instance_id="one")
    with ThreadPoolExecutor(2) as pool, stub_of(quiet) as stub:
        request = pb.GetInstanceRequest(instanceId="one")
        waits = [
            pool.submit(call, request, timeout=PATIENCE)
            for call in (stub.WaitForInstanceStart, stub.WaitForInstanceCompletion)
        ]
        time.sleep(MOMENT)
        assert not any(each.done() for each in waits)
        stub.DeleteTaskHub(pb.DeleteTaskHubRequest())
        assert [each.result(PATIENCE).exists for each in waits] == [False, False]


def test_who_waits_for_an_instance_waits_for_the_one_that_replaces_it(hub: HubControl) -> None:
    instance = _started(hub, "collect", 1)
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(ends, hub, instance)
        time.sleep(MOMENT)
        hub.client.schedule_new_orchestration(
            "collect", input=1, instance_id=instance, reuse_id_policy=_policy(RUNNING)
        )
        time.sleep(MOMENT)
        assert not wait.done()
        hub.event(instance, "item", "new")
        assert wait.result(PATIENCE).serialized_output == '["new"]'


def test_a_wait_for_what_has_happened_ends_at_once(hub: HubControl) -> None:
    instance = _started(hub, "echo", 1)
    assert hub.client.wait_for_orchestration_completion(instance, timeout=1) is not None
    assert hub.client.wait_for_orchestration_start(instance, timeout=1) is not None


# Events


def test_events_of_one_name_come_in_their_order_whatever_its_case(hub: HubControl) -> None:
    instance = _started(hub, "collect", 4)
    for number, name in enumerate(("item", "ITEM", "Item", "iTeM")):
        hub.event(instance, name, number)
    assert hub.output(instance) == [0, 1, 2, 3]


def test_events_that_come_before_the_first_turn_are_not_lost(quiet: HubControl) -> None:
    instance = quiet.start("collect", 2)
    for number in range(2):
        quiet.event(instance, "item", number)
    with hand_worker(quiet) as worker:
        events = worker.take().orchestratorRequest.newEvents
    assert [each.WhichOneof("eventType") for each in events] == [
        "orchestratorStarted", "executionStarted", "eventRaised", "eventRaised",
    ]  # fmt: skip


def test_a_thousand_events_at_once_all_come(hub: HubControl) -> None:
    instance = _started(hub, "collect", 1000)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: hub.event(instance, "item", number), range(1000)))
    assert sorted(hub.output(instance)) == list(range(1000))


def test_more_events_than_one_turn_takes_come_in_their_order(
    quiet: HubControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "LARGEST_TURN", 10)
    instance = quiet.start("any")
    for number in range(25):
        quiet.event(instance, str(number))
    came = []
    with hand_worker(quiet) as worker:
        for _ in range(3):
            item = worker.take()
            came.append([e.eventRaised.name for e in item.orchestratorRequest.newEvents if e.HasField("eventRaised")])
            worker.turn(item)
        assert worker.gets_nothing()
    assert [len(each) for each in came] == [10, 10, 5]
    assert [name for each in came for name in each] == [str(number) for number in range(25)]


def test_an_event_of_a_megabyte_comes_whole(hub: HubControl) -> None:
    payload = "x" * 1_000_000 + "ä"
    instance = _started(hub, "collect", 1)
    hub.event(instance, "item", payload)
    assert hub.output(instance) == [payload]


def test_an_event_without_a_payload_is_an_event(hub: HubControl) -> None:
    instance = _started(hub, "collect", 2)
    hub.event(instance, "item")
    hub.event(instance, "item", None)
    assert hub.output(instance) == [None, None]


@pytest.mark.parametrize("end", [COMPLETED, FAILED, TERMINATED])
def test_an_instance_that_has_ended_takes_no_event(hub: HubControl, end: OrchestrationStatus) -> None:
    instance = _started(hub, {COMPLETED: "echo", FAILED: "broken", TERMINATED: "collect"}[end], 1)
    if end is TERMINATED:
        hub.client.terminate_orchestration(instance)
    before = kinds(hub, instance)
    with refused(grpc.StatusCode.FAILED_PRECONDITION):
        hub.event(instance, "item", 1)
    assert hub.state(instance).runtime_status is end
    assert kinds(hub, instance) == before


# Suspending


def test_a_suspended_instance_takes_what_came_in_its_order_when_it_is_resumed(hub: HubControl) -> None:
    instance = _started(hub, "collect", 4)
    hub.event(instance, "item", 0)
    hub.settle()
    hub.client.suspend_orchestration(instance, reason="lunch")
    for number in (1, 2):
        hub.event(instance, "item", number)
    state = hub.state(instance)
    assert state.runtime_status is SUSPENDED
    assert state.serialized_custom_status == "1"
    hub.client.resume_orchestration(instance, reason="back")
    hub.event(instance, "item", 3)
    assert hub.output(instance) == [0, 1, 2, 3]
    history = hub.history(instance)
    assert [e.executionSuspended.input.value for e in history if e.HasField("executionSuspended")] == ["lunch"]
    assert [e.executionResumed.input.value for e in history if e.HasField("executionResumed")] == ["back"]


def test_suspending_and_resuming_twice_is_doing_it_once(hub: HubControl) -> None:
    instance = _started(hub, "collect", 1)
    hub.client.resume_orchestration(instance)
    assert hub.state(instance).runtime_status is RUNNING
    for _ in range(3):
        hub.client.suspend_orchestration(instance)
    assert hub.state(instance).runtime_status is SUSPENDED
    hub.event(instance, "item", "x")
    for _ in range(3):
        hub.client.resume_orchestration(instance)
    assert hub.output(instance) == ["x"]
    assert [each for each in kinds(hub, instance) if each in ("executionSuspended", "executionResumed")] == [
        "executionSuspended", "executionResumed",
    ]  # fmt: skip


def test_an_instance_may_be_suspended_again_and_again(hub: HubControl) -> None:
    instance = _started(hub, "collect", 6)
    for number in range(3):
        hub.client.suspend_orchestration(instance)
        hub.event(instance, "item", 2 * number)
        hub.client.resume_orchestration(instance)
        hub.event(instance, "item", 2 * number + 1)
    assert hub.output(instance) == [0, 1, 2, 3, 4, 5]


def test_a_timer_that_is_due_while_an_instance_is_suspended_fires_when_it_is_resumed(hub: HubControl) -> None:
    instance = _started(hub, "timer_and_events", 60)
    began = hub.now
    hub.client.suspend_orchestration(instance)
    hub.advance(timedelta(minutes=10))
    assert hub.state(instance).runtime_status is SUSPENDED
    hub.client.resume_orchestration(instance)
    hub.event(instance, "item", "x")
    woke, event = hub.output(instance)
    assert datetime.fromisoformat(woke).replace(tzinfo=UTC) == began + timedelta(minutes=10)
    assert event == "x"


def test_an_activity_that_ends_while_its_instance_is_suspended_is_heard_later(hub: HubControl) -> None:
    _held.clear()
    _runs.clear()
    instance = hub.start("calls_held")
    _until_it_runs(instance)
    hub.client.suspend_orchestration(instance)
    _held.set()
    assert hub.state(instance).runtime_status is SUSPENDED
    hub.client.resume_orchestration(instance)
    assert hub.output(instance) == "late"
    assert _runs == [instance]


def test_an_instance_may_be_suspended_before_its_start(quiet: HubControl) -> None:
    instance = quiet.start("collect", 1)
    quiet.client.suspend_orchestration(instance)
    assert status(quiet, instance) == "SUSPENDED"
    with hand_worker(quiet) as worker:
        assert worker.gets_nothing()
        quiet.client.resume_orchestration(instance)
        assert status(quiet, instance) == "PENDING"
        events = worker.take().orchestratorRequest.newEvents
    assert [each.WhichOneof("eventType") for each in events] == [
        "orchestratorStarted", "executionStarted", "executionSuspended", "executionResumed",
    ]  # fmt: skip


def test_a_start_in_the_future_that_was_suspended_comes_when_both_let_it(hub: HubControl) -> None:
    late, early = (
        hub.client.schedule_new_orchestration("echo", input=1, start_at=hub.now + timedelta(hours=1)) for _ in range(2)
    )
    for each in (late, early):
        hub.client.suspend_orchestration(each)
    hub.client.resume_orchestration(early)
    assert hub.state(early).runtime_status is PENDING
    hub.advance(timedelta(hours=1))
    assert hub.output(early) == 1
    assert hub.state(late).runtime_status is SUSPENDED
    hub.client.resume_orchestration(late)
    assert hub.output(late) == 1


def test_a_turn_that_runs_while_its_instance_is_suspended_counts_and_the_instance_stays_suspended(
    quiet: HubControl,
) -> None:
    instance = quiet.start("any")
    with hand_worker(quiet) as worker:
        item = worker.take()
        quiet.client.suspend_orchestration(instance)
        worker.turn(item, schedule(1, "work"))
        assert status(quiet, instance) == "SUSPENDED"
        work = worker.take()
        assert work.activityRequest.name == "work"
        worker.activity(work, "done")
        assert worker.gets_nothing()
        quiet.client.resume_orchestration(instance)
        again = worker.take().orchestratorRequest
    assert [each.WhichOneof("eventType") for each in again.newEvents] == [
        "orchestratorStarted", "executionSuspended", "taskCompleted", "executionResumed",
    ]  # fmt: skip


def test_a_turn_that_ends_its_instance_while_that_is_suspended_ends_it(quiet: HubControl) -> None:
    instance = quiet.start("any")
    with hand_worker(quiet) as worker:
        item = worker.take()
        quiet.client.suspend_orchestration(instance)
        worker.turn(item, complete("end"))
    assert quiet.output(instance) == "end"
    quiet.client.resume_orchestration(instance)
    assert quiet.state(instance).runtime_status is COMPLETED


def test_an_instance_that_continues_as_new_while_it_is_suspended_stays_suspended(quiet: HubControl) -> None:
    instance = quiet.start("any", "first")
    with hand_worker(quiet) as worker:
        item = worker.take()
        quiet.client.suspend_orchestration(instance)
        quiet.event(instance, "item", 1)
        worker.turn(item, complete("second", pb.ORCHESTRATION_STATUS_CONTINUED_AS_NEW))
        assert status(quiet, instance) == "SUSPENDED"
        assert worker.gets_nothing()
        quiet.client.resume_orchestration(instance)
        events = worker.take().orchestratorRequest.newEvents
    assert [each.WhichOneof("eventType") for each in events] == [
        "orchestratorStarted", "executionStarted", "executionSuspended", "eventRaised", "executionResumed",
    ]  # fmt: skip
    assert events[1].executionStarted.input.value == '"second"'


@pytest.mark.parametrize("end", [COMPLETED, FAILED, TERMINATED])
def test_an_instance_that_has_ended_is_neither_suspended_nor_resumed(hub: HubControl, end: OrchestrationStatus) -> None:
    instance = _started(hub, {COMPLETED: "echo", FAILED: "broken", TERMINATED: "collect"}[end], 1)
    hub.client.terminate_orchestration(instance)
    before = kinds(hub, instance)
    hub.client.suspend_orchestration(instance)
    hub.client.resume_orchestration(instance)
    assert hub.state(instance).runtime_status is end
    assert kinds(hub, instance) == before


def test_a_suspended_instance_may_be_terminated(hub: HubControl) -> None:
    instance = _started(hub, "collect", 1)
    hub.client.suspend_orchestration(instance)
    hub.client.terminate_orchestration(instance, output="enough")
    state = hub.state(instance)
    assert state.runtime_status is TERMINATED
    assert state.serialized_output == '"enough"'


# Terminating


def test_an_instance_is_terminated_at_once_and_without_a_worker(quiet: HubControl) -> None:
    instance = quiet.start("nobody knows it")
    quiet.client.terminate_orchestration(instance, output={"why": "ü"})
    state = quiet.client.get_orchestration_state(instance)
    assert state is not None
    assert state.runtime_status is TERMINATED
    assert json.loads(state.serialized_output or "") == {"why": "ü"}
    assert state.failure_details is None
    assert kinds(quiet, instance) == ["executionStarted", "executionTerminated", "executionCompleted"]
    with hand_worker(quiet) as worker:
        assert worker.gets_nothing()


def test_terminating_twice_keeps_the_first_output(hub: HubControl) -> None:
    instance = _started(hub, "collect", 1)
    hub.client.terminate_orchestration(instance, output="first")
    before = kinds(hub, instance)
    hub.client.terminate_orchestration(instance, output="second")
    assert hub.state(instance).serialized_output == '"first"'
    assert kinds(hub, instance) == before


def test_terminating_what_is_not_there_does_nothing(hub: HubControl) -> None:
    hub.client.terminate_orchestration("nobody")
    assert hub.client.get_orchestration_state("nobody") is None


@pytest.mark.parametrize("name", ["echo", "broken"])
def test_terminating_what_has_ended_changes_nothing(hub: HubControl, name: str) -> None:
    instance = _started(hub, name, "x")
    before = hub.state(instance)
    hub.client.terminate_orchestration(instance, output="y")
    assert hub.state(instance) == before


def test_an_activity_of_a_terminated_instance_ends_into_nothing(hub: HubControl) -> None:
    _held.clear()
    _runs.clear()
    instance = hub.start("calls_held")
    _until_it_runs(instance)
    hub.client.terminate_orchestration(instance)
    assert status(hub, instance) == "TERMINATED"
    before = len(hub.client.get_orchestration_history(instance))
    _held.set()
    hub.settle()
    assert len(kinds(hub, instance)) == before
    assert _runs == [instance]


def test_a_turn_of_a_terminated_instance_changes_nothing(quiet: HubControl) -> None:
    instance = quiet.start("any")
    with hand_worker(quiet) as worker:
        item = worker.take()
        quiet.client.terminate_orchestration(instance, output="over")
        worker.turn(item, schedule(1, "work"), complete("late"), custom_status='"late"')
        assert worker.gets_nothing()
    state = quiet.state(instance)
    assert state.runtime_status is TERMINATED
    assert (state.serialized_output, state.serialized_custom_status) == ('"over"', None)


def test_terminating_a_tree_ends_all_that_is_below(hub: HubControl) -> None:
    root = _started(hub, "parent_of_sleepers", 3)
    tree = [root, f"{root}.x", f"{root}.x.x", f"{root}.x.x.x"]
    assert [status(hub, each) for each in tree] == ["RUNNING"] * 4
    hub.client.terminate_orchestration(root, output="all", recursive=True)
    assert [status(hub, each) for each in tree] == ["TERMINATED"] * 4
    assert hub.state(tree[3]).serialized_output == '"all"'
    hub.settle()
    assert [kinds(hub, each)[-2:] for each in tree] == [["executionTerminated", "executionCompleted"]] * 4


def test_terminating_one_of_a_tree_leaves_what_is_below(hub: HubControl) -> None:
    root = _started(hub, "parent_of_sleepers", 2)
    hub.client.terminate_orchestration(root, recursive=False)
    hub.settle()
    assert [status(hub, each) for each in (root, f"{root}.x", f"{root}.x.x")] == ["TERMINATED", "RUNNING", "RUNNING"]
    hub.event(f"{root}.x.x", "item", "still here")
    assert hub.output(f"{root}.x") == "still here"
    assert hub.state(root).runtime_status is TERMINATED


def test_a_parent_hears_that_its_child_was_terminated(hub: HubControl) -> None:
    parent = _started(hub, "catching_parent")
    hub.client.terminate_orchestration(f"{parent}.x", output="no")
    assert hub.output(parent) == "caught Terminated"


def test_terminating_with_one_call_tells_which_were_not_to_be_ended(hub: HubControl) -> None:
    running = [_started(hub, "collect", 1) for _ in range(2)]
    done = _started(hub, "echo", 1)
    request = pb.SkipGracefulOrchestrationTerminationsRequest()
    request.instanceBatch.instanceIds.extend([running[0], done, "nobody", running[1]])
    request.reason.value = '"because"'
    with stub_of(hub) as stub:
        answer = stub.SkipGracefulOrchestrationTerminations(request)
    assert list(answer.unterminatedInstanceIds) == [done, "nobody"]
    for each in running:
        state = hub.state(each)
        assert (state.runtime_status, state.serialized_output) == (TERMINATED, '"because"')


# Restarting


@pytest.mark.parametrize("new_id", [False, True], ids=["same id", "new id"])
@pytest.mark.parametrize("name", ["echo", "broken", "collect"])
def test_what_has_ended_is_started_again_with_its_input(hub: HubControl, name: str, new_id: bool) -> None:
    instance = hub.client.schedule_new_orchestration(name, input=1, tags={"a": "b"}, version="3")
    hub.settle()
    hub.client.terminate_orchestration(instance)
    before = hub.state(instance)
    restarted = hub.client.restart_orchestration(instance, restart_with_new_instance_id=new_id)
    assert (restarted != instance) is new_id
    state = hub.state(restarted)
    assert state.serialized_input == "1"
    assert state.name == name
    expected = {"echo": COMPLETED, "broken": FAILED, "collect": RUNNING}[name]
    assert state.runtime_status is expected
    started = hub.history(restarted)[1].executionStarted
    assert (started.version.value, dict(started.tags)) == ("3", {"a": "b"})
    if new_id:
        assert hub.state(instance) == before


@pytest.mark.parametrize("suspended", [False, True])
def test_what_has_not_ended_is_not_started_again(hub: HubControl, suspended: bool) -> None:
    instance = _started(hub, "collect", 1)
    if suspended:
        hub.client.suspend_orchestration(instance)
    for new_id in (False, True):
        with refused(grpc.StatusCode.FAILED_PRECONDITION):
            hub.client.restart_orchestration(instance, restart_with_new_instance_id=new_id)
    assert hub.state(instance).runtime_status is (SUSPENDED if suspended else RUNNING)


def test_a_restarted_instance_forgets_what_came_before(hub: HubControl) -> None:
    instance = _started(hub, "collect", 1)
    hub.event(instance, "item", "old")
    assert hub.output(instance) == ["old"]
    hub.client.restart_orchestration(instance)
    state = hub.state(instance)
    assert state.runtime_status is RUNNING
    assert (state.serialized_output, state.serialized_custom_status) == (None, None)
    hub.event(instance, "item", "new")
    assert hub.output(instance) == ["new"]


def test_a_restarted_child_tells_its_former_parent_nothing(hub: HubControl) -> None:
    parent = _started(hub, "catching_parent")
    child = f"{parent}.x"
    hub.client.terminate_orchestration(child)
    hub.settle()
    before = kinds(hub, parent)
    hub.client.restart_orchestration(child)
    hub.event(child, "item", "x")
    assert hub.output(child) == ["x"]
    assert kinds(hub, parent) == before
