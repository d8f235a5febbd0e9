"""Every path of the approval, on a real engine."""

import json
import threading
from datetime import datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from durabletask.client import OrchestrationStatus

from activities import approval as activities
from activities import records as record_activities
from contracts.approval import MAX_ROUNDS, VoteEvent
from contracts.human_step import MAX_VERDICTS, digest_of_id, digest_of_person, digest_of_said
from contracts.records import RecordBatch
from orchestrators.approval import KEPT_COMMENT, MAX_ASIDE
from orchestrators.approval_desk import MAX_WRONG_CODES
from orchestrators.ballot import MAX_VOTES
from orchestrators.verdicts import MAX_REFUSALS_EACH
from services.mail import FolderMailer, Mailer
from services.record_store import RecordStore, RecordStoreError
from settings import get_settings
from tests.orchestrators.engine import Engine
from tests.orchestrators.reading import actions, answered, entries, open_waits, size, verdict, verdicts, waits_of

HOUR = 1.0
WAITING = "waiting_for_approval"
ANN, BEN, CAT, DAN, EVE = (f"{name}@example.com" for name in ("ann", "ben", "cat", "dan", "eve"))
ALICE = "alice@example.com"


def request(timeout_hours: float | str = HOUR, **more: Any) -> dict[str, Any]:
    """A durable input; of nobody by name, unless told otherwise."""
    return {"requester": "Alice", "item": "Vacation Request", "timeout_hours": timeout_hours, **more}


def named(*people: Any, **more: Any) -> dict[str, Any]:
    """A durable input with approvers, of a requester with an address."""
    return request(**{"approvers": list(people), "requester_email": ALICE, "timeout_hours": 24.0, **more})


def vote(who: str, what: str = "approve", **more: Any) -> dict[str, Any]:
    """The payload of a vote."""
    return {"approver": who, "vote": what, **more}


def ask(engine: Engine, given: dict[str, Any], **more: Any) -> str:
    """Start a run that gets to its wait."""
    instance = engine.start("approval", given, **more)
    engine.phase(instance, WAITING)
    return instance


def cast(engine: Engine, instance: str, *votes: dict[str, Any]) -> None:
    """Raise votes, one after another."""
    for each in votes:
        engine.event(instance, "decision", each)
        engine.state(instance)


def asks(engine: Engine, instance: str, event: str, payload: dict[str, Any]) -> str | None:
    """Raise an event under an id of its own, and give what the run says to it."""
    asks.count += 1  # type: ignore[attr-defined]
    decision_id = f"ask-{asks.count}"  # type: ignore[attr-defined]
    engine.event(instance, event, payload | {"decision_id": decision_id})
    return answered(engine, instance, decision_id)


asks.count = 0  # type: ignore[attr-defined]


def mails(data_folder: Path) -> list[EmailMessage]:
    """All mails that were sent, in the order of their numbers."""
    found: list[EmailMessage] = [
        message_from_bytes(file.read_bytes(), policy=policy.default) for file in (data_folder / "outbox").glob("*.eml")
    ]
    return sorted(found, key=lambda mail: int(mail["Message-ID"].split("@")[0].rsplit(".", 1)[1]))


def recipients(data_folder: Path) -> list[str]:
    """To whom all mails went, in alphabetical order."""
    return sorted(mail["To"].addresses[0].addr_spec for mail in mails(data_folder))


def noted(instance: str, action: str) -> list[tuple[str, ...] | None]:
    """The people of each entry of one kind, in alphabetical order."""
    return [tuple(sorted(entry.people or ())) for entry in entries(instance) if entry.action == action]


def refusals(instance: str) -> list[str | None]:
    """Why something was refused, each time."""
    return [entry.detail for entry in entries(instance) if entry.action == "refused"]


def ended_well(engine: Engine, instance: str) -> dict[str, Any]:
    """The output of a run that has ended, and left nothing behind."""
    output: dict[str, Any] = engine.output(instance)
    assert open_waits(instance) == []
    assert actions(instance)[-1] == "ended"
    assert verdict(engine, instance) == "intact"
    assert size(engine, instance) < 16 * 1024
    assert output["trail"] == engine.status(instance)["trail"]
    return output


class FailingMailer:
    """A mailer that cannot reach some people; ``down`` says whom, ``tried`` how often."""

    def __init__(self, folder: Path, down: set[str]) -> None:
        self.down = down
        self.tried: list[str] = []
        self._folder = FolderMailer(folder / "outbox")

    def send(self, message: EmailMessage) -> None:
        """Send a mail, or not."""
        address = message["To"].addresses[0].addr_spec
        self.tried.append(address)
        if address in self.down:
            raise OSError("no route")
        self._folder.send(message)


def failing(monkeypatch: pytest.MonkeyPatch, data_folder: Path, *down: str) -> FailingMailer:
    """Let mails to some people fail."""
    mailer = FailingMailer(data_folder, set(down))

    def get() -> Mailer:
        return mailer

    monkeypatch.setattr(activities, "get_mailer", get)
    return mailer


# The seed's short form


@pytest.mark.parametrize(("approved", "word"), [(True, "Approved"), (False, "Rejected")])
def test_a_decision_keeps_the_approver_and_the_whole_comment(engine: Engine, approved: bool, word: str) -> None:
    comment = "🎉" * 4000
    instance = ask(engine, request())
    engine.event(instance, "decision", {"is_approved": approved, "approver": "Manager", "comments": comment})
    output = ended_well(engine, instance)
    assert (output["status"], output["approver"], output["comments"]) == (word, "Manager", comment)
    assert (output["requester"], output["item"], output["rounds"]) == ("Alice", "Vacation Request", 1)
    [cast_vote] = output["votes"]
    assert (cast_vote["by"], cast_vote["channel"]) == ("Manager", "event")
    assert len(cast_vote["comments"]) <= KEPT_COMMENT
    assert comment.startswith(cast_vote["comments"].removesuffix("…"))
    assert next(entry.comment for entry in entries(instance) if entry.action == "voted") == comment
    status = engine.status(instance)
    assert status["phase"] == word.lower()
    assert status["decision"]["comments"].startswith("🎉🎉")


def test_waiting_it_says_for_what_and_until_when_and_mails_the_mailbox(engine: Engine, data_folder: Path) -> None:
    instance = ask(engine, request(mailbox="approvals@example.com"))
    status = engine.phase(instance, WAITING)
    assert status["waiting_for"] == "decision"
    assert status["deadline"] > "2026"
    assert (status["standing"]["round"], status["standing"]["open"], status["standing"]["seats"]) == (1, True, {})
    assert recipients(data_folder) == ["approvals@example.com"]
    assert open_waits(instance)[0].people == ("approvals@example.com",)
    assert "Vacation Request" in str(mails(data_folder)[0]["Subject"])


def test_when_nobody_decides_in_time_it_ends_with_timeout(engine: Engine) -> None:
    instance = engine.start("approval", request(0.25))
    engine.advance(minutes=14)
    engine.phase(instance, WAITING)
    engine.advance(minutes=1)
    output = ended_well(engine, instance)
    assert (output["status"], output["approver"], output["decided_at"], output["votes"]) == ("Timeout", None, None, [])
    assert engine.status(instance)["phase"] == "timed_out"
    assert "timed_out" in actions(instance)
    assert "decided" not in actions(instance)


def test_early_twice_late_and_malformed(engine: Engine) -> None:
    early = engine.start("approval", request())
    engine.client.suspend_orchestration(early)  # so that all of them are there before the first is taken
    engine.event(early, "decision", {"is_approved": "yes", "approver": "Malformed"})
    engine.event(early, "decision", {"is_approved": False, "approver": "First"})
    engine.event(early, "decision", {"is_approved": True, "approver": "Second"})
    engine.client.resume_orchestration(early)
    output = ended_well(engine, early)
    assert (output["status"], output["approver"]) == ("Rejected", "First")
    assert "is_approved" in engine.status(early)["warnings"][0]
    with pytest.raises(grpc.RpcError, match="has ended"):
        engine.event(early, "decision", {"is_approved": True, "approver": "Late"})
    assert engine.output(early) == output


@pytest.mark.parametrize("who", ["Alice", " aLICE ", ALICE, ALICE.upper()])
def test_the_requester_cannot_decide_by_name_or_by_address_in_any_case(engine: Engine, who: str) -> None:
    instance = ask(engine, request(requester_email=ALICE))
    assert asks(engine, instance, "decision", vote(who)) == "own_request"
    assert asks(engine, instance, "decision", vote(who, "reject")) == "own_request"
    assert refusals(instance) == ["own_request"] * 2
    cast(engine, instance, vote("Bob"))
    assert ended_well(engine, instance)["approver"] == "Bob"


def test_the_requester_can_decide_where_the_request_says_so(engine: Engine) -> None:
    instance = ask(engine, request(allow_self_approval=True))
    cast(engine, instance, vote("alice"))
    assert ended_well(engine, instance)["status"] == "Approved"


def test_event_names_are_compared_without_case(engine: Engine) -> None:
    instance = engine.start("approval", request())
    engine.event(instance, "DECISION", {"is_approved": True, "approver": "Manager"})
    assert engine.output(instance)["status"] == "Approved"


def test_an_instance_id_of_any_text_works(engine: Engine, data_folder: Path) -> None:
    name = "../../etc/passwd " + "ü" * 80
    instance = ask(engine, request(mailbox=BEN), instance_id=name)
    engine.event(instance, "decision", {"is_approved": True, "approver": "Manager"})
    assert ended_well(engine, instance)["status"] == "Approved"
    files = list((data_folder / "outbox").glob("*.eml"))
    assert len(files) == 2
    assert all(file.resolve().is_relative_to(data_folder.resolve()) for file in files)


@pytest.mark.parametrize(
    "given",
    [
        None,
        1,
        {},
        request() | {"timeout_hours": 0},
        request() | {"timeout_hours": 8761},
        request() | {"x": 1},
        request() | {"policy": "all"},
        named(ALICE),
    ],
)
def test_an_input_that_is_no_request_fails_the_run(engine: Engine, given: Any) -> None:
    state = engine.end(engine.start("approval", given))
    assert state.runtime_status is OrchestrationStatus.FAILED
    assert state.failure_details is not None
    assert "ApprovalInput" in state.failure_details.message


@pytest.mark.parametrize("decided", [True, False])
def test_a_year_is_the_longest_wait(engine: Engine, decided: bool) -> None:
    instance = engine.start("approval", request("P365D"))
    engine.advance(days=364.9)
    engine.phase(instance, WAITING)
    if decided:
        engine.event(instance, "decision", {"is_approved": True, "approver": "Manager"})
    engine.advance(days=0.1)
    assert engine.output(instance)["status"] == ("Approved" if decided else "Timeout")


def test_a_run_of_version_2_keeps_to_its_rules(engine: Engine, data_folder: Path) -> None:
    given = request(approvers=[ANN])
    instance = engine.client.schedule_new_orchestration("approval", input=given, version="2")
    status = engine.phase(instance, WAITING)
    assert status["standing"] is None
    assert status["verdicts"] == []
    engine.event(instance, "decision", {"vote": "approve", "approver": ANN})  # which it does not know
    assert "was set aside" in engine.phase(instance, WAITING)["warnings"][0]
    engine.event(instance, "decision", {"is_approved": True, "approver": "Anybody"})
    output = engine.output(instance)
    assert (output["status"], output["approver"], "votes" in output) == ("Approved", "Anybody", False)
    assert actions(instance) == ["started", "asked", "mailed", "set_aside", "decided", "ended"]


# Groups and policies


def test_all_have_to_approve_and_the_wait_names_those_who_have_yet_to(engine: Engine, data_folder: Path) -> None:
    instance = ask(engine, named(ANN, BEN, CAT, policy="all"))
    assert recipients(data_folder) == [ANN, BEN, CAT]
    assert noted(instance, "mailed") == [(ANN, BEN, CAT)]
    since = open_waits(instance)[0].since
    engine.advance(hours=1)
    cast(engine, instance, vote(BEN.upper(), comments="fine"))
    [wait] = open_waits(instance)
    assert (wait.people, wait.since) == ((ANN, CAT), since)
    assert engine.phase(instance, WAITING)["standing"]["seats"] == {
        digest_of_person(ANN): None,
        digest_of_person(BEN): "approve",
        digest_of_person(CAT): None,
    }
    cast(engine, instance, vote(ANN))
    assert open_waits(instance)[0].people == (CAT,)
    cast(engine, instance, vote(CAT))
    output = ended_well(engine, instance)
    assert (output["status"], output["approver"]) == ("Approved", CAT)
    assert [(each["by"], each["comments"]) for each in output["votes"]] == [(ANN, None), (BEN, "fine"), (CAT, None)]
    # Who has voted is told nothing more; the requester is.
    assert recipients(data_folder) == [ALICE, ANN, BEN, CAT]
    assert len([each for each, is_open in waits_of(instance) if not is_open]) == 3


def test_an_addressee_who_was_not_asked_cannot_vote(engine: Engine) -> None:
    instance = ask(engine, named(ANN))
    assert asks(engine, instance, "decision", vote(BEN)) == "not_asked"
    assert asks(engine, instance, "decision", vote("Ann")) == "not_asked"  # people who are named vote by address
    assert engine.phase(instance, WAITING)["decision"] is None


def test_a_person_may_change_a_vote_until_it_is_decided_and_the_trail_keeps_both(engine: Engine) -> None:
    instance = ask(engine, named(ANN, BEN, policy={"quorum": 2}, approvers=[ANN, BEN, CAT]))
    cast(engine, instance, vote(ANN, "reject", comments="no"), vote(ANN, "approve", comments="well, yes"), vote(BEN))
    output = ended_well(engine, instance)
    assert output["status"] == "Approved"
    assert [(each["by"], each["vote"]) for each in output["votes"]] == [(ANN, "approve"), (BEN, "approve")]
    voted = [(each.actor, each.detail, each.comment) for each in entries(instance) if each.action == "voted"]
    assert voted == [(ANN, "reject", "no"), (ANN, "approve", "well, yes"), (BEN, "approve", None)]


def test_a_vote_can_be_changed_only_so_often(engine: Engine) -> None:
    instance = ask(engine, named(ANN, BEN, policy="all"))
    cast(engine, instance, *[vote(ANN, "abstain")] * MAX_VOTES)
    assert asks(engine, instance, "decision", vote(ANN)) == "too_often"
    cast(engine, instance, vote(BEN))
    assert ended_well(engine, instance)["status"] == "Approved"


def test_in_a_sequence_each_is_mailed_when_it_is_their_turn(engine: Engine, data_folder: Path) -> None:
    instance = ask(engine, named(ANN, BEN, CAT, policy="sequential", reminders={"every": 2, "max": 1}))
    assert recipients(data_folder) == [ANN]
    assert open_waits(instance)[0].people == (ANN,)
    assert noted(instance, "asked") == [(ANN, BEN, CAT)]
    assert asks(engine, instance, "decision", vote(BEN)) == "not_yet"
    engine.advance(hours=1)
    cast(engine, instance, vote(ANN))
    assert recipients(data_folder) == [ANN, BEN]
    assert open_waits(instance)[0].people == (BEN,)
    engine.advance(hours=1.5)  # for Ann it would have been time, for Ben it is not
    assert noted(instance, "reminded") == []
    engine.advance(hours=0.5)
    assert noted(instance, "reminded") == [(BEN,)]
    cast(engine, instance, vote(ANN, "abstain"), vote(BEN))
    assert recipients(data_folder) == [ANN, BEN, BEN, CAT]
    cast(engine, instance, vote(CAT))
    assert ended_well(engine, instance)["status"] == "Approved"


STAGES = [
    {"approvers": [ANN, BEN], "policy": "any"},
    {"approvers": [CAT, DAN], "policy": "all"},
    {"approvers": [ANN], "policy": "any"},
]


def staged(**more: Any) -> dict[str, Any]:
    """A durable input with stages."""
    return request(policy=STAGES, requester_email=ALICE, **{"timeout_hours": 24.0, **more})


def test_stages_are_asked_one_after_another_until_all_have_approved(engine: Engine, data_folder: Path) -> None:
    instance = ask(engine, staged())
    assert recipients(data_folder) == [ANN, BEN]
    assert asks(engine, instance, "decision", vote(CAT)) == "not_asked"
    cast(engine, instance, vote(BEN))
    status = engine.phase(instance, WAITING)
    assert (status["standing"]["stage"], status["decision"]) == (1, None)
    assert open_waits(instance)[0].people == (CAT, DAN)
    assert asks(engine, instance, "decision", vote(ANN)) == "not_asked"  # in her stage she is too late
    cast(engine, instance, vote(CAT), vote(DAN))
    assert open_waits(instance)[0].people == (ANN,)
    cast(engine, instance, vote(ANN))
    output = ended_well(engine, instance)
    assert (output["status"], output["approver"]) == ("Approved", ANN)
    assert [entry.detail for entry in entries(instance) if entry.action == "asked"] == [None, "stage 2", "stage 3"]
    assert actions(instance).count("decided") == 1


def test_a_stage_that_rejects_ends_it(engine: Engine, data_folder: Path) -> None:
    instance = ask(engine, staged())
    cast(engine, instance, vote(ANN), vote(DAN, "reject"))
    output = ended_well(engine, instance)
    assert (output["status"], output["approver"]) == ("Rejected", DAN)
    assert recipients(data_folder) == [ALICE, ANN, BEN, CAT, CAT, DAN]  # Cat is told that it was decided


def test_all_stages_share_one_deadline(engine: Engine) -> None:
    instance = ask(engine, staged(timeout_hours=2.0))
    engine.advance(hours=1.5)
    cast(engine, instance, vote(ANN))
    engine.advance(hours=0.5)
    assert ended_well(engine, instance)["status"] == "Timeout"


# When the time is up


@pytest.mark.parametrize(
    ("on_timeout", "status", "approver"),
    [("reject", "Timeout", None), ("approve", "Approved", None), ("fail", None, None)],
)
def test_what_happens_when_the_time_is_up_is_what_the_request_says(
    engine: Engine, data_folder: Path, on_timeout: str, status: str | None, approver: str | None
) -> None:
    instance = ask(engine, named(ANN, BEN, policy="all", timeout_hours=1.0, on_timeout=on_timeout))
    cast(engine, instance, vote(ANN))
    engine.advance(hours=1)
    found = next(entry for entry in entries(instance) if entry.action == "timed_out")
    assert (found.detail, found.channel, found.actor) == (on_timeout, "timer", None)
    assert "decided" not in actions(instance)
    assert recipients(data_folder) == [ALICE, ANN, BEN, BEN]
    if status is None:
        state = engine.end(instance)
        assert state.runtime_status is OrchestrationStatus.FAILED
        assert "Nobody decided in time" in str(state.failure_details and state.failure_details.message)
        assert engine.status(instance)["phase"] == "failed"
        assert open_waits(instance) == []
        assert actions(instance)[-1] == "ended"
        assert verdict(engine, instance) == "intact"
        return
    output = ended_well(engine, instance)
    assert (output["status"], output["approver"], len(output["votes"])) == (status, approver, 1)
    decision = engine.status(instance)["decision"]
    assert (decision and decision["by"]) == ("(automatic)" if status == "Approved" else None)


@pytest.mark.parametrize(("on_timeout", "status"), [("reject", "Timeout"), ("approve", "Timeout")])
def test_while_changes_are_outstanding_nothing_is_approved_by_itself(
    engine: Engine, on_timeout: str, status: str
) -> None:
    instance = ask(engine, named(ANN, timeout_hours=1.0, on_timeout=on_timeout))
    cast(engine, instance, vote(ANN, "request_changes", comments="shorter"))
    engine.phase(instance, "waiting_for_changes")
    engine.advance(hours=1)
    output = ended_well(engine, instance)
    assert (output["status"], output["approver"]) == (status, None)
    assert engine.status(instance)["decision"] is None


LEVELS = [
    {"approvers": [CAT], "timeout_hours": 2.0},
    {"approvers": [DAN, EVE], "policy": "all", "timeout_hours": "PT4H"},
]


def escalating(**more: Any) -> dict[str, Any]:
    """A durable input with two levels of escalation."""
    return named(ANN, **{"timeout_hours": 1.0, "on_timeout": "escalate", "escalation": LEVELS, **more})


def test_escalation_goes_from_level_to_level_each_with_its_own_deadline_to_the_end(
    engine: Engine, data_folder: Path
) -> None:
    instance = ask(engine, escalating())
    began = datetime.fromisoformat(engine.status(instance)["deadline"])
    engine.advance(minutes=59)
    assert engine.phase(instance, WAITING)["standing"]["level"] == 0
    for minutes, level, people, hours in [(1, 1, (CAT,), 2), (119, 1, (CAT,), 2), (1, 2, (DAN, EVE), 6)]:
        engine.advance(minutes=minutes)
        status = engine.phase(instance, WAITING)
        assert status["standing"]["level"] == level
        [wait] = open_waits(instance)
        assert wait.people == people
        assert datetime.fromisoformat(status["deadline"]) == wait.deadline == began + timedelta(hours=hours)
    assert asks(engine, instance, "decision", vote(ANN)) == "not_asked"
    assert asks(engine, instance, "decision", vote(CAT)) == "not_asked"
    engine.advance(hours=4)
    assert ended_well(engine, instance)["status"] == "Timeout"
    assert [entry.detail for entry in entries(instance) if entry.action == "escalated"] == ["level 1", "level 2"]
    assert actions(instance).count("timed_out") == 3
    assert recipients(data_folder) == [ALICE, ANN, CAT, DAN, DAN, EVE, EVE]


@pytest.mark.parametrize("level", [1, 2])
def test_a_level_decides_for_all(engine: Engine, level: int) -> None:
    instance = ask(engine, escalating())
    engine.advance(hours=1)
    if level == 1:
        cast(engine, instance, vote(CAT, "reject"))
    else:
        engine.advance(hours=2)
        cast(engine, instance, vote(EVE), vote(DAN))
    output = ended_well(engine, instance)
    assert (output["status"], output["approver"]) == (("Rejected", CAT) if level == 1 else ("Approved", DAN))


def test_a_decision_in_time_escalates_nothing(engine: Engine, data_folder: Path) -> None:
    instance = ask(engine, escalating())
    cast(engine, instance, vote(ANN))
    assert ended_well(engine, instance)["status"] == "Approved"
    assert recipients(data_folder) == [ALICE, ANN]


# Changes


def revision(**more: Any) -> dict[str, Any]:
    """The payload of a revision."""
    return {"by": "Alice", "item": "Shorter vacation", **more}


def test_asked_for_changes_the_requester_revises_and_a_new_round_begins(engine: Engine, data_folder: Path) -> None:
    given = named(ANN, BEN, CAT, policy="all", description="Two weeks", details={"days": 14})
    instance = ask(engine, given)
    first = engine.status(instance)["standing"]
    cast(engine, instance, vote(ANN), vote(BEN, "request_changes", comments="one week"))
    status = engine.phase(instance, "waiting_for_changes")
    assert (status["waiting_for"], status["decision"]) == ("revise", None)
    [wait] = open_waits(instance)
    assert (wait.people, wait.actions) == ((ALICE,), ("revise", "withdraw"))
    assert recipients(data_folder) == [ALICE, ANN, BEN, CAT]
    assert "one week" in mails(data_folder)[-1].as_string()
    for refused in (vote(CAT), vote(ANN)):
        assert asks(engine, instance, "decision", refused) == "not_waiting"

    engine.event(instance, "revise", revision(details={"days": 7}, comments="better?"))
    standing = engine.phase(instance, WAITING)["standing"]
    assert (standing["round"], set(standing["seats"].values())) == (2, {None})  # old votes do not count
    assert standing["shown"] != first["shown"]
    assert open_waits(instance)[0].people == (ANN, BEN, CAT)
    assert open_waits(instance)[0].title == "Shorter vacation"
    assert recipients(data_folder) == [ALICE, ANN, ANN, BEN, BEN, CAT, CAT]
    newest = mails(data_folder)[-1].get_body(("plain",))
    assert newest is not None
    assert all(text in newest.get_content() for text in ("Shorter vacation", "Two weeks", "7"))

    cast(engine, instance, vote(BEN), vote(CAT))
    engine.phase(instance, WAITING)  # Ann's vote of before is gone
    cast(engine, instance, vote(ANN))
    output = ended_well(engine, instance)
    assert (output["status"], output["rounds"], output["item"]) == ("Approved", 2, "Shorter vacation")
    rounds = [(entry.action, entry.round) for entry in entries(instance) if entry.action in ("voted", "revised")]
    assert rounds == [("voted", 1), ("voted", 1), ("revised", 1), ("voted", 2), ("voted", 2), ("voted", 2)]
    revised = next(entry for entry in entries(instance) if entry.action == "revised")
    assert (revised.actor, revised.comment) == ("Alice", "better?")


def test_an_event_from_a_link_of_an_old_round_is_refused(engine: Engine) -> None:
    instance = ask(engine, named(ANN, BEN, policy="all"))
    cast(engine, instance, vote(ANN, "request_changes", comments="x"))
    engine.event(instance, "revise", revision())
    engine.phase(instance, WAITING)
    for link, code in [({"round": 1, "serial": 1}, "old_round"), ({"round": 3, "serial": 9}, "old_round")]:
        assert asks(engine, instance, "decision", vote(ANN, link=link, channel="link")) == code
        handing = {"approver": ANN, "to": {"email": CAT}, "link": link, "channel": "link"}
        assert asks(engine, instance, "delegate", handing) == code
    assert asks(engine, instance, "decision", vote(ANN, link={"round": 2, "serial": 4}, channel="link")) == "taken"
    assert [entry.channel for entry in entries(instance) if entry.action == "voted"] == ["event", "link"]


def test_only_the_requester_revises_and_only_when_asked_to(engine: Engine) -> None:
    instance = ask(engine, named(ANN))
    assert asks(engine, instance, "revise", revision()) == "not_waiting"
    assert asks(engine, instance, "decision", vote(ANN, "request_changes")) == "comment_needed"
    cast(engine, instance, vote(ANN, "request_changes", comments="x"))
    for who in (ANN, "Bob", "Alice2"):
        assert asks(engine, instance, "revise", revision(by=who)) == "not_requester"
    assert asks(engine, instance, "remind", {}) == "taken"  # the requester is
    assert noted(instance, "reminded") == [(ALICE,)]
    assert asks(engine, instance, "delegate", {"approver": ANN, "to": {"email": BEN}}) == "not_waiting"
    assert engine.phase(instance, "waiting_for_changes")["standing"]["round"] == 1
    assert asks(engine, instance, "revise", revision(by=ALICE.upper())) == "taken"
    assert engine.phase(instance, WAITING)["standing"]["round"] == 2


def test_a_revision_that_makes_too_much_of_it_is_refused(engine: Engine) -> None:
    instance = ask(engine, named(ANN, details={"text": "x" * 20_000}, description="y" * 3000))
    cast(engine, instance, vote(ANN, "request_changes", comments="x"))
    assert asks(engine, instance, "revise", revision(details={"text": "x" * 27_000})) == "too_long"
    assert asks(engine, instance, "revise", revision(details={"text": "x"})) == "taken"


def test_rounds_come_to_an_end(engine: Engine) -> None:
    instance = ask(engine, named(ANN))
    for _ in range(MAX_ROUNDS - 1):
        assert asks(engine, instance, "decision", vote(ANN, "request_changes", comments="x")) == "taken"
        assert asks(engine, instance, "revise", revision()) == "taken"
    assert asks(engine, instance, "decision", vote(ANN, "request_changes", comments="x")) == "too_often"
    cast(engine, instance, vote(ANN))
    assert ended_well(engine, instance)["rounds"] == MAX_ROUNDS


def test_a_new_round_begins_with_the_first_stage(engine: Engine) -> None:
    instance = ask(engine, staged())
    cast(engine, instance, vote(ANN), vote(CAT, "request_changes", comments="x"))
    engine.event(instance, "revise", revision())
    standing = engine.phase(instance, WAITING)["standing"]
    assert (standing["round"], standing["stage"]) == (2, 0)
    assert open_waits(instance)[0].people == (ANN, BEN)


# Withdrawing and extending


@pytest.mark.parametrize("changes", [False, True])
def test_the_requester_withdraws_and_all_who_were_asked_are_told(
    engine: Engine, data_folder: Path, changes: bool
) -> None:
    instance = ask(engine, named(ANN, BEN, policy="all"))
    cast(engine, instance, vote(ANN))
    if changes:
        cast(engine, instance, vote(BEN, "request_changes", comments="x"))
    for who in (ANN, "Bob"):
        assert asks(engine, instance, "withdraw", {"by": who}) == "not_requester"
    assert asks(engine, instance, "withdraw", {"by": "ALICE", "comments": "no need"}) == "taken"
    output = ended_well(engine, instance)
    assert (output["status"], output["approver"], output["decided_at"]) == ("Withdrawn", None, None)
    status = engine.status(instance)
    assert (status["phase"], status["decision"]) == ("withdrawn", None)
    found = next(entry for entry in entries(instance) if entry.action == "withdrawn")
    assert (found.actor, found.comment, found.after) == ("ALICE", "no need", "withdrawn")
    told = [ANN, ANN, BEN, BEN]
    assert recipients(data_folder) == sorted([ALICE, *told] if changes else told)


def test_an_extension_moves_the_deadline_the_wait_and_the_timer(engine: Engine) -> None:
    instance = ask(engine, named(ANN, timeout_hours=1.0))
    [before] = open_waits(instance)
    assert asks(engine, instance, "extend", {"by": ANN, "extend_by": 1}) == "not_requester"
    assert asks(engine, instance, "extend", {"by": "Alice", "extend_by": "PT2H", "comments": "ill"}) == "taken"
    [after] = open_waits(instance)
    assert before.deadline is not None
    assert (after.deadline, after.since) == (before.deadline + timedelta(hours=2), before.since)
    assert datetime.fromisoformat(engine.status(instance)["deadline"]) == after.deadline
    found = next(entry for entry in entries(instance) if entry.action == "extended")
    assert (found.actor, found.comment, found.detail) == ("Alice", "ill", engine.status(instance)["deadline"])
    engine.advance(minutes=179)
    engine.phase(instance, WAITING)
    engine.advance(minutes=1)
    assert ended_well(engine, instance)["status"] == "Timeout"


def test_an_extension_goes_to_a_year_at_most_and_works_so_often_only(engine: Engine) -> None:
    instance = ask(engine, named(ANN, timeout_hours=8000.0))
    assert asks(engine, instance, "extend", {"by": "Alice", "extend_by": 761}) == "too_long"
    before = datetime.fromisoformat(engine.status(instance)["deadline"])
    for _ in range(MAX_ASIDE):
        assert asks(engine, instance, "extend", {"by": "Alice", "extend_by": 1}) == "taken"
    assert asks(engine, instance, "extend", {"by": "Alice", "extend_by": 1}) == "too_often"
    assert datetime.fromisoformat(engine.status(instance)["deadline"]) - before == timedelta(hours=MAX_ASIDE)


def test_what_is_refused_does_not_use_up_extensions_and_reminders(engine: Engine) -> None:
    instance = ask(engine, named(ANN, timeout_hours=8000.0))
    for _ in range(MAX_ASIDE):
        engine.event(instance, "extend", {"by": "Alice", "extend_by": 8000})
        engine.event(instance, "remind", {"approver": "nobody@example.com"})
    assert asks(engine, instance, "extend", {"by": "Alice", "extend_by": 1}) == "taken"
    assert asks(engine, instance, "remind", {}) == "taken"


def test_a_deadline_is_within_a_year_with_all_levels_of_the_escalation(engine: Engine) -> None:
    levels = [{"approvers": [CAT], "timeout_hours": 8000.0}]
    instance = ask(engine, escalating(escalation=levels))
    assert asks(engine, instance, "extend", {"by": "Alice", "extend_by": 8000}) == "too_long"
    assert asks(engine, instance, "extend", {"by": "Alice", "extend_by": 700}) == "taken"


def test_an_extension_while_changes_are_made(engine: Engine) -> None:
    instance = ask(engine, named(ANN, timeout_hours=1.0))
    cast(engine, instance, vote(ANN, "request_changes", comments="x"))
    assert asks(engine, instance, "extend", {"by": ALICE, "extend_by": 1}) == "taken"
    engine.advance(hours=1.5)
    assert asks(engine, instance, "revise", revision()) == "taken"
    engine.advance(hours=0.5)
    assert ended_well(engine, instance)["status"] == "Timeout"


# Delegation


def test_a_vote_is_handed_to_somebody_else_by_an_approver_or_an_admin(engine: Engine, data_folder: Path) -> None:
    instance = ask(engine, named(ANN, BEN, policy="all"))
    handing = {"approver": ANN, "to": {"email": CAT, "name": "Cat"}, "comments": "I am away"}
    assert asks(engine, instance, "delegate", handing) == "taken"
    assert open_waits(instance)[0].people == (CAT, BEN)
    assert recipients(data_folder) == [ANN, BEN, CAT]
    assert "I am away" in mails(data_folder)[-1].as_string()
    assert asks(engine, instance, "decision", vote(ANN)) == "handed_over"
    assert asks(engine, instance, "delegate", {"approver": BEN, "to": DAN, "by": "Admin"}) == "taken"
    standing = engine.status(instance)["standing"]
    assert set(standing["seats"]) == {digest_of_person(CAT), digest_of_person(DAN)}
    assert sorted(standing["gave_away"]) == sorted([digest_of_person(ANN), digest_of_person(BEN)])
    found = [each for each in entries(instance) if each.action == "delegated"]
    assert [(each.actor, each.on_behalf_of, each.people) for each in found] == [
        (ANN, None, (CAT,)),
        ("Admin", BEN, (DAN,)),
    ]
    cast(engine, instance, vote(CAT), vote(DAN))
    output = ended_well(engine, instance)
    assert [(each["by"], each["on_behalf_of"]) for each in output["votes"]] == [(CAT, ANN), (DAN, BEN)]
    voted = [each.on_behalf_of for each in entries(instance) if each.action in ("voted", "decided")]
    assert voted == [ANN, BEN, BEN]


def test_a_vote_goes_through_three_hands_at_most_and_never_back(engine: Engine) -> None:
    instance = ask(engine, named(ANN, BEN, policy="all"))

    def hand(who: str, to: str) -> str | None:
        return asks(engine, instance, "delegate", {"approver": who, "to": {"email": to}})

    assert hand(ANN, ALICE) == "to_requester"
    assert hand(ANN, "alice@EXAMPLE.com") == "to_requester"
    assert hand(ANN, BEN) == "already_asked"
    assert hand(ANN, ANN) == "in_a_circle"
    assert hand(CAT, DAN) == "not_asked"
    assert hand(ANN, CAT) == "taken"
    assert hand(ANN, DAN) == "handed_over"
    assert hand(CAT, ANN.title()) == "in_a_circle"
    assert hand(CAT, DAN) == "taken"
    assert hand(DAN, EVE) == "taken"
    assert hand(EVE, "fay@example.com") == "handed_on_too_often"
    cast(engine, instance, vote(EVE, "abstain"))
    assert hand(EVE, "fay@example.com") == "already_voted"
    cast(engine, instance, vote(BEN))
    assert ended_well(engine, instance)["status"] == "Approved"


def test_where_anybody_may_vote_there_is_nothing_to_hand_over(engine: Engine) -> None:
    instance = ask(engine, request(mailbox=BEN))
    assert asks(engine, instance, "delegate", {"approver": BEN, "to": {"email": CAT}}) == "not_asked"


def test_who_stands_in_is_asked_when_the_round_opens(engine: Engine, data_folder: Path) -> None:
    today = entries(ask(engine, request()))[0].at.date()
    ann = {"email": ANN, "delegate": {"to": CAT, "from": f"{today}", "until": f"{today}"}}
    ben = {"email": BEN, "delegate": {"to": ALICE}}
    instance = ask(engine, named(ann, ben, policy="all"))
    assert open_waits(instance)[0].people == (CAT, BEN)
    assert recipients(data_folder) == [BEN, CAT]
    found = [(each.action, each.actor, each.on_behalf_of, each.people, each.detail) for each in entries(instance)[1:3]]
    assert found == [
        ("delegated", None, ANN, (CAT,), "standing delegation"),
        ("set_aside", BEN, None, None, "standing delegation: to_requester"),
    ]
    assert asks(engine, instance, "decision", vote(ANN)) == "handed_over"
    cast(engine, instance, vote(BEN, "request_changes", comments="x"))
    engine.advance(hours=23.9)
    engine.event(instance, "extend", {"by": "Alice", "extend_by": 24})
    engine.advance(hours=23.9)
    engine.event(instance, "revise", revision())
    engine.phase(instance, WAITING)
    assert open_waits(instance)[0].people == (ANN, BEN)  # by now she is back


# What a vote needs


@pytest.mark.parametrize(("needed", "choice"), [("approve", "approve"), ("reject", "reject")])
def test_a_comment_is_needed_where_the_request_says_so(engine: Engine, needed: str, choice: str) -> None:
    instance = ask(engine, named(ANN, require_comment_on=[needed]))
    for comments in (None, "", "  \n"):
        assert asks(engine, instance, "decision", vote(ANN, choice, comments=comments)) == "comment_needed"
    cast(engine, instance, vote(ANN, choice, comments="because"))
    assert ended_well(engine, instance)["comments"] == "because"


def test_a_comment_is_needed_only_there(engine: Engine) -> None:
    instance = ask(engine, named(ANN, require_comment_on=["reject"]))
    cast(engine, instance, vote(ANN))
    assert ended_well(engine, instance)["status"] == "Approved"


FORM = {
    "type": "object",
    "properties": {"cost_center": {"type": "integer", "minimum": 100}, "urgent": {"type": "boolean"}},
    "required": ["cost_center"],
    "additionalProperties": False,
}


def test_answers_have_to_fit_the_form_whichever_way_they_come(engine: Engine) -> None:
    instance = ask(engine, named(ANN, BEN, policy="all", form=FORM))
    wrong: list[Any] = [None, {}, {"cost_center": "100"}, {"cost_center": 99}, {"cost_center": 100, "x": 1}]
    for answers in wrong:
        assert asks(engine, instance, "decision", vote(ANN, answers=answers)) == "answers_wrong"
    assert refusals(instance) == ["answers_wrong"] * len(wrong)
    assert asks(engine, instance, "decision", vote(ANN, answers={"cost_center": 100})) == "taken"
    assert asks(engine, instance, "decision", vote(BEN, "abstain")) == "taken"  # which needs none
    [first, _] = ended_well(engine, instance)["votes"]
    assert first["answers"] == {"cost_center": 100}


def test_a_rejection_needs_no_answers_and_takes_none(engine: Engine) -> None:
    instance = ask(engine, named(ANN, form=FORM))
    engine.event(instance, "decision", vote(ANN, "reject", answers={"cost_center": 100}))
    assert "answers belong to an approval" in engine.phase(instance, WAITING)["warnings"][0]
    cast(engine, instance, vote(ANN, "reject"))
    assert ended_well(engine, instance)["status"] == "Rejected"


def test_answers_without_a_form_are_refused_or_kept_out(engine: Engine) -> None:
    instance = ask(engine, named(ANN))
    assert asks(engine, instance, "decision", vote(ANN, answers={"anything": 1})) == "answers_wrong"


def test_a_form_that_takes_for_ever_to_check_is_a_refusal_and_no_failure(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> dict[str, str]:
        raise RuntimeError("a newer library, say")

    instance = ask(engine, named(ANN, form=FORM))
    with monkeypatch.context() as patch:
        patch.setattr(activities, "wrong_answers", broken)
        engine.event(instance, "decision", vote(ANN, answers={"cost_center": 100}, decision_id="broken"))
        engine.advance(minutes=3)
    assert answered(engine, instance, "broken") == "answers_wrong"
    cast(engine, instance, vote(ANN, answers={"cost_center": 100}))
    assert ended_well(engine, instance)["status"] == "Approved"


# The code in the mail


def by_link(serial: int, code: str | None, who: str = ANN, **more: Any) -> dict[str, Any]:
    """The payload of a vote from a link."""
    link = {"round": 1, "serial": serial, "code": code}
    return vote(who, **{"channel": "link", "link": link, **more})


def test_five_wrong_codes_lock_the_link_of_that_mail_and_a_new_mail_has_another(
    engine: Engine, data_folder: Path
) -> None:
    instance = ask(engine, named(ANN, BEN, policy="all", second_factor="mail_code"))
    for _ in range(MAX_WRONG_CODES - 1):
        assert asks(engine, instance, "decision", by_link(1, "wrong")) == "wrong_code"
    assert engine.status(instance)["standing"]["locked"] == []
    assert asks(engine, instance, "decision", by_link(1, None)) == "wrong_code"  # none is a wrong one
    assert engine.status(instance)["standing"]["locked"] == [1]
    assert asks(engine, instance, "decision", by_link(1, "right")) == "locked"
    handing = {"approver": ANN, "to": CAT, "channel": "link", "link": {"round": 1, "serial": 1, "code": "right"}}
    assert asks(engine, instance, "delegate", handing) == "locked"
    assert asks(engine, instance, "decision", by_link(2, "right", BEN)) == "taken"  # the other's is not

    assert asks(engine, instance, "remind", {"approver": ANN.upper()}) == "taken"
    assert noted(instance, "reminded") == [(ANN,)]
    serials = [int(mail["Message-ID"].split("@")[0].rsplit(".", 1)[1]) for mail in mails(data_folder)]
    assert serials == [1, 2, 3]
    assert asks(engine, instance, "decision", by_link(3, "right")) == "taken"
    assert ended_well(engine, instance)["status"] == "Approved"


def test_without_a_second_factor_no_code_is_asked_for(engine: Engine) -> None:
    instance = ask(engine, named(ANN))
    assert asks(engine, instance, "decision", by_link(1, None)) == "taken"


def test_handing_over_by_link_needs_the_code_too(engine: Engine) -> None:
    instance = ask(engine, named(ANN, second_factor="mail_code"))
    handing = {"approver": ANN, "to": CAT, "channel": "link", "link": {"round": 1, "serial": 1, "code": "wrong"}}
    assert asks(engine, instance, "delegate", handing) == "wrong_code"


# Reminders


def test_every_so_often_those_who_have_not_voted_are_reminded_up_to_a_number(engine: Engine, data_folder: Path) -> None:
    given = named(ANN, BEN, policy="all", timeout_hours=24.0, reminders={"every": "PT4H", "max": 3})
    instance = ask(engine, given)
    engine.advance(hours=3.99)
    assert noted(instance, "reminded") == []
    engine.advance(hours=0.01)
    assert noted(instance, "reminded") == [(ANN, BEN)]
    cast(engine, instance, vote(ANN))
    engine.advance(hours=19.9)
    assert noted(instance, "reminded") == [(ANN, BEN), (BEN,), (BEN,)]
    assert recipients(data_folder) == [ANN, ANN, BEN, BEN, BEN, BEN]
    assert {entry.channel for entry in entries(instance) if entry.action == "reminded"} == {"timer"}
    engine.advance(hours=0.1)
    assert ended_well(engine, instance)["status"] == "Timeout"


def test_reminders_at_offsets_come_in_their_order_and_none_at_the_deadline_or_after(engine: Engine) -> None:
    instance = ask(engine, named(ANN, timeout_hours=5.0, reminders=[3, "PT1H", 5, 7]))
    began = entries(instance)[0].at
    engine.advance(hours=10)
    assert ended_well(engine, instance)["status"] == "Timeout"
    at = [(entry.at - began) / timedelta(hours=1) for entry in entries(instance) if entry.action == "reminded"]
    assert at == pytest.approx([1, 3])


def test_after_an_extension_reminders_go_on(engine: Engine) -> None:
    instance = ask(engine, named(ANN, timeout_hours=2.0, reminders=1))
    engine.event(instance, "extend", {"by": "Alice", "extend_by": 2})
    engine.advance(hours=5)
    assert ended_well(engine, instance)["status"] == "Timeout"
    assert len(noted(instance, "reminded")) == 3


def test_reminders_that_were_missed_while_nothing_ran_are_made_up_for_by_one(engine: Engine) -> None:
    instance = ask(engine, named(ANN, timeout_hours=24.0, reminders=1))
    engine.client.suspend_orchestration(instance)
    engine.advance(hours=5.5)
    engine.client.resume_orchestration(instance)
    engine.phase(instance, WAITING)
    assert noted(instance, "reminded") == [(ANN,)]
    engine.advance(hours=0.5)
    assert noted(instance, "reminded") == [(ANN,)] * 2


def test_nobody_is_reminded_while_changes_are_made(engine: Engine) -> None:
    instance = ask(engine, named(ANN, timeout_hours=10.0, reminders=1))
    cast(engine, instance, vote(ANN, "request_changes", comments="x"))
    engine.advance(hours=3)
    assert noted(instance, "reminded") == []
    engine.event(instance, "revise", revision())
    engine.advance(hours=1)
    assert noted(instance, "reminded") == [(ANN,)]


def test_each_level_of_an_escalation_is_reminded_from_its_own_beginning(engine: Engine) -> None:
    instance = ask(engine, escalating(reminders=[0.5]))
    engine.advance(hours=1.25)
    assert noted(instance, "reminded") == [(ANN,)]
    engine.advance(hours=0.25)
    assert noted(instance, "reminded") == [(ANN,), (CAT,)]


def test_links_are_sent_again_on_demand_to_those_who_are_asked_only(engine: Engine, data_folder: Path) -> None:
    instance = ask(engine, named(ANN, BEN, policy="all"))
    assert asks(engine, instance, "remind", {"approver": CAT}) == "not_asked"
    assert asks(engine, instance, "remind", {"by": "Alice"}) == "taken"
    assert asks(engine, instance, "remind", {"approver": BEN}) == "taken"
    assert noted(instance, "reminded") == [(ANN, BEN), (BEN,)]
    assert recipients(data_folder) == [ANN, ANN, BEN, BEN, BEN]


def test_where_anybody_may_vote_the_mailbox_is_reminded(engine: Engine, data_folder: Path) -> None:
    instance = ask(engine, request(24.0, mailbox=BEN, reminders={"every": 2, "max": 2}))
    engine.advance(hours=9)
    assert recipients(data_folder) == [BEN] * 3
    assert asks(engine, instance, "remind", {}) == "taken"
    silent = ask(engine, request(24.0, reminders=2))
    engine.advance(hours=9)
    assert asks(engine, silent, "remind", {}) == "not_asked"
    cast(engine, silent, vote("Bob"))
    assert ended_well(engine, silent)["status"] == "Approved"


# Mails that fail


def test_a_mail_that_fails_holds_nothing_up_is_on_record_and_can_be_sent_again(
    engine: Engine, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailer = failing(monkeypatch, data_folder, ANN)
    instance = ask(engine, named(ANN, BEN, policy="all"))  # it waits while the mail is still being tried
    assert engine.status(instance)["standing"]["mail_failed"] == []
    engine.advance(minutes=3)
    assert mailer.tried.count(ANN) == 5
    status = engine.phase(instance, WAITING)
    assert status["standing"]["mail_failed"] == [ANN]
    assert ANN in status["warnings"][-1]
    assert (noted(instance, "mailed"), noted(instance, "mail_failed")) == ([(BEN,)], [(ANN,)])
    cast(engine, instance, vote(BEN))
    mailer.down.clear()
    assert asks(engine, instance, "remind", {"approver": ANN}) == "taken"
    assert recipients(data_folder) == [ANN, BEN]
    assert engine.status(instance)["standing"]["mail_failed"] == []  # it reached her after all
    cast(engine, instance, vote(ANN))
    assert ended_well(engine, instance)["status"] == "Approved"


def test_a_decision_is_taken_while_a_mail_is_still_being_tried(
    engine: Engine, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, data_folder, BEN)
    instance = ask(engine, named(ANN, BEN))
    assert asks(engine, instance, "decision", vote(ANN)) == "taken"
    status = engine.phase(instance, "approved")
    assert (status["decision"]["by"], status["waiting_for"], status["wait"]) == (ANN, None, None)
    assert open_waits(instance) == []
    assert engine.state(instance).runtime_status is OrchestrationStatus.RUNNING
    # It has no verdict for who comes now: what came out is the answer to all.
    assert asks(engine, instance, "decision", vote(BEN, "reject")) is None
    assert asks(engine, instance, "withdraw", {"by": "Alice"}) is None
    assert engine.phase(instance, "approved")["decision"]["by"] == ANN
    engine.advance(minutes=3)
    assert ended_well(engine, instance)["status"] == "Approved"
    assert refusals(instance) == ["not_waiting"] * 2
    assert noted(instance, "mail_failed") == [(BEN,), (BEN,)]  # the question, and the outcome


def test_nothing_is_mailed_before_it_is_on_record(
    engine: Engine, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(store: RecordStore, batch: RecordBatch) -> list[int]:
        raise RecordStoreError("away")

    with monkeypatch.context() as patch:
        patch.setattr(record_activities, "put_on_record", away)
        instance = engine.start("approval", named(ANN, BEN, policy="sequential"))
        engine.advance(hours=2)
        assert engine.status(instance)["phase"] == "requesting_approval"
        assert mails(data_folder) == []
    engine.advance(minutes=30)
    engine.phase(instance, WAITING)
    assert recipients(data_folder) == [ANN]
    with monkeypatch.context() as patch:
        patch.setattr(record_activities, "put_on_record", away)
        assert asks(engine, instance, "decision", vote(ANN)) is None  # no verdict, and no mail to the next
        engine.advance(hours=2)
        assert engine.status(instance)["standing"]["seats"][digest_of_person(ANN)] is None
        assert recipients(data_folder) == [ANN]
    engine.advance(minutes=30)
    assert engine.status(instance)["standing"]["seats"][digest_of_person(ANN)] == "approve"
    assert recipients(data_folder) == [ANN, BEN]
    cast(engine, instance, vote(BEN))
    assert ended_well(engine, instance)["status"] == "Approved"


# The callback


class Receiver:
    """A server for outcomes, which answers with ``status``."""

    def __init__(self) -> None:
        self.status = 200
        self.posted: list[dict[str, Any]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(receiver.status)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> Any:
    """A server that outcomes may be posted to."""
    receiver = Receiver()
    monkeypatch.setenv("CALLBACK_HOSTS", receiver.host)
    monkeypatch.setenv("CALLBACK_KEY", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    get_settings.cache_clear()
    yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()


@pytest.mark.parametrize("ending", ["approved", "timed_out", "withdrawn"])
def test_the_outcome_is_posted_once_however_it_ends(engine: Engine, receiver: Receiver, ending: str) -> None:
    instance = ask(engine, named(ANN, callback_url=f"http://{receiver.host}/outcome"))
    if ending == "approved":
        cast(engine, instance, vote(ANN))
    elif ending == "withdrawn":
        engine.event(instance, "withdraw", {"by": "Alice"})
    engine.advance(hours=24)
    output = ended_well(engine, instance)
    assert [each["data"]["status"] for each in receiver.posted] == [output["status"]]
    assert actions(instance).count("called_back") == 1


def test_a_callback_that_fails_for_hours_does_not_hold_up_the_outcome(engine: Engine, receiver: Receiver) -> None:
    receiver.status = 500
    instance = ask(engine, named(ANN, callback_url=f"http://{receiver.host}/outcome"))
    assert asks(engine, instance, "decision", vote(ANN)) == "taken"
    status = engine.phase(instance, "approved")
    assert status["decision"]["by"] == ANN
    engine.advance(hours=3)
    assert engine.state(instance).runtime_status is OrchestrationStatus.RUNNING
    assert asks(engine, instance, "decision", vote(ANN, "reject")) is None
    engine.advance(hours=3)
    assert ended_well(engine, instance)["status"] == "Approved"
    assert len(receiver.posted) == 10
    assert "callback_failed" in actions(instance)
    assert "callback_url" in engine.status(instance)["warnings"][-1]


# Repetitions


def test_the_same_decision_id_again_gets_the_same_verdict_and_does_nothing(engine: Engine) -> None:
    instance = ask(engine, named(ANN, BEN, policy="all"))
    first = vote(ANN, decision_id="d1")
    cast(engine, instance, first, first, first | {"channel": "api"})
    found = [each for each in verdicts(engine, instance) if each.id == digest_of_id("d1")]
    said = digest_of_said(VoteEvent.model_validate(first))
    assert {(each.said, each.code) for each in found} == {(said, "taken")}
    assert actions(instance).count("voted") == 1
    refused = vote(CAT, decision_id="d2")
    cast(engine, instance, refused, refused)
    assert refusals(instance) == ["not_asked"]


def test_another_vote_under_the_same_decision_id_counts_nothing_and_can_be_told(engine: Engine) -> None:
    instance = ask(engine, named(ANN, BEN, policy="all"))
    first, other = vote(ANN, decision_id="d1"), vote(ANN, "reject", decision_id="d1")
    cast(engine, instance, first, other)
    assert engine.status(instance)["standing"]["seats"][digest_of_person(ANN)] == "approve"
    [*_, newest] = verdicts(engine, instance)
    assert newest.said == digest_of_said(VoteEvent.model_validate(first))
    assert newest.said != digest_of_said(VoteEvent.model_validate(other))


def test_a_repetition_after_many_other_verdicts_finds_its_own_again(engine: Engine) -> None:
    instance = ask(engine, named(ANN, BEN, policy="all"))
    cast(engine, instance, vote(ANN, decision_id="first"))
    for _ in range(MAX_VERDICTS + 1):
        asks(engine, instance, "decision", vote(CAT))
    assert answered(engine, instance, "first") is None
    assert len(engine.status(instance)["verdicts"]) == MAX_VERDICTS
    cast(engine, instance, vote(ANN, decision_id="first"))
    assert answered(engine, instance, "first") == "taken"
    assert actions(instance).count("refused") == MAX_REFUSALS_EACH  # of a flood the trail names these


def test_malformed_events_of_every_kind_are_set_aside(engine: Engine) -> None:
    instance = ask(engine, named(ANN))
    payloads: list[tuple[str, Any]] = [
        ("decision", {"approver": ANN}),
        ("decision", {"approver": ANN, "vote": "approve", "is_approved": True}),
        ("decision", {"approver": ANN, "vote": "maybe"}),
        ("decision", {"approver": ANN, "vote": "approve", "link": {"round": "1", "serial": 1}}),
        ("delegate", {"approver": ANN, "to": "nowhere"}),
        ("withdraw", None),
        ("extend", {"by": "Alice", "extend_by": -1}),
        ("extend", {"by": "Alice", "extend_by": "P1Y"}),
        ("extend", {"by": "Alice", "extend_by": 10**400}),
        ("revise", {"by": "Alice", "item": "two\nlines"}),
        ("remind", {"approver": ""}),
    ]
    for event, payload in payloads:
        engine.event(instance, event, payload)
        assert f"'{event}' was set aside" in engine.phase(instance, WAITING)["warnings"][-1]
    assert actions(instance).count("set_aside") == len(payloads)
    cast(engine, instance, vote(ANN))
    assert ended_well(engine, instance)["status"] == "Approved"


# The size of the custom status


@pytest.mark.timeout(180)
@pytest.mark.parametrize("letter", ["🎉"])  # two characters of UTF-16, and twelve of ASCII
def test_the_custom_status_stays_under_16_kb_whatever_is_said(
    engine: Engine, data_folder: Path, monkeypatch: pytest.MonkeyPatch, letter: str
) -> None:
    named_first = [f"{number:02d}{letter * 248}@b.c" for number in range(50)]
    people = [f"{number:02d}{letter * 248}@d.e" for number in range(50)]
    assert {len(each) for each in people} == {254}
    failing(monkeypatch, data_folder, *people[-3:])
    approvers = [{"email": each, "delegate": {"to": heir}} for each, heir in zip(named_first, people, strict=True)]
    given = named(
        *approvers, policy="all", item=letter * 200, requester=letter * 254, reject_after=50, second_factor="mail_code"
    )
    instance = ask(engine, given)
    engine.advance(minutes=3)  # some mails have failed by now
    sizes = [size(engine, instance)]
    standing = engine.status(instance)["standing"]
    assert (len(standing["seats"]), len(standing["gave_away"])) == (50, 50)
    assert noted(instance, "mail_failed") == [tuple(people[-3:])]
    for number in range(2 * MAX_WRONG_CODES + 2):
        wrong = by_link(100 + number // MAX_WRONG_CODES, "wrong", people[45], decision_id=f"{number}")
        engine.event(instance, "decision", wrong)
    sizes.append(size(engine, instance))
    for _ in range(6):
        engine.event(instance, "decision", {letter * 3000: True})
    sizes.append(size(engine, instance))
    engine.event(instance, "decision", vote(people[49], "reject", comments=letter * 4000, decision_id="x" * 128))
    sizes.append(size(engine, instance))
    assert engine.phase(instance, "rejected")["decision"]["by"] == people[49]
    engine.advance(minutes=3)
    sizes.append(size(engine, instance))
    output = engine.output(instance)
    assert output["comments"] == letter * 4000
    assert max(sizes) < 16 * 1024, sizes
    assert verdict(engine, instance) == "intact"
    assert open_waits(instance) == []


# What comes while the run stands still for the records


def _store_away(store: RecordStore, batch: RecordBatch) -> list[int]:
    raise RecordStoreError("away")


def test_a_vote_after_the_deadline_is_late_though_the_store_was_away(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = ask(engine, named(ANN, BEN, policy="all", timeout_hours=1.0))
    with monkeypatch.context() as patch:
        patch.setattr(record_activities, "put_on_record", _store_away)
        engine.event(instance, "decision", vote(ANN))
        engine.advance(hours=1.5)
        engine.event(instance, "decision", vote(BEN))
    engine.advance(hours=1)
    output = ended_well(engine, instance)
    assert output["status"] == "Timeout"
    assert [each["by"] for each in output["votes"]] == [ANN]


def test_a_vote_before_the_deadline_counts_though_the_store_was_away(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = ask(engine, named(ANN, BEN, policy="all", timeout_hours=1.0))
    with monkeypatch.context() as patch:
        patch.setattr(record_activities, "put_on_record", _store_away)
        engine.event(instance, "decision", vote(ANN))
        engine.state(instance)
        engine.event(instance, "decision", vote(BEN))
        engine.state(instance)
        engine.advance(hours=0.5)
    engine.advance(hours=0.45)
    assert ended_well(engine, instance)["status"] == "Approved"


def test_what_was_asked_first_is_done_first_though_the_store_was_away(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of these comes before another that the run lists before it."""
    instance = ask(engine, named(ANN, BEN, policy="all"))
    with monkeypatch.context() as patch:
        patch.setattr(record_activities, "put_on_record", _store_away)
        for event, payload in (
            ("decision", vote(ANN)),
            ("remind", {"by": "Alice"}),
            ("extend", {"by": "Alice", "extend_by": 1}),
            ("withdraw", {"by": "Alice"}),
            ("delegate", {"approver": BEN, "to": CAT}),
        ):
            engine.event(instance, event, payload)
            engine.state(instance)
    engine.advance(hours=1)
    assert ended_well(engine, instance)["status"] == "Withdrawn"
    done = [action for action in actions(instance) if action not in ("mailed", "refused")]
    assert done == ["started", "asked", "voted", "reminded", "extended", "withdrawn", "ended"]
