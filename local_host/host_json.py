"""``host.json``: the settings that this host honours, and a warning for each that it does not.

Names are compared without regard to case, and a setting in the environment wins over the file, as in the real host:
``AzureFunctionsJobHost__extensions__durableTask__hubName``. Sources: Microsoft, "host.json reference for Azure
Functions", "Durable Functions settings" and "Orchestration versioning in Durable Functions".
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb

from local_host.errors import HostError
from local_host.task_hub.dispatch import ACTIVITY, ENTITY, TURN
from local_host.task_hub.records import ENDED
from local_host.values import expand, time_span

ENVIRONMENT_PREFIX = "azurefunctionsjobhost__"
DEFAULT_ROUTE_PREFIX = "api"
DEFAULT_HUB_NAME = "TestHubName"
DEFAULT_SLOTS = {TURN: 64, ACTIVITY: 64, ENTITY: 64}
"""Things of each kind that are under way at once; how many run at once is for the threads to say."""

NONE, STRICT, CURRENT_OR_OLDER = "none", "strict", "currentorolder"
REJECT, FAIL = "reject", "fail"


@dataclass(frozen=True)
class HostSettings:
    """What ``host.json`` says.

    ``function_timeout`` is in seconds, None for ever; ``log_levels`` go by category, ``default`` among them. ``slots``
    are the things of each kind that are under way at once. ``version`` is what instances are started with that name
    none, and what those are compared with that are to run: ``version_match`` says how, ``version_failure`` what becomes
    of the others. ``any_state_overridable`` lets a start replace an instance that runs; one that has ended is always
    replaced. ``scheduler_variable`` names the environment variable with the scheduler's connection string.
    ``warnings`` are sentences on settings that this host does not honour.
    """

    route_prefix: str = DEFAULT_ROUTE_PREFIX
    hub_name: str = DEFAULT_HUB_NAME
    function_timeout: float | None = 30 * 60.0
    log_levels: Mapping[str, str] = field(default_factory=dict)
    slots: Mapping[str, int] = field(default_factory=lambda: DEFAULT_SLOTS)
    version: str = ""
    version_match: str = CURRENT_OR_OLDER
    version_failure: str = REJECT
    any_state_overridable: bool = False
    use_forwarded_host: bool = False
    scheduler_variable: str = "DURABLE_TASK_SCHEDULER_CONNECTION_STRING"
    warnings: tuple[str, ...] = ()

    @property
    def replaceable(self) -> list[Any]:
        """The ``OrchestrationStatus`` of instances whose ids a new instance may take."""
        return [*pb.OrchestrationStatus.values()] if self.any_state_overridable else sorted(ENDED)


def host_settings(file: Path, environment: Mapping[str, str]) -> HostSettings:
    """Read ``host.json``, where there is one, and what the environment says of it.

    Raises ``HostError`` for a file that is not JSON, and for a value that cannot be, with its place.
    """
    found: dict[str, Any] = {"levels": {}, "slots": {}}
    warnings = []
    for where, path, value in [*_leaves(str(file), (), read_json(file)), *_from_environment(environment)]:
        lower = tuple(part.lower() for part in path)
        name = ".".join(path)
        reader = _HONOURED.get(lower)
        try:
            if reader is not None and value is not None:
                reader(found, _expanded(value, environment))
            elif lower[:2] == ("logging", "loglevel") and len(path) > 2:
                # A category has dots of its own, which the environment writes as two underscores too.
                found["levels"][".".join(path[2:])] = _text(value)
            elif reader is None and not any(lower[: len(each)] == each for each in _WITHOUT_EFFECT):
                warnings.append(f"{where}: '{name}' is not honoured by this host.")
        except ValueError as error:
            raise HostError(f"{where}: '{name}' {error}.") from None
    levels, slots = found.pop("levels"), found.pop("slots")
    return replace(
        HostSettings(log_levels=levels, slots=DEFAULT_SLOTS | slots, warnings=tuple(warnings)),
        **found,
    )


_STRING = r'"(?:[^"\\]|\\.)*"'
_COMMENT = re.compile(rf"({_STRING})|//[^\r\n]*|/\*.*?\*/", re.DOTALL)
_TRAILING_COMMA = re.compile(rf"({_STRING})|,(?=\s*[}}\]])", re.DOTALL)


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object; an empty one where there is no such file.

    Comments and trailing commas are fine, as with .NET. Raises ``HostError`` for anything else.
    """
    if not file.is_file():
        return {}
    try:
        text = _COMMENT.sub(r"\1", file.read_text(encoding="utf-8-sig"))
        document = json.loads(_TRAILING_COMMA.sub(r"\1", text))
    except (ValueError, RecursionError) as error:
        raise HostError(f"{file} is not JSON: {error}") from None
    except OSError as error:
        raise HostError(f"{file} cannot be read: {error.strerror}.") from None
    if not isinstance(document, dict):
        raise HostError(f"{file} must hold a JSON object.")
    return document


def _leaves(where: str, path: tuple[str, ...], value: Any) -> Iterator[tuple[str, tuple[str, ...], Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(where, (*path, name), inner)
        return
    lower = tuple(part.lower() for part in path)
    if lower in _OBJECTS and value is not None:
        raise HostError(f"{where}: '{'.'.join(path)}' must be an object.")
    if path:
        yield where, path, value


def _from_environment(environment: Mapping[str, str]) -> Iterator[tuple[str, tuple[str, ...], str]]:
    for name, value in sorted(environment.items()):
        if name.lower().startswith(ENVIRONMENT_PREFIX):
            yield "The environment", tuple(name[len(ENVIRONMENT_PREFIX) :].split("__")), value


def _expanded(value: Any, environment: Mapping[str, str]) -> Any:
    try:
        return expand(value, environment) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError(f"cannot be put together: {error}") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a text")  # noqa: TRY004  # as for any other value that cannot be
    return value


def _hub_name(value: Any) -> str:
    if not _text(value):
        raise ValueError("must not be empty")
    return str(value)


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise ValueError("must be true or false")


def _count(value: Any) -> int:
    text = str(value)
    if isinstance(value, bool) or not re.fullmatch("[0-9]{1,9}", text) or int(text) < 1:
        raise ValueError("must be a whole number of at least 1")
    return int(text)


def _timeout(value: Any) -> float | None:
    if _text(value).strip() == "-1":
        return None
    try:
        timeout = time_span(value.strip()) / 1_000_000
    except ValueError as error:
        raise ValueError(f"must be a time like 00:05:00: {error}") from None
    if timeout <= 0:
        raise ValueError("must be more than nothing, or -1 for no limit")
    return timeout


def _one_of(*names: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if str(value).lower() not in [name.lower() for name in names]:
            raise ValueError(f"must be one of {', '.join(names)}")
        return str(value).lower()

    return read


def _into(name: str, read: Callable[[Any], Any]) -> Callable[[dict[str, Any], Any], None]:
    def take(found: dict[str, Any], value: Any) -> None:
        found[name] = read(value)

    return take


def _into_slots(kind: str) -> Callable[[dict[str, Any], Any], None]:
    def take(found: dict[str, Any], value: Any) -> None:
        found["slots"][kind] = _count(value)

    return take


_overridable = _one_of("NonRunningStates", "AnyState")
_DURABLE = ("extensions", "durabletask")
_HONOURED: dict[tuple[str, ...], Callable[[dict[str, Any], Any], None]] = {
    ("functiontimeout",): _into("function_timeout", _timeout),
    ("extensions", "http", "routeprefix"): _into("route_prefix", lambda value: _text(value).strip("/")),
    (*_DURABLE, "hubname"): _into("hub_name", _hub_name),
    (*_DURABLE, "maxconcurrentactivityfunctions"): _into_slots(ACTIVITY),
    (*_DURABLE, "maxconcurrentorchestratorfunctions"): _into_slots(TURN),
    (*_DURABLE, "maxconcurrententityfunctions"): _into_slots(ENTITY),
    (*_DURABLE, "defaultversion"): _into("version", _text),
    (*_DURABLE, "versionmatchstrategy"): _into("version_match", _one_of("None", "Strict", "CurrentOrOlder")),
    (*_DURABLE, "versionfailurestrategy"): _into("version_failure", _one_of("Reject", "Fail")),
    (*_DURABLE, "overridableexistinginstancestates"): _into(
        "any_state_overridable", lambda value: _overridable(value) == "anystate"
    ),
    (*_DURABLE, "httpsettings", "useforwardedhost"): _into("use_forwarded_host", _flag),
    (*_DURABLE, "storageprovider", "connectionstringname"): _into("scheduler_variable", _text),
}
_WITHOUT_EFFECT = [
    ("version",),
    ("extensionbundle",),
    ("logging", "applicationinsights"),
    ("logging", "filelogginglevel"),
    ("logging", "fileloggingmode"),
    ("telemetrymode",),
    ("watchfiles",),  # read by --watch
    ("watchdirectories",),
    ("aggregator",),
    ("healthmonitor",),
    (*_DURABLE, "storageprovider"),
    (*_DURABLE, "tracing"),
    (*_DURABLE, "usegraceperiod"),
    (*_DURABLE, "usegracefulshutdown"),
]
"""Settings of what this host does not have, or that change nothing that an app could see."""

_OBJECTS = {each[:length] for each in (*_HONOURED, ("logging", "loglevel", "x")) for length in range(1, len(each))}
