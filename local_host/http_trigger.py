"""HTTP triggers: a request to ``func.HttpRequest``, and what the function returns to a response."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import h11
from azure.functions import http as sdk
from azure.functions.meta import Datum
from starlette.datastructures import MultiDict
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from local_host.errors import HostError
from local_host.functions import Function
from local_host.invocation import InvocationError, Invoker
from local_host.keys import Keys, permitted, unauthorized
from local_host.routing import Template, compile_template

MAX_BODY = 100 * 1024 * 1024
"""Bytes of a request's body that the host takes, as Azure's host does."""

MAX_HELD = 1024 * 1024 * 1024
"""Bytes of all the bodies that are held at once; a request that brings more is turned away for now."""

BODY_LIMIT_VARIABLE = "FUNCTIONS_REQUEST_BODY_SIZE_LIMIT"
"""The app setting that takes the place of ``MAX_BODY``."""

_LOGGER = logging.getLogger("local_host")


@dataclass(frozen=True)
class Endpoint:
    """An HTTP function and the route that leads to it; no methods means every method."""

    function: Function
    template: Template

    def takes(self, method: str) -> bool:
        """Whether the function takes requests of this method."""
        return not self.function.methods or method in self.function.methods


def endpoints_of(functions: Iterable[Function], route_prefix: str) -> list[Endpoint]:
    """Compile the routes of the HTTP functions, in the order in which they are tried."""
    endpoints = [
        Endpoint(function, compile_template(f"{route_prefix}/{function.route.lstrip('/')}"))
        for function in functions
        if function.route is not None
    ]
    return sorted(endpoints, key=lambda endpoint: endpoint.template.precedence)


def body_limit(environment: Mapping[str, str]) -> int:
    """Return how many bytes the body of a request may have. Raises ``HostError`` for a setting that is no number."""
    text = environment.get(BODY_LIMIT_VARIABLE, str(MAX_BODY))
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise HostError(f"The app setting {BODY_LIMIT_VARIABLE} must be a number of bytes, not '{text}'.")
    return int(text)


class HttpTriggers:
    """An ASGI app that serves the HTTP functions. With ``keys``, each asks for the key of its ``authLevel``."""

    def __init__(
        self,
        endpoints: list[Endpoint],
        invoker: Invoker,
        keys: Keys | None = None,
        max_body: int = MAX_BODY,
        max_held: int = MAX_HELD,
    ) -> None:
        self._endpoints = endpoints
        self._invoker = invoker
        self._keys = keys
        self._max_body = max_body
        self._max_held = max_held
        self._held = 0

    def takes(self, scope: Scope) -> bool:
        """Whether a function takes a request."""
        return self._find(Request(scope)) is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await respond(self._answer, scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        found = self._find(request)
        if found is None:
            return PlainTextResponse("Not Found", 404)
        function, route_params = found
        if not permitted(self._keys, function.auth_level, request.scope):
            return unauthorized()
        try:
            with self._room() as take:
                body = await read_body(request, self._max_body, take)
                if body is None:
                    return PlainTextResponse("Payload Too Large", 413)
                return await self._call(function, to_sdk_request(request, route_params, body), request)
        except _NoRoom:
            return PlainTextResponse("Too much is sent at once. Try again later.", 503, headers={"Retry-After": "5"})

    @contextmanager
    def _room(self) -> Iterator[Callable[[int], None]]:
        """Hold the bytes of a body until its function has returned."""
        taken = 0

        def take(size: int) -> None:
            nonlocal taken
            if self._held + size > self._max_held:
                raise _NoRoom
            taken += size
            self._held += size

        try:
            yield take
        finally:
            self._held -= taken

    async def _call(self, function: Function, given: Any, request: Request) -> Response:
        try:
            result = await self._invoker.invoke(function, given, request.headers)
            return to_response(result)
        except InvocationError as error:
            return PlainTextResponse(str(error), 500)
        except Exception:
            _LOGGER.exception("What %s returned is no HTTP response", function.name)
            return PlainTextResponse(f"What the function '{function.name}' returned is no HTTP response.", 500)

    def _find(self, request: Request) -> tuple[Function, dict[str, str]] | None:
        raw_path = request.scope.get("raw_path", b"").split(b"?", 1)[0].decode("latin-1")
        for endpoint in self._endpoints:
            if endpoint.takes(request.method):
                params = endpoint.template.match(raw_path)
                if params is not None:
                    return endpoint.function, params
        return None


async def respond(answer: Callable[[Request], Awaitable[Response]], scope: Scope, receive: Receive, send: Send) -> None:
    """Send what ``answer`` gives for a request, unless its client has gone."""
    try:
        response = await answer(Request(scope, receive))
    except ClientDisconnect:
        return
    except asyncio.CancelledError:  # the host stops, and the grace is over
        response = PlainTextResponse("The host is stopping.", 503)
    await response(scope, receive, send)


class _NoRoom(Exception):
    """So much is held already that a body has no room."""


async def read_body(request: Request, limit: int, take: Callable[[int], None] = lambda _size: None) -> bytes | None:
    """Read a body of up to ``limit`` bytes; None when there is more, of which nothing is kept.

    ``take`` is told of the bytes as they come, and may raise to have no more of them.
    """
    declared = request.headers.get("content-length", "")
    # int() refuses thousands of digits.
    if declared.isdecimal() and (len(declared) > 20 or int(declared) > limit):
        return None
    body = bytearray()
    async for chunk in request.stream():
        take(len(chunk))
        body += chunk
        if len(body) > limit:
            return None
    return bytes(body)


def to_sdk_request(request: Request, route_params: Mapping[str, str], body: bytes) -> Any:
    """Build what the function gets, by the SDK's own converter. Repeated headers and keys are joined by commas."""
    datum = Datum(
        type="http",
        value={
            "method": _text(request.method),
            "url": _text(_url(request)),
            "headers": _texts(request.headers.items()),
            "query": _texts(request.query_params.multi_items()),
            "params": _texts(route_params.items()),
            "body": Datum(type="bytes", value=body),
        },
    )
    return sdk.HttpRequestConverter.decode(datum, trigger_metadata={})


def to_response(result: Any) -> Response:
    """Build the response from what the function returned, by the SDK's own converter; None is 204.

    Raises ``NotImplementedError`` for anything but a ``func.HttpResponse``, a ``str`` or None, and other exceptions
    for a status or a header that HTTP cannot carry.
    """
    if result is None:
        return Response(status_code=204)
    datum = sdk.HttpResponseConverter.encode(result, expected_type=None)
    if datum.type == "string":
        return PlainTextResponse(datum.value)
    value = datum.value
    status = int(value["status_code"].value)
    response = Response(b"" if status in (204, 304) else value["body"].value, status)  # these have no body by HTTP
    for name, header in value["headers"].items():
        if name.lower() not in ("content-length", "transfer-encoding"):
            response.headers[name] = header.value
    for cookie in value["cookies"] or ():
        for morsel in cookie.values():
            response.headers.append("set-cookie", morsel.OutputString())
    # Not every server looks, and one that does finds it out when it is too late to answer.
    h11.Response(status_code=response.status_code, headers=response.raw_headers)
    return response


def _url(request: Request) -> str:
    """Return the URL as it was called; Starlette's own has the path decoded, which makes it another one."""
    path, query = request.scope["raw_path"], request.scope["query_string"]
    target = path + b"?" + query if query else path
    return f"{request.scope['scheme']}://{request.headers['host']}{target.decode('latin-1')}"


def _text(value: str) -> Datum:
    return Datum(type="string", value=value)


def _texts(items: Iterable[tuple[str, str]]) -> dict[str, Datum]:
    grouped = MultiDict(list(items))
    return {name: _text(",".join(grouped.getlist(name))) for name in grouped}
