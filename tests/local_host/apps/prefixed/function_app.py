"""An app whose routes lie under a prefix of several segments."""

import azure.functions as func

app = func.FunctionApp()


@app.route(route="hello/{name?}", methods=["GET", "POST"])
def hello(req: func.HttpRequest) -> str:
    return f"Hello {req.route_params.get('name', 'nobody')}"


@app.route(route="/slashed")
def slashed(req: func.HttpRequest) -> str:
    return "slashed"


@app.route(route="")
def root(req: func.HttpRequest) -> str:
    return "root"
