"""The outbox: the mails of the folder, as a browser sees them."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.api.test_vote_page import BOB, CAROL, asked, link_to, opened, text
from tests.hosting import HostProcess, host_process

HOSTILE = b"""\
From: a@example.com
To: "<script>alert(1)</script>" <b@example.com>
Subject: <script>alert(2)</script>
Date: Sat, 21 Nov 2026 12:00:00 +0000
Message-ID: <hostile@example.com>
MIME-Version: 1.0
Content-Type: multipart/alternative; boundary="x"

--x
Content-Type: text/plain; charset=utf-8

<script>alert(3)</script>
http://evil.example/approve/x and javascript:alert(4)
{own}/approve/abc.def-_"onclick=alert(5)
{own}.evil.example/approve/x
--x
Content-Type: text/html; charset=utf-8

<html><HEAD lang="en"></HEAD>
<body><script>alert(6)</script><form action="{own}/approve/x" method="post"></form></body></html>
--x--
"""


@pytest.fixture
def browser(host: HostProcess) -> Iterator[httpx.Client]:
    """A browser without cookies."""
    with host.client() as client:
        yield client


def mails(client: httpx.Client) -> list[tuple[str, str]]:
    """The address and the words of each mail in the list."""
    page = client.get("/outbox").raise_for_status()
    items = re.findall(r"<li>(.*?)</li>", page.text, re.DOTALL)
    found = [(re.search(r'href="([^"]+)"', item), item) for item in items]
    return [(match[1], re.sub(r"<[^>]+>", " ", item)) for match, item in found if match is not None]


def test_the_whole_way_from_the_outbox_to_the_vote(
    client: httpx.Client, host: HostProcess, browser: httpx.Client
) -> None:
    request_id = asked(client, title="Way through the outbox")
    link_to(host, request_id, BOB)
    link_to(host, request_id, CAROL)
    listed = [(address, words) for address, words in mails(browser) if "Way through the outbox" in words]
    assert {person for person in (BOB, CAROL) for _, words in listed if person in words} == {BOB, CAROL}
    address = next(address for address, words in listed if BOB in words)
    mail = browser.get(address)
    assert mail.status_code == 200
    link = re.search(r'<a href="([^"]+/approve/[^"]+)">', mail.text)
    assert link is not None
    assert link[1] == link_to(host, request_id, BOB)
    assert opened(browser, link[1]).send(vote="approve").status_code == 200


def test_the_newest_mail_is_the_first(client: httpx.Client, host: HostProcess, browser: httpx.Client) -> None:
    for title in ("The older one", "The newer one"):
        link_to(host, asked(client, title=title, approvers=[BOB]), BOB)
    words = [words for _, words in mails(browser) if " one" in words]
    assert "The newer one" in words[0]
    assert "The older one" in words[1]


def test_the_html_of_a_mail_can_do_nothing_but_open_links_at_the_top(
    client: httpx.Client, host: HostProcess, browser: httpx.Client
) -> None:
    request_id = asked(client, title="Framed")
    link_to(host, request_id, BOB)
    address = next(address for address, words in mails(browser) if "Framed" in words and BOB in words)
    page = browser.get(address)
    assert "frame-src 'self'" in page.headers["Content-Security-Policy"]
    assert "script-src" not in page.headers["Content-Security-Policy"]
    frame = re.search(r'<iframe src="([^"]+)"[^>]* sandbox="([^"]+)"', page.text)
    assert frame is not None
    assert set(frame[2].split()) == {
        "allow-popups",
        "allow-popups-to-escape-sandbox",
        "allow-top-navigation-by-user-activation",
    }
    part = browser.get(frame[1])
    assert part.headers["Content-Type"] == "text/html; charset=utf-8"
    assert part.headers["Content-Security-Policy"] == (
        "sandbox allow-popups allow-popups-to-escape-sandbox allow-top-navigation-by-user-activation; "
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; frame-ancestors 'self'"
    )
    assert part.headers["Cache-Control"] == "no-store"
    assert re.search(r'<head><base target="_top">', part.text)
    assert link_to(host, request_id, BOB) in part.text
    raw = browser.get(f"{address}?part=raw")
    assert raw.headers["Content-Type"].startswith("message/rfc822")
    assert raw.headers["X-Content-Type-Options"] == "nosniff"
    assert raw.content.startswith(b"From: ") or b"\nFrom: " in raw.content


def test_a_hostile_mail_is_text_and_only_links_to_this_app_are_links(host: HostProcess, browser: httpx.Client) -> None:
    folder = host.data / "outbox"
    folder.mkdir(exist_ok=True)
    file = folder / "hostile.eml"
    file.write_bytes(HOSTILE.replace(b"{own}", host.url.encode()))
    try:
        address = next(address for address, words in mails(browser) if "alert(2)" in words)
        page = browser.get(address)
        listed = browser.get("/outbox")
        part = browser.get(f"{address}?part=html")
    finally:
        file.unlink()
    for shown in (listed, page):
        assert "<script" not in shown.text
        assert "onclick=alert(5)</a>" not in shown.text
    assert "alert(3)" in text(page)
    links = re.findall(r"<pre[^>]*>.*?</pre>", page.text, re.DOTALL)[0]
    assert re.findall(r'<a href="([^"]+)"', links) == [f"{host.url}/approve/abc.def-_"]
    assert re.search(r'<HEAD lang="en"><base target="_top">', part.text)


@pytest.mark.parametrize("path", ["x", "..%2f..%2fkeys.json", "%00", "hostile.eml", "a" * 3000])
def test_a_mail_that_is_not_there_is_404(client: httpx.Client, browser: httpx.Client, path: str) -> None:
    for part in ("", "?part=html", "?part=raw", "?part=other"):
        answer = browser.get(f"/outbox/{path}{part}")
        assert answer.status_code == 404
        assert "<h1>There is nothing here</h1>" in answer.text


def test_another_part_of_a_mail_is_404(client: httpx.Client, host: HostProcess, browser: httpx.Client) -> None:
    link_to(host, asked(client, title="Parts"), BOB)
    address = next(address for address, words in mails(browser) if "Parts" in words)
    assert browser.get(address).status_code == 200
    assert browser.get(f"{address}?part=other").status_code == 404


def test_looking_is_all_that_can_be_done(browser: httpx.Client) -> None:
    assert browser.head("/outbox").status_code == 200
    for method in ("POST", "PUT", "DELETE"):
        assert browser.request(method, "/outbox").status_code == 404


def test_there_is_no_outbox_where_mail_is_sent_and_none_on_azure(tmp_path: Path) -> None:
    data = tmp_path / "data"
    smtp = {"MAIL": "smtp", "SMTP_HOST": "127.0.0.1", "SMTP_SECURITY": "none"}
    with host_process(data, environment=smtp) as host, host.client() as client:
        (data / "outbox").mkdir(exist_ok=True)
        (data / "outbox" / "hostile.eml").write_bytes(HOSTILE)
        for path in ("/outbox", "/outbox/x", "/outbox/x?part=raw"):
            answer = client.get(path)
            assert answer.status_code == 404
            assert "hostile" not in answer.text


def test_where_keys_are_asked_for_the_outbox_asks_too_and_the_pages_of_links_do_not(tmp_path: Path) -> None:
    with host_process(tmp_path / "data", environment={"AUTH": "keys"}) as host, host.client() as client:
        starter, admin = host.key("alice", "execution:start"), host.key("root", "approval:admin")
        for path in ("/outbox", "/outbox/x"):
            for auth in (None, ("alice", "wrong"), (admin, "")):
                answer = client.get(path, auth=auth)
                assert answer.status_code == 401
                assert answer.headers["WWW-Authenticate"] == 'Basic realm="countersign", charset="UTF-8"'
                assert "Please say who you are" in answer.text
            assert client.get(path, auth=("alice", starter)).status_code == 403
        with httpx.Client(base_url=host.url, headers={"Authorization": f"Bearer {starter}"}, trust_env=False) as keyed:
            request_id = asked(keyed)
        link = link_to(host, request_id, BOB)
        browser = httpx.BasicAuth("whoever", admin)
        page = client.get("/outbox", auth=browser)
        assert (page.status_code, client.head("/outbox", auth=browser).status_code) == (200, 200)
        addresses = re.findall(r'<li><a href="([^"]+)"', page.text)
        mail = client.get(addresses[0], auth=browser)
        assert mail.status_code == 200
        frame = re.search(r'<iframe src="([^"]+)"', mail.text)
        assert frame is not None
        assert client.get(frame[1].replace("&amp;", "&"), auth=browser).status_code == 200
        assert client.get("/outbox/x", auth=browser).status_code == 404
        page = opened(client, link).response
        assert admin not in page.text
        sheet = re.search(r'href="(/static/[^"]+)"', page.text)
        assert sheet is not None
        assert client.get(sheet[1]).status_code == 200
