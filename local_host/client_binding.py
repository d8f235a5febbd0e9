"""What a durable client binding hands to a function."""

import json

from local_host.management import required_query
from local_host.task_hub.hub import MAX_MESSAGE


def client_configuration(
    address: str,
    credential: str,
    base_url: str,
    hub_name: str,
    *,
    use_forwarded_host: bool = False,
    code: str | None = None,
) -> str:
    """Return the JSON that a durable client binding hands to a function.

    Field names and the ``INSTANCEID`` placeholder as the SDK's ``HttpManagementPayload`` reads them. The SDK's clients
    send ``taskHubName`` with each call, so that is where the credential goes that opens the hub at ``address``.
    ``code`` is the key that the management API asks for.
    """
    management = f"{base_url}/runtime/webhooks/durabletask"
    query = required_query(hub_name, code)
    instance = f"{management}/instances/INSTANCEID"
    return json.dumps(
        {
            "taskHubName": credential,
            "rpcBaseUrl": f"http://{address}",
            "baseUrl": management,
            "httpBaseUrl": management,
            "requiredQueryStringParameters": query,
            "useForwardedHost": use_forwarded_host,
            "maxGrpcMessageSizeInBytes": MAX_MESSAGE,
            "creationUrls": {
                "createNewInstancePostUri": f"{management}/orchestrators/{{functionName}}[/{{instanceId}}]?{query}",
                "createAndWaitOnNewInstancePostUri": f"{management}/orchestrators/{{functionName}}[/{{instanceId}}]"
                f"?timeout={{timeoutInSeconds}}&pollingInterval={{intervalInSeconds}}&{query}",
            },
            "managementUrls": {
                "id": "INSTANCEID",
                "statusQueryGetUri": f"{instance}?{query}",
                "sendEventPostUri": f"{instance}/raiseEvent/{{eventName}}?{query}",
                "terminatePostUri": f"{instance}/terminate?reason={{text}}&{query}",
                "suspendPostUri": f"{instance}/suspend?reason={{text}}&{query}",
                "resumePostUri": f"{instance}/resume?reason={{text}}&{query}",
                "rewindPostUri": f"{instance}/rewind?reason={{text}}&{query}",
                "purgeHistoryDeleteUri": f"{instance}?{query}",
                "restartPostUri": f"{instance}/restart?{query}",
            },
        }
    )
