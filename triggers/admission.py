"""Admission: each request is held against the permission of its route before anything else of it is read.

Who is not known is answered with 401, and who may not with 403, which names the permission and says nothing of whether
the thing is there. Both say so in the header ``WWW-Authenticate`` as RFC 6750 has it (section 3).
"""

import azure.functions as func

from errors import CountersignError, Forbidden, NotPermitted, Unauthorized
from services.authentication import identify, takes_passwords
from services.identity import Caller, Permission

_REALM = 'realm="countersign"'


async def admit(req: func.HttpRequest, permission: Permission | None, *, is_page: bool = False) -> Caller | None:
    """Return who sends a request to a route that needs ``permission``; None where it is open (None) to all.

    Raises ``Unauthorized``, ``NotPermitted``, and what else ``identify`` raises.
    """
    if permission is None:
        return None
    caller = await identify(req.method, req.headers, is_page=is_page)
    if not caller.may(permission):
        raise NotPermitted(
            f"You are {caller.name}, and lack the permission {permission} that this needs.", permission=permission
        )
    return caller


def challenge(req: func.HttpRequest, error: CountersignError, *, is_page: bool = False) -> dict[str, str]:
    """Return the header that says how to be known, or what is missing; none for other errors."""
    if isinstance(error, Unauthorized) and takes_passwords(req.method, is_page=is_page):
        return {"WWW-Authenticate": f'Basic {_REALM}, charset="UTF-8"'}
    if isinstance(error, Unauthorized):
        return {"WWW-Authenticate": f"Bearer {_REALM}" + (', error="invalid_token"' if error.is_given else "")}
    scope = error.members.get("permission")
    if isinstance(error, Forbidden) and scope is not None:
        return {"WWW-Authenticate": f'Bearer {_REALM}, error="insufficient_scope", scope="{scope}"'}
    return {}
