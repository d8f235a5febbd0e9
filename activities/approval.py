"""The effects of asking for an approval."""

from email.message import EmailMessage
from typing import Any
from urllib.parse import quote

from durabletask.task import ActivityContext

from contracts.mail import ApprovalMail
from services.mail import get_mailer
from settings import get_settings


def send_approval_request(_context: ActivityContext, request: dict[str, Any]) -> dict[str, Any]:
    """Mail the people who are asked to approve. Takes an ``ApprovalMail``; gives the mail's ``message_id``.

    Raises ``OSError`` when the mail cannot be handed over.
    """
    asked = ApprovalMail.model_validate(request)
    settings = get_settings()
    message = EmailMessage()
    message["Message-ID"] = f"<{quote(asked.instance_id, safe='')}.{asked.number}@countersign.invalid>"
    message["To"] = ", ".join(asked.to or (settings.approval_requests_to,))
    message["Subject"] = asked.subject
    message.set_content(
        f"{asked.text}\n\n"
        "Decide with a POST to\n"
        f"  {settings.base_url}{asked.decide_path}\n"
        "and this body (false rejects):\n"
        f"  {asked.decide_body}\n"
    )
    get_mailer().send(message)
    return {"message_id": message["Message-ID"]}
