"""Entities: listing, reading and signalling them."""

import json
import uuid

import durabletask.internal.orchestrator_service_pb2 as pb
from google.protobuf import wrappers_pb2
from starlette.responses import Response

from local_host.management.call import (
    Call,
    answer_json,
    body_of,
    decoded,
    is_json,
    json_text,
    rpc,
    string,
    trace_context,
)
from local_host.management.names import entity_instance_id, known_function
from local_host.management.query import continuation, page, query_flag, query_page_size, query_time
from local_host.management.refusal import RequestRefused
from local_host.management.shapes import entity_payload, shown_payload


async def list_all(call: Call, name: str) -> Response:
    """Answer with a page of the entities of a name, or of all."""
    query = pb.EntityQuery(
        instanceIdStartsWith=string(f"@{name.lower()}@" if name else "@"),
        lastModifiedFrom=query_time(call.query, "lastOperationTimeFrom"),
        lastModifiedTo=query_time(call.query, "lastOperationTimeTo"),
        pageSize=wrappers_pb2.Int32Value(value=query_page_size(call.query)),
        continuationToken=string(continuation(call, "entities")),
        # An entity with operations under way is "transient" to the hub, one without state does not exist.
        includeTransient=True,
        includeState=True,
    )
    found = await rpc(call.hub.stub.QueryEntities, pb.QueryEntitiesRequest(query=query))
    fetch_state = query_flag(call.query, "fetchState")
    existing = [entity for entity in found.entities if entity.HasField("serializedState")]
    items = [entity_payload(entity, fetch_state=fetch_state) for entity in existing]
    return page("entities", items, found)


async def get(call: Call, name: str, key: str) -> Response:
    """Answer with the state of an entity."""
    instance_id = entity_instance_id(name, key)
    found = await rpc(call.hub.stub.GetEntity, pb.GetEntityRequest(instanceId=instance_id, includeState=True))
    if not found.exists or not found.entity.HasField("serializedState"):
        raise RequestRefused(404)
    return answer_json(shown_payload(found.entity.serializedState.value))


async def signal(call: Call, name: str, key: str) -> Response:
    """Send an operation to an entity, with the body for its input: as JSON, or as a string if it does not say JSON."""
    instance_id = entity_instance_id(name, key)
    known_function(call.hub.entity_names, name, "entity")
    body = await body_of(call.request)
    if not body:
        text = None
    elif is_json(call.request):
        text = json_text(call.request, body)
    else:
        text = json.dumps(decoded(call.request, body, "replace"))
    deleting = call.request.method == "DELETE"
    message = pb.SignalEntityRequest(
        instanceId=instance_id,
        name="delete" if deleting else call.query.get("op", ""),
        input=string(text),
        requestId=str(uuid.uuid4()),
        parentTraceContext=trace_context(call.request),
    )
    await rpc(call.hub.stub.SignalEntity, message)
    return Response(None, 202)
