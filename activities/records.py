"""Putting on record what a run says."""

import secrets
from typing import Any

from durabletask.task import ActivityContext

from contracts.records import RecordBatch, Recorded
from services.record_store import get_record_store
from services.records import put_on_record


def record(_context: ActivityContext, request: dict[str, Any]) -> dict[str, Any]:
    """Store entries of the audit trail, and open and close waits. Takes a ``RecordBatch``; gives a ``Recorded``.

    Run twice, it changes nothing more. Raises ``RecordStoreError`` when the store cannot be reached.
    """
    refused = put_on_record(get_record_store(), RecordBatch.model_validate(request))
    return Recorded(refused=tuple(refused), salt=secrets.token_hex(16)).plain()
