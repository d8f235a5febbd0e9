"""Durable clients in functions of every shape."""

import json
from typing import Any

import azure.durable_functions as df
import azure.functions as func
from durabletask.task import OrchestrationContext

blueprint = df.Blueprint()


@blueprint.orchestration_trigger(context_name="context")
def echoes(context: OrchestrationContext, given: Any) -> Any:
    return {"echo": given}


@blueprint.route(route="client-sync")
@blueprint.durable_client_input(client_name="client")
def with_sync_client(req: func.HttpRequest, client: df.SyncDurableFunctionsClient) -> str:
    instance_id = client.schedule_new_orchestration("echoes", input="sync")
    state = client.wait_for_orchestration_completion(instance_id, timeout=20)
    return _told(client, state)


@blueprint.route(route="client-async")
@blueprint.durable_client_input(client_name="client")
async def with_async_client(req: func.HttpRequest, client: df.DurableFunctionsClient) -> str:
    instance_id = await client.schedule_new_orchestration("echoes", input="async")
    state = await client.wait_for_orchestration_completion(instance_id, timeout=20)
    return _told(client, state)


@blueprint.route(route="client-text")
@blueprint.durable_client_input(client_name="starter")
async def with_text_client(req: func.HttpRequest, starter: str) -> str:
    """The annotation of old apps; what comes is a client all the same."""
    client: Any = starter
    instance_id = await client.start_new("echoes", None, "text")
    state = await client.wait_for_orchestration_completion(instance_id, timeout=20)
    return _told(client, state)


@blueprint.durable_client_input(client_name="client")
@blueprint.route(route="client-first")
async def with_client_first(
    req: func.HttpRequest, client: df.DurableFunctionsClient, context: func.Context
) -> func.HttpResponse:
    """The decorators the other way round, and a context besides."""
    instance_id = await client.start_new("echoes", client_input=context.function_name)
    response: Any = await client.wait_for_completion_or_create_check_status_response(req, instance_id, 20_000, 100)
    return response  # type: ignore[no-any-return]


@blueprint.activity_trigger(input_name="given")
@blueprint.durable_client_input(client_name="client")
def reads_state(given: str, client: df.SyncDurableFunctionsClient) -> str | None:
    state = client.get_orchestration_state(given)
    return state.runtime_status.name if state else None


@blueprint.orchestration_trigger(context_name="context")
def reads_itself(context: OrchestrationContext, given: Any) -> Any:
    return (yield context.call_activity("reads_state", input=context.instance_id))


def _told(client: Any, state: Any) -> str:
    return json.dumps([type(client).__name__, state.runtime_status.name, state.get_output()])
