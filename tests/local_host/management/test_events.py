"""Raising events."""

import json
from typing import Any

import durabletask.internal.orchestrator_service_pb2 as pb
import pytest
from durabletask.testing import InMemoryOrchestrationBackend

from tests.local_host.management.support import JSON, Api, bare, connected, serving, told

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("content", "got"),
    [("null", None), ("\ufeff1", 1), ("[1, {}]", [1, {}]), ('"é"', "é"), ("0", 0), (" false ", False)],
)
async def test_an_event_reaches_the_orchestrator(api: Api, content: str, got: Any) -> None:
    instance_id = await api.running("gate")
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    path = f"/instances/{instance_id}/RaiseEvent/go"
    bare(await api.call("POST", path, content=content.encode(), headers=headers), 202)
    assert json.loads((await api.wait(instance_id)).output.value) == {"got": got}


async def test_an_event_is_passed_on_as_it_was_written(idle: Api) -> None:
    with serving(recorder := RecordingBackend()) as address:
        async with connected(address) as api:
            await api.start("gate", instance_id="as-is")
            content = ' { "a" : 1.0 ,\n"b":"\\u00e9"}\n'
            bare(
                await api.call("POST", "/instances/as-is/raiseEvent/a%2Fb%20%D0%B6", content=content, headers=JSON),
                202,
            )
    assert [(event.name, event.input.value) for event in recorder.events] == [("a/b ж", content)]


class RecordingBackend(InMemoryOrchestrationBackend):
    """The real backend, which also remembers the events it was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[pb.RaiseEventRequest] = []

    def RaiseEvent(self, request: pb.RaiseEventRequest, context: Any) -> pb.RaiseEventResponse:
        self.events.append(request)
        return super().RaiseEvent(request, context)


@pytest.mark.parametrize(
    "media_type", [None, "", "text/plain", "application/jsonx", "application/x-www-form-urlencoded"]
)
async def test_an_event_must_be_json_by_its_content_type(idle: Api, media_type: str | None) -> None:
    await idle.start("gate", instance_id="typed")
    headers = {} if media_type is None else {"Content-Type": media_type}
    told(
        await idle.call("POST", "/instances/typed/raiseEvent/go", content="1", headers=headers),
        400,
        "application/json",
    )


@pytest.mark.parametrize(
    "content", [b"{", b"go", b"NaN", b"\xff\xfe", b"", b" \n", b"\xfe\xff\x001", b"[" * 200_000, b"1" * 10_000]
)
async def test_an_event_must_be_json(idle: Api, content: bytes) -> None:
    await idle.start("gate", instance_id="bad")
    told(
        await idle.call("POST", "/instances/bad/raiseEvent/go", content=content, headers=JSON),
        400,
        "not valid JSON",
    )


@pytest.mark.parametrize("function", ["echo", "broken"])
async def test_a_finished_instance_takes_no_event(api: Api, function: str) -> None:
    instance_id = await api.finished(function)
    bare(await api.call("POST", f"/instances/{instance_id}/raiseEvent/go", json=1), 410)
    bare(await api.call("POST", f"/instances/{instance_id}/raiseEvent/go", content="not looked at"), 410)
