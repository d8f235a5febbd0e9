"""The connection string of a Durable Task Scheduler: where it is, and who it is told we are."""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from azure import identity
from azure.core.credentials import TokenCredential
from durabletask.azuremanaged.internal.access_token_manager import resolve_resource_id

from local_host.errors import HostError

_LOGGER = logging.getLogger("local_host")

LONGEST = 8192

KNOWN = (
    "Endpoint",
    "TaskHub",
    "Authentication",
    "ClientID",
    "TenantId",
    "TokenFilePath",
    "AdditionallyAllowedTenants",
    "ResourceId",
    "AuthorityHost",
)

# Name=value;Name="value; with quotes ""in it""";Name='value'
_PROPERTY = re.compile(
    r"""\s*(?:(?P<name>[^;=\s][^;=]*)=\s*(?:"(?P<double>(?:[^"]|"")*)"|'(?P<single>(?:[^']|'')*)'|(?P<bare>[^;"'][^;]*|)))?"""
    r"""\s*(?:;|\Z)""",
)
_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?\.?")
_HUB = re.compile(r"[\x21-\x7e]{1,256}")


@dataclass(frozen=True)
class Connection:
    """A task hub of a scheduler. ``endpoint`` is ``scheme://host:port``; ``credential`` None says nobody is asked.

    ``audience`` is whom the credential's tokens are for.
    """

    endpoint: str
    hub: str
    credential: TokenCredential | None = field(default=None, repr=False)
    audience: str = "https://durabletask.io"

    @property
    def secure(self) -> bool:
        """Whether the scheduler is reached over TLS."""
        return self.endpoint.startswith("https:")

    @property
    def target(self) -> str:
        """What gRPC connects to. The scheme keeps it from taking a host for one of its own kinds of address."""
        return f"dns:///{self.endpoint.partition('://')[2]}"

    @property
    def is_local(self) -> bool:
        """Whether the scheduler is on this machine."""
        return _is_loopback(urlsplit(self.endpoint).hostname or "")


def parse_connection(text: str, default_hub: str) -> Connection:
    """Read a connection string, ``Endpoint=https://...;TaskHub=...;Authentication=DefaultAzure``.

    Names and kinds of authentication are compared without regard to case, values may be quoted, the last one of a name
    counts, and an empty one is none, as .NET's ``DbConnectionStringBuilder`` has them. Without ``TaskHub`` it is
    ``default_hub``. Raises ``HostError``, whose text has no value of the string in it, but a kind of authentication.
    Source: ``DurableTaskSchedulerConnectionString`` and ``DurableTaskSchedulerClientOptions`` of durabletask-dotnet.
    """
    given = _properties(text)
    if unknown := given.keys() - {name.lower() for name in KNOWN}:
        # .NET takes them too. Their names are not told: what is no property may be anything.
        _LOGGER.warning(
            "The scheduler's connection string has %d properties that mean nothing here; those that do are %s",
            *(len(unknown), ", ".join(KNOWN)),
        )
    scheme, host, port = _endpoint(_required(given, "Endpoint", "https://name.region.durabletask.io"))
    hub = given.get("taskhub", default_hub)
    if not _HUB.fullmatch(hub):
        raise _wrong("TaskHub must be a name of letters, digits and hyphens")
    authentication = _required(given, "Authentication", "DefaultAzure, or None for the emulator")
    if authentication.lower() != "none" and scheme == "http" and not _is_loopback(host):
        raise _wrong(
            "Authentication must be None where the Endpoint is http://: a token would cross the net unencrypted"
        )
    shown = f"[{host}]" if ":" in host else host
    return Connection(f"{scheme}://{shown}:{port}", hub, _credential(authentication, given), _audience(given))


def _wrong(what: str) -> HostError:
    return HostError(f"The scheduler's connection string cannot be used: {what}.")


def _properties(text: str) -> dict[str, str]:
    if len(text) > LONGEST:
        raise _wrong(f"it has more than {LONGEST} characters")
    given: dict[str, str] = {}
    position = 0
    while position < len(text):
        found = _PROPERTY.match(text, position)
        if found is None:
            raise _wrong(f"the part at character {position + 1} is not Name=value")
        position = found.end()
        if found["name"] is not None:
            quoted = found["double"], found["single"]
            bare = (found["bare"] or "").strip()
            value = (quoted[0] or "").replace('""', '"') or (quoted[1] or "").replace("''", "'") or bare
            given[found["name"].strip().lower()] = value
    return {name: value for name, value in given.items() if value}


def _required(given: dict[str, str], name: str, example: str) -> str:
    value = given.get(name.lower())
    if value is None:
        raise _wrong(f"{name} is missing, such as {name}={example}")
    return value


def _endpoint(text: str) -> tuple[str, str, int]:
    """Give the scheme, host and port of an endpoint; without a scheme it is https, without a port the scheme's own."""
    try:
        parts = urlsplit(text if "://" in text else f"https://{text}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise _wrong("Endpoint is not an address") from None
    if parts.scheme not in _PORTS or not (_HOST.fullmatch(host) or _is_address(host)) or port == 0:
        raise _wrong("Endpoint must be http:// or https://, a host, and perhaps a port")
    if parts.username is not None or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise _wrong("Endpoint must have nothing but a scheme, a host and a port")
    return parts.scheme, host, port or _PORTS[parts.scheme]


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return "%" not in host


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ip_address(host).is_loopback)


def _audience(given: dict[str, str]) -> str:
    try:
        return resolve_resource_id(given.get("resourceid"))
    except ValueError:
        raise _wrong("ResourceId must be the address of an audience, such as https://durabletask.io") from None


def _credential(authentication: str, given: dict[str, str]) -> TokenCredential | None:
    """Make the credential that is asked for tokens; making it reaches out to nobody."""
    authority = _authority(given)
    workload: dict[str, Any] = dict(authority)
    options = {"clientid": "client_id", "tenantid": "tenant_id", "tokenfilepath": "token_file_path"}
    workload |= {option: given[name] for name, option in options.items() if name in given}
    if "additionallyallowedtenants" in given:
        tenants = given["additionallyallowedtenants"].split(",")
        workload["additionally_allowed_tenants"] = [tenant.strip() for tenant in tenants]
    kinds: dict[str, Callable[[], TokenCredential | None]] = {
        "None": lambda: None,
        "DefaultAzure": lambda: identity.DefaultAzureCredential(**authority),
        "ManagedIdentity": lambda: identity.ManagedIdentityCredential(client_id=given.get("clientid")),
        "WorkloadIdentity": lambda: identity.WorkloadIdentityCredential(**workload),
        "Environment": lambda: identity.EnvironmentCredential(**authority),
        "AzureCli": identity.AzureCliCredential,
        "AzurePowerShell": identity.AzurePowerShellCredential,
        "VisualStudioCode": lambda: identity.VisualStudioCodeCredential(**authority),
        "InteractiveBrowser": lambda: identity.InteractiveBrowserCredential(**authority),
    }
    make = {name.lower(): make for name, make in kinds.items()}.get(authentication.lower())
    if make is None:
        raise _wrong(f"Authentication must be one of {', '.join(kinds)}")
    try:
        return make()
    except (ValueError, OSError):  # whose texts may hold what was given
        raise _wrong(
            f"Authentication={authentication} lacks something, or has something that it cannot use; it may need "
            "ClientID, TenantId, TokenFilePath, or the environment variables that azure-identity reads"
        ) from None


def _authority(given: dict[str, str]) -> dict[str, str]:
    authority = given.get("authorityhost")
    if authority is None:
        return {}
    try:
        parts = urlsplit(authority)
        valid = parts.scheme == "https" and bool(parts.hostname)
    except ValueError:
        valid = False
    if not valid:
        raise _wrong("AuthorityHost must be an https:// address, such as https://login.microsoftonline.com")
    return {"authority": authority}
