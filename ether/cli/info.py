"""`ether info FILE`: what is in a recording, or how two of them differ in how they came to be."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ether.cli import output
from ether.cli.arguments import AsJson, RecordingFile

__all__ = ["info"]


def info(
    file: RecordingFile,
    other: Annotated[Path | None, typer.Argument(metavar="[OTHER]", help="With --diff: the later one.")] = None,
    diff: Annotated[
        bool, typer.Option("--diff", help="Compare configuration, code, versions and machine with OTHER.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Show what is in a recording, or with --diff what changed between two: configuration, code, versions."""
    from ether import ether

    if diff != (other is not None):
        raise typer.BadParameter("compares two recordings: `ether info --diff A B`", param_hint="--diff")
    if other is not None:
        from ether.recorder.provenance import compare

        with ether.open(file) as old, ether.open(other) as new:
            changes = compare(old, new)
        if json:
            output.as_json(changes, indent=2)
        else:
            _show_changes(changes, file, other)
        return
    with ether.open(file) as recording:
        found = recording.info()
    if json:
        output.as_json(found, indent=2)
    else:
        _show(found)


def _show_changes(changes: dict[str, Any], old: Path, new: Path) -> None:
    """Print values that differ as ``name: old → new``, and texts as unified diffs."""
    if not changes:
        output.line(f"{old} and {new}: same configuration, code, versions and machine")
    for title, found in changes.items():
        if title == "instances":
            for name, facts in found.items():
                output.line(f"instance {name}")
                for fact, values in facts.items():
                    _show_change(fact, values)
        else:
            output.line(title)
            if isinstance(found, list):
                _show_change("", found)
            else:
                for name, values in found.items():
                    _show_change(name, values)


def _show_change(name: str, change: Any) -> None:
    if isinstance(change, dict):
        for key, values in change.items():
            _show_change(f"{name} {key}", values)
    elif name in ("", "code"):
        for line in change:
            output.line(f"  {line}")
    else:
        before, after = ("nothing" if value is None else output.shown(value) for value in change)
        output.line(f"  {name}: {before} → {after}")


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
            [
                [max(run["number"], 0) or "", run["name"], run["outcome"] or ("ended" if run["stopped"] else "open")]
                for run in found["runs"]
            ],
        )
