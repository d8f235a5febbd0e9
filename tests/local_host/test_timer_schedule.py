"""Schedules of timer functions, against dates worked out by hand and against a plain search of the calendar."""

from datetime import UTC, datetime, timedelta
from itertools import product
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local_host.errors import HostError
from local_host.task_hub.clock import microseconds
from local_host.timer_retry import retry_of
from local_host.timer_schedule import NEVER, CronSchedule, moment, schedule_of

SECOND = 1_000_000


def following(text: str, start: str, count: int = 1, zone: str = "UTC") -> list[str]:
    """Give the times that follow ``start``, which is of the zone unless it says otherwise."""
    schedule = schedule_of(text, {"WEBSITE_TIME_ZONE": zone})
    at = datetime.fromisoformat(start)
    time = microseconds(at if at.tzinfo else at.replace(tzinfo=ZoneInfo(zone)))
    found = []
    for _ in range(count):
        time = schedule.next(time)
        found.append(moment(time, ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M:%S%z"))
    return [each.removesuffix("+0000") for each in found]


# 2026-01-01 is a Thursday.
@pytest.mark.parametrize(
    ("text", "start", "expected"),
    [
        ("0 */5 * * * *", "2026-01-01 18:55:00", ["2026-01-01 19:00:00", "2026-01-01 19:05:00"]),
        ("*/5 * * * *", "2026-01-01 18:55:30", ["2026-01-01 19:00:00", "2026-01-01 19:05:00"]),
        ("* * * * * *", "2026-12-31 23:59:59", ["2027-01-01 00:00:00", "2027-01-01 00:00:01"]),
        ("* * * * * *", "2026-01-01 00:00:00.999999", ["2026-01-01 00:00:01", "2026-01-01 00:00:02"]),
        ("0 30 9 * * 1-5", "2026-01-02 09:30:00", ["2026-01-05 09:30:00", "2026-01-06 09:30:00"]),
        ("0 0 0 * * 0", "2026-01-01", ["2026-01-04 00:00:00", "2026-01-11 00:00:00"]),
        # Both the day and the weekday must fit, unlike in Unix' cron: a Friday the 13th.
        ("0 0 0 13 * 5", "2026-01-01", ["2026-02-13 00:00:00", "2026-03-13 00:00:00", "2026-11-13 00:00:00"]),
        ("0 0 0 31 * *", "2026-01-31", ["2026-03-31 00:00:00", "2026-05-31 00:00:00"]),
        ("0 0 12 29 2 *", "2026-01-01", ["2028-02-29 12:00:00", "2032-02-29 12:00:00"]),
        ("0 0 0 29 2 *", "2096-03-01", ["2104-02-29 00:00:00"]),
        ("0 0 0 29 2 6", "2096-03-01", ["2116-02-29 00:00:00"]),
        ("0 0 0 1 Jan,jUL *", "2026-01-01", ["2026-07-01 00:00:00", "2027-01-01 00:00:00"]),
        ("0 0 0 * january MONDAY", "2026-01-01", ["2026-01-05 00:00:00", "2026-01-12 00:00:00"]),
        ("0 0 0 1 j *", "2026-02-01", ["2027-01-01 00:00:00"]),  # the first name that begins so
        ("0 0 0 * * t", "2026-01-01", ["2026-01-06 00:00:00"]),  # Tuesday, not Thursday
        ("0 0 0 * * mon-fri/2", "2026-01-01", ["2026-01-02 00:00:00", "2026-01-05 00:00:00"]),
        ("0 0 5-3 * * *", "2026-01-01 03:00:00", ["2026-01-01 04:00:00", "2026-01-01 05:00:00", "2026-01-02 03:00:00"]),
        ("0 50/4 * * * *", "2026-01-01", ["2026-01-01 00:50:00", "2026-01-01 00:54:00", "2026-01-01 00:58:00"]),
        ("0 10-20/7,3 0 * * *", "2026-01-01", ["2026-01-01 00:03:00", "2026-01-01 00:10:00", "2026-01-01 00:17:00"]),
        ("0 */45 0 * * *", "2026-01-01 00:00:00", ["2026-01-01 00:45:00", "2026-01-02 00:00:00"]),
        ("0 7-7/3 0 * * *", "2026-01-01", ["2026-01-01 00:07:00", "2026-01-02 00:07:00"]),
        ("0 0 */0 * * *", "2026-01-01", ["2026-01-01 01:00:00"]),  # a step of naught is one
        ("0 0 */99 * * *", "2026-01-01", ["2026-01-02 00:00:00"]),
        ("00 005 0 01 * 06", "2026-01-01", ["2026-08-01 00:05:00"]),
        ("  0  0   12 * *    *  ", "2026-01-01", ["2026-01-01 12:00:00"]),
        ("00:00:30", "2026-01-01 00:00:10", ["2026-01-01 00:00:40", "2026-01-01 00:01:10"]),
        ("1.02:03:04", "2026-01-01", ["2026-01-02 02:03:04"]),
        ("23:59:59", "2026-01-01", ["2026-01-01 23:59:59"]),
        ("24:00:00", "2026-01-01", ["2026-01-25 00:00:00"]),
        ("25:02:03", "2026-01-01", ["2026-01-26 02:03:00"]),
        ("1:02:03:04", "2026-01-01", ["2026-01-02 02:03:04"]),
        ("01:30", "2026-01-01", ["2026-01-01 01:30:00"]),
        ("2.01:30", "2026-01-01", ["2026-01-03 01:30:00"]),
        ("7", "2026-01-01", ["2026-01-08 00:00:00"]),
        (" 00:00:01.5 ", "2026-01-01", ["2026-01-01 00:00:01", "2026-01-01 00:00:03"]),
        ("1:2:3.0000019", "2026-01-01", ["2026-01-01 01:02:03"]),
    ],
)
def test_times_that_follow(text: str, start: str, expected: list[str]) -> None:
    assert following(text, start, len(expected)) == expected


NEITHER = r"neither a cron expression .* nor a time span"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", NEITHER),
        ("daily", NEITHER),
        ("@daily", NEITHER),
        ("0 0 * *", NEITHER),
        ("* * * * * * 2026", NEITHER),
        ("0\t0\t0\t*\t*\t*", NEITHER),
        ("60 * * * * *", "the second '60' is not between 0 and 59"),
        ("0 60 * * * *", "the minute '60' is not between 0 and 59"),
        ("0 0 24 * * *", "the hour '24' is not between 0 and 23"),
        ("0 0 0 0 * *", "the day '0' is not between 1 and 31"),
        ("0 0 0 32 * *", "the day '32' is not between 1 and 31"),
        ("0 0 0 * 13 *", "the month '13' is not between 1 and 12"),
        ("0 0 0 * * 7", "the weekday '7' is not between 0 and 6"),
        ("0 0 * * 7", "the weekday '7' is not between 0 and 6"),
        ("0 0 0 * * 5-7", "the weekday '7' is not between 0 and 6"),
        ("0 0 0 * * sundays", "the weekday 'sundays' is not"),
        ("0 0 0 * Mon *", "the month 'Mon' is not"),
        ("mar * * * * *", "the second 'mar' is not"),
        ("0 0 0 L * *", "the day 'L' is not"),
        ("0 0 0 15W * *", "the day '15W' is not"),
        ("0 0 0 * * 5L", "the weekday '5L' is not"),
        ("0 0 0 * * 5#2", "the weekday cannot be '5#2'"),
        ("0 0 0 ? * *", "the day cannot be"),
        ("H * * * * *", "the second 'H' is not"),
        ("0 R(0-5) * * * *", "the minute cannot be"),
        ("0 -5 * * * *", "the minute cannot be"),
        ("0 5- * * * *", "the minute cannot be"),
        ("0 1-2-3 * * * *", "the minute cannot be"),
        ("0 *-5 * * * *", "the minute cannot be"),
        ("0 ,5 * * * *", "the minute cannot be"),
        ("0 5, * * * *", "the minute cannot be"),
        ("0 1,,2 * * * *", "the minute cannot be"),
        ("0 */ * * * *", "the minute cannot be"),
        ("0 /5 * * * *", "the minute cannot be"),
        ("0 */-5 * * * *", "the minute cannot be"),
        ("0 */5/5 * * * *", "the minute cannot be"),
        ("0 */x * * * *", "the minute cannot be"),
        ("0 ** * * * *", "the minute cannot be"),
        ("0 1.5 * * * *", "the minute cannot be"),
        ("0 \u0665 * * * *", "the minute cannot be"),
        ("0 0 0 * * \u017fun", "the weekday cannot be"),  # a long s, which is an s where case is ignored
        ("0 " + "9" * 5000 + " * * * *", "is not between 0 and 59"),
        ("0 */" + "9" * 5000 + " * * * *", "the minute cannot be"),
        ("24:00", "24 hours, where 23 are the most"),
        ("1.24:00:00", "24 hours, where 23 are the most"),
        ("24:24:00", "24 hours, where 23 are the most"),
        ("24:00:00.5", "24 hours, where 23 are the most"),
        ("00:60:00", "60 minutes, where 59 are the most"),
        ("00:00:60", "60 seconds, where 59 are the most"),
        ("10675200", "10675200 days, where 10675199 are the most"),
        ("1.2:3:4:5", "parts that a time span has not"),
        ("01:30.5", "parts that a time span has not"),
        ("1:2:3:4:5", NEITHER),
        ("1.5", NEITHER),
        ("00:00:00.12345678", NEITHER),
        ("00 :00:30", NEITHER),
        ("\u0660\u0660:\u0660\u0660:\u0663\u0660", NEITHER),
        ("00:00:00", "longer than naught"),
        ("0", "longer than naught"),
        ("00:00:00.0000009", "longer than naught"),
        ("-00:00:30", "longer than naught"),
        ("%MISSING%", "there is no setting 'MISSING'"),
        ("%EMPTY%", "there is no setting 'EMPTY'"),
        ("0 %", "a '%' in it has no other"),
        ("%%", "a '%' in it has no other"),
        ("%HOURLY", "a '%' in it has no other"),
    ],
)
def test_what_is_no_schedule_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(HostError, match=reason) as refused:
        schedule_of(text, {"EMPTY": "", "HOURLY": "0 0 * * * *"})
    assert str(refused.value).startswith(f"'{text}' is no schedule: ")


@pytest.mark.parametrize(
    ("text", "environment"),
    [
        ("%NIGHTLY%", {"NIGHTLY": "0 0 2 * * *"}),
        ("%nightly%", {"Nightly": "0 0 2 * * *"}),
        ("0 0 %HOUR% * * *", {"HOUR": "2"}),
        ("0 %Timers:Minute% %Timers:Hour% * * *", {"TIMERS__HOUR": "2", "Timers__Minute": "0"}),
        ("%SPAN%", {"SPAN": "02:00:00"}),
    ],
)
def test_settings_in_a_schedule(text: str, environment: dict[str, str]) -> None:
    assert schedule_of(text, environment).next(0) == 2 * 3600 * SECOND


def test_a_setting_is_put_in_once() -> None:
    with pytest.raises(HostError, match="the hour cannot be '%B%'"):
        schedule_of("0 0 %A% * * *", {"A": "%B%", "B": "2"})


def test_the_value_of_a_setting_that_was_named_by_mistake_is_not_told() -> None:
    with pytest.raises(HostError) as refused:
        schedule_of("%STORAGE%", {"STORAGE": "AccountKey=c2VjcmV0"})
    assert "c2VjcmV0" not in str(refused.value)


@pytest.mark.parametrize("text", ["0 0 0 30 2 *", "0 0 0 31 2,4,6,9,11 *"])
def test_a_day_that_there_is_not_never_comes(text: str) -> None:
    for zone in ("UTC", "Pacific/Kiritimati", "Etc/GMT+12"):
        schedule = schedule_of(text, {"WEBSITE_TIME_ZONE": zone})
        assert schedule.next(0) == NEVER
        assert schedule.next(NEVER) == NEVER
        assert moment(NEVER, schedule.zone).year == 9999


def test_a_time_span_ends_with_the_calendar() -> None:
    schedule = schedule_of("10675199.00:00:00", {})
    assert schedule.next(0) == NEVER
    assert moment(schedule.next(0), schedule.zone).year == 9999


# --- Time zones ---

LOS_ANGELES = "America/Los_Angeles"


@pytest.mark.parametrize(
    ("text", "zone", "start", "expected"),
    [
        ("0 0 9 * * *", "Europe/Vienna", "2026-01-01 00:00", ["2026-01-01 09:00:00+0100"]),
        ("0 0 9 * * *", "Europe/Vienna", "2026-07-01 00:00", ["2026-07-01 09:00:00+0200"]),
        ("0 30 9 * * *", "Asia/Kathmandu", "2026-07-01 00:00", ["2026-07-01 09:30:00+0545"]),
        # The clocks are set forth: what is skipped comes an hour later by the clock, and nothing comes twice.
        (
            "0 30 2 * * *",
            LOS_ANGELES,
            "2018-03-10 03:00",
            ["2018-03-11 03:30:00-0700", "2018-03-12 02:30:00-0700"],
        ),
        (
            "0 */20 * * * *",
            LOS_ANGELES,
            "2018-03-11 01:20",
            ["2018-03-11 01:40:00-0800", "2018-03-11 03:00:00-0700", "2018-03-11 03:20:00-0700"],
        ),
        ("0 30 2 * * *", LOS_ANGELES, "2018-03-11 03:10", ["2018-03-12 02:30:00-0700"]),
        # The clocks are set back: a point in time comes once, the first time ...
        (
            "0 30 1 * * *",
            LOS_ANGELES,
            "2018-11-03 00:30",
            ["2018-11-03 01:30:00-0700", "2018-11-04 01:30:00-0700", "2018-11-05 01:30:00-0800"],
        ),
        (
            "0 0,45 1 * * *",
            LOS_ANGELES,
            "2018-11-04 00:30",
            ["2018-11-04 01:00:00-0700", "2018-11-04 01:45:00-0700", "2018-11-05 01:00:00-0800"],
        ),
        # ... and not when the host starts in the second hour ...
        ("0 30 1 * * *", LOS_ANGELES, "2018-11-04 01:29-08:00", ["2018-11-05 01:30:00-0800"]),
        ("0 30 2 * * *", LOS_ANGELES, "2018-11-04 01:29-08:00", ["2018-11-04 02:30:00-0800"]),
        # ... while what recurs goes on through both hours.
        (
            "0 */30 * * * *",
            LOS_ANGELES,
            "2018-11-04 00:30",
            [
                "2018-11-04 01:00:00-0700",
                "2018-11-04 01:30:00-0700",
                "2018-11-04 01:00:00-0800",
                "2018-11-04 01:30:00-0800",
                "2018-11-04 02:00:00-0800",
            ],
        ),
        (
            "0 59 1,2 * * *",
            LOS_ANGELES,
            "2018-11-04 01:00-07:00",
            ["2018-11-04 01:59:00-0700", "2018-11-04 01:59:00-0800", "2018-11-04 02:59:00-0800"],
        ),
        # What recurs, but not in the hour that is repeated, does not come in it.
        ("0 0-5 3 * * *", LOS_ANGELES, "2018-11-04 01:30-07:00", ["2018-11-04 03:00:00-0800"]),
        # Next year's gap, reckoned from the second of the repeated hours.
        ("0 30 2 10 3 *", LOS_ANGELES, "2018-11-04 01:30-08:00", ["2019-03-10 03:30:00-0700"]),
        # Half an hour is repeated.
        (
            "0 */20 * * * *",
            "Australia/Lord_Howe",
            "2026-04-05 01:20",
            [
                "2026-04-05 01:40:00+1100",
                "2026-04-05 01:40:00+1030",
                "2026-04-05 02:00:00+1030",
            ],
        ),
        # A time span knows no clocks.
        ("01:00:00", LOS_ANGELES, "2018-11-04 01:30-07:00", ["2018-11-04 01:30:00-0800", "2018-11-04 02:30:00-0800"]),
    ],
)
def test_changes_of_the_clocks(text: str, zone: str, start: str, expected: list[str]) -> None:
    assert following(text, start, len(expected), zone) == expected


@pytest.mark.parametrize(
    "zone", ["Nowhere/Land", "Europe", "../etc/localtime", "/etc/localtime", "Europe/Vienna\0", "x" * 5000, "W. Europe"]
)
def test_an_unknown_time_zone_is_refused(zone: str) -> None:
    with pytest.raises(HostError, match=r"WEBSITE_TIME_ZONE .* no time zone"):
        schedule_of("* * * * * *", {"WEBSITE_TIME_ZONE": zone})


def test_no_time_zone_is_utc() -> None:
    assert str(schedule_of("0 0 2 * * *", {"WEBSITE_TIME_ZONE": ""})) == "0 0 2 * * * (UTC)"
    assert str(schedule_of("00:00:30", {})) == "every 0:00:30"


@pytest.mark.parametrize(
    ("text", "within"),
    [
        ("* * * * * *", True),
        ("*/30 * * * * *", True),
        ("0 * * * * *", False),
        ("0,1 * * * * *", True),
        ("0 */5 * * * *", False),
        ("0,30 0 12 * * *", False),  # twice in a minute, though not in the next one
        ("00:00:59.9999999", True),
        ("00:01:00", False),
    ],
)
@pytest.mark.parametrize("start", ["2026-01-01 00:00:00+00:00", "2026-01-01 00:00:00.5+00:00"])
def test_what_recurs_within_a_minute(text: str, start: str, *, within: bool) -> None:
    now = microseconds(datetime.fromisoformat(start))
    assert schedule_of(text, {}).recurs_within_a_minute(now) is within


# --- Against a search of the calendar ---

LIMITS = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6))


@st.composite
def fields(draw: st.DrawFn, least: int, most: int) -> tuple[str, set[int]]:
    """A field of a cron expression, and the values it means."""
    number = st.integers(least, most)
    texts, values = [], set()
    for kind in draw(st.lists(st.sampled_from(["all", "one", "range", "open"]), min_size=1, max_size=3)):
        first, last, step = draw(number), draw(number), draw(st.integers(1, 20))
        stepped = draw(st.booleans())
        if kind == "all":
            text, low, high = "*", least, most
        elif kind == "one" or (kind == "open" and not stepped):
            text, low, high, stepped = f"{first}", first, first, False
        elif kind == "range":
            text, low, high = f"{first}-{last}", min(first, last), max(first, last)
        else:
            text, low, high = f"{first}", first, most
        texts.append(f"{text}/{step}" if stepped else text)
        values |= {value for value in range(low, high + 1) if not stepped or (value - low) % step == 0}
    return ",".join(texts), values


def searched(values: list[set[int]], after: datetime) -> datetime | None:
    """The first match after a time, from a walk through the days of three years."""
    seconds, minutes, hours, days, months, weekdays = values
    for distance in range(3 * 366):
        day = (after + timedelta(days=distance)).date()
        if day.day not in days or day.month not in months or day.isoweekday() % 7 not in weekdays:
            continue
        for hour, minute, second in product(sorted(hours), sorted(minutes), sorted(seconds)):
            found = datetime(day.year, day.month, day.day, hour, minute, second, tzinfo=UTC)
            if found > after:
                return found
    return None


@given(
    st.tuples(*(fields(*limits) for limits in LIMITS)),
    st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1)),  # noqa: DTZ001  # given their zone below
)
@settings(deadline=None)
def test_the_next_time_is_the_first_that_matches(parts: tuple[tuple[str, set[int]], ...], naive: datetime) -> None:
    after = naive.replace(tzinfo=UTC)
    schedule = schedule_of(" ".join(text for text, _ in parts), {})
    time = schedule.next(microseconds(after))
    assert time > microseconds(after)
    expected = searched([values for _, values in parts], after)
    if expected is not None:
        assert moment(time, UTC) == expected
    else:
        assert moment(time, UTC) > after + timedelta(days=3 * 365)


# When the clocks of a zone change, in UTC.
CHANGES = [
    ("America/Los_Angeles", "2018-03-11 10:00"),
    ("America/Los_Angeles", "2018-11-04 09:00"),
    ("Europe/Vienna", "2026-03-29 01:00"),
    ("Europe/Vienna", "2026-10-25 01:00"),
    ("Australia/Lord_Howe", "2026-04-04 15:00"),
    ("Australia/Lord_Howe", "2026-10-03 15:30"),
    ("America/Havana", "2026-03-08 05:00"),  # at midnight
    ("America/Havana", "2026-11-01 05:00"),  # to midnight
]


@given(st.sampled_from(CHANGES), fields(0, 59), fields(0, 23), st.integers(-180, 180))
@settings(deadline=None, max_examples=50)
def test_each_minute_that_matches_comes_once_when_clocks_change(
    change: tuple[str, str], minute: tuple[str, set[int]], hour: tuple[str, set[int]], distance: int
) -> None:
    zone, changed = ZoneInfo(change[0]), datetime.fromisoformat(f"{change[1]}+00:00")
    schedule = schedule_of(f"0 {minute[0]} {hour[0]} * * *", {"WEBSITE_TIME_ZONE": change[0]})
    assert isinstance(schedule, CronSchedule)
    start = changed + timedelta(minutes=distance)
    end = start + timedelta(minutes=240)
    expected = []
    for minutes in range(1, 240):
        local = (start + timedelta(minutes=minutes)).astimezone(zone)
        if local.minute in minute[1] and local.hour in hour[1] and (schedule.is_interval or not local.fold):
            expected.append(local.astimezone(UTC))
    found = []
    time = schedule.next(microseconds(start))
    while time < microseconds(end):
        found.append(moment(time, UTC))
        time = schedule.next(time)
    gap = gap_of(zone, changed)
    assert [each for each in found if each not in gap] == [each for each in expected if each not in gap]
    in_gap = [each for each in found if each in gap]
    skipped = [
        each for each in gap if start < changed and shown_instead(each, gap, zone) in product(hour[1], minute[1])
    ]
    assert set(in_gap) <= {*expected, *skipped}
    assert bool(in_gap) == bool({*expected, *skipped} & set(gap))


def gap_of(zone: ZoneInfo, changed: datetime) -> list[datetime]:
    """The minutes after a change of the clocks at which clocks that were left alone show what was skipped."""
    before = (changed - timedelta(minutes=1)).astimezone(zone).utcoffset() or timedelta()
    after = changed.astimezone(zone).utcoffset() or timedelta()
    return [changed + timedelta(minutes=each) for each in range((after - before) // timedelta(minutes=1))]


def shown_instead(at: datetime, gap: list[datetime], zone: ZoneInfo) -> tuple[int, int]:
    """The hour and minute on a clock that was left alone."""
    wall = at.astimezone(zone) - timedelta(minutes=len(gap))
    return wall.hour, wall.minute


# --- Retries ---


def test_the_delay_grows_up_to_its_limit() -> None:
    policy = {"strategy": "exponential_backoff", "max_retry_count": "6"}
    retry = retry_of({**policy, "minimum_interval": "00:00:10", "maximum_interval": "00:01:00"})
    delays = [delay / SECOND for delay in retry.delays()]
    assert len(delays) == 6
    assert delays[0] == 10
    for delay, doubling in zip(delays[1:4], (1, 2, 4), strict=True):
        assert 10 + 8 * doubling <= delay <= 10 + 12 * doubling
    assert delays[4:] == [60, 60]


def test_the_delay_stays_at_its_limit_for_ever() -> None:
    delays = retry_of(
        {"strategy": "exponential_backoff", "max_retry_count": "-1", "minimum_interval": "0:0:1"}
    ).delays()
    for _ in range(5000):
        last = next(delays)
    assert last / SECOND == 2_147_483_647


def test_a_fixed_delay() -> None:
    retry = retry_of({"strategy": "fixed_delay", "max_retry_count": "3", "delay_interval": "01:02:03"})
    assert list(retry.delays()) == [3723 * SECOND] * 3


def test_no_retry() -> None:
    assert list(retry_of({}).delays()) == []
    assert list(retry_of({"strategy": "fixed_delay", "max_retry_count": 0, "delay_interval": "0:0:5"}).delays()) == []


FIXED = {"strategy": "fixed_delay", "max_retry_count": "3", "delay_interval": "00:00:05"}
GROWING = {"strategy": "exponential_backoff", "max_retry_count": "3"}


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ({**FIXED, "strategy": "fixedDelay"}, "strategy of its retry policy is 'fixedDelay'"),
        ({**FIXED, "strategy": None}, "strategy"),
        ({**FIXED, "max_retry_count": "-2"}, "max_retry_count of its retry policy is '-2'"),
        ({**FIXED, "max_retry_count": "many"}, "max_retry_count"),
        ({**FIXED, "max_retry_count": "1.5"}, "max_retry_count"),
        ({**FIXED, "max_retry_count": "9" * 5000}, "max_retry_count"),
        ({"strategy": "fixed_delay", "delay_interval": "00:00:05"}, "max_retry_count"),
        ({**FIXED, "delay_interval": "5"}, "delay_interval of its retry policy is '5'"),
        ({**FIXED, "delay_interval": "24:00:00"}, "delay_interval"),
        ({**FIXED, "delay_interval": "-00:00:05"}, "delay_interval"),
        ({"strategy": "fixed_delay", "max_retry_count": "1"}, "delay_interval"),
        ({**GROWING, "minimum_interval": "x"}, "minimum_interval"),
        ({**GROWING, "maximum_interval": "1.00:00:00"}, "maximum_interval"),
        ({**GROWING, "minimum_interval": "00:00:05", "maximum_interval": "00:00:04"}, "longer than the maximum"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(policy: dict[str, str], reason: str) -> None:
    with pytest.raises(HostError, match=reason):
        retry_of(policy)
