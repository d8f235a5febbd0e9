"""The entity that judges who pauses and resumes a run: what it takes, what it wakes itself for, and what it starts."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from durabletask.entities import EntityContext, EntityInstanceId
from durabletask.internal.entity_state_shim import StateShim
from durabletask.serialization import JsonDataConverter

from contracts.pause_state import PAUSE, Pause, PauseAsk, PauseState, ResumeAsk, Run, pause_key
from entities.pause import pause

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = 24.0
STAMP, OTHER_STAMP = "20260301T110000000000Z", "20260301T130000000000Z"
TAKEN, REFUSED = {"taken": True}, {"taken": False}


def at(hours: float) -> datetime:
    """So many hours after noon."""
    return NOON + timedelta(hours=hours)


def a_run(created: float = -1, stamp: str | None = STAMP) -> Run:
    """A run that was created so many hours after noon."""
    return Run(
        instance_id="x", created_at=at(created), stamp=stamp, workflow="approval", workflow_id="approval", path="/x"
    )


class Entity:
    """The entity of one instance, called as the worker calls it."""

    def __init__(self, state: Any = None) -> None:
        self._shim = StateShim(json.dumps(state) if state is not None else None, JsonDataConverter())

    def call(self, operation: str, request: Any) -> Any:
        """Call an operation, which changes nothing if it fails."""
        entity = EntityInstanceId(PAUSE, "x")
        try:
            result = pause(EntityContext("x", operation, self._shim, entity, JsonDataConverter()), request)
        except Exception:
            self._shim.rollback()
            raise
        self._shim.commit()
        return result

    def pause(self, number: int = 1, hours: float = 0, longest: float = 7 * DAY, **said: Any) -> Any:
        """Pause, so many hours after noon, for so many hours at most."""
        run, token = said.pop("run", a_run()), said.pop("token", f"p{number}")
        asked = {"number": number, "at": at(hours), "by": "Ann", "reason": "Why", "on_max": "escalate"} | said
        pausing = Pause.model_validate(asked | {"until": at(hours + longest)})
        return self.call("pause", PauseAsk(token=token, said="s", run=run, pause=pausing).plain())

    def resume(self, number: int = 1, hours: float = 1, **said: Any) -> Any:
        """Resume, so many hours after noon."""
        asked = {"token": f"r{number}", "number": number, "at": at(hours), "by": "Bob"} | said
        return self.call("resume", ResumeAsk.model_validate(asked).plain())

    @property
    def text(self) -> str | None:
        """The state as it is stored."""
        return self._shim.encode_state()

    @property
    def state(self) -> PauseState:
        """The state."""
        found = PauseState.read(json.loads(self.text or "null"))
        assert found is not None
        return found

    def sent(self, operation: str) -> list[tuple[float, Any]]:
        """What it has sent to itself: after how many hours, and the input."""
        sent = [each.sendSignal for each in self._shim.get_operation_actions() if each.HasField("sendSignal")]
        assert all(each.instanceId == "@pause@x" for each in sent)
        return [
            ((each.scheduledTime.ToDatetime(UTC) - NOON).total_seconds() / 3600, json.loads(each.input.value))
            for each in sent
            if each.name == operation
        ]

    @property
    def started(self) -> list[tuple[str, int]]:
        """What it has had done: what, and the number of the mail."""
        actions = [each.startNewOrchestration for each in self._shim.get_operation_actions()]
        inputs = [json.loads(each.input.value) for each in actions if each.name == "pause_due"]
        return [(each["what"], each["serial"]) for each in inputs]

    def deliver(self, operation: str) -> float:
        """Deliver the last that it has sent to itself, and give when that was to come."""
        hours, request = self.sent(operation)[-1]
        self.call(operation, request)
        return hours

    def wake_until(self, what: str, most: int = 200) -> list[float]:
        """Let it wake until it has something done, and give when it did each time."""
        before, woken = len(self.started), list[float]()
        while len(self.started) == before and len(woken) < most:
            woken.append(self.deliver("wake"))
        assert self.started[before][0] == what
        return woken


# Who is first


def test_of_two_that_ask_at_once_the_first_is_taken() -> None:
    entity = Entity()
    assert [entity.pause(token="a"), entity.pause(token="b")] == [TAKEN, REFUSED]
    assert entity.state.answer("a") is not None
    assert entity.state.answer("b") is None
    assert [entity.resume(token="c"), entity.resume(token="d")] == [TAKEN, REFUSED]
    assert entity.state.answer("d") is None


def test_what_is_paused_is_not_paused_again_and_what_goes_on_not_resumed() -> None:
    entity = Entity()
    assert entity.resume() == REFUSED
    assert entity.text is None
    entity.pause()
    before = entity.text
    assert entity.pause(2) == REFUSED
    assert entity.resume(2) == REFUSED
    assert entity.text == before
    entity.resume()
    assert entity.resume() == REFUSED
    assert entity.pause(1) == REFUSED


def test_it_counts_and_merges_what_it_was_resumed_with() -> None:
    entity = Entity()
    entity.pause()
    entity.resume(data={"a": 1, "b": {"c": 1}})
    entity.pause(2, 2)
    assert (entity.state.count, entity.state.resumes, entity.state.data) == (2, 1, {"a": 1, "b": {"c": 1}})
    entity.resume(2, 3, data={"b": 2})
    assert (entity.state.count, entity.state.resumes, entity.state.data) == (2, 2, {"a": 1, "b": 2})
    assert entity.state.resumed is not None
    assert (entity.state.resumed.at, entity.state.resumed.data) == (at(3), {"b": 2})


def test_more_data_than_a_run_can_keep_are_refused_and_the_pause_goes_on() -> None:
    entity = Entity()
    entity.pause()
    entity.resume(data={"a": "x" * 9_000})
    entity.pause(2, 2)
    assert entity.resume(2, 3, data={"b": "x" * 9_000}) == REFUSED
    assert entity.state.is_paused
    assert entity.resume(2, 3, data={"a": "x" * 9_000}) == TAKEN


def test_it_remembers_the_newest_answers() -> None:
    entity = Entity()
    for number in range(1, 8):
        entity.pause(number)
        entity.resume(number)
    assert [each.token for each in entity.state.answers] == [f"{kind}{n}" for n in range(3, 8) for kind in "pr"]


# Runs of the same id


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (a_run(), True),
        (a_run(stamp=None), True),
        (a_run(created=5), True),  # its history has begun anew
        (a_run(created=5, stamp=None), False),
        (a_run(created=-0.5, stamp=None), True),  # created before the pause, of which not every engine tells the same
        (a_run(created=5, stamp=OTHER_STAMP), False),
        (a_run(stamp=OTHER_STAMP), False),
    ],
)
def test_a_pause_of_a_run_whose_id_was_used_again_is_over(other: Run, same: bool) -> None:
    entity = Entity()
    entity.pause()
    assert entity.state.is_of(other) is same
    assert entity.pause(2, 6, run=other) == (REFUSED if same else TAKEN)


def test_another_run_begins_anew_but_its_pauses_go_on_in_number() -> None:
    entity = Entity()
    entity.pause()
    entity.resume(data={"a": 1})
    assert entity.pause(2, 6, run=a_run(5, OTHER_STAMP)) == TAKEN
    state = entity.state
    assert (state.number, state.count, state.resumes, state.data, state.resumed) == (2, 1, 0, None, None)
    assert [each.token for each in state.answers] == ["p2"]


@pytest.mark.parametrize("told", ["over", "forget"])
def test_a_run_that_has_ended_is_not_paused_any_more(told: str) -> None:
    entity = Entity()
    entity.pause()
    before = entity.text
    entity.call(told, {"number": 2})
    assert entity.text == before
    entity.call(told, {"number": 1})
    if told == "forget":
        assert entity.text is None
    else:
        assert (entity.state.is_paused, entity.state.resumes) == (False, 0)
    before = entity.text
    for operation in ("check", "wake"):
        entity.deliver(operation)
    assert (entity.text, entity.started) == (before, [])


# What was not applied


def test_what_was_not_applied_is_applied_later_and_later_again() -> None:
    entity = Entity()
    entity.pause()
    assert entity.deliver("check") * 60 == pytest.approx(1)
    assert entity.started == [("apply", 0)]
    minutes = [entity.deliver("check") * 60 for _ in range(8)]
    assert [round(later - sooner) for sooner, later in zip([1, *minutes], minutes, strict=False)] == [
        *(2, 4, 8, 16, 32, 60, 60, 60)
    ]
    assert len(entity.started) == 9
    ids = [
        each.startNewOrchestration.instanceId
        for each in entity._shim.get_operation_actions()
        if each.HasField("startNewOrchestration")
    ]
    assert len(dict.fromkeys(ids)) == 9  # one that has an id of before could be refused for it


def test_what_was_applied_is_left_alone() -> None:
    entity = Entity()
    entity.pause()
    entity.call("applied", {"number": 1, "paused": True})
    entity.deliver("check")
    assert (entity.started, len(entity.sent("check"))) == ([], 1)
    entity.resume()
    assert not entity.state.applied
    entity.call("applied", {"number": 1, "paused": True})  # it came too late
    entity.deliver("check")
    assert entity.started == [("apply", 0)]
    entity.call("applied", {"number": 1, "paused": False})
    entity.deliver("check")
    assert entity.started == [("apply", 0)]


# No pause is for ever


def test_after_a_day_it_warns_and_after_the_longest_time_tells_the_operators_every_day() -> None:
    entity = Entity()
    entity.pause()
    assert entity.wake_until("warn") == [DAY]
    assert entity.wake_until("escalate") == [4 * DAY, 7 * DAY]
    assert len(entity.sent("wake")) == 3  # who tells them says when
    entity.call("again", {"number": 1, "at": at(7 * DAY + 5).isoformat()})
    assert entity.wake_until("escalate") == [8 * DAY + 5]
    assert entity.started == [("warn", 1), ("escalate", 2), ("escalate", 3)]
    assert entity.state.is_paused


def test_it_wakes_every_three_days_at_least() -> None:
    entity = Entity()
    entity.pause(longest=365 * DAY)
    woken = entity.wake_until("warn") + entity.wake_until("escalate")
    assert max(later - sooner for sooner, later in zip([0.0, *woken], woken, strict=False)) == 3 * DAY
    assert woken[-1] == 365 * DAY


@pytest.mark.parametrize("longest", [1.0, DAY])
def test_a_short_pause_has_no_warning(longest: float) -> None:
    entity = Entity()
    entity.pause(longest=longest)
    assert entity.wake_until("escalate") == [longest]


def test_what_it_sent_to_itself_counts_once() -> None:
    entity = Entity()
    entity.pause()
    for _ in range(3):
        entity.call("wake", entity.sent("wake")[0][1])
    assert (entity.started, len(entity.sent("wake"))) == ([("warn", 1)], 2)


@pytest.mark.parametrize("on_max", ["resume", "cancel"])
def test_a_pause_that_is_to_end_is_ended_by_another_and_looked_after_until_it_is(on_max: str) -> None:
    entity = Entity()
    entity.pause(longest=2, on_max=on_max)
    entity.call("applied", {"number": 1, "paused": True})
    entity.wake_until(on_max)
    entity.deliver("check")
    assert entity.started == [(on_max, 1), (on_max, 1)]
    assert entity.state.is_ending is (on_max == "cancel")
    assert entity.resume(hours=3) == (REFUSED if on_max == "cancel" else TAKEN)


def test_the_timer_resumes_what_is_overdue() -> None:
    entity = Entity()
    entity.pause(longest=2, on_max="resume")
    entity.wake_until("resume")
    assert entity.resume(hours=3, by="(timer)", channel="timer") == TAKEN
    entity.deliver("check")
    assert entity.started[-1] == ("apply", 1)
    assert (entity.state.overdue, entity.state.due) == (False, None)


def test_a_pause_that_was_resumed_wakes_for_nothing_and_the_next_one_for_itself() -> None:
    entity = Entity()
    entity.pause()
    _, stale = entity.sent("wake")[0]
    entity.resume()
    entity.call("wake", stale)
    entity.pause(2, 30)
    entity.call("wake", stale)
    entity.call("again", {"number": 1, "at": at(40).isoformat()})
    assert entity.started == []
    assert entity.wake_until("warn") == [54]


# What is no request


@pytest.mark.parametrize("operation", ["pause", "resume", "applied", "over", "again", "forget", "check", "wake", "no"])
@pytest.mark.parametrize("request_", [None, "x", {"number": "1"}, [[]]])
def test_what_is_malformed_changes_nothing(operation: str, request_: Any) -> None:
    entity = Entity()
    entity.pause()
    before = entity.text
    with pytest.raises(ValueError, match=r"\S"):
        entity.call(operation, request_)
    assert entity.text == before


def test_a_state_of_another_version_is_begun_anew() -> None:
    entity = Entity({"tokens": 5})
    entity.call("check", {"number": 1, "at": at(1).isoformat()})
    assert entity.pause() == TAKEN


@pytest.mark.parametrize("instance", ["x", "a:b-c_d.e", "a@b", "~", "ä/b%2F", "x" * 300, "\ud800", "%7E"])
def test_every_instance_id_has_a_key_of_its_own(instance: str) -> None:
    others = ["x", "a:b-c_d.e", "a%40b", "a@b", "~", "%7E", "ä/b%2F", "ä%2Fb", "x" * 300, "x" * 301, "\ud800", "\ud801"]
    key = pause_key(instance)
    assert EntityInstanceId.parse(str(EntityInstanceId(PAUSE, key))).key == key
    assert len(key) <= 200
    assert [other for other in others if pause_key(other) == key] == [instance]
