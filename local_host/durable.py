"""Running work items of a task hub by the functions that the app registered."""

import base64
import logging
from collections.abc import Callable, Iterable
from typing import Any

from azure.functions.meta import Datum, get_binding_registry
from durabletask.internal import helpers
from durabletask.internal import orchestrator_service_pb2 as pb

from local_host.functions import ACTIVITY_TRIGGER, ENTITY_TRIGGER, ORCHESTRATION_TRIGGER, Function
from local_host.invocation import InvocationError, Invoker

_LOGGER = logging.getLogger("local_host")


class DurableFunctions:
    """The orchestrators, activities and entities of an app, called over the wire format of the real host.

    An orchestrator and an entity take a base64 protobuf request and give a base64 protobuf response; an activity
    takes and gives JSON. The SDK's own converters do the conversions.
    """

    def __init__(self, functions: Iterable[Function], invoker: Invoker) -> None:
        self._invoker = invoker
        functions = tuple(functions)
        self._orchestrators = _by_name(functions, ORCHESTRATION_TRIGGER, str)
        self._activities = _by_name(functions, ACTIVITY_TRIGGER, str)
        self._entities = _by_name(functions, ENTITY_TRIGGER, str.lower)

    @property
    def orchestrator_names(self) -> list[str]:
        """The names that can be started."""
        return list(self._orchestrators)

    @property
    def entity_names(self) -> list[str]:
        """The names of the entities, in lower case."""
        return list(self._entities)

    async def run_orchestrator(self, name: str, instance_id: str, request: bytes) -> pb.OrchestratorResponse:
        """Run one turn of an orchestration: ``request`` is an ``OrchestratorRequest`` on the wire.

        What goes wrong outside the orchestrator's code fails the orchestration.
        """
        response = pb.OrchestratorResponse(instanceId=instance_id)
        try:
            function = _find(self._orchestrators, name, "orchestrator")
            encoded = await self._invoke(function, base64.b64encode(request).decode("ascii"))
            response.ParseFromString(base64.b64decode(encoded))
        except Exception as error:  # noqa: BLE001  # whatever it is, it is the outcome
            response.actions.append(
                helpers.new_complete_orchestration_action(-1, pb.ORCHESTRATION_STATUS_FAILED, None, _failure(error))
            )
        return response

    async def run_activity(self, request: pb.ActivityRequest) -> pb.ActivityResponse:
        """Run an activity; an exception becomes the failure that the orchestrator gets."""
        response = pb.ActivityResponse(instanceId=request.orchestrationInstance.instanceId, taskId=request.taskId)
        try:
            function = _find(self._activities, request.name, "activity")
            given = request.input.value if request.HasField("input") else "null"
            response.result.value = await self._invoke(function, given)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is the outcome
            response.failureDetails.CopyFrom(_failure(error))
        return response

    async def run_entity(self, request: pb.EntityBatchRequest) -> pb.EntityBatchResult:
        """Run a batch of operations on an entity. What goes wrong outside its code fails each of them."""
        name = request.instanceId.removeprefix("@").partition("@")[0].lower()
        result = pb.EntityBatchResult()
        try:
            function = _find(self._entities, name, "entity")
            result.ParseFromString(base64.b64decode(await self._invoke(function, _encode(request))))
        except Exception as error:  # noqa: BLE001  # whatever it is, it is the outcome
            failed = pb.OperationResultFailure(failureDetails=_failure(error))
            result = pb.EntityBatchResult(results=[pb.OperationResult(failure=failed) for _ in request.operations])
            if request.HasField("entityState"):
                result.entityState.CopyFrom(request.entityState)
        return result

    async def _invoke(self, function: Function, given: str) -> str:
        converter: Any = get_binding_registry().get(function.trigger_type)  # type: ignore[no-untyped-call]
        decoded = converter.decode(Datum(type="string", value=given), trigger_metadata=None)
        result = await self._invoker.invoke(function, decoded)
        value: str = converter.encode(result, expected_type=None).value
        return value


def _by_name(functions: Iterable[Function], kind: str, key: Callable[[str], str]) -> dict[str, Function]:
    return {key(function.durable_name): function for function in functions if function.trigger_type == kind}


def _find(functions: dict[str, Function], name: str, kind: str) -> Function:
    try:
        return functions[name]
    except KeyError:
        _LOGGER.error("This app has no %s '%s'", kind, name)  # noqa: TRY400  # there is no traceback worth logging
        raise LookupError(f"This app has no {kind} '{name}'.") from None


def _encode(message: Any) -> str:
    return base64.b64encode(message.SerializeToString()).decode("ascii")


def _failure(error: Exception) -> pb.TaskFailureDetails:
    """Return the failure details of what a function raised; the message is never empty, since the hub would take
    an empty one for success."""
    cause = error.__cause__ if isinstance(error, InvocationError) else error
    raised = cause if isinstance(cause, Exception) else error
    try:
        details = helpers.new_failure_details(raised)
    except Exception:  # noqa: BLE001  # its text cannot be had, or cannot be carried (a lone surrogate)
        details = pb.TaskFailureDetails(errorType=type(raised).__name__, errorMessage=_carried(raised))
    if not details.errorMessage:
        details.errorMessage = details.errorType
    return details


def _carried(error: Exception) -> str:
    try:
        return str(error).encode("utf-8", "backslashreplace").decode()
    except Exception:  # noqa: BLE001  # an error that cannot even be told
        return ""
