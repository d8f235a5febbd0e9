"""Schedules: an orchestration is started again and again, until somebody pauses or deletes its schedule."""

import json
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import azure.durable_functions as df
import azure.functions as func
from durabletask.scheduled import ScheduleCreationOptions, ScheduledTaskClient, ScheduleUpdateOptions
from durabletask.task import OrchestrationContext

app = df.DFApp(http_auth_level=func.AuthLevel.ANONYMOUS)
app.configure_scheduled_tasks()


@app.orchestration_trigger(context_name="context")
def ticks(context: OrchestrationContext, given: Any) -> Any:
    return {"ticked": given}


@app.route(route="schedules/{id}", methods=["PUT"])
@app.durable_client_input(client_name="client")
def create(req: func.HttpRequest, client: df.SyncDurableFunctionsClient) -> func.HttpResponse:
    seconds = float(req.params.get("seconds", "1"))
    options = ScheduleCreationOptions(
        schedule_id=req.route_params["id"],
        orchestration_name="ticks",
        interval=timedelta(seconds=seconds),
        orchestration_input=req.route_params["id"],
    )
    ScheduledTaskClient(client).create_schedule(options)
    return func.HttpResponse(status_code=201)


@app.route(route="schedules/{id}/{operation}", methods=["POST"])
@app.durable_client_input(client_name="client")
def operate(req: func.HttpRequest, client: df.SyncDurableFunctionsClient) -> func.HttpResponse:
    schedule = ScheduledTaskClient(client, operation_timeout=20).get_schedule_client(req.route_params["id"])
    try:
        match req.route_params["operation"]:
            case "pause":
                schedule.pause()
            case "resume":
                schedule.resume()
            case "delete":
                schedule.delete()
            case "slow-down":
                schedule.update(ScheduleUpdateOptions(interval=timedelta(hours=1)))
    except RuntimeError as error:
        return func.HttpResponse(str(error), status_code=409)
    return func.HttpResponse(status_code=200)


@app.route(route="schedules/{id?}", methods=["GET"])
@app.durable_client_input(client_name="client")
def describe(req: func.HttpRequest, client: df.SyncDurableFunctionsClient) -> func.HttpResponse:
    schedules = ScheduledTaskClient(client)
    schedule_id = req.route_params.get("id")
    if schedule_id is None:
        return func.HttpResponse(json.dumps([each.schedule_id for each in schedules.list_schedules()]))
    found = schedules.get_schedule(schedule_id)
    if found is None:
        return func.HttpResponse(status_code=404)
    return func.HttpResponse(json.dumps({**asdict(found), "status": found.status.value}, default=str))
