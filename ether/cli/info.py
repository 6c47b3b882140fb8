"""`ether info FILE`: what is in a recording."""

from __future__ import annotations

from typing import Any

from ether.cli import output
from ether.cli.arguments import AsJson, RecordingFile

__all__ = ["info"]


def info(file: RecordingFile, json: AsJson = False) -> None:
    """Show what is in a recording."""
    from ether import ether

    with ether.open(file) as recording:
        found = recording.info()
    if json:
        output.as_json(found, indent=2)
    else:
        _show(found)


def _show(found: dict[str, Any]) -> None:
    """Print single values first, then a table for each list of mappings."""
    flat = dict(_flat(found))
    width = max(map(len, flat), default=0)
    for name, value in flat.items():
        output.line(f"{name:<{width}}  {output.shown(value)}")
    for name, value in found.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            columns = list(dict.fromkeys(key for row in value for key in row))
            output.line("")
            output.table(
                [column.upper() for column in columns], [[row.get(key) for key in columns] for row in value], title=name
            )


def _flat(found: dict[str, Any], before: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in found.items():
        if isinstance(value, dict):
            flat += _flat(value, f"{before}{name}.")
        elif not (isinstance(value, list) and (not value or isinstance(value[0], dict))):
            flat.append((f"{before}{name}", value))
    return flat
