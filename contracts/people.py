"""People who are asked, and when they are reminded."""

from itertools import pairwise
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from contracts.base import Contract, Hours, Name, PlainAddress

MAX_REMINDERS = 366
A_MINUTE = 1 / 60
"""In hours: the least distance of reminders."""


class Person(Contract):
    """Somebody with a mail address, and perhaps a name to be shown. A text alone is taken for the address."""

    email: PlainAddress
    name: Name | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"email": value} if isinstance(value, str) else value

    @property
    def shown(self) -> str:
        """The name with the address, or the address."""
        return f"{self.name} <{self.email}>" if self.name else self.email


class Every(Contract):
    """Reminders at a fixed distance, up to ``max`` of them for each time that people are asked."""

    every: Annotated[Hours, Field(ge=A_MINUTE)]
    max: Annotated[int, Field(ge=1, le=MAX_REMINDERS)] = 10

    def hours_to_next(self, sent: int) -> float | None:
        """Return when the next is due after people were asked, in hours, or None when all were sent."""
        return self.every * (sent + 1) if sent < self.max else None


def _as_reminders(value: Any) -> Any:
    if isinstance(value, dict | Contract) or value is None:
        return value
    return {"at": value} if isinstance(value, list | tuple) else {"every": value}


class At(Contract):
    """Reminders at these times after people were asked."""

    at: Annotated[tuple[Hours, ...], Field(strict=False, min_length=1, max_length=MAX_REMINDERS)]

    @model_validator(mode="after")
    def _are_apart(self) -> Self:
        if any(later - earlier < A_MINUTE for earlier, later in pairwise([0.0, *sorted(self.at)])):
            raise ValueError("reminders are a minute apart at least")
        return self

    def hours_to_next(self, sent: int) -> float | None:
        """Return when the next is due after people were asked, in hours, or None when all were sent."""
        return next(iter(sorted(self.at)[sent:]), None)


Reminders = Annotated[Every | At, BeforeValidator(_as_reminders)]
"""``{"every": N, "max": n}``, N alone, or a list of offsets."""
