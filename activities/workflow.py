"""The effect that declared workflows have by themselves: a mail. All others are those of the runs that they call."""

from typing import Any

from durabletask.task import ActivityContext

from contracts.workflow import WorkflowMail
from services.mail import get_mailer
from services.workflow_mail import render


def send_workflow_mail(_context: ActivityContext, request: dict[str, Any]) -> dict[str, Any]:
    """Send the mail of a step. Takes a ``WorkflowMail``; gives the mail's ``message_id``.

    Sent twice, it has the same ``Message-ID``. Raises ``OSError`` when the mail cannot be handed over.
    """
    message = render(WorkflowMail.model_validate(request))
    get_mailer().send(message)
    return {"message_id": str(message["Message-ID"])}
