"""Records the histories that the replay tests hold the orchestrators to: ``make goldens``.

A history that is there already stays, since instances like it may be in flight; one of a new shape is added beside
it. Delete a file only when no instance of its shape can be in flight any more.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb

from services.record_store import close_record_store
from settings import get_settings
from tests import conftest as _without_timers  # noqa: F401
from tests.orchestrators.engine import Engine, running_engine
from tests.orchestrators.goldens import FOLDER, load, save, shape

ORDER = {"order_id": "order123", "cost": 500.0, "product": "Widget", "quantity": 2}
REQUEST = {
    "requester": "Alice",
    "item": "Vacation Request",
    "timeout_hours": 1.0,
    "approvers": ["approvals@example.com"],
}
APPROVAL = {"approver_name": "ManagerX", "approved": True, "channel": "api"}
DECISION = {"is_approved": True, "approver": "Manager", "comments": "Approved!", "decision_id": "d1", "channel": "api"}

type Scenario = Callable[[Engine], str]


def purchase_order(
    *events: Any, early: bool = False, ends: bool = True, cost: float = 500, timeout: float = 3600
) -> Scenario:
    """A purchase order that gets these events, when it waits or before; to its end, or to its wait."""
    given = {"order": ORDER | {"cost": cost}, "timeout_seconds": timeout, "approvers": REQUEST["approvers"]}
    return scenario("purchase_order", given, "approval_event", events, early=early, ends=ends)


def approval(*events: Any, early: bool = False, ends: bool = True, hours: float = 1.0) -> Scenario:
    """An approval that gets these events."""
    return scenario("approval", REQUEST | {"timeout_hours": hours}, "decision", events, early=early, ends=ends)


def scenario(name: str, given: Any, event: str, events: tuple[Any, ...], *, early: bool, ends: bool) -> Scenario:
    """Make a scenario: start, raise the events, wait for the end or for the wait."""

    def play(engine: Engine) -> str:
        instance = engine.start(name, given)
        if not ends or (events and not early):
            engine.phase(instance, "waiting_for_approval")
        for payload in events:
            engine.event(instance, event, payload)
        if ends and not events:
            engine.advance(seconds=3600)
        if ends:
            engine.output(instance)
        return instance

    return play


SCENARIOS: dict[str, dict[str, Scenario]] = {
    "purchase_order": {
        "auto_approved": purchase_order(cost=1),
        "approved": purchase_order(APPROVAL),
        "approved_early": purchase_order(APPROVAL, early=True),
        "rejected": purchase_order(APPROVAL | {"approved": False}),
        "malformed_first": purchase_order({"approved": "yes"}, APPROVAL),
        "timed_out": purchase_order(timeout=30),
        "waiting": purchase_order(ends=False),
    },
    "approval": {
        "approved": approval(DECISION),
        "approved_early": approval(DECISION, early=True),
        "rejected": approval(DECISION | {"is_approved": False}),
        "malformed_first": approval({"approved": "yes"}, DECISION),
        "timed_out": approval(hours=0.5),
        "waiting": approval(ends=False),
        "waiting_a_year": approval(ends=False, hours=8760.0),
    },
}


def keep(workflow: str, name: str, history: list[pb.HistoryEvent]) -> str:
    """Save a history unless one of its shape is there; give what was done."""
    folder = FOLDER / workflow
    known = sorted(folder.glob(f"{name}*.json"))
    if any(shape(load(file)) == shape(history) for file in known):
        return "known"
    file = folder / (f"{name}.json" if not known else f"{name}-{len(known) + 1}.json")
    save(file, history)
    return f"recorded as {file.name}"


def main() -> None:
    """Play every scenario on a real engine and keep its history."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LOCAL_HOST_DATA"] = folder
        get_settings.cache_clear()
        with running_engine(Path(folder)) as engine:
            for workflow, scenarios in SCENARIOS.items():
                for name, play in scenarios.items():
                    print(f"{workflow}/{name}: {keep(workflow, name, engine.history(play(engine)))}")
        close_record_store()


if __name__ == "__main__":
    main()
