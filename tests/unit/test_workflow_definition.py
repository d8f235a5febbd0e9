"""Declared workflows: which definitions are taken, what is wrong with the others, and what conditions make of data."""

import json
import sys
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from contracts.workflow import MAX_EVENTS, MAX_STEPS, Definition
from contracts.workflow_checks import MAX_PROBLEMS, read_definition
from contracts.workflow_condition import BoundedCondition, holds
from contracts.workflow_data import MAX_DATA, DataError, look_up, put, resolve
from contracts.workflow_steps import ACTIONS, WAYS

CONDITION: TypeAdapter[Any] = TypeAdapter(BoundedCondition)
REQUEST = {"requester": "Alice", "item": "Laptop", "timeout_hours": 24}
CALL = {"call": {"kind": "simulated"}}


def act(name: str, kind: str = "set", /, *, ways: dict[str, str] | None = None, **said: Any) -> dict[str, Any]:
    """An action; without more, one that does next to nothing."""
    least: dict[str, dict[str, Any]] = {
        "block": {"reason": "why"},
        "approve": {"request": REQUEST},
        "call": {"request": CALL},
        "email": {"to": "a@example.com", "subject": "s", "text": "t"},
        "wait_event": {"name": "paid"},
        "delay": {"duration": 1},
        "set": {"values": {"x": 1}},
        "fail": {"reason": "why"},
    }
    return {"id": name, "type": "action", "action": {"type": kind, **least.get(kind, {}), **said}, **(ways or {})}


def then(name: str, following: str, kind: str = "set", /, **said: Any) -> dict[str, Any]:
    """An action after which another step follows."""
    return act(name, kind, ways={"next": following}, **said)


def ask(name: str, on_true: str, on_false: str, condition: Any = None) -> dict[str, Any]:
    """A condition."""
    least = {"field": "a", "operator": "exists"}
    return {
        "id": name,
        "type": "condition",
        "condition": least if condition is None else condition,
        "on_true": on_true,
        "on_false": on_false,
    }


def problems(*steps: Any, **more: Any) -> dict[str, str]:
    """What is wrong with a definition, by its field."""
    return dict(read_definition({"name": "orders", "steps": list(steps), **more})[1])


# Definitions that are taken


@pytest.mark.parametrize(
    "steps",
    [
        [act("a", kind) for kind in [each]]
        for each in ("block", "approve", "call", "email", "wait_event", "delay", "set", "complete", "fail")
    ],
    ids=lambda steps: steps[0]["action"]["type"],
)
def test_one_step_is_enough(steps: Any) -> None:
    definition, wrong = read_definition({"name": "orders", "steps": steps})
    assert wrong == []
    assert definition is not None
    assert definition.steps[0].id == "a"


@pytest.mark.parametrize("wait", ["block", "approve", "wait_event", "delay"])
def test_a_loop_with_a_wait_is_taken(wait: str) -> None:
    assert problems(ask("a", "b", "d"), then("b", "c"), then("c", "a", wait), act("d")) == {}


def test_every_way_leads_somewhere() -> None:
    for kind, ways in WAYS.items():
        steps = [act("a", kind, ways=dict.fromkeys(ways, "b"))] + ([act("b")] if ways else [])
        assert problems(*steps) == {}, kind
    assert set(WAYS) == set(ACTIONS)


def test_the_largest_definition_is_taken_and_none_beyond() -> None:
    many = [then(f"s{n}", f"s{n + 1}") for n in range(MAX_STEPS - 1)] + [act(f"s{MAX_STEPS - 1}")]
    assert problems(*many) == {}
    many[-1] |= {"next": f"s{MAX_STEPS}"}
    assert list(problems(*many, act(f"s{MAX_STEPS}"))) == ["steps"]


# Definitions that are not

DEEP: Any = "x"
for _ in range(60):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("steps", "field", "message"),
    [
        ([ask("a", "x", "b"), act("b")], "steps.0.on_true", "step 'a': there is no step 'x'"),
        ([ask("a", "b", "x"), act("b")], "steps.0.on_false", "step 'a': there is no step 'x'"),
        ([then("a", "A"), act("b")], "steps.0.next", "step 'a': there is no step 'A'"),
        ([act("a", "block", ways={"on_timeout": "x"})], "steps.0.on_timeout", "step 'a': there is no step 'x'"),
        ([then("a", "b"), act("b"), act("a")], "steps.2.id", "step 'a': steps.0 has this id too"),
        ([act("a"), act("b")], "steps.1", "step 'b': nothing leads to it"),
        ([act("a"), then("b", "c"), then("c", "b", "delay")], "steps.2", "step 'c': nothing leads to it"),
        (
            [then("a", "a")],
            "steps.0",
            "step 'a': it is in a loop without a wait (a → a); put a delay, or another wait, into it",
        ),
        (
            [then("a", "b", "delay"), then("b", "c"), ask("c", "b", "a")],
            "steps.1",
            "step 'b': it is in a loop without a wait (b → c → b); put a delay, or another wait, into it",
        ),
        (
            [act("a", "call", ways={"next": "b", "on_failed": "a"}), act("b")],
            "steps.0",
            "step 'a': it is in a loop without a wait (a → a); put a delay, or another wait, into it",
        ),
        (
            [act("a", "complete", ways={"next": "a"})],
            "steps.0.next",
            "step 'a': an action of type complete does not lead there; it ends the run",
        ),
        (
            [act("a", "set", ways={"on_rejected": "a"})],
            "steps.0.on_rejected",
            "step 'a': an action of type set does not lead there; it has next",
        ),
        (
            [act("a", "block", approval=False, ways={"on_rejected": "a"})],
            "steps.0.on_rejected",
            "step 'a': an action of type block does not lead there; it has next, on_timeout",
        ),
        ([act("a", "block", approval="yes")], "steps.0.action.approval", "step 'a': Input should be a valid boolean"),
        ([act("a", "block", reason="")], "steps.0.action.reason", None),
        ([act("a", "block", reason="x" * 256)], "steps.0.action.reason", None),
        ([act("a", "block", reason="{{a b}}")], "steps.0.action.reason", None),
        ([act("a", "block", approvers=["nobody"])], "steps.0.action.approvers.0", None),
        ([act("a", "block", approvers=["{{x"])], "steps.0.action.approvers.0", None),
        ([act("a", "block", timeout_hours=0)], "steps.0.action.timeout_hours", None),
        ([act("a", "block", timeout_hours=9000)], "steps.0.action.timeout_hours", None),
        (
            [act("a", "block", schema={"type": "object", "pattern": "x"})],
            "steps.0.action.schema",
            None,
        ),
        ([act("a", "delay", duration=0.0001)], "steps.0.action.duration", None),
        ([act("a", "delay", duration="P1Y")], "steps.0.action.duration", None),
        ([act("a", "delay", duration=True)], "steps.0.action.duration", None),
        ([act("a", "email", to=[])], "steps.0.action.to", None),
        ([act("a", "email", subject="a\nBcc: b")], "steps.0.action.subject", None),
        ([act("a", "email", text="{{ x.y. }}")], "steps.0.action.text", None),
        (
            [act("a", "wait_event", name="ANSWER")],
            "steps.0.action.name",
            "step 'a': 'ANSWER' is an event of the app itself",
        ),
        ([act("a", "wait_event", name="pausing")], "steps.0.action.name", None),
        ([act("a", "wait_event", name="__IwfSystem_ExecuteRpc")], "steps.0.action.name", None),
        ([act("a", "wait_event", name="a b")], "steps.0.action.name", None),
        (
            [then("a", "b", "wait_event"), act("b", "wait_event", name="Paid")],
            "steps",
            "the event 'Paid' differs from another one by capital letters alone",
        ),
        ([act("a", values={"steps.a": 1})], "steps.0.action.values.steps.a", None),
        ([act("a", values={"execution": 1})], "steps.0.action.values.execution", None),
        ([act("a", values={"x..y": 1})], "steps.0.action.values.x..y", None),
        ([act("a", values={})], "steps.0.action.values", None),
        ([act("a", values={"x": {"y": ["{{ }}"]}})], "steps.0.action.values.x", None),
        (
            [act("a", values={"x": "{{steps.b.result}}"})],
            "steps.0.action",
            "step 'a': 'steps.b.result' is the result of a step 'b', which there is not",
        ),
        ([act("a", values={"x": "{{execution.secret}}"})], "steps.0.action", None),
        ([act("a", "complete", status="Failed")], "steps.0.action.status", None),
        ([act("a", "complete", status="")], "steps.0.action.status", None),
        ([act("a", "fail", reason="x" * 8001)], "steps.0.action.reason", None),
        ([act("a", "approve", request={**REQUEST, "approvers": 5})], "steps.0.action.request.approvers", None),
        ([act("a", "approve", request={**REQUEST, "request_id": "x"})], "steps.0.action.request.request_id", None),
        ([act("a", "approve", request={**REQUEST, "mailbox": "x@y.z"})], "steps.0.action.request.mailbox", None),
        ([act("a", "approve", request={**REQUEST, "policy": "all"})], "steps.0.action.request", None),
        ([act("a", "approve", request={"item": "{{x}}"})], "steps.0.action.request.timeout_hours", None),
        (
            [act("a", "approve", request={**REQUEST, "allow_self_approval": "{{self}}"})],
            "steps.0.action.request.allow_self_approval",
            "step 'a': a reference cannot stand here, as who starts a run would choose the rule; say a value",
        ),
        (
            [act("a", "approve", request={**REQUEST, "on_timeout": "{{x}}"})],
            "steps.0.action.request.on_timeout",
            "step 'a': a reference cannot stand here, as who starts a run would choose the rule; say a value",
        ),
        (
            [act("a", "approve", request={**REQUEST, "on_timeout": "app{{x}}"})],
            "steps.0.action.request.on_timeout",
            None,
        ),
        ([act("a", "call", request={"call": {"kind": "ftp"}})], "steps.0.action.request.call", None),
        ([act("a", "call", request={**CALL, "part_of": "x"})], "steps.0.action.request.part_of", None),
        ([act("a", "exec", code="import os")], "steps.0.action", None),
        ([{"id": "a", "type": "action"}], "steps.0.action", "step 'a': Field required"),
        ([{"id": "a", "type": "loop"}], "steps.0", "step 'a': a step is an object whose type is condition or action"),
        ([act("a b")], "steps.0.id", "step 'a b': the id of a step has 1 to 100 letters, digits, - and _"),
        ([act("a.b")], "steps.0.id", None),
        ([act(None)], "steps.0.id", None),  # type: ignore[arg-type]
        (["a"], "steps.0", "a step is an object whose type is condition or action"),
        ([], "steps", None),
        ([act("a") | {"code": "x"}], "steps.0.code", "step 'a': Extra inputs are not permitted"),
        ([act("a", values={"x": DEEP})], "(body)", "it is nested more than 50 deep"),
        ([act("a", values={"x": "y" * MAX_DATA})], "(body)", None),
        ([act("a", values={"x": float("nan")})], "(body)", None),
        (
            [ask("a", "b", "b", {"field": "x", "operator": "~", "value": 1}), act("b")],
            "steps.0.condition.operator",
            None,
        ),
        ([ask("a", "b", "b", {"and": []}), act("b")], "steps.0.condition.and", None),
        ([ask("a", "b", "b", {"not": {"field": "{{x}}"}}), act("b")], "steps.0.condition.not.field", None),
        ([ask("a", "b", "b", [1]), act("b")], "steps.0.condition", None),
    ],
)
def test_what_is_wrong_is_told_with_its_step(steps: Any, field: str, message: str | None) -> None:
    told = problems(*steps)
    assert field in told, told
    if message is not None:
        assert told[field] == message
    assert not any("Value error" in each or "<" in name for name, each in told.items())


def test_everything_that_is_wrong_is_told_at_once() -> None:
    told = problems(
        ask("a", "x", "b"),
        act("b", "email", to="nobody", subject=5),
        then("b", "y"),
        act("d", "block", timeout_hours=-1),
        7,
        input_schema={"type": "array"},
        name="a/b",
        more=1,
    )
    assert list(told) == [
        "name",
        "steps.1.action.to.0",
        "steps.1.action.subject",
        "steps.3.action.timeout_hours",
        "steps.4",
        "input_schema",
        "more",
        "steps.0.on_true",
        "steps.2.id",
        "steps.2.next",
    ]


def test_steps_that_nothing_leads_to_are_told_beside_what_is_wrong_with_others() -> None:
    told = problems(act("a", "delay", duration=0), act("b"), then("c", "c"))
    assert list(told) == ["steps.0.action.duration", "steps.1", "steps.2"]


def test_many_problems_are_cut_off() -> None:
    definition: Any = {"name": "orders", "steps": [act("a", "delay", duration=0) for _ in range(MAX_STEPS)]}
    assert len(read_definition(definition)[1]) == MAX_PROBLEMS


def test_two_loops_are_two_problems() -> None:
    told = problems(ask("a", "b", "c"), then("b", "b"), then("c", "d"), then("d", "c"))
    assert [name for name, message in told.items() if "loop" in message] == ["steps.1", "steps.2"]


def test_what_only_the_data_can_tell_is_no_problem() -> None:
    request = {**REQUEST, "timeout_hours": "{{hours}}", "approvers": ["{{boss}}"], "policy": {"quorum": 1}}
    call = {"call": {"kind": "http", "url": "{{url}}", "timeout": "{{seconds}}"}, "assigned_to": ["{{boss}}"]}
    steps = [then("a", "b", "approve", request=request), act("b", "call", request=call)]
    assert problems(*steps) == {}
    wrong = problems(then("a", "b", "approve", request={**request, "reminders": 0}), steps[1])
    assert "steps.0.action.request.reminders.Every.every" in wrong
    assert not any("[" in name for name in wrong)


def test_events_are_limited_in_number() -> None:
    many = [then(f"s{n}", f"s{n + 1}", "wait_event", name=f"e{n}") for n in range(MAX_EVENTS + 1)]
    assert list(problems(*many, act(f"s{MAX_EVENTS + 1}"))) == ["steps"]


@pytest.mark.parametrize("given", [None, [], "x", 5, {}, {"name": "x"}, {"name": "x", "steps": {}}])
def test_what_is_no_definition_at_all_is_told_too(given: Any) -> None:
    definition, wrong = read_definition(given)
    assert definition is None
    assert wrong


@pytest.mark.parametrize("name", ["", "a b", "ä", "a/b", "..", "x" * 61, 5, "a\n"])
def test_a_name_is_short_and_plain(name: Any) -> None:
    assert "name" in dict(read_definition({"name": name, "steps": [act("a")]})[1])


# Conditions

DATA: dict[str, Any] = {
    "n": 5,
    "big": 2**70,
    "f": 0.1,
    "t": "ö🦊x",
    "digits": "5",
    "yes": True,
    "null": None,
    "empty": [],
    "tags": ["a", 1, None, {"k": 1}],
    "o": {"p": {"q": 0}, "l": [{"m": 1}]},
}


def says(field: str, operator: str, *value: Any) -> bool:
    """What a comparison gives."""
    asked = {"field": field, "operator": operator} | ({"value": value[0]} if value else {})
    return holds(CONDITION.validate_python(asked), DATA)


@pytest.mark.parametrize(
    ("field", "operator", "value", "result"),
    [
        ("n", "=", 5, True),
        ("n", "=", 5.0, True),
        ("n", "=", 6, False),
        ("n", "!=", 5, False),
        ("n", "!=", None, True),
        ("n", "=", None, False),
        ("null", "=", None, True),
        ("null", "!=", None, False),
        ("null", "=", "x", False),
        ("null", "!=", 0, True),
        ("yes", "=", True, True),
        ("yes", "!=", False, True),
        ("t", "=", "ö🦊x", True),
        ("t", "=", "O🦊x", False),
        ("o.p", "=", {"q": 0}, True),
        ("o.p", "=", {"q": False}, False),
        ("o.p", "=", {"q": 0, "r": 1}, False),
        ("tags", "=", ["a", 1, None, {"k": 1}], True),
        ("tags", "=", ["a", True, None, {"k": 1}], False),
        ("o.l.0.m", "=", 1, True),
        ("big", ">", 2**70 - 1, True),
        ("big", ">", float(2**70), False),
        ("big", ">=", float(2**70), True),
        ("big", "<", 2**70 + 1, True),
        ("f", "<=", 0.1, True),
        ("f", "<", 0.1, False),
        ("n", ">", 4.999, True),
        ("n", ">=", 5, True),
        ("n", "<", 5, False),
        ("n", "<=", 4, False),
        ("n", "in", [1, 5], True),
        ("n", "in", [1, "5"], False),
        ("n", "in", [5.0], True),
        ("yes", "in", [True], True),
        ("null", "in", [None, 1], True),
        ("null", "in", [1], False),
        ("t", "contains", "🦊", True),
        ("t", "contains", "", True),
        ("t", "contains", "Ö", False),
        ("tags", "contains", "a", True),
        ("tags", "contains", "b", False),
        ("tags", "contains", None, True),
        ("tags", "contains", {"k": 1}, True),
        ("tags", "contains", {"k": True}, False),
        ("empty", "contains", "a", False),
    ],
)
def test_a_comparison_gives(field: str, operator: str, value: Any, *, result: bool) -> None:
    assert says(field, operator, value) is result


@pytest.mark.parametrize(
    ("field", "operator", "value", "why"),
    [
        ("digits", ">", 4, "'digits' is a text, and the operator > compares numbers"),
        ("yes", "<", 2, "'yes' is a boolean, and the operator < compares numbers"),
        ("null", "<=", 2, "'null' is null, and the operator <= compares numbers"),
        ("o", ">", 2, "'o' is an object, and the operator > compares numbers"),
        ("digits", "=", 5, "'digits' is a text, and the operator = compares it with a number"),
        ("digits", "!=", 5, "'digits' is a text, and the operator != compares it with a number"),
        ("yes", "=", 1, "'yes' is a boolean, and the operator = compares it with a number"),
        ("n", "=", True, "'n' is a number, and the operator = compares it with a boolean"),
        ("digits", "in", [4, 5], "'digits' is a text, and the operator in compares a text with a list that has none"),
        ("yes", "in", [0, 1], "'yes' is a boolean, and the operator in compares a boolean with a list that has none"),
        ("n", "contains", 5, "'n' is a number, and the operator contains compares a text with a text, or a list with"),
        ("digits", "contains", 5, "'digits' is a text, and the operator contains compares a text with a text, or a "),
        ("o", "contains", "p", "'o' is an object, and the operator contains compares a text with a text, or a list"),
        ("tags", "contains", True, "'tags' is a list, and the operator contains compares a boolean with a list that"),
        ("nothing", "=", None, "there is no 'nothing' in the data"),
        ("nothing", "!=", 1, "there is no 'nothing' in the data"),
        ("nothing", "in", [None], "there is no 'nothing' in the data"),
        ("o.p.q.r", "=", 1, "there is no 'o.p.q.r' in the data"),
        ("tags.4", "=", 1, "there is no 'tags.4' in the data"),
        ("tags.-1", "=", 1, "there is no 'tags.-1' in the data"),
        ("tags.length", ">", 1, "there is no 'tags.length' in the data"),
        ("t.0", "=", "ö", "there is no 't.0' in the data"),
        ("o.__class__", "=", 1, "there is no 'o.__class__' in the data"),
    ],
)
def test_a_comparison_of_what_cannot_be_compared_is_an_error(field: str, operator: str, value: Any, why: str) -> None:
    with pytest.raises(DataError) as caught:
        says(field, operator, value)
    assert str(caught.value).startswith(why)


@pytest.mark.parametrize(
    ("field", "value", "result"),
    [
        ("n", (), True),
        ("null", (), True),
        ("nothing", (), False),
        ("o.l.0.m", (), True),
        ("o.l.1.m", (), False),
        ("n", (False,), False),
        ("nothing", (False,), True),
        ("nothing", (True,), False),
    ],
)
def test_a_field_exists_or_does_not(field: str, value: Any, *, result: bool) -> None:
    assert says(field, "exists", *value) is result


YES, NO = {"field": "n", "operator": "=", "value": 5}, {"field": "n", "operator": "=", "value": 6}
BAD = {"field": "nothing", "operator": "=", "value": 5}


@pytest.mark.parametrize(
    ("condition", "result"),
    [
        ({"and": [YES, YES]}, True),
        ({"and": [YES, NO]}, False),
        ({"and": [NO, BAD]}, False),
        ({"or": [NO, YES]}, True),
        ({"or": [NO, NO]}, False),
        ({"or": [YES, BAD]}, True),
        ({"not": YES}, False),
        ({"not": {"or": [NO, {"and": [YES, {"not": NO}]}]}}, False),
        ({"and": [{"field": "nothing", "operator": "exists"}, BAD]}, False),
    ],
)
def test_conditions_are_combined_and_looked_at_in_their_order(condition: Any, *, result: bool) -> None:
    assert holds(CONDITION.validate_python(condition), DATA) is result


@pytest.mark.parametrize("condition", [{"and": [YES, BAD]}, {"or": [NO, BAD]}, {"not": BAD}])
def test_an_error_is_neither_true_nor_false(condition: Any) -> None:
    with pytest.raises(DataError):
        holds(CONDITION.validate_python(condition), DATA)


@pytest.mark.parametrize(
    "condition",
    [
        {"field": "n", "operator": "="},
        {"field": "n", "operator": ">", "value": "5"},
        {"field": "n", "operator": ">", "value": True},
        {"field": "n", "operator": "in", "value": []},
        {"field": "n", "operator": "in", "value": "abc"},
        {"field": "n", "operator": "in", "value": [0] * 201},
        {"field": "n", "operator": "exists", "value": 1},
        {"field": "n", "operator": "matches", "value": ".*"},
        {"field": "", "operator": "exists"},
        {"field": ".".join("a" * 21), "operator": "exists"},
        {"and": [YES], "or": [YES]},
        {"not": [YES]},
        {"and": YES},
        {"and": [YES] * 51},
        {"not": {"not": {"not": {"not": {"not": YES}}}}},
        {},
        None,
    ],
)
def test_what_is_no_condition_is_refused(condition: Any) -> None:
    with pytest.raises(ValidationError):
        CONDITION.validate_python(condition)


# Paths and references


def test_a_value_is_put_at_a_path_and_what_was_there_stays_as_it_was() -> None:
    data: dict[str, Any] = {"a": {"b": 1}, "c": [1]}
    assert put(data, "a.x.y", 2) == {"a": {"b": 1, "x": {"y": 2}}, "c": [1]}
    assert data == {"a": {"b": 1}, "c": [1]}
    with pytest.raises(DataError, match="'c' is no object but a list"):
        put(data, "c.0", 2)


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        ("{{n}}", 5),
        (" {{n}}", " 5"),
        ("{{ o.p }}", {"q": 0}),
        ("{{o.p}}!", '{"q": 0}!'),
        ("{{null}}", None),
        ("{{null}}{{yes}}", "nulltrue"),
        ("{{t}}/{{digits}}", "ö🦊x/5"),
        ("{n} {{{n}}} }}", "{n} {5} }}"),
        ("%s {0.__class__} ${n} <% n %>", "%s {0.__class__} ${n} <% n %>"),
    ],
)
def test_a_reference_becomes_the_value(text: str, becomes: Any) -> None:
    assert resolve(text, DATA) == becomes
    assert resolve({"k": [text]}, DATA) == {"k": [becomes]}


def test_what_is_put_in_is_not_looked_at_again() -> None:
    assert resolve("{{a}} {{b}}", {"a": "{{secret}}", "b": "{{", "secret": 1}) == "{{secret}} {{"


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        (
            "https://api.example.com/orders/{{id}}?by={{by}}",
            "https://api.example.com/orders/..%2Fadmin%3Fx?by=%C3%B6%26a",
        ),
        ("{{url}}", "https://api.example.com/x?y=1"),
    ],
)
def test_what_is_put_into_an_address_stays_the_part_that_it_is_meant_for(text: str, becomes: str) -> None:
    data: Any = {"id": "../admin?x", "by": "ö&a", "url": "https://api.example.com/x?y=1"}
    assert resolve(text, data, in_address=True) == becomes


@pytest.mark.parametrize("dots", [".", ".."])
def test_dots_alone_are_no_part_of_an_address(dots: str) -> None:
    with pytest.raises(DataError, match="'id' is dots alone"):
        resolve("https://api.example.com/{{id}}/x", {"id": dots}, in_address=True)


def test_many_references_to_one_long_text_are_an_error_and_take_no_room() -> None:
    with pytest.raises(DataError, match="more than"):
        resolve("{{x}}" * 10_000, {"x": "y" * 60_000})


def test_a_number_in_a_path_is_a_place_in_a_list_or_a_name() -> None:
    assert look_up({"l": [1, 2], "o": {"1": "one"}}, "l.1") == 2
    assert look_up({"l": [1, 2], "o": {"1": "one"}}, "o.1") == "one"


def test_a_definition_is_the_same_after_it_went_through_json() -> None:
    given: Any = {"name": "x", "steps": [ask("a", "b", "b", {"not": {"and": [YES]}}), act("b", "block", schema=FORM)]}
    definition, wrong = read_definition(given)
    assert wrong == []
    assert Definition.model_validate(json.loads(json.dumps(given))) == definition


FORM = {"type": "object", "properties": {"cost": {"type": "integer"}}}


@pytest.mark.parametrize("kind", ["block", "wait_event"])
def test_a_wait_that_is_over_at_once_is_none(kind: str) -> None:
    named = {"reason": "x"} if kind == "block" else {"name": "arrived"}
    action = {"type": kind, "timeout_hours": 1e-12, **named}
    step: Any = {"id": "a", "type": "action", "action": action, "on_timeout": "a"}
    _, problems = read_definition({"name": "hot", "steps": [step]})
    assert [field for field, _ in problems] == ["steps.0.action.timeout_hours"]


def test_four_times_as_much_that_is_wrong_is_no_more_than_so_much_more_work() -> None:
    def calls(steps: int) -> int:
        odd = {f"f{number}": 1 for number in range(50)}
        given: Any = {"name": "much", "steps": [act(f"s{number}", "block") | odd for number in range(steps)]}
        count = 0

        def called(_frame: Any, event: str, _what: Any) -> None:
            nonlocal count
            count += event in ("call", "c_call")

        sys.setprofile(called)
        try:
            read_definition(given)
        finally:
            sys.setprofile(None)
        return count

    assert calls(8) < 6 * calls(2)
