"""Tokens for the scheduler: one for all who call it, fetched on a thread, renewed before it ends."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import grpc
import grpc.aio
from azure.core.credentials import AccessToken, TokenCredential
from azure.core.exceptions import ClientAuthenticationError

RENEW_BEFORE = 600.0
"""Seconds before its end from which on a token is renewed, as durabletask.azuremanaged does it."""

UNUSABLE_BEFORE = 10.0
"""Seconds before its end from which on a token is not sent any more: it may be late when it arrives."""

PAUSE_AFTER_FAILURE = 5.0
"""Seconds before a credential that gave no token is asked again."""

_LOGGER = logging.getLogger("local_host.scheduler")


class TokenError(Exception):
    """There is no token to be had now; the log says why."""


class Tokens:
    """The tokens of a credential for one audience; itself a credential, for the threads of the worker.

    A credential may take its time (it runs a program, or asks the net), so it is asked on a thread of its own, which
    neither the event loop nor the end of the process waits for.
    """

    def __init__(self, credential: TokenCredential, audience: str, now: Callable[[], float] = time.time) -> None:
        self._credential = credential
        self._scope = f"{audience}/.default"
        self._now = now
        self._lock = threading.Lock()
        self._token: AccessToken | None = None
        self._fetching: Future[AccessToken] | None = None
        self._ask_again_at = 0.0
        self._failing = False
        self._released = False

    def get_token(self, *_scopes: str, **_options: Any) -> AccessToken:
        """Give a token that is good for a while, and wait for it. Raises ``TokenError``."""
        return self._wanted().result()

    async def current(self) -> AccessToken:
        """Give a token that is good for a while. Raises ``TokenError``."""
        return await asyncio.wrap_future(self._wanted())

    def release(self) -> None:
        """Let nobody wait any more for a token, now or later."""
        with self._lock:
            self._released = True
            fetching, self._fetching = self._fetching, None
        if fetching is not None:
            fetching.set_exception(TokenError("The host stops."))

    def close(self) -> None:
        """Release who waits, and the credential's connections."""
        self.release()
        close = getattr(self._credential, "close", None)
        if close is not None:
            close()

    def _wanted(self) -> Future[AccessToken]:
        """The token, or what will be one: a token that is still good is used while the next one is fetched."""
        now = self._now()
        with self._lock:
            left = self._token.expires_on - now if self._token is not None else 0.0
            wanted = left <= RENEW_BEFORE and self._fetching is None and now >= self._ask_again_at
            if wanted and not self._released:
                self._fetching = Future()
                self._fetching.set_running_or_notify_cancel()  # one who gives up waiting does not end it for the others
                threading.Thread(
                    target=self._fetch, args=(self._fetching,), name="scheduler-token", daemon=True
                ).start()
            if left <= UNUSABLE_BEFORE and self._fetching is not None:
                return self._fetching
            ready: Future[AccessToken] = Future()
            if self._token is not None and left > UNUSABLE_BEFORE:
                ready.set_result(self._token)
            else:
                ready.set_exception(TokenError("There is no token for the scheduler; the host's log says why."))
            return ready

    def _fetch(self, future: Future[AccessToken]) -> None:
        token, failure = None, ""
        try:
            token = self._credential.get_token(self._scope)
        except ClientAuthenticationError as error:
            failure = error.message
        except Exception as error:  # noqa: BLE001  # whatever it is; its text may hold what nobody should read
            failure = type(error).__name__
        with self._lock:
            if token is not None:
                self._token = token
            else:
                self._ask_again_at = self._now() + PAUSE_AFTER_FAILURE
            self._tell(failure)
            if self._fetching is not future:
                return  # nobody waits for it any more
            self._fetching = None
        if token is not None:
            future.set_result(token)
        else:
            future.set_exception(TokenError("There is no token for the scheduler; the host's log says why."))

    def _tell(self, failure: str) -> None:
        """Say once that there are no tokens, and once that there are again."""
        if failure and not self._failing:
            _LOGGER.error("The credential gives no token for the scheduler, and will be asked again: %s", failure)
        elif self._failing and not failure:
            _LOGGER.info("The credential gives tokens for the scheduler again")
        self._failing = bool(failure)


class AsyncTokens:
    """The same tokens for calls of the event loop, where a failure is one of the call."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    async def get_token(self, *_scopes: str, **_options: Any) -> AccessToken:
        """Give a token that is good for a while. Raises ``grpc.aio.AioRpcError``."""
        try:
            return await self._tokens.current()
        except TokenError as error:
            nothing = grpc.aio.Metadata()
            raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing, str(error)) from None
