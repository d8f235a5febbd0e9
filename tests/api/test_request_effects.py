"""What a request does to the world outside: mails that cannot be sent, outcomes that are posted, what is kept of it;
and requests of an earlier version."""

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from durabletask.internal.orchestrator_service_pb2 import CreateInstanceRequest

from local_host.testing import AppControl, running_app
from services import clock
from services import shown as shown_contents
from services.record_store import get_record_store
from settings import get_settings
from tests.api.test_requests import (
    BOB,
    CAROL,
    DAVE,
    REQUEST,
    asked,
    ended,
    outcome,
    post,
    shown,
    told,
    vote,
)
from tests.hosting import ROOT, host_process
from tests.polling import until

KEYS = [bytes(range(32)), bytes(range(100, 148))]
CALLBACK_KEY = f"whsec_{base64.b64encode(KEYS[0]).decode()},{base64.b64encode(KEYS[1]).decode()}"


@dataclass
class Receiver:
    """A server that outcomes are posted to: ``answers`` are its next statuses, then it says 204."""

    url: str
    host: str
    answers: list[int] = field(default_factory=list)
    received: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A server on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.received.append((self.path, {name.lower(): text for name, text in self.headers.items()}, body))
            self.send_response(found.answers.pop(0) if found.answers else 204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    place = f"127.0.0.1:{server.server_port}"
    found = Receiver(f"http://{place}/outcomes?of=desks", place)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


def is_signed(headers: dict[str, str], body: bytes) -> bool:
    """Whether it is signed with each of the keys, in their order, as Standard Webhooks says."""
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = [base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode() for key in KEYS]
    return headers["webhook-signature"].split(" ") == [f"v1,{each}" for each in expected]


@dataclass
class Moved:
    """The app in this process, on a clock that the test moves."""

    control: AppControl
    client: httpx.Client
    data: Path

    def advance(self, **time: float) -> None:
        """Move the clock."""
        self.control.advance(timedelta(**time))


@contextmanager
def moved_app(data: Path) -> Iterator[Moved]:
    """Run the app on a data folder."""
    with (
        running_app(ROOT, data) as control,
        httpx.Client(base_url=control.url, trust_env=False, timeout=20) as client,
    ):
        clock.set_clock(lambda: control.now)
        try:
            yield Moved(control, client, data)
        finally:
            clock.set_clock(clock.system_clock)


@pytest.fixture
def moved(data_folder: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Iterator[Moved]:
    """The app, which may post outcomes to the receiver."""
    monkeypatch.setenv("CALLBACK_KEY", CALLBACK_KEY)
    monkeypatch.setenv("CALLBACK_HOSTS", f"example.org, {receiver.host}")
    get_settings.cache_clear()
    with moved_app(data_folder) as app:
        yield app


# Outcomes that are posted


def test_the_outcome_is_posted_signed(tmp_path: Path, receiver: Receiver) -> None:
    settings = {"CALLBACK_KEY": CALLBACK_KEY, "CALLBACK_HOSTS": receiver.host}
    with host_process(tmp_path, environment=settings) as host, host.client() as client:
        request_id = asked(client, BOB, callback_url=receiver.url)
        assert receiver.received == []
        assert outcome(vote(client, request_id, BOB, "reject", comments="Zu teuer 李")) == "rejected"
        body = ended(client, request_id)
        [(path, headers, posted)] = receiver.received
        assert path == "/outcomes?of=desks"
        assert headers["content-type"] == "application/json"
        assert is_signed(headers, posted)
        assert not is_signed(headers | {"webhook-timestamp": "1"}, posted)
        document = json.loads(posted)
        assert document["type"] == "approval.rejected"
        output = body["output"] | {"trail": None}
        assert document["data"] == {"request_id": request_id, "run": body["custom_status"]["trail"]["run"], **output}
        assert [each["action"] for each in body["history"]][-2:] in (["called_back", "ended"], ["mailed", "ended"])
        assert len(told(client, request_id, "called_back")) == 1
        for secret in CALLBACK_KEY.split(","):
            assert (
                secret.removeprefix("whsec_")
                not in host.log.read_text() + client.get(f"/api/requests/{request_id}").text
            )


def test_an_outcome_that_is_not_taken_at_once_is_posted_again_the_same(moved: Moved, receiver: Receiver) -> None:
    receiver.answers = [500, 302]
    request_id = asked(moved.client, BOB, callback_url=receiver.url)
    assert outcome(vote(moved.client, request_id, BOB)) == "approved"
    moved.control.settle()
    assert len(receiver.received) == 1
    body = shown(moved.client, request_id)
    assert (body["status"], body["runtime_status"]) == ("Approved", "RUNNING")
    assert vote(moved.client, request_id, BOB).json()["decided_by"] == BOB
    moved.advance(minutes=2)
    assert len(receiver.received) == 3
    assert shown(moved.client, request_id)["runtime_status"] == "COMPLETED"
    assert len({(headers["webhook-id"], posted) for _, headers, posted in receiver.received}) == 1
    assert len({headers["webhook-timestamp"] for _, headers, _ in receiver.received}) == 3
    assert all(is_signed(headers, posted) for _, headers, posted in receiver.received)
    assert len(told(moved.client, request_id, "called_back")) == 1
    moved.advance(days=1)
    assert len(receiver.received) == 3


def test_an_outcome_that_is_never_taken_is_told_and_holds_nothing_up(moved: Moved, receiver: Receiver) -> None:
    receiver.answers = [503] * 100
    request_id = asked(moved.client, BOB, callback_url=receiver.url)
    assert outcome(vote(moved.client, request_id, BOB)) == "approved"
    moved.advance(days=1)
    body = shown(moved.client, request_id)
    assert (body["status"], body["runtime_status"]) == ("Approved", "COMPLETED")
    assert len(receiver.received) == 10
    assert len(told(moved.client, request_id, "callback_failed")) == 1
    assert any("callback_url" in warning for warning in body["custom_status"]["warnings"])


@pytest.mark.parametrize(
    ("how", "kind"),
    [("withdrawn", "approval.withdrawn"), ("timed out", "approval.timeout"), ("failed", "approval.failed")],
)
def test_every_end_is_posted(moved: Moved, receiver: Receiver, how: str, kind: str) -> None:
    on_timeout = "fail" if how == "failed" else "reject"
    request_id = asked(moved.client, BOB, callback_url=receiver.url, on_timeout=on_timeout)
    if how == "withdrawn":
        moved.client.post(f"/api/requests/{request_id}/withdraw", json={"by": "Alice"})
        moved.control.settle()
    else:
        moved.advance(hours=1)
    [(_, headers, posted)] = receiver.received
    assert json.loads(posted)["type"] == kind
    assert is_signed(headers, posted)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/",
        "http://example.org/",
        "https://example.org:8443/",
        "https://example.org.evil.net/",
        "https://example.org@evil.net/",
        "https://user:secret@example.org/",
        "http://127.0.0.1:1/",
        "http://localhost/",
        "http://169.254.169.254/metadata",
    ],
)
def test_an_outcome_goes_nowhere_but_to_the_hosts_of_the_settings(moved: Moved, url: str) -> None:
    body = REQUEST | {"callback_url": url, "request_id": "nowhere"}
    response = moved.client.post("/api/requests", json=body)
    assert response.status_code == 422
    [error] = response.json()["errors"]
    assert error["field"] == "callback_url"
    assert "secret" not in response.text
    assert moved.client.get("/api/requests/nowhere").status_code == 404


def test_a_raw_start_does_not_get_around_the_hosts_of_the_settings(moved: Moved, receiver: Receiver) -> None:
    url = receiver.url.replace("127.0.0.1", "localhost")
    given = REQUEST | {"timeout_hours": 1.0, "callback_url": url}
    instance = moved.control.start("approval", given)
    assert outcome(vote(moved.client, instance, BOB)) == "approved"
    moved.advance(days=1)
    assert receiver.received == []
    assert len(told(moved.client, instance, "callback_failed")) == 1


# Mails that cannot be sent


def test_a_mail_that_cannot_be_sent_holds_no_decision_up_and_is_sent_when_it_can_be(moved: Moved) -> None:
    outbox = moved.data / "outbox"
    outbox.write_text("in the way")
    request_id = asked(moved.client, BOB, CAROL, policy="all")
    assert outcome(vote(moved.client, request_id, BOB)) == "pending"
    moved.advance(minutes=3)
    body = shown(moved.client, request_id)
    assert sorted(body["custom_status"]["standing"]["mail_failed"]) == [BOB, CAROL]
    assert {BOB in warning or CAROL in warning for warning in body["custom_status"]["warnings"]} == {True}
    [failed] = body["rounds"][0]["mail_failed"]
    assert (sorted(failed["people"]), failed["detail"]) == ([BOB, CAROL], "asked")
    assert told(moved.client, request_id, "mailed") == []
    assert str(moved.data) not in json.dumps(body)

    outbox.unlink()
    answer = post(moved.client, f"/api/requests/{request_id}/remind", {"by": "Alice"})
    assert answer.status_code == 200
    moved.control.settle()
    [mailed] = told(moved.client, request_id, "mailed")
    assert (mailed["people"], mailed["detail"]) == ([CAROL], "reminder")
    assert shown(moved.client, request_id)["custom_status"]["standing"]["mail_failed"] == [BOB]
    assert len(list(outbox.glob("*.eml"))) == 1
    assert outcome(vote(moved.client, request_id, CAROL)) == "approved"
    assert moved.control.output(request_id)["status"] == "Approved"


def test_a_request_whose_mails_are_still_tried_is_decided_at_once(moved: Moved) -> None:
    (moved.data / "outbox").write_text("in the way")
    request_id = asked(moved.client, BOB)
    assert outcome(vote(moved.client, request_id, BOB)) == "approved"
    body = shown(moved.client, request_id)
    assert (body["status"], body["runtime_status"]) == ("Approved", "RUNNING")
    assert body["custom_status"]["decision"]["by"] == BOB
    late = vote(moved.client, request_id, BOB, "reject")
    assert (late.status_code, late.json()["decided_by"]) == (409, BOB)
    moved.advance(minutes=3)
    body = shown(moved.client, request_id)
    assert (body["status"], body["runtime_status"]) == ("Approved", "COMPLETED")
    failed = [each["detail"] for each in told(moved.client, request_id, "mail_failed")]
    assert sorted(failed) == ["asked", "decided"]


# What is kept


@pytest.fixture
def purging(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has ended is kept for six hours."""
    monkeypatch.delenv("AzureWebJobs.purge_instances.Disabled")
    monkeypatch.setenv("RETENTION_DAYS", "0.25")


@pytest.mark.usefixtures("purging")
def test_a_purge_forgets_what_was_shown_and_keeps_the_trail(moved: Moved) -> None:
    request_id = asked(moved.client, BOB, description="a secret matter")
    other = asked(moved.client, BOB, timeout_hours=100)
    vote(moved.client, request_id, BOB, "request_changes", comments="Which one?")
    path = f"/api/requests/{request_id}"
    assert post(moved.client, f"{path}/revise", {"by": "Alice", "item": "Two desks"}).status_code == 200
    moved.control.settle()
    run = shown(moved.client, request_id)["custom_status"]["trail"]["run"]
    store = get_record_store()
    rounds = [shown_contents.read(store, request_id, run, number) for number in (1, 2)]
    assert [each and each.content.item for each in rounds] == ["A desk", "Two desks"]
    assert outcome(vote(moved.client, request_id, BOB)) == "approved"
    moved.advance(hours=7)
    assert moved.client.post("/admin/functions/purge_instances", json={}).status_code == 202
    until(lambda: moved.client.get(path).status_code == 404)
    assert [shown_contents.read(store, request_id, run, number) for number in (1, 2)] == [None, None]
    assert shown_contents.read(store, other, shown(moved.client, other)["custom_status"]["trail"]["run"], 1) is not None
    assert moved.client.get(f"/api/audit/{request_id}/verify").json()["verdict"] == "intact"
    assert vote(moved.client, request_id, BOB).status_code == 404


# Requests of an earlier version

NEW: dict[str, dict[str, Any]] = {
    "delegate": {"approver": BOB, "to": DAVE},
    "withdraw": {"by": "Alice"},
    "extend": {"by": "Alice", "extend_by": 1},
    "revise": {"by": "Alice"},
    "remind": {},
}
OLD = {"requester": "Alice", "item": "A desk", "timeout_hours": 1.0, "approvers": [BOB]}


def of_version(moved: Moved, version: str, name: str = "old") -> str:
    """A request that was started by an earlier version of the app."""
    request = CreateInstanceRequest(instanceId=name, name="approval")
    request.version.value = version
    request.input.value = json.dumps(OLD)
    moved.control.client._stub.StartInstance(request)  # the client cannot say so
    assert moved.control.status(name)["phase"] == "waiting_for_approval"
    return name


@pytest.mark.parametrize("version", ["", "2"])
@pytest.mark.parametrize("said", [{"is_approved": False}, {"vote": "reject"}])
def test_a_request_of_an_earlier_version_is_decided_as_it_was(moved: Moved, version: str, said: dict[str, Any]) -> None:
    name = of_version(moved, version)
    body = {"approver": "Manager", "comments": "No", **said}
    answer = post(moved.client, f"/api/approvals/{name}", body, "the-key")
    assert (outcome(answer), answer.json()["decided_by"]) == ("rejected", "Manager")
    assert outcome(post(moved.client, f"/api/approvals/{name}", body, "the-key")) == "rejected"
    late = vote(moved.client, name, DAVE)
    assert (late.status_code, late.json()["decided_by"]) == (409, "Manager")
    found = moved.control.output(name)
    assert (found["status"], found["approver"], found["comments"]) == ("Rejected", "Manager", "No")
    body = shown(moved.client, name)
    assert body["status"] == "Rejected"
    actions = ["started", "asked", "mailed", "decided", "ended"] if version else []
    assert [each["action"] for each in body["history"]] == actions


@pytest.mark.parametrize("version", ["", "2"])
@pytest.mark.parametrize("verb", NEW)
def test_a_request_of_an_earlier_version_cannot_do_what_is_new(moved: Moved, version: str, verb: str) -> None:
    name = of_version(moved, version)
    answer = post(moved.client, f"/api/requests/{name}/{verb}", NEW[verb])
    assert answer.status_code == 422
    assert "earlier version" in answer.json()["detail"]
    for said in ("abstain", "request_changes"):
        answer = vote(moved.client, name, BOB, said, comments="x")
        assert (answer.status_code, "approve or reject" in answer.json()["detail"]) == (422, True)
    assert moved.control.status(name)["warnings"] == []
    assert outcome(vote(moved.client, name, BOB)) == "approved"


def test_a_request_of_an_earlier_version_has_its_own_time(moved: Moved) -> None:
    name = of_version(moved, "2")
    moved.advance(hours=1)
    assert shown(moved.client, name)["status"] == "Timeout"
    late = vote(moved.client, name, BOB, comments="Sorry")
    assert late.status_code == 410
    [note] = told(moved.client, name, "late")
    assert (note["actor"], note["comment"]) == (BOB, "Sorry")
