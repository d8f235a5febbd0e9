"""The records of a run: who is waited for, and what happened; and what carries them to the store."""

from datetime import datetime
from typing import Annotated, Any, override

from pydantic import AfterValidator, Field, JsonValue

from contracts.at_step import AtStep
from contracts.audit import Entry, RunStamp
from contracts.base import MAX_PEOPLE, Address, Contract, Line, Name, Timestamp
from contracts.shown import Shown

MAX_PATH = 13_000
"""Characters: an instance id of 1,000 emojis, percent-encoded, and what stands around it."""


def _with_zone(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("a time needs its zone")
    return value


_LATER = ("group", "at_step")
"""Fields of a wait that came later than the others."""


class Wait(Contract):
    """A run waits for people. Instance, run and number name the wait.

    ``kind`` is the workflow, ``actions`` what the people can do now, ``path`` where in the app they find it. An
    empty ``people`` means that nobody was asked by name. Waits of one ``group`` have one cause, such as an error.
    ``at_step`` is the step of a declared workflow that waits, itself or for a run that it has called.
    """

    instance_id: str
    run: RunStamp
    number: Annotated[int, Field(ge=1)]
    kind: Name
    title: Line
    people: Annotated[tuple[Address, ...], Field(strict=False, max_length=MAX_PEOPLE)] = ()
    since: Annotated[Timestamp, AfterValidator(_with_zone)]
    deadline: Annotated[Timestamp, AfterValidator(_with_zone)] | None = None
    actions: Annotated[tuple[Name, ...], Field(strict=False)] = ()
    path: Annotated[str, Field(pattern=r"\A/[^\s]*\z", max_length=MAX_PATH)]
    group: Annotated[str, Field(pattern=r"\A[0-9a-f]{1,64}\z")] | None = None
    at_step: AtStep | None = None

    @override
    def plain(self) -> dict[str, Any]:
        """Return the plain JSON object, in which a wait without a group or a step is as it was before there were
        any."""
        return self.model_dump(mode="json", exclude={each for each in _LATER if getattr(self, each) is None})


class Document(Contract):
    """Something that is too long for a custom status, kept while the instance is: instance, run and name name it.

    ``name`` is what it is, and perhaps a number or a digest: ``attempt|000001``.
    """

    instance_id: str
    run: RunStamp
    name: Annotated[str, Field(pattern=r"\A[a-z_]{1,20}(?:\|[0-9a-f]{1,64})?\z")]
    body: JsonValue


class RecordBatch(Contract):
    """What a run has to put on record: the durable input of the activity ``record``."""

    documents: Annotated[tuple[Document, ...], Field(strict=False)] = ()
    shown: Annotated[tuple[Shown, ...], Field(strict=False)] = ()
    entries: Annotated[tuple[Entry, ...], Field(strict=False)] = ()
    opened: Annotated[tuple[Wait, ...], Field(strict=False)] = ()
    closed: Annotated[tuple[Wait, ...], Field(strict=False)] = ()

    @override
    def plain(self) -> dict[str, Any]:
        """Return the plain JSON object without what is null, since all of it stands in the history of the run."""
        return self.model_dump(mode="json", exclude_none=True)


class Recorded(Contract):
    """What the activity ``record`` gives back.

    ``refused`` are the numbers of entries whose place in the store another one has taken. ``salt`` is for the hashes
    of comments to come: random, which an orchestrator cannot be.
    """

    refused: Annotated[tuple[int, ...], Field(strict=False)] = ()
    salt: Annotated[str, Field(min_length=16)]
