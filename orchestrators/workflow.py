"""Workflow: a run of a declared workflow, from step to step."""

from typing import Any, assert_never

from durabletask import task
from pydantic import JsonValue

from contracts.workflow import Definition, WorkflowInput, WorkflowOutcome
from contracts.workflow_condition import holds
from contracts.workflow_data import DataError, put
from contracts.workflow_steps import (
    ActionStep,
    ApproveAction,
    BlockAction,
    CallAction,
    CompleteAction,
    ConditionStep,
    DelayAction,
    EmailAction,
    FailAction,
    SetAction,
    StepId,
    WaitEventAction,
)
from orchestrators.human_step import ExecutionTimedOut, out_of_time
from orchestrators.workflow_calls import approve, call, email
from orchestrators.workflow_desk import RUNNING, Desk, Turn, shown
from orchestrators.workflow_steps import Ended, Passed
from orchestrators.workflow_waits import block, delay, wait_event

COMPLETED, REJECTED, FAILED = "completed", "rejected", "failed"
BEGIN_ANEW_AFTER = 50
"""After so many steps, and things that came, a run begins a new history: each turn goes through all of it. What was
noted until then is put on record."""
MAX_VISITS = 10_000
"""How many steps one run goes through: a loop that has no end comes to one."""


def workflow(ctx: task.OrchestrationContext, request: dict[str, Any]) -> Turn[dict[str, Any]]:
    """Go through the steps of a declared workflow.

    Takes a ``WorkflowInput``, gives a ``WorkflowOutcome``; waits for the events of ``Desk``. Fails when a step says so,
    when its data are not what a step needs, and when it takes longer than its execution timeout.
    """
    run = _Workflow(ctx, WorkflowInput.model_validate(request))
    try:
        outcome = yield from run.run(request)
    except ExecutionTimedOut:
        yield from out_of_time(run.desk.record)
        raise
    if outcome is None:
        ctx.continue_as_new(run.carried(), save_events=True)
        return {}
    return outcome


class WorkflowFailed(Exception):
    """A step failed the run, or could not be done."""


class _Workflow:
    """One run: where it is, and what follows."""

    def __init__(self, ctx: task.OrchestrationContext, asked: WorkflowInput) -> None:
        self._asked = asked
        definition = Definition.model_validate(asked.definition)
        self._steps = {step.id: step for step in definition.steps}
        self.desk = Desk(ctx, asked, definition)

    def run(self, request: dict[str, Any]) -> Turn[dict[str, Any] | None]:
        """Go from step to step, to the end; give None where the history is long, and the same run goes on."""
        yield from self._begin(request)
        first = self.desk.visit
        while True:
            is_long = self.desk.visit - first + self.desk.arrivals >= BEGIN_ANEW_AFTER
            if is_long and self.desk.visit > first and (yield from self._is_idle()):
                self.desk.inbox.close()
                return None
            try:
                passed = yield from self._go_through()
                following = None if isinstance(passed, Ended) else self._pass(passed)
            except DataError as error:
                return (yield from self._fail(f"step '{self.desk.step}': {error}"))
            if isinstance(passed, Ended):
                return (yield from self._end(passed))
            if following is None:
                return (yield from self._end(Ended("Completed" if passed.way == "next" else "Rejected")))
            self.desk.step = following

    def carried(self) -> dict[str, Any]:
        """Return the input with all that the run knows."""
        return self._asked.model_copy(update={"carried": self.desk.carried()}).plain()

    def _begin(self, request: dict[str, Any]) -> Turn[None]:
        if self._asked.carried is not None:
            self.desk.restore(self._asked.carried)
            yield from self.desk.store()
            return
        self.desk.say(RUNNING)
        detail = f"{self._asked.workflow}, version {self._asked.version}"
        actor = self._asked.started_by
        self.desk.record.note("started", after=RUNNING, actor=actor, channel="api", detail=detail, payload=request)

    def _is_idle(self) -> Turn[bool]:
        """Put on record what there is; whether nothing is left behind then."""
        yield from self.desk.store()
        return self.desk.is_idle

    def _go_through(self) -> Turn[Passed | Ended]:
        """Do what the step says."""
        desk = self.desk
        step = self._steps[desk.step]
        desk.visit += 1
        if desk.visit > MAX_VISITS:
            raise DataError(f"the run has gone through {MAX_VISITS:,} steps, which is as many as one may")
        desk.following = step.next if isinstance(step, ActionStep) else None
        desk.record.at_step(step.id, desk.following)
        if isinstance(step, ConditionStep):
            is_true = holds(step.condition, desk.view)
            result: JsonValue = {"result": is_true}
            return Passed("on_true", result, "true") if is_true else Passed("on_false", result, "false")
        return (yield from self._act(step))

    def _act(self, step: ActionStep) -> Turn[Passed | Ended]:
        desk, action = self.desk, step.action
        passed: Passed | Ended
        match action:
            case BlockAction():
                passed = yield from block(desk, action)
            case ApproveAction():
                passed = yield from approve(desk, action)
            case CallAction():
                passed = yield from call(desk, action)
            case EmailAction():
                passed = yield from email(desk, action)
            case WaitEventAction():
                passed = yield from wait_event(desk, action)
            case DelayAction():
                passed = yield from delay(desk, action)
            case SetAction():
                passed = self._set(action)
            case CompleteAction():
                passed = Ended(action.status, desk.resolve(action.output))
            case FailAction():
                raise DataError(desk.text(action.reason))
            case _:
                assert_never(action)
        return passed

    def _set(self, action: SetAction) -> Passed:
        for path, value in action.values.items():
            self.desk.data = put(self.desk.data, path, self.desk.resolve(value))
        return Passed("next")

    def _pass(self, passed: Passed) -> StepId | None:
        """Keep what came of the step, and return what follows; None at the end."""
        desk = self.desk
        if desk.is_over_time:
            desk.inbox.close()
            raise ExecutionTimedOut
        desk.keep(passed.result)
        desk.record.note("passed", after=RUNNING, detail=f"{desk.step}: {passed.said}".removesuffix(": "))
        desk.say(RUNNING)
        following: StepId | None = getattr(self._steps[desk.step], passed.way)
        if following is None and passed.way in ("on_timeout", "on_failed"):
            raise DataError(passed.why)
        return following

    def _end(self, ended: Ended) -> Turn[dict[str, Any]]:
        """Say what came out: on record, in the status, and as the output."""
        desk = self.desk
        desk.inbox.close()
        phase = REJECTED if ended.status == "Rejected" else COMPLETED
        desk.record.note("ended", after=phase, detail=ended.status)
        yield from desk.store()
        desk.say(phase)
        outcome = WorkflowOutcome(
            status=ended.status,
            workflow=self._asked.workflow,
            version=self._asked.version,
            output=ended.output,
            data=desk.data if ended.output is None else None,
        )
        return desk.record.outcome(outcome)

    def _fail(self, why: str) -> Turn[dict[str, Any]]:
        desk, why = self.desk, shown(why)[:2000]
        desk.inbox.close()
        desk.record.close_wait()
        desk.record.note("ended", after=FAILED, detail=why)
        yield from desk.store()
        desk.say(FAILED)
        raise WorkflowFailed(f"{why}.")
