"""Calling functions: sync ones on threads, async ones on the event loop, each with a line in the log."""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any
from uuid import uuid4

import azure.functions as func
from azure.functions import _abc

from local_host.functions import Function

_LOGGER = logging.getLogger("local_host")


class InvocationError(Exception):
    """A function raised an exception, which is the cause of this one and stands in the log."""

    def __init__(self, function: str, invocation_id: str) -> None:
        super().__init__(f"The function '{function}' failed; the host's log has the details ({invocation_id}).")
        self.invocation_id = invocation_id


class TraceContext(_abc.TraceContext):
    """The W3C trace context that a request came with; empty where it came with none."""

    trace_parent: str = ""
    trace_state: str = ""
    attributes: dict[str, str] = {}  # noqa: RUF012  # nothing writes to it

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.trace_parent = headers.get("traceparent", "")
        self.trace_state = headers.get("tracestate", "")


class Context(func.Context):
    """What a function is told of its own invocation."""

    invocation_id: str = ""
    function_name: str = ""
    function_directory: str = ""
    trace_context: _abc.TraceContext = TraceContext({})
    retry_context: Any = None
    thread_local_storage: Any = None

    def __init__(self, function: Function, folder: Path, headers: Mapping[str, str]) -> None:
        self.invocation_id = str(uuid4())
        self.function_name = function.name
        self.function_directory = str(folder)
        self.trace_context = TraceContext(headers)
        self.thread_local_storage = threading.local()


class Invoker:
    """Calls the functions of one app.

    Sync functions run on a pool of ``PYTHON_THREADPOOL_THREAD_COUNT`` threads (the default is Python's own), as the
    Functions worker does it.
    """

    def __init__(self, folder: Path, client_configuration: str) -> None:
        self._folder = folder
        self._client_configuration = client_configuration
        self._pool = ThreadPoolExecutor(_thread_count(), thread_name_prefix="function")

    def close(self) -> None:
        """Wait for the functions that run on threads, and end the threads."""
        self._pool.shutdown(wait=True)

    async def invoke(self, function: Function, given: Any, headers: Mapping[str, str] | None = None) -> Any:
        """Call ``function`` with ``given`` as its trigger's input, and give back what it returns.

        Raises ``InvocationError`` from whatever the function raised, after it was logged whole.
        """
        context = Context(function, self._folder, headers or {})
        arguments = {function.trigger_parameter: given}
        for parameter in function.client_parameters:
            arguments[parameter] = self._client_configuration
        if function.wants_context:
            arguments["context"] = context
        started = time.perf_counter()
        try:
            result = await self._call(function, arguments)
        except (Exception, SystemExit, KeyboardInterrupt, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # the host cancels it; the function did not raise it
            _LOGGER.exception("%s failed (%s, %s)", function.name, _since(started), context.invocation_id)
            raise InvocationError(function.name, context.invocation_id) from error
        level = logging.INFO if function.route is not None else logging.DEBUG
        _LOGGER.log(level, "%s succeeded (%s, %s)", function.name, _since(started), context.invocation_id)
        return result

    async def _call(self, function: Function, arguments: dict[str, Any]) -> Any:
        if function.is_async:
            return await function.call(**arguments)
        run = copy_context().run
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: run(function.call, **arguments))


def _thread_count() -> int | None:
    given = os.environ.get("PYTHON_THREADPOOL_THREAD_COUNT", "")
    return int(given) if given.isdecimal() and int(given) > 0 else None


def _since(started: float) -> str:
    return f"{(time.perf_counter() - started) * 1000:.1f} ms"
