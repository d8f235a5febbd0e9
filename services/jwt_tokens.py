"""Tokens of Microsoft Entra ID, or of any issuer of OpenID Connect: who calls, with ``AUTH=entra``.

A token is a JWT that the issuer has signed with one of its keys, which it publishes (JWKS). What a caller may do comes
from the claim ``roles`` alone: in Entra, the app roles that an administrator has assigned to the person or to the app.
The claim ``scp`` does not count: it says what an app may do in a person's name, and not that the person may do it.

Sources: RFC 7519, RFC 8725 (the algorithms are ours to say, not the token's), OpenID Connect Discovery 1.0, and
Microsoft, "Access token claims reference" and "Secure applications and APIs by validating claims". The claim ``email``
is not looked at by itself: Entra does not verify it, so that in another tenant anybody can have anybody's ("nOAuth").
The same holds of ``preferred_username`` at other issuers (OpenID Connect Core 1.0, section 5.7): there, ``sub`` alone
is sure, unless ``AUTH_NAME_CLAIM`` says for which claim the operator vouches.
"""

import json
import logging
from functools import lru_cache
from typing import Any

import jwt
from jwt.exceptions import PyJWTError

from errors import Unauthorized, Unavailable
from services.addresses import read_address
from services.http_exchange import Deadline, NoAnswer, exchange
from services.identity import Caller, named, permissions_in
from services.snapshot import Snapshot
from settings import get_settings

MAX_TOKEN = 16 * 1024
"""Characters of a token that is looked at."""
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256")
"""Those with a key that is public. A key that names no algorithm of its own is good for RS256, or ES256, alone."""
LEEWAY = 60
"""Seconds by which clocks may differ."""
FRESH = 3600.0
"""Seconds for which the issuer's keys are good before they are read again; a day where it does not answer."""
KEEP = 24 * FRESH
UNKNOWN = 30.0
"""Seconds between two readings at least, however many tokens come that name a key which is not among them."""
REST = 10.0
"""Seconds between two readings at least when the issuer does not answer."""
SECONDS = 5.0
"""How long the issuer may take for each of its two answers; looking up its name is not counted."""
MAX_KEYS = 100

_LOGGER = logging.getLogger(__name__)
_NOT_GOOD = "The token is not good here: it is damaged, or its issuer, its audience or its key is not ours."
_ENTRA = (
    "https://login.microsoftonline.com/",
    "https://login.microsoftonline.us/",
    "https://login.partner.microsoftonline.cn/",
    "https://sts.windows.net/",
)
_NAMES_OF_ENTRA = ("preferred_username", "upn", "azp", "appid", "sub")
_TYPES = ("jwt", "at+jwt")
"""What a token may be, where it says so: not one for logging out, say, which is no proof of who calls."""

type KeySet = dict[str, jwt.PyJWK]


def check_jwt_tokens() -> None:
    """Raise ``ValueError``, with a sentence, where the settings do not say whose tokens count."""
    settings = get_settings()
    if not settings.auth_issuer or not audiences():
        raise ValueError("AUTH=entra needs AUTH_ISSUER (as the claim iss of a token has it) and AUTH_AUDIENCE (aud)")
    for name, url in (("AUTH_ISSUER", settings.auth_issuer), ("AUTH_JWKS_URL", settings.auth_jwks_url)):
        if url is not None and not _is_safe(url):
            raise ValueError(f"{name} has to be an https address without a user name; http leads to this machine alone")


def audiences() -> list[str]:
    """Return the audiences that the settings name."""
    return [each.strip() for each in (get_settings().auth_audience or "").split(",") if each.strip()]


async def caller_of_token(token: str) -> Caller:
    """Return who a token was made for. Raises ``Unauthorized``, and ``Unavailable`` when the issuer does not answer."""
    if len(token) > MAX_TOKEN:
        raise Unauthorized(f"The token has more than {MAX_TOKEN:,} characters.")
    try:
        header = jwt.get_unverified_header(token)
    except (PyJWTError, ValueError, RecursionError):
        raise Unauthorized("The token is no JWT.") from None
    kid = header.get("kid")
    if header.get("alg") not in ALGORITHMS or not isinstance(kid, str) or not _is_for_access(header):
        raise Unauthorized(_NOT_GOOD)  # and no key is asked for
    return _caller(_claims(token, await _key(kid)))


def _is_for_access(header: dict[str, Any]) -> bool:
    """Whether the token's type is none of another kind (RFC 7515, section 4.1.9; RFC 9068, section 2.1)."""
    kind = header.get("typ", "JWT")
    return isinstance(kind, str) and kind.lower().removeprefix("application/") in _TYPES


async def _key(kid: str) -> jwt.PyJWK:
    settings = get_settings()
    assert settings.auth_issuer is not None
    keys = _keys(settings.auth_issuer, settings.auth_jwks_url)
    found = (await keys.get(FRESH, keep=KEEP)).get(kid) or (await keys.get(UNKNOWN)).get(kid)
    if found is None:
        raise Unauthorized(_NOT_GOOD)
    return found


def _claims(token: str, key: jwt.PyJWK) -> dict[str, Any]:
    try:
        return jwt.decode(
            token,
            key,
            algorithms=ALGORITHMS,
            audience=audiences(),
            issuer=get_settings().auth_issuer,
            leeway=LEEWAY,
            options={"require": ["exp", "iss", "aud"], "enforce_minimum_key_length": True},
        )
    except jwt.ExpiredSignatureError:
        raise Unauthorized("The token has expired.") from None
    except jwt.ImmatureSignatureError:
        raise Unauthorized("The token is not good yet.") from None
    except (PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
        raise Unauthorized(_NOT_GOOD) from None


def _caller(claims: dict[str, Any]) -> Caller:
    name = next((claims[each] for each in _names() if claims.get(each)), None)
    roles = claims.get("roles", [])
    return Caller(named(name), permissions_in(roles if isinstance(roles, list) else [roles]))


def _names() -> tuple[str, ...]:
    """Return the claims by which a caller may be called, the best first."""
    settings = get_settings()
    if settings.auth_name_claim is not None:
        return (settings.auth_name_claim,)
    return _NAMES_OF_ENTRA if (settings.auth_issuer or "").startswith(_ENTRA) else ("sub",)


@lru_cache(maxsize=1)
def _keys(issuer: str, jwks_url: str | None) -> Snapshot[KeySet]:
    return Snapshot(lambda: _read_keys(issuer, jwks_url), rest=REST)


def _read_keys(issuer: str, jwks_url: str | None) -> KeySet:
    """Ask the issuer for its keys. Raises ``Unavailable``; the log says why."""
    try:
        published = _fetch(jwks_url if jwks_url is not None else _discovered(issuer)).get("keys")
        if not isinstance(published, list):
            raise _NoKeys("it has no list of keys")  # noqa: TRY301
        keys: KeySet = {}
        for each in map(_usable, published[:MAX_KEYS]):
            if each is not None and each.key_id is not None:
                keys.setdefault(each.key_id, each)
        if not keys:
            raise _NoKeys("none of its keys can be used")  # noqa: TRY301
    except (_NoKeys, NoAnswer) as error:
        _LOGGER.warning("The keys of the issuer of tokens cannot be read: %s", error)
        raise Unavailable("The keys by which tokens are known cannot be read. Try again in a moment.") from None
    return keys


class _NoKeys(Exception):
    """What was answered holds no keys; the message says why, without the answer."""


def _discovered(issuer: str) -> str:
    """Return where the issuer says that its keys are (OpenID Connect Discovery 1.0, sections 4.1 and 4.3)."""
    said = _fetch(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
    url = said.get("jwks_uri")
    if said.get("issuer") != issuer:
        raise _NoKeys("it calls itself by another name than AUTH_ISSUER")
    if not isinstance(url, str) or not _is_safe(url):
        raise _NoKeys("it does not say where they are, by an https address")
    return url


def _fetch(url: str) -> dict[str, Any]:
    address = read_address(url)
    assert address is not None
    headers = {"Accept": "application/json", "User-Agent": "Countersign", "Connection": "close"}
    with Deadline(SECONDS) as deadline:
        answer = exchange(address, "GET", url, headers, body=None, deadline=deadline)
    if answer.flaw is not None:
        raise answer.flaw
    if answer.status != 200:
        raise _NoKeys(f"{address.named} answered {answer.status}")
    try:
        document = json.loads(answer.body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise _NoKeys(f"{address.named} did not answer with a JSON object")
    return document


def _usable(published: Any) -> jwt.PyJWK | None:
    """Read a key, unless it is for something else, or of a kind that is not taken."""
    try:
        key = jwt.PyJWK(published)
    except (PyJWTError, ValueError, TypeError, AttributeError, KeyError):
        return None
    is_ours = key.algorithm_name in ALGORITHMS and key.public_key_use in ("sig", None) and isinstance(key.key_id, str)
    return key if is_ours else None


def _is_safe(url: str) -> bool:
    address = read_address(url)
    return address is not None and (address.scheme == "https" or address.host in ("localhost", "127.0.0.1", "[::1]"))
