"""Orchestrations, run by durabletask's own worker: what they do, and what they are told."""

import json
import logging
from collections.abc import Generator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import durabletask.internal.orchestrator_service_pb2 as pb
import pytest
from durabletask import task
from google.protobuf.timestamp_pb2 import Timestamp

from local_host.testing import HubControl, running_hub
from tests.local_host.task_hub.support import (
    COMPLETED,
    FAILED,
    RUNNING,
    TERMINATED,
    complete,
    hand_worker,
    hub_with_worker,
    kinds,
    schedule,
    set_clock_back,
    status,
    stub_of,
)

type Steps = Generator[task.Task[Any], Any, Any]
type Context = task.OrchestrationContext

_runs: dict[str, int] = {}


def double(_ctx: task.ActivityContext, number: int) -> int:
    return number * 2


def same(_ctx: task.ActivityContext, given: Any) -> Any:
    return given


def fails_at_first(_ctx: task.ActivityContext, given: list[Any]) -> str:
    key, times = given
    _runs[key] = _runs.get(key, 0) + 1
    if _runs[key] <= times:
        raise RuntimeError(f"failure {_runs[key]} of {key}")
    return f"run {_runs[key]}"


def counted(_ctx: task.ActivityContext, key: str) -> None:
    _runs[key] = _runs.get(key, 0) + 1


def adds(ctx: Context, count: int) -> Steps:
    total = 0
    for number in range(count):
        total += yield ctx.call_activity(double, input=number)
    return total


def fans_out(ctx: Context, count: int) -> Steps:
    return (yield task.when_all([ctx.call_activity(double, input=number) for number in range(count)]))


def retries(ctx: Context, given: list[Any]) -> Steps:
    policy = task.RetryPolicy(
        first_retry_interval=timedelta(seconds=10), max_number_of_attempts=3, backoff_coefficient=2
    )
    try:
        return (yield ctx.call_activity(fails_at_first, input=given, retry_policy=policy))
    except task.TaskFailedError as error:
        return error.details.message


def does_not_catch(ctx: Context, key: str) -> Steps:
    yield ctx.call_activity(fails_at_first, input=[key, 99])


def timers(ctx: Context, seconds: list[float]) -> Steps:
    """Give the order in which timers of so many seconds fire."""
    waiting = {ctx.create_timer(timedelta(seconds=each)): each for each in seconds}
    fired = []
    while waiting:
        first = yield task.when_any(list(waiting))
        fired.append(waiting.pop(first))
    return fired


def many_timers(ctx: Context, count: int) -> Steps:
    return len((yield task.when_all([ctx.create_timer(timedelta(seconds=1)) for _ in range(count)])))


def long_timer(ctx: Context, days: int) -> Steps:
    began = ctx.current_utc_datetime
    yield ctx.create_timer(timedelta(days=days))
    return (ctx.current_utc_datetime - began).days


def first_of_two(ctx: Context, seconds: float) -> Steps:
    """Wait for an event with a deadline, three times over."""
    won = []
    for _ in range(3):
        event, timer = ctx.wait_for_external_event("go"), ctx.create_timer(timedelta(seconds=seconds))
        winner = yield task.when_any([event, timer])
        won.append("event" if winner is event else "timer")
        (timer if winner is event else event).cancel()
    return won


def child(ctx: Context, given: Any) -> Steps:
    ctx.set_custom_status(given)
    if given == "fail":
        raise ValueError("the child failed")
    if given == "wait":
        return (yield ctx.wait_for_external_event("go"))
    if given == "again":
        ctx.continue_as_new("after")
        return None
    return [given, ctx.parent_instance_id, (yield ctx.call_activity(same, input="own"))]


def parent(ctx: Context, given: list[Any]) -> Steps:
    instance, what = given
    try:
        return (yield ctx.call_sub_orchestrator(child, input=what, instance_id=instance))
    except task.TaskFailedError as error:
        return [error.details.error_type, error.details.message]


def leaves_child(ctx: Context, instance: str) -> Any:
    ctx.call_sub_orchestrator(child, input="left", instance_id=instance)
    return "left"


def leaves_activity(ctx: Context, given: list[Any]) -> Any:
    """Ask for an activity, and do not wait for it."""
    ctx.call_activity(counted, input=given[0])
    if given[1]:
        raise ValueError("on purpose")
    return "left"


def eternal(ctx: Context, given: list[Any]) -> Steps:
    """Collect events over executions."""
    left, got = given
    if not left:
        return got
    ctx.set_custom_status({"left": left})
    got.append((yield ctx.wait_for_external_event("item")))
    ctx.continue_as_new([left - 1, got], save_events=True)
    return None


def forgetful(ctx: Context, left: int) -> Steps:
    """Continue as new while an activity, a timer, a child and a call of an entity are under way."""
    if left:
        ctx.call_activity(same, input="late")
        ctx.create_timer(timedelta(seconds=5))
        ctx.call_sub_orchestrator(child, input="wait", instance_id=f"{ctx.instance_id}.{left}")
        yield ctx.wait_for_external_event("go")
        ctx.continue_as_new(left - 1)
        return None
    return (yield ctx.wait_for_external_event("end"))


def sends(ctx: Context, target: str) -> Any:
    for number in range(3):
        ctx.send_event(target, "Item", data=number)
    return "sent"


def takes(ctx: Context, count: int) -> Steps:
    got = []
    for _ in range(count):
        got.append((yield ctx.wait_for_external_event("item")))
    return got


def clock(ctx: Context, turns: int) -> Steps:
    seen = [ctx.current_utc_datetime.isoformat()]
    for _ in range(turns):
        yield ctx.wait_for_external_event("tick")
        seen.append(ctx.current_utc_datetime.isoformat())
    return seen


def uuids(ctx: Context, _: Any) -> Steps:
    made = [ctx.new_uuid(), ctx.new_uuid()]
    yield ctx.wait_for_external_event("go")
    made += [ctx.new_uuid()]
    yield ctx.wait_for_external_event("go")
    return made


def talks(ctx: Context, _: Any) -> Steps:
    for text in ("ü", None, {"a": [1]}):
        ctx.set_custom_status(text)
        yield ctx.wait_for_external_event("go")
    return "done"


def gives(ctx: Context, length: int) -> Steps:
    return (yield ctx.call_activity(same, input="ü" + "x" * length))


def unserializable(_ctx: Context, _: Any) -> Any:
    return float("nan"), object()


ORCHESTRATORS = [
    adds, fans_out, retries, does_not_catch, timers, many_timers, long_timer, first_of_two, child, parent, leaves_child,
    leaves_activity, eternal, forgetful, sends, takes, clock, uuids, talks, gives, unserializable,
]  # fmt: skip
ACTIVITIES = [double, same, fails_at_first, counted]


@pytest.fixture(scope="module")
def hub() -> Iterator[HubControl]:
    """A hub with durabletask's own worker."""
    logging.getLogger("durabletask-worker").setLevel(logging.ERROR)
    with hub_with_worker(orchestrators=ORCHESTRATORS, activities=ACTIVITIES) as hub:
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


# Activities


def test_activities_run_one_after_another(hub: HubControl) -> None:
    instance = hub.start("adds", 5)
    assert hub.output(instance) == 20
    assert kinds(hub, instance) == [
        "orchestratorStarted", "executionStarted", "taskScheduled", "orchestratorCompleted",
        *["orchestratorStarted", "taskCompleted", "taskScheduled", "orchestratorCompleted"] * 4,
        "orchestratorStarted", "taskCompleted", "orchestratorCompleted", "executionCompleted",
    ]  # fmt: skip


def test_activities_run_side_by_side(hub: HubControl) -> None:
    assert hub.output(hub.start("fans_out", 300)) == [number * 2 for number in range(300)]


def test_an_orchestration_of_ten_thousand_events_ends(hub: HubControl) -> None:
    instance = _started(hub, "many_timers", 5000)
    hub.advance(timedelta(seconds=1))
    assert hub.output(instance) == 5000
    history = hub.history(instance)
    assert len(history) > 10_000
    assert len(hub.client.get_orchestration_history(instance)) == len(history)


def test_a_payload_of_a_megabyte_goes_around(hub: HubControl) -> None:
    assert len(hub.output(hub.start("gives", 1_000_000))) == 1_000_001


def test_an_activity_is_tried_again_at_its_times(hub: HubControl) -> None:
    instance = _started(hub, "retries", ["twice", 2])
    assert _runs["twice"] == 1
    hub.advance(timedelta(seconds=9))
    assert _runs["twice"] == 1
    hub.advance(timedelta(seconds=1))
    assert _runs["twice"] == 2
    hub.advance(timedelta(seconds=19))
    assert _runs["twice"] == 2
    hub.advance(timedelta(seconds=1))
    assert hub.output(instance) == "run 3"


def test_an_activity_is_not_tried_more_often_than_asked_for(hub: HubControl) -> None:
    instance = _started(hub, "retries", ["always", 99])
    hub.advance(timedelta(days=1))
    assert hub.output(instance) == "failure 3 of always"
    assert _runs["always"] == 3


def test_what_an_orchestrator_does_not_catch_fails_it_with_the_details(hub: HubControl) -> None:
    instance = _started(hub, "does_not_catch", "uncaught")
    state = hub.state(instance)
    assert state.runtime_status is FAILED
    assert state.failure_details is not None
    assert "failure 1 of uncaught" in state.failure_details.message
    last = hub.history(instance)[-1].executionCompleted
    assert last.orchestrationStatus == pb.ORCHESTRATION_STATUS_FAILED
    assert last.failureDetails.innerFailure.errorMessage == "failure 1 of uncaught"


@pytest.mark.parametrize("fails", [False, True])
def test_an_activity_that_nobody_waits_for_runs_all_the_same(hub: HubControl, fails: bool) -> None:
    key = f"left {fails}"
    instance = _started(hub, "leaves_activity", [key, fails])
    assert hub.state(instance).runtime_status is (FAILED if fails else COMPLETED)
    assert _runs[key] == 1
    assert kinds(hub, instance)[-1] == "executionCompleted"
    hub.client.purge_orchestration(instance)
    assert hub.client.get_orchestration_state(instance) is None


def test_an_activity_that_fails_without_a_word_fails(quiet: HubControl) -> None:
    quiet.start("any")
    with hand_worker(quiet) as worker:
        worker.turn(worker.take(), schedule(1, "unknown", version="2"))
        item = worker.take()
        assert (item.activityRequest.name, item.activityRequest.version.value) == ("unknown", "2")
        failed = pb.ActivityResponse(completionToken=item.completionToken)
        failed.failureDetails.errorType = "Oh"
        worker.stub.CompleteActivityTask(failed)
        assert worker.take().orchestratorRequest.newEvents[1].taskFailed.failureDetails.errorType == "Oh"


def test_what_cannot_be_an_output_fails_the_orchestration(hub: HubControl) -> None:
    assert hub.state(hub.start("unserializable")).runtime_status is FAILED


# Timers


def test_timers_fire_in_the_order_of_their_times(hub: HubControl) -> None:
    instance = _started(hub, "timers", [30, 10, 20, 0.5, 10.1])
    hub.advance(timedelta(seconds=30))
    assert hub.output(instance) == [0.5, 10, 10.1, 20, 30]


def test_timers_that_are_due_together_fire_in_the_order_of_their_making(hub: HubControl) -> None:
    instance = _started(hub, "timers", [5, 5.0, 5])
    hub.advance(timedelta(seconds=5))
    assert hub.output(instance) == [5, 5.0, 5]
    fired = [e.timerFired.timerId for e in hub.history(instance) if e.HasField("timerFired")]
    assert fired == sorted(fired)


def test_a_timer_in_the_past_fires_at_once(hub: HubControl) -> None:
    assert hub.output(_started(hub, "timers", [0, -60])) == [0, -60]


def test_a_timer_of_a_year_is_made_of_shorter_ones(hub: HubControl) -> None:
    instance = _started(hub, "long_timer", 365)
    hub.advance(timedelta(days=364, hours=23))
    assert hub.state(instance).runtime_status is RUNNING
    hub.advance(timedelta(hours=1))
    assert hub.output(instance) == 365
    assert kinds(hub, instance).count("timerFired") == 122


@pytest.mark.parametrize("pattern", ["eee", "ttt", "ete", "tet"])
def test_a_timer_that_was_cancelled_does_not_end_a_later_wait(hub: HubControl, pattern: str) -> None:
    instance = _started(hub, "first_of_two", 100)
    for letter in pattern:
        if letter == "e":
            hub.advance(timedelta(seconds=60))
            hub.event(instance, "go")
        else:
            hub.advance(timedelta(seconds=100))
        hub.settle()
    assert hub.output(instance) == [{"e": "event", "t": "timer"}[letter] for letter in pattern]


def test_timers_of_an_orchestration_that_has_ended_do_not_fire(hub: HubControl) -> None:
    instance = _started(hub, "timers", [100])
    hub.client.terminate_orchestration(instance)
    before = kinds(hub, instance)
    hub.advance(timedelta(seconds=200))
    assert kinds(hub, instance) == before


# Time, ids, statuses


def test_time_never_goes_back(hub: HubControl) -> None:
    instance = _started(hub, "clock", 5)
    for back in (30, 20, 0, -5, 60):
        set_clock_back(hub, timedelta(seconds=back))
        hub.event(instance, "tick")
        hub.settle()
    seen = [datetime.fromisoformat(each) for each in hub.output(instance)]
    assert seen == sorted(seen)
    stamps = [e.timestamp.ToNanoseconds() for e in hub.history(instance) if e.HasField("orchestratorStarted")]
    assert stamps == sorted(stamps)
    set_clock_back(hub, timedelta(seconds=-120))


def test_time_never_goes_back_while_suspended_either(hub: HubControl) -> None:
    instance = _started(hub, "clock", 2)
    hub.advance(timedelta(seconds=60))
    hub.event(instance, "tick")
    hub.settle()
    set_clock_back(hub, timedelta(seconds=50))
    hub.client.suspend_orchestration(instance)
    hub.client.resume_orchestration(instance)
    hub.event(instance, "tick")
    seen = [datetime.fromisoformat(each) for each in hub.output(instance)]
    assert seen == sorted(seen)
    set_clock_back(hub, timedelta(seconds=-60))


def test_new_ids_are_the_same_at_each_turn(hub: HubControl) -> None:
    instance = _started(hub, "uuids")
    for _ in range(2):
        hub.advance(timedelta(seconds=1))
        hub.event(instance, "go")
        hub.settle()
    made = hub.output(instance)
    assert len(set(made)) == 3


def test_the_custom_status_is_the_last_that_was_set(hub: HubControl) -> None:
    instance = _started(hub, "talks")
    seen = []
    for _ in range(3):
        seen.append(json.loads(hub.state(instance).serialized_custom_status or "null"))
        hub.event(instance, "go")
    assert seen == ["ü", None, {"a": [1]}]
    assert hub.output(instance) == "done"
    assert json.loads(hub.state(instance).serialized_custom_status or "") == {"a": [1]}


# Sub-orchestrations


def test_a_child_gives_its_result_and_knows_its_parent(hub: HubControl) -> None:
    instance = hub.start("parent", [None, "x"])
    assert hub.output(instance) == ["x", instance, "own"]
    created = next(e for e in hub.history(instance) if e.HasField("subOrchestrationInstanceCreated"))
    child_id = created.subOrchestrationInstanceCreated.instanceId
    with stub_of(hub) as stub:
        state = stub.GetInstance(pb.GetInstanceRequest(instanceId=child_id)).orchestrationState
        top = stub.GetInstance(pb.GetInstanceRequest(instanceId=instance)).orchestrationState
    assert state.parentInstanceId.value == instance
    assert not top.HasField("parentInstanceId")
    told = hub.history(child_id)[1].executionStarted.parentInstance
    assert (told.name.value, told.taskScheduledId) == ("parent", created.eventId)


def test_a_child_that_fails_tells_why(hub: HubControl) -> None:
    instance = hub.start("parent", ["failing child", "fail"])
    assert hub.output(instance) == ["builtins.ValueError", "the child failed"]
    assert hub.state("failing child").runtime_status is FAILED


def test_a_child_that_continues_as_new_stays_a_child(hub: HubControl) -> None:
    instance = hub.start("parent", ["renewed child", "again"])
    assert hub.output(instance) == ["after", instance, "own"]


def test_a_child_whose_id_is_taken_fails_without_touching_the_other(hub: HubControl) -> None:
    _started(hub, "takes", 1, "taken")
    assert hub.output(hub.start("parent", ["taken", "x"]))[0] == "OrchestrationAlreadyExists"
    hub.event("taken", "item", 1)
    assert hub.output("taken") == [1]


def test_a_child_may_take_the_id_of_what_has_ended(hub: HubControl) -> None:
    hub.output(hub.start("takes", 0, "ended"))
    assert hub.output(hub.start("parent", ["ended", "x"]))[0] == "x"


def test_a_child_cannot_have_the_id_of_its_parent(hub: HubControl) -> None:
    assert hub.output(hub.start("parent", ["own id", "x"], "own id"))[0] == "OrchestrationAlreadyExists"


def test_a_child_cannot_have_the_id_of_an_entity(hub: HubControl) -> None:
    assert hub.output(hub.start("parent", ["@counter@1", "x"]))[0] == "InvalidId"
    assert hub.client.get_orchestration_state("@counter@1") is None


def test_a_child_that_nobody_waits_for_runs_all_the_same(hub: HubControl) -> None:
    assert hub.output(hub.start("leaves_child", "left child")) == "left"
    assert hub.output("left child")[0] == "left"


def test_a_child_of_an_ended_parent_tells_nobody(hub: HubControl) -> None:
    instance = _started(hub, "parent", ["orphan", "wait"])
    hub.client.terminate_orchestration(instance, recursive=False)
    before = kinds(hub, instance)
    hub.event("orphan", "go", 1)
    assert hub.output("orphan") == 1
    assert kinds(hub, instance) == before


def test_a_child_of_a_purged_parent_tells_nobody(hub: HubControl) -> None:
    instance = _started(hub, "parent", ["orphan 2", "wait"])
    hub.client.terminate_orchestration(instance, recursive=False)
    hub.client.purge_orchestration(instance)
    hub.event("orphan 2", "go", 1)
    assert hub.output("orphan 2") == 1


def test_a_child_of_a_restarted_parent_tells_the_new_one_nothing(hub: HubControl) -> None:
    _started(hub, "parent", ["between", "wait"], "restarted parent")
    hub.client.terminate_orchestration("restarted parent", recursive=False)
    hub.client.restart_orchestration("restarted parent")
    assert hub.output("restarted parent")[0] == "OrchestrationAlreadyExists"
    before = kinds(hub, "restarted parent")
    hub.event("between", "go", 1)
    hub.settle()
    assert kinds(hub, "restarted parent") == before


# Continue as new


def test_events_that_came_too_early_are_carried_over_in_their_order(hub: HubControl) -> None:
    instance = hub.start("eternal", [5, []])
    for number in range(5):
        hub.event(instance, "item", number)
    assert hub.output(instance) == [0, 1, 2, 3, 4]
    state = hub.state(instance)
    assert state.serialized_input is not None
    assert json.loads(state.serialized_input) == [0, [0, 1, 2, 3, 4]]
    assert kinds(hub, instance).count("executionStarted") == 1


def test_an_instance_that_continues_as_new_keeps_its_id_tags_and_creation(hub: HubControl) -> None:
    created = hub.now
    instance = hub.client.schedule_new_orchestration("eternal", input=[2, []], tags={"a": "b"}, version="1")
    hub.settle()
    with stub_of(hub) as stub:
        request = pb.GetInstanceRequest(instanceId=instance)
        first = stub.GetInstance(request).orchestrationState
        hub.advance(timedelta(seconds=5))
        hub.event(instance, "item", 1)
        hub.settle()
        second = stub.GetInstance(request).orchestrationState
    assert second.createdTimestamp.ToDatetime(UTC) == created
    assert dict(second.tags) == {"a": "b"}
    assert second.version.value == "1"
    assert second.customStatus.value == '{"left": 1}'
    assert first.executionId.value != second.executionId.value
    started = hub.history(instance)[1].executionStarted
    assert dict(started.tags) == {"a": "b"}
    assert started.orchestrationInstance.executionId.value == second.executionId.value


def test_answers_to_an_old_execution_do_not_reach_the_new_one(hub: HubControl) -> None:
    instance = _started(hub, "forgetful", 2)
    for _ in range(2):
        hub.event(instance, "go")
        hub.settle()
    hub.advance(timedelta(seconds=10))
    for left in (1, 2):
        hub.event(f"{instance}.{left}", "go", left)
        assert hub.output(f"{instance}.{left}") == left
    hub.settle()
    assert kinds(hub, instance) == ["orchestratorStarted", "executionStarted", "orchestratorCompleted"]
    hub.event(instance, "end", "clean")
    assert hub.output(instance) == "clean"


def test_events_that_come_during_the_last_turn_of_an_execution_reach_the_next(quiet: HubControl) -> None:
    instance = quiet.start("any")
    with hand_worker(quiet) as worker:
        item = worker.take()
        quiet.event(instance, "item", 1)
        carried = pb.HistoryEvent(eventId=-1)
        carried.eventRaised.name = "carried"
        action = complete(2, pb.ORCHESTRATION_STATUS_CONTINUED_AS_NEW)
        action.completeOrchestration.carryoverEvents.append(carried)
        action.completeOrchestration.newVersion.value = "2"
        worker.turn(item, action)
        events = worker.take().orchestratorRequest
    assert not events.pastEvents
    assert events.newEvents[1].executionStarted.version.value == "2"
    assert [e.eventRaised.name for e in events.newEvents[2:]] == ["carried", "item"]


# Events between instances


def test_an_orchestration_sends_events_to_another(hub: HubControl) -> None:
    target = _started(hub, "takes", 3)
    sender = hub.start("sends", target)
    assert hub.output(sender) == "sent"
    assert hub.output(target) == [0, 1, 2]
    assert kinds(hub, sender).count("eventSent") == 3


def test_an_event_to_itself_comes(quiet: HubControl) -> None:
    instance = quiet.start("any")
    action = pb.OrchestratorAction(id=1)
    action.sendEvent.instance.instanceId = instance
    action.sendEvent.name = "self"
    with hand_worker(quiet) as worker:
        worker.turn(worker.take(), action)
        assert worker.take().orchestratorRequest.newEvents[1].eventRaised.name == "self"


@pytest.mark.parametrize("target", ["nobody", "done"])
def test_an_event_to_one_who_cannot_take_it_is_dropped(hub: HubControl, target: str) -> None:
    if target == "done":
        hub.output(hub.start("takes", 0, "done"))
    assert hub.output(hub.start("sends", target)) == "sent"


# What durabletask's own worker does not do, and others do


def test_an_orchestration_terminates_another(quiet: HubControl) -> None:
    quiet.start("victim", instance_id="victim")
    with hand_worker(quiet) as worker:
        worker.turn(worker.take())
        quiet.start("killer")
        action = pb.OrchestratorAction(id=1)
        action.terminateOrchestration.instanceId = "victim"
        action.terminateOrchestration.reason.value = '"because"'
        worker.turn(worker.take(), action, complete())
        assert worker.gets_nothing()
    state = quiet.state("victim")
    assert (state.runtime_status, state.serialized_output) == (TERMINATED, '"because"')


def test_an_orchestration_terminates_itself_after_all_else(quiet: HubControl) -> None:
    instance = quiet.start("any")
    action = pb.OrchestratorAction(id=1)
    action.terminateOrchestration.instanceId = instance
    with hand_worker(quiet) as worker:
        worker.turn(worker.take(), action, custom_status='"last words"')
        assert worker.gets_nothing()
    state = quiet.state(instance)
    assert (state.runtime_status, state.serialized_custom_status) == (TERMINATED, '"last words"')
    assert kinds(quiet, instance).count("executionTerminated") == 1


def test_a_turn_may_do_everything_at_once(quiet: HubControl) -> None:
    """Answers come in as many batches as the hub likes, and none comes twice."""
    instance = quiet.start("any")
    soon = Timestamp()
    soon.FromDatetime(quiet.now + timedelta(seconds=1))
    actions = []
    for number in range(50):
        action = pb.OrchestratorAction(id=number)
        action.createTimer.fireAt.CopyFrom(soon)
        actions.append(action)
    with hand_worker(quiet) as worker:
        worker.turn(worker.take(), *actions)
        quiet.advance(timedelta(seconds=0.9))
        assert worker.gets_nothing()
        clock: Any = quiet.hub.clock

        async def move() -> None:
            clock.set(clock.now() + 200_000)

        quiet._thread.run(move())
        fired: list[int] = []
        while len(fired) < 50:
            item = worker.take()
            fired += [e.timerFired.timerId for e in item.orchestratorRequest.newEvents if e.HasField("timerFired")]
            worker.turn(item)
        assert worker.gets_nothing()
    assert fired == list(range(50))
    assert status(quiet, instance) == "RUNNING"
