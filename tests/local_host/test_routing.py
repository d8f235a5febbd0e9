"""Route templates: what they match, what they give, which one wins, and which are refused."""

import time
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_host.errors import HostError
from local_host.routing import compile_template

EVERY_CONSTRAINT = [
    "int",
    "long",
    "bool",
    "alpha",
    "guid",
    "datetime",
    "decimal",
    "double",
    "float",
    "length(2,4)",
    "minlength(2)",
    "maxlength(9)",
    "min(1)",
    "max(9)",
    "range(1,9)",
    "regex(^[a-c]+$)",
    "required",
]


def match(template: str, path: str) -> dict[str, str] | None:
    """Match one path against one template."""
    return compile_template(template).match(path)


def first(templates: list[str], path: str) -> str | None:
    """The template that takes the path, out of several in any order."""
    ordered = sorted((compile_template(each) for each in templates), key=lambda template: template.precedence)
    return next((each.text for each in ordered if each.match(path) is not None), None)


@pytest.mark.parametrize(
    ("template", "path", "found"),
    [
        ("orders", "/orders", {}),
        ("Orders/New", "/oRDERS/nEW", {}),
        ("a.b", "/axb", None),
        ("orders", "/order", None),
        ("orders", "/orderss", None),
        ("orders", "/orders/1", None),
        ("orders", "/", None),
        ("", "/", {}),
        ("", "/x", None),
        ("/orders/", "/orders", {}),
        ("orders", "/orders/", {}),
        ("orders/{id}", "/orders/7", {"id": "7"}),
        ("orders/{id}", "/orders/7/", {"id": "7"}),
        ("orders/{id}", "/orders/", None),
        ("orders/{id}", "/orders//", None),
        ("{a}/x", "//x", None),
        ("{a}/{b}", "/1//2", None),
        ("orders/{Id}", "/orders/AbC", {"Id": "AbC"}),
        ("orders/{order-id}", "/orders/7", {"order-id": "7"}),
        ("{a}/{b}", "/1/2", {"a": "1", "b": "2"}),
        ("{a}/{b}", "/1", None),
        ("{a}/{b}", "/1/2/3", None),
    ],
)
def test_literals_and_parameters(template: str, path: str, found: dict[str, str] | None) -> None:
    assert match(template, path) == found


@pytest.mark.parametrize(
    ("template", "path", "found"),
    [
        ("x/{id?}", "/x", {}),
        ("x/{id?}", "/x/", {}),
        ("x/{id?}", "/x/1", {"id": "1"}),
        ("x/{id?}", "/x/1/2", None),
        ("x/{a?}/{b?}", "/x/1", {"a": "1"}),
        ("x/{id:int?}", "/x", {}),
        ("x/{id:int?}", "/x/1", {"id": "1"}),
        ("x/{id:int?}", "/x/one", None),
        ("x/{id=7}", "/x", {"id": "7"}),
        ("x/{id=7}", "/x/8", {"id": "8"}),
        ("x/{id:int=7}", "/x", {"id": "7"}),
        ("x/{id:int=7}", "/x/y", None),
        ("x/{id:int=seven}", "/x", None),
        ("{a=1}/{b=2}", "/", {"a": "1", "b": "2"}),
    ],
)
def test_optional_parameters_and_defaults(template: str, path: str, found: dict[str, str] | None) -> None:
    assert match(template, path) == found


@pytest.mark.parametrize(
    ("template", "path", "found"),
    [
        ("files/{*rest}", "/files/a/b/c", {"rest": "a/b/c"}),
        ("files/{**rest}", "/files/a/b", {"rest": "a/b"}),
        ("files/{*rest}", "/files/a%2Fb", {"rest": "a%2Fb"}),
        ("files/{*rest}", "/files/a%20b/c", {"rest": "a b/c"}),
        ("files/{*rest}", "/files", {}),
        ("files/{*rest}", "/files/", {}),
        ("files/{*rest=index}", "/files", {"rest": "index"}),
        ("files/{*rest}", "/other/a", None),
        ("{*rest}", "/", {}),
        ("{*rest:int}", "/7", {"rest": "7"}),
        ("{*rest:int}", "/seven", None),
        ("{*rest:int}", "/", None),
        ("{*rest:maxlength(3)}", "/a/b/c", None),
    ],
)
def test_a_catch_all_takes_the_rest(template: str, path: str, found: dict[str, str] | None) -> None:
    assert match(template, path) == found


@pytest.mark.parametrize(
    ("template", "path", "found"),
    [
        ("{name}.{ext}", "/a.txt", {"name": "a", "ext": "txt"}),
        ("{name}.{ext}", "/a.tar.gz", {"name": "a.tar", "ext": "gz"}),
        ("{name}.{ext}", "/a.", None),
        ("{name}.{ext}", "/.txt", None),
        ("{name}.{ext}", "/a", None),
        ("{name}.{ext?}", "/a.txt", {"name": "a", "ext": "txt"}),
        ("{name}.{ext?}", "/a", {"name": "a"}),
        ("{name}.{ext?}", "/a.", None),
        ("v{major:int}", "/V2", {"major": "2"}),
        ("v{major:int}", "/vx", None),
        ("v{major}", "/xv2", None),
        ("v{major}", "/v", None),
        ("{id}-end", "/1-END", {"id": "1"}),
        ("{id}-end", "/1-end2", None),
        ("{y:int}-{m:range(1,12)}", "/2026-07", {"y": "2026", "m": "07"}),
        ("{y:int}-{m:range(1,12)}", "/2026-13", None),
        # Microsoft's own examples of how it goes from right to left, never back.
        ("a{b}c{d}", "/abcd", {"b": "b", "d": "d"}),
        ("a{b}c{d}", "/aabcd", None),
    ],
)
def test_several_parameters_in_one_segment(template: str, path: str, found: dict[str, str] | None) -> None:
    assert match(template, path) == found


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/caf%C3%A9", "café"),
        ("/%F0%9F%8E%89", "🎉"),
        ("/a+b", "a+b"),
        ("/a%20b", "a b"),
        ("/a%2fb", "a%2Fb"),
        ("/a%2Fb", "a%2Fb"),
        ("/a%3Fb%23c%25d", "a?b#c%d"),
        ("/a%0Ab", "a\nb"),
        ("/%ZZ%", "%ZZ%"),
        ("/%FF", "\ufffd"),
        ("/%2E%2E", ".."),
    ],
)
def test_a_parameter_is_percent_decoded_once(path: str, found: str) -> None:
    assert match("{x}", path) == {"x": found}


def test_literals_of_any_script_match_in_either_case() -> None:
    assert match("ÄPFEL/{x}", "/%C3%A4pfel/1") == {"x": "1"}
    assert match("{x}İ{y}", "/aİb") == {"x": "a", "y": "b"}
    assert match("{x}-{y}", "/İİ-b") == {"x": "İİ", "y": "b"}


@pytest.mark.parametrize(
    ("constraint", "good", "bad"),
    [
        ("int", ["0", "-5", "+5", "2147483647", "-2147483648"], ["2147483648", "1.0", "x", "1_0", "\u0663", "9" * 30]),
        ("long", ["9223372036854775807", "-9223372036854775808"], ["9223372036854775808", "x"]),
        ("bool", ["true", "FALSE"], ["1", "yes", "truex"]),
        ("alpha", ["abC"], ["a1", "é", "a-b"]),
        (
            "guid",
            ["cd2c1638-1638-72d5-1638-deadbeef1638", "{CD2C1638-1638-72d5-1638-deadbeef1638}", "cd2c" * 8],
            ["cd2c1638-1638-72d5-1638-deadbeef163", "{cd2c1638-1638-72d5-1638-deadbeef1638", "1_2c" * 8, "x"],
        ),
        (
            "datetime",
            ["2016-12-31", "2016-12-31 7:32pm", "2016-12-31T19:32:00Z"],
            ["2016-13-31", "x", "2016-12-31 7:32xm"],
        ),
        ("decimal", ["49.99", "-1,000.01", "5", ".5", "5."], ["1e5", "x", ".", "1.2.3", "nan"]),
        ("double", ["1.234", "-1,001.01e8", "NaN", "1e5"], ["x", "1_000", "\u0661", "e5", "1.2.3"]),
        ("float", ["1.234", "-1,001.01e8"], ["x", "1_000"]),
        ("length(3)", ["abc", "äöü"], ["ab", "abcd"]),
        ("length(2,4)", ["ab", "abcd"], ["a", "abcde"]),
        ("minlength(4)", ["abcd"], ["abc"]),
        ("maxlength(4)", ["abcd"], ["abcde"]),
        ("min(18)", ["18", "019"], ["17", "x", "18.5"]),
        ("max(120)", ["120", "-5"], ["121", "x"]),
        ("range(18,120)", ["18", "120"], ["17", "121", "x"]),
        (r"regex(^\d{{3}}$)", ["123"], ["1234", "12"]),
        ("regex(^((a|b)c)$)", ["ac", "BC"], ["cc"]),
        ("regex(^(?=.*b)a?b$)", ["ab", "b"], ["aab"]),
        ("required", ["x"], []),
        ("int:min(1):max(9)", ["1", "9"], ["0", "10", "x"]),
        ("INT", ["1"], ["x"]),
    ],
)
def test_constraints(constraint: str, good: list[str], bad: list[str]) -> None:
    template = compile_template(f"{{x:{constraint}}}")
    assert [each for each in good if template.match("/" + quote(each)) is None] == []
    assert [each for each in bad if template.match("/" + quote(each)) is not None] == []


@pytest.mark.parametrize(
    "order",
    [
        ["x/new", "x/{id:int}", "x/{id}", "x/{*rest:length(4,99)}", "{*rest}"],
        ["{*rest}", "x/{*rest:length(4,99)}", "x/{id}", "x/{id:int}", "x/new"],
    ],
)
def test_the_most_special_template_wins_whatever_the_order(order: list[str]) -> None:
    taken = {path: first(order, path) for path in ("/x/new", "/x/12", "/x/old", "/x/a/bc", "/x/a/b", "/y")}
    assert taken == {
        "/x/new": "x/new",
        "/x/12": "x/{id:int}",
        "/x/old": "x/{id}",
        "/x/a/bc": "x/{*rest:length(4,99)}",
        "/x/a/b": "{*rest}",
        "/y": "{*rest}",
    }


def test_the_first_segment_that_differs_decides() -> None:
    assert first(["{a}/b", "a/{b}"], "/a/b") == "a/{b}"
    assert first(["{x}", "v{n}"], "/v1") == "v{n}"
    assert first(["{x}", "{name}.{ext}"], "/a.b") == "{name}.{ext}"


@pytest.mark.parametrize(
    "template",
    [
        "{}",
        "{id",
        "id}",
        "{{id}}",
        "x/{a:int",
        "{:int}",
        "{?}",
        "{=x}",
        "{*}",
        "{***x}",
        "{a}{b}",
        "{*a}/b",
        "a{*b}",
        "{*a}.b",
        "{a}/{a}",
        "{a}.{A}",
        "{a?}.{b}",
        "{a}-{b?}",
        "x{a?}",
        "{a?=1}",
        "{*a?}",
        "a?",
        "{a:integer}",
        "{a:}",
        "{a:min}",
        "{a:min(x)}",
        "{a:length()}",
        "{a:length(1,2,3)}",
        "{a:range(1)}",
        "{a:regex}",
        "{a:regex([)}",
        "{a:int)}",
        "{a:min(1}",
    ],
)
def test_a_template_that_asp_net_core_refuses_is_refused_by_name(template: str) -> None:
    with pytest.raises(HostError, match="route template") as refused:
        compile_template(template)
    assert template in str(refused.value)


SOME_TEMPLATES = [
    compile_template(template)
    for template in [
        *(f"{{x:{constraint}}}" for constraint in EVERY_CONSTRAINT),
        *(f"{{x:{constraint}?}}/{{y=1}}" for constraint in EVERY_CONSTRAINT),
        "{a}.{b?}",
        "{a}-{b}-{c:int}",
        "x{a}x{b}x",
        "lit/{*rest}",
        "{*rest:required}",
    ]
]


@given(st.text() | st.text("/%2FfxX.-019aä\x00"))
def test_no_path_makes_a_match_raise(path: str) -> None:
    for template in SOME_TEMPLATES:
        template.match(path)
        template.match(quote(path))


@given(st.text(min_size=1).filter(lambda text: "/" not in text and "%2f" not in text.lower()))
def test_what_is_put_into_a_path_comes_out_of_it(value: str) -> None:
    assert match("x/{value}", "/x/" + quote(value, safe="")) == {"value": value}
    assert match("x/{*value}", "/x/" + quote(value, safe="")) == {"value": value}


@pytest.mark.parametrize("unit", ["1", "1,", "a", "-", "x", "x1x", ".", "%2F", "%", "/", "1_"])
def test_no_long_path_takes_long(unit: str) -> None:
    long = "/" + unit * (60_000 // len(unit)) + "!"
    started = time.process_time()
    for template in SOME_TEMPLATES:
        template.match(long)
    assert time.process_time() - started < 4


def test_a_path_of_many_segments_is_not_decoded_where_no_template_is_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each segment takes time, for each template: long paths would keep the event loop for seconds."""
    decoded: list[str] = []

    def decode(part: str) -> str:
        decoded.append(part)
        return part

    monkeypatch.setattr("local_host.routing._decode", decode)
    assert compile_template("api/orders/{id}").match("/" + "a/" * 30_000) is None
    assert not decoded
