"""`ether verify FILE`: prove that nothing is missing, or say what is."""

from __future__ import annotations

from typing import Any

from ether.cli import output
from ether.cli.arguments import AsJson, RecordingFile

__all__ = ["GUARANTEE_BROKEN", "verify"]

GUARANTEE_BROKEN = 5


def verify(file: RecordingFile, json: AsJson = False) -> int:
    """Prove that a recording is complete.

    By the publishers' own numbers. Exit 5, and what is missing, if it is not.
    """
    from ether.recorder.verify import verify as verified

    report = verified(file)
    found = report.as_dict()
    if json:
        output.as_json(found, indent=2)
    else:
        _show(found)
        output.line(f"{file}: {'complete' if report.complete else 'INCOMPLETE'}")
    return 0 if report.complete else GUARANTEE_BROKEN


def _show(found: dict[str, Any]) -> None:
    for name, rows in found.items():
        if isinstance(rows, list) and rows and isinstance(rows[0], dict):
            columns = list(dict.fromkeys(key for row in rows for key in row))
            output.table(
                [column.upper() for column in columns], [[_cell(row.get(key)) for key in columns] for row in rows]
            )
        elif isinstance(rows, list):
            for row in rows:
                output.line(f"{name}: {row}")


def _cell(value: object) -> object:
    if isinstance(value, list):  # holes: [[4, 4], [7, 9]] -> 4 7-9
        return " ".join(
            f"{hole[0]}" if hole[0] == hole[-1] else f"{hole[0]}-{hole[-1]}" if isinstance(hole, list) else str(hole)
            for hole in value
        )
    return value
