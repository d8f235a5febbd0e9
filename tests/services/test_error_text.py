"""What is said of a failed call: no secret in it, and errors that are alike known as one."""

import html
import json
import time
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.guarded_call import MASK, MAX_ERROR, HttpCall, SimulatedCall
from services.error_text import LOOKED_AT, MIN_SECRET, MOST_SECRETS, fingerprint, printable, secrets_of, shown

WORDS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="*"), min_size=6, max_size=30)
VALUES = st.lists(WORDS, min_size=1, max_size=3).map(" ".join)
ANYTHING = st.text(st.characters(codec="utf-8"), max_size=50)


def call(url: str = "https://api.example.com/", **headers: str) -> HttpCall:
    """A call with these headers."""
    return HttpCall(kind="http", url=url, headers={name.replace("_", "-"): value for name, value in headers.items()})


@given(VALUES, VALUES, st.lists(ANYTHING, max_size=4), st.data())
def test_no_secret_is_ever_shown(first: str, second: str, around: list[str], data: st.DataObject) -> None:
    secrets = secrets_of(call(Authorization=first, X_Key=second))
    parts = [first, second, *first.split(" ")[1:], second.upper(), *around]
    text = "".join(data.draw(st.lists(st.sampled_from(parts), max_size=20)))
    said = shown(text, secrets)
    assert first not in said
    assert second not in said
    assert len(said) <= MAX_ERROR
    assert said == printable(said)


@given(
    st.text(min_size=MIN_SECRET, max_size=30).filter(
        lambda text: len(text.strip()) >= MIN_SECRET and text.isprintable() and "*" not in text
    ),
    ANYTHING,
)
def test_no_secret_of_an_address_is_ever_shown(secret: str, before: str) -> None:
    url = f"https://api.example.com/?a=b&api_key={quote(secret, safe='')}&c=d"
    secrets = secrets_of(call(url[:2000]))
    for text in (before + secret, f"{before} {url}", json.dumps({before: secret})):
        said = shown(text, secrets)
        assert secret not in said
        assert quote(secret, safe="") not in said


def test_a_secret_is_found_in_any_form() -> None:
    secrets = secrets_of(call("https://h.example.com/?a=1&token=t%2Fk%26n-1#x", Authorization='Basic a"b&c/d'))
    for text in ('Basic a"b&c/d', 'a"b&c/d', json.dumps('a"b&c/d'), "A&quot;B&amp;C/D", "a%22b%26c%2Fd", "t/k&n-1"):
        assert shown(f"see {text}.", secrets).strip('".') in ("see ***", 'see "***')
    assert shown("Basic is what h.example.com wants", secrets) == "Basic is what h.example.com wants"


def test_what_is_short_or_shown_anyway_is_no_secret() -> None:
    said = call(X_Short="12345", X_Long="123456", Accept_Language="de-DE,de", X_Request_Id="request-1")
    assert secrets_of(said) == ["123456"]
    cookies = secrets_of(call(Cookie="a=1; b=2345678; c"))
    assert {"a=1; b=2345678; c", "2345678"} <= set(cookies)
    assert "1" not in cookies
    assert "1234567" not in secrets_of(call("https://h/?page=1234567&x=https://y/?token=7654321"))
    assert "7654321" in secrets_of(call("https://h/?page=1234567&x=https://y/?token=7654321"))
    assert secrets_of(SimulatedCall(kind="simulated")) == []


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("Authorization", "Basic dXNlcjpwYXNzL3dvcmQr", "pass/word+"),
        ("Authorization", 'Token token="0123456789abcdef"', "0123456789abcdef"),
        ("Authorization", "AWS4-HMAC-SHA256 Credential=AK/2020, Signature=fe5f80f77d5fa3be", "fe5f80f77d5fa3be"),
        ("X-Api-Key", "ab/cd+ef&gh'ij k", "ab/cd+ef&gh'ij k"),
    ],
)
@pytest.mark.parametrize(
    "form",
    [
        str,
        lambda text: text.replace("/", "\\/"),
        lambda text: "".join(each if each.isalnum() else f"\\u{ord(each):04X}" for each in text),
        lambda text: "".join(each if each.isalnum() else f"&#{ord(each)};" for each in text),
        lambda text: "".join(each if each.isalnum() else f"&#x{ord(each):x};" for each in text),
        lambda text: html.escape(html.escape(text)),
        lambda text: quote(quote(text, safe=""), safe=""),
        lambda text: quote(text, safe="").lower(),
        lambda text: json.dumps(html.escape(quote(text, safe="")))[1:-1],
        lambda text: quote(html.escape(json.dumps(json.dumps(text)[1:-1])[1:-1]), safe=""),
        lambda text: "".join(f"%{ord(each):02x}" for each in text),
        lambda text: "".join(f"\\\\x{ord(each):02x}" for each in text),
        lambda text: "".join(f"&#{ord(each):07};" for each in text),
    ],
)
def test_a_secret_is_found_however_it_was_escaped(
    name: str, value: str, secret: str, form: Callable[[str], str]
) -> None:
    http = HttpCall(kind="http", url="https://h/", headers={name: value})
    assert shown(f"<{form(secret)}>", secrets_of(http)) == f"<{MASK}>"


def test_what_is_around_a_secret_is_left_as_it_was() -> None:
    secrets = secrets_of(call(X_Key="k3y/for&all"))
    for form in ("k3y/for&all", r"k3y\/for&all", "k3y%2Ffor%26all", "k3y/for&amp;amp;all"):
        for before, after in ((r"a\n\u003d%3D", r"\u003d\n%3D"), ("&#61;&lt;", "&gt;&#61;"), ("1%,é\n", "\n+é\\")):
            assert shown(f"{before}{form}{after}", secrets) == f"{before}{MASK}{after}"
    assert shown(r"\u0026 %41&amp;&nothing; \\", secrets) == r"\u0026 %41&amp;&nothing; \\"


def test_a_secret_that_looks_escaped_is_found_as_it_is_and_as_it_is_read() -> None:
    secrets = secrets_of(call(X_Key='a%2Fb%26c"d\\e', X_Only="%41%42"))
    for form in ('a%2Fb%26c"d\\e', 'a/b&c"d\\e', json.dumps('a%2Fb%26c"d\\e')[1:-1], quote('a%2Fb%26c"d\\e'), "%41%42"):
        assert shown(f"<{form}>", secrets) == f"<{MASK}>"
    assert shown("AB", secrets) == "AB"


@pytest.mark.parametrize("secret", ["tab\tand\nline", "\u200bhid\x07den\u202e", "grün und groß", "😀😀😀😀😀😀"])
def test_a_secret_of_an_address_is_found_in_json_whatever_is_in_it(secret: str) -> None:
    secrets = secrets_of(call(f"https://h/?token={quote(secret)}"))
    for form in (secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], quote(secret)):
        assert shown(f"<{form}>", secrets).strip("<>") == MASK


@pytest.mark.parametrize("name", ["pwd", "jwt", "session", "credential", "%74oken", "PHPSESSID"])
def test_a_parameter_is_telling_by_its_name_however_that_is_written(name: str) -> None:
    assert "hush-hush" in secrets_of(call(f"https://h/?{name}=hush-hush"))
    assert "hush-hush" in secrets_of(call(f"https://h/#{name}=hush-hush"))


def test_a_parameter_that_is_long_may_be_a_secret_whatever_its_name() -> None:
    assert secrets_of(call("https://h/?x=0123456789abcdef&y=short-one")) == ["0123456789abcdef"]


def test_no_half_of_a_secret_is_left_at_the_end_of_a_long_text() -> None:
    secret = "s3cr3t" * 600
    assert "s3" not in shown(f"{secret} " * 40, secrets_of(call(X_Key=secret)))


@pytest.mark.parametrize("end", ["", "%", "%2", "%252", "&amp;#x2", "\\", r"\\\\", r"\u002"])
def test_half_a_secret_is_masked_where_a_text_was_cut(end: str) -> None:
    secrets = secrets_of(call(X_Key="s3cr3t/k3y-and-more"))
    assert shown(f"is s3cr3t%2Fk3y{end}", secrets, is_whole=False) == f"is {MASK}"
    filled = "s3cr3t/k3y-and-more" * (LOOKED_AT // 19 - 2)
    filled += " " * (LOOKED_AT - len(filled) - 12 - len(end))
    assert "s3" not in shown(f"{filled}s3cr3t%2Fk3y{end}%2Dand-more", secrets)
    assert shown("is s3cr3t/k3y", secrets) == "is s3cr3t/k3y"
    assert shown("it is s3cr3", secrets, is_whole=False) == "it is s3cr3"


def test_where_there_are_too_many_secrets_to_look_for_nothing_is_shown() -> None:
    cookies = ["; ".join(f"a={number:06}" for number in range(first, first + 250)) for first in (0, 250)]
    secrets = secrets_of(call(X_A=cookies[0], X_B=cookies[1]))
    few, many = secrets[:MOST_SECRETS], secrets[: MOST_SECRETS + 1]
    assert len(many) > len(few)
    assert shown(f"see {few[-1]} here", few) == f"see {MASK} here"
    assert shown("see here", many) == MASK
    assert shown("see here", [f"%41{each}" for each in few]) == MASK


def test_longer_secrets_are_masked_before_those_that_are_part_of_them() -> None:
    secrets = secrets_of(call(X_A="abcdef", X_B="abcdef-and-more"))
    assert shown("abcdef-and-more, abcdef", secrets) == f"{MASK}, {MASK}"


def test_a_secret_is_masked_before_a_text_is_cut() -> None:
    secrets = secrets_of(call(X_A="s3cr3t" * 10))
    said = shown("x" * (MAX_ERROR - 20) + "s3cr3t" * 10, secrets)
    assert "s3" not in said
    assert len(shown("x" * 100_000, [])) == MAX_ERROR


def test_a_secret_that_control_characters_hide_is_found() -> None:
    assert shown("s3\x00cr\u200b3t\x1b", ["s3cr3t"]) == MASK


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a\x00\x07\x1bb", "ab"),
        ("a\r\nb\tc\u2028d\xa0e", "a \nb c d e"),
        ("a\u202eb\u200bc\ufeff", "abc"),
        (" \n ä😀 \n", "ä😀"),
        ("\ud800x", "x"),
    ],
)
def test_what_is_shown_is_printable(text: str, said: str) -> None:
    assert shown(text, []) == said


ALIKE = [
    ("order 17 not found", "order 18 not found"),
    ("order A-17 not found", "order A-9234 not found"),
    ("Order 17 NOT found", "order 18 not found"),
    ("order  17\nnot found", "order 18 not found"),
    ("took 1.5 s of 2,000", "took 22.75 s of 30"),
    ("id 0d2f7a9e-5b0c-4a55-9d9c-0a1b2c3d4e5f is gone", "id FFFFFFFF-5b0c-4a55-9d9c-ffffffffffff is gone"),
    ("trace deadbeefcafe", "trace 0x1f"),
    ("customer cus_NffrFeUfNV2Hib unknown", "customer cus_4QFOF3xrvBT2nU unknown"),
    ("since 2026-03-01T12:00:00.123Z", "since 2025-12-31T01:02:03+01:00"),
    ("since 2026-03-01", "since 2025-12-31"),
    ("at 12:00:01 today", "at 9:59 today"),
    ("until Sun, 01 Mar 2026 12:00:00 GMT", "until Tue, 24 Dec 2030 18:30:00 GMT"),
    ("on 3 March 2026", "on 24 Dec 2027"),
    ("on March 3, 2026", "on December 24, 2027"),
    ("no mailbox of joe@example.com", "no mailbox of Jörg.Ä+x@mail.example.org"),
    ('no such user "joe"', 'no such user "mary ann"'),
    ("no such user 'joe'", "no such user 'mary ann'"),
    ("no such user “joe”", "no such user “mary ann”"),
    ('{"error": "order 17 not found"}', '{"error": "order 18 not found"}'),
    (r'{"error": "no \"joe\" here", "at": "2026-03-01"}', r'{"error": "no \"mary\" here", "at": "2025-12-31"}'),
    ('{"id":"a1","code":17}', '{"id":"b22","code":4}'),
    ("x" * 500 + "a", "x" * 500 + "b"),
]
DIFFERENT = [
    ("order 17 not found", "customer 17 not found"),
    ('{"error": "insufficient funds"}', '{"error": "account closed"}'),
    ('{"error": "not found"}', '{"fault": "not found"}'),
    ('["too large"]', '["too small"]'),
    ("it can't be done, don't ask", "it can't be done, won't ask"),
    ("it can't be opened; don't", "it can't be closed; don't"),
    ("effaced", "defaced"),
    ("x" * 499 + "a", "x" * 499 + "b"),
    ("", "x"),
]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_errors_that_are_alike_have_one_fingerprint(one: str, other: str) -> None:
    assert fingerprint("status", "h", 404, one) == fingerprint("status", "h", 404, other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_errors_that_are_not_alike_have_two(one: str, other: str) -> None:
    assert fingerprint("status", "h", 404, one) != fingerprint("status", "h", 404, other)


def test_kind_host_and_status_tell_errors_apart() -> None:
    said = ("status", "h", 404, "x")
    others = [
        ("timeout", "h", 404, "x"),
        ("status", "i", 404, "x"),
        ("status", "h", 405, "x"),
        ("status", "h", None, "x"),
    ]
    assert len({fingerprint(*each) for each in (said, *others)}) == 5


def test_a_fingerprint_is_for_ever() -> None:
    """People may hold on to one; what waits was noted with it."""
    assert fingerprint("status", "api.example.com", 404, 'order 17 of "joe" not found') == "fef606bb7df4eddf"


@given(st.text(), st.text(), st.sampled_from([None, 404]))
def test_a_fingerprint_is_made_of_anything(message: str, host: str, status: int | None) -> None:
    assert len(bytes.fromhex(fingerprint("status", host, status, message))) == 8


@given(st.integers(0, 10**20), st.integers(0, 10**20), st.text("abc .,:'\"{}-", max_size=20))
def test_numbers_never_matter(one: int, other: int, rest: str) -> None:
    assert fingerprint("status", "h", 1, f"{rest} {one} {rest}") == fingerprint(
        "status", "h", 1, f"{rest} {other} {rest}"
    )


@pytest.mark.timeout(20)
@pytest.mark.parametrize("letter", ["a", "1", '"', "'", "“", "@", "[", '{"', " ", ":", "a@", "1:", "a ", '" ', "jan "])
def test_no_message_takes_long(letter: str) -> None:
    fingerprint("status", "h", 404, letter * (MAX_ERROR // len(letter)))
    shown(letter * 64_000, secrets_of(call(X_A="s3cr3t-one", X_B="s3cr3t-two")))


def cookies(count: int) -> str:
    """A header with so many cookies that begin with no letter."""
    return "; ".join(f"_s{number}=_{number:07}" for number in range(count))


COSTLY = {
    "one cookie": {"Cookie": "_session=abcdefghi"},
    "cookies": {"Cookie": cookies(200)},
    "dashes": {f"X-{each}": "-" * (4_000 - each) for each in range(30)},
    "dashes and one letter": {f"X-{each}": "-" * (2_000 - each) + "a" + "-" * 1_999 for each in range(30)},
    "short ones of dashes and one letter": {
        f"X-{letter}": " ".join("-" * at + letter + "-" * (98 - at) for at in range(50, 89))
        for letter in "abcdefghijkl"
    },
    "backslashes": {f"X-{each}": "\\" * (4_000 - each) for each in range(30)},
    "escapes": {f"X-{each}": "%41" * (1_333 - each) for each in range(30)},
    "runs of dashes": {f"X-{each}": " ".join("-" * (40 * each + more) for more in range(6, 40)) for each in range(3)},
}
HOSTILE = (
    "\\",
    "\\a",
    "-",
    "-\n",
    "-\\",
    "%",
    "%41",
    "%25",
    "25",
    "&amp;",
    "amp;",
    "&#",
    r"\u005c",
    "&#45;",
    "-" * 3_000 + "b",
)


def cpu_time(text: str, secrets: list[str]) -> float:
    """Seconds of this process."""
    began = time.process_time()
    shown(text, secrets, is_whole=False)
    return time.process_time() - began


@pytest.mark.parametrize("headers", COSTLY.values(), ids=COSTLY)
def test_no_text_takes_much_longer_than_a_harmless_one(headers: dict[str, str]) -> None:
    secrets = secrets_of(HttpCall(kind="http", url="https://h/", headers=headers))
    harmless = min(cpu_time("0123456789" * 6_400, secrets) for _ in range(3))
    for size in (29_000, 64_000):
        for letters in HOSTILE:
            assert cpu_time(letters * (size // len(letters)), secrets) < 40 * harmless
