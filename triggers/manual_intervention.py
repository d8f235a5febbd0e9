"""HTTP of the manual intervention."""

from collections.abc import Sequence
from typing import Any, Literal

import azure.functions as func
from azure.durable_functions import DurableFunctionsClient

from contracts.base import path_to
from contracts.manual_intervention import (
    ManualInterventionInput,
    Message,
    Publication,
    ResumeManualIntervention,
    StartManualIntervention,
)
from errors import Conflict, CountersignError
from orchestrators.human_step import EXECUTION_TIMED_OUT
from orchestrators.manual_intervention import MAX_RETRIES, NUMBER_OF_RETRIES, OR, PUBLISH, manual_intervention
from settings import get_settings
from triggers.ask_run import Asked, Rules, ask_run
from triggers.callers import read_data, sender, starter, unclear
from triggers.instances import ENDED, describe, find, progress_of, start
from triggers.web import answer, answer_text, instance_id_of, read_query, refuse_to_be_embedded
from triggers.windows import WORKFLOWS

WORKFLOW = manual_intervention.__name__
REFUSALS: dict[str, tuple[type[CountersignError], str]] = {
    "too_many": (Conflict, "So many messages wait on this channel already that it takes no more."),
    "no_more_retries": (Conflict, f"The call was retried {MAX_RETRIES} times; it can only be skipped."),
    "duplicate": (Conflict, "This signal waits already."),
}
RULES = Rules(
    WORKFLOW,
    REFUSALS,
    {"final": "The run has come to its end.", EXECUTION_TIMED_OUT: "The run took longer than it may."},
)

type Verdict = Literal["accepted", "duplicate", "pending"]
"""What a run made of messages; ``pending`` when it has not come to them yet."""


async def start_manual_intervention(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``GET`` or ``POST /design-pattern/intervention/start``: 200 with the id of the run as text."""
    refuse_to_be_embedded(req)
    asked = read_query(req, StartManualIntervention)
    given = ManualInterventionInput(started_by=starter())
    return answer_text(await start(client, WORKFLOW, asked.workflow_id, given, asked))


async def get_manual_intervention(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``GET /design-pattern/intervention/status/{workflow_id}``: what is going on, and what can be sent now."""
    workflow_id = instance_id_of(req, "workflow_id")
    state = await find(client, WORKFLOW, workflow_id)
    progress = progress_of(state)
    waiting_for = progress.waiting_for if progress is not None and state.runtime_status not in ENDED else None
    return answer(
        {
            "workflowId": workflow_id,
            **describe(state),
            NUMBER_OF_RETRIES: ((progress and progress.data) or {}).get(NUMBER_OF_RETRIES),
            "phase": progress and progress.phase,
            "waiting_for": waiting_for,
            "actions": waiting_for.split(OR) if waiting_for else [],
        }
    )


async def resume_manual_intervention(
    client: DurableFunctionsClient, instance_id: str, data: dict[str, Any], decision_id: str
) -> func.HttpResponse:
    """Have a call retried or skipped, or answered, by the data of a resume, as messages on the channels do."""
    if not data:
        progress = progress_of(await find(client, WORKFLOW, instance_id))
        waiting_for = progress.waiting_for if progress is not None else None
        open_now = f"it waits for {waiting_for}" if waiting_for else "it waits for nothing just now"
        sentence = (
            f"Say 'action', which is 'retry' or 'skip', or 'command', which is what the call answers: {open_now}."
        )
        actions = waiting_for.split(OR) if waiting_for else []
        raise unclear(sentence, "action", "'retry' or 'skip'", actions=actions)
    given = read_data(data, ResumeManualIntervention)
    return answer_published(
        await publish(client, instance_id, (given.message,), decision_id), WORKFLOWS[WORKFLOW], instance_id
    )


def answer_published(verdict: Verdict, path: str, workflow_id: str) -> func.HttpResponse:
    """Answer 200 with what a run made of messages, or 202 with the address that will show it; ``path`` is that."""
    status_url = get_settings().base_url + path_to(path, workflow_id)
    body = {"workflowId": workflow_id, "verdict": verdict, "status_url": status_url}
    if verdict == "pending":
        return answer({**body, "message": "The run has yet to take this."}, 202, {"Location": status_url})
    return answer(body)


async def publish(
    client: DurableFunctionsClient, workflow_id: str, messages: Sequence[Message], decision_id: str
) -> Verdict:
    """Send messages to a run, which takes all of them or none, and give what it made of them.

    ``pending`` when the run has not come to them yet. Raises ``NotFound``, ``Conflict`` with a ``code``, ``TooLate``,
    or ``Unprocessable`` when the id came before with other messages.
    """
    by = sender()
    event = Publication(messages=tuple(messages), decision_id=decision_id, channel="api", sent_by=by)
    said = ", ".join(dict.fromkeys(message.channel for message in messages))
    try:
        progress = await ask_run(
            client,
            RULES,
            workflow_id,
            Asked(PUBLISH, event, by or "(API)", said),
            patience=get_settings().decision_wait_seconds,
        )
    except Conflict as error:
        if error.members.get("code") == "duplicate":
            return "duplicate"
        raise
    return "accepted" if progress is not None else "pending"
