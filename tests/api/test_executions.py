"""Pausing, resuming and cancelling runs in every state, and the lists of them."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, cast

import azure.functions as func
import httpx
import pytest
from azure.durable_functions import DurableFunctionsClient

from contracts.base import as_utc_text
from contracts.pause import PauseEvent
from contracts.pause_state import Pause, PauseAsk, PauseState, ResumeAsk
from contracts.records import Document
from errors import Forbidden, NotPermitted
from services import cancelling, clock, outbox, paused, pausing
from services.identity import Caller, calling
from services.record_store import get_record_store
from settings import get_settings
from tests.api.executions import APPROVAL, ORDER, SEED, Api, hosting, is_listed
from triggers import execution_lists, purge, reconcile
from triggers.executions import _decided_by, pause_execution, resume_execution
from triggers.pausing import _ask as ask_entity
from triggers.seeing import see

STATES = ("pending", "running", "waiting", "paused", "suspended", "completed", "failed", "cancelled")
ENDED = ("completed", "failed", "cancelled")
RUN = "20260301T110000000000Z"
REASON = {"reason": "Manual review required"}
FAILING: dict[str, Any] = {
    "name": "Ship",
    "call": {"kind": "simulated", "fails": 1000, "status": 500, "body": {}},
    "retry": {"attempts": 1},
    "skippable": True,
}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """The app, for all tests of this module."""
    with hosting(tmp_path_factory.mktemp("data")) as api:
        yield api


def in_state(api: Api, state: str) -> str:
    """A run in a state."""
    name: str = getattr(api, state)()
    return name


# From every state


@pytest.mark.parametrize("state", STATES)
def test_pausing_what_goes_on_and_only_that(api: Api, state: str) -> None:
    name = in_state(api, state)
    answer = api.post(name, "pause", REASON)
    if state in ("pending", "running", "waiting"):
        assert answer.status_code == 200, answer.text
        assert (
            answer.json().items()
            >= {
                "status": "paused",
                "paused_reason": "Manual review required",
                "paused_by": "developer",
                "paused_at": as_utc_text(api.control.now),
                "pause_count": 1,
                "resume_count": 0,
                "last_resumed_at": None,
            }.items()
        )
        assert set(answer.json()) >= SEED
        assert (api.status(name), is_listed(name)) == ("SUSPENDED", True)
        assert api.shown(name).items() >= answer.json().items()
    else:
        shown = "paused" if state == "suspended" else state
        problem = answer.json()
        assert (answer.status_code, problem["status"], problem["execution_status"]) == (409, 409, shown)
        assert api.shown(name)["status"] == shown
        assert api.shown(name)["pause_count"] == (state == "paused")


@pytest.mark.parametrize("state", STATES)
def test_resuming_what_is_paused_and_only_that(api: Api, state: str) -> None:
    name = in_state(api, state)
    answer = api.post(name, "resume")
    after = api.shown(name)
    expected = {"paused": 200, "suspended": 200, "waiting": 422}.get(state, 409)
    assert answer.status_code == expected, answer.text
    if expected == 200:
        assert answer.json()["status"] == after["status"] == "running"
        assert (api.status(name), is_listed(name)) == ("RUNNING", False)
        assert after["resume_count"] == (state == "paused")
        assert (after["paused_at"], after["paused_by"], after["max_pause_at"]) == (None, None, None)
    elif expected == 409:
        assert answer.json()["execution_status"] == state == after["status"]
    else:
        assert after["paused_reason"] == "Awaiting approval"


@pytest.mark.parametrize("state", STATES)
def test_cancelling_what_goes_on_and_only_that(api: Api, state: str) -> None:
    name = in_state(api, state)
    answer = api.post(name, "cancel", {"reason": "No longer needed"})
    if state in ENDED:
        assert (answer.status_code, answer.json()["execution_status"]) == (409, state)
        return
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled"), answer.text
    assert (api.status(name), is_listed(name)) == ("TERMINATED", False)
    assert name not in api.names()  # nor does it wait
    [note] = api.told(name, "cancelled")
    assert (note.actor, note.channel, note.comment) == ("developer", "api", "No longer needed")
    kept = api.kept(name)
    assert kept is None or not kept.is_paused
    assert api.post(name, "cancel").status_code == 409
    assert len(api.told(name, "cancelled")) == 1


def test_who_cancels_what_ends_by_itself_meanwhile_is_told_so(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    name = api.waiting()
    terminate = cancelling._terminate

    async def late(client: Any, instance_id: str, why: str) -> None:
        async with httpx.AsyncClient(base_url=api.http.base_url, trust_env=False) as http:
            decision = {"is_approved": True, "approver": "Boss"}
            assert (await http.post(f"/api/approvals/{instance_id}", json=decision)).is_success
        await client.wait_for_orchestration_completion(instance_id, timeout=10)
        await terminate(client, instance_id, why)

    monkeypatch.setattr(cancelling, "_terminate", late)
    for _ in range(2):  # with the same key again it is no cancellation either
        answer = api.post(name, "cancel", key="k")
        assert (answer.status_code, answer.json()["execution_status"]) == (409, "completed")
    [note] = api.told(name, "cancelled")
    assert note.after is None
    assert api.shown(name)["status"] == "completed"


@pytest.mark.parametrize("verb", ["pause", "resume", "cancel"])
def test_what_is_no_run_of_the_app_is_not_found(api: Api, verb: str) -> None:
    name = in_state(api, "paused")
    [own] = [each.id.key for each in api.control.client.get_all_entities() if each.id.key == name]
    for other in (api.none(), f"@pause@{own}", "paused"):
        assert api.post(other, verb, REASON if verb == "pause" else None).status_code == 404
    assert api.http.get(f"/api/v1/executions/{api.none()}").status_code == 404


def test_a_sign_up_that_is_cancelled_leaves_nothing_personal_behind(api: Api) -> None:
    form = {"username": "carol", "email": "carol@example.com"}
    assert api.http.post("/signup/submit", params=form).status_code == 200
    api.control.settle()
    assert [each.to for each in outbox.page() if each.to == "carol@example.com"] != []
    assert api.shown("signup-carol")["paused_reason"] == "Awaiting verification"
    api.pause("signup-carol")
    assert api.post("signup-carol", "cancel").status_code == 200
    assert [each.to for each in outbox.page() if each.to == "carol@example.com"] == []
    timer(api, purge.purge_instances)
    assert api.http.get("/api/v1/executions/signup-carol").status_code == 404
    assert api.kept("signup-carol") is None


# Together with the run


def test_the_run_knows_of_its_pauses_and_gets_the_data(api: Api) -> None:
    name = api.waiting()
    api.pause(name, clock="run")
    standing = api.control.status(name)["pause"]
    assert (standing["number"], standing["paused"], standing["reason"]) == (1, True, "Why")
    api.advance(minutes=5)
    after = api.resume(name, {"a": 1})
    assert after.items() >= {"status": "paused", "paused_reason": "Awaiting approval", "resume_data": {"a": 1}}.items()
    assert (after["resumed_by"], after["last_resumed_at"]) == ("developer", as_utc_text(api.control.now))
    status = api.control.status(name)
    assert (status["pause"]["paused"], status["resume_data"], status["pause"]["frozen_seconds"]) == (False, {"a": 1}, 0)
    api.pause(name)
    api.advance(minutes=5)
    assert api.resume(name, {"b": 2})["resume_data"] == {"a": 1, "b": 2}
    assert api.control.status(name)["pause"]["frozen_seconds"] == 300
    assert (api.shown(name)["pause_count"], api.shown(name)["resume_count"]) == (2, 2)
    trail = [(each.action, each.actor) for each in [*api.told(name, "paused"), *api.told(name, "resumed")]]
    assert trail == [("paused", "developer")] * 2 + [("resumed", "developer")] * 2


def test_a_run_that_is_paused_before_it_begins_begins_when_it_is_resumed(api: Api) -> None:
    name = api.pending()
    api.pause(name)
    api.advance(days=2)
    assert api.status(name) == "SUSPENDED"
    api.resume(name)
    assert api.control.status(name)["phase"] == "waiting_for_approval"


def test_what_a_paused_run_has_called_is_paused_with_it_and_by_it_alone(api: Api) -> None:
    simulate = {"create_refund": {"fails": 1000, "status": 500}}
    given = {"amount": "12.50", "currency": "EUR", "simulate": simulate, "retry": {"attempts": 1}}
    refund = str(api._start("/api/refunds", given)["refund_id"])
    [call] = [name for name in api.names() if name.startswith("call-")]
    assert api.shown(call)["paused_reason"] == "Awaiting intervention"
    api.pause(refund, reason="Look first")
    api.control.settle()
    shown = api.shown(call)
    assert (shown["status"], shown["paused_reason"], shown["paused_by"]) == ("paused", "Look first", "developer")
    assert api.names().count(call) == 1
    for verb, body in (("pause", REASON), ("resume", None)):
        answer = api.post(call, verb, body)
        assert (answer.status_code, answer.json()["paused_reason"]) == (409, "Look first")
    api.resume(refund)
    api.control.settle()
    assert api.shown(call)["paused_reason"] == "Awaiting intervention"
    api.pause(refund)
    assert api.post(refund, "cancel").status_code == 200
    assert (api.status(refund), api.status(call)) == ("TERMINATED", "TERMINATED")
    assert {refund, call}.isdisjoint(api.names())


# At once, and again


def at_once(api: Api, name: str, verb: str, body: Any = None) -> list[httpx.Response]:
    """Do the same 50 times at the same moment."""
    with ThreadPoolExecutor(50) as pool:
        return list(pool.map(lambda _: api.post(name, verb, body), range(50)))


def test_of_50_at_once_one_pauses_and_one_resumes(api: Api) -> None:
    name = api.running()
    answers = at_once(api, name, "pause", REASON)
    assert Counter(each.status_code for each in answers) == {200: 1, 409: 49}
    assert {each.json()["paused_by"] for each in answers} == {"developer"}
    assert (api.status(name), api.shown(name)["pause_count"]) == ("SUSPENDED", 1)
    answers = at_once(api, name, "resume")
    assert Counter(each.status_code for each in answers) == {200: 1, 409: 49}
    assert (api.status(name), api.shown(name)["resume_count"], is_listed(name)) == ("RUNNING", 1, False)
    assert api.heard(name) == 2  # those who came too late told it nothing
    answers = at_once(api, name, "cancel")
    assert Counter(each.status_code for each in answers) == {200: 1, 409: 49}
    assert len(api.told(name, "cancelled")) == 1


@pytest.mark.parametrize(("verb", "body"), [("pause", REASON), ("resume", {"resume_data": {"a": 1}}), ("cancel", {})])
def test_the_same_key_again_gives_the_same_answer_and_does_nothing(api: Api, verb: str, body: dict[str, Any]) -> None:
    name = api.paused() if verb == "resume" else api.running()
    first = api.post(name, verb, body, key="k")
    assert first.status_code == 200, first.text
    api.advance(seconds=1)
    before = api.heard(name)
    assert api.post(name, verb, body, key="k").json() == first.json()
    assert api.post(name, verb, body, key="other").status_code == 409
    if verb != "cancel":
        assert api.post(name, verb, _changed(body), key="k").status_code == 422
    assert api.heard(name) == before
    if verb == "pause":  # also when it goes on by then
        api.resume(name)
        again = api.post(name, verb, body, key="k").json()
        assert {**again, "resume_count": 0, "resumed_by": None, "last_resumed_at": None} == first.json()
        assert api.status(name) == "RUNNING"


def _changed(body: dict[str, Any]) -> dict[str, Any]:
    return {"reason": "Another"} if "reason" in body else {"resume_data": {"a": 2}}


def test_who_is_overtaken_after_deciding_leaves_the_run_as_the_last_wanted_it(api: Api) -> None:
    name = api.paused()
    stale = api.kept(name)
    api.resume(name)
    assert stale is not None
    assert stale.is_paused
    assert api.call(lambda client: pausing.apply(client, get_record_store(), stale))
    assert (api.status(name), is_listed(name)) == ("RUNNING", False)
    again = api.kept(name)
    api.pause(name)
    assert again is not None
    assert api.call(lambda client: pausing.apply(client, get_record_store(), again))
    assert (api.status(name), is_listed(name)) == ("SUSPENDED", True)


# What a crash leaves undone


def decided(api: Api, name: str, *, paused: bool) -> PauseState:
    """Have the entity decide, as it does for somebody who crashes before anything of it is applied."""

    async def ask(client: Any) -> None:
        seen = await see(client, name)
        if paused:
            asked = {"number": seen.pauses + 1, "at": clock.now(), "by": "Ann", "reason": "Crash"}
            pause = Pause.model_validate(asked | {"until": "2027-01-01T00:00:00Z", "on_max": "escalate"})
            await pausing.ask(client, name, "pause", PauseAsk(token="t", said="", run=seen.run, pause=pause))
        else:
            resume = ResumeAsk(token="u", number=seen.pauses, at=clock.now(), by="Ann", data={"a": 1})
            await pausing.ask(client, name, "resume", resume)

    api.call(ask)
    kept = api.kept(name)
    assert kept is not None
    assert (kept.is_paused, kept.applied) == (paused, False)
    return kept


def test_what_was_decided_and_not_applied_is_applied_within_a_minute(api: Api) -> None:
    name = api.waiting()
    kept = decided(api, name, paused=True)
    assert (api.status(name), api.shown(name)["paused_by"]) == ("RUNNING", "Ann")
    api.advance(seconds=59)
    assert api.status(name) == "RUNNING"
    api.advance(seconds=1)
    assert (api.status(name), is_listed(name), api.heard(name)) == ("SUSPENDED", True, 1)
    decided(api, name, paused=False)
    api.advance(seconds=60)
    assert (api.status(name), is_listed(name), api.heard(name)) == ("RUNNING", False, 2)
    assert api.control.status(name)["resume_data"] == {"a": 1}
    after = api.kept(name)
    assert after is not None
    assert (after.applied, kept.number) == (True, after.number)


@pytest.mark.parametrize("verb", ["pause", "resume", "cancel"])
def test_whoever_asks_next_applies_what_was_left_undone(api: Api, verb: str) -> None:
    name = api.running()
    decided(api, name, paused=True)
    api.advance(seconds=6)
    answer = api.post(name, verb, REASON if verb == "pause" else None)
    assert answer.status_code == (409 if verb == "pause" else 200)
    assert api.status(name) == {"pause": "SUSPENDED", "resume": "RUNNING", "cancel": "TERMINATED"}[verb]
    assert is_listed(name) == (verb == "pause")


@pytest.mark.parametrize("suspended", [True, False])
@pytest.mark.parametrize("who", ["timer", "pause", "resume"])
def test_a_pause_that_is_told_after_its_end_does_not_last(api: Api, who: str, suspended: bool) -> None:
    name = api.waiting()
    late = decided(api, name, paused=True)
    api.resume(name, {"a": 1})
    event = PauseEvent(action="pause", source=name, number=1, at=late.pause.at, by="Ann", reason="Crash")

    async def tell(client: Any) -> None:
        if suspended:  # as who decided on it goes on, and crashes then
            await pausing._pause(client, get_record_store(), late)
        else:  # as the two events come the other way round
            await client.raise_orchestration_event(name, "pausing", data=event.plain())

    api.call(tell)
    api.advance(hours=3)
    assert api.control.status(name)["pause"]["paused"]
    assert api.shown(name)["paused_reason"] == "Awaiting approval"
    if who == "timer":
        timer(api, reconcile.reconcile_records)
    else:
        assert api.post(name, who, REASON if who == "pause" else None).status_code == (200 if who == "pause" else 422)
    if who == "pause":
        api.resume(name)
    after = api.control.status(name)
    assert (api.status(name), is_listed(name), after["pause"]["paused"]) == ("RUNNING", False, False)
    assert (after["resume_data"], after["pause"]["frozen_seconds"]) == ({"a": 1}, 0)
    heard = api.heard(name)
    timer(api, reconcile.reconcile_records)
    assert api.heard(name) == heard
    assert api.post(name, "resume", {"resume_data": {"approved": True, "approver": "Boss"}}).status_code == 200


def test_what_is_paused_by_its_caller_is_not_resumed_for_its_own_pause_that_has_ended(api: Api) -> None:
    name = api.paused()
    api.resume(name)
    api.advance(seconds=1)
    at = as_utc_text(api.control.now)
    event = PauseEvent.model_validate({"action": "pause", "source": "caller", "number": 1, "at": at, "by": "Ann"})
    api.call(lambda client: client.raise_orchestration_event(name, "pausing", data=event.plain()))
    api.advance(seconds=6)
    heard = api.heard(name)
    timer(api, reconcile.reconcile_records)
    assert api.post(name, "resume").status_code == 409
    assert (api.heard(name), api.shown(name)["status"]) == (heard, "paused")


@pytest.mark.parametrize("at_once", [True, False])
def test_a_run_that_ended_before_its_pause_was_applied_is_not_paused(api: Api, at_once: bool) -> None:
    name = api.running()
    undone = decided(api, name, paused=True)
    api.manage(name, "terminate")
    if at_once:
        assert not api.call(lambda client: pausing.apply(client, get_record_store(), undone))
    else:
        api.advance(seconds=60)
    kept = api.kept(name)
    assert kept is not None
    assert (kept.is_paused, is_listed(name)) == (False, False)


# What is decided by resuming


def test_resuming_what_waits_for_a_decision_is_that_decision(api: Api) -> None:
    name = api.waiting()
    answer = api.post(name, "resume", {"resume_data": {"approved": False, "approver": "Bob", "comments": "No"}})
    assert (answer.status_code, answer.json()["result"]["outcome"]) == (200, "rejected"), answer.text
    assert (api.status(name), api.shown(name)["status"]) == ("COMPLETED", "completed")
    [vote] = api.told(name, "voted")
    assert (vote.actor, vote.comment) == ("Bob", "No")
    assert api.shown(name)["resume_count"] == 0


@pytest.mark.parametrize("data", [None, {}, {"approved": "true"}, {"approved": 1}, {"approved": None}, {"a": 1}])
def test_nothing_but_a_plain_yes_means_yes(api: Api, data: Any) -> None:
    name = api.waiting()
    for _ in range(2):
        answer = api.post(name, "resume", {"resume_data": data} if data is not None else "{}")
        assert answer.status_code == 422, answer.text
        assert api.control.status(name)["phase"] == "waiting_for_approval"
        if not data or "approved" not in data:
            break
        if api.status(name) == "RUNNING":
            api.pause(name)  # neither does it where it is paused by hand besides, nor does that end
    assert api.told(name, "voted") == []
    assert api.shown(name)["resume_count"] == 0


def test_a_run_that_is_paused_by_hand_and_waits_goes_on_and_is_decided_where_the_data_say_so(api: Api) -> None:
    first, second = api.waiting(), api.waiting()
    for name in (first, second):
        api.pause(name)
    assert api.resume(first, {"reviewed_by": "alice@example.com"})["paused_reason"] == "Awaiting approval"
    assert api.told(first, "voted") == []
    answer = api.resume(second, {"approved": True})
    assert (answer["result"]["outcome"], answer["resume_count"], answer["resume_data"]) == ("approved", 1, None)
    assert api.status(second) == "COMPLETED"
    assert [each.actor for each in api.told(second, "voted")] == ["developer"]


def test_who_may_resume_but_not_decide_does_not_decide_by_resuming(api: Api) -> None:
    name = api.waiting()
    caller = Caller("carol@example.com", frozenset({"execution:resume"}))

    def resume(data: dict[str, Any]) -> Any:
        body = json.dumps({"resume_data": data}).encode()
        request = func.HttpRequest("POST", "http://x/", body=body, route_params={"id": name})

        async def as_carol(client: Any) -> Any:
            with calling(caller):
                return await resume_execution(request, client)

        return api.call(as_carol)

    with pytest.raises(NotPermitted):
        resume({"approved": True})
    api.pause(name)
    with pytest.raises(NotPermitted):
        resume({"approved": True})
    assert api.told(name, "voted") == []
    assert api.shown(name)["paused_by"] == "developer"  # it was refused before the pause ended
    assert resume({"a": 1}).status_code == 200
    assert api.shown(name)["resumed_by"] == "carol@example.com"


@pytest.mark.parametrize(
    ("permissions", "body", "setting", "shown"),
    [
        ("pause", {}, "cancel", "paused"),
        ("pause", {"max_pause": "PT1M"}, "escalate", "paused"),
        ("pause", {"max_pause": "PT1M"}, "cancel", "running"),
        ("pause", {"on_max_pause": "cancel"}, "escalate", "running"),
        ("pause resume", {"on_max_pause": "cancel"}, "escalate", "running"),
        ("pause", {"on_max_pause": "resume", "max_pause": "P1D"}, "escalate", "running"),
        ("pause", {"on_max_pause": "escalate", "max_pause": "P1D"}, "cancel", "paused"),
        ("pause resume", {"on_max_pause": "resume"}, "cancel", "paused"),
        ("cancel", {"on_max_pause": "cancel", "max_pause": "PT1M"}, "escalate", "paused"),
    ],
)
def test_who_may_only_pause_has_nothing_else_done_by_the_end_of_the_pause(
    api: Api, permissions: str, body: dict[str, Any], setting: str, shown: str
) -> None:
    name = api.running()
    granted = frozenset[Any](f"execution:{each}" for each in permissions.split())
    given = json.dumps(REASON | body).encode()
    request = func.HttpRequest("POST", "http://x/", body=given, route_params={"id": name})

    async def as_carol(client: Any) -> Any:
        with calling(Caller("carol@example.com", granted)):
            return await pause_execution(request, client)

    with pytest.MonkeyPatch.context() as patch, nullcontext() if shown == "paused" else pytest.raises(NotPermitted):
        patch.setenv("ON_MAX_PAUSE", setting)
        get_settings.cache_clear()
        api.call(as_carol)
    get_settings.cache_clear()
    assert api.shown(name)["status"] == shown


def test_a_pause_is_on_record_while_it_lasts(api: Api) -> None:
    name = api.waiting()
    api.pause(name)
    assert api.status(name) == "SUSPENDED"
    assert [each.comment for each in api.told(name, "paused")] == ["Why"]
    trail = api.control.status(name)["trail"]
    assert trail["stored"] == trail["entries"]


@pytest.mark.parametrize("is_outside", [False, True])
def test_what_is_asked_of_a_paused_run_is_handed_over_and_nobody_waits_for_it(
    api: Api, monkeypatch: pytest.MonkeyPatch, is_outside: bool
) -> None:
    monkeypatch.setenv("DECISION_WAIT_SECONDS", "60")  # longer than the client would wait
    get_settings.cache_clear()
    request = api.waiting()
    order = str(api._start("/start-purchase-order", ORDER | {"cost": 5000})["instance_id"])
    call = str(api._start("/api/interventions", FAILING)["intervention_id"])
    asked = [
        (f"/api/approvals/{request}", {"is_approved": True, "approver": "Bob"}),
        (f"/signal-approval/{order}", {"approver_name": "Bob", "approved": True}),
        (f"/api/interventions/{call}/skip", {"by": "Bob", "reason": "Enough"}),
    ]
    names = (request, order, call)
    for name in names:
        api.pause(name)
        if is_outside:
            api.resume(name)
            api.manage(name, "suspend")
    for path, body in asked:
        answer = api.http.post(path, json=body)
        assert answer.status_code == 202, answer.text
        told = "" if is_outside else f" developer paused it at {as_utc_text(api.control.now)}: Why"
        sentence = "This was handed over. The run is paused, and takes it when it goes on."
        assert answer.json()["message"] == sentence + told
    for name in names:
        api.manage(name, "resume") if is_outside else api.resume(name)
    api.control.settle()
    assert [api.status(name) for name in names] == ["COMPLETED"] * 3
    monkeypatch.undo()
    get_settings.cache_clear()


@pytest.mark.parametrize("is_paused", [False, True])
def test_a_decision_by_a_resume_is_answered_the_same_again_also_when_the_run_has_ended(
    api: Api, is_paused: bool
) -> None:
    name = api.waiting()
    if is_paused:
        api.pause(name)
    body = {"resume_data": {"approved": True, "comments": "Yes"}}
    first = api.post(name, "resume", body, key="k")
    api.control.settle()
    again = api.post(name, "resume", body, key="k")
    assert (first.status_code, again.status_code) == (200, 200), again.text
    assert again.json()["result"]["decision_id"] == first.json()["result"]["decision_id"] == "k"
    assert again.json()["status"] == "completed"
    assert api.post(name, "resume", {"resume_data": {"approved": False}}, key="k").status_code == 422
    assert api.post(name, "resume", body, key="other").status_code == 409
    assert len(api.told(name, "voted")) == 1


def test_a_decision_that_was_lost_after_its_pause_ended_is_taken_when_it_is_sent_again(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = api.waiting()
    api.pause(name)
    body = {"resume_data": {"approved": True}}
    with monkeypatch.context() as patch:
        patch.setattr("triggers.executions.pausing.until_it_goes_on", _lost)
        assert api.post(name, "resume", body, key="k").status_code == 500
    assert (api.status(name), api.told(name, "voted")) == ("RUNNING", [])
    assert api.post(name, "resume", body, key="k").json()["result"]["outcome"] == "approved"


async def _lost(*_: Any) -> None:
    raise OSError("the connection was lost")


def test_what_can_be_refused_of_a_decision_is_refused_before_the_pause_ends(api: Api) -> None:
    name = api.waiting()
    api.pause(name)
    caller = Caller("carol@example.com", frozenset({"execution:resume", "approval:decide"}))
    body = json.dumps({"resume_data": {"approved": True, "approver": "boss@example.com"}}).encode()
    request = func.HttpRequest("POST", "http://x/", body=body, route_params={"id": name})

    async def as_carol(client: Any) -> Any:
        with calling(caller):
            return await resume_execution(request, client)

    with pytest.raises(Forbidden):
        api.call(as_carol)
    assert api.status(name) == "SUSPENDED"
    at = api.shown(name)["paused_step_id"]
    assert api.post(name, "resume", {"step_id": at}).status_code == 200


def test_data_for_a_run_that_was_suspended_past_the_app_are_refused(api: Api) -> None:
    name = api.suspended()
    assert api.post(name, "resume", {"resume_data": {"a": 1}}).status_code == 422
    assert api.status(name) == "SUSPENDED"
    assert api.shown(name)["paused_reason"] == "Suspended outside of the app"


# What is refused


@pytest.mark.parametrize(
    ("verb", "body", "status"),
    [
        ("pause", "", 422),
        ("pause", "{", 400),
        ("pause", "[]", 422),
        ("pause", {"reason": ""}, 422),
        ("pause", {"reason": " \t\n"}, 422),
        ("pause", {"reason": "x" * 256}, 422),
        ("pause", {"reason": "a\x00b"}, 422),
        ("pause", {"reason": 5}, 422),
        ("pause", {"reason": "x", "more": 1}, 422),
        ("pause", {"reason": "x", "clock": "stop"}, 422),
        ("pause", {"reason": "x", "max_pause": 0}, 422),
        ("pause", {"reason": "x", "max_pause": -1}, 422),
        ("pause", {"reason": "x", "max_pause": "PT59S"}, 422),
        ("pause", {"reason": "x", "max_pause": "P366D"}, 422),
        ("pause", {"reason": "x", "max_pause": "1 day"}, 422),
        ("pause", {"reason": "x", "max_pause": True}, 422),
        ("pause", {"reason": "x", "on_max_pause": "explode"}, 422),
        ("pause", '{"reason": "\\ud800"}', 400),
        ("resume", {"resume_data": []}, 422),
        ("resume", {"step_id": ""}, 422),
        ("resume", {"step_id": "another"}, 409),
        ("resume", {"resume_data": "yes"}, 422),
        ("resume", {"resume_data": {"a": "x" * 16_000}}, 422),
        ("resume", {"resume_data": {"k" * 101: 1}}, 422),
        ("resume", '{"resume_data": {"a": ' + "[" * 60 + "]" * 60 + "}}", 422),
        ("resume", '{"resume_data": {"a": NaN}}', 422),
        ("resume", {"approved": True}, 422),
        ("cancel", {"reason": "x" * 256}, 422),
        ("cancel", "x", 400),
    ],
)
def test_what_cannot_be_read_changes_nothing(
    api: Api, refused: dict[str, str], verb: str, body: Any, status: int
) -> None:
    name = refused[verb]
    answer = api.post(name, verb, body)
    assert answer.status_code == status, answer.text
    assert api.shown(name)["status"] == ("paused" if verb == "resume" else "running")


@pytest.fixture(scope="module")
def refused(api: Api) -> dict[str, str]:
    """Runs that are asked for what cannot be."""
    return {"pause": api.running(), "cancel": api.running(), "resume": api.paused()}


def test_together_a_run_takes_no_more_data_than_it_can_keep(api: Api) -> None:
    name = api.paused()
    api.resume(name, {"a": "x" * 9_000})
    api.pause(name)
    assert api.post(name, "resume", {"resume_data": {"b": "x" * 9_000}}).status_code == 422
    assert api.status(name) == "SUSPENDED"
    assert api.resume(name, {"b": 1})["resume_data"] == {"a": "x" * 9_000, "b": 1}


def test_reasons_and_durations_of_all_lengths_are_taken(api: Api) -> None:
    name = api.running()
    taken = api.pause(name, reason=f"  {'ä' * 255}\n", max_pause="P365D", on_max_pause="resume", clock="run")
    assert (taken["paused_reason"], taken["on_max_pause"], taken["clock"]) == ("ä" * 255, "resume", "run")
    assert taken["max_pause_at"][:4] == str(int(taken["paused_at"][:4]) + 1)


def test_the_calls_that_everybody_was_shown_work_as_they_are_written(api: Api) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Authorization": "Bearer x"}
    seed = [
        ('{"reason": "Awaiting approval"}', '{"resume_data": {"approved": true}}'),
        ('{"reason": "Manual review required"}', '{"resume_data": {"reviewed_by": "alice@example.com"}}'),
        ('{"reason": "Awaiting payment gateway callback"}', '{"resume_data": {"payment_status": "completed"}}'),
    ]
    for pause, resume in seed:
        for name in (api.waiting(), api.running()):
            path = f"/api/v1/executions/{name}"
            for verb, body in (("pause", pause), ("resume", resume)):
                answer = api.http.post(f"{path}/{verb}", content=body, headers=headers)
                assert (answer.status_code, set(answer.json()) >= SEED) == (200, True), answer.text
    answer = api.http.get("/api/v1/executions/paused?limit=20", headers=headers)
    assert set(answer.json()["executions"][0]) >= SEED


# Runs of the same id, and their end


def test_a_run_that_takes_the_id_of_a_paused_one_is_not_paused(api: Api) -> None:
    name = api.waiting()
    api.pause(name)
    api.advance(seconds=1)
    answer = api.http.post(
        "/api/requests?idReusePolicy=ALLOW_TERMINATE_IF_RUNNING", json=APPROVAL | {"request_id": name}
    )
    assert answer.status_code == 202, answer.text
    api.control.settle()
    shown = api.shown(name)
    assert (shown["paused_reason"], shown["pause_count"], is_listed(name)) == ("Awaiting approval", 0, False)
    assert api.names().count(name) == 1
    assert api.post(name, "resume").status_code == 422
    assert api.pause(name)["pause_count"] == 1
    api.advance(seconds=70)
    assert (api.status(name), api.control.status(name)["pause"]["paused"]) == ("SUSPENDED", True)
    assert api.resume(name)["resume_count"] == 1
    assert api.status(name) == "RUNNING"


def timer(api: Api, run: Any) -> None:
    """Run a timer of the app now."""
    api.call(lambda client: run(None, client))


def test_the_timer_lists_what_is_paused_and_nothing_else(api: Api) -> None:
    ended, lost, outside, gone = api.paused(), api.paused(), api.suspended(), api.paused()
    api.manage(ended, "terminate")
    paused.forget(get_record_store(), lost)
    api.manage(gone, "terminate")
    assert api.http.delete(f"/runtime/webhooks/durabletask/instances/{gone}").is_success
    timer(api, reconcile.reconcile_records)
    assert [is_listed(name) for name in (ended, lost, outside, gone)] == [False, True, True, False]
    kept = api.kept(ended)
    assert kept is not None
    assert not kept.is_paused
    assert api.kept(gone) is None
    [listed] = [each for each in api.listed() if each["id"] == outside]
    assert (listed["paused_reason"], listed["paused_by"]) == ("Suspended outside of the app", None)
    api.manage(outside, "resume")
    timer(api, reconcile.reconcile_records)
    assert not is_listed(outside)
    assert is_listed(lost)
    api.resume(lost)


@pytest.mark.parametrize("verb", ["resume", "cancel"])
def test_what_was_suspended_past_the_app_and_is_listed_is_taken_off_at_once(api: Api, verb: str) -> None:
    name = api.suspended()
    timer(api, reconcile.reconcile_records)
    assert is_listed(name)
    assert api.post(name, verb).status_code == 200
    assert not is_listed(name)


def test_a_purge_leaves_nothing_of_a_pause(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    name = api.waiting()
    api.pause(name)
    api.manage(name, "terminate")
    monkeypatch.setenv("RETENTION_DAYS", "0")
    assert any(each.name == "pause_due" for each in api.control.client.get_all_orchestration_states())
    get_settings.cache_clear()
    api.advance(seconds=1)
    timer(api, purge.purge_instances)
    get_settings.cache_clear()
    assert (api.kept(name), is_listed(name)) == (None, False)
    assert api.http.get(f"/api/v1/executions/{name}").status_code == 404
    assert not any(each.name == "pause_due" for each in api.control.client.get_all_orchestration_states())


# Lists


def test_the_list_of_what_is_paused_goes_on_page_by_page(api: Api) -> None:
    expected = api.names()
    api.advance(seconds=1)
    added = [api.paused(), api.waiting(), api.paused(), api.waiting()]
    api.pause(added[1])
    found = api.listed(limit=2)
    assert [each["id"] for each in found] == api.names() == [*expected, *_oldest_first(found, added)]
    assert all(each["status"] == "paused" for each in found)
    assert [each["paused_at"] for each in found] == sorted(each["paused_at"] for each in found)
    assert api.names("", status="paused", limit=3) == api.names()


def _oldest_first(found: list[dict[str, Any]], names: list[str]) -> list[str]:
    return [each["id"] for each in found if each["id"] in names]


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "0"},
        {"limit": "101"},
        {"limit": "x"},
        {"continuation": "x"},
        {"continuation": "WyJhIiwgImIiXQ"},
        {"more": "1"},
    ],
)
@pytest.mark.parametrize("path", ["/paused", "", "?status=paused"])
def test_a_list_that_cannot_be_asked_for_is_refused(api: Api, path: str, query: dict[str, str]) -> None:
    url = httpx.URL(f"/api/v1/executions{path}")
    assert api.http.get(url.copy_merge_params(query)).status_code == 400


@pytest.mark.parametrize("query", ["status=x", "from=5", "to=yesterday", "from=9999-12-31T23:59:59-23:00", "workflow="])
def test_only_what_there_can_be_is_asked_for(api: Api, query: str) -> None:
    answer = api.http.get(f"/api/v1/executions?{query}")
    assert answer.status_code == (200 if query == "workflow=" else 400), answer.text


def test_a_continuation_is_of_the_list_that_it_is_from(api: Api) -> None:
    api.completed(), api.completed()
    first = api.http.get("/api/v1/executions", params={"limit": 1, "status": "completed"}).json()
    for other in ({"status": "failed"}, {"workflow": "approval"}, {"status": "paused"}, {}):
        answer = api.http.get("/api/v1/executions", params=other | {"continuation": first["continuation"]})
        assert answer.status_code == 400


def test_every_run_is_found_under_what_it_is(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution_lists, "LOOKS", 2)
    api.advance(seconds=1)
    since = api.control.now
    begun = {state: in_state(api, state) for state in STATES if state != "failed"}
    timer(api, reconcile.reconcile_records)  # which lists what was suspended past the app
    first = {"from": as_utc_text(since)}
    everything = {each["id"]: each["status"] for each in api.listed("", limit=2, **first)}
    shown = {"waiting": "paused", "suspended": "paused"}
    assert everything == {name: shown.get(state, state) for state, name in begun.items()}
    for status in ("pending", "running", "completed", "cancelled"):
        assert api.names("", status=status, limit=1, **first) == [begun[status]]
    assert set(api.names("", status="paused", **first)) == {begun[each] for each in ("waiting", "paused", "suspended")}
    assert api.names("", status="failed", **first) == []
    assert api.names("", workflow="purchase_order", status="completed", **first) == [begun["completed"]]
    assert api.names("", workflow="refund", **first) == []
    assert set(begun.values()).isdisjoint(api.names("", to=as_utc_text(since)))


def test_a_run_that_was_paused_is_listed_with_what_it_was_resumed_with(api: Api) -> None:
    name = api.paused()
    api.resume(name, {"a": 1})
    [listed] = [each for each in api.listed("", status="running") if each["id"] == name]
    assert listed == {each: api.shown(name)[each] for each in listed}
    assert (listed["resume_count"], listed["resume_data"]) == (1, {"a": 1})


def test_what_waits_is_listed_as_it_is_shown_with_the_pauses_that_it_had(api: Api) -> None:
    name = api.waiting()
    api.pause(name)
    api.advance(seconds=1)
    api.resume(name, {"a": 1})
    other, purged = api.waiting(), api.waiting()
    api.manage(purged, "terminate")
    assert api.http.delete(f"/runtime/webhooks/durabletask/instances/{purged}").is_success
    listed = {each["id"]: each for each in api.listed()}
    for each in (name, other):
        assert listed[each] == {field: api.shown(each)[field] for field in listed[each]} | {
            "created_at": listed[each]["created_at"]
        }
    assert (listed[name]["resume_count"], listed[name]["resume_data"]) == (1, {"a": 1})
    assert listed[name]["paused_step_id"] == "waiting_for_approval"
    assert (listed[purged]["resume_count"], listed[purged]["paused_step_id"]) == (0, None)  # until it is taken off


def test_a_call_does_not_show_what_is_the_app_s_own(api: Api) -> None:
    shown = api.http.get(f"/api/interventions/{api.running()}").json()
    assert shown["name"] == "Ship"
    assert {"at_step", "started_by", "mailbox"}.isdisjoint(shown)


def test_only_the_newest_of_many_that_were_called_are_asked_for_a_verdict(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, asked = api.running(), list[str]()
    seen = api.call(lambda client: see(client, name))
    seen = replace(seen, run=seen.run.model_copy(update={"workflow": "workflow"}))
    called = [Document(instance_id="a", run=RUN, name=f"child|{n:06d}", body={"id": f"c{n}"}) for n in range(200)]

    class Hub:
        async def get_orchestration_state(self, name: str) -> None:
            asked.append(name)
            await asyncio.sleep(0)

    monkeypatch.setattr("triggers.executions.documents.read_all", lambda *_: called)
    assert asyncio.run(_decided_by(cast("DurableFunctionsClient", Hub()), seen, "k")) is None
    assert asked == [f"c{n}" for n in reversed(range(150, 200))]


def test_without_an_entity_to_decide_it_gives_up(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unheard(*_: Any) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr("triggers.pausing._ask", partial(ask_entity, patience=0.05))
    monkeypatch.setattr("triggers.pausing.pausing.ask", unheard)
    assert api.post(api.running(), "pause", REASON).status_code == 503
