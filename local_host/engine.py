"""What the host needs of the engine that runs orchestrations, whichever it is."""

from collections.abc import Mapping
from typing import Any, Protocol

from local_host.durable import DurableFunctions
from local_host.task_hub import TaskHub


class Engine(Protocol):
    """A task hub that is connected: the embedded one, or one of a Durable Task Scheduler.

    ``address`` is ``host:port`` on loopback, where ``TaskHubSidecarService`` answers those who send ``credential`` as
    the metadata ``taskhub``; the app's clients are configured with it. ``stub`` is a client of the same service for the
    host itself, on its event loop. ``description`` is a line for people, without secrets. ``hub`` is the embedded task
    hub where that is the engine.
    """

    hub: TaskHub | None
    address: str
    credential: str
    stub: Any
    description: str

    def work(self, functions: DurableFunctions, slots: Mapping[str, int]) -> None:
        """Begin to run the turns, activities and entity batches of the hub by the app's functions.

        ``slots`` says how many of each kind (``TURN``, ``ACTIVITY``, ``ENTITY`` of ``local_host.task_hub.dispatch``)
        are under way at once.
        """
        ...

    async def drain(self) -> None:
        """Take nothing more, and wait for what runs.

        What runs when this is cancelled is handed out again after the next start.
        """
        ...
