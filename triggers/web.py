"""HTTP for all triggers: reading a request, answering it, and answering errors."""

import json
import logging
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any
from urllib.parse import parse_qsl
from uuid import uuid4

import azure.functions as func
import grpc
from pydantic import TypeAdapter, ValidationError

from contracts.base import Contract, DecisionId, InstanceId
from errors import (
    BadRequest,
    CountersignError,
    Forbidden,
    HubUnavailable,
    PayloadTooLarge,
    RecordsUnavailable,
    Unprocessable,
)
from services.identity import Permission, calling, current_caller
from services.record_store import RecordStoreError
from triggers.admission import admit, challenge

MAX_BODY = 256 * 1024
"""Bytes of a body that are taken; more is 413."""

MAX_ANY_ID = 1000
"""Characters that an id has at most which was not given by this app."""

_LOGGER = logging.getLogger(__name__)
_INSTANCE_ID: TypeAdapter[str] = TypeAdapter(InstanceId)
_DECISION_ID: TypeAdapter[str] = TypeAdapter(DecisionId)

type Trigger = Callable[..., Awaitable[func.HttpResponse]]


def answers_errors(trigger: Trigger, permission: Permission | None) -> Trigger:
    """Make a trigger answer every error as RFC 9457 problem details, and let no traceback out.

    Before it sees a request, who sends it is held against ``permission`` (None: it is open to all), and what changes
    something and comes from a browser for another site is refused. In the trigger, ``current_caller()`` gives the
    caller. What is not a ``CountersignError`` is logged whole and answered with 500 and a sentence.
    """

    @wraps(trigger)
    async def answering(req: func.HttpRequest, client: Any) -> func.HttpResponse:
        try:
            caller = await admit(req, permission)
            refuse_cross_site(req)
            with calling(caller):
                return await trigger(req, client)
        except CountersignError as error:
            return problem(error, challenge(req, error))
        except grpc.RpcError as error:
            _LOGGER.exception("The task hub failed in %s", trigger.__name__)
            unavailable = getattr(error, "code", lambda: None)() == grpc.StatusCode.UNAVAILABLE
            sentence = "The task hub does not answer. Try again in a moment."
            return problem(HubUnavailable(sentence) if unavailable else _internal())
        except RecordStoreError:
            _LOGGER.exception("The record store failed in %s", trigger.__name__)
            return problem(RecordsUnavailable("The records cannot be reached. Try again in a moment."))
        except Exception:
            _LOGGER.exception("Unexpected error in %s", trigger.__name__)
            return problem(_internal())

    return answering


def _internal() -> CountersignError:
    return CountersignError("Something went wrong on our side; the log of the app has the details.")


def refuse_cross_site(req: func.HttpRequest) -> None:
    """Refuse what a browser sends on behalf of another site; programs do not send the header.

    ``Sec-Fetch-Site`` cannot be set by a page's script (Fetch Metadata, W3C). Raises ``Forbidden``.
    """
    if req.method not in ("GET", "HEAD", "OPTIONS"):
        _refuse_other_sites(req)


def refuse_to_be_embedded(req: func.HttpRequest) -> None:
    """Refuse a GET that changes something where a browser sends it for another site, or ahead of time.

    Some calls that others wrote down do change something by GET. Raises ``Forbidden``.
    """
    _refuse_other_sites(req)
    if "prefetch" in req.headers.get("sec-purpose", "").lower():
        raise Forbidden("A browser asked for this ahead of time; nobody has opened it yet.")


def _refuse_other_sites(req: func.HttpRequest) -> None:
    if req.headers.get("sec-fetch-site", "none").lower() not in ("none", "same-origin"):
        raise Forbidden("This request came from a page of another site.")


def read_body[Body: Contract](req: func.HttpRequest, contract: type[Body], said_by: str | None = None) -> Body:
    """Read the JSON body as ``contract``, whatever its content type says.

    ``said_by`` is the field of a body that names who says this, such as ``approver``: where the body leaves it out, it
    is the caller, so that nobody has to repeat who he is. What is named is not looked at here: ``speak_as`` does that.
    Raises ``PayloadTooLarge``, ``BadRequest`` (not JSON) or ``Unprocessable`` (names each bad field).
    """
    body = req.get_body()
    if len(body) > MAX_BODY:
        raise PayloadTooLarge(f"The body has {len(body):,} bytes; at most {MAX_BODY:,} are taken.")
    caller = current_caller()
    if said_by is not None and caller is not None:
        body = _with_default(body, said_by, caller.name)
    try:
        return contract.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
    if found[0]["type"] == "json_invalid":
        raise BadRequest(f"The body is not JSON: {found[0]['msg']}.")
    fields = [{"field": ".".join(map(str, one["loc"])) or "(body)", "message": one["msg"]} for one in found[:20]]
    names = ", ".join(dict.fromkeys(one["field"][:60] for one in fields))
    raise Unprocessable(f"The body is not valid: {names}.", errors=fields)


def _with_default(body: bytes, field: str, value: str) -> bytes:
    """Put a field before all others of a JSON object, of which the last one counts that has its name.

    It is not read and written anew, which could make another number of one that is written in many digits.
    """
    rest = body.lstrip(b" \t\r\n")
    if not rest.startswith(b"{"):
        return body
    comma = b"" if rest[1:].lstrip(b" \t\r\n").startswith(b"}") else b","
    return b"{%s:%s%s%s" % (json.dumps(field).encode(), json.dumps(value).encode(), comma, rest[1:])


def check(look: Callable[[Any], None], field: str, value: Any | None) -> None:
    """Raise ``Unprocessable``, with the name of the field, for what a contract cannot check."""
    if value is None:
        return
    try:
        look(value)
    except ValueError as error:
        errors = [{"field": field, "message": str(error)}]
        raise Unprocessable(f"The body is not valid: {field}.", errors=errors) from None


def read_query[Query: Contract](req: func.HttpRequest, contract: type[Query]) -> Query:
    """Read the parameters of the address as ``contract``; empty ones count as left out.

    Raises ``BadRequest`` naming the parameter that is wrong, or unknown: one that is misspelt and passed over would
    show what was not asked for. The function key may stand there too.
    """
    return _read_given(dict(req.params), contract)


def read_parameters[Query: Contract](req: func.HttpRequest, contract: type[Query]) -> Query:
    """Read the parameters as ``contract``: those of the address and, in a POST, those of a form in the body.

    What is personal does not stand in logs of addresses when it comes in a body. Raises what ``read_query`` raises, and
    ``PayloadTooLarge``; ``BadRequest`` also for one that is given twice.
    """
    given = dict(req.params)
    body = req.get_body() if req.method == "POST" else b""
    if len(body) > MAX_BODY:
        raise PayloadTooLarge(f"The body has {len(body):,} bytes; at most {MAX_BODY:,} are taken.")
    kind = req.headers.get("content-type", "").partition(";")[0].strip().lower()
    if body and kind != "application/x-www-form-urlencoded":
        raise BadRequest("The body is no form. Send application/x-www-form-urlencoded, or parameters in the address.")
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=100)
    except ValueError:
        raise BadRequest("The form in the body cannot be read.") from None
    for name, value in pairs:
        if name in given:
            raise BadRequest(f"The parameter '{name[:60]}' is given twice.")
        given[name] = value
    return _read_given(given, contract)


def _read_given[Query: Contract](params: dict[str, str], contract: type[Query]) -> Query:
    given = {name: value for name, value in params.items() if value and name not in ("code", "clientId")}
    try:
        return contract.model_validate_strings(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    name = str(first["loc"][0])[:60] if first["loc"] else "?"
    if first["type"] == "extra_forbidden":
        known = ", ".join(field.alias or name for name, field in contract.model_fields.items())
        raise BadRequest(f"There is no parameter '{name}' here; there are {known}.")
    raise BadRequest(f"The parameter '{name}' is wrong: {first['msg']}.")


def instance_id_of(req: func.HttpRequest, parameter: str) -> str:
    """Return the instance id in the route. Raises ``BadRequest`` when it cannot be one."""
    try:
        return _INSTANCE_ID.validate_python(req.route_params.get(parameter, ""))
    except ValidationError:
        raise BadRequest(
            f"The {parameter} in the address has 1 to 100 letters, digits and any of - _ . : and nothing else."
        ) from None


def any_instance_id_of(req: func.HttpRequest, parameter: str) -> str:
    """Return the instance id in the route, which may be any text: what was started elsewhere has records too.

    Raises ``BadRequest`` when no instance can have it.
    """
    given: str = req.route_params.get(parameter, "")
    if not 1 <= len(given) <= MAX_ANY_ID:
        raise BadRequest(f"The {parameter} in the address has 1 to {MAX_ANY_ID:,} characters.")
    return given


def decision_id_of(req: func.HttpRequest, in_body: str | None) -> str:
    """Return the ``Idempotency-Key`` header, else the body's ``decision_id``, else a new id.

    Raises ``BadRequest`` when the header cannot be one.
    """
    return idempotency_key_of(req, in_body) or uuid4().hex


def idempotency_key_of(req: func.HttpRequest, in_body: str | None) -> str | None:
    """Return the ``Idempotency-Key`` header, else what the body has for it. Raises ``BadRequest``."""
    given = req.headers.get("idempotency-key")
    if given is None:
        return in_body
    try:
        return _DECISION_ID.validate_python(given)
    except ValidationError:
        raise BadRequest("The header Idempotency-Key has 1 to 128 printable ASCII characters, no spaces.") from None


def answer(body: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> func.HttpResponse:
    """Answer with a JSON object that no cache keeps."""
    return _json(body, status, "application/json", headers or {})


def answer_text(text: str, status: int = 200) -> func.HttpResponse:
    """Answer with plain text that no cache keeps."""
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    body = text.encode(errors="replace")
    return func.HttpResponse(body, status_code=status, mimetype="text/plain", charset="utf-8", headers=headers)


def problem(error: CountersignError, headers: dict[str, str] | None = None) -> func.HttpResponse:
    """Answer with the problem details (RFC 9457) of an error."""
    document = {
        "type": f"urn:countersign:problem:{error.slug}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        **error.members,
    }
    after = error.members.get("retry_after")
    later = {"Retry-After": str(after)} if after is not None else {}
    return _json(document, error.status, "application/problem+json", later | (headers or {}))


def _json(document: dict[str, Any], status: int, mimetype: str, headers: dict[str, str]) -> func.HttpResponse:
    try:
        body = json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half a surrogate pair, which only an escape can stand for
        body = json.dumps(document).encode()
    always = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return func.HttpResponse(body, status_code=status, mimetype=mimetype, headers=always | headers)
