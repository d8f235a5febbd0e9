"""What becomes of a sign-up after kill -9 of the real host between any two steps."""

import json
import re
import signal
from collections.abc import Callable
from contextlib import suppress
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.hosting import Hosting, data
from tests.orchestrators.signing_up import SUBJECTS
from tests.polling import until

NAME, EMAIL, OTHER = "anna", "anna.secret@example.com", "anna.else@example.org"
INSTANCE = f"signup-{NAME}"
PAGE = f"/api/signups/{NAME}"
EVENTS = f"/runtime/webhooks/durabletask/instances/{INSTANCE}/raiseEvent"
PURGED = 'Z"}'
"""How the row ends by which a run is to be purged, and no other row."""


def submit(client: httpx.Client) -> None:
    """Sign up; the same each time."""
    answer = client.get("/signup/submit", params={"username": NAME, "email": EMAIL}).raise_for_status().text
    assert answer in ("workflow started", "username already started registry")


def shown(client: httpx.Client) -> dict[str, Any]:
    """What is shown of it."""
    body: dict[str, Any] = client.get(PAGE).raise_for_status().json()
    return body


def told(client: httpx.Client) -> list[str]:
    """What happened, one word each."""
    return [each["action"] for each in shown(client)["history"]]


def mailed(client: httpx.Client, count: int) -> None:
    """Wait until so many mails are out, and on record."""
    until(lambda: told(client).count("mailed") >= count, seconds=30)


def verify(client: httpx.Client) -> None:
    """Verify it, the same each time."""
    answers = iter(lambda: _verified(client), None)
    assert next(answer for answer in answers if answer != "pending") == "done"


def _verified(client: httpx.Client) -> str:
    said = {"username": NAME, "source": "test"}
    return client.get("/signup/verify", params=said, headers={"Idempotency-Key": "v1"}).raise_for_status().text


def change(client: httpx.Client) -> None:
    """Have the mails go to another address, the same each time."""
    if shown(client)["address_changes"] == 1:  # it may have ended since
        return
    said = {"email": OTHER, "address_key": "0" * 32, "decision_id": "c1"}
    client.post(f"{EVENTS}/change_email", json=said).raise_for_status()
    until(lambda: shown(client)["address_changes"] == 1, seconds=30)


def confirm(client: httpx.Client, folder: Path) -> None:
    """Verify it by the link in the newest mail, on its page, in a browser that has not seen it before."""
    if shown(client)["verified_at"] is None:
        path = max((data(folder) / "outbox").glob("*.eml"), key=_number_of)
        mail = message_from_bytes(path.read_bytes(), _class=EmailMessage, policy=policy.default)
        (body,) = [part.get_content() for part in mail.walk() if part.get_content_type() == "text/plain"]
        token = {"token": re.findall(r"/signup/confirm\?token=(\S+)", body)[0]}
        view = re.findall(r'name="view" value="([^"]+)"', client.get("/signup/confirm", params=token).text)[0]
        client.post("/signup/confirm", params=token, data={"view": view}).raise_for_status()
    until(lambda: shown(client)["verified_at"], seconds=30)


def _number_of(file: Path) -> int:
    return int(file.name.partition("@")[0].rpartition(".")[2])


def ended(client: httpx.Client) -> dict[str, Any]:
    """What is shown at the end, with nothing left open, and the trail whole."""
    end = until(lambda: now if (now := shown(client))["runtime_status"] == "COMPLETED" else None, seconds=30)
    assert client.get("/api/waits").json()["waits"] == []
    assert client.get(f"/api/audit/{INSTANCE}/verify").json()["verdict"] == "intact"
    numbers = [each["number"] for each in client.get(f"/api/audit/{INSTANCE}").json()["entries"]]
    assert numbers == list(range(1, len(numbers) + 1))
    return end


def mails(folder: Path) -> list[tuple[int, str, str]]:
    """The mails that went out: number, address, and what each is about."""
    found = []
    for file in (data(folder) / "outbox").glob("*.eml"):
        head = file.read_text().partition("\n\n")[0]
        fields = dict(line.split(": ", 1) for line in head.splitlines() if ": " in line)
        number = int(fields["Message-ID"].partition("@")[0].rpartition(".")[2])
        found.append((number, fields["To"], SUBJECTS[fields["Subject"]]))
    return sorted(found)


def accounts(folder: Path) -> list[dict[str, Any]]:
    """The accounts."""
    return [json.loads(file.read_text()) for file in (data(folder) / "accounts" / "users").iterdir()]


def killed_at_each(
    hosting: Hosting, folder: Path, kills: list[tuple[str, str]], go: Callable[[httpx.Client], Any], **settings: str
) -> None:
    """Do it all, over and over, on a host that is killed each time at another step."""
    data(folder).mkdir(parents=True)
    for when, text in kills:
        (data(folder) / f"kill-{when}").write_text(text)
        try:
            with hosting(crashing=True, **settings) as (host, client):
                with suppress(httpx.TransportError):
                    go(client)
                assert host.process.wait(timeout=20) == -signal.SIGKILL, (when, text)
        except AssertionError as error:  # before it served anybody
            if f"ended with {-signal.SIGKILL}:" not in str(error):
                raise
        assert not (data(folder) / f"kill-{when}").exists()


KILLS: dict[str, list[tuple[str, str]]] = {
    "the records": [
        ("before", '"started"'),
        ("before", '"mailed"'),
        ("before", '"verified"'),
        ("after", '"verified"'),
        ("before", '"account_created"'),
        ("after", '"ended"'),
    ],
    "mails and account": [
        ("before-file", "outbox/signup-anna"),
        ("after-file", "outbox/signup-anna"),
        ("after-file", "accounts/addresses"),
        ("before-file", "accounts/users"),
        ("after-file", "accounts/users"),
        ("after-file", "outbox/signup-anna"),
    ],
}


@pytest.mark.parametrize("at", KILLS)
def test_all_is_done_once_whenever_the_host_is_killed(hosting: Hosting, tmp_path: Path, at: str) -> None:
    def go(client: httpx.Client) -> None:
        submit(client)
        mailed(client, 1)
        verify(client)
        ended(client)

    killed_at_each(hosting, tmp_path, KILLS[at], go)
    with hosting() as (_, client):
        go(client)
        assert ended(client)["status"] == "verified"
        actions = ["started", "mailed", "verified", "account_created", "mailed", "ended"]
        assert told(client) == actions
        assert client.get("/signup/verify", params={"username": NAME}).text == "already verified"
        submit(client)
    assert mails(tmp_path) == [(1, EMAIL, "verify"), (2, EMAIL, "welcome")]
    (account,) = accounts(tmp_path)
    assert (account["form"]["email"], account["source"]) == (EMAIL, "test")


def test_a_change_of_address_is_made_once_whenever_the_host_is_killed(hosting: Hosting, tmp_path: Path) -> None:
    def go(client: httpx.Client) -> None:
        submit(client)
        mailed(client, 1)
        change(client)
        mailed(client, 2)
        confirm(client, tmp_path)
        ended(client)

    kills = [
        ("before", '"address_changed"'),
        ("after", '"address_changed"'),
        ("after-file", "outbox/signup-anna"),
        ("after", '"verified"'),
    ]
    killed_at_each(hosting, tmp_path, kills, go)
    with hosting() as (_, client):
        go(client)
        assert told(client).count("address_changed") == 1
    assert mails(tmp_path) == [(1, EMAIL, "verify"), (2, OTHER, "verify"), (3, OTHER, "welcome")]
    (account,) = accounts(tmp_path)
    assert (account["form"]["email"], account["source"]) == (OTHER, "link")


def test_an_expired_one_is_erased_and_purged_whenever_the_host_is_killed(hosting: Hosting, tmp_path: Path) -> None:
    seconds = {
        "SIGNUP_REMIND_HOURS": str(0.1 / 3600),
        "SIGNUP_EXPIRY_DAYS": str(6 / 86_400),  # in which it begins, and reminds; all else may be later
        "SIGNUP_MAX_REMINDERS": "1",
    }

    def go(client: httpx.Client) -> None:
        submit(client)
        ended(client)

    kills = [
        ("before", '"reminded"'),
        ("after-file", ".2@"),
        ("before", '"expired"'),
        ("after", PURGED),
        ("after-file", "outbox/signup-anna"),
        ("after", '"ended"'),
    ]
    killed_at_each(hosting, tmp_path, kills, go, **seconds)
    with hosting(**seconds) as (_, client):
        assert ended(client)["status"] == "expired"
        assert [each for each in told(client) if each != "mailed"] == ["started", "reminded", "expired", "ended"]
        assert client.get("/signup/verify", params={"username": NAME}).status_code == 410
        assert mails(tmp_path) == []
        assert not (data(tmp_path) / "accounts").exists()
        client.post("/admin/functions/purge_instances", json={}).raise_for_status()
        until(lambda: client.get(PAGE).status_code == 404)
        assert client.get(f"/api/audit/{INSTANCE}/verify").json()["verdict"] == "intact"
        assert client.get("/signup/submit", params={"username": NAME, "email": EMAIL}).text == "workflow started"
