"""Quiet hours: the time of the day in which nobody is reminded, by the clocks of a time zone."""

from datetime import datetime, time, timedelta
from functools import lru_cache
from importlib import resources
from zoneinfo import ZoneInfo

from contracts.signup import QuietHours
from settings import get_settings

MINUTE = timedelta(minutes=1)


def first_outside(at: datetime, quiet: QuietHours | None) -> datetime:
    """Return ``at`` where it is not in quiet hours, else the first moment after it that is not; both are UTC.

    It is what the clocks of the zone show that counts: an hour that comes twice is quiet twice, and what falls into an
    hour that does not come is passed over. Raises ``ValueError`` when there is no such zone.
    """
    if quiet is None or quiet.start == quiet.end:
        return at
    check_zone(quiet.zone)
    zone, start, end = ZoneInfo(quiet.zone), time.fromisoformat(quiet.start), time.fromisoformat(quiet.end)

    def is_quiet(moment: datetime) -> bool:
        shown = moment.astimezone(zone).time()
        return start <= shown < end if start < end else shown >= start or shown < end

    # Clocks change at whole minutes, and quiet hours end at one: no way is simpler than to look at each.
    while is_quiet(at):
        at = at.replace(second=0, microsecond=0) + MINUTE
    return at


def quiet_hours(zone: str | None) -> QuietHours | None:
    """Return the quiet hours of the settings in a zone, or in that of the settings; None where there is neither."""
    settings = get_settings()
    name = zone or settings.signup_timezone
    if not name:
        return None
    start, _, end = settings.signup_quiet_hours.partition("-")
    return QuietHours(start=start, end=end, zone=name)


def check_zone(name: str) -> None:
    """Raise ``ValueError``, in words for people, when there is no time zone of this name."""
    if name not in _zones():
        raise ValueError("there is no such time zone; they have names such as Europe/Berlin")


def check_quiet_hours() -> None:
    """Raise ``ValueError`` when ``SIGNUP_TIMEZONE`` is set to what is no time zone."""
    zone = get_settings().signup_timezone
    if zone:
        try:
            check_zone(zone)
        except ValueError as error:
            raise ValueError(f"SIGNUP_TIMEZONE: {error}") from None


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    """The names of all zones. Asked for another one, ``zoneinfo`` would look for a file of that name."""
    return frozenset(resources.files("tzdata").joinpath("zones").read_text().split())
