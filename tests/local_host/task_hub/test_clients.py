"""Durabletask's own clients, unchanged: the asynchronous one, and the one of scheduled tasks."""

import asyncio
from collections.abc import Awaitable, Callable, Generator, Iterator
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import grpc
import pytest
from durabletask import task
from durabletask.client import AsyncTaskHubGrpcClient, OrchestrationFailedError, OrchestrationQuery
from durabletask.entities import DurableEntity, EntityInstanceId
from durabletask.scheduled import ScheduleCreationOptions, ScheduledTaskClient, ScheduleUpdateOptions, schedule_entity
from durabletask.scheduled.client import AsyncScheduledTaskClient
from durabletask.scheduled.schedule_status import ScheduleStatus

from local_host.testing import HubControl
from tests.local_host.task_hub.support import (
    COMPLETED,
    FAILED,
    PATIENCE,
    RUNNING,
    SUSPENDED,
    TERMINATED,
    hub_with_worker,
    refused,
)

type Steps = Generator[task.Task[Any], Any, Any]


def echo(_ctx: task.OrchestrationContext, given: Any) -> Any:
    return given


def broken(_ctx: task.OrchestrationContext, _: Any) -> Any:
    raise ValueError("no luck")


def waits(ctx: task.OrchestrationContext, _: Any) -> Steps:
    return (yield ctx.wait_for_external_event("go"))


def ticked(ctx: task.OrchestrationContext, given: Any) -> Any:
    return [given, ctx.instance_id]


class Counter(DurableEntity):
    def add(self, amount: int) -> None:
        self.set_state(self.get_state(int, 0) + amount)

    def drop(self) -> None:
        self.set_state(None)


@pytest.fixture(scope="module")
def hub() -> Iterator[HubControl]:
    """A hub with durabletask's own worker, for scheduled tasks too."""
    with hub_with_worker(
        orchestrators=[echo, broken, waits, ticked],
        entities=[Counter],
        prepare=lambda worker: worker.configure_scheduled_tasks(),
    ) as hub:
        yield hub


@pytest.fixture
def schedules(hub: HubControl, monkeypatch: pytest.MonkeyPatch) -> ScheduledTaskClient:
    """Scheduled tasks, on the hub's clock."""
    monkeypatch.setattr(schedule_entity, "_now", lambda: hub.now)
    return ScheduledTaskClient(hub.client, operation_timeout=PATIENCE)


class _ForStreams(grpc.aio.UnaryStreamClientInterceptor):
    """Brings the credential to streams: grpc uses durabletask's asynchronous interceptor for single answers only."""

    def __init__(self, metadata: Any) -> None:
        self._metadata = metadata

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(client_call_details._replace(metadata=grpc.aio.Metadata(*self._metadata)), request)


def _async(hub: HubControl, work: Callable[[AsyncTaskHubGrpcClient], Awaitable[None]]) -> None:
    async def run() -> None:
        async with AsyncTaskHubGrpcClient(
            host_address=hub.hub.address,
            metadata=list(hub.hub.metadata),
            interceptors=[_ForStreams(hub.hub.metadata)],
        ) as client:
            await asyncio.wait_for(work(client), PATIENCE)

    asyncio.run(run())


def test_the_asynchronous_client_starts_waits_and_reads(hub: HubControl) -> None:
    async def work(client: AsyncTaskHubGrpcClient) -> None:
        instance = await client.schedule_new_orchestration("echo", input="ü", tags={"a": "b"})
        state = await client.wait_for_orchestration_completion(instance, timeout=PATIENCE)
        assert state is not None
        assert (state.runtime_status, state.get_output()) == (COMPLETED, "ü")
        assert await client.wait_for_orchestration_start(instance, timeout=PATIENCE) is not None
        assert len(await client.get_orchestration_history(instance)) == 4
        page = await client.list_instance_ids(page_size=1)
        assert len(page.items) == 1
        query = OrchestrationQuery(instance_id_prefix=instance)
        assert [each.instance_id for each in await client.get_all_orchestration_states(query)] == [instance]
        again = await client.restart_orchestration(instance, restart_with_new_instance_id=True)
        assert again != instance
        assert (await client.purge_orchestration(instance)).deleted_instance_count == 1
        assert await client.get_orchestration_state(instance) is None

    _async(hub, work)


def test_the_asynchronous_client_leads_an_instance(hub: HubControl) -> None:
    async def work(client: AsyncTaskHubGrpcClient) -> None:
        async def status(instance: str) -> Any:
            state = await client.get_orchestration_state(instance)
            assert state is not None
            return state.runtime_status

        instance = await client.schedule_new_orchestration("waits")
        await client.wait_for_orchestration_start(instance, timeout=PATIENCE)
        await client.suspend_orchestration(instance, reason="x")
        assert await status(instance) is SUSPENDED
        await client.resume_orchestration(instance)
        assert await status(instance) is RUNNING
        await client.raise_orchestration_event(instance, "GO", data=[1])
        state = await client.wait_for_orchestration_completion(instance, timeout=PATIENCE)
        assert state is not None
        assert state.get_output() == [1]
        other = await client.schedule_new_orchestration("waits")
        await client.terminate_orchestration(other, output="over")
        assert await status(other) is TERMINATED
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.raise_orchestration_event(other, "go")
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        with pytest.raises(TimeoutError):
            await client.wait_for_orchestration_completion("nobody", timeout=0.05)
        failed = await client.schedule_new_orchestration("broken")
        state = await client.wait_for_orchestration_completion(failed, timeout=PATIENCE)
        assert state is not None
        assert state.runtime_status is FAILED
        with pytest.raises(OrchestrationFailedError, match="no luck"):
            state.raise_if_failed()  # type: ignore[no-untyped-call]
        await client.rewind_orchestration(failed)

    _async(hub, work)


def test_the_asynchronous_client_knows_entities(hub: HubControl) -> None:
    counter = EntityInstanceId("Counter", "async")

    async def work(client: AsyncTaskHubGrpcClient) -> None:
        await client.signal_entity(counter, "add", 5)
        await asyncio.to_thread(hub.settle)
        found = await client.get_entity(counter)
        assert found is not None
        assert found.get_typed_state() == 5
        assert [str(each.id) for each in await client.get_all_entities()] == ["@counter@async"]
        await client.signal_entity(counter, "drop")
        await asyncio.to_thread(hub.settle)
        found = await client.get_entity(counter)
        assert found is not None
        assert found.get_state() == ""
        assert (await client.clean_entity_storage()).empty_entities_removed == 1
        assert await client.get_entity(counter) is None

    _async(hub, work)


def test_many_asynchronous_calls_at_once_are_all_answered(hub: HubControl) -> None:
    async def work(client: AsyncTaskHubGrpcClient) -> None:
        async def one(number: int) -> Any:
            instance = await client.schedule_new_orchestration("echo", input=number)
            state = await client.wait_for_orchestration_completion(instance, timeout=PATIENCE)
            assert state is not None
            return state.get_output()

        assert await asyncio.gather(*(one(number) for number in range(100))) == list(range(100))

    _async(hub, work)


# Scheduled tasks


def _runs(hub: HubControl, prefix: str) -> list[Any]:
    hub.settle()
    query = OrchestrationQuery(instance_id_prefix=prefix, fetch_inputs_and_outputs=True)
    return [each.get_output() for each in hub.client.get_all_orchestration_states(query)]


def _options(hub: HubControl, schedule_id: str, **more: Any) -> ScheduleCreationOptions:
    return ScheduleCreationOptions(
        schedule_id=schedule_id,
        orchestration_name="ticked",
        orchestration_input="tick",
        interval=timedelta(minutes=1),
        **more,
    )


def test_a_schedule_starts_its_orchestration_at_each_of_its_times(
    hub: HubControl, schedules: ScheduledTaskClient
) -> None:
    schedules.create_schedule(_options(hub, "every-minute"))
    hub.settle()
    hub.advance(timedelta(minutes=3, seconds=30))
    runs = _runs(hub, "every-minute-")
    assert [each[0] for each in runs] == ["tick"] * 3
    times = [datetime.fromisoformat(each[1].removeprefix("every-minute-")) for each in runs]
    assert [later - earlier for earlier, later in pairwise(times)] == [timedelta(minutes=1)] * 2
    schedules.get_schedule_client("every-minute").delete()


def test_a_schedule_may_be_paused_resumed_updated_and_deleted(hub: HubControl, schedules: ScheduledTaskClient) -> None:
    schedule = schedules.create_schedule(_options(hub, "led"))
    hub.advance(timedelta(minutes=1))
    assert len(_runs(hub, "led-")) == 1
    schedule.pause()
    assert schedule.describe().status is ScheduleStatus.PAUSED
    hub.advance(timedelta(minutes=5))
    assert len(_runs(hub, "led-")) == 1
    schedule.resume()
    hub.advance(timedelta(minutes=2))
    assert len(_runs(hub, "led-")) == 3
    schedule.update(ScheduleUpdateOptions(interval=timedelta(hours=1)))
    hub.advance(timedelta(minutes=50))
    assert len(_runs(hub, "led-")) == 3
    hub.advance(timedelta(hours=1))
    assert len(_runs(hub, "led-")) == 4
    assert [each.schedule_id for each in schedules.list_schedules()] == ["led"]
    schedule.delete()
    hub.advance(timedelta(hours=5))
    assert len(_runs(hub, "led-")) == 4
    assert schedules.list_schedules() == []


def test_a_schedule_ends_at_its_end(hub: HubControl, schedules: ScheduledTaskClient) -> None:
    end = hub.now + timedelta(minutes=2, seconds=30)
    schedules.create_schedule(_options(hub, "ending", end_at=end))
    hub.advance(timedelta(minutes=10))
    assert len(_runs(hub, "ending-")) == 2
    assert schedules.get_schedule("ending") is None


def test_what_cannot_be_done_to_a_schedule_is_told(hub: HubControl, schedules: ScheduledTaskClient) -> None:
    stranger = schedules.get_schedule_client("stranger")
    for do in (stranger.pause, stranger.resume, stranger.describe):
        with pytest.raises(Exception, match=r".+"):
            do()
    assert schedules.get_schedule("stranger") is None


def test_the_asynchronous_client_of_schedules_does_the_same(hub: HubControl, schedules: ScheduledTaskClient) -> None:
    async def work(client: AsyncTaskHubGrpcClient) -> None:
        scheduled = AsyncScheduledTaskClient(client, operation_timeout=PATIENCE)
        schedule = await scheduled.create_schedule(_options(hub, "async"))
        assert (await schedule.describe()).status is ScheduleStatus.ACTIVE
        await schedule.pause()
        assert (await schedule.describe()).status is ScheduleStatus.PAUSED
        await schedule.delete()
        assert await scheduled.get_schedule("async") is None

    _async(hub, work)


def test_a_client_without_the_credential_is_not_let_in(hub: HubControl) -> None:
    async def work() -> None:
        async with AsyncTaskHubGrpcClient(host_address=hub.hub.address) as client:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.schedule_new_orchestration("echo")
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED

    asyncio.run(work())
    with refused(grpc.StatusCode.NOT_FOUND):  # the hub's own client is still welcome
        hub.client.suspend_orchestration("nobody")
