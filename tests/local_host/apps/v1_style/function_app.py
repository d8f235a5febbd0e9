"""An app as the 1.x documentation has them: a ``func.FunctionApp``, one-argument orchestrators and entities."""

# mypy: disable-error-code="untyped-decorator"

import json
import logging
from collections.abc import Generator
from datetime import timedelta
from typing import Any

import azure.durable_functions as df
import azure.functions as func

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)

type Steps = Generator[Any, Any, Any]


@app.route(route="orchestrators/{functionName}", methods=["POST"])
@app.durable_client_input(client_name="client")
async def http_start(req: func.HttpRequest, client: Any) -> func.HttpResponse:
    body = req.get_body()
    instance_id = await client.start_new(
        req.route_params["functionName"],
        instance_id=req.params.get("id"),
        client_input=json.loads(body) if body else None,
    )
    logging.getLogger(__name__).info("Started orchestration with ID = '%s'.", instance_id)
    return client.create_check_status_response(req, instance_id)  # type: ignore[no-any-return]


@app.route(route="status/{id}")
@app.durable_client_input(client_name="client")
async def status(req: func.HttpRequest, client: Any) -> func.HttpResponse:
    found = await client.get_status(req.route_params["id"], show_history=True, show_history_output=True)
    return func.HttpResponse(json.dumps(found.to_json(), default=str), mimetype="application/json")


@app.orchestration_trigger(context_name="context")
def everything(context: df.DurableOrchestrationContext) -> Steps:
    """Go through what a 1.x context can do."""
    retry = df.RetryOptions(first_retry_interval_in_milliseconds=10, max_number_of_attempts=3)
    seen: dict[str, Any] = {"input": context.get_input(), "instance": context.instance_id}
    seen["activity"] = yield context.call_activity("say", "a")
    seen["retry"] = yield context.call_activity_with_retry("say_at_third", retry, context.instance_id)
    seen["sub"] = yield context.call_sub_orchestrator("below", {"of": "sub"}, f"{context.instance_id}:sub")
    seen["sub with retry"] = yield context.call_sub_orchestrator_with_retry("below", retry, "again")
    seen["all"] = yield context.task_all([context.call_activity("say", letter) for letter in "xyz"])
    winner = yield context.task_any([context.wait_for_external_event("never"), context.call_activity("say", "any")])
    seen["any"] = winner.result
    yield context.create_timer(context.current_utc_datetime + timedelta(milliseconds=20))
    entity = df.EntityId("tally", context.instance_id)
    context.signal_entity(entity, "add", 2)
    seen["entity"] = yield context.call_entity(entity, "add", 3)
    seen["uuids differ"] = context.new_uuid() != context.new_uuid()
    seen["guid"] = len(str(context.new_guid()))
    seen["aware"] = context.current_utc_datetime.tzinfo is not None
    seen["parent"] = context.parent_instance_id
    context.set_custom_status({"steps": len(seen)})
    return seen


@app.orchestration_trigger(context_name="context")
def below(context: df.DurableOrchestrationContext) -> Steps:
    said = yield context.call_activity("say", context.get_input())
    return {"said": said, "parent": context.parent_instance_id, "id": context.instance_id}


@app.orchestration_trigger(context_name="context", orchestration="RenamedLoop")
def loop(context: df.DurableOrchestrationContext) -> Steps:
    """Go on as a new one until an event says that it is enough."""
    rounds = context.get_input() or 0
    context.set_custom_status(rounds)
    event = yield context.wait_for_external_event("more")
    if event == "enough":
        return rounds
    context.continue_as_new(rounds + 1)
    return None


@app.orchestration_trigger(context_name="context")
def without_a_yield(context: df.DurableOrchestrationContext) -> Any:
    return {"name": "without_a_yield", "input": context.get_input()}


@app.activity_trigger(input_name="given")
def say(given: Any) -> Any:
    return given


_tries: dict[str, int] = {}


@app.activity_trigger(input_name="key")
def say_at_third(key: str) -> int:
    _tries[key] = _tries.get(key, 0) + 1
    if _tries[key] < 3:
        raise ConnectionError(f"try {_tries[key]}")
    return _tries[key]


@app.entity_trigger(context_name="context")
def tally(context: df.DurableEntityContext) -> None:
    value = context.get_state(lambda: 0) + (context.get_input() or 0)
    context.set_state(value)
    context.set_result([context.entity_name, context.entity_key, context.operation_name, value])
