"""The local host as a process of its own: started as a user does it, or forked from one that has imported all."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import httpx

from services.api_keys import make_key
from services.record_store_sqlite import SqliteRecordStore
from tests.polling import until
from tests.warm import CAN_FORK, Forked, environment_of_host, fork_host

ROOT = Path(__file__).parents[1]


@dataclass
class HostProcess:
    """A host that runs; ``log`` is the file of what it prints, banner first."""

    process: subprocess.Popen[bytes] | Forked
    url: str
    data: Path
    log: Path

    def client(self) -> httpx.Client:
        """Give an HTTP client for the host."""
        return httpx.Client(base_url=self.url, timeout=20, trust_env=False)

    def key(self, name: str, *permissions: str) -> str:
        """Make an API key in the records of the host, for ``AUTH=keys``; one that is new is known in half a second."""
        store = SqliteRecordStore(self.data / "records.db")
        try:
            return make_key(store, name, list(permissions), datetime.now(UTC))
        finally:
            store.close()

    def stop(self, how: signal.Signals = signal.SIGINT) -> int:
        """Send a signal and give the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(timeout=20)


@contextmanager
def host_process(
    data: Path,
    *arguments: str,
    app_dir: Path = ROOT,
    environment: dict[str, str] | None = None,
    cold: bool = False,
) -> Iterator[HostProcess]:
    """Run ``python -m local_host start`` on a free port for as long as the context lasts.

    It has imported all when it starts, which saves a second of the processor, unless it is to be ``cold``.
    """
    data.mkdir(parents=True, exist_ok=True)
    log = data / "host.log"
    start = start_process if cold or not CAN_FORK else start_warm
    with log.open("wb") as output:
        process = start("--app-dir", str(app_dir), "--data", str(data), *arguments, output=output, more=environment)
        try:
            url = until(lambda: _url(process, log), seconds=30)
            yield HostProcess(process, url, data, log)
        finally:
            if process.poll() is None:
                process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise


def start_process(
    *arguments: str, output: IO[bytes] | int, more: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start the host's command line on a free port, with as little of the environment as it needs."""
    return subprocess.Popen(
        [sys.executable, "-m", "local_host", "start", "--port", "0", *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=environment_of_host() | {"PYTHONDONTWRITEBYTECODE": "1"} | (more or {}),
    )


def start_warm(*arguments: str, output: IO[bytes], more: dict[str, str] | None = None) -> Forked:
    """Do the same in a fork of a process that has imported all."""
    return fork_host(("start", "--port", "0", *arguments), environment_of_host() | (more or {}), output)


def _url(process: subprocess.Popen[bytes] | Forked, log: Path) -> str | None:
    text = log.read_text(errors="replace")
    if process.poll() is not None:
        raise AssertionError(f"the host ended with {process.returncode}:\n{text}")
    found = re.search(r"^Serving: +(\S+)", text, re.MULTILINE)
    return found[1] if found else None
