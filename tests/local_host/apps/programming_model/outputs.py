"""Responses that are set on a ``func.Out``, rather than returned."""

import azure.durable_functions as df
import azure.functions as func

blueprint = df.Blueprint()


@blueprint.route(route="set", binding_arg_name="response")
def sets_a_response(req: func.HttpRequest, response: func.Out[func.HttpResponse]) -> None:
    response.set(func.HttpResponse(f"set {response.get() is None}", status_code=201, headers={"x-set": "yes"}))


@blueprint.route(route="set-async", binding_arg_name="response")
async def sets_a_response_async(req: func.HttpRequest, response: func.Out[func.HttpResponse]) -> None:
    response.set(func.HttpResponse("set by a coroutine", status_code=202))


@blueprint.route(route="set-text", binding_arg_name="response")
def sets_a_text(req: func.HttpRequest, response: func.Out[str]) -> None:
    response.set("grün")


@blueprint.route(route="set-twice", binding_arg_name="response")
def sets_twice(req: func.HttpRequest, response: func.Out[func.HttpResponse]) -> None:
    response.set(func.HttpResponse("first"))
    response.set(func.HttpResponse("second"))


@blueprint.route(route="set-nothing", binding_arg_name="response")
def sets_nothing(req: func.HttpRequest, response: func.Out[func.HttpResponse]) -> None:
    pass


@blueprint.route(route="set-and-raise", binding_arg_name="response")
def sets_and_raises(req: func.HttpRequest, response: func.Out[func.HttpResponse]) -> None:
    response.set(func.HttpResponse("must not be sent"))
    raise ValueError("the password is swordfish")


@blueprint.route(route="set-a-number", binding_arg_name="response")
def sets_a_number(req: func.HttpRequest, response: func.Out[func.HttpResponse]) -> None:
    response.set(7)  # type: ignore[arg-type]
