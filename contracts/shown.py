"""What the people who are asked are shown."""

import json
from typing import Annotated, Self

from pydantic import AfterValidator, JsonValue, model_validator

from contracts.audit import RunStamp, digest_of
from contracts.base import Comment, Contract, Line, Who
from contracts.form import Form, check_text

MAX_CONTENT = 28_000
"""Characters (of UTF-16) of the JSON of what is shown: it is one row of the record store."""
MAX_DEPTH = 6
MAX_PARTS = 1_000


def _shallow(value: JsonValue) -> JsonValue:
    def depth(part: JsonValue, level: int) -> int:
        if level > MAX_DEPTH or not isinstance(part, dict | list):
            return level
        return max(
            (depth(each, level + 1) for each in (part.values() if isinstance(part, dict) else part)), default=level
        )

    def parts(part: JsonValue) -> int:
        inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
        return 1 + sum(parts(each) for each in inner)

    if depth(value, 0) > MAX_DEPTH:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
    if parts(value) > MAX_PARTS:
        raise ValueError(f"it has more than {MAX_PARTS:,} parts")
    return value


Details = Annotated[dict[str, JsonValue], AfterValidator(_shallow)]


class Content(Contract):
    """What the people who are asked are shown, in one round."""

    requester: Who
    item: Line
    title: Line | None = None
    description: Comment | None = None
    details: Details | None = None
    form: Form | None = None

    @model_validator(mode="after")
    def _fits_a_row(self) -> Self:
        content = self.model_dump(mode="json", include=set(Content.model_fields))
        text = json.dumps(content, ensure_ascii=False, allow_nan=False)
        check_text(text)
        if len(text.encode("utf-16-le")) > 2 * MAX_CONTENT:
            raise ValueError(f"description, details and form have together more than {MAX_CONTENT:,} characters")
        return self

    @property
    def content(self) -> "Content":
        """This as content alone."""
        return Content.model_validate(self.model_dump(mode="json", include=set(Content.model_fields)))

    @property
    def headline(self) -> str:
        """The title, or the item where there is none."""
        return self.title or self.item


class Shown(Contract):
    """The content of one round of one run, as it is kept for the pages behind the links."""

    instance_id: str
    run: RunStamp
    round: int
    content: Content

    @property
    def digest(self) -> str:
        """The SHA-256 of the content, which a link is bound to."""
        return digest_of(self.content.model_dump(mode="json"))
