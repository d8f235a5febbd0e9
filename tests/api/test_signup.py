"""Sign-ups over HTTP, for programs: the calls that others wrote down, and what is shown."""

import json
import logging
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import count
from typing import Any
from zoneinfo import ZoneInfo

import azure.functions as func
import httpx
import pytest
from azure.durable_functions import DurableFunctionsClient

from local_host.client_binding import client_configuration
from local_host.testing import AppControl, running_app
from services import accounts, clock, outbox, trail
from services.record_store import RecordStoreError, close_record_store
from settings import get_settings
from tests.hosting import ROOT
from triggers import purge
from triggers import signup as trigger

MANY = 50
EMAIL = "zeb.quagmire@hidden.example.com"
FIRST, LAST = "Zebulon", "Quagmire"
PERSONAL = ("quagmire", "hidden", "zebulon")
_numbers = count(1)


class App:
    """The app in this process, with a clock that the test moves."""

    def __init__(self, control: AppControl, client: httpx.Client) -> None:
        self.control = control
        self.client = client

    def call(
        self, path: str, said: Mapping[str, str], method: str = "GET", headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Call it with parameters: in the address, or in the form of a POST."""
        params, data = (None, said) if method == "POST" else (said, None)
        return self.client.request(method, path, headers=headers, params=params, data=data)

    def submit(self, username: str, **said: str) -> str:
        """Sign somebody up, and give the answer."""
        return text(self.call("/signup/submit", {"username": username, "email": f"{username}.{EMAIL}"} | said))

    def verify(self, username: str, key: str | None = None, source: str = "test") -> str:
        """Verify it, and give the answer."""
        headers = {"Idempotency-Key": key} if key is not None else None
        return text(self.call("/signup/verify", {"username": username, "source": source}, headers=headers))

    def verify_many(self, username: str) -> list[str]:
        """Verify it many times at once, and give the answers."""
        with ThreadPoolExecutor(MANY) as pool:
            return sorted(pool.map(lambda _: self.verify(username), range(MANY)))

    def shown(self, username: str) -> dict[str, Any]:
        """What is shown of it, when everything has settled."""
        self.control.settle()
        body: dict[str, Any] = self.client.get(f"/api/signups/{username}").raise_for_status().json()
        return body

    def waiting(self, **said: str) -> str:
        """A user who has signed up, with a name of its own."""
        username = f"user-{next(_numbers)}"
        assert self.submit(username, **said) == "workflow started"
        assert self.shown(username)["status"] == "waiting"
        return username

    def done(self, **said: str) -> str:
        """A user who has an account."""
        username = self.waiting(**said)
        assert self.verify(username) == "done"
        assert self.shown(username)["phase"] == "done"
        return username

    def advance(self, **time: float) -> None:
        """Move the clock."""
        self.control.advance(timedelta(**time))

    def purge(self) -> None:
        """Run the timer that purges what ended long ago, as if that were at once."""
        hub = self.control.hub
        configuration = client_configuration(hub.address, hub.credential, self.control.url, "countersign")
        timer = func.TimerRequest

        async def on_loop() -> None:
            await purge.purge_instances(timer, DurableFunctionsClient(configuration))  # type: ignore[arg-type]

        self.control._thread.run(on_loop())


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """One app for all tests here."""
    data = tmp_path_factory.mktemp("signups")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_HOST_DATA", str(data))
        patch.setenv("RETENTION_DAYS", "0")
        patch.setenv("SIGNUP_MAILS_PER_ADDRESS", "1000")
        get_settings.cache_clear()
        close_record_store()
        with (
            running_app(ROOT, data) as control,
            httpx.Client(base_url=control.url, trust_env=False, timeout=20) as client,
        ):
            clock.set_clock(lambda: control.now)
            try:
                yield App(control, client)
            finally:
                clock.set_clock(clock.system_clock)
    get_settings.cache_clear()
    close_record_store()


def text(response: httpx.Response) -> str:
    """The text of an answer that went well."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/plain")
    return response.text


def refused(response: httpx.Response, status: int) -> str:
    """Assert that something was refused, and give the words."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    detail: str = response.json()["detail"]
    assert detail.endswith(".")
    return detail


def mails_to(email: str) -> list[str]:
    """The subjects of the mails to an address, oldest first."""
    return [mail.subject for mail in reversed(outbox.page(1000)) if mail.to == email]


# The calls that others wrote down


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_user_signs_up_and_is_verified_by_the_calls_of_others(app: App, method: str) -> None:
    said = {"username": f"anna-{method}", "email": f"anna-{method}@example.com".lower()}
    names = {"firstname": "Anna", "lastname": "Lee"}
    assert text(app.call("/signup/submit", said | names, method)) == "workflow started"
    assert text(app.call("/signup/submit", said | names, method)) == "username already started registry"
    app.control.settle()
    described = app.call("/signup/describe", {"username": said["username"]}).json()
    assert described == {"form": said | names, "status": "waiting", "source": None}
    verified = {"username": said["username"], "source": "email"}
    assert text(app.call("/signup/verify", verified, method)) == "done"
    assert text(app.call("/signup/verify", verified, method)) == "already verified"
    app.control.settle()
    described = app.call("/signup/describe", {"username": said["username"]}).json()
    assert described == {"form": said | names, "status": "verified", "source": "email"}
    assert mails_to(said["email"]) == ["Please confirm your address", "Welcome"]
    assert accounts.get_accounts().owner_of(said["email"]) == said["username"]


def test_names_and_a_source_may_be_left_out_and_parameters_of_a_post_stand_in_the_address(app: App) -> None:
    response = app.client.post("/signup/submit?username=bare&email=bare@example.com&firstname=")
    assert text(response) == "workflow started"
    assert text(app.client.post("/signup/verify?username=bare")) == "done"
    app.control.settle()
    described = app.call("/signup/describe", {"username": "bare"}).json()
    form = {"username": "bare", "email": "bare@example.com", "firstname": None, "lastname": None}
    assert described == {"form": form, "status": "verified", "source": "api"}


def test_a_user_can_be_described_as_soon_as_it_is_started(app: App) -> None:
    assert app.submit("later", startAt=(app.control.now + timedelta(days=3)).isoformat()) == "workflow started"
    assert app.call("/signup/describe", {"username": "later"}).json()["status"] == "waiting"
    shown = app.shown("later")
    assert (shown["status"], shown["mails_sent"], shown["expires_at"], shown["history"]) == ("waiting", 0, None, [])
    assert app.submit("later") == "username already started registry"
    app.advance(days=3)
    assert app.verify("later") == "done"


def test_user_names_are_compared_without_regard_to_case(app: App) -> None:
    assert app.submit("MixedCase") == "workflow started"
    assert app.submit("mixedCASE") == "username already started registry"
    assert app.verify("MIXEDCASE") == "done"
    assert app.verify("mixedcase") == "already verified"
    shown = app.shown("MixedCASE")
    assert (shown["username"], shown["instance_id"]) == ("MixedCase", "signup-mixedcase")
    assert app.shown("signup-MixedCase") == shown


def test_a_user_name_stays_taken_after_completion_and_after_the_purge(app: App) -> None:
    username = app.done()
    assert app.submit(username.upper()) == "username already started registry"
    app.advance(seconds=1)
    app.purge()
    refused(app.client.get(f"/api/signups/{username}"), 404)
    assert app.submit(username) == "username already started registry"
    assert app.verify(username) == "already verified"
    described = app.call("/signup/describe", {"username": username}).json()
    assert described == {"form": None, "status": "verified", "source": "test"}
    assert [name for name in PERSONAL if name in json.dumps(described).lower()] == []


def test_a_user_name_that_is_verified_while_another_signs_up_is_taken_all_the_same(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    username = app.done()

    async def not_yet(_: str) -> bool:
        return False

    monkeypatch.setattr(trigger, "has_account", not_yet)
    assert app.submit(username) == "username already started registry"
    assert app.shown(username)["phase"] == "done"


def test_one_that_is_purged_while_it_is_verified_again_is_verified_all_the_same(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    username = app.done()
    app.advance(seconds=1)
    looked = trigger.look

    async def purged_meanwhile(client: DurableFunctionsClient, name: str) -> Any:
        await client.purge_orchestration(f"signup-{name}")
        return await looked(client, name)

    monkeypatch.setattr(trigger, "look", purged_meanwhile)
    assert app.verify(username) == "already verified"


def test_a_user_name_is_free_again_when_nobody_verified_it(app: App) -> None:
    username = app.waiting()
    app.advance(days=7)
    assert app.shown(username)["status"] == "expired"
    assert app.submit(username, email="another@example.com") == "workflow started"
    assert app.shown(username)["status"] == "waiting"
    app.advance(days=7)
    app.purge()
    assert app.submit(username) == "workflow started"
    assert app.verify(username) == "done"


def test_the_id_of_another_workflow_is_not_taken_for_a_sign_up(app: App) -> None:
    given = {"requester": "Alice", "item": "A desk", "timeout_hours": 1.0, "approvers": ["a@example.com"]}
    app.control.start("approval", given, "signup-other")
    response = app.call("/signup/submit", {"username": "other", "email": EMAIL})
    assert "in use by a run of approval" in refused(response, 409)
    for path in ("/signup/verify", "/signup/describe"):
        refused(app.call(path, {"username": "other"}), 404)
    refused(app.client.get("/api/signups/other"), 404)


# Verified once


def test_of_many_verifications_at_once_one_is_done(app: App) -> None:
    username = app.waiting()
    assert app.verify_many(username) == ["already verified"] * (MANY - 1) + ["done"]
    app.control.settle()
    assert app.verify_many(username) == ["already verified"] * MANY
    assert [each["action"] for each in app.shown(username)["history"]].count("account_created") == 1
    app.advance(seconds=1)
    app.purge()
    assert app.verify_many(username) == ["already verified"] * MANY


def test_the_same_key_is_answered_as_before(app: App) -> None:
    username = app.waiting()
    for key, answer in (("k1", "done"), ("k2", "already verified"), ("k1", "done")):
        assert app.verify(username, key) == answer
    app.control.settle()
    for key, answer in (("k1", "done"), ("k2", "already verified"), ("k3", "already verified")):
        assert app.verify(username, key) == answer


def test_the_same_key_many_times_at_once_is_done_for_all(app: App) -> None:
    username = app.waiting()
    with ThreadPoolExecutor(20) as pool:
        assert set(pool.map(lambda _: app.verify(username, "k1"), range(20))) == {"done"}
    assert [each["action"] for each in app.shown(username)["history"]].count("verified") == 1


def test_a_verification_with_the_submission_counts(app: App) -> None:
    for number in range(5):
        assert app.submit(f"at-once-{number}") == "workflow started"
        assert app.verify(f"at-once-{number}") == "done"


def test_one_whose_run_is_suspended_is_pending(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    username = app.waiting()
    app.control.client.suspend_orchestration(f"signup-{username}")
    app.control.settle()
    monkeypatch.setenv("DECISION_WAIT_SECONDS", "0.1")
    get_settings.cache_clear()
    response = app.call("/signup/verify", {"username": username}, headers={"Idempotency-Key": "k1"})
    assert (response.status_code, response.text) == (202, "pending")
    app.control.client.resume_orchestration(f"signup-{username}")
    assert app.shown(username)["status"] == "verified"
    assert app.verify(username, "k1") == "done"
    monkeypatch.undo()
    get_settings.cache_clear()


def test_nobody_is_verified_who_is_not_there(app: App) -> None:
    for path in ("/signup/verify", "/signup/describe", "/api/signups/nobody"):
        response = app.client.get(path, params={"username": "nobody"} if "api" not in path else {})
        assert refused(response, 404)


def test_nobody_is_verified_whose_time_is_up(app: App) -> None:
    username = app.waiting()
    app.advance(days=7)
    assert "expired" in refused(app.call("/signup/verify", {"username": username}), 410)
    described = app.call("/signup/describe", {"username": username}).json()
    assert described == {"form": None, "status": "expired", "source": None}
    app.purge()
    refused(app.call("/signup/verify", {"username": username}), 404)
    refused(app.call("/signup/describe", {"username": username}), 404)


def test_nobody_is_verified_whose_run_was_terminated(app: App) -> None:
    username = app.waiting()
    app.control.client.terminate_orchestration(f"signup-{username}")
    assert app.shown(username)["status"] == "terminated"
    refused(app.call("/signup/verify", {"username": username}), 410)
    assert app.submit(username) == "workflow started"


# One that another replaces


@pytest.mark.parametrize("how", ["that was terminated", "that goes on"])
def test_the_mails_go_of_one_that_another_of_its_name_replaces(app: App, how: str) -> None:
    old, new = (f"{next(_numbers)}@example.com" for _ in range(2))
    username = app.waiting(email=old)
    assert app.submit(username, email=new) == "username already started registry"
    assert len(mails_to(old)) == 1
    said = {}
    if how == "that was terminated":
        app.control.client.terminate_orchestration(f"signup-{username}")
        app.control.settle()
    else:
        said = {"idReusePolicy": "ALLOW_TERMINATE_IF_RUNNING"}
    app.advance(seconds=1)
    assert app.submit(username, email=new, **said) == "workflow started"
    app.control.settle()
    assert (mails_to(old), len(mails_to(new))) == ([], 1)
    assert app.verify(username) == "done"


def test_one_whose_mails_cannot_be_removed_is_replaced_all_the_same(
    app: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    username = app.waiting()
    app.advance(seconds=1)
    with monkeypatch.context() as patch:
        patch.setattr(outbox, "erase", _away)
        assert app.submit(username, idReusePolicy="ALLOW_TERMINATE_IF_RUNNING") == "workflow started"
    assert "could not be erased" in caplog.text
    assert app.verify(username) == "done"


def test_one_that_is_verified_is_not_replaced_while_its_account_is_being_made(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    username = app.waiting()
    with monkeypatch.context() as patch:
        patch.setattr(accounts.FolderAccounts, "create", _away)
        assert app.verify(username) == "done"
        assert app.shown(username)["phase"] == "creating_account"
        app.advance(seconds=1)
        for policy in ("ALLOW_TERMINATE_IF_RUNNING", "ALLOW_IF_NO_RUNNING"):
            assert app.submit(username, idReusePolicy=policy) == "username already started registry"
        assert app.verify(username) == "already verified"
    app.advance(minutes=5)
    assert app.shown(username)["phase"] == "done"


def test_one_that_was_verified_and_terminated_leaves_its_name_to_others(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    username = app.waiting()
    with monkeypatch.context() as patch:
        patch.setattr(accounts.FolderAccounts, "create", _away)
        assert app.verify(username) == "done"
        app.control.settle()
        app.control.client.terminate_orchestration(f"signup-{username}")
        app.control.settle()
    app.advance(seconds=1)
    assert app.submit(username) == "workflow started"


def _away(*_: Any) -> Any:
    raise OSError("away")


# What is wrong


WRONG = [
    {"username": "a b"},
    {"username": "secret/../secret"},
    {"username": "secret" * 20},
    {"username": "signup-secret"},
    {"username": "s\u00e9cret"},
    {"username": ""},
    {"email": "secret"},
    {"email": "secret@localhost"},
    {"email": "secret@example.com\r\nBcc: secret@example.org"},
    {"email": "secret@" + "e" * 300 + ".com"},
    {"email": "secret@example.com, secret@example.org"},
    {"email": ""},
    {"firstname": "secret\nsecret"},
    {"lastname": "secret" * 20},
    {"timezone": "Mars/Secret"},
    {"timezone": "../../etc/secret"},
    {"session": "secret"},
    {"executionTimeout": "secret"},
    {"startAt": "secret"},
    {"idReusePolicy": "secret"},
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: repr(wrong)[:40])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_parameter_that_is_wrong_is_named_and_not_repeated(app: App, method: str, wrong: dict[str, str]) -> None:
    good = {"username": "never-there", "email": EMAIL}
    response = app.call("/signup/submit", good | wrong, method)
    (name,) = wrong
    assert name in refused(response, 400)
    assert "secret" not in response.text.lower()
    assert "s\u00e9cret" not in response.text
    refused(app.client.get("/api/signups/never-there"), 404)


@pytest.mark.parametrize("path", ["/signup/verify", "/signup/describe"])
@pytest.mark.parametrize(
    "said", [{}, {"username": "a b"}, {"username": "x", "sauce": "y"}, {"username": "x", "source": "y" * 101}], ids=repr
)
def test_a_verification_or_a_question_that_is_wrong_is_refused(app: App, path: str, said: dict[str, str]) -> None:
    refused(app.call(path, said), 400)


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        ('{"username": "x"}', "application/json", 400),
        ("username=x", "text/plain", 400),
        ("username=x&username=y", "application/x-www-form-urlencoded", 400),
        ("username=%ff", "application/x-www-form-urlencoded", 400),
        ("&".join(f"a{number}=1" for number in range(200)), "application/x-www-form-urlencoded", 400),
        ("username=" + "x" * 300_000, "application/x-www-form-urlencoded", 413),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_body_that_is_no_form_is_refused(app: App, body: str, kind: str, status: int) -> None:
    response = app.client.post("/signup/submit", content=body, headers={"Content-Type": kind})
    refused(response, status)


def test_a_parameter_in_the_address_and_in_the_form_is_refused(app: App) -> None:
    response = app.client.post("/signup/submit?username=x", data={"username": "y", "email": EMAIL})
    assert refused(response, 400) == "The parameter 'username' is given twice."


@pytest.mark.parametrize("path", ["/signup/submit", "/signup/verify"])
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "headers",
    [{"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Sec-Purpose": "prefetch"}],
    ids=repr,
)
def test_what_a_browser_sends_for_another_site_or_ahead_of_time_is_refused(
    app: App, path: str, method: str, headers: dict[str, str]
) -> None:
    username = "embedded" if path == "/signup/submit" else app.waiting()
    said = {"username": username} | ({"email": EMAIL} if path == "/signup/submit" else {})
    refused(app.call(path, said, method, headers), 403)
    if path == "/signup/submit":
        refused(app.client.get("/api/signups/embedded"), 404)
    else:
        assert app.shown(username)["status"] == "waiting"


def test_head_changes_nothing(app: App) -> None:
    username = app.waiting()
    assert app.client.head("/signup/verify", params={"username": username}).status_code in (404, 405)
    assert app.client.head("/signup/submit", params={"username": "by-head", "email": EMAIL}).status_code in (404, 405)
    assert app.shown(username)["status"] == "waiting"
    refused(app.client.get("/api/signups/by-head"), 404)


# Addresses and time zones


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("j\u00f6rg@m\u00fcller.example.com", "j\u00f6rg@m\u00fcller.example.com"),
        ("jorg@xn--mller-kva.example.com", "jorg@m\u00fcller.example.com"),
        ("\u7528\u6237@\u4f8b\u5b50.\u5e7f\u544a", "\u7528\u6237@\u4f8b\u5b50.\u5e7f\u544a"),
        ("Case@EXAMPLE.org", "Case@example.org"),
    ],
)
def test_addresses_in_all_letters_get_their_mails(app: App, given: str, kept: str) -> None:
    username = app.done(email=given)
    assert app.call("/signup/describe", {"username": username}).json()["form"]["email"] == kept
    local, _, domain = kept.partition("@")
    in_ascii = f"{local}@{domain.encode('idna').decode()}"
    assert mails_to(kept) or mails_to(in_ascii)
    assert accounts.get_accounts().owner_of(given) == username


def test_reminders_keep_to_the_quiet_hours_of_a_time_zone_that_is_given(app: App) -> None:
    for zone in ("Etc/GMT", "Etc/GMT+8", "Etc/GMT-8"):  # in one of them it is night
        username = app.waiting(timezone=zone)
        due = datetime.fromisoformat(app.shown(username)["next_reminder"])
        assert 8 <= due.astimezone(ZoneInfo(zone)).hour < 21
        assert due - app.control.now < timedelta(hours=36)


# What is shown


def test_programs_are_shown_where_it_stands_and_nothing_personal(app: App) -> None:
    username = app.waiting(firstname=FIRST, lastname=LAST)
    began = app.control.now
    shown = app.shown(username)
    assert datetime.fromisoformat(shown["expires_at"]) == began + timedelta(days=7)
    assert datetime.fromisoformat(shown["next_reminder"]) == began + timedelta(days=1)
    expected = {"mails_sent": 1, "reminders_sent": 0, "source": None, "verified_at": None, "code_locked": False}
    assert {name: shown[name] for name in expected} == expected
    app.advance(days=1)
    assert app.shown(username)["reminders_sent"] == 1
    app.control.event(f"signup-{username}", "change_email", {"email": EMAIL})  # malformed
    app.control.event(f"signup-{username}", "verify", {"source": "", "email": EMAIL})
    pages = [app.client.get(f"/api/signups/{username}").text]
    assert app.verify(username, source="by phone") == "done"
    shown = app.shown(username)
    assert (shown["status"], shown["source"], shown["next_reminder"]) == ("verified", "by phone", None)
    assert datetime.fromisoformat(shown["verified_at"]) == began + timedelta(days=1)
    assert len(shown["warnings"]) == 2
    told = [each["action"] for each in shown["history"]]
    assert told[:4] == ["started", "mailed", "reminded", "mailed"]
    assert told[-4:] == ["verified", "account_created", "mailed", "ended"]
    pages += [app.client.get(path).text for path in (f"/api/signups/{username}", "/api/waits?kind=signup")]
    assert re.findall(r"token|[0-9a-f]{32}", "".join(pages)) == []
    pages.append(app.client.get(f"/api/audit/signup-{username}").text)
    assert [name for name in PERSONAL if name in "".join(pages).lower()] == []


def test_nothing_of_the_session_of_a_browser_is_shown(app: App) -> None:
    username, digest = f"session-{next(_numbers)}", "5e55" * 16
    key = trigger.address_key(EMAIL)
    given = {
        "form": {"username": username, "email": EMAIL},
        "address_key": key,
        "session": digest,
        "channel": "page",
    }
    app.control.start("signup", given, f"signup-{username}")
    shown = json.dumps(app.shown(username))
    described = app.call("/signup/describe", {"username": username}).text
    for told in (shown, described):
        assert digest not in told
        assert digest[:16] not in told
        assert key not in told
    assert app.verify(username) == "done"


def test_no_log_says_who_signs_up(app: App, caplog: pytest.LogCaptureFixture) -> None:
    """But for the address of the request itself, where it stands there."""
    caplog.set_level(logging.INFO)
    username = f"user-{next(_numbers)}"
    said = {"username": username, "email": EMAIL, "firstname": FIRST, "lastname": LAST}
    assert text(app.call("/signup/submit", said, "POST")) == "workflow started"
    assert app.verify(username) == "done"
    for wrong in ({"firstname": f"{FIRST}\n{LAST}"}, {"email": "quagmire@hidden"}):
        refused(app.call("/signup/submit", said | wrong, "POST"), 400)
    app.control.settle()
    logged = "\n".join(f"{each.getMessage()} {each.exc_text}" for each in caplog.records).lower()
    assert f"signup-{username}" in logged
    assert [name for name in PERSONAL if name in logged] == []


def test_the_wait_is_listed_until_it_is_verified(app: App) -> None:
    username = app.waiting()
    listed = app.client.get("/api/waits?kind=signup&limit=100").json()["waits"]
    (wait,) = [each for each in listed if each["instance_id"] == f"signup-{username}"]
    assert wait["title"] == f"Sign-up of {username}"
    assert app.client.get(wait["url"]).json()["username"] == username
    app.verify(username)
    app.control.settle()
    listed = app.client.get("/api/waits?kind=signup&limit=100").json()["waits"]
    assert f"signup-{username}" not in [each["instance_id"] for each in listed]


def test_while_the_records_are_away_it_is_shown_without_its_history(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    username = app.waiting()

    def away(*_: Any) -> None:
        raise RecordStoreError("away")

    with monkeypatch.context() as patch:
        patch.setattr(trail, "read", away)
        shown = app.shown(username)
        assert (shown["status"], shown["history"]) == ("waiting", None)
        refused(app.call("/signup/submit", {"username": "while-away", "email": EMAIL}), 503)
    refused(app.client.get("/api/signups/while-away"), 404)
    assert app.verify(username) == "done"
