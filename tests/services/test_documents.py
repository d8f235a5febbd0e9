"""Documents of runs in the store: kept, read in order, forgotten."""

import pytest

from contracts.records import Document, RecordBatch
from services import documents
from services.record_store import Change, RecordStore
from services.records import put_on_record

RUN, OTHER_RUN = "20260301T110000000000Z", "20260301T110000000001Z"


def a_document(name: str = "attempt|000001", body: object = "x", instance_id: str = "one", run: str = RUN) -> Document:
    """A document of a run."""
    return Document.model_validate({"instance_id": instance_id, "run": run, "name": name, "body": body})


def keep(store: RecordStore, *kept: Document) -> None:
    """Put documents on record."""
    put_on_record(store, RecordBatch(documents=kept))


def test_a_document_is_read_as_it_was_kept(store: RecordStore) -> None:
    body = {"text": "Grüße \U0001f600", "list": [1, None, True]}
    keep(store, a_document(body=body))
    found = documents.read(store, "one", RUN, "attempt|000001")
    assert found is not None
    assert found.body == body


def test_the_same_again_changes_nothing_and_another_replaces_it(store: RecordStore) -> None:
    keep(store, a_document(), a_document())
    keep(store, a_document(body="y"))
    assert [each.body for each in documents.read_all(store, "one", RUN, "attempt", 10)] == ["y"]


def test_those_of_one_kind_are_read_in_order_and_no_others(store: RecordStore) -> None:
    names = ["attempt|000002", "attempt|000010", "attempt|000001", "attempts|000001", "call|000001", "attempt"]
    keep(store, *(a_document(name, name) for name in names))
    keep(store, a_document(instance_id="two"), a_document(run=OTHER_RUN))
    found = [each.body for each in documents.read_all(store, "one", RUN, "attempt", 10)]
    assert found == ["attempt|000001", "attempt|000002", "attempt|000010"]
    assert len(documents.read_all(store, "one", RUN, "attempt", 2)) == 2


def test_what_is_not_there_or_cannot_be_read_is_none(store: RecordStore) -> None:
    assert documents.read(store, "one", RUN, "attempt|000001") is None
    change = documents.stored(a_document())
    store.write([Change("put", change.partition, change.key, "{")])
    assert documents.read(store, "one", RUN, "attempt|000001") is None
    assert documents.read_all(store, "one", RUN, "attempt", 10) == []


def test_forgetting_an_instance_forgets_all_runs_of_it_and_no_other(store: RecordStore) -> None:
    keep(store, *(a_document(f"attempt|{number:06d}") for number in range(120)))
    keep(store, a_document(run=OTHER_RUN), a_document(instance_id="two"))
    documents.forget(store, "one")
    assert documents.read_all(store, "one", RUN, "attempt", 500) == []
    assert documents.read(store, "one", OTHER_RUN, "attempt|000001") is None
    assert documents.read(store, "two", RUN, "attempt|000001") is not None


@pytest.mark.parametrize("name", ["", "Attempt", "attempt|", "attempt|x y", "a/b", "attempt|" + "0" * 65, "a|b|c"])
def test_a_name_is_a_word_and_perhaps_a_number(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        a_document(name)


def test_any_instance_id_can_have_documents(store: RecordStore) -> None:
    for instance in ("a/b#?\\", "\U0001f600" * 300, "~"):
        keep(store, a_document(instance_id=instance, body=instance))
        found = documents.read(store, instance, RUN, "attempt|000001")
        assert found is not None
        assert found.body == instance
