"""Azurite's table service: Microsoft's emulator of Azure Table Storage, for the tests of what is kept there.

It is found as ``azurite-table`` on the PATH, in ``.azurite`` where ``.ci/run`` installs it, or where ``npx`` keeps what
it ran before. Where it is not found its tests are skipped, and the summary says so.
"""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import pytest

from tests.polling import until

PACKAGE = "azurite@3.37.0"
MISSING = (
    "Azurite was not found, so Azure Table Storage was not tested. "
    f"To get it: npm install --global {PACKAGE} (.ci/run installs it into .azurite by itself)"
)
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The emulator's account and key, which are the same everywhere, and no secret."""

_HERE = Path(__file__).parents[1] / ".azurite" / "node_modules" / ".bin" / "azurite-table"


class Azurite:
    """One table service on a port of its own, which keeps its port when it is stopped and started again.

    It forgets what it holds when it stops.
    """

    def __init__(self, command: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port: int = free.getsockname()[1]
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def connection(self) -> str:
        """The connection string."""
        return (
            f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};"
            f"TableEndpoint=http://127.0.0.1:{self._port}/{ACCOUNT};"
        )

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self._folder = tempfile.TemporaryDirectory(prefix="azurite-")
        with Path(self._folder.name, "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    self._command,
                    "--silent",
                    "--disableTelemetry",
                    "--inMemoryPersistence",
                    "--tableHost",
                    "127.0.0.1",
                    "--tablePort",
                    str(self._port),
                ],
                cwd=self._folder.name,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        until(self._listens, seconds=30)

    def stop(self) -> None:
        """End it at once; it has nothing to lose."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._folder is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"Azurite has ended: {Path(self._folder.name, 'log').read_text()}")
        with suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=1):
            return True
        return False


@cache
def azurite_command() -> str | None:
    """The path of ``azurite-table``, or None."""
    if found := shutil.which("azurite-table"):
        return found
    if _HERE.exists() and shutil.which("node"):
        return str(_HERE)
    npx = shutil.which("npx")
    if npx is None:
        return None
    # npx keeps a package under the words by which it was asked for.
    return _kept_by_npx(npx, PACKAGE) or _kept_by_npx(npx, "azurite")


def _kept_by_npx(npx: str, package: str) -> str | None:
    """The path of ``azurite-table`` among what ``npx`` ran before, or None; the network is not asked."""
    # For its path only: what is started must be the service itself, so that it can be ended.
    quiet = {"npm_config_offline": "true", "npm_config_update_notifier": "false", "npm_config_logs_max": "0"}
    try:
        asked = subprocess.run(
            [npx, "--no-install", "--offline", f"--package={package}", "-c", "command -v azurite-table"],
            env=os.environ | quiet,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    path = asked.stdout.strip()
    return path if asked.returncode == 0 and path.startswith("/") else None


@contextmanager
def _running() -> Iterator[Azurite]:
    command = azurite_command()
    if command is None:
        pytest.skip(MISSING)
    service = Azurite(command)
    try:
        service.start()
        yield service
    finally:
        service.stop()


@pytest.fixture(scope="session")
def azurite() -> Iterator[Azurite]:
    """The table service of this test process."""
    with _running() as service:
        yield service


@pytest.fixture
def own_azurite() -> Iterator[Azurite]:
    """A table service that the test may stop."""
    with _running() as service:
        yield service
