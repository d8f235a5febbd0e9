"""Who does what is asked over the API: the caller, or somebody on whose behalf an administrator asks it."""

import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any
from uuid import uuid4

import azure.functions as func
import httpx
import pytest
from azure.durable_functions import DurableFunctionsClient
from pydantic import ValidationError

from contracts.approval import ResumeApproval
from contracts.audit import Entry
from contracts.base import Contract
from contracts.purchase_order import ResumePurchaseOrder
from errors import CountersignError
from local_host.testing import AppControl, running_app
from services import clock, trail
from services.api_keys import forget_keys, make_key
from services.identity import Caller, Permission, calling
from services.record_store import close_record_store, get_record_store
from settings import get_settings
from tests.api.starting import configuration_of
from tests.hosting import ROOT
from triggers.approval import resume_approval
from triggers.guarded_call import resume_guarded_call
from triggers.manual_intervention import resume_manual_intervention
from triggers.purchase_order import resume_purchase_order
from triggers.refund import resume_refund
from triggers.signup import resume_signup

ALICE, BOB, ADA, CAROL = (f"{name}@example.com" for name in ("alice", "bob", "ada", "carol"))
USER: tuple[Permission, ...] = (
    "execution:read",
    "execution:start",
    "execution:resume",
    "approval:decide",
    "audit:read",
)
ADMIN: tuple[Permission, ...] = (*USER, "execution:cancel", "approval:admin", "audit:erase")
RIGHTS: dict[str, tuple[Permission, ...]] = {ALICE: USER, BOB: USER, ADA: ADMIN, CAROL: ("execution:resume",)}

REQUEST: dict[str, Any] = {"item": "A desk", "timeout_hours": 24, "approvers": [BOB]}
ORDER: dict[str, Any] = {"order_id": "o-1", "cost": 1000, "product": "Widget", "quantity": 2}
CALL: dict[str, Any] = {
    "name": "Ship",
    "call": {"kind": "simulated", "fails": 1000, "body": {"to": "Bern"}},
    "retry": {"attempts": 1},
    "skippable": True,
    "editable": True,
}
REFUND: dict[str, Any] = {"amount": "12.50", "currency": "EUR"}

type Door = Callable[[DurableFunctionsClient, str, dict[str, Any], str], Awaitable[func.HttpResponse]]


@dataclass(frozen=True)
class Answer:
    """What a door said: a status, and the members of the body."""

    status: int
    body: dict[str, Any]


@dataclass
class House:
    """The app, and everybody's keys."""

    control: AppControl
    client: httpx.Client
    data: Path
    keys: dict[str, str] = field(default_factory=dict)

    def call(
        self, who: str, path: str, body: dict[str, Any] | None = None, *, key: str | None = None, method: str = "POST"
    ) -> httpx.Response:
        """Call a route as somebody, when everything has settled."""
        headers = {"Authorization": f"Bearer {self.keys[who]}"} | ({"Idempotency-Key": key} if key is not None else {})
        response = self.client.request(method, path, json=body, headers=headers)
        self.control.settle()
        return response

    def done(self, who: str, path: str, body: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """The same for what is taken; gives the body."""
        response = self.call(who, path, body, **more)
        assert response.status_code in (200, 202), response.text
        found: dict[str, Any] = response.json() if response.text.startswith("{") else {"text": response.text}
        return found

    def shown(self, path: str) -> dict[str, Any]:
        """What GET shows."""
        return self.done(ALICE, path, method="GET")

    def door(self, who: str, door: Door, name: str, data: dict[str, Any], key: str | None = None) -> Answer:
        """Resume a run with data, as somebody."""

        async def resuming() -> Answer:
            client = DurableFunctionsClient(configuration_of(self.control))
            with calling(Caller(who, frozenset(RIGHTS[who]))):
                try:
                    response = await door(client, name, data, key or uuid4().hex)
                except CountersignError as error:
                    return Answer(error.status, {"detail": error.detail, **error.members})
            return Answer(response.status_code, json.loads(response.get_body()))

        answer = self.control._thread.run(resuming())
        self.control.settle()
        return answer

    def told(self, name: str, *actions: str) -> list[tuple[str | None, str | None]]:
        """Who did these things for whom, as the trail says it; all that people did where nothing is named."""
        return [(each.actor, each.on_behalf_of) for each in self.trail(name) if each.action in actions]

    def trail(self, name: str) -> list[Entry]:
        """The audit trail of a run, and of the app about it."""
        return trail.read(get_record_store(), name).entries

    def mails(self, name: str) -> list[EmailMessage]:
        """The mails of a run, oldest first."""
        files = sorted((self.data / "outbox").glob(f"{name}.*.eml"), key=lambda file: file.stat().st_mtime_ns)
        return [message_from_bytes(file.read_bytes(), _class=EmailMessage, policy=default) for file in files]

    # Runs that wait

    def request(self, who: str = ALICE, **changes: Any) -> str:
        """A request that waits for bob."""
        name = str(self.done(who, "/api/requests", REQUEST | changes)["request_id"])
        assert self.control.status(name)["phase"] == "waiting_for_approval"
        return name

    def order(self, who: str = ALICE) -> str:
        """An order that waits for anybody."""
        return str(self.done(who, "/start-purchase-order", ORDER)["instance_id"])

    def failed_call(self, **changes: Any) -> str:
        """A call that has failed, and waits."""
        name = str(self.done(ALICE, "/api/interventions", CALL | changes)["intervention_id"])
        assert self.control.status(name)["phase"] == "waiting_for_intervention"
        return name

    def refund(self) -> str:
        """A refund that waits to be ready."""
        name = str(self.done(ALICE, "/api/refunds", REFUND)["refund_id"])
        assert self.control.status(name)["phase"] == "waiting_for_ready"
        return name

    def manual(self, *, failed: bool = False) -> str:
        """A manual intervention that waits for what the call answers; or, where that was a failure, what to do."""
        name = str(self.done(ALICE, "/design-pattern/intervention/start")["text"])
        if failed:
            self.done(ALICE, "/api/v1/workflow/publishToInternalChannel", published(name))
        return name

    def signup(self) -> str:
        """The user name of a sign-up that waits to be verified."""
        name = f"u{uuid4().hex[:12]}"
        form = {"username": name, "email": f"{name}@example.com"}
        self.done(ALICE, f"/signup/submit?{httpx.QueryParams(form)}")
        return name


def published(name: str) -> dict[str, Any]:
    """The body that says that the call of a manual intervention has failed."""
    return {"workflowId": name, "messages": [{"channelName": "internal_channel_command", "value": "failed"}]}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One app for all tests of the module, whose runs do not meet."""
    data = tmp_path_factory.mktemp("house")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_HOST_DATA", str(data))
        patch.setenv("DECISION_WAIT_SECONDS", "10")
        patch.setenv("AUTH", "keys")
        get_settings.cache_clear()
        close_record_store()
        forget_keys()
        keys = {name: make_key(get_record_store(), name, [*rights], clock.now()) for name, rights in RIGHTS.items()}
        with running_app(ROOT, data) as control, httpx.Client(base_url=control.url, trust_env=False) as client:
            clock.set_clock(lambda: control.now)
            try:
                yield House(control, client, data, keys)
            finally:
                clock.set_clock(clock.system_clock)
    forget_keys()
    get_settings.cache_clear()
    close_record_store()


def decide(house: House, kind: str, who: str, name: str, *, named: str | None = None, **more: Any) -> httpx.Response:
    """Approve an order or a request, over the API."""
    key = more.pop("key", None)
    if kind == "order":
        body = {"approved": True, **more} | ({"approver_name": named} if named is not None else {})
        return house.call(who, f"/signal-approval/{name}", body, key=key)
    body = {"vote": "approve", **more} | ({"approver": named} if named is not None else {})
    return house.call(who, f"/api/approvals/{name}", body, key=key)


def waiting(house: House, kind: str) -> str:
    """An order or a request that waits."""
    return house.order() if kind == "order" else house.request()


def refused(response: httpx.Response | Answer, status: int, **members: Any) -> str:
    """Assert that something was refused, and give the words."""
    body = response.json() if isinstance(response, httpx.Response) else response.body
    found = response.status_code if isinstance(response, httpx.Response) else response.status
    assert (found, {name: body.get(name) for name in members}) == (status, members), body
    return str(body["detail"])


SAID = {"order": ("decided",), "request": ("voted", "decided")}


# Decisions


@pytest.mark.parametrize("kind", ["order", "request"])
@pytest.mark.parametrize("named", [None, BOB.upper()], ids=["left out", "in capitals"])
def test_who_decides_is_the_caller(house: House, kind: str, named: str | None) -> None:
    name = waiting(house, kind)
    answer = decide(house, kind, BOB, name, named=named)
    assert (answer.status_code, answer.json()["decided_by"]) == (200, BOB)
    assert house.told(name, *SAID[kind]) == [(BOB, None)] * len(SAID[kind])


@pytest.mark.parametrize("kind", ["order", "request"])
def test_nobody_decides_in_the_name_of_another(house: House, kind: str) -> None:
    name = waiting(house, kind)
    before = house.trail(name)
    assert "bob@" not in refused(decide(house, kind, ALICE, name, named=BOB), 403, permission="approval:admin")
    assert house.trail(name) == before
    assert house.control.state(name).runtime_status.name == "RUNNING"
    assert decide(house, kind, BOB, name).status_code == 200


def test_an_administrator_decides_on_behalf_which_the_trail_shows(house: House) -> None:
    name = house.request(requester_email=ALICE)
    answer = decide(house, "request", ADA, name, named=BOB, comments="He is on a boat")
    assert (answer.status_code, answer.json()["decided_by"]) == (200, BOB)
    assert house.told(name, "voted", "decided") == [(ADA, BOB), (ADA, BOB)]
    shown = house.shown(f"/api/requests/{name}")
    assert [(each["by"], each["on_behalf_of"]) for each in shown["rounds"][0]["votes"]] == [(ADA, BOB)]
    assert [(each["by"], each["sent_by"]) for each in shown["output"]["votes"]] == [(BOB, ADA)]
    assert (shown["output"]["approver"], shown["custom_status"]["decision"]["by"]) == (BOB, BOB)
    (mail,) = [each for each in house.mails(name) if each["To"] == ALICE]
    text = mail.get_body(("plain",))
    assert text is not None
    assert BOB in text.get_content()
    assert ADA not in text.get_content()


def test_an_administrator_decides_on_an_order_on_behalf(house: House) -> None:
    name = house.order()
    assert decide(house, "order", ADA, name, named="The Boss").status_code == 200
    assert house.told(name, "decided") == [(ADA, "The Boss")]
    assert house.shown(f"/status/{name}")["status"] == "Approved by The Boss"


def test_a_vote_on_behalf_counts_as_that_persons_and_only_once(house: House) -> None:
    name = house.request(approvers=[BOB, CAROL], policy="all")
    assert decide(house, "request", ADA, name, named=BOB, key="k1").status_code == 200
    assert decide(house, "request", ADA, name, named=BOB, key="k1").status_code == 200
    assert house.told(name, "voted") == [(ADA, BOB)]
    assert refused(decide(house, "request", ADA, name, named="eve@example.com"), 403, code="not_asked")
    assert refused(decide(house, "request", ADA, name), 403, code="not_asked")
    assert house.told(name, "refused") == [(ADA, "eve@example.com"), (ADA, None)]
    assert decide(house, "request", BOB, name, vote="reject").json()["outcome"] == "rejected"


def test_a_vote_on_behalf_of_who_stands_in_for_another(house: House) -> None:
    name = house.request()
    house.done(BOB, f"/api/requests/{name}/delegate", {"to": CAROL})
    assert decide(house, "request", ADA, name, named=CAROL).status_code == 200
    (vote,) = house.shown(f"/api/requests/{name}")["output"]["votes"]
    assert (vote["by"], vote["on_behalf_of"], vote["sent_by"]) == (CAROL, BOB, ADA)
    assert house.told(name, "voted") == [(ADA, CAROL)]


def test_an_administrator_does_not_decide_on_an_own_request_in_anybodys_name(house: House) -> None:
    name = house.request(ADA)
    assert refused(decide(house, "request", ADA, name, named=BOB), 403, code="own_request")
    assert house.told(name, "refused") == [(ADA, BOB)]
    assert house.control.status(name)["phase"] == "waiting_for_approval"
    for_another = house.request(ADA, requester="Zoe")
    refused(decide(house, "request", ADA, for_another, named=BOB), 403, code="own_request")
    allowed = house.request(ADA, allow_self_approval=True)
    assert decide(house, "request", ADA, allowed, named=BOB).status_code == 200


@pytest.mark.parametrize("kind", ["order", "request"])
def test_what_comes_too_late_is_noted_with_who_sent_it(house: House, kind: str) -> None:
    name = house.order() if kind == "order" else house.request(timeout_hours=1)
    house.control.client.terminate_orchestration(name)
    house.control.settle()
    refused(decide(house, kind, BOB, name), 410)
    refused(decide(house, kind, ADA, name, named=BOB), 410)
    assert house.told(name, "late") == [(BOB, None), (ADA, BOB)]


# Starting


STARTS: dict[str, Callable[[House], str]] = {
    "order": House.order,
    "request": House.request,
    "call": House.failed_call,
    "refund": House.refund,
    "manual": House.manual,
    "signup": lambda house: f"signup-{house.signup()}",
}


@pytest.mark.parametrize("kind", STARTS)
def test_who_started_a_run_is_in_its_trail(house: House, kind: str) -> None:
    name = STARTS[kind](house)
    assert house.told(name, "started") == [(ALICE, None)]


def test_what_is_small_enough_has_who_started_it_too(house: House) -> None:
    name = house.done(BOB, "/start-purchase-order", ORDER | {"cost": 1})["instance_id"]
    assert house.told(name, "started") == [(BOB, None)]


def test_a_microservice_has_who_started_it_and_who_signalled_it(house: House) -> None:
    name = f"m-{uuid4()}"
    house.done(ALICE, f"/microservice/start?workflowId={name}")
    house.done(BOB, f"/microservice/swap?workflowId={name}&data=x")
    house.done(BOB, f"/microservice/signal?workflowId={name}")
    assert house.told(name, "started", "swapped", "received") == [(ALICE, None), (BOB, None), (BOB, None)]


def test_who_starts_a_request_for_another_is_told_beside_them_and_does_not_decide_on_it(house: House) -> None:
    name = house.request(ALICE, requester="Zoe", approvers=[ALICE, BOB])
    assert house.told(name, "started") == [(ALICE, "Zoe")]
    assert house.shown(f"/api/requests/{name}")["input"]["requester"] == "Zoe"
    refused(decide(house, "request", ALICE, name), 403, code="own_request")
    refused(house.call(BOB, f"/api/requests/{name}/delegate", {"to": ALICE}), 409, code="to_requester")
    assert decide(house, "request", BOB, name).status_code == 200
    wrong = house.call(ALICE, "/api/requests", REQUEST | {"requester": "Zoe", "approvers": [ALICE]})
    refused(wrong, 422)
    assert [each["field"] for each in wrong.json()["errors"]] == ["approvers"]
    assert "you who start it" in wrong.json()["errors"][0]["message"]


def test_who_starts_a_request_under_an_address_of_the_requester_is_the_requester(house: House) -> None:
    name = house.request(ALICE, requester="Alice", requester_email=ALICE.upper())
    assert house.told(name, "started") == [(ALICE, None)]


@pytest.mark.parametrize(
    ("path", "body", "id_name"),
    [
        ("/api/requests", REQUEST | {"requester": "Zoe"}, "request_id"),
        ("/api/interventions", CALL, "intervention_id"),
        ("/api/refunds", REFUND, "refund_id"),
    ],
)
def test_a_start_is_repeated_by_whoever_has_its_key(
    house: House, path: str, body: dict[str, Any], id_name: str
) -> None:
    key = uuid4().hex
    first, again = (house.done(who, path, body, key=key)[id_name] for who in (ALICE, ADA))
    assert first == again
    assert house.told(first, "started") == [(ALICE, "Zoe" if id_name == "request_id" else None)]
    refused(
        house.call(BOB, path, body | {"idempotency_key": "x", "retry": {"attempts": 9}, "item": "A chair"}, key=key),
        422,
    )


def test_who_replaces_a_run_is_told_in_its_trail(house: House) -> None:
    body = ORDER | {"instance_id": f"it-{uuid4()}"}
    house.done(ALICE, "/start-purchase-order", body)
    house.done(ADA, "/start-purchase-order?idReusePolicy=ALLOW_TERMINATE_IF_RUNNING", body)
    assert house.told(body["instance_id"], "purged") == [(ADA, None)]


def test_nobody_says_in_a_body_who_they_are_to_the_run(house: House) -> None:
    for path, body in (
        ("/api/requests", REQUEST | {"started_by": BOB}),
        ("/start-purchase-order", ORDER | {"started_by": BOB}),
        ("/api/interventions", CALL | {"started_by": BOB}),
        ("/api/refunds", REFUND | {"started_by": BOB}),
        (f"/api/approvals/{house.request()}", {"vote": "approve", "sent_by": BOB}),
        (f"/signal-approval/{house.order()}", {"approved": True, "sent_by": BOB}),
    ):
        assert refused(house.call(ADA, path, body), 422)


# Commands


COMMANDS: dict[str, tuple[dict[str, Any], str]] = {
    "extend": ({"extend_by": 1}, "extended"),
    "remind": ({}, "reminded"),
    "withdraw": ({}, "withdrawn"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_the_callers_or_on_behalf(house: House, command: str) -> None:
    body, action = COMMANDS[command]
    path = f"/api/requests/{{}}/{command}"
    name, other = house.request(), house.request()
    refused(house.call(BOB, path.format(name), body | {"by": ALICE}), 403, permission="approval:admin")
    if command != "remind":  # which everybody may
        refused(house.call(BOB, path.format(name), body), 403, code="not_requester")
        refused(house.call(ADA, path.format(name), body), 403, code="not_requester")
    assert house.told(name, action) == []
    house.done(ALICE, path.format(name), body)
    house.done(ADA, path.format(other), body | {"by": ALICE})
    assert house.told(name, action) == [(ALICE, None)]
    assert house.told(other, action) == [(ADA, ALICE)]


def test_changes_are_asked_for_and_made_by_callers_or_on_behalf(house: House) -> None:
    name = house.request(requester_email=ALICE)
    house.done(ADA, f"/api/approvals/{name}", {"approver": BOB, "vote": "request_changes", "comments": "Smaller"})
    house.done(BOB, f"/api/requests/{name}/remind", {})
    house.done(ADA, f"/api/requests/{name}/remind", {"by": BOB})
    refused(house.call(BOB, f"/api/requests/{name}/revise", {"item": "A stool"}), 403, code="not_requester")
    house.done(ADA, f"/api/requests/{name}/revise", {"item": "A stool", "by": ALICE})
    assert house.told(name, "changes_requested", "reminded", "refused", "revised") == [
        (ADA, BOB),
        (BOB, None),
        (ADA, BOB),
        (BOB, None),
        (ADA, ALICE),
    ]


def test_who_started_a_request_for_another_withdraws_it(house: House) -> None:
    name = house.request(ALICE, requester="Zoe")
    house.done(ALICE, f"/api/requests/{name}/withdraw", {})
    assert house.told(name, "withdrawn") == [(ALICE, None)]


def test_a_vote_is_handed_over_by_who_has_it_or_by_an_administrator(house: House) -> None:
    name, other = house.request(), house.request()
    refused(house.call(ALICE, f"/api/requests/{name}/delegate", {"approver": BOB, "to": CAROL}), 403)
    refused(house.call(BOB, f"/api/requests/{name}/delegate", {"by": ADA, "to": CAROL}), 403)
    refused(house.call(ADA, f"/api/requests/{name}/delegate", {"approver": BOB, "by": ALICE, "to": CAROL}), 403)
    refused(house.call(ADA, f"/api/requests/{name}/delegate", {"to": CAROL}), 403, code="not_asked")
    assert house.told(name, "delegated") == []
    house.done(BOB, f"/api/requests/{name}/delegate", {"by": BOB, "to": CAROL})
    house.done(ADA, f"/api/requests/{other}/delegate", {"approver": BOB, "to": CAROL})
    assert house.told(name, "delegated") == [(BOB, None)]
    assert house.told(other, "delegated") == [(ADA, BOB)]
    own = house.request(ADA)
    refused(house.call(ADA, f"/api/requests/{own}/delegate", {"approver": BOB, "to": CAROL}), 403, code="own_request")


# Interventions


def test_who_acts_on_a_failed_call_is_the_caller_or_on_behalf(house: House) -> None:
    name = house.failed_call(assigned_to=[BOB])
    path = f"/api/interventions/{name}"
    refused(house.call(ALICE, f"{path}/retry", {"reason": "x"}), 403, code="not_assigned")
    refused(house.call(ALICE, f"{path}/retry", {"reason": "x", "by": BOB}), 403, permission="approval:admin")
    refused(house.call(ADA, f"{path}/fail", {"reason": "x"}), 403, code="not_assigned")
    refused(house.call(ADA, f"{path}/fail", {"reason": "x", "by": CAROL}), 403, code="not_assigned")
    house.done(BOB, f"{path}/retry", {"reason": "It is up"})
    house.done(ADA, f"{path}/edit", {"reason": "Typo", "by": BOB, "body": {"to": "Basel"}})
    house.done(ADA, f"{path}/skip", {"reason": "Enough", "by": BOB})
    assert house.told(name, "retried", "edited", "skipped") == [(BOB, None), (ADA, BOB), (ADA, BOB)]
    assert house.told(name, "refused") == [(ALICE, None), (ADA, None), (ADA, CAROL)]
    shown = house.shown(path)
    assert [(each["by"], each.get("sent_by")) for each in shown["done"]] == [(BOB, None), (BOB, ADA), (BOB, ADA)]
    assert (shown["output"]["by"], shown["gate"]["last"]["by"]) == (BOB, BOB)
    assert "started_by" not in shown


def test_who_resolves_many_is_the_caller_or_on_behalf(house: House) -> None:
    statuses = {"call": CALL["call"] | {"status": 501}}  # so that nothing else waits on this error
    first = house.failed_call(**statuses)
    body = {
        "fingerprint": house.control.status(first)["gate"]["fingerprint"],
        "action": "fail",
        "reason": "It is gone",
    }
    refused(house.call(ALICE, "/api/interventions/resolve", body | {"by": BOB}), 403, permission="approval:admin")
    assert house.done(ALICE, "/api/interventions/resolve", body)["resolved"] == 1
    second = house.failed_call(**statuses)
    assert house.done(ADA, "/api/interventions/resolve", body | {"by": BOB})["resolved"] == 1
    assert house.told(first, "failed") == [(ALICE, None)]
    assert house.told(second, "failed") == [(ADA, BOB)]


def test_messages_on_channels_are_the_callers(house: House) -> None:
    name = house.manual(failed=True)
    retry = {"workflowId": name, "signalChannelName": "signal_channel_command_retry"}
    key = uuid4().hex
    assert house.done(BOB, "/api/v1/workflow/signal", retry, key=key)["verdict"] == "accepted"
    assert house.done(ALICE, "/api/v1/workflow/signal", retry, key=key)["verdict"] == "accepted"
    assert house.told(name, "received") == [(ALICE, None), (BOB, None)]


# Refunds, sign-ups, the trail


def test_who_says_that_a_refund_is_ready_is_the_caller_or_on_behalf(house: House) -> None:
    first, second, third = house.refund(), house.refund(), house.refund()
    refused(house.call(ALICE, f"/api/refunds/{first}/ready", {"by": BOB}), 403, permission="approval:admin")
    assert house.told(first, "received") == []
    assert house.done(ALICE, f"/api/refunds/{first}/ready")["verdict"] == "accepted"
    assert house.done(ADA, f"/api/refunds/{second}/ready", {"by": BOB})["verdict"] == "accepted"
    signal = {"workflowId": third, "signalChannelName": "Ready"}
    key = uuid4().hex
    assert [house.done(who, "/api/v1/workflow/signal", signal, key=key)["verdict"] for who in (BOB, ALICE)] == [
        "accepted",
        "accepted",
    ]
    assert [house.told(name, "received") for name in (first, second, third)] == [
        [(ALICE, None)],
        [(ADA, BOB)],
        [(BOB, None)],
    ]


def test_who_vouches_for_a_sign_up_is_the_caller(house: House) -> None:
    name = house.signup()
    assert house.done(BOB, f"/signup/verify?username={name}&source=email")["text"] == "done"
    assert house.told(f"signup-{name}", "verified") == [(BOB, None)]


def test_nobody_is_told_of_a_sign_up_by_its_page(house: House) -> None:
    name = f"u{uuid4().hex[:12]}"
    form = {"username": name, "email": f"{name}@example.com"}
    with httpx.Client(base_url=house.control.url, trust_env=False) as browser:
        page = browser.get("/signup").text
        token = page.partition('name="view" value="')[2].partition('"')[0]
        browser.post("/signup", data=form | ({"view": token} if token else {}))
    house.control.settle()
    assert house.told(f"signup-{name}", "started") == [(None, None)]


def test_who_erases_is_the_caller_or_on_behalf(house: House) -> None:
    first, second = house.request(), house.request()
    for name in (first, second):
        decide(house, "request", BOB, name, comments="Fine")
    refused(house.call(ALICE, f"/api/audit/{first}/erase", {}), 403, permission="audit:erase")
    assert house.done(ADA, f"/api/audit/{first}/erase", {})["erased"] == 1
    assert house.done(ADA, f"/api/audit/{second}/erase", {"by": "The data protection officer"})["erased"] == 1
    assert house.told(first, "erased") == [(ADA, None)]
    assert house.told(second, "erased") == [(ADA, "The data protection officer")]


# Doors for resuming


def resume(house: House, who: str, kind: str, name: str, data: dict[str, Any], **more: Any) -> Answer:
    """Resume a run of some kind."""
    return house.door(who, DOORS[kind], name, data, **more)


DOORS: dict[str, Door] = {
    "request": resume_approval,
    "order": resume_purchase_order,
    "call": resume_guarded_call,
    "refund": resume_refund,
    "manual": resume_manual_intervention,
    "signup": resume_signup,
}


@pytest.mark.parametrize("kind", ["order", "request"])
@pytest.mark.parametrize(("approved", "outcome"), [(True, "approved"), (False, "rejected")])
def test_a_resume_decides(house: House, kind: str, *, approved: bool, outcome: str) -> None:
    name = waiting(house, kind)
    data = {"approved": approved, "comments": "So be it"}
    answer = resume(house, BOB, kind, name, data, key="k1")
    assert (answer.status, answer.body["outcome"], answer.body["decided_by"]) == (200, outcome, BOB)
    assert resume(house, BOB, kind, name, data, key="k1").body["outcome"] == outcome
    refused(resume(house, ADA, kind, name, data), 409, decided_by=BOB)
    assert house.told(name, *SAID[kind]) == [(BOB, None)] * len(SAID[kind])


@pytest.mark.parametrize("kind", ["order", "request"])
def test_a_resume_decides_by_the_same_checks(house: House, kind: str) -> None:
    name = waiting(house, kind)
    refused(resume(house, ALICE, kind, name, {"approved": True, "approver": BOB}), 403, permission="approval:admin")
    refused(resume(house, CAROL, kind, name, {"approved": True}), 403, permission="approval:decide")
    refused(resume(house, BOB, kind, f"no-{uuid4()}", {"approved": True}), 404)
    if kind == "request":
        refused(resume(house, ALICE, kind, name, {"approved": True}), 403, code="own_request")
    assert house.told(name, *SAID[kind]) == []
    assert resume(house, ADA, kind, name, {"approved": True, "approver": BOB}).status == 200
    assert house.told(name, *SAID[kind]) == [(ADA, BOB)] * len(SAID[kind])


@pytest.mark.parametrize("kind", ["order", "request"])
@pytest.mark.parametrize(
    ("data", "wrong"),
    [
        ({}, "approved"),
        ({"comments": "fine"}, "approved"),
        ({"approved": None}, "approved"),
        ({"approved": "true"}, "approved"),
        ({"approved": 1}, "approved"),
        ({"approved": [True]}, "approved"),
        ({"approved": True, "is_approved": True}, "is_approved"),
        ({"approved": True, "sent_by": ADA}, "sent_by"),
        ({"approved": True, "decision_id": "d"}, "decision_id"),
        ({"approved": True, "approver": 1}, "approver"),
        ({"approved": True, "approver": ""}, "approver"),
        ({"approved": True, "comments": "x" * 4001}, "comments"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_resume_that_does_not_say_yes_or_no_outright_decides_nothing(
    house: House, kind: str, data: dict[str, Any], wrong: str, undecided: dict[str, str]
) -> None:
    answer = resume(house, BOB, kind, undecided[kind], data)
    sentence = refused(answer, 422)
    assert [each["field"] for each in answer.body["errors"]] == [f"resume_data.{wrong}"]
    assert ("an empty resume never means yes" in sentence) == ("approved" not in data)
    assert house.control.state(undecided[kind]).runtime_status.name == "RUNNING"
    assert house.told(undecided[kind], "voted", "decided", "refused") == []


@pytest.mark.parametrize("contract", [ResumeApproval, ResumePurchaseOrder])
def test_data_of_a_resume_without_a_decision_are_none_wherever_they_are_read(contract: type[Contract]) -> None:
    with pytest.raises(ValidationError, match="approved"):
        contract.model_validate({"approver": BOB})


@pytest.fixture(scope="module")
def undecided(house: House) -> dict[str, str]:
    """An order and a request on which nobody decides."""
    return {"order": house.order(), "request": house.request()}


def test_a_resume_has_answers_where_the_request_has_a_form(house: House) -> None:
    form = {"type": "object", "properties": {"cost_center": {"type": "string"}}, "required": ["cost_center"]}
    name = house.request(form=form)
    refused(resume(house, BOB, "request", name, {"approved": True}), 422, code="answers_wrong")
    refused(resume(house, BOB, "request", name, {"approved": False, "answers": {"cost_center": "1"}}), 422)
    answer = resume(house, BOB, "request", name, {"approved": True, "answers": {"cost_center": "1"}})
    assert answer.body["outcome"] == "approved"


@pytest.mark.parametrize(
    ("data", "action", "status"),
    [
        ({"action": "retry"}, "retried", "RUNNING"),
        ({"action": "edit", "body": {"to": "Basel"}}, "edited", "RUNNING"),
        ({"action": "edit", "body": None}, "edited", "RUNNING"),
        ({"action": "skip", "result": None}, "skipped", "COMPLETED"),
        ({"action": "skip", "result": {"n": 1}}, "skipped", "COMPLETED"),
        ({"action": "fail"}, "failed", "FAILED"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_resume_acts_on_a_failed_call(house: House, data: dict[str, Any], action: str, status: str) -> None:
    name = house.failed_call()
    answer = resume(house, BOB, "call", name, data | {"reason": "So be it"})
    assert (answer.status, answer.body["action"]) == (200, data["action"])
    assert house.told(name, action) == [(BOB, None)]
    state = house.control.state(name)
    assert state.runtime_status.name == status
    if data["action"] == "skip":
        assert json.loads(state.serialized_output or "")["result"] == data["result"]


@pytest.mark.parametrize(
    ("data", "wrong"),
    [
        ({}, "action"),
        ({"reason": "x"}, "action"),
        ({"action": "approve", "reason": "x"}, "action"),
        ({"action": ["retry"], "reason": "x"}, "action"),
        ({"action": None}, "action"),
        ({"action": "retry"}, "reason"),
        ({"action": "retry", "reason": ""}, "reason"),
        ({"action": "retry", "reason": 1}, "reason"),
        ({"action": "retry", "reason": "x", "approved": True}, "approved"),
        ({"action": "retry", "reason": "x", "sent_by": ADA}, "sent_by"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_resume_that_does_not_say_what_to_do_does_nothing_to_a_failed_call(
    house: House, data: dict[str, Any], wrong: str, failing: str
) -> None:
    answer = resume(house, BOB, "call", failing, data)
    sentence = refused(answer, 422)
    assert [each["field"] for each in answer.body["errors"]] == [f"resume_data.{wrong}"]
    if wrong == "action":
        assert "retry, fail" in sentence  # what is open now
        assert answer.body["actions"] == ["retry", "fail"]
    assert house.control.status(failing)["phase"] == "waiting_for_intervention"


@pytest.fixture(scope="module")
def failing(house: House) -> str:
    """A call that waits, and can only be retried or failed."""
    return house.failed_call(skippable=False, editable=False)


def test_a_resume_of_a_failed_call_goes_by_the_same_checks(house: House, failing: str) -> None:
    skip = {"action": "skip", "reason": "x"}
    refused(resume(house, BOB, "call", failing, skip), 409, code="not_allowed", actions=["retry", "fail"])
    refused(resume(house, BOB, "call", failing, skip | {"by": ALICE}), 403, permission="approval:admin")
    refused(resume(house, BOB, "call", failing, {"action": "edit", "reason": "x"}), 422)
    for more in ({"body": 1}, {"result": None}):
        refused(resume(house, BOB, "call", failing, {"action": "retry", "reason": "x"} | more), 422)
    refused(resume(house, BOB, "call", failing, {"action": "retry", "reason": "x", "gate": 2}), 410, code="old_gate")
    refused(resume(house, BOB, "call", house.order(), skip), 404)


def test_a_resume_makes_a_refund_ready(house: House) -> None:
    name = house.refund()
    for data in ({}, {"by": BOB}, {"action": "approve"}, {"action": "ready", "ready": True}, {"action": 1}):
        refused(resume(house, BOB, "refund", name, data), 422)
    refused(resume(house, BOB, "refund", name, {"action": "ready", "by": ALICE}), 403, permission="approval:admin")
    assert house.told(name, "received") == []
    answer = resume(house, BOB, "refund", name, {"action": "ready", "comments": "Here it is"})
    assert (answer.status, answer.body["verdict"]) == (200, "accepted")
    assert house.told(name, "received") == [(BOB, None)]


def test_a_resume_is_a_message_to_a_manual_intervention(house: House) -> None:
    name = house.manual()
    answer = resume(house, BOB, "manual", name, {"command": "failed"})
    assert (answer.status, answer.body["verdict"]) == (200, "accepted")
    answer = resume(house, BOB, "manual", name, {})
    assert "signal_channel_command_skip" in refused(answer, 422)
    assert answer.body["actions"] == ["signal_channel_command_retry", "signal_channel_command_skip"]
    for data in (
        {"action": "fail"},
        {"action": True},
        {"action": "retry", "command": 1},
        {"retry": True},
        {"action": None},
    ):
        refused(resume(house, BOB, "manual", name, data), 422)
    assert resume(house, BOB, "manual", name, {"action": "retry"}, key="k1").body["verdict"] == "accepted"
    assert resume(house, BOB, "manual", name, {"command": None}).body["verdict"] == "accepted"
    assert house.control.output(name) == 1
    assert house.told(name, "received") == [(BOB, None)] * 3
    skipped = house.manual(failed=True)
    assert resume(house, BOB, "manual", skipped, {"action": "skip"}).body["verdict"] == "accepted"
    assert house.control.output(skipped) == 0


def test_a_resume_verifies_a_sign_up(house: House) -> None:
    name = f"signup-{house.signup()}"
    for data in ({}, {"source": "email"}, {"action": "approve"}, {"action": "verify", "approved": True}):
        refused(resume(house, BOB, "signup", name, data), 422)
    assert house.told(name, "verified") == []
    assert resume(house, BOB, "signup", name, {"action": "verify"}, key="k1").body["verdict"] == "done"
    assert resume(house, BOB, "signup", name, {"action": "verify"}, key="k1").body["verdict"] == "done"
    assert resume(house, BOB, "signup", name, {"action": "verify"}).body["verdict"] == "already verified"
    assert house.told(name, "verified") == [(BOB, None)]
    refused(resume(house, BOB, "signup", f"signup-{uuid4()}", {"action": "verify"}), 404)


def test_all_of_that_leaves_trails_that_verify(house: House) -> None:
    name = house.request(ALICE, requester="Zoe")
    house.done(ADA, f"/api/requests/{name}/remind", {"by": BOB})
    decide(house, "request", ADA, name, named=BOB)
    house.control.advance(timedelta(seconds=1))
    assert house.shown(f"/api/audit/{name}/verify")["verdict"] == "intact"


@pytest.mark.parametrize("rule", [{"allow_self_approval": True}, {"on_timeout": "approve"}])
def test_who_may_only_start_does_not_do_without_those_who_decide(house: House, rule: dict[str, Any]) -> None:
    refused(house.call(ALICE, "/api/requests", REQUEST | rule), 403, permission="approval:admin")
    assert house.call(ADA, "/api/requests", REQUEST | rule).status_code == 202


def test_who_may_only_start_ends_no_run_that_has_the_id(house: House) -> None:
    name = house.request(ALICE)
    again = REQUEST | {"request_id": name}
    ends_it = "/api/requests?idReusePolicy=ALLOW_TERMINATE_IF_RUNNING"
    refused(house.call(ALICE, ends_it, again), 403, permission="execution:cancel")
    assert house.control.status(name)["phase"] == "waiting_for_approval"
