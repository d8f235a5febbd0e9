"""The host as a worker of a scheduler, which a second embedded hub plays: the same app, the same calls."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from local_host.task_hub.clock import SystemClock
from local_host.testing import HubControl, running_app, running_hub
from tests.hosting import HostProcess, host_process
from tests.polling import until

APPS = Path(__file__).parent / "apps"


@pytest.fixture(scope="module")
def hub() -> Iterator[HubControl]:
    """The hub that plays the scheduler; it opens to those who name it by its credential."""
    with running_hub(clock=SystemClock()) as hub:
        yield hub


def connection(hub: HubControl) -> str:
    """The connection string of the hub."""
    return f"Endpoint=http://{hub.hub.address};TaskHub={hub.hub.credential};Authentication=None"


@pytest.fixture(scope="module")
def host(hub: HubControl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostProcess]:
    """This project's own app, on the scheduler."""
    with host_process(tmp_path_factory.mktemp("data"), "--scheduler", connection(hub)) as host:
        yield host


def test_it_says_which_engine_it_works_for_and_keeps_no_hub_of_its_own(host: HostProcess, hub: HubControl) -> None:
    assert f"Engine:   the Durable Task Scheduler at http://{hub.hub.address}" in host.log.read_text()
    assert not list(host.data.glob("*.db"))


def test_an_approval_runs_on_it_from_the_request_to_the_decision(host: HostProcess, hub: HubControl) -> None:
    request = {"requester": "Alice", "item": "Vacation", "timeout_hours": 1, "request_id": "on-scheduler"}
    with host.client() as client:
        assert client.post("/api/requests", json=request).status_code == 202
        assert client.post("/api/requests", json=request).status_code == 409
        decision = {"is_approved": True, "approver": "Bob", "comments": "Yes"}
        assert client.post("/api/approvals/on-scheduler", json=decision).status_code == 200
        assert client.post("/api/approvals/on-scheduler", json=decision | {"approver": "Eve"}).status_code == 409
        shown = until(lambda: _completed(client.get("/api/requests/on-scheduler")))
    assert shown["output"]["status"] == "Approved"
    state = hub.client.get_orchestration_state("on-scheduler")
    assert state is not None
    assert state.runtime_status.name == "COMPLETED"


def test_the_management_api_speaks_for_it(host: HostProcess) -> None:
    with host.client() as client:
        prefix = "/runtime/webhooks/durabletask"
        started = client.post(f"{prefix}/orchestrators/approval/managed", json={}).json()
        status = until(lambda: _failed(httpx.get(started["statusQueryGetUri"], trust_env=False)))
        assert status["runtimeStatus"] == "Failed"  # that was no request for an approval
        history = client.get(f"{prefix}/instances/managed?showHistory=true").json()["historyEvents"]
        assert history[0]["EventType"] == "ExecutionStarted"
        assert client.delete(f"{prefix}/instances/managed").json() == {"instancesDeleted": 1}


def test_two_hosts_share_the_work_of_a_scheduler(tmp_path: Path) -> None:
    instances = []
    app = APPS / "durable"
    with (
        running_hub(clock=SystemClock()) as hub,
        host_process(tmp_path / "one", "--scheduler", connection(hub), app_dir=app) as one,
        host_process(tmp_path / "two", "--scheduler", connection(hub), app_dir=app) as two,
    ):
        for number, host in enumerate([one, two] * 5):
            with host.client() as client:
                instances.append(client.post("/api/start/native", json=number).json()["id"])
        for number, instance in enumerate(instances):
            state = hub.client.wait_for_orchestration_completion(instance, timeout=30)
            assert state is not None
            assert state.serialized_output == str(number)
        assert (one.stop(), two.stop()) == (0, 0)


def test_the_variable_of_azure_does_it_too_but_not_from_the_settings_file(hub: HubControl, tmp_path: Path) -> None:
    app = tmp_path / "app"
    app.mkdir()
    (app / "function_app.py").write_text("import azure.functions as func\napp = func.FunctionApp()\n")
    name = "DURABLE_TASK_SCHEDULER_CONNECTION_STRING"
    (app / "local.settings.json").write_text(json.dumps({"Values": {name: connection(hub)}}))
    with host_process(tmp_path / "one", app_dir=app) as host:
        assert "Engine:   the embedded task hub" in host.log.read_text()
    with host_process(tmp_path / "two", app_dir=app, environment={name: connection(hub)}) as host:
        assert "Engine:   the Durable Task Scheduler at" in host.log.read_text()


def _completed(response: httpx.Response) -> dict[str, Any] | None:
    shown: dict[str, Any] = response.json()
    return shown if shown["runtime_status"] == "COMPLETED" else None


def _failed(response: httpx.Response) -> dict[str, Any] | None:
    status: dict[str, Any] = response.json()
    return status if status["runtimeStatus"] == "Failed" else None


def test_a_test_never_works_for_a_scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "DURABLE_TASK_SCHEDULER_CONNECTION_STRING"
    monkeypatch.setenv(name, "Endpoint=http://127.0.0.1:9;TaskHub=production;Authentication=None")
    with running_app(APPS / "durable", tmp_path / "data") as app:
        assert app.state(app.start("native", 1)).runtime_status.name == "COMPLETED"
