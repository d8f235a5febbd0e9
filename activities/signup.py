"""The effects of a sign-up: its mails, when it reminds, the account, and the end of what is personal."""

from typing import Any

from durabletask.task import ActivityContext

from contracts.signup import (
    CreatedAccount,
    ErasedSignup,
    NewAccount,
    PlannedReminder,
    ReminderPlan,
    SentSignupMail,
    SignupMail,
)
from services.accounts import get_accounts
from services.mail import get_mailer
from services.quiet_hours import first_outside
from services.record_store import get_record_store
from services.signup_erasure import erase
from services.signup_mail import render


def send_signup_mail(_context: ActivityContext, request: dict[str, Any]) -> dict[str, Any]:
    """Send a mail of a sign-up. Takes a ``SignupMail``, gives a ``SentSignupMail``.

    Where the address has an account of another user, the mail says so instead of asking to confirm the address. Raises
    ``OSError`` when the accounts cannot be reached, or the mail cannot be handed over.
    """
    mail = SignupMail.model_validate(request)
    owner = get_accounts().owner_of(mail.form.email) if mail.template != "signup_welcome" else None
    if owner is not None and owner.lower() != mail.form.username.lower():
        mail = mail.model_copy(update={"template": "signup_known"})
    message = render(mail, owner)
    get_mailer().send(message)
    return SentSignupMail(message_id=str(message["Message-ID"]), known=mail.template == "signup_known").plain()


def plan_reminder(_context: ActivityContext, request: dict[str, Any]) -> dict[str, Any]:
    """Say when a reminder may go out. Takes a ``ReminderPlan``, gives a ``PlannedReminder``.

    It is no effect, but what it looks at changes: the rules of time zones, which a replay must not see.
    """
    plan = ReminderPlan.model_validate(request)
    return PlannedReminder(at=first_outside(plan.after, plan.quiet)).plain()


def create_account(_context: ActivityContext, request: dict[str, Any]) -> dict[str, Any]:
    """Create the account of who has signed up. Takes a ``NewAccount``, gives a ``CreatedAccount``.

    Raises ``OSError`` when the accounts cannot be reached.
    """
    return CreatedAccount(created=get_accounts().create(NewAccount.model_validate(request))).plain()


def erase_signup(_context: ActivityContext, request: dict[str, Any]) -> dict[str, Any]:
    """Erase the mails of a run from the outbox, and have it purged once it has ended. Takes an ``ErasedSignup``; gives
    how many mails were ``erased``.

    Raises ``OSError`` when a mail cannot be erased, ``RecordStoreError`` when the store cannot be reached.
    """
    run = ErasedSignup.model_validate(request)
    return {"erased": erase(get_record_store(), run.instance_id, run.run)}
