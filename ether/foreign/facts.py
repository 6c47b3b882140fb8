"""What a foreign message comes to: readings, states, troubles."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import pydantic_core

from ether import codecs
from ether.errors import PayloadError
from ether.model import Message, State

__all__ = [
    "Alive", "Fact", "Reader", "Taken", "Trouble", "as_type", "content_of", "our_unit", "schema_of", "their_unit",
    "word_of",
]  # fmt: skip

_UNITS = {"°C": "degC", "℃": "degC", "º C": "degC", "Cel": "degC", "°F": "degF", "℉": "degF", "[degF]": "degF"}
_WORDS = {"true": True, "on": True, "yes": True, "1": True, "false": False, "off": False, "no": False, "0": False}


@dataclass(frozen=True, slots=True)
class Taken:
    """A reading."""

    device: str
    """As it calls itself."""
    topic: str
    """Where it goes; ``{dev}`` stands for the device's name among instances."""
    fields: dict[str, Any]
    schema: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Field to ``type``, ``unit`` and ``description``, as far as they are known."""
    time: float | None = None
    """Unix time, seconds; None where the device did not say."""


@dataclass(frozen=True, slots=True)
class Alive:
    """What a device, or another on its behalf, says of its life."""

    device: str
    state: State
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something in a message that is not as it should be; the rest of it stands."""

    what: str


Fact = Taken | Alive | Trouble


class Reader(Protocol):
    """Reads one kind of foreign messages."""

    def filters(self) -> Iterable[str]:
        """Return what to subscribe to; may grow with what was read."""

    def take(self, message: Message, now: float) -> list[Fact] | None:
        """Return what a message comes to; None where it says nothing that is known here.

        Raises:
            PayloadError: it should, and cannot be read.
        """


def content_of(payload: bytes) -> Any:
    """Return what a payload holds: an object, a list, a number, a flag, a text, or bytes; None for nothing.

    Raises:
        PayloadError: it begins like an object or a list, and is none.
    """
    if not payload:
        return None
    if payload.startswith(codecs.CBOR_MAGIC):
        return codecs.decode(payload)[0]
    if payload.lstrip()[:1] in (b"{", b"["):
        try:
            return pydantic_core.from_json(payload)
        except ValueError as exc:
            raise PayloadError(f"no JSON: {exc}") from None
    return codecs.decode(payload)[0]["value"]


def our_unit(unit: str | None) -> str | None:
    """Return a unit as ether writes it: ``degC`` for ``°C``; others stay as they are."""
    return _UNITS.get(unit.strip(), unit.strip()) or None if isinstance(unit, str) else None


def their_unit(unit: str | None) -> str | None:
    """Return a unit as Home Assistant and Homie write it: ``°C`` for ``degC``, ``%`` for ``percent``."""
    return {"degC": "°C", "degF": "°F", "percent": "%", "deg": "°"}.get(unit, unit) if unit else None


def word_of(value: Any) -> str:
    """Return a value as the word that a device would write for it."""
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def schema_of(kind: str | None, unit: str | None = None, description: str = "") -> dict[str, Any]:
    found = {"type": kind, "unit": our_unit(unit), "description": description}
    return {key: value for key, value in found.items() if value}


def as_type(value: Any, kind: str | None, words: Mapping[str, Any] | None = None) -> Any:
    """Return a value as its declared type has it.

    Args:
        value: as the message holds it.
        kind: ``number``, ``integer``, ``boolean``, ``string``; None leaves the value as it is.
        words: the device's own words to values.

    Raises:
        PayloadError: it cannot be taken for that.
    """
    text = word_of(value).strip()
    if words:
        if text not in words:
            raise PayloadError(f"the word {text[:40]!r} is none of {', '.join(words)}")
        return words[text]
    if kind is None or value is None:
        return value
    if isinstance(value, list) and kind != "string":
        return [as_type(each, kind) for each in value]
    with contextlib.suppress(ValueError, OverflowError):
        if kind == "string" and not isinstance(value, (dict, list)):
            return value if isinstance(value, str) else text
        if kind == "boolean" and text.lower() in _WORDS:
            return _WORDS[text.lower()]
        if kind in ("number", "integer") and isinstance(value, (int, float, str)) and not isinstance(value, bool):
            number = float(text)
            if kind == "number":
                return number
            if math.isfinite(number) and number == int(number):
                return int(text) if text.lstrip("+-").isdigit() else int(number)
    raise PayloadError(f"{text[:40]!r} is no {kind}")
