"""The HTTP server: its listener, and uvicorn's settings."""

import errno
import ipaddress
import math
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import override

import uvicorn
from starlette.types import ASGIApp

from local_host.errors import HostError
from local_host.protocol import Protocol

KEEP_ALIVE_SECONDS = 130
"""How long an idle connection is kept, as Kestrel does it, which the real host runs on."""


class Server(uvicorn.Server):
    """uvicorn's server, except that whoever runs the host handles the signals."""

    @override
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def server_config(app: ASGIApp, grace: float = 10, protocol: type[Protocol] = Protocol) -> uvicorn.Config:
    """Return uvicorn's settings for the host.

    ``grace`` is how many seconds requests under way have to be answered when the server stops; ``protocol`` is for
    tests, which have other limits.
    """
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        proxy_headers=False,  # the web front reads them, and knows whom to believe
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=math.ceil(grace),
    )


@contextmanager
def listen(address: str, port: int, inherited: int | None = None) -> Iterator[socket.socket]:
    """Listen on an IP address and a port (0 takes a free one), or on the socket that a parent process has opened.

    From here on no other host can take the port, and what comes before the server is ready waits for it.
    ``inherited`` is the descriptor of a TCP socket that listens. Raises ``HostError`` with what to do about it.
    """
    with _adopt(inherited) if inherited is not None else _bind(address, port) as listener:
        yield listener


def _bind(address: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
    except ValueError:
        raise HostError(f"'{address}' is no IP address to listen on.") from None
    # The protocol is named, since asyncio sends small answers at once only where it sees that it is TCP.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise HostError(_why_not(error, address, port)) from None
    return listener


def _why_not(error: OSError, address: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} is in use. Choose another one with --port."
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"This user may not listen on port {port}. Choose one from 1024 up with --port."
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{address} is no address of this machine."
    return f"Port {port} of {address} cannot be listened on: {error.strerror}."


def _adopt(descriptor: int) -> socket.socket:
    try:
        listener = socket.socket(fileno=descriptor)
    except OSError as error:
        raise HostError(f"There is no socket {descriptor} to listen on: {error.strerror}.") from None
    listens = listener.type == socket.SOCK_STREAM and listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if not listens or listener.family not in (socket.AF_INET, socket.AF_INET6):
        listener.detach()  # it is not ours to close
        raise HostError(f"The socket {descriptor} does not listen for TCP.")
    listener.set_inheritable(False)
    return listener
