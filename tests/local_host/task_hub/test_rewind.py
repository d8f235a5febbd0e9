"""Rewinding what has failed: only what failed runs again, and nothing that was under way is lost."""

import threading
from collections.abc import Generator, Iterator
from datetime import timedelta
from typing import Any

import durabletask.internal.orchestrator_service_pb2 as pb
import grpc
import pytest
from durabletask import task

from local_host.testing import HubControl, running_hub
from tests.local_host.task_hub.support import (
    COMPLETED,
    FAILED,
    PATIENCE,
    RUNNING,
    TERMINATED,
    complete,
    hand_worker,
    hub_with_worker,
    kinds,
    refused,
    until,
)

type Steps = Generator[task.Task[Any], Any, Any]
type Context = task.OrchestrationContext

_runs: dict[str, int] = {}
_gate = threading.Event()


def lucky_at(_ctx: task.ActivityContext, given: list[Any]) -> str:
    """Fail until the run of this number."""
    key, number = given
    _runs[key] = _runs.get(key, 0) + 1
    if _runs[key] < number:
        raise RuntimeError(f"no luck with {key}")
    return f"{key} {_runs[key]}"


def slow(_ctx: task.ActivityContext, key: str) -> str:
    _runs[key] = _runs.get(key, 0) + 1
    assert _gate.wait(PATIENCE)
    return f"slow {key}"


def steps(ctx: Context, given: list[list[Any]]) -> Steps:
    """Run activities one after another."""
    done = []
    for each in given:
        done.append((yield ctx.call_activity(lucky_at, input=each)))
    return done


def together(ctx: Context, key: str) -> Steps:
    """Fail while another activity runs."""
    waiting = ctx.call_activity(slow, input=f"{key} slow")
    yield ctx.call_activity(lucky_at, input=[key, 2])
    return (yield waiting)


def with_timer(ctx: Context, key: str) -> Steps:
    """Fail while a timer is set."""
    timer = ctx.create_timer(timedelta(hours=1))
    yield ctx.call_activity(lucky_at, input=[key, 2])
    yield timer
    return "timer fired"


def child(ctx: Context, given: list[Any]) -> Steps:
    return (yield ctx.call_activity(lucky_at, input=given))


def waiting_child(ctx: Context, _: Any) -> Steps:
    return (yield ctx.wait_for_external_event("go"))


def parent(ctx: Context, given: list[list[Any]]) -> Steps:
    done = []
    for number, each in enumerate(given):
        done.append((yield ctx.call_sub_orchestrator(child, input=each, instance_id=f"{ctx.instance_id}.{number}")))
    return done


def grandparent(ctx: Context, given: list[list[Any]]) -> Steps:
    return (yield ctx.call_sub_orchestrator(parent, input=given, instance_id=f"{ctx.instance_id}.p"))


def parent_of_waiting(ctx: Context, key: str) -> Steps:
    """Fail while a child waits."""
    waiting = ctx.call_sub_orchestrator(waiting_child, instance_id=f"{ctx.instance_id}.w")
    yield ctx.call_activity(lucky_at, input=[key, 2])
    try:
        return (yield waiting)
    except task.TaskFailedError as error:
        return error.details.error_type


def then_event(ctx: Context, key: str) -> Steps:
    yield ctx.call_activity(lucky_at, input=[key, 2])
    return (yield ctx.wait_for_external_event("item"))


def broken(_ctx: Context, _: Any) -> Any:
    raise ValueError("always")


def parent_of(ctx: Context, instance_id: str) -> Steps:
    """Call a sub-orchestration whose id is taken."""
    return (yield ctx.call_sub_orchestrator(waiting_child, instance_id=instance_id))


def quick(_ctx: Context, _: Any) -> str:
    return "quick"


@pytest.fixture(scope="module")
def hub() -> Iterator[HubControl]:
    """A hub with durabletask's own worker."""
    orchestrators = [
        steps, together, with_timer, child, waiting_child, parent, grandparent, parent_of_waiting, then_event, broken,
        quick, parent_of,
    ]  # fmt: skip
    with hub_with_worker(orchestrators=orchestrators, activities=[lucky_at, slow]) as hub:
        yield hub


def _failed(hub: HubControl, name: str, given: Any) -> str:
    instance = hub.start(name, given)
    assert hub.state(instance).runtime_status is FAILED
    return instance


def test_only_what_failed_runs_again(hub: HubControl) -> None:
    instance = _failed(hub, "steps", [["a", 1], ["b", 2], ["c", 1]])
    hub.client.rewind_orchestration(instance, reason="fixed")
    assert hub.output(instance) == ["a 1", "b 2", "c 1"]
    assert (_runs["a"], _runs["b"], _runs["c"]) == (1, 2, 1)
    state = hub.state(instance)
    assert state.failure_details is None
    history = kinds(hub, instance)
    assert "taskFailed" not in history
    assert history.count("executionCompleted") == 1
    rewound = [e.executionRewound.reason.value for e in hub.history(instance) if e.HasField("executionRewound")]
    assert rewound == ["fixed"]


def test_what_fails_again_may_be_rewound_again(hub: HubControl) -> None:
    instance = _failed(hub, "steps", [["d", 1], ["e", 4]])
    for run in (2, 3):
        hub.client.rewind_orchestration(instance)
        assert hub.state(instance).runtime_status is FAILED
        assert _runs["e"] == run
    hub.client.rewind_orchestration(instance)
    assert hub.output(instance) == ["d 1", "e 4"]
    assert _runs["d"] == 1


def test_what_fails_by_itself_fails_again(hub: HubControl) -> None:
    instance = _failed(hub, "broken", None)
    hub.client.rewind_orchestration(instance)
    state = hub.state(instance)
    assert state.runtime_status is FAILED
    assert state.failure_details is not None
    assert "always" in state.failure_details.message


@pytest.mark.parametrize("end", [COMPLETED, TERMINATED, RUNNING])
def test_what_has_not_failed_is_not_rewound(hub: HubControl, end: Any) -> None:
    instance = hub.start("quick" if end is COMPLETED else "waiting_child")
    hub.settle()
    if end is TERMINATED:
        hub.client.terminate_orchestration(instance)
    before = hub.state(instance)
    with refused(grpc.StatusCode.FAILED_PRECONDITION):
        hub.client.rewind_orchestration(instance)
    assert hub.state(instance) == before


def test_what_is_being_rewound_is_not_rewound_a_second_time(hub: HubControl) -> None:
    instance = _failed(hub, "then_event", "f")
    hub.client.rewind_orchestration(instance)
    with refused(grpc.StatusCode.FAILED_PRECONDITION):
        hub.client.rewind_orchestration(instance)
    hub.event(instance, "item", "x")
    assert hub.output(instance) == "x"


def test_events_that_come_right_after_a_rewind_are_not_lost(hub: HubControl) -> None:
    for number in range(5):
        instance = _failed(hub, "then_event", f"g{number}")
        hub.client.rewind_orchestration(instance)
        hub.event(instance, "item", number)
        assert hub.output(instance) == number


def test_a_rewind_that_is_suspended_at_once_goes_on_when_it_is_resumed(hub: HubControl) -> None:
    for number in range(5):
        instance = _failed(hub, "then_event", f"h{number}")
        hub.client.rewind_orchestration(instance)
        hub.client.suspend_orchestration(instance)
        hub.settle()
        hub.event(instance, "item", number)
        hub.client.resume_orchestration(instance)
        assert hub.output(instance) == number


def test_failed_children_are_rewound_with_their_parents(hub: HubControl) -> None:
    root = _failed(hub, "grandparent", [["i", 1], ["j", 2]])
    hub.client.rewind_orchestration(root)
    assert hub.output(root) == ["i 1", "j 2"]
    assert (_runs["i"], _runs["j"]) == (1, 2)
    for each in (f"{root}.p", f"{root}.p.0", f"{root}.p.1"):
        assert hub.state(each).runtime_status is COMPLETED


def test_children_that_fail_again_fail_their_parents_again(hub: HubControl) -> None:
    root = _failed(hub, "parent", [["k", 3]])
    hub.client.rewind_orchestration(root)
    assert hub.state(root).runtime_status is FAILED
    hub.client.rewind_orchestration(root)
    assert hub.output(root) == ["k 3"]


def test_a_failed_child_that_was_purged_runs_afresh(hub: HubControl) -> None:
    root = _failed(hub, "parent", [["l", 1], ["m", 2]])
    assert hub.client.purge_orchestration(f"{root}.1").deleted_instance_count == 1
    hub.client.rewind_orchestration(root)
    assert hub.output(root) == ["l 1", "m 2"]


def test_a_failed_child_that_was_restarted_on_its_own_is_heard(hub: HubControl) -> None:
    root = _failed(hub, "parent", [["n", 2]])
    hub.client.restart_orchestration(f"{root}.0")
    assert hub.output(f"{root}.0") == "n 2"
    hub.client.rewind_orchestration(root)
    assert hub.output(root) == ["n 2"]
    assert _runs["n"] == 2


def test_an_activity_that_still_runs_is_heard_after_the_rewind(hub: HubControl) -> None:
    _gate.clear()
    instance = hub.start("together", "o")
    assert hub.client.wait_for_orchestration_completion(instance, timeout=PATIENCE) is not None
    hub.client.rewind_orchestration(instance)
    until(lambda: _runs["o"] == 2)
    _gate.set()
    assert hub.output(instance) == "slow o slow"
    assert _runs["o slow"] == 1


def test_an_activity_that_ended_while_nobody_listened_runs_again(hub: HubControl) -> None:
    _gate.clear()
    instance = hub.start("together", "p")
    assert hub.client.wait_for_orchestration_completion(instance, timeout=PATIENCE) is not None
    _gate.set()
    hub.settle()
    hub.client.rewind_orchestration(instance)
    assert hub.output(instance) == "slow p slow"
    assert _runs["p slow"] == 2


@pytest.mark.parametrize("early", [True, False], ids=["before it is due", "after it was due"])
def test_a_timer_fires_after_the_rewind(hub: HubControl, early: bool) -> None:
    instance = _failed(hub, "with_timer", f"q{early}")
    hub.advance(timedelta(minutes=10 if early else 90))
    hub.client.rewind_orchestration(instance)
    if early:
        assert hub.state(instance).runtime_status is RUNNING
        hub.advance(timedelta(minutes=49))
        assert hub.state(instance).runtime_status is RUNNING
        hub.advance(timedelta(minutes=1))
    assert hub.output(instance) == "timer fired"


def test_a_child_that_still_waits_is_heard_after_the_rewind(hub: HubControl) -> None:
    instance = _failed(hub, "parent_of_waiting", "r")
    hub.client.rewind_orchestration(instance)
    assert hub.state(instance).runtime_status is RUNNING
    hub.event(f"{instance}.w", "go", "late")
    assert hub.output(instance) == "late"


def test_a_child_that_ended_while_nobody_listened_is_heard_after_the_rewind(hub: HubControl) -> None:
    instance = _failed(hub, "parent_of_waiting", "s")
    hub.event(f"{instance}.w", "go", "early")
    assert hub.output(f"{instance}.w") == "early"
    hub.client.rewind_orchestration(instance)
    assert hub.output(instance) == "early"


def test_a_child_that_was_terminated_while_nobody_listened_is_heard_after_the_rewind(hub: HubControl) -> None:
    instance = _failed(hub, "parent_of_waiting", "t")
    hub.client.terminate_orchestration(f"{instance}.w")
    hub.client.rewind_orchestration(instance)
    assert hub.output(instance) == "Terminated"


def test_what_was_rewound_may_be_terminated_and_purged(hub: HubControl) -> None:
    instance = _failed(hub, "then_event", "u")
    hub.client.rewind_orchestration(instance)
    hub.settle()
    hub.client.terminate_orchestration(instance)
    assert hub.state(instance).runtime_status is TERMINATED
    assert hub.client.purge_orchestration(instance).deleted_instance_count == 1


def test_a_rewind_comes_to_the_worker_alone_whatever_came_after_it() -> None:
    with running_hub() as quiet:
        instance = quiet.start("any")
        with hand_worker(quiet) as worker:
            worker.turn(worker.take(), complete(status=pb.ORCHESTRATION_STATUS_FAILED))
        assert quiet.state(instance).runtime_status is FAILED
        quiet.client.rewind_orchestration(instance)
        quiet.event(instance, "item", 1)
        with hand_worker(quiet) as worker:
            item = worker.take()
            assert [str(e.WhichOneof("eventType")) for e in item.orchestratorRequest.newEvents] == [
                "orchestratorStarted", "executionRewound",
            ]  # fmt: skip
            action = pb.OrchestratorAction(id=-1)
            action.rewindOrchestration.newHistory.extend(item.orchestratorRequest.pastEvents[:2])
            worker.turn(item, action)
            request = worker.take().orchestratorRequest
        assert len(request.pastEvents) == 3
        assert [str(e.WhichOneof("eventType")) for e in request.newEvents] == ["orchestratorStarted", "eventRaised"]


def test_a_child_whose_id_belongs_to_another_instance_is_refused_again_and_not_adopted(hub: HubControl) -> None:
    foreign = hub.start("waiting_child")
    instance = _failed(hub, "parent_of", foreign)
    hub.client.rewind_orchestration(instance, reason="again")
    assert hub.state(instance).runtime_status is FAILED
    hub.client.rewind_orchestration(instance, reason="and terminate")
    hub.client.terminate_orchestration(instance, recursive=True)
    assert hub.state(foreign).runtime_status is RUNNING


def test_an_instance_that_calls_itself_stays_no_child_of_its_own(hub: HubControl) -> None:
    instance = hub.start("parent_of", "ouroboros", "ouroboros")
    assert hub.state(instance).runtime_status is FAILED
    hub.client.rewind_orchestration(instance, reason="again")
    assert hub.state(instance).runtime_status is FAILED
    hub.client.terminate_orchestration(instance, recursive=True)
    assert hub.client.purge_orchestration(instance, recursive=True).deleted_instance_count == 1
    assert hub.output(hub.start("quick")) == "quick"
