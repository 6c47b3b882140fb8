"""Comparing how two recordings came to be: configuration, code, versions, machine and people."""

from __future__ import annotations

import difflib
from typing import Any

from ether.recorder.reader import Recording

__all__ = ["compare"]

_FACTS = ("python", "executable", "platform", "host", "user", "command_line", "cwd", "config_path")
_OF_AN_INSTANCE = ("class", "file", "source", "host", "version")


def compare(old: Recording, new: Recording) -> dict[str, Any]:
    """Return what differs between the provenance of two recordings, fit for JSON; empty where nothing does.

    A value that differs is ``[old, new]``, None where it is absent; texts are unified diffs, a line each:

    * ``facts``: name to values: Python, platform, host, user, command line, git commit …
    * ``packages``: distribution to versions
    * ``config``: diff of the configuration as it was given
    * ``resolved``: path to values, with all defaults and overrides
    * ``uncommitted``: diff of what git had not committed
    * ``instances``: name to what differs at its last start: class, file, source (a checksum), args, kwargs …;
      ``code`` is the diff of the file that holds its class; None instead of all that where one has no such instance
    """
    before, after = old.provenance, new.provenance
    facts = {name: [before.get(name), after.get(name)] for name in _FACTS}
    git = [each if isinstance(each, dict) else {} for each in (before.get("git"), after.get("git"))]
    facts |= {f"git {name}": [each.get(name) for each in git] for name in ("commit", "dirty")}
    found = {
        "facts": _differing(facts),
        "packages": _changes(before.get("packages"), after.get("packages")),
        "config": _diff(before.get("config"), after.get("config"), "config"),
        "resolved": _changes(_flat(before.get("resolved")), _flat(after.get("resolved"))),
        "uncommitted": _diff(git[0].get("diff"), git[1].get("diff"), "uncommitted"),
        "instances": _instances(before, after),
    }
    return {name: difference for name, difference in found.items() if difference}


def _instances(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    old, new = ({row["name"]: row for row in each["instances"]} for each in (before, after))
    found: dict[str, Any] = {}
    for name in sorted({*old, *new} - {"session", "recorder"}):  # ours: they differ in process and file only
        if name not in old or name not in new:
            found[name] = {"class": [each[name]["class"] if name in each else None for each in (old, new)]}
            continue
        one, other = old[name], new[name]
        changed: dict[str, Any] = _differing({key: [one.get(key), other.get(key)] for key in _OF_AN_INSTANCE})
        for key in ("args", "kwargs"):
            if given := _changes(_flat(one.get(key)), _flat(other.get(key))):
                changed[key] = given
        if "source" in changed and (code := _diff(_code(before, one), _code(after, other), one.get("file") or name)):
            changed["code"] = code
        if changed:
            found[name] = changed
    return found


def _code(provenance: dict[str, Any], instance: dict[str, Any]) -> str | None:
    sources = provenance.get("sources")
    source = sources.get(instance["source"]) if isinstance(sources, dict) else None
    return source["text"] if isinstance(source, dict) else None


def _differing(pairs: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {name: values for name, values in pairs.items() if values[0] != values[1]}


def _changes(old: Any, new: Any) -> dict[str, list[Any]]:
    one, other = (each if isinstance(each, dict) else {} for each in (old, new))
    return _differing({name: [one.get(name), other.get(name)] for name in sorted({*one, *other})})


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Return what is at the ends of nested mappings, by dotted path."""
    if not isinstance(value, dict) or (path and not value):
        return {path: value} if path else {}
    found: dict[str, Any] = {}
    for key, item in value.items():
        found |= _flat(item, f"{path}.{key}" if path else str(key))
    return found


def _diff(old: Any, new: Any, name: str) -> list[str]:
    one, other = (each.splitlines() if isinstance(each, str) else [] for each in (old, new))
    return list(difflib.unified_diff(one, other, name, name, lineterm=""))
