"""The approval as people do it: from the outbox over the mail to the page, and back to the old link."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.api.test_vote_page import BOB, CAROL, asked, code_in, history, link_to, mails_to, story
from tests.browser.conftest import OpenWindow
from tests.hosting import HostProcess
from tests.polling import until

PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "has_touch": True}
DESK: dict[str, Any] = {"viewport": {"width": 1200, "height": 900}}
RICH: dict[str, Any] = {
    "requester": "Alice Fairweather",
    "title": "A new laptop for the workshop",
    "item": "Laptop, third kind",
    "description": "The old one is five years old.\nIt does not start any more when it is cold.",
    "details": {
        "price": 1249.9,
        "currency": "EUR",
        "urgent": True,
        "budget": {"cost center": "4711", "left": 8000},
        "offers": [{"shop": "One", "price": 1249.9}, {"shop": "Two", "price": 1300}],
        "link": "https://shop.example/laptops/" + "a-very-long-address-" * 6,
        "note": None,
    },
    "form": {
        "type": "object",
        "properties": {
            "cost_center": {"type": "string", "title": "Cost center", "description": "Four digits"},
            "amount": {"type": "number", "title": "Amount", "default": 1249.9},
            "urgent": {"type": "boolean", "title": "It is urgent", "description": "Then it comes by courier."},
            "color": {"enum": ["gray", "black"], "title": "Color"},
            "by": {"type": "string", "format": "date", "title": "Needed by"},
            "notes": {"type": "string", "maxLength": 2000, "title": "Notes"},
        },
        "required": ["cost_center"],
    },
    "second_factor": "mail_code",
}
WORST_CONTRAST = """() => {
  const parse = (text) => { const n = text.match(/[0-9.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
  const light = (c) => { const s = c / 255; return s <= 0.03928 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4; };
  const luminance = ([r, g, b]) => 0.2126 * light(r) + 0.7152 * light(g) + 0.0722 * light(b);
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const color = parse(getComputedStyle(each).backgroundColor);
      if (color[3] > 0) return color;
    }
    return [255, 255, 255, 1];
  };
  let worst = [21, ""];
  for (const element of document.body.querySelectorAll("*")) {
    const isField = element.matches("input:not([type=hidden], [type=radio], [type=checkbox]), textarea, select");
    const hasText = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!element.checkVisibility() || (!isField && !hasText)) continue;
    const one = luminance(parse(getComputedStyle(element).color)), other = luminance(behind(element));
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (ratio < worst[0]) worst = [ratio, element.outerHTML.slice(0, 200)];
  }
  return worst;
}"""
"""The least contrast of text on a page, as WCAG reckons it, and where it is."""


def open_mail(page: Page, host: HostProcess, *, subject: str, to: str) -> None:
    """Go to the outbox and open a mail."""
    page.goto(f"{host.url}/outbox")
    page.get_by_role("listitem").filter(has_text=subject).filter(has_text=to).get_by_role("link").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(subject)
    expect(page.frame_locator("iframe").get_by_role("link")).to_be_visible()


def follow_link(page: Page) -> str:
    """Follow the link in the mail as it looks, and give its address."""
    page.frame_locator("iframe").get_by_role("link").click()
    page.wait_for_url("**/approve/**")
    return page.url


def approve_by_keyboard(page: Page, comment: str) -> None:
    """Press keys only, from the top of the page to its end."""
    page.keyboard.press("Tab")
    expect(page.get_by_role("radio", name="Approve")).to_be_focused()
    page.keyboard.press("Space")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Comment")).to_be_focused()
    page.keyboard.type(comment)
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Send")).to_be_focused()
    page.keyboard.press("Enter")


def sees(page: Page, *words: str) -> None:
    """Check that the page says this."""
    for word in words:
        expect(page.get_by_role("main")).to_contain_text(word)


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without scripts"])
def test_two_people_approve_from_the_outbox(
    client: httpx.Client, host: HostProcess, window: OpenWindow, scripts: bool
) -> None:
    subject = f"Laptop, scripts {scripts}"
    request_id = asked(client, title=subject, reminders={"every": 1})
    link_to(host, request_id, BOB)
    link_to(host, request_id, CAROL)

    page = window(java_script_enabled=scripts)
    open_mail(page, host, subject=subject, to=BOB)
    bobs = follow_link(page)
    assert bobs == link_to(host, request_id, BOB)
    sees(page, "Alice asks for your approval", subject, "To be decided by")
    approve_by_keyboard(page, "Fine by me")
    sees(page, "Thank you", "You have said: approve.", "Fine by me", "It is not decided yet.")
    page.goto(bobs)
    sees(page, "You have said approve. You can say something else until it is decided.")

    other = window(java_script_enabled=scripts)
    open_mail(other, host, subject=subject, to=CAROL)
    carols = follow_link(other)
    approve_by_keyboard(other, "By me too")
    sees(other, "Thank you", "the request is approved")
    for link in (carols, bobs):
        other.goto(link)
        sees(other, "This has been decided", f"{CAROL} approved it on")
        expect(other.get_by_role("button")).to_have_count(0)

    told = until(lambda: (told := story(client, request_id))["output"] and told)
    assert told["status"] == "Approved"
    actions = [(each["action"], each.get("actor")) for each in told["history"] if each["action"] in ("asked", "voted")]
    assert actions == [("asked", None), ("voted", BOB), ("voted", CAROL)]


def test_the_link_in_the_plain_text_works_too(client: httpx.Client, host: HostProcess, window: OpenWindow) -> None:
    request_id = asked(client, title="As plain text")
    link_to(host, request_id, BOB)
    page = window()
    open_mail(page, host, subject="As plain text", to=BOB)
    page.locator("pre").get_by_role("link").click()
    page.wait_for_url("**/approve/**")
    sees(page, "Alice asks for your approval")


def test_what_is_wrong_is_said_first_and_leads_to_where_it_is(
    client: httpx.Client, host: HostProcess, window: OpenWindow
) -> None:
    request_id = asked(client, require_comment_on=["reject"])
    page = window()
    page.goto(link_to(host, request_id, BOB))
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("alert")).to_be_focused()
    assert page.title().startswith("Error: ")
    page.get_by_role("link", name="What you say: choose one").click()
    expect(page.get_by_role("radio", name="Approve")).to_be_focused()
    page.get_by_role("radio", name="Reject").check()
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("radio", name="Reject")).to_be_checked()
    page.get_by_role("link", name="Comment: it is needed").click()
    comment = page.get_by_label("Comment")
    expect(comment).to_be_focused()
    expect(comment).to_have_accessible_description("Needed to reject, request changes. it is needed for this choice")
    page.keyboard.type("Too dear")
    page.get_by_role("button", name="Send").click()
    sees(page, "Thank you", "Too dear")
    assert [each["comment"] for each in history(client, request_id, "voted")] == ["Too dear"]


def test_the_address_is_asked_for_when_it_is_handed_over(
    client: httpx.Client, host: HostProcess, window: OpenWindow
) -> None:
    page = window(java_script_enabled=False)
    page.goto(link_to(host, asked(client), BOB))
    expect(page.get_by_label("To whom?")).to_be_hidden()
    page.get_by_role("radio", name="Hand over to somebody else").check()
    page.get_by_label("To whom?").fill("dave@example.com")
    page.get_by_role("button", name="Send").click()
    sees(page, "You have handed this over to dave@example.com")


def test_tabs_that_were_opened_from_another_site_are_all_good(
    client: httpx.Client, host: HostProcess, window: OpenWindow
) -> None:
    request_id = asked(client, title="Two tabs")
    link_to(host, request_id, BOB)
    page = window()
    elsewhere = HostProcess(host.process, host.url.replace("127.0.0.1", "localhost"), host.data, host.log)
    tabs = [page, page.context.new_page()]
    for tab in tabs:
        open_mail(tab, elsewhere, subject="Two tabs", to=BOB)
        assert follow_link(tab).startswith(host.url)
    for tab, choice in zip(tabs, ("Abstain", "Approve"), strict=True):
        tab.get_by_role("radio", name=choice).check()
        tab.get_by_role("button", name="Send").click()
        sees(tab, "Thank you")
    assert [each["detail"] for each in history(client, request_id, "voted")] == ["abstain", "approve"]


def test_a_page_of_another_site_cannot_send_the_form(
    client: httpx.Client, host: HostProcess, window: OpenWindow
) -> None:
    request_id = asked(client)
    page = window()
    link = link_to(host, request_id, BOB)
    page.goto(link)
    nonce = page.locator("input[name=view]").get_attribute("value")
    page.goto("about:blank")
    page.set_content(
        f'<form method="post" action="{link}"><input name="view" value="{nonce}"><input name="vote" value="approve">'
        "<button>Win a prize</button></form>"
    )
    page.get_by_role("button").click()
    sees(page, "This did not come from the page behind the link.")
    assert not history(client, request_id, "voted")


def test_the_code_and_the_form(client: httpx.Client, host: HostProcess, window: OpenWindow) -> None:
    request_id = asked(client, **RICH | {"policy": "any"})
    link = link_to(host, request_id, BOB)
    page = window()
    page.goto(link)
    page.get_by_role("radio", name="Approve").check()
    page.get_by_label("Amount").fill("much")
    page.get_by_role("checkbox", name="It is urgent").check()
    page.get_by_label("Color").select_option("black")
    page.get_by_label("Needed by").fill("2026-12-24")
    page.get_by_role("button", name="Send").click()
    sees(page, "Amount: type a number", "Code: type the six digits")
    expect(page.get_by_label("Amount")).to_have_value("much")
    page.get_by_label("Amount").fill("1300")
    page.get_by_label("Cost center").fill("4711")
    page.get_by_label("Code from the mail").fill(code_in(mails_to(host, request_id, BOB)[0]))
    page.get_by_role("button", name="Send").click()
    sees(page, "the request is approved")
    told = until(lambda: (told := story(client, request_id))["output"] and told)
    assert told["output"]["votes"][0]["answers"] == {
        "cost_center": "4711",
        "amount": 1300,
        "urgent": True,
        "color": "black",
        "by": "2026-12-24",
    }


@pytest.mark.parametrize(
    ("size", "options", "scheme"), [("phone", PHONE, "dark"), ("desk", DESK, "light")], ids=["phone", "desk"]
)
def test_every_page_fits_and_can_be_read(
    client: httpx.Client,
    host: HostProcess,
    *,
    window: OpenWindow,
    picture: Callable[[Page, str], None],
    scheme: str,
    size: str,
    options: dict[str, Any],
) -> None:
    page = window(color_scheme=scheme, **options)

    def look(name: str) -> None:
        picture(page, f"{size}-{scheme}-{name}")
        wide, room = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert wide <= room, name
        contrast, where = page.evaluate(WORST_CONTRAST)
        assert contrast >= 4.5, (name, where)

    request_id = asked(client, **RICH)
    link = link_to(host, request_id, BOB)
    open_mail(page, host, subject=RICH["title"], to=BOB)
    look("2-mail")
    page.goto(link)
    look("3-asked")
    page.get_by_role("radio", name="Hand over").check()
    page.get_by_label("Amount").fill("much")
    page.get_by_role("button", name="Send").click()
    look("4-wrong")
    page.get_by_role("radio", name="Approve").check()
    page.get_by_role("checkbox").check()
    page.get_by_role("button", name="Send").click()
    look("5-wrong-again")
    page.get_by_label("Amount").fill("1")
    page.get_by_label("Cost center").fill("4711")
    page.get_by_label("Comment").fill("Take the black one.\nIt is on sale.")
    page.get_by_label("Code").fill(code_in(mails_to(host, request_id, BOB)[0]))
    page.get_by_role("button", name="Send").click()
    sees(page, "Thank you")
    look("6-thanks")
    client.post(f"/api/approvals/{request_id}", json={"approver": CAROL, "is_approved": False, "comments": "No"})
    page.goto(link)
    sees(page, "This has been decided")
    look("7-decided")
    page.goto(link[:-1])
    sees(page, "This link is not valid")
    look("8-refused")
    page.goto(f"{host.url}/outbox")
    look("1-outbox")
