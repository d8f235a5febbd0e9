"""Every path of the sign-up, on a real engine."""

import json
import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from durabletask.task import RetryPolicy

from activities import records as record_activities
from activities import signup as effects
from contracts.base import as_utc_text
from contracts.records import RecordBatch
from contracts.signup import QuietHours
from entities import rate_limit
from local_host.task_hub.clock import ManualClock
from orchestrators import signup as orchestrator
from orchestrators.signup import CHANGE_EMAIL, EVENTS, RESEND, STOP_REMINDERS, VERIFY
from services import purge_list
from services.record_store import RecordStore, RecordStoreError, get_record_store
from services.record_store_sqlite import SqliteRecordStore
from tests.orchestrators.engine import Engine, running_engine
from tests.orchestrators.reading import actions, answered, entries, head, open_waits, said, size, verdict, waits_of
from tests.orchestrators.signing_up import (
    EMAIL,
    FIRST,
    LAST,
    OTHER,
    PERSONAL,
    WAITING,
    ask,
    begun,
    change,
    follow,
    given,
    kinds,
    link_in,
    mails,
    standing,
    type_code,
    vouch,
    wrong,
)
from triggers.signup import address_key

CREATING, EXPIRED, TOO_LONG = "creating_account", "expired", "execution_timed_out"
AT = "%Y-%m-%dT%H:%M"


def accounts(folder: Path) -> list[dict[str, Any]]:
    """What the accounts hold, by their user names."""
    files = sorted((folder / "accounts" / "users").glob("*.json"))
    return [json.loads(file.read_text()) for file in files]


def over(engine: Engine, instance: str, status: str) -> dict[str, Any]:
    """The output of a run that has ended so, and left nothing open."""
    output: dict[str, Any] = engine.output(instance)
    assert output["status"] == status, output
    assert not open_waits(instance)
    assert verdict(engine, instance) == "intact"
    assert engine.phase(instance, status)["waiting_for"] is None
    return output


def finish(engine: Engine, instance: str) -> None:
    """See that a run can still be verified, and that nothing of it is left for the tests that follow."""
    vouch(engine, instance)
    over(engine, instance, "done")


@contextmanager
def suspended(engine: Engine, instance: str) -> Iterator[None]:
    """What happens meanwhile is there when the run goes on."""
    engine.client.suspend_orchestration(instance)
    engine.state(instance)
    yield
    engine.client.resume_orchestration(instance)
    engine.state(instance)


@contextmanager
def away(folder: Path, name: str) -> Iterator[None]:
    """A folder that is not there, and cannot be made."""
    path, aside = folder / name, folder / f"{name}-aside"
    if path.exists():
        path.rename(aside)
    path.write_text("a file")
    yield
    path.unlink()
    if aside.exists():
        aside.rename(path)


def next_reminder(engine: Engine, instance: str) -> str | None:
    """When the next reminder is due, to the minute."""
    at = standing(engine, instance)["next_reminder"]
    return datetime.fromisoformat(at).strftime(AT) if at is not None else None


# Verified


def test_a_program_vouches_for_a_user(engine: Engine, data_folder: Path) -> None:
    instance = begun(engine, given("Alice-1"))
    (wait,) = open_waits(instance)
    assert (wait.kind, wait.title, wait.people, wait.actions) == ("signup", "Sign-up of Alice-1", (), ("verify",))
    assert wait.path == "/api/signups/signup-alice-1"
    assert wait.deadline is not None
    assert engine.status(instance)["deadline"] == as_utc_text(wait.deadline)
    vouch(engine, instance, "v1", source="a program")
    assert over(engine, instance, "done")["source"] == "a program"
    assert answered(engine, instance, "v1") == "taken"
    assert kinds(instance) == ["verify", "welcome"]
    (account,) = accounts(data_folder)
    assert (account["form"]["username"], account["form"]["email"], account["vouched"]) == ("Alice-1", EMAIL, True)
    assert [is_open for _, is_open in waits_of(instance)] == [False]
    assert said(instance) == [
        ("started", None, "api", None, WAITING),
        ("mailed", None, None, WAITING, WAITING),
        ("verified", None, "api", WAITING, CREATING),
        ("account_created", None, None, CREATING, "done"),
        ("mailed", None, None, "done", "done"),
        ("ended", None, None, "done", "done"),
    ]


def test_the_link_in_the_mail_verifies(engine: Engine, data_folder: Path) -> None:
    instance = begun(engine)
    (mail,) = mails(instance)
    assert mail.to == EMAIL
    follow(engine, instance, mail, "v1")
    assert over(engine, instance, "done")["source"] == "link"
    (account,) = accounts(data_folder)
    assert (account["vouched"], account["source"]) == (False, "link")
    verified = next(each for each in entries(instance) if each.action == "verified")
    assert (verified.channel, verified.detail) == ("link", "link")


def test_the_code_in_the_mail_verifies(engine: Engine, data_folder: Path) -> None:
    instance = begun(engine)
    type_code(engine, instance, link_in(mails(instance)[0]).code)
    over(engine, instance, "done")
    assert len(accounts(data_folder)) == 1


def test_a_verification_that_comes_with_the_start_counts(engine: Engine) -> None:
    instance = engine.start("signup", given("at-once"), "signup-at-once")
    vouch(engine, instance, "v1")
    over(engine, instance, "done")
    assert answered(engine, instance, "v1") == "taken"
    assert kinds(instance)[-1] == "welcome"


def test_of_fifty_verifications_at_once_one_is_taken(engine: Engine, data_folder: Path) -> None:
    instance = begun(engine)
    with suspended(engine, instance):
        for number in range(50):
            vouch(engine, instance, f"v{number}", source=f"s{number}")
    over(engine, instance, "done")
    codes = [answered(engine, instance, f"v{number}") for number in range(50)]
    assert codes == ["taken"] + ["already_verified"] * 49
    assert standing(engine, instance)["source"] == "s0"
    assert actions(instance).count("verified") == 1
    assert actions(instance).count("refused") <= 5
    assert len(accounts(data_folder)) == 1
    assert kinds(instance) == ["verify", "welcome"]
    assert size(engine, instance) < 16_000


def test_the_one_that_was_taken_is_known_though_its_verdict_has_made_room(engine: Engine) -> None:
    instance = begun(engine)
    with suspended(engine, instance):
        for number in range(90):
            vouch(engine, instance, f"v{number}")
    over(engine, instance, "done")
    assert answered(engine, instance, "v0") is None
    first = standing(engine, instance)["verified_by"]
    other = begun(engine)
    vouch(engine, other, "v0")
    over(engine, other, "done")
    assert standing(engine, other)["verified_by"] == first


def test_the_same_verification_twice_is_taken_once(engine: Engine) -> None:
    instance = begun(engine)
    with suspended(engine, instance):
        for _ in range(3):
            vouch(engine, instance, "v1")
    over(engine, instance, "done")
    assert answered(engine, instance, "v1") == "taken"
    assert (actions(instance).count("verified"), actions(instance).count("refused")) == (1, 0)


def test_an_event_without_an_id_counts_too(engine: Engine) -> None:
    instance = begun(engine)
    engine.event(instance, VERIFY, {"source": "dashboard"})
    assert over(engine, instance, "done")["source"] == "dashboard"
    assert next(each for each in entries(instance) if each.action == "verified").channel == "event"


# Reminders


def test_reminders_go_out_up_to_a_number_and_then_none(engine: Engine) -> None:
    instance = begun(engine, given(remind_hours=6, max_reminders=3, expires_hours=48))
    for number in range(1, 4):
        engine.advance(hours=5, minutes=59, seconds=59)
        assert standing(engine, instance)["reminders"] == number - 1
        engine.advance(seconds=1)
        assert standing(engine, instance)["reminders"] == number
    assert next_reminder(engine, instance) is None
    engine.advance(hours=29)
    engine.phase(instance, WAITING)
    assert kinds(instance) == ["verify", "reminder", "reminder", "reminder"]
    first, *repeated = [link_in(mail) for mail in mails(instance)]
    assert repeated == [first] * 3
    follow(engine, instance, mails(instance)[-1])
    over(engine, instance, "done")
    assert actions(instance).count("reminded") == 3


@pytest.mark.parametrize("rules", [{"max_reminders": 0}, {"remind_hours": 48, "expires_hours": 48}], ids=repr)
def test_without_a_time_for_them_there_are_no_reminders(engine: Engine, rules: dict[str, Any]) -> None:
    instance = begun(engine, given(**rules))
    assert next_reminder(engine, instance) is None
    engine.advance(days=7)
    over(engine, instance, EXPIRED)
    assert actions(instance).count("reminded") == 0


@pytest.mark.parametrize("when", ["before", "after a reminder"])
def test_reminders_can_be_stopped_and_that_twice(engine: Engine, when: str) -> None:
    instance = begun(engine)
    if when != "before":
        engine.advance(hours=24)
    sent = len(mails(instance))
    for decision_id in ("s1", "s2", "s1"):
        ask(engine, instance, STOP_REMINDERS, decision_id, channel="link")
        assert standing(engine, instance)["reminders_stopped"] is True
    assert [answered(engine, instance, each) for each in ("s1", "s2")] == ["taken", "taken"]
    assert actions(instance).count("reminders_stopped") == 1
    assert next_reminder(engine, instance) is None
    engine.advance(days=5)
    engine.phase(instance, WAITING)
    assert len(mails(instance)) == sent
    follow(engine, instance, mails(instance)[0])
    over(engine, instance, "done")


def test_after_a_stop_a_mail_that_is_asked_for_brings_no_reminders_back(engine: Engine) -> None:
    instance = begun(engine)
    ask(engine, instance, STOP_REMINDERS)
    engine.advance(minutes=2)
    ask(engine, instance, RESEND, "r1")
    assert answered(engine, instance, "r1") == "taken"
    engine.advance(days=3)
    assert kinds(instance) == ["verify", "verify"]


def test_a_stop_while_the_mail_is_under_way_counts(engine: Engine, data_folder: Path) -> None:
    with away(data_folder, "outbox"):
        instance = begun(engine)
        ask(engine, instance, STOP_REMINDERS, "s1")
        assert answered(engine, instance, "s1") == "taken"
    engine.advance(minutes=5)
    assert kinds(instance) == ["verify"]
    assert next_reminder(engine, instance) is None


# Quiet hours


@pytest.fixture(scope="module")
def in_march(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine whose clock is set to a day in March."""
    start = ManualClock(datetime(2026, 3, 20, tzinfo=UTC))
    with running_engine(tmp_path_factory.mktemp("march"), start) as engine:
        yield engine


@pytest.fixture
def at(in_march: Engine, data_folder: Path) -> Callable[[str], Engine]:
    """Gives the engine at a time, which is later than those of the tests before."""

    def moved(time: str) -> Engine:
        ahead = datetime.fromisoformat(time).replace(tzinfo=UTC) - in_march._control.now
        assert ahead.total_seconds() >= 0
        in_march.advance(seconds=ahead.total_seconds())
        return in_march

    return moved


def asleep(start: str = "21:00", end: str = "08:00", **rules: Any) -> dict[str, Any]:
    """A sign-up from Berlin that is reminded every two hours."""
    return given(remind_hours=2, quiet=QuietHours(start=start, end=end, zone="Europe/Berlin"), **rules)


@pytest.mark.parametrize(
    ("begins", "end", "due"),
    [
        ("2026-03-27T22:30", "08:00", "2026-03-28T07:00"),
        ("2026-03-28T22:30", "08:00", "2026-03-29T06:00"),  # the clocks are put forward in this night
        ("2026-03-28T22:31", "02:30", "2026-03-29T01:00"),  # 2:30 does not come; it is 3:00 then
        ("2026-03-29T17:30", "08:00", "2026-03-30T06:00"),
        ("2026-10-24T17:30", "08:00", "2026-10-25T07:00"),  # put back
        ("2026-10-24T23:10", "08:00", "2026-10-25T07:00"),
        ("2026-10-25T04:59", "08:00", "2026-10-25T07:00"),
        ("2026-10-25T05:00", "08:00", "2026-10-25T07:00"),
        ("2026-10-25T05:01", "08:00", "2026-10-25T07:01"),
    ],
)
def test_quiet_hours_are_those_of_the_clock_on_the_wall(
    at: Callable[[str], Engine], begins: str, end: str, due: str
) -> None:
    engine = at(begins)
    instance = begun(engine, asleep(end=end, max_reminders=1))
    assert next_reminder(engine, instance) == due
    finish(engine, instance)


def test_a_reminder_goes_out_at_the_end_of_the_quiet_hours(at: Callable[[str], Engine]) -> None:
    instance = begun(at("2026-11-01T18:30"), asleep(max_reminders=2))
    at("2026-11-02T06:59")
    assert kinds(instance) == ["verify"]
    engine = at("2026-11-02T07:00")
    assert kinds(instance) == ["verify", "reminder"]
    assert next_reminder(engine, instance) == "2026-11-02T09:00"
    follow(engine, instance, mails(instance)[-1])
    over(engine, instance, "done")


def test_a_reminder_that_was_missed_in_a_long_pause_is_no_reason_to_wake_anybody(
    at: Callable[[str], Engine],
) -> None:
    engine = at("2026-11-02T12:00")
    instance = begun(engine, asleep(max_reminders=2))
    assert next_reminder(engine, instance) == "2026-11-02T14:00"
    with suspended(engine, instance):
        at("2026-11-02T22:00")
    assert kinds(instance) == ["verify"]
    assert next_reminder(engine, instance) == "2026-11-03T07:00"
    at("2026-11-03T07:00")
    assert kinds(instance) == ["verify", "reminder"]
    assert next_reminder(engine, instance) == "2026-11-03T09:00"
    with suspended(engine, instance):
        at("2026-11-03T17:00")
    assert kinds(instance) == ["verify", "reminder", "reminder"]
    assert next_reminder(engine, instance) is None
    finish(engine, instance)


def test_a_reminder_whose_quiet_hours_last_until_the_end_is_left_out(at: Callable[[str], Engine]) -> None:
    engine = at("2026-11-04T19:30")
    instance = begun(engine, asleep(expires_hours=11))
    assert next_reminder(engine, instance) is None
    longer = begun(engine, asleep(expires_hours=12))
    assert next_reminder(engine, longer) == "2026-11-05T07:00"
    at("2026-11-05T07:30")
    over(engine, longer, EXPIRED)


def test_reminders_that_were_missed_are_made_up_for_by_one(engine: Engine) -> None:
    instance = begun(engine, given(remind_hours=24, max_reminders=3))
    with suspended(engine, instance):
        engine.advance(days=2, hours=12)
    assert kinds(instance) == ["verify", "reminder"]
    assert standing(engine, instance)["reminders"] == 1
    engine.advance(hours=24)
    assert kinds(instance) == ["verify", "reminder", "reminder"]
    finish(engine, instance)


def test_a_pause_over_the_end_expires_it_without_reminders(engine: Engine) -> None:
    instance = begun(engine)
    with suspended(engine, instance):
        engine.advance(days=8)
    over(engine, instance, EXPIRED)
    assert actions(instance) == ["started", "mailed", "expired", "ended"]


# The end


def listed(instance: str) -> list[str]:
    """The runs of an instance that are to be purged at once."""
    found, _ = purge_list.window(get_record_store(), None, 1000)
    return [each.run for each in found if each.instance_id == instance]


def test_an_expired_sign_up_erases_its_mails_and_is_to_be_purged(engine: Engine, data_folder: Path) -> None:
    instance, other = begun(engine), begun(engine, given(email=OTHER))
    engine.advance(days=6, hours=23, minutes=59, seconds=59)
    assert kinds(instance) == ["verify"] + ["reminder"] * 3
    vouch(engine, other)
    engine.advance(seconds=1)
    assert over(engine, instance, EXPIRED)["source"] is None
    assert mails(instance) == []
    assert "welcome" in kinds(other)
    assert listed(instance) == [head(engine, instance).run]
    assert listed(other) == []
    assert actions(instance)[-2:] == ["expired", "ended"]
    assert [account["instance_id"] for account in accounts(data_folder)] == [other]


@pytest.mark.parametrize(("first", "status"), [("the verification", "done"), ("the time", "expired")])
def test_at_the_very_moment_what_came_first_counts(engine: Engine, data_folder: Path, first: str, status: str) -> None:
    instance = begun(engine)
    engine.advance(days=6)
    (claims, *_) = [link_in(mail).claims for mail in mails(instance)]
    link = {"run": claims.run, "generation": claims.generation}
    with suspended(engine, instance):
        if first == "the verification":
            ask(engine, instance, VERIFY, "v1", source="link", link=link)
        engine.advance(days=1)
        if first == "the time":
            ask(engine, instance, VERIFY, "v1", source="link", link=link)
    over(engine, instance, status)
    assert len(accounts(data_folder)) == (1 if status == "done" else 0)
    if status == "done":
        assert answered(engine, instance, "v1") == "taken"
    else:
        assert answered(engine, instance, "v1") in (None, "too_late")
        assert mails(instance) == []


@pytest.mark.parametrize("ends", [{"expires_hours": 24}, {"timeout": 86_400.0}], ids=repr)
def test_no_mail_goes_out_after_what_is_personal_was_erased(
    engine: Engine, data_folder: Path, ends: dict[str, Any]
) -> None:
    instance = begun(engine, given(remind_hours=23.999, **ends))
    with away(data_folder, "outbox"):
        engine.advance(hours=24)  # the reminder is still being tried
        assert engine.state(instance).runtime_status.name == "RUNNING"
    engine.advance(minutes=2)
    engine.end(instance)
    assert standing(engine, instance)["reminders"] == 1
    assert (mails(instance), open_waits(instance)) == ([], [])
    assert listed(instance)


def test_the_end_waits_until_what_is_personal_can_be_erased(
    engine: Engine, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = begun(engine)
    engine.advance(days=6)
    with monkeypatch.context() as patch:
        patch.setattr(SqliteRecordStore, "write", _no_writing)
        engine.advance(days=1, hours=1)
        assert engine.state(instance).runtime_status.name == "RUNNING"
        assert mails(instance)
    engine.advance(hours=1)
    over(engine, instance, EXPIRED)
    assert mails(instance) == []
    assert listed(instance)


def _no_writing(*_: Any) -> None:
    raise RecordStoreError("away")


def test_a_run_that_takes_too_long_fails_and_erases_too(engine: Engine) -> None:
    instance = begun(engine, given(timeout=3600))
    engine.advance(seconds=3599)
    engine.phase(instance, WAITING)
    engine.advance(seconds=1)
    state = engine.end(instance)
    assert state.failure_details is not None
    assert state.failure_details.message == "The run took longer than its execution timeout allows."
    assert engine.phase(instance, TOO_LONG)["waiting_for"] is None
    assert actions(instance)[-2:] == ["timed_out", "ended"]
    assert (mails(instance), open_waits(instance)) == ([], [])
    assert listed(instance)
    assert verdict(engine, instance) == "intact"


def test_what_was_verified_in_time_may_take_longer(engine: Engine, data_folder: Path) -> None:
    instance = begun(engine, given(timeout=3600))
    with away(data_folder, "accounts"):
        vouch(engine, instance)
        engine.advance(hours=2)
        engine.phase(instance, CREATING)
    engine.advance(hours=1)
    over(engine, instance, "done")


# Another mail


def test_another_mail_is_sent_after_a_while_and_makes_the_older_one_dead(engine: Engine) -> None:
    instance = begun(engine)
    engine.advance(seconds=59.9)
    ask(engine, instance, RESEND, "r1", channel="page")
    engine.advance(seconds=0.1)
    ask(engine, instance, RESEND, "r2", channel="page")
    assert [answered(engine, instance, each) for each in ("r1", "r2")] == ["too_soon", "taken"]
    old, new = (link_in(mail) for mail in mails(instance))
    assert (old.claims.generation, new.claims.generation) == (1, 2)
    assert old.code != new.code
    assert kinds(instance) == ["verify", "verify"]
    follow(engine, instance, mails(instance)[0], "old")
    type_code(engine, instance, old.code, "old-code")
    assert [answered(engine, instance, each) for each in ("old", "old-code")] == ["old_link", "wrong_code"]
    engine.phase(instance, WAITING)
    engine.advance(hours=24)
    assert link_in(mails(instance)[-1]) == new
    follow(engine, instance, mails(instance)[1], "new")
    over(engine, instance, "done")
    assert answered(engine, instance, "new") == "taken"


def test_an_older_mail_that_goes_out_last_takes_nothing_from_the_code_of_the_newer_one(
    engine: Engine, data_folder: Path
) -> None:
    with away(data_folder, "outbox"):
        instance = begun(engine, given(resend_seconds=0))
    ask(engine, instance, RESEND)
    (newer,) = mails(instance)
    engine.advance(minutes=5)
    assert [link_in(mail).claims.generation for mail in mails(instance)] == [1, 2]
    type_code(engine, instance, link_in(newer).code, "c1")
    over(engine, instance, "done")
    assert answered(engine, instance, "c1") == "taken"


def test_the_time_until_a_reminder_begins_anew_with_another_mail(engine: Engine) -> None:
    instance = begun(engine)
    engine.advance(hours=20)
    ask(engine, instance, RESEND)
    engine.advance(hours=23, minutes=59)
    assert kinds(instance) == ["verify", "verify"]
    engine.advance(minutes=1)
    assert kinds(instance) == ["verify", "verify", "reminder"]
    ask(engine, instance, RESEND, "r1")
    assert answered(engine, instance, "r1") == "too_soon"  # a reminder is a mail too
    finish(engine, instance)


def test_another_mail_is_not_sent_without_end(engine: Engine) -> None:
    instance = begun(engine)
    for number in range(7):
        engine.advance(minutes=1)
        ask(engine, instance, RESEND, f"r{number}")
    assert [answered(engine, instance, f"r{number}") for number in range(7)] == ["taken"] * 5 + ["too_often"] * 2
    assert kinds(instance) == ["verify"] * 6
    finish(engine, instance)


def test_of_two_at_the_same_moment_one_mail_is_sent(engine: Engine) -> None:
    instance = begun(engine)
    engine.advance(minutes=1)
    with suspended(engine, instance):
        for number in range(2):
            ask(engine, instance, RESEND, f"r{number}")
    assert [answered(engine, instance, f"r{number}") for number in range(2)] == ["taken", "too_soon"]
    assert kinds(instance) == ["verify"] * 2
    finish(engine, instance)


def test_a_mail_that_was_asked_for_at_the_moment_of_the_verification_is_not_sent(engine: Engine) -> None:
    instance = begun(engine)
    engine.advance(minutes=1)
    with suspended(engine, instance):
        vouch(engine, instance, "v1")
        ask(engine, instance, RESEND, "r1")
        ask(engine, instance, STOP_REMINDERS, "s1")
    over(engine, instance, "done")
    assert [answered(engine, instance, each) for each in ("r1", "s1")] == ["already_verified"] * 2
    assert kinds(instance) == ["verify", "welcome"]


# Codes


def test_five_wrong_codes_lock_the_code_but_not_the_link(engine: Engine) -> None:
    instance = begun(engine)
    right = link_in(mails(instance)[0]).code
    for number in range(5):
        type_code(engine, instance, wrong(right), f"c{number}")
        assert standing(engine, instance)["wrong_codes"] == number + 1
    type_code(engine, instance, right, "right")
    type_code(engine, instance, wrong(right), "c5")
    codes = [answered(engine, instance, each) for each in ("c4", "right", "c5")]
    assert codes == ["wrong_code", "locked", "locked"]
    assert standing(engine, instance)["wrong_codes"] == 5
    follow(engine, instance, mails(instance)[0], "link")
    over(engine, instance, "done")
    assert answered(engine, instance, "link") == "taken"


def test_the_fifth_try_may_be_the_right_one(engine: Engine) -> None:
    instance = begun(engine)
    right = link_in(mails(instance)[0]).code
    with suspended(engine, instance):
        pass
    for _ in range(4):
        type_code(engine, instance, wrong(right))
    type_code(engine, instance, right)
    over(engine, instance, "done")


def test_many_codes_at_the_same_moment_get_no_more_tries(engine: Engine) -> None:
    instance = begun(engine)
    claims = link_in(mails(instance)[0]).claims
    link = {"run": claims.run, "generation": claims.generation}
    with suspended(engine, instance):
        for number in range(20):
            ask(engine, instance, VERIFY, f"c{number}", source="code", link=link | {"code": "wrong"})
        ask(engine, instance, VERIFY, "right", source="code", link=link | {"code": "right"})
    codes = [answered(engine, instance, f"c{number}") for number in range(20)]
    assert codes == ["wrong_code"] * 5 + ["locked"] * 15
    assert answered(engine, instance, "right") == "locked"
    assert actions(instance).count("refused") <= 5
    finish(engine, instance)


def test_with_another_mail_wrong_codes_are_counted_anew(engine: Engine) -> None:
    instance = begun(engine)
    for _ in range(5):
        type_code(engine, instance, wrong(link_in(mails(instance)[0]).code))
    engine.advance(minutes=1)
    ask(engine, instance, RESEND)
    assert standing(engine, instance)["wrong_codes"] == 0
    right = link_in(mails(instance)[1]).code
    type_code(engine, instance, wrong(right), "wrong")
    type_code(engine, instance, right, "right")
    over(engine, instance, "done")
    assert [answered(engine, instance, each) for each in ("wrong", "right")] == ["wrong_code", "taken"]


def guess(engine: Engine, instance: str, decision_id: str, code: str, **more: Any) -> str | None:
    """Say that a code was typed, and whether it fits; gives the verdict."""
    link = {"run": head(engine, instance).run, "generation": standing(engine, instance)["generation"], "code": code}
    ask(engine, instance, VERIFY, decision_id, source="code", link=link | more, channel="page")
    return answered(engine, instance, decision_id)


def test_the_wrong_codes_of_strangers_lock_nobody_out_of_the_own_browser(engine: Engine) -> None:
    instance = begun(engine)
    codes = [guess(engine, instance, f"s{number}", "wrong", by_name=True) for number in range(6)]
    assert codes == ["wrong_code"] * 5 + ["locked"]
    assert guess(engine, instance, "right", "right", by_name=True) == "locked"
    counted = standing(engine, instance)
    assert (counted["wrong_codes"], counted["wrong_codes_by_name"]) == (0, 5)
    type_code(engine, instance, link_in(mails(instance)[0]).code)
    over(engine, instance, "done")


def test_codes_are_guessed_only_so_often_in_a_day_for_one_mailbox(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orchestrator, "MAX_GUESSES", 4)
    one, other = begun(engine), begun(engine, given(email=EMAIL.replace("@", "+more@")))
    assert [guess(engine, one, f"o{number}", "wrong") for number in range(3)] == ["wrong_code"] * 3
    assert [guess(engine, other, f"o{number}", "wrong") for number in range(2)] == ["wrong_code", "guessed_out"]
    assert guess(engine, other, "right", "right") == "guessed_out"
    assert standing(engine, other)["wrong_codes"] == 1
    follow(engine, one, mails(one)[0])
    over(engine, one, "done")
    engine.advance(hours=24)
    assert guess(engine, other, "later", "right") == "taken"
    over(engine, other, "done")


@pytest.mark.parametrize("why", ["known", "not sent"])
def test_a_code_that_is_in_no_mail_is_never_right(engine: Engine, data_folder: Path, why: str) -> None:
    if why == "known":
        has_account(engine)
        instance = begun(engine)
    else:
        with away(data_folder, "outbox"):
            instance = begun(engine)
            assert guess(engine, instance, "under-way", "right") == "wrong_code"
            engine.advance(minutes=5)
    assert guess(engine, instance, "c1", "right") == "wrong_code"
    finish(engine, instance)


@pytest.mark.parametrize("link", [{"run": "20200101T000000000000Z", "generation": 1}, {"generation": 2}], ids=repr)
def test_a_link_of_another_run_or_of_no_mail_is_refused(engine: Engine, link: dict[str, Any]) -> None:
    instance = begun(engine)
    for code in (None, "right"):
        asked = {"run": head(engine, instance).run, "code": code} | link
        ask(engine, instance, VERIFY, f"v-{code}", source="link", link=asked)
        assert answered(engine, instance, f"v-{code}") == "old_link"
    assert standing(engine, instance)["wrong_codes"] == 0
    finish(engine, instance)


# Another address


def everything(engine: Engine, instance: str, folder: Path) -> str:
    """All that there is of a run but its mails: history, custom status, records; in lower case."""
    history = b"".join(event.SerializeToString() for event in engine.history(instance)).decode(errors="replace")
    with closing(sqlite3.connect(folder / "records.db")) as file:
        rows = repr(file.execute("SELECT * FROM record").fetchall())
    state = engine.state(instance)
    return f"{history} {rows} {state.serialized_input} {state.serialized_custom_status}".lower()


def test_the_address_can_be_changed_and_nothing_has_the_old_one_any_more(engine: Engine, data_folder: Path) -> None:
    instance = begun(engine)
    before = engine.status(instance)
    assert EMAIL in everything(engine, instance, data_folder)
    engine.advance(hours=25)
    change(engine, instance, OTHER, "c1")
    status = engine.phase(instance, WAITING)
    assert answered(engine, instance, "c1") == "taken"
    assert EMAIL not in everything(engine, instance, data_folder)
    asked = json.loads(engine.state(instance).serialized_input or "{}")
    assert (asked["form"]["email"], asked["form"]["firstname"], asked["address_key"]) == (
        OTHER,
        FIRST,
        address_key(OTHER),
    )
    assert (status["deadline"], status["wait"]) == (before["deadline"], before["wait"])
    assert status["trail"]["run"] == before["trail"]["run"]
    assert [(mail.to, kind) for mail, kind in zip(mails(instance), kinds(instance), strict=True)] == [
        (EMAIL, "verify"),
        (EMAIL, "reminder"),
        (OTHER, "verify"),
    ]
    follow(engine, instance, mails(instance)[1], "old")
    assert answered(engine, instance, "old") == "old_link"
    type_code(engine, instance, link_in(mails(instance)[2]).code, "new")
    over(engine, instance, "done")
    assert answered(engine, instance, "new") == "taken"
    assert accounts(data_folder)[0]["form"]["email"] == OTHER
    assert mails(instance)[-1].to == OTHER
    assert EMAIL not in everything(engine, instance, data_folder)
    assert [each for each in actions(instance) if each != "refused"] == [
        "started",
        "mailed",
        "reminded",
        "mailed",
        "address_changed",
        "mailed",
        "verified",
        "account_created",
        "mailed",
        "ended",
    ]


def test_after_a_change_reminders_and_the_end_go_on(engine: Engine) -> None:
    instance = begun(engine, given(max_reminders=2))
    engine.advance(hours=36)
    change(engine, instance, OTHER)
    assert standing(engine, instance)["reminders"] == 1
    engine.advance(hours=24)
    assert kinds(instance) == ["verify", "reminder", "verify", "reminder"]
    assert mails(instance)[-1].to == OTHER
    engine.advance(days=4, hours=12)
    over(engine, instance, EXPIRED)
    assert mails(instance) == []


def test_who_stopped_the_reminders_to_one_address_did_not_stop_those_to_another(engine: Engine) -> None:
    instance = begun(engine)
    ask(engine, instance, STOP_REMINDERS)
    change(engine, instance, OTHER)
    engine.advance(hours=24)
    assert [mail.to for mail in mails(instance)] == [EMAIL, OTHER, OTHER]
    ask(engine, instance, STOP_REMINDERS)
    engine.advance(hours=24)
    assert kinds(instance) == ["verify", "verify", "reminder"]
    finish(engine, instance)


def test_a_stop_for_one_address_is_refused_where_mails_go_to_another_by_now(engine: Engine) -> None:
    instance = begun(engine)
    with suspended(engine, instance):
        change(engine, instance, OTHER, "c1")
        ask(engine, instance, STOP_REMINDERS, "s0", changes=0, channel="link")
    ask(engine, instance, STOP_REMINDERS, "s0-later", changes=0, channel="link")
    assert [answered(engine, instance, each) for each in ("c1", "s0", "s0-later")] == ["taken", "old_link", "old_link"]
    assert standing(engine, instance)["reminders_stopped"] is False
    assert next_reminder(engine, instance) is not None
    ask(engine, instance, STOP_REMINDERS, "s1", changes=1, channel="link")
    assert answered(engine, instance, "s1") == "taken"
    assert standing(engine, instance)["reminders_stopped"] is True
    finish(engine, instance)


def test_another_mail_that_is_asked_for_at_the_moment_of_the_change_is_not_sent_besides(engine: Engine) -> None:
    instance = begun(engine, given(resend_seconds=0))
    with suspended(engine, instance):
        change(engine, instance, OTHER, "c1")
        ask(engine, instance, RESEND, "r1")
    assert [answered(engine, instance, each) for each in ("c1", "r1")] == ["taken", "too_soon"]
    assert [(mail.to, link_in(mail).claims.generation) for mail in mails(instance)] == [(EMAIL, 1), (OTHER, 2)]
    ask(engine, instance, RESEND, "r2")
    assert answered(engine, instance, "r2") == "taken"
    finish(engine, instance)


def test_a_change_that_waits_for_a_mail_when_the_time_is_up_begins_nothing_anew(
    engine: Engine, data_folder: Path
) -> None:
    with away(data_folder, "outbox"):
        instance = begun(engine, given(expires_hours=1 / 120))
        change(engine, instance, OTHER, "c1")
        engine.advance(seconds=30)
        engine.phase(instance, EXPIRED)
    engine.advance(minutes=5)
    over(engine, instance, EXPIRED)
    assert mails(instance) == []
    assert actions(instance) == ["started", "address_changed", "expired", "ended"]


def test_a_change_leaves_the_time_that_a_run_may_take(engine: Engine) -> None:
    instance = begun(engine, given(timeout=3600))
    engine.advance(minutes=50)
    change(engine, instance, OTHER)
    engine.advance(minutes=9, seconds=59)
    engine.phase(instance, WAITING)
    engine.advance(seconds=1)
    engine.end(instance)
    engine.phase(instance, TOO_LONG)
    assert mails(instance) == []


@pytest.mark.parametrize("address", [EMAIL, EMAIL.upper(), EMAIL.replace("example", "\uff45xample")])
def test_the_same_address_is_no_change(engine: Engine, address: str) -> None:
    instance = begun(engine)
    change(engine, instance, address, "c1")
    assert answered(engine, instance, "c1") == "same_address"
    assert standing(engine, instance)["generation"] == 1
    finish(engine, instance)


def test_an_address_whose_domain_is_another_one_by_the_rules_of_today_is_a_change(engine: Engine) -> None:
    instance = begun(engine, given(email="ann@strasse.example"))
    change(engine, instance, "ann@stra\u00dfe.example", "c1")
    assert answered(engine, instance, "c1") == "taken"
    assert mails(instance)[-1].to != "ann@strasse.example"
    finish(engine, instance)


def test_an_address_is_not_changed_without_end(engine: Engine) -> None:
    instance = begun(engine)
    for number in range(4):
        change(engine, instance, f"u{number}@example.org", f"c{number}")
    assert [answered(engine, instance, f"c{number}") for number in range(4)] == ["taken"] * 3 + ["too_often"]
    assert [mail.to for mail in mails(instance)] == [EMAIL, *(f"u{number}@example.org" for number in range(3))]
    finish(engine, instance)


def test_of_changes_at_the_same_moment_the_last_one_gets_the_mail(engine: Engine) -> None:
    instance = begun(engine)
    with suspended(engine, instance):
        for number in range(4):
            change(engine, instance, f"u{number}@example.org", f"c{number}")
    assert [answered(engine, instance, f"c{number}") for number in range(4)] == ["taken"] * 3 + ["too_often"]
    assert [mail.to for mail in mails(instance)] == [EMAIL, "u2@example.org"]
    follow(engine, instance, mails(instance)[-1])
    over(engine, instance, "done")


@pytest.mark.parametrize("first", [VERIFY, CHANGE_EMAIL])
def test_verified_and_changed_at_the_same_moment(engine: Engine, data_folder: Path, first: str) -> None:
    instance = begun(engine)
    doing: dict[str, Callable[[], None]] = {
        VERIFY: lambda: vouch(engine, instance, "v1"),
        CHANGE_EMAIL: lambda: change(engine, instance, OTHER, "c1"),
    }
    with suspended(engine, instance):
        doing.pop(first)()
        doing.popitem()[1]()
    over(engine, instance, "done")
    has = EMAIL if first == VERIFY else OTHER
    assert answered(engine, instance, "v1") == "taken"
    assert answered(engine, instance, "c1") == ("already_verified" if first == VERIFY else "taken")
    assert [account["form"]["email"] for account in accounts(data_folder)] == [has]
    assert mails(instance)[-1].to == has
    assert kinds(instance)[-1] == "welcome"


def test_changed_and_verified_by_the_old_link_at_the_same_moment_is_not_verified(engine: Engine) -> None:
    instance = begun(engine)
    mail = mails(instance)[0]
    with suspended(engine, instance):
        change(engine, instance, OTHER, "c1")
        follow_now = link_in(mail).claims
        link = {"run": follow_now.run, "generation": follow_now.generation}
        ask(engine, instance, VERIFY, "v1", source="link", link=link)
    engine.phase(instance, WAITING)
    assert [answered(engine, instance, each) for each in ("c1", "v1")] == ["taken", "old_link"]
    finish(engine, instance)


def _store_away(store: RecordStore, batch: RecordBatch) -> list[int]:
    raise RecordStoreError("away")


def test_nothing_is_lost_that_comes_while_the_change_is_put_on_record(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = begun(engine)
    with monkeypatch.context() as patch:
        patch.setattr(record_activities, "put_on_record", _store_away)
        change(engine, instance, OTHER, "c1")
        engine.state(instance)
        for number in range(5):
            ask(engine, instance, STOP_REMINDERS, f"s{number}")
        engine.raw_event(instance, VERIFY, "{}")
        vouch(engine, instance, "v1")
    engine.advance(minutes=1)
    over(engine, instance, "done")
    assert [answered(engine, instance, each) for each in ("c1", "v1")] == ["taken"] * 2
    assert [answered(engine, instance, f"s{number}") for number in range(5)] == ["taken"] * 5
    assert mails(instance)[-1].to == OTHER


def test_nothing_is_lost_that_comes_at_the_moment_of_the_change(engine: Engine) -> None:
    instance = begun(engine)
    for number in range(30):
        if number % 10 == 3:
            said = {
                "email": f"u{number}@example.org",
                "address_key": address_key(str(number)),
                "decision_id": f"c{number}",
            }
            engine.event(instance, CHANGE_EMAIL, said)
        engine.event(instance, STOP_REMINDERS, {"decision_id": f"s{number}"})
    engine.phase(instance, WAITING)
    assert [answered(engine, instance, f"s{number}") for number in range(30)] == ["taken"] * 30
    assert [answered(engine, instance, f"c{number}") for number in (3, 13, 23)] == ["taken"] * 3
    assert mails(instance)[-1].to == "u23@example.org"
    finish(engine, instance)


@pytest.mark.parametrize("is_verified", [False, True])
def test_a_change_while_the_mail_is_under_way_waits_for_it(
    engine: Engine, data_folder: Path, is_verified: bool
) -> None:
    with away(data_folder, "outbox"):
        instance = begun(engine)
        change(engine, instance, OTHER, "c1")
        if is_verified:
            vouch(engine, instance, "v1")
        assert answered(engine, instance, "v1" if is_verified else "c1") == "taken"
        assert accounts(data_folder) == []
    engine.advance(minutes=5)
    assert [mail.to for mail in mails(instance)] == [EMAIL, OTHER]
    assert EMAIL not in everything(engine, instance, data_folder)
    if is_verified:
        over(engine, instance, "done")
        assert [account["form"]["email"] for account in accounts(data_folder)] == [OTHER]
        return
    finish(engine, instance)


def test_verdicts_are_known_after_a_change_too(engine: Engine) -> None:
    instance = begun(engine)
    change(engine, instance, OTHER, "c1")
    engine.phase(instance, WAITING)
    change(engine, instance, OTHER, "c1")
    assert answered(engine, instance, "c1") == "taken"
    assert standing(engine, instance)["changes"] == 1
    change(engine, instance, OTHER, "c2")
    assert answered(engine, instance, "c2") == "same_address"
    finish(engine, instance)


def test_what_was_refused_before_a_change_counts_for_what_the_records_keep(engine: Engine) -> None:
    instance = begun(engine)
    for number in range(3):
        ask(engine, instance, RESEND, f"before-{number}")
    change(engine, instance, OTHER)
    for number in range(4):
        ask(engine, instance, RESEND, f"after-{number}")
    assert answered(engine, instance, "after-3") == "too_soon"
    assert actions(instance).count("refused") == 5
    finish(engine, instance)


# An address that has an account


def has_account(engine: Engine, email: str = EMAIL) -> str:
    """A user who has an account."""
    instance = begun(engine, given(email=email))
    vouch(engine, instance)
    over(engine, instance, "done")
    engine.advance(seconds=1)
    return instance


def test_who_has_an_account_is_told_so_and_never_reminded(engine: Engine, data_folder: Path) -> None:
    first = has_account(engine)
    instance = begun(engine, given(email=EMAIL.upper()))
    assert kinds(instance) == ["known"]
    (mail,) = mails(instance)
    assert first.removeprefix("signup-") in mail.text
    assert instance.removeprefix("signup-") not in mail.text
    assert "confirm?" not in mail.text
    assert next_reminder(engine, instance) is None
    engine.advance(days=6)
    assert kinds(instance) == ["known"]
    ask(engine, instance, RESEND, "r1")
    assert answered(engine, instance, "r1") == "taken"
    assert kinds(instance) == ["known", "known"]
    engine.advance(days=1)
    over(engine, instance, EXPIRED)
    assert len(accounts(data_folder)) == 1


def test_a_program_gives_an_address_a_second_account(engine: Engine, data_folder: Path) -> None:
    has_account(engine)
    instance = begun(engine)
    vouch(engine, instance, "v1")
    over(engine, instance, "done")
    assert kinds(instance) == ["known", "welcome"]
    assert [account["form"]["email"] for account in accounts(data_folder)] == [EMAIL, EMAIL]


def test_who_changes_from_a_known_address_is_reminded_again(engine: Engine) -> None:
    has_account(engine)
    instance = begun(engine)
    change(engine, instance, OTHER)
    assert kinds(instance) == ["known", "verify"]
    engine.advance(hours=24)
    assert kinds(instance) == ["known", "verify", "reminder"]
    finish(engine, instance)


def test_an_address_that_got_an_account_meanwhile_is_taken(engine: Engine, data_folder: Path) -> None:
    late = begun(engine)
    engine.advance(seconds=1)
    has_account(engine)
    follow(engine, late, mails(late)[0], "v1")
    output = over(engine, late, "address_taken")
    assert (output["source"], answered(engine, late, "v1")) == ("link", "taken")
    assert kinds(late) == ["verify", "known"]
    assert len(accounts(data_folder)) == 1
    assert actions(late)[-3:] == ["account_refused", "mailed", "ended"]
    with pytest.raises(grpc.RpcError, match="has ended"):
        vouch(engine, late)


def test_of_two_for_one_address_at_the_same_moment_one_gets_it(engine: Engine, data_folder: Path) -> None:
    one = begun(engine)
    engine.advance(seconds=1)
    other = begun(engine)
    for instance in (one, other):
        follow(engine, instance, mails(instance)[0])
    statuses = sorted(engine.output(instance)["status"] for instance in (one, other))
    assert statuses == ["address_taken", "done"]
    assert len(accounts(data_folder)) == 1


# What fails


def test_too_many_mails_for_one_address_are_left_out_and_the_run_goes_on(engine: Engine) -> None:
    instances: list[str] = []
    for _ in range(3):
        instances.append(begun(engine, given(mails_per_day=2, email=EMAIL if len(instances) < 2 else EMAIL.upper())))
        engine.advance(seconds=1)
    assert [len(mails(instance)) for instance in instances] == [1, 1, 0]
    last = instances[-1]
    assert standing(engine, last)["mailed"] is False
    assert actions(last) == ["started", "mail_failed"]
    assert next_reminder(engine, last) is not None
    other = begun(engine, given(email=OTHER, mails_per_day=2))
    assert kinds(other) == ["verify"]
    for instance in (*instances[:2], other):
        vouch(engine, instance)
    assert kinds(instances[0])[-1] == "welcome"  # which nobody could ask for without an end
    engine.advance(hours=24)
    assert standing(engine, last)["mailed"] is True
    finish(engine, last)


def test_a_mail_that_may_not_go_out_leaves_the_older_one_good(engine: Engine) -> None:
    instance = begun(engine, given(mails_per_day=1))
    engine.advance(minutes=1)
    ask(engine, instance, RESEND, "r1")
    assert answered(engine, instance, "r1") == "taken"  # which tells nobody how many mails go there
    status = standing(engine, instance)
    assert (status["mailed"], status["resends"], status["generation"], status["mails"]) == (False, 1, 1, 1)
    ask(engine, instance, RESEND, "r2")
    assert answered(engine, instance, "r2") == "too_soon"
    assert next_reminder(engine, instance) is not None
    follow(engine, instance, mails(instance)[0])
    over(engine, instance, "done")


def test_the_addresses_of_one_mailbox_are_limited_together(engine: Engine) -> None:
    addresses = (EMAIL, EMAIL.replace("@", "+a@"), EMAIL.replace("@", "+b@").upper())
    instances = [begun(engine, given(mails_per_day=2, email=each)) for each in addresses]
    assert [kinds(instance) for instance in instances] == [["verify"], ["verify"], []]
    for instance in instances:
        vouch(engine, instance)


def test_reminders_are_counted_apart_from_the_mails_that_somebody_asked_for(engine: Engine) -> None:
    rules: dict[str, Any] = {"mails_per_day": 2, "remind_hours": 1}
    instance = begun(engine, given(**rules))
    engine.advance(hours=3)
    assert kinds(instance) == ["verify", "reminder", "reminder"]  # and a third that may not go out
    assert (standing(engine, instance)["reminders"], standing(engine, instance)["mailed"]) == (3, False)
    other = begun(engine, given(**rules))
    assert kinds(other) == ["verify"]
    engine.advance(hours=1)
    assert kinds(other) == ["verify"]
    for each in (instance, other):
        vouch(engine, each)


def test_two_at_the_same_moment_count_as_two_for_their_address(engine: Engine) -> None:
    one, other = (begun(engine, given(mails_per_day=1)) for _ in range(2))
    assert (kinds(one), kinds(other)) == (["verify"], [])
    for instance in (one, other):
        vouch(engine, instance)


def test_a_mail_that_cannot_be_sent_stops_nothing_and_a_reminder_tries_again(engine: Engine, data_folder: Path) -> None:
    with away(data_folder, "outbox"):
        instance = begun(engine)
        engine.advance(minutes=5)
    status = engine.phase(instance, WAITING)
    assert status["warnings"] == ["A mail could not be sent."]
    assert (status["signup"]["mailed"], actions(instance)) == (False, ["started", "mail_failed"])
    engine.advance(hours=24)
    assert kinds(instance) == ["reminder"]
    assert standing(engine, instance)["mailed"] is True
    follow(engine, instance, mails(instance)[0])
    over(engine, instance, "done")


def test_quiet_hours_that_cannot_be_told_end_no_run_and_it_reminds_without_them(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new version of the time zones may know a zone no more which a run began with."""

    def gone(*_: Any) -> datetime:
        raise ValueError("There is no such time zone.")

    monkeypatch.setattr(effects, "first_outside", gone)
    instance = begun(engine, asleep(max_reminders=1))
    engine.advance(minutes=5)
    status = engine.phase(instance, WAITING)
    assert status["warnings"] == ["The quiet hours could not be told, so that reminders do not heed them."]
    engine.advance(hours=2)
    assert kinds(instance) == ["verify", "reminder"]
    follow(engine, instance, mails(instance)[-1])
    over(engine, instance, "done")


def test_while_nothing_can_be_counted_mails_go_out_and_no_code_is_looked_at(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(rate_limit, "_take", broken)
        instance = begun(engine, given(mails_per_day=1))
        assert guess(engine, instance, "c1", "right") == "guessed_out"
        engine.advance(hours=24)
        assert kinds(instance) == ["verify", "reminder"]
        status = engine.phase(instance, WAITING)
        assert set(status["warnings"]) == {"The mails and codes of this address could not be counted."}
        assert status["signup"]["wrong_codes"] == 0
    assert guess(engine, instance, "c2", "right") == "taken"
    over(engine, instance, "done")


def test_a_welcome_that_cannot_be_sent_does_not_undo_the_account(engine: Engine, data_folder: Path) -> None:
    instance = begun(engine)
    with away(data_folder, "outbox"):
        vouch(engine, instance)
        engine.phase(instance, "done")
        engine.advance(minutes=5)
    over(engine, instance, "done")
    assert actions(instance)[-2:] == ["mail_failed", "ended"]
    assert len(accounts(data_folder)) == 1


@pytest.mark.parametrize("hours", [0.01, 3.0])
def test_an_account_is_created_when_it_can_be(engine: Engine, data_folder: Path, hours: float) -> None:
    instance = begun(engine)
    with away(data_folder, "accounts"):
        vouch(engine, instance, "v1")
        engine.phase(instance, CREATING)
        assert answered(engine, instance, "v1") == "taken"
        assert standing(engine, instance)["verified_at"] is not None
        engine.advance(hours=hours)
        vouch(engine, instance, "v2")
        change(engine, instance, OTHER, "c1")
        assert [answered(engine, instance, each) for each in ("v2", "c1")] == ["already_verified"] * 2
        assert len(engine.status(instance)["warnings"]) == (1 if hours > 1 else 0)
    engine.advance(hours=1)
    over(engine, instance, "done")
    assert kinds(instance) == ["verify", "welcome"]
    assert [account["form"]["email"] for account in accounts(data_folder)] == [EMAIL]


def test_an_account_that_cannot_be_created_in_a_month_fails_the_run(
    engine: Engine, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        orchestrator, "RECORD", RetryPolicy(first_retry_interval=timedelta(seconds=1), max_number_of_attempts=2)
    )
    instance = begun(engine)
    with away(data_folder, "accounts"):
        vouch(engine, instance)
        engine.advance(hours=1)
    state = engine.end(instance)
    assert state.failure_details is not None
    assert state.failure_details.message == "The account could not be created."
    engine.phase(instance, "failed")
    assert actions(instance)[-1] == "ended"
    assert (open_waits(instance), verdict(engine, instance)) == ([], "intact")


# What is malformed


JUNK: list[Any] = [
    None,
    True,
    42,
    "now",
    [],
    {"decision_id": "with space"},
    {"source": "", "email": "no address", "channel": "mars"},
    {"source": "x" * 101, "extra": 1},
    {"source": "api", "link": {"run": "x", "generation": 1}},
    {"email": "a@example.com\r\nBcc: b@example.com", "address_key": "0" * 32},
    {"email": "a@example.com", "address_key": EMAIL},
    {"__class__": "Settings", "__module__": "settings", "__data__": "{}"},
]


@pytest.mark.parametrize("event", EVENTS)
def test_what_is_malformed_is_set_aside(engine: Engine, event: str) -> None:
    instance = begun(engine)
    texts = [json.dumps(payload) for payload in JUNK] + ["not json", "[" * 100_000, "\x00"]
    with suspended(engine, instance):
        for text in texts:
            engine.raw_event(instance, event, text)
    status = engine.phase(instance, WAITING)
    assert all(each.startswith(f"An event '{event}' was set aside: ") for each in status["warnings"])
    assert actions(instance).count("set_aside") == len(texts)
    assert (status["signup"]["generation"], status["signup"]["reminders_stopped"]) == (1, False)
    finish(engine, instance)


def test_a_flood_of_all_kinds_neither_fails_the_run_nor_fills_its_records(engine: Engine) -> None:
    instance = begun(engine)
    with suspended(engine, instance):
        for number in range(60):
            engine.raw_event(instance, RESEND, "null")
            ask(engine, instance, RESEND, f"r{number}")
    engine.phase(instance, WAITING)
    assert size(engine, instance) < 16_000
    assert len(entries(instance)) < 40
    finish(engine, instance)


# What is personal


def test_nothing_personal_stands_outside_of_input_and_mails(
    engine: Engine, data_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Over whole runs, and with all that fails on the way."""
    caplog.set_level(logging.INFO)
    seen: list[Any] = []

    def look(*instances: str) -> None:
        seen.extend(engine.state(each).serialized_custom_status for each in instances)

    session = "5e55" * 16
    taken, expired = (begun(engine, given(session=session)) for _ in range(2))
    too_long = begun(engine, given(session=session, timeout=86_400))
    engine.advance(seconds=1)
    instances = [taken, expired, too_long]
    for event, payload in ((VERIFY, {"source": 1}), (CHANGE_EMAIL, {"email": OTHER}), (RESEND, EMAIL)):
        engine.event(taken, event, payload)
    look(*instances)
    type_code(engine, taken, wrong(link_in(mails(taken)[0]).code), "c1")
    change(engine, taken, OTHER, "c2")
    with away(data_folder, "outbox"):
        engine.advance(hours=24)
        look(*instances)
    with away(data_folder, "accounts"):
        follow(engine, taken, mails(taken)[-1], "v1")
        engine.advance(hours=2)
        look(*instances)
    engine.advance(days=7)
    look(*instances)
    assert [engine.status(each)["phase"] for each in instances] == ["done", EXPIRED, TOO_LONG]
    late = begun(engine, given(email=OTHER))
    vouch(engine, late)
    look(late)
    seen += [engine.state(each).serialized_output for each in (*instances, late)]
    seen += [engine.state(each).failure_details for each in instances]
    seen += [event.taskFailed for event in engine.history(taken) if event.HasField("taskFailed")]
    with closing(sqlite3.connect(data_folder / "records.db")) as file:
        seen += file.execute("SELECT * FROM record").fetchall()
    entities = engine.client.get_all_entities()
    assert entities
    seen += [(each.id, each.get_state()) for each in entities]
    seen += [(each.name, each.getMessage(), each.exc_text) for each in caplog.records]
    assert len(seen) > 50
    told = "\n".join(map(repr, seen)).lower()
    assert taken in told
    for each in (*PERSONAL, FIRST.lower(), LAST.lower(), session):
        assert each not in told, each
