"""Calls to outside APIs: one attempt, and what came of it, whatever the other side does."""

import json
import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin

from pydantic import JsonValue
from requests.structures import CaseInsensitiveDict

from contracts.form import check_form, wrong_answers
from contracts.guarded_call import Answer, Attempt, HttpCall, Problem, SimulatedCall
from services import error_text
from services.addresses import Address, check_address, read_address
from services.clock import now
from services.http_exchange import REDIRECTS, Deadline, NoAnswer, Received, exchange
from settings import get_settings

MAX_REDIRECTS = 3
MAX_LEVELS = 100
"""How deep the JSON of an answer is nested; what carries it on takes about twice as much."""
SIMULATED = "simulated"
"""The host of simulated calls, in fingerprints."""

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_CHARSETS = ("utf-8", "us-ascii", "iso-8859-1", "windows-1252", "utf-16")


class _Failed(Exception):
    """The attempt failed: how, and what is said of it, perhaps with secrets, or half of one at its end."""

    def __init__(
        self,
        problem: Problem,
        said: str,
        status: int | None = None,
        retry_after: float | None = None,
        *,
        is_whole: bool = True,
    ) -> None:
        super().__init__(said)
        self.problem, self.said, self.is_whole = problem, said, is_whole
        self.status, self.retry_after = status, retry_after


def check_call(call: SimulatedCall | HttpCall) -> None:
    """Raise ``ValueError``, with a sentence for who sent it, unless this may be called."""
    if isinstance(call, HttpCall):
        _address(call)
    elif call.accepts is not None:
        check_form(call.accepts)


def check_apis() -> None:
    """Raise ``ValueError`` where an API that the settings name could not be called."""
    settings = get_settings()
    if settings.refund_api is not None:
        check_address(str(settings.refund_api), name="REFUND_API", setting="CALL_HOSTS", hosts=settings.call_hosts)


def make(attempt: Attempt) -> Answer:
    """Make one attempt. Whatever the other side, or the network, does is in the answer, and raises nothing.

    The time of a call is for all of it, except for looking up the name of the host; where that has several addresses,
    each of them is given as much time to be reached. Redirects are followed to the same scheme, host and port only,
    and where the method stays what it is.
    """
    call = attempt.call
    host = SIMULATED
    try:
        if isinstance(call, HttpCall):
            found = read_address(call.url)
            host = found.named if found else ""
        status, result = _call(call, attempt)
    except _Failed as failed:
        message = error_text.shown(failed.said, error_text.secrets_of(call), is_whole=failed.is_whole)
        return Answer(
            problem=failed.problem,
            status=failed.status,
            message=message,
            fingerprint=error_text.fingerprint(failed.problem, host, failed.status, message),
            retry_after=failed.retry_after,
        )
    return Answer(status=status, result=result)


def _call(call: SimulatedCall | HttpCall, attempt: Attempt) -> tuple[int, JsonValue]:
    try:
        check_call(call)
    except ValueError as error:
        raise _Failed("not_allowed", f"{error}.") from None
    if isinstance(call, SimulatedCall):
        return _simulated(call, attempt.number)
    return _over_http(call, attempt.key)


def _simulated(call: SimulatedCall, number: int) -> tuple[int, JsonValue]:
    if number <= call.fails:
        raise _Failed("status", f"The simulated API answers {call.status}.", call.status)
    if call.accepts is not None:
        wrong = {"": "the body is no object"}
        if isinstance(call.body, dict):
            wrong = wrong_answers(call.accepts, call.body)
        if wrong:
            said = "; ".join(f"{field}: {what}" if field else what for field, what in wrong.items())
            raise _Failed("status", f"The simulated API answers 422: {said}", 422)
    return 200, call.body if call.result is None else call.result


def _address(call: HttpCall) -> Address:
    return check_address(call.url, name="url", setting="CALL_HOSTS", hosts=get_settings().call_hosts)


def _over_http(call: HttpCall, key: str) -> tuple[int, JsonValue]:
    address, url = _address(call), call.url
    body = None if call.body is None else json.dumps(call.body).encode()
    headers = CaseInsensitiveDict({"User-Agent": "Countersign", "Accept": "application/json"})
    if body is not None:
        headers["Content-Type"] = "application/json"
    headers.update(call.headers)
    headers["Idempotency-Key"] = key
    with Deadline(call.timeout) as deadline:
        for _ in range(MAX_REDIRECTS + 1):
            try:
                received = exchange(address, call.method, url, headers, body=body, deadline=deadline)
            except NoAnswer as none:
                raise _Failed(none.problem, str(none)) from None
            if received.status not in REDIRECTS:
                return received.status, _result(address, received)
            url = _next(address, call, url, received)
    raise _redirected(received, f"{address.named} redirects more than {MAX_REDIRECTS} times.")


def _next(address: Address, call: HttpCall, url: str, received: Received) -> str:
    """Return the address that a redirect leads to. Raises ``_Failed`` where that is not to be followed."""
    says = f"{address.named} answers {received.status}"
    location = received.headers.get("Location")
    try:
        to = urljoin(url, location) if location else ""
    except ValueError:
        to = ""
    leads_to = read_address(to)
    if leads_to is None:
        raise _redirected(received, f"{says}, without an address that can be read.")
    if leads_to != address:
        where = f"{leads_to.scheme}://{leads_to.named[:100]}"
        raise _redirected(received, f"{says}, and leads to {where}, which is not followed.")
    if call.method != "GET" and received.status not in (307, 308):
        raise _redirected(received, f"{says}, which is not followed, since it would make a GET of a {call.method}.")
    return to


def _redirected(received: Received, said: str) -> _Failed:
    return _Failed("redirected", said, received.status, _retry_after(received))


def _result(address: Address, received: Received) -> JsonValue:
    """Return what an answer gives. Raises ``_Failed`` unless it is a success, and can be read."""
    status, retry_after = received.status, _retry_after(received)
    if not 200 <= status < 300:
        text = _text(received)
        said = f"{address.named} answers {status}{f': {text}' if text else '.'}"
        raise _Failed("status", said, status, retry_after, is_whole=received.flaw is None)
    if received.flaw is not None:
        raise _Failed(received.flaw.problem, str(received.flaw), status, retry_after)
    if not received.body:
        return None
    kind = received.headers.get_content_type()
    if kind not in ("application/json", "text/json") and not kind.endswith("+json"):
        return _text(received)
    try:
        return _json(received.body)
    except (ValueError, RecursionError):
        raise _Failed("unreadable", f"{address.named} answers with what is no JSON.", status, retry_after) from None


def _text(received: Received) -> str:
    charset = received.headers.get_content_charset("utf-8")
    # Not any codec that there is: some take long, and some make half surrogates.
    text = received.body.decode(charset if charset in _CHARSETS else "utf-8", "replace")
    return _CONTROL.sub("", text)


def _json(body: bytes) -> JsonValue:
    """Read JSON; half a surrogate pair becomes a replacement character. Raises ``ValueError`` or ``RecursionError``."""
    # Written and read again: a number may be too large for JSON, and half a surrogate stands in no table.
    text = json.dumps(json.loads(body), ensure_ascii=False, allow_nan=False)
    value: JsonValue = json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    level = [value]
    for _ in range(MAX_LEVELS):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
    if level:
        raise ValueError("it is nested too deep")
    return value


def _retry_after(received: Received) -> float | None:
    """Return the seconds that an answer asks to wait, if it does, and can be read."""
    text = received.headers.get("Retry-After", "").strip()
    if re.fullmatch("[0-9]{1,9}", text):
        return float(text)
    try:
        at = parsedate_to_datetime(text)
        seconds = ((at if at.tzinfo else at.replace(tzinfo=UTC)) - now()).total_seconds()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return seconds if seconds >= 0 else None
