"""`ether demo`: the quick start, recorded and verified, in one command."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Annotated, Any

import typer

from ether.cli import hosting, output
from ether.cli.arguments import seconds
from ether.cli.verify import verdict

__all__ = ["demo"]

_CLASSES = "ether.cli.demo_pipeline"


def demo(
    span: Annotated[str, typer.Option("--for", metavar="DURATION", help="How long it runs.")] = "3s",
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Where the recording goes; default a new folder ether-demo.")
    ] = None,
) -> int:
    """See it work: four processes, recorded and verified.

    A generator, two processors and a collector run for a few seconds; the recording is then proved complete.
    """
    from ether.config import Config

    limit = seconds(span)
    place = folder if folder is not None else _fresh_folder()
    config = Config.load(
        {
            "session": {"name": "demo", "data": str(place)},
            "instances": {
                "generator": {"class_path": f"{_CLASSES}.Generator"},
                "doubler": {"class_path": f"{_CLASSES}.Processor", "kwargs": {"factor": 2}},
                "tripler": {"class_path": f"{_CLASSES}.Processor", "kwargs": {"factor": 3}},
                "collector": {"class_path": f"{_CLASSES}.Collector"},
            },
        },
        [f"session.data={output.json_text(str(place))}"],  # the demo is about this folder, whatever ETHER_DATA says
    )
    output.note("Four processes, each one plain Python class, and a broker between them:")
    output.note("  generator -> doubler, tripler -> collector")
    summed: dict[str, Any] = {}
    outcome = hosting.host(config, limit, lambda ether: summed.update(ether.get("collector", "summary")))
    _tell(outcome, summed)
    return outcome.exit_code


def _fresh_folder() -> Path:
    return next(
        path
        for number in count(1)
        if not (path := Path("ether-demo" if number == 1 else f"ether-demo-{number}")).exists()
    )


def _tell(outcome: hosting.Outcome, summed: dict[str, Any]) -> None:
    file = None if outcome.recording is None else output.path(outcome.recording)
    output.note("")
    output.note(f"The generator published {outcome.published('generator') or 0:,} numbers, twenty a second.")
    for factor, found in summed.items():
        name = {"2": "doubler", "3": "tripler"}.get(factor, factor)
        output.note(
            f"The collector, asked near the end, had {found['count']:,} products of the {name}: sum {found['sum']:,}."
        )
    for problem in outcome.problems:
        output.complain(problem)
    if outcome.report is not None and outcome.report.complete:
        count = outcome.report.messages
        output.note(f"All {count:,} messages are in the recording: proved by the publishers' own numbers.")
    elif outcome.report is not None:
        output.complain(f"{verdict(outcome.report)}; `ether verify {file}` tells what")
    output.line(f"recorded: {file}")
    output.note("")
    output.note("Try next:")
    output.note(f"  ether info {file}")
    output.note(f"  ether verify {file}")
    output.note("  ether init lab && ether up lab/session.yaml     your own session to start from")
