"""Redaction: secrets as ``***``, in what is stored or shown."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from ether.address import without_password
from ether.config.tree import KeyPath
from ether.config.values import path_of

__all__ = ["hidden", "jsonable", "redacted"]

_SECRET = re.compile(
    r"(?:\A|[_-])(?:password|passwd|passphrase|secret|token|api_?key|credentials?)(?:\Z|[_-])", re.IGNORECASE
)
_HIDDEN = "***"


def redacted(path: KeyPath, value: str) -> str:
    """Return the text to show for this value: hidden where the key or the text says that it is a secret."""
    if value and path and isinstance(path[-1], str) and _SECRET.search(path[-1]):
        return _HIDDEN
    return without_password(value)


def hidden(span: str, shown: str) -> str:
    """Return a scalar's span of YAML with `shown` for the value; its anchor and the end of its last line stay."""
    found = re.fullmatch(r"((?:&\S+\s+)?).*?(\s*)", span, re.DOTALL)
    return f"{found[1]}'{shown}'{found[2]}" if found else f"'{shown}'"


def jsonable(value: Any, path: KeyPath, *, redact: bool = True) -> Any:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        named = {path_of(key) if isinstance(key, type) else str(key): item for key, item in value.items()}
        return {key: jsonable(item, (*path, key), redact=redact) for key, item in named.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item, path, redact=redact) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return _HIDDEN if redact and value is not None and path and _SECRET.search(str(path[-1])) else value
    if isinstance(value, type):
        return path_of(value)
    text = str(value) if isinstance(value, str | Path | date) else repr(value)
    return redacted(path, text) if redact else text
