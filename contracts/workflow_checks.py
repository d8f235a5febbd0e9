"""What is wrong with a definition: all of it at once, each with the field and the step."""

import re
from collections.abc import Iterator
from typing import Any

from pydantic import JsonValue, ValidationError

from contracts.approval import ApprovalRequest
from contracts.guarded_call import GuardedCall
from contracts.workflow import MAX_EVENTS, MAX_STEPS, Definition
from contracts.workflow_condition import comparisons_in
from contracts.workflow_data import EXECUTION, STEPS, DataError, check_data, has_references, references_in
from contracts.workflow_steps import (
    WAITS,
    WAYS,
    ApproveAction,
    CallAction,
    ConditionStep,
    Step,
    Way,
)

MAX_PROBLEMS = 100
EXECUTION_FIELDS = ("id", "workflow", "version")
RULES = ("allow_self_approval", "on_timeout")
"""Of the request of an approval: what lets it do without others, which only who stores the workflow says."""
_TARGETS = ("on_true", "on_false", "next", "on_rejected", "on_timeout", "on_failed")

type Problem = tuple[str, str]
"""The field, with dots, and what is wrong with it."""


def read_definition(given: JsonValue) -> tuple[Definition | None, list[Problem]]:
    """Return a definition, and what is wrong with it; None where it is so wrong that it cannot be read."""
    if not isinstance(given, dict):
        return None, [("(body)", "a definition is an object with name and steps")]
    try:
        check_data(given)  # first, so that nothing below goes deeper than it can
    except DataError as error:
        return None, [("(body)", str(error).replace("the data have", "the definition has"))]
    problems: list[Problem] = []
    definition: Definition | None = None
    try:
        definition = Definition.model_validate(given)
    except ValidationError as error:
        told = problems_of(error)
        # A list of which nothing was good is told to be too short as well.
        parts = [field.split(".") for field, _ in told]
        parents = {".".join(each[:end]) for each in parts for end in range(1, len(each))}
        told = [each for each in told if each[0] not in parents]
        problems += [(field, _of_step(given, field, message)) for field, message in told]
    steps = _steps_of(given)
    wrong_names = [*_names(steps)]
    problems += wrong_names
    if definition is not None:
        problems += _each(definition)
        problems += _events(definition)
    if not wrong_names and all(isinstance(step.get("id"), str) for step in steps):
        problems += _graph(steps)
    return definition, problems[:MAX_PROBLEMS]


def problems_of(error: ValidationError) -> list[Problem]:
    """Return what a contract found, without what only its own making explains."""
    return [
        (field_of(each["loc"]), each["msg"].removeprefix("Value error, "))
        for each in error.errors(include_url=False, include_input=False, include_context=False)
    ]


def field_of(where: tuple[int | str, ...]) -> str:
    """Return the field at a place, with dots, without the kinds that it was tried as."""
    parts = [str(part) for part in where if not re.fullmatch(r"<\w+>|.*\[.*\]", str(part))]
    return ".".join(parts) or "(body)"


def _of_step(given: dict[str, Any], field: str, message: str) -> str:
    found = re.match(r"steps\.(\d{1,6})(?:\.|\Z)", field)
    if found is None or not isinstance(given.get("steps"), list):
        return message
    step = given["steps"][int(found[1])] if int(found[1]) < len(given["steps"]) else None
    name = step.get("id") if isinstance(step, dict) else None
    return f"step '{name[:100]}': {message}" if isinstance(name, str) and name else message


def _steps_of(given: dict[str, Any]) -> list[dict[str, Any]]:
    steps = given.get("steps")
    if not isinstance(steps, list) or len(steps) > MAX_STEPS:
        return []
    return [step if isinstance(step, dict) else {} for step in steps]


def _names(steps: list[dict[str, Any]]) -> Iterator[Problem]:
    """Look at ids and targets, also of steps that are wrong otherwise."""
    ids = [step["id"] if isinstance(step.get("id"), str) else "" for step in steps]
    for index, step in enumerate(steps):
        where, name = f"steps.{index}", ids[index]
        if name and name in ids[:index]:
            yield f"{where}.id", f"step '{name}': steps.{ids.index(name)} has this id too"
        for way in _TARGETS:
            target = step.get(way)
            if isinstance(target, str) and target not in ids:
                yield f"{where}.{way}", f"step '{name}': there is no step '{target[:100]}'"


def _each(definition: Definition) -> Iterator[Problem]:
    ids = [step.id for step in definition.steps]
    for index, step in enumerate(definition.steps):
        for field, message in _of_one(step, ids):
            yield f"steps.{index}.{field}", f"step '{step.id}': {message}"


def _of_one(step: Step, ids: list[str]) -> Iterator[Problem]:
    if isinstance(step, ConditionStep):
        for path in dict.fromkeys(each.field for each in comparisons_in(step.condition)):
            yield from _path("condition", path, ids)
        return
    action = step.action
    ways = WAYS[action.type]
    if action.type == "block" and not action.approval:
        ways = ("next", "on_timeout")
    all_ways: tuple[Way, ...] = ("next", "on_rejected", "on_timeout", "on_failed")
    for way in all_ways:
        if getattr(step, way) is not None and way not in ways:
            yield (
                way,
                f"an action of type {action.type} does not lead there; "
                + (f"it has {', '.join(ways)}" if ways else "it ends the run"),
            )
    for path in dict.fromkeys(references_in(action.model_dump(mode="json"))):
        yield from _path("action", path, ids)
    if isinstance(action, ApproveAction | CallAction):
        yield from _request(action, step.id)
    if isinstance(action, ApproveAction):
        for rule in RULES:
            if has_references(action.request.get(rule)):
                yield (
                    f"action.request.{rule}",
                    "a reference cannot stand here, as who starts a run would choose the rule; say a value",
                )


def _path(field: str, path: str, ids: list[str]) -> Iterator[Problem]:
    first, *more = path.split(".")
    if first == STEPS and more and more[0] not in ids:
        yield field, f"'{path}' is the result of a step '{more[0]}', which there is not"
    if first == EXECUTION and (len(more) != 1 or more[0] not in EXECUTION_FIELDS):
        yield field, f"there is no '{path}'; there are {', '.join(f'{EXECUTION}.{each}' for each in EXECUTION_FIELDS)}"


def _request(action: ApproveAction | CallAction, step: str) -> Iterator[Problem]:
    """Look at the body of a request, but for what only the data of a run can tell."""
    contract: Any = ApprovalRequest if isinstance(action, ApproveAction) else GuardedCall
    given = action.request if isinstance(action, ApproveAction) else {"name": step, **action.request}
    try:
        contract.model_validate(given)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        for each, (field, message) in zip(found, problems_of(error), strict=True):
            names = each["type"] in ("missing", "extra_forbidden") and (
                len(each["loc"]) == 1 or each["loc"][0] == "call"
            )
            if names or not has_references(_at(given, each["loc"])):
                yield f"action.request.{field}".removesuffix(".(body)"), message


def _at(given: Any, where: tuple[int | str, ...]) -> Any:
    """Return what stands at a place, or as near to it as there is something."""
    for part in where:
        # What is not found is the name of a kind, not of a field.
        if isinstance(given, dict):
            given = given.get(part, given)
        elif isinstance(given, list) and isinstance(part, int) and part < len(given):
            given = given[part]
    return given


def _events(definition: Definition) -> Iterator[Problem]:
    events = definition.events
    if len(events) > MAX_EVENTS:
        yield "steps", f"a workflow waits for up to {MAX_EVENTS} events by name, and these are {len(events)}"
    for index, event in enumerate(events):
        if event.lower() in [other.lower() for other in events[:index]]:
            yield "steps", f"the event '{event}' differs from another one by capital letters alone"


def _graph(steps: list[dict[str, Any]]) -> Iterator[Problem]:
    """Look for steps that nothing leads to, and for loops in which no time passes."""
    places = {step["id"]: index for index, step in enumerate(steps)}
    targets = {step["id"]: [step[way] for way in _TARGETS if isinstance(step.get(way), str)] for step in steps}
    reached, left = dict.fromkeys(list(places)[:1]), list(places)[:1]
    while left:
        new = dict.fromkeys(name for name in targets[left.pop()] if name not in reached)
        reached |= new
        left += new
    for name, place in places.items():
        if name not in reached:
            yield f"steps.{place}", f"step '{name}': nothing leads to it"
    for loop in _loops({step["id"]: targets[step["id"]] for step in steps if not _waits(step)}):
        way = " → ".join([*loop, loop[0]])
        yield (
            f"steps.{places[loop[0]]}",
            f"step '{loop[0]}': it is in a loop without a wait ({way[:500]}); put a delay, or another wait, into it",
        )


def _waits(step: dict[str, Any]) -> bool:
    action = step.get("action")
    return isinstance(action, dict) and action.get("type") in WAITS


def _loops(graph: dict[str, list[str]]) -> Iterator[list[str]]:
    """Give loops of a graph, none of which has a step with another in common; every graph with loops gives one."""
    while True:
        graph = {name: [target for target in targets if target in graph] for name, targets in graph.items()}
        ends = [name for name, targets in graph.items() if not targets]
        if ends:
            graph = {name: targets for name, targets in graph.items() if name not in ends}
            continue
        if not graph:
            return
        walked = [next(iter(graph))]
        while graph[walked[-1]][0] not in walked:
            walked.append(graph[walked[-1]][0])
        loop = walked[walked.index(graph[walked[-1]][0]) :]
        yield loop
        graph = {name: targets for name, targets in graph.items() if name not in loop}
