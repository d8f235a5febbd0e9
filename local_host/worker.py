"""The worker: takes work items from a task hub over gRPC, and has the app's functions run them."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, override

from durabletask.grpc_options import GrpcChannelOptions
from durabletask.internal import helpers
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.worker import TaskHubGrpcWorker

from local_host.durable import DurableFunctions
from local_host.hub import MAX_MESSAGE

_LOGGER = logging.getLogger("local_host.worker")


class Worker(TaskHubGrpcWorker):
    """durabletask's worker, with its connection, its stream and its limits, but the app's functions do the work.

    The functions run on ``loop``; the threads of the worker wait for them.
    """

    def __init__(self, address: str, functions: DurableFunctions, loop: asyncio.AbstractEventLoop) -> None:
        limits = GrpcChannelOptions(max_receive_message_length=MAX_MESSAGE, max_send_message_length=MAX_MESSAGE)
        super().__init__(host_address=address, channel_options=limits, logger=_LOGGER, emit_trace_spans=False)
        self._functions = functions
        self._loop = loop

    @override
    def _execute_orchestrator(self, req: pb.OrchestratorRequest, stub: Any, completionToken: Any) -> None:
        response = self._wait(self._functions.run_orchestrator(req))
        response.completionToken = completionToken
        stub.CompleteOrchestratorTask(response)

    @override
    def _execute_activity(self, req: pb.ActivityRequest, stub: Any, completionToken: Any) -> None:
        response = self._wait(self._functions.run_activity(req))
        response.completionToken = completionToken
        stub.CompleteActivityTask(response)

    @override
    def _execute_entity_batch(
        self, req: pb.EntityBatchRequest | pb.EntityRequest, stub: Any, completionToken: Any
    ) -> pb.EntityBatchResult:
        infos: list[pb.OperationInfo] = []
        if isinstance(req, pb.EntityRequest):
            req, infos = helpers.convert_to_entity_batch_request(req)
        result = self._wait(self._functions.run_entity(req))
        result.completionToken = completionToken
        result.operationInfos.extend(infos)
        stub.CompleteEntityTask(result)
        return result

    def _wait[T](self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
