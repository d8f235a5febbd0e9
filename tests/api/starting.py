"""Starting runs as the functions of the app do, from many processes at once."""

import asyncio
from typing import Any

from azure.durable_functions import DurableFunctionsClient

from contracts.base import Contract
from contracts.start import StartOptions
from local_host.client_binding import client_configuration
from local_host.testing import HubControl
from triggers.starting import start


class NoTurns(dict[str, Any]):
    """Starts that do not know of one another, as those of many processes."""

    def setdefault(self, _name: str, turn: Any = None) -> Any:
        return turn


def configuration_of(control: HubControl) -> str:
    """What the clients of the hub are made with."""
    return client_configuration(control.hub.address, control.hub.credential, "http://unused", "countersign")


def many(
    control: HubControl, workflow: str, given: Contract, name: str, policy: str | None, *, calls: int
) -> list[Any]:
    """Start a run in many tasks of the host's loop; gives ids and errors."""
    options = StartOptions.model_validate({"idReusePolicy": policy} if policy else {})

    async def at_the_same_moment() -> list[Any]:
        client = DurableFunctionsClient(configuration_of(control))
        starts = [start(client, workflow, name, given, options) for _ in range(calls)]
        return await asyncio.gather(*starts, return_exceptions=True)

    found: list[Any] = control._thread.run(at_the_same_moment())
    return found
