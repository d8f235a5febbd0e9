"""Functions that show what host.json limits: how many run at once, how long, and which versions."""

import asyncio
import os
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import azure.durable_functions as df
import azure.functions as func
from durabletask.entities import EntityContext, EntityInstanceId
from durabletask.task import OrchestrationContext, when_all

app = df.DFApp(http_auth_level=func.AuthLevel.ANONYMOUS)
_running = {"at once": 0, "most": 0}
_calls: dict[str, int] = {}


def _is_first(key: str) -> bool:
    _calls[key] = _calls.get(key, 0) + 1
    return _calls[key] == 1


def _hang() -> None:
    """Do not return before the file ``go-on`` is there."""
    while not Path(os.environ["LOCAL_HOST_DATA"], "go-on").exists():
        time.sleep(0.005)


@app.orchestration_trigger(context_name="context")
def fan_out(context: OrchestrationContext, number: int) -> Generator[Any, Any, Any]:
    return max((yield when_all([context.call_activity("count", input=each) for each in range(number)])))


@app.activity_trigger(input_name="given")
async def count(given: int) -> int:
    """Tell how many of these have been running at once."""
    _running["at once"] += 1
    _running["most"] = max(_running["most"], _running["at once"])
    for _ in range(20):
        await asyncio.sleep(0)
    _running["at once"] -= 1
    return _running["most"]


@app.orchestration_trigger(context_name="context")
def versions(context: OrchestrationContext, given: Any) -> Generator[Any, Any, Any]:
    children = [(yield context.call_sub_orchestrator("version"))]
    children.append((yield context.call_sub_orchestrator("version", version="0.1")))
    return [context.version, *children]


@app.orchestration_trigger(context_name="context")
def version(context: OrchestrationContext, given: Any) -> Any:
    return context.version


@app.orchestration_trigger(context_name="context")
def wait(context: OrchestrationContext, given: Any) -> Generator[Any, Any, Any]:
    return (yield context.wait_for_external_event("go"))


@app.orchestration_trigger(context_name="context")
def call(context: OrchestrationContext, given: dict[str, Any]) -> Generator[Any, Any, Any]:
    return (yield context.call_activity(given["activity"], input=given["key"]))


@app.activity_trigger(input_name="key")
def hangs_at_first(key: str) -> str:
    if _is_first(key):
        _hang()
    return f"attempt {_calls[key]}"


@app.activity_trigger(input_name="key")
async def hangs_at_first_async(key: str) -> str:
    if _is_first(key):
        await asyncio.sleep(600)
    return f"attempt {_calls[key]}"


@app.orchestration_trigger(context_name="context")
def turn_hangs_at_first(context: OrchestrationContext, key: str) -> str:
    if _is_first(key):
        _hang()
    return f"attempt {_calls[key]}"


@app.orchestration_trigger(context_name="context")
def calls_entity(context: OrchestrationContext, key: str) -> Generator[Any, Any, Any]:
    return (yield context.call_entity(EntityInstanceId("hanging", key), "do"))


@app.entity_trigger(context_name="context", entity_name="hanging")
def hanging(context: EntityContext, given: Any) -> str:
    key = context.entity_id.key
    if _is_first(key):
        _hang()
    return f"attempt {_calls[key]}"


@app.route("hangs")
def hangs(req: func.HttpRequest) -> str:
    _hang()
    return "released"


@app.route("hangs-async")
async def hangs_async(req: func.HttpRequest) -> str:
    await asyncio.sleep(600)
    return "never"
