"""The gRPC service: each call to a command or a query, and what they refuse to a status."""

import hmac
import logging
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from time import monotonic
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import grpc
import grpc.aio
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.internal import orchestrator_service_pb2_grpc as stubs
from google.protobuf import empty_pb2

from local_host.task_hub import entities, instances, purge, queries
from local_host.task_hub.dispatch import ACTIVITY, ENTITY, TURN
from local_host.task_hub.records import ENDED, PENDING, moment
from local_host.task_hub.store import Refused, StoreError, Transaction
from local_host.task_hub.stream import StreamWorker

if TYPE_CHECKING:
    from local_host.task_hub.hub import TaskHub

HUB_METADATA = "taskhub"
"""The metadata that clients and workers name their hub by; here its value is a secret of this host's."""

LONGEST_ID = 1000

_LOGGER = logging.getLogger("local_host.task_hub")


class Gate(grpc.aio.ServerInterceptor):
    """Lets only those in who know the hub's credential, and turns what commands refuse into statuses."""

    def __init__(self, credential: str) -> None:
        self._credential = credential.encode()
        self._handlers: dict[str, Any] = {}

        async def refuse(_request: Any, context: Any) -> None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "This task hub is for its own host's clients only.")

        self._refusal: Any = grpc.unary_unary_rpc_method_handler(refuse)

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Pass a call on, or refuse it."""
        if not self._is_known(handler_call_details.invocation_metadata or ()):
            return self._refusal
        method = handler_call_details.method
        if method not in self._handlers:
            self._handlers[method] = _answering(await continuation(handler_call_details))
        return self._handlers[method]

    def _is_known(self, metadata: Any) -> bool:
        for name, value in metadata:
            if name == HUB_METADATA:
                given = value if isinstance(value, bytes) else value.encode()
                return hmac.compare_digest(given, self._credential)
        return False


def _answering(handler: Any) -> Any:
    """Make a handler answer errors with statuses that say what to do, and give nothing away."""
    if handler is None:
        return None
    if handler.response_streaming:

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            try:
                async for each in handler.unary_stream(request, context):
                    yield each
            except Exception as error:  # noqa: BLE001  # told below
                await _tell(context, error)

        return grpc.unary_stream_rpc_method_handler(stream, handler.request_deserializer, handler.response_serializer)

    async def unary(request: Any, context: Any) -> Any:
        try:
            return await handler.unary_unary(request, context)
        except Exception as error:  # noqa: BLE001  # told below
            return await _tell(context, error)

    return grpc.unary_unary_rpc_method_handler(unary, handler.request_deserializer, handler.response_serializer)


async def _tell(context: Any, error: Exception) -> None:
    await context.abort(*status_of(error))


def status_of(error: Exception) -> tuple[grpc.StatusCode, str]:
    """The gRPC status and sentence that an error is answered with; one that nobody expected is logged."""
    if isinstance(error, Refused):
        return getattr(grpc.StatusCode, error.code), str(error)
    if isinstance(error, StoreError):
        return grpc.StatusCode.UNAVAILABLE, str(error)
    if isinstance(error, sqlite3.Error):
        _LOGGER.error("The task hub's file could not be read: %s", error)
        return grpc.StatusCode.UNAVAILABLE, "The task hub's file could not be read; the host's log has the details."
    if isinstance(error, TimeoutError):
        return grpc.StatusCode.DEADLINE_EXCEEDED, "The task hub did not answer in time."
    _LOGGER.error("A call to the task hub failed", exc_info=error)
    return grpc.StatusCode.INTERNAL, "The task hub failed; the host's log has the details."


class Service(stubs.TaskHubSidecarServiceServicer):
    """``TaskHubSidecarService`` over a task hub."""

    def __init__(self, hub: "TaskHub") -> None:
        self._hub = hub

    # What clients call

    async def Hello(self, request: Any, context: Any) -> empty_pb2.Empty:
        return empty_pb2.Empty()

    async def StartInstance(self, request: pb.CreateInstanceRequest, context: Any) -> pb.CreateInstanceResponse:
        _check_id(request.instanceId)
        if not request.name:
            raise Refused("INVALID_ARGUMENT", "The name of the orchestrator is missing.")
        new = instances.NewInstance(
            request.instanceId or uuid4().hex,
            request.name,
            request.version.value if request.HasField("version") else self._hub.default_version,
            request.input.value if request.HasField("input") else None,
            dict(request.tags),
            moment(request, "scheduledStartTimestamp"),
            trace=request.parentTraceContext if request.HasField("parentTraceContext") else None,
            execution_id=request.executionId.value if request.HasField("executionId") else "",
        )
        replaceable = self._hub.replaceable
        if request.HasField("orchestrationIdReusePolicy"):
            replaceable = frozenset(request.orchestrationIdReusePolicy.replaceableStatus)
        started = await self._hub.execute(lambda tx: instances.start(tx, new, replaceable))
        return pb.CreateInstanceResponse(instanceId=started)

    async def GetInstance(self, request: pb.GetInstanceRequest, context: Any) -> pb.GetInstanceResponse:
        state = queries.state(self._hub.reader, request.instanceId, payloads=request.getInputsAndOutputs)
        if state is None:
            return pb.GetInstanceResponse(exists=False)
        return pb.GetInstanceResponse(exists=True, orchestrationState=state)

    async def WaitForInstanceStart(self, request: pb.GetInstanceRequest, context: Any) -> pb.GetInstanceResponse:
        await self._hub.until(request.instanceId, lambda status: status != PENDING)
        return await self.GetInstance(request, context)

    async def WaitForInstanceCompletion(self, request: pb.GetInstanceRequest, context: Any) -> pb.GetInstanceResponse:
        await self._hub.until(request.instanceId, lambda status: status in ENDED)
        return await self.GetInstance(request, context)

    async def RaiseEvent(self, request: pb.RaiseEventRequest, context: Any) -> pb.RaiseEventResponse:
        if not request.name:
            raise Refused("INVALID_ARGUMENT", "The name of the event is missing.")
        payload = request.input.value if request.HasField("input") else None
        await self._hub.execute(lambda tx: instances.raise_event(tx, request.instanceId, request.name, payload))
        return pb.RaiseEventResponse()

    async def TerminateInstance(self, request: pb.TerminateRequest, context: Any) -> pb.TerminateResponse:
        output = request.output.value if request.HasField("output") else None
        await self._hub.execute(
            lambda tx: instances.terminate(tx, request.instanceId, output, recursive=request.recursive)
        )
        return pb.TerminateResponse()

    async def SuspendInstance(self, request: pb.SuspendRequest, context: Any) -> pb.SuspendResponse:
        reason = request.reason.value if request.HasField("reason") else None
        await self._hub.execute(lambda tx: instances.suspend(tx, request.instanceId, reason))
        return pb.SuspendResponse()

    async def ResumeInstance(self, request: pb.ResumeRequest, context: Any) -> pb.ResumeResponse:
        reason = request.reason.value if request.HasField("reason") else None
        await self._hub.execute(lambda tx: instances.resume(tx, request.instanceId, reason))
        return pb.ResumeResponse()

    async def RewindInstance(self, request: pb.RewindInstanceRequest, context: Any) -> pb.RewindInstanceResponse:
        reason = request.reason.value if request.HasField("reason") else None
        await self._hub.execute(lambda tx: instances.rewind(tx, request.instanceId, reason))
        return pb.RewindInstanceResponse()

    async def RestartInstance(self, request: pb.RestartInstanceRequest, context: Any) -> pb.RestartInstanceResponse:
        restarted = await self._hub.execute(
            lambda tx: instances.restart(tx, request.instanceId, new_id=request.restartWithNewInstanceId)
        )
        return pb.RestartInstanceResponse(instanceId=restarted)

    async def QueryInstances(self, request: pb.QueryInstancesRequest, context: Any) -> pb.QueryInstancesResponse:
        page, token = queries.instances(self._hub.reader, request.query)
        response = pb.QueryInstancesResponse(orchestrationState=page)
        if token is not None:
            response.continuationToken.value = token
        return response

    async def ListInstanceIds(self, request: pb.ListInstanceIdsRequest, context: Any) -> pb.ListInstanceIdsResponse:
        page, token = queries.ended_ids(self._hub.reader, request)
        response = pb.ListInstanceIdsResponse(instanceIds=page)
        if token is not None:
            response.lastInstanceKey.value = token
        return response

    async def StreamInstanceHistory(
        self, request: pb.StreamInstanceHistoryRequest, context: Any
    ) -> AsyncIterator[pb.HistoryChunk]:
        for chunk in queries.history(self._hub.reader, request.instanceId):
            yield chunk

    async def PurgeInstances(self, request: pb.PurgeInstancesRequest, context: Any) -> pb.PurgeInstancesResponse:
        if request.HasField("purgeInstanceFilter"):
            deleted, complete = await self._purge_by_filter(request)
        else:
            ids = list(request.instanceBatch.instanceIds) if request.HasField("instanceBatch") else [request.instanceId]
            deleted, complete = await self._hub.execute(lambda tx: _purge(tx, ids, request)), True
        response = pb.PurgeInstancesResponse(deletedInstanceCount=deleted)
        response.isComplete.value = complete
        return response

    async def _purge_by_filter(self, request: pb.PurgeInstancesRequest) -> tuple[int, bool]:
        """Purge window by window, so that others come in between; until the filter's time is up."""
        wanted = request.purgeInstanceFilter
        give_up = (
            monotonic() + wanted.timeout.seconds + wanted.timeout.nanos / 1e9 if wanted.HasField("timeout") else None
        )
        deleted, complete = 0, False
        while not complete and (give_up is None or not deleted or monotonic() < give_up):
            count, complete = await self._hub.execute(
                lambda tx: purge.purge_window(tx, wanted, recursive=request.recursive)
            )
            deleted += count
        return deleted, complete

    async def CreateTaskHub(self, request: pb.CreateTaskHubRequest, context: Any) -> pb.CreateTaskHubResponse:
        if request.recreateIfExists:
            await self._hub.execute(purge.wipe)
        return pb.CreateTaskHubResponse()

    async def DeleteTaskHub(self, request: pb.DeleteTaskHubRequest, context: Any) -> pb.DeleteTaskHubResponse:
        await self._hub.execute(purge.wipe)
        return pb.DeleteTaskHubResponse()

    async def SkipGracefulOrchestrationTerminations(
        self, request: pb.SkipGracefulOrchestrationTerminationsRequest, context: Any
    ) -> pb.SkipGracefulOrchestrationTerminationsResponse:
        reason = request.reason.value if request.HasField("reason") else None
        ids = list(request.instanceBatch.instanceIds)
        ended = await self._hub.execute(
            lambda tx: [instances.terminate(tx, each, reason, recursive=False) for each in ids]
        )
        left = [each for each, done in zip(ids, ended, strict=True) if not done]
        return pb.SkipGracefulOrchestrationTerminationsResponse(unterminatedInstanceIds=left)

    # Entities

    async def SignalEntity(self, request: pb.SignalEntityRequest, context: Any) -> pb.SignalEntityResponse:
        _check_entity_id(request.instanceId)
        await self._hub.execute(lambda tx: entities.signal(tx, request))
        return pb.SignalEntityResponse()

    async def GetEntity(self, request: pb.GetEntityRequest, context: Any) -> pb.GetEntityResponse:
        found = queries.entity(self._hub.reader, request.instanceId, include_state=request.includeState)
        return pb.GetEntityResponse(exists=found is not None, entity=found)

    async def QueryEntities(self, request: pb.QueryEntitiesRequest, context: Any) -> pb.QueryEntitiesResponse:
        page, token = queries.entities(self._hub.reader, request.query)
        response = pb.QueryEntitiesResponse(entities=page)
        if token is not None:
            response.continuationToken.value = token
        return response

    async def CleanEntityStorage(
        self, request: pb.CleanEntityStorageRequest, context: Any
    ) -> pb.CleanEntityStorageResponse:
        removed, released = await self._hub.execute(
            lambda tx: purge.clean_entities(
                tx, remove_empty=request.removeEmptyEntities, release_locks=request.releaseOrphanedLocks
            )
        )
        return pb.CleanEntityStorageResponse(emptyEntitiesRemoved=removed, orphanedLocksReleased=released)

    # What workers call

    async def GetWorkItems(self, request: pb.GetWorkItemsRequest, context: Any) -> AsyncIterator[pb.WorkItem]:
        worker = StreamWorker(request)
        self._hub.dispatcher.connect(worker)
        try:
            async for message in worker.messages():
                yield message
        finally:
            self._hub.dispatcher.disconnect(worker)

    async def CompleteOrchestratorTask(self, request: pb.OrchestratorResponse, context: Any) -> pb.CompleteTaskResponse:
        return await self._complete(TURN, request)

    async def CompleteActivityTask(self, request: pb.ActivityResponse, context: Any) -> pb.CompleteTaskResponse:
        return await self._complete(ACTIVITY, request)

    async def CompleteEntityTask(self, request: pb.EntityBatchResult, context: Any) -> pb.CompleteTaskResponse:
        return await self._complete(ENTITY, request)

    async def _complete(
        self, kind: str, request: pb.OrchestratorResponse | pb.ActivityResponse | pb.EntityBatchResult
    ) -> pb.CompleteTaskResponse:
        """Take an outcome. One that comes twice, late, or from a worker that was given up on changes nothing."""
        item = self._hub.dispatcher.item(request.completionToken, kind)
        if item is not None:
            await self._hub.dispatcher.complete(item, request)
        return pb.CompleteTaskResponse()

    async def AbandonTaskActivityWorkItem(
        self, request: pb.AbandonActivityTaskRequest, context: Any
    ) -> pb.AbandonActivityTaskResponse:
        self._hub.dispatcher.abandon(request.completionToken, ACTIVITY)
        return pb.AbandonActivityTaskResponse()

    async def AbandonTaskOrchestratorWorkItem(
        self, request: pb.AbandonOrchestrationTaskRequest, context: Any
    ) -> pb.AbandonOrchestrationTaskResponse:
        self._hub.dispatcher.abandon(request.completionToken, TURN)
        return pb.AbandonOrchestrationTaskResponse()

    async def AbandonTaskEntityWorkItem(
        self, request: pb.AbandonEntityTaskRequest, context: Any
    ) -> pb.AbandonEntityTaskResponse:
        self._hub.dispatcher.abandon(request.completionToken, ENTITY)
        return pb.AbandonEntityTaskResponse()


def _check_id(instance_id: str) -> None:
    if len(instance_id) > LONGEST_ID:
        raise Refused("INVALID_ARGUMENT", f"An instance id has at most {LONGEST_ID} characters.")


def _check_entity_id(entity_id: str) -> None:
    at, name, key = [*entity_id.split("@", 2), "", ""][:3]
    if at or not name or not key:
        raise Refused("INVALID_ARGUMENT", "An entity id has the form '@name@key'.")


def _purge(tx: Transaction, ids: list[str], request: pb.PurgeInstancesRequest) -> int:
    found = [each for each in ids if not each.startswith("@")]
    deleted = purge.purge_instances(tx, found, recursive=request.recursive)
    return deleted + sum(purge.purge_entity(tx, each) for each in ids if each.startswith("@"))
