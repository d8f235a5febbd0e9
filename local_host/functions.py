"""What the host knows of one function of an app."""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from azure.functions.decorators.function_app import Function as RegisteredFunction

from local_host.bindings import RETURN, Parameters, parameters_of

HTTP_TRIGGER = "httpTrigger"
ORCHESTRATION_TRIGGER = "orchestrationTrigger"
ACTIVITY_TRIGGER = "activityTrigger"
ENTITY_TRIGGER = "entityTrigger"
TIMER_TRIGGER = "timerTrigger"
DURABLE_CLIENT = "durableClient"
HTTP_OUTPUT = "http"

DURABLE_TRIGGERS = (ORCHESTRATION_TRIGGER, ACTIVITY_TRIGGER, ENTITY_TRIGGER)
TRIGGERS = (HTTP_TRIGGER, TIMER_TRIGGER, *DURABLE_TRIGGERS)
"""The triggers that the host runs."""

_NAME = re.compile("[A-Za-z][A-Za-z0-9_-]{0,127}")
"""What the real host takes for a name, except for "host"."""

_NAME_IN_BINDING = {
    ORCHESTRATION_TRIGGER: "orchestration",
    ACTIVITY_TRIGGER: "activity",
    ENTITY_TRIGGER: "entityName",
}


@dataclass(frozen=True)
class Function:
    """A registered function: its callable, its trigger, and the parameters that the host has to fill.

    ``directory`` is the folder of its file. ``durable_name`` is the name that orchestrations and clients know it by;
    for entities it is compared without regard to case. ``trigger_settings`` is the trigger's binding as the SDK
    describes it, ``bindings`` all of them, and ``retry`` the retry policy. ``client_parameters`` are those that get the
    durable client's configuration; ``response_parameter`` is the one that gets a ``func.Out`` for the HTTP response,
    None where it is returned. ``is_async`` says whether it runs on the event loop.
    """

    name: str
    call: Callable[..., Any]
    directory: str
    trigger_type: str
    trigger_parameter: str
    trigger_settings: Mapping[str, Any]
    bindings: tuple[Mapping[str, Any], ...]
    retry: Mapping[str, Any] | None
    parameters: Parameters
    durable_name: str
    client_parameters: tuple[str, ...]
    response_parameter: str | None
    route: str | None
    methods: tuple[str, ...]
    auth_level: str
    is_async: bool


@dataclass(frozen=True)
class NotRun:
    """A function that the app registered and that this host does not run, and why.

    ``disabled`` says that the user wants it so.
    """

    name: str
    trigger_type: str
    reason: str
    disabled: bool = False


def function_of(registered: RegisteredFunction) -> Function | NotRun:
    """Read what the host needs from a function that the app registered.

    Raises ``HostError`` where its parameters do not fit its bindings.
    """
    name = registered.get_function_name() or ""
    trigger = registered.get_trigger()
    if trigger is None:  # get_functions() has refused it before
        raise ValueError(f"The function '{name}' has no trigger.")
    if not _NAME.fullmatch(name) or name.lower() == "host":
        # A name with line breaks in it could write lines of its own where it is shown.
        return NotRun(ascii(name)[1:-1], trigger.type or "", "its name cannot be that of a function")
    bindings = registered.get_bindings()
    call = registered.get_user_function()
    parameters = parameters_of(name, call, bindings)
    trigger_type = trigger.type or ""
    reason = _why_not_run(trigger_type, [each.type or "" for each in bindings if each is not trigger])
    if reason is not None:
        return NotRun(name, trigger_type, reason)
    settings = trigger.get_dict_repr()
    return Function(
        name=name,
        call=call,
        directory=str(Path(inspect.getfile(call)).parent),
        trigger_type=trigger_type,
        trigger_parameter=trigger.name,
        trigger_settings=settings,
        bindings=tuple(each.get_dict_repr() for each in bindings),
        retry=registered.get_settings_dict("retry_policy"),
        parameters=parameters,
        durable_name=settings.get(_NAME_IN_BINDING.get(trigger_type, "")) or name,
        client_parameters=tuple(each.name for each in bindings if each.type == DURABLE_CLIENT),
        response_parameter=next(
            (each.name for each in bindings if each.type == HTTP_OUTPUT and each.name != RETURN), None
        ),
        route=(settings.get("route") or name) if trigger_type == HTTP_TRIGGER else None,
        methods=tuple(str(getattr(each, "value", each)).upper() for each in settings.get("methods") or ()),
        auth_level=_auth_level(settings),
        is_async=inspect.iscoroutinefunction(call),
    )


def _why_not_run(trigger_type: str, others: list[str]) -> str | None:
    if trigger_type not in TRIGGERS:
        return f"this host has no {trigger_type}"
    unknown = sorted(set(others) - {DURABLE_CLIENT, HTTP_OUTPUT})
    if unknown:
        return f"this host has no {' and no '.join(unknown)} binding"
    return None


def _auth_level(settings: Mapping[str, Any]) -> str:
    level = settings.get("authLevel")
    return str(getattr(level, "value", level or "function")).lower()
