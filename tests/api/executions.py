"""The app with a clock that the test moves, and runs of it in every state, for the tests of executions."""

import json
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from azure.durable_functions import DurableFunctionsClient

from contracts.audit import Entry
from contracts.pause_state import PauseState
from local_host.task_hub.clock import Clock
from local_host.testing import AppControl, running_app
from services import clock, outbox, paused, pausing, trail
from services.outbox import OutboxMail
from services.record_store import close_record_store, get_record_store
from settings import get_settings
from tests.api.starting import configuration_of
from tests.hosting import ROOT

MANAGEMENT = "/runtime/webhooks/durabletask/instances"
APPROVAL: dict[str, Any] = {"requester": "Alice", "item": "A desk", "timeout_hours": 1000}
ORDER: dict[str, Any] = {"order_id": "o-1", "cost": 1000, "product": "Widget", "quantity": 2}
RETRIED = {"kind": "simulated", "fails": 1, "body": {}}
LATER = {"attempts": 3, "first_interval": 86_400, "max_interval": 86_400, "jitter": 0}
SEED = {
    *("id", "workflow_id", "execution_id", "status", "paused_at", "paused_reason", "paused_step_id", "next_step_id"),
    *("resume_data", "resume_count", "last_resumed_at"),
}
"""The fields that everybody was promised."""


class Api:
    """The API of executions."""

    def __init__(self, control: AppControl, http: httpx.Client) -> None:
        self.control, self.http = control, http

    def post(self, name: str, verb: str, body: Any = None, key: str | None = None) -> httpx.Response:
        """Pause, resume or cancel a run."""
        headers = {"Idempotency-Key": key} if key is not None else {}
        content = body if isinstance(body, str) or body is None else json.dumps(body)
        return self.http.post(f"/api/v1/executions/{name}/{verb}", content=content, headers=headers)

    def pause(self, name: str, reason: str = "Why", **said: Any) -> dict[str, Any]:
        """Pause a run that can be."""
        return _taken(self.post(name, "pause", {"reason": reason} | said))

    def resume(self, name: str, data: Any = None) -> dict[str, Any]:
        """Resume a run that can be."""
        return _taken(self.post(name, "resume", {"resume_data": data} if data is not None else None))

    def shown(self, name: str) -> dict[str, Any]:
        """What the API shows of a run."""
        return _taken(self.http.get(f"/api/v1/executions/{name}"))

    def listed(self, path: str = "/paused", **query: Any) -> list[dict[str, Any]]:
        """All that a list has, page by page."""
        found: list[dict[str, Any]] = []
        while True:
            page = _taken(self.http.get(f"/api/v1/executions{path}", params=query))
            assert page["count"] == len(page["executions"])
            found += page["executions"]
            query["continuation"] = page["continuation"]
            if query["continuation"] is None:
                return found

    def names(self, path: str = "/paused", **query: Any) -> list[str]:
        """The ids of all that a list has."""
        return [each["id"] for each in self.listed(path, **query)]

    def manage(self, name: str, verb: str) -> None:
        """Do something with a run past the app."""
        assert self.http.post(f"{MANAGEMENT}/{name}/{verb}").is_success
        self.control.settle()

    def status(self, name: str) -> str:
        """What a run is for the task hub."""
        return self.control.state(name).runtime_status.name

    def advance(self, **time: float) -> None:
        """Move the clock."""
        self.control.advance(timedelta(**time))

    def call[Result](self, work: Callable[[DurableFunctionsClient], Awaitable[Result]]) -> Result:
        """Do something with a client of the kind that the app's functions get, on the loop of the host."""

        async def on_loop() -> Result:
            return await work(DurableFunctionsClient(configuration_of(self.control)))

        found = self.control._thread.run(on_loop())
        self.control.settle()
        return found

    def kept(self, name: str) -> PauseState | None:
        """What the entity keeps of a run."""
        return self.call(lambda client: pausing.look(client, name))

    def told(self, name: str, action: str) -> list[Entry]:
        """The entries of the trail of a run that say this."""
        return [each for each in trail.read(get_record_store(), name).entries if each.action == action]

    def heard(self, name: str) -> int:
        """How many times a run was told that it is paused, or that it goes on."""
        events = [each for each in self.control.history(name) if each.HasField("eventRaised")]
        return sum(each.eventRaised.name == "pausing" for each in events)

    def mails(self) -> list[OutboxMail]:
        """The mails to the operators, oldest first."""
        return [each for each in reversed(outbox.page()) if each.to == "operators@example.com"]

    # Runs in every state

    def pending(self) -> str:
        """A run that begins in a day."""
        at = (self.control.now + timedelta(days=1)).isoformat().replace("+00:00", "Z")
        return str(self._start(f"/start-purchase-order?startAt={at}", ORDER)["instance_id"])

    def running(self) -> str:
        """A run that is about to try again."""
        call = {"name": "Ship", "call": RETRIED, "retry": LATER}
        name = str(self._start("/api/interventions", call)["intervention_id"])
        assert self.control.status(name)["phase"] == "waiting_to_retry"
        return name

    def waiting(self, **changes: Any) -> str:
        """A request that waits for its approval, which anybody can give."""
        name = str(self._start("/api/requests", APPROVAL | changes)["request_id"])
        assert self.control.status(name)["phase"] == "waiting_for_approval"
        return name

    def paused(self) -> str:
        """A run that is paused by hand, which is about to try again."""
        name = self.running()
        self.pause(name)
        return name

    def suspended(self) -> str:
        """A run that somebody has suspended past the app."""
        name = self.running()
        self.manage(name, "suspend")
        return name

    def completed(self) -> str:
        """A run that has completed."""
        return str(self._start("/start-purchase-order", ORDER | {"cost": 1})["instance_id"])

    def failed(self) -> str:
        """A run that has failed."""
        name = str(self._start("/api/requests?executionTimeout=60", APPROVAL)["request_id"])
        self.advance(seconds=61)
        return name

    def cancelled(self) -> str:
        """A run that was cancelled."""
        name = self.running()
        _taken(self.post(name, "cancel"))
        return name

    def none(self) -> str:
        """An id without a run."""
        return uuid4().hex

    def _start(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        response = self.http.post(path, json=body)
        assert response.status_code in (200, 202), response.text
        self.control.settle()
        found: dict[str, Any] = response.json()
        return found


def _taken(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


@contextmanager
def hosting(folder: Path, hub_clock: Clock | None = None, *, ephemeral: bool = True) -> Iterator[Api]:
    """Run the app on a folder, with its settings and its clock."""
    os.environ["LOCAL_HOST_DATA"] = str(folder)
    get_settings.cache_clear()
    close_record_store()
    with running_app(ROOT, folder, hub_clock, ephemeral=ephemeral) as control:
        clock.set_clock(lambda: control.now)
        try:
            with httpx.Client(base_url=control.url, timeout=30, trust_env=False) as http:
                yield Api(control, http)
        finally:
            clock.set_clock(clock.system_clock)
            close_record_store()
            get_settings.cache_clear()


def is_listed(name: str) -> bool:
    """Whether a run stands in the list of what is paused by hand."""
    return paused.is_listed(get_record_store(), name)
