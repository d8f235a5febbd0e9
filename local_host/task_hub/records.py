"""The rows and messages that the modules of the hub hand to each other."""

from dataclasses import dataclass, field

from durabletask.internal import orchestrator_service_pb2 as pb
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from local_host.task_hub.store import Refused

RUNNING = pb.ORCHESTRATION_STATUS_RUNNING
COMPLETED = pb.ORCHESTRATION_STATUS_COMPLETED
CONTINUED_AS_NEW = pb.ORCHESTRATION_STATUS_CONTINUED_AS_NEW
FAILED = pb.ORCHESTRATION_STATUS_FAILED
TERMINATED = pb.ORCHESTRATION_STATUS_TERMINATED
PENDING = pb.ORCHESTRATION_STATUS_PENDING
SUSPENDED = pb.ORCHESTRATION_STATUS_SUSPENDED
ENDED = frozenset((COMPLETED, FAILED, TERMINATED, pb.ORCHESTRATION_STATUS_CANCELED))

TIMER, START, OPERATION = 0, 1, 2
"""What a row of ``timers`` does when it is due: answer an instance, start one, or give an entity an operation."""


@dataclass(frozen=True)
class Turn:
    """One run of an orchestrator that is due: what it gets, and what is needed to take its answer.

    ``past`` is the history on the wire (see ``schema``); ``last_message`` the newest of the messages in ``new``.
    """

    instance: int
    instance_id: str
    name: str
    version: str | None
    number: int
    chunks: int
    past: bytes = field(repr=False)
    new: list[pb.HistoryEvent] = field(repr=False)
    last_message: int
    more: bool
    execution_id: str
    trace: bytes | None

    def request(self) -> pb.OrchestratorRequest:
        """The request without its past."""
        request = pb.OrchestratorRequest(instanceId=self.instance_id, newEvents=self.new)
        request.executionId.value = self.execution_id
        if self.trace is not None:
            request.orchestrationTraceContext.ParseFromString(self.trace)
        return request

    def encoded(self) -> bytes:
        """The whole request on the wire; the past is not parsed for it."""
        return self.past + self.request().SerializeToString()


@dataclass(frozen=True)
class ActivityTask:
    """An activity that is due."""

    row: int
    request: pb.ActivityRequest

    @property
    def name(self) -> str:
        """The name of the activity."""
        return self.request.name

    @property
    def version(self) -> str | None:
        """The version that was asked for."""
        return self.request.version.value if self.request.HasField("version") else None


@dataclass(frozen=True)
class EntityBatch:
    """Operations of an entity that are due; ``rows`` are theirs, in the order of the operations."""

    entity: int
    entity_id: str
    number: int
    state: str | None
    rows: list[int]
    operations: list[pb.HistoryEvent] = field(repr=False)
    more: bool

    @property
    def name(self) -> str:
        """The name of the entity's kind, in lower case."""
        return self.entity_id.removeprefix("@").partition("@")[0].lower()

    version: None = None

    def request(self) -> pb.EntityRequest:
        """The request for a worker."""
        request = pb.EntityRequest(instanceId=self.entity_id, operationRequests=self.operations)
        if self.state is not None:
            request.entityState.value = self.state
        return request


def timestamp(microseconds: int) -> Timestamp:
    """A protobuf timestamp of microseconds since 1970."""
    return Timestamp(seconds=microseconds // 1_000_000, nanos=microseconds % 1_000_000 * 1000)


def moment(message: Message, field_name: str) -> int | None:
    """A time that a client gave, in microseconds since 1970; None when it gave none.

    Raises ``Refused`` for one that is not between the years 1 and 9999.
    """
    if not message.HasField(field_name):
        return None
    given: Timestamp = getattr(message, field_name)
    try:
        return given.ToMicroseconds()
    except ValueError:
        raise Refused("INVALID_ARGUMENT", f"The time '{field_name}' is out of range.") from None


def event(now: int, event_id: int = -1) -> pb.HistoryEvent:
    """A new history event; set what it is."""
    return pb.HistoryEvent(eventId=event_id, timestamp=timestamp(now))


def failure(error_type: str, message: str) -> pb.TaskFailureDetails:
    """Failure details of something that the hub itself found."""
    return pb.TaskFailureDetails(errorType=error_type, errorMessage=message)
