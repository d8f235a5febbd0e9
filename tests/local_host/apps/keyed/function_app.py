"""Functions of every authorization level, and some of kinds that answer no request."""

import json

import azure.functions as func

app = func.FunctionApp(http_auth_level=func.AuthLevel.FUNCTION)


@app.route(route="open", auth_level=func.AuthLevel.ANONYMOUS)
def opened(req: func.HttpRequest) -> str:
    return "open"


@app.route(route="keyed")
def keyed(req: func.HttpRequest) -> str:
    return f"{len(req.get_body())} bytes"


@app.route(route="Master/{id:int}", methods=["GET"], auth_level=func.AuthLevel.ADMIN)
def mastered(req: func.HttpRequest) -> str:
    return "master"


@app.route(route="shown", auth_level=func.AuthLevel.ANONYMOUS)
def shown(req: func.HttpRequest) -> str:
    return json.dumps({"url": req.url, "headers": dict(req.headers)})


@app.timer_trigger(schedule="0 0 0 1 1 *", arg_name="timer")
def yearly(timer: func.TimerRequest) -> None:
    """Do nothing; the tests look at whether it is run."""


@app.queue_trigger(arg_name="message", queue_name="letters", connection="Nowhere")
def letters(message: func.QueueMessage) -> None:
    """Never run here."""
