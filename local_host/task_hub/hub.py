"""The task hub, put together: started on an event loop, served over gRPC on loopback."""

import asyncio
import contextlib
import secrets
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import grpc.aio
from durabletask.internal import orchestrator_service_pb2_grpc as stubs

from local_host.task_hub.clock import Clock, ManualClock, SystemClock
from local_host.task_hub.dispatch import Dispatcher, Worker
from local_host.task_hub.queries import status
from local_host.task_hub.service import HUB_METADATA, Gate, Service
from local_host.task_hub.store import Command, Effects, Store, StoreError, told
from local_host.task_hub.timers import TimerLoop

MAX_MESSAGE = 64 * 1024 * 1024
"""Bytes of one gRPC message: a history goes to a worker in one piece."""

MESSAGE_LIMITS = [("grpc.max_receive_message_length", MAX_MESSAGE), ("grpc.max_send_message_length", MAX_MESSAGE)]

FILE_NAME = "task-hub.db"

TaskHubError = StoreError


class Attended(Protocol):
    """Something beside the hub that goes by its clock."""

    @property
    def earliest(self) -> int | None:
        """When something is due next."""
        ...

    @property
    def idle(self) -> bool:
        """Whether nothing happens until the clock moves."""
        ...


class TaskHub:
    """A task hub in a file; start and stop it on the event loop that it is to run on.

    ``folder`` keeps the file; None makes one that is forgotten at the stop. ``address`` is ``host:port`` for gRPC, and
    ``credential`` what clients and workers have to send as the metadata ``taskhub``. ``synchronous`` is SQLite's: FULL
    keeps what was acknowledged over a power loss, NORMAL only over the end of the process.

    Clients that start an instance without a version get ``default_version``, and those without a policy for an id that
    is taken replace an instance whose status is in ``replaceable``.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        name: str = "default",
        clock: Clock | None = None,
        synchronous: str = "FULL",
        default_version: str | None = None,
        replaceable: frozenset[int] = frozenset(),
    ) -> None:
        self.address = ""
        self.credential = f"{name}.{secrets.token_urlsafe(24)}"
        self.clock: Clock = clock if clock is not None else SystemClock()
        self.default_version = default_version
        self.replaceable = replaceable
        self._folder = folder
        self._temporary: Path | None = None
        self._synchronous = synchronous
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._ending = False
        self._attended: list[Attended] = []

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The gRPC metadata that opens the hub."""
        return ((HUB_METADATA, self.credential),)

    async def start(self) -> None:
        """Open the file and serve. Raises ``TaskHubError`` when the file cannot be opened."""
        folder, synchronous = self._folder, self._synchronous
        if folder is None:
            memory = Path("/dev/shm")  # noqa: S108  # a file system in memory, where there is one
            self._temporary = Path(tempfile.mkdtemp(prefix="task-hub-", dir=memory if memory.is_dir() else None))  # noqa: ASYNC240
            folder, synchronous = self._temporary, "OFF"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # once, at the start
            self._store = Store(
                folder / FILE_NAME, synchronous=synchronous, now=self.clock.now, on_commit=self._on_commit
            )
        except OSError as error:
            raise TaskHubError(f"The folder {folder} cannot be used: {error.strerror}.") from None
        try:
            with told(folder / FILE_NAME):
                self.dispatcher = Dispatcher(self._store, self.clock)
                self._timers = TimerLoop(self._store, self.clock)
                self.dispatcher.recover()
        except TaskHubError:
            await self._store.close()
            raise
        self._forget_files()
        self._timer_task = asyncio.create_task(self._timers.run())
        self._server = grpc.aio.server(interceptors=[Gate(self.credential)], options=MESSAGE_LIMITS)
        stubs.add_TaskHubSidecarServiceServicer_to_server(Service(self), self._server)  # type: ignore[no-untyped-call]
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()

    async def stop(self) -> None:
        """Stop to serve, and close the file. What workers had is handed out again after the next start."""
        self._timer_task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._timer_task
        self.dispatcher.close()
        await self._server.stop(grace=0.5)
        await self._store.close()
        self._forget_files()

    def _forget_files(self) -> None:
        """Take the files of a hub that keeps none out of their folder: what is open stays usable to its end, however
        that comes."""
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    @property
    def reader(self) -> sqlite3.Connection:
        """The connection that sees what is committed."""
        return self._store.reader

    def shared_reader(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        """A reader for other threads; see ``Store.shared_reader``."""
        return self._store.shared_reader()

    async def execute[T](self, command: Command[T]) -> T:
        """Run a command on the store; see ``Store.execute``."""
        return await self._store.execute(command)

    def connect(self, worker: Worker) -> None:
        """Let a worker in this process take work."""
        self.dispatcher.connect(worker)

    def release_waiting(self) -> None:
        """Let nobody wait for an instance any more: the hub is about to stop, and so are those who wait."""
        self._ending = True
        for waiting in self._waiting.values():
            for each in waiting:
                each.set()

    @property
    def has_workers(self) -> bool:
        """Whether somebody is there to take work."""
        return self.dispatcher.has_workers

    async def until(self, instance_id: str, reached: Callable[[int], bool]) -> None:
        """Wait until an instance has a status that is wanted; also for one that is yet to be started.

        Returns early when the instance is deleted.
        """
        existed = False
        while True:
            changed = asyncio.Event()
            waiting = self._waiting.setdefault(instance_id, set())
            waiting.add(changed)
            try:
                now = status(self.reader, instance_id)
                if (now is not None and reached(now)) or (now is None and existed):
                    return
                if self._ending:
                    raise StoreError("The task hub is about to stop.")
                existed = now is not None
                await changed.wait()
            finally:
                waiting.discard(changed)
                if not waiting:
                    self._waiting.pop(instance_id, None)

    def attend(self, other: Attended) -> None:
        """Have regard to something else that goes by the clock when it is moved."""
        self._attended.append(other)

    @property
    def idle(self) -> bool:
        """Whether nothing happens until somebody calls or the clock moves."""
        return (
            self.dispatcher.idle
            and self._store.idle
            and not self._timers.is_due()
            and all(each.idle for each in self._attended)
        )

    @property
    def _earliest(self) -> int | None:
        """When the next timer is due, or what is attended to."""
        dues = [self._timers.earliest, *(each.earliest for each in self._attended)]
        return min((due for due in dues if due is not None), default=None)

    async def quiet(self) -> None:
        """Wait until nothing happens any more until somebody calls or the clock moves."""
        while not self.idle:  # noqa: ASYNC110  # for tests: an event for every end of everything would cost the rest
            await asyncio.sleep(0.001)

    async def advance_to(self, target: int) -> None:
        """Move a ``ManualClock`` to a time, from timer to timer, and let each have its consequences.

        Raises ``TypeError`` for another kind of clock.
        """
        if not isinstance(self.clock, ManualClock):
            raise TypeError("Only a manual clock can be moved.")
        await self.quiet()
        while (due := self._earliest) is not None and due <= target:
            self.clock.set(max(due, self.clock.now()))
            await self.quiet()
        self.clock.set(max(target, self.clock.now()))
        await self.quiet()

    def _on_commit(self, effects: Effects) -> None:
        self._timers.note(effects.earliest)
        self.dispatcher.on_effects(effects)
        for instance_id in effects.changed:
            for waiting in self._waiting.get(instance_id, ()):
                waiting.set()
