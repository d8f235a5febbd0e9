"""Looking through instances and waits in windows of bounded size, from where the last run stopped."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace

import grpc
from azure.durable_functions import DurableFunctionsClient
from durabletask.client import OrchestrationQuery, OrchestrationState

from contracts.records import Wait
from orchestrators.approval import approval
from orchestrators.guarded_call import guarded_call
from orchestrators.manual_intervention import manual_intervention
from orchestrators.pause_due import pause_due
from orchestrators.purchase_order import purchase_order
from orchestrators.refund import refund
from orchestrators.signup import signup
from orchestrators.workflow import workflow
from services import waits
from services.record_store import Change, RecordStore
from triggers.instances import page_of

WORKFLOWS = {
    approval.__name__: "/api/requests/{}",
    purchase_order.__name__: "/status/{}",
    guarded_call.__name__: "/api/interventions/{}",
    manual_intervention.__name__: "/design-pattern/intervention/status/{}",
    refund.__name__: "/api/refunds/{}",
    signup.__name__: "/api/signups/{}",
    workflow.__name__: "/api/v1/executions/{}",
}
"""The workflows, and where in the app people find their instances."""
UPKEEP = (pause_due.__name__,)
"""The orchestrations that nobody starts but the app itself; they are purged with the rest, and shown nowhere."""

WINDOW = 100
WINDOWS = 50
"""How many rows or instances are looked at at a time, and how often in one run; the next run goes on from there."""
AT_ONCE = 10

_LOGGER = logging.getLogger(__name__)

type Look[Item] = Callable[[DurableFunctionsClient, RecordStore, Item], Awaitable[str]]
"""Looks at one item, does what there is to do, and gives the outcome in a word."""
type Window[Item] = Callable[[RecordStore, str | None, int], tuple[list[Item], str | None]]
"""Gives so many items of a list from a place on, and where the next ones start, or None at the end."""


async def look_through_waits(client: DurableFunctionsClient, store: RecordStore, look: Look[Wait]) -> Counter[str]:
    """Look at the open waits of all workflows, oldest first; give how often each outcome was had."""
    return await look_through_rows(client, store, "waits", waits.window, look)


async def look_through_rows[Item](
    client: DurableFunctionsClient, store: RecordStore, name: str, window: Window[Item], look: Look[Item]
) -> Counter[str]:
    """Look at what stands in a list of the records; ``name`` is that of the place where it goes on the next time."""
    counts: Counter[str] = Counter()
    start = await asyncio.to_thread(_cursor, store, name)
    for _ in range(WINDOWS):
        found, start = await asyncio.to_thread(window, store, start, WINDOW)
        counts += await _each(client, store, found, look)
        await asyncio.to_thread(_keep_cursor, store, name, start)
        if start is None:
            break
    return counts


async def look_through_instances(
    client: DurableFunctionsClient,
    store: RecordStore,
    name: str,
    query: OrchestrationQuery,
    look: Look[OrchestrationState],
    *,
    names: Collection[str] = WORKFLOWS.keys(),
) -> Counter[str]:
    """Look at the instances of the workflows that fit; ``name`` is that of the place where it goes on the next time."""
    counts: Counter[str] = Counter()
    query = replace(query, max_instance_count=WINDOW, fetch_inputs_and_outputs=True)
    continuation = await asyncio.to_thread(_cursor, store, name)
    for window in range(WINDOWS):
        try:
            found, continuation = await page_of(client, query, continuation)
        except grpc.RpcError as error:
            if window == 0 and error.code() != grpc.StatusCode.UNAVAILABLE:
                # Perhaps it is the cursor that is not understood, which may be from another task hub.
                await asyncio.to_thread(_keep_cursor, store, name, None)
            raise
        counts += await _each(client, store, [each for each in found if each.name in names], look)
        await asyncio.to_thread(_keep_cursor, store, name, continuation)
        if continuation is None:
            break
    return counts


async def _each[Item](
    client: DurableFunctionsClient, store: RecordStore, items: Sequence[Item], look: Look[Item]
) -> Counter[str]:
    """Look at each item, a few at a time, and count the outcomes. What fails, for whatever reason, stops no other."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(item: Item) -> str:
        async with turns:
            try:
                return await look(client, store, item)
            except Exception:
                _LOGGER.exception("The records of one instance could not be looked at")
                return "failed"

    return Counter(await asyncio.gather(*(one(item) for item in items)))


def _cursor(store: RecordStore, name: str) -> str | None:
    row = store.get("cursor", name)
    return row.body or None if row is not None else None


def _keep_cursor(store: RecordStore, name: str, cursor: str | None) -> None:
    store.write([Change("put", "cursor", name, cursor or "")])


def told(counts: Counter[str]) -> str:
    """Say how often each outcome was had."""
    return ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())) or "nothing to look at"
