"""Loading an app from a folder: its settings, its host.json and its functions, as users write and break them."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from local_host.app_loader import load_app, load_environment
from local_host.errors import HostError

APP = """
import azure.functions as func

app = func.FunctionApp()


@app.route()
def hello(req: func.HttpRequest) -> str:
    return "hello"
"""


@pytest.fixture(autouse=True)
def own_process_state() -> Iterator[None]:
    """Give each test the environment and the modules as they were; loading an app changes both."""
    environment, path, module = dict(os.environ), list(sys.path), sys.modules.get("function_app")
    yield
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:] = path
    sys.modules.pop("function_app", None)
    if module is not None:
        sys.modules["function_app"] = module


def app_in(folder: Path, source: str = APP, host_json: Any = None) -> Path:
    """Write an app, with the text or the document of a host.json."""
    (folder / "function_app.py").write_text(source, encoding="utf-8")
    if host_json is not None:
        text = host_json if isinstance(host_json, str) else json.dumps(host_json)
        (folder / "host.json").write_text(text, encoding="utf-8")
    return folder


def settings_in(folder: Path, document: Any) -> Path:
    """Write a local.settings.json from text, bytes or a document."""
    file = folder / "local.settings.json"
    if isinstance(document, bytes):
        file.write_bytes(document)
    else:
        file.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return folder


# local.settings.json


def test_values_go_to_the_environment_as_texts(tmp_path: Path) -> None:
    values = {"LH_TEXT": "grün", "LH_NUMBER": 7, "LH_YES": True, "LH_EMPTY": "", "LH_NULL": None, "A:B__C": "x"}
    load_environment(settings_in(tmp_path, {"IsEncrypted": False, "Values": values}))
    found = {name: os.environ.get(name) for name in values}
    assert found == {
        "LH_TEXT": "grün",
        "LH_NUMBER": "7",
        "LH_YES": "true",
        "LH_EMPTY": "",
        "LH_NULL": None,
        "A:B__C": "x",
    }


@pytest.mark.parametrize("real", ["real", ""])
def test_what_is_in_the_environment_already_wins(tmp_path: Path, real: str) -> None:
    os.environ["LH_TEXT"] = real
    load_environment(settings_in(tmp_path, {"Values": {"LH_TEXT": "from the file"}}))
    assert os.environ["LH_TEXT"] == real


@pytest.mark.parametrize("document", [None, {}, {"Values": {}}, {"Values": None}, b"\xef\xbb\xbf{}"])
def test_without_values_nothing_changes(tmp_path: Path, document: Any) -> None:
    if document is not None:
        settings_in(tmp_path, document)
    before = dict(os.environ)
    load_environment(tmp_path)
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ('{"Values": {}} / a comment', "is not JSON"),
        (b"\xff\xfe{}", "is not JSON"),
        ("[]", "must hold a JSON object"),
        ("null", "must hold a JSON object"),
        ({"Values": []}, "'Values' must be an object"),
        ({"Values": "A=1"}, "'Values' must be an object"),
        ({"Values": {"LH_X": {"a": 1}}}, "the value of 'LH_X' must be a text"),
        ({"Values": {"LH_X": [1]}}, "the value of 'LH_X' must be a text"),
        ({"Values": {"": "1"}}, "cannot be put into the environment"),
        ({"Values": {"A=B": "1"}}, "cannot be put into the environment"),
        ({"Values": {"LH_X": "a\0b"}}, "cannot be put into the environment"),
        ({"IsEncrypted": True, "Values": {"LH_X": "AQAA"}}, "is encrypted"),
    ],
)
def test_settings_that_cannot_be_taken_are_refused_by_a_sentence(tmp_path: Path, document: Any, sentence: str) -> None:
    with pytest.raises(HostError) as refused:
        load_environment(settings_in(tmp_path, document))
    assert sentence in str(refused.value)
    assert str(tmp_path / "local.settings.json") in str(refused.value)


# host.json


@pytest.mark.parametrize(
    ("host_json", "prefix", "hub"),
    [
        (None, "api", "TestHubName"),
        ({}, "api", "TestHubName"),
        ({"version": "2.0"}, "api", "TestHubName"),
        ({"extensions": None}, "api", "TestHubName"),
        ({"extensions": {"http": None, "durableTask": None}}, "api", "TestHubName"),
        ({"extensions": {"http": {"routePrefix": None}}}, "api", "TestHubName"),
        ({"extensions": {"http": {"routePrefix": ""}}}, "", "TestHubName"),
        ({"extensions": {"http": {"routePrefix": "/"}}}, "", "TestHubName"),
        ({"extensions": {"http": {"routePrefix": "/a/b/"}}}, "a/b", "TestHubName"),
        ({"extensions": {"durableTask": {"hubName": "Mine"}}}, "api", "Mine"),
    ],
)
def test_host_json_says_prefix_and_hub(tmp_path: Path, host_json: Any, prefix: str, hub: str) -> None:
    app = load_app(app_in(tmp_path, host_json=host_json))
    assert (app.settings.route_prefix, app.settings.hub_name) == (prefix, hub)


@pytest.mark.parametrize(
    ("host_json", "sentence"),
    [
        ("{", "is not JSON"),
        ("[]", "must hold a JSON object"),
        ('"2.0"', "must hold a JSON object"),
        ({"extensions": []}, "'extensions' must be an object"),
        ({"extensions": "http"}, "'extensions' must be an object"),
        ({"extensions": {"http": []}}, "'extensions.http' must be an object"),
        ({"extensions": {"http": {"routePrefix": 7}}}, "'extensions.http.routePrefix' must be a text"),
        ({"extensions": {"http": {"routePrefix": False}}}, "'extensions.http.routePrefix' must be a text"),
        ({"extensions": {"durableTask": "hub"}}, "'extensions.durableTask' must be an object"),
        ({"extensions": {"durableTask": {"hubName": ["x"]}}}, "'extensions.durableTask.hubName' must be a text"),
    ],
)
def test_a_host_json_that_cannot_be_taken_is_refused_by_a_sentence(
    tmp_path: Path, host_json: Any, sentence: str
) -> None:
    with pytest.raises(HostError) as refused:
        load_app(app_in(tmp_path, host_json=host_json))
    assert sentence in str(refused.value)
    assert str(tmp_path / "host.json") in str(refused.value)


# function_app.py


def test_an_app_has_its_functions(tmp_path: Path) -> None:
    app = load_app(app_in(tmp_path))
    assert [(each.name, each.route, each.methods, each.auth_level) for each in app.functions] == [
        ("hello", "hello", (), "function")
    ]


def test_an_app_may_have_any_name(tmp_path: Path) -> None:
    assert len(load_app(app_in(tmp_path, APP.replace("app", "site"))).functions) == 1


def test_an_app_imports_the_modules_beside_it(tmp_path: Path) -> None:
    (tmp_path / "lh_neighbour.py").write_text("ROUTE = 'from-beside'")
    source = APP.replace("import azure", "from lh_neighbour import ROUTE\nimport azure").replace(
        "()\ndef", "(ROUTE)\ndef"
    )
    assert load_app(app_in(tmp_path, source)).functions[0].route == "from-beside"


def test_an_app_is_executed_anew_at_each_load(tmp_path: Path) -> None:
    load_app(app_in(tmp_path))
    again = load_app(app_in(tmp_path, APP.replace("hello", "goodbye")))
    assert again.functions[0].name == "goodbye"


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("", "holds no FunctionApp or DFApp"),
        ("app = None", "holds no FunctionApp or DFApp"),
        ("import azure.functions as func\napp = func.Blueprint()", "holds no FunctionApp or DFApp"),
        ("import azure.functions as func\napp = func.FunctionApp", "holds no FunctionApp or DFApp"),
        (APP + "\nother = func.FunctionApp()", "holds 2 names of apps, where one is expected"),
        (APP + "\nalias = app", "holds 2 names of apps, where one is expected"),
    ],
)
def test_a_module_without_one_app_is_refused_by_a_sentence_that_says_what_to_do(
    tmp_path: Path, source: str, sentence: str
) -> None:
    with pytest.raises(HostError) as refused:
        load_app(app_in(tmp_path, source))
    assert sentence in str(refused.value)
    assert "app = func.FunctionApp()" in str(refused.value)
    assert str(tmp_path / "function_app.py") in str(refused.value)


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_a_folder_without_an_app_is_refused_by_a_sentence_that_says_what_to_do(tmp_path: Path, name: str) -> None:
    with pytest.raises(HostError, match="--app-dir"):
        load_app(tmp_path / name)


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import lh_no_such_module", ModuleNotFoundError),
        ("def f(:", SyntaxError),
        ("raise RuntimeError('at import')", RuntimeError),
        (APP + "\n\n@app.route(route='x')\ndef hello(req):\n    pass\n", ValueError),
    ],
)
def test_an_error_of_the_app_itself_passes_through(tmp_path: Path, source: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        load_app(app_in(tmp_path, source))


# What is not run


def test_what_a_setting_disables_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "function_app.py").write_text(
        "import azure.functions as func\n"
        "app = func.FunctionApp()\n"
        "for name in ('one', 'two', 'three'):\n"
        "    @app.function_name(name)\n"
        "    @app.route(name)\n"
        "    def function(req: func.HttpRequest) -> str:\n"
        "        return ''\n"
    )
    monkeypatch.setenv("AzureWebJobs.one.Disabled", "TRUE")
    monkeypatch.setenv("AzureWebJobs_two_Disabled", "1")
    monkeypatch.setenv("AzureWebJobs.three.Disabled", "false")
    app = load_app(tmp_path)
    assert [function.name for function in app.functions] == ["three"]
    assert [(each.name, each.reason) for each in app.not_run] == [
        ("one", "the app setting AzureWebJobs.one.Disabled disables it"),
        ("two", "the app setting AzureWebJobs_two_Disabled disables it"),
    ]


def test_functions_with_triggers_and_bindings_of_others_are_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "function_app.py").write_text(
        "import azure.functions as func\n"
        "app = func.FunctionApp()\n"
        "@app.queue_trigger(arg_name='message', queue_name='q', connection='C')\n"
        "def on_message(message: func.QueueMessage) -> None: ...\n"
        "@app.route('a')\n"
        "@app.blob_input(arg_name='blob', path='a/b', connection='C')\n"
        "def reads(req: func.HttpRequest, blob: str) -> str: return ''\n"
        "@app.route('b')\n"
        "@app.queue_output(arg_name='out', queue_name='q', connection='C')\n"
        "def writes(req: func.HttpRequest, out: func.Out[str]) -> str: return ''\n"
        "@app.route('c')\n"
        "def works(req: func.HttpRequest) -> str: return ''\n"
    )
    app = load_app(tmp_path)
    assert [function.name for function in app.functions] == ["works"]
    assert [(each.name, each.trigger_type, each.reason) for each in app.not_run] == [
        ("on_message", "queueTrigger", "this host has no queueTrigger"),
        ("reads", "httpTrigger", "this host has no blob binding"),
        ("writes", "httpTrigger", "this host has no queue binding"),
    ]


def test_the_script_may_have_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "main_of_app.py").write_text("import azure.functions as func\napp = func.FunctionApp()\n")
    monkeypatch.setenv("PYTHON_SCRIPT_FILE_NAME", "main_of_app.py")
    assert load_app(tmp_path).functions == ()
    for elsewhere in ("../main_of_app.py", "main_of_app", "other.py"):
        monkeypatch.setenv("PYTHON_SCRIPT_FILE_NAME", elsewhere)
        with pytest.raises(HostError, match="There is no"):
            load_app(tmp_path)


def test_what_an_extension_makes_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class BlobClient:
        """Stands for what the extension for blobs makes."""

    registry = SimpleNamespace(check_supported_type=lambda hint: hint is BlobClient)
    base = SimpleNamespace(get_binding_registry=lambda: registry, BlobClient=BlobClient)
    monkeypatch.setitem(sys.modules, "azurefunctions.extensions.base", base)
    source = (
        "import sys\n"
        "import azure.functions as func\n"
        "BlobClient = sys.modules['azurefunctions.extensions.base'].BlobClient\n"
        "app = func.FunctionApp()\n"
        "@app.blob_trigger(arg_name='blob', path='a/b', connection='C')\n"
        "def on_blob(blob: BlobClient) -> None: ...\n"
    )
    assert [each.reason for each in load_app(app_in(tmp_path, source)).not_run] == ["this host has no blobTrigger"]
    registry.check_supported_type = lambda hint: False
    with pytest.raises(HostError, match="cannot be BlobClient with a blobTrigger binding"):
        load_app(app_in(tmp_path, source))


@pytest.mark.parametrize("name", ["host", "a/b", "1st", "a b", "a\n  Serving:  http://evil", "t\udce9", "x" * 129, "ä"])
def test_a_name_that_no_function_can_have_is_not_run(tmp_path: Path, name: str) -> None:
    source = (
        "import azure.functions as func\n"
        "app = func.FunctionApp()\n"
        f"@app.function_name({name!r})\n"
        "@app.timer_trigger(arg_name='timer', schedule='0 * * * * *')\n"
        "def function(timer: func.TimerRequest) -> None: ...\n"
    )
    app = load_app(app_in(tmp_path, source))
    assert app.functions == ()
    assert app.not_run[0].reason == "its name cannot be that of a function"
    assert app.not_run[0].name.isascii()
    assert app.not_run[0].name.isprintable()
