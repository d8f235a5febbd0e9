"""The task hub alone, beside durabletask's in-memory backend: the same worker and client, the same job, by turns.

Each hub is served by a process of its own; durabletask's own worker and client, unchanged, are in this one. The job is
an orchestration that calls an activity, waits for an event, calls another activity, and ends.
"""

import asyncio
import json
import logging
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import grpc
import uvloop
from durabletask import task
from durabletask.client import TaskHubGrpcClient
from durabletask.internal import orchestrator_service_pb2_grpc as stubs
from durabletask.testing import InMemoryOrchestrationBackend
from durabletask.worker import TaskHubGrpcWorker

from local_host.task_hub import TaskHub

OURS, MEMORY = "SQLite task hub", "durabletask's in-memory backend"
ROOT = Path(__file__).parents[1]


def _job(ctx: task.OrchestrationContext, _: Any) -> Generator[task.Task[Any], Any, str]:
    yield ctx.call_activity("_step", input="before")
    event = yield ctx.wait_for_external_event("go")
    yield ctx.call_activity("_step", input=event)
    return "done"


def _step(_: task.ActivityContext, given: str) -> str:
    return given


def measure(address: str, metadata: list[tuple[str, str]] | None, *, round_trips: int, jobs: int) -> dict[str, float]:
    """Do the job one by one, then 32 at a time."""
    quiet = logging.getLogger("bench")
    quiet.setLevel(logging.ERROR)
    worker = TaskHubGrpcWorker(host_address=address, metadata=metadata, logger=quiet)
    job: Any = _job
    worker.add_orchestrator(job)
    worker.add_activity(_step)
    worker.start()  # type: ignore[no-untyped-call]
    client = TaskHubGrpcClient(host_address=address, metadata=metadata, logger=quiet)

    def one(_number: int) -> float:
        before = time.perf_counter()
        instance = client.schedule_new_orchestration("_job")
        client.raise_orchestration_event(instance, "go", data="x")
        state = client.wait_for_orchestration_completion(instance, timeout=60)
        assert state is not None
        assert state.serialized_output == '"done"', state
        return time.perf_counter() - before

    try:
        for number in range(20):
            one(number)
        alone = [one(number) for number in range(round_trips)]
        with ThreadPoolExecutor(32) as pool:
            before = time.perf_counter()
            list(pool.map(one, range(jobs)))
            per_second = jobs / (time.perf_counter() - before)
    finally:
        client.close()
        worker.stop()  # type: ignore[no-untyped-call]
    return {
        "p50_ms": median(alone) * 1000,
        "p99_ms": quantiles(alone, n=100)[98] * 1000,
        "per_second": per_second,
    }


def compare(*, rounds: int = 3, round_trips: int = 100, jobs: int = 300) -> dict[str, dict[str, float]]:
    """Measure both by turns, and give the median of each figure."""
    found: dict[str, list[dict[str, float]]] = {OURS: [], MEMORY: []}
    for _ in range(rounds):
        for kind, figures in found.items():
            with _served(kind) as (address, metadata):
                figures.append(measure(address, metadata, round_trips=round_trips, jobs=jobs))
    return {
        kind: {name: median(each[name] for each in figures) for name in figures[0]} for kind, figures in found.items()
    }


@contextmanager
def _served(kind: str) -> Iterator[tuple[str, list[tuple[str, str]] | None]]:
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.hubs", kind, folder], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            address, metadata = json.loads(process.stdout.readline())
            yield address, [tuple(each) for each in metadata] or None
        finally:
            process.communicate()  # the end of its input ends it


def _serve_memory() -> None:
    backend = InMemoryOrchestrationBackend()
    server = grpc.server(ThreadPoolExecutor(64))
    stubs.add_TaskHubSidecarServiceServicer_to_server(backend, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(json.dumps([f"127.0.0.1:{port}", []]), flush=True)
    sys.stdin.read()
    backend.stop()
    server.stop(0)


async def _serve_ours(folder: Path) -> None:
    hub = TaskHub(folder)
    await hub.start()
    print(json.dumps([hub.address, hub.metadata]), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await hub.stop()


if __name__ == "__main__":
    threading.stack_size(256 * 1024)
    if sys.argv[1] == OURS:
        uvloop.run(_serve_ours(Path(sys.argv[2])))
    else:
        _serve_memory()
