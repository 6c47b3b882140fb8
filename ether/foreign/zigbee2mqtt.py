"""Zigbee2MQTT: ``bridge/devices`` tells what each device exposes, with units."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ether import topics
from ether.errors import PayloadError
from ether.foreign.facts import Alive, Fact, Taken, Trouble, as_type, content_of, schema_of, word_of
from ether.model import Message, State

__all__ = ["Zigbee2Mqtt"]

_KINDS = {"numeric": "number", "binary": "boolean", "enum": "string", "text": "string"}
_PUBLISHED = 1
"""Bit of ``access``: the value is in the device's messages."""
_STATES = {"online": State.READY, "offline": State.LOST}


@dataclass(frozen=True, slots=True)
class _Exposed:
    """One value of a device."""

    keys: tuple[str, ...]
    """Where it stands in the message."""
    kind: str
    words: dict[str, Any] | None
    schema: dict[str, Any]


class Zigbee2Mqtt:
    """Reads what Zigbee2MQTT publishes below its base topic."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._devices: dict[str, list[_Exposed]] = {}
        self._states: dict[str, State] = {}
        """What was said of each device's availability; of those not yet known, too: the order of replays is free."""

    def filters(self) -> Iterable[str]:
        return [f"{self._base}/#"]

    def take(self, message: Message, now: float) -> list[Fact] | None:
        if not message.topic.startswith(f"{self._base}/"):
            return None
        rest = message.topic[len(self._base) + 1 :]
        if rest == "bridge/devices":
            return self._describe(content_of(message.payload))
        if rest == "bridge/state":
            return self._bridge(_word(message))
        if rest.startswith("bridge/"):
            return []
        if rest.endswith("/availability"):
            return self._lives(rest.removesuffix("/availability"), message)
        if rest in self._devices:
            return list(self._values(rest, message))
        return [] if {"set", "get"} & set(topics.levels(rest)[1:]) else None

    def _describe(self, content: Any) -> list[Fact]:
        if not isinstance(content, list):
            raise PayloadError("bridge/devices is a list")
        before, self._devices = set(self._devices), {}
        for each in content:
            if isinstance(each, dict) and isinstance(name := each.get("friendly_name"), str):
                definition = each.get("definition")
                exposes = definition.get("exposes") if isinstance(definition, dict) else None
                if isinstance(exposes, list) and each.get("type") != "Coordinator":
                    self._devices[name] = list(_flat(exposes, ()))
        found: list[Fact] = [_alive(name, self._states[name]) for name in self._devices if name in self._states]
        gone = sorted(before - set(self._devices))
        return [*found, *(Alive(name, State.DISCONNECTED, "it was removed or renamed") for name in gone)]

    def _bridge(self, word: str) -> list[Fact]:
        if word not in _STATES:
            raise PayloadError(f"the state {word[:40]!r} is neither online nor offline")
        if word == "offline":
            return [Alive(name, State.LOST, "zigbee2mqtt is offline") for name in self._devices]
        return [_alive(name, self._states.get(name, State.READY)) for name in self._devices]

    def _lives(self, name: str, message: Message) -> list[Fact]:
        if not message.payload:
            return []
        word = _word(message)
        if word not in _STATES:
            raise PayloadError(f"the availability {word[:40]!r} is neither online nor offline")
        self._states[name] = _STATES[word]
        return [_alive(name, _STATES[word])] if name in self._devices else []

    def _values(self, name: str, message: Message) -> Iterator[Fact]:
        content = content_of(message.payload)
        if content is None:
            return
        if not isinstance(content, dict):
            raise PayloadError("an object was wanted; set `output: json` in zigbee2mqtt")
        fields: dict[str, Any] = {}
        schema: dict[str, dict[str, Any]] = {}
        for each in self._devices[name]:
            value: Any = content
            for key in each.keys:
                value = value.get(key) if isinstance(value, dict) else None
            if value is None:
                continue
            field = "_".join(each.keys)
            try:
                fields[field], schema[field] = as_type(value, each.kind, each.words), each.schema
            except PayloadError as exc:
                yield Trouble(f"field {field}: {exc}")
        if fields:
            yield Taken(name, "{dev}", fields, schema, _seen(content.get("last_seen")))


def _alive(name: str, state: State) -> Alive:
    return Alive(name, state, "" if state is State.READY else "zigbee2mqtt says offline")


def _word(message: Message) -> str:
    content = content_of(message.payload)
    return str(content.get("state")) if isinstance(content, dict) else str(content)


def _flat(exposes: list[Any], above: tuple[str, ...]) -> Iterator[_Exposed]:
    """Yield the values that a list of ``exposes`` tells of."""
    for each in exposes:
        if not isinstance(each, dict):
            continue
        inner, key = each.get("features"), each.get("property")
        if isinstance(inner, list):  # a switch, a light: several values; a composite: an object of them
            composite = each.get("type") == "composite" and isinstance(key, str)
            yield from _flat(inner, (*above, str(key)) if composite else above)
            continue
        access, kind = each.get("access", _PUBLISHED), _KINDS.get(str(each.get("type")))
        if kind is None or not isinstance(key, str) or not (isinstance(access, int) and access & _PUBLISHED):
            continue
        words = None
        if kind == "boolean":
            words = {word_of(each.get("value_on", True)): True, word_of(each.get("value_off", False)): False}
        unit, said = each.get("unit"), each.get("description")
        schema = schema_of(kind, unit if isinstance(unit, str) else None, said if isinstance(said, str) else "")
        yield _Exposed((*above, key), kind, words, schema)


def _seen(value: Any) -> float | None:
    """Return when the device was heard, where zigbee2mqtt is set to say it (``last_seen``)."""
    try:
        if isinstance(value, str):
            return datetime.fromisoformat(value).timestamp()
        return value / 1e3 if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    except ValueError:
        return None
