"""The effect of a guarded call: one attempt."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from durabletask.task import ActivityContext

from contracts.guarded_call import Attempt
from services import api_call

AT_ONCE = 32
_CALLS = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="call_api")
"""Threads of their own: servers that take their time must not keep those that all other functions share."""


async def call_api(_context: ActivityContext, request: dict[str, Any]) -> dict[str, Any]:
    """Make one attempt to call an outside API. Takes an ``Attempt``; gives an ``Answer``."""
    attempt = Attempt.model_validate(request)
    answer = await asyncio.get_running_loop().run_in_executor(_CALLS, api_call.make, attempt)
    return answer.plain()
