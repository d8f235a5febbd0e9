"""Timer functions that write down what they were given, one line of JSON for each run."""

import json
import os
import time
from pathlib import Path
from typing import Any

import azure.durable_functions as df
import azure.functions as func
from durabletask.task import OrchestrationContext

app = df.DFApp(http_auth_level=func.AuthLevel.ANONYMOUS)
blueprint = func.Blueprint()  # type: ignore[no-untyped-call]  # a DFApp knows no retry policies

RUNS = Path(os.environ["LOCAL_HOST_DATA"]) / "runs.jsonl"


def note(timer: Any, context: func.Context, **more: Any) -> None:
    """Add a line to the file of runs."""
    line = {
        "function": context.function_name,
        "past_due": timer.past_due,
        "retry": context.retry_context.retry_count,
        **more,
    }
    with RUNS.open("a") as runs:
        runs.write(json.dumps(line) + "\n")


@app.timer_trigger(arg_name="timer", schedule="%NIGHTLY%")
def nightly(timer: func.TimerRequest, context: func.Context) -> None:
    """Run at night."""
    note(timer, context)


@app.timer_trigger(arg_name="timer", schedule="0 0 */6 * * *", run_on_startup=True)
async def at_startup(timer: func.TimerRequest, context: func.Context) -> None:
    """Run at the start, too."""
    note(timer, context)


@blueprint.timer_trigger(arg_name="timer", schedule="0 0 12 * * *")
@blueprint.retry(strategy="fixed_delay", max_retry_count="2", delay_interval="00:00:10")
def failing(timer: func.TimerRequest, context: func.Context) -> None:
    """Fail whenever it is called."""
    note(timer, context)
    raise ValueError("a failure")


@app.timer_trigger(arg_name="timer", schedule="0 0 0 1 1 *", use_monitor=True)
def hanging(timer: func.TimerRequest, context: func.Context) -> None:
    """Hang for as long as there is a file that says so."""
    note(timer, context)
    while RUNS.with_name("hang").exists():
        time.sleep(0.01)
    note(timer, context, returned=True)


@app.timer_trigger(arg_name="timer", schedule="0 0 25 * * *")
def impossible(timer: func.TimerRequest) -> None:
    """Have a schedule that is none."""


@app.timer_trigger(arg_name="timer", schedule="0 30 * * * *")
@app.durable_client_input(client_name="client")
async def starter(timer: func.TimerRequest, client: df.DurableFunctionsClient) -> None:
    """Start an orchestration."""
    await client.schedule_new_orchestration("counted")


@app.orchestration_trigger(context_name="context")
def counted(context: OrchestrationContext, given: Any) -> str:
    """End at once."""
    return "done"


app.register_functions(blueprint)
