"""Functions that show what they are given, and give what is hard to encode."""

import dataclasses
import datetime
import decimal
import enum
from collections.abc import Callable, Generator
from typing import Any

import azure.durable_functions as df
import azure.functions as func
from durabletask.entities import EntityContext, EntityInstanceId
from durabletask.task import OrchestrationContext, TaskFailedError

app = df.DFApp(http_auth_level=func.AuthLevel.ANONYMOUS)

type Steps = Generator[Any, Any, Any]


class Point:
    """A class that says itself how it is written and read."""

    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = x, y

    def __repr__(self) -> str:
        return f"Point({self.x!r}, {self.y!r})"

    @staticmethod
    def to_json(point: "Point") -> dict[str, Any]:
        return {"x": point.x, "y": point.y}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Point":
        return cls(data["x"], data["y"])


class Mute:
    """A class whose text cannot be encoded."""

    @staticmethod
    def to_json(_mute: "Mute") -> Any:
        return {1, 2}


@dataclasses.dataclass
class Plain:
    """A dataclass without a way of its own."""

    name: str = "ä"


class Colour(enum.Enum):
    """An enum of texts."""

    RED = "red"


class Level(enum.IntEnum):
    """An enum of numbers."""

    HIGH = 3


class CustomError(Exception):
    """An error of the app's own."""


class Untellable(Exception):
    """An error that cannot be told."""

    def __str__(self) -> str:
        raise ValueError("no text")


def _circle() -> list[Any]:
    circle: list[Any] = []
    circle.append(circle)
    return circle


def _nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


VALUES: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "true": lambda: True,
    "zero": lambda: 0,
    "minus zero": lambda: -0.0,
    "float": lambda: 1.5e300,
    "nan": lambda: float("nan"),
    "infinity": lambda: [float("inf"), float("-inf")],
    "huge": lambda: 10**400,
    "too huge": lambda: 10**5000,
    "empty": lambda: "",
    "text": lambda: "grün 🎉 \u0000 \u2028",
    "text of json": lambda: '{"a": 1}',
    "surrogate": lambda: "\ud800 and \udfff",
    "bytes": lambda: b"\x00\xff",
    "bytearray": lambda: bytearray(b"x"),
    "bytes inside": lambda: {"a": b"x"},
    "list": lambda: [1, [2, ["ä"]], {}],
    "tuple": lambda: (1, (2,)),
    "set": lambda: {1},
    "numbers for keys": lambda: {1: "a", None: "b", 1.5: "c"},
    "tuples for keys": lambda: {(1, 2): "a"},
    "nested": lambda: _nested(500),
    "nested too deep": lambda: _nested(100_000),
    "circle": _circle,
    "generator": lambda: (number for number in range(2)),
    "point": lambda: Point(1, "ä"),
    "points": lambda: [Point(1, 2), {"p": Point(3, 4)}],
    "point in a point": lambda: Point(Point(1, 2), None),
    "mute": Mute,
    "class": lambda: Point,
    "dataclass": Plain,
    "enum": lambda: Colour.RED,
    "number enum": lambda: [Level.HIGH],
    "date": lambda: datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    "decimal": lambda: decimal.Decimal("1.10"),
    "marked": lambda: {"__class__": "Point", "__module__": "function_app", "__data__": {"x": 1, "y": 2}},
}

ERRORS: dict[str, Callable[[], BaseException]] = {
    "value": lambda: ValueError("grün 🎉"),
    "empty": ValueError,
    "key": lambda: KeyError("missing"),
    "custom": lambda: CustomError("of our own"),
    "two lines": lambda: CustomError("one\ntwo"),
    "colons": lambda: RuntimeError("a: b: c"),
    "trailing": lambda: RuntimeError("text  \n"),
    "surrogate": lambda: OSError("no such file: \udcff.pdf"),
    "of the system": lambda: FileNotFoundError(2, "No such file or directory", "nowhere"),
    "group": lambda: ExceptionGroup("several", [ValueError("a"), KeyError("b")]),
    "stop iteration": lambda: StopIteration("over"),
    "untellable": Untellable,
}


def shown(given: Any) -> str:
    """Tell the type and the text of a value."""
    return f"{type(given).__module__}.{type(given).__qualname__}: {given!r}"


# Activities


@app.activity_trigger(input_name="given")
def sees(given: Any) -> str:
    return shown(given)


@app.activity_trigger(input_name="given")
async def sees_async(given: Any) -> str:
    return shown(given)


@app.activity_trigger(input_name="given")
def sees_without_annotation(given):  # type: ignore[no-untyped-def]
    return shown(given)


@app.activity_trigger(input_name="given")
def sees_int(given: int) -> str:
    return shown(given)


@app.activity_trigger(input_name="given")
def sees_text(given: str) -> str:
    return shown(given)


@app.activity_trigger(input_name="given")
def sees_bytes(given: bytes) -> str:
    return shown(given)


@app.activity_trigger(input_name="given")
def sees_point(given: Point) -> str:
    return shown(given)


@app.activity_trigger(input_name="given")
def sees_dataclass(given: Plain) -> str:
    return shown(given)


@app.activity_trigger(input_name="given")
def sees_natively(_context: Any, given: dict[str, int]) -> str:
    return shown(given)


@app.activity_trigger(input_name="given")
def gives(given: str) -> Any:
    return VALUES[given]()


@app.activity_trigger(input_name="given")
async def gives_async(given: str) -> Any:
    return VALUES[given]()


@app.activity_trigger(input_name="given")
def gives_int(given: str) -> int:
    return VALUES[given]()  # type: ignore[no-any-return]


@app.activity_trigger(input_name="given")
def raises(given: str) -> None:
    raise ERRORS[given]()


@app.activity_trigger(input_name="given")
async def raises_async(given: str) -> None:
    raise ERRORS[given]()


@app.activity_trigger(input_name="given")
def raises_from_another(given: str) -> None:
    try:
        raises(given)
    except Exception as error:
        raise CustomError("the outer one") from error


# Orchestrators


@app.orchestration_trigger(context_name="context")
def turn(context: OrchestrationContext, given: Any) -> str:
    return shown(given)


@app.orchestration_trigger(context_name="context")
def turn_of_point(context: OrchestrationContext, given: Point) -> str:
    return shown(given)


@app.orchestration_trigger(context_name="context")
def turn_of_int(context: OrchestrationContext, given: int) -> str:
    return shown(given)


@app.orchestration_trigger(context_name="context")  # type: ignore[arg-type]  # of one argument, as in v1
def classic_turn(context: df.DurableOrchestrationContext) -> str:
    return shown(context.get_input())


@app.orchestration_trigger(context_name="context", input_type=Point)  # type: ignore[arg-type]
def classic_turn_of_point(context: df.DurableOrchestrationContext) -> str:
    return shown(context.get_input())


@app.orchestration_trigger(context_name="context")
def turn_that_gives(context: OrchestrationContext, given: str) -> Any:
    context.set_custom_status({"gives": given})
    return VALUES[given]()


@app.orchestration_trigger(context_name="context")
def turn_that_calls(context: OrchestrationContext, given: str) -> Steps:
    return (yield context.call_activity("sees", input=VALUES[given]()))


@app.orchestration_trigger(context_name="context")
def turn_that_raises(context: OrchestrationContext, given: str) -> Any:
    raise ERRORS[given]()


@app.orchestration_trigger(context_name="context")
def everywhere(context: OrchestrationContext, given: str) -> Steps:
    """Send a value to an activity, a sub-orchestration and an entity, and tell what each of them saw."""
    value = VALUES[given]()
    seen: dict[str, Any] = {}
    entity = EntityInstanceId("keeper", context.instance_id)
    for name, task in (
        ("activity", context.call_activity("sees", input=value)),
        ("sub-orchestration", context.call_sub_orchestrator("turn", input=value)),
        ("sub-orchestration of point", context.call_sub_orchestrator("turn_of_point", input=value)),
        ("entity", context.call_entity(entity, "keep", value)),
        ("state", context.call_entity(entity, "show")),
    ):
        try:
            seen[name] = yield task
        except Exception as error:  # noqa: BLE001
            seen[name] = f"failed: {error}"
    return seen


@app.orchestration_trigger(context_name="context")
def waits(context: OrchestrationContext, typed: bool) -> Steps:
    """Wait for an event, as a point or as it comes, and tell what came."""
    data_type = Point if typed else None
    try:
        return shown((yield context.wait_for_external_event("event", data_type=data_type)))
    except TypeError as error:
        return f"failed: {error}"


@app.orchestration_trigger(context_name="context")
def told(context: OrchestrationContext, given: dict[str, str]) -> Steps:
    """Call an activity that fails, and tell all that is known of it."""
    try:
        return (yield context.call_activity(given["activity"], input=given["error"]))
    except TaskFailedError as error:
        return {
            "type": error.details.error_type,
            "message": error.details.message,
            "stack": error.details.stack_trace,
            "caused by ValueError": error.details.is_caused_by(ValueError),
        }


# Entities


@app.entity_trigger(context_name="context")
def keeper(context: EntityContext, given: Any) -> Any:
    match context.operation:
        case "keep":
            context.set_state(given)
        case "keep value":
            context.set_state(VALUES[given]())
        case "show as point":
            return shown(context.get_state(Point))
        case "show":
            return shown(context.get_state())
        case "raise":
            raise ERRORS[given]()
    return shown(given)


@app.entity_trigger(context_name="context")  # type: ignore[arg-type]  # of one argument, as in v1
def classic_keeper(context: df.DurableEntityContext) -> None:
    if context.operation_name == "keep":
        context.set_state(context.get_input())
    context.set_result(shown(context.get_state(lambda: "nothing")))


# Clients


@app.route(route="start/{name}", methods=["POST"])
@app.durable_client_input(client_name="client")
async def start(req: func.HttpRequest, client: df.DurableFunctionsClient) -> func.HttpResponse:
    instance_id = await client.start_new(req.route_params["name"], client_input=req.get_json())
    return client.create_check_status_response(req, instance_id)


@app.route(route="start-value/{name}/{value}", methods=["POST"])
@app.durable_client_input(client_name="client")
async def start_value(req: func.HttpRequest, client: df.DurableFunctionsClient) -> func.HttpResponse:
    value = VALUES[req.route_params["value"]]()
    instance_id = await client.start_new(req.route_params["name"], client_input=value)
    return client.create_check_status_response(req, instance_id)


@app.route(route="raise-value/{id}/{value}", methods=["POST"])
@app.durable_client_input(client_name="client")
async def raise_value(req: func.HttpRequest, client: df.DurableFunctionsClient) -> str:
    await client.raise_event(req.route_params["id"], "event", VALUES[req.route_params["value"]]())
    return "raised"
