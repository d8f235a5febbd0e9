"""What the tests of pausing have in common: pausing a run as the app does, and telling what became of it."""

from datetime import datetime
from typing import Any

from tests.orchestrators.engine import Engine

APPROVED = {"approver_name": "Manager", "approved": True}
WHO = {"mailbox": "operators@example.com"}
GATE = "waiting_for_intervention"
FOREVER = {"fails": 1000, "status": 500}
CALL = {"kind": "simulated", **FOREVER, "body": {}}


class Pauses:
    """Pauses one run, as the app does: the event first, and the engine's own suspension once the run has heard it."""

    def __init__(self, engine: Engine, instance: str) -> None:
        self._engine, self._instance = engine, instance
        self.number = 0

    def pause(self, clock: str = "freeze", *, natively: bool = True, **said: Any) -> None:
        """Pause it."""
        self.number += 1
        self.tell("pause", self.number, clock, **said)
        self._engine.state(self._instance)
        if natively:
            self._engine.client.suspend_orchestration(self._instance)
        self._engine.state(self._instance)

    def resume(self, data: dict[str, Any] | None = None, clock: str = "freeze", *, natively: bool = True) -> None:
        """Resume it."""
        self.tell("resume", self.number, clock, data=data)
        if natively:
            self._engine.client.resume_orchestration(self._instance)
        self._engine.state(self._instance)

    def tell(self, action: str, number: int, clock: str = "freeze", **said: Any) -> None:
        """Raise the event alone."""
        at = self._engine.now.isoformat().replace("+00:00", "Z")
        event = {"action": action, "source": self._instance, "number": number, "at": at, "by": "alice", "clock": clock}
        reason = {"reason": "Awaiting review"} if action == "pause" else {}
        self._engine.event(self._instance, "pausing", event | reason | said)


def order(**said: Any) -> dict[str, Any]:
    """A purchase order that waits for its approval for an hour; one that costs less is placed at once."""
    cost = said.pop("cost", 500)
    item = {"order_id": "order123", "cost": cost, "product": "Widget", "quantity": 2}
    return {"order": item, "timeout_seconds": 3600} | said


def start_order(engine: Engine, **said: Any) -> tuple[str, Pauses]:
    """Start an order that waits for its approval."""
    instance = engine.start("purchase_order", order(**said))
    engine.phase(instance, "waiting_for_approval")
    return instance, Pauses(engine, instance)


def start_approval(engine: Engine, **said: Any) -> tuple[str, Pauses]:
    """Start an approval that waits for an hour, for anybody unless people are named."""
    given = {"requester": "Alice", "item": "Vacation", "timeout_hours": 1.0, "mailbox": "boss@example.com"} | said
    instance = engine.start("approval", given)
    engine.phase(instance, "waiting_for_approval")
    return instance, Pauses(engine, instance)


def start_call(engine: Engine, **said: Any) -> tuple[str, Pauses]:
    """Start a call that fails, and waits at its gate."""
    given = {"name": "charge", "call": CALL, "retry": {"attempts": 1}, **WHO}
    instance = engine.start("guarded_call", given | said)
    engine.phase(instance, GATE)
    return instance, Pauses(engine, instance)


def start_refund(engine: Engine, *failing: str, simulated: Any = FOREVER, **said: Any) -> tuple[str, Pauses]:
    """Start a refund; calls that fail wait at their gates."""
    given = {"amount": "12.50", "currency": "EUR", "data": "first", "retry": {"attempts": 1}, **WHO} | said
    instance = engine.start("refund", given | {"simulate": dict.fromkeys(failing, simulated)})
    engine.state(instance)
    return instance, Pauses(engine, instance)


def deadline(engine: Engine, instance: str) -> datetime:
    """Until when the run says that it waits."""
    return datetime.fromisoformat(engine.status(instance)["deadline"])


def is_paused(engine: Engine, instance: str) -> bool:
    """Whether the run says that it is paused."""
    pause = engine.status(instance)["pause"]
    return pause is not None and bool(pause["paused"])


def children(engine: Engine, instance: str) -> list[str]:
    """The ids of the runs that a run has called."""
    created = [event.subOrchestrationInstanceCreated for event in engine.history(instance)]
    return [event.instanceId for event in created if event.instanceId]
