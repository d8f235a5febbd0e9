"""Every path of the manual intervention, on a real engine, by every event that carries messages."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from activities import records as record_activities
from contracts.manual_intervention import MAX_MESSAGES
from contracts.records import RecordBatch
from local_host.task_hub import ManualClock
from orchestrators.manual_intervention import MAX_RETRIES
from services.record_store import RecordStore, RecordStoreError, close_record_store
from tests.orchestrators.engine import Engine, running_engine
from tests.orchestrators.reading import actions, answered, entries, open_waits, said, verdict, waits_of

COMMAND = "internal_channel_command"
RETRY = "signal_channel_command_retry"
SKIP = "signal_channel_command_skip"
RPC = "__IwfSystem_ExecuteRpc"
FAILED = (COMMAND, "failed")

type Door = Callable[[Engine, str, str, Any], None]


def encoded(value: Any) -> dict[str, Any]:
    """A value as the engines' clients encode it."""
    return {"encoding": "json", "data": json.dumps(value)}


def by_channel(engine: Engine, instance: str, channel: str, value: Any = None) -> None:
    """Raise the event that is named like the channel."""
    engine.event(instance, channel, value)


def by_channel_encoded(engine: Engine, instance: str, channel: str, value: Any = None) -> None:
    """The same, with an encoded value."""
    engine.event(instance, channel, encoded(value) if value is not None else None)


def by_rpc(engine: Engine, instance: str, channel: str, value: Any = None) -> None:
    """Raise the event of a remote call."""
    engine.event(instance, RPC, {"InterStateChannelPublishing": [{"channelName": channel, "value": encoded(value)}]})


def by_publish(engine: Engine, instance: str, channel: str, value: Any = None) -> None:
    """Raise the event that the app raises itself."""
    engine.event(instance, "publish", {"messages": [{"channel": channel, "value": value}]})


DOORS = [by_channel, by_channel_encoded, by_rpc, by_publish]
doors = pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)


def send(engine: Engine, instance: str, *messages: tuple[str, Any], key: str | None = None) -> None:
    """Send messages that come as one, as the API sends them."""
    sent = [{"channel": channel, "value": value} for channel, value in messages]
    engine.event(instance, "publish", {"messages": sent, "channel": "api"} | ({"decision_id": key} if key else {}))


def started(engine: Engine, **given: Any) -> str:
    """A run that waits for its data."""
    instance = engine.start("manual_intervention", given)
    engine.phase(instance, "get_data")
    return instance


def failed(engine: Engine, **given: Any) -> str:
    """A run whose call has failed."""
    instance = started(engine, **given)
    engine.event(instance, COMMAND, "failed")
    engine.phase(instance, "error")
    return instance


def retries(engine: Engine, instance: str) -> int:
    """The data attribute."""
    data: dict[str, int] = engine.status(instance)["data"]
    assert list(data) == ["number_of_retries"]
    return data["number_of_retries"]


# From state to state


@doors
def test_a_call_that_succeeds_ends_the_run_without_a_retry(engine: Engine, door: Door) -> None:
    instance = started(engine)
    status = engine.status(instance)
    assert (status["waiting_for"], status["data"]) == (COMMAND, {"number_of_retries": 0})
    door(engine, instance, COMMAND, "fetched")
    assert engine.output(instance) == 0
    assert actions(instance) == ["started", "received", "ended"]


@doors
def test_a_call_that_fails_waits_and_is_retried(engine: Engine, door: Door) -> None:
    instance = started(engine)
    door(engine, instance, COMMAND, "failed")
    assert engine.phase(instance, "error")["waiting_for"] == f"{RETRY} or {SKIP}"
    door(engine, instance, RETRY, None)
    assert engine.phase(instance, "get_data")["waiting_for"] == COMMAND
    assert retries(engine, instance) == 0  # a retry counts when the call is made again
    door(engine, instance, COMMAND, "failed")
    engine.phase(instance, "error")
    assert retries(engine, instance) == 1
    door(engine, instance, RETRY, None)
    door(engine, instance, COMMAND, "fetched")
    assert engine.output(instance) == 2
    status = engine.phase(instance, "final")
    assert (status["waiting_for"], status["deadline"], status["wait"]) == (None, None, None)
    assert status["data"] == {"number_of_retries": 2}


@doors
def test_a_call_that_fails_is_skipped(engine: Engine, door: Door) -> None:
    instance = started(engine)
    door(engine, instance, COMMAND, "failed")
    door(engine, instance, SKIP, None)
    assert engine.state(instance).serialized_output == "0"  # a number, and nothing else
    assert actions(instance) == ["started", "received", "call_failed", "received", "skipped", "ended"]


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "Failed",
        "failed ",
        ["failed"],
        {"data": "failed"},
        {"encoding": "failed"},
        True,
        0,
        "\ud800",
        encoded(1),
    ],
    ids=repr,
)
def test_anything_but_the_text_failed_is_a_success(engine: Engine, value: Any) -> None:
    instance = started(engine)
    engine.event(instance, COMMAND, value)
    assert engine.output(instance) == 0


def test_a_signal_may_come_with_data(engine: Engine) -> None:
    instance = failed(engine)
    engine.event(instance, RETRY, {"why": "the key is new"})
    engine.phase(instance, "get_data")
    assert entries(instance)[-2].payload_sha256 is not None


# All doors are one

SEQUENCE: list[tuple[str, Any]] = [
    (RETRY, None),  # early
    (RETRY, None),  # a duplicate
    FAILED,
    FAILED,
    (COMMAND, "queued"),
    (RETRY, "with data"),
]
TRAIL = [
    ("started", None, "get_data"),
    ("received", RETRY, "get_data"),
    ("received", COMMAND, "get_data"),
    ("call_failed", None, "error"),
    ("retried", None, "get_data"),
    ("received", COMMAND, "get_data"),
    ("call_failed", None, "error"),
    ("received", COMMAND, "error"),
    ("received", RETRY, "error"),
    ("retried", None, "get_data"),
    ("ended", None, "final"),
]


@doors
def test_the_same_messages_give_the_same_state_by_each_door(engine: Engine, door: Door) -> None:
    instance = started(engine)
    for channel, value in SEQUENCE:
        door(engine, instance, channel, value)
        engine.status(instance)
    assert engine.output(instance) == 2
    assert [(each.action, each.detail, each.after) for each in entries(instance)] == TRAIL
    assert engine.status(instance)["warnings"] == []
    assert verdict(engine, instance) == "intact"


def test_the_doors_can_be_mixed(engine: Engine) -> None:
    instance = started(engine)
    for number, (channel, value) in enumerate(SEQUENCE):
        DOORS[number % len(DOORS)](engine, instance, channel, value)
        engine.status(instance)
    assert engine.output(instance) == 2
    assert [each.action for each in entries(instance)] == [action for action, _, _ in TRAIL]


def test_the_trail_says_by_which_door_a_message_came(engine: Engine) -> None:
    instance = started(engine)
    send(engine, instance, FAILED)
    engine.event(instance, SKIP)
    engine.output(instance)
    assert [entry.channel for entry in entries(instance) if entry.action == "received"] == ["api", "event"]


# Early, and many


def test_data_that_comes_early_waits_for_its_turn_in_order(engine: Engine) -> None:
    instance = started(engine)
    for value in ("failed", "failed", "failed", "fetched"):
        engine.event(instance, COMMAND, value)
    for number in range(3):
        engine.phase(instance, "error")
        assert retries(engine, instance) == number
        engine.event(instance, RETRY)
    assert engine.output(instance) == 3


@pytest.mark.parametrize("signal", [RETRY, SKIP])
def test_a_signal_that_comes_early_counts_when_the_call_has_failed(engine: Engine, signal: str) -> None:
    instance = started(engine)
    engine.event(instance, signal)
    engine.phase(instance, "get_data")
    engine.event(instance, COMMAND, "failed")
    engine.phase(instance, "get_data" if signal == RETRY else "final")


def delayed(engine: Engine) -> str:
    """A run that begins in an hour, on an engine whose clock has not been moved."""
    begins = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=1)
    return engine.client.schedule_new_orchestration("manual_intervention", input={}, start_at=begins)


def test_events_that_come_before_the_run_begins_count_in_their_order(data_folder: Path) -> None:
    with running_engine(data_folder) as engine:
        instance = delayed(engine)
        for channel, value in [FAILED, (RETRY, None), FAILED, (RETRY, None), FAILED, (SKIP, None)]:
            engine.event(instance, channel, value)
        engine.advance(minutes=59)
        assert engine.status(instance) == {}
        engine.advance(minutes=1)
        assert engine.output(instance) == 2


def test_a_retry_goes_before_a_skip_where_both_wait(engine: Engine) -> None:
    instance = started(engine)
    send(engine, instance, (SKIP, None), (RETRY, None), FAILED)
    engine.phase(instance, "get_data")
    engine.event(instance, COMMAND, "failed")  # for which the skip has waited
    assert engine.output(instance) == 1
    assert [action for action in actions(instance) if action in ("retried", "skipped")] == ["retried", "skipped"]


def test_a_signal_that_comes_twice_while_it_waits_has_the_effect_of_one(engine: Engine) -> None:
    instance = started(engine)
    for key in ("first", "second"):
        send(engine, instance, (RETRY, None), key=key)
    assert (answered(engine, instance, "first"), answered(engine, instance, "second")) == ("taken", "duplicate")
    engine.event(instance, COMMAND, "failed")
    engine.phase(instance, "get_data")
    engine.event(instance, COMMAND, "failed")
    engine.phase(instance, "error")
    assert actions(instance).count("received") == 3


def test_a_signal_that_was_taken_may_come_again(engine: Engine) -> None:
    instance = failed(engine)
    send(engine, instance, (RETRY, None), key="first")
    send(engine, instance, (RETRY, None), key="second")
    assert answered(engine, instance, "second") == "taken"
    engine.event(instance, COMMAND, "failed")
    engine.phase(instance, "get_data")


def test_one_signal_twice_in_one_event_is_one(engine: Engine) -> None:
    instance = started(engine)
    send(engine, instance, (RETRY, None), (RETRY, None), key="both")
    assert answered(engine, instance, "both") == "taken"
    assert actions(instance) == ["started", "received"]


def test_a_channel_takes_100_messages_and_refuses_more(engine: Engine) -> None:
    instance = failed(engine)
    send(engine, instance, *[(COMMAND, number) for number in range(MAX_MESSAGES - 1)], key="many")
    send(engine, instance, (COMMAND, "failed"), (COMMAND, "failed"), key="two-too-many")
    send(engine, instance, (COMMAND, "one more"), key="last")
    engine.status(instance)
    engine.event(instance, COMMAND, "too many")
    assert [answered(engine, instance, key) for key in ("many", "two-too-many", "last")] == [
        "taken",
        "too_many",
        "taken",
    ]
    assert [entry.channel for entry in entries(instance) if entry.detail == "too_many"] == ["api", "event"]
    assert actions(instance).count("received") == 1 + MAX_MESSAGES
    engine.event(instance, RETRY)
    assert engine.output(instance) == 1
    assert verdict(engine, instance) == "intact"


def test_messages_that_come_as_one_are_taken_all_or_none(engine: Engine) -> None:
    instance = failed(engine)
    send(engine, instance, *[(COMMAND, number) for number in range(MAX_MESSAGES)])
    send(engine, instance, (RETRY, None), (COMMAND, "too many"), key="both")
    assert answered(engine, instance, "both") == "too_many"
    engine.phase(instance, "error")  # the retry was refused with it


def test_a_call_is_retried_100_times_and_then_only_skipped(engine: Engine) -> None:
    instance = failed(engine)
    for _ in range(MAX_RETRIES - 1):
        send(engine, instance, (RETRY, None), FAILED)
    send(engine, instance, (RETRY, None), key="hundredth")
    engine.phase(instance, "get_data")
    send(engine, instance, (RETRY, None), key="early")
    assert [answered(engine, instance, key) for key in ("hundredth", "early")] == ["taken", "no_more_retries"]
    engine.event(instance, COMMAND, "failed")
    assert engine.phase(instance, "error")["waiting_for"] == SKIP
    assert open_waits(instance)[0].actions == (SKIP,)
    assert retries(engine, instance) == MAX_RETRIES
    engine.event(instance, RETRY)
    engine.phase(instance, "error")
    assert [entry.channel for entry in entries(instance) if entry.detail == "no_more_retries"] == ["api", "event"]
    engine.event(instance, SKIP)
    assert engine.output(instance) == MAX_RETRIES


# Repetitions


def test_what_comes_again_under_its_id_has_no_second_effect(engine: Engine) -> None:
    instance = started(engine)
    for _ in range(3):
        send(engine, instance, FAILED, key="one")
    engine.phase(instance, "error")
    send(engine, instance, (RETRY, None), key="two")
    engine.phase(instance, "get_data")
    send(engine, instance, FAILED, key="one")
    engine.phase(instance, "get_data")
    assert answered(engine, instance, "one") == "taken"


def test_a_message_that_is_not_on_record_takes_no_effect_and_shows_no_verdict(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(store: RecordStore, batch: RecordBatch) -> list[int]:
        raise RecordStoreError("away")

    instance = started(engine)
    with monkeypatch.context() as patch:
        patch.setattr(record_activities, "put_on_record", away)
        send(engine, instance, FAILED, key="one")
        send(engine, instance, (RETRY, None), key="two")
        engine.advance(minutes=20)
        assert (engine.phase(instance, "get_data")["verdicts"], actions(instance)) == ([], ["started"])
    engine.advance(minutes=30)
    engine.phase(instance, "get_data")
    assert (answered(engine, instance, "one"), answered(engine, instance, "two")) == ("taken", "taken")
    assert actions(instance) == ["started", "received", "call_failed", "received", "retried"]


# Malformed

MALFORMED: dict[str, list[str]] = {
    COMMAND: [
        "{",
        "NaN",
        '"' + "x" * 3999 + '"',
        '{"encoding": "json", "data": "failed"}',
        '{"encoding": 1, "data": "1"}',
    ],
    RETRY: ["retry", '"' + "x" * 3999 + '"', '{"encoding": "json", "data": ""}', "[" * 5000],
    SKIP: ["'", '{"encoding": "json", "data": {}}', "[" * 300 + "]" * 300],
    RPC: [
        "",
        "null",
        "[]",
        '"failed"',
        '{"InterStateChannelPublishing": []}',
        '{"InterStateChannelPublishing": [{"channelName": "other"}]}',
        '{"InterStateChannelPublishing": [{"channelName": "internal_channel_command", "value": {"encoding": "json", '
        '"data": "failed"}}]}',
        '{"InterStateChannelPublishing": [{"channelName": "internal_channel_command"}, {"channelName": 5}]}',
        '{"StateDecision": {}}',
    ],
    "publish": [
        "",
        "null",
        "{}",
        '{"messages": []}',
        '{"messages": [{"channel": "other"}]}',
        '{"messages": [{"channelName": "internal_channel_command"}]}',
        '{"messages": [{"channel": "internal_channel_command"}], "channel": "link"}',
        '{"messages": [{"channel": "internal_channel_command"}], "decision_id": "with space"}',
        '{"__class__": "Settings", "__module__": "settings", "__data__": "{}"}',
    ],
}


@pytest.mark.parametrize("phase", ["get_data", "error"])
@pytest.mark.parametrize("event", MALFORMED)
def test_what_is_malformed_is_set_aside_with_a_warning(engine: Engine, event: str, phase: str) -> None:
    instance = started(engine) if phase == "get_data" else failed(engine)
    before = actions(instance)
    for payload in MALFORMED[event]:
        engine.raw_event(instance, event, payload)
        status = engine.phase(instance, phase)
        assert status["warnings"][-1].startswith(f"An event '{event}' was set aside: "), payload[:80]
    assert actions(instance) == before + ["set_aside"] * len(MALFORMED[event])
    engine.event(instance, COMMAND, "failed")
    engine.event(instance, SKIP)
    assert engine.output(instance) == 0
    assert verdict(engine, instance) == "intact"


def test_a_message_that_is_malformed_takes_those_beside_it_along(engine: Engine) -> None:
    instance = started(engine)
    messages = [{"channelName": COMMAND}, {"channelName": COMMAND, "value": "x" * 4001}]
    engine.event(instance, RPC, {"InterStateChannelPublishing": messages})
    engine.phase(instance, "get_data")


# Records


def test_each_state_waits_in_the_records(engine: Engine) -> None:
    instance = failed(engine)
    (wait,) = open_waits(instance)
    assert (wait.kind, wait.actions, wait.people) == ("manual_intervention", (RETRY, SKIP), ())
    assert wait.path == f"/design-pattern/intervention/status/{instance}"
    engine.event(instance, RETRY)
    engine.status(instance)
    (wait,) = open_waits(instance)
    assert wait.actions == (COMMAND,)
    assert engine.status(instance)["wait"] == wait.number
    engine.event(instance, COMMAND, "fetched")
    engine.output(instance)
    assert open_waits(instance) == []
    assert len(waits_of(instance)) == 3


def test_what_was_queued_needs_no_wait(engine: Engine) -> None:
    instance = started(engine)
    send(engine, instance, FAILED, (RETRY, None), (COMMAND, "fetched"))
    assert engine.output(instance) == 1
    assert len(waits_of(instance)) == 1
    assert "timerCreated" in engine.kinds(instance)


def test_the_trail_says_from_which_state_to_which(engine: Engine) -> None:
    instance = failed(engine)
    engine.event(instance, SKIP)
    engine.output(instance)
    assert said(instance) == [
        ("started", None, "api", None, "get_data"),
        ("received", None, "event", "get_data", "get_data"),
        ("call_failed", None, None, "get_data", "error"),
        ("received", None, "event", "error", "error"),
        ("skipped", None, None, "error", "final"),
        ("ended", None, None, "final", "final"),
    ]


def test_values_stand_in_the_records_as_hashes_only(engine: Engine) -> None:
    instance = started(engine)
    engine.event(instance, COMMAND, {"token": "hush-hush"})
    engine.output(instance)
    received = entries(instance)[1]
    assert (received.detail, received.payload_sha256 is not None) == (COMMAND, True)
    shown = json.dumps([entry.plain() for entry in entries(instance)] + [engine.status(instance)])
    assert "hush-hush" not in shown


def test_duplicates_without_end_leave_nothing_on_record(engine: Engine) -> None:
    instance = started(engine)
    for number in range(70):
        send(engine, instance, (SKIP, None), key=f"skip-{number}")
    assert actions(instance) == ["started", "received"]
    assert len(engine.status(instance)["verdicts"]) <= 60


# Time


def ended_late(engine: Engine, instance: str) -> None:
    """Check the end of a run that took too long."""
    state = engine.end(instance)
    assert state.runtime_status.name == "FAILED"
    assert state.failure_details is not None
    assert "longer than its execution timeout" in state.failure_details.message
    assert engine.status(instance)["phase"] == "execution_timed_out"
    assert actions(instance)[-2:] == ["timed_out", "ended"]
    assert open_waits(instance) == []
    assert verdict(engine, instance) == "intact"


@pytest.mark.parametrize("phase", ["get_data", "error"])
def test_a_run_waits_for_a_year_at_most(engine: Engine, phase: str) -> None:
    instance = started(engine) if phase == "get_data" else failed(engine)
    deadline = datetime.fromisoformat(engine.status(instance)["deadline"])
    assert deadline == open_waits(instance)[0].deadline
    began = engine.state(instance).created_at.replace(tzinfo=UTC)
    assert abs(deadline - began - timedelta(days=365)) < timedelta(seconds=1)
    # That the run ends then, the next test sees sooner.


@pytest.mark.parametrize("phase", ["get_data", "error"])
def test_a_run_ends_when_it_takes_longer_than_its_execution_timeout(engine: Engine, phase: str) -> None:
    instance = started(engine, execution_timeout=3600.0)
    engine.advance(minutes=30)
    if phase == "error":
        engine.event(instance, COMMAND, "failed")
    engine.phase(instance, phase)
    engine.advance(minutes=29, seconds=59)
    engine.phase(instance, phase)  # a new state gives no new time
    engine.advance(seconds=1)
    ended_late(engine, instance)


def test_what_is_over_before_it_waits_leaves_no_timer_behind(data_folder: Path) -> None:
    with running_engine(data_folder) as engine:
        instance = delayed(engine)
        engine.event(instance, COMMAND, "fetched")
        engine.advance(hours=1)
        assert engine.output(instance) == 0
        assert "timerCreated" not in engine.kinds(instance)


# At the same moment, and after a crash


def test_what_came_while_the_run_stood_still_is_taken_in_order(engine: Engine) -> None:
    instance = started(engine)
    engine.client.suspend_orchestration(instance)
    for number in range(20):
        send(engine, instance, (COMMAND, "failed" if number < 19 else "fetched"))
    engine.client.resume_orchestration(instance)
    for _ in range(19):
        engine.phase(instance, "error")
        engine.event(instance, RETRY)
    assert engine.output(instance) == 19


@doors
def test_messages_on_several_channels_in_a_burst_are_taken_in_order(engine: Engine, door: Door) -> None:
    instance = started(engine)
    engine.client.suspend_orchestration(instance)
    for channel, value in [FAILED, (RETRY, None), FAILED, (RETRY, None), FAILED, (SKIP, None)]:
        door(engine, instance, channel, value)
    engine.client.resume_orchestration(instance)
    assert engine.output(instance) == 2


def test_what_waits_on_the_channels_is_there_after_a_restart(data_folder: Path) -> None:
    clock = ManualClock()
    with running_engine(data_folder, clock, ephemeral=False) as engine:
        instance = started(engine)
        send(engine, instance, (SKIP, None), key="early")
        engine.event(instance, RETRY)
        before = engine.status(instance)
    close_record_store()
    with running_engine(data_folder, clock, ephemeral=False) as engine:
        assert engine.status(instance) == before
        send(engine, instance, (SKIP, None), key="early")
        send(engine, instance, (RETRY, None), key="another")
        assert (answered(engine, instance, "early"), answered(engine, instance, "another")) == ("taken", "duplicate")
        engine.event(instance, COMMAND, "failed")
        engine.phase(instance, "get_data")
        engine.event(instance, COMMAND, "failed")
        assert engine.output(instance) == 1
        assert verdict(engine, instance) == "intact"


def test_time_that_passed_while_the_app_was_down_counts(data_folder: Path) -> None:
    clock = ManualClock()
    with running_engine(data_folder, clock, ephemeral=False) as engine:
        instance = failed(engine, execution_timeout=3600.0)
    close_record_store()
    with running_engine(data_folder, clock, ephemeral=False) as engine:
        engine.phase(instance, "error")
        engine.advance(seconds=timedelta(hours=1).total_seconds())
        ended_late(engine, instance)
