"""What the tests of the services share."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from services.record_store import RecordStore
from services.record_store_sqlite import SqliteRecordStore
from services.record_store_tables import TablesRecordStore
from tests.azurite import Azurite, azurite, own_azurite

__all__ = ["azurite", "own_azurite"]


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[SqliteRecordStore]:
    """A store without rows, in ``records.db`` of the test's own folder."""
    made = SqliteRecordStore(tmp_path / "records.db")
    yield made
    made.close()


@pytest.fixture
def tables(azurite: Azurite) -> Iterator[TablesRecordStore]:
    """A store without rows, in a table of the test's own."""
    made = TablesRecordStore(azurite.connection, f"t{uuid4().hex}")
    yield made
    made.close()


@pytest.fixture(params=["sqlite", "tables"])
def store(request: pytest.FixtureRequest) -> RecordStore:
    """A store without rows, of each kind."""
    made: RecordStore = request.getfixturevalue(request.param)
    return made
