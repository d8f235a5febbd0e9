"""The base of all contracts, and the kinds of text and number that they are made of."""

import re
import unicodedata
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any
from urllib.parse import quote

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, StringConstraints

YEAR_IN_HOURS = 365 * 24
"""The longest that anything waits."""
MAX_PEOPLE = 50
"""How many are asked in one thing."""


class Contract(BaseModel):
    """A frozen pydantic model that refuses unknown fields and silent conversions.

    At a durable boundary it travels as plain JSON: ``plain()`` out, ``model_validate`` in. Error messages
    never repeat the input, which may be personal.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    def plain(self) -> dict[str, Any]:
        """Return the plain JSON object that stands for this contract.

        Not named ``to_json``: by that name the Functions codec would take a contract for a custom class, and write
        the name of the class into the history.
        """
        return self.model_dump(mode="json")


def _in_an_address(value: str) -> str:
    if value in (".", ".."):  # whatever sends a path leaves them out of it
        raise ValueError("an id is not one or two dots")
    return value


InstanceId = Annotated[
    str,
    StringConstraints(min_length=1, max_length=100, pattern=r"\A[A-Za-z0-9_.:-]+\z"),
    AfterValidator(_in_an_address),
    Field(description="1 to 100 letters, digits and - _ . :"),
]

Line = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=200, pattern=r"\A[^\x00-\x1f\x7f\u2028\u2029]*\z"
    ),
    Field(description="one line of text"),
]

Name = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=100, pattern=r"\A[^\x00-\x1f\x7f\u2028\u2029]*\z"
    ),
    Field(description="the name of a person or a thing, in one line"),
]

Comment = Annotated[
    str,
    StringConstraints(strip_whitespace=True, max_length=4000, pattern=r"\A[^\x00]*\z"),
    Field(description="free text of up to 4,000 characters"),
]

DecisionId = Annotated[
    str,
    StringConstraints(min_length=1, max_length=128, pattern=r"\A[\x21-\x7e]+\z"),
    Field(description="1 to 128 printable ASCII characters without spaces"),
]

Address = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=3, max_length=254, pattern=r"\A[^\s@\x00-\x1f\x7f]+@[^\s@\x00-\x1f\x7f]+\z"
    ),
    Field(description="one mail address; compared without regard to case"),
]

HoursNumber = Annotated[float, Field(gt=0, le=YEAR_IN_HOURS, allow_inf_nan=False)]


def _hours(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("a duration is a number of hours, or ISO 8601 text such as P3D or PT4H30M")  # noqa: TRY004
    if not isinstance(value, str):
        try:
            return float(value)
        except OverflowError:
            raise ValueError("a duration is at most 365 days") from None
    if not _DURATION.fullmatch(value):
        raise ValueError("a duration in text is ISO 8601: P3D, PT4H30M, P1W; years and months have no fixed length")
    found = {unit: float(number) for number, unit in re.findall(r"([0-9]+(?:\.[0-9]+)?)([WDHMS])", value)}
    return sum(found.get(unit, 0) * hours for unit, hours in _UNITS.items())


_DURATION = re.compile(
    r"P(?=[0-9T])(?:[0-9]{1,4}W)?(?:[0-9]{1,4}D)?"
    r"(?:T(?=[0-9])(?:[0-9]{1,6}H)?(?:[0-9]{1,8}M)?(?:[0-9]{1,9}(?:\.[0-9]{1,3})?S)?)?"
)
_UNITS = {"W": 168.0, "D": 24.0, "H": 1.0, "M": 1 / 60, "S": 1 / 3600}

Hours = Annotated[HoursNumber, BeforeValidator(_hours)]
"""A duration of up to 365 days: a number of hours, or ISO 8601 text. It is kept as the number."""


def _seconds(value: Any) -> float:
    if isinstance(value, str) and not re.fullmatch(r"[+-]?[0-9]{1,20}(?:\.[0-9]{1,20})?", value):
        return round(_hours(value) * 3600, 3)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("a duration is a number of seconds, or ISO 8601 text such as PT30S or PT1H")  # noqa: TRY004
    try:
        return float(value)
    except OverflowError:
        raise ValueError("a duration is at most 365 days") from None


Seconds = Annotated[float, Field(gt=0, le=YEAR_IN_HOURS * 3600, allow_inf_nan=False), BeforeValidator(_seconds)]
"""The same as a number of seconds, also where the number is in a text, as in an address."""

Who = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=254, pattern=r"\A[^\x00-\x1f\x7f\u2028\u2029]*\z"
    ),
    Field(description="a person: a mail address, or a name, in one line"),
]


def is_invisible(letter: str) -> bool:
    """Whether a character is not seen, so that two texts with and without it look the same."""
    return unicodedata.category(letter) == "Cf" or bool(_IGNORED.fullmatch(letter))


_IGNORED = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")


def _plain(value: str) -> str:
    hidden = not value.isascii() and any(map(is_invisible, value))
    if hidden or "=?" in value or _NOT_PLAIN.search(value) or value.endswith("."):
        raise ValueError(
            "a plain mail address has no quotes, brackets, commas, =?, invisible characters, or dot at its end"
        )
    return value


_NOT_PLAIN = re.compile(r"""[<>()\[\],;:\\"]""")

PlainAddress = Annotated[Address, AfterValidator(_plain)]
"""A mail address that is shown as what it is."""


@lru_cache(maxsize=10_000)
def same_person(text: str) -> str:
    """Return the form in which addresses and names are compared: two that give the same are one person.

    Without case, invisible characters, blanks around the ``@``, and the ways in which Unicode, IDNA and DNS write the
    same thing twice.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    visible = " ".join("".join(each for each in folded if not is_invisible(each)).split())
    local, at, domain = visible.rpartition("@")
    local, domain = local.rstrip(), domain.lstrip().rstrip(".")
    try:
        return local + at + domain.encode("idna").decode() if at else visible
    except UnicodeError:
        return visible


def one_line(text: str) -> str:
    """Make one line of any text, such as an instance id can be."""
    return "".join(each if each.isprintable() else "\ufffd" for each in text)[:200].strip() or "-"


def path_to(template: str, instance_id: str) -> str:
    """Return a path of the app with an instance id, which may be any text, in place of ``{}``."""
    return template.format(quote(instance_id, safe=":"))


def as_utc_text(value: datetime) -> str:
    """Return a time as ISO 8601 in UTC with a ``Z``; a naive one (as an orchestrator's clock gives) is UTC."""
    aware = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    return aware.isoformat(timespec="milliseconds").replace("+00:00", "Z")


Timestamp = Annotated[
    datetime,
    Field(strict=False),
    PlainSerializer(as_utc_text, return_type=str, when_used="json"),
]
"""A time; in JSON it is text in UTC."""
