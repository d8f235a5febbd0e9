"""The principal of App Service Authentication: who calls, with ``AUTH=easyauth``.

The platform signs people in before a request reaches the app, and says in headers who they are; what comes with a
request under these names it takes away. Where it does not stand before the app, anybody could send them.

Source: Microsoft, "Work with user identities in Azure App Service authentication". What a caller may do comes from his
app roles. By which claim a person of Entra is called is ours to say, since by the platform's choice it can be
``email``, which Entra does not verify.
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from errors import Unauthorized
from services.identity import Caller, named, permissions_in
from settings import get_settings

PRINCIPAL = "x-ms-client-principal"
NAME = "x-ms-client-principal-name"
MAX_PRINCIPAL = 64 * 1024
"""Characters of the header that is looked at: a person can be in many groups, each of which is a claim."""
MAX_CLAIMS = 1000

_SOAP = "http://schemas.xmlsoap.org/ws/2005/05/identity/claims"
_NAMES = ("preferred_username", "upn", f"{_SOAP}/upn", "azp", "appid", "sub", f"{_SOAP}/nameidentifier")
_ENTRA = "aad"


class _Claim(BaseModel):
    typ: Annotated[str, Field(max_length=1000)]
    val: str


class _Principal(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)

    auth_typ: Annotated[str, Field(max_length=100)]
    name_typ: Annotated[str, Field(max_length=1000)] | None = None
    role_typ: Annotated[str, Field(max_length=1000)] | None = None
    claims: Annotated[list[_Claim], Field(max_length=MAX_CLAIMS)]

    def first(self, *kinds: str | None) -> str | None:
        """The first claim that is not empty of the first kind that there is."""
        return next((each.val for kind in kinds for each in self.claims if each.typ == kind and each.val), None)


def check_principal() -> None:
    """Raise ``ValueError``, with a sentence, unless the platform stands before the app and signs people in."""
    if not get_settings().signs_people_in:
        raise ValueError(
            "AUTH=easyauth needs App Service Authentication, which is not switched on for this app (the platform sets "
            "WEBSITE_AUTH_ENABLED then): without it, anybody could say in a header that he is somebody else"
        )


def caller_of_principal(headers: Mapping[str, str]) -> Caller:
    """Return who the platform says is calling. Raises ``Unauthorized``."""
    given = headers.get(PRINCIPAL, "").strip()
    if not given:
        raise Unauthorized("Sign in: this app knows people by App Service Authentication.", is_given=False)
    principal = _read(given)
    if principal.auth_typ.lower() == _ENTRA:
        name = principal.first(*_NAMES)
    else:
        name = headers.get(NAME, "").strip() or principal.first(principal.name_typ, f"{_SOAP}/nameidentifier")
    role_kinds = {principal.role_typ, "roles"}  # Entra's app roles come as ``roles``, whatever role_typ says
    return Caller(named(name), permissions_in([each.val for each in principal.claims if each.typ in role_kinds]))


def _read(given: str) -> _Principal:
    if len(given) > MAX_PRINCIPAL:
        raise Unauthorized(f"The header {PRINCIPAL} has more than {MAX_PRINCIPAL:,} characters.")
    try:
        return _Principal.model_validate_json(base64.b64decode(given, validate=True))
    except (binascii.Error, ValueError, ValidationError):
        raise Unauthorized(f"The header {PRINCIPAL} cannot be read.") from None
