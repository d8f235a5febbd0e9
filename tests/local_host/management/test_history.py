"""The history in a status."""

import json
from typing import Any
from uuid import uuid4

import durabletask.internal.orchestrator_service_pb2 as pb
import pytest
from google.protobuf import timestamp_pb2

from local_host.management.history import history_payload
from tests.local_host.management.support import INSTANT, Api

pytestmark = pytest.mark.anyio

KINDS = pb.HistoryEvent.DESCRIPTOR.oneofs_by_name["eventType"].fields


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


def filled(message: Any) -> Any:
    """Give a message of which every field is set, two levels deep."""
    for field in message.DESCRIPTOR.fields:
        if field.message_type is None:
            value = {9: "text", 8: True, 14: 1}.get(field.type, 7)
            if field.is_repeated:
                getattr(message, field.name).append(value)
            else:
                setattr(message, field.name, value)
        elif not field.is_repeated:
            inner = getattr(message, field.name)
            inner.SetInParent()
            if field.message_type.name in ("StringValue", "Timestamp"):
                filled(inner)
    return message


@pytest.mark.parametrize("kind", [field.name for field in KINDS if not field.name.startswith("orchestrator")])
def test_every_kind_of_event_with_every_field_is_shown_as_json(kind: str) -> None:
    event = pb.HistoryEvent(eventId=1)
    getattr(event, kind).SetInParent()
    filled(getattr(event, kind))
    (shown,) = history_payload([event], show_input=True, show_output=True)
    assert json.loads(json.dumps(shown)) == shown
    assert shown["EventType"].lower() == kind.lower()
    (hidden,) = history_payload([event], show_input=False, show_output=False)
    assert not hidden.keys() & {"Input", "Result", "Output"}
