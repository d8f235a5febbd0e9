"""Records the histories that the replay tests hold the orchestrators to: ``make goldens``.

A history that is there already stays, since instances like it may be in flight; one of a new shape is added beside
it. Delete a file only when no instance of its shape can be in flight any more.
"""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb

from contracts.audit import digest_of
from services.record_store import close_record_store
from settings import get_settings
from tests import conftest as _without_timers  # noqa: F401
from tests.orchestrators.engine import Engine, running_engine
from tests.orchestrators.goldens import FOLDER, load, save, shape
from tests.orchestrators.pausing import Pauses

ORDER = {"order_id": "order123", "cost": 500.0, "product": "Widget", "quantity": 2}
REQUEST = {
    "requester": "Alice",
    "item": "Vacation Request",
    "timeout_hours": 1.0,
    "mailbox": "approvals@example.com",
}
PEOPLE = [{"email": "a@example.com", "name": "Ann"}, {"email": "b@example.com"}]
FORM = {"type": "object", "properties": {"cost_centre": {"type": "string"}}, "required": ["cost_centre"]}
APPROVAL = {"approver_name": "ManagerX", "approved": True, "channel": "api"}
DECISION = {"is_approved": True, "approver": "Manager", "comments": "Approved!", "decision_id": "d1", "channel": "api"}

COMMAND, RETRY, SKIP = "internal_channel_command", "signal_channel_command_retry", "signal_channel_command_skip"
RPC = {"InterStateChannelPublishing": [{"channelName": COMMAND, "value": {"encoding": "json", "data": '"failed"'}}]}
REFUND = {"amount": "12.50", "currency": "EUR", "data": "first", "retry": {"attempts": 1}}
WAITING_FOR_APPROVAL = "waiting_for_approval"
VERIFY = ("verify", {"source": "api", "channel": "api", "decision_id": "v1"})
LINK = ("verify", {"source": "link", "channel": "link", "decision_id": "v2", "link": None})
RIGHT, WRONG = (("verify", {"source": "code", "channel": "page", "link": code}) for code in ("right", "wrong"))
RESEND = ("resend", {"channel": "page", "decision_id": "r1"})
CHANGE = ("change_email", {"email": "b@example.com", "address_key": "1" * 32, "decision_id": "c1"})
STOP = ("stop_reminders", {"changes": 0, "channel": "link", "decision_id": "s1"})
BERLIN = {"start": "21:00", "end": "08:00", "zone": "Europe/Berlin"}


def _step(name: str, action: dict[str, Any], **ways: str) -> dict[str, Any]:
    return {"id": name, "type": "action", "action": action, **ways}


def _check(name: str, field: str, value: Any, **ways: str) -> dict[str, Any]:
    condition = {"field": field, "operator": ">" if isinstance(value, int) else "=", "value": value}
    return {"id": name, "type": "condition", "condition": condition, **ways}


STEPS = [
    _check("check", "amount", 10_000, on_true="ask", on_false="end"),
    _step("ask", {"type": "block", "reason": "Look at {{amount}}", "schema": FORM}, next="mail", on_rejected="stop"),
    _step("mail", {"type": "email", "to": "{{to}}", "subject": "Yes", "text": "{{amount}}"}, next="end"),
    _step("call", {"type": "call", "request": {"call": {"kind": "simulated", "fails": 1}, "retry": {"attempts": 1}}}),
    _step("approve", {"type": "approve", "request": {"requester": "Alice", "item": "x", "timeout_hours": 2}}),
    _step("wait", {"type": "wait_event", "name": "paid", "timeout_hours": 1}, next="again", on_timeout="rest"),
    _check("again", "state", "done", on_true="end", on_false="rest"),
    _step("rest", {"type": "delay", "duration": 1}, next="wait"),
    _step("end", {"type": "complete", "output": "{{amount}}"}),
    _step("stop", {"type": "fail", "reason": "no to {{amount}}"}),
]
"""Steps of a declared workflow, of which a run begins at any."""

type Scenario = Callable[[Engine], str]


def purchase_order(
    *events: Any, early: bool = False, ends: bool = True, cost: float = 500, timeout: float = 3600
) -> Scenario:
    """A purchase order that gets these events, when it waits or before; to its end, or to its wait."""
    given = {"order": ORDER | {"cost": cost}, "timeout_seconds": timeout, "approvers": [REQUEST["mailbox"]]}
    return scenario("purchase_order", given, "approval_event", events, early=early, ends=ends)


def approval(*events: Any, early: bool = False, ends: bool = True, hours: float = 1.0, **asked: Any) -> Scenario:
    """An approval that gets these events: payloads of ``decision``, or names with payloads."""
    return scenario("approval", REQUEST | {"timeout_hours": hours} | asked, "decision", events, early=early, ends=ends)


def guarded_call(*events: Any, ends: bool = True, fails: int = 9, **asked: Any) -> Scenario:
    """A guarded call that gets these events, names with payloads, at its gate; without any, an hour passes."""
    call = {"kind": "simulated", "fails": fails, "body": {"amount": 5}}
    given = {"name": "charge", "call": call, "retry": {"attempts": 1}, "skippable": True, "editable": True} | asked
    said = tuple((name, {"by": "Ann", "reason": "I know why", **payload}) for name, payload in events)
    return scenario("guarded_call", given, "", said, early=False, ends=ends, wait="waiting_for_intervention")


def intervention(*steps: Any, ends: bool = True, advance: float = 0, **given: Any) -> Scenario:
    """A manual intervention that gets these events, each when the one before was taken; to its end, or to its wait."""

    def play(engine: Engine) -> str:
        instance = engine.start("manual_intervention", given)
        for event, payload in steps:
            engine.status(instance)
            engine.event(instance, event, payload)
        engine.status(instance)
        if advance:
            engine.advance(seconds=advance)
        if ends:
            engine.end(instance)
        return instance

    return play


def published(*messages: tuple[str, Any], key: str) -> tuple[str, Any]:
    """Messages as the API sends them."""
    sent = [{"channel": channel, "value": value} for channel, value in messages]
    return "publish", {"messages": sent, "decision_id": key, "channel": "api"}


def refund(*steps: Any, failing: tuple[str, ...] = (), ends: bool = True, **asked: Any) -> Scenario:
    """A refund to which these happen: events with their payloads, what is done at a call's gate, hours that pass."""
    given = REFUND | {"simulate": {name: {"fails": 1, "status": 500} for name in failing}} | asked

    def play(engine: Engine) -> str:
        instance = engine.start("refund", given)
        for step in steps:
            engine.state(instance)
            if isinstance(step, int | float):
                engine.advance(hours=step)
            elif step[0] in ("Ready", "swap"):
                engine.event(instance, *step)
            else:
                name, action = step
                engine.event(_call_of(engine, instance, name), action, {"by": "Olga", "reason": "as they asked"})
        if ends:
            engine.end(instance)
        return instance

    return play


def _call_of(engine: Engine, instance: str, name: str) -> str:
    created = [event.subOrchestrationInstanceCreated for event in engine.history(instance)]
    return next(
        each.instanceId for each in created if each.input.value and json.loads(each.input.value)["name"] == name
    )


def workflow(*happened: Any, ends: bool = True, **asked: Any) -> Scenario:
    """A declared workflow to which these happen: events with their payloads, hours that pass, and what is said to the
    run that it has called last. Its steps are those of ``STEPS`` from ``begin`` on."""
    begin: str = asked.pop("begin")
    given = {
        "workflow": "orders",
        "version": 1,
        "definition": {"name": "orders", "steps": sorted(STEPS, key=lambda step: step["id"] != begin)},
        "input": {"amount": 12_000, "to": "a@example.com", "state": "open"},
    }

    def play(engine: Engine) -> str:
        instance = engine.start("workflow", given | asked)
        for each in happened:
            status = engine.status(instance)
            if isinstance(each, int | float):
                engine.advance(hours=each)
            else:
                event, payload = each
                engine.event(instance if event in ("answer", "paid") else status["data"]["child"], event, payload)
        if ends:
            engine.end(instance)
        return instance

    return play


def signup(
    name: str, *steps: Any, ends: bool = True, known: bool = False, email: str | None = None, **asked: Any
) -> Scenario:
    """A sign-up to which these happen: events with their payloads, hours that pass. If its address is ``known``, it has
    an account already. In a payload, ``link`` is a code, or null, that comes from the newest mail."""

    def play(engine: Engine) -> str:
        if known:
            engine.end(signup(f"{name}-before", VERIFY, email=f"{name}@example.com")(engine))
            engine.advance(seconds=1)
        form = {"username": name, "email": email or f"{name}@example.com", "firstname": "Ann"}
        given = {"form": form, "address_key": digest_of(name)[:32], **asked}
        instance = engine.start("signup", given, f"signup-{name}")
        for step in steps:
            status = engine.status(instance)
            if isinstance(step, int | float):
                engine.advance(hours=step)
                continue
            event, payload = step
            if "link" in payload:
                link = {"run": status["trail"]["run"], "generation": status["signup"]["generation"]}
                payload = payload | {"link": link | {"code": payload["link"]}}
            engine.event(instance, event, payload)
        engine.state(instance)
        if ends:
            engine.end(instance)
        return instance

    return play


def paused_order(*events: Any, hours: float = 0, data: dict[str, Any] | None = None) -> Scenario:
    """A purchase order that gets these events while it is paused; without any, it waits to its end."""

    def play(engine: Engine) -> str:
        instance = purchase_order(ends=False)(engine)
        pauses = Pauses(engine, instance)
        pauses.pause()
        for event in events:
            engine.event(instance, "approval_event", event)
        engine.advance(hours=hours)
        pauses.resume(data)
        if not events:
            engine.advance(hours=1)
        engine.end(instance)
        return instance

    return play


def paused_refund(*, call: bool = False) -> Scenario:
    """A refund that is paused, and resumed, with its first call, which somebody retries meanwhile; or that call."""

    def play(engine: Engine) -> str:
        instance = refund(failing=("create_refund",), ends=False)(engine)
        engine.state(instance)
        child, pauses = _call_of(engine, instance, "create_refund"), Pauses(engine, instance)
        pauses.pause()
        engine.event(child, "retry", {"by": "Olga", "reason": "as they asked"})
        engine.advance(hours=30)
        pauses.resume()
        engine.event(instance, "Ready", None)
        engine.end(instance)
        return child if call else instance

    return play


def vote(who: str, choice: str = "approve", **said: Any) -> dict[str, Any]:
    """What one of the people says, over the API."""
    return {"vote": choice, "approver": f"{who}@example.com", "decision_id": f"{who}-{choice}", "channel": "api"} | said


def scenario(
    name: str,
    given: Any,
    event: str,
    events: tuple[Any, ...],
    *,
    early: bool,
    ends: bool,
    wait: str = WAITING_FOR_APPROVAL,
) -> Scenario:
    """Make a scenario: start, raise the events, wait for the end or for the wait."""

    def play(engine: Engine) -> str:
        instance = engine.start(name, given)
        if not ends or (events and not early):
            engine.phase(instance, wait)
        for each in events:
            if wait != WAITING_FOR_APPROVAL:
                engine.phase(instance, wait)
            what, payload = each if isinstance(each, tuple) else (event, each)
            engine.event(instance, what, payload)
        if ends and not events:
            engine.advance(seconds=3600)
        if ends:
            engine.end(instance)
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
        "paused_with_data": paused_order(APPROVAL, data={"reviewed_by": "Bob"}),
        "frozen_over_its_time": paused_order(hours=2),
    },
    "approval": {
        "approved": approval(DECISION),
        "approved_early": approval(DECISION, early=True),
        "rejected": approval(DECISION | {"is_approved": False}),
        "malformed_first": approval({"approved": "yes"}, DECISION),
        "timed_out": approval(hours=0.5),
        "waiting": approval(ends=False),
        "waiting_a_year": approval(ends=False, hours=8760.0),
        "both_approve": approval(vote("a"), vote("b"), approvers=PEOPLE, policy="all"),
        "one_after_another": approval(vote("a"), vote("b"), approvers=PEOPLE, policy="sequential"),
        "quorum_not_reached": approval(
            vote("a", "abstain"), vote("b", "reject"), approvers=PEOPLE, policy={"quorum": 1}, reject_after=2
        ),
        "in_stages": approval(
            vote("a"), vote("b"), policy=[{"approvers": PEOPLE[:1]}, {"approvers": PEOPLE[1:], "reject_after": 1}]
        ),
        "answered": approval(
            vote("a"),
            vote("a", answers={"cost_centre": "X1"}, decision_id="a-2"),
            approvers=PEOPLE[:1],
            form=FORM,
            title="A laptop",
        ),
        "changed_then_approved": approval(
            vote("a", "request_changes", comments="Which one?"),
            ("revise", {"by": "Alice", "item": "A smaller one", "decision_id": "r1"}),
            vote("a"),
            approvers=PEOPLE[:1],
            requester_email="alice@example.com",
        ),
        "handed_over_and_extended": approval(
            ("delegate", {"approver": "a@example.com", "to": "c@example.com"}),
            ("extend", {"by": "Alice", "extend_by": 1.0}),
            ("remind", {"approver": "c@example.com"}),
            vote("c"),
            approvers=PEOPLE[:1],
        ),
        "withdrawn": approval(("withdraw", {"by": "Alice", "comments": "Found one"}), approvers=PEOPLE),
        "escalated_to_the_end": approval(
            hours=0.25,
            approvers=PEOPLE[:1],
            on_timeout="escalate",
            escalation=[{"approvers": PEOPLE[1:], "timeout_hours": 0.5}],
            reminders={"every": 0.1, "max": 1},
        ),
        "approved_by_time": approval(hours=0.5, approvers=PEOPLE[:1], on_timeout="approve", reminders=[0.25]),
    },
    "guarded_call": {
        "worked": guarded_call(fails=0),
        "tried_again": guarded_call(fails=2, retry={"attempts": 3}),
        "retried": guarded_call(("retry", {}), fails=1),
        "edited": guarded_call(
            ("edit", {"body": {"cost_centre": 7}}), ("edit", {"body": {"cost_centre": "X1"}}), fails=1, schema=FORM
        ),
        "skipped": guarded_call(("retry", {}), ("skip", {"result": {"id": 7}})),
        "failed": guarded_call(
            ("fail", {"decision_id": "f1"}), assigned_to=[{"email": "a@example.com", "name": "Ann"}]
        ),
        "nobody_acted": guarded_call(deadline=0.5, reminders=[0.25]),
        "skipped_by_time": guarded_call(deadline=0.5, on_deadline="skip", substitute={"id": 0}),
        "escalated": guarded_call(deadline=0.4, on_deadline="escalate", escalate_to=PEOPLE),
        "took_too_long": guarded_call(execution_timeout=600),
        "waiting": guarded_call(ends=False),
        "paused_with_its_run": paused_refund(call=True),
    },
    "manual_intervention": {
        "succeeded": intervention((COMMAND, "fetched")),
        "retried": intervention((COMMAND, "failed"), (RETRY, None), (COMMAND, "fetched")),
        "skipped": intervention(("__IwfSystem_ExecuteRpc", RPC), (SKIP, None)),
        "by_the_api": intervention(
            published((COMMAND, "failed"), (COMMAND, "failed"), key="m1"),
            published((RETRY, None), key="m2"),
            published((RETRY, None), key="m2"),
            published((SKIP, None), key="m3"),
        ),
        "early": intervention((RETRY, None), (RETRY, None), (COMMAND, "failed"), (COMMAND, "fetched")),
        "malformed_first": intervention((COMMAND, {"encoding": "json", "data": "failed"}), (COMMAND, "fetched")),
        "timed_out": intervention((COMMAND, "failed"), execution_timeout=60.0, advance=60),
        "waiting": intervention(ends=False),
        "waiting_after_a_failure": intervention((COMMAND, "failed"), ends=False),
    },
    "refund": {
        "ready_in_time": refund(("Ready", {"by": "Rita", "decision_id": "r1", "channel": "api"})),
        "ready_early": refund(("Ready", None), ("create_refund", "retry"), failing=("create_refund",)),
        "ready_twice": refund(
            ("Ready", {"decision_id": "r1"}),
            ("Ready", {"decision_id": "r2"}),
            ("process_refund", "retry"),
            failing=("process_refund",),
        ),
        "expired": refund(24),
        "swapped": refund(
            ("swap", {"data": {"n": 2}, "decision_id": "s1", "channel": "api"}), ("swap", "malformed"), ("Ready", None)
        ),
        "not_created": refund(("create_refund", "fail"), failing=("create_refund",)),
        "undone": refund(("Ready", None), ("notify_created", "fail"), failing=("notify_created",)),
        "not_all_undone": refund(
            ("Ready", None),
            ("notify_created", "fail"),
            ("reverse_refund", "fail"),
            failing=("notify_created", "reverse_refund"),
        ),
        "out_of_time": refund(1, execution_timeout=3600.0),
        "out_of_time_at_a_gate": refund(("Ready", None), 1, failing=("process_refund",), execution_timeout=3600.0),
        "waiting": refund(ends=False),
        "paused": paused_refund(),
        "undoing": refund(("notify_created", "fail"), failing=("notify_created", "cancel_refund"), ends=False),
    },
    "signup": {
        "verified_by_a_program": signup("program", VERIFY),
        "verified_by_link_after_a_reminder": signup("link", 25, LINK),
        "verified_by_code": signup("code", WRONG, RIGHT),
        "locked_code": signup("locked", *[WRONG] * 5, RIGHT, LINK),
        "resent": signup("resent", RESEND, 1, RESEND, LINK),
        "changed_then_verified": signup("changed", CHANGE, RIGHT),
        "stopped_then_expired": signup("stopped", STOP, 200),
        "expired": signup("expired", 200, rules={"quiet": BERLIN}),
        "known_address": signup("known", 30, VERIFY, known=True),
        "address_taken": signup("taken", RESEND, LINK, known=True),
        "too_many_mails": signup("limited", 1, RESEND, VERIFY, rules={"mails_per_day": 1}),
        "malformed_first": signup("malformed", ("resend", {"channel": "mars"}), VERIFY),
        "out_of_time": signup("late", 2, execution_timeout=3600.0),
        "waiting": signup("waiting", 25, ends=False),
        "changed_and_waiting": signup("moved", CHANGE, 25, ends=False),
    },
    "workflow": {
        "approved": workflow(
            ("answer", {"by": "Ann", "data": {"approved": True}, "decision_id": "d1"}),
            ("answer", {"by": "Ann", "data": {"approved": True, "cost_centre": "R"}, "decision_id": "d2"}),
            begin="check",
        ),
        "rejected": workflow(
            ("answer", {"by": "Ann", "data": {"approved": False, "cost_centre": "R", "comments": "no"}}), begin="ask"
        ),
        "called": workflow(("retry", {"by": "Olga", "reason": "again"}), begin="call"),
        "approval": workflow(("decision", {"approver": "Manager", "is_approved": True}), begin="approve"),
        "in_a_loop": workflow(
            *[("paid", {"n": number}) for number in range(13)], 14, ("paid", {"state": "done"}), 1, begin="wait"
        ),
        "out_of_time": workflow(1, begin="ask", execution_timeout=3600.0),
        "waiting": workflow(begin="ask", ends=False),
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
