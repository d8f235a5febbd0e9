"""The outbox: mails that went to the folder, for looking at them and for following their links.

Who can see it can vote for everybody. So where keys are asked for, it asks for that of the calls of the API, which say
who decides and are believed; where none are, the host listens on loopback alone. On Azure there is no outbox.
"""

import asyncio
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import azure.functions as func

from errors import NotFound
from services import outbox
from settings import get_settings
from triggers.pages import HEADERS, POLICY, page, root_path

MAIL_POLICY = (
    "sandbox allow-popups allow-popups-to-escape-sandbox allow-top-navigation-by-user-activation; "
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; frame-ancestors 'self'"
)
WITH_FRAME = {"Content-Security-Policy": f"{POLICY}; frame-src 'self'"}

_HEAD = re.compile(r"<head(?:\s[^>]*)?>", re.IGNORECASE)
_TOP = '<base target="_top">'


async def list_outbox(req: func.HttpRequest, client: Any) -> func.HttpResponse:  # noqa: ARG001  # as all triggers
    """``GET /outbox``: the newest mails, newest first."""
    _check_shown()
    mails = await asyncio.to_thread(outbox.page)
    return page("outbox.html", mails=[(mail, _address(req, mail.id)) for mail in mails])


async def get_outbox_mail(req: func.HttpRequest, client: Any) -> func.HttpResponse:  # noqa: ARG001  # as all triggers
    """``GET /outbox/{mail_id}``: a mail; its HTML alone with ``?part=html``, the file with ``?part=raw``."""
    _check_shown()
    mail = await asyncio.to_thread(outbox.read, req.route_params.get("mail_id", ""))
    part = req.params.get("part", "")
    if mail is None or part not in ("", "html", "raw") or (part == "html" and mail.html is None):
        raise NotFound("There is no such mail in the outbox.")
    if part == "raw":
        return func.HttpResponse(mail.raw, mimetype="message/rfc822", headers=HEADERS)
    if part == "html":
        headers = HEADERS | {"Content-Security-Policy": MAIL_POLICY}
        html = _opening_at_the_top(mail.html or "").encode(errors="replace")
        return func.HttpResponse(html, mimetype="text/html", charset="utf-8", headers=headers)
    return page(
        "outbox_mail.html",
        200,
        WITH_FRAME,
        mail=mail,
        pieces=list(_pieces(mail.text)),
        back=_address(req),
        html=_address(req, mail.id, part="html"),
        raw=_address(req, mail.id, part="raw"),
    )


def _check_shown() -> None:
    if not outbox.is_shown():
        raise NotFound("This app shows no outbox: its mails go elsewhere.")


def _address(req: func.HttpRequest, mail_id: str = "", **parameters: str) -> str:
    """Return the address of a page of the outbox; the function key goes along if the page was opened by one."""
    if "code" in req.params:
        parameters["code"] = req.params["code"]
    path = f"{root_path()}/outbox" + (f"/{mail_id}" if mail_id else "")
    return f"{path}?{urlencode(parameters)}" if parameters else path


def _opening_at_the_top(html: str) -> str:
    """Return HTML whose links leave the frame that it is shown in."""
    found = _HEAD.search(html)
    return html[: found.end()] + _TOP + html[found.end() :] if found else _TOP + html


def _pieces(text: str) -> Iterator[tuple[str, bool]]:
    """Cut a text into pieces, each with whether it is a link to this app: others are not made clickable."""
    link = re.compile(rf"({re.escape(get_settings().base_url)}/[A-Za-z0-9._~:/?#@!$&*+,;=%-]*)")
    for number, piece in enumerate(link.split(text)):
        if piece:
            yield piece, number % 2 == 1
