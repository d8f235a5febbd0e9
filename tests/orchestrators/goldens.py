"""Recorded histories: as files, and cut into the turns that an orchestrator was run in."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb
from google.protobuf import json_format

FOLDER = Path(__file__).parent / "goldens"

CONFIRMATIONS = {
    "taskScheduled": "scheduleTask",
    "timerCreated": "createTimer",
    "subOrchestrationInstanceCreated": "createSubOrchestration",
    "eventSent": "sendEvent",
    "entityOperationCalled": "sendEntityMessage",
    "entityOperationSignaled": "sendEntityMessage",
    "entityLockRequested": "sendEntityMessage",
    "entityUnlockSent": "sendEntityMessage",
}
"""The event that the hub writes for an action of the orchestrator, and the action."""


@dataclass(frozen=True)
class Action:
    """What an orchestrator did, as far as a replay checks it: an instance in flight breaks when this changes."""

    kind: str
    id: int
    name: str


@dataclass(frozen=True)
class Turn:
    """One run of the orchestrator: what came before, what was new, and what it did then."""

    past: list[pb.HistoryEvent]
    new: list[pb.HistoryEvent]
    actions: list[Action]
    completion: pb.ExecutionCompletedEvent | None


def turns(history: list[pb.HistoryEvent]) -> Iterator[Turn]:
    """Cut a history into its turns; each begins with ``orchestratorStarted``."""
    starts = [index for index, event in enumerate(history) if event.HasField("orchestratorStarted")]
    for start, end in zip(starts, [*starts[1:], len(history)], strict=True):
        events = history[start:end]
        kinds = [str(event.WhichOneof("eventType")) for event in events]
        completion = next((event.executionCompleted for event in events if event.HasField("executionCompleted")), None)
        yield Turn(
            past=history[:start],
            new=[
                event
                for event, kind in zip(events, kinds, strict=True)
                if kind not in CONFIRMATIONS and kind not in ("orchestratorCompleted", "executionCompleted")
            ],
            actions=[
                Action(CONFIRMATIONS[kind], event.eventId, name_in(getattr(event, kind)))
                for event, kind in zip(events, kinds, strict=True)
                if kind in CONFIRMATIONS
            ],
            completion=completion,
        )


def actions_of(response: pb.OrchestratorResponse) -> tuple[list[Action], pb.CompleteOrchestrationAction | None]:
    """Split a response into what was scheduled and the completion."""
    scheduled: list[Action] = []
    completion = None
    for action in response.actions:
        kind = str(action.WhichOneof("orchestratorActionType"))
        if kind == "completeOrchestration":
            completion = action.completeOrchestration
        else:
            scheduled.append(Action(kind, action.id, name_in(getattr(action, kind))))
    return scheduled, completion


def name_in(message: Any) -> str:
    """The name of the activity, sub-orchestration or event, where there is one."""
    return str(getattr(message, "name", ""))


def shape(history: list[pb.HistoryEvent]) -> list[str]:
    """What makes one history different from another for a replay: the kinds of its events, and their names."""
    kinds = [str(event.WhichOneof("eventType")) for event in history]
    return [f"{kind}:{name_in(getattr(event, kind))}" for kind, event in zip(kinds, history, strict=True)]


def load(file: Path) -> list[pb.HistoryEvent]:
    """Read a recorded history."""
    return [json_format.ParseDict(event, pb.HistoryEvent()) for event in json.loads(file.read_text())]


def save(file: Path, history: list[pb.HistoryEvent]) -> None:
    """Write a history, one event a line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(_without_stacks(json_format.MessageToDict(event)), sort_keys=True) for event in history]
    file.write_text("[\n" + ",\n".join(lines) + "\n]\n")


def _without_stacks(value: Any) -> Any:
    """Leave stack traces out, which no replay looks at: they name the folders of the machine that recorded them."""
    if isinstance(value, dict):
        return {key: _without_stacks(each) for key, each in value.items() if key != "stackTrace"}
    return [_without_stacks(each) for each in value] if isinstance(value, list) else value
