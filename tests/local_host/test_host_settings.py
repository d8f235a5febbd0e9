"""What the settings of ``host.json`` do to an app that runs."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from local_host.task_hub.clock import SystemClock
from local_host.testing import AppControl, running_app
from tests.polling import until

APP = Path(__file__).parent / "apps" / "limits"


@contextmanager
def app_with(folder: Path, data: str = "data", *, ephemeral: bool = True, **settings: Any) -> Iterator[AppControl]:
    """Host the app of limits with a host.json; ``functionTimeout`` stands beside the durable settings."""
    app = folder / "app"
    if not app.exists():
        shutil.copytree(APP, app, ignore=shutil.ignore_patterns("__pycache__"))
    timeout = {"functionTimeout": settings.pop("functionTimeout")} if "functionTimeout" in settings else {}
    (app / "host.json").write_text(json.dumps({**timeout, "extensions": {"durableTask": settings}}))
    with running_app(app, folder / data, SystemClock(), ephemeral=ephemeral) as control:
        yield control


def ended(app: AppControl, instance_id: str) -> Any:
    """Wait for the output of an instance."""
    state = app.client.wait_for_orchestration_completion(instance_id, timeout=30)
    assert state is not None
    assert state.runtime_status.name == "COMPLETED", state.failure_details
    return json.loads(state.serialized_output or "null")


def start(
    app: AppControl, name: str, version: str | None = None, instance_id: str | None = None, given: Any = None
) -> str:
    """Start an instance, perhaps of a version."""
    return app.client.schedule_new_orchestration(name, input=given, instance_id=instance_id, version=version)


@pytest.mark.parametrize("limit", [1, 3])
def test_no_more_activities_run_at_once_than_allowed(tmp_path: Path, limit: int) -> None:
    with app_with(tmp_path, maxConcurrentActivityFunctions=limit) as app:
        assert ended(app, start(app, "fan_out", given=12)) == limit


def test_one_turn_at_a_time_still_runs_everything(tmp_path: Path) -> None:
    limits: dict[str, Any] = {"maxConcurrentOrchestratorFunctions": 1, "maxConcurrentEntityFunctions": 1}
    with app_with(tmp_path, defaultVersion="1.0", **limits) as app:
        instances = [start(app, "versions") for _ in range(5)]
        assert [ended(app, each) for each in instances] == [["1.0", "1.0", "0.1"]] * 5


# Versions


def test_instances_and_their_children_get_the_default_version(tmp_path: Path) -> None:
    with app_with(tmp_path, defaultVersion="1.2") as app:
        assert ended(app, start(app, "versions")) == ["1.2", "1.2", "0.1"]
        assert ended(app, start(app, "versions", "1.1")) == ["1.1", "1.2", "0.1"]


def test_a_newer_instance_waits_for_a_host_of_its_version(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with app_with(tmp_path, ephemeral=False, defaultVersion="1.0") as app:
        newer = start(app, "version", "2.0")
        assert ended(app, start(app, "version")) == "1.0"
        app.settle()
        assert app.state(newer).runtime_status.name == "PENDING"
    assert "Instances of version with the version '2.0' wait" in caplog.text
    with app_with(tmp_path, ephemeral=False, defaultVersion="2.0") as app:
        assert ended(app, newer) == "2.0"


def test_an_instance_that_waits_takes_no_slot(tmp_path: Path) -> None:
    with app_with(tmp_path, defaultVersion="1.0", maxConcurrentOrchestratorFunctions=1) as app:
        for _ in range(3):
            start(app, "version", "2.0")
        assert ended(app, start(app, "version")) == "1.0"


def test_another_version_can_be_made_to_fail(tmp_path: Path) -> None:
    with app_with(tmp_path, defaultVersion="1.0", versionMatchStrategy="Strict", versionFailureStrategy="Fail") as app:
        state = app.client.wait_for_orchestration_completion(start(app, "version", "0.9"), timeout=30)
        assert state is not None
        assert state.failure_details is not None
        assert (state.failure_details.error_type, state.failure_details.message) == (
            "VersionMismatch",
            "This host runs version '1.0', not '0.9'.",
        )


def test_without_a_match_all_versions_run(tmp_path: Path) -> None:
    with app_with(tmp_path, defaultVersion="1.0", versionMatchStrategy="None") as app:
        assert ended(app, start(app, "version", "7.0")) == "7.0"


# An id that is taken


@pytest.mark.parametrize("states", ["NonRunningStates", "AnyState"])
def test_an_instance_that_has_ended_gives_way(tmp_path: Path, states: str) -> None:
    with app_with(tmp_path, overridableExistingInstanceStates=states) as app:
        assert ended(app, start(app, "version", instance_id="one")) is None
        start(app, "wait", instance_id="one")
        assert app.state("one").name == "wait"


def test_an_instance_that_runs_gives_way_only_where_any_state_does(tmp_path: Path) -> None:
    with app_with(tmp_path) as app:
        start(app, "wait", instance_id="one")
        with pytest.raises(grpc.RpcError) as refused:
            start(app, "version", instance_id="one")
        assert refused.value.code() == grpc.StatusCode.ALREADY_EXISTS
    with app_with(tmp_path, overridableExistingInstanceStates="AnyState") as app:
        start(app, "wait", instance_id="one")
        assert ended(app, start(app, "version", instance_id="one")) is None


# functionTimeout

AGAIN = [f"attempt {number}" for number in range(2, 10)]
"""Only the first attempt hangs, but on a slow machine another one may take as long."""


@pytest.mark.parametrize("activity", ["hangs_at_first", "hangs_at_first_async"])
def test_an_activity_that_hangs_is_run_again(tmp_path: Path, activity: str) -> None:
    with app_with(tmp_path, functionTimeout="00:00:00.5") as app:
        try:
            assert ended(app, start(app, "call", given={"activity": activity, "key": "k"})) in AGAIN
        finally:
            (tmp_path / "data" / "go-on").touch()


@pytest.mark.parametrize("orchestrator", ["turn_hangs_at_first", "calls_entity"])
def test_a_turn_or_an_entity_that_hangs_is_run_again(
    tmp_path: Path, orchestrator: str, caplog: pytest.LogCaptureFixture
) -> None:
    with app_with(tmp_path, functionTimeout="00:00:00.5") as app:
        try:
            assert ended(app, start(app, orchestrator, given="k")) in AGAIN
        finally:
            (tmp_path / "data" / "go-on").touch()
    assert "did not return within 0.5 s (functionTimeout)" in caplog.text


@pytest.mark.parametrize("route", ["hangs", "hangs-async"])
def test_a_request_to_a_function_that_hangs_is_answered(tmp_path: Path, route: str) -> None:
    with app_with(tmp_path, functionTimeout="00:00:00.5") as app:
        try:
            response = httpx.get(f"{app.url}/api/{route}", timeout=30, trust_env=False)
        finally:
            (tmp_path / "data" / "go-on").touch()
    assert response.status_code == 500
    assert "Traceback" not in response.text


def test_settings_that_are_not_honoured_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with app_with(tmp_path, extendedSessionsEnabled=True):
        until(lambda: "'extensions.durableTask.extendedSessionsEnabled' is not honoured" in caplog.text)
