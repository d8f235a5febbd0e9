"""What the timer purges before its time: sign-ups that expired, and entities that hold nothing any more."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from azure.durable_functions import DurableFunctionsClient

from contracts.signup import mailbox_of
from local_host.testing import running_app
from services import clock, links, outbox, purge_list, waits
from services.accounts import FolderAccounts
from services.mail_rendering import message_id_of
from services.record_store import RecordStoreError
from settings import get_settings
from tests.api.test_upkeep import ROOT, House, gone
from triggers import windows

EMAIL = "ann.secret@example.org"
OTHER_RUN = "20000101T000000000000Z"
PERSONAL = (b"secret", b"Anneliese")


@pytest.fixture
def house(data_folder: Path, caplog: pytest.LogCaptureFixture) -> Iterator[House]:
    """The app, which runs its timers only when the test says so."""
    caplog.set_level(logging.INFO)
    with running_app(ROOT, data_folder) as control:
        clock.set_clock(lambda: control.now)
        try:
            yield House(control, caplog, data_folder / "records.db")
        finally:
            clock.set_clock(clock.system_clock)


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six at a time at most: two windows of three."""
    monkeypatch.setattr(windows, "WINDOW", 3)
    monkeypatch.setattr(windows, "WINDOWS", 2)


def sign_up(house: House, username: str = "ann") -> str:
    """Start a sign-up that waits to be verified, and give its run."""
    given = {
        "form": {"username": username, "email": EMAIL, "firstname": "Anneliese"},
        "rules": {"expires_hours": 72, "max_reminders": 1},
        "address_key": links.pseudonym("mailbox", mailbox_of(EMAIL)),
    }
    return run_of(house, house.control.start("signup", given, instance_id=f"signup-{username}"))


def run_of(house: House, instance: str) -> str:
    """Give the run of an instance."""
    run: str = house.control.status(instance)["trail"]["run"]
    return run


def ended(house: House, *names: str) -> None:
    """Have approvals that have ended, and are on the list."""
    for name in names:
        house.wait(name)
        house.store.write([purge_list.added(name, run_of(house, name))])
        house.decide(name)
    house.advance(seconds=1)


def on_the_list(house: House) -> list[str]:
    """Give the instances on the list."""
    return [each.instance_id for each in purge_list.window(house.store, None, 100)[0]]


def test_a_sign_up_that_expired_is_purged_in_the_next_hour_and_nothing_personal_is_left(
    house: House, data_folder: Path
) -> None:
    sign_up(house)
    house.advance(hours=71)
    assert len(outbox.page()) == 2
    assert (house.purge(), on_the_list(house)) == ({}, [])
    house.advance(hours=1)
    assert house.control.output("signup-ann")["status"] == "expired"
    assert (outbox.page(), on_the_list(house)) == ([], ["signup-ann"])
    assert not gone(house, "signup-ann")
    assert house.purge() == {"purged": 1}
    assert gone(house, "signup-ann")
    assert on_the_list(house) == []
    assert (house.rows("wait:%"), house.open_waits()) == ([], [])
    assert house.verify("signup-ann").verdict == "intact"
    assert [entry.action for entry in house.entries("signup-ann")][-3:] == ["expired", "ended", "purged"]
    assert house.purge() == {}
    assert files_with_something_personal(data_folder) == []


def test_a_sign_up_can_begin_anew_after_it_was_purged_and_is_not_purged_for_the_first(house: House) -> None:
    first = sign_up(house)
    house.advance(hours=72)
    assert house.purge() == {"purged": 1}
    second = sign_up(house)
    house.store.write([purge_list.added("signup-ann", first)])  # killed before it was taken off the list
    assert first != second
    assert house.purge() == {"gone": 1}
    assert on_the_list(house) == []
    assert house.control.status("signup-ann")["phase"] == "waiting_for_verification"


def test_a_run_that_has_not_ended_stays_on_the_list_until_it_has(house: House) -> None:
    house.wait("one")
    house.store.write([purge_list.added("one", run_of(house, "one"))])
    for _ in range(2):
        assert house.purge() == {"kept": 1}
        assert on_the_list(house) == ["one"]
    house.manage("suspend", "one")
    assert house.purge() == {"kept": 1}
    assert house.open_waits() == ["one"]
    house.manage("terminate", "one")
    assert house.purge() == {"purged": 1}
    assert (gone(house, "one"), on_the_list(house)) == (True, [])
    notes = [(entry.action, entry.after) for entry in house.entries("one") if entry.series == "app"]
    assert notes == [("ended", "terminated"), ("purged", None)]


def test_what_is_not_on_the_list_is_kept_for_its_retention(house: House) -> None:
    ended(house, "listed")
    house.wait("other")
    house.decide("other")
    house.advance(days=1)
    assert house.purge() == {"purged": 1}
    assert (gone(house, "listed"), gone(house, "other")) == (True, False)


def test_what_is_due_by_its_retention_and_on_the_list_is_purged_once(house: House) -> None:
    ended(house, "one")
    house.advance(days=100)
    assert house.purge() == {"purged": 1}
    assert [entry.action for entry in house.entries("one")].count("purged") == 1


def test_another_run_of_the_same_id_is_kept_and_the_list_forgets_the_first(house: House) -> None:
    for name in ("waits", "ended"):
        house.wait(name)
        house.store.write([purge_list.added(name, OTHER_RUN)])
    house.decide("ended")
    house.store.write([purge_list.added("never-was", OTHER_RUN)])
    house.advance(seconds=1)
    assert house.purge() == {"gone": 3}
    assert on_the_list(house) == []
    assert not gone(house, "waits")
    assert not gone(house, "ended")


def test_a_run_that_does_not_say_which_it_is_is_kept(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be the one that is to go: what is taken off the list would stay until its retention."""
    with monkeypatch.context() as patch:
        patch.setattr("orchestrators.run_record.RunRecord._publish", lambda self, _: self._ctx.set_custom_status("odd"))
        house.control.start("approval", {"requester": "Alice", "item": "x"}, instance_id="odd")
        house.control.settle()
    house.control.client.terminate_orchestration("odd")
    house.control.settle()
    house.store.write([purge_list.added("odd", OTHER_RUN)])
    assert house.purge() == {"kept": 1}
    assert (gone(house, "odd"), on_the_list(house)) == (False, ["odd"])


@pytest.mark.parametrize("damage", ["UPDATE record SET body = replace(body, 'Alice', 'Malice')", "DELETE FROM record"])
def test_a_run_whose_trail_is_broken_is_kept_with_an_alarm_and_stays_on_the_list(
    house: House, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    ended(house, "bad", "good")
    whole = house.rows("trail:bad")
    house.sql(f"{damage} WHERE partition = 'trail:bad' AND key LIKE '%1'")
    assert house.purge() == {"broken": 1, "purged": 1}
    assert [each.levelno for each in caplog.records].count(logging.CRITICAL) == 1
    assert (gone(house, "bad"), on_the_list(house)) == (False, ["bad"])
    house.sql("INSERT OR REPLACE INTO record VALUES (?, ?, ?)", *whole[0])
    assert house.purge() == {"purged": 1}
    assert on_the_list(house) == []


def test_one_that_fails_stops_no_other_and_stays_on_the_list(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    ended(house, "a", "b", "c")
    purge = DurableFunctionsClient.purge_orchestration

    async def refusing(client: DurableFunctionsClient, instance: str, **given: Any) -> Any:
        if instance == "b":
            raise OSError("away")
        return await purge(client, instance, **given)

    with monkeypatch.context() as patch:
        patch.setattr(DurableFunctionsClient, "purge_orchestration", refusing)
        for counts in ({"failed": 1, "purged": 2}, {"failed": 1}):
            assert house.purge() == counts
            assert on_the_list(house) == ["b"]
    assert house.purge() == {"purged": 1}
    assert house.verify("b").verdict == "intact"
    assert [entry.action for entry in house.entries("b")].count("purged") == 1


def test_killed_after_the_purge_it_is_taken_off_the_list_the_next_time(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended(house, "one")

    def no_more(*_: Any) -> None:
        raise RecordStoreError("away")

    with monkeypatch.context() as patch:
        patch.setattr(purge_list, "removed", no_more)
        assert house.purge() == {"failed": 1}
    assert (gone(house, "one"), on_the_list(house)) == (True, ["one"])
    assert house.purge() == {"gone": 1}
    assert on_the_list(house) == []


@pytest.mark.usefixtures("small_windows")
def test_one_run_purges_a_bounded_number_and_the_next_goes_on_from_there(house: House) -> None:
    house.wait("a-kept")
    house.store.write([purge_list.added("a-kept", run_of(house, "a-kept"))])
    house.store.write([purge_list.added(f"b{number}", OTHER_RUN) for number in range(9)])
    assert [house.purge() for _ in range(3)] == [{"gone": 5, "kept": 1}, {"gone": 4}, {"kept": 1}]


# Sign-ups that were terminated


def files_with_something_personal(folder: Path) -> list[Path]:
    """The files below a folder in which the address or a name stands."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return [file for file in files if any(word in file.read_bytes() for word in PERSONAL)]


def verify(house: House) -> None:
    """Verify the sign-up, as a program does."""
    house.control.event("signup-ann", "verify", {"source": "test", "decision_id": "one"})


@pytest.mark.parametrize("suspended", [False, True])
def test_a_sign_up_that_was_terminated_is_erased_soon_and_purged_in_the_next_hour(
    house: House, data_folder: Path, monkeypatch: pytest.MonkeyPatch, suspended: bool
) -> None:
    sign_up(house)
    sign_up(house, "bob")
    house.advance(hours=25)  # a reminder each
    if suspended:
        house.manage("suspend", "signup-ann")
    counts = {"unchanged": 3, "listed": 1} if suspended else {"unchanged": 4}
    assert (house.reconcile(), len(outbox.page()), on_the_list(house)) == (counts, 4, [])
    house.manage("terminate", "signup-ann")
    monkeypatch.setenv("MAIL_FROM", "other@two.example")
    get_settings.cache_clear()
    assert house.reconcile() == {"closed": 1, "unchanged": 2} | ({"unlisted": 1} if suspended else {})
    assert [mail.message_id.startswith("<signup-bob.") for mail in outbox.page()] == [True, True]
    assert on_the_list(house) == ["signup-ann"]
    assert house.reconcile() == {"unchanged": 2}
    assert house.purge() == {"purged": 1}
    assert (gone(house, "signup-ann"), gone(house, "signup-bob"), on_the_list(house)) == (True, False, [])
    assert house.verify("signup-ann").verdict == "intact"
    assert [entry.action for entry in house.entries("signup-ann")][-2:] == ["ended", "purged"]
    house.manage("terminate", "signup-bob")
    house.reconcile()
    assert (house.purge(), files_with_something_personal(data_folder)) == ({"purged": 1}, [])


@pytest.mark.parametrize("purged", [False, True])
def test_of_a_terminated_sign_up_whose_name_was_used_again_the_mails_go_and_the_new_one_is_not_touched(
    house: House, purged: bool
) -> None:
    first = sign_up(house)
    house.manage("terminate", "signup-ann")
    if purged:
        house.manage("", "signup-ann", "DELETE")
    house.advance(seconds=1)
    second = sign_up(house)
    assert (first != second, len(outbox.page())) == (True, 2)
    assert house.reconcile() == {"closed": 1, "unchanged": 2}
    assert [mail.message_id for mail in outbox.page()] == [message_id_of("signup-ann", second, 1)]
    assert on_the_list(house) == []
    house.purge()
    assert run_of(house, "signup-ann") == second
    assert house.control.status("signup-ann")["phase"] == "waiting_for_verification"
    verify(house)
    assert house.control.output("signup-ann")["status"] == "done"


def test_of_a_terminated_sign_up_that_was_deleted_by_hand_the_mails_go(house: House) -> None:
    sign_up(house)
    house.manage("terminate", "signup-ann")
    house.manage("", "signup-ann", "DELETE")
    assert house.reconcile() == {"closed": 1}
    assert (outbox.page(), on_the_list(house)) == ([], [])


def test_a_terminated_sign_up_whose_address_was_changed_is_erased_with_all_its_mails(house: House) -> None:
    sign_up(house)
    email = "anneliese@example.org"
    key = links.pseudonym("mailbox", mailbox_of(email))
    house.control.event("signup-ann", "change_email", {"email": email, "address_key": key, "decision_id": "one"})
    house.control.settle()
    assert {mail.to for mail in outbox.page()} == {EMAIL, email}
    house.manage("terminate", "signup-ann")
    assert house.reconcile() == {"closed": 1}
    assert (outbox.page(), on_the_list(house)) == ([], ["signup-ann"])


def test_a_sign_up_that_is_done_or_failed_keeps_what_it_has_when_its_wait_is_left_open(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that was restored from a backup has such waits. What failed may be mended, and rewound."""
    sign_up(house)
    kept = house.wait_of("signup-ann")
    verify(house)
    assert house.control.output("signup-ann")["status"] == "done"
    house.store.write(waits.reopened(kept))
    sign_up(house, "bob")
    with monkeypatch.context() as patch:
        patch.setattr("orchestrators.signup.path_to", lambda *_: "no path")
        house.control.event("signup-bob", "stop_reminders", {"decision_id": "one"})
        assert house.control.state("signup-bob").runtime_status.name == "FAILED"
    mails = len(outbox.page())
    assert (house.reconcile(), len(outbox.page()), on_the_list(house)) == ({"closed": 2}, mails, [])
    assert mails == 3


def test_a_sign_up_that_was_terminated_after_it_was_verified_is_kept(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have its account."""
    sign_up(house)
    kept = house.wait_of("signup-ann")
    monkeypatch.setattr(FolderAccounts, "create", _away)
    verify(house)
    assert house.control.status("signup-ann")["phase"] == "creating_account"
    house.manage("terminate", "signup-ann")
    house.store.write(waits.reopened(kept))
    assert house.reconcile() == {"closed": 1}
    assert (len(outbox.page()), on_the_list(house)) == (1, [])


def _away(*_: Any) -> bool:
    raise OSError("away")


@pytest.mark.parametrize("failing", ["erase", "closed"])
def test_what_fails_while_a_terminated_sign_up_is_erased_comes_again(
    house: House, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    sign_up(house)
    house.manage("terminate", "signup-ann")
    with monkeypatch.context() as patch:
        patch.setattr(outbox if failing == "erase" else waits, failing, _away)
        assert house.reconcile() == {"failed": 1}
    assert house.open_waits() == ["signup-ann"]
    assert house.reconcile() == {"closed": 1}
    assert (outbox.page(), on_the_list(house)) == ([], ["signup-ann"])
    assert house.purge() == {"purged": 1}


# Entities that hold nothing any more


def entities(house: House) -> int:
    """Give how many entities the hub has, the empty ones too."""

    async def count() -> int:
        [(found,)] = house.control.hub.reader.execute("SELECT count(*) FROM entities")
        return int(found)

    return house.control._thread.run(count())


def test_the_entities_of_rate_limits_go_when_they_are_empty(house: House) -> None:
    sign_up(house)
    assert entities(house) == 1
    house.purge()
    assert entities(house) == 1  # it still knows of the mail
    house.advance(hours=72 + 25)
    house.purge()
    assert entities(house) == 0


@pytest.mark.parametrize("code", ["UNIMPLEMENTED", "UNAVAILABLE"])
def test_a_task_hub_that_does_not_clear_away_entities_is_told_of_and_purges_all_the_same(
    house: House, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    ended(house, "one")

    async def refused(*_: Any, **__: Any) -> None:
        raise grpc.aio.AioRpcError(grpc.StatusCode[code], grpc.aio.Metadata(), grpc.aio.Metadata(), "not here")

    monkeypatch.setattr(DurableFunctionsClient, "clean_entity_storage", refused)
    assert house.purge() == {"purged": 1}
    assert gone(house, "one")
    told = [(level, sentence) for level, sentence in house.told if "entities" in sentence]
    assert told == [(logging.WARNING, f"The task hub does not clear away empty entities: StatusCode.{code}")]
