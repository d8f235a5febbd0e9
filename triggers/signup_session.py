"""The browser in which somebody signs up: it has a cookie with the user name and a secret, and may ask for mails."""

import asyncio
import hmac
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256

import azure.functions as func
from azure.durable_functions import DurableFunctionsClient

from services import links
from triggers.link_page import new_cookie, read_cookie
from triggers.signup import Signup, look

COOKIE = "countersign_signup"
EVEN_TIME = 0.3
"""Seconds that an answer takes which tells nothing: more than all takes that it depends on."""

_SECRET = re.compile(r"[0-9a-f]{32}")
_VALUE = re.compile(rf"({_SECRET.pattern})\.([A-Za-z0-9_.:-]{{1,64}})")


@dataclass(frozen=True)
class Session:
    """A browser that has shown that the form of a sign-up was filled in with it."""

    secret: str
    signup: Signup

    def new_view(self) -> str:
        """Return a nonce for one view of its page."""
        return links.view_nonce(COOKIE, self.secret)

    def is_of_this_view(self, view: str) -> bool:
        """Whether a nonce was made for a view of its page, not too long ago."""
        try:
            links.read_view_nonce(view, COOKIE, self.secret)
        except links.BadLink:
            return False
        return True


def new_secret(view: str | None) -> str:
    """Return what a browser is known by from now on: by one view of the form, the same each time that it is sent.

    It is made here, of what nobody but the browser of that view could have sent; without one it is random.
    """
    return links.pseudonym("secret of a view", view) if view is not None else secrets.token_hex(16)


def digest_of_secret(secret: str) -> str:
    """Return what a run knows of the secret: its SHA-256."""
    return sha256(secret.encode()).hexdigest()


def session_cookie(username: str, secret: str) -> str:
    """Return the header that gives a browser its cookie."""
    return new_cookie(COOKIE, f"{secret}.{username.lower()}", "/signup")


def is_begun_with(signup: Signup, secret: str) -> bool:
    """Whether the form of a sign-up was filled in with the browser that has this secret."""
    known = signup.asked.session
    return known is not None and hmac.compare_digest(known, digest_of_secret(secret))


async def session_of(req: func.HttpRequest, client: DurableFunctionsClient) -> Session | None:
    """Return the session of the browser; None without one, or where no sign-up knows it (any more)."""
    found = read_cookie(req, COOKIE, _VALUE)
    if found is None:
        return None
    started = time.monotonic()
    signup = await look(client, found[2])
    if signup is not None and is_begun_with(signup, found[1]):
        return Session(found[1], signup)
    await not_before(started)
    return None


async def not_before(
    started: float,
    seconds: float = EVEN_TIME,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Wait until so many seconds after ``started``, so that nobody can tell from the time what was done meanwhile."""
    while (left := started + seconds - clock()) > 0:
        await sleep(left)
