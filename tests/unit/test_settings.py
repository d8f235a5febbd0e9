"""The settings, as the environment gives them."""

import pytest
from pydantic import ValidationError

from settings import Settings


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start from an environment without settings."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def test_defaults() -> None:
    settings = Settings()
    assert settings.purchase_order_timeout_hours == 24
    assert settings.base_url == "http://127.0.0.1:7071"


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({"WEBSITE_HOSTNAME": "app.azurewebsites.net"}, "https://app.azurewebsites.net"),
        ({"WEBSITE_HOSTNAME": "localhost:7071"}, "http://localhost:7071"),
        ({"WEBSITE_HOSTNAME": "a.net", "PUBLIC_URL": "https://approve.example.com/"}, "https://approve.example.com"),
        ({"PUBLIC_URL": "http://10.0.0.1:8080"}, "http://10.0.0.1:8080"),
        ({"WEBSITE_HOSTNAME": "127.0.0.1.evil.net"}, "https://127.0.0.1.evil.net"),
        ({"WEBSITE_HOSTNAME": "localhost.evil.net:1"}, "https://localhost.evil.net:1"),
    ],
)
def test_the_base_url(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], url: str) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Settings().base_url == url


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PURCHASE_ORDER_TIMEOUT_HOURS", "0"),
        ("PURCHASE_ORDER_TIMEOUT_HOURS", "nan"),
        ("PURCHASE_ORDER_TIMEOUT_HOURS", "8761"),
        ("PURCHASE_ORDER_TIMEOUT_HOURS", "a day"),
        ("DECISION_WAIT_SECONDS", "-1"),
        ("DECISION_WAIT_SECONDS", "inf"),
        ("PUBLIC_URL", "not a url"),
        ("PUBLIC_URL", "ftp://x"),
        ("APPROVAL_REQUESTS_TO", "two\nlines@example.com"),
        ("APPROVAL_REQUESTS_TO", ""),
    ],
)
def test_a_bad_setting_is_named_and_not_repeated(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert name.lower() in str(caught.value)
    assert "input_value" not in str(caught.value)
