"""The accounts: where those go who have signed up."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Protocol

from contracts.audit import RunStamp, digest_of
from contracts.base import Contract
from contracts.signup import NewAccount, same_address
from services.files import file_name, write_once
from settings import get_settings


class Accounts(Protocol):
    """Has accounts, each with a user name of its own. Both methods raise ``OSError``, which names nobody, when it
    cannot be reached."""

    def owner_of(self, email: str) -> str | None:
        """Return the user name of the account that has this address, as ``same_address`` compares it, or None."""
        ...

    def create(self, account: NewAccount) -> bool:
        """Create an account and return true, also for one that the same sign-up has created before.

        False when the user name, without regard to case, has an account of another sign-up, or the address has one and
        ``vouched`` is false. Of many at the same time for one name or one address, one gets it.
        """
        ...


class _Claim(Contract):
    """The claim of a sign-up to an address for a user name."""

    username: str
    instance_id: str
    run: RunStamp


@contextmanager
def _reached() -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        # Without what came before it, which names files, and so addresses to whoever guesses them.
        raise OSError(f"The accounts cannot be reached ({type(error).__name__}).") from None


class FolderAccounts:
    """Keeps accounts as JSON files: ``users/<user name>.json``, and ``addresses/<digest>/<number>.json``, who claims an
    address.

    A claim is written before its account: first come, first served. It stands while its sign-up may still create the
    account, so that a repetition after a crash finds it, and is void when the user name went to another sign-up.

    It stands in for the user directory of whoever runs the app: give that one the two methods of ``Accounts`` and
    return it from ``get_accounts``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._users = folder / "users"

    @_reached()
    def owner_of(self, email: str) -> str | None:
        """Return the user name of the first who claimed the address and has an account."""
        for number in count(1):
            claim = _read(self._claims_to(email) / f"{number}.json", _Claim)
            if claim is None:
                break
            account = self._account(claim.username)
            if account is not None and _is_of(account, claim):
                return account.form.username
        return None

    @_reached()
    def create(self, account: NewAccount) -> bool:
        """Claim the address, and write the account, once."""
        found = self._account(account.form.username)
        if found is None and self._has_claimed(account):
            found = _read(_written(self._users, account.form.username.lower(), account), NewAccount)
        return found is not None and _is_of(found, account)

    def _has_claimed(self, account: NewAccount) -> bool:
        """Claim the address; false when another may have it, unless somebody vouches for this account."""
        mine = _Claim(username=account.form.username, instance_id=account.instance_id, run=account.run)
        number = 1
        while True:
            claim = _read(_written(self._claims_to(account.form.email), str(number), mine), _Claim)
            if claim is None or _is_of(claim, mine):
                return claim is not None
            other = self._account(claim.username)
            is_void = other is not None and not _is_of(other, claim)
            if not is_void and not account.vouched:
                return False
            number += 1

    def _account(self, username: str) -> NewAccount | None:
        return _read(self._users / file_name(username.lower(), ".json"), NewAccount)

    def _claims_to(self, email: str) -> Path:
        return self._folder / "addresses" / digest_of(same_address(email))


def _written(folder: Path, name: str, what: Contract) -> Path:
    return write_once(folder, name, ".json", json.dumps(what.plain(), indent=2).encode())


def _is_of(one: NewAccount | _Claim, other: NewAccount | _Claim) -> bool:
    """Whether both are of one sign-up."""
    return (one.instance_id, one.run) == (other.instance_id, other.run)


def _read[Kept: Contract](path: Path, contract: type[Kept]) -> Kept | None:
    try:
        return contract.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None


def get_accounts() -> Accounts:
    """The accounts of this app."""
    return FolderAccounts(get_settings().local_host_data / "accounts")
