"""One request to the management API: what it goes to, what it carries, and how it is answered."""

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import durabletask.internal.orchestrator_service_pb2 as pb
from google.protobuf import wrappers_pb2
from starlette.requests import Request
from starlette.responses import Response

from local_host.http_trigger import read_body
from local_host.management.refusal import RequestRefused, refuse
from local_host.management.shapes import parse_json

MAX_BODY_BYTES = 1024 * 1024
CONTINUATION_HEADER = "x-ms-continuation-token"
START_RETRY_SECONDS = 10
STATUS_RETRY_SECONDS = 5
FINISHED = (
    pb.ORCHESTRATION_STATUS_COMPLETED,
    pb.ORCHESTRATION_STATUS_FAILED,
    pb.ORCHESTRATION_STATUS_CANCELED,
    pb.ORCHESTRATION_STATUS_TERMINATED,
)

RPC_TIMEOUT_SECONDS = 30.0
_TRACE_PARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-([0-9a-f]{16})-[0-9a-f]{2}")
_AUTHORITY = re.compile(r"[A-Za-z0-9.:\[\]-]+")
# What .NET knows without further packages, and the byte order mark that it skips in UTF-8.
_CHARSETS = {
    "utf-8": "utf-8-sig",
    "us-ascii": "ascii",
    "iso-8859-1": "latin-1",
    "utf-16": "utf-16",
    "utf-16le": "utf-16-le",
    "utf-16be": "utf-16-be",
    "utf-32": "utf-32",
}


@dataclass(frozen=True)
class Managed:
    """The task hub that is managed: a client of it, its name, and what the app has.

    ``overridable`` are the statuses of instances whose ids a new instance may take. With ``use_forwarded_host``, URLs
    in answers begin with what a proxy says that it was called by; ``code`` is the key that they carry.
    """

    # The generated stub is untyped, and its methods only exist on instances.
    stub: Any
    task_hub: str
    orchestrator_names: Collection[str]
    entity_names: Collection[str]
    overridable: Collection[pb.OrchestrationStatus]
    use_forwarded_host: bool
    code: str | None = field(repr=False)


@dataclass(frozen=True)
class Call:
    """One request, and its query with lower-case names and repeats comma joined."""

    request: Request
    hub: Managed
    query: Mapping[str, str]

    @property
    def origin(self) -> str:
        """Scheme and authority of the request."""
        headers = self.request.headers
        scheme, host = headers.get("x-forwarded-proto", ""), headers.get("x-forwarded-host", "")
        # Both or none, as with the extension.
        if self.hub.use_forwarded_host and scheme in ("http", "https") and _AUTHORITY.fullmatch(host):
            return f"{scheme}://{host}"
        # base_url, unlike url, does not choke on a query string that is not UTF-8.
        base = self.request.base_url
        return f"{base.scheme}://{base.netloc}"


async def rpc(method: Callable[..., Any], message: Any) -> Any:
    """Call the task hub, which has a limited time to answer."""
    return await method(message, timeout=RPC_TIMEOUT_SECONDS)


def string(text: str | None) -> wrappers_pb2.StringValue | None:
    """Wrap an optional text for protobuf."""
    return None if text is None else wrappers_pb2.StringValue(value=text)


def answer_json(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Answer with JSON."""
    # ASCII only, because a payload may hold lone surrogates, which UTF-8 cannot carry.
    return Response(json.dumps(body, allow_nan=False), status, headers, media_type="application/json; charset=utf-8")


def poll_headers(location: str, seconds: int) -> dict[str, str]:
    """Give the headers that tell a client where to look again, and when."""
    return {"Location": location, "Retry-After": str(seconds)}


async def state_of(call: Call, instance_id: str, *, payloads: bool = False) -> pb.OrchestrationState:
    """Return the state of an instance; 404 without a body when there is none."""
    found = await rpc(
        call.hub.stub.GetInstance, pb.GetInstanceRequest(instanceId=instance_id, getInputsAndOutputs=payloads)
    )
    if not found.exists:
        raise RequestRefused(404)
    state: pb.OrchestrationState = found.orchestrationState
    return state


async def body_of(request: Request) -> bytes:
    """Read the body of a request; 413 as soon as it is too long."""
    body = await read_body(request, MAX_BODY_BYTES)
    if body is None:
        refuse(413, f"The request body exceeds {MAX_BODY_BYTES} bytes.")
    return body


def is_json(request: Request) -> bool:
    """Whether the body says that it is JSON."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


def decoded(request: Request, body: bytes, errors: str = "strict") -> str:
    """Decode a body by the charset of its content type, UTF-8 without one; 415 for one that is not known.

    Raises ``UnicodeDecodeError`` for bytes that are not in the charset, unless ``errors`` says otherwise.
    """
    charset = _charset(request.headers.get("content-type", ""))
    if charset not in _CHARSETS:
        refuse(415, f"The charset of the request body is not known. Known: {', '.join(_CHARSETS)}.")
    return body.decode(_CHARSETS[charset], errors)


def _charset(content_type: str) -> str:
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return value.strip().strip('"').lower()
    return "utf-8"


def json_text(request: Request, body: bytes) -> str:
    """Return the body's JSON text unchanged; 400 for anything else."""
    try:
        text = decoded(request, body)
        parse_json(text)
    except ValueError:
        refuse(400, "The request body is not valid JSON.")
    return text


def trace_context(request: Request) -> pb.TraceContext | None:
    """Return the W3C trace context that a request belongs to, for what it starts; None without a valid one."""
    parent = request.headers.get("traceparent", "")
    valid = _TRACE_PARENT.fullmatch(parent)
    if valid is None:
        return None
    return pb.TraceContext(
        traceParent=parent, spanID=valid[1], traceState=string(request.headers.get("tracestate") or None)
    )
