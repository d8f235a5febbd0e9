"""Loading an app: its settings, its ``host.json``, and the functions that it registers."""

import importlib.util
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import azure.functions as func

from local_host.errors import HostError
from local_host.functions import Function, function_of

DEFAULT_ROUTE_PREFIX = "api"
DEFAULT_HUB_NAME = "TestHubName"


@dataclass(frozen=True)
class App:
    """An app that is ready to be hosted."""

    folder: Path
    functions: tuple[Function, ...]
    route_prefix: str
    hub_name: str


def load_environment(folder: Path) -> dict[str, Any]:
    """Put the ``Values`` of ``local.settings.json`` into the environment, where what is set already wins.

    Gives the whole document, empty where there is no such file. Raises ``HostError`` when it cannot be read.
    """
    file = folder / "local.settings.json"
    document = _read_json(file)
    if document.get("IsEncrypted") is True:
        raise HostError(f"{file} is encrypted. Decrypt it with 'func settings decrypt'.")
    for name, value in _object(file, document, "Values").items():
        if isinstance(value, dict | list):
            raise HostError(f"{file}: the value of '{name}' must be a text.")
        text = str(value).lower() if isinstance(value, bool) else str(value)
        try:
            if value is not None:
                os.environ.setdefault(name, text)
        except (OSError, ValueError):
            raise HostError(f"{file}: '{name}' or its value cannot be put into the environment.") from None
    return document


def load_app(folder: Path) -> App:
    """Import ``function_app.py`` and index the functions of the app in it.

    The module is executed anew at each call. Raises ``HostError`` when a file is missing or holds no app; an error
    in the app's own code passes through as it is.
    """
    folder = folder.resolve()
    file = folder / "host.json"
    host_json = _read_json(file)
    extensions = _object(file, host_json, "extensions")
    route_prefix = _text(file, _object(file, extensions, "http"), "routePrefix", DEFAULT_ROUTE_PREFIX)
    hub_name = _text(file, _object(file, extensions, "durableTask"), "hubName", DEFAULT_HUB_NAME)
    functions = tuple(function_of(function) for function in _find_app(folder).get_functions())
    return App(
        folder=folder,
        functions=functions,
        route_prefix=route_prefix.strip("/"),
        hub_name=hub_name,
    )


def _find_app(folder: Path) -> func.FunctionRegister:
    script = folder / "function_app.py"
    if not script.is_file():
        raise HostError(f"There is no function_app.py in {folder}. Name the folder of the app with --app-dir.")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location("function_app", script)
    if spec is None or spec.loader is None:
        raise HostError(f"{script} cannot be imported.")
    module = importlib.util.module_from_spec(spec)
    sys.modules["function_app"] = module
    spec.loader.exec_module(module)
    apps = {id(value): value for value in vars(module).values() if isinstance(value, func.FunctionRegister)}
    if len(apps) != 1:
        found = "no FunctionApp or DFApp" if not apps else f"{len(apps)} apps, where one is expected"
        raise HostError(f"{script} holds {found} at its top level. Make it one: app = func.FunctionApp().")
    return next(iter(apps.values()))


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        document = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise HostError(f"{file} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise HostError(f"{file} must hold a JSON object.")
    return document


def _object(file: Path, parent: dict[str, Any], name: str) -> dict[str, Any]:
    value = parent.get(name)
    if value is not None and not isinstance(value, dict):
        raise HostError(f"{file}: '{name}' must be an object.")
    return value or {}


def _text(file: Path, parent: dict[str, Any], name: str, default: str) -> str:
    value = parent.get(name)
    if value is not None and not isinstance(value, str):
        raise HostError(f"{file}: '{name}' must be a text.")
    return default if value is None else value
