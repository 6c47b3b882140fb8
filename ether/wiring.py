"""Wiring: who publishes what to whom, as classes or descriptions declare it, and what of that cannot work."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

from pydantic import ValidationError

from ether import topics
from ether.component import Component, Method, load_class, registry_marks
from ether.config import Config
from ether.errors import FieldError
from ether.expect import other_units
from ether.model import About

__all__ = ["Edge", "Finding", "Node", "Wiring", "stop_order"]

Level = Literal["error", "warning", "note"]
_RECORDER = "recorder"


@dataclass(frozen=True, slots=True)
class Node:
    """One instance, and the topics it declares."""

    name: str
    class_name: str
    publishes: tuple[str, ...]
    subscribes: tuple[str, ...]
    """Topic filters."""
    component: Component | None = None
    """What its class declares; None where only its description is known."""
    key: str = ""
    """Of the instance in the configuration; several replicas share it."""
    state: str = ""
    """Of a running one."""


@dataclass(frozen=True, slots=True)
class Edge:
    """One topic from one instance to another; empty names where nobody is at that end."""

    giver: str
    taker: str
    topic: str
    """Or the filter that nobody's topic matches."""
    level: Level | None = None
    """What is wrong with it, if anything."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """What cannot work, or may not be meant."""

    level: Level
    what: str
    path: tuple[str, ...] = ()
    """Place in the configuration."""


@dataclass(slots=True)
class Wiring:
    """The instances of a session and the topics between them."""

    nodes: list[Node]
    recorded: list[str] = field(default_factory=list)
    """Filters of what a recorder hears."""
    excluded: list[str] = field(default_factory=list)

    @classmethod
    def of_config(cls, config: Config) -> Wiring:
        """Return what the classes of a configuration declare, which `component.check` has found sound."""
        nodes = []
        for name, (key, instance) in config.named().items():
            entry = config.registry.get(instance.class_path)
            target = config.classes.get(instance.class_path) or load_class(instance.class_path)
            component = Component.of(target, registry_marks(entry.methods if entry else {}))
            given, taken = tuple(component.publishes()), tuple(component.subscribes())
            nodes.append(Node(name, instance.class_path, given, taken, component, key))
        record = config.record
        return cls(nodes, record.topics if record else [], record.exclude if record else [])

    @classmethod
    def of_abouts(cls, abouts: Mapping[str, About], states: Mapping[str, str]) -> Wiring:
        """Return what running instances say of themselves; `states` tells how each is."""
        nodes, recorded, excluded = [], [], []
        for name, about in sorted(abouts.items()):
            filters = [each for each, entry in about.subscribes.items() if entry.get("records")]
            if filters:
                recorded, excluded = filters, list(about.kwargs.get("exclude") or [])
            elif name != "session":
                given, taken = tuple(about.publishes), tuple(about.subscribes)
                nodes.append(Node(name, about.class_name, given, taken, state=states.get(name, "")))
        return cls(nodes, recorded, excluded)

    def is_recorded(self, topic: str) -> bool:
        return topics.matches_any(self.recorded, topic) and not topics.matches_any(self.excluded, topic)

    def edges(self) -> list[Edge]:
        """Return every topic of every pair; what is only recorded goes to ``recorder``."""
        found = []
        for giver in self.nodes:
            for topic in giver.publishes:
                takers = [node for node in self.nodes if topics.matches_any(node.subscribes, topic)]
                found += [Edge(giver.name, taker.name, topic, *_fit(giver, taker, topic)) for taker in takers]
                if not takers:
                    recorded = self.is_recorded(topic)
                    found.append(
                        Edge(giver.name, _RECORDER if recorded else "", topic, None if recorded else "warning")
                    )
        for taker in self.nodes:
            for each in taker.subscribes:
                if not self._givers(each):
                    found.append(Edge("", taker.name, each, "warning"))
        return found

    def _givers(self, topic_filter: str) -> list[Node]:
        return [node for node in self.nodes if any(topics.matches(topic_filter, each) for each in node.publishes)]

    def findings(self, config: Config) -> list[Finding]:
        """Return what is wrong with the wiring of a configuration, or may not be meant."""
        one_each = list({node.key: node for node in reversed(self.nodes)}.values())[::-1]
        given = list(dict.fromkeys(topic for node in one_each for topic in node.publishes))
        taken = list(dict.fromkeys(each for node in one_each for each in node.subscribes))
        foreign = [each for source in config.sources for each in source.goes_to()]
        found: list[Finding] = []
        for node in one_each:
            at = ("instances", node.key)
            for topic in node.publishes:
                for taker in one_each:
                    level, detail = _fit(node, taker, topic)
                    if level is not None:
                        found.append(Finding(level, f"{topic} from {node.key}: {detail}", ("instances", taker.key)))
                if not topics.matches_any(taken, topic) and not self.is_recorded(topic):
                    hint = _near(topic, taken)
                    found.append(Finding("warning", f"nobody hears {topic}, and it is not recorded{hint}", at))
            for each in node.subscribes:
                if not self._givers(each) and not any(topics.overlap(each, other) for other in foreign):
                    found.append(
                        Finding("warning", f"hears {each}, which no instance publishes{_near(each, given)}", at)
                    )
        for topic in config.expect:
            devices = any(topics.overlap(topic, each) for each in foreign)
            found += [
                Finding("warning", what, ("expect", topic)) for what in self._unmet(config, topic, given, devices)
            ]
        only = [topic for topic in given if not topics.matches_any(taken, topic) and self.is_recorded(topic)]
        if only:
            found.append(Finding("note", f"heard by the recorder only: {', '.join(only)}"))
        return found

    def _unmet(self, config: Config, topic: str, given: Collection[str], devices: bool) -> Iterator[str]:
        """Yield what of an expectation the instances do not promise; `devices`: foreign ones may publish it."""
        expected, by_name = config.expect[topic], {node.name: node for node in self.nodes}
        source = expected.from_
        givers = [node for node in self._givers(topic) if source in (None, node.name)]
        if source is not None and source in by_name and not givers:
            yield f"{source} does not publish it{_near(topic, by_name[source].publishes)}"
        elif source is not None and source not in by_name and not devices:
            yield f"no instance is called {source}{_near(source, by_name)}"
        elif not givers and not devices:
            yield f"no instance publishes it{_near(topic, given)}"
        for node in givers:
            declared = node.component.publishes() if node.component is not None else {}
            for each in (each for each in declared if topics.matches(topic, each)):
                yield from (f"{node.name}: {what}" for what in other_units(expected.unit, declared[each]["fields"]))


def stop_order(names: Collection[str], abouts: Mapping[str, About], first: str, last: str) -> list[list[str]]:
    """Return the names in groups: a group publishes to later groups only (within a cycle, together).

    Args:
        names: of instances.
        abouts: what they say of themselves.
        first: what it takes in may be for anybody.
        last: it announces to the last.
    """
    feeds: dict[str, set[str]] = {name: set() for name in names}
    for name in names:
        if name != first and first in names:
            feeds[name].add(first)
    if last in names:
        feeds[last] |= {name for name in names if name != last}
    for giver in names:
        for taker in names:
            if giver != taker and giver in abouts and taker in abouts:
                given, taken = abouts[giver].publishes, abouts[taker].subscribes
                if any(topics.matches_any(taken, topic) for topic in given):
                    feeds[taker].add(giver)
    groups, left = [], list(names)
    while left:
        free = [name for name in left if not feeds[name] & set(left)] or left
        groups.append(free)
        left = [name for name in left if name not in free]
    return groups


def _near(topic: str, known: Collection[str]) -> str:
    """Return a hint at a topic that differs by a slip: most topics of a bench look alike."""
    near = difflib.get_close_matches(topic, known, n=1, cutoff=0.85)
    return f"; did you mean `{near[0]}`?" if near else ""


# --- does what one publishes fit what another takes?


def _fit(giver: Node, taker: Node, topic: str) -> tuple[Level | None, str]:
    """Return how certainly the handlers of a topic refuse what comes on it, and why; None where nothing is known."""
    if giver.component is None or taker.component is None:
        return None, ""
    worst: tuple[Level | None, str] = (None, "")
    for source in giver.component.methods.values():
        if any(output.topic == topic for output in source.outputs):
            for handler in taker.component.methods.values():
                if any(topics.matches(each.topic_filter, topic) for each in handler.inputs):
                    level, detail = _misfit(source, handler, topic)
                    if level == "error" or worst[0] is None:
                        worst = (level, detail) if level is not None else worst
    return worst


def _misfit(source: Method, handler: Method, topic: str) -> tuple[Level | None, str]:
    """Offer a handler samples of what a method's return annotation allows, as messages would be offered.

    An error: it refuses all of them for their types or fields. A warning: some of them, or for their values.
    """
    cases, unknown = _messages(source)
    told: list[tuple[bool, str]] = []
    for fields in cases:
        try:
            handler.parameters.arguments(fields, topic)
        except FieldError as exc:
            errors = exc.__cause__.errors(include_url=False) if isinstance(exc.__cause__, ValidationError) else []
            errors = [error for error in errors if not unknown & set(map(str, error["loc"]))]
            if errors:
                certain = any(error["type"] == "missing" or error["type"].endswith("_type") for error in errors)
                told.append((certain, f"{exc}"))
    if not told:
        return None, ""
    certain = len(told) == len(cases) and all(each for each, _ in told)
    text = told[0][1]
    return ("error", text) if certain else ("warning", f"may be refused: {text}")


def _messages(source: Method) -> tuple[list[dict[str, Any]], set[str]]:
    """Return messages that a method may publish, each differing from the first in one field; and unknown fields."""
    fields = {name: dict(each) for name, each in source.result_schema.items()}
    if not fields or (set(fields) == {"value"} and _may_be_object(fields["value"])):
        return [], set()
    offered = {name: list(_samples(each)) for name, each in fields.items()}
    unknown = {name for name, each in offered.items() if not each}
    first = {name: each[0] if each else None for name, each in offered.items()}
    return [first, *({**first, name: each} for name in offered for each in offered[name][1:])], unknown


def _may_be_object(schema: Mapping[str, Any]) -> bool:
    """Return whether a value is perhaps an object, whose fields would then be the message's."""
    choices = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    return schema.get("type") == "object" or any(map(_may_be_object, choices))


_BY_FORMAT = {
    "date-time": "2026-01-16T11:28:42Z", "date": "2026-01-16", "time": "11:28:42", "duration": "PT1S",
    "uuid": "1b4e28ba-2fa1-4d3b-a3f5-ef19b5a7633b",
}  # fmt: skip
_BY_TYPE: dict[str, tuple[Any, ...]] = {
    "number": (1.5, 2.0), "integer": (1,), "boolean": (True, False), "null": (None,), "string": ("text",),
}  # fmt: skip


def _samples(schema: Mapping[str, Any]) -> Iterator[Any]:
    """Yield values of each kind that a JSON Schema allows; none where it does not tell."""
    if "const" in schema:
        yield schema["const"]
    elif "enum" in schema:
        yield from schema["enum"]
    elif choices := [*schema.get("anyOf", ()), *schema.get("oneOf", ())]:
        parts = [list(_samples(each)) for each in choices]
        yield from chain.from_iterable(parts) if all(parts) else ()
    elif schema.get("type") == "array":
        places = schema.get("prefixItems") or [schema.get("items") or {}]
        items = [next(_samples(each), None) for each in places]
        if None not in items:
            yield items
    elif schema.get("type") == "object":
        inner = {name: next(_samples(each), None) for name, each in schema.get("properties", {}).items()}
        if inner and None not in inner.values():
            yield inner
    elif schema.get("type") == "string" and "format" in schema:
        yield from filter(None, [_BY_FORMAT.get(schema["format"])])
    elif schema.keys() & _BOUNDS and schema.get("type") in ("number", "integer"):
        yield _between(schema)
    elif not schema.keys() & _PATTERNS:
        yield from _BY_TYPE.get(str(schema.get("type")), ())


_BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
_PATTERNS = frozenset({"pattern", "minLength", "maxLength", "multipleOf"})
"""A sample of one's own choice may not keep to these."""


def _between(schema: Mapping[str, Any]) -> Any:
    """Return a number within the bounds of a schema."""
    least = schema.get("minimum", schema.get("exclusiveMinimum"))
    most = schema.get("maximum", schema.get("exclusiveMaximum"))
    if least is None or most is None:
        value = most - 1 if least is None else least + 1
    else:
        value = (least + most) / 2
    return int(value) if schema["type"] == "integer" else float(value)
