"""Ingest: the rules by which foreign messages become readings, as files write them."""

import zoneinfo
from typing import Literal, Self

from pydantic import Field, model_validator

from ether import topics
from ether.config.section import Section
from ether.config.values import PathText, PatternText, Unit, Words
from ether.errors import suggest

__all__ = ["Availability", "Ingest", "IngestField", "IngestTime", "Profile", "Rule"]

FieldType = Literal["number", "integer", "boolean", "string"]


class IngestField(Section):
    """Where a field's value stands in a foreign message, and what is known of it."""

    path: PathText | None = Field(
        default=None, description="`a.b`, `a['b c'][0]`, `{sensor}.Temperature`; without, the whole message."
    )
    unit: str | None = Field(default=None, description="Unit of the value.")
    unit_path: PathText | None = Field(default=None, description="Where the message itself says the unit.")
    type: FieldType | None = Field(default=None, description="`number`, `integer`, `boolean` or `string`.")
    words: dict[str, bool | int | float | str] = Field(
        default={}, description="Words of the device to values: `{ON: true, OFF: false}`."
    )
    description: str = Field(default="", description="One line for people.")

    @classmethod
    def _short_form(cls, data: object) -> object:
        return {"path": data} if isinstance(data, str) else data


class IngestTime(Section):
    """When a foreign message says that it was measured."""

    path: PathText = Field(description="Where the time stands in the message.")
    format: str = Field(
        default="iso", description="`iso`, `unix` (seconds), `unix_ms`, or as `strptime` has it: `%d.%m.%Y %H:%M:%S`."
    )
    zone: str = Field(default="UTC", description="Of a time that names none: `UTC`, `local`, `Europe/Berlin`.")

    @classmethod
    def _short_form(cls, data: object) -> object:
        return {"path": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.format not in ("iso", "unix", "unix_ms") and "%" not in self.format:
            raise ValueError(
                f"the format {self.format!r} is unknown{suggest(self.format, ('iso', 'unix', 'unix_ms'))}; "
                "write iso, unix, unix_ms, or a pattern such as `%d.%m.%Y %H:%M:%S`"
            )
        if self.zone not in ("UTC", "local"):
            try:
                zoneinfo.ZoneInfo(self.zone)
            except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
                known = (*zoneinfo.available_timezones(), "local")
                raise ValueError(
                    f"no time zone {self.zone!r}{suggest(self.zone, known)}; write UTC, local, or as in `Europe/Berlin`"
                ) from None
        return self


class Availability(Section):
    """How a foreign device says that it is there."""

    topic: PatternText = Field(description="Topic, with the named levels of `match`: `tele/{dev}/LWT`.")
    path: PathText | None = Field(default=None, description="Where the word stands in the message.")
    ready: Words = Field(default=["online", "Online", "true", "ready"], description="Word, or words, for `ready`.")
    lost: Words = Field(default=["offline", "Offline", "false", "lost"], description="Word, or words, for `lost`.")
    sleeping: Words = Field(default=["sleeping"], description="Word, or words, for `sleeping`.")

    @classmethod
    def _short_form(cls, data: object) -> object:
        return {"topic": data} if isinstance(data, str) else data


class _RuleKeys(Section):
    device: str | None = Field(
        default=None, description="Name of the device, or a template of it; default `{dev}`, a level of `match`."
    )
    topic: str | None = Field(
        default=None,
        description="Where its readings go, a template of named levels; default `{dev}` and what follows it.",
    )
    format: Literal["auto", "senml"] = Field(
        default="auto", description="`auto` (JSON, a number, a word) or `senml` (RFC 8428)."
    )
    fields: dict[str, IngestField] = Field(
        default={}, description="Field to where its value stands; without, all that the message holds."
    )
    unit: Unit | None = Field(default=None, description="Without `fields`: unit of the value, or field to unit.")
    time: IngestTime | None = Field(default=None, description="When it was measured; default: when it came.")
    availability: Availability | None = Field(default=None, description="How the device says that it is there.")


class Rule(_RuleKeys):
    """One kind of foreign message, and what it becomes."""

    match: PatternText = Field(description="Topic with named levels: `tele/{dev}/SENSOR`.")

    @property
    def goes_to(self) -> str:
        """Template of the topic of its readings: by default the device, and what stands behind it in `match`."""
        if self.topic is not None:
            return self.topic
        given = topics.levels(self.match)
        at = next((place for place, level in enumerate(given) if "{dev}" in level), len(given) - 2)
        return "/".join(["{dev}", *(level for level in given[at + 1 :] if not topics.is_filter(level))])


class Profile(Section):
    """A file of `hardware/profiles`: what a kind of foreign device says."""

    description: str = Field(default="", description="One line for people.")
    base: str = Field(default="", description="What `{base}` stands for in the patterns, unless `ingest` says it.")
    reader: Literal["homeassistant", "homie4", "homie5", "zigbee2mqtt"] | None = Field(
        default=None, description="Devices that describe themselves: who reads that."
    )
    only: list[str] = Field(default=[], description="Devices to take, as `shelly*`; default all.")
    rules: list[Rule] = Field(default=[], description="What their messages become.")


class Ingest(_RuleKeys):
    """Foreign devices: a ready profile, or one rule."""

    profile: str | None = Field(default=None, description="A ready profile (`tasmota`), or the path of a file.")
    base: str | None = Field(default=None, description="With `profile`: the root of its topics, where it is another.")
    only: Words = Field(default=[], description="Devices to take, as `lab_*`; default all.")
    ignore: Words = Field(default=[], description="Devices not to take.")
    prefix: str = Field(default="", description="Put before the topics of the readings: `lab`.")
    match: PatternText | None = Field(default=None, description="Topic with named levels: `tele/{dev}/SENSOR`.")

    @classmethod
    def _short_form(cls, data: object) -> object:
        return {"profile": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        of_rule = sorted(self.model_fields_set & set(_RuleKeys.model_fields))
        if self.profile is None and self.match is None:
            raise ValueError("name a `profile` (such as tasmota), or a `match` (such as `tele/{dev}/SENSOR`)")
        if self.profile is not None and (self.match is not None or of_rule):
            raise ValueError(f"`profile` has rules of its own; drop it, or `{'`, `'.join(of_rule or ['match'])}`")
        if self.profile is None and self.base is not None:
            raise ValueError("`base` is for a `profile`; write the whole topic in `match`")
        return self
