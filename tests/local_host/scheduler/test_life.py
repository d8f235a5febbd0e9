"""An engine's life: it drains, it is cut off, and the scheduler comes, goes, and comes back."""

import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import grpc
import pytest

from local_host.scheduler.connection import parse_connection
from local_host.testing import HubControl, running_hub
from tests.local_host.scheduler.support import Net, connection_to, ended, output, running_engine
from tests.polling import until


@pytest.fixture
def hub() -> Iterator[HubControl]:
    """The hub that plays the scheduler."""
    with running_hub() as hub:
        yield hub


def test_a_drain_waits_for_what_runs_which_is_not_handed_out_again(hub: HubControl) -> None:
    with running_engine(connection_to(hub)) as engine:
        begun = hub.start("call", {"activity": "gated", "input": "first"})
        until(lambda: engine.module.ran)
        drained = engine.drain_aside()
        later = hub.start("call", {"activity": "gated", "input": "second"})
        assert not drained.done()
        engine.module.gate.set()
        drained.result(30)
        assert hub.state(later).runtime_status.name == "PENDING"
        assert engine.module.ran == ["first"]
    with running_engine(connection_to(hub)) as engine:
        engine.module.gate.set()
        assert json.loads(ended(hub, later).serialized_output or "null") == "second"
        assert json.loads(ended(hub, begun).serialized_output or "null") == "first"
        assert engine.module.ran == ["second"]


def test_what_was_cut_off_is_handed_out_again(hub: HubControl) -> None:
    with running_engine(connection_to(hub)) as engine:
        instance = hub.start("call", {"activity": "gated", "input": "again"})
        until(lambda: engine.module.ran)
        drained = engine.drain_aside()
        drained.cancel()
        first_gate = engine.module.gate
    with running_engine(connection_to(hub)) as engine:
        until(lambda: engine.module.ran)
        first_gate.set()  # the thread of the first engine ends late, and changes nothing
        engine.module.gate.set()
        assert json.loads(ended(hub, instance).serialized_output or "null") == "again"


def test_no_more_run_at_once_than_there_are_slots(hub: HubControl) -> None:
    with running_engine(connection_to(hub)) as engine:
        started = [hub.start("call", {"activity": "gated", "input": number}) for number in range(7)]
        until(lambda: len(engine.module.ran) == 3)
        hub.start("wait")  # other kinds have slots of their own
        assert len(engine.module.ran) == 3
        engine.module.gate.set()
        assert {ended(hub, each).runtime_status.name for each in started} == {"COMPLETED"}


def test_an_engine_leaves_no_thread_behind(hub: HubControl) -> None:
    before = {each.ident for each in threading.enumerate()}
    with running_engine(connection_to(hub)) as engine:
        assert output(hub, "chain", 1) == [1]
        assert len(threading.enumerate()) > len(before)
        engine.drain_aside().result(30)
    until(lambda: all(each.ident in before or "function" in each.name for each in threading.enumerate()))


def test_a_stop_without_a_drain_and_without_work_is_a_stop(hub: HubControl) -> None:
    before = {each.ident for each in threading.enumerate()}
    with running_engine(connection_to(hub), work=False) as engine:
        engine.drain_aside().result(30)
    until(lambda: all(each.ident in before for each in threading.enumerate()))


def test_a_scheduler_that_is_not_there_yet_is_found_when_it_comes(
    hub: HubControl, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "local_host.scheduler")
    net = Net(hub.hub.address)
    try:
        net.cut()
        with running_engine(connection_to(hub, net.address)):
            until(lambda: "cannot be reached" in caplog.text)
            instance = hub.start("chain", 5)
            net.mend()
            assert ended(hub, instance).serialized_output == "[5]"
    finally:
        net.close()
    assert caplog.text.count("cannot be reached") == 1
    assert caplog.text.count("Connected to the Durable Task Scheduler") == 1


def test_a_scheduler_that_goes_away_is_told_once_and_found_again(
    hub: HubControl, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "local_host.scheduler")
    net = Net(hub.hub.address)
    try:
        with running_engine(connection_to(hub, net.address)) as engine:
            assert output(hub, "chain", 1) == [1]
            net.cut()
            until(lambda: "cannot be reached" in caplog.text)
            instance = hub.start("call", {"activity": "echo", "input": "back"})
            net.mend()
            assert ended(hub, instance).serialized_output == '"back"'
            with engine.client() as client:
                until(lambda: _is_seen(client, instance))
    finally:
        net.close()
    assert caplog.text.count("cannot be reached") == 1
    assert caplog.text.count("Connected to the Durable Task Scheduler") == 2
    assert hub.hub.credential not in caplog.text


def _is_seen(client: Any, instance: str) -> bool:
    try:
        return client.get_orchestration_state(instance) is not None
    except grpc.RpcError as error:
        return "UNAVAILABLE" not in str(error)


def test_what_ran_when_the_net_broke_is_run_again_and_counts_once(hub: HubControl) -> None:
    net = Net(hub.hub.address)
    try:
        with running_engine(connection_to(hub, net.address)) as engine:
            instance = hub.start("call", {"activity": "gated", "input": "twice"})
            until(lambda: engine.module.ran)
            net.cut()
            net.mend()
            until(lambda: len(engine.module.ran) == 2)
            engine.module.gate.set()
            assert ended(hub, instance).serialized_output == '"twice"'
    finally:
        net.close()


def test_a_stop_does_not_wait_for_a_scheduler_that_is_gone(hub: HubControl) -> None:
    net = Net(hub.hub.address)
    try:
        with running_engine(connection_to(hub, net.address)) as engine:
            hub.start("call", {"activity": "gated", "input": "cut"})
            until(lambda: engine.module.ran)
            net.cut()
            gate = engine.module.gate
        gate.set()
    finally:
        net.close()
    with running_engine(connection_to(hub)) as engine:
        engine.module.gate.set()
        hub.settle()


def test_a_scheduler_with_another_hub_refuses_and_that_is_told(
    hub: HubControl, caplog: pytest.LogCaptureFixture
) -> None:
    connection = replace(connection_to(hub), hub="another")
    with running_engine(connection):
        until(lambda: "UNAUTHENTICATED" in caplog.text)
    assert caplog.text.count("cannot be reached") == 1


def test_the_description_is_for_people() -> None:
    connection = parse_connection("Endpoint=http://127.0.0.1:1;TaskHub=mine;Authentication=None", "unused")
    with running_engine(connection, work=False) as engine:
        assert engine.engine.description == "the Durable Task Scheduler at http://127.0.0.1:1, task hub 'mine'"
