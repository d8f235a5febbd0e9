"""What the state of an instance says."""

import json
from typing import Any

from durabletask.client import OrchestrationState, OrchestrationStatus

from contracts.audit import TrailHead
from contracts.human_step import Progress

ENDED = (OrchestrationStatus.COMPLETED, OrchestrationStatus.FAILED, OrchestrationStatus.TERMINATED)


def progress_of(state: OrchestrationState) -> Progress | None:
    """Return what the run says of itself, or None before it said anything."""
    if not state.serialized_custom_status:
        return None
    return Progress.model_validate_json(state.serialized_custom_status)


def head_of(state: OrchestrationState | None) -> TrailHead | None:
    """Return how far an instance says that its trail goes; None when it says nothing."""
    if state is None:
        return None
    try:
        if state.runtime_status is OrchestrationStatus.COMPLETED:  # else it is what somebody gave who terminated it
            output = value_of(state.serialized_output)
            if isinstance(output, dict) and output.get("trail") is not None:
                return TrailHead.model_validate(output["trail"])
        progress = progress_of(state)
    except ValueError:
        return None
    return progress.trail if progress is not None else None


def is_paused(state: OrchestrationState) -> bool:
    """Whether a run stands still: it was paused, or its engine was told to suspend it."""
    if state.runtime_status is OrchestrationStatus.SUSPENDED:
        return True
    try:
        progress = progress_of(state)
    except ValueError:
        return False
    pause = progress.pause if progress is not None else None
    return pause is not None and pause.paused and state.runtime_status not in ENDED


def run_of(state: OrchestrationState) -> str:
    """Return the stamp of an instance's run, by which the records know it; made up for one from before the records."""
    head = head_of(state)
    return head.run if head is not None else f"{state.created_at:%Y%m%dT%H%M%S%f}Z"


def value_of(payload: str | None) -> Any:
    """Return the JSON value of a payload; the text itself where it is none.

    What was given to a termination is text where the management API or a dashboard gave it.
    """
    try:
        return json.loads(payload) if payload else None
    except ValueError:
        return payload
