"""A real browser, without a network but loopback, and the whole app behind the local host."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.api.conftest import client, host, session_client
from tests.browser.chromium import MISSING, chromium_command
from tests.hosting import ROOT

__all__ = ["client", "host", "session_client"]

SCREENSHOTS = ROOT / ".screenshots"
NOWHERE = "http://127.0.0.1:9"
"""A proxy that is none: whatever is not on loopback goes there, and fails."""

type OpenWindow = Callable[..., Page]


@pytest.fixture(scope="module")  # its event loop is in the way of other tests
def chromium() -> Iterator[Browser]:
    """The browser. Skips where there is none; fails where it does not start."""
    command = chromium_command()
    if command is None:
        pytest.skip(MISSING)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=command,
            chromium_sandbox=os.getuid() != 0,  # it refuses to run as root with its sandbox
            proxy={"server": NOWHERE, "bypass": "127.0.0.1,localhost"},
            args=["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"],
        )
        yield launched
        launched.close()


@pytest.fixture
def window(chromium: Browser, tmp_path: Path) -> Iterator[OpenWindow]:
    """Opens windows, each of a browser of its own. None may ask for anything elsewhere, or complain about a page."""
    complaints: list[str] = []
    with ExitStack() as stack:

        def open_window(**options: Any) -> Page:
            context: BrowserContext = stack.enter_context(chromium.new_context(**options))
            context.set_default_timeout(10_000)
            context.on("request", lambda request: complaints.extend(_elsewhere(request.url)))
            context.on("weberror", lambda error: complaints.append(str(error.error)))
            context.on("console", lambda message: complaints.extend(_complaint(message.type, message.text)))
            return context.new_page()

        yield open_window
    assert complaints == []


def _elsewhere(url: str) -> list[str]:
    address = httpx.URL(url)
    return [] if address.host in ("127.0.0.1", "localhost") or address.scheme in ("about", "data", "blob") else [url]


def _complaint(kind: str, text: str) -> list[str]:
    # Chromium calls every page with an error's status an error; what else it says is about the page.
    expected = kind not in ("error", "warning") or text.startswith("Failed to load resource: the server responded with")
    return [] if expected else [text]


@pytest.fixture
def picture(request: pytest.FixtureRequest) -> Callable[[Page, str], None]:
    """Keeps a picture of the whole page, to be looked at."""
    SCREENSHOTS.mkdir(exist_ok=True)

    def keep(page: Page, name: str) -> None:
        page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)

    return keep
