"""What all tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from settings import get_settings

# As function_app.py does it, for the tests that do not import it.
os.environ["AZURE_FUNCTIONS_DURABLE_STRICT_TYPING"] = "1"


@pytest.fixture
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data folder of the test's own, which the settings point to."""
    monkeypatch.setenv("LOCAL_HOST_DATA", str(tmp_path))
    get_settings.cache_clear()
    yield tmp_path
    get_settings.cache_clear()
