"""Every step of a declared workflow, on a real engine."""

import json
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from durabletask.client import OrchestrationStatus

from activities import workflow as workflow_activities
from contracts.base import as_utc_text
from contracts.workflow_checks import read_definition
from contracts.workflow_data import MAX_DATA
from orchestrators import workflow as orchestrator
from orchestrators import workflow_desk
from services import documents
from services.record_store import get_record_store
from tests.orchestrators.engine import Engine
from tests.orchestrators.reading import actions, answered, entries, head, open_waits, size, verdict, verdicts, waits_of

ANN, BEN = "ann@example.com", "ben@example.com"
SEED = [
    {
        "id": "check-amount",
        "type": "condition",
        "condition": {"field": "order.amount", "operator": ">", "value": 10000},
        "on_true": "require-approval",
        "on_false": "auto-approve",
    },
    {
        "id": "require-approval",
        "type": "action",
        "action": {"type": "block", "reason": "Requires manager approval"},
        "next": "place",
    },
    {"id": "place", "type": "action", "action": {"type": "set", "values": {"order.placed": True}}},
    {"id": "auto-approve", "type": "action", "action": {"type": "complete", "status": "Auto-Approved"}},
]


def step(name: str, kind: str, /, _ways: dict[str, str] | None = None, **said: Any) -> dict[str, Any]:
    """An action."""
    return {"id": name, "type": "action", "action": {"type": kind, **said}, **(_ways or {})}


def check(field: str, value: Any, on_true: str, on_false: str, name: str = "check") -> dict[str, Any]:
    """A condition: a field is equal to a value."""
    condition = {"field": field, "operator": "=", "value": value}
    return {"id": name, "type": "condition", "condition": condition, "on_true": on_true, "on_false": on_false}


def given(*steps: dict[str, Any], data: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A durable input of a definition that could have been stored."""
    definition: Any = {"name": "orders", "steps": list(steps)}
    assert read_definition(definition)[1] == []
    mailboxes = {"approvals_to": "approvals@example.com", "interventions_to": "operators@example.com"}
    return {"workflow": "orders", "version": 3, "definition": definition, "input": data or {}, **mailboxes, **more}


def ran(engine: Engine, *steps: dict[str, Any], data: dict[str, Any] | None = None, **more: Any) -> str:
    """Start a run, and give its id."""
    return engine.start("workflow", given(*steps, data=data, **more))


def blocked(engine: Engine, *steps: dict[str, Any], data: dict[str, Any] | None = None, **more: Any) -> str:
    """A run that waits for an answer."""
    instance = ran(engine, *steps, data=data, **more)
    engine.phase(instance, "waiting_for_answer")
    return instance


def say(engine: Engine, instance: str, data: Any, by: str = "Ann", **more: Any) -> str | None:
    """Answer a block, and give the code of the verdict."""
    key = f"d{len(verdicts(engine, instance)) + 1}" if "decision_id" not in more else more["decision_id"]
    engine.event(instance, "answer", {"by": by, "data": data, "decision_id": key, **more})
    return answered(engine, instance, key)


def failed(engine: Engine, instance: str) -> str:
    """Why a run failed, in words."""
    state = engine.end(instance)
    assert state.runtime_status is OrchestrationStatus.FAILED, state
    assert state.failure_details is not None
    assert not open_waits(instance)
    return state.failure_details.message


def child(engine: Engine, instance: str) -> str:
    """The id of the run that a run has called last."""
    kept = documents.read_all(get_record_store(), instance, head(engine, instance).run, "child", 100)
    body: Any = kept[-1].body
    return str(body["id"])


def mails(data_folder: Path) -> list[EmailMessage]:
    """The mails of steps, oldest first."""
    files = sorted((data_folder / "outbox").glob("*.eml"), key=lambda file: file.stat().st_mtime_ns)
    return [message_from_bytes(file.read_bytes(), policy=policy.default) for file in files]


# The amount check


@pytest.mark.parametrize("amount", [10000.01, 10**30])
def test_above_the_amount_it_waits_and_goes_on_after_approval(engine: Engine, amount: float) -> None:
    instance = blocked(engine, *SEED, data={"order": {"id": 7, "amount": amount}}, started_by="Carl")
    status = engine.status(instance)
    assert (status["step"], status["next_step"], status["waiting_for"]) == ("require-approval", "place", "answer")
    assert status["data"] == status["data"] | {"reason": "Requires manager approval", "approval": True}
    (wait,) = open_waits(instance)
    assert (wait.kind, wait.number, wait.people) == ("workflow", status["wait"], ())
    assert wait.title == "orders, require-approval: Requires manager approval"
    assert wait.path == f"/api/v1/executions/{instance}"
    assert wait.deadline is not None
    assert (wait.deadline - wait.since).days == 7
    assert say(engine, instance, {"approved": True, "comments": "fine", "cost centre": "R&D"}) == "taken"
    output = engine.output(instance)
    assert (output["status"], output["workflow"], output["version"]) == ("Completed", "orders", 3)
    data = output["data"]
    assert (data["order"], data["cost centre"]) == ({"id": 7, "amount": amount, "placed": True}, "R&D")
    assert data["steps"]["check-amount"] == {"result": True}
    answer = data["steps"]["require-approval"]
    assert answer == answer | {"by": "Ann", "approved": True, "comments": "fine"}
    assert not {"approved", "comments"} & set(data)
    assert verdict(engine, instance) == "intact"
    told = [(each.action, each.actor, each.detail) for each in entries(instance)]
    assert told == [
        ("started", "Carl", "orders, version 3"),
        ("passed", None, "check-amount: true"),
        ("asked", None, "require-approval: Requires manager approval"),
        ("decided", "Ann", "require-approval: approved"),
        ("passed", None, "require-approval: approved"),
        ("passed", None, "place"),
        ("ended", None, "Completed"),
    ]
    assert [each.comment for each in entries(instance) if each.comment] == ["fine"]


@pytest.mark.parametrize("amount", [10000, -1])
def test_up_to_the_amount_nobody_is_waited_for(engine: Engine, amount: float) -> None:
    instance = ran(engine, *SEED, data={"order": {"amount": amount}})
    assert engine.output(instance)["status"] == "Auto-Approved"
    assert not waits_of(instance)
    assert "asked" not in actions(instance)
    assert engine.phase(instance, "completed")["wait"] is None


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ({"order": {"amount": "12000"}}, "'order.amount' is a text, and the operator > compares numbers"),
        ({"order": {"amount": True}}, "'order.amount' is a boolean, and the operator > compares numbers"),
        ({"order": {"amount": None}}, "'order.amount' is null, and the operator > compares numbers"),
        ({"order": {}}, "there is no 'order.amount' in the data"),
        ({"order": 12000}, "there is no 'order.amount' in the data"),
    ],
)
def test_an_amount_that_is_none_lets_nothing_pass(engine: Engine, data: dict[str, Any], why: str) -> None:
    instance = ran(engine, *SEED, data=data)
    assert failed(engine, instance) == f"step 'check-amount': {why}."
    engine.phase(instance, "failed")
    assert actions(instance) == ["started", "ended"]
    assert verdict(engine, instance) == "intact"


# Block

ASK = step("ask", "block", reason="Requires {{who}}'s approval", approvers=[ANN, "{{deputy}}"], timeout_hours="PT2H")
PEOPLE = {"who": "Ann", "deputy": BEN}


def test_only_who_is_asked_may_answer(engine: Engine) -> None:
    instance = blocked(engine, ASK, data=PEOPLE)
    (wait,) = open_waits(instance)
    assert (wait.people, wait.title) == ((ANN, BEN), "orders, ask: Requires Ann's approval")
    assert say(engine, instance, {"approved": True}, "eve@example.com") == "not_asked"
    engine.phase(instance, "waiting_for_answer")
    assert entries(instance)[-1].action == "refused"
    assert say(engine, instance, {"approved": True}, "BEN@example.com", sent_by="boss", channel="api") == "taken"
    assert engine.output(instance)["status"] == "Completed"
    decided = next(each for each in entries(instance) if each.action == "decided")
    assert (decided.actor, decided.on_behalf_of, decided.channel) == ("boss", "BEN@example.com", "api")


def test_what_does_not_say_yes_or_no_is_neither(engine: Engine) -> None:
    instance = blocked(engine, ASK, data=PEOPLE)
    wrong: list[Any] = [{}, {"approved": "true"}, {"approved": 1}, {"approved": None}, {"Approved": True}]
    assert [say(engine, instance, said, ANN) for said in wrong] == ["approval_needed"] * len(wrong)
    engine.phase(instance, "waiting_for_answer")


def test_an_event_that_is_no_answer_is_set_aside(engine: Engine) -> None:
    instance = blocked(engine, ASK, data=PEOPLE)
    yes = {"approved": True}
    wrong: list[Any] = [None, "yes", [], {"data": yes}, {"by": ANN, "data": yes, "x": 1}, {"by": "", "data": yes}]
    for payload in wrong:
        engine.event(instance, "answer", payload)
    engine.phase(instance, "waiting_for_answer")
    assert actions(instance).count("set_aside") == len(wrong)


@pytest.mark.parametrize(("target", "status"), [(None, "Rejected"), ("other", "Asked Ben")])
def test_a_rejection_ends_it_or_leads_elsewhere(engine: Engine, target: str | None, status: str) -> None:
    ways = {"next": "done"} | ({"on_rejected": target} if target else {})
    steps = [ASK | ways, step("done", "complete")]
    steps += [step("other", "complete", status="Asked Ben")] if target else []
    instance = blocked(engine, *steps, data=PEOPLE)
    assert say(engine, instance, {"approved": False, "why": "no money"}, ANN) == "taken"
    output = engine.output(instance)
    assert output["status"] == status
    assert output["data"]["why"] == "no money"
    engine.phase(instance, "rejected" if target is None else "completed")


@pytest.mark.parametrize("target", [None, "other"])
def test_a_block_that_nobody_answers_fails_or_leads_elsewhere(engine: Engine, target: str | None) -> None:
    steps = [ASK | ({"on_timeout": target} if target else {})]
    steps += [step("other", "complete", status="Too late")] if target else []
    instance = blocked(engine, *steps, data=PEOPLE)
    engine.advance(minutes=119)
    engine.phase(instance, "waiting_for_answer")
    until = engine.status(instance)["deadline"]
    engine.advance(minutes=1)
    if target:
        assert engine.output(instance)["status"] == "Too late"
    else:
        assert failed(engine, instance) == f"step 'ask': nobody answered until {until}."
    assert not open_waits(instance)
    assert "timed_out" in actions(instance)


FORM = {"type": "object", "properties": {"cost": {"type": "integer"}}, "required": ["cost"]}


def test_data_that_do_not_fit_are_refused_and_the_block_waits_on(engine: Engine) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, "data_wrong"),
        ({"cost": "5"}, "data_wrong"),
        ({"cost": 5, "steps": {"ask": {"approved": True}}}, "reserved"),
        ({"cost": 5, "execution": {}}, "reserved"),
        ({"cost": 5, "comments": 7}, "data_wrong"),
        ({"cost": 5, "comments": "x" * 4001}, "data_wrong"),
        ({"cost": 5, "x": "y" * 15_000}, "too_long"),
    ]
    data = PEOPLE | {"long": "z" * (MAX_DATA - 10_000)}
    ask = {**ASK, "action": {**ASK["action"], "schema": FORM}}
    instance = blocked(engine, ask, data=data)
    for said, code in wrong:
        assert say(engine, instance, said | {"approved": True}, ANN) == code
    engine.phase(instance, "waiting_for_answer")
    assert say(engine, instance, {"approved": True, "cost": 5, "who": "Ben"}, ANN) == "taken"
    merged = engine.output(instance)["data"]
    assert (merged["cost"], merged["who"]) == (5, "Ben")


def test_a_block_without_approval_takes_whatever_another_system_says(engine: Engine) -> None:
    instance = blocked(engine, step("pay", "block", reason="Awaiting payment gateway callback", approval=False))
    assert open_waits(instance)[0].actions == ("resume",)
    said = {"payment_status": "completed", "approved": "yes", "comments": {"en": "ok"}, "nothing": None}
    assert say(engine, instance, said) == "taken"
    data = engine.output(instance)["data"]
    assert {name: value for name, value in data.items() if name != "steps"} == said
    assert "answered" in actions(instance)


def test_an_answer_counts_once_and_for_the_wait_that_it_is_meant_for(engine: Engine) -> None:
    two = [ASK | {"next": "again"}, {**ASK, "id": "again"}]
    instance = blocked(engine, *two, data=PEOPLE)
    first = {"step": "ask", "visit": 1}
    assert say(engine, instance, {"approved": True}, ANN, decision_id="d1", link=first) == "taken"
    assert engine.phase(instance, "waiting_for_answer")["step"] == "again"
    assert engine.status(instance)["data"]["answered"] == engine.status(instance)["data"]["answered"] | {
        "step": "ask",
        "by": ANN,
        "approved": True,
    }
    assert say(engine, instance, {"approved": True}, ANN, decision_id="d1") == "taken"  # what it said before
    assert say(engine, instance, {"approved": False}, BEN, decision_id="d2", link=first) == "other_step"
    assert say(engine, instance, {"approved": True}, BEN, decision_id="d3", link={"step": "again", "visit": 1}) == (
        "other_step"
    )
    assert engine.phase(instance, "waiting_for_answer")["step"] == "again"
    assert say(engine, instance, {"approved": True}, BEN, decision_id="d4", link={"step": "again", "visit": 2}) == (
        "taken"
    )
    assert engine.output(instance)["status"] == "Completed"


def test_an_answer_that_nobody_asked_for_is_refused_and_counts_for_no_later_block(engine: Engine) -> None:
    instance = ran(engine, step("rest", "delay", duration="PT1M") | {"next": "ask"}, ASK, data=PEOPLE)
    engine.phase(instance, "delayed")
    assert say(engine, instance, {"approved": True}, ANN) == "not_waiting"
    engine.advance(minutes=1)
    engine.phase(instance, "waiting_for_answer")


# Events


def wait_for(name: str = "paid", /, **more: Any) -> dict[str, Any]:
    """A step that waits for an event."""
    return step("wait", "wait_event", name=name, timeout_hours=1, **more)


def test_the_payload_of_an_event_is_merged(engine: Engine) -> None:
    instance = ran(engine, wait_for(), data={"amount": 1, "paid": False})
    assert engine.phase(instance, "waiting_for_event")["waiting_for"] == "paid"
    assert open_waits(instance)[0].title == "orders, wait: Awaiting the event 'paid'"
    engine.event(instance, "paid", {"paid": True, "by": {"card": "visa"}})
    data = engine.output(instance)["data"]
    assert (data["amount"], data["paid"], data["by"]) == (1, True, {"card": "visa"})
    assert data["steps"]["wait"]["data"] == {"paid": True, "by": {"card": "visa"}}
    assert not open_waits(instance)
    assert verdict(engine, instance) == "intact"


def test_an_event_without_a_payload_is_one(engine: Engine) -> None:
    instance = ran(engine, wait_for())
    engine.event(instance, "paid")
    assert engine.output(instance)["data"]["steps"]["wait"]["data"] == {}


def test_a_wrong_payload_is_set_aside_and_the_wait_goes_on(engine: Engine) -> None:
    wrong: list[Any] = [[1], "x", 5, {"cost": 1, "steps": {}}, {"cost": "x"}, {"cost": 1, "x": "y" * 16_000}]
    instance = ran(engine, wait_for(schema=FORM))
    engine.phase(instance, "waiting_for_event")
    for payload in wrong:
        engine.event(instance, "paid", payload)
    engine.phase(instance, "waiting_for_event")
    assert actions(instance).count("set_aside") == len(wrong)
    engine.event(instance, "paid", {"cost": 1})
    assert engine.output(instance)["data"]["cost"] == 1


def test_events_that_come_early_count_in_their_order_and_only_for_their_name(engine: Engine) -> None:
    rest = step("rest", "delay", duration="PT1M") | {"next": "wait"}
    again = {**wait_for(), "id": "again"} | {"next": "other"}
    other = {**wait_for("shipped"), "id": "other"}
    instance = ran(engine, rest, wait_for(schema=FORM) | {"next": "again"}, again, other)
    engine.phase(instance, "delayed")
    for event, payload in [("paid", {"cost": "?"}), ("paid", {"cost": 1}), ("paid", {"n": 2}), ("shipped", {"n": 3})]:
        engine.event(instance, event, payload)
    engine.advance(minutes=1)
    steps = engine.output(instance)["data"]["steps"]
    assert [steps[name]["data"] for name in ("wait", "again", "other")] == [{"cost": 1}, {"n": 2}, {"n": 3}]


def test_too_many_early_events_are_set_aside(engine: Engine) -> None:
    instance = ran(engine, step("rest", "delay", duration="PT1M") | {"next": "wait"}, wait_for())
    engine.phase(instance, "delayed")
    for number in range(workflow_desk.MAX_EARLY + 1):
        engine.event(instance, "paid", {"n": number})
        engine.state(instance)
    assert "too many came too early" in engine.status(instance)["warnings"][-1]
    engine.advance(minutes=1)
    assert engine.output(instance)["data"]["n"] == 0


def test_the_api_hands_over_a_payload_by_an_answer(engine: Engine) -> None:
    instance = ran(engine, wait_for(schema=FORM))
    engine.phase(instance, "waiting_for_event")
    assert say(engine, instance, {"cost": "?"}) == "data_wrong"
    assert say(engine, instance, {"cost": 7, "approved": True}, channel="api") == "taken"
    data = engine.output(instance)["data"]
    assert (data["cost"], data["approved"]) == (7, True)
    received = next(each for each in entries(instance) if each.action == "received")
    assert (received.actor, received.channel) == ("Ann", "api")


@pytest.mark.parametrize("target", [None, "other"])
def test_an_event_that_does_not_come_fails_it_or_leads_elsewhere(engine: Engine, target: str | None) -> None:
    steps = [wait_for() | ({"on_timeout": target} if target else {})]
    steps += [step("other", "complete", status="Unpaid")] if target else []
    instance = ran(engine, *steps)
    engine.phase(instance, "waiting_for_event")
    engine.advance(hours=1)
    if target:
        assert engine.output(instance)["status"] == "Unpaid"
    else:
        assert failed(engine, instance).startswith("step 'wait': the event 'paid' did not come until ")


# Delay, set, complete, fail


def test_a_delay_takes_as_long_as_it_says(engine: Engine) -> None:
    instance = ran(engine, step("rest", "delay", duration="P1DT30M"))
    engine.advance(hours=24, minutes=29)
    engine.phase(instance, "delayed")
    engine.advance(minutes=1)
    assert engine.output(instance)["status"] == "Completed"


def test_values_are_set_in_their_order_with_their_types(engine: Engine) -> None:
    values = {
        "order.total": "{{ order.amount }}",
        "order.note": "{{order.total}} for {{order.who}} ({{order.flags}}, {{order.none}}, {{order.lines.1}})",
        "copy.of.order": "{{order.lines}}",
        "id": "{{execution.workflow}} {{execution.version}}",
        "raw": ["{{order.who}}", {"{{order.who}}": "{not} {{order.flags.vip}}"}],
    }
    order = {"amount": 12.5, "who": "Zoë {{order.amount}} 🦊", "flags": {"vip": True}, "none": None, "lines": [1, "b"]}
    data = engine.output(ran(engine, step("set", "set", values=values), data={"order": order}))["data"]
    assert data["order"]["total"] == 12.5
    assert data["order"]["note"] == '12.5 for Zoë {{order.amount}} 🦊 ({"vip": true}, null, b)'
    assert data["copy"] == {"of": {"order": [1, "b"]}}
    assert data["id"] == "orders 3"
    assert data["raw"] == ["Zoë {{order.amount}} 🦊", {"{{order.who}}": "{not} true"}]


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"order.x": 1}, "'order' is no object but a text, so that nothing can be put into it"),
        ({"x": "{{order.id}}"}, "there is no 'order.id' in the data"),
        ({"x": "a {{nothing}}"}, "there is no 'nothing' in the data"),
        ({"x": "{{list.2}}"}, "there is no 'list.2' in the data"),
        ({"x": "{{steps.later.result}}"}, "there is no 'steps.later.result' in the data"),
        ({"x": "{{long}}{{long}}"}, f"with the data put in it has more than {MAX_DATA:,} characters"),
        ({"x": "{{long}}"}, f"the data have more than {MAX_DATA:,} characters of JSON"),
    ],
)
def test_what_cannot_be_set_fails_the_run_and_names_the_step(engine: Engine, values: Any, why: str) -> None:
    data = {"order": "text", "list": [0, 1], "long": "l" * 40_000}
    steps = [step("first", "set", values=values) | {"next": "later"}, step("later", "complete")]
    assert failed(engine, ran(engine, *steps, data=data)) == f"step 'first': {why}."


def test_an_output_stands_in_place_of_the_data(engine: Engine) -> None:
    complete = step("end", "complete", status="Shipped", output={"id": "{{order.id}}", "said": "no. {{order.id}}"})
    output = engine.output(ran(engine, complete, data={"order": {"id": 5}, "secret": "x"}))
    assert (output["status"], output["output"], output["data"]) == ("Shipped", {"id": 5, "said": "no. 5"}, None)


def test_a_step_can_fail_the_run(engine: Engine) -> None:
    instance = ran(engine, step("stop", "fail", reason="Order {{order.id}} is a copy"), data={"order": {"id": 5}})
    assert failed(engine, instance) == "step 'stop': Order 5 is a copy."
    assert entries(instance)[-1].detail == "step 'stop': Order 5 is a copy"


# Mails

MAIL = step("mail", "email", to=["{{to}}", BEN], subject="Order {{id}}", text="Dear {{to}},\n\nit is here: {{items}}")


def test_a_mail_is_sent_in_plain_words(engine: Engine, data_folder: Path) -> None:
    data = {"to": ANN, "id": "5\nBcc: eve@example.com", "items": ["<b>", "\u202e"]}
    instance = ran(engine, MAIL, data=data)
    assert engine.output(instance)["data"]["steps"]["mail"] == {"sent": True, "to": [ANN, BEN]}
    (mail,) = mails(data_folder)
    assert [each.addr_spec for each in mail["To"].addresses] == [ANN, BEN]
    assert (mail["Bcc"], mail["Subject"]) == (None, "Order 5\ufffdBcc: eve@example.com")
    text, html = (mail.get_body((kind,)) for kind in ("plain", "html"))
    assert text is not None
    assert html is not None
    assert text.get_content().startswith('Dear ann@example.com,\n\nit is here: ["<b>", ""]\n')
    assert f"Sent by the workflow orders ({instance})." in text.get_content()
    assert "<b>" not in html.get_content()
    assert "mailed" in actions(instance)


@pytest.mark.parametrize("to", ["nobody", "a@example.com, b@example.com", 5, "Eve <eve@example.com>"])
def test_an_address_that_is_none_fails_the_run(engine: Engine, data_folder: Path, to: Any) -> None:
    instance = ran(engine, MAIL, data={"to": to, "id": 5, "items": []})
    assert failed(engine, instance).startswith("step 'mail': with the data put in, 'to.0' is wrong: ")
    assert mails(data_folder) == []


class Broken:
    """Sends no mail."""

    def send(self, message: EmailMessage) -> None:
        """Fail."""
        raise OSError("no mail today")


@pytest.mark.parametrize("target", [None, "other"])
def test_a_mail_that_cannot_be_sent_fails_it_or_leads_elsewhere(
    engine: Engine, target: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflow_activities, "get_mailer", Broken)
    steps = [MAIL | ({"on_failed": target} if target else {})]
    steps += [step("other", "complete", status="Unmailed")] if target else []
    instance = ran(engine, *steps, data={"to": ANN, "id": 5, "items": []})
    engine.phase(instance, "mailing")
    engine.advance(minutes=3)
    if target:
        assert engine.output(instance)["status"] == "Unmailed"
    else:
        assert failed(engine, instance) == "step 'mail': the mail could not be sent."
    assert "mail_failed" in actions(instance)


# Calls


def calling(**more: Any) -> dict[str, Any]:
    """A step with a call, which fails after one attempt."""
    call = {"kind": "simulated", "body": {"n": "{{order.id}}", "t": "no. {{order.id}}"}, **more.pop("call", {})}
    return step("charge", "call", request={"call": call, "retry": {"attempts": 1}, "skippable": True, **more})


def test_a_call_gives_its_result(engine: Engine) -> None:
    use = step("use", "complete", output="{{steps.charge.result.n}}")
    instance = ran(engine, calling() | {"next": "use"}, use, data={"order": {"id": 5}}, started_by="Carl")
    assert engine.output(instance)["output"] == 5
    made = json.loads(engine.state(child(engine, instance)).serialized_input or "{}")
    assert made["call"]["body"] == {"n": 5, "t": "no. 5"}
    assert (made["name"], made["part_of"], made["started_by"]) == ("charge", instance, "Carl")
    assert made["mailbox"] == "operators@example.com"
    assert "called" in actions(instance)


@pytest.mark.parametrize(("action", "status"), [("skip", "Completed"), ("fail", None), ("fail", "Unpaid")])
def test_a_call_that_failed_goes_as_people_say(engine: Engine, action: str, status: str | None) -> None:
    steps = [calling(call={"fails": 9}) | ({"on_failed": "other"} if status == "Unpaid" else {})]
    steps += [step("other", "complete", status="Unpaid")] if status == "Unpaid" else []
    instance = ran(engine, *steps, data={"order": {"id": 5}})
    engine.phase(instance, "calling")
    call = child(engine, instance)
    assert engine.status(instance)["data"]["child"] == call
    engine.event(call, action, {"by": "Olga", "reason": "because"})
    if status is None:
        assert failed(engine, instance) == "step 'charge': the call failed for good."
    else:
        assert engine.output(instance)["status"] == status


def test_the_data_do_not_lead_a_call_elsewhere(engine: Engine) -> None:
    request = {"call": {"kind": "http", "url": "http://127.0.0.1:1/orders/{{id}}", "method": "GET"}}
    instance = ran(engine, step("charge", "call", request=request), data={"id": "../admin"})
    engine.phase(instance, "calling")
    made = json.loads(engine.state(child(engine, instance)).serialized_input or "{}")
    assert made["call"]["url"] == "http://127.0.0.1:1/orders/..%2Fadmin"


def test_a_call_that_the_data_make_wrong_is_not_made(engine: Engine) -> None:
    request = {"call": {"kind": "http", "url": "{{url}}"}}
    instance = ran(engine, step("charge", "call", request=request), data={"url": "ftp://example.com"})
    assert failed(engine, instance).startswith("step 'charge': with the data put in, 'call.http.url' is wrong")
    assert not documents.read_all(get_record_store(), instance, head(engine, instance).run, "child", 10)


# Approvals


def approving(**more: Any) -> dict[str, Any]:
    """A step with an approval."""
    request = {"requester": "{{who}}", "item": "Order {{order.id}}", "timeout_hours": 24, "approvers": [ANN], **more}
    return step("approve", "approve", request=request)


ASKED = {"who": "carl@example.com", "order": {"id": 5}}


def test_an_approval_is_made_by_its_own_rules(engine: Engine) -> None:
    form = {"type": "object", "properties": {"cost": {"type": "integer"}}, "required": ["cost"]}
    end = step("end", "complete", output="{{steps.approve.answers.cost}}")
    asked = approving(policy="all", approvers=[ANN, "{{deputy}}"], form=form) | {"next": "end"}
    instance = ran(engine, asked, end, data=ASKED | {"deputy": BEN}, started_by="Dora")
    engine.phase(instance, "waiting_for_approval")
    request = child(engine, instance)
    assert engine.status(instance)["data"]["child"] == request
    made = json.loads(engine.state(request).serialized_input or "{}")
    assert (made["requester"], made["item"], made["started_by"]) == ("carl@example.com", "Order 5", "Dora")
    for who in (ANN, BEN):
        engine.event(request, "decision", {"approver": who, "is_approved": True, "answers": {"cost": 7}})
        engine.state(request)
    assert engine.output(instance)["output"] == 7
    assert verdict(engine, instance) == "intact"


@pytest.mark.parametrize(
    ("decision", "more", "way", "status"),
    [
        ({"is_approved": False}, {}, None, "Rejected"),
        ({"is_approved": False}, {}, "on_rejected", "Elsewhere"),
        (None, {}, "on_timeout", "Elsewhere"),
        (None, {}, None, "step 'approve': the approval was not decided in time."),
        (None, {"on_timeout": "fail"}, "on_failed", "Elsewhere"),
        (None, {"on_timeout": "fail"}, None, "step 'approve': the approval failed: nobody decided, or it was ended."),
        (None, {"on_timeout": "approve"}, None, "Completed"),
    ],
)
def test_an_approval_leads_where_its_outcome_says(
    engine: Engine, decision: Any, more: dict[str, Any], way: str | None, status: str
) -> None:
    steps = [approving(**more) | ({way: "other"} if way else {})]
    steps += [step("other", "complete", status="Elsewhere")] if way else []
    instance = ran(engine, *steps, data=ASKED)
    engine.phase(instance, "waiting_for_approval")
    if decision:
        engine.event(child(engine, instance), "decision", {"approver": ANN, **decision})
    else:
        engine.advance(hours=24)
    if status.startswith("step"):
        assert failed(engine, instance) == status
    else:
        assert engine.output(instance)["status"] == status


@pytest.mark.parametrize("more", [{}, {"approvers": [ANN, BEN], "policy": {"quorum": 2}}, {"policy": "all"}])
def test_who_started_it_is_not_the_one_who_approves(engine: Engine, more: dict[str, Any]) -> None:
    instance = ran(engine, approving(**more), data=ASKED, started_by="ANN@example.com")
    why = failed(engine, instance)
    assert why.startswith("step 'approve': with the data put in, '(body)' is wrong: without the requester")
    assert why.endswith("Who started the workflow, ANN@example.com, does not count among the approvers either.")
    status = engine.phase(instance, "failed")
    assert "child" not in (status["data"] or {})
    assert actions(instance) == ["started", "ended"]
    assert not documents.read_all(get_record_store(), instance, head(engine, instance).run, "child", 10)


def test_who_started_it_may_approve_where_the_request_says_so_or_names_enough_others(engine: Engine) -> None:
    for more in ({"allow_self_approval": True}, {"approvers": [ANN, BEN]}):
        engine.phase(ran(engine, approving(**more), data=ASKED, started_by=ANN), "waiting_for_approval")


def test_an_approval_that_nobody_is_named_in_goes_to_the_mailbox(engine: Engine, data_folder: Path) -> None:
    instance = ran(engine, approving(approvers=[]), data=ASKED)
    engine.phase(instance, "waiting_for_approval")
    assert [mail["To"] for mail in mails(data_folder)] == ["approvals@example.com"]


def test_an_approval_that_was_terminated_fails_the_step(engine: Engine) -> None:
    instance = ran(engine, approving(), data=ASKED)
    engine.phase(instance, "waiting_for_approval")
    engine.client.terminate_orchestration(child(engine, instance))
    assert "the approval failed" in failed(engine, instance)


# Time, size, length


@pytest.mark.parametrize(
    "waiting",
    [ASK, wait_for(), step("rest", "delay", duration=2), approving(), calling(call={"fails": 9})],
    ids=lambda each: each["id"],
)
def test_a_run_that_takes_too_long_fails_whatever_it_is_at(engine: Engine, waiting: dict[str, Any]) -> None:
    instance = ran(engine, waiting, data=PEOPLE | ASKED, execution_timeout=60.0)
    engine.advance(seconds=59)
    assert engine.state(instance).runtime_status is OrchestrationStatus.RUNNING
    engine.advance(seconds=2)
    assert failed(engine, instance) == "The run took longer than its execution timeout allows."
    engine.phase(instance, "execution_timed_out")
    assert verdict(engine, instance) == "intact"


def test_what_is_under_way_when_the_time_is_up_comes_to_its_end_first(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflow_activities, "get_mailer", Broken)
    instance = ran(engine, MAIL, data={"to": ANN, "id": 5, "items": []}, execution_timeout=10.0)
    engine.advance(seconds=11)
    engine.phase(instance, "mailing")
    engine.advance(minutes=3)
    assert failed(engine, instance) == "The run took longer than its execution timeout allows."
    assert "mail_failed" in actions(instance)


def test_a_loop_goes_on_in_new_histories_with_all_that_it_knows(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each round is three steps; what comes early, and the verdicts, are not lost over a new history."""
    monkeypatch.setattr(orchestrator, "BEGIN_ANEW_AFTER", 8)
    steps = [
        wait_for("tick") | {"next": "check"},
        check("last", True, "end", "rest"),
        step("rest", "delay", duration="PT1M") | {"next": "wait"},
        step("end", "complete"),
    ]
    instance = ran(engine, *steps, data={"last": False})
    engine.phase(instance, "waiting_for_event")
    assert say(engine, instance, {"n": 0}, decision_id="first") == "taken"
    for number in range(1, 10):
        engine.event(instance, "tick", {"n": number})
        if number % 3 == 0:
            engine.advance(minutes=1)
    engine.advance(minutes=10)
    assert say(engine, instance, {"n": 0}, decision_id="first") == "taken"
    engine.event(instance, "tick", {"n": 10, "last": True})
    assert engine.output(instance)["data"]["n"] == 10
    assert engine.status(instance)["data"]["visit"] == 3 * 11
    assert engine.kinds(instance).count("eventRaised") < 8
    passed = [each.detail for each in entries(instance) if each.action == "passed"]
    assert passed.count("wait: received") == 11
    assert [entry.number for entry in entries(instance)] == list(range(1, len(entries(instance)) + 1))
    assert verdict(engine, instance) == "intact"


def test_a_loop_without_an_end_comes_to_one(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orchestrator, "MAX_VISITS", 6)
    steps = [step("rest", "delay", duration="PT1M") | {"next": "count"}, step("count", "set", values={"x": 1})]
    instance = ran(engine, steps[0], steps[1] | {"next": "rest"})
    engine.advance(minutes=10)
    assert failed(engine, instance) == "step 'rest': the run has gone through 6 steps, which is as many as one may."


def test_many_steps_at_once_are_put_on_record(engine: Engine) -> None:
    steps = [step(f"s{n}", "set", values={"n": n}) | {"next": f"s{n + 1}"} for n in range(198)]
    instance = ran(engine, *steps, step("s198", "complete"))
    assert engine.output(instance)["data"]["n"] == 197
    assert len(entries(instance)) == 1 + 198 + 1
    assert verdict(engine, instance) == "intact"


def test_a_reason_that_the_data_make_strange_is_shown_as_far_as_it_can_be(engine: Engine) -> None:
    steps = [step("ask", "block", reason="{{why}}", timeout_hours=1) | {"on_timeout": "stop"}]
    steps += [step("stop", "fail", reason="No: {{why}}")]
    for why, reason in [("a\0b\n" * 300, "a\ufffdb\n" * 63 + "a\ufffd…"), ("", "-"), ([1], "[1]")]:
        instance = blocked(engine, *steps, data={"why": why})
        assert engine.status(instance)["data"]["reason"] == reason
        engine.advance(hours=1)
        assert failed(engine, instance).startswith("step 'stop': No: ")


def test_the_custom_status_stays_within_its_bounds(engine: Engine) -> None:
    ask = step("a" * 100, "block", reason="🦊" * 255) | {"next": "b" * 100}
    instance = blocked(engine, ask, {**ask, "id": "b" * 100, "next": "c" * 100}, step("c" * 100, "complete"))
    for number in range(70):
        engine.event(instance, "answer", {"by": "🦊" * 254, "data": {}, "decision_id": f"{number}" * 60})
    assert say(engine, instance, {"approved": True}, "🦊" * 254) == "taken"
    engine.phase(instance, "waiting_for_answer")
    assert size(engine, instance) < 16_000


# Pauses


def told(engine: Engine, instance: str, action: str, **more: Any) -> None:
    """Pause or resume a run, as the app does."""
    at = as_utc_text(engine.now)
    event = {"action": action, "source": instance, "number": 1, "at": at, "by": "alice", **more}
    engine.event(instance, "pausing", event)
    engine.state(instance)


def test_data_of_a_resume_are_there_for_the_next_step(engine: Engine) -> None:
    steps = [step("rest", "delay", duration="PT1H") | {"next": "check"}, check("ok", True, "good", "bad")]
    ends = [step("good", "complete", status="Good"), step("bad", "complete", status="Bad")]
    instance = ran(engine, *steps, *ends, data={"ok": False})
    engine.phase(instance, "delayed")
    told(engine, instance, "pause", reason="Manual review required")
    engine.advance(hours=5)
    engine.phase(instance, "delayed")
    told(engine, instance, "resume", data={"ok": True, "reviewed_by": "alice@example.com"})
    engine.advance(minutes=59)
    engine.phase(instance, "delayed")
    engine.advance(minutes=1)
    output = engine.output(instance)
    assert (output["status"], output["data"]["reviewed_by"]) == ("Good", "alice@example.com")


def test_data_of_a_resume_do_not_forge_the_result_of_a_step(engine: Engine) -> None:
    instance = blocked(engine, ASK, data=PEOPLE)
    told(engine, instance, "pause", reason="x")
    told(engine, instance, "resume", data={"steps": {"ask": {"approved": True}}})
    assert "'steps' cannot be given" in engine.status(instance)["warnings"][-1]
    assert say(engine, instance, {"approved": False}, ANN) == "taken"
    assert "alice" not in json.dumps(engine.output(instance)["data"])


def test_an_answer_that_comes_while_it_is_paused_counts_afterwards(engine: Engine) -> None:
    instance = blocked(engine, ASK, data=PEOPLE)
    told(engine, instance, "pause", reason="x")
    assert say(engine, instance, {"approved": True}, ANN, link={"step": "ask", "visit": 1}) is None
    engine.advance(hours=3)
    told(engine, instance, "resume")
    assert engine.output(instance)["status"] == "Completed"


@pytest.mark.parametrize("waiting", [approving(), calling(call={"fails": 9})], ids=["approve", "call"])
def test_what_it_has_called_is_paused_with_it(engine: Engine, waiting: dict[str, Any]) -> None:
    instance = ran(engine, waiting, data=ASKED)
    engine.state(instance)
    told(engine, instance, "pause", reason="x")
    assert engine.status(child(engine, instance))["pause"]["paused"] is True
    told(engine, instance, "resume")
    assert engine.status(child(engine, instance))["pause"]["paused"] is False


def test_an_approval_of_a_loop_takes_time(engine: Engine) -> None:
    hot = {"requester": "Alice", "item": "Laptop", "timeout_hours": "{{hours}}", "on_timeout": "approve"}
    instance = ran(engine, step("ask", "approve", {"next": "ask"}, request=hot), data={"hours": 0.01})
    assert "takes a minute at least" in failed(engine, instance)


@pytest.mark.parametrize("more", [{"by": "ANN@example.com"}, {"by": BEN, "sent_by": ANN}])
def test_who_started_it_does_not_answer_where_the_step_says_so(engine: Engine, more: dict[str, str]) -> None:
    asked = step("approve", "block", reason="Two are needed", allow_self_approval=False)
    instance = blocked(engine, asked, started_by=ANN)
    assert say(engine, instance, {"approved": True}, **more) == "own_request"
    assert say(engine, instance, {"approved": True}, by=BEN) == "taken"
