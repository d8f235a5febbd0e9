"""Reading query strings: flags, numbers, times, statuses; and pages with their continuation tokens.

Where a query is looked up by name, its own names are in lower case.
"""

import base64
import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import durabletask.internal.orchestrator_service_pb2 as pb
from google.protobuf import timestamp_pb2
from starlette.responses import Response

from local_host.management.call import CONTINUATION_HEADER, Call, answer_json
from local_host.management.refusal import refuse
from local_host.management.shapes import STATUS_NAMES

_STATUS_BY_NAME = {name: status for status, name in STATUS_NAMES.items()}
_DEFAULT_PAGE_SIZE = 100
_MAX_INT32 = 2**31 - 1
_SHORT_YEAR = re.compile(r"[0-9]{1,3}(?=-)")


def continuation(call: Call, kind: str) -> str | None:
    """Unwrap the hub's token from the request's ``x-ms-continuation-token``, which :func:`page` made for that kind.

    Raises:
        RequestRefused: 400, the token is not one of ours.
    """
    header = call.request.headers.get(CONTINUATION_HEADER, "").strip()
    if not header:
        return None
    try:
        made_for, token = json.loads(base64.b64decode(header, validate=True))
        # No half of a character, which JSON can name and protobuf cannot carry.
        valid = made_for == kind and bool(token.encode())
    except (ValueError, TypeError, AttributeError, RecursionError):
        valid = False
    if not valid:
        refuse(400, "The continuation token is not valid.")
    return str(token)


def page(kind: str, items: list[dict[str, Any]], found: Any) -> Response:
    """Answer with a page; the header is there without a token too, and empty then, as with the extension."""
    token = found.continuationToken.value
    wrapped = base64.b64encode(json.dumps([kind, token]).encode()).decode() if token else ""
    return answer_json(items, 200, {CONTINUATION_HEADER: wrapped})


def query_text(query: Mapping[str, str], name: str) -> str | None:
    """Return a query parameter by its lower-case name; blank counts as absent."""
    text = query.get(name.lower(), "").strip()
    return text or None


def query_flag(query: Mapping[str, str], name: str, *, default: bool = False) -> bool:
    """Read ``true`` or ``false`` in any case; as in the extension, anything else means the default."""
    return {"true": True, "false": False}.get((query_text(query, name) or "").lower(), default)


def query_page_size(query: Mapping[str, str]) -> int:
    """Read ``top``, a page size of 1 to 2**31-1; 100 when it is not given.

    Raises:
        RequestRefused: 400, it is not such a number.
    """
    text = query_text(query, "top")
    if text is None:
        return _DEFAULT_PAGE_SIZE
    if not re.fullmatch(r"[0-9]{1,10}", text) or not 1 <= int(text) <= _MAX_INT32:
        refuse(400, "'top' must be a positive integer.")
    return int(text)


def query_seconds(query: Mapping[str, str], name: str) -> float | None:
    """Read a duration in seconds, zero or more.

    Raises:
        RequestRefused: 400, it is not such a number.
    """
    text = query_text(query, name)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not (math.isfinite(seconds) and seconds >= 0):
        refuse(400, f"'{name}' must be a number of seconds.")
    return seconds


def query_time(query: Mapping[str, str], name: str) -> timestamp_pb2.Timestamp | None:
    """Read an ISO 8601 time; one without an offset is UTC.

    A year may lack its leading zeros, because Python's ``strftime`` drops them on Linux and the extension
    allows for that.

    Raises:
        RequestRefused: 400, it is not a time that a protobuf timestamp can hold.
    """
    text = query_text(query, name)
    if text is None:
        return None
    stamp = timestamp_pb2.Timestamp()
    if short_year := _SHORT_YEAR.match(text):
        text = short_year[0].zfill(4) + text[short_year.end() :]
    try:
        moment = datetime.fromisoformat(text)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        stamp.FromDatetime(moment)
    except (ValueError, OverflowError):
        refuse(400, f"'{name}' must be an ISO 8601 time.")
    return stamp


def query_statuses(query: Mapping[str, str]) -> list[pb.OrchestrationStatus]:
    """Read ``runtimeStatus``: names as they are written in answers, comma separated or repeated.

    Raises:
        RequestRefused: 400, a name is not a runtime status, or is one in another case, which the extension drops.
    """
    names = [name.strip() for name in query.get("runtimestatus", "").split(",")]
    unknown = [name for name in names if name and name not in _STATUS_BY_NAME]
    if unknown:
        refuse(400, f"Not a runtime status: {', '.join(unknown)}. Known: {', '.join(STATUS_NAMES.values())}.")
    return [_STATUS_BY_NAME[name] for name in names if name]
