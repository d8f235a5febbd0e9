"""The log: which lines are shown, of which category, and that none can be forged."""

import asyncio
import io
import json
import logging
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import UTC, datetime
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_host import logs
from local_host.errors import HostError

LOGGERS = ("", "local_host", "azure.durable_functions", "azure.durable_functions.client", "uvicorn", "durabletask")
ID = "3f2a9c1b-0000-4000-8000-000000000000"
CURRENT = logs.Invocation("my_function", ID)


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave the logging of the test's process as it was, and begin without the variables that change it."""
    for name in ("NO_COLOR", "FORCE_COLOR", "PYTHON_ENABLE_DEBUG_LOGGING"):
        monkeypatch.delenv(name, raising=False)
    loggers = [logging.getLogger(name) for name in (*LOGGERS, "azure.durable_functions.worker")]
    before = [(logger, logger.level, list(logger.handlers), logger.propagate) for logger in loggers]
    yield
    for logger, level, handlers, propagate in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers
        logger.propagate = propagate


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


def log(levels: dict[str, str] | None = None, *, as_json: bool = False) -> io.StringIO:
    """Configure the log, and give the stream that its lines go to."""
    stream = io.StringIO()
    logging.getLogger().handlers.clear()  # pytest's own, which cannot take what is logged here
    logs.configure(levels or {}, as_json=as_json, stream=stream)
    return stream


def within[T](run: Callable[[], T], current: logs.Invocation = CURRENT) -> T:
    """Call ``run`` within an invocation."""

    def enter() -> T:
        logs.invocation.set(current)
        return run()

    return copy_context().run(enter)


def said(logger: str, level: int, levels: dict[str, str] | None = None, *, inside: bool = False) -> str | None:
    """Return the category of the line that a logger's record becomes, None where it is not shown."""
    stream = log(levels, as_json=True)
    speak = partial(logging.getLogger(logger).log, level, "said")
    if inside:
        within(speak)
    else:
        speak()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(lines) <= 1
    return lines[0]["category"] if lines else None


# Categories and levels


@pytest.mark.parametrize("logger", ["", "my.module", "urllib3.connectionpool", "asyncio", "azure.core.pipeline"])
def test_what_is_logged_within_an_invocation_is_the_users(logger: str) -> None:
    assert said(logger, logging.INFO, inside=True) == "Function.my_function.User"
    assert said(logger, logging.DEBUG, inside=True) is None


@pytest.mark.parametrize("logger", ["urllib3", "asyncio", "uvicorn.error", "my.module"])
def test_other_loggers_outside_an_invocation_are_heard_from_warning_on(logger: str) -> None:
    assert said(logger, logging.INFO) is None
    assert said(logger, logging.WARNING) == f"Host.Other.{logger}"
    assert said(logger, logging.INFO, {"Host": "Debug", "default": "Trace"}) is None
    assert said(logger, logging.WARNING, {"Host": "Error"}) is None


def test_a_rule_that_names_a_library_wakes_it() -> None:
    assert said("asyncio", logging.INFO, {"Host.Other.asyncio": "Information"}) == "Host.Other.asyncio"
    assert said("urllib3", logging.INFO, {"Host.Other.asyncio": "Information"}) is None


@pytest.mark.parametrize(
    "logger", ["azure.durable_functions.client", "azure.durable_functions.worker", "durabletask-x"]
)
def test_the_durable_sdk_is_heard_from_warning_on_or_from_what_its_rule_says(logger: str) -> None:
    for inside in (False, True):
        assert said(logger, logging.INFO, inside=inside) is None
        assert said(logger, logging.WARNING, inside=inside) == "DurableTask.Python"
        assert said(logger, logging.INFO, {"DurableTask": "Information"}, inside=inside) == "DurableTask.Python"


def test_the_durable_sdk_is_spared_the_work_for_details_that_are_not_shown() -> None:
    log()
    assert logging.getLogger("azure.durable_functions.worker").level > logging.DEBUG  # which is what it looks at


@pytest.mark.parametrize(
    ("logger", "category"),
    [
        ("local_host", "Host.General"),
        ("local_host.management", "Host.Management"),
        ("local_host.task_hub", "DurableTask.Core"),
        ("local_host.task_hub.store", "DurableTask.Core"),
    ],
)
def test_the_host_has_its_own_categories_within_an_invocation_too(logger: str, category: str) -> None:
    for inside in (False, True):
        assert said(logger, logging.INFO, inside=inside) == category
        assert said(logger, logging.DEBUG, inside=inside) is None
        assert said(logger, logging.DEBUG, {category: "Debug"}, inside=inside) == category


def test_a_logger_whose_name_only_begins_like_the_hosts_is_not_the_hosts() -> None:
    assert said("local_hosting", logging.INFO, inside=True) == "Function.my_function.User"


def test_what_the_host_says_of_an_invocation_has_the_functions_category() -> None:
    assert said(logs.FUNCTION_LOGGER, logging.INFO, inside=True) == "Function.my_function"
    assert said(logs.FUNCTION_LOGGER, logging.INFO, {"Function.my_function.User": "None"}, inside=True)
    assert said(logs.FUNCTION_LOGGER, logging.INFO, {"Function.my_function": "Warning"}, inside=True) is None
    assert said(logs.FUNCTION_LOGGER, logging.DEBUG, {"Function": "Debug"}, inside=True)


@pytest.mark.parametrize(
    ("levels", "shown"),
    [
        ({"default": "Warning"}, False),
        ({"default": "Warning", "Function": "Information"}, True),
        ({"Function": "Information", "default": "Warning"}, True),
        ({"Function": "Information", "Function.my_function": "Warning"}, False),
        ({"Function.my_function": "Warning", "Function": "Information"}, False),
        ({"Function.my_function": "Warning", "Function.my_function.User": "Information"}, True),
        ({"Function.other": "None"}, True),
        ({"function.MY": "None"}, False),  # .NET compares beginnings, not words, in any case
        ({"DEFAULT": "error"}, False),
        ({"Function.my_function.User.more": "None"}, True),
        ({"Default": "None", "Function": "tRACE"}, True),
    ],
)
def test_of_the_rules_that_a_category_begins_with_the_longest_counts(levels: dict[str, str], shown: bool) -> None:
    assert (said("", logging.INFO, levels, inside=True) is not None) is shown


def test_the_level_none_shows_nothing_at_all() -> None:
    assert said("", logging.CRITICAL, {"Function": "None"}, inside=True) is None
    assert said("local_host", logging.CRITICAL, {"default": "None"}) is None


@pytest.mark.parametrize("level", ["", "Verbose", "Info", "informations", 2, None, ["Debug"]])
def test_a_level_that_does_not_exist_is_refused_with_its_category_and_the_levels_that_do(level: str) -> None:
    before = list(logging.getLogger().handlers)
    with pytest.raises(HostError) as caught:
        logs.configure({"default": "Information", "Function.x": level}, as_json=False)
    assert str(caught.value) == (
        f"host.json: '{level}' in logging.logLevel, for 'Function.x', is no level. "
        "Choose one of Trace, Debug, Information, Warning, Error, Critical, None."
    )
    assert logging.getLogger().handlers == before


@pytest.mark.parametrize(("value", "made"), [("1", True), ("TRUE", True), ("0", False), ("", False)])
def test_debug_lines_of_the_app_need_the_workers_variable_besides_the_level(
    monkeypatch: pytest.MonkeyPatch, value: str, made: bool
) -> None:
    monkeypatch.setenv("PYTHON_ENABLE_DEBUG_LOGGING", value)
    assert (said("my.module", logging.DEBUG, {"Function": "Debug"}, inside=True) is not None) is made
    assert said("my.module", logging.DEBUG, inside=True) is None


def test_debug_lines_of_a_logger_that_the_app_has_set_to_debug_need_no_variable() -> None:
    logger = logging.getLogger("an.app.s.own")
    logger.setLevel(logging.DEBUG)
    try:
        assert said(logger.name, logging.DEBUG, {"Function": "Debug"}, inside=True)
        assert said(logger.name, logging.DEBUG, inside=True) is None
    finally:
        logger.setLevel(logging.NOTSET)


# Whose line it is


def test_invocations_at_once_keep_to_themselves() -> None:
    async def one(number: int) -> None:
        current = logs.Invocation(f"f{number}", f"id-{number}")
        token = logs.invocation.set(current)
        for _ in range(3):
            await asyncio.sleep(0)
            logging.info("%d", number)
            await asyncio.to_thread(logging.info, "%d", number)
        logs.invocation.reset(token)

    async def all_of_them() -> None:
        await asyncio.gather(*(one(number) for number in range(20)))

    stream = log(as_json=True)
    asyncio.run(all_of_them())
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(lines) == 120
    for line in lines:
        number = line["message"]
        assert (line["function"], line["invocationId"]) == (f"f{number}", f"id-{number}")


def in_a_thread_of_the_app(invocation_id: object) -> list[dict[str, str]]:
    """Log a line and a warning from a thread that says which invocation it works for; give what is shown."""

    def work() -> None:
        logs.thread_local_storage.invocation_id = invocation_id
        logging.info("at work")
        logging.warning("worried")

    stream = log(as_json=True)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_thread_of_the_app_can_say_which_invocation_it_works_for() -> None:
    running = logs.Invocation("threaded", "id-of-threaded")
    lines = in_a_thread_of_the_app(running.id)
    assert [line["message"] for line in lines] == ["at work", "worried"]
    assert {(line["category"], line["invocationId"]) for line in lines} == {("Function.threaded.User", running.id)}


@pytest.mark.parametrize("invocation_id", ["nobody's", "", None, 5, ["unhashable"]])
def test_a_thread_that_names_no_invocation_that_runs_is_outside_of_any(invocation_id: object) -> None:
    (line,) = in_a_thread_of_the_app(invocation_id)
    assert (line["message"], line["category"]) == ("worried", "Host.Other.root")
    assert "invocationId" not in line


def test_an_invocation_that_has_ended_is_forgotten() -> None:
    def run() -> None:
        token = logs.invocation.set(logs.Invocation("ended", "id-of-ended"))
        logs.invocation.reset(token)

    run()
    (line,) = in_a_thread_of_the_app("id-of-ended")
    assert line["category"] == "Host.Other.root"


# The two forms


def test_a_line_for_people() -> None:
    stream = log()
    before = datetime.now().astimezone().replace(tzinfo=None)
    within(lambda: logging.getLogger("x").warning("%s is %d", "this", 1))
    found = re.fullmatch(r"(\S+ \S+\.\d{3}) (.*)\n", stream.getvalue())
    assert found
    assert found[2] == "WARNING  Function.my_function.User [3f2a9c1b] this is 1"
    assert abs((datetime.fromisoformat(found[1]) - before).total_seconds()) < 60


def test_a_line_for_machines() -> None:
    stream = log(as_json=True)
    within(lambda: logging.getLogger("x").warning("%s is %d", "this", 1))
    line = json.loads(stream.getvalue())
    assert abs((datetime.fromisoformat(line["time"]) - datetime.now(UTC)).total_seconds()) < 60
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {
        "level": "Warning",
        "category": "Function.my_function.User",
        "message": "this is 1",
        "function": "my_function",
        "invocationId": ID,
    }


@pytest.mark.parametrize(
    ("level", "name"),
    [(50, "Critical"), (60, "Critical"), (40, "Error"), (30, "Warning"), (25, "Information"), (20, "Information")],
)
def test_levels_have_the_names_of_azure_for_machines(level: int, name: str) -> None:
    stream = log(as_json=True)
    logging.getLogger("local_host").log(level, "x")
    assert json.loads(stream.getvalue())["level"] == name


NASTY = "\n2025-01-01 00:00:00.000 INFO     Host.General Forged\r\x1b[2J\x9b1m\x00\x7f\x85\u2028\u2029\ud800é\t"


def test_a_message_cannot_forge_a_line_nor_command_a_terminal() -> None:
    stream = log()
    within(lambda: logging.info("%s", NASTY), logs.Invocation("f", "\x1b[31m\n"))
    logging.getLogger(f"a{NASTY}").warning(NASTY)
    text = stream.getvalue()
    assert text.count("\n") == 2
    assert text.splitlines() == text.split("\n")[:-1]
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)
    assert r"\n2025-01-01 00:00:00.000 INFO     Host.General Forged\r\x1b[2J\x9b1m\x00" in text
    assert "é\t" in text
    text.encode()  # no half of a surrogate is left


@given(st.text(), st.text())
def test_whatever_is_logged_is_one_line(message: str, name: str) -> None:
    # Hypothesis calls this many times under one fixture, which is all right: each call configures anew.
    stream = log()
    logging.getLogger("local_host").warning("%s", message)
    within(lambda: logging.info(message.replace("%", "%%") + "%s", name))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} (WARNING|INFO)", line) for line in lines)
    stream = log(as_json=True)
    within(lambda: logging.info("%s", message))
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["message"] == message


def fail() -> None:
    """Log an exception whose text is nasty."""
    try:
        raise ValueError(f"bad{NASTY}")  # noqa: TRY301
    except ValueError:
        logging.exception("failed")


def test_a_traceback_keeps_its_lines_below_the_line_it_belongs_to() -> None:
    stream = log()
    within(fail)
    first, *rest = stream.getvalue().splitlines()
    assert first.endswith("ERROR    Function.my_function.User [3f2a9c1b] failed")
    assert rest[0] == "    Traceback (most recent call last):"
    assert all(line.startswith("    ") for line in rest)
    assert any(line.startswith("    2025-01-01") for line in rest)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", stream.getvalue())


def test_a_traceback_is_a_text_for_machines() -> None:
    stream = log(as_json=True)
    within(fail)
    (text,) = stream.getvalue().splitlines()
    line = json.loads(text)
    assert line["message"] == "failed"
    assert line["exception"].startswith("Traceback (most recent call last):\n")
    assert f"ValueError: bad{NASTY}" in line["exception"]


@pytest.mark.parametrize("as_json", [False, True])
def test_an_exception_that_is_none_adds_nothing(as_json: bool) -> None:
    stream = log(as_json=as_json)
    logging.getLogger("local_host").error("no exception", exc_info=True)
    assert "NoneType" not in stream.getvalue()
    assert len(stream.getvalue().splitlines()) == 1


class Unprintable:
    """What raises when it is made a text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


@pytest.mark.parametrize("as_json", [False, True])
def test_a_record_that_cannot_be_put_together_is_told_as_far_as_it_goes(as_json: bool) -> None:
    stream = log(as_json=as_json)
    host = logging.getLogger("local_host")
    host.warning("%d of %s", 1)
    host.warning("%s", Unprintable())
    host.warning(Unprintable())
    lines = stream.getvalue().splitlines()
    assert [("(cannot be put together with its arguments)" in line) for line in lines] == [True] * 3
    assert "%d of %s" in lines[0]
    assert "Unprintable" in lines[2]


def test_a_stream_that_is_gone_does_not_reach_the_app(capsys: pytest.CaptureFixture[str]) -> None:
    stream = log()
    stream.close()
    within(lambda: logging.info("nobody hears this"))
    assert capsys.readouterr().err == ""


# Colours


@pytest.mark.parametrize(
    ("terminal", "environment", "coloured"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": "0"}, False),  # no-color.org: whatever the value is
        (True, {"NO_COLOR": ""}, True),  # but not an empty one
        (False, {"FORCE_COLOR": "1"}, True),
        (False, {"FORCE_COLOR": ""}, False),
        (True, {"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
    ],
)
def test_colours_are_for_terminals_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, environment: dict[str, str], coloured: bool
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stream = Terminal() if terminal else io.StringIO()
    logs.configure({}, as_json=False, stream=stream)
    logging.getLogger("local_host").log(27, "an odd level")
    logging.getLogger("local_host").error("red\x1b[0m")
    assert ("\x1b[31mERROR   \x1b[0m Host.General red\\x1b[0m\n" in stream.getvalue()) is coloured
    assert ("\x1b" in stream.getvalue()) is coloured


def test_json_has_no_colours() -> None:
    stream = Terminal()
    logs.configure({}, as_json=True, stream=stream)
    logging.getLogger("local_host").error("red")
    assert "\x1b" not in stream.getvalue()


# What the app does to logging


def test_configuring_again_replaces_what_was_there() -> None:
    first, second = log(), log({"default": "Error"}, as_json=True)
    logging.getLogger("local_host").error("once")
    logging.getLogger("local_host").warning("not any more")
    within(lambda: logging.error("once too"))
    assert first.getvalue() == ""
    assert [json.loads(line)["message"] for line in second.getvalue().splitlines()] == ["once", "once too"]


@pytest.mark.parametrize("force", [False, True])
def test_an_app_that_configures_logging_neither_doubles_nor_silences_the_host(force: bool) -> None:
    ours, apps = log(), io.StringIO()
    if force:
        logging.basicConfig(stream=apps, level=logging.DEBUG, force=True)
    else:
        logging.getLogger().addHandler(logging.StreamHandler(apps))
    within(lambda: logging.getLogger(logs.FUNCTION_LOGGER).info("of the host"))
    logging.getLogger("local_host.task_hub").warning("of the hub")
    within(lambda: logging.info("of the app"))
    assert [ours.getvalue().count(line) for line in ("of the host", "of the hub")] == [1, 1]
    assert apps.getvalue().count("of the app") == 1
    assert "of the h" not in apps.getvalue()
    assert ours.getvalue().count("of the app") == (0 if force else 1)  # with force, it takes our handler away


def test_an_apps_filter_on_the_handlers_of_the_root_is_heeded() -> None:
    stream = log()
    logging.getLogger().handlers[-1].addFilter(lambda record: "secret" not in record.getMessage())
    within(lambda: logging.info("a secret"))
    within(lambda: logging.info("no more"))
    assert stream.getvalue().count("\n") == 1


def test_lines_of_many_threads_stay_whole() -> None:
    stream = log()
    with ThreadPoolExecutor(8) as pool:
        for number in range(400):
            pool.submit(logging.getLogger("local_host").info, "%s", f"<{number}>" * 20)
    lines = stream.getvalue().splitlines()
    assert {line.partition("<")[2] for line in lines} == {(f"<{n}>" * 20)[1:] for n in range(400)}
    assert len(lines) == 400


def test_print_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    log(as_json=True)
    print("as it is\x1b[1m")  # noqa: T201
    assert capsys.readouterr().out == "as it is\x1b[1m\n"
