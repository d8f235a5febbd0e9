"""The longest that an approval waits, with a reminder every day."""

from pathlib import Path

import pytest

from tests.orchestrators.engine import Engine
from tests.orchestrators.reading import actions, entries, open_waits, size, verdict

ANN = "ann@example.com"


@pytest.mark.timeout(180)
def test_a_year_of_daily_reminders_runs_to_its_end(engine: Engine, data_folder: Path) -> None:
    given = {
        "requester": "Alice",
        "item": "Sabbatical",
        "timeout_hours": "P365D",
        "approvers": [ANN],
        "reminders": {"every": 24, "max": 366},
    }
    instance = engine.start("approval", given)
    for day in range(364):
        engine.phase(instance, "waiting_for_approval")
        engine.advance(days=1)
        assert size(engine, instance) < 16 * 1024, day
    assert len(open_waits(instance)) == 1
    assert len(list((data_folder / "outbox").glob("*.eml"))) == 365  # the question, and 364 reminders
    engine.advance(days=1)
    assert engine.output(instance)["status"] == "Timeout"
    assert engine.status(instance)["phase"] == "timed_out"
    reminded = [entry for entry in entries(instance) if entry.action == "reminded"]
    assert len(reminded) == 364
    assert {entry.people for entry in reminded} == {(ANN,)}
    assert (reminded[-1].at - entries(instance)[0].at).days == 364
    assert actions(instance)[-3:] == ["timed_out", "mailed", "ended"]
    assert open_waits(instance) == []
    assert verdict(engine, instance) == "intact"
