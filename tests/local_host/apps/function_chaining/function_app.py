"""Function chaining: activities one after the other, each with what the one before gave."""

from collections.abc import Generator
from datetime import timedelta
from typing import Any

import azure.durable_functions as df
import azure.functions as func
from durabletask.task import OrchestrationContext, RetryPolicy

app = df.DFApp(http_auth_level=func.AuthLevel.ANONYMOUS)


@app.route(route="orchestrators/{functionName}", methods=["POST"])
@app.durable_client_input(client_name="client")
async def http_start(req: func.HttpRequest, client: df.DurableFunctionsClient) -> func.HttpResponse:
    instance_id = await client.start_new(req.route_params["functionName"], client_input=req.get_json())
    return client.create_check_status_response(req, instance_id)


@app.orchestration_trigger(context_name="context")
def greetings(context: OrchestrationContext, cities: list[str]) -> Generator[Any, Any, list[str]]:
    greeted = []
    for city in cities:
        greeted.append((yield context.call_activity("greet", input=city)))
        context.set_custom_status({"greeted": len(greeted)})
    return greeted


@app.orchestration_trigger(context_name="context")  # type: ignore[arg-type]  # of one argument, as in v1
def greetings_v1(context: df.DurableOrchestrationContext) -> Generator[Any, Any, list[str]]:
    first = yield context.call_activity("greet", context.get_input()[0])
    second = yield context.call_activity("greet", context.get_input()[1])
    third = yield context.call_activity("greet", context.get_input()[2])
    return [first, second, third]


@app.orchestration_trigger(context_name="context")
def chained(context: OrchestrationContext, number: int) -> Generator[Any, Any, int]:
    """F1 → F2 → F3, with a failure of F2 retried twice."""
    patience = RetryPolicy(first_retry_interval=timedelta(milliseconds=10), max_number_of_attempts=3)
    doubled = yield context.call_activity("double", input=number)
    checked = yield context.call_activity("check", input=doubled, retry_policy=patience)
    result: int = yield context.call_activity("double", input=checked)
    return result


@app.activity_trigger(input_name="city")
def greet(city: str) -> str:
    return f"Hello {city}!"


@app.activity_trigger(input_name="number")
def double(number: int) -> int:
    return number * 2


@app.activity_trigger(input_name="number")
def check(number: int) -> int:
    if number < 0:
        raise ValueError(f"{number} is below zero")
    return number
