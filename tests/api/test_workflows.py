"""Declared workflows over HTTP: storing, reading and running them, and answering the steps that wait."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any, cast
from uuid import uuid4

import azure.functions as func
import httpx
import pytest
from azure.durable_functions import DurableFunctionsClient

from errors import CountersignError
from local_host.testing import AppControl, running_app
from services import clock
from services.identity import Caller, Permission, calling
from services.record_store import close_record_store
from settings import get_settings
from tests.api.starting import configuration_of
from tests.hosting import ROOT
from triggers.reconcile import reconcile_records
from triggers.windows import WORKFLOWS
from triggers.workflow import store_workflow
from triggers.workflow_block import answer_block

ANN, BEN = "ann@example.com", "ben@example.com"
SEED: dict[str, Any] = {
    "description": "High-value orders need an approval",
    "input_schema": {"type": "object", "properties": {"amount": {"type": "number"}}, "required": ["amount"]},
    "steps": [
        {
            "id": "check-amount",
            "type": "condition",
            "condition": {"field": "amount", "operator": ">", "value": 10000},
            "on_true": "require-approval",
            "on_false": "auto-approve",
        },
        {
            "id": "require-approval",
            "type": "action",
            "action": {"type": "block", "reason": "Requires manager approval"},
        },
        {"id": "auto-approve", "type": "action", "action": {"type": "complete", "status": "Auto-Approved"}},
    ],
}


def asking(**more: Any) -> dict[str, Any]:
    """A definition of one step that waits for people."""
    action = {"type": "block", "reason": "Please look", "approvers": [ANN, BEN], **more}
    return {"steps": [{"id": "ask", "type": "action", "action": action, "next": "end"}, END]}


END = {"id": "end", "type": "action", "action": {"type": "complete", "output": "{{execution.version}}"}}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[AppControl, httpx.Client]]:
    """One app for all tests of the module, whose workflows do not meet."""
    data = tmp_path_factory.mktemp("app")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_HOST_DATA", str(data))
        patch.setenv("DECISION_WAIT_SECONDS", "10")
        get_settings.cache_clear()
        close_record_store()
        with running_app(ROOT, data) as control, httpx.Client(base_url=control.url, trust_env=False) as client:
            clock.set_clock(lambda: control.now)
            try:
                yield control, client
            finally:
                clock.set_clock(clock.system_clock)
    get_settings.cache_clear()
    close_record_store()


@pytest.fixture
def client(app: tuple[AppControl, httpx.Client]) -> httpx.Client:
    """An HTTP client of the app."""
    return app[1]


@pytest.fixture
def control(app: tuple[AppControl, httpx.Client]) -> AppControl:
    """The hub, and its clock."""
    return app[0]


def stored(client: httpx.Client, definition: dict[str, Any], name: str | None = None) -> str:
    """Store a definition, and give its name."""
    name = name or f"w{uuid4().hex[:12]}"
    response = client.post("/api/v1/workflows", json={"name": name, **definition})
    assert response.status_code in (200, 201), response.text
    return name


def started(
    app: tuple[AppControl, httpx.Client], definition: dict[str, Any], data: dict[str, Any] | None = None
) -> str:
    """Start a run of a definition, and give its id when nothing happens any more."""
    control, client = app
    response = client.post(f"/api/v1/workflows/{stored(client, definition)}/executions", json={"input": data or {}})
    assert response.status_code == 202, response.text
    execution_id: str = response.json()["execution_id"]
    control.settle()
    return execution_id


def resume(client: httpx.Client, execution_id: str, data: Any, key: str | None = None) -> httpx.Response:
    """Resume a run with data."""
    headers = {"Idempotency-Key": key} if key is not None else {}
    return client.post(f"/api/v1/executions/{execution_id}/resume", json={"resume_data": data}, headers=headers)


def fields(response: httpx.Response) -> dict[str, str]:
    """What an answer of 422 says is wrong, by its field."""
    assert response.status_code == 422, response.text
    return {each["field"]: each["message"] for each in response.json()["errors"]}


# Storing and reading


def test_versions_count_from_one_and_the_same_content_is_no_new_one(client: httpx.Client) -> None:
    name, other = f"w{uuid4().hex[:12]}", {**SEED, "description": "Ünlike 🦊"}
    answers = [client.post("/api/v1/workflows", json={"name": name, **each}) for each in (SEED, SEED, other, SEED)]
    assert [(each.status_code, each.json()["version"]) for each in answers] == [(201, 1), (200, 1), (201, 2), (201, 3)]
    assert answers[2].headers["location"].endswith(f"/api/v1/workflows/{name}?version=2")
    assert answers[2].json()["executions_url"].endswith(f"/api/v1/workflows/{name}/executions")
    newest, second = (client.get(f"/api/v1/workflows/{name}", params=each).json() for each in ({}, {"version": 2}))
    assert newest == newest | SEED | {"name": name, "version": 3, "created_by": "developer"}
    assert second == second | other | {"version": 2}
    assert datetime.fromisoformat(newest["created_at"]).tzinfo is not None


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/v1/workflows/nothing", 404),
        ("/api/v1/workflows/{}?version=2", 404),
        ("/api/v1/workflows/{}?version=0", 400),
        ("/api/v1/workflows/{}?version=x", 400),
        ("/api/v1/workflows/a b", 400),
        ("/api/v1/workflows?limit=101", 400),
        ("/api/v1/workflows?continuation=a%2Fb", 400),
    ],
)
def test_what_is_not_there_is_told(client: httpx.Client, path: str, status: int) -> None:
    name = stored(client, SEED, "only-once")
    response = client.get(path.format(name))
    assert response.status_code == status, response.text
    assert response.json()["detail"].endswith(".")


def test_the_list_is_paged_by_name_with_the_newest_versions(client: httpx.Client) -> None:
    names = [f"page-{each}" for each in ("B", "a", "a.b", "a:b")]
    for name in names:
        stored(client, SEED, name)
    stored(client, SEED | {"description": "new"}, "page-a")
    found: list[dict[str, Any]] = []
    continuation: str | None = "page-"
    while continuation is not None:
        page = client.get("/api/v1/workflows", params={"limit": 2, "continuation": continuation}).json()
        assert page["count"] == len(page["workflows"]) <= 2
        found, continuation = found + page["workflows"], page["continuation"]
    listed = [each for each in found if each["name"].startswith("page-")]
    assert [(each["name"], each["version"]) for each in listed] == [
        ("page-B", 1),
        ("page-a", 2),
        ("page-a.b", 1),
        ("page-a:b", 1),
    ]
    assert (listed[1]["description"], listed[1]["created_by"]) == ("new", "developer")


def test_a_definition_that_is_wrong_is_refused_with_all_that_is_wrong(client: httpx.Client) -> None:
    wrong = json.loads(json.dumps(SEED))
    wrong["steps"][0]["on_true"] = "x"
    wrong["steps"][1]["action"]["timeout_hours"] = 0
    name = f"w{uuid4().hex[:12]}"
    told = fields(client.post("/api/v1/workflows", json={"name": name, **wrong}))
    assert told == {
        "steps.1.action.timeout_hours": "step 'require-approval': Input should be greater than 0",
        "steps.0.on_true": "step 'check-amount': there is no step 'x'",
    }
    assert client.get(f"/api/v1/workflows/{name}").status_code == 404


def test_what_the_settings_do_not_allow_is_refused_too(client: httpx.Client) -> None:
    bad = {"type": "object", "properties": {"x": {"type": "nonsense"}}}
    request = {"requester": "a", "item": "b", "timeout_hours": 1, "callback_url": "https://evil.example/x", "form": bad}
    steps = [
        {"id": "a", "type": "action", "action": {"type": "approve", "request": request}, "next": "b"},
        {
            "id": "b",
            "type": "action",
            "action": {"type": "call", "request": {"call": {"kind": "http", "url": "http://169.254.169.254/"}}},
            "next": "c",
        },
        {"id": "c", "type": "action", "action": {"type": "block", "reason": "x", "schema": bad}, "next": "d"},
        {"id": "d", "type": "action", "action": {"type": "wait_event", "name": "x", "schema": bad}},
    ]
    told = fields(client.post("/api/v1/workflows", json={"name": "evil", "steps": steps, "input_schema": bad}))
    assert list(told) == [
        "input_schema",
        "steps.0.action.request.form",
        "steps.0.action.request.callback_url",
        "steps.1.action.request.call",
        "steps.2.action.schema",
        "steps.3.action.schema",
    ]
    assert told["steps.1.action.request.call"].startswith("step 'b': ")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[" * 100_000, 400),
        (b"[]", 422),
        (b'{"name": "x", "steps": ' + b"[" * 500 + b"]" * 500 + b"}", 422),
        (b'{"name": "x", "steps": [{"id": NaN}]}', 422),
        (b'{"name": "x", "steps": [' + b"9" * 5_000 + b"]}", 400),
        (b" " * 300_000, 413),
    ],
)
def test_what_is_no_definition_is_refused(client: httpx.Client, body: bytes, status: int) -> None:
    assert client.post("/api/v1/workflows", content=body).status_code == status


# Running


def test_the_amount_check_pauses_above_and_completes_after_approval(
    app: tuple[AppControl, httpx.Client], client: httpx.Client
) -> None:
    name = stored(client, SEED)
    body = {"input": {"amount": 10001}, "execution_id": f"{name}-1"}
    response = client.post(f"/api/v1/workflows/{name}/executions", json=body)
    assert response.status_code == 202
    told = response.json()
    assert told == told | {"id": f"{name}-1", "execution_id": f"{name}-1", "workflow_id": name, "version": 1}
    assert response.headers["location"] == told["status_url"]
    assert told["status_url"].endswith(f"/api/v1/executions/{name}-1")
    app[0].settle()
    shown = client.get(f"/api/v1/executions/{name}-1").json()
    assert (shown["status"], shown["workflow_id"]) == ("paused", name)
    assert (shown["paused_reason"], shown["paused_step_id"]) == ("Requires manager approval", "require-approval")
    for data in ({}, {"approved": "true"}, {"approved": None}, {"approved": 1}):
        assert list(fields(resume(client, f"{name}-1", data))) == ["resume_data.approved"]
    response = resume(client, f"{name}-1", {"approved": True, "approver": "Mary", "comments": "ok", "po": 5}, "k1")
    assert response.status_code == 200, response.text
    assert response.json()["result"]["decided_by"] == "Mary"
    app[0].settle()
    assert client.get(f"/api/v1/executions/{name}-1").json()["status"] == "completed"
    output = app[0].output(f"{name}-1")
    assert (output["status"], output["data"]["po"]) == ("Completed", 5)
    assert resume(client, f"{name}-1", {"approved": True, "approver": "Eve"}).status_code == 409


def test_up_to_the_amount_it_completes_at_once(app: tuple[AppControl, httpx.Client]) -> None:
    assert app[0].output(started(app, SEED, {"amount": 10000}))["status"] == "Auto-Approved"


def test_a_run_keeps_the_version_that_it_began_with(app: tuple[AppControl, httpx.Client]) -> None:
    control, client = app
    name = stored(client, asking())
    run = f"/api/v1/workflows/{name}/executions"
    first = client.post(run, json={}).json()["execution_id"]
    control.settle()
    stored(client, {"steps": [END]}, name)
    assert control.output(client.post(run, json={}).json()["execution_id"])["output"] == 2
    again = client.post(run, json={"version": 1}).json()
    control.settle()
    for execution_id in (first, again["execution_id"]):
        assert resume(client, execution_id, {"approved": True, "approver": ANN}).status_code == 200
        assert control.output(execution_id)["output"] == 1
    assert client.post(run, json={"version": 3}).status_code == 404


def test_an_input_that_does_not_fit_starts_nothing(client: httpx.Client) -> None:
    run = f"/api/v1/workflows/{stored(client, SEED)}/executions"
    assert fields(client.post(run, json={"input": {"amount": "12000"}})) == {
        "input.amount": "'12000' is not of type 'number'"
    }
    assert fields(client.post(run, json={})) == {"input.amount": "it is needed"}
    reserved = fields(client.post(run, json={"input": {"amount": 1, "steps": {}, "execution": 1}}))
    assert list(reserved) == ["input.steps", "input.execution"]
    assert list(fields(client.post(run, json={"input": {"amount": 1, "x": "y" * 64_000}}))) == ["input"]
    assert client.post("/api/v1/workflows/nothing/executions", json={}).status_code == 404
    assert client.post(f"{run}?startAt=yesterday", json={"input": {"amount": 1}}).status_code == 400


def test_the_same_start_twice_is_one_run_also_after_a_new_version(app: tuple[AppControl, httpx.Client]) -> None:
    client = app[1]
    name, key = stored(client, asking()), {"Idempotency-Key": uuid4().hex}
    run = f"/api/v1/workflows/{name}/executions"
    first = client.post(run, json={"input": {"a": 1}}, headers=key).json()
    stored(client, {"steps": [END]}, name)
    assert client.post(run, json={"input": {"a": 1}}, headers=key).json()["execution_id"] == first["execution_id"]
    assert client.post(run, json={"input": {"a": 2}}, headers=key).status_code == 422
    assert client.post(run, json={"input": {"a": 1}, "version": 1}, headers=key).status_code == 422
    taken = client.post(run, json={"execution_id": first["execution_id"]})
    assert (taken.status_code, taken.json()["workflow"]) == (409, "workflow")


def test_the_options_of_a_start_hold_here_too(app: tuple[AppControl, httpx.Client]) -> None:
    control, client = app
    name = stored(client, asking())
    execution_id = client.post(f"/api/v1/workflows/{name}/executions?executionTimeout=60", json={}).json()["id"]
    control.settle()
    control.advance(timedelta(seconds=61))
    assert control.state(execution_id).runtime_status.name == "FAILED"


# Answers


def test_only_who_is_asked_may_answer(app: tuple[AppControl, httpx.Client]) -> None:
    execution_id = started(app, asking())
    refused = resume(app[1], execution_id, {"approved": True, "approver": "eve@example.com"})
    assert (refused.status_code, refused.json()["code"]) == (403, "not_asked")
    assert resume(app[1], execution_id, {"approved": True}).status_code == 403  # the developer is nobody of them
    assert resume(app[1], execution_id, {"approved": True, "approver": BEN.upper()}).status_code == 200


def test_data_are_held_against_the_schema_of_the_step(app: tuple[AppControl, httpx.Client]) -> None:
    schema = {"type": "object", "properties": {"cost": {"type": "integer"}}, "required": ["cost"]}
    execution_id = started(app, asking(schema=schema))
    said = {"approved": True, "approver": ANN}
    wrong = resume(app[1], execution_id, {**said, "cost": "5", "steps": 1})
    assert fields(wrong) == {
        "resume_data.cost": "'5' is not of type 'integer'",
        "resume_data.steps": "this name is for what the run itself says",
    }
    assert list(fields(resume(app[1], execution_id, {**said, "cost": 5, "comments": 5}))) == ["resume_data.comments"]
    assert list(fields(resume(app[1], execution_id, {**said, "cost": 5, "approver": 5}))) == ["resume_data.approver"]
    assert resume(app[1], execution_id, {**said, "cost": 5}).status_code == 200


def test_of_many_answers_at_once_one_is_taken_and_the_others_are_told_whose(
    app: tuple[AppControl, httpx.Client],
) -> None:
    execution_id = started(app, asking())

    def answer(number: int) -> httpx.Response:
        who = (ANN, BEN)[number % 2]
        return resume(app[1], execution_id, {"approved": number % 2 == 0, "approver": who})

    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(answer, range(6)))
    assert sorted(each.status_code for each in answers) == [200, 409, 409, 409, 409, 409]
    taken = next(each for each in answers if each.status_code == 200).json()["result"]["decided_by"]
    entries = app[1].get(f"/api/audit/{execution_id}").json()["entries"]
    assert [each["actor"] for each in entries if each["action"] == "decided"] == [taken]


def test_the_same_answer_again_is_answered_the_same(app: tuple[AppControl, httpx.Client]) -> None:
    schema = {"type": "object", "required": ["cost"]}
    again = {**asking(schema=schema)["steps"][0], "id": "again"}
    two = {"steps": [{**asking()["steps"][0], "next": "again"}, again, END]}
    execution_id = started(app, two)
    said = {"approved": True, "approver": ANN}
    answers = [resume(app[1], execution_id, said, "first") for _ in range(2)]
    assert [each.status_code for each in answers] == [200, 200]
    assert app[0].status(execution_id)["step"] == "again"  # the second one did not count for the next step
    other = resume(app[1], execution_id, {"approved": False, "approver": ANN}, "first")
    assert other.status_code == 422
    assert app[0].status(execution_id)["step"] == "again"


def test_an_event_comes_by_a_resume(app: tuple[AppControl, httpx.Client]) -> None:
    wait = {"id": "wait", "type": "action", "action": {"type": "wait_event", "name": "payment"}, "next": "end"}
    execution_id = started(app, {"steps": [wait, {**END, "action": {"type": "complete"}}]})
    shown = app[1].get(f"/api/v1/executions/{execution_id}").json()
    assert (shown["status"], shown["paused_reason"]) == ("paused", "Awaiting the event 'payment'")
    assert resume(app[1], execution_id, {"payment_status": "completed"}).status_code == 200
    assert app[0].output(execution_id)["data"]["payment_status"] == "completed"


def test_a_run_that_does_not_wait_takes_no_answer(app: tuple[AppControl, httpx.Client]) -> None:
    rest = {"id": "rest", "type": "action", "action": {"type": "delay", "duration": "PT1H"}}
    execution_id = started(app, {"steps": [rest]})
    assert resume(app[1], execution_id, {"approved": True}).status_code == 409
    error = by(app[0], execution_id, {"approved": True})
    assert isinstance(error, CountersignError)
    assert (error.status, error.members["code"]) == (409, "not_waiting")


# Paused, and what it has called

FORM = {"type": "object", "properties": {"cost": {"type": "integer"}}, "required": ["cost"]}


def shown(client: httpx.Client, execution_id: str) -> dict[str, Any]:
    """What the API shows of a run."""
    found: dict[str, Any] = client.get(f"/api/v1/executions/{execution_id}").json()
    return found


def listed(client: httpx.Client, name: str) -> list[dict[str, Any]]:
    """The paused runs of a workflow."""
    found = client.get("/api/v1/executions", params={"status": "paused", "workflow": name}).json()
    return list(found["executions"])


def approving(step: str, following: str) -> dict[str, Any]:
    """A step that has an approval made."""
    request = {"requester": "carl@example.com", "item": "A secret", "timeout_hours": 24, "approvers": [ANN]}
    return {"id": step, "type": "action", "action": {"type": "approve", "request": request}, "next": following}


def calling_out(following: str) -> dict[str, Any]:
    """A step with a call that fails until it is skipped."""
    call = {"kind": "simulated", "fails": 1000, "status": 500, "body": {}}
    request = {"call": call, "retry": {"attempts": 1}, "skippable": True}
    return {"id": "charge", "type": "action", "action": {"type": "call", "request": request}, "next": following}


def of_both(execution: dict[str, Any], page: dict[str, Any]) -> dict[str, Any]:
    """What a list says of a run, which is what its page says."""
    assert execution == {name: page[name] for name in execution}
    return execution


@pytest.mark.parametrize(
    ("steps", "reason", "data"),
    [
        ([approving("ask", "end")], "Awaiting approval", {"approved": True, "approver": ANN}),
        ([calling_out("end")], "Awaiting intervention", {"action": "skip", "by": ANN, "reason": "Enough"}),
        (asking()["steps"][:1], "Please look", {"approved": True, "approver": ANN}),
    ],
    ids=["approve", "call", "block"],
)
@pytest.mark.parametrize("is_paused", [False, True])
def test_what_a_step_waits_for_is_shown_and_answered_by_the_run_itself(
    app: tuple[AppControl, httpx.Client], steps: list[dict[str, Any]], reason: str, data: Any, is_paused: bool
) -> None:
    control, client = app
    execution_id = started(app, {"steps": [*steps, END]})
    page = shown(client, execution_id)
    [execution] = listed(client, page["workflow_id"])
    of_both(execution, page)
    assert (page["status"], page["paused_reason"], page["output"]) == ("paused", reason, None)
    assert (page["paused_step_id"], page["next_step_id"]) == (steps[0]["id"], "end")
    child = (control.status(execution_id)["data"] or {}).get("child")
    assert child not in [each["id"] for each in client.get("/api/v1/executions/paused?limit=100").json()["executions"]]
    path = f"/api/v1/executions/{execution_id}"
    if is_paused:
        assert client.post(f"{path}/pause", json={"reason": "Look first"}).status_code == 200
        [execution] = listed(client, page["workflow_id"])
        assert of_both(execution, shown(client, execution_id))["paused_reason"] == "Look first"
        if "approved" not in data:
            assert client.post(f"{path}/resume").status_code == 200
    other = client.post(f"{path}/resume", json={"resume_data": data, "step_id": "end"})
    assert (other.status_code, other.json()["code"]) == (409, "other_step")
    key = {"Idempotency-Key": uuid4().hex}
    body = {"resume_data": data, "step_id": steps[0]["id"]}
    answers = []
    for _ in range(2):
        answers.append(client.post(f"{path}/resume", json=body, headers=key))
        control.settle()
    assert [each.status_code for each in answers] == [200, 200], answers[-1].text
    assert answers[0].json()["result"]["decision_id"] == answers[1].json()["result"]["decision_id"]
    page = shown(client, execution_id)
    assert (page["status"], page["output"]) == ("completed", {"status": "Completed", "output": 1, "data": None})
    assert listed(client, page["workflow_id"]) == []


def test_an_answer_to_one_approval_that_comes_again_does_not_decide_on_the_next(
    app: tuple[AppControl, httpx.Client],
) -> None:
    control, client = app
    execution_id = started(app, {"steps": [approving("one", "two"), approving("two", "end"), END]})
    said = {"approved": True, "approver": ANN}
    first = resume(client, execution_id, said, "k")
    control.settle()
    assert shown(client, execution_id)["paused_step_id"] == "two"
    again = resume(client, execution_id, said, "k")
    assert (again.status_code, again.json()["result"]["decision_id"]) == (200, first.json()["result"]["decision_id"])
    control.settle()
    assert shown(client, execution_id)["paused_step_id"] == "two"
    assert resume(client, execution_id, said, "l").status_code == 200
    assert control.output(execution_id)["status"] == "Completed"


def test_an_answer_for_another_step_is_refused_also_where_the_run_has_just_gone_on(
    app: tuple[AppControl, httpx.Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    execution_id = started(app, asking(approvers=[]))
    monkeypatch.setattr("triggers.executions._check_step", lambda *_: None)
    body = {"resume_data": {"approved": True}, "step_id": "before"}
    answer = app[1].post(f"/api/v1/executions/{execution_id}/resume", json=body)
    assert (answer.status_code, answer.json()["code"], answer.json()["step"]) == (409, "other_step", "ask")


def test_a_run_is_not_paused_while_what_it_has_called_works(app: tuple[AppControl, httpx.Client]) -> None:
    step = calling_out("end")
    retry = {"attempts": 3, "first_interval": 86_400, "max_interval": 86_400, "jitter": 0}
    step["action"]["request"]["retry"] = retry
    execution_id = started(app, {"steps": [step, END]})
    page = shown(app[1], execution_id)
    assert (page["status"], page["paused_reason"], page["phase"]) == ("running", None, "calling")
    assert resume(app[1], execution_id, {"action": "skip"}).status_code == 409


def test_data_that_were_merged_decide_nothing_when_they_come_again(app: tuple[AppControl, httpx.Client]) -> None:
    control, client = app
    rest = {"id": "rest", "type": "action", "action": {"type": "delay", "duration": "PT1H"}, "next": "ask"}
    execution_id = started(app, {"steps": [rest, *asking(approvers=[])["steps"]]})
    path = f"/api/v1/executions/{execution_id}"
    assert client.post(f"{path}/pause", json={"reason": "Why"}).status_code == 200
    assert resume(client, execution_id, {"approved": True}, "k").json()["resume_data"] == {"approved": True}
    control.advance(timedelta(hours=2))
    assert shown(client, execution_id)["paused_step_id"] == "ask"
    again = resume(client, execution_id, {"approved": True}, "k")
    assert (again.status_code, "result" in again.json()) == (200, False)
    control.settle()
    assert shown(client, execution_id)["paused_step_id"] == "ask"


@pytest.mark.parametrize(
    ("action", "data", "wrong"),
    [
        ({"type": "block", "reason": "x", "schema": FORM}, {"cost": "5"}, ["resume_data.cost"]),
        ({"type": "block", "reason": "x", "schema": FORM}, {"reviewed_by": ANN}, ["resume_data.cost"]),
        ({"type": "block", "reason": "x", "schema": FORM}, {"cost": 5, "steps": {}}, ["resume_data.steps"]),
        ({"type": "block", "reason": "x", "schema": FORM}, {"approved": True}, ["resume_data.cost"]),
        ({"type": "block", "reason": "x"}, {"execution": 1}, ["resume_data.execution"]),
        ({"type": "wait_event", "name": "payment", "schema": FORM}, {"cost": "5"}, ["resume_data.cost"]),
        ({"type": "block", "reason": "x", "schema": FORM}, {"cost": 5}, []),
        ({"type": "block", "reason": "x", "schema": FORM}, {}, []),
        ({"type": "block", "reason": "x"}, {"cost": "5"}, []),
    ],
)
def test_the_data_that_a_paused_run_goes_on_with_fit_the_step(
    app: tuple[AppControl, httpx.Client], action: dict[str, Any], data: dict[str, Any], wrong: list[str]
) -> None:
    client = app[1]
    execution_id = started(app, {"steps": [{"id": "ask", "type": "action", "action": action}]})
    client.post(f"/api/v1/executions/{execution_id}/pause", json={"reason": "Why"})
    answer = resume(client, execution_id, data)
    if wrong:
        assert list(fields(answer)) == wrong
        assert shown(client, execution_id)["paused_by"] == "developer"
    else:
        assert (answer.status_code, answer.json()["resume_data"]) == (200, data)
        assert shown(client, execution_id)["paused_by"] is None


@pytest.mark.parametrize("step", [approving("ask", "end"), calling_out("end")], ids=["approve", "call"])
def test_what_a_run_has_called_ends_with_it_also_when_it_was_terminated_past_the_app(
    app: tuple[AppControl, httpx.Client], step: dict[str, Any]
) -> None:
    control, client = app
    execution_id = started(app, {"steps": [step, END]})
    child = control.status(execution_id)["data"]["child"]
    url = f"/runtime/webhooks/durabletask/instances/{execution_id}/terminate"
    assert client.post(url).is_success
    control.settle()
    assert control.state(child).runtime_status.name == "RUNNING"
    for status in ("TERMINATED", "TERMINATED"):
        control._thread.run(reconcile(control))
        control.settle()
        assert control.state(child).runtime_status.name == status
    assert child not in client.get("/api/waits", params={"limit": 100}).text


async def reconcile(control: AppControl) -> None:
    """Run the timer that looks after the records."""
    await reconcile_records(cast("func.TimerRequest", None), DurableFunctionsClient(configuration_of(control)))


# Who answers


def by(
    control: AppControl,
    execution_id: str,
    data: dict[str, Any],
    *permissions: Permission,
    name: str = ANN,
    step: str | None = None,
) -> int | CountersignError:
    """Answer as a caller with permissions; gives the status, or the error."""
    caller = Caller(name, frozenset(permissions))

    async def ask() -> int | CountersignError:
        client = DurableFunctionsClient(configuration_of(control))
        with calling(caller):
            try:
                answered = await answer_block(client, execution_id, data, uuid4().hex, step)
            except CountersignError as error:
                return error
        return int(answered.status_code)

    return control._thread.run(ask())


def status_of(answered: int | CountersignError) -> int:
    """The status of an answer."""
    return answered if isinstance(answered, int) else answered.status


def test_an_approval_needs_its_permission_and_the_callback_of_a_system_does_not(
    app: tuple[AppControl, httpx.Client],
) -> None:
    execution_id = started(app, asking())
    assert status_of(by(app[0], execution_id, {"approved": True}, "execution:resume")) == 403
    assert app[0].status(execution_id)["phase"] == "waiting_for_answer"
    assert status_of(by(app[0], execution_id, {"approved": True}, "approval:decide")) == 200
    assert status_of(by(app[0], started(app, asking(approval=False)), {"paid": 1}, "execution:resume")) == 200


def test_who_answers_is_the_caller_unless_an_administrator_does_it_for_another(
    app: tuple[AppControl, httpx.Client],
) -> None:
    execution_id = started(app, asking())
    said = {"approved": True, "approver": BEN}
    assert status_of(by(app[0], execution_id, said, "approval:decide")) == 403
    assert status_of(by(app[0], execution_id, {"approved": True}, "approval:decide", name="eve@example.com")) == 403
    admin = by(app[0], execution_id, said, "approval:decide", "approval:admin", name="admin@example.com")
    assert status_of(admin) == 200
    entries = app[1].get(f"/api/audit/{execution_id}").json()["entries"]
    decided = next(each for each in entries if each["action"] == "decided")
    assert (decided["actor"], decided["on_behalf_of"]) == ("admin@example.com", BEN)


def test_an_answer_for_one_step_does_not_count_for_another(app: tuple[AppControl, httpx.Client]) -> None:
    two = {"steps": [{**asking()["steps"][0], "next": "again"}, {**asking()["steps"][0], "id": "again"}, END]}
    execution_id = started(app, two)
    assert status_of(by(app[0], execution_id, {"approved": True}, "approval:decide", step="ask")) == 200
    app[0].settle()
    late = by(app[0], execution_id, {"approved": False}, "approval:decide", name=BEN, step="ask")
    assert isinstance(late, CountersignError)
    assert (late.status, late.members["decided_by"], late.members["code"]) == (409, ANN, "other_step")
    raised = [
        json.loads(each.eventRaised.input.value) for each in app[0].history(execution_id) if each.eventRaised.name
    ]
    assert [each["link"] for each in raised] == [{"step": "ask", "visit": 1}]  # for those that come in between
    assert app[0].status(execution_id)["step"] == "again"


def test_who_answers_after_the_end_is_told_who_did(app: tuple[AppControl, httpx.Client]) -> None:
    execution_id = started(app, asking())
    assert status_of(by(app[0], execution_id, {"approved": False}, "approval:decide")) == 200
    app[0].settle()
    late = by(app[0], execution_id, {"approved": True}, "approval:decide", name=BEN)
    assert isinstance(late, CountersignError)
    assert (late.status, late.members["decided_by"], late.members["outcome"]) == (409, ANN, "rejected")
    entries = app[1].get(f"/api/audit/{execution_id}").json()["entries"]
    assert [each["actor"] for each in entries if each["action"] == "late"] == [BEN]


def stored_by(control: AppControl, definition: dict[str, Any], *permissions: Permission) -> int | CountersignError:
    """Store a definition as a caller with permissions; gives the status, or the error."""
    body = json.dumps(definition).encode()
    asked = func.HttpRequest(method="POST", url="/api/v1/workflows", body=body)

    async def ask() -> int | CountersignError:
        client = DurableFunctionsClient(configuration_of(control))
        with calling(Caller(ANN, frozenset(permissions))):
            try:
                return int((await store_workflow(asked, client)).status_code)
            except CountersignError as error:
                return error

    return control._thread.run(ask())


@pytest.mark.parametrize(
    ("rule", "is_free"),
    [
        ({"allow_self_approval": True}, False),
        ({"on_timeout": "approve"}, False),
        ({"allow_self_approval": False, "on_timeout": "fail"}, True),
    ],
)
def test_who_stores_an_approval_that_does_without_others_is_an_administrator(
    app: tuple[AppControl, httpx.Client], rule: dict[str, Any], *, is_free: bool
) -> None:
    request = {"requester": "Carl", "item": "Laptop", "timeout_hours": 1, **rule}
    asked = {"id": "ask", "type": "action", "action": {"type": "approve", "request": request}}
    first = {"id": "first", "type": "action", "action": {"type": "set", "values": {"x": 1}}, "next": "ask"}
    name = f"w{uuid4().hex[:12]}"
    given = {"name": name, "steps": [first, asked]}
    answered = stored_by(app[0], given, "workflow:write")
    if is_free:
        assert answered == 201
        return
    assert isinstance(answered, CountersignError)
    assert (answered.status, answered.members["permission"]) == (403, "approval:admin")
    assert app[1].get(f"/api/v1/workflows/{name}").status_code == 404
    assert stored_by(app[0], given, "workflow:write", "approval:admin") == 201


def test_a_workflow_is_not_called_as_one_of_the_app_itself(client: httpx.Client) -> None:
    assert {"approval", "refund", "workflow"} <= set(WORKFLOWS)
    for name in WORKFLOWS:
        assert "name" in fields(client.post("/api/v1/workflows", json={"name": name, **SEED}))
        assert client.get(f"/api/v1/workflows/{name}").status_code == 404
