"""Authentication: who sends a request, by what ``AUTH`` says counts."""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Literal

from errors import Unauthorized
from services.api_keys import caller_of_key
from services.identity import DEVELOPER_CALLER, Caller
from services.principal import caller_of_principal, check_principal
from settings import get_settings

MAX_HEADER = 64 * 1024
"""Characters of the header Authorization that are looked at."""

_CREDENTIALS = re.compile(r"([A-Za-z]{1,20}) +([A-Za-z0-9._~+/-]+=*)")


def check_identity() -> None:
    """Raise ``ValueError``, with what to set, where callers could not be known: on Azure without ``AUTH``, or with
    ``AUTH=dev``, and where a way of knowing them lacks what it needs."""
    settings = get_settings()
    if settings.is_on_azure and settings.auth in (None, "dev"):
        raise ValueError(
            "AUTH is not set, or is dev, which takes everybody for the developer: on Azure, set it to entra (tokens of "
            "Microsoft Entra ID), easyauth (App Service Authentication) or keys (of python -m services.api_keys)"
        )
    if settings.auth == "entra":
        from services.jwt_tokens import check_jwt_tokens  # imported where it is used: it takes long

        check_jwt_tokens()
    if settings.auth == "easyauth":
        check_principal()


def auth_mode() -> Literal["entra", "easyauth", "keys", "dev"]:
    """Return how callers are known. Raises ``ValueError`` as ``check_identity`` does."""
    mode = get_settings().auth
    if mode in (None, "dev"):
        check_identity()
        return "dev"
    return mode


def takes_passwords(method: str, *, is_page: bool) -> bool:
    """Whether a key may come as the password of HTTP Basic: for a look at a page, since a browser can send no other.

    Nothing else takes it, since a browser sends it along with what other sites make it send.
    """
    return is_page and method in ("GET", "HEAD") and auth_mode() == "keys"


async def identify(method: str, headers: Mapping[str, str], *, is_page: bool = False) -> Caller:
    """Return who sends a request. ``headers`` are found by their names in lower case.

    Raises ``Unauthorized``, ``Unavailable`` when what is needed to know him does not answer, and ``RecordStoreError``.
    """
    mode = auth_mode()
    if mode == "dev":
        return DEVELOPER_CALLER
    if mode == "easyauth":
        return caller_of_principal(headers)
    scheme, given = _credentials(headers.get("authorization", ""))
    if scheme == "basic" and takes_passwords(method, is_page=is_page):
        return await caller_of_key(_password(given))
    if scheme != "bearer":
        raise Unauthorized("Send the header Authorization: Bearer, with a token or a key.", is_given=False)
    if mode == "keys":
        return await caller_of_key(given)
    from services.jwt_tokens import caller_of_token

    return await caller_of_token(given)


def _credentials(header: str) -> tuple[str, str]:
    """Split the header (RFC 9110, section 11.4; RFC 6750, section 2.1); nothing where it is not there.

    Of two such headers the platform makes one, with a comma, which is none of the letters of a token.
    """
    text = header.strip(" \t")
    if not text:
        return "", ""
    found = _CREDENTIALS.fullmatch(text) if len(text) <= MAX_HEADER else None
    if found is None:
        raise Unauthorized("The header Authorization cannot be read: it is Bearer, a blank, and one token or key.")
    return found[1].lower(), found[2]


def _password(given: str) -> str:
    try:
        _, colon, password = base64.b64decode(given, validate=True).decode("ascii").partition(":")
    except (binascii.Error, ValueError):
        colon, password = "", ""
    if not colon:
        raise Unauthorized("The password cannot be read. Give a key as the password, and any name.")
    return password
