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
    """Print the single values, then the topics and the runs."""
    plain = {name: value for name, value in found.items() if name not in ("topics", "runs")}
    width = max(map(len, plain), default=0)
    for name, value in plain.items():
        output.line(
            f"{name:<{width}}  {', '.join(map(str, value)) if isinstance(value, list) else output.shown(value)}"
        )
    output.line("")
    output.table(
        ["TOPIC", "READINGS", "FIELDS"],
        [
            [topic, stream["readings"], ", ".join(f"{name} ({kind})" for name, kind in stream["fields"].items())]
            for topic, stream in found["topics"].items()
        ],
    )
    if found["runs"]:
        output.line("")
        output.table(
            ["RUN", "NAME", "OUTCOME"],
            [[run["number"], run["name"], run["outcome"] or "open"] for run in found["runs"]],
        )
