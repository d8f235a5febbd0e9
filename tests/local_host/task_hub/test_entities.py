"""Entities, run by durabletask's own worker: operations, state, locks, and what is left when all is done."""

import json
import threading
from collections.abc import Generator, Iterator
from datetime import UTC, timedelta
from typing import Any

import durabletask.internal.orchestrator_service_pb2 as pb
import pytest
from durabletask import task
from durabletask.entities import DurableEntity, EntityContext, EntityInstanceId, EntityLock

from local_host.task_hub import entities
from local_host.testing import HubControl, running_hub
from tests.local_host.task_hub.support import (
    PATIENCE,
    TERMINATED,
    complete,
    hand_worker,
    hub_with_worker,
    kinds,
    kinds_now,
    stub_of,
    until,
)

type Steps = Generator[task.Task[Any], Any, Any]
type Context = task.OrchestrationContext

_gate = threading.Event()
_inside: list[str] = []


class Counter(DurableEntity):
    """Counts, and remembers."""

    def add(self, amount: int) -> int:
        value = int(self.get_state(int, 0)) + amount
        self.set_state(value)
        return value

    def get(self) -> Any:
        return self.get_state()

    def fail(self, amount: int) -> None:
        self.set_state(-amount)
        raise ValueError(f"cannot do {amount}")

    def drop(self) -> None:
        self.set_state(None)

    def slow(self) -> None:
        assert _gate.wait(PATIENCE)

    def big(self, length: int) -> None:
        self.set_state("x" * length)


def log(ctx: EntityContext, given: Any) -> Any:
    """An entity that is a function: a list of what it was given."""
    state = list(ctx.get_state(list, []))
    if ctx.operation == "append":
        ctx.set_state([*state, given])
    elif ctx.operation == "pass_on":
        ctx.signal_entity(EntityInstanceId("log", given), "append", f"from {ctx.entity_id.key}")
    elif ctx.operation == "start":
        ctx.schedule_new_orchestration("started", f"by {ctx.entity_id.key}", instance_id=given)
    return state


def started(_ctx: Context, given: Any) -> Any:
    return given


def adds(ctx: Context, given: list[Any]) -> Steps:
    """Call an entity for each amount."""
    key, amounts = given
    got = []
    for amount in amounts:
        got.append((yield ctx.call_entity(EntityInstanceId("Counter", key), "add", amount)))
    return got


def fails(ctx: Context, key: str) -> Steps:
    counter = EntityInstanceId("counter", key)
    yield ctx.call_entity(counter, "add", 5)
    try:
        yield ctx.call_entity(counter, "fail", 7)
    except task.TaskFailedError as error:
        return [str(error), (yield ctx.call_entity(counter, "get"))]


def calls(ctx: Context, given: list[Any]) -> Steps:
    name, key, operation = given
    return (yield ctx.call_entity(EntityInstanceId(name, key), operation))


def signals(ctx: Context, given: list[Any]) -> Any:
    key, amounts, delay = given
    for amount in amounts:
        at = None if delay is None else ctx.current_utc_datetime + timedelta(seconds=delay)
        ctx.signal_entity(EntityInstanceId("log", key), "append", amount, signal_time=at)
    return "signalled"


def locks(ctx: Context, given: list[Any]) -> Steps:
    """Lock counters, and move one from the first to the others, with a timer in between."""
    keys, seconds = given
    counters = [EntityInstanceId("counter", key) for key in keys]
    with (yield ctx.lock_entities(counters)):
        ctx.set_custom_status("inside")
        before = []
        for counter in counters:
            before.append((yield ctx.call_entity(counter, "get")) or 0)
        yield ctx.create_timer(timedelta(seconds=seconds))
        for counter, value in zip(counters, before, strict=True):
            now = yield ctx.call_entity(counter, "add", 1)
            assert now == value + 1
    return "done"


def locks_and_waits(ctx: Context, given: list[Any]) -> Steps:
    """Lock, and then wait for what is to come."""
    keys, then = given
    lock: EntityLock = yield ctx.lock_entities([EntityInstanceId("counter", key) for key in keys])
    ctx.set_custom_status("inside")
    what = yield ctx.wait_for_external_event("go")
    if then == "fail":
        raise ValueError("inside the lock")
    if then == "leave":
        return what
    if then == "again":
        ctx.continue_as_new([keys, "end"])
        return None
    with lock:
        return what


def gives_up_then_waits(ctx: Context, key: str | None) -> Steps:
    """Ask for a lock, and continue as new before it is given."""
    if key is not None:
        ctx.lock_entities([EntityInstanceId("counter", key)])
        yield ctx.wait_for_external_event("go")
        ctx.continue_as_new(None)
        return None
    return (yield ctx.wait_for_external_event("end"))


def calls_and_renews(ctx: Context, key: str | None) -> Steps:
    """Call an entity, and continue as new before it answers."""
    if key is not None:
        ctx.call_entity(EntityInstanceId("counter", key), "add", 1)
        yield ctx.wait_for_external_event("go")
        ctx.continue_as_new(None)
        return None
    return (yield ctx.wait_for_external_event("end"))


ORCHESTRATORS = [
    started, adds, fails, calls, signals, locks, locks_and_waits, gives_up_then_waits, calls_and_renews,
]  # fmt: skip


@pytest.fixture(scope="module")
def hub() -> Iterator[HubControl]:
    """A hub with durabletask's own worker."""
    _gate.set()
    with hub_with_worker(orchestrators=ORCHESTRATORS, entities=[Counter, log]) as hub:
        yield hub


@pytest.fixture
def quiet() -> Iterator[HubControl]:
    """A hub without a worker, for one test."""
    with running_hub() as hub:
        yield hub


def _signal(hub: HubControl, name: str, key: str, operation: str, given: Any = None, **more: Any) -> None:
    hub.client.signal_entity(EntityInstanceId(name, key), operation, given, **more)


def _state(hub: HubControl, name: str, key: str) -> Any:
    hub.settle()
    found = hub.client.get_entity(EntityInstanceId(name, key))
    assert found is not None
    return json.loads(found.get_state() or "null")


def _started(hub: HubControl, name: str, given: Any = None) -> str:
    instance = hub.start(name, given)
    hub.settle()
    return instance


def _locked_by(hub: HubControl, key: str) -> str | None:
    hub.settle()
    with stub_of(hub) as stub:  # durabletask's own client takes only entities for holders
        found = stub.GetEntity(pb.GetEntityRequest(instanceId=f"@counter@{key}")).entity
    return str(found.lockedBy.value) if found.HasField("lockedBy") else None


# Operations


def test_an_entity_keeps_its_state_over_its_operations(hub: HubControl) -> None:
    assert hub.output(hub.start("adds", ["sum", [1, 2, 3]])) == [1, 3, 6]
    assert hub.output(hub.start("adds", ["sum", [4]])) == [10]
    assert _state(hub, "counter", "sum") == 10


def test_signals_are_taken_in_their_order(hub: HubControl) -> None:
    for number in range(300):
        _signal(hub, "log", "order", "append", number)
    assert _state(hub, "log", "order") == list(range(300))


def test_more_signals_than_a_batch_takes_come_in_their_order(
    quiet: HubControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entities, "LARGEST_BATCH", 10)
    for number in range(25):
        _signal(quiet, "log", "many", str(number))
    came: list[list[str]] = []
    with hand_worker(quiet) as worker:
        for _ in range(3):
            item = worker.take()
            operations = item.entityRequestV2.operationRequests
            came.append([each.entityOperationSignaled.operation for each in operations])
            worker.entity(item, "1", *([None] * len(operations)))
        assert worker.gets_nothing()
    assert [len(each) for each in came] == [10, 10, 5]
    assert [name for each in came for name in each] == [str(number) for number in range(25)]


def test_signals_of_an_orchestration_are_taken_in_their_order(hub: HubControl) -> None:
    assert hub.output(hub.start("signals", ["from within", [1, 2, 3], None])) == "signalled"
    assert _state(hub, "log", "from within") == [1, 2, 3]


@pytest.mark.parametrize("within", [True, False], ids=["of an orchestration", "of a client"])
def test_a_delayed_signal_waits_for_its_time(hub: HubControl, within: bool) -> None:
    key = f"delayed {within}"
    if within:
        _started(hub, "signals", [key, ["late"], 60])
    else:
        _signal(hub, "log", key, "append", "late", signal_time=hub.now + timedelta(seconds=60))
    _signal(hub, "log", key, "append", "early")
    assert _state(hub, "log", key) == ["early"]
    hub.advance(timedelta(seconds=59))
    assert _state(hub, "log", key) == ["early"]
    hub.advance(timedelta(seconds=1))
    assert _state(hub, "log", key) == ["early", "late"]


def test_a_signal_for_the_past_is_a_signal_for_now(hub: HubControl) -> None:
    _signal(hub, "log", "past", "append", 1, signal_time=hub.now - timedelta(days=1))
    assert _state(hub, "log", "past") == [1]


def test_the_end_of_an_orchestration_keeps_the_delayed_signals_it_has_sent(hub: HubControl) -> None:
    instance = _started(hub, "signals", ["kept", ["late"], 60])
    assert hub.client.purge_orchestration(instance).deleted_instance_count == 1
    hub.advance(timedelta(seconds=60))
    assert _state(hub, "log", "kept") == ["late"]


def test_an_operation_that_fails_keeps_the_state_and_tells_why(hub: HubControl) -> None:
    told, value = hub.output(hub.start("fails", "failing"))
    assert "cannot do 7" in told
    assert value == 5


def test_an_operation_that_fails_does_not_keep_the_others_of_its_batch(quiet: HubControl) -> None:
    caller = quiet.start("any")
    called = pb.OrchestratorAction(id=1)
    called.sendEntityMessage.entityOperationCalled.requestId = "r1"
    called.sendEntityMessage.entityOperationCalled.parentInstanceId.value = caller
    called.sendEntityMessage.entityOperationCalled.targetInstanceId.value = "@counter@1"
    again = pb.OrchestratorAction()
    again.CopyFrom(called)
    again.id, again.sendEntityMessage.entityOperationCalled.requestId = 2, "r2"
    with hand_worker(quiet) as worker:
        worker.turn(worker.take(), called, again)
        item = worker.take()
        answer = pb.EntityBatchResult(completionToken=item.completionToken)
        answer.results.add().failure.failureDetails.errorMessage = "no"
        answer.results.add().success.result.value = "2"
        worker.stub.CompleteEntityTask(answer)
        events = worker.take().orchestratorRequest.newEvents
    assert events[1].entityOperationFailed.requestId == "r1"
    assert events[1].entityOperationFailed.failureDetails.errorMessage == "no"
    assert (events[2].entityOperationCompleted.requestId, events[2].entityOperationCompleted.output.value) == (
        "r2",
        "2",
    )


def test_a_batch_that_fails_as_a_whole_fails_each_of_its_calls(quiet: HubControl) -> None:
    caller = quiet.start("any")
    called = pb.OrchestratorAction(id=1)
    called.sendEntityMessage.entityOperationCalled.requestId = "r1"
    called.sendEntityMessage.entityOperationCalled.parentInstanceId.value = caller
    called.sendEntityMessage.entityOperationCalled.targetInstanceId.value = "@counter@1"
    with hand_worker(quiet) as worker:
        worker.turn(worker.take(), called)
        answer = pb.EntityBatchResult(completionToken=worker.take().completionToken)
        answer.failureDetails.errorMessage = "all"
        worker.stub.CompleteEntityTask(answer)
        events = worker.take().orchestratorRequest.newEvents
        assert worker.gets_nothing()
    assert events[1].entityOperationFailed.failureDetails.errorMessage == "all"


@pytest.mark.parametrize(("name", "operation"), [("counter", "unknown"), ("nobody", "add")])
def test_what_an_entity_cannot_do_fails_the_caller(hub: HubControl, name: str, operation: str) -> None:
    state = hub.state(hub.start("calls", [name, "x", operation]))
    assert state.runtime_status.name == "FAILED"


def test_entities_signal_entities_and_start_orchestrations(hub: HubControl) -> None:
    _signal(hub, "log", "first", "pass_on", "second")
    assert _state(hub, "log", "second") == ["from first"]
    _signal(hub, "log", "first", "start", "child of an entity")
    hub.settle()
    assert hub.output("child of an entity") == "by first"
    _signal(hub, "log", "second", "start", "child of an entity")
    assert hub.output("child of an entity") == "by second"


def test_an_orchestration_that_runs_is_not_replaced_by_an_entity(hub: HubControl) -> None:
    hub.client.schedule_new_orchestration("started", input="mine", instance_id="later", start_at=hub.now + timedelta(1))
    _signal(hub, "log", "third", "start", "later")
    _signal(hub, "log", "third", "append", "goes on")
    assert _state(hub, "log", "third") == ["goes on"]
    hub.advance(timedelta(days=1))
    assert hub.output("later") == "mine"


def test_an_entity_cannot_start_an_orchestration_with_the_id_of_an_entity(hub: HubControl) -> None:
    _signal(hub, "log", "fourth", "start", "@log@fourth")
    _signal(hub, "log", "fourth", "append", "goes on")
    assert _state(hub, "log", "fourth") == ["goes on"]
    assert hub.client.get_orchestration_state("@log@fourth") is None


def test_an_entity_may_signal_and_start_for_later(quiet: HubControl) -> None:
    _signal(quiet, "log", "planner", "plan")
    later = quiet.now + timedelta(hours=1)
    with hand_worker(quiet) as worker:
        answer = pb.EntityBatchResult(completionToken=worker.take().completionToken)
        answer.results.add().success.SetInParent()
        signal = answer.actions.add().sendSignal
        signal.instanceId, signal.name = "@log@other", "append"
        signal.scheduledTime.FromDatetime(later)
        start = answer.actions.add().startNewOrchestration
        start.instanceId, start.name = "planned", "any"
        start.scheduledTime.FromDatetime(later)
        worker.stub.CompleteEntityTask(answer)
        assert worker.gets_nothing()
        quiet.advance(timedelta(minutes=59))
        assert worker.gets_nothing()
        clock: Any = quiet.hub.clock

        async def move() -> None:
            clock.set(clock.now() + 60_000_000)

        quiet._thread.run(move())
        kinds_ = {str(worker.take().WhichOneof("request")) for _ in range(2)}
    assert kinds_ == {"orchestratorRequest", "entityRequestV2"}


def test_a_state_may_be_a_megabyte(hub: HubControl) -> None:
    _signal(hub, "counter", "big", "big", 1_000_000)
    assert len(_state(hub, "counter", "big")) == 1_000_000


def test_keys_may_have_any_characters(hub: HubControl) -> None:
    for key in ("ü 漢🎉", "a/b?c", "'; DROP TABLE entities; --", " "):
        _signal(hub, "log", key, "append", key)
        assert _state(hub, "log", key) == [key]


def test_a_worker_that_dies_in_the_middle_does_not_lose_or_double_operations(quiet: HubControl) -> None:
    _signal(quiet, "log", "x", "one")
    with hand_worker(quiet) as first:
        first.take()
        _signal(quiet, "log", "x", "two")
    with hand_worker(quiet) as second:
        item = second.take()
        names = [e.entityOperationSignaled.operation for e in item.entityRequestV2.operationRequests]
        assert names == ["one", "two"]
        second.entity(item, "2", None, None)
        assert second.gets_nothing()
    assert _state(quiet, "log", "x") == 2


def test_operations_without_a_result_are_handed_out_again(quiet: HubControl) -> None:
    for name in ("one", "two", "three"):
        _signal(quiet, "log", "x", name)
    with hand_worker(quiet) as worker:
        worker.entity(worker.take(), "1", None)
        item = worker.take()
        assert item.entityRequestV2.entityState.value == "1"
        names = [e.entityOperationSignaled.operation for e in item.entityRequestV2.operationRequests]
        assert names == ["two", "three"]


# Answers to those who do not wait any more


def test_the_answer_to_an_old_execution_does_not_reach_the_new_one(quiet: HubControl) -> None:
    caller = quiet.start("any")
    called = pb.OrchestratorAction(id=1)
    called.sendEntityMessage.entityOperationCalled.requestId = "r1"
    called.sendEntityMessage.entityOperationCalled.parentInstanceId.value = caller
    called.sendEntityMessage.entityOperationCalled.targetInstanceId.value = "@counter@1"
    with hand_worker(quiet) as worker:
        worker.turn(worker.take(), called)
        operation = worker.take()
        quiet.event(caller, "go")
        worker.turn(worker.take(), complete(None, pb.ORCHESTRATION_STATUS_CONTINUED_AS_NEW))
        worker.turn(worker.take())
        worker.entity(operation, "1", 1)
        assert worker.gets_nothing()
    assert "entityOperationCompleted" not in kinds(quiet, caller)
    assert _state(quiet, "counter", "1") == 1


def test_the_answer_to_an_instance_does_not_reach_one_that_was_started_with_its_id(quiet: HubControl) -> None:
    caller = quiet.start("any")
    called = pb.OrchestratorAction(id=1)
    called.sendEntityMessage.entityOperationCalled.requestId = "r1"
    called.sendEntityMessage.entityOperationCalled.parentInstanceId.value = caller
    called.sendEntityMessage.entityOperationCalled.targetInstanceId.value = "@counter@1"
    with hand_worker(quiet) as worker:
        worker.turn(worker.take(), called)
        operation = worker.take()
        quiet.client.terminate_orchestration(caller)
        quiet.client.restart_orchestration(caller)
        worker.turn(worker.take())
        worker.entity(operation, "1", 1)
        assert worker.gets_nothing()


def test_an_orchestration_that_renews_itself_while_an_entity_works_goes_on(hub: HubControl) -> None:
    _gate.clear()
    _signal(hub, "counter", "busy", "slow")
    instance = hub.start("calls_and_renews", "busy")
    hub.event(instance, "go")
    until(lambda: kinds_now(hub, instance) == ["orchestratorStarted", "executionStarted", "orchestratorCompleted"])
    _gate.set()
    hub.settle()
    hub.event(instance, "end", "fine")
    assert hub.output(instance) == "fine"
    assert _state(hub, "counter", "busy") == 1


# Locks


def test_two_who_lock_several_entities_take_turns(hub: HubControl) -> None:
    instances = [hub.start("locks", [keys, 10]) for keys in (["a", "b", "c"], ["c", "b", "a"], ["b", "c"], ["a"])]
    hub.settle()
    for _ in range(4):
        hub.advance(timedelta(seconds=10))
    assert [hub.output(each) for each in instances] == ["done"] * 4
    assert [_state(hub, "counter", key) for key in "abc"] == [3, 3, 3]
    assert [_locked_by(hub, key) for key in "abc"] == [None] * 3


def test_many_who_lock_the_same_all_come_to_it(hub: HubControl) -> None:
    instances = [hub.start("locks", [["m1", "m2"] if number % 2 else ["m2", "m1"], 0]) for number in range(20)]
    assert [hub.output(each) for each in instances] == ["done"] * 20
    assert _state(hub, "counter", "m1") == 20
    assert _state(hub, "counter", "m2") == 20


def test_others_wait_while_an_entity_is_locked_and_come_in_their_order(hub: HubControl) -> None:
    holder = _started(hub, "locks_and_waits", [["held"], "end"])
    assert _locked_by(hub, "held") == holder
    _signal(hub, "counter", "held", "add", 5)
    caller = _started(hub, "adds", ["held", [1]])
    found = hub.client.get_entity(EntityInstanceId("counter", "held"))
    assert found is not None
    assert (found.backlog_queue_size, found.get_state()) == (2, "")
    assert hub.state(caller).runtime_status.name == "RUNNING"
    hub.event(holder, "go")
    assert hub.output(caller) == [6]
    assert _locked_by(hub, "held") is None


def test_a_lock_that_comes_together_with_operations_waits_for_them(quiet: HubControl) -> None:
    """The operations and the request for the lock are there at once: they become ready in one go."""
    holder = quiet.start("holder")
    signal, lock = pb.OrchestratorAction(id=1), pb.OrchestratorAction(id=2)
    signal.sendEntityMessage.entityOperationSignaled.targetInstanceId.value = "@counter@1"
    signal.sendEntityMessage.entityOperationSignaled.operation = "first"
    lock.sendEntityMessage.entityLockRequested.criticalSectionId = "section"
    lock.sendEntityMessage.entityLockRequested.parentInstanceId.value = holder
    lock.sendEntityMessage.entityLockRequested.lockSet.append("@counter@1")
    with hand_worker(quiet) as worker:
        worker.turn(worker.take(), signal, lock)
        item = worker.take()
        names = [e.entityOperationSignaled.operation for e in item.entityRequestV2.operationRequests]
        assert names == ["first"]
        worker.entity(item, "1", None)
        granted = worker.take().orchestratorRequest.newEvents[1].entityLockGranted
    assert granted.criticalSectionId == "section"


@pytest.mark.parametrize("then", ["end", "fail", "leave", "again"])
def test_a_lock_ends_with_its_section_however_that_ends(hub: HubControl, then: str) -> None:
    keys = [f"{then} 1", f"{then} 2"]
    holder = _started(hub, "locks_and_waits", [keys, then])
    assert [_locked_by(hub, key) for key in keys] == [holder] * 2
    callers = [_started(hub, "adds", [key, [1]]) for key in keys]
    hub.event(holder, "go")
    hub.settle()
    if then == "again":
        hub.event(holder, "go")
    assert [hub.output(each) for each in callers] == [[1], [1]]
    hub.settle()
    assert [_locked_by(hub, key) for key in keys] == [None] * 2


@pytest.mark.parametrize("how", ["terminate", "replace"])
def test_a_lock_ends_with_its_holder(hub: HubControl, how: str) -> None:
    key = f"holder {how}"
    holder = _started(hub, "locks_and_waits", [[key], "end"])
    caller = _started(hub, "adds", [key, [1]])
    assert _locked_by(hub, key) == holder
    if how == "terminate":
        hub.client.terminate_orchestration(holder)
        hub.client.purge_orchestration(holder)
    else:
        policy = pb.OrchestrationIdReusePolicy(replaceableStatus=[pb.ORCHESTRATION_STATUS_RUNNING])
        hub.client.schedule_new_orchestration("started", instance_id=holder, reuse_id_policy=policy)
    assert hub.output(caller) == [1]
    assert _locked_by(hub, key) is None


def test_who_ends_while_it_waits_for_a_lock_leaves_none_behind(hub: HubControl) -> None:
    holder = _started(hub, "locks_and_waits", [["w2"], "end"])
    waiter = _started(hub, "locks_and_waits", [["w1", "w2", "w3"], "end"])
    assert (_locked_by(hub, "w1"), _locked_by(hub, "w2"), _locked_by(hub, "w3")) == (waiter, holder, None)
    hub.client.terminate_orchestration(waiter)
    assert hub.state(waiter).runtime_status is TERMINATED
    assert _locked_by(hub, "w1") is None
    hub.event(holder, "go")
    assert [_locked_by(hub, key) for key in ("w1", "w2", "w3")] == [None] * 3
    assert hub.output(hub.start("adds", ["w2", [1]])) == [1]


def test_who_renews_itself_while_it_waits_for_a_lock_does_not_get_it(hub: HubControl) -> None:
    holder = _started(hub, "locks_and_waits", [["given up"], "end"])
    waiter = _started(hub, "gives_up_then_waits", "given up")
    hub.event(waiter, "go")
    hub.settle()
    hub.event(holder, "go")
    assert hub.output(holder) is None
    assert _locked_by(hub, "given up") is None
    assert hub.output(hub.start("adds", ["given up", [1]])) == [1]
    hub.event(waiter, "end", "fine")
    assert hub.output(waiter) == "fine"


def test_an_entity_that_is_only_locked_has_no_state(hub: HubControl) -> None:
    holder = _started(hub, "locks_and_waits", [["stateless"], "end"])
    found = hub.client.get_entity(EntityInstanceId("counter", "stateless"))
    assert found is not None
    assert found.get_state() == ""
    hub.event(holder, "go")
    hub.settle()


# Reading, deleting, cleaning


def test_an_entity_that_nobody_has_met_is_not_there(hub: HubControl) -> None:
    assert hub.client.get_entity(EntityInstanceId("counter", "stranger")) is None


def test_what_is_known_of_an_entity(hub: HubControl) -> None:
    _signal(hub, "counter", "known", "add", 3)
    hub.settle()
    with stub_of(hub) as stub:
        full = stub.GetEntity(pb.GetEntityRequest(instanceId="@counter@known", includeState=True))
        bare = stub.GetEntity(pb.GetEntityRequest(instanceId="@counter@known"))
    assert full.exists
    assert full.entity.serializedState.value == "3"
    assert full.entity.lastModifiedTime.ToDatetime(UTC) == hub.now
    assert full.entity.backlogQueueSize == 0
    assert not full.entity.HasField("lockedBy")
    assert not bare.entity.HasField("serializedState")


def test_an_entity_that_was_dropped_begins_anew(hub: HubControl) -> None:
    _signal(hub, "counter", "dropped", "add", 3)
    _signal(hub, "counter", "dropped", "drop")
    assert _state(hub, "counter", "dropped") is None
    assert hub.output(hub.start("adds", ["dropped", [1]])) == [1]


def test_cleaning_deletes_what_holds_nothing_and_nothing_else() -> None:
    with hub_with_worker(orchestrators=ORCHESTRATORS, entities=[Counter, log]) as hub:
        for key in ("full", "empty"):
            _signal(hub, "counter", key, "add", 1)
        _signal(hub, "counter", "empty", "drop")
        _signal(hub, "counter", "planned", "add", 1, signal_time=hub.now + timedelta(hours=1))
        holder = _started(hub, "locks_and_waits", [["locked"], "end"])
        hub.settle()
        nothing = hub.client.clean_entity_storage(remove_empty_entities=False, release_orphaned_locks=True)
        assert (nothing.empty_entities_removed, nothing.orphaned_locks_released) == (0, 0)
        cleaned = hub.client.clean_entity_storage()
        assert (cleaned.empty_entities_removed, cleaned.orphaned_locks_released) == (1, 0)
        assert hub.client.get_entity(EntityInstanceId("counter", "empty")) is None
        assert _state(hub, "counter", "full") == 1
        assert _locked_by(hub, "locked") == holder
        hub.advance(timedelta(hours=1))
        assert _state(hub, "counter", "planned") == 1

        # Purging single entities.
        def purge(entity_id: str) -> int:
            with stub_of(hub) as stub:
                answer = stub.PurgeInstances(pb.PurgeInstancesRequest(instanceId=entity_id))
                return int(answer.deletedInstanceCount)

        _signal(hub, "counter", "planned again", "add", 1, signal_time=hub.now + timedelta(hours=1))
        hub.settle()
        assert [purge(f"@counter@{key}") for key in ("full", "full", "locked", "nobody", "planned again")] == [
            1, 0, 0, 0, 0,
        ]  # fmt: skip
        hub.advance(timedelta(hours=1))
        assert _state(hub, "counter", "planned again") == 1


def test_an_orphaned_lock_is_released_by_cleaning(quiet: HubControl) -> None:
    _signal(quiet, "counter", "1", "add")

    async def orphan() -> None:
        await quiet.hub.execute(lambda tx: tx.run("UPDATE entities SET locked_by = 999, lock_section = 'gone'"))

    quiet._thread.run(orphan())
    with hand_worker(quiet) as worker:
        assert worker.gets_nothing()
        assert quiet.client.clean_entity_storage(release_orphaned_locks=False).orphaned_locks_released == 0
        assert quiet.client.clean_entity_storage(remove_empty_entities=False).orphaned_locks_released == 1
        assert worker.take().entityRequestV2.instanceId == "@counter@1"
