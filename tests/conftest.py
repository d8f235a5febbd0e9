"""What all tests share."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from services.record_store import close_record_store
from settings import get_settings
from tests import azurite
from tests.browser import chromium

# As function_app.py does it, for the tests that do not import it.
os.environ["AZURE_FUNCTIONS_DURABLE_STRICT_TYPING"] = "1"
# What one run of the tests, or one of its processes, has compiled is not compiled again by the next.
sys.dont_write_bytecode = False
# Without a host there is no data folder, and no storage account either.
os.environ["RECORDS"] = "sqlite"
# A test that moves the clock by a year would wait for tens of thousands of runs; the tests of the timers enable them.
for timer in ("reconcile_records", "purge_instances"):
    os.environ[f"AzureWebJobs.{timer}.Disabled"] = "true"


def pytest_xdist_auto_num_workers() -> int:
    """Half as many processes again as there are processors: half of the time each waits for a host that it runs."""
    return max(2, (os.cpu_count() or 1) * 3 // 2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest test before the others that are given out alone, so that it is not what all wait for."""
    items.sort(key=lambda item: "test_year.py" not in item.nodeid)


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Gives each process whole modules, for what their tests share, except where each test has hosts of its own."""

    def _split_scope(self, nodeid: str) -> str:
        alone = "crashes.py::" in nodeid or nodeid.startswith("tests/local_host/test_life.py::")
        return nodeid if alone else str(super()._split_scope(nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling | None:
    """Let no process work alone in the end at tests that take long, and could be given to others."""
    return Scheduling(config, log) if config.getvalue("dist") == "loadscope" else None


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    """What a host puts into the environment of this process goes with the module that ran it."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
    get_settings.cache_clear()


@pytest.fixture
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data folder of the test's own, which the settings point to."""
    monkeypatch.setenv("LOCAL_HOST_DATA", str(tmp_path))
    get_settings.cache_clear()
    close_record_store()
    yield tmp_path
    get_settings.cache_clear()
    close_record_store()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say that tests were skipped for want of something, which ``-q`` would not."""
    for missing in (azurite.MISSING, chromium.MISSING):
        skipped = [each for each in terminalreporter.stats.get("skipped", []) if missing in str(each.longrepr)]
        if skipped:
            how_many = "1 test was" if len(skipped) == 1 else f"{len(skipped)} tests were"
            terminalreporter.write_line(f"{how_many} skipped: {missing}", yellow=True)
