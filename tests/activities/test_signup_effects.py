"""The activities of a sign-up: its mails, when it reminds, the account, and the end of what is personal."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from azure.functions._durable_functions import df_dumps
from pydantic import ValidationError

from activities.signup import create_account, erase_signup, plan_reminder, send_signup_mail
from contracts.signup import CreatedAccount, NewAccount, PlannedReminder, SentSignupMail
from services import outbox, purge_list
from services.accounts import get_accounts
from services.mail_rendering import message_id_of
from services.outbox import OutboxMail
from services.record_store import RecordStoreError, get_record_store
from settings import get_settings

NO_CONTEXT: Any = None
RUN, LATER_RUN = "20260301T110000000000Z", "20260301T110000000001Z"
EMAIL = "ann.secret@example.org"
FORM = {"username": "ann", "email": EMAIL, "firstname": "Anneliese", "lastname": "Leeson"}
MAIL = {
    "template": "signup_verify",
    "instance_id": "signup-ann",
    "run": RUN,
    "number": 1,
    "form": FORM,
    "generation": 1,
    "deadline": "2026-03-08T11:00:00.000Z",
}
ACCOUNT = {
    "instance_id": "signup-ann",
    "run": RUN,
    "form": FORM,
    "verified_at": "2026-03-01T12:00:00.000Z",
    "source": "mail",
    "vouched": False,
}
BOB = ACCOUNT | {"instance_id": "signup-bob", "form": FORM | {"username": "Bob"}}
PERSONAL = ("secret", "Anneliese", "Leeson")


@pytest.fixture(autouse=True)
def folder(data_folder: Path) -> Path:
    """A data folder of the test's own."""
    return data_folder


def sent(**changes: Any) -> SentSignupMail:
    """Run the activity, and see that what it gives can stand in a history, and is not personal."""
    given = send_signup_mail(NO_CONTEXT, MAIL | changes)
    text = df_dumps(given)
    assert json.loads(text) == given
    assert not any(word in text for word in PERSONAL)
    return SentSignupMail.model_validate(given)


def mails() -> list[OutboxMail]:
    """The mails in the outbox, by their names."""
    return sorted(outbox.page(), key=lambda mail: mail.message_id)


# Mails


@pytest.mark.parametrize("template", ["signup_verify", "signup_reminder", "signup_welcome", "signup_known"])
def test_a_mail_that_is_sent_again_is_one_mail(template: str) -> None:
    first = sent(template=template)
    assert first.message_id == message_id_of("signup-ann", RUN, 1)
    assert sent(template=template) == first
    [mail] = mails()
    assert (mail.message_id, mail.to) == (first.message_id, EMAIL)
    sent(template=template, number=2)
    assert len(mails()) == 2


@pytest.mark.parametrize("template", ["signup_verify", "signup_reminder"])
def test_an_address_that_has_an_account_gets_another_mail_without_link_and_code(template: str) -> None:
    assert not sent(template=template).known
    create_account(NO_CONTEXT, BOB)
    assert sent(template=template, number=2).known
    assert sent(template=template, number=3, form=FORM | {"email": EMAIL.upper()}).known
    asking, *known = mails()
    assert "/signup/confirm?token=" in asking.text
    for mail in known:
        assert mail.subject == "You have an account already"
        assert 'under the user name "Bob"' in mail.text
        assert "token=" not in mail.text + (mail.html or "")


def test_the_mail_of_a_sign_up_that_was_verified_meanwhile_is_not_about_its_own_account() -> None:
    create_account(NO_CONTEXT, ACCOUNT)
    assert not sent(form=FORM | {"username": "ANN"}).known
    assert "/signup/confirm?token=" in mails()[0].text


def test_an_account_of_a_second_user_on_an_address_is_welcomed() -> None:
    create_account(NO_CONTEXT, BOB)
    assert create_account(NO_CONTEXT, ACCOUNT | {"vouched": True}) == {"created": True}
    assert not sent(template="signup_welcome").known
    [mail] = mails()
    assert "Welcome, Anneliese Leeson." in mail.text


def test_who_was_refused_is_told_so() -> None:
    create_account(NO_CONTEXT, BOB)
    assert create_account(NO_CONTEXT, ACCOUNT) == {"created": False}
    assert sent(template="signup_known").known
    assert 'under the user name "Bob"' in mails()[0].text


@pytest.mark.parametrize("template", ["signup_verify", "signup_reminder", "signup_known"])
def test_without_the_accounts_no_mail_goes_out_that_could_be_the_wrong_one(folder: Path, template: str) -> None:
    (folder / "accounts").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="The accounts cannot be reached") as caught:
        sent(template=template)
    assert not any(word in str(caught.value) for word in PERSONAL)
    assert mails() == []
    (folder / "accounts").unlink()
    assert sent(template=template)
    assert len(mails()) == 1


def test_the_welcome_goes_out_whoever_has_the_address_and_without_the_accounts(folder: Path) -> None:
    (folder / "accounts").write_text("a file where the folder should be")
    assert not sent(template="signup_welcome").known
    assert len(mails()) == 1


def test_a_mail_that_cannot_be_handed_over_is_an_error_that_names_nobody(folder: Path) -> None:
    (folder / "outbox").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="outbox") as caught:
        sent()
    assert not any(word in str(caught.value) for word in PERSONAL)


@pytest.mark.parametrize(
    "change",
    [
        {"template": "asked"},
        {"number": 0},
        {"generation": 0},
        {"deadline": "soon"},
        {"extra": 1},
        {"form": FORM | {"email": "ann.secret"}},
        {"form": FORM | {"email": "ann.secret@example.org\r\nBcc: eve@example.com"}},
        {"form": FORM | {"firstname": "Anneliese\r\nBcc: eve@example.com"}},
        {"form": FORM | {"username": "ann secret"}},
        {"form": None},
    ],
)
def test_what_is_no_mail_is_refused_without_being_repeated(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        sent(**change)
    assert not any(word in str(caught.value) for word in PERSONAL)
    assert mails() == []


# Reminders


@pytest.mark.parametrize(
    ("after", "quiet", "at"),
    [
        ("2026-01-10T21:30:00.000Z", None, "2026-01-10T21:30:00.000Z"),
        ("2026-01-10T21:30:00.000Z", ("21:00", "08:00"), "2026-01-11T07:00:00.000Z"),
        ("2026-03-28T21:30:00.000Z", ("21:00", "08:00"), "2026-03-29T06:00:00.000Z"),
        ("2026-01-10T12:30:00.123Z", ("21:00", "08:00"), "2026-01-10T12:30:00.123Z"),
    ],
)
def test_a_reminder_is_planned_out_of_quiet_hours(after: str, quiet: tuple[str, str] | None, at: str) -> None:
    hours = {"start": quiet[0], "end": quiet[1], "zone": "Europe/Berlin"} if quiet is not None else None
    given = plan_reminder(NO_CONTEXT, {"after": after, "quiet": hours})
    assert given == {"at": at}
    assert PlannedReminder.model_validate(given).at == datetime.fromisoformat(at).astimezone(UTC)


def test_a_zone_that_there_is_not_is_an_error() -> None:
    quiet = {"start": "21:00", "end": "08:00", "zone": "right/UTC"}
    with pytest.raises(ValueError, match="no such time zone"):
        plan_reminder(NO_CONTEXT, {"after": "2026-01-10T21:30:00.000Z", "quiet": quiet})


# Accounts


def test_an_account_is_created_once() -> None:
    for _ in range(2):
        given = create_account(NO_CONTEXT, ACCOUNT)
        assert json.loads(df_dumps(given)) == given == CreatedAccount(created=True).plain()
    assert get_accounts().owner_of(EMAIL) == "ann"
    assert create_account(NO_CONTEXT, BOB) == {"created": False}
    assert create_account(NO_CONTEXT, ACCOUNT | {"run": LATER_RUN}) == {"created": False}
    assert create_account(NO_CONTEXT, BOB | {"vouched": True}) == {"created": True}
    assert get_accounts().owner_of(EMAIL) == "ann"


def test_accounts_that_cannot_be_reached_are_an_error_that_names_nobody(folder: Path) -> None:
    (folder / "accounts").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="The accounts cannot be reached") as caught:
        create_account(NO_CONTEXT, ACCOUNT)
    assert not any(word in str(caught.value) for word in PERSONAL)
    assert NewAccount.model_validate(ACCOUNT)


# The end of what is personal


def on_the_list() -> list[tuple[str, str]]:
    """What is to be purged."""
    return [(each.instance_id, each.run) for each in purge_list.window(get_record_store(), None, 100)[0]]


def test_the_mails_of_a_run_are_erased_and_it_is_to_be_purged() -> None:
    for number in (1, 2, 4, 5):  # one more than the run says it has, which nobody would look for again
        sent(number=number)
    sent(run=LATER_RUN)
    sent(instance_id="signup-bob")
    expired = {"instance_id": "signup-ann", "run": RUN}
    assert erase_signup(NO_CONTEXT, expired) == {"erased": 4}
    assert erase_signup(NO_CONTEXT, expired) == {"erased": 0}
    names = [
        message_id_of("signup-ann", LATER_RUN, 1),
        message_id_of("signup-bob", RUN, 1),
    ]
    assert [mail.message_id for mail in mails()] == sorted(names)
    assert on_the_list() == [("signup-ann", RUN)]


def test_nothing_personal_is_left_in_any_file(folder: Path) -> None:
    for number, template in enumerate(("signup_verify", "signup_reminder", "signup_known"), 1):
        sent(template=template, number=number)
    erase_signup(NO_CONTEXT, {"instance_id": "signup-ann", "run": RUN})
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert files
    for file in files:
        assert not any(word.encode() in file.read_bytes() for word in PERSONAL), file


def test_a_run_without_mails_in_an_outbox_is_to_be_purged_too(monkeypatch: pytest.MonkeyPatch) -> None:
    sent()
    monkeypatch.setenv("MAIL", "smtp")
    get_settings.cache_clear()
    assert erase_signup(NO_CONTEXT, {"instance_id": "signup-ann", "run": RUN}) == {"erased": 0}
    assert erase_signup(NO_CONTEXT, {"instance_id": "signup-bob", "run": RUN}) == {"erased": 0}
    assert on_the_list() == [("signup-ann", RUN), ("signup-bob", RUN)]


def test_a_run_that_cannot_be_put_on_the_list_is_an_error_and_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    sent()
    expired = {"instance_id": "signup-ann", "run": RUN}

    def away(*_: Any) -> None:
        raise RecordStoreError("away")

    with monkeypatch.context() as patch:
        patch.setattr(type(get_record_store()), "write", away)
        with pytest.raises(RecordStoreError):
            erase_signup(NO_CONTEXT, expired)
    assert erase_signup(NO_CONTEXT, expired) == {"erased": 1}
    assert mails() == []
    assert on_the_list() == [("signup-ann", RUN)]


@pytest.mark.parametrize("change", [{"run": "x"}, {"run": "../../x"}, {"extra": 1}])
def test_what_is_no_run_is_refused(change: dict[str, Any]) -> None:
    sent()
    with pytest.raises(ValidationError):
        erase_signup(NO_CONTEXT, {"instance_id": "signup-ann", "run": RUN} | change)
    assert (len(mails()), on_the_list()) == (1, [])
