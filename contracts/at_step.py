"""Where in a declared workflow something is done, or waited for."""

from contracts.audit import RunStamp
from contracts.base import Contract, Name


class AtStep(Contract):
    """The step of a run of a declared workflow, by which what waits there is shown as that run.

    ``instance_id`` and ``run`` are those of the declared workflow, also where a run that it has called is meant;
    ``workflow_id`` is its name. ``reason`` says why it waits, if the workflow says so itself.
    """

    instance_id: str
    run: RunStamp
    workflow_id: Name
    step: Name
    next_step: Name | None = None
    reason: str | None = None
