"""The engine for the orchestrators' tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from durabletask.client import OrchestrationQuery, OrchestrationStatus

from tests.orchestrators.engine import Engine, running_engine

GOING = [OrchestrationStatus.PENDING, OrchestrationStatus.RUNNING, OrchestrationStatus.SUSPENDED]


@pytest.fixture(scope="module")
def shared_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """One engine for a whole module: instances do not meet."""
    with running_engine(tmp_path_factory.mktemp("engine")) as engine:
        yield engine


@pytest.fixture
def engine(shared_engine: Engine, data_folder: Path) -> Engine:
    """The engine, whose activities write to a data folder of the test's own."""
    return shared_engine


@pytest.fixture
def tidy(engine: Engine) -> Iterator[None]:
    """Leave no instance behind whose reminders would go out when the next test moves the clock."""
    yield
    for state in engine.client.get_all_orchestration_states(OrchestrationQuery(runtime_status=GOING)):
        engine.client.terminate_orchestration(state.instance_id)
