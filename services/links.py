"""Signed links: what a link in a mail says cannot be made up or changed, nor can the form behind it.

A token is ``payload.time.signature`` in URL-safe letters: HMAC-SHA-256 by itsdangerous, with a salt for each purpose,
so that what was signed for one is nothing for another. Two keys can be active: the first one signs, both verify.
"""

import hashlib
import hmac
import json
import os
import secrets
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from itsdangerous import BadData, TimestampSigner, URLSafeTimedSerializer
from itsdangerous.encoding import base64_decode, base64_encode
from pydantic import ValidationError

from contracts.mail import LinkClaims, LinkPage
from services.clock import now
from services.files import write_once
from settings import get_settings

MAX_TOKEN = 16_000
"""Characters of a token that are looked at."""
MAX_AGE = timedelta(days=366)
"""How long a link is good: a day longer than anybody can be asked."""
MAX_VIEW = timedelta(hours=12)
"""How long a page may stay open before its form is sent."""
CODE_DIGITS = 6

_HOW_TO = "python -c 'import secrets; print(secrets.token_urlsafe(48))'"
_APPROVE, _INTERVENE = "countersign.approve", "countersign.intervene"
_VIEW, _CODE = "countersign.view", "countersign.code"
_PAGES: dict[LinkPage, str] = {"approve": _APPROVE, "intervene": _INTERVENE}


class BadLink(Exception):
    """A token that this app did not make, or too long ago; its message does not repeat it."""


def check_links() -> None:
    """Raise ``ValueError`` where links could not be signed: on Azure, without ``LINK_KEYS``."""
    settings = get_settings()
    if settings.is_on_azure and settings.link_keys is None:
        raise ValueError(f"LINK_KEYS is not set: the links in mails are signed with it. To make a key: {_HOW_TO}")


def sign(claims: LinkClaims, page: LinkPage = "approve") -> str:
    """Return the token for a link that says this, which is good for one page alone."""
    return _serializer(_PAGES[page]).dumps(list(claims.plain().values()))


def read(token: str, page: LinkPage = "approve") -> LinkClaims:
    """Return what a link to a page says. Raises ``BadLink``, also for the token of another page."""
    values = _read(_PAGES[page], token, MAX_AGE)
    try:
        return LinkClaims.model_validate(dict(zip(LinkClaims.model_fields, values, strict=True)))
    except (TypeError, ValueError, ValidationError):
        raise BadLink("it does not say what a link says") from None


def url_of(claims: LinkClaims, page: LinkPage = "approve") -> str:
    """Return the address of the page behind a link."""
    return f"{get_settings().base_url}/{page}/{sign(claims, page)}"


def code_of(claims: LinkClaims) -> str:
    """Return the six digits that stand beside a link in its mail, where its page asks for them."""
    return _code(_keys()[0], claims)


def is_code(claims: LinkClaims, typed: str) -> bool:
    """Whether somebody typed the code that belongs to a link; blanks do not count."""
    given = "".join(typed.split()).encode(errors="replace")
    return any([hmac.compare_digest(_code(key, claims).encode(), given) for key in _keys()])  # noqa: C419  # all keys


def view_nonce(token: str, browser: str) -> str:
    """Return a nonce for one view of the page behind a link, good in this browser only, for 12 hours."""
    return _serializer(_VIEW).dumps([secrets.token_urlsafe(12), _viewer(token, browser)])


def read_view_nonce(nonce: str, token: str, browser: str) -> None:
    """Raise ``BadLink`` unless this nonce was made for this link in this browser, not too long ago."""
    values = _read(_VIEW, nonce, MAX_VIEW)
    if not (isinstance(values, list) and len(values) == 2 and isinstance(values[1], str)):
        raise BadLink("it is no nonce")
    if not hmac.compare_digest(values[1].encode(), _viewer(token, browser).encode()):
        raise BadLink("it belongs to another page, or to another browser")


class _Signer(TimestampSigner):
    """A signer that goes by the clock of the app."""

    def get_timestamp(self) -> int:
        return int(now().timestamp())


def _serializer(salt: str) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(
        list(reversed(_keys())),  # the last one signs
        salt=salt,
        signer=_Signer,
        signer_kwargs={"digest_method": hashlib.sha256, "key_derivation": "hmac"},
        fallback_signers=[],
    )


def _read(salt: str, token: str, max_age: timedelta) -> Any:
    if len(token) > MAX_TOKEN or not token.isascii():
        raise BadLink("it cannot be a token")
    try:
        values = _serializer(salt).loads(token, max_age=int(max_age.total_seconds()))
        signature = token.rpartition(".")[2]
        # The last letter of base64 has bits that do not count, and letters that are none are passed over.
        if base64_encode(base64_decode(signature)).decode() != signature:
            raise BadLink("it is written in another way than ours are")
    except BadData:
        raise BadLink("it was not made here, or too long ago") from None
    return values


def _viewer(token: str, browser: str) -> str:
    return hashlib.sha256(f"{len(token)} {token} {browser}".encode(errors="replace")).hexdigest()[:32]


def _code(key: str, claims: LinkClaims) -> str:
    said = json.dumps([_CODE, claims.plain()], sort_keys=True, ensure_ascii=True)
    digest = hmac.digest(key.encode(), said.encode(), "sha256")
    return f"{int.from_bytes(digest) % 10**CODE_DIGITS:0{CODE_DIGITS}}"


def _keys() -> list[str]:
    """The keys, newest first."""
    settings = get_settings()
    if settings.link_keys is not None:
        return [key.strip() for key in settings.link_keys.get_secret_value().split(",")]
    check_links()
    return [_own_key(settings.local_host_data)]


@lru_cache(maxsize=8)
def _own_key(folder: Path) -> str:
    path = write_once(folder, "link.key", "", secrets.token_urlsafe(48).encode())
    found = path.stat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ValueError(f"{path} belongs to somebody else, or others may read it: remove it, or set LINK_KEYS")
    return path.read_text()
