"""Recorded histories replay through today's code: what is in flight must not break."""

import asyncio
import base64
from functools import cache
from pathlib import Path

import azure.functions as func
import pytest
from durabletask.internal import orchestrator_service_pb2 as pb

from local_host.app_loader import load_app
from local_host.functions import ORCHESTRATION_TRIGGER, Function
from tests.orchestrators.goldens import FOLDER, Turn, actions_of, load, turns
from tests.orchestrators.record_goldens import SCENARIOS

GOLDENS = sorted(FOLDER.glob("*/*.json"))


@cache
def registered() -> dict[str, Function]:
    """The orchestrators as the app registers them."""
    app = load_app(Path(__file__).parents[2])
    return {each.durable_name: each for each in app.functions if each.trigger_type == ORCHESTRATION_TRIGGER}


def run(workflow: str, turn: Turn) -> pb.OrchestratorResponse:
    """Run one turn through the registered function, over the wire format of the host."""
    events = (*turn.past, *turn.new)
    started = next(event.executionStarted for event in events if event.HasField("executionStarted"))
    instance_id = started.orchestrationInstance.instanceId  # it is in the hashes of the audit trail
    request = pb.OrchestratorRequest(instanceId=instance_id, pastEvents=turn.past, newEvents=turn.new)
    body = base64.b64encode(request.SerializeToString()).decode()
    function = registered()[workflow]
    answer = asyncio.run(function.call(**{function.trigger_parameter: func.OrchestrationContext(body)}))
    response = pb.OrchestratorResponse()
    response.ParseFromString(base64.b64decode(answer))
    return response


@pytest.mark.parametrize("file", GOLDENS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_turn_of_a_recorded_history_does_the_same_again(file: Path) -> None:
    for turn in turns(load(file)):
        scheduled, completion = actions_of(run(file.parent.name, turn))
        if completion is not None:
            recorded = turn.completion.failureDetails.errorMessage if turn.completion is not None else ""
            assert completion.failureDetails.errorMessage == recorded
        assert scheduled == turn.actions
        assert (completion is None) == (turn.completion is None)
        if completion is not None and turn.completion is not None:
            assert completion.orchestrationStatus == turn.completion.orchestrationStatus
            assert completion.result.value == turn.completion.result.value


def test_no_history_names_a_folder_of_the_machine_that_recorded_it() -> None:
    assert [file.name for file in GOLDENS if "stackTrace" in file.read_text()] == []


def test_every_scenario_was_recorded() -> None:
    recorded = {(file.parent.name, file.stem.split("-")[0]) for file in GOLDENS}
    assert recorded >= {(workflow, name) for workflow, names in SCENARIOS.items() for name in names}


def test_a_change_that_breaks_instances_in_flight_is_seen() -> None:
    turn = list(turns(load(FOLDER / "purchase_order" / "approved.json")))[-1]
    renamed = [pb.HistoryEvent.FromString(event.SerializeToString()) for event in turn.past]
    for event in renamed:
        if event.HasField("taskScheduled"):
            event.taskScheduled.name = "another_activity"
    _, completion = actions_of(run("purchase_order", Turn(renamed, turn.new, turn.actions, turn.completion)))
    assert completion is not None
    assert "NonDeterminism" in completion.failureDetails.errorType
