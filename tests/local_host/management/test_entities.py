"""Entities."""

from urllib.parse import quote
from uuid import uuid4

import durabletask.internal.orchestrator_service_pb2 as pb
import pytest
from durabletask.testing import InMemoryOrchestrationBackend

from tests.local_host.management.support import INSTANT, JSON, Api, bare, connected, serving, told

pytestmark = pytest.mark.anyio


async def test_an_entity_is_signalled_read_and_listed(api: Api) -> None:
    key = f"k:{uuid4().hex}é"
    path = f"/entities/Counter/{quote(key)}"
    bare(await api.call("GET", path), 404)
    bare(await api.call("POST", f"{path}?op=add", content='{"n": 1}', headers=JSON), 202)
    answer = await api.until(path, lambda got: got.status_code == 200)
    assert answer.json() == {"last": {"n": 1}}
    listed = [
        entity
        for entity in (await api.call("GET", "/entities/COUNTER?fetchState=true")).json()
        if entity["entityId"]["key"] == key
    ]
    assert INSTANT.fullmatch(listed[0].pop("lastOperationTime"))
    assert listed == [{"entityId": {"name": "counter", "key": key}, "state": {"last": {"n": 1}}}]
    bare(await api.call("DELETE", path), 202)
    await api.until(path, lambda got: got.status_code == 404)
    keys = [entity["entityId"]["key"] for entity in (await api.call("GET", "/entities")).json()]
    assert key not in keys


async def test_a_signal_that_is_not_json_is_a_string(api: Api) -> None:
    path = f"/entities/counter/{uuid4().hex}"
    bare(
        await api.call("POST", f"{path}?op=add", content="{plain", headers={"Content-Type": "text/plain"}),
        202,
    )
    assert (await api.until(path, lambda got: got.status_code == 200)).json() == {"last": "{plain"}


async def test_entities_are_listed_page_by_page_without_state(fresh: Api) -> None:
    for key in "abc":
        await fresh.call("POST", f"/entities/counter/{key}?op=add", json=1)
        await fresh.until(f"/entities/counter/{key}", lambda got: got.status_code == 200)
    first = await fresh.call("GET", "/entities/counter?top=2")
    assert [(entity["entityId"]["key"], entity["state"]) for entity in first.json()] == [
        ("a", None),
        ("b", None),
    ]
    token = {"x-ms-continuation-token": first.headers["x-ms-continuation-token"]}
    second = await fresh.call("GET", "/entities/counter?top=2", headers=token)
    assert [entity["entityId"]["key"] for entity in second.json()] == ["c"]
    assert second.headers["x-ms-continuation-token"] == ""
    told(await fresh.call("GET", "/instances", headers=token), 400, "continuation token")
    assert (await fresh.call("GET", "/entities/counter?lastOperationTimeFrom=2999-01-01")).json() == []
    assert (await fresh.call("GET", "/entities/counter?lastOperationTimeTo=2000-01-01")).json() == []
    assert (await fresh.call("GET", "/entities/count")).json() == []


@pytest.mark.parametrize(
    ("method", "path", "words"),
    [
        ("POST", "/entities/nope/k?op=add", "'nope'"),
        ("DELETE", "/entities/nope/k", "Known entity functions: 'counter'"),
        ("POST", "/entities", "name"),
        ("DELETE", "/entities", "name"),
        ("POST", "/entities/counter", "key"),
        ("POST", "/entities/counter/a%40b", "key"),
        ("POST", "/entities/counter/a%2Fb", "key"),
        ("POST", "/entities/counter/a%00b", "key"),
        ("GET", "/entities/a%40b/k", "name"),
        ("GET", "/entities?top=0", "top"),
        ("GET", "/entities?lastOperationTimeFrom=x", "lastOperationTimeFrom"),
        ("GET", "/entities?lastOperationTimeTo=x", "lastOperationTimeTo"),
    ],
)
async def test_entities_refuse(idle: Api, method: str, path: str, words: str) -> None:
    told(await idle.call(method, path), 400, words)
    assert (await idle.stub.QueryEntities(pb.QueryEntitiesRequest())).entities == []


async def test_a_signal_with_broken_json_is_refused(idle: Api) -> None:
    told(await idle.call("POST", "/entities/counter/k", content="{", headers=JSON), 400, "not valid JSON")


async def test_an_entity_with_operations_under_way_is_listed() -> None:
    backend = InMemoryOrchestrationBackend()
    with serving(backend) as address:
        async with connected(address) as api:
            bare(await api.call("POST", "/entities/counter/busy?op=add"), 202)
            backend._entities["@counter@busy"].serialized_state = "{}"
            listed = (await api.call("GET", "/entities")).json()
    assert [entity["entityId"] for entity in listed] == [{"name": "counter", "key": "busy"}]


async def test_an_entity_that_is_only_signalled_does_not_exist_yet(idle: Api) -> None:
    bare(await idle.call("POST", "/entities/counter/k?op=add"), 202)
    bare(await idle.call("GET", "/entities/counter/k"), 404)
    assert (await idle.call("GET", "/entities")).json() == []
