"""An ASGI app of another framework, behind the wrapper of the SDK."""

import azure.functions as func
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


async def show(request: Request) -> JSONResponse:
    body = await request.body()
    return JSONResponse({"path": request.url.path, "query": request.url.query, "body": body.decode()}, 201)


app = func.AsgiFunctionApp(Starlette(routes=[Route("/shown/{rest:path}", show, methods=["GET", "POST"])]))
