"""The histories of instances that have ended are exported into files."""

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import azure.durable_functions as df
import azure.functions as func
from durabletask.extensions.history_export import (
    AsyncExportHistoryClient,
    ExportDestination,
    ExportFormat,
    ExportFormatKind,
    ExportJobCreationOptions,
    ExportMode,
)
from durabletask.task import OrchestrationContext

app = df.DFApp(http_auth_level=func.AuthLevel.ANONYMOUS)


class FolderWriter:
    """Writes what is exported into the data folder."""

    def write(
        self,
        *,
        instance_id: str,
        container: str,
        blob_name: str,
        payload: bytes,
        content_type: str,
        content_encoding: str | None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Write one history."""
        if instance_id == os.environ.get("EXPORT_FAILS_FOR"):
            raise OSError("the disk is full")
        file = Path(os.environ["LOCAL_HOST_DATA"]) / container / blob_name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(payload)


app.configure_history_export(FolderWriter())


@app.orchestration_trigger(context_name="context")
def works(context: OrchestrationContext, given: Any) -> Any:
    return (yield context.call_activity("work", input=given))


@app.activity_trigger(input_name="given")
def work(given: Any) -> Any:
    return {"worked on": given}


@app.route(route="exports/{id}", methods=["PUT"])
@app.durable_client_input(client_name="client")
async def export(req: func.HttpRequest, client: df.DurableFunctionsClient) -> func.HttpResponse:
    mode = ExportMode[req.params.get("mode", "BATCH")]
    options = ExportJobCreationOptions(
        mode=mode,
        completed_time_from=datetime(2020, 1, 1, tzinfo=UTC),
        completed_time_to=datetime.now(UTC) if mode is ExportMode.BATCH else None,
        destination=ExportDestination(container="exports", prefix=req.route_params["id"]),
        format=ExportFormat(ExportFormatKind.JSON),
        max_instances_per_batch=2,
    )
    await AsyncExportHistoryClient(client, FolderWriter()).create_job(options, job_id=req.route_params["id"])
    return func.HttpResponse(status_code=202)


@app.route(route="exports/{id}", methods=["GET"])
@app.durable_client_input(client_name="client")
async def describe(req: func.HttpRequest, client: df.DurableFunctionsClient) -> func.HttpResponse:
    job = await AsyncExportHistoryClient(client, FolderWriter()).get_job(req.route_params["id"])
    if job is None:
        return func.HttpResponse(status_code=404)
    told = {
        "status": job.status.name,
        "scanned": job.scanned_instances,
        "exported": job.exported_instances,
        "failed": job.failed_instances,
        "error": job.last_error,
    }
    return func.HttpResponse(json.dumps(told))


@app.route(route="exports/{id}", methods=["DELETE"])
@app.durable_client_input(client_name="client")
async def delete(req: func.HttpRequest, client: df.DurableFunctionsClient) -> func.HttpResponse:
    await AsyncExportHistoryClient(client, FolderWriter()).delete_job(req.route_params["id"])
    return func.HttpResponse(status_code=200)
