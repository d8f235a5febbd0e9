"""The settings, as the environment gives them."""

from collections.abc import Iterator

import pytest
from pydantic import ValidationError

from settings import Settings, get_settings
from triggers.purge import check_retention


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start from an environment without settings."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("AzureWebJobsStorage", "AzureWebJobsStorage__tableServiceUri", "AzureWebJobsStorage__accountName"):
        monkeypatch.delenv(name, raising=False)
    yield
    get_settings.cache_clear()


def test_defaults() -> None:
    settings = Settings()
    assert settings.purchase_order_timeout_hours == 24
    assert settings.base_url == "http://127.0.0.1:7071"
    assert (settings.mail, settings.is_on_azure, settings.callback_hosts) == ("folder", False, "")
    assert (settings.smtp_security, settings.smtp_port) == ("starttls", 587)
    assert (settings.link_keys, settings.callback_key, settings.audit_keys) == (None, None, [])


def test_azure_is_told_by_what_azure_sets_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBSITE_HOSTNAME", "app.azurewebsites.net")
    assert not Settings().is_on_azure
    monkeypatch.setenv("WEBSITE_INSTANCE_ID", "0123")
    assert Settings().is_on_azure


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
        ("RECORDS", "postgres"),
        ("RECORDS_TABLE", "no-hyphens"),
        ("RECORDS_TABLE", "1st"),
        ("AUDIT_KEY", "too short"),
        ("AUDIT_KEY", "one that is long enough,"),
        ("MAIL", "pigeon"),
        ("MAIL", "SMTP"),
        ("MAIL_FROM", "nobody"),
        ("MAIL_FROM", ""),
        ("MAIL_FROM", "a@example.com\r\nBcc: b@example.com"),
        ("MAIL_FROM", "x" * 300 + "@example.com"),
        ("SMTP_PORT", "0"),
        ("SMTP_PORT", "65536"),
        ("SMTP_PORT", "mail"),
        ("SMTP_SECURITY", "ssl"),
        ("LINK_KEYS", "too short"),
        ("LINK_KEYS", "k" * 31),
        ("LINK_KEYS", "k" * 32 + ","),
        ("LINK_KEYS", "k" * 32 + "," + "l" * 31),
        ("LINK_KEYS", ",".join(["k" * 32] * 3)),
        ("CALLBACK_HOSTS", "h" * 4001),
        ("RETENTION_DAYS", "-1"),
        ("RETENTION_DAYS", "nan"),
        ("RETENTION_DAYS_BY_WORKFLOW", '{"approval": -1}'),
        ("RETENTION_DAYS_BY_WORKFLOW", "[]"),
    ],
)
def test_a_bad_setting_is_named_and_not_repeated(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert name.lower() in str(caught.value)
    assert "input_value" not in str(caught.value)


def test_the_records_lie_in_the_data_folder_on_the_local_host_and_in_the_storage_account_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert Settings().records == "tables"
    monkeypatch.setenv("LOCAL_HOST_DATA", "/data")
    assert Settings().records == "sqlite"
    monkeypatch.setenv("RECORDS", "tables")
    assert Settings().records == "tables"


def test_secrets_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDIT_KEY", "the first one's secret,the second one's secret")
    monkeypatch.setenv("AzureWebJobsStorage", "AccountName=a;AccountKey=secret")
    for name in ("SMTP_PASSWORD", "ACS_CONNECTION", "CALLBACK_KEY"):
        monkeypatch.setenv(name, f"secret of {name}")
    monkeypatch.setenv("LINK_KEYS", "s" * 20 + "secret of links")
    settings = Settings()
    assert settings.smtp_password is not None
    assert settings.smtp_password.get_secret_value() == "secret of SMTP_PASSWORD"
    assert settings.audit_keys == ["the first one's secret", "the second one's secret"]
    assert settings.records_connection is not None
    assert settings.records_connection.get_secret_value() == "AccountName=a;AccountKey=secret"
    assert "secret" not in f"{settings!r} {settings}"


def test_each_workflow_may_have_its_retention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETENTION_DAYS_BY_WORKFLOW", '{"approval": 0.5}')
    assert Settings().retention_days_by_workflow == {"approval": 0.5}
    get_settings.cache_clear()
    check_retention()
    monkeypatch.setenv("RETENTION_DAYS_BY_WORKFLOW", '{"aproval": 0.5}')
    get_settings.cache_clear()
    with pytest.raises(ValueError, match="'aproval'; the workflows are approval, purchase_order"):
        check_retention()
