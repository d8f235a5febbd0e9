"""What the timers know of the workflows is what the app has."""

import re
from pathlib import Path

import pytest

from local_host.app_loader import App, load_app
from local_host.functions import ORCHESTRATION_TRIGGER
from triggers.windows import UPKEEP, WORKFLOWS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def app() -> App:
    """The app as the host loads it."""
    return load_app(ROOT)


def test_the_timers_look_through_every_orchestrator_of_the_app(app: App) -> None:
    """One that is missing there would never be reconciled nor purged, and a retention for it would be refused."""
    orchestrators = {each.durable_name for each in app.functions if each.trigger_type == ORCHESTRATION_TRIGGER}
    ours = {name for name in orchestrators if not name.startswith("BuiltIn__")}  # which are the SDK's
    assert {*WORKFLOWS, *UPKEEP} == ours


@pytest.mark.parametrize(("workflow", "template"), WORKFLOWS.items())
def test_the_page_of_each_workflow_is_a_route_of_the_app(app: App, workflow: str, template: str) -> None:
    assert template.count("{}") == 1
    pages = {re.sub(r"\{[^}]+\}", "{}", f"/{each.route}") for each in app.functions if "GET" in each.methods}
    assert template in pages, workflow
