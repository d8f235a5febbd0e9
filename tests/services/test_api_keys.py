"""API keys: made once, kept as a hash, known within moments, and revoked within seconds."""

import asyncio
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from errors import Unauthorized
from services import api_keys, record_store, snapshot
from services.api_keys import caller_of_key, forget_keys, list_keys, main, make_key, revoke_keys
from services.identity import Caller
from services.record_store import Change, RecordStore, RecordStoreError, Row
from settings import get_settings
from tests.hosting import ROOT

NOW = datetime(2026, 3, 1, 12, 5, tzinfo=UTC)


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    """Nothing was read of keys before, and nothing stays."""
    forget_keys()
    yield
    forget_keys()


@pytest.fixture
def kept(data_folder: Path) -> RecordStore:
    """The record store of the app."""
    return record_store.get_record_store()


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the clock of what is kept."""
    moved = [0.0]
    began = time.monotonic()
    monkeypatch.setattr(snapshot, "monotonic", lambda: began + moved[0])

    def move(seconds: float) -> None:
        moved[0] += seconds

    return move


def make(store: RecordStore, name: str = "alice@example.com", *permissions: str) -> str:
    """Make a key."""
    return make_key(store, name, list(permissions) or ["execution:read"], NOW)


def caller(key: str) -> Caller:
    """Whose key it is."""
    return asyncio.run(caller_of_key(key))


def refused(key: str) -> str:
    """What is said of a key that does not count."""
    with pytest.raises(Unauthorized) as error:
        caller(key)
    return error.value.detail


def test_a_key_says_who_calls_and_what_he_may_do_and_is_kept_nowhere(
    store: RecordStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_keys, "get_record_store", lambda: store)
    key = make(store, " Alice ", "execution:read", "audit:erase", "execution:read")
    another = make(store, "bob", "workflow:write")
    assert caller(key) == Caller("Alice", frozenset({"execution:read", "audit:erase"}))
    assert caller(another) == Caller("bob", frozenset({"workflow:write"}))
    assert re.fullmatch(r"cs_[0-9a-f]{16}_[\w-]{43}", key)
    secret = key.split("_", 2)[2]
    assert secret not in repr(list_keys(store))
    assert not [file for file in tmp_path.iterdir() if secret.encode() in file.read_bytes()]
    assert revoke_keys(store, "ALICE") == 1
    assert [each.kept.name for each in list_keys(store)] == ["bob"]


def test_what_is_no_key_is_answered_alike_whatever_is_wrong(kept: RecordStore) -> None:
    key, another = make(kept), make(kept, "bob")
    _, key_id, secret = key.split("_", 2)
    swapped = f"cs_{another.split('_')[1]}_{secret}"
    changed = key[:-1] + ("A" if key[-1] != "A" else "B")
    wrong = [swapped, changed, f"cs_{'0' * 16}_{secret}", f"cs_{key_id}_", f"cs_{key_id}", secret, key + "A", ""]
    wrong += [key.upper(), f" {key}", f"{key}\n", "cs_" + "é" * 60, f"cs_{key_id}_{'=' * 43}"]
    assert len({refused(each) for each in wrong}) == 1
    assert caller(key)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{}",
        "[]",
        '{"name": "eve", "permissions": ["audit:erase"], "made_at": "2026-03-01T12:00:00Z", "sha256": ""}',
        '{"name": "", "permissions": [], "made_at": "2026-03-01T12:00:00Z", "sha256": "%s"}',
    ],
)
def test_a_row_that_somebody_tampered_with_is_nobodys_key(kept: RecordStore, body: str) -> None:
    key, another = make(kept), make(kept, "bob")
    _, key_id, secret = key.split("_", 2)
    written = body.replace("%s", api_keys._hash(secret))
    kept.write([Change("put", "api-keys", key_id, written)])
    refused(key)
    assert caller(another).name == "bob"


def test_a_permission_of_a_later_version_counts_for_nothing(kept: RecordStore) -> None:
    key = make(kept)
    key_id = key.split("_")[1]
    row = kept.get("api-keys", key_id)
    assert row is not None
    body = json.loads(row.body) | {"permissions": ["execution:read", "moon:land"]}
    kept.write([Change("put", "api-keys", key_id, json.dumps(body))])
    assert caller(key).permissions == {"execution:read"}


def test_a_key_that_was_revoked_is_refused_within_seconds(
    kept: RecordStore, pass_time: Callable[[float], None]
) -> None:
    key, another, third = make(kept), make(kept), make(kept, "bob")
    assert caller(key)
    assert revoke_keys(kept, "alice@EXAMPLE.com") == 2
    pass_time(api_keys.FRESH)
    refused(key)
    refused(another)
    assert caller(third)
    assert revoke_keys(kept, "alice@example.com") == 0
    assert revoke_keys(kept, third.split("_")[1]) == 1
    pass_time(api_keys.FRESH)
    refused(third)


def test_a_key_that_was_made_just_now_is_known_in_a_moment(
    kept: RecordStore, pass_time: Callable[[float], None]
) -> None:
    assert caller(make(kept))
    new = make(kept, "bob")
    pass_time(api_keys.UNKNOWN)
    assert caller(new).name == "bob"


class Counting:
    """A store that counts how often it is read, and may be away."""

    def __init__(self, store: RecordStore) -> None:
        self.store, self.reads, self.is_away = store, 0, False

    def range(self, partition: str, start: str, end: str, limit: int) -> list[Row]:
        """Read rows."""
        self.reads += 1
        if self.is_away:
            raise RecordStoreError("away")
        return self.store.range(partition, start, end, limit)


@pytest.fixture
def counting(kept: RecordStore, monkeypatch: pytest.MonkeyPatch) -> Counting:
    """The record store of the app, which counts."""
    made = Counting(kept)
    monkeypatch.setattr(api_keys, "get_record_store", lambda: made)
    return made


def test_whatever_is_sent_the_keys_are_read_now_and_then_alone(
    kept: RecordStore, counting: Counting, pass_time: Callable[[float], None]
) -> None:
    key = make(kept)
    made_up = [f"cs_{number:016x}_{'x' * 43}" for number in range(50)]

    async def many(keys: list[str]) -> list[Any]:
        return await asyncio.gather(*map(caller_of_key, keys), return_exceptions=True)

    found = asyncio.run(many([key] * 50))
    assert {type(each) for each in found} == {Caller}
    assert counting.reads == 1
    assert {type(each) for each in asyncio.run(many(made_up))} == {Unauthorized}
    assert counting.reads == 1
    pass_time(api_keys.UNKNOWN)
    assert {type(each) for each in asyncio.run(many(made_up))} == {Unauthorized}
    assert counting.reads == 2


def test_while_the_store_is_away_nobody_is_let_in_by_what_was_read_long_ago(
    kept: RecordStore, counting: Counting, pass_time: Callable[[float], None]
) -> None:
    key = make(kept)
    assert caller(key)
    counting.is_away = True
    assert caller(key)
    pass_time(api_keys.FRESH)
    for _ in range(3):
        with pytest.raises(RecordStoreError):
            caller(key)
    assert counting.reads == 2
    counting.is_away = False
    pass_time(api_keys.REST)
    assert caller(key)


@pytest.mark.parametrize(
    ("name", "permissions", "said"),
    [
        ("alice", [], "execution:read"),
        ("alice", ["execution:read", "execution:fly"], "no permission execution:fly; there are"),
        ("alice", ["*"], "no permission"),
        ("", ["execution:read"], "a name has"),
        ("alice\nbob", ["execution:read"], "one line"),
        ("a" * 255, ["execution:read"], "254"),
    ],
)
def test_a_key_needs_a_name_and_permissions_that_there_are(
    kept: RecordStore, name: str, permissions: list[str], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        make_key(kept, name, permissions, NOW)
    assert list_keys(kept) == []


def test_there_are_only_so_many_keys(kept: RecordStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_keys, "MAX_KEYS", 2)
    keys = [make(kept), make(kept)]
    with pytest.raises(ValueError, match="revoke some"):
        make(kept)
    assert [caller(each).name for each in keys] == ["alice@example.com"] * 2


def test_a_list_is_in_the_order_of_the_names_and_then_of_the_days(kept: RecordStore) -> None:
    for name, day in (("carol", 2), ("Bob", 3), ("bob", 1), ("alice", 4)):
        make_key(kept, name, ["audit:read"], NOW + timedelta(days=day))
    assert [each.kept.name for each in list_keys(kept)] == ["alice", "bob", "Bob", "carol"]


@pytest.fixture
def folder(data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the command is run in."""
    made = tmp_path / "app"
    made.mkdir()
    monkeypatch.chdir(made)
    return made


def test_the_command_shows_a_key_once_and_lists_and_revokes_it(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["make", "alice", "execution:read, audit:read,"]) == 0
    out, err = capsys.readouterr()
    assert caller(out.removesuffix("\n")) == Caller("alice", frozenset({"execution:read", "audit:read"}))
    assert "AUTH=keys" in err
    monkeypatch.setenv("AUTH", "keys")
    get_settings.cache_clear()
    assert main(["make", "bob", "execution:start"]) == 0
    assert "AUTH=keys" not in capsys.readouterr().err
    assert main(["list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[2:] for line in listed] == [
        ["alice", "audit:read,execution:read"],
        ["bob", "execution:start"],
    ]
    assert out.split("_")[1] in listed[0]
    assert out.strip().split("_", 2)[2] not in "".join(listed)
    assert (main(["revoke", "alice"]), main(["revoke", "alice"])) == (0, 1)
    said = capsys.readouterr().err
    assert ("1 revoked" in said, "no key of that name" in said) == (True, True)


@pytest.mark.parametrize(
    ("arguments", "said"), [(["make", "alice", ""], "permission"), (["make", "", "audit:read"], "name")]
)
def test_the_command_says_what_is_wrong_in_a_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert (out, said in err, "Traceback" in err) == ("", True, False)


def test_the_command_goes_by_the_settings_of_the_folder_where_the_environment_says_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"RECORDS": "tables", "RECORDS_CONNECTION": "no connection", "LOCAL_HOST_DATA": "elsewhere"}
    monkeypatch.delenv("RECORDS")
    (folder / "local.settings.json").write_text(json.dumps({"Values": settings}))
    get_settings.cache_clear()
    assert main(["list"]) == 1
    assert "RECORDS" in capsys.readouterr().err
    assert not (folder / "elsewhere").exists()
    for broken in ("{", "[]", '{"Values": 7}'):
        (folder / "local.settings.json").write_text(broken)
        assert main(["list"]) == 1
        assert "local.settings.json" in capsys.readouterr().err


def test_the_verbs_of_the_project_take_the_data_folder_of_the_host() -> None:
    lines = {
        verb: subprocess.run(
            ["make", "-n", verb, "NAME=x"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        for verb in ("run", "key", "keys", "revoke")
    }
    assert "--data .data" in lines["run"]
    for verb in ("key", "keys", "revoke"):
        assert f'LOCAL_HOST_DATA="{ROOT / ".data"}"' in lines[verb]
