"""How a request is refused."""

from typing import NoReturn


class RequestRefused(Exception):
    """A request that is answered with ``status`` and the JSON ``body`` (``None``: an empty body)."""

    def __init__(self, status: int, body: object = None) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = body


def refuse(status: int, message: str) -> NoReturn:
    """Refuse the request with ``{"Message": message}``, the extension's error shape.

    Raises:
        RequestRefused: always.
    """
    raise RequestRefused(status, {"Message": message})
