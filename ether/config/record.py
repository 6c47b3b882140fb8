"""Record: what is recorded and where, and what publishers keep until it is."""

import string
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from ether.clock import SECONDS
from ether.config.section import Section
from ether.config.values import QUANTITY, Duration, Filters, Size, size

__all__ = ["Outbox", "Record", "Rotate", "as_record"]


def _template(text: str) -> str:
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
    except ValueError as exc:
        raise ValueError(f"{text!r}: {exc}") from None
    for name in names:
        if name not in ("session", "started"):
            raise ValueError(f"`{{{name}}}` is unknown; {{session}} and {{started}} are filled in")
    if not text or text.endswith("/"):
        raise ValueError(f"{text!r} names no file")
    return text


class Rotate(Section):
    """When a new part of a recording begins: whichever comes first."""

    size: Annotated[Size, Field(ge=1_000_000)] | None = Field(
        default=None, description="At so many bytes of messages: `2GB`; 1MB at least."
    )
    every: Annotated[Duration, Field(ge=1)] | None = Field(
        default=None, description="After so long: `1h`; 1s at least."
    )

    @classmethod
    def _short_form(cls, data: object) -> object:
        if not isinstance(data, str | int | float):
            return data
        found = QUANTITY.match(str(data))
        if found is not None and found[2] in SECONDS:
            return {"every": data}
        size(data)  # what is wrong with it is wrong with `rotate`, not with a key that nobody wrote
        return {"size": data}


def _rotate(value: object) -> object:
    return None if value in (False, "off", "no") else value  # YAML reads `rotate: off` as false


class Outbox(Section):
    """What a publisher keeps until it is recorded."""

    size: Size = Field(default=64 << 20, description="At most so much for each publisher: `64MiB`.")
    block: Duration = Field(
        default=5.0, description="A publisher with a full outbox waits so long; then it goes on with an alarm."
    )


class Record(Section):
    """What is recorded, and where."""

    topics: Filters = Field(default=["#"], description="Topic filters to record.")
    exclude: Filters = Field(default=[], description="Topic filters to leave out.")
    file: Annotated[str, AfterValidator(_template)] = Field(
        default="{session}-{started}.h5",
        description="File below `session.data`; {session} and {started} are filled in.",
    )
    rotate: Annotated[Rotate | None, BeforeValidator(_rotate)] = Field(
        default_factory=lambda: Rotate.model_validate("256MB"),
        description="When to begin a new part: a size, a duration, both as a mapping, or `off`.",
    )
    outbox: Outbox = Field(default_factory=Outbox, description="What publishers keep until it is recorded.")

    reserve: Size = Field(
        default=256_000_000, description="With less of the disk free nothing more is stored; publishers keep it."
    )

    def file_for(self, session: str, started: str) -> str:
        """Return the file name for this session name and start (``20260116-112842``)."""
        return self.file.format(session=session, started=started)


def as_record(value: object) -> object:
    if value is False or value == "off":
        return None
    return Record() if value is True or value is None or value == "on" else value
