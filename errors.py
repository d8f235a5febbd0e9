"""The errors of the app; each knows the HTTP status that it is answered with.

    CountersignError
    ├── BadRequest              400  not JSON, or an id or a header that cannot be
    ├── Unauthorized            401  nobody says who he is, or not so that it can be believed
    ├── Forbidden               403  a browser sent it from another site, or this person may not do it
    │   └── NotPermitted             the caller has not got the permission that it needs
    ├── NotFound                404  no such instance, or it belongs to another workflow
    ├── Conflict                409
    │   ├── AlreadyDecided           somebody else's decision came first
    │   └── AlreadyStarted           the instance id is taken
    ├── TooLate                 410  it timed out, or ended, before this decision
    ├── PayloadTooLarge         413
    ├── NotAForm                415  a page was sent what its form does not send
    ├── Unprocessable           422  JSON, but not what was asked for; names each bad field
    ├── TooMany                 429  that was done too often, or too soon after the last time
    └── Unavailable             503
        ├── HubUnavailable           the task hub does not answer
        └── RecordsUnavailable       the record store does not answer

Triggers raise them; ``triggers.web.answers_errors`` turns them into RFC 9457 problem details. Every ``detail``
is written for the person who gets it, and ``members`` are the facts that a program may need.
"""

from typing import Any, ClassVar


class CountersignError(Exception):
    """The root of all errors that a client may see.

    ``detail`` says what is wrong and what to do; ``members`` are added to the problem document.
    """

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    slug: ClassVar[str] = "internal-error"

    def __init__(self, detail: str, **members: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.members = members


class BadRequest(CountersignError):
    """The request cannot be read."""

    status, title, slug = 400, "Bad request", "bad-request"


class Unauthorized(CountersignError):
    """Nobody says who he is, or (``is_given``) what was given to show it is not good."""

    status, title, slug = 401, "Unauthorized", "unauthorized"

    def __init__(self, detail: str, *, is_given: bool = True) -> None:
        super().__init__(detail)
        self.is_given = is_given


class Forbidden(CountersignError):
    """The caller may not do this."""

    status, title, slug = 403, "Forbidden", "forbidden"


class NotPermitted(Forbidden):
    """The caller has not got a permission; ``permission`` says which."""

    title, slug = "Not permitted", "not-permitted"


class NotFound(CountersignError):
    """There is no such instance in this workflow."""

    status, title, slug = 404, "Not found", "not-found"


class Conflict(CountersignError):
    """The request is at odds with what has happened."""

    status, title, slug = 409, "Conflict", "conflict"


class AlreadyDecided(Conflict):
    """Another decision came first; the members say whose and when."""

    title, slug = "Already decided", "already-decided"


class AlreadyStarted(Conflict):
    """The instance id is in use."""

    title, slug = "Already started", "already-started"


class TooLate(CountersignError):
    """The run ended without a decision before this one came."""

    status, title, slug = 410, "Too late", "too-late"


class PayloadTooLarge(CountersignError):
    """The body is over the limit."""

    status, title, slug = 413, "Payload too large", "payload-too-large"


class NotAForm(CountersignError):
    """The body is no form of a page."""

    status, title, slug = 415, "Not a form", "not-a-form"


class Unprocessable(CountersignError):
    """The body is JSON but not valid; ``errors`` names each bad field."""

    status, title, slug = 422, "Unprocessable content", "unprocessable"


class TooMany(CountersignError):
    """It was done too often, or too soon after the last time; ``retry_after`` says in seconds when it may be."""

    status, title, slug = 429, "Too many requests", "too-many-requests"


class Unavailable(CountersignError):
    """What the app needs does not answer; trying again later is right."""

    status, title, slug = 503, "Unavailable", "unavailable"


class HubUnavailable(Unavailable):
    """The task hub does not answer."""

    title, slug = "Task hub unavailable", "hub-unavailable"


class RecordsUnavailable(Unavailable):
    """The record store does not answer."""

    title, slug = "Records unavailable", "records-unavailable"
