"""The steps of a declared workflow that have something done: approvals, guarded calls, mails."""

from typing import Any

from durabletask import task
from pydantic import JsonValue

from activities.workflow import send_workflow_mail
from contracts.approval import ApprovalInput, ApprovalOutcome, ApprovalRequest
from contracts.base import one_line
from contracts.guarded_call import GuardedCall, GuardedCallInput, GuardedCallOutcome
from contracts.workflow import WorkflowMail
from contracts.workflow_data import DataError
from contracts.workflow_steps import A_MINUTE, ApproveAction, CallAction, EmailAction, Way
from orchestrators.approval import approval
from orchestrators.guarded_call import guarded_call
from orchestrators.human_step import Finished
from orchestrators.retries import EFFECT
from orchestrators.workflow_desk import Desk, Turn
from orchestrators.workflow_steps import Passed, read_as

APPROVING, CALLING, MAILING = "waiting_for_approval", "calling", "mailing"
OUTCOMES: dict[str, Way] = {"Approved": "next", "Timeout": "on_timeout"}
"""Where the outcome of an approval leads to; the others count as a rejection."""
KEPT = dict.fromkeys(("status", "approver", "comments", "decided_at"), True)
"""What is kept of it."""


def approve(desk: Desk, action: ApproveAction) -> Turn[Passed]:
    """Have an approval made by its own rules."""
    asked = read_as(ApprovalRequest, desk.resolve(action.request))
    if asked.timeout_hours < A_MINUTE:
        raise DataError("an approval that a workflow asks for takes a minute at least: timeout_hours is less")
    given = _approval_of(
        desk,
        {
            **asked.model_dump(mode="json"),
            "mailbox": None if asked.stages else desk.asked.approvals_to,
            "at_step": desk.at_step().plain(),
            "started_by": desk.asked.started_by,
            "execution_timeout": desk.seconds_left,
        },
    )
    child = desk.new_child(approval.__name__, "approval")
    desk.record.note("asked", after=APPROVING, detail=f"{desk.step}: {child}")
    yield from desk.store()
    desk.say(APPROVING, reason=asked.headline, child=child)
    finished = yield from _called(desk, approval.__name__, given.plain(), child)
    if not finished.succeeded:
        why = "the approval failed: nobody decided, or it was ended"
        return Passed("on_failed", {"status": "Failed", "request_id": child}, "failed", why)
    outcome = ApprovalOutcome.model_validate(finished.result)
    result = outcome.model_dump(mode="json", include=KEPT)
    deciding = [vote for vote in outcome.votes if vote.by == outcome.approver and vote.vote == "approve"]
    result |= {"request_id": child, "answers": deciding[-1].answers if deciding else None}
    way = OUTCOMES.get(outcome.status, "on_rejected")
    return Passed(way, result, outcome.status, "the approval was not decided in time")


def _approval_of(desk: Desk, given: dict[str, Any]) -> ApprovalInput:
    """Return what the approval is started with. The request was sound until it was known who started the run."""
    try:
        return read_as(ApprovalInput, given)
    except DataError as error:
        by = desk.asked.started_by
        also = f". Who started the workflow, {by}, does not count among the approvers either" if by is not None else ""
        raise DataError(f"{error}{also}") from None


def call(desk: Desk, action: CallAction) -> Turn[Passed]:
    """Make a guarded call, which waits for people when it has failed."""
    request, called = desk.resolve(action.request), action.request.get("call")
    if isinstance(called, dict) and "url" in called:
        request["call"]["url"] = desk.address(called["url"])
    asked = read_as(GuardedCall, {"name": desk.step, **request})
    given = read_as(
        GuardedCallInput,
        {
            **asked.model_dump(mode="json"),
            "mailbox": None if asked.assigned_to else desk.asked.interventions_to,
            "part_of": desk.ctx.instance_id,
            "at_step": desk.at_step().plain(),
            "started_by": desk.asked.started_by,
            "execution_timeout": desk.seconds_left,
        },
    )
    child = desk.new_child(guarded_call.__name__, "call")
    yield from desk.store()
    desk.say(CALLING, child=child)
    finished = yield from _called(desk, guarded_call.__name__, given.plain(), child)
    if not finished.succeeded:
        desk.record.note("call_failed", detail=f"{desk.step}: {child}")
        return Passed("on_failed", {"status": "Failed", "call_id": child}, "failed", "the call failed for good")
    outcome = GuardedCallOutcome.model_validate(finished.result)
    is_skipped = outcome.status == "Skipped"
    desk.record.note("skipped" if is_skipped else "called", actor=outcome.by if is_skipped else None, detail=desk.step)
    result: JsonValue = {"status": outcome.status, "result": outcome.result, "call_id": child}
    return Passed("next", result, outcome.status)


def _called(desk: Desk, workflow: str, given: dict[str, Any], child: str) -> Turn[Finished]:
    begun: task.Task[Any] = desk.clock.call_sub_orchestrator(workflow, input=given, instance_id=child)
    return (yield from desk.finish(begun))


def email(desk: Desk, action: EmailAction) -> Turn[Passed]:
    """Send a mail."""
    desk.mails += 1
    mail = read_as(
        WorkflowMail,
        {
            "to": desk.resolve(action.to),
            "subject": one_line(desk.text(action.subject)),
            "text": desk.text(action.text),
            "workflow": desk.asked.workflow,
            "instance_id": desk.ctx.instance_id,
            "run": desk.record.run,
            "number": desk.mails,
        },
    )
    yield from desk.store()
    desk.say(MAILING)
    sending: task.Task[Any] = desk.ctx.call_activity(send_workflow_mail, input=mail.plain(), retry_policy=EFFECT)
    finished = yield from desk.finish(sending)
    to: JsonValue = list(mail.to)
    desk.record.note("mailed" if finished.succeeded else "mail_failed", people=mail.to, detail=desk.step)
    if not finished.succeeded:
        return Passed("on_failed", {"sent": False, "to": to}, "failed", "the mail could not be sent")
    return Passed("next", {"sent": True, "to": to})
