"""Finding and deleting: filters, pages that hold while instances come and go, purges, histories, wiping."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import durabletask.internal.orchestrator_service_pb2 as pb
import grpc
import pytest
from durabletask.client import EntityQuery, OrchestrationQuery, OrchestrationStatus
from durabletask.entities import EntityInstanceId
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from local_host.task_hub import purge, queries
from local_host.testing import HubControl, running_hub
from tests.local_host.task_hub.support import (
    COMPLETED,
    FAILED,
    PENDING,
    RUNNING,
    SUSPENDED,
    TERMINATED,
    complete,
    hand_worker,
    refused,
    status,
    stub_of,
)


@pytest.fixture
def hub() -> Iterator[HubControl]:
    """A hub without a worker, for one test."""
    with running_hub() as hub:
        yield hub


def _ended(hub: HubControl, *ids: str) -> None:
    """Start instances and end them, a second after one another."""
    for each in ids:
        hub.start("any", instance_id=each)
        hub.client.terminate_orchestration(each)
        hub.advance(timedelta(seconds=1))


def _tree(hub: HubControl, root: str, *, child_ended: bool) -> None:
    """An instance that has ended, with a child, and a grandchild that has ended."""

    def child_of(name: str) -> pb.OrchestratorAction:
        action = pb.OrchestratorAction(id=1)
        action.createSubOrchestration.instanceId, action.createSubOrchestration.name = name, "any"
        return action

    hub.start("any", instance_id=root)
    with hand_worker(hub) as worker:
        worker.turn(worker.take(), child_of(f"{root}.c"))
        worker.turn(worker.take(), child_of(f"{root}.c.g"))
        worker.turn(worker.take(), complete())
        item = worker.take()
        worker.turn(item, *([complete()] if child_ended else []))
        if child_ended:
            worker.turn(worker.take(), complete())
        else:
            hub.client.terminate_orchestration(root, recursive=False)


def _ids(hub: HubControl, **query: Any) -> list[str]:
    return [each.instance_id for each in hub.client.get_all_orchestration_states(OrchestrationQuery(**query))]


def _one_of_each(hub: HubControl) -> None:
    for end in (COMPLETED, FAILED):
        hub.start("any", instance_id=end.name)
        with hand_worker(hub) as worker:
            worker.turn(worker.take(), complete(status=end.value))
    hub.start("any", instance_id="RUNNING")
    with hand_worker(hub) as worker:
        worker.turn(worker.take())
    hub.start("any", instance_id="SUSPENDED")
    hub.client.suspend_orchestration("SUSPENDED")
    hub.start("any", instance_id="TERMINATED")
    hub.client.terminate_orchestration("TERMINATED")
    hub.start("any", instance_id="PENDING")


EACH = [COMPLETED, FAILED, RUNNING, SUSPENDED, TERMINATED, PENDING]


# Queries


def test_instances_are_found_by_their_statuses(hub: HubControl) -> None:
    _one_of_each(hub)
    assert _ids(hub) == [each.name for each in EACH]
    for each in EACH:
        assert _ids(hub, runtime_status=[each]) == [each.name]
    assert _ids(hub, runtime_status=[PENDING, FAILED]) == ["FAILED", "PENDING"]
    assert _ids(hub, runtime_status=[OrchestrationStatus.CONTINUED_AS_NEW]) == []


def test_instances_are_found_by_when_they_were_created(hub: HubControl) -> None:
    times = []
    for number in range(4):
        times.append(hub.now)
        hub.start("any", instance_id=str(number))
        hub.advance(timedelta(seconds=1))
    assert _ids(hub, created_time_from=times[1]) == ["1", "2", "3"]
    assert _ids(hub, created_time_to=times[2]) == ["0", "1"]
    assert _ids(hub, created_time_from=times[1], created_time_to=times[2]) == ["1"]
    assert _ids(hub, created_time_from=hub.now) == []
    assert _ids(hub, created_time_from=times[2], created_time_to=times[1]) == []


@pytest.mark.parametrize(
    ("prefix", "found"),
    [
        ("a", ["a%b", "a_b", "ab"]),
        ("a%", ["a%b"]),
        ("a_", ["a_b"]),
        ("A", ["Ab"]),
        ("ü", ["ü*"]),
        ("ab", ["ab"]),
        ("abc", []),
        ("*", []),
        ("", ["a%b", "a_b", "ab", "Ab", "ü*"]),
    ],
)
def test_instances_are_found_by_how_their_ids_begin(hub: HubControl, prefix: str, found: list[str]) -> None:
    for each in ("a%b", "a_b", "ab", "Ab", "ü*"):
        hub.start("any", instance_id=each)
    assert _ids(hub, instance_id_prefix=prefix) == found


def test_inputs_and_outputs_come_when_they_are_asked_for(hub: HubControl) -> None:
    hub.start("any", "in", "one")
    hub.client.terminate_orchestration("one", output="out")
    [with_them] = hub.client.get_all_orchestration_states(OrchestrationQuery(fetch_inputs_and_outputs=True))
    [without] = hub.client.get_all_orchestration_states(OrchestrationQuery(fetch_inputs_and_outputs=False))
    assert (with_them.serialized_input, with_them.serialized_output) == ('"in"', '"out"')
    assert (without.serialized_input, without.serialized_output) == (None, None)


@pytest.mark.parametrize("size", [1, 2, 3, 10, 11, 1000, -1, 0])
def test_pages_hold_all_instances_once(hub: HubControl, size: int) -> None:
    names = [f"i{number}" for number in range(10)]
    for each in names:
        hub.start("any", instance_id=each)
    assert _ids(hub, max_instance_count=size) == names


def test_a_page_is_never_larger_than_the_hub_allows(hub: HubControl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "LARGEST_PAGE", 3)
    for number in range(7):
        hub.start("any", instance_id=str(number))
    with stub_of(hub) as stub:
        page = stub.QueryInstances(pb.QueryInstancesRequest(query=pb.InstanceQuery(maxInstanceCount=2**31 - 1)))
    assert len(page.orchestrationState) == 3
    assert len(_ids(hub)) == 7


def test_the_last_page_has_no_token_even_when_it_is_full(hub: HubControl) -> None:
    for number in range(4):
        hub.start("any", instance_id=str(number))
    with stub_of(hub) as stub:
        first = stub.QueryInstances(pb.QueryInstancesRequest(query=pb.InstanceQuery(maxInstanceCount=2)))
        query = pb.InstanceQuery(maxInstanceCount=2, continuationToken=first.continuationToken)
        second = stub.QueryInstances(pb.QueryInstancesRequest(query=query))
    assert first.HasField("continuationToken")
    assert not second.HasField("continuationToken")


def test_pages_neither_skip_nor_repeat_while_instances_come_and_go(hub: HubControl) -> None:
    for number in range(9):
        hub.start("any", instance_id=f"i{number}")
    seen: list[str] = []
    token = StringValue()
    with stub_of(hub) as stub:
        for page in range(20):
            query = pb.InstanceQuery(maxInstanceCount=2, continuationToken=token)
            answer = stub.QueryInstances(pb.QueryInstancesRequest(query=query))
            seen += [each.instanceId for each in answer.orchestrationState]
            if not answer.HasField("continuationToken"):
                break
            token = answer.continuationToken
            for gone in (seen[-1], seen[0]):  # the very one that the token points to, and one of before
                hub.client.terminate_orchestration(gone)
                hub.client.purge_orchestration(gone)
            if page < 2:
                hub.start("any", instance_id=f"new{page}")
    assert seen == [*(f"i{number}" for number in range(9)), "new0", "new1"]


# Ids of what has ended


def test_ids_of_ended_instances_come_in_the_order_of_their_ends(hub: HubControl) -> None:
    for each in "cab":
        hub.start("any", instance_id=each)
    hub.start("any", instance_id="running")
    times = []
    for each in "bca":
        times.append(hub.now)
        hub.client.terminate_orchestration(each)
        hub.advance(timedelta(seconds=1))
    assert hub.client.list_instance_ids().items == ["b", "c", "a"]
    assert hub.client.list_instance_ids(completed_time_from=times[1]).items == ["c", "a"]
    assert hub.client.list_instance_ids(completed_time_to=times[1]).items == ["b"]
    assert hub.client.list_instance_ids(runtime_status=[TERMINATED]).items == ["b", "c", "a"]
    assert hub.client.list_instance_ids(runtime_status=[COMPLETED]).items == []
    assert hub.client.list_instance_ids(runtime_status=[RUNNING]).items == []


def test_pages_of_ids_are_stable_while_instances_come_and_go(hub: HubControl) -> None:
    for number in range(7):
        hub.start("any", instance_id=f"i{number}")
    for number in range(7):  # all at one time
        hub.client.terminate_orchestration(f"i{number}")
    seen: list[str] = []
    token = None
    while True:
        page = hub.client.list_instance_ids(page_size=2, continuation_token=token)
        seen += page.items
        token = page.continuation_token
        if token is None:
            break
        hub.client.purge_orchestration(seen[-1])
        hub.client.purge_orchestration(seen[0])
    assert seen == [f"i{number}" for number in range(7)]


def test_what_was_rewound_or_restarted_is_not_among_the_ended(hub: HubControl) -> None:
    _one_of_each(hub)
    assert hub.client.list_instance_ids().items == ["COMPLETED", "FAILED", "TERMINATED"]
    hub.client.rewind_orchestration("FAILED")
    hub.client.restart_orchestration("COMPLETED")
    assert hub.client.list_instance_ids().items == ["TERMINATED"]


# Histories


def test_a_history_comes_in_pieces_and_in_its_order(hub: HubControl) -> None:
    instance = hub.start("any")
    for number in range(250):
        hub.event(instance, str(number))
    with hand_worker(hub) as worker:
        worker.turn(worker.take(), complete())
    with stub_of(hub) as stub:
        chunks = list(stub.StreamInstanceHistory(pb.StreamInstanceHistoryRequest(instanceId=instance)))
    assert len(chunks) > 1
    assert max(len(each.events) for each in chunks) <= queries.HISTORY_CHUNK
    events = [event for chunk in chunks for event in chunk.events]
    assert [e.eventRaised.name for e in events if e.HasField("eventRaised")] == [str(n) for n in range(250)]
    assert events[-1].HasField("executionCompleted")


def test_an_instance_that_has_not_begun_has_no_history(hub: HubControl) -> None:
    instance = hub.start("any")
    assert hub.client.get_orchestration_history(instance) == []
    with refused(grpc.StatusCode.NOT_FOUND):
        hub.client.get_orchestration_history("nobody")


# Purging


def test_only_what_has_ended_is_purged(hub: HubControl) -> None:
    _one_of_each(hub)
    purged = {each.name: hub.client.purge_orchestration(each.name).deleted_instance_count for each in EACH}
    assert [name for name, count in purged.items() if count] == ["COMPLETED", "FAILED", "TERMINATED"]
    assert _ids(hub) == ["RUNNING", "SUSPENDED", "PENDING"]
    assert hub.client.purge_orchestration("COMPLETED").deleted_instance_count == 0
    with refused(grpc.StatusCode.NOT_FOUND):
        hub.client.get_orchestration_history("COMPLETED")


def test_what_was_purged_may_be_started_again(hub: HubControl) -> None:
    _ended(hub, "one")
    hub.client.purge_orchestration("one")
    hub.start("any", instance_id="one")
    assert status(hub, "one") == "PENDING"
    assert hub.client.get_orchestration_history("one") == []


def test_a_purge_by_filter_takes_what_the_filter_names(hub: HubControl) -> None:
    _one_of_each(hub)
    everything = [each.name for each in EACH]
    assert hub.client.purge_orchestrations_by(runtime_status=[RUNNING, PENDING]).deleted_instance_count == 0
    assert hub.client.purge_orchestrations_by(created_time_to=hub.now).deleted_instance_count == 0
    later = hub.now + timedelta(seconds=1)
    assert hub.client.purge_orchestrations_by(created_time_from=later).deleted_instance_count == 0
    assert _ids(hub) == everything
    assert hub.client.purge_orchestrations_by(runtime_status=[FAILED]).deleted_instance_count == 1
    result = hub.client.purge_orchestrations_by(created_time_from=hub.now, created_time_to=later)
    assert (result.deleted_instance_count, result.is_complete) == (2, True)
    assert _ids(hub) == ["RUNNING", "SUSPENDED", "PENDING"]


def test_a_purge_by_filter_goes_window_by_window(hub: HubControl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purge, "WINDOW", 3)
    _ended(hub, *(str(number) for number in range(10)))
    hub.start("any", instance_id="alive")
    result = hub.client.purge_orchestrations_by()
    assert (result.deleted_instance_count, result.is_complete) == (10, True)
    assert _ids(hub) == ["alive"]


def test_a_purge_whose_time_is_up_says_that_there_is_more(hub: HubControl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purge, "WINDOW", 3)
    _ended(hub, *(str(number) for number in range(10)))
    result = hub.client.purge_orchestrations_by(timeout=timedelta(microseconds=1))
    assert (result.deleted_instance_count, result.is_complete) == (3, False)
    assert len(_ids(hub)) == 7


def test_a_purge_of_a_batch_takes_each_of_it_that_has_ended(hub: HubControl) -> None:
    _ended(hub, "a", "b", "c")
    hub.start("any", instance_id="alive")
    request = pb.PurgeInstancesRequest()
    request.instanceBatch.instanceIds.extend(["a", "alive", "nobody", "c", "a", "", "@x@y"])
    with stub_of(hub) as stub:
        answer = stub.PurgeInstances(request)
    assert (answer.deletedInstanceCount, answer.isComplete.value) == (2, True)
    assert _ids(hub) == ["b", "alive"]


def test_a_purge_that_names_nothing_takes_nothing(hub: HubControl) -> None:
    _ended(hub, "a")
    with stub_of(hub) as stub:
        assert stub.PurgeInstances(pb.PurgeInstancesRequest()).deletedInstanceCount == 0
    assert _ids(hub) == ["a"]


def test_a_purge_takes_what_is_below_when_it_is_told_to(hub: HubControl) -> None:
    _tree(hub, "kept", child_ended=True)
    _tree(hub, "gone", child_ended=True)
    assert hub.client.purge_orchestration("kept", recursive=False).deleted_instance_count == 1
    assert hub.client.purge_orchestration("gone", recursive=True).deleted_instance_count == 3
    assert _ids(hub) == ["kept.c", "kept.c.g"]


def test_a_purge_keeps_what_runs_below(hub: HubControl) -> None:
    _tree(hub, "root", child_ended=False)
    assert hub.client.purge_orchestration("root", recursive=True).deleted_instance_count == 1
    assert _ids(hub) == ["root.c", "root.c.g"]
    assert status(hub, "root.c") == "RUNNING"


@pytest.mark.parametrize("recursive", [True, False])
def test_a_purge_by_filter_counts_each_of_a_tree_once(hub: HubControl, recursive: bool) -> None:
    _tree(hub, "a", child_ended=True)
    _tree(hub, "b", child_ended=True)
    assert hub.client.purge_orchestrations_by(recursive=recursive).deleted_instance_count == 6
    assert _ids(hub) == []


# Entities


def _entities(hub: HubControl, **query: Any) -> list[str]:
    return [str(each.id) for each in hub.client.get_all_entities(EntityQuery(**query))]


def _with_entities(hub: HubControl) -> None:
    for name, key in (("counter", "b"), ("counter", "a"), ("log", "a"), ("count", "z")):
        hub.client.signal_entity(EntityInstanceId(name, key), "any")
        with hand_worker(hub) as worker:
            worker.entity(worker.take(), "1" if name != "log" else None, None)
        hub.advance(timedelta(seconds=1))


def test_entities_are_found_by_how_their_ids_begin_and_by_their_times(hub: HubControl) -> None:
    began = hub.now
    _with_entities(hub)
    assert _entities(hub) == ["@count@z", "@counter@a", "@counter@b"]
    assert _entities(hub, instance_id_starts_with="@counter@") == ["@counter@a", "@counter@b"]
    assert _entities(hub, instance_id_starts_with="@counter@%") == []
    assert _entities(hub, last_modified_from=began + timedelta(seconds=1)) == ["@count@z", "@counter@a"]
    assert _entities(hub, last_modified_to=began + timedelta(seconds=1)) == ["@counter@b"]
    assert "@log@a" in _entities(hub, include_transient=True)


def test_pages_hold_all_entities_once_while_they_come_and_go(hub: HubControl) -> None:
    _with_entities(hub)
    for size in (1, 2, 3, 100):
        assert len(_entities(hub, page_size=size)) == 3
    with stub_of(hub) as stub:
        first = stub.QueryEntities(pb.QueryEntitiesRequest(query=pb.EntityQuery(pageSize=Int32Value(value=2))))
        stub.PurgeInstances(pb.PurgeInstancesRequest(instanceId=first.entities[-1].instanceId))
        query = pb.EntityQuery(pageSize=Int32Value(value=2), continuationToken=first.continuationToken)
        second = stub.QueryEntities(pb.QueryEntitiesRequest(query=query))
    assert [each.instanceId for each in second.entities] == ["@counter@b"]
    assert not second.HasField("continuationToken")


def test_states_of_entities_come_when_they_are_asked_for(hub: HubControl) -> None:
    _with_entities(hub)
    with_them = hub.client.get_all_entities(EntityQuery(include_state=True))
    without = hub.client.get_all_entities(EntityQuery(include_state=False))
    assert {each.get_state() for each in with_them} == {"1"}
    assert {each.get_state() for each in without} == {None}


# The hub as a whole


def test_a_hub_that_is_created_again_is_empty_when_that_is_asked_for(hub: HubControl) -> None:
    _one_of_each(hub)
    _with_entities(hub)
    before = _ids(hub)
    with stub_of(hub) as stub:
        stub.CreateTaskHub(pb.CreateTaskHubRequest(recreateIfExists=False))
        assert _ids(hub) == before
        stub.CreateTaskHub(pb.CreateTaskHubRequest(recreateIfExists=True))
    assert _ids(hub) == []
    assert _entities(hub, include_transient=True) == []


def test_a_hub_that_was_deleted_goes_on_empty_and_work_under_way_changes_nothing(hub: HubControl) -> None:
    hub.start("any", instance_id="before")
    hub.client.schedule_new_orchestration("any", start_at=hub.now + timedelta(hours=1))
    hub.client.signal_entity(EntityInstanceId("counter", "1"), "any")
    with hand_worker(hub) as worker:
        items = {str(item.WhichOneof("request")): item for item in (worker.take(), worker.take())}
        with stub_of(hub) as stub:
            stub.DeleteTaskHub(pb.DeleteTaskHubRequest())
        worker.turn(items["orchestratorRequest"], complete())
        worker.entity(items["entityRequestV2"], "1", None)
        assert worker.gets_nothing()
        assert _ids(hub) == []
        hub.start("any", instance_id="before")
        worker.turn(worker.take(), complete("new"))
    hub.advance(timedelta(hours=2))
    assert hub.output("before") == "new"
    assert _entities(hub, include_transient=True) == []
