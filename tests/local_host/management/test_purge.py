"""Purging instances."""

import pytest

from tests.local_host.management.support import BAD_FILTERS, Api, bare, told, told_alone

pytestmark = pytest.mark.anyio


async def test_purge_one_instance_once(api: Api) -> None:
    instance_id = await api.finished("echo")
    answer = await api.call("DELETE", f"/instances/{instance_id}")
    assert (answer.status_code, answer.json()) == (200, {"instancesDeleted": 1})
    bare(await api.call("DELETE", f"/instances/{instance_id}"), 404)
    bare(await api.call("GET", f"/instances/{instance_id}"), 404)


async def test_purge_of_an_unfinished_instance_is_refused(api: Api) -> None:
    instance_id = await api.running("gate")
    told_alone(await api.call("DELETE", f"/instances/{instance_id}"), 412, "Running")
    assert (await api.call("GET", f"/instances/{instance_id}")).status_code == 202


async def test_purge_by_filters_takes_finished_instances_alone(fresh: Api) -> None:
    for name in ("echo", "echo", "broken"):
        await fresh.finished(name)
    open_id = await fresh.running("gate")
    failed = await fresh.call("DELETE", "/instances?createdTimeFrom=2000-01-01&runtimeStatus=Failed")
    assert (failed.status_code, failed.json()) == (200, {"instancesDeleted": 1})
    bare(await fresh.call("DELETE", "/instances?createdTimeFrom=2000-01-01&createdTimeTo=2001-01-01"), 404)
    bare(await fresh.call("DELETE", "/instances?createdTimeFrom=2000-01-01&runtimeStatus=Running"), 404)
    rest = await fresh.call("DELETE", "/instances/?createdTimeFrom=2000-01-01")
    assert rest.json() == {"instancesDeleted": 2}
    bare(await fresh.call("DELETE", "/instances?createdTimeFrom=2000-01-01"), 404)
    left = (await fresh.call("GET", "/instances")).json()
    assert [status["instanceId"] for status in left] == [open_id]


@pytest.mark.parametrize("query", ["", "createdTimeFrom=", "createdTimeTo=2024-01-01", "runtimeStatus=Failed"])
async def test_purge_by_filters_needs_a_start_time(idle: Api, query: str) -> None:
    told_alone(await idle.call("DELETE", f"/instances?{query}"), 400, "createdTimeFrom")


@pytest.mark.parametrize(("query", "words"), [*BAD_FILTERS, ("createdTimeFrom=2024-01-01&runtimeStatus=x", "x")])
async def test_purge_deletes_nothing_on_a_bad_filter(api: Api, query: str, words: str) -> None:
    instance_id = await api.finished("echo")
    query = query if "createdTimeFrom" in query else f"createdTimeFrom=2000-01-01&{query}"
    told(await api.call("DELETE", f"/instances?{query}"), 400, words)
    assert (await api.call("GET", f"/instances/{instance_id}")).status_code == 200
