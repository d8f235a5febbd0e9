"""What people type into the forms of the sign-up, and what is wrong with it."""

from typing import Annotated, Any

from pydantic import BeforeValidator, StringConstraints, TypeAdapter, ValidationError

from contracts.base import Name
from contracts.signup import EmailAddress, Username


def _without_blanks(value: Any) -> Any:
    return "".join(value.split()) if isinstance(value, str) else value


Code = Annotated[str, BeforeValidator(_without_blanks), StringConstraints(pattern=r"\A[0-9]{6}\z")]

_INPUTS: dict[str, TypeAdapter[str]] = {
    "username": TypeAdapter(Username),
    "email": TypeAdapter(EmailAddress),
    "firstname": TypeAdapter(Name),
    "lastname": TypeAdapter(Name),
    "code": TypeAdapter(Code),
}
_NOT_NEEDED = ("firstname", "lastname")
_WRONG = {
    "username": "type 1 to 64 letters without accents, digits, or any of - _ . :",
    "email": "type one mail address, such as name@example.com",
    "firstname": "up to 100 characters are taken",
    "lastname": "up to 100 characters are taken",
    "code": "type the six digits",
}


def read_inputs(fields: dict[str, str], *names: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return what these inputs of a form say, and what is wrong with them, both by name.

    What is not needed, and was left empty, is not among what they say.
    """
    said, wrong = {}, {}
    for name in names:
        typed = fields.get(name, "").strip()
        if not typed and name in _NOT_NEEDED:
            continue
        try:
            said[name] = _INPUTS[name].validate_python(typed)
        except ValidationError:
            wrong[name] = _WRONG[name]
    return said, wrong
