"""Paths, methods, task hubs and forwarded hosts."""

from typing import Any

import pytest

from tests.local_host.management.support import HUB, ORIGIN, PREFIX, QUERY, Api, bare, check_status, connected, told

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("GET", "/"),
        ("GET", "/nope"),
        ("POST", "/instances"),
        ("PUT", "/instances/x"),
        ("POST", "/instances/x"),
        ("HEAD", "/instances/x"),
        ("PATCH", "/instances/x"),
        ("BREW", "/instances"),
        ("POST", "/makeprimary"),
        ("OPTIONS", "/instances"),
        ("GET", "/instances/x/terminate"),
        ("POST", "/instances/x/explode"),
        ("POST", "/instances/x/raiseEvent"),
        ("GET", "/instances/x/raiseEvent/go"),
        ("POST", "/instances/x/raiseEvent/go/on"),
        ("POST", "/orchestrators"),
        ("GET", "/orchestrators/echo"),
        ("DELETE", "/orchestrators/echo/x"),
        ("POST", "/orchestrators/echo/x/y"),
        ("PUT", "/entities/counter/k"),
        ("GET", "/entities/counter/k/more"),
        ("POST", "/instances//terminate"),
    ],
)
async def test_unknown_paths_and_methods_are_not_found(idle: Api, method: str, path: str) -> None:
    bare(await idle.call(method, path), 404)


@pytest.mark.parametrize("path", ["/INSTANCES/x", "/instances/x/", "//instances/x//"])
async def test_fixed_path_parts_are_matched_in_any_case_and_slashes_around_them_do_not_count(
    idle: Api, path: str
) -> None:
    await idle.start("echo", instance_id="x")
    answer = await idle.call("GET", path)
    assert answer.json()["instanceId"] == "x"
    assert answer.headers["location"] == f"{ORIGIN}{PREFIX}/instances/x"


async def test_the_prefix_is_matched_in_any_case(idle: Api) -> None:
    assert (await idle.client.get("/Runtime/Webhooks/durableTask/instances")).json() == []
    assert (await idle.client.get(f"{PREFIX}x/instances")).status_code == 404


@pytest.mark.parametrize(
    ("headers", "origin"),
    [
        ({"X-Forwarded-Host": "example.org:8443", "X-Forwarded-Proto": "https"}, "https://example.org:8443"),
        ({"X-Forwarded-Host": "example.org"}, ORIGIN),
        ({"X-Forwarded-Proto": "https"}, ORIGIN),
        ({"X-Forwarded-Host": "a/b?c", "X-Forwarded-Proto": "https"}, ORIGIN),
        ({"X-Forwarded-Host": "example.org", "X-Forwarded-Proto": "javascript"}, ORIGIN),
    ],
)
async def test_urls_take_the_host_of_a_proxy_where_host_json_says_so(
    hub: str, headers: dict[str, str], origin: str
) -> None:
    async with connected(hub, use_forwarded_host=True) as api:
        answer = await api.call("POST", "/orchestrators/echo", headers=headers)
    assert answer.json() == check_status(answer.json()["id"], origin)


@pytest.mark.parametrize("query", [QUERY, f"TASKHUB={HUB.upper()}&code=abc", "taskHub=", "connection=Other&x=%ff"])
async def test_our_own_hub_may_be_named_and_other_parameters_are_ignored(idle: Api, query: str) -> None:
    await idle.start("echo", instance_id="x")
    answer = await idle.call("GET", f"/instances/x?{query}")
    assert answer.status_code == 202
    assert answer.headers["location"] == f"{ORIGIN}{PREFIX}/instances/x?{query}"


async def test_a_query_that_is_not_utf8_does_not_break_the_location(idle: Api) -> None:
    await idle.start("echo", instance_id="x")
    # Past the HTTP client, which would percent-encode the query.
    scope = {
        "type": "http",
        "method": "GET",
        "scheme": "http",
        "path": f"{PREFIX}/instances/x",
        "query_string": b"a=\xff",
        "headers": [(b"host", b"localhost:7071")],
    }
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    await idle.app(scope, receive, send)
    assert sent[0]["status"] == 202
    location = dict(sent[0]["headers"])[b"location"]
    assert location == f"{ORIGIN}{PREFIX}/instances/x?a=".encode() + b"\xff"


@pytest.mark.parametrize("hub_name", ["Other", f"{HUB}x", f"{HUB}&taskHub=Other"])
async def test_another_hub_is_not_found(idle: Api, hub_name: str) -> None:
    await idle.start("echo", instance_id="x")
    told(await idle.call("GET", f"/instances/x?taskHub={hub_name}"), 404, "task hub")
    told(await idle.call("POST", f"/orchestrators/echo/y?taskHub={hub_name}"), 404, "task hub")
    bare(await idle.call("GET", "/instances/y"), 404)
