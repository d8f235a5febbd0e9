"""Access keys: the file that they are kept in, and which of them opens what."""

import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from local_host.errors import HostError
from local_host.keys import Keys, load_keys, permitted

KEYS = Keys("the-master", {"default": "the-function", "other": "another"}, {"durabletask_extension": "the-durable"})


def request(query: str = "", *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    """An ASGI scope."""
    return {"type": "http", "query_string": query.encode("latin-1"), "headers": list(headers)}


def header(value: str) -> tuple[bytes, bytes]:
    return (b"x-functions-key", value.encode())


# What opens what


@pytest.mark.parametrize(
    ("level", "opening"),
    [
        ("anonymous", ["the-master", "the-function", "another", "the-durable", "wrong", ""]),
        ("function", ["the-master", "the-function", "another"]),
        ("admin", ["the-master"]),
        ("system", ["the-master", "the-durable"]),
        ("unheard-of", ["the-master"]),
    ],
)
def test_which_key_opens_which_level(level: str, opening: list[str]) -> None:
    for key in ("the-master", "the-function", "another", "the-durable", "wrong", ""):
        assert KEYS.permit(level, request("", header(key))) is (key in opening)
        assert KEYS.permit(level, request(f"code={key}")) is (key in opening)
    assert KEYS.permit(level, request()) is (level == "anonymous")


@pytest.mark.parametrize(
    ("query", "headers", "permit"),
    [
        ("code=the-function", [], True),
        ("CODE=the-function", [], True),
        ("a=1&Code=the-function&b", [], True),
        ("code=%74he-function", [], True),
        ("code=the-function&code=wrong", [], True),
        ("code=wrong&code=the-function", [], False),
        ("code=&code=the-function", [], False),
        ("code=the-function ", [], False),
        ("code=THE-FUNCTION", [], False),
        ("code=the-functio", [], False),
        ("code", [], False),
        ("=the-function", [], False),
        ("xcode=the-function", [], False),
        ("code=%FF%00%ED%A0%80", [], False),
        ("code=\xff", [], False),
        ("code=" + quote("schlüssel"), [], False),
        ("", [(b"x-functions-key", b"the-function")], True),
        ("", [(b"x-functions-key", b"the-function"), (b"x-functions-key", b"wrong")], True),
        ("", [(b"x-functions-key", b"wrong"), (b"x-functions-key", b"the-function")], False),
        ("", [(b"x-functions-key", b"the-function,wrong")], False),
        ("", [(b"x-functions-key", b"\xff\x00")], False),
        ("code=wrong", [(b"x-functions-key", b"the-function")], True),
        ("code=the-function", [(b"x-functions-key", b"wrong")], False),
        ("code=the-function", [(b"x-functions-key", b"")], False),
        ("code=the-function", [(b"x-other", b"wrong")], True),
    ],
)
def test_where_a_key_may_stand(query: str, headers: list[tuple[bytes, bytes]], permit: bool) -> None:
    assert KEYS.permit("function", request(query, *headers)) is permit


def test_without_keys_everything_is_open() -> None:
    assert permitted(None, "admin", request())
    assert not permitted(KEYS, "admin", request())


def test_keys_are_not_shown() -> None:
    assert not any(secret in repr(KEYS) for secret in ("the-master", "the-function", "the-durable"))


# The file


def test_keys_are_made_once_for_their_owner_only(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        keys = load_keys(tmp_path)
    finally:
        os.umask(mask)
    file = tmp_path / "keys.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [file]
    assert load_keys(tmp_path) == keys
    assert len({keys.master, keys.functions["default"], keys.durable}) == 3
    assert all(len(key) >= 43 and key.isascii() for key in (keys.master, keys.functions["default"], keys.durable))
    assert load_keys(_made(tmp_path / "other")) != keys


def test_hosts_that_start_at_once_have_the_same_keys(tmp_path: Path) -> None:
    for attempt in range(20):
        folder = _made(tmp_path / str(attempt))
        together = threading.Barrier(8)

        def load(folder: Path = folder, together: threading.Barrier = together) -> Keys:
            together.wait(10)
            return load_keys(folder)

        with ThreadPoolExecutor(8) as pool:
            found = [each.result(10) for each in [pool.submit(load) for _ in range(8)]]
        assert all(each == found[0] for each in found)
        assert [each.name for each in folder.iterdir()] == ["keys.json"]


def test_keys_that_the_user_made_are_taken(tmp_path: Path) -> None:
    _write(
        tmp_path,
        json.dumps(
            {"masterKey": "m", "functionKeys": {"a": "1", "b": "2"}, "systemKeys": {"durabletask_extension": "d"}}
        ),
    )
    assert load_keys(tmp_path) == Keys("m", {"a": "1", "b": "2"}, {"durabletask_extension": "d"})


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o666])
def test_a_file_that_others_can_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    keys = load_keys(tmp_path)
    (tmp_path / "keys.json").chmod(mode)
    with pytest.raises(HostError, match=r"Others can read or write .*keys\.json.*chmod 600"):
        load_keys(tmp_path)
    (tmp_path / "keys.json").chmod(0o600)
    assert load_keys(tmp_path) == keys


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.pop("masterKey"),
        lambda document: document.pop("functionKeys"),
        lambda document: document.pop("systemKeys"),
        lambda document: document["systemKeys"].pop("durabletask_extension"),
        lambda document: document.update(masterKey=""),
        lambda document: document.update(masterKey=7),
        lambda document: document.update(masterKey="sécret"),
        lambda document: document.update(masterKey="two words"),
        lambda document: document.update(masterKey="line\n"),
        lambda document: document.update(functionKeys=["a"]),
        lambda document: document.update(functionKeys={"default": ""}),
        lambda document: document.update(functionKeys={"default": None}),
        lambda document: document.update(systemKeys={"durabletask_extension": ["a"]}),
    ],
)
def test_keys_that_are_none_are_refused(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    load_keys(tmp_path)
    document = json.loads((tmp_path / "keys.json").read_text())
    change(document)
    _write(tmp_path, json.dumps(document))
    _refuses(tmp_path, document)


@pytest.mark.parametrize("text", ["", "secret-thing", "[]", '"x"', "null", "{", "[" * 100_000, "\x00" * 100])
def test_a_file_that_is_malformed_is_refused(tmp_path: Path, text: str) -> None:
    _write(tmp_path, text)
    _refuses(tmp_path, text)


def test_a_file_that_is_too_large_is_refused_and_not_read_whole(tmp_path: Path) -> None:
    _write(tmp_path, "")
    with (tmp_path / "keys.json").open("r+b") as file:
        file.truncate(10**12)
    _refuses(tmp_path, "")


def _refuses(folder: Path, content: object) -> None:
    with pytest.raises(HostError) as refused:
        load_keys(folder)
    assert (
        str(refused.value)
        == f"{folder / 'keys.json'} holds no keys that can be read. Delete it, and new ones are made."
    )
    assert refused.value.__cause__ is None, content


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_keys_that_somebody_else_has_planted_are_refused(tmp_path: Path) -> None:
    load_keys(tmp_path)
    os.chown(tmp_path / "keys.json", 65534, 65534)
    with pytest.raises(HostError, match=r"keys\.json belongs to somebody else"):
        load_keys(tmp_path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "keys.json", 0o600)
    with pytest.raises(HostError, match=r"keys\.json is no file"):
        load_keys(tmp_path)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"keys\.json cannot be read or written: No such file or directory"):
        load_keys(tmp_path / "nowhere")
    (tmp_path / "keys.json").symlink_to(tmp_path / "gone")
    with pytest.raises(HostError, match=r"keys\.json cannot be read or written"):
        load_keys(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["keys.json"]


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _write(folder: Path, text: str) -> None:
    file = folder / "keys.json"
    file.write_text(text)
    file.chmod(0o600)
