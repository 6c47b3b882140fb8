"""`ether recover PATH`: make recordings of what a session that was killed left behind."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ether.cli import output
from ether.cli.arguments import AsJson
from ether.errors import EtherError, JournalError, RecordingError

if TYPE_CHECKING:
    from ether.recorder.recovery import Recovered

__all__ = ["recover"]


def recover(
    path: Annotated[Path, typer.Argument(metavar="FILE|FOLDER", help="A recording; or a folder, for all in it.")],
    json: AsJson = False,
) -> int:
    """Make recordings of what a session that was killed left behind.

    From its journal, and from the outboxes of publishers that were killed. A sealed file stays as it is: what it lacks
    becomes a recording beside it. May be interrupted at any point, and run again.
    """
    from ether.recorder import recovery

    if not path.is_dir():
        try:
            _show(recovery.recover(path), json)
        except RecordingError as exc:
            if exc.__cause__ is None:
                raise
            _failed(exc)
            os._exit(exc.exit_code)  # HDF5 crashes interpreters that exit with what a full disk did not take
        return 0
    code = 0
    recordings = recovery.unfinished(path)
    for recording in recordings:
        try:
            _show(recovery.recover(recording), json)
        except JournalError as exc:
            if exc.errno != errno.EAGAIN:
                code = _failed(exc)
            else:
                output.note(f"{output.path(recording)} is being recorded")
        except EtherError as exc:
            code = _failed(exc)
    if not recordings:
        output.note(f"{path}: nothing is left to recover")
    return code


def _failed(exc: EtherError) -> int:
    output.complain(str(exc))
    return exc.exit_code


def _show(found: Recovered, json: bool) -> None:
    if not found.made and not found.recording.exists():
        raise RecordingError(f"{found.recording}: no such file, and no journal of it")
    if json:
        output.as_json(found.as_dict())
    elif not found.made:
        output.line(f"{output.path(found.recording)}: nothing is left to recover")
    else:
        left = f", {found.from_outboxes:,} readings left by publishers that were killed" if found.from_outboxes else ""
        output.line(f"{output.path(found.recording)}: recovered, {found.messages:,} messages{left}")
