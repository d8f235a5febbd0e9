"""A call that has failed, as people deal with it: from the outbox over the mail to the page, a change, and the end."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.api.test_gate_page import ANN, BODY, SCHEMA, done, ended, failed, gate_link, hopeless
from tests.browser.conftest import OpenWindow
from tests.browser.test_approval_in_a_browser import DESK, PHONE, WORST_CONTRAST, open_mail, sees
from tests.hosting import HostProcess

RICH: dict[str, Any] = {
    "name": "Pay back the customer, order 4711",
    "call": {
        "kind": "simulated",
        "fails": 3,
        "body": {
            "order": "4711",
            "amount": 1249.9,
            "currency": "EURO",
            "lines": [{"what": "Laptop, third kind", "price": 1249.9, "returned": True}],
            "callback": "https://shop.example/refunds/" + "a-very-long-address-" * 8,
            "note": None,
        },
    },
    "schema": SCHEMA,
}


def follow_link(page: Page) -> str:
    """Follow the link in the mail as it looks, and give its address."""
    page.frame_locator("iframe").get_by_role("link").click()
    page.wait_for_url("**/intervene/**")
    return page.url


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without scripts"])
def test_a_failed_call_is_changed_and_tried_again_from_the_outbox(
    client: httpx.Client, host: HostProcess, window: OpenWindow, scripts: bool
) -> None:
    name = f"charge, scripts {scripts}"
    intervention_id = failed(client, name=name, schema=SCHEMA)
    gate_link(host, intervention_id)

    page = window(java_script_enabled=scripts)
    open_mail(page, host, subject=f"{name} failed", to=ANN)
    link = follow_link(page)
    assert link == gate_link(host, intervention_id)
    sees(page, f"Part of {intervention_id}", f"{name} failed", "It waits until", "Then it fails.")
    expect(page.get_by_label("The body", exact=True)).to_be_hidden()
    expect(page.get_by_label("The result instead", exact=True)).to_be_hidden()
    page.get_by_text("Attempts that failed: 1").click()
    sees(page, "answered 422")

    page.get_by_role("radio", name="Change the body and try again").check()
    body = page.get_by_label("The body", exact=True)
    body.fill(body.input_value().replace("EURO", "GBP"))
    page.get_by_label("Reason").fill("The bank says so")
    page.get_by_role("button", name="Send").click()
    sees(page, "currency: 'GBP' is not one of ['EUR', 'USD']")
    expect(page.get_by_label("Reason")).to_have_value("The bank says so")
    body.fill(body.input_value().replace("GBP", "EUR"))
    page.get_by_role("button", name="Send").click()

    sees(page, "Is this what you want to send?", '- "currency": "EURO",', '+ "currency": "EUR",', "The bank says so")
    assert not done(client, intervention_id)
    page.get_by_role("button", name="Go back and change it").click()
    expect(body).to_have_value(FIXED_AS_TYPED)
    page.get_by_role("button", name="Send").click()
    page.get_by_role("button", name="Send it, and try again").click()
    sees(page, "Thank you", "It is tried again now, with the changed body.", "The bank says so")
    assert ended(client, intervention_id)["status"] == "Succeeded"
    page.get_by_role("link", name="See how it goes on").click()
    sees(page, "This has been dealt with", f"{ANN} changed the body and tried it again on", "It has succeeded since.")
    page.goto(link)
    sees(page, "This has been dealt with")
    expect(page.get_by_role("button")).to_have_count(0)
    assert done(client, intervention_id) == [("edit", ANN, "link")]


FIXED_AS_TYPED = '{\n  "amount": 12.5,\n  "currency": "EUR",\n  "for": "order-7"\n}'


def test_the_link_in_the_plain_text_works_too(client: httpx.Client, host: HostProcess, window: OpenWindow) -> None:
    gate_link(host, failed(client, name="As plain text"))
    page = window()
    open_mail(page, host, subject="As plain text failed", to=ANN)
    page.locator("pre").get_by_role("link").click()
    page.wait_for_url("**/intervene/**")
    sees(page, "As plain text failed")


def test_it_can_be_tried_again_by_keyboard_alone(client: httpx.Client, host: HostProcess, window: OpenWindow) -> None:
    intervention_id = failed(client, call={"kind": "simulated", "fails": 1, "body": BODY})
    page = window()
    page.goto(gate_link(host, intervention_id))
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.get_by_role("radio", name="Try again", exact=True).evaluate("each => each === document.activeElement"):
            break
    page.keyboard.press("Space")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Reason")).to_be_focused()
    page.keyboard.type("It is up again")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Send")).to_be_focused()
    page.keyboard.press("Enter")
    sees(page, "It is tried again now.")
    assert ended(client, intervention_id)["output"]["reason"] == "It is up again"


def test_what_is_wrong_is_said_first_and_leads_to_where_it_is(
    client: httpx.Client, host: HostProcess, window: OpenWindow
) -> None:
    page = window()
    page.goto(gate_link(host, failed(client)))
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("alert")).to_be_focused()
    assert page.title().startswith("Error: ")
    page.get_by_role("link", name="What is to be done: choose one").click()
    first = page.get_by_role("radio", name="Try again", exact=True)
    expect(first).to_be_focused()
    expect(first).to_have_accessible_description("The same call. It can be tried again 5 more times. choose one")
    page.get_by_role("radio", name="Go on without it").check()
    page.get_by_label("The result instead", exact=True).fill("{oops")
    page.get_by_role("button", name="Send").click()
    page.get_by_role("link", name="The result: this is no JSON").click()
    expect(page.get_by_label("The result instead", exact=True)).to_be_focused()
    expect(page.get_by_label("The result instead", exact=True)).to_have_value("{oops")
    page.get_by_role("link", name="Reason: say why").click()
    reason = page.get_by_label("Reason")
    expect(reason).to_be_focused()
    expect(reason).to_have_accessible_description(
        "It is kept with what you do, for those who look at it later. say why"
    )


def test_a_page_of_another_site_cannot_send_the_form(
    client: httpx.Client, host: HostProcess, window: OpenWindow
) -> None:
    intervention_id = failed(client)
    page = window()
    link = gate_link(host, intervention_id)
    page.goto(link)
    nonce = page.locator("input[name=view]").get_attribute("value")
    page.goto("about:blank")
    fields = {"view": nonce, "action": "edit", "step": "send", "body": "1", "reason": "x"}
    inputs = "".join(f'<input name="{name}" value="{value}">' for name, value in fields.items())
    page.set_content(f'<form method="post" action="{link}">{inputs}<button>Win a prize</button></form>')
    page.get_by_role("button").click()
    sees(page, "This did not come from the page behind the link.")
    assert not done(client, intervention_id)


@pytest.mark.parametrize(
    ("size", "options", "scheme"), [("phone", PHONE, "dark"), ("desk", DESK, "light")], ids=["phone", "desk"]
)
def test_every_page_fits_its_window_and_can_be_read(
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
        picture(page, f"{size}-{scheme}-gate-{name}")
        wide, room = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert wide <= room, name
        contrast, where = page.evaluate(WORST_CONTRAST)
        assert contrast >= 4.5, (name, where)

    def unfold() -> None:
        page.evaluate("document.querySelectorAll('details').forEach((each) => each.open = true)")

    intervention_id = hopeless(client, **RICH)
    link = gate_link(host, intervention_id)
    open_mail(page, host, subject=RICH["name"], to=ANN)
    look("1-mail")
    page.goto(link)
    look("2-asked")
    unfold()
    look("3-unfolded")
    page.get_by_role("radio", name="Go on without it").check()
    page.get_by_role("button", name="Send").click()
    look("4-wrong")
    page.get_by_role("radio", name="Change the body").check()
    body = page.get_by_label("The body", exact=True)
    body.fill(body.input_value().replace("EURO", "EUR").replace('"note": null', '"note": "paid twice"'))
    page.get_by_label("Reason").fill("The bank takes EUR.\nI asked them.")
    look("5-changing")
    page.get_by_role("button", name="Send").click()
    sees(page, "Is this what you want to send?")
    look("6-change")
    page.get_by_role("button", name="Send it").click()
    sees(page, "Thank you")
    look("7-thanks")
    page.goto(gate_link(host, intervention_id, number=2))
    unfold()
    look("8-again")
    page.get_by_role("radio", name="Go on without it").check()
    page.get_by_label("The result instead", exact=True).fill('{"paid": true}')
    page.get_by_label("Reason").fill("Paid by hand.")
    page.get_by_role("button", name="Send").click()
    sees(page, "It goes on without this call")
    page.get_by_role("link", name="See how it goes on").click()
    look("9-dealt-with")
    page.goto(link)
    sees(page, "This link is no longer in use")
    look("10-refused")
