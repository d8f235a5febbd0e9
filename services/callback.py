"""Posting outcomes to other systems, signed as the Standard Webhooks specification says.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import binascii
import hmac

from contracts.guarded_call import Problem
from services.addresses import Address, check_address
from services.clock import now
from services.http_exchange import Deadline, NoAnswer, exchange
from settings import get_settings

SECONDS = 10.0
"""How long the receiver may take in all; looking up its name is not counted."""
_PROBLEMS: dict[Problem, str] = {
    "timeout": "it did not answer in {seconds:g} seconds",
    "tls": "its certificate is not trusted, or it does not speak TLS",
    "unreachable": "it cannot be reached",
}

_HOW_TO = "python -c 'import base64, secrets; print(\"whsec_\" + base64.b64encode(secrets.token_bytes(32)).decode())'"


def check_callback_key() -> None:
    """Raise ``ValueError``, with a sentence that holds nothing of it, where ``CALLBACK_KEY`` cannot be a key."""
    _keys()


def check_callback(url: str) -> None:
    """Raise ``ValueError``, with a sentence for who sent it, unless outcomes may be posted to this address."""
    _check(url)


def post(url: str, message_id: str, body: bytes, *, seconds: float = SECONDS) -> int:
    """Post JSON to an address, signed with each of the keys, and return the status of the answer, whatever it is.

    ``message_id`` is ASCII without dots, and the same for each repetition. Redirects are not followed, and the body of
    the answer is not read. Raises ``ValueError`` as ``check_callback`` does, and ``OSError`` when no answer comes.
    """
    address = _check(url)
    timestamp = str(int(now().timestamp()))
    signed = b".".join([message_id.encode("ascii"), timestamp.encode(), body])
    signatures = [base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in _keys()]
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "Countersign",
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
    try:
        with Deadline(seconds) as deadline:
            return exchange(address, "POST", url, headers, body=body, deadline=deadline, only_head=True).status
    except NoAnswer as none:
        problem = _PROBLEMS.get(none.problem, "it gave no answer that can be read").format(seconds=seconds)
    raise OSError(f"The outcome could not be posted to {address.host}: {problem}")


def _check(url: str) -> Address:
    address = check_address(url, name="callback_url", setting="CALLBACK_HOSTS", hosts=get_settings().callback_hosts)
    if not _keys():
        raise ValueError("outcomes are not posted: the setting CALLBACK_KEY, which signs them, is not set")
    return address


def _keys() -> list[bytes]:
    """The keys, newest first; none where there is no ``CALLBACK_KEY``."""
    secret = get_settings().callback_key
    if secret is None:
        return []
    try:
        texts = [text.strip().removeprefix("whsec_") for text in secret.get_secret_value().split(",")]
        keys = [base64.b64decode(text, validate=True) for text in texts]
    except (binascii.Error, ValueError):
        keys = [b""]
    if not all(24 <= len(key) <= 64 for key in keys):
        problem = f"CALLBACK_KEY has to be 24 to 64 bytes in base64, or several with commas between them: {_HOW_TO}"
        raise ValueError(problem) from None
    return keys
