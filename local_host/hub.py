"""The task hub: a gRPC ``TaskHubSidecarService`` on loopback, and the way that clients are told of it."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import grpc
from durabletask.internal import orchestrator_service_pb2_grpc as stubs
from durabletask.testing import InMemoryOrchestrationBackend

from local_host.management_shapes import required_query

MAX_MESSAGE = 64 * 1024 * 1024
"""Bytes of one gRPC message: a history goes to the worker in one piece."""

MESSAGE_LIMITS = [("grpc.max_receive_message_length", MAX_MESSAGE), ("grpc.max_send_message_length", MAX_MESSAGE)]


class TaskHub(Protocol):
    """A task hub that runs inside the host. ``address`` is ``host:port`` once it has started."""

    address: str

    def start(self) -> None:
        """Start to serve."""
        ...

    def stop(self) -> None:
        """Stop to serve; what was acknowledged is kept as well as this kind of hub can."""
        ...


class InMemoryTaskHub:
    """durabletask's in-memory backend on a free loopback port: it forgets everything when the host stops.

    The backend's own ``start`` listens on every interface, so it is served from here.
    """

    def __init__(self) -> None:
        self.address = ""
        self._backend = InMemoryOrchestrationBackend()
        self._server: grpc.Server | None = None

    def start(self) -> None:
        """Start to serve on a free port."""
        # Streams of work items and clients that wait for a completion hold a thread each.
        self._server = grpc.server(ThreadPoolExecutor(max_workers=64), options=MESSAGE_LIMITS)
        stubs.add_TaskHubSidecarServiceServicer_to_server(self._backend, self._server)  # type: ignore[no-untyped-call]
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def stop(self) -> None:
        """Stop to serve; streams end at once."""
        self._backend.stop()
        if self._server is not None:
            self._server.stop(grace=0).wait()


def client_configuration(hub_address: str, base_url: str, hub_name: str) -> str:
    """Return the JSON that a durable client binding hands to a function.

    Field names and the ``INSTANCEID`` placeholder as the SDK's ``HttpManagementPayload`` reads them.
    """
    management = f"{base_url}/runtime/webhooks/durabletask"
    query = required_query(hub_name)
    instance = f"{management}/instances/INSTANCEID"
    return json.dumps(
        {
            "taskHubName": hub_name,
            "rpcBaseUrl": f"http://{hub_address}",
            "baseUrl": management,
            "httpBaseUrl": management,
            "requiredQueryStringParameters": query,
            "maxGrpcMessageSizeInBytes": MAX_MESSAGE,
            "creationUrls": {
                "createNewInstancePostUri": f"{management}/orchestrators/{{functionName}}[/{{instanceId}}]?{query}",
                "createAndWaitOnNewInstancePostUri": f"{management}/orchestrators/{{functionName}}[/{{instanceId}}]"
                f"?timeout={{timeoutInSeconds}}&pollingInterval={{intervalInSeconds}}&{query}",
            },
            "managementUrls": {
                "id": "INSTANCEID",
                "statusQueryGetUri": f"{instance}?{query}",
                "sendEventPostUri": f"{instance}/raiseEvent/{{eventName}}?{query}",
                "terminatePostUri": f"{instance}/terminate?reason={{text}}&{query}",
                "suspendPostUri": f"{instance}/suspend?reason={{text}}&{query}",
                "resumePostUri": f"{instance}/resume?reason={{text}}&{query}",
                "rewindPostUri": f"{instance}/rewind?reason={{text}}&{query}",
                "purgeHistoryDeleteUri": f"{instance}?{query}",
                "restartPostUri": f"{instance}/restart?{query}",
            },
        }
    )
