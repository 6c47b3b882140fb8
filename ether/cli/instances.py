"""`ether start|stop|restart NAME…`: single instances of a session that goes on."""

from __future__ import annotations

from typing import Annotated

import typer

from ether.cli import output
from ether.cli.arguments import seconds
from ether.cli.joined import joined

__all__ = ["restart", "start", "stop"]

Names = Annotated[list[str], typer.Argument(metavar="NAME…", help="Instances, as `ether ps` names them.")]
Timeout = Annotated[str, typer.Option("--timeout", metavar="DURATION", help="How long to wait.")]


def start(names: Names, timeout: Timeout = "1min") -> None:
    """Start instances that do not run: stopped, ended, or declared with `autorun: false`.

    Returns when they are ready.
    """
    limit = seconds(timeout, "--timeout") or 0.0
    with joined() as ether:
        ether.launch(*names, timeout=limit)
    for name in names:
        output.note(f"{name}: ready")


def stop(
    names: Names,
    safe: Annotated[
        bool,
        typer.Option("--safe", help="Run their @ether_safe hooks, or have a new object of the class do it."),
    ] = False,
    timeout: Timeout = "1min",
) -> int:
    """Stop instances in order; the session goes on.

    They stay stopped, whatever their restart policy, until `ether start` or `ether restart`. Exit 1 where one had to be
    killed.
    """
    limit = seconds(timeout, "--timeout") or 0.0
    with joined() as ether:
        return _tell(ether.stop(*names, safe=safe, timeout=limit))


def restart(names: Names, timeout: Timeout = "1min") -> int:
    """Stop instances in order and start them anew.

    Returns when they are ready again. Those that do not run are started.
    """
    limit = seconds(timeout, "--timeout") or 0.0
    with joined() as ether:
        return _tell(ether.restart(*names, timeout=limit))


def _tell(found: dict[str, str]) -> int:
    for name, ending in found.items():
        output.note(f"{name}: {ending}")
    return 1 if any(ending.startswith("did not") for ending in found.values()) else 0
