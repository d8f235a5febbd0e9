"""Human interaction: a phone number is verified by a code that is sent to it, within a time and three tries."""

import os
import secrets
from collections.abc import Generator
from datetime import timedelta
from pathlib import Path
from typing import Any

import azure.durable_functions as df
import azure.functions as func
from durabletask.task import OrchestrationContext, when_any

app = df.DFApp(http_auth_level=func.AuthLevel.ANONYMOUS)

TIME = timedelta(seconds=90)
TRIES = 3


@app.route(route="orchestrators/{functionName}", methods=["POST"])
@app.durable_client_input(client_name="client")
def http_start(req: func.HttpRequest, client: df.SyncDurableFunctionsClient) -> func.HttpResponse:
    instance_id = client.schedule_new_orchestration(req.route_params["functionName"], input=req.get_json())
    return client.create_check_status_response(req, instance_id)


@app.orchestration_trigger(context_name="context")
def verify(context: OrchestrationContext, phone: str) -> Generator[Any, Any, bool]:
    code = yield context.call_activity("send_code", input=phone)
    timeout = context.create_timer(TIME)
    for _ in range(TRIES):
        answer = context.wait_for_external_event("SmsChallengeResponse")
        winner = yield when_any([answer, timeout])
        if winner is timeout:
            return False
        if answer.get_result() == code:
            timeout.cancel()
            return True
    timeout.cancel()
    return False


@app.orchestration_trigger(context_name="context")  # type: ignore[arg-type]  # of one argument, as in v1
def verify_v1(context: df.DurableOrchestrationContext) -> Generator[Any, Any, bool]:
    code = yield context.call_activity("send_code", context.get_input())
    timeout: Any = context.create_timer(context.current_utc_datetime + TIME)
    for _ in range(TRIES):
        answer = context.wait_for_external_event("SmsChallengeResponse")
        winner = yield context.task_any([answer, timeout])
        if winner == timeout:
            return False
        if answer.result == code:
            timeout.cancel()
            return True
    timeout.cancel()
    return False


@app.activity_trigger(input_name="phone")
def send_code(phone: str) -> int:
    if not phone:
        raise ValueError("A phone number is needed.")
    code = 1000 + secrets.randbelow(9000)
    message = Path(os.environ["LOCAL_HOST_DATA"]) / "sms" / f"{phone}.txt"
    message.parent.mkdir(parents=True, exist_ok=True)
    message.write_text(str(code))
    return code
