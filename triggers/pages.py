"""Pages for people: how they are rendered, which headers they have, and how errors look on them.

No page has a script, and the policy of each forbids any.
"""

import logging
import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import azure.functions as func
import grpc
import jinja2

from errors import CountersignError, HubUnavailable, RecordsUnavailable, Unauthorized
from services.clock import now
from services.identity import Permission, calling
from services.links import BadLink
from services.record_store import RecordStoreError
from settings import get_settings
from triggers.admission import admit, challenge
from triggers.static_files import name_of

POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
}

_LOGGER = logging.getLogger(__name__)
_HEADINGS = {
    400: "That did not work",
    401: "This link is not valid",
    403: "This cannot be done",
    404: "There is nothing here",
    409: "This cannot be done now",
    410: "This link is no longer in use",
    413: "That is too long",
    415: "That is no form",
    422: "This cannot be done",
    429: "That was too often",
    503: "Please try again in a moment",
}

type PageTrigger = Callable[..., Awaitable[func.HttpResponse]]


def page(
    template: str, status: int = 200, headers: dict[str, str] | None = None, /, **context: Any
) -> func.HttpResponse:
    """Answer with a page from ``triggers/templates``; ``headers`` come on top of those that every page has."""
    text = _environment().get_template(template).render(context)
    return func.HttpResponse(
        text.encode(errors="replace"),
        status_code=status,
        mimetype="text/html",
        charset="utf-8",
        headers=HEADERS | (headers or {}),
    )


def error_page(
    status: int, sentence: str, headers: dict[str, str] | None = None, heading: str | None = None
) -> func.HttpResponse:
    """Answer with a page that says a sentence, under the heading for its status unless another one is given."""
    said = heading or _HEADINGS.get(status, "Something went wrong")
    return page("error.html", status, headers, heading=said, sentence=sentence)


def retry_after(seconds: float | None) -> dict[str, str]:
    """Return the header that says after how many seconds to try again; none where that is not known."""
    return {"Retry-After": str(max(1, math.ceil(seconds)))} if seconds is not None else {}


def answers_pages(trigger: PageTrigger, permission: Permission | None) -> PageTrigger:
    """Make a trigger answer every error as a page with the error's status, and let no traceback out.

    Before it sees a request, who sends it is held against ``permission``; None is for pages that are open, as those
    behind links are. What is not a ``CountersignError`` is logged whole, without the address, which may hold a token.
    """

    @wraps(trigger)
    async def answering(req: func.HttpRequest, client: Any) -> func.HttpResponse:
        try:
            with calling(await admit(req, permission, is_page=True)):
                return await trigger(req, client)
        except CountersignError as error:
            headers = retry_after(error.members.get("retry_after")) | challenge(req, error, is_page=True)
            heading = _WHO if isinstance(error, Unauthorized) else None
            return error_page(error.status, error.detail, headers, heading=heading)
        except BadLink:
            sentence = "It may have been cut off on its way. Open it from the mail again, or copy it as a whole."
            return error_page(401, sentence)
        except grpc.RpcError as error:
            _LOGGER.exception("The task hub failed in %s", trigger.__name__)
            away = getattr(error, "code", lambda: None)() == grpc.StatusCode.UNAVAILABLE
            return error_page(HubUnavailable.status if away else 500, _AWAY if away else _INTERNAL)
        except RecordStoreError:
            _LOGGER.exception("The record store failed in %s", trigger.__name__)
            return error_page(RecordsUnavailable.status, _AWAY)
        except Exception:
            _LOGGER.exception("Unexpected error in %s", trigger.__name__)
            return error_page(500, _INTERNAL)

    return answering


_WHO = "Please say who you are"
_AWAY = "A part of this app does not answer just now. Nothing was changed by this page."
_INTERNAL = "Something went wrong on our side; the log of the app has the details."


def root_path() -> str:
    """Return what stands before the app's own paths in its address: nothing, or ``/some/path``."""
    return urlsplit(get_settings().base_url).path


def moment(at: datetime) -> str:
    """Return a time in words, in UTC: ``Friday, 27 November 2026, 14:05 UTC``."""
    there = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    return f"{there:%A}, {there.day} {there:%B %Y, %H:%M} UTC"


def distance(at: datetime) -> str:
    """Return how far off a time is, in words: ``in 3 days``, ``in 1 hour``, ``now``."""
    there = at.replace(tzinfo=UTC) if at.tzinfo is None else at
    minutes = int((there - now()).total_seconds() // 60)
    for unit, length in (("day", 24 * 60), ("hour", 60), ("minute", 1)):
        if minutes >= 2 * length or (minutes >= length and unit != "day"):
            number = round(minutes / length)
            return f"in {number} {unit}{'' if number == 1 else 's'}"
    return "now"


def as_text(value: Any) -> str:
    """Return a JSON value that is no object or list as it is read: ``yes``, ``no``, a dash for null."""
    if value is None or value == "":
        return "\N{EN DASH}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {"static": _static_path}
    made.filters |= {"moment": moment, "distance": distance, "as_text": as_text}
    return made


def _static_path(which: str) -> str:
    return f"{root_path()}/static/{name_of(which)}"
