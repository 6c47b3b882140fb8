"""`ether replay FILE`: a recording's data again, in the running session."""

from __future__ import annotations

import math
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ether.cli import output
from ether.cli.arguments import AsJson, RecordingFile, moment, seconds
from ether.cli.joined import joined

if TYPE_CHECKING:
    from ether.replay import Replayed

__all__ = ["replay"]

INTERRUPTED = 130


def replay(
    file: RecordingFile,
    speed: Annotated[
        str, typer.Option("--speed", metavar="FACTOR", help="How many times as fast; max for all at once.")
    ] = "1",
    loop: Annotated[bool, typer.Option("--loop", help="Begin again at the end, until Ctrl-C.")] = False,
    topics: Annotated[
        list[str] | None, typer.Option("--topic", metavar="FILTER", help="Only these. Repeatable.")
    ] = None,
    run: Annotated[str | None, typer.Option("--run", metavar="NAME", help="Only during this run.")] = None,
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="TIME", help="11:28 of its first day, a date and time, or 90s from its begin."),
    ] = None,
    end: Annotated[str | None, typer.Option("--until", metavar="TIME", help="As --from; not included.")] = None,
    replace: Annotated[
        list[str] | None,
        typer.Option("--replace", metavar="NAME", help="Leave out what this live instance publishes now. Repeatable."),
    ] = None,
    diff: Annotated[
        bool, typer.Option("--diff", help="Compare what live instances publish with what was recorded.")
    ] = False,
    tolerance: Annotated[float, typer.Option("--tolerance", min=0.0, help="For floats in --diff.")] = 1e-9,
    ignore: Annotated[
        list[str] | None, typer.Option("--ignore", metavar="FIELD", help="Not compared in --diff. Repeatable.")
    ] = None,
    settle: Annotated[
        str, typer.Option("--settle", metavar="DURATION", help="Silence after which --diff takes the rest for missing.")
    ] = "5s",
    json: AsJson = False,
) -> int:
    """Publish a recording's data again in the running session, marked as replayed.

    With --diff it exits with 1 where live instances no longer publish what was recorded.
    """
    from ether.recorder.reader import open_recording

    factor = _factor(speed)
    if loop and diff:
        raise typer.BadParameter("a replay that loops has no end at which to compare", param_hint="--diff")
    with open_recording(file) as recording:
        begin = recording.span_ns[0] / 1e9
    since, until = moment(start, "--from", begin), moment(end, "--until", begin)
    with joined() as ether, _stopped_by_ctrl_c() as stop, _bar(file, json) as progress:
        done = ether.replay(
            file, speed=factor, loop=loop, topics=topics or (), run=run, start=since, end=until, replace=replace or (),
            diff=diff, tolerance=tolerance, ignore=ignore or (), settle=seconds(settle, "--settle"), stop=stop,
            progress=progress,
        )  # fmt: skip
    if json:
        output.as_json({**_plain(done), "same": done.same if done.differences is not None else None}, indent=2)
    else:
        _tell(done)
    if diff and done.interrupted:
        output.complain("interrupted: nothing was compared")
        return INTERRUPTED
    return 0 if done.same else 1


def _factor(text: str) -> float:
    if text == "max":
        return math.inf
    try:
        factor = float(text.removesuffix("x"))
    except ValueError:
        factor = 0.0
    if not 0 < factor < math.inf:
        raise typer.BadParameter(f"{text!r}: write a number above 0, such as 10, or max", param_hint="--speed")
    return factor


@contextmanager
def _stopped_by_ctrl_c() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C (or SIGTERM) sets; the second one is as usual."""
    stop = threading.Event()
    before: dict[int, Any] = {}

    def asked(number: int, _frame: object) -> None:
        stop.set()
        signal.signal(number, before[number])

    for number in (int(signal.SIGINT), int(signal.SIGTERM)):
        before[number] = signal.signal(number, asked)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _bar(file: Path, json: bool) -> Iterator[Callable[[float, float], None]]:
    """Show a bar on a terminal, and nothing elsewhere."""
    if json or output.settings.quiet or not sys.stderr.isatty():
        yield lambda done_s, total_s: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %"), TimeElapsedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=output.console(stderr=True), transient=True) as bar:
        task = bar.add_task(file.name, total=None)
        yield lambda done_s, total_s: bar.update(task, completed=done_s, total=total_s or None)


def _plain(done: Replayed) -> dict[str, Any]:
    import dataclasses

    return dataclasses.asdict(done)


def _tell(done: Replayed) -> None:
    told = f"replayed {done.messages:,} messages in {done.duration_s:.1f} s"
    if done.left_out:
        told += f", left out {done.left_out:,} that live instances replace"
    if done.unreadable:
        told += f", left out {done.unreadable:,} that cannot be read"
    if done.late:
        told += f"; {done.late:,} were late, by {done.most_late_s:.3f} s at most"
    if done.interrupted:
        told += "; interrupted"
    output.line(told)
    if done.differences is None:
        return
    output.table(
        ["TOPIC", "PUBLISHER", "RECORDED", "NOW", "EQUAL", "DIFFERING", "MISSING", "EXTRA", "FIRST DIFFERENCE"],
        [
            [
                each.topic, each.publisher, each.recorded, each.now, each.equal, each.differing, each.missing,
                each.extra, each.first,
            ]
            for each in done.differences
        ],
    )  # fmt: skip
    output.line("same" if done.same else "different")
