"""Timer functions on a clock that the test moves; the functions are called as the host calls them."""

import asyncio
import json
import logging
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import azure.functions as func
import pytest

from local_host.errors import HostError
from local_host.functions import Function, function_of
from local_host.invocation import Invoker
from local_host.task_hub.clock import ManualClock, SystemClock
from local_host.testing import running_app
from local_host.timer_trigger import LONGEST_STATUS, TimerTriggers
from tests.hosting import host_process
from tests.polling import until

APP = Path(__file__).parent / "apps" / "timers"
NO_TIME = "0001-01-01T00:00:00+00:00"
HOURLY = "0 0 * * * *"


class Recorder:
    """A timer function that notes when it ran, and what it was given."""

    def __init__(self, clock: ManualClock, fails: int = 0) -> None:
        self.clock = clock
        self.fails = fails
        self.times: list[str] = []
        self.past_due: list[bool] = []
        self.statuses: list[Any] = []
        self.retries: list[tuple[int, int]] = []

    def __call__(self, timer: Any, context: func.Context) -> None:
        self.times.append(shown(self.clock.now()))
        self.past_due.append(timer.past_due)
        self.statuses.append(timer.schedule_status)
        retry = context.retry_context
        self.retries.append((retry.retry_count, retry.max_retry_count))
        if len(self.times) <= self.fails:
            raise ValueError("a failure")


class Held:
    """An async timer function that runs until it is let go, and counts how often it does so at once."""

    def __init__(self) -> None:
        self.began = 0
        self.ended = 0
        self.at_once = 0
        self.past_due: list[bool] = []
        self.go = asyncio.Event()

    async def __call__(self, timer: func.TimerRequest, context: func.Context) -> None:
        self.began += 1
        self.at_once = max(self.at_once, self.began - self.ended)
        self.past_due.append(timer.past_due)
        try:
            await self.go.wait()
        finally:
            self.ended += 1


def function(
    body: Callable[..., Any], schedule: str = HOURLY, *, name: str = "tick", retry: Any = None, **trigger: Any
) -> Function:
    """Register a timer function as an app does."""
    app = func.FunctionApp()

    def called(timer: func.TimerRequest, context: func.Context) -> None:
        body(timer, context)

    async def awaited(timer: func.TimerRequest, context: func.Context) -> None:
        await body(timer, context)

    registered: Any = awaited if isinstance(body, Held) else called
    registered = app.timer_trigger(arg_name="timer", schedule=schedule, **trigger)(registered)
    if retry is not None:
        registered = app.retry(**retry)(registered)
    app.function_name(name)(registered)
    found = function_of(app.get_functions()[0])
    assert isinstance(found, Function)
    return found


def shown(time: int) -> str:
    """A time as day and time of day."""
    return (datetime(1970, 1, 1) + timedelta(microseconds=time)).strftime("%d %H:%M:%S")  # noqa: DTZ001


def clock_at(text: str) -> ManualClock:
    """A clock that stands still on a day of January 2026."""
    return ManualClock(datetime.fromisoformat(f"2026-01-{text}+00:00"))


def set_to(clock: ManualClock, text: str) -> None:
    """Set a clock, without anything in between."""
    clock.set(clock_at(text).now())


@asynccontextmanager
async def running(
    folder: Path, clock: ManualClock | SystemClock, *functions: Function, environment: dict[str, str] | None = None
) -> AsyncIterator[TimerTriggers]:
    """Keep the schedules of functions, which are called by the host's own invoker."""
    invoker = Invoker("")
    timers = TimerTriggers(functions, invoker.invoke, folder / "timers", clock, environment or {})
    try:
        timers.start()
        yield timers
    finally:
        await asyncio.wait_for(timers.stop(), 20)
        invoker.close()


async def settled(timers: TimerTriggers) -> None:
    """Wait until nothing runs."""
    async with asyncio.timeout(20):
        while not timers.idle:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def advance(timers: TimerTriggers, clock: ManualClock, text: str) -> None:
    """Move the clock from run to run, as the task hub does it for its own timers."""
    target = clock_at(text).now()
    await settled(timers)
    while timers.earliest is not None and timers.earliest <= target:
        clock.set(max(timers.earliest, clock.now()))
        await settled(timers)
    clock.set(max(target, clock.now()))
    await settled(timers)


async def began(held: Held, times: int) -> None:
    """Wait until a function was called so often."""
    async with asyncio.timeout(20):
        while held.began < times:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def noted(ran: Recorder, times: int) -> None:
    """Wait until a function noted so many runs."""
    async with asyncio.timeout(20):
        while len(ran.times) < times:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def status_of(folder: Path, name: str = "tick") -> Any:
    """What the host keeps of a function."""
    return json.loads((folder / "timers" / f"{name}.json").read_text())


def keep(folder: Path, last: str, due: str, updated: str) -> Path:
    """Write a status as an earlier host left it."""
    file = folder / "timers" / "tick.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"Last": last, "Next": due, "LastUpdated": updated}))
    return file


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a test on an event loop."""
    asyncio.run(work)


# --- Running on time ---


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("0 */20 * * * *", ["01 00:20:00", "01 00:40:00", "01 01:00:00"]),
        ("*/20 * * * *", ["01 00:20:00", "01 00:40:00", "01 01:00:00"]),
        ("00:25:00", ["01 00:25:00", "01 00:50:00"]),
        ("%EVERY%", ["01 00:30:00", "01 01:00:00"]),
        ("0 0 2 * * *", ["01 01:00:00"]),  # by the clocks of Vienna
    ],
)
def test_it_runs_whenever_it_is_due(tmp_path: Path, schedule: str, expected: list[str]) -> None:
    async def test() -> None:
        clock = clock_at("01 00:00:00")
        ran = Recorder(clock)
        environment = {"EVERY": "0 */30 * * * *", "WEBSITE_TIME_ZONE": "Europe/Vienna"}
        async with running(tmp_path, clock, function(ran, schedule), environment=environment) as timers:
            await advance(timers, clock, "01 01:10:00")
        assert ran.times == expected
        assert ran.past_due == [False] * len(expected)

    run(test())


def test_it_runs_on_the_clock_of_the_machine(tmp_path: Path) -> None:
    async def test() -> None:
        ran = Recorder(ManualClock())
        async with running(tmp_path, SystemClock(), function(ran, "00:00:00.02")):
            await noted(ran, 3)

    run(test())


def test_what_a_function_is_told(tmp_path: Path) -> None:
    async def test() -> None:
        clock = clock_at("01 00:30:00")
        ran = Recorder(clock)
        environment = {"WEBSITE_TIME_ZONE": "America/New_York"}
        async with running(tmp_path, clock, function(ran), environment=environment) as timers:
            assert status_of(tmp_path) == {
                "Last": NO_TIME,
                "Next": "2025-12-31T20:00:00-05:00",
                "LastUpdated": "2025-12-31T19:30:00-05:00",
            }
            await advance(timers, clock, "01 02:00:00")
        assert ran.statuses[0] == {"Last": NO_TIME, "Next": "2025-12-31T20:00:00-05:00", "LastUpdated": NO_TIME}
        assert ran.statuses[1] == {
            "Last": "2025-12-31T20:00:00-05:00",
            "Next": "2025-12-31T21:00:00-05:00",
            "LastUpdated": "2025-12-31T20:00:00-05:00",
        }
        assert status_of(tmp_path)["Next"] == "2025-12-31T22:00:00-05:00"

    run(test())


@pytest.mark.parametrize(("schedule", "adjusts"), [(HOURLY, True), ("01:00:00", False)])
def test_it_is_told_whether_its_schedule_minds_the_clocks(tmp_path: Path, schedule: str, *, adjusts: bool) -> None:
    async def test() -> None:
        clock, given = clock_at("01 00:30:00"), []
        async with running(
            tmp_path, clock, function(lambda timer, _: given.append(timer.schedule), schedule)
        ) as timers:
            await advance(timers, clock, "01 01:30:00")
        assert given == [{"AdjustForDST": adjusts}]

    run(test())


@pytest.mark.parametrize(
    ("schedule", "trigger"),
    [
        (HOURLY, {"use_monitor": False}),
        ("*/10 * * * * *", {}),
        ("*/10 * * * * *", {"use_monitor": True}),
        ("00:00:30", {"use_monitor": True}),
    ],
)
def test_of_who_is_not_monitored_nothing_is_kept(tmp_path: Path, schedule: str, trigger: Any) -> None:
    async def test() -> None:
        for start, expected in (("01 00:30:00", [False]), ("03 00:30:00", [False])):  # the second one missed many
            clock = clock_at(start)
            ran = Recorder(clock)
            async with running(tmp_path, clock, function(ran, schedule, **trigger)) as timers:
                assert timers.earliest is not None
                await advance(timers, clock, f"0{shown(timers.earliest)[1:]}")
            assert ran.past_due == expected
            assert ran.statuses == [{}]
        assert not (tmp_path / "timers").exists()

    run(test())


def test_each_function_goes_its_own_way(tmp_path: Path) -> None:
    async def test() -> None:
        clock = clock_at("01 00:30:00")
        stuck, ran = Held(), Recorder(clock)
        async with running(
            tmp_path, clock, function(stuck, name="stuck"), function(ran, "0 */10 * * * *", name="goes")
        ) as timers:
            for minute in (40, 50):
                await advance(timers, clock, f"01 00:{minute}:00")
            set_to(clock, "01 01:00:00")
            await began(stuck, 1)
            await noted(ran, 3)
            set_to(clock, "01 01:10:00")
            await noted(ran, 4)
            stuck.go.set()
        assert ran.times == ["01 00:40:00", "01 00:50:00", "01 01:00:00", "01 01:10:00"]
        assert stuck.began == 1

    run(test())


# --- What was missed ---


def test_a_missed_run_is_made_up_for_once(tmp_path: Path) -> None:
    async def test() -> None:
        clock = clock_at("01 00:30:00")
        ran = Recorder(clock)
        async with running(tmp_path, clock, function(ran)) as timers:
            await advance(timers, clock, "01 01:30:00")
        set_to(clock, "02 05:30:00")
        async with running(tmp_path, clock, function(ran)) as timers:
            await advance(timers, clock, "02 06:30:00")
        assert ran.times == ["01 01:00:00", "02 05:30:00", "02 06:00:00"]
        assert ran.past_due == [False, True, False]
        assert ran.statuses[1]["Next"] == "2026-01-01T02:00:00+00:00"

    run(test())


def test_a_first_run_that_was_missed_is_made_up_for(tmp_path: Path) -> None:
    async def test() -> None:
        clock = clock_at("01 00:30:00")
        ran = Recorder(clock)
        for at in ("01 00:30:00", "01 00:45:00", "01 01:00:01"):
            set_to(clock, at)
            async with running(tmp_path, clock, function(ran)) as timers:
                await settled(timers)
        assert ran.times == ["01 01:00:01"]
        assert ran.past_due == [True]

    run(test())


@pytest.mark.parametrize(("at", "expected"), [("01 01:59:59", []), ("01 02:00:00", [False]), ("01 02:00:01", [True])])
def test_what_is_due_at_the_start_is_not_past_due(tmp_path: Path, at: str, expected: list[bool]) -> None:
    async def test() -> None:
        keep(tmp_path, "2026-01-01T01:00:00Z", "2026-01-01T02:00:00.0000000+00:00", "2026-01-01T01:00:00Z")
        clock = clock_at(at)
        ran = Recorder(clock)
        async with running(tmp_path, clock, function(ran)) as timers:
            await settled(timers)
        assert ran.past_due == expected

    run(test())


@pytest.mark.parametrize(("missed", "past_due"), [(False, False), (True, True)])
def test_at_startup_it_runs_once_whether_it_missed_a_run_or_not(
    tmp_path: Path, *, missed: bool, past_due: bool
) -> None:
    async def test() -> None:
        if missed:
            keep(tmp_path, "2026-01-01T01:00:00Z", "2026-01-01T02:00:00Z", "2026-01-01T01:00:00Z")
        clock = clock_at("01 05:30:00")
        ran = Recorder(clock)
        async with running(tmp_path, clock, function(ran, run_on_startup=True)) as timers:
            await advance(timers, clock, "01 06:30:00")
        assert ran.times == ["01 05:30:00", "01 06:00:00"]
        assert ran.past_due == [past_due, False]

    run(test())


@pytest.mark.parametrize(
    ("schedule", "due"),
    [
        ("0 0 */6 * * *", "01 12:00:00"),  # would have been due at 06:00, but nobody knew
        ("0 45 * * * *", "01 08:45:00"),
        ("12:00:00", "01 13:00:00"),  # from the run at 01:00
        ("02:00:00", "01 10:30:00"),  # from now
    ],
)
def test_by_a_new_schedule_nothing_was_missed(tmp_path: Path, schedule: str, due: str) -> None:
    async def test() -> None:
        keep(tmp_path, "2026-01-01T01:00:00Z", "2026-01-01T02:00:00Z", "2026-01-01T01:00:00Z")
        clock = clock_at("01 08:30:00")
        ran = Recorder(clock)
        async with running(tmp_path, clock, function(ran, schedule)) as timers:
            await settled(timers)
            assert ran.times == []
            assert timers.earliest is not None
            assert shown(timers.earliest) == due
            assert status_of(tmp_path)["Last"] == NO_TIME
        set_to(clock, "09 00:00:00")  # and with the new one, what is missed is missed
        async with running(tmp_path, clock, function(ran, schedule)) as timers:
            await settled(timers)
        assert ran.past_due == [True]

    run(test())


def test_another_time_zone_is_a_new_schedule(tmp_path: Path) -> None:
    async def test() -> None:
        clock = clock_at("01 00:30:00")
        ran = Recorder(clock)
        daily = function(ran, "0 0 9 * * *")
        async with running(tmp_path, clock, daily) as timers:
            await advance(timers, clock, "01 09:00:00")
        set_to(clock, "02 08:30:00")
        async with running(tmp_path, clock, daily, environment={"WEBSITE_TIME_ZONE": "Europe/Vienna"}) as timers:
            await advance(timers, clock, "03 08:30:00")
        assert ran.times == ["01 09:00:00", "03 08:00:00"]
        assert ran.past_due == [False, False]

    run(test())


BROKEN = {
    "nothing": b"",
    "cut off": b'{"Last": "2026-01-01T01:0',
    "a list": b"[]",
    "null": b"null",
    "a text": b'"Last"',
    "no field": b"{}",
    "numbers": b'{"Last": 1, "Next": 2, "LastUpdated": 3}',
    "nulls": b'{"Last": null, "Next": null, "LastUpdated": null}',
    "no times": b'{"Last": "soon", "Next": "later", "LastUpdated": ""}',
    "no UTF-8": b'{"Last": "\xff\xfe"}',
    "zeros": bytes(200),
    "too deep": b"[" * LONGEST_STATUS,
    "too long": json.dumps(dict.fromkeys(("Last", "Next", "LastUpdated"), "2026-01-01T01:00:00Z")).encode()[:-1]
    + b" " * LONGEST_STATUS
    + b"}",
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_status_is_as_none(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        keep(tmp_path, "", "", "").write_bytes(content)
        clock = clock_at("01 00:30:00")
        ran = Recorder(clock)
        async with running(tmp_path, clock, function(ran)) as timers:
            assert status_of(tmp_path)["Next"] == "2026-01-01T01:00:00+00:00"
            await advance(timers, clock, "01 01:30:00")
        assert ran.times == ["01 01:00:00"]
        assert ran.past_due == [False]

    run(test())
    warnings = [each for each in caplog.records if each.name == "local_host" and each.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "tick.json cannot be read; tick counts as one that never ran" in warnings[0].getMessage()
    assert warnings[0].exc_info is None


@pytest.mark.parametrize(
    ("last", "due", "updated"),
    [
        (NO_TIME, NO_TIME, NO_TIME),
        ("0001-01-01T00:00:00", "0001-01-01T00:00:00", "0001-01-01T00:00:00"),
        ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", NO_TIME),
        ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59Z", "9999-12-31T23:59:59Z"),
        ("1969-12-31T23:59:59Z", "2026-01-01T01:00:00Z", NO_TIME),
        ("1970-01-01T00:00:01Z", "2030-01-01T01:00:00Z", "1971-01-01T00:00:00Z"),
    ],
)
def test_a_status_that_makes_no_sense_does_no_harm(tmp_path: Path, last: str, due: str, updated: str) -> None:
    async def test() -> None:
        keep(tmp_path, last, due, updated)
        clock = clock_at("01 00:30:00")
        ran = Recorder(clock)
        async with running(tmp_path, clock, function(ran)) as timers:
            await advance(timers, clock, "01 01:30:00")
        assert ran.times == ["01 01:00:00"]
        assert ran.past_due == [False]

    run(test())


@pytest.mark.parametrize("obstacle", ["a folder for the file", "a file for the folder"])
def test_a_status_that_cannot_be_kept_stops_nothing(
    tmp_path: Path, obstacle: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        if obstacle == "a folder for the file":
            (tmp_path / "timers" / "tick.json" / "more").mkdir(parents=True)
        else:
            (tmp_path / "timers").write_text("")
        clock = clock_at("01 00:30:00")
        ran = Recorder(clock)
        async with running(tmp_path, clock, function(ran)) as timers:
            await advance(timers, clock, "01 02:30:00")
        assert ran.times == ["01 01:00:00", "01 02:00:00"]
        assert ran.statuses[1]["Last"] == "2026-01-01T01:00:00+00:00"

    run(test())
    assert "tick.json cannot be written" in caplog.text
    assert "Traceback" not in caplog.text


def test_the_folder_is_its_owners_and_holds_whole_files(tmp_path: Path) -> None:
    async def test() -> None:
        clock = clock_at("01 00:30:00")
        ran = Recorder(clock)
        async with running(tmp_path, clock, function(ran), function(ran, name="Tick-2")) as timers:
            folder = tmp_path / "timers"
            assert folder.stat().st_mode & 0o777 == 0o700
            (folder / "tick.json.new").write_text("left by a host that was killed")
            await advance(timers, clock, "01 01:00:00")

    run(test())
    assert sorted(each.name for each in (tmp_path / "timers").iterdir()) == ["Tick-2.json", "tick.json"]
    assert [each.name for each in tmp_path.iterdir()] == ["timers"]


# --- Failures ---


def exits(*_: Any) -> None:
    """End the process, or try to."""
    raise SystemExit(3)


def cancels(*_: Any) -> None:
    """Raise what a cancelled task raises."""
    raise asyncio.CancelledError


def breaks(timer: Any, _: Any) -> None:
    """Spoil what it was given, and fail."""
    timer.schedule_status.clear()
    raise ValueError("a failure")


@pytest.mark.parametrize("body", [exits, cancels, breaks])
def test_a_failure_does_not_end_the_schedule(tmp_path: Path, body: Callable[..., Any]) -> None:
    async def test() -> None:
        clock, times = clock_at("01 00:30:00"), []

        def fails(timer: func.TimerRequest, context: func.Context) -> None:
            times.append(shown(clock.now()))
            body(timer, context)

        async with running(tmp_path, clock, function(fails)) as timers:
            await advance(timers, clock, "01 03:30:00")
        assert times == ["01 01:00:00", "01 02:00:00", "01 03:00:00"]
        assert status_of(tmp_path)["Last"] == "2026-01-01T03:00:00+00:00"

    run(test())


def test_a_fault_of_the_host_itself_does_not_end_the_schedule(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        clock, times = clock_at("01 00:30:00"), []

        async def invoke(function: Function, given: Any, *, retry: Any) -> None:
            times.append(shown(clock.now()))
            raise KeyError("a fault")

        timers = TimerTriggers([function(exits)], invoke, tmp_path, clock, {})
        timers.start()
        await advance(timers, clock, "01 02:30:00")
        await timers.stop()
        assert times == ["01 01:00:00", "01 02:00:00"]

    run(test())
    assert "tick could not be called" in caplog.text


FIXED = {"strategy": "fixed_delay", "max_retry_count": "2", "delay_interval": "00:00:05"}


@pytest.mark.parametrize(
    ("fails", "times", "retries"),
    [
        (0, ["01 01:00:00", "01 02:00:00"], [(0, 2), (0, 2)]),
        (1, ["01 01:00:00", "01 01:00:05", "01 02:00:00"], [(0, 2), (1, 2), (0, 2)]),
        (2, ["01 01:00:00", "01 01:00:05", "01 01:00:10", "01 02:00:00"], [(0, 2), (1, 2), (2, 2), (0, 2)]),
        (
            9,
            ["01 01:00:00", "01 01:00:05", "01 01:00:10", "01 02:00:00", "01 02:00:05", "01 02:00:10"],
            [(0, 2), (1, 2), (2, 2)] * 2,
        ),
    ],
)
def test_a_failure_is_tried_again(tmp_path: Path, fails: int, times: list[str], retries: list[Any]) -> None:
    async def test() -> None:
        clock = clock_at("01 00:30:00")
        ran = Recorder(clock, fails)
        async with running(tmp_path, clock, function(ran, retry=FIXED)) as timers:
            await advance(timers, clock, "01 02:30:00")
            assert status_of(tmp_path)["Last"] == "2026-01-01T02:00:00+00:00"  # when the first try began
        assert ran.times == times
        assert ran.retries == retries

    run(test())


def test_without_a_policy_nothing_is_tried_again(tmp_path: Path) -> None:
    async def test() -> None:
        clock = clock_at("01 00:30:00")
        ran = Recorder(clock, 5)
        async with running(tmp_path, clock, function(ran)) as timers:
            await advance(timers, clock, "01 01:59:59")
        assert ran.retries == [(0, 0)]

    run(test())


def test_what_is_tried_for_ever_ends_with_the_host_and_is_made_up_for(tmp_path: Path) -> None:
    async def test() -> None:
        clock = clock_at("01 00:30:00")
        ran = Recorder(clock, 1000)
        retried = function(ran, retry={**FIXED, "max_retry_count": "-1", "delay_interval": "00:10:00"})
        async with running(tmp_path, clock, retried) as timers:
            await advance(timers, clock, "01 05:05:00")
        assert len(ran.times) == 25
        assert ran.retries[-1] == (24, -1)
        ran.fails = 0
        async with running(tmp_path, clock, retried) as timers:
            await settled(timers)
        assert ran.past_due == [False] * 25 + [True]

    run(test())


def test_a_policy_that_outlasts_the_next_time_delays_it(tmp_path: Path) -> None:
    async def test() -> None:
        clock = clock_at("01 00:30:00")
        ran = Recorder(clock, 3)
        retried = function(ran, retry={**FIXED, "delay_interval": "00:40:00"})
        async with running(tmp_path, clock, retried) as timers:
            await advance(timers, clock, "01 04:00:00")
        assert ran.times == ["01 01:00:00", "01 01:40:00", "01 02:20:00", "01 02:20:00", "01 03:00:00", "01 04:00:00"]
        assert ran.past_due == [False] * 6

    run(test())


@pytest.mark.parametrize(
    ("schedule", "trigger", "reason"),
    [
        ("0 0 25 * * *", {}, "'0 0 25 * * *' is no schedule: the hour '25' is not between 0 and 23"),
        ("%NOWHERE%", {}, "there is no setting 'NOWHERE'"),
        ("", {}, "'' is no schedule"),
        (HOURLY, {"retry": {**FIXED, "delay_interval": "5"}}, "delay_interval of its retry policy is '5'"),
    ],
)
def test_a_function_without_a_schedule_is_told_and_the_others_run(
    tmp_path: Path, schedule: str, trigger: Any, reason: str
) -> None:
    async def test() -> None:
        clock = clock_at("01 00:30:00")
        ran = Recorder(clock)
        async with running(tmp_path, clock, function(ran, schedule, name="bad", **trigger), function(ran)) as timers:
            await advance(timers, clock, "01 01:30:00")
            assert list(timers.not_run) == ["bad"]
            assert reason in timers.not_run["bad"]
            assert {name: str(each) for name, each in timers.schedules.items()} == {"tick": "0 0 * * * * (UTC)"}
            with pytest.raises(KeyError):
                await timers.run_now("bad")
        assert ran.times == ["01 01:00:00"]

    run(test())


def test_an_unknown_time_zone_stops_the_host(tmp_path: Path) -> None:
    async def nobody(function: Function, given: Any, *, retry: Any) -> None:
        """Be called by nobody."""

    with pytest.raises(HostError, match="WEBSITE_TIME_ZONE is 'Mars'"):
        TimerTriggers([], nobody, tmp_path, clock_at("01 00:30:00"), {"WEBSITE_TIME_ZONE": "Mars"})


def test_who_is_never_due_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        clock = clock_at("01 00:30:00")
        ran = Recorder(clock)
        for _ in range(2):
            async with running(tmp_path, clock, function(ran, "0 0 0 30 2 *")) as timers:
                await advance(timers, clock, "31 00:00:00")
        assert ran.times == []

    run(test())
    assert caplog.text.count("tick is never due: no day is as '0 0 0 30 2 *' wants it") == 2


# --- Long runs, and clocks that are set ---


def test_what_becomes_due_while_it_runs_is_made_up_for_by_one_run(tmp_path: Path) -> None:
    async def test() -> None:
        clock = clock_at("01 00:30:00")
        held = Held()
        async with running(tmp_path, clock, function(held)) as timers:
            for at in ("01 01:00:00", "01 02:00:00", "01 03:00:00", "01 03:30:00"):
                set_to(clock, at)
                await began(held, 1)
            assert not timers.idle
            assert timers.earliest is None
            held.go.set()
            await settled(timers)
            assert held.began == 2
            assert status_of(tmp_path)["Last"] == "2026-01-01T03:30:00+00:00"
            await advance(timers, clock, "01 04:30:00")
        assert held.began == 3
        assert held.at_once == 1
        assert held.past_due == [False] * 3

    run(test())


def test_a_clock_that_is_set_forth_makes_it_run_once(tmp_path: Path) -> None:
    async def test() -> None:
        clock = clock_at("01 00:30:00")
        ran = Recorder(clock)
        async with running(tmp_path, clock, function(ran)) as timers:
            set_to(clock, "20 13:10:00")
            await settled(timers)
            await advance(timers, clock, "20 14:10:00")
        assert ran.times == ["20 13:10:00", "20 14:00:00"]

    run(test())


def test_a_clock_that_is_set_back_is_followed(tmp_path: Path) -> None:
    async def test() -> None:
        clock = clock_at("20 00:30:00")
        ran, spanned = Recorder(clock), Recorder(clock)
        functions = function(ran), function(spanned, "02:00:00", name="span")
        async with running(tmp_path, clock, *functions) as timers:
            await advance(timers, clock, "20 01:10:00")
            set_to(clock, "01 00:40:00")
            async with asyncio.timeout(20):
                while timers.earliest is None or timers.earliest > clock_at("02 00:00:00").now():  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
            await advance(timers, clock, "01 02:59:00")
        assert ran.times == ["20 01:00:00", "01 01:00:00", "01 02:00:00"]
        assert spanned.times == ["01 02:40:00"]

    run(test())


def test_a_clock_that_is_put_right_by_a_little_makes_nothing_run_twice(tmp_path: Path) -> None:
    async def test() -> None:
        clock = clock_at("01 00:30:00")
        ran = Recorder(clock)
        async with running(tmp_path, clock, function(ran)) as timers:
            await advance(timers, clock, "01 01:00:00")
            set_to(clock, "01 00:59:58")
            await asyncio.sleep(0.01)
            await advance(timers, clock, "01 01:30:00")
        set_to(clock, "01 00:59:58")
        async with running(tmp_path, clock, function(ran)) as timers:
            await advance(timers, clock, "01 01:30:00")
        assert ran.times == ["01 01:00:00"]

    run(test())


def test_a_status_from_the_future_holds_nobody_up(tmp_path: Path) -> None:
    async def test() -> None:
        keep(tmp_path, "2031-01-01T01:00:00Z", "2031-01-01T02:00:00Z", "2031-01-01T01:00:00Z")
        clock = clock_at("01 00:30:00")
        ran = Recorder(clock)
        async with running(tmp_path, clock, function(ran)) as timers:
            await advance(timers, clock, "01 01:30:00")
        assert ran.times == ["01 01:00:00"]
        assert ran.past_due == [False]

    run(test())


def test_a_clock_that_is_set_back_does_not_hold_up_a_retry(tmp_path: Path) -> None:
    async def test() -> None:
        clock = clock_at("20 00:30:00")
        ran = Recorder(clock, 1)
        async with running(tmp_path, clock, function(ran, retry=FIXED)) as timers:
            await advance(timers, clock, "20 01:00:00")
            set_to(clock, "01 00:30:00")
            await noted(ran, 2)
        assert ran.retries == [(0, 2), (1, 2)]

    run(test())


# --- Stopping ---


def test_stopping_waits_for_what_runs(tmp_path: Path) -> None:
    async def test() -> None:
        clock = clock_at("01 00:30:00")
        held = Held()
        async with running(tmp_path, clock, function(held)) as timers:
            set_to(clock, "01 01:00:00")
            await began(held, 1)
            set_to(clock, "01 02:00:00")
            stopping = asyncio.create_task(timers.stop())
            again = asyncio.create_task(timers.stop())
            await asyncio.sleep(0.01)
            assert not stopping.done()
            held.go.set()
            await asyncio.gather(stopping, again)
        assert (held.began, held.ended) == (1, 1)
        assert status_of(tmp_path)["Last"] == "2026-01-01T01:00:00+00:00"
        assert timers.idle
        assert timers.earliest is None

    run(test())


def test_what_does_not_end_in_time_is_cancelled_and_made_up_for(tmp_path: Path) -> None:
    async def test() -> None:
        clock = clock_at("01 00:30:00")
        held = Held()
        async with running(tmp_path, clock, function(held)) as timers:
            set_to(clock, "01 01:00:00")
            await began(held, 1)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(timers.stop(), 0.01)
            assert timers.idle
        assert held.ended == 1
        assert status_of(tmp_path)["Last"] == NO_TIME
        ran = Recorder(clock)
        set_to(clock, "01 01:00:01")
        async with running(tmp_path, clock, function(ran)) as timers:
            await settled(timers)
        assert ran.past_due == [True]

    run(test())


def test_stopping_does_not_wait_for_a_retry(tmp_path: Path) -> None:
    async def test() -> None:
        clock = clock_at("01 00:30:00")
        let_go = asyncio.Event()
        times = []

        async def invoke(function: Function, given: Any, *, retry: Any) -> None:
            times.append(shown(clock.now()))
            await let_go.wait()
            raise ValueError("a failure")

        timers = TimerTriggers([function(exits, retry=FIXED)], invoke, tmp_path / "timers", clock, {})
        timers.start()
        set_to(clock, "01 01:00:00")
        await asyncio.sleep(0.01)
        stopping = asyncio.create_task(timers.stop())
        await asyncio.sleep(0.01)
        let_go.set()
        await asyncio.wait_for(stopping, 20)
        assert times == ["01 01:00:00"]
        assert status_of(tmp_path)["Last"] == NO_TIME

    run(test())


def test_stopping_before_the_start_and_right_after_it(tmp_path: Path) -> None:
    async def test() -> None:
        clock = clock_at("01 00:30:00")
        ran = Recorder(clock)
        invoker = Invoker("")
        timers = TimerTriggers([function(ran, run_on_startup=True)], invoker.invoke, tmp_path / "timers", clock, {})
        assert timers.idle
        assert timers.earliest is None
        await timers.stop()
        async with running(tmp_path, clock, function(ran, run_on_startup=True)) as timers:
            assert not timers.idle
            assert timers.earliest == clock.now()
        invoker.close()
        assert ran.times == []

    run(test())


# --- Running one by hand ---


def test_a_run_by_hand_stands_beside_the_schedule(tmp_path: Path) -> None:
    async def test() -> None:
        clock = clock_at("01 00:30:00")
        held = Held()
        async with running(tmp_path, clock, function(held)) as timers:
            set_to(clock, "01 01:00:00")
            await began(held, 1)
            before = status_of(tmp_path)
            by_hand = asyncio.gather(timers.run_now("tick"), timers.run_now("tick"))
            await began(held, 3)
            held.go.set()
            await by_hand
            await settled(timers)
            assert before["Last"] == NO_TIME
            assert status_of(tmp_path)["Last"] == "2026-01-01T01:00:00+00:00"
            set_to(clock, "01 01:30:00")
            await timers.run_now("tick")
            assert status_of(tmp_path)["Last"] == "2026-01-01T01:00:00+00:00"
            assert timers.earliest == clock_at("01 02:00:00").now()
        assert held.at_once == 3
        assert held.began == 4

    run(test())


def test_a_run_by_hand_is_told_the_status_and_is_not_tried_again(tmp_path: Path) -> None:
    async def test() -> None:
        keep(tmp_path, "2026-01-01T01:00:00Z", "2026-01-01T02:00:00Z", "2026-01-01T01:00:00Z")
        clock = clock_at("01 01:30:00")
        ran = Recorder(clock, fails=9)
        async with running(tmp_path, clock, function(ran, retry=FIXED)) as timers:
            await timers.run_now("tick")
            await advance(timers, clock, "01 01:50:00")
            with pytest.raises(KeyError):
                await timers.run_now("nobody")
        assert ran.times == ["01 01:30:00"]
        assert ran.past_due == [False]
        assert ran.statuses[0]["Last"] == "2026-01-01T01:00:00+00:00"

    run(test())


def test_a_run_by_hand_counts_as_something_that_runs(tmp_path: Path) -> None:
    async def test() -> None:
        clock = clock_at("01 00:30:00")
        held = Held()
        async with running(tmp_path, clock, function(held)) as timers:
            by_hand = asyncio.create_task(timers.run_now("tick"))
            await began(held, 1)
            assert not timers.idle
            by_hand.cancel()
            await asyncio.wait([by_hand])
            await settled(timers)
        assert held.ended == 1

    run(test())


def test_other_functions_are_left_alone(tmp_path: Path) -> None:
    async def test() -> None:
        app = func.FunctionApp()

        @app.route("hello")
        def hello(req: func.HttpRequest) -> str:
            return "hello"

        found = function_of(app.get_functions()[0])
        assert isinstance(found, Function)
        async with running(tmp_path, clock_at("01 00:30:00"), found) as timers:
            assert timers.schedules == {}
            assert timers.not_run == {}
            assert timers.earliest is None
            assert timers.idle
            with pytest.raises(KeyError):
                await timers.run_now("hello")

    run(test())


# --- In the host ---


def runs_of(data: Path, name: str) -> list[Any]:
    """The runs of a function of the app of timers."""
    file = data / "runs.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [line for line in lines if line["function"] == name]


def test_the_host_runs_timers_among_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTLY", "0 0 2 * * *")
    monkeypatch.delenv("WEBSITE_TIME_ZONE", raising=False)
    with running_app(APP, tmp_path, clock_at("01 00:10:00")) as app:
        app.settle()
        assert len(runs_of(tmp_path, "at_startup")) == 1
        app.advance(timedelta(days=1))
        assert len(runs_of(tmp_path, "nightly")) == 1
        assert len(runs_of(tmp_path, "at_startup")) == 5
        assert [each["retry"] for each in runs_of(tmp_path, "failing")] == [0, 1, 2]
        instances = app.client.get_all_orchestration_states()
        assert len(instances) == 24
        assert {each.runtime_status.name for each in instances} == {"COMPLETED"}


def test_a_host_that_is_killed_owes_the_run_to_the_next_one(tmp_path: Path) -> None:
    timers = tmp_path / "timers"
    timers.mkdir()
    times = {"Last": NO_TIME, "Next": "2025-01-01T00:00:00Z", "LastUpdated": "2024-12-31T23:00:00Z"}
    for name in ("nightly", "hanging"):
        (timers / f"{name}.json").write_text(json.dumps(times))
    (tmp_path / "hang").touch()
    environment = {"NIGHTLY": "0 0 0 1 1 *"}
    with host_process(tmp_path, app_dir=APP, environment=environment) as host:
        until(lambda: runs_of(tmp_path, "hanging") and runs_of(tmp_path, "nightly"))
        host.stop(signal.SIGKILL)
        assert "Traceback" not in host.log.read_text()
    assert [each["past_due"] for each in runs_of(tmp_path, "nightly")] == [True]
    assert json.loads((timers / "hanging.json").read_text())["Next"] == "2025-01-01T00:00:00Z"
    (tmp_path / "hang").unlink()
    with host_process(tmp_path, app_dir=APP, environment=environment) as host:
        until(lambda: len(runs_of(tmp_path, "hanging")) == 3)
        assert [each["past_due"] for each in runs_of(tmp_path, "hanging")] == [True, True, True]
        assert [each.get("returned") for each in runs_of(tmp_path, "hanging")] == [None, None, True]
        with host.client() as client:
            before = len(runs_of(tmp_path, "nightly"))
            assert client.post("/admin/functions/nightly", json={}).status_code == 202
            assert client.post("/admin/functions/impossible", json={}).status_code == 404
            until(lambda: len(runs_of(tmp_path, "nightly")) > before)
        assert runs_of(tmp_path, "nightly")[-1]["past_due"] is False
        assert "impossible" in host.log.read_text()
        assert host.stop() == 0
        assert "Traceback" not in host.log.read_text()
    assert json.loads((timers / "hanging.json").read_text())["Next"] > "2026"
