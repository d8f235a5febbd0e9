"""Orchestrations that are replayed, suspended, rewound, restarted, and of several versions."""

import json
import logging
from typing import Any

import azure.durable_functions as df
import azure.functions as func
from durabletask.task import OrchestrationContext, when_all

blueprint = df.Blueprint()

_LOGGER = logging.getLogger("app.control")
_replays: dict[str, list[bool]] = {}
_calls: dict[str, list[str]] = {}
_healed: set[str] = set()


@blueprint.orchestration_trigger(context_name="context")
def replayed(context: OrchestrationContext, given: Any) -> Any:
    """Note at each step whether it is replayed, and say so once, whatever happens."""
    logger = context.create_replay_safe_logger(_LOGGER)
    noted = _replays.setdefault(context.instance_id, [])
    for step in range(3):
        noted.append(context.is_replaying)
        logger.warning("%s comes to step %s", context.instance_id, step)
        yield context.call_activity("calls", input=[context.instance_id, f"step {step}"])
    return None


@blueprint.orchestration_trigger(context_name="context")
def falls_ill(context: OrchestrationContext, given: Any) -> Any:
    """Call two activities of which one fails until it is healed, and a sub-orchestration that does the same."""
    well = yield context.call_activity("calls", input=[context.instance_id, "well"])
    rest = yield when_all(
        [
            context.call_activity("falls_ill_too", input=context.instance_id),
            context.call_sub_orchestrator("below", input=context.instance_id),
        ]
    )
    return [well, *rest]


@blueprint.orchestration_trigger(context_name="context")
def below(context: OrchestrationContext, key: str) -> Any:
    return (yield context.call_activity("falls_ill_too", input=key))


@blueprint.orchestration_trigger(context_name="context")
def waits(context: OrchestrationContext, given: Any) -> Any:
    context.set_custom_status("waiting")
    first = yield context.wait_for_external_event("go")
    second = yield context.wait_for_external_event("go")
    return [given, first, second]


@blueprint.orchestration_trigger(context_name="context")
def waits_above(context: OrchestrationContext, given: str) -> Any:
    return (yield context.call_sub_orchestrator("waits", input=None, instance_id=given))


@blueprint.orchestration_trigger(context_name="context")
def keeps_events(context: OrchestrationContext, rounds: int) -> Any:
    """Go on as a new one that gets the events that came meanwhile."""
    event = yield context.wait_for_external_event("next")
    if event == "last":
        return rounds
    context.continue_as_new(rounds + 1, save_events=True)
    return None


@blueprint.orchestration_trigger(context_name="context")
def of_a_version(context: OrchestrationContext, given: Any) -> Any:
    return [given, context.version]


@blueprint.activity_trigger(input_name="given")
def calls(given: list) -> str:  # type: ignore[type-arg]
    _calls.setdefault(given[0], []).append(given[1])
    return str(given[1])


@blueprint.activity_trigger(input_name="key")
def falls_ill_too(key: str) -> str:
    _calls.setdefault(key, []).append("ill")
    if key not in _healed:
        raise ConnectionError("not well yet")
    return "healed"


@blueprint.route(route="control/heal/{id}", methods=["POST"])
def heal(req: func.HttpRequest) -> str:
    _healed.add(req.route_params["id"])
    return "healed"


@blueprint.route(route="control/noted/{id}", methods=["GET"])
def noted(req: func.HttpRequest) -> func.HttpResponse:
    key = req.route_params["id"]
    told = {"replays": _replays.get(key), "calls": sorted(_calls.get(key, []))}
    return func.HttpResponse(json.dumps(told), mimetype="application/json")


@blueprint.route(route="control/start/{name}", methods=["POST"])
@blueprint.durable_client_input(client_name="client")
async def start_version(req: func.HttpRequest, client: df.DurableFunctionsClient) -> func.HttpResponse:
    instance_id = await client.schedule_new_orchestration(
        req.route_params["name"], input=req.get_json(), version=req.params.get("version")
    )
    return client.create_check_status_response(req, instance_id)
