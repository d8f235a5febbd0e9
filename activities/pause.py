"""What a pause needs by a time: that it is applied, an end, or a mail. These activities use the task hub."""

import asyncio
import logging
from typing import Any

from azure.durable_functions import DurableFunctionsClient
from durabletask.client import OrchestrationStatus

from contracts.pause_state import TIMER, PauseDue, PauseState, Run
from services import cancelling, pause_mail, pausing
from services.clock import now
from services.mail import get_mailer
from services.record_store import get_record_store
from services.states import ENDED, head_of

TOO_LONG = "Cancelled: it was paused for too long."

_LOGGER = logging.getLogger(__name__)


async def apply_pause(request: dict[str, Any], client: DurableFunctionsClient) -> dict[str, Any]:
    """Make a run be paused, or go on, as the entity ``pause`` decided. Takes a ``PauseDue``, gives whether it was
    ``done``.

    Raises ``RecordStoreError`` when the store cannot be reached, ``grpc.RpcError`` when the hub cannot.
    """
    state = await _decided(PauseDue.model_validate(request), client)
    return {"done": state is not None and await pausing.apply(client, get_record_store(), state)}


async def cancel_paused(request: dict[str, Any], client: DurableFunctionsClient) -> dict[str, Any]:
    """Cancel a run that was paused for too long. Takes a ``PauseDue``, gives whether it was ``done``.

    Raises ``RecordStoreError`` when the store cannot be reached, ``grpc.RpcError`` when the hub cannot.
    """
    decided, store = await _decided(PauseDue.model_validate(request), client), get_record_store()
    current = await client.get_orchestration_state(decided.run.instance_id) if decided is not None else None
    if decided is None or current is None or not decided.is_ending:
        return {"done": False}
    await cancelling.note(store, current, by=TIMER, at=now(), channel="timer", reason=TOO_LONG)
    last = await cancelling.end(client, store, current, TOO_LONG)
    if last.runtime_status not in ENDED:
        return {"done": False}  # the entity has it done again later
    await pausing.over(client, store, decided)
    return {"done": last.runtime_status is OrchestrationStatus.TERMINATED}


async def send_pause_mail(request: dict[str, Any], client: DurableFunctionsClient) -> dict[str, Any]:
    """Mail the operators about a run that is still paused. Takes a ``PauseDue``, gives whether it was ``done``.

    Run twice, it sends one mail. Raises ``OSError`` when the mail cannot be handed over, ``grpc.RpcError`` when the hub
    does not answer.
    """
    due = PauseDue.model_validate(request)
    decided = await _decided(due, client)
    if decided is None or not decided.is_paused or due.what not in ("warn", "escalate"):
        return {"done": False}
    message = pause_mail.render(due.what, due.serial, decided)
    await asyncio.to_thread(get_mailer().send, message)
    _LOGGER.warning("%s", message["Subject"])
    return {"done": True}


async def _decided(due: PauseDue, client: DurableFunctionsClient) -> PauseState | None:
    """What was decided of the pause that is meant; None where there is nothing to do any more."""
    decided = await pausing.look(client, due.instance_id)
    if decided is None or decided.number != due.number:
        return None
    current = await client.get_orchestration_state(due.instance_id)
    if current is not None and current.runtime_status not in ENDED:
        head = head_of(current)
        run = Run(**decided.run.model_dump() | {"created_at": current.created_at, "stamp": head and head.run})
        if decided.is_of(run):
            return decided
    await pausing.over(client, get_record_store(), decided)
    return None
