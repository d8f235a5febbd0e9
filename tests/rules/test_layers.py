"""The direction of imports, where import-linter (make check) does not look, and what each file may import at all."""

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = ("triggers", "orchestrators", "activities", "entities", "services", "contracts")
APP_FILES = sorted(
    [ROOT / "function_app.py", ROOT / "errors.py", ROOT / "settings.py"]
    + [file for layer in LAYERS for file in (ROOT / layer).rglob("*.py")]
)


def imported(file: Path) -> set[str]:
    """The top-level names that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def pinned(name: str) -> set[str]:
    """The distributions that a requirements file pins, in lower case with hyphens."""
    lines = (ROOT / name).read_text().splitlines()
    return {re.sub(r"[_.]+", "-", line.split("==")[0].lower()) for line in lines if "==" in line}


@pytest.mark.parametrize("module", ["errors", "settings"])
def test_errors_and_settings_import_nothing_of_the_app(module: str) -> None:
    assert not imported(ROOT / f"{module}.py") & {*LAYERS, "function_app", "errors", "settings", "local_host"}


@pytest.mark.parametrize("file", APP_FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_app_imports_only_what_azure_installs(file: Path) -> None:
    ours = {*LAYERS, "errors", "settings"}
    for name in imported(file) - ours - set(sys.stdlib_module_names):
        distributions = {re.sub(r"[_.]+", "-", each.lower()) for each in packages_distributions().get(name, [])}
        assert distributions & pinned("requirements.txt"), f"{name} is not in requirements.txt"


def test_azure_installs_nothing_of_the_local_host_or_the_tests() -> None:
    assert not pinned("requirements.txt") & {"starlette", "uvicorn", "pytest", "httpx", "mypy", "ruff", "hypothesis"}


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_requirements_are_pinned_and_name_no_index(name: str) -> None:
    for line in (ROOT / name).read_text().splitlines():
        assert line.lstrip().startswith("#") or re.fullmatch(r"[a-zA-Z0-9._-]+(\[[a-z,]+\])?==[^ ]+( ;.*)?", line), line


@pytest.mark.parametrize("name", ["requirements.in", "requirements-dev.in"])
def test_each_direct_dependency_has_its_reason(name: str) -> None:
    reason = False
    for line in (ROOT / name).read_text().splitlines():
        if line.startswith("#"):
            reason = True
        elif not line:
            reason = False
        elif not line.startswith("-r"):
            assert reason, f"{line} has no comment above it"


@pytest.mark.parametrize(
    "workflow", ["purchase_order", "approval", "guarded_call", "manual_intervention", "refund", "signup", "workflow"]
)
def test_a_workflow_has_one_name_in_every_layer(workflow: str) -> None:
    for layer in ("triggers", "orchestrators", "contracts"):
        assert (ROOT / layer / f"{workflow}.py").is_file()
    # Two have no effect of their own: one plays its call, the other makes guarded ones.
    has_effects = workflow not in ("manual_intervention", "refund")
    assert (ROOT / "activities" / f"{workflow}.py").is_file() == has_effects
