"""Hubs to manage."""

from collections.abc import AsyncIterator, Iterator

import durabletask.internal.orchestrator_service_pb2 as pb
import grpc
import pytest
from durabletask.testing import InMemoryOrchestrationBackend

from tests.local_host.management.support import Api, connected, new_stub, serving, working


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    with serving(InMemoryOrchestrationBackend()) as address, working(address):
        yield address


@pytest.fixture
async def api(hub: str, anyio_backend: str) -> AsyncIterator[Api]:
    """A hub with a worker, shared by the tests of this module."""
    async with connected(hub) as api:
        yield api


@pytest.fixture(scope="module")
def settled() -> Iterator[str]:
    """The address of a hub with three instances: "done" completed, "dead" failed, "open" runs."""
    with serving(InMemoryOrchestrationBackend()) as address, working(address):
        with grpc.insecure_channel(address) as channel:
            stub = new_stub(channel)
            for name, instance_id in (("echo", "done"), ("broken", "dead"), ("gate", "open")):
                stub.StartInstance(pb.CreateInstanceRequest(instanceId=instance_id, name=name))
                stub.WaitForInstanceStart(pb.GetInstanceRequest(instanceId=instance_id), timeout=5)
        yield address


@pytest.fixture
async def idle(anyio_backend: str) -> AsyncIterator[Api]:
    """An empty hub without a worker: what is started stays pending."""
    with serving(InMemoryOrchestrationBackend()) as address:
        async with connected(address) as api:
            yield api


@pytest.fixture
async def fresh(anyio_backend: str) -> AsyncIterator[Api]:
    """An empty hub with a worker of its own."""
    with serving(InMemoryOrchestrationBackend()) as address, working(address):
        async with connected(address) as api:
            yield api
