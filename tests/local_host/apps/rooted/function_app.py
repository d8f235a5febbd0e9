"""One function that takes every path there is."""

import azure.functions as func

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)


@app.route(route="{*rest}")
def everything(req: func.HttpRequest) -> str:
    return f"took {req.route_params.get('rest', 'the root')}"
