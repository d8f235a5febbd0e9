"""JSON shapes and URLs of the management API: pure functions of protobuf messages.

They follow ``StatusResponsePayload``, ``HttpManagementPayload`` and ``DurableEntityStatus`` of the Durable Functions
extension (Azure/azure-functions-durable-extension).
"""

import json
import math
from typing import Any
from urllib.parse import quote

import durabletask.internal.orchestrator_service_pb2 as pb

MANAGEMENT_PREFIX = "/runtime/webhooks/durabletask"
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
_SURELY_SHALLOW = 500
"""Brackets in a JSON text that cannot nest too deeply, however little of the stack is left."""


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a JSON number")
    return number


def parse_json(text: str) -> Any:
    """Parse JSON text, refusing what Python reads but JSON lacks (NaN, infinities).

    Raises:
        ValueError: the text is not JSON, or is nested or sized beyond what Python can read, or write within an answer.
    """
    try:
        value = json.loads(text, parse_float=_finite, parse_constant=_finite)
        if text.count("[") + text.count("{") > _SURELY_SHALLOW:
            json.dumps([[[[[[[[value]]]]]]]])
    except RecursionError as error:
        raise ValueError("JSON is nested too deeply") from error
    return value


def shown_payload(text: str) -> Any:
    """Return a stored payload as JSON, or as its own text when it is not JSON."""
    text = text.strip()
    if not text:
        return ""
    try:
        return parse_json(text)
    except ValueError:
        return text


def shown_field(message: Any, name: str) -> Any:
    """Return an optional payload of a protobuf message as JSON; ``None`` when it is not there."""
    return shown_payload(getattr(message, name).value) if message.HasField(name) else None


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
        "input": shown_field(state, "input") if show_input else None,
        # Always JSON when it was set: a blank one was not.
        "customStatus": shown_field(state, "customStatus") if state.customStatus.value.strip() else None,
        "output": _failure_text(state.failureDetails) if failed else shown_field(state, "output"),
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
        "state": shown_field(entity, "serializedState") if fetch_state else None,
    }


def required_query(task_hub: str, code: str | None = None) -> str:
    """Return the query string that every management URL carries: the hub, its connection's name, and the key if any."""
    query = f"taskHub={quote(task_hub, safe='')}&connection=Storage"
    return query if code is None else f"{query}&code={quote(code, safe='')}"


def instance_url(origin: str, instance_id: str) -> str:
    """Return the URL of an instance, without a query. ``origin`` is scheme and authority (``http://localhost:7071``)."""
    return f"{origin}{MANAGEMENT_PREFIX}/instances/{quote(instance_id, safe='')}"


def check_status_payload(origin: str, query: str, instance_id: str) -> dict[str, str]:
    """Build an instance's management URLs, those that the extension answers a start with: all but ``rewindPostUri``.

    ``query`` is that of :func:`required_query`; ``{eventName}`` and ``{text}`` stay for the client to fill in.
    """
    instance = instance_url(origin, instance_id)
    return {
        "id": instance_id,
        "statusQueryGetUri": f"{instance}?{query}",
        "sendEventPostUri": f"{instance}/raiseEvent/{{eventName}}?{query}",
        "terminatePostUri": f"{instance}/terminate?reason={{text}}&{query}",
        "purgeHistoryDeleteUri": f"{instance}?{query}",
        "restartPostUri": f"{instance}/restart?{query}",
        "suspendPostUri": f"{instance}/suspend?reason={{text}}&{query}",
        "resumePostUri": f"{instance}/resume?reason={{text}}&{query}",
    }
