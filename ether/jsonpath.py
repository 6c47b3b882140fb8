"""JSON paths: where a value stands in a decoded message: ``a.b``, ``a['b c'][0]``, ``{sensor}.Temperature``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["Path", "leaves"]

_STEP = re.compile(r"""\.?(?:\{(?P<name>[A-Za-z_]\w*)\}|(?P<key>[^.\[\]{}'"\s]+))|\[(?P<index>\d+)\]"""
                   r"""|\[(?P<quote>['"])(?P<quoted>.*?)(?P=quote)\]""")  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Any:
    """Stands for every key of an object, or every place in a list; which one it was goes by this name."""

    name: str


@dataclass(frozen=True, slots=True)
class Path:
    """A path; without steps the whole message."""

    text: str
    steps: tuple[str | int | _Any, ...]

    @classmethod
    def parse(cls, text: str) -> Path:
        """Return the path, or raise ValueError. A leading ``$`` is allowed, and ``$`` is the whole message."""
        if not isinstance(text, str) or not text.strip():
            raise ValueError("a path was wanted: `a.b`, `a['b c'][0]`, `{sensor}.Temperature`, `$` for everything")
        rest = text.strip()
        rest = rest[1:] if rest == "$" or rest[:2] in ("$.", "$[") else rest
        steps: list[str | int | _Any] = []
        place = 0
        while place < len(rest):
            found = _STEP.match(rest, place)
            if found is None or (place == 0 and rest[0] == "." and text.strip()[0] != "$"):
                raise ValueError(f"{text!r} is no path: not understood from `{rest[place:]}` on; write `a.b['c d'][0]`")
            if found["name"] is not None:
                steps.append(_Any(found["name"]))
            elif found["index"] is not None:
                steps.append(int(found["index"]))
            else:
                steps.append(found["key"] if found["key"] is not None else found["quoted"])
            place = found.end()
        return cls(text, tuple(steps))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(step.name for step in self.steps if isinstance(step, _Any))

    def find(self, content: Any) -> Iterator[tuple[dict[str, str], Any]]:
        """Yield each value that stands there, with what its named steps were; nothing where there is none."""
        yield from _find(content, self.steps, {})

    def get(self, content: Any) -> Any:
        """Return the first value that stands there; None where there is none."""
        return next((value for _, value in self.find(content)), None)


def _find(
    content: Any, steps: tuple[str | int | _Any, ...], names: dict[str, str]
) -> Iterator[tuple[dict[str, str], Any]]:
    if not steps:
        yield names, content
        return
    step, rest = steps[0], steps[1:]
    if isinstance(step, _Any):
        for key, value in _items(content):
            yield from _find(value, rest, {**names, step.name: str(key)})
    elif isinstance(content, dict):
        if step in content:
            yield from _find(content[step], rest, names)
    elif isinstance(content, list) and isinstance(step, int) and step < len(content):
        yield from _find(content[step], rest, names)


def _items(content: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(content, dict):
        return content.items()
    return enumerate(content) if isinstance(content, list) else ()


def leaves(content: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield what an object holds that is no object itself, each with its keys from outside in."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from leaves(value, (*above, str(key)))
    else:
        yield above, content
