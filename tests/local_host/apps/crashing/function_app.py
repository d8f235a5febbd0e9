"""Orchestrations of which every step leaves a trace, on a host that may be killed at any of them."""

import json
import os
from collections.abc import Generator
from datetime import timedelta
from pathlib import Path
from typing import Any

import azure.durable_functions as df
import azure.functions as func
from durabletask.entities import EntityContext, EntityInstanceId
from durabletask.task import OrchestrationContext

from tests.local_host.apps.crashing import kill_points

app = df.DFApp(http_auth_level=func.AuthLevel.ANONYMOUS)

if "KILL_AT" in os.environ:
    kill_points.arm()


@app.orchestration_trigger(context_name="context")
def steps(context: OrchestrationContext, given: dict[str, Any]) -> Generator[Any, Any, Any]:
    """Take an event, then a round of one thing of each kind, twice."""
    seen = given["seen"]
    if not seen:
        seen = [(yield context.wait_for_external_event("go"))]
    number = len(seen)
    seen.append((yield context.call_activity("effect", input=f"{context.instance_id} {number}")))
    yield context.create_timer(timedelta(milliseconds=30))
    seen.append((yield context.call_entity(EntityInstanceId("counter", context.instance_id), "add")))
    if number == 1:
        context.continue_as_new({"seen": seen})
        return None
    return seen


@app.orchestration_trigger(context_name="context")
def waits(context: OrchestrationContext, given: Any) -> Generator[Any, Any, Any]:
    """Wait for events, and complete with all of them at the one that is "end"."""
    seen: list[Any] = []
    while (payload := (yield context.wait_for_external_event("go"))) != "end":
        seen.append(payload)
    return seen


@app.activity_trigger(input_name="given")
def effect(given: str) -> str:
    """Leave a line in a file."""
    with Path(os.environ["LOCAL_HOST_DATA"], "effects").open("a") as file:
        file.write(given + "\n")
    return given


@app.entity_trigger(context_name="context", entity_name="counter")
def counter(context: EntityContext, given: Any) -> int:
    """Count the operations."""
    value: int = context.get_state(int, 0) + 1
    context.set_state(value)
    return value


@app.route("history/{id}")
@app.durable_client_input(client_name="client")
def history(req: func.HttpRequest, client: df.SyncDurableFunctionsClient) -> str:
    """The kinds of all events in the history of an instance."""
    return json.dumps([type(each).__name__ for each in client.get_orchestration_history(req.route_params["id"])])
