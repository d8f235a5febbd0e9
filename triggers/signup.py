"""HTTP of the sign-up, for programs; and what its pages share with them."""

import asyncio
import logging
from dataclasses import dataclass
from typing import Any, Literal

import azure.functions as func
from azure.durable_functions import DurableFunctionsClient
from durabletask.client import OrchestrationState, OrchestrationStatus

from contracts.audit import Entry, RunStamp
from contracts.base import as_utc_text, path_to
from contracts.human_step import Asking, Progress, SignupStanding, digest_of_id
from contracts.signup import (
    ID_PREFIX,
    DescribeSignup,
    ResumeSignup,
    SignupForm,
    SignupInput,
    SignupRules,
    SubmitSignup,
    VerifyEvent,
    VerifySignup,
    mailbox_of,
    signup_id,
)
from contracts.start import StartOptions
from errors import AlreadyStarted, BadRequest, Conflict, CountersignError, Forbidden, NotFound, TooLate, TooMany
from orchestrators.human_step import EXECUTION_TIMED_OUT
from orchestrators.signup import (
    ADDRESS_TAKEN,
    CREATING,
    DONE,
    EXPIRED,
    FAILED,
    MAX_WRONG_CODES,
    PATH,
    VERIFY,
    WAITING,
    signup,
)
from services import links, outbox, trail
from services.quiet_hours import check_zone, quiet_hours
from services.record_store import RecordStoreError, get_record_store
from settings import get_settings
from triggers.ask_run import Asked, Rules, ask_run
from triggers.callers import read_data, sender, starter, unclear
from triggers.instances import ENDED, describe, progress_of, run_of, start
from triggers.story import history_of
from triggers.web import (
    answer,
    answer_text,
    decision_id_of,
    instance_id_of,
    read_parameters,
    refuse_to_be_embedded,
)

WORKFLOW = signup.__name__
VERIFIED = (CREATING, DONE, ADDRESS_TAKEN)
STATUSES = {WAITING: "waiting", CREATING: "verified", DONE: "verified", EXECUTION_TIMED_OUT: "expired"}
"""What a phase is called, where it has another name."""
REFUSALS: dict[str, tuple[type[CountersignError], str]] = {
    "already_verified": (Conflict, "This was verified before."),
    "old_link": (TooLate, "A newer mail was sent since; use the link or the code in that one."),
    "wrong_code": (Forbidden, "This is not the code in the newest mail."),
    "locked": (Forbidden, "The code was wrong too often. Use the link in the mail, or ask for another mail."),
    "guessed_out": (Forbidden, "Too many codes were tried for this address today. Use the link in the mail."),
    "too_soon": (TooMany, "A mail was sent just now. Wait a little before you ask for another."),
    "too_often": (TooMany, "That was done as often as it may be."),
    "same_address": (Conflict, "The mails go to this address already."),
    "too_late": (TooLate, "The sign-up is over."),
}
RULES = Rules(
    WORKFLOW,
    REFUSALS,
    {
        **dict.fromkeys(VERIFIED, "This was verified before."),
        EXPIRED: "The sign-up has expired.",
        EXECUTION_TIMED_OUT: "The sign-up has taken too long.",
        FAILED: "The account could not be created.",
    },
)
PROGRAM = "(API)"
"""Who vouches for a user: whoever has the key."""

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Signup:
    """A run: what it goes by now, and what it says of itself."""

    state: OrchestrationState
    asked: SignupInput
    progress: Progress
    standing: SignupStanding

    @property
    def instance_id(self) -> str:
        """Its instance id."""
        return self.state.instance_id

    @property
    def run(self) -> RunStamp:
        """When it began."""
        return run_of(self.state)

    @property
    def is_waiting(self) -> bool:
        """Whether it can be verified."""
        return self.progress.phase == WAITING and self.state.runtime_status not in ENDED

    @property
    def is_verified(self) -> bool:
        """Whether it was verified."""
        return self.standing.verified_at is not None


async def submit_signup(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``GET`` or ``POST /signup/submit``: the text ``workflow started``, or that the user name is in use."""
    refuse_to_be_embedded(req)
    asked = read_parameters(req, SubmitSignup)
    form = SignupForm(username=asked.username, email=asked.email, firstname=asked.firstname, lastname=asked.lastname)
    try:
        await begin(client, form, channel="api", session=None, timezone=asked.timezone, options=asked)
    except AlreadyStarted as error:
        if error.members.get("workflow", WORKFLOW) != WORKFLOW:
            raise
        return answer_text("username already started registry")
    return answer_text("workflow started")


async def verify_signup(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``GET`` or ``POST /signup/verify``: the text ``done`` for the first, ``already verified`` for all others.

    It carries no token: who has the key vouches for the user. 410 when the sign-up has expired.
    """
    refuse_to_be_embedded(req)
    asked = read_parameters(req, VerifySignup)
    verdict = await _verify(client, asked.username, asked.source, decision_id_of(req, None))
    return answer_text(verdict, 202 if verdict == "pending" else 200)


async def resume_signup(
    client: DurableFunctionsClient, instance_id: str, data: dict[str, Any], decision_id: str
) -> func.HttpResponse:
    """Verify a sign-up by the data of a resume, as ``verify_signup`` does."""
    if "action" not in data:
        raise unclear("This sign-up waits to be verified: say so with 'action', 'verify'.", "action", "'verify'")
    given = read_data(data, ResumeSignup)
    verdict = await _verify(client, instance_id, given.source, decision_id)
    status_url = get_settings().base_url + path_to(PATH, instance_id)
    told = {"instance_id": instance_id, "verdict": verdict, "status_url": status_url}
    return answer(told, 202, {"Location": status_url}) if verdict == "pending" else answer(told)


async def _verify(
    client: DurableFunctionsClient, username: str, source: str, decision_id: str
) -> Literal["done", "already verified", "pending"]:
    """Verify a sign-up, and give whether this very call did; ``pending`` when the run did not come to it yet."""
    instance_id = signup_id(username)
    found = await look(client, username)
    if found is None or not found.is_verified:
        by = sender()
        event = VerifyEvent(source=source, decision_id=decision_id, channel="api", sent_by=by)
        try:
            progress = await ask(client, instance_id, VERIFY, event, by=by or PROGRAM)
        except (Conflict, NotFound, TooLate):
            found = await look(client, username)
            if found is None and await has_account(instance_id):  # it was purged
                return "already verified"
            if found is None or not found.is_verified:
                raise
        else:
            return "done" if progress is not None else "pending"
    return "done" if found.standing.verified_by == digest_of_id(decision_id) else "already verified"


async def describe_signup(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``GET /signup/describe``: ``form``, ``status`` and ``source``. The form is null once it is erased."""
    asked = read_parameters(req, DescribeSignup)
    found = await look(client, asked.username)
    if found is None:
        entries = await _entries(signup_id(asked.username))
        if not any(entry.action == "account_created" for entry in entries):
            raise _not_found(asked.username)
        source = next((entry.detail for entry in entries if entry.action == "verified"), None)
        return answer({"form": None, "status": "verified", "source": source})
    status = _status(found)
    form = None if status == "expired" else found.asked.form.plain()
    return answer({"form": form, "status": status, "source": found.standing.source})


async def get_signup(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``GET /api/signups/{username}``: where a sign-up stands, and its story, without anything personal.

    ``history`` is null while the records cannot be reached.
    """
    username = instance_id_of(req, "username")
    found = await look(client, username)
    if found is None:
        raise _not_found(username)
    standing, progress, described = found.standing, found.progress, describe(found.state)
    told: dict[str, Any] = {
        "username": found.asked.form.username,
        "instance_id": found.instance_id,
        "status": _status(found),
        "phase": progress.phase,
        **{name: described[name] for name in ("runtime_status", "created_at", "last_updated_at", "error")},
        "expires_at": _time(progress.deadline) if found.is_waiting else None,
        "verified_at": _time(standing.verified_at),
        "source": standing.source,
        "mails_sent": standing.mails,
        "last_mail_at": _time(standing.sent_at),
        "last_mail_failed": not standing.mailed,
        "reminders_sent": standing.reminders,
        "next_reminder": _time(standing.next_reminder) if found.is_waiting else None,
        "reminders_stopped": standing.reminders_stopped,
        "resends": standing.resends,
        "address_changes": standing.changes,
        "code_locked": standing.wrong_codes >= MAX_WRONG_CODES,
        "warnings": list(progress.warnings),
    }
    try:
        entries = [entry for entry in await _entries(found.instance_id) if entry.run == found.run]
    except RecordStoreError:
        _LOGGER.exception("The history of a sign-up could not be read")
        return answer({**told, "history": None})
    return answer({**told, "history": history_of(entries)})


async def look(client: DurableFunctionsClient, username: str) -> Signup | None:
    """Return a user's sign-up, or None where there is none (any more)."""
    state = await client.get_orchestration_state(signup_id(username))
    if state is None or state.name != WORKFLOW:
        return None
    try:
        progress = progress_of(state) or Progress(phase=WAITING, signup=SignupStanding())  # it has not begun yet
        asked = SignupInput.model_validate_json(state.serialized_input or "")
    except ValueError:
        return None
    if progress.signup is None:
        return None
    return Signup(state, asked, progress, progress.signup)


async def begin(
    client: DurableFunctionsClient,
    form: SignupForm,
    *,
    channel: Literal["api", "page"],
    session: str | None,
    timezone: str | None = None,
    options: StartOptions | None = None,
) -> str:
    """Begin a sign-up and return its instance id. ``session`` is the SHA-256 of the secret that a browser got.

    Raises ``AlreadyStarted`` when the user name is in use, also by an account whose sign-up was purged; ``BadRequest``
    for a time zone that there is not.
    """
    instance_id = signup_id(form.username)
    taken = AlreadyStarted(f"There is an account with the user name '{form.username}'.", workflow=WORKFLOW)
    if await has_account(instance_id):
        raise taken

    replaced: list[OrchestrationState] = []

    def is_repetition(there: OrchestrationState) -> bool:
        progress = progress_of(there) if there.name == WORKFLOW else None
        standing = progress.signup if progress is not None else None
        is_verified = standing is not None and standing.verified_at is not None and there.runtime_status not in ENDED
        if is_verified or (progress is not None and progress.phase == DONE):  # by now
            raise taken
        replaced[:] = [there] if there.name == WORKFLOW else []
        return False

    key = address_key(form.email)
    given = SignupInput(
        form=form,
        rules=_rules(timezone),
        address_key=key,
        session=session,
        channel=channel,
        started_by=starter(),
    )
    begun = await start(client, WORKFLOW, instance_id, given, options, is_repetition=is_repetition)
    for each in replaced:  # its history is gone, and nobody else would know of its mails
        await asyncio.to_thread(_erase_mails, each)
    return begun


async def ask(
    client: DurableFunctionsClient,
    instance_id: str,
    event: str,
    payload: Asking,
    *,
    by: str = PROGRAM,
    channel: Literal["api", "link", "page"] = "api",
) -> Progress | None:
    """Ask something of a run; give what it says then, or None when it did not come to it within its time.

    Raises ``NotFound``, and what refuses it, with the member ``code``, or ``phase`` where it is over.
    """
    asked = Asked(event=event, payload=payload, by=by, said=event, channel=channel)
    return await ask_run(client, RULES, instance_id, asked, patience=get_settings().decision_wait_seconds)


def address_key(email: str) -> str:
    """Return what stands for the mailbox of a mail address where that must not stand."""
    return links.pseudonym("mailbox", mailbox_of(email))


def _rules(timezone: str | None) -> SignupRules:
    """Return how a sign-up goes that begins now. Raises ``BadRequest`` for a time zone that there is not."""
    if timezone is not None:
        try:
            check_zone(timezone)
        except ValueError as error:
            raise BadRequest(f"The parameter 'timezone' is wrong: {error}.") from None
    settings = get_settings()
    return SignupRules(
        remind_hours=settings.signup_remind_hours,
        max_reminders=settings.signup_max_reminders,
        quiet=quiet_hours(timezone),
        expires_hours=settings.signup_expiry_days * 24,
        resend_seconds=settings.signup_resend_seconds,
        mails_per_day=settings.signup_mails_per_address,
    )


def _erase_mails(replaced: OrchestrationState) -> None:
    try:
        outbox.erase(replaced.instance_id, run_of(replaced))
    except OSError:
        _LOGGER.exception("The mails of a sign-up that another one replaced could not be erased")


async def has_account(instance_id: str) -> bool:
    """Whether a sign-up has led to an account, ever: its audit trail stays when it is purged."""
    return any(entry.action == "account_created" for entry in await _entries(instance_id))


async def _entries(instance_id: str) -> list[Entry]:
    found = await asyncio.to_thread(trail.read, get_record_store(), instance_id)
    return found.entries


def _status(found: Signup) -> str:
    phase, ended = found.progress.phase, found.state.runtime_status
    if ended in (OrchestrationStatus.FAILED, OrchestrationStatus.TERMINATED) and phase != EXECUTION_TIMED_OUT:
        return ended.name.lower()
    return STATUSES.get(phase, phase)


def _time(at: Any) -> str | None:
    return as_utc_text(at) if at is not None else None


def _not_found(username: str) -> NotFound:
    name = username.removeprefix(ID_PREFIX)
    return NotFound(f"There is no sign-up of a user '{name}'.")
