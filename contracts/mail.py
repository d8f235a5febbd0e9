"""A mail that an activity sends."""

from typing import Annotated

from pydantic import Field

from contracts.base import Address, Contract, Line
from contracts.records import MAX_PEOPLE


class ApprovalMail(Contract):
    """A request for a decision: what is asked, and the call that decides it.

    ``number`` counts the mails of one instance: instance and number together name the mail, so that an activity
    that runs twice sends one mail. Where ``to`` is empty, it goes to whom the settings name. ``decide_path`` and
    ``decide_body`` are the path and the JSON body of the POST.
    """

    instance_id: str
    number: int
    to: Annotated[tuple[Address, ...], Field(strict=False, max_length=MAX_PEOPLE)] = ()
    subject: Line
    text: str
    decide_path: str
    decide_body: str
