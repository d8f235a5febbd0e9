"""Terminate, suspend, resume, rewind and restart."""

import json
from typing import Any
from uuid import uuid4

import pytest

from tests.local_host.management.support import Api, bare, check_status, told, told_alone

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("query", "output"),
    [("", None), ("?reason=", None), ("?reason=not%20wanted%3B%20%C3%A9", "not wanted; é"), ("?REASON=7", 7)],
)
async def test_terminate_keeps_the_reason_as_output(api: Api, query: str, output: Any) -> None:
    instance_id = await api.running("gate")
    bare(await api.call("POST", f"/instances/{instance_id}/Terminate{query}"), 202)
    await api.wait(instance_id)
    answer = await api.call("GET", f"/instances/{instance_id}?returnInternalServerErrorOnFailure=true")
    assert answer.status_code == 200
    assert (answer.json()["runtimeStatus"], answer.json()["output"]) == ("Terminated", output)
    bare(await api.call("POST", f"/instances/{instance_id}/terminate{query}"), 410)


async def test_suspend_and_resume(api: Api) -> None:
    instance_id = await api.running("gate")
    path = f"/instances/{instance_id}"
    bare(await api.call("POST", f"{path}/suspend?reason=lunch"), 202)
    answer = await api.until(path, lambda got: got.json()["runtimeStatus"] == "Suspended")
    assert answer.status_code == 202
    assert answer.headers["retry-after"] == "5"
    bare(await api.call("POST", f"{path}/suspend"), 202)
    bare(await api.call("POST", f"{path}/raiseEvent/go", json="held"), 202)
    assert (await api.call("GET", path)).json()["runtimeStatus"] == "Suspended"
    bare(await api.call("POST", f"{path}/resume?reason=back"), 202)
    await api.wait(instance_id)
    status = (await api.call("GET", f"{path}?showHistory=true")).json()
    assert status["output"] == {"got": "held"}
    reasons = [(event["EventType"], event.get("Reason")) for event in status["historyEvents"]]
    assert ("ExecutionSuspended", "lunch") in reasons
    assert ("ExecutionResumed", "back") in reasons


async def test_a_suspended_instance_can_be_terminated(api: Api) -> None:
    instance_id = await api.running("gate")
    path = f"/instances/{instance_id}"
    await api.call("POST", f"{path}/suspend")
    await api.until(path, lambda got: got.json()["runtimeStatus"] == "Suspended")
    bare(await api.call("POST", f"{path}/terminate?reason=enough"), 202)
    await api.until(path, lambda got: got.json()["runtimeStatus"] == "Terminated")


async def test_resume_of_a_running_instance_is_accepted(api: Api) -> None:
    instance_id = await api.running("gate")
    bare(await api.call("POST", f"/instances/{instance_id}/resume"), 202)


@pytest.mark.parametrize("operation", ["terminate", "suspend", "resume"])
@pytest.mark.parametrize("function", ["echo", "broken"])
async def test_a_finished_instance_is_gone_for(api: Api, operation: str, function: str) -> None:
    instance_id = await api.finished(function)
    before = (await api.call("GET", f"/instances/{instance_id}")).json()
    bare(await api.call("POST", f"/instances/{instance_id}/{operation}?reason=late"), 410)
    assert (await api.call("GET", f"/instances/{instance_id}")).json() == before


async def test_rewind_runs_a_failed_instance_again(api: Api) -> None:
    instance_id = await api.finished("flaky", uuid4().hex)
    path = f"/instances/{instance_id}"
    assert (await api.call("GET", path)).json()["runtimeStatus"] == "Failed"
    bare(await api.call("POST", f"{path}/rewind?reason=fixed"), 202)
    answer = await api.until(path, lambda got: got.json()["runtimeStatus"] == "Completed")
    assert answer.json()["output"] == "lucky"


async def test_rewind_is_for_failed_instances_alone(api: Api) -> None:
    done, running = await api.finished("echo"), await api.running("gate")
    told_alone(await api.call("POST", f"/instances/{done}/rewind"), 412, "Completed")
    told_alone(await api.call("POST", f"/instances/{running}/rewind"), 412, "Running")


@pytest.mark.parametrize("query", ["", "?restartWithNewInstanceId=true", "?restartWithNewInstanceId=x"])
async def test_restart_under_a_new_id(api: Api, query: str) -> None:
    instance_id = await api.finished("echo", {"n": 1})
    answer = await api.call("POST", f"/instances/{instance_id}/restart{query}")
    new_id = answer.json()["id"]
    assert answer.status_code == 202
    assert new_id != instance_id
    assert answer.json() == check_status(new_id)
    assert answer.headers["location"] == answer.json()["statusQueryGetUri"]
    assert answer.headers["retry-after"] == "10"
    assert json.loads((await api.wait(new_id)).output.value) == {"n": 1}


async def test_restart_under_the_same_id(api: Api) -> None:
    instance_id = await api.finished("calling", 2)
    query = "restartWithNewInstanceId=false&timeout=5&pollingInterval=0.05"
    answer = await api.call("POST", f"/instances/{instance_id}/restart?{query}")
    assert (answer.status_code, answer.json()) == (200, 4)


async def test_restart_of_a_running_instance_starts_a_twin_but_never_takes_its_id(api: Api) -> None:
    instance_id = await api.running("gate", "seed")
    told(
        await api.call("POST", f"/instances/{instance_id}/restart?restartWithNewInstanceId=false"),
        409,
        "in use",
    )
    answer = await api.call("POST", f"/instances/{instance_id}/restart")
    assert answer.status_code == 202
    twin = (await api.call("GET", f"/instances/{answer.json()['id']}")).json()
    assert (twin["name"], twin["input"]) == ("gate", "seed")
    assert (await api.call("GET", f"/instances/{instance_id}")).json()["runtimeStatus"] == "Running"


async def test_restart_refuses_bad_times_before_it_starts_anything(fresh: Api) -> None:
    instance_id = await fresh.finished("echo")
    answer = await fresh.call("POST", f"/instances/{instance_id}/restart?timeout=1&pollingInterval=9")
    told(answer, 400, "pollingInterval")
    assert len((await fresh.call("GET", "/instances")).json()) == 1
