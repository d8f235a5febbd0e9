"""Identity: in whose name something is done, how callers are known, and when the app does not start."""

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import azure.functions as func
import pytest

from contracts.base import same_person
from errors import Forbidden, Unauthorized, Unavailable
from services.api_keys import forget_keys, make_key
from services.authentication import MAX_HEADER, check_identity, identify
from services.clock import now
from services.identity import (
    DEVELOPER_CALLER,
    PERMISSIONS,
    Caller,
    Permission,
    Said,
    calling,
    current_caller,
    named,
    speak_as,
)
from services.principal import MAX_CLAIMS, MAX_PRINCIPAL
from services.record_store import get_record_store
from settings import get_settings
from tests.tokens import AUDIENCE, issuer
from triggers.pages import answers_pages
from triggers.web import answers_errors

ALICE = Caller("alice@example.com", frozenset({"execution:read"}))
ADMIN = Caller("root", frozenset({"approval:admin"}))
SOAP = "http://schemas.xmlsoap.org/ws/2005/05/identity/claims"
ROLE = "http://schemas.microsoft.com/ws/2008/06/identity/claims/role"


@pytest.fixture
def configure(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Sets settings, by their names in the environment."""

    def sets(**settings: str) -> None:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        get_settings.cache_clear()

    forget_keys()
    yield sets
    forget_keys()


def who(method: str = "GET", *, is_page: bool = False, **headers: str) -> Caller:
    """Who sends a request with these headers."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return asyncio.run(identify(method, given, is_page=is_page))


def key_of(name: str, *permissions: Permission) -> str:
    """Make a key."""
    return make_key(get_record_store(), name, list(permissions) or ["execution:read"], now())


@pytest.mark.parametrize(
    ("caller", "named", "said"),
    [
        (DEVELOPER_CALLER, None, Said("developer")),
        (DEVELOPER_CALLER, "bob", Said("bob")),
        (ALICE, None, Said("alice@example.com")),
        (ALICE, " ALICE@Example.COM", Said("alice@example.com")),
        (ALICE, "ali\u200bce@example.com", Said("alice@example.com")),
        (ADMIN, None, Said("root")),
        (ADMIN, "bob", Said("root", "bob")),
        (None, "bob", Said("bob")),
    ],
)
def test_in_whose_name_something_is_done(caller: Caller | None, named: str | None, said: Said) -> None:
    with calling(caller):
        assert speak_as(named) == said


@pytest.mark.parametrize("permission", sorted(PERMISSIONS - {"approval:admin"}))
def test_nobody_speaks_for_somebody_else_without_the_permission_for_it(permission: Permission) -> None:
    with calling(Caller("alice", frozenset({permission}))), pytest.raises(Forbidden) as error:
        speak_as("bob")
    assert error.value.members == {"permission": "approval:admin"}


def test_where_nobody_calls_and_nobody_is_named_nobody_speaks() -> None:
    with pytest.raises(Unauthorized):
        speak_as(None)


@pytest.mark.parametrize("held", sorted(PERMISSIONS))
def test_a_permission_is_for_itself_alone_but_that_to_cancel(held: Permission) -> None:
    implied = {"execution:pause", "execution:resume"} if held == "execution:cancel" else set()
    assert {each for each in PERMISSIONS if Caller("alice", frozenset({held})).may(each)} == {held} | implied


def test_the_caller_is_known_in_the_threads_of_a_trigger_and_to_nobody_else(configure: Callable[..., None]) -> None:
    configure(AUTH="keys")
    keys = {name: key_of(name) for name in ("alice", "bob", "carol")}
    seen: list[tuple[str, str | None, str | None]] = []
    all_there = asyncio.Barrier(len(keys))

    async def trigger(req: func.HttpRequest, client: Any) -> func.HttpResponse:
        await all_there.wait()
        there = await asyncio.to_thread(current_caller)
        here = current_caller()
        seen.append((req.params["name"], here.name if here else None, there.name if there else None))
        return func.HttpResponse()

    async def call(name: str) -> Caller | None:
        headers = {"Authorization": f"Bearer {keys[name]}"}
        request = func.HttpRequest("GET", "/", headers=headers, params={"name": name}, body=b"")
        await answers_errors(trigger, "execution:read")(request, None)
        return current_caller()

    async def all_at_once() -> list[Caller | None]:
        return await asyncio.gather(*map(call, keys))

    assert asyncio.run(all_at_once()) == [None] * 3
    assert sorted(seen) == [(name, name, name) for name in sorted(keys)]


def test_behind_an_open_route_nobody_is_known_whatever_is_sent(configure: Callable[..., None]) -> None:
    configure(AUTH="keys")
    seen: list[Caller | None] = []

    async def trigger(req: func.HttpRequest, client: Any) -> func.HttpResponse:
        seen.append(current_caller())
        return func.HttpResponse()

    for header in ("Bearer x", "?", f"Bearer {key_of('alice')}"):
        request = func.HttpRequest("GET", "/", headers={"Authorization": header}, body=b"")
        for wrapped in (answers_errors(trigger, None), answers_pages(trigger, None)):
            assert asyncio.run(_answer(wrapped, request)).status_code == 200
    assert seen == [None] * 6


async def _answer(trigger: Callable[..., Any], request: func.HttpRequest) -> func.HttpResponse:
    answer: func.HttpResponse = await trigger(request, None)
    return answer


AZURE = {"WEBSITE_INSTANCE_ID": "0123"}
FLEX = {"WEBSITE_POD_NAME": "0123"}
CONSUMPTION = {"CONTAINER_NAME": "0123", "WEBSITE_SITE_NAME": "app"}
CONTAINER_APPS = {"MANAGED_ENVIRONMENT": "0123"}
TOKENS = {"AUTH": "entra", "AUTH_ISSUER": "https://issuer.example/", "AUTH_AUDIENCE": "x"}


@pytest.mark.parametrize(
    "platform",
    [AZURE, FLEX, CONSUMPTION, CONTAINER_APPS],
    ids=["app service", "flex", "consumption", "container apps"],
)
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "AUTH is not set"),
        ({"AUTH": "dev"}, "or is dev"),
        ({"AUTH": "easyauth"}, "WEBSITE_AUTH_ENABLED"),
        ({"AUTH": "easyauth", "WEBSITE_AUTH_ENABLED": "False"}, "WEBSITE_AUTH_ENABLED"),
        ({"AUTH": "easyauth", "WEBSITE_AUTH_ENABLED": ""}, "WEBSITE_AUTH_ENABLED"),
        ({"AUTH": "entra"}, "AUTH_ISSUER"),
    ],
)
def test_on_azure_the_app_does_not_start_where_everybody_would_be_let_in(
    configure: Callable[..., None], platform: dict[str, str], settings: dict[str, str], said: str
) -> None:
    configure(**platform, **settings)
    with pytest.raises(ValueError, match=said):
        check_identity()
    if settings.get("AUTH") in (None, "dev"):
        with pytest.raises(ValueError, match=said):
            who()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"AUTH": "dev"},
        {"AUTH": "keys"},
        TOKENS,
        AZURE | {"AUTH": "keys"},
        FLEX | TOKENS,
        CONTAINER_APPS | TOKENS,
        CONSUMPTION | {"AUTH": "easyauth", "WEBSITE_AUTH_ENABLED": "True"},
        AZURE | {"AUTH": "easyauth", "WEBSITE_AUTH_ENABLED": "true"},
        {"CONTAINER_NAME": "of my own"},
    ],
)
def test_where_it_starts(configure: Callable[..., None], settings: dict[str, str]) -> None:
    configure(**settings)
    check_identity()


def test_elsewhere_than_on_azure_no_header_of_the_platform_is_believed(configure: Callable[..., None]) -> None:
    configure(AUTH="easyauth", WEBSITE_AUTH_ENABLED="True")
    with pytest.raises(ValueError, match="anybody could say in a header"):
        check_identity()


@pytest.mark.parametrize("header", ["", "Bearer whatever", "Basic eDp5", "?", "é", "Bearer a,Bearer b"])
def test_for_a_developer_everybody_is_the_developer(configure: Callable[..., None], header: str) -> None:
    configure()
    assert who(authorization=header) == DEVELOPER_CALLER
    assert who("POST", x_ms_client_principal="e30=", is_page=True) == DEVELOPER_CALLER
    assert all(map(DEVELOPER_CALLER.may, PERMISSIONS))


def test_the_header_is_read_as_http_has_it(configure: Callable[..., None]) -> None:
    configure(AUTH="keys")
    key = key_of("alice")
    for header in (f"Bearer {key}", f"bearer {key}", f"BEARER   {key}", f"  Bearer {key}\t"):
        assert who(authorization=header).name == "alice"
    nothing = ["", "  ", f"Basic {password('x', key)}", f"Digest {key}"]
    unreadable = [key, f"Bearer{key}", f"Bearer\t{key}", "Bearer", "Bearer ", f"Bearer {key} {key}", f"Bearer {key}é"]
    unreadable += [f"Bearer {key},Bearer {key}", f"Bearer {key}, Basic x", f'Bearer "{key}"', f"Bearer \u00a0{key}"]
    unreadable += [f"Bearer {key[:-1]}=a", "Bearer " + "a" * MAX_HEADER, "=" * 100, "\u212abearer x"]
    for header in nothing + unreadable:
        with pytest.raises(Unauthorized) as error:
            who(authorization=header)
        assert error.value.is_given == (header not in nothing), header
        assert key not in error.value.detail


def password(name: str, key: str) -> str:
    """A name and a password as HTTP Basic sends them."""
    return base64.b64encode(f"{name}:{key}".encode()).decode()


def test_a_key_is_a_password_for_a_look_at_a_page_and_for_nothing_else(configure: Callable[..., None]) -> None:
    configure(AUTH="keys")
    key = key_of("alice")
    for basic in (f"Basic {password('whoever', key)}", f"basic {password('', key)}"):
        assert who(authorization=basic, is_page=True).name == "alice"
        assert who("HEAD", authorization=basic, is_page=True).name == "alice"
        for method, is_page in (("GET", False), ("HEAD", False), ("POST", True), ("PUT", True), ("get", True)):
            with pytest.raises(Unauthorized):
                who(method, authorization=basic, is_page=is_page)
    assert who("POST", authorization=f"Bearer {key}", is_page=True).name == "alice"
    no_colon, no_text = base64.b64encode(key.encode()).decode(), base64.b64encode(b"\xff:\xff").decode()
    for given in (password(key, ""), password("", key + ":"), no_colon, no_text, "abc", key):
        with pytest.raises(Unauthorized):
            who(authorization=f"Basic {given}", is_page=True)


def test_no_key_counts_where_tokens_do_nor_a_password(configure: Callable[..., None]) -> None:
    with issuer() as ours:
        configure(AUTH="entra", AUTH_ISSUER=ours.url, AUTH_AUDIENCE=AUDIENCE, AUTH_NAME_CLAIM="preferred_username")
        key = key_of("alice")
        assert who(authorization=f"Bearer {ours.token()}").name == "alice@example.com"
        for header in (f"Bearer {key}", f"Basic {password('', ours.token())}", f"Basic {password('', key)}"):
            with pytest.raises(Unauthorized):
                who(authorization=header, is_page=True)
        configure(AUTH="keys")
        with pytest.raises(Unauthorized):
            who(authorization=f"Bearer {ours.token()}")


def test_where_the_issuer_does_not_answer_that_is_not_the_callers_fault(configure: Callable[..., None]) -> None:
    with issuer() as ours:
        configure(AUTH="entra", AUTH_ISSUER=ours.url + "/elsewhere", AUTH_AUDIENCE=AUDIENCE)
        with pytest.raises(Unavailable):
            who(authorization=f"Bearer {ours.token()}")


@pytest.fixture
def signing_in(configure: Callable[..., None]) -> None:
    """App Service Authentication stands before the app."""
    configure(AUTH="easyauth", WEBSITE_AUTH_ENABLED="True", **AZURE)


def principal(*claims: tuple[str, str], **more: Any) -> str:
    """The header of the platform."""
    listed = [{"typ": kind, "val": value} for kind, value in claims]
    document = {"auth_typ": "aad", "name_typ": f"{SOAP}/emailaddress", "role_typ": ROLE, "claims": listed}
    return base64.b64encode(json.dumps(document | more).encode()).decode()


@pytest.mark.parametrize(
    ("claims", "name"),
    [
        ([("preferred_username", "alice@example.com"), ("upn", "b")], "alice@example.com"),
        ([(f"{SOAP}/upn", "alice@example.com")], "alice@example.com"),
        ([("azp", "an-app"), (f"{SOAP}/nameidentifier", "pairwise")], "an-app"),
        ([("preferred_username", ""), ("appid", "an-app")], "an-app"),
        ([("name", "The Boss"), ("email", "boss@example.com"), (f"{SOAP}/nameidentifier", "pairwise")], "pairwise"),
    ],
)
def test_a_person_of_entra_is_not_called_by_an_address_that_it_has_not_verified(
    signing_in: None, claims: list[tuple[str, str]], name: str
) -> None:
    given = principal(*claims, (f"{SOAP}/emailaddress", "boss@example.com"))
    assert who(x_ms_client_principal=given, x_ms_client_principal_name="boss@example.com").name == name


def test_what_a_person_may_do_comes_from_app_roles(signing_in: None) -> None:
    claims = [("roles", "execution:read"), (ROLE, "audit:erase"), ("groups", "approval:admin"), ("scp", "audit:read")]
    given = principal(("upn", "alice"), *claims, ("roles", "another app's"))
    assert who(x_ms_client_principal=given).permissions == {"execution:read", "audit:erase"}
    own = principal(("upn", "alice"), ("groups", "approval:admin"), (ROLE, "audit:erase"), role_typ="groups")
    assert who(x_ms_client_principal=own).permissions == {"approval:admin"}
    none = principal(("upn", "alice"), ("", "audit:erase"), role_typ=None)
    assert who(x_ms_client_principal=none).permissions == frozenset()


def test_of_other_providers_the_name_is_taken_that_the_platform_gives(signing_in: None) -> None:
    given = principal((f"{SOAP}/name", "octocat"), auth_typ="github", name_typ=f"{SOAP}/name")
    assert who(x_ms_client_principal=given, x_ms_client_principal_name="Octocat").name == "Octocat"
    assert who(x_ms_client_principal=given).name == "octocat"


def test_nobody_is_signed_in_without_the_header_whatever_else_is_sent(signing_in: None) -> None:
    key = key_of("alice")
    headers: dict[str, str]
    for headers in ({}, {"authorization": f"Bearer {key}"}, {"x-ms-client-principal-name": "alice"}):
        with pytest.raises(Unauthorized) as error:
            asyncio.run(identify("GET", headers))
        assert not error.value.is_given


@pytest.mark.parametrize(
    "given",
    [
        "no base64!",
        "e30",
        base64.b64encode(b"{}").decode(),
        base64.b64encode(b"\xff").decode(),
        base64.b64encode(b"[" * 40_000).decode(),
        principal(("upn", "alice"), auth_typ=7),
        principal(claims={}),
        principal(claims=[{"typ": "upn"}]),
        principal(claims=[["upn", "alice"]]),
        principal(("upn", "alice"), *[("roles", "x")] * MAX_CLAIMS),
        principal(("upn", "alice"), ("x", "x" * MAX_PRINCIPAL)),
        principal(("roles", "audit:erase")),
        principal(("upn", "alice\nbob")),
        principal(("upn", "a" * 300)),
        principal(("upn", "alice")) + "," + principal(("upn", "bob")),
    ],
    ids=range(15),
)
def test_a_header_that_cannot_be_read_is_nobodys(signing_in: None, given: str) -> None:
    with pytest.raises(Unauthorized) as error:
        who(x_ms_client_principal=given)
    assert len(error.value.detail) < 200


@pytest.mark.parametrize("name", ["alice@x.example.", "alice @x.example", "alice@ X.example", "\u200balice@x.example"])
def test_an_address_that_is_written_otherwise_is_the_same_person(name: str) -> None:
    assert same_person(name) == same_person("alice@x.example")


@pytest.mark.parametrize("name", ["\u200b\u2060", "", None, "two\nlines"])
def test_who_cannot_be_called_by_a_name_is_nobody(name: str | None) -> None:
    with pytest.raises(Unauthorized):
        named(name)
