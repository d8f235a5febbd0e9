"""Listing instances, page by page."""

import base64
import json
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.local_host.management.support import BAD_FILTERS, Api, connected, told, without_times

pytestmark = pytest.mark.anyio


async def test_list_of_an_empty_hub(idle: Api) -> None:
    for path in ("/instances", "/instances/"):
        answer = await idle.call("GET", path)
        assert (answer.status_code, answer.json()) == (200, [])
        assert answer.headers["x-ms-continuation-token"] == ""


async def test_list_shows_every_instance_in_full(api: Api) -> None:
    prefix = f"list-{uuid4().hex}-"
    await api.finished("echo", "in", f"{prefix}1")
    await api.running("gate", None, f"{prefix}2")
    answer = await api.call("GET", f"/instances?instanceIdPrefix={prefix}")
    assert answer.status_code == 200
    assert [without_times(status) for status in answer.json()] == [
        {
            "name": "echo",
            "instanceId": f"{prefix}1",
            "runtimeStatus": "Completed",
            "input": "in",
            "customStatus": None,
            "output": "in",
        },
        {
            "name": "gate",
            "instanceId": f"{prefix}2",
            "runtimeStatus": "Running",
            "input": None,
            "customStatus": {"stage": "waiting"},
            "output": None,
        },
    ]
    hidden = (await api.call("GET", f"/instances?instanceIdPrefix={prefix}1&showInput=false")).json()
    assert [(status["input"], status["output"]) for status in hidden] == [(None, "in")]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("runtimeStatus=Completed", ["done"]),
        ("runtimeStatus=Completed, Failed", ["done", "dead"]),
        ("runtimeStatus=Running&runtimeStatus=Failed", ["dead", "open"]),
        ("runtimeStatus=", ["done", "dead", "open"]),
        ("runtimeStatus=Canceled", []),
        ("createdTimeFrom=2999-01-01", []),
        ("createdTimeTo=2000-01-01T00:00:00Z", []),
        (
            "createdTimeFrom=1-01-01T00:00:00.000000Z&createdTimeTo=2999-01-01T00:00:00%2B02:00",
            ["done", "dead", "open"],
        ),
        ("createdTimeFrom=&createdTimeTo=&top=", ["done", "dead", "open"]),
        ("createdTimeFrom=2000-01-01T00:00:00.1234567Z", ["done", "dead", "open"]),
        ("INSTANCEIDPREFIX=d", ["done", "dead"]),
        ("instanceIdPrefix=zzz", []),
    ],
)
async def test_list_filters(settled: str, query: str, found: list[str]) -> None:
    async with connected(settled) as api:
        answer = await api.call("GET", f"/instances?{query}")
    assert [status["instanceId"] for status in answer.json()] == found


async def test_list_goes_on_from_page_to_page(idle: Api) -> None:
    for number in range(5):
        await idle.start("echo", instance_id=f"page-{number}")
    pages: list[list[str]] = []
    headers: dict[str, str] = {}
    while True:
        answer = await idle.call("GET", "/instances?top=2", headers=headers)
        pages.append([status["instanceId"] for status in answer.json()])
        headers = {"x-ms-continuation-token": answer.headers["x-ms-continuation-token"]}
        if not headers["x-ms-continuation-token"]:
            break
    assert pages == [["page-0", "page-1"], ["page-2", "page-3"], ["page-4"]]


async def test_a_page_has_a_hundred_instances_by_default(idle: Api) -> None:
    for number in range(101):
        await idle.start("echo", instance_id=f"n-{number}")
    answer = await idle.call("GET", "/instances")
    assert len(answer.json()) == 100
    assert answer.headers["x-ms-continuation-token"]


async def test_an_empty_continuation_token_asks_for_the_first_page(idle: Api) -> None:
    await idle.start("echo", instance_id="only")
    answer = await idle.call("GET", "/instances", headers={"x-ms-continuation-token": ""})
    assert [status["instanceId"] for status in answer.json()] == ["only"]


def wrapped(value: Any) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


@pytest.mark.parametrize(
    "token",
    [
        "1",
        "!!!!",
        "é",
        base64.b64encode(b"2").decode(),
        base64.b64encode(b"\xff\xff").decode(),
        base64.b64encode(b"[" * 100_000).decode(),
        wrapped(["instances", "1"]) + "!",
        wrapped(["entities", "1"]),
        wrapped(["instances", 1]),
        wrapped(["instances", "\ud800"]),
        wrapped(["instances"]),
        wrapped({"instances": "1"}),
    ],
)
async def test_a_bad_continuation_token_is_refused(idle: Api, token: str) -> None:
    headers = {"x-ms-continuation-token": token.encode("latin-1").decode("latin-1")}
    answer = await idle.call("GET", "/instances", headers=httpx.Headers(headers, encoding="latin-1"))
    told(answer, 400, "continuation token")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        *BAD_FILTERS,
        *((f"top={top}", "top") for top in ("0", "-1", "x", "1.5", "1e3", "2147483648", "\uff19", "9" * 5000)),
    ],
)
async def test_list_refuses_what_it_cannot_parse(idle: Api, query: str, words: str) -> None:
    told(await idle.call("GET", f"/instances?{query}"), 400, words)


async def test_the_largest_page_size_is_taken(idle: Api) -> None:
    assert (await idle.call("GET", "/instances?top=2147483647")).status_code == 200
