"""An issuer of tokens on loopback, with real keys, and all the ways in which a token can be no good.

with issuer() as ours:
    monkeypatch.setenv("AUTH_ISSUER", ours.url)
    ours.token(roles=["execution:read"])
    bad_tokens(ours)["expired"]
"""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm

from tests.failing_server import FailingServer, Reply, failing_server

AUDIENCE = "api://countersign"
KEYS_PATH = "/keys"
DISCOVERY = "/.well-known/openid-configuration"
BAD = [
    "other claims",
    "other signature",
    "no signature",
    "expired",
    "no expiry",
    "an expiry that is no time",
    "not yet valid",
    "issued tomorrow",
    "a foreign issuer",
    "no issuer",
    "a foreign audience",
    "no audience",
    "no algorithm",
    "no algorithm, in capitals",
    "the public key as a secret",
    "a key of somebody else",
    "an unknown key",
    "a key that it brings along",
    "no key named",
    "an algorithm that the key is not for",
    "something that must be understood",
    "a token for logging out",
    "a type that is no text",
    "too long",
    "nobody",
    "a name in two lines",
    "no JWT",
    "two dots",
    "a header that is no object",
    "a deep header",
    "four parts",
]
"""What can be wrong with a token."""


@cache
def rsa_key(which: str, size: int = 2048) -> RSAPrivateKey:
    """A key by its name, the same one each time: making one takes long."""
    return generate_private_key(65537, size)


def published(key: RSAPrivateKey, kid: str, **more: Any) -> dict[str, Any]:
    """A key as an issuer publishes it; Entra names no algorithm."""
    made: dict[str, Any] = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return made | {"kid": kid, "use": "sig"} | more


class Issuer:
    """An issuer, whose keys are known by ``kid``: ``one`` is ours."""

    def __init__(self, server: FailingServer) -> None:
        self.server = server
        self.url = server.url("/tenant/v2.0").rstrip("/")
        self.publishes(published(rsa_key("one"), "one"))
        document = {"issuer": self.url, "jwks_uri": server.url(KEYS_PATH)}
        server.answers("/tenant/v2.0" + DISCOVERY, [Reply(body=json.dumps(document).encode())])

    def publishes(self, *keys: Any) -> None:
        """Publish these keys from now on."""
        self.server.answers(KEYS_PATH, [Reply(body=json.dumps({"keys": keys}).encode())])

    @property
    def times_asked(self) -> int:
        """How often somebody asked for the keys."""
        return sum(got.path == KEYS_PATH for got in self.server.requests)

    def claims(self, **more: Any) -> dict[str, Any]:
        """The claims of a good token, and ``more``; None takes one away."""
        now = int(time.time())
        claims = {"iss": self.url, "aud": AUDIENCE, "iat": now, "nbf": now, "exp": now + 3600, "sub": "pairwise"}
        named = {"preferred_username": "alice@example.com", "roles": ["execution:read"]}
        return {name: value for name, value in (claims | named | more).items() if value is not None}

    def token(
        self, key: Any = None, kid: str | None = "one", alg: str = "RS256", typ: Any = "JWT", **claims: Any
    ) -> str:
        """A token, good unless something else is said. An empty ``typ`` is left out."""
        headers = {"typ": typ} | ({"kid": kid} if kid is not None else {})
        return jwt.encode(self.claims(**claims), key or rsa_key("one"), alg, headers=headers)


@contextmanager
def issuer() -> Iterator[Issuer]:
    """Serve an issuer's keys, and where they are."""
    with failing_server() as server:
        yield Issuer(server)


def bad_tokens(ours: Issuer) -> dict[str, str]:
    """Tokens that are no good, by what is wrong with them."""
    good, now = ours.token(), int(time.time())
    head, body, signature = good.split(".")
    more = _part(ours.claims(roles=["audit:erase"]))
    public = rsa_key("one").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    as_hmac = f"{_part({'alg': 'HS256', 'kid': 'one', 'typ': 'JWT'})}.{more}"
    made = {
        "other claims": f"{head}.{more}.{signature}",
        "other signature": f"{head}.{body}.{_changed(signature)}",
        "no signature": f"{head}.{body}.",
        "expired": ours.token(exp=now - 120),
        "no expiry": ours.token(exp=None),
        "an expiry that is no time": ours.token(exp="never"),
        "not yet valid": ours.token(nbf=now + 120),
        "issued tomorrow": ours.token(iat=now + 86_400),
        "a foreign issuer": ours.token(iss=ours.url + "/"),
        "no issuer": ours.token(iss=None),
        "a foreign audience": ours.token(aud="api://another"),
        "no audience": ours.token(aud=None),
        "no algorithm": f"{_part({'alg': 'none', 'kid': 'one'})}.{more}.",
        "no algorithm, in capitals": f"{_part({'alg': 'None', 'kid': 'one'})}.{more}.{signature}",
        "the public key as a secret": f"{as_hmac}.{_text(hmac.digest(public, as_hmac.encode(), hashlib.sha256))}",
        "a key of somebody else": ours.token(rsa_key("other")),
        "an unknown key": ours.token(rsa_key("other"), kid="another"),
        "a key that it brings along": jwt.encode(
            ours.claims(), rsa_key("other"), "RS256", headers={"jwk": published(rsa_key("other"), "x"), "kid": "x"}
        ),
        "no key named": ours.token(kid=None),
        "an algorithm that the key is not for": ours.token(alg="RS512"),
        "something that must be understood": jwt.encode(
            ours.claims(), rsa_key("one"), "RS256", headers={"kid": "one", "crit": ["x"], "x": 1}
        ),
        "a token for logging out": ours.token(typ="logout+jwt"),
        "a type that is no text": ours.token(typ=7),
        "too long": ours.token(padding="x" * 20_000),
        "nobody": ours.token(sub=None, preferred_username=None),
        "a name in two lines": ours.token(sub="alice\nbob", preferred_username="alice\nbob"),
        "no JWT": "abc",
        "two dots": "..",
        "a header that is no object": f"{_part([1])}.{body}.{signature}",
        "a deep header": f"{_text(b'[' * 9000)}.{body}.{signature}",
        "four parts": f"{good}.{signature}",
    }
    assert list(made) == BAD
    return made


def _changed(signature: str) -> str:
    return ("A" if signature[0] != "A" else "B") + signature[1:]


def _part(value: Any) -> str:
    return _text(json.dumps(value).encode())


def _text(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()
