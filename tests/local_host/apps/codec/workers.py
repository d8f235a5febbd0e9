"""Apps on two workers, told apart by the first argument: "azure", Microsoft's own library, and "local", this host.

The other arguments are folders of apps. Each gets a process of its own, since both workers change much of the process
that they are in. Questions come in as JSON, and go to each app; a list of answers, one for each app, goes out as JSON.
A question is ``{"kind": "activity" | "orchestrator" | "entity", "name": ..., "data": text}``, with the data as the host
hands it over (base64 for orchestrators and entities).
"""

import asyncio
import base64
import importlib
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

type Answer = dict[str, Any]


def main() -> None:
    """Answer what stands in the standard input."""
    ask = {"azure": azure, "local": local}[sys.argv[1]]
    sys.path.append(str(Path(__file__).parents[4]))
    for module in ("azure.durable_functions", "azure_functions_runtime", "local_host.host"):  # once, for all of them
        importlib.import_module(module)
    sys.path.pop()
    questions = json.load(sys.stdin)
    json.dump([_in_a_child(ask, Path(folder).resolve(), questions) for folder in sys.argv[2:]], sys.stdout)


def _in_a_child(ask: Any, folder: Path, questions: list[dict[str, str]]) -> Answer:
    reader, writer = os.pipe()
    if os.fork() == 0:
        sys.stdout = sys.stderr  # what the app prints is no answer
        os.chdir(folder)
        with os.fdopen(writer, "w") as output:
            json.dump(asyncio.run(ask(folder, questions)), output)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as given:
        answer: Answer = json.load(given)
    os.wait()
    return answer


# Microsoft's worker. What crosses its boundary are protobuf messages of the Functions host, whose classes it is given.


class Message(SimpleNamespace):
    """A message of the Functions host: a field that was not set is not there."""

    def WhichOneof(self, _group: str) -> str | None:
        """The field of a union that is set."""
        return next((name for name in ("data", "string", "json", "bytes", "int", "double") if name in vars(self)), None)


class BindingInfo(Message):
    """A binding, with the numbers that stand for its directions and data types."""

    out, inout, undefined = 1, 2, 0


class StatusResult(Message):
    """What became of a request."""

    Failure, Success = 0, 1


MESSAGES = (
    "FunctionMetadataResponse",
    "InvocationResponse",
    "ParameterBinding",
    "RpcException",
    "RpcFunctionMetadata",
    "RpcRetryOptions",
    "TypedData",
    "WorkerInitResponse",
    "WorkerMetadata",
)


async def azure(folder: Path, questions: list[dict[str, str]]) -> Answer:
    """Index an app, and call its functions, as the Python worker on Azure does it."""
    import azure_functions_runtime as runtime  # type: ignore[import-untyped]
    from azure_functions_runtime import handle_event

    sys.path.insert(0, str(folder))
    protos = SimpleNamespace(BindingInfo=BindingInfo, StatusResult=StatusResult, **dict.fromkeys(MESSAGES, Message))
    init = SimpleNamespace(capabilities={}, function_app_directory=str(folder))
    properties = {"host": "127.0.0.1", "protos": protos}
    response = await runtime.worker_init_request(
        SimpleNamespace(request=SimpleNamespace(worker_init_request=init), properties=properties)
    )
    if response.result.status != StatusResult.Success:
        return {"refused": response.result.exception.message}
    metadata = (await runtime.functions_metadata_request(None)).function_metadata_results or []
    registry = handle_event._functions
    runtime.start_threadpool_executor()
    ids = {_durable_name(each): each.function_id for each in metadata}
    answers = [await _ask_azure(runtime, registry, ids[_key(each)], each) for each in questions]
    runtime.stop_threadpool_executor()
    return {"functions": [_azures_view(registry, each) for each in metadata], "answers": answers}


def _key(question: dict[str, str]) -> str:
    return question["name"].lower() if question["kind"] == "entity" else question["name"]


def _durable_name(metadata: Any) -> str:
    trigger = _trigger([json.loads(each) for each in metadata.raw_bindings])
    if "entityName" in trigger:
        return str(trigger["entityName"]).lower()
    return str(trigger.get("orchestration") or trigger.get("activity") or metadata.name)


def _trigger(bindings: list[dict[str, Any]]) -> dict[str, Any]:
    return next(each for each in bindings if each["type"].endswith("Trigger"))


def _azures_view(registry: Any, metadata: Any) -> Answer:
    """What Microsoft's library knows of a function, in the words of ``local_view``."""
    info = registry.get_function(metadata.function_id)
    bindings = [json.loads(each) for each in metadata.raw_bindings]
    trigger = _trigger(bindings)
    is_http = trigger["type"] == "httpTrigger"
    return {
        "name": metadata.name,
        "durable name": _durable_name(metadata),
        "trigger": [trigger["type"], trigger["name"]],
        "bindings": sorted([each["name"], each["type"], each["direction"].lower()] for each in bindings),
        "clients": sorted(each["name"] for each in bindings if each["type"] == "durableClient"),
        "outputs": sorted(info.output_types),
        "returns": info.has_return,
        "context": info.requires_context,
        "async": info.is_async,
        # What has no route is routed by its name, says the Functions host (WebScriptHostHttpRoutesManager.cs).
        "route": (trigger.get("route") or metadata.name) if is_http else None,
        "methods": sorted(trigger.get("methods", [])) if is_http else [],
        "level": trigger.get("authLevel", "function").lower() if is_http else None,
    }


async def _ask_azure(runtime: Any, registry: Any, function_id: str, question: dict[str, str]) -> Answer:
    info = registry.get_function(function_id)
    (name,) = (name for name, kind in info.input_types.items() if kind.binding_name != "durableClient")
    invocation = Message(
        invocation_id="an invocation",
        function_id=function_id,
        input_data=[Message(name=name, data=Message(string=question["data"]))],
        trigger_metadata={},
        trace_context=Message(trace_parent="", trace_state="", attributes={}),
        retry_context=Message(retry_count=0, max_retry_count=0, exception=None),
    )
    response = await runtime.invocation_request(SimpleNamespace(request=Message(invocation_request=invocation)))
    if response.result.status == StatusResult.Success:
        value = response.return_value
        return {"result": value.json if hasattr(value, "json") else value.string}
    return _failure(response.result.exception)


def _failure(exception: Any) -> Answer:
    """What the Durable extension makes of an exception of a Python worker.

    The type is what stands before the first ``": "``, the message is the rest of the first line, and there is no inner
    failure (OutOfProcMiddleware.GetFailureDetails and TrySplitExceptionTypeFromMessage of the extension).
    """
    kind, colon, rest = exception.message.partition(": ")
    if not colon:
        kind, rest = "(unknown)", exception.message
    return {"error": [kind, rest.partition("\n")[0].rstrip()], "stack": exception.stack_trace}


# This host


async def local(folder: Path, questions: list[dict[str, str]]) -> Answer:
    """Load an app, and call its functions, as the local host does it."""
    from local_host.app_loader import load_app
    from local_host.durable import DurableFunctions
    from local_host.invocation import Invoker

    try:
        app = load_app(folder)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is the answer
        return {"refused": f"{type(error).__name__}: {error}"}
    invoker = Invoker("{}")
    functions = DurableFunctions(app.functions, invoker, app.settings)
    answers = [await _ask_local(functions, each) for each in questions]
    invoker.close()
    not_run = {each.name: each.trigger_type for each in app.not_run}
    return {"functions": [local_view(each) for each in app.functions], "not run": not_run, "answers": answers}


def local_view(function: Any) -> Answer:
    """What this host knows of a function."""
    is_http = function.trigger_type == "httpTrigger"
    is_entity = function.trigger_type == "entityTrigger"
    return {
        "name": function.name,
        "durable name": function.durable_name.lower() if is_entity else function.durable_name,
        "trigger": [function.trigger_type, function.trigger_parameter],
        "bindings": sorted([each["name"], each["type"], each["direction"].name.lower()] for each in function.bindings),
        "clients": sorted(function.client_parameters),
        "outputs": sorted(function.parameters.outputs),
        "returns": function.parameters.has_return,
        "context": function.parameters.wants_context,
        "async": function.is_async,
        "route": function.route,
        "methods": sorted(function.methods),
        "level": function.auth_level if is_http else None,
    }


async def _ask_local(functions: Any, question: dict[str, str]) -> Answer:
    from durabletask.internal import orchestrator_service_pb2 as pb
    from google.protobuf.wrappers_pb2 import StringValue

    if question["kind"] == "activity":
        request = pb.ActivityRequest(name=question["name"], input=StringValue(value=question["data"]))
        response = await functions.run_activity(request)
        if not response.HasField("failureDetails"):
            return {"result": response.result.value}
        details = response.failureDetails
        return {"error": [details.errorType, details.errorMessage], "stack": details.stackTrace.value}
    wire = base64.b64decode(question["data"])
    if question["kind"] == "orchestrator":
        message = await functions.run_orchestrator(question["name"], "an instance", wire)
    else:
        message = await functions.run_entity(pb.EntityBatchRequest.FromString(wire))
    return {"result": base64.b64encode(message.SerializeToString()).decode("ascii")}


if __name__ == "__main__":
    main()
