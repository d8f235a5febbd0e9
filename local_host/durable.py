"""Running work items of a task hub by the functions that the app registered."""

import base64
import logging
import traceback
from collections.abc import Callable, Iterable
from typing import Any

from azure.functions.meta import Datum, get_binding_registry
from durabletask.internal import helpers
from durabletask.internal import orchestrator_service_pb2 as pb

from local_host.functions import ACTIVITY_TRIGGER, ENTITY_TRIGGER, ORCHESTRATION_TRIGGER, Function
from local_host.host_json import REJECT, HostSettings
from local_host.invocation import FunctionTimeout, InvocationError, Invoker
from local_host.versions import is_match

_LOGGER = logging.getLogger("local_host")


class NotNow(Exception):
    """Work that cannot be run now and is to be handed out again later; the log says why."""


class DurableFunctions:
    """The orchestrators, activities and entities of an app, called over the wire format of the real host.

    An orchestrator and an entity take a base64 protobuf request and give a base64 protobuf response; an activity
    takes and gives JSON. The SDK's own converters do the conversions.

    What takes longer than ``functionTimeout`` raises ``NotNow``: the real host restarts its worker then, and runs the
    work again (``OutOfProcMiddleware.cs`` of the Durable Functions extension).
    """

    def __init__(self, functions: Iterable[Function], invoker: Invoker, settings: HostSettings) -> None:
        self._invoker = invoker
        self._settings = settings
        self._rejected: set[tuple[str, str | None]] = set()
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

    def rejects(self, name: str, version: str | None) -> bool:
        """Whether instances of this version are to wait for a host that runs them; the log says it once."""
        if self._settings.version_failure != REJECT or is_match(self._settings, version):
            return False
        if (name, version) not in self._rejected:
            self._rejected.add((name, version))
            _LOGGER.warning(
                "Instances of %s with the version '%s' wait: this host is of version '%s' (versionMatchStrategy)",
                *(name, version or "", self._settings.version),
            )
        return True

    async def run_orchestrator(
        self, name: str, instance_id: str, request: bytes, version: str | None = None
    ) -> pb.OrchestratorResponse:
        """Run one turn of an orchestration: ``request`` is an ``OrchestratorRequest`` on the wire.

        What goes wrong outside the orchestrator's code fails the orchestration. Raises ``NotNow``.
        """
        if self.rejects(name, version):
            raise NotNow
        response = pb.OrchestratorResponse(instanceId=instance_id)
        try:
            function = _find(self._orchestrators, name, "orchestrator")
            self._check_version(version)
            encoded = await self._invoke(function, base64.b64encode(request).decode("ascii"))
            response.ParseFromString(base64.b64decode(encoded))
        except FunctionTimeout:
            raise NotNow from None
        except Exception as error:  # noqa: BLE001  # whatever it is, it is the outcome
            response.actions.append(
                helpers.new_complete_orchestration_action(-1, pb.ORCHESTRATION_STATUS_FAILED, None, _failure(error))
            )
        for action in response.actions if self._settings.version else ():
            child = action.createSubOrchestration
            if action.HasField("createSubOrchestration") and not child.HasField("version"):
                child.version.value = self._settings.version
        return response

    def _check_version(self, version: str | None) -> None:
        if not is_match(self._settings, version):
            raise VersionMismatch(f"This host runs version '{self._settings.version}', not '{version or ''}'.")

    async def run_activity(self, request: pb.ActivityRequest) -> pb.ActivityResponse:
        """Run an activity; an exception becomes the failure that the orchestrator gets. Raises ``NotNow``."""
        response = pb.ActivityResponse(instanceId=request.orchestrationInstance.instanceId, taskId=request.taskId)
        try:
            function = _find(self._activities, request.name, "activity")
            given = request.input.value if request.HasField("input") else "null"
            response.result.value = await self._invoke(function, given)
        except FunctionTimeout:
            raise NotNow from None
        except Exception as error:  # noqa: BLE001  # whatever it is, it is the outcome
            response.failureDetails.CopyFrom(_failure(error))
        return response

    async def run_entity(self, request: pb.EntityBatchRequest) -> pb.EntityBatchResult:
        """Run a batch of operations on an entity. What goes wrong outside its code fails each. Raises ``NotNow``."""
        name = request.instanceId.removeprefix("@").partition("@")[0].lower()
        result = pb.EntityBatchResult()
        try:
            function = _find(self._entities, name, "entity")
            result.ParseFromString(base64.b64decode(await self._invoke(function, _encode(request))))
        except FunctionTimeout:
            raise NotNow from None
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


class VersionMismatch(Exception):
    """An instance has a version that this host is told to fail."""


def _failure(error: Exception) -> pb.TaskFailureDetails:
    """Give the failure details that the real host makes of what a function raised.

    It has them from the worker's text ``Type: message`` and its stack: a message ends at its first line break, and
    there is no inner failure. Source: ``GetFailureDetails`` in ``OutOfProcMiddleware.cs``.
    """
    raised = (error.__cause__ if isinstance(error, InvocationError) else None) or error
    try:
        error_type, message = type(raised).__name__, str(raised).partition("\n")[0].rstrip()
    except Exception:  # noqa: BLE001  # an error that cannot even be told
        error_type, message = "(unknown)", "The exception cannot be shown as text."
    stack = "".join(traceback.format_exception(raised))
    return pb.TaskFailureDetails(
        errorType=error_type, errorMessage=_carried(message), stackTrace={"value": _carried(stack)}
    )


def _carried(text: str) -> str:
    """A text that protobuf can carry: it may hold lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode()
