"""Calling functions: what they get, what may come back, and what becomes of those that take too long."""

import asyncio
import gc
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import azure.functions as func
import pytest

from local_host import logs
from local_host.bindings import Parameters
from local_host.functions import HTTP_TRIGGER, Function
from local_host.invocation import FunctionTimeout, InvocationError, Invoker, Out, RetryContext

SHORT = 0.05


def function(call: Callable[..., Any], **changes: Any) -> Function:
    """A function that takes ``given``."""
    fields: dict[str, Any] = {
        "name": "it",
        "call": call,
        "directory": "/app",
        "trigger_type": HTTP_TRIGGER,
        "trigger_parameter": "given",
        "trigger_settings": {},
        "bindings": (),
        "retry": None,
        "parameters": Parameters(wants_context=False, outputs=(), has_return=True),
        "durable_name": "it",
        "client_parameters": (),
        "response_parameter": None,
        "route": "it",
        "methods": (),
        "auth_level": "function",
        "is_async": asyncio.iscoroutinefunction(call),
    }
    return Function(**(fields | changes))


def run[T](work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end."""
    return asyncio.run(work())


def test_a_function_gets_its_context() -> None:
    def it(given: str, context: func.Context) -> tuple[Any, ...]:
        return (
            given,
            context.function_name,
            context.function_directory,
            context.trace_context.trace_parent,
            context.trace_context.trace_state,
            context.retry_context,
            context.invocation_id,
            logs.invocation.get(),
        )

    async def work() -> Any:
        invoker = Invoker("")
        wants_context = Parameters(wants_context=True, outputs=(), has_return=True)
        headers = {"traceparent": "00-1-2-01", "tracestate": "a=b"}
        return await invoker.invoke(function(it, parameters=wants_context), "x", headers, RetryContext(1, 3))

    *known, invocation_id, invocation = run(work)
    assert known == ["x", "it", "/app", "00-1-2-01", "a=b", RetryContext(1, 3)]
    assert (invocation.function_name, invocation.id) == ("it", invocation_id)
    assert logs.invocation.get() is None


@pytest.mark.parametrize("is_async", [False, True])
def test_a_response_can_be_set_instead_of_returned(is_async: bool) -> None:
    def it(given: str, response: func.Out[str]) -> None:
        response.set("first")
        response.set(given)

    async def it_async(given: str, response: func.Out[str]) -> None:
        it(given, response)

    async def work() -> Any:
        outputs = Parameters(wants_context=False, outputs=("response",), has_return=False)
        call = it_async if is_async else it
        return await Invoker("").invoke(function(call, parameters=outputs, response_parameter="response"), "x")

    assert run(work) == "x"


def test_an_output_that_is_not_set_is_none() -> None:
    assert Out().get() is None


def test_a_value_that_no_binding_takes_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> Any:
        nothing = Parameters(wants_context=False, outputs=(), has_return=False)
        assert await Invoker("").invoke(function(lambda given: None, parameters=nothing), "x") is None
        with pytest.raises(InvocationError):
            await Invoker("").invoke(function(lambda given: 7, parameters=nothing), "x")

    run(work)
    assert "The function returned int, but has no binding that takes it" in caplog.text


def test_an_async_function_that_takes_too_long_is_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []

    async def it(given: str) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def work() -> None:
        invoker = Invoker("", SHORT)
        with pytest.raises(FunctionTimeout, match="'it'"):
            await invoker.invoke(function(it), "x")
        while invoker.running:  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    run(work)
    assert seen == ["cancelled"]
    assert "it did not return within 0.05 s (functionTimeout)" in caplog.text


def test_an_async_function_that_will_not_be_cancelled_is_not_waited_for() -> None:
    async def work() -> None:
        go_on = asyncio.Event()

        async def it(given: str) -> None:
            while not go_on.is_set():
                try:
                    await go_on.wait()
                except asyncio.CancelledError:
                    continue

        invoker = Invoker("", SHORT)
        with pytest.raises(FunctionTimeout):
            await invoker.invoke(function(it), "x")
        assert invoker.running == ["it"]
        go_on.set()
        while invoker.running:  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    run(work)


def test_a_thread_that_never_returns_leaves_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHON_THREADPOOL_THREAD_COUNT", "1")
    go_on = threading.Event()

    async def work() -> None:
        invoker = Invoker("", SHORT)
        for _ in range(3):
            with pytest.raises(FunctionTimeout):
                await invoker.invoke(function(lambda given: go_on.wait(30)), "x")
        patient = Invoker("")
        patient._pool = invoker._pool
        assert await patient.invoke(function(lambda given: "others"), "x") == "others"
        assert invoker.running == ["it"]
        go_on.set()
        while invoker.running:  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    run(work)


def test_what_only_waited_for_a_thread_costs_none(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PYTHON_THREADPOOL_THREAD_COUNT", "1")
    go_on, entered = threading.Event(), threading.Event()
    ran: list[str] = []

    def blocks(given: str) -> None:
        entered.set()
        go_on.wait(30)

    async def work() -> None:
        invoker = Invoker("")
        first = asyncio.ensure_future(invoker.invoke(function(blocks), "x"))
        await asyncio.to_thread(entered.wait, 30)
        pool = invoker._pool
        hasty = Invoker("", SHORT)
        hasty._pool = pool
        with pytest.raises(FunctionTimeout):
            await hasty.invoke(function(ran.append), "x")
        assert hasty._pool is pool
        assert "it did not begin within 0.05 s (functionTimeout)" in caplog.text
        go_on.set()
        await first

    run(work)
    assert ran == []


class Unusual(BaseException):
    """Raised by some libraries past ``except Exception``."""


@pytest.mark.parametrize(
    "raised", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), TimeoutError("own"), Unusual("odd")]
)
@pytest.mark.parametrize("is_async", [False, True])
def test_whatever_a_function_raises_is_its_failure_and_no_timeout(is_async: bool, raised: BaseException) -> None:
    def it(given: str) -> None:
        raise raised

    async def it_async(given: str) -> None:
        await asyncio.sleep(0)
        raise raised

    async def work() -> BaseException | None:
        with pytest.raises(InvocationError) as failed:
            await Invoker("", 30).invoke(function(it_async if is_async else it), "x")
        assert not isinstance(failed.value, FunctionTimeout)
        return failed.value.__cause__

    cause = run(work)
    assert type(cause) is type(raised)
    assert str(cause) == str(raised)


def test_a_function_of_a_request_that_is_given_up_is_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []

    async def it(given: str) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            seen.append("ended")

    async def work() -> None:
        invoker = Invoker("")
        request = asyncio.ensure_future(invoker.invoke(function(it), "x"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        while invoker.running:  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    run(work)
    assert seen == ["ended"]
    assert "it was cut off (" in caplog.text


def test_each_invocation_has_a_line_with_outcome_and_duration(caplog: pytest.LogCaptureFixture) -> None:
    given = "secret" + " input"

    async def work() -> None:
        invoker = Invoker("")
        await invoker.invoke(function(lambda given: given), given)
        with pytest.raises(InvocationError):
            await invoker.invoke(function(lambda given: 1 // 0), given)

    with caplog.at_level(logging.INFO):
        run(work)
    succeeded, failed = (record for record in caplog.records if record.name == logs.FUNCTION_LOGGER)
    assert succeeded.levelno == logging.INFO
    assert succeeded.getMessage().startswith("it succeeded (")
    assert succeeded.getMessage().endswith(" ms)")
    assert failed.levelno == logging.ERROR
    assert failed.getMessage().startswith("it failed (")
    assert "ZeroDivisionError" in caplog.text
    assert "secret input" not in caplog.text


@pytest.mark.parametrize("count", ["", "0", "-1", "many", "9" * 100])
def test_a_number_of_threads_that_cannot_be_is_the_default(monkeypatch: pytest.MonkeyPatch, count: str) -> None:
    monkeypatch.setenv("PYTHON_THREADPOOL_THREAD_COUNT", count)
    assert run(_one_call) == "x"


async def _one_call() -> Any:
    return await Invoker("").invoke(function(lambda given: given), "x")


def test_what_a_function_raises_after_it_was_given_up_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    go_on = threading.Event()

    def it(given: str) -> None:
        go_on.wait(30)
        raise ValueError("too late")

    async def work() -> None:
        invoker = Invoker("", SHORT)
        with pytest.raises(FunctionTimeout):
            await invoker.invoke(function(it), "x")
        go_on.set()
        while invoker.running:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)

    run(work)
    gc.collect()
    assert "never retrieved" not in caplog.text
    assert "too late" not in caplog.text


def test_a_traceback_in_the_log_begins_with_the_function(caplog: pytest.LogCaptureFixture) -> None:
    def it(given: str) -> None:
        raise ValueError("broken")

    async def work() -> None:
        with pytest.raises(InvocationError):
            await Invoker("").invoke(function(it), "x")

    run(work)
    frames = [line.strip() for line in caplog.text.splitlines() if line.strip().startswith("File ")]
    assert len(frames) == 1
    assert frames[0].startswith(f'File "{__file__}"')
