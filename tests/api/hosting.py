"""The app on a data folder of the test's own, in a host that can be killed at a write to the records."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx

from tests.hosting import ROOT, HostProcess, host_process

CRASHING = Path(__file__).parent / "crashing_app"
WHO = "boss@example.com"

type Hosting = Callable[..., AbstractContextManager[tuple[HostProcess, httpx.Client]]]


def hosting_on(tmp_path: Path) -> Hosting:
    """Runs the app on the test's data folder; the app that can be killed at a write with ``crashing``."""
    app = tmp_path / "app"
    app.mkdir()
    shutil.copy(CRASHING / "function_app.py", app)
    shutil.copy(ROOT / "host.json", app)

    @contextmanager
    def run(*, crashing: bool = False, **settings: str) -> Iterator[tuple[HostProcess, httpx.Client]]:
        environment = {"DECISION_WAIT_SECONDS": "0.2", "APPROVAL_REQUESTS_TO": WHO} | settings
        app_dir = app if crashing else ROOT
        with host_process(data(tmp_path), app_dir=app_dir, environment=environment) as host, host.client() as client:
            yield host, client

    return run


def data(folder: Path) -> Path:
    """The data folder of the test."""
    return folder / "data"
