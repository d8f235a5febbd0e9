"""Orchestrators are deterministic: no clock, no random, no I/O, no settings, as far as their source can show it.

Entities keep the same rules: what they do follows from what they are asked, and from their state.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(file for layer in ("orchestrators", "entities") for file in (ROOT / layer).glob("*.py"))

ALLOWED_IMPORTS = {
    "activities",
    "azure",
    "collections",
    "contracts",
    "dataclasses",
    "datetime",
    "decimal",
    "durabletask",
    "enum",
    "functools",
    "hashlib",
    "itertools",
    "json",
    "operator",
    "orchestrators",
    "pydantic",
    "typing",
}
FORBIDDEN_CALLS = {
    "now",
    "utcnow",
    "today",
    "uuid1",
    "uuid4",
    "getenv",
    "time",
    "sleep",
    "urandom",
    "random",
    "fromtimestamp",
}
FORBIDDEN_NAMES = {"open", "print", "input", "eval", "exec", "id", "hash", "globals", "__import__", "set", "frozenset"}


def offences(source: str) -> list[str]:
    """What in a source is, or may be, not deterministic."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".")[0] for alias in node.names]
            found += [f"imports {name}" for name in names if name not in ALLOWED_IMPORTS]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] not in ALLOWED_IMPORTS:
            found.append(f"imports {node.module}")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in FORBIDDEN_CALLS:
            found.append(f"calls .{node.func.attr}()")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_NAMES:
            found.append(f"calls {node.func.id}()")
        elif isinstance(node, ast.Set | ast.SetComp):
            found.append("has a set, whose order is not the same in another process")
        elif isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.Global | ast.Nonlocal):
            found.append(f"has {type(node).__name__}")
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_an_orchestrator_or_entity_uses_nothing_that_changes_between_replays(file: Path) -> None:
    assert offences(file.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import random",
        "import os",
        "from settings import get_settings",
        "from services.mail import get_mailer",
        "from datetime import datetime\ndatetime.now()",
        "import datetime\ndatetime.datetime.utcnow()",
        "from uuid import uuid4",
        "open('x')",
        "print('x')",
        "hash('x')",
        "for x in {1, 2}: pass",
        "set([1])",
        "async def f(): pass",
        "def f():\n    global x\n    x = 1",
    ],
)
def test_the_rule_sees(source: str) -> None:
    assert offences(source)
