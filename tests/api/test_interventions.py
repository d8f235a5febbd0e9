"""Interventions over HTTP: starting a guarded call, acting on it, listing those that wait, resolving many at once."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, get_args
from uuid import uuid4

import httpx
import pytest

from contracts.base import as_utc_text
from contracts.guarded_call import Refusal
from tests.polling import until
from triggers.guarded_call import REFUSALS

ANN, BEN = "ann@example.com", "ben@example.com"
FORM = {"type": "object", "properties": {"currency": {"enum": ["EUR", "USD"]}}, "required": ["currency"]}
GATE = "waiting_for_intervention"
GOING = ("PENDING", "RUNNING")
MANAGEMENT = "/runtime/webhooks/durabletask"


def body(**more: Any) -> dict[str, Any]:
    """A call that fails for ever, and is tried once."""
    simulated = {"kind": "simulated", "fails": 1000, "body": {"amount": 5}}
    given = {"name": "charge", "retry": {"attempts": 1}, "assigned_to": [ANN], "skippable": True, "editable": True}
    return {**given, **more, "call": more.get("call", simulated)}


def start(client: httpx.Client, **more: Any) -> str:
    """Start a guarded call, and give its id."""
    response = client.post("/api/interventions", json=body(**more))
    assert response.status_code == 202, response.text
    found: str = response.json()["intervention_id"]
    assert response.headers["location"].endswith(f"/api/interventions/{found}")
    return found


def shown(client: httpx.Client, intervention: str) -> dict[str, Any]:
    """What is shown of it."""
    told: dict[str, Any] = client.get(f"/api/interventions/{intervention}").raise_for_status().json()
    return told


def in_phase(client: httpx.Client, intervention: str, phase: str) -> dict[str, Any]:
    """What is shown of it once it is in a phase."""
    return until(lambda: told if (told := shown(client, intervention))["phase"] == phase else None)


def failed(client: httpx.Client, **more: Any) -> str:
    """Start one that gets to its gate."""
    intervention = start(client, **more)
    in_phase(client, intervention, GATE)
    return intervention


def ended(client: httpx.Client, intervention: str) -> dict[str, Any]:
    """What is shown of it once it has ended."""
    return until(lambda: told if (told := shown(client, intervention))["runtime_status"] not in GOING else None)


def act(client: httpx.Client, intervention: str, action: str, key: str | None = None, **said: Any) -> httpx.Response:
    """Do something, as Ann unless told otherwise."""
    headers = {"Idempotency-Key": key} if key is not None else {}
    json = {"by": ANN, "reason": "I know why", **said}
    return client.post(f"/api/interventions/{intervention}/{action}", json=json, headers=headers)


def refused(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Assert that something was refused for a reason, and give the problem."""
    assert response.status_code == status, response.text
    told: dict[str, Any] = response.json()
    assert told["code"] == code
    return told


def test_every_refusal_has_its_words() -> None:
    assert list(REFUSALS) == list(get_args(Refusal))


# One call


def test_a_call_that_works_is_shown_with_its_result(client: httpx.Client) -> None:
    intervention = start(client, call={"kind": "simulated", "result": {"id": 7}})
    told = ended(client, intervention)
    assert (told["status"], told["runtime_status"]) == ("Succeeded", "COMPLETED")
    assert told["output"]["result"] == {"id": 7}
    assert (told["actions"], told["attempts"], told["gate"]) == ([], [], None)
    assert [each["action"] for each in told["history"]] == ["started", "called", "ended"]


def test_a_call_that_failed_shows_its_attempts_and_what_can_be_done(client: httpx.Client) -> None:
    intervention = failed(client, retry={"attempts": 2, "first_interval": 0.01})
    told = shown(client, intervention)
    assert told["actions"] == ["retry", "edit", "skip", "fail"]
    assert (told["status"], told["name"], told["failed_attempts"]) == ("Pending", "charge", 2)
    assert [each["status"] for each in told["attempts"]] == [503, 503]
    assert told["attempts"][0]["message"]
    assert told["call"]["body"] == {"amount": 5}
    assert told["gate"]["attempts"] == 2
    assert told["deadline"] > told["created_at"]


def test_a_call_is_edited_and_tried_again_and_the_story_shows_what_was_changed(client: httpx.Client) -> None:
    call = {"kind": "simulated", "accepts": FORM, "body": {"currency": "EURO", "amount": 5}}
    intervention = failed(client, call=call, schema=FORM)
    response = act(client, intervention, "edit", body={"currency": "EUR", "amount": 5})
    assert response.status_code == 200
    assert response.json()["action"] == "edit"
    told = in_phase(client, intervention, "succeeded")
    (done,) = told["done"]
    assert (done["by"], done["reason"], done["action"], done["channel"]) == (ANN, "I know why", "edit", "api")
    assert [line for line in done["diff"] if line[0] in "+-"] == ['-   "currency": "EURO"', '+   "currency": "EUR"']
    assert told["call"]["body"] == {"currency": "EUR", "amount": 5}
    (edited,) = [each for each in told["history"] if each["action"] == "edited"]
    assert (edited["actor"], edited["comment"]) == (ANN, "I know why")


@pytest.mark.parametrize(
    ("action", "said", "phase"),
    [
        ("retry", {}, GATE),
        ("skip", {}, "skipped"),
        ("skip", {"result": {"id": 1}}, "skipped"),
        ("fail", {}, "failed"),
    ],
)
def test_each_action_is_answered_when_it_is_done(
    client: httpx.Client, action: str, said: dict[str, Any], phase: str
) -> None:
    intervention = failed(client)
    response = act(client, intervention, action, **said)
    assert response.status_code == 200, response.text
    told = ended(client, intervention) if phase != GATE else in_phase(client, intervention, phase)
    assert told["gate"]["last"]["action"] == action
    if action == "skip":
        assert told["output"]["result"] == said.get("result")
    if action == "fail":
        assert told["status"] == "Failed"
        assert "I know why" in told["error"]


@pytest.mark.parametrize(
    ("more", "action", "said", "status", "code"),
    [
        ({"skippable": False}, "skip", {}, 409, "not_allowed"),
        ({"editable": False}, "edit", {"body": {}}, 409, "not_allowed"),
        ({"max_operator_retries": 0}, "retry", {}, 409, "no_more_retries"),
        ({}, "retry", {"by": BEN}, 403, "not_assigned"),
        ({}, "retry", {"gate": 2}, 410, "old_gate"),
        ({}, "edit", {"body": {"amount": 5}}, 409, "unchanged"),
        ({"schema": FORM}, "edit", {"body": {"currency": "XXX"}}, 422, "body_wrong"),
        ({"schema": FORM}, "edit", {"body": 7}, 422, "body_wrong"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_reason(
    client: httpx.Client, *, more: dict[str, Any], action: str, said: dict[str, Any], status: int, code: str
) -> None:
    intervention = failed(client, **more)
    told = refused(act(client, intervention, action, **said), status, code)
    assert told["detail"].endswith(".")
    assert shown(client, intervention)["phase"] == GATE


def test_a_body_that_does_not_fit_is_told_field_by_field(client: httpx.Client) -> None:
    intervention = failed(client, schema=FORM)
    told = refused(act(client, intervention, "edit", body={"currency": "XXX"}), 422, "body_wrong")
    assert told["errors"][0]["field"] == "body.currency"


def test_a_body_can_be_edited_to_null_but_not_left_out(client: httpx.Client) -> None:
    intervention = failed(client)
    assert act(client, intervention, "edit").status_code == 422
    assert act(client, intervention, "edit", body=None).status_code == 200


def test_who_comes_second_is_told_who_was_first(client: httpx.Client) -> None:
    retry = {"attempts": 2, "first_interval": 3600, "max_interval": 3600, "give_up_on": [422]}
    call = {"kind": "simulated", "fails": 2, "status": 503, "accepts": FORM, "body": {"currency": "EUR"}}
    intervention = start(client, assigned_to=[ANN, BEN], retry=retry, call=call)
    in_phase(client, intervention, "waiting_to_retry")
    told = refused(act(client, intervention, "retry", by=BEN), 409, "not_waiting")
    assert (told["actions"], told["last"]) == ([], None)


def test_who_comes_while_it_is_tried_again_is_told_who_has_done_that(client: httpx.Client) -> None:
    # The first attempt is refused at once; after the edit, the server is away, and the next attempt is in an hour.
    retry = {"attempts": 2, "first_interval": 3600, "max_interval": 3600, "give_up_on": [422]}
    intervention = failed(client, assigned_to=[ANN, BEN], retry=retry | {"give_up_on": [503]})
    assert act(client, intervention, "retry").status_code == 200
    told = in_phase(client, intervention, GATE)
    assert told["gate"]["last"] == {**told["gate"]["last"], "action": "retry", "by": ANN}
    assert refused(act(client, intervention, "skip", by=BEN, gate=1), 410, "old_gate")


@pytest.mark.parametrize("action", ["retry", "edit", "skip", "fail"])
def test_what_comes_after_the_end_is_too_late_and_on_record(client: httpx.Client, action: str) -> None:
    intervention = failed(client)
    act(client, intervention, "skip")
    said: dict[str, Any] = {"body": {}} if action == "edit" else {}
    response = act(client, intervention, action, by=BEN, **said)
    assert response.status_code == 410
    assert response.json()["detail"] == "The call was skipped."
    late = [each for each in client.get(f"/api/audit/{intervention}").json()["entries"] if each["action"] == "late"]
    assert [(each["actor"], each["detail"]) for each in late] == [(BEN, action)]


def test_a_repetition_gets_the_same_answer_and_does_nothing_more(client: httpx.Client) -> None:
    intervention = failed(client)
    key = uuid4().hex
    answers = [act(client, intervention, "retry", key=key) for _ in range(3)]
    assert [each.status_code for each in answers] == [200, 200, 200]
    assert in_phase(client, intervention, GATE)["failed_attempts"] == 2
    response = act(client, intervention, "skip", key=key)
    assert response.status_code == 422
    assert "Idempotency-Key" in response.json()["detail"]


def test_of_fifty_at_once_one_retries(client: httpx.Client) -> None:
    intervention = failed(client, max_operator_retries=1)
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: act(client, intervention, "retry", gate=1), range(50)))
    assert sorted({each.status_code for each in answers}) in ([200, 409], [200, 410], [200, 409, 410])
    assert [each.status_code for each in answers].count(200) == 1
    assert in_phase(client, intervention, GATE)["failed_attempts"] == 2


def test_a_raw_event_counts_as_one_of_the_api(client: httpx.Client) -> None:
    intervention = failed(client)
    event = {"by": ANN, "reason": "From the dashboard", "result": 1}
    path = f"{MANAGEMENT}/instances/{intervention}/raiseEvent/skip"
    assert client.post(path, json=event).status_code == 202
    assert ended(client, intervention)["output"]["result"] == 1


def test_a_suspended_run_answers_later(client: httpx.Client) -> None:
    intervention = failed(client)
    client.post(f"{MANAGEMENT}/instances/{intervention}/suspend").raise_for_status()
    response = act(client, intervention, "skip")
    assert response.status_code == 202
    assert response.headers["location"].endswith(intervention)
    client.post(f"{MANAGEMENT}/instances/{intervention}/resume").raise_for_status()
    in_phase(client, intervention, "skipped")


def test_one_id_with_two_actions_is_refused(client: httpx.Client) -> None:
    intervention = failed(client)
    key = uuid4().hex
    assert act(client, intervention, "retry", key=key).status_code == 200
    response = act(client, intervention, "fail", key=key)
    assert response.status_code == 422
    assert "Idempotency-Key" in response.json()["detail"]
    assert in_phase(client, intervention, GATE)


def test_what_will_not_count_when_a_suspended_run_goes_on_is_refused(client: httpx.Client) -> None:
    intervention = failed(client, deadline="PT2S")
    client.post(f"{MANAGEMENT}/instances/{intervention}/suspend").raise_for_status()
    until(lambda: shown(client, intervention)["deadline"] < as_utc_text(datetime.now(UTC)))
    response = act(client, intervention, "skip")
    assert response.status_code == 410
    assert "suspended" in response.json()["detail"]


def test_so_is_what_comes_after_the_execution_timeout(client: httpx.Client) -> None:
    response = client.post("/api/interventions?executionTimeout=2", json=body())
    intervention = response.json()["intervention_id"]
    told = in_phase(client, intervention, GATE)
    client.post(f"{MANAGEMENT}/instances/{intervention}/suspend").raise_for_status()
    ends = datetime.fromisoformat(told["created_at"]) + timedelta(seconds=2.5)
    until(lambda: datetime.now(UTC) > ends)
    assert act(client, intervention, "skip").status_code == 410
    client.post(f"{MANAGEMENT}/instances/{intervention}/resume").raise_for_status()
    assert ended(client, intervention)["phase"] == "execution_timed_out"


def test_a_run_that_was_terminated_offers_nothing(client: httpx.Client) -> None:
    intervention = failed(client)
    client.post(f"{MANAGEMENT}/instances/{intervention}/terminate").raise_for_status()
    told = until(lambda: told if (told := shown(client, intervention))["status"] == "Terminated" else None)
    assert (told["actions"], told["gate"]["actions"]) == ([], [])


# Starting


def test_a_start_is_repeated_by_its_key(client: httpx.Client) -> None:
    headers = {"Idempotency-Key": uuid4().hex}
    first, again = (client.post("/api/interventions", json=body(), headers=headers) for _ in range(2))
    assert (first.status_code, again.status_code) == (202, 202)
    intervention = first.json()["intervention_id"]
    assert again.json()["intervention_id"] == intervention
    in_phase(client, intervention, GATE)
    act(client, intervention, "skip")
    ended(client, intervention)
    late = client.post("/api/interventions", json=body(), headers=headers)
    assert (late.status_code, late.json()["intervention_id"]) == (202, intervention)
    assert shown(client, intervention)["phase"] == "skipped"
    other = client.post("/api/interventions", json=body(name="another"), headers=headers)
    assert other.status_code == 422


@pytest.mark.parametrize("given", ["-1", "1000000000", "0"])
def test_a_timeout_that_is_a_number_is_told_its_bounds(client: httpx.Client, given: str) -> None:
    response = client.post(f"/api/interventions?executionTimeout={given}", json=body())
    assert response.status_code == 400
    assert "than" in response.json()["detail"], response.text


# What cannot be started


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"call": {"kind": "http", "url": "https://example.com/"}}, "call"),
        ({"call": {"kind": "http", "url": "http://example.com/"}}, "call"),
        ({"call": {"kind": "ftp"}}, "call"),
        ({"call": {"kind": "simulated", "fails": -1}}, "call.simulated.fails"),
        ({"schema": {"type": "object", "properties": {"x": {"type": "no type"}}}}, "schema"),
        ({"schema": {"type": "array"}}, "schema"),
        ({"schema": {"type": "object"}, "editable": False}, "(body)"),
        ({"on_deadline": "escalate"}, "(body)"),
        ({"on_deadline": "skip", "skippable": False}, "(body)"),
        ({"retry": {"attempts": 0}}, "retry.attempts"),
        ({"retry": {"attempts": 1_000_000}}, "retry.attempts"),
        ({"max_operator_retries": 21}, "max_operator_retries"),
        ({"deadline": 0}, "deadline"),
        ({"name": "two\nlines"}, "name"),
        ({"assigned_to": [ANN, "ANN@example.com"]}, "(body)"),
        ({"assigned_to": ["nobody"]}, "assigned_to.0.email"),
        ({"unknown": 1}, "unknown"),
        ({"intervention_id": "no/slash"}, "intervention_id"),
        ({"intervention_id": ".."}, "intervention_id"),
        ({"call": {"kind": "simulated", "body": "x" * 17_000}}, "call.simulated.body"),
    ],
)
def test_what_cannot_be_started_is_told_by_field(client: httpx.Client, more: dict[str, Any], field: str) -> None:
    response = client.post("/api/interventions", json=body(**more))
    assert response.status_code == 422, response.text
    assert response.json()["errors"][0]["field"] == field


def test_an_unknown_parameter_is_refused(client: httpx.Client) -> None:
    assert client.post("/api/interventions?executiontimeout=3", json=body()).status_code == 400


def test_nobody_is_found_under_an_id_of_another_workflow(client: httpx.Client) -> None:
    request = {"requester": "Alice", "item": "A desk", "timeout_hours": 1}
    other = client.post("/api/requests", json=request).json()["request_id"]
    assert client.get(f"/api/interventions/{other}").status_code == 404
    assert act(client, other, "retry").status_code == 404
    assert act(client, "nowhere", "retry").status_code == 404


# Many


def mine(client: httpx.Client, **query: Any) -> list[dict[str, Any]]:
    """All that wait, page by page."""
    found: list[dict[str, Any]] = []
    continuation = None
    while True:
        params = {"status": "waiting", "limit": 3, **query} | ({"continuation": continuation} if continuation else {})
        page = client.get("/api/interventions", params=params).raise_for_status().json()
        found += page["interventions"]
        continuation = page["continuation"]
        if continuation is None:
            return found


def unique() -> str:
    """A person whom nobody else has asked."""
    return f"{uuid4().hex}@example.com"


def test_those_that_wait_are_listed_oldest_first_page_by_page(client: httpx.Client) -> None:
    who = unique()
    started = [failed(client, assigned_to=[who]) for _ in range(4)]
    listed = mine(client, person=who.upper())
    assert [each["intervention_id"] for each in listed] == started
    assert listed[0]["actions"] == ["retry", "edit", "skip", "fail"]
    assert listed[0]["assigned_to"] == [who]
    fingerprint = shown(client, started[0])["gate"]["fingerprint"]
    assert {each["fingerprint"] for each in listed} == {fingerprint}
    act(client, started[1], "skip", by=who)
    assert [each["intervention_id"] for each in mine(client, person=who)] == [started[0], *started[2:]]
    by_cause = mine(client, person=who, fingerprint=fingerprint)
    assert [each["intervention_id"] for each in by_cause] == [started[0], *started[2:]]
    assert mine(client, person=who, fingerprint="0" * 16) == []


@pytest.mark.parametrize("query", [{"status": "all"}, {"limit": 0}, {"limit": 101}, {"fingerprint": "x"}, {"kind": 1}])
def test_a_list_is_asked_for_in_known_words(client: httpx.Client, query: dict[str, Any]) -> None:
    assert client.get("/api/interventions", params=query).status_code == 400


def test_a_continuation_of_another_list_is_refused(client: httpx.Client) -> None:
    who = unique()
    for _ in range(2):
        failed(client, assigned_to=[who])
    page = client.get("/api/interventions", params={"person": who, "limit": 1}).json()
    response = client.get("/api/interventions", params={"continuation": page["continuation"]})
    assert response.status_code == 400


def resolve(client: httpx.Client, fingerprint: str, action: str, key: str = "", **said: Any) -> httpx.Response:
    """Do the same with all."""
    json = {"fingerprint": fingerprint, "action": action, "by": ANN, "reason": "The bank is back", **said}
    headers = {"Idempotency-Key": key} if key else {}
    return client.post("/api/interventions/resolve", json=json, headers=headers)


def same_error(client: httpx.Client, status: int, how_many: int, **more: Any) -> tuple[list[str], str]:
    """Start some that fail in a way of their own, and give the fingerprint."""
    call = {"kind": "simulated", "fails": 1, "status": status, "body": {"amount": 5}}
    started = [failed(client, call=call, **more) for _ in range(how_many)]
    return started, shown(client, started[0])["gate"]["fingerprint"]


def test_all_that_wait_on_one_error_are_resolved_with_a_result_each(client: httpx.Client) -> None:
    started, fingerprint = same_error(client, 561, 5)
    (other,), _ = same_error(client, 561, 1, assigned_to=[BEN])
    answer = resolve(client, fingerprint, "retry").raise_for_status().json()
    assert (answer["resolved"], answer["more"]) == (5, False)
    results = {each["intervention_id"]: each for each in answer["results"]}
    assert {results[each]["outcome"] for each in started} == {"taken"}
    assert (results[other]["outcome"], results[other]["code"], results[other]["status"]) == (
        "refused",
        "not_assigned",
        403,
    )
    for each in started:
        in_phase(client, each, "succeeded")
    assert shown(client, other)["phase"] == GATE


def test_resolving_twice_with_one_key_does_it_once(client: httpx.Client) -> None:
    call = {"kind": "simulated", "fails": 9, "status": 562}
    intervention = failed(client, call=call)
    fingerprint = shown(client, intervention)["gate"]["fingerprint"]
    key = uuid4().hex
    for _ in range(2):
        assert resolve(client, fingerprint, "retry", key).json()["resolved"] == 1
        in_phase(client, intervention, GATE)
    assert shown(client, intervention)["failed_attempts"] == 2


def test_nothing_waits_on_an_unknown_error(client: httpx.Client) -> None:
    assert resolve(client, "f" * 16, "retry").json()["results"] == []


@pytest.mark.parametrize(
    ("action", "said"),
    [
        ("retry", {"body": {}}),
        ("edit", {}),
        ("fail", {"result": 1}),
        ("explode", {}),
        ("skip", {"reason": ""}),
        ("skip", {"by": ""}),
        ("skip", {"fingerprint": "*"}),
    ],
)
def test_a_resolution_that_makes_no_sense_is_refused(client: httpx.Client, action: str, said: dict[str, Any]) -> None:
    assert resolve(client, said.pop("fingerprint", "f" * 16), action, **said).status_code == 422


@pytest.mark.parametrize(
    ("action", "said", "phase"),
    [
        ("skip", {"result": {"id": 9}}, "skipped"),
        ("fail", {}, "failed"),
        ("edit", {"body": {"amount": 6}}, "succeeded"),
    ],
)
def test_each_action_can_be_done_with_all(client: httpx.Client, action: str, said: dict[str, Any], phase: str) -> None:
    status = {"skip": 571, "fail": 572, "edit": 573}[action]
    started, fingerprint = same_error(client, status, 2)
    assert resolve(client, fingerprint, action, **said).json()["resolved"] == 2
    for each in started:
        told = ended(client, each)
        assert told["phase"] == phase
        if action == "skip":
            assert told["output"]["result"] == {"id": 9}
