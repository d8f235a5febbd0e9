"""Loading an app: its settings, its ``host.json``, and the functions that it registers."""

import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import azure.functions as func

from local_host.errors import HostError
from local_host.functions import Function, NotRun, function_of
from local_host.host_json import HostSettings, host_settings, read_json


@dataclass(frozen=True)
class App:
    """An app that is ready to be hosted, from a ``script`` in its folder.

    ``not_run`` are the functions that this host leaves alone.
    """

    folder: Path
    script: str
    functions: tuple[Function, ...]
    not_run: tuple[NotRun, ...]
    settings: HostSettings


def load_environment(folder: Path) -> dict[str, Any]:
    """Put the ``Values`` of ``local.settings.json`` into the environment, where what is set already wins.

    Gives the whole document, empty where there is no such file. Raises ``HostError`` when it cannot be read.
    """
    file = folder / "local.settings.json"
    document = read_json(file)
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


def load_app(folder: Path, settings: HostSettings | None = None) -> App:
    """Import ``function_app.py`` (or ``PYTHON_SCRIPT_FILE_NAME``) and index the functions of the app in it.

    The module is executed anew at each call. ``settings`` are read from the folder unless they are given. Raises
    ``HostError`` when a file is missing or holds no app, and for a function whose bindings do not fit; an error in the
    app's own code passes through as it is.
    """
    folder = folder.resolve()
    if settings is None:
        settings = host_settings(folder / "host.json", os.environ)
    found = [_unless_disabled(function_of(function)) for function in _find_app(folder).get_functions()]
    return App(
        folder=folder,
        script=_script_name(),
        functions=tuple(each for each in found if isinstance(each, Function)),
        not_run=tuple(each for each in found if isinstance(each, NotRun)),
        settings=settings,
    )


def _unless_disabled(function: Function | NotRun) -> Function | NotRun:
    """Leave out what an app setting disables. Source: Microsoft, "How to disable functions in Azure Functions"."""
    for setting in (f"AzureWebJobs.{function.name}.Disabled", f"AzureWebJobs_{function.name}_Disabled"):
        if os.environ.get(setting, "").strip().lower() in ("true", "1"):
            reason = f"the app setting {setting} disables it"
            return NotRun(function.name, function.trigger_type, reason, disabled=True)
    return function


def _script_name() -> str:
    return os.environ.get("PYTHON_SCRIPT_FILE_NAME") or "function_app.py"


def _find_app(folder: Path) -> func.FunctionRegister:
    name = _script_name()
    script = folder / name
    if Path(name).name != name or not name.endswith(".py") or not script.is_file():
        raise HostError(f"There is no {name} in {folder}. Name the folder of the app with --app-dir.")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location(script.stem, script)
    if spec is None or spec.loader is None:
        raise HostError(f"{script} cannot be imported.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[script.stem] = module
    try:
        spec.loader.exec_module(module)
    except SystemExit as error:
        raise HostError(f"{script} ended the process when it was imported: sys.exit({error.code!r}).") from None
    apps = [value for value in vars(module).values() if isinstance(value, func.FunctionRegister)]
    if len(apps) != 1:  # by its names, as Azure counts: one app that has two is refused there too
        found = "no FunctionApp or DFApp" if not apps else f"{len(apps)} names of apps, where one is expected"
        raise HostError(f"{script} holds {found} at its top level. Make it one: app = func.FunctionApp().")
    return apps[0]


def _object(file: Path, parent: dict[str, Any], name: str) -> dict[str, Any]:
    value = parent.get(name)
    if value is not None and not isinstance(value, dict):
        raise HostError(f"{file}: '{name}' must be an object.")
    return value or {}
