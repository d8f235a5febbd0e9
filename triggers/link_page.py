"""What the pages behind links in mails have in common: whose link it is, what is behind it, and which browser has it.

Mail scanners open every link, and some send forms. So looking changes nothing, nothing is chosen beforehand, and a form
counts only when it comes from the page itself, in the browser that opened it.
"""

import asyncio
import re
import secrets
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import azure.functions as func
from azure.durable_functions import DurableFunctionsClient
from durabletask.client import OrchestrationState
from pydantic import ValidationError

from contracts.human_step import Progress
from contracts.mail import LinkClaims, LinkPage
from contracts.shown import Shown
from errors import BadRequest, Forbidden, NotAForm, PayloadTooLarge, TooLate
from services import links, shown
from services.record_store import get_record_store
from services.states import is_paused, progress_of, run_of
from settings import get_settings
from triggers.pages import page, root_path
from triggers.web import MAX_BODY

COOKIE = "countersign_browser"
MAX_FIELDS = 2000
GONE = "What it was for has ended or was changed since. There is nothing for you to do here."
TOO_OLD = (
    "This page was open for too long, or in another browser, or your browser takes no cookies. "
    "What you typed is still here: please send it again."
)
LOOK_LATER = "Open the link again later to see."
PAUSED = ("It is paused at the moment. What you sent is kept, and counts when it goes on.", LOOK_LATER)
LATER = ("It was handed over, but has not been looked at yet.", LOOK_LATER)

_BROWSER = re.compile(r"[A-Za-z0-9_-]{32}")


@dataclass(frozen=True)
class Link:
    """A link that is sound: the run that it belongs to, what that says of itself, and what it showed then."""

    page: LinkPage
    token: str
    claims: LinkClaims
    state: OrchestrationState
    progress: Progress
    shown: Shown

    @property
    def path(self) -> str:
        """The path of its page."""
        return f"{root_path()}/{self.page}/{self.token}"


async def follow(client: DurableFunctionsClient, page: LinkPage, token: str) -> Link:
    """Return what is behind a link to a page. Raises ``BadLink``, or ``TooLate`` where that is not there any more."""
    claims = links.read(token, page)
    state = await client.get_orchestration_state(claims.request_id)
    progress = _progress(state)
    if state is None or progress is None or run_of(state) != claims.run:
        raise TooLate(GONE)
    kept = await asyncio.to_thread(shown.read, get_record_store(), claims.request_id, claims.run, claims.round)
    if kept is None or kept.digest != claims.shown:
        raise TooLate(GONE)
    return Link(page, token, claims, state, progress, kept)


def _progress(state: OrchestrationState | None) -> Progress | None:
    try:
        return progress_of(state) if state is not None else None
    except ValidationError:  # somebody else's run, under an id that was ours
        return None


def refuse_other_pages(req: func.HttpRequest) -> None:
    """Raise ``Forbidden`` for a form that does not come from a page of this app, as far as the browser tells.

    ``Origin`` is ``null`` from our own page too, since it sends no referrer; the cookie and the nonce are for that.
    """
    site = req.headers.get("sec-fetch-site")
    origin = req.headers.get("origin")
    ours = urlsplit(get_settings().base_url)
    if site is not None:
        is_ours = site.lower() == "same-origin"
    else:
        is_ours = origin in (None, "null") or (origin or "").lower() == f"{ours.scheme}://{ours.netloc}".lower()
    if not is_ours:
        raise Forbidden("This did not come from the page behind the link. Open the link from the mail again.")


def read_fields(req: func.HttpRequest) -> dict[str, str]:
    """Return the fields of a form. Raises ``NotAForm``, ``PayloadTooLarge``, or ``BadRequest`` for what no page
    sends."""
    kind = req.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise NotAForm("This page takes what its own form sends, and nothing else.")
    body = req.get_body()
    if len(body) > MAX_BODY:
        raise PayloadTooLarge("What was typed is too long. Please go back, and make it shorter.")
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError:
        raise BadRequest("What the page sent cannot be read.") from None
    fields = {name: value.replace("\r\n", "\n") for name, value in pairs}
    if len(fields) < len(pairs):
        raise BadRequest("What the page sent says one thing twice.")
    return fields


def is_of_this_view(req: func.HttpRequest, token: str, view: str) -> bool:
    """Whether the nonce in a form was made for the link with this token, in the browser that sends it."""
    browser = _browser_of(req)
    if browser is None:
        return False
    try:
        links.read_view_nonce(view, token, browser)
    except links.BadLink:
        return False
    return True


def new_view(req: func.HttpRequest, token: str, path: str) -> tuple[str, dict[str, str]]:
    """Return a nonce for one view of the page behind the link with this token, and headers for that page.

    They give the browser an id for the pages below ``path``, if it has none.
    """
    browser = _browser_of(req)
    headers = {}
    if browser is None:
        browser = secrets.token_urlsafe(24)
        headers["Set-Cookie"] = new_cookie(COOKIE, browser, path)
    return links.view_nonce(token, browser), headers


def form_page(req: func.HttpRequest, link: Link, template: str, status: int, **context: Any) -> func.HttpResponse:
    """Answer with a page that has a form, with a nonce for this view and this browser."""
    nonce, headers = new_view(req, link.token, f"/{link.page}")
    pause = link.progress.pause
    return page(
        template,
        status,
        headers,
        content=link.shown.content,
        person=link.claims.person,
        nonce=nonce,
        is_paused=is_paused(link.state),
        pause=pause if pause is not None and pause.paused else None,
        **context,
    )


def later_page(link: Link) -> func.HttpResponse:
    """Answer 202 with a page that says that the run has not looked yet at what was sent."""
    sentences = PAUSED if is_paused(link.state) else LATER
    return result_page(link, "Thank you", [*sentences], 202)


def result_page(
    link: Link, heading: str, sentences: list[str], status: int = 200, *, again: str | None = None
) -> func.HttpResponse:
    """Answer with a page that says what was done; ``again`` is in words what the link leads to now."""
    return page(
        "result.html",
        status,
        heading=heading,
        sentences=sentences,
        content=link.shown.content,
        again=again,
        path=link.path,
    )


def read_cookie(req: func.HttpRequest, name: str, form: re.Pattern[str]) -> re.Match[str] | None:
    """Return what a cookie says that this app gave the browser; None without one, or for what does not look like it."""
    try:
        found = SimpleCookie(req.headers.get("cookie", "")).get(name)
    except CookieError:
        return None
    return form.fullmatch(found.value) if found is not None else None


def new_cookie(name: str, value: str, path: str) -> str:
    """Return the header that gives a browser a cookie for the pages below a path of the app.

    Lax, not Strict: else a link that is opened from web mail would come without it, and the pages that are open would
    be for nothing. With either, a form of another site comes without it.
    """
    secure = "; Secure" if get_settings().base_url.startswith("https:") else ""
    return f"{name}={value}; Path={root_path()}{path}; HttpOnly; SameSite=Lax{secure}"


def _browser_of(req: func.HttpRequest) -> str | None:
    """Return the random id that this app gave the browser, if it has one."""
    found = read_cookie(req, COOKIE, _BROWSER)
    return found[0] if found is not None else None
