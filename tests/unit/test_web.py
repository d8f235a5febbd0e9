"""What every trigger is wrapped in: errors of all kinds become answers that give nothing away."""

import asyncio
import json
import logging
from typing import Any

import azure.functions as func
import grpc
import pytest

import errors
from contracts.base import Contract
from errors import AlreadyDecided, BadRequest, CountersignError, Unprocessable
from services.identity import Caller, calling
from triggers.web import Trigger, answers_errors, read_body


class HubError(grpc.RpcError):
    """What a gRPC call raises."""

    def __init__(self, code: grpc.StatusCode) -> None:
        super().__init__("token=secret")
        self._code = code

    def code(self) -> grpc.StatusCode:
        """The status of the call."""
        return self._code


async def _call(trigger: Trigger) -> func.HttpResponse:
    return await trigger(func.HttpRequest("POST", "http://x/", body=b""), None)


def answered(error: Exception, caplog: pytest.LogCaptureFixture) -> tuple[int, dict[str, Any]]:
    """Status and body that a trigger's error is answered with."""

    async def trigger(req: func.HttpRequest, client: Any) -> func.HttpResponse:
        raise error

    with caplog.at_level(logging.CRITICAL if isinstance(error, CountersignError) else logging.DEBUG):
        response = asyncio.run(_call(answers_errors(trigger, None)))
    assert response.mimetype == "application/problem+json"
    body: dict[str, Any] = json.loads(response.get_body())
    assert body["status"] == response.status_code
    return response.status_code, body


@pytest.mark.parametrize("error", [ValueError("secret"), RuntimeError("/secret/path"), KeyError("secret")])
def test_an_unexpected_error_is_logged_whole_and_answered_with_nothing_of_it(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    status, body = answered(error, caplog)
    assert status == 500
    assert "secret" not in json.dumps(body)
    assert "Traceback" in caplog.text
    assert "secret" in caplog.text


@pytest.mark.parametrize(("code", "status"), [(grpc.StatusCode.UNAVAILABLE, 503), (grpc.StatusCode.INTERNAL, 500)])
def test_a_hub_that_fails(code: grpc.StatusCode, status: int, caplog: pytest.LogCaptureFixture) -> None:
    found, body = answered(HubError(code), caplog)
    assert found == status
    assert "secret" not in json.dumps(body)


def test_the_members_of_an_error_are_in_the_problem(caplog: pytest.LogCaptureFixture) -> None:
    status, body = answered(AlreadyDecided("X did.", decided_by="X"), caplog)
    assert (status, body["decided_by"], body["detail"]) == (409, "X", "X did.")
    assert body["type"] == "urn:countersign:problem:already-decided"


def test_every_error_has_a_status_and_a_slug_of_its_own_and_stands_in_the_tree() -> None:
    tree = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, CountersignError)]
    assert len({each.slug for each in tree}) == len(tree)
    for each in tree:
        assert each.__name__ in (errors.__doc__ or "")
        assert 400 <= each.status < 600


class Said(Contract):
    """A body that names who says it."""

    by: str
    number: float | None = None


def read(body: str, caller: str | None = "alice", said_by: str | None = "by") -> Said:
    """The body as somebody sends it."""
    with calling(Caller(caller) if caller is not None else None):
        return read_body(func.HttpRequest("POST", "/", body=body.encode()), Said, said_by=said_by)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("{}", Said(by="alice")),
        (" \n{\t} ", Said(by="alice")),
        ('{"number": 0.1}', Said(by="alice", number=0.1)),
        ('\r\n{ "number" : 1e3 }', Said(by="alice", number=1000)),
        ('{"by": "bob"}', Said(by="bob")),
        ('{"by": ""}', Said(by="")),
    ],
)
def test_who_says_something_need_not_say_who_he_is(body: str, said: Said) -> None:
    assert read(body) == said


def test_a_name_cannot_break_out_of_the_body() -> None:
    for name in ('", "number": 7, "x": "', "\\", "\u00e4\u202e", "\U0001f600"):
        assert read("{}", name) == Said(by=name)


@pytest.mark.parametrize("body", ['{"by": null}', '{"by": 7}', '{"number": "x"}', '{"By": "bob"}', "[]", '"{}"', "7"])
def test_what_is_wrong_in_a_body_stays_wrong(body: str) -> None:
    with pytest.raises(Unprocessable):
        read(body)


@pytest.mark.parametrize("body", ["", "{", "}", "{,}", '{"number": 1,}', "{} {}", "{]", "\ufeff{}"])
def test_what_is_no_json_does_not_become_any(body: str) -> None:
    with pytest.raises(BadRequest):
        read(body)


def test_where_nobody_calls_or_no_field_is_for_it_a_body_stands_as_it_is() -> None:
    for caller, said_by in ((None, "by"), ("alice", None)):
        with pytest.raises(Unprocessable) as error:
            read("{}", caller, said_by)
        assert error.value.members["errors"][0]["field"] == "by"
