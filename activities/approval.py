"""The effects of an approval: mails, checked answers, and the outcome that is posted to another system."""

import hashlib
import json
from typing import Any
from urllib.parse import quote

from durabletask.task import ActivityContext
from pydantic import JsonValue

from contracts.approval import Callback
from contracts.base import Contract, as_utc_text
from contracts.form import wrong_answers
from contracts.mail import ApprovalMail, Mail
from services import callback, shown
from services.mail import get_mailer, new_message
from services.mail_rendering import render
from services.record_store import get_record_store
from settings import get_settings


class Filled(Contract):
    """A form, and what somebody filled in."""

    form: dict[str, JsonValue]
    answers: dict[str, JsonValue]


def send_approval_request(_context: ActivityContext, request: dict[str, Any]) -> dict[str, Any]:
    """Mail the people who are asked to approve. Takes an ``ApprovalMail``; gives the mail's ``message_id``.

    Raises ``OSError`` when the mail cannot be handed over.
    """
    asked = ApprovalMail.model_validate(request)
    settings = get_settings()
    message = new_message()
    run = f"{asked.run}." if asked.run is not None else ""
    message["Message-ID"] = f"<{quote(asked.instance_id, safe='')}.{run}{asked.number}@countersign.invalid>"
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


def send_mail(_context: ActivityContext, request: dict[str, Any]) -> dict[str, Any]:
    """Mail one person about a request. Takes a ``Mail``; gives the mail's ``message_id``.

    Raises ``LookupError`` when what is asked is not on record (yet), ``RecordStoreError`` when the store cannot be
    reached, ``OSError`` when the mail cannot be handed over.
    """
    mail = Mail.model_validate(request)
    found = shown.read(get_record_store(), mail.instance_id, mail.run, mail.round)
    if found is None:
        raise LookupError(f"What round {mail.round} asks for is not on record, so that no mail can say it.")
    message = render(mail, found.content)
    get_mailer().send(message)
    return {"message_id": str(message["Message-ID"])}


def check_answers(_context: ActivityContext, request: dict[str, Any]) -> dict[str, Any]:
    """Hold answers against their form. Takes a ``Filled``; gives ``wrong``, what is wrong by the name of the field."""
    filled = Filled.model_validate(request)
    try:
        return {"wrong": wrong_answers(filled.form, filled.answers)}
    except ValueError as error:  # a run that was started past the API, with a form that is none
        return {"wrong": {"": str(error)}}


def post_outcome(_context: ActivityContext, request: dict[str, Any]) -> dict[str, Any]:
    """Post the outcome of a request to its callback address. Takes a ``Callback``; gives the ``status`` of the answer.

    Posted again, it has the same ``webhook-id`` and the same body. Raises ``OSError`` when it was not taken, and
    ``ValueError`` when the settings do not allow it.
    """
    ended = Callback.model_validate(request)
    body = {
        "type": f"approval.{ended.outcome.status.lower()}",
        "timestamp": as_utc_text(ended.at),
        "data": {"request_id": ended.instance_id, "run": ended.run, **ended.outcome.plain()},
    }
    # Not the id itself, which may be any text: the specification wants no dots in it, and HTTP nothing but ASCII.
    name = f"{ended.instance_id}.{ended.run}".encode(errors="surrogatepass")
    message_id = f"msg_{hashlib.sha256(name).hexdigest()[:32]}"
    status = callback.post(ended.url, message_id, json.dumps(body).encode())
    if not 200 <= status < 300:
        raise OSError(f"The outcome was not taken: the receiver answered {status}.")
    return {"status": status}
