"""Messages on the channels of a run, whatever its workflow: the endpoints that other engines have for that."""

from collections.abc import Awaitable, Callable, Sequence
from typing import get_args

import azure.functions as func
from azure.durable_functions import DurableFunctionsClient
from durabletask.client import OrchestrationState

from contracts.manual_intervention import ChannelName, Message, PublishedMessage, PublishRequest, SignalRequest
from errors import NotFound, Unprocessable
from orchestrators.refund import READY
from triggers import manual_intervention, refund
from triggers.instances import run_of
from triggers.manual_intervention import Verdict, answer_published
from triggers.web import decision_id_of, read_body
from triggers.windows import WORKFLOWS

type Publish = Callable[[DurableFunctionsClient, str, Sequence[PublishedMessage], str], Awaitable[Verdict]]
"""Sends messages to the run of an id, under the id of the request, and gives the verdict or raises why not."""


async def signal_workflow(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``POST /api/v1/workflow/signal``: 200 with the ``verdict``, 202 when there is none yet."""
    return await _publish(req, client, read_body(req, SignalRequest))


async def publish_to_internal_channel(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``POST /api/v1/workflow/publishToInternalChannel``: 200 with the ``verdict``, 202 when there is none yet."""
    return await _publish(req, client, read_body(req, PublishRequest))


async def _publish(
    req: func.HttpRequest, client: DurableFunctionsClient, asked: SignalRequest | PublishRequest
) -> func.HttpResponse:
    workflow_id = asked.workflow_id
    state = await client.get_orchestration_state(workflow_id)
    publish = _PUBLISH.get(state.name) if state is not None else None
    if state is None or publish is None:
        raise NotFound(f"There is no workflow with channels with the id '{workflow_id}'.")
    _check_run(state, asked.workflow_run_id)
    verdict = await publish(client, workflow_id, asked.messages, decision_id_of(req, None))
    return answer_published(verdict, WORKFLOWS[state.name], workflow_id)


def _check_run(state: OrchestrationState, given: str | None) -> None:
    """Raise ``NotFound`` when another run than the one of today is meant."""
    if given and given not in (state.instance_id, run_of(state)):
        raise NotFound(f"The run '{given}' of '{state.instance_id}' is not the one that there is now.")


def _known(messages: Sequence[PublishedMessage], channels: Sequence[str]) -> None:
    """Raise ``Unprocessable`` for a message on a channel that the workflow does not have."""
    for number, message in enumerate(messages):
        if message.channel_name not in channels:
            sentence = f"There is no channel '{message.channel_name}' here; there are {', '.join(channels)}."
            errors = [{"field": f"messages.{number}.channelName", "message": sentence}]
            raise Unprocessable(sentence, errors=errors)


async def _to_intervention(
    client: DurableFunctionsClient, workflow_id: str, messages: Sequence[PublishedMessage], decision_id: str
) -> Verdict:
    _known(messages, get_args(ChannelName))
    taken = [Message.model_validate({"channel": each.channel_name, "value": each.value}) for each in messages]
    return await manual_intervention.publish(client, workflow_id, taken, decision_id)


async def _to_refund(
    client: DurableFunctionsClient, workflow_id: str, messages: Sequence[PublishedMessage], decision_id: str
) -> Verdict:
    _known(messages, (READY,))
    if any(each.value is not None for each in messages):
        errors = [{"field": "value", "message": "null, or left out"}]
        raise Unprocessable(f"The signal '{READY}' comes without a value.", errors=errors)
    return await refund.signal_ready(client, workflow_id, decision_id)


_PUBLISH: dict[str, Publish] = {manual_intervention.WORKFLOW: _to_intervention, refund.WORKFLOW: _to_refund}
"""How messages get to the runs of the workflows that know channels."""
