"""What runs on a scheduler in the tests; ``gate`` is closed and opened by them."""

import threading
from collections.abc import Generator
from typing import Any

import azure.durable_functions as df
import azure.functions as func
from durabletask.entities import EntityInstanceId
from durabletask.task import OrchestrationContext

app = df.DFApp(http_auth_level=func.AuthLevel.ANONYMOUS)

type Steps = Generator[Any, Any, Any]

gate = threading.Event()
ran: list[Any] = []


@app.orchestration_trigger(context_name="context")
def chain(context: OrchestrationContext, given: Any) -> Steps:
    first = yield context.call_activity("echo", input=given)
    return (yield context.call_activity("echo", input=[first]))


@app.orchestration_trigger(context_name="context")
def call(context: OrchestrationContext, given: dict[str, Any]) -> Steps:
    return (yield context.call_activity(given["activity"], input=given.get("input")))


@app.orchestration_trigger(context_name="context")
def wait(context: OrchestrationContext, given: Any) -> Steps:
    return (yield context.wait_for_external_event("go"))


@app.orchestration_trigger(context_name="context")
def count(context: OrchestrationContext, given: str) -> Steps:
    return (yield context.call_entity(EntityInstanceId("counter", given), "add", 2))


@app.activity_trigger(input_name="given")
def echo(given: Any) -> Any:
    return given


@app.activity_trigger(input_name="given")
def gated(given: Any) -> Any:
    ran.append(given)
    if not gate.wait(90):
        raise TimeoutError("nobody opened the gate")
    return given


@app.activity_trigger(input_name="given")
async def failing(given: Any) -> None:
    raise ValueError(f"no {given}")


@app.activity_trigger(input_name="given")
def large(given: int) -> str:
    return "x" * given


@app.entity_trigger(context_name="context")  # type: ignore[arg-type]  # of one argument, as in v1
def counter(context: df.DurableEntityContext) -> None:
    total = context.get_state(lambda: 0) + context.get_input()
    context.set_state(total)
    context.set_result(total)


@app.route(route="sync")
@app.durable_client_input(client_name="client")
def by_sync_client(req: func.HttpRequest, client: df.SyncDurableFunctionsClient) -> str:
    instance = client.schedule_new_orchestration("chain", input=req.params["given"])
    state = client.wait_for_orchestration_completion(instance, timeout=30)
    events = client.get_orchestration_history(instance)
    return f"{state.serialized_output if state else None} {len(events) > 5}"


@app.route(route="async")
@app.durable_client_input(client_name="client")
async def by_async_client(req: func.HttpRequest, client: df.DurableFunctionsClient) -> str:
    instance = await client.schedule_new_orchestration("chain", input=req.params["given"])
    state = await client.wait_for_orchestration_completion(instance, timeout=30)
    events = await client.get_orchestration_history(instance)
    return f"{state.serialized_output if state else None} {len(events) > 5}"
