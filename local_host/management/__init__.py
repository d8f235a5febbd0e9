"""The Durable Functions HTTP management API, served over a ``TaskHubSidecarService``.

These are the webhooks that ``create_check_status_response`` points to. Paths, status codes and bodies are those of the
Durable Functions HTTP reference and, where that is silent or older, of the extension (``HttpApiHandler.cs`` and
``DurableClient.cs`` in Azure/azure-functions-durable-extension). A bare 202, 404 or 410 has no body; most errors with a
text are ``{"Message": ...}``, and a few are the text alone, as there. Where this API differs, and why:

- A filter, a time or a number that cannot be read is a 400; times are ISO 8601. The extension drops it, and then lists
  or purges more than was asked for. So is a ``runtimeStatus`` that is not written as answers write it.
- JSON is that of RFC 8259. The extension also takes comments, single quotes and NaN, which an app's ``json.loads``
  may not take. Bytes that are not in the charset of their body are a 400, and not replaced.
- A path is split first and percent-decoded then, and a plus sign in it is one. The extension decodes the whole path
  like a form, so that ``/`` and ``+`` in a name do not arrive there.
- An unknown orchestrator, or an id that cannot be, is refused as the reference says, while the extension accepts the
  start. A bad ``timeout`` or ``pollingInterval`` is refused before anything starts, and not after it.
- Entities are no instances: ``/instances/@name@key`` is a 404, except that DELETE purges an idle entity.
- An entity's key is not empty and holds no ``@``, because durabletask cannot parse such an id back. So ``$``, by which
  the extension means the empty key, is a key like others.
- A purge that deletes nothing is a 404, as the reference says; for one instance the extension can answer 200 with 0.
- Suspending what is suspended is accepted, as the reference says; the extension fails.
- There is one task hub. Another ``taskHub`` is a 404, and ``connection`` says nothing.
- ``createdTimeTo`` and ``lastOperationTimeTo`` leave out their own microsecond, as the task hub's filters do.
- History shows no stack traces and no fields without a value. It has events that the extension lacks, since entities
  have kinds of their own in durabletask.
- A task hub that fails is told apart: 501 to 504, while the extension answers 500 to all.

Left out: ``/makeprimary``, since there are no app leases here, and ``/admin/extensions/DurableTaskExtension``, which is
the prefix in version 1 of the Functions runtime.
"""

from local_host.management.call import CONTINUATION_HEADER, MAX_BODY_BYTES
from local_host.management.routes import management_routes
from local_host.management.shapes import MANAGEMENT_PREFIX, required_query

__all__ = ["CONTINUATION_HEADER", "MANAGEMENT_PREFIX", "MAX_BODY_BYTES", "management_routes", "required_query"]
