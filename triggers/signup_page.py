"""The pages of the sign-up: the form, and the page that waits until the address is confirmed."""

import asyncio
import time
from datetime import timedelta
from typing import Any

import azure.functions as func
from azure.durable_functions import DurableFunctionsClient

from contracts.audit import digest_of
from contracts.human_step import Asking, Progress
from contracts.signup import ChangeEmailEvent, ResendEvent, SignupForm, same_address, signup_id
from errors import AlreadyStarted, CountersignError, NotFound, TooLate
from orchestrators.signup import CHANGE_EMAIL, MAX_CHANGES, RESEND, VERIFY
from services.clock import now
from triggers.decide import LONGEST_POLL
from triggers.instances import ENDED
from triggers.link_page import LATER, TOO_OLD, is_of_this_view, new_view, read_fields, refuse_other_pages
from triggers.pages import HEADERS, page, retry_after, root_path
from triggers.signup import address_key, ask, begin, has_account, look
from triggers.signup_by_name import NO_SESSION, confirm_by_name, resend_by_name, show_forms
from triggers.signup_form import read_inputs
from triggers.signup_link import confirm_by_link, show_confirm_link
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
from triggers.signup_session import Session, digest_of_secret, is_begun_with, new_secret, session_cookie, session_of

VIEW = "signup"
"""What the nonce of the form is made for, which has no token."""
INPUTS = ("username", "email", "firstname", "lastname")
LABELS = {
    "username": "User name",
    "email": "Mail address",
    "firstname": "First name",
    "lastname": "Last name",
    "code": "Code",
    "resend": "Another mail",
}
BEGINS_WITHIN = 3.0
"""Seconds in which a run has begun that was just started, as a rule."""
LOCKED = "The code was wrong too often. Use the link in the mail, or have the mail sent again, which has another code."
REFUSALS: dict[str, tuple[str, str]] = {
    "wrong_code": ("code", "this is not the code in the newest mail"),
    "old_link": ("code", "a newer mail was sent, which has another code"),
    "locked": ("", LOCKED),
    "guessed_out": ("", "Too many codes were tried for this address today. Use the link in the mail."),
    "same_address": ("email", "the mails go to this address already"),
}
"""What a refusal is in the words of the page, and the input that it is shown at."""
TOO_OFTEN: dict[str, tuple[str, str]] = {
    RESEND: ("resend", "the mail was sent as often as it may be; look into your other folders, or change the address"),
    CHANGE_EMAIL: ("email", "the address was changed as often as it may be"),
}


async def show_signup_page(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:  # noqa: ARG001
    """``GET`` and ``HEAD`` of ``/signup``: the form."""
    return _form(req, {}, {})


async def submit_signup_page(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``POST`` of ``/signup``: 303 to the page that waits, whoever has the address; 409 for a user name in use.

    Pressing twice is one sign-up: one view of the form, in one browser, makes one secret of the session.
    """
    refuse_other_pages(req)
    fields = read_fields(req)
    said, wrong = read_inputs(fields, *INPUTS)
    if wrong:
        return _form(req, fields, wrong)
    await count_try(req, client)
    view = fields.get("view", "")
    secret = new_secret(view if is_of_this_view(req, VIEW, view) else None)
    form = SignupForm.model_validate(said)
    if not await _begin(req, client, form, secret):
        return _form(req, fields, {"username": "this user name is taken: choose another one"}, 409)
    await _begun(client, form.username)
    headers = {"Location": f"{root_path()}/signup/confirm", "Set-Cookie": session_cookie(form.username, secret)}
    return func.HttpResponse(status_code=303, headers=HEADERS | headers)


async def _begin(req: func.HttpRequest, client: DurableFunctionsClient, form: SignupForm, secret: str) -> bool:
    """Begin a sign-up, or see that it was begun with this secret; false where the user name is in use."""
    signup = await look(client, form.username)
    is_over = signup is None or signup.state.runtime_status in ENDED
    if is_over and not await has_account(signup_id(form.username)):  # else no mail is sent
        await count_mail(req, client, form.email, once=digest_of([secret, signup_id(form.username)]))
        try:
            await begin(client, form, channel="page", session=digest_of_secret(secret))
        except AlreadyStarted:
            signup = await look(client, form.username)
        else:
            return True
    return signup is not None and is_begun_with(signup, secret)


async def show_confirm_page(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``GET`` and ``HEAD`` of ``/signup/confirm``: what a link confirms; or the page that waits."""
    if "token" in req.params:
        return await show_confirm_link(req, client)
    session = await session_of(req, client)
    if session is None or not (session.signup.is_waiting or session.signup.is_verified):
        return show_forms({}, {})
    return _waiting(session, {}, {})


async def confirm_on_page(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``POST`` of ``/signup/confirm``: confirms by a link, or by a code."""
    refuse_other_pages(req)
    if "token" in req.params:
        return await confirm_by_link(req, client)
    fields = read_fields(req)
    if "username" in fields:
        return await confirm_by_name(req, client, fields)
    session = await _session(req, client)
    if session is None:
        return show_forms({"": NO_SESSION}, {}, 403)
    said, wrong = _read(session, fields, "code")
    if wrong:
        return _waiting(session, fields, wrong)
    signup = session.signup
    if is_locked(signup):
        return _waiting(session, {}, {"": LOCKED}, 403)
    id_ = digest_of([fields["view"], VERIFY, said["code"]])
    event = code_event(signup, id_, right=is_code(signup, said["code"]))
    asked = await _ask(client, session, VERIFY, event, {})
    return asked if isinstance(asked, func.HttpResponse) else confirmed(signup, asked)


async def resend_on_page(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``POST`` of ``/signup/resend``: another mail; 429 with ``Retry-After`` where it is too soon for that."""
    refuse_other_pages(req)
    fields = read_fields(req)
    if "username" in fields:
        return await resend_by_name(req, client, fields)
    session = await _session(req, client)
    if session is None:
        return show_forms({"": NO_SESSION}, {}, 403)
    _, wrong = _read(session, fields)
    if wrong:
        return _waiting(session, fields, wrong)
    refusal = why_no_mail(session.signup)
    if refusal is not None:  # not handed over, since each event makes the history of the run longer
        return _too_many(session, RESEND, refusal, {})
    id_ = digest_of([fields["view"], RESEND, session.signup.standing.generation])
    once = digest_of([session.signup.instance_id, id_])
    await count_mail(req, client, session.signup.asked.form.email, once=once)
    asked = await _ask(client, session, RESEND, ResendEvent(channel="page", decision_id=id_), {})
    if isinstance(asked, func.HttpResponse):
        return asked
    return _waiting(
        session,
        {},
        {},
        told="Another mail is on its way, unless too many went to this address today. When it has come, the link and "
        "the code of the one before do not work any more.",
    )


async def change_email_on_page(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``POST`` of ``/signup/change-email``: the mails go to another address, and the older ones are dead."""
    refuse_other_pages(req)
    fields = read_fields(req)
    session = await _session(req, client)
    if session is None:
        return show_forms({"": NO_SESSION}, {}, 403)
    said, wrong = _read(session, fields, "email")
    if wrong:
        return _waiting(session, fields, wrong)
    email = said["email"]
    if same_address(email) == same_address(session.signup.asked.form.email):
        field, sentence = REFUSALS["same_address"]
        return _waiting(session, fields, {field: sentence}, 409)
    if session.signup.standing.changes >= MAX_CHANGES:
        return _too_many(session, CHANGE_EMAIL, "too_often", fields)
    id_ = digest_of([fields["view"], CHANGE_EMAIL, email, session.signup.standing.generation])
    await count_mail(req, client, email, once=digest_of([session.signup.instance_id, id_]))
    event = ChangeEmailEvent(email=email, address_key=address_key(email), channel="page", decision_id=id_)
    asked = await _ask(client, session, CHANGE_EMAIL, event, fields)
    if isinstance(asked, func.HttpResponse):
        return asked
    told = "The address is changed. The link and the code that were sent to the one before do not work any more."
    return _waiting(session, {}, {}, told=told, email=email)


async def _session(req: func.HttpRequest, client: DurableFunctionsClient) -> Session | None:
    await count_try(req, client)
    session = await session_of(req, client)
    if session is not None:
        await count_for(client, "session", session.signup.instance_id)
    return session


def _read(session: Session, fields: dict[str, str], *names: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return what a form of the page that waits says, and what is wrong with it."""
    said, wrong = read_inputs(fields, *names)
    return said, wrong if session.is_of_this_view(fields.get("view", "")) else wrong | {"": TOO_OLD}


async def _ask(
    client: DurableFunctionsClient, session: Session, event: str, payload: Asking, fields: dict[str, str]
) -> Progress | func.HttpResponse | None:
    """Ask something of the run, and return what it says; or the page with the reason why it refuses."""
    signup = session.signup
    if not signup.is_waiting:
        return over(signup)
    try:
        progress = await ask(client, signup.instance_id, event, payload, by=signup.asked.form.username, channel="page")
    except CountersignError as error:
        code = error.members.get("code")
        if code in ("too_soon", "too_often"):
            return _too_many(session, event, code, fields)
        if code in REFUSALS:
            field, sentence = REFUSALS[code]
            return _waiting(session, fields, {field: sentence}, error.status)
        there = await look(client, signup.instance_id)
        if isinstance(error, NotFound | TooLate) or (there is not None and there.is_verified):
            return over(there)
        raise
    if progress is None and event != VERIFY:
        return result("Thank you", *LATER, status=202)
    return progress


def _too_many(session: Session, event: str, code: str, fields: dict[str, str]) -> func.HttpResponse:
    if code == "too_often":
        field, sentence = TOO_OFTEN[event]
        return _waiting(session, fields, {field: sentence}, 429)
    sent_at, rests = session.signup.standing.sent_at, session.signup.asked.rules.resend_seconds
    left = ((sent_at or now()) + timedelta(seconds=rests) - now()).total_seconds()
    headers = retry_after(left)
    sentence = f"the last mail was sent just now; you can have another one in {headers['Retry-After']} seconds"
    return _waiting(session, fields, {"resend": sentence}, 429, headers)


def _waiting(
    session: Session,
    fields: dict[str, str],
    errors: dict[str, str],
    status: int = 400,
    headers: dict[str, str] | None = None,
    *,
    told: str | None = None,
    email: str | None = None,
) -> func.HttpResponse:
    """Answer with the page that waits; again with what is wrong, and ``status``. ``told`` is what has happened."""
    signup = session.signup
    if not signup.is_waiting:
        return over(signup)
    context: dict[str, Any] = {
        "path": f"{root_path()}/signup",
        "nonce": session.new_view(),
        "username": signup.asked.form.username,
        "email": email or signup.asked.form.email,
        "deadline": signup.progress.deadline,
        "is_locked": is_locked(signup) and told is None,
        "typed": {name: fields.get(name, "") for name in ("code", "email")},
        "told": told,
    }
    return page("signup_waiting.html", status if errors else 200, headers, errors=errors, labels=LABELS, **context)


def _form(
    req: func.HttpRequest, fields: dict[str, str], errors: dict[str, str], status: int = 400
) -> func.HttpResponse:
    """Answer with the form: as it is at first, or again with what is wrong, and ``status``."""
    nonce, headers = new_view(req, VIEW, "/signup")
    return page(
        "signup.html",
        status if errors else 200,
        headers,
        path=f"{root_path()}/signup",
        nonce=nonce,
        typed={name: fields.get(name, "") for name in INPUTS},
        errors=errors,
        labels=LABELS,
    )


async def _begun(client: DurableFunctionsClient, username: str) -> None:
    """Wait until a sign-up has begun that was just started, so that the page that waits can say until when it does."""
    give_up = time.monotonic() + BEGINS_WITHIN
    while time.monotonic() < give_up:
        signup = await look(client, username)
        if signup is None or signup.progress.deadline is not None:
            return
        await asyncio.sleep(LONGEST_POLL)
