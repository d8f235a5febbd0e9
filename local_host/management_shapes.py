"""JSON shapes, URLs and query parameters of the Durable Functions HTTP management API.

Everything here is a pure function of a protobuf message or of a query string. The shapes follow
``StatusResponsePayload``, ``HttpManagementPayload`` and the history projection of the Durable Functions
extension (Azure/azure-functions-durable-extension, ``HttpApiHandler.cs`` and ``DurableClient.cs``).
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NoReturn
from urllib.parse import quote

import durabletask.internal.orchestrator_service_pb2 as pb
from google.protobuf import timestamp_pb2

MANAGEMENT_PREFIX = "/runtime/webhooks/durabletask"
MAX_INSTANCE_ID_LENGTH = 100

STATUS_NAMES: dict[pb.OrchestrationStatus, str] = {
    pb.ORCHESTRATION_STATUS_RUNNING: "Running",
    pb.ORCHESTRATION_STATUS_COMPLETED: "Completed",
    pb.ORCHESTRATION_STATUS_CONTINUED_AS_NEW: "ContinuedAsNew",
    pb.ORCHESTRATION_STATUS_FAILED: "Failed",
    pb.ORCHESTRATION_STATUS_CANCELED: "Canceled",
    pb.ORCHESTRATION_STATUS_TERMINATED: "Terminated",
    pb.ORCHESTRATION_STATUS_PENDING: "Pending",
    pb.ORCHESTRATION_STATUS_SUSPENDED: "Suspended",
}
_STATUS_BY_NAME = {name.lower(): status for status, name in STATUS_NAMES.items()}
_MAX_INT32 = 2**31 - 1
_SHORT_YEAR = re.compile(r"[0-9]{1,3}(?=-)")
_FORBIDDEN_IN_ID = re.compile(r"[/\\#?\x00-\x1f\x7f-\x9f]")
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


class RequestRefused(Exception):
    """A request that is answered with ``status`` and the JSON ``body`` (``None``: an empty body)."""

    def __init__(self, status: int, body: object = None) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = body


def refuse(status: int, message: str) -> NoReturn:
    """Refuse the request with ``{"Message": message}``, the extension's error shape.

    Raises:
        RequestRefused: always.
    """
    raise RequestRefused(status, {"Message": message})


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a JSON number")
    return number


def parse_json(text: str) -> Any:
    """Parse JSON text, refusing what Python reads but JSON lacks (NaN, infinities).

    Raises:
        ValueError: the text is not JSON, or is nested or sized beyond what Python can read.
    """
    try:
        return json.loads(text, parse_float=_finite, parse_constant=_finite)
    except RecursionError as error:
        raise ValueError("JSON is nested too deeply") from error


def shown_payload(text: str) -> Any:
    """Return a stored payload as JSON, as its own text when it is not JSON, and ``None`` when blank."""
    text = text.strip()
    if not text:
        return None
    try:
        return parse_json(text)
    except ValueError:
        return text


def _seconds_stamp(stamp: Any) -> str:
    return f"{stamp.ToDatetime().isoformat(timespec='seconds')}Z"


def round_trip_stamp(stamp: Any) -> str:
    """Format a protobuf ``Timestamp`` as .NET does in JSON: UTC, at most seven decimals, none trailing."""
    fraction = f"{stamp.nanos // 100:07d}".rstrip("0")
    whole = stamp.ToDatetime().replace(microsecond=0).isoformat()
    return f"{whole}.{fraction}Z" if fraction else f"{whole}Z"


def _failure_text(failure: pb.TaskFailureDetails) -> str:
    return f"{failure.errorType}: {failure.errorMessage}"


def status_payload(
    state: pb.OrchestrationState, *, show_input: bool = True, history: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Shape an instance's state as the extension's ``StatusResponsePayload``.

    ``historyEvents`` is there only when ``history`` is given; every other field always is. The output of a
    failed instance is ``<error type>: <message>``, which is how DurableTask.Core renders failure details.
    Times are UTC in whole seconds.
    """
    failed = state.orchestrationStatus == pb.ORCHESTRATION_STATUS_FAILED and state.HasField("failureDetails")
    payload: dict[str, Any] = {
        "name": state.name,
        "instanceId": state.instanceId,
        "runtimeStatus": STATUS_NAMES[state.orchestrationStatus],
        "input": shown_payload(state.input.value) if show_input else None,
        "customStatus": shown_payload(state.customStatus.value),
        "output": _failure_text(state.failureDetails) if failed else shown_payload(state.output.value),
        "createdTime": _seconds_stamp(state.createdTimestamp),
        "lastUpdatedTime": _seconds_stamp(state.lastUpdatedTimestamp),
    }
    if history is not None:
        payload["historyEvents"] = history
    return payload


def entity_payload(entity: pb.EntityMetadata, *, fetch_state: bool) -> dict[str, Any]:
    """Shape an entity as the extension's ``DurableEntityStatus``; ``state`` is null unless asked for."""
    name, _, key = entity.instanceId.removeprefix("@").partition("@")
    return {
        "entityId": {"name": name, "key": key},
        "lastOperationTime": round_trip_stamp(entity.lastModifiedTime),
        "state": shown_payload(entity.serializedState.value) if fetch_state else None,
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
                item[label] = shown_payload(value.value)
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


def required_query(task_hub: str) -> str:
    """Return the query string that every management URL carries: the hub and its connection's name."""
    return f"taskHub={quote(task_hub, safe='')}&connection=Storage"


def check_status_payload(origin: str, task_hub: str, instance_id: str) -> dict[str, str]:
    """Build an instance's management URLs, named as ``azure.durable_functions`` names them.

    ``origin`` is scheme and authority (``http://localhost:7071``). ``{eventName}`` and ``{text}`` stay for
    the client to fill in.
    """
    instance = f"{origin}{MANAGEMENT_PREFIX}/instances/{quote(instance_id, safe='')}"
    query = required_query(task_hub)
    return {
        "id": instance_id,
        "statusQueryGetUri": f"{instance}?{query}",
        "sendEventPostUri": f"{instance}/raiseEvent/{{eventName}}?{query}",
        "terminatePostUri": f"{instance}/terminate?reason={{text}}&{query}",
        "rewindPostUri": f"{instance}/rewind?reason={{text}}&{query}",
        "purgeHistoryDeleteUri": f"{instance}?{query}",
        "restartPostUri": f"{instance}/restart?{query}",
        "suspendPostUri": f"{instance}/suspend?reason={{text}}&{query}",
        "resumePostUri": f"{instance}/resume?reason={{text}}&{query}",
    }


def check_instance_id(instance_id: str) -> None:
    """Check the id of a new instance against the documented rules of Durable Functions.

    1 to 100 characters, no ``@`` in front (entities own those ids), no ``/ \\ # ?`` or control character.

    Raises:
        RequestRefused: 400, the id breaks a rule.
    """
    if not 1 <= len(instance_id) <= MAX_INSTANCE_ID_LENGTH:
        refuse(400, f"An instance id has 1 to {MAX_INSTANCE_ID_LENGTH} characters.")
    if instance_id.startswith("@"):
        refuse(400, "An instance id cannot begin with '@'.")
    if _FORBIDDEN_IN_ID.search(instance_id):
        refuse(400, "An instance id cannot hold '/', '\\', '#', '?' or control characters.")


def entity_instance_id(name: str, key: str) -> str:
    """Return the instance id of an entity; its name is case-insensitive and kept in lower case.

    Raises:
        RequestRefused: 400, the name or key cannot be part of an entity id.
    """
    if not name or "@" in name:
        refuse(400, "An entity name cannot be empty or hold '@'.")
    # The extension also takes an empty key and '@' in one; durabletask cannot parse such an id back.
    if not key or "@" in key or _FORBIDDEN_IN_ID.search(key):
        refuse(400, "An entity key cannot be empty or hold '@', '/', '\\', '#', '?' or control characters.")
    return f"@{name.lower()}@{key}"


def known_function(names: Collection[str], name: str, kind: str) -> str:
    """Return the registered spelling of a function name, which is looked up without regard to case.

    Raises:
        RequestRefused: 400, no such function; the message lists the known ones.
    """
    if name in names:
        return name
    for known in names:
        if known.lower() == name.lower():
            return known
    listing = ", ".join(f"'{known}'" for known in sorted(names)) or "none"
    refuse(400, f"'{name}' is not a known {kind} function of this app. Known {kind} functions: {listing}.")


def encode_continuation(kind: str, token: str) -> str:
    """Wrap the hub's continuation token for the ``x-ms-continuation-token`` header."""
    return base64.b64encode(json.dumps([kind, token]).encode()).decode()


def decode_continuation(kind: str, header: str) -> str:
    """Unwrap a token that :func:`encode_continuation` made for the same kind of listing.

    Raises:
        RequestRefused: 400, the token is not one of ours.
    """
    try:
        made_for, token = json.loads(base64.b64decode(header, validate=True))
    except (ValueError, TypeError, RecursionError):
        refuse(400, "The continuation token is not valid.")
    if made_for != kind or not isinstance(token, str):
        refuse(400, "The continuation token is not valid.")
    return token


def query_text(query: Mapping[str, str], name: str) -> str | None:
    """Return a query parameter by its lower-case name; blank counts as absent."""
    text = query.get(name.lower(), "").strip()
    return text or None


def query_flag(query: Mapping[str, str], name: str, *, default: bool = False) -> bool:
    """Read ``true`` or ``false`` in any case; as in the extension, anything else means the default."""
    return {"true": True, "false": False}.get((query_text(query, name) or "").lower(), default)


def query_page_size(query: Mapping[str, str]) -> int | None:
    """Read ``top``, a page size of 1 to 2**31-1.

    Raises:
        RequestRefused: 400, it is not such a number.
    """
    text = query_text(query, "top")
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,10}", text) or not 1 <= int(text) <= _MAX_INT32:
        refuse(400, "'top' must be a positive integer.")
    return int(text)


def query_seconds(query: Mapping[str, str], name: str) -> float | None:
    """Read a duration in seconds, zero or more.

    Raises:
        RequestRefused: 400, it is not such a number.
    """
    text = query_text(query, name)
    if text is None:
        return None
    try:
        seconds = _finite(text)
    except ValueError:
        seconds = -1.0
    if seconds < 0:
        refuse(400, f"'{name}' must be a number of seconds.")
    return seconds


def query_time(query: Mapping[str, str], name: str) -> timestamp_pb2.Timestamp | None:
    """Read an ISO 8601 time; one without an offset is UTC.

    A year may lack its leading zeros, because Python's ``strftime`` drops them on Linux and the extension
    allows for that.

    Raises:
        RequestRefused: 400, it is not a time that a protobuf timestamp can hold.
    """
    text = query_text(query, name)
    if text is None:
        return None
    stamp = timestamp_pb2.Timestamp()
    if short_year := _SHORT_YEAR.match(text):
        text = short_year[0].zfill(4) + text[short_year.end() :]
    try:
        moment = datetime.fromisoformat(text)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        stamp.FromDatetime(moment)
    except (ValueError, OverflowError):
        refuse(400, f"'{name}' must be an ISO 8601 time.")
    return stamp


def query_statuses(query: Mapping[str, str]) -> list[pb.OrchestrationStatus]:
    """Read ``runtimeStatus``: names in any case, comma separated or repeated.

    Raises:
        RequestRefused: 400, a name is not a runtime status.
    """
    names = [name.strip() for name in query.get("runtimestatus", "").split(",")]
    unknown = [name for name in names if name and name.lower() not in _STATUS_BY_NAME]
    if unknown:
        refuse(400, f"Not a runtime status: {', '.join(unknown)}. Known: {', '.join(STATUS_NAMES.values())}.")
    return [_STATUS_BY_NAME[name.lower()] for name in names if name]
