"""Decisions wait for their verdicts, and calls for their answers, without holding the threads that others need."""

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.api.test_purchase_order import decide, started
from tests.failing_server import failing_server, hang
from tests.hosting import host_process
from tests.polling import until


def test_many_decisions_at_once_on_one_thread_all_get_their_verdict(tmp_path: Path) -> None:
    with (
        host_process(tmp_path, environment={"PYTHON_THREADPOOL_THREAD_COUNT": "1"}) as host,
        host.client() as client,
        ThreadPoolExecutor(20) as pool,
    ):
        answers = list(pool.map(lambda _: decide(client, started(client)), range(20)))
    assert {answer.status_code for answer in answers} == {200}


def test_servers_that_take_their_time_keep_nobody_else_waiting(tmp_path: Path) -> None:
    with failing_server() as server:
        server.answers("/slow", [hang()])
        environment = {"PYTHON_THREADPOOL_THREAD_COUNT": "2", "CALL_HOSTS": server.host}
        with host_process(tmp_path, environment=environment) as host, host.client() as client:
            slow = {"name": "slow", "call": {"kind": "http", "url": server.url("/slow"), "timeout": 120}}
            for _ in range(8):
                assert client.post("/api/interventions", json=slow).status_code == 202
            until(lambda: len(server.requests) == 8)
            assert decide(client, started(client)).status_code == 200
            host.stop(signal.SIGKILL)  # it would let the calls come to their end
