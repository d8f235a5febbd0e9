"""The activities of an approval: mails from what is on record, checked answers, and the outcome that is posted."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.message import EmailMessage, Message
from email.policy import default
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from pydantic import ValidationError

from activities.approval import check_answers, post_outcome, send_mail
from contracts.shown import Content, Shown
from services import shown
from services.record_store import get_record_store
from settings import get_settings

NO_CONTEXT: Any = None
RUN = "20260301T110000000000Z"
MAIL = {
    "template": "asked",
    "instance_id": "one",
    "run": RUN,
    "number": 3,
    "round": 1,
    "to": "bob@example.org",
    "link_digest": "0" * 64,
}
OUTCOME = {"status": "Approved", "requester": "Alice", "item": "Laptop", "approver": "Bob", "comments": "Gut so, Jörg"}


def on_record(round_number: int = 1, item: str = "A laptop", run: str = RUN) -> None:
    """Put on record what a round shows."""
    said = Content(requester="Alice", item=item)
    get_record_store().write([shown.stored(Shown(instance_id="one", run=run, round=round_number, content=said))])


def mails(data_folder: Path) -> list[EmailMessage]:
    """All mails that were sent."""
    files = sorted((data_folder / "outbox").glob("*"))
    return [message_from_bytes(file.read_bytes(), _class=EmailMessage, policy=default) for file in files]


def test_a_mail_says_what_its_round_asks_for(data_folder: Path) -> None:
    on_record()
    on_record(2, "A better laptop")
    on_record(1, "Of another run", "20260301T110000000001Z")
    given = send_mail(NO_CONTEXT, MAIL | {"round": 2})
    [mail] = mails(data_folder)
    assert mail["Subject"] == "Please decide: A better laptop"
    assert given == {"message_id": mail["Message-ID"]} == {"message_id": f"<one.{RUN}.3@example.com>"}
    assert json.loads(json.dumps(given)) == given


def test_a_mail_that_is_sent_again_is_one_mail(data_folder: Path) -> None:
    on_record()
    assert send_mail(NO_CONTEXT, MAIL) == send_mail(NO_CONTEXT, MAIL)
    assert len(mails(data_folder)) == 1
    send_mail(NO_CONTEXT, MAIL | {"number": 4})
    assert len(mails(data_folder)) == 2


def test_without_what_is_asked_no_mail_is_sent(data_folder: Path) -> None:
    on_record(2)
    with pytest.raises(LookupError, match="What round 1 asks for is not on record"):
        send_mail(NO_CONTEXT, MAIL)
    assert mails(data_folder) == []


def test_a_mail_that_cannot_be_handed_over_is_an_error(data_folder: Path) -> None:
    on_record()
    (data_folder / "outbox").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="outbox"):
        send_mail(NO_CONTEXT, MAIL)


@pytest.mark.parametrize(
    "change", [{"to": "bob"}, {"to": "bob@example.org\nBcc: eve@example.com"}, {"template": "../asked"}, {"extra": 1}]
)
def test_a_mail_that_cannot_be_is_refused(data_folder: Path, change: dict[str, Any]) -> None:
    on_record()
    with pytest.raises(ValidationError):
        send_mail(NO_CONTEXT, MAIL | change)
    assert mails(data_folder) == []


FORM = {"type": "object", "properties": {"cost": {"type": "integer", "maximum": 9}}, "required": ["cost"]}


@pytest.mark.parametrize(
    ("answers", "fields"), [({"cost": 9}, []), ({"cost": 10}, ["cost"]), ({"cost": "1"}, ["cost"]), ({}, ["cost"])]
)
def test_answers_are_held_against_the_form(answers: dict[str, Any], fields: list[str]) -> None:
    given = check_answers(NO_CONTEXT, {"form": FORM, "answers": answers})
    assert list(given["wrong"]) == fields
    assert json.loads(json.dumps(given)) == given


@pytest.mark.parametrize("request_", [{}, {"form": FORM}, {"form": FORM, "answers": []}, {"form": 1, "answers": {}}])
def test_what_is_no_form_with_answers_is_refused(request_: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        check_answers(NO_CONTEXT, request_)


@contextmanager
def receiving(monkeypatch: pytest.MonkeyPatch, *statuses: int) -> Iterator[tuple[str, list[tuple[Message, bytes]]]]:
    """A receiver on loopback that is allowed, and answers with these statuses; gives its address and what it gets."""
    answers, got = list(statuses), list[tuple[Message, bytes]]()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.headers, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(answers.pop(0))
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("CALLBACK_HOSTS", f"127.0.0.1:{server.server_port}")
    monkeypatch.setenv("CALLBACK_KEY", base64.b64encode(b"x" * 32).decode())
    get_settings.cache_clear()
    try:
        yield f"http://127.0.0.1:{server.server_port}/done", got
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ended(url: str, instance_id: str = "one", run: str = RUN) -> dict[str, Any]:
    """The input of ``post_outcome``."""
    return {"url": url, "instance_id": instance_id, "run": run, "outcome": OUTCOME, "at": "2026-11-21T18:00:00.000Z"}


def test_an_outcome_is_posted_signed(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving(monkeypatch, 204) as (url, got):
        assert post_outcome(NO_CONTEXT, ended(url)) == {"status": 204}
    [(headers, body)] = got
    assert headers["webhook-signature"].startswith("v1,")
    posted = json.loads(body)
    assert posted["type"] == "approval.approved"
    assert posted["timestamp"] == "2026-11-21T18:00:00.000Z"
    assert posted["data"]["request_id"] == "one"
    assert posted["data"]["run"] == RUN
    assert posted["data"].items() >= OUTCOME.items()


@pytest.mark.parametrize("status", [300, 302, 400, 404, 410, 429, 500, 503])
def test_an_outcome_that_is_not_taken_is_an_error_and_comes_again_with_the_same_id(
    data_folder: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    with receiving(monkeypatch, status, 200) as (url, got):
        with pytest.raises(OSError, match=f"the receiver answered {status}"):
            post_outcome(NO_CONTEXT, ended(url))
        assert post_outcome(NO_CONTEXT, ended(url)) == {"status": 200}
    (first, body), (second, same) = got
    assert (first["webhook-id"], body) == (second["webhook-id"], same)


def test_ids_of_outcomes_tell_runs_apart_and_can_be_headers(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [("one", RUN), ("one", "20260301T110000000001Z"), ("two", RUN), ("😀\r\nX: y." * 50, RUN)]
    with receiving(monkeypatch, *[200] * len(runs)) as (url, got):
        for instance, run in runs:
            post_outcome(NO_CONTEXT, ended(url, instance, run))
    ids = [headers["webhook-id"] for headers, _ in got]
    assert len(set(ids)) == len(runs)
    assert all(each.isascii() and "." not in each and len(each) < 64 for each in ids)  # a dot separates what is signed


def test_an_outcome_goes_nowhere_else(data_folder: Path) -> None:
    with pytest.raises(ValueError, match="CALLBACK_HOSTS"):
        post_outcome(NO_CONTEXT, ended("https://evil.example.com/"))
