"""The line protocol of boards without a network: what a line says, and how one is written (hardware/serial/README.md).

Bytes in, bytes out; no port, no broker.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ether import topics
from ether.errors import PayloadError

__all__ = ["LONGEST", "NO_TEXT", "WORD", "Description", "Line", "Lines", "read_line", "write_line"]

LONGEST = 4096
"""Bytes of a line; longer ones are skipped to their end."""
NO_TEXT = "no text"
"""Why a line was rejected; at a wrong baud rate, all of them are."""
WORD = "ether"
"""Begins a line that is no reading: the description from the board, orders to it."""
_NAME = r"[A-Za-z][A-Za-z0-9_-]*(?:/[A-Za-z0-9_-]+)*"
_READING = re.compile(rf"(?:({_NAME}) +)?(\S.*)\Z")
_CHANNEL = re.compile(rf"{_NAME}\Z")
_SENT = re.compile(r"[!-~]*(?: [!-~]+)?\Z")
_CHECKSUM = re.compile(rb"\*([0-9A-Fa-f]{2})\Z")
_WORDS: dict[str, Any] = {
    # As C and Arduino print what is no number, and MicroPython what is true.
    **dict.fromkeys(("nan", "NaN", "NAN", "-nan", "inf", "INF", "-inf", "-INF", "ovf", "-ovf", "None"), math.nan),
    "True": True,
    "False": False,
}


@dataclass(frozen=True, slots=True)
class Description:
    """What a board says of itself: as `ether/about/<name>`, with channels for topics."""

    publishes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    subscribes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    boot: str = ""
    class_name: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """What one line says: a reading, unless it has a description or a remark."""

    channel: str = ""
    """Empty for a value alone, which is the board's own."""
    value: Any = None
    description: Description | None = None
    remark: str | None = None
    checked: bool = False
    """It ended with its checksum."""

    @property
    def whole(self) -> bool:
        """Whether it cannot be the rest of a line whose begin was missed."""
        return self.checked or self.description is not None or (not self.channel and isinstance(self.value, dict))


def read_line(line: bytes) -> Line | None:
    """Return what a line says, without its end; None for an empty one.

    Raises:
        PayloadError: it says nothing; why.
    """
    line = line.strip(b"\0 \t\r\n")  # UARTs send a zero byte or two as they are switched on
    if not line:
        return None
    checked = _CHECKSUM.search(line)
    if checked is not None:
        line = line[: checked.start()]
        if _sum(line) != int(checked[1], 16):
            raise PayloadError(f"the checksum is {checked[1].decode()}, and should be {_sum(line):02x}")
    try:
        text = line.decode().replace("\t", " ")
    except UnicodeDecodeError:
        raise PayloadError(NO_TEXT) from None
    if not text.isprintable():
        raise PayloadError(NO_TEXT)
    if text.startswith("#"):
        return Line(remark=text[1:].strip(), checked=checked is not None)
    found = _READING.match(text)
    assert found is not None  # there is no empty text, and no line end in a printable one
    channel, said = found[1] or "", found[2]
    if channel == WORD:
        return Line(description=_description(_value(said)), checked=checked is not None)
    if topics.is_reserved(channel):
        raise PayloadError(f"{channel}: `{WORD}/` is reserved")
    return Line(channel, _value(said), checked=checked is not None)


def write_line(channel: str, value: Any, checked: bool) -> bytes:
    """Return the line that says a value to a board; PayloadError where no line can.

    Args:
        channel: or `WORD` and a verb.
        value: NaN travels as null; `...` for none.
        checked: with a checksum.
    """
    if not _SENT.match(channel):
        raise PayloadError(f"{channel!r} does not fit into a line: ASCII without spaces does")
    try:
        text = channel if value is ... else f"{channel} {json.dumps(_finite(value), separators=(',', ':'))}"
    except (TypeError, ValueError) as exc:
        raise PayloadError(f"{channel}: a {type(value).__name__} cannot go to a board: {exc}") from exc
    line = text.encode()
    return line + (b"*%02x\n" % _sum(line) if checked else b"\n")


class Lines:
    """Puts lines together from what a port gives."""

    def __init__(self) -> None:
        self._rest = b""
        self._skipping = False

    def take(self, piece: bytes) -> tuple[list[bytes], int]:
        """Return the lines that a piece completes, and how many began that are too long."""
        *lines, rest = (self._rest + piece).split(b"\n")
        if lines and self._skipping:
            del lines[0]  # the end of one that is counted already
            self._skipping = False
        too_long = sum(len(line) > LONGEST for line in lines)
        if len(rest) > LONGEST:
            too_long, rest = too_long + (not self._skipping), b""
            self._skipping = True
        self._rest = b"" if self._skipping else rest
        return [line for line in lines if len(line) <= LONGEST], too_long


def _sum(line: bytes) -> int:
    found = 0
    for byte in line:
        found ^= byte
    return found


def _value(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    try:
        value = json.loads(text, parse_constant=lambda _: math.nan)
    except (ValueError, RecursionError):
        raise PayloadError(f'{text[:40]!r} is no JSON value: a number, true, "text", [1, 2] or an object') from None
    if isinstance(value, dict) and any(name.startswith("_") for name in value):
        raise PayloadError("a field whose name begins with _ is ether's own")
    return value


def _description(content: Any) -> Description:
    if not isinstance(content, dict):
        raise PayloadError("a description is an object")
    kinds = {}
    for kind in ("publishes", "subscribes"):
        entries = kinds[kind] = content.get(kind, {})
        if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
            raise PayloadError(f"description: {kind}: an object with an object for each channel")
        for channel, entry in entries.items():
            if channel and (topics.is_reserved(channel) or not _CHANNEL.match(channel)):
                raise PayloadError(f"description: {kind}: {channel[:40]!r} cannot name a channel")
            fields = entry.get("fields", {})
            if not isinstance(fields, dict) or not all(isinstance(each, dict) for each in fields.values()):
                raise PayloadError(f"description: {channel}: fields: an object with an object for each field")
    facts = {key: content.get(key, "") for key in ("boot", "class", "version")}
    return Description(**kinds, boot=str(facts["boot"]), class_name=str(facts["class"]), version=str(facts["version"]))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if hasattr(value, "tolist"):  # a NumPy array or scalar
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
