"""The app itself, whose process is killed at a write to the records, on demand.

A file ``kill-before`` or ``kill-after`` in the data folder holds a text: the write whose rows hold it is the last thing
that the process does, or would have done. The file goes first, so that the next process lives.
"""

import importlib.util
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

import settings
from services.record_store import Change
from services.record_store_sqlite import SqliteRecordStore

_write = SqliteRecordStore.write


def _kill(when: str, changes: list[Change]) -> None:
    file = Path(os.environ["LOCAL_HOST_DATA"], f"kill-{when}")
    if file.exists() and any(file.read_text() in change.body for change in changes):
        file.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


def _deadly(store: SqliteRecordStore, changes: Iterable[Change]) -> None:
    listed = list(changes)
    _kill("before", listed)
    _write(store, listed)
    _kill("after", listed)


SqliteRecordStore.write = _deadly  # type: ignore[assignment, method-assign]

# The file of the app has the name of this one, by which the host loads it.
_spec = importlib.util.spec_from_file_location("countersign_app", Path(settings.__file__).with_name("function_app.py"))
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules["countersign_app"] = _module
_spec.loader.exec_module(_module)

app = _module.app
