"""Who does what is asked over the API: the caller, or somebody on whose behalf they ask it; and what a resume says."""

import json
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from contracts.base import Contract
from errors import NotPermitted, Unprocessable
from services.identity import Permission, current_caller, speak_as

RESUME_DATA = "resume_data"
"""Where the data of a resume stand in its body, for the names of fields in errors."""


@dataclass(frozen=True)
class Speaker:
    """Who said something, by whom the rules go, and who sent it on their behalf, if that is somebody else."""

    who: str
    sent_by: str | None = None


def speaker(named: str | None) -> Speaker:
    """Return who says something for which a request names ``named``, or nobody; it is the caller then.

    Raises what ``speak_as`` raises: ``Forbidden`` for somebody else's name.
    """
    said = speak_as(named)
    if said.on_behalf_of is None:
        return Speaker(said.actor)
    return Speaker(said.on_behalf_of, said.actor)


def sender() -> str | None:
    """Return who calls, where a request names nobody; None where nobody is asked who they are."""
    caller = current_caller()
    return caller.name if caller is not None else None


def starter(named: str | None = None) -> str | None:
    """Return who starts a run: the caller, whoever is named; a developer is who they say they are.

    None where nobody is asked who they are.
    """
    caller = current_caller()
    return named if caller is not None and caller.is_developer and named is not None else sender()


def must_have(permission: Permission) -> None:
    """Raise ``NotPermitted`` unless the caller has a permission that another route to the same thing asks for."""
    caller = current_caller()
    if caller is not None and not caller.may(permission):
        raise NotPermitted(f"You are {caller.name}, and lack the permission {permission}.", permission=permission)


def read_data[Data: Contract](data: dict[str, Any], contract: type[Data], said_by: str | None = None) -> Data:
    """Read the data of a resume as ``contract``; where they leave out ``said_by``, it is the caller.

    They are read as a body is. Raises ``Unprocessable``, which names each bad field.
    """
    name = sender()
    given = {said_by: name, **data} if said_by is not None and name is not None else data
    try:
        return contract.model_validate_json(json.dumps(given))
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
    fields = [{"field": ".".join(map(str, (RESUME_DATA, *one["loc"]))), "message": one["msg"]} for one in found[:20]]
    names = ", ".join(dict.fromkeys(one["field"][:60] for one in fields))
    raise Unprocessable(f"The body is not valid: {names}.", errors=fields)


def unclear(sentence: str, field: str, message: str, **members: Any) -> Unprocessable:
    """Return the error for data of a resume that do not say what is to be done."""
    return Unprocessable(sentence, errors=[{"field": f"{RESUME_DATA}.{field}", "message": message}], **members)
