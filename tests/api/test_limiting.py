"""Limits of a client: who a client is, whatever it writes in its headers, and that it gets no more than its limit."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import azure.functions as func
import httpx
import pytest
from durabletask.client import AsyncTaskHubGrpcClient

from contracts.rate_limit import RATE_LIMIT
from errors import HubUnavailable, TooMany
from local_host.testing import HubControl, running_hub
from services import clock, links
from settings import get_settings
from tests.entities.hub import hub_with_entities, state_of
from tests.polling import until
from triggers.limiting import client_key, take

# Who a client is


def key(*forwarded: str) -> str:
    """The key of a request with this header, which is perhaps there more than once."""
    headers = {"X-Forwarded-For": ",".join(forwarded)} if forwarded else {}
    return client_key(func.HttpRequest("POST", "http://x/", headers=headers, body=b""))


def shortly(value: str) -> str:
    """Name a case."""
    return ascii(value)[:40]


def of(client: str) -> str:
    """The key of a client."""
    return links.pseudonym("client", client)


@pytest.fixture(autouse=True)
def _keys(data_folder: Path) -> None:
    """Pseudonyms have a key of the test's own."""


@pytest.mark.parametrize(
    ("header", "client"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("203.0.113.7:49828", "203.0.113.7"),
        (" 203.0.113.7:1 ", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2:3:4:5:6]:443", "2001:db8:1:2::/64"),
        ("[2001:DB8:1:2::]", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("[::ffff:cb00:7107]:80", "203.0.113.7"),
        ("::1", "::/64"),
        ("[fe80::1%eth0]:80", "fe80::/64"),
        ("203.0.113.8, 203.0.113.7", "203.0.113.7"),
        ("unknown, 203.0.113.7:1", "203.0.113.7"),
        (",,,203.0.113.7", "203.0.113.7"),
        ("x" * 60_000 + ",203.0.113.7", "203.0.113.7"),
        ("1.2.3.4," * 5_000 + "203.0.113.7", "203.0.113.7"),
        ('"203.0.113.8",203.0.113.7:80', "203.0.113.7"),
    ],
    ids=shortly,
)
def test_a_client_is_its_address_as_the_front_end_saw_it(header: str, client: str) -> None:
    assert key(header) == of(client)


@pytest.mark.parametrize(
    "header",
    [
        "",
        " ",
        ",",
        "203.0.113.7,",
        "unknown",
        "203.0.113.256",
        "203.0.113.07",
        "203.0.113",
        "203.0.113.7:",
        "203.0.113.7:123456",
        "203.0.113.7:http",
        "203.0.113.7 203.0.113.8",
        "[203.0.113.7]:80",
        "[2001:db8::1",
        "2001:db8::1]:80",
        "2001:db8:::1",
        "[2001:db8::1]x",
        "1:2:3:4:5:6:7:8:9",
        "٢٠٣.0.113.7",
        "for=203.0.113.7",
        "203.0.113.7/32",
        "0xcb.0.113.7",
        "3405803783",
        "x" * 60_000,
        ":" * 60_000,
        "1." * 30_000,
        "\x00",
        "\ud800",
    ],
    ids=shortly,
)
def test_clients_that_cannot_be_told_apart_are_one_client(header: str) -> None:
    assert key(header) == of("unknown") == key()


@pytest.mark.parametrize(
    "forged", ["198.51.100.1", "203.0.113.7", "", "unknown", "::1", "[", "127.0.0.1:80", "a,b,c,d"]
)
def test_what_a_client_writes_there_itself_does_not_make_it_another_one(forged: str) -> None:
    assert key(forged, "203.0.113.7:5000") == key("203.0.113.7:6000") == of("203.0.113.7")


@pytest.mark.parametrize(
    ("proxies", "header", "client"),
    [
        (1, "203.0.113.7, 192.0.2.1:4000", "203.0.113.7"),
        (1, "forged, 203.0.113.7:1, 192.0.2.1:4000", "203.0.113.7"),
        (2, "forged, 203.0.113.7, 192.0.2.2, 192.0.2.1:4000", "203.0.113.7"),
        (1, "192.0.2.1:4000", "unknown"),  # it came past the proxy
        (10, "203.0.113.7", "unknown"),
    ],
)
def test_behind_proxies_it_is_who_the_first_of_them_saw(
    proxies: int, header: str, client: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROXIES", str(proxies))
    get_settings.cache_clear()
    assert key(header) == of(client)


def test_the_key_is_a_pseudonym_and_not_that_of_a_mail_address() -> None:
    assert links.is_pseudonym(key("203.0.113.7"), "client", "203.0.113.7")
    assert key("203.0.113.7") != key("203.0.113.8")
    assert key("203.0.113.7") != links.pseudonym("address", "203.0.113.7")


# What a client gets


@pytest.fixture(scope="module")
def hub() -> Iterator[HubControl]:
    """A hub with the entity on two workers, whose clock is the app's too."""
    with hub_with_entities(hosts=2) as control:
        clock.set_clock(lambda: control.now)
        yield control
        clock.set_clock(clock.system_clock)


def taking(hub: HubControl, key: str, times: int = 1, *, limit: int = 10, **options: Any) -> list[int | None]:
    """Take so many at once, each on two connections; gives None for each that was taken, or when it may be."""

    async def one(client: AsyncTaskHubGrpcClient) -> int | None:
        try:
            await take(client, key, limit=limit, seconds=3600, **options)  # type: ignore[arg-type]  # its base class
        except TooMany as error:
            retry_after: int = error.members["retry_after"]
            return retry_after
        return None

    async def all_of_them() -> list[int | None]:
        metadata = list(hub.hub.metadata)
        clients = [AsyncTaskHubGrpcClient(host_address=hub.hub.address, metadata=metadata) for _ in range(2)]
        try:
            return await asyncio.gather(*(one(clients[number % 2]) for number in range(times)))
        finally:
            for client in clients:
                await client.close()

    return asyncio.run(all_of_them())


def test_of_50_at_once_just_as_many_get_through_as_the_limit_says(hub: HubControl) -> None:
    answers = taking(hub, "at-once", 50)
    assert (answers.count(None), answers.count(3600)) == (10, 40)
    hub.advance(timedelta(minutes=30))
    assert taking(hub, "at-once") == [1800]
    hub.advance(timedelta(minutes=30))
    assert taking(hub, "at-once", 12).count(None) == 10


def test_more_than_are_remembered_at_once_are_all_answered(hub: HubControl) -> None:
    answers = taking(hub, "many", 250, limit=1, patience=30)
    assert (answers.count(None), answers.count(3600)) == (1, 249)


def test_one_client_does_not_use_up_what_another_has(hub: HubControl) -> None:
    assert taking(hub, "one", 2, limit=1).count(None) == 1
    assert taking(hub, "other", limit=1) == [None]


def test_who_is_refused_anyway_costs_the_hub_no_signal(hub: HubControl) -> None:
    assert taking(hub, "cheap", limit=1) == [None]
    before = state_of(hub, "cheap")
    assert taking(hub, "cheap", 20, limit=1) == [3600] * 20
    assert state_of(hub, "cheap") == before


def test_who_is_refused_is_told_when_to_come_again(hub: HubControl) -> None:
    async def twice(seconds: float) -> TooMany:
        client: Any = AsyncTaskHubGrpcClient(host_address=hub.hub.address, metadata=list(hub.hub.metadata))
        try:
            await take(client, f"told-{seconds}", limit=1, seconds=seconds)
            with pytest.raises(TooMany) as raised:
                await take(client, f"told-{seconds}", limit=1, seconds=seconds)
        finally:
            await client.close()
        return raised.value

    for seconds, words, retry_after in ((0.5, "1 second", 1), (90, "90 seconds", 90), (3540.2, "60 minutes", 3541)):
        error = asyncio.run(twice(seconds))
        assert (error.detail, error.members) == (
            f"That was done too often. Try again in {words}.",
            {"retry_after": retry_after},
        )


def test_without_an_answer_it_gives_up_and_takes_nobody_through(hub: HubControl) -> None:
    with running_hub() as without_workers, pytest.raises(HubUnavailable):
        taking(without_workers, "nobody", patience=0.05)


def test_pauses_grow_while_there_is_no_answer() -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    with running_hub() as without_workers, pytest.raises(HubUnavailable):
        taking(without_workers, "nobody", clock=lambda: sum(pauses), sleep=sleep, patience=5)
    assert pauses[:7] == [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.05]
    assert 5 <= sum(pauses) < 5.1


def test_the_app_has_the_entity(client: httpx.Client) -> None:
    entity = f"/runtime/webhooks/durabletask/entities/{RATE_LIMIT}/of-a-test"
    at = datetime.now(UTC).isoformat()
    for identity in ("a", "a", "b"):
        asked = {"id": identity, "at": at, "limit": 1, "seconds": 604_800}
        assert client.post(entity, params={"op": "take"}, json=asked).status_code == 202

    def entries() -> list[dict[str, Any]] | None:
        found = client.get(entity)
        entries: list[dict[str, Any]] = found.json()["entries"] if found.status_code == 200 else []
        return entries if len(entries) == 2 else None

    assert [(each["id"], each["retry_after"]) for each in until(entries)] == [("a", None), ("b", 604_800)]
