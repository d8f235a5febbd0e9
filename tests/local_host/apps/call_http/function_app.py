"""Orchestrations that call HTTP services, which can take their time to answer."""

from collections.abc import Generator
from typing import Any

import azure.durable_functions as df
import azure.functions as func

app = df.DFApp(http_auth_level=func.AuthLevel.ANONYMOUS)


@app.orchestration_trigger(context_name="context")  # type: ignore[arg-type]  # of one argument, as in v1
def calls(context: df.DurableOrchestrationContext) -> Generator[Any, Any, dict[str, Any]]:
    given = context.get_input()
    response = yield context.call_http(
        given.get("method", "GET"),
        given["url"],
        given.get("content"),
        given.get("headers"),
        is_raw_str=given.get("raw", False),
    )
    return {"status": response.status_code, "headers": response.headers, "content": response.content}


@app.orchestration_trigger(context_name="context")  # type: ignore[arg-type]  # of one argument, as in v1
def calls_and_catches(context: df.DurableOrchestrationContext) -> Generator[Any, Any, str]:
    try:
        yield context.call_http("GET", context.get_input())
    except Exception as error:  # noqa: BLE001
        return f"failed: {error}"
    return "answered"
