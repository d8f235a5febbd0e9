"""Timer triggers: functions that run when their schedule is due, as ``TimerListener`` of the Functions host runs them.

What a monitored function did last is kept in a file, so that a run that was missed while the host was down is made up
for at the next start (``ScheduleMonitor`` of azure-webjobs-sdk-extensions). Times are microseconds since 1970.
"""

import asyncio
import json
import logging
import os
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, Protocol

from azure.functions.meta import Datum
from azure.functions.timer import TimerRequest, TimerRequestConverter

from local_host.errors import HostError
from local_host.functions import TIMER_TRIGGER, Function
from local_host.invocation import InvocationError, RetryContext
from local_host.task_hub.clock import Clock, microseconds
from local_host.timer_retry import Retry, retry_of
from local_host.timer_schedule import NEVER, Schedule, moment, schedule_of, zone_of

SET_BACK = 60_000_000
"""Microseconds that a clock has to lose for what is due to be planned anew; at less, a run would only come twice."""

LONGEST_STATUS = 4096
"""Bytes of a status file; the host's own are shorter by far."""

_STATUS = ("Last", "Next", "LastUpdated")
_NO_TIME = "0001-01-01T00:00:00+00:00"
_LOGGER = logging.getLogger("local_host")


class Invoke(Protocol):
    """Calls a function with its trigger's input. Raises ``InvocationError``, after it was logged, when it failed."""

    def __call__(self, function: Function, given: Any, *, retry: RetryContext) -> Awaitable[Any]:
        """Call it."""
        ...


class TimerTriggers:
    """Runs the timer functions among ``functions``, each once at a time.

    ``folder`` keeps the status files. ``not_run`` says, by the name of the function, why it has no schedule. Raises
    ``HostError`` when ``environment`` names a time zone that there is not.
    """

    def __init__(
        self,
        functions: Iterable[Function],
        invoke: Invoke,
        folder: Path,
        clock: Clock,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._invoke = invoke
        self._clock = clock
        self._timers: dict[str, _Timer] = {}
        self._work: set[asyncio.Task[None]] = set()
        self._running = 0
        self._stopping = False
        self.not_run: dict[str, str] = {}
        zone_of(environment)
        for function in functions:
            if function.trigger_type == TIMER_TRIGGER:
                try:
                    self._timers[function.name] = _timer_of(function, folder, clock.now(), environment)
                except HostError as error:
                    self.not_run[function.name] = str(error)

    @property
    def schedules(self) -> dict[str, Schedule]:
        """The schedules of the functions, by name."""
        return {name: timer.schedule for name, timer in self._timers.items()}

    @property
    def earliest(self) -> int | None:
        """When the next function is due, or to be tried again; None when none waits."""
        return min((timer.due for timer in self._timers.values() if timer.due is not None), default=None)

    @property
    def idle(self) -> bool:
        """Whether nothing runs, nor will until the clock moves."""
        earliest = self.earliest
        return not self._running and (earliest is None or earliest > self._clock.now())

    def start(self) -> None:
        """Begin to keep the schedules, on the running event loop."""
        for timer in self._timers.values():
            due, past_due = timer.begin(self._clock.now())
            timer.due = due
            timer.task = asyncio.create_task(self._keep(timer, due, past_due=past_due))
            self._work.add(timer.task)
            timer.task.add_done_callback(self._work.discard)

    def retire(self) -> None:
        """Begin nothing more by a schedule; what runs goes on."""
        self._stopping = True
        for timer in self._timers.values():
            if timer.task is not None and timer.due is not None:
                timer.task.cancel()
            timer.due = None

    async def stop(self) -> None:
        """Begin nothing more, and wait for what runs by its schedule; it is cancelled when this is.

        A run that is cancelled, or that waits to be tried again, counts as missed.
        """
        self.retire()
        try:
            while self._work:
                await asyncio.wait(self._work)
        finally:
            for task in self._work:  # there is none, unless this was cancelled
                task.cancel()
            await asyncio.gather(*self._work, return_exceptions=True)

    async def run_now(self, name: str) -> None:
        """Run a function beside its schedule, once, whether it fails or not. Raises ``KeyError`` for an unknown one."""
        timer = self._timers[name]
        await self._succeeds(timer, timer.request(past_due=False), RetryContext())

    async def _keep(self, timer: "_Timer", due: int, *, past_due: bool) -> None:
        """Keep the schedule of one function. What becomes due while it runs is made up for by one run after it."""
        while not self._stopping:
            if not await self._has_come(timer, due):
                due = timer.plan(self._clock.now())
                continue
            began = self._clock.now()
            if await self._is_over(timer, timer.request(past_due=past_due)):
                due = timer.ran(began)
            past_due = False

    async def _has_come(self, timer: "_Timer", due: int) -> bool:
        """Wait until it is due; no longer when the clock is set back."""
        timer.due, began = due, self._clock.now()
        while began - SET_BACK <= (now := self._clock.now()) < due:
            await self._clock.sleep_until(due)
        timer.due = None
        return now >= due

    async def _is_over(self, timer: "_Timer", request: str) -> bool:
        """Run a function, and again after each failure as its retry policy says, unless the host is to stop."""
        most = timer.retry.most
        for count, delay in enumerate(timer.retry.delays()):
            if await self._succeeds(timer, request, RetryContext(count, most)):
                return True
            if self._stopping:
                return False
            _LOGGER.info("%s is tried again in %s", timer.function.name, timedelta(microseconds=delay))
            await self._has_come(timer, self._clock.now() + delay)
        await self._succeeds(timer, request, RetryContext(most, most))
        return True

    async def _succeeds(self, timer: "_Timer", request: str, retry: RetryContext) -> bool:
        given: TimerRequest = TimerRequestConverter.decode(Datum(type="json", value=request), trigger_metadata={})
        self._running += 1
        try:
            await self._invoke(timer.function, given, retry=retry)
        except InvocationError:
            return False
        except Exception:  # whatever it is, the schedule goes on
            _LOGGER.exception("%s could not be called", timer.function.name)
            return False
        finally:
            self._running -= 1
        return True


@dataclass(frozen=True)
class _Status:
    """When a function ran last, when it is due next, and from when that was reckoned; None for never."""

    last: int | None
    next: int
    updated: int | None

    def shown(self, zone: tzinfo) -> dict[str, str]:
        """Give it as the Functions host writes it, for functions and in the file."""
        times = zip(_STATUS, (self.last, self.next, self.updated), strict=True)
        return {name: _NO_TIME if at is None else moment(at, zone).isoformat() for name, at in times}


@dataclass
class _Timer:
    """A timer function: what the app said of it, and what became of it.

    ``due`` is what it waits for, None while it runs. ``file`` keeps the status, None when nobody wants it kept.
    """

    function: Function
    schedule: Schedule
    on_startup: bool
    retry: Retry
    file: Path | None
    due: int | None = None
    task: asyncio.Task[None] | None = None
    status: _Status = _Status(None, NEVER, None)

    def begin(self, now: int) -> tuple[int, bool]:
        """Say when it is due at first, and whether it missed a run since the host was up last."""
        self.plan(now)
        kept = None if self.file is None else self._read(self.file)
        if kept is not None:
            self.status = self._checked(kept, now)
        else:
            self._write(replace(self.status, updated=now))
        due = self.status.next
        if due == NEVER:
            _LOGGER.warning("%s is never due: no day is as '%s' wants it", self.function.name, self.schedule.text)
        past_due = now > due
        if past_due:
            _LOGGER.info("%s is past due since %s", self.function.name, moment(due, self.schedule.zone))
        return (now if past_due or self.on_startup else due), past_due

    def plan(self, now: int) -> int:
        """Reckon anew when it is due, and say so."""
        self.status = replace(self.status, next=self.schedule.next(now))
        return self.status.next

    def ran(self, began: int) -> int:
        """Note that it ran, and say when it is due next."""
        self.status = _Status(began, self.schedule.next(began), began)
        self._write(self.status)
        return self.status.next

    def request(self, *, past_due: bool) -> str:
        """Give the input of a run as JSON, as the Functions host sends it to a worker."""
        status = None if self.file is None else self.status.shown(self.schedule.zone)
        schedule = {"AdjustForDST": self.schedule.adjusts_for_dst}
        return json.dumps({"Schedule": schedule, "ScheduleStatus": status, "IsPastDue": past_due})

    def _checked(self, kept: _Status, now: int) -> _Status:
        """Hold what was kept against the schedule and the clock; either may be another one by now."""
        since = kept.last or kept.updated or now
        if since > now + SET_BACK:
            since = now
        due = self.schedule.next(since)
        if kept.next == due:
            return kept
        if now > due:  # by a schedule that is new, nothing was missed
            since, due = now, self.schedule.next(now)
        status = _Status(None, due, since)
        self._write(status)
        return status

    def _read(self, file: Path) -> _Status | None:
        try:
            with file.open("rb") as opened:
                kept = json.loads(opened.read(LONGEST_STATUS))
            last, due, updated = (microseconds(datetime.fromisoformat(kept[each])) for each in _STATUS)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            _LOGGER.warning("%s cannot be read; %s counts as one that never ran", file, self.function.name)
            return None
        return _Status(last if last > 0 else None, due, updated if updated > 0 else None)

    def _write(self, status: _Status) -> None:
        if self.file is None:
            return
        new = self.file.with_name(f"{self.file.name}.new")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            new.write_text(json.dumps(status.shown(self.schedule.zone)))
            new.replace(self.file)
        except OSError as error:
            _LOGGER.warning("%s cannot be written (%s); a missed run may be overlooked", self.file, error.strerror)


def _timer_of(function: Function, folder: Path, now: int, environment: Mapping[str, str]) -> _Timer:
    settings = function.trigger_settings
    schedule = schedule_of(str(settings.get("schedule", "")), environment)
    # As the Functions host: who runs twice a minute need not know of a run that was missed.
    monitored = _is_true(settings.get("useMonitor", True)) and not schedule.recurs_within_a_minute(now)
    return _Timer(
        function=function,
        schedule=schedule,
        on_startup=_is_true(settings.get("runOnStartup", False)),
        retry=retry_of(function.retry or {}),
        file=folder / f"{function.name}.json" if monitored else None,
    )


def _is_true(value: Any) -> bool:
    return str(value).lower() == "true"
