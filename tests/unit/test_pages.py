"""How pages tell times and values."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services import clock
from triggers.pages import as_text, distance, moment

NOW = datetime(2026, 11, 21, 18, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _standing_clock() -> Iterator[None]:
    clock.set_clock(lambda: NOW)
    yield
    clock.set_clock(clock.system_clock)


@pytest.mark.parametrize(
    ("off", "words"),
    [
        (timedelta(days=3) - timedelta(seconds=30), "in 3 days"),
        (timedelta(days=365), "in 365 days"),
        (timedelta(hours=47), "in 47 hours"),
        (timedelta(hours=1, minutes=5), "in 1 hour"),
        (timedelta(minutes=59, seconds=50), "in 59 minutes"),
        (timedelta(minutes=1), "in 1 minute"),
        (timedelta(seconds=30), "now"),
        (timedelta(days=-3), "now"),
    ],
)
def test_how_far_off_a_time_is_told_in_words(off: timedelta, words: str) -> None:
    assert distance(NOW + off) == words


def test_a_time_is_told_in_utc_whatever_its_zone() -> None:
    told = "Saturday, 21 November 2026, 18:00 UTC"
    assert moment(NOW) == told
    assert moment(NOW.replace(tzinfo=None)) == told
    assert moment(datetime.fromisoformat("2026-11-21T20:00:00+02:00")) == told


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "\N{EN DASH}"), ("", "\N{EN DASH}"), (True, "yes"), (False, "no"), (0, "0"), (1.5, "1.5")],
)
def test_a_value_is_told_as_it_is_read(value: Any, text: str) -> None:
    assert as_text(value) == text
