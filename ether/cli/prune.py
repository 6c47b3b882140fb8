"""`ether prune`: clear what a broker retains of members that are gone."""

from __future__ import annotations

import threading
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ether.cli import output
from ether.cli.arguments import AsJson

__all__ = ["prune"]


def prune(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="A session's YAML: its broker and namespace.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list them.")] = False,
    json: AsJson = False,
) -> None:
    """Clear what a broker retains of members that are gone.

    Statuses and descriptions of those that were lost or said goodbye, or are silent for three times as long as they
    promised, and that no running session supervises. Takes some seconds, in which whoever lives says so. Without FILE
    at the broker of the running session, or at ETHER_BROKER.
    """
    from ether import ghosts
    from ether.config import Config
    from ether.guest import visit

    given: Any = file
    if file is None and output.settings.session:
        given = {"session": {"name": output.settings.session}}
    guest = visit(Config.load(given))
    try:
        client = guest.client
        found = ghosts.find(client, ghosts.known_to_session(client), threading.Event().wait)
        if not dry_run:
            ghosts.clear(client, found)
    finally:
        guest.close()
    if json:
        for ghost in found:
            output.as_json({**asdict(ghost), "cleared": not dry_run})
        return
    for ghost in found:
        where = f" (process {ghost.pid} on {ghost.host})" if ghost.pid else ""
        output.line(f"{ghost.name}{where}: {ghost.why}{'' if dry_run else '; cleared'}")
    if not found:
        output.note("nothing is retained of members that are gone")
