"""A task hub in one SQLite file, behind durabletask's ``TaskHubSidecarService``.

Data flows one way: the gRPC service (``service``), or the dispatcher that hands out work (``dispatch``), or the timers
(``timers``) run commands (``instances``, ``turns``, ``activities``, ``entities``, ``purge``) on the store (``store``),
which commits many of them together and then tells the dispatcher, the timers and those who wait what has changed.
Queries (``queries``) read what is committed. ``hub`` puts it together.
"""

from local_host.task_hub.clock import ManualClock, SystemClock
from local_host.task_hub.hub import TaskHub, TaskHubError

__all__ = ["ManualClock", "SystemClock", "TaskHub", "TaskHubError"]
