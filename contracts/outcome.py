"""What the outputs of all workflows have in common."""

from typing import Any

from pydantic import SerializerFunctionWrapHandler, model_serializer

from contracts.audit import TrailHead
from contracts.base import Contract
from contracts.pause import ResumeData


class Outcome(Contract):
    """The output of a run: the head of its trail, if it has one, and all that it was resumed with.

    In JSON they stand last, and ``resume_data`` only where there are any.
    """

    trail: TrailHead | None = None
    resume_data: ResumeData | None = None

    @model_serializer(mode="wrap")
    def _with_the_common_last(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        said: dict[str, Any] = serialize(self)
        last = {name: said.pop(name) for name in Outcome.model_fields if name in said}
        if last.get("resume_data") is None:
            last.pop("resume_data", None)
        return said | last
