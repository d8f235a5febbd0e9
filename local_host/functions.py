"""What the host knows of one function of an app."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from azure.functions.decorators.function_app import Function as RegisteredFunction

HTTP_TRIGGER = "httpTrigger"
ORCHESTRATION_TRIGGER = "orchestrationTrigger"
ACTIVITY_TRIGGER = "activityTrigger"
ENTITY_TRIGGER = "entityTrigger"
DURABLE_CLIENT = "durableClient"

_NAME_IN_BINDING = {
    ORCHESTRATION_TRIGGER: "orchestration",
    ACTIVITY_TRIGGER: "activity",
    ENTITY_TRIGGER: "entity_name",
}


@dataclass(frozen=True)
class Function:
    """A registered function: its callable, its trigger, and the parameters that the host has to fill.

    ``durable_name`` is the name that orchestrations and clients know it by; for entities it is compared without
    regard to case. ``client_parameters`` are those that get the durable client's configuration;
    ``wants_context`` says whether it takes the invocation's ``func.Context``, ``is_async``
    whether it runs on the event loop.
    """

    name: str
    call: Callable[..., Any]
    trigger_type: str
    trigger_parameter: str
    durable_name: str
    client_parameters: tuple[str, ...]
    wants_context: bool
    route: str | None
    methods: tuple[str, ...]
    auth_level: str
    is_async: bool


def function_of(registered: RegisteredFunction) -> Function:
    """Read what the host needs from a function that the app registered."""
    name = registered.get_function_name() or ""
    trigger = registered.get_trigger()
    if trigger is None:  # get_functions() has refused it before
        raise ValueError(f"The function '{name}' has no trigger.")
    trigger_type = trigger.get_binding_name()
    call = registered.get_user_function()
    bindings = registered.get_bindings()
    return Function(
        name=name,
        call=call,
        trigger_type=trigger_type,
        trigger_parameter=trigger.name,
        durable_name=getattr(trigger, _NAME_IN_BINDING.get(trigger_type, ""), None) or name,
        client_parameters=tuple(each.name for each in bindings if each.get_binding_name() == DURABLE_CLIENT),
        wants_context=trigger.name != "context" and "context" in inspect.signature(call).parameters,
        route=getattr(trigger, "route", None),
        methods=tuple(str(getattr(each, "value", each)).upper() for each in getattr(trigger, "methods", None) or ()),
        auth_level=_auth_level(trigger),
        is_async=inspect.iscoroutinefunction(call),
    )


def _auth_level(trigger: Any) -> str:
    level = getattr(trigger, "auth_level", None)
    return str(getattr(level, "value", level or "function")).lower()
