"""Starting a run: whether its id may be used again, when it begins, and how long it may take."""

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4
from weakref import WeakValueDictionary

import grpc
from azure.durable_functions import DurableFunctionsClient
from durabletask.client import OrchestrationState, OrchestrationStatus
from durabletask.internal import orchestrator_service_pb2 as pb

from contracts.base import YEAR_IN_HOURS, Contract, as_utc_text
from contracts.start import IdReusePolicy, Keyed, StartOptions
from errors import AlreadyStarted, BadRequest, Unavailable, Unprocessable
from services import clock
from services.states import ENDED
from triggers.callers import must_have
from triggers.giving_way import give_way

DEFAULT: IdReusePolicy = "ALLOW_IF_NO_RUNNING"
PATIENCE = 30.0
"""Seconds that a start takes at most which others of the same id come before again and again."""

_ABNORMAL = (OrchestrationStatus.FAILED, OrchestrationStatus.TERMINATED)
_REPLACED: dict[IdReusePolicy, tuple[OrchestrationStatus, ...]] = {
    "ALLOW_IF_NO_RUNNING": ENDED,
    "ALLOW_IF_PREVIOUS_EXITS_ABNORMALLY": _ABNORMAL,
    "DISALLOW_REUSE": (),
    "ALLOW_TERMINATE_IF_RUNNING": ENDED,
}
"""What a run has come to whose id may be used again. One that goes on is ended first, if it may be: the task hub would
not say what was to be kept of it, and on Azure it would not do so unless ``host.json`` lets any start replace any run.
"""
_turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()


async def start(
    client: DurableFunctionsClient,
    workflow: str,
    given_id: str | None,
    contract: Contract,
    options: StartOptions | None = None,
    *,
    is_repetition: Callable[[OrchestrationState], bool] = lambda _: False,
) -> str:
    """Start ``workflow`` and return its instance id: the given one, or ``<workflow>-<uuid4>``.

    An execution timeout goes into ``contract``, which is a ``Limited``. A run for which ``is_repetition`` holds is not
    started again, whatever the policy. Raises ``AlreadyStarted`` when the policy does not let the id be used again;
    ``BadRequest`` for a start more than a year ahead; ``NotPermitted`` where a run may be ended by who may not;
    ``Conflict`` and ``Unavailable`` when the run that is there cannot give way; ``RecordStoreError``.
    """
    options = options or StartOptions()
    begins = _begins(options.start_at)
    given = contract.plain()
    if options.execution_timeout is not None:
        given |= {"execution_timeout": options.execution_timeout}
    policy = options.id_reuse_policy or DEFAULT
    if policy == "ALLOW_TERMINATE_IF_RUNNING":
        must_have("execution:cancel")
    if given_id is None:
        instance_id = f"{workflow}-{uuid4()}"
        await _schedule(client, workflow, instance_id, policy, input=given, start_at=begins)
        return instance_id
    give_up, is_refused = time.monotonic() + PATIENCE, False
    async with _turns.setdefault(given_id, asyncio.Lock()):  # else many of one id would end one another's runs
        while time.monotonic() < give_up:
            there = await client.get_orchestration_state(given_id)
            if there is not None:
                if is_repetition(there):
                    return given_id
                if is_refused or not _may_go(there, workflow, policy):
                    raise _already_started(there, workflow, policy)
                if not await give_way(client, there):
                    continue
            if await _schedule(client, workflow, given_id, policy, input=given, start_at=begins):
                return given_id
            is_refused = policy != "ALLOW_TERMINATE_IF_RUNNING"
    raise Unavailable("Others start runs with this id all the time. Try again in a moment.")


def keyed(options: StartOptions, key: str | None) -> StartOptions:
    """Return the options of a start, which replaces none if it has an ``Idempotency-Key``, unless it says so.

    A repetition that comes late would start a run once more.
    """
    if not key or options.id_reuse_policy is not None:
        return options
    return options.model_copy(update={"id_reuse_policy": "DISALLOW_REUSE"})


def is_same_start(there: OrchestrationState, workflow: str, given: Keyed, in_no_body: Sequence[str]) -> bool:
    """Whether a run was started with the same ``Idempotency-Key``, and the same body, whoever started it.

    ``in_no_body`` are the fields of the input that no body says. Raises ``Unprocessable`` when the key came before with
    another body.
    """
    if given.idempotency_key is None or there.name != workflow:
        return False
    try:
        before = type(given).model_validate_json(there.serialized_input or "")
    except ValueError:
        return False
    if before.idempotency_key != given.idempotency_key:
        return False
    same = {name: getattr(given, name) for name in (*in_no_body, "execution_timeout", "started_by")}
    if before.model_copy(update=same) != given:
        raise Unprocessable("This Idempotency-Key came before with another body. Use a new one for each.")
    return True


async def _schedule(
    client: DurableFunctionsClient, workflow: str, instance_id: str, policy: IdReusePolicy, **said: Any
) -> bool:
    """Start a run, unless another one has the id that may not be replaced; the task hub sees to that, atomically.

    Sources: ``OrchestrationIdReusePolicy`` of the Durable Task protocol; ``StartInstance`` of the Durable Functions
    extension's ``TaskHubGrpcServer.cs``, which in older versions heeds ``host.json`` alone.
    """
    # An empty list is no policy to some hosts. No run is ever canceled, so that this is the same as none.
    statuses = [*(each.value for each in _REPLACED[policy]), pb.ORCHESTRATION_STATUS_CANCELED]
    try:
        await client.schedule_new_orchestration(
            workflow,
            instance_id=instance_id,
            reuse_id_policy=pb.OrchestrationIdReusePolicy(replaceableStatus=statuses),
            **said,
        )
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.ALREADY_EXISTS:
            raise
        return False
    return True


def _begins(start_at: datetime | None) -> datetime | None:
    """Return when a run begins; None for at once."""
    if start_at is None or start_at <= clock.now():
        return None
    if start_at > clock.now() + timedelta(hours=YEAR_IN_HOURS):
        raise BadRequest("The parameter 'startAt' is wrong: it is more than 365 days ahead.")
    return start_at


def _may_go(there: OrchestrationState, workflow: str, policy: IdReusePolicy) -> bool:
    if there.runtime_status in ENDED:
        return there.runtime_status in _REPLACED[policy]
    # Who starts one workflow does not mean to end another.
    return policy == "ALLOW_TERMINATE_IF_RUNNING" and there.name == workflow


def _already_started(there: OrchestrationState, workflow: str, policy: IdReusePolicy) -> AlreadyStarted:
    what, since = there.name.replace("_", " "), as_utc_text(there.created_at)
    status = there.runtime_status.name.lower()
    if there.runtime_status not in ENDED:
        ends_it = "" if there.name != workflow else "; idReusePolicy=ALLOW_TERMINATE_IF_RUNNING ends it"
        sentence = f"Choose another id, or wait until it has ended{ends_it}."
    elif policy == "DISALLOW_REUSE" or there.runtime_status is OrchestrationStatus.COMPLETED:
        sentence = "Choose another id, or use it again with idReusePolicy=ALLOW_IF_NO_RUNNING."
    else:
        sentence = "Choose another id, or try again."
    return AlreadyStarted(
        f"The id '{there.instance_id}' is in use by a run of {what} since {since}, which is {status}. {sentence}",
        instance_id=there.instance_id,
        workflow=there.name,
        runtime_status=there.runtime_status.name,
        created_at=since,
    )
