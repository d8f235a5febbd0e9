"""How the worker's connection fares, for the log: one line when it breaks, one when it is back."""

import logging
import time
from collections.abc import Callable
from typing import Any, override

import grpc

BETWEEN_STREAMS = 1.0
"""Seconds between two requests for work at least: a scheduler that ends each stream at once is not flooded."""

_LOGGER = logging.getLogger("local_host.scheduler")


class Contact(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Watches the worker connect, and adds to its request for work how many entities it takes at once.

    ``wait`` waits for some seconds, or until the worker ends.
    """

    def __init__(self, endpoint: str, entities: int, wait: Callable[[float], None]) -> None:
        self._endpoint = endpoint
        self._entities = entities
        self._wait = wait
        self._is_connected = False
        self._last_told = ""
        self._stream_began = float("-inf")

    @override
    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        call = continuation(client_call_details, request)
        if client_call_details.method.endswith("/Hello"):
            error = call.exception()
            if error is not None:
                self._is_connected = False
                self._tell("cannot be reached, and is tried again", told(error))
            elif not self._is_connected:
                self._is_connected = True
                self._last_told = ""
                _LOGGER.info("Connected to the Durable Task Scheduler at %s", self._endpoint)
        return call

    @override
    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        if not client_call_details.method.endswith("/GetWorkItems"):
            return continuation(client_call_details, request)
        self._wait(max(0.0, self._stream_began + BETWEEN_STREAMS - time.monotonic()))
        self._stream_began = time.monotonic()
        request.maxConcurrentEntityWorkItems = self._entities
        call = continuation(client_call_details, request)
        if not call.add_callback(lambda: self._ended(call)):
            self._ended(call)  # it has ended already
        return call

    def _ended(self, call: Any) -> None:
        """Hear that a stream of work has ended; when it could have been better is told by the next ``Hello``."""
        code = call.code()
        has_lasted = time.monotonic() - self._stream_began > BETWEEN_STREAMS
        usual = (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE) if has_lasted else ()
        if code != grpc.StatusCode.CANCELLED and code not in usual:
            error = call.exception()
            self._tell(
                "hands out no work, and is asked again", told(error) if error is not None else "it ended at once"
            )

    def _tell(self, what: str, why: str) -> None:
        """Say what is wrong, once until it is something else."""
        if self._last_told != what:
            self._last_told = what
            _LOGGER.warning("The Durable Task Scheduler at %s %s (%s)", self._endpoint, what, why)


def told(error: BaseException) -> str:
    """What a call failed with, without the details that gRPC adds for its developers."""
    if isinstance(error, grpc.Call):
        return f"{error.code().name}: {error.details()}"
    return str(error) or type(error).__name__
