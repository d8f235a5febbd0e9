"""The history of an instance as the extension's ``historyEvents``."""

from collections.abc import Iterable
from typing import Any

import durabletask.internal.orchestrator_service_pb2 as pb
from google.protobuf import timestamp_pb2

from local_host.management.shapes import STATUS_NAMES, round_trip_stamp, shown_payload

_SCHEDULING_EVENTS = ("taskScheduled", "subOrchestrationInstanceCreated")
_FINISHING_EVENTS = (
    "taskCompleted",
    "taskFailed",
    "subOrchestrationInstanceCompleted",
    "subOrchestrationInstanceFailed",
)
_EVENTS_WITH_RESULT = ("taskCompleted", "subOrchestrationInstanceCompleted", "executionCompleted")
_HIDDEN_HISTORY_FIELDS = (
    "version",
    "tags",
    "parentTraceContext",
    "orchestrationInstance",
    "orchestrationSpanID",
    "orchestrationState",
    "parentInstance",
    "taskScheduledId",
    "timerId",
    "recurse",
)
_HISTORY_FIELD_NAMES = {
    ("executionStarted", "name"): "FunctionName",
    ("executionStarted", "scheduledStartTimestamp"): "ScheduledStartTime",
    ("executionSuspended", "input"): "Reason",
    ("executionResumed", "input"): "Reason",
}


def history_payload(events: Iterable[pb.HistoryEvent], *, show_input: bool, show_output: bool) -> list[dict[str, Any]]:
    """Project history events into the extension's ``historyEvents``.

    Orchestrator start and completion markers are left out, and a finished task or sub-orchestration takes
    the place of the event that scheduled it, with ``ScheduledTime`` and ``FunctionName`` added. ``Input`` is
    the stored text; ``Result``, shown with ``show_output``, is JSON. Stack traces are never shown.
    """
    items: list[dict[str, Any] | None] = []
    scheduled: dict[int, int] = {}
    for event in events:
        kind = event.WhichOneof("eventType")
        if kind in (None, "orchestratorStarted", "orchestratorCompleted"):
            continue
        item = _history_item(event, kind, show_input=show_input, show_output=show_output)
        if kind in _SCHEDULING_EVENTS:
            scheduled[event.eventId] = len(items)
        elif kind in _FINISHING_EVENTS:
            position = scheduled.pop(getattr(event, kind).taskScheduledId, None)
            origin = items[position] if position is not None else None
            if position is not None and origin is not None:
                items[position] = None
                item |= {"ScheduledTime": origin["Timestamp"], "FunctionName": origin.get("Name", "")}
                item |= {"Input": origin["Input"]} if "Input" in origin else {}
        items.append(item)
    return [item for item in items if item is not None]


def _history_item(event: pb.HistoryEvent, kind: str, *, show_input: bool, show_output: bool) -> dict[str, Any]:
    body: Any = getattr(event, kind)
    item: dict[str, Any] = {
        "EventType": kind[0].upper() + kind[1:],
        "Timestamp": round_trip_stamp(event.timestamp),
    }
    for field, value in body.ListFields():
        label = _HISTORY_FIELD_NAMES.get((kind, field.name), field.name[0].upper() + field.name[1:])
        if field.name in _HIDDEN_HISTORY_FIELDS or (label == "Input" and not show_input):
            continue
        if label in ("Result", "Output"):
            if show_output:
                item[label] = shown_payload(value.value) if value.value else None
        elif label == "OrchestrationStatus":
            item[label] = STATUS_NAMES[value]
        else:
            item[label] = _history_value(value)
    if show_output and kind in _EVENTS_WITH_RESULT:
        item.setdefault("Result", None)
    return item


def _history_value(value: Any) -> Any:
    if isinstance(value, pb.TaskFailureDetails):
        return {
            "ErrorType": value.errorType,
            "ErrorMessage": value.errorMessage,
            "InnerFailure": _history_value(value.innerFailure) if value.HasField("innerFailure") else None,
            "IsNonRetriable": value.isNonRetriable,
        }
    if isinstance(value, timestamp_pb2.Timestamp):
        return round_trip_stamp(value)
    if isinstance(value, str | int | bool):
        return value
    # What is left is a StringValue, or a repeated field of strings.
    return value.value if hasattr(value, "value") else [str(entry) for entry in value]
