"""The sign-up as people do it: from the form over the outbox to the welcome mail, and back to the old link."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenWindow
from tests.browser.test_approval_in_a_browser import DESK, PHONE, WORST_CONTRAST, sees
from tests.hosting import HostProcess, host_process
from tests.polling import until


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A host whose mails can be sent again at once, and that takes many forms."""
    settings = {"SIGNUP_RESEND_SECONDS": "0", "SIGNUP_TRIES_PER_CLIENT": "1000"}
    with host_process(tmp_path_factory.mktemp("data"), environment=settings) as host:
        yield host


@pytest.fixture
def name() -> str:
    """A user name."""
    return f"Ann-{uuid4().hex[:6]}"


def sign_up(page: Page, host: HostProcess, name: str, **typed: str) -> None:
    """Fill in the form."""
    page.goto(f"{host.url}/signup")
    fields = {"User name": name, "Mail address": f"{name}@example.com"} | typed
    for label, value in fields.items():
        page.get_by_label(label).fill(value)
    page.get_by_role("button", name="Sign up").click()


def open_mail(page: Page, host: HostProcess, *, subject: str, to: str) -> None:
    """Go to the outbox, wait for a mail, and open it."""
    mail = page.get_by_role("listitem").filter(has_text=subject).filter(has_text=to)

    def is_listed() -> bool:
        page.goto(f"{host.url}/outbox")
        return mail.count() > 0

    until(is_listed)
    mail.get_by_role("link").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(subject)


def follow_link(page: Page) -> str:
    """Follow the link in the mail as it looks, and give its address."""
    page.frame_locator("iframe").get_by_role("link", name=re.compile("confirm", re.IGNORECASE)).first.click()
    page.wait_for_url("**/signup/confirm?token=**")
    return page.url


def code_of(page: Page) -> str:
    """The code in the mail that is open."""
    found = re.search(r"\b(\d{6})\b", re.sub(r"http\S+token\S+", "", page.locator("pre.mail").inner_text()))
    assert found is not None
    return found[1]


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without scripts"])
def test_somebody_signs_up_and_is_welcome(host: HostProcess, window: OpenWindow, name: str, scripts: bool) -> None:
    page = window(java_script_enabled=scripts)
    sign_up(page, host, name, **{"First name (not needed)": "Ann"})
    page.wait_for_url("**/signup/confirm")
    sees(page, f"We have sent a mail to {name}@example.com")

    open_mail(page, host, subject="Please confirm your address", to=f"{name}@example.com")
    link = follow_link(page)
    sees(page, "Is this you?", name, "Ann")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Confirm")).to_be_focused()
    page.keyboard.press("Enter")
    sees(page, "Your address is confirmed", f"Thank you, {name}.")

    open_mail(page, host, subject="Welcome", to=f"{name}@example.com")
    for address in (link, f"{host.url}/signup/confirm"):
        page.goto(address)
        sees(page, "Already confirmed")
        expect(page.get_by_role("button")).to_have_count(0)


def test_a_mistyped_address_is_changed_and_the_code_typed(host: HostProcess, window: OpenWindow, name: str) -> None:
    page = window()
    sign_up(page, host, name, **{"Mail address": f"{name}@examples.com"})
    sees(page, f"We have sent a mail to {name}@examples.com")
    page.get_by_label("The right mail address").fill("nobody")
    page.get_by_role("button", name="Change the address").click()
    expect(page.get_by_role("alert")).to_be_focused()
    page.get_by_role("link", name="Mail address: type one mail address").click()
    expect(page.get_by_label("The right mail address")).to_be_focused()
    page.get_by_label("The right mail address").fill(f"{name}@example.com")
    page.get_by_role("button", name="Change the address").click()
    sees(page, "The address is changed.", f"We have sent a mail to {name}@example.com")

    other = page.context.new_page()
    open_mail(other, host, subject="Please confirm your address", to=f"{name}@example.com")
    page.get_by_label("Code from the mail").fill("000000")
    page.get_by_role("button", name="Confirm").click()
    sees(page, "Code: this is not the code in the newest mail")
    page.get_by_label("Code from the mail").fill(code_of(other))
    page.keyboard.press("Enter")
    sees(page, "Your address is confirmed")


def test_what_is_wrong_is_said_first_and_a_taken_name_can_be_changed(
    host: HostProcess, window: OpenWindow, name: str
) -> None:
    page = window()
    sign_up(page, host, name)
    page.wait_for_url("**/signup/confirm")
    other = window()
    sign_up(other, host, name.lower(), **{"Last name (not needed)": "Lee"})
    expect(other.get_by_role("alert")).to_be_focused()
    assert other.title().startswith("Error: ")
    other.get_by_role("link", name="User name: this user name is taken").click()
    field = other.get_by_label("User name")
    expect(field).to_be_focused()
    expect(field).to_have_accessible_description(re.compile("this user name is taken"))
    expect(other.get_by_label("Last name")).to_have_value("Lee")
    other.keyboard.type(f"{name}-2")
    other.get_by_role("button", name="Sign up").click()
    sees(other, f"You sign up as {name}-2")


def test_a_double_click_signs_up_once(host: HostProcess, window: OpenWindow, name: str) -> None:
    page = window()
    page.goto(f"{host.url}/signup")
    page.get_by_label("User name").fill(name)
    page.get_by_label("Mail address").fill(f"{name}@example.com")
    page.get_by_role("button", name="Sign up").dblclick()
    sees(page, f"We have sent a mail to {name}@example.com")
    until(lambda: _mails(host, name))
    assert len(_mails(host, name)) == 1


def test_a_page_of_another_site_cannot_sign_anybody_up(host: HostProcess, window: OpenWindow, name: str) -> None:
    page = window()
    page.set_content(
        f'<form method="post" action="{host.url}/signup"><input name="username" value="{name}">'
        f'<input name="email" value="{name}@example.com"><button>Win a prize</button></form>'
    )
    page.get_by_role("button").click()
    sees(page, "This did not come from the page")
    assert not _mails(host, name)


def _mails(host: HostProcess, name: str) -> list[Path]:
    return list((host.data / "outbox").glob(f"signup-{name.lower()}.*.eml"))


@pytest.mark.parametrize(
    ("size", "options", "scheme"), [("phone", PHONE, "dark"), ("desk", DESK, "light")], ids=["phone", "desk"]
)
def test_the_pages_can_be_read_on_a_phone_and_in_the_dark(
    host: HostProcess,
    window: OpenWindow,
    picture: Callable[[Page, str], None],
    name: str,
    *,
    size: str,
    options: dict[str, Any],
    scheme: str,
) -> None:
    page = window(color_scheme=scheme, **options)

    def look(what: str) -> None:
        picture(page, f"{size}-{scheme}-signup-{what}")
        wide, room = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert wide <= room, what
        contrast, where = page.evaluate(WORST_CONTRAST)
        assert contrast >= 4.5, (what, where)

    address = f"{name}.with.a.very.long.address.that.does.not.fit@mail.department.example.com"
    page.goto(f"{host.url}/signup")
    look("1-form")
    sign_up(page, host, "a b", **{"Mail address": "nobody"})
    look("2-wrong")
    sign_up(
        page, host, name, **{"Mail address": address, "First name (not needed)": "Ann", "Last name (not needed)": "Lee"}
    )
    sees(page, "Look into your mail")
    look("3-waiting")
    page.get_by_role("button", name="Send the mail again").click()
    sees(page, "Another mail is on its way")
    look("4-sent-again")
    page.get_by_label("Code from the mail").fill("12")
    page.get_by_role("button", name="Confirm").click()
    look("5-wrong-code")
    open_mail(page, host, subject="Please confirm your address", to=address)
    look("6-mail")
    link = follow_link(page)
    look("7-confirm")
    page.get_by_role("button", name="Confirm").click()
    sees(page, "Your address is confirmed")
    look("8-confirmed")
    page.goto(link)
    look("9-already")
    page.context.clear_cookies()
    page.goto(f"{host.url}/signup/confirm")
    look("10-by-name")
    page.get_by_role("button", name="Confirm").click()
    look("11-by-name-wrong")
