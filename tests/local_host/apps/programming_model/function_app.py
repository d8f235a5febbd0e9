"""An app of several blueprints, beside functions whose triggers no local host has."""

import azure.durable_functions as df
import azure.functions as func
import clients  # type: ignore[import-not-found]
import control  # type: ignore[import-not-found]
import outputs  # type: ignore[import-not-found]
from parts import contexts  # type: ignore[import-not-found]

app = df.DFApp(http_auth_level=func.AuthLevel.ANONYMOUS)

for blueprint in (contexts.blueprint, outputs.blueprint, clients.blueprint, control.blueprint):
    app.register_functions(blueprint)


@app.function_name("ByAnotherName")
@app.route(route="renamed/{what:alpha?}", methods=["GET"])
def python_name(req: func.HttpRequest) -> str:
    return str(req.route_params.get("what", "nothing"))


@app.function_name("RoutedByItsName")
@app.route()
def unrouted(req: func.HttpRequest) -> str:
    return "routed by its name"


@app.route(route="async")
async def on_the_loop(req: func.HttpRequest) -> str:
    return "async"


@app.queue_trigger(arg_name="message", queue_name="messages", connection="AzureWebJobsStorage")
def from_a_queue(message: func.QueueMessage) -> None:
    raise AssertionError("nobody can call this")


@app.blob_trigger(arg_name="blob", path="in/{name}", connection="AzureWebJobsStorage")
def from_a_blob(blob: func.InputStream) -> None:
    raise AssertionError("nobody can call this")


@app.route(route="to-a-queue")
@app.queue_output(arg_name="message", queue_name="messages", connection="AzureWebJobsStorage")
def to_a_queue(req: func.HttpRequest, message: func.Out[str]) -> str:
    message.set("lost, if the host called this")
    return "called"
