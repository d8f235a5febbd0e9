"""The rate limit: what is taken and refused, once, twice and out of order, and that nothing stays behind."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from durabletask.entities import EntityContext, EntityInstanceId
from durabletask.internal.entity_state_shim import StateShim
from durabletask.serialization import JsonDataConverter
from hypothesis import given
from hypothesis import strategies as st

from contracts.rate_limit import MAX_REFUSED, RATE_LIMIT, RateTake
from entities.rate_limit import rate_limit
from local_host.task_hub import ManualClock
from local_host.testing import HubControl
from tests.entities.hub import hub_with_entities, state_of

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
TAKEN = {"taken": True, "retry_after": 0.0}


class Limit:
    """One entity, called as the worker calls it; ``limit`` in any ``seconds``."""

    def __init__(self, limit: int = 2, seconds: float = 60) -> None:
        self.limit, self.seconds = limit, seconds
        self._shim = StateShim(None, JsonDataConverter())

    def call(self, operation: str, request: Any) -> Any:
        """Call an operation, which changes nothing if it fails."""
        entity = EntityInstanceId(RATE_LIMIT, "x")
        try:
            result = rate_limit(EntityContext("x", operation, self._shim, entity, JsonDataConverter()), request)
        except Exception:
            self._shim.rollback()
            raise
        self._shim.commit()
        return result

    def take(self, identity: str, after: float = 0) -> Any:
        """Take one, so many seconds after noon."""
        asked = RateTake(id=identity, at=NOON + timedelta(seconds=after), limit=self.limit, seconds=self.seconds)
        return self.call("take", asked.plain())

    @property
    def text(self) -> str | None:
        """The state as it is stored."""
        return self._shim.encode_state()

    @property
    def ids(self) -> list[str]:
        """The ids that it knows of."""
        return [each["id"] for each in json.loads(self.text or '{"entries": []}')["entries"]]

    @property
    def signals(self) -> list[tuple[float, Any]]:
        """Every ``forget`` that it has asked for: seconds after noon, and the input."""
        asked = [action.sendSignal for action in self._shim.get_operation_actions()]
        assert all((each.name, each.instanceId) == ("forget", "@rate_limit@x") for each in asked)
        return [
            ((each.scheduledTime.ToDatetime(UTC) - NOON).total_seconds(), json.loads(each.input.value))
            for each in asked
        ]

    def forget(self, number: int) -> Any:
        """Deliver a ``forget`` that it has asked for."""
        return self.call("forget", self.signals[number][1])


def test_as_many_are_taken_as_the_limit_says_and_the_next_one_is_told_when() -> None:
    limit = Limit(2)
    assert [limit.take("a"), limit.take("b", 10)] == [TAKEN, TAKEN]
    assert limit.take("c", 20) == {"taken": False, "retry_after": 40}
    assert limit.take("d", 59.999) == {"taken": False, "retry_after": 0.001}
    assert limit.take("e", 60) == TAKEN  # the first is out of the window, which slides
    assert limit.take("f", 60) == {"taken": False, "retry_after": 10}
    assert limit.take("g", 70) == TAKEN


def test_who_asks_again_by_the_same_id_gets_the_same_answer_and_takes_nothing() -> None:
    limit = Limit(2)
    for _ in range(3):
        assert limit.take("a") == TAKEN
    assert limit.take("b", 5) == TAKEN
    refused = limit.take("c", 10)
    assert [limit.take("c", 10), limit.take("c", 55)] == [refused, refused]
    assert limit.take("a", 59) == TAKEN
    assert limit.take("d", 60) == TAKEN  # "a" was taken at noon, once
    assert limit.take("c", 65) == refused  # though there is room by now: it was told so
    assert limit.take("c", 70) == TAKEN  # by now it is another one


def test_a_refusal_takes_nothing_and_does_not_move_the_window() -> None:
    limit = Limit(1)
    limit.take("a")
    for second in range(1, 60):
        assert limit.take(f"r{second}", second)["taken"] is False
    assert limit.take("b", 60) == TAKEN


def test_a_lower_limit_holds_for_what_was_taken_under_a_higher_one() -> None:
    limit = Limit(3)
    assert [limit.take(str(second), second) for second in (0, 10, 20)] == [TAKEN] * 3
    limit.limit = 1
    assert limit.take("x", 30) == {"taken": False, "retry_after": 50}  # all three have to go
    assert limit.take("y", 79)["taken"] is False
    assert limit.take("z", 80) == TAKEN


# Clocks


def test_clocks_that_differ_by_seconds_let_nobody_take_more_and_nobody_wait_for_longer_than_the_window() -> None:
    limit = Limit(2)
    assert [limit.take("a", 5), limit.take("b", 0)] == [TAKEN, TAKEN]
    assert limit.take("c", 1) == {"taken": False, "retry_after": 59}
    assert limit.take("d", -30) == {"taken": False, "retry_after": 60}
    assert limit.take("e", 59) == {"taken": False, "retry_after": 1}
    assert limit.take("f", 60) == TAKEN
    assert limit.take("g", 64)["taken"] is False


@pytest.mark.parametrize("wrong", [365 * 86_400, -365 * 86_400, 120])
def test_a_clock_that_is_wrong_locks_nobody_out_and_its_forget_keeps_no_other_from_coming(wrong: float) -> None:
    limit = Limit(1)
    assert limit.take("wrong", wrong) == TAKEN
    assert limit.take("a") == TAKEN
    assert limit.take("b", 30) == {"taken": False, "retry_after": 30}
    assert [when for when, _ in limit.signals] == [wrong + 60, 60]
    limit.forget(0 if wrong < 0 else 1)
    limit.forget(1 if wrong < 0 else 0)
    limit.forget(2)
    assert limit.text is None
    assert [when for when, _ in limit.signals] == [wrong + 60, 60, 90]


@given(st.lists(st.integers(0, 300_000), max_size=60))
def test_one_is_refused_just_when_the_limit_was_taken_within_the_window_before(milliseconds: list[int]) -> None:
    limit, taken = Limit(3), list[int]()
    for number, after in enumerate(sorted(milliseconds)):
        room = sum(after - each < 60_000 for each in taken) < 3
        assert limit.take(str(number), after / 1000)["taken"] is room
        taken += [after] if room else []


# What it holds


def test_the_state_is_bounded_whatever_is_sent() -> None:
    limit = Limit(200, 7 * 86_400)
    for number in range(200):
        limit.take(f"{number:0200}", number / 1000)
    for number in range(MAX_REFUSED + 20):
        assert limit.take(f"refused {number}", 2)["taken"] is False
    assert len(limit.ids) == 200 + MAX_REFUSED
    assert limit.ids[200:] == [f"refused {number}" for number in range(20, 120)]
    assert len(limit.text or "") < 100_000
    assert limit.take("refused 50", 3)["taken"] is False
    assert len(limit.ids) == 200 + MAX_REFUSED
    assert len(limit.signals) == 1


@pytest.mark.parametrize(
    ("operation", "request_"),
    [
        ("take", None),
        ("take", {}),
        ("take", []),
        ("take", "text"),
        ("take", {"id": "", "at": "2026-03-01T12:00:00Z", "limit": 1, "seconds": 1}),
        ("take", {"id": "i" * 201, "at": "2026-03-01T12:00:00Z", "limit": 1, "seconds": 1}),
        ("take", {"id": "i", "at": "noon", "limit": 1, "seconds": 1}),
        ("take", {"id": "i", "at": "2026-03-01T12:00:00Z", "limit": 0, "seconds": 1}),
        ("take", {"id": "i", "at": "2026-03-01T12:00:00Z", "limit": 1001, "seconds": 1}),
        ("take", {"id": "i", "at": "2026-03-01T12:00:00Z", "limit": 1, "seconds": 0}),
        ("take", {"id": "i", "at": "2026-03-01T12:00:00Z", "limit": 1, "seconds": float("nan")}),
        ("take", {"id": "i", "at": "2026-03-01T12:00:00Z", "limit": 1, "seconds": 1e9}),
        ("take", {"id": "i", "at": "2026-03-01T12:00:00Z", "limit": 1, "seconds": 1, "more": 1}),
        ("take", {"id": "i", "at": "9999-12-31T23:59:59Z", "limit": 1, "seconds": 60}),
        ("forget", None),
        ("forget", {"at": "noon", "window": 1}),
        ("forget", {"at": 1e30, "window": 1}),
        ("delete", None),
        ("", None),
    ],
)
def test_what_is_malformed_changes_nothing(operation: str, request_: Any) -> None:
    limit = Limit(1)
    limit.take("a")
    before = (limit.text, limit.signals)
    with pytest.raises((ValueError, OverflowError)):
        limit.call(operation, request_)
    after = (limit.text, limit.signals)
    assert after == before
    assert limit.take("b")["taken"] is False


def test_a_time_without_a_zone_is_utc() -> None:
    limit = Limit(1)
    limit.take("a")
    asked = {"id": "b", "at": "2026-03-01T12:00:30", "limit": 1, "seconds": 60}
    assert limit.call("take", asked) == {"taken": False, "retry_after": 30}


def test_a_state_of_another_version_is_begun_anew() -> None:
    limit = Limit(1)
    limit._shim.set_state({"tokens": 5})
    assert limit.take("a") == TAKEN
    assert limit.take("b")["taken"] is False


# Forgetting


def test_it_asks_for_one_forget_at_a_time_and_what_is_forgotten_last_deletes_the_state() -> None:
    limit = Limit(5)
    for second in (0, 10, 20):
        limit.take(str(second), second)
    assert [when for when, _ in limit.signals] == [60]
    limit.forget(0)
    assert limit.ids == ["10", "20"]
    assert [when for when, _ in limit.signals] == [60, 80]  # the end of the last, not of each
    limit.take("70", 70)
    limit.forget(1)
    assert [when for when, _ in limit.signals] == [60, 80, 130]
    limit.forget(2)
    assert limit.text is None
    assert len(limit.signals) == 3
    assert limit.take("again", 200) == TAKEN
    assert len(limit.signals) == 4


def test_a_refusal_alone_is_forgotten_too() -> None:
    limit = Limit(1)
    limit.take("a")
    limit.take("b", 50)
    limit.forget(0)
    assert [when for when, _ in limit.signals] == [60, 110]
    limit.forget(1)
    assert limit.text is None


def test_a_forget_that_comes_twice_asks_for_no_more_and_one_on_nothing_does_nothing() -> None:
    limit = Limit(5)
    limit.take("a")
    limit.take("b", 30)
    for _ in range(3):
        limit.forget(0)
    assert [when for when, _ in limit.signals] == [60, 90]
    limit.forget(1)
    limit.forget(1)
    limit.forget(0)
    assert limit.text is None
    assert len(limit.signals) == 2


def test_a_forget_that_comes_too_late_forgets_nothing_new_and_does_not_multiply() -> None:
    limit = Limit(1)
    limit.take("a")
    assert limit.take("b", 1000) == TAKEN  # nothing came at 60, so that another one is asked for
    assert [when for when, _ in limit.signals] == [60, 1060]
    limit.forget(0)
    assert [when for when, _ in limit.signals] == [60, 1060]
    assert limit.take("c", 1001)["taken"] is False
    limit.forget(1)
    limit.forget(1)
    assert [when for when, _ in limit.signals] == [60, 1060, 1061]


@pytest.mark.parametrize("seconds", [0.1, 0.0004, 1 / 3, 86_400])
def test_a_window_of_any_length_ends(seconds: float) -> None:
    limit = Limit(1, seconds)
    limit.take("a", 0.123456)
    assert limit.take("b", 0.123456)["taken"] is False
    limit.forget(0)
    assert limit.text is None


# On a task hub


@pytest.fixture(scope="module")
def hub() -> Iterator[HubControl]:
    """A hub with the entity on two workers."""
    with hub_with_entities(hosts=2) as control:
        yield control


def _signal(hub: HubControl, key: str, identity: str, *, limit: int = 10, seconds: float = 3600) -> None:
    asked = RateTake(id=identity, at=hub.now, limit=limit, seconds=seconds)
    hub.client.signal_entity(EntityInstanceId(RATE_LIMIT, key), "take", asked.plain())


def _taken(state: Any) -> list[str]:
    return [each["id"] for each in state["entries"] if each["retry_after"] is None]


def test_on_a_hub_the_state_goes_away_by_itself_after_the_window(hub: HubControl) -> None:
    _signal(hub, "away", "a")
    hub.advance(timedelta(minutes=30))
    _signal(hub, "away", "b")
    hub.advance(timedelta(minutes=29))
    assert _taken(state_of(hub, "away")) == ["a", "b"]
    hub.advance(timedelta(minutes=1))
    assert _taken(state_of(hub, "away")) == ["b"]
    hub.advance(timedelta(minutes=30))
    assert state_of(hub, "away") is None
    hub.advance(timedelta(days=2))
    assert state_of(hub, "away") is None
    assert all(each.id.key != "away" for each in hub.client.get_all_entities())


def test_on_a_hub_what_is_malformed_does_not_break_what_comes_with_it(hub: HubControl) -> None:
    entity = EntityInstanceId(RATE_LIMIT, "broken")
    bad: list[Any] = [None, "x", {"id": 1}, [[]]]
    for each in bad:
        _signal(hub, "broken", f"before {each!r}")
        hub.client.signal_entity(entity, "take", each)
        hub.client.signal_entity(entity, "nonsense", each)
    _signal(hub, "broken", "last")
    assert len(_taken(state_of(hub, "broken"))) == 5


def test_a_restart_keeps_what_was_taken_and_the_forget_that_is_under_way(tmp_path: Path) -> None:
    clock = ManualClock(NOON)
    with hub_with_entities(tmp_path, clock) as before:
        for number in range(12):
            _signal(before, "kept", str(number))
        assert len(_taken(state_of(before, "kept"))) == 10
    with hub_with_entities(tmp_path, clock) as after:
        _signal(after, "kept", "after")
        assert _taken(state_of(after, "kept")) == [str(number) for number in range(10)]
        after.advance(timedelta(hours=1))
        assert state_of(after, "kept") is None
