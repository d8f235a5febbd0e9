"""Purchase order: what starts it, what decides it, what comes out."""

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from contracts.audit import RunStamp
from contracts.base import (
    MAX_PEOPLE,
    YEAR_IN_HOURS,
    Address,
    Comment,
    Contract,
    DecisionId,
    InstanceId,
    Line,
    Name,
    Timestamp,
    Who,
)
from contracts.outcome import Outcome
from contracts.pause import ResumeData
from contracts.start import Limited

Seconds = Annotated[float, Field(gt=0, le=YEAR_IN_HOURS * 3600, allow_inf_nan=False)]


class PurchaseOrder(Contract):
    """The order itself: ``cost`` is the price of one piece."""

    order_id: Name
    cost: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
    product: Line
    quantity: Annotated[int, Field(ge=1, le=1_000_000)]

    @property
    def total(self) -> Decimal:
        """``cost * quantity`` in decimal, so that ten times 100.00 is 1,000 and not a hair less."""
        return Decimal(str(self.cost)) * self.quantity


class StartPurchaseOrder(PurchaseOrder):
    """The body of ``POST /start-purchase-order``.

    ``timeout_seconds`` replaces the setting for this order; ``instance_id`` names the run.
    """

    timeout_seconds: Seconds | None = None
    instance_id: InstanceId | None = None


class PurchaseOrderInput(Limited):
    """The durable input of the orchestrator: the order, and who is asked to approve it."""

    order: PurchaseOrder
    timeout_seconds: Seconds
    approvers: Annotated[tuple[Address, ...], Field(strict=False, max_length=MAX_PEOPLE)] = ()


class OrderEffect(Contract):
    """What placing and cancelling take: the order, and the instance and its run that it belongs to.

    An input from before runs were told apart has no ``run``. ``resume_data`` are what the run was resumed with.
    """

    instance_id: str
    run: RunStamp | None = None
    order: PurchaseOrder
    resume_data: ResumeData | None = None

    @property
    def reference(self) -> str:
        """By which the order desk knows a repetition."""
        return self.instance_id if self.run is None else f"{self.instance_id}.{self.run}"


class OrderDecision(Contract):
    """The body of ``POST /signal-approval/{instance_id}``."""

    approver_name: Who
    approved: bool
    comments: Comment | None = None
    decision_id: DecisionId | None = None


MAX_APPROVER = 100
"""Characters of the name of an approver in the event; runs of before set a longer one aside."""


class ResumePurchaseOrder(Contract):
    """The data with which an order is resumed that waits for a decision, which has to be said outright."""

    approved: bool
    approver: Who
    comments: Comment | None = None


class ApprovalEvent(OrderDecision):
    """The payload of ``approval_event``. ``channel`` is the door of the app that it came in by; null for others.
    ``sent_by`` is who sent it on behalf of ``approver_name``; null where they did so themselves."""

    approver_name: Name
    channel: Literal["api", "link"] | None = None
    sent_by: Who | None = None


class PurchaseOrderOutcome(Outcome):
    """The output of the run. ``status`` is one of ``Auto-Approved``, ``Approved by X``, ``Rejected by X`` and
    ``Cancelled due to timeout``."""

    status: str
    order_id: Name
    approver_name: Name | None = None
    comments: Comment | None = None
    decided_at: Timestamp | None = None
