"""Reading what is committed: instances, histories, entities; by pages, with tokens that hold while rows come and go."""

import base64
import json
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb

from local_host.task_hub.records import ENDED, moment, timestamp
from local_host.task_hub.store import Refused

LARGEST_PAGE = 1000
HISTORY_CHUNK = 100
"""Events of one message of a streamed history."""

_STATE = (
    "instance_id, name, version, status, created_at, updated_at, completed_at, scheduled_at, tags, custom_status,"
    " failure, execution_id,"
    " (SELECT parent.instance_id FROM instances AS parent WHERE parent.id = instances.parent_id)"
)


def state(db: sqlite3.Connection, instance_id: str, *, payloads: bool) -> pb.OrchestrationState | None:
    """Read the state of an instance, with input and output if asked for; None when there is none."""
    columns = f"{_STATE}, input, output" if payloads else f"{_STATE}, NULL, NULL"
    row = db.execute(f"SELECT {columns} FROM instances WHERE instance_id = ?", (instance_id,)).fetchone()
    return _state(row) if row is not None else None


def status(db: sqlite3.Connection, instance_id: str) -> int | None:
    """Read the status of an instance; None when there is none."""
    row = db.execute("SELECT status FROM instances WHERE instance_id = ?", (instance_id,)).fetchone()
    return row[0] if row is not None else None


def instances(db: sqlite3.Connection, query: pb.InstanceQuery) -> tuple[list[pb.OrchestrationState], str | None]:
    """Read a page of instances in the order in which they were created; gives the page and the token of the next.

    Raises ``Refused`` for a token that is none of ours.
    """
    where, parameters = _filter(
        list(query.runtimeStatus),
        moment(query, "createdTimeFrom"),
        moment(query, "createdTimeTo"),
        column="created_at",
    )
    if query.HasField("instanceIdPrefix") and query.instanceIdPrefix.value:
        where.append("substr(instance_id, 1, length(?)) = ?")
        parameters += [query.instanceIdPrefix.value] * 2
    if query.HasField("continuationToken") and query.continuationToken.value:
        where.append("id > ?")
        parameters.extend(_decode(query.continuationToken.value, int))
    size = min(query.maxInstanceCount, LARGEST_PAGE) if query.maxInstanceCount > 0 else LARGEST_PAGE
    columns = f"id, {_STATE}, " + ("input, output" if query.fetchInputsAndOutputs else "NULL, NULL")
    rows = db.execute(
        f"SELECT {columns} FROM instances WHERE {' AND '.join(where)} ORDER BY id LIMIT ?", [*parameters, size + 1]
    ).fetchall()
    token = _encode(rows[size - 1][0]) if len(rows) > size else None
    return [_state(row[1:]) for row in rows[:size]], token


def ended_ids(db: sqlite3.Connection, request: pb.ListInstanceIdsRequest) -> tuple[list[str], str | None]:
    """Read a page of ids of instances that have ended, in the order of their ends; gives the token of the next page.

    Raises ``Refused`` for a token that is none of ours.
    """
    where, parameters = _filter(
        list(request.runtimeStatus) or list(ENDED),
        moment(request, "completedTimeFrom"),
        moment(request, "completedTimeTo"),
        column="completed_at",
    )
    where.append("completed_at IS NOT NULL")
    if request.HasField("lastInstanceKey") and request.lastInstanceKey.value:
        where.append("(completed_at, instance_id) > (?, ?)")
        parameters += _decode(request.lastInstanceKey.value, int, str)
    size = min(request.pageSize, LARGEST_PAGE) if request.pageSize > 0 else 100
    rows = db.execute(
        f"SELECT completed_at, instance_id FROM instances WHERE {' AND '.join(where)}"
        " ORDER BY completed_at, instance_id LIMIT ?",
        [*parameters, size + 1],
    ).fetchall()
    token = _encode(*rows[size - 1]) if len(rows) > size else None
    return [instance_id for _, instance_id in rows[:size]], token


def history(db: sqlite3.Connection, instance_id: str) -> Iterator[pb.HistoryChunk]:
    """Read the history of an instance in pieces. Raises ``Refused`` when there is no such instance."""
    found = db.execute("SELECT id FROM instances WHERE instance_id = ?", (instance_id,)).fetchone()
    if found is None:
        raise Refused("NOT_FOUND", f"There is no instance with the id '{instance_id}'.")
    chunks = db.execute("SELECT past_events FROM history WHERE instance = ? ORDER BY chunk", found).fetchall()
    for (blob,) in chunks:
        events = list(pb.OrchestratorRequest.FromString(blob).pastEvents)
        for start in range(0, len(events), HISTORY_CHUNK):
            yield pb.HistoryChunk(events=events[start : start + HISTORY_CHUNK])


def entity(db: sqlite3.Connection, entity_id: str, *, include_state: bool) -> pb.EntityMetadata | None:
    """Read what is known of an entity; None when there is none."""
    rows = db.execute(f"{_ENTITIES} WHERE entities.entity_id = ?", (entity_id,)).fetchall()
    return _entity(rows[0], include_state=include_state) if rows else None


def entities(db: sqlite3.Connection, query: pb.EntityQuery) -> tuple[list[pb.EntityMetadata], str | None]:
    """Read a page of entities in the order of their ids; gives the page and the token of the next.

    Entities without a state (deleted, or only ever locked) are shown when ``includeTransient`` is set. Raises
    ``Refused`` for a token that is none of ours.
    """
    where: list[str] = ["1"]
    parameters: list[Any] = []
    if query.HasField("instanceIdStartsWith") and query.instanceIdStartsWith.value:
        where.append("substr(entities.entity_id, 1, length(?)) = ?")
        parameters += [query.instanceIdStartsWith.value] * 2
    for comparison, time in ((">=", moment(query, "lastModifiedFrom")), ("<", moment(query, "lastModifiedTo"))):
        if time is not None:
            where.append(f"entities.updated_at {comparison} ?")
            parameters.append(time)
    if not query.includeTransient:
        where.append("entities.state IS NOT NULL")
    if query.HasField("continuationToken") and query.continuationToken.value:
        where.append("entities.entity_id > ?")
        parameters += _decode(query.continuationToken.value, str)
    asked = query.pageSize.value if query.HasField("pageSize") else 0
    size = min(asked, LARGEST_PAGE) if asked > 0 else LARGEST_PAGE
    rows = db.execute(
        f"{_ENTITIES} WHERE {' AND '.join(where)} ORDER BY entities.entity_id LIMIT ?", [*parameters, size + 1]
    ).fetchall()
    token = _encode(rows[size - 1][0]) if len(rows) > size else None
    return [_entity(row, include_state=query.includeState) for row in rows[:size]], token


_ENTITIES = (
    "SELECT entities.entity_id, entities.updated_at, entities.state, holder.instance_id,"
    " (SELECT count(*) FROM operations WHERE operations.entity = entities.id)"
    " FROM entities LEFT JOIN instances AS holder ON holder.id = entities.locked_by"
)


def _state(row: Sequence[Any]) -> pb.OrchestrationState:
    (instance_id, name, version, status_, created, updated, completed, scheduled, tags, custom, failed, execution_id,
     parent, given, output) = row  # fmt: skip
    read = pb.OrchestrationState(
        instanceId=instance_id,
        name=name,
        orchestrationStatus=status_,
        createdTimestamp=timestamp(created),
        lastUpdatedTimestamp=timestamp(updated),
    )
    read.executionId.value = execution_id
    for field, value in (
        ("version", version),
        ("customStatus", custom),
        ("input", given),
        ("output", output),
        ("parentInstanceId", parent),
    ):
        if value is not None:
            getattr(read, field).value = value
    if completed is not None:
        read.completedTimestamp.CopyFrom(timestamp(completed))
    if scheduled is not None:
        read.scheduledStartTimestamp.CopyFrom(timestamp(scheduled))
    if failed is not None:
        read.failureDetails.ParseFromString(failed)
    if tags is not None:
        read.tags.update(json.loads(tags))
    return read


def _entity(row: Sequence[Any], *, include_state: bool) -> pb.EntityMetadata:
    entity_id, updated, state_, holder, backlog = row
    read = pb.EntityMetadata(instanceId=entity_id, lastModifiedTime=timestamp(updated), backlogQueueSize=backlog)
    if holder is not None:
        read.lockedBy.value = holder
    if include_state and state_ is not None:
        read.serializedState.value = state_
    return read


def _filter(
    statuses: list[Any], earliest: int | None, latest: int | None, *, column: str
) -> tuple[list[str], list[Any]]:
    where, parameters = ["1"], list[Any]()
    if statuses:
        where.append(f"status IN ({', '.join('?' * len(statuses))})")
        parameters += statuses
    if earliest is not None:
        where.append(f"{column} >= ?")
        parameters.append(earliest)
    if latest is not None:
        where.append(f"{column} < ?")
        parameters.append(latest)
    return where, parameters


def _encode(*key: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode("ascii")


def _decode(token: str, *kinds: type) -> list[Any]:
    try:
        key = json.loads(base64.urlsafe_b64decode(token.encode("ascii")))
        if isinstance(key, list) and [type(part) for part in key] == list(kinds) and all(map(_is_storable, key)):
            return key
    except (ValueError, RecursionError):
        pass
    raise Refused("INVALID_ARGUMENT", "The continuation token is none that this task hub gave.")


def _is_storable(part: int | str) -> bool:
    """Whether SQLite can compare with a value: not with greater numbers, nor with half of a character."""
    if isinstance(part, int):
        return -(2**63) <= part < 2**63
    return part.encode(errors="replace").decode() == part
