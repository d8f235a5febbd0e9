"""The whole app behind the local host, one host for each test process."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.api.hosting import Hosting, hosting_on
from tests.hosting import HostProcess, host_process


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostProcess]:
    """The host with the app, started as a user does it."""
    settings = {"DECISION_WAIT_SECONDS": "5", "PYTHON_THREADPOOL_THREAD_COUNT": "32"}
    with host_process(tmp_path_factory.mktemp("data"), environment=settings, cold=True) as host:
        yield host


@pytest.fixture(scope="session")
def session_client(host: HostProcess) -> Iterator[httpx.Client]:
    """A client for the whole session."""
    with host.client() as client:
        yield client


@pytest.fixture
def client(session_client: httpx.Client) -> httpx.Client:
    """An HTTP client of the app."""
    return session_client


@pytest.fixture
def hosting(tmp_path: Path) -> Hosting:
    """Runs the app on the test's data folder; the app that can be killed at a write with ``crashing``."""
    return hosting_on(tmp_path)
