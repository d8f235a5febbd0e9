"""A task hub with the entities of the app on it, on a clock that the test moves, and hosts that come and go."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from durabletask.entities import EntityInstanceId
from durabletask.worker import TaskHubGrpcWorker

from contracts.rate_limit import RATE_LIMIT
from entities.rate_limit import rate_limit
from local_host.task_hub.clock import Clock
from local_host.testing import HubControl, running_hub
from tests.polling import until


@contextmanager
def hub_with_entities(
    folder: Path | None = None, clock: Clock | None = None, *, hosts: int = 1
) -> Iterator[HubControl]:
    """Run a hub, in memory unless a folder is given, with so many workers that have the entities."""
    with running_hub(folder, clock) as control, ExitStack() as stack:
        for _ in range(hosts):
            worker = TaskHubGrpcWorker(host_address=control.hub.address, metadata=list(control.hub.metadata))
            worker.add_entity(rate_limit)
            worker.start()  # type: ignore[no-untyped-call]
            stack.callback(worker.stop)
        until(lambda: control.hub.has_workers)
        yield control


def state_of(control: HubControl, key: str) -> Any:
    """Give the state of a rate limit when everything has settled; None where there is none."""
    control.settle()
    found = control.client.get_entity(EntityInstanceId(RATE_LIMIT, key))
    text = None if found is None else found.get_state()
    return json.loads(text) if text else None
