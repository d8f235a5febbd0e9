"""README, host.json and the settings say what the code does."""

import json
import re
from pathlib import Path

import pytest

from local_host.app_loader import App, load_app
from settings import Settings, get_settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
HOST_JSON = json.loads((ROOT / "host.json").read_text())
EXAMPLE = json.loads((ROOT / "local.settings.json.example").read_text())["Values"]

PLATFORM_SETTINGS = {
    "FUNCTIONS_WORKER_RUNTIME",
    "AzureWebJobsStorage",
    "DURABLE_TASK_SCHEDULER_CONNECTION_STRING",
    "AZURE_FUNCTIONS_DURABLE_STRICT_TYPING",
    "PYTHON_THREADPOOL_THREAD_COUNT",
}
OPEN = {
    "/approve/{token}",
    "/intervene/{token}",
    "/signup",
    "/signup/confirm",
    "/signup/resend",
    "/signup/change-email",
    "/signup/stop",
    "/static/{file}",
}
"""What people open who have nothing but a link, or want to sign up: links are signed, and the rest is style."""
PLATFORM_SETS = {
    "LOCAL_HOST_DATA",
    "WEBSITE_HOSTNAME",
    "WEBSITE_INSTANCE_ID",
    "WEBSITE_POD_NAME",
    "WEBSITE_SITE_NAME",
    "WEBSITE_AUTH_ENABLED",
    "CONTAINER_NAME",
    "MANAGED_ENVIRONMENT",
}
"""What the host or Azure sets, and nobody else should."""


@pytest.fixture(scope="module")
def app() -> App:
    """The app as the host loads it."""
    return load_app(ROOT)


def routes(app: App) -> set[tuple[str, str]]:
    """Method and path of every HTTP function."""
    return {(method, f"/{each.route}") for each in app.functions if each.route for method in each.methods}


def test_readme_lists_exactly_the_routes_of_the_code(app: App) -> None:
    listed = set(re.findall(r"^\| `(GET|POST|PUT|DELETE|PATCH) (/[^ `]*)` \|", README, re.MULTILINE))
    assert listed == {(method, path) for method, path in routes(app) if method != "HEAD"}


def test_head_is_answered_where_get_is_and_nowhere_else(app: App) -> None:
    heads = {path for method, path in routes(app) if method == "HEAD"}
    posts_alone = {"/signup/resend", "/signup/change-email"}
    assert heads == OPEN - posts_alone | {"/outbox", "/outbox/{mail_id}"}
    assert heads <= {path for method, path in routes(app) if method == "GET"}


def test_every_curl_line_in_readme_goes_to_a_route_of_the_code(app: App) -> None:
    known = {re.sub(r"\{[^}]+\}", "{}", path) for _, path in routes(app)}
    called = re.findall(r"curl[^\n]*?localhost:7071(/[^\s'\"\\?]*)", README)
    assert len(called) >= 6
    own = ("/admin/", "/runtime/")  # the host's own, which the tests of the host hold README to
    for path in (each for each in called if not each.startswith(own)):
        generic = re.sub(r"(?<=/)(\$[A-Z_]+|[a-z]+-1)(?=/|$)", "{}", path)
        assert generic in known, path


def test_every_setting_is_in_readme_and_in_the_example() -> None:
    names = {name.upper() for name in Settings.model_fields}
    listed = set(re.findall(r"^\| `([A-Z_]+)` \|", README, re.MULTILINE))
    assert listed == names - PLATFORM_SETS | {"PYTHON_THREADPOOL_THREAD_COUNT"}
    assert set(EXAMPLE) - PLATFORM_SETTINGS <= names
    Settings.model_validate(
        {name.lower(): value for name, value in EXAMPLE.items() if name.lower() in Settings.model_fields}
    )


def test_host_json_has_no_route_prefix_and_names_the_scheduler_of_the_settings() -> None:
    assert HOST_JSON["extensions"]["http"]["routePrefix"] == ""
    provider = HOST_JSON["extensions"]["durableTask"]["storageProvider"]
    assert provider["type"] == "azureManaged"
    assert provider["connectionStringName"] in EXAMPLE


def test_the_example_switches_strict_typing_on() -> None:
    assert EXAMPLE["AZURE_FUNCTIONS_DURABLE_STRICT_TYPING"] == "1"


def levels(app: App) -> set[tuple[str, str]]:
    """Path and level of every HTTP function."""
    return {(f"/{each.route}", each.auth_level) for each in app.functions if each.route}


def test_where_nobody_is_known_all_but_what_people_open_by_a_link_is_for_holders_of_a_key(app: App) -> None:
    assert {path for path, level in levels(app) if level == "anonymous"} == OPEN
    assert {level for path, level in levels(app) if path not in OPEN} == {"function"}


def test_where_callers_are_known_the_platform_asks_for_no_key_besides(
    data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTH", "keys")
    get_settings.cache_clear()
    assert {level for _, level in levels(load_app(ROOT))} == {"anonymous"}


def test_links_in_the_documents_lead_somewhere() -> None:
    for document in ROOT.glob("*.md"):
        for link in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", document.read_text()):
            assert (ROOT / link).exists(), f"{document.name}: {link}"
