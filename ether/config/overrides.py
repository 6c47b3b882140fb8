"""Overrides: what stands above the file, of the command line and of the environment."""

from __future__ import annotations

import os
from typing import Any

import yaml

from ether.config.reader import YamlReader
from ether.config.tree import KeyPath, PathPart, Place, Tree, dotted
from ether.errors import Problem, suggest

__all__ = ["environment", "override"]

_WHOLE = ("kind", "url")
"""Keys of `broker` that say what it is, whatever it was."""


def override(tree: Tree, text: str) -> None:
    """Put one ``a.b=value`` of the command line over the file's."""
    dotted, equals, given = text.partition("=")
    label = f"--set {text}"
    path = _split_path(tree.data, dotted.strip())
    if not equals or not all(str(part) for part in path):
        tree.problems.append((-1, Problem(label, "write a.b=value, such as instances.oven.kwargs.period=2")))
        return
    instances = tree.data.get("instances")
    instances = instances if isinstance(instances, dict) else {}
    if path[0] == "instances" and len(path) > 2 and path[1] not in instances and path[2] != "class_path":
        what = f"no instance `{path[1]}` in the configuration{suggest(str(path[1]), instances)}"
        tree.problems.append((-1, Problem(label, what)))
        return
    try:
        value = YamlReader(tree, lambda mark: label, path).read(given)
    except yaml.YAMLError as exc:
        reason = getattr(exc, "problem", None) or exc
        tree.problems.append((-1, Problem(label, f"the value is not valid YAML: {reason}")))
        return
    _put(tree, path, value, label)


def _put(tree: Tree, path: KeyPath, value: Any, label: str) -> None:
    here = tree.data
    for depth, part in enumerate(path):
        tree.places.setdefault(path[: depth + 1], Place(label, label, -1))
        if isinstance(here, list) and not (isinstance(part, int) and part < len(here)):
            what = f"{dotted(path[:depth])} is a list of {len(here)}; `{part}` is none of its places"
            tree.problems.append((-1, Problem(label, what)))
            return
        if depth == len(path) - 1:
            here[part] = value
        else:
            known = here[part] if isinstance(here, list) else here.get(part)
            if not isinstance(known, dict | list):
                here[part] = _written_out(path[: depth + 1], known) if path[depth + 1] not in _WHOLE else {}
            here = here[part]
    tree.places[path] = Place(label, label, -1)


def _written_out(path: KeyPath, known: Any) -> dict[str, Any]:
    """Return the block that a word at this place stands for, so that a key beside it does not take it away."""
    if isinstance(known, str) and path == ("broker",):
        return {"url" if "://" in known else "kind": known}
    if isinstance(known, str) and path[0] == "instances" and path[2:] == ("restart",):
        return {"policy": known}
    return {}


def _split_path(data: Any, dotted: str) -> KeyPath:
    """Return the keys of ``a.b.c``; a key with dots of its own (a topic, a class path) is found if it exists."""
    parts, path = dotted.split("."), []
    while parts:
        length = 1
        if isinstance(data, dict):
            fitting = [n for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in data]
            length = fitting[0] if fitting else 1
        key: PathPart = ".".join(parts[:length])
        if isinstance(data, list) and str(key).isdigit():
            key = int(key)
        if isinstance(data, dict):
            data = data.get(key)
        else:
            data = data[key] if isinstance(key, int) and key < len(data) else None
        path.append(key)
        parts = parts[length:]
    return tuple(path)


def environment(tree: Tree) -> None:
    for name, path in (("ETHER_BROKER", ("broker",)), ("ETHER_DATA", ("session", "data"))):
        if value := os.environ.get(name):
            for known in [known for known in tree.places if known[: len(path)] == path]:
                del tree.places[known]
            _put(tree, path, value, name)
