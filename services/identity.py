"""Identity: who calls, what he may do, and in whose name something is done.

``AUTH`` says how callers are known. The wrapper of each trigger (``triggers.web``, ``triggers.pages``) finds out who
calls before anything else is read, and holds him against the permission that the route was registered with; in the
trigger, and in the threads that it starts with ``asyncio.to_thread``, ``current_caller()`` gives him.

How a trigger knows who does something::

    body = read_body(req, DecisionRequest, said_by="approver")  # the caller stands in where the body names nobody
    said = speak_as(body.approver)
    # said.actor is who does it, for rules and for the trail; said.on_behalf_of is who he does it for, or None
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pydantic import TypeAdapter, ValidationError

from contracts.base import Who, same_person
from errors import NotPermitted, Unauthorized

Permission = Literal[
    "execution:read",
    "execution:start",
    "execution:pause",
    "execution:resume",
    "execution:cancel",
    "workflow:write",
    "approval:decide",
    "approval:admin",
    "audit:read",
    "audit:erase",
]
PERMISSIONS: frozenset[Permission] = frozenset(get_args(Permission))
"""Everything that somebody can be allowed to do."""
DEVELOPER = "developer"
"""What everybody is called with ``AUTH=dev`` who does not say another name."""

_IMPLIED: dict[Permission, Permission] = {"execution:pause": "execution:cancel", "execution:resume": "execution:cancel"}


@dataclass(frozen=True)
class Caller:
    """Who calls: a name in one line, up to 254 characters, and what he may do.

    ``is_developer`` with ``AUTH=dev`` alone, where everybody may do everything in any name.
    """

    name: str
    permissions: frozenset[Permission] = field(default=frozenset())
    is_developer: bool = False

    def may(self, permission: Permission) -> bool:
        """Whether he has a permission, or one that implies it: who may cancel a run may pause and resume it."""
        return permission in self.permissions or _IMPLIED.get(permission) in self.permissions


@dataclass(frozen=True)
class Said:
    """Who does something, and the person that he does it for, where that is somebody else."""

    actor: str
    on_behalf_of: str | None = None


DEVELOPER_CALLER = Caller(DEVELOPER, PERMISSIONS, is_developer=True)
_WHO: TypeAdapter[str] = TypeAdapter(Who)
_CALLER: ContextVar[Caller | None] = ContextVar("caller", default=None)


def named(given: Any) -> str:
    """Return what a caller is called by what shows who he is. Raises ``Unauthorized`` when nobody can be called so."""
    try:
        name = _WHO.validate_python(given)
        if same_person(name):  # else there is nothing to be seen in it
            return name
    except ValidationError:
        pass
    raise Unauthorized("It is not said by which name you are to be called, in one line of text.")


def permissions_in(given: Iterable[Any]) -> frozenset[Permission]:
    """Return the permissions among other things that somebody has, such as roles in other apps."""
    return PERMISSIONS & {each for each in given if isinstance(each, str)}


def current_caller() -> Caller | None:
    """Return who calls, within a trigger; None on routes that are open to all, and where nobody calls."""
    return _CALLER.get()


@contextmanager
def calling(caller: Caller | None) -> Iterator[None]:
    """Make ``caller`` the one whom ``current_caller()`` gives, for as long as the context lasts."""
    token = _CALLER.set(caller)
    try:
        yield
    finally:
        _CALLER.reset(token)


def speak_as(named: str | None) -> Said:
    """Say who does something for which a request names ``named``, or nobody.

    With ``AUTH=dev``, and behind a link, it is the person named (with ``dev``, the developer without one). Else it is
    the caller; where another person is named, he does it on behalf, for which ``approval:admin`` is needed.
    Raises ``NotPermitted`` without it, and ``Unauthorized`` when nobody calls and nobody is named.
    """
    caller = current_caller()
    if caller is None:
        if named is None:
            raise Unauthorized("Nobody says who does this.", is_given=False)
        return Said(named)
    if caller.is_developer:
        return Said(caller.name if named is None else named)
    if named is None or same_person(named) == same_person(caller.name):
        return Said(caller.name)
    if not caller.may("approval:admin"):
        raise NotPermitted(
            f"You are {caller.name}, and may not do this for somebody else. Leave the other name out, or have somebody "
            "do it who has the permission approval:admin.",
            permission="approval:admin",
        )
    return Said(caller.name, named)
