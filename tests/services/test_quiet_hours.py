"""Quiet hours: the first moment outside, by the clocks of any zone, whenever they change."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.signup import QuietHours
from services.quiet_hours import check_quiet_hours, check_zone, first_outside, quiet_hours
from settings import get_settings

NIGHT = ("21:00", "08:00")
BERLIN, LORD_HOWE = "Europe/Berlin", "Australia/Lord_Howe"


def outside(at: str, start: str, end: str, zone: str) -> str:
    """What ``first_outside`` gives, as texts in UTC."""
    found = first_outside(datetime.fromisoformat(at), QuietHours(start=start, end=end, zone=zone))
    assert found.tzinfo is UTC
    return found.isoformat().replace("+00:00", "Z")


@pytest.mark.parametrize(
    ("at", "quiet", "zone", "found"),
    [
        # In the middle of the day, at each edge, and over midnight
        ("2026-01-10T12:00:00.123456Z", NIGHT, BERLIN, "2026-01-10T12:00:00.123456Z"),
        ("2026-01-10T19:59:59.999999Z", NIGHT, BERLIN, "2026-01-10T19:59:59.999999Z"),
        ("2026-01-10T20:00:00Z", NIGHT, BERLIN, "2026-01-11T07:00:00Z"),
        ("2026-01-10T23:30:00Z", NIGHT, BERLIN, "2026-01-11T07:00:00Z"),
        ("2026-01-11T06:59:59.999999Z", NIGHT, BERLIN, "2026-01-11T07:00:00Z"),
        ("2026-01-11T07:00:00Z", NIGHT, BERLIN, "2026-01-11T07:00:00Z"),
        # In the daytime
        ("2026-01-10T12:00:00Z", ("09:30", "17:15"), BERLIN, "2026-01-10T16:15:00Z"),
        ("2026-01-10T08:29:00Z", ("09:30", "17:15"), BERLIN, "2026-01-10T08:29:00Z"),
        ("2026-01-10T16:15:00Z", ("09:30", "17:15"), BERLIN, "2026-01-10T16:15:00Z"),
        # Almost always; never; until midnight, and from it on
        ("2026-01-10T23:30:00Z", ("12:01", "12:00"), BERLIN, "2026-01-11T11:00:00Z"),
        ("2026-01-10T23:30:00Z", ("03:00", "03:00"), BERLIN, "2026-01-10T23:30:00Z"),
        ("2026-01-10T22:30:00Z", ("22:00", "00:00"), BERLIN, "2026-01-10T23:00:00Z"),
        ("2026-01-10T23:00:00Z", ("00:00", "06:00"), BERLIN, "2026-01-11T05:00:00Z"),
        # Zones far from UTC, and half and quarter hours from it
        ("2026-01-10T12:00:00Z", NIGHT, "Pacific/Kiritimati", "2026-01-10T18:00:00Z"),
        ("2026-01-10T12:00:00Z", NIGHT, "Pacific/Niue", "2026-01-10T19:00:00Z"),
        ("2026-01-10T18:00:00Z", NIGHT, "Asia/Kathmandu", "2026-01-11T02:15:00Z"),
        # The same wall clock in winter and summer
        ("2026-07-10T20:00:00Z", NIGHT, BERLIN, "2026-07-11T06:00:00Z"),
        # The night in which clocks go forward, and that in which they go back
        ("2026-03-28T22:00:00Z", NIGHT, BERLIN, "2026-03-29T06:00:00Z"),
        ("2026-10-24T22:00:00Z", NIGHT, BERLIN, "2026-10-25T07:00:00Z"),
        # An end in the hour that does not come: quiet is over when the clocks have passed it
        ("2026-03-28T22:00:00Z", ("21:00", "02:30"), BERLIN, "2026-03-29T01:00:00Z"),
        ("2026-03-28T22:00:00Z", ("21:00", "02:00"), BERLIN, "2026-03-29T01:00:00Z"),
        ("2026-03-28T22:00:00Z", ("21:00", "03:00"), BERLIN, "2026-03-29T01:00:00Z"),
        # A start in the hour that does not come
        ("2026-03-29T00:59:59Z", ("02:30", "06:00"), BERLIN, "2026-03-29T00:59:59Z"),
        ("2026-03-29T01:00:00Z", ("02:30", "06:00"), BERLIN, "2026-03-29T04:00:00Z"),
        # All of it in the hour that does not come
        ("2026-03-29T00:59:59Z", ("02:10", "02:50"), BERLIN, "2026-03-29T00:59:59Z"),
        ("2026-03-29T01:00:00Z", ("02:10", "02:50"), BERLIN, "2026-03-29T01:00:00Z"),
        # An end that comes twice: it ends at the first, and is quiet again until the second
        ("2026-10-24T22:00:00Z", ("21:00", "02:30"), BERLIN, "2026-10-25T00:30:00Z"),
        ("2026-10-25T00:59:59Z", ("21:00", "02:30"), BERLIN, "2026-10-25T00:59:59Z"),
        ("2026-10-25T01:00:00Z", ("21:00", "02:30"), BERLIN, "2026-10-25T01:30:00Z"),
        # A start that comes twice
        ("2026-10-25T00:30:00Z", ("02:30", "06:00"), BERLIN, "2026-10-25T01:00:00Z"),
        ("2026-10-25T01:30:00Z", ("02:30", "06:00"), BERLIN, "2026-10-25T05:00:00Z"),
        # The time that is not quiet does not come on one day
        ("2026-03-28T12:00:00Z", ("02:31", "02:30"), BERLIN, "2026-03-30T00:30:00Z"),
        # Clocks that change by 30 minutes: forward from 2:00 to 2:30, back from 2:00 to 1:30
        ("2026-10-03T12:00:00Z", ("21:00", "02:15"), LORD_HOWE, "2026-10-03T15:30:00Z"),
        ("2026-04-04T12:00:00Z", ("21:00", "01:45"), LORD_HOWE, "2026-04-04T14:45:00Z"),
        ("2026-04-04T15:00:00Z", ("21:00", "01:45"), LORD_HOWE, "2026-04-04T15:15:00Z"),
        # A day that did not come: 30 December 2011
        ("2011-12-30T09:00:00Z", NIGHT, "Pacific/Apia", "2011-12-30T18:00:00Z"),
        # Clocks that change at midnight
        ("2026-09-06T03:30:00Z", ("23:00", "00:30"), "America/Santiago", "2026-09-06T04:00:00Z"),
    ],
)
def test_the_first_moment_outside(at: str, quiet: tuple[str, str], zone: str, found: str) -> None:
    assert outside(at, *quiet, zone) == found


def test_without_quiet_hours_it_is_the_moment_itself() -> None:
    at = datetime(2026, 1, 10, 23, 30, tzinfo=UTC)
    assert first_outside(at, None) is at


clock_times = st.builds("{:02d}:{:02d}".format, st.integers(0, 23), st.integers(0, 59))
moments = st.datetimes(datetime(1995, 1, 1), datetime(2060, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


def minutes(of_the_day: str) -> int:
    """How many minutes of the day have gone by at a time of it."""
    hour, minute = of_the_day.split(":")
    return int(hour) * 60 + int(minute)


@settings(max_examples=60, deadline=None)
@given(moments, clock_times, clock_times, st.sampled_from(sorted(available_timezones() - {"localtime"})))
def test_it_is_never_quiet_then_nor_earlier_nor_long_after_and_there_was_no_moment_before(
    at: datetime, start: str, end: str, zone: str
) -> None:
    found = first_outside(at, QuietHours(start=start, end=end, zone=zone))

    def is_quiet(moment: datetime) -> bool:
        shown = moment.astimezone(ZoneInfo(zone))
        since = (shown.hour * 60 + shown.minute - minutes(start)) % 1440
        return since < (minutes(end) - minutes(start)) % 1440

    assert not is_quiet(found)
    awake = (minutes(start) - minutes(end)) % 1440
    # What is not quiet may be so short that it does not come on a day on which clocks go forward.
    assert timedelta() <= found - at < timedelta(hours=25 if awake > 180 else 49)
    assert found == at or is_quiet(at)
    assert found == at or is_quiet(found - timedelta(microseconds=1))


@pytest.mark.parametrize(
    "name", ["Europe/Berlin", "UTC", "Etc/GMT+12", "America/Argentina/Buenos_Aires", "Asia/Kathmandu", "GB-Eire"]
)
def test_zones_that_there_are(name: str) -> None:
    check_zone(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "/etc/passwd",
        "/etc/localtime",
        "localtime",
        "Europe",
        "Europe/",
        "Europe//Berlin",
        "Europe/Berlin/x",
        "Europe/../UTC",
        "europe/berlin",
        " UTC",
        "UTC\n",
        "U\0TC",
        "Mars/Phobos",
        "tzdata.zi",
        "zone.tab",
        "right/UTC",
        "posix/UTC",
        "__init__.py",
        "ü",
        "\ud800",
        "x" * 300,
        "x/" * 3000,
    ],
)
def test_names_of_no_zone_are_refused_in_words(name: str) -> None:
    with pytest.raises(ValueError, match=r"^there is no such time zone; they have names such as Europe/Berlin$"):
        check_zone(name)


def test_quiet_hours_of_a_zone_that_there_is_not_are_refused() -> None:
    with pytest.raises(ValueError, match="no such time zone"):
        first_outside(datetime(2026, 1, 1, tzinfo=UTC), QuietHours(start="21:00", end="08:00", zone="right/UTC"))


# What the settings say


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch, data_folder: object) -> Callable[..., None]:
    """Sets settings, by their names in lower case."""

    def sets(**values: Any) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name.upper(), value)
        get_settings.cache_clear()

    return sets


def test_without_any_zone_there_are_no_quiet_hours(configure: Callable[..., None]) -> None:
    assert quiet_hours(None) is None
    check_quiet_hours()
    configure(signup_timezone="")
    assert quiet_hours(None) is None
    check_quiet_hours()


def test_the_zone_that_is_given_comes_before_that_of_the_settings(configure: Callable[..., None]) -> None:
    configure(signup_quiet_hours="20:15-07:45")
    assert quiet_hours("Asia/Tokyo") == QuietHours(start="20:15", end="07:45", zone="Asia/Tokyo")
    configure(signup_timezone=BERLIN)
    assert quiet_hours(None) == QuietHours(start="20:15", end="07:45", zone=BERLIN)
    assert quiet_hours("Asia/Tokyo") == QuietHours(start="20:15", end="07:45", zone="Asia/Tokyo")


def test_a_zone_in_the_settings_that_there_is_not_is_named(configure: Callable[..., None]) -> None:
    configure(signup_timezone=BERLIN)
    check_quiet_hours()
    configure(signup_timezone="Europe/Bonn")
    with pytest.raises(ValueError, match=r"^SIGNUP_TIMEZONE: there is no such time zone"):
        check_quiet_hours()
