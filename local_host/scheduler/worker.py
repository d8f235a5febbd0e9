"""The worker: Microsoft's for the Durable Task Scheduler, but the app's functions do the work, on the host's loop."""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, override

import grpc
from azure.durable_functions.internal.payloads import get_payload_store
from durabletask.azuremanaged.worker import DurableTaskSchedulerWorker
from durabletask.grpc_options import GrpcChannelOptions, GrpcRetryPolicyOptions, GrpcWorkerResiliencyOptions
from durabletask.internal import helpers
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.scheduled.schedule_entity import ENTITY_NAME as SCHEDULE_ENTITY
from durabletask.worker import ConcurrencyOptions

from local_host.durable import DurableFunctions, NotNow
from local_host.scheduler.connection import Connection
from local_host.scheduler.contact import Contact, told
from local_host.scheduler.proxy import channel_options
from local_host.scheduler.tokens import TokenError, Tokens
from local_host.task_hub.dispatch import ACTIVITY, ENTITY, PAUSE_AFTER_ERROR, TURN
from local_host.task_hub.records import FAILED, failure

CALL_SECONDS = 60.0
"""Seconds that the scheduler has to take an outcome."""

HELLO_SECONDS = 5.0
"""Seconds that the scheduler has to answer when the worker connects; the stop of the host may wait as long."""

TOO_LARGE = 3 * 1024 * 1024
"""Bytes from which on an outcome that the scheduler has no room for is taken to be too large: gRPC's limit is 4 MB."""

_LOGGER = logging.getLogger("local_host.scheduler")

# What it says of its connection is said by ``Contact``, in one line.
_SDK_LOGGER = logging.getLogger("local_host.scheduler.sdk")
_SDK_LOGGER.setLevel(logging.ERROR)

type Outcome = pb.OrchestratorResponse | pb.ActivityResponse | pb.EntityBatchResult


@dataclass(frozen=True)
class _Work:
    """A thing that was handed out: how it is run, and the calls that end it."""

    what: str
    run: Callable[[], Coroutine[Any, Any, Outcome]]
    complete: Any
    abandon: Any
    abandoned: Any
    too_large: Callable[[], Outcome] | None = None


class SchedulerWorker(DurableTaskSchedulerWorker):
    """Runs what a scheduler hands out by the functions of an app.

    The SDK's worker has the connection, the stream and the limits. A thread of it waits for each thing that runs on
    ``loop``. There are no filters: what the app does not have fails with a sentence that says so, as on Azure, where an
    app has its hub for itself; with filters it would wait for ever.
    """

    def __init__(
        self,
        connection: Connection,
        tokens: Tokens | None,
        functions: DurableFunctions,
        slots: Mapping[str, int],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(
            host_address=connection.target,
            taskhub=connection.hub,
            token_credential=tokens,
            resource_id=connection.audience,
            secure_channel=connection.secure,
            interceptors=[Contact(connection.endpoint, slots[ENTITY], self._wait_before_stop)],
            channel_options=GrpcChannelOptions(
                raw_options=channel_options(connection), retry_policy=GrpcRetryPolicyOptions()
            ),
            resiliency_options=GrpcWorkerResiliencyOptions(hello_timeout_seconds=HELLO_SECONDS),
            concurrency_options=ConcurrencyOptions(
                slots[ACTIVITY], slots[TURN], slots[ENTITY], maximum_thread_pool_workers=sum(slots.values())
            ),
            logger=_SDK_LOGGER,
        )
        self._functions = functions
        self._tokens = tokens
        self._loop = loop
        self._lock = threading.Lock()
        self._draining = False
        self._ended = threading.Event()
        self._running: set[Future[None]] = set()
        self._calls: set[Any] = set()
        self.add_capability(pb.WORKER_CAPABILITY_HISTORY_STREAMING)
        if get_payload_store() is not None:
            self.add_capability(pb.WORKER_CAPABILITY_LARGE_PAYLOADS)
        if SCHEDULE_ENTITY.lower() in functions.entity_names:
            self.add_capability(pb.WORKER_CAPABILITY_SCHEDULED_TASKS)

    async def drain(self) -> None:
        """Begin nothing more, wait for what runs, and end.

        The stream stays open meanwhile, since the scheduler would hand out again what runs when it ends; what comes
        over it waits, and is given back at the end.
        """
        with self._lock:
            self._draining = True
            running = list(self._running)
        if running:
            await asyncio.wait([asyncio.wrap_future(each) for each in running])
        await self.end()

    async def end(self) -> None:
        """End the connection and the threads; what still runs is cancelled and given back. Twice does no harm."""
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        self._shutdown.set()
        self._ended.set()
        if self._tokens is not None:
            self._tokens.release()
        with self._lock:
            self._draining = True
            calls = list(self._calls)
        for call in calls:
            call.cancel()
        self.stop()  # type: ignore[no-untyped-call]

    def _wait_before_stop(self, seconds: float) -> None:
        self._shutdown.wait(seconds)

    @override
    def _execute_orchestrator(self, req: pb.OrchestratorRequest, stub: Any, completionToken: str) -> None:
        def run() -> Coroutine[Any, Any, Outcome]:
            if req.requiresHistoryStreaming:
                self._stream_history(req, stub)
            started = _started(req)
            version = started.version.value if started.HasField("version") else None
            return self._functions.run_orchestrator(started.name, req.instanceId, req.SerializeToString(), version)

        def too_large() -> Outcome:
            response = pb.OrchestratorResponse(instanceId=req.instanceId)
            completion = response.actions.add(id=-1).completeOrchestration
            completion.orchestrationStatus = FAILED
            completion.failureDetails.CopyFrom(failure("OutcomeTooLarge", _TOO_LARGE_TEXT))
            return response

        abandoned = pb.AbandonOrchestrationTaskRequest(completionToken=completionToken)
        self._do(
            _Work(
                f"a turn of {req.instanceId}",
                run,
                stub.CompleteOrchestratorTask,
                stub.AbandonTaskOrchestratorWorkItem,
                abandoned,
                too_large,
            )
        )

    @override
    def _execute_activity(self, req: pb.ActivityRequest, stub: Any, completionToken: str) -> None:
        def too_large() -> Outcome:
            details = failure("OutcomeTooLarge", _TOO_LARGE_TEXT)
            return pb.ActivityResponse(
                instanceId=req.orchestrationInstance.instanceId, taskId=req.taskId, failureDetails=details
            )

        abandoned = pb.AbandonActivityTaskRequest(completionToken=completionToken)
        self._do(
            _Work(
                f"the activity {req.name}",
                lambda: self._functions.run_activity(req),
                stub.CompleteActivityTask,
                stub.AbandonTaskActivityWorkItem,
                abandoned,
                too_large,
            )
        )

    @override
    def _execute_entity_batch(
        self, req: pb.EntityBatchRequest | pb.EntityRequest, stub: Any, completionToken: str
    ) -> Any:
        batch, infos = helpers.convert_to_entity_batch_request(req) if isinstance(req, pb.EntityRequest) else (req, [])

        async def run() -> Outcome:
            result = await self._functions.run_entity(batch)
            result.operationInfos.extend(infos)
            return result

        abandoned = pb.AbandonEntityTaskRequest(completionToken=completionToken)
        self._do(
            _Work(
                f"the entity {batch.instanceId}",
                run,
                stub.CompleteEntityTask,
                stub.AbandonTaskEntityWorkItem,
                abandoned,
            )
        )

    def _do(self, work: _Work) -> None:
        """Run a thing on a thread that waits for it, to the end: it is completed or abandoned."""
        done: Future[None] = Future()
        done.set_running_or_notify_cancel()
        with self._lock:
            is_taken = not self._draining
            if is_taken:
                self._running.add(done)
        try:
            if not is_taken:
                self._ended.wait()
            if not is_taken or not self._is_completed(work):
                self._abandon(work)
        finally:
            with self._lock:
                self._running.discard(done)
            done.set_result(None)

    def _is_completed(self, work: _Work) -> bool:
        try:
            with self._cancellable(asyncio.run_coroutine_threadsafe(work.run(), self._loop)) as running:
                outcome = running.result()
            outcome.completionToken = work.abandoned.completionToken
            self._deliver(work, outcome)
        except Exception as error:
            if self._ended.is_set():
                return False
            if isinstance(error, grpc.RpcError | TokenError):
                _LOGGER.error("A call for %s failed, and it is given back: %s", work.what, told(error))  # noqa: TRY400
            elif not isinstance(error, NotNow):
                _LOGGER.exception("%s could not be run, and is given back", work.what)
            self._ended.wait(PAUSE_AFTER_ERROR)  # it may come again at once
            return False
        return True

    def _deliver(self, work: _Work, outcome: Outcome) -> None:
        try:
            self._complete(work, outcome)
        except grpc.RpcError as error:
            too_large = getattr(error, "code", lambda: None)() == grpc.StatusCode.RESOURCE_EXHAUSTED
            if not too_large or work.too_large is None or outcome.ByteSize() < TOO_LARGE:
                raise
            # It would be the same each time.
            _LOGGER.error("The outcome of %s is too large for the scheduler, and a failure instead", work.what)  # noqa: TRY400
            failed = work.too_large()
            failed.completionToken = outcome.completionToken
            self._complete(work, failed)

    def _complete(self, work: _Work, outcome: Outcome) -> None:
        with self._cancellable(work.complete.future(outcome, timeout=CALL_SECONDS)) as call:
            call.result()

    def _abandon(self, work: _Work) -> None:
        try:
            work.abandon(work.abandoned, timeout=HELLO_SECONDS)
        except (grpc.RpcError, TokenError) as error:
            _LOGGER.debug("%s could not be given back, and is handed out again later: %s", work.what, told(error))

    def _stream_history(self, request: pb.OrchestratorRequest, stub: Any) -> None:
        """Fetch the history that was too long for the work item."""
        wanted = pb.StreamInstanceHistoryRequest(instanceId=request.instanceId, forWorkItemProcessing=True)
        if request.HasField("executionId"):
            wanted.executionId.CopyFrom(request.executionId)
        del request.pastEvents[:]
        with self._cancellable(stub.StreamInstanceHistory(wanted, timeout=CALL_SECONDS)) as chunks:
            for chunk in chunks:
                request.pastEvents.extend(chunk.events)
        request.requiresHistoryStreaming = False

    @contextmanager
    def _cancellable(self, call: Any) -> Iterator[Any]:
        """Have a call cancelled when the worker ends while it lasts."""
        with self._lock:
            self._calls.add(call)
        try:
            if self._ended.is_set():
                call.cancel()
            yield call
        finally:
            with self._lock:
                self._calls.discard(call)


_TOO_LARGE_TEXT = "The outcome is larger than what the Durable Task Scheduler takes. Pass less, or use large payloads."


def _started(request: pb.OrchestratorRequest) -> pb.ExecutionStartedEvent:
    for event in chain(reversed(request.newEvents), reversed(request.pastEvents)):
        if event.HasField("executionStarted"):
            return event.executionStarted
    raise ValueError("The history of an orchestration does not say how it was started.")
