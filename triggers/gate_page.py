"""The page behind a link in the mail of a call that has failed: it shows what went wrong, and takes what is to be done.

A change of the body takes two steps: the page shows what it changes, and only then it is sent.
"""

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Any

import azure.functions as func
from azure.durable_functions import DurableFunctionsClient
from pydantic import ConfigDict, JsonValue, ValidationError

from contracts.audit import digest_of
from contracts.base import Contract, Timestamp
from contracts.guarded_call import GuardedCallInput
from contracts.human_step import FromLink, Gate, Progress
from contracts.records import Document
from errors import CountersignError, TooLate
from orchestrators.guarded_call import EVENTS
from services import documents
from services.record_store import get_record_store
from settings import get_settings
from triggers.ask_run import Asked, ask_run, is_over
from triggers.diff import DiffLine, diff_of, pretty
from triggers.gate_form import BACK, CHOICES, SEND, Said, Typed, read_typed, said, untouched
from triggers.guarded_call import MAX_ATTEMPTS_SHOWN, MAX_DOCUMENTS, RULES
from triggers.link_page import (
    GONE,
    TOO_OLD,
    Link,
    follow,
    form_page,
    is_of_this_view,
    later_page,
    refuse_other_pages,
    result_page,
)
from triggers.pages import moment

LABELS = {"action": "What is to be done", "body": "The body", "result": "The result", "reason": "Reason"}
DONE = {
    "retry": "tried it again",
    "edit": "changed the body and tried it again",
    "skip": "let it go on without this call",
    "fail": "let it fail",
}
NOW = {
    "retry": "It is tried again now.",
    "edit": "It is tried again now, with the changed body.",
    "skip": "It goes on without this call, with the result that you gave.",
    "fail": "The call has failed for good.",
}
PROBLEMS = {
    "unreachable": "could not be reached",
    "tls": "is not who it says",
    "timeout": "took too long",
    "status": "answered",
    "redirected": "led elsewhere",
    "not_allowed": "may not be called",
    "too_large": "answered too much",
    "unreadable": "gave no whole answer",
    "internal": "was not called",
}
AT_THE_DEADLINE = {
    "fail": "Then it fails.",
    "skip": "Then it goes on without the call.",
    "escalate": "Then others are asked too.",
}
REFUSALS: dict[str, tuple[str, str]] = {
    "not_allowed": ("action", "this call does not allow that"),
    "no_more_retries": ("action", "it was tried again as often as it may be"),
    "body_wrong": ("body", "it does not fit the schema of the call"),
    "unchanged": ("body", "it is what it was; to send it once more, choose to try again"),
}
"""What a refusal is in the words of the page, and the input that it is shown at."""

BY_TIME = {
    "failed": "The time was up, and the call has failed.",
    "skipped": "The time was up, and it went on without the call.",
}
"""How it ended where nobody did anything."""

NOT_SHOWN = ("body", "call_sha256")
"""Details that bind the link to the call; the page has the whole of it."""

_OLDER = "It was tried again since, and failed again. If there is still something to do, a newer mail has the link."


class _Kept(Contract):
    """Something in the records, as far as the page shows it."""

    model_config = ConfigDict(extra="ignore")


class Attempt(_Kept):
    """An attempt that failed."""

    number: int
    at: Timestamp
    problem: str
    status: int | None = None
    message: str = ""

    @property
    def outcome(self) -> str:
        """What came of it, in words."""
        return f"{PROBLEMS.get(self.problem, self.problem)} {self.status or ''}".strip()


class Action(_Kept):
    """What somebody did at a gate. ``version`` is that of the call which an edit made."""

    gate: int
    action: str
    by: str
    reason: str
    at: Timestamp
    version: int | None = None

    @property
    def done(self) -> str:
        """What it was, in words."""
        return DONE.get(self.action, self.action)


@dataclass(frozen=True)
class Story:
    """What was called, by version; which attempts failed; and what people did."""

    calls: dict[int, dict[str, Any]]
    attempts: list[Attempt]
    actions: list[Action]

    def change_of(self, action: Action) -> list[DiffLine]:
        """What an edit changed."""
        version = action.version or 0
        old, new = self.calls.get(version - 1), self.calls.get(version)
        return diff_of(old.get("body"), new.get("body")) if old is not None and new is not None else []


@dataclass(frozen=True)
class Behind(Link):
    """What is behind a link: where the run stands now, and the call that failed then."""

    gate: Gate
    story: Story
    call: dict[str, Any]

    @property
    def asked(self) -> GuardedCallInput:
        """What the run was started with. Values of headers stand in it, which are not for pages."""
        return GuardedCallInput.model_validate_json(self.state.serialized_input or "")

    @property
    def is_open(self) -> bool:
        """Whether something can be done."""
        return bool(self.gate.actions) and self.gate.number == self.claims.round and not is_over(RULES, self.state)

    @property
    def body(self) -> JsonValue:
        """The body that was sent."""
        body: JsonValue = self.call.get("body")
        return body


async def show_gate_page(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``GET`` and ``HEAD`` of ``/intervene/{token}``: the page, which changes nothing."""
    behind = await _behind(client, req.route_params.get("token", ""))
    if not behind.is_open:
        return _closed(behind)
    return _form(req, behind, untouched(behind.body, behind.asked.substitute), {})


async def act_on_gate_page(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``POST`` of ``/intervene/{token}``: takes what is to be done; 400 with the page again where something is wrong.

    What comes after somebody else goes to the run all the same, so that it is on record.
    """
    refuse_other_pages(req)
    behind = await _behind(client, req.route_params.get("token", ""))
    typed = read_typed(req)
    found = said(typed, behind.asked, behind.body)
    if not is_of_this_view(req, behind.token, typed.view):
        found = (found if isinstance(found, dict) else {}) | {"": TOO_OLD}
    elif typed.step == BACK:
        found = {}
    if isinstance(found, dict):
        return _form(req, behind, typed, found) if behind.is_open else _closed(behind)
    if found.action == "edit" and typed.step != SEND:
        return _change(req, behind, typed, found) if behind.is_open else _closed(behind)
    try:
        progress = await _ask(client, behind, found, typed)
    except CountersignError as error:
        if isinstance(error, TooLate) or error.members.get("code") == "not_waiting":
            return _closed(await _behind(client, behind.token))
        return _refused(req, behind, typed, error)
    return _taken(behind, found, progress)


async def _behind(client: DurableFunctionsClient, token: str) -> Behind:
    """Return what is behind a link. Raises ``BadLink``, or ``TooLate`` for what is not there any more."""
    link = await follow(client, "intervene", token)
    gate = link.progress.gate
    if gate is None:
        raise TooLate(GONE)
    story = await asyncio.to_thread(_story, link)
    edits = [action.version or 1 for action in story.actions if action.gate < link.claims.round]
    call = story.calls.get(max([1, *edits]))
    details = link.shown.content.details or {}
    if call is None or digest_of(call) != details.get("call_sha256"):
        raise TooLate(GONE)
    return Behind(**vars(link), gate=gate, story=story, call=call)


def _story(link: Link) -> Story:
    claims = link.claims
    read = partial(documents.read_all, get_record_store(), claims.request_id, claims.run, limit=MAX_DOCUMENTS)
    calls = {int(each.name[5:]): each.body for each in read(what="call") if isinstance(each.body, dict)}
    return Story(calls, _kept(Attempt, read(what="attempt")), _kept(Action, read(what="action")))


def _kept[Kind: _Kept](kind: type[Kind], found: list[Document]) -> list[Kind]:
    kept = []
    for document in found:
        try:
            kept.append(kind.model_validate(document.body))
        except ValidationError:  # it was changed in the store, and is not ours any more
            continue
    return kept


async def _ask(client: DurableFunctionsClient, behind: Behind, what: Said, typed: Typed) -> Progress | None:
    claims = behind.claims
    common: dict[str, Any] = {
        "by": claims.person,
        "reason": what.reason,
        "gate": claims.round,
        "decision_id": what.id_of(typed.view),
        "channel": "link",
        "link": FromLink(round=claims.round, serial=claims.serial, run=claims.run),
    }
    event = EVENTS[what.action].model_validate(common | what.given)
    asked = Asked(what.action, event, claims.person, what.action, what.reason, channel="link")
    return await ask_run(client, RULES, claims.request_id, asked, patience=get_settings().decision_wait_seconds)


def _form(
    req: func.HttpRequest, behind: Behind, typed: Typed, errors: dict[str, str], status: int = 400
) -> func.HttpResponse:
    """Answer with the page: as it is at first, or again with what is wrong, and ``status``."""
    asked, story = behind.asked, behind.story
    details = behind.shown.content.details or {}
    return form_page(
        req,
        behind,
        "gate.html",
        status if errors else 200,
        details={name: value for name, value in details.items() if name not in NOT_SHOWN and value is not None},
        headers=behind.call.get("headers"),
        sent=pretty(behind.body) if behind.body is not None else None,
        attempts=story.attempts[-MAX_ATTEMPTS_SHOWN:],
        left_out=max(0, len(story.attempts) - MAX_ATTEMPTS_SHOWN),
        before=[(action, story.change_of(action)) for action in story.actions],
        deadline=behind.progress.deadline,
        at_the_deadline=AT_THE_DEADLINE["fail" if behind.gate.escalated else asked.on_deadline],
        choices=_choices(behind.gate),
        schema=pretty(asked.body_schema) if asked.body_schema is not None else None,
        typed=typed,
        errors=errors,
        labels=LABELS,
    )


def _choices(gate: Gate) -> list[tuple[str, str, str]]:
    times = "once more" if gate.retries_left == 1 else f"{gate.retries_left} more times"
    hints = {
        "retry": f"The same call. It can be tried again {times}.",
        "edit": "You see what you have changed before it is sent.",
        "skip": "What it is part of goes on as if the call had given this.",
        "fail": "It is not tried again, and what it is part of does not go on as if it had worked.",
    }
    return [(value, label, hints[value]) for value, label in CHOICES.items() if value in gate.actions]


def _change(req: func.HttpRequest, behind: Behind, typed: Typed, what: Said) -> func.HttpResponse:
    """Answer with a page that shows what an edit changes, from which it is sent."""
    changed = diff_of(behind.body, what.given["body"])
    return form_page(req, behind, "gate_change.html", 200, changed=changed, typed=typed, send=SEND, back=BACK)


def _refused(req: func.HttpRequest, behind: Behind, typed: Typed, error: CountersignError) -> func.HttpResponse:
    """Answer with the page again where the person can do something about a refusal; raise it otherwise."""
    if error.members.get("code") not in REFUSALS:
        raise error
    field, sentence = REFUSALS[error.members["code"]]
    return _form(req, behind, typed, {field: sentence}, error.status)


def _taken(behind: Behind, what: Said, progress: Progress | None) -> func.HttpResponse:
    if progress is None:
        return later_page(behind)
    sentences = [NOW[what.action], f"Your reason: {what.reason}"]
    return result_page(behind, "Thank you", sentences, again="See how it goes on")


def _closed(behind: Behind) -> func.HttpResponse:
    """Answer who did what; raise ``TooLate`` where nobody did, or where it has failed again since."""
    if behind.gate.number != behind.claims.round:
        raise TooLate(_OLDER)
    actions = [action for action in behind.story.actions if action.gate == behind.claims.round]
    if not actions:
        raise TooLate(BY_TIME.get(behind.progress.phase, GONE))
    sentences = [
        f"{actions[-1].by} {actions[-1].done} on {moment(actions[-1].at)}.",
        f"The reason: {actions[-1].reason}",
    ]
    if behind.progress.phase == "succeeded":
        sentences.append("It has succeeded since.")
    elif not is_over(RULES, behind.state):
        sentences.append("It is being tried again.")
    return result_page(behind, "This has been dealt with", sentences)
