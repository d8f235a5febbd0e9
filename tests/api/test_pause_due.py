"""What happens when a pause is long: mails to the operators, and its end; and what a restart makes of it."""

import re
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from activities.pause import cancel_paused, send_pause_mail
from contracts.base import as_utc_text
from contracts.pause_state import PauseDue, PauseState
from local_host.task_hub import ManualClock
from services import cancelling, outbox, pause_mail, pausing
from settings import get_settings
from tests.api.executions import ORDER, Api, hosting, is_listed

REASON = {"reason": "Manual review required"}
WARNING, TOO_LONG = "Paused for a day", "Paused for too long"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """The app, for all tests of this module but the last."""
    with hosting(tmp_path_factory.mktemp("data")) as api:
        yield api


def subjects(api: Api, name: str) -> list[str]:
    """The subjects of the mails about a run, in their order, without its id."""
    return [mail.subject.removesuffix(f": {name}") for mail in api.mails() if mail.subject.endswith(name)]


def test_the_operators_are_warned_after_a_day_and_told_every_day_from_the_longest_time_on(api: Api) -> None:
    name = api.waiting(timeout_hours=8000)
    api.pause(name, reason="Waiting for <b>Bob</b>")
    api.advance(hours=23, minutes=59)
    assert subjects(api, name) == []
    api.advance(minutes=1)
    assert subjects(api, name) == [WARNING]
    api.advance(days=6, minutes=-1)
    assert subjects(api, name) == [WARNING]
    api.advance(minutes=1)
    assert subjects(api, name) == [WARNING, TOO_LONG]
    api.advance(days=3)
    assert subjects(api, name) == [WARNING] + [TOO_LONG] * 4
    mails = [each for each in api.mails() if each.subject.endswith(name)]
    assert len(dict.fromkeys(each.message_id for each in mails)) == 5
    assert api.status(name) == "SUSPENDED"
    api.resume(name)
    api.advance(days=5)
    assert len(subjects(api, name)) == 5
    warning, told = mails[0], mails[1]
    until = r"Thursday, 8 January 2026, 00:00 UTC"
    for text in (warning.text, warning.html or ""):
        plain = re.sub(r"<(?!b>|/b>)[^>]+>", "", text)
        assert until in plain
        assert "then you are told every day" in plain
        assert f"/api/v1/executions/{name}/resume" in plain
        assert name in plain
    assert "<b>Bob</b>" in warning.text
    assert "&lt;b&gt;Bob" in (warning.html or "")
    assert "You are told of it every day" in told.text
    assert (told.to, told.subject) == ("operators@example.com", f"{TOO_LONG}: {name}")


def test_a_pause_that_ends_by_itself_resumes_the_run_when_its_time_is_up(api: Api) -> None:
    name = api.waiting()
    deadline = api.control.status(name)["deadline"]
    api.pause(name, max_pause="PT48H", on_max_pause="resume")
    api.advance(hours=47, minutes=59)
    assert (api.status(name), subjects(api, name)) == ("SUSPENDED", [WARNING])
    api.advance(minutes=1)
    shown = api.shown(name)
    assert (api.status(name), is_listed(name)) == ("RUNNING", False)
    assert (shown["resumed_by"], shown["last_resumed_at"]) == ("(timer)", as_utc_text(api.control.now))
    status = api.control.status(name)
    assert (status["pause"]["paused"], status["pause"]["frozen_seconds"]) == (False, 48 * 3600)
    assert status["deadline"] > deadline
    [entry] = api.told(name, "resumed")
    assert (entry.actor, entry.channel) == ("(timer)", "timer")
    api.advance(days=10)
    assert subjects(api, name) == [WARNING]


def test_a_pause_that_cancels_ends_the_run_when_its_time_is_up(api: Api) -> None:
    name = api.waiting()
    api.pause(name, max_pause=1, on_max_pause="cancel")
    api.advance(minutes=59)
    assert api.status(name) == "SUSPENDED"
    api.advance(minutes=1)
    assert (api.status(name), is_listed(name), api.shown(name)["status"]) == ("TERMINATED", False, "cancelled")
    assert name not in api.names()
    [note] = api.told(name, "cancelled")
    assert (note.actor, note.channel, note.comment) == ("(timer)", "timer", "Cancelled: it was paused for too long.")
    kept = api.kept(name)
    assert kept is not None
    assert (kept.is_paused, kept.overdue) == (False, False)
    assert subjects(api, name) == []


def test_a_run_that_ends_by_itself_just_before_the_end_of_its_pause_was_not_cancelled(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = api.running()
    api.pause(name, max_pause=1, on_max_pause="cancel")
    end, gone = cancelling.end, api.completed()

    async def late(client: Any, store: Any, state: Any, why: str) -> Any:
        await end(client, store, state, why)
        return await client.get_orchestration_state(gone)

    monkeypatch.setattr(cancelling, "end", late)
    api.advance(minutes=59)
    kept = api.kept(name)
    assert kept is not None
    ending = kept.model_copy(update={"overdue": True})
    monkeypatch.setattr(pausing, "look", partial(_given, ending))
    due = PauseDue(instance_id=name, number=1, what="cancel").plain()
    assert api.call(partial(cancel_paused, due)) == {"done": False}
    monkeypatch.undo()
    [note] = api.told(name, "cancelled")
    assert note.after is None


async def _given(kept: PauseState, *_: Any) -> PauseState:
    return kept


def test_what_fails_is_done_all_the_same_when_it_can_be_again(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled, resumed = api.waiting(), api.waiting()
    api.pause(cancelled, max_pause=1, on_max_pause="cancel")
    api.pause(resumed, max_pause=1, on_max_pause="resume")

    def broken(*_: Any, **__: Any) -> Any:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("services.cancelling.trail.append", broken)
        patch.setattr("services.pausing.paused.removed", broken)
        api.advance(hours=1, minutes=3)
        assert api.status(cancelled) == "SUSPENDED"
        assert api.post(cancelled, "resume").status_code == 409  # it is being cancelled
    api.advance(minutes=20)
    assert (api.status(cancelled), is_listed(cancelled)) == ("TERMINATED", False)
    assert (api.status(resumed), is_listed(resumed)) == ("RUNNING", False)
    assert api.shown(resumed)["resume_count"] == 1
    assert api.heard(resumed) >= 2


def test_what_is_not_to_be_done_any_more_is_not_done(api: Api) -> None:
    name = api.waiting()
    api.pause(name)
    for number in (1, 2):
        due = PauseDue(instance_id=name, number=number, what="cancel").plain()
        assert api.call(partial(cancel_paused, due)) == {"done": False}
    assert api.status(name) == "SUSPENDED"
    api.resume(name)
    due = PauseDue(instance_id=name, number=1, what="warn").plain()
    assert api.call(partial(send_pause_mail, due)) == {"done": False}
    assert subjects(api, name) == []


@pytest.mark.parametrize("how", ["resume", "terminate", "replace"])
def test_of_what_is_not_paused_any_more_nobody_is_told(api: Api, how: str) -> None:
    name = api.waiting()
    api.pause(name)
    if how == "resume":
        api.resume(name)
    else:
        api.manage(name, "terminate")
    if how == "replace":
        api.advance(seconds=1)
        assert api.http.post("/start-purchase-order", json=ORDER | {"instance_id": name}).status_code == 202
    api.advance(days=9)
    assert subjects(api, name) == []
    kept = api.kept(name)
    assert kept is not None
    assert not kept.is_paused


def test_the_settings_say_how_long_and_what_then_and_whom_to_tell(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_PAUSE_DAYS", "0.5")
    monkeypatch.setenv("ON_MAX_PAUSE", "resume")
    get_settings.cache_clear()
    first, second = api.waiting(), api.waiting()
    longest = timedelta(days=0.5)
    assert api.pause(first)["max_pause_at"] == as_utc_text(api.control.now + longest)
    assert api.pause(second, max_pause=2, on_max_pause="escalate")["on_max_pause"] == "escalate"
    api.advance(days=0.5)
    assert (api.status(first), subjects(api, second)) == ("RUNNING", [TOO_LONG])
    monkeypatch.setenv("OPERATORS_TO", "night@example.com")
    get_settings.cache_clear()
    api.advance(days=1)
    assert subjects(api, second) == [TOO_LONG]
    assert f"{TOO_LONG}: {second}" in [each.subject for each in outbox.page() if each.to == "night@example.com"]
    api.resume(second)
    monkeypatch.undo()
    get_settings.cache_clear()


def test_a_mail_that_is_sent_again_is_the_same(api: Api) -> None:
    name = api.waiting()
    api.pause(name)
    kept = api.kept(name)
    assert isinstance(kept, PauseState)
    first, again, other = (pause_mail.render("escalate", serial, kept) for serial in (2, 2, 3))
    assert first["Message-ID"] == again["Message-ID"] != other["Message-ID"]
    assert PauseDue(instance_id=name, number=1, what="warn").serial == 0
    api.resume(name)
    api.pause(name)
    later = api.kept(name)
    assert later is not None
    assert pause_mail.render("escalate", 2, later)["Message-ID"] != first["Message-ID"]


def test_a_restart_keeps_what_is_paused(tmp_path: Path) -> None:
    time = ManualClock()
    with hosting(tmp_path, time, ephemeral=False) as before:
        name = before.waiting()
        assert before.post(name, "pause", REASON, key="k").status_code == 200
    with hosting(tmp_path, time, ephemeral=False) as after:
        assert (after.names(), after.status(name)) == ([name], "SUSPENDED")
        assert after.post(name, "pause", REASON, key="k").status_code == 200
        assert after.post(name, "pause", REASON).status_code == 409
        after.resume(name)
        assert after.control.status(name)["phase"] == "waiting_for_approval"
        assert after.status(name) == "RUNNING"
