"""`ether export FILE --to FORMAT`: readings for other programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ether.cli import output
from ether.cli.arguments import During, From, RecordingFile, Until, choosing, moment

__all__ = ["export"]


class Format(StrEnum):
    """What can be written."""

    CSV = "csv"
    PARQUET = "parquet"
    NETCDF = "netcdf"
    MCAP = "mcap"
    XLSX = "xlsx"


def export(
    file: RecordingFile,
    to: Annotated[Format, typer.Option("--to", help="The format.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="PATH", help="What to write; default beside the recording.")
    ] = None,
    topics: Annotated[
        list[str] | None, typer.Option("--topic", metavar="FILTER", help="Only these. Repeatable.")
    ] = None,
    run: During = None,
    start: From = None,
    end: Until = None,
) -> None:
    """Write readings for other programs.

    CSV and Parquet become a folder with a file for each topic, the others one file. Nothing is overwritten.
    """
    from ether.recorder.reader import open_recording

    with open_recording(file) as recording, choosing(file):
        begin = recording.span_ns[0] / 1e9
        since, until = moment(start, "--from", begin), moment(end, "--until", begin)
        with _bar(f"{file.name} to {to}") as progress:
            written = recording.export(
                to, out, topics=topics or (), run=run, start=since, end=until, progress=progress
            )  # fmt: skip
    output.line(output.path(written.absolute()))


@contextmanager
def _bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on a terminal."""
    from rich.progress import Progress

    console = output.console(stderr=True)
    with Progress(console=console, transient=True, disable=output.settings.quiet or not console.is_terminal) as bar:
        task = bar.add_task(title)
        yield lambda done, total: bar.update(task, completed=done, total=total)
