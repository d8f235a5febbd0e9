"""The pages of the sign-up, as browsers, people, mail programs, and those who pry meet them."""

import asyncio
import html
import json
import logging
import re
import secrets
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from hashlib import sha256
from ipaddress import IPv4Address
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from contracts.mail import LinkClaims
from contracts.signup import NewAccount, SignupClaims, SignupForm
from local_host.testing import AppControl, running_app
from services import clock, links
from services.accounts import get_accounts
from services.record_store import close_record_store
from settings import get_settings
from tests.hosting import ROOT
from triggers.signup_session import EVEN_TIME, not_before

KEY, NEWER_KEY = "k" * 40, "n" * 40
BROWSER, COOKIE = "countersign_browser", "countersign_signup"
SECRET = "[0-9a-f]{32}"
RUN = "20250101T000000000000Z"
WRITTEN = "application/x-www-form-urlencoded"
_numbers = count(1)


@dataclass
class House:
    """The app on a clock that the test moves."""

    control: AppControl
    data: Path

    def advance(self, **time: float) -> None:
        """Move the clock."""
        self.control.advance(timedelta(**time))

    def browser(self) -> httpx.Client:
        """A browser without cookies, behind an address of its own."""
        return httpx.Client(base_url=self.control.url, timeout=20, trust_env=False, headers=self.elsewhere())

    def elsewhere(self) -> dict[str, str]:
        """What a request says that comes from another address than all others."""
        return {"X-Forwarded-For": str(IPv4Address("10.0.0.0") + next(_numbers))}

    def mails(self, name: str) -> list[EmailMessage]:
        """The mails of a user's sign-up, oldest first."""
        self.control.settle()
        files = sorted((self.data / "outbox").glob(f"signup-{name}.*.eml"), key=lambda file: file.stat().st_mtime_ns)
        return [message_from_bytes(file.read_bytes(), _class=EmailMessage, policy=default) for file in files]

    def standing(self, name: str) -> dict[str, Any]:
        """Where a user's sign-up stands."""
        found: dict[str, Any] = self.control.status(f"signup-{name}")["signup"]
        return found

    def raw(self, name: str) -> str:
        """All that can be seen of a user's run, but for its input."""
        state = self.control.state(f"signup-{name}")
        history = [str(event) for event in self.control.history(f"signup-{name}")]
        return json.dumps([state.serialized_custom_status, state.runtime_status.name, len(history)])

    def claims(self, name: str, **changes: Any) -> SignupClaims:
        """What the newest link of a user says."""
        token = token_in(link_in(self.mails(name)[-1]))
        return links.read_signup(token, "confirm").model_copy(update=changes)


@pytest.fixture(scope="module")
def shared_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One app for all tests of the module: user names do not meet."""
    data = tmp_path_factory.mktemp("house")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_HOST_DATA", str(data))
        patch.setenv("DECISION_WAIT_SECONDS", "5")
        patch.setenv("LINK_KEYS", KEY)
        patch.setenv("PROXIES", "1")
        get_settings.cache_clear()
        close_record_store()
        with running_app(ROOT, data) as control:
            clock.set_clock(lambda: control.now)
            try:
                yield House(control, data)
            finally:
                clock.set_clock(clock.system_clock)
    get_settings.cache_clear()
    close_record_store()


@pytest.fixture
def house(shared_house: House) -> Iterator[House]:
    """The app, with the settings of the module and its clock after each test."""
    yield shared_house
    clock.set_clock(lambda: shared_house.control.now)


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, house: House) -> Iterator[Callable[..., None]]:
    """Changes settings for the length of a test."""

    def change(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        get_settings.cache_clear()

    yield change
    monkeypatch.undo()
    get_settings.cache_clear()


@pytest.fixture
def browser(house: House) -> Iterator[httpx.Client]:
    """A browser without cookies."""
    with house.browser() as client:
        yield client


@pytest.fixture
def browsers(house: House) -> Iterator[list[httpx.Client]]:
    """Three of them."""
    with house.browser() as one, house.browser() as two, house.browser() as three:
        yield [one, two, three]


@pytest.fixture
def name() -> str:
    """A user name, always as long."""
    return f"u-{secrets.token_hex(6)}"


def address_of(name: str) -> str:
    """The address of a user."""
    return f"{name}@example.com"


def text(response: httpx.Response) -> str:
    """The words of a page."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", response.text)))


def hidden(response: httpx.Response, name: str) -> str:
    """A hidden field of a page."""
    found = re.search(rf'name="{name}" value="([^"]*)"', response.text)
    assert found is not None, response.text
    return found[1]


def at_once[Item, Answer](call: Callable[[Item], Answer], items: Iterable[Item]) -> list[Answer]:
    """Call something with many at the same moment, and give the answers in their order."""
    items = list(items)
    with ThreadPoolExecutor(len(items)) as pool:
        return list(pool.map(call, items))


def opened(browser: httpx.Client) -> str:
    """Open the form, and give the nonce of this view."""
    return hidden(browser.get("/signup"), "view")


def secret_of(response: httpx.Response) -> str:
    """The secret of the session that an answer gives the browser."""
    found = re.fullmatch(rf"{COOKIE}=({SECRET})\.\S+", response.headers["Set-Cookie"].partition(";")[0])
    assert (response.status_code, found is not None) == (303, True), response.text
    assert found is not None
    return found[1]


def wrong_codes(browser: httpx.Client, name: str, code: str) -> None:
    """Type five wrong codes, in a browser that did not sign up. All at once, since each answer takes its time."""
    typed = [{"username": name, "code": other_than(code, number + 1)} for number in range(5)]
    answers = at_once(lambda fields: browser.post("/signup/confirm", data=fields), typed)
    assert {answer.status_code for answer in answers} == {403}


def signed_up(browser: httpx.Client, name: str, **fields: str) -> httpx.Response:
    """Sign up in a browser, and give the page that waits."""
    typed = {"view": opened(browser), "username": name, "email": address_of(name)}
    response = browser.post("/signup", data=typed | fields)
    assert (response.status_code, response.headers["Location"]) == (303, "/signup/confirm"), response.text
    waiting = browser.get("/signup/confirm")
    assert waiting.status_code == 200
    assert "Look into your mail" in text(waiting)
    assert "You have time until" in text(waiting)
    return waiting


def send(browser: httpx.Client, path: str, **fields: str) -> httpx.Response:
    """Send a form of the page that waits."""
    view = hidden(browser.get("/signup/confirm"), "view")
    return browser.post(path, data={"view": view, **fields})


def body_of(mail: EmailMessage) -> str:
    """The plain text of a mail."""
    part = mail.get_body(("plain",))
    assert part is not None
    content: str = part.get_content()
    return content


def link_in(mail: EmailMessage, page: str = "confirm") -> str:
    """The link to a page that a mail has."""
    found = re.search(rf"http\S+/signup/{page}\?token=\S+", body_of(mail))
    assert found is not None, body_of(mail)
    return found[0]


def token_in(link: str) -> str:
    """What a link says."""
    return link.partition("?token=")[2]


def code_in(mail: EmailMessage) -> str:
    """The code that a mail has."""
    found = re.search(r"\b(\d{6})\b", re.sub(r"http\S+token\S+", "", body_of(mail)))
    assert found is not None
    return found[1]


def other_than(code: str, by: int = 1) -> str:
    """A code that is wrong."""
    return f"{(int(code) + by) % 10**6:06}"


def press(browser: httpx.Client, link: str) -> httpx.Response:
    """Open a link, and press the button of its page."""
    page = browser.get(link)
    assert page.status_code == 200, page.text
    return browser.post(link, data={"view": hidden(page, "view")})


def with_account(name: str) -> None:
    """Have somebody whose address has an account."""
    account = NewAccount(
        instance_id=f"signup-{name}",
        run=RUN,
        form=SignupForm(username=name, email=address_of(name)),
        verified_at=datetime(2026, 1, 1, tzinfo=UTC),
        source="test",
        vouched=False,
    )
    assert get_accounts().create(account)


def alike(response: httpx.Response, *names: str) -> tuple[int, dict[str, str], bytes]:
    """An answer without what differs anyway: the date, nonces, secrets, and names of the same length."""
    headers = {key: value for key, value in response.headers.items() if key != "date"}
    found = json.dumps(headers).encode() + b"\0" + response.content
    found = re.sub(rb'(name="view" value=")[^"]+', rb"\1", found)
    found = re.sub(rf"{COOKIE}={SECRET}\.".encode(), b"", found)
    for each in names:
        found = found.replace(each.encode(), b"N" * len(each))
    told, _, body = found.partition(b"\0")
    return response.status_code, json.loads(told), body


# The form


def test_the_form_has_labels_no_script_and_the_headers_of_all_pages(browser: httpx.Client) -> None:
    page = browser.get("/signup")
    assert page.status_code == 200
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'self'")
    assert page.headers["Cache-Control"] == "no-store"
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert "<script" not in page.text
    value, *attributes = page.headers["Set-Cookie"].split("; ")
    assert re.fullmatch(rf"{BROWSER}=[A-Za-z0-9_-]{{32}}", value)
    assert set(attributes) == {"HttpOnly", "Path=/signup", "SameSite=Lax"}
    inputs = re.findall(r'<input type="(?!hidden)[a-z]+" name="([a-z]+)"', page.text)
    assert inputs == ["username", "email", "firstname", "lastname"]
    assert all(f'<label for="{each}">' in page.text for each in inputs)
    head = browser.head("/signup")
    assert (head.status_code, head.content) == (200, b"")
    assert "Set-Cookie" not in head.headers  # it has one


@pytest.mark.parametrize(
    ("field", "typed", "message"),
    [
        ("username", "", "User name: type 1 to 64 letters"),
        ("username", "a b", "User name: type 1 to 64 letters"),
        ("username", "a" * 65, "User name: type 1 to 64 letters"),
        ("username", "Jörg", "User name: type 1 to 64 letters"),
        ("username", "signup-me", "User name: type 1 to 64 letters"),
        ("email", "", "Mail address: type one mail address"),
        ("email", "me", "Mail address: type one mail address"),
        ("email", "me@localhost", "Mail address: type one mail address"),
        ("email", "me@-x.example", "Mail address: type one mail address"),
        ("email", "a@example.com, b@example.com", "Mail address: type one mail address"),
        ("email", '"><script>@example.com', "Mail address: type one mail address"),
        ("email", "me\r\nBcc: you@example.com", "Mail address: type one mail address"),
        ("email", f"me@{'a' * 300}.example", "Mail address: type one mail address"),
        ("firstname", "a" * 101, "First name: up to 100 characters"),
        ("lastname", "a\nb", "Last name: up to 100 characters"),
    ],
)
def test_what_is_wrong_is_said_at_its_field_and_the_rest_is_kept(
    house: House, browser: httpx.Client, name: str, *, field: str, typed: str, message: str
) -> None:
    fields = {"username": name, "email": address_of(name), "firstname": "Ann", "lastname": "Lee"} | {field: typed}
    response = browser.post("/signup", data=fields)
    assert response.status_code == 400
    assert message in text(response)
    assert f'href="#{field}"' in response.text
    assert 'aria-invalid="true"' in response.text
    assert re.search(r"<title>Error: ", response.text)
    assert "<script" not in response.text
    assert COOKIE not in response.headers["Set-Cookie"]
    for other in fields.keys() - {field}:
        assert f'value="{fields[other]}"' in response.text, other
    assert house.control.client.get_orchestration_state(f"signup-{name}") is None


def test_a_user_name_in_use_is_409_at_its_field_however_it_is_written(
    house: House, browser: httpx.Client, name: str
) -> None:
    signed_up(browser, name)
    before = house.raw(name)
    with house.browser() as other:
        for taken in (name, name.upper(), f" {name} "):
            response = other.post("/signup", data={"username": taken, "email": "other@example.com"})
            assert response.status_code == 409
            assert "User name: this user name is taken" in text(response)
            assert 'value="other@example.com"' in response.text
            assert COOKIE not in response.headers.get("Set-Cookie", "")
            assert address_of(name) not in response.text
    assert house.raw(name) == before
    assert len(house.mails(name)) == 1


def test_signing_up_leads_to_the_page_that_waits_with_a_cookie_of_this_browser(
    house: House, browser: httpx.Client, name: str
) -> None:
    response = browser.post("/signup", data={"username": name.upper(), "email": address_of(name), "firstname": ""})
    assert response.status_code == 303
    value, *attributes = response.headers["Set-Cookie"].split("; ")
    assert re.fullmatch(rf"{COOKIE}={SECRET}\.{name}", value)
    assert set(attributes) == {"HttpOnly", "Path=/signup", "SameSite=Lax"}
    page = browser.get("/signup/confirm")
    assert f"We have sent a mail to {address_of(name)}" in text(page)
    assert f"You sign up as {name.upper()}" in text(page)
    assert page.text.count("<form") == 3
    given = json.loads(house.control.state(f"signup-{name}").serialized_input or "")
    secret = value.partition("=")[2].partition(".")[0]
    assert given["session"] == sha256(secret.encode()).hexdigest()
    assert secret not in json.dumps(given)
    assert given["form"] == {
        "username": name.upper(),
        "email": address_of(name),
        "firstname": None,
        "lastname": None,
    }


def test_behind_a_public_address_the_cookie_is_secure_and_for_its_path(
    settings: Callable[..., None], browser: httpx.Client, name: str
) -> None:
    settings(PUBLIC_URL="https://join.example/app")
    response = browser.post("/signup", data={"username": name, "email": address_of(name)})
    assert response.headers["Location"] == "/app/signup/confirm"
    assert {"Path=/app/signup", "Secure", "HttpOnly"} <= set(response.headers["Set-Cookie"].split("; "))
    form = browser.get("/signup")
    assert 'action="/app/signup"' in form.text
    assert {"Path=/app/signup", "Secure", "HttpOnly"} <= set(form.headers["Set-Cookie"].split("; "))


def test_pressing_twice_is_one_sign_up(
    house: House, settings: Callable[..., None], browser: httpx.Client, name: str
) -> None:
    settings(SIGNUP_MAILS_PER_ADDRESS="2")
    fields = {"view": opened(browser), "username": name, "email": address_of(name)}
    answers = at_once(lambda _: browser.post("/signup", data=fields), range(4))
    answers.append(browser.post("/signup", data=fields))
    assert len({secret_of(answer) for answer in answers}) == 1
    assert "We have sent a mail" in text(browser.get("/signup/confirm"))
    assert len(house.mails(name)) == 1


def test_two_views_in_one_browser_are_two_sessions(browser: httpx.Client, name: str) -> None:
    views = [opened(browser), opened(browser)]
    fields = {"username": name, "email": address_of(name)}
    one = secret_of(browser.post("/signup", data=fields | {"view": views[0]}))
    assert browser.post("/signup", data=fields | {"view": views[1]}).status_code == 409
    assert secret_of(browser.post("/signup", data=fields | {"view": views[1], "username": f"{name}-2"})) != one
    assert f"You sign up as {name}-2" in text(browser.get("/signup/confirm"))
    assert secret_of(browser.post("/signup", data=fields | {"view": views[0]})) == one
    assert f"You sign up as {name} " in text(browser.get("/signup/confirm"))


def test_a_view_that_is_too_old_makes_another_session_each_time(house: House, browser: httpx.Client, name: str) -> None:
    clock.set_clock(lambda: house.control.now - timedelta(hours=13))
    fields = {"view": opened(browser), "username": name, "email": address_of(name)}
    clock.set_clock(lambda: house.control.now)
    assert secret_of(browser.post("/signup", data=fields))
    assert browser.post("/signup", data=fields).status_code == 409


@pytest.mark.parametrize("has_cookie", [True, False])
@pytest.mark.parametrize("what", ["a view of the attacker's", "half of it", "a secret"])
def test_nobody_can_choose_the_session_of_a_browser_by_what_a_form_says(
    house: House, browser: httpx.Client, name: str, *, what: str, has_cookie: bool
) -> None:
    """The forms are sent as by a frame of another site, in browsers that do not say where a form comes from."""
    mine, theirs = f"a-{name}", f"v-{name}"
    view = opened(browser)
    known = secret_of(browser.post("/signup", data={"view": view, "username": mine, "email": address_of(mine)}))
    sent = {"a secret": known, "half of it": view[:-1]}.get(what, view)
    fields = {"view": sent, "session": known, "secret": known, "username": theirs, "email": address_of(theirs)}
    with house.browser() as victim:
        if has_cookie:
            opened(victim)
        victim.headers["Origin"] = "null"
        wrong = victim.post("/signup", data=fields | {"email": ""})
        assert wrong.status_code == 400
        assert not any(each in f"{wrong.headers}{wrong.text}" for each in (known, view[:-1]))
        assert secret_of(victim.post("/signup", data=fields)) != known
        again = victim.post("/signup", data=fields)  # by another secret, which nobody is known by
        assert (again.status_code, COOKIE in again.headers.get("Set-Cookie", "")) == (409, False)
        view = hidden(wrong, "view")  # the page that came back is of the victim's browser, and as good as the first
        fields |= {"view": view, "username": f"{theirs}-2"}
        assert len({secret_of(victim.post("/signup", data=fields)) for _ in range(2)}) == 1
    for each in (view, sent):
        assert browser.post("/signup", data=fields | {"view": each}).status_code == 409


def test_an_address_in_other_letters_is_taken_as_it_is_written(house: House, browser: httpx.Client, name: str) -> None:
    response = browser.post("/signup", data={"username": name, "email": f" Jörg.{name}@Bücher.example"})
    assert response.status_code == 303
    assert f"Jörg.{name}@bücher.example" in text(browser.get("/signup/confirm"))
    page = press(browser, link_in(house.mails(name)[0]))
    assert "Your address is confirmed" in text(page)


def test_what_somebody_typed_is_text_on_all_pages(house: House, browser: httpx.Client, name: str) -> None:
    attack = "</td><script>alert(1)</script><img src=x>\"'{{'z'*9}}"
    signed_up(browser, name, firstname=attack, lastname=attack)
    pages = [
        browser.get(link_in(house.mails(name)[0])),
        send(browser, "/signup/change-email", email=attack),
        send(browser, "/signup/confirm", code=attack, email=attack),
        browser.post("/signup", data=dict.fromkeys(("username", "email", "firstname", "view"), attack)),
        browser.post("/signup/confirm", data={"username": attack, "code": attack}),
        browser.post("/signup/resend", data={"username": attack, "email": attack}),
    ]
    for page in pages:
        assert "alert(1)" in page.text, page.url
        assert "<script" not in page.text
        assert "<img" not in page.text
        assert "z" * 9 not in text(page)


# A known address


def test_answers_are_byte_equal_for_a_known_and_an_unknown_address(
    house: House, settings: Callable[..., None], name: str
) -> None:
    settings(SIGNUP_RESEND_SECONDS="0")
    told: dict[str, list[Any]] = {}
    known, unknown, target = f"k-{name}", f"n-{name}", f"t-{name}"
    with_account(known)
    with_account(f"k-{target}")
    for address, to in ((known, f"k-{target}"), (unknown, f"n-{target}")):
        user = f"as-{address}"
        with house.browser() as browser:
            fields = {"username": user, "email": address_of(address)}
            answers = [browser.get("/signup/confirm"), browser.post("/signup", data=fields)]
            house.control.settle()
            answers += [browser.get("/signup/confirm"), send(browser, "/signup/confirm", code="000000")]
            answers += [send(browser, "/signup/resend"), browser.get("/signup/confirm")]
            house.control.settle()
            answers += [send(browser, "/signup/change-email", email=address_of(to))]
            house.control.settle()
            answers += [send(browser, "/signup/change-email", email=address_of(to)), browser.get("/signup/confirm")]
            answers += [browser.post("/signup/resend", data={"username": user, "email": address_of(to)})]
            told[address] = [alike(answer, user, address, to) for answer in answers]
        subjects = [mail["Subject"] for mail in house.mails(user)]
        assert subjects == [*["You have an account already" if address == known else "Please confirm your address"] * 4]
    assert [answer[0] for answer in told[known]] == [200, 303, 200, 403, 200, 200, 200, 409, 200, 200]
    assert told[known] == told[unknown]


def test_answers_take_as_long_for_a_known_as_for_an_unknown_address(house: House, name: str) -> None:
    """A difference of 100 ms is seen; one of a busy machine hardly is, and not three times."""

    def seconds(browser: httpx.Client, *, known: bool) -> float:
        user = f"{name}-{next(_numbers)}"
        if known:
            with_account(user)
        fields = {"username": f"as-{user}", "email": address_of(user)}
        started = time.perf_counter()
        response = browser.post("/signup", data=fields)
        taken = time.perf_counter() - started
        assert response.status_code == 303
        house.control.settle()
        return taken

    def difference() -> float:
        with house.browser() as browser:
            pairs = [(seconds(browser, known=True), seconds(browser, known=False)) for _ in range(9)]
        return abs(statistics.median(one for one, _ in pairs) - statistics.median(other for _, other in pairs))

    assert any(difference() < 0.05 for _ in range(3))


# The link


def test_looking_at_a_link_changes_nothing(house: House, browser: httpx.Client, name: str) -> None:
    signed_up(browser, name, firstname="Ann", lastname="Lee")
    link = link_in(house.mails(name)[0])
    before = house.raw(name)
    with house.browser() as scanner:
        for method in ("GET", "HEAD") * 10:
            scanner.cookies.clear()
            assert scanner.request(method, link).status_code == 200
    page = browser.get(link)
    for word in (name, address_of(name), "Ann", "Lee", "You have time until", "in 7 days"):
        assert word in text(page), word
    assert page.text.count("<form") == 1
    assert "checked" not in page.text
    assert house.raw(name) == before


def test_the_button_confirms_and_from_then_on_it_is_confirmed_already(
    house: House, browser: httpx.Client, name: str
) -> None:
    signed_up(browser, name)
    link = link_in(house.mails(name)[0])
    with house.browser() as elsewhere:
        page = elsewhere.get(link)
        cookie = page.headers["Set-Cookie"]
        assert {"HttpOnly", "Path=/signup", "SameSite=Lax"} <= set(cookie.split("; "))
        answer = elsewhere.post(link, data={"view": hidden(page, "view")})
        assert answer.status_code == 200
        assert f"Thank you, {name}." in text(answer)
        assert house.standing(name)["source"] == "link"
        welcome = house.mails(name)[-1]
        assert (welcome["To"], welcome["Subject"]) == (address_of(name), "Welcome")
        again = [
            elsewhere.post(link, data={"view": hidden(page, "view")}),
            elsewhere.get(link),
            browser.post(link, data={"view": "x"}),
            browser.get("/signup/confirm"),
        ]
    for each in again:
        assert each.status_code == 200
        assert "Already confirmed" in text(each)
    assert len(house.mails(name)) == 2


def test_of_many_browsers_that_confirm_at_once_one_does(house: House, browser: httpx.Client, name: str) -> None:
    signed_up(browser, name)
    link = link_in(house.mails(name)[0])
    with house.browser() as one, house.browser() as other:
        views = [(each, hidden(each.get(link), "view")) for each in (one, other) * 8]
        answers = at_once(lambda each: each[0].post(link, data={"view": each[1]}), views)
    assert {answer.status_code for answer in answers} == {200}
    assert sum("Your address is confirmed" in text(answer) for answer in answers) == 1
    assert sum("Already confirmed" in text(answer) for answer in answers) == 15
    assert len(house.mails(name)) == 2


def test_a_form_counts_only_from_the_page_in_the_browser_that_opened_it(
    house: House, browser: httpx.Client, name: str
) -> None:
    signed_up(browser, name)
    link = link_in(house.mails(name)[0])
    view = hidden(browser.get(link), "view")
    stop = links.url_of_signup(house.claims(name), "stop")
    views_of_others = [hidden(browser.get(stop), "view"), hidden(browser.get("/signup/confirm"), "view")]
    with house.browser() as scanner:
        scanner.get(link)
        answers = [scanner.post(link, data={"view": view}), scanner.post(link, data={"x": ""})]
        answers += [browser.post(link, data={"view": each}) for each in ("", "x", view[:-1], *views_of_others)]
    for answer in answers:
        assert answer.status_code == 400
        assert "open for too long" in text(answer)
        assert "<form" in answer.text
    assert house.standing(name)["verified_at"] is None
    assert browser.post(link, data={"view": hidden(answers[-1], "view")}).status_code == 200
    assert house.standing(name)["verified_at"] is not None


def test_tokens_that_are_none_are_401(house: House, browser: httpx.Client, name: str) -> None:
    signed_up(browser, name)
    claims = house.claims(name)
    confirm, stop = (token_in(links.url_of_signup(claims, page)) for page in ("confirm", "stop"))
    approval = links.sign(
        LinkClaims(request_id=f"signup-{name}", run=RUN, round=1, person="a@b.c", shown="0" * 64, serial=1)
    )
    tampered = [
        "",
        confirm[:-1],
        confirm + "A",
        confirm[1:],
        confirm.swapcase(),
        "a" * 5000,
        approval,
        links.view_nonce("", ""),
    ]
    for page, tokens in (("confirm", [*tampered, stop]), ("stop", [*tampered, confirm])):
        for token in tokens:
            for answer in (
                browser.get(f"/signup/{page}", params={"token": token}),
                browser.head(f"/signup/{page}", params={"token": token}),
                browser.post(f"/signup/{page}", params={"token": token}, data={"view": "x"}),
            ):
                assert answer.status_code == 401, (page, token)
                assert name not in answer.text
                assert "Set-Cookie" not in answer.headers
        one_click = {"List-Unsubscribe": "One-Click"}
        assert browser.post("/signup/stop", params={"token": confirm}, data=one_click).status_code == 401
    assert browser.get("/signup/stop").status_code == 401
    standing = house.standing(name)
    assert (standing["verified_at"], standing["reminders_stopped"]) == (None, False)


@pytest.mark.parametrize("changes", [{"run": RUN}, {"instance_id": "signup-nobody-at-all"}])
def test_a_link_of_another_run_is_410(house: House, browser: httpx.Client, name: str, changes: dict[str, Any]) -> None:
    signed_up(browser, name)
    link = links.url_of_signup(house.claims(name, **changes), "confirm")
    for answer in (browser.get(link), browser.post(link, data={"view": "x"})):
        assert answer.status_code == 410
        assert "no longer in use" in text(answer)
        assert name not in answer.text


@pytest.mark.parametrize("changes", [{"address": "0" * 32}, {"generation": 2}])
def test_a_link_to_another_address_or_of_another_generation_is_410(
    house: House, browser: httpx.Client, name: str, changes: dict[str, Any]
) -> None:
    signed_up(browser, name)
    link = links.url_of_signup(house.claims(name, **changes), "confirm")
    for answer in (browser.get(link), browser.post(link, data={"view": "x"})):
        assert answer.status_code == 410
        assert "A newer mail was sent since" in text(answer)
        assert address_of(name) not in answer.text


def test_a_link_is_good_until_its_time_is_up(house: House, browser: httpx.Client, name: str) -> None:
    signed_up(browser, name)
    claims = house.claims(name)
    link = links.url_of_signup(claims, "confirm")
    view = hidden(browser.get(link), "view")
    clock.set_clock(lambda: claims.until - timedelta(seconds=1))
    assert browser.get(link).status_code == 200
    clock.set_clock(lambda: claims.until)
    for answer in (browser.get(link), browser.post(link, data={"view": view})):
        assert answer.status_code == 410
        assert "This sign-up has expired" in text(answer)
        assert 'href="/signup"' in answer.text
    assert house.standing(name)["verified_at"] is None


def test_after_the_sign_up_has_expired_nothing_is_left_to_confirm(
    house: House, settings: Callable[..., None], browser: httpx.Client, name: str
) -> None:
    settings(SIGNUP_EXPIRY_DAYS="0.01")
    signed_up(browser, name)
    mail = house.mails(name)[0]
    page = browser.get(link_in(mail))
    views = {
        "/signup/confirm": hidden(browser.get("/signup/confirm"), "view"),
        link_in(mail): hidden(page, "view"),
    }
    house.advance(minutes=15)
    for path, view in views.items():
        answer = browser.post(path, data={"view": view, "code": code_in(mail)})
        assert answer.status_code == 410, path
        assert "This sign-up has expired" in text(answer)
    assert browser.get(link_in(mail)).status_code == 410
    assert "Confirm your address" in text(browser.get("/signup/confirm"))
    assert browser.post("/signup/resend", data={"view": views["/signup/confirm"]}).status_code == 410
    assert browser.post("/signup/confirm", data={"username": name, "code": code_in(mail)}).status_code == 403
    assert house.mails(name) == []


def test_who_confirms_an_address_that_has_got_an_account_meanwhile_is_told(
    house: House, browser: httpx.Client, name: str
) -> None:
    signed_up(browser, name)
    with house.browser() as faster:
        signed_up(faster, f"{name}-2", email=address_of(name))
        assert "Your address is confirmed" in text(press(faster, link_in(house.mails(f"{name}-2")[0])))
    link = link_in(house.mails(name)[0])
    assert "A mail about it is on its way" in text(press(browser, link))
    assert house.mails(name)[-1]["Subject"] == "You have an account already"
    for answer in (browser.get(link), browser.post(link, data={"view": "x"}), browser.get("/signup/confirm")):
        assert answer.status_code == 409
        assert "This address has an account already" in text(answer)


def test_what_a_suspended_run_is_asked_is_handed_over(
    house: House, settings: Callable[..., None], browser: httpx.Client, name: str
) -> None:
    settings(DECISION_WAIT_SECONDS="0.1", SIGNUP_RESEND_SECONDS="0")
    signed_up(browser, name)
    mail = house.mails(name)[0]
    claims = house.claims(name)
    house.control.client.suspend_orchestration(f"signup-{name}")
    house.control.settle()
    for answer in (
        press(browser, links.url_of_signup(claims, "stop")),
        send(browser, "/signup/change-email", email=f"new-{address_of(name)}"),
        send(browser, "/signup/resend"),
        send(browser, "/signup/confirm", code=code_in(mail)),
        browser.post("/signup/confirm", data={"username": name, "code": code_in(mail)}),
        press(browser, link_in(mail)),
    ):
        assert answer.status_code == 202
        assert "It was handed over, but has not been looked at yet." in text(answer)
    house.control.client.resume_orchestration(f"signup-{name}")
    standing = house.standing(name)  # in their order: after the change a mail was on its way anyway
    assert (standing["changes"], standing["resends"]) == (1, 0)
    assert standing["verified_at"] is None
    assert "A newer mail was sent since" in text(browser.get(link_in(mail)))


# The page that waits


def test_the_code_confirms_with_blanks_too(house: House, browser: httpx.Client, name: str) -> None:
    signed_up(browser, name)
    code = code_in(house.mails(name)[0])
    assert code not in browser.get("/signup/confirm").text
    view = hidden(browser.get("/signup/confirm"), "view")
    fields = {"view": view, "code": f" {code[:3]} {code[3:]}"}
    assert browser.post("/signup/confirm", data=fields | {"code": other_than(code)}).status_code == 403
    answer = browser.post("/signup/confirm", data=fields)
    assert answer.status_code == 200
    assert "Your address is confirmed" in text(answer)
    assert "Already confirmed" in text(browser.post("/signup/confirm", data=fields))
    assert "Already confirmed" in text(browser.get("/signup/confirm"))
    assert house.standing(name)["source"] == "code"
    assert [mail["Subject"] for mail in house.mails(name)] == ["Please confirm your address", "Welcome"]


def test_a_code_that_is_pressed_twice_at_once_is_confirmed_once(house: House, browser: httpx.Client, name: str) -> None:
    signed_up(browser, name)
    fields = {"view": hidden(browser.get("/signup/confirm"), "view"), "code": code_in(house.mails(name)[0])}
    answers = at_once(lambda _: browser.post("/signup/confirm", data=fields), range(4))
    assert {answer.status_code for answer in answers} == {200}
    assert any("Your address is confirmed" in text(answer) for answer in answers)
    assert len(house.mails(name)) == 2


def test_five_wrong_codes_lock_the_code_but_not_the_link(house: House, browser: httpx.Client, name: str) -> None:
    signed_up(browser, name)
    mail = house.mails(name)[0]
    code = code_in(mail)
    for typed in ("", "12345", "1234567", "abcdef", "١٢٣٤٥٦"):
        answer = send(browser, "/signup/confirm", code=typed)
        assert (answer.status_code, "Code: type the six digits" in text(answer)) == (400, True), typed
    assert house.standing(name)["wrong_codes"] == 0
    for number in range(5):
        answer = send(browser, "/signup/confirm", code=other_than(code, number + 1))
        assert answer.status_code == 403
        assert "Code: this is not the code in the newest mail" in text(answer)
        assert other_than(code, number + 1) not in answer.text
    locked = browser.get("/signup/confirm")
    assert "The code was wrong too often" in text(locked)
    assert 'name="code"' not in locked.text
    before = house.raw(name)
    for typed in (code, other_than(code)):
        answer = browser.post("/signup/confirm", data={"view": hidden(locked, "view"), "code": typed})
        assert answer.status_code == 403
    assert house.raw(name) == before  # no more events
    assert "Your address is confirmed" in text(press(browser, link_in(mail)))


def test_a_run_that_has_not_seen_the_fifth_wrong_code_yet_refuses_the_right_one_after_it(
    house: House, settings: Callable[..., None], browser: httpx.Client, name: str
) -> None:
    settings(DECISION_WAIT_SECONDS="0")
    signed_up(browser, name)
    code = code_in(house.mails(name)[0])
    house.control.client.suspend_orchestration(f"signup-{name}")
    wrong_codes(browser, name, code)
    right = browser.post("/signup/confirm", data={"username": name, "code": code})
    assert right.status_code == 202  # handed over, and not looked at
    house.control.client.resume_orchestration(f"signup-{name}")
    house.control.settle()
    standing = house.standing(name)
    assert (standing["wrong_codes_by_name"], standing["verified_at"]) == (5, None)


def test_five_wrong_codes_of_strangers_lock_the_form_for_strangers_alone(
    house: House, browser: httpx.Client, name: str
) -> None:
    signed_up(browser, name)
    code = code_in(house.mails(name)[0])
    with house.browser() as stranger:
        wrong_codes(stranger, name, code)
        before = house.raw(name)
        typed = [{"username": name, "code": each} for each in (code, other_than(code))]
        answers = at_once(lambda fields: stranger.post("/signup/confirm", data=fields), typed)
        assert {answer.status_code for answer in answers} == {403}
        assert house.raw(name) == before  # no more events
    standing = house.standing(name)
    assert (standing["wrong_codes"], standing["wrong_codes_by_name"]) == (0, 5)
    assert "Your address is confirmed" in text(send(browser, "/signup/confirm", code=code))


def test_the_code_fits_when_there_is_a_newer_key(
    house: House, settings: Callable[..., None], browsers: list[httpx.Client], name: str
) -> None:
    """Also that of a mail from after it, of a sign-up from before."""
    settings(SIGNUP_RESEND_SECONDS="0")
    names = [name, f"{name}-2", f"{name}-3"]
    for browser, user in zip(browsers, names, strict=True):
        signed_up(browser, user)
        house.control.settle()
    settings(LINK_KEYS=f"{NEWER_KEY},{KEY}")
    assert send(browsers[1], "/signup/resend").status_code == 200
    mails = [house.mails(user)[-1] for user in names]
    fields = {"username": names[0], "code": code_in(mails[0])}
    assert browsers[0].post("/signup/confirm", data=fields | {"code": other_than(fields["code"])}).status_code == 403
    answers = [
        browsers[0].post("/signup/confirm", data=fields),
        send(browsers[1], "/signup/confirm", code=code_in(mails[1])),
        press(browsers[2], link_in(mails[2])),
    ]
    for answer in answers:
        assert answer.status_code == 200
        assert "Your address is confirmed" in text(answer)


def test_the_mail_is_sent_again_after_a_while_and_kills_the_older_link_and_code(
    house: House, browser: httpx.Client, name: str
) -> None:
    signed_up(browser, name)
    first = house.mails(name)[0]
    house.advance(seconds=18)
    early = send(browser, "/signup/resend")
    assert (early.status_code, early.headers["Retry-After"]) == (429, "42")
    assert "you can have another one in 42 seconds" in text(early)
    assert "We have sent a mail to" in text(early)
    assert len(house.mails(name)) == 1
    house.advance(seconds=42)
    view = hidden(browser.get("/signup/confirm"), "view")
    again = browser.post("/signup/resend", data={"view": view})
    assert again.status_code == 200
    assert "Another mail is on its way" in text(again)
    second = house.mails(name)[1]
    for answer in (browser.get(link_in(first)), browser.post(link_in(first), data={"view": view})):
        assert answer.status_code == 410
        assert "A newer mail was sent since" in text(answer)
    assert send(browser, "/signup/confirm", code=code_in(first)).status_code == 403
    assert browser.post("/signup/resend", data={"view": view}).status_code == 429
    assert len(house.mails(name)) == 2
    assert send(browser, "/signup/confirm", code=code_in(second)).status_code == 200


def test_the_mail_is_sent_again_five_times_and_pressing_twice_is_once(
    house: House, settings: Callable[..., None], browser: httpx.Client, name: str
) -> None:
    settings(SIGNUP_MAILS_PER_ADDRESS="12")
    signed_up(browser, name)
    for number in range(5):
        house.advance(seconds=60)
        view = hidden(browser.get("/signup/confirm"), "view")
        answers = at_once(lambda data: browser.post("/signup/resend", data=data), [{"view": view}] * 3)
        assert {answer.status_code for answer in answers} <= {200, 429}
        assert 200 in {answer.status_code for answer in answers}
        assert len(house.mails(name)) == number + 2
    house.advance(seconds=60)
    answer = send(browser, "/signup/resend")
    assert answer.status_code == 429
    assert "Retry-After" not in answer.headers
    assert "as often as it may be" in text(answer)
    assert len(house.mails(name)) == 6


def test_a_change_of_the_address_moves_the_sign_up_there(house: House, browser: httpx.Client, name: str) -> None:
    signed_up(browser, name)
    first = house.mails(name)[0]
    view = hidden(browser.get(link_in(first)), "view")
    new = f"new-{address_of(name)}"
    for email, status, message in [
        ("", 400, "Mail address: type one mail address"),
        ("nobody", 400, "Mail address: type one mail address"),
        (address_of(name).upper(), 409, "Mail address: the mails go to this address already"),
    ]:
        answer = send(browser, "/signup/change-email", email=email)
        assert (answer.status_code, message in text(answer)) == (status, True), email
        assert f'value="{email}"' in answer.text
    answer = send(browser, "/signup/change-email", email=f" {new}")
    assert answer.status_code == 200
    assert f"We have sent a mail to {new}" in text(answer)
    second = house.mails(name)[1]
    assert second["To"] == new
    assert f"We have sent a mail to {new}" in text(browser.get("/signup/confirm"))
    for old in (browser.get(link_in(first)), browser.post(link_in(first), data={"view": view})):
        assert old.status_code == 410
        assert "A newer mail was sent since" in text(old)
        assert new not in old.text
    assert send(browser, "/signup/confirm", code=code_in(first)).status_code == 403
    assert "Your address is confirmed" in text(press(browser, link_in(second)))
    assert house.mails(name)[-1]["To"] == new


def test_the_address_is_changed_three_times(house: House, browser: httpx.Client, name: str) -> None:
    signed_up(browser, name)
    for number in range(3):
        assert send(browser, "/signup/change-email", email=f"{number}-{address_of(name)}").status_code == 200
        house.control.settle()
    answer = send(browser, "/signup/change-email", email=f"3-{address_of(name)}")
    assert answer.status_code == 429
    assert "the address was changed as often as it may be" in text(answer)
    assert len(house.mails(name)) == 4


# The session

FORMS: dict[str, dict[str, str]] = {
    "/signup/confirm": {"code": "123456"},
    "/signup/resend": {},
    "/signup/change-email": {"email": "me@example.com"},
}
"""The forms of the page that waits."""


def test_a_session_that_is_none_is_none_whatever_is_wrong_with_it(
    house: House, browser: httpx.Client, name: str
) -> None:
    signed_up(browser, name)
    view = hidden(browser.get("/signup/confirm"), "view")
    secret = browser.cookies[COOKIE].partition(".")[0]
    before = house.raw(name)
    cookies = {
        "none": "",
        "no secret": f"{COOKIE}={name}",
        "another secret": f"{COOKIE}={'0' * 32}.{name}",
        "another user": f"{COOKIE}={secret}.{name}-2",
        "too long": f"{COOKIE}={secret}.{name}{'x' * 60}",
        "too much": f"{COOKIE}={secret}0.{name}",
        "no user name": f"{COOKIE}={secret}.",
        "no cookie": '"; ;;=',
        "the digest": f"{COOKIE}={sha256(secret.encode()).hexdigest()}.{name}",
    }
    asked = [(what, "/signup/resend") for what in cookies]
    asked += [("another secret", path) for path in FORMS if path != "/signup/resend"]

    def tell(what: str, path: str) -> tuple[float, bytes, Any]:
        headers = {"Cookie": cookies[what]}
        page = other.get("/signup/confirm", headers=headers)
        assert (page.status_code, name in page.text) == (200, False), what
        started = time.perf_counter()
        answer = other.post(path, data={"view": view, **FORMS[path]}, headers=headers)
        taken = time.perf_counter() - started
        assert (answer.status_code, "In this browser nobody signs up" in text(answer)) == (403, True), (what, path)
        return taken, page.content, alike(answer)

    with house.browser() as other:
        told = at_once(lambda each: tell(*each), asked)
    assert all(each[1:] == told[0][1:] for each in told)
    looked_up = [each[0] for (what, _), each in zip(asked, told, strict=True) if what.startswith("another")]
    assert (len(looked_up), min(looked_up) >= EVEN_TIME) == (4, True)
    assert house.raw(name) == before
    assert house.standing(name)["generation"] == 1


def test_the_session_of_one_user_is_good_for_nobody_else(house: House, browser: httpx.Client, name: str) -> None:
    victim = f"v-{name}"
    with house.browser() as theirs:
        signed_up(theirs, victim)
    signed_up(browser, name)
    house.advance(seconds=60)
    secret = browser.cookies[COOKIE].partition(".")[0]
    for headers in ({}, {"Cookie": f"{COOKIE}={secret}.{victim}"}):
        view = hidden(browser.get("/signup/confirm"), "view")
        for path, fields in (
            ("/signup/resend", {"username": victim, "email": address_of(name)}),
            ("/signup/change-email", {"username": victim, "email": "mine@example.com"}),
        ):
            browser.post(path, data={"view": view, **fields}, headers=headers)
    assert len(house.mails(victim)) == 1
    assert house.standing(victim)["generation"] == 1


def test_without_the_nonce_of_its_page_nothing_is_taken(house: House, browser: httpx.Client, name: str) -> None:
    signed_up(browser, name)
    code = code_in(house.mails(name)[0])
    house.advance(seconds=60)
    with house.browser() as other:
        signed_up(other, f"{name}-2")
        foreign = hidden(other.get("/signup/confirm"), "view")
    for view in ("", "x", foreign):
        for path, fields in FORMS.items():
            answer = browser.post(path, data=fields | {"view": view} | ({"code": code} if "code" in fields else {}))
            assert answer.status_code == 400, path
            assert "open for too long" in text(answer)
    assert len(house.mails(name)) == 1
    assert house.standing(name)["verified_at"] is None


# Without a session


def test_a_user_name_and_a_code_confirm_without_a_session(house: House, browser: httpx.Client, name: str) -> None:
    signed_up(browser, name)
    code = code_in(house.mails(name)[0])
    with house.browser() as other:
        fields = {"username": f" {name.upper()}", "code": code}
        answers = at_once(lambda _: other.post("/signup/confirm", data=fields), range(4))
        assert {answer.status_code for answer in answers} == {200}
        assert sum("Your address is confirmed" in text(answer) for answer in answers) == 1
        assert sum("Already confirmed" in text(answer) for answer in answers) == 3
        assert "Already confirmed" in text(other.post("/signup/confirm", data=fields))
        assert other.post("/signup/confirm", data=fields | {"code": other_than(code)}).status_code == 403
    assert len(house.mails(name)) == 2


def test_the_form_for_the_code_tells_nothing_unless_the_code_is_right(
    house: House, settings: Callable[..., None], name: str
) -> None:
    """It has counted the wrong ones all the same."""
    users = {each: f"{each}-{name}" for each in ("wrong", "locked", "known", "verified", "expired", "unknown")}
    width = max(map(len, users.values()))
    users = {each: user.ljust(width, "x") for each, user in users.items()}
    with_account(f"o-{name}")
    for each, user in users.items():
        settings(SIGNUP_EXPIRY_DAYS="0.01" if each == "expired" else "7")
        if each != "unknown":
            with house.browser() as browser:
                signed_up(browser, user, **({"email": address_of(f"o-{name}")} if each == "known" else {}))
                code = code_in(house.mails(user)[0]) if each != "known" else "123456"
                if each == "verified":
                    send(browser, "/signup/confirm", code=code)
                if each == "locked":
                    wrong_codes(browser, user, code)
    house.advance(minutes=15)

    def tell(user: str) -> tuple[float, Any]:
        started = time.perf_counter()
        answer = browser.post("/signup/confirm", data={"username": user, "code": "000000"})
        return time.perf_counter() - started, alike(answer, user)

    with house.browser() as browser:
        seconds, answers = zip(*at_once(tell, users.values()), strict=True)
    told = dict(zip(users, answers, strict=True))
    assert told["unknown"][0] == 403
    assert b"That did not work" in told["unknown"][2]
    assert b"000000" not in told["unknown"][2]
    assert {each for each, answer in told.items() if answer != told["unknown"]} == set()
    assert min(seconds) >= EVEN_TIME
    assert house.standing(users["wrong"])["wrong_codes_by_name"] == 1


def test_the_form_for_another_mail_tells_nothing_and_sends_it_only_to_whom_it_was_sent(house: House, name: str) -> None:
    users = {each: f"{each}-{name}" for each in ("sends", "other", "early", "done-", "nobod")}
    typed = {each: address_of("x" * len(user) if each == "other" else user) for each, user in users.items()}
    for each in ("sends", "other", "done-"):
        with house.browser() as browser:
            signed_up(browser, users[each])
            if each == "done-":
                press(browser, link_in(house.mails(users[each])[0]))
    house.advance(seconds=61)
    with house.browser() as browser:
        signed_up(browser, users["early"])
    house.control.settle()
    before = {each: len(house.mails(user)) for each, user in users.items()}

    def tell(each: str) -> tuple[float, Any]:
        started = time.perf_counter()
        answer = browser.post("/signup/resend", data={"username": users[each], "email": typed[each].upper()})
        return time.perf_counter() - started, alike(answer)

    with house.browser() as browser:
        seconds, told = zip(*at_once(tell, users), strict=True)
    assert told[0][0] == 200
    assert all(answer == told[0] for answer in told)
    assert min(seconds) >= EVEN_TIME
    sent = {each: len(house.mails(user)) - before[each] for each, user in users.items()}
    assert sent == {"sends": 1, "other": 0, "early": 0, "done-": 0, "nobod": 0}


def test_what_is_wrong_with_a_form_is_said_whoever_there_is(browser: httpx.Client) -> None:
    for path, fields, messages in [
        ("/signup/confirm", {"username": "", "code": ""}, ["User name: type 1 to 64", "Code: type the six digits"]),
        ("/signup/confirm", {"username": "a b"}, ["User name: type 1 to 64", "Code: type the six digits"]),
        ("/signup/resend", {"username": "", "email": "x"}, ["User name: type 1 to 64", "Mail address: type one"]),
    ]:
        answer = browser.post(path, data=fields)
        assert answer.status_code == 400
        assert all(message in text(answer) for message in messages), text(answer)
        assert all(f'id="{id_}"' in answer.text for id_ in re.findall(r'href="#([a-z-]+)"', answer.text))


def test_an_answer_waits_for_what_is_left_of_its_time() -> None:
    now, slept = 100.0, list[float]()

    async def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(round(seconds, 3))
        now += seconds / 2 if len(slept) == 1 else seconds

    asyncio.run(not_before(99.9, 0.3, clock=lambda: now, sleep=sleep))
    assert slept == [0.2, 0.1]
    asyncio.run(not_before(99.0, 0.3, clock=lambda: now, sleep=sleep))
    assert len(slept) == 2


# Stopping reminders


def test_the_link_in_a_reminder_stops_reminders(
    house: House, settings: Callable[..., None], browser: httpx.Client, name: str
) -> None:
    settings(SIGNUP_REMIND_HOURS="0.05")
    signed_up(browser, name)
    house.advance(minutes=4)
    mail = house.mails(name)[-1]
    stop = link_in(mail, "stop")
    with house.browser() as elsewhere:
        for method in ("GET", "HEAD") * 3:
            assert elsewhere.request(method, stop).status_code == 200
        assert elsewhere.get(f"{stop}&List-Unsubscribe=One-Click").status_code == 200
        page = elsewhere.get(stop)
        assert "Stop reminders?" in text(page)
        assert elsewhere.post(stop, data={"view": "x"}).status_code == 400
        assert house.standing(name)["reminders_stopped"] is False
        answer = elsewhere.post(stop, data={"view": hidden(page, "view")})
        assert answer.status_code == 200
        assert "Reminders are stopped" in text(answer)
        assert house.standing(name)["reminders_stopped"] is True
        for again in (elsewhere.get(stop), elsewhere.post(stop, data={"view": hidden(page, "view")})):
            assert (again.status_code, "Reminders are stopped" in text(again)) == (200, True)
        mails = len(house.mails(name))
        house.advance(minutes=10)
        assert len(house.mails(name)) == mails
        assert "Your address is confirmed" in text(press(elsewhere, link_in(mail)))
        assert "Reminders are stopped" in text(elsewhere.get(stop))


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (WRITTEN, b"List-Unsubscribe=One-Click"),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="List-Unsubscribe"\r\n\r\nOne-Click\r\n--b--\r\n',
        ),
    ],
)
def test_a_mail_program_stops_reminders_by_itself(
    house: House, settings: Callable[..., None], browser: httpx.Client, name: str, *, kind: str, body: bytes
) -> None:
    signed_up(browser, name)
    stop = links.url_of_signup(house.claims(name), "stop")
    settings(SIGNUP_TRIES_PER_CLIENT="1")
    with house.browser() as program:
        headers = {"Content-Type": kind, "Sec-Fetch-Site": "cross-site"}
        wrong = body.replace(b"One-Click", b"Two-Click")
        assert program.post(stop, content=wrong, headers=headers).status_code == 403
        assert house.standing(name)["reminders_stopped"] is False
        for _ in range(3):
            assert program.post(stop, content=body, headers=headers).status_code == 200
    assert house.standing(name)["reminders_stopped"] is True


def test_the_link_stops_reminders_after_newer_mails_but_not_those_to_another_address(
    house: House, browser: httpx.Client, name: str
) -> None:
    one_click = {"List-Unsubscribe": "One-Click"}
    signed_up(browser, name)
    stop = links.url_of_signup(house.claims(name), "stop")
    assert send(browser, "/signup/change-email", email=f"new-{address_of(name)}").status_code == 200
    house.control.settle()
    for answer in (browser.get(stop), browser.post(stop, data=one_click)):
        assert (answer.status_code, "Reminders are stopped" in text(answer)) == (200, True)
    assert house.standing(name)["reminders_stopped"] is False
    stop = links.url_of_signup(house.claims(name), "stop")
    house.advance(seconds=60)
    assert send(browser, "/signup/resend").status_code == 200
    assert browser.post(stop, data=one_click).status_code == 200
    assert house.standing(name)["reminders_stopped"] is True


def test_the_link_of_a_run_that_is_gone_says_that_nobody_is_reminded(
    house: House, browser: httpx.Client, name: str
) -> None:
    signed_up(browser, name)
    for changes in ({"run": RUN}, {"instance_id": "signup-nobody-at-all"}):
        stop = links.url_of_signup(house.claims(name, **changes), "stop")
        for answer in (browser.get(stop), browser.post(stop, data={"List-Unsubscribe": "One-Click"})):
            assert (answer.status_code, "Reminders are stopped" in text(answer)) == (200, True)
    assert house.standing(name)["reminders_stopped"] is False


# What is sent from elsewhere, or is no form, or comes too often

PATHS = (
    "/signup",
    "/signup/confirm",
    "/signup/resend",
    "/signup/change-email",
    "/signup/stop",
    "/signup/confirm?token=x",
)


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "https://evil.example"},
    ],
)
@pytest.mark.parametrize("path", PATHS)
def test_a_form_from_elsewhere_is_refused(
    house: House, browser: httpx.Client, name: str, path: str, headers: dict[str, str]
) -> None:
    fields = {"username": name, "email": address_of(name), "code": "123456", "view": "x"}
    answer = browser.post(path, data=fields, headers=headers)
    assert answer.status_code == 403
    assert "This did not come from the page" in text(answer)
    assert house.control.client.get_orchestration_state(f"signup-{name}") is None


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", b"{}", 415),
        ("multipart/form-data; boundary=x", b"--x--", 415),
        ("", b"username=a", 415),
        (WRITTEN, b"username=a&username=b", 400),
        (WRITTEN, b"username=%ff", 400),
        (WRITTEN, b"a=1&" * 3000, 400),
        (WRITTEN, b"email=" + b"a" * 300_000, 413),
    ],
)
def test_what_is_no_form_of_these_pages_is_refused(
    browser: httpx.Client, path: str, kind: str, body: bytes, status: int
) -> None:
    assert browser.post(path, content=body, headers={"Content-Type": kind}).status_code == status


def test_a_client_that_sends_too_many_forms_is_told_when_it_may_go_on(
    house: House, settings: Callable[..., None], name: str
) -> None:
    settings(SIGNUP_TRIES_PER_CLIENT="3")
    with house.browser() as browser, house.browser() as other:
        signed_up(browser, name)
        link = link_in(house.mails(name)[0])
        view = hidden(browser.get(link), "view")
        assert browser.post("/signup", data={"username": name, "email": ""}).status_code == 400  # does not count
        assert browser.post("/signup", data={"username": name, "email": "x@example.com"}).status_code == 409
        assert browser.post("/signup/confirm", data={"username": name, "code": "000000"}).status_code == 403
        house.advance(minutes=10)
        for path, fields in [
            ("/signup", {"username": f"{name}-2", "email": "x@example.com"}),
            ("/signup/confirm", {"username": name, "code": "000000"}),
            ("/signup/confirm", {"code": "000000"}),
            ("/signup/resend", {"view": "x"}),
            ("/signup/resend", {"username": name, "email": "x@example.com"}),
            ("/signup/change-email", {"email": "x@example.com"}),
            (link, {"view": view}),
            (links.url_of_signup(house.claims(name), "stop"), {"view": "x"}),
        ]:
            answer = browser.post(path, data=fields)
            assert (answer.status_code, answer.headers.get("Retry-After")) == (429, "3000"), path
            assert "That was too often" in text(answer)
        assert browser.get("/signup/confirm").status_code == 200
        assert other.post("/signup", data={"username": name, "email": "x@example.com"}).status_code == 409
        house.advance(minutes=50)
        assert browser.post(link, data={"view": view}).status_code == 200
    assert house.standing(name)["wrong_codes_by_name"] == 1


def test_the_forms_of_one_sign_up_are_counted_over_all_clients_and_for_strangers_apart(
    house: House, settings: Callable[..., None], browser: httpx.Client, name: str
) -> None:
    settings(SIGNUP_TRIES_PER_CLIENT="3")
    signed_up(browser, name)
    code = code_in(house.mails(name)[0])
    with house.browser() as stranger:

        def by_name(user: str, path: str = "/signup/confirm", **fields: str) -> httpx.Response:
            return stranger.post(path, data={"username": user, **fields}, headers=house.elsewhere())

        for user in (name, "nobody" + name[6:]):
            answers = at_once(lambda each: by_name(each, code=other_than(code)), [user, user.upper(), user])
            assert {answer.status_code for answer in answers} == {403}
        before = house.raw(name)
        answers = [by_name(user, code=code) for user in (name, name.upper(), "nobody" + name[6:])]
        answers += [by_name(user, "/signup/resend", email=address_of(name)) for user in (name, "nobody" + name[6:])]
        for answer in answers:
            assert (answer.status_code, answer.headers["Retry-After"]) == (429, "3600")
            assert alike(answer) == alike(answers[0])
    assert house.raw(name) == before
    view = hidden(browser.get("/signup/confirm"), "view")
    for path, wrong, message in (
        ("/signup/resend", {}, "Another mail: the last mail was sent just now"),
        ("/signup/change-email", {"email": ""}, "Mail address: type one"),
        ("/signup/confirm", {"code": other_than(code)}, "Code: this is not the code"),
    ):
        answer = browser.post(path, data={"view": view} | wrong, headers=house.elsewhere())
        assert message in text(answer), path
    before = house.raw(name)
    for path, fields in FORMS.items():
        answer = browser.post(path, data={"view": view} | fields, headers=house.elsewhere())
        assert (answer.status_code, answer.headers["Retry-After"]) == (429, "3600"), path
        assert "That was too often" in text(answer)
    assert house.raw(name) == before
    assert "Your address is confirmed" in text(press(browser, link_in(house.mails(name)[0])))


def test_one_client_has_half_of_the_mails_sent_to_a_mailbox_and_another_client_gets_its_own(
    house: House, settings: Callable[..., None], browsers: list[httpx.Client], name: str
) -> None:
    settings(SIGNUP_MAILS_PER_ADDRESS="6")
    attacker, somebody, owner = browsers
    local = name.replace("-", ".")
    addresses = [f"{local}@example.com", f"{local}+1@example.com", f" {local.upper()}+a+b@EXAMPLE.com"]
    signed_up(attacker, f"1-{name}", email=addresses[0])
    asked = attacker.post("/signup/resend", data={"username": "nobody-at-all", "email": addresses[1]})
    assert "Look into your mail" in text(asked)
    signed_up(attacker, f"2-{name}", email=f"other-{addresses[0]}")
    assert send(attacker, "/signup/change-email", email=addresses[2]).status_code == 200
    signed_up(somebody, f"3-{name}", email=f"another-{addresses[0]}")
    before = [house.raw(f"{number}-{name}") for number in (1, 2, 3)]
    for address in addresses:
        for answer in (
            attacker.post("/signup", data={"username": f"4-{name}", "email": address}),
            attacker.post("/signup/resend", data={"username": f"1-{name}", "email": address}),
            attacker.post("/signup/resend", data={"username": "nobody-at-all", "email": address}),
            *([] if address == addresses[2] else [send(attacker, "/signup/change-email", email=address)]),
        ):
            assert (answer.status_code, answer.headers["Retry-After"]) == (429, "86400")
            assert "That was too often" in text(answer)
    assert send(attacker, "/signup/change-email", email=addresses[2]).status_code == 409  # it goes there already
    assert house.control.client.get_orchestration_state(f"signup-4-{name}") is None
    assert [house.raw(f"{number}-{name}") for number in (1, 2, 3)] == before
    assert send(somebody, "/signup/change-email", email=addresses[0]).status_code == 200
    for number in range(2):
        assert signed_up(owner, f"{5 + number}-{name}", email=addresses[0])
        mail = house.mails(f"{5 + number}-{name}")[0]
    assert house.mails(f"3-{name}")[-1]["To"] == addresses[0]
    assert "Your address is confirmed" in text(press(owner, link_in(mail)))


def test_the_mails_that_a_session_has_sent_again_are_counted_too_and_the_last_one_stays_good(
    house: House, settings: Callable[..., None], browsers: list[httpx.Client], name: str
) -> None:
    settings(SIGNUP_MAILS_PER_ADDRESS="6")
    attacker, _, owner = browsers
    user = f"1-{name}"
    signed_up(attacker, user, email=address_of(name))
    for status in (200, 200, 429):
        assert "the last mail was sent just now" in text(send(attacker, "/signup/resend"))  # which is not counted
        house.advance(seconds=60)
        answer = send(attacker, "/signup/resend")
        assert answer.status_code == status
    assert answer.headers["Retry-After"] == str(86_400 - 180)
    assert attacker.post("/signup", data={"username": f"2-{name}", "email": address_of(name)}).status_code == 429
    signed_up(owner, name)
    assert [len(house.mails(each)) for each in (user, name)] == [3, 1]
    assert "Your address is confirmed" in text(press(attacker, link_in(house.mails(user)[-1])))


def test_that_a_client_has_had_too_many_mails_sent_is_said_alike_of_all_addresses(
    house: House, settings: Callable[..., None], browser: httpx.Client, name: str
) -> None:
    settings(SIGNUP_MAILS_PER_ADDRESS="2", SIGNUP_RESEND_SECONDS="0")
    users = [f"{each}-{name}" for each in ("known", "waits", "nobod")]
    with_account(users[0])
    with house.browser() as other:
        signed_up(other, users[1])
    told = []
    for user in users:
        asked = {"username": user, "email": address_of(user)}
        answers = [browser.post("/signup/resend", data=asked) for _ in range(2)]
        answers.append(browser.post("/signup", data={"username": f"as-{user}", "email": address_of(user)}))
        assert [answer.status_code for answer in answers] == [200, 429, 429]
        told.append([alike(answer, user) for answer in answers])
    assert told[0] == told[1] == told[2]
    assert [len(house.mails(user)) for user in users] == [0, 2, 0]


def test_what_sends_no_mail_is_not_counted_as_one(
    house: House, settings: Callable[..., None], browsers: list[httpx.Client], name: str
) -> None:
    settings(SIGNUP_MAILS_PER_ADDRESS="2")
    for browser, user in zip(browsers, (f"waits-{name}", f"done-{name}", f"purged-{name}"), strict=True):
        signed_up(browser, user)
        if "waits" not in user:
            press(browser, link_in(house.mails(user)[0]))
    house.control.settle()
    assert house.control.client.purge_orchestration(f"signup-purged-{name}").deleted_instance_count == 1
    with house.browser() as browser:
        fields = {"view": opened(browser), "email": address_of(name)}
        for taken in ("waits", "done", "purged"):
            assert browser.post("/signup", data=fields | {"username": f"{taken}-{name}"}).status_code == 409, taken
        assert browser.post("/signup", data=fields | {"username": ""}).status_code == 400
        for _ in range(2):  # the second is the first once more
            assert browser.post("/signup", data=fields | {"username": name}).status_code == 303
        assert browser.post("/signup", data=fields | {"username": f"{name}-2"}).status_code == 429


def test_nothing_personal_and_no_secret_stands_in_the_log_the_status_or_the_trail(
    house: House, settings: Callable[..., None], browser: httpx.Client, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    settings(SIGNUP_RESEND_SECONDS="0")
    browser.post("/signup", data={"username": name, "email": f"secret-{name}@example.com", "firstname": "Annabel"})
    browser.post("/signup/confirm", data={"username": name, "code": "000000"})
    browser.post("/signup/resend", data={"username": name, "email": f"secret-{name}@example.com"})
    assert len(house.mails(name)) == 2
    browser.get(f"{link_in(house.mails(name)[-1])}x")
    send(browser, "/signup/change-email", email=f"secret-new-{name}@example.com")
    mail = house.mails(name)[-1]
    press(browser, link_in(mail))
    house.control.settle()
    with house.browser() as program:
        trail = program.get(f"/api/audit/signup-{name}").text
        waits = program.get("/api/waits").text
    status = house.control.state(f"signup-{name}").serialized_custom_status or ""
    secret = browser.cookies[COOKIE].partition(".")[0]
    ours = [record for record in caplog.records if not record.name.startswith(("http", "uvicorn.access"))]
    log = "\n".join(record.getMessage() for record in ours)  # the host writes no access log
    assert name in log
    for word in (
        f"secret-{name}",
        f"secret-new-{name}",
        "Annabel",
        secret,
        token_in(link_in(mail))[:40],
        code_in(mail),
    ):
        for where, told in (("log", log), ("trail", trail), ("waits", waits), ("status", status)):
            assert word not in told, (word, where)
