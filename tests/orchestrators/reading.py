"""What a run left on record, read back."""

from contracts.audit import Entry, TrailHead
from contracts.human_step import Verdict, digest_of_id
from contracts.records import Wait
from services import trail, waits
from services.record_store import get_record_store
from services.verification import verify
from tests.orchestrators.engine import Engine


def entries(instance: str) -> list[Entry]:
    """The trail of an instance."""
    return trail.read(get_record_store(), instance).entries


def actions(instance: str) -> list[str]:
    """What happened, one word each."""
    return [entry.action for entry in entries(instance)]


def said(instance: str) -> list[tuple[str, str | None, str | None, str | None, str | None]]:
    """Action, actor, channel, before and after of each entry."""
    return [(each.action, each.actor, each.channel, each.before, each.after) for each in entries(instance)]


def waits_of(instance: str) -> list[tuple[Wait, bool]]:
    """The waits of an instance, and whether they are open."""
    return waits.of_instance(get_record_store(), instance)


def open_waits(instance: str) -> list[Wait]:
    """The waits of an instance that are open."""
    return [wait for wait, is_open in waits_of(instance) if is_open]


def head(engine: Engine, instance: str) -> TrailHead:
    """The head in the custom status."""
    return TrailHead.model_validate(engine.status(instance)["trail"])


def verdict(engine: Engine, instance: str) -> str:
    """What verifying the trail against the custom status gives."""
    return verify(trail.read(get_record_store(), instance), instance, head(engine, instance), {}, []).verdict


def size(engine: Engine, instance: str) -> int:
    """The bytes of the custom status as the hosts of Azure count them."""
    return len((engine.state(instance).serialized_custom_status or "").encode("utf-16-le"))


def verdicts(engine: Engine, instance: str) -> list[Verdict]:
    """The verdicts in the custom status, the newest one last."""
    return [Verdict.model_validate(each) for each in engine.status(instance)["verdicts"]]


def answered(engine: Engine, instance: str, decision_id: str) -> str | None:
    """The code of the newest verdict on an id, or None."""
    found = [each for each in verdicts(engine, instance) if each.id == digest_of_id(decision_id)]
    return found[-1].code if found else None
