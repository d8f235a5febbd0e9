"""The proxy: what clients call reaches the scheduler as it is, with the scheduler's metadata and none of theirs."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError
from durabletask.internal import orchestrator_service_pb2 as pb

from local_host.host_json import HostSettings
from local_host.scheduler.connection import Connection, parse_connection
from local_host.task_hub.hub import MAX_MESSAGE
from local_host.task_hub.records import ENDED
from tests.local_host.scheduler.support import Credential, EngineControl, FakeScheduler, running_engine, running_fake
from tests.polling import until

SERVICE = pb.DESCRIPTOR.services_by_name["TaskHubSidecarService"]
NOT_FOR_CLIENTS = {
    "CreateTaskHub",
    "DeleteTaskHub",
    "SkipGracefulOrchestrationTerminations",
    "GetWorkItems",
    "CompleteActivityTask",
    "CompleteOrchestratorTask",
    "CompleteEntityTask",
    "AbandonTaskActivityWorkItem",
    "AbandonTaskOrchestratorWorkItem",
    "AbandonTaskEntityWorkItem",
}


@pytest.fixture
def fake() -> Iterator[FakeScheduler]:
    """A scheduler that keeps what it is told."""
    with running_fake() as fake:
        yield fake


def connection_of(fake: FakeScheduler, credential: Credential | None = None) -> Connection:
    """The connection to it, perhaps with a credential."""
    connection = parse_connection(f"Endpoint=http://{fake.address};TaskHub=far;Authentication=None", "unused")
    return replace(connection, credential=credential)


@pytest.fixture
def engine(fake: FakeScheduler) -> Iterator[EngineControl]:
    """A proxy to it, without a worker."""
    with running_engine(connection_of(fake), work=False) as engine:
        yield engine


def status_of(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str | None]:
    """The status that a call ends with."""
    try:
        call()
    except grpc.RpcError as error:
        return error.code(), error.details()
    return grpc.StatusCode.OK, ""


def fails(code: grpc.StatusCode, details: str, method: str = "StartInstance") -> Callable[[str, Any, Any], None]:
    """What makes a method of the fake fail."""

    def fail(name: str, _request: Any, context: Any) -> None:
        if name == method:
            context.abort(code, details)

    return fail


@pytest.mark.parametrize("method", list(SERVICE.methods), ids=lambda method: method.name)
def test_each_call_is_passed_on_or_refused(method: Any, fake: FakeScheduler, engine: EngineControl) -> None:
    path = f"/{SERVICE.full_name}/{method.name}"
    fake.gone.set()
    with engine.channel() as channel:
        if method.server_streaming:
            code, details = status_of(lambda: list(channel.unary_stream(path)(b"", metadata=engine.metadata)))
        else:
            code, details = status_of(lambda: channel.unary_unary(path)(b"", metadata=engine.metadata, timeout=10))
    if method.name in NOT_FOR_CLIENTS:
        assert code == grpc.StatusCode.PERMISSION_DENIED
        assert details == "This call is not for the clients of an app."
        assert not fake.calls
    elif method.name in vars(FakeScheduler):
        assert (code, details) == (grpc.StatusCode.OK, "")
        assert len(fake.named(method.name)) == 1
    else:
        assert (code, details) == (grpc.StatusCode.UNIMPLEMENTED, "Method not implemented!")


def test_a_method_that_nobody_knows_is_unimplemented(fake: FakeScheduler, engine: EngineControl) -> None:
    with engine.channel() as channel:
        call = channel.unary_unary("/TaskHubSidecarService/Nothing")
        assert status_of(lambda: call(b"", metadata=engine.metadata))[0] == grpc.StatusCode.UNIMPLEMENTED
    assert not fake.calls


@pytest.mark.parametrize("method", list(SERVICE.methods), ids=lambda method: method.name)
@pytest.mark.parametrize("shown", [None, "", "wrong", "far"])
def test_nobody_gets_in_without_the_credential(
    shown: str | None, method: Any, fake: FakeScheduler, engine: EngineControl
) -> None:
    metadata = [("taskhub", shown)] if shown is not None else []
    path = f"/{SERVICE.full_name}/{method.name}"
    with engine.channel() as channel:
        if method.server_streaming:
            status = status_of(lambda: list(channel.unary_stream(path)(b"", metadata=metadata)))
        else:
            status = status_of(lambda: channel.unary_unary(path)(b"", metadata=metadata))
    assert status[0] == grpc.StatusCode.UNAUTHENTICATED
    assert not fake.calls


def test_the_credential_is_another_one_each_time(fake: FakeScheduler) -> None:
    credentials = set()
    for _ in range(3):
        with running_engine(connection_of(fake), work=False) as engine:
            credentials.add(engine.engine.credential)
    assert len(credentials) == 3
    assert min(map(len, credentials)) >= 32


@pytest.mark.parametrize("is_stream", [False, True])
def test_the_metadata_is_the_schedulers_and_none_of_the_clients(
    is_stream: bool, fake: FakeScheduler, engine: EngineControl
) -> None:
    metadata = [*engine.metadata, ("authorization", "Bearer of the client"), ("x-local", "1"), ("workerid", "me")]
    with engine.stub() as stub:
        if is_stream:
            list(stub.StreamInstanceHistory(pb.StreamInstanceHistoryRequest(), metadata=metadata))
        else:
            stub.StartInstance(pb.CreateInstanceRequest(), metadata=metadata)
    ((_, seen),) = fake.calls
    assert seen["taskhub"] == "far"
    assert seen["x-user-agent"].startswith("durabletask-python/")
    assert not {"authorization", "x-local", "workerid"} & seen.keys()
    assert engine.engine.credential not in str(seen)


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("through", ["proxy", "stub"])
def test_calls_carry_a_token_and_it_is_fetched_once(through: str, is_stream: bool, fake: FakeScheduler) -> None:
    credential = Credential(lambda number: AccessToken(f"token-{number}", 2**31))
    with running_engine(connection_of(fake, credential), work=False) as engine, engine.stub() as stub:

        async def on_loop() -> None:
            if is_stream:
                async for _ in engine.engine.stub.StreamInstanceHistory(pb.StreamInstanceHistoryRequest()):
                    pass
            else:
                await engine.engine.stub.StartInstance(pb.CreateInstanceRequest())

        for _ in range(2):
            if through == "stub":
                engine.thread.run(on_loop())
            elif is_stream:
                list(stub.StreamInstanceHistory(pb.StreamInstanceHistoryRequest(), metadata=engine.metadata))
            else:
                stub.StartInstance(pb.CreateInstanceRequest(), metadata=engine.metadata)
    assert [seen["authorization"] for _, seen in fake.calls] == ["Bearer token-1"] * 2
    assert [seen["taskhub"] for _, seen in fake.calls] == ["far"] * 2
    assert credential.asked == [("https://durabletask.io/.default",)]
    assert credential.closed


def test_a_token_near_its_end_is_followed_by_another(fake: FakeScheduler) -> None:
    now = datetime.now(UTC).timestamp()
    credential = Credential(lambda number: AccessToken(f"token-{number}", int(now) + (5 if number == 1 else 5000)))
    with running_engine(connection_of(fake, credential), work=False) as engine, engine.stub() as stub:
        for _ in range(3):
            stub.StartInstance(pb.CreateInstanceRequest(), metadata=engine.metadata)
    assert [seen["authorization"] for _, seen in fake.calls] == [
        "Bearer token-1",
        "Bearer token-2",
        "Bearer token-2",
    ]


@pytest.mark.parametrize("is_stream", [False, True])
def test_without_a_token_nothing_is_sent_and_the_client_is_told(is_stream: bool, fake: FakeScheduler) -> None:
    def give(number: int) -> AccessToken:
        raise ClientAuthenticationError("secret-word")

    with running_engine(connection_of(fake, Credential(give)), work=False) as engine, engine.stub() as stub:
        if is_stream:
            call = stub.StreamInstanceHistory
            code, details = status_of(lambda: list(call(pb.StreamInstanceHistoryRequest(), metadata=engine.metadata)))
        else:
            call = stub.StartInstance
            code, details = status_of(lambda: call(pb.CreateInstanceRequest(), metadata=engine.metadata))
    assert code == grpc.StatusCode.UNAVAILABLE
    assert details == "There is no token for the scheduler; the host's log says why."
    assert not fake.calls


def test_a_credential_that_takes_its_time_holds_nobody_else_up(fake: FakeScheduler) -> None:
    gate = threading.Event()

    def give(number: int) -> AccessToken:
        gate.wait(30)
        return AccessToken("late", 2**31)

    credential = Credential(give)
    with running_engine(connection_of(fake, credential), work=False) as engine, engine.stub() as stub:
        call = stub.StartInstance.future(pb.CreateInstanceRequest(), metadata=engine.metadata)
        until(lambda: credential.asked)

        async def turn() -> str:
            return "the loop is free"

        assert engine.thread.run(turn()) == "the loop is free"
        assert not call.done()
        gate.set()
        call.result(10)


def test_a_stop_does_not_wait_for_a_credential(fake: FakeScheduler) -> None:
    gate = threading.Event()

    def give(number: int) -> AccessToken:
        gate.wait(60)
        return AccessToken("late", 2**31)

    credential = Credential(give)
    try:
        with running_engine(connection_of(fake, credential)):
            until(lambda: credential.asked)
        assert not gate.is_set()
    finally:
        gate.set()


@pytest.mark.parametrize(
    "code", [code for code in grpc.StatusCode if code != grpc.StatusCode.OK], ids=lambda code: code.name
)
def test_status_and_details_come_back_as_they_are(
    code: grpc.StatusCode, fake: FakeScheduler, engine: EngineControl
) -> None:
    fake.fail = fails(code, "grün: because")
    with engine.stub() as stub:
        status = status_of(lambda: stub.StartInstance(pb.CreateInstanceRequest(), metadata=engine.metadata))
    assert status == (code, "grün: because")


def test_a_stream_that_breaks_gives_what_came_before(fake: FakeScheduler, engine: EngineControl) -> None:
    fake.history = [pb.HistoryEvent(eventId=number) for number in range(3)]
    fake.fail = fails(grpc.StatusCode.DATA_LOSS, "gone", "StreamInstanceHistory.end")
    seen: list[pb.HistoryChunk] = []
    with engine.stub() as stub:
        stream = stub.StreamInstanceHistory(pb.StreamInstanceHistoryRequest(), metadata=engine.metadata)
        assert status_of(lambda: seen.extend(stream)) == (grpc.StatusCode.DATA_LOSS, "gone")
    assert [chunk.events[0].eventId for chunk in seen] == [0, 1, 2]


def test_a_deadline_goes_along(fake: FakeScheduler, engine: EngineControl) -> None:
    with engine.stub() as stub:
        stub.StartInstance(pb.CreateInstanceRequest(), metadata=engine.metadata, timeout=50)
        assert fake.time_remaining is not None
        assert 0 < fake.time_remaining < 60  # gRPC rounds it up on the way
        stub.StartInstance(pb.CreateInstanceRequest(), metadata=engine.metadata)
        assert fake.time_remaining is None or fake.time_remaining > 10_000


@pytest.mark.parametrize("how", ["cancelled", "deadline", "gone"])
def test_who_does_not_wait_any_more_is_not_waited_for_by_the_scheduler(
    how: str, fake: FakeScheduler, engine: EngineControl
) -> None:
    with engine.channel() as channel:
        wait = channel.unary_unary("/TaskHubSidecarService/WaitForInstanceCompletion")
        call = wait.future(b"", metadata=engine.metadata, timeout=1 if how == "deadline" else None)
        until(lambda: fake.named("WaitForInstanceCompletion"))
        if how == "cancelled":
            call.cancel()
        elif how == "gone":
            channel.close()
        assert fake.gone.wait(10)


@pytest.mark.parametrize("how", ["cancelled", "gone"])
def test_who_has_read_enough_of_a_stream_ends_it_at_the_scheduler(
    how: str, fake: FakeScheduler, engine: EngineControl
) -> None:
    hold = threading.Event()
    fake.history = [pb.HistoryEvent(eventId=1)]

    def wait(name: str, _request: Any, _context: Any) -> None:
        if name == "StreamInstanceHistory.end":
            hold.wait(30)

    fake.fail = wait
    try:
        with engine.channel() as channel:
            stream = channel.unary_stream("/TaskHubSidecarService/StreamInstanceHistory")(b"", metadata=engine.metadata)
            assert next(stream)
            if how == "cancelled":
                stream.cancel()
            else:
                channel.close()
            assert fake.gone.wait(10)
    finally:
        hold.set()


def test_large_messages_pass_and_larger_ones_are_refused(fake: FakeScheduler, engine: EngineControl) -> None:
    with engine.stub() as stub:
        size = 20 * 1024 * 1024
        stub.StartInstance(pb.CreateInstanceRequest(name="x" * size), metadata=engine.metadata)
        assert len(fake.requests[0].name) == size
        found = stub.GetInstance(pb.GetInstanceRequest(instanceId=str(size)), metadata=engine.metadata)
        assert len(found.orchestrationState.input.value) == size
        too_large = pb.GetInstanceRequest(instanceId=str(MAX_MESSAGE + 1))
        code, _ = status_of(lambda: stub.GetInstance(too_large, metadata=engine.metadata))
        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
        stub.StartInstance(pb.CreateInstanceRequest(), metadata=engine.metadata)  # and nothing else is harmed


def test_a_malformed_message_is_for_the_scheduler_to_refuse(fake: FakeScheduler, engine: EngineControl) -> None:
    with engine.channel() as channel:
        start = channel.unary_unary("/TaskHubSidecarService/StartInstance")
        code, _ = status_of(lambda: start(b"\xff\xff\xff", metadata=engine.metadata))
        assert code != grpc.StatusCode.OK
        assert not fake.named("StartInstance")


ANY_STATE = HostSettings(version="2.0", any_state_overridable=True)


@pytest.mark.parametrize("through", ["proxy", "stub"])
@pytest.mark.parametrize(
    ("settings", "given", "expected"),
    [
        (HostSettings(), pb.CreateInstanceRequest(), (None, sorted(ENDED))),
        (ANY_STATE, pb.CreateInstanceRequest(), ("2.0", sorted(pb.OrchestrationStatus.values()))),
        (
            ANY_STATE,
            pb.CreateInstanceRequest(version={"value": ""}, orchestrationIdReusePolicy={"replaceableStatus": [1]}),
            ("", [1]),
        ),
    ],
)
def test_starts_are_as_host_json_has_them(
    settings: HostSettings,
    given: pb.CreateInstanceRequest,
    expected: tuple[str | None, list[int]],
    through: str,
    fake: FakeScheduler,
) -> None:
    with running_engine(connection_of(fake), work=False, settings=settings) as engine, engine.stub() as stub:
        if through == "proxy":
            stub.StartInstance(given, metadata=engine.metadata)
        else:

            async def start() -> None:
                await engine.engine.stub.StartInstance(given)

            engine.thread.run(start())
    (request,) = fake.requests
    version = request.version.value if request.HasField("version") else None
    assert (version, sorted(request.orchestrationIdReusePolicy.replaceableStatus)) == expected


def test_without_a_scheduler_calls_fail_at_once_and_work_when_it_is_there() -> None:
    with running_fake() as gone:
        port = int(gone.address.partition(":")[2])
    with running_engine(connection_of(gone), work=False) as engine, engine.stub() as stub:
        request = pb.CreateInstanceRequest()
        assert (
            status_of(lambda: stub.StartInstance(request, metadata=engine.metadata))[0] == grpc.StatusCode.UNAVAILABLE
        )
        with running_fake(port=port):
            until(
                lambda: (
                    status_of(lambda: stub.StartInstance(request, metadata=engine.metadata))[0] == grpc.StatusCode.OK
                )
            )


def test_a_stop_ends_calls_that_wait(fake: FakeScheduler) -> None:
    with ExitStack() as stack:
        with running_engine(connection_of(fake), work=False) as engine:
            stub = stack.enter_context(engine.stub())
            call = stub.WaitForInstanceCompletion.future(pb.GetInstanceRequest(), metadata=engine.metadata)
            until(lambda: fake.named("WaitForInstanceCompletion"))
        assert status_of(lambda: call.result(10))[0] != grpc.StatusCode.OK
    assert fake.gone.wait(10)


def test_http_proxies_of_the_environment_do_not_see_what_stays_on_this_machine(
    fake: FakeScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_fake() as nobody:
        nowhere = nobody.address
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, f"http://{nowhere}")
    with running_engine(connection_of(fake), work=False) as engine:

        async def start() -> None:
            await engine.engine.stub.StartInstance(pb.CreateInstanceRequest())

        engine.thread.run(start())
    assert fake.named("StartInstance")
