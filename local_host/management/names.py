"""Which ids can be, and which functions there are."""

import re
from collections.abc import Collection

from local_host.management.refusal import refuse

MAX_INSTANCE_ID_LENGTH = 100

_FORBIDDEN_IN_ID = re.compile(r"[/\\#?\x00-\x1f\x7f-\x9f]")


def check_instance_id(instance_id: str) -> None:
    """Check the id of a new instance against the documented rules of Durable Functions.

    1 to 100 characters, no ``@`` in front (entities own those ids), no ``/ \\ # ?`` or control character.

    Raises:
        RequestRefused: 400, the id breaks a rule.
    """
    if not 1 <= len(instance_id) <= MAX_INSTANCE_ID_LENGTH:
        refuse(400, f"An instance id has 1 to {MAX_INSTANCE_ID_LENGTH} characters.")
    if instance_id.startswith("@"):
        refuse(400, "An instance id cannot begin with '@'.")
    if _FORBIDDEN_IN_ID.search(instance_id):
        refuse(400, "An instance id cannot hold '/', '\\', '#', '?' or control characters.")


def entity_instance_id(name: str, key: str) -> str:
    """Return the instance id of an entity; its name is case-insensitive and kept in lower case.

    Raises:
        RequestRefused: 400, the name or key cannot be part of an entity id.
    """
    if not name or "@" in name:
        refuse(400, "An entity name cannot be empty or hold '@'.")
    if not key or "@" in key or _FORBIDDEN_IN_ID.search(key):
        refuse(400, "An entity key cannot be empty or hold '@', '/', '\\', '#', '?' or control characters.")
    return f"@{name.lower()}@{key}"


def known_function(names: Collection[str], name: str, kind: str) -> str:
    """Return the registered spelling of a function name, which is looked up without regard to case.

    Raises:
        RequestRefused: 400, no such function; the message lists the known ones.
    """
    known = name if name in names else next((each for each in names if each.lower() == name.lower()), None)
    if known is None:
        listing = ", ".join(f"'{each}'" for each in sorted(names)) or "none"
        refuse(400, f"'{name}' is not a known {kind} function of this app. Known {kind} functions: {listing}.")
    return known
