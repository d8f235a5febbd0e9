"""Durable functions of every shape, started and driven over HTTP."""

import asyncio
import json
from collections.abc import Generator
from datetime import timedelta
from typing import Any

import azure.durable_functions as df
import azure.functions as func
from durabletask.entities import DurableEntity, EntityContext, EntityInstanceId
from durabletask.task import OrchestrationContext, RetryPolicy, TaskFailedError, when_all, when_any

app = df.DFApp(http_auth_level=func.AuthLevel.ANONYMOUS)
blueprint = df.Blueprint()

type Steps = Generator[Any, Any, Any]

_attempts: dict[str, int] = {}


# Clients


@app.route(route="start/{name}", methods=["POST"])
@app.durable_client_input(client_name="client")
async def start_async(req: func.HttpRequest, client: df.DurableFunctionsClient) -> func.HttpResponse:
    instance_id = await client.start_new(
        req.route_params["name"], instance_id=req.params.get("id"), client_input=json.loads(req.get_body() or b"null")
    )
    return client.create_check_status_response(req, instance_id)


@app.route(route="start-sync/{name}", methods=["POST"])
@app.durable_client_input(client_name="client")
def start_sync(req: func.HttpRequest, client: df.SyncDurableFunctionsClient) -> func.HttpResponse:
    instance_id = client.schedule_new_orchestration(req.route_params["name"], input=json.loads(req.get_body()))
    return client.create_check_status_response(req, instance_id)


@app.route(route="events/{id}/{name}", methods=["POST"])
@app.durable_client_input(client_name="client")
async def raise_event(req: func.HttpRequest, client: df.DurableFunctionsClient):  # type: ignore[no-untyped-def]  # gives none
    await client.raise_event(req.route_params["id"], req.route_params["name"], req.get_json())


@app.route(route="entities/{name}/{key}/{operation}", methods=["POST"])
@app.durable_client_input(client_name="client")
async def signal(req: func.HttpRequest, client: df.DurableFunctionsClient, context: func.Context) -> str:
    entity = EntityInstanceId(req.route_params["name"], req.route_params["key"])
    await client.signal_entity(entity, req.route_params["operation"], json.loads(req.get_body() or b"null"))
    return context.function_name


# Orchestrators


@app.orchestration_trigger(context_name="context")
def native(context: OrchestrationContext, given: Any) -> Steps:
    return (yield context.call_activity("echo", input=given))


@app.orchestration_trigger(context_name="context")  # type: ignore[arg-type]  # of one argument, as in v1
def classic(context: df.DurableOrchestrationContext) -> Steps:
    return (yield context.call_activity("echo", context.get_input()))


@app.orchestration_trigger(context_name="ctx", orchestration="RenamedOrchestrator")
def renamed(ctx: OrchestrationContext, given: Any) -> Any:
    return {"no yield": given}


@app.orchestration_trigger(context_name="context")
def call(context: OrchestrationContext, given: dict[str, Any]) -> Steps:
    """Call the activity that is named, with an input or without one, and tell how it failed."""
    retry = given.get("attempts")
    policy = None
    if retry:
        policy = RetryPolicy(first_retry_interval=timedelta(milliseconds=10), max_number_of_attempts=retry)
    more = {"input": given["input"]} if "input" in given else {}
    try:
        result = yield context.call_activity(given["activity"], retry_policy=policy, **more)
    except TaskFailedError as error:
        return {"type": error.details.error_type, "message": error.details.message}
    return {"result": result}


@app.orchestration_trigger(context_name="context")
def call_uncaught(context: OrchestrationContext, given: list[str]) -> Steps:
    name, operand = given
    return (yield context.call_activity(name, input=operand))


@app.orchestration_trigger(context_name="context")
def raises(context: OrchestrationContext, message: str) -> Any:
    raise ArithmeticError(message)


@app.orchestration_trigger(context_name="context")
def parent(context: OrchestrationContext, given: dict[str, Any]) -> Steps:
    try:
        return (yield context.call_sub_orchestrator(given["name"], input=given["input"]))
    except TaskFailedError as error:
        return {"message": error.details.message}


@app.orchestration_trigger(context_name="context")
def fan_out(context: OrchestrationContext, numbers: list[int]) -> Steps:
    return sum((yield when_all([context.call_activity("double", input=number) for number in numbers])))


@app.orchestration_trigger(context_name="context")
def race(context: OrchestrationContext, seconds: float) -> Steps:
    event = context.wait_for_external_event("go")
    timer = context.create_timer(timedelta(seconds=seconds))
    winner = yield when_any([event, timer])
    return {"event": event.get_result()} if winner is event else "timeout"


@app.orchestration_trigger(context_name="context")
def gate(context: OrchestrationContext, given: Any) -> Steps:
    context.set_custom_status({"waits for": ["one", "two"]})
    one = yield context.wait_for_external_event("one")
    two = yield context.wait_for_external_event("two")
    return [one, two]


@app.orchestration_trigger(context_name="context")
def countdown(context: OrchestrationContext, given: dict[str, Any]) -> Steps:
    seen = [*given["seen"], (yield context.call_activity("double", input=given["left"]))]
    if given["left"] == 0:
        return seen
    context.continue_as_new({"left": given["left"] - 1, "seen": seen})
    return None


@app.orchestration_trigger(context_name="context")
def count(context: OrchestrationContext, given: dict[str, Any]) -> Steps:
    """Call the operations of an entity one after the other, and give what each one gave or how it failed."""
    entity = EntityInstanceId(given["entity"], given["key"])
    results: list[Any] = []
    for operation, operand in given["operations"]:
        if operation.startswith("signal:"):
            context.signal_entity(entity, operation.removeprefix("signal:"), operand)
            continue
        try:
            results.append((yield context.call_entity(entity, operation, operand)))
        except Exception as error:  # noqa: BLE001
            results.append(f"failed: {error}")
    return results


# Activities


@app.activity_trigger(input_name="given")
def echo(given: Any) -> Any:
    return given


@app.activity_trigger(input_name="given")
async def echo_async(given: Any) -> Any:
    await asyncio.sleep(0)
    return given


@app.activity_trigger(input_name="given", activity="RenamedActivity")
def under_another_name(given: Any) -> Any:
    return ["renamed", given]


@app.activity_trigger(input_name="given")
def native_activity(_context: Any, given: Any) -> Any:
    return ["native", given]


@app.activity_trigger(input_name="given")
def length(given: str) -> int:
    return len(given)


@app.activity_trigger(input_name="number")
def double(number: int) -> int:
    return number * 2


@app.activity_trigger(input_name="given")
def with_context(given: Any, context: func.Context) -> list[str]:
    return [context.function_name, str(len(context.invocation_id))]


@app.activity_trigger(input_name="given")
@app.durable_client_input(client_name="client")
def with_client(given: str, client: df.SyncDurableFunctionsClient) -> str | None:
    state = client.get_orchestration_state(given)
    return state.runtime_status.name if state else None


@app.activity_trigger(input_name="given")
def fails(given: str) -> None:
    raise EXCEPTIONS[given]


@app.activity_trigger(input_name="given")
async def fails_async(given: str) -> None:
    raise EXCEPTIONS[given]


@app.activity_trigger(input_name="given")
def gives_what_is_no_json(given: str) -> Any:
    return {given}


@app.activity_trigger(input_name="given")
def fails_at_first(given: dict) -> int:  # type: ignore[type-arg]  # the worker takes no dict[str, Any]
    _attempts[given["key"]] = _attempts.get(given["key"], 0) + 1
    if _attempts[given["key"]] < given["succeeds_at"]:
        raise ConnectionError(f"attempt {_attempts[given['key']]}")
    return _attempts[given["key"]]


class CustomError(Exception):
    """An error of the app's own."""


EXCEPTIONS: dict[str, BaseException] = {
    "value": ValueError("grün 🎉"),
    "custom": CustomError("one\ntwo"),
    "empty": ValueError(""),
    "key": KeyError("missing"),
    "exit": SystemExit(3),
    "cancelled": asyncio.CancelledError(),
}


# Entities


@app.entity_trigger(context_name="context")  # type: ignore[arg-type]  # of one argument, as in v1
def counter(context: df.DurableEntityContext) -> None:
    value = context.get_state(lambda: 0)
    match context.operation_name:
        case "add":
            value += context.get_input()
        case "fail":
            context.set_state(-1)
            raise ValueError("the counter is broken")
        case "reset":
            value = 0
    context.set_state(value)
    context.set_result(value)


@app.entity_trigger(context_name="context", entity_name="NativeCounter")
def native_counter(context: EntityContext, given: Any) -> Any:
    value = context.get_state(int, 0) + (given or 0)
    context.set_state(value)
    return value


@app.entity_trigger(context_name="context", entity_name="Account")
class Account(DurableEntity):
    """An entity as a class."""

    def deposit(self, amount: int) -> int:
        self.set_state(self.get_state(int, 0) + amount)
        return self.get_state(int, 0)

    def withdraw(self, amount: int) -> int:
        if amount > self.get_state(int, 0):
            raise ValueError(f"there is no {amount}")
        return self.deposit(-amount)


# A blueprint


@blueprint.orchestration_trigger(context_name="context")
def of_blueprint(context: OrchestrationContext, given: Any) -> Steps:
    return (yield context.call_activity("blueprint_activity", input=given))


@blueprint.activity_trigger(input_name="given")
def blueprint_activity(given: Any) -> Any:
    return ["blueprint", given]


@blueprint.route(route="of-blueprint")
def http_of_blueprint(req: func.HttpRequest) -> str:
    return "blueprint"


app.register_functions(blueprint)
