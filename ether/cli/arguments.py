"""Arguments that several verbs take, and how they are read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from ether.errors import RecordingError

__all__ = [
    "AsJson",
    "ConfigFile",
    "During",
    "For",
    "From",
    "Overrides",
    "RecordingFile",
    "Until",
    "choosing",
    "moment",
    "pairs",
    "seconds",
]

AsJson = Annotated[bool, typer.Option("--json", help="JSON for programs; one object a line where there are several.")]
ConfigFile = Annotated[Path, typer.Argument(metavar="FILE", help="The session's YAML.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key: instances.oven.kwargs.period=2. Repeatable."),
]
RecordingFile = Annotated[Path, typer.Argument(metavar="FILE", help="The recording.")]
During = Annotated[str | None, typer.Option("--run", metavar="RUN", help="Only during this run: name, number or id.")]
From = Annotated[
    str | None,
    typer.Option("--from", metavar="TIME", help="11:28 of its first day, a date and time, or 90s from its begin."),
]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="As --from; not included.")]
For = Annotated[str | None, typer.Option("--for", metavar="DURATION", help="End by itself after 10s, 5min, 2h.")]


def seconds(text: str | None, option: str = "--for") -> float | None:
    """Return the duration of an option; a usage error says what is wrong with it."""
    from ether.config import duration

    if text is None:
        return None
    try:
        return duration(text)
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint=option) from None


def pairs(words: list[str] | None) -> dict[str, Any]:
    """Return ``name=value`` words as a mapping, values as a configuration has them: ``4`` a number, ``"4"`` a text."""
    import yaml

    from ether.config import read_value

    found: dict[str, Any] = {}
    for word in words or []:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{word!r}: write name=value")
        try:
            found[name] = read_value(text) if text else ""
        except yaml.YAMLError:
            found[name] = text
    return found


def moment(text: str | None, option: str, begin: float) -> float | None:
    """Return Unix seconds of a time in a recording that began at `begin`.

    That is a time of the day it began, a date and time (local unless it names a zone), or a duration after its begin.
    """
    from ether.config import duration

    if text is None:
        return None
    day = datetime.fromtimestamp(begin).date()
    for found in (text, f"{day.isoformat()}T{text}"):
        try:
            return datetime.fromisoformat(found).timestamp()
        except ValueError:
            continue
    try:
        return begin + duration(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no time; write 11:28, 2026-01-16T11:28:42, or 90s after the begin", param_hint=option
        ) from None


@contextmanager
def choosing(file: Path) -> Iterator[None]:
    """Turn a topic, field or run that a recording has not into one line."""
    try:
        yield
    except KeyError as exc:
        raise RecordingError(f"{file}: {exc.args[0]}") from exc
