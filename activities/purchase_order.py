"""The effects of a purchase order."""

from typing import Any

from durabletask.task import ActivityContext

from contracts.purchase_order import OrderEffect
from services.order_desk import get_order_desk


def place_order(_context: ActivityContext, request: dict[str, Any]) -> dict[str, Any]:
    """Place the order at the order desk. Takes an ``OrderEffect``; gives ``order_id`` and ``order_placed``.

    Raises ``OSError`` when the order desk cannot be reached.
    """
    effect = OrderEffect.model_validate(request)
    get_order_desk().place(effect.reference, effect.order, effect.resume_data)
    return {"order_id": effect.order.order_id, "order_placed": True}


def cancel_order(_context: ActivityContext, request: dict[str, Any]) -> dict[str, Any]:
    """Tell the order desk that the order will not come. Takes an ``OrderEffect``; gives ``order_id`` and
    ``order_cancelled``.

    Raises ``OSError`` when the order desk cannot be reached.
    """
    effect = OrderEffect.model_validate(request)
    get_order_desk().cancel(effect.reference, effect.order)
    return {"order_id": effect.order.order_id, "order_cancelled": True}
