"""A mail that an activity sends."""

from contracts.base import Contract, Line


class ApprovalMail(Contract):
    """A request for a decision: what is asked, and the call that decides it.

    ``number`` counts the mails of one instance: instance and number together name the mail, so that an activity
    that runs twice sends one mail. ``decide_path`` and ``decide_body`` are the path and the JSON body of the POST.
    """

    instance_id: str
    number: int
    subject: Line
    text: str
    decide_path: str
    decide_body: str
