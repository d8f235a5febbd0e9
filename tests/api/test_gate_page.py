"""The page behind the link in the mail of a call that has failed, as browsers, people, and mail scanners meet it."""

import html
import json
import re
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, get_args

import httpx
import pytest

from contracts.guarded_call import MAX_JSON, Refusal
from tests.api.hosting import Hosting
from tests.api.test_vote_page import (
    BOB,
    MANAGEMENT,
    SCANNERS,
    Opened,
    asked,
    link_to,
    mails_to,
    opened,
    raw_state,
    rows,
    text,
    text_of,
)
from tests.failing_server import Reply, failing_server, hang
from tests.hosting import HostProcess
from tests.polling import until
from triggers.gate_page import REFUSALS

ANN, CAROL = "ann@example.com", "carol@example.com"
SCHEMA = {
    "type": "object",
    "properties": {"currency": {"enum": ["EUR", "USD"]}, "amount": {"type": "number", "minimum": 1}},
    "required": ["currency"],
}
BODY = {"amount": 12.5, "currency": "EURO", "for": "order-7"}
FIXED = json.dumps(BODY | {"currency": "EUR"})


@pytest.fixture
def browser(host: HostProcess) -> Iterator[httpx.Client]:
    """A browser without cookies."""
    with host.client() as client:
        yield client


def failed(client: httpx.Client, **changes: Any) -> str:
    """Start a call that fails until its body is right, is tried once, and give its id."""
    given = {
        "name": "charge",
        "call": {"kind": "simulated", "accepts": SCHEMA, "body": BODY, "result": {"paid": True}},
        "retry": {"attempts": 1},
        "assigned_to": [ANN],
        "editable": True,
        "skippable": True,
    }
    response = client.post("/api/interventions", json=given | changes)
    assert response.status_code == 202, response.text
    intervention_id: str = response.json()["intervention_id"]
    return intervention_id


def hopeless(client: httpx.Client, **changes: Any) -> str:
    """Start a call that fails whatever is done."""
    return failed(client, **{"call": {"kind": "simulated", "fails": 1000, "body": BODY}, **changes})


def told(client: httpx.Client, intervention_id: str) -> dict[str, Any]:
    """What ``GET /api/interventions/{id}`` shows."""
    body: dict[str, Any] = client.get(f"/api/interventions/{intervention_id}").raise_for_status().json()
    return body


def ended(client: httpx.Client, intervention_id: str) -> dict[str, Any]:
    """The same, once the run is over."""
    over = ("COMPLETED", "FAILED", "TERMINATED")
    return until(lambda: body if (body := told(client, intervention_id))["runtime_status"] in over else None)


def quiet(client: httpx.Client, intervention_id: str) -> bytes:
    """Wait until the mail is sent and all is on record, and give the state of the instance."""

    def look() -> bytes | None:
        trail = told(client, intervention_id)
        status = json.loads(raw_state(client, intervention_id))["customStatus"]
        is_stored = status["trail"]["entries"] == status["trail"]["stored"] == len(trail["history"])
        is_sent = any(each["action"] == "mailed" for each in trail["history"])
        before = raw_state(client, intervention_id)
        return before if is_stored and is_sent and raw_state(client, intervention_id) == before else None

    return until(look)


def done(client: httpx.Client, intervention_id: str) -> list[tuple[str, str, str]]:
    """What people did: what, who, and by which door."""
    return [(each["action"], each["by"], each["channel"]) for each in told(client, intervention_id)["done"]]


def happened(client: httpx.Client, intervention_id: str, action: str) -> list[dict[str, Any]]:
    """What of this kind stands in the story."""
    return [each for each in told(client, intervention_id)["history"] if each["action"] == action]


def gate_links(host: HostProcess, intervention_id: str, address: str) -> list[str]:
    """The links to this page that somebody has got, oldest first."""
    found = [re.search(r"http\S+/intervene/\S+", text_of(mail)) for mail in mails_to(host, intervention_id, address)]
    return [match[0] for match in found if match is not None]


def gate_link(host: HostProcess, intervention_id: str, address: str = ANN, *, number: int = 1) -> str:
    """So many-th of the links that somebody has got."""
    return until(lambda: gate_links(host, intervention_id, address)[number - 1 : number] or None)[0]


def gate(host: HostProcess, browser: httpx.Client, intervention_id: str, address: str = ANN) -> Opened:
    """Open the page by the first link that somebody has got."""
    return opened(browser, gate_link(host, intervention_id, address))


def hidden(response: httpx.Response) -> dict[str, str]:
    """The hidden fields of a page."""
    found = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', response.text)
    return {name: html.unescape(value) for name, value in found}


def in_textarea(response: httpx.Response, name: str) -> str:
    """What stands in an input of a page."""
    found = re.search(rf'<textarea[^>]* id="{name}"[^>]*>\n(.*?)</textarea>', response.text, re.DOTALL)
    assert found is not None, response.text
    return html.unescape(found[1])


def change(page: Opened, body: str, reason: str = "A typo", result: str = "") -> httpx.Response:
    """Take the first step of an edit, which is to show what it changes."""
    answer = page.send(action="edit", body=body, reason=reason, result=result)
    assert answer.status_code == 200, answer.text
    assert "Is this what you want to send?" in answer.text, answer.text
    return answer


def confirm(page: Opened, shown: httpx.Response, step: str = "send") -> httpx.Response:
    """Take the second step: press a button below the change."""
    return page.client.post(page.link, data=hidden(shown) | {"step": step})


def assert_says_nothing(response: httpx.Response, status: int) -> None:
    """Check that a page refuses without a word about the call."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    for word in ("charge", "order-7", "EURO", ANN, "<form"):
        assert word not in response.text, word


# Looking


def test_the_page_shows_what_has_failed_and_nothing_is_chosen(
    client: httpx.Client, host: HostProcess, browser: httpx.Client
) -> None:
    intervention_id = failed(client, schema=SCHEMA)
    page = gate(host, browser, intervention_id).response
    words = text(page)
    for word in (f"Part of {intervention_id}", "charge failed", "422", "order-7", "EURO", "Attempts that failed: 1"):
        assert word in re.sub(r"\s+", " ", words), word
    assert re.search(r"It waits until\s+\w+day, \d+ \w+ 20\d\d, \d\d:\d\d UTC\s+\(in 3 days\). Then it fails.", words)
    assert page.text.count('type="radio"') == 4
    assert "checked" not in page.text
    assert json.loads(in_textarea(page, "body")) == BODY
    assert '"minimum": 1' in words
    assert "You are asked as ann@example.com" in words
    assert "What was done before" not in words
    assert "sha256" not in words


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"on_deadline": "skip"}, "Then it goes on without the call."),
        ({"on_deadline": "escalate", "escalate_to": [CAROL]}, "Then others are asked too."),
    ],
)
def test_the_page_says_what_comes_after_the_deadline(
    client: httpx.Client, host: HostProcess, browser: httpx.Client, changes: dict[str, Any], words: str
) -> None:
    assert words in text(gate(host, browser, hopeless(client, **changes)).response)


def test_secrets_of_a_call_over_http_are_not_shown(
    client: httpx.Client, host: HostProcess, browser: httpx.Client
) -> None:
    call = {
        "kind": "http",
        "method": "PUT",
        "url": "https://nowhere.invalid/pay?api_key=s3cret-1&x=1",
        "headers": {"Authorization": "Bearer s3cret-2", "X-Api-Key": "s3cret-3", "Accept": "application/json"},
        "body": BODY,
    }
    given = {"name": "charge", "call": call, "assigned_to": [ANN], "part_of": "refund-9"}
    started = client.post(f"{MANAGEMENT.rpartition('/')[0]}/orchestrators/guarded_call", json=given)
    assert started.status_code == 202, started.text
    intervention_id = started.json()["id"]
    link = gate_link(host, intervention_id)
    page = opened(browser, link)
    for shown in (page.response, page.send(action="retry"), page.send(action="edit", body="{")):
        words = text(shown)
        for word in ("PUT https://nowhere.invalid/pay?api_key=***&x=***", "Authorization", "***", "application/json"):
            assert word in words, word
        assert "Part of refund-9" in re.sub(r"\s+", " ", words)
        assert "s3cret" not in shown.text
    assert "s3cret" not in text_of(mails_to(host, intervention_id, ANN)[0])


def test_the_page_has_no_script_and_its_headers_forbid_what_it_does_not_need(
    client: httpx.Client, host: HostProcess, browser: httpx.Client
) -> None:
    page = gate(host, browser, failed(client))
    for response in (page.response, change(page, FIXED)):
        assert response.headers["Content-Security-Policy"] == (
            "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
            "frame-ancestors 'none'"
        )
        assert response.headers["Referrer-Policy"] == "no-referrer"
        assert response.headers["Cache-Control"] == "no-store"
        assert "<script" not in response.text
        assert " style=" not in response.text
    cookie = page.response.headers["Set-Cookie"]
    assert {part.strip() for part in cookie.split(";")[1:]} == {"HttpOnly", "Path=/intervene", "SameSite=Lax"}


def test_what_people_wrote_is_text_on_every_page(
    client: httpx.Client, host: HostProcess, browser: httpx.Client
) -> None:
    attack = "</textarea></pre><script>alert(1)</script><img src=x onerror=alert(1)>\"'{{7*7}}"
    body = {attack: attack}
    call = {"kind": "simulated", "fails": 1000, "body": body}
    intervention_id = failed(client, call=call, name=attack, schema={"type": "object", "title": attack})
    page = gate(host, browser, intervention_id)
    shown = change(page, json.dumps(body | {"x": attack}), reason=attack)
    taken = confirm(page, shown)
    again = opened(browser, gate_link(host, intervention_id, number=2))
    wrong = again.send(action=attack, body=attack, result=attack, reason=attack * 100)
    for response in (page.response, shown, taken, again.response, wrong):
        assert "<script" not in response.text
        assert "<img" not in response.text
        assert "49" not in re.sub(r"\S*view\S*|\d\d:\d\d|[0-9a-f]{16,}|guarded_call-\S+", "", text(response))
        assert "alert(1)" in text(response)


def test_two_hundred_looks_change_nothing(client: httpx.Client, host: HostProcess) -> None:
    intervention_id = failed(client)
    link = gate_link(host, intervention_id)
    state, stored = quiet(client, intervention_id), rows(host)
    mails = sorted((host.data / "outbox").glob(f"{intervention_id}*"))

    def look(number: int) -> int:
        method = "HEAD" if number % 4 == 3 else "GET"
        return client.request(method, link, headers={"User-Agent": SCANNERS[number % len(SCANNERS)]}).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(look, range(200))) == {200}
    assert raw_state(client, intervention_id) == state
    assert [row for row in rows(host) if intervention_id in str(row)] == [
        row for row in stored if intervention_id in str(row)
    ]
    assert sorted((host.data / "outbox").glob(f"{intervention_id}*")) == mails


def test_head_has_the_headers_of_the_page_and_no_body(
    client: httpx.Client, host: HostProcess, browser: httpx.Client
) -> None:
    head = browser.head(gate_link(host, failed(client)))
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Cache-Control"] == "no-store"


def test_no_link_stands_in_the_log(client: httpx.Client, host: HostProcess, browser: httpx.Client) -> None:
    page = gate(host, browser, hopeless(client))
    page.send(action="retry", reason="Once more")
    browser.get(page.link[:-1])
    browser.get(f"{page.link}/more")
    assert page.link.rpartition("/")[2][:40] not in host.log.read_text()


# Doing


def test_trying_again_opens_another_gate_with_another_link_where_it_fails_again(
    client: httpx.Client, host: HostProcess, browser: httpx.Client
) -> None:
    intervention_id = hopeless(client, max_operator_retries=2)
    page = gate(host, browser, intervention_id)
    assert "It can be tried again 2 more times." in text(page.response)
    answer = page.send(action="retry", reason="It was\r\ndown")
    assert answer.status_code == 200
    assert "It is tried again now." in text(answer)
    assert "Your reason: It was\ndown" in text(answer)
    newer = gate_link(host, intervention_id, number=2)
    assert newer != page.link
    # The old link is for nothing now, but whoever sends the same again is told the same.
    assert_says_nothing(browser.get(page.link), 410)
    assert "a newer mail has the link" in text(browser.get(page.link))
    assert "It is tried again now." in text(page.send(action="retry", reason="It was\r\ndown"))
    assert_says_nothing(page.send(action="fail", reason="No"), 410)
    assert_says_nothing(page.send(action="edit", reason="No", body=FIXED), 410)
    assert done(client, intervention_id) == [("retry", ANN, "link")]
    second = opened(browser, newer)
    assert "It can be tried again once more." in text(second.response)
    for word in (f"{ANN} tried it again on", "It was\ndown", "Attempts that failed: 2"):
        assert word in re.sub(r"[^\S\n]+", " ", text(second.response)), word
    second.send(action="retry", reason="And again")
    third = opened(browser, gate_link(host, intervention_id, number=3))
    assert third.response.text.count('type="radio"') == 2
    assert 'value="retry"' not in third.response.text


def test_it_has_succeeded_since(client: httpx.Client, host: HostProcess, browser: httpx.Client) -> None:
    intervention_id = failed(client, call={"kind": "simulated", "fails": 1, "body": BODY})
    page = gate(host, browser, intervention_id)
    page.send(action="retry", reason="It is up again")
    assert ended(client, intervention_id)["status"] == "Succeeded"
    answer = browser.get(page.link)
    assert answer.status_code == 200
    assert re.search(rf"{ANN} tried it again on \w+day", text(answer))
    assert "It is up again" in text(answer)
    assert "It has succeeded since." in text(answer)
    assert "<form" not in answer.text


def test_a_change_of_the_body_is_shown_before_it_is_sent(
    client: httpx.Client, host: HostProcess, browser: httpx.Client
) -> None:
    intervention_id = failed(client, schema=SCHEMA)
    page = gate(host, browser, intervention_id)
    state = quiet(client, intervention_id)
    shown = change(page, FIXED, reason="The\r\nbank says EUR")
    assert "<del>-   &#34;currency&#34;: &#34;EURO&#34;,</del>" in shown.text
    assert "<ins>+   &#34;currency&#34;: &#34;EUR&#34;,</ins>" in shown.text
    assert "Nothing was sent yet." in text(shown)
    assert raw_state(client, intervention_id) == state
    assert not done(client, intervention_id)
    answer = confirm(page, shown)
    assert answer.status_code == 200
    assert "It is tried again now, with the changed body." in text(answer)
    body = ended(client, intervention_id)
    assert (body["status"], body["output"]["result"]) == ("Succeeded", {"paid": True})
    assert body["call"]["body"] == BODY | {"currency": "EUR"}
    assert body["done"][0]["reason"] == "The\nbank says EUR"
    assert done(client, intervention_id) == [("edit", ANN, "link")]
    # Twice is once, and the link says who did it.
    assert "with the changed body" in text(confirm(page, shown))
    assert f"{ANN} changed the body and tried it again" in text(browser.get(page.link))
    assert len(done(client, intervention_id)) == 1


def test_a_change_that_is_not_sent_can_be_changed_and_nothing_is_lost(
    client: httpx.Client, host: HostProcess, browser: httpx.Client
) -> None:
    intervention_id = failed(client)
    page = gate(host, browser, intervention_id)
    typed = '{ "currency":  "USD",\n\n"note": "&lt;b&gt; \\" \'" }'
    shown = change(page, typed, reason=" Two\n lines ", result="{half")
    back = confirm(page, shown, step="back")
    assert back.status_code == 200
    assert 'role="alert"' not in back.text
    assert re.search(r'value="edit" checked', back.text)
    kept = {"body": typed, "reason": " Two\n lines ", "result": "{half"}
    assert {name: in_textarea(back, name) for name in kept} == kept
    assert not done(client, intervention_id)
    again = change(Opened(browser, page.link, back), FIXED)
    assert confirm(page, again).status_code == 200
    assert ended(client, intervention_id)["status"] == "Succeeded"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "this is no JSON"),
        ("{", "this is no JSON: EOF while parsing an object at line 1 column 1"),
        ('{"currency": "EUR",}', "this is no JSON: trailing comma at line 1 column 20"),
        ("[" * 9000, "this is no JSON: recursion limit exceeded"),
        ('{"amount": NaN}', "not JSON compliant"),
        ('{"amount": 1e999}', "not JSON compliant"),
        ('"\\ud800"', "this is no JSON"),
        (json.dumps({"currency": "x" * MAX_JSON}), "it has more than 16,000 characters of JSON"),
        (json.dumps(BODY), "it is what it was"),
        (json.dumps(dict(reversed(BODY.items())), indent=7), "it is what it was"),
        ('{"amount": 0}', "amount: 0 is less than the minimum of 1; currency: it is needed"),
        ('{"currency": "GBP"}', "currency: 'GBP' is not one of ['EUR', 'USD']"),
        ('["EUR"]', "['EUR'] is not of type 'object'"),
        ("null", "None is not of type 'object'"),
    ],
)
def test_a_body_that_cannot_be_is_marked_and_kept(
    client: httpx.Client, host: HostProcess, browser: httpx.Client, body: str, message: str
) -> None:
    intervention_id = failed(client, schema=SCHEMA)
    page = gate(host, browser, intervention_id)
    for step in ({}, {"step": "send"}):
        answer = page.send({"action": "edit", "body": body, "reason": "Kept"} | step)
        assert answer.status_code == 400, answer.text
        assert re.search(rf"The body: [^\n]*{re.escape(message)}", text(answer)), text(answer)
        assert '<a href="#body">' in answer.text
        assert re.search(r'id="body"[^>]* aria-describedby="body-hint body-wrong" aria-invalid="true"', answer.text)
        assert re.search(r'value="edit" checked', answer.text)
        assert in_textarea(answer, "reason") == "Kept"
        assert in_textarea(answer, "body") == body
    assert not done(client, intervention_id)
    assert not happened(client, intervention_id, "refused")


@pytest.mark.parametrize(
    "body",
    [
        {"x": "\U000e0041" * 7_990},
        {"x": "\N{GRINNING FACE}" * 7_990},
        {"x": [1] * 5_000},
        json.loads("[" * 50 + "]" * 50),
        [[{}] * 50] * 20,
    ],
)
def test_the_largest_bodies_can_be_shown_and_sent(
    client: httpx.Client, host: HostProcess, browser: httpx.Client, body: Any
) -> None:
    intervention_id = failed(client, call={"kind": "simulated", "fails": 1, "body": body})
    page = gate(host, browser, intervention_id)
    typed = in_textarea(page.response, "body")
    assert json.loads(typed) == body
    reason = "\N{GRINNING FACE}" * 4000
    assert "it is what it was" in text(page.send(action="edit", body=typed, reason=reason))
    assert len(page.response.content) < 500_000
    assert confirm(page, change(page, '{"small": 1}', reason=reason)).status_code == 200
    assert ended(client, intervention_id)["output"]["result"] == {"small": 1}


def test_a_body_can_be_taken_away(client: httpx.Client, host: HostProcess, browser: httpx.Client) -> None:
    intervention_id = failed(client, call={"kind": "simulated", "fails": 1, "body": BODY, "result": 7})
    page = gate(host, browser, intervention_id)
    shown = change(page, "null")
    assert "<ins>+ null</ins>" in shown.text
    assert confirm(page, shown).status_code == 200
    assert ended(client, intervention_id)["output"]["result"] == 7
    assert told(client, intervention_id)["call"]["body"] is None


@pytest.mark.parametrize(
    ("typed", "result"), [('{"id": [12, null]}', {"id": [12, None]}), ("", None), (" null ", None), ("false", False)]
)
def test_going_on_without_it_with_a_result_instead(
    client: httpx.Client, host: HostProcess, *, browser: httpx.Client, typed: str, result: Any
) -> None:
    intervention_id = failed(client)
    page = gate(host, browser, intervention_id)
    answer = page.send(action="skip", result=typed, reason="Paid by hand", body="not looked at")
    assert answer.status_code == 200, answer.text
    assert "It goes on without this call" in text(answer)
    output = ended(client, intervention_id)["output"]
    assert (output["status"], output["result"], output["by"]) == ("Skipped", result, ANN)
    assert f"{ANN} let it go on without this call" in text(browser.get(page.link))


def test_a_result_that_cannot_be_is_marked_and_kept(
    client: httpx.Client, host: HostProcess, browser: httpx.Client
) -> None:
    intervention_id = failed(client)
    page = gate(host, browser, intervention_id)
    for typed, message in [("{x", "this is no JSON"), ("[" + "1," * MAX_JSON + "1]", "more than 16,000 characters")]:
        answer = page.send(action="skip", result=typed, reason="Kept")
        assert answer.status_code == 400
        assert '<a href="#result">' in answer.text
        assert message in text(answer)
        assert in_textarea(answer, "result") == typed
    assert not done(client, intervention_id)


def test_the_substitute_of_the_step_is_suggested(
    client: httpx.Client, host: HostProcess, browser: httpx.Client
) -> None:
    intervention_id = hopeless(client, on_deadline="skip", substitute={"id": None})
    page = gate(host, browser, intervention_id).response
    assert "\n{\n  &#34;id&#34;: null\n}</textarea>" in page.text


def test_letting_it_fail(client: httpx.Client, host: HostProcess, browser: httpx.Client) -> None:
    intervention_id = failed(client)
    page = gate(host, browser, intervention_id)
    answer = page.send(action="fail", reason="Not worth it")
    assert "The call has failed for good." in text(answer)
    body = ended(client, intervention_id)
    assert (body["status"], body["runtime_status"]) == ("Failed", "FAILED")
    assert f"{ANN} let it fail" in text(browser.get(page.link))
    assert "Not worth it" in text(browser.get(page.link))
    assert "succeeded" not in text(browser.get(page.link))
    assert "The call has failed for good." in text(page.send(action="fail", reason="Not worth it"))


@pytest.mark.parametrize("action", ["retry", "edit", "skip", "fail"])
def test_whatever_is_done_needs_a_reason(
    client: httpx.Client, host: HostProcess, browser: httpx.Client, action: str
) -> None:
    intervention_id = failed(client)
    page = gate(host, browser, intervention_id)
    for reason, message in [
        (" \r\n", "Reason: say why"),
        ("x" * 4001, "up to 4,000 characters"),
        ("\0", "up to 4,000"),
    ]:
        answer = page.send(action=action, body=FIXED, reason=reason, step="send")
        assert answer.status_code == 400
        assert message in text(answer)
        assert '<a href="#reason">' in answer.text
        assert f'value="{action}" checked' in answer.text
    assert not done(client, intervention_id)


def test_a_form_that_is_sent_as_it_came_changes_nothing(
    client: httpx.Client, host: HostProcess, browser: httpx.Client
) -> None:
    intervention_id = failed(client)
    page = gate(host, browser, intervention_id)
    state = quiet(client, intervention_id)
    answer = page.send(body=json.dumps(BODY), result="", reason="")
    assert answer.status_code == 400
    assert "What is to be done: choose one" in text(answer)
    assert "<title>Error: " in answer.text
    for fields in ({"x": ""}, {"action": "retry", "reason": "No view"}, {"action": "RETRY"}):
        assert browser.post(page.link, data=fields).status_code == 400
    for action in ("", "Retry", "retry ", "resolve", "on"):
        assert page.send(action=action, reason="Because").status_code == 400
    assert raw_state(client, intervention_id) == state


def test_what_the_call_does_not_allow_is_not_offered_and_refused(
    client: httpx.Client, host: HostProcess, browser: httpx.Client
) -> None:
    intervention_id = hopeless(client, editable=False, skippable=False, max_operator_retries=0)
    page = gate(host, browser, intervention_id)
    assert re.findall(r'type="radio"[^>]* value="(\w+)"', page.response.text) == ["fail"]
    assert "<textarea" in page.response.text
    assert 'id="body"' not in page.response.text
    for action, message in [
        ("retry", "it was tried again as often as it may be"),
        ("skip", "this call does not allow that"),
        ("edit", "this call does not allow that"),
    ]:
        answer = page.send(action=action, body=FIXED, reason="Kept", step="send")
        assert answer.status_code == 409
        assert f"What is to be done: {message}" in text(answer)
        assert in_textarea(answer, "reason") == "Kept"
        page = Opened(browser, page.link, answer)
    assert not done(client, intervention_id)
    assert [each["detail"] for each in happened(client, intervention_id, "refused")] == [
        "no_more_retries",
        "not_allowed",
        "not_allowed",
    ]


def test_what_only_the_run_finds_wrong_is_shown_at_the_body(
    client: httpx.Client, host: HostProcess, browser: httpx.Client
) -> None:
    schema = {"type": "object", "properties": {"currency": {"enum": 7}}}  # the API would not have taken it
    given: dict[str, Any] = {
        "name": "charge",
        "call": {"kind": "simulated", "fails": 9, "body": BODY},
        "assigned_to": [ANN],
    }
    given |= {"retry": {"attempts": 1}, "editable": True, "body_schema": schema}
    started = client.post(f"{MANAGEMENT.rpartition('/')[0]}/orchestrators/guarded_call", json=given)
    page = gate(host, browser, started.json()["id"])
    answer = confirm(page, change(page, FIXED))
    assert answer.status_code == 422
    assert "The body: it does not fit the schema of the call" in text(answer)
    assert in_textarea(answer, "body") == FIXED


def test_refusals_that_a_person_can_do_something_about_have_words() -> None:
    known = set(get_args(Refusal))
    assert REFUSALS.keys() <= known
    assert known - REFUSALS.keys() == {"not_assigned", "not_waiting", "old_gate"}


# More than one


def test_a_double_click_is_one_action(client: httpx.Client, host: HostProcess, browser: httpx.Client) -> None:
    intervention_id = hopeless(client)
    page = gate(host, browser, intervention_id)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: page.send(action="retry", reason="once"), range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert all("It is tried again now." in text(answer) for answer in answers)
    gate_link(host, intervention_id, number=2)
    assert done(client, intervention_id) == [("retry", ANN, "link")]
    assert told(client, intervention_id)["failed_attempts"] == 2


def test_of_fifty_that_are_sent_at_once_one_is_done_and_the_others_are_told_whose(
    client: httpx.Client, host: HostProcess
) -> None:
    intervention_id = failed(client, assigned_to=[ANN, CAROL])
    with host.client() as one, host.client() as other:
        browsers = {ANN: one, CAROL: other}
        said = [(ANN, "fail"), (CAROL, "skip")] * 25
        pages = [(gate(host, browsers[who], intervention_id, who), action) for who, action in said]
        with ThreadPoolExecutor(50) as pool:
            answers = list(pool.map(lambda page: page[0].send(action=page[1], reason="First"), pages))
    assert {answer.status_code for answer in answers} == {200}
    assert sum("Thank you" in text(answer) for answer in answers) == 1
    ((action, who, _),) = done(client, intervention_id)
    words = "let it fail" if action == "fail" else "let it go on without this call"
    others = [answer for answer in answers if "Thank you" not in text(answer)]
    assert all(f"{who} {words} on" in text(answer) for answer in others)


def test_somebody_else_was_first(client: httpx.Client, host: HostProcess, browser: httpx.Client) -> None:
    intervention_id = failed(client, assigned_to=[ANN, {"email": CAROL, "name": "Carol Clay"}])
    page = gate(host, browser, intervention_id)
    shown = change(page, FIXED)
    acted = client.post(
        f"/api/interventions/{intervention_id}/skip", json={"by": "Carol Clay", "reason": "I <did>", "result": 1}
    )
    assert acted.status_code == 200, acted.text
    first = browser.get(page.link)
    for answer in (first, confirm(page, shown), page.send(action="retry", reason="Me"), page.send(), change_of(page)):
        assert answer.status_code == 200
        assert "This has been dealt with" in text(answer)
        assert re.search(r"Carol Clay let it go on without this call on \w+day, \d+ \w+ 20\d\d", text(answer))
        assert "The reason: I <did>" in text(answer)
        assert "<form" not in answer.text
    assert len(done(client, intervention_id)) == 1


def change_of(page: Opened) -> httpx.Response:
    """The first step of an edit, whatever comes of it."""
    return page.send(action="edit", body=FIXED, reason="Me")


def test_a_suspended_run_is_handed_what_is_to_be_done(
    client: httpx.Client, host: HostProcess, browser: httpx.Client
) -> None:
    intervention_id = failed(client)
    page = gate(host, browser, intervention_id)
    assert "paused" not in text(page.response)
    client.post(f"{MANAGEMENT}/{intervention_id}/suspend", params={"reason": "wait"})
    until(lambda: told(client, intervention_id)["runtime_status"] == "SUSPENDED")
    answer = page.send(action="skip", reason="Go")
    assert answer.status_code == 202
    assert "It is paused at the moment. What you sent is kept" in text(answer)
    assert "This is paused at the moment" in text(browser.get(page.link))
    client.post(f"{MANAGEMENT}/{intervention_id}/resume", params={"reason": "go"})
    assert ended(client, intervention_id)["status"] == "Skipped"
    assert done(client, intervention_id) == [("skip", ANN, "link")]


def test_a_call_over_http_goes_out_as_it_was_edited_and_while_it_does_the_link_says_so(hosting: Hosting) -> None:
    with failing_server() as server:
        server.answers("/pay", [Reply(402, b'"No EURO here"'), hang()])
        with hosting(CALL_HOSTS=server.host, DECISION_WAIT_SECONDS="5") as (host, client):
            headers = {"Authorization": "Bearer s3cret"}
            call = {"kind": "http", "url": server.url("/pay"), "headers": headers, "body": BODY, "timeout": 2}
            intervention_id = failed(client, call=call)
            with host.client() as browser:
                page = gate(host, browser, intervention_id)
                for word in (f"POST {server.url('/pay')}", "answered 402", "No EURO here", "Authorization"):
                    assert word in text(page.response), word
                assert "s3cret" not in page.response.text
                assert "with the changed body" in text(confirm(page, change(page, FIXED)))
                until(lambda: len(server.requests) == 2)
                assert "It is being tried again." in text(browser.get(page.link))
            gate_link(host, intervention_id, number=2)
        bodies = [json.loads(each.body) for each in server.requests]
        assert bodies == [BODY, json.loads(FIXED)]
        assert [each.headers["Authorization"] for each in server.requests] == ["Bearer s3cret"] * 2


def test_two_tabs_of_one_gate_do_one_thing(client: httpx.Client, host: HostProcess, browser: httpx.Client) -> None:
    intervention_id = failed(client, call={"kind": "simulated", "fails": 1, "body": BODY})
    link = gate_link(host, intervention_id)
    first, second = opened(browser, link), opened(browser, link)
    assert "Set-Cookie" in first.response.headers
    assert "Set-Cookie" not in second.response.headers
    assert first.view != second.view
    assert "It is tried again now." in text(first.send(action="retry", reason="One"))
    late = second.send(action="retry", reason="Two")
    assert late.status_code == 200
    assert f"{ANN} tried it again" in text(late)
    assert "Thank you" not in text(late)
    assert done(client, intervention_id) == [("retry", ANN, "link")]


def test_an_earlier_change_is_shown_at_the_next_gate(
    client: httpx.Client, host: HostProcess, browser: httpx.Client
) -> None:
    intervention_id = failed(client)
    page = gate(host, browser, intervention_id)
    confirm(page, change(page, json.dumps(BODY | {"currency": "DM"}), reason="Guessed"))
    second = opened(browser, gate_link(host, intervention_id, number=2))
    assert "<del>-   &#34;currency&#34;: &#34;EURO&#34;,</del>" in second.response.text
    assert "<ins>+   &#34;currency&#34;: &#34;DM&#34;,</ins>" in second.response.text
    assert "Guessed" in text(second.response)
    # What is changed now is held against the body of today, not against the first one.
    assert "it is what it was" in text(
        second.send(action="edit", body=json.dumps(BODY | {"currency": "DM"}), reason="x")
    )
    shown = change(second, FIXED)
    assert "&#34;DM&#34;,</del>" in shown.text
    assert "EURO" not in shown.text
    assert confirm(second, shown).status_code == 200
    assert ended(client, intervention_id)["status"] == "Succeeded"


# Forms from elsewhere


def test_without_the_cookie_of_the_page_nothing_is_taken_and_nothing_lost(
    client: httpx.Client, host: HostProcess, browser: httpx.Client
) -> None:
    intervention_id = failed(client)
    page = gate(host, browser, intervention_id)
    shown = change(page, FIXED, reason="It is old")
    state = quiet(client, intervention_id)
    fields = hidden(shown) | {"step": "send"}
    for cookie in ("", "x", "A" * 32, "A" * 33, '"', "countersign=1"):
        browser.cookies.clear()
        for given in (fields, {"view": page.view, "action": "fail", "reason": "It is old", "body": FIXED}):
            headers = {"Cookie": f"countersign_browser={cookie}"}
            answer = browser.post(page.link, data=given, headers=headers)
            assert answer.status_code == 400
            assert "open for too long" in text(answer)
            assert in_textarea(answer, "reason") == "It is old"
            assert in_textarea(answer, "body") == FIXED
            assert re.search(rf'value="{given["action"]}" checked', answer.text)
    assert raw_state(client, intervention_id) == state
    browser.cookies.clear()
    again = Opened(browser, page.link, browser.post(page.link, data=fields))
    assert confirm(page, change(again, FIXED)).status_code == 200
    assert len(done(client, intervention_id)) == 1


def test_a_form_is_good_for_its_own_link_alone(client: httpx.Client, host: HostProcess, browser: httpx.Client) -> None:
    intervention_id = failed(client, assigned_to=[ANN, CAROL])
    anns = gate(host, browser, intervention_id)
    carols = gate(host, browser, intervention_id, CAROL)
    vote = opened(browser, link_to(host, asked(client), BOB))
    said = {"action": "fail", "reason": "No"}
    assert browser.post(carols.link, data={"view": anns.view, **said}).status_code == 400
    for view in ("", "x", anns.view[:-1], anns.view + "A", vote.view, anns.link.rpartition("/")[2]):
        assert browser.post(anns.link, data={"view": view, **said}).status_code == 400
    assert not done(client, intervention_id)


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "{own}"},
        {"Origin": "https://evil.example"},
        {"Origin": "{own}.evil.example"},
    ],
)
def test_a_form_from_elsewhere_is_refused_at_both_steps(
    client: httpx.Client, host: HostProcess, browser: httpx.Client, headers: dict[str, str]
) -> None:
    intervention_id = failed(client)
    page = gate(host, browser, intervention_id)
    sent = {name: value.format(own=host.url) for name, value in headers.items()}
    assert_says_nothing(page.send_from(sent, action="retry", reason="Prize"), 403)
    shown = change(page, FIXED)
    assert_says_nothing(browser.post(page.link, data=hidden(shown) | {"step": "send"}, headers=sent), 403)
    assert not done(client, intervention_id)


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", b'{"action": "fail"}', 415),
        ("text/plain", b"action=fail", 415),
        ("", b"action=fail", 415),
        ("application/x-www-form-urlencoded", b"action=fail&action=retry", 400),
        ("application/x-www-form-urlencoded", b"reason=%ff", 400),
        ("application/x-www-form-urlencoded", b"reason=" + b"a" * 300_000, 413),
    ],
)
def test_what_no_page_sends_is_refused(
    client: httpx.Client, host: HostProcess, *, browser: httpx.Client, kind: str, body: bytes, status: int
) -> None:
    page = gate(host, browser, failed(client))
    assert_says_nothing(browser.post(page.link, content=body, headers={"Content-Type": kind}), status)


# Links that are none


def test_tampered_links_and_those_of_the_other_page_are_401(
    client: httpx.Client, host: HostProcess, browser: httpx.Client
) -> None:
    page = gate(host, browser, failed(client))
    token = page.link.rpartition("/")[2]
    vote = link_to(host, asked(client), BOB).rpartition("/")[2]
    for wrong in (token[:-1], token + "A", token[1:], token.swapcase(), "x", "a" * 5000, page.view, vote):
        answers = [browser.get(f"/intervene/{wrong}"), browser.post(f"/intervene/{wrong}", data={"action": "fail"})]
        for answer in answers:
            assert_says_nothing(answer, 401)
    assert browser.get(f"/approve/{token}").status_code == 401
    assert browser.get(f"/approve/{vote}").status_code == 200


def test_a_common_mail_goes_out_where_nobody_is_named(
    client: httpx.Client, host: HostProcess, browser: httpx.Client
) -> None:
    intervention_id = failed(client, assigned_to=[])
    page = gate(host, browser, intervention_id, "operators@example.com")
    page.send(action="skip", reason="As agreed")
    assert done(client, intervention_id) == [("skip", "operators@example.com", "link")]


# The end


@pytest.mark.parametrize(("on_deadline", "words"), [("fail", "the call has failed"), ("skip", "it went on without")])
def test_after_the_time_is_up_it_is_refused_and_kept_as_late(
    client: httpx.Client, host: HostProcess, *, browser: httpx.Client, on_deadline: str, words: str
) -> None:
    intervention_id = failed(client, deadline=3 / 3600, on_deadline=on_deadline)
    page = gate(host, browser, intervention_id)
    ended(client, intervention_id)
    late = browser.get(page.link)
    assert late.status_code == 410
    assert f"The time was up, and {words}" in text(late)
    assert page.send().status_code == 410
    assert not happened(client, intervention_id, "late")
    answer = page.send(action="retry", reason="Please!")
    assert answer.status_code == 410
    assert "<form" not in answer.text
    notes = until(lambda: happened(client, intervention_id, "late"))
    assert [(each["actor"], each["comment"], each["channel"]) for each in notes] == [(ANN, "Please!", "link")]


def test_those_it_is_escalated_to_get_a_link_and_the_old_ones_stay_good(
    client: httpx.Client, host: HostProcess, browser: httpx.Client
) -> None:
    intervention_id = failed(client, deadline=3 / 3600, on_deadline="escalate", escalate_to=[CAROL])
    page = gate(host, browser, intervention_id)
    carols = gate_link(host, intervention_id, CAROL)
    (mail,) = mails_to(host, intervention_id, CAROL)
    assert mail["Subject"] == "Escalated to you, please look: charge failed"
    carols_page = opened(browser, carols)
    assert "Then it fails." in text(carols_page.response)
    assert carols_page.send(action="skip", reason="Mine").status_code == 200
    assert f"{CAROL} let it go on" in text(page.send(action="retry", reason="Mine"))


def test_a_terminated_run(client: httpx.Client, host: HostProcess, browser: httpx.Client) -> None:
    intervention_id = failed(client)
    page = gate(host, browser, intervention_id)
    client.post(f"{MANAGEMENT}/{intervention_id}/terminate", params={"reason": "over"})
    ended(client, intervention_id)
    assert_says_nothing(browser.get(page.link), 410)
    assert_says_nothing(page.send(action="retry", reason="Go"), 410)


def test_another_run_of_the_same_id_and_one_that_is_gone(
    client: httpx.Client, host: HostProcess, browser: httpx.Client
) -> None:
    intervention_id = failed(client, intervention_id="gate-again-1")
    page = gate(host, browser, intervention_id)
    client.post(f"{MANAGEMENT}/{intervention_id}/terminate", params={"reason": "over"})
    ended(client, intervention_id)
    client.delete(f"{MANAGEMENT}/{intervention_id}").raise_for_status()
    assert_says_nothing(browser.get(page.link), 410)
    failed(client, intervention_id="gate-again-1")
    gate_link(host, intervention_id, number=2)
    assert_says_nothing(browser.get(page.link), 410)
    assert_says_nothing(page.send(action="retry", reason="Go"), 410)
    assert not done(client, intervention_id)


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        ("UPDATE record SET body = replace(body, 'charge failed', 'nothing failed') WHERE partition = ?", "shown:{}"),
        ("DELETE FROM record WHERE partition = ? AND key LIKE '%|call|%'", "document:{}"),
        ("UPDATE record SET body = '{}' WHERE partition = ? AND key LIKE '%|call|%'", "document:{}"),
        (
            "UPDATE record SET body = replace(body, 'order-7', 'order-8') WHERE partition = ? AND key LIKE '%|call|%'",
            "document:{}",
        ),
    ],
)
def test_what_was_changed_in_the_store_is_not_shown(
    client: httpx.Client, host: HostProcess, *, browser: httpx.Client, statement: str, values: str
) -> None:
    intervention_id = failed(client)
    page = gate(host, browser, intervention_id)
    with closing(sqlite3.connect(host.data / "records.db", timeout=10)) as store, store:
        changed = store.execute(statement, (values.format(intervention_id),))
        assert changed.rowcount == 1
    assert_says_nothing(browser.get(page.link), 410)
    assert_says_nothing(page.send(action="retry", reason="Go"), 410)
    assert not done(client, intervention_id)


def test_of_many_attempts_the_newest_are_shown(client: httpx.Client, host: HostProcess, browser: httpx.Client) -> None:
    quick = {"attempts": 20, "first_interval": 0.01, "max_interval": 0.01}
    intervention_id = hopeless(client, retry=quick)
    for number in (1, 2):
        page = opened(browser, gate_link(host, intervention_id, number=number))
        assert "The newest" not in text(page.response)
        page.send(action="retry", reason="Once more")
    page = opened(browser, gate_link(host, intervention_id, number=3))
    assert "Attempts that failed: 60" in text(page.response)
    assert "The newest 50 of them." in text(page.response)
    assert re.findall(r"<strong>(\d+)\.</strong>", page.response.text) == [str(number) for number in range(11, 61)]


def test_an_attempt_that_was_changed_in_the_store_is_left_out(
    client: httpx.Client, host: HostProcess, browser: httpx.Client
) -> None:
    intervention_id = failed(client)
    page = gate(host, browser, intervention_id)
    with closing(sqlite3.connect(host.data / "records.db", timeout=10)) as store, store:
        changed = store.execute(
            "UPDATE record SET body = replace(body, 'problem', 'x') WHERE partition = ? AND key LIKE '%|attempt|%'",
            (f"document:{intervention_id}",),
        )
        assert changed.rowcount == 1
    again = browser.get(page.link)
    assert again.status_code == 200
    assert "Attempts that failed" not in text(again)


def test_the_tenth_body_is_shown_as_the_first_is(
    client: httpx.Client, host: HostProcess, browser: httpx.Client
) -> None:
    intervention_id = failed(client, max_operator_retries=20)
    for number in range(1, 11):
        until(lambda number=number: gate_of(client, intervention_id) == number)  # type: ignore[misc]
        said = {"by": ANN, "reason": "another", "body": {"currency": f"X{number}"}, "gate": number}
        assert client.post(f"/api/interventions/{intervention_id}/edit", json=said).status_code == 200
    response = browser.get(gate_link(host, intervention_id, number=11))
    assert response.status_code == 200
    assert "X10" in response.text
    assert "X9" in response.text, "as the old one in the change of the last edit"


def gate_of(client: httpx.Client, intervention_id: str) -> int:
    """The number of the gate."""
    gate = client.get(f"/api/interventions/{intervention_id}").json()["gate"]
    return int(gate["number"]) if gate is not None and gate["actions"] else 0
