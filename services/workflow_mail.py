"""What the mails of declared workflows say."""

from email.message import EmailMessage

from contracts.workflow import WorkflowMail
from services.mail import address_of, new_message
from services.mail_rendering import fill_in, message_id_of


def render(mail: WorkflowMail) -> EmailMessage:
    """Return a mail of a step. Rendered again, it has the same ``Message-ID``.

    Raises ``ValueError`` when no mail can be sent to its addresses.
    """
    message = new_message()
    message["Message-ID"] = message_id_of(mail.instance_id, mail.run, mail.number)
    message["To"] = [address_of(each) for each in mail.to]
    # Not the beginning of an encoded word (RFC 2047), which header classes would decode into other text.
    message["Subject"] = mail.subject.replace("=?", "= ?")
    said = {"subject": mail.subject, "text": mail.text, "workflow": mail.workflow, "run": mail.instance_id}
    fill_in(message, "workflow_email", said)
    return message
