"""The order desk: where approved purchase orders go."""

import json
from pathlib import Path
from typing import Any, Protocol

from contracts.pause import ResumeData
from contracts.purchase_order import PurchaseOrder
from services.files import write_once
from settings import get_settings


class OrderDesk(Protocol):
    """Takes orders, and takes note of those that will not come. ``reference`` makes a repetition known."""

    def place(self, reference: str, order: PurchaseOrder, resume_data: ResumeData | None = None) -> None:
        """Place the order, with what its run was resumed with. Raises ``OSError`` when the desk cannot be reached."""
        ...

    def cancel(self, reference: str, order: PurchaseOrder) -> None:
        """Note that the order will not be placed. Raises ``OSError`` when the desk cannot be reached."""
        ...


class FolderOrderDesk:
    """Keeps one JSON file per order, under ``placed`` or ``cancelled``.

    It stands in for the purchasing system of whoever runs the app: give that one the two methods of ``OrderDesk``
    and return it from ``get_order_desk``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def place(self, reference: str, order: PurchaseOrder, resume_data: ResumeData | None = None) -> None:
        """Write ``placed/<reference>.json``, once."""
        said = order.plain() if resume_data is None else {**order.plain(), "resume_data": resume_data}
        self._write("placed", reference, said)

    def cancel(self, reference: str, order: PurchaseOrder) -> None:
        """Write ``cancelled/<reference>.json``, once."""
        self._write("cancelled", reference, order.plain())

    def _write(self, kind: str, reference: str, said: dict[str, Any]) -> None:
        write_once(self._folder / kind, reference, ".json", json.dumps(said, indent=2).encode())


def get_order_desk() -> OrderDesk:
    """The order desk of this app."""
    return FolderOrderDesk(get_settings().local_host_data / "orders")
