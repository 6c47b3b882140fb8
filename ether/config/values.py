"""Values that say more than a text or a number: sizes, rates, durations, topics, class paths."""

from __future__ import annotations

import dataclasses
import re
from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, PlainValidator, Strict, WithJsonSchema

from ether import topics
from ether.clock import SECONDS
from ether.clock import seconds as duration
from ether.errors import named, suggest
from ether.jsonpath import Path as JsonPath

__all__ = [
    "DURATION_PATTERN",
    "QUANTITY",
    "SIZE_SCHEMA",
    "Batch",
    "ClassPath",
    "Duration",
    "Filter",
    "Filters",
    "Flag",
    "Name",
    "PathText",
    "PatternText",
    "Rate",
    "RateText",
    "Size",
    "Topic",
    "Unit",
    "Whole",
    "Words",
    "duration",
    "path_of",
    "rate",
    "size",
]

_BYTES = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BYTES |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
QUANTITY = re.compile(rf"\s*({_NUMBER})\s*([^\W\d_]*)\s*\Z")
_RATE = re.compile(rf"\s*({_NUMBER})\s*(k?Hz|mHz|/\s*[a-zµ]+)?\s*(?:(?:±|\+/?-)\s*({_NUMBER})\s*%)?\s*\Z")


def size(value: object) -> int:
    """Return bytes from ``2GB`` (10**9), ``64MiB`` (2**20); a size says its unit.

    Raises:
        ValueError: not a size, or no unit; says what would be.
    """
    found = QUANTITY.match(str(value)) if isinstance(value, str | int | float) else None
    if found is None or isinstance(value, bool):
        raise ValueError(f"a size was wanted (`2GB`, `64MiB`), got {named(value)}")
    number, unit = found.groups()
    if not unit:
        raise ValueError(f"{value} has no unit; did you mean `{number}GB` or `{number}MB`?")
    if unit not in _BYTES:
        raise ValueError(f"`{unit}` is no unit of size{suggest(unit, _BYTES) or '; use kB, MB, GB, KiB, MiB or GiB'}")
    return int(float(number) * _BYTES[unit])


@dataclasses.dataclass(frozen=True, slots=True)
class Rate:
    """How often messages are expected."""

    hz: float
    """Messages per second."""
    tolerance: float = 0.1
    """Part of `hz` that it may be off by, either way; 0.1 where the text names none."""


def rate(value: object) -> Rate:
    """Return the rate from ``10Hz``, ``2/min ±10%``, or a bare number per second.

    Raises:
        ValueError: not a rate; says what would be.
    """
    text = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    found = _RATE.match(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(f"a rate was wanted (`10Hz`, `2/min ±10%`), got {named(value)}")
    number, unit, percent = found.groups()
    if unit is None or unit.endswith("Hz"):
        hz = float(number) * {"k": 1e3, "m": 1e-3}.get((unit or "")[:-2], 1.0)
    else:
        per = unit[1:].strip()
        if per not in SECONDS:
            raise ValueError(f"`{per}` is no unit of time{suggest(per, SECONDS) or '; use s, min, h or d'}")
        hz = float(number) / SECONDS[per]
    if hz <= 0:
        raise ValueError(f"`{value}` is no rate; it must be above 0")
    return Rate(hz, float(percent) / 100) if percent else Rate(hz)


_UNITS_OF_TIME = "|".join(SECONDS)
_DURATION_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "number", "minimum": 0},
        {"type": "string", "pattern": rf"^\s*{_NUMBER}\s*({_UNITS_OF_TIME})?\s*$"},
    ]
}
DURATION_PATTERN = rf"^\s*{_NUMBER}\s*({_UNITS_OF_TIME})\s*$"
SIZE_SCHEMA: dict[str, Any] = {"type": "string", "pattern": rf"^\s*{_NUMBER}\s*({'|'.join(_BYTES)})\s*$"}
_RATE_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "number", "exclusiveMinimum": 0},
        {
            "type": "string",
            "pattern": rf"^\s*{_NUMBER}\s*(k?Hz|mHz|/\s*({_UNITS_OF_TIME}))?\s*((±|\+/?-)\s*{_NUMBER}\s*%)?\s*$",
        },
    ]
}


def _batch(value: object) -> int | float:
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 1:
            raise ValueError(f"{value} readings make no batch; at least 1")
        return value
    if isinstance(value, float):
        raise ValueError(f"{value} has no unit; a count is a whole number, a duration says its unit: `{value}s`")
    return duration(value)


def _unit(value: object) -> str | dict[str, str]:
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and all(isinstance(text, str) for pair in value.items() for text in pair):
        return value
    raise ValueError(f"a unit (`degC`) or a mapping of field to unit was wanted, got {named(value)}")


def _class_path(value: object) -> str:
    if isinstance(value, type):
        return path_of(value)
    if not isinstance(value, str):
        raise ValueError(f"a class was wanted (`package.module.Class`), got {named(value)}")
    parts = value.replace(".<locals>", "").split(".")
    if not all(part.isidentifier() for part in parts):
        raise ValueError(f"{value!r} is no class path; write `package.module.Class`")
    if len(parts) < 2:
        raise ValueError(
            f"{value!r} names no module; write `module.{value}` (`__main__.{value}` in the running script)"
        )
    return value


def path_of(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _one_or_more(value: object) -> object:
    return [value] if isinstance(value, str) else value


Flag: TypeAlias = Annotated[bool, Strict()]
Whole: TypeAlias = Annotated[int, Strict()]
Duration: TypeAlias = Annotated[float, PlainValidator(duration), WithJsonSchema(_DURATION_SCHEMA)]
Size: TypeAlias = Annotated[int, PlainValidator(size), WithJsonSchema(SIZE_SCHEMA)]
RateText: TypeAlias = Annotated[
    Rate, PlainValidator(rate), PlainSerializer(dataclasses.asdict, return_type=dict), WithJsonSchema(_RATE_SCHEMA)
]
Topic: TypeAlias = Annotated[str, AfterValidator(topics.check_topic)]
Filter: TypeAlias = Annotated[str, AfterValidator(topics.check_filter)]
Filters: TypeAlias = Annotated[list[Filter], BeforeValidator(_one_or_more, json_schema_input_type=str | list[str])]
Words: TypeAlias = Annotated[list[str], BeforeValidator(_one_or_more, json_schema_input_type=str | list[str])]
Name: TypeAlias = Annotated[str, AfterValidator(topics.check_name)]
ClassPath: TypeAlias = Annotated[str, PlainValidator(_class_path), WithJsonSchema({"type": "string"})]
Batch: TypeAlias = Annotated[
    int | float,
    PlainValidator(_batch),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, _DURATION_SCHEMA["anyOf"][1]]}),
]
PatternText: TypeAlias = Annotated[str, AfterValidator(lambda text: topics.Pattern.parse(text).text)]
PathText: TypeAlias = Annotated[str, AfterValidator(lambda text: JsonPath.parse(text).text)]
Unit: TypeAlias = Annotated[
    str | dict[str, str],
    PlainValidator(_unit),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "object", "additionalProperties": {"type": "string"}}]}),
]
