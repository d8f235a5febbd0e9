"""The door to a step of a declared workflow that waits: for people, or for another system."""

from typing import Any

import azure.functions as func
from azure.durable_functions import DurableFunctionsClient
from durabletask.client import OrchestrationState
from pydantic import JsonValue, TypeAdapter, ValidationError

from contracts.base import Comment, as_utc_text, path_to
from contracts.form import wrong_answers
from contracts.human_step import Progress, digest_of_id
from contracts.workflow import BlockAnswer, Definition, FromBlock, WorkflowInput
from contracts.workflow_data import RESERVED
from contracts.workflow_steps import ANSWER, ActionStep, BlockAction, WaitEventAction
from errors import AlreadyDecided, Conflict, CountersignError, Forbidden, TooLate, Unprocessable
from orchestrators.human_step import EXECUTION_TIMED_OUT
from orchestrators.workflow import COMPLETED, FAILED, REJECTED
from orchestrators.workflow_desk import PATH
from orchestrators.workflow_waits import BLOCKED, WAITING, merged_of
from services import clock
from settings import get_settings
from triggers.ask_run import Asked, Rules, ask_run
from triggers.callers import RESUME_DATA, must_have, speaker, unclear
from triggers.decide import not_yet
from triggers.instances import ENDED, find, progress_of
from triggers.web import answer
from triggers.workflow import WORKFLOW

ENDED_PHASES = {
    COMPLETED: "The workflow has completed.",
    REJECTED: "The workflow has ended: somebody rejected it.",
    FAILED: "The workflow has failed.",
    EXECUTION_TIMED_OUT: "The run took longer than its execution timeout allows.",
}
REFUSALS: dict[str, tuple[type[CountersignError], str]] = {
    "not_waiting": (Conflict, "The workflow does not wait for an answer just now."),
    "other_step": (Conflict, "The workflow waits at another step by now; look again what it asks."),
    "not_asked": (Forbidden, "This person is not asked: others are who may answer."),
    "own_request": (Forbidden, "Who started the workflow does not answer this step."),
    "approval_needed": (Unprocessable, "This step waits for an approval: say 'approved', true or false."),
    "data_wrong": (Unprocessable, "The data do not fit what the step asks for."),
    "reserved": (Unprocessable, f"Data cannot be called {' or '.join(RESERVED)}."),
    "too_long": (Unprocessable, "With these data, those of the run get too long."),
}
UNSAID = "This step waits for an approval, and an empty resume never means yes: say 'approved', true or false."

_COMMENT: TypeAdapter[str] = TypeAdapter(Comment)

type Waiting = BlockAction | WaitEventAction


async def answer_block(
    client: DurableFunctionsClient, instance_id: str, data: dict[str, Any], decision_id: str, step: str | None = None
) -> func.HttpResponse:
    """Answer the step that a run waits at with the data of a resume: 200 with what came of it, 202 when nothing yet.

    With ``step`` the answer is for that one alone. Raises ``NotFound``; ``Unprocessable`` for data that do not say what
    they have to; ``Forbidden`` for somebody who is not asked; ``Conflict`` when no step waits, or another one;
    ``AlreadyDecided`` and ``TooLate`` when the run has ended.
    """
    state = await find(client, WORKFLOW, instance_id)
    progress = progress_of(state)
    event = _event(data, decision_id)
    if progress is not None and not _is_answered(progress, decision_id) and state.runtime_status not in ENDED:
        action = _waiting(state, progress)
        if action is None or progress.step is None:
            if progress.phase not in ENDED_PHASES:
                raise _not_waiting(progress)
        else:
            if step not in (None, progress.step):
                raise _told_who(progress, *REFUSALS["other_step"], code="other_step", step=progress.step)
            _check(action, data)
            visit = (progress.data or {}).get("visit")
            link = FromBlock(step=progress.step, visit=visit) if isinstance(visit, int) else None
            event = event.model_copy(update={"link": link})
    asked = Asked(ANSWER, event, event.by, _said(data), _comment_of(data))
    try:
        taken = await ask_run(client, RULES, instance_id, asked, patience=get_settings().decision_wait_seconds)
    except (TooLate, Conflict) as error:
        later = progress_of(await find(client, WORKFLOW, instance_id))
        raise _told_who(later, type(error), error.detail, **error.members) from None
    return await _answer(client, instance_id, event, taken, decision_id)


def check_resumed(state: OrchestrationState, progress: Progress, data: dict[str, Any], *, answers: bool) -> None:
    """Raise ``Unprocessable`` for data that a paused run must not go on with.

    They are merged into its own, and have to fit what the step asks for that it waits at; or, with ``answers``, they
    are looked at as any answer to that step is.
    """
    action = _waiting(state, progress)
    if answers and action is not None:
        _check(action, data)
    elif wrong := _wrong(action, data):
        raise _unfit(wrong)


def _event(data: dict[str, Any], decision_id: str) -> BlockAnswer:
    named = data.get("approver")
    if named is not None and not isinstance(named, str):
        raise unclear("The data of the resume are not valid.", "approver", "it is a text: an address, or a name")
    by = speaker(named)
    try:
        return BlockAnswer(by=by.who, sent_by=by.sent_by, data=data, decision_id=decision_id, channel="api")
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = "approver" if found["loc"][:1] == ("by",) else ".".join(map(str, found["loc"][1:]))
        message = found["msg"].removeprefix("Value error, ")
        raise unclear("The data of the resume are not valid.", field, message) from None


def _check(action: Waiting, data: dict[str, JsonValue]) -> None:
    """Say what is wrong with an answer, where that can be told; the run is the judge."""
    is_approval = isinstance(action, BlockAction) and action.approval
    if is_approval:
        must_have("approval:decide")
        if not isinstance(data.get("approved"), bool):
            raise unclear(UNSAID, "approved", "true or false", code="approval_needed")
    wrong = _wrong(action, merged_of(data, is_approval=is_approval))
    if is_approval and data.get("comments") is not None and _comment_of(data) is None:
        wrong["comments"] = "it is a text of up to 4,000 characters"
    if wrong:
        raise _unfit(wrong)


def _wrong(action: Waiting | None, merged: dict[str, JsonValue]) -> dict[str, str]:
    """Return what is wrong with data that are to be merged into those of the run, by their names."""
    wrong = {name: "this name is for what the run itself says" for name in RESERVED if name in merged}
    schema = None
    if action is not None:
        schema = action.answer_schema if isinstance(action, BlockAction) else action.payload_schema
    return wrong_answers(schema, merged) | wrong if schema is not None else wrong


def _unfit(wrong: dict[str, str]) -> Unprocessable:
    errors = [{"field": f"{RESUME_DATA}.{name}".rstrip("."), "message": told} for name, told in wrong.items()]
    return Unprocessable(REFUSALS["data_wrong"][1], errors=errors, code="data_wrong")


def _waiting(state: OrchestrationState, progress: Progress) -> Waiting | None:
    """Return the step that a run waits at, if it waits."""
    if progress.phase not in (BLOCKED, WAITING):
        return None
    try:
        given = WorkflowInput.model_validate_json(state.serialized_input or "")
        steps = Definition.model_validate(given.definition).steps
    except ValueError:  # the run has failed for that
        return None
    actions = [each.action for each in steps if isinstance(each, ActionStep) and each.id == progress.step]
    return next((each for each in actions if isinstance(each, BlockAction | WaitEventAction)), None)


def _is_answered(progress: Progress, decision_id: str) -> bool:
    return any(verdict.id == digest_of_id(decision_id) for verdict in progress.verdicts)


def _not_waiting(progress: Progress) -> CountersignError:
    child = (progress.data or {}).get("child")
    error, sentence = REFUSALS["not_waiting"]
    more = {"child": child} if isinstance(child, str) else {}
    if isinstance(child, str):
        sentence = f"{sentence[:-1]}: the run '{child}' that it has called has to end first."
    return _told_who(progress, error, sentence, code="not_waiting", phase=progress.phase, **more)


def _told_who(
    progress: Progress | None, error: type[CountersignError], sentence: str, **members: Any
) -> CountersignError:
    """Return an error that says who answered last, if somebody did: to who comes second, that is the reason."""
    last = (progress.data or {}).get("answered") if progress is not None else None
    if not isinstance(last, dict):
        return error(sentence, **members)
    did = _said(last)
    told = {"decided_by": last["by"], "decided_at": last["at"], "outcome": did, "decided_step": last["step"]}
    sentence = f"{last['by']} {did} step '{last['step']}' at {last['at']}. {sentence}"
    return (AlreadyDecided if error is TooLate else error)(sentence, **{**members, **told})


def _said(data: dict[str, Any]) -> str:
    """What an answer says, in a word."""
    approved = data.get("approved")
    return ("approved" if approved else "rejected") if isinstance(approved, bool) else "answered"


def _comment_of(data: dict[str, Any]) -> str | None:
    """The comment in an answer, if it is one."""
    comment = data.get("comments")
    try:
        return _COMMENT.validate_python(comment) if isinstance(comment, str) else None
    except ValidationError:
        return None


async def _answer(
    client: DurableFunctionsClient, instance_id: str, event: BlockAnswer, progress: Progress | None, decision_id: str
) -> func.HttpResponse:
    status_url = get_settings().base_url + path_to(PATH, instance_id)
    told = {"id": instance_id, "execution_id": instance_id, "decision_id": decision_id, "status_url": status_url}
    if progress is None:
        message = await not_yet(client, instance_id)
        return answer({**told, "message": message}, 202, {"Location": status_url})
    return answer({**told, "message": "The workflow goes on.", "decided_by": event.by, "phase": progress.phase})


def _in_vain(state: OrchestrationState) -> str | None:
    """Say why an answer to a suspended run will not count when it goes on: it will see first that the time was up."""
    progress = progress_of(state)
    if progress is None or progress.phase not in (BLOCKED, WAITING) or progress.deadline is None:
        return None
    if progress.deadline > progress.judged_at(clock.now()):
        return None
    return f"The time to answer was up at {as_utc_text(progress.deadline)}."


RULES = Rules(WORKFLOW, REFUSALS, ENDED_PHASES, _in_vain)
