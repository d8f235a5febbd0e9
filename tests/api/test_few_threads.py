"""Decisions wait for their verdicts without holding the threads that the activities need."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.api.test_purchase_order import decide, started
from tests.hosting import host_process


def test_many_decisions_at_once_on_one_thread_all_get_their_verdict(tmp_path: Path) -> None:
    with (
        host_process(tmp_path, environment={"PYTHON_THREADPOOL_THREAD_COUNT": "1"}) as host,
        host.client() as client,
        ThreadPoolExecutor(20) as pool,
    ):
        answers = list(pool.map(lambda _: decide(client, started(client)), range(20)))
    assert {answer.status_code for answer in answers} == {200}
