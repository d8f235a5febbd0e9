"""The page behind a link in a mail, as browsers, people, and mail scanners meet it."""

import html
import json
import re
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import Any

import httpx
import pytest

from tests.hosting import HostProcess, host_process
from tests.polling import until

BOB, CAROL, DAVE = "bob@example.com", "carol@example.com", "dave@example.com"
REQUEST: dict[str, Any] = {
    "requester": "Alice",
    "requester_email": "alice@example.com",
    "item": "Laptop of the third kind",
    "timeout_hours": 24,
    "approvers": [BOB, CAROL],
    "policy": "all",
}
FORM = {
    "type": "object",
    "properties": {
        "cost_center": {"type": "string", "title": "Cost center", "maxLength": 10},
        "amount": {"type": "number", "title": "Amount", "minimum": 1, "default": 5},
        "pieces": {"type": "integer"},
        "urgent": {"type": "boolean", "title": "It is urgent"},
        "color": {"enum": ["red", "blue", 3], "default": "blue"},
        "by": {"type": "string", "format": "date"},
        "notes": {"type": "string", "maxLength": 2000},
    },
    "required": ["cost_center"],
}
MANAGEMENT = "/runtime/webhooks/durabletask/instances"
SCANNERS = [
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0 Safari/537.36",
    "Mozilla/4.0 (compatible; MSIE 7.0; Windows NT 10.0; ms-office; MSOffice 16)",
    "Barracuda Sentinel (EE)",
    "Mimecast-LinkScanner/1.0",
    "ProofPoint URL Defense",
    "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)",
    "BarracudaCentral/1.0",
    "curl/8.5.0",
    "python-requests/2.32",
    "",
]


@dataclass
class Opened:
    """A page that a browser has open: ``client`` keeps its cookies."""

    client: httpx.Client
    link: str
    response: httpx.Response

    @property
    def view(self) -> str:
        """The hidden field."""
        found = re.search(r'name="view" value="([^"]+)"', self.response.text)
        assert found is not None, self.response.text
        return found[1]

    def send(self, given: dict[str, str] | None = None, **fields: str) -> httpx.Response:
        """Send the form as it came, but for these fields."""
        return self.send_from({}, **fields | (given or {}))

    def send_from(self, headers: dict[str, str], **fields: str) -> httpx.Response:
        """The same, with headers."""
        return self.client.post(self.link, data={"view": self.view} | fields, headers=headers)


@pytest.fixture
def browser(host: HostProcess) -> Iterator[httpx.Client]:
    """A browser without cookies."""
    with host.client() as client:
        yield client


def asked(client: httpx.Client, **changes: Any) -> str:
    """Make a request, and give its id."""
    response = client.post("/api/requests", json=REQUEST | changes)
    assert response.status_code == 202, response.text
    request_id: str = response.json()["request_id"]
    return request_id


def story(client: httpx.Client, request_id: str) -> dict[str, Any]:
    """What ``GET /api/requests/{id}`` shows."""
    body: dict[str, Any] = client.get(f"/api/requests/{request_id}").raise_for_status().json()
    return body


def history(client: httpx.Client, request_id: str, action: str) -> list[dict[str, Any]]:
    """What of this kind has happened."""
    return [each for each in story(client, request_id)["history"] if each["action"] == action]


def mails_to(host: HostProcess, request_id: str, address: str) -> list[EmailMessage]:
    """The mails about a request that somebody has got, oldest first."""
    files = sorted((host.data / "outbox").glob(f"{request_id}.*.eml"), key=lambda file: file.stat().st_mtime_ns)
    mails = [message_from_bytes(file.read_bytes(), _class=EmailMessage, policy=default) for file in files]
    return [mail for mail in mails if mail["To"] == address]


def text_of(mail: EmailMessage) -> str:
    """The plain text of a mail."""
    body = mail.get_body(("plain",))
    assert body is not None
    text: str = body.get_content()
    return text


def links_to(host: HostProcess, request_id: str, address: str) -> list[str]:
    """The links that somebody has got, oldest first."""
    found = [re.search(r"http\S+/approve/\S+", text_of(mail)) for mail in mails_to(host, request_id, address)]
    return [match[0] for match in found if match is not None]


def link_to(host: HostProcess, request_id: str, address: str, *, number: int = 1) -> str:
    """The link in so many-th of the mails with one that somebody has got."""
    return until(lambda: links_to(host, request_id, address)[number - 1 : number] or None)[0]


def opened(client: httpx.Client, link: str) -> Opened:
    """Open a link whose page is to have a form."""
    response = client.get(link)
    assert response.status_code == 200, response.text
    assert "<form" in response.text
    return Opened(client, link, response)


def text(response: httpx.Response) -> str:
    """The words of a page."""
    return html.unescape(re.sub(r"<[^>]*>", " ", response.text))


def raw_state(client: httpx.Client, request_id: str) -> bytes:
    """All that the management API shows of an instance."""
    asked_for = {"showInput": "true", "showHistory": "true", "showHistoryOutput": "true"}
    return client.get(f"{MANAGEMENT}/{request_id}", params=asked_for).content


def quiet(client: httpx.Client, request_id: str, mails: int) -> bytes:
    """Wait until so many mails are sent and all is on record, and give the state of the instance."""

    def look() -> bytes | None:
        before = raw_state(client, request_id)
        status = json.loads(before)["customStatus"]
        sent = sum(len(each["people"]) for each in history(client, request_id, "mailed"))
        all_stored = status and status["trail"]["entries"] == status["trail"]["stored"]
        return before if sent >= mails and all_stored and raw_state(client, request_id) == before else None

    return until(look)


def rows(host: HostProcess) -> list[Any]:
    """All rows of the record store."""
    with closing(sqlite3.connect(f"file:{host.data / 'records.db'}?mode=ro", uri=True)) as store:
        return store.execute("SELECT * FROM record ORDER BY 1, 2").fetchall()


def assert_says_nothing(response: httpx.Response, status: int) -> None:
    """Check that a page refuses without a word about the request."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    for word in ("Laptop", "Alice", "alice@", "bob", "carol", "<form"):
        assert word.lower() not in response.text.lower(), word


# Looking


def test_the_page_shows_what_is_asked_and_nothing_is_chosen(
    client: httpx.Client, host: HostProcess, browser: httpx.Client
) -> None:
    details = {"price": 1200.5, "lines": [{"what": "screen", "new": True}, None], "empty": {}}
    request_id = asked(client, title="A new laptop", description="Line 1\nLine 2", details=details)
    page = opened(browser, link_to(host, request_id, BOB)).response
    for word in (
        "Alice",
        "A new laptop",
        "Laptop of the third kind",
        "Line 1\nLine 2",
        "price",
        "1200.5",
        "screen",
        "yes",
    ):
        assert word in text(page), word
    assert re.search(r"To be decided by\s+\w+day, \d+ \w+ 20\d\d, \d\d:\d\d UTC\s+\(in 24 hours\)", text(page))
    assert page.text.count('type="radio"') == 5
    assert "checked" not in page.text
    assert CAROL not in page.text


def test_the_page_has_no_script_and_its_headers_forbid_what_it_does_not_need(
    client: httpx.Client, host: HostProcess, browser: httpx.Client
) -> None:
    page = opened(browser, link_to(host, asked(client), BOB)).response
    assert page.headers["Content-Security-Policy"] == (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    )
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert page.headers["Cache-Control"] == "no-store"
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert page.headers["X-Robots-Tag"] == "noindex"
    assert "<script" not in page.text
    assert " style=" not in page.text
    cookie = page.headers["Set-Cookie"]
    assert {part.strip() for part in cookie.split(";")[1:]} == {"HttpOnly", "Path=/approve", "SameSite=Lax"}


def test_what_people_wrote_is_text_on_the_page(client: httpx.Client, host: HostProcess, browser: httpx.Client) -> None:
    attack = "</td></textarea><script>alert(1)</script><img src=x onerror=alert(1)>\"'{{7*7}}"
    request_id = asked(
        client,
        requester=attack,
        title=attack,
        item=attack,
        description=attack,
        details={attack: [attack, {attack: attack}]},
        form={"type": "object", "title": attack, "properties": {attack: {"type": "string", "default": attack}}},
    )
    page = opened(browser, link_to(host, request_id, BOB)).response
    assert "<script" not in page.text
    assert "<img" not in page.text
    assert "49" not in text(page)
    assert text(page).count("alert(1)") >= 14
    again = Opened(browser, page.request.url.__str__(), page).send(comments=attack, to=attack, vote=attack)
    assert again.status_code == 400
    assert "<script" not in again.text
    assert "<img" not in again.text


def test_a_thousand_looks_change_nothing(client: httpx.Client, host: HostProcess) -> None:
    request_id = asked(client)
    link = link_to(host, request_id, BOB)
    state = quiet(client, request_id, mails=2)
    stored, mails = rows(host), sorted((host.data / "outbox").iterdir())

    def look(number: int) -> int:
        method = "HEAD" if number % 4 == 3 else "GET"
        return client.request(method, link, headers={"User-Agent": SCANNERS[number % len(SCANNERS)]}).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(look, range(1000))) == {200}
    assert raw_state(client, request_id) == state
    assert [row for row in rows(host) if request_id in str(row)] == [row for row in stored if request_id in str(row)]
    assert sorted((host.data / "outbox").glob(f"{request_id}*")) == [each for each in mails if request_id in each.name]


def test_head_has_the_headers_of_the_page_and_no_body(
    client: httpx.Client, host: HostProcess, browser: httpx.Client
) -> None:
    link = link_to(host, asked(client), BOB)
    head = browser.head(link)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Cache-Control"] == "no-store"


def test_no_link_stands_in_the_log(client: httpx.Client, host: HostProcess, browser: httpx.Client) -> None:
    link = link_to(host, asked(client), BOB)
    opened(browser, link).send(vote="approve")
    browser.get(link[:-1])
    browser.get(f"{link}/more")
    assert link.rpartition("/")[2][:40] not in host.log.read_text()


# Sending


def test_both_approve_by_link(client: httpx.Client, host: HostProcess, browser: httpx.Client) -> None:
    request_id = asked(client)
    first = opened(browser, link_to(host, request_id, BOB)).send(vote="approve", comments="Fine\r\nby me")
    assert first.status_code == 200
    assert "Thank you" in text(first)
    assert "You have said: approve." in text(first)
    assert "Fine\nby me" in text(first)
    assert "not decided yet" in text(first)
    second = opened(browser, link_to(host, request_id, CAROL)).send(vote="approve")
    assert "the request is approved" in text(second)
    body = until(lambda: (told := story(client, request_id))["output"] and told)
    assert body["status"] == "Approved"
    votes = [(vote["by"], vote["vote"], vote["comments"], vote["channel"]) for vote in body["output"]["votes"]]
    assert votes == [(BOB, "approve", "Fine\nby me", "link"), (CAROL, "approve", None, "link")]


@pytest.mark.parametrize(
    ("vote", "words"), [("reject", "You have said: reject."), ("abstain", "You have said: abstain.")]
)
def test_other_votes(client: httpx.Client, host: HostProcess, browser: httpx.Client, vote: str, words: str) -> None:
    request_id = asked(client)
    assert words in text(opened(browser, link_to(host, request_id, BOB)).send(vote=vote))
    assert [each["detail"] for each in history(client, request_id, "voted")] == [vote]


def test_a_vote_can_be_changed_until_it_is_decided(
    client: httpx.Client, host: HostProcess, browser: httpx.Client
) -> None:
    request_id = asked(client)
    link = link_to(host, request_id, BOB)
    opened(browser, link).send(vote="abstain")
    page = opened(browser, link)
    assert re.search(r"You have said\s+abstain", text(page.response))
    assert "checked" not in page.response.text
    assert page.send(vote="approve").status_code == 200
    assert [each["detail"] for each in history(client, request_id, "voted")] == ["abstain", "approve"]


def test_a_form_that_is_sent_as_it_came_changes_nothing(
    client: httpx.Client, host: HostProcess, browser: httpx.Client
) -> None:
    request_id = asked(client, form=FORM)
    state = quiet(client, request_id, mails=2)
    for _ in range(3):
        page = opened(browser, link_to(host, request_id, BOB))
        untouched = page.send(to="", comments="")
        assert untouched.status_code == 400
        assert "What you say: choose one" in text(untouched)
        assert 'role="alert"' in untouched.text
        assert re.search(r"<title>Error: ", untouched.text)
        assert browser.post(page.link, data={"x": ""}).status_code == 400
        assert browser.post(page.link, data={"vote": "approve"}).status_code == 400
    assert raw_state(client, request_id) == state


@pytest.mark.parametrize("vote", ["", "approved", "Approve", "approve ", "on", "true", "request_change"])
def test_what_is_no_choice_of_the_page_is_none(
    client: httpx.Client, host: HostProcess, browser: httpx.Client, vote: str
) -> None:
    request_id = asked(client)
    assert opened(browser, link_to(host, request_id, BOB)).send(vote=vote).status_code == 400
    assert not history(client, request_id, "voted")


def test_without_the_cookie_of_the_page_nothing_is_taken_and_nothing_lost(
    client: httpx.Client, host: HostProcess, browser: httpx.Client
) -> None:
    request_id = asked(client)
    state = quiet(client, request_id, mails=2)
    page = opened(browser, link_to(host, request_id, BOB))
    for cookie in ("", "x", "A" * 32, "A" * 33, '"', "countersign=1"):
        browser.cookies.clear()
        answer = page.send_from({"Cookie": f"countersign_browser={cookie}"}, vote="approve", comments="It is old")
        assert answer.status_code == 400
        assert "open for too long" in text(answer)
        assert "It is old" in answer.text
        assert re.search(r'value="approve" checked', answer.text)
    assert raw_state(client, request_id) == state
    browser.cookies.clear()
    again = page.send(vote="approve", comments="It is old")
    assert Opened(browser, page.link, again).send(vote="approve", comments="It is old").status_code == 200
    assert [each["comment"] for each in history(client, request_id, "voted")] == ["It is old"]


def test_a_form_is_good_for_its_own_link_alone(client: httpx.Client, host: HostProcess, browser: httpx.Client) -> None:
    request_id = asked(client)
    bobs = opened(browser, link_to(host, request_id, BOB))
    carols = opened(browser, link_to(host, request_id, CAROL))
    assert browser.post(carols.link, data={"view": bobs.view, "vote": "approve"}).status_code == 400
    for view in ("", "x", bobs.view[:-1], bobs.view + "A", bobs.link.rpartition("/")[2]):
        assert browser.post(bobs.link, data={"view": view, "vote": "approve"}).status_code == 400
    assert not history(client, request_id, "voted")


def test_two_tabs_are_both_good(client: httpx.Client, host: HostProcess, browser: httpx.Client) -> None:
    request_id = asked(client)
    link = link_to(host, request_id, BOB)
    first, second = opened(browser, link), opened(browser, link)
    assert "Set-Cookie" in first.response.headers
    assert "Set-Cookie" not in second.response.headers
    assert first.view != second.view
    assert first.send(vote="abstain").status_code == 200
    assert second.send(vote="approve").status_code == 200
    assert [each["detail"] for each in history(client, request_id, "voted")] == ["abstain", "approve"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": ""},
        {"Sec-Fetch-Site": "cross-site", "Origin": "{own}"},
        {"Origin": "https://evil.example"},
        {"Origin": "{own}.evil.example"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": ""},
    ],
)
def test_a_form_from_elsewhere_is_refused(
    client: httpx.Client, host: HostProcess, browser: httpx.Client, headers: dict[str, str]
) -> None:
    request_id = asked(client)
    page = opened(browser, link_to(host, request_id, BOB))
    sent = {name: value.format(own=host.url) for name, value in headers.items()}
    assert_says_nothing(page.send_from(sent, vote="approve"), 403)
    assert not history(client, request_id, "voted")


@pytest.mark.parametrize(
    "headers",
    [{"Sec-Fetch-Site": "same-origin", "Origin": "null"}, {"Origin": "null"}, {"Origin": "{own}"}, {}],
)
def test_a_form_from_the_page_itself_is_taken(
    client: httpx.Client, host: HostProcess, browser: httpx.Client, headers: dict[str, str]
) -> None:
    page = opened(browser, link_to(host, asked(client), BOB))
    sent = {name: value.format(own=host.url) for name, value in headers.items()}
    assert page.send_from(sent, vote="approve").status_code == 200


def test_a_double_click_is_one_vote(client: httpx.Client, host: HostProcess, browser: httpx.Client) -> None:
    request_id = asked(client, policy="any")
    page = opened(browser, link_to(host, request_id, BOB))
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: page.send(vote="approve", comments="once"), range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert all("Thank you" in text(answer) for answer in answers)
    until(lambda: story(client, request_id)["output"])
    assert "Thank you" in text(page.send(vote="approve", comments="once"))
    assert len(history(client, request_id, "voted")) == 1


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", b'{"vote": "approve"}', 415),
        ("multipart/form-data; boundary=x", b"--x--", 415),
        ("text/plain", b"vote=approve", 415),
        ("", b"vote=approve", 415),
        ("application/x-www-form-urlencoded", b"vote=approve&vote=reject", 400),
        ("application/x-www-form-urlencoded", b"vote=%ff", 400),
        ("application/x-www-form-urlencoded", "vote=ä".encode(), 400),
        ("application/x-www-form-urlencoded", b"a=1&" * 3000, 400),
        ("application/x-www-form-urlencoded", b"comments=" + b"a" * 300_000, 413),
    ],
)
def test_what_no_page_sends_is_refused(
    client: httpx.Client, host: HostProcess, *, browser: httpx.Client, kind: str, body: bytes, status: int
) -> None:
    link = link_to(host, asked(client), BOB)
    opened(browser, link)
    assert_says_nothing(browser.post(link, content=body, headers={"Content-Type": kind}), status)


# Comments and forms


def test_a_comment_that_is_needed_is_asked_for(client: httpx.Client, host: HostProcess, browser: httpx.Client) -> None:
    request_id = asked(client, require_comment_on=["reject"])
    page = opened(browser, link_to(host, request_id, BOB))
    assert "Needed to reject, request changes." in text(page.response)
    for vote in ("reject", "request_changes"):
        answer = page.send(vote=vote, comments=" \r\n")
        assert answer.status_code == 400
        assert "Comment: it is needed for this choice" in text(answer)
        assert f'value="{vote}" checked' in answer.text
    assert page.send(vote="approve").status_code == 200


@pytest.mark.parametrize("comment", ["x" * 4001, "NUL \0 in it"])
def test_a_comment_that_cannot_be_is_kept_and_marked(
    client: httpx.Client, host: HostProcess, browser: httpx.Client, comment: str
) -> None:
    request_id = asked(client)
    answer = opened(browser, link_to(host, request_id, BOB)).send(vote="approve", comments=comment)
    assert answer.status_code == 400
    assert comment in answer.text
    assert re.search(
        r'id="comments"[^>]* aria-describedby="comments-hint comments-wrong" aria-invalid="true"', answer.text
    )


def test_the_longest_comment_is_taken_in_any_script(
    client: httpx.Client, host: HostProcess, browser: httpx.Client
) -> None:
    request_id = asked(client)
    comment = "\N{GRINNING FACE}" * 4000
    assert opened(browser, link_to(host, request_id, BOB)).send(vote="approve", comments=comment).status_code == 200
    assert history(client, request_id, "voted")[0]["comment"] == comment


def answer_ids() -> dict[str, str]:
    """The ids of the inputs of ``FORM``, by the name of the field."""
    return {name: f"answer-{number}" for number, name in enumerate(FORM["properties"])}


def test_a_flat_form_is_inputs_and_its_answers_are_kept(
    client: httpx.Client, host: HostProcess, browser: httpx.Client
) -> None:
    request_id = asked(client, form=FORM, policy="any")
    page = opened(browser, link_to(host, request_id, BOB))
    ids = answer_ids()
    for label in ("Cost center", "Amount", "pieces", "It is urgent", "color", "by", "notes"):
        assert re.search(rf'<label for="answer-\d">{label}', page.response.text), label
    assert re.search(rf'type="date" name="{ids["by"]}"', page.response.text)
    assert re.search(rf'<textarea name="{ids["notes"]}"', page.response.text)
    assert re.search(rf'name="{ids["amount"]}"[^>]*value="5"', page.response.text)
    assert '<option value="1" selected>blue</option>' in page.response.text
    given = {"cost_center": "C-1", "amount": "12.5", "pieces": "3", "urgent": "on", "color": "2", "by": "2026-12-24"}
    answer = page.send({ids[name]: value for name, value in given.items()}, vote="approve")
    assert answer.status_code == 200
    body = until(lambda: (told := story(client, request_id))["output"] and told)
    assert body["output"]["votes"][0]["answers"] == {
        "cost_center": "C-1",
        "amount": 12.5,
        "pieces": 3,
        "urgent": True,
        "color": 3,
        "by": "2026-12-24",
    }


@pytest.mark.parametrize(
    ("field", "typed", "message"),
    [
        ("cost_center", "", "Cost center: it is needed"),
        ("cost_center", "much too long", "is too long"),
        ("amount", "much", "Amount: type a number"),
        ("amount", "1e9", "Amount: type a number"),
        ("amount", "NaN", "Amount: type a number"),
        ("amount", "0", "is less than the minimum"),
        ("pieces", "1.5", "pieces: type a whole number"),
        ("pieces", "٣", "pieces: type a whole number"),
        ("color", "3", "color: choose one of the list"),
        ("color", "-1", "color: choose one of the list"),
        ("by", "tomorrow", "is not a 'date'"),
    ],
)
def test_a_wrong_answer_is_marked_and_all_that_was_typed_is_kept(
    client: httpx.Client, host: HostProcess, *, browser: httpx.Client, field: str, typed: str, message: str
) -> None:
    request_id = asked(client, form=FORM)
    page = opened(browser, link_to(host, request_id, BOB))
    ids = answer_ids()
    given = {ids["cost_center"]: "C-1", ids["urgent"]: "on", ids["notes"]: "Note <b>", "comments": "Kept"}
    answer = page.send(given | {ids[field]: typed}, vote="approve")
    assert answer.status_code == 400
    assert message in text(answer)
    assert f'<a href="#{ids[field]}">' in answer.text
    assert re.search(rf'id="{ids[field]}"[^>]* aria-invalid="true"', answer.text)
    assert "\nKept</textarea>" in answer.text
    assert "\nNote &lt;b&gt;</textarea>" in answer.text
    assert re.search(rf'id="{ids["urgent"]}" value="on" checked', answer.text)
    if field != "color":
        assert f'value="{typed}"' in answer.text
    assert not history(client, request_id, "voted")
    assert Opened(browser, page.link, answer).send({ids[field]: typed}, vote="reject").status_code == 200


def test_a_nested_form_is_json(client: httpx.Client, host: HostProcess, browser: httpx.Client) -> None:
    form = {"type": "object", "properties": {"lines": {"type": "array", "maxItems": 2}}, "required": ["lines"]}
    request_id = asked(client, form=form, policy="any")
    page = opened(browser, link_to(host, request_id, BOB))
    for typed, message in [
        ("", "lines: it is needed"),
        ("{", "it is no JSON object"),
        ("[1]", "it is no JSON object"),
        ('{"lines": NaN}', "it is no JSON object"),
        ("[" * 50_000, "it is no JSON object"),
        ('{"lines": [1, 2, 3]}', "lines: [1, 2, 3] is too long"),
        (json.dumps({"lines": ["x" * 9000]}), "it is too long"),
    ]:
        answer = page.send({"answer-json": typed}, vote="approve")
        assert answer.status_code == 400, typed[:50]
        assert message in text(answer), typed[:50]
    assert page.send({"answer-json": '{"lines": [{"a": "b"}]}'}, vote="approve").status_code == 200
    body = until(lambda: (told := story(client, request_id))["output"] and told)
    assert body["output"]["votes"][0]["answers"] == {"lines": [{"a": "b"}]}


# Handing over


def test_handing_over(client: httpx.Client, host: HostProcess, browser: httpx.Client) -> None:
    request_id = asked(client)
    link = link_to(host, request_id, BOB)
    page = opened(browser, link)
    for to, message in [
        ("", "To whom: type one mail address"),
        ("dave", "To whom: type one mail address"),
        (f"{DAVE}, {CAROL}", "To whom: type one mail address"),
        ("ALICE@example.com", "To whom: it cannot be handed to whoever asked for it"),
        (CAROL, "To whom: this person is asked already"),
    ]:
        answer = page.send(vote="delegate", to=to, comments="Kept")
        assert answer.status_code in (400, 409), to
        assert message in text(answer), to
        assert "Kept" in answer.text
    answer = page.send(vote="delegate", to=DAVE, comments="You know more")
    assert answer.status_code == 200
    assert f"You have handed this over to {DAVE}" in text(answer)
    assert_says_nothing(browser.get(link), 403)
    assert_says_nothing(browser.post(link, data={"view": page.view, "vote": "approve"}), 403)
    assert opened(browser, link_to(host, request_id, DAVE)).send(vote="approve").status_code == 200
    assert [each["actor"] for each in history(client, request_id, "voted")] == [DAVE]


# The end


def test_after_the_decision_every_link_tells_it(client: httpx.Client, host: HostProcess, browser: httpx.Client) -> None:
    request_id = asked(client, policy="any")
    bobs = opened(browser, link_to(host, request_id, BOB))
    carols = opened(browser, link_to(host, request_id, CAROL))
    bobs.send(vote="approve")
    for link in (bobs.link, carols.link):
        page = browser.get(link)
        assert page.status_code == 200
        assert re.search(rf"{BOB} approved it on \w+day, \d+ \w+ 20\d\d", text(page))
        assert "<form" not in page.text
    late = carols.send(vote="reject")
    assert late.status_code == 200
    assert f"{BOB} approved it" in text(late)
    assert "Thank you" not in text(late)
    assert carols.send().status_code == 200
    until(lambda: story(client, request_id)["output"])
    assert story(client, request_id)["status"] == "Approved"
    assert len(history(client, request_id, "voted")) == 1


def test_of_fifty_that_are_sent_at_once_one_decides(client: httpx.Client, host: HostProcess) -> None:
    request_id = asked(client, policy="any")
    said = [(BOB, "approve"), (CAROL, "reject")] * 25
    with host.client() as one, host.client() as other:
        browsers = {BOB: one, CAROL: other}
        pages = [(opened(browsers[who], link_to(host, request_id, who)), vote) for who, vote in said]
        with ThreadPoolExecutor(50) as pool:
            answers = list(pool.map(lambda page: page[0].send(vote=page[1]), pages))
    assert {answer.status_code for answer in answers} == {200}
    assert sum("Thank you" in text(answer) for answer in answers) == 1
    votes = history(client, request_id, "voted")
    assert len(votes) == 1
    words = "approved it" if votes[0]["detail"] == "approve" else "rejected it"
    told = [answer for answer in answers if "Thank you" not in text(answer)]
    assert all(f"{votes[0]['actor']} {words}" in text(answer) for answer in told)


def test_a_withdrawn_request(client: httpx.Client, host: HostProcess, browser: httpx.Client) -> None:
    request_id = asked(client)
    page = opened(browser, link_to(host, request_id, BOB))
    assert client.post(f"/api/requests/{request_id}/withdraw", json={"by": "Alice"}).status_code == 200
    assert_says_nothing(browser.get(page.link), 410)
    assert_says_nothing(page.send(vote="approve"), 410)


def test_a_vote_after_the_time_is_up_is_refused_and_kept_as_late(
    client: httpx.Client, host: HostProcess, browser: httpx.Client
) -> None:
    request_id = asked(client, timeout_hours=3 / 3600)
    page = opened(browser, link_to(host, request_id, BOB))
    until(lambda: story(client, request_id)["output"])
    assert_says_nothing(browser.get(page.link), 410)
    assert_says_nothing(page.send(), 410)
    assert not history(client, request_id, "late")
    assert_says_nothing(page.send(vote="reject", comments="No!"), 410)
    late = until(lambda: history(client, request_id, "late"))
    assert [(each["actor"], each["comment"], each["channel"]) for each in late] == [(BOB, "No!", "link")]


def test_a_terminated_run(client: httpx.Client, host: HostProcess, browser: httpx.Client) -> None:
    request_id = asked(client)
    page = opened(browser, link_to(host, request_id, BOB))
    client.post(f"{MANAGEMENT}/{request_id}/terminate", params={"reason": "over"})
    until(lambda: story(client, request_id)["runtime_status"] == "TERMINATED")
    assert_says_nothing(browser.get(page.link), 410)
    assert_says_nothing(page.send(vote="approve"), 410)


def test_another_run_of_the_same_id_and_one_that_is_gone(
    client: httpx.Client, host: HostProcess, browser: httpx.Client
) -> None:
    request_id = asked(client, request_id="again-1")
    page = opened(browser, link_to(host, request_id, BOB))
    client.post(f"{MANAGEMENT}/{request_id}/terminate", params={"reason": "over"})
    until(lambda: story(client, request_id)["runtime_status"] == "TERMINATED")
    client.delete(f"{MANAGEMENT}/{request_id}").raise_for_status()
    assert_says_nothing(browser.get(page.link), 410)
    asked(client, request_id="again-1")
    link_to(host, request_id, BOB, number=2)
    assert_says_nothing(browser.get(page.link), 410)
    assert_says_nothing(page.send(vote="approve"), 410)
    assert not history(client, request_id, "voted")


def test_what_was_changed_in_the_store_is_not_shown(
    client: httpx.Client, host: HostProcess, browser: httpx.Client
) -> None:
    request_id = asked(client)
    page = opened(browser, link_to(host, request_id, BOB))
    with closing(sqlite3.connect(host.data / "records.db", timeout=10)) as store, store:
        changed = store.execute(
            "UPDATE record SET body = replace(body, 'third kind', 'first kind') WHERE partition = ?",
            (f"shown:{request_id}",),
        )
        assert changed.rowcount == 1
    assert_says_nothing(browser.get(page.link), 410)
    assert_says_nothing(page.send(vote="approve"), 410)


def test_changes_are_asked_for_and_a_new_round_has_new_links(
    client: httpx.Client, host: HostProcess, browser: httpx.Client
) -> None:
    request_id = asked(client)
    page = opened(browser, link_to(host, request_id, BOB))
    carols = opened(browser, link_to(host, request_id, CAROL))
    answer = page.send(vote="request_changes", comments="A smaller one")
    assert answer.status_code == 200
    assert "goes back to Alice" in text(answer)
    for old in (page, carols):
        assert_says_nothing(browser.get(old.link), 410)
        assert "Changes were asked for." in text(browser.get(old.link))
        assert_says_nothing(old.send(vote="approve"), 410)
    revised = client.post(f"/api/requests/{request_id}/revise", json={"by": "Alice", "item": "Smaller laptop"})
    assert revised.status_code == 200, revised.text
    for old in (page, carols):
        assert_says_nothing(browser.get(old.link), 410)
        assert_says_nothing(old.send(vote="approve"), 410)
    fresh = opened(browser, link_to(host, request_id, BOB, number=2))
    assert "Smaller laptop" in text(fresh.response)
    assert fresh.send(vote="approve").status_code == 200


def test_a_group_that_has_decided_is_asked_no_more(
    client: httpx.Client, host: HostProcess, browser: httpx.Client
) -> None:
    groups = [{"approvers": [BOB, CAROL], "policy": "any"}, {"approvers": [DAVE]}]
    request_id = asked(client, approvers=[], policy=groups)
    page = opened(browser, link_to(host, request_id, BOB))
    carols = opened(browser, link_to(host, request_id, CAROL))
    assert page.send(vote="approve").status_code == 200
    link_to(host, request_id, DAVE)
    for old in (page, carols):
        assert_says_nothing(browser.get(old.link), 410)
        assert_says_nothing(old.send(vote="reject"), 410)


def test_where_nobody_is_named_the_link_in_the_common_mail_is_good(
    client: httpx.Client, host: HostProcess, browser: httpx.Client
) -> None:
    request_id = asked(client, approvers=[], policy="any")
    page = opened(browser, link_to(host, request_id, "approvals@example.com"))
    assert "the request is approved" in text(page.send(vote="approve"))


def test_a_suspended_run_is_handed_the_vote(client: httpx.Client, host: HostProcess, browser: httpx.Client) -> None:
    request_id = asked(client, policy="any")
    page = opened(browser, link_to(host, request_id, BOB))
    client.post(f"{MANAGEMENT}/{request_id}/suspend", params={"reason": "wait"})
    until(lambda: story(client, request_id)["runtime_status"] == "SUSPENDED")
    answer = page.send(vote="approve")
    assert answer.status_code == 202
    assert "What you sent is kept, and counts when it goes on." in text(answer)
    client.post(f"{MANAGEMENT}/{request_id}/resume", params={"reason": "go"})
    assert until(lambda: (told := story(client, request_id))["output"] and told)["status"] == "Approved"


# Links that are none


def test_tampered_links_are_401(client: httpx.Client, host: HostProcess, browser: httpx.Client) -> None:
    page = opened(browser, link_to(host, asked(client), BOB))
    token = page.link.rpartition("/")[2]
    for wrong in (token[:-1], token + "A", token[1:], token.swapcase(), "x", "%00", "a" * 5000, page.view):
        for answer in (browser.get(f"/approve/{wrong}"), browser.post(f"/approve/{wrong}", data={"vote": "approve"})):
            assert_says_nothing(answer, 401)
    head = browser.head(f"/approve/{token[:-1]}")
    assert head.status_code == 401
    assert "Set-Cookie" not in head.headers


def test_a_link_of_another_app_is_401(host: HostProcess, browser: httpx.Client, tmp_path_factory: Any) -> None:
    with host_process(tmp_path_factory.mktemp("other")) as other, other.client() as client:
        token = link_to(other, asked(client), BOB).rpartition("/")[2]
    assert_says_nothing(browser.get(f"/approve/{token}"), 401)


# The code in the mail


def code_in(mail: EmailMessage) -> str:
    """The code that a mail has."""
    found = re.search(r"\b(\d{6})\b", re.sub(r"http\S+", "", text_of(mail)))
    assert found is not None
    return found[1]


def test_the_code_in_the_mail_is_asked_for_and_five_wrong_ones_lock_the_link(
    client: httpx.Client, host: HostProcess, browser: httpx.Client
) -> None:
    request_id = asked(client, second_factor="mail_code", policy="any")
    link = link_to(host, request_id, BOB)
    code = code_in(mails_to(host, request_id, BOB)[0])
    assert code not in browser.get(link).text
    page = opened(browser, link)
    for typed in ("", "12345", "1234567", "abcdef", "١٢٣٤٥٦"):
        answer = page.send(vote="approve", code=typed)
        assert answer.status_code == 400, typed[:50]
        assert "Code: type the six digits" in text(answer)
    wrong = f"{(int(code) + 1) % 10**6:06}"
    for _ in range(5):
        answer = page.send(vote="approve", code=wrong, comments="Kept")
        assert answer.status_code == 403
        assert "Code: this is not the code in the mail" in text(answer)
        assert "Kept" in answer.text
        assert wrong not in answer.text
        page = Opened(browser, link, answer)
    assert_says_nothing(browser.get(link), 403)
    assert_says_nothing(page.send(vote="approve", code=code), 403)
    assert not history(client, request_id, "voted")
    # Another mail has another link, and another code.
    assert client.post(f"/api/requests/{request_id}/remind", json={"approver": BOB}).status_code == 200
    fresh = opened(browser, link_to(host, request_id, BOB, number=2))
    other = code_in(mails_to(host, request_id, BOB)[1])
    assert fresh.send(vote="approve", code=code).status_code == 403
    answer = opened(browser, fresh.link).send(vote="approve", code=f"{other[:3]} {other[3:]}")
    assert "the request is approved" in text(answer)


def test_a_code_from_the_mail_of_somebody_else_is_wrong(
    client: httpx.Client, host: HostProcess, browser: httpx.Client
) -> None:
    request_id = asked(client, second_factor="mail_code")
    page = opened(browser, link_to(host, request_id, BOB))
    link_to(host, request_id, CAROL)
    carols = code_in(mails_to(host, request_id, CAROL)[0])
    assert page.send(vote="approve", code=carols).status_code == 403
    assert not history(client, request_id, "voted")


# Style sheets


def test_style_sheets_are_kept_by_browsers_and_nothing_else_is_served(
    client: httpx.Client, browser: httpx.Client
) -> None:
    page = browser.get("/approve/x")
    sheets = re.findall(r'href="(/static/[^"]+)"', page.text)
    assert len(sheets) == 2
    for sheet in sheets:
        answer = browser.get(sheet)
        assert answer.headers["Content-Type"] == "text/css; charset=utf-8"
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    for other in ("countersign.css", "..%2fpages.py", "%2e%2e/pages.py", "simple.css-2.3.7", "README.md"):
        assert browser.get(f"/static/{other}").status_code == 404
