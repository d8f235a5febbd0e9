"""Every path of the approval, on a real engine."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from durabletask.client import OrchestrationStatus

from tests.orchestrators.engine import Engine

HOUR = 1.0


def request(timeout_hours: float = HOUR) -> dict[str, Any]:
    """A durable input."""
    return {"requester": "Alice", "item": "Vacation Request", "timeout_hours": timeout_hours}


@pytest.mark.parametrize(("approved", "word"), [(True, "Approved"), (False, "Rejected")])
def test_a_decision_keeps_the_approver_and_the_whole_comment(engine: Engine, approved: bool, word: str) -> None:
    comment = "🎉" * 4000
    instance = engine.start("approval", request())
    engine.phase(instance, "waiting_for_approval")
    engine.event(instance, "decision", {"is_approved": approved, "approver": "Manager", "comments": comment})
    output = engine.output(instance)
    assert (output["status"], output["approver"], output["comments"]) == (word, "Manager", comment)
    assert (output["requester"], output["item"]) == ("Alice", "Vacation Request")
    status = engine.status(instance)
    assert status["phase"] == word.lower()
    assert status["decision"]["comments"].startswith("🎉🎉")
    text = engine.state(instance).serialized_custom_status or ""
    assert len(text.encode("utf-16-le")) < 16 * 1024


def test_waiting_it_says_for_what_and_until_when(engine: Engine, data_folder: Path) -> None:
    instance = engine.start("approval", request())
    status = engine.phase(instance, "waiting_for_approval")
    assert status["waiting_for"] == "decision"
    assert status["deadline"] > "2026"
    [mail] = (data_folder / "outbox").glob("*.eml")
    assert "Alice asks for your approval of: Vacation Request" in mail.read_text()


def test_when_nobody_decides_in_time_it_ends_with_timeout(engine: Engine) -> None:
    instance = engine.start("approval", request(0.25))
    engine.advance(minutes=14)
    engine.phase(instance, "waiting_for_approval")
    engine.advance(minutes=1)
    assert engine.output(instance)["status"] == "Timeout"
    assert engine.status(instance)["phase"] == "timed_out"


def test_early_twice_late_and_malformed(engine: Engine) -> None:
    early = engine.start("approval", request())
    engine.client.suspend_orchestration(early)  # so that all of them are there before the first is taken
    engine.event(early, "decision", {"is_approved": "yes", "approver": "Malformed"})
    engine.event(early, "decision", {"is_approved": False, "approver": "First"})
    engine.event(early, "decision", {"is_approved": True, "approver": "Second"})
    engine.client.resume_orchestration(early)
    output = engine.output(early)
    assert (output["status"], output["approver"]) == ("Rejected", "First")
    assert "is_approved" in engine.status(early)["warnings"][0]
    with pytest.raises(grpc.RpcError, match="has ended"):
        engine.event(early, "decision", {"is_approved": True, "approver": "Late"})
    assert engine.output(early) == output


def test_event_names_are_compared_without_case(engine: Engine) -> None:
    instance = engine.start("approval", request())
    engine.event(instance, "DECISION", {"is_approved": True, "approver": "Manager"})
    assert engine.output(instance)["status"] == "Approved"


def test_an_instance_id_of_any_text_works(engine: Engine, data_folder: Path) -> None:
    name = "../../etc/passwd " + "ü" * 80
    instance = engine.start("approval", request(), instance_id=name)
    engine.phase(instance, "waiting_for_approval")
    engine.event(instance, "decision", {"is_approved": True, "approver": "Manager"})
    assert engine.output(instance)["status"] == "Approved"
    [mail] = (data_folder / "outbox").glob("*.eml")
    assert mail.resolve().is_relative_to(data_folder.resolve())


@pytest.mark.parametrize(
    "given", [None, 1, {}, request() | {"timeout_hours": 0}, request() | {"timeout_hours": 8761}, request() | {"x": 1}]
)
def test_an_input_that_is_no_request_fails_the_run(engine: Engine, given: Any) -> None:
    state = engine.end(engine.start("approval", given))
    assert state.runtime_status is OrchestrationStatus.FAILED
    assert state.failure_details is not None
    assert "ApprovalInput" in state.failure_details.message


@pytest.mark.parametrize("decided", [True, False])
def test_a_year_is_the_longest_wait(engine: Engine, decided: bool) -> None:
    instance = engine.start("approval", request(365 * 24))
    engine.advance(days=364.9)
    engine.phase(instance, "waiting_for_approval")
    if decided:
        engine.event(instance, "decision", {"is_approved": True, "approver": "Manager"})
    engine.advance(days=0.1)
    assert engine.output(instance)["status"] == ("Approved" if decided else "Timeout")
