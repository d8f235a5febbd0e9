"""The conditions of a declared workflow: comparisons of a field with a value, and what is made of them."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, JsonValue, Tag, model_validator

from contracts.base import Contract
from contracts.workflow_data import DataError, DataPath, has, kind_of, look_up

MAX_DEPTH = 5
MAX_COMPARISONS = 50
MAX_CHOICES = 200

Operator = Literal["=", "!=", ">", ">=", "<", "<=", "in", "contains", "exists"]
_ORDER = (">", ">=", "<", "<=")


class Comparison(Contract):
    """The value of a field, held against another one.

    Both have to be of one kind, and the field has to be there: else it is an error, and neither true nor false, so that
    no mistake lets anything pass. ``exists`` asks whether it is there, or, with the value false, whether it is not.
    """

    field: DataPath
    operator: Operator
    value: JsonValue = None

    @model_validator(mode="after")
    def _fits_its_operator(self) -> Self:
        given = "value" in self.model_fields_set
        if self.operator == "exists":
            if given and not isinstance(self.value, bool):
                raise ValueError("exists takes no value, or true or false")
        elif not given:
            raise ValueError(f"the operator {self.operator} needs a value")
        elif self.operator in _ORDER and kind_of(self.value) != "number":
            raise ValueError(f"the operator {self.operator} compares numbers, and the value is none")
        elif self.operator == "in" and not (isinstance(self.value, list) and 1 <= len(self.value) <= MAX_CHOICES):
            raise ValueError(f"the value for the operator in is a list of 1 to {MAX_CHOICES} values")
        return self


class And(Contract):
    """All of these hold; they are looked at in their order, until one does not."""

    conditions: Annotated[tuple["Condition", ...], Field(strict=False, min_length=1, alias="and")]


class Or(Contract):
    """One of these holds; they are looked at in their order, until one does."""

    conditions: Annotated[tuple["Condition", ...], Field(strict=False, min_length=1, alias="or")]


class Not(Contract):
    """This does not hold."""

    condition: Annotated["Condition", Field(alias="not")]


def _tag(value: Any) -> str | None:
    if isinstance(value, Contract):
        return f"<{type(value).__name__}>"
    if not isinstance(value, dict):
        return None
    return next((f"<{name.capitalize()}>" for name in ("and", "or", "not") if name in value), "<Comparison>")


type Condition = Annotated[
    Annotated[Comparison, Tag("<Comparison>")]
    | Annotated[And, Tag("<And>")]
    | Annotated[Or, Tag("<Or>")]
    | Annotated[Not, Tag("<Not>")],
    Discriminator(
        _tag,
        custom_error_type="condition",
        custom_error_message="a condition is an object with field, operator and value, or with and, or, or not",
    ),
]


def parts_of(condition: Comparison | And | Or | Not) -> tuple[Comparison | And | Or | Not, ...]:
    """The conditions that a condition is made of."""
    if isinstance(condition, And | Or):
        return condition.conditions
    return (condition.condition,) if isinstance(condition, Not) else ()


def comparisons_in(condition: Comparison | And | Or | Not) -> tuple[Comparison, ...]:
    """All comparisons in a condition."""
    if isinstance(condition, Comparison):
        return (condition,)
    return tuple(found for part in parts_of(condition) for found in comparisons_in(part))


def _bounded(condition: Any) -> Any:
    def depth(part: Any) -> int:
        return 1 + max(map(depth, parts_of(part)), default=0)

    if depth(condition) > MAX_DEPTH:
        raise ValueError(f"a condition is nested up to {MAX_DEPTH} deep")
    if len(comparisons_in(condition)) > MAX_COMPARISONS:
        raise ValueError(f"a condition has up to {MAX_COMPARISONS} comparisons")
    return condition


BoundedCondition = Annotated[Condition, AfterValidator(_bounded)]


def holds(condition: Comparison | And | Or | Not, data: dict[str, JsonValue]) -> bool:
    """Whether it holds. Raises ``DataError`` for a field that is not there, or of another kind than its value."""
    match condition:
        case And():
            return all(holds(part, data) for part in condition.conditions)
        case Or():
            return any(holds(part, data) for part in condition.conditions)
        case Not():
            return not holds(condition.condition, data)
        case Comparison():
            return _compared(condition, data)


def _compared(asked: Comparison, data: dict[str, JsonValue]) -> bool:
    if asked.operator == "exists":
        return has(data, asked.field) == (asked.value is not False)
    found, value = look_up(data, asked.field), asked.value
    if asked.operator in _ORDER:
        return _ordered(asked, found)
    if asked.operator == "in":
        assert isinstance(value, list)
        return _is_among(found, value, asked, found)
    if asked.operator == "contains":
        if isinstance(found, list):
            return _is_among(value, found, asked, found)
        if not isinstance(found, str) or not isinstance(value, str):
            raise _differs(asked, found, "a text with a text, or a list with anything")
        return value in found
    if None not in (found, value) and kind_of(found) != kind_of(value):
        raise _differs(asked, found, f"it with {_a(value)}")
    return _same(found, value) == (asked.operator == "=")


def _ordered(asked: Comparison, found: Any) -> bool:
    if kind_of(found) != "number":
        raise _differs(asked, found, "numbers")
    value: Any = asked.value
    return bool({">": found > value, ">=": found >= value, "<": found < value, "<=": found <= value}[asked.operator])


def _is_among(one: JsonValue, many: list[JsonValue], asked: Comparison, found: JsonValue) -> bool:
    kinds = [kind_of(each) for each in many]
    if one is not None and many and kind_of(one) not in kinds:
        raise _differs(asked, found, f"{_a(one)} with a list that has none")
    return any(_same(one, each) for each in many)


def _differs(asked: Comparison, found: JsonValue, compared: str) -> DataError:
    return DataError(f"'{asked.field}' is {_a(found)}, and the operator {asked.operator} compares {compared}")


def _a(value: JsonValue) -> str:
    kind = kind_of(value)
    return kind if kind == "null" else f"{'an' if kind == 'object' else 'a'} {kind}"


def _same(one: JsonValue, other: JsonValue) -> bool:
    """Whether two JSON values are the same; true is not 1."""
    if kind_of(one) != kind_of(other):
        return False
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(part, other[name]) for name, part in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other
