"""The SDK's clients, which call the hub of their own host directly: the same calls, answers and errors as over gRPC."""

import asyncio
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from azure.durable_functions import client as sdk

from local_host.client_binding import client_configuration
from local_host.direct_client import install
from local_host.task_hub import ManualClock, TaskHub
from local_host.testing import HubControl, HubThread


class Direct:
    """A hub, the thread of its loop, and the configuration of its clients."""

    def __init__(self) -> None:
        self.thread = HubThread()
        self.hub = TaskHub(None, clock=ManualClock())
        self.thread.run(self.hub.start())
        self.configuration = client_configuration(self.hub.address, self.hub.credential, "http://127.0.0.1:1", "hub")
        self.undo = self.thread.run(self._install())
        self.control = HubControl(self.thread, self.hub)

    async def _install(self) -> Any:
        return install(self.configuration, self.hub)

    def asynchronously(self, call: Any) -> Any:
        """Call an async client, made for the call as the SDK makes it, on the hub's loop."""

        async def work() -> Any:
            client = sdk.DurableFunctionsClient(self.configuration)
            try:
                return await call(client)
            finally:
                await client.close()

        return self.thread.run(work())

    def close(self) -> None:
        """Stop all of it."""
        self.undo()
        self.control.close()
        self.thread.run(self.hub.stop())
        self.thread.close()


@pytest.fixture(scope="module")
def direct() -> Iterator[Direct]:
    """A hub whose clients are direct, without a worker."""
    direct = Direct()
    yield direct
    direct.close()


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest, direct: Direct) -> Any:
    """Call a method of a client of either kind."""
    if request.param == "sync":
        client = sdk.SyncDurableFunctionsClient.get_cached(direct.configuration)
        return lambda name, *arguments, **options: getattr(client, name)(*arguments, **options)
    return lambda name, *arguments, **options: direct.asynchronously(
        lambda client: getattr(client, name)(*arguments, **options)
    )


def test_no_channel_is_opened(direct: Direct) -> None:
    async def channel(client: Any) -> Any:
        await client.get_orchestration_state("nobody")
        return client._channel

    assert direct.asynchronously(channel) is None


def test_what_is_written_can_be_read_at_once(call: Any) -> None:
    instance = call("schedule_new_orchestration", "nobody runs it", input={"ü": 1})
    state = call("get_orchestration_state", instance)
    assert (state.name, state.serialized_input) == ("nobody runs it", '{"\\u00fc": 1}')
    call("suspend_orchestration", instance)
    assert call("get_orchestration_state", instance).runtime_status.name == "SUSPENDED"
    call("terminate_orchestration", instance, output="enough")
    assert call("wait_for_orchestration_completion", instance, timeout=5).serialized_output == '"enough"'
    assert len(call("get_orchestration_history", instance)) == 3
    assert call("purge_orchestration", instance).deleted_instance_count == 1
    assert call("get_orchestration_state", instance) is None


@pytest.mark.parametrize(
    ("name", "arguments", "code"),
    [
        ("raise_orchestration_event", ("nobody", "event"), grpc.StatusCode.NOT_FOUND),
        ("rewind_orchestration", ("nobody",), grpc.StatusCode.NOT_FOUND),
        ("get_orchestration_history", ("nobody",), grpc.StatusCode.NOT_FOUND),
        ("schedule_new_orchestration", ("",), grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_errors_are_those_of_grpc(call: Any, name: str, arguments: tuple[Any, ...], code: grpc.StatusCode) -> None:
    options = {"reason": "x"} if name.startswith("rewind") else {}
    with pytest.raises(grpc.RpcError) as caught:
        call(name, *arguments, **options)
    assert caught.value.code() is code
    assert "Traceback" not in str(caught.value)


def test_an_id_that_is_taken_is_told(call: Any) -> None:
    instance = call("schedule_new_orchestration", "nobody runs it")
    with pytest.raises(grpc.RpcError) as caught:
        call("schedule_new_orchestration", "nobody runs it", instance_id=instance)
    assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS


def test_waiting_ends_at_its_time(call: Any) -> None:
    instance = call("schedule_new_orchestration", "nobody runs it")
    with pytest.raises(TimeoutError):
        call("wait_for_orchestration_completion", instance, timeout=0.05)


def test_a_client_of_another_hub_goes_its_own_way(direct: Direct) -> None:
    other = direct.configuration.replace(direct.hub.credential, "another hub")

    async def call() -> Any:
        client = sdk.DurableFunctionsClient(other)
        try:
            return await client.get_orchestration_state("x")
        finally:
            await client.close()

    with pytest.raises(grpc.RpcError) as caught:
        direct.thread.run(call())
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_after_the_stop_the_sdk_is_as_it_was() -> None:
    before = sdk.DurableFunctionsClient._get_stub
    direct = Direct()
    client = sdk.SyncDurableFunctionsClient.get_cached(direct.configuration)
    assert sdk.DurableFunctionsClient._get_stub is not before
    direct.close()
    assert sdk.DurableFunctionsClient._get_stub is before
    assert direct.configuration not in sdk._sync_client_cache
    with pytest.raises(grpc.RpcError) as caught:
        client.get_orchestration_state("x")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_call_of_a_coroutine_that_is_cancelled_leaves_the_hub_working(direct: Direct) -> None:
    async def cancelled() -> None:
        client = sdk.DurableFunctionsClient(direct.configuration)
        task = asyncio.ensure_future(client.wait_for_orchestration_completion("nobody", timeout=60))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    direct.thread.run(cancelled())
    assert direct.control.hub._waiting == {}


def test_an_async_client_on_another_loop_works_over_grpc(direct: Direct) -> None:
    async def call() -> Any:
        client = sdk.DurableFunctionsClient(direct.configuration)
        try:
            instance = await client.schedule_new_orchestration("nobody runs it")
            return await client.get_orchestration_state(instance)
        finally:
            await client.close()

    assert asyncio.run(call()).runtime_status.name == "PENDING"


def test_a_sync_client_on_the_loop_of_the_hub_is_an_error_and_no_deadlock(direct: Direct) -> None:
    async def call() -> None:
        client = sdk.SyncDurableFunctionsClient.get_cached(direct.configuration)
        with pytest.raises(RuntimeError, match="use the async one"):
            client.schedule_new_orchestration("nobody runs it")

    direct.thread.run(call())
