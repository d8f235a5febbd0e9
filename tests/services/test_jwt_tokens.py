"""Tokens of an issuer: which count, whose they are, and how often the issuer is asked for its keys."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as ec_key
from jwt.algorithms import ECAlgorithm

from errors import Unauthorized, Unavailable
from services import jwt_tokens, snapshot
from services.authentication import check_identity
from services.identity import Caller
from services.jwt_tokens import caller_of_token
from settings import get_settings
from tests import failing_server as failing
from tests.failing_server import Reply, nobody_there
from tests.tokens import AUDIENCE, BAD, DISCOVERY, KEYS_PATH, Issuer, bad_tokens, issuer, published, rsa_key


@pytest.fixture
def ours(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Issuer]:
    """An issuer whose tokens count."""
    with issuer() as made:
        configure(monkeypatch, AUTH_ISSUER=made.url, AUTH_AUDIENCE=f"api://first, {AUDIENCE}")
        yield made


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the clock of what is kept."""
    moved = [0.0]
    began = time.monotonic()
    monkeypatch.setattr(snapshot, "monotonic", lambda: began + moved[0])

    def move(seconds: float) -> None:
        moved[0] += seconds

    return move


def configure(monkeypatch: pytest.MonkeyPatch, **settings: str) -> None:
    """Set ``AUTH=entra`` and what goes with it."""
    for name, value in ({"AUTH": "entra"} | settings).items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    check_identity()


def caller(token: str) -> Caller:
    """Who a token is of."""
    return asyncio.run(caller_of_token(token))


def refused(token: str) -> str:
    """What is said of a token that does not count."""
    with pytest.raises(Unauthorized) as error:
        caller(token)
    return error.value.detail


@pytest.fixture
def entra(ours: Issuer, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets the tokens come from an issuer of another name, with the keys of ours."""

    def named(url: str) -> None:
        ours.url = url
        configure(monkeypatch, AUTH_ISSUER=url, AUTH_JWKS_URL=ours.server.url(KEYS_PATH))

    return named


def test_a_good_token_says_who_calls_and_what_he_may_do(ours: Issuer) -> None:
    roles = ["execution:read", "audit:erase", "another app's", "execution:*", 7, None]
    found = caller(ours.token(roles=roles, scp="execution:cancel approval:admin", email="boss@example.com"))
    assert found == Caller("pairwise", frozenset({"execution:read", "audit:erase"}))


@pytest.mark.parametrize(
    ("claims", "name"),
    [
        ({"upn": "a@b.example"}, "alice@example.com"),
        ({"preferred_username": None, "upn": "a@b.example", "azp": "app"}, "a@b.example"),
        ({"preferred_username": None, "azp": "an-app", "sub": "x"}, "an-app"),
        ({"preferred_username": "", "appid": "an-app-of-v1"}, "an-app-of-v1"),
        ({"preferred_username": None, "email": "boss@example.com", "name": "The Boss"}, "pairwise"),
    ],
)
def test_a_caller_is_called_by_what_entra_knows_for_sure(
    ours: Issuer, entra: Callable[[str], None], claims: dict[str, Any], name: str
) -> None:
    entra("https://login.microsoftonline.com/tenant/v2.0")
    assert caller(ours.token(**claims)).name == name


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://login.microsoftonline.us/tenant/v2.0", "alice@example.com"),
        ("https://login.partner.microsoftonline.cn/tenant/v2.0", "alice@example.com"),
        ("https://sts.windows.net/tenant/", "alice@example.com"),
        ("https://login.microsoftonline.com.example/tenant/v2.0", "pairwise"),
        ("https://issuer.example/https://sts.windows.net/", "pairwise"),
        ("https://tenant.ciamlogin.com/tenant/v2.0", "pairwise"),
    ],
)
def test_by_a_name_that_people_may_choose_nobody_is_called(
    ours: Issuer, entra: Callable[[str], None], url: str, name: str
) -> None:
    entra(url)
    assert caller(ours.token(upn="boss@example.com", azp="an-app")).name == name
    if name == "pairwise":
        refused(ours.token(sub=None, upn="boss@example.com", azp="an-app"))


@pytest.mark.parametrize("url", [None, "https://sts.windows.net/tenant/"])
def test_by_the_claim_that_the_operator_vouches_for_everybody_is_called_or_is_nobody(
    ours: Issuer, entra: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, url: str | None
) -> None:
    if url is not None:
        entra(url)
    claim = "https://issuer.example/staff_no"
    configure(monkeypatch, AUTH_NAME_CLAIM=claim)
    assert caller(ours.token(**{claim: "alice-7"})).name == "alice-7"
    bad: list[Any] = [None, "", 7, ["alice-7"], "alice\nbob"]
    for no_name in bad:
        refused(ours.token(**{claim: no_name}))


@pytest.mark.parametrize("claim", ["", "two claims", "sub,upn", "sub\n", "x" * 101])
def test_what_can_be_no_claim_is_no_setting(data_folder: Path, monkeypatch: pytest.MonkeyPatch, claim: str) -> None:
    with pytest.raises(ValueError, match="auth_name_claim"):
        configure(monkeypatch, AUTH_NAME_CLAIM=claim)


@pytest.mark.parametrize("typ", ["", "JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt", "Application/JWT"])
def test_a_token_for_access_may_say_so(ours: Issuer, typ: str) -> None:
    assert caller(ours.token(typ=typ))


@pytest.mark.parametrize("typ", ["dpop+jwt", "secevent+jwt", "application/logout+jwt", "x/jwt", " ", ["JWT"], True])
def test_a_token_that_is_for_something_else_does_not_count(ours: Issuer, typ: Any) -> None:
    refused(ours.token(typ=typ))
    assert not ours.server.requests


@pytest.mark.parametrize("roles", [None, [], "execution:readx", {"execution:read": True}, 1, [["execution:read"]]])
def test_without_a_role_nobody_may_do_anything(ours: Issuer, roles: Any) -> None:
    assert caller(ours.token(roles=roles)).permissions == frozenset()


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_good(ours: Issuer, what: str) -> None:
    token = bad_tokens(ours)[what]
    assert token[-20:] not in refused(token)
    assert caller(ours.token())


def test_what_can_be_told_of_a_token_without_its_key_is_told_without_asking_the_issuer(ours: Issuer) -> None:
    bad = bad_tokens(ours)
    for what in ("no algorithm", "the public key as a secret", "too long", "no key named", "no JWT", "two dots"):
        refused(bad[what])
    assert not ours.server.requests


def test_clocks_may_differ_by_a_minute(ours: Issuer) -> None:
    now = int(time.time())
    assert caller(ours.token(exp=now - 30, nbf=now + 30, iat=now + 30))
    assert "expired" in refused(ours.token(exp=now - 90))
    assert "not good yet" in refused(ours.token(nbf=now + 90))


def test_an_audience_of_several_is_enough_on_both_sides(ours: Issuer) -> None:
    assert caller(ours.token(aud=["api://another", "api://first"]))
    refused(ours.token(aud=["api://another", ""]))
    refused(ours.token(aud="api://first, api://countersign"))


@pytest.mark.parametrize("alg", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"])
def test_a_key_is_good_for_the_algorithm_that_its_issuer_names(ours: Issuer, alg: str) -> None:
    ours.publishes(published(rsa_key("one"), "one", alg=alg))
    assert caller(ours.token(alg=alg))
    refused(ours.token(alg="PS256" if alg == "RS256" else "RS256"))


def test_an_elliptic_key_is_taken_and_keys_for_something_else_are_passed_over(ours: Issuer) -> None:
    curve = ec_key(SECP256R1())
    secret = {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3I", "kid": "secret"}
    ours.publishes(
        "no key",
        {"kty": "RSA", "kid": "broken", "n": "!", "e": "AQAB"},
        {"kty": "PQC", "kid": "future"},
        secret,
        published(rsa_key("one"), "one", use="enc"),
        published(rsa_key("one", 1024), "weak"),
        {key: value for key, value in published(rsa_key("one"), "x").items() if key != "kid"},
        ECAlgorithm.to_jwk(curve.public_key(), as_dict=True) | {"kid": "curve"},
    )
    assert caller(ours.token(curve, "curve", "ES256"))
    refused(ours.token())
    with pytest.warns(jwt.warnings.InsecureKeyLengthWarning):  # of who signs with it
        weak = ours.token(rsa_key("one", 1024), "weak")
    refused(weak)
    refused(ours.token(b"secret-secret-secret-secret-secr", "secret", "HS256"))


def test_the_keys_are_asked_for_once_and_where_the_settings_say(ours: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, AUTH_JWKS_URL=ours.server.url(KEYS_PATH))

    async def many() -> list[Caller]:
        return await asyncio.gather(*(caller_of_token(ours.token()) for _ in range(20)))

    assert len(asyncio.run(many())) == 20
    assert [got.path for got in ours.server.requests] == [KEYS_PATH]


def test_tokens_that_name_unknown_keys_do_not_make_the_app_ask_again_and_again(
    ours: Issuer, pass_time: Callable[[float], None]
) -> None:
    async def many() -> list[Any]:
        made = (caller_of_token(ours.token(rsa_key("other"), f"kid{each}")) for each in range(30))
        return await asyncio.gather(*made, return_exceptions=True)

    assert caller(ours.token())
    assert {type(each) for each in asyncio.run(many())} == {Unauthorized}
    assert ours.times_asked == 1
    pass_time(jwt_tokens.UNKNOWN + 1)
    assert {type(each) for each in asyncio.run(many())} == {Unauthorized}
    assert ours.times_asked == 2


def test_a_new_key_of_the_issuer_is_found_and_one_that_it_withdrew_is_forgotten(
    ours: Issuer, pass_time: Callable[[float], None]
) -> None:
    assert caller(ours.token())
    ours.publishes(published(rsa_key("other"), "new"))
    pass_time(jwt_tokens.UNKNOWN + 1)
    assert caller(ours.token(rsa_key("other"), "new"))
    refused(ours.token())


def test_keys_are_read_again_in_an_hour_and_kept_for_a_day_while_the_issuer_is_away(
    ours: Issuer, pass_time: Callable[[float], None]
) -> None:
    token = ours.token(exp=int(time.time()) + 10 * 86_400)
    assert caller(token)
    ours.server.answers(KEYS_PATH, [Reply(500)])
    pass_time(jwt_tokens.FRESH - 1)
    assert caller(token)
    assert ours.times_asked == 1
    pass_time(2)
    assert caller(token)
    assert ours.times_asked == 2
    with pytest.raises(Unavailable):  # which may be known, when it answers again
        caller(ours.token(rsa_key("other"), "new"))
    pass_time(jwt_tokens.KEEP)
    with pytest.raises(Unavailable):
        caller(token)


def document(**more: Any) -> Reply:
    """What an issuer says of itself."""
    return Reply(body=json.dumps(more).encode())


GOOD = b"keys that are good"
NO_KEYS = {
    "an error": Reply(500, GOOD),
    "broken off": Reply(200, GOOD, {"Content-Length": "60000"}),
    "a list": Reply(200, b"[]"),
    "keys that are no list": Reply(200, b'{"keys": {}}'),
    "no keys": Reply(200, b'{"keys": []}'),
    "a secret": Reply(200, b'{"keys": [{"kty": "oct", "k": "AAAA", "kid": "one"}]}'),
    "deep": Reply(200, b"[" * 60_000),
    "no text": Reply(200, b"\xff"),
    "big": failing.big(),
    "bomb": failing.gzip_bomb(),
    "half": failing.half_a_body(),
    "redirect": failing.redirect("/elsewhere"),
    "no HTTP": failing.no_http(),
    "hang": failing.hang(),
    "drip": failing.drip(),
}


@pytest.mark.parametrize("reply", NO_KEYS.values(), ids=list(NO_KEYS))
def test_an_issuer_that_gives_no_keys_is_unavailable_and_left_in_peace_for_a_while(
    ours: Issuer, reply: Reply, monkeypatch: pytest.MonkeyPatch, pass_time: Callable[[float], None]
) -> None:
    monkeypatch.setattr(jwt_tokens, "SECONDS", 0.2)
    good = json.dumps({"keys": [published(rsa_key("one"), "one")]}).encode()
    ours.server.answers("/elsewhere", [Reply(body=good)])
    ours.server.answers(KEYS_PATH, [replace(reply, body=good) if reply.body == GOOD else reply])
    for _ in range(3):
        with pytest.raises(Unavailable, match="Try again"):
            caller(ours.token())
    assert ours.times_asked == 1
    ours.publishes(published(rsa_key("one"), "one"))
    pass_time(jwt_tokens.REST + 1)
    assert caller(ours.token())


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("another issuer", "by another name than AUTH_ISSUER"),
        ("an open address", "by an https address"),
        ("no address", "by an https address"),
        ("nothing", "answered 404"),
    ],
)
def test_an_issuer_that_says_nothing_good_of_itself_is_unavailable(
    ours: Issuer, what: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    said = {
        "another issuer": document(issuer=ours.url + "/", jwks_uri=ours.server.url(KEYS_PATH)),
        "an open address": document(issuer=ours.url, jwks_uri="http://keys.example.com/"),
        "no address": document(issuer=ours.url, jwks_uri=7),
        "nothing": Reply(404),
    }
    ours.server.answers("/tenant/v2.0" + DISCOVERY, [said[what]])
    with pytest.raises(Unavailable):
        caller(ours.token())
    assert not ours.times_asked
    assert why in caplog.text


def test_an_issuer_that_is_not_there_is_unavailable(ours: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    with nobody_there() as host:
        configure(monkeypatch, AUTH_JWKS_URL=f"http://{host}/")
        with pytest.raises(Unavailable):
            caller(ours.token())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"AUTH_AUDIENCE": "x"}, "AUTH_ISSUER"),
        ({"AUTH_ISSUER": "https://issuer.example"}, "AUTH_AUDIENCE"),
        ({"AUTH_ISSUER": "https://issuer.example", "AUTH_AUDIENCE": " , "}, "AUTH_AUDIENCE"),
        ({"AUTH_ISSUER": "http://issuer.example", "AUTH_AUDIENCE": "x"}, "AUTH_ISSUER has to be an https"),
        ({"AUTH_ISSUER": "https://u:p@issuer.example", "AUTH_AUDIENCE": "x"}, "AUTH_ISSUER has to be an https"),
        (
            {"AUTH_ISSUER": "https://issuer.example", "AUTH_AUDIENCE": "x", "AUTH_JWKS_URL": "file:///etc/keys"},
            "AUTH_JWKS_URL",
        ),
    ],
)
def test_the_app_does_not_start_without_knowing_whose_tokens_count(
    data_folder: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        configure(monkeypatch, **settings)
