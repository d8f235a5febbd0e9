"""Tokens: fetched once for all, renewed in time, and what becomes of those who wait when there are none."""

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import grpc.aio
import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError

from local_host.scheduler.tokens import PAUSE_AFTER_FAILURE, RENEW_BEFORE, AsyncTokens, TokenError, Tokens
from tests.local_host.scheduler.support import Credential
from tests.polling import until


class Clock:
    """A clock that the test sets."""

    now = 1000.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


def lasting(clock: Clock, seconds: float = 3600) -> Credential:
    """A credential whose tokens last."""
    return Credential(lambda number: AccessToken(f"token-{number}", int(clock.now + seconds)))


def test_a_token_is_fetched_once_for_all_who_ask_at_once() -> None:
    clock, gate = Clock(), threading.Event()

    def give(number: int) -> AccessToken:
        gate.wait(10)
        return AccessToken(f"token-{number}", 5000)

    credential = Credential(give)
    tokens = Tokens(credential, "https://audience.example", clock)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(tokens.get_token) for _ in range(8)]
        until(lambda: credential.asked)
        gate.set()
        assert {each.result(10).token for each in asked} == {"token-1"}
    assert credential.asked == [("https://audience.example/.default",)]


def test_a_token_is_renewed_before_it_ends_and_used_meanwhile() -> None:
    clock = Clock()
    gate = threading.Event()

    def give(number: int) -> AccessToken:
        if number > 1:
            gate.wait(10)
        return AccessToken(f"token-{number}", int(clock.now + 3600))

    credential = Credential(give)
    tokens = Tokens(credential, "a", clock)
    assert tokens.get_token().token == "token-1"
    clock.now += 3600 - RENEW_BEFORE - 1
    assert tokens.get_token().token == "token-1"
    assert len(credential.asked) == 1
    clock.now += 1
    assert tokens.get_token().token == "token-1"  # while the next one is fetched
    until(lambda: len(credential.asked) == 2)
    gate.set()
    until(lambda: tokens.get_token().token == "token-2")
    assert len(credential.asked) == 2


def test_a_token_that_has_ended_is_waited_for() -> None:
    clock = Clock()
    tokens = Tokens(lasting(clock), "a", clock)
    assert tokens.get_token().token == "token-1"
    clock.now += 3595
    assert tokens.get_token().token == "token-2"


def test_a_renewal_that_fails_leaves_the_token_to_its_end(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()

    def give(number: int) -> AccessToken:
        if number > 1:
            raise ClientAuthenticationError("the identity is gone")
        return AccessToken("good", int(clock.now + 3600))

    credential = Credential(give)
    tokens = Tokens(credential, "a", clock)
    tokens.get_token()
    clock.now += 3500
    assert tokens.get_token().token == "good"
    until(lambda: "the identity is gone" in caplog.text)
    clock.now += PAUSE_AFTER_FAILURE
    assert tokens.get_token().token == "good"
    until(lambda: len(credential.asked) == 3)
    clock.now += 100
    until(lambda: not any(each.name == "scheduler-token" for each in threading.enumerate()))
    with pytest.raises(TokenError):
        tokens.get_token()
    assert caplog.text.count("gives no token") == 1


def test_a_credential_that_fails_is_told_once_and_not_asked_at_every_call(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock, fails = Clock(), [True]

    def give(number: int) -> AccessToken:
        if fails[0]:
            raise ValueError("secret-word")
        return AccessToken("at last", int(clock.now + 3600))

    credential = Credential(give)
    tokens = Tokens(credential, "a", clock)
    for _ in range(5):
        with pytest.raises(TokenError) as refused:
            tokens.get_token()
        assert "secret-word" not in str(refused.value)
    assert len(credential.asked) == 1
    clock.now += PAUSE_AFTER_FAILURE
    with pytest.raises(TokenError):
        tokens.get_token()
    assert len(credential.asked) == 2
    fails[0] = False
    clock.now += PAUSE_AFTER_FAILURE
    assert tokens.get_token().token == "at last"
    assert caplog.text.count("gives no token") == 1
    assert caplog.text.count("gives tokens for the scheduler again") == 1
    assert "secret-word" not in caplog.text
    assert "ValueError" in caplog.text


def test_who_gives_up_waiting_on_the_loop_does_not_end_it_for_others() -> None:
    clock, gate = Clock(), threading.Event()

    def give(number: int) -> AccessToken:
        gate.wait(10)
        return AccessToken("late", 5000)

    tokens = Tokens(Credential(give), "a", clock)

    async def wait() -> str:
        impatient, patient = asyncio.create_task(tokens.current()), asyncio.create_task(tokens.current())
        await asyncio.sleep(0)
        impatient.cancel()
        with pytest.raises(asyncio.CancelledError):
            await impatient
        gate.set()
        return (await patient).token

    assert asyncio.run(wait()) == "late"


def test_who_waits_is_released_at_the_stop_and_a_late_token_does_no_harm() -> None:
    gate, given = threading.Event(), threading.Event()

    def give(number: int) -> AccessToken:
        gate.wait(10)
        given.set()
        return AccessToken("late", 5000)

    credential = Credential(give)
    tokens = Tokens(credential, "a", Clock())
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(tokens.get_token)
        until(lambda: credential.asked)
        tokens.close()
        with pytest.raises(TokenError, match="stops"):
            waits.result(10)
    assert credential.closed
    gate.set()
    assert given.wait(10)
    until(lambda: not any(each.name == "scheduler-token" for each in threading.enumerate()))
    assert tokens.get_token().token == "late"


def test_after_the_stop_the_credential_is_not_asked_again() -> None:
    """One that hangs would keep the threads that give work back, and with them the stop."""
    credential = Credential(lambda number: AccessToken("token", 5000))
    tokens = Tokens(credential, "a", Clock())
    tokens.close()
    with pytest.raises(TokenError):
        tokens.get_token()
    assert credential.asked == []


def test_on_the_loop_a_failure_is_one_of_the_call() -> None:
    def give(number: int) -> AccessToken:
        raise ClientAuthenticationError("no")

    tokens = AsyncTokens(Tokens(Credential(give), "a", Clock()))

    async def get() -> None:
        await tokens.get_token("other")

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        asyncio.run(get())
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
