"""Home Assistant's MQTT discovery: documents that tell where a device's values are.

One document a component (``homeassistant/sensor/[node/]name/config``), or one a device (``homeassistant/device/…``).
Of its templates those are understood that name a place: ``{{ value_json.a.b }}``, ``{{ value_json['a'] }}``,
``{{ value }}``.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from ether import topics
from ether.errors import EtherError, PayloadError
from ether.foreign.facts import Alive, Fact, Taken, Trouble, as_type, content_of, schema_of, their_unit, word_of
from ether.foreign.outline import Outline, Shown
from ether.jsonpath import Path
from ether.model import Message, State

__all__ = ["ORIGIN", "HomeAssistant", "document", "identity"]

ORIGIN = "ether"
"""Name of the origin in documents of our own, which are not taken in."""
# Of Home Assistant's abbreviations those that can stand in what is read here.
_LONG = {
    "avty": "availability", "avty_mode": "availability_mode", "avty_t": "availability_topic",
    "avty_tpl": "availability_template", "bri_stat_t": "brightness_state_topic",
    "bri_val_tpl": "brightness_value_template",
    "clr_temp_stat_t": "color_temp_state_topic", "clr_temp_val_tpl": "color_temp_value_template",
    "cmps": "components", "cmp": "components", "curr_hum_t": "current_humidity_topic",
    "curr_hum_tpl": "current_humidity_template", "curr_temp_t": "current_temperature_topic",
    "curr_temp_tpl": "current_temperature_template", "def_ent_id": "default_entity_id", "dev": "device",
    "dev_cla": "device_class", "ids": "identifiers", "cns": "connections", "mf": "manufacturer", "mdl": "model",
    "mode_stat_t": "mode_state_topic", "mode_stat_tpl": "mode_state_template", "o": "origin", "obj_id": "object_id",
    "p": "platform", "pct_stat_t": "percentage_state_topic", "pct_val_tpl": "percentage_value_template",
    "pl_avail": "payload_available", "pl_not_avail": "payload_not_available", "pl_off": "payload_off",
    "pl_on": "payload_on", "pos_t": "position_topic", "pos_tpl": "position_template", "stat_cla": "state_class",
    "stat_off": "state_off", "stat_on": "state_on", "stat_t": "state_topic", "stat_tpl": "state_template",
    "stat_val_tpl": "state_value_template", "sw": "sw_version", "t": "topic", "temp_stat_t": "temperature_state_topic",
    "temp_stat_tpl": "temperature_state_template", "uniq_id": "unique_id", "unit_of_meas": "unit_of_measurement",
    "val_tpl": "value_template",
}  # fmt: skip
_NO_VALUES = ("command_topic", "availability_topic", "json_attributes_topic", "last_reset_topic", "set_position_topic")
_EMPTY = frozenset({"", "None", "none", "unknown", "unavailable"})
"""What a value says that is none."""
_TEMPLATE = re.compile(r"\s*\{\{\s*value(?P<json>_json)?(?P<path>[^|{}]*?)\s*\}\}\s*\Z")
_TEMPLATES = "only `{{ value_json.a.b }}`, `{{ value_json['a'] }}` and `{{ value }}` are"


@dataclass(frozen=True, slots=True)
class _Entity:
    """One value of a device."""

    document: str
    device: str
    name: str
    state_topic: str
    path: Path | None
    """Within a JSON message; None for the whole message."""
    kind: str | None
    unit: str | None
    words: Mapping[str, Any] | None
    description: str


@dataclass(frozen=True, slots=True)
class _Watch:
    """Where a device's availability is said, and how."""

    topic: str
    path: Path | None
    available: str
    not_available: str


class HomeAssistant:
    """Reads devices that announce themselves to Home Assistant."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._entities: dict[str, list[_Entity]] = {}
        """By the topic of the document."""
        self._by_topic: dict[str, list[_Entity]] = {}
        self._watches: dict[str, dict[_Watch, bool | None]] = {}
        """By device: what each place said last."""
        self._modes: dict[str, str] = {}
        self._identities: dict[str, str] = {}
        """Identifier of a device to what we call it."""

    def filters(self) -> Iterable[str]:
        watched = {watch.topic for found in self._watches.values() for watch in found}
        return [f"{self._prefix}/+/+/config", f"{self._prefix}/+/+/+/config", *self._by_topic, *sorted(watched)]

    def take(self, message: Message, now: float) -> list[Fact] | None:
        levels = topics.levels(message.topic)
        if message.topic.startswith(f"{self._prefix}/") and levels[-1] == "config":
            return list(self._read_document(message))
        found = list(self._lives(message))
        entities = self._by_topic.get(message.topic, ())
        if entities:
            found += self._values(entities, message)
        watched = any(watch.topic == message.topic for each in self._watches.values() for watch in each)
        return found if entities or watched else None

    # --- documents

    def _read_document(self, message: Message) -> Iterator[Fact]:
        before = {each.device for each in self._entities.pop(message.topic, ())}
        try:
            if message.payload:
                yield from self._add(message)
        finally:
            self._by_topic = defaultdict(list)
            for found in self._entities.values():
                for each in found:
                    self._by_topic[each.state_topic].append(each)
            self._by_topic = dict(self._by_topic)
        left = {each.device for found in self._entities.values() for each in found}
        for device in sorted(before - left):
            self._watches.pop(device, None)
            yield Alive(device, State.DISCONNECTED, "its discovery document was removed")

    def _add(self, message: Message) -> Iterator[Fact]:
        content = content_of(message.payload)
        if not isinstance(content, dict):
            raise PayloadError("a discovery document is an object")
        content = _expanded(content)
        if _mapping(content.get("origin")).get("name") == ORIGIN:
            return
        levels = topics.levels(message.topic)[len(topics.levels(self._prefix)) :]
        device = self._device_of(content, levels)
        parts = content.get("components")
        single = {levels[-2]: {**content, "platform": levels[0]}}
        shared = {key: value for key, value in content.items() if key not in ("components", "device", "origin")}
        found = self._entities.setdefault(message.topic, [])
        for name, part in parts.items() if levels[0] == "device" and isinstance(parts, dict) else single.items():
            if not isinstance(part, dict) or set(part) <= {"platform"}:
                continue  # removed
            entity = {**shared, **part}
            for place in _places(entity):
                try:
                    found.append(_entity(message.topic, device, str(name), entity, place))
                except (EtherError, ValueError) as exc:
                    yield Trouble(f"{name}: {exc}")
            try:
                for watch in _watches(entity):
                    self._watches.setdefault(device, {}).setdefault(watch)
                self._modes[device] = str(entity.get("availability_mode", "latest"))
            except (EtherError, ValueError) as exc:
                yield Trouble(f"{name}: {exc}")

    def _device_of(self, content: dict[str, Any], levels: list[str]) -> str:
        """Return what to call a device: by its name; where another has that, by name and identifier."""
        given = _mapping(content.get("device"))
        identifiers = given.get("identifiers") or given.get("connections")
        identity = str(identifiers[0] if isinstance(identifiers, list) and identifiers else identifiers or "")
        name = str(given.get("name") or identity or (levels[1] if len(levels) > 2 else levels[-2]))
        identity = identity or name
        if identity not in self._identities:
            taken = name in self._identities.values()
            self._identities[identity] = f"{name} {identity}" if taken else name
        return self._identities[identity]

    # --- messages of devices

    def _lives(self, message: Message) -> Iterator[Fact]:
        for device, watches in self._watches.items():
            for watch in watches:
                if watch.topic != message.topic or not message.payload:
                    continue
                content = content_of(message.payload)
                word = word_of(content if watch.path is None else watch.path.get(content))
                if word not in (watch.available, watch.not_available):
                    known = f"neither {watch.available} nor {watch.not_available}"
                    yield Trouble(f"the availability {word[:40]!r} is {known}")
                    continue
                watches[watch] = word == watch.available
                said = [each for each in watches.values() if each is not None]
                mode = self._modes.get(device, "latest")
                alive = all(said) if mode == "all" else any(said) if mode == "any" else word == watch.available
                detail = "" if alive else f"{message.topic} says {word}"
                yield Alive(device, State.READY if alive else State.LOST, detail)

    def _values(self, entities: Iterable[_Entity], message: Message) -> Iterator[Fact]:
        if not message.payload:
            return
        content = content_of(message.payload)
        by_place: dict[tuple[str, str], tuple[dict[str, Any], dict[str, Any]]] = {}
        for each in entities:
            try:
                value = content if each.path is None else each.path.get(content)
                if value is None or (isinstance(value, str) and value in _EMPTY):
                    continue
                value = as_type(value, each.kind, each.words)
            except PayloadError as exc:
                yield Trouble(f"{each.name}: {exc}")
                continue
            kind = each.kind or ("boolean" if each.words else None)
            fields, schema = by_place.setdefault((each.device, _goes_to(each)), ({}, {}))
            name = "value" if each.path is None else topics.slug(each.name)
            fields[name], schema[name] = value, schema_of(kind, each.unit, each.description)
        for (device, topic), (fields, schema) in by_place.items():
            yield Taken(device, topic, fields, schema)


def _goes_to(entity: _Entity) -> str:
    """Return the topic of a value: values out of one JSON message stay together."""
    if entity.path is None:
        return f"{{dev}}/{topics.slug(entity.name)}"
    last = topics.slug(topics.levels(entity.state_topic)[-1])
    return "{dev}" if last == topics.slug(entity.device) else f"{{dev}}/{last}"


def _expanded(content: dict[str, Any]) -> dict[str, Any]:
    """Return a document with its abbreviations written out and ``~`` filled in."""
    base = content.get("~")

    def expand(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            if key == "components":
                return {name: expand(part) for name, part in value.items()}
            long = {_LONG.get(str(short), str(short)): item for short, item in value.items() if short != "~"}
            return {name: expand(item, name) for name, item in long.items()}
        if isinstance(value, list):
            return [expand(item, key) for item in value]
        if isinstance(value, str) and isinstance(base, str) and key.endswith("topic"):
            value = base + value[1:] if value[:1] == "~" else value
            value = value[:-1] + base if value[-1:] == "~" else value
        return value

    found: dict[str, Any] = expand(content)
    return found


def _places(entity: dict[str, Any]) -> list[str]:
    """Return the keys of a component that name a topic where a value of it is told."""
    return [
        key for key, value in entity.items()
        if key.endswith("_topic") and not key.endswith(_NO_VALUES) and isinstance(value, str) and value
    ]  # fmt: skip


def _entity(document: str, device: str, name: str, given: dict[str, Any], place: str) -> _Entity:
    """Return the value that a component tells on the topic of one key."""
    platform, main = str(given.get("platform", "")), place == "state_topic"
    stem = place.removesuffix("_topic")
    template = given.get("value_template") if main else None
    for key in (f"{stem}_template", f"{stem}_value_template", f"{stem.removesuffix('_state')}_value_template"):
        template = given.get(key, template)
    path = _path_of(template)
    if main and path is None and platform == "light" and given.get("schema") == "json":
        path = Path.parse("state")
    words = None
    if main and platform in ("binary_sensor", "switch", "light", "siren", "fan"):
        on, off = word_of(given.get("payload_on", "ON")), word_of(given.get("payload_off", "OFF"))
        on, off = word_of(given.get("state_on", on)), word_of(given.get("state_off", off))
        words = {form: value for word, value in ((on, True), (off, False)) for form in (word, word.lower())}
    unit = given.get("unit_of_measurement") if main else None
    if place == "current_temperature_topic":
        unit = {"C": "°C", "F": "°F"}.get(str(given.get("temperature_unit", "C")))
    numeric = unit is not None or (main and (given.get("state_class") is not None or platform == "number"))
    topic = topics.check_topic(str(given[place]))
    field = name if main else f"{name}_{stem.removesuffix('_state')}"
    said = given.get("name")
    description = said if isinstance(said, str) and topics.slug(said) != topics.slug(name) else ""
    return _Entity(
        document, device, field, topic, path, "number" if numeric else None, unit if isinstance(unit, str) else None,
        words, description,
    )  # fmt: skip


def _watches(entity: dict[str, Any]) -> list[_Watch]:
    given = entity.get("availability")
    found = [given] if isinstance(given, dict) else list(given) if isinstance(given, list) else []
    if entity.get("availability_topic"):
        keys = ("payload_available", "payload_not_available")
        words = {key: entity[key] for key in keys if key in entity}
        template = entity.get("availability_template")
        found.append({"topic": entity["availability_topic"], "value_template": template, **words})
    return [
        _Watch(
            topics.check_topic(str(each.get("topic"))), _path_of(each.get("value_template")),
            word_of(each.get("payload_available", "online")), word_of(each.get("payload_not_available", "offline")),
        )
        for each in found if isinstance(each, dict)
    ]  # fmt: skip


def _path_of(template: Any) -> Path | None:
    """Return the place that a template names; None for the whole message.

    Raises:
        PayloadError: it does more than that.
    """
    if template is None or template == "":
        return None
    found = _TEMPLATE.match(str(template))
    if found is None or (found["path"] and not found["json"]):
        raise PayloadError(f"the template {str(template)[:60]!r} is not understood; {_TEMPLATES}")
    if not found["json"]:
        return None
    try:
        return Path.parse(f"${found['path']}")
    except ValueError:
        raise PayloadError(f"the template {str(template)[:60]!r} is not understood; {_TEMPLATES}") from None


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


# --- the other way: documents of our own components

SESSION = "session"
"""The member by which the others are there."""
_AVAILABILITY = (
    "{% set state = value_json.state if value_json is mapping else value %}"
    "{{ 'online' if state in ('ready', 'alert', 'sleeping') else 'offline' }}"
)
"""A status is an object; a small device may say a bare word."""
_MESSAGE = (
    '{% set m = value_json if value_json is mapping else {"value": value_json if value_json is defined else value} %}'
)
_CLASSES = {
    "°C": "temperature", "°F": "temperature", "K": "temperature", "W": "power", "kW": "power", "V": "voltage",
    "mV": "voltage", "A": "current", "mA": "current", "Hz": "frequency", "kHz": "frequency", "Pa": "pressure",
    "hPa": "pressure", "kPa": "pressure", "bar": "pressure", "mbar": "pressure", "psi": "pressure", "lx": "illuminance",
    "kg": "weight", "g": "weight", "m": "distance", "cm": "distance", "mm": "distance", "dBm": "signal_strength",
}  # fmt: skip
"""Units that can stand for one of Home Assistant's device classes only."""
_ANY_NUMBER = 1e9
_NOBODY = "homeassistant"


def identity(name: str, namespace: str) -> str:
    """Return the id of a component's device and document."""
    whole = "/".join(filter(None, (namespace, name)))
    found = "_".join(map(topics.slug, filter(None, ("ether", *topics.levels(whole)))))
    return found if found.removeprefix("ether_") == whole.replace("/", "_") else f"{found}_{_mark(whole)}"


def document(outlined: Outline, namespace: str, version: str) -> dict[str, Any]:
    """Return the discovery document of a component: all that it has to show as one device."""
    name, device = outlined.name, identity(outlined.name, namespace)
    status = topics.join(namespace, topics.status(name))
    parts: dict[str, dict[str, Any]] = {
        "ether_state": {
            "platform": "sensor", "unique_id": f"{device}_ether_state", "name": "state",
            "entity_category": "diagnostic", "state_topic": status,
            "value_template": "{{ value_json.state if value_json is mapping else value }}",
        }
    }  # fmt: skip
    for each in outlined.shown:
        key = "_".join(topics.slug(part) for part in (each.topic or "param", *each.keys))
        key = f"{key}_{_mark(f'{each.topic} {each.keys}')}" if key in parts else key
        parts[key] = {"unique_id": f"{device}_{key}", "name": each.name, **_part(each, name, namespace)}
    model = {"model": outlined.class_name} if outlined.class_name else {}
    whole = f"{namespace} {name}" if namespace else name
    via = {"via_device": identity(SESSION, namespace)} if name != SESSION else {}
    known = {"identifiers": [device], "name": whole, "manufacturer": "ether", "sw_version": version}
    return {
        "device": {**known, **model, **via},
        "origin": {"name": ORIGIN, "sw_version": version},
        "availability_topic": status,
        "availability_template": _AVAILABILITY,
        "components": parts,
        "qos": 1,
    }


def _part(each: Shown, name: str, namespace: str) -> dict[str, Any]:
    """Return one component of a document, without what identifies it."""
    unit = their_unit(each.unit)
    found: dict[str, Any] = {"platform": _platform(each)}
    if each.told:
        place = topics.about(name) if not each.topic else each.topic
        found |= {"state_topic": topics.join(namespace, place), "value_template": _template(each)}
    if each.kind == "boolean":
        on, off = ("true", "false") if each.settable else ("True", "False")
        found |= {"payload_on": on, "payload_off": off}
    elif each.kind in ("number", "integer"):
        found |= {"unit_of_measurement": unit} if unit else {}
        found |= {"device_class": _CLASSES[unit]} if unit in _CLASSES else {}
        found |= {} if each.settable else {"state_class": "measurement"}
    elif each.words:
        found |= {"options": list(each.words), **({} if each.settable else {"device_class": "enum"})}
    if not each.topic:
        found["entity_category"] = "config" if each.settable else "diagnostic"
    return found | (_command(each, name, namespace) if each.settable else {})


def _platform(each: Shown) -> str:
    if not each.settable:
        return "binary_sensor" if each.kind == "boolean" else "sensor"
    if each.kind == "string":
        return "select" if each.words else "text"
    return "switch" if each.kind == "boolean" else "number"


def _template(each: Shown) -> str:
    """Return the template of a value; a batch shows its last. Home Assistant takes nothing for no news."""
    if not each.topic:
        return f'{{{{ value_json["params"][{json.dumps(each.keys[0])}]["value"] }}}}'
    *above, last = map(json.dumps, each.keys)
    place = "m"
    for key in above:
        place = f"({place}[{key}] | default({{}}))"
    shown = "v[-1] if v is sequence and v is not string else v"
    return f"{_MESSAGE}{{% set v = {place}[{last}] %}}{{{{ '' if v is not defined else {shown} }}}}"


def _command(each: Shown, name: str, namespace: str) -> dict[str, Any]:
    """Return how Home Assistant sets a value: a message to the topic, or a call that sets the parameter."""
    word = "{{ value | tojson }}" if each.kind == "string" else "{{ value }}"
    if each.topic:
        topic, template = each.topic, f"{{{json.dumps(each.keys[0])}: {word}}}"
    else:
        topic = topics.call(name, topics.PARAM_SET)
        params = f'{{"param": {json.dumps(each.keys[0])}, "value": {word}, "by": "{_NOBODY}"}}'
        asked = f'"id": "{_NOBODY}-{{{{ now().timestamp() }}}}", "reply_to": "{topics.reply(_NOBODY)}"'
        template = f'{{{asked}, "params": {params}}}'
    found: dict[str, Any] = {"command_topic": topics.join(namespace, topic), "command_template": template}
    if each.kind == "boolean" and each.told:
        found |= {"state_on": "True", "state_off": "False"}
    if each.kind in ("number", "integer"):
        least, most = each.least, each.most
        found |= {
            "min": -_ANY_NUMBER if least is None else least, "max": _ANY_NUMBER if most is None else most,
            "step": 1 if each.kind == "integer" else 0.001, "mode": "box",
        }  # fmt: skip
    return found if each.told else {**found, "optimistic": True}


def _mark(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:4]
