"""Limits on how often a client may do a thing, which hold over all hosts and restarts."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from ipaddress import IPv6Address, IPv6Network, ip_address
from math import ceil
from uuid import uuid4

import azure.functions as func
from azure.durable_functions import DurableFunctionsClient
from durabletask.entities import EntityInstanceId

from contracts.rate_limit import RATE_LIMIT, RateAnswer, RateState, RateTake
from errors import HubUnavailable, TooMany
from services import links
from services.clock import now
from settings import get_settings
from triggers.decide import FIRST_POLL, LONGEST_POLL, SLOWING

PATIENCE = 5.0
"""Seconds that the task hub has to answer."""
UNKNOWN = "unknown"

_IPV6 = r"[0-9a-fA-F.]*:[0-9a-fA-F:.]*(?:%[A-Za-z0-9._~-]+)?"
_ADDRESS = re.compile(rf"(?:(?P<v4>[0-9.]+)|\[(?P<v6>{_IPV6})\])(?::[0-9]{{1,5}})?|(?P<bare>{_IPV6})")


async def take(
    client: DurableFunctionsClient,
    key: str,
    *,
    limit: int,
    seconds: float,
    once: str | None = None,
    patience: float = PATIENCE,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Take one of the ``limit`` that a key has in any ``seconds``.

    The entity ``rate_limit`` takes one after the other, so that there are never more, however many ask at once. Whoever
    is refused anyway costs it nothing. What comes again with the same ``once`` is taken once. Raises ``TooMany`` with
    ``retry_after`` in whole seconds, and ``HubUnavailable`` when there is no answer within ``patience`` seconds.
    """
    asked = RateTake(id=once or uuid4().hex, at=now(), limit=limit, seconds=seconds)
    entity = EntityInstanceId(RATE_LIMIT, key)
    asked_for, give_up, pause = False, clock() + patience, FIRST_POLL
    while (answer := await _look(client, entity, asked)) is None:
        if not asked_for:
            await client.signal_entity(entity, "take", asked.plain())
            asked_for = True
        elif clock() >= give_up:
            raise HubUnavailable("The task hub does not answer. Try again in a moment.")
        else:
            await sleep(pause)
            pause = min(pause * SLOWING, LONGEST_POLL)
    if not answer.taken:
        wait = ceil(answer.retry_after)
        raise TooMany(f"That was done too often. Try again in {_in_words(wait)}.", retry_after=wait)


async def _look(client: DurableFunctionsClient, entity: EntityInstanceId, asked: RateTake) -> RateAnswer | None:
    found = await client.get_entity(entity)
    return None if found is None else RateState.read(found.get_typed_state()).answer(asked)


def _in_words(seconds: int) -> str:
    number, unit = (seconds, "second") if seconds < 120 else (ceil(seconds / 60), "minute")
    return f"{number} {unit}{'' if number == 1 else 's'}"


def client_key(req: func.HttpRequest) -> str:
    """Return what stands for the client that a request comes from: a pseudonym of its address.

    The front end of Azure App Service appends the address of its peer, with a port, to ``X-Forwarded-For``, and so does
    the local host. So the last one is the client's, or that of the last of the ``PROXIES`` of one's own, which have
    appended theirs before. All further to the left is what somebody wrote, and is not looked at. A client with IPv6 has
    a network of 64 bits to itself. Clients whose address cannot be read count as one.

    Sources: Azure/app-service-linux-docs, ``headers.md`` (the front end writes ``client-ip``, whatever was sent); the
    headers of a request through Front Door in sergiodxa/remix-utils#496, where ``x-forwarded-for`` ends with just that;
    Azure/azure-functions-host, ``WebJobsApplicationBuilderExtension`` (nothing there takes the header apart).
    """
    hops = req.headers.get("x-forwarded-for", "").split(",")
    place = get_settings().proxies + 1
    return links.pseudonym("client", _client(hops[-place].strip()) if len(hops) >= place else UNKNOWN)


def _client(text: str) -> str:
    found = _ADDRESS.fullmatch(text)
    try:
        address = ip_address(found["v4"] or found["v6"] or found["bare"] if found else "")
    except ValueError:
        return UNKNOWN
    if isinstance(address, IPv6Address):
        mapped = address.ipv4_mapped
        return str(mapped or IPv6Network((int(address) >> 64 << 64, 64)))
    return str(address)
