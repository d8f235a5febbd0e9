"""When a timer function is due: cron expressions and time spans, as the Functions host understands them.

The grammar of cron expressions is that of the .NET library NCrontab, the changes of the clocks are treated as by
``CronSchedule`` of azure-webjobs-sdk-extensions, and time spans are read as by .NET's ``TimeSpan.Parse``. Times are
microseconds since 1970.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from croniter import croniter

from local_host.errors import HostError
from local_host.task_hub.clock import microseconds
from local_host.values import expand, is_time_span, time_span

ZONE_VARIABLE = "WEBSITE_TIME_ZONE"

_NO_DAY = datetime(9999, 12, 30)  # noqa: DTZ001  # on a wall, in whatever time zone

NEVER = microseconds(_NO_DAY)
"""When a schedule is due that names no day that there is; it can be told in every time zone."""

_SECOND = 1_000_000


@dataclass(frozen=True)
class CronSchedule:
    """A cron expression. ``expression`` lists every value of its six fields; ``text`` is what the app wrote.

    ``is_interval`` says whether it goes on through the hour that clocks repeat when they are set back, rather than
    name a point in time, which comes once on that day.
    """

    text: str
    zone: tzinfo
    expression: str
    is_interval: bool

    adjusts_for_dst = True

    def next(self, now: int) -> int:
        """When it is due for the first time after ``now``."""
        local = moment(now, self.zone)
        wall = local.replace(tzinfo=None, fold=0)
        found = self._after(wall)
        if local.fold and not self.is_interval:
            while self._repeated(found):  # the hour was there before, and the schedule had its turn
                found = self._after(found)
        if self.is_interval and not local.fold and self._repeated(wall) and not self._repeated(found):
            again = self._after(wall - self._repeated(wall))
            while again < found and not self._repeated(again):
                again = self._after(again)
            if again < found:
                return self._instant(again, fold=1)
        return self._instant(found, fold=local.fold if self._repeated(found) else 0)

    def recurs_within_a_minute(self, now: int) -> bool:
        """Whether it is due twice in the minute from ``now``."""
        return self.next(self.next(now)) <= now + 60 * _SECOND

    def __str__(self) -> str:
        return f"{self.text} ({self.zone})"

    def _after(self, wall: datetime) -> datetime:
        """The next match after a time on a clock that is never set."""
        cron = croniter(self.expression, wall, ret_type=datetime, second_at_beginning=True, day_or=False)
        try:
            found: datetime = cron.get_next()
        except ValueError:  # no match in 50 years; even a February 29 on a certain weekday comes within 40
            return _NO_DAY
        return found

    def _repeated(self, wall: datetime) -> timedelta:
        """How far the clocks are set back after they show this time for the first time; naught on most days."""
        first, second = (wall.replace(tzinfo=self.zone, fold=fold).utcoffset() or timedelta() for fold in (0, 1))
        return max(first - second, timedelta())

    def _instant(self, wall: datetime, *, fold: int) -> int:
        """A time on the wall; one that is skipped when the clocks are set forth comes when it would have come."""
        return NEVER if wall == _NO_DAY else microseconds(wall.replace(tzinfo=self.zone, fold=fold))


@dataclass(frozen=True)
class SpanSchedule:
    """A time between one run and the next, in microseconds."""

    text: str
    zone: tzinfo
    span: int

    adjusts_for_dst = False

    def next(self, now: int) -> int:
        """When it is due for the first time after ``now``."""
        return min(now + self.span, NEVER)

    def recurs_within_a_minute(self, now: int) -> bool:  # noqa: ARG002  # as of a cron expression
        """Whether less than a minute passes between two times."""
        return self.span < 60 * _SECOND

    def __str__(self) -> str:
        return f"every {timedelta(microseconds=self.span)}"


type Schedule = CronSchedule | SpanSchedule


def moment(at: int, zone: tzinfo) -> datetime:
    """A time in microseconds as a time of a zone."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at)).astimezone(zone)


def schedule_of(text: str, environment: Mapping[str, str]) -> Schedule:
    """Read a schedule as it stands in the trigger of a timer function.

    ``%NAME%`` stands for a setting in ``environment``, whose ``WEBSITE_TIME_ZONE`` names the time zone. Raises
    ``HostError`` with the reason when it is neither a cron expression nor a time span longer than naught.
    """
    zone = zone_of(environment)
    try:
        resolved = expand(text, environment).strip()
    except ValueError as error:
        raise _no_schedule(text, str(error)) from None
    fields = [field for field in resolved.split(" ") if field]
    if len(fields) not in (5, 6):
        return SpanSchedule(resolved, zone, _span(resolved, text))
    values = [_values(field, kind, text) for field, kind in zip(fields, _FIELDS[-len(fields) :], strict=True)]
    return CronSchedule(
        text=" ".join(fields),
        zone=zone,
        expression=" ".join(",".join(map(str, sorted(each))) for each in ([{0}, *values])[-6:]),
        # As the Functions host tells them apart: it looks for a range in the fields from the hour downwards.
        is_interval=any(value + 1 in each for each in values[:-3] for value in each),
    )


def zone_of(environment: Mapping[str, str]) -> tzinfo:
    """Give the time zone of cron expressions, UTC unless it is set. Raises ``HostError`` when there is no such zone."""
    name = environment.get(ZONE_VARIABLE, "")
    try:
        return ZoneInfo(name or "UTC")
    except (KeyError, ValueError, OSError):
        raise HostError(f"{ZONE_VARIABLE} is '{name}', which is no time zone. Name one as Europe/Vienna.") from None


def _no_schedule(text: str, reason: str) -> HostError:
    # As the app wrote it: a setting that was named by mistake may hold a secret.
    return HostError(f"'{text}' is no schedule: {reason}.")


@dataclass(frozen=True)
class _Field:
    name: str
    least: int
    most: int
    names: tuple[str, ...] = ()


_MONTHS = "january february march april may june july august september october november december"
_DAYS = "sunday monday tuesday wednesday thursday friday saturday"
_FIELDS = (
    _Field("second", 0, 59),
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day", 1, 31),
    _Field("month", 1, 12, tuple(_MONTHS.split())),
    _Field("weekday", 0, 6, tuple(_DAYS.split())),
)
_ITEM = re.compile(r"(?:\*|(?P<first>[0-9a-z]+)(?:-(?P<last>[0-9a-z]+))?)(?:/(?P<step>[0-9]{1,9}))?", re.I | re.A)


def _values(text: str, field: _Field, written: str) -> set[int]:
    """All values that a field of a cron expression stands for."""
    values: set[int] = set()
    for item in text.split(","):
        found = _ITEM.fullmatch(item)
        if found is None:
            raise _no_schedule(written, f"the {field.name} cannot be '{text}'")
        ends = [_value(each, field, written) for each in (found["first"], found["last"]) if each]
        if not ends:
            ends = [field.least, field.most]
        elif len(ends) == 1 and found["step"]:  # from there on
            ends.append(field.most)
        values.update(range(min(ends), max(ends) + 1, max(int(found["step"] or 1), 1)))
    return values


def _value(text: str, field: _Field, written: str) -> int:
    """One value: a number, or as many letters of a name as one likes; the first name that begins so is meant."""
    if text.isdecimal() and len(text) < 10 and field.least <= int(text) <= field.most:
        return int(text)
    for number, name in enumerate(field.names, field.least):
        if name.startswith(text.lower()):
            return number
    raise _no_schedule(written, f"the {field.name} '{text}' is not between {field.least} and {field.most}")


def _span(text: str, written: str) -> int:
    """Read a time span as microseconds, of which there must be some."""
    if not is_time_span(text):
        cron = "a cron expression (second minute hour day month weekday, or the last five of them)"
        raise _no_schedule(written, f"it is neither {cron} nor a time span (hh:mm:ss or d.hh:mm:ss)")
    try:
        span = time_span(text)
    except ValueError as error:
        raise _no_schedule(written, str(error)) from None
    if span <= 0:
        raise _no_schedule(written, "a time span must be longer than naught")
    return span
