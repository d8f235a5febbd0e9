"""The payload of an event, whatever it is: it must not be able to fail a run."""

import json
from dataclasses import dataclass
from typing import Any, override

from azure.durable_functions.internal.serialization import FunctionsDataConverter


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
