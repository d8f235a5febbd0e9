"""The engine for the orchestrators' tests."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from durabletask.task import RetryPolicy

from tests.orchestrators.engine import Engine, running_engine


@pytest.fixture(scope="module")
def shared_engine() -> Iterator[Engine]:
    """One engine for a whole module: instances do not meet."""
    with running_engine() as engine:
        yield engine


@pytest.fixture
def engine(shared_engine: Engine, data_folder: object) -> Engine:
    """The engine, whose activities write to a data folder of the test's own."""
    return shared_engine


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the orchestrators retry three times at once."""
    quick = RetryPolicy(first_retry_interval=timedelta(0), max_number_of_attempts=3)
    monkeypatch.setattr("orchestrators.purchase_order.EFFECT", quick)
    monkeypatch.setattr("orchestrators.approval.EFFECT", quick)
