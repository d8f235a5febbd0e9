"""Sign-up: what starts it, what is asked of it while it waits, what comes out."""

import unicodedata
from typing import Annotated, Literal

from email_validator import EmailNotValidError, validate_email
from pydantic import AfterValidator, Field, StringConstraints

from contracts.audit import Digest, RunStamp
from contracts.base import Contract, Hours, Name, PlainAddress, Timestamp, Who
from contracts.carried import Moment, RecordState
from contracts.human_step import Asking, SignupStanding, Verdict
from contracts.outcome import Outcome
from contracts.start import Limited, StartOptions

ID_PREFIX = "signup-"


def _no_id(value: str) -> str:
    if value.lower().startswith(ID_PREFIX):
        raise ValueError(f"a user name does not begin with {ID_PREFIX}")
    return value


def _deliverable(value: str) -> str:
    """Check the form of an address without asking any name server, and write it as it is compared."""
    try:
        return validate_email(value, check_deliverability=False).normalized
    except EmailNotValidError as error:
        raise ValueError(str(error)) from None


Username = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=64, pattern=r"\A[A-Za-z0-9_.:-]+\z"),
    AfterValidator(_no_id),
    Field(description="1 to 64 letters, digits and - _ . : without regard to case"),
]
EmailAddress = Annotated[PlainAddress, AfterValidator(_deliverable)]
"""A mail address that mail can go to, as far as its form tells. It may have letters of any language."""
Source = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=100, pattern=r"\A[^\x00-\x1f\x7f\u2028\u2029]*\z"
    ),
    Field(description="where a verification came from, in one line"),
]
Pseudonym = Annotated[str, StringConstraints(pattern=r"\A[0-9a-f]{32}\z")]
"""Stands for an address, or a client, in places where those must not stand; see ``services.links.pseudonym``."""
Zone = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"\A[A-Za-z0-9_+/-]+\z")]
"""The name of a time zone of the IANA: ``Europe/Berlin``."""
ClockTime = Annotated[str, StringConstraints(pattern=r"\A(?:[01][0-9]|2[0-3]):[0-5][0-9]\z")]


def same_address(email: str) -> str:
    """Return the form in which mail addresses are compared: two that give the same are one, wherever mail goes.

    Without case, and the domain as the DNS is asked for it by today's rules (IDNA 2008), by which ``ß`` is not ``ss``.
    """
    try:
        found = validate_email(email, check_deliverability=False)
    except EmailNotValidError:  # from before a newer version of the library knew better
        return unicodedata.normalize("NFC", email).lower()
    return f"{unicodedata.normalize('NFC', found.local_part).lower()}@{found.ascii_domain}"


def mailbox_of(email: str) -> str:
    """Return the mailbox of an address, to which those of its ``+`` addresses go too that mail servers know."""
    local, _, domain = same_address(email).rpartition("@")
    return f"{local.partition('+')[0] or local}@{domain}"


def signup_id(username: str) -> str:
    """Return the instance id of a user's sign-up. It may be the id already, since no user name looks like one."""
    name = username.lower()
    return name if name.startswith(ID_PREFIX) else ID_PREFIX + name


class QuietHours(Contract):
    """The time of the day in which nobody is reminded: from ``start`` until ``end``, perhaps over midnight."""

    start: ClockTime
    end: ClockTime
    zone: Zone


class SignupForm(Contract):
    """What a user filled in. The form of the address was checked when it came in, not each time that it is read."""

    username: Username
    email: PlainAddress
    firstname: Name | None = None
    lastname: Name | None = None


class SubmitSignup(StartOptions):
    """The parameters of ``/signup/submit``; ``timezone`` is for the quiet hours."""

    username: Username
    email: EmailAddress
    firstname: Name | None = None
    lastname: Name | None = None
    timezone: Zone | None = None


class VerifySignup(Contract):
    """The parameters of ``/signup/verify``."""

    username: Username
    source: Source = "api"


class ResumeSignup(Contract):
    """The data with which a sign-up is resumed: that it is verified."""

    action: Literal["verify"]
    source: Source = "api"


class DescribeSignup(Contract):
    """The parameters of ``/signup/describe``."""

    username: Username


class SignupRules(Contract):
    """How a sign-up goes: as the settings said when it began.

    After each mail, a reminder is due in ``remind_hours``, up to ``max_reminders`` of them, not in ``quiet`` hours.
    After ``expires_hours`` in all it is over. Between two mails that are asked for stand ``resend_seconds`` at least,
    and to one address go ``mails_per_day``, whoever asked for them.
    """

    remind_hours: Hours = 24.0
    max_reminders: Annotated[int, Field(ge=0, le=100)] = 3
    quiet: QuietHours | None = None
    expires_hours: Hours = 7 * 24.0
    resend_seconds: Annotated[float, Field(ge=0, le=86_400)] = 60.0
    mails_per_day: Annotated[int, Field(ge=1, le=1_000)] = 10


class SignupState(Contract):
    """What a sign-up knows whose history begins anew, because its address was changed."""

    record: RecordState
    standing: SignupStanding
    deadline: Moment
    ends_at: Moment | None = None
    verdicts: dict[str, Verdict] = Field(default_factory=dict)
    refusals: dict[str, int] = Field(default_factory=dict)


class SignupInput(Limited):
    """The durable input: the one place, besides mails, where personal data stand.

    ``address_key`` stands for the mailbox of the address. ``session`` is the SHA-256 of the secret that the browser has
    which the form was filled in with, and ``channel`` says how it came. ``carried`` is there when the history has begun
    anew.
    """

    form: SignupForm
    rules: SignupRules = SignupRules()
    address_key: Pseudonym
    session: Digest | None = None
    channel: Literal["api", "page"] = "api"
    carried: SignupState | None = None


class SignupClaims(Contract):
    """What a link in a mail says, and is bound to: a run, its address (as a pseudonym), and which mails are good.

    ``generation`` is a number that grows when a newer mail makes the older ones dead. ``until`` is when it expires,
    unless the clock of the run stood still since.
    """

    instance_id: str
    run: RunStamp
    generation: Annotated[int, Field(ge=1)]
    address: Pseudonym
    until: Timestamp


class FromSignupMail(Contract):
    """What comes with a verification from a link, or by a code: which mail it was, and whether the code fits.

    ``by_name`` says that the code came from a browser other than the one that signed up.
    """

    run: RunStamp
    generation: Annotated[int, Field(ge=1)]
    code: Literal["right", "wrong"] | None = None
    by_name: bool = False


class VerifyEvent(Asking):
    """The payload of ``verify``. Without ``link``, who raises it vouches for the address: ``sent_by``, where that is
    known."""

    source: Source
    link: FromSignupMail | None = None
    channel: Literal["api", "link", "page"] | None = None
    sent_by: Who | None = None


class ResendEvent(Asking):
    """The payload of ``resend``: another mail is asked for."""

    channel: Literal["page"] | None = None


class ChangeEmailEvent(Asking):
    """The payload of ``change_email``: the mails go to another address from now on."""

    email: PlainAddress
    address_key: Pseudonym
    channel: Literal["page"] | None = None


class StopRemindersEvent(Asking):
    """The payload of ``stop_reminders``; ``changes`` is how often the address was changed before the link was sent."""

    changes: Annotated[int, Field(ge=0)] | None = None
    channel: Literal["link"] | None = None


SignupTemplate = Literal["signup_verify", "signup_reminder", "signup_known", "signup_welcome"]


class SignupMail(Contract):
    """A mail of a sign-up: the durable input of ``send_signup_mail``. Instance, run and number name it.

    The mail that verifies has a link and a code, a reminder also a link that stops reminders. Both go to an address
    that nobody has confirmed, so that they repeat nothing that somebody typed but the user name. ``signup_known`` says
    that the address has an account already. ``until`` is the deadline without the time that the run's clock stood
    still: it is in all links and codes of a run, which are good for longer then. Runs of before do not say it.
    """

    template: SignupTemplate
    instance_id: str
    run: RunStamp
    number: Annotated[int, Field(ge=1)]
    form: SignupForm
    generation: Annotated[int, Field(ge=1)]
    deadline: Timestamp
    until: Timestamp | None = None


class SentSignupMail(Contract):
    """What ``send_signup_mail`` gives. ``known`` says that the address has an account: the mail said that instead."""

    message_id: str
    known: bool = False


class ReminderPlan(Contract):
    """The durable input of ``plan_reminder``: not before ``after``, nor in quiet hours."""

    after: Timestamp
    quiet: QuietHours | None = None


class PlannedReminder(Contract):
    """What ``plan_reminder`` gives."""

    at: Timestamp


class NewAccount(Contract):
    """The durable input of ``create_account``. ``vouched`` says that a program verified it, which may give an address
    a second account."""

    instance_id: str
    run: RunStamp
    form: SignupForm
    verified_at: Timestamp
    source: Source
    vouched: bool


class CreatedAccount(Contract):
    """What ``create_account`` gives: false where the address, or the user name, has an account of another sign-up."""

    created: bool


class ErasedSignup(Contract):
    """The durable input of ``erase_signup``: a run that has expired."""

    instance_id: str
    run: RunStamp


class SignupOutcome(Outcome):
    """The output. ``done``: verified, from ``source``; ``address_taken``: verified, but the address has got another
    account meanwhile; ``expired``: nobody verified it."""

    status: Literal["done", "address_taken", "expired"]
    source: Source | None = None
