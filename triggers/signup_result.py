"""What the pages of the sign-up have in common: how the code is compared, and what they say in the end."""

from datetime import timedelta
from typing import Any

import azure.functions as func
from azure.durable_functions import DurableFunctionsClient

from contracts.human_step import Progress
from contracts.signup import FromSignupMail, SignupClaims, VerifyEvent, mailbox_of, same_address
from orchestrators.signup import ADDRESS_TAKEN, FAILED, MAX_RESENDS, MAX_WRONG_CODES
from services import links
from services.clock import now
from settings import get_settings
from triggers.limiting import client_key, take
from triggers.link_page import LATER
from triggers.pages import page, root_path
from triggers.signup import Signup

AN_HOUR, A_DAY = 3600.0, 86_400.0
SIGN_UP, SEND_AGAIN = ("Sign up", "/signup"), ("Have the mail sent again", "/signup/confirm")
"""Where a page leads to: in words, and the path of the app."""


async def count_try(req: func.HttpRequest, client: DurableFunctionsClient) -> None:
    """Count a form that a client has sent. Raises ``TooMany``."""
    await take(client, client_key(req), limit=get_settings().signup_tries_per_client, seconds=AN_HOUR)


async def count_for(client: DurableFunctionsClient, door: str, instance_id: str) -> None:
    """Count a form that concerns one sign-up, whether there is one or not. Raises ``TooMany``.

    ``door`` keeps those apart who have the session, and those who have not: none of them locks the others out.
    """
    key = links.pseudonym(f"sign-up by {door}", instance_id)
    await take(client, key, limit=get_settings().signup_tries_per_client, seconds=AN_HOUR)


async def count_mail(
    req: func.HttpRequest, client: DurableFunctionsClient, email: str, *, once: str | None = None
) -> None:
    """Count that a client has a mail sent to an address; one with the same ``once`` only once. Raises ``TooMany``.

    It gets half of what goes to an address in a day, so that one client cannot keep another's mail away.
    """
    key = links.pseudonym("client and mailbox", f"{client_key(req)} {mailbox_of(email)}")
    limit = max(1, get_settings().signup_mails_per_address // 2)
    await take(client, key, limit=limit, seconds=A_DAY, once=once)


def why_no_mail(signup: Signup) -> str | None:
    """Return why the run would refuse to send another mail, as far as it says where it stands; None if it would not."""
    standing, rests = signup.standing, signup.asked.rules.resend_seconds
    if standing.resends >= MAX_RESENDS:
        return "too_often"
    is_too_soon = standing.sent_at is not None and now() < standing.sent_at + timedelta(seconds=rests)
    return "too_soon" if is_too_soon else None


def is_locked(signup: Signup, *, by_name: bool = False) -> bool:
    """Whether the code of the newest mail was wrong too often: in the browser that signed up, or in others."""
    standing = signup.standing
    return (standing.wrong_codes_by_name if by_name else standing.wrong_codes) >= MAX_WRONG_CODES


def is_code(signup: Signup, typed: str) -> bool:
    """Whether somebody typed the code of the newest mail."""
    deadline = signup.progress.deadline
    if deadline is None:
        return False
    claims = SignupClaims(
        instance_id=signup.instance_id,
        run=signup.run,
        generation=signup.standing.generation,
        address=signup.asked.address_key,
        until=deadline - signup.progress.frozen,
    )
    return links.is_signup_code(claims, same_address(signup.asked.form.email), typed)


def code_event(signup: Signup, decision_id: str, *, right: bool, by_name: bool = False) -> VerifyEvent:
    """Return what the run is told of a code that was typed; ``by_name`` in a browser that did not sign up."""
    link = FromSignupMail(
        run=signup.run,
        generation=signup.standing.generation,
        code="right" if right else "wrong",
        by_name=by_name,
    )
    return VerifyEvent(source="code", link=link, channel="page", decision_id=decision_id)


def result(heading: str, *sentences: str, status: int = 200, more: tuple[str, str] | None = None) -> func.HttpResponse:
    """Answer with a page that says something; ``more`` is where it leads to."""
    there: Any = {"words": more[0], "path": root_path() + more[1]} if more is not None else None
    return page("signup_result.html", status, heading=heading, sentences=sentences, more=there)


def confirmed(signup: Signup, progress: Progress | None) -> func.HttpResponse:
    """Answer what came of a confirmation; 202 where that is not known yet."""
    if progress is None:
        return result("Thank you", *LATER, status=202)
    what_now = "Your account is being made. A mail about it is on its way."  # a welcome, unless somebody was faster
    return result("Your address is confirmed", f"Thank you, {signup.asked.form.username}.", what_now)


def over(signup: Signup | None) -> func.HttpResponse:
    """Answer what became of a sign-up that cannot be confirmed any more; None is one that is not there any more."""
    phase = signup.progress.phase if signup is not None else None
    if phase == ADDRESS_TAKEN:
        sentence = "It had one when this was confirmed, so that no other was made."
        return result("This address has an account already", sentence, status=409)
    if phase == FAILED:
        return result("The account was not made", "It was confirmed, but something went wrong on our side.", status=500)
    if signup is not None and signup.is_verified:
        return result("Already confirmed", "This was confirmed before. There is nothing for you to do here.")
    sentence = "It was not confirmed in time. You can sign up again."
    return result("This sign-up has expired", sentence, status=410, more=SIGN_UP)
