"""The parameters of a start, and what tells the runs of one id apart."""

from datetime import UTC, datetime, timedelta, timezone

import azure.functions as func
import pytest
from pydantic import ValidationError

from contracts.mail import ApprovalMail
from contracts.purchase_order import OrderEffect, PurchaseOrderInput
from contracts.start import Limited, StartOptions
from errors import BadRequest
from triggers.web import read_query

ORDER = {"order_id": "o1", "cost": 1.5, "product": "Widget", "quantity": 2}
RUN = "20261122T093000000001Z"


def read(**params: str) -> StartOptions:
    """Read parameters of an address."""
    return read_query(func.HttpRequest("POST", "/start", params=params, body=b""), StartOptions)


def refused(**params: str) -> str:
    """The sentence with which parameters are refused."""
    with pytest.raises(BadRequest) as caught:
        read(**params)
    return caught.value.detail


def test_without_parameters_nothing_is_asked_for() -> None:
    assert read() == StartOptions()
    assert read(idReusePolicy="", startAt="", executionTimeout="") == StartOptions()
    assert (StartOptions().id_reuse_policy, StartOptions().start_at, StartOptions().execution_timeout) == (None,) * 3


@pytest.mark.parametrize(
    "policy",
    ["ALLOW_IF_NO_RUNNING", "ALLOW_IF_PREVIOUS_EXITS_ABNORMALLY", "DISALLOW_REUSE", "ALLOW_TERMINATE_IF_RUNNING"],
)
def test_each_policy_is_read(policy: str) -> None:
    assert read(idReusePolicy=policy).id_reuse_policy == policy


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-22T10:00:00Z", datetime(2026, 11, 22, 10, tzinfo=UTC)),
        ("2026-11-22T10:00:00", datetime(2026, 11, 22, 10, tzinfo=UTC)),
        ("2026-11-22T10:00:00.25+01:30", datetime(2026, 11, 22, 8, 30, 0, 250_000, tzinfo=UTC)),
        ("2026-11-22T10:00:00 01:00", datetime(2026, 11, 22, 9, tzinfo=UTC)),
        ("2026-11-22T10:00:00 0100", datetime(2026, 11, 22, 9, tzinfo=UTC)),
        ("2026-11-22T10:00 01:00", datetime(2026, 11, 22, 9, tzinfo=UTC)),
        ("2026-11-22T10:00:00-05:00", datetime(2026, 11, 22, 15, tzinfo=UTC)),
        ("2026-11-22 10:00", datetime(2026, 11, 22, 10, tzinfo=UTC)),
        ("2026-11-22", datetime(2026, 11, 22, tzinfo=UTC)),
    ],
)
def test_a_time_is_read_in_utc(text: str, moment: datetime) -> None:
    found = read(startAt=text).start_at
    assert found == moment
    assert found is not None
    assert found.utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    "text", ["soon", "60", "1700000000", "1e10", "-1", "inf", "10:00", "2026-11-31", "2026-11-22T25:00:00Z", "PT1H"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    assert refused(startAt=text).startswith("The parameter 'startAt' is wrong: ")


def test_a_time_is_an_aware_datetime_in_code_too() -> None:
    given = datetime(2026, 11, 22, 10, tzinfo=timezone(timedelta(hours=1)))
    assert StartOptions.model_validate({"startAt": given}).start_at == datetime(2026, 11, 22, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3600", 3600), ("0.5", 0.5), ("PT1H", 3600), ("P1D", 86_400), ("P365D", 31_536_000), ("31536000", 31_536_000)],
)
def test_a_timeout_is_seconds_or_iso_8601(text: str, seconds: float) -> None:
    assert read(executionTimeout=text).execution_timeout == seconds


@pytest.mark.parametrize("text", ["0", "-1", "PT0S", "nan", "inf", "1e3", "P1M", "P366D", "31536000.001", "1 h", "²"])
def test_what_is_no_timeout_is_refused(text: str) -> None:
    assert refused(executionTimeout=text).startswith("The parameter 'executionTimeout' is wrong: ")


@pytest.mark.parametrize("name", ["id_reuse_policy", "start_at", "execution_timeout", "workflowId"])
def test_the_sentence_about_an_unknown_parameter_has_the_names_of_the_address(name: str) -> None:
    said = refused(**{name: "ALLOW_IF_NO_RUNNING"})
    assert said == f"There is no parameter '{name}' here; there are idReusePolicy, startAt, executionTimeout."


def test_an_input_from_before_has_no_timeout_and_one_of_today_may() -> None:
    before = {"order": ORDER, "timeout_seconds": 60.0}
    assert PurchaseOrderInput.model_validate(before).execution_timeout is None
    assert PurchaseOrderInput.model_validate(before | {"execution_timeout": 5.0}).execution_timeout == 5
    for wrong in (0, -1, float("nan"), 1e9):
        with pytest.raises(ValidationError):
            Limited(execution_timeout=wrong)


def test_two_runs_of_an_id_have_two_references_and_an_input_from_before_has_the_id() -> None:
    before = OrderEffect.model_validate({"instance_id": "i1", "order": ORDER})
    runs = [OrderEffect.model_validate({"instance_id": "i1", "order": ORDER, "run": f"{RUN[:-2]}{n}Z"}) for n in (1, 2)]
    assert before.reference == "i1"
    assert len({before.reference, *(each.reference for each in runs)}) == 3
    assert all(each.reference.startswith("i1.") for each in runs)


@pytest.mark.parametrize("run", ["", "../../x", "20261122T093000000001Z\n", "2026"])
def test_a_run_is_a_stamp_and_nothing_else(run: str) -> None:
    with pytest.raises(ValidationError):
        OrderEffect.model_validate({"instance_id": "i1", "order": ORDER, "run": run})
    mail = {"instance_id": "i1", "number": 1, "subject": "s", "text": "t", "decide_path": "/", "decide_body": "{}"}
    assert ApprovalMail.model_validate(mail | {"run": RUN}).run == RUN
    with pytest.raises(ValidationError):
        ApprovalMail.model_validate(mail | {"run": run})
