"""Access keys: who may call what when the host runs with ``--keys``.

Sources: Microsoft, "Work with access keys in Azure Functions", and the behaviour of Azure/azure-functions-host
(``AuthenticationLevelHandler``, ``AuthUtility``): where the header ``x-functions-key`` is there at all, the query's
``code`` is not looked at; the first of several counts; a key that does not fit is answered with a bare 401.
"""

import hmac
import json
import os
import secrets
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from starlette.responses import Response
from starlette.types import Scope

from local_host.errors import HostError

FILE_NAME = "keys.json"
DURABLE_KEY = "durabletask_extension"
"""The name of the system key that the Durable Functions extension takes."""

ANONYMOUS, FUNCTION, SYSTEM, ADMIN = "anonymous", "function", "system", "admin"
_MAX_FILE = 64 * 1024


@dataclass(frozen=True)
class Keys:
    """The keys of one data folder; ``functions`` and ``system`` go by name. None of them is ever shown."""

    master: str = field(repr=False)
    functions: Mapping[str, str] = field(repr=False)
    system: Mapping[str, str] = field(repr=False)

    @property
    def durable(self) -> str:
        """The key that the management API takes, and that its URLs carry as ``code``."""
        return self.system[DURABLE_KEY]

    def permit(self, level: str, scope: Scope) -> bool:
        """Whether an HTTP request carries a key for ``level``. The master key opens all, unknown levels too."""
        if level == ANONYMOUS:
            return True
        given = _given(scope)
        wanted = [self.master]
        if level == FUNCTION:
            wanted += self.functions.values()
        elif level == SYSTEM:
            wanted.append(self.durable)
        # Every key is compared, so that the time says nothing of which one it was.
        return sum(hmac.compare_digest(given, key.encode()) for key in wanted) > 0


def permitted(keys: Keys | None, level: str, scope: Scope) -> bool:
    """Whether a request may pass; without keys, all may."""
    return keys is None or keys.permit(level, scope)


def unauthorized() -> Response:
    """Return the answer to a request without the key that it needs."""
    return Response(status_code=401)


def load_keys(folder: Path) -> Keys:
    """Read ``keys.json`` in the data folder, which must exist; make it first where there is none.

    Of hosts that start at once, one makes the file, and all use it. The shape is that of ``az functionapp keys list``.
    Raises ``HostError`` for a file that is malformed, that others can read, or that cannot be read or written.
    """
    file = folder / FILE_NAME
    try:
        if not file.exists():
            _create(file)
        text = _read(file)
    except OSError as error:
        raise HostError(f"The keys in {file} cannot be read or written: {error.strerror}.") from None
    try:
        return _parse(json.loads(text))
    except (ValueError, KeyError, RecursionError):
        raise HostError(f"{file} holds no keys that can be read. Delete it, and new ones are made.") from None


def _given(scope: Scope) -> bytes:
    """Return the key of a request as bytes, empty where it has none."""
    header: bytes | None = next((value for name, value in scope["headers"] if name == b"x-functions-key"), None)
    if header is not None:
        return header
    pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    return next((value for name, value in pairs if name.lower() == "code"), "").encode()


def _create(file: Path) -> None:
    """Write new keys, unless somebody else is first. The file is whole from the moment that it has its name."""
    document = {
        "masterKey": secrets.token_urlsafe(40),
        "functionKeys": {"default": secrets.token_urlsafe(40)},
        "systemKeys": {DURABLE_KEY: secrets.token_urlsafe(40)},
    }
    descriptor, name = tempfile.mkstemp(prefix=FILE_NAME, dir=file.parent)  # for its owner only
    made = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as output:
            json.dump(document, output, indent=2)
            output.flush()
            os.fsync(output.fileno())
        file.hardlink_to(made)
    except FileExistsError:
        pass
    finally:
        made.unlink()


def _read(file: Path) -> bytes:
    # What is looked at is what is read, and a pipe is not waited for.
    with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as opened:
        status = os.fstat(opened.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise HostError(f"{file} is no file. Move it away, and keys are made there.")
        if status.st_uid != os.geteuid():
            raise HostError(f"{file} belongs to somebody else. Move it away, and keys are made there.")
        if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise HostError(
                f"Others can read or write {file}. Make it yours alone (chmod 600), or delete it for new keys."
            )
        return opened.read(_MAX_FILE)


def _parse(document: Any) -> Keys:
    if not isinstance(document, dict):
        raise ValueError("no object")  # noqa: TRY004  # one kind of error for all that can be wrong
    keys = Keys(document["masterKey"], _named(document["functionKeys"]), _named(document["systemKeys"]))
    if not all(map(_is_key, [keys.master, keys.durable, *keys.functions.values(), *keys.system.values()])):
        raise ValueError("no key")
    return keys


def _named(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("no keys by name")  # noqa: TRY004
    return value


def _is_key(value: Any) -> bool:
    """Whether it can be a key: of what a header carries, and not empty, which is what a request without a key has."""
    return isinstance(value, str) and value.isascii() and value.isprintable() and bool(value) and " " not in value
