"""The app itself, whose process is killed at a write to the records, or of a file, on demand.

A file ``kill-before`` or ``kill-after`` in the data folder holds a text: the write whose rows hold it is the last thing
that the process does, or would have done. ``kill-before-file`` and ``kill-after-file`` hold a part of the path of a
mail or an account that is written, or erased. The file goes first, so that the next process lives.
"""

import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import settings
from services import accounts, mail, outbox
from services.record_store import Change
from services.record_store_sqlite import SqliteRecordStore

_write = SqliteRecordStore.write


def _kill(when: str, texts: Iterable[str]) -> None:
    file = Path(os.environ["LOCAL_HOST_DATA"], f"kill-{when}")
    if file.exists() and any(file.read_text() in text for text in texts):
        file.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


def _deadly(store: SqliteRecordStore, changes: Iterable[Change]) -> None:
    listed = list(changes)
    _kill("before", (change.body for change in listed))
    _write(store, listed)
    _kill("after", (change.body for change in listed))


SqliteRecordStore.write = _deadly  # type: ignore[assignment, method-assign]


def _deadly_file(effect: Callable[..., Any]) -> Callable[..., Any]:
    def do(path: Path, *rest: Any) -> Any:
        name = str(path.joinpath(*rest[:1]))
        _kill("before-file", [name])
        done = effect(path, *rest)
        _kill("after-file", [name])
        return done

    return do


mail.write_once = _deadly_file(mail.write_once)  # type: ignore[attr-defined]
accounts.write_once = _deadly_file(accounts.write_once)  # type: ignore[attr-defined]
outbox._removed = _deadly_file(outbox._removed)

# The file of the app has the name of this one, by which the host loads it.
_spec = importlib.util.spec_from_file_location("countersign_app", Path(settings.__file__).with_name("function_app.py"))
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules["countersign_app"] = _module
_spec.loader.exec_module(_module)

app = _module.app
