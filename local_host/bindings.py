"""The bindings of a function, held against its Python parameters as Microsoft's Python worker does it.

An app that the worker refuses on Azure is refused here, with a sentence. The SDK's converters say which annotations
they take.
"""

import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import azure.functions as func
from azure.functions.decorators.core import Binding, BindingDirection
from azure.functions.meta import get_binding_registry

from local_host.errors import HostError

RETURN = "$return"


@dataclass(frozen=True)
class Parameters:
    """What the host fills the parameters of a function with, and what it takes from it.

    ``outputs`` are the parameters that get a ``func.Out``; ``has_return`` says whether a value may be returned.
    """

    wants_context: bool
    outputs: tuple[str, ...]
    has_return: bool


def parameters_of(name: str, call: Callable[..., Any], bindings: Iterable[Binding]) -> Parameters:
    """Hold the bindings of a function against its parameters. Raises ``HostError`` where they do not fit."""
    bound = {binding.name: binding for binding in bindings}
    returned = bound.pop(RETURN, None)
    if returned is not None and returned.direction != BindingDirection.OUT.value:
        raise _misfit(name, f"the binding '{RETURN}' must be an output")
    try:
        hints = typing.get_type_hints(call)
    except Exception as error:  # noqa: BLE001  # an annotation is any expression
        raise _misfit(name, f"its annotations cannot be read: {error}") from None
    parameters = set(inspect.signature(call).parameters)
    wants_context = "context" in parameters and "context" not in bound
    if wants_context:
        _check_context(name, hints)
    for missing in sorted(parameters - {"context"} - set(bound)):
        raise _misfit(name, f"its parameter '{missing}' has no binding")
    for surplus in sorted(set(bound) - parameters):
        raise _misfit(name, f"the binding '{surplus}' has no parameter of that name")
    for parameter in sorted(parameters & set(bound)):
        if parameter in hints:
            _check_parameter(name, bound[parameter], hints[parameter])
    if returned is not None and "return" in hints:
        _check_return(name, returned, hints["return"])
    outputs = tuple(each.name for each in bound.values() if each.direction == BindingDirection.OUT.value)
    implicit = any(_has_implicit_output(each.type) for each in bound.values())
    return Parameters(wants_context, outputs, returned is not None or implicit)


def _check_context(name: str, hints: dict[str, Any]) -> None:
    hint = hints.get("context")
    if hint is not None and getattr(hint, "__name__", None) != "Context":
        raise _misfit(name, f"its parameter 'context' must be an azure.functions.Context, not {_shown(hint)}")


def _check_parameter(name: str, binding: Binding, hint: Any) -> None:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    is_out = func.Out in (hint, origin)
    if is_out != (binding.direction == BindingDirection.OUT.value):
        wanted = (
            "an output, so it must be annotated as func.Out[...]" if not is_out else "an input, so it cannot be an Out"
        )
        raise _misfit(name, f"its parameter '{binding.name}' is bound as {wanted}")
    wanted_type = arguments[0] if is_out and len(arguments) == 1 else hint
    if is_out and len(arguments) != 1:
        raise _misfit(name, f"its parameter '{binding.name}' must say what goes out, as in func.Out[str]")
    if not _is_type(wanted_type):
        what = f"is annotated with {_shown(hint)}, which Azure's Python worker does not take"
        raise _misfit(name, f"its parameter '{binding.name}' {what}: write the plain class, such as dict or list")
    _check_type(name, binding, wanted_type, is_out=is_out)


def _check_type(name: str, binding: Binding, wanted: Any, *, is_out: bool) -> None:
    converter: Any = _converter(binding.type)
    if _is_of_extension(wanted):
        return
    if converter is None or (wanted in (str, bytes) and not _has_implicit_output(binding.type)):
        return
    check = converter.check_output_type_annotation if is_out else converter.check_input_type_annotation
    try:
        fits = check(wanted)
    except TypeError:  # from issubclass(), for what is no class
        fits = False
    if not fits:
        raise _misfit(name, f"its parameter '{binding.name}' cannot be {_shown(wanted)} with a {binding.type} binding")


def _check_return(name: str, binding: Binding, hint: Any) -> None:
    if typing.get_origin(hint) is func.Out or not isinstance(hint, type):
        raise _misfit(name, f"its return annotation {_shown(hint)} is no type that can be returned")
    converter: Any = _converter(binding.type)
    if converter is not None and not converter.check_output_type_annotation(hint):
        advice = "write func.HttpResponse or str, or leave it out" if binding.type == "http" else "leave it out"
        raise _misfit(
            name, f"its return annotation {_shown(hint)} does not go with the {binding.type} binding: {advice}"
        )


def _is_type(hint: Any) -> bool:
    """Whether the worker takes it for a type: a class, or a generic of ``typing``; not ``list[int]``, nor a union."""
    if isinstance(hint, types.GenericAlias):
        return False
    return isinstance(hint, type) or typing.get_origin(hint) not in (
        None,
        typing.Union,
        types.UnionType,
        tuple,
        Callable,
    )


def _is_of_extension(hint: Any) -> bool:
    """Whether an extension of the SDK's, such as the one for blobs, makes values of this type."""
    base: Any = sys.modules.get("azurefunctions.extensions.base")  # there is none unless the app has imported one
    registry = base.get_binding_registry() if base is not None else None
    return registry is not None and bool(registry.check_supported_type(hint))


def _converter(binding_type: str | None) -> Any:
    return get_binding_registry().get(binding_type)  # type: ignore[no-untyped-call]


def _has_implicit_output(binding_type: str | None) -> bool:
    converter = _converter(binding_type)
    # What the SDK does not know is a generic binding to the worker, and those take what a function returns.
    return converter is None or bool(getattr(converter, "has_implicit_output", lambda: False)())


def _misfit(name: str, what: str) -> HostError:
    return HostError(f"The function '{name}' cannot be loaded: {what}.")


def _shown(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)
