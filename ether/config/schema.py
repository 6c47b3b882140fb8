"""The JSON Schema of a configuration file."""

from __future__ import annotations

from typing import Any

from ether.config.config import Config
from ether.config.marks import MARKS
from ether.config.values import DURATION_PATTERN, SIZE_SCHEMA

__all__ = ["json_schema"]

_VARIABLE_SCHEMA = {"$ref": "#/$defs/Variable"}


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a configuration file: what editors complete and check by.

    It accepts what the loader accepts, the short forms too, and ``${VAR}`` in place of any number or flag.
    """
    schema: dict[str, Any] = Config.model_json_schema(by_alias=True)
    definitions: dict[str, Any] = schema.pop("$defs")
    short: dict[str, list[dict[str, Any]]] = {
        "Broker": [
            {"type": "string", "pattern": "^(auto|embedded|mosquitto|nats|mqtts?://.+)$"},
            {"type": "array", "minItems": 1, "items": {"type": "string", "pattern": "^mqtts?://.+$"}},
        ],
        "Record": [{"type": "boolean"}, {"enum": ["on", "off"]}],
        "Restart": [{"enum": ["never", "on-failure", "always", "off", "no", False]}],
        "Rotate": [SIZE_SCHEMA, {"type": "string", "pattern": DURATION_PATTERN}, {"enum": ["off", "no", False]}],
        "MethodMarks": [{"enum": list(MARKS)}],
        "Ingest": [{"type": "string"}],
        "IngestField": [{"type": "string"}],
        "IngestTime": [{"type": "string"}],
        "Availability": [{"type": "string"}],
    }
    for name, forms in short.items():
        block = definitions.pop(name)
        definitions[name] = {"description": block.pop("description", ""), "anyOf": [*forms, block]}
    one = ("ether_pub", "ether_sub", "ether_get", "ether_save", *MARKS[4:])
    marks = definitions["MethodMarks"]["anyOf"][-1]["properties"]
    for name in one:  # null, one mapping, or a list of those
        item = marks[name].pop("items")
        marks[name].pop("type")
        marks[name]["anyOf"] = [{"type": "null"}, item, {"type": "array", "items": {"anyOf": [{"type": "null"}, item]}}]
    body = _widened({"properties": schema.pop("properties"), "$defs": definitions})
    body["$defs"]["Variable"] = {"type": "string", "pattern": r"\$\{", "description": "Filled in from the environment."}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ether session",
        "description": "One session: which processes run, over which broker, recorded where.",
        "type": ["object", "null"],
        "additionalProperties": False,
        **body,
    }


def _widened(schema: Any) -> Any:
    """Return the schema with ``null`` and ``${VAR}`` accepted wherever the loader does."""
    if isinstance(schema, list):
        return [_widened(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: value if key in ("enum", "default") else _widened(value) for key, value in schema.items()}
    for key in found.get("properties", {}):
        found["properties"][key] = _or_empty({"title": key, **found["properties"][key]})
    narrow = found.get("type") in ("integer", "number", "boolean") or isinstance(found.get("pattern"), str)
    if narrow or isinstance(found.get("enum"), list):
        outer: dict[str, Any] = {key: found.pop(key) for key in ("title", "description", "default") if key in found}
        words: list[Any] = [{"enum": ["on", "off", "yes", "no"]}] if found.get("type") == "boolean" else []
        return {**outer, "anyOf": [found, *words, dict(_VARIABLE_SCHEMA)]}
    return found


def _or_empty(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a key whose value may be left empty."""
    outer: dict[str, Any] = {key: schema[key] for key in ("title", "description", "default") if key in schema}
    inner = {key: value for key, value in schema.items() if key not in outer}
    forms = inner["anyOf"] if set(inner) == {"anyOf"} else [inner] if inner else [{}]
    return {**outer, "anyOf": forms if {"type": "null"} in forms or {} in forms else [*forms, {"type": "null"}]}
