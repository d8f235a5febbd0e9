"""The worker: the app's functions do the work of a scheduler, which an embedded hub plays."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import azure.functions as func
import pytest
from durabletask.entities import EntityInstanceId

from local_host.testing import HubControl, running_hub
from tests.local_host.scheduler.support import EngineControl, connection_to, ended, output, running_engine


@pytest.fixture(scope="module")
def hub() -> Iterator[HubControl]:
    """The hub that plays the scheduler."""
    with running_hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def engine(hub: HubControl) -> Iterator[EngineControl]:
    """An engine that works for it."""
    with running_engine(connection_to(hub)) as engine:
        yield engine


def failure(hub: HubControl, name: str, given: Any = None) -> str:
    """Run an orchestration to its end, which has to be a failure, and give its message."""
    state = ended(hub, hub.start(name, given))
    assert state.failure_details is not None, state.serialized_output
    return state.failure_details.message


def test_an_orchestration_runs_with_its_activities(hub: HubControl, engine: EngineControl) -> None:
    assert output(hub, "chain", {"a": ["ü"]}) == [{"a": ["ü"]}]


def test_many_run_at_once_and_none_is_lost(hub: HubControl, engine: EngineControl) -> None:
    started = {hub.start("chain", number): number for number in range(40)}
    outputs = {number: ended(hub, instance).serialized_output for instance, number in started.items()}
    assert outputs == {number: f"[{number}]" for number in range(40)}


def test_an_entity_is_called_and_keeps_its_state(hub: HubControl, engine: EngineControl) -> None:
    assert [output(hub, "count", "kept"), output(hub, "count", "kept")] == [2, 4]
    entity = hub.client.get_entity(EntityInstanceId("counter", "kept"))
    assert entity is not None
    assert entity.get_state(int) == 4


def test_what_an_activity_raises_reaches_the_orchestrator(hub: HubControl, engine: EngineControl) -> None:
    assert "no luck" in failure(hub, "call", {"activity": "failing", "input": "luck"})


def test_what_the_app_does_not_have_fails_with_a_sentence(hub: HubControl, engine: EngineControl) -> None:
    assert "This app has no orchestrator 'Chain'" in failure(hub, "Chain")
    assert "This app has no activity 'nothing'" in failure(hub, "call", {"activity": "nothing"})


def test_events_and_terminations_reach_what_waits(hub: HubControl, engine: EngineControl) -> None:
    waits, stopped = hub.start("wait"), hub.start("wait")
    with engine.client() as client:
        client.raise_orchestration_event(waits, "go", data={"on": True})
        client.terminate_orchestration(stopped, output="enough")
    assert json.loads(ended(hub, waits).serialized_output or "") == {"on": True}
    assert ended(hub, stopped).runtime_status.name == "TERMINATED"


@pytest.mark.parametrize("name", ["by_sync_client", "by_async_client"])
def test_the_clients_of_functions_go_through_the_proxy(hub: HubControl, engine: EngineControl, name: str) -> None:
    function = next(each for each in engine.app.functions if each.name == name)
    request = func.HttpRequest("GET", "http://localhost/", params={"given": "hello"}, body=b"")

    async def invoke() -> Any:
        # As the Functions worker does it: the binding's converter makes a client of the configuration.
        return await engine.invoker.invoke(function, request)

    assert asyncio.run_coroutine_threadsafe(invoke(), engine.thread.loop).result(60) == '["hello"] True'


def test_the_hosts_own_stub_streams_a_history(hub: HubControl, engine: EngineControl) -> None:
    from durabletask.internal import orchestrator_service_pb2 as pb

    instance = hub.start("chain", 1)
    ended(hub, instance)

    async def read() -> list[pb.HistoryEvent]:
        stream = engine.engine.stub.StreamInstanceHistory(pb.StreamInstanceHistoryRequest(instanceId=instance))
        return [event async for chunk in stream for event in chunk.events]

    assert [event.WhichOneof("eventType") for event in engine.thread.run(read())][-1] == "executionCompleted"
