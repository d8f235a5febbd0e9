"""Requests for approval over HTTP: what the body may say, the policies, the votes, and the story that is told."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.hosting import HostProcess, host_process
from tests.polling import until

BOB, CAROL, DAVE, ERIN = (f"{name}@example.com" for name in ("bob", "carol", "dave", "erin"))
ALICE = "Alice@Example.com"
REQUEST: dict[str, Any] = {"requester": "Alice", "requester_email": ALICE, "item": "A desk", "timeout_hours": 1}
MANAGEMENT = "/runtime/webhooks/durabletask"
FORM: dict[str, Any] = {
    "type": "object",
    "properties": {"cost_center": {"type": "string", "minLength": 4}, "amount": {"type": "number", "minimum": 1}},
    "required": ["cost_center"],
    "additionalProperties": False,
}


def asked(client: httpx.Client, *approvers: Any, **changes: Any) -> str:
    """Start a request, and give its id when it waits."""
    body = REQUEST | ({"approvers": list(approvers)} if approvers else {}) | changes
    response = client.post("/api/requests", json=body)
    assert response.status_code == 202, response.text
    request_id: str = response.json()["request_id"]
    until(lambda: (shown(client, request_id)["custom_status"] or {}).get("phase") == "waiting_for_approval")
    return request_id


def shown(client: httpx.Client, request_id: str) -> dict[str, Any]:
    """What GET /api/requests/{id} shows."""
    body: dict[str, Any] = client.get(f"/api/requests/{request_id}").raise_for_status().json()
    return body


def ended(client: httpx.Client, request_id: str) -> dict[str, Any]:
    """What is shown at the end."""
    return until(lambda: body if (body := shown(client, request_id))["output"] or body["error"] else None)


def told(client: httpx.Client, request_id: str, *actions: str) -> list[dict[str, Any]]:
    """What the history tells, of some actions or of all."""
    history = shown(client, request_id)["history"]
    return [each for each in history if not actions or each["action"] in actions]


def post(client: httpx.Client, path: str, body: dict[str, Any], key: str | None = None) -> httpx.Response:
    """Post JSON, perhaps with an Idempotency-Key."""
    return client.post(path, json=body, headers={"Idempotency-Key": key} if key is not None else {})


def vote(client: httpx.Client, request_id: str, who: str, said: str = "approve", **more: Any) -> httpx.Response:
    """Vote."""
    key = more.pop("key", None)
    return post(client, f"/api/approvals/{request_id}", {"approver": who, "vote": said} | more, key)


def outcome(response: httpx.Response) -> str:
    """The outcome in the answer to something that was taken."""
    assert response.status_code == 200, response.text
    said: str = response.json()["outcome"]
    return said


def refused(response: httpx.Response, status: int, code: str) -> str:
    """Assert that something was refused for a reason, and give the words."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json().get("code") == code, response.text
    detail: str = response.json()["detail"]
    assert detail.endswith(".")
    return detail


def raise_event(client: httpx.Client, request_id: str, payload: Any, event: str = "decision") -> None:
    """Raise a raw event through the management API."""
    path = f"{MANAGEMENT}/instances/{request_id}/raiseEvent/{event}"
    assert client.post(path, json=payload).status_code == 202


def at_once(host: HostProcess, calls: int, call: Any) -> list[Any]:
    """Call something many times at the same moment, each time with a client of its own and a number."""

    def one(number: int) -> Any:
        with host.client() as own:
            return call(own, number)

    with ThreadPoolExecutor(calls) as threads:
        return list(threads.map(one, range(calls)))


# The body

PEOPLE: dict[str, Any] = {"approvers": [BOB, CAROL]}
GOOD: list[dict[str, Any]] = [
    {"timeout_hours": 0.5},
    {"timeout_hours": "PT1H"},
    {"timeout_hours": "P365D"},
    {"timeout_hours": 8760},
    {"timeout_hours": "P1W"},
    {"title": "Ä desk 李"},
    {"description": "two\nlines"},
    {"details": {"price": 5, "lines": [{"text": "<b>"}], "nothing": None}},
    {"approvers": [BOB]},
    {"approvers": [{"email": BOB}, {"email": CAROL, "name": "Carol"}]},
    {"approvers": [{"email": BOB, "delegate": {"to": DAVE, "from": "2026-01-01", "until": "2036-01-01"}}]},
    {"approvers": [{"email": BOB, "delegate": {"to": {"email": DAVE, "name": "Dave"}}}]},
    {"approvers": [f"p{number}@example.com" for number in range(50)]},
    PEOPLE | {"policy": "any"},
    PEOPLE | {"policy": "all"},
    PEOPLE | {"policy": "sequential"},
    PEOPLE | {"policy": {"quorum": 2}},
    {"policy": [{"approvers": [BOB]}, {"approvers": [CAROL, DAVE], "policy": {"quorum": 1}, "reject_after": 2}]},
    PEOPLE | {"reject_after": 2},
    {"approvers": [ALICE, BOB], "allow_self_approval": True},
    {"approvers": [ALICE, BOB]},
    {"require_comment_on": ["reject"]},
    {"require_comment_on": ["reject", "approve"]},
    {"form": FORM},
    PEOPLE | {"reminders": 24},
    PEOPLE | {"reminders": "P1D"},
    PEOPLE | {"reminders": {"every": 24, "max": 3}},
    PEOPLE | {"reminders": {"at": [1, "PT90M"]}},
    PEOPLE | {"reminders": [1, 2, 12]},
    {"on_timeout": "reject"},
    {"on_timeout": "approve"},
    {"on_timeout": "fail"},
    PEOPLE | {"on_timeout": "escalate", "escalation": [{"approvers": [DAVE], "timeout_hours": "P1D"}]},
    {"second_factor": "mail_code"} | PEOPLE,
    {"title": None, "approvers": [], "reminders": None, "form": None, "callback_url": None, "details": None},
]


@pytest.mark.parametrize("change", GOOD, ids=json.dumps)
def test_what_a_request_may_say(client: httpx.Client, change: dict[str, Any]) -> None:
    request_id = asked(client, **change)
    given = shown(client, request_id)["input"]
    for name in ("title", "description", "details", "policy", "reject_after", "form", "on_timeout", "second_factor"):
        if not (name == "policy" and isinstance(change.get(name), list)):
            assert given[name] == change.get(name, given[name])
    assert client.post(f"/api/requests/{request_id}/withdraw", json={"by": "Alice"}).status_code == 200


BAD: list[tuple[dict[str, Any], str]] = [
    ({"requester": None}, "requester"),
    ({"requester": "  "}, "requester"),
    ({"requester": "x" * 255}, "requester"),
    ({"requester": "a\nb"}, "requester"),
    ({"requester": 5}, "requester"),
    ({"requester_email": "alice"}, "requester_email"),
    ({"requester_email": "a@b@c"}, "requester_email"),
    ({"item": "x" * 201}, "item"),
    ({"item": ""}, "item"),
    ({"title": "a\nb"}, "title"),
    ({"title": ""}, "title"),
    ({"description": "x" * 4001}, "description"),
    ({"description": "\x00"}, "description"),
    ({"details": [1]}, "details"),
    ({"details": "x"}, "details"),
    ({"details": {"a": {"b": {"c": {"d": {"e": {"f": {"g": 1}}}}}}}}, "details"),
    ({"details": {"x": "y" * 28_000}}, "(body)"),
    ({"timeout_hours": "1 day"}, "timeout_hours"),
    ({"timeout_hours": "P1Y"}, "timeout_hours"),
    ({"timeout_hours": "P1M"}, "timeout_hours"),
    ({"timeout_hours": "PT0S"}, "timeout_hours"),
    ({"timeout_hours": "P366D"}, "timeout_hours"),
    ({"timeout_hours": True}, "timeout_hours"),
    ({"timeout_hours": None}, "timeout_hours"),
    ({"timeout_hours": [1]}, "timeout_hours"),
    ({"approvers": BOB}, "approvers"),
    ({"approvers": ["bob"]}, "approvers.0.email"),
    ({"approvers": [BOB, {"name": "Carol"}]}, "approvers.1.email"),
    ({"approvers": [{"email": BOB, "phone": "1"}]}, "approvers.0.phone"),
    ({"approvers": [{"email": BOB, "delegate": {"to": "dave"}}]}, "approvers.0.delegate.to.email"),
    ({"approvers": [{"email": BOB, "delegate": {"to": DAVE, "from": "soon"}}]}, "approvers.0.delegate.from"),
    (
        {"approvers": [{"email": BOB, "delegate": {"to": DAVE, "from": "2026-02-01", "until": "2026-01-01"}}]},
        "approvers.0.delegate",
    ),
    ({"approvers": [BOB, BOB.upper()]}, "(body)"),
    ({"approvers": [f"p{number}@example.com" for number in range(51)]}, "approvers"),
    ({"approvers": [ALICE.upper()]}, "(body)"),
    ({"approvers": [ALICE, BOB], "policy": {"quorum": 2}}, "(body)"),
    ({"approvers": [BOB], "policy": {"quorum": 2}}, "(body)"),
    ({"policy": "all"}, "(body)"),
    ({"reject_after": 1}, "(body)"),
    (PEOPLE | {"reject_after": 0}, "reject_after"),
    (PEOPLE | {"policy": [{"approvers": [DAVE]}]}, "(body)"),
    ({"policy": [{"approvers": [DAVE]}], "reject_after": 1}, "(body)"),
    ({"allow_self_approval": "yes"}, "allow_self_approval"),
    ({"require_comment_on": ["abstain"]}, "require_comment_on.0"),
    ({"require_comment_on": "reject"}, "require_comment_on"),
    ({"form": {"type": "array"}}, "form"),
    ({"form": {"type": "object", "properties": {"a": {"type": "text"}}}}, "form"),
    ({"form": {"type": "object", "properties": {"a": {"$ref": "http://x/"}}}}, "form"),
    ({"form": {"type": "object", "properties": {"a": {"type": "string", "pattern": "(a+)+$"}}}}, "form"),
    ({"on_timeout": "accept"}, "on_timeout"),
    ({"on_timeout": "escalate"}, "(body)"),
    (PEOPLE | {"escalation": [{"approvers": [DAVE], "timeout_hours": 1}]}, "(body)"),
    (PEOPLE | {"on_timeout": "escalate", "escalation": [{"approvers": [DAVE]}]}, "escalation.0.timeout_hours"),
    (
        PEOPLE | {"on_timeout": "escalate", "escalation": [{"approvers": [], "timeout_hours": 1}]},
        "escalation.0.approvers",
    ),
    (
        PEOPLE | {"on_timeout": "escalate", "escalation": [{"approvers": [DAVE], "timeout_hours": 8760}]},
        "(body)",
    ),
    ({"callback_url": "ftp://example.com"}, "callback_url"),
    ({"callback_url": "example.com"}, "callback_url"),
    ({"callback_url": "https://example.com/"}, "callback_url"),
    ({"second_factor": "sms"}, "second_factor"),
    ({"request_id": "a b"}, "request_id"),
    ({"request_id": "x" * 101}, "request_id"),
    ({"idempotency_key": "a b"}, "idempotency_key"),
    ({"idempotency_key": ""}, "idempotency_key"),
    ({"mailbox": BOB}, "mailbox"),
    ({"approver": BOB}, "approver"),
]


@pytest.mark.parametrize(("change", "field"), BAD, ids=[json.dumps(change)[:60] for change, _ in BAD])
def test_what_a_request_may_not_say_is_named_and_nothing_is_started(
    client: httpx.Client, change: dict[str, Any], field: str
) -> None:
    request_id = f"bad-{uuid4()}"
    response = client.post("/api/requests", json={"request_id": request_id} | REQUEST | change)
    assert response.status_code == 422, response.text
    errors = response.json()["errors"]
    assert any(error["field"] == field for error in errors), errors
    assert all(error["message"] and "Traceback" not in error["message"] for error in errors)
    assert client.get(f"/api/requests/{request_id}").status_code == 404


@pytest.mark.parametrize("name", ["policy", "reminders"])
@pytest.mark.parametrize(
    "value", [5.5, "most", {"quorum": 0}, {"quorum": "2"}, {"every": 0}, {"at": []}, [0], [], [[]]]
)
def test_a_bad_policy_and_bad_reminders_are_named_by_their_field(client: httpx.Client, name: str, value: Any) -> None:
    if name == "reminders" and value == 5.5:
        value = {"every": 1, "max": 367}
    response = client.post("/api/requests", json=REQUEST | PEOPLE | {name: value})
    assert response.status_code == 422, response.text
    assert all(error["field"].split(".")[0] == name for error in response.json()["errors"])


@pytest.mark.parametrize("body", [b"", b"{", b"requester=Alice", b"\xff", b'{"requester": "\xff"}'])
def test_what_is_no_json_is_400(client: httpx.Client, body: bytes) -> None:
    response = client.post("/api/requests", content=body)
    assert (response.status_code, response.json()["title"]) == (400, "Bad request")


def test_a_body_that_is_too_long_is_413(client: httpx.Client) -> None:
    assert client.post("/api/requests", content=b" " * (256 * 1024 + 1)).status_code == 413


def test_no_page_of_another_site_starts_or_decides_anything(client: httpx.Client) -> None:
    request_id = asked(client, BOB)
    headers = {"Sec-Fetch-Site": "cross-site"}
    assert client.post("/api/requests", json=REQUEST, headers=headers).status_code == 403
    body = {"approver": BOB, "vote": "approve"}
    assert client.post(f"/api/approvals/{request_id}", json=body, headers=headers).status_code == 403
    for verb in ("delegate", "withdraw", "extend", "revise", "remind"):
        path = f"/api/requests/{request_id}/{verb}"
        assert client.post(path, json={"by": "Alice"}, headers=headers).status_code == 403
    assert [each["action"] for each in told(client, request_id)][:2] == ["started", "asked"]
    assert told(client, request_id, "voted", "withdrawn", "refused") == []


# The calls of the short form


def test_the_short_form_waits_for_anybody_but_the_requester(client: httpx.Client, host: HostProcess) -> None:
    answer = client.post("/api/requests", json={"requester": "Alice", "item": "Vacation Request", "timeout_hours": 1})
    request = answer.json()
    assert (answer.status_code, answer.headers["location"]) == (202, request["status_url"])
    assert set(request) == {"request_id", "approval_url", "status_url"}
    body: dict[str, Any] = {"is_approved": True, "approver": "Manager", "comments": "Approved!"}
    refused(client.post(request["approval_url"], json=body | {"approver": " aLICE "}), 403, "own_request")
    answer = client.post(request["approval_url"], json=body)
    assert outcome(answer) == "approved"
    assert answer.json()["decided_by"] == "Manager"
    assert answer.json()["vote"] == "approve"
    story = ended(client, request["request_id"])
    assert story["output"] | {"trail": None, "votes": None} == {
        "status": "Approved",
        "requester": "Alice",
        "item": "Vacation Request",
        "approver": "Manager",
        "comments": "Approved!",
        "decided_at": answer.json()["decided_at"],
        "rounds": 1,
        "votes": None,
        "trail": None,
    }
    [people] = {tuple(each["people"]) for each in story["history"] if each["action"] in ("asked", "mailed")}
    assert people == ("approvals@example.com",)


def test_the_mailbox_of_the_short_form_is_mailed_a_link(client: httpx.Client, host: HostProcess) -> None:
    request_id = asked(client, item=f"Item {uuid4()}")
    until(lambda: told(client, request_id, "mailed"))
    item = shown(client, request_id)["input"]["item"]
    [mail] = [text for file in (host.data / "outbox").glob("*.eml") if item in (text := unfolded(file))]
    assert re.search(rf"{re.escape(host.url)}/approve/[\w.-]+", mail)
    assert "approvals@example.com" in mail
    for secret in ("/runtime/", "?code=", "/api/approvals"):
        assert secret not in mail


def unfolded(file: Path) -> str:
    """A mail as text without the line breaks of its encoding."""
    return file.read_text().replace("=\n", "").replace("=3D", "=")


# Policies

EACH: list[tuple[dict[str, Any], list[tuple[str, str]], str]] = [
    ({"policy": "any"}, [(BOB, "approve")], "approved"),
    ({"policy": "any"}, [(BOB, "reject")], "rejected"),
    ({"policy": "any"}, [(BOB, "abstain"), (CAROL, "approve")], "approved"),
    ({"policy": "any"}, [(BOB, "abstain"), (CAROL, "abstain"), (DAVE, "abstain")], "rejected"),
    ({"policy": "any", "reject_after": 2}, [(BOB, "reject"), (CAROL, "approve")], "approved"),
    ({"policy": "any", "reject_after": 2}, [(BOB, "reject"), (CAROL, "reject")], "rejected"),
    ({"policy": "all"}, [(DAVE, "approve"), (BOB, "approve"), (CAROL, "approve")], "approved"),
    ({"policy": "all"}, [(DAVE, "approve"), (BOB, "abstain"), (CAROL, "approve")], "approved"),
    ({"policy": "all"}, [(DAVE, "approve"), (BOB, "reject")], "rejected"),
    ({"policy": {"quorum": 2}}, [(DAVE, "approve"), (BOB, "approve")], "approved"),
    ({"policy": {"quorum": 2}}, [(DAVE, "approve"), (BOB, "reject"), (CAROL, "approve")], "approved"),
    ({"policy": {"quorum": 2}}, [(DAVE, "reject"), (BOB, "reject")], "rejected"),
    ({"policy": {"quorum": 2}, "reject_after": 1}, [(DAVE, "reject")], "rejected"),
    ({"policy": {"quorum": 2}}, [(DAVE, "abstain"), (BOB, "abstain")], "rejected"),
    ({"policy": "sequential"}, [(BOB, "approve"), (CAROL, "approve"), (DAVE, "approve")], "approved"),
    ({"policy": "sequential"}, [(BOB, "approve"), (CAROL, "reject")], "rejected"),
    (
        {"policy": [{"approvers": [BOB]}, {"approvers": [CAROL, DAVE], "policy": "all"}]},
        [(BOB, "approve"), (DAVE, "approve"), (CAROL, "approve")],
        "approved",
    ),
    ({"policy": [{"approvers": [BOB]}, {"approvers": [CAROL]}]}, [(BOB, "reject")], "rejected"),
    ({"policy": [{"approvers": [BOB]}, {"approvers": [CAROL]}]}, [(BOB, "approve"), (CAROL, "reject")], "rejected"),
    ({"policy": [{"approvers": [BOB]}, {"approvers": [BOB]}]}, [(BOB, "approve"), (BOB, "approve")], "approved"),
]


@pytest.mark.parametrize(("change", "votes", "result"), EACH, ids=range(len(EACH)))
def test_each_policy_ends_with_the_vote_that_decides_it_and_no_earlier(
    client: httpx.Client, change: dict[str, Any], votes: list[tuple[str, str]], result: str
) -> None:
    people = () if isinstance(change["policy"], list) else (BOB, CAROL, DAVE)
    request_id = asked(client, *people, **change)
    *earlier, (last, said) = votes
    for who, choice in earlier:
        answer = vote(client, request_id, who, choice)
        assert outcome(answer) == "pending"
        assert (answer.json()["decided_by"], answer.json()["decided_at"]) == (None, None)
        assert shown(client, request_id)["status"] == "Pending"
    answer = vote(client, request_id, last.upper(), said, comments="So it is")
    assert outcome(answer) == result
    by_itself = result == "rejected" and said == "abstain"  # nobody rejected it, but it can no longer be approved
    assert answer.json()["decided_by"] == ("(automatic)" if by_itself else last)
    body = ended(client, request_id)
    assert (body["status"], body["output"]["approver"]) == (result.capitalize(), None if by_itself else last)
    assert [(each["by"], each["vote"]) for each in body["rounds"][0]["votes"]] == votes


def test_in_a_sequence_the_next_is_asked_when_the_one_before_has_voted(client: httpx.Client) -> None:
    first, second = (f"{uuid4().hex}@example.org" for _ in range(2))
    request_id = asked(client, first, second, policy="sequential")

    def waiting(who: str) -> list[str]:
        found = client.get("/api/waits", params={"person": who, "limit": 100}).json()["waits"]
        return [wait["instance_id"] for wait in found]

    assert request_id in waiting(first)
    assert request_id not in waiting(second)
    refused(vote(client, request_id, second), 403, "not_yet")
    vote(client, request_id, first)
    assert request_id not in waiting(first)
    assert request_id in waiting(second)
    until(lambda: [each["people"] for each in told(client, request_id, "mailed")] == [[first], [second]])


def test_the_second_group_is_nobodys_business_before_the_first_has_approved(client: httpx.Client) -> None:
    request_id = asked(client, policy=[{"approvers": [BOB]}, {"approvers": [CAROL]}])
    refused(vote(client, request_id, CAROL), 403, "not_asked")
    assert outcome(vote(client, request_id, BOB)) == "pending"
    assert [(each["people"], each.get("detail")) for each in told(client, request_id, "asked")] == [
        ([BOB], None),
        ([CAROL], "stage 2"),
    ]
    refused(vote(client, request_id, BOB), 403, "not_asked")
    assert outcome(vote(client, request_id, CAROL)) == "approved"


def test_who_has_yet_to_vote_is_in_the_list_of_waits(client: httpx.Client) -> None:
    people = [f"{uuid4().hex}@example.org" for _ in range(3)]
    requester = f"{uuid4().hex}@example.org"
    request_id = asked(client, *people, policy="all", requester_email=requester)

    def waiting() -> list[bool]:
        answers = [client.get("/api/waits", params={"person": who.upper()}).json()["waits"] for who in people]
        return [request_id in [wait["instance_id"] for wait in answer] for answer in answers]

    assert waiting() == [True, True, True]
    vote(client, request_id, people[1])
    assert waiting() == [True, False, True]
    other = f"{uuid4().hex}@example.org"
    client.post(f"/api/requests/{request_id}/delegate", json={"approver": people[0], "to": other})
    people[0] = other
    assert waiting() == [True, False, True]
    vote(client, request_id, people[2], "request_changes", comments="Which one?")
    assert waiting() == [False, False, False]
    [wait] = client.get("/api/waits", params={"person": requester}).json()["waits"]
    assert (wait["instance_id"], wait["actions"]) == (request_id, ["revise", "withdraw"])
    client.post(f"/api/requests/{request_id}/withdraw", json={"by": requester})
    assert client.get("/api/waits", params={"person": requester}).json()["waits"] == []


# Votes


def test_only_who_is_asked_may_vote(client: httpx.Client) -> None:
    request_id = asked(client, BOB)
    for who in (CAROL, "Bob", "Manager", f"x{BOB}", "bob@example.co"):
        refused(vote(client, request_id, who), 403, "not_asked")
    assert [(each["actor"], each["detail"]) for each in told(client, request_id, "refused")][:1] == [
        (CAROL, "not_asked")
    ]
    assert outcome(vote(client, request_id, f"  {BOB.upper()} ")) == "approved"


@pytest.mark.parametrize("who", ["Alice", "ALICE", " alice\t".strip("\t"), ALICE, ALICE.upper(), ALICE.lower()])
@pytest.mark.parametrize("approvers", [(), (ALICE, BOB)])
def test_the_requester_does_not_decide_by_whatever_door(
    client: httpx.Client, who: str, approvers: tuple[str, ...]
) -> None:
    request_id = asked(client, *approvers)
    refused(vote(client, request_id, who), 403, "own_request")
    raise_event(client, request_id, {"is_approved": True, "approver": who})
    found = until(lambda: each if len(each := told(client, request_id, "refused")) == 2 else None)
    assert [(each["channel"], each["detail"]) for each in found] == [("api", "own_request"), ("event", "own_request")]
    body = shown(client, request_id)
    assert (body["status"], body["custom_status"]["decision"]) == ("Pending", None)
    assert told(client, request_id, "voted") == []


def test_the_requester_decides_where_the_request_says_so(client: httpx.Client) -> None:
    request_id = asked(client, ALICE, allow_self_approval=True)
    assert outcome(vote(client, request_id, ALICE.lower())) == "approved"


def test_a_vote_may_change_until_it_is_decided_and_the_history_keeps_both(client: httpx.Client) -> None:
    request_id = asked(client, BOB, CAROL, DAVE, policy={"quorum": 2})
    assert outcome(vote(client, request_id, BOB, "reject", comments="Too dear")) == "pending"
    assert outcome(vote(client, request_id, BOB.upper(), "approve", comments="Cheap enough")) == "pending"
    raise_event(client, request_id, {"is_approved": True, "approver": CAROL})
    body = ended(client, request_id)
    votes = [(each["by"], each["vote"], each.get("comment"), each["channel"]) for each in body["rounds"][0]["votes"]]
    assert votes == [
        (BOB, "reject", "Too dear", "api"),
        (BOB, "approve", "Cheap enough", "api"),
        (CAROL, "approve", None, "event"),
    ]
    counted = [(each["by"], each["vote"]) for each in body["output"]["votes"]]
    assert counted == [(BOB, "approve"), (CAROL, "approve")]
    assert all(each["at"].endswith("Z") for each in body["rounds"][0]["votes"])


def test_after_the_decision_everybody_is_told_who_decided_what_and_when(client: httpx.Client) -> None:
    request_id = asked(client, BOB, CAROL)
    taken = vote(client, request_id, BOB, "reject", comments="No").json()
    for who, choice in ((CAROL, "approve"), (BOB, "approve"), (DAVE, "abstain")):
        late = vote(client, request_id, who, choice)
        assert late.status_code == 409
        document = late.json()
        assert document["type"] == "urn:countersign:problem:already-decided"
        assert (document["decided_by"], document["outcome"]) == (BOB, "rejected")
        assert document["decided_at"] == taken["decided_at"]
        assert document["detail"] == f"{BOB} rejected this at {taken['decided_at']}."
    assert [each["vote"] for each in ended(client, request_id)["rounds"][0]["votes"]] == ["reject"]


def test_fifty_people_at_the_same_moment_and_one_decides(client: httpx.Client, host: HostProcess) -> None:
    people = [f"p{number}@example.com" for number in range(50)]
    request_id = asked(client, *people)
    answers = at_once(
        host, 50, lambda own, number: vote(own, request_id, people[number], ["approve", "reject"][number % 2])
    )
    taken = [answer for answer in answers if answer.status_code == 200]
    assert len(taken) == 1, [answer.status_code for answer in answers]
    winner = taken[0].json()
    assert winner["outcome"] in ("approved", "rejected")
    others = [answer for answer in answers if answer.status_code != 200]
    assert {answer.status_code for answer in others} == {409}
    assert {answer.json().get("decided_by") for answer in others} == {winner["decided_by"]}
    assert {answer.json().get("outcome") for answer in others} == {winner["outcome"]}
    body = ended(client, request_id)
    assert (body["output"]["approver"], len(body["output"]["votes"])) == (winner["decided_by"], 1)
    assert [each["action"] for each in body["history"]].count("decided") == 1


def test_two_approvers_at_the_same_moment_both_count_where_both_are_needed(
    client: httpx.Client, host: HostProcess
) -> None:
    request_id = asked(client, BOB, CAROL, policy="all")
    answers = at_once(host, 2, lambda own, number: vote(own, request_id, (BOB, CAROL)[number]))
    assert [answer.status_code for answer in answers] == [200, 200]
    assert "approved" in {answer.json()["outcome"] for answer in answers}
    assert ended(client, request_id)["status"] == "Approved"


def test_fifty_votes_of_one_person_are_one_vote(client: httpx.Client, host: HostProcess) -> None:
    request_id = asked(client, BOB, CAROL, policy="all")
    answers = at_once(host, 50, lambda own, _: vote(own, request_id, BOB))
    assert {answer.status_code for answer in answers} <= {200, 202, 409}
    assert {answer.json().get("code") for answer in answers if answer.status_code == 409} <= {"too_often"}
    body = shown(client, request_id)
    assert (body["status"], body["custom_status"]["decision"]) == ("Pending", None)
    assert len(body["rounds"][0]["votes"]) == 20  # each is kept, up to so many
    assert outcome(vote(client, request_id, CAROL)) == "approved"
    assert [each["by"] for each in ended(client, request_id)["output"]["votes"]] == [BOB, CAROL]


def test_one_vote_sent_twenty_times_with_its_key_is_one_vote(client: httpx.Client, host: HostProcess) -> None:
    request_id = asked(client, BOB, CAROL, policy="all")
    answers = at_once(host, 20, lambda own, _: vote(own, request_id, BOB, key="the-vote"))
    assert [answer.status_code for answer in answers] == [200] * 20
    assert len(shown(client, request_id)["rounds"][0]["votes"]) == 1
    assert outcome(vote(client, request_id, CAROL)) == "approved"
    again = vote(client, request_id, BOB, key="the-vote")
    assert (again.status_code, again.json()["outcome"]) == (200, "approved")
    other = vote(client, request_id, BOB, "reject", key="the-vote")
    assert other.status_code == 422
    assert "Idempotency-Key" in other.json()["detail"]


def test_a_refusal_is_the_same_for_whoever_repeats_it(client: httpx.Client) -> None:
    request_id = asked(client, BOB)
    words = {refused(vote(client, request_id, CAROL, key="mine"), 403, "not_asked") for _ in range(3)}
    assert len(words) == 1
    assert len(told(client, request_id, "refused")) == 1


@pytest.mark.parametrize("key", ["with blank", "x" * 129, "ü"])
def test_a_key_that_cannot_be_is_400(client: httpx.Client, key: str) -> None:
    headers = {b"Idempotency-Key": key.encode()}
    body = {"approver": BOB, "vote": "approve"}
    assert client.post("/api/approvals/nobody", json=body, headers=headers).status_code == 400
    assert client.post("/api/requests", json=REQUEST, headers=headers).status_code == 400


def test_a_comment_that_is_needed_is_asked_for(client: httpx.Client) -> None:
    request_id = asked(client, BOB, require_comment_on=["reject"])
    for comments in ({}, {"comments": None}, {"comments": " \n "}):
        refused(vote(client, request_id, BOB, "reject", **comments), 422, "comment_needed")
    refused(vote(client, request_id, BOB, "request_changes"), 422, "comment_needed")
    assert outcome(vote(client, request_id, BOB)) == "approved"


def test_a_form_is_checked_before_an_approval_is_taken(client: httpx.Client) -> None:
    request_id = asked(client, BOB, form=FORM)
    wrongs: list[tuple[Any, set[str]]] = [
        (None, {"answers.cost_center"}),
        ({}, {"answers.cost_center"}),
        ({"cost_center": "12"}, {"answers.cost_center"}),
        ({"cost_center": "1234", "amount": 0}, {"answers.amount"}),
        ({"cost_center": "1234", "more": 1}, {"answers"}),
    ]
    for answers, fields in wrongs:
        response = vote(client, request_id, BOB, answers=answers)
        refused(response, 422, "answers_wrong")
        assert {error["field"] for error in response.json()["errors"]} == fields
    raise_event(client, request_id, {"is_approved": True, "approver": BOB, "answers": {"cost_center": "12"}})
    until(lambda: [each["detail"] for each in told(client, request_id, "refused")] == ["answers_wrong"])
    assert vote(client, request_id, BOB, "reject", answers={"cost_center": "1234"}).status_code == 422
    answers = {"cost_center": "1234", "amount": 5}
    assert outcome(vote(client, request_id, BOB, answers=answers)) == "approved"
    assert ended(client, request_id)["output"]["votes"][0]["answers"] == answers
    assert vote(client, request_id, BOB, answers={}).status_code == 409


def test_answers_without_a_form_are_refused(client: httpx.Client) -> None:
    request_id = asked(client, BOB)
    response = vote(client, request_id, BOB, answers={"a": 1})
    assert (response.status_code, "no form" in response.json()["detail"]) == (422, True)
    assert shown(client, request_id)["status"] == "Pending"


def test_a_suspended_request_takes_the_vote_later(client: httpx.Client) -> None:
    request_id = asked(client, BOB)
    instance = f"{MANAGEMENT}/instances/{request_id}"
    assert client.post(f"{instance}/suspend").status_code == 202
    until(lambda: shown(client, request_id)["runtime_status"] == "SUSPENDED")
    answer = vote(client, request_id, BOB, key="while-suspended")
    assert (answer.status_code, answer.headers["location"]) == (202, answer.json()["status_url"])
    assert shown(client, request_id)["status"] == "Pending"
    assert client.post(f"{instance}/resume").status_code == 202
    assert ended(client, request_id)["status"] == "Approved"
    assert outcome(vote(client, request_id, BOB, key="while-suspended")) == "approved"


# The time that is up


@pytest.mark.parametrize(
    ("on_timeout", "status"), [("reject", "Timeout"), ("approve", "Approved"), ("fail", "Failed"), (None, "Timeout")]
)
def test_what_comes_of_it_when_the_time_is_up(client: httpx.Client, on_timeout: str | None, status: str) -> None:
    changes = {"on_timeout": on_timeout} if on_timeout else {}
    request_id = asked(client, BOB, timeout_hours=0.0003, **changes)
    body = ended(client, request_id)
    assert body["status"] == status
    assert [each["action"] for each in body["history"]].count("timed_out") == 1
    late = vote(client, request_id, BOB, comments="Sorry")
    if status == "Approved":
        assert (late.status_code, late.json()["decided_by"]) == (409, "(automatic)")
        assert [each["actor"] for each in told(client, request_id, "late")] == [BOB]
        return
    assert late.status_code == 410
    assert late.json()["type"] == "urn:countersign:problem:too-late"
    [noted] = told(client, request_id, "late")
    assert (noted["actor"], noted["detail"], noted["comment"], noted["channel"]) == (BOB, "approve", "Sorry", "api")
    assert ended(client, request_id)["output"] == body["output"]


def test_when_the_time_is_up_the_next_level_is_asked(client: httpx.Client) -> None:
    levels = [{"approvers": [CAROL], "timeout_hours": 0.0004}, {"approvers": [DAVE], "timeout_hours": 1}]
    request_id = asked(client, BOB, timeout_hours=0.0004, on_timeout="escalate", escalation=levels)
    until(lambda: len(told(client, request_id, "escalated")) == 2)
    refused(vote(client, request_id, BOB), 403, "not_asked")
    assert outcome(vote(client, request_id, DAVE)) == "approved"
    body = ended(client, request_id)
    assert [(each["people"], each["detail"]) for each in body["rounds"][0]["escalations"]] == [
        ([CAROL], "level 1"),
        ([DAVE], "level 2"),
    ]
    assert [each["action"] for each in body["history"]].count("timed_out") == 2


def test_a_standing_delegation_is_applied_when_people_are_asked(client: httpx.Client) -> None:
    away = {"email": BOB, "delegate": {"to": {"email": DAVE, "name": "Dave"}, "from": "2020-01-01"}}
    back = {"email": CAROL, "delegate": {"to": ERIN, "until": "2020-01-01"}}
    request_id = asked(client, away, back, policy="all")
    [note] = told(client, request_id, "delegated")
    assert (note["on_behalf_of"], note["people"], note["detail"]) == (BOB, [DAVE], "standing delegation")
    refused(vote(client, request_id, BOB), 403, "handed_over")
    refused(vote(client, request_id, ERIN), 403, "not_asked")
    assert outcome(vote(client, request_id, DAVE)) == "pending"
    assert outcome(vote(client, request_id, CAROL)) == "approved"
    [first, _] = ended(client, request_id)["output"]["votes"]
    assert (first["by"], first["on_behalf_of"]) == (DAVE, BOB)


# The same request again


@pytest.mark.parametrize("where", ["header", "body", "both"])
def test_the_same_request_with_the_same_key_is_the_same_run(client: httpx.Client, where: str) -> None:
    key = f"key-{uuid4()}"
    in_body = {"header": {}, "body": {"idempotency_key": key}, "both": {"idempotency_key": "of-the-body"}}[where]
    header = None if where == "body" else key
    answers = [post(client, "/api/requests", REQUEST | PEOPLE | in_body, header) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [202] * 3
    assert len({answer.text for answer in answers}) == 1
    request_id = answers[0].json()["request_id"]
    assert key not in request_id
    other = post(client, "/api/requests", REQUEST | PEOPLE | in_body | {"item": "Two desks"}, header)
    assert (other.status_code, "Idempotency-Key" in other.json()["detail"]) == (422, True)
    until(lambda: told(client, request_id, "mailed"))
    assert len(told(client, request_id, "started")) == 1
    assert shown(client, request_id)["input"]["item"] == "A desk"
    assert outcome(vote(client, request_id, BOB)) == "approved"
    ended(client, request_id)
    again = post(client, "/api/requests", REQUEST | PEOPLE | in_body, header)
    assert (again.status_code, again.json()["request_id"]) == (202, request_id)
    assert shown(client, request_id)["status"] == "Approved"


def test_a_key_and_an_id_go_together(client: httpx.Client) -> None:
    name, key = f"desk-{uuid4()}", f"key-{uuid4()}"
    body = REQUEST | {"request_id": name}
    for _ in range(2):
        answer = post(client, "/api/requests", body, key)
        assert (answer.status_code, answer.json()["request_id"]) == (202, name)
    assert post(client, "/api/requests", body, f"other-{key}").status_code == 409
    assert post(client, "/api/requests", body).status_code == 409
    assert post(client, "/api/requests", body | {"item": "Two desks"}, key).status_code == 422


def test_the_same_request_twenty_times_at_the_same_moment_is_one_run(client: httpx.Client, host: HostProcess) -> None:
    key = f"key-{uuid4()}"
    answers = at_once(host, 20, lambda own, _: post(own, "/api/requests", REQUEST | PEOPLE, key))
    assert [answer.status_code for answer in answers] == [202] * 20
    [request_id] = {answer.json()["request_id"] for answer in answers}
    until(lambda: told(client, request_id, "mailed"))
    assert [each["action"] for each in told(client, request_id)] == ["started", "asked", "mailed"]


def test_without_a_key_each_request_is_one_of_its_own(client: httpx.Client) -> None:
    first, second = (post(client, "/api/requests", REQUEST).json()["request_id"] for _ in range(2))
    assert first != second


def test_a_key_does_not_give_away_the_run_of_another_workflow(client: httpx.Client) -> None:
    name = f"order-{uuid4()}"
    order = {"order_id": "1", "cost": 500, "product": "W", "quantity": 2, "instance_id": name}
    assert client.post("/start-purchase-order", json=order).status_code == 202
    assert post(client, "/api/requests", REQUEST | {"request_id": name}, "a-key").status_code == 409


# The story


def test_the_story_is_told_whole_and_in_order(client: httpx.Client) -> None:
    request_id = asked(client, BOB, CAROL, policy="all")
    path = f"/api/requests/{request_id}"
    assert client.post(f"{path}/remind", json={"by": "Alice"}).status_code == 200
    vote(client, request_id, BOB, "approve", comments="Nice")
    assert client.post(f"{path}/delegate", json={"approver": CAROL, "to": DAVE, "comments": "Away"}).status_code == 200
    vote(client, request_id, DAVE, "request_changes", comments="Which colour?")
    assert client.post(f"{path}/revise", json={"by": "Alice", "item": "A red desk", "comments": "Red"}).is_success
    refused(vote(client, request_id, DAVE), 403, "not_asked")
    vote(client, request_id, CAROL)
    assert client.post(f"{path}/extend", json={"by": ALICE, "extend_by": "PT1H"}).status_code == 200
    assert outcome(vote(client, request_id, BOB)) == "approved"
    body = ended(client, request_id)
    # Without the mails, which nothing stands still for.
    without_mails = [each for each in body["history"] if each["action"] != "mailed"]
    assert [(each["action"], each.get("actor"), each.get("comment")) for each in without_mails] == [
        ("started", "Alice", None),
        ("asked", None, None),
        ("reminded", "Alice", None),
        ("voted", BOB, "Nice"),
        ("delegated", CAROL, "Away"),
        ("voted", DAVE, "Which colour?"),
        ("changes_requested", DAVE, None),
        ("revised", "Alice", "Red"),
        ("asked", None, None),
        ("refused", DAVE, None),
        ("voted", CAROL, None),
        ("extended", ALICE, None),
        ("voted", BOB, None),
        ("decided", BOB, None),
        ("ended", None, None),
    ]
    times = [each["at"] for each in body["history"]]
    assert times == sorted(times)
    first, second = body["rounds"]
    assert (first["round"], second["round"]) == (1, 2)
    assert [(vote["by"], vote["vote"], vote.get("on_behalf_of")) for vote in first["votes"]] == [
        (BOB, "approve", None),
        (DAVE, "request_changes", CAROL),
    ]
    assert [each["people"] for each in first["asked"]] == [[BOB, CAROL]]
    assert [(each["people"], each["channel"]) for each in first["reminders"]] == [([BOB, CAROL], "api")]
    assert [(each["actor"], each["people"], each["channel"]) for each in first["delegations"]] == [
        (CAROL, [DAVE], "api")
    ]
    assert [vote["by"] for vote in second["votes"]] == [CAROL, BOB]
    assert (first["mail_failed"], first["escalations"]) == ([], [])
    assert {each["detail"] for each in first["mails"]} == {"asked", "reminder", "delegated", "changes_requested"}
    assert (body["output"]["rounds"], body["output"]["item"]) == (2, "A red desk")


def test_while_the_records_are_away_the_rest_is_shown(tmp_path: Path) -> None:
    file, aside = tmp_path / "records.db", tmp_path / "aside"
    with host_process(tmp_path) as host, host.client() as client:
        request_id = asked(client, BOB)
        until(lambda: shown(client, request_id)["custom_status"]["trail"]["stored"] == 3)
        before = shown(client, request_id)
    aside.mkdir()
    for each in tmp_path.glob("records.db*"):
        each.rename(aside / each.name)
    file.mkdir()
    with host_process(tmp_path) as host, host.client() as client:
        response = client.get(f"/api/requests/{request_id}")
        assert response.status_code == 200
        body = response.json()
        assert (body.pop("rounds"), body.pop("history")) == (None, None)
        assert body["custom_status"] == before["custom_status"]
        assert (body["status"], body["input"]) == ("Pending", before["input"])
        file.rmdir()
        for each in aside.iterdir():
            each.rename(tmp_path / each.name)
        after = until(lambda: found if (found := shown(client, request_id))["history"] else None)
        assert (after["rounds"], after["history"]) == (before["rounds"], before["history"])


@pytest.mark.parametrize("verb", ["", "/delegate", "/withdraw", "/extend", "/revise", "/remind"])
def test_get_starts_nothing_and_a_get_of_a_command_is_none(client: httpx.Client, verb: str) -> None:
    request_id = asked(client, BOB)
    until(lambda: shown(client, request_id)["custom_status"]["trail"]["stored"] == 3)
    before = shown(client, request_id)
    assert client.get(f"/api/requests/{request_id}{verb}").status_code == (404 if verb else 200)
    assert shown(client, request_id) == before


def test_no_answer_mail_or_log_holds_a_key_a_token_or_an_address_of_the_management(tmp_path: Path) -> None:
    with host_process(tmp_path, "--keys", environment={"AUTH": "keys"}) as host:
        keys = re.findall(r'"([\w+/=-]{30,})"', (tmp_path / "keys.json").read_text())
        assert keys
        given = ("execution:start", "execution:read", "approval:decide", "approval:admin", "audit:read")
        key = host.key("root@example.com", *given)
        keys.append(key.split("_", 2)[2])
        with host.client() as bare:
            assert bare.post("/api/requests", json=REQUEST).status_code == 401
        headers = {"Authorization": f"Bearer {key}"}
        with httpx.Client(base_url=host.url, headers=headers, trust_env=False, timeout=20) as client:
            request_id = asked(client, BOB, CAROL, policy="all", second_factor="mail_code", allow_self_approval=True)
            path = f"/api/requests/{request_id}"
            answers = [
                client.post(f"{path}/delegate", json={"approver": CAROL, "to": DAVE}),
                client.post(f"{path}/remind", json={"by": "Alice"}),
                vote(client, request_id, BOB),
                vote(client, request_id, ERIN),
                vote(client, request_id, DAVE, "reject"),
                vote(client, request_id, DAVE),
            ]
            assert [answer.status_code for answer in answers] == [200, 200, 200, 403, 200, 409]
            ended(client, request_id)
            answers += [client.get(path), client.get("/api/waits"), client.get(f"/api/audit/{request_id}")]
        mails = [unfolded(file) for file in (tmp_path / "outbox").glob("*.eml")]
        tokens = {token for mail in mails for token in re.findall(r"/approve/([\w.~-]{20,})", mail)}
        assert len(mails) >= 5
        assert len(tokens) >= 4
        log = host.log.read_text()
        for text in (*(answer.text for answer in answers), *mails, log):
            assert not [key for key in keys if key in text]
            assert text is log or "/runtime/webhooks" not in text
        for text in (*(answer.text for answer in answers), log):
            assert not [token for token in tokens if token in text]
