"""`ether up FILE`: run a session."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ether import process
from ether.cli import hosting, output
from ether.cli.arguments import ConfigFile, For, Overrides, seconds
from ether.cli.joined import find_classes_from

if TYPE_CHECKING:
    from ether.config import Config

__all__ = ["up"]

_OUTPUT_BYTES = 1_000_000
"""With more in it a new file is begun for what a detached session says itself."""


def up(
    file: ConfigFile,
    overrides: Overrides = None,
    span: For = None,
    preflight: Annotated[
        str | None,
        typer.Option(
            "--preflight", metavar="DURATION", help="End at once unless all of `expect:` comes within that time."
        ),
    ] = None,
    join: Annotated[
        bool, typer.Option("--join", help="Take part in the session of that name; never begin one.")
    ] = False,
    reload: Annotated[
        bool, typer.Option("--reload", help="Start an instance again when source that it imports is edited.")
    ] = False,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return once it is ready; `ether down` ends it.")
    ] = False,
) -> int:
    """Run a session until Ctrl-C.

    It then finishes what was delivered, closes the recording, and is summarised. A second Ctrl-C ends it at once.
    """
    from ether.config import Config

    limit = seconds(span)
    find_classes_from(file)
    overrides = [*(overrides or ()), *(["session.reload=true"] if reload else ())]
    config = Config.load(file, overrides)
    if detach:
        words = [word for override in overrides for word in ("--set", override)]
        return _detach(
            config,
            [
                str(file),
                *words,
                *(("--for", span) if span else ()),
                *(("--preflight", preflight) if preflight else ()),
                *(("--join",) if join else ()),
            ],
        )
    outcome = hosting.host(config, limit, preflight=seconds(preflight, "--preflight"), join=join)
    hosting.tell(outcome)
    return outcome.exit_code


def _detach(config: Config, arguments: list[str]) -> int:
    """Start the same command as a process of its own, and return once it says that it is ready."""
    from ether.storage import make_folder

    folder = Path(config.session.data)
    make_folder(folder)
    log = folder / f"{config.session.name}.log"
    if log.exists() and log.stat().st_size > _OUTPUT_BYTES:
        log.replace(log.with_suffix(".log.1"))
    command = [sys.executable, "-m", "ether.cli", "up", *arguments]
    with log.open("ab") as file:
        begin = file.tell()
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, process.DETACHED: "1"},
        )  # fmt: skip
    while True:
        said = log.read_bytes()[begin:].decode(errors="replace")
        if f"\n{hosting.READY}" in f"\n{said}":
            name = config.session.name
            output.note(f"{name}: runs as process {child.pid}; `ether logs -f` shows its log, `ether down` ends it")
            child.returncode = 0  # it outlives us on purpose: nothing to wait for, and no warning about it
            return 0
        try:
            code = child.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
        sys.stderr.write(log.read_bytes()[begin:].decode(errors="replace"))
        return code or 1
