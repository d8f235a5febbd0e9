"""The SDK's async durable clients: what they lack to be let in everywhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from azure.durable_functions import DurableFunctionsClient


@contextmanager
def streams_with_hub() -> Iterator[None]:
    """Have the SDK's async clients name their hub with streams too, as its sync clients do.

    The SDK gives gRPC one interceptor for all kinds of calls, and gRPC's asyncio takes such a one for calls with one
    answer only (``Channel.__init__`` of ``grpc.aio``); its histories would be refused for want of a credential.
    """
    ordinary: Any = DurableFunctionsClient._get_stub

    def get_stub(client: DurableFunctionsClient) -> Any:
        stub = ordinary(client)
        if not isinstance(stub.StreamInstanceHistory, partial):
            metadata = (("taskhub", client.taskHubName),)
            stub.StreamInstanceHistory = partial(stub.StreamInstanceHistory, metadata=metadata)
        return stub

    DurableFunctionsClient._get_stub = get_stub  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        DurableFunctionsClient._get_stub = ordinary  # type: ignore[method-assign]
