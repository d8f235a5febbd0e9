"""Mails that activities send, and the links in them."""

from typing import Annotated, Literal

from pydantic import Field

from contracts.audit import Digest, RunStamp
from contracts.base import MAX_PEOPLE, Address, Comment, Contract, Line, Name, Timestamp, Who


class ApprovalMail(Contract):
    """A request for a decision: what is asked, and the call that decides it.

    ``number`` counts the mails of one run: instance, run and number together name the mail, so that an activity that
    runs twice sends one mail. Where ``to`` is empty, it goes to whom the settings name. ``decide_path`` and
    ``decide_body`` are the path and the JSON body of the POST.
    """

    instance_id: str
    run: RunStamp | None = None
    number: int
    to: Annotated[tuple[Address, ...], Field(strict=False, max_length=MAX_PEOPLE)] = ()
    subject: Line
    text: str
    decide_path: str
    decide_body: str


LinkPage = Literal["approve", "intervene"]
"""The pages behind links: a request to be decided, and a call that has failed."""


class LinkClaims(Contract):
    """What a link in a mail says, and is bound to: request, run, round, person, and the SHA-256 of what was shown.

    ``serial`` is the number of the mail within the run, so that one link can be locked and another be sent.
    """

    request_id: str
    run: RunStamp
    round: int
    person: Address
    shown: Digest
    serial: int


class Mail(Contract):
    """A mail of an approval, or of a call that has failed (a gate): the durable input of ``send_mail``.

    ``instance_id``, ``run`` and ``number`` name the mail, so that an activity that runs twice sends one. What is asked
    is read from the records, by ``round``. With ``link_digest`` the mail has a link for ``to``, bound to what is shown;
    with ``code`` the code that the page behind it asks for as well. The other fields are what the templates say.
    """

    template: Literal[
        "asked",
        "reminder",
        "escalated",
        "delegated",
        "decided",
        "withdrawn",
        "changes_requested",
        "gate",
        "gate_reminder",
        "gate_escalated",
    ]
    instance_id: str
    run: RunStamp
    number: int
    round: int
    to: Address
    to_name: Name | None = None
    deadline: Timestamp | None = None
    link_digest: Digest | None = None
    code: bool = False
    by: Annotated[str, Field(max_length=400)] | None = None
    on_behalf_of: Who | None = None
    outcome: str | None = None
    comment: Comment | None = None

    @property
    def page(self) -> LinkPage:
        """The page that the link in the mail leads to."""
        return "intervene" if self.template.startswith("gate") else "approve"

    @property
    def link(self) -> LinkClaims | None:
        """What the link in the mail says, if it has one."""
        if self.link_digest is None:
            return None
        return LinkClaims(
            request_id=self.instance_id,
            run=self.run,
            round=self.round,
            person=self.to,
            shown=self.link_digest,
            serial=self.number,
        )
