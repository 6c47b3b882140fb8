"""`ether run start|stop|list`: recordings inside the session."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from ether import clock
from ether.cli import output
from ether.cli.arguments import AsJson, pairs
from ether.cli.joined import joined
from ether.errors import RecordingError
from ether.model import Run

__all__ = ["app"]

app = typer.Typer(help="Start, stop and list runs.", no_args_is_help=True)


@app.command("start")
def start(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the run is called.")],
    metadata: Annotated[
        list[str] | None, typer.Argument(metavar="NAME=VALUE…", help="Metadata, such as sample=K12.")
    ] = None,
    trial: Annotated[bool, typer.Option("--trial", help="A trial of the current run.")] = False,
) -> None:
    """Start a run. It goes on until `ether run stop`."""
    given = pairs(metadata)
    with joined() as ether:
        (ether.start_trial if trial else ether.start_run)(name, **given)
    output.note(f"{name}: started")


@app.command("stop")
def stop(
    outcome: Annotated[str, typer.Option("--outcome", help="How it went.")] = "success",
) -> None:
    """Stop the current run."""
    with joined() as ether:
        ether.stop_run(outcome=outcome)
    output.note(f"stopped: {outcome}")


@app.command("list")
def list_runs(json: AsJson = False) -> None:
    """List the session's runs."""
    with joined() as ether:
        found = _runs(ether)
    if json:
        for run in found:
            output.as_json(dataclasses.asdict(run))
        return
    output.table(
        ["NUMBER", "NAME", "STARTED", "STOPPED", "OUTCOME", "METADATA"],
        [
            [
                max(run.number, 0) or "",  # whoever is no client of ours gives none
                ("  " if run.parent else "") + run.name,
                clock.text(run.started),
                clock.text(run.stopped) if run.stopped else "",
                run.outcome or ("ended" if run.stopped else "running"),
                " ".join(f"{name}={output.shown(value)}" for name, value in run.metadata.items()),
            ]
            for run in found
        ],
    )


def _runs(ether: Any) -> list[Run]:
    """Return the runs of the recording so far, as this machine can read it, and the current one."""
    from ether.client import read_run

    info = ether.info()
    found: dict[str, Run] = {}
    if info["recording"] and Path(info["recording"]).exists():
        try:
            with ether.open(info["recording"]) as recording:
                found = {run.id: run for run in recording.runs}
        except RecordingError:
            pass  # the recorder has only just begun it
    if current := info.get("run"):
        run = read_run(current)
        found.setdefault(run.id, run)
    return list(found.values())
