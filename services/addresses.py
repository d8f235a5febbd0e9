"""Addresses of other systems: which of them the app may call is said by a setting."""

import re
from typing import NamedTuple

_URL = re.compile(
    r"(https?)://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?(?:[/?#][!-~]*)?", re.IGNORECASE | re.ASCII
)
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Address(NamedTuple):
    """Who is called: lower case, an IPv6 address in brackets."""

    scheme: str
    host: str
    port: int

    @property
    def named(self) -> str:
        """The host as settings name it: with the port where that is not the scheme's own."""
        return self.host if self.port == _DEFAULT_PORTS[self.scheme] else f"{self.host}:{self.port}"


def read_address(url: str) -> Address | None:
    """Return who is called by an http or https address in ASCII without a user name; None for all else."""
    found = _URL.fullmatch(url)
    if found is None:
        return None
    scheme = found[1].lower()
    port = int(found[3] or _DEFAULT_PORTS[scheme])
    return Address(scheme, found[2].lower(), port) if port <= 65_535 else None


def check_address(url: str, *, name: str, setting: str, hosts: str) -> Address:
    """Return who is called by an address. ``name`` is the field that it stands in, ``hosts`` what the setting says.

    Raises ``ValueError``, with a sentence for who sent it, unless it is https (or leads to this machine) and its host
    is named.
    """
    address = read_address(url)
    if address is None:
        raise ValueError(
            f"{name} has to be an address as in https://host/path, with the host in ASCII and no user name"
        )
    if address.scheme == "http" and address.host not in _LOOPBACK:
        raise ValueError(f"{name} has to be https, so that nobody on the way can read what is sent")
    if address.named not in filter(None, (each.strip().lower() for each in hosts.split(","))):
        raise ValueError(f"nothing is sent to {address.named[:100]}: the setting {setting} does not name it")
    return address
