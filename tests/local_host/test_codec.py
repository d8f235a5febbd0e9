"""What functions are given and what they give is encoded and decoded as Microsoft's own worker does it.

The same functions run twice: on Microsoft's library, called as the Functions host calls it, and on this host. What
they saw and what went out must be the same, over a table of values, with and without strict typing.
"""

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
from durabletask.internal import helpers
from durabletask.internal import orchestrator_service_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.wrappers_pb2 import StringValue

from tests.hosting import HostProcess, host_process
from tests.local_host.apps.codec.function_app import ERRORS, VALUES
from tests.local_host.test_durable import ENDED, seen, started

APP = Path(__file__).parent / "apps" / "codec"
STRICT = "AZURE_FUNCTIONS_DURABLE_STRICT_TYPING"
MODES = ["", "1"]

POINT = '{"__class__": "Point", "__module__": "function_app", "__data__": {"x": 1, "y": "\\u00e4"}}'
"""A point, as the SDK writes it."""

TEXTS = {
    "null": "null",
    "true": "true",
    "int": "7",
    "minus zero": "-0.0",
    "float": "1.50",
    "exponent": "1e400",
    "huge": "1" + "0" * 400,
    "too huge": "1" + "0" * 5000,
    "not a number": "NaN",
    "infinities": "[Infinity, -Infinity]",
    "empty text": '""',
    "text": '"gr\\u00fcn \\ud83c\\udf89"',
    "text in UTF-8": '"grün 🎉"',
    "lone surrogate": '"\\ud800"',
    "zero byte": '"\\u0000"',
    "text of a number": '"7"',
    "list": "[1, [2.0, null], {}]",
    "object": '{"b": 1, "a": {"": []}}',
    "twice the same key": '{"a": 1, "a": 2}',
    "spaces": ' \n{"a" :\t1} ',
    "nested": "[" * 500 + "]" * 500,
    "nested too deep": "[" * 100_000 + "]" * 100_000,
    "point": POINT,
    "points": f'[{POINT}, {{"p": {POINT}}}]',
    "point in a point": f'{{"__class__": "Point", "__module__": "function_app", "__data__": {{"x": {POINT}, "y": 1}}}}',
    "no such class": '{"__class__": "Nobody", "__module__": "function_app", "__data__": {}}',
    "no such module": '{"__class__": "Point", "__module__": "nowhere", "__data__": {}}',
    "class that cannot be read": '{"__class__": "Mute", "__module__": "function_app", "__data__": {}}',
    "point without its data": '{"__class__": "Point", "__module__": "function_app", "__data__": {}}',
    "half a mark": '{"__class__": "Point", "__data__": {}}',
    "not JSON": "grün",
    "nothing at all": "",
    "cut off": '{"a": 1',
    "two values": "1 2",
    "a byte order mark": "\ufeff1",
}
"""What a client of any language can have sent."""

SEEING = [
    "sees",
    "sees_async",
    "sees_without_annotation",
    "sees_int",
    "sees_text",
    "sees_bytes",
    "sees_point",
    "sees_dataclass",
    "sees_natively",
]


def activity(name: str, text: str) -> dict[str, str]:
    """Ask an activity, with an input as it stands in the hub."""
    return {"kind": "activity", "name": name, "data": text}


def orchestrator(name: str, given: str | None) -> dict[str, str]:
    """Ask for the first turn of an orchestration."""
    instance = pb.OrchestrationInstance(instanceId="an instance", executionId=StringValue(value="an execution"))
    began = pb.ExecutionStartedEvent(name=name, orchestrationInstance=instance)
    if given is not None:
        began.input.value = given
    now = Timestamp()
    now.FromDatetime(datetime(2026, 1, 1, tzinfo=UTC))
    request = pb.OrchestratorRequest(
        instanceId="an instance",
        newEvents=[
            helpers.new_orchestrator_started_event(datetime(2026, 1, 1, tzinfo=UTC)),
            pb.HistoryEvent(eventId=-1, timestamp=now, executionStarted=began),
        ],
    )
    return {"kind": "orchestrator", "name": name, "data": base64.b64encode(request.SerializeToString()).decode("ascii")}


def entity(name: str, *operations: tuple[str, str | None], state: str | None = None) -> dict[str, str]:
    """Ask for a batch of operations."""
    request = pb.EntityBatchRequest(instanceId=f"@{name}@key")
    if state is not None:
        request.entityState.value = state
    for number, (operation, given) in enumerate(operations):
        asked = request.operations.add(operation=operation, requestId=f"request-{number}")
        if given is not None:
            asked.input.value = given
    return {"kind": "entity", "name": name, "data": base64.b64encode(request.SerializeToString()).decode("ascii")}


QUESTIONS: dict[str, dict[str, str]] = {
    **{f"{name} {key}": activity(name, text) for name in SEEING for key, text in TEXTS.items()},
    **{
        f"{name} {key}": activity(name, json.dumps(key))
        for name in ("gives", "gives_async", "gives_int")
        for key in VALUES
    },
    **{
        f"{name} {key}": activity(name, json.dumps(key))
        for name in ("raises", "raises_async", "raises_from_another")
        for key in ERRORS
    },
    **{
        f"{name} {key}": orchestrator(name, text)
        for name in ("turn", "turn_of_point", "turn_of_int", "classic_turn", "classic_turn_of_point")
        for key, text in {**TEXTS, "no input": None}.items()
    },
    **{
        f"{name} {key}": orchestrator(name, json.dumps(key))
        for name in ("turn_that_gives", "turn_that_calls")
        for key in VALUES
    },
    **{f"turn_that_raises {key}": orchestrator("turn_that_raises", json.dumps(key)) for key in ERRORS},
    **{
        f"{name} {key}": entity(name, ("keep", text), ("show", None))
        for name in ("keeper", "classic_keeper")
        for key, text in {**TEXTS, "no input": None}.items()
    },
    **{
        f"{operation} with the state {key}": entity("keeper", (operation, None), state=text)
        for operation in ("show", "show as point")
        for key, text in TEXTS.items()
    },
    **{f"keep value {key}": entity("keeper", ("keep value", json.dumps(key)), ("show", None)) for key in VALUES},
    **{f"entity raises {key}": entity("keeper", ("keep", "1"), ("raise", json.dumps(key))) for key in ERRORS},
}


@cache
def answers(worker: str, strict: str) -> dict[str, dict[str, Any]]:
    """Ask a worker all questions, in one process."""
    asked = subprocess.run(
        [sys.executable, "-P", str(APP / "workers.py"), worker, str(APP)],
        input=json.dumps(list(QUESTIONS.values())),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env={"PATH": os.environ["PATH"], STRICT: strict},
    )
    assert asked.returncode == 0, asked.stderr[-2000:]
    return dict(zip(QUESTIONS, json.loads(asked.stdout)[0]["answers"], strict=True))


def comparable(key: str, answer: dict[str, Any]) -> Any:
    """An answer without what differs from process to process."""
    if "error" in answer:
        kind, message = answer["error"]
        if key.endswith("untellable"):  # what says so is not the app's
            return kind
        carried = str(message).encode("utf-8", "backslashreplace").decode()  # no protobuf holds a lone surrogate
        return [kind, re.sub(r"0x[0-9a-f]+", "0x", carried)]
    if QUESTIONS[key]["kind"] == "activity":
        return re.sub(r"0x[0-9a-f]+", "0x", answer["result"])
    return re.sub(r"0x[0-9a-f]+|line \d+|seconds: \d+|nanos: \d+", "", str(message_of(key, answer)))


def message_of(key: str, answer: dict[str, Any]) -> Any:
    """The response of an orchestrator or an entity."""
    kind = pb.OrchestratorResponse if QUESTIONS[key]["kind"] == "orchestrator" else pb.EntityBatchResult
    return kind.FromString(base64.b64decode(answer["result"]))


def agree(key: str, azure: dict[str, Any], local: dict[str, Any]) -> bool:
    """Whether both answers are the same; where the SDK itself failed, whether the same failure is told."""
    if "error" not in azure or QUESTIONS[key]["kind"] == "activity":
        return bool(comparable(key, azure) == comparable(key, local))
    message = message_of(key, local)
    if QUESTIONS[key]["kind"] == "orchestrator":
        failures = [action.completeOrchestration.failureDetails for action in message.actions]
    else:
        failures = [result.failure.failureDetails for result in message.results]
    return {failure.errorType for failure in failures} == {azure["error"][0]}


@pytest.mark.parametrize("strict", MODES)
def test_both_workers_see_give_and_fail_alike(strict: str) -> None:
    azure, local = answers("azure", strict), answers("local", strict)
    different = {
        key: (comparable(key, azure[key]), comparable(key, local[key]))
        for key in QUESTIONS
        if not agree(key, azure[key], local[key])
    }
    assert not different


@pytest.mark.parametrize(
    ("strict", "key", "answer"),
    [
        ("", "sees point", "\"function_app.Point: Point(1, '\\u00e4')\""),
        ("", "sees points", "\"builtins.list: [Point(1, '\\u00e4'), {'p': Point(1, '\\u00e4')}]\""),
        ("", "sees no such module", ["ValueError", "activity trigger input must be a string or a"]),
        ("1", "sees point", ["ValueError", "activity trigger input must be a string or a"]),
        ("1", "sees half a mark", "\"builtins.dict: {'__class__': 'Point', '__data__': {}}\""),
        ("", "sees not JSON", "\"builtins.str: 'gr\\u00fcn'\""),
        ("", "sees_point int", '"builtins.int: 7"'),
        ("", "gives none", "null"),
        ("", "gives tuple", "[1, [2]]"),
        ("", "gives numbers for keys", '{"1": "a", "null": "b", "1.5": "c"}'),
        ("", "gives bytes", ["ValueError", "activity trigger output must be json serializable"]),
        ("", "gives points", '[{"__class__": "Point"'),
        ("1", "gives points", ["ValueError", "activity trigger output must be json serializable"]),
        ("1", "gives point", '{"__class__": "Point"'),
        ("", "raises custom", ["CustomError", "of our own"]),
        ("", "raises two lines", ["CustomError", "one"]),
        ("", "raises colons", ["RuntimeError", "a: b: c"]),
        ("", "raises empty", ["ValueError", ""]),
    ],
)
def test_the_table_says_something(strict: str, key: str, answer: Any) -> None:
    """Hold some of Microsoft's answers to what was looked up, so that two workers that answer nothing do not agree."""
    found = comparable(key, answers("azure", strict)[key])
    if isinstance(answer, list):
        assert found[0] == answer[0]
        assert found[1].startswith(answer[1])
    else:
        assert found.startswith(answer)


@pytest.mark.parametrize("strict", MODES)
def test_a_failure_has_its_stack_and_what_caused_it(strict: str) -> None:
    for worker in ("azure", "local"):
        stack = answers(worker, strict)["raises_from_another value"]["stack"]
        assert "ValueError: grün 🎉" in stack
        assert "The above exception was the direct cause of the following exception" in stack
        assert stack.rstrip().endswith("CustomError: the outer one")


# Through the whole host: client, orchestrator, activity, sub-orchestration, entity, event


@pytest.fixture(scope="module", params=MODES, ids=["loose", "strict"])
def host(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[HostProcess, bool]]:
    """A host of the app, and whether it is strict about types."""
    environment = {STRICT: request.param}
    with host_process(tmp_path_factory.mktemp("data"), app_dir=APP, environment=environment) as host:
        yield host, bool(request.param)


@pytest.fixture(scope="module")
def client(host: tuple[HostProcess, bool]) -> Iterator[httpx.Client]:
    """A client of that host."""
    with host[0].client() as client:
        yield client


PLAIN = {
    "none": "builtins.NoneType: None",
    "true": "builtins.bool: True",
    "minus zero": "builtins.float: -0.0",
    "huge": f"builtins.int: {10**400}",
    "text": "builtins.str: 'grün 🎉 \\x00 \\u2028'",
    "text of json": "builtins.str: '{\"a\": 1}'",
    "surrogate": "builtins.str: '\\ud800 and \\udfff'",
    "list": "builtins.list: [1, [2, ['ä']], {}]",
    "tuple": "builtins.list: [1, [2]]",
    "nan": "builtins.float: nan",
}


@pytest.mark.parametrize("value", PLAIN)
def test_plain_values_arrive_everywhere(client: httpx.Client, value: str) -> None:
    shown = seen(client, started(client, "everywhere", value), *ENDED)
    assert shown["runtimeStatus"] == "Completed", shown
    output = shown["output"]
    for place in ("activity", "sub-orchestration", "entity", "state"):
        assert output[place] == PLAIN[value]


def test_a_class_of_the_app_arrives_where_it_is_named_and_everywhere_when_types_are_loose(
    client: httpx.Client, host: tuple[HostProcess, bool]
) -> None:
    output = seen(client, started(client, "everywhere", "point"), *ENDED)["output"]
    point = "function_app.Point: Point(1, 'ä')"
    assert output["sub-orchestration of point"] == point
    places = ("activity", "sub-orchestration", "entity")
    if host[1]:
        assert [output[place].partition(": ")[0] for place in places] == ["failed"] * 3
        assert output["state"] == "builtins.NoneType: None"
    else:
        assert [output[place] for place in (*places, "state")] == [point] * 4


@pytest.mark.parametrize("value", ["bytes", "set", "mute", "dataclass"])
def test_what_cannot_be_written_fails_the_orchestration_with_a_reason(client: httpx.Client, value: str) -> None:
    shown = seen(client, started(client, "turn_that_calls", value), *ENDED)
    assert shown["runtimeStatus"] == "Failed"
    assert "serializable" in str(shown["output"]) or "to_json" in str(shown["output"])


def test_an_input_and_an_event_of_a_client_function_arrive_as_their_class(client: httpx.Client) -> None:
    urls = client.post("/api/start-value/turn_of_point/point").json()
    assert seen(client, urls, *ENDED)["output"] == "function_app.Point: Point(1, 'ä')"
    urls = started(client, "waits", True)
    assert client.post(f"/api/raise-value/{urls['id']}/point").text == "raised"
    assert seen(client, urls, *ENDED)["output"] == "function_app.Point: Point(1, 'ä')"


def test_an_event_over_http_is_plain(client: httpx.Client) -> None:
    urls = started(client, "waits", False)
    event = urls["sendEventPostUri"].replace("{eventName}", "event")
    assert client.post(event, json={"ä": [None, "🎉"]}).status_code == 202
    assert seen(client, urls, *ENDED)["output"] == "builtins.dict: {'ä': [None, '🎉']}"


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        ("value", "ValueError", "grün 🎉"),
        ("custom", "CustomError", "of our own"),
        ("two lines", "CustomError", "one"),
        ("of the system", "FileNotFoundError", "[Errno 2] No such file or directory: 'nowhere'"),
    ],
)
def test_an_orchestrator_is_told_of_a_failure_what_the_real_host_tells(
    client: httpx.Client, error: str, kind: str, message: str
) -> None:
    told = seen(client, started(client, "told", {"activity": "raises", "error": error}), *ENDED)["output"]
    assert (told["type"], told["message"]) == (kind, message)
    assert "function_app.py" in told["stack"]
    assert told["caused by ValueError"] is (kind == "ValueError")
