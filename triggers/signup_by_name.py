"""Confirming a sign-up, and having its mail sent again, in a browser that has no session: by what people type.

Nobody learns here whether there is such a sign-up. Unless the code is right, the answer is the same whatever there is,
and takes the same time.
"""

import time
from contextlib import suppress
from uuid import uuid4

import azure.functions as func
from azure.durable_functions import DurableFunctionsClient

from contracts.human_step import Asking
from contracts.signup import ResendEvent, same_address, signup_id
from errors import Conflict, CountersignError, Forbidden, NotFound, TooLate
from orchestrators.signup import RESEND, VERIFY
from triggers.ask_run import Asked, ask_run
from triggers.pages import page, root_path
from triggers.signup import RULES, Signup, ask, look
from triggers.signup_form import read_inputs
from triggers.signup_result import (
    code_event,
    confirmed,
    count_for,
    count_mail,
    count_try,
    is_code,
    is_locked,
    over,
    result,
    why_no_mail,
)
from triggers.signup_session import not_before

LABELS = {"username": "User name", "code": "Code", "mail-username": "User name", "email": "Mail address"}
NO_SESSION = "In this browser nobody signs up just now. Type your user name too."
NOT_THIS = (
    "That did not work. The user name or the code is wrong, or the code is not that of your newest mail, or it was "
    "wrong too often."
)
PERHAPS = (
    "If somebody has signed up with this user name and this mail address, and has not confirmed it yet, another mail "
    "is on its way. The link and the code of the one before do not work any more then.",
    "If none comes, wait a minute, and ask for it again.",
)


def show_forms(errors: dict[str, str], fields: dict[str, str], status: int = 400) -> func.HttpResponse:
    """Answer with the two forms; with what is wrong, and ``status``, or as they are at first."""
    return page(
        "signup_by_name.html",
        status if errors else 200,
        path=f"{root_path()}/signup",
        errors=errors,
        labels=LABELS,
        typed={name: fields.get(name, "") for name in LABELS},
    )


async def confirm_by_name(
    req: func.HttpRequest, client: DurableFunctionsClient, fields: dict[str, str]
) -> func.HttpResponse:
    """Confirm by a user name and a code; 403 with the forms again unless the code is right."""
    said, wrong = read_inputs(fields, "username", "code")
    if wrong:
        return show_forms(wrong, fields)
    await count_try(req, client)
    await count_for(client, "name", signup_id(said["username"]))
    started = time.monotonic()
    signup = await look(client, said["username"])
    if signup is not None and not is_locked(signup, by_name=True):
        if is_code(signup, said["code"]):
            confirmation = await _confirm(client, signup)
            if confirmation is not None:
                return confirmation
        elif signup.is_waiting:
            event = code_event(signup, uuid4().hex, right=False, by_name=True)
            await _hand_over(client, signup, VERIFY, event)
    await not_before(started)
    return show_forms({"": NOT_THIS}, fields | {"code": ""}, 403)


async def resend_by_name(
    req: func.HttpRequest, client: DurableFunctionsClient, fields: dict[str, str]
) -> func.HttpResponse:
    """Have the mail sent again to whom it went before, if both name and address are right."""
    said, wrong = read_inputs(fields, "username", "email")
    if wrong:
        errors = {"mail-username" if name == "username" else name: message for name, message in wrong.items()}
        return show_forms(errors, {"mail-username": fields.get("username", ""), "email": fields.get("email", "")})
    await count_try(req, client)
    await count_for(client, "name", signup_id(said["username"]))
    await count_mail(req, client, said["email"])
    started = time.monotonic()
    signup = await look(client, said["username"])
    if (
        signup is not None
        and signup.is_waiting
        and same_address(said["email"]) == same_address(signup.asked.form.email)
        and why_no_mail(signup) is None
    ):
        await _hand_over(client, signup, RESEND, ResendEvent(channel="page", decision_id=uuid4().hex))
    await not_before(started)
    return result("Look into your mail", *PERHAPS)


async def _confirm(client: DurableFunctionsClient, signup: Signup) -> func.HttpResponse | None:
    """Confirm where the code is right; None where that is not enough by now."""
    if signup.is_waiting:
        event = code_event(signup, uuid4().hex, right=True, by_name=True)
        try:
            progress = await ask(
                client, signup.instance_id, VERIFY, event, by=signup.asked.form.username, channel="page"
            )
            return confirmed(signup, progress)
        except (Conflict, Forbidden, NotFound, TooLate):
            now_there = await look(client, signup.instance_id)
            return over(now_there) if now_there is not None and now_there.is_verified else None
    return over(signup) if signup.is_verified else None


async def _hand_over(client: DurableFunctionsClient, signup: Signup, event: str, payload: Asking) -> None:
    """Raise an event without waiting for what comes of it, since the time that it takes would tell."""
    asked = Asked(event=event, payload=payload, by=signup.asked.form.username, said=event, channel="page")
    with suppress(CountersignError):
        await ask_run(client, RULES, signup.instance_id, asked, patience=0)
