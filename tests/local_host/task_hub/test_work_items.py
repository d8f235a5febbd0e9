"""The worker's side of the service: what is handed to whom, once at a time, and which answers count."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import durabletask.internal.orchestrator_service_pb2 as pb
import pytest
from durabletask.entities import EntityInstanceId

from local_host.testing import HubControl, running_hub
from tests.local_host.task_hub.support import (
    HandWorker,
    complete,
    ends,
    hand_worker,
    kinds,
    kinds_now,
    schedule,
    status,
    until,
)


@pytest.fixture
def hub() -> Iterator[HubControl]:
    """A hub without a worker, for one test."""
    with running_hub() as hub:
        yield hub


def _filters(
    orchestrations: dict[str, list[str]] | None = None,
    activities: dict[str, list[str]] | None = None,
    entities: list[str] | None = None,
) -> pb.GetWorkItemsRequest:
    request = pb.GetWorkItemsRequest()
    request.workItemFilters.SetInParent()
    for name, versions in (orchestrations or {}).items():
        request.workItemFilters.orchestrations.add(name=name, versions=versions)
    for name, versions in (activities or {}).items():
        request.workItemFilters.activities.add(name=name, versions=versions)
    for name in entities or []:
        request.workItemFilters.entities.add(name=name)
    return request


def _name(item: pb.WorkItem) -> str:
    """The name of what an item asks for."""
    if item.HasField("activityRequest"):
        return str(item.activityRequest.name)
    if item.HasField("entityRequestV2"):
        return str(item.entityRequestV2.instanceId)
    return str(item.orchestratorRequest.newEvents[1].executionStarted.name)


# Filters


def test_a_worker_gets_what_its_names_let_through(hub: HubControl) -> None:
    for name in ("b", "a", "A", "c"):
        hub.start(name)
    with hand_worker(hub, _filters({"a": [], "c": []})) as worker:
        assert {_name(worker.take()) for _ in range(2)} == {"a", "c"}
        assert worker.gets_nothing()


@pytest.mark.parametrize(
    ("accepted", "version", "comes"),
    [
        ([], None, True),
        ([], "1", True),
        (["1", "2"], "2", True),
        (["1"], "2", False),
        (["1"], None, False),
        ([""], None, True),
        ([""], "1", False),
    ],
)
def test_a_worker_gets_what_its_versions_let_through(
    hub: HubControl, accepted: list[str], version: str | None, comes: bool
) -> None:
    hub.client.schedule_new_orchestration("a", version=version)
    with hand_worker(hub, _filters({"a": accepted})) as worker:
        assert worker.gets_nothing() is not comes


def test_a_worker_with_empty_filters_gets_nothing(hub: HubControl) -> None:
    hub.start("a")
    hub.client.signal_entity(EntityInstanceId("e", "1"), "any")
    with hand_worker(hub, _filters()) as worker:
        assert worker.gets_nothing()


def test_activities_and_entities_are_filtered_too(hub: HubControl) -> None:
    hub.start("o")
    hub.client.signal_entity(EntityInstanceId("wanted", "1"), "any")
    hub.client.signal_entity(EntityInstanceId("other", "1"), "any")
    with (
        hand_worker(hub, _filters({"o": []})) as turns,
        hand_worker(hub, _filters(activities={"x": ["2"]}, entities=["Wanted"])) as others,
    ):
        turns.turn(turns.take(), schedule(1, "x", version="1"), schedule(2, "x", version="2"), schedule(3, "y"))
        items = [others.take(), others.take()]
        assert {_name(each) for each in items} == {"@wanted@1", "x"}
        assert next(each.activityRequest.taskId for each in items if each.HasField("activityRequest")) == 2
        assert others.gets_nothing()
        assert turns.gets_nothing()


def test_what_nobody_takes_waits_for_one_who_does(hub: HubControl) -> None:
    hub.start("rare")
    with hand_worker(hub, _filters({"common": []})) as common:
        assert common.gets_nothing()
        with hand_worker(hub, _filters({"rare": []})) as rare:
            assert _name(rare.take()) == "rare"
        assert common.gets_nothing()
        with hand_worker(hub) as any_:
            assert _name(any_.take()) == "rare"


def test_what_nobody_takes_does_not_hold_up_the_rest(hub: HubControl) -> None:
    for _ in range(300):
        hub.start("rare")
    hub.start("common")
    with hand_worker(hub, _filters({"common": []})) as worker:
        assert _name(worker.take()) == "common"


# Limits


def test_a_worker_gets_no_more_at_once_than_it_takes(hub: HubControl) -> None:
    for _ in range(5):
        hub.start("a")
    request = pb.GetWorkItemsRequest(maxConcurrentOrchestrationWorkItems=2, maxConcurrentActivityWorkItems=1)
    with hand_worker(hub, request) as worker:
        first, _second = worker.take(), worker.take()
        assert worker.gets_nothing()
        worker.turn(first, schedule(1, "x"), schedule(2, "y"))
        items = [worker.take(), worker.take()]
        assert sorted(str(each.WhichOneof("request")) for each in items) == ["activityRequest", "orchestratorRequest"]
        assert worker.gets_nothing()
        worker.activity(next(each for each in items if each.HasField("activityRequest")))
        assert worker.take().HasField("activityRequest")
        assert worker.gets_nothing()


def test_a_limit_of_one_kind_does_not_hold_up_another(hub: HubControl) -> None:
    hub.start("a")
    hub.start("b")
    hub.client.signal_entity(EntityInstanceId("e", "1"), "any")
    with hand_worker(hub, pb.GetWorkItemsRequest(maxConcurrentOrchestrationWorkItems=1)) as worker:
        got = {str(worker.take().WhichOneof("request")) for _ in range(2)}
        assert got == {"orchestratorRequest", "entityRequestV2"}
        assert worker.gets_nothing()


def test_work_goes_to_the_worker_that_has_room(hub: HubControl) -> None:
    limit = pb.GetWorkItemsRequest(maxConcurrentOrchestrationWorkItems=1)
    with hand_worker(hub, limit) as one, hand_worker(hub, limit) as two:
        hub.start("a")
        hub.start("b")
        assert {_name(one.take()), _name(two.take())} == {"a", "b"}


# Once at a time


def test_a_turn_is_not_handed_out_while_another_of_its_instance_runs(hub: HubControl) -> None:
    instance = hub.start("a")
    with hand_worker(hub) as one, hand_worker(hub) as two:
        until(lambda: not _empty(one) or not _empty(two))
        item = (one if not _empty(one) else two).take()
        for number in range(5):
            hub.event(instance, str(number))
        assert one.gets_nothing()
        assert two.gets_nothing()
        one.turn(item)
        until(lambda: not _empty(one) or not _empty(two))
        item = (one if not _empty(one) else two).take()
        assert len(item.orchestratorRequest.newEvents) == 6


def _empty(worker: HandWorker) -> bool:
    return worker._items.empty()


@pytest.mark.parametrize("answer", ["complete", "abandon"])
def test_an_answer_to_what_was_taken_back_changes_nothing(hub: HubControl, answer: str) -> None:
    instance = hub.start("a")
    with hand_worker(hub) as first:
        late = first.take()
    with hand_worker(hub) as second:
        current = second.take()
        assert current.completionToken != late.completionToken
        if answer == "complete":
            second.turn(late, complete("late"))
        else:
            second.stub.AbandonTaskOrchestratorWorkItem(
                pb.AbandonOrchestrationTaskRequest(completionToken=late.completionToken)
            )
        assert second.gets_nothing()
        assert status(hub, instance) == "PENDING"
        second.turn(current, complete("current"))
    assert hub.output(instance) == "current"


def test_what_a_lost_worker_had_is_handed_out_again(hub: HubControl) -> None:
    hub.start("a", instance_id="one")
    hub.client.signal_entity(EntityInstanceId("e", "1"), "any")
    with hand_worker(hub, _filters({"a": []})) as worker:
        worker.turn(worker.take(), schedule(1, "x"), schedule(2, "y"))
    for _ in range(3):
        with hand_worker(hub) as worker:
            names = sorted(_name(worker.take()) for _ in range(3))
            assert names == ["@e@1", "x", "y"]
            assert worker.gets_nothing()
    with hand_worker(hub) as worker:
        for _ in range(3):
            item = worker.take()
            if item.HasField("activityRequest"):
                worker.activity(item, item.activityRequest.name)
            else:
                worker.entity(item, "1", None)
        first = worker.take()
        assert first.orchestratorRequest.newEvents[1].HasField("taskCompleted")


def test_a_lost_worker_with_a_full_stream_gives_all_back(hub: HubControl) -> None:
    for number in range(150):
        hub.start("a", "x" * 50_000, instance_id=str(number))
    for _ in range(2):
        worker = HandWorker(hub)
        worker.take()
        worker.close()
    until(lambda: not hub.hub.dispatcher._items)
    with hand_worker(hub) as worker:
        got = set()
        for _ in range(150):
            item = worker.take()
            got.add(item.orchestratorRequest.instanceId)
            worker.turn(item, complete())
        assert worker.gets_nothing()
    assert len(got) == 150


# Answers


def test_an_answer_counts_once(hub: HubControl) -> None:
    instance = hub.start("a")
    with hand_worker(hub) as worker:
        item = worker.take()
        for _ in range(3):
            worker.turn(item, schedule(1, "x"))
        activity = worker.take()
        for result in (1, 2, 3):
            worker.activity(activity, result)
        item = worker.take()
        assert [e.taskCompleted.result.value for e in item.orchestratorRequest.newEvents[1:]] == ["1"]
        worker.turn(item, complete("done"))
        worker.turn(item, complete("twice"))
        assert worker.gets_nothing()
    assert hub.output(instance) == "done"
    assert kinds(hub, instance).count("taskScheduled") == 1


@pytest.mark.parametrize("token", ["", "wrong", "0" * 32, "ü"])
def test_an_answer_with_a_token_that_nobody_gave_changes_nothing(hub: HubControl, token: str) -> None:
    instance = hub.start("a")
    with hand_worker(hub) as worker:
        item = worker.take()
        forged = pb.WorkItem()
        forged.CopyFrom(item)
        forged.completionToken = token
        worker.turn(forged, complete("forged"))
        worker.stub.CompleteActivityTask(pb.ActivityResponse(instanceId=instance, completionToken=token))
        worker.stub.CompleteEntityTask(pb.EntityBatchResult(completionToken=token))
        worker.stub.AbandonTaskOrchestratorWorkItem(pb.AbandonOrchestrationTaskRequest(completionToken=token))
        assert worker.gets_nothing()
        assert status(hub, instance) == "PENDING"
        worker.turn(item, complete("real"))
    assert hub.output(instance) == "real"


def test_an_answer_of_another_kind_changes_nothing(hub: HubControl) -> None:
    hub.start("a", instance_id="one")
    hub.client.signal_entity(EntityInstanceId("e", "1"), "any")
    with hand_worker(hub, _filters({"a": []})) as worker:
        worker.turn(worker.take(), schedule(1, "x"))
    with hand_worker(hub) as worker:
        items = [worker.take(), worker.take()]
        activity = next(each for each in items if each.HasField("activityRequest"))
        entity = next(each for each in items if each.HasField("entityRequestV2"))
        for each, right in ((activity, "a"), (entity, "e")):
            token = each.completionToken
            worker.stub.CompleteOrchestratorTask(pb.OrchestratorResponse(instanceId="one", completionToken=token))
            worker.stub.AbandonTaskOrchestratorWorkItem(pb.AbandonOrchestrationTaskRequest(completionToken=token))
            if right == "a":
                worker.stub.CompleteEntityTask(pb.EntityBatchResult(completionToken=token))
                worker.stub.AbandonTaskEntityWorkItem(pb.AbandonEntityTaskRequest(completionToken=token))
            else:
                worker.stub.CompleteActivityTask(pb.ActivityResponse(completionToken=token))
                worker.stub.AbandonTaskActivityWorkItem(pb.AbandonActivityTaskRequest(completionToken=token))
        assert worker.gets_nothing()
        worker.activity(activity, "right")
        assert worker.take().orchestratorRequest.newEvents[1].taskCompleted.result.value == '"right"'


def test_the_instance_that_an_answer_names_does_not_matter_but_its_token(hub: HubControl) -> None:
    instance, other = hub.start("a"), hub.start("b", instance_id="other")
    with hand_worker(hub) as worker:
        items = {item.orchestratorRequest.instanceId: item for item in (worker.take(), worker.take())}
        response = pb.OrchestratorResponse(
            instanceId=other, actions=[complete("x")], completionToken=items[instance].completionToken
        )
        worker.stub.CompleteOrchestratorTask(response)
        ends(hub, instance)
    assert status(hub, other) == "PENDING"


def test_what_was_abandoned_is_handed_out_again_with_what_came_since(hub: HubControl) -> None:
    instance = hub.start("a")
    hub.client.signal_entity(EntityInstanceId("e", "1"), "one")
    with hand_worker(hub) as worker:
        items = {str(item.WhichOneof("request")): item for item in (worker.take(), worker.take())}
        hub.event(instance, "more")
        hub.client.signal_entity(EntityInstanceId("e", "1"), "two")
        worker.stub.AbandonTaskOrchestratorWorkItem(
            pb.AbandonOrchestrationTaskRequest(completionToken=items["orchestratorRequest"].completionToken)
        )
        turn = worker.take()
        assert [str(e.WhichOneof("eventType")) for e in turn.orchestratorRequest.newEvents] == [
            "orchestratorStarted", "executionStarted", "eventRaised",
        ]  # fmt: skip
        worker.stub.AbandonTaskEntityWorkItem(
            pb.AbandonEntityTaskRequest(completionToken=items["entityRequestV2"].completionToken)
        )
        assert len(worker.take().entityRequestV2.operationRequests) == 2
        worker.turn(turn, schedule(1, "x"))
        activity = worker.take()
        worker.stub.AbandonTaskActivityWorkItem(pb.AbandonActivityTaskRequest(completionToken=activity.completionToken))
        again = worker.take()
        assert again.activityRequest == activity.activityRequest
        assert again.completionToken != activity.completionToken
        worker.activity(activity, "abandoned")
        assert worker.gets_nothing()
        worker.activity(again, "taken")
        assert worker.take().orchestratorRequest.newEvents[1].taskCompleted.result.value == '"taken"'


def test_the_past_of_a_turn_is_what_its_worker_saw_and_confirmed(hub: HubControl) -> None:
    instance = hub.start("a", {"n": 1})
    soon = pb.OrchestratorAction(id=2)
    soon.createTimer.fireAt.FromDatetime(hub.now + timedelta(hours=1))
    with hand_worker(hub) as worker:
        first = worker.take()
        worker.turn(first, schedule(1, "x", {"ü": 1}, "3"), soon, custom_status='"s"')
        worker.activity(worker.take(), "r")
        second = worker.take().orchestratorRequest
        assert list(second.pastEvents[:2]) == list(first.orchestratorRequest.newEvents)
        scheduled, timer = second.pastEvents[2], second.pastEvents[3]
        assert (scheduled.eventId, scheduled.taskScheduled.name) == (1, "x")
        assert (scheduled.taskScheduled.input.value, scheduled.taskScheduled.version.value) == ('{"\\u00fc": 1}', "3")
        assert (timer.eventId, timer.timerCreated.fireAt) == (2, soon.createTimer.fireAt)
        assert second.executionId == first.orchestratorRequest.executionId
    assert kinds_now(hub, instance)[-1] == "orchestratorCompleted"


def test_the_trace_of_an_orchestration_is_carried_from_turn_to_turn(hub: HubControl) -> None:
    with hand_worker(hub) as worker:
        request = pb.CreateInstanceRequest(instanceId="one", name="a")
        request.parentTraceContext.traceParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        worker.stub.StartInstance(request)
        item = worker.take()
        started = item.orchestratorRequest.newEvents[1].executionStarted
        assert started.parentTraceContext == request.parentTraceContext
        answer = pb.OrchestratorResponse(instanceId="one", completionToken=item.completionToken)
        answer.orchestrationTraceContext.spanID.value = "b7ad6b7169203331"
        worker.stub.CompleteOrchestratorTask(answer)
        hub.event("one", "x")
        traced: Any = worker.take().orchestratorRequest.orchestrationTraceContext
    assert traced == answer.orchestrationTraceContext
