"""The pages behind the links in the mails of a sign-up: one confirms the address, the other stops reminders.

As on the pages of approvals, looking changes nothing, and a form counts only when it comes from the page itself, in the
browser that opened it. What a mail program sends when somebody unsubscribes there counts by itself (RFC 8058).
"""

import azure.functions as func
from azure.durable_functions import DurableFunctionsClient

from contracts.audit import digest_of
from contracts.human_step import Asking
from contracts.signup import FromSignupMail, SignupClaims, StopRemindersEvent, VerifyEvent, same_address
from errors import Conflict, NotFound, PayloadTooLarge, TooLate
from orchestrators.signup import STOP_REMINDERS, VERIFY
from services import links
from services.clock import now
from triggers.link_page import LATER, TOO_OLD, is_of_this_view, new_view, read_fields, refuse_other_pages
from triggers.pages import page
from triggers.signup import Signup, ask, look
from triggers.signup_result import SEND_AGAIN, confirmed, count_try, over, result
from triggers.web import MAX_BODY

ONE_CLICK = ("List-Unsubscribe", "One-Click")
"""The field, and its value, that a mail program sends by itself."""


async def show_confirm_link(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``GET`` and ``HEAD`` of ``/signup/confirm?token=``: what will be confirmed, which changes nothing."""
    claims = links.read_signup(req.params["token"], "confirm")
    signup = await look(client, claims.instance_id)
    return _why_not(signup, claims) or _form(req, "signup_confirm.html", signup=signup)


async def confirm_by_link(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``POST`` of ``/signup/confirm?token=``: confirms the address; 400 with the page again where the form is old."""
    view = read_fields(req).get("view", "")
    token = req.params["token"]
    claims = links.read_signup(token, "confirm")
    await count_try(req, client)
    signup = await look(client, claims.instance_id)
    refusal = _why_not(signup, claims)
    if refusal is not None or signup is None:
        return refusal or over(None)
    if not is_of_this_view(req, token, view):
        return _form(req, "signup_confirm.html", 400, error=TOO_OLD, signup=signup)
    link = FromSignupMail(run=claims.run, generation=claims.generation)
    event = VerifyEvent(source="link", link=link, channel="link", decision_id=digest_of([view, VERIFY]))
    try:
        progress = await ask(client, claims.instance_id, VERIFY, event, by=signup.asked.form.username, channel="link")
    except (Conflict, NotFound, TooLate):
        signup = await look(client, claims.instance_id)
        return _why_not(signup, claims) or over(signup)
    return confirmed(signup, progress)


async def show_stop_page(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``GET`` and ``HEAD`` of ``/signup/stop?token=``: whether to stop reminders, which changes nothing."""
    claims = links.read_signup(req.params.get("token", ""), "stop")
    signup = await look(client, claims.instance_id)
    return _form(req, "signup_stop.html") if _reminds(signup, claims) else _stopped()


async def stop_reminders_on_page(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``POST`` of ``/signup/stop?token=``: stops reminders to this address.

    A mail program has no cookie, and asks on behalf of many people from one address, so that it is not counted: its
    token says it all.
    """
    if len(req.get_body()) > MAX_BODY:
        raise PayloadTooLarge("What was sent is too long.")
    is_one_click = req.form.get(ONE_CLICK[0]) == ONE_CLICK[1]
    view = ""
    if not is_one_click:
        refuse_other_pages(req)
        view = read_fields(req).get("view", "")
    token = req.params.get("token", "")
    claims = links.read_signup(token, "stop")
    if not is_one_click:
        await count_try(req, client)
    signup = await look(client, claims.instance_id)
    if signup is None or not _reminds(signup, claims):
        return _stopped()
    if not is_one_click and not is_of_this_view(req, token, view):
        return _form(req, "signup_stop.html", 400, error=TOO_OLD)
    event = StopRemindersEvent(
        changes=signup.standing.changes,
        channel="link",
        decision_id=digest_of([token, STOP_REMINDERS, claims.generation]),
    )
    return await _stop(client, signup, event)


async def _stop(client: DurableFunctionsClient, signup: Signup, event: Asking) -> func.HttpResponse:
    try:
        progress = await ask(
            client, signup.instance_id, STOP_REMINDERS, event, by=signup.asked.form.username, channel="link"
        )
    except (Conflict, NotFound, TooLate):  # it came to its end, and with it the reminders
        return _stopped()
    return _stopped() if progress is not None else result("Thank you", *LATER, status=202)


def _form(
    req: func.HttpRequest, template: str, status: int = 200, *, error: str | None = None, signup: Signup | None = None
) -> func.HttpResponse:
    nonce, headers = new_view(req, req.params["token"], "/signup")
    context = {
        "form": signup.asked.form if signup is not None else None,
        "deadline": signup.progress.deadline if signup is not None else None,
    }
    return page(template, status, headers, nonce=nonce, errors={"": error} if error else {}, labels={}, **context)


def _why_not(signup: Signup | None, claims: SignupClaims) -> func.HttpResponse | None:
    """Answer why a link confirms nothing (any more); None if it does."""
    is_there = signup is not None and signup.run == claims.run
    if signup is not None and is_there and (signup.is_verified or not signup.is_waiting):
        return over(signup)
    if claims.until <= now() and (signup is None or not is_there or _is_up(signup)):
        return over(None)
    if signup is None or not is_there:
        raise TooLate("What it was for has ended. There is nothing for you to do here.")
    if claims.generation != signup.standing.generation or not _is_to(signup, claims):
        sentence = "A newer mail was sent since. Use the link in that one."
        return result("This link is no longer in use", sentence, status=410, more=SEND_AGAIN)
    return None


def _is_up(signup: Signup) -> bool:
    """Whether the time of a run is up, which it may have yet to see; its deadline moves when its clock stood still."""
    deadline = signup.progress.deadline
    return deadline is not None and deadline <= signup.progress.judged_at(now())


def _is_to(signup: Signup, claims: SignupClaims) -> bool:
    """Whether mails go to the address by now that the link was sent to."""
    return links.is_pseudonym(claims.address, "address", same_address(signup.asked.form.email))


def _reminds(signup: Signup | None, claims: SignupClaims) -> bool:
    """Whether reminders go to the address that a link was sent to, so that it can stop them.

    Where mails go to another address by now, it cannot: whoever has this one does not decide on what others get.
    """
    if signup is None or signup.run != claims.run or not signup.is_waiting:
        return False
    return _is_to(signup, claims) and not signup.standing.reminders_stopped


def _stopped() -> func.HttpResponse:
    return result("Reminders are stopped", "No reminders of this sign-up come to this address any more.")
