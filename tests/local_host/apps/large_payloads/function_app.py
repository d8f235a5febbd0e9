"""Payloads above a threshold are kept in files of the app's own, and the task hub holds references to them."""

import hashlib
import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import azure.durable_functions as df
import azure.functions as func
from durabletask.entities import EntityContext, EntityInstanceId
from durabletask.payload import LargePayloadStorageOptions, PayloadStore
from durabletask.task import OrchestrationContext

app = df.DFApp(http_auth_level=func.AuthLevel.ANONYMOUS)

type Steps = Generator[Any, Any, Any]


class FolderStore(PayloadStore):
    """A store of payloads in the data folder, by their digests."""

    @property
    def options(self) -> LargePayloadStorageOptions:
        """Above 1000 bytes a payload goes into a file; there are none above 5 MB."""
        return LargePayloadStorageOptions(threshold_bytes=1000, max_stored_payload_bytes=5_000_000)

    def upload(self, data: bytes, *, instance_id: str | None = None) -> str:
        digest = hashlib.sha256(data).hexdigest()
        folder = Path(os.environ["LOCAL_HOST_DATA"]) / "payloads"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / digest).write_bytes(data)
        return f"payload:v1:{digest}"

    async def upload_async(self, data: bytes, *, instance_id: str | None = None) -> str:
        return self.upload(data, instance_id=instance_id)

    def download(self, token: str) -> bytes:
        return (Path(os.environ["LOCAL_HOST_DATA"]) / "payloads" / token.removeprefix("payload:v1:")).read_bytes()

    async def download_async(self, token: str) -> bytes:
        return self.download(token)

    def is_known_token(self, value: str) -> bool:
        return value.startswith("payload:v1:")


app.configure_large_payloads(payload_store=FolderStore())


@app.orchestration_trigger(context_name="context")
def everywhere(context: OrchestrationContext, given: str) -> Steps:
    """Send a payload through all that can carry one, and give it back."""
    seen = [given]
    context.set_custom_status({"large": given})
    seen.append((yield context.call_activity("echo", input=given)))
    seen.append((yield context.call_sub_orchestrator("below", input=given)))
    seen.append((yield context.wait_for_external_event("event")))
    entity = EntityInstanceId("keeper", context.instance_id)
    seen.append((yield context.call_entity(entity, "keep", given)))
    seen.append((yield context.call_entity(entity, "show")))
    if len(set(seen)) != 1:
        raise ValueError([each[:20] for each in seen])
    return given


@app.orchestration_trigger(context_name="context")
def below(context: OrchestrationContext, given: str) -> Steps:
    return (yield context.call_activity("echo_async", input=given))


@app.orchestration_trigger(context_name="context")
def goes_on(context: OrchestrationContext, given: dict[str, Any]) -> Any:
    if given["left"]:
        context.continue_as_new({**given, "left": given["left"] - 1})
        return None
    return given["text"]


@app.orchestration_trigger(context_name="context")
def grows(context: OrchestrationContext, size: int) -> Steps:
    return len((yield context.call_activity("makes", input=size)))


@app.activity_trigger(input_name="given")
def echo(given: str) -> str:
    return given


@app.activity_trigger(input_name="given")
async def echo_async(given: str) -> str:
    return given


@app.activity_trigger(input_name="size")
def makes(size: int) -> str:
    return "x" * size


@app.entity_trigger(context_name="context")
def keeper(context: EntityContext, given: str) -> str:
    if context.operation == "keep":
        context.set_state(given)
    return context.get_state(str, "")


@app.route(route="start/{name}", methods=["POST"])
@app.durable_client_input(client_name="client")
async def start(req: func.HttpRequest, client: df.DurableFunctionsClient) -> func.HttpResponse:
    instance_id = await client.schedule_new_orchestration(req.route_params["name"], input=req.get_json())
    return client.create_check_status_response(req, instance_id)


@app.route(route="events/{id}", methods=["POST"])
@app.durable_client_input(client_name="client")
async def raise_event(req: func.HttpRequest, client: df.DurableFunctionsClient) -> func.HttpResponse:
    await client.raise_orchestration_event(req.route_params["id"], "event", data=req.get_json())
    return func.HttpResponse(status_code=202)


@app.route(route="state/{id}", methods=["GET"])
@app.durable_client_input(client_name="client")
def state(req: func.HttpRequest, client: df.SyncDurableFunctionsClient) -> str:
    found = client.get_orchestration_state(req.route_params["id"])
    entity = client.get_entity(EntityInstanceId("keeper", req.route_params["id"]))
    if found is None:
        return "null"
    return json.dumps(
        {
            "status": found.runtime_status.name,
            "input": found.get_input(),
            "output": found.get_output(),
            "custom status": found.get_custom_status(),
            "entity": entity.get_typed_state(str) if entity else None,
        }
    )
