"""The entries of the audit trail: what their hashes cover, and that their form stays what it was."""

import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from contracts.audit import GENESIS, Entry, TrailHead, chained, digest_of

RUN = "20260131T235959123456Z"
AT = datetime(2026, 1, 31, 23, 59, 59, 123456, tzinfo=UTC)
SALT = "0123456789abcdef0123456789abcdef"
ERASED = (f"run|{RUN}|0000000001", "app|0000000002")

# Stored trails must verify for ever. What fails here would accuse every trail that there is: never make these anew.
GOLDEN_FIRST: dict[str, Any] = {
    "instance_id": "order-1",
    "series": "run",
    "run": "20260131T235959123456Z",
    "number": 1,
    "at": "2026-01-31T23:59:59.123Z",
    "action": "started",
    "actor": "Ålice 李",
    "channel": "api",
    "after": "requesting_approval",
    "payload_sha256": "820c5ff349939fe2ad8ffaaa7cddedf8b77c23790b1166b5f3685ccf4d68a1ef",
    "previous": "0000000000000000000000000000000000000000000000000000000000000000",
    "hash": "78b1b68c0c250c732783a2719be2bdc06edb3b0fe0869511a7d5ab4eff20a2b0",
}
GOLDEN_SECOND: dict[str, Any] = {
    "instance_id": "order-1",
    "series": "run",
    "run": "20260131T235959123456Z",
    "number": 2,
    "at": "2026-02-01T00:00:00.000Z",
    "action": "decided",
    "actor": "Bob",
    "on_behalf_of": "Carol",
    "channel": "link",
    "before": "requesting_approval",
    "after": "approved",
    "detail": "because",
    "comment": 'Ja, "gern"\n🎉',
    "salt": "0123456789abcdef0123456789abcdef",
    "comment_sha256": "e294d998c979053c76d023e7accafe14ef1c3e6f387854c006ab8dcc51d35a43",
    "payload_sha256": "c95a603ca821c4c27d62bfff61ad40f6c055afc3e41671663905e8f5b21e1f18",
    "previous": "78b1b68c0c250c732783a2719be2bdc06edb3b0fe0869511a7d5ab4eff20a2b0",
    "hash": "a258be4c95873fb37c31d196d7d48c5c9b71b0d4467dc4e5a135dec12ed8f924",
}
GOLDEN_OF_THE_APP: dict[str, Any] = {
    "instance_id": "order-1",
    "series": "app",
    "run": "20260131T235959123456Z",
    "number": 1,
    "at": "2027-01-01T00:00:00.000Z",
    "action": "purged",
    "channel": "timer",
    "anchor": {
        "run": "20260131T235959123456Z",
        "entries": 2,
        "stored": 2,
        "head": "a258be4c95873fb37c31d196d7d48c5c9b71b0d4467dc4e5a135dec12ed8f924",
    },
    "previous": "0000000000000000000000000000000000000000000000000000000000000000",
    "hash": "1be56c548fc84261c06b42f6a40a887800a1433a88f9f4c0dde0bcca98f1c794",
}
GOLDEN_ERASURE: dict[str, Any] = {
    "instance_id": "order-1",
    "series": "app",
    "run": "20260131T235959123456Z",
    "number": 2,
    "at": "2027-01-02T00:00:00.000Z",
    "action": "erased",
    "actor": "Dora",
    "channel": "api",
    "erasure": ["run|20260131T235959123456Z|0000000002", "app|0000000001"],
    "previous": "1be56c548fc84261c06b42f6a40a887800a1433a88f9f4c0dde0bcca98f1c794",
    "hash": "c3b64f06da1a4d86638071efd5e56f24941af9a644253051d55b568e25b74abf",
}
GOLDENS = [GOLDEN_FIRST, GOLDEN_SECOND, GOLDEN_OF_THE_APP, GOLDEN_ERASURE]

OTHERS: dict[str, Any] = {
    "instance_id": "order-2",
    "series": "app",
    "run": "20260131T235959123457Z",
    "number": 3,
    "at": AT + timedelta(milliseconds=1),
    "action": "timed_out",
    "actor": "Mallory",
    "on_behalf_of": "Mallory",
    "channel": "event",
    "before": "x",
    "after": "x",
    "detail": "x",
    "comment_sha256": "1" * 64,
    "payload_sha256": "1" * 64,
    "anchor": TrailHead(run=RUN, entries=3, stored=2, head="1" * 64),
    "previous": "1" * 64,
    "comment": "No!",
    "salt": "1" * 32,
    "erasure": ("app|0000000001",),
    "round": 3,
    "people": ("mallory@example.com",),
}
"""Another value for each field but the hash itself."""


def entry(previous: Entry | TrailHead | None = None, **said: Any) -> Entry:
    """An entry that says something in every field, or in those that are given."""
    whole: dict[str, Any] = {
        "salt": SALT,
        "comment": "Fine!",
        "payload": {"b": 1, "a": [2.5, None]},
        "instance_id": "order-1",
        "series": "run",
        "run": RUN,
        "at": AT,
        "action": "decided",
        "actor": "Bob",
        "on_behalf_of": "Carol",
        "channel": "api",
        "before": "waiting_for_approval",
        "after": "approved",
        "detail": "because",
        "anchor": TrailHead(run=RUN, entries=2, stored=1, head="a" * 64),
        "erasure": ERASED,
        "round": 1,
        "people": ("ann@example.com",),
    }
    return chained(previous, **whole | said)


def as_stored(of: Entry) -> Entry:
    """The entry as it comes back from the store."""
    return Entry.model_validate(json.loads(json.dumps(of.plain())))


def independent_hash(plain: dict[str, Any]) -> str:
    """The hash of an entry by its description, put together without the code that is tested."""
    left_out = {"hash", "comment"} | ({"salt"} if plain.get("comment_sha256") else set())
    said = {name: value for name, value in plain.items() if name not in left_out and value is not None}
    text = json.dumps(said, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


@pytest.mark.parametrize("golden", GOLDENS, ids=["first", "second", "app", "erasure"])
def test_a_trail_of_long_ago_still_verifies(golden: dict[str, Any]) -> None:
    assert Entry.model_validate(golden).is_sound
    assert independent_hash(golden) == golden["hash"]


def test_what_is_written_today_is_what_was_written_long_ago() -> None:
    run = {"instance_id": "order-1", "series": "run", "run": RUN}
    first = chained(
        None,
        salt=None,
        payload={"cost": 1.5, "b": [None, True], "ä": "😀"},
        at=AT,
        action="started",
        actor="Ålice 李",
        channel="api",
        after="requesting_approval",
        **run,
    )
    second = chained(
        first,
        salt=SALT,
        comment='Ja, "gern"\n🎉',
        payload={"approved": True},
        at=datetime(2026, 2, 1, tzinfo=UTC),
        action="decided",
        actor="Bob",
        on_behalf_of="Carol",
        channel="link",
        before="requesting_approval",
        after="approved",
        detail="because",
        **run,
    )
    purged = chained(
        None,
        salt=SALT,
        at=datetime(2027, 1, 1, tzinfo=UTC),
        action="purged",
        channel="timer",
        anchor=TrailHead(run=RUN, entries=2, stored=2, head=second.hash),
        **run | {"series": "app"},
    )
    erased = chained(
        purged,
        salt=SALT,
        at=datetime(2027, 1, 2, tzinfo=UTC),
        action="erased",
        actor="Dora",
        channel="api",
        erasure=("run|20260131T235959123456Z|0000000002", "app|0000000001"),
        **run | {"series": "app"},
    )
    written = [each.plain() for each in (first, second, purged, erased)]
    assert [{name: value for name, value in each.items() if value is not None} for each in written] == GOLDENS


def test_the_digest_is_that_of_the_canonical_json_after_the_salt() -> None:
    value = {"ä": "😀\n", "a": [1, 2.5, None, True], "B": {"y": 1, "x": ""}}
    canonical = r'{"B":{"x":"","y":1},"a":[1,2.5,null,true],"\u00e4":"\ud83d\ude00\n"}'
    assert digest_of(value) == hashlib.sha256(canonical.encode()).hexdigest()
    assert digest_of(value, "salt") == hashlib.sha256(b"salt" + canonical.encode()).hexdigest()
    assert digest_of(dict(reversed(value.items()))) == digest_of(value)
    assert digest_of("1") != digest_of(1)


def test_every_field_but_the_hash_is_changed_here() -> None:
    assert set(OTHERS) == set(Entry.model_fields) - {"hash"}


@pytest.mark.parametrize("name", list(OTHERS))
def test_a_change_of_any_field_shows(name: str) -> None:
    written = entry(entry())
    assert written.is_sound
    assert not written.model_copy(update={name: OTHERS[name]}).is_sound


@pytest.mark.parametrize("name", [name for name in OTHERS if not Entry.model_fields[name].is_required()])
def test_a_field_that_is_taken_out_shows(name: str) -> None:
    assert not entry().model_copy(update={name: None}).is_sound


@pytest.mark.parametrize("name", [name for name in OTHERS if not Entry.model_fields[name].is_required()])
def test_a_field_that_is_put_in_shows(name: str) -> None:
    nothing = dict.fromkeys(("comment", "payload", "actor", "on_behalf_of", "channel", "before", "after", "detail"))
    bare = entry(**nothing, anchor=None, erasure=None, round=None, people=None)
    assert bare.is_sound
    assert bare.salt is None
    assert not bare.model_copy(update={name: OTHERS[name]}).is_sound


@pytest.mark.parametrize("field", list(TrailHead.model_fields))
def test_a_change_within_the_anchor_shows(field: str) -> None:
    written = entry()
    assert written.anchor is not None
    other: dict[str, Any] = {"run": OTHERS["run"], "entries": 9, "stored": 9, "head": "9" * 64}
    anchor = written.anchor.model_copy(update={field: other[field]})
    assert not written.model_copy(update={"anchor": anchor}).is_sound


@pytest.mark.parametrize("rows", [(), ERASED[:1], ERASED[::-1], (*ERASED, "app|0000000003"), ("x", ERASED[1])])
def test_a_change_of_the_rows_that_an_erasure_names_shows(rows: tuple[str, ...]) -> None:
    written = entry()
    assert written.erasure == ERASED
    assert as_stored(written).is_sound
    assert not written.model_copy(update={"erasure": rows}).is_sound


def test_the_salt_of_a_payload_cannot_be_changed_where_there_is_no_comment() -> None:
    written = entry(comment=None)
    assert written.salt == SALT
    for salt in (None, "", "paid by Mallory"):
        assert not written.model_copy(update={"salt": salt}).is_sound


def test_a_hash_that_is_edited_shows() -> None:
    assert not entry().model_copy(update={"hash": "1" * 64}).is_sound


def test_a_chain_counts_and_links() -> None:
    first = entry()
    second = entry(first)
    third = entry(TrailHead(run=RUN, entries=second.number, stored=0, head=second.hash))
    assert [each.number for each in (first, second, third)] == [1, 2, 3]
    assert [each.previous for each in (first, second, third)] == [GENESIS, first.hash, second.hash]
    assert third == entry(second)


def test_the_same_twice_is_another_entry_and_has_another_hash() -> None:
    first = entry()
    assert entry(first).hash != first.hash


@pytest.mark.parametrize(
    "at",
    [
        AT,
        AT.replace(tzinfo=None),
        AT.astimezone(timezone(timedelta(hours=5, minutes=30))),
        datetime(2026, 1, 31, 23, 59, 59, 123999, tzinfo=UTC),
        datetime(2026, 1, 31, 23, 59, 59, 123000, tzinfo=UTC),
    ],
)
def test_a_time_is_kept_to_the_millisecond_in_utc(at: datetime) -> None:
    written = entry(at=at)
    assert written.plain()["at"] == "2026-01-31T23:59:59.123Z"
    assert written == entry()
    assert written.at == datetime(2026, 1, 31, 23, 59, 59, 123000, tzinfo=UTC)
    assert as_stored(written).is_sound


def test_times_of_entries_can_always_be_compared() -> None:
    naive = Entry.model_validate(entry().plain() | {"at": "2026-01-31T23:59:59.123"})
    assert naive.at == entry().at
    assert naive.is_sound  # nothing was changed that anybody is shown


@pytest.mark.parametrize(
    "comment",
    [
        "",
        "🎉👩‍👩‍👧",
        "a\nb\r\n\tc",
        "\x01\x1b[31m\x7f",
        "\u2028\u2029\u0085",
        "\ufeff\u202e",
        "{}",
        "x" * 4000,
        "🎉" * 4000,
    ],
)
def test_a_comment_of_any_kind_comes_back_and_verifies(comment: str) -> None:
    written = entry(comment=comment)
    read = as_stored(written)
    assert read == written
    assert read.is_sound
    assert read.comment == comment.strip()
    assert read.comment_sha256 == digest_of(read.comment, SALT)


def test_blanks_around_a_comment_are_hashed_as_they_are_kept() -> None:
    written = entry(comment="  Fine! \n")
    assert written.comment == "Fine!"
    assert written == entry()
    assert written.is_sound


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\x00", "x" * 4001])
@pytest.mark.parametrize("field", ["comment", "detail"])
def test_a_text_that_cannot_be_kept_is_refused(field: str, text: str) -> None:
    said: dict[str, Any] = {field: text}
    with pytest.raises(ValidationError):
        entry(**said)


@pytest.mark.parametrize("payload", [{"a": "\ud800"}, {"\ud800": 1}, "\x00", [[[[]]]], 0, False, "", {}])
def test_a_payload_may_be_any_json(payload: Any) -> None:
    written = entry(payload=payload)
    assert written.payload_sha256 == digest_of(payload, SALT)
    assert as_stored(written).is_sound


def test_nothing_said_is_nothing_hashed_and_needs_no_salt() -> None:
    written = entry(comment=None, payload=None)
    assert (written.salt, written.comment_sha256, written.payload_sha256) == (None, None, None)
    assert entry(comment="").comment_sha256 == digest_of("", SALT)


def test_the_salt_makes_the_same_comment_and_payload_look_different() -> None:
    one, other = entry(), entry(salt="f" * 32)
    assert one.comment_sha256 != other.comment_sha256
    assert one.payload_sha256 != other.payload_sha256
    assert one.comment_sha256 != digest_of("Fine!")


def test_an_erased_entry_verifies_and_tells_nothing_of_its_comment() -> None:
    written = entry()
    erased = written.erased()
    assert (erased.comment, erased.salt) == (None, None)
    assert erased.hash == written.hash
    assert as_stored(erased).is_sound
    assert erased.erased() == erased
    text = json.dumps(erased.plain())
    assert "Fine!" not in text
    assert SALT not in text
    assert digest_of("Fine!") not in text


def test_a_comment_cannot_be_put_back_or_its_salt_kept() -> None:
    erased = entry().erased()
    for change in ({"comment": "Fine!"}, {"comment": "No!", "salt": SALT}, {"salt": SALT}, {"salt": ""}):
        assert not erased.model_copy(update=change).is_sound


@pytest.mark.parametrize("name", [*Entry.model_fields, "new"])
def test_an_entry_is_read_as_strictly_as_it_was_written(name: str) -> None:
    no_list = [1] if name in ("erasure", "people") else []
    wrongs: list[Any] = [no_list, {"x": 1}, *([1.5, True] if name != "at" else [])]
    for wrong in wrongs:
        with pytest.raises(ValidationError) as caught:
            Entry.model_validate(entry().plain() | {name: wrong})
        assert "Fine!" not in str(caught.value)


def test_a_field_that_comes_later_changes_no_hash_of_before() -> None:
    plain = entry(detail=None).plain()
    assert plain["detail"] is None
    del plain["detail"]
    assert Entry.model_validate(plain).is_sound


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=50)


@given(
    comment=st.none() | TEXTS, actor=st.none() | TEXTS, detail=st.none() | TEXTS, salt=TEXTS, payload=st.none() | TEXTS
)
def test_whatever_was_said_comes_back_and_verifies(
    comment: str | None, actor: str | None, detail: str | None, salt: str, payload: str | None
) -> None:
    written = entry(entry(), comment=comment, actor=actor, detail=detail, salt=salt, payload=payload)
    read = as_stored(written)
    assert read == written
    assert read.is_sound
    assert independent_hash(read.plain()) == read.hash
    assert as_stored(read.erased() if read.comment is not None else read).is_sound


@given(TEXTS, TEXTS)
def test_another_comment_has_another_hash(one: str, other: str) -> None:
    first, second = entry(comment=one), entry(comment=other)  # which strip blanks
    assert (first.hash == second.hash) == (first.comment == second.comment)
