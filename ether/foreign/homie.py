"""Homie, versions 4 and 5: devices of nodes of properties. Each property is a topic of its own."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Container, Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from ether import topics
from ether.errors import PayloadError
from ether.foreign.facts import Alive, Fact, Taken, as_type, content_of, schema_of, their_unit
from ether.foreign.outline import Outline, Shown
from ether.model import Message, State

__all__ = ["TYPE", "Device", "Homie4", "Homie5", "device", "identity", "root", "text_of"]

TYPE = "ether"
"""Type of the devices of our own, which are not taken in."""
_STATES = ("init", "ready", "disconnected", "sleeping", "lost", "alert")
_KINDS = {"integer": "integer", "float": "number", "percent": "number", "boolean": "boolean"}
"""Homie's datatypes to ours; all others are texts."""


class Homie4:
    """Reads Homie 3 and 4: an attribute is a topic that begins with ``$``."""

    def __init__(self, domain: str) -> None:
        self._domain = domain
        self._attributes: dict[str, dict[str, str]] = defaultdict(dict)
        """By device, node and property: ``$datatype`` and so on."""

    def filters(self) -> Iterable[str]:
        return [f"{self._domain}/#"]

    def take(self, message: Message, now: float) -> list[Fact] | None:
        levels = _below(self._domain, message.topic)
        if levels is None or levels[0] == "5" or levels[0][:1] == "$" or len(levels) < 2:
            return None
        device, last = levels[0], levels[-1]
        if levels[1:] == ["$state"]:
            return [*_alive(device, message)]
        if any(level[:1] == "$" for level in levels):
            if len(levels) == 4 and last in ("$datatype", "$unit", "$name"):
                self._attributes["/".join(levels[:3])][last] = _text(message.payload)
            return []
        if len(levels) != 3:
            return [] if last == "set" else None
        known = self._attributes.get("/".join(levels), {})
        given = {"datatype": known.get("$datatype"), "unit": known.get("$unit"), "name": known.get("$name")}
        return _value(device, levels[1], last, message, given)


class Homie5:
    """Reads Homie 5: one document describes a device."""

    def __init__(self, domain: str) -> None:
        self._domain = domain
        self._properties: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
        """By device: node and property to what is known of it."""
        self._roots: dict[str, str] = {}
        self._states: dict[str, State] = {}
        """What each device said last of itself."""

    def filters(self) -> Iterable[str]:
        return [f"{self._domain}/5/#"]

    def take(self, message: Message, now: float) -> list[Fact] | None:
        levels = _below(f"{self._domain}/5", message.topic)
        if levels is None or len(levels) < 2 or levels[0][:1] == "$":
            return None
        device, *rest = levels
        if rest == ["$description"]:
            return self._describe(device, message)
        if rest == ["$state"]:
            return self._state(device, message)
        if len(rest) != 2 or rest[0][:1] == "$":
            return []  # a command, a target, a log
        known = self._properties.get(device, {}).get((rest[0], rest[1]))
        return None if known is None else _value(device, rest[0], rest[1], message, known)

    def _describe(self, device: str, message: Message) -> list[Fact]:
        known = self._properties.pop(device, None)
        self._roots.pop(device, None)
        content = content_of(message.payload)
        if content is None:
            return [] if known is None else [Alive(device, State.DISCONNECTED, "it was removed")]
        if not isinstance(content, dict) or not isinstance(nodes := content.get("nodes", {}), dict):
            raise PayloadError("a Homie description is an object with `nodes`")
        if content.get("type") == TYPE:
            return []
        self._properties[device] = {
            (str(node), str(name)): given
            for node, each in nodes.items() if isinstance(each, dict)
            for name, given in (each.get("properties") or {}).items() if isinstance(given, dict)
        }  # fmt: skip
        if isinstance(root := content.get("root"), str):
            self._roots[device] = root
        state = self._states.get(device)
        return [Alive(device, state)] if state is not None else []

    def _state(self, device: str, message: Message) -> list[Fact]:
        """Return what becomes of a device, and of its children: lost with their root, as they said when it is back."""
        found = _alive(device, message)
        state = self._states[device] = found[0].state
        gone = state in (State.LOST, State.DISCONNECTED)
        for child in [name for name, root in self._roots.items() if root == device]:
            own = self._states.get(child, State.INIT)
            found.append(Alive(child, State.LOST, f"its root {device} is {state}") if gone else Alive(child, own))
        return [each for each in found if each.device in self._properties]


def _below(domain: str, topic: str) -> list[str] | None:
    """Return the levels below a domain; None for a topic elsewhere."""
    return topics.levels(topic[len(domain) + 1 :]) if topic.startswith(f"{domain}/") else None


def _text(payload: bytes) -> str:
    try:
        return "" if payload == b"\0" else payload.decode()  # version 5 writes an empty text so
    except UnicodeDecodeError:
        raise PayloadError("no UTF-8") from None


def _alive(device: str, message: Message) -> list[Alive]:
    if not message.payload:
        return [Alive(device, State.DISCONNECTED, "it was removed")]
    word = _text(message.payload)
    if word not in _STATES:
        raise PayloadError(f"the state {word[:40]!r} is none of {', '.join(_STATES)}")
    state = State(word)
    return [Alive(device, state, "" if state is State.READY else f"{message.topic} says {word}")]


def _value(device: str, node: str, name: str, message: Message, given: dict[str, Any]) -> list[Fact]:
    if not message.payload:
        return []  # cleared
    kind = _KINDS.get(str(given.get("datatype")), "string")
    said = given.get("name")
    unit = given.get("unit")
    schema = schema_of(
        kind, unit if isinstance(unit, str) else None, said if isinstance(said, str) and said != name else ""
    )
    value = as_type(_text(message.payload), kind)
    return [Taken(device, f"{{dev}}/{topics.slug(node)}/{topics.slug(name)}", {"value": value}, {"value": schema})]


# --- the other way: our own components as Homie 5

_UNFIT = re.compile(r"[^a-z0-9]+")
_DATATYPES = {"number": "float", "integer": "integer", "boolean": "boolean", "string": "string"}


@dataclass(frozen=True, slots=True)
class Device:
    """A component as a Homie device."""

    description: dict[str, Any]
    """Without its version."""
    places: dict[tuple[str, str], Shown]
    """Node and property to the value of the component."""


def identity(name: str, taken: Container[str] = ()) -> str:
    """Return a Homie id: letters, digits and hyphens; what is `taken` is told apart by a checksum."""
    found = _UNFIT.sub("-", name.lower()).strip("-") or "x"
    return f"{found}-{sha256(name.encode()).hexdigest()[:4]}" if found in taken else found


def device(outlined: Outline, root: str) -> Device:
    """Return a component as a child of the session's root device."""
    nodes: dict[str, dict[str, Any]] = {}
    places: dict[tuple[str, str], Shown] = {}
    known: dict[str, str] = {}
    for each in outlined.shown:
        node = known.get(each.topic)
        if node is None:
            node = known[each.topic] = identity(each.topic or "params", nodes)
            nodes[node] = {"name": each.topic or "parameters", "properties": {}}
        name = identity(".".join(each.keys), nodes[node]["properties"])
        nodes[node]["properties"][name] = _property(each)
        places[node, name] = each
    description = {
        "homie": "5.0", "name": outlined.name, "type": TYPE, "root": root, "parent": root, "nodes": nodes,
    }  # fmt: skip
    return Device(description, places)


def root(name: str, children: Iterable[str]) -> dict[str, Any]:
    """Return the description of the session's root device, without its version."""
    return {"homie": "5.0", "name": name, "type": TYPE, "children": sorted(children)}


def _property(each: Shown) -> dict[str, Any]:
    found: dict[str, Any] = {"name": each.description or ".".join(each.keys), "datatype": _DATATYPES[each.kind]}
    if each.words:
        found |= {"datatype": "enum", "format": ",".join(word.replace(",", ",,") for word in each.words)}
    elif each.least is not None or each.most is not None:
        found["format"] = f"{'' if each.least is None else each.least}:{'' if each.most is None else each.most}"
    if unit := their_unit(each.unit):
        found["unit"] = unit
    return found | ({"settable": True} if each.settable else {})


def text_of(value: Any, kind: str) -> bytes | None:
    """Return a value as Homie writes it; None for none that it could write."""
    try:
        found = as_type(value, kind)
    except PayloadError:
        return None
    if found is None or (isinstance(found, float) and not math.isfinite(found)):
        return None
    if isinstance(found, bool):
        return b"true" if found else b"false"
    return str(found).encode() or b"\0"
