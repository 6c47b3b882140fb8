"""Problems: pydantic's errors in plain words, reported where they stand."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel

from ether.config.instance import Instance
from ether.config.tree import KeyPath, Tree
from ether.errors import named, suggest

__all__ = ["report"]

_WANTED = {
    "string_type": "a text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "path_type": "a path",
}


def _plain(error: Mapping[str, Any]) -> str:
    """Return pydantic's error in plain words, with what was got."""
    kind, got, ctx = error["type"], error["input"], error.get("ctx", {})
    if kind == "value_error":
        return str(ctx["error"])
    if kind in _WANTED:
        plain = isinstance(got, int | float | date) and not isinstance(got, bool)
        quote = "; quote it" if kind == "string_type" and plain else ""
        return f"{_WANTED[kind]} was wanted, got {named(got)}{quote}"
    if kind == "literal_error":
        known = re.findall(r"[\w-]+", ctx["expected"].replace(" or ", " "))
        return f"{', '.join(known)} was wanted, got {named(got)}{suggest(str(got), known)}"
    if kind in ("greater_than_equal", "greater_than"):
        return f"at least {ctx.get('ge', ctx.get('gt'))} was wanted, got {got}"
    if kind in ("too_short", "too_long"):
        return f"a list of {ctx.get('min_length', ctx.get('max_length'))} was wanted, got {ctx['actual_length']}"
    return f"{error['msg'][0].lower()}{error['msg'][1:]}, got {named(got)}"


def _model_at(path: Sequence[Any], top: type[BaseModel]) -> type[BaseModel] | None:
    """Return the model that describes the mapping at this path of a configuration."""
    kind: Any = top
    for part in path:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            fields = {field.alias or name: field for name, field in kind.model_fields.items()}
            kind = fields[part].annotation if part in fields else None
        else:
            kind = get_args(kind)[-1] if get_args(kind) else None
        while get_origin(kind) is not None and get_origin(kind) not in (dict, list):
            if get_origin(kind) is Annotated:
                kind = get_args(kind)[0]
            else:
                kind = next((arg for arg in get_args(kind) if arg is not type(None)), None)
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _unknown_key(path: KeyPath, top: type[BaseModel]) -> str:
    model = _model_at(path[:-1], top)
    known = [field.alias or name for name, field in model.model_fields.items()] if model else []
    hint = suggest(str(path[-1]), known)
    if not hint and model is Instance:
        hint = "; arguments of the class go under `kwargs`"
    elif not hint and known:
        hint = f"; known here: {', '.join(known)}"
    return f"unknown key{hint}"


def report(tree: Tree, error: Mapping[str, Any], top: type[BaseModel]) -> None:
    """Report one of pydantic's errors; `top` is the model of the whole file."""
    path: KeyPath = error["loc"]
    if path and path[-1] == "[key]":
        path = path[:-1]
        tree.report(path, _plain(error))
    elif error["type"] == "extra_forbidden":
        tree.report(path, _unknown_key(path, top))
    elif error["type"] == "missing":
        hint = "; name the class, such as `class_path: package.module.Class`" if path[-1] == "class_path" else ""
        tree.report(path, f"missing{hint}")
    else:
        tree.report(path, _plain(error), at_value=True)
