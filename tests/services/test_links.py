"""Signed links: what was signed is read as it was, and nothing else is."""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
from itsdangerous.encoding import base64_decode, base64_encode
from itsdangerous.url_safe import URLSafeTimedSerializer

from contracts.mail import LinkClaims, LinkPage
from services import clock, links
from settings import get_settings
from tests.hosting import ROOT

OLD, NEW, OTHER = "old" * 12, "new" * 12, "other" * 12
CLAIMS = LinkClaims(
    request_id="laptop-1",
    run="20261121T101112123456Z",
    round=2,
    person="Bob@Example.com",
    shown="0123456789abcdef" * 4,
    serial=7,
)
CHANGES: dict[str, Any] = {
    "request_id": "laptop-2",
    "run": "20261121T101112123457Z",
    "round": 3,
    "person": "bob@example.com",
    "shown": "f" * 64,
    "serial": 8,
}
BEGINNING = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def keys(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The settings with one key, and a clock that stands still."""
    use_keys(monkeypatch, OLD)
    clock.set_clock(lambda: BEGINNING)
    yield
    clock.set_clock(clock.system_clock)


def use_keys(monkeypatch: pytest.MonkeyPatch, *newest_first: str) -> None:
    """Set the keys; none leaves the setting out."""
    monkeypatch.setenv("LINK_KEYS", ",".join(newest_first))
    if not newest_first:
        monkeypatch.delenv("LINK_KEYS")
    get_settings.cache_clear()


def later(**by: float) -> None:
    """Move the clock on from the beginning."""
    clock.set_clock(lambda: BEGINNING + timedelta(**by))


def refused(token: str) -> bool:
    """Whether a token is refused, in words that do not repeat it."""
    try:
        links.read(token)
    except links.BadLink as error:
        return len(token) < 20 or token not in str(error)
    return False


def test_what_was_signed_is_read() -> None:
    assert links.read(links.sign(CLAIMS)) == CLAIMS


def test_a_link_is_short_and_has_the_token_as_the_end_of_its_path() -> None:
    url = links.url_of(CLAIMS)
    assert url.startswith(f"{get_settings().base_url}/approve/")
    token = url.rpartition("/")[2]
    assert links.read(token) == CLAIMS
    assert set(token) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")
    assert len(url) < 300


@pytest.mark.parametrize("field", CHANGES)
def test_a_payload_with_another_field_does_not_fit_the_signature(field: str) -> None:
    changed = CLAIMS.model_copy(update={field: CHANGES[field]})
    payload, *rest = links.sign(CLAIMS).rsplit(".", 2)
    other = links.sign(changed).rsplit(".", 2)[0]
    assert other != payload
    assert refused(".".join([other, *rest]))
    assert links.read(".".join([payload, *rest])) == CLAIMS


def test_no_letter_can_be_changed() -> None:
    token = links.sign(CLAIMS)
    for place, letter in enumerate(token):
        for other in {"A", "b", "-", "!", "=", " ", chr(ord(letter) ^ 1), chr(ord(letter) ^ 2)} - {letter}:
            assert refused(token[:place] + other + token[place + 1 :]), (place, other)


def test_no_letter_can_be_added_or_left_out() -> None:
    token = links.sign(CLAIMS)
    for place in range(len(token) + 1):
        for other in "A.!=":
            assert refused(token[:place] + other + token[place:]), (place, other)
        assert place == len(token) or refused(token[:place] + token[place + 1 :]), place
        assert place == len(token) or refused(token[:place]), place


def test_the_time_of_a_link_cannot_be_moved() -> None:
    payload, at, signature = links.sign(CLAIMS).rsplit(".", 2)
    moved = int.from_bytes(base64_decode(at)) + 1
    other = base64_encode(moved.to_bytes(4)).decode()
    assert other != at
    assert refused(f"{payload}.{other}.{signature}")


@pytest.mark.parametrize(
    "garbage",
    ["", ".", "..", "...", "x", "a.b.c", "\0", "ä.ö.ü", "\ud800", "-" * 3999, "a" * 5000, ".eJw.x.y", "null", "[]"],
)
def test_garbage_is_refused(garbage: str) -> None:
    assert refused(garbage)


def test_a_token_that_is_too_long_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    token = links.sign(CLAIMS)
    monkeypatch.setattr(links, "MAX_TOKEN", len(token))
    assert not refused(token)
    monkeypatch.setattr(links, "MAX_TOKEN", len(token) - 1)
    assert refused(token)


@pytest.mark.parametrize(
    "said",
    [
        None,
        "text",
        7,
        {},
        CLAIMS.plain(),
        [],
        [*CLAIMS.plain().values()][:-1],
        [*CLAIMS.plain().values(), 1],
        ["laptop-1", "yesterday", 2, "bob@example.com", "0" * 64, 7],
        ["laptop-1", "20261121T101112123456Z", "2", "bob@example.com", "0" * 64, 7],
        ["laptop-1", "20261121T101112123456Z", 2, "nobody", "0" * 64, 7],
        ["laptop-1", "20261121T101112123456Z", 2, "bob@example.com", "0" * 63, 7],
        ["laptop-1", "20261121T101112123456Z", 2, "bob@example.com", "0" * 64, True],
    ],
)
def test_what_is_signed_well_must_still_be_a_link(said: Any) -> None:
    assert refused(links._serializer(links._APPROVE).dumps(said))


def test_a_link_ends_after_366_days() -> None:
    token = links.sign(CLAIMS)
    later(days=366)
    assert not refused(token)
    later(days=366, seconds=1)
    assert refused(token)


def test_a_link_from_the_future_is_refused() -> None:
    later(hours=1)
    token = links.sign(CLAIMS)
    later(hours=0)
    assert refused(token)


def test_the_newer_key_signs_and_the_older_still_verifies(monkeypatch: pytest.MonkeyPatch) -> None:
    with_old = links.sign(CLAIMS)
    use_keys(monkeypatch, NEW, OLD)
    assert not refused(with_old)
    with_new = links.sign(CLAIMS)
    use_keys(monkeypatch, NEW)
    assert not refused(with_new)
    assert refused(with_old)
    use_keys(monkeypatch, OTHER)
    assert refused(with_new)


def test_what_is_signed_for_one_purpose_is_nothing_for_another() -> None:
    token, browser = links.sign(CLAIMS), "b" * 32
    nonce = links.view_nonce(token, browser)
    assert refused(nonce)
    with pytest.raises(links.BadLink):
        links.read_view_nonce(token, token, browser)
    for salt in ("itsdangerous", "itsdangerous.Signer", links._VIEW, links._CODE, ""):
        claims = list(CLAIMS.plain().values())
        assert refused(links._serializer(salt).dumps(claims)), salt


def test_a_link_to_one_page_is_none_to_another() -> None:
    pages: tuple[LinkPage, ...] = get_args(LinkPage)
    for page in pages:
        token = links.sign(CLAIMS, page)
        assert links.read(token, page) == CLAIMS
        for other in set(pages) - {page}:
            with pytest.raises(links.BadLink):
                links.read(token, other)
            with pytest.raises(links.BadLink):
                links.read_view_nonce(links.view_nonce(token, "b" * 32), links.sign(CLAIMS, other), "b" * 32)
        url = links.url_of(CLAIMS, page)
        assert url.startswith(f"{get_settings().base_url}/{page}/")
        assert links.read(url.rpartition("/")[2], page) == CLAIMS


def test_links_that_are_in_mails_by_now_stay_good() -> None:
    token = (
        ".eJyLVspJLCjJL9A1VNJRMjIwMjM0NDIMMTQwBNFGxiamZlFKOkY6Sk75SQ6uFYm5BTmpesn5uUDFBhBpcwvLxKTklNQ0UvlKOua"
        "xAC2SIag.awGHwA.gbKANEOb1-LogHN-h0JaU9W96Y7hFTt07NKC4TcqgaI"
    )
    assert links.read(token) == CLAIMS


@pytest.mark.parametrize("wrong", [{"digest_method": hashlib.sha1}, {"key_derivation": "concat"}])
def test_a_signature_of_another_kind_is_refused(wrong: dict[str, Any]) -> None:
    ours = {"digest_method": hashlib.sha256, "key_derivation": "hmac"}
    for kind, is_refused in [(ours, False), (ours | wrong, True)]:
        signer = URLSafeTimedSerializer(OLD, salt=links._APPROVE, signer=links._Signer, signer_kwargs=kind)
        assert refused(signer.dumps(list(CLAIMS.plain().values()))) is is_refused


def test_a_nonce_is_good_for_its_link_in_its_browser_for_twelve_hours() -> None:
    token, browser = links.sign(CLAIMS), "b" * 32
    nonce = links.view_nonce(token, browser)
    links.read_view_nonce(nonce, token, browser)
    other = links.sign(CLAIMS.model_copy(update={"serial": 8}))
    for wrong in [
        (nonce, other, browser),
        (nonce, token, "c" * 32),
        (nonce[:-1], token, browser),
        ("", token, browser),
    ]:
        with pytest.raises(links.BadLink):
            links.read_view_nonce(*wrong)
    later(hours=12)
    links.read_view_nonce(nonce, token, browser)
    later(hours=12, seconds=1)
    with pytest.raises(links.BadLink):
        links.read_view_nonce(nonce, token, browser)


def test_each_view_has_a_nonce_of_its_own() -> None:
    token = links.sign(CLAIMS)
    assert links.view_nonce(token, "b" * 32) != links.view_nonce(token, "b" * 32)


def test_a_code_is_six_digits_that_belong_to_the_link() -> None:
    code = links.code_of(CLAIMS)
    assert len(code) == 6
    assert code.isdecimal()
    assert code == links.code_of(CLAIMS)
    assert links.is_code(CLAIMS, f" {code[:3]} {code[3:]}\n")
    wrong = f"{(int(code) + 1) % 10**6:06}"
    for typed in [
        "",
        " ",
        wrong,
        code[:-1],
        code + "0",
        "\ud800",
        code.translate({ord("0") + n: 0x660 + n for n in range(10)}),
    ]:
        assert not links.is_code(CLAIMS, typed), typed


@pytest.mark.parametrize("field", CHANGES)
def test_another_link_has_another_code(field: str) -> None:
    others = CLAIMS.model_copy(update={field: CHANGES[field]})
    assert links.code_of(others) != links.code_of(CLAIMS)
    assert not links.is_code(others, links.code_of(CLAIMS))


def test_a_code_may_begin_with_zeros() -> None:
    codes = [links.code_of(CLAIMS.model_copy(update={"serial": serial})) for serial in range(100)]
    assert {len(code) for code in codes} == {6}
    assert any(code.startswith("0") for code in codes)


def test_codes_of_both_keys_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with_old = links.code_of(CLAIMS)
    use_keys(monkeypatch, NEW, OLD)
    with_new = links.code_of(CLAIMS)
    assert with_new != with_old
    assert links.is_code(CLAIMS, with_old)
    assert links.is_code(CLAIMS, with_new)
    use_keys(monkeypatch, NEW)
    assert not links.is_code(CLAIMS, with_old)


def test_on_azure_a_key_has_to_be_set(monkeypatch: pytest.MonkeyPatch, data_folder: Path) -> None:
    monkeypatch.setenv("WEBSITE_INSTANCE_ID", "abc")
    use_keys(monkeypatch)
    for use in (links.check_links, lambda: links.sign(CLAIMS)):
        with pytest.raises(ValueError, match=r"LINK_KEYS is not set.*secrets\.token_urlsafe"):
            use()
    assert not list(data_folder.iterdir())
    use_keys(monkeypatch, NEW)
    links.check_links()


def test_elsewhere_a_key_is_made_once_that_only_its_owner_can_read(
    monkeypatch: pytest.MonkeyPatch, data_folder: Path
) -> None:
    use_keys(monkeypatch)
    links.check_links()
    token = links.sign(CLAIMS)
    key = data_folder / "link.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert len(key.read_text()) >= 32
    links._own_key.cache_clear()
    assert not refused(token)
    key.unlink()
    links._own_key.cache_clear()
    assert refused(token)


def test_a_key_that_others_can_read_is_not_used(monkeypatch: pytest.MonkeyPatch, data_folder: Path) -> None:
    use_keys(monkeypatch)
    key = data_folder / "link.key"
    key.write_text("k" * 64)
    for mode in (0o644, 0o660):
        key.chmod(mode)
        with pytest.raises(ValueError, match="others may read it"):
            links.sign(CLAIMS)
    key.chmod(0o600)
    assert links.read(links.sign(CLAIMS)) == CLAIMS


def test_processes_that_start_at_once_agree_on_one_key(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LINK_KEYS")
    code = "import sys; from pathlib import Path; from services.links import _own_key; print('ready', flush=True); "
    code += "sys.stdin.read(); print(_own_key(Path(sys.argv[1])))"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(data_folder)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    keys = {process.communicate(timeout=30)[0] for process in started}
    assert [process.returncode for process in started] == [0] * 8
    assert keys == {(data_folder / "link.key").read_text() + "\n"}
