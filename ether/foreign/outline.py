"""Outline: what a component has to show, and what of it can be set, as other conventions want to know it.

Only single values: numbers, flags, texts. Arrays and bytes have no place on those dashboards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ether import topics
from ether.jsonpath import leaves
from ether.model import About

__all__ = ["Kind", "Outline", "Shown", "kinds_in", "outline"]

Kind = Literal["number", "integer", "boolean", "string"]
_KINDS: dict[str, Kind] = {"number": "number", "integer": "integer", "boolean": "boolean", "string": "string"}
_MOST = 200
"""So many values of one topic are shown."""
_DEEP = 5


@dataclass(frozen=True, slots=True)
class Shown:
    """One value of a component."""

    topic: str
    """Data topic; empty for a parameter, which stands in the description."""
    keys: tuple[str, ...]
    """Where it stands in the message, from outside in; of a parameter, its name."""
    kind: Kind
    unit: str = ""
    description: str = ""
    least: float | None = None
    most: float | None = None
    words: tuple[str, ...] = ()
    """Those that a text can be, where it cannot be others."""
    told: bool = True
    """Whether it is published; otherwise it can only be set."""
    settable: bool = False

    @property
    def name(self) -> str:
        """For people: the field, or the topic where that is all there is to it."""
        field = ".".join(self.keys)
        return field if not self.topic else self.topic if field == "value" else f"{self.topic} {field}"


@dataclass(frozen=True, slots=True)
class Outline:
    """One component."""

    name: str
    class_name: str
    shown: tuple[Shown, ...]
    unknown: frozenset[str] = field(default_factory=frozenset)
    """Topics of which the description does not say what they hold."""


def outline(
    about: About, learned: Mapping[str, Mapping[tuple[str, ...], Kind]], published: Iterable[str], commands: bool = True
) -> Outline:
    """Return what a component has to show.

    Args:
        about: its description.
        learned: by topic, what messages were seen to hold beyond that.
        published: topics of all components: who sets one of those would forge readings, unless it is its own.
        commands: whether to tell what can be set.
    """
    shown: dict[tuple[str, tuple[str, ...]], Shown] = {}
    unknown = set()
    for topic, entry in sorted(about.publishes.items()):
        fields = entry.get("fields") if isinstance(entry, dict) else None
        fields = fields if isinstance(fields, dict) else {}
        said = {each.keys: each for each in _values(topic, (), fields)}
        for keys, kind in learned.get(topic, {}).items():
            said[keys] = replace(said[keys], kind=kind) if keys in said else Shown(topic, keys, kind)
        if topic not in learned and not (fields and all(map(_typed, fields.values()))):
            unknown.add(topic)
        shown |= {(topic, keys): each for keys, each in list(said.items())[:_MOST]}
    if commands:
        for each in _commands(about, frozenset(published)):
            before = shown.get((each.topic, each.keys))
            shown[each.topic, each.keys] = each if before is None else replace(before, settable=True)
    return Outline(about.name, about.class_name, tuple(shown.values()), frozenset(unknown))


def _kind_of(value: Any) -> Kind | None:
    if isinstance(value, bool):
        return "boolean"
    return "number" if isinstance(value, (int, float)) else "string" if isinstance(value, str) else None


def kinds_in(fields: Mapping[str, Any]) -> dict[tuple[str, ...], Kind]:
    """Return what a message was seen to hold."""
    found = {keys: kind for keys, value in leaves(dict(fields)) if (kind := _kind_of(value)) is not None}
    return dict(list(found.items())[:_MOST])


def _typed(schema: Any) -> bool:
    return isinstance(schema, dict) and bool({"type", "anyOf", "oneOf", "enum", "const", "$ref"} & schema.keys())


def _values(topic: str, above: tuple[str, ...], fields: Mapping[str, Any]) -> Iterator[Shown]:
    for name, schema in fields.items():
        if not isinstance(schema, dict):
            continue
        keys = (*above, *(name.split(".") if not above else [name]))
        inner = schema.get("properties")
        if isinstance(inner, dict) and len(keys) < _DEEP:
            yield from _values(topic, keys, inner)
        elif (found := _read(topic, keys, schema)) is not None:
            yield found


def _read(topic: str, keys: tuple[str, ...], schema: Mapping[str, Any]) -> Shown | None:
    """Return a value as its JSON Schema has it; a number where that says nothing but a unit."""
    choices = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    kinds = [each for each in choices if isinstance(each, dict) and each.get("type") != "null"]
    if len(kinds) == 1:
        schema = {**schema, **kinds[0]}
    words = schema.get("enum")
    words = tuple(words) if isinstance(words, list) and all(isinstance(word, str) for word in words) else ()
    given = schema.get("type")
    kind = _KINDS.get(given) if isinstance(given, str) else None
    if kind is None:
        if given is not None or kinds or not (words or schema.get("unit")):
            return None
        kind = "string" if words else "number"
    span = schema.get("range")
    least, most = span if isinstance(span, list) and len(span) == 2 else (schema.get("minimum"), schema.get("maximum"))
    return Shown(
        topic, keys, kind, str(schema.get("unit") or ""), str(schema.get("description") or ""),
        least if isinstance(least, (int, float)) else None, most if isinstance(most, (int, float)) else None, words,
    )  # fmt: skip


def _commands(about: About, published: frozenset[str]) -> Iterator[Shown]:
    """Yield the parameters, and the topics that take one value."""
    for name, schema in sorted(about.params.items()):
        found = _read("", (name,), schema) if isinstance(schema, dict) else None
        if found is not None:
            yield replace(found, settable=not schema.get("readonly"))
    for topic, entry in sorted(about.subscribes.items()):
        fields = entry.get("fields") if isinstance(entry, dict) else None
        others = topic in published and topic not in about.publishes
        if topics.is_filter(topic) or others or not isinstance(fields, dict) or len(fields) != 1:
            continue
        for found in _values(topic, (), fields):
            if len(found.keys) == 1:
                yield replace(found, told=topic in about.publishes, settable=True)
