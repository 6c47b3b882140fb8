"""`ether annotate TEXT`: a remark in the recording."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from ether.cli import output
from ether.cli.arguments import pairs
from ether.cli.joined import joined

__all__ = ["annotate"]


def annotate(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What happened.")],
    tags: Annotated[list[str] | None, typer.Option("--tag", "-t", help="A tag. Repeatable.")] = None,
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="When: 11:28, 2026-01-16T11:28; default now.")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="End of an interval.")] = None,
    values: Annotated[
        list[str] | None, typer.Option("--value", metavar="NAME=VALUE", help="A value to keep with it. Repeatable.")
    ] = None,
) -> None:
    """Put a remark into the running recording."""
    start, end = _time(at, "--at"), _time(until, "--until")
    given = pairs(values)
    with joined() as ether:
        ether.annotate(text, at=start, until=end, tags=tuple(tags or ()), values=given or None)
    output.note("noted")


def _time(text: str | None, option: str) -> float | None:
    """Return Unix seconds of an ISO time, local unless it names a zone; a bare time of day is today's."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        try:
            today = datetime.now().date()
            moment = datetime.fromisoformat(f"{today.isoformat()}T{text}")
        except ValueError:
            raise typer.BadParameter(
                f"{text!r} is no time; write 11:28 or 2026-01-16T11:28:42", param_hint=option
            ) from None
    return moment.timestamp()
