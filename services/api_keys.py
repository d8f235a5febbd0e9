"""API keys: who calls, with ``AUTH=keys``.

A key is ``cs_<id>_<secret>``, with a secret of 256 random bits, and is shown once. The record store keeps a SHA-256 of
it, which is enough: slow hashes are for passwords, which somebody can guess, and nobody guesses 256 bits. In the
partition ``api-keys`` there is a row for each key, by its id, which is deleted when the key is revoked.

The keys are read together and kept for a few seconds, so that what callers send does not make the app read. So a key
that was revoked is good for ``FRESH`` seconds more at most, in each process.

``python -m services.api_keys`` makes, lists and revokes keys, in the record store that the environment names, or else
``local.settings.json``; ``make key``, ``make keys`` and ``make revoke`` call it with the data folder of ``make run``.
"""

import argparse
import hashlib
import hmac
import json
import os
import re
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from contracts.base import Contract, Timestamp, Who, same_person
from errors import Unauthorized
from services.clock import now
from services.identity import PERMISSIONS, Caller, permissions_in
from services.record_store import Change, RecordStore, RecordStoreError, Row, RowTaken, get_record_store
from services.snapshot import Snapshot
from settings import get_settings

MAX_KEYS = 1000
"""How many there are at most; all of them are read at once."""
FRESH = 5.0
"""Seconds for which what was read of the keys is good."""
UNKNOWN = 0.5
"""Seconds between two readings at least, however many unknown keys come: one of them may have been made just now."""
REST = 1.0
"""Seconds between two readings at least when the record store does not answer."""

_PARTITION = "api-keys"
_KEY = re.compile(r"cs_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
_NOBODYS = hashlib.sha256(secrets.token_bytes(32)).hexdigest()
_WHO: TypeAdapter[str] = TypeAdapter(Who)


class StoredKey(Contract):
    """What is kept of a key: who has it, what he may do, when it was made, and the SHA-256 of its secret in hex.

    A permission that the app does not know, as one of a later version, is kept and counts for nothing.
    """

    name: Who
    permissions: Annotated[list[Annotated[str, StringConstraints(max_length=100)]], Field(max_length=100)]
    made_at: Timestamp
    sha256: Annotated[str, StringConstraints(pattern=r"\A[0-9a-f]{64}\z")]


@dataclass(frozen=True)
class ListedKey:
    """A key by its id, as lists show it."""

    id: str
    kept: StoredKey


type KeyRing = dict[str, StoredKey]


async def caller_of_key(given: str) -> Caller:
    """Return whose key it is. Raises ``Unauthorized``, which says the same of all keys that are not good, and
    ``RecordStoreError``."""
    found = _KEY.fullmatch(given)
    if found is None:
        raise Unauthorized("That is no key of this app, or it was revoked.")
    key_id, secret = found.groups()
    ring = _ring()
    kept = (await ring.get(FRESH)).get(key_id) or (await ring.get(UNKNOWN)).get(key_id)
    is_right = hmac.compare_digest(_hash(secret), kept.sha256 if kept is not None else _NOBODYS)
    if kept is None or not is_right:
        raise Unauthorized("That is no key of this app, or it was revoked.")
    return Caller(kept.name, permissions_in(kept.permissions))


def make_key(store: RecordStore, name: str, permissions: list[str], at: datetime) -> str:
    """Make a key for a person or a program, and return it; nobody can read it from the store.

    Raises ``ValueError``, with a sentence, for a name or a permission that cannot be, and ``RecordStoreError``.
    """
    unknown = [each for each in permissions if each not in PERMISSIONS]
    if unknown or not permissions:
        known = ", ".join(sorted(PERMISSIONS))
        raise ValueError(f"there is no permission {', '.join(unknown) or 'given'}; there are {known}")
    try:
        who = _WHO.validate_python(name)
    except ValidationError:
        raise ValueError("a name has 1 to 254 characters, in one line") from None
    if len(_rows(store)) >= MAX_KEYS:
        raise ValueError(f"there are {MAX_KEYS:,} keys; revoke some first")
    key_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    kept = StoredKey(name=who, permissions=sorted({*permissions}), made_at=at, sha256=_hash(secret))
    try:
        store.write([Change("insert", _PARTITION, key_id, kept.model_dump_json())])
    except RowTaken:
        raise ValueError("the id of the new key is taken; try again") from None
    return f"cs_{key_id}_{secret}"


def list_keys(store: RecordStore) -> list[ListedKey]:
    """Return all keys, by their names and then by when they were made. Raises ``RecordStoreError``."""
    found = [ListedKey(row.key, kept) for row in _rows(store) if (kept := _kept(row)) is not None]
    return sorted(found, key=lambda each: (same_person(each.kept.name), each.kept.made_at, each.id))


def revoke_keys(store: RecordStore, name_or_id: str) -> int:
    """Revoke all keys of a name, or the one with an id, and return how many. Raises ``RecordStoreError``."""
    found = [
        each
        for each in list_keys(store)
        if each.id == name_or_id or same_person(each.kept.name) == same_person(name_or_id)
    ]
    store.write([Change("delete", _PARTITION, each.id) for each in found])
    return len(found)


@lru_cache(maxsize=1)
def _ring() -> Snapshot[KeyRing]:
    return Snapshot(lambda: {each.id: each.kept for each in list_keys(get_record_store())}, rest=REST)


def forget_keys() -> None:
    """Forget what was read of the keys; the next call reads them anew, from the store that there is then."""
    _ring.cache_clear()


def _rows(store: RecordStore) -> list[Row]:
    return store.range(_PARTITION, "", "g", MAX_KEYS)


def _kept(row: Row) -> StoredKey | None:
    try:
        return StoredKey.model_validate_json(row.body)
    except ValidationError:  # somebody has tampered with it, and it is nobody's key
        return None


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit status. A new key is all that is written to the standard output."""
    given = _parser().parse_args(arguments)
    try:
        _load_local_settings(Path("local.settings.json"))
        return _run(given, get_record_store())
    except (ValueError, RecordStoreError) as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _run(given: argparse.Namespace, store: RecordStore) -> int:
    if given.verb == "make":
        permissions = [each.strip() for each in given.permissions.split(",") if each.strip()]
        sys.stdout.write(make_key(store, given.name, permissions, now()) + "\n")
        sys.stdout.flush()
        sys.stderr.write("Keep it: it is not shown again. Send it as Authorization: Bearer <key>.\n")
        if get_settings().auth != "keys":
            sys.stderr.write("It counts where the app runs with AUTH=keys.\n")
    elif given.verb == "list":
        for each in list_keys(store):
            kept = each.kept
            sys.stdout.write(f"{each.id}  {kept.made_at:%Y-%m-%d %H:%M}Z  {kept.name}  {','.join(kept.permissions)}\n")
    else:
        how_many = revoke_keys(store, given.name)
        said = (
            f"{how_many} revoked, for good in {FRESH:g} seconds." if how_many else "There is no key of that name or id."
        )
        sys.stderr.write(f"{said}\n")
        return 0 if how_many else 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m services.api_keys", description="API keys, for AUTH=keys.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    make = verbs.add_parser("make", help="make a key, and show it once")
    make.add_argument("name", help="whose key it is: what its holder does is done in this name")
    make.add_argument("permissions", help=f"with commas between them: {', '.join(sorted(PERMISSIONS))}")
    verbs.add_parser("list", help="list all keys, by id and name")
    verbs.add_parser("revoke", help="revoke all keys of a name, or one").add_argument("name", help="the name, or an id")
    return parser


def _load_local_settings(file: Path) -> None:
    """Put the ``Values`` of a file into the environment, where what is set already wins: as the local host does it."""
    if not file.exists():
        return
    try:
        values = json.loads(file.read_text())["Values"]
        texts = {name: str(value) for name, value in values.items() if isinstance(value, str | int)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{file} cannot be read: it has to be JSON, with an object 'Values'") from None
    for name, text in texts.items():
        os.environ.setdefault(name, text)


if __name__ == "__main__":
    sys.exit(main())
