"""The effect of a guarded call: one attempt."""

from typing import Any

from durabletask.task import ActivityContext

from contracts.guarded_call import Attempt
from services import api_call


def call_api(_context: ActivityContext, request: dict[str, Any]) -> dict[str, Any]:
    """Make one attempt to call an outside API. Takes an ``Attempt``; gives an ``Answer``."""
    return api_call.make(Attempt.model_validate(request)).plain()
