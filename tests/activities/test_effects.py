"""The activities: one effect each, and the same when they run twice, or at the same time."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from activities.approval import send_approval_request
from activities.purchase_order import cancel_order, place_order
from services.files import file_name, write_once

ORDER = {"order_id": "o1", "cost": 1.5, "product": "Widget", "quantity": 2}
MAIL = {
    "instance_id": "i1",
    "number": 1,
    "subject": "Please approve",
    "text": "2 of Widget",
    "decide_path": "/signal-approval/i1",
    "decide_body": "{}",
}
NO_CONTEXT: Any = None


def files(folder: Path) -> list[str]:
    """All files below a folder."""
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize("times", [1, 2])
def test_an_order_is_placed_once(data_folder: Path, times: int) -> None:
    for _ in range(times):
        given = {"instance_id": "i1", "order": ORDER}
        assert place_order(NO_CONTEXT, given) == {"order_id": "o1", "order_placed": True}
    assert files(data_folder) == ["orders/placed/i1.json"]


def test_an_order_is_cancelled(data_folder: Path) -> None:
    given = {"instance_id": "i1", "order": ORDER}
    assert cancel_order(NO_CONTEXT, given) == {"order_id": "o1", "order_cancelled": True}
    assert files(data_folder) == ["orders/cancelled/i1.json"]


def test_a_mail_that_is_sent_again_is_one_mail(data_folder: Path) -> None:
    first = send_approval_request(NO_CONTEXT, MAIL)
    assert send_approval_request(NO_CONTEXT, MAIL) == first
    assert len(files(data_folder)) == 1
    send_approval_request(NO_CONTEXT, MAIL | {"number": 2})
    assert len(files(data_folder)) == 2


@pytest.mark.parametrize("subject", ["two\nBcc: lines@example.com", "\r\n", ""])
def test_a_subject_cannot_make_a_header(data_folder: Path, subject: str) -> None:
    with pytest.raises(ValidationError):
        send_approval_request(NO_CONTEXT, MAIL | {"subject": subject})
    assert files(data_folder) == []


@pytest.mark.parametrize("instance", ["a\r\nBcc: x@example.com", "../../x", "ü" * 100, "a<b>c@d"])
def test_an_instance_id_cannot_make_a_header_or_a_path(data_folder: Path, instance: str) -> None:
    send_approval_request(NO_CONTEXT, MAIL | {"instance_id": instance})
    [name] = files(data_folder)
    assert name.startswith("outbox/")
    assert name.endswith(".eml")
    assert b"\nBcc:" not in (data_folder / name).read_bytes()


def test_a_disk_that_does_not_take_it_is_an_error_and_leaves_nothing(data_folder: Path) -> None:
    (data_folder / "orders").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="orders"):
        place_order(NO_CONTEXT, {"instance_id": "i1", "order": ORDER})


def test_many_writers_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: write_once(tmp_path, "x", ".txt", str(number).encode() * 10_000), range(16)))
    [name] = files(tmp_path)
    content = (tmp_path / name).read_text()
    assert content in {str(number) * 10_000 for number in range(16)}


def test_file_names() -> None:
    assert file_name("a-b_c.d:e", ".json") == "a-b_c.d:e.json"
    assert file_name("../x", "") == "%2E.%2Fx"
    assert file_name("..", "") == "%2E."
    long = {file_name("ü" * length, ".eml") for length in (100, 101, 200)}
    assert len(long) == 3
    assert all(len(name) <= 204 and name.endswith(".eml") for name in long)
