"""Parcel: a class and its arguments on the way to another process, where an import and JSON would not do."""

from __future__ import annotations

import base64
import inspect
import io
import json
import sys
from collections import ChainMap
from dataclasses import MISSING
from typing import Any, ClassVar

__all__ = ["is_needed", "pack", "unpack"]


def is_needed(target: type, args: list[Any], kwargs: dict[str, Any]) -> bool:
    """Return whether JSON and an import would not do: a class of the running script, or objects as arguments."""
    if _is_local(target):
        return True
    try:
        return bool(json.loads(json.dumps([args, kwargs])) != [args, kwargs])
    except (TypeError, ValueError):
        return True


def pack(target: type, class_path: str, args: list[Any], kwargs: dict[str, Any]) -> str:
    """Return a text that holds class and arguments; raises what the pickling of users' objects raises."""
    local = _is_local(target)
    named = _named_in_annotations(target) if local else {}
    return base64.b64encode(_pickled((target if local else class_path, args, kwargs, named))).decode()


def unpack(text: str) -> tuple[type | str, list[Any], dict[str, Any]]:
    """Return the class, or its path, and its arguments."""
    import pickle  # for who receives alone: packing is by cloudpickle

    cls, args, kwargs, named = pickle.loads(base64.b64decode(text))  # noqa: S301 - from our own parent
    _name(cls, named)
    return cls, args, kwargs


def _is_local(target: type) -> bool:
    return target.__module__ == "__main__" or "<locals>" in target.__qualname__


def _pickled(content: Any) -> bytes:
    """Return a pickle that holds classes of the running script by value."""
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
        # Dataclasses compare with this object by identity, which a copy would break.
        dispatch_table: ClassVar[Any] = ChainMap(
            {type(MISSING): lambda _: "MISSING"}, cloudpickle.Pickler.dispatch_table
        )

    buffer = io.BytesIO()
    Pickler(buffer).dump(content)
    return buffer.getvalue()


def _named_in_annotations(target: type) -> dict[str, Any]:
    """Return what a class's annotations name, where they are text.

    What travels with a class by value is only what its code names.
    """
    found: dict[str, Any] = {}
    todo: list[Any] = [target]
    while todo:
        cls = todo.pop()
        for owner in (each for each in cls.__mro__ if each.__module__ == target.__module__):
            around = vars(sys.modules.get(owner.__module__, sys))
            for item in (owner, *filter(inspect.isfunction, vars(owner).values())):
                names = getattr(item, "__globals__", around)
                for text in inspect.get_annotations(item).values():
                    for name in _names_in(text) - found.keys():
                        if name in names:
                            found[name] = names[name]
                            if isinstance(found[name], type) and found[name].__module__ == target.__module__:
                                todo.append(found[name])
    return found


def _names_in(annotation: Any) -> set[str]:
    try:
        return set(compile(annotation, "annotation", "eval").co_names) if isinstance(annotation, str) else set()
    except SyntaxError:
        return set()


def _name(cls: Any, named: dict[str, Any]) -> None:
    """Put what annotations name where it is looked up: beside the functions of the class, and in its module."""
    around = [vars(sys.modules["__main__"])]
    if isinstance(cls, type):
        around += [each.__globals__ for each in vars(cls).values() if hasattr(each, "__globals__")]
    for names in around:
        for name, value in named.items():
            names.setdefault(name, value)
