"""What all tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.record_store import close_record_store
from settings import get_settings
from tests.azurite import pytest_terminal_summary

__all__ = ["pytest_terminal_summary"]  # of all tests: it says that some were skipped

# As function_app.py does it, for the tests that do not import it.
os.environ["AZURE_FUNCTIONS_DURABLE_STRICT_TYPING"] = "1"
# Without a host there is no data folder, and no storage account either.
os.environ["RECORDS"] = "sqlite"
# A test that moves the clock by a year would wait for tens of thousands of runs; the tests of the timers enable them.
for timer in ("reconcile_records", "purge_instances"):
    os.environ[f"AzureWebJobs.{timer}.Disabled"] = "true"


@pytest.fixture
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data folder of the test's own, which the settings point to."""
    monkeypatch.setenv("LOCAL_HOST_DATA", str(tmp_path))
    get_settings.cache_clear()
    close_record_store()
    yield tmp_path
    get_settings.cache_clear()
    close_record_store()
