"""Rules: what a user's YAML (or a profile's) says of foreign messages, put to work."""

from __future__ import annotations

import zoneinfo
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, tzinfo
from typing import Any

from ether import topics
from ether.config import Availability, IngestField, IngestTime, Rule
from ether.errors import PayloadError
from ether.foreign import senml
from ether.foreign.facts import Alive, Fact, Taken, Trouble, as_type, content_of, schema_of, word_of
from ether.jsonpath import Path, leaves
from ether.model import Message, State

__all__ = ["Rules"]

_LONG_AGO = 946_684_800.0
"""2000-01-01: a clock that shows less was never set."""
_FAR_AWAY = 9_223_372_036.0
"""2262-04-11: a recording holds times as nanoseconds in 64 bits, and so no later ones."""
_MESSAGE_UNITS = {"C": "degC", "F": "degF"}
"""Words that a message may have for its unit, where they can mean nothing else."""


class Rules:
    """Reads by rules."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._rules = [_Rule(rule) for rule in rules]
        self._lives: dict[str, _Life] = {}
        for rule in self._rules:
            if rule.life is not None:
                self._lives.setdefault(rule.life.key, rule.life).rules.append(rule)

    def filters(self) -> Iterable[str]:
        return [rule.pattern.filter for rule in self._rules] + [life.pattern.filter for life in self._lives.values()]

    def take(self, message: Message, now: float) -> list[Fact] | None:
        found: list[Fact] | None = None
        lives = []
        for life in self._lives.values():
            parts = life.pattern.match(message.topic)
            if parts is not None:
                lives.append(life)
                found = [*(found or ()), *life.take(parts, message)]
        for rule in self._rules:
            parts = rule.pattern.match(message.topic)
            if parts is not None and not any(rule in life.rules for life in lives):
                found = [*(found or ()), *rule.take(parts, message, now)]
        return found


class _Life:
    """An availability rule, of one or several rules."""

    def __init__(self, given: Availability, device: str) -> None:
        self.pattern = topics.Pattern.parse(given.topic)
        self.key = f"{given.topic} {given.path} {device}"
        self.rules: list[_Rule] = []
        self._device = device
        self._path = Path.parse(given.path) if given.path else None
        self._states = {
            **dict.fromkeys(given.sleeping, State.SLEEPING),
            **dict.fromkeys(given.lost, State.LOST),
            **dict.fromkeys(given.ready, State.READY),
        }

    def take(self, parts: dict[str, str], message: Message) -> Iterator[Fact]:
        if not message.payload:
            return  # cleared
        content = content_of(message.payload)
        word = self._path.get(content) if self._path is not None and isinstance(content, (dict, list)) else content
        word = word_of(word)
        state = self._states.get(word)
        if state is None:
            yield Trouble(f"the availability {word[:40]!r} is none of {', '.join(self._states)}")
            return
        detail = "" if state is State.READY else f"{message.topic} says {word}"
        if set(topics.Pattern.names_in(self._device)) <= parts.keys():
            yield Alive(topics.Pattern.fill(self._device, parts), state, detail)
        else:  # one word for all devices
            for device in dict.fromkeys(name for rule in self.rules for name in rule.devices):
                yield Alive(device, state, detail)


class _Field:
    """Where a field comes from."""

    def __init__(self, name: str, given: IngestField) -> None:
        self.name = name
        self.given = given
        self.path = Path.parse(given.path) if given.path else None
        self.unit_path = Path.parse(given.unit_path) if given.unit_path else None
        self.kind = given.type or ("number" if (given.unit or given.unit_path) and not given.words else None)

    def take(self, content: Any, parts: dict[str, str]) -> Iterator[tuple[str, Any, dict[str, Any]] | Trouble]:
        """Yield name, value and schema for each place where a value stands."""
        unit = self.given.unit
        if self.unit_path is not None and isinstance(found := self.unit_path.get(content), str):
            unit = _MESSAGE_UNITS.get(found, found)
        for names, found in self.path.find(content) if self.path is not None else [({}, content)]:
            name = topics.slug(topics.Pattern.fill(self.name, {**parts, **names}))
            try:
                value = as_type(found, self.kind, self.given.words)
                kind = self.kind or _kind_of(value)
                value = as_type(value, kind)
            except PayloadError as exc:
                yield Trouble(f"field {name}: {exc}")
                continue
            if value is not None:
                kind = None if isinstance(value, list) else kind
                yield name, value, schema_of(kind, unit, self.given.description)


class _Rule:
    """One rule."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.pattern = topics.Pattern.parse(rule.match)
        self.device = rule.device or "{dev}"
        self.life = _Life(rule.availability, self.device) if rule.availability is not None else None
        self.devices: dict[str, None] = {}
        self._topic = rule.goes_to
        self._fields = [_Field(name, each) for name, each in rule.fields.items()]
        self._when = _When(rule.time) if rule.time is not None else None
        unit = rule.unit
        self._units = {"value": unit} if isinstance(unit, str) else dict(unit or {})

    def take(self, parts: dict[str, str], message: Message, now: float) -> Iterator[Fact]:
        if not message.payload:
            return  # cleared
        device = topics.Pattern.fill(self.device, parts)
        self.devices[device] = None
        slugs = {key: topics.slug(each) for key, each in parts.items()}
        topic = topics.Pattern.fill(self._topic, {**slugs, "dev": "{dev}"})
        content = content_of(message.payload)
        if self.rule.format == "senml":
            for pack in senml.read(content, now):
                time, trouble = _believed(pack.time, pack.time)
                if trouble:
                    yield Trouble(trouble)
                yield Taken(device, topic, pack.fields, pack.schema, time)
            return
        time = None
        if self._when is not None:
            time, trouble = self._when.take(content)
            if trouble:
                yield Trouble(trouble)
        fields, schema = {}, {}
        troubled = False
        for found in self._take_fields(content, parts):
            if isinstance(found, Trouble):
                troubled = True
                yield found
            else:
                fields[found[0]], schema[found[0]] = found[1], found[2]
        if fields:
            yield Taken(device, topic, fields, schema, time)
        elif not troubled:
            wanted = ", ".join(each.given.path or each.name for each in self._fields)
            raise PayloadError(f"it holds nothing at {wanted}" if wanted else "it holds nothing")

    def _take_fields(self, content: Any, parts: dict[str, str]) -> Iterator[tuple[str, Any, dict[str, Any]] | Trouble]:
        if self._fields:
            for each in self._fields:
                yield from each.take(content, parts)
            return
        if not isinstance(content, dict):
            content = {"value": content}
        for keys, value in leaves(content):
            name = topics.slug("_".join(keys))
            unit = self._units.get(".".join(keys)) or self._units.get(name)
            kind = "number" if unit else _kind_of(value)
            try:
                yield name, as_type(value, kind), schema_of(None if isinstance(value, list) else kind, unit)
            except PayloadError as exc:
                yield Trouble(f"field {name}: {exc}")


def _kind_of(value: Any) -> str | None:
    """Return the type to declare for a value that has none declared; a later one may be of another."""
    if isinstance(value, bool):
        return "boolean"
    return "number" if isinstance(value, (int, float)) else "string" if isinstance(value, str) else None


def _believed(time: float, said: Any) -> tuple[float | None, str]:
    """Return a device's Unix time, or None with what is wrong; NaN and infinity would make the reading unreadable."""
    if time < _LONG_AGO:
        return None, f"the time {said!r} is of a clock that was never set; its arrival counts"
    if not time < _FAR_AWAY:
        return None, f"the time {said!r} is of no year before 2262; its arrival counts"
    return time, ""


class _When:
    """Reads the time of a message."""

    def __init__(self, given: IngestTime) -> None:
        self._given = given
        self._path = Path.parse(given.path)
        self._zone: tzinfo | None = UTC
        if given.zone != "UTC":
            self._zone = None if given.zone == "local" else zoneinfo.ZoneInfo(given.zone)

    def take(self, content: Any) -> tuple[float | None, str]:
        """Return Unix time, or None with what is wrong; a clock that was never set tells nothing."""
        found = self._path.get(content)
        if found is None:
            return None, ""
        try:
            time = self._read(found)
        except (ValueError, TypeError, OverflowError, OSError):
            return None, f"the time {str(found)[:40]!r} is not as {self._given.format!r} has it; its arrival counts"
        return _believed(time, found)

    def _read(self, found: Any) -> float:
        if self._given.format in ("unix", "unix_ms"):
            return float(found) / (1e3 if self._given.format == "unix_ms" else 1.0)
        text = str(found)
        form = self._given.format
        moment = datetime.fromisoformat(text) if form == "iso" else datetime.strptime(text, form)
        if moment.tzinfo is None and self._zone is not None:
            moment = moment.replace(tzinfo=self._zone)
        return moment.timestamp()  # without a zone it is local time
