"""Connection strings: what .NET takes is taken, what is wrong is said in a sentence, and no value is told."""

import logging
from pathlib import Path

import pytest
from azure import identity

from local_host.errors import HostError
from local_host.scheduler.connection import LONGEST, parse_connection

CLOUD = "Endpoint=https://mine.northeurope.durabletask.io;Authentication=DefaultAzure"
EMULATOR = "Endpoint=http://localhost:8080;Authentication=None"


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("https://mine.northeurope.durabletask.io", "https://mine.northeurope.durabletask.io:443"),
        ("mine.northeurope.durabletask.io", "https://mine.northeurope.durabletask.io:443"),
        ("mine.northeurope.durabletask.io:8443", "https://mine.northeurope.durabletask.io:8443"),
        ("HTTPS://Mine.Example/", "https://mine.example:443"),
        ("http://localhost:8080", "http://localhost:8080"),
        ("http://localhost", "http://localhost:80"),
        ("http://127.0.0.1:65535", "http://127.0.0.1:65535"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("http://scheduler:8080", "http://scheduler:8080"),
    ],
)
def test_an_endpoint_has_a_scheme_and_a_port(endpoint: str, expected: str) -> None:
    connection = parse_connection(f"Endpoint={endpoint};Authentication=None", "hub")
    assert connection.endpoint == expected
    assert connection.secure is expected.startswith("https")
    assert connection.target == "dns:///" + expected.partition("://")[2]


@pytest.mark.parametrize(
    "endpoint",
    [
        "ftp://localhost",
        "unix:///tmp/socket",
        "grpc://localhost:8080",
        "https://",
        "https://:443",
        "http://localhost:0",
        "http://localhost:65536",
        "http://localhost:http",
        "http://localhost:8080/path",
        "http://localhost:8080?query",
        "http://localhost:8080#fragment",
        "http://user:secret-word@localhost:8080",
        "http://[::1",
        "http://[::1%25eth0]:80",
        "http://local host",
        "http://local_host",
        "http://-",
        "http://a,b",
        "http://grün.example",
        "http://local\x00host",
    ],
)
def test_an_endpoint_that_cannot_be_is_refused(endpoint: str) -> None:
    with pytest.raises(HostError, match=r"Endpoint (must|is not)") as refused:
        parse_connection(f"Endpoint={endpoint};Authentication=None", "hub")
    assert "secret-word" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "hub"),
    [
        (EMULATOR, "default-hub"),
        (f"{EMULATOR};TaskHub=mine", "mine"),
        (f"{EMULATOR};TASKHUB=mine", "mine"),
        (f" ; ;{EMULATOR} ; taskHub =  mine  ; ", "mine"),
        (f'{EMULATOR};TaskHub="mine"', "mine"),
        (f"{EMULATOR};TaskHub='mi\"ne'", 'mi"ne'),
        (f'{EMULATOR};TaskHub="mi;n""e";', 'mi;n"e'),
        (f"{EMULATOR};TaskHub=first;taskhub=last", "last"),
        (f"{EMULATOR};TaskHub=first;TaskHub=", "default-hub"),
        (f"{EMULATOR};TaskHub=a=b", "a=b"),
    ],
)
def test_names_and_values_are_read_as_dotnet_reads_them(text: str, hub: str) -> None:
    connection = parse_connection(text, "default-hub")
    assert (connection.hub, connection.endpoint, connection.credential) == (hub, "http://localhost:8080", None)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "Endpoint is missing"),
        (";;;", "Endpoint is missing"),
        ("secret-word", "not Name=value"),
        ("=secret-word", "not Name=value"),
        (f"{EMULATOR};secret-word", "not Name=value"),
        (f'{EMULATOR};TaskHub="secret-word', "not Name=value"),
        (f"{EMULATOR};TaskHub='secret-word' more", "not Name=value"),
        ("Authentication=None", "Endpoint is missing"),
        ("Endpoint=;Authentication=None", "Endpoint is missing"),
        ("Endpoint=http://localhost", "Authentication is missing"),
        (
            "Endpoint=http://localhost;Authentication=ApiKey",
            "Authentication must be one of None, DefaultAzure, ManagedId",
        ),
        ("Endpoint=http://localhost;Authentication=VisualStudio", "Authentication must be one of"),
        ("Endpoint=http://localhost;Authentication=AccountKey 123secret-word", "Authentication must be one of"),
        (f"{EMULATOR};TaskHub=two words", "TaskHub must be"),
        (f"{EMULATOR};TaskHub=grün", "TaskHub must be"),
        (f"{EMULATOR};TaskHub={'x' * 257}", "TaskHub must be"),
        (f"{EMULATOR};TaskHub=a\x01b", "TaskHub must be"),
        (f"{CLOUD};ResourceId=///", "ResourceId must be"),
        (f"{CLOUD};AuthorityHost=http://secret-word", "AuthorityHost must be"),
        (f"{CLOUD};AuthorityHost=secret-word", "AuthorityHost must be"),
        (f"{CLOUD};AuthorityHost=https://[", "AuthorityHost must be"),
        ("x" * (LONGEST + 1), "more than"),
    ],
)
def test_what_is_wrong_is_said_without_a_value(text: str, match: str) -> None:
    with pytest.raises(HostError, match=match) as refused:
        parse_connection(text, "hub")
    assert "secret-word" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_hub_of_host_json_that_cannot_be_is_refused_too() -> None:
    with pytest.raises(HostError, match="TaskHub must be"):
        parse_connection(EMULATOR, "a b")


def test_a_property_that_means_nothing_is_warned_of_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    parse_connection(f"{EMULATOR};secret-word=secret-word", "hub")
    assert "1 properties that mean nothing" in caplog.text
    assert "secret-word" not in caplog.text


@pytest.mark.parametrize(
    ("authentication", "kind"),
    [
        ("DefaultAzure", identity.DefaultAzureCredential),
        ("defaultazure", identity.DefaultAzureCredential),
        ("ManagedIdentity", identity.ManagedIdentityCredential),
        ("MANAGEDIDENTITY;ClientID=11111111-2222-3333-4444-555555555555", identity.ManagedIdentityCredential),
        ("Environment", identity.EnvironmentCredential),
        ("AzureCli", identity.AzureCliCredential),
        ("AzurePowerShell", identity.AzurePowerShellCredential),
        ("VisualStudioCode", identity.VisualStudioCodeCredential),
        ("InteractiveBrowser", identity.InteractiveBrowserCredential),
        ("WorkloadIdentity;ClientID=c;TenantId=t;TokenFilePath=/token", identity.WorkloadIdentityCredential),
        (
            "WorkloadIdentity;ClientID=c;TenantId=t;TokenFilePath=/token;AdditionallyAllowedTenants=one, two",
            identity.WorkloadIdentityCredential,
        ),
        ("DefaultAzure;AuthorityHost=https://login.microsoftonline.us", identity.DefaultAzureCredential),
    ],
)
def test_each_authentication_has_its_credential(authentication: str, kind: type) -> None:
    credential = parse_connection(f"Endpoint=https://a.example;Authentication={authentication}", "hub").credential
    assert type(credential) is kind


def test_a_workload_identity_lacking_something_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_FEDERATED_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(HostError, match="Authentication=WorkloadIdentity lacks something"):
        parse_connection("Endpoint=https://a.example;Authentication=WorkloadIdentity;ClientID=c", "hub")


def test_a_workload_identity_takes_what_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AZURE_TENANT_ID", "tenant")
    monkeypatch.setenv("AZURE_CLIENT_ID", "client")
    monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(tmp_path / "token"))
    connection = parse_connection("Endpoint=https://a.example;Authentication=WorkloadIdentity", "hub")
    assert isinstance(connection.credential, identity.WorkloadIdentityCredential)


@pytest.mark.parametrize(
    ("endpoint", "is_taken"),
    [
        ("https://scheduler.example", True),
        ("scheduler.example", True),
        ("http://localhost:8080", True),
        ("http://127.0.0.2:8080", True),
        ("http://[::1]:8080", True),
        ("http://scheduler.example", False),
        ("http://10.0.0.1:8080", False),
        ("http://localhost.example:8080", False),
        ("http://127.0.0.1.example", False),
        ("http://0.0.0.0:8080", False),
    ],
)
def test_a_token_crosses_the_net_only_encrypted(endpoint: str, is_taken: bool) -> None:
    text = f"Endpoint={endpoint};Authentication=AzureCli"
    if is_taken:
        assert parse_connection(text, "hub").credential is not None
    else:
        with pytest.raises(HostError, match="must be None where the Endpoint is http://"):
            parse_connection(text, "hub")


@pytest.mark.parametrize(
    ("more", "region", "audience"),
    [
        ("", "westeurope", "https://durabletask.io"),
        ("", "USGovVirginia", "https://durabletask.azure.us"),
        (";ResourceId=https://other.example/", "usgovvirginia", "https://other.example"),
        (";ResourceId=https://other.example/.default", "", "https://other.example"),
    ],
)
def test_tokens_are_for_the_cloud_that_it_is(
    more: str, region: str, audience: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGION_NAME", region)
    assert parse_connection(CLOUD + more, "hub").audience == audience


def test_a_long_string_is_read_in_no_time(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    for filler in ("x", " ", '"', "=", ";", "a=b;", "a=';", " =\t"):
        text = (filler * LONGEST)[:LONGEST]
        with pytest.raises(HostError):
            parse_connection(text, "hub")
