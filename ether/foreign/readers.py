"""Which reader reads what an entry of `ingest:` names."""

from __future__ import annotations

from collections.abc import Callable

from ether.config import Source
from ether.foreign.facts import Reader
from ether.foreign.homeassistant import HomeAssistant
from ether.foreign.homie import Homie4, Homie5
from ether.foreign.rules import Rules
from ether.foreign.zigbee2mqtt import Zigbee2Mqtt

__all__ = ["reader_of"]

_READERS: dict[str, Callable[[str], Reader]] = {
    "homeassistant": HomeAssistant, "homie4": Homie4, "homie5": Homie5, "zigbee2mqtt": Zigbee2Mqtt,
}  # fmt: skip


def reader_of(source: Source) -> Reader:
    """Return a reader for an entry of `ingest:`."""
    return Rules(source.rules) if source.reader is None else _READERS[source.reader](source.base)
