"""What is done with a request besides voting: hand a vote on, withdraw, extend, revise, remind."""

from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.api.test_requests import (
    ALICE,
    BOB,
    CAROL,
    DAVE,
    ERIN,
    MANAGEMENT,
    asked,
    ended,
    outcome,
    post,
    raise_event,
    refused,
    shown,
    told,
    vote,
)
from tests.hosting import HostProcess
from tests.polling import until

COMMANDS: dict[str, dict[str, Any]] = {
    "delegate": {"approver": BOB, "to": DAVE},
    "withdraw": {"by": "Alice"},
    "extend": {"by": "Alice", "extend_by": 1},
    "revise": {"by": "Alice", "item": "Two desks"},
    "remind": {"by": "Alice"},
}
ACTIONS = {
    "delegate": "delegated",
    "withdraw": "withdrawn",
    "extend": "extended",
    "revise": "revised",
    "remind": "reminded",
}


def command(client: httpx.Client, request_id: str, verb: str, key: str | None = None, **changes: Any) -> httpx.Response:
    """Ask for something."""
    return post(client, f"/api/requests/{request_id}/{verb}", COMMANDS[verb] | changes, key)


def with_changes(client: httpx.Client, *approvers: str, **changes: Any) -> str:
    """A request for which changes were asked for."""
    request_id = asked(client, *(approvers or (BOB,)), **changes)
    answer = vote(client, request_id, BOB, "request_changes", comments="Which one?")
    assert (outcome(answer), answer.json()["phase"]) == ("pending", "waiting_for_changes")
    return request_id


def ready_for(client: httpx.Client, verb: str) -> str:
    """A request of which this can be asked."""
    return with_changes(client) if verb == "revise" else asked(client, BOB)


# Of all of them


@pytest.mark.parametrize("verb", COMMANDS)
def test_what_comes_twice_with_one_key_is_done_once(client: httpx.Client, verb: str) -> None:
    request_id = ready_for(client, verb)
    answers = [command(client, request_id, verb, key="the-key") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3, answers[0].text
    assert len(told(client, request_id, ACTIONS[verb])) == 1
    assert {answer.json()["decision_id"] for answer in answers} == {"the-key"}
    other = command(client, request_id, verb, key="the-key", comments="something else")
    assert (other.status_code, "Idempotency-Key" in other.json()["detail"]) == (422, True)
    assert len(told(client, request_id, ACTIONS[verb])) == 1


@pytest.mark.parametrize("verb", COMMANDS)
def test_it_is_told_by_whom_and_by_which_door(client: httpx.Client, verb: str) -> None:
    request_id = ready_for(client, verb)
    assert command(client, request_id, verb, comments="Because").status_code == 200
    [note] = told(client, request_id, ACTIONS[verb])
    assert (note["actor"], note["channel"]) == (BOB if verb == "delegate" else "Alice", "api")
    assert note.get("comment") == (None if verb == "remind" else "Because")


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_raw_event_does_the_same(client: httpx.Client, verb: str) -> None:
    request_id = ready_for(client, verb)
    raise_event(client, request_id, COMMANDS[verb], verb)
    [note] = until(lambda: told(client, request_id, ACTIONS[verb]))
    assert note["channel"] == "event"


@pytest.mark.parametrize("verb", ["withdraw", "extend", "revise"])
@pytest.mark.parametrize("by", [BOB, "Mallory", "Alice Smith", "lice"])
def test_what_is_the_requesters_is_nobody_elses(client: httpx.Client, verb: str, by: str) -> None:
    request_id = ready_for(client, verb)
    before = shown(client, request_id)["custom_status"]
    refused(command(client, request_id, verb, by=by), 403, "not_requester")
    raise_event(client, request_id, COMMANDS[verb] | {"by": by}, verb)
    until(lambda: len(told(client, request_id, "refused")) == 2)
    after = shown(client, request_id)["custom_status"]
    assert (after["phase"], after["deadline"]) == (before["phase"], before["deadline"])
    assert command(client, request_id, verb, by=ALICE.upper()).status_code == 200


@pytest.mark.parametrize("verb", COMMANDS)
def test_of_a_request_that_is_not_there(client: httpx.Client, verb: str) -> None:
    answer = command(client, f"nobody-{uuid4()}", verb)
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:countersign:problem:not-found")
    order = {"order_id": "1", "cost": 500, "product": "W", "quantity": 2}
    instance = client.post("/start-purchase-order", json=order).json()["instance_id"]
    assert command(client, instance, verb).status_code == 404
    assert command(client, "a%20b", verb).status_code == 400


@pytest.mark.parametrize("verb", COMMANDS)
@pytest.mark.parametrize("how", ["decided", "timed out", "withdrawn", "terminated"])
def test_after_the_end_nothing_is_asked_of_it_any_more(client: httpx.Client, verb: str, how: str) -> None:
    request_id = asked(client, BOB, timeout_hours=0.0003 if how == "timed out" else 1)
    if how == "decided":
        vote(client, request_id, BOB, "reject")
    elif how == "withdrawn":
        command(client, request_id, "withdraw")
    elif how == "terminated":
        client.post(f"{MANAGEMENT}/instances/{request_id}/terminate")
        until(lambda: shown(client, request_id)["runtime_status"] == "TERMINATED")
    if how != "terminated":
        ended(client, request_id)
    answer = command(client, request_id, verb)
    assert answer.status_code == (409 if how == "decided" else 410), answer.text
    if how == "decided":
        assert (answer.json()["decided_by"], answer.json()["outcome"]) == (BOB, "rejected")
    elif how != "terminated":
        assert answer.json()["phase"] == how.replace(" ", "_")
    assert len(told(client, request_id, ACTIONS[verb])) == (how == "withdrawn" and verb == "withdraw")


BAD = [
    ("delegate", {"to": "dave"}, "to.email"),
    ("delegate", {"to": None}, "to"),
    ("delegate", {"approver": ""}, "approver"),
    ("delegate", {"from": BOB}, "from"),
    ("withdraw", {"by": None}, "by"),
    ("withdraw", {"by": "a\nb"}, "by"),
    ("withdraw", {"comments": "x" * 4001}, "comments"),
    ("extend", {"extend_by": 0}, "extend_by"),
    ("extend", {"extend_by": -1}, "extend_by"),
    ("extend", {"extend_by": "tomorrow"}, "extend_by"),
    ("extend", {"extend_by": 8761}, "extend_by"),
    ("extend", {"until": "2030-01-01"}, "until"),
    ("revise", {"item": ""}, "item"),
    ("revise", {"details": [1]}, "details"),
    ("revise", {"approvers": [DAVE]}, "approvers"),
    ("remind", {"approver": 5}, "approver"),
    ("remind", {"channel": "link"}, "channel"),
    ("delegate", {"link": {"round": 1, "serial": 1}}, "link"),
]


@pytest.mark.parametrize(("verb", "change", "field"), BAD)
def test_a_bad_field_is_named(client: httpx.Client, verb: str, change: dict[str, Any], field: str) -> None:
    request_id = ready_for(client, verb)
    response = command(client, request_id, verb, **change)
    assert response.status_code == 422, response.text
    assert [error["field"] for error in response.json()["errors"]] == [field]
    assert told(client, request_id, ACTIONS[verb], "refused") == []


# Handing a vote on


def test_a_vote_that_is_handed_on_is_the_other_persons(client: httpx.Client) -> None:
    request_id = asked(client, BOB, CAROL, policy="all")
    answer = command(client, request_id, "delegate", to={"email": DAVE, "name": "Dave"}, comments="Away")
    assert (outcome(answer), answer.json()["phase"]) == ("pending", "waiting_for_approval")
    refused(vote(client, request_id, BOB), 403, "handed_over")
    refused(command(client, request_id, "delegate", to=ERIN), 403, "handed_over")
    until(lambda: {"delegated"} & {each["detail"] for each in told(client, request_id, "mailed")})
    [mailed] = [each for each in told(client, request_id, "mailed") if each["detail"] == "delegated"]
    assert mailed["people"] == [DAVE]
    vote(client, request_id, CAROL)
    assert outcome(vote(client, request_id, DAVE)) == "approved"
    votes = [(each["by"], each["on_behalf_of"]) for each in ended(client, request_id)["output"]["votes"]]
    assert votes == [(DAVE, BOB), (CAROL, None)]


def test_an_administrator_hands_the_vote_of_somebody_on(client: httpx.Client) -> None:
    request_id = asked(client, BOB)
    assert command(client, request_id, "delegate", by="Ada (admin)").status_code == 200
    [note] = told(client, request_id, "delegated")
    assert (note["actor"], note["on_behalf_of"], note["people"]) == ("Ada (admin)", BOB, [DAVE])


def test_who_has_no_vote_hands_none_on(client: httpx.Client) -> None:
    request_id = asked(client, BOB)
    refused(command(client, request_id, "delegate", approver=CAROL), 403, "not_asked")
    open_to_all = asked(client)
    refused(command(client, open_to_all, "delegate", approver="Manager"), 403, "not_asked")


@pytest.mark.parametrize("to", [ALICE, ALICE.upper(), f" {ALICE} ", {"email": ALICE, "name": "Somebody"}])
def test_no_vote_is_handed_to_the_requester(client: httpx.Client, to: Any) -> None:
    request_id = asked(client, BOB)
    refused(command(client, request_id, "delegate", to=to), 409, "to_requester")
    raise_event(client, request_id, {"approver": BOB, "to": to}, "delegate")
    until(lambda: [each["detail"] for each in told(client, request_id, "refused")] == ["to_requester"] * 2)
    assert outcome(vote(client, request_id, BOB)) == "approved"


def test_nobody_gets_a_second_vote_or_the_own_one_back(client: httpx.Client) -> None:
    request_id = asked(client, BOB, CAROL, policy="all")
    refused(command(client, request_id, "delegate", to=CAROL.upper()), 409, "already_asked")
    refused(command(client, request_id, "delegate", to=BOB), 409, "in_a_circle")
    assert command(client, request_id, "delegate").status_code == 200
    refused(command(client, request_id, "delegate", approver=DAVE, to=BOB), 409, "in_a_circle")


def test_a_vote_is_handed_on_three_times_at_most(client: httpx.Client) -> None:
    request_id = asked(client, BOB)
    people = [BOB, *(f"d{number}@example.com" for number in range(4))]
    for who, to in pairwise(people[:4]):
        assert command(client, request_id, "delegate", approver=who, to=to).status_code == 200
    refused(command(client, request_id, "delegate", approver=people[3], to=people[4]), 409, "handed_on_too_often")
    assert outcome(vote(client, request_id, people[3])) == "approved"
    [counted] = ended(client, request_id)["output"]["votes"]
    assert counted["on_behalf_of"] == BOB


def test_a_vote_that_was_cast_is_not_handed_on(client: httpx.Client) -> None:
    request_id = asked(client, BOB, CAROL, policy="all")
    vote(client, request_id, BOB)
    refused(command(client, request_id, "delegate"), 409, "already_voted")


# Withdrawing


def test_a_request_that_is_withdrawn_has_ended(client: httpx.Client, host: HostProcess) -> None:
    person = f"{uuid4().hex}@example.org"
    request_id = asked(client, BOB, person)
    answer = command(client, request_id, "withdraw", comments="No longer needed")
    assert (answer.status_code, answer.json()["phase"]) == (200, "withdrawn")
    assert answer.json()["outcome"] == "withdrawn"
    body = ended(client, request_id)
    assert (body["status"], body["output"]["status"]) == ("Withdrawn", "Withdrawn")
    assert (body["output"]["approver"], body["output"]["decided_at"]) == (None, None)
    late = vote(client, request_id, BOB)
    assert (late.status_code, late.json()["phase"]) == (410, "withdrawn")
    assert late.json()["detail"] == "The requester has withdrawn this."
    [mailed] = [each for each in told(client, request_id, "mailed") if each["detail"] == "withdrawn"]
    assert set(mailed["people"]) == {BOB, person}
    assert [each["actor"] for each in told(client, request_id, "late")] == [BOB]
    assert client.get("/api/waits", params={"person": person}).json()["waits"] == []


def test_a_request_is_withdrawn_while_changes_are_waited_for(client: httpx.Client) -> None:
    request_id = with_changes(client)
    assert command(client, request_id, "withdraw").status_code == 200
    assert ended(client, request_id)["status"] == "Withdrawn"


# Extending


def test_the_deadline_is_moved_on(client: httpx.Client) -> None:
    person = f"{uuid4().hex}@example.org"
    request_id = asked(client, person)
    before = datetime.fromisoformat(shown(client, request_id)["custom_status"]["deadline"])
    answer = command(client, request_id, "extend", extend_by="P1DT1H")
    assert answer.status_code == 200
    after = datetime.fromisoformat(answer.json()["deadline"])
    assert after - before == timedelta(hours=25)
    assert datetime.fromisoformat(shown(client, request_id)["custom_status"]["deadline"]) == after
    [wait] = client.get("/api/waits", params={"person": person}).json()["waits"]
    assert datetime.fromisoformat(wait["deadline"]) == after


def test_a_request_that_is_extended_waits_on_after_its_first_deadline(client: httpx.Client) -> None:
    request_id = asked(client, BOB, timeout_hours=0.0006)
    assert command(client, request_id, "extend").status_code == 200
    first = datetime.fromisoformat(shown(client, request_id)["created_at"]) + timedelta(hours=0.0006)
    other = asked(client, BOB, timeout_hours=0.0006)  # which began later, and is not extended
    assert ended(client, other)["status"] == "Timeout"
    assert datetime.fromisoformat(shown(client, other)["last_updated_at"]) > first
    assert outcome(vote(client, request_id, BOB)) == "approved"


def test_nothing_waits_longer_than_a_year(client: httpx.Client) -> None:
    request_id = asked(client, BOB)
    before = shown(client, request_id)["custom_status"]["deadline"]
    refused(command(client, request_id, "extend", extend_by=8760), 422, "too_long")
    assert shown(client, request_id)["custom_status"]["deadline"] == before
    assert command(client, request_id, "extend", extend_by=8759).status_code == 200


# Changes


def test_a_revised_request_is_a_new_round_in_which_old_votes_do_not_count(client: httpx.Client) -> None:
    request_id = asked(client, BOB, CAROL, policy="all", description="It is brown", details={"price": 5})
    vote(client, request_id, CAROL)
    before = vote(client, request_id, BOB, "request_changes", comments="Which colour?").json()
    assert before["phase"] == "waiting_for_changes"
    refused(vote(client, request_id, CAROL), 409, "not_waiting")
    refused(command(client, request_id, "delegate"), 409, "not_waiting")
    answer = command(client, request_id, "revise", item="A red desk", details={"price": 6})
    assert answer.status_code == 200
    until(lambda: shown(client, request_id)["custom_status"]["phase"] == "waiting_for_approval")
    standing = shown(client, request_id)["custom_status"]["standing"]
    assert (standing["round"], set(standing["seats"].values())) == (2, {None})
    assert outcome(vote(client, request_id, BOB)) == "pending"
    assert outcome(vote(client, request_id, CAROL)) == "approved"
    body = ended(client, request_id)
    assert (body["output"]["rounds"], body["output"]["item"]) == (2, "A red desk")
    [mailed] = [each for each in told(client, request_id, "mailed") if each["detail"] == "changes_requested"]
    assert mailed["people"] == [ALICE]


def test_a_vote_and_a_revision_at_the_wrong_time_change_nothing(client: httpx.Client) -> None:
    request_id = asked(client, BOB)
    refused(command(client, request_id, "revise"), 409, "not_waiting")
    assert outcome(vote(client, request_id, BOB)) == "approved"
    assert ended(client, request_id)["output"]["item"] == "A desk"


def test_a_revision_that_makes_it_too_long_is_refused(client: httpx.Client) -> None:
    request_id = with_changes(client, details={"a": "x" * 24_000})
    refused(command(client, request_id, "revise", description="y" * 4000), 422, "too_long")
    assert command(client, request_id, "revise", description="y").status_code == 200


# Reminding


def test_the_requester_is_reminded_of_the_changes(client: httpx.Client) -> None:
    request_id = with_changes(client)
    assert command(client, request_id, "remind").status_code == 200

    def sent() -> list[str]:
        mailed = [each for each in told(client, request_id, "mailed") if each["detail"] == "changes_requested"]
        return [who for each in mailed for who in each["people"]]

    until(lambda: sent() == [ALICE, ALICE])


def test_the_links_are_sent_again_to_all_who_have_yet_to_vote_or_to_one(client: httpx.Client) -> None:
    request_id = asked(client, BOB, CAROL, DAVE, policy="all")
    vote(client, request_id, CAROL)
    assert command(client, request_id, "remind").status_code == 200
    assert command(client, request_id, "remind", approver=DAVE.upper(), by=None).status_code == 200
    notes = [(each["actor"], each["people"]) for each in told(client, request_id, "reminded")]
    assert notes == [("Alice", [BOB, DAVE]), ("developer", [DAVE])]
    refused(command(client, request_id, "remind", approver=ERIN), 403, "not_asked")

    def sent() -> bool:
        mailed = [each for each in told(client, request_id, "mailed") if each["detail"] == "reminder"]
        return sorted(who for each in mailed for who in each["people"]) == sorted([BOB, DAVE, DAVE])

    until(sent)


def test_nobody_is_reminded_without_end(client: httpx.Client) -> None:
    request_id = asked(client, BOB)
    for _ in range(50):
        raise_event(client, request_id, {"by": "Mallory"}, "remind")
    until(lambda: len(told(client, request_id, "reminded")) == 50, seconds=40)
    refused(command(client, request_id, "remind"), 409, "too_often")
    assert len(told(client, request_id, "reminded")) == 50
    assert outcome(vote(client, request_id, BOB)) == "approved"
