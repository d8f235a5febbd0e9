"""The status of an instance."""

import json
import re

import durabletask.internal.orchestrator_service_pb2 as pb
import pytest
from google.protobuf import wrappers_pb2

from local_host.management.shapes import status_payload
from tests.local_host.management.support import OPERATIONS, ORIGIN, PREFIX, Api, bare, told, without_times

pytestmark = pytest.mark.anyio


async def test_status_of_a_pending_instance(idle: Api) -> None:
    await idle.start("echo", {"a": 1}, "p")
    answer = await idle.call("GET", "/instances/p?code=k&showHistory=true")
    assert answer.status_code == 202
    assert answer.headers["location"] == f"{ORIGIN}{PREFIX}/instances/p?code=k&showHistory=true"
    assert answer.headers["retry-after"] == "5"
    assert without_times(answer.json()) == {
        "name": "echo",
        "instanceId": "p",
        "runtimeStatus": "Pending",
        "input": {"a": 1},
        "customStatus": None,
        "output": None,
    }


async def test_status_of_a_running_instance_shows_its_custom_status(api: Api) -> None:
    instance_id = await api.running("gate")
    answer = await api.call("GET", f"/instances/{instance_id}")
    assert answer.status_code == 202
    assert without_times(answer.json()) == {
        "name": "gate",
        "instanceId": instance_id,
        "runtimeStatus": "Running",
        "input": None,
        "customStatus": {"stage": "waiting"},
        "output": None,
    }


async def test_a_custom_status_that_was_never_set_is_null(api: Api) -> None:
    instance_id = await api.running("plain_gate")
    assert (await api.call("GET", f"/instances/{instance_id}")).json()["customStatus"] is None


async def test_status_of_a_completed_instance(api: Api) -> None:
    instance_id = await api.finished("echo", ["x", None, 1.5, "\ud800"])
    answer = await api.call("GET", f"/instances/{instance_id}")
    assert answer.status_code == 200
    assert "location" not in answer.headers
    assert "retry-after" not in answer.headers
    assert without_times(answer.json()) == {
        "name": "echo",
        "instanceId": instance_id,
        "runtimeStatus": "Completed",
        "input": ["x", None, 1.5, "\ud800"],
        "customStatus": None,
        "output": ["x", None, 1.5, "\ud800"],
    }


async def test_a_payload_that_is_not_json_is_shown_as_text(api: Api) -> None:
    instance_id = await api.finished("not_a_number")
    assert (await api.call("GET", f"/instances/{instance_id}")).json()["output"] == "NaN"


@pytest.mark.parametrize("depth", [500, 5_000, *range(9_985, 10_005), 50_000])
async def test_a_deeply_nested_payload_does_not_break_the_status(idle: Api, depth: int) -> None:
    text = "[" * depth + "]" * depth
    await idle.stub.StartInstance(
        pb.CreateInstanceRequest(instanceId="deep", name="echo", input=wrappers_pb2.StringValue(value=text))
    )
    answer = await idle.call("GET", "/instances/deep")
    assert answer.status_code == 202
    shown = re.search(r'"input": "?(\[*)', answer.text)
    assert shown is not None
    assert len(shown[1]) == depth


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 200),
        ("?returnInternalServerErrorOnFailure=true", 500),
        ("?RETURNINTERNALSERVERERRORONFAILURE=True", 500),
        ("?returnInternalServerErrorOnFailure=false", 200),
        ("?returnInternalServerErrorOnFailure=maybe", 200),
    ],
)
async def test_status_of_a_failed_instance(api: Api, query: str, status: int) -> None:
    instance_id = await api.finished("broken", 7)
    answer = await api.call("GET", f"/instances/{instance_id}{query}")
    assert answer.status_code == status
    assert without_times(answer.json()) == {
        "name": "broken",
        "instanceId": instance_id,
        "runtimeStatus": "Failed",
        "input": 7,
        "customStatus": None,
        "output": "builtins.ValueError: the reactor is cold",
    }


async def test_only_a_failure_becomes_an_internal_server_error(api: Api) -> None:
    instance_id = await api.finished("echo")
    query = "returnInternalServerErrorOnFailure=true"
    assert (await api.call("GET", f"/instances/{instance_id}?{query}")).status_code == 200


async def test_status_without_the_input_keeps_the_output(api: Api) -> None:
    instance_id = await api.finished("echo", "secret")
    status = (await api.call("GET", f"/instances/{instance_id}?showInput=FALSE")).json()
    assert (status["input"], status["output"]) == (None, "secret")


@pytest.mark.parametrize("instance_id", ["nobody", "a%2Fb", "%00", "@counter@x", "x" * 5000, "%D0%BF"])
async def test_unknown_instances_are_not_found(idle: Api, instance_id: str) -> None:
    bare(await idle.call("GET", f"/instances/{instance_id}"), 404)
    bare(await idle.call("DELETE", f"/instances/{instance_id}"), 404)
    bare(await idle.call("POST", f"/instances/{instance_id}/raiseEvent/go", json=1), 404)
    for operation in OPERATIONS:
        answer = await idle.call("POST", f"/instances/{instance_id}/{operation}")
        if operation == "restart":
            told(answer, 400, "does not match")
        else:
            bare(answer, 404)


def test_a_blank_payload_is_a_blank_text_and_one_that_is_not_there_is_null() -> None:
    blank = wrappers_pb2.StringValue(value=" ")
    state = pb.OrchestrationState(input=blank, output=blank, customStatus=blank)
    assert {name: status_payload(state)[name] for name in ("input", "output", "customStatus")} == {
        "input": "",
        "output": "",
        "customStatus": None,
    }
    nothing = status_payload(pb.OrchestrationState())
    assert (nothing["input"], nothing["output"], nothing["customStatus"]) == (None, None, None)


@pytest.mark.parametrize("text", ["0", "false", '""', "[]", "null"])
def test_a_custom_status_that_is_little_is_shown(text: str) -> None:
    state = pb.OrchestrationState(customStatus=wrappers_pb2.StringValue(value=text))
    assert status_payload(state)["customStatus"] == json.loads(text)
