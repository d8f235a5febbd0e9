"""Microsoft's own Python worker library and this host find the same in an app, and refuse the same apps.

Each asks in a process of its own, since both change much of the process they are in.
"""

import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.hosting import ROOT

APPS = Path(__file__).parent / "apps"
WORKERS = APPS / "codec" / "workers.py"

WORKING = [
    ".",
    *sorted(
        str(file.parent.relative_to(ROOT)) for file in APPS.glob("*/function_app.py") if file.parent.name != "crashing"
    ),
]
"""The app of this repository, and those beside these tests; "crashing" imports what only tests have."""


@cache
def found(worker: str, folders: tuple[Path, ...]) -> dict[Path, dict[str, Any]]:
    """What a worker finds in each app, or how it refuses it."""
    asked = subprocess.run(
        [sys.executable, "-P", str(WORKERS), worker, *map(str, folders)],
        input="[]",
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env={"PATH": os.environ["PATH"], "LOCAL_HOST_DATA": tempfile.gettempdir()},
    )
    assert asked.returncode == 0, asked.stderr[-2000:]
    return dict(zip(folders, json.loads(asked.stdout), strict=True))


@pytest.mark.parametrize("folder", WORKING)
def test_both_find_the_same_functions_bindings_and_routes(folder: str) -> None:
    folders = tuple(ROOT / each for each in WORKING)
    azure, local = (found(worker, folders)[ROOT / folder] for worker in ("azure", "local"))
    assert "refused" not in azure, azure["refused"]
    assert "refused" not in local, local["refused"]
    by_name = {each["name"]: each for each in azure["functions"]}
    for name, trigger in local["not run"].items():
        assert by_name.pop(name)["trigger"][0] == trigger
    assert {each["name"]: each for each in local["functions"]} == by_name
    assert by_name


def test_what_is_found_is_what_stands_there() -> None:
    """Hold one app to what was counted by hand, so that two that find nothing do not agree."""
    folder = APPS / "programming_model"
    functions = {each["name"]: each for each in found("azure", (folder,))[folder]["functions"]}
    assert functions["ByAnotherName"]["route"] == "renamed/{what:alpha?}"
    assert functions["ByAnotherName"]["methods"] == ["GET"]
    assert functions["ByAnotherName"]["level"] == "anonymous"
    assert functions["sets_a_response"]["outputs"] == ["response"]
    assert functions["with_client_first"]["clients"] == ["client"]
    assert functions["with_client_first"]["context"] is True
    assert functions["on_the_loop"]["async"] is True
    assert functions["from_a_queue"]["bindings"] == [["message", "queueTrigger", "in"]]


# Malformed apps

APP = """
import typing
import azure.functions as func
import azure.durable_functions as df
from azure.functions import Out

app = df.DFApp(http_auth_level=func.AuthLevel.ANONYMOUS)

{body}
"""

HTTP = "@app.route()\ndef f({parameters}){returns}:\n    return 'x'\n"
OUT = "@app.route(binding_arg_name='out')\ndef f({parameters}){returns}:\n    pass\n"
QUEUE_OUT = (
    "@app.route()\n@app.queue_output('out', queue_name='q', connection='c')\n"
    "def f({parameters}){returns}:\n    return 'x'\n"
)
ACTIVITY = "@app.activity_trigger(input_name='given')\n{kind} f({parameters}){returns}:\n    pass\n"
CLIENT = (
    "@app.route()\n@app.durable_client_input(client_name='client')\nasync def f({parameters}){returns}:\n    pass\n"
)
TIMER = "@app.timer_trigger(arg_name='timer', schedule='0 * * * * *')\ndef f({parameters}){returns}:\n    pass\n"
QUEUE = "@app.queue_trigger('message', queue_name='q', connection='c')\ndef f({parameters}){returns}:\n    pass\n"


def source(template: str, parameters: str = "", returns: str = "", kind: str = "def") -> str:
    """The source of an app with one function."""
    returns = f" -> {returns}" if returns else ""
    return APP.format(body=template.format(parameters=parameters, returns=returns, kind=kind))


REFUSED = {
    "no binding for a parameter": source(HTTP, "req, other"),
    "no binding for an annotated parameter": source(HTTP, "req: func.HttpRequest, other: str"),
    "no binding for a parameter with a default": source(HTTP, "req, other=1"),
    "no binding for a keyword": source(HTTP, "req, *, other=1"),
    "no binding for the rest": source(HTTP, "req, *args"),
    "no binding for the keywords": source(HTTP, "req, **kwargs"),
    "no parameter for the trigger": source(HTTP, ""),
    "another name for the trigger": source(HTTP, "request"),
    "no parameter for a client": source(CLIENT, "req"),
    "no parameter for an output": source(OUT, "req"),
    "no parameter for an activity's input": source(ACTIVITY, "other"),
    "no parameter for a queue's message": source(QUEUE, ""),
    "a request that is a number": source(HTTP, "req: int"),
    "a request that is a response": source(HTTP, "req: func.HttpResponse"),
    "a request that is a list": source(HTTP, "req: list[str]"),
    "a request that may be none": source(HTTP, "req: func.HttpRequest | None"),
    "a request that is optional": source(HTTP, "req: typing.Optional[func.HttpRequest]"),
    "a request that is a value": source(HTTP, "req: 7"),
    "a name that is not there": source(HTTP, "req: 'func.NoSuchThing'"),
    "a response that is a number": source(HTTP, "req", "int"),
    "a response that is bytes": source(HTTP, "req", "bytes"),
    "a response that is a dict": source(HTTP, "req", "dict"),
    "a response that is nothing": source(HTTP, "req", "None"),
    "a response that is anything": source(HTTP, "req", "typing.Any"),
    "a response that may be none": source(HTTP, "req", "func.HttpResponse | None"),
    "a response that is optional": source(HTTP, "req", "typing.Optional[str]"),
    "a response that is an output": source(HTTP, "req", "Out[str]"),
    "a response that is a list": source(HTTP, "req", "list[str]"),
    "a context that is a text": source(HTTP, "req: func.HttpRequest, context: str"),
    "a context that is an activity's": source(ACTIVITY, "given, context: dict"),
    "an output for an input": source(HTTP, "req: Out[func.HttpRequest]"),
    "an output that is no Out": source(OUT, "req, out: func.HttpResponse"),
    "an output of a number": source(OUT, "req, out: Out[int]"),
    "an output of nothing said": source(OUT, "req, out: Out"),
    "an output for a queue that is no Out": source(QUEUE_OUT, "req, out: str"),
    "an output for a queue of a number": source(QUEUE_OUT, "req, out: Out[int]"),
    "a request that is a number, beside a client": source(CLIENT, "req: int, client"),
    "a timer that is a text's list": source(TIMER, "timer: typing.List[str]"),
    "a timer that is a request": source(TIMER, "timer: func.HttpRequest"),
    "a message that is a number": source(QUEUE, "message: int"),
    "an activity's list of texts": source(ACTIVITY, "given: list[str]"),
    "an activity's dict of texts": source(ACTIVITY, "given: dict[str, typing.Any]", kind="async def"),
    "an activity's text or nothing": source(ACTIVITY, "given: str | None"),
    "an activity's optional": source(ACTIVITY, "given: typing.Optional[str]"),
    "an activity's tuple": source(ACTIVITY, "given: typing.Tuple[int, int]"),
    "an activity's union": source(ACTIVITY, "given: typing.Union[int, str]"),
    "an activity's type variable": source(ACTIVITY, "given: typing.TypeVar('T')"),
    "the same name twice": source(HTTP, "req") + "\n@app.route(route='other')\ndef f(req):\n    pass\n",
    "the same name by function_name": source(HTTP, "req")
    + "\n@app.function_name('f')\n@app.route()\ndef g(req): pass\n",
    "the same name in a blueprint": source(HTTP, "req")
    + "\nb = df.Blueprint()\n@b.route(route='other')\ndef f(req): pass\napp.register_functions(b)\n",
    "a blueprint twice": source(HTTP, "req")
    + "\nb = df.Blueprint()\n@b.route()\ndef g(req): pass\napp.register_functions(b)\napp.register_functions(b)\n",
    "two durable blueprints on a FunctionApp": "import azure.functions as func\nimport azure.durable_functions as df\n"
    "app = func.FunctionApp()\napp.register_functions(df.Blueprint())\napp.register_functions(df.Blueprint())\n",
    "two triggers": APP.format(
        body="@app.route()\n@app.activity_trigger(input_name='given')\ndef f(req, given):\n    pass\n"
    ),
    "no trigger": APP.format(body="@app.function_name('f')\ndef f(req):\n    pass\n"),
    "only a client": APP.format(body="@app.durable_client_input(client_name='client')\ndef f(client):\n    pass\n"),
    "two apps": source(HTTP, "req") + "\nother = func.FunctionApp()\n",
    "one app of two names": source(HTTP, "req") + "\nalias = app\n",
    "no app": "import azure.functions as func\n",
    "only a blueprint": "import azure.functions as func\nb = func.Blueprint()\n",
    "an app in a function": "import azure.functions as func\ndef make():\n    return func.FunctionApp()\n",
    "the class of an app": "import azure.functions as func\napp = func.FunctionApp\n",
    "an error at import": "raise RuntimeError('at import')\n",
    "an import of what is not there": "import no_such_module_anywhere\n",
    "no Python": "def f(:\n",
}
"""Apps that Microsoft's library refuses."""

TAKEN = {
    "no annotations": source(HTTP, "req"),
    "all annotations": source(HTTP, "req: func.HttpRequest, context: func.Context", "func.HttpResponse"),
    "annotations that are texts": source(HTTP, "req: 'func.HttpRequest'", "'str'"),
    "a request that is a text": source(HTTP, "req: str"),
    "a request that is bytes": source(HTTP, "req: bytes"),
    "a response that is a text": source(HTTP, "req", "str"),
    "a context without annotation": source(HTTP, "req, context"),
    "a context of any class of that name": source(HTTP, "req, context: type('Context', (), {})"),
    "an output": source(OUT, "req, out: Out[func.HttpResponse]"),
    "an output of a text": source(OUT, "req, out: Out[str]", "None"),
    "an output without annotation": source(OUT, "req, out"),
    "an output for a queue": source(QUEUE_OUT, "req, out: Out[str]"),
    "an output of a list for a queue": source(QUEUE_OUT, "req, out: Out[typing.List[str]]"),
    "a client of a kind": source(CLIENT, "req, client: df.DurableFunctionsClient", "str"),
    "a client that is a number": source(CLIENT, "req, client: int"),
    "a client that is anything": source(CLIENT, "req, client: typing.Any"),
    "a client that is a text": source(CLIENT, "req, client: str"),
    "an output for a client": source(CLIENT, "req, client: Out[str]"),
    "an activity's number": source(ACTIVITY, "given: int", "int"),
    "an activity's anything": source(ACTIVITY, "given: typing.Any", "typing.Any"),
    "an activity's bare list": source(ACTIVITY, "given: list", "list[str]"),
    "an activity's List": source(ACTIVITY, "given: typing.List[str]"),
    "an activity's Dict": source(ACTIVITY, "given: typing.Dict[str, int]"),
    "an activity's literal": source(ACTIVITY, "given: typing.Literal['a']"),
    "an activity's class": source(ACTIVITY, "given: type('C', (), {})"),
    "a native activity's list": source(ACTIVITY, "ctx, other: list[str]", "list[str]"),
    "a message": source(QUEUE, "message: func.QueueMessage"),
    "a message that is a text": source(QUEUE, "message: str"),
    "a timer": source(TIMER, "timer: func.TimerRequest", "None"),
    "a timer without annotation": source(TIMER, "timer"),
    "an app without functions": "import azure.functions as func\napp = func.FunctionApp()\n",
    "an app of another name": source(HTTP, "req").replace("app", "site"),
    "a WSGI app": "import azure.functions as func\n"
    "def site(environ, start): pass\napp = func.WsgiFunctionApp(app=site)\n",
    "the same route twice": source(HTTP, "req") + "\n@app.route(route='f', methods=['PUT'])\ndef g(req): pass\n",
}
"""Apps that it takes."""


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What both workers say of each app of the two tables, Microsoft's first."""
    assert not REFUSED.keys() & TAKEN.keys()
    folders: dict[str, Path] = {}
    for app, text in (REFUSED | TAKEN).items():
        folders[app] = tmp_path_factory.mktemp("app")
        (folders[app] / "function_app.py").write_text(text)
    said = [found(worker, tuple(folders.values())) for worker in ("azure", "local")]
    return {app: [each[folder] for each in said] for app, folder in folders.items()}


@pytest.mark.parametrize("app", REFUSED)
def test_what_microsofts_library_refuses_is_refused_here(both: dict[str, list[dict[str, Any]]], app: str) -> None:
    azure, local = both[app]
    assert "refused" in azure
    assert "refused" in local
    assert "Traceback" not in local["refused"]


@pytest.mark.parametrize("app", TAKEN)
def test_what_microsofts_library_takes_is_taken_here(both: dict[str, list[dict[str, Any]]], app: str) -> None:
    azure, local = both[app]
    assert "refused" not in azure, azure["refused"]
    assert "refused" not in local, local["refused"]
