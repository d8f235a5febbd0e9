"""Declared workflows: what is declared, what starts a run of it, what answers it, and what comes out."""

from functools import lru_cache
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, JsonValue, ModelWrapValidatorHandler, StringConstraints, model_validator

from contracts.audit import RunStamp
from contracts.base import MAX_PEOPLE, Comment, Contract, DecisionId, InstanceId, Line, PlainAddress, Timestamp, Who
from contracts.carried import Moment, RecordState
from contracts.form import Form
from contracts.human_step import Asking, Verdict
from contracts.outcome import Outcome
from contracts.pause import ResumeData
from contracts.start import Keyed
from contracts.workflow_data import DataError, check_data
from contracts.workflow_steps import MAX_MAIL, ActionStep, Step, StepId, WaitEventAction

MAX_STEPS = 200
MAX_EVENTS = 20
"""How many events one workflow waits for by name."""
MAX_VERSION = 999_999


def _within_bounds(data: dict[str, JsonValue]) -> dict[str, JsonValue]:
    try:
        check_data(data)
    except DataError as error:
        raise ValueError(str(error)) from None
    return data


WorkflowName = Annotated[InstanceId, StringConstraints(max_length=60)]
Version = Annotated[int, Field(ge=1, le=MAX_VERSION)]
Data = Annotated[dict[str, JsonValue], AfterValidator(_within_bounds)]


class Definition(Contract):
    """A workflow: it begins at the first step. ``input_schema`` is what the input of a run has to fit.

    What one step alone cannot show (that its targets are there, that all steps are reached, that no loop runs without
    a wait) ``contracts.workflow_checks`` looks at.

    What is stored once is read as this again, by every start and by every replay of the runs that hold it; so the rules
    of this contract, and of those of its steps, never get tighter. New ones belong into ``contracts.workflow_checks``.
    """

    name: WorkflowName
    description: Annotated[Comment, StringConstraints(max_length=1_000)] | None = None
    steps: Annotated[tuple[Step, ...], Field(strict=False, min_length=1, max_length=MAX_STEPS)]
    input_schema: Form | None = None

    @property
    def events(self) -> tuple[str, ...]:
        """The events that it waits for by name."""
        actions = [step.action for step in self.steps if isinstance(step, ActionStep)]
        return tuple(dict.fromkeys(action.name for action in actions if isinstance(action, WaitEventAction)))


class StoredDefinition(Contract):
    """A version of a workflow, as it was sent, by whom and when."""

    version: Version
    definition: dict[str, JsonValue]
    created_at: Timestamp
    created_by: Who | None = None


class StartExecution(Contract):
    """The body of ``POST /api/v1/workflows/{name}/executions``. Without ``version`` it is the newest one;
    ``execution_id`` names the run."""

    input: Data = Field(default_factory=dict)
    execution_id: InstanceId | None = None
    version: Version | None = None
    idempotency_key: DecisionId | None = None


class WorkflowState(Contract):
    """What a run knows between two steps. ``at`` is the step that is next, ``visits`` counts the steps that were gone
    to, ``early`` has payloads of events that came before a step waited for them."""

    record: RecordState
    at: StepId
    visits: int
    data: dict[str, JsonValue]
    early: dict[str, list[dict[str, JsonValue]]] = Field(default_factory=dict)
    mails: int = 0
    children: int = 0
    answered: dict[str, JsonValue] | None = None
    ends_at: Moment | None = None
    verdicts: dict[str, Verdict] = Field(default_factory=dict)
    refusals: dict[str, int] = Field(default_factory=dict)


class WorkflowInput(Keyed):
    """The durable input. It holds the definition itself, so that a run keeps the version that it began with.

    ``asked_version`` is the one that was asked for, if one was. ``approvals_to`` and ``interventions_to`` are mailed
    where an approval or a call names nobody. ``carried`` is what a long run knew when it began its history anew.
    """

    workflow: WorkflowName
    version: Version
    asked_version: Version | None = None
    definition: dict[str, JsonValue]
    input: dict[str, JsonValue] = Field(default_factory=dict)
    approvals_to: PlainAddress | None = None
    interventions_to: PlainAddress | None = None
    carried: WorkflowState | None = None


class FromBlock(Contract):
    """Which wait an answer is meant for: the step, and how many steps were gone to by then."""

    step: StepId
    visit: Annotated[int, Field(ge=1)]


class BlockAnswer(Asking):
    """The payload of ``answer``, to a step that waits for people, or for another system.

    ``data`` are all that came with it. Where approval is needed they say ``approved``, true or false, and perhaps
    ``comments``; the others are merged into the data of the run. ``sent_by`` is who sent it on behalf of ``by``.
    """

    by: Who
    data: ResumeData = Field(default_factory=dict)
    sent_by: Who | None = None
    channel: Literal["api"] | None = None
    link: FromBlock | None = None


class ReceivedEvent(Contract):
    """The payload of an event that a workflow waits for by name: any object, or nothing."""

    event: str
    data: ResumeData = Field(default_factory=dict)

    @model_validator(mode="wrap")
    @classmethod
    def _from_payload(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        return handler({"event": cls.model_fields["event"].default, "data": {} if value is None else value})


@lru_cache(maxsize=1_000)
def received(event: str) -> type[ReceivedEvent]:
    """Return the contract of the event of this name."""
    annotations = {"event": str}
    return type("ReceivedEvent", (ReceivedEvent,), {"__annotations__": annotations, "event": event})


class WorkflowMail(Contract):
    """The durable input of ``send_workflow_mail``. Instance, run and number name the mail."""

    workflow: WorkflowName
    instance_id: str
    run: RunStamp
    number: Annotated[int, Field(ge=1)]
    to: Annotated[tuple[PlainAddress, ...], Field(strict=False, min_length=1, max_length=MAX_PEOPLE)]
    subject: Line
    text: Annotated[str, Field(max_length=10 * MAX_MAIL)]


class WorkflowOutcome(Outcome):
    """The output of a run that did not fail.

    ``status`` is ``Completed``, ``Rejected``, or what the step said that ended it; ``output`` is what that step gave,
    and ``data`` are those at the end where it gave none.
    """

    status: str
    workflow: WorkflowName
    version: Version
    output: JsonValue = None
    data: dict[str, JsonValue] | None = None
