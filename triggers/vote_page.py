"""The page behind a link in the mail of an approval: it shows what is asked, and takes what is said."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import azure.functions as func
from azure.durable_functions import DurableFunctionsClient

from contracts.approval import ApprovalInput, DelegateEvent, VoteEvent
from contracts.base import as_utc_text
from contracts.human_step import FromLink, Progress, Standing, digest_of_person
from errors import AlreadyDecided, CountersignError, Forbidden, TooLate
from services import links
from settings import get_settings
from triggers.approval import RULES
from triggers.ask_run import Asked, ask_run, is_over
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
from triggers.vote_form import CHOICES, Input, Said, Typed, inputs_of, read_typed, said, untouched

SAID = {"approve": "approve", "reject": "reject", "request_changes": "request changes", "abstain": "abstain"}
REFUSALS: dict[str, tuple[str, str]] = {
    "wrong_code": ("code", "this is not the code in the mail"),
    "comment_needed": ("comments", "it is needed for this choice"),
    "answers_wrong": ("answers", "the answers do not fit"),
    "already_asked": ("to", "this person is asked already, and has one vote"),
    "to_requester": ("to", "it cannot be handed to whoever asked for it"),
    "in_a_circle": ("to", "this person has handed it on before, and it cannot go back"),
    "handed_on_too_often": ("to", "it was handed on three times, and stays with you"),
    "already_voted": ("vote", "you have voted: change that, but it cannot be handed over any more"),
    "not_yet": ("", "It is not your turn yet. You get a mail when it is."),
    "own_request": ("", "Nobody decides on what they asked for themselves."),
    "too_often": ("", "That was done too often on this request."),
}
"""What a refusal is in the words of the page, and the input that it is shown at."""

NO_MORE = ("not_asked", "handed_over", "locked", "not_waiting")
"""Refusals that have to do with where the request stands by now, which the page says in its own words."""


@dataclass(frozen=True)
class Behind(Link):
    """What is behind a link that belongs to what is shown now."""

    standing: Standing

    @property
    def person(self) -> str:
        """The digest of whom the link was sent to."""
        return digest_of_person(self.claims.person)

    @property
    def asked(self) -> ApprovalInput:
        """What the run was started with."""
        return ApprovalInput.model_validate_json(self.state.serialized_input or "")

    @property
    def is_over(self) -> bool:
        """Whether nothing can be said any more."""
        return is_over(RULES, self.state)


async def show_vote_page(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``GET`` and ``HEAD`` of ``/approve/{token}``: the page, which changes nothing."""
    behind = await _behind(client, req.route_params.get("token", ""))
    if behind.is_over:
        return _over(behind)
    _check_may_vote(behind)
    return _form(req, behind, untouched(inputs_of(behind.shown.content.form)), {})


async def cast_vote_on_page(req: func.HttpRequest, client: DurableFunctionsClient) -> func.HttpResponse:
    """``POST`` of ``/approve/{token}``: takes what was said; 400 with the page again where something is wrong with it.

    What comes after the end, or from who is asked no more, goes to the run all the same, so that it is on record.
    """
    refuse_other_pages(req)
    behind = await _behind(client, req.route_params.get("token", ""))
    inputs = inputs_of(behind.shown.content.form)
    typed = read_typed(req, inputs)
    found = said(typed, behind.asked, behind.shown.content, inputs)
    if not is_of_this_view(req, behind.token, typed.view):
        found = (found if isinstance(found, dict) else {}) | {"": TOO_OLD}
    if isinstance(found, dict):
        if behind.is_over:
            return _over(behind)
        _check_may_vote(behind)
        return _form(req, behind, typed, found)
    try:
        progress = await _ask(client, behind, found, typed)
    except AlreadyDecided as error:
        return _decided(behind, **{name: error.members.get(name) for name in ("decided_by", "decided_at", "outcome")})
    except TooLate:
        raise TooLate(GONE) from None
    except CountersignError as error:
        if error.members.get("code") in NO_MORE:
            _check_may_vote(await _behind(client, behind.token))
        return _refused(req, behind, typed, inputs, error)
    return _taken(behind, found, progress)


async def _behind(client: DurableFunctionsClient, token: str) -> Behind:
    """Return what is behind a link. Raises ``BadLink``, or ``TooLate`` for what is not shown any more."""
    link = await follow(client, "approve", token)
    standing = link.progress.standing
    if standing is None or (standing.round, standing.shown) != (link.claims.round, link.claims.shown):
        raise TooLate(GONE)
    return Behind(**vars(link), standing=standing)


def _check_may_vote(behind: Behind) -> None:
    """Raise ``Forbidden`` or ``TooLate`` unless this person is asked just now, and this link is not locked."""
    standing = behind.standing
    if behind.progress.phase == "waiting_for_changes":
        raise TooLate("Changes were asked for. When they are made, you get another mail with a new link.")
    if behind.person in standing.gave_away and behind.person not in standing.seats:
        raise Forbidden("You have handed this over to somebody else, who has a link of their own.")
    if behind.person not in standing.seats and not standing.open:
        if standing.level:
            raise TooLate("The time to decide was up, and others are asked now.")
        raise TooLate("It is not waiting for you any more: the people who were asked with you have said enough.")
    if behind.claims.serial in standing.locked:
        raise Forbidden("The code was wrong too often, so this link is locked. Ask for a new mail, which has another.")


async def _ask(client: DurableFunctionsClient, behind: Behind, what: Said, typed: Typed) -> Progress | None:
    claims = behind.claims
    code: Any = None
    if behind.asked.second_factor == "mail_code":
        code = "right" if links.is_code(claims, what.code) else "wrong"
    common: dict[str, Any] = {
        "approver": claims.person,
        "comments": what.comments,
        "decision_id": what.id_of(typed.view),
        "channel": "link",
        "link": FromLink(round=claims.round, serial=claims.serial, code=code, run=claims.run),
    }
    payload: VoteEvent | DelegateEvent
    if what.vote == "delegate":
        assert what.to is not None
        event, payload = "delegate", DelegateEvent(**common, to=what.to)
    else:
        event, payload = "decision", VoteEvent(**common, vote=what.vote, answers=what.answers)
    asked = Asked(event=event, payload=payload, by=claims.person, said=what.vote, comment=what.comments, channel="link")
    return await ask_run(client, RULES, claims.request_id, asked, patience=get_settings().decision_wait_seconds)


def _form(
    req: func.HttpRequest, behind: Behind, typed: Typed, errors: dict[str, str], status: int = 400
) -> func.HttpResponse:
    """Answer with the page: as it is at first, or again with what is wrong, and ``status``."""
    content, asked = behind.shown.content, behind.asked
    inputs = inputs_of(content.form)
    return form_page(
        req,
        behind,
        "vote.html",
        status if errors else 200,
        deadline=behind.progress.deadline,
        earlier=SAID.get(behind.standing.seats.get(behind.person) or ""),
        choices=_choices(content.requester),
        comment_hint=_comment_hint(asked),
        inputs=inputs,
        form_title=(content.form or {}).get("title") or "To approve, fill this in",
        form_hint=(content.form or {}).get("description"),
        asks_code=asked.second_factor == "mail_code",
        typed=typed,
        errors=errors,
        labels=_labels(inputs),
    )


def _choices(requester: str) -> list[tuple[str, str, str]]:
    hints = {"request_changes": f"It goes back to {requester}, who may ask again. Say in a comment what to change."}
    return [(value, label, hints.get(value, "")) for value, label in CHOICES.items()]


def _comment_hint(asked: ApprovalInput) -> str:
    needed = [each for each in ("approve", "reject") if each in asked.require_comment_on]
    return f"Needed to {', '.join([*needed, 'request changes'])}." if needed else "Needed to request changes."


def _labels(inputs: tuple[Input, ...]) -> dict[str, str]:
    fixed = {"vote": "What you say", "to": "To whom", "comments": "Comment", "code": "Code", "answers": "The form"}
    return fixed | {each.id: each.label for each in inputs}


def _refused(
    req: func.HttpRequest, behind: Behind, typed: Typed, inputs: tuple[Input, ...], error: CountersignError
) -> func.HttpResponse:
    """Answer with the page again where the person can do something about a refusal; raise it otherwise."""
    if error.members.get("code") not in REFUSALS:
        raise error
    field, sentence = REFUSALS[error.members["code"]]
    if field == "code":
        typed = replace(typed, code="")
    if field == "answers" and not inputs:
        field = ""
    return _form(req, behind, typed, {field: sentence}, error.status)


def _taken(behind: Behind, what: Said, progress: Progress | None) -> func.HttpResponse:
    if progress is None:
        return later_page(behind)
    if what.vote == "delegate":
        assert what.to is not None
        return result_page(behind, "Thank you", [f"You have handed this over to {what.to.shown}, who gets a mail."])
    sentences = [f"You have said: {CHOICES[what.vote].lower()}."]
    if what.comments:
        sentences.append(f"Your comment: {what.comments}")
    if progress.decision is not None:
        sentences.append(f"With that it is decided: the request is {progress.decision.outcome}.")
        return result_page(behind, "Thank you", sentences)
    if progress.phase == "waiting_for_changes":
        sentences.append(f"The request goes back to {behind.shown.content.requester}.")
        return result_page(behind, "Thank you", sentences)
    sentences.append("It is not decided yet. Until then you can change what you have said.")
    return result_page(behind, "Thank you", sentences, again="Back to the request")


def _over(behind: Behind) -> func.HttpResponse:
    """Answer who decided; raise ``TooLate`` where nobody did."""
    taken = behind.progress.decision
    if taken is None:
        raise TooLate(GONE)
    return _decided(behind, decided_by=taken.by, decided_at=as_utc_text(taken.at), outcome=taken.outcome)


def _decided(behind: Behind, *, decided_by: Any, decided_at: Any, outcome: Any) -> func.HttpResponse:
    when = moment(datetime.fromisoformat(decided_at))
    return result_page(behind, "This has been decided", [f"{decided_by} {outcome} it on {when}."])
