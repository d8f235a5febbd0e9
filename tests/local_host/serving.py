"""A server of the host's in the process of a test, around any ASGI app, and bytes as they go over the wire."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
from starlette.types import ASGIApp

from local_host.protocol import Protocol
from local_host.server import Server, listen, server_config

SECONDS = 10
"""How long a test waits for bytes before it fails."""


@dataclass
class Served:
    """A server that runs, on a port of loopback."""

    port: int
    server: Server
    loop: asyncio.AbstractEventLoop

    @property
    def url(self) -> str:
        """The address of the server."""
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> httpx.Client:
        """Give an HTTP client for the server."""
        return httpx.Client(base_url=self.url, timeout=SECONDS, trust_env=False)

    def connect(self) -> socket.socket:
        """Give a connection to the server."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS)

    def raw(self, *packets: bytes) -> bytes:
        """Send bytes as they are, and give all that is answered until the server closes the connection."""
        with self.connect() as connection:
            for packet in packets:
                connection.sendall(packet)
            return everything(connection)


@contextmanager
def served(
    app: ASGIApp,
    protocol: type[Protocol] = Protocol,
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
) -> Iterator[Served]:
    """Serve an ASGI app on a free port, on an event loop of its own, for as long as the context lasts."""
    loop = new_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        with listen("127.0.0.1", 0) as listener:
            server = Server(server_config(app, protocol=protocol))
            serving = asyncio.run_coroutine_threadsafe(server.serve(sockets=[listener]), loop)
            try:
                yield Served(listener.getsockname()[1], server, loop)
            finally:
                server.should_exit = True
                serving.result(2 * SECONDS)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(SECONDS)
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def everything(connection: socket.socket) -> bytes:
    """Read until the other side closes the connection; what it does to it at the end is no matter."""
    found = bytearray()
    try:
        while chunk := connection.recv(65536):
            found += chunk
    except ConnectionResetError:
        pass
    return bytes(found)
