"""What every trigger is wrapped in: errors of all kinds become answers that give nothing away."""

import asyncio
import json
import logging
from typing import Any

import azure.functions as func
import grpc
import pytest

import errors
from errors import AlreadyDecided, CountersignError
from triggers.web import Trigger, answers_errors


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
        response = asyncio.run(_call(answers_errors(trigger)))
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
