"""Secrets do not go into recordings: values below keys named like secrets are replaced by ``***``."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["is_secret", "redacted", "redacted_code", "redacted_text"]

_SECRET = re.compile(r"(?:^|[^a-z])(?:key|keys|credential|credentials|passwd|pwd)(?:[^a-z]|$)|password|token|secret")
_SECRET_LINE = re.compile(r"^(?P<key>[\s\-{]*[\"']?[\w.\-]+[\"']?\s*[:=]\s*)(?P<value>[^\s#\[{&|>].*)$", re.MULTILINE)
_SECRET_LITERAL = re.compile(
    r"""(?P<key>[\w.\-]+)(?P<between>["']?\]?\s*(?::\s*[\w.\[\]| ]+?)?\s*[:=]\s*)"""
    r"""(?P<quote>[rbuf]*["'])(?:\\.|(?!["'\n\\]).)+(?P<end>["'])"""
)
_WORD = re.compile(r"[\w.\-]+=\S+")
_URL_PASSWORD = re.compile(r"(\w+://[^\s:/@]*:)[^\s@/]+@")


def is_secret(name: str) -> bool:
    """Return whether a key's name says that its value is nobody's business."""
    return _SECRET.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()) is not None


def redacted(value: Any) -> Any:
    """Return the value with everything below secret keys, and passwords in URLs, replaced by ``***``."""
    if isinstance(value, dict):
        return {
            key: "***" if is_secret(str(key)) and item not in (None, "", {}, []) else redacted(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [redacted(item) for item in value]
    if isinstance(value, str):
        if "\n" in value:
            return redacted_code(value)
        return redacted_text(value) if _WORD.fullmatch(value) else _URL_PASSWORD.sub(r"\1***@", value)
    return value


def redacted_code(source: str) -> str:
    """Return program text, or a diff of it, with what is written out for secret names replaced by ``***``."""

    def hide(found: re.Match[str]) -> str:
        return (
            f"{found['key']}{found['between']}{found['quote']}***{found['end']}"
            if is_secret(found["key"])
            else found[0]
        )

    return _URL_PASSWORD.sub(r"\1***@", _SECRET_LITERAL.sub(hide, source))


def redacted_text(source: str) -> str:
    """Return YAML (or ``key=value``) text with the values of secret keys replaced by ``***``."""

    def hide(found: re.Match[str]) -> str:
        return found["key"] + "***" if is_secret(found["key"]) else found[0]

    return _URL_PASSWORD.sub(r"\1***@", _SECRET_LINE.sub(hide, source))
