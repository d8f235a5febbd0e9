"""What all tests share."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.record_store import close_record_store
from settings import get_settings
from tests import azurite
from tests.browser import chromium

# As function_app.py does it, for the tests that do not import it.
os.environ["AZURE_FUNCTIONS_DURABLE_STRICT_TYPING"] = "1"
# Without a host there is no data folder, and no storage account either.
os.environ["RECORDS"] = "sqlite"
# A test that moves the clock by a year would wait for tens of thousands of runs; the tests of the timers enable them.
for timer in ("reconcile_records", "purge_instances"):
    os.environ[f"AzureWebJobs.{timer}.Disabled"] = "true"


def pytest_xdist_auto_num_workers() -> int:
    """Half as many processes again as there are processors: half of the time each waits for a host that it runs."""
    return max(2, (os.cpu_count() or 1) * 3 // 2)


LONGEST = (
    "api/test_crashes",
    "orchestrators/test_approval",
    "api/test_gate_page",
    "api/test_refund_crashes",
    "task_hub/test_crashes",
    "browser/test_approval",
    "scheduler/test_protocol",
    "local_host/test_life",
    "api/test_signup_crashes",
    "api/test_requests",
    "orchestrators/test_year",
    "services/test_waits",
    "api/test_intervention_crashes",
    "browser/test_intervention",
    "services/test_record_store",
    "api/test_start_policies",
    "local_host/test_watch",
    "task_hub/test_properties",
    "browser/test_signup",
)
"""The modules that take longest. They are begun first, so that in the end no process works alone at one of them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of the longest modules first, and then those of the modules that have the most."""
    tests = Counter(item.path for item in items)

    def place(item: pytest.Item) -> tuple[int, int, str]:
        path = item.path.as_posix()
        rank = next((rank for rank, name in enumerate(LONGEST) if name in path), len(LONGEST))
        return rank, -tests[item.path], path

    items.sort(key=place)


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
