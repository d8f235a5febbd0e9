"""What the mails of a sign-up say."""

from email.message import EmailMessage
from email.policy import Policy
from typing import Any

from email_validator import EmailNotValidError, validate_email

from contracts.signup import SignupClaims, SignupMail, SignupTemplate, same_address
from services import links
from services.mail import address_of, new_message
from services.mail_rendering import fill_in, in_words, message_id
from settings import get_settings

_SUBJECTS: dict[SignupTemplate, str] = {
    "signup_verify": "Please confirm your address",
    "signup_reminder": "Reminder, please confirm your address",
    "signup_known": "You have an account already",
    "signup_welcome": "Welcome",
}
"""Without a word that somebody typed: a subject is read before anything else is."""


def render(mail: SignupMail, owner: str | None = None) -> EmailMessage:
    """Return a mail of a sign-up; ``owner`` is the user name of the account that a ``signup_known`` is about.

    Rendered again, it has the same ``Message-ID`` and code. Raises ``ValueError`` when no mail can be sent to its
    address.
    """
    message = new_message()
    message["Message-ID"] = message_id(mail)
    message["To"] = address_of(_sendable(mail.form.email))
    message["Subject"] = _SUBJECTS[mail.template]
    said: dict[str, Any] = {
        "subject": _SUBJECTS[mail.template],
        "username": mail.form.username,
        "owner": owner,
        "person": " ".join(filter(None, (mail.form.firstname, mail.form.lastname))),
        "facts": [],
        "link": None,
    }
    if mail.template in ("signup_verify", "signup_reminder"):
        claims = SignupClaims(
            instance_id=mail.instance_id,
            run=mail.run,
            generation=mail.generation,
            address=links.pseudonym("address", same_address(mail.form.email)),
            until=mail.until if mail.until is not None else mail.deadline,
        )
        said |= {
            "link": links.url_of_signup(claims, "confirm"),
            "code": links.code_of(claims),
            "page": f"{get_settings().base_url}/signup/confirm",
            "deadline": in_words(mail.deadline),
            "stop": links.url_of_signup(claims, "stop"),
        }
    if mail.template == "signup_reminder":  # RFC 8058
        message["List-Unsubscribe"] = _Unfolded("List-Unsubscribe", f"<{said['stop']}>")
        message["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    fill_in(message, mail.template, said)
    return message


class _Unfolded(str):
    """The value of a header that stays as it is: one long word would be made encoded words of, which is no link."""

    __slots__ = ("name",)
    name: str

    def __new__(cls, name: str, value: str) -> "_Unfolded":
        made = super().__new__(cls, value)
        made.name = name
        return made

    def fold(self, *, policy: Policy) -> str:
        """Return the header as it is sent."""
        return f"{self.name}: {self}{policy.linesep}"


def _sendable(email: str) -> str:
    """Return an address in ASCII where it can be, which every mail server takes."""
    try:
        return validate_email(email, check_deliverability=False).ascii_email or email
    except EmailNotValidError:
        return email
