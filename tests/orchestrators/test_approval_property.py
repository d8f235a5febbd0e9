"""Whatever people do, in whatever order, while time passes and hosts restart: a small model says what comes of it."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import orchestrators.approval
from local_host.task_hub import ManualClock
from tests.orchestrators.engine import Engine, running_engine
from tests.orchestrators.reading import actions, answered, entries, open_waits, size, verdict

ALICE = "alice@example.com"
ANN, BEN, CAT, DAN, EVE = (f"{name}@example.com" for name in ("ann", "ben", "cat", "dan", "eve"))
ASKED, LEVEL = [ANN, BEN, CAT], [DAN]
EVERY = 3
"""Hours between reminders."""


@dataclass
class Model:
    """What a request has to come to: groups of hands and votes, a round, a deadline, and who is reminded when."""

    policy: Any
    on_timeout: str
    now: float = 0.0
    deadline: float = 10.0
    turn: float = 0.0
    level: int = 0
    round: int = 1
    hands: list[list[str]] = field(default_factory=lambda: [[who] for who in ASKED])
    votes: dict[int, str] = field(default_factory=dict)
    before: list[str] = field(default_factory=list)
    changes: bool = False
    status: str | None = None
    reminded: list[tuple[str, ...]] = field(default_factory=list)
    taken: dict[str, tuple[Any, str]] = field(default_factory=dict)

    @property
    def group(self) -> Any:
        """The policy of those who are asked."""
        return "any" if self.level else self.policy

    @property
    def missing(self) -> list[int]:
        """The seats that are waited for."""
        missing = [seat for seat in range(len(self.hands)) if seat not in self.votes]
        return missing[:1] if self.group == "sequential" else missing

    @property
    def all_votes(self) -> list[str]:
        """The votes of this round, by all who were asked in it."""
        return [*self.before, *(self.votes[seat] for seat in sorted(self.votes))]

    def ask(self, people: list[str]) -> None:
        """Ask people anew."""
        self.hands, self.votes, self.changes, self.turn = [[who] for who in people], {}, False, self.now

    def advance(self, hours: float) -> None:
        """Let time pass: what comes first is a reminder or the deadline."""
        until = self.now + hours
        while self.status is None:
            # Reminders come at multiples of EVERY after a turn began, before the deadline.
            due = self.turn + EVERY * ((self.now - self.turn) // EVERY + 1)
            if not self.changes and due < self.deadline and due <= until:
                self.now = due
                self.reminded.append(tuple(sorted(self.hands[seat][-1] for seat in self.missing)))
            elif self.deadline <= until:
                self.now = self.deadline
                self.time_is_up()
            else:
                break
        self.now = until

    def time_is_up(self) -> None:
        """Escalate, or end."""
        if self.on_timeout == "escalate" and not self.changes and self.level == 0:
            self.level, self.deadline, self.before = 1, self.now + 5, self.all_votes
            self.ask(LEVEL)
        else:
            self.status = "Approved" if self.on_timeout == "approve" and not self.changes else "Timeout"

    def vote(self, who: str, what: str) -> str:
        """Cast a vote; give the verdict."""
        if who == ALICE:
            return "not_waiting" if self.changes else "own_request"
        seat = self.seat(who)
        if isinstance(seat, str):
            return seat
        if self.group == "sequential" and any(each not in self.votes for each in range(seat)):
            return "not_yet"
        before = self.missing
        if what == "request_changes":
            self.changes, self.votes[seat] = True, what
            return "taken"
        self.votes[seat] = what
        yes, no = ([*self.votes.values()].count(word) for word in ("approve", "reject"))
        left = len(self.hands) - len(self.votes)
        needed = {"any": 1, "two": 2}.get(str(self.group), max(1, yes + no + left))
        if yes >= needed:
            self.status = "Approved"
        elif (self.group == "any" and no) or yes + left < needed:
            self.status = "Rejected"
        elif set(self.missing) - set(before):
            self.turn = self.now  # the next in a sequence is asked, and reminded from then on
        return "taken"

    def seat(self, who: str) -> int | str:
        """The seat that somebody has, or why they have none."""
        if self.changes:
            return "not_waiting"
        for number, hands in enumerate(self.hands):
            if hands[-1] == who:
                return number
        return "handed_over" if any(who in hands for hands in self.hands) else "not_asked"

    def delegate(self, who: str, to: str) -> str:  # noqa: PLR0911
        """Hand a vote over."""
        seat = self.seat(who)
        if isinstance(seat, str):
            return seat
        if seat in self.votes:
            return "already_voted"
        if to == ALICE:
            return "to_requester"
        if to in self.hands[seat]:
            return "in_a_circle"
        if len(self.hands[seat]) == 4:
            return "handed_on_too_often"
        if any(hands[-1] == to for hands in self.hands):
            return "already_asked"
        self.hands[seat].append(to)
        return "taken"

    def extend(self, who: str, hours: float) -> str:
        """Move the deadline on."""
        if who != ALICE:
            return "not_requester"
        self.deadline += hours
        return "taken"

    def withdraw(self, who: str) -> str:
        """End it."""
        if who != ALICE:
            return "not_requester"
        self.status = "Withdrawn"
        return "taken"

    def revise(self, who: str) -> str:
        """Begin a new round."""
        if not self.changes:
            return "not_waiting"
        if who != ALICE:
            return "not_requester"
        self.round, self.level, self.before = self.round + 1, 0, []
        self.ask(ASKED)
        return "taken"

    def remind(self) -> str:
        """Send the links again."""
        if self.changes:
            self.reminded.append((ALICE,))
            return "taken"
        self.reminded.append(tuple(sorted(self.hands[seat][-1] for seat in self.missing)))
        return "taken"


type Step = tuple[Any, ...]

who = st.sampled_from([ANN, ANN, BEN, BEN, CAT, CAT, DAN, EVE, ALICE])
steps = st.lists(
    st.tuples(st.just("vote"), who, st.sampled_from(["approve", "approve", "reject", "abstain", "request_changes"]))
    | st.tuples(st.just("vote"), who, st.sampled_from(["approve", "abstain"]))
    | st.tuples(st.just("again"))
    | st.tuples(st.just("delegate"), who, who)
    | st.tuples(st.just("extend"), st.sampled_from([ALICE, ALICE, ANN]), st.sampled_from([1.0, 4.0]))
    | st.tuples(st.just("withdraw"), st.sampled_from([ALICE, ANN, ANN, BEN]))
    | st.tuples(st.just("revise"), st.sampled_from([ALICE, ALICE, BEN]))
    | st.tuples(st.just("remind"))
    | st.tuples(st.just("advance"), st.sampled_from([0.5, 1.0, 3.0, 5.0]))
    | st.tuples(st.just("advance"), st.just(2.0)),
    min_size=2,
    max_size=14,
)
POLICIES: dict[str, Any] = {"any": "any", "all": "all", "sequential": "sequential", "two": {"quorum": 2}}


def event_of(step: Step) -> tuple[str, dict[str, Any]]:
    """The event that a step is."""
    match step:
        case "vote", name, what:
            comments = "because" if what == "request_changes" else None
            return "decision", {"approver": name.title(), "vote": what, "comments": comments}
        case "delegate", name, to:
            return "delegate", {"approver": name.upper(), "to": {"email": to}}
        case "extend", name, hours:
            return "extend", {"by": name, "extend_by": hours}
        case "revise", name:
            return "revise", {"by": name, "item": "revised"}
        case ("remind",):
            return "remind", {}
    return "withdraw", {"by": step[1]}


def play(
    engine: Engine, policy: str, on_timeout: str, story: list[Step], restart: Callable[[], Engine] | None = None
) -> None:
    """Do it all, perhaps with a restart before each step, and hold it against the model after each."""
    given = {
        "requester": "Alice",
        "requester_email": ALICE,
        "item": "x",
        "timeout_hours": 10.0,
        "approvers": ASKED,
        "policy": POLICIES[policy],
        "on_timeout": on_timeout,
        "reminders": {"every": EVERY, "max": 100},
        "escalation": [{"approvers": LEVEL, "timeout_hours": 5.0}] if on_timeout == "escalate" else [],
    }
    instance, model = engine.start("approval", given), Model(policy, on_timeout)
    sent: list[tuple[str, dict[str, Any], str]] = []
    for number, step in enumerate(story):
        engine = restart() if restart is not None else engine
        if step[0] == "advance":
            engine.advance(hours=step[1])
            model.advance(step[1])
        elif step[0] == "again" and sent:
            event, payload, expected = sent[number % len(sent)]
            engine.event(instance, event, payload)
            assert answered(engine, instance, payload["decision_id"]) == expected
        elif step[0] != "again":
            event, payload = event_of(step)
            payload["decision_id"] = f"{instance}-{number}"
            engine.event(instance, event, payload)
            expected = getattr(model, step[0])(*step[1:])
            assert answered(engine, instance, payload["decision_id"]) == expected, step
            sent.append((event, payload, expected))
        status = engine.status(instance)
        assert size(engine, instance) < 16 * 1024
        if model.status is not None:
            break
        assert status["phase"] == ("waiting_for_changes" if model.changes else "waiting_for_approval"), step
        assert (status["standing"]["round"], status["standing"]["level"]) == (model.round, model.level)
        [wait] = open_waits(instance)
        people = [ALICE] if model.changes else [model.hands[seat][-1] for seat in model.missing]
        assert list(wait.people) == people
    engine.advance(hours=100)
    model.advance(100)
    output = engine.output(instance)
    assert (output["status"], output["rounds"]) == (model.status, model.round)
    assert [vote["vote"] for vote in output["votes"]] == model.all_votes
    reminded = [entry.people for entry in entries(instance) if entry.action == "reminded"]
    assert [tuple(sorted(people or ())) for people in reminded] == model.reminded
    assert open_waits(instance) == []
    assert actions(instance)[-1] == "ended"
    assert verdict(engine, instance) == "intact"


@pytest.mark.timeout(180)
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    policy=st.sampled_from([*POLICIES]),
    on_timeout=st.sampled_from(["reject", "approve", "escalate"]),
    story=steps,
    anew=st.sampled_from([1, 3, 50]),
)
def test_whatever_happens_the_outcome_is_that_of_the_model(
    engine: Engine, policy: str, on_timeout: str, story: list[Step], anew: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(orchestrators.approval, "BEGIN_ANEW_AFTER", anew)
        play(engine, policy, on_timeout, story)


STORIES: list[tuple[str, str, list[Step]]] = [
    (
        "all",
        "escalate",
        [
            ("vote", ANN, "approve"),
            ("delegate", BEN, EVE),
            ("advance", 4.0),
            ("again",),
            ("vote", EVE, "request_changes"),
            ("extend", ALICE, 4.0),
            ("advance", 3.0),
            ("revise", ALICE),
            ("vote", CAT, "abstain"),
            ("advance", 9.0),
            ("vote", DAN, "reject"),
        ],
    ),
    ("sequential", "approve", [("vote", ANN, "approve"), ("advance", 4.0), ("vote", CAT, "approve"), ("advance", 6.5)]),
]


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("policy", "on_timeout", "story"), STORIES)
def test_a_host_that_restarts_before_each_step_changes_nothing(
    data_folder: Path, policy: str, on_timeout: str, story: list[Step]
) -> None:
    clock = ManualClock()
    with ExitStack() as hosts:

        def restart() -> Engine:
            hosts.close()
            return hosts.enter_context(running_engine(data_folder, clock, ephemeral=False))

        play(restart(), policy, on_timeout, story, restart)
