"""The accounts: one for each user name, one for each address unless somebody vouches, whoever comes at what moment."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from contracts.signup import NewAccount
from services import accounts, files
from services.accounts import FolderAccounts, get_accounts

RUN, LATER_RUN = "20260301T110000000000Z", "20260301T110000000001Z"
EMAIL = "ann@example.org"


@pytest.fixture
def folder(tmp_path: Path) -> FolderAccounts:
    """A folder without accounts."""
    return FolderAccounts(tmp_path / "accounts")


def an_account(username: str = "ann", email: str = EMAIL, run: str = RUN, *, vouched: bool = False) -> NewAccount:
    """An account that is to be created."""
    return NewAccount.model_validate(
        {
            "instance_id": f"signup-{username.lower()}",
            "run": run,
            "form": {"username": username, "email": email, "firstname": "Ann"},
            "verified_at": datetime(2026, 3, 1, 12, tzinfo=UTC),
            "source": "mail",
            "vouched": vouched,
        }
    )


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_an_account_is_created_and_has_its_address(folder: FolderAccounts) -> None:
    assert folder.owner_of(EMAIL) is None
    assert folder.create(an_account("Ann"))
    assert folder.owner_of(EMAIL) == "Ann"
    assert folder.owner_of("bob@example.org") is None


@pytest.mark.parametrize(
    ("email", "same"),
    [
        (EMAIL, "ANN@Example.ORG"),
        (EMAIL, "ann@example\uff0eorg"),
        ("j\u00f6rg@example.org", "JO\u0308RG@example.org"),
        ("ann@ex\u00e4mple.org", "ann@EXA\u0308MPLE.org"),
        ("ann@exämple.org", "ann@xn--exmple-cua.org"),
        ("ann@faß.example", "ann@XN--FA-HIA.example"),
    ],
)
def test_an_address_is_the_same_however_it_is_written(folder: FolderAccounts, email: str, same: str) -> None:
    folder.create(an_account(email=email))
    assert folder.owner_of(same) == "ann"
    assert not folder.create(an_account("bob", same))


@pytest.mark.parametrize(
    ("email", "other"),
    [
        ("ann@faß.example", "ann@fass.example"),
        ("ann@xn--fa-hia.example", "ann@fass.example"),
        ("fuß@example.org", "fuss@example.org"),
        ("\uff41nn@example.org", EMAIL),
        ("ann+1@example.org", EMAIL),
        ("ann+1@example.org", "ann+2@example.org"),
        ("a.nn@example.org", EMAIL),
    ],
)
def test_addresses_that_are_not_one_mailbox_for_every_mail_server_are_two(
    folder: FolderAccounts, email: str, other: str
) -> None:
    """Otherwise a stranger would hear of the account, and who has the address could have none."""
    folder.create(an_account("one", email))
    assert folder.owner_of(other) is None
    assert folder.create(an_account("two", other))
    assert (folder.owner_of(email), folder.owner_of(other)) == ("one", "two")


@pytest.mark.parametrize("vouched", [False, True])
def test_the_same_sign_up_again_changes_nothing(folder: FolderAccounts, tmp_path: Path, vouched: bool) -> None:
    folder.create(an_account(vouched=vouched))
    before = contents(tmp_path)
    assert folder.create(an_account(email="other@example.org", vouched=vouched))
    assert folder.create(an_account(vouched=vouched))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("username", ["ann", "ANN", "Ann"])
@pytest.mark.parametrize("vouched", [False, True])
def test_a_user_name_has_one_account_whatever_its_case(folder: FolderAccounts, username: str, vouched: bool) -> None:
    folder.create(an_account("Ann"))
    assert not folder.create(an_account(username, "new@example.org", LATER_RUN, vouched=vouched))
    assert folder.owner_of("new@example.org") is None
    assert folder.owner_of(EMAIL) == "Ann"


def test_an_address_has_one_account(folder: FolderAccounts) -> None:
    folder.create(an_account())
    assert not folder.create(an_account("bob"))
    assert not folder.create(an_account("bob"))
    assert folder.create(an_account("bob", "bob@example.org"))


def test_an_account_that_is_vouched_for_does_not_take_the_address_from_the_first(folder: FolderAccounts) -> None:
    folder.create(an_account())
    for _ in range(2):
        assert folder.create(an_account("bob", vouched=True))
        assert folder.create(an_account("cy", vouched=True))
    assert folder.owner_of(EMAIL) == "ann"
    assert not folder.create(an_account("dee"))


def test_an_account_that_is_vouched_for_has_an_address_that_nobody_had(folder: FolderAccounts) -> None:
    assert folder.create(an_account("bob", vouched=True))
    assert folder.owner_of(EMAIL) == "bob"
    assert not folder.create(an_account("cy"))


@pytest.mark.parametrize("username", [".", "..", "a.b", "a:b", "-", "x" * 64, ".json"])
def test_any_user_name_can_have_an_account_and_no_file_elsewhere(
    folder: FolderAccounts, tmp_path: Path, username: str
) -> None:
    assert folder.create(an_account(username))
    assert folder.create(an_account(username))
    assert folder.owner_of(EMAIL) == username
    assert not folder.create(an_account(username, "new@example.org", LATER_RUN))
    assert [path.name for path in tmp_path.iterdir()] == ["accounts"]
    assert len(contents(tmp_path)) == 2


# Killed, and at the same moment


class Killed(BaseException):
    """The process is gone."""


@pytest.fixture
def killed_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Has the process killed after so many files."""

    def after(count: int) -> None:
        written: list[Any] = []

        def write(*given: Any) -> Path:
            if len(written) == count:
                raise Killed
            written.append(given)
            return files.write_once(*given)

        monkeypatch.setattr(accounts, "write_once", write)

    return after


@pytest.mark.parametrize("vouched", [False, True])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_repetition_finishes_what_was_begun(
    folder: FolderAccounts,
    killed_after: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    vouched: bool,
) -> None:
    killed_after(count)
    if count < 2:
        with pytest.raises(Killed):
            folder.create(an_account(vouched=vouched))
        assert folder.owner_of(EMAIL) is None
    else:
        assert folder.create(an_account(vouched=vouched))
    monkeypatch.undo()
    assert folder.create(an_account(vouched=vouched))
    assert folder.owner_of(EMAIL) == "ann"
    assert not folder.create(an_account("bob"))


def test_a_claim_stands_for_who_was_killed_before_the_account(
    folder: FolderAccounts, killed_after: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the repetition would find its address gone, or there would be two accounts on it."""
    killed_after(1)
    with pytest.raises(Killed):
        folder.create(an_account())
    monkeypatch.undo()
    assert not folder.create(an_account("bob"))
    assert folder.create(an_account("cy", vouched=True))
    assert folder.owner_of(EMAIL) == "cy"
    assert folder.create(an_account())
    assert folder.owner_of(EMAIL) == "ann"


def test_a_claim_whose_user_name_went_to_another_sign_up_is_void(
    folder: FolderAccounts, killed_after: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_after(1)
    with pytest.raises(Killed):
        folder.create(an_account())
    monkeypatch.undo()
    assert folder.create(an_account(email="other@example.org", run=LATER_RUN))
    assert not folder.create(an_account())
    assert folder.owner_of(EMAIL) is None
    assert folder.create(an_account("bob"))
    assert folder.owner_of(EMAIL) == "bob"
    assert not folder.create(an_account("cy"))
    assert folder.create(an_account("bob"))


def at_once(folder: FolderAccounts, given: list[NewAccount]) -> list[bool]:
    """Create accounts at the same moment."""
    barrier = Barrier(len(given))

    def create(account: NewAccount) -> bool:
        barrier.wait()
        return folder.create(account)

    with ThreadPoolExecutor(len(given)) as pool:
        return list(pool.map(create, given))


def test_of_many_who_claim_an_address_at_the_same_moment_one_gets_it(folder: FolderAccounts) -> None:
    for number in range(2):
        email = f"{number}@example.org"
        names = [f"user{number}-{each}" for each in range(8)]
        created = at_once(folder, [an_account(name, email) for name in names])
        assert sum(created) == 1
        assert folder.owner_of(email) == names[created.index(True)]


def test_of_many_who_want_a_user_name_at_the_same_moment_one_gets_it(folder: FolderAccounts) -> None:
    for number in range(2):
        given = [
            an_account(f"name{number}", f"{number}.{each}@example.org", f"20260301T11000000000{each}Z")
            for each in range(8)
        ]
        created = at_once(folder, given)
        assert sum(created) == 1
        owners = [folder.owner_of(each.form.email) for each in given]
        assert [owner is not None for owner in owners] == created


def test_the_same_sign_up_many_times_at_the_same_moment_is_one_account(folder: FolderAccounts, tmp_path: Path) -> None:
    assert all(at_once(folder, [an_account()] * 8))
    assert len(contents(tmp_path)) == 2


# What cannot be reached


@pytest.mark.parametrize("where", ["", "users", "addresses"])
def test_accounts_that_cannot_be_reached_are_an_error_that_names_nobody(
    folder: FolderAccounts, tmp_path: Path, where: str
) -> None:
    path = tmp_path / "accounts" / where
    path.parent.mkdir(exist_ok=True)
    path.write_text("a file where a folder should be")
    with pytest.raises(OSError, match="cannot be reached") as caught:
        folder.create(an_account())
    said = f"{caught.value} {caught.value.__cause__}"
    assert EMAIL not in said
    assert str(tmp_path) not in said
    if where != "users":
        with pytest.raises(OSError, match="cannot be reached"):
            folder.owner_of(EMAIL)


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"\xff", b'{"instance_id": "ann@example.org"}'])
def test_what_was_made_unreadable_is_no_account_to_be_written_over(
    folder: FolderAccounts, tmp_path: Path, body: bytes
) -> None:
    folder.create(an_account())
    (tmp_path / "accounts" / "users" / "ann.json").write_bytes(body)
    for _ in range(2):
        with pytest.raises(OSError, match="cannot be reached") as caught:
            folder.create(an_account("bob"))
        with pytest.raises(OSError, match="cannot be reached"):
            folder.owner_of(EMAIL)
    assert EMAIL not in str(caught.value)


def test_the_accounts_of_the_app_lie_in_its_data_folder(data_folder: Path) -> None:
    assert get_accounts().create(an_account())
    assert all(name.startswith("accounts/") for name in contents(data_folder))
    assert (data_folder / "accounts" / "users" / "ann.json").stat().st_mode & 0o077 == 0
    assert not any("ann@" in name for name in contents(data_folder))
