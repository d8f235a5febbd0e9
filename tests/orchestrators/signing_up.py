"""What the tests of the sign-up do: begin one, read its mails, and ask things of it as its links and pages do."""

import re
from dataclasses import dataclass
from itertools import count
from typing import Any
from uuid import uuid4

from contracts.signup import QuietHours, SignupClaims, SignupForm, SignupInput, SignupRules, signup_id
from orchestrators.signup import VERIFY
from services import links, outbox
from services.outbox import OutboxMail
from services.states import progress_of
from tests.orchestrators.engine import Engine
from triggers.signup import Signup, address_key
from triggers.signup_result import code_event, is_code

WAITING = "waiting_for_verification"
EMAIL, OTHER = "zeb.quagmire@hidden.example.com", "zebulon@elsewhere.example.org"
FIRST, LAST = "Zebulon", "Quagmire"
PERSONAL = ("zeb.quagmire", "hidden.example", "zebulon", "elsewhere.example", "quagmire")
"""What is personal, in lower case, of who signs up below."""
BERLIN = QuietHours(start="21:00", end="08:00", zone="Europe/Berlin")
SUBJECTS = {
    "Please confirm your address": "verify",
    "Reminder, please confirm your address": "reminder",
    "You have an account already": "known",
    "Welcome": "welcome",
}
_numbers = count(1)


@dataclass(frozen=True)
class Link:
    """What a mail says to who has it."""

    claims: SignupClaims
    code: str


def given(
    username: str | None = None,
    email: str = EMAIL,
    *,
    session: str | None = None,
    timeout: float | None = None,
    **rules: Any,
) -> dict[str, Any]:
    """A durable input, as the trigger makes it."""
    name = username or f"user-{next(_numbers)}"
    form = SignupForm(username=name, email=email, firstname=FIRST, lastname=LAST)
    asked = SignupInput(
        form=form,
        rules=SignupRules(**rules),
        address_key=address_key(email),
        session=session,
        execution_timeout=timeout,
    )
    return asked.plain()


def begun(engine: Engine, asked: dict[str, Any] | None = None) -> str:
    """A sign-up that waits for its verification."""
    asked = asked or given()
    instance = engine.start("signup", asked, signup_id(asked["form"]["username"]))
    engine.phase(instance, WAITING)
    return instance


def mails(instance: str) -> list[OutboxMail]:
    """The mails of a sign-up, in the order of their numbers."""
    found = [each for each in outbox.page(10_000) if each.message_id.startswith(f"<{instance}.")]
    return sorted(found, key=lambda mail: int(mail.message_id.split("@")[0].rsplit(".", 1)[1]))


def kinds(instance: str) -> list[str]:
    """What its mails are about, one word each."""
    return [SUBJECTS[mail.subject] for mail in mails(instance)]


def link_in(mail: OutboxMail) -> Link:
    """The link and the code in a mail."""
    (token,) = re.findall(r"/signup/confirm\?token=(\S+)", mail.text)
    (code,) = re.findall(r"/signup/confirm and type this code:\s+([0-9]{6})$", mail.text, re.MULTILINE)
    return Link(links.read_signup(token, "confirm"), code)


def standing(engine: Engine, instance: str) -> dict[str, Any]:
    """Where a sign-up stands."""
    found: dict[str, Any] = engine.status(instance)["signup"]
    return found


def ask(engine: Engine, instance: str, event: str, decision_id: str | None = None, **said: Any) -> None:
    """Raise an event, and let the run come to it."""
    engine.event(instance, event, {"decision_id": decision_id, **said})
    engine.state(instance)


def vouch(engine: Engine, instance: str, decision_id: str | None = None, source: str = "api") -> None:
    """Verify it as a program does."""
    ask(engine, instance, VERIFY, decision_id, source=source, channel="api")


def follow(engine: Engine, instance: str, mail: OutboxMail, decision_id: str | None = None) -> None:
    """Verify it by the link in a mail, as its page does."""
    claims = link_in(mail).claims
    assert claims.instance_id == instance
    link = {"run": claims.run, "generation": claims.generation}
    ask(engine, instance, VERIFY, decision_id, source="link", link=link, channel="link")


def type_code(engine: Engine, instance: str, code: str, decision_id: str | None = None) -> None:
    """Verify it by a code, which is held against what the run says of itself, as its page does."""
    state = engine.state(instance)
    progress = progress_of(state)
    assert progress is not None
    assert progress.signup is not None
    signup = Signup(state, SignupInput.model_validate_json(state.serialized_input or ""), progress, progress.signup)
    event = code_event(signup, decision_id or uuid4().hex, right=is_code(signup, code))
    engine.event(instance, VERIFY, event.plain())
    engine.state(instance)


def wrong(code: str) -> str:
    """A code that is another one."""
    return f"{(int(code) + 1) % 1_000_000:06}"


def change(engine: Engine, instance: str, email: str, decision_id: str | None = None) -> None:
    """Have the mails go to another address."""
    said = {"email": email, "address_key": address_key(email), "channel": "page"}
    ask(engine, instance, "change_email", decision_id, **said)
