"""HTTP functions of every shape: what comes in is shown, what goes out is odd."""

import asyncio
import base64
import contextvars
import json
import threading
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import azure.functions as func

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)

_released = threading.Event()
_seen: contextvars.ContextVar[str] = contextvars.ContextVar("seen", default="nobody")


def shown(req: func.HttpRequest, function: str) -> func.HttpResponse:
    """Answer with all that a request holds."""
    return func.HttpResponse(
        json.dumps(
            {
                "function": function,
                "method": req.method,
                "url": req.url,
                "headers": dict(req.headers),
                "params": dict(req.params),
                "route_params": dict(req.route_params),
                "body": base64.b64encode(req.get_body()).decode("ascii"),
            }
        ),
        mimetype="application/json",
    )


@app.route(route="echo/{*rest}")
def echo(req: func.HttpRequest) -> func.HttpResponse:
    return shown(req, "echo")


@app.route()
async def unrouted(req: func.HttpRequest) -> func.HttpResponse:
    return shown(req, "unrouted")


@app.function_name("RenamedFunction")
@app.route(methods=["GET"])
def renamed(req: func.HttpRequest) -> func.HttpResponse:
    return shown(req, "renamed")


@app.route(route="things/{id:int}", methods=["GET", "HEAD"])
def get_thing(req: func.HttpRequest) -> func.HttpResponse:
    return shown(req, "get_thing")


@app.route(route="things/{id:int}", methods=[func.HttpMethod.PUT])
async def put_thing(req: func.HttpRequest) -> func.HttpResponse:
    return shown(req, "put_thing")


@app.route(route="things/{id:int}", methods=["delete"])
def delete_thing(req: func.HttpRequest) -> func.HttpResponse:
    return shown(req, "delete_thing")


@app.route(route="things/{name}")
def named_thing(req: func.HttpRequest) -> func.HttpResponse:
    return shown(req, "named_thing")


@app.route(route="other-name", trigger_arg_name="request")
def other_name(request: func.HttpRequest) -> str:
    return str(request.method)


@app.route(route="json")
def as_json(req: func.HttpRequest) -> str:
    try:
        return f"got {req.get_json()!r}"
    except ValueError:
        return "not JSON"


@app.route(route="form")
def form(req: func.HttpRequest) -> str:
    return json.dumps({"form": dict(req.form), "files": {name: file.filename for name, file in req.files.items()}})


@app.route(route="out/{kind}")
def out(req: func.HttpRequest):  # type: ignore[no-untyped-def]  # gives anything
    return RESULTS[req.route_params["kind"]]()


def _with_cookies() -> func.HttpResponse:
    response = func.HttpResponse("sweet")
    response.headers.add("Set-Cookie", "a=1; Path=/; HttpOnly; SameSite=Strict")
    response.headers.add("Set-Cookie", "b=2; Max-Age=60; Secure")
    return response


def _with_status(status: Any) -> func.HttpResponse:
    return func.HttpResponse("must not be sent", status_code=status)


RESULTS: dict[str, Callable[[], Any]] = {
    "plain": lambda: func.HttpResponse("grün"),
    "latin": lambda: func.HttpResponse("grün", charset="latin-1"),
    "teapot": lambda: func.HttpResponse(
        b"\x00\xff", status_code=418, mimetype="image/png", headers={"X-One": "1", "Content-Length": "99"}
    ),
    "typed": lambda: func.HttpResponse("<a/>", headers={"Content-Type": "application/xml; charset=utf-8"}),
    "cookies": _with_cookies,
    "enum": lambda: func.HttpResponse("made", status_code=HTTPStatus.CREATED),
    "status-599": lambda: func.HttpResponse("odd", status_code=599),
    "text": lambda: "grün",
    "none": lambda: None,
    "number": lambda: 7,
    "bytes": lambda: b"secret bytes",
    "list": lambda: ["secret", "list"],
    "tuple": lambda: ("secret", 200),
    "bodied-204": lambda: _with_status(204),
    "bodied-304": lambda: _with_status(304),
    "status-99": lambda: _with_status(99),
    "status-101": lambda: _with_status(101),
    "status-1000": lambda: _with_status(1000),
    "status-text": lambda: _with_status("two hundred"),
    "header-name": lambda: func.HttpResponse("odd", headers={"Bad Name\r\nX-Evil": "1"}),
    "header-value": lambda: func.HttpResponse("odd", headers={"X-City": "Łódź"}),
}


@app.route(route="raise/{kind}")
def raises(req: func.HttpRequest) -> str:
    if req.route_params["kind"] == "stop-iteration":
        nothing: list[str] = []
        return next(iter(nothing))
    raise EXCEPTIONS[req.route_params["kind"]]


EXCEPTIONS: dict[str, BaseException] = {
    "value": ValueError("the password is swordfish"),
    "empty": RuntimeError(),
    "not-implemented": NotImplementedError("the password is swordfish"),
    "exit": SystemExit("the password is swordfish"),
    "interrupt": KeyboardInterrupt(),
}


@app.route(route="raise-async/{kind}")
async def raises_async(req: func.HttpRequest) -> str:
    await asyncio.sleep(0)
    if req.route_params["kind"] == "exit":
        raise SystemExit("the password is swordfish")
    if req.route_params["kind"] == "cancelled":
        raise asyncio.CancelledError
    raise LookupError("the password is swordfish")


@app.route(route="block")
def block(req: func.HttpRequest) -> str:
    return "released" if _released.wait(10) else "nobody came"


@app.route(route="release")
def release(req: func.HttpRequest) -> str:
    _released.set()
    return "done"


@app.route(route="context")
def with_context(req: func.HttpRequest, context: func.Context) -> str:
    return _context(context)


@app.route(route="context-async")
async def with_context_async(req: func.HttpRequest, context: func.Context) -> str:
    return _context(context)


def _context(context: func.Context) -> str:
    return json.dumps(
        {
            "invocation_id": context.invocation_id,
            "function_name": context.function_name,
            "function_directory": context.function_directory,
            "trace_parent": context.trace_context.trace_parent,
        }
    )


@app.route(route="seen/{who}")
def seen(req: func.HttpRequest) -> str:
    before = _seen.get()
    _seen.set(req.route_params["who"])
    return before


@app.route(route="seen-async/{who}")
async def seen_async(req: func.HttpRequest) -> str:
    before = _seen.get()
    _seen.set(req.route_params["who"])
    await asyncio.sleep(0)
    return f"{before},{_seen.get()}"
