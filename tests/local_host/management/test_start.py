"""Starting an instance."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import durabletask.internal.orchestrator_service_pb2 as pb
import pytest
from durabletask.testing import InMemoryOrchestrationBackend

from local_host.management import MAX_BODY_BYTES
from tests.local_host.management.support import (
    JSON,
    NAMES,
    ORIGIN,
    PREFIX,
    QUERY,
    Api,
    check_status,
    connected,
    serving,
    told,
)

pytestmark = pytest.mark.anyio


async def test_start_answers_with_the_management_urls(api: Api) -> None:
    answer = await api.call("POST", "/orchestrators/echo/start-1", content='{"a": 1}')
    assert answer.status_code == 202
    assert answer.headers["location"] == f"{ORIGIN}{PREFIX}/instances/start-1?{QUERY}"
    assert answer.headers["retry-after"] == "10"
    assert answer.json() == check_status("start-1")
    assert (await api.wait("start-1")).input.value == '{"a": 1}'


async def test_start_without_an_id_makes_one(api: Api) -> None:
    first, second = [(await api.call("POST", "/orchestrators/echo")).json()["id"] for _ in range(2)]
    assert re.fullmatch("[0-9a-f]{32}", first)
    assert first != second
    state = await api.wait(first)
    assert state.orchestrationStatus == pb.ORCHESTRATION_STATUS_COMPLETED


async def test_urls_take_the_host_of_the_request_and_ignore_forwarded_headers(idle: Api) -> None:
    headers = {"Host": "[::1]:9", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"}
    answer = await idle.call("POST", "/orchestrators/echo/h", headers=headers)
    assert answer.json() == check_status("h", "http://[::1]:9")


@pytest.mark.parametrize("instance_id", ["a:b.c-d_e", "пример", "100% sure", "a+b", "日本:1", "x" * 100])
async def test_ids_are_percent_decoded_and_their_urls_lead_back(idle: Api, instance_id: str) -> None:
    answer = await idle.call("POST", f"/orchestrators/echo/{quote(instance_id, safe='')}")
    assert answer.status_code == 202
    assert answer.json() == check_status(instance_id)
    status = await idle.client.get(answer.json()["statusQueryGetUri"])
    assert status.status_code == 202
    assert status.json()["instanceId"] == instance_id
    assert status.headers["location"] == answer.json()["statusQueryGetUri"]


@pytest.mark.parametrize(
    ("instance_id", "words"),
    [
        ("x" * 101, "100 characters"),
        ("a/b", "cannot hold"),
        ("/", "cannot hold"),
        ("a\\b", "cannot hold"),
        ("a#b", "cannot hold"),
        ("a?b", "cannot hold"),
        ("a\x00b", "cannot hold"),
        ("a\nb", "cannot hold"),
        ("a\x7f", "cannot hold"),
        ("a\u0085", "cannot hold"),
        ("@counter@x", "'@'"),
    ],
)
async def test_start_refuses_bad_ids(idle: Api, instance_id: str, words: str) -> None:
    told(await idle.call("POST", f"/orchestrators/echo/{quote(instance_id, safe='')}"), 400, words)
    assert (await idle.call("GET", "/instances")).json() == []


async def test_a_path_that_is_not_utf8_is_refused(idle: Api) -> None:
    told(await idle.call("GET", "/instances/%ff%fe"), 400, "percent-encoded UTF-8")


async def test_start_of_an_unknown_function_lists_the_known_ones(idle: Api) -> None:
    answer = await idle.call("POST", "/orchestrators/nope")
    told(answer, 400, "'nope'")
    assert all(f"'{name}'" in answer.json()["Message"] for name in NAMES)


async def test_start_when_no_function_is_known(hub: str) -> None:
    async with connected(hub, orchestrator_names=[]) as api:
        told(await api.call("POST", "/orchestrators/echo"), 400, "none")


async def test_function_names_are_matched_in_any_case(idle: Api) -> None:
    assert (await idle.call("POST", "/orchestrators/ECHO/case")).status_code == 202
    assert (await idle.call("GET", "/instances/case")).json()["name"] == "echo"


async def test_start_refuses_an_id_in_use_and_takes_over_a_finished_one(api: Api) -> None:
    used = await api.running("gate")
    told(await api.call("POST", f"/orchestrators/gate/{used}"), 409, "already")
    done = await api.finished("echo", "first")
    assert (await api.call("POST", f"/orchestrators/echo/{done}", content='"second"')).status_code == 202
    assert (await api.wait(done)).output.value == '"second"'


@pytest.mark.parametrize(
    "content",
    [b"{", b"nope", b"{'a': 1}", b"NaN", b"-Infinity", b"1e999", b"\xff", b"[" * 200_000, b'{"a":1} x'],
)
async def test_start_refuses_what_is_not_json(idle: Api, content: bytes) -> None:
    told(await idle.call("POST", "/orchestrators/echo", content=content), 400, "not valid JSON")
    assert (await idle.call("GET", "/instances")).json() == []


async def test_start_passes_the_json_text_on_unchanged(api: Api) -> None:
    text = '{ "b" : 1.0,\n"a":"\\u00e9é" }'
    answer = await api.call("POST", "/orchestrators/echo/verbatim", content=text.encode())
    assert answer.status_code == 202
    assert (await api.wait("verbatim")).input.value == text


@pytest.mark.parametrize("path", ["/orchestrators/echo", "/instances/{id}/raiseEvent/go", "/entities/counter/k"])
async def test_a_body_over_the_limit_is_refused_while_it_is_read(idle: Api, path: str) -> None:
    await idle.start("gate", instance_id="big")
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 1
            yield b"1" * (MAX_BODY_BYTES // 4)

    told(await idle.call("POST", path.format(id="big"), content=endless(), headers=JSON), 413, "exceeds")
    assert sent == 5


async def test_a_body_of_exactly_the_limit_is_taken(idle: Api) -> None:
    content = b'"' + b"x" * (MAX_BODY_BYTES - 2) + b'"'
    assert (await idle.call("POST", "/orchestrators/echo", content=content)).status_code == 202
    assert (await idle.call("POST", "/orchestrators/echo", content=content + b" ")).status_code == 413


async def test_start_passes_the_version_on() -> None:
    backend = InMemoryOrchestrationBackend()
    with serving(backend) as address:
        async with connected(address) as api:
            await api.call("POST", "/orchestrators/echo/versioned?version=2.1")
            await api.call("POST", "/orchestrators/echo/plain")
    assert (backend._instances["versioned"].version, backend._instances["plain"].version) == ("2.1", None)


async def test_start_can_wait_for_the_output(api: Api) -> None:
    answer = await api.call("POST", "/orchestrators/calling?timeout=5&pollingInterval=0.05", content="21")
    assert (answer.status_code, answer.json()) == (200, 42)


async def test_start_that_waits_for_a_failure_answers_with_the_status(api: Api) -> None:
    query = "timeout=5&pollingInterval=0.05&returnInternalServerErrorOnFailure=true"
    answer = await api.call("POST", f"/orchestrators/broken?{query}")
    assert answer.status_code == 200
    assert answer.json()["runtimeStatus"] == "Failed"


async def test_start_that_waits_in_vain_answers_with_the_urls(api: Api) -> None:
    answer = await api.call("POST", "/orchestrators/gate/slow?timeout=0.2&pollingInterval=0.1")
    assert (answer.status_code, answer.json()) == (202, check_status("slow"))


@pytest.mark.parametrize("query", ["timeout=5", "pollingInterval=5", "timeout=&pollingInterval=1"])
async def test_start_waits_only_with_both_times(idle: Api, query: str) -> None:
    async with asyncio.timeout(2):
        assert (await idle.call("POST", f"/orchestrators/echo?{query}")).status_code == 202


@pytest.mark.parametrize(
    "query",
    [
        "timeout=1&pollingInterval=2",
        "timeout=x&pollingInterval=1",
        "timeout=-1&pollingInterval=-2",
        "timeout=nan&pollingInterval=nan",
        "timeout=inf&pollingInterval=1",
    ],
)
async def test_start_refuses_bad_times_before_it_starts_anything(idle: Api, query: str) -> None:
    answer = await idle.call("POST", f"/orchestrators/echo?{query}")
    assert (answer.status_code, list(answer.json())) == (400, ["Message"])
    assert (await idle.call("GET", "/instances")).json() == []


async def test_which_ids_may_be_taken_again_is_a_setting() -> None:
    with serving(InMemoryOrchestrationBackend()) as address:
        async with connected(address, overridable=[pb.ORCHESTRATION_STATUS_PENDING]) as api:
            await api.start("echo", 1, "x")
            assert (await api.call("POST", "/orchestrators/echo/x", content="2")).status_code == 202
            assert (await api.call("GET", "/instances/x")).json()["input"] == 2
            restarted = await api.call("POST", "/instances/x/restart?restartWithNewInstanceId=false")
            assert (restarted.status_code, restarted.json()["id"]) == (202, "x")
        async with connected(address, overridable=[pb.ORCHESTRATION_STATUS_COMPLETED]) as api:
            told(await api.call("POST", "/orchestrators/echo/x", content="3"), 409, "already")


@pytest.mark.parametrize(
    ("content_type", "content", "got"),
    [
        ("application/json; charset=utf-16", '"ж"'.encode("utf-16"), "ж"),
        ('text/plain; x=y; CHARSET="UTF-16BE"', '"ж"'.encode("utf-16-be"), "ж"),
        ("application/json; charset=ISO-8859-1", b'"\xe9"', "é"),
        ("application/json", b'\xef\xbb\xbf"\xc3\xa9"', "é"),
        ("application/json", b"\xef\xbb\xbf \n", None),
        ("application/json", b" \n", None),
    ],
)
async def test_an_input_is_read_by_its_charset(idle: Api, content_type: str, content: bytes, got: Any) -> None:
    headers = {"Content-Type": content_type}
    answer = await idle.call("POST", "/orchestrators/echo/x", content=content, headers=headers)
    assert answer.status_code == 202, answer.text
    assert (await idle.call("GET", "/instances/x")).json()["input"] == got


@pytest.mark.parametrize("charset", ["klingon", "rot13", "idna", "x" * 5000, "utf-8\0", ""])
async def test_an_unknown_charset_is_refused(idle: Api, charset: str) -> None:
    headers = {"Content-Type": f"application/json; charset={charset}"}
    told(await idle.call("POST", "/orchestrators/echo", content=b"1", headers=headers), 415, "charset")


PARENT = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"


@pytest.mark.parametrize(
    ("headers", "parent", "state"),
    [
        ({"traceparent": PARENT, "tracestate": "a=b"}, PARENT, "a=b"),
        ({"traceparent": PARENT}, PARENT, ""),
        ({"traceparent": f"{PARENT}-x"}, "", ""),
        ({"tracestate": "a=b"}, "", ""),
    ],
)
async def test_what_is_started_belongs_to_the_trace_of_the_request(
    headers: dict[str, str], parent: str, state: str
) -> None:
    with serving(recorder := RecordingBackend()) as address:
        async with connected(address) as api:
            await api.call("POST", "/orchestrators/echo", headers=headers)
            await api.call("POST", "/entities/counter/k?op=add", headers=headers)
    contexts = [each.parentTraceContext for each in recorder.requests]
    assert [(each.traceParent, each.traceState.value) for each in contexts] == [(parent, state)] * 2
    assert all(each.spanID == parent[36:52] for each in contexts)


class RecordingBackend(InMemoryOrchestrationBackend):
    """The real backend, which also remembers what it was asked to start and to signal."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Any] = []

    def StartInstance(self, request: pb.CreateInstanceRequest, context: Any) -> Any:
        self.requests.append(request)
        return super().StartInstance(request, context)

    def SignalEntity(self, request: pb.SignalEntityRequest, context: Any) -> Any:
        self.requests.append(request)
        return super().SignalEntity(request, context)


async def test_urls_carry_the_key_where_there_is_one(hub: str) -> None:
    async with connected(hub, code="a+b/c=") as api:
        answer = await api.call("POST", "/orchestrators/echo")
    urls = [url for name, url in answer.json().items() if name != "id"]
    assert len(urls) == 7
    assert all(url.endswith(f"{QUERY}&code=a%2Bb%2Fc%3D") for url in urls)
    assert answer.headers["location"] == answer.json()["statusQueryGetUri"]
