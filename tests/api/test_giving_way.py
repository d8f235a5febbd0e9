"""Runs with sub-orchestrations that give way to others of their id."""

from collections.abc import Callable, Generator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from azure.durable_functions import DurableFunctionsClient
from durabletask import task
from durabletask.worker import TaskHubGrpcWorker

from activities.records import record
from contracts.base import Contract
from contracts.outcome import Outcome
from contracts.start import StartOptions
from local_host.direct_client import install
from local_host.task_hub.clock import SystemClock
from local_host.testing import HubControl, running_hub
from orchestrators.event_payload import EventConverter
from orchestrators.run_record import RunRecord
from services import clock, trail, waits
from services.record_store import get_record_store
from services.states import head_of, run_of
from services.verification import verify
from tests.api.starting import NoTurns, configuration_of, many
from tests.polling import until
from triggers import starting
from triggers.starting import start

BOB = "bob@example.com"
ENDS_FIRST = "ALLOW_TERMINATE_IF_RUNNING"


def parent(ctx: task.OrchestrationContext, _: Any) -> Generator[task.Task[Any], Any, str]:
    """Waits for its child."""
    said: str = yield ctx.call_sub_orchestrator("child", version="3")
    return said


def child(ctx: task.OrchestrationContext, _: Any) -> Generator[task.Task[Any], Any, str]:
    """Says that it waits for somebody, and waits."""
    record_of = RunRecord(ctx)
    record_of.enter("waiting", waiting_for="go")
    record_of.note("asked")
    deadline = ctx.current_utc_datetime + timedelta(days=1)
    record_of.open_wait(kind="child", title="Go", people=(BOB,), deadline=deadline, actions=("go",), path="/child")
    yield from record_of.store()
    yield ctx.wait_for_external_event("go")
    record_of.close_wait()
    record_of.note("ended")
    yield from record_of.store()
    record_of.enter("gone")
    outcome: str = record_of.outcome(ChildOutcome())["status"]
    return outcome


class ChildOutcome(Outcome):
    """The output of the child."""

    status: str = "gone"


@pytest.fixture
def hub(data_folder: Path, request: pytest.FixtureRequest) -> Iterator[HubControl]:
    """A hub with a worker of durabletask's own, for the parent and the child above."""
    with running_hub(clock=getattr(request, "param", None)) as control:
        options: Any = {"host_address": control.hub.address, "metadata": list(control.hub.metadata)}
        worker = TaskHubGrpcWorker(**options, data_converter=EventConverter())
        orchestrators: list[Any] = [parent, child]
        for each in orchestrators:
            worker.add_orchestrator(each)
        worker.add_activity(record)
        worker.start()  # type: ignore[no-untyped-call]
        clock.set_clock(lambda: control.now)

        async def install_here() -> Callable[[], None]:
            return install(configuration_of(control), control.hub)

        undo = control._thread.run(install_here())
        try:
            until(lambda: control.hub.has_workers)
            yield control
        finally:
            undo()
            clock.set_clock(clock.system_clock)
            worker.stop()  # type: ignore[no-untyped-call]


def begin(control: HubControl, policy: str | None = None, name: str = "family") -> str:
    """Start the parent as the app's functions do, and give the id of its child when all has settled."""

    async def on_loop() -> str:
        options = StartOptions.model_validate({"idReusePolicy": policy} if policy else {})
        return await start(DurableFunctionsClient(configuration_of(control)), "parent", name, Contract(), options)

    control.advance(timedelta(seconds=1))
    assert control._thread.run(on_loop()) == name
    control.settle()
    history = control.history(name)
    [created] = [each for each in history if each.HasField("subOrchestrationInstanceCreated")]
    return str(created.subOrchestrationInstanceCreated.instanceId)


@pytest.mark.parametrize("how", ["going", "terminated_alone", "completed"])
def test_sub_orchestrations_give_way_with_their_parents_on_record_like_them(hub: HubControl, how: str) -> None:
    childs_id = begin(hub)
    [(first, _)] = waits.of_instance(get_record_store(), childs_id)
    if how == "terminated_alone":  # as where the host does not end them with their parent
        hub.client.terminate_orchestration("family", recursive=False)
        assert hub.state(childs_id).runtime_status.name == "RUNNING"
    elif how == "completed":
        hub.event(childs_id, "go")
        assert hub.output("family") == "gone"
    assert begin(hub, ENDS_FIRST) == childs_id
    found = waits.of_instance(get_record_store(), childs_id)
    assert [is_open for _, is_open in found] == [False, True]
    assert found[0][0] == first
    ended = [("ended", "terminated")] if how != "completed" else []
    noted = [
        (each.action, each.after) for each in trail.read(get_record_store(), childs_id).entries if each.run == first.run
    ]
    assert [*ended, ("purged", None)] == noted[-len(ended) - 1 :]
    live = head_of(hub.state(childs_id))
    assert verify(trail.read(get_record_store(), childs_id), childs_id, live, {}, []).verdict == "intact"
    hub.event(childs_id, "go")
    assert hub.output("family") == "gone"


@pytest.mark.parametrize("hub", [SystemClock()], indirect=True)
def test_starts_of_many_processes_that_end_one_another_all_succeed(
    hub: HubControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "_turns", NoTurns())
    assert many(hub, "parent", Contract(), "family", ENDS_FIRST, calls=10) == ["family"] * 10
    assert hub.state("family").runtime_status.name == "RUNNING"
    assert hub.state("family:0001").runtime_status.name == "RUNNING"
    run = run_of(hub.state("family:0001"))
    assert [wait.run for wait, is_open in waits.of_instance(get_record_store(), "family:0001") if is_open] == [run]
    hub.event("family:0001", "go")
    assert hub.output("family") == "gone"
