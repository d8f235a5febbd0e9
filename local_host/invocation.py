"""Calling functions: sync ones on threads, async ones on the event loop, each with a line in the log."""

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, thread
from contextvars import copy_context
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from uuid import uuid4

import azure.functions as func
from azure.functions import _abc

from local_host import logs
from local_host.functions import Function

_HOST_FILES = (__file__, thread.__file__)

type _Work = asyncio.Task[Any] | Future[Any]

_LOGGER = logging.getLogger("local_host.function")


class InvocationError(Exception):
    """A function raised an exception, which is the cause of this one and stands in the log."""

    def __init__(self, function: str, invocation_id: str) -> None:
        super().__init__(f"The function '{function}' failed; the host's log has the details ({invocation_id}).")


class FunctionTimeout(InvocationError):
    """A function did not return within ``functionTimeout``, and is not waited for any more."""


class TraceContext(_abc.TraceContext):
    """The W3C trace context that a request came with; empty where it came with none."""

    trace_parent: str = ""
    trace_state: str = ""
    attributes: dict[str, str] = {}  # noqa: RUF012  # nothing writes to it

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.trace_parent = self.Traceparent = headers.get("traceparent", "")
        self.trace_state = self.Tracestate = headers.get("tracestate", "")
        self.Attributes = self.attributes  # the names with capitals are the old ones


@dataclass(frozen=True)
class RetryContext:
    """How often the function was tried again before, and how often it will be at most."""

    retry_count: int = 0
    max_retry_count: int = 0
    exception: None = None
    rpc_exception: None = None  # the name that Microsoft's worker has for it


class Context(func.Context):
    """What a function is told of its own invocation."""

    invocation_id: str = ""
    function_name: str = ""
    function_directory: str = ""
    trace_context: _abc.TraceContext = TraceContext({})
    retry_context: Any = None
    thread_local_storage: Any = logs.thread_local_storage

    def __init__(self, function: Function, headers: Mapping[str, str], retry: RetryContext) -> None:
        self.invocation_id = str(uuid4())
        self.function_name = function.name
        self.function_directory = function.directory
        self.trace_context = TraceContext(headers)
        self.retry_context = retry


class Out(func.Out[Any]):
    """An output parameter: what was set last goes out."""

    def __init__(self) -> None:
        self._value: Any = None

    def set(self, val: Any) -> None:
        """Set what goes out."""
        self._value = val

    def get(self) -> Any:
        """Give what was set, None before."""
        return self._value


class Invoker:
    """Calls the functions of one app.

    Sync functions run on a pool of ``PYTHON_THREADPOOL_THREAD_COUNT`` threads (the default is Python's own), as the
    Functions worker does it. ``timeout`` is in seconds, None for none.
    """

    def __init__(self, client_configuration: str, timeout: float | None = None) -> None:
        self._client_configuration = client_configuration
        self._timeout = timeout
        self._pool = _new_pool()
        self._running: dict[_Work, str] = {}

    @property
    def running(self) -> list[str]:
        """The names of the functions that have not returned, those that are not waited for any more among them."""
        return sorted(set(self._running.values()))

    def close(self) -> None:
        """Begin nothing more on the threads. Those that run go on; nothing can end a thread from outside."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def invoke(
        self,
        function: Function,
        given: Any,
        headers: Mapping[str, str] | None = None,
        retry: RetryContext = RetryContext(),
    ) -> Any:
        """Call ``function`` with ``given`` as its trigger's input, and give what it returns, or sets as the response.

        Raises ``InvocationError`` from whatever the function raised, after it was logged whole, and ``FunctionTimeout``
        when it took too long: a coroutine is cancelled then, a thread is left behind, and others take its place.
        """
        context = Context(function, headers or {}, retry)
        arguments = self._arguments(function, given, context)
        token = logs.invocation.set(logs.Invocation(function.name, context.invocation_id))
        started = time.perf_counter()
        try:
            result = await self._finish(function, self._begin(function, arguments))
            if result is not None and not function.parameters.has_return:
                raise TypeError(f"The function returned {type(result).__name__}, but has no binding that takes it")  # noqa: TRY301
        except _TookTooLong as error:
            _LOGGER.error("%s %s within %g s (functionTimeout)", function.name, error, self._timeout)  # noqa: TRY400
            raise FunctionTimeout(function.name, context.invocation_id) from None
        except BaseException as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                _LOGGER.warning("%s was cut off (%s)", function.name, _since(started))
                raise  # the host cancels it; the function did not raise it
            cause = error.__cause__ if isinstance(error, _Exit) and error.__cause__ is not None else error
            _LOGGER.exception("%s failed (%s)", function.name, _since(started), exc_info=_own_part(cause))
            raise InvocationError(function.name, context.invocation_id) from cause
        else:
            _LOGGER.info("%s succeeded (%s)", function.name, _since(started))
        finally:
            logs.invocation.reset(token)
        response = function.response_parameter
        return arguments[response].get() if response is not None and result is None else result

    def _arguments(self, function: Function, given: Any, context: Context) -> dict[str, Any]:
        arguments = {function.trigger_parameter: given}
        arguments |= dict.fromkeys(function.client_parameters, self._client_configuration)
        arguments |= {name: Out() for name in function.parameters.outputs}
        if function.parameters.wants_context:
            arguments["context"] = context
        return arguments

    def _begin(self, function: Function, arguments: dict[str, Any]) -> _Work:
        if function.is_async:
            work: _Work = asyncio.ensure_future(_call_on_loop(function, arguments))
        else:
            work = self._pool.submit(copy_context().run, _call_on_thread, function, arguments)
        self._running[work] = function.name
        work.add_done_callback(self._forget)
        return work

    def _forget(self, work: Any) -> None:
        self._running.pop(work, None)

    async def _finish(self, function: Function, work: _Work) -> Any:
        """Wait for a function as long as it may take. It is not asked whether it agrees to end: it may not."""
        future = asyncio.wrap_future(work) if isinstance(work, Future) else work
        try:
            done, _ = await asyncio.wait([future], timeout=self._timeout)
        except asyncio.CancelledError:
            work.cancel()
            raise
        if done:
            return future.result()
        future.add_done_callback(_ignored)
        if work.cancel():
            raise _TookTooLong("did not return" if function.is_async else "did not begin")
        # Its thread is lost to the pool. What waits there for another one has as much time as this had.
        full, self._pool = self._pool, _new_pool()
        full.shutdown(wait=False)
        raise _TookTooLong("did not return")


class _TookTooLong(Exception):
    """A function was given up; the text says what it did not do in time."""


class _Exit(Exception):
    """A coroutine raised ``SystemExit`` or ``KeyboardInterrupt``, which from a task would end the event loop."""


def _call_on_thread(function: Function, arguments: dict[str, Any]) -> Any:
    _store_id()
    try:
        return function.call(**arguments)
    finally:
        logs.thread_local_storage.invocation_id = None


async def _call_on_loop(function: Function, arguments: dict[str, Any]) -> Any:
    _store_id()
    try:
        return await function.call(**arguments)
    except (SystemExit, KeyboardInterrupt) as error:
        raise _Exit from error


def _store_id() -> None:
    """Let the function find its invocation's id where it may put it for threads of its own."""
    invocation = logs.invocation.get()
    logs.thread_local_storage.invocation_id = invocation.id if invocation is not None else None


def _ignored(future: asyncio.Future[Any]) -> None:
    """Take note of what a function raises that nobody waits for any more, which asyncio would report else."""
    if not future.cancelled():
        future.exception()


def _own_part(error: BaseException) -> tuple[type[BaseException], BaseException, TracebackType | None]:
    """An exception for the log, without the frames that the host stands in."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None and trace.tb_frame.f_code.co_filename in _HOST_FILES:
        trace = trace.tb_next
    return type(error), error, trace


def _new_pool() -> ThreadPoolExecutor:
    given = os.environ.get("PYTHON_THREADPOOL_THREAD_COUNT", "")
    count = int(given) if given.isdecimal() and len(given) < 10 and int(given) > 0 else None
    return ThreadPoolExecutor(count, thread_name_prefix="function")


def _since(started: float) -> str:
    return f"{(time.perf_counter() - started) * 1000:.1f} ms"
