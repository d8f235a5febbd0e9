"""What comes of a step: the way on which it goes on, or the end of the run."""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import JsonValue, ValidationError

from contracts.base import Contract
from contracts.workflow_checks import problems_of
from contracts.workflow_data import DataError
from contracts.workflow_steps import Way


@dataclass(frozen=True)
class Passed:
    """A step has been gone through.

    ``result`` is what is kept of it, if there is something, ``said`` what the trail says of it in a word, and ``why``
    why the run fails where the step says nothing of this ``way``.
    """

    way: Way | Literal["on_true", "on_false"]
    result: JsonValue = None
    said: str = ""
    why: str = ""


@dataclass(frozen=True)
class Ended:
    """A step has ended the run."""

    status: str
    output: JsonValue = None


def read_as[Request: Contract](contract: type[Request], given: Any) -> Request:
    """Return what a step makes with the data, as ``contract``. Raises ``DataError`` with the first thing wrong."""
    try:
        return contract.model_validate(given)
    except ValidationError as error:
        field, message = problems_of(error)[0]
        raise DataError(f"with the data put in, '{field[:100]}' is wrong: {message[:200]}") from None
