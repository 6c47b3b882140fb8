"""What every verb prints with: lines, tables, JSON. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "as_json",
    "complain",
    "console",
    "elapsed",
    "json_text",
    "line",
    "note",
    "path",
    "settings",
    "shown",
    "style",
    "table",
    "write",
]

_MANY_ROWS = 200
_ANY_WIDTH = 10_000  # what goes to a file or pipe is never cut to a terminal's width


@dataclasses.dataclass(slots=True)
class Settings:
    """What the options in front of the verb said."""

    quiet: bool = False
    debug: bool = False
    session: str | None = None
    """Which running session the verb is about."""


settings = Settings()


def console(*, stderr: bool = False) -> Console:
    """Return a console that honours NO_COLOR and never wraps what is not shown on a terminal."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _ANY_WIDTH
    return Console(file=stream, width=width, no_color=bool(os.environ.get("NO_COLOR")) or None, highlight=False)


def line(text: str) -> None:
    """Print one result."""
    print(text, flush=True)


def note(text: str) -> None:
    """Print a line that `--quiet` leaves out."""
    if not settings.quiet:
        print(text, flush=True)


def write(path: Path, text: str) -> None:
    """Write a result into a file, and say so; RecordingError where it cannot be written."""
    from ether.errors import RecordingError

    try:
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise RecordingError(f"{path}: cannot be written ({exc.strerror or exc})") from exc
    note(f"wrote {path}")


def complain(text: str) -> None:
    """Print one line of what went wrong."""
    print(f"ether: {text}", file=sys.stderr, flush=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> None:
    """Print rows under their column names, in colour on a terminal, plain otherwise."""
    cells = [[shown(cell) for cell in row] for row in rows]
    if (not sys.stdout.isatty() or len(cells) > _MANY_ROWS) and not any("\n" in cell for row in cells for cell in row):
        _plain_table(list(columns), cells, title)
        return
    from rich.table import Table
    from rich.text import Text

    made = Table(*columns, box=None, header_style="bold", title=title or None, title_justify="left", pad_edge=False)
    for row in cells:
        made.add_row(*(Text(cell, style=style(cell)) for cell in row))
    console().print(made)


def _plain_table(columns: list[str], rows: list[list[str]], title: str) -> None:
    """Print the same without rich, which takes half a second for a thousand rows."""
    from unicodedata import east_asian_width

    def width(text: str) -> int:
        return len(text) if text.isascii() else sum(1 + (east_asian_width(letter) in "WF") for letter in text)

    lines = [columns, *rows]
    widths = [max(width(each[place]) for each in lines) for place in range(len(columns))]
    if title:
        print(title)
    for cells in lines:
        print("  ".join(cell + " " * (wide - width(cell)) for cell, wide in zip(cells, widths, strict=True)).rstrip())
    sys.stdout.flush()


def style(word: str) -> str:
    """Return the colour of a state."""
    return _STYLES.get(word, "")


_STYLES = {
    "ready": "green", "ok": "green", "complete": "green", "running": "green", "alert": "yellow", "warning": "yellow",
    "reconnecting": "yellow", "backoff": "yellow", "starting": "yellow",
    "lost": "red", "failed": "red", "fatal": "red", "exited": "red", "incomplete": "red", "disconnected": "dim",
}  # fmt: skip


def as_json(value: Any, *, indent: int | None = None) -> None:
    """Print one JSON document; without an indent it is one line."""
    print(json_text(value, indent=indent), flush=True)


def json_text(value: Any, *, indent: int | None = None) -> str:
    """Return JSON; what JSON cannot say is described: ``<int16 array 480x640>``, ``<12 bytes>``."""
    try:
        return json.dumps(value, ensure_ascii=False, indent=indent, default=_described, allow_nan=False)
    except ValueError:  # NaN and infinity are no JSON: null, as on the wire
        return json.dumps(_finite(value), ensure_ascii=False, indent=indent, default=_described)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _described(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        if value.shape == ():
            return value.item()
        return f"<{value.dtype} array {'x'.join(map(str, value.shape))}>"
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    return str(value)


def shown(value: object) -> str:
    """Return a cell's text: counts with separators, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return value if isinstance(value, str) else json_text(value)


def path(file: Path) -> str:
    """Return the path as a user here would type it: relative where it is below the working directory."""
    return str(file.relative_to(Path.cwd())) if file.is_relative_to(Path.cwd()) else str(file)


def elapsed(seconds: float) -> str:
    """Return ``00:12:31``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{rest:02}"
