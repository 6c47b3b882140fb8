"""`ether annotate [FILE] TEXT`: a remark in the running recording, or beside a finished one."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from ether import clock
from ether.cli import output
from ether.cli.arguments import moment, pairs
from ether.cli.joined import joined

__all__ = ["annotate"]


def annotate(
    words: Annotated[
        list[str], typer.Argument(metavar="[FILE] TEXT", help="What happened; after the file of a finished recording.")
    ],
    tags: Annotated[list[str] | None, typer.Option("--tag", "-t", help="A tag. Repeatable.")] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME", help="11:28, 2026-01-16T11:28; default now; of a file, all of it."),
    ] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="End of an interval.")] = None,
    values: Annotated[
        list[str] | None, typer.Option("--value", metavar="NAME=VALUE", help="A value to keep with it. Repeatable.")
    ] = None,
    by: Annotated[str | None, typer.Option("--by", help="Who says it, of a file; default the user.")] = None,
) -> None:
    """Put a remark into the running recording, or beside a finished one.

    With FILE it is appended to the revisions of a finished recording, whose file stays as it was sealed. Times are then
    of the day on which it began, or as long after its begin: 11:28, 90s.
    """
    if len(words) > 2:
        raise typer.BadParameter("write `ether annotate TEXT` or `ether annotate FILE TEXT`; quote a text with spaces")
    given = pairs(values)
    if len(words) == 2:
        _afterwards(Path(words[0]), words[1], tags or [], at, until, given, by)
        return
    if words[0].endswith(".h5") and Path(words[0]).exists():
        raise typer.BadParameter(f"what is to be said of {words[0]}? Write `ether annotate FILE TEXT`")
    if by is not None:
        raise typer.BadParameter("is for a finished recording", param_hint="--by")
    start, end = _time(at, "--at"), _time(until, "--until")
    if end is not None and end < (clock.now() if start is None else start):
        raise typer.BadParameter("the interval ends before it begins")
    with joined() as ether:
        stored = ether.annotate(words[0], at=start, until=end, tags=tuple(tags or ()), values=given or None)
    output.note("stored" if stored else "sent; nobody records, so it is kept nowhere")


def _afterwards(
    file: Path, text: str, tags: list[str], at: str | None, until: str | None, values: dict[str, object], by: str | None
) -> None:
    from ether.recorder.reader import open_recording

    with open_recording(file) as recording:
        begin = recording.span_ns[0] / 1e9
        start, end = moment(at, "--at", begin), moment(until, "--until", begin)
        try:
            revision = recording.annotate(text, at=start, until=end, tags=tags, values=values, by=by)
        except (TypeError, ValueError) as exc:
            from ether.errors import EtherError

            if isinstance(exc, EtherError):
                raise
            raise typer.BadParameter(str(exc)) from exc
    output.note(f"revision {revision.number} of {file.name}, sha256 {revision.sha256}")


def _time(text: str | None, option: str) -> float | None:
    """Return Unix seconds of an ISO time, local unless it names a zone; a bare time of day is today's."""
    if text is None:
        return None
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        try:
            today = datetime.now().date()
            when = datetime.fromisoformat(f"{today.isoformat()}T{text}")
        except ValueError:
            raise typer.BadParameter(
                f"{text!r} is no time; write 11:28 or 2026-01-16T11:28:42", param_hint=option
            ) from None
    return when.timestamp()
