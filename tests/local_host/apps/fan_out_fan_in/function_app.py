"""Fan-out/fan-in: files are copied all at once, and their sizes are added up when the last one is there."""

import os
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

import azure.durable_functions as df
import azure.functions as func
from durabletask.task import OrchestrationContext, when_all

app = df.DFApp(http_auth_level=func.AuthLevel.ANONYMOUS)


@app.route(route="orchestrators/{functionName}", methods=["POST"])
@app.durable_client_input(client_name="client")
async def http_start(req: func.HttpRequest, client: df.DurableFunctionsClient) -> func.HttpResponse:
    instance_id = await client.start_new(req.route_params["functionName"], client_input=req.get_json())
    return client.create_check_status_response(req, instance_id)


@app.orchestration_trigger(context_name="context")
def backup(context: OrchestrationContext, folder: str) -> Generator[Any, Any, int]:
    files = yield context.call_activity("list_files", input=folder)
    if not files:  # the SDK's when_all() of nothing never comes
        return 0
    sizes = yield when_all([context.call_activity("copy_file", input=file) for file in files])
    return sum(sizes)


@app.orchestration_trigger(context_name="context")  # type: ignore[arg-type]  # of one argument, as in v1
def backup_v1(context: df.DurableOrchestrationContext) -> Generator[Any, Any, int]:
    files = yield context.call_activity("list_files", context.get_input())
    if not files:
        return 0
    sizes = yield context.task_all([context.call_activity("copy_file", file) for file in files])
    return sum(sizes)


@app.activity_trigger(input_name="folder")
def list_files(folder: str) -> list[str]:
    return sorted(str(file) for file in Path(folder).rglob("*") if file.is_file())


@app.activity_trigger(input_name="file")
async def copy_file(file: str) -> int:
    target = Path(os.environ["LOCAL_HOST_DATA"]) / "backup" / Path(file).name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, target)
    return target.stat().st_size
