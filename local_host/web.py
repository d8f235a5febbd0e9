"""The front of the host's HTTP: whom a request may call the host by, where it goes, and what other sites may do.

Paths below ``/admin`` and ``/runtime`` are the host's own, in any case of letters; no function takes them. Sources:
Azure/azure-functions-host (``ScriptHost.ValidateHttpFunction``, ``ReservedRouteGuardMiddleware``,
``HomepageMiddleware``) and Azure/azure-functions-core-tools (``Startup``, for CORS); for ``X-Forwarded-For``, the
headers that sergiodxa/remix-utils#496 shows of an app on Azure.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from local_host.admin import PREFIX as ADMIN_PREFIX
from local_host.admin import homepage
from local_host.errors import HostError
from local_host.http_trigger import HttpTriggers
from local_host.keys import SYSTEM, Keys, permitted, unauthorized
from local_host.management import MANAGEMENT_PREFIX

LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})

_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?")
_RESERVED = ("admin", "runtime")
_CROSS_SITE = '{"Message": "This request came from a page of another site."}'
_NO_SUCH_NAME = "This host does not answer to that name. Start it with --trusted-host NAME to have it do so."


@dataclass(frozen=True)
class Cors:
    """The origins whose pages may call the host; ``*`` among them stands for all."""

    origins: frozenset[str]
    credentials: bool = False

    @property
    def everybody(self) -> bool:
        """Whether any page may call."""
        return "*" in self.origins


@dataclass(frozen=True)
class Names:
    """What a request may call the host by, besides loopback's names.

    ``trusted`` are those that the user gave; a request that comes by one of them came through a proxy of the user's.
    ``any_name`` takes all others too.
    """

    trusted: frozenset[str] = frozenset()
    any_name: bool = False

    def take(self, name: str) -> bool:
        """Whether the host answers to a name, which is in lower case and without a port."""
        return self.any_name or name in LOOPBACK_NAMES or name in self.trusted


def names_of(trusted: Iterable[str], *, any_name: bool = False) -> Names:
    """Return the names that the host answers to, which are given in any case of letters."""
    return Names(frozenset(name.lower() for name in trusted), any_name)


def reserved(route: str) -> bool:
    """Whether the real host refuses a function with this route (without the prefix of host.json).

    It does so for all that begins with ``admin`` or ``runtime``, be it only part of a word: "The specified route
    conflicts with one or more built in routes."
    """
    return route.strip("/").lower().startswith(_RESERVED)


def cors_of(document: Mapping[str, Any]) -> Cors | None:
    """Read ``Host.CORS`` and ``Host.CORSCredentials`` of ``local.settings.json``; None where there is no CORS.

    Raises ``HostError`` for what cannot be, ``*`` together with credentials included, which the real tools refuse too.
    """
    host = document.get("Host") or {}
    text = host.get("CORS") or "" if isinstance(host, dict) else None
    if not isinstance(text, str):
        raise HostError("local.settings.json: 'Host.CORS' must be a text: origins with commas between them, or '*'.")
    origins = frozenset(part.strip().rstrip("/").lower() for part in text.split(",") if part.strip())
    if not origins:
        return None
    for origin in sorted(origins):
        if origin != "*" and _ORIGIN.fullmatch(origin) is None:
            raise HostError(f"local.settings.json: '{origin}' in 'Host.CORS' is no origin like http://localhost:3000.")
    given = str(host.get("CORSCredentials") or "false").lower()
    if given not in ("true", "false"):
        raise HostError("local.settings.json: 'Host.CORSCredentials' must be true or false.")
    cors = Cors(origins, given == "true")
    if cors.everybody and cors.credentials:
        raise HostError(
            "local.settings.json: 'Host.CORS' cannot be '*' where 'Host.CORSCredentials' is true. List the origins."
        )
    return cors


class WebFront:
    """The ASGI app that the server runs."""

    def __init__(
        self,
        functions: HttpTriggers,
        management: ASGIApp,
        admin: ASGIApp,
        names: Names,
        *,
        keys: Keys | None = None,
        cors: Cors | None = None,
    ) -> None:
        self._triggers = functions
        self._management = management
        self._admin = admin
        self._names = names
        self._keys = keys
        # Any page could read instances and run functions as it likes, were '*' to open what is the host's own.
        opens_all = cors is not None and (not cors.everybody or keys is not None)
        self._vouched = cors if opens_all else None
        self._functions = _with_cors(self._serve_functions, cors, private=opens_all)
        self._own = _with_cors(self._serve_own, self._vouched, private=opens_all)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        name = _host_name(scope)
        if name is None or not self._names.take(name):
            await PlainTextResponse(_NO_SUCH_NAME, 400)(scope, receive, send)
            return
        if name in self._names.trusted:
            scope = _with_forwarded_scheme(scope)
        own = f"{scope['path']}/".lower().startswith(tuple(f"/{first}/" for first in _RESERVED))
        await (self._own if own else self._functions)(scope, receive, send)

    async def _serve_functions(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope = _with_forwarded_for(scope)
        app: ASGIApp = self._triggers
        if not scope["path"].startswith("/"):  # "*", which is no path
            app = Response(status_code=404)
        elif scope["path"] == "/" and not self._triggers.takes(scope):
            app = homepage(os.environ)
        await app(scope, receive, send)

    async def _serve_own(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = f"{scope['path']}/".lower()
        scope = self._without_suspicion(scope)
        app: ASGIApp = Response(status_code=404)
        if _writes_cross_site(scope):
            app = Response(_CROSS_SITE, 403, media_type="application/json; charset=utf-8")
        elif path.startswith(f"{ADMIN_PREFIX}/"):
            app = self._admin
        elif path.startswith(f"{MANAGEMENT_PREFIX}/"):
            app = self._management if permitted(self._keys, SYSTEM, scope) else unauthorized()
        await app(scope, receive, send)

    def _without_suspicion(self, scope: Scope) -> Scope:
        """Drop what the browser says of the page where the user has listed its origin."""
        origin = (_header(scope, b"origin") or "").lower()
        if not origin or self._vouched is None or not ({origin, "*"} & self._vouched.origins):
            return scope
        return {
            **scope,
            "headers": [header for header in scope["headers"] if header[0] not in (b"sec-fetch-site", b"origin")],
        }


def _with_cors(app: ASGIApp, cors: Cors | None, *, private: bool) -> ASGIApp:
    if cors is None:
        return app
    return CORSMiddleware(
        app,
        allow_origins=cors.origins,
        allow_methods=["*"],
        allow_headers=["*"],
        allow_credentials=cors.credentials,
        allow_private_network=private,
    )


def _writes_cross_site(scope: Scope) -> bool:
    """Whether a page of another site has made a browser send this, which it does without asking first for some POSTs.

    Old browsers do not say so in ``Sec-Fetch-Site``, nor do those of today over http to other names than loopback's;
    ``Origin`` is there with every POST of a page.
    """
    if scope["method"] in ("GET", "HEAD", "OPTIONS"):
        return False
    site = _header(scope, b"sec-fetch-site")
    if site is not None:
        return site not in ("none", "same-origin")
    origin = _header(scope, b"origin")
    return origin is not None and origin.lower().partition("://")[2] != (_header(scope, b"host") or "").lower()


def _host_name(scope: Scope) -> str | None:
    """Return the name that the host is called by, without its port; None where there is not exactly one."""
    hosts = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"]
    found = _AUTHORITY.fullmatch(hosts[0]) if len(hosts) == 1 else None
    return None if found is None else found[1]


def _with_forwarded_scheme(scope: Scope) -> Scope:
    # The first of what proxies have put in a row is what the client used.
    scheme = (_header(scope, b"x-forwarded-proto") or "").partition(",")[0].strip().lower()
    return {**scope, "scheme": scheme} if scheme in ("http", "https") else scope


def _with_forwarded_for(scope: Scope) -> Scope:
    """Append the address of the peer to ``X-Forwarded-For``, with its port, as the front end of Azure App Service does.

    So the last one is always the host's own word, whatever a client writes there.
    """
    address, port = scope.get("client") or ("", 0)
    peer = (f"[{address}]:{port}" if ":" in address else f"{address}:{port}") if address else "unknown"
    name = b"x-forwarded-for"
    hops = [value for each, value in scope["headers"] if each == name]
    others = [header for header in scope["headers"] if header[0] != name]
    return {**scope, "headers": [*others, (name, b", ".join([*hops, peer.encode()]))]}


def _header(scope: Scope, name: bytes) -> str | None:
    return next((value.decode("latin-1") for each, value in scope["headers"] if each == name), None)
