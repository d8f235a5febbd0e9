"""A host that is killed between any two steps, and started again on what it left behind."""

import json
import random
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.hosting import HostProcess, host_process
from tests.polling import until

APP = Path(__file__).parents[1] / "apps" / "crashing"
MANAGEMENT = "/runtime/webhooks/durabletask"
INSTANCE = "one"


class Story:
    """What a client asks of hosts that come and go, and what they have acknowledged."""

    def __init__(self, host: HostProcess) -> None:
        self.client = host.client()
        self.acknowledged: list[str] = []

    def __enter__(self) -> "Story":
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def ask(self, what: str, path: str, body: Any = None) -> None:
        """Ask for something, and note when it is acknowledged. Raises ``httpx.TransportError`` when the host ends."""
        response = self.client.post(MANAGEMENT + path, json=body)
        assert response.status_code == 202, response.text
        self.acknowledged.append(what)

    def start(self, orchestrator: str, given: Any = None) -> None:
        """Start the instance."""
        self.ask("start", f"/orchestrators/{orchestrator}/{INSTANCE}", given)

    def event(self, payload: Any) -> None:
        """Raise the event."""
        self.ask(f"event {payload}", f"/instances/{INSTANCE}/raiseEvent/go", payload)

    def terminate(self) -> None:
        """End the instance."""
        self.ask("terminate", f"/instances/{INSTANCE}/terminate?reason=enough")

    @property
    def status(self) -> str | None:
        """The status of the instance; None when there is none."""
        response = self.client.get(f"{MANAGEMENT}/instances/{INSTANCE}")
        return None if response.status_code == 404 else str(response.json()["runtimeStatus"])

    def ended(self) -> Any:
        """Wait until the instance has completed, and give its output."""
        until(lambda: self.status not in (None, "Running", "Pending"), seconds=10)
        assert self.status == "Completed"
        return self.client.get(f"{MANAGEMENT}/instances/{INSTANCE}").json()["output"]

    def kinds(self) -> Counter[str]:
        """How many events of each kind there are in the history."""
        return Counter(json.loads(self.client.get(f"/api/history/{INSTANCE}").raise_for_status().text))

    def wait_for_the_end(self) -> None:
        """Look at the instance until the host is gone. Raises ``httpx.TransportError`` then."""
        until(lambda: self.status == "no such status", seconds=10)


def killed(data: Path, kill_at: str, *, orchestrator: str, events: list[Any], terminate: bool = False) -> list[str]:
    """Let a host be killed at a point while a client goes through its story; gives what was acknowledged."""
    with (
        host_process(data, app_dir=APP, environment={"KILL_AT": kill_at}) as host,
        Story(host) as story,
    ):
        with pytest.raises(httpx.TransportError):
            _tell(story, orchestrator, events, terminate=terminate)
        assert host.process.wait(10) == -signal.SIGKILL
    return story.acknowledged


def _tell(story: Story, orchestrator: str, events: list[Any], *, terminate: bool) -> None:
    story.start(orchestrator, {"seen": []} if orchestrator == "steps" else None)
    for each in events:
        story.event(each)
    if terminate:
        story.terminate()
    story.wait_for_the_end()


# Requests


@pytest.mark.parametrize("moment", ["before", "after", "answered"])
def test_a_start_is_there_when_it_was_acknowledged_and_wholly_or_not_at_all_otherwise(
    tmp_path: Path, moment: str
) -> None:
    acknowledged = killed(tmp_path, f"start:{moment}:1", orchestrator="waits", events=[])
    assert acknowledged == (["start"] if moment == "answered" else [])
    with host_process(tmp_path, app_dir=APP) as host, Story(host) as story:
        assert (story.status is None) == (moment == "before")
        if moment == "before":
            story.start("waits")
        story.event("end")
        assert story.ended() == []


@pytest.mark.parametrize("moment", ["before", "after", "answered"])
def test_an_event_is_taken_exactly_once_when_it_was_acknowledged(tmp_path: Path, moment: str) -> None:
    acknowledged = killed(tmp_path, f"event:{moment}:3", orchestrator="waits", events=[1, 2, 3, 4])
    assert acknowledged == ["start", "event 1", "event 2", *(["event 3"] if moment == "answered" else [])]
    with host_process(tmp_path, app_dir=APP) as host, Story(host) as story:
        story.event(5)
        story.event("end")
        assert story.ended() == [1, 2, *([] if moment == "before" else [3]), 5]
        assert story.kinds()["EventRaisedEvent"] == (4 if moment == "before" else 5)


@pytest.mark.parametrize("moment", ["before", "after", "answered"])
def test_a_termination_holds_when_it_was_acknowledged(tmp_path: Path, moment: str) -> None:
    acknowledged = killed(tmp_path, f"terminate:{moment}:1", orchestrator="waits", events=[1], terminate=True)
    assert ("terminate" in acknowledged) == (moment == "answered")
    with host_process(tmp_path, app_dir=APP) as host, Story(host) as story:
        if moment == "before":
            story.event("end")
            assert story.ended() == [1]
        else:
            assert story.status == "Terminated"


# Steps

POINTS = [
    *(f"turn:{moment}:{number}" for moment in ("before", "after") for number in (1, 3)),
    *(f"{step}:{moment}:1" for step in ("activity", "timer", "entity", "continue") for moment in ("before", "after")),
    "activity:answered:2",
    "entity:after:2",
]


@pytest.mark.parametrize("kill_at", POINTS)
def test_an_orchestration_goes_on_where_it_was_as_if_nothing_had_been(tmp_path: Path, kill_at: str) -> None:
    acknowledged = killed(tmp_path, kill_at, orchestrator="steps", events=["x"])
    with host_process(tmp_path, app_dir=APP) as host, Story(host) as story:
        assert "start" in acknowledged or kill_at.startswith("turn")
        assert story.status is not None
        if "event x" not in acknowledged:
            story.event("x")
        assert story.ended() == ["x", f"{INSTANCE} 1", 1, f"{INSTANCE} 3", 2]
        kinds = story.kinds()
        once = ("TaskScheduledEvent", "TaskCompletedEvent", "TimerCreatedEvent", "TimerFiredEvent")
        assert {kind: kinds[kind] for kind in once} == dict.fromkeys(once, 1)
        entity = story.client.get(f"{MANAGEMENT}/entities/counter/{INSTANCE}").json()
        assert entity == 2
    effects = Counter((tmp_path / "effects").read_text().splitlines())
    assert set(effects) == {f"{INSTANCE} 1", f"{INSTANCE} 3"}
    assert max(effects.values()) <= 2  # at least once: again at most for the one that was under way
    assert sum(effects.values()) <= 3


# At any moment

ROUNDS = 2
CLIENTS = 20


class Orders:
    """What twenty clients were told of their orders."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.started: set[str] = set()
        self.outcomes: dict[str, str] = {}

    def drive(self, host: HostProcess, prefix: str) -> None:
        """Start and decide orders until the host is gone."""
        with host.client() as client:
            for number in range(500):
                instance = f"{prefix}-{number}"
                body = {"order_id": instance, "cost": 2000, "product": "Widget", "quantity": 1, "instance_id": instance}
                try:
                    response = client.post("/start-purchase-order", json=body)
                    assert response.status_code == 202, response.text
                    with self.lock:
                        self.started.add(instance)
                    response = decide(client, instance, approved=number % 2 == 0)
                    assert response.status_code in (200, 202), response.text
                    if response.status_code == 200:
                        with self.lock:
                            self.outcomes[instance] = response.json()["outcome"]
                except httpx.TransportError:
                    return


def decide(client: httpx.Client, instance: str, *, approved: bool) -> httpx.Response:
    """Decide about an order."""
    return client.post(f"/signal-approval/{instance}", json={"approver_name": "M", "approved": approved})


def test_orders_survive_hosts_that_are_killed_at_any_moment(tmp_path: Path) -> None:
    orders, chance = Orders(), random.Random(4)
    settings = {"DECISION_WAIT_SECONDS": "5", "PYTHON_THREADPOOL_THREAD_COUNT": "32"}
    for round_ in range(ROUNDS):
        with host_process(tmp_path, environment=settings) as host, ThreadPoolExecutor(CLIENTS) as pool:
            clients = [pool.submit(orders.drive, host, f"r{round_}c{client}") for client in range(CLIENTS)]
            enough = len(orders.outcomes) + CLIENTS
            until(lambda: len(orders.outcomes) > enough or any(each.done() for each in clients))  # noqa: B023
            time.sleep(chance.random() / 2)
            assert host.stop(signal.SIGKILL) == -signal.SIGKILL
            for each in clients:
                each.result(20)
    with host_process(tmp_path, environment=settings) as host, host.client() as client, ThreadPoolExecutor(8) as pool:

        def end(instance: str) -> tuple[str, str]:
            with host.client() as own:
                answer = decide(own, instance, approved=True)  # it may have been decided, or not
                assert answer.status_code in (200, 202, 409), answer.text
                until(lambda: own.get(f"/status/{instance}").json()["output"], seconds=20)
                return instance, own.get(f"/status/{instance}").json()["status"]

        ends = dict(pool.map(end, sorted(orders.started)))
        told = {"approved": "Approved by M", "rejected": "Rejected by M"}
        wrong = {each: ends[each] for each, outcome in orders.outcomes.items() if ends[each] != told[outcome]}
        assert not wrong
        assert set(ends.values()) <= set(told.values())
        placed = {each.stem.rpartition(".")[0] for each in (tmp_path / "orders" / "placed").iterdir()}
        assert {each for each, shown in ends.items() if shown == told["approved"]} <= placed
        cancelled = {each.stem.rpartition(".")[0] for each in (tmp_path / "orders" / "cancelled").iterdir()}
        assert not placed & cancelled
        page = client.get(f"{MANAGEMENT}/instances?runtimeStatus=Pending,Failed").json()
        assert page == []
    assert len(orders.outcomes) > CLIENTS * ROUNDS
