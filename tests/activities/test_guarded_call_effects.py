"""The activity of a guarded call: one attempt, plain JSON in and out."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.functions._durable_functions import df_dumps
from pydantic import ValidationError

from activities.guarded_call import call_api
from contracts.guarded_call import Answer
from settings import get_settings
from tests.failing_server import FailingServer, Reply, dropped, failing_server, redirect

NO_CONTEXT: Any = None


@pytest.fixture
def server(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FailingServer]:
    """A server that may be called."""
    with failing_server() as serving:
        monkeypatch.setenv("CALL_HOSTS", serving.host)
        get_settings.cache_clear()
        yield serving


def attempt(call: dict[str, Any], number: int = 1, key: str = "key-1") -> dict[str, Any]:
    """Run the activity as the app does it, and see that what it gives can stand in a history."""
    given = asyncio.run(call_api(NO_CONTEXT, {"call": call, "number": number, "key": key}))
    assert json.loads(df_dumps(given)) == given == Answer.model_validate(given).plain()
    return given


def test_an_attempt_gives_what_the_api_answers(server: FailingServer) -> None:
    server.answers("/pay", [Reply(200, b'{"paid": true}')])
    given = attempt({"kind": "http", "url": server.url("/pay"), "body": {"amount": 5}})
    assert given == {
        "problem": None,
        "status": 200,
        "message": "",
        "fingerprint": None,
        "retry_after": None,
        "result": {"paid": True},
    }


def test_an_attempt_that_fails_is_an_answer_too(server: FailingServer) -> None:
    server.answers("/pay", [Reply(429, b"slow down", {"Retry-After": "7"})])
    given = attempt({"kind": "http", "url": server.url("/pay")})
    assert len(given.pop("fingerprint")) == 16
    assert given == {
        "problem": "status",
        "status": 429,
        "message": f"{server.host} answers 429: slow down",
        "retry_after": 7.0,
        "result": None,
    }


def test_attempts_of_a_group_go_out_with_the_same_key(server: FailingServer) -> None:
    server.answers("/pay", [Reply(503), dropped(), redirect("/paid", 307)])
    server.answers("/paid", [Reply(200, b"{}")])
    call = {"kind": "http", "url": server.url("/pay"), "body": 1}
    assert [attempt(call, number)["problem"] for number in (1, 2, 3)] == ["status", "unreadable", None]
    assert attempt(call, 4, "key-2")["problem"] is None
    keys = [got.headers.get_all("Idempotency-Key") for got in server.requests]
    assert keys == [["key-1"]] * 4 + [["key-2"]] * 2


def test_a_simulated_attempt_fails_by_its_number() -> None:
    call = {"kind": "simulated", "fails": 1, "body": {"a": 1}}
    assert [attempt(call, number)["problem"] for number in (1, 2, 1)] == ["status", None, "status"]
    assert attempt(call, 2)["result"] == {"a": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"number": 0},
        {"key": ""},
        {"key": "a\r\nX-Evil: 1"},
        {"key": "ä"},
        {"extra": 1},
        {"call": {"kind": "ftp", "url": "ftp://example.com"}},
        {"call": {"kind": "http", "url": "https://example.com/", "headers": {"Host": "evil.example.com"}}},
        {"call": {"kind": "http", "url": "https://example.com/", "headers": {"X": "a\r\nIdempotency-Key: 1"}}},
    ],
)
def test_what_is_no_attempt_is_refused(change: dict[str, Any]) -> None:
    given = {"call": {"kind": "simulated"}, "number": 1, "key": "k"} | change
    with pytest.raises(ValidationError) as caught:
        asyncio.run(call_api(NO_CONTEXT, given))
    assert "evil" not in str(caught.value)
