"""Writing files so that a reader, or a crash, never sees half of one."""

import hashlib
import os
import tempfile
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

MAX_NAME = 200
_NEW = ".new-"


def file_name(name: str, suffix: str) -> str:
    """Return a file name for any text: percent-encoded, and cut with a hash at its end where it would be too long."""
    encoded = quote(name, safe="-_.:@")
    if encoded.startswith("."):
        encoded = "%2E" + encoded[1:]
    if len(encoded) > MAX_NAME:
        digest = hashlib.sha256(name.encode()).hexdigest()[:32]
        encoded = f"{encoded[: MAX_NAME - 33]}~{digest}"
    return encoded + suffix


def sweep(folder: Path, before: datetime) -> int:
    """Remove what ``write_once`` left unfinished in a folder because it was killed, and return how many files."""
    unfinished = [each for each in folder.glob(f"{_NEW}*") if each.lstat().st_mtime < before.timestamp()]
    for each in unfinished:
        each.unlink(missing_ok=True)
    return len(unfinished)


def write_once(folder: Path, name: str, suffix: str, content: bytes) -> Path:
    """Write ``content`` to a file named ``name`` and ``suffix``, unless there is one.

    The file is readable by its owner only. Gives its path. ``name`` may be any text, see ``file_name``. Of two writers
    at once the first one wins. Raises ``OSError`` when the disk does not take it.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    target = folder / file_name(name, suffix)
    if target.exists():
        return target
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=_NEW)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(temporary, target)
    finally:
        Path(temporary).unlink()
    return target
