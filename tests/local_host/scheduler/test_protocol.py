"""What the worker says to a scheduler, and what it makes of what a scheduler may say."""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import grpc
import pytest
from azure.core.credentials import AccessToken
from durabletask.internal import helpers
from durabletask.internal import orchestrator_service_pb2 as pb

from local_host.durable import NotNow
from local_host.host_json import HostSettings
from local_host.scheduler import contact, tokens
from local_host.scheduler.connection import parse_connection
from tests.local_host.scheduler.support import Credential, EngineControl, FakeScheduler, running_engine, running_fake
from tests.polling import until

SECONDS = 15


@contextmanager
def working(
    fake: FakeScheduler, credential: Credential | None = None, settings: HostSettings | None = None
) -> Iterator[EngineControl]:
    """An engine that works for a fake scheduler."""
    connection = parse_connection(f"Endpoint=http://{fake.address};TaskHub=far;Authentication=None", "unused")
    with running_engine(replace(connection, credential=credential), settings=settings) as engine:
        yield engine
        engine.drain_aside().result(SECONDS)


@pytest.fixture
def fake() -> Iterator[FakeScheduler]:
    """A scheduler that hands out what the test gives it."""
    with running_fake() as fake:
        yield fake


def started(name: str, given: Any = None, version: str | None = None) -> list[pb.HistoryEvent]:
    """The first events of an instance."""
    event = helpers.new_execution_started_event(name, "one", json.dumps(given))
    if version is not None:
        event.executionStarted.version.value = version
    return [helpers.new_orchestrator_started_event(), event]


def turn(token: str, events: list[pb.HistoryEvent], **more: Any) -> pb.WorkItem:
    """A turn of an orchestration."""
    request = pb.OrchestratorRequest(instanceId="one", newEvents=events, **more)
    return pb.WorkItem(completionToken=token, orchestratorRequest=request)


def activity(token: str, name: str, given: Any = None) -> pb.WorkItem:
    """An activity."""
    request = pb.ActivityRequest(name=name, taskId=7, input={"value": json.dumps(given)})
    request.orchestrationInstance.instanceId = "one"
    return pb.WorkItem(completionToken=token, activityRequest=request)


def test_the_request_for_work_says_what_it_takes(fake: FakeScheduler) -> None:
    credential = Credential(lambda number: AccessToken(f"token-{number}", 2**31))
    with working(fake, credential):
        until(lambda: fake.named("GetWorkItems"))
        fake.items.put(activity("t", "echo"))
        fake.completed.get(timeout=SECONDS)
    (request,) = [each for each in fake.requests if isinstance(each, pb.GetWorkItemsRequest)]
    assert (
        request.maxConcurrentOrchestrationWorkItems,
        request.maxConcurrentActivityWorkItems,
        request.maxConcurrentEntityWorkItems,
    ) == (4, 3, 2)
    assert list(request.capabilities) == [pb.WORKER_CAPABILITY_HISTORY_STREAMING]
    assert not request.HasField("workItemFilters")
    for name in ("Hello", "GetWorkItems", "CompleteActivityTask"):
        (seen,) = fake.named(name)
        assert seen["authorization"] == "Bearer token-1"
        assert seen["taskhub"] == "far"
        assert seen["workerid"]
    assert len(credential.asked) == 1


def test_outcomes_carry_the_token_of_their_item(fake: FakeScheduler) -> None:
    with working(fake):
        for number in range(5):
            fake.items.put(activity(f"token-{number}", "echo", number))
        outcomes = [fake.completed.get(timeout=SECONDS) for _ in range(5)]
        fake.items.put(turn("turn", started("chain", 1)))
        response = fake.completed.get(timeout=SECONDS)
    assert {each.completionToken: each.result.value for each in outcomes} == {
        f"token-{number}": str(number) for number in range(5)
    }
    assert {(each.instanceId, each.taskId) for each in outcomes} == {("one", 7)}
    assert response.completionToken == "turn"
    assert response.actions[0].scheduleTask.name == "echo"
    assert fake.abandoned.empty()


def test_a_history_that_is_streamed_is_fetched_whole(fake: FakeScheduler) -> None:
    fake.history = [
        *started("chain", 5),
        helpers.new_task_scheduled_event(1, "echo", "5"),
    ]
    with working(fake):
        done = [helpers.new_orchestrator_started_event(), helpers.new_task_completed_event(1, '"first"')]
        # What is in the request too is not taken twice.
        fake.items.put(
            turn("t", done, pastEvents=fake.history, requiresHistoryStreaming=True, executionId={"value": "execution"})
        )
        response = fake.completed.get(timeout=SECONDS)
    (asked,) = [each for each in fake.requests if isinstance(each, pb.StreamInstanceHistoryRequest)]
    assert (asked.instanceId, asked.executionId.value, asked.forWorkItemProcessing) == ("one", "execution", True)
    assert [json.loads(each.scheduleTask.input.value) for each in response.actions] == [["first"]]


def test_a_history_that_breaks_off_is_not_run(fake: FakeScheduler) -> None:
    fake.history = started("chain", 5)

    def fail(name: str, _request: Any, context: Any) -> None:
        if name == "StreamInstanceHistory.end":
            context.abort(grpc.StatusCode.INTERNAL, "broken")

    fake.fail = fail
    with working(fake):
        fake.items.put(turn("t", [helpers.new_orchestrator_started_event()], requiresHistoryStreaming=True))
        assert fake.abandoned.get(timeout=SECONDS) == "t"
    assert fake.completed.empty()


def test_a_turn_without_a_start_is_given_back(fake: FakeScheduler, caplog: pytest.LogCaptureFixture) -> None:
    with working(fake):
        fake.items.put(turn("t", [helpers.new_orchestrator_started_event()]))
        assert fake.abandoned.get(timeout=SECONDS) == "t"
    assert "does not say how it was started" in caplog.text
    assert fake.completed.empty()


def test_entities_of_both_protocols_are_run(fake: FakeScheduler) -> None:
    old = pb.EntityBatchRequest(instanceId="@counter@a", entityState={"value": "40"})
    old.operations.add(operation="add", requestId="r1", input={"value": "2"})
    new = pb.EntityRequest(instanceId="@counter@a", entityState={"value": "40"})
    called = pb.EntityOperationCalledEvent(requestId="r2", operation="add", input={"value": "1"})
    called.parentInstanceId.value = "caller"
    new.operationRequests.add(entityOperationCalled=called)
    with working(fake):
        fake.items.put(pb.WorkItem(completionToken="old", entityRequest=old))
        first = fake.completed.get(timeout=SECONDS)
        fake.items.put(pb.WorkItem(completionToken="new", entityRequestV2=new))
        second = fake.completed.get(timeout=SECONDS)
    assert (first.completionToken, first.entityState.value, list(first.operationInfos)) == ("old", "42", [])
    assert (second.completionToken, second.entityState.value) == ("new", "41")
    assert [each.requestId for each in second.operationInfos] == ["r2"]
    assert second.operationInfos[0].responseDestination.instanceId == "caller"


def test_pings_and_unknown_items_do_no_harm(fake: FakeScheduler) -> None:
    with working(fake):
        fake.items.put(pb.WorkItem(healthPing=pb.HealthPing()))
        fake.items.put(pb.WorkItem(completionToken="nothing"))
        fake.items.put(activity("t", "echo", 1))
        assert fake.completed.get(timeout=SECONDS).completionToken == "t"


def test_what_cannot_be_run_now_is_given_back_and_not_failed(
    fake: FakeScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def not_now(*_given: Any) -> Any:
        raise NotNow

    with working(fake) as engine:
        for name in ("run_orchestrator", "run_activity", "run_entity"):
            monkeypatch.setattr(engine.functions, name, not_now)
        fake.items.put(turn("turn", started("chain")))
        fake.items.put(activity("activity", "echo"))
        entity = pb.EntityBatchRequest(instanceId="@counter@a")
        fake.items.put(pb.WorkItem(completionToken="entity", entityRequest=entity))
        assert {fake.abandoned.get(timeout=SECONDS) for _ in range(3)} == {"turn", "activity", "entity"}
    assert fake.completed.empty()


def test_an_instance_of_another_version_is_left_to_others(fake: FakeScheduler) -> None:
    with working(fake, settings=None) as engine:
        engine.functions._settings = HostSettings(version="1.0")
        fake.items.put(turn("newer", started("chain", version="2.0")))
        assert fake.abandoned.get(timeout=SECONDS) == "newer"
        fake.items.put(turn("older", started("chain", version="0.9")))
        assert fake.completed.get(timeout=SECONDS).completionToken == "older"


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED])
def test_an_outcome_that_is_not_taken_is_given_back(
    code: grpc.StatusCode, fake: FakeScheduler, caplog: pytest.LogCaptureFixture
) -> None:
    failures = [code]

    def fail(name: str, _request: Any, context: Any) -> None:
        if name.startswith("Complete") and failures:
            context.abort(failures.pop(), "not today")

    fake.fail = fail
    with working(fake):
        fake.items.put(activity("t", "echo", 1))
        assert fake.abandoned.get(timeout=SECONDS) == "t"
    assert fake.completed.empty()  # nor is it told to have failed
    assert f"{code.name}: not today" in caplog.text
    assert "Traceback" not in caplog.text


def test_an_outcome_of_a_short_break_is_sent_again(fake: FakeScheduler) -> None:
    failures = [grpc.StatusCode.UNAVAILABLE]

    def fail(name: str, _request: Any, context: Any) -> None:
        if name.startswith("Complete") and failures:
            context.abort(failures.pop(), "a moment")

    fake.fail = fail
    with working(fake):
        fake.items.put(activity("t", "echo", 1))
        assert fake.completed.get(timeout=SECONDS).completionToken == "t"
    assert fake.abandoned.empty()


def test_an_outcome_that_is_too_large_becomes_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    with running_fake(options=[]) as fake, working(fake) as engine:
        size = 5 * 1024 * 1024
        fake.items.put(activity("activity", "large", size))
        response = fake.completed.get(timeout=SECONDS)
        assert response.completionToken == "activity"
        assert response.failureDetails.errorType == "OutcomeTooLarge"
        assert "larger than what the Durable Task Scheduler takes" in response.failureDetails.errorMessage
        done = [
            *started("call", {"activity": "large", "input": size}),
            helpers.new_task_scheduled_event(1, "large", str(size)),
            helpers.new_orchestrator_started_event(),
            helpers.new_task_completed_event(1, json.dumps("x" * size)),
        ]

        async def run() -> Any:
            request = pb.OrchestratorRequest(instanceId="one", newEvents=done)
            return await engine.functions.run_orchestrator("call", "one", request.SerializeToString(), None)

        assert engine.thread.run(run()).ByteSize() > size
    assert "is too large for the scheduler" in caplog.text


def test_a_turn_that_is_too_large_fails_its_orchestration(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(_name: str, instance: str, _request: bytes, _version: str | None) -> pb.OrchestratorResponse:
        return pb.OrchestratorResponse(instanceId=instance, customStatus={"value": "x" * 5 * 1024 * 1024})

    with running_fake(options=[]) as fake, working(fake) as engine:
        monkeypatch.setattr(engine.functions, "run_orchestrator", run)
        fake.items.put(turn("t", started("chain")))
        response = fake.completed.get(timeout=SECONDS)
    (action,) = response.actions
    assert (response.instanceId, response.completionToken) == ("one", "t")
    assert action.completeOrchestration.orchestrationStatus == pb.ORCHESTRATION_STATUS_FAILED
    assert action.completeOrchestration.failureDetails.errorType == "OutcomeTooLarge"


def test_what_comes_while_it_drains_is_given_back_at_the_end(fake: FakeScheduler) -> None:
    with working(fake) as engine:
        fake.items.put(activity("first", "gated", 1))
        until(lambda: engine.module.ran)
        drained = engine.drain_aside()
        until(lambda: engine.engine.worker is not None and engine.engine.worker._draining)
        fake.items.put(activity("second", "gated", 2))
        fake.items.put(turn("third", started("chain")))
        time.sleep(0.2)  # nothing is to happen
        assert fake.abandoned.empty()
        assert fake.completed.empty()
        engine.module.gate.set()
        drained.result(SECONDS)
        assert fake.completed.get(timeout=SECONDS).completionToken == "first"
        assert engine.module.ran == [1]
    given_back = set()
    while not fake.abandoned.empty():
        given_back.add(fake.abandoned.get())
    assert given_back <= {"second", "third"}
    assert fake.completed.empty()


def test_a_stream_that_ends_at_once_is_asked_for_again_and_not_in_a_flood(
    fake: FakeScheduler, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "local_host.scheduler")
    for _ in range(2):
        fake.items.put(None)
    with working(fake):
        began = time.monotonic()
        until(lambda: len(fake.named("GetWorkItems")) >= 3)
        assert time.monotonic() - began > contact.BETWEEN_STREAMS
        fake.items.put(activity("t", "echo", 1))
        assert fake.completed.get(timeout=SECONDS).completionToken == "t"
    assert caplog.text.count("hands out no work") == 1
    assert caplog.text.count("Connected to") == 1


@pytest.mark.parametrize("code", [grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED])
def test_a_stream_that_is_refused_is_told_once(
    code: grpc.StatusCode, fake: FakeScheduler, caplog: pytest.LogCaptureFixture
) -> None:
    refusals = [code] * 2

    def fail(name: str, _request: Any, context: Any) -> None:
        if name == "GetWorkItems" and refusals:
            context.abort(refusals.pop(), "not for you")

    fake.fail = fail
    with working(fake):
        until(lambda: not refusals)
        fake.items.put(activity("t", "echo", 1))
        assert fake.completed.get(timeout=SECONDS).completionToken == "t"
    assert caplog.text.count(f"hands out no work, and is asked again ({code.name}: not for you)") == 1


def test_no_token_no_call_and_work_when_there_is_one(
    fake: FakeScheduler, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "PAUSE_AFTER_FAILURE", 0.0)

    def give(number: int) -> AccessToken:
        if number == 1:
            raise PermissionError("secret-word")
        return AccessToken("good", 2**31)

    with working(fake, Credential(give)):
        until(lambda: "gives no token" in caplog.text)
        fake.items.put(activity("t", "echo", 1))
        assert fake.completed.get(timeout=SECONDS).completionToken == "t"
    assert {metadata["authorization"] for _, metadata in fake.calls} == {"Bearer good"}
    assert "secret-word" not in caplog.text
