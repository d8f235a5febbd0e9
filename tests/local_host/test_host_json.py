"""``host.json``: what is read, what is refused, and what is named in a warning."""

import json
from pathlib import Path
from typing import Any

import pytest

from local_host.errors import HostError
from local_host.host_json import HostSettings, host_settings
from local_host.task_hub.dispatch import ACTIVITY, ENTITY, TURN
from local_host.versions import compare, is_match


def settings_of(tmp_path: Path, document: Any, **environment: str) -> HostSettings:
    """Read a host.json that holds a document, or a text as it is."""
    file = tmp_path / "host.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    return host_settings(file, environment)


def durable(**settings: Any) -> dict[str, Any]:
    """A document with settings of the Durable Functions extension."""
    return {"extensions": {"durableTask": settings}}


def test_without_a_file_all_is_as_documented(tmp_path: Path) -> None:
    settings = host_settings(tmp_path / "host.json", {})
    assert settings == HostSettings()
    assert settings.function_timeout == 30 * 60
    assert (settings.version_match, settings.version_failure) == ("currentorolder", "reject")
    assert not settings.any_state_overridable


def test_everything_that_is_honoured_is_read(tmp_path: Path) -> None:
    settings = settings_of(
        tmp_path,
        {
            "version": "2.0",
            "functionTimeout": "00:01:30",
            "logging": {"logLevel": {"default": "Warning", "Function.send.User": "Debug"}},
            "extensions": {
                "http": {"routePrefix": "/x/"},
                "durableTask": {
                    "hubName": "Mine",
                    "maxConcurrentActivityFunctions": 3,
                    "maxConcurrentOrchestratorFunctions": 4,
                    "maxConcurrentEntityFunctions": 5,
                    "defaultVersion": "1.2",
                    "versionMatchStrategy": "Strict",
                    "versionFailureStrategy": "Fail",
                    "overridableExistingInstanceStates": "AnyState",
                    "httpSettings": {"useForwardedHost": True},
                    "storageProvider": {"type": "azureManaged", "connectionStringName": "MY_SCHEDULER"},
                },
            },
        },
    )
    assert settings == HostSettings(
        route_prefix="x",
        hub_name="Mine",
        function_timeout=90.0,
        log_levels={"default": "Warning", "Function.send.User": "Debug"},
        slots={ACTIVITY: 3, TURN: 4, ENTITY: 5},
        version="1.2",
        version_match="strict",
        version_failure="fail",
        any_state_overridable=True,
        use_forwarded_host=True,
        scheduler_variable="MY_SCHEDULER",
    )


def test_a_limit_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, durable(maxConcurrentActivityFunctions=1))
    assert settings.slots == {**HostSettings().slots, ACTIVITY: 1}


@pytest.mark.parametrize(
    "document",
    [
        {"EXTENSIONS": {"DurableTask": {"HubNAME": "Mine"}}},
        '{"extensions": {/* durable */ "durableTask": {"hubName": "Mine",},},} // the end',
        '\ufeff{"extensions": {"durableTask": {"hubName": "Mine"}}}',
    ],
)
def test_case_comments_and_trailing_commas_do_not_matter(tmp_path: Path, document: Any) -> None:
    assert settings_of(tmp_path, document).hub_name == "Mine"


@pytest.mark.parametrize("text", ["http://a/*b*/", "a,]", 'a "quoted" // text', "back\\\\slash"])
def test_what_looks_like_a_comment_in_a_text_is_text(tmp_path: Path, text: str) -> None:
    assert settings_of(tmp_path, durable(hubName=text)).hub_name == text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("-1", None),
        ("00:00:10", 10.0),
        ("1.00:00:00", 86400.0),
        ("23:59", 86340.0),
        ("00:00:01.5", 1.5),
        ("2", 172800.0),
    ],
)
def test_times(tmp_path: Path, value: str, expected: float | None) -> None:
    assert settings_of(tmp_path, {"functionTimeout": value}).function_timeout == expected


@pytest.mark.parametrize("text", ["", "soon", "24:00", "00:60:00", "00:00:60", "a:b", "1.2:3:4:5"])
def test_what_is_no_time_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(HostError, match="'functionTimeout' must be a time like 00:05:00: it "):
        settings_of(tmp_path, {"functionTimeout": text})


@pytest.mark.parametrize(
    ("document", "place", "reason"),
    [
        ({"functionTimeout": "soon"}, "functionTimeout", "must be a time"),
        ({"functionTimeout": "00:00:00"}, "functionTimeout", "must be more than nothing"),
        ({"functionTimeout": "-00:01:00"}, "functionTimeout", "must be more than nothing"),
        ({"functionTimeout": 5}, "functionTimeout", "must be a text"),
        ({"logging": {"logLevel": "Debug"}}, "logging.logLevel", "must be an object"),
        ({"logging": {"logLevel": {"default": 3}}}, "logging.logLevel.default", "must be a text"),
        (durable(hubName=""), "extensions.durableTask.hubName", "must not be empty"),
        (durable(hubName="%NO_SUCH%"), "extensions.durableTask.hubName", "there is no setting 'NO_SUCH'"),
        (durable(maxConcurrentActivityFunctions=0), "maxConcurrentActivityFunctions", "at least 1"),
        (durable(maxConcurrentActivityFunctions=-1), "maxConcurrentActivityFunctions", "at least 1"),
        (durable(maxConcurrentActivityFunctions=1.5), "maxConcurrentActivityFunctions", "at least 1"),
        (durable(maxConcurrentActivityFunctions=True), "maxConcurrentActivityFunctions", "at least 1"),
        (durable(maxConcurrentActivityFunctions="9" * 5000), "maxConcurrentActivityFunctions", "at least 1"),
        (durable(versionMatchStrategy="Newest"), "versionMatchStrategy", "must be one of None, Strict, CurrentOrOlder"),
        (durable(versionFailureStrategy="Ignore"), "versionFailureStrategy", "must be one of Reject, Fail"),
        (durable(overridableExistingInstanceStates="All"), "overridableExisting", "must be one of NonRunningStates"),
        (durable(defaultVersion=2), "defaultVersion", "must be a text"),
        (durable(httpSettings={"useForwardedHost": "perhaps"}), "useForwardedHost", "must be true or false"),
        ("[" * 100_000, "host.json", "is not JSON"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_its_place(
    tmp_path: Path, document: Any, place: str, reason: str
) -> None:
    with pytest.raises(HostError) as refused:
        settings_of(tmp_path, document)
    assert place in str(refused.value)
    assert reason in str(refused.value)
    assert str(tmp_path / "host.json") in str(refused.value)


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    settings = settings_of(
        tmp_path,
        durable(hubName="Mine", maxConcurrentActivityFunctions=3),
        AzureFunctionsJobHost__extensions__durableTask__hubName="Other",
        AZUREFUNCTIONSJOBHOST__EXTENSIONS__DURABLETASK__MAXCONCURRENTACTIVITYFUNCTIONS="7",
        AzureFunctionsJobHost__logging__logLevel__Function__send="Debug",
    )
    assert (settings.hub_name, settings.slots[ACTIVITY]) == ("Other", 7)
    assert settings.log_levels == {"Function.send": "Debug"}


def test_a_wrong_value_in_the_environment_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"The environment: 'functionTimeout' must be a time"):
        settings_of(tmp_path, {}, AzureFunctionsJobHost__functionTimeout="x")


def test_settings_of_the_app_are_put_into_texts(tmp_path: Path) -> None:
    assert settings_of(tmp_path, durable(hubName="hub%STAGE%x"), STAGE="test").hub_name == "hubtestx"


def test_what_is_not_honoured_is_named(tmp_path: Path) -> None:
    settings = settings_of(
        tmp_path,
        {
            "version": "2.0",
            "extensionBundle": {"id": "x", "version": "[4.*, 5.0.0)"},
            "logging": {"applicationInsights": {"samplingSettings": {"isEnabled": True}}},
            "extensions": {
                "http": {"routePrefix": "", "maxOutstandingRequests": 5},
                "queues": {"batchSize": 1},
                "durableTask": {"storageProvider": {"type": "mssql"}, "extendedSessionsEnabled": True},
            },
            "retry": {"strategy": "fixedDelay"},
        },
    )
    named = [warning.split("'")[1] for warning in settings.warnings]
    assert named == [
        "extensions.http.maxOutstandingRequests",
        "extensions.queues.batchSize",
        "extensions.durableTask.extendedSessionsEnabled",
        "retry.strategy",
    ]


# Versions


@pytest.mark.parametrize(
    ("one", "two", "order"),
    [
        ("", "", 0),
        ("", "1.0", -1),
        ("1.0", "", 1),
        ("1.0", "1.0", 0),
        ("1.9", "1.10", -1),
        ("1.0", "1.0.0", -1),
        ("2.0", "1.99.99.99", 1),
        ("10", "9", -1),  # one number is no .NET version, so these go by their letters
        ("v1-Beta", "V1-beta", 0),
        ("2025-01-01", "2025-02-01", -1),
    ],
)
def test_the_order_of_versions(one: str, two: str, order: int) -> None:
    assert compare(one, two) == order
    assert compare(two, one) == -order


@pytest.mark.parametrize(
    ("strategy", "runs"),
    [("none", [None, "", "0.9", "1.0", "1.1"]), ("strict", ["1.0"]), ("currentorolder", [None, "", "0.9", "1.0"])],
)
def test_what_a_strategy_lets_run(strategy: str, runs: list[str | None]) -> None:
    settings = HostSettings(version="1.0", version_match=strategy)
    assert [version for version in (None, "", "0.9", "1.0", "1.1") if is_match(settings, version)] == runs


def test_a_host_without_a_version_runs_what_has_none(tmp_path: Path) -> None:
    assert is_match(HostSettings(), None)
    assert not is_match(HostSettings(), "1.0")
