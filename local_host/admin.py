"""The host's own pages: ``/`` and ``/admin``, in the shapes of the real host.

Source: Azure/azure-functions-host, ``HostController``, ``FunctionsController``, ``FunctionMetadataResponse``,
``HostStatus``, ``FunctionStatus`` and ``HomepageMiddleware``. What else it serves (keys, files, drain, restart) is 404.
"""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from enum import Enum
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from local_host.app_loader import App
from local_host.functions import TIMER_TRIGGER, Function, NotRun
from local_host.http_trigger import read_body, respond
from local_host.keys import ADMIN, ANONYMOUS, Keys, permitted, unauthorized

PREFIX = "/admin"
MAX_BODY = 1024 * 1024
NO_HOMEPAGE_VARIABLE = "AzureWebJobsDisableHomepage"
MAX_RUNS = 100
"""Functions that were started here and have not ended; more are not started."""

_LOGGER = logging.getLogger("local_host")
_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>The app is running</title></head>
<body><h1>The app is running</h1><p>The routes of its functions stand in the output of the host.</p></body>
</html>
"""


def homepage(environment: Mapping[str, str]) -> Response:
    """Return the page at ``/``, or 204 where an app setting disables it."""
    if environment.get(NO_HOMEPAGE_VARIABLE, "").lower() == "true":
        return Response(status_code=204)
    return HTMLResponse(_PAGE, headers={"Content-Security-Policy": "default-src 'none'"})


class Admin:
    """An ASGI app for ``/admin``: what the host and its functions are, and running a timer function now.

    ``run`` runs a timer function by its name. With ``keys``, all but ``ping`` needs the master key.
    """

    def __init__(self, app: App, run: Callable[[str], Awaitable[None]], keys: Keys | None = None) -> None:
        self._app = app
        self._run = run
        self._keys = keys
        self._started = time.monotonic()
        functions: list[Function | NotRun] = [*app.functions, *app.not_run]
        self._functions = {each.name.lower(): each for each in functions}
        self._runs: set[asyncio.Task[None]] = set()

    async def drain(self) -> None:
        """Wait for the functions that were started here. Cancelled, it cancels them."""
        await asyncio.gather(*self._runs)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await respond(self._answer, scope, receive, send)

    async def _answer(self, request: Request) -> Response:  # noqa: PLR0911  # a row a route
        path = str(request.scope["path"])[len(PREFIX) :].lower().strip("/").split("/")
        found = self._functions.get(path[1]) if len(path) > 1 and path[0] == "functions" else None
        match path:
            case ["host", "ping"]:
                return self._refusal(request, "GET", "POST", level=ANONYMOUS) or _pong()
            case ["host", "status"]:
                return self._refusal(request, "GET") or _json(self._host_status())
            case ["functions"]:
                return self._refusal(request, "GET") or _json(
                    [self._described(each, request) for each in self._functions.values()]
                )
            case ["functions", _]:
                refusal = self._refusal(request, "GET", "POST")
                if refusal is None and request.method == "POST":
                    return await self._start(request, found)
                return refusal or (
                    Response(status_code=404) if found is None else _json(self._described(found, request))
                )
            case ["functions", _, "status"]:
                refusal = self._refusal(request, "GET")
                return refusal or (Response(status_code=404) if found is None else _json(_errors(found)))
        return Response(status_code=404)

    def _refusal(self, request: Request, *methods: str, level: str = ADMIN) -> Response | None:
        if request.method not in methods:
            return Response(status_code=405, headers={"Allow": ", ".join(methods)})
        return None if permitted(self._keys, level, request.scope) else unauthorized()

    def _host_status(self) -> dict[str, Any]:
        return {
            "id": self._app.folder.name.lower(),
            "state": "Running",
            "version": "4.0.0.0",  # of the programming model
            "versionDetails": "4.0.0 (local_host)",
            "processUptime": int((time.monotonic() - self._started) * 1000),
        }

    def _described(self, function: Function | NotRun, request: Request) -> dict[str, Any]:
        """Describe a function as ``FunctionMetadataResponse`` does; one that is not run says why in ``errors``."""
        origin = f"{request.scope['scheme']}://{request.headers['host']}"
        config: dict[str, Any] = {
            "name": function.name,
            "scriptFile": self._app.script,
            "language": "python",
            "functionDirectory": str(self._app.folder),
            "bindings": [{"type": function.trigger_type}],
        }
        url = None
        if isinstance(function, Function):
            config |= {
                "entryPoint": function.call.__name__,
                "functionDirectory": function.directory,
                "bindings": function.bindings,
            }
            url = self._url_template(origin, function.route)
        return {
            "name": function.name,
            "script_root_path_href": None,
            "script_href": None,
            "config_href": None,
            "test_data_href": None,
            "href": f"{origin}{PREFIX}/functions/{quote(function.name)}",
            "invoke_url_template": url,
            "language": "python",
            "config": config,
            "files": None,
            "test_data": None,
            "isDisabled": isinstance(function, NotRun) and function.disabled,
            "isDirect": False,
            "isProxy": False,
            **_errors(function),
        }

    def _url_template(self, origin: str, route: str | None) -> str | None:
        if route is None:
            return None
        parts = [origin, self._app.settings.route_prefix, route.strip("/")]
        return "/".join(part for part in parts if part).lower()

    async def _start(self, request: Request, function: Function | NotRun | None) -> Response:
        """Start a timer function and do not wait for it. Others are accepted and fail in the log, as on Azure."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return PlainTextResponse("Send JSON with the header Content-Type: application/json, {} will do.", 415)
        body = await read_body(request, MAX_BODY)
        if body is None:
            return PlainTextResponse("Payload Too Large", 413)
        if not _is_json_object(body):
            return PlainTextResponse("The body must be a JSON object; {} will do.", 400)
        if not isinstance(function, Function):
            return Response(status_code=404)
        if function.trigger_type != TIMER_TRIGGER:
            _LOGGER.warning("%s was not run: only timer functions can be run from %s", function.name, PREFIX)
        elif len(self._runs) >= MAX_RUNS:
            return PlainTextResponse("Too many functions that were started here have not ended.", 429)
        else:
            task = asyncio.create_task(self._run_logged(function.name))
            self._runs.add(task)
            task.add_done_callback(self._runs.discard)
        return Response(status_code=202)

    async def _run_logged(self, name: str) -> None:
        try:
            await self._run(name)
        except Exception:
            _LOGGER.exception("%s failed, which was run from %s", name, PREFIX)


def _is_json_object(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body), dict)
    except (ValueError, RecursionError):
        return False


def _errors(function: Function | NotRun) -> dict[str, Any]:
    return {} if isinstance(function, Function) or function.disabled else {"errors": [function.reason]}


def _pong() -> Response:
    return Response(headers={"Cache-Control": "no-store"})


def _json(body: object) -> Response:
    return Response(json.dumps(body, default=_plain), media_type="application/json")


def _plain(value: Any) -> str:
    """Show what a binding may hold besides JSON: the SDK's enums go by name, as to the real host."""
    return value.name if isinstance(value, Enum) else str(value)
