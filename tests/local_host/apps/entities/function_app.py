"""Entities: counters, as a function of one argument, a function of two, and a class."""

import json
from collections.abc import Generator
from typing import Any

import azure.durable_functions as df
import azure.functions as func
from durabletask.entities import DurableEntity, EntityContext, EntityInstanceId
from durabletask.task import OrchestrationContext

app = df.DFApp(http_auth_level=func.AuthLevel.ANONYMOUS)


@app.entity_trigger(context_name="context", entity_name="Counter")  # type: ignore[arg-type]  # as in v1
def counter(context: df.DurableEntityContext) -> None:
    value = context.get_state(lambda: 0)
    match context.operation_name:
        case "add":
            value += context.get_input()
        case "reset":
            value = 0
        case "get":
            context.set_result(value)
        case "remove":
            context.destruct_on_exit()
            return
    context.set_state(value)


@app.entity_trigger(context_name="context", entity_name="NativeCounter")
def native_counter(context: EntityContext, amount: int) -> int | None:
    match context.operation:
        case "add":
            context.set_state(context.get_state(int, 0) + amount)
        case "reset":
            context.set_state(0)
        case "get":
            return context.get_state(int, 0)
        case "remove":
            context.set_state(None)
    return None


@app.entity_trigger(context_name="context", entity_name="ClassCounter")
class ClassCounter(DurableEntity):
    """A counter with a method for each operation."""

    def add(self, amount: int) -> None:
        self.set_state(self.get_state(int, 0) + amount)

    def reset(self) -> None:
        self.set_state(0)

    def get(self) -> int:
        return self.get_state(int, 0)

    def remove(self) -> None:
        self.delete()


@app.orchestration_trigger(context_name="context")
def count(context: OrchestrationContext, given: dict[str, Any]) -> Generator[Any, Any, int]:
    """Signal, then call: the signal is taken in first, since both come from one instance."""
    entity = EntityInstanceId(given["entity"], given["key"])
    context.signal_entity(entity, "add", given["amount"])
    value: int = yield context.call_entity(entity, "get")
    return value


@app.orchestration_trigger(context_name="context")  # type: ignore[arg-type]  # of one argument, as in v1
def count_v1(context: df.DurableOrchestrationContext) -> Generator[Any, Any, int]:
    given = context.get_input()
    entity = df.EntityId(given["entity"], given["key"])
    context.signal_entity(entity, "add", given["amount"])
    return (yield context.call_entity(entity, "get"))  # type: ignore[no-any-return]


@app.orchestration_trigger(context_name="context")
def transfer(context: OrchestrationContext, given: dict[str, Any]) -> Generator[Any, Any, bool]:
    """Move an amount from one counter to another, while nobody else can touch either of them."""
    source = EntityInstanceId("ClassCounter", given["from"])
    target = EntityInstanceId("ClassCounter", given["to"])
    with (yield context.lock_entities([source, target])):
        if (yield context.call_entity(source, "get")) < given["amount"]:
            return False
        yield context.call_entity(source, "add", -given["amount"])
        yield context.call_entity(target, "add", given["amount"])
    return True


@app.route(route="orchestrators/{functionName}", methods=["POST"])
@app.durable_client_input(client_name="client")
async def http_start(req: func.HttpRequest, client: df.DurableFunctionsClient) -> func.HttpResponse:
    instance_id = await client.start_new(req.route_params["functionName"], client_input=req.get_json())
    return client.create_check_status_response(req, instance_id)


@app.route(route="counters/{name}/{key}", methods=["PUT"])
@app.durable_client_input(client_name="client")
async def signal(req: func.HttpRequest, client: df.DurableFunctionsClient) -> func.HttpResponse:
    entity = df.EntityId(req.route_params["name"], req.route_params["key"])
    await client.signal_entity(entity, "add", req.get_json())
    return func.HttpResponse(status_code=202)


@app.route(route="counters/{name}/{key}", methods=["GET"])
@app.durable_client_input(client_name="client")
async def read(req: func.HttpRequest, client: df.DurableFunctionsClient) -> func.HttpResponse:
    response = await client.read_entity_state(df.EntityId(req.route_params["name"], req.route_params["key"]))
    return func.HttpResponse(json.dumps({"exists": response.entity_exists, "state": response.entity_state}))
