"""Manual intervention in a call that failed, and the messages on channels by which it is told what to do."""

import json
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, JsonValue, model_validator

from contracts.base import Contract, InstanceId, Line, Who
from contracts.human_step import Asking
from contracts.start import Limited, StartOptions

ChannelName = Literal["internal_channel_command", "signal_channel_command_retry", "signal_channel_command_skip"]
COMMAND: ChannelName = "internal_channel_command"
RETRY: ChannelName = "signal_channel_command_retry"
SKIP: ChannelName = "signal_channel_command_skip"
EXECUTE_RPC = "__IwfSystem_ExecuteRpc"
"""The event, or signal, whose payload holds messages for several channels."""

MAX_VALUE = 4_000
"""Characters of its JSON that the value of a message has at most."""
MAX_MESSAGES = 100
"""How many messages come at once, and how many wait on a channel."""


def _fitting(value: JsonValue) -> JsonValue:
    if len(json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))) > MAX_VALUE:
        raise ValueError(f"a value has at most {MAX_VALUE:,} characters of JSON")
    return value


Value = Annotated[JsonValue, AfterValidator(_fitting)]
"""Any JSON value of up to 4,000 characters."""


class EncodedObject(Contract):
    """A value as JSON in a text. ``encoding`` names what wrote it; ``data`` is null for no value at all."""

    encoding: Annotated[str, Field(max_length=100)] | None
    data: Annotated[str, Field(max_length=500_000)] | None

    @property
    def value(self) -> Any:
        """What stands in the text. Raises ``ValueError`` when it is not JSON."""
        try:
            return json.loads(self.data) if self.data is not None else None
        except (ValueError, RecursionError):
            raise ValueError("the data of an encoded object is JSON in a text") from None


def decoded(value: Any) -> Any:
    """Return the value in an encoded object, which has exactly its two keys, or any other value as it is.

    Raises ``ValueError`` for an encoded object that cannot be read.
    """
    if isinstance(value, dict) and value.keys() == EncodedObject.model_fields.keys():
        return EncodedObject.model_validate(value).value
    return value


class PublishedMessage(Contract):
    """A message as it comes from outside: its value may be encoded, and its channel be one that there is not."""

    channel_name: Annotated[Line, Field(alias="channelName")]
    value: Annotated[Value, BeforeValidator(decoded)] = None


PublishedMessages = Annotated[tuple[PublishedMessage, ...], Field(strict=False, min_length=1, max_length=MAX_MESSAGES)]


class RemoteCall(Contract):
    """The payload of ``EXECUTE_RPC``."""

    messages: Annotated[
        PublishedMessages,
        Field(validation_alias=AliasChoices("InterStateChannelPublishing", "interStateChannelPublishing")),
    ]


RunId = Annotated[str, Field(max_length=100)]


class PublishRequest(Contract):
    """The body of ``POST /api/v1/workflow/publishToInternalChannel``. An empty run id means the run of today."""

    workflow_id: Annotated[InstanceId, Field(alias="workflowId")]
    workflow_run_id: Annotated[RunId | None, Field(alias="workflowRunId")] = None
    messages: PublishedMessages


class SignalRequest(Contract):
    """The body of ``POST /api/v1/workflow/signal``: one message, or those in the value of ``EXECUTE_RPC``."""

    workflow_id: Annotated[InstanceId, Field(alias="workflowId")]
    workflow_run_id: Annotated[RunId | None, Field(alias="workflowRunId")] = None
    signal_channel_name: Annotated[Line, Field(alias="signalChannelName")]
    signal_value: Annotated[JsonValue, Field(alias="signalValue")] = None

    @property
    def messages(self) -> tuple[PublishedMessage, ...]:
        """The messages. Raises ``ValueError`` when the value does not fit."""
        if self.signal_channel_name == EXECUTE_RPC:
            return RemoteCall.model_validate(decoded(self.signal_value)).messages
        message = {"channelName": self.signal_channel_name, "value": self.signal_value}
        return (PublishedMessage.model_validate(message),)

    @model_validator(mode="after")
    def _readable(self) -> Self:
        _ = self.messages
        return self


class Message(Contract):
    """A message on a channel of a manual intervention."""

    channel: ChannelName
    value: Value = None


class Publication(Asking):
    """The event ``publish``: messages that come at once, and are taken or refused as one. ``sent_by`` is who sent
    them, where that is known."""

    messages: Annotated[tuple[Message, ...], Field(strict=False, min_length=1, max_length=MAX_MESSAGES)]
    channel: Literal["api"] | None = None
    sent_by: Who | None = None


class _OnChannel(Publication):
    """An event that is named like a channel: all of its payload is the value of one message."""

    of: ClassVar[ChannelName]

    @model_validator(mode="before")
    @classmethod
    def _message(cls, payload: Any) -> Any:
        return {"messages": ({"channel": cls.of, "value": decoded(payload)},)}


class OnCommand(_OnChannel):
    """The event ``internal_channel_command``."""

    of = COMMAND


class OnRetry(_OnChannel):
    """The event ``signal_channel_command_retry``."""

    of = RETRY


class OnSkip(_OnChannel):
    """The event ``signal_channel_command_skip``."""

    of = SKIP


class OnExecuteRpc(Publication):
    """The event ``EXECUTE_RPC``."""

    @model_validator(mode="before")
    @classmethod
    def _messages(cls, payload: Any) -> Any:
        call = RemoteCall.model_validate(decoded(payload))
        return {"messages": [{"channel": each.channel_name, "value": each.value} for each in call.messages]}


class ResumeManualIntervention(Contract):
    """The data with which a run is resumed: that the call is retried or skipped, or what it answers."""

    action: Literal["retry", "skip"] | None = None
    command: Value = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if (self.action is None) == ("command" not in self.model_fields_set):
            raise ValueError("give action or command, one of them")
        return self

    @property
    def message(self) -> Message:
        """What is sent to the run."""
        if self.action is None:
            return Message(channel=COMMAND, value=self.command)
        return Message(channel=RETRY if self.action == "retry" else SKIP)


class StartManualIntervention(StartOptions):
    """The parameters in the address of ``/design-pattern/intervention/start``; without an id, one is made."""

    workflow_id: Annotated[InstanceId | None, Field(alias="workflowId")] = None


class ManualInterventionInput(Limited):
    """The durable input of the orchestrator ``manual_intervention``."""
