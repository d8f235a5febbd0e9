"""What the mails say that operators get of runs that are paused for long."""

from email.message import EmailMessage
from typing import Any, Literal

from contracts.base import one_line, path_to
from contracts.pause_state import PauseState
from services.mail import address_of, new_message
from services.mail_rendering import fill_in, in_words, message_id_of
from settings import get_settings

FIRST = 1_000_000_000
"""Above all numbers of a run's own mails."""
MOST_OF_ONE_PAUSE = 1_000
MAX_SUBJECT = 200

_SUBJECTS = {"warn": "Paused for a day: {}", "escalate": "Paused for too long: {}"}
_THEN = {
    "resume": "it goes on by itself",
    "cancel": "it is cancelled",
    "escalate": "you are told every day",
}


def render(what: Literal["warn", "escalate"], serial: int, state: PauseState) -> EmailMessage:
    """Return a mail about a pause that is under way. Rendered again, it has the same ``Message-ID``.

    Raises ``ValueError`` when no mail can be sent to the operators.
    """
    run, pause, settings = state.run, state.pause, get_settings()
    stamp = run.stamp or f"{run.created_at:%Y%m%dT%H%M%S%f}Z"
    message = new_message()
    message["Message-ID"] = message_id_of(run.instance_id, stamp, FIRST + state.number * MOST_OF_ONE_PAUSE + serial)
    message["To"] = address_of(settings.operators)
    subject = _SUBJECTS[what].format(one_line(run.instance_id))
    message["Subject"] = subject if len(subject) <= MAX_SUBJECT else subject[: MAX_SUBJECT - 1] + "…"
    facts: list[tuple[str, Any]] = [
        ("Execution", run.instance_id),
        ("Workflow", run.workflow_id),
        ("Step", pause.step),
        ("Paused by", pause.by),
        ("Paused since", in_words(pause.at)),
        ("Reason", pause.reason),
    ]
    said: dict[str, Any] = {
        "subject": subject,
        "facts": [(label, text) for label, text in facts if text],
        "link": None,
        "code": None,
        "deadline": in_words(pause.until),
        "then": _THEN[pause.on_max],
        "url": settings.base_url + path_to("/api/v1/executions/{}", run.instance_id),
    }
    fill_in(message, f"pause_{what}", said)
    return message
