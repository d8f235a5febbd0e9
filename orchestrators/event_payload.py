"""The payload of an event, whatever it is: it must not be able to fail a run."""

import json
from dataclasses import dataclass
from typing import Any, override

from azure.durable_functions.internal.serialization import FunctionsDataConverter
from pydantic import ValidationError

from contracts.base import Contract


@dataclass(frozen=True)
class EventPayload:
    """What came with an event: its JSON ``value``, or ``malformed`` with the reason why there is none."""

    value: Any = None
    malformed: str | None = None


class EventConverter(FunctionsDataConverter):
    """The SDK's converter, except that an event's payload that cannot be decoded is handed over as such.

    The SDK decodes the payload of an awaited event before the orchestrator runs, where nothing can catch an error:
    text that is not JSON, or an object with the field names of the codec's own envelope, would fail the run.
    ``function_app.py`` puts it where the SDK looks for its converter.
    """

    @override
    def deserialize(self, data: str | None, target_type: type | None = None) -> Any:
        if target_type is not EventPayload:
            return super().deserialize(data, target_type)
        if not data:
            return EventPayload()
        try:
            return EventPayload(value=json.loads(data))
        except (ValueError, RecursionError):
            return EventPayload(malformed="its payload is not JSON")


def validated[Event: Contract](payload: EventPayload, contract: type[Event]) -> Event:
    """Return the payload of an event as ``contract``. Raises ``ValueError`` with a clause that says what is wrong."""
    if payload.malformed is not None:
        raise ValueError(payload.malformed)
    try:
        return contract.model_validate(payload.value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = "".join(c if c.isprintable() else "?" for c in ".".join(str(part) for part in first["loc"])[:30])
        reason = f"its field '{where}' is wrong" if where else "its payload is wrong"
        raise ValueError(f"{reason} ({first['msg'][:80]})") from None
