"""What functions are told of their own invocations."""

import json
import threading
from typing import Any

import azure.durable_functions as df
import azure.functions as func

blueprint = df.Blueprint()


def told(context: func.Context) -> dict[str, Any]:
    """All that stands in a context."""
    return {
        "invocation_id": context.invocation_id,
        "function_name": context.function_name,
        "function_directory": context.function_directory,
        "trace_parent": context.trace_context.trace_parent,
        "trace_state": context.trace_context.trace_state,
        "attributes": dict(context.trace_context.attributes),
        "old names": [getattr(context.trace_context, name, None) for name in ("Traceparent", "Tracestate")],
        "stored": getattr(context.thread_local_storage, "invocation_id", "nothing"),
        "retry_count": context.retry_context.retry_count,
        "max_retry_count": context.retry_context.max_retry_count,
    }


@blueprint.route(route="context")
def sync_context(req: func.HttpRequest, context: func.Context) -> str:
    return json.dumps(told(context))


@blueprint.route(route="context-async")
async def async_context(req: func.HttpRequest, context: func.Context) -> str:
    return json.dumps(told(context))


@blueprint.route(route="context-without-annotation")
def context_without_annotation(req: func.HttpRequest, context) -> str:  # type: ignore[no-untyped-def]
    return json.dumps(told(context))


@blueprint.function_name("NamedContext")
@blueprint.route(route="context-named")
def named_context(req: func.HttpRequest, context: func.Context) -> str:
    return json.dumps(told(context))


@blueprint.route(route="context-of-a-thread")
def context_of_a_thread(req: func.HttpRequest, context: func.Context) -> str:
    """What the documentation has for threads of one's own: the id is stored, so that their lines can be told apart."""
    seen: list[str] = []

    def work() -> None:
        storage: Any = context.thread_local_storage
        storage.invocation_id = context.invocation_id
        seen.append(storage.invocation_id)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return json.dumps([context.invocation_id, *seen])


@blueprint.orchestration_trigger(context_name="ctx")
def activity_context(ctx: Any, given: Any) -> Any:
    return (yield ctx.call_activity("tells_context", input="x"))


@blueprint.activity_trigger(input_name="given")
def tells_context(given: str, context: func.Context) -> dict[str, Any]:
    return told(context)
