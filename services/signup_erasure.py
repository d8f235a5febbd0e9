"""The end of what is personal of a sign-up that came to nothing."""

from services import outbox, purge_list
from services.record_store import RecordStore


def erase(store: RecordStore, instance_id: str, run: str) -> int:
    """Erase the mails of a run, and have it purged once it has ended; give how many mails there were.

    Raises ``OSError`` when a mail cannot be erased, ``RecordStoreError`` when the store cannot be reached.
    """
    store.write([purge_list.added(instance_id, run)])
    return outbox.erase(instance_id, run)
