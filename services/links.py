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
from typing import Any, Literal

from itsdangerous import BadData, TimestampSigner, URLSafeTimedSerializer
from itsdangerous.encoding import base64_decode, base64_encode
from pydantic import ValidationError

from contracts.base import Contract
from contracts.mail import LinkClaims, LinkPage
from contracts.signup import SignupClaims
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
_VIEW, _CODE, _PSEUDONYM = "countersign.view", "countersign.code", "countersign.pseudonym"
_PAGES: dict[LinkPage, str] = {"approve": _APPROVE, "intervene": _INTERVENE}
type SignupPage = Literal["confirm", "stop"]
_SIGNUP: dict[SignupPage, str] = {"confirm": "countersign.signup.confirm", "stop": "countersign.signup.stop"}


class BadLink(Exception):
    """A token that this app did not make, or too long ago; its message does not repeat it."""


def check_links() -> None:
    """Raise ``ValueError`` where links could not be signed: on Azure, without ``LINK_KEYS``."""
    settings = get_settings()
    if settings.is_on_azure and settings.link_keys is None:
        raise ValueError(f"LINK_KEYS is not set: the links in mails are signed with it. To make a key: {_HOW_TO}")


def sign(claims: LinkClaims, page: LinkPage = "approve") -> str:
    """Return the token for a link that says this, which is good for one page alone."""
    return _sign(claims, _PAGES[page])


def read(token: str, page: LinkPage = "approve") -> LinkClaims:
    """Return what a link to a page says. Raises ``BadLink``, also for the token of another page."""
    return _claims(token, _PAGES[page], LinkClaims)


def url_of(claims: LinkClaims, page: LinkPage = "approve") -> str:
    """Return the address of the page behind a link."""
    return f"{get_settings().base_url}/{page}/{sign(claims, page)}"


def url_of_signup(claims: SignupClaims, page: SignupPage) -> str:
    """Return the address of a page behind a link in a mail of a sign-up."""
    return f"{get_settings().base_url}/signup/{page}?token={_sign(claims, _SIGNUP[page])}"


def read_signup(token: str, page: SignupPage) -> SignupClaims:
    """Return what a link of a sign-up says, whose ``until`` may have passed. Raises ``BadLink``, also for the token of
    another page."""
    return _claims(token, _SIGNUP[page], SignupClaims)


def pseudonym(kind: str, text: str) -> str:
    """Return 32 letters that stand for a text of a kind, such as an address, where that itself must not stand.

    Nobody can tell the text from it who does not have the keys. It is another one when there is a newer key.
    """
    return _pseudonym(_keys()[0], kind, text)


def is_pseudonym(given: str, kind: str, text: str) -> bool:
    """Whether this is what stood for the text, with any of the keys."""
    return any([hmac.compare_digest(_pseudonym(key, kind, text), given) for key in _keys()])  # noqa: C419  # all keys


def code_of(claims: LinkClaims | SignupClaims) -> str:
    """Return the six digits that stand beside a link in its mail, where its page asks for them."""
    return _code(_keys()[0], claims)


def is_code(claims: LinkClaims | SignupClaims, typed: str) -> bool:
    """Whether somebody typed the code that belongs to a link; blanks do not count."""
    given = "".join(typed.split()).encode(errors="replace")
    return any([hmac.compare_digest(_code(key, claims).encode(), given) for key in _keys()])  # noqa: C419  # all keys


def is_signup_code(claims: SignupClaims, address: str, typed: str) -> bool:
    """Whether somebody typed the code of a mail of a sign-up that says this, but for its own pseudonym of an address.

    A mail from before there was a newer key has the older pseudonym in its code, as that key gives it.
    """
    given = "".join(typed.split()).encode(errors="replace")
    expected = [
        _code(key, claims.model_copy(update={"address": _pseudonym(key, "address", address)})) for key in _keys()
    ]
    return any([hmac.compare_digest(each.encode(), given) for each in expected])  # noqa: C419  # all keys


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


def _sign(claims: Contract, salt: str) -> str:
    return _serializer(salt).dumps(list(claims.plain().values()))


def _claims[Claims: Contract](token: str, salt: str, contract: type[Claims]) -> Claims:
    values = _read(salt, token, MAX_AGE)
    try:
        return contract.model_validate(dict(zip(contract.model_fields, values, strict=True)))
    except (TypeError, ValueError, ValidationError):
        raise BadLink("it does not say what a link says") from None


def _viewer(token: str, browser: str) -> str:
    return hashlib.sha256(f"{len(token)} {token} {browser}".encode(errors="replace")).hexdigest()[:32]


def _pseudonym(key: str, kind: str, text: str) -> str:
    said = json.dumps([_PSEUDONYM, kind, text], ensure_ascii=True)
    return hmac.digest(key.encode(), said.encode(), "sha256").hex()[:32]


def _code(key: str, claims: Contract) -> str:
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
